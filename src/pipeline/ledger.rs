//! The accounting: every packet received is in exactly one counter.
//!
//! received = delivered + malformed + filtered + duplicate + dropped. *Delivered* means decapsulated, judged and
//! handed to the sinks; each sink has an account of its own ([`super::account::Account`]). What the kernel lost
//! before we received it stands beside the equation, not in it.

use std::collections::BTreeMap;

use crate::mirror::ether_types::EtherTypes;
use crate::wire::refusal::{Filtered, Malformed, Refusal, reasons};

reasons! {
    /// The packet was wanted, but there was no room or no way.
    Dropped {
        /// A piece of an outer datagram whose first piece never came: nobody knows whether it was mirrored
        /// traffic.
        FragmentIncomplete => "fragment_incomplete",
        /// It had arrived when the run was told to end, and could not be worked on within 5 s.
        Stopped => "stopped",
    }
}

reasons! {
    /// Worth knowing of packets that were delivered; outside the equation.
    Noted {
        /// Reserved bits of the tunnel header were set.
        ReservedBits => "reserved_bits",
        /// Outer lengths contradicted each other.
        OuterLengthMismatch => "outer_length_mismatch",
        /// A packet that holds several tunnel datagrams, put together on the machine that captured it (UDP GSO or
        /// GRO): taken apart, and each datagram is counted as received.
        OuterTrain => "outer_train",
        /// Datagrams behind those of such a packet that the capture did not store: they are in no counter.
        OuterTrainCut => "outer_train_cut",
        /// A packet that seems to hold several tunnel datagrams, but nothing proves where each begins: taken as
        /// one.
        OuterTrainUnproven => "outer_train_unproven",
        /// Cut: it came in outer fragments, of which the later ones never came. It stands behind later
        /// packets, since they were waited for.
        FragmentsMissing => "fragments_missing",
        /// A copy of a packet that came before, from another mirror session or twice from one.
        Duplicate => "duplicate",
        /// Forgotten before --dedup-window was over, because so many others came: later copies of it are not
        /// known as such.
        DuplicateWindow => "duplicate_window",
        /// The inner frame has a VLAN tag.
        InnerVlan => "inner_vlan",
        /// The inner frame holds no IP header: it is in the capture, in no flow.
        InnerNotIp => "inner_not_ip",
        /// The tunnel carried an IP packet without a frame; an Ethernet header was put in front.
        EthernetAdded => "ethernet_added",
        /// What it names (DNS query, TLS server, HTTP host) is in no flow record: names of other flows took all the
        /// memory that there is for them.
        AppNamesFull => "app_names_full",
        /// Its time is outside of what the capture read (1970 to 2554) or written (pcap: to 2106) can tell:
        /// the nearest was taken.
        TimeClamped => "time_clamped",
        /// The frame was longer than the capture's snap length and was cut by us.
        SnapLength => "snap_length",
        /// What stood behind the frame's headers was left out of the capture, as --slice asks.
        Sliced => "sliced",
        /// Written behind later packets: its worker was not heard of for longer than --max-reorder.
        Late => "late",
        /// Written behind later packets: the clock was set back, the kernel handed packets over out of order, the
        /// input of a replay has them so, or their missing fragments were waited for.
        OutOfOrder => "out_of_order",
    }
}

/// Counts of one worker, or of all together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Packets a source handed over.
    pub received: u64,
    /// Mirrored frames that were decapsulated, judged and handed to the sinks.
    pub delivered: u64,
    /// Copies of packets that came before, where these are dropped.
    pub duplicate: u64,
    malformed: [u64; Malformed::ALL.len()],
    filtered: [u64; Filtered::ALL.len()],
    dropped: [u64; Dropped::ALL.len()],
    noted: [u64; Noted::ALL.len()],
    /// What frames without an inner IP header hold.
    not_ip: EtherTypes,
}

fn add_at(counts: &mut [u64], at: usize, n: u64) {
    if let Some(count) = counts.get_mut(at) {
        *count += n;
    }
}

