//! The flow table of one worker: bounded, flows end by themselves, and the one seen longest ago makes room where
//! all places are taken.
//!
//! What every packet writes stands apart from what only the first one tells: two cache lines a flow, in
//! chunks that never move, so growing copies nothing. `index` finds them, `recent` keeps
//! the order in which they were last seen: by the packet once the table is full, before that to a few seconds,
//! because nothing but making room needs it. `wheel` tells which to look at because their time may have come.
//! A place that a flow has left is given to the next one.

mod marks;

use std::hash::BuildHasher;

use hashbrown::HashMap;
use prefetch_index::prefetch_index;

use self::marks::Marks;
use super::app::{App, Guess, Opening};
use super::counts::{Copies, Counts, Flow, FlowPacket};
use super::ended::{EndReason, Ended};
use super::first::First;
use super::index::{Index, entries_for};
use super::key::{FlowKey, Ports, Way};
use super::lifetime::{Lifetimes, State};
use super::names::Names;
use super::recent::{self, Recent};
use super::remaining::{self, Remaining};
use super::tcp::holes::{self, Pool};
use super::tcp::{self, Connection, Segment, Side};
use super::wheel::{self, Wheel};
use crate::wire::inner::Mac;
use crate::wire::length::Verdict;
use crate::wire::numbers::protocol;
use crate::wire::numbers::tcp_flag::{ACK, FIN, RST, SYN};

/// Flows of a chunk.
pub(super) const CHUNK: usize = 1024;
/// While there is room, flows are put in order again when another so many nanoseconds begin, as a power of
/// two: about nine seconds.
const PERIOD: u32 = 33;
/// Packets of each direction of a flow that are looked into: behind a handshake, and twice where both ends are mirrored in
/// one session.
const LOOKED_AT: u32 = 8;

/// What every packet of a flow touches: one cache line to tell the flow, one to count in.
#[repr(C, align(64))]
pub(super) struct Hot {
    pub(super) key: FlowKey,
    /// First packet of the record.
    pub(super) first_ns: u64,
    last_ns: u64,
    tallies: [Tally; 2],
    fragments: u16,
    duplicates: u16,
    ttl_min: u8,
    ttl_max: u8,
    /// Of the first packet.
    tos: u8,
    namesakes: u8,
}

/// [`Counts`] of one direction at half the size; what does not fit is moved to [`Large`].
#[derive(Clone, Copy)]
struct Tally {
    packets: u32,
    ip_bytes: u32,
    l2_bytes: u32,
    captured_bytes: u32,
    truncated: u32,
    missing_bytes: u32,
    max_ip_len: u16,
    tcp_flags: u16,
}

/// What packets after the first hardly ever touch.
struct Cold {
    /// First packet of the flow.
    begun_ns: u64,
    /// Hardware addresses of the originator's first packet, if [`Marks`] say so: source, destination.
    macs: [Mac; 2],
    /// Records before this one.
    records: u16,
    marks: Marks,
}

/// What every segment of a connection touches beside [`Hot`].
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
struct Line(Connection);

/// What a flow counted beyond the width of its own tallies.
#[derive(Default)]
pub(super) struct Large {
    counts: [Counts; 2],
    fragments: u64,
    duplicates: u64,
}

/// Flows of neighbouring places.
pub(super) struct Chunk {
    pub(super) hot: Vec<Hot>,
    cold: Vec<Cold>,
    /// Where the first packet of each lies; empty where there is no capture.
    firsts: Vec<First>,
    /// Of TCP flows; as long as the last one of them needs.
    tcp: Vec<Line>,
}

/// The flows of one worker.
pub struct FlowTable {
    index: Index,
    hasher: foldhash::fast::RandomState,
    chunks: Vec<Chunk>,
    names: Names,
    recent: Recent,
    wheel: Wheel,
    lifetimes: Lifetimes,
    /// [`Lifetimes::shortest_ns`].
    shortest_ns: u64,
    /// What flows counted beyond the width of their tallies, by place.
    large: HashMap<u32, Large, foldhash::fast::RandomState>,
    /// Bytes that connections lack just now.
    holes: Pool,
    len: u32,
    max_flows: u32,
    /// Flows that are over, while they are put in order: first packet, place.
    over: Vec<(u64, u32)>,
    /// Whether it is kept where first packets lie.
    keeps_firsts: bool,
    /// The flow of whose record the last update was the first packet, as far as it is known now.
    begun: Option<u32>,
}

/// Bytes that tables of `max_flows` flows each may take together, for the memory line printed at start: while
/// they are filled, or at the end, when other things stand in place of what finds the flows.
pub fn memory_bytes(max_flows: impl Iterator<Item = u32>, keeps_firsts: bool) -> u64 {
    let (mut flows, mut finding) = (0, 0);
    for max_flows in max_flows {
        let holes = holes::memory_bytes(max_flows);
        let max_flows = u64::from(max_flows);
        // A chunk is made whole.
        flows += max_flows.next_multiple_of(CHUNK as u64);
        finding += holes
            + entries_for(max_flows) * size_of::<u64>() as u64
            + recent::memory_bytes(max_flows)
            + wheel::memory_bytes(max_flows);
    }
    let first = if keeps_firsts { size_of::<First>() } else { 0 };
    flows * (size_of::<Hot>() + size_of::<Cold>() + size_of::<Line>() + first) as u64
        + finding.max(remaining::memory_bytes(flows))
}

impl FlowTable {
    /// A table for at most `max_flows` flows (at least one).
    pub fn new(max_flows: u32, lifetimes: Lifetimes) -> Self {
        let max_flows = max_flows.clamp(1, wheel::MOST_PLACES);
        Self {
            index: Index::new(max_flows),
            hasher: foldhash::fast::RandomState::default(),
            chunks: Vec::new(),
            names: Names::new(max_flows),
            recent: Recent::new(max_flows),
            wheel: Wheel::new(max_flows),
            lifetimes,
            shortest_ns: lifetimes.shortest_ns(),
            large: HashMap::default(),
            holes: Pool::new(max_flows),
            len: 0,
            max_flows,
            over: Vec::new(),
            keeps_firsts: false,
            begun: None,
        }
    }

    /// Keeps from now on, with no flow in it yet, where first packets lie.
    pub const fn keep_firsts(&mut self) {
        self.keeps_firsts = true;
    }

    /// The place of the flow of whose record the last update was the first packet, if it was one and lies in a capture.
    #[inline]
    pub const fn take_begun(&mut self) -> Option<u32> {
        self.begun.take()
    }

    /// Record `number` lies at `first`: that is kept of the flow at `at`, if the record is its first packet. It may
    /// have ended since.
    pub fn found(&mut self, at: u32, number: u64, first: First) {
        let chunk = self.chunks.get_mut(at as usize / CHUNK);
        let kept = chunk.and_then(|chunk| chunk.firsts.get_mut(at as usize % CHUNK));
        if let Some(kept) = kept.filter(|kept| **kept == First::record(number)) {
            *kept = first;
        }
    }

    /// Flows in the table.
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The hash of a key, by which it is looked for.
    #[inline]
    pub fn hash(&self, key: &FlowKey) -> u32 {
        hash_of(&self.hasher, key)
    }

    /// Has the processor fetch what [`Self::foresee`] will look at.
    #[inline]
    pub fn prefetch(&self, hash: u32) {
        self.index.prefetch(hash);
    }

    /// The place where [`Self::update`] will most likely find the flow with this hash. Has the processor fetch
    /// what is there.
    #[inline]
    pub fn foresee(&self, hash: u32) -> u32 {
        let place = self.index.first_with(hash);
        if let Some(hot) = hot_at(&self.chunks, place) {
            prefetch_index(std::slice::from_ref(hot), 0);
            prefetch_index(hot.tallies.as_slice(), 0);
            if let Some(chunk) = self.chunks.get(place as usize / CHUNK) {
                prefetch_index(&chunk.tcp, place as usize % CHUNK);
            }
            self.recent.prefetch(place);
        }
        place
    }

    /// Has the processor fetch the rest of what a packet of the time `ts_ns` will touch if its flow is the
    /// one foreseen.
    #[inline]
    pub fn prefetch_rest(&self, foreseen: u32, ts_ns: u64) {
        if hot_at(&self.chunks, foreseen).is_some_and(|hot| self.moves(hot, ts_ns)) {
            self.recent.prefetch_neighbours(foreseen);
        }
    }

