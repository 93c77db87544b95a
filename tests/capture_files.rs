//! Capture files as input: what other tools write, and what becomes of the parts that are no packets.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::files::{interface, option, packet, packets_of, replay_bytes, section};
use common::{Replayed, Running, assert_closes, replay, testdata, tool, vxtap_command};

#[track_caller]
fn assert_read(replayed: &Replayed, received: u64, delivered: u64) {
    assert_eq!(replayed.run.code, Some(0), "{}", replayed.run.stderr);
    assert_closes(&replayed.summary);
    assert_eq!(replayed.count("received"), received, "{}", replayed.summary);
    assert_eq!(
        replayed.count("delivered"),
        delivered,
        "{}",
        replayed.summary
    );
}

#[track_caller]
fn assert_says(replayed: &Replayed, words: &str) {
    let stderr = &replayed.run.stderr;
    assert!(stderr.contains(words), "{words:?} is not in:\n{stderr}");
}

// ---------------------------------------------------------------------------------------------
// Link types

/// Whichever interface comes first, packets of the readable ones are read.
#[test]
fn packets_of_unreadable_link_types_are_passed_over() {
    let vxlan = packets_of("session-96.pcap");
    for first in [1, 249] {
        let file = [
            section(&[]),
            interface(first, &option(2, b"mon0")),
            interface(250 - first, &[]),
            interface(4000, &[]),
            packet(u32::from(first == 1), 0, &[1, 2, 3], &[]),
            packet(u32::from(first != 1), 1, &vxlan[0], &[]),
            packet(2, 2, &[], &[]),
            packet(u32::from(first == 1), 3, &[0; 64], &[]),
            packet(u32::from(first != 1), 4, &vxlan[1], &[]),
        ]
        .concat();
        for workers in ["1", "3"] {
            let replayed = replay_bytes("mixed.pcapng", &file, &["--workers", workers]);
            assert_read(&replayed, 5, 2);
            assert_eq!(
                replayed.reasons("filtered"),
                common::expected([("link_type", 3)])
            );
            assert_says(
                &replayed,
                "vxtap cannot read 2 packets of link type 249 (USBPCAP), 1 packet of link type 4000 (no name is \
                 registered for it): passed over",
            );
        }
        let plain = replay_bytes("mixed.pcapng", &file, &["--plain"]);
        assert_read(&plain, 5, 2);
    }
}

/// Where not one packet can be read that is an error, in pcapng as in pcap.
#[test]
fn a_file_of_unreadable_link_types_names_them() {
    let file = [
        section(&[]),
        interface(1, &[]),
        interface(127, &[]),
        interface(195, &[]),
        packet(1, 0, &[1, 2, 3], &[]),
        packet(2, 0, &[1, 2, 3], &[]),
    ]
    .concat();
    let replayed = replay_bytes("radio.pcapng", &file, &[]);
    assert_eq!(replayed.run.code, Some(1));
    assert_says(
        &replayed,
        "radio.pcapng: byte 88: link type 127 (IEEE802_11_RADIOTAP), link type 195 \
         (IEEE802_15_4_WITHFCS) cannot be read; these can: ETHERNET (1)",
    );
    let mut pcap = fs::read(testdata("session-96.pcap")).unwrap();
    pcap[20] = 105;
    let replayed = replay_bytes("wifi.pcap", &pcap, &[]);
    assert_eq!(replayed.run.code, Some(1));
    assert_says(&replayed, "link type 105 (IEEE802_11) cannot be read");
}

// ---------------------------------------------------------------------------------------------
// Pipes

/// A packet that came down a pipe is written before the next one is there, however many workers share
/// the work.
#[test]
fn a_slow_pipe_is_replayed_as_it_comes() {
    let pcap = fs::read(testdata("session-96.pcap")).unwrap();
    let packets = packets_of("session-96.pcap");
    let (header, mut rest) = pcap.split_at(24);
    let dir = tempfile::tempdir().unwrap();
    let (fifo, output) = (dir.path().join("in"), dir.path().join("out"));
    let made = Command::new("mkfifo").args([&fifo, &output]).status();
    assert!(made.unwrap().success());
    for (input, workers) in [("-", "1"), ("-", "3"), (fifo.to_str().unwrap(), "3")] {
        let mut command = vxtap_command(["replay", input, "--workers", workers, "-w"]);
        command.arg(&output).stdin(Stdio::piped());
        let mut child = Running::start(command.stderr(Stdio::null()));
        let mut out = fs::File::open(&output).unwrap();
        let mut feed: Box<dyn Write> = match input {
            "-" => Box::new(child.stdin.take().unwrap()),
            fifo => Box::new(fs::File::create(fifo).unwrap()),
        };
        let (told, written) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut buf = [0; 4096];
            while let Ok(len @ 1..) = out.read(&mut buf) {
                told.send(buf[..len].to_vec()).unwrap_or_default();
            }
        });
        feed.write_all(header).unwrap();
        let mut seen = Vec::new();
        for packet in &packets[..3] {
            let (record, behind) = rest.split_at(16 + packet.len());
            feed.write_all(record).unwrap();
            feed.flush().unwrap();
            rest = behind;
            // The inner frame starts behind the outer headers of 50 bytes.
            let frame = &packet[50..];
            while !seen.windows(frame.len()).any(|window| window == frame) {
                let more = written.recv_timeout(Duration::from_secs(10));
                seen.extend(more.unwrap_or_else(|_| panic!("{input}, {workers} workers")));
            }
        }
        rest = &pcap[24..];
        drop(feed);
        assert!(child.wait().unwrap().success());
    }
}