/// What the counter of that name means; `None` where there is none.
pub fn meaning(reason: &str) -> Option<&'static str> {
    fn of<R: Copy>(
        reasons: &[R],
        asked: &str,
        word: impl Fn(R) -> &'static str,
        meaning: impl Fn(R) -> &'static str,
    ) -> Option<&'static str> {
        let found = reasons.iter().find(|reason| word(**reason) == asked)?;
        Some(meaning(*found))
    }
    of(
        Malformed::ALL,
        reason,
        Malformed::reason,
        Malformed::meaning,
    )
    .or_else(|| of(Filtered::ALL, reason, Filtered::reason, Filtered::meaning))
    .or_else(|| of(Dropped::ALL, reason, Dropped::reason, Dropped::meaning))
    .or_else(|| of(Noted::ALL, reason, Noted::reason, Noted::meaning))
}

/// Every counter of one kind, zeros included, by reason.
pub type Counters = Vec<(&'static str, u64)>;

/// A counter as people read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Its name.
    pub reason: &'static str,
    /// What it means.
    pub meaning: &'static str,
    /// Packets.
    pub packets: u64,
}

fn explain<R: Copy>(
    reasons: &[R],
    counts: &[u64],
    word: impl Fn(R) -> &'static str,
    meaning: impl Fn(R) -> &'static str,
) -> Vec<Explained> {
    let counted = reasons
        .iter()
        .zip(counts)
        .filter(|(_, packets)| **packets > 0);
    counted
        .map(|(reason, packets)| Explained {
            reason: word(*reason),
            meaning: meaning(*reason),
            packets: *packets,
        })
        .collect()
}

fn by_reason<R: Copy>(
    reasons: &[R],
    counts: &[u64],
    word: impl Fn(R) -> &'static str,
) -> BTreeMap<&'static str, u64> {
    reasons
        .iter()
        .zip(counts)
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| (word(*reason), *count))
        .collect()
}

impl Ledger {
    /// Counts `n` packets that end for a reason of their own bytes.
    pub fn refuse(&mut self, refusal: Refusal, n: u64) {
        match refusal {
            Refusal::Malformed(reason) => add_at(&mut self.malformed, reason as usize, n),
            Refusal::Filtered(reason) => add_at(&mut self.filtered, reason as usize, n),
        }
    }

    /// Counts `n` packets lost.
    pub fn drop(&mut self, reason: Dropped, n: u64) {
        add_at(&mut self.dropped, reason as usize, n);
    }

    /// Notes something about a packet.
    pub fn note(&mut self, note: Noted) {
        add_at(&mut self.noted, note as usize, 1);
    }

    /// Notes a frame without an inner IP header, by the last EtherType that was reached in it.
    #[cold]
    pub fn note_not_ip(&mut self, ether_type: u16) {
        self.note(Noted::InnerNotIp);
        self.not_ip.count(ether_type);
    }

    /// What frames without an inner IP header hold.
    pub const fn not_ip(&self) -> &EtherTypes {
        &self.not_ip
    }

    /// Notes something about `n` packets.
    pub fn note_many(&mut self, note: Noted, n: u64) {
        add_at(&mut self.noted, note as usize, n);
    }

    /// Packets received that are in no flow: those that were not delivered, and those without an IP header.
    pub fn in_no_flow(&self) -> u64 {
        let not_ip = self.noted.get(Noted::InnerNotIp as usize);
        (self.received - self.delivered) + not_ip.copied().unwrap_or_default()
    }

