//! `--on-rotate`: a program runs for each finished file, and whatever it does the run goes its way.
#![cfg(target_os = "linux")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::{Run, Running, assert_closes, json_lines, testdata, vxtap, vxtap_command};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory with a store `st`, a program `hook.sh` and what that leaves.
struct Place(tempfile::TempDir);

impl Place {
    /// With a program of these lines, which may use `$out`, a directory.
    fn new(lines: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.path("out")).unwrap();
        let out = place.path("out");
        let text = format!("#!/bin/sh\nout={}\n{lines}\n", out.display());
        // By another process: a file that is open for writing, in a child of another test, cannot be executed.
        let mut shell = Command::new("sh");
        shell.args(["-c", "printf %s \"$2\" > \"$1\"; chmod 700 \"$1\"", "sh"]);
        shell.arg(place.path("hook.sh")).arg(text);
        assert!(shell.status().unwrap().success());
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn flags(&self, command: &str) -> Command {
        let mut run = vxtap_command([command]);
        run.arg("-w").arg(format!("{}/", self.path("st").display()));
        run.arg("--on-rotate").arg(self.path("hook.sh"));
        run.arg("--summary").arg(self.path("s.json"));
        run
    }

    fn replay(&self, flags: &[&str]) -> Run {
        let mut command = self.flags("replay");
        common::run(command.arg(testdata("demo.pcap")).args(flags))
    }

    /// What the summary says of hooks.
    fn told(&self) -> Value {
        let summary = fs::read(self.path("s.json")).unwrap();
        let summary: Value = serde_json::from_slice(&summary).unwrap();
        assert_closes(&summary);
        summary["hooks"].clone()
    }

    fn out(&self, name: &str) -> String {
        fs::read_to_string(self.path("out").join(name)).unwrap_or_default()
    }

    /// The files that the manifest lists.
    fn listed(&self) -> Vec<Value> {
        let manifest = fs::read_to_string(self.path("st/MANIFEST.jsonl")).unwrap();
        let mut lines = json_lines(&manifest);
        lines.retain(|line| line["kind"] == "file");
        lines
    }

    /// `vxtap listen`, and the address it listens on.
    fn listen(&self, flags: &[&str]) -> (Running, String) {
        let mut command = self.flags("listen");
        command
            .args(["--backend", "udp", "--bind", "127.0.0.1:0"])
            .args(flags);
        command.stderr(fs::File::create(self.path("said")).unwrap());
        let child = Running::start(command.stdout(Stdio::null()));
        let said = || fs::read_to_string(self.path("said")).unwrap_or_default();
        wait_until(|| said().contains("listening on"));
        let said = said();
        let (_, rest) = said.split_once("listening on ").unwrap();
        (child, rest.split_once(';').unwrap().0.to_owned())
    }
}

#[track_caller]
#[allow(
    clippy::disallowed_methods,
    reason = "the limit turns a hang into a failure"
)]
fn wait_until(mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "it never came");
        thread::sleep(Duration::from_millis(5));
    }
}

fn feed(to: &str, packets: &str) {
    let words = [
        "send",
        "--to",
        to,
        "--generate",
        "--count",
        packets,
        "--pps",
        "20000",
    ];
    let sent = vxtap(words);
    assert_eq!(sent.code, Some(0), "{}", sent.stderr);
}

fn signal(child: &Running, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
}

