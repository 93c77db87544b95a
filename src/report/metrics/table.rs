//! The table of all metrics: names, labels, sentences, and where their values come from.

use super::metric::{Kind, Metric, Scene};
use crate::capture::store::holdings::{Deleted, Holdings};
use crate::export::collector::reach::{Connection, Way};
use crate::pipeline::watch::State;

/// Bounds of latencies, in nanoseconds.
const LATENCIES: [u64; 15] = [
    10_000,
    50_000,
    100_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    5_000_000_000,
];

/// Bounds of batches, in datagrams.
const BATCHES: [u64; 9] = [1, 2, 4, 8, 16, 32, 64, 256, 1024];

/// Bounds of frames, in bytes.
const FRAMES: [u64; 10] = [64, 96, 128, 256, 512, 1024, 1450, 1514, 2048, 9014];

/// Seconds since 1970, as Prometheus has times.
fn timestamp(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// Labels of a sink.
fn of_sink(sink: &State) -> [(&str, &str); 2] {
    [
        ("kind", sink.account.kind.name()),
        ("path", &sink.account.path),
    ]
}

impl Scene<'_> {
    /// The stores among the outputs, with their labels.
    pub(super) fn stores(&self) -> impl Iterator<Item = ([(&str, &str); 2], &Holdings)> {
        let sinks = self.now.glance.sinks.iter();
        sinks.filter_map(|sink| Some((of_sink(sink), sink.store.as_ref()?)))
    }

    /// What they deleted, with the reason among the labels.
    pub(super) fn deleted(&self) -> impl Iterator<Item = ([(&str, &str); 3], Deleted)> {
        self.stores().flat_map(|([kind, path], store)| {
            let deleted = store.deleted();
            deleted.map(move |(why, deleted)| ([kind, path, ("reason", why.reason())], deleted))
        })
    }

    /// The collectors among the outputs, with their labels.
    pub(super) fn collectors(&self) -> impl Iterator<Item = ([(&str, &str); 2], Way)> {
        let sinks = self.now.glance.sinks.iter();
        sinks.filter_map(|sink| Some((of_sink(sink), sink.collector.as_ref()?.way)))
    }

    /// Those over TCP.
    pub(super) fn connections(&self) -> impl Iterator<Item = ([(&str, &str); 2], Connection)> {
        self.collectors().filter_map(|(labels, way)| match way {
            Way::Udp { .. } => None,
            Way::Tcp(connection) => Some((labels, connection)),
        })
    }
}

