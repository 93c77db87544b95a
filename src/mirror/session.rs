//! The inventory of mirror sessions: one entry for each (outer source, VNI) seen.
//!
//! The table is bounded, so that nobody outside can make it grow: what finds no room is counted together as
//! "other". Made-up VNIs do not keep their places for good: a session without a place that has sent
//! [`EARNS_A_PLACE`] packets gets that of the session seen longest ago among those of few packets, or else of the
//! one seen longest ago, if that was a minute ago. The counts of who made room go to "other"; its name stays,
//! for flows that still live.

use std::hash::Hash;
use std::net::IpAddr;

use hashbrown::HashMap;

use super::direction::Direction;
use super::lengths::{self, Lengths};
use super::loss::MirrorLoss;
use super::others::{self, EARNS_A_PLACE, Others};
use super::own_macs::{self, Fact, MacPair, OwnMacs, Shown};
use super::prefixes::{self, Prefixes};
use super::series::{self, Series};
use super::session_key::SessionKey;
use super::truncation::{self, Truncation};
use crate::wire::Vni;
use crate::wire::decapsulate::Tunnel;
use crate::wire::ip::Address;
use crate::wire::length::{Evidence, FrameLen, Verdict};

/// Most sessions kept apart; each is an interface in the capture file.
pub const MAX_SESSIONS: usize = 4096;

/// A session of fewer packets makes room before others do.
const FEW: u64 = 4 * EARNS_A_PLACE;

/// A session of more packets makes room when it was silent for so long, in nanoseconds.
const SILENT_NS: u64 = 60_000_000_000;

/// Most sessions that make room in a run of one worker: each is an interface in the capture, and a name kept.
pub const MAX_AGED: usize = 8192;

/// Most bytes of memory a worker's sessions take: the list and the names of those that made room, which double
/// as they grow, their cut sizes and histograms, places by key in a table that is at least an eighth empty, and places by number.
pub const MEMORY_BYTES: usize =
    2 * MAX_SESSIONS * (size_of::<Session>() + size_of::<(SessionKey, SessionId)>() + 1)
        + 2 * MAX_AGED * size_of::<Session>()
        + 2 * (MAX_SESSIONS + MAX_AGED) * size_of::<Place>()
        + (MAX_SESSIONS + 1)
            * (truncation::MEMORY_BYTES
                + series::MEMORY_BYTES
                + prefixes::MEMORY_BYTES
                + own_macs::MEMORY_BYTES
                + lengths::MEMORY_BYTES)
        + others::MEMORY_BYTES;

/// Sessions that are found without hashing.
const LATELY: usize = 16;

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
    /// Frames received by the mirror source, as their IP addresses say.
    pub inbound: u64,
    /// Frames sent by the mirror source, as their IP addresses say.
    pub outbound: u64,
    /// Its hardware addresses, and what they say of the other frames.
    pub own_macs: OwnMacs,
    /// Frames whose packet had come before, from this session or another one.
    pub duplicates: u64,
    /// Time of the earliest frame, nanoseconds since 1970.
    pub first_ns: u64,
    /// Time of the latest frame, nanoseconds since 1970.
    pub last_ns: u64,
    /// What was cut.
    pub truncation: Truncation,
    /// How much came when.
    pub series: Series,
    /// How long frames were at the mirror source.
    pub lengths: Lengths,
    /// What TCP connections tell of bytes that never came.
    pub loss: MirrorLoss,
    /// Private networks that packets came from and went to.
    pub prefixes: Prefixes,
    /// What is known of the sessions counted together here; only in [`SessionKey::Other`].
    pub others: Option<Box<Others>>,
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
            own_macs: OwnMacs::default(),
            duplicates: 0,
            first_ns: u64::MAX,
            last_ns: 0,
            truncation: Truncation::default(),
            series: Series::default(),
            lengths: Lengths::default(),
            loss: MirrorLoss::default(),
            prefixes: Prefixes::default(),
            others: matches!(key, SessionKey::Other).then(Box::default),
        }
    }

    /// Counts one frame: what was known of it and what came of that. `lengths` are those it had on the wire.
    #[inline]
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
        let is_cut = verdict == Verdict::Truncated;
        let sizes = (lengths.captured, evidence.outer_ip_len);
        self.series.add(ts_ns, sizes, is_cut);
        self.lengths.add(lengths.orig, is_cut);
    }

    /// Takes the hardware addresses of a frame at `place` among all, which has `shown` so much. Sessions without room
    /// have nothing in common that could be learned.
    #[inline]
    pub fn add_macs(
        &mut self,
        macs: &MacPair,
        shown: Shown,
        place: u64,
        mut tell: impl FnMut(SessionKey, Fact),
    ) {
        if self.others.is_none() {
            self.own_macs
                .add(macs, shown, place, |fact| tell(self.key, fact));
        }
    }
}

