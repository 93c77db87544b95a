//! A real Prometheus scrapes vxtap: its sums are those of the summary, the dashboard's queries give something, alerts
//! fire where their faults are made.
#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    reason = "a scrape takes its time, and a fault is waited for"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::collectors::one_connection;
use common::lab::{Lab, SRC, Side, outer_v4};
use common::listening::{Listening, SOON, assert_same, directory_of};
use common::prometheus::{Prometheus, program};
use common::store::{Over, Small};
use common::{assert_closes, run};
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
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
    // Outputs of all kinds, for what the dashboard shows of them.
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = collector.local_addr().unwrap();
    let collected = one_connection(collector);
    let listening = Listening::start(&format!(
        "-w DIR/c/ --rotate-packets 1000 --keep-bytes 1GB --keep-age 1h --flows DIR/f.jsonl \
         --flows ipfix+tcp://{address} --http 0"
    ));
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
    assert!(!collected.join().unwrap().is_empty());
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

/// How many seconds a minute of the rules lasts in the test below.
const MINUTE: u64 = 4;

/// The rules with all their times shortened alike: `for:` lines left out, a minute of a range (`[5m]`) made [`MINUTE`] seconds,
/// and so is each 60 of a limit in seconds (a whole number of 60 and more behind `>`). Nothing else is changed.
fn hastened(rules: &str) -> String {
    let mut hastened = String::new();
    for line in rules.lines() {
        if line.trim().starts_with("for: ") {
            continue;
        }
        let mut before = "";
        for part in line.split_inclusive([' ', '[']) {
            let word = part.trim_end();
            let minutes = || {
                let (minutes, rest) = part.split_once("m]")?;
                Some((minutes.parse::<u64>().ok()?, rest))
            };
            let seconds = word.parse::<u64>().ok().filter(|seconds| *seconds >= 60);
            match (minutes(), seconds) {
                (Some((minutes, rest)), _) if before.ends_with('[') => {
                    hastened.push_str(&format!("{}s]{rest}", MINUTE * minutes));
                }
                (_, Some(seconds)) if before == "> " => {
                    hastened.push_str(&(seconds * MINUTE / 60).to_string());
                    hastened.push_str(&part[word.len()..]);
                }
                _ => hastened.push_str(part),
            }
            before = part;
        }
        hastened.push('\n');
    }
    hastened
}

#[test]
fn all_times_of_the_rules_are_hastened() {
    let of = |line: &str| hastened(line).trim_end().to_owned();
    for (line, expected) in [
        ("        for: 10m", ""),
        ("expr: time() - a > 60", "expr: time() - a > 4"),
        (
            "time() - (b > 0) > 300 or c == 0) > 300",
            "time() - (b > 0) > 20 or c == 0) > 20",
        ),
        ("changes(d[15m]) >= 3", "changes(d[60s]) >= 3"),
        (
            "x (increase(e{f!=\"v\"}[5m])) > 0",
            "x (increase(e{f!=\"v\"}[20s])) > 0",
        ),
        (
            "rate(g[5m]) / (rate(h[5m]) > 0) > 0.01",
            "rate(g[20s]) / (rate(h[20s]) > 0) > 0.01",
        ),
        (
            "histogram_quantile(0.99, rate(i[5m])) > 0.5",
            "histogram_quantile(0.99, rate(i[20s])) > 0.5",
        ),
    ] {
        assert_eq!(of(line), expected);
    }
    let rules = fs::read_to_string(docs("prometheus-rules.yml")).unwrap();
    let hastened = hastened(&rules);
    assert!(
        !hastened.contains("m]") && !hastened.contains("for: "),
        "{hastened}"
    );
}

/// The runs of the test below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    /// Nothing is wrong with it.
    Sound,
    /// Its traffic is, and where its flow records go takes none.
    Wrong,
    /// It is stopped as a whole.
    Stopped,
    /// Whoever reads its capture takes nothing for a while, and then too little.
    Stuck,
    /// Its disk is full.
    Full,
    /// It is killed and started again.
    Restarted,
    /// Nobody sends to it.
    Quiet,
    /// The first pieces of fragmented packets never reach its packet ring.
    Pieces,
    /// Its store has room for fewer files than it is to keep, and its collector leaves.
    Outputs,
}

