//! Several processes in one directory, at the moment of a rotation: between the last write to a file and the first one
//! to the next, at each system call in between.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests end with a panic"
)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::shim::{Point, Shim};
use common::store::{Place, assert_sound, wait_until};
use common::{Running, json_lines, testdata, vxtap, vxtap_command};
use serde_json::Value;

/// Mirrored packets in the demo.
const PACKETS: u64 = 198;

/// The system calls of a rotation, in their order, and whether the directory is locked meanwhile.
const CALLS: [(&str, &str, bool); 11] = [
    ("write", "capture", false),
    ("fsync", "capture", false),
    ("open", "index", false),
    ("write", "index", false),
    ("fsync", "index", false),
    ("rename", "index", false),
    ("write", "manifest", true),
    ("fsync", "manifest", true),
    ("rename", "capture", false),
    ("fsync", "directory", false),
    ("open", "capture", true),
];

/// `vxtap replay` of the demo into the store of `place`, in files of 40 packets.
fn replaying(place: &Place, flags: &[&str]) -> Command {
    replaying_in(place, &[&["--rotate-packets", "40"], flags].concat())
}

fn replaying_in(place: &Place, flags: &[&str]) -> Command {
    let mut command = vxtap_command(["replay"]);
    command.arg(testdata("demo.pcap"));
    command
        .arg("-w")
        .arg(format!("{}/", place.store().display()));
    command.args(["--keep-bytes", "none"]);
    command.arg("--summary").arg(place.0.path().join("s.json"));
    command.args(flags);
    command
}

fn lines(store: &Path) -> Vec<Value> {
    let manifest = fs::read_to_string(store.join("MANIFEST.jsonl"));
    json_lines(&manifest.unwrap_or_default())
}

fn verdict(store: &Path) -> Value {
    let done = vxtap(["verify", "--json", store.to_str().unwrap()]);
    serde_json::from_slice(&done.stdout).unwrap_or_else(|_| panic!("{}", done.stderr))
}

#[track_caller]
fn verify(store: &Path) -> Value {
    let told = verdict(store);
    assert_eq!(told["proven"], true, "{told}");
    told
}

/// One process stands still in the middle of a rotation, and another one begins, rotates, deletes and ends.
#[test]
fn another_process_while_one_is_in_the_middle_of_a_rotation() {
    std::thread::scope(|scope| {
        for (call, file, is_locked) in CALLS {
            for ends in ["goes on", "is killed"] {
                let point = Point { call, file, at: 3 };
                scope.spawn(move || meet_at(point, is_locked, ends));
            }
        }
    });
}

fn meet_at(point: Point, is_locked: bool, ends: &str) {
    let Some(shim) = Shim::new() else {
        return;
    };
    let what = format!("{point:?}, one {ends}");
    let (place, other) = (Place::new(), Place::new());
    fs::create_dir(place.store()).unwrap();
    std::os::unix::fs::symlink(place.store(), other.store()).unwrap();
    let mut command = replaying(&place, &[]);
    shim.load(&mut command, &place.store(), point, "waits");
    let said = place.0.path().join("said");
    command
        .stderr(fs::File::create(&said).unwrap())
        .stdout(Stdio::null());
    let mut one = Running::start(&mut command);
    wait_until(|| shim.mark().exists() || one.try_wait().unwrap().is_some());
    assert!(shim.mark().exists(), "{what}: {}", place.said());
    verify(&place.store());
    let done = common::run(&mut replaying(&other, &["--keep-files", "3"]));
    if is_locked {
        assert_eq!(done.code, Some(1), "{what}: {}", done.stderr);
        let part = "another process holds .vxtap.lock";
        assert!(done.stderr.contains(part), "{what}: {}", done.stderr);
    } else {
        assert_eq!(done.code, Some(0), "{what}: {}", done.stderr);
        assert!(
            !done.stderr.contains("was not deleted by vxtap"),
            "{what}: {}",
            done.stderr
        );
        assert_eq!(other.summary()["sinks"][0]["written"], PACKETS, "{what}");
    }
    verify(&place.store());
    if ends == "is killed" {
        one.kill().unwrap();
        one.wait().unwrap();
        let last = common::run(&mut replaying(&place, &[]));
        assert_eq!(last.code, Some(0), "{what}: {}", last.stderr);
    } else {
        shim.go_on();
        assert_eq!(
            one.wait().unwrap().code(),
            Some(0),
            "{what}: {}",
            place.said()
        );
    }
    assert_eq!(place.summary()["sinks"][0]["written"], PACKETS, "{what}");
    assert_eq!(
        verify(&place.store())["notes"],
        Value::Array(vec![]),
        "{what}"
    );
    let mut numbers = BTreeSet::new();
    for line in lines(&place.store())
        .iter()
        .filter(|line| line["kind"] == "file")
    {
        let name = line["name"].as_str().unwrap();
        assert!(
            numbers.insert(name[..11].to_owned()),
            "{what}: {name} twice"
        );
    }
    // A third run counts what both have left.
    let last = common::run(&mut replaying(&place, &["--keep-files", "3"]));
    assert_eq!(last.code, Some(0), "{what}: {}", last.stderr);
    assert_eq!(assert_sound(&place.store()).len(), 3, "{what}");
}

