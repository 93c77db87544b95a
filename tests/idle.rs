//! A run that nothing comes to hardly ever wakes up, and is there at once for packets and questions.
#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    reason = "how often something happens is told by a time"
)]

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::assert_closes;
use common::listening::{Listening, SOON};

/// How often the threads of `pid` went to sleep so far, those that ask and answer left out.
fn sleeps(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_task = |task: fs::DirEntry| {
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        if ["vxtap-control", "vxtap-disks"].contains(&name.trim()) {
            return None;
        }
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let count = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count?.trim().parse::<u64>().ok()
    };
    tasks.filter_map(|task| of_task(task.unwrap())).sum()
}

/// A second behind the last packet workers doze; the first packet and each question find them at once.
fn dozes(way: &str) {
    let listening = Listening::start_on(way, "-w DIR/c.pcapng --flows DIR/f.jsonl", |_| {});
    let pid = listening.child.id();
    for round in 1..=2 {
        std::thread::sleep(Duration::from_millis(1500));
        let (before, begun) = (sleeps(pid), Instant::now());
        std::thread::sleep(Duration::from_secs(2));
        let (slept, elapsed) = (sleeps(pid) - before, begun.elapsed().as_secs_f64());
        // Two workers, two writers; 130 a second before they dozed.
        let a_second = slept as f64 / elapsed;
        assert!(a_second < 80.0, "{a_second:.0} a second: {way}");
        let asked = Instant::now();
        assert_eq!(listening.json()["health"]["healthy"], true);
        assert!(asked.elapsed() < SOON);
        let flags = "--generate --count 200 --pps 20000 --flows 50 --source-ports 16";
        listening.send(flags);
        listening.wait(|status| status["received"] == 200 * round);
    }
    let (code, said, summary) = listening.end();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(summary["delivered"], 400);
    assert_eq!(summary["noted"]["late"].as_u64().unwrap_or_default(), 0);
    assert_closes(&summary);
}

#[test]
fn workers_with_sockets_doze() {
    dozes("--bind 127.0.0.1:0 --backend udp --workers 2");
}

#[test]
fn workers_with_a_ring_doze() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: a packet ring needs root");
    }
    dozes("--bind 127.0.0.1:0 --backend packet --interface lo --workers 2");
}
