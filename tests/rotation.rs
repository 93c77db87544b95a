//! Faults at the moment of a rotation: between the last write to a file and the first one to the next, at each system
//! call in between. And two processes whose rotations meet.
#![cfg(target_os = "linux")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::shim::{Point, Shim};
use common::store::{Place, assert_sound, packets, wait_until};
use common::{Frame, Run, Running, frames, json_lines, testdata, vxtap, vxtap_command};
use serde_json::Value;

/// What is said where a line could not be written until the end.
const NO_LINE: &str = "the manifest lacks the line of a file that was deleted";

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

/// Those of the first rotation and of a later one. The first write is that of the header, and each file has three.
fn points() -> impl Iterator<Item = Point> {
    CALLS.into_iter().flat_map(|(call, file, _)| {
        let at = match (call, file) {
            ("write", "capture") => &[1, 2, 3, 8, 9][..],
            // Of the index, and of its file.
            ("fsync", "directory") => &[1, 2, 6],
            _ => &[1, 3],
        };
        at.iter().map(move |at| Point {
            call,
            file,
            at: *at,
        })
    })
}

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

/// The whole lines of the manifest.
fn lines(store: &Path) -> Vec<Value> {
    let manifest = fs::read_to_string(store.join("MANIFEST.jsonl")).unwrap_or_default();
    json_lines(manifest.rsplit_once('\n').map_or("", |(whole, _)| whole))
}

/// Packets that the manifest says were finished.
fn finished(store: &Path) -> u64 {
    let lines = lines(store);
    let sum = |kind: &str| {
        let of_kind = lines.iter().filter(|line| line["kind"] == kind);
        of_kind
            .map(|line| line["packets"].as_u64().unwrap())
            .sum::<u64>()
    };
    sum("file")
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

/// How often each packet is in the files of a store.
fn seen(store: &Path) -> BTreeMap<(u128, Vec<u8>), u64> {
    let mut seen = BTreeMap::new();
    for entry in fs::read_dir(store).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "pcapng") {
            for Frame { ts_ns, bytes, .. } in frames(&fs::read(path).unwrap()) {
                *seen.entry((ts_ns, bytes)).or_default() += 1;
            }
        }
    }
    seen
}

/// Lets something happen at each point, in turn, with a store of its own; then the disk is well again, and another run
/// puts everything in order.
fn at_each_point(does: &[&str], flags: &[&str], mut check: impl FnMut(&Place, &Run, Point, &str)) {
    let Some(shim) = Shim::new() else {
        return;
    };
    let demo = common::replay_testdata("demo.pcap", &[]);
    let all: BTreeSet<(u128, Vec<u8>)> = demo
        .frames()
        .into_iter()
        .map(|frame| (frame.ts_ns, frame.bytes))
        .collect();
    assert_eq!(all.len() as u64, PACKETS, "no two are the same");
    for does in does {
        for point in points() {
            let what = format!("{does} at {point:?}");
            let place = Place::new();
            let mut command = replaying(&place, flags);
            shim.load(&mut command, &place.store(), point, does);
            let done = common::run(&mut command);
            for bad in ["panicked", "defect"] {
                assert!(!done.stderr.contains(bad), "{what}: {}", done.stderr);
            }
            check(&place, &done, point, does);
            let again = common::run(&mut replaying(&place, &[]));
            assert_eq!(again.code, Some(0), "{what}: {}", again.stderr);
            assert_eq!(place.summary()["sinks"][0]["written"], PACKETS, "{what}");
            let store = place.store();
            if done.stderr.contains(NO_LINE) {
                // Of one file that went to make room, and there was none for its line as long as it ran.
                assert_eq!(*does, "full-for-good", "{what}: {}", done.stderr);
                let told = verdict(&store);
                let faults = told["faults"].as_array().unwrap();
                let whys: Vec<&str> = faults
                    .iter()
                    .map(|fault| fault["why"].as_str().unwrap())
                    .collect();
                assert_eq!(whys, ["missing"], "{what}: {told}");
            } else {
                // Half of a header could not be removed, and is no capture.
                let is_header = (*does, point.call, point.file) == ("readonly", "write", "capture");
                let told = verify(&store);
                let mut notes = told["notes"].as_array().unwrap().iter();
                assert!(
                    notes.all(|note| is_header && note["why"] == "quarantined"),
                    "{what}: {told}"
                );
            }
            // All of the second run, of the first what was kept, and nothing else.
            let seen = seen(&store);
            assert!(seen.keys().eq(&all), "{what}");
            assert!(seen.values().all(|times| *times <= 2), "{what}");
            for entry in fs::read_dir(&store).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(!name.ends_with(".part"), "{what}: {name}");
                if let Some(file) = name.strip_suffix(".idx") {
                    let line = |line: &Value| line["name"] == file && line["index"]["name"] == name;
                    assert!(lines(&store).iter().any(line), "{what}: {name}");
                }
            }
        }
    }
}

