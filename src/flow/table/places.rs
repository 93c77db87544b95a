//! Where flows live: in chunks that never move, so growing copies nothing. A place is a number; which flow has which,
//! and for how long, is the caller's to know.

use std::ops::Range;

use hashbrown::HashMap;
use prefetch_index::prefetch_index;

use super::parts::{self, Cold, Hot, Large, Line};
use crate::flow::counts::Flow;
use crate::flow::first::First;
use crate::flow::tcp::Connection;
use crate::flow::tcp::holes::Pool;

/// Flows of a chunk.
const CHUNK: usize = 1024;

/// Flows by place.
#[derive(Default)]
pub(in crate::flow) struct Places {
    chunks: Vec<Chunk>,
    /// What flows counted beyond the width of their tallies, by place.
    large: HashMap<u32, Large, foldhash::fast::RandomState>,
    /// Whether it is kept where first packets lie.
    keeps_firsts: bool,
}

/// Flows of neighbouring places.
struct Chunk {
    hot: Vec<Hot>,
    cold: Vec<Cold>,
    /// Where the first packet of each lies; empty where there is no capture.
    firsts: Vec<First>,
    /// Of TCP flows; as long as the last one of them needs.
    tcp: Vec<Line>,
}

/// A flow in its place.
pub(super) struct Slot<'a> {
    pub(super) hot: &'a mut Hot,
    pub(super) cold: &'a mut Cold,
    within: usize,
    tcp: &'a mut Vec<Line>,
    pub(super) large: &'a mut HashMap<u32, Large, foldhash::fast::RandomState>,
}

/// Bytes that flows in so many places take, those included that a chunk has room for.
pub(super) const fn memory_bytes(places: u64, keeps_firsts: bool) -> u64 {
    let first = if keeps_firsts { size_of::<First>() } else { 0 };
    let each = size_of::<Hot>() + size_of::<Cold>() + size_of::<Line>() + first;
    room_for(places) * each as u64
}

/// Places that are made for so many flows.
pub(super) const fn room_for(flows: u64) -> u64 {
    flows.next_multiple_of(CHUNK as u64)
}

impl Places {
    /// Keeps from now on, with no flow yet, where first packets lie.
    pub(super) const fn keep_firsts(&mut self) {
        self.keeps_firsts = true;
    }

    /// What every packet of the flow at `at` touches.
    #[inline]
    pub(in crate::flow) fn hot(&self, at: u32) -> Option<&Hot> {
        self.chunk(at)?.hot.get(within(at))
    }

    pub(super) fn parts(&self, at: u32) -> Option<(&Hot, &Cold)> {
        let chunk = self.chunk(at)?;
        Some((chunk.hot.get(within(at))?, chunk.cold.get(within(at))?))
    }

    /// Has the processor fetch what a packet of the flow at `at` touches.
    #[inline]
    pub(super) fn prefetch(&self, at: u32) {
        if let Some(chunk) = self.chunk(at)
            && let Some(hot) = chunk.hot.get(within(at))
        {
            prefetch_index(std::slice::from_ref(hot), 0);
            prefetch_index(hot.tallies.as_slice(), 0);
            prefetch_index(&chunk.tcp, within(at));
        }
    }

    /// Has the processor fetch what packets after the first of the flow at `at` hardly ever touch.
    #[inline]
    pub(super) fn prefetch_cold(&self, at: u32) {
        if let Some(chunk) = self.chunk(at) {
            prefetch_index(&chunk.cold, within(at));
        }
    }

