//! What a run tells when it ends, as a value: the JSON object of `--summary`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::capture::store::hooks::Tally as HookTally;
use crate::failure::Failure;
use crate::flow::text::rfc3339;
use crate::host::counters::Counts;
use crate::mirror::inventory::{Difference, Expected, Label};
use crate::mirror::lengths::{Lengths, Step};
use crate::mirror::loss::Surroundings;
use crate::mirror::pairs::{Pairs, TimesApart};
use crate::mirror::routes::Routes;
use crate::mirror::series::{Change, Event, Series, Stretch};
use crate::mirror::session::Session;
use crate::mirror::session_key::SessionKey;
use crate::mirror::truncation::{Cause, Route};
use crate::mirror::words::counted;
use crate::outfile::{Creation, write_whole};
use crate::patience::PATIENCE;
use crate::pipeline::account::{Account, SinkError};
use crate::pipeline::clock::ClockSteps;
use crate::pipeline::ledger::Dropped;
use crate::pipeline::measure::Facts;
use crate::pipeline::outcome::Outcome;
use crate::pipeline::worker::WorkerSettings;
use crate::report::loss_summary::LossSummary;
use crate::say::{flush, say};
use crate::stop::wall_clock_ns;

/// How the end of a run is told.
#[derive(Clone, Copy, Default)]
pub struct Telling<'a> {
    /// Where the JSON object goes, and how that file is made.
    pub summary_file: Option<(&'a Path, Creation)>,
    /// The exit code tells whether anything was lost.
    pub fail_on_loss: bool,
}

/// Ends a run: tells people and, where asked for, a file what came of it, and what went wrong.
///
/// `kernel_dropped` counts datagrams by reason, `errors` are those of the source, `remarks` follow the page.
///
/// # Errors
///
/// [`Failure::Running`] with everything that went wrong; [`Failure::Loss`] with the same where anything was lost
/// and the exit code has to tell.
pub fn conclude(
    outcome: &Outcome,
    kernel_dropped: BTreeMap<&'static str, u64>,
    settings: &WorkerSettings,
    telling: Telling<'_>,
    mut errors: Vec<String>,
    remarks: impl IntoIterator<Item = String>,
) -> Result<(), Failure> {
    let faults = outcome.errors().filter(|error| !error.is_closed_pipe());
    errors.extend(faults.map(SinkError::to_string));
    let mut summary = Summary::new(outcome, kernel_dropped, settings, errors.clone());
    let mut page = summary.page(outcome);
    for remark in remarks {
        page.push_str(&remark);
        page.push('\n');
    }
    say(page);
    if !flush(PATIENCE) {
        errors.push(format!(
            "standard error took nothing for {} s: the page on it is not complete",
            PATIENCE.as_secs()
        ));
        summary.errors.clone_from(&errors);
    }
    if let Some((path, creation)) = telling.summary_file {
        // Whoever reads our standard output may have all it wanted.
        let written = summary.write(path, creation);
        let fault = written.err().filter(|fault| !fault.is_closed_pipe());
        errors.extend(fault.map(|fault| fault.to_string()));
    }
    let lost = summary.lost();
    if telling.fail_on_loss && lost > 0 {
        errors.push(format!(
            "{lost} lost, packets and flow records together (--fail-on-loss)"
        ));
        return Err(Failure::Loss(anyhow::Error::msg(
            errors.join("\nvxtap: error: "),
        )));
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Failure::running(errors.join("\nvxtap: error: ")))
    }
}