/// A run that went to its end: what it says that it wrote is there, and the rest is counted, with a reason told.
fn assert_accounted(place: &Place, done: &Run, what: &str) {
    assert!(matches!(done.code, Some(0 | 1)), "{what}: {done:?}");
    let sink = &place.summary()["sinks"][0];
    let dropped = sink["dropped"].as_object().unwrap();
    let lost = dropped.get("disk").map_or(0, |disk| disk.as_u64().unwrap());
    assert!(
        dropped.keys().all(|reason| reason == "disk"),
        "{what}: {sink}"
    );
    assert_eq!(
        sink["written"].as_u64().unwrap() + lost,
        PACKETS,
        "{what}: {sink}"
    );
    let is_told = done.stderr.contains("ERROR") || done.code == Some(1);
    assert!(lost == 0 || is_told, "{what}: {}", done.stderr);
    // A line may be there for a file that could not get its name; what the next run finishes counts as lost.
    assert!(
        sink["written"].as_u64().unwrap() <= finished(&place.store()),
        "{what}: {sink}"
    );
}

/// One call fails, as a disk with a bad block or without room for a moment does.
#[test]
fn a_call_that_fails_once() {
    at_each_point(&["once:5", "once:28"], &[], |place, done, point, does| {
        assert_accounted(place, done, &format!("{does} at {point:?}"));
    });
}

/// The disk is full from that call on, and deleting a file makes room.
#[test]
fn a_disk_that_becomes_full() {
    at_each_point(&["full"], &[], |place, done, point, _| {
        let what = format!("full at {point:?}");
        assert_accounted(place, done, &what);
        let deleted = lines(&place.store());
        let mut deleted = deleted.iter().filter(|line| line["kind"] == "deleted");
        // Two files are finished by then, in this thread: one of them makes room for what tells of the third.
        if point.at == 3 && ["index", "manifest"].contains(&point.file) {
            assert_eq!(place.summary()["sinks"][0]["written"], PACKETS, "{what}");
        }
        assert!(deleted.all(|line| line["because"] == "disk_full"), "{what}");
    });
}

/// The disk stays full.
#[test]
fn a_disk_that_stays_full() {
    for on_full in ["delete-oldest", "drop", "exit"] {
        at_each_point(
            &["full-for-good"],
            &["--on-full", on_full],
            |place, done, point, _| {
                let what = format!("{on_full}: full at {point:?}");
                assert_accounted(place, done, &what);
                if on_full == "drop" {
                    let lines = lines(&place.store());
                    assert!(lines.iter().all(|line| line["kind"] != "deleted"), "{what}");
                }
            },
        );
    }
}

#[test]
fn a_disk_that_turns_read_only() {
    for on_full in ["delete-oldest", "exit"] {
        at_each_point(
            &["readonly"],
            &["--on-full", on_full],
            |place, done, point, _| {
                assert_accounted(place, done, &format!("{on_full}: read-only at {point:?}"));
            },
        );
    }
}

/// What was finished before is gone with it, and counts as written.
#[test]
fn a_directory_that_is_deleted() {
    at_each_point(&["deleted"], &[], |place, done, point, _| {
        let what = format!("deleted at {point:?}");
        assert!(matches!(done.code, Some(0 | 1)), "{what}: {done:?}");
        let sink = &place.summary()["sinks"][0];
        assert_eq!(sink["offered"], PACKETS, "{what}");
    });
}

#[test]
fn a_process_that_is_killed() {
    at_each_point(&["killed"], &[], |_, done, point, _| {
        assert_eq!(done.code, None, "{point:?}: {}", done.stderr);
    });
}

/// It costs nothing in a replay, which waits.
#[test]
fn a_disk_that_becomes_slow() {
    let Some(shim) = Shim::new() else {
        return;
    };
    for (call, file, _) in CALLS {
        let place = Place::new();
        let mut command = replaying(&place, &[]);
        let point = Point { call, file, at: 1 };
        shim.load(&mut command, &place.store(), point, "slow");
        let done = common::run(&mut command);
        assert_eq!(done.code, Some(0), "{point:?}: {}", done.stderr);
        assert_eq!(
            packets(&assert_sound(&place.store())).iter().sum::<u64>(),
            PACKETS
        );
    }
}

/// Nobody who receives waits for a disk that is slow to name files and to begin others.
#[test]
fn a_disk_that_becomes_slow_holds_no_packets_up() {
    let Some(shim) = Shim::new() else {
        return;
    };
    for call in ["fsync", "rename", "open"] {
        let place = Place::new();
        fs::create_dir(place.store()).unwrap();
        let point = Point {
            call,
            file: "any",
            at: 1,
        };
        let listening = place.listen_as(&["--rotate-packets", "1000"], |command| {
            shim.load(command, &place.store(), point, "slow");
        });
        listening.feed(20_000, 50_000);
        listening.end();
        let written: u64 = packets(&assert_sound(&place.store())).iter().sum();
        let sink = &place.summary()["sinks"][0];
        let queue = sink["dropped"]["queue"].as_u64().unwrap_or_default();
        assert_eq!(sink["written"], written, "{call}");
        assert_eq!(sink["offered"], written + queue, "{call}: {sink}");
    }
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
