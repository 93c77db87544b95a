//! The ways from mirror sources to targets: what the packets of all sessions on one show of it. Pure.

use std::net::IpAddr;

use hashbrown::HashMap;

use super::inventory::Label;
use super::session_key::SessionKey;
use super::truncation::Route;

/// The ways that sessions take.
#[derive(Debug)]
pub struct Routes {
    usual: Route,
    /// Largest outer IP packet by outer source and destination, in bytes.
    largest_outer: HashMap<Ends, u32, foldhash::fast::RandomState>,
}

/// Outer source and destination of a session; those without have a way of their own each.
type Ends = (IpAddr, Option<IpAddr>);

/// A session on its way: its name, the outer destination of its first packet, its largest outer IP packet in bytes.
pub type OnTheWay = (SessionKey, Option<IpAddr>, u32);

impl Routes {
    /// Those of all `sessions`. `usual` is what is known of any way before a packet came.
    pub fn new(usual: Route, sessions: impl IntoIterator<Item = OnTheWay>) -> Self {
        let mut largest_outer = HashMap::default();
        for (key, target, outer) in sessions {
            if let Some((source, _)) = key.mirror() {
                let largest: &mut u32 = largest_outer.entry((source, target)).or_default();
                *largest = (*largest).max(outer);
            }
        }
        Self {
            usual,
            largest_outer,
        }
    }

    /// The way of the session `key` to `target`.
    pub fn of(&self, key: SessionKey, target: Option<IpAddr>, label: Option<&Label>) -> Route {
        let ends = key.mirror().map(|(source, _)| (source, target));
        let largest = ends.and_then(|ends| self.largest_outer.get(&ends));
        Route {
            mtu: label.and_then(|label| label.mtu).unwrap_or(self.usual.mtu),
            largest_outer: largest.copied().unwrap_or_default(),
            ..self.usual
        }
    }
}
