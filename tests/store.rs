//! A store: capture files that follow each other in a directory, never more than its limits, whole after any end.
#![cfg(target_os = "linux")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use common::store::{
    Listening, Over, Place, Small, assert_sound, bytes_in, packets, sequences, wait_until,
};
use common::{frames, json_lines, testdata, vxtap};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Replays the demo, which has 198 mirrored packets in eight seconds, into a store.
fn replay(flags: &[&str]) -> (Place, BTreeMap<String, Value>) {
    let place = Place::new();
    // The name says that it is a directory.
    let dir = format!("{}/", place.store().display());
    let demo = testdata("demo.pcap");
    let summary = place.0.path().join("s.json");
    let words = ["replay", demo.to_str().unwrap(), "-w", &dir, "--summary"];
    let words = words.into_iter().chain([summary.to_str().unwrap()]);
    let done = vxtap(words.chain(flags.iter().copied()));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let sink = &place.summary()["sinks"][0];
    assert_eq!(
        (&sink["offered"], &sink["written"]),
        (&198.into(), &198.into())
    );
    let files = assert_sound(&place.store());
    (place, files)
}

#[test]
fn files_end_where_they_are_told_to() {
    let (_, files) = replay(&["--rotate-packets", "60"]);
    assert_eq!(packets(&files), [60, 60, 60, 18]);
    assert_eq!(sequences(&files), [1, 2, 3, 4]);
    let first = files.keys().next().unwrap();
    // 2026-01-15 09:30:00 is the time of the first packet.
    assert_eq!(first, "vxtap_00001_20260115093000.pcapng");
    let (_, files) = replay(&["--rotate-size", "15kB", "--prefix", "vxtap-x"]);
    for (name, line) in &files {
        assert!(line["bytes"].as_u64().unwrap() <= 15_000, "{name}");
        assert_eq!(
            line["reason"] == "end",
            name == files.keys().last().unwrap()
        );
    }
    assert!(files.len() >= 6, "{files:?}");
    let (_, files) = replay(&["--rotate-interval", "3s"]);
    for line in files.values() {
        let second = |name: &str| line[name].as_str().unwrap()[17..19].parse::<u64>().unwrap();
        assert_eq!(second("first") / 3, second("last") / 3, "{line}");
    }
    let (_, files) = replay(&["--rotate-duration", "1500ms"]);
    assert!(files.len() >= 3, "{files:?}");
}

/// Each packet of a session of its own: interfaces and their statistics take more room than packets.
#[test]
fn descriptions_of_many_sessions_count_too() {
    let place = Place::new();
    let (input, dir) = (place.0.path().join("in.pcap"), place.store());
    let mut capture = fs::read(testdata("demo.pcap")).unwrap()[..24].to_vec();
    for vni in 1..=400_u16 {
        let mut datagram = mirrored();
        datagram[5..7].copy_from_slice(&vni.to_be_bytes());
        let udp_len = 8 + datagram.len() as u16;
        let mut packet = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0];
        packet.extend((20 + udp_len).to_be_bytes());
        packet.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend([0xc3, 0x50, 0x12, 0xb5]);
        packet.extend(udp_len.to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(datagram);
        let len = packet.len() as u32;
        capture.extend(
            [1_700_000_000, 0, len, len]
                .map(u32::to_le_bytes)
                .as_flattened(),
        );
        capture.extend(packet);
    }
    fs::write(&input, capture).unwrap();
    fs::create_dir(&dir).unwrap();
    let words = [
        "replay",
        input.to_str().unwrap(),
        "-w",
        dir.to_str().unwrap(),
    ];
    let done = vxtap(words.into_iter().chain(["--rotate-size", "20kB"]));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let files = assert_sound(&dir);
    assert_eq!(packets(&files).iter().sum::<u64>(), 400);
    for (name, line) in &files {
        assert!(line["bytes"].as_u64().unwrap() <= 20_000, "{name}: {line}");
    }
}

