//! Annotations of the input on their way into the capture: each is written at its place among the packets,
//! whatever number of workers had them.

use std::ops::Range;

use crate::capture::output::Output;
use crate::pcap::annotation::{Annotation, Tally, What};
use crate::pcap::record::Batch;
use crate::source::aside::FromAside;

/// Puts annotations between the records of one capture.
#[derive(Debug)]
pub struct Annotations {
    from: FromAside,
    /// The one whose place has not come yet.
    next: Option<Annotation>,
    written: Tally,
}

impl Annotations {
    /// Those that come from a reader.
    pub fn new(from: FromAside) -> Self {
        Self {
            from,
            next: None,
            written: Tally::default(),
        }
    }

    /// What was written so far.
    pub const fn written(&self) -> Tally {
        self.written
    }

    /// Writes records of `worker`, which leave in the order of their places, with what belongs between them.
    pub fn append(
        &mut self,
        writer: &mut Output,
        worker: usize,
        batch: &mut Batch,
        records: Range<usize>,
    ) {
        let mut from = records.start;
        while let Some(annotation) = self.take_next() {
            let chosen = batch.records.get(from..records.end).unwrap_or_default();
            let at = from + chosen.partition_point(|record| record.place < annotation.place);
            if at >= records.end {
                self.next = Some(annotation);
                break;
            }
            match &annotation.what {
                What::Secrets(block) | What::Names(block) => {
                    writer.append(worker, batch, from..at);
                    writer.put_block(block);
                    from = at;
                }
                What::Comments { ts_ns, options, .. } => {
                    // A datagram that was given up at this place has another time.
                    let chosen = batch.records.get(at..records.end).unwrap_or_default();
                    let mut chosen = chosen
                        .iter()
                        .take_while(|record| record.place == annotation.place);
                    let Some(behind) = chosen.position(|record| record.ts_ns == *ts_ns) else {
                        continue;
                    };
                    batch.add_options(at + behind, options);
                }
            }
            self.written.note(&annotation.what);
        }
        writer.append(worker, batch, from..records.end);
    }

    /// Writes the blocks behind the last packet.
    pub fn end(&mut self, writer: &mut Output) {
        while let Some(annotation) = self.take_next() {
            if let What::Secrets(block) | What::Names(block) = &annotation.what {
                writer.put_block(block);
                self.written.note(&annotation.what);
            }
        }
    }

    fn take_next(&mut self) -> Option<Annotation> {
        self.next.take().or_else(|| self.from.next())
    }
}
