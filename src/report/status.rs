//! The status of a run that goes on, as a value: the JSON object of `vxtap status --json` and of `/status`.
//! docs/status.schema.json describes it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::health::Health;
use super::moment::{Moment, Shown};
use crate::capture::store::holdings::{Deleted, Holdings};
use crate::export::collector::reach::{Reach, Way};
use crate::flow::text::rfc3339;
use crate::host::counters;
use crate::mirror::routes::Routes;
use crate::mirror::session_key::SessionKey;
use crate::mirror::truncation::Cause;
use crate::pipeline::answers::SessionCounts;
use crate::pipeline::evidence::{self, Cut, Evidence};
use crate::pipeline::watch::State;

/// Most mirror sessions listed.
pub const SESSIONS_LISTED: usize = evidence::MOST_ASKED;

/// Counts by reason, those that counted something.
type ByReason = BTreeMap<String, u64>;

/// A run that goes on.
#[derive(Debug, Deserialize, Serialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Number of its process.
    pub pid: u32,
    /// When the run began, RFC 3339.
    pub began: String,
    /// When it was looked at, RFC 3339.
    pub at: String,
    /// Seconds since it began.
    pub uptime_seconds: f64,
    /// Addresses that are received on.
    pub addresses: Vec<String>,
    /// How packets are taken from the kernel.
    pub backend: String,
    /// It was told to end.
    pub ending: bool,
    /// How it is.
    pub health: Health,
    /// What happened lately.
    pub lately: Lately,
    /// Packets the source handed over.
    pub received: u64,
    /// Mirrored frames decapsulated, judged and handed to the sinks.
    pub delivered: u64,
    /// Packets that break a rule, by reason.
    pub malformed: ByReason,
    /// Packets that were not asked for, by reason.
    pub filtered: ByReason,
    /// Copies of packets that came before, with --dedup drop.
    pub duplicate: u64,
    /// Packets lost, by reason.
    pub dropped: ByReason,
    /// Datagrams the kernel lost before they could be received, by reason.
    pub kernel_dropped: ByReason,
    /// Packets of sources that --allow does not name that the kernel left out before they were received.
    pub kernel_refused: u64,
    /// Fragments that wait for others: received and in no other counter yet.
    pub waiting: u64,
    /// Worth knowing of packets that were delivered.
    pub noted: ByReason,
    /// The kernel's own counters that moved during the run, of the whole network namespace.
    pub kernel_counters: Vec<KernelCounter>,
    /// Time of the last packet, RFC 3339; null before the first.
    pub last_packet: Option<String>,
    /// Mirror sessions, those with the most packets first.
    pub sessions: Vec<SessionStatus>,
    /// The other sessions together; absent where all are listed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub other_sessions: Option<OtherSessions>,
    /// What --expect lists and was not seen lately.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expected: Option<ExpectedStatus>,
    /// Flows; absent where nobody takes flow records.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub flows: Option<FlowStatus>,
    /// Where results go.
    pub sinks: Vec<SinkStatus>,
    /// File systems that results go to.
    pub disks: Vec<DiskStatus>,
}

/// What happened in the seconds before the look.
#[derive(Debug, Deserialize, Serialize)]
pub struct Lately {
    /// Seconds.
    pub seconds: f64,
    /// Packets received a second.
    pub packets_per_second: f64,
    /// Bits of inner frame a second.
    pub bits_per_second: f64,
    /// Packets and flow records lost: in the kernel, here, and on the way to sinks.
    pub lost: u64,
}

/// One of the kernel's own counters.
#[derive(Debug, Deserialize, Serialize)]
pub struct KernelCounter {
    /// Its name, with the interface behind `@`.
    pub name: String,
    /// How far it moved.
    pub count: u64,
    /// What it means and what to do.
    pub remedy: String,
}

/// A mirror session.
#[derive(Debug, Deserialize, Serialize)]
pub struct SessionStatus {
    /// Network identifier.
    pub vni: Option<u32>,
    /// Outer source address.
    pub source: Option<IpAddr>,
    /// What --labels calls it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// Frames that came.
    pub packets: u64,
    /// Bytes of inner frame that arrived.
    pub bytes: u64,
    /// Packets cut before they reached us.
    pub truncated: u64,
    /// Bytes cut off those.
    pub missing_bytes: u64,
    /// `session_packet_length`, `mtu`, `missing_fragments` or `unclear`; absent where nothing is cut or not all workers told.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cut_by: Option<String>,
    /// Bytes of frame that cut packets keep, when it is one size.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cut_size: Option<u32>,
    /// The MTU, in bytes, where one cuts.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cut_mtu: Option<u32>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub advice: Option<String>,
    /// Packets a second, lately.
    pub packets_per_second: f64,
    /// Bits of inner frame a second, lately.
    pub bits_per_second: f64,
    /// Time of the last frame, RFC 3339.
    pub last_seen: String,
}