// ---------------------------------------------------------------------------------------------
// Packed files

/// What the packers themselves make, with the padding they leave or take.
#[test]
fn packed_files_are_read() {
    let packers = [
        ("gzip", "gz"),
        ("bzip2", "bz2"),
        ("xz", "xz"),
        ("zstd", "zst"),
        ("lz4", "lz4"),
    ];
    let capture = fs::read(testdata("session-96.pcap")).unwrap();
    for (packer, end) in packers {
        let Some(packed) = through(packer, &capture) else {
            continue;
        };
        for zeros in [0, 1, 4096] {
            let file = [&packed[..], &vec![0; zeros]].concat();
            let replayed = replay_bytes(&format!("in.pcap.{end}"), &file, &[]);
            assert_read(&replayed, 11, 11);
        }
        let cut = replay_bytes("cut.pcap", &packed[..packed.len() - 12], &[]);
        assert_eq!(cut.run.code, Some(1), "{packer}");
        assert_says(&cut, "cut.pcap: byte ");
    }
}

/// `input` as `packer` packs it; `None` where it is not installed.
fn through(packer: &str, input: &[u8]) -> Option<Vec<u8>> {
    if !tool(packer) {
        return None;
    }
    let mut command = Command::new(packer);
    command.arg("-c").stdin(Stdio::piped());
    let mut child = Running::start(command.stdout(Stdio::piped()));
    // Shorter than a pipe holds.
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output();
    assert!(output.status.success());
    Some(output.stdout)
}

#[test]
fn other_packers_and_formats_are_named() {
    for (start, words) in [
        (
            &b"PK\x03\x04\x14\0"[..],
            "in.bin is packed with zip: unpack it first with 'unzip FILE'",
        ),
        (
            b"7z\xbc\xaf\x27\x1c\0",
            "packed with 7z: unpack it first with '7z x FILE'",
        ),
        (
            b"LZIP\x01",
            "packed with lzip: unpack it first with 'lzip -d FILE'",
        ),
        (
            b"snoop\0\0\0\0\0\0\x02",
            "convert it first with 'editcap FILE FILE.pcapng'",
        ),
    ] {
        let replayed = replay_bytes("in.bin", start, &[]);
        assert_eq!(replayed.run.code, Some(1));
        assert_says(&replayed, words);
    }
}

// ---------------------------------------------------------------------------------------------
// Our own captures

/// What of a session a second run can tell as the first did.
fn sessions_of(replayed: &Replayed) -> Vec<Vec<serde_json::Value>> {
    let fields = [
        "vni",
        "source",
        "target",
        "tunnel",
        "packets",
        "bytes",
        "inbound",
        "outbound",
        "truncated",
        "suspect",
        "unknown_length",
        "missing_bytes",
        "largest_inner_ip",
        "cut_size",
        "cut_by",
        "advice",
        "oversize",
        "first_seen",
        "last_seen",
    ];
    let sessions = replayed.sessions().iter();
    sessions
        .map(|session| fields.map(|field| session[field].clone()).to_vec())
        .collect()
}

