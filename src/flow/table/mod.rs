//! The flow table of one worker: bounded, flows end by themselves, and the one seen longest ago makes room where
//! all places are taken.
//!
//! What every packet writes stands apart from what only the first one tells (`parts`): two cache lines a flow, in
//! `places`. `index` finds them, `recent` keeps the order in which they were last seen: by the packet once the table is
//! full, before that to a few seconds, because nothing but making room needs it. `wheel` tells which to look at because
//! their time may have come. A place that a flow has left is given to the next one.

mod counting;
mod marks;
pub(super) mod parts;
pub(super) mod places;
mod tally;
#[cfg(test)]
mod tests;

use std::hash::BuildHasher;

use self::parts::Hot;
use self::parts::{Cold, open};
use self::places::Places;
use self::tally::Tally;
use super::app::{App, Guess, Opening};
use super::counts::{Copies, Flow, FlowPacket};
use super::ended::{EndReason, Ended};
use super::first::First;
use super::index::{Index, entries_for};
use super::key::{FlowKey, Way};
use super::lifetime::{Lifetimes, State};
use super::names::Names;
use super::recent::{self, Recent};
use super::remaining::{self, Remaining};
use super::tcp::holes::{self, Pool};
use super::tcp::{self, Side};
use super::wheel::{self, Wheel};
use crate::wire::numbers::protocol;

/// While there is room, flows are put in order again when another so many nanoseconds begin, as a power of
/// two: about nine seconds.
const PERIOD: u32 = 33;
/// Packets of each direction of a flow that are looked into: behind a handshake, and twice where both ends are mirrored in
/// one session.
const LOOKED_AT: u32 = 8;

/// The flows of one worker.
pub struct FlowTable {
    index: Index,
    hasher: foldhash::fast::RandomState,
    places: Places,
    names: Names,
    recent: Recent,
    wheel: Wheel,
    lifetimes: Lifetimes,
    /// [`Lifetimes::shortest_ns`].
    shortest_ns: u64,
    /// Bytes that connections lack just now.
    holes: Pool,
    len: u32,
    max_flows: u32,
    /// Flows that are over, while they are put in order: first packet, place.
    over: Vec<(u64, u32)>,
    /// Records whose packets are all from before this time have ended; 0 where they end at no interval.
    interval_began_ns: u64,
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
        flows += places::room_for(max_flows);
        finding += holes
            + entries_for(max_flows) * size_of::<u64>() as u64
            + recent::memory_bytes(max_flows)
            + wheel::memory_bytes(max_flows);
    }
    places::memory_bytes(flows, keeps_firsts) + finding.max(remaining::memory_bytes(flows))
}

impl FlowTable {
    /// A table for at most `max_flows` flows (at least one).
    pub fn new(max_flows: u32, lifetimes: Lifetimes) -> Self {
        let max_flows = max_flows.clamp(1, wheel::MOST_PLACES);
        Self {
            index: Index::new(max_flows),
            hasher: foldhash::fast::RandomState::default(),
            places: Places::default(),
            names: Names::new(max_flows),
            recent: Recent::new(max_flows),
            wheel: Wheel::new(max_flows),
            lifetimes,
            shortest_ns: lifetimes.shortest_ns(),
            holes: Pool::new(max_flows),
            len: 0,
            max_flows,
            over: Vec::new(),
            interval_began_ns: 0,
            begun: None,
        }
    }

    /// Keeps from now on, with no flow in it yet, where first packets lie.
    pub const fn keep_firsts(&mut self) {
        self.places.keep_firsts();
    }

    /// The place of the flow of whose record the last update was the first packet, if it was one and lies in a capture.
    #[inline]
    pub const fn take_begun(&mut self) -> Option<u32> {
        self.begun.take()
    }

    /// Record `number` lies at `first`: that is kept of the flow at `at`, if the record is its first packet. It may
    /// have ended since.
    pub fn found(&mut self, at: u32, number: u64, first: First) {
        let kept = self.places.first_mut(at);
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
        let hash = self.hasher.hash_one(key);
        (hash ^ (hash >> 32)) as u32
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
        self.places.prefetch(place);
        self.recent.prefetch(place);
        place
    }

    /// Has the processor fetch what [`Self::look_inside`] asks beside that, of the flow foreseen.
    #[inline]
    pub fn prefetch_early(&self, foreseen: u32) {
        self.places.prefetch_cold(foreseen);
    }