/// Sessions that are not listed, together.
#[derive(Debug, Deserialize, Serialize)]
pub struct OtherSessions {
    /// How many; what the bounded table of sessions counts together is one.
    pub entries: usize,
    /// Frames that came.
    pub packets: u64,
    /// Bytes of inner frame that arrived.
    pub bytes: u64,
    /// Packets cut before they reached us.
    pub truncated: u64,
}

/// How many of the sessions that --expect lists are there.
#[derive(Debug, Deserialize, Serialize)]
pub struct ExpectedStatus {
    /// Sessions expected.
    pub expected: usize,
    /// Those of which nothing came.
    pub missing: Vec<String>,
    /// Those that sent, and then nothing for too long.
    pub silent: Vec<String>,
    /// How many sessions nobody expected.
    pub unexpected: usize,
}

/// The flow table.
#[derive(Debug, Deserialize, Serialize)]
pub struct FlowStatus {
    /// Flows that live.
    pub live: u64,
    /// Most that are kept at a time.
    pub most: u32,
    /// Records made.
    pub records: u64,
}

/// A sink: offered = written + dropped + waiting.
#[derive(Debug, Deserialize, Serialize)]
pub struct SinkStatus {
    /// `capture`, `flows` or `view`.
    pub kind: String,
    /// Its path, or "standard output".
    pub path: String,
    /// Viewers that came, of a tee.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub viewers: Option<u64>,
    /// Packets or flow records there were for it.
    pub offered: u64,
    /// Those that are in it.
    pub written: u64,
    /// Those that are on their way to it.
    pub waiting: u64,
    /// Those that are lost, by reason.
    pub dropped: ByReason,
    /// Bytes.
    pub bytes: u64,
    /// What went wrong with it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fault: Option<String>,
    /// What it holds; absent where it is no store.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub store: Option<StoreStatus>,
    /// How it is reached; absent where it is no collector.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub collector: Option<CollectorStatus>,
}

/// What a store holds, and what this run did to it.
#[derive(Debug, Deserialize, Serialize)]
pub struct StoreStatus {
    /// Finished files in its directory.
    pub files: u64,
    /// Their bytes, with those of their indexes.
    pub bytes: u64,
    /// Time of the earliest packet or record in them, RFC 3339; null where there is none.
    pub oldest: Option<String>,
    /// Files that this run finished.
    pub finished_files: u64,
    /// Files that it deleted, by reason.
    pub deleted_files: ByReason,
    /// Their bytes, with those of their indexes.
    pub deleted_bytes: ByReason,
    /// Those of them that were younger than --keep-age.
    pub deleted_early_files: u64,
    /// Most files, by --keep-files.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub limit_files: Option<u64>,
    /// Most bytes, by --keep-bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub limit_bytes: Option<u64>,
    /// How long files are kept, by --keep-age.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub limit_age_seconds: Option<f64>,
    /// Bytes that are left free on the file system, by --min-free.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub min_free_bytes: Option<u64>,
}

/// How a collector is reached.
#[derive(Debug, Deserialize, Serialize)]
pub struct CollectorStatus {
    /// The connection; absent over UDP.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub connection: Option<ConnectionStatus>,
    /// Messages that the kernel did not take or that came back refused; absent over TCP.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub refused_messages: Option<u64>,
    /// What went wrong last, however long ago.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_error: Option<ErrorStatus>,
}

/// A connection to a collector.
#[derive(Debug, Deserialize, Serialize)]
pub struct ConnectionStatus {
    /// There is one.
    pub connected: bool,
    /// Since then there is one, or none, RFC 3339.
    pub since: String,
    /// Those that came about.
    pub connections: u64,
    /// Attempts that failed.
    pub failed_attempts: u64,
    /// Bytes of messages that wait to be sent.
    pub unsent_bytes: u64,
    /// Bytes of messages that were sent and not acknowledged.
    pub unacknowledged_bytes: u64,
}

