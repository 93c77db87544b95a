//! The page for people: what a run came to, in lines a network engineer can act on.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::summary::{
    ChangeSummary, InventorySummary, OthersSummary, PairSummary, SessionSummary, Summary,
};
use crate::capture::store::hooks::Tally as HookTally;
use crate::host::counters;
use crate::mirror::session::MAX_SESSIONS;
use crate::mirror::words::{counted, ending, percent};
use crate::pcap::annotation::Tally;
use crate::pipeline::account::{Account, Kind};
use crate::pipeline::outcome::Outcome;

/// Sessions shown to people; the JSON object has all.
const SESSIONS_SHOWN: usize = 24;
/// Changes of truncation told of a session.
const CHANGES_SHOWN: usize = 4;
/// Pairs of sessions shown, likewise.
const PAIRS_SHOWN: usize = 8;
/// What the number of packets that the kernel left out stands in front of.
pub const LEFT_OUT_IN_KERNEL: &str =
    "left out in the kernel: from sources that --allow does not name; they are in no other counter";

impl Summary {
    /// The page for people.
    pub fn page(&self, outcome: &Outcome) -> String {
        let mut page = String::new();
        self.sessions_table(&mut page);
        self.inventory_lines(&mut page);
        let total = |counts: &BTreeMap<&str, u64>| counts.values().sum::<u64>();
        let Self {
            received,
            delivered,
            duplicate,
            duplicates,
            ..
        } = self;
        let (malformed, filtered) = (total(&self.malformed), total(&self.filtered));
        let dropped = total(&self.dropped);
        // Where nothing looked for them a zero would say that there were none.
        let duplicate = match duplicates {
            None => String::new(),
            Some(_) => format!(" + {duplicate} duplicate"),
        };
        let _ = writeln!(
            page,
            "Packets\n  {received} received = {delivered} delivered + {malformed} malformed + {filtered} filtered\
             {duplicate} + {dropped} dropped"
        );
        let waiting = outcome.ledger.waiting();
        if waiting > 0 {
            let _ = writeln!(
                page,
                "  {waiting:>9} of them are fragments that wait for others"
            );
        }
        for (kind, counters) in outcome.ledger.explained() {
            for counter in counters {
                let meaning = counter.meaning.trim_end_matches('.');
                let _ = writeln!(
                    page,
                    "  {:>9} {kind}: {} ({meaning})",
                    counter.packets, counter.reason
                );
            }
        }
        self.duplicates_lines(&mut page);
        self.not_ip_lines(&mut page);
        self.refused_lines(&mut page);
        for (reason, packets) in &self.kernel_dropped {
            let _ = writeln!(
                page,
                "  {packets:>9} lost in the kernel before they could be received: {reason}"
            );
        }
        if let Some(packets @ 1..) = self.input_dropped {
            let _ = writeln!(
                page,
                "  {packets:>9} lost before the input was written, as its own drop counts say; they are in no other counter"
            );
        }
        self.clock_line(&mut page);
        self.kernel_lines(&mut page);
        if outcome.measured.arrival_to_encoded.is_some() {
            self.histogram_lines(&mut page);
        }
        sink_lines(&outcome.sinks, &mut page);
        hook_line(outcome.hooks, &mut page);
        not_carried_lines(outcome.not_carried, &mut page);
        page
    }

    fn refused_lines(&self, page: &mut String) {
        if let Some(packets) = self.kernel_refused {
            let _ = writeln!(page, "  {packets:>9} {LEFT_OUT_IN_KERNEL}");
        }
        if self.refused_sources.is_empty() {
            return;
        }
        let sources = self.refused_sources.iter();
        let sources: Vec<String> = sources.map(ToString::to_string).collect();
        let told: u64 = self
            .refused_sources
            .iter()
            .map(|refused| refused.packets)
            .sum();
        let all = self.filtered.get("not_allowed").copied();
        let others = match all.unwrap_or_default().saturating_sub(told) {
            0 => String::new(),
            others => format!(", and others ({others})"),
        };
        let text = format!(
            "Sources that --allow does not name, with their packets: {}{others}",
            sources.join(", ")
        );
        for line in wrap(&text, 96) {
            let _ = writeln!(page, "            {line}");
        }
    }

    fn clock_line(&self, page: &mut String) {
        let steps = self.clock_steps.iter().flatten();
        let steps: Vec<String> = steps
            .map(|(whither, times)| format!("{whither} {}", counted(*times, "time")))
            .collect();
        if !steps.is_empty() {
            let _ = writeln!(
                page,
                "  The clock was set {}: files may not be in time order at those places",
                steps.join(" and ")
            );
        }
    }