#[test]
fn it_runs_for_each_file_and_knows_what_the_manifest_says() {
    let place = Place::new(
        "env | grep ^VXTAP_ > \"$out/$(basename \"$1\")\"; echo \"$#\" >> \"$out/number\"",
    );
    let done = place.replay(&["--rotate-packets", "50"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(
        done.stderr.contains("--on-rotate: run for 4 files\n"),
        "{}",
        done.stderr
    );
    let told = json!({"run": 4, "failed": 0, "timed_out": 0, "skipped": 0});
    assert_eq!(place.told(), told);
    assert_eq!(place.out("number"), "1\n".repeat(4));
    let listed = place.listed();
    // The last file too.
    assert_eq!((listed.len(), &listed[3]["reason"]), (4, &"end".into()));
    for line in listed {
        let name = line["name"].as_str().unwrap();
        let text = place.out(name);
        let env: BTreeMap<&str, &str> = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .collect();
        assert_eq!(
            env["VXTAP_FILE"],
            place.path("st").join(name).to_str().unwrap()
        );
        for (variable, field) in [
            ("VXTAP_FIRST_TS", "first"),
            ("VXTAP_LAST_TS", "last"),
            ("VXTAP_PACKETS", "packets"),
            ("VXTAP_BYTES", "bytes"),
            ("VXTAP_SHA256", "sha256"),
            ("VXTAP_REASON", "reason"),
        ] {
            let told = line[field]
                .as_str()
                .map_or_else(|| line[field].to_string(), str::to_owned);
            assert_eq!(env[variable], told, "{variable}");
        }
    }
}

#[test]
fn one_that_fails_changes_nothing() {
    let place = Place::new("case $1 in *_00002_*) exit 7;; *_00003_*) kill -9 $$;; esac");
    let done = place.replay(&["--rotate-packets", "50"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let told = json!({"run": 4, "failed": 2, "timed_out": 0, "skipped": 0});
    assert_eq!(place.told(), told);
    for part in [
        "exit status 7",
        "signal 9 ended it",
        "run for 4 files, 2 failed",
    ] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
}

/// A file stays as long as a program works on it or it waits for one, whatever the limits say.
#[test]
fn its_file_is_not_deleted_meanwhile() {
    let place = Place::new("sleep 0.05; test -e \"$1\" && echo there >> \"$out/there\"");
    let done = place.replay(&["--rotate-packets", "10", "--keep-files", "1"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(place.out("there"), "there\n".repeat(20), "{}", done.stderr);
    // What nobody needs any more goes.
    let st = place.path("st");
    let there = fs::read_dir(&st)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let there = there.filter(|name| name.to_string_lossy().ends_with(".pcapng"));
    assert_eq!(there.count(), 1);
}

/// Another process that deletes keeps to it too.
#[test]
fn no_other_process_deletes_its_file() {
    let place = Place::new(
        "echo > \"$out/begun\"; while ! test -e \"$out/go\"; do sleep 0.02; done; test -e \"$1\" && echo > \"$out/there\"",
    );
    let (mut child, address) = place.listen(&[]);
    feed(&address, "50");
    signal(&child, Signal::SIGUSR2);
    wait_until(|| {
        // Asked before the packets came there is nothing to end.
        signal(&child, Signal::SIGUSR2);
        place.path("out/begun").exists()
    });
    let (demo, st) = (testdata("demo.pcap"), place.path("st"));
    let other = || {
        let mut command = vxtap_command(["replay"]);
        command.arg(&demo).arg("-w").arg(&st);
        common::run(command.args(["--keep-files", "1", "--rotate-packets", "50"]))
    };
    let held = place.listed();
    assert_eq!(other().code, Some(0));
    let is_deleted = |line: &Value| {
        let manifest = fs::read_to_string(st.join("MANIFEST.jsonl")).unwrap();
        let mut lines = json_lines(&manifest).into_iter();
        lines.any(|other| other["kind"] == "deleted" && other["name"] == line["name"])
    };
    let listed = place.listed();
    assert!(!held.iter().any(is_deleted));
    // One more file of the first run may have come meanwhile.
    assert!(
        listed[held.len()..].iter().any(is_deleted),
        "one that may go"
    );
    fs::write(place.path("out/go"), "").unwrap();
    wait_until(|| place.path("out/there").exists());
    signal(&child, Signal::SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(other().code, Some(0));
    assert!(held.iter().all(is_deleted));
}

/// The lowest priority, a process group of its own, nothing of ours open, signals as they usually are.
#[test]
fn it_has_surroundings_of_its_own() {
    let place = Place::new(
        "nice > \"$out/nice\"; ls -l /proc/$$/fd > \"$out/fds\"; cat /proc/$$/stat > \"$out/stat\"\n\
         grep ^Sig /proc/self/status > \"$out/signals\"; cat > \"$out/stdin\"; echo said; echo complained >&2",
    );
    let done = place.replay(&[]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(place.out("nice"), "19\n");
    assert_eq!(place.out("stdin"), "");
    assert!(done.stdout.is_empty(), "{done:?}");
    assert!(
        done.stderr.contains("said\n") && done.stderr.contains("complained\n"),
        "{done:?}"
    );
    let fds = place.out("fds");
    assert!(
        !fds.contains("/st") && !fds.contains("socket:") && !fds.contains("anon_inode"),
        "{fds}"
    );
    let stat = place.out("stat");
    // pid (comm) state ppid pgrp
    let pid = stat.split(' ').next().unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    assert_eq!(rest.split(' ').nth(3), Some(pid), "{stat}");
    let signals = place.out("signals");
    let ignored = signals
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:\t"))
        .unwrap();
    let ignored = u64::from_str_radix(ignored, 16).unwrap();
    assert_eq!(
        ignored & (1 << (Signal::SIGPIPE as u64 - 1)),
        0,
        "{signals}"
    );
    let blocked = signals
        .lines()
        .find_map(|line| line.strip_prefix("SigBlk:\t"));
    assert_eq!(blocked, Some("0000000000000000"), "{signals}");
}

/// The run waits for what is left of it, longer than for an output that is stuck; a second signal ends at once.
#[test]
fn the_end_of_a_run_waits_for_it_and_a_second_signal_does_not() {
    let place = Place::new(
        "echo > \"$out/begun\"; while ! test -e \"$out/go\"; do sleep 0.02; done; echo > \"$out/done\"",
    );
    let (mut child, address) = place.listen(&[]);
    feed(&address, "50");
    signal(&child, Signal::SIGINT);
    wait_until(|| place.path("out/begun").exists());
    let said = || fs::read_to_string(place.path("said")).unwrap();
    wait_until(|| said().contains("waiting for 1 run of"));
    assert_eq!(child.try_wait().unwrap(), None);
    fs::write(place.path("out/go"), "").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(place.path("out/done").exists());
    assert_eq!(place.told()["run"], 1);
    for name in ["go", "begun", "done"] {
        fs::remove_file(place.path("out").join(name)).unwrap();
    }
    let (mut child, address) = place.listen(&[]);
    feed(&address, "50");
    signal(&child, Signal::SIGINT);
    wait_until(|| place.path("out/begun").exists());
    signal(&child, Signal::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(143));
    // It ends by itself.
    fs::write(place.path("out/go"), "").unwrap();
    wait_until(|| place.path("out/done").exists());
}

/// A file that a killed run left gets its turn when the next one finishes it.
#[test]
fn it_runs_for_what_a_killed_run_left() {
    let place =
        Place::new("basename \"$1\" >> \"$out/names\"; echo $VXTAP_REASON >> \"$out/reasons\"");
    let (mut child, address) = place.listen(&[]);
    feed(&address, "50");
    // What has come is written at once, since nothing else does.
    wait_until(|| {
        let entries = fs::read_dir(place.path("st")).unwrap();
        let mut parts = entries.map(|entry| entry.unwrap());
        parts.any(|part| {
            let name = part.file_name().into_string().unwrap();
            name.ends_with(".part") && part.metadata().is_ok_and(|meta| meta.len() > 2000)
        })
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(place.replay(&[]).code, Some(0));
    // Two run at a time.
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&place.out("reasons")), ["end", "recovered"]);
    let listed = place.listed();
    let names = listed.iter().map(|line| line["name"].as_str().unwrap());
    assert!(sorted(&place.out("names")).iter().eq(names), "{listed:?}");
}

/// The names of the files that `names` says, one a line, and those that are listed, both sorted.
fn sorted<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names
}

/// A kill before its end leaves a file without its hook, or without the end of it: the next run with a hook sees to
/// that, and another run that goes on meanwhile does not.
#[test]
fn what_a_killed_run_did_not_get_to_is_done_at_the_next_start() {
    let place = Place::new(
        "basename \"$1\" >> \"$out/begun\"\n\
         test $VXTAP_REASON = end && exit\n\
         while ! test -e \"$out/go\"; do sleep 0.02; done",
    );
    let name = |line: &Value| line["name"].as_str().unwrap().to_owned();
    let marks = || {
        let entries = fs::read_dir(place.path("st")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let marks = names.filter_map(|name| Some(name.strip_suffix(".hook")?[1..].to_owned()));
        marks.collect::<BTreeSet<String>>()
    };
    let (mut child, address) = place.listen(&["--rotate-packets", "10"]);
    feed(&address, "60");
    // Two run, and others wait for them.
    wait_until(|| place.out("begun").lines().count() == 2 && place.listed().len() >= 4);
    let began = place.out("begun");
    fs::remove_file(place.path("out/begun")).unwrap();
    // Another run leaves to this one what is this one's.
    let before = place.listed().len();
    assert_eq!(place.replay(&[]).code, Some(0));
    let of_other = place.out("begun");
    let lines: Vec<&str> = of_other.lines().collect();
    assert_eq!(lines.len(), 1, "{of_other}");
    child.kill().unwrap();
    child.wait().unwrap();
    let listed = place.listed();
    assert!(listed.len() > before);
    let due: BTreeSet<String> = listed
        .iter()
        .map(name)
        .filter(|name| *name != lines[0])
        .collect();
    assert!(began.lines().all(|name| due.contains(name)));
    assert!(marks().is_superset(&due), "{:?} {due:?}", marks());
    // One without a hook changes nothing but that what it deletes is due no more.
    let mut command = vxtap_command(["replay"]);
    command
        .arg(testdata("demo.pcap"))
        .arg("-w")
        .arg(place.path("st"));
    let keep = (listed.len() - 1).to_string();
    assert_eq!(
        common::run(command.args(["--keep-files", &keep])).code,
        Some(0)
    );
    let manifest = fs::read_to_string(place.path("st/MANIFEST.jsonl")).unwrap();
    let lines = json_lines(&manifest).into_iter();
    let deleted: Vec<String> = lines
        .filter(|line| line["kind"] == "deleted")
        .map(|line| name(&line))
        .collect();
    assert!(!deleted.is_empty());
    let still_due: BTreeSet<String> = due
        .into_iter()
        .filter(|due| !deleted.contains(due))
        .collect();
    assert_eq!(marks(), still_due);
    // What it finished, which the killed run had begun, is none of its business.
    fs::write(place.path("out/go"), "").unwrap();
    fs::remove_file(place.path("out/begun")).unwrap();
    assert_eq!(place.replay(&[]).code, Some(0));
    let begun = place.out("begun");
    let listed = place.listed();
    let last = name(&listed[listed.len() - 1]);
    let expected = still_due.iter().map(String::as_str).chain([last.as_str()]);
    assert_eq!(sorted(begun.lines()), sorted(expected));
    assert!(marks().is_empty(), "{:?}", marks());
}
