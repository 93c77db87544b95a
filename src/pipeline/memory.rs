//! The most memory a run may take, for the line printed at start: every table, queue and buffer at its bound,
//! the end of the run included. What a source needs (slots, a ring) and what the kernel holds for it is the
//! source's to tell.

use super::evidence;
use super::learned;
use super::measure;
use super::outlet::MOST_AWAITED;
use super::queues::FLOW_CHUNK;
use super::sharing::{FLOW_QUEUE, Sharing, capture_queue_batches, max_flows_of};
use super::watched;
use super::worker::WorkerSettings;
use crate::capture::first_places;
use crate::flow::record::FlowRecord;
use crate::flow::{lookup, names, table, updates};
use crate::mirror::{duplicates, pairs, session};
use crate::outfile::packed::Compression;
use crate::pcap::record::{BATCH_BEGUN_BYTES, BATCH_BYTES, BATCH_KEYS_BYTES, BATCH_LEN};
use crate::wire::reassembly;

/// The program itself: its code, the stacks of its threads, what the libraries hold. An idle run takes 6 MB.
const PROGRAM: u64 = 12 << 20;
/// Copies of the list of sessions: the worker's own, one for who asks a run that goes on, and their texts in the
/// summary.
const SESSION_COPIES: u64 = 3;
/// Copies of the pairs of sessions: the worker's own, and one for who asks a run that goes on.
const PAIR_COPIES: usize = 2;
/// Batches beside those in the queue to the capture's writer: what it gathers before it writes.
const GATHERED: u64 = 2 * BATCH_LEN as u64;

/// Most bytes that workers and writers take, with such files of flow records and a capture that is compressed or not.
pub fn most_bytes(
    worker: &WorkerSettings,
    sharing: &Sharing,
    flow_sinks: &[usize],
    compression: Option<Compression>,
) -> u64 {
    let workers = u64::from(sharing.steering.workers.max(1));
    let mut bytes = PROGRAM + measure::memory_bytes(workers as usize) as u64;
    bytes += workers * SESSION_COPIES * session::MEMORY_BYTES as u64;
    bytes += workers * evidence::MEMORY_BYTES as u64;
    let readers = flow_sinks.len() + usize::from(worker.capture.is_some());
    bytes += learned::memory_bytes(workers, readers as u64);
    if worker.dedup.is_some() {
        bytes += workers * (duplicates::MEMORY_BYTES + PAIR_COPIES * pairs::MEMORY_BYTES) as u64;
    }
    if !worker.plain {
        bytes += workers * reassembly::MAX_BYTES as u64;
    }
    if worker.capture.is_some() {
        let a_worker = capture_queue_batches(sharing.when_full, workers as usize) as u64;
        let keys = if worker.index { BATCH_KEYS_BYTES } else { 0 };
        let begun = match worker.first_places {
            true => BATCH_BEGUN_BYTES,
            false => 0,
        };
        bytes += workers * a_worker * (BATCH_BYTES + keys + begun) as u64 + GATHERED;
        if worker.index {
            bytes += workers * lookup::MEMORY_BYTES as u64;
        }
        bytes += compression.map_or(0, Compression::memory_bytes);
    }
    if worker.flows {
        let shares = (0..sharing.steering.workers.max(1))
            .map(|number| max_flows_of(number, sharing.steering, worker.max_flows));
        // Chunks in the queue, one with each worker and one with the writer.
        let chunks = FLOW_QUEUE as u64 + workers + 1;
        let names = if worker.app {
            names::MOST_BYTES_EACH
        } else {
            0
        };
        let records = chunks * (FLOW_CHUNK * (size_of::<FlowRecord>() + names)) as u64;
        if worker.app {
            bytes += shares.clone().map(names::memory_bytes).sum::<u64>();
        }
        bytes += table::memory_bytes(shares, worker.first_places)
            + workers * updates::MEMORY_BYTES as u64
            + flow_sinks
                .iter()
                .map(|own| records + *own as u64)
                .sum::<u64>();
        if worker.first_places {
            bytes += workers * (MOST_AWAITED * (size_of::<FlowRecord>() + names)) as u64
                + first_places::MEMORY_BYTES;
        }
    } else {
        let watched = (0..workers).map(|_| watched::PLACES);
        bytes += table::memory_bytes(watched, false) + workers * updates::MEMORY_BYTES as u64;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bpf::steer::Steering;
    use crate::export::FlowFormat;
    use crate::pcap::record::Format;
    use crate::pipeline::queues::WhenFull;

    fn most(workers: u32, max_flows: u32, capture: Option<Format>) -> u64 {
        most_of(&settings(max_flows, capture), workers)
    }

    fn settings(max_flows: u32, capture: Option<Format>) -> WorkerSettings {
        WorkerSettings {
            max_flows,
            capture,
            flows: max_flows > 0,
            ..WorkerSettings::default()
        }
    }

    fn most_of(settings: &WorkerSettings, workers: u32) -> u64 {
        let steering = Steering {
            workers,
            multiplier: 1,
        };
        let sharing = Sharing {
            steering,
            max_reorder: Duration::ZERO,
            when_full: WhenFull::Drop,
        };
        most_bytes(
            settings,
            &sharing,
            &[FlowFormat::JsonLines.memory_bytes()],
            None,
        )
    }

    #[test]
    fn every_part_is_in_the_sum() {
        let nothing = most(1, 0, None);
        assert!((12..210).contains(&(nothing >> 20)), "{nothing}");
        let dedup = None;
        let without_dedup = WorkerSettings {
            dedup,
            ..WorkerSettings::default()
        };
        let dedup = nothing - most_of(&without_dedup, 1);
        assert!((4..16).contains(&(dedup >> 20)), "{dedup}");
        let capture = most(1, 0, Some(Format::PcapNg)) - nothing;
        assert!((64..96).contains(&(capture >> 20)), "{capture}");
        let flows = most(1, 1 << 20, None) - nothing;
        assert!((320..335).contains(&(flows >> 20)), "{flows}");
        let no_names = WorkerSettings {
            app: false,
            ..settings(1 << 20, None)
        };
        let without_names = most_of(&no_names, 1) - nothing;
        assert!(
            (240..260).contains(&(without_names >> 20)),
            "{without_names}"
        );
        // Where both meet, flow records tell where their first packets lie.
        let both = settings(1 << 20, Some(Format::PcapNg));
        let with_places = WorkerSettings {
            first_places: true,
            ..both.clone()
        };
        let places = most_of(&with_places, 1) - most_of(&both, 1);
        assert!((12..20).contains(&(places >> 20)), "{places}");
        // Above 64 workers each has its four batches all the same.
        let many = most(256, 0, Some(Format::PcapNg)) - most(256, 0, None);
        assert!((256..400).contains(&(many >> 20)), "{many}");
        // The flow table is shared out, what is a worker's own is not.
        let flows_of_many = most(64, 1 << 20, None) - most(64, 0, None);
        assert!(flows_of_many < flows + (48 << 20), "{flows_of_many}");
    }
}
