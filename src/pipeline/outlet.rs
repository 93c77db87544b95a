//! The way out of a worker: batches of records and chunks of flow records, through bounded queues.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, SendTimeoutError};
use hashbrown::HashMap;

use super::awaited::Awaited;
use super::budget::Shed;
use super::doorbell::Callers;
use super::ending::Patience;
use super::flow_sink::{FlowChunk, flow_lanes};
use super::learned::Log;
use super::queues::{FLOW_CHUNK, FromWorker, Offers, PROMISES, WhenFull};
use super::sharing::FLOW_QUEUE;
use super::worker::Outlet;
use crate::capture::first_places::{Answer, FirstPlaces, Namer};
use crate::flow::record::FlowRecord;
use crate::mirror::own_macs::Fact;
use crate::mirror::session::SessionId;
use crate::mirror::session_key::SessionKey;
use crate::pcap::record::{BATCH_LEN, BATCH_RECORDS, Batch};

/// A batch is handed over when it is this old, so that a quiet link reaches the file.
const MAX_BATCH_AGE: Duration = Duration::from_millis(20);

/// Flow records that may wait for the place of a first packet before the capture's writer is asked to hurry: live, and
/// in replay, where frames of a compressed capture wait until they are full.
const AWAITED: usize = 1024;
const AWAITED_IN_REPLAY: usize = 32_768;
/// Live, most that may wait, and how long each does: once to twice as long. A compressed capture has a packet after two
/// seconds.
pub const MOST_AWAITED: usize = 2 * AWAITED;
const MOST_AWAIT: Duration = Duration::from_secs(3);
/// At the end of a live run, how long places are waited for while no sink does anything.
pub const LAST_PLACES: Duration = Duration::from_secs(2);

/// The queue of one sink for flow records; clones lead to the same.
#[derive(Clone)]
pub struct FlowQueue {
    queue: Callers<Arc<FlowChunk>>,
    /// Records it had no room for.
    no_room: Arc<AtomicU64>,
}

impl FlowQueue {
    /// Of a sink that has lost nothing yet.
    pub fn new(queue: Callers<Arc<FlowChunk>>) -> Self {
        let no_room = Arc::default();
        Self { queue, no_room }
    }

    /// Counts records it had no room for.
    pub fn no_room(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.no_room)
    }
}

/// Hands a worker's output to the sinks.
pub struct QueueOutlet {
    worker: usize,
    current: Batch,
    /// When the current batch got its first record, as far as batches tell.
    begun: Option<Instant>,
    /// Nothing below this place will follow.
    settled_to: u64,
    allocated: usize,
    most: usize,
    /// Until no more will come.
    full: Option<Callers<FromWorker>>,
    empty: Receiver<Batch>,
    /// Empty batches, the one that came back last at the end: its bytes are the likeliest to be in the
    /// core's cache still. After a stall there are many, and a queue would go through them all.
    spare: Vec<Batch>,
    /// Live, no promise is sent while so many wait in the queue.
    promise_below: usize,
    when_full: WhenFull,
    /// Frames of each session that found no room, as long as the writer has not been told.
    no_room: HashMap<SessionId, u64, foldhash::fast::RandomState>,
    offers: Offers,
    /// See [`FlowChunk::lane`].
    flow_lane: usize,
    /// Flow records of several workers are put in order.
    flows_are_ordered: bool,
    flow_chunk: Vec<FlowRecord>,
    flows: Vec<FlowQueue>,
    /// Where flow records are told where their first packets lie.
    firsts: Option<Firsts>,
    learned: Log,
    /// What the run gives up to stay within its limits.
    shed: Option<Arc<Shed>>,
}

/// First packets on their way to a place in the capture.
struct Firsts {
    places: Arc<FirstPlaces>,
    namer: Namer,
    /// Those that no answer has come for.
    unanswered: u64,
    awaited: Awaited,
    /// When more wait, the writer is asked to hurry.
    many: usize,
    /// The writer has ended: no answers will come.
    is_over: bool,
    /// Taken from the mailbox.
    answers: Vec<Answer>,
    look_at: Option<Instant>,
}

