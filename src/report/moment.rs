//! A run as it is at one moment: the value from which metrics, the status and the judgement of its health follow.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::host::counters::Counts;
use crate::host::process::Process;
use crate::host::space::Disk;
use crate::mirror::inventory::{Difference, Inventory};
use crate::mirror::session_key::SessionKey;
use crate::mirror::truncation::Route;
use crate::pipeline::answers::SessionCounts;
use crate::pipeline::change::Known;
use crate::pipeline::glance::Glance;

/// What does not change during a run.
#[derive(Clone, Debug)]
pub struct AboutRun {
    /// Number of the process.
    pub pid: u32,
    /// When the run began, nanoseconds since 1970.
    pub began_ns: u64,
    /// Addresses that are received on.
    pub addresses: Vec<String>,
    /// How packets are taken from the kernel, for people.
    pub backend: String,
    /// The word for packets that the kernel had no room for.
    pub kernel_reason: &'static str,
    /// Most flows kept at a time; `None` where nobody takes flow records.
    pub max_flows: Option<u32>,
    /// What is known of any way from a mirror source before a packet came.
    pub route: Route,
    /// What is known of mirror sessions, which may change.
    pub known: Known,
}

/// A run at one moment.
#[derive(Debug)]
pub struct Moment {
    /// What does not change.
    pub about: Arc<AboutRun>,
    /// What is known of mirror sessions.
    pub inventory: Arc<Inventory>,
    /// Nanoseconds since 1970.
    pub at_ns: u64,
    /// Seconds since any fixed moment; the clock may be set, this goes on.
    pub seconds: f64,
    /// It was told to end: its threads end one after the other.
    pub is_ending: bool,
    /// When all threads answered last, nanoseconds since 1970; 0 before the first time.
    pub answered_ns: u64,
    /// What was counted.
    pub glance: Glance,
    /// The kernel's own counters that moved during the run.
    pub kernel_counters: Counts,
    /// File systems that results go to.
    pub disks: Vec<Disk>,
    /// This process; `None` where the system does not tell.
    pub process: Option<Process>,
    /// Connections to the HTTP listener that were closed because there were too many.
    pub http_refused: u64,
}

impl Moment {
    /// What `--expect` lists and what was seen, where there is a list.
    pub fn expected(&self) -> Option<Difference> {
        let seen = self.glance.sessions.iter();
        let seen = seen.filter(|session| session.packets > 0);
        let seen = seen.map(|session| (session.key, session.last_ns));
        self.inventory.compare(seen, self.at_ns)
    }

    /// What the kernel lost and what was lost here, each by reason, zeros too.
    pub fn lost(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let [_, _, (_, dropped), _] = self.glance.ledger.counters();
        let kernel = (self.about.kernel_reason, self.glance.lost_before);
        std::iter::once(kernel).chain(dropped)
    }
}

/// Mirror sessions that are shown one by one, and all others together.
#[derive(Debug)]
pub struct Shown<'a> {
    /// One by one.
    pub sessions: Vec<&'a SessionCounts>,
    /// The others together; `None` where there are none.
    pub others: Option<SessionCounts>,
    /// How many those are: the entry in which workers count what finds no room in their table is one.
    pub number_of_others: usize,
}

impl<'a> Shown<'a> {
    /// The sessions that `is_shown` names, in the order of `sessions`.
    pub fn choose(
        sessions: &'a [SessionCounts],
        is_shown: impl Fn(&SessionCounts) -> bool,
    ) -> Self {
        let mut shown = Self {
            sessions: Vec::new(),
            others: None,
            number_of_others: 0,
        };
        for session in sessions {
            if session.key != SessionKey::Other && is_shown(session) {
                shown.sessions.push(session);
                continue;
            }
            shown.number_of_others += 1;
            let others = shown.others.take();
            let mut others = others.unwrap_or(SessionCounts::none(SessionKey::Other));
            others.add(session);
            shown.others = Some(others);
        }
        shown
    }

    /// The `most` sessions with the most packets, those first; of equal ones those that come first in `sessions`.
    pub fn busiest(sessions: &'a [SessionCounts], most: usize) -> Self {
        let order = |session: &SessionCounts| (Reverse(session.packets), session.key);
        let of_one = sessions
            .iter()
            .filter(|session| session.key != SessionKey::Other);
        let mut orders: Vec<_> = of_one.map(order).collect();
        orders.sort_unstable();
        // The first that is left out.
        let end = orders.get(most).copied();
        let mut shown = Self::choose(sessions, |session| {
            end.is_none_or(|end| order(session) < end)
        });
        shown.sessions.sort_by_key(|session| order(session));
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Vni;

    fn sessions(packets: &[u64]) -> Vec<SessionCounts> {
        let session = |(vni, packets): (u32, &u64)| SessionCounts {
            packets: *packets,
            ..SessionCounts::none(SessionKey::Mirror {
                source: [10, 0, 0, 1].into(),
                vni: Vni::new(vni).unwrap(),
            })
        };
        (1..).zip(packets).map(session).collect()
    }

    #[test]
    fn the_busiest_come_first_and_the_others_together() {
        let mut all = sessions(&[3, 9, 1, 5, 5]);
        all.push(SessionCounts {
            packets: 100,
            ..SessionCounts::none(SessionKey::Other)
        });
        let packets = |shown: &Shown<'_>| -> Vec<u64> {
            shown
                .sessions
                .iter()
                .map(|session| session.packets)
                .collect()
        };
        let shown = Shown::busiest(&all, 2);
        assert_eq!(packets(&shown), [9, 5], "of two that are equal the first");
        assert_eq!(shown.sessions.last().unwrap().key, all[3].key);
        assert_eq!(shown.number_of_others, 4);
        assert_eq!(
            shown.others.map(|others| others.packets),
            Some(3 + 1 + 5 + 100)
        );
        let shown = Shown::busiest(&all, 6);
        assert_eq!(packets(&shown), [9, 5, 5, 3, 1]);
        assert_eq!(shown.others.map(|others| others.packets), Some(100));
        let all = sessions(&[1]);
        assert!(Shown::busiest(&all, 6).others.is_none());
    }
}