/// Every metric, in the order of the text.
pub const METRICS: &[Metric] = &[
    Metric {
        name: "vxtap_build_info",
        kind: Kind::Info,
        labels: &["version"],
        help: "Always 1; the label names the version.",
        values: |_, out| {
            out.out
                .encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
        },
    },
    Metric {
        name: "vxtap_start_time_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "When the run began, seconds since 1970.",
        values: |scene, out| out.gauge(&[], timestamp(scene.now.about.began_ns)),
    },
    Metric {
        name: "vxtap_heartbeat_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "When all threads answered last, seconds since 1970: it stands still when one hangs, not when nothing is received.",
        values: |scene, out| out.gauge(&[], timestamp(scene.now.answered_ns)),
    },
    Metric {
        name: "vxtap_last_packet_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "Time of the last packet received, seconds since 1970; 0 before the first.",
        values: |scene, out| out.gauge(&[], timestamp(scene.now.glance.latest_ns)),
    },
    Metric {
        name: "vxtap_silent_threads",
        kind: Kind::Gauge,
        labels: &[],
        help: "Workers and writers that did not answer within a second.",
        values: |scene, out| out.gauge(&[], scene.now.glance.silent.len() as f64),
    },
    Metric {
        name: "vxtap_problems",
        kind: Kind::Gauge,
        labels: &["kind"],
        help: "What is not as it should be, as vxtap status tells it, by kind.",
        values: |scene, out| {
            let mut kinds = scene.health.by_kind();
            kinds.try_for_each(|(kind, number)| out.gauge(&[("kind", kind)], number as f64))
        },
    },
    Metric {
        name: "vxtap_received_packets_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Packets received. Equals delivered + malformed + filtered + duplicate + dropped + waiting.",
        values: |scene, out| out.counter(&[], scene.now.glance.ledger.received),
    },
    Metric {
        name: "vxtap_delivered_packets_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Mirrored frames decapsulated, judged and handed to the outputs.",
        values: |scene, out| out.counter(&[], scene.now.glance.ledger.delivered),
    },
    Metric {
        name: "vxtap_malformed_packets_total",
        kind: Kind::Counter,
        labels: &["reason"],
        help: "Packets that break a rule of their format.",
        values: |scene, out| {
            let [(_, malformed), ..] = scene.now.glance.ledger.counters();
            out.reasons(malformed)
        },
    },
    Metric {
        name: "vxtap_filtered_packets_total",
        kind: Kind::Counter,
        labels: &["reason"],
        help: "Packets that were not asked for.",
        values: |scene, out| {
            let [_, (_, filtered), ..] = scene.now.glance.ledger.counters();
            out.reasons(filtered)
        },
    },
    Metric {
        name: "vxtap_duplicate_packets_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Copies of packets that came before, kept out by --dedup drop.",
        values: |scene, out| out.counter(&[], scene.now.glance.ledger.duplicate),
    },
    Metric {
        name: "vxtap_dropped_packets_total",
        kind: Kind::Counter,
        labels: &["reason"],
        help: "Packets received and lost.",
        values: |scene, out| {
            let [_, _, (_, dropped), _] = scene.now.glance.ledger.counters();
            out.reasons(dropped)
        },
    },
    Metric {
        name: "vxtap_waiting_packets",
        kind: Kind::Gauge,
        labels: &[],
        help: "Outer fragments received that wait for others.",
        values: |scene, out| out.gauge(&[], scene.now.glance.ledger.waiting() as f64),
    },
    Metric {
        name: "vxtap_noted_packets_total",
        kind: Kind::Counter,
        labels: &["reason"],
        help: "Worth knowing of packets that were delivered; outside the equation.",
        values: |scene, out| {
            let [.., (_, noted)] = scene.now.glance.ledger.counters();
            out.reasons(noted)
        },
    },
    Metric {
        name: "vxtap_kernel_dropped_packets_total",
        kind: Kind::Counter,
        labels: &["reason"],
        help: "Datagrams the kernel had no room for, before they could be received; beside the equation.",
        values: |scene, out| {
            let now = scene.now;
            out.reasons([(now.about.kernel_reason, now.glance.lost_before)])
        },
    },
    Metric {
        name: "vxtap_kernel_refused_packets_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Packets of sources that --allow does not name that the kernel left out before they were received; beside the equation.",
        values: |scene, out| out.counter(&[], scene.now.glance.kernel_refused),
    },
    Metric {
        name: "vxtap_kernel_counter_events_total",
        kind: Kind::Counter,
        labels: &["counter"],
        help: "The kernel's own counters that moved during the run, of the whole network namespace.",
        values: |scene, out| {
            let mut counters = scene.now.kernel_counters.iter();
            counters.try_for_each(|(name, count)| out.counter(&[("counter", name)], *count))
        },
    },
    Metric {
        name: "vxtap_worker_received_packets_total",
        kind: Kind::Counter,
        labels: &["worker"],
        help: "Packets each worker received.",
        values: |scene, out| {
            let mut workers = scene.now.glance.received.iter().enumerate();
            workers.try_for_each(|(worker, packets)| {
                out.counter(&[("worker", &worker.to_string())], *packets)
            })
        },
    },
    Metric {
        name: "vxtap_sessions",
        kind: Kind::Gauge,
        labels: &[],
        help: "Mirror sessions seen; those that the bounded table counts together are one.",
        values: |scene, out| out.gauge(&[], scene.now.glance.sessions.len() as f64),
    },
    Metric {
        name: "vxtap_session_packets_total",
        kind: Kind::Counter,
        labels: &["vni", "source", "name"],
        help: "Frames of a mirror session; vni and source are other for those beyond the first 1000, which are counted together.",
        values: |scene, out| {
            let mut sessions = scene.sessions.iter();
            sessions.try_for_each(|of| out.counter(&of.labels(), of.counts.packets))
        },
    },
    Metric {
        name: "vxtap_session_bytes_total",
        kind: Kind::Counter,
        labels: &["vni", "source", "name"],
        help: "Bytes of inner frame that arrived of a mirror session.",
        values: |scene, out| {
            let mut sessions = scene.sessions.iter();
            sessions.try_for_each(|of| out.counter(&of.labels(), of.counts.bytes))
        },
    },
    Metric {
        name: "vxtap_session_truncated_packets_total",
        kind: Kind::Counter,
        labels: &["vni", "source", "name"],
        help: "Packets of a mirror session that were cut before they reached us.",
        values: |scene, out| {
            let mut sessions = scene.sessions.iter();
            sessions.try_for_each(|of| out.counter(&of.labels(), of.counts.truncated))
        },
    },
    Metric {
        name: "vxtap_session_missing_bytes_total",
        kind: Kind::Counter,
        labels: &["vni", "source", "name"],
        help: "Bytes cut off the truncated packets of a mirror session.",
        values: |scene, out| {
            let mut sessions = scene.sessions.iter();
            sessions.try_for_each(|of| out.counter(&of.labels(), of.counts.missing_bytes))
        },
    },
    Metric {
        name: "vxtap_session_last_packet_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &["vni", "source", "name"],
        help: "Time of the last frame of a mirror session, seconds since 1970.",
        values: |scene, out| {
            let mut sessions = scene.sessions.iter();
            sessions.try_for_each(|of| out.gauge(&of.labels(), timestamp(of.counts.last_ns)))
        },
    },
    Metric {
        name: "vxtap_expected_sessions",
        kind: Kind::Gauge,
        labels: &["state"],
        help: "Sessions that --expect lists by what was seen of them, and those seen that it does not list (unexpected).",
        values: |scene, out| {
            let Some(difference) = scene.now.expected() else {
                return Ok(());
            };
            let (missing, silent) = (difference.missing.len(), difference.silent.len());
            let states = [
                ("heard", difference.expected - missing - silent),
                ("missing", missing),
                ("silent", silent),
                ("unexpected", difference.unexpected.len()),
            ];
            let mut states = states.into_iter();
            states.try_for_each(|(state, number)| out.gauge(&[("state", state)], number as f64))
        },
    },
    Metric {
        name: "vxtap_flow_table_flows",
        kind: Kind::Gauge,
        labels: &[],
        help: "Flows that live, where flow records are written.",
        values: |scene, out| match scene.now.about.max_flows {
            Some(_) => out.gauge(&[], scene.now.glance.flows as f64),
            None => Ok(()),
        },
    },
    Metric {
        name: "vxtap_flow_table_limit_flows",
        kind: Kind::Gauge,
        labels: &[],
        help: "Most flows that are kept at a time (--max-flows).",
        values: |scene, out| match scene.now.about.max_flows {
            Some(most) => out.gauge(&[], most.into()),
            None => Ok(()),
        },
    },
    Metric {
        name: "vxtap_flow_records_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Flow records made; each is offered to every output for them.",
        values: |scene, out| out.counter(&[], scene.now.glance.flow_records),
    },
    Metric {
        name: "vxtap_sink_offered_items_total",
        kind: Kind::Counter,
        labels: &["kind", "path"],
        help: "Packets or flow records there were for an output. Equals written + dropped + waiting.",
        values: |scene, out| {
            let mut sinks = scene.now.glance.sinks.iter();
            sinks.try_for_each(|sink| out.counter(&of_sink(sink), sink.account.offered))
        },
    },
    Metric {
        name: "vxtap_sink_written_items_total",
        kind: Kind::Counter,
        labels: &["kind", "path"],
        help: "Packets or flow records that are in an output.",
        values: |scene, out| {
            let mut sinks = scene.now.glance.sinks.iter();
            sinks.try_for_each(|sink| out.counter(&of_sink(sink), sink.account.written))
        },
    },
    Metric {
        name: "vxtap_sink_dropped_items_total",
        kind: Kind::Counter,
        labels: &["kind", "path", "reason"],
        help: "Packets or flow records that did not get into an output.",
        values: |scene, out| {
            for sink in &scene.now.glance.sinks {
                let [kind, path] = of_sink(sink);
                for (why, count) in sink.account.dropped() {
                    out.counter(&[kind, path, ("reason", why.reason())], count)?;
                }
            }
            Ok(())
        },
    },
    Metric {
        name: "vxtap_sink_waiting_items",
        kind: Kind::Gauge,
        labels: &["kind", "path"],
        help: "Packets or flow records on their way to an output: its queue, and what is gathered to be written.",
        values: |scene, out| {
            let mut sinks = scene.now.glance.sinks.iter();
            sinks.try_for_each(|sink| out.gauge(&of_sink(sink), sink.account.waiting as f64))
        },
    },
    Metric {
        name: "vxtap_sink_size_bytes",
        kind: Kind::Gauge,
        labels: &["kind", "path"],
        help: "Bytes written to an output.",
        values: |scene, out| {
            let mut sinks = scene.now.glance.sinks.iter();
            sinks.try_for_each(|sink| out.gauge(&of_sink(sink), sink.account.bytes as f64))
        },
    },
    Metric {
        name: "vxtap_sink_faults",
        kind: Kind::Gauge,
        labels: &["kind", "path"],
        help: "1 where an output failed and nothing is written to it any more; a reader that left is none.",
        values: |scene, out| {
            let failed = |sink: &State| {
                let fault = sink.fault.as_ref();
                f64::from(u8::from(fault.is_some_and(|fault| !fault.reader_left)))
            };
            let mut sinks = scene.now.glance.sinks.iter();
            sinks.try_for_each(|sink| out.gauge(&of_sink(sink), failed(sink)))
        },
    },
    Metric {
        name: "vxtap_store_files",
        kind: Kind::Gauge,
        labels: &["kind", "path"],
        help: "Finished files in the directory of a store, whoever wrote them; outputs that share one tell all of it each.",
        values: |scene, out| {
            let mut stores = scene.stores();
            stores.try_for_each(|(labels, store)| out.gauge(&labels, store.files as f64))
        },
    },
    Metric {
        name: "vxtap_store_size_bytes",
        kind: Kind::Gauge,
        labels: &["kind", "path"],
        help: "Bytes of the finished files of a store with their indexes.",
        values: |scene, out| {
            let mut stores = scene.stores();
            stores.try_for_each(|(labels, store)| out.gauge(&labels, store.bytes as f64))
        },
    },
    Metric {
        name: "vxtap_store_oldest_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &["kind", "path"],
        help: "How far a store reaches back: time of the earliest packet, or beginning of the earliest flow, in its finished files, seconds since 1970; absent where there is none.",
        values: |scene, out| {
            let mut stores = scene.stores();
            stores.try_for_each(|(labels, store)| match store.oldest_ns {
                Some(oldest_ns) => out.gauge(&labels, timestamp(oldest_ns)),
                None => Ok(()),
            })
        },
    },
    Metric {
        name: "vxtap_store_finished_files_total",
        kind: Kind::Counter,
        labels: &["kind", "path"],
        help: "Files that this run finished in a store.",
        values: |scene, out| {
            let mut stores = scene.stores();
            stores.try_for_each(|(labels, store)| out.counter(&labels, store.finished))
        },
    },
    Metric {
        name: "vxtap_store_deleted_files_total",
        kind: Kind::Counter,
        labels: &["kind", "path", "reason"],
        help: "Files that this output deleted in its store, by the limit that asked for it.",
        values: |scene, out| {
            let mut deleted = scene.deleted();
            deleted.try_for_each(|(labels, deleted)| out.counter(&labels, deleted.files))
        },
    },
    Metric {
        name: "vxtap_store_deleted_bytes_total",
        kind: Kind::Counter,
        labels: &["kind", "path", "reason"],
        help: "Bytes of those files with their indexes.",
        values: |scene, out| {
            let mut deleted = scene.deleted();
            deleted.try_for_each(|(labels, deleted)| out.counter(&labels, deleted.bytes))
        },
    },
    Metric {
        name: "vxtap_store_deleted_early_files_total",
        kind: Kind::Counter,
        labels: &["kind", "path"],
        help: "Those of the deleted files that were younger than --keep-age: another limit left no room for them.",
        values: |scene, out| {
            let mut stores = scene.stores();
            stores.try_for_each(|(labels, store)| out.counter(&labels, store.deleted_early))
        },
    },
    Metric {
        name: "vxtap_store_limit_files",
        kind: Kind::Gauge,
        labels: &["kind", "path"],
        help: "Most finished files of a store (--keep-files); absent without that limit.",
        values: |scene, out| {
            let mut stores = scene.stores();
            stores.try_for_each(|(labels, store)| out.limit(&labels, store.limits.files))
        },
    },
    Metric {
        name: "vxtap_store_limit_bytes",
        kind: Kind::Gauge,
        labels: &["kind", "path"],
        help: "Most bytes of all files of a store (--keep-bytes), those that are being written and the manifest included; absent without that limit.",
        values: |scene, out| {
            let mut stores = scene.stores();
            stores.try_for_each(|(labels, store)| out.limit(&labels, store.limits.bytes))
        },
    },
    Metric {
        name: "vxtap_store_limit_age_seconds",
        kind: Kind::Gauge,
        labels: &["kind", "path"],
        help: "How long a store keeps a file behind its last packet (--keep-age); absent without that limit.",
        values: |scene, out| {
            let mut stores = scene.stores();
            stores.try_for_each(|(labels, store)| match store.limits.age {
                Some(age) => out.gauge(&labels, age.as_secs_f64()),
                None => Ok(()),
            })
        },
    },
    Metric {
        name: "vxtap_store_min_free_bytes",
        kind: Kind::Gauge,
        labels: &["kind", "path"],
        help: "Bytes that a store leaves free on its file system (--min-free); absent without that limit.",
        values: |scene, out| {
            let mut stores = scene.stores();
            stores.try_for_each(|(labels, store)| out.limit(&labels, store.min_free_bytes))
        },
    },
    Metric {
        name: "vxtap_collector_connected",
        kind: Kind::Gauge,
        labels: &["kind", "path"],
        help: "1 where a collector over TCP is connected, else 0; over UDP nobody connects.",
        values: |scene, out| {
            let mut connections = scene.connections();
            connections.try_for_each(|(labels, connection)| {
                out.gauge(&labels, f64::from(u8::from(connection.is_up)))
            })
        },
    },
    Metric {
        name: "vxtap_collector_last_connected_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &["kind", "path"],
        help: "When a collector over TCP was connected last, seconds since 1970: now, while it is; absent before the first time.",
        values: |scene, out| {
            let mut connections = scene.connections();
            connections.try_for_each(|(labels, connection)| match connection {
                Connection { is_up: true, .. } => out.gauge(&labels, timestamp(scene.now.at_ns)),
                Connection { connections: 0, .. } => Ok(()),
                Connection { since_ns, .. } => out.gauge(&labels, timestamp(since_ns)),
            })
        },
    },
    Metric {
        name: "vxtap_collector_connections_total",
        kind: Kind::Counter,
        labels: &["kind", "path"],
        help: "Connections to a collector over TCP that came about.",
        values: |scene, out| {
            let mut connections = scene.connections();
            connections
                .try_for_each(|(labels, connection)| out.counter(&labels, connection.connections))
        },
    },
    Metric {
        name: "vxtap_collector_failed_attempts_total",
        kind: Kind::Counter,
        labels: &["kind", "path"],
        help: "Attempts to connect to a collector over TCP that failed.",
        values: |scene, out| {
            let mut connections = scene.connections();
            connections.try_for_each(|(labels, connection)| {
                out.counter(&labels, connection.failed_attempts)
            })
        },
    },
    Metric {
        name: "vxtap_collector_unsent_bytes",
        kind: Kind::Gauge,
        labels: &["kind", "path"],
        help: "Bytes of messages that wait to be sent to a collector over TCP, those included that a broken connection left.",
        values: |scene, out| {
            let mut connections = scene.connections();
            connections.try_for_each(|(labels, connection)| {
                out.gauge(&labels, connection.unsent_bytes as f64)
            })
        },
    },
    Metric {
        name: "vxtap_collector_unacknowledged_bytes",
        kind: Kind::Gauge,
        labels: &["kind", "path"],
        help: "Bytes of messages that a collector over TCP was sent and has not acknowledged; they are sent again if the connection breaks.",
        values: |scene, out| {
            let mut connections = scene.connections();
            connections.try_for_each(|(labels, connection)| {
                out.gauge(&labels, connection.unacknowledged_bytes as f64)
            })
        },
    },
    Metric {
        name: "vxtap_collector_refused_messages_total",
        kind: Kind::Counter,
        labels: &["kind", "path"],
        help: "Messages to a collector over UDP that the kernel did not take or that came back refused (ICMP), as far as that is known.",
        values: |scene, out| {
            let mut collectors = scene.collectors();
            collectors.try_for_each(|(labels, way)| match way {
                Way::Udp { refused } => out.counter(&labels, refused),
                Way::Tcp(_) => Ok(()),
            })
        },
    },
    Metric {
        name: "vxtap_disk_free_bytes",
        kind: Kind::Gauge,
        labels: &["path"],
        help: "Room left for this process on the file system that an output is on.",
        values: |scene, out| {
            let mut disks = scene.now.disks.iter();
            disks.try_for_each(|disk| out.gauge(&[("path", &disk.path)], disk.free as f64))
        },
    },
    Metric {
        name: "vxtap_disk_size_bytes",
        kind: Kind::Gauge,
        labels: &["path"],
        help: "Size of the file system that an output is on.",
        values: |scene, out| {
            let mut disks = scene.now.disks.iter();
            disks.try_for_each(|disk| out.gauge(&[("path", &disk.path)], disk.size as f64))
        },
    },
    Metric {
        name: "vxtap_arrival_to_encoded_seconds",
        kind: Kind::Histogram,
        labels: &[],
        help: "From the kernel's time of arrival until the packet's batch was worked on.",
        values: |scene, out| {
            let measured = &scene.now.glance.measured;
            out.histogram(measured.arrival_to_encoded.as_ref(), &LATENCIES, 1e-9)
        },
    },
    Metric {
        name: "vxtap_arrival_to_written_seconds",
        kind: Kind::Histogram,
        labels: &[],
        help: "From the kernel's time of arrival until the record was given to the capture.",
        values: |scene, out| {
            let measured = &scene.now.glance.measured;
            out.histogram(measured.arrival_to_written.as_ref(), &LATENCIES, 1e-9)
        },
    },
    Metric {
        name: "vxtap_batch_packets",
        kind: Kind::Histogram,
        labels: &[],
        help: "Datagrams taken from the kernel at a time.",
        values: |scene, out| out.histogram(scene.now.glance.measured.batch.as_ref(), &BATCHES, 1.0),
    },
    Metric {
        name: "vxtap_frame_bytes",
        kind: Kind::Histogram,
        labels: &[],
        help: "Bytes of inner frame that arrived.",
        values: |scene, out| out.histogram(scene.now.glance.measured.frame.as_ref(), &FRAMES, 1.0),
    },
    Metric {
        name: "vxtap_http_refused_connections_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Connections to the HTTP listener that were closed at once, because too many were open.",
        values: |scene, out| out.counter(&[], scene.now.http_refused),
    },
    Metric {
        name: "process_cpu_seconds_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Time on cores of this process, in seconds.",
        values: |scene, out| match &scene.now.process {
            Some(process) => out.seconds_counter(process.cpu_seconds),
            None => Ok(()),
        },
    },
    Metric {
        name: "process_resident_memory_bytes",
        kind: Kind::Gauge,
        labels: &[],
        help: "Resident memory of this process, in bytes.",
        values: |scene, out| match &scene.now.process {
            Some(process) => out.gauge(&[], process.resident_bytes as f64),
            None => Ok(()),
        },
    },
    Metric {
        name: "process_open_fds",
        kind: Kind::Gauge,
        labels: &[],
        help: "Open descriptors of this process.",
        values: |scene, out| match &scene.now.process {
            Some(process) => out.gauge(&[], process.open_fds as f64),
            None => Ok(()),
        },
    },
    Metric {
        name: "process_threads",
        kind: Kind::Gauge,
        labels: &[],
        help: "Threads of this process.",
        values: |scene, out| match &scene.now.process {
            Some(process) => out.gauge(&[], process.threads as f64),
            None => Ok(()),
        },
    },
];