    /// Counts a packet of the flow `key`, whose hash is `hash` and whose place was [`foreseen`](Self::foresee);
    /// any other number will do. Returns the flow that this ended, if it did: one that had to make room, or
    /// the connection before with the same ports.
    pub fn update(
        &mut self,
        hash: u32,
        foreseen: u32,
        key: &FlowKey,
        way: Way,
        packet: &FlowPacket,
    ) -> Option<Ended> {
        let chunks = &self.chunks;
        let is_it = |at| hot_at(chunks, at).is_some_and(|hot| hot.key == *key);
        let found = if is_it(foreseen) {
            Some(foreseen)
        } else {
            self.index.find(hash, is_it)
        };
        if packet.copies == Copies::OfAnother {
            self.count_duplicate(found?);
            return None;
        }
        if let Some(at) = found {
            if self.may_end(at, packet)
                && let Some(reason) = self.ended_by(at, way, packet)
            {
                let flow = match reason {
                    EndReason::Active => self.go_on(at, way, packet)?,
                    _ => self.begin_anew(at, way, packet)?,
                };
                return Some(Ended { flow, reason });
            }
            if hot_at(&self.chunks, at).is_some_and(|hot| self.moves(hot, packet.ts_ns)) {
                self.recent.touch(at);
            }
            self.count(at, way, packet);
            return None;
        }
        let (hot, cold) = open(key, way, packet);
        let mut ended = None;
        if self.len == self.max_flows {
            let oldest = self.recent.oldest()?;
            let flow = self.take_out(oldest)?;
            let reason = EndReason::LackOfResources;
            ended = Some(Ended { flow, reason });
        }
        let at = self.place(hot, cold);
        self.index.insert(hash, at);
        self.begins(at, packet);
        self.count(at, way, packet);
        self.wait_for_end(at);
        ended
    }

    /// Counts a packet of the flow at `at` that has a copy, or is one.
    #[cold]
    fn count_duplicate(&mut self, at: u32) {
        let chunk = self.chunks.get_mut(at as usize / CHUNK);
        let Some(hot) = chunk.and_then(|chunk| chunk.hot.get_mut(at as usize % CHUNK)) else {
            return;
        };
        if hot.duplicates == u16::MAX {
            let large = self.large.entry(at).or_default();
            large.duplicates += u64::from(std::mem::take(&mut hot.duplicates));
        }
        hot.duplicates += 1;
    }