/// Something that went wrong.
#[derive(Debug, Deserialize, Serialize)]
pub struct ErrorStatus {
    /// When, RFC 3339.
    pub at: String,
    /// What.
    pub what: String,
    /// What to do, where that is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub remedy: Option<String>,
}

/// The room of a file system.
#[derive(Debug, Deserialize, Serialize)]
pub struct DiskStatus {
    /// A directory on it.
    pub path: String,
    /// Bytes that this process may still use.
    pub free_bytes: u64,
    /// All its bytes.
    pub size_bytes: u64,
}

impl Status {
    /// Of `now`; rates and what is new are those since `earlier`, or since the run began. Causes of truncation are told by
    /// the `evidence`.
    pub fn new(now: &Moment, earlier: Option<&Moment>, evidence: Option<&Evidence>) -> Self {
        let (about, glance) = (&now.about, &now.glance);
        let ledger = &glance.ledger;
        let [malformed, filtered, dropped, noted] = ledger
            .counters()
            .map(|(_, counters)| by_reason(counters.into_iter()));
        let rates = Rates::new(now, earlier);
        let shown = Shown::busiest(&glance.sessions, SESSIONS_LISTED);
        let cuts = evidence.map(|evidence| Cuts::new(now, evidence));
        let listed = shown.sessions.iter().map(|session| {
            let mut told = rates.session(now, session);
            if let Some(cuts) = &cuts {
                cuts.tell(session, &mut told);
            }
            told
        });
        let others = shown.others.map(|others| OtherSessions {
            entries: shown.number_of_others,
            packets: others.packets,
            bytes: others.bytes,
            truncated: others.truncated,
        });
        let kernel_dropped = [(about.kernel_reason, glance.lost_before)];
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: about.pid,
            began: rfc3339(about.began_ns).to_owned(),
            at: rfc3339(now.at_ns).to_owned(),
            uptime_seconds: round(now.seconds),
            addresses: about.addresses.clone(),
            backend: about.backend.clone(),
            ending: now.is_ending,
            health: Health::of(now, earlier),
            lately: rates.lately(now, earlier),
            received: ledger.received,
            delivered: ledger.delivered,
            malformed,
            filtered,
            duplicate: ledger.duplicate,
            dropped,
            kernel_dropped: by_reason(kernel_dropped.into_iter()),
            kernel_refused: glance.kernel_refused,
            waiting: ledger.waiting(),
            noted,
            kernel_counters: counters::explained(&now.kernel_counters)
                .into_iter()
                .map(|(name, count, remedy)| KernelCounter {
                    name: name.to_owned(),
                    count,
                    remedy,
                })
                .collect(),
            last_packet: (glance.latest_ns > 0).then(|| rfc3339(glance.latest_ns).to_owned()),
            sessions: listed.collect(),
            other_sessions: others,
            expected: now.expected().map(|difference| {
                let words = |session: crate::mirror::inventory::Expected| {
                    super::summary::ExpectedSummary::from(session).words()
                };
                ExpectedStatus {
                    expected: difference.expected,
                    missing: difference.missing.into_iter().map(words).collect(),
                    silent: difference.silent.into_iter().map(words).collect(),
                    unexpected: difference.unexpected.len(),
                }
            }),
            flows: about.max_flows.map(|most| FlowStatus {
                live: glance.flows,
                most,
                records: glance.flow_records,
            }),
            sinks: glance.sinks.iter().map(SinkStatus::new).collect(),
            disks: now
                .disks
                .iter()
                .map(|disk| DiskStatus {
                    path: disk.path.clone(),
                    free_bytes: disk.free,
                    size_bytes: disk.size,
                })
                .collect(),
        }
    }

    /// As JSON, on one line.
    pub fn line(&self) -> String {
        let mut json = serde_json::to_string(self).unwrap_or_default();
        json.push('\n');
        json
    }
}

impl SinkStatus {
    fn new(state: &State) -> Self {
        let State {
            account,
            fault,
            store,
            collector,
        } = state;
        let dropped = account.dropped().map(|(why, count)| (why.reason(), count));
        Self {
            kind: account.kind.name().to_owned(),
            path: account.path.clone(),
            viewers: account.viewers,
            offered: account.offered,
            written: account.written,
            waiting: account.waiting,
            dropped: by_reason(dropped),
            bytes: account.bytes,
            fault: fault.as_ref().map(|fault| fault.text.clone()),
            store: store.as_ref().map(StoreStatus::new),
            collector: collector.as_ref().map(CollectorStatus::new),
        }
    }
}

