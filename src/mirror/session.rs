//! The inventory of mirror sessions: one entry for each (outer source, VNI) seen.
//!
//! The table is bounded. A flood of made-up VNIs fills it and the rest is counted together as "other",
//! so that nobody outside can make it grow.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use hashbrown::HashMap;

use super::direction::Direction;
use super::truncation::{self, Truncation};
use crate::wire::Vni;
use crate::wire::decapsulate::Tunnel;
use crate::wire::ip::Address;
use crate::wire::length::{Evidence, FrameLen, Verdict};

/// Most sessions kept apart; each is an interface in the capture file.
pub const MAX_SESSIONS: usize = 4096;

/// Most bytes of memory a worker's sessions take: the list, which doubles as it grows, their cut sizes, and
/// places by key in a table that is at least an eighth empty.
pub const MEMORY_BYTES: usize =
    2 * MAX_SESSIONS * (size_of::<Session>() + size_of::<(SessionKey, SessionId)>() + 1)
        + (MAX_SESSIONS + 1) * truncation::MEMORY_BYTES;

/// Sessions that are found without hashing.
const LATELY: usize = 16;

/// What names a mirror session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SessionKey {
    /// Mirrored traffic, by VTEP and network identifier.
    Mirror {
        /// Outer source address.
        source: IpAddr,
        /// Network identifier.
        vni: Vni,
    },
    /// A capture that was already decapsulated.
    Plain,
    /// Sessions beyond [`MAX_SESSIONS`].
    Other,
}

/// Three words, which a hasher takes at a fraction of what the fields one by one cost.
impl Hash for SessionKey {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        match *self {
            Self::Mirror { source, vni } => {
                let (kind, address) = match source {
                    IpAddr::V4(v4) => (4, u128::from(v4.to_bits())),
                    IpAddr::V6(v6) => (6, v6.to_bits()),
                };
                state.write_u64(address as u64);
                if kind == 6 {
                    state.write_u64((address >> 64) as u64);
                }
                state.write_u64((u64::from(vni.as_u32()) << 8) | kind);
            }
            Self::Plain => state.write_u64(0),
            Self::Other => state.write_u64(1),
        }
    }
}

impl SessionKey {
    /// Outer source address and VNI, where there are such.
    pub const fn mirror(self) -> Option<(IpAddr, Vni)> {
        match self {
            Self::Mirror { source, vni } => Some((source, vni)),
            Self::Plain | Self::Other => None,
        }
    }

    /// The interface name in capture files: `vni101@10.0.1.11`.
    pub fn interface_name(self) -> String {
        match self {
            Self::Mirror { source, vni } => format!("vni{vni}@{source}"),
            Self::Plain => "plain".to_owned(),
            Self::Other => "vni-other".to_owned(),
        }
    }
}

/// Position of a session in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u32);

/// What is known of one mirror session.
#[derive(Clone, Debug)]
pub struct Session {
    /// Its name.
    pub key: SessionKey,
    /// Outer destination of its first packet.
    pub target: Option<IpAddr>,
    /// Encapsulation of its first packet.
    pub tunnel: Option<Tunnel>,
    /// Frames that came, those included that then found no room in the capture queue or were not written.
    pub packets: u64,
    /// Bytes of inner frame that arrived; an Ethernet header that was put in front is not among them.
    pub bytes: u64,
    /// Frames received by the mirror source.
    pub inbound: u64,
    /// Frames sent by the mirror source.
    pub outbound: u64,
    /// Time of the earliest frame, nanoseconds since 1970.
    pub first_ns: u64,
    /// Time of the latest frame, nanoseconds since 1970.
    pub last_ns: u64,
    /// What was cut.
    pub truncation: Truncation,
}

impl Session {
    fn new(key: SessionKey, target: Option<IpAddr>, tunnel: Option<Tunnel>) -> Self {
        Self {
            key,
            target,
            tunnel,
            packets: 0,
            bytes: 0,
            inbound: 0,
            outbound: 0,
            first_ns: u64::MAX,
            last_ns: 0,
            truncation: Truncation::default(),
        }
    }

    /// Counts one frame: what was known of it and what came of that. `lengths` are those it had on the wire.
    pub fn add(
        &mut self,
        ts_ns: u64,
        evidence: &Evidence,
        lengths: FrameLen,
        verdict: Verdict,
        direction: Direction,
    ) {
        self.packets += 1;
        self.bytes += u64::from(lengths.captured);
        self.first_ns = self.first_ns.min(ts_ns);
        self.last_ns = self.last_ns.max(ts_ns);
        match direction {
            Direction::Inbound => self.inbound += 1,
            Direction::Outbound => self.outbound += 1,
            Direction::Unknown => {}
        }
        self.truncation.add(evidence, lengths, verdict);
    }
}

