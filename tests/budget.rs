//! A run at its limits (`--cpu-limit`, `--disk-rate`): a part of the capture is given up, counted and told; flow records
//! are whole.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeMap;

use common::lab::{BACKENDS, Ended, Lab, TO_V4};
use common::{assert_closes, frames};

/// Sends for four seconds, far more than a limit allows for; the run has room for all of it otherwise.
fn run_at(lab: &Lab, backend: &str, limit: &str) -> (u64, Ended) {
    let mut listener = lab.listen(backend, limit);
    let sent = lab
        .generate(TO_V4, "--duration 4s --pps 1000 --flows 200")
        .sent;
    listener.wait_for(sent);
    (sent, listener.end())
}

fn number(of: &serde_json::Value) -> u64 {
    of.as_u64().unwrap_or(0)
}

#[test]
fn flow_records_are_whole_where_the_capture_is_not() {
    let Some(lab) = Lab::new() else { return };
    for (backend, limit, flag) in [
        (BACKENDS[0], "--disk-rate 50kB", "--disk-rate"),
        (BACKENDS[1], "--cpu-limit 1%", "--cpu-limit"),
    ] {
        let (sent, ended) = run_at(&lab, backend, limit);
        assert_closes(&ended.summary);
        assert_eq!(ended.summary["received"], sent, "{}", ended.said);
        let told = format!("{flag} is reached: a part of the conversations is left out");
        assert!(ended.said.contains(&told), "{backend}: {}", ended.said);
        let capture = &ended.summary["sinks"][0];
        let (written, left_out) = (
            number(&capture["written"]),
            number(&capture["dropped"]["limit"]),
        );
        assert!(left_out > 0, "{backend} {limit}: {capture}");
        assert_eq!(number(&capture["offered"]), written + left_out, "{capture}");
        let packets: u64 = ended
            .flows
            .iter()
            .map(|flow| number(&flow["pkts_o"]) + number(&flow["pkts_r"]))
            .sum();
        assert_eq!(packets, sent, "{backend} {limit}");
        // What the file says is missing is what was left out.
        let stored = frames(&std::fs::read(&ended.capture).unwrap());
        assert_eq!(stored.len() as u64, written);
    }
}

/// Within its limits a run stores everything.
#[test]
fn a_limit_that_is_not_reached_changes_nothing() {
    let Some(lab) = Lab::new() else { return };
    let mut listener = lab.listen("udp", "--cpu-limit 100% --disk-rate 1GB");
    let sent = lab.generate(TO_V4, "--count 500 --pps 500").sent;
    listener.wait_for(sent);
    let ended = listener.end();
    let capture = &ended.summary["sinks"][0];
    assert_eq!(number(&capture["written"]), sent, "{capture}");
    assert!(!ended.said.contains("is reached"), "{}", ended.said);
}

#[test]
fn limits_are_checked() {
    let refused: BTreeMap<&str, &str> = BTreeMap::from([
        ("--cpu-limit=60", "a percentage from 1% to 100% is needed"),
        ("--cpu-limit=0%", "a percentage from 1% to 100% is needed"),
        ("--cpu-limit=101%", "a percentage from 1% to 100% is needed"),
        ("--disk-rate=fast", "a size is needed"),
    ]);
    for (flag, needed) in refused {
        let done = common::vxtap(["listen", flag]);
        assert_eq!(done.code, Some(2), "{flag}: {}", done.stderr);
        assert!(done.stderr.contains(needed), "{flag}: {}", done.stderr);
    }
}