#[test]
fn sessions_have_files_of_their_own() {
    let (place, files) = replay(&["--split", "session"]);
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "vxtap-vni101-10.0.1.11_00001_20260115093000.pcapng",
            "vxtap-vni101-10.0.1.12_00001_20260115093000.pcapng",
            "vxtap-vni202-10.0.2.21_00001_20260115093002.pcapng",
        ]
    );
    for name in names {
        let bytes = fs::read(place.store().join(name)).unwrap();
        let of_file: BTreeSet<String> = frames(&bytes).into_iter().map(|f| f.interface).collect();
        assert_eq!(of_file.len(), 1, "{name}");
    }
    // One file at a time: each change of VNI ends one.
    let (_, few) = replay(&["--split", "vni", "--max-open-files", "1"]);
    assert!(few.len() > 2 && few.values().any(|line| line["reason"] == "open_files"));
}

#[test]
fn flow_records_follow_each_other_too() {
    let expected = common::replay_testdata("demo.pcap", &[]).flows;
    for workers in ["1", "2"] {
        let place = Place::new();
        let dir = format!("{}/", place.store().display());
        let demo = testdata("demo.pcap");
        let words = [
            "replay",
            demo.to_str().unwrap(),
            "-w",
            &dir,
            "--flows",
            &dir,
        ];
        let flags = ["--rotate-interval", "3s", "--whole-flows"];
        let flags = flags.into_iter().chain(["--workers", workers]);
        let done = vxtap(words.into_iter().chain(flags));
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        let files = assert_sound(&place.store());
        let names = files.keys().filter(|name| name.ends_with(".jsonl"));
        let names: Vec<&String> = names.collect();
        assert_eq!(names[0], "vxtap-flows_00001_20260115093000.jsonl");
        assert_eq!((names.len(), files.len()), (3, 6));
        let read = |name: &&String| fs::read_to_string(place.store().join(name)).unwrap();
        let together: String = names.iter().map(read).collect();
        let mut told = json_lines(&together);
        for flow in &mut told {
            // Where its first packet lies: in a store elsewhere than in one file.
            let flow = flow.as_object_mut().unwrap();
            assert!(flow.remove("first_file").is_some() && flow.remove("first_off").is_some());
        }
        assert_eq!(told, expected, "{workers} workers");
    }
}

/// What a killed run left of a flow file is cut back to its last whole record.
#[test]
fn flow_files_of_a_killed_run_are_finished() {
    let place = Place::new();
    let store = place.store();
    fs::create_dir(&store).unwrap();
    let flows = place.0.path().join("f.jsonl");
    let demo = testdata("demo.pcap");
    let words = [
        "replay",
        demo.to_str().unwrap(),
        "--flows",
        flows.to_str().unwrap(),
    ];
    assert_eq!(vxtap(words).code, Some(0));
    let flows = fs::read_to_string(&flows).unwrap();
    let left = store.join(".vxtap-flows_00004_20260115093000.jsonl.part");
    fs::write(left, &flows[..flows.len() - 7]).unwrap();
    fs::write(
        store.join(".vxtap-flows_00005_20260115093000.jsonl.part"),
        "{\"ts",
    )
    .unwrap();
    let words = [
        "replay",
        demo.to_str().unwrap(),
        "--flows",
        store.to_str().unwrap(),
    ];
    assert_eq!(vxtap(words).code, Some(0));
    let files = assert_sound(&store);
    let records = flows.lines().count() as u64;
    assert_eq!(packets(&files), [records - 1, records]);
    assert_eq!(sequences(&files), [4, 5]);
    assert_eq!(files.values().next().unwrap()["reason"], "recovered");
}