impl QueueOutlet {
    /// For worker number `worker` of `workers`, with `most` batches. `full` has [`super::queues::queue_places`].
    pub fn new(
        (worker, workers): (usize, usize),
        most: usize,
        when_full: WhenFull,
        full: Callers<FromWorker>,
        empty: Receiver<Batch>,
        flows: Vec<FlowQueue>,
    ) -> Self {
        let lanes = flow_lanes(workers, when_full);
        Self {
            worker,
            current: Batch::default(),
            begun: None,
            settled_to: 0,
            allocated: 0,
            most,
            full: Some(full),
            empty,
            spare: Vec::with_capacity(most),
            promise_below: workers * (PROMISES - 1),
            when_full,
            no_room: HashMap::default(),
            offers: Offers::default(),
            flow_lane: worker % lanes,
            flows_are_ordered: lanes > 1,
            flow_chunk: Vec::new(),
            flows,
            firsts: None,
            learned: Log::default(),
            shed: None,
        }
    }

    /// Leaves out of the capture from now on what `shed` tells.
    pub fn shed_by(&mut self, shed: Arc<Shed>) {
        self.shed = Some(shed);
    }

    /// Tells from now on in `log` what the worker learns of hardware addresses.
    pub fn tell_learned(&mut self, log: Log) {
        self.learned = log;
    }

    /// Has flow records wait from now on until it is known where their first packets lie.
    pub fn await_places(&mut self, places: Arc<FirstPlaces>) {
        let (many, most) = match self.when_full {
            WhenFull::Drop => (AWAITED, MOST_AWAITED),
            WhenFull::Wait => (AWAITED_IN_REPLAY, usize::MAX),
        };
        self.firsts = Some(Firsts {
            namer: Namer::new(Arc::clone(&places)),
            places,
            unanswered: 0,
            awaited: Awaited::new(most),
            many,
            is_over: false,
            answers: Vec::new(),
            look_at: None,
        });
    }

    /// Whether flow records wait for places of first packets.
    pub const fn awaits_places(&self) -> bool {
        self.firsts.is_some()
    }

    /// Takes the places of first packets that the capture's writer has told, hands each to `found`, and lets go the flow
    /// records that waited for them. Once a batch, at `now`.
    pub fn take_places(&mut self, now: Instant, found: impl FnMut(&Answer)) {
        let Some(firsts) = &mut self.firsts else {
            return;
        };
        firsts.take_answers(self.worker, found);
        if self.when_full == WhenFull::Drop && !firsts.awaited.is_empty() {
            firsts.look(now);
        }
        self.let_go();
    }

    /// Waits at the end of the run until all first packets have their places, as long as there is patience, and lets
    /// all flow records go. Nothing more will come to the capture.
    pub fn last_places(&mut self, patience: &mut Patience<'_>, mut found: impl FnMut(&Answer)) {
        let Some(firsts) = &mut self.firsts else {
            return;
        };
        loop {
            firsts.take_answers(self.worker, &mut found);
            if firsts.unanswered == 0 || firsts.is_over {
                break;
            }
            let Some(left) = patience.left() else {
                break;
            };
            firsts.places.wait(self.worker, left);
        }
        firsts.is_over = true;
        firsts.awaited.give_up();
        self.let_go();
    }

    /// Hands on the flow records that need not wait any more.
    fn let_go(&mut self) {
        while let Some(record) = self
            .firsts
            .as_mut()
            .and_then(|firsts| firsts.awaited.next())
        {
            self.add_flow(record);
        }
    }

    /// Ends the way to the capture: it has everything.
    pub fn close_capture(&mut self) {
        self.full = None;
    }

    /// The number of the worker it belongs to.
    pub const fn worker(&self) -> usize {
        self.worker
    }

    /// What a full queue means to it.
    pub const fn when_full(&self) -> WhenFull {
        self.when_full
    }