    /// Puts a new flow where there is room.
    fn place(&mut self, hot: Hot, cold: Cold) -> u32 {
        self.len += 1;
        let at = self.recent.add();
        if let Some((old_hot, old_cold)) = self.slot(at) {
            (*old_hot, *old_cold) = (hot, cold);
            return at;
        }
        if self.chunks.last().is_none_or(Chunk::is_full) {
            self.chunks.push(Chunk::with_room(self.keeps_firsts));
        }
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.hot.push(hot);
            chunk.cold.push(cold);
            if self.keeps_firsts {
                chunk.firsts.push(First::NOWHERE);
            }
        }
        at
    }

    /// Takes the flow at `at` out of the table.
    fn take_out(&mut self, at: u32) -> Option<Flow> {
        let hasher = &self.hasher;
        let chunk = self.chunks.get_mut(at as usize / CHUNK)?;
        let within = at as usize % CHUNK;
        let large = self.large.remove(&at);
        let mut flow = chunk.flow(within, large.as_ref())?;
        flow.app = self.names.take(at);
        chunk.forget(within);
        self.index.remove(hash_of(hasher, &flow.key), at);
        self.take_connection(at);
        self.recent.leave(at);
        self.wheel.cancel(at);
        self.len -= 1;
        Some(flow)
    }

    /// Ends flows that are over in `step` (see [`super::lifetime`]), at most `most` of them; the earliest begun of
    /// these first. Returns whether more are.
    pub fn expire(&mut self, step: u64, most: usize, mut ended: impl FnMut(Ended)) -> bool {
        let mut over = std::mem::take(&mut self.over);
        while over.len() < most
            && let Some(at) = self.wheel.due(step)
        {
            let Some((hot, cold)) = self.look_at(at) else {
                continue;
            };
            let over_at = self.lifetimes.over_at(state(hot, cold), hot.last_ns);
            if over_at <= step {
                over.push((cold.begun_ns, at));
            } else {
                self.wheel.schedule(at, over_at);
            }
        }
        let is_more = over.len() == most;
        over.sort_unstable_by(|(a_ns, a), (b_ns, b)| {
            let key = |at| hot_at(&self.chunks, at).map(|hot| hot.key.without_session());
            (a_ns.cmp(b_ns)).then_with(|| key(*a).cmp(&key(*b)))
        });
        for (_, at) in over.drain(..) {
            let reason = self
                .look_at(at)
                .map(|(hot, cold)| state(hot, cold).reason());
            if let (Some(reason), Some(flow)) = (reason, self.take_out(at)) {
                ended(Ended { flow, reason });
            }
        }
        self.over = over;
        is_more
    }

    /// Looks at the flow at `at` again when it will be over if nothing more is heard.
    fn wait_for_end(&mut self, at: u32) {
        if let Some((hot, cold)) = self.look_at(at) {
            let over_at = self.lifetimes.over_at(state(hot, cold), hot.last_ns);
            self.wheel.schedule(at, over_at);
        }
    }

    fn look_at(&self, at: u32) -> Option<(&Hot, &Cold)> {
        let chunk = self.chunks.get(at as usize / CHUNK)?;
        let within = at as usize % CHUNK;
        Some((chunk.hot.get(within)?, chunk.cold.get(within)?))
    }

    /// Whether [`Self::ended_by`] has to be asked. Hardly ever.
    #[inline]
    fn may_end(&self, at: u32, packet: &FlowPacket) -> bool {
        let Some(hot) = hot_at(&self.chunks, at) else {
            return false;
        };
        let active_ns = self.lifetimes.active_ns;
        packet.ts_ns.saturating_sub(hot.last_ns) >= self.shortest_ns
            || (active_ns > 0 && packet.ts_ns.saturating_sub(hot.first_ns) >= active_ns)
            || packet.tcp.is_some_and(|tcp| tcp::is_syn(tcp.flags))
    }

    /// Why the record at `at` ends before `packet`, if it does: its flow was silent for too long, or the packet begins
    /// another connection, or the record has become long. A SYN older than what the flow has seen belongs to what has
    /// been seen: files are not always in order.
    #[cold]
    fn ended_by(&self, at: u32, way: Way, packet: &FlowPacket) -> Option<EndReason> {
        let (hot, cold) = self.look_at(at)?;
        let state = state(hot, cold);
        let quiet_ns = packet.ts_ns.saturating_sub(hot.last_ns);
        if quiet_ns > 0 && quiet_ns >= self.lifetimes.idle_ns(state) {
            return Some(state.reason());
        }
        if let Some(tcp) = &packet.tcp
            && tcp::is_syn(tcp.flags)
            && packet.ts_ns >= hot.last_ns
        {
            let (a, b) = sides(hot, cold, self.syns(at));
            let (sender, receiver) = if way == Way::AToB { (a, b) } else { (b, a) };
            if tcp::is_another(tcp, sender, receiver) {
                return Some(EndReason::EndOfFlow);
            }
        }
        let active_ns = self.lifetimes.active_ns;
        let age_ns = packet.ts_ns.saturating_sub(hot.first_ns);
        (active_ns > 0 && age_ns >= active_ns).then_some(EndReason::Active)
    }

    /// Begins another record of the flow at `at` with `packet`; returns the one before.
    #[cold]
    fn go_on(&mut self, at: u32, way: Way, packet: &FlowPacket) -> Option<Flow> {
        self.recent.touch(at);
        let large = self.large.remove(&at);
        let app = self.names.share(at);
        let chunk = self.chunks.get_mut(at as usize / CHUNK)?;
        let old = Flow {
            app,
            ..chunk.flow(at as usize % CHUNK, large.as_ref())?
        };
        if let Some(Line(connection)) = chunk.tcp.get_mut(at as usize % CHUNK) {
            connection.begin_record();
        }
        let (hot, cold) = self.slot(at)?;
        let (a, b) = sides(hot, cold, [0; 2]);
        if hot.key.protocol() == Some(protocol::TCP) {
            let before = [a, b].map(|side| side.seen.then_some(side.flags));
            cold.marks.set_before(before);
        }
        cold.records = cold.records.saturating_add(1);
        hot.empty();
        (hot.first_ns, hot.last_ns) = (packet.ts_ns, packet.ts_ns);
        self.begins(at, packet);
        self.count(at, way, packet);
        Some(old)
    }

    /// Begins another flow of the same key in the place of the one at `at`, which is returned.
    #[cold]
    fn begin_anew(&mut self, at: u32, way: Way, packet: &FlowPacket) -> Option<Flow> {
        self.recent.touch(at);
        let (old_hot, old_cold) = self.slot(at)?;
        let (mut hot, cold) = open(&old_hot.key, way, packet);
        if cold.begun_ns == old_cold.begun_ns {
            hot.namesakes = old_hot.namesakes.saturating_add(1);
        }
        let old_hot = std::mem::replace(old_hot, hot);
        let old_cold = std::mem::replace(old_cold, cold);
        let first = self.first(at);
        let old = Flow {
            app: self.names.take(at),
            first,
            tcp: self.take_connection(at),
            ..flow(&old_hot, &old_cold, self.large.remove(&at).as_ref())
        };
        self.begins(at, packet);
        self.count(at, way, packet);
        self.wait_for_end(at);
        Some(old)
    }

    /// Whether a packet of the time `ts_ns` makes this flow the newest.
    #[inline]
    const fn moves(&self, hot: &Hot, ts_ns: u64) -> bool {
        self.len == self.max_flows || hot.last_ns >> PERIOD != ts_ns >> PERIOD
    }

    /// Reads `opening`, which came with the packet that was counted last in the flow `key`; only among the first
    /// packets of a flow anything is named.
    #[cold]
    pub fn look_inside(&mut self, hash: u32, key: &FlowKey, way: Way, opening: &Opening<'_>) {
        let chunks = &self.chunks;
        let is_it = |at| hot_at(chunks, at).is_some_and(|hot| hot.key == *key);
        let Some(at) = self.index.find(hash, is_it) else {
            return;
        };
        let is_early = self.look_at(at).is_some_and(|(hot, cold)| {
            let [a_to_b, b_to_a] = &hot.tallies;
            let tally = if way == Way::AToB { a_to_b } else { b_to_a };
            tally.packets <= LOOKED_AT && cold.records == 0 && !self.large.contains_key(&at)
        });
        if !is_early || self.names.is_complete(at) {
            return;
        }
        if opening.guess == Guess::Continued {
            self.names.go_on(at, opening);
        } else if let Some(app) = App::read(opening) {
            self.names.learn(at, app);
        }
    }

    /// Packets whose names found no room since this was last asked.
    pub fn take_names_left_out(&mut self) -> u64 {
        self.names.take_left_out()
    }

    /// The flows that are left. What found them is let go.
    pub fn end(self) -> Remaining {
        Remaining::new(self.chunks, self.large, self.names.into_map())
    }

    /// Where the first packet of the flow at `at` lies.
    fn first(&self, at: u32) -> First {
        let chunk = self.chunks.get(at as usize / CHUNK);
        let first = chunk.and_then(|chunk| chunk.firsts.get(at as usize % CHUNK));
        first.copied().unwrap_or_default()
    }

    /// Takes `packet` for the first of the record at `at`.
    #[cold]
    fn begins(&mut self, at: u32, packet: &FlowPacket) {
        let chunk = self.chunks.get_mut(at as usize / CHUNK);
        if let Some(first) = chunk.and_then(|chunk| chunk.firsts.get_mut(at as usize % CHUNK)) {
            *first = packet.first;
            self.begun = packet.first.as_record().map(|_| at);
        }
    }

    /// What the segments of the flow at `at` told; the next ones begin anew.
    fn take_connection(&mut self, at: u32) -> Option<Connection> {
        let chunk = self.chunks.get_mut(at as usize / CHUNK)?;
        let line = chunk.tcp.get_mut(at as usize % CHUNK)?;
        let Line(connection) = std::mem::take(line);
        connection.release(&mut self.holes, at);
        Some(connection).filter(|connection| !connection.is_empty())
    }

    /// Sequence numbers of the first SYN from the first end of the key, and from the second.
    fn syns(&self, at: u32) -> [u32; 2] {
        let chunk = self.chunks.get(at as usize / CHUNK);
        let line = chunk.and_then(|chunk| chunk.tcp.get(at as usize % CHUNK));
        line.map_or([0; 2], |Line(connection)| {
            [Way::AToB, Way::BToA].map(|way| connection.syn(way))
        })
    }

    fn slot(&mut self, at: u32) -> Option<(&mut Hot, &mut Cold)> {
        let chunk = self.chunks.get_mut(at as usize / CHUNK)?;
        let hot = chunk.hot.get_mut(at as usize % CHUNK)?;
        Some((hot, chunk.cold.get_mut(at as usize % CHUNK)?))
    }

    /// Counts a packet in the flow at `at`.
    fn count(&mut self, at: u32, way: Way, packet: &FlowPacket) {
        let FlowPacket {
            ts_ns,
            lengths,
            verdict,
            ip_len,
            is_fragment,
            ..
        } = *packet;
        let Some(chunk) = self.chunks.get_mut(at as usize / CHUNK) else {
            return;
        };
        let Some(hot) = chunk.hot.get_mut(at as usize % CHUNK) else {
            return;
        };
        let is_earlier = ts_ns < hot.first_ns;
        hot.first_ns = hot.first_ns.min(ts_ns);
        hot.last_ns = hot.last_ns.max(ts_ns);
        let tcp_flags = packet.tcp.map_or(0, |tcp| tcp.flags);
        let [a_to_b, b_to_a] = &mut hot.tallies;
        let tally = if way == Way::AToB { a_to_b } else { b_to_a };
        // Now its end may be nearer.
        let closes = tcp_flags & !tally.tcp_flags & (FIN | RST) != 0;
        if tcp_flags & (SYN | ACK) == SYN
            && let Some(cold) = chunk.cold.get_mut(at as usize % CHUNK)
        {
            cold.opened(way);
        }
        if is_fragment {
            if hot.fragments == u16::MAX {
                let large = self.large.entry(at).or_default();
                large.fragments += u64::from(std::mem::take(&mut hot.fragments));
            }
            hot.fragments += 1;
        }
        // No other sum grows faster than these two. The length of a super-frame may be too much.
        let short_len = u16::try_from(ip_len);
        let fits = tally.ip_bytes.checked_add(ip_len).is_some()
            && tally.l2_bytes.checked_add(lengths.orig).is_some()
            && short_len.is_ok();
        if !fits {
            let [a_to_b, b_to_a] = &mut self.large.entry(at).or_default().counts;
            let large = if way == Way::AToB { a_to_b } else { b_to_a };
            large.absorb(&tally.counts());
            large.max_ip_len = large.max_ip_len.max(ip_len);
            *tally = tally.emptied();
        }
        tally.packets += 1;
        tally.ip_bytes += ip_len;
        tally.l2_bytes += lengths.orig;
        tally.captured_bytes += lengths.captured;
        if verdict == Verdict::Truncated {
            tally.truncated += 1;
            tally.missing_bytes += lengths.missing();
        }
        tally.max_ip_len = tally.max_ip_len.max(short_len.unwrap_or_default());
        tally.tcp_flags |= tcp_flags;
        hot.ttl_min = hot.ttl_min.min(packet.ttl);
        hot.ttl_max = hot.ttl_max.max(packet.ttl);
        if let Some(head) = &packet.tcp
            && packet.copies != Copies::Here
        {
            let segment = Segment {
                way,
                head,
                payload: packet.payload,
                ts_ns,
            };
            if let Some(connection) = chunk.connection_mut(at as usize % CHUNK)
                && !connection.take_usual(&segment)
            {
                connection.take(&segment, &mut self.holes, at);
            }
        }
        if packet.copies != Copies::None {
            self.count_duplicate(at);
        }
        if is_earlier {
            self.begins(at, packet);
        }
        if closes {
            self.wait_for_end(at);
        }
    }
}