/// The JSON summary. Counters by reason hold those that counted something.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Version of this program.
    pub version: &'static str,
    /// Packets the source handed over.
    pub received: u64,
    /// Mirrored frames decapsulated, judged and handed to the sinks.
    pub delivered: u64,
    /// Packets that break a rule, by reason.
    pub malformed: BTreeMap<&'static str, u64>,
    /// Packets that were not asked for, by reason.
    pub filtered: BTreeMap<&'static str, u64>,
    /// Sources that --allow does not name, those with the most packets first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused_sources: Vec<RefusedSummary>,
    /// Packets of such sources that the kernel left out before they were received: in no other counter. Absent where
    /// there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_refused: Option<u64>,
    /// Copies of packets that came before, with --dedup drop.
    pub duplicate: u64,
    /// Mirror sessions that saw the same packets, the pair with the most copies first. Absent with --dedup off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicates: Option<Vec<PairSummary>>,
    /// Packets lost, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Datagrams the kernel lost before they could be received, by reason.
    pub kernel_dropped: BTreeMap<&'static str, u64>,
    /// Packets that the input says were lost before it was written. Replay of a pcapng file that says something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_dropped: Option<u64>,
    /// What the input says about its packets and the capture written does not hold, by kind.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub not_carried: BTreeMap<&'static str, u64>,
    /// The kernel's own counters that moved during the run; of the whole network namespace. Live only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_counters: Option<Counts>,
    /// How often the clock was set, `back` or `forward`. Live only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_steps: Option<BTreeMap<&'static str, u64>>,
    /// Worth knowing of packets that were delivered.
    pub noted: BTreeMap<&'static str, u64>,
    /// What the frames noted as `inner_not_ip` hold, most first; eight at the most.
    pub inner_not_ip_ethertypes: Vec<EtherTypeSummary>,
    /// Latencies, batches and frame sizes.
    pub histograms: BTreeMap<&'static str, Facts>,
    /// Mirror sessions.
    pub sessions: Vec<SessionSummary>,
    /// What `--expect` lists and what was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inventory: Option<InventorySummary>,
    /// Flow records made, each offered to every sink for them.
    pub flows: u64,
    /// Packets each worker received.
    pub workers: Vec<u64>,
    /// Flows that several workers had a part of; their records are whole all the same.
    pub flows_joined: u64,
    /// Where results went, each with its account.
    pub sinks: Vec<SinkSummary>,
    /// What became of the programs of `--on-rotate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hooks: Option<HookTally>,
    /// What went wrong.
    pub errors: Vec<String>,
}

/// Who sent packets and is not among the sources of `--allow`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RefusedSummary {
    /// Outer source address, or the network (/24, /64) in which several sent.
    pub source: String,
    /// Packets that were refused.
    pub packets: u64,
    /// There may have been more.
    pub at_least: bool,
}

impl fmt::Display for RefusedSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at_least = if self.at_least { "at least " } else { "" };
        write!(f, "{} ({at_least}{})", self.source, self.packets)
    }
}

/// Two mirror sessions that saw the same packets, or one that saw them twice.
#[derive(Debug, Serialize)]
pub struct PairSummary {
    /// The one that packets passed first; null with `second` where more pairs than are kept apart are counted
    /// together.
    pub first: Option<SessionName>,
    /// The one that they passed then.
    pub second: Option<SessionName>,
    /// Copies.
    pub packets: u64,
    /// Nanoseconds by which the second copy arrived later than the first. Relative: clocks and the ways of
    /// mirrored packets differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_ns: Option<TimesApart>,
}

/// What names a mirror session in the JSON summary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionName {
    /// Network identifier; null for input that was not encapsulated.
    pub vni: Option<u32>,
    /// Outer source address; null for input that was not encapsulated.
    pub source: Option<IpAddr>,
    /// For people: that of its interface in captures.
    #[serde(skip)]
    pub interface: String,
}

impl From<SessionKey> for SessionName {
    fn from(key: SessionKey) -> Self {
        let (source, vni) = key.mirror().unzip();
        Self {
            vni: vni.map(|vni| vni.as_u32()),
            source,
            interface: key.interface_name(),
        }
    }
}

impl PairSummary {
    fn all(pairs: &Pairs<SessionKey>) -> Vec<Self> {
        let kept = pairs.most().into_iter();
        let kept = kept.map(|((first, second), pair)| Self {
            first: Some(first.into()),
            second: Some(second.into()),
            packets: pair.packets(),
            after_ns: Some(pair.times_apart()),
        });
        let others = Self {
            first: None,
            second: None,
            packets: pairs.others(),
            after_ns: None,
        };
        kept.chain((others.packets > 0).then_some(others)).collect()
    }
}