    /// What the worker had for its sinks so far.
    pub const fn offers(&self) -> Offers {
        self.offers
    }

    /// The batch to hand over, replaced by `next`, with its promise and what is to be told with it.
    fn swap(&mut self, next: Batch) -> Batch {
        let mut full = std::mem::replace(&mut self.current, next);
        self.begun = None;
        full.sort();
        full.watermark = match self.when_full {
            WhenFull::Drop => self.settled_to,
            // A file is read in its order.
            WhenFull::Wait => full.records.last().map_or(0, |last| last.place),
        };
        full.no_room.extend(self.no_room.drain());
        full
    }

    fn send(&self, full: Batch) -> bool {
        let empty = full.is_empty() && full.no_room.is_empty();
        // The queue has a place for every batch that exists: this finds one.
        let queue = self.full.as_ref();
        empty || queue.is_some_and(|queue| queue.send((self.worker, full)).is_ok())
    }

    /// An empty batch, if one is to be had at once.
    fn next_batch(&mut self) -> Option<Batch> {
        self.spare.extend(self.empty.try_iter());
        self.spare.pop().or_else(|| {
            (self.allocated < self.most).then(|| {
                self.allocated += 1;
                Batch::with_room()
            })
        })
    }

    /// Swaps the current batch for an empty one; `false` when there is none to be had.
    fn hand_over(&mut self) -> bool {
        let next = match self.next_batch() {
            Some(batch) => batch,
            None if self.when_full == WhenFull::Drop => return false,
            None => match self.empty.recv() {
                Ok(batch) => batch,
                Err(_) => return false,
            },
        };
        let full = self.swap(next);
        self.send(full)
    }

    /// Hands over what there is.
    pub fn hand_over_now(&mut self) {
        if !self.current.is_empty() {
            self.hand_over();
        }
        if self.when_full == WhenFull::Drop && !self.flow_chunk.is_empty() {
            self.hand_over_flows(0);
        }
    }

    /// Hands over what there is once it has waited long enough.
    pub fn hand_over_if_old(&mut self, now: Instant) {
        if self.current.is_empty() && self.flow_chunk.is_empty() {
            return;
        }
        match self.begun {
            None => self.begun = Some(now),
            Some(begun) if now - begun >= MAX_BATCH_AGE => {
                self.begun = None;
                self.hand_over_now();
            }
            Some(_) => {}
        }
    }

    /// Nothing below this place will follow: batches promise so from now on.
    pub fn settle_to(&mut self, place: u64) {
        self.settled_to = self.settled_to.max(place);
    }

    /// Promises the sinks that nothing below `watermark` will follow. Live, a queue that grows does without:
    /// there is plenty to write, and the next promise comes soon.
    pub fn promise(&mut self, watermark: u64) {
        if self.when_full == WhenFull::Wait {
            let awaited = self.firsts.as_ref();
            let next = awaited.and_then(|firsts| firsts.awaited.next_place());
            let done = next.map_or(watermark, |place| watermark.min(place.saturating_sub(1)));
            self.hand_over_flows(done);
        }
        let promise = Batch {
            watermark,
            ..Batch::default()
        };
        let Some(full) = &self.full else {
            return;
        };
        let _ = match self.when_full {
            WhenFull::Wait => full.send((self.worker, promise)).is_ok(),
            // `hand_over` counts on a place for each batch, or receiving would wait for the disk. All workers
            // may see the last place below the limit at once: that is one more promise from each.
            WhenFull::Drop => {
                full.is_waited_for()
                    && full.len() < self.promise_below
                    && full.try_send((self.worker, promise)).is_ok()
            }
        };
    }

