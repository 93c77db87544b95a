//! The status of a run that goes on, for people.

use std::fmt::Write as _;

use super::page::{LEFT_OUT_IN_KERNEL, bytes, wrap};
use super::status::{CollectorStatus, SessionStatus, SinkStatus, Status, StoreStatus};
use crate::mirror::words::{counted, percent};
use crate::pipeline::ledger;

/// Sessions shown to people; the JSON object has more.
const SESSIONS_SHOWN: usize = 24;
/// Characters of a line of prose.
const WIDTH: usize = 100;

impl Status {
    /// The page for people.
    pub fn page(&self) -> String {
        let mut page = String::new();
        let _ = writeln!(
            page,
            "vxtap {} (pid {}) listens on {} for {}: {}",
            self.version,
            self.pid,
            self.addresses.join(", "),
            span(self.uptime_seconds),
            self.backend
        );
        self.health_lines(&mut page);
        let lately = &self.lately;
        let last = self.last_packet.as_deref();
        let last = last.map_or_else(
            || "no packet yet".to_owned(),
            |last| format!("last packet {}", to_the_second(last)),
        );
        let _ = writeln!(
            page,
            "Lately, in {}: {} packets/s, {}, {} lost; {last}",
            span(lately.seconds),
            rate(lately.packets_per_second),
            bits(lately.bits_per_second),
            lately.lost
        );
        self.ledger_lines(&mut page);
        self.session_lines(&mut page);
        self.expected_lines(&mut page);
        if let Some(flows) = &self.flows {
            let _ = writeln!(
                page,
                "Flows\n  {} of at most {} live; {} made",
                flows.live,
                flows.most,
                counted(flows.records, "record")
            );
        }
        if !self.sinks.is_empty() {
            page.push_str("Outputs\n");
        }
        self.sinks
            .iter()
            .for_each(|sink| sink_lines(sink, &mut page));
        for disk in &self.disks {
            let _ = writeln!(
                page,
                "  {}: {} free of {} ({})",
                disk.path,
                bytes(disk.free_bytes),
                bytes(disk.size_bytes),
                percent(disk.free_bytes, disk.size_bytes)
            );
        }
        page
    }

    fn health_lines(&self, page: &mut String) {
        if self.ending {
            page.push_str("It was told to end, and finishes its files\n");
        }
        if self.health.healthy {
            page.push_str("Healthy\n");
            return;
        }
        let _ = writeln!(
            page,
            "NOT HEALTHY: {}",
            counted(self.health.problems.len() as u64, "problem")
        );
        for problem in &self.health.problems {
            let _ = writeln!(page, "  ! {}", problem.what);
            for line in wrap(&problem.remedy, WIDTH - 4) {
                let _ = writeln!(page, "    {line}");
            }
        }
    }

    fn ledger_lines(&self, page: &mut String) {
        let total = |counts: &std::collections::BTreeMap<String, u64>| counts.values().sum::<u64>();
        let _ = writeln!(
            page,
            "Packets\n  {} received = {} delivered + {} malformed + {} filtered + {} duplicate + {} dropped{}",
            self.received,
            self.delivered,
            total(&self.malformed),
            total(&self.filtered),
            self.duplicate,
            total(&self.dropped),
            match self.waiting {
                0 => String::new(),
                waiting => format!(" + {} that wait for others", counted(waiting, "fragment")),
            }
        );
        for (kind, counters) in [
            ("malformed", &self.malformed),
            ("filtered", &self.filtered),
            ("dropped", &self.dropped),
            ("noted", &self.noted),
        ] {
            for (reason, packets) in counters {
                let meaning = ledger::meaning(reason).unwrap_or_default();
                let meaning = meaning.trim_end_matches('.');
                let _ = writeln!(page, "  {packets:>9} {kind}: {reason} ({meaning})");
            }
        }
        for (reason, packets) in &self.kernel_dropped {
            let _ = writeln!(
                page,
                "  {packets:>9} lost in the kernel before they could be received: {reason}"
            );
        }
        if self.kernel_refused > 0 {
            let _ = writeln!(page, "  {:>9} {LEFT_OUT_IN_KERNEL}", self.kernel_refused);
        }
        for counter in &self.kernel_counters {
            let _ = writeln!(page, "  {:>9} {} (kernel)", counter.count, counter.name);
            for line in wrap(&counter.remedy, WIDTH - 12) {
                let _ = writeln!(page, "            {line}");
            }
        }
    }