/// An EtherType of frames without IP in the JSON summary.
#[derive(Debug, Serialize)]
pub struct EtherTypeSummary {
    /// `0x88cc`; `802.3` for frames with a length in its place, `none` where it is cut.
    pub ethertype: String,
    /// What people call it; null for one that is not known.
    pub name: Option<&'static str>,
    /// Frames.
    pub packets: u64,
}

/// One mirror session in the JSON summary. A report reads it again.
#[derive(Debug, Deserialize, Serialize)]
pub struct SessionSummary {
    /// Network identifier; null for input that was not encapsulated.
    pub vni: Option<u32>,
    /// Outer source address; null for input that was not encapsulated.
    pub source: Option<IpAddr>,
    /// Outer destination address of its first packet.
    pub target: Option<IpAddr>,
    /// `vxlan`, `vxlan-gpe` or `geneve`.
    pub tunnel: Option<Cow<'static, str>>,
    /// What `--labels` calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whose it is, by `--labels`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Frames that came, those included that then found no room in the capture queue or were not written.
    pub packets: u64,
    /// Bytes of inner frame that arrived.
    pub bytes: u64,
    /// Packets a second, from the first to the last; absent where these are at one time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets_per_second: Option<f64>,
    /// Bits of inner frame a second, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_second: Option<f64>,
    /// Frames the mirror source received.
    pub inbound: u64,
    /// Frames the mirror source sent.
    pub outbound: u64,
    /// Those among `inbound` that a learned hardware address tells, and no IP address.
    #[serde(default)]
    pub inbound_by_mac: u64,
    /// The same of `outbound`.
    #[serde(default)]
    pub outbound_by_mac: u64,
    /// Frames that are copies of packets which came before, from this session or another one.
    pub duplicates: u64,
    /// Packets cut before they reached us.
    pub truncated: u64,
    /// Packets without a declared length that are as long as the cut.
    pub suspect: u64,
    /// Packets without a declared length.
    pub unknown_length: u64,
    /// Whole packets larger than one outer packet of the path's MTU carries.
    pub oversize: u64,
    /// Packets whose outer packets arrived in fragments.
    pub fragmented: u64,
    /// Bytes cut off.
    pub missing_bytes: u64,
    /// Largest inner IP packet, as it declares itself, in bytes.
    pub largest_inner_ip: u32,
    /// Largest outer IP packet, in bytes; null where there is none.
    pub largest_outer_ip: Option<u32>,
    /// Most bytes of outer packet around an inner IP packet; null where nothing is around one.
    pub overhead: Option<u32>,
    /// Bytes of frame that cut packets keep, when it is one size.
    pub cut_size: Option<u32>,
    /// `session_packet_length`, `mtu`, `snap_length`, `missing_fragments` or `unclear`.
    pub cut_by: Option<Cow<'static, str>>,
    /// The MTU, in bytes, where one cuts.
    pub cut_mtu: Option<u32>,
    /// What to do about it.
    pub advice: Option<String>,
    /// What TCP connections tell of bytes that never arrived; absent where there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror_loss: Option<LossSummary>,
    /// When another share of its packets was cut, or cut ones kept another length.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<ChangeSummary>,
    /// What cut its packets in one time and in another, where cut ones kept one length and then another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cuts: Vec<CutSummary>,
    /// Private networks that its packets came from and went to: `10.1.2.0/24`.
    #[serde(default)]
    pub inner_networks: Vec<String>,
    /// How much came when.
    pub over_time: SeriesSummary,
    /// How long frames were at the mirror source.
    pub sizes: SizesSummary,
    /// In the entry for sessions that were counted together: how many those are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub others: Option<OthersSummary>,
    /// Time of the earliest frame, RFC 3339.
    pub first_seen: String,
    /// Time of the latest frame, RFC 3339.
    pub last_seen: String,
}