    fn kernel_lines(&self, page: &mut String) {
        let Some(counters) = &self.kernel_counters else {
            return;
        };
        let explained = counters::explained(counters);
        if explained.is_empty() {
            return;
        }
        page.push_str(
            "Kernel counters that moved (of this network namespace, softnet's of the machine: not of vxtap alone)\n",
        );
        for (name, count, text) in explained {
            let mut lines = wrap(&format!("{name}: {text}"), 96).into_iter();
            let _ = writeln!(page, "  {count:>9} {}", lines.next().unwrap_or_default());
            for line in lines {
                let _ = writeln!(page, "            {line}");
            }
        }
    }

    /// Which sessions saw the same packets.
    fn duplicates_lines(&self, page: &mut String) {
        let pairs = self.duplicates.as_deref().unwrap_or_default();
        if pairs.is_empty() {
            return;
        }
        let shown = pairs.iter().filter(|pair| pair.first.is_some());
        for line in shown
            .take(PAIRS_SHOWN)
            .flat_map(|pair| wrap(&pair.sentence(), 96))
        {
            let _ = writeln!(page, "            {line}");
        }
        let hidden = pairs
            .iter()
            .filter(|pair| pair.first.is_some())
            .skip(PAIRS_SHOWN);
        let others = pairs.iter().filter(|pair| pair.first.is_none());
        let hidden: u64 = hidden.chain(others).map(|pair| pair.packets).sum();
        if hidden > 0 {
            let _ = writeln!(
                page,
                "            {} in other pairs of sessions",
                counted(hidden, "more packet")
            );
        }
        page.push_str(
            "            These times are relative: the clocks and the ways of mirrored packets to this target differ.\n",
        );
    }

    /// What the frames noted as `inner_not_ip` hold, four to a line.
    fn not_ip_lines(&self, page: &mut String) {
        let told: Vec<String> = self
            .inner_not_ip_ethertypes
            .iter()
            .map(|held| match held.name {
                Some(name) => format!("{} {name} ({})", held.packets, held.ethertype),
                None => format!("{} {}", held.packets, held.ethertype),
            })
            .collect();
        for line in told.chunks(4) {
            let _ = writeln!(page, "            {}", line.join(", "));
        }
    }

    fn histogram_lines(&self, page: &mut String) {
        if self.histograms.is_empty() {
            return;
        }
        page.push_str("Latencies and sizes (median, 99 %, 99.9 %, largest)\n");
        let shown = [
            ("arrival_to_encoded", "arrival to encoded"),
            ("arrival_to_written", "arrival to written"),
            ("batch", "datagrams a batch"),
            ("frame", "bytes a frame"),
        ];
        for (name, title) in shown {
            let Some(facts) = self.histograms.get(name) else {
                continue;
            };
            let of = |value: u64| match facts.unit {
                "ns" => time(value),
                _ => value.to_string(),
            };
            let _ = writeln!(
                page,
                "  {title}: {}, {}, {}, {}",
                of(facts.p50),
                of(facts.p99),
                of(facts.p999),
                of(facts.max)
            );
        }
    }

    /// Expected sessions that did not send, and others that did.
    fn inventory_lines(&self, page: &mut String) {
        let Some(inventory) = &self.inventory else {
            return;
        };
        let InventorySummary {
            expected,
            missing,
            silent,
            unexpected,
        } = inventory;
        let _ = writeln!(
            page,
            "  {} of {} sent packets",
            expected - missing.len(),
            counted(*expected as u64, "expected session"),
        );
        for (what, sessions) in [
            ("nothing came", missing),
            ("silent", silent),
            ("not expected", unexpected),
        ] {
            for session in sessions.iter().take(SESSIONS_SHOWN) {
                let _ = writeln!(page, "        {what}: {}", session.words());
            }
            if let Some(more @ 1..) = sessions.len().checked_sub(SESSIONS_SHOWN) {
                let _ = writeln!(
                    page,
                    "        {what}: and {more} more; --summary FILE lists all"
                );
            }
        }
    }

