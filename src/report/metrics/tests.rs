//! The text of moments made by hand, and what every line of the table has to be.

use super::super::health::tests::{moment, sink};
use super::*;
use crate::capture::store::holdings::Holdings;
use crate::capture::store::retention::Because;
use crate::export::collector::reach::Reach;
use crate::export::collector::reach::{Connection, Way};
use crate::pipeline::ledger::Dropped;
use crate::pipeline::measure::Distribution;
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