impl Chunk {
    fn with_room(keeps_firsts: bool) -> Self {
        Self {
            hot: Vec::with_capacity(CHUNK),
            cold: Vec::with_capacity(CHUNK),
            firsts: Vec::with_capacity(if keeps_firsts { CHUNK } else { 0 }),
            tcp: Vec::with_capacity(CHUNK),
        }
    }

    fn is_full(&self) -> bool {
        self.hot.len() == CHUNK
    }

    /// The flow at `within` as others see it.
    pub(super) fn flow(&self, within: usize, large: Option<&Large>) -> Option<Flow> {
        let first = self.firsts.get(within).copied().unwrap_or_default();
        let line = self.tcp.get(within);
        let connection = line.map(|Line(connection)| *connection);
        Some(Flow {
            first,
            tcp: connection.filter(|connection| !connection.is_empty()),
            ..flow(self.hot.get(within)?, self.cold.get(within)?, large)
        })
    }

    /// The connection at `within`, a new one if there is none.
    #[inline]
    fn connection_mut(&mut self, within: usize) -> Option<&mut Connection> {
        if within >= self.tcp.len() {
            self.tcp.resize(within + 1, Line::default());
        }
        self.tcp.get_mut(within).map(|Line(connection)| connection)
    }

    /// Puts `flow` at `within`, whose key it has; returns what does not fit.
    pub(super) fn put(&mut self, within: usize, flow: &Flow) -> Option<Large> {
        if let Some(connection) = flow.tcp
            && let Some(line) = self.connection_mut(within)
        {
            *line = connection;
        }
        let hot = self.hot.get_mut(within)?;
        let cold = self.cold.get_mut(within)?;
        (hot.first_ns, hot.last_ns) = (flow.first_ns, flow.last_ns);
        hot.tos = flow.tos;
        hot.namesakes = flow.namesakes;
        (hot.ttl_min, hot.ttl_max) = (flow.ttl_min, flow.ttl_max);
        (cold.begun_ns, cold.records) = (flow.begun_ns, flow.records);
        (cold.marks).set_originator(flow.originator, flow.originator_sure);
        cold.set_macs(flow.macs);
        if let Some((_, code)) = flow.icmp {
            cold.marks.set_code(code);
        }
        if let Some(first) = self.firsts.get_mut(within) {
            *first = flow.first;
        }
        let mut large = Large::default();
        hot.fragments = narrow(flow.fragments, &mut large.fragments);
        hot.duplicates = narrow(flow.duplicates, &mut large.duplicates);
        for ((tally, large), counts) in
            (hot.tallies.iter_mut().zip(&mut large.counts)).zip(&flow.counts)
        {
            *tally = Tally::of(counts).unwrap_or_else(|| {
                *large = *counts;
                // One packet stays, to tell that there were some.
                let packets = large.packets.min(1);
                large.packets -= packets;
                Tally {
                    packets: packets as u32,
                    ..Tally::NOTHING
                }
            });
        }
        let fits =
            (large.fragments, large.duplicates) == (0, 0) && large.counts == [Counts::default(); 2];
        (!fits).then_some(large)
    }

    /// Leaves nothing of the flow at `within`.
    pub(super) fn forget(&mut self, within: usize) {
        if let Some(hot) = self.hot.get_mut(within) {
            hot.empty();
        }
    }
}

impl Hot {
    /// Whether there is a flow.
    pub(super) fn is_used(&self) -> bool {
        self.tallies.iter().any(Tally::is_used)
    }

    /// Leaves nothing of what was counted.
    fn empty(&mut self) {
        self.tallies = [Tally::NOTHING; 2];
        (self.fragments, self.duplicates) = (0, 0);
        (self.ttl_min, self.ttl_max) = NO_TTL;
    }
}

/// Smallest and largest time to live of no packet.
const NO_TTL: (u8, u8) = (u8::MAX, 0);

/// `count`, if it is narrow enough; else it is left in `large`.
fn narrow(count: u64, large: &mut u64) -> u16 {
    u16::try_from(count).unwrap_or_else(|_| {
        *large = count;
        0
    })
}

impl Tally {
    const NOTHING: Self = Self {
        packets: 0,
        ip_bytes: 0,
        l2_bytes: 0,
        captured_bytes: 0,
        truncated: 0,
        missing_bytes: 0,
        max_ip_len: 0,
        tcp_flags: 0,
    };

    /// `counts` at half the size, if they fit.
    fn of(counts: &Counts) -> Option<Self> {
        let narrow = |count| u32::try_from(count).ok();
        Some(Self {
            packets: narrow(counts.packets)?,
            ip_bytes: narrow(counts.ip_bytes)?,
            l2_bytes: narrow(counts.l2_bytes)?,
            captured_bytes: narrow(counts.captured_bytes)?,
            truncated: narrow(counts.truncated)?,
            missing_bytes: narrow(counts.missing_bytes)?,
            max_ip_len: u16::try_from(counts.max_ip_len).ok()?,
            tcp_flags: counts.tcp_flags,
        })
    }

    fn counts(&self) -> Counts {
        Counts {
            packets: self.packets.into(),
            ip_bytes: self.ip_bytes.into(),
            l2_bytes: self.l2_bytes.into(),
            captured_bytes: self.captured_bytes.into(),
            truncated: self.truncated.into(),
            missing_bytes: self.missing_bytes.into(),
            max_ip_len: self.max_ip_len.into(),
            tcp_flags: self.tcp_flags,
        }
    }

    /// Whether there were packets.
    const fn is_used(&self) -> bool {
        self.packets > 0
    }

    /// The same without what adds up.
    const fn emptied(self) -> Self {
        Self {
            max_ip_len: self.max_ip_len,
            tcp_flags: self.tcp_flags,
            ..Self::NOTHING
        }
    }
}

impl Cold {
    /// A SYN without ACK went `way`: the first of them names the originator.
    fn opened(&mut self, way: Way) {
        if self.marks.is_originator_sure() {
            return;
        }
        if self.marks.originator() != way {
            self.macs.reverse();
        }
        self.marks.set_originator(way, true);
    }

    fn macs(&self) -> Option<(Mac, Mac)> {
        let [src, dst] = self.macs;
        self.marks.has_macs().then_some((src, dst))
    }

    fn set_macs(&mut self, macs: Option<(Mac, Mac)>) {
        self.marks.set_has_macs(macs.is_some());
        let (src, dst) = macs.unwrap_or_default();
        self.macs = [src, dst];
    }

    /// ICMP type and code of the first packet of the flow `key`. The key has the type, as the originator's port.
    fn icmp(&self, key: &FlowKey) -> Option<(u8, u8)> {
        let is_icmp = matches!(key.ports(), Ports::IcmpPair | Ports::IcmpOneWay);
        let [(_, kind), _] = key.ends(self.marks.originator());
        is_icmp.then_some((kind as u8, self.marks.code()))
    }
}

#[inline]
fn hash_of(hasher: &foldhash::fast::RandomState, key: &FlowKey) -> u32 {
    let hash = hasher.hash_one(key);
    (hash ^ (hash >> 32)) as u32
}

fn hot_at(chunks: &[Chunk], at: u32) -> Option<&Hot> {
    chunks
        .get(at as usize / CHUNK)?
        .hot
        .get(at as usize % CHUNK)
}

/// A flow with no packet counted yet.
fn open(key: &FlowKey, way: Way, packet: &FlowPacket) -> (Hot, Cold) {
    let syn = packet.tcp.map(|tcp| tcp.flags & (SYN | ACK));
    // A SYN-ACK first: the SYN was missed, the other side opened the connection.
    let flipped = syn == Some(SYN | ACK);
    let hot = Hot {
        key: *key,
        first_ns: packet.ts_ns,
        last_ns: packet.ts_ns,
        tallies: [Tally::NOTHING; 2],
        fragments: 0,
        duplicates: 0,
        ttl_min: NO_TTL.0,
        ttl_max: NO_TTL.1,
        tos: packet.tos,
        namesakes: 0,
    };
    let mut cold = Cold {
        begun_ns: packet.ts_ns,
        macs: Default::default(),
        records: 0,
        marks: Marks::default(),
    };
    cold.set_macs(packet.macs);
    if flipped {
        cold.macs.reverse();
    }
    let originator = if flipped { way.reverse() } else { way };
    (cold.marks).set_originator(originator, syn == Some(SYN));
    if let Some((_, code)) = packet.icmp {
        cold.marks.set_code(code);
    }
    (hot, cold)
}