#[test]
fn a_store_goes_on_behind_the_last_file_and_keeps_what_it_may() {
    let place = Place::new();
    let store = place.store();
    fs::create_dir(&store).unwrap();
    // By its name it could be one of a store.
    let foreign = ["notes.txt", "vxtapp_00001_20200101000000.pcapng"];
    for name in foreign {
        fs::write(store.join(name), "foreign").unwrap();
    }
    for _ in 0..3 {
        let demo = testdata("demo.pcap");
        let words = [
            "replay",
            demo.to_str().unwrap(),
            "--rotate-packets",
            "50",
            "--keep-files",
            "5",
            "-w",
        ];
        let done = vxtap(words.into_iter().chain([store.to_str().unwrap()]));
        assert_eq!(done.code, Some(0), "{}", done.stderr);
    }
    for name in foreign {
        assert_eq!(fs::read(store.join(name)).unwrap(), b"foreign");
        fs::remove_file(store.join(name)).unwrap();
    }
    assert_eq!(sequences(&assert_sound(&store)), [8, 9, 10, 11, 12]);
    let manifest = fs::read_to_string(store.join("MANIFEST.jsonl")).unwrap();
    let deleted = json_lines(&manifest)
        .into_iter()
        .filter(|line| line["kind"] == "deleted");
    assert!(deleted.clone().all(|line| line["because"] == "keep_files"));
    assert_eq!(deleted.count(), 7);
}

#[test]
fn flags_of_a_store_need_one() {
    let demo = testdata("demo.pcap");
    let place = Place::new();
    let file = place.0.path().join("a.pcapng");
    let words = [
        "replay",
        demo.to_str().unwrap(),
        "-w",
        file.to_str().unwrap(),
    ];
    for flags in [
        &["--keep-files", "3"][..],
        &["--split", "vni"],
        &["--rotate-size", "1MB"],
    ] {
        let done = vxtap(words.iter().chain(flags));
        assert_eq!(done.code, Some(2), "{}", done.stderr);
        assert!(
            done.stderr
                .contains(&format!("{} is for a store", flags[0])),
            "{}",
            done.stderr
        );
        assert!(!file.exists());
    }
    let dir = place.0.path().to_str().unwrap();
    let words = [
        "replay",
        demo.to_str().unwrap(),
        "-w",
        dir,
        "--keep-bytes",
        "3MB",
    ];
    let done = vxtap(words.into_iter().chain(["--rotate-size", "2MB"]));
    assert_eq!(done.code, Some(2));
    assert!(
        done.stderr.contains("too much for --keep-bytes"),
        "{}",
        done.stderr
    );
}

#[test]
fn files_end_when_somebody_asks() {
    let place = Place::new();
    let listening = place.listen(&[]);
    for round in 1..=3 {
        listening.feed(100, 50_000);
        let manifest = || fs::read_to_string(place.store().join("MANIFEST.jsonl")).unwrap();
        // Asked before the packets came there is nothing to end.
        wait_until(|| {
            listening.signal(Signal::SIGUSR2);
            let packets = json_lines(&manifest())
                .iter()
                .map(|line| line["packets"].as_u64().unwrap())
                .sum::<u64>();
            packets == round * 100
        });
    }
    listening.end();
    let files = assert_sound(&place.store());
    assert_eq!(packets(&files).iter().sum::<u64>(), 300);
    assert!(
        files.values().all(|line| line["reason"] == "asked"),
        "{files:?}"
    );
}

/// A service has no terminal that could hang up.
#[test]
fn a_hangup_without_a_terminal_ends_files_and_not_the_run() {
    let place = Place::new();
    let listening = place.listen_as(&[], |command| {
        let words: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let mut service = Command::new("setsid");
        service.arg(command.get_program()).args(words);
        *command = service;
    });
    listening.feed(100, 50_000);
    wait_until(|| {
        listening.signal(Signal::SIGHUP);
        fs::read_to_string(place.store().join("MANIFEST.jsonl"))
            .unwrap()
            .contains("asked")
    });
    listening.end();
    let files = assert_sound(&place.store());
    assert_eq!(packets(&files).iter().sum::<u64>(), 100);
}

/// How often runs are killed where VXTAP_KILLS does not say.
const KILLS: u64 = 15;

