//! A real Prometheus scrapes vxtap: its sums are those of the summary, the dashboard's queries give something, alerts
//! fire where their faults are made.
#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test ends where something is not as expected, and waits for a bounded time"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::listening::{Listening, SOON, assert_same};
use common::prometheus::{Prometheus, program};
use common::{assert_closes, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(name)
}

/// promtool finds nothing to say of the rules, and of what is scraped; each alert fires where its fault is made.
#[test]
fn promtool_takes_metrics_and_rules() {
    let Some(promtool) = program("promtool") else {
        return;
    };
    let tool = |args: &[&str], path: &Path| {
        let checked = run(Command::new(&promtool).args(args).arg(path));
        let said = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert_eq!(checked.code, Some(0), "{said}{}", checked.stderr);
    };
    tool(&["check", "rules"], &docs("prometheus-rules.yml"));
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/prometheus-rules.test.yml");
    tool(&["test", "rules"], &tests);
    let rules = fs::read_to_string(docs("prometheus-rules.yml")).unwrap();
    let tested = fs::read_to_string(&tests).unwrap();
    for alert in rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
    {
        assert!(
            tested.contains(&format!("- name: {alert}\n")),
            "{alert} has no test"
        );
    }
    let listening = Listening::start("-w DIR/c.pcapng --flows DIR/f.jsonl --http 0");
    listening.send("--generate --count 500 --pps 20000 --vnis 3");
    listening.wait(|status| status["received"] == 500);
    let file = listening.dir.path().join("metrics");
    fs::write(&file, listening.get("/metrics").1).unwrap();
    let mut check = Command::new(&promtool);
    let check = check
        .args(["check", "metrics"])
        .stdin(fs::File::open(&file).unwrap());
    let output = check.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
    listening.end();
}

/// What Prometheus has of a metric, as a text of metrics has it: by name and labels of ours.
fn series(prometheus: &Prometheus) -> BTreeMap<String, f64> {
    let all = prometheus.query("{__name__=~\"vxtap_.*\"}");
    let text = |labels: &Value| {
        let own = ["vni", "source", "kind", "path", "reason"];
        let given: Vec<String> = own
            .iter()
            .filter_map(|name| Some(format!("{name}=\"{}\"", labels[name].as_str()?)))
            .collect();
        let name = labels["__name__"].as_str().unwrap();
        match given.is_empty() {
            true => name.to_owned(),
            false => format!("{name}{{{}}}", given.join(",")),
        }
    };
    all.iter()
        .map(|(labels, value)| (text(labels), *value))
        .collect()
}

/// `VXTAP_SCRAPE_SECONDS` says for how long; 20 without it.
#[test]
fn sums_are_those_of_the_summary() {
    let listening = Listening::start("-w DIR/c.pcapng --flows DIR/f.jsonl --http 0");
    let Some(prometheus) = Prometheus::start(&[listening.http.unwrap()], "groups: []\n") else {
        return;
    };
    let seconds = std::env::var("VXTAP_SCRAPE_SECONDS");
    let seconds: u64 = seconds.map_or(20, |seconds| seconds.parse().unwrap());
    let (duration, begun) = (format!("--generate --duration {seconds}s"), Instant::now());
    listening.send(&format!(
        "{duration} --pps 2000 --vnis 50 --packet-length 300"
    ));
    assert!(begun.elapsed() >= Duration::from_secs(seconds - 1));
    let status = listening.wait(|status| status["lately"]["packets_per_second"] == 0.0);
    // Rates: what was sent in the last seconds before the end.
    let rate = prometheus.query(&format!(
        "max_over_time(rate(vxtap_received_packets_total[8s])[{seconds}s:1s])"
    ));
    assert!((1000.0..4000.0).contains(&rate[0].1), "{rate:?}");
    dashboard(&prometheus);
    let scraped = series(&prometheus);
    let scrapes = prometheus.query(&format!("count_over_time(up[{}s])", seconds + 60));
    assert!(
        scrapes[0].1 >= seconds as f64 / 2.0 - 2.0,
        "it is scraped: {scrapes:?}"
    );
    let up = prometheus.query(&format!("min_over_time(up[{}s])", seconds + 60));
    assert_eq!(up[0].1, 1.0, "no scrape failed");
    let took = prometheus.query(&format!(
        "max_over_time(scrape_duration_seconds[{}s])",
        seconds + 60
    ));
    eprintln!(
        "{} scrapes, the slowest took {:.1} ms",
        scrapes[0].1,
        1000.0 * took[0].1
    );
    let (code, said, summary) = listening.end();
    assert_eq!(code, Some(0), "{said}");
    assert_closes(&summary);
    assert_eq!(summary["received"], status["received"]);
    assert_same(&scraped, &summary);
}