impl Session {
    /// So much a second, from the first packet to the last; `None` where these have one time.
    pub fn a_second(&self, count: u64) -> Option<f64> {
        let ns = self.last_ns.checked_sub(self.first_ns)?;
        (ns > 0).then(|| count as f64 * 1e9 / ns as f64)
    }

    /// Adds what another worker saw of the same session.
    pub fn merge(&mut self, other: &Self) {
        if other.first_ns < self.first_ns && self.key != SessionKey::Other {
            (self.target, self.tunnel) = (other.target, other.tunnel);
        }
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.inbound += other.inbound;
        self.outbound += other.outbound;
        if self.others.is_none() {
            self.own_macs.merge(&other.own_macs);
        }
        self.duplicates += other.duplicates;
        self.first_ns = self.first_ns.min(other.first_ns);
        self.last_ns = self.last_ns.max(other.last_ns);
        self.truncation.merge(&other.truncation);
        self.series.merge(&other.series);
        self.lengths.merge(&other.lengths);
        self.loss.merge(&other.loss);
        self.prefixes.merge(&other.prefixes);
        if let (Some(mine), Some(others)) = (&mut self.others, &other.others) {
            mine.merge(others);
        }
    }
}

/// Where a session is.
#[derive(Clone, Copy)]
enum Place {
    /// In the table.
    Kept(usize),
    /// Among those that made room.
    Aged(usize),
}