#[test]
fn killed_runs_leave_files_that_the_next_run_finishes() {
    let kills = std::env::var("VXTAP_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let place = Place::new();
    let stop = AtomicBool::new(false);
    let target = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let datagram = mirrored();
            while !stop.load(Ordering::Relaxed) {
                let port = target.load(Ordering::Relaxed) as u16;
                if port > 0 {
                    let _ = socket.send_to(&datagram, ("127.0.0.1", port));
                }
                thread::sleep(Duration::from_micros(20));
            }
        });
        // Also where a run does not begin.
        let _over = Over(&stop);
        for round in 0..kills {
            let flags = [
                "--rotate-packets",
                "200",
                "--keep-bytes",
                "none",
                "--fsync",
                "never",
            ];
            let mut listening = place.listen(&flags);
            let port = listening.bind.rsplit_once(':').unwrap().1.parse().unwrap();
            target.store(port, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(round * 37 % 150));
            listening.child.kill().unwrap();
            listening.child.wait().unwrap();
        }
    });
    // The next run finishes what the last one left.
    place.listen(&["--keep-bytes", "none"]).end();
    let files = assert_sound(&place.store());
    let expected: Vec<u64> = (1..=files.len() as u64).collect();
    assert_eq!(sequences(&files), expected);
    assert!(
        files.values().any(|line| line["reason"] == "recovered"),
        "{files:?}"
    );
}

/// A VXLAN datagram with a whole frame.
fn mirrored() -> Vec<u8> {
    let mut datagram = vec![8, 0, 0, 0, 0, 0, 7, 0];
    datagram.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    datagram.extend([
        0x45, 0, 0, 48, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ]);
    datagram.extend([0, 9, 0, 9, 0, 28, 0, 0]);
    datagram.extend([0; 20]);
    datagram
}

#[test]
fn a_small_disk_turns_for_ever() {
    let Some(small) = Small::new(64 << 20) else {
        return;
    };
    let place = Place::new();
    let store = small.0.path().join("st");
    std::os::unix::fs::symlink(&store, place.store()).unwrap();
    fs::create_dir(&store).unwrap();
    fs::write(small.0.path().join("foreign.pcapng"), "foreign").unwrap();
    let listening = place.listen(&["--keep-bytes", "20MB", "--rotate-size", "2MB"]);
    let over = AtomicBool::new(false);
    let (most, samples) = thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let (mut most, mut samples) = (0, 0);
            while !over.load(Ordering::Relaxed) {
                most = most.max(bytes_in(&store));
                samples += 1;
                thread::sleep(Duration::from_millis(5));
            }
            (most, samples)
        });
        let done = Over(&over);
        // 200 MB in all: ten turns.
        listening.feed(540_000, 60_000);
        drop(done);
        watching.join().unwrap()
    });
    listening.end();
    assert!(
        samples > 10 && most <= 20_000_000,
        "{most} bytes in {samples} samples"
    );
    let files = assert_sound(&store);
    let manifest = json_lines(&fs::read_to_string(store.join("MANIFEST.jsonl")).unwrap());
    let finished = manifest.iter().filter(|line| line["kind"] == "file");
    let finished: u64 = finished.map(|line| line["packets"].as_u64().unwrap()).sum();
    let summary = place.summary();
    let sink = &summary["sinks"][0];
    assert_eq!(sink["written"], finished);
    let lost = sink["dropped"]["queue"].as_u64().unwrap_or_default();
    assert_eq!(sink["offered"], finished + lost, "{summary}");
    assert!(files.len() < 12, "{files:?}");
    assert_eq!(
        fs::read(small.0.path().join("foreign.pcapng")).unwrap(),
        b"foreign"
    );
}

#[test]
fn a_full_disk_loses_packets_with_their_count_and_recovers() {
    let Some(small) = Small::new(8 << 20) else {
        return;
    };
    let place = Place::new();
    let store = small.0.path().join("st");
    std::os::unix::fs::symlink(&store, place.store()).unwrap();
    fs::create_dir(&store).unwrap();
    let hog = small.0.path().join("hog");
    fs::write(&hog, vec![0; 6 << 20]).unwrap();
    let flags = [
        "--keep-bytes",
        "none",
        "--rotate-size",
        "300kB",
        "--on-full",
        "drop",
    ];
    let listening = place.listen(&flags);
    listening.feed(20_000, 40_000);
    wait_until(|| place.said().contains("counted as lost"));
    fs::remove_file(&hog).unwrap();
    wait_until(|| {
        listening.feed(100, 10_000);
        place.said().contains("there is room again")
    });
    listening.end();
    let files = assert_sound(&store);
    let summary = place.summary();
    let sink = &summary["sinks"][0];
    let lost = sink["dropped"]["disk"].as_u64().unwrap();
    assert!(lost > 0, "{summary}");
    assert_eq!(sink["written"], packets(&files).iter().sum::<u64>());
    // Each lost packet is told of by one file.
    let told = files
        .values()
        .map(|line| line["lost"]["disk"].as_u64().unwrap_or_default());
    assert_eq!(told.sum::<u64>(), lost, "{files:?}");
}