impl Session {
    /// Adds what another worker saw of the same session.
    pub fn merge(&mut self, other: &Self) {
        if other.first_ns < self.first_ns {
            (self.target, self.tunnel) = (other.target, other.tunnel);
        }
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.inbound += other.inbound;
        self.outbound += other.outbound;
        self.first_ns = self.first_ns.min(other.first_ns);
        self.last_ns = self.last_ns.max(other.last_ns);
        self.truncation.merge(&other.truncation);
    }
}

/// The sessions one worker has seen.
#[derive(Default)]
pub struct Sessions {
    by_key: HashMap<SessionKey, SessionId, foldhash::fast::RandomState>,
    list: Vec<Session>,
    /// Sessions found lately, each at the place that the last bits of its VNI name: few are busy at a time.
    lately: [Option<(Address, Vni, SessionId)>; LATELY],
}

impl Sessions {
    /// The session of traffic from `source` with `vni`, as [`Self::find`].
    #[inline]
    pub fn find_mirror(
        &mut self,
        source: Address,
        vni: Vni,
        target: Address,
        tunnel: Tunnel,
    ) -> SessionId {
        let place = vni.as_u32() as usize % LATELY;
        match self.lately.get(place) {
            Some(Some((known, its_vni, id))) if (*known, *its_vni) == (source, vni) => *id,
            _ => {
                let key = SessionKey::Mirror {
                    source: source.ip(),
                    vni,
                };
                let id = self.find(key, Some(target.ip()), Some(tunnel));
                if let Some(slot) = self.lately.get_mut(place) {
                    *slot = Some((source, vni, id));
                }
                id
            }
        }
    }

    /// The session named `key`, new if need be; [`SessionKey::Other`] once the table is full.
    pub fn find(
        &mut self,
        key: SessionKey,
        target: Option<IpAddr>,
        tunnel: Option<Tunnel>,
    ) -> SessionId {
        if let Some(id) = self.by_key.get(&key) {
            return *id;
        }
        if self.list.len() >= MAX_SESSIONS && key != SessionKey::Other {
            return self.find(SessionKey::Other, None, None);
        }
        let id = SessionId(u32::try_from(self.list.len()).unwrap_or(u32::MAX));
        self.list.push(Session::new(key, target, tunnel));
        self.by_key.insert(key, id);
        id
    }

    /// The session at `id`.
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.list.get(id.0 as usize)
    }

    /// The session at `id`, to count on.
    pub fn session_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.list.get_mut(id.0 as usize)
    }

    /// All sessions in the order they were first seen.
    pub fn list(&self) -> &[Session] {
        &self.list
    }

    /// The same, once no more are looked for.
    pub fn into_list(self) -> Vec<Session> {
        self.list
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_flood_of_identifiers_ends_in_other() {
        let mut sessions = Sessions::default();
        let source = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        let mut find = |vni| {
            let vni = Vni::new(vni).unwrap();
            sessions.find(SessionKey::Mirror { source, vni }, None, None)
        };
        let first = find(7);
        for vni in 0..10_000 {
            find(vni);
        }
        assert_eq!(find(7), first);
        let other = find(9_999);
        assert_eq!(sessions.list().len(), MAX_SESSIONS + 1);
        assert_eq!(sessions.session(other).unwrap().key, SessionKey::Other);
    }

    #[test]
    fn counts_and_times() {
        let mut session = Session::new(SessionKey::Plain, None, None);
        let lengths = FrameLen {
            captured: 60,
            orig: 100,
        };
        let evidence = Evidence {
            captured_len: 60,
            carried_len: 60,
            ip_offset: 14,
            ip_len: 86,
            ..Evidence::default()
        };
        session.add(
            20,
            &evidence,
            lengths,
            Verdict::Truncated,
            Direction::Inbound,
        );
        session.add(
            10,
            &evidence,
            lengths,
            Verdict::Truncated,
            Direction::Unknown,
        );
        assert_eq!(
            (session.packets, session.bytes, session.inbound),
            (2, 120, 1)
        );
        assert_eq!((session.first_ns, session.last_ns), (10, 20));
        assert_eq!(session.truncation.missing_bytes, 80);
    }
}