/// The sessions one worker has seen.
#[derive(Default)]
pub struct Sessions {
    by_key: HashMap<SessionKey, SessionId, foldhash::fast::RandomState>,
    list: Vec<Session>,
    /// The numbers of those in `list`.
    ids: Vec<SessionId>,
    /// By number: none is given twice.
    places: Vec<Place>,
    /// Those that made room, without counts.
    aged: Vec<Session>,
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
        ts_ns: u64,
    ) -> SessionId {
        let place = vni.as_u32() as usize % LATELY;
        match self.lately.get(place) {
            Some(Some((known, its_vni, id))) if (*known, *its_vni) == (source, vni) => *id,
            _ => {
                let key = SessionKey::Mirror {
                    source: source.ip(),
                    vni,
                };
                let id = self.find(key, Some(target.ip()), Some(tunnel), ts_ns);
                // One without a place of its own counts its packets until it has earned one.
                let has_place = self.session(id).is_some_and(|session| session.key == key);
                if has_place && let Some(slot) = self.lately.get_mut(place) {
                    *slot = Some((source, vni, id));
                }
                id
            }
        }
    }

    /// The session named `key`, new if need be; [`SessionKey::Other`] once the table is full and the session
    /// has not earned a place. A packet of it came at `ts_ns`.
    pub fn find(
        &mut self,
        key: SessionKey,
        target: Option<IpAddr>,
        tunnel: Option<Tunnel>,
        ts_ns: u64,
    ) -> SessionId {
        if let Some(id) = self.by_key.get(&key) {
            return *id;
        }
        let session = Session::new(key, target, tunnel);
        if self.list.len() < MAX_SESSIONS || key == SessionKey::Other {
            let at = self.list.len();
            self.list.push(session);
            let id = self.name(key, at);
            self.ids.push(id);
            return id;
        }
        self.find_when_full(session, ts_ns)
    }

    #[cold]
    fn find_when_full(&mut self, session: Session, ts_ns: u64) -> SessionId {
        let other = self.find(SessionKey::Other, None, None, ts_ns);
        let others = self
            .session_mut(other)
            .and_then(|other| other.others.as_mut());
        let earned = others.is_some_and(|others| others.note(session.key));
        if !earned || self.aged.len() >= MAX_AGED {
            return other;
        }
        let Some(at) = self.makes_room(ts_ns) else {
            return other;
        };
        let key = session.key;
        let id = self.name(key, at);
        let (Some(kept), Some(its_id)) = (self.list.get_mut(at), self.ids.get_mut(at)) else {
            return other;
        };
        let old = std::mem::replace(kept, session);
        let old_id = std::mem::replace(its_id, id);
        self.by_key.remove(&old.key);
        self.lately
            .iter_mut()
            .for_each(|lately| *lately = lately.filter(|(_, _, id)| *id != old_id));
        if let Some(place) = self.places.get_mut(old_id.0 as usize) {
            *place = Place::Aged(self.aged.len());
        }
        self.aged
            .push(Session::new(old.key, old.target, old.tunnel));
        if let Some(other) = self.session_mut(other) {
            other.merge(&old);
            if let Some(others) = &mut other.others {
                others.aged += 1;
            }
        }
        id
    }

    /// Gives the session at a place of the table its number.
    fn name(&mut self, key: SessionKey, at: usize) -> SessionId {
        let id = SessionId(u32::try_from(self.places.len()).unwrap_or(u32::MAX));
        self.places.push(Place::Kept(at));
        self.by_key.insert(key, id);
        id
    }

    /// The place of the session that makes room now, if one does.
    fn makes_room(&self, now_ns: u64) -> Option<usize> {
        let mirrored = self.list.iter().enumerate();
        let mirrored = mirrored.filter(|(_, session)| session.key.mirror().is_some());
        let small = mirrored
            .clone()
            .filter(|(_, session)| session.packets < FEW);
        let silent =
            mirrored.filter(|(_, session)| session.last_ns.saturating_add(SILENT_NS) < now_ns);
        small
            .min_by_key(|(_, session)| session.last_ns)
            .or_else(|| silent.min_by_key(|(_, session)| session.last_ns))
            .map(|(at, _)| at)
    }

    /// The session at `id`. One that made room has its name and no counts.
    #[inline]
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        match *self.places.get(id.0 as usize)? {
            Place::Kept(at) => self.list.get(at),
            Place::Aged(at) => self.aged.get(at),
        }
    }

    /// The session at `id`, to count on; `None` when it made room.
    #[inline]
    pub fn session_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        match *self.places.get(id.0 as usize)? {
            Place::Kept(at) => self.list.get_mut(at),
            Place::Aged(_) => None,
        }
    }

    /// The session that is named `key`, where it is in the table.
    pub fn of_name(&self, key: SessionKey) -> Option<&Session> {
        self.session(*self.by_key.get(&key)?)
    }

    /// All sessions in the table: in the order they were first seen, where none made room.
    pub fn list(&self) -> &[Session] {
        &self.list
    }

    /// The same and the names of those that made room, once no more are looked for.
    pub fn into_lists(self) -> (Vec<Session>, Vec<Session>) {
        (self.list, self.aged)
    }

    /// The names of those that made room.
    pub fn aged(&self) -> &[Session] {
        &self.aged
    }

    /// Sessions named so far; their numbers are below this.
    pub const fn named(&self) -> usize {
        self.places.len()
    }

    /// The sessions named from number `from` on.
    pub fn named_since(&self, from: usize) -> impl Iterator<Item = (SessionId, &Session)> {
        (from..self.places.len()).filter_map(|id| {
            let id = SessionId(u32::try_from(id).ok()?);
            Some((id, self.session(id)?))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn key(vni: u32) -> SessionKey {
        SessionKey::Mirror {
            source: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
            vni: Vni::new(vni).unwrap(),
        }
    }

    /// Takes a packet of 60 bytes, as a worker does.
    fn packet(sessions: &mut Sessions, vni: u32, ts_ns: u64) -> SessionId {
        let [source, target] =
            [[10, 0, 0, 1], [10, 0, 9, 9]].map(|octets| IpAddr::V4(Ipv4Addr::from(octets)).into());
        let vni = Vni::new(vni).unwrap();
        let id = sessions.find_mirror(source, vni, target, Tunnel::Vxlan, ts_ns);
        let lengths = FrameLen {
            captured: 60,
            orig: 60,
        };
        let session = sessions.session_mut(id).unwrap();
        let (evidence, way) = (Evidence::default(), Direction::Unknown);
        session.add(ts_ns, &evidence, lengths, Verdict::Whole, way);
        id
    }

    fn named(sessions: &Sessions, id: SessionId) -> SessionKey {
        sessions.session(id).unwrap().key
    }

    #[test]
    fn a_flood_of_identifiers_ends_in_other() {
        let mut sessions = Sessions::default();
        let first = packet(&mut sessions, 7, 0);
        for vni in 0..10_000 {
            packet(&mut sessions, vni, 1);
        }
        assert_eq!(packet(&mut sessions, 7, 2), first);
        let other = packet(&mut sessions, 9_999, 2);
        assert_eq!(sessions.list().len(), MAX_SESSIONS + 1);
        assert_eq!(named(&sessions, other), SessionKey::Other);
        let others = sessions.session(other).unwrap().others.as_ref().unwrap();
        assert_eq!(others.aged, 0, "one packet earns nothing");
        let told = others.found_no_room();
        assert!((5_850..=5_960).contains(&told), "{told}");
    }

    /// A flood has taken every place; a true session comes later, and the flood goes on.
    #[test]
    fn a_true_session_gets_a_place_in_a_flood() {
        let mut sessions = Sessions::default();
        let busy = (0..100)
            .map(|_| packet(&mut sessions, 1, 0))
            .last()
            .unwrap();
        let spoofed = packet(&mut sessions, 100, 1);
        for vni in 101..6_000 {
            packet(&mut sessions, vni, 2);
        }
        for at in 0..200 {
            packet(&mut sessions, 50_000, 10 + at);
            packet(&mut sessions, 100_000 + at as u32, 10 + at);
        }
        let late = packet(&mut sessions, 50_000, 300);
        assert_eq!(named(&sessions, late), key(50_000));
        assert_eq!(sessions.list().len(), MAX_SESSIONS + 1);
        // The one of few packets seen longest ago made room, and is still named right.
        assert_eq!(named(&sessions, spoofed), key(100));
        assert_eq!(sessions.aged().len(), 1);
        assert!(sessions.session_mut(spoofed).is_none());
        assert_eq!(named(&sessions, busy), key(1));
        assert_eq!(sessions.session(busy).unwrap().packets, 100);
        assert_eq!(packet(&mut sessions, 1, 301), busy);
        // Comes back without a place; every packet is in one session.
        let back = packet(&mut sessions, 100, 302);
        assert_eq!(named(&sessions, back), SessionKey::Other);
        let packets: u64 = sessions.list().iter().map(|session| session.packets).sum();
        assert_eq!(packets, 100 + 5_900 + 400 + 1 + 2);
        let others = sessions.session(back).unwrap().others.as_ref().unwrap();
        assert_eq!(others.aged, 1);
        // Each number was told once, with its name.
        let names = sessions.named_since(0);
        let names: Vec<_> = names.map(|(id, session)| (id, session.key)).collect();
        assert_eq!(names.len(), sessions.named());
        assert!(names.contains(&(spoofed, key(100))) && names.contains(&(late, key(50_000))));
    }

    #[test]
    fn sessions_of_many_packets_make_room_when_they_fell_silent() {
        let mut sessions = Sessions::default();
        for _ in 0..FEW {
            (0..MAX_SESSIONS as u32).for_each(|vni| _ = packet(&mut sessions, vni, 5));
        }
        let come = |sessions: &mut Sessions, vni, ts_ns| {
            let packets = (0..EARNS_A_PLACE + 1).map(|_| packet(sessions, vni, ts_ns));
            let ids: Vec<_> = packets.collect();
            named(sessions, *ids.last().unwrap())
        };
        assert_eq!(come(&mut sessions, 50_000, SILENT_NS), SessionKey::Other);
        assert_eq!(come(&mut sessions, 50_001, SILENT_NS + 6), key(50_001));
    }

    /// Memory is bounded, however long made-up sessions earn places.
    #[test]
    fn only_so_many_make_room() {
        let mut sessions = Sessions::default();
        for vni in 0..(MAX_SESSIONS + MAX_AGED + 500) as u32 {
            for _ in 0..EARNS_A_PLACE {
                packet(&mut sessions, vni, vni.into());
            }
        }
        assert_eq!(sessions.aged().len(), MAX_AGED);
        assert_eq!(sessions.list().len(), MAX_SESSIONS + 1);
        assert_eq!(sessions.named(), MAX_SESSIONS + 1 + MAX_AGED);
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