/// Every alert of docs/prometheus-rules.yml, and the run whose fault makes it fire.
const FAULTS: [(&str, Of); 18] = [
    ("VxtapDown", Of::Stopped),
    ("VxtapHeartbeatStopped", Of::Stuck),
    ("VxtapRestarts", Of::Restarted),
    ("VxtapNoTraffic", Of::Quiet),
    ("VxtapNoTraffic", Of::Full),
    ("VxtapSessionMissing", Of::Wrong),
    ("VxtapSessionUnexpected", Of::Wrong),
    ("VxtapKernelDrops", Of::Stopped),
    ("VxtapPacketsDropped", Of::Pieces),
    ("VxtapOutputDrops", Of::Wrong),
    ("VxtapOutputFailed", Of::Wrong),
    ("VxtapDiskAlmostFull", Of::Full),
    ("VxtapFlowTableFull", Of::Wrong),
    ("VxtapTruncated", Of::Wrong),
    ("VxtapMalformed", Of::Wrong),
    ("VxtapSlowOutput", Of::Stuck),
    ("VxtapCollectorNotConnected", Of::Outputs),
    ("VxtapStoreDeletesEarly", Of::Outputs),
];

/// Those that no delay of the machine can make fire, so that a sound run never has them.
const NEVER: [&str; 10] = [
    "VxtapRestarts",
    "VxtapSessionMissing",
    "VxtapSessionUnexpected",
    "VxtapPacketsDropped",
    "VxtapOutputDrops",
    "VxtapOutputFailed",
    "VxtapFlowTableFull",
    "VxtapTruncated",
    "VxtapMalformed",
    "VxtapStoreDeletesEarly",
];

/// The names of the alerts in docs/prometheus-rules.yml.
fn alerts_of(rules: &str) -> BTreeSet<&str> {
    let lines = rules.lines();
    lines
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect()
}

/// What has fired so far.
struct Watch<'a> {
    prometheus: &'a Prometheus,
    runs: BTreeMap<SocketAddr, Of>,
    /// With the largest value that each had.
    fired: BTreeMap<(String, Of), f64>,
}

