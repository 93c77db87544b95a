//! Metrics of a run that goes on, as Prometheus takes them: one table, from which the text and docs/METRICS.md follow.
//! Pure: a moment in, text out.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use super::health::Health;
use super::moment::{Moment, Shown};
use crate::capture::store::holdings::{Deleted, Holdings};
use crate::export::collector::reach::{Connection, Way};
use crate::mirror::session_key::SessionKey;
use crate::pipeline::answers::SessionCounts;
use crate::pipeline::measure::Distribution;
use crate::pipeline::watch::State;

/// Most mirror sessions that have series of their own.
pub const MOST_SESSIONS: usize = 1000;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts of values in steps.
    Histogram,
    /// Always 1: its labels tell something.
    Info,
}

impl Kind {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }
}

/// The form of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format of Prometheus, 0.0.4.
    Prometheus,
}

impl Form {
    /// The one that whoever sends such an Accept header takes.
    pub fn accepted_by(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => Self::OpenMetrics,
            _ => Self::Prometheus,
        }
    }

    /// The Content-Type header.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// One metric: a line of the table.
pub struct Metric {
    /// Its name as it is queried; a histogram has `_bucket`, `_sum` and `_count` behind it.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it says, in a sentence.
    pub help: &'static str,
    /// Puts out its values.
    values: fn(&Scene<'_>, &mut Values<'_>) -> fmt::Result,
}

/// A moment, with what several metrics need of it.
struct Scene<'a> {
    now: &'a Moment,
    health: &'a Health,
    sessions: &'a [Labelled],
}

/// A session with the texts of its labels.
#[derive(Debug)]
struct Labelled {
    vni: String,
    source: String,
    name: Option<String>,
    counts: SessionCounts,
}

impl Labelled {
    fn labels(&self) -> Vec<(&str, &str)> {
        let mut labels = vec![("vni", self.vni.as_str()), ("source", self.source.as_str())];
        labels.extend(self.name.as_deref().map(|name| ("name", name)));
        labels
    }
}

/// Puts out the values of one metric.
struct Values<'a> {
    out: MetricEncoder<'a>,
}