/// A flow as others see it, put together from where its parts are; without what it is about, where it lies
/// and what its segments tell.
fn flow(hot: &Hot, cold: &Cold, large: Option<&Large>) -> Flow {
    let mut counts = hot.tallies.each_ref().map(Tally::counts);
    let mut fragments = u64::from(hot.fragments);
    let mut duplicates = u64::from(hot.duplicates);
    if let Some(large) = large {
        for (counts, large) in counts.iter_mut().zip(&large.counts) {
            counts.absorb(large);
        }
        fragments += large.fragments;
        duplicates += large.duplicates;
    }
    Flow {
        key: hot.key,
        first_ns: hot.first_ns,
        last_ns: hot.last_ns,
        counts,
        originator: cold.marks.originator(),
        originator_sure: cold.marks.is_originator_sure(),
        macs: cold.macs(),
        tos: hot.tos,
        ttl_min: hot.ttl_min,
        ttl_max: hot.ttl_max,
        icmp: cold.icmp(&hot.key),
        fragments,
        duplicates,
        namesakes: hot.namesakes,
        begun_ns: cold.begun_ns.min(hot.first_ns),
        records: cold.records,
        app: None,
        first: First::NOWHERE,
        tcp: None,
    }
}

/// What each side of a flow has sent, records before this one included.
fn sides(hot: &Hot, cold: &Cold, syns: [u32; 2]) -> (Side, Side) {
    let side = |tally: &Tally, before: Option<u16>, syn| Side {
        seen: tally.is_used() || before.is_some(),
        flags: tally.tcp_flags | before.unwrap_or_default(),
        syn,
    };
    let ([a, b], [a_before, b_before], [a_syn, b_syn]) = (&hot.tallies, cold.marks.before(), syns);
    (side(a, a_before, a_syn), side(b, b_before, b_syn))
}

