//! The memory that `listen` prints at its start is the truth, the end of a run included: there all flows are
//! alive, and their records are made.
//!
//! The only test of this file, for what is measured is the largest of all programs that it ran.
#![cfg(target_os = "linux")]

mod common;

use std::fs::File;
use std::io::{BufRead, BufReader};

use common::vxtap;
use nix::sys::resource::{UsageWho, getrusage};

/// Enough that copies of the table at the end would not find room in what the rest of the line stands for.
const FLOWS: &str = "524288";

/// The bytes behind `words`, as "1.25 MB".
fn bytes_behind(said: &str, words: &str) -> u64 {
    let (_, rest) = said.split_once(words).unwrap_or_else(|| panic!("{said}"));
    let mut rest = rest.split_whitespace();
    let number: f64 = rest.next().unwrap().parse().unwrap();
    let unit = match rest.next() {
        Some("kB") => 1e3,
        Some("MB") => 1e6,
        Some("GB") => 1e9,
        unit => panic!("{unit:?} in {said}"),
    };
    (number * unit) as u64
}

/// A table that is full to its last flow.
#[test]
fn the_end_takes_no_more_than_is_printed() {
    if std::env::var("RUSTFLAGS").is_ok_and(|flags| flags.contains("sanitizer")) {
        eprintln!("skipped: a sanitizer takes memory of its own");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (input, records) = (path("in.pcap"), path("f.jsonl"));
    let made = vxtap([
        "send",
        "--generate",
        "--flows",
        FLOWS,
        "--count",
        FLOWS,
        "--frame-size",
        "64",
        "--write",
        &input,
    ]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    for workers in ["1", "2"] {
        let shared = ["--workers", workers, "--max-flows", FLOWS];
        let unused = path("unused.jsonl");
        let mut listen = vec!["listen", "--backend", "udp", "--bind", "127.0.0.1:0"];
        listen.extend(["--duration", "1ms", "--flows", &unused]);
        let printed = vxtap(listen.into_iter().chain(shared));
        let printed = bytes_behind(&printed.stderr, "at most ");
        let replay = ["replay", &input, "--flows", &records];
        let replayed = vxtap(replay.into_iter().chain(shared));
        assert_eq!(replayed.code, Some(0), "{}", replayed.stderr);
        // Not read at once: what this test itself takes counts, as long as the programs it starts share it.
        let lines = BufReader::new(File::open(&records).unwrap())
            .lines()
            .count();
        assert_eq!(lines.to_string(), FLOWS, "every flow lived to the end");
        let children = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
        let taken = children.max_rss() as u64 * 1024;
        assert!(taken > 50_000_000, "{taken} bytes are no full table");
        assert!(
            taken <= printed,
            "{workers} workers: {taken} bytes taken, {printed} printed"
        );
    }
}