    fn session_lines(&self, page: &mut String) {
        if self.sessions.is_empty() && self.other_sessions.is_none() {
            return;
        }
        let names = self.sessions.iter().take(SESSIONS_SHOWN);
        let name = |session: &SessionStatus| {
            let source = session
                .source
                .map_or_else(|| "?".to_owned(), |ip| ip.to_string());
            match &session.name {
                Some(name) => format!("{source} ({name})"),
                None => source,
            }
        };
        let longest = names.clone().map(|session| name(session).chars().count());
        let width = longest.max().unwrap_or_default().max("source".len());
        let _ = writeln!(
            page,
            "Mirror sessions\n  {:>8}  {:<width$}  {:>12}  {:>10}  {:>10}  {:>10}  {:>12}  last packet",
            "VNI", "source", "packets", "bytes", "truncated", "packets/s", "bits/s"
        );
        for session in names {
            let vni = session
                .vni
                .map_or_else(|| "?".to_owned(), |vni| vni.to_string());
            let _ = writeln!(
                page,
                "  {vni:>8}  {:<width$}  {:>12}  {:>10}  {:>10}  {:>10}  {:>12}  {}",
                name(session),
                session.packets,
                bytes(session.bytes),
                percent(session.truncated, session.packets),
                rate(session.packets_per_second),
                bits(session.bits_per_second),
                to_the_second(&session.last_seen)
            );
            let advice = session.advice.iter();
            for line in advice.flat_map(|advice| wrap(advice, WIDTH - 12)) {
                let _ = writeln!(page, "            {line}");
            }
        }
        let not_shown = self.sessions.get(SESSIONS_SHOWN..).unwrap_or_default();
        let others = self.other_sessions.as_ref();
        let entries = not_shown.len() + others.map_or(0, |others| others.entries);
        if entries > 0 {
            let packets: u64 = not_shown.iter().map(|session| session.packets).sum();
            let packets = packets + others.map_or(0, |others| others.packets);
            let _ = writeln!(
                page,
                "  and {entries} more with {}; --json lists more of them",
                counted(packets, "packet")
            );
        }
    }

    fn expected_lines(&self, page: &mut String) {
        let Some(expected) = &self.expected else {
            return;
        };
        let _ = writeln!(
            page,
            "Expected sessions\n  {} listed: {} never seen, {} silent; {} seen that nobody expected",
            expected.expected,
            expected.missing.len(),
            expected.silent.len(),
            expected.unexpected
        );
        let told = [
            ("never seen", &expected.missing),
            ("silent", &expected.silent),
        ];
        for (what, sessions) in told {
            for session in sessions.iter().take(SESSIONS_SHOWN) {
                let _ = writeln!(page, "  {what}: {session}");
            }
        }
    }
}

fn sink_lines(sink: &SinkStatus, page: &mut String) {
    let thing = match sink.kind.as_str() {
        "flows" => "flow record",
        _ => "packet",
    };
    let viewers = sink.viewers.map(|viewers| counted(viewers, "viewer"));
    let viewers = viewers.map_or_else(String::new, |viewers| format!(" for {viewers}"));
    let _ = writeln!(
        page,
        "  {}: {} of {}{viewers}, {}",
        sink.path,
        sink.written,
        counted(sink.offered, thing),
        bytes(sink.bytes)
    );
    for (reason, count) in &sink.dropped {
        let _ = writeln!(page, "  {count:>9} dropped: {reason}");
    }
    if sink.waiting > 0 {
        let _ = writeln!(page, "  {:>9} on their way", sink.waiting);
    }
    if let Some(store) = &sink.store {
        store_line(store, page);
    }
    if let Some(collector) = &sink.collector {
        collector_lines(collector, page);
    }
}