impl Watch<'_> {
    fn look(&mut self) {
        for (alert, instance, value) in self.prometheus.firing() {
            let of = self.runs[&instance.parse::<SocketAddr>().unwrap()];
            assert!(
                of != Of::Sound || !NEVER.contains(&alert.as_str()),
                "{alert} of a run that is sound"
            );
            let largest = self.fired.entry((alert, of)).or_insert(value);
            *largest = largest.max(value);
        }
    }

    fn has(&self, alert: &str, of: Of) -> bool {
        self.fired.contains_key(&(alert.to_owned(), of))
    }

    /// Makes a fault again and again until it is so.
    #[track_caller]
    fn until(&mut self, mut is_so: impl FnMut(&Self) -> bool, mut make: impl FnMut()) {
        let begun = Instant::now();
        loop {
            self.look();
            if is_so(self) {
                return;
            }
            assert!(begun.elapsed() < 3 * SOON, "{:?}", self.fired);
            make();
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    #[track_caller]
    fn until_fires(&mut self, alert: &str, of: Of, make: impl FnMut()) {
        self.until(|watch| watch.has(alert, of), make);
    }
}

/// Every alert fires by its fault, made in a run that Prometheus scrapes. A rule without a fault here is a failure.
#[test]
fn every_alert_fires_by_its_fault() {
    let rules = fs::read_to_string(docs("prometheus-rules.yml")).unwrap();
    let faults: BTreeSet<&str> = FAULTS.iter().map(|(alert, _)| *alert).collect();
    assert_eq!(alerts_of(&rules), faults, "each alert has a fault");
    if program("prometheus").is_none() {
        return;
    }
    // All of it in one network namespace, which has a packet ring that nobody else sends to.
    match Lab::new() {
        Some(lab) => lab.inside(Side::Receiver, || make_faults(Some(&lab), &rules)),
        None => make_faults(None, &rules),
    }
}

fn make_faults(lab: Option<&Lab>, rules: &str) {
    let small = Small::new(4 << 20);
    let mut left_out = Vec::new();
    if lab.is_none() {
        left_out.push(Of::Pieces);
    }
    if small.is_none() {
        left_out.push(Of::Full);
    }
    let start = |flags: &str| Listening::start(&format!("--http 127.0.0.1:0 {flags}"));
    let sound = start("-w DIR/c/ --rotate-packets 100 --keep-files 2 --flows DIR/f.jsonl");
    // The flow table is full at once, records go to a disk that takes none; a session that is expected never comes.
    let wrong = Listening::start_with(
        "--http 127.0.0.1:0 -w DIR/c.pcapng --flows /dev/full --max-flows 4 --expect DIR/expect.csv",
        |command| {
            let expect = directory_of(command).join("expect.csv");
            fs::write(expect, "vni,source\n99999,\n").unwrap();
        },
    );
    let stopped = start("-w DIR/c.pcapng");
    let mut reader = None;
    let stuck = Listening::start_with("--http 127.0.0.1:0 -w DIR/fifo", |command| {
        let fifo = directory_of(command).join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let mut options = fs::OpenOptions::new();
        let open = options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
        reader = Some(open.open(&fifo).unwrap());
    });
    let full = small.as_ref().map(|small| {
        let capture = small.0.path().join("c.pcapng");
        // A run ends when no output is left.
        start(&format!("-w {} --flows DIR/f.jsonl", capture.display()))
    });
    // Nobody connects from this address: the port stays free for the next start.
    let mut restarted = Listening::start("--http 127.0.0.2:0");
    let quiet = start("");
    let pieces = lab.map(|_| {
        let way = "--backend packet --workers 1 --bind 10.77.0.2:4789";
        Listening::start_on(way, "--http 127.0.0.1:0 -w DIR/c.pcapng", |_| {})
    });
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let collector_at = collector.local_addr().unwrap();
    let outputs = start(&format!(
        "-w DIR/c/ --rotate-packets 100 --keep-files 2 --keep-age 1h --flows ipfix+tcp://{collector_at}"
    ));
    let runs = [
        (Of::Sound, Some(&sound)),
        (Of::Wrong, Some(&wrong)),
        (Of::Stopped, Some(&stopped)),
        (Of::Stuck, Some(&stuck)),
        (Of::Full, full.as_ref()),
        (Of::Restarted, Some(&restarted)),
        (Of::Quiet, Some(&quiet)),
        (Of::Pieces, pieces.as_ref()),
        (Of::Outputs, Some(&outputs)),
    ];
    let runs: BTreeMap<SocketAddr, Of> = runs
        .into_iter()
        .filter_map(|(of, run)| Some((run?.http.unwrap(), of)))
        .collect();
    let targets: Vec<SocketAddr> = runs.keys().copied().collect();
    let Some(prometheus) = Prometheus::start(&targets, &hastened(rules)) else {
        return;
    };
    let mut watch = Watch {
        prometheus: &prometheus,
        runs,
        fired: BTreeMap::new(),
    };
    let known = |watch: &Watch<'_>, metric: &str, run: &Listening| {
        let instance = run.http.unwrap();
        let query = format!("{metric}{{instance=\"{instance}\"}}");
        let found = watch.prometheus.query(&query);
        found.first().map(|(_, value)| *value)
    };

    // What has to be counted from zero on has been seen at zero.
    watch.until_fires("VxtapSessionMissing", Of::Wrong, || ());
    let zeros = [
        ("vxtap_arrival_to_written_seconds_count", Some(&stuck)),
        ("vxtap_kernel_dropped_packets_total", Some(&stopped)),
        ("vxtap_dropped_packets_total", pieces.as_ref()),
        ("vxtap_received_packets_total", Some(&wrong)),
        ("vxtap_store_deleted_early_files_total", Some(&outputs)),
    ];
    watch.until(
        |watch| {
            let mut zeros = zeros.iter();
            zeros.all(|(metric, run)| run.is_none_or(|run| known(watch, metric, run).is_some()))
        },
        || (),
    );
    for (alert, of) in FAULTS {
        let is_early = watch.has(alert, of) && NEVER.contains(&alert);
        assert!(
            !is_early || alert == "VxtapSessionMissing",
            "{alert} before its fault"
        );
    }
    let _senders = [
        sound.sender("--generate --duration 10m --pps 50 --flows 5"),
        wrong.sender("--generate --duration 10m --pps 500 --flows 500 --packet-length 90"),
        stuck.sender("--generate --duration 10m --pps 1000"),
    ];
    if let Some(full) = &full {
        full.send("--generate --count 20000 --pps 20000");
    }
    let sockets = || std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (malformed, flood) = (sockets(), sockets());
    let pieces_sender = lab.map(|lab| lab.raw(SRC));
    let mut number = 0;
    let mut go_wrong = || {
        // A VXLAN header, and no frame behind it.
        for _ in 0..200 {
            let _ = malformed.send_to(b"\x08\0\0\0\0\0\x05\0", wrong.target);
        }
        if let Some(sender) = &pieces_sender {
            for _ in 0..1000 {
                number = u16::wrapping_add(number, 1);
                sender.send(&later_piece(number));
            }
        }
    };

    // It does not answer. Nobody takes what comes meanwhile, and more comes than the receive buffers of two workers hold.
    let pid = Pid::from_raw(stopped.child.id() as i32);
    kill(pid, Signal::SIGSTOP).unwrap();
    watch.until_fires("VxtapDown", Of::Stopped, &mut go_wrong);
    kill(pid, Signal::SIGCONT).unwrap();
    let datagram = [8, 0, 0, 0, 0, 0, 1, 0].into_iter().chain([0; 1400]);
    let datagram: Vec<u8> = datagram.collect();
    watch.until_fires("VxtapKernelDrops", Of::Stopped, || {
        kill(pid, Signal::SIGSTOP).unwrap();
        for _ in 0..200_000 {
            let _ = flood.send_to(&datagram, stopped.target);
        }
        kill(pid, Signal::SIGCONT).unwrap();
    });

    // The writer of the capture is in a write that does not come back, and then in those of a reader that is too slow.
    // More seconds than may be between two scrapes of a run that answers.
    let stands_still = |watch: &Watch<'_>| {
        let alert = ("VxtapHeartbeatStopped".to_owned(), Of::Stuck);
        watch.fired.get(&alert).is_some_and(|age| *age > 10.0)
    };
    watch.until(stands_still, &mut go_wrong);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = &over;
        let _over = Over(over);
        let mut reader = reader.take().unwrap();
        scope.spawn(move || {
            let mut buffer = vec![0; 32 << 10];
            while !over.load(Ordering::Relaxed) {
                let _ = reader.read(&mut buffer);
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        watch.until_fires("VxtapSlowOutput", Of::Stuck, &mut go_wrong);
    });

    // More files end than there is room for, and none is an hour old.
    outputs.send("--generate --count 500 --pps 20000");
    watch.until_fires("VxtapStoreDeletesEarly", Of::Outputs, &mut go_wrong);

    // The collector leaves. It may have been found away before it had come.
    let (connection, _) = collector.accept().unwrap();
    let away = ("VxtapCollectorNotConnected".to_owned(), Of::Outputs);
    let instance = outputs.http.unwrap().to_string();
    let is_away = |watch: &Watch<'_>| {
        let mut firing = watch.prometheus.firing().into_iter();
        firing.any(|(alert, of, _)| alert == away.0 && of == instance)
    };
    watch.until(|watch| !is_away(watch), &mut go_wrong);
    watch.fired.remove(&away);
    drop((collector, connection));
    watch.until_fires(&away.0, Of::Outputs, &mut go_wrong);
    let collector = TcpListener::bind(collector_at).unwrap();
    let _connection = collector.accept().unwrap();
    watch.until(|watch| !is_away(watch), &mut go_wrong);

    // Each start is seen.
    for starts in 0.. {
        if watch.has("VxtapRestarts", Of::Restarted) {
            break;
        }
        assert!(starts < 20, "{:?}", watch.fired);
        let started = known(&watch, "vxtap_start_time_seconds", &restarted);
        let address = restarted.http.unwrap();
        drop(restarted);
        restarted = Listening::start(&format!("--http {address}"));
        watch.until(
            |watch| {
                let now = known(watch, "vxtap_start_time_seconds", &restarted);
                now.is_some() && now != started
            },
            &mut go_wrong,
        );
    }

    let wanted = FAULTS.iter().filter(|(_, of)| !left_out.contains(of));
    let wanted: Vec<&(&str, Of)> = wanted.collect();
    let lacks = |watch: &Watch<'_>| {
        let lacks = wanted.iter().filter(|(alert, of)| !watch.has(alert, *of));
        lacks.map(|fault| **fault).collect::<Vec<_>>()
    };
    watch.until(|watch| lacks(watch).is_empty(), &mut go_wrong);
}

/// An Ethernet frame with the last piece of fragmented packet `number`.
fn later_piece(number: u16) -> Vec<u8> {
    let mut frame = outer_v4("10.77.0.2:4789".parse().unwrap(), &[], &[], &[0; 1400]);
    let ip = &mut frame[14..34];
    ip[4..6].copy_from_slice(&number.to_be_bytes());
    // Its first byte is number 1480 of the payload, in units of eight.
    ip[6..8].copy_from_slice(&185_u16.to_be_bytes());
    ip[10..12].fill(0);
    let words = ip.chunks_exact(2);
    let sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame
}