/// A capture of ours gives the flows, sessions and comments it came from, on any number of workers.
#[test]
fn a_capture_of_ours_gives_the_same_again() {
    for name in [
        "demo.pcap",
        "session-96.pcap",
        "session-mtu.pcap",
        "both-ends.pcap",
        "outer-ipv6.pcap",
        "nested.pcap",
        "geneve.pcap",
        "gpe.pcap",
        "vxlan-header-cut.pcap",
        "inner-cuts.pcap",
    ] {
        let first = replay([testdata(name)]);
        assert_eq!(first.run.code, Some(0), "{name}");
        let capture = first.dir.path().join("out.pcapng");
        for workers in ["1", "3"] {
            let again = replay([capture.to_str().unwrap(), "--plain", "--workers", workers]);
            assert_eq!(again.run.code, Some(0), "{name}: {}", again.run.stderr);
            assert_eq!(first.flows, again.flows, "{name}, {workers} workers");
            assert_eq!(sessions_of(&first), sessions_of(&again), "{name}");
            let (was, is) = (first.frames(), again.frames());
            assert_eq!(was, is, "{name}: frames, lengths, comments, direction");
        }
    }
}

/// Only what we wrote ourselves is believed.
#[test]
fn interfaces_of_other_programs_stay_plain() {
    let frame = &packets_of("plain.pcap")[1];
    let name = option(2, b"vni7@192.0.2.1");
    let file = [
        section(&[]),
        interface(1, &[&name[..], &option(3, b"vni 7")].concat()),
        packet(0, 1, frame, &[]),
    ]
    .concat();
    let replayed = replay_bytes("other.pcapng", &file, &["--plain"]);
    assert_read(&replayed, 1, 1);
    assert!(replayed.sessions()[0]["vni"].is_null());
}

// ---------------------------------------------------------------------------------------------
// Times

/// A time that a format cannot hold is the nearest it can, and counted.
#[test]
fn times_out_of_range_are_counted() {
    let vxlan = &packets_of("session-96.pcap")[1];
    let offset = |seconds: i64| option(14, &seconds.to_le_bytes());
    let file = [
        section(&[]),
        interface(1, &[]),
        interface(1, &offset(-10)),
        packet(0, u64::MAX, vxlan, &[]),
        packet(1, 9_000_000, vxlan, &[]),
        packet(1, 11_000_000, vxlan, &[]),
        // 2200, beyond pcap's seconds.
        packet(0, 7_258_118_400_000_000, vxlan, &[]),
    ]
    .concat();
    let replayed = replay_bytes("times.pcapng", &file, &[]);
    assert_read(&replayed, 4, 4);
    assert_eq!(replayed.summary["noted"]["time_clamped"], 2);
    let pcap = replay_bytes("times.pcapng", &file, &["--format", "pcap"]);
    assert_eq!(pcap.summary["noted"]["time_clamped"], 3);
}

/// `send` puts what `replay --plain` takes into VXLAN.
#[test]
fn send_takes_every_link_type() {
    for (name, packets) in [
        ("plain-sll.pcap", 5),
        ("sll2.pcap", 5),
        ("raw-ip.pcap", 4),
        ("ipv6-link.pcap", 2),
        ("null.pcap", 5),
        ("loop.pcap", 4),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let sent = dir.path().join("sent.pcap");
        let input = testdata(name);
        let run = common::vxtap([
            "send".as_ref(),
            input.as_os_str(),
            "--plain".as_ref(),
            "--write".as_ref(),
            sent.as_os_str(),
        ]);
        assert_eq!(run.code, Some(0), "{name}: {}", run.stderr);
        let words = format!("{packets} given an Ethernet header");
        assert!(run.stderr.contains(&words), "{name}: {}", run.stderr);
        let plain = replay([input.as_os_str(), "--plain".as_ref()]);
        let mirrored = replay([sent.as_os_str()]);
        let frames = |replayed: &Replayed| -> Vec<Vec<u8>> {
            let frames = replayed.frames().into_iter();
            frames.map(|frame| frame.bytes).collect()
        };
        assert_eq!(frames(&plain), frames(&mirrored), "{name}");
    }
}

/// A replay keeps the order of its input, and counts what stands behind later packets there.
#[test]
fn times_of_the_input_that_go_back_are_counted() {
    let mut file = [section(&[]), interface(1, &[])].concat();
    let packets = packets_of("demo.pcap");
    for (bytes, ticks) in packets.iter().zip([50, 51, 49, 51, 50, 60, 59, 61]) {
        file.extend(packet(0, ticks * 1_000_000, bytes, &[]));
    }
    for workers in ["1", "2"] {
        let args = ["--plain", "--workers", workers];
        let replayed = replay_bytes("back.pcapng", &file, &args);
        let noted = replayed.reasons("noted");
        assert_eq!(noted.get("out_of_order"), Some(&3), "{workers}: {noted:?}");
        let frames = replayed.frames();
        let times: Vec<_> = frames
            .iter()
            .map(|frame| frame.ts_ns / 1_000_000_000)
            .collect();
        assert_eq!(times, [50, 51, 49, 51, 50, 60, 59, 61]);
    }
}