impl StoreStatus {
    fn new(holdings: &Holdings) -> Self {
        let deleted = |of: fn(Deleted) -> u64| {
            let deleted = holdings.deleted();
            by_reason(deleted.map(move |(why, deleted)| (why.reason(), of(deleted))))
        };
        let limits = &holdings.limits;
        Self {
            files: holdings.files,
            bytes: holdings.bytes,
            oldest: holdings.oldest_ns.map(|ns| rfc3339(ns).to_owned()),
            finished_files: holdings.finished,
            deleted_files: deleted(|deleted| deleted.files),
            deleted_bytes: deleted(|deleted| deleted.bytes),
            deleted_early_files: holdings.deleted_early,
            limit_files: limits.files,
            limit_bytes: limits.bytes,
            limit_age_seconds: limits.age.map(|age| age.as_secs_f64()),
            min_free_bytes: holdings.min_free_bytes,
        }
    }
}

impl CollectorStatus {
    fn new(reach: &Reach) -> Self {
        let (connection, refused_messages) = match reach.way {
            Way::Udp { refused } => (None, Some(refused)),
            Way::Tcp(connection) => (Some(connection), None),
        };
        Self {
            connection: connection.map(|connection| ConnectionStatus {
                connected: connection.is_up,
                since: rfc3339(connection.since_ns).to_owned(),
                connections: connection.connections,
                failed_attempts: connection.failed_attempts,
                unsent_bytes: connection.unsent_bytes,
                unacknowledged_bytes: connection.unacknowledged_bytes,
            }),
            refused_messages,
            last_error: reach.last_error.as_ref().map(|error| ErrorStatus {
                at: rfc3339(error.at_ns).to_owned(),
                what: error.what.clone(),
                remedy: error.remedy.map(str::to_owned),
            }),
        }
    }
}

/// What came a second between two moments.
struct Rates {
    seconds: f64,
    before: BTreeMap<SessionKey, (u64, u64)>,
}

impl Rates {
    fn new(now: &Moment, earlier: Option<&Moment>) -> Self {
        let since = earlier.map_or(0.0, |earlier| earlier.seconds);
        let sessions = earlier.map_or(&[][..], |earlier| &earlier.glance.sessions);
        let counts = |session: &SessionCounts| (session.key, (session.packets, session.bytes));
        Self {
            seconds: now.seconds - since,
            before: sessions.iter().map(counts).collect(),
        }
    }

    fn a_second(&self, count: u64, before: u64) -> f64 {
        if self.seconds <= 0.0 {
            return 0.0;
        }
        round(count.saturating_sub(before) as f64 / self.seconds)
    }

    fn lately(&self, now: &Moment, earlier: Option<&Moment>) -> Lately {
        let bytes = |moment: &Moment| -> u64 {
            let sessions = moment.glance.sessions.iter();
            sessions.map(|session| session.bytes).sum()
        };
        let before = |of: &dyn Fn(&Moment) -> u64| earlier.map_or(0, of);
        let received = |moment: &Moment| moment.glance.ledger.received;
        Lately {
            seconds: round(self.seconds),
            packets_per_second: self.a_second(received(now), before(&received)),
            bits_per_second: round(8.0 * self.a_second(bytes(now), before(&bytes))),
            lost: lost(now).saturating_sub(before(&lost)),
        }
    }

    fn session(&self, now: &Moment, session: &SessionCounts) -> SessionStatus {
        let (source, vni) = session.key.mirror().unzip();
        let (packets, bytes) = self.before.get(&session.key).copied().unwrap_or_default();
        let label = now.inventory.label(session.key);
        SessionStatus {
            vni: vni.map(|vni| vni.as_u32()),
            source,
            name: label.and_then(|label| label.name.clone()),
            packets: session.packets,
            bytes: session.bytes,
            truncated: session.truncated,
            missing_bytes: session.missing_bytes,
            cut_by: None,
            cut_size: None,
            cut_mtu: None,
            advice: None,
            packets_per_second: self.a_second(session.packets, packets),
            bits_per_second: round(8.0 * self.a_second(session.bytes, bytes)),
            last_seen: rfc3339(session.last_ns).to_owned(),
        }
    }
}