/// A time in which cut packets kept one length, in the JSON summary.
#[derive(Debug, Deserialize, Serialize)]
pub struct CutSummary {
    /// Its beginning, RFC 3339.
    pub from: String,
    /// Bytes of frame that they kept.
    pub cut_size: u32,
    /// `session_packet_length` or `mtu`; absent where that is not clear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_by: Option<Cow<'static, str>>,
    /// The MTU, in bytes, where one cuts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_mtu: Option<u32>,
}

impl CutSummary {
    /// Those of a session, if there are several, and they tell more than all its packets together.
    fn list(session: &Session, route: &Route) -> Vec<Self> {
        let whole = session.truncation.cause(route);
        let is_unclear = matches!(whole, Some(Cause::Contradicted(_) | Cause::Unclear));
        let spells = session.series.spells();
        if !is_unclear || spells.len() < 2 {
            return Vec::new();
        }
        let told = spells.into_iter().filter_map(|(from_ns, spell)| {
            let cause = session.truncation.cause_in(&spell, route);
            Some(Self {
                from: rfc3339(from_ns).to_owned(),
                cut_size: spell.cut_size()?,
                cut_by: cause.map(|cause| cause.name().into()),
                cut_mtu: cause.and_then(Cause::mtu),
            })
        });
        let told: Vec<Self> = told.collect();
        match told.iter().any(|cut| cut.cut_by.is_some()) {
            true => told,
            false => Vec::new(),
        }
    }

    /// For people: what cuts, in a few words.
    pub fn words(&self) -> String {
        match (self.cut_by.as_deref(), self.cut_mtu) {
            (Some("mtu"), Some(mtu)) => format!("MTU of {mtu}"),
            (Some("session_packet_length"), _) => {
                format!(
                    "session packet length of {}",
                    counted(self.cut_size.into(), "byte")
                )
            }
            _ => format!("unknown ({})", counted(self.cut_size.into(), "byte")),
        }
    }
}

/// What `--expect` lists and what was seen.
#[derive(Debug, Deserialize, Serialize)]
pub struct InventorySummary {
    /// Sessions expected.
    pub expected: usize,
    /// Those of which nothing came.
    pub missing: Vec<ExpectedSummary>,
    /// Those that sent, and then nothing for too long.
    pub silent: Vec<ExpectedSummary>,
    /// Sessions seen that nobody expected.
    pub unexpected: Vec<ExpectedSummary>,
}

/// A session in [`InventorySummary`].
#[derive(Debug, Deserialize, Serialize)]
pub struct ExpectedSummary {
    /// Network identifier.
    pub vni: Option<u32>,
    /// Outer source address; null for any.
    pub source: Option<IpAddr>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Time of its last packet, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<String>,
}

impl InventorySummary {
    fn new(difference: Difference) -> Self {
        let expected = ExpectedSummary::from;
        let seen = |key: SessionKey| {
            let (source, vni) = key.mirror().unzip();
            ExpectedSummary {
                vni: vni.map(|vni| vni.as_u32()),
                source,
                name: None,
                last_seen: None,
            }
        };
        Self {
            expected: difference.expected,
            missing: difference.missing.into_iter().map(expected).collect(),
            silent: difference.silent.into_iter().map(expected).collect(),
            unexpected: difference.unexpected.into_iter().map(seen).collect(),
        }
    }
}

impl From<Expected> for ExpectedSummary {
    fn from(session: Expected) -> Self {
        Self {
            vni: Some(session.vni),
            source: session.source,
            name: session.name,
            last_seen: session.last_ns.map(|last_ns| rfc3339(last_ns).to_owned()),
        }
    }
}

impl ExpectedSummary {
    /// For people.
    pub fn words(&self) -> String {
        let vni = self
            .vni
            .map_or_else(|| "?".to_owned(), |vni| vni.to_string());
        let mut words = match self.source {
            Some(source) => format!("VNI {vni} from {source}"),
            None => format!("VNI {vni} from anywhere"),
        };
        if let Some(name) = &self.name {
            words.push_str(&format!(" ({name})"));
        }
        if let Some(last_seen) = &self.last_seen {
            words.push_str(&format!(", last packet {last_seen}"));
        }
        words
    }
}

