//! A file of flow records as a sink. Each has a queue of its own, so a slow one delays no other.

use std::time::Duration;

use super::in_order::InOrder;
use super::outlet::WhenFull;
use super::sink::Sink;
use crate::export::jsonl::JsonLines;
use crate::flow::record::FlowRecord;
use crate::outfile::{OutError, Standing};

/// Flow records on their way to every sink that takes them.
pub struct FlowChunk {
    /// Whose they are among those that are put in order.
    pub lane: usize,
    /// The records, in their order.
    pub records: Vec<FlowRecord>,
    /// Nothing up to this place will follow.
    pub done: u64,
}

/// How many workers' flow records are put in order. Live they are written as they come: no worker is waited
/// for.
pub const fn flow_lanes(workers: usize, when_full: WhenFull) -> usize {
    match when_full {
        WhenFull::Wait if workers > 1 => workers,
        _ => 1,
    }
}

/// Flow records' way from the workers to a file.
pub struct FlowSink {
    file: JsonLines,
    /// Where records of several workers are put in order.
    in_order: Option<InOrder<FlowRecord>>,
}

impl FlowSink {
    /// For records of so many lanes; see [`flow_lanes`].
    pub fn new(file: JsonLines, lanes: usize) -> Self {
        let in_order = (lanes > 1).then(|| InOrder::new(lanes));
        Self { file, in_order }
    }
}

impl Sink for FlowSink {
    type Item = std::sync::Arc<FlowChunk>;

    fn take(&mut self, chunk: Self::Item, _now: Duration) {
        let Self { file, in_order } = self;
        let Some(in_order) = in_order else {
            return chunk.records.iter().for_each(|record| file.write(record));
        };
        let records = chunk.records.iter();
        let records = records.map(|record| (record.order, *record));
        in_order.push(chunk.lane, records, chunk.done);
        while let Some(record) = in_order.next() {
            file.write(&record);
        }
    }

    fn tick(&mut self, _now: Duration, is_idle: bool) {
        if is_idle {
            self.file.flush();
        }
    }

    fn sleeps(&self) -> Option<Duration> {
        None
    }

    fn standing(&self) -> Standing {
        self.file.file().standing()
    }

    fn take_error(&mut self) -> Option<OutError> {
        self.file.take_error()
    }

    fn close(&mut self, _now: Duration) {
        let Self { file, in_order } = self;
        if let Some(in_order) = in_order {
            in_order.rest().for_each(|record| file.write(&record));
        }
        file.flush();
    }

    fn finish(self) -> Result<(String, u64), OutError> {
        self.file.finish()
    }
}