impl Values<'_> {
    fn counter(&mut self, labels: &[(&str, &str)], count: u64) -> fmt::Result {
        let none = None::<&Exemplar<[(&str, &str); 0], u64>>;
        match labels {
            [] => self.out.encode_counter(&count, none),
            labels => self
                .out
                .encode_family(&labels)?
                .encode_counter(&count, none),
        }
    }

    fn seconds_counter(&mut self, seconds: f64) -> fmt::Result {
        let none = None::<&Exemplar<[(&str, &str); 0], f64>>;
        self.out.encode_counter(&seconds, none)
    }

    fn gauge(&mut self, labels: &[(&str, &str)], value: f64) -> fmt::Result {
        match labels {
            [] => self.out.encode_gauge(&value),
            labels => self.out.encode_family(&labels)?.encode_gauge(&value),
        }
    }

    /// A limit, where there is one.
    fn limit(&mut self, labels: &[(&str, &str)], limit: Option<u64>) -> fmt::Result {
        limit.map_or(Ok(()), |limit| self.gauge(labels, limit as f64))
    }

    fn reasons(&mut self, counters: impl IntoIterator<Item = (&'static str, u64)>) -> fmt::Result {
        let mut counters = counters.into_iter();
        counters.try_for_each(|(reason, count)| self.counter(&[("reason", reason)], count))
    }

    /// The steps of `values` up to each of `bounds`; what is shown is `unit` times what was counted.
    fn histogram(
        &mut self,
        values: Option<&Distribution>,
        bounds: &[u64],
        unit: f64,
    ) -> fmt::Result {
        let Some(values) = values else {
            return Ok(());
        };
        let steps = values.steps(bounds);
        let shown = bounds.iter().map(|bound| *bound as f64 * unit);
        let mut buckets: Vec<(f64, u64)> = shown.zip(steps.up_to.iter().copied()).collect();
        let below: u64 = steps.up_to.iter().sum();
        buckets.push((f64::INFINITY, steps.count - below));
        let none = None::<&std::collections::HashMap<usize, Exemplar<[(&str, &str); 0], f64>>>;
        self.out
            .encode_histogram(steps.sum * unit, steps.count, &buckets, none)
    }
}

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
    fn stores(&self) -> impl Iterator<Item = ([(&str, &str); 2], &Holdings)> {
        let sinks = self.now.glance.sinks.iter();
        sinks.filter_map(|sink| Some((of_sink(sink), sink.store.as_ref()?)))
    }

    /// What they deleted, with the reason among the labels.
    fn deleted(&self) -> impl Iterator<Item = ([(&str, &str); 3], Deleted)> {
        self.stores().flat_map(|([kind, path], store)| {
            let deleted = store.deleted();
            deleted.map(move |(why, deleted)| ([kind, path, ("reason", why.reason())], deleted))
        })
    }

    /// The collectors among the outputs, with their labels.
    fn collectors(&self) -> impl Iterator<Item = ([(&str, &str); 2], Way)> {
        let sinks = self.now.glance.sinks.iter();
        sinks.filter_map(|sink| Some((of_sink(sink), sink.collector.as_ref()?.way)))
    }

    /// Those over TCP.
    fn connections(&self) -> impl Iterator<Item = ([(&str, &str); 2], Connection)> {
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

/// Which mirror sessions have series of their own: the first [`MOST_SESSIONS`], those with the most packets where more
/// come at once. A session keeps its series as long as it is in the table, so that what is counted together only
/// rises while no session leaves the table.
#[derive(Debug, Default)]
pub struct Series {
    kept: HashSet<SessionKey>,
}

impl Series {
    /// Takes in the sessions of a new moment.
    pub fn update(&mut self, sessions: &[SessionCounts]) {
        let here: HashSet<SessionKey> = sessions.iter().map(|session| session.key).collect();
        self.kept.retain(|key| here.contains(key));
        let room = MOST_SESSIONS - self.kept.len();
        let mut new: Vec<&SessionCounts> = sessions
            .iter()
            .filter(|session| session.key != SessionKey::Other && !self.kept.contains(&session.key))
            .collect();
        new.sort_by_key(|session| (std::cmp::Reverse(session.packets), session.key));
        self.kept
            .extend(new.iter().take(room).map(|session| session.key));
    }

    fn of(&self, now: &Moment) -> Vec<Labelled> {
        let shown = Shown::choose(&now.glance.sessions, |session| {
            self.kept.contains(&session.key)
        });
        let labelled = |counts: &SessionCounts| {
            let (source, vni) = counts.key.mirror().unzip();
            let label = now.inventory.label(counts.key);
            Labelled {
                vni: vni.map_or_else(|| "other".to_owned(), |vni| vni.to_string()),
                source: source.map_or_else(|| "other".to_owned(), |source| source.to_string()),
                name: label.and_then(|label| label.name.clone()),
                counts: *counts,
            }
        };
        let shown_one_by_one = shown.sessions.into_iter().map(labelled);
        shown_one_by_one
            .chain(shown.others.as_ref().map(labelled))
            .collect()
    }
}

/// Words at the end of a name that are its unit.
const UNITS: [&str; 10] = [
    "bytes", "events", "files", "flows", "items", "messages", "packets", "seconds", "sessions",
    "threads",
];

impl Metric {
    /// The name without what the formats add to it, and its unit.
    fn stem(&self) -> (&'static str, Option<Unit>) {
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        let stem = self.name.strip_suffix(suffix).unwrap_or(self.name);
        match stem.rsplit_once('_') {
            Some((before, unit)) if UNITS.contains(&unit) => {
                (before, Some(Unit::Other(unit.to_owned())))
            }
            _ => (stem, None),
        }
    }

    fn encode(&self, scene: &Scene<'_>, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (stem, unit) = self.stem();
        let kind = match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
            Kind::Info => MetricType::Info,
        };
        let out = encoder.encode_descriptor(stem, self.help, unit.as_ref(), kind)?;
        (self.values)(scene, &mut Values { out })
    }
}

/// A moment on its way to a text.
#[derive(Debug)]
struct Scraped {
    now: Arc<Moment>,
    health: Health,
    sessions: Vec<Labelled>,
}

impl Collector for Scraped {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let scene = Scene {
            now: &self.now,
            health: &self.health,
            sessions: &self.sessions,
        };
        let mut metrics = METRICS.iter();
        metrics.try_for_each(|metric| metric.encode(&scene, &mut encoder))
    }
}

/// The text of all metrics. What is new is so since `earlier`, or since the run began.
pub fn text_of(now: &Arc<Moment>, earlier: Option<&Moment>, series: &Series, form: Form) -> String {
    let mut all = Registry::default();
    all.register_collector(Box::new(Scraped {
        now: Arc::clone(now),
        health: Health::of(now, earlier),
        sessions: series.of(now),
    }));
    let mut metrics = String::new();
    let written = match form {
        Form::OpenMetrics => text::encode(&mut metrics, &all),
        Form::Prometheus => prometheus_text::encode(&mut metrics, &all),
    };
    // A text takes all that is written to it.
    debug_assert!(written.is_ok(), "{written:?}");
    metrics
}