fn state(hot: &Hot, cold: &Cold) -> State {
    let (a, b) = sides(hot, cold, [0; 2]);
    State::of(hot.key.protocol(), a, b)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mirror::session::SessionId;
    use crate::wire::inner::Inner;
    use crate::wire::length::FrameLen;

    fn tcp(src: u8, dst: u8, flags: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, 0, 0, 0, dst, 0, 0, 0, 0, 0, src, 0x08, 0];
        frame.extend([
            0x45,
            0,
            0,
            40,
            0,
            0,
            0,
            0,
            60 + src,
            6,
            0,
            0,
            10,
            0,
            0,
            src,
            10,
            0,
            0,
            dst,
        ]);
        frame.extend([
            0, src, 0, dst, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0,
        ]);
        frame
    }

    fn feed(table: &mut FlowTable, ts_ns: u64, frame: &[u8]) -> Option<Flow> {
        feed_any(table, ts_ns, frame).map(|ended| ended.flow)
    }

    fn drain(table: &mut FlowTable) -> Vec<Flow> {
        let empty = FlowTable::new(table.max_flows, Lifetimes::default());
        std::mem::replace(table, empty).end().iter().collect()
    }

    fn feed_any(table: &mut FlowTable, ts_ns: u64, frame: &[u8]) -> Option<Ended> {
        let (key, way, packet) = packet_of(ts_ns, frame);
        table.update(table.hash(&key), u32::MAX, &key, way, &packet)
    }

    fn packet_of(ts_ns: u64, frame: &[u8]) -> (FlowKey, Way, FlowPacket) {
        let inner = Inner::read(frame);
        let (key, way) = FlowKey::of(SessionId(0), None, &inner).unwrap();
        let lengths = FrameLen {
            captured: 54,
            orig: 60,
        };
        let packet =
            FlowPacket::of(ts_ns, lengths, Verdict::Truncated, inner.ip_len, &inner).unwrap();
        (key, way, packet)
    }

    /// The ninth flag is the last bit of the byte before the other eight (RFC 9768 §3.1).
    #[test]
    fn tcp_flags_are_nine_bits() {
        let mut table = FlowTable::new(10, Lifetimes::default());
        let mut syn = tcp(1, 9, 0xc2);
        syn[46] |= 1;
        feed(&mut table, 1, &syn);
        feed(&mut table, 2, &tcp(1, 9, 0x10));
        let flow = drain(&mut table).pop().unwrap();
        assert_eq!(flow.counts(flow.originator).tcp_flags, 0x1d2);
    }

    #[test]
    fn both_directions_count_in_one_flow() {
        let mut table = FlowTable::new(10, Lifetimes::default());
        feed(&mut table, 5, &tcp(9, 1, 0x12));
        feed(&mut table, 9, &tcp(1, 9, 0x02));
        feed(&mut table, 7, &tcp(1, 9, 0x18));
        assert_eq!(table.len(), 1);
        let flow = drain(&mut table).pop().unwrap();
        assert_eq!((flow.first_ns, flow.last_ns), (5, 9));
        let (forth, back) = (
            flow.counts(flow.originator),
            flow.counts(flow.originator.reverse()),
        );
        assert_eq!(
            (forth.packets, forth.tcp_flags, back.packets, back.tcp_flags),
            (2, 0x1a, 1, 0x12)
        );
        assert_eq!(
            (
                forth.ip_bytes,
                forth.l2_bytes,
                forth.captured_bytes,
                forth.truncated
            ),
            (80, 120, 108, 2)
        );
        assert_eq!((flow.ttl_min, flow.ttl_max), (61, 69));
        assert_eq!(
            flow.macs,
            Some(([0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 9])),
            "the originator's"
        );
        assert!(table.is_empty());
    }

    #[test]
    fn the_originator_sent_the_syn() {
        for (first, second) in [(0x10, 0x02), (0x12, 0x10)] {
            let mut table = FlowTable::new(10, Lifetimes::default());
            feed(&mut table, 1, &tcp(9, 1, first));
            feed(&mut table, 2, &tcp(1, 9, second));
            let flow = drain(&mut table).pop().unwrap();
            assert_eq!(
                flow.key.ends(flow.originator)[0].1,
                1,
                "flags {first:#x} then {second:#x}"
            );
        }
        let mut table = FlowTable::new(10, Lifetimes::default());
        feed(&mut table, 1, &tcp(9, 1, 0x02));
        feed(&mut table, 2, &tcp(1, 9, 0x02));
        let flow = drain(&mut table).pop().unwrap();
        assert_eq!(
            flow.key.ends(flow.originator)[0].1,
            9,
            "simultaneous open: the first SYN stays"
        );
    }

    /// Against a model that keeps flows in a plain list.
    #[test]
    fn the_flow_seen_longest_ago_makes_room() {
        let mut table = FlowTable::new(3, Lifetimes::default());
        let mut model: Vec<u8> = Vec::new();
        for (ts, host) in [1u8, 2, 3, 1, 4, 2, 2, 5, 1, 6, 7, 7, 3, 4, 6]
            .into_iter()
            .enumerate()
        {
            let evicted = feed(&mut table, ts as u64, &tcp(host, 99, 0x10));
            let expected = match model.iter().position(|known| *known == host) {
                Some(at) => {
                    model.remove(at);
                    None
                }
                None if model.len() == 3 => Some(model.remove(0)),
                None => None,
            };
            model.push(host);
            let evicted = evicted.map(|flow| flow.key.ends(Way::AToB)[0].1 as u8);
            assert_eq!(evicted, expected, "at {ts}");
            assert_eq!(table.len(), model.len());
        }
        assert_eq!(drain(&mut table).len(), 3);
    }

    /// Before it is full, the table knows which flow that is to the period.
    #[test]
    fn order_is_coarse_until_it_matters() {
        let mut table = FlowTable::new(4, Lifetimes::default());
        let period = |number: u64| number << PERIOD;
        for (host, ts) in [
            (1u8, period(1)),
            (2, period(1) + 1),
            (3, period(1) + 2),
            (1, period(2)),
            (2, period(2) + 1),
            // Still the same period: 1 stays before 2.
            (1, period(2) + 2),
            (4, period(2) + 3),
        ] {
            assert!(feed(&mut table, ts, &tcp(host, 99, 0x10)).is_none());
        }
        let mut evicted = |host: u8, ts| {
            let flow = feed(&mut table, ts, &tcp(host, 99, 0x10));
            flow.map(|flow| flow.key.ends(Way::AToB)[0].1)
        };
        assert_eq!(evicted(5, period(2) + 4), Some(3));
        // Now every packet counts.
        assert_eq!(evicted(1, period(2) + 5), None);
        assert_eq!(evicted(6, period(2) + 6), Some(2));
        assert_eq!(evicted(7, period(2) + 7), Some(4));
    }

    #[test]
    fn many_flows_stay_findable() {
        let mut table = FlowTable::new(2000, Lifetimes::default());
        for round in 0..3u64 {
            for (a, b) in (0..50).flat_map(|a| (100..140).map(move |b| (a, b))) {
                assert!(feed(&mut table, round, &tcp(a, b, 0x10)).is_none());
            }
        }
        assert_eq!(table.len(), 2000);
        let mut flows = drain(&mut table).into_iter();
        assert!(flows.all(|flow| flow.counts(flow.originator).packets == 3));
    }

    /// Sums that outgrow 32 bits go on as if they had 64.
    #[test]
    fn flows_count_beyond_four_gigabytes() {
        let mut table = FlowTable::new(1, Lifetimes::default());
        let frame = tcp(1, 9, 0x18);
        let inner = Inner::read(&frame);
        let (key, way) = FlowKey::of(SessionId(0), None, &inner).unwrap();
        let lengths = FrameLen {
            captured: 1,
            orig: u32::MAX,
        };
        let packet = FlowPacket::of(1, lengths, Verdict::Truncated, inner.ip_len, &inner).unwrap();
        for _ in 0..5 {
            table.update(table.hash(&key), u32::MAX, &key, way, &packet);
        }
        let answer = feed(&mut table, 2, &tcp(9, 1, 0x18));
        assert!(answer.is_none());
        let flow = feed(&mut table, 3, &tcp(7, 9, 0x02)).expect("it makes room");
        let (forth, back) = (flow.counts(way), flow.counts(way.reverse()));
        assert_eq!((forth.packets, forth.truncated), (5, 5));
        assert_eq!(forth.l2_bytes, 5 * u64::from(u32::MAX));
        assert_eq!(forth.missing_bytes, 5 * u64::from(u32::MAX - 1));
        assert_eq!((forth.captured_bytes, forth.ip_bytes), (5, 200));
        assert_eq!((forth.max_ip_len, forth.tcp_flags), (40, 0x18));
        assert_eq!((back.packets, back.l2_bytes), (1, 60));
        let flow = drain(&mut table).pop().unwrap();
        assert_eq!(
            flow.counts(flow.originator).l2_bytes,
            60,
            "nothing is left of the other"
        );
    }

    /// A super-frame may be longer than an IP header can tell; packets around it count as ever.
    #[test]
    fn the_longest_packet_may_be_beyond_sixteen_bits() {
        let (key, way, packet) = packet_of(1, &tcp(1, 9, 0x18));
        let table_of = |lengths: &[u32]| {
            let mut table = FlowTable::new(9, Lifetimes::default());
            for ip_len in lengths {
                let packet = FlowPacket {
                    ip_len: *ip_len,
                    ..packet
                };
                table.update(table.hash(&key), u32::MAX, &key, way, &packet);
            }
            table
        };
        for lengths in [
            vec![40, 70_000, 65_535, 190_000, 60],
            vec![65_536],
            vec![65_535],
        ] {
            let joined = Remaining::join([table_of(&lengths).end(), table_of(&[50]).end()]).0;
            let flows: Vec<Flow> = joined.iter().collect();
            assert_eq!(flows.len(), 1, "{lengths:?}");
            let counts = flows[0].counts(way);
            let (most, sum) = (lengths.iter().max(), lengths.iter().sum::<u32>());
            assert_eq!(Some(&counts.max_ip_len), most);
            assert_eq!(counts.ip_bytes, u64::from(sum + 50));
            assert_eq!(counts.packets, lengths.len() as u64 + 1);
        }
    }

    /// Of requests and answers, and of messages that nobody answers; also in a later record.
    #[test]
    fn type_and_code_of_icmp_are_those_of_the_first_message() {
        for (kind, answer) in [(8, 0), (0, 8), (13, 14), (3, 3), (11, 11)] {
            for (src, dst) in [(1, 9), (9, 1)] {
                let message = |kind: u8, code: u8, src: u8, dst: u8| {
                    let mut frame = tcp(src, dst, 0);
                    (frame[23], frame[34], frame[35]) = (1, kind, code);
                    frame
                };
                let mut table = FlowTable::new(9, Lifetimes::default());
                let second = 1_000_000_000;
                let mut ended = Vec::new();
                for time in 0..=400 {
                    let frame = match time % 2 {
                        0 if answer != kind => message(kind, 255, src, dst),
                        0 => message(kind, 201, src, dst),
                        _ if answer != kind => message(answer, 3, dst, src),
                        _ => message(kind, 201, src, dst),
                    };
                    ended.extend(feed_any(&mut table, time * second, &frame));
                }
                let code = if answer == kind { 201 } else { 255 };
                let reasons: Vec<_> = ended.iter().map(|ended| ended.reason).collect();
                assert_eq!(reasons, [EndReason::Active]);
                let left = drain(&mut table).pop().unwrap();
                for flow in [&ended[0].flow, &left] {
                    assert_eq!(flow.icmp, Some((kind, code)), "{kind} from {src}");
                }
                assert_eq!(left.records, 1);
            }
        }
    }

    /// A segment, as the model below keeps it.
    #[derive(Clone, Debug)]
    struct Sent {
        ts_ns: u64,
        back: bool,
        flags: u8,
        seq: u32,
    }

    /// Why the flow of `history` is over before `packet`, if it is, told from all of its packets.
    fn over(history: &[Sent], packet: &Sent) -> Option<EndReason> {
        let last = history.iter().map(|sent| sent.ts_ns).max()?;
        if packet.ts_ns < last {
            return None;
        }
        let of = |back| history.iter().filter(move |sent| sent.back == back);
        let any = |back, flag| of(back).any(|sent| sent.flags & flag != 0);
        let either = |flag| any(false, flag) || any(true, flag);
        let silent = |back| of(back).next().is_none();
        let finished = |back| silent(back) || any(back, 1);
        let (is_reset, is_closed) = (either(4), finished(false) && finished(true));
        let is_asked = either(2) && !either(16) && (silent(false) || silent(true));
        let (seconds, reason) = match () {
            () if is_reset => (5, EndReason::EndOfFlow),
            () if is_closed => (10, EndReason::EndOfFlow),
            () if is_asked => (30, EndReason::Idle),
            () => (300, EndReason::Idle),
        };
        if packet.ts_ns - last >= seconds * 1_000_000_000 {
            return Some(reason);
        }
        let first_syn = of(packet.back).find(|sent| sent.flags & 2 != 0);
        let is_new = packet.flags & 7 == 2 && first_syn.is_none_or(|syn| syn.seq != packet.seq);
        (is_new && (is_reset || is_closed)).then_some(EndReason::EndOfFlow)
    }

    const WHOLE: Lifetimes = Lifetimes {
        active_ns: 0,
        ..Lifetimes::USUAL
    };

    proptest! {
        /// Connections on few ports, in a table with room for all and for one, against a model that
        /// keeps every packet. No SYN has an ACK here: tcp.rs tells what answers belong to.
        #[test]
        fn connections_end_as_their_packets_tell(
            room in prop_oneof![Just(1u32), Just(100)],
            steps in proptest::collection::vec(
                (
                    0u8..4,
                    any::<bool>(),
                    prop_oneof![Just(0x02u8), Just(0x10), Just(0x11), Just(0x04), Just(0x03), Just(0xc2)],
                    0u32..3,
                    prop_oneof![
                        Just(0i64), Just(1), Just(-2), Just(4_999_999_999), Just(5_000_000_000),
                        Just(9_999_999_999), Just(10_000_000_000), Just(29_999_999_999),
                        Just(30_000_000_000), Just(299_999_999_999), Just(300_000_000_000),
                    ],
                ),
                1..60,
            ),
        ) {
            let mut table = FlowTable::new(room, WHOLE);
            // By the time they were last seen; nothing but the order matters.
            let mut model: Vec<(u8, Vec<Sent>)> = Vec::new();
            let mut now = 1_000_000_000_000i64;
            for (port, back, flags, seq, pause) in steps {
                now += pause;
                let packet = Sent { ts_ns: now as u64, back, flags, seq };
                let (client, server) = (10 + port, 100);
                let (src, dst) = if back { (server, client) } else { (client, server) };
                let mut frame = tcp(src, dst, flags);
                frame[38..42].copy_from_slice(&seq.to_be_bytes());
                let ended = feed_any(&mut table, packet.ts_ns, &frame);
                let known = model.iter().position(|(known, _)| *known == port);
                let mut expected = None;
                let mut history = match known {
                    Some(at) => model.remove(at).1,
                    None if model.len() == room as usize => {
                        let (_, history) = model.remove(0);
                        expected = Some((EndReason::LackOfResources, history));
                        Vec::new()
                    }
                    None => Vec::new(),
                };
                if let Some(reason) = over(&history, &packet) {
                    expected = Some((reason, std::mem::take(&mut history)));
                }
                history.push(packet);
                model.push((port, history));
                let told = ended.map(|ended| (ended.reason, summed(&ended.flow)));
                let expected = expected.map(|(reason, history)| (reason, summed_up(&history)));
                prop_assert_eq!(told, expected);
            }
            let mut left: Vec<_> = drain(&mut table).iter().map(summed).collect();
            let mut expected: Vec<_> = model.iter().map(|(_, history)| summed_up(history)).collect();
            left.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(left, expected);
        }
    }

    proptest! {
        /// However often somebody looks whether flows are over: the same records come out.
        #[test]
        fn looking_changes_nothing(
            packets in proptest::collection::vec(
                (
                    0u8..5,
                    any::<bool>(),
                    prop_oneof![Just(0x02u8), Just(0x12), Just(0x10), Just(0x11), Just(0x04)],
                    prop_oneof![Just(0u64), 1u64..1_000_000, 1u64..3_000_000_000, 1u64..40_000_000_000, 1u64..400_000_000_000],
                    0u64..3_000_000,
                    any::<bool>(),
                ),
                1..80,
            ),
            lifetimes in prop_oneof![Just(Lifetimes::USUAL), Just(WHOLE)],
        ) {
            let mut tables = [true, false].map(|looks| (looks, FlowTable::new(100, lifetimes), Vec::new()));
            let mut now = 1_760_000_000_000_000_000u64;
            for (port, back, flags, pause, late, looks_now) in &packets {
                now += pause;
                let (src, dst) = if *back { (100, 10 + port) } else { (10 + port, 100) };
                let frame = tcp(src, dst, *flags);
                for (looks, table, out) in &mut tables {
                    if *looks && *looks_now {
                        table.expire(crate::flow::lifetime::step(now), usize::MAX, |ended| out.push(ended));
                    }
                    out.extend(feed_any(table, now - late, &frame));
                }
            }
            let [looked, not] = tables.map(|(_, mut table, mut out)| {
                let is_all = !table.expire(u64::MAX >> 28, usize::MAX, |ended| out.push(ended));
                assert!(is_all && table.is_empty());
                let mut told: Vec<String> = out.iter().map(|ended| format!("{ended:?}")).collect();
                told.sort();
                told
            });
            prop_assert_eq!(looked, not);
        }
    }

    /// Places that flows have left are given to others: the table takes no more memory than flows live at a time.
    #[test]
    fn places_are_given_again() {
        let mut table = FlowTable::new(1 << 20, Lifetimes::default());
        let (mut ended, mut now) = (0, 1_760_000_000_000_000_000);
        for round in 0..50u64 {
            for host in 0..190 {
                feed(&mut table, now + host, &tcp(host as u8, 195, 0x02));
            }
            now += 31_000_000_000;
            let mut earlier = 0;
            table.expire(crate::flow::lifetime::step(now), usize::MAX, |flow| {
                assert_eq!(flow.reason, EndReason::Idle);
                assert!(flow.flow.first_ns >= earlier, "the earliest first");
                earlier = flow.flow.first_ns;
                ended += 1;
            });
            assert_eq!((ended, table.len()), ((round + 1) * 190, 0));
        }
        assert_eq!(table.chunks.len(), 1);
        // A few at a time.
        for host in 0..190 {
            feed(&mut table, now, &tcp(host, 195, 0x02));
        }
        let later = crate::flow::lifetime::step(now + 31_000_000_000);
        let mut parts = Vec::new();
        loop {
            let mut part = 0;
            let is_more = table.expire(later, 64, |_| part += 1);
            parts.push(part);
            if !is_more {
                break;
            }
        }
        assert_eq!(parts, [64, 64, 62]);
    }

    /// A record is never longer than the active timeout; what follows goes on under the same name, and what was seen
    /// before still counts for how the flow ends.
    #[test]
    fn long_flows_are_told_in_parts() {
        let second = 1_000_000_000;
        let mut table = FlowTable::new(10, Lifetimes::default());
        let mut parts = Vec::new();
        let mut at = |table: &mut FlowTable, seconds: u64, back: bool, flags| {
            let (src, dst) = if back { (9, 1) } else { (1, 9) };
            parts.extend(feed_any(
                table,
                (1000 + seconds) * second,
                &tcp(src, dst, flags),
            ));
        };
        at(&mut table, 0, false, 0x02);
        at(&mut table, 1, true, 0x12);
        for seconds in (2..=700).step_by(7) {
            at(&mut table, seconds, false, 0x18);
        }
        at(&mut table, 701, false, 0x11);
        at(&mut table, 702, true, 0x11);
        // Closed: ten seconds of silence are enough.
        table.expire(crate::flow::lifetime::step(1714 * second), 9, |ended| {
            parts.push(ended)
        });
        let told: Vec<_> = parts
            .iter()
            .map(|Ended { flow, reason }| {
                let span = (flow.first_ns / second - 1000, flow.last_ns / second - 1000);
                let packets = flow.counts.iter().map(|counts| counts.packets).sum::<u64>();
                (*reason, flow.records, span, packets, flow.begun_ns / second)
            })
            .collect();
        assert_eq!(
            told,
            [
                (EndReason::Active, 0, (0, 296), 45, 1000),
                (EndReason::Active, 1, (303, 597), 43, 1000),
                (EndReason::EndOfFlow, 2, (604, 702), 16, 1000),
            ]
        );
    }

    type Summed = (u64, u64, [(u64, u16); 2]);

    /// Times, and packets and flags to port 100 and back.
    fn summed(flow: &Flow) -> Summed {
        let forth = if flow.key.ends(Way::AToB)[1].1 == 100 {
            Way::AToB
        } else {
            Way::BToA
        };
        let counts = [forth, forth.reverse()].map(|way| {
            let counts = flow.counts(way);
            (counts.packets, counts.tcp_flags)
        });
        (flow.first_ns, flow.last_ns, counts)
    }

    fn summed_up(history: &[Sent]) -> Summed {
        let times = || history.iter().map(|sent| sent.ts_ns);
        let counts = [false, true].map(|back| {
            let of = || history.iter().filter(|sent| sent.back == back);
            (
                of().count() as u64,
                of().fold(0, |flags, sent| flags | u16::from(sent.flags)),
            )
        });
        (times().min().unwrap(), times().max().unwrap(), counts)
    }

    /// Where the clock stands still, the records of a port used again still have names of their own.
    #[test]
    fn namesakes_are_numbered() {
        let mut table = FlowTable::new(9, Lifetimes::default());
        let mut syn = tcp(1, 9, 0x02);
        let mut numbers = Vec::new();
        for seq in 0..4 {
            syn[41] = seq;
            let ended = feed(&mut table, 5 + u64::from(seq / 3), &syn);
            numbers.extend(ended.map(|flow| flow.namesakes));
            feed(&mut table, 5 + u64::from(seq / 3), &tcp(9, 1, 0x14));
        }
        assert_eq!(numbers, [0, 1, 2]);
        assert_eq!(drain(&mut table)[0].namesakes, 0, "it began later");
    }

    /// A table that keeps where first packets lie, and one packet after the other: time, frame, number of its record.
    fn feed_numbered(
        table: &mut FlowTable,
        ts_ns: u64,
        frame: &[u8],
        number: u64,
    ) -> Option<First> {
        let inner = Inner::read(frame);
        let (key, way) = FlowKey::of(SessionId(0), None, &inner).unwrap();
        let lengths = FrameLen {
            captured: 54,
            orig: 60,
        };
        let packet = FlowPacket::of(ts_ns, lengths, Verdict::Truncated, inner.ip_len, &inner);
        let packet = FlowPacket {
            first: First::record(number),
            ..packet.unwrap()
        };
        let ended = table.update(table.hash(&key), u32::MAX, &key, way, &packet);
        ended.map(|ended| ended.flow.first)
    }

    #[test]
    fn the_earliest_packet_is_the_first() {
        let mut table = FlowTable::new(9, Lifetimes::default());
        table.keep_firsts();
        let feed = feed_numbered;
        assert_eq!(feed(&mut table, 5, &tcp(1, 9, 0x10), 0), None);
        assert_eq!(table.take_begun(), Some(0));
        feed(&mut table, 5, &tcp(9, 1, 0x10), 1);
        assert_eq!(table.take_begun(), None, "of one time the first to come");
        feed(&mut table, 3, &tcp(9, 1, 0x10), 2);
        assert_eq!(table.take_begun(), Some(0));
        // The answer for the first one comes too late.
        table.found(0, 0, First::place(100));
        table.found(0, 2, First::place(300));
        feed(&mut table, 6, &tcp(1, 9, 0x10), 3);
        assert_eq!(table.take_begun(), None);
        assert_eq!(drain(&mut table)[0].first, First::place(300));
    }

    /// Whoever stands in a flow's place later gets its own answer only, in whichever order they come.
    #[test]
    fn a_place_in_the_table_is_not_a_place_in_the_file() {
        let mut table = FlowTable::new(1, Lifetimes::default());
        table.keep_firsts();
        let feed = feed_numbered;
        feed(&mut table, 1, &tcp(1, 9, 0x10), 0);
        assert_eq!(table.take_begun(), Some(0));
        assert_eq!(
            feed(&mut table, 2, &tcp(2, 9, 0x10), 1),
            Some(First::record(0))
        );
        assert_eq!(table.take_begun(), Some(0));
        table.found(0, 0, First::place(100));
        assert_eq!(
            feed(&mut table, 3, &tcp(3, 9, 0x02), 2),
            Some(First::record(1))
        );
        table.found(0, 2, First::place(300));
        table.found(0, 1, First::place(200));
        feed(&mut table, 4, &tcp(9, 3, 0x14), 3);
        // The port is used again: another flow of the same name.
        let mut syn = tcp(3, 9, 0x02);
        syn[41] = 9;
        table.take_begun();
        assert_eq!(feed(&mut table, 5, &syn, 4), Some(First::place(300)));
        assert_eq!(table.take_begun(), Some(0));
        table.found(7, 4, First::place(400));
        assert_eq!(table.first(0), First::record(4));
    }

    /// Each record of a flow that goes on has the place of its own first packet; what ended while it waited has none of
    /// another's.
    #[test]
    fn later_records_have_places_of_their_own() {
        let second = 1_000_000_000;
        let lifetimes = Lifetimes {
            active_ns: 10 * second,
            ..Lifetimes::default()
        };
        let mut table = FlowTable::new(9, lifetimes);
        table.keep_firsts();
        feed_numbered(&mut table, second, &tcp(1, 9, 0x10), 0);
        table.found(0, 0, First::place(100));
        feed_numbered(&mut table, 9 * second, &tcp(9, 1, 0x10), 1);
        table.take_begun();
        let first = feed_numbered(&mut table, 11 * second, &tcp(1, 9, 0x10), 2);
        assert_eq!(first, Some(First::place(100)));
        assert_eq!(table.take_begun(), Some(0));
        // It is silent for too long, and another stands in its place.
        let mut ended = Vec::new();
        let step = crate::flow::lifetime::step(400 * second);
        table.expire(step, 9, |flow| ended.push(flow.flow.first));
        assert_eq!(ended, [First::record(2)]);
        feed_numbered(&mut table, 401 * second, &tcp(3, 9, 0x10), 3);
        assert_eq!(table.take_begun(), Some(0));
        table.found(0, 2, First::place(200));
        assert_eq!(drain(&mut table)[0].first, First::record(3));
    }

    /// What no capture has is nowhere, also where a packet is found to be earlier.
    #[test]
    fn what_is_not_kept_has_no_place() {
        let mut table = FlowTable::new(9, Lifetimes::default());
        table.keep_firsts();
        feed_numbered(&mut table, 5, &tcp(1, 9, 0x10), 0);
        table.found(0, 0, First::place(100));
        feed(&mut table, 4, &tcp(1, 9, 0x10));
        assert_eq!(drain(&mut table)[0].first, First::NOWHERE);
        // Without a capture nothing is kept at all.
        feed_numbered(&mut table, 5, &tcp(1, 9, 0x10), 0);
        assert_eq!(table.take_begun(), None);
        assert_eq!(table.chunks[0].firsts.capacity(), 0);
    }

    /// Fragments beyond 16 bits, in the table and where two parts of a flow are put together.
    #[test]
    fn fragments_count_on() {
        let mut table = FlowTable::new(1, Lifetimes::default());
        let mut fragment = tcp(1, 9, 0x10);
        fragment[20] = 0x20;
        feed(&mut table, 1, &fragment);
        table.chunks[0].hot[0].fragments = u16::MAX;
        feed(&mut table, 2, &fragment);
        feed(&mut table, 3, &fragment);
        let mut flow = drain(&mut table).pop().unwrap();
        let beyond = u64::from(u16::MAX) + 2;
        assert_eq!(flow.fragments, beyond);
        flow.absorb(flow.clone());
        assert_eq!(flow.fragments, 2 * beyond);
    }

    /// A copy counts as a packet, the word of a copy elsewhere does not; nor does it make a flow.
    #[test]
    fn copies_count_on() {
        let mut table = FlowTable::new(9, Lifetimes::default());
        let frame = tcp(1, 9, 0x10);
        let with = |copies| {
            let (key, way, packet) = packet_of(1, &frame);
            (key, way, FlowPacket { copies, ..packet })
        };
        let mut update = |copies| {
            let (key, way, packet) = with(copies);
            let ended = table.update(table.hash(&key), u32::MAX, &key, way, &packet);
            assert!(ended.is_none());
            table.len()
        };
        assert_eq!(update(Copies::OfAnother), 0);
        let copies = [Copies::None, Copies::Here, Copies::OfAnother, Copies::There];
        assert_eq!(copies.map(&mut update), [1; 4]);
        table.chunks[0].hot[0].duplicates += u16::MAX - 3;
        let (key, way, packet) = with(Copies::OfAnother);
        table.update(table.hash(&key), u32::MAX, &key, way, &packet);
        let mut flow = drain(&mut table).pop().unwrap();
        let beyond = u64::from(u16::MAX) + 1;
        let packets = flow.counts.iter().map(|counts| counts.packets);
        assert_eq!((packets.sum::<u64>(), flow.duplicates), (3, beyond));
        flow.absorb(flow.clone());
        assert_eq!(flow.duplicates, 2 * beyond);
    }

    #[test]
    fn a_live_flow_fits_the_memory_figure() {
        for most in [1 << 20, 1_000_000, 1_100_000] {
            for keeps_firsts in [false, true] {
                let figure = if keeps_firsts { 256 } else { 248 };
                let bytes = memory_bytes(std::iter::once(most), keeps_firsts);
                assert!(
                    bytes <= figure * u64::from(most),
                    "{bytes} for {most} flows"
                );
                // However the flows are shared out, and the end of the run included.
                let shares = memory_bytes(std::iter::repeat_n(most / 8, 8), keeps_firsts);
                assert!(
                    shares <= figure * u64::from(most),
                    "{shares} for {most} flows"
                );
            }
        }
        assert_eq!(size_of::<Hot>(), 128, "two cache lines");
        assert_eq!(size_of::<Line>(), 64, "one more for TCP");
        assert_eq!(size_of::<Cold>(), 24);
    }
}