    /// Hands over the flow records that are waiting; nothing up to the place `done` will follow.
    fn hand_over_flows(&mut self, done: u64) {
        let Some(chunk) = self.take_chunk(done) else {
            return;
        };
        for FlowQueue { queue, no_room } in &mut self.flows {
            let chunk = Arc::clone(&chunk);
            match self.when_full {
                // Only where its thread is gone: that is told at the end.
                WhenFull::Wait => _ = queue.send(chunk),
                WhenFull::Drop => {
                    let len = chunk.records.len() as u64;
                    if queue.try_send(chunk).is_err() {
                        no_room.fetch_add(len, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    fn take_chunk(&mut self, done: u64) -> Option<Arc<FlowChunk>> {
        if self.flow_chunk.is_empty() && !self.flows_are_ordered {
            return None;
        }
        self.offers.flow_records += self.flow_chunk.len() as u64;
        Some(Arc::new(FlowChunk {
            lane: self.flow_lane,
            records: std::mem::take(&mut self.flow_chunk),
            done,
        }))
    }

    /// Hands over what there is for the capture at the end of the run: nothing arrives any more, so a full queue is
    /// waited for as long as there is patience. What is not handed over then is lost.
    pub fn end(&mut self, patience: &mut Patience<'_>) {
        let next = loop {
            if let Some(next) = self.next_batch() {
                break Some(next);
            }
            let Some(left) = patience.left() else {
                break None;
            };
            if let Ok(next) = self.empty.recv_timeout(left) {
                break Some(next);
            }
        };
        if let Some(next) = next {
            let full = self.swap(next);
            self.send(full);
        }
    }

    /// Hands over the last flow records, as [`Self::end`] does.
    pub fn end_flows(&mut self, patience: &mut Patience<'_>) {
        let Some(chunk) = self.take_chunk(u64::MAX) else {
            return;
        };
        for FlowQueue { queue, .. } in &mut self.flows {
            let mut chunk = Arc::clone(&chunk);
            while let Err(back) = queue.send_timeout(chunk, patience.left().unwrap_or_default()) {
                match back {
                    SendTimeoutError::Timeout(back) if patience.left().is_some() => chunk = back,
                    _ => break,
                }
            }
        }
    }

    /// Takes a flow record at the end of the run, as [`Self::end`] does.
    pub fn last_flow(&mut self, mut record: FlowRecord, patience: &mut Patience<'_>) {
        self.tell_place(&mut record);
        self.flow_chunk.push(record);
        if self.flow_chunk.len() >= FLOW_CHUNK {
            self.end_flows(patience);
        }
    }
}

impl Outlet for QueueOutlet {
    #[inline]
    fn has_room(&self, len: usize) -> bool {
        let Batch { bytes, records, .. } = &self.current;
        bytes.len() + len <= BATCH_LEN && records.len() < BATCH_RECORDS
    }

    #[inline]
    fn room(&mut self, len: usize) -> Option<&mut Batch> {
        let used = self.current.bytes.len();
        let first = self.allocated == 0;
        if (first || (used > 0 && !self.has_room(len))) && !self.hand_over() {
            return None;
        }
        Some(&mut self.current)
    }

    fn current(&mut self) -> Option<&mut Batch> {
        Some(&mut self.current)
    }

    fn no_room(&mut self, session: SessionId) {
        self.offers.capture_no_room += 1;
        *self.no_room.entry(session).or_default() += 1;
    }

    #[inline]
    fn leaves_out(&self, mix: impl FnOnce() -> u32) -> bool {
        self.shed.as_ref().is_some_and(|shed| shed.leaves_out(mix))
    }

    fn left_out(&mut self, session: SessionId) {
        self.offers.capture_left_out += 1;
        *self.no_room.entry(session).or_default() += 1;
    }

    fn flow_begins(&mut self, flow: u32, record: u64, back: u64) {
        self.current.note_begun(flow, record, back);
        if let Some(firsts) = &mut self.firsts {
            firsts.unanswered += 1;
        }
    }

    fn learned(&mut self, session: SessionKey, fact: Fact) {
        self.learned.tell(session, fact);
    }

    fn has_flow_room(&self) -> bool {
        // Chunks of several workers at once find room.
        let has_room = |sink: &FlowQueue| sink.queue.len() <= FLOW_QUEUE / 4;
        self.flows.iter().all(has_room)
    }

    fn flow(&mut self, record: FlowRecord) {
        let record = match &mut self.firsts {
            Some(firsts) => firsts.hold_back(record),
            None => Some(record),
        };
        if let Some(record) = record {
            self.add_flow(record);
        }
        self.let_go();
    }
}

impl QueueOutlet {
    /// Puts into a record where its first packet lies.
    fn tell_place(&mut self, record: &mut FlowRecord) {
        if let Some(firsts) = &mut self.firsts {
            record.place = firsts.namer.place(record.first);
        }
    }

    fn add_flow(&mut self, mut record: FlowRecord) {
        self.tell_place(&mut record);
        if self.flow_chunk.is_empty() {
            self.flow_chunk.reserve_exact(FLOW_CHUNK);
        }
        let place = record.order.place;
        self.flow_chunk.push(record);
        if self.flow_chunk.len() >= FLOW_CHUNK {
            // Others may follow at this place: a packet can end one, the end of the run many.
            self.hand_over_flows(place.saturating_sub(1));
        }
    }
}

impl Firsts {
    /// Takes a flow record; gives it back if it need not wait.
    fn hold_back(&mut self, record: FlowRecord) -> Option<FlowRecord> {
        if self.is_over {
            return Some(record);
        }
        let record = self.awaited.push(record);
        if self.awaited.len() > self.many {
            self.places.urge();
        }
        record
    }

    fn take_answers(&mut self, worker: usize, mut found: impl FnMut(&Answer)) {
        let Self {
            places,
            unanswered,
            awaited,
            is_over,
            answers,
            ..
        } = self;
        if !places.take(worker, answers) && !*is_over {
            *is_over = true;
            awaited.give_up();
        }
        for answer in answers.drain(..) {
            *unanswered = unanswered.saturating_sub(1);
            awaited.found(answer.record, answer.first);
            found(&answer);
        }
    }

    /// Lets no record wait for too long.
    fn look(&mut self, now: Instant) {
        if now >= *self.look_at.get_or_insert(now + MOST_AWAIT) {
            self.look_at = None;
            self.awaited.look();
            self.places.urge();
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::super::doorbell::doorbell;
    use super::super::queues::queue_places;
    use super::*;
    use crate::pcap::record::RecordFacts;

    const RECORD: RecordFacts = RecordFacts {
        place: 1,
        ts_ns: 1,
        session: SessionId(0),
        at: 0,
        len: 1,
        number: 0,
        begins: 0,
    };

    /// However long nobody takes anything: promises leave a place for every batch.
    #[test]
    fn promises_take_no_place_from_batches() {
        const MOST: usize = 3;
        let (full_tx, full_rx) = doorbell(queue_places(2, MOST));
        let (_give_back, empty) = bounded(MOST);
        let outlet = |number| {
            QueueOutlet::new(
                (number, 2),
                MOST,
                WhenFull::Drop,
                full_tx.clone(),
                empty.clone(),
                Vec::new(),
            )
        };
        let (mut idle, mut busy) = (outlet(0), outlet(1));
        idle.promise(7);
        assert!(full_rx.is_empty(), "nobody waits for a promise");
        full_rx.wait_for_more(true);
        for watermark in 0..100 {
            idle.promise(watermark);
            busy.promise(watermark);
        }
        assert!((1..=2 * PROMISES).contains(&full_rx.len()));
        let mut handed_over = 0;
        while let Some(batch) = busy.room(1) {
            batch.bytes.resize(BATCH_LEN, 0);
            batch.records = vec![RECORD];
            handed_over += 1;
            idle.promise(100);
        }
        // The last one could not be swapped for another.
        assert_eq!(handed_over, MOST);
        let batches = full_rx.try_iter().filter(|(_, batch)| !batch.is_empty());
        assert_eq!(batches.count(), MOST - 1);
    }
}