/// A session in equal stretches of time, one after the other. They are longer the longer it was heard.
#[derive(Debug, Deserialize, Serialize)]
pub struct SeriesSummary {
    /// Beginning of the first, RFC 3339.
    pub begin: String,
    /// Seconds of each.
    pub seconds: u64,
    /// Frames of each.
    pub packets: Vec<u64>,
    /// Bytes of frame that arrived.
    pub bytes: Vec<u64>,
    /// Frames that were cut.
    pub truncated: Vec<u64>,
}

/// Lengths of frames at the mirror source, in steps that hold some: lists with an entry for each.
#[derive(Debug, Deserialize, Serialize)]
pub struct SizesSummary {
    /// Shortest length of the step, in bytes.
    pub from: Vec<u64>,
    /// Longest length of the step, in bytes.
    pub to: Vec<u64>,
    /// Frames.
    pub packets: Vec<u64>,
    /// Those of them that arrived cut.
    pub truncated: Vec<u64>,
}

/// A change of what is cut.
#[derive(Debug, Deserialize, Serialize)]
pub struct ChangeSummary {
    /// Beginning of the stretch of time from which on it shows, RFC 3339.
    pub at: String,
    /// `cut_size`, bytes of frame that cut packets keep, or `truncated_share`, in parts of one.
    pub what: Cow<'static, str>,
    /// Before.
    pub from: f64,
    /// From then on.
    pub to: f64,
}

impl SeriesSummary {
    fn new(series: &Series) -> Self {
        let of = |count: fn(&Stretch) -> u64| {
            let stretches = series.stretches();
            stretches.map(|(_, stretch)| count(stretch)).collect()
        };
        let begin = series
            .stretches()
            .next()
            .map_or(0, |(begin_ns, _)| begin_ns);
        Self {
            begin: rfc3339(begin).to_owned(),
            seconds: series.width_seconds(),
            packets: of(|stretch| stretch.packets),
            bytes: of(|stretch| stretch.bytes),
            truncated: of(|stretch| stretch.truncated),
        }
    }
}

impl SizesSummary {
    fn new(lengths: &Lengths) -> Self {
        let of = |value: fn(Step) -> u64| lengths.steps().map(value).collect();
        Self {
            from: of(|step| step.from),
            to: of(|step| step.to),
            packets: of(|step| step.packets),
            truncated: of(|step| step.truncated),
        }
    }
}

impl ChangeSummary {
    fn new(event: &Event) -> Self {
        let (what, from, to) = match event.change {
            Change::Size { from, to } => ("cut_size", from.into(), to.into()),
            Change::Share { from, to } => ("truncated_share", from, to),
        };
        let at = rfc3339(event.at_ns).to_owned();
        let what = what.into();
        Self { at, what, from, to }
    }

    /// For people.
    pub fn sentence(&self) -> String {
        let Self { at, what, from, to } = self;
        match &**what {
            "cut_size" => format!("From {at} on, cut packets keep {to} bytes; {from} before."),
            _ => format!(
                "From {at} on, {:.1} % of the packets arrive cut; {:.1} % before.",
                100.0 * to,
                100.0 * from
            ),
        }
    }
}

/// Sessions counted together, because the table keeps a bounded number apart.
#[derive(Debug, Deserialize, Serialize)]
pub struct OthersSummary {
    /// Sessions that found no room, about.
    pub found_no_room: u64,
    /// Sessions that made room for busier ones.
    pub made_room: u64,
}

/// One sink in the JSON summary: offered = written + dropped.
#[derive(Debug, Serialize)]
pub struct SinkSummary {
    /// `capture`, `flows` or `view`.
    pub kind: &'static str,
    /// Its path, or "standard output".
    pub path: String,
    /// Viewers that came, of a tee.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub viewers: Option<u64>,
    /// Packets or flow records there were for it; for a tee, once for each viewer that was there.
    pub offered: u64,
    /// Those that are in it.
    pub written: u64,
    /// Those that are not, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Its size.
    pub bytes: u64,
}