/// What a store holds and has deleted.
fn store_line(store: &StoreStatus, page: &mut String) {
    let mut line = match &store.oldest {
        None => "no finished file with packets or records yet".to_owned(),
        Some(oldest) => format!(
            "{}, {}, back to {}",
            counted(store.files, "finished file"),
            bytes(store.bytes),
            to_the_second(oldest)
        ),
    };
    let deleted: u64 = store.deleted_files.values().sum();
    if deleted > 0 {
        let reasons = store.deleted_files.iter();
        let reasons: Vec<String> = reasons
            .map(|(reason, files)| format!("{reason} {files}"))
            .collect();
        line.push_str(&format!(
            "; deleted {}, {} ({})",
            counted(deleted, "file"),
            bytes(store.deleted_bytes.values().sum()),
            reasons.join(", ")
        ));
    }
    if store.deleted_early_files > 0 {
        let early = store.deleted_early_files;
        line.push_str(&format!(
            ", {early} of them younger than --keep-age: another limit left no room"
        ));
    }
    push_wrapped(&line, page);
}

/// How a collector is reached, and what is wrong with the way to it.
fn collector_lines(collector: &CollectorStatus, page: &mut String) {
    let error = collector.last_error.as_ref();
    let error = error.map(|error| match &error.remedy {
        Some(remedy) => format!("{}; {remedy}", error.what),
        None => error.what.clone(),
    });
    if let Some(connection) = &collector.connection {
        let since = to_the_second(&connection.since);
        let tries = format!(
            "{}, {} failed",
            counted(connection.connections, "connection"),
            counted(connection.failed_attempts, "attempt")
        );
        let mut line = match (connection.connected, &error) {
            (true, _) => format!("connected since {since} ({tries})"),
            (false, None) => format!("NOT connected since {since} ({tries})"),
            (false, Some(error)) => format!("NOT connected since {since} ({tries}): {error}"),
        };
        let unsent = connection.unsent_bytes + connection.unacknowledged_bytes;
        if unsent > 0 && !connection.connected {
            line.push_str(&format!("; {} wait for it", bytes(unsent)));
        }
        push_wrapped(&line, page);
    }
    if let Some(refused @ 1..) = collector.refused_messages {
        let refused = counted(refused, "message");
        let error = error.map_or_else(String::new, |error| format!(": {error}"));
        push_wrapped(&format!("{refused} refused{error}"), page);
    }
}

/// Lines below that of an output.
fn push_wrapped(text: &str, page: &mut String) {
    for line in wrap(text, WIDTH - 6) {
        let _ = writeln!(page, "      {line}");
    }
}

/// A time for people, to its second largest unit.
pub fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole / 60 % 60),
        _ => format!("{} d {} h", whole / 86_400, whole / 3600 % 24),
    }
}

/// A time of RFC 3339 in UTC without its fraction.
fn to_the_second(time: &str) -> String {
    match time.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => time.to_owned(),
    }
}

/// Packets a second for people.
fn rate(a_second: f64) -> String {
    match a_second {
        small if small < 10.0 => format!("{small:.1}"),
        large => format!("{large:.0}"),
    }
}