    /// All there is of the flow at `at`, to be changed.
    #[inline]
    pub(super) fn slot(&mut self, at: u32) -> Option<Slot<'_>> {
        let chunk = self.chunks.get_mut(at as usize / CHUNK)?;
        Some(Slot {
            hot: chunk.hot.get_mut(within(at))?,
            cold: chunk.cold.get_mut(within(at))?,
            within: within(at),
            tcp: &mut chunk.tcp,
            large: &mut self.large,
        })
    }

    /// Where it is kept where the first packet of the flow at `at` lies, if it is.
    pub(super) fn first_mut(&mut self, at: u32) -> Option<&mut First> {
        let chunk = self.chunks.get_mut(at as usize / CHUNK)?;
        chunk.firsts.get_mut(within(at))
    }

    /// What the segments of the flow at `at` told, if there was one at any time.
    pub(super) fn connection(&self, at: u32) -> Option<&Connection> {
        let line = self.chunk(at)?.tcp.get(within(at));
        line.map(|Line(connection)| connection)
    }

    /// Whether the flow at `at` has counted beyond the width of its tallies.
    pub(super) fn is_large(&self, at: u32) -> bool {
        self.large.contains_key(&at)
    }

    /// Puts a new flow at `at`: a place that another has left, or the number of places so far.
    pub(super) fn open(&mut self, at: u32, hot: Hot, cold: Cold) {
        if let Some(slot) = self.slot(at) {
            (*slot.hot, *slot.cold) = (hot, cold);
            return;
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
    }

    /// The flow at `at` as others see it, without its names.
    pub(in crate::flow) fn flow(&self, at: u32) -> Option<Flow> {
        let (hot, cold) = self.parts(at)?;
        let first = self.chunk(at)?.firsts.get(within(at)).copied();
        let connection = self.connection(at).copied();
        Some(Flow {
            first: first.unwrap_or_default(),
            tcp: connection.filter(|connection| !connection.is_empty()),
            ..parts::read(hot, cold, self.large.get(&at))
        })
    }

    /// Leaves nothing of what the flow at `at` counted, but of what its segments told. Returns what it was, without its
    /// names.
    pub(super) fn take_record(&mut self, at: u32) -> Option<Flow> {
        let flow = self.flow(at)?;
        self.forget(at);
        Some(flow)
    }

    /// Leaves nothing of the flow at `at`. Returns what it was, without its names.
    pub(super) fn take(&mut self, at: u32, holes: &mut Pool) -> Option<Flow> {
        let flow = self.take_record(at)?;
        if let Some(slot) = self.slot(at)
            && let Some(line) = slot.tcp.get_mut(slot.within)
        {
            let Line(connection) = std::mem::take(line);
            connection.release(holes, at);
        }
        Some(flow)
    }

    /// Puts `flow` in the place of the one at `at`, whose key it has.
    pub(in crate::flow) fn put(&mut self, at: u32, flow: &Flow) {
        let Some(mut slot) = self.slot(at) else {
            return;
        };
        if let Some(connection) = flow.tcp
            && let Some(line) = slot.connection_mut()
        {
            *line = connection;
        }
        let large = parts::write(slot.hot, slot.cold, flow);
        match large {
            Some(large) => _ = self.large.insert(at, large),
            None => _ = self.large.remove(&at),
        }
        if let Some(first) = self.first_mut(at) {
            *first = flow.first;
        }
    }

    /// Leaves nothing of what the flow at `at` counted: the place counts as left.
    pub(in crate::flow) fn forget(&mut self, at: u32) {
        if let Some(slot) = self.slot(at) {
            slot.hot.empty();
            slot.large.remove(&at);
        }
    }

    /// The places that flows have.
    pub(in crate::flow) fn used(&self) -> impl Iterator<Item = u32> {
        self.chunks.iter().enumerate().flat_map(|(number, chunk)| {
            let hot = chunk.hot.iter().enumerate();
            hot.filter(|(_, hot)| hot.is_used())
                .map(move |(within, _)| place(number, within))
        })
    }

    /// All places that flows may have or have had.
    pub(in crate::flow) fn all(&self) -> Range<u32> {
        0..place(self.chunks.len(), 0)
    }

    /// How many places there are room and memory for.
    pub(in crate::flow) const fn room(&self) -> usize {
        self.chunks.len() * CHUNK
    }

    /// All parts that are touched most, also those of places that were left.
    pub(in crate::flow) fn hot_mut(&mut self) -> impl Iterator<Item = &mut Hot> {
        self.chunks.iter_mut().flat_map(|chunk| &mut chunk.hot)
    }

    /// Puts `others` behind these; returns what their places are more than they were.
    pub(in crate::flow) fn append(&mut self, others: Self) -> u32 {
        let base = place(self.chunks.len(), 0);
        self.chunks.extend(others.chunks);
        let large = others.large.into_iter();
        self.large
            .extend(large.map(|(at, large)| (base + at, large)));
        base
    }

    #[inline]
    fn chunk(&self, at: u32) -> Option<&Chunk> {
        self.chunks.get(at as usize / CHUNK)
    }
}

impl Slot<'_> {
    /// The connection, a new one if there is none.
    #[inline]
    pub(super) fn connection_mut(&mut self) -> Option<&mut Connection> {
        if self.within >= self.tcp.len() {
            self.tcp.resize(self.within + 1, Line::default());
        }
        let line = self.tcp.get_mut(self.within);
        line.map(|Line(connection)| connection)
    }

    /// The connection, if there was one at any time.
    pub(super) fn known_connection_mut(&mut self) -> Option<&mut Connection> {
        let line = self.tcp.get_mut(self.within);
        line.map(|Line(connection)| connection)
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
}

/// How far into its chunk a place is.
#[inline]
const fn within(at: u32) -> usize {
    at as usize % CHUNK
}

/// The place that is so far into a chunk.
fn place(chunk: usize, within: usize) -> u32 {
    u32::try_from(chunk * CHUNK + within).unwrap_or(u32::MAX)
}