impl SinkSummary {
    fn new(account: &Account) -> Self {
        let dropped = account.dropped().filter(|(_, count)| *count > 0);
        Self {
            kind: account.kind.name(),
            path: account.path.clone(),
            viewers: account.viewers,
            offered: account.offered,
            written: account.written,
            dropped: dropped.map(|(why, count)| (why.reason(), count)).collect(),
            bytes: account.bytes,
        }
    }
}

impl Summary {
    /// Gathers what there is to tell.
    pub fn new(
        outcome: &Outcome,
        kernel_dropped: BTreeMap<&'static str, u64>,
        settings: &WorkerSettings,
        errors: Vec<String>,
    ) -> Self {
        let Outcome {
            ledger,
            sessions,
            sinks,
            flow_records,
            ..
        } = outcome;
        let on_the_way = |session: &Session| {
            let largest_outer = session.truncation.largest_outer();
            (session.key, session.target, largest_outer)
        };
        let routes = Routes::new(settings.route(), sessions.iter().map(on_the_way));
        // Before workers saw it: what is missing in a sink was seen.
        let lost_here =
            kernel_dropped.values().sum::<u64>() + ledger.dropped().values().sum::<u64>();
        // Live, a session that fell silent is so by the clock.
        let latest_ns = match settings.live {
            true => wall_clock_ns(),
            false => sessions
                .iter()
                .map(|session| session.last_ns)
                .max()
                .unwrap_or_default(),
        };
        Self {
            version: env!("CARGO_PKG_VERSION"),
            received: ledger.received,
            delivered: ledger.delivered,
            malformed: ledger.malformed(),
            filtered: ledger.filtered(),
            refused_sources: outcome
                .refused_sources
                .iter()
                .map(|refused| RefusedSummary {
                    source: refused.source.to_string(),
                    packets: refused.packets,
                    // What the kernel left out is counted by no source.
                    at_least: refused.at_least || outcome.kernel_refused > 0,
                })
                .collect(),
            kernel_refused: Some(outcome.kernel_refused).filter(|packets| *packets > 0),
            duplicate: ledger.duplicate,
            duplicates: settings.dedup.map(|_| PairSummary::all(&outcome.pairs)),
            dropped: ledger.dropped(),
            kernel_dropped,
            input_dropped: outcome.input_dropped,
            not_carried: BTreeMap::from_iter(
                outcome
                    .not_carried
                    .by_name()
                    .into_iter()
                    .filter(|(_, count)| *count > 0),
            ),
            kernel_counters: outcome.kernel_counters.clone(),
            clock_steps: outcome.measured.clock_steps.map(clock_steps),
            noted: ledger.noted(),
            inner_not_ip_ethertypes: ledger
                .not_ip()
                .most()
                .into_iter()
                .map(|(content, packets)| EtherTypeSummary {
                    ethertype: content.to_string(),
                    name: content.name(),
                    packets,
                })
                .collect(),
            histograms: outcome.measured.facts().collect(),
            sessions: sessions
                .iter()
                .map(|session| {
                    let label = settings.inventory.label(session.key);
                    let route = routes.of(session.key, session.target, label);
                    let around = Surroundings {
                        largest_ip: session.truncation.largest_inner_ip(&route),
                        overhead: session.truncation.overhead(),
                        mtu: route.mtu,
                        lost_here,
                        one_in: outcome.one_in,
                    };
                    SessionSummary::new(session, &route, label, &around)
                })
                .collect(),
            inventory: settings
                .inventory
                .compare(sent(sessions), latest_ns)
                .map(InventorySummary::new),
            flows: *flow_records,
            workers: outcome.received.clone(),
            flows_joined: outcome.flows_joined,
            sinks: sinks.iter().map(SinkSummary::new).collect(),
            hooks: outcome.hooks,
            errors,
        }
    }

    /// What was lost in the kernel, at the end of the run, or on the way to a sink: each packet once for each sink
    /// that misses it.
    fn lost(&self) -> u64 {
        let kernel: u64 = self.kernel_dropped.values().sum();
        let stopped = self.dropped.get(Dropped::Stopped.reason());
        // A viewer only looks.
        let kept = self.sinks.iter().filter(|sink| sink.viewers.is_none());
        let sinks = kept.flat_map(|sink| sink.dropped.values());
        kernel + stopped.copied().unwrap_or_default() + sinks.sum::<u64>()
    }