/// Bits a second for people.
fn bits(a_second: f64) -> String {
    for (factor, unit) in [(1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")] {
        if a_second >= factor {
            return format!("{:.1} {unit}", a_second / factor);
        }
    }
    format!("{a_second:.0} bit/s")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::health::tests::{moment, sink};
    use super::super::status::{ConnectionStatus, ErrorStatus};
    use super::*;

    #[test]
    fn times_and_rates() {
        let spans = [0.04, 9.96, 59.9, 61.0, 7300.0, 200_000.0].map(span);
        let expected = [
            "0.0 s",
            "10.0 s",
            "59 s",
            "1 min 1 s",
            "2 h 1 min",
            "2 d 7 h",
        ];
        assert_eq!(spans, expected);
        assert_eq!(bits(999.0), "999 bit/s");
        assert_eq!(bits(1_500_000.0), "1.5 Mbit/s");
        assert_eq!([rate(0.25), rate(12.7)], ["0.2", "13"]);
    }

    #[test]
    fn a_store_tells_what_it_holds_and_what_went() {
        let mut store = StoreStatus {
            files: 0,
            bytes: 0,
            oldest: None,
            finished_files: 0,
            deleted_files: BTreeMap::new(),
            deleted_bytes: BTreeMap::new(),
            deleted_early_files: 0,
            limit_files: Some(1),
            limit_bytes: None,
            limit_age_seconds: None,
            min_free_bytes: None,
        };
        let line = |store: &StoreStatus| {
            let mut page = String::new();
            store_line(store, &mut page);
            page.replace("\n      ", " ")
        };
        assert_eq!(
            line(&store),
            "      no finished file with packets or records yet\n"
        );
        store.files = 1;
        store.bytes = 2000;
        store.oldest = Some("2026-01-15T09:30:00.123456789Z".to_owned());
        assert_eq!(
            line(&store),
            "      1 finished file, 2.00 kB, back to 2026-01-15T09:30:00Z\n"
        );
        store.deleted_files = [("keep_age".to_owned(), 2), ("keep_bytes".to_owned(), 1)].into();
        store.deleted_bytes = [("keep_age".to_owned(), 500), ("keep_bytes".to_owned(), 500)].into();
        store.deleted_early_files = 1;
        assert!(
            line(&store).ends_with(
                "; deleted 3 files, 1.00 kB (keep_age 2, keep_bytes 1), 1 of them younger than --keep-age: another limit left no room\n"
            ),
            "{}",
            line(&store)
        );
    }

    /// What went wrong once is no news of a collector that is connected again.
    #[test]
    fn a_collector_tells_how_it_is_reached() {
        let connection = |connected| ConnectionStatus {
            connected,
            since: "2026-01-15T09:30:00.5Z".to_owned(),
            connections: 1,
            failed_attempts: 2,
            unsent_bytes: 1500,
            unacknowledged_bytes: 500,
        };
        let collector = |connected| CollectorStatus {
            connection: Some(connection(connected)),
            refused_messages: None,
            last_error: Some(ErrorStatus {
                at: "2026-01-15T09:00:00Z".to_owned(),
                what: "Connection refused".to_owned(),
                remedy: Some("is it running?".to_owned()),
            }),
        };
        let lines = |collector: &CollectorStatus| {
            let mut page = String::new();
            collector_lines(collector, &mut page);
            page.replace("\n      ", " ")
        };
        assert_eq!(
            lines(&collector(true)),
            "      connected since 2026-01-15T09:30:00Z (1 connection, 2 attempts failed)\n"
        );
        assert_eq!(
            lines(&collector(false)),
            "      NOT connected since 2026-01-15T09:30:00Z (1 connection, 2 attempts failed): \
             Connection refused; is it running?; 2.00 kB wait for it\n"
        );
        let over_udp = |refused| CollectorStatus {
            connection: None,
            refused_messages: Some(refused),
            ..collector(false)
        };
        assert_eq!(lines(&over_udp(0)), "");
        assert_eq!(
            lines(&over_udp(1)),
            "      1 message refused: Connection refused; is it running?\n"
        );
    }

    #[test]
    fn packets_that_the_kernel_left_out_are_told_where_there_are_some() {
        let mut now = moment(100.0, 10, 0);
        let page = |now: &_| Status::new(now, None, None).page();
        assert!(!page(&now).contains("left out in the kernel"));
        now.glance.kernel_refused = 40;
        let line = "\n         40 left out in the kernel: from sources that --allow does not name";
        assert!(page(&now).contains(line), "{}", page(&now));
    }

    #[test]
    fn a_problem_stands_with_its_remedy() {
        let mut now = moment(100.0, 10, 0);
        now.glance.sinks = vec![sink(3, None)];
        let page = Status::new(&now, None, None).page();
        assert!(
            page.contains("NOT HEALTHY: 1 problem\n  ! 3 packets not in c/: disk"),
            "{page}"
        );
        assert!(page.contains("--keep-bytes"), "{page}");
        assert!(page.contains("  c/: 7 of 10 packets, "), "{page}");
        let page = Status::new(&moment(100.0, 0, 0), None, None).page();
        assert!(page.contains("\nHealthy\n"), "{page}");
        assert!(page.contains("for 1 min 40 s: udp"), "{page}");
        assert!(page.contains("no packet yet"), "{page}");
    }
}