#[test]
fn a_full_disk_deletes_the_oldest_and_loses_nothing() {
    let Some(small) = Small::new(8 << 20) else {
        return;
    };
    let place = Place::new();
    let store = small.0.path().join("st");
    std::os::unix::fs::symlink(&store, place.store()).unwrap();
    fs::create_dir(&store).unwrap();
    let listening = place.listen(&["--keep-bytes", "none", "--rotate-size", "500kB"]);
    listening.feed(50_000, 40_000);
    listening.end();
    assert_sound(&store);
    let summary = place.summary();
    let sink = &summary["sinks"][0];
    assert_eq!(sink["dropped"].get("disk"), None, "{summary}");
    let manifest = json_lines(&fs::read_to_string(store.join("MANIFEST.jsonl")).unwrap());
    assert!(manifest.iter().any(|line| line["because"] == "disk_full"));
}

#[test]
fn two_runs_share_a_directory() {
    let (first, second) = (Place::new(), Place::new());
    fs::create_dir(first.store()).unwrap();
    std::os::unix::fs::symlink(first.store(), second.store()).unwrap();
    let flags = ["--keep-bytes", "30MB", "--rotate-size", "1MB"];
    let listening = [first.listen(&flags), second.listen(&flags)];
    let over = AtomicBool::new(false);
    let most = thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut most = 0;
            while !over.load(Ordering::Relaxed) {
                most = most.max(bytes_in(&first.store()));
                thread::sleep(Duration::from_millis(5));
            }
            most
        });
        let done = Over(&over);
        let feeding = listening
            .each_ref()
            .map(|one| scope.spawn(|| one.feed(60_000, 30_000)));
        feeding
            .into_iter()
            .for_each(|feeding| feeding.join().unwrap());
        drop(done);
        watching.join().unwrap()
    });
    listening.into_iter().for_each(Listening::end);
    assert!(most <= 30_000_000, "{most}");
    let sequences = sequences(&assert_sound(&first.store()));
    // One run's file may be finished, and deleted, before an earlier one of the other.
    let manifest = json_lines(&fs::read_to_string(first.store().join("MANIFEST.jsonl")).unwrap());
    let finished = manifest.iter().filter(|line| line["kind"] == "file");
    assert_eq!(sequences.last(), Some(&(finished.count() as u64)));
}

#[test]
fn a_directory_that_is_deleted_is_made_again() {
    let place = Place::new();
    let listening = place.listen(&["--rotate-packets", "100", "--on-full", "drop"]);
    listening.feed(250, 10_000);
    // The third file is open.
    let open = |name: &str| name.starts_with(".vxtap_00003");
    wait_until(|| {
        let names = fs::read_dir(place.store()).unwrap();
        let mut names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.any(|name| open(&name))
    });
    // A file that comes meanwhile is in the way.
    wait_until(|| fs::remove_dir_all(place.store()).is_ok());
    wait_until(|| {
        listening.feed(150, 10_000);
        fs::read_dir(place.store()).is_ok_and(|mut entries| {
            entries.any(|entry| {
                let name = entry.map(|entry| entry.file_name());
                name.is_ok_and(|name| name.as_encoded_bytes().starts_with(b"vxtap_"))
            })
        })
    });
    listening.end();
    let files = assert_sound(&place.store());
    let summary = place.summary();
    let sink = &summary["sinks"][0];
    let lost = sink["dropped"]["disk"].as_u64().unwrap();
    // Files that were finished before are gone, and were written all the same.
    assert!(sink["written"].as_u64().unwrap() >= packets(&files).iter().sum::<u64>());
    assert!(lost > 0, "{summary}");
}