/// The listed sessions that evidence of truncation is asked for: those of which something is cut.
pub fn cut_sessions(now: &Moment) -> Vec<SessionKey> {
    let shown = Shown::busiest(&now.glance.sessions, SESSIONS_LISTED);
    let cut = shown.sessions.iter().filter(|session| {
        // Nobody mirrors what was not encapsulated.
        session.truncated > 0 && session.key.mirror().is_some()
    });
    cut.map(|session| session.key).collect()
}

/// What cut packets, as the summary tells it.
struct Cuts<'a> {
    now: &'a Moment,
    evidence: &'a Evidence,
    routes: Routes,
}

impl<'a> Cuts<'a> {
    fn new(now: &'a Moment, evidence: &'a Evidence) -> Self {
        let sessions = now.glance.sessions.iter();
        let on_the_way =
            sessions.map(|session| (session.key, session.target, session.largest_outer));
        Self {
            now,
            evidence,
            routes: Routes::new(now.about.route, on_the_way),
        }
    }

    fn tell(&self, session: &SessionCounts, told: &mut SessionStatus) {
        let Some(Cut {
            packets,
            truncation,
        }) = self.evidence.of(session.key)
        else {
            return;
        };
        let label = self.now.inventory.label(session.key);
        let route = self.routes.of(session.key, session.target, label);
        let cause = truncation.cause(&route);
        told.cut_by = cause.map(|cause| cause.name().to_owned());
        told.cut_size = truncation.cut_size();
        told.cut_mtu = cause.and_then(Cause::mtu);
        told.advice = truncation.advice(*packets, &route);
    }
}

/// All that is lost: in the kernel, here, and on the way to sinks that keep something.
fn lost(moment: &Moment) -> u64 {
    let here: u64 = moment.lost().map(|(_, count)| count).sum();
    let sinks = moment.glance.sinks.iter();
    let kept = sinks.filter(|sink| sink.account.viewers.is_none());
    here + kept.map(|sink| sink.account.lost()).sum::<u64>()
}

fn by_reason<'a>(counters: impl Iterator<Item = (&'a str, u64)>) -> ByReason {
    let counted = counters.filter(|(_, count)| *count > 0);
    counted
        .map(|(reason, count)| (reason.to_owned(), count))
        .collect()
}

/// To a thousandth.
fn round(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::super::health::tests::{moment, sink};
    use super::*;
    use crate::wire::Vni;

    fn with_session(mut moment: Moment, packets: u64) -> Moment {
        let key = SessionKey::Mirror {
            source: [10, 0, 1, 11].into(),
            vni: Vni::new(101).unwrap(),
        };
        moment.glance.sessions = vec![SessionCounts {
            packets,
            bytes: 100 * packets,
            truncated: 1,
            ..SessionCounts::none(key)
        }];
        moment.glance.sinks = vec![sink(3, None)];
        moment
    }

    #[test]
    fn rates_are_those_since_the_earlier_look() {
        let earlier = with_session(moment(10.0, 1000, 0), 900);
        let now = with_session(moment(15.0, 1500, 2), 1400);
        let status = Status::new(&now, Some(&earlier), None);
        assert_eq!(status.uptime_seconds, 15.0);
        assert_eq!(status.lately.seconds, 5.0);
        assert_eq!(status.lately.packets_per_second, 100.0);
        assert_eq!(status.lately.bits_per_second, 80_000.0);
        assert_eq!(status.lately.lost, 2);
        let session = &status.sessions[0];
        assert_eq!(
            (session.vni, session.packets_per_second),
            (Some(101), 100.0)
        );
        assert_eq!(status.kernel_dropped["socket_overflow"], 2);
        let sink = &status.sinks[0];
        assert_eq!(
            sink.offered,
            sink.written + sink.dropped["disk"] + sink.waiting
        );
        let since_begin = Status::new(&now, None, None);
        assert_eq!(since_begin.lately.packets_per_second, 100.0);
        assert_eq!(since_begin.lately.lost, 5);
        // Two looks at one time have no rate.
        assert_eq!(
            Status::new(&now, Some(&now), None)
                .lately
                .packets_per_second,
            0.0
        );
        // It is read back by `vxtap status`.
        let again: Status = serde_json::from_str(&status.line()).unwrap();
        assert_eq!(again.received, 1500);
    }
}