    /// Writes the object to `path`, `-` for standard output.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write(&self, path: &Path, creation: Creation) -> Result<(), Failure> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        Ok(write_whole(path, creation, json)?)
    }
}

/// The sessions that sent packets, with the time of the last one.
fn sent(sessions: &[Session]) -> impl Iterator<Item = (SessionKey, u64)> {
    let sent = sessions.iter().filter(|session| session.packets > 0);
    sent.map(|session| (session.key, session.last_ns))
}

impl SessionSummary {
    /// What to do about what is missing of its packets, and of packets that never came.
    pub fn advices(&self) -> impl Iterator<Item = &String> {
        let lost = self.mirror_loss.as_ref();
        self.advice
            .iter()
            .chain(lost.and_then(|lost| lost.advice.as_ref()))
    }

    fn new(session: &Session, route: &Route, label: Option<&Label>, around: &Surroundings) -> Self {
        let truncation = &session.truncation;
        let cause = truncation.cause(route);
        let (source, vni) = session.key.mirror().unzip();
        let [inbound_by_mac, outbound_by_mac] = session.own_macs.received_and_sent();
        // Nobody mirrors a capture that was not encapsulated, and there is no session behind packets of many that are
        // counted together.
        let can_be_mended = session.key.mirror().is_some();
        Self {
            vni: vni.map(|vni| vni.as_u32()),
            source,
            target: session.target,
            tunnel: session.tunnel.map(|tunnel| tunnel.name().into()),
            name: label.and_then(|label| label.name.clone()),
            account: label.and_then(|label| label.account.clone()),
            packets: session.packets,
            bytes: session.bytes,
            packets_per_second: session.a_second(session.packets),
            bits_per_second: session.a_second(session.bytes.saturating_mul(8)),
            inbound: session.inbound + inbound_by_mac,
            outbound: session.outbound + outbound_by_mac,
            inbound_by_mac,
            outbound_by_mac,
            duplicates: session.duplicates,
            truncated: truncation.truncated,
            suspect: truncation.suspect(route),
            unknown_length: truncation.unknown(),
            oversize: truncation.oversize,
            fragmented: truncation.fragmented,
            missing_bytes: truncation.missing_bytes,
            largest_inner_ip: truncation.largest_inner_ip(route),
            largest_outer_ip: Some(truncation.largest_outer()).filter(|len| *len > 0),
            overhead: truncation.overhead(),
            cut_size: truncation.cut_size(),
            cut_by: cause.map(|cause| cause.name().into()),
            cut_mtu: cause.and_then(Cause::mtu),
            advice: can_be_mended
                .then(|| truncation.advice(session.packets, route))
                .flatten(),
            mirror_loss: LossSummary::new(&session.loss, around).map(|lost| LossSummary {
                advice: lost.advice.filter(|_| can_be_mended),
                ..lost
            }),
            changes: session
                .series
                .changes()
                .iter()
                .map(ChangeSummary::new)
                .collect(),
            cuts: CutSummary::list(session, route),
            inner_networks: session
                .prefixes
                .list()
                .map(|(network, len)| format!("{network}/{len}"))
                .collect(),
            over_time: SeriesSummary::new(&session.series),
            sizes: SizesSummary::new(&session.lengths),
            others: session.others.as_ref().map(|others| OthersSummary {
                found_no_room: others.found_no_room(),
                made_room: others.aged,
            }),
            first_seen: rfc3339(session.first_ns).to_owned(),
            last_seen: rfc3339(session.last_ns).to_owned(),
        }
    }
}

fn clock_steps(steps: ClockSteps) -> BTreeMap<&'static str, u64> {
    let mut by_direction = BTreeMap::from([("back", steps.back), ("forward", steps.forward)]);
    by_direction.retain(|_, times| *times > 0);
    by_direction
}