#[cfg(test)]
mod tests {
    use super::super::health::tests::{moment, sink};
    use super::*;
    use crate::capture::store::retention::Because;
    use crate::export::collector::reach::Reach;
    use crate::pipeline::ledger::Dropped;
    use crate::wire::Vni;

    fn session(vni: u32, packets: u64) -> SessionCounts {
        SessionCounts {
            packets,
            bytes: 10 * packets,
            truncated: 1,
            ..SessionCounts::none(SessionKey::Mirror {
                source: [10, 0, 1, 11].into(),
                vni: Vni::new(vni).unwrap(),
            })
        }
    }

    fn scraped(now: Moment, form: Form) -> String {
        let mut series = Series::default();
        series.update(&now.glance.sessions);
        text_of(&Arc::new(now), None, &series, form)
    }

    /// The value of the series with that name and those labels, as they stand in the text.
    fn value(text: &str, series: &str) -> f64 {
        let mut lines = text
            .lines()
            .filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        let found = lines
            .next()
            .unwrap_or_else(|| panic!("no {series} in {text}"));
        found.parse().unwrap()
    }

    #[test]
    fn both_forms_have_every_metric_and_zeros() {
        let mut now = moment(9.0, 7, 2);
        now.glance.ledger.drop(Dropped::Stopped, 0);
        now.glance.sessions = vec![session(5, 7)];
        now.glance.sinks = vec![sink(3, None)];
        let mut frames = Distribution::of_frames();
        [60, 64, 1500, 9999]
            .into_iter()
            .for_each(|len| frames.record(len));
        now.glance.measured.frame = Some(frames);
        let prometheus = scraped(now, Form::Prometheus);
        for (series, expected) in [
            ("vxtap_received_packets_total", 7.0),
            ("vxtap_malformed_packets_total{reason=\"vxlan_short\"}", 0.0),
            ("vxtap_filtered_packets_total{reason=\"probe\"}", 0.0),
            ("vxtap_dropped_packets_total{reason=\"stopped\"}", 0.0),
            (
                "vxtap_kernel_dropped_packets_total{reason=\"socket_overflow\"}",
                2.0,
            ),
            ("vxtap_problems{kind=\"kernel_lost\"}", 1.0),
            (
                "vxtap_session_bytes_total{vni=\"5\",source=\"10.0.1.11\"}",
                70.0,
            ),
            (
                "vxtap_sink_dropped_items_total{kind=\"capture\",path=\"c/\",reason=\"disk\"}",
                3.0,
            ),
            ("vxtap_frame_bytes_bucket{le=\"64\"}", 2.0),
            ("vxtap_frame_bytes_bucket{le=\"+Inf\"}", 4.0),
            ("vxtap_frame_bytes_count", 4.0),
            ("vxtap_flow_table_limit_flows", 1000.0),
        ] {
            assert_eq!(value(&prometheus, series), expected, "{series}");
        }
        for metric in METRICS {
            let described = format!("# HELP {} {}\n", metric.name, metric.help);
            assert!(prometheus.contains(&described), "{}", metric.name);
            let kind = match metric.kind {
                Kind::Info => Kind::Gauge,
                kind => kind,
            };
            let typed = format!("# TYPE {} {}\n", metric.name, kind.name());
            assert!(prometheus.contains(&typed), "{typed}");
        }
        let mut now = moment(9.0, 7, 2);
        now.glance.sessions = vec![session(5, 7)];
        let open = scraped(now, Form::OpenMetrics);
        assert!(open.ends_with("# EOF\n"), "{open}");
        assert!(open.contains(
            "# TYPE vxtap_received_packets counter\n# UNIT vxtap_received_packets packets\n"
        ));
        assert!(open.contains("# TYPE vxtap_build info\n"), "{open}");
        assert_eq!(value(&open, "vxtap_received_packets_total"), 7.0);
    }

