//! Files and collectors of flow records, and what they come to, as sinks. Each has a queue of its own, so a slow one delays
//! no other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::in_order::{InOrder, Ordered};
use super::learned::Directions;
use super::orders::{Inbox, Order};
use super::queues::WhenFull;
use super::sink::Sink;
use super::watch::Tells;
use crate::capture::store::flows::FlowStore;
use crate::export::collector::{Beside, Collector};
use crate::export::flow_file::FlowFile;
use crate::export::top::{Counting, Top};
use crate::flow::record::{FlowRecord, Order as RecordOrder};
use crate::mirror::direction::Direction;
use crate::outfile::{OutError, Standing};
use crate::stop::wall_clock_ns;

/// How often a store without records looks at the clock and for orders.
const LOOK: Duration = Duration::from_millis(100);

/// Flow records on their way to every sink that takes them.
pub struct FlowChunk {
    /// Whose they are among those that are put in order.
    pub lane: usize,
    /// The records, in their order.
    pub records: Vec<FlowRecord>,
    /// Nothing up to this place will follow.
    pub done: u64,
}

impl Ordered for FlowRecord {
    type Key = RecordOrder;

    fn key(&self) -> RecordOrder {
        self.order
    }

    fn place(&self) -> u64 {
        self.order.place
    }
}

/// How many workers' flow records are put in order. Live they are written as they come: no worker is waited
/// for.
pub const fn flow_lanes(workers: usize, when_full: WhenFull) -> usize {
    match when_full {
        WhenFull::Wait if workers > 1 => workers,
        _ => 1,
    }
}

/// Where flow records go.
pub enum FlowOutput {
    /// One file, pipe or device.
    File(FlowFile),
    /// Files that follow each other in a directory.
    Store(Box<FlowStore>),
    /// An IPFIX collector.
    Collector(Box<Collector>),
    /// The largest of them, told at the end.
    Top(Box<TopSink>),
}

/// Counts flow records.
#[derive(Default)]
pub struct TopSink {
    counting: Counting,
    told: Arc<OnceLock<Top>>,
}

impl TopSink {
    /// Where it will be told what they came to.
    pub fn told(&self) -> Arc<OnceLock<Top>> {
        Arc::clone(&self.told)
    }
}

/// What sinks of flow records are told beside them.
#[derive(Default)]
pub struct FlowNotes {
    ignored: AtomicU64,
    dropped: AtomicU64,
}

impl FlowNotes {
    /// So many more packets are in no flow, and so many were lost before they could be looked at.
    pub fn add(&self, ignored: u64, dropped: u64) {
        self.ignored.fetch_add(ignored, Ordering::Relaxed);
        self.dropped.fetch_add(dropped, Ordering::Relaxed);
    }

    /// So many are and were in the whole run.
    pub fn set(&self, ignored: u64, dropped: u64) {
        self.ignored.store(ignored, Ordering::Relaxed);
        self.dropped.store(dropped, Ordering::Relaxed);
    }
}

impl From<FlowFile> for FlowOutput {
    fn from(file: FlowFile) -> Self {
        Self::File(file)
    }
}

impl From<FlowStore> for FlowOutput {
    fn from(store: FlowStore) -> Self {
        Self::Store(Box::new(store))
    }
}

impl From<TopSink> for FlowOutput {
    fn from(top: TopSink) -> Self {
        Self::Top(Box::new(top))
    }
}

impl From<Collector> for FlowOutput {
    fn from(collector: Collector) -> Self {
        Self::Collector(Box::new(collector))
    }
}

impl FlowOutput {
    /// What is told to whoever takes it: `notes`, and records that were lost before they came to it.
    pub fn tell(&mut self, notes: Arc<FlowNotes>, no_room: Arc<AtomicU64>) {
        if let Self::Collector(collector) = self {
            collector.tell_beside(move || Beside {
                no_room: no_room.load(Ordering::Relaxed),
                ignored: notes.ignored.load(Ordering::Relaxed),
                dropped: notes.dropped.load(Ordering::Relaxed),
            });
        }
    }

    /// Its name in messages.
    pub fn path(&self) -> &str {
        match self {
            Self::File(file) => file.file().path(),
            Self::Store(store) => store.path(),
            Self::Top(_) => "the largest flows",
            Self::Collector(collector) => collector.name(),
        }
    }

    /// What it tells beside what its sink does.
    pub fn tells(&self) -> Tells {
        match self {
            Self::File(file) => Tells {
                synced: file.file().synced(),
                ..Tells::default()
            },
            Self::Store(store) => Tells {
                synced: store.synced(),
                store: Some(store.holdings()),
                ..Tells::default()
            },
            Self::Top(_) => Tells::default(),
            Self::Collector(collector) => Tells {
                synced: collector.progress(),
                collector: Some(collector.told()),
                ..Tells::default()
            },
        }
    }

    fn write(&mut self, record: &FlowRecord) {
        match self {
            Self::File(file) => file.write(record),
            Self::Store(store) => store.write(record),
            Self::Top(top) => top.counting.add(record),
            Self::Collector(collector) => collector.write(record),
        }
    }