    fn sessions_table(&self, page: &mut String) {
        if self.sessions.is_empty() {
            return;
        }
        let mut shown: Vec<&SessionSummary> = self.sessions.iter().collect();
        if shown.len() > SESSIONS_SHOWN {
            shown.sort_by_key(|session| std::cmp::Reverse(session.packets));
            shown.truncate(SESSIONS_SHOWN);
        }
        let header = [
            "VNI",
            "source",
            "packets",
            "bytes",
            "in / out",
            "largest IP",
            "truncated",
        ];
        let mut rows: Vec<[String; 7]> = vec![header.map(str::to_owned)];
        rows.extend(shown.iter().map(|session| session.row()));
        let width = |column: usize| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..header.len())
            .map(|column| width(column).unwrap_or(0))
            .collect();
        page.push_str("Mirror sessions\n");
        for (at, row) in rows.iter().enumerate() {
            let mut line = String::from(" ");
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                // Numbers to the right, words to the left.
                let _ = match column {
                    1 | 6 => write!(line, " {cell:<width$} "),
                    _ => write!(line, " {cell:>width$} "),
                };
            }
            let _ = writeln!(page, "{}", line.trim_end());
            let session = at.checked_sub(1).and_then(|at| shown.get(at));
            let others = session.and_then(|session| session.others.as_ref());
            let others = others.map(OthersSummary::sentence);
            let advices = session.map(|session| session.advices());
            let advices = advices.into_iter().flatten();
            let changes = session.map(|session| session.changes.iter());
            let changes: Vec<String> = (changes.into_iter().flatten())
                .take(CHANGES_SHOWN)
                .map(ChangeSummary::sentence)
                .collect();
            let told = others.iter().chain(advices).chain(&changes);
            for line in told.flat_map(|text| wrap(text, 96)) {
                let _ = writeln!(page, "        {line}");
            }
        }
        let hidden = (self.sessions.len() - shown.len()) as u64;
        if hidden > 0 {
            let _ = writeln!(
                page,
                "  and {hidden} more session{} with fewer packets; --summary FILE lists all",
                ending(hidden)
            );
        }
        if shown.iter().any(|session| session.source.is_some()) {
            let by_mac = shown
                .iter()
                .map(|session| session.inbound_by_mac + session.outbound_by_mac);
            let what = match by_mac.sum::<u64>() {
                0 => "the address of the mirror source itself".to_owned(),
                by_mac => format!("the mirror source itself, {by_mac} of them by its MAC address"),
            };
            let _ = writeln!(page, "  in / out: packets to and from {what}");
        }
    }
}

impl OthersSummary {
    pub(super) fn sentence(&self) -> String {
        let found_no_room = match self.found_no_room {
            1 => "One session".to_owned(),
            sessions => format!("About {sessions} sessions"),
        };
        let made_room = match self.made_room {
            0 => String::new(),
            sessions => format!(
                ", {} made room for busier ones",
                counted(sessions, "session")
            ),
        };
        format!(
            "Each worker keeps {MAX_SESSIONS} sessions apart. {found_no_room} found no room{made_room}: their \
             packets are counted together here. More than these is often a flood of made-up VNIs; --allow and --vni \
             say who is wanted."
        )
    }
}

impl PairSummary {
    fn sentence(&self) -> String {
        let [first, second] = [&self.first, &self.second]
            .map(|name| name.as_ref().map_or("", |name| name.interface.as_str()));
        let packets = counted(self.packets, "packet");
        let (what, of_which) = if self.first == self.second {
            (format!("{packets} came twice from {first}"), "")
        } else {
            let what = format!("{packets} passed {first}, then {second}");
            (what, " of the second")
        };
        let Some(apart) = self.after_ns else {
            return what;
        };
        let when = if apart.p50 < 0 { "earlier" } else { "later" };
        let (p50, p99) = (time(apart.p50.unsigned_abs()), signed_time(apart.p99));
        format!("{what}: the copy{of_which} arrived {p50} {when} (median; 99 %: {p99})")
    }
}

impl SessionSummary {
    fn row(&self) -> [String; 7] {
        let cut = match self.truncated {
            0 => "none".to_owned(),
            truncated => {
                let share = percent(truncated, self.packets);
                format!(
                    "{} ({share}), {} missing",
                    counted(truncated, "packet"),
                    bytes(self.missing_bytes)
                )
            }
        };
        let (vni, source) = match (self.vni, self.source) {
            (Some(vni), Some(source)) => match &self.name {
                Some(name) => (vni.to_string(), format!("{source} ({name})")),
                None => (vni.to_string(), source.to_string()),
            },
            _ if self.others.is_some() => ("other".to_owned(), "-".to_owned()),
            _ => ("-".to_owned(), "not encapsulated".to_owned()),
        };
        [
            vni,
            source,
            self.packets.to_string(),
            bytes(self.bytes),
            format!("{} / {}", self.inbound, self.outbound),
            self.largest_inner_ip.to_string(),
            cut,
        ]
    }
}

/// A time in nanoseconds for people, in three digits or so.
fn time(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} µs", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}

/// The same with a sign where it is below zero.
fn signed_time(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    format!("{sign}{}", time(ns.unsigned_abs()))
}

/// Bytes for people.
pub fn bytes(count: u64) -> String {
    indicatif::DecimalBytes(count).to_string()
}