    /// Has the processor fetch the rest of what a packet of the time `ts_ns` will touch if its flow is the
    /// one foreseen.
    #[inline]
    pub fn prefetch_rest(&self, foreseen: u32, ts_ns: u64) {
        if (self.places.hot(foreseen)).is_some_and(|hot| self.moves(hot, ts_ns)) {
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
        let places = &self.places;
        let is_it = |at| places.hot(at).is_some_and(|hot| hot.key == *key);
        let found = if is_it(foreseen) {
            Some(foreseen)
        } else {
            self.index.find(hash, is_it)
        };
        if packet.copies == Copies::OfAnother {
            self.places.count_duplicate(found?);
            return None;
        }
        if let Some(at) = found {
            if self.may_end(at, packet)
                && let Some(reason) = self.ended_by(at, way, packet)
            {
                let flow = match reason {
                    EndReason::Active | EndReason::Forced => self.go_on(at, way, packet)?,
                    _ => self.begin_anew(at, way, packet)?,
                };
                return Ended::of(flow, reason);
            }
            if (self.places.hot(at)).is_some_and(|hot| self.moves(hot, packet.ts_ns)) {
                self.recent.touch(at);
            }
            self.count(at, way, packet);
            return None;
        }
        let (hot, cold) = open(key, way, packet);
        let mut ended = None;
        if self.len == self.max_flows {
            let oldest = self.recent.oldest()?;
            ended = Ended::of(self.take_out(oldest)?, EndReason::LackOfResources);
        }
        self.len += 1;
        let at = self.recent.add();
        self.places.open(at, hot, cold);
        self.index.insert(hash, at);
        self.begins(at, packet);
        self.count(at, way, packet);
        self.wait_for_end(at);
        ended
    }

    /// Takes the flow at `at` out of the table.
    fn take_out(&mut self, at: u32) -> Option<Flow> {
        let mut flow = self.places.take(at, &mut self.holes)?;
        flow.app = self.names.take(at);
        self.index.remove(self.hash(&flow.key), at);
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
            let Some((hot, cold)) = self.places.parts(at) else {
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
        self.put_in_order(&mut over);
        for (_, at) in over.drain(..) {
            let reason = (self.places.parts(at)).map(|(hot, cold)| state(hot, cold).reason());
            if let (Some(reason), Some(flow)) = (reason, self.take_out(at))
                && let Some(over) = Ended::of(flow, reason)
            {
                ended(over);
            }
        }
        self.over = over;
        is_more
    }

    /// An interval began at `began_ns`: a record ends before the first packet from then on, or when
    /// [`Self::end_records`] comes to it.
    pub const fn begin_interval(&mut self, began_ns: u64) {
        self.interval_began_ns = began_ns;
    }

    /// Ends records whose packets are all from before the interval, of flows from the place `from` on, at most `most` of
    /// them and `looks` looked at; the earliest begun of these first. Returns the place to go on at, if there is one.
    pub fn end_records(
        &mut self,
        from: u32,
        (most, looks): (usize, usize),
        mut ended: impl FnMut(Ended),
    ) -> Option<u32> {
        let mut over = std::mem::take(&mut self.over);
        let mut places = (from..self.places.all().end).take(looks);
        let mut next = None;
        for at in places.by_ref() {
            next = at.checked_add(1);
            if let Some((hot, cold)) = self.places.parts(at)
                && hot.is_used()
                && hot.last_ns < self.interval_began_ns
            {
                over.push((cold.begun_ns, at));
            }
            if over.len() >= most {
                break;
            }
        }
        self.put_in_order(&mut over);
        for (_, at) in over.drain(..) {
            if let Some(flow) = self.end_record(at) {
                let reason = EndReason::Forced;
                ended(Ended { flow, reason });
            }
        }
        self.over = over;
        next.filter(|next| *next < self.places.all().end)
    }

    /// Puts flows, of which first packets and places are given, into the order of their records.
    fn put_in_order(&self, flows: &mut [(u64, u32)]) {
        flows.sort_unstable_by(|(a_ns, a), (b_ns, b)| {
            let key = |at| self.places.hot(at).map(|hot| hot.key.without_session());
            (a_ns.cmp(b_ns)).then_with(|| key(*a).cmp(&key(*b)))
        });
    }

    /// Looks at the flow at `at` again when it will be over if nothing more is heard.
    fn wait_for_end(&mut self, at: u32) {
        if let Some((hot, cold)) = self.places.parts(at) {
            let over_at = self.lifetimes.over_at(state(hot, cold), hot.last_ns);
            self.wheel.schedule(at, over_at);
        }
    }

    /// Whether [`Self::ended_by`] has to be asked. Hardly ever.
    #[inline]
    fn may_end(&self, at: u32, packet: &FlowPacket) -> bool {
        let Some(hot) = self.places.hot(at) else {
            return false;
        };
        let active_ns = self.lifetimes.active_ns;
        packet.ts_ns.saturating_sub(hot.last_ns) >= self.shortest_ns
            || (active_ns > 0 && packet.ts_ns.saturating_sub(hot.first_ns) >= active_ns)
            || hot.last_ns < self.interval_began_ns
            || packet.tcp.is_some_and(|tcp| tcp::is_syn(tcp.flags))
    }

    /// Why the record at `at` ends before `packet`, if it does: its flow was silent for too long, or the packet begins
    /// another connection, or the record has become long, or another interval has come. A SYN older than what the flow has seen belongs to what has
    /// been seen: files are not always in order.
    #[cold]
    fn ended_by(&self, at: u32, way: Way, packet: &FlowPacket) -> Option<EndReason> {
        let (hot, cold) = self.places.parts(at)?;
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
        let is_over = |ns: u64| hot.last_ns < ns && packet.ts_ns >= ns;
        if !hot.is_used() || is_over(self.interval_began_ns) {
            return Some(EndReason::Forced);
        }
        let active_ns = self.lifetimes.active_ns;
        let age_ns = packet.ts_ns.saturating_sub(hot.first_ns);
        (active_ns > 0 && age_ns >= active_ns).then_some(EndReason::Active)
    }

    /// Begins another record of the flow at `at` with `packet`; returns the one before, if that has not ended yet.
    #[cold]
    fn go_on(&mut self, at: u32, way: Way, packet: &FlowPacket) -> Option<Flow> {
        self.recent.touch(at);
        let old = match self.places.hot(at)?.is_used() {
            true => self.end_record(at),
            false => None,
        };
        let slot = self.places.slot(at)?;
        (slot.hot.first_ns, slot.hot.last_ns) = (packet.ts_ns, packet.ts_ns);
        self.begins(at, packet);
        self.count(at, way, packet);
        old
    }

    /// Ends the record of the flow at `at`, which goes on. The next one is empty.
    fn end_record(&mut self, at: u32) -> Option<Flow> {
        let (hot, cold) = self.places.parts(at)?;
        let (a, b) = sides(hot, cold, [0; 2]);
        let old = Flow {
            app: self.names.share(at),
            ..self.places.take_record(at)?
        };
        let mut slot = self.places.slot(at)?;
        if let Some(connection) = slot.known_connection_mut() {
            connection.begin_record();
        }
        if slot.hot.key.protocol() == Some(protocol::TCP) {
            let before = [a, b].map(|side| side.seen.then_some(side.flags));
            slot.cold.marks.set_before(before);
        }
        slot.cold.records = slot.cold.records.saturating_add(1);
        Some(old)
    }

    /// Begins another flow of the same key in the place of the one at `at`, which is returned.
    #[cold]
    fn begin_anew(&mut self, at: u32, way: Way, packet: &FlowPacket) -> Option<Flow> {
        self.recent.touch(at);
        let (old_hot, old_cold) = self.places.parts(at)?;
        let (mut hot, cold) = open(&old_hot.key, way, packet);
        if cold.begun_ns == old_cold.begun_ns {
            hot.namesakes = old_hot.namesakes.saturating_add(1);
        }
        let old = Flow {
            app: self.names.take(at),
            ..self.places.take(at, &mut self.holes)?
        };
        self.places.open(at, hot, cold);
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
        let places = &self.places;
        let is_it = |at| places.hot(at).is_some_and(|hot| hot.key == *key);
        let Some(at) = self.index.find(hash, is_it) else {
            return;
        };
        let is_early = self.places.parts(at).is_some_and(|(hot, cold)| {
            let [a_to_b, b_to_a] = &hot.tallies;
            let tally = if way == Way::AToB { a_to_b } else { b_to_a };
            tally.packets <= LOOKED_AT && cold.records == 0 && !self.places.is_large(at)
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
        Remaining::new(self.places, self.names.into_map())
    }

    /// Takes `packet` for the first of the record at `at`.
    #[cold]
    fn begins(&mut self, at: u32, packet: &FlowPacket) {
        if let Some(first) = self.places.first_mut(at) {
            *first = packet.first;
            self.begun = packet.first.as_record().map(|_| at);
        }
    }

    /// Sequence numbers of the first SYN from the first end of the key, and from the second.
    fn syns(&self, at: u32) -> [u32; 2] {
        let connection = self.places.connection(at);
        connection.map_or([0; 2], |connection| {
            [Way::AToB, Way::BToA].map(|way| connection.syn(way))
        })
    }

    /// Counts a packet in the flow at `at`.
    fn count(&mut self, at: u32, way: Way, packet: &FlowPacket) {
        let counted = self.places.count(at, way, packet, &mut self.holes);
        if counted.is_earlier {
            self.begins(at, packet);
        }
        if counted.closes {
            self.wait_for_end(at);
        }
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