    fn flush(&mut self) {
        match self {
            Self::File(file) => file.flush(),
            Self::Store(store) => store.flush(),
            Self::Top(_) => {}
            Self::Collector(collector) => collector.flush(),
        }
    }
}

/// Flow records' way from the workers to a file.
pub struct FlowSink {
    file: FlowOutput,
    /// A store takes orders; nobody waits for others to take any.
    inbox: Option<Inbox<()>>,
    /// Where records of several workers are put in order.
    in_order: Option<InOrder<FlowRecord>>,
    directions: Directions,
}

impl FlowSink {
    /// For records of so many lanes; see [`flow_lanes`].
    pub fn new(file: FlowOutput, inbox: Inbox<()>, lanes: usize, directions: Directions) -> Self {
        let inbox = Some(inbox).filter(|_| matches!(file, FlowOutput::Store(_)));
        let in_order = (lanes > 1).then(|| InOrder::new(lanes));
        Self {
            file,
            inbox,
            in_order,
            directions,
        }
    }
}

/// Writes a record, with its direction by what was learned of hardware addresses, where its IP addresses do not say it.
fn write(file: &mut FlowOutput, directions: &mut Directions, record: &FlowRecord) {
    let by_mac = record
        .unsettled()
        .map_or(Direction::Unknown, |(session, src, dst)| {
            directions.of(session, dst, src, record.order.place)
        });
    match by_mac {
        Direction::Unknown => file.write(record),
        known => file.write(&record.with_direction(known)),
    }
}

impl Sink for FlowSink {
    type Item = std::sync::Arc<FlowChunk>;

    fn take(&mut self, chunk: Self::Item, _now: Duration) {
        let Self {
            file,
            in_order,
            directions,
            ..
        } = self;
        let Some(in_order) = in_order else {
            let records = chunk.records.iter();
            return records.for_each(|record| write(file, directions, record));
        };
        in_order.push(chunk.lane, chunk.records.iter().cloned(), chunk.done);
        while let Some(record) = in_order.next() {
            write(file, directions, &record);
        }
    }

    fn tick(&mut self, now: Duration, is_idle: bool) {
        if is_idle {
            self.file.flush();
        }
        let mut rotates = 0;
        while let Some(order) = self.inbox.as_mut().and_then(Inbox::take) {
            match order {
                Order::Tell(_) => {}
                Order::Rotate => rotates += 1,
                Order::Change(changing) => {
                    if let FlowOutput::Store(store) = &mut self.file {
                        store.change(&changing.change.terms);
                    }
                }
            }
        }
        match &mut self.file {
            FlowOutput::File(_) | FlowOutput::Top(_) => {}
            FlowOutput::Store(store) => {
                if rotates > 0 {
                    store.rotate();
                }
                store.tick(now, wall_clock_ns());
            }
            FlowOutput::Collector(collector) => collector.tick(),
        }
    }

    fn look_for_reader(&mut self) {
        if let FlowOutput::File(file) = &mut self.file {
            file.look_for_reader();
        }
    }

    fn sleeps(&self) -> Option<Duration> {
        match self.file {
            FlowOutput::File(ref file) if file.file().is_direct() => Some(LOOK),
            FlowOutput::File(_) | FlowOutput::Top(_) => None,
            // Files end by the clock too.
            FlowOutput::Store(_) => Some(LOOK),
            FlowOutput::Collector(ref collector) => Some(collector.sleeps()),
        }
    }

    fn standing(&self) -> Standing {
        match &self.file {
            FlowOutput::File(file) => file.file().standing(),
            FlowOutput::Store(store) => store.standing(),
            FlowOutput::Top(top) => Standing {
                written: top.counting.records,
                ..Standing::default()
            },
            FlowOutput::Collector(collector) => collector.standing(),
        }
    }

    fn take_error(&mut self) -> Option<OutError> {
        match &mut self.file {
            FlowOutput::File(file) => file.take_error(),
            FlowOutput::Store(store) => store.take_error(),
            FlowOutput::Top(_) => None,
            // It may be there again: until the end nothing is final.
            FlowOutput::Collector(_) => None,
        }
    }

    fn close(&mut self, _now: Duration) {
        let Self {
            file,
            in_order,
            directions,
            ..
        } = self;
        if let Some(in_order) = in_order {
            let mut rest = in_order.rest();
            rest.by_ref()
                .for_each(|record| write(file, directions, &record));
        }
        match file {
            FlowOutput::File(file) => file.end(),
            FlowOutput::Store(store) => store.close(),
            FlowOutput::Top(_) => {}
            FlowOutput::Collector(collector) => collector.close(),
        }
    }

    fn finish(self) -> Result<(String, u64), OutError> {
        match self.file {
            FlowOutput::File(file) => file.finish(),
            FlowOutput::Store(store) => Ok((store.path().to_owned(), store.standing().bytes)),
            FlowOutput::Top(top) => {
                // Nobody else sets it.
                let _ = top.told.set(top.counting.end());
                Ok(("the largest flows".to_owned(), 0))
            }
            FlowOutput::Collector(collector) => collector.finish(),
        }
    }
}