/// The words of a text in lines of at most `width` characters.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A line for each sink, and one for each reason why something is missing in it.
fn sink_lines(sinks: &[Account], page: &mut String) {
    if !sinks.is_empty() {
        page.push_str("Outputs\n");
    }
    for sink in sinks {
        let thing = match sink.kind {
            Kind::Capture | Kind::View => "packet",
            Kind::Flows => "flow record",
        };
        let (path, offered) = (&sink.path, sink.offered);
        let of = if sink.written == offered {
            counted(offered, thing)
        } else {
            format!("{} of {}", sink.written, counted(offered, thing))
        };
        let to = sink.viewers.map(|viewers| counted(viewers, "viewer"));
        let to = to.map_or_else(String::new, |viewers| format!(" for {viewers}"));
        let _ = writeln!(page, "  {path}: {of}{to}, {}", bytes(sink.bytes));
        for (reason, count) in sink.dropped().filter(|(_, count)| *count > 0) {
            let (word, meaning) = (reason.reason(), reason.meaning().trim_end_matches('.'));
            let _ = writeln!(page, "  {count:>9} dropped: {word} ({meaning})");
        }
        if sink.waiting > 0 {
            let _ = writeln!(page, "  {:>9} on their way", sink.waiting);
        }
    }
}

/// A line on the programs that were run for finished files.
fn hook_line(hooks: Option<HookTally>, page: &mut String) {
    let Some(tally) = hooks else {
        return;
    };
    let _ = write!(
        page,
        "  --on-rotate: run for {}",
        counted(tally.run, "file")
    );
    for (count, what) in [
        (tally.failed, "failed"),
        (tally.timed_out, "took too long"),
        (tally.skipped, "not run"),
    ] {
        if count > 0 {
            let _ = write!(page, ", {count} {what}");
        }
    }
    page.push('\n');
}

/// A sentence on what the input says about its packets and the capture does not hold.
fn not_carried_lines(counts: Tally, page: &mut String) {
    let Tally {
        secrets,
        names,
        packet_comments,
        other_comments,
    } = counts;
    let kinds = [
        (secrets, "block", " of decryption secrets"),
        (names, "block", " of names"),
        (packet_comments, "packet comment", ""),
        (other_comments, "comment", " of sections and interfaces"),
    ];
    let kinds = kinds.into_iter().filter(|(count, ..)| *count > 0);
    let kinds: Vec<String> = kinds
        .map(|(count, noun, of)| format!("{}{of}", counted(count, noun)))
        .collect();
    if kinds.is_empty() {
        return;
    }
    let text = format!(
        "Not carried from the input into the capture: {}",
        kinds.join(", ")
    );
    for line in wrap(&text, 96) {
        let _ = writeln!(page, "  {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::clock::ClockSteps;
    use crate::pipeline::worker::WorkerSettings;

    #[test]
    fn lines_are_wrapped_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("unbreakable", 3), ["unbreakable"]);
    }

    #[test]
    fn times_have_the_unit_that_fits() {
        let cases = [(0, "0 ns"), (999, "999 ns"), (1_500, "1.5 µs")];
        for (ns, text) in cases {
            assert_eq!(time(ns), text);
        }
        assert_eq!(time(2_340_000), "2.3 ms");
        assert_eq!(time(60_000_000_000), "60.0 s");
    }

    #[test]
    fn the_page_tells_what_the_kernel_counted_and_how_the_clock_went() {
        let mut outcome = Outcome {
            kernel_counters: Some(BTreeMap::from([("UdpRcvbufErrors".to_owned(), 7)])),
            ..Outcome::default()
        };
        let (back, forward) = (2, 1);
        outcome.measured.clock_steps = Some(ClockSteps { back, forward });
        let settings = WorkerSettings::default();
        let summary = Summary::new(&outcome, BTreeMap::new(), &settings, Vec::new());
        let page = summary.page(&outcome);
        assert!(page.contains("        7 UdpRcvbufErrors: "), "{page}");
        assert!(page.contains("net.core.rmem_max"), "{page}");
        assert!(
            page.contains("set back 2 times and forward 1 time"),
            "{page}"
        );
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!(json["kernel_counters"]["UdpRcvbufErrors"], 7);
        assert_eq!(json["clock_steps"]["back"], 2);
        // A replay has neither.
        let replayed = Outcome::default();
        let summary = Summary::new(&replayed, BTreeMap::new(), &settings, Vec::new());
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!(json.get("kernel_counters"), None);
        assert_eq!(json.get("clock_steps"), None);
        assert!(!summary.page(&replayed).contains("Kernel"));
    }
}