    /// Malformed packets by reason, those counted only.
    pub fn malformed(&self) -> BTreeMap<&'static str, u64> {
        by_reason(Malformed::ALL, &self.malformed, Malformed::reason)
    }

    /// Filtered packets by reason, those counted only.
    pub fn filtered(&self) -> BTreeMap<&'static str, u64> {
        by_reason(Filtered::ALL, &self.filtered, Filtered::reason)
    }

    /// Dropped packets by reason, those counted only.
    pub fn dropped(&self) -> BTreeMap<&'static str, u64> {
        by_reason(Dropped::ALL, &self.dropped, Dropped::reason)
    }

    /// Notes by reason, those counted only.
    pub fn noted(&self) -> BTreeMap<&'static str, u64> {
        by_reason(Noted::ALL, &self.noted, Noted::reason)
    }

    /// Malformed, filtered and dropped packets and the notes, with what each counter means.
    pub fn explained(&self) -> [(&'static str, Vec<Explained>); 4] {
        [
            (
                "malformed",
                explain(
                    Malformed::ALL,
                    &self.malformed,
                    Malformed::reason,
                    Malformed::meaning,
                ),
            ),
            (
                "filtered",
                explain(
                    Filtered::ALL,
                    &self.filtered,
                    Filtered::reason,
                    Filtered::meaning,
                ),
            ),
            (
                "dropped",
                explain(
                    Dropped::ALL,
                    &self.dropped,
                    Dropped::reason,
                    Dropped::meaning,
                ),
            ),
            (
                "noted",
                explain(Noted::ALL, &self.noted, Noted::reason, Noted::meaning),
            ),
        ]
    }

    /// Malformed, filtered and dropped packets and the notes, each reason with its count: zeros too.
    pub fn counters(&self) -> [(&'static str, Counters); 4] {
        fn all<R: Copy>(reasons: &[R], counts: &[u64], word: fn(R) -> &'static str) -> Counters {
            let words = reasons.iter().map(|reason| word(*reason));
            words.zip(counts.iter().copied()).collect()
        }
        [
            (
                "malformed",
                all(Malformed::ALL, &self.malformed, Malformed::reason),
            ),
            (
                "filtered",
                all(Filtered::ALL, &self.filtered, Filtered::reason),
            ),
            ("dropped", all(Dropped::ALL, &self.dropped, Dropped::reason)),
            ("noted", all(Noted::ALL, &self.noted, Noted::reason)),
        ]
    }

    /// Whether every packet received is in exactly one counter.
    pub fn closes(&self) -> bool {
        self.received == self.settled()
    }

    /// Packets received that are in no counter yet: fragments that wait for others. None once a run ended.
    pub fn waiting(&self) -> u64 {
        self.received.saturating_sub(self.settled())
    }

    fn settled(&self) -> u64 {
        let ended: u64 = [&self.malformed[..], &self.filtered[..], &self.dropped[..]]
            .iter()
            .flat_map(|c| c.iter())
            .sum();
        self.delivered + self.duplicate + ended
    }

    /// Adds the counts of another worker.
    pub fn merge(&mut self, other: &Self) {
        self.received += other.received;
        self.delivered += other.delivered;
        self.duplicate += other.duplicate;
        let add = |mine: &mut [u64], theirs: &[u64]| {
            mine.iter_mut().zip(theirs).for_each(|(a, b)| *a += b)
        };
        add(&mut self.malformed, &other.malformed);
        add(&mut self.filtered, &other.filtered);
        add(&mut self.dropped, &other.dropped);
        add(&mut self.noted, &other.noted);
        self.not_ip.merge(&other.not_ip);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_once() {
        let mut ledger = Ledger {
            received: 6,
            delivered: 2,
            ..Ledger::default()
        };
        assert!(!ledger.closes());
        assert_eq!(ledger.waiting(), 4);
        ledger.refuse(Malformed::VniNotValid.into(), 1);
        ledger.refuse(Filtered::Probe.into(), 2);
        ledger.drop(Dropped::FragmentIncomplete, 1);
        ledger.note(Noted::ReservedBits);
        assert!(ledger.closes());
        assert_eq!(
            ledger.dropped().into_iter().collect::<Vec<_>>(),
            [("fragment_incomplete", 1)]
        );
        let [(_, malformed), (_, filtered), (_, dropped), (_, noted)] = ledger.counters();
        assert_eq!(malformed.len(), Malformed::ALL.len(), "zeros too");
        let sum = |counters: &Counters| counters.iter().map(|(_, count)| count).sum::<u64>();
        let sums = [&malformed, &filtered, &dropped, &noted].map(sum);
        assert_eq!(sums, [1, 2, 1, 1]);
        let mut twice = ledger.clone();
        twice.merge(&ledger);
        assert!(twice.closes());
        assert_eq!((twice.received, twice.filtered()["probe"]), (12, 4));
    }
}