    /// What an output does not know of itself has no series: a limit that is not set, a connection over UDP.
    #[test]
    fn stores_and_collectors_have_what_they_know() {
        let mut holdings = Holdings::default();
        holdings.files = 3;
        holdings.note_deleted(Because::Bytes, 70, true);
        let connection = Connection {
            since_ns: 8_000_000_000,
            connections: 2,
            failed_attempts: 5,
            unsent_bytes: 11,
            unacknowledged_bytes: 12,
            is_up: false,
        };
        let of = |way| {
            Some(Reach {
                way,
                last_error: None,
            })
        };
        let [mut store, mut tcp, mut udp] = ["s/", "t", "u"].map(|path| {
            let mut sink = sink(0, None);
            sink.account.path = path.to_owned();
            sink
        });
        store.store = Some(holdings);
        tcp.collector = of(Way::Tcp(connection));
        udp.collector = of(Way::Udp { refused: 4 });
        let mut now = moment(9.0, 0, 0);
        now.glance.sinks = vec![store, tcp, udp];
        let text = scraped(now, Form::Prometheus);
        for (series, expected) in [
            ("store_files{kind=\"capture\",path=\"s/\"}", 3.0),
            (
                "store_deleted_bytes_total{kind=\"capture\",path=\"s/\",reason=\"keep_bytes\"}",
                70.0,
            ),
            (
                "store_deleted_files_total{kind=\"capture\",path=\"s/\",reason=\"keep_age\"}",
                0.0,
            ),
            (
                "store_deleted_early_files_total{kind=\"capture\",path=\"s/\"}",
                1.0,
            ),
            ("collector_connected{kind=\"capture\",path=\"t\"}", 0.0),
            (
                "collector_last_connected_timestamp_seconds{kind=\"capture\",path=\"t\"}",
                8.0,
            ),
            ("collector_unsent_bytes{kind=\"capture\",path=\"t\"}", 11.0),
            (
                "collector_unacknowledged_bytes{kind=\"capture\",path=\"t\"}",
                12.0,
            ),
            (
                "collector_refused_messages_total{kind=\"capture\",path=\"u\"}",
                4.0,
            ),
        ] {
            assert_eq!(
                value(&text, &format!("vxtap_{series}")),
                expected,
                "{series}"
            );
        }
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let has = |start: &str, path: &str| {
            let path = format!("path=\"{path}\"");
            lines
                .clone()
                .any(|line| line.starts_with(start) && line.contains(&path))
        };
        assert!(!has("vxtap_store_limit", "s/") && !has("vxtap_store_min_free", "s/"));
        assert!(!has("vxtap_store_oldest", "s/"));
        assert!(!has("vxtap_store", "t") && !has("vxtap_collector", "s/"));
        assert!(!has("vxtap_collector_connect", "u") && !has("vxtap_collector_refused", "t"));
    }

    #[test]
    fn names_are_those_of_prometheus() {
        let mut names = HashSet::new();
        for metric in METRICS {
            let name = metric.name;
            assert!(names.insert(name), "{name} is there twice");
            assert_eq!(
                name.ends_with("_total"),
                metric.kind == Kind::Counter,
                "{name}"
            );
            assert!(metric.help.ends_with('.'), "{name}");
            assert!(
                name.starts_with("vxtap_") || name.starts_with("process_"),
                "{name}"
            );
        }
    }

    /// Labels with any content leave a text that can be read.
    #[test]
    fn labels_are_escaped() {
        let mut now = moment(9.0, 0, 0);
        now.kernel_counters.insert("a\"b\\c\nd".to_owned(), 1);
        let text = scraped(now, Form::Prometheus);
        assert!(text.contains(r#"{counter="a\"b\\c\nd"} 1"#), "{text}");
    }

    #[test]
    fn a_bounded_number_of_sessions_has_series() {
        let most = MOST_SESSIONS as u32;
        let mut now = moment(9.0, 0, 0);
        now.glance.sessions = (0..most + 50)
            .map(|vni| session(vni, u64::from(vni) + 1))
            .collect();
        let mut series = Series::default();
        series.update(&now.glance.sessions);
        let text = text_of(&Arc::new(now), None, &series, Form::Prometheus);
        let lines = text
            .lines()
            .filter(|line| line.starts_with("vxtap_session_packets_total{"));
        assert_eq!(lines.count(), MOST_SESSIONS + 1);
        let others = "vxtap_session_packets_total{vni=\"other\",source=\"other\"}";
        assert_eq!(value(&text, others), f64::from((1..=50).sum::<u32>()));
        // Who has series keeps them, however busy others become; who left makes room.
        let mut now = moment(9.0, 0, 0);
        now.glance.sessions = (0..most + 50)
            .map(|vni| session(vni, 1_000_000 - u64::from(vni)))
            .collect();
        now.glance.sessions.remove(most as usize);
        series.update(&now.glance.sessions);
        let text = text_of(&Arc::new(now), None, &series, Form::Prometheus);
        let has = |vni: u32| text.contains(&format!("vxtap_session_packets_total{{vni=\"{vni}\""));
        assert!(has(most + 49) && has(50) && has(0));
        assert!(!has(1) && !has(most));
    }
}