/// A file for every packet or two, in three processes at once, with what they write packed or not; another one is
/// killed now and then, and a fourth looks whether all that is proven.
#[test]
fn rotations_of_several_processes_meet_all_the_time() {
    for (compress, keep) in [
        ("none", "1000"),
        ("none", "5"),
        ("gzip", "1000"),
        ("zstd", "5"),
    ] {
        let what = format!("{compress}, {keep} files");
        let places = [Place::new(), Place::new(), Place::new(), Place::new()];
        let store = places[0].store();
        fs::create_dir(&store).unwrap();
        for place in &places[1..] {
            std::os::unix::fs::symlink(&store, place.store()).unwrap();
        }
        let flags = [
            "--rotate-packets",
            "2",
            "--compress",
            compress,
            "--keep-files",
            keep,
        ];
        let start = |place: &Place| {
            let mut command = replaying_in(place, &flags);
            let said = fs::File::create(place.0.path().join("said")).unwrap();
            Running::start(
                command
                    .args(["--fsync", "never"])
                    .stdout(Stdio::null())
                    .stderr(said),
            )
        };
        let mut runs = [0, 1, 2].map(|number| start(&places[number]));
        let mut killed = start(&places[3]);
        let mut looks = 0;
        wait_until(|| store.join("MANIFEST.jsonl").exists());
        loop {
            let is_over = runs.iter_mut().all(|run| run.try_wait().unwrap().is_some());
            verify(&store);
            looks += 1;
            if is_over {
                break;
            }
            let _ = killed.kill();
            killed.wait().unwrap();
            killed = start(&places[3]);
        }
        let _ = killed.wait().unwrap();
        for (run, place) in runs.iter_mut().zip(&places) {
            assert_eq!(
                run.wait().unwrap().code(),
                Some(0),
                "{what}: {}",
                place.said()
            );
            assert_eq!(place.summary()["sinks"][0]["written"], PACKETS, "{what}");
        }
        // What killed ones left is finished by the next.
        let last = common::run(&mut replaying_in(&places[0], &flags));
        assert_eq!(last.code, Some(0), "{what}: {}", last.stderr);
        let told = verify(&store);
        assert_eq!(told["notes"], Value::Array(vec![]), "{what}");
        let lines = lines(&store);
        let files = lines.iter().filter(|line| line["kind"] == "file");
        let numbers: BTreeSet<&str> = files
            .clone()
            .map(|line| &line["name"].as_str().unwrap()[..11])
            .collect();
        assert_eq!(
            numbers.len(),
            files.clone().count(),
            "{what}: a number twice"
        );
        let of_runs = |line: &&Value| line["reason"] != "recovered";
        let finished: u64 = files
            .filter(of_runs)
            .map(|line| line["packets"].as_u64().unwrap())
            .sum();
        assert!(finished >= 4 * PACKETS, "{what}: {finished}");
        if keep == "5" {
            assert_eq!(told["files"], 5, "{what}");
        }
        assert!(looks > 1, "{what}");
    }
}