/// Every query of the dashboard is one, and those of what has happened give something.
fn dashboard(prometheus: &Prometheus) {
    let json = fs::read(docs("grafana-dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_slice(&json).unwrap();
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            let query = query
                .replace("$__rate_interval", "30s")
                .replace("$__range", "5m")
                .replace("$instance", ".*")
                .replace("$job", "vxtap");
            let found = prometheus.query(&query);
            asked += 1;
            // What did not happen has no series where zeros are left out.
            let may_be_empty = query.ends_with("> 0") || query.contains("vxtap_expected_sessions");
            assert!(may_be_empty || !found.is_empty(), "{query}");
        }
    }
    assert!(asked > 20, "{asked}");
}

/// Faults that can be made here make their alerts fire; before them none does.
#[test]
fn alerts_fire_where_their_faults_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let expect = dir.path().join("expect.csv");
    fs::write(&expect, "vni,source\n99999,\n").unwrap();
    // The flow table is full at once, records go to a disk that takes none; a session that is expected never comes.
    let listening = Listening::start(&format!(
        "-w DIR/c.pcapng --flows /dev/full --max-flows 4 --http 0 --expect {}",
        expect.display()
    ));
    // What lasts is told at once.
    let rules = fs::read_to_string(docs("prometheus-rules.yml")).unwrap();
    let rules: Vec<&str> = rules
        .lines()
        .filter(|line| !line.trim().starts_with("for: "))
        .collect();
    let Some(prometheus) = Prometheus::start(&[listening.http.unwrap()], &rules.join("\n")) else {
        return;
    };
    let begun = Instant::now();
    let wait = |what: &dyn Fn(&[String]) -> bool| {
        loop {
            let firing = prometheus.firing();
            if what(&firing) {
                return firing;
            }
            assert!(begun.elapsed() < 3 * SOON, "{firing:?}");
            std::thread::sleep(Duration::from_millis(300));
        }
    };
    let has = |firing: &[String], name: &str| firing.iter().any(|alert| alert == name);
    let firing = wait(&|firing| has(firing, "VxtapSessionMissing"));
    for quiet in [
        "VxtapDown",
        "VxtapKernelDrops",
        "VxtapOutputDrops",
        "VxtapOutputFailed",
        "VxtapTruncated",
    ] {
        assert!(!has(&firing, quiet), "{firing:?}");
    }
    listening.send("--generate --duration 5s --pps 2000 --flows 500 --packet-length 90");
    // A VXLAN header, and no frame behind it.
    let malformed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..2000 {
        malformed
            .send_to(b"\x08\0\0\0\0\0\x05\0", listening.target)
            .unwrap();
    }
    wait(&|firing| {
        let wanted = [
            "VxtapOutputFailed",
            "VxtapOutputDrops",
            "VxtapTruncated",
            "VxtapFlowTableFull",
            "VxtapSessionUnexpected",
            "VxtapMalformed",
        ];
        wanted.iter().all(|name| has(firing, name))
    });
    // Nobody takes what comes now: it does not answer, and then the kernel has dropped some.
    let pid = Pid::from_raw(listening.child.id() as i32);
    kill(pid, Signal::SIGSTOP).unwrap();
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let datagram = [8, 0, 0, 0, 0, 0, 1, 0].into_iter().chain([0; 1400]);
    let datagram: Vec<u8> = datagram.collect();
    // More than the receive buffers of two workers hold.
    for _ in 0..200_000 {
        let _ = sender.send_to(&datagram, listening.target);
    }
    wait(&|firing| has(firing, "VxtapDown"));
    kill(pid, Signal::SIGCONT).unwrap();
    wait(&|firing| has(firing, "VxtapKernelDrops") && !has(firing, "VxtapDown"));
    listening.end();
}
