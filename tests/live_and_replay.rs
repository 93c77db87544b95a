//! Flow records of a live run are those of a replay of what it captured: timeouts included, with any number of
//! workers on either side.
//!
//! Traffic is random: conversations begin, fall silent for shorter and longer than the timeouts, and go on; the system
//! adds its own times. So no two runs are alike; the bursts are in the message of a failure.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::lab::{BACKENDS, Lab, Side, TO_V4};
use common::{VXTAP, assert_closes, json_lines, replay, run, without_firsts};
use proptest::collection::vec;
use proptest::sample::select;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde_json::Value;

/// So short that flows end and are continued during the run.
const TIMEOUTS: &str = "--active-timeout 250ms --idle-timeout \
    tcp=900ms,tcp-new=300ms,fin=200ms,rst=100ms,udp=400ms,icmp=300ms,other=300ms";

/// Packets of `testdata/demo.pcap`, TCP connections from handshake to end among them.
const DEMO: u64 = 198;

/// A part of the traffic.
#[derive(Debug)]
struct Burst {
    /// What `vxtap send` is told.
    words: String,
    packets: u64,
    /// Silence behind it.
    pause: Duration,
}

/// All of a run have the same flows, which are silent between them.
fn bursts(runner: &mut TestRunner) -> Vec<Burst> {
    let burst = (100..900_u64, 800..4000, 0..1400_u64);
    let strategy = (
        vec(burst, 6),
        0..5_usize,
        select(vec![20, 60, 300]),
        0..1000,
    );
    let (bursts, demo_at, flows, seed) = strategy.new_tree(runner).unwrap().current();
    let bursts = bursts.into_iter().enumerate();
    let burst = |(at, (packets, pps, pause_ms))| {
        let generated = format!(
            "--generate --count {packets} --pps {pps} --flows {flows} --seed {seed} \
             --frame-size 86-900 --vlan-percent 20"
        );
        let (words, packets) = if at == demo_at {
            ("testdata/demo.pcap --pps 3000".to_owned(), DEMO)
        } else {
            (generated, packets)
        };
        Burst {
            words,
            packets,
            pause: Duration::from_millis(pause_ms),
        }
    };
    bursts.map(burst).collect()
}

/// How often each record comes.
fn counted(flows: &str) -> BTreeMap<String, i64> {
    let mut counts = BTreeMap::new();
    for flow in json_lines(&without_firsts(flows)) {
        *counts.entry(flow.to_string()).or_default() += 1;
    }
    counts
}

/// Records of one, not of the other.
fn only_in(one: &BTreeMap<String, i64>, other: &BTreeMap<String, i64>) -> Vec<String> {
    let records = one.iter().filter(|(flow, n)| other.get(*flow) != Some(n));
    records.map(|(flow, n)| format!("{n} × {flow}")).collect()
}

/// Records that ended for a reason, by its number.
fn ended(flows: &[Value], reason: u64) -> usize {
    flows
        .iter()
        .filter(|flow| flow["end_reason"] == reason)
        .count()
}

/// The same traffic live and from the capture. Tells how many records ended by each of the first four reasons.
fn compare(lab: &Lab, backend: &str, workers: &str, bursts: &[Burst]) -> [usize; 4] {
    let about = format!("{backend}, {workers} workers, {bursts:?}");
    let count: u64 = bursts.iter().map(|burst| burst.packets).sum();
    let words = format!("--workers {workers} --count {count} --duration 50s {TIMEOUTS}");
    let listener = lab.listen(backend, &words);
    for burst in bursts {
        let mut command = lab.command(Side::Sender, &[VXTAP, "send", "--to", TO_V4]);
        let sent = run(command.args(burst.words.split_whitespace()));
        assert_eq!(sent.code, Some(0), "{about}: {}", sent.stderr);
        std::thread::sleep(burst.pause);
    }
    let live = listener.wait();
    live.assert_well();
    assert_eq!(live.count("delivered"), count, "{about}: {}", live.said);
    let flows = std::fs::read_to_string(live.dir.path().join("out.jsonl")).unwrap();
    let is = counted(&flows);
    for workers in ["1", "2", "3"] {
        let capture = live.capture.to_str().unwrap();
        let flags = ["--plain", "--workers", workers];
        let replayed = replay(
            [capture]
                .into_iter()
                .chain(flags)
                .chain(TIMEOUTS.split_whitespace()),
        );
        assert_closes(&replayed.summary);
        let should = counted(&replayed.flow_lines());
        let (more, less) = (only_in(&is, &should), only_in(&should, &is));
        assert!(
            more.is_empty() && less.is_empty(),
            "{about}, replayed by {workers}\nlive only:\n{}\nreplay only:\n{}",
            more.join("\n"),
            less.join("\n")
        );
    }
    [1, 2, 3, 4].map(|reason| ended(&live.flows, reason))
}

#[test]
fn a_replay_of_what_came_gives_the_same_records() {
    let Some(lab) = Lab::new() else { return };
    let mut runner = TestRunner::deterministic();
    let mut reasons = [0; 4];
    for backend in BACKENDS {
        for workers in ["1", "2", "3"] {
            let of_run = compare(&lab, backend, workers, &bursts(&mut runner));
            for (sum, of_run) in reasons.iter_mut().zip(of_run) {
                *sum += of_run;
            }
        }
    }
    eprintln!("records by end_reason: {reasons:?}");
    assert!(reasons.iter().all(|records| *records > 0), "{reasons:?}");
}
