//! `vxtap extract`: what comes out is what tshark and tcpdump find in the same files, however it was found.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::extract::{Found, Stored, assert_same, display_filter, extract, sorted, tshark};
use common::{Frame, flags_for, frames, json_lines, testdata, testdata_names, tool, vxtap};
use serde_json::Value;
use tempfile::TempDir;

#[test]
fn what_is_taken_out_is_what_tshark_finds() {
    if !tool("tshark") {
        return;
    }
    for flags in [
        &["--rotate-packets", "700"][..],
        &["--rotate-packets", "500", "--workers", "2"],
        &[
            "--rotate-packets",
            "400",
            "--split",
            "vni",
            "--workers",
            "2",
        ],
    ] {
        let stored = Stored::generated(flags);
        let all = stored.all();
        let seen = frames(&fs::read(&all).unwrap());
        let records = stored.path("flows.jsonl");
        let records = records.to_str().unwrap();
        // Flows near the beginning, in the middle, at the end.
        for flow in stored.flows.iter().step_by(stored.flows.len() / 4) {
            let text = |name: &str| flow[name].as_str().unwrap();
            let what = format!("{flags:?} {flow}");
            let expected = tshark(&all, &display_filter(flow), &[]);
            let id = text("flow_id");
            let found = stored.extract(&["--flow", id, "--flows", records]);
            let told = flow["pkts_o"].as_u64().unwrap() + flow["pkts_r"].as_u64().unwrap();
            assert_eq!(found.frames.len() as u64, told, "{what}");
            assert_eq!(
                found.summary["files_read_whole"],
                Value::Array(vec![]),
                "{what}"
            );
            assert_same(found.frames, expected.clone(), &what);
            let found = stored.extract(&["--flow", id]);
            assert_same(found.frames, expected, &what);

            let id = text("community_id");
            let communityid = ["--enable-protocol", "communityid"];
            let expected = tshark(&all, &format!("communityid == \"{id}\""), &communityid);
            let found = stored.extract(&["--community-id", id]);
            assert_same(found.frames, expected, &what);

            let host = text("src_ip");
            let filter = format!("ip.addr == {host}");
            let filter = if host.contains(':') {
                format!("ipv6.addr == {host}")
            } else {
                filter
            };
            let found = stored.extract(&["--host", host]);
            assert_same(found.frames, tshark(&all, &filter, &[]), &what);
            let between = format!(
                "{filter} && frame.interface_name contains \"vni{}@\"",
                flow["vni"]
            );
            let vni = flow["vni"].to_string();
            let found = stored.extract(&["--host", host, "--host", text("dst_ip"), "--vni", &vni]);
            let both = between.replace(host, text("dst_ip"));
            assert_same(
                found.frames,
                tshark(&all, &format!("{between} && {both}"), &[]),
                &what,
            );
        }
        let found = stored.extract(&["--vni", "42"]);
        let expected = tshark(&all, "frame.interface_name contains \"vni42@\"", &[]);
        assert_same(found.frames, expected, "a VNI");
        let found = stored.extract(&["--truncated"]);
        let expected = tshark(&all, "frame.cap_len < frame.len", &[]);
        assert!(expected.iter().all(|frame| frame.comment.is_some()));
        assert_same(found.frames, expected, "cut ones");
        let (from, to) = (seen[2222].ts_ns, seen[3333].ts_ns);
        let seconds = |ns: u128| format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
        let rfc3339 = |ns: u128| {
            let at = jiff::Timestamp::from_nanosecond(ns as i128).unwrap();
            at.to_string()
        };
        let found = stored.extract(&["--since", &rfc3339(from), "--until", &rfc3339(to)]);
        let times = format!(
            "frame.time_epoch >= {} && frame.time_epoch < {}",
            seconds(from),
            seconds(to)
        );
        assert_same(found.frames, tshark(&all, &times, &[]), "times");
        let whole = stored.extract(&[]);
        assert_same(whole.frames, seen, "everything");
    }
}

#[test]
fn what_is_taken_out_is_what_tcpdump_finds() {
    if !tool("tcpdump") {
        return;
    }
    let stored = Stored::of(&testdata("demo.pcap"), &["--rotate-packets", "60"]);
    let hosts: BTreeSet<&str> = stored
        .flows
        .iter()
        .map(|flow| flow["src_ip"].as_str().unwrap())
        .collect();
    for host in hosts {
        let out = stored.path("tcpdump.pcap");
        let mut command = Command::new("tcpdump");
        command
            .args(["--nano", "-r"])
            .arg(stored.all())
            .arg("-w")
            .arg(&out);
        let done = command
            .args([if host.contains(':') { "ip6" } else { "ip" }, "host", host])
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
        // The same packets in a format that has them with all they are.
        let again = vxtap([
            "extract",
            out.to_str().unwrap(),
            "-w",
            stored.path("t.pcapng").to_str().unwrap(),
        ]);
        assert_eq!(again.code, Some(0), "{}", again.stderr);
        let bare = |frames: Vec<Frame>| -> Vec<(u128, u32, Vec<u8>)> {
            let frames = sorted(frames).into_iter();
            frames.map(|f| (f.ts_ns, f.orig_len, f.bytes)).collect()
        };
        let mut expected = bare(frames(&fs::read(stored.path("t.pcapng")).unwrap()));
        let mut found = bare(stored.extract(&["--host", host]).frames);
        expected.sort();
        found.sort();
        assert!(!found.is_empty());
        assert!(found == expected, "{host}");
    }
}

/// Whatever stands in place of an index, the same packets come out, and a line says that the file was read whole.
#[test]
fn an_index_that_is_missing_or_wrong_changes_nothing() {
    let stored = Stored::generated(&["--rotate-packets", "900"]);
    let indexes = stored.files(".idx");
    assert_eq!(indexes.len(), stored.files(".pcapng").len());
    let host = stored.flows[5]["src_ip"].as_str().unwrap();
    let asks = [&["--host", host][..], &["--truncated"], &["--vni", "43"]];
    let expected = asks.map(|ask| stored.extract(ask).frames);
    let good = fs::read(&indexes[1]).unwrap();
    let other = fs::read(&indexes[2]).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 4;
    // Holds together, and leads to the middle of blocks.
    let mut crafted = good.clone();
    let at = good.len() / 3;
    crafted[at] = crafted[at].wrapping_add(1);
    let body = good.len() - 4;
    let check = crc32(&crafted[..body]);
    crafted[body..].copy_from_slice(&check.to_le_bytes());
    let cases: [(&str, Option<Vec<u8>>); 8] = [
        ("has no index", None),
        ("is damaged", Some(good[..good.len() / 2].to_vec())),
        ("is no index of vxtap", Some(Vec::new())),
        ("is no index of vxtap", Some(b"garbage".repeat(100))),
        ("is damaged", Some(flipped)),
        ("is of a file of", Some(other)),
        ("is of version 7", {
            let mut newer = good.clone();
            newer[8] = 7;
            Some(newer)
        }),
        ("", Some(crafted)),
    ];
    for (why, bytes) in cases {
        match bytes {
            Some(bytes) => fs::write(&indexes[1], bytes).unwrap(),
            None => fs::remove_file(&indexes[1]).unwrap(),
        }
        for (ask, expected) in asks.iter().zip(&expected) {
            let found = stored.extract(ask);
            if why.is_empty() {
                // It may say too little: then nobody can know. It is found out or it does not matter.
                continue;
            }
            assert!(found.frames == *expected, "{why}: {ask:?}");
            assert!(found.said.contains(why), "{why}: {}", found.said);
            let whole = found.summary["files_read_whole"].as_array().unwrap();
            assert_eq!(whole.len(), 1, "{why}");
            let file = indexes[1].with_extension("");
            assert_eq!(whole[0]["file"], file.to_str().unwrap());
        }
        fs::write(&indexes[1], &good).unwrap();
    }
    // A file that was changed behind its index.
    let file = indexes[1].with_extension("");
    let bytes = fs::read(&file).unwrap();
    let mut changed = bytes.clone();
    let len = changed.len();
    changed[len - 30] ^= 1;
    fs::write(&file, changed).unwrap();
    let found = stored.extract(asks[0]);
    assert!(found.frames == expected[0]);
    assert!(found.said.contains("is of another file"), "{}", found.said);
}

/// Sixty mirrored packets, a second apart, the one in the middle to `host`.
fn capture_with(host: u8) -> Vec<u8> {
    let mut capture = fs::read(testdata("demo.pcap")).unwrap()[..24].to_vec();
    for number in 0..60_u32 {
        let host = if number == 30 { host } else { 1 };
        let mut datagram = vec![8, 0, 0, 0, 0, 0, 7, 0];
        datagram.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
        datagram.extend([0x45, 0, 0, 228, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1]);
        datagram.extend([10, 9, 9, host, 0, 9, 0, 9, 0, 208, 0, 0]);
        datagram.extend([0; 200]);
        let udp_len = 8 + datagram.len() as u16;
        let mut packet = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0];
        packet.extend((20 + udp_len).to_be_bytes());
        packet.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend([0xc3, 0x50, 0x12, 0xb5]);
        packet.extend(udp_len.to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(datagram);
        let len = packet.len() as u32;
        let record = [1_700_000_000 + number, 0, len, len];
        capture.extend(record.map(u32::to_le_bytes).as_flattened());
        capture.extend(packet);
    }
    capture
}

/// Two files of a store that differ in one packet in the middle, with which neither size nor ends tell them apart.
struct Twins(TempDir);

impl Twins {
    fn new() -> Self {
        let twins = Self(tempfile::tempdir().unwrap());
        for host in [77, 88] {
            let input = twins.0.path().join("in.pcap");
            fs::write(&input, capture_with(host)).unwrap();
            let store = format!("{}/", twins.store().display());
            let words = ["replay", input.to_str().unwrap(), "-w", &store];
            let done = vxtap(words.into_iter().chain(["--format", "pcap"]));
            assert_eq!(done.code, Some(0), "{}", done.stderr);
        }
        let [first, second] = twins.files().map(|file| fs::read(file).unwrap());
        assert_eq!(first.len(), second.len());
        assert!(first[..4096] == second[..4096] && first != second);
        twins
    }

    fn store(&self) -> PathBuf {
        self.0.path().join("st")
    }

    fn files(&self) -> [PathBuf; 2] {
        let of = |number| format!("vxtap_0000{number}_20231114221320.pcap");
        [1, 2].map(|number| self.store().join(of(number)))
    }

    fn extract(&self, flags: &[&str]) -> Found {
        extract(&[&self.store()], &self.0.path().join("out.pcapng"), flags)
    }

    /// Puts other bytes into the first file, later than it was written.
    fn change(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let [file, _] = self.files();
        let written = fs::metadata(&file).unwrap().modified().unwrap();
        let mut bytes = fs::read(&file).unwrap();
        change(&mut bytes);
        fs::write(&file, bytes).unwrap();
        let file = fs::File::options().write(true).open(&file).unwrap();
        file.set_modified(written + Duration::from_secs(60))
            .unwrap();
    }
}

/// Of files that look alike from outside the manifest tells whose index is whose.
#[test]
fn an_index_of_another_file_of_the_same_size_and_ends_is_not_used() {
    let twins = Twins::new();
    let found = twins.extract(&["--host", "10.9.9.88"]);
    assert_eq!(
        (found.frames.len(), &found.summary["files_by_index"]),
        (1, &2.into())
    );
    let [a, b] = twins.files().map(|file| file.with_extension("pcap.idx"));
    let aside = twins.0.path().join("aside");
    fs::rename(&a, &aside).unwrap();
    fs::rename(&b, &a).unwrap();
    fs::rename(&aside, &b).unwrap();
    for host in ["10.9.9.77", "10.9.9.88"] {
        let found = twins.extract(&["--host", host]);
        assert_eq!(found.frames.len(), 1, "{host}: {}", found.said);
        let told = "another SHA-256 than the manifest tells";
        assert_eq!(found.said.matches(told).count(), 2, "{}", found.said);
    }
}

/// Size, beginning and end are as they were; the time tells.
#[test]
fn a_file_that_was_edited_is_read_whole() {
    let twins = Twins::new();
    twins.change(|bytes| {
        let at = bytes.windows(4).position(|four| four == [10, 9, 9, 77]);
        bytes[at.unwrap() + 3] = 99;
    });
    let found = twins.extract(&["--host", "10.9.9.99"]);
    assert_eq!(found.frames.len(), 1, "{}", found.said);
    assert!(
        found.said.contains("is older than the file"),
        "{}",
        found.said
    );
    assert_eq!(
        found.summary["files_read_whole"].as_array().unwrap().len(),
        1
    );
    // Named alone, without its store, too.
    let [file, _] = twins.files();
    let out = twins.0.path().join("out.pcapng");
    let found = extract(&[&file], &out, &["--host", "10.9.9.99"]);
    assert_eq!(found.frames.len(), 1, "{}", found.said);
}

/// The manifest speaks of what was there before, also of its times.
#[test]
fn a_file_that_was_replaced_is_not_passed_over() {
    let twins = Twins::new();
    twins.change(|bytes| {
        let mut at = 24;
        while at < bytes.len() {
            let len = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap());
            bytes[at..at + 4].copy_from_slice(&1_800_000_000_u32.to_le_bytes());
            at += 16 + len as usize;
        }
    });
    let found = twins.extract(&["--since", "2027-01-01"]);
    assert_eq!(found.frames.len(), 60, "{}", found.said);
    assert_eq!(found.summary["files_of_other_times"], 1);
}

/// It keeps no mirror session: nothing is found, and a line says why.
#[test]
fn classic_pcap_is_told_where_a_session_is_asked_for() {
    const TOLD: &str = "classic pcap, which keeps no mirror session";
    for compress in [&[][..], &["--compress", "gzip"]] {
        let flags = ["--rotate-packets", "3000", "--format", "pcap"];
        let stored = Stored::generated(&[&flags[..], compress].concat());
        let records = stored.path("flows.jsonl");
        let flow = &stored.flows[3];
        let id = flow["flow_id"].as_str().unwrap();
        for ask in [
            &["--vni", "42"][..],
            &["--flow", id],
            &["--flow", id, "--flows", records.to_str().unwrap()],
        ] {
            let found = stored.extract(ask);
            assert!(found.frames.is_empty());
            let told = format!("2 of 2 files are {TOLD}");
            assert!(found.said.contains(&told), "{ask:?}: {}", found.said);
            assert_eq!(found.summary["files_without_sessions"], 2);
        }
        let found = stored.extract(&["--host", flow["src_ip"].as_str().unwrap()]);
        assert!(!found.frames.is_empty() && !found.said.contains(TOLD));
    }
    // A flow of traffic that was not mirrored needs no session.
    let dir = tempfile::tempdir().unwrap();
    let (input, flows) = (testdata("plain.pcap"), dir.path().join("f.jsonl"));
    let words = ["replay", "--plain", input.to_str().unwrap(), "--flows"];
    let done = vxtap(words.into_iter().chain([flows.to_str().unwrap()]));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let records = json_lines(&fs::read_to_string(&flows).unwrap());
    let id = records[0]["flow_id"].as_str().unwrap();
    let found = extract(&[&input], &dir.path().join("out.pcapng"), &["--flow", id]);
    assert!(
        !found.frames.is_empty() && !found.said.contains(TOLD),
        "{}",
        found.said
    );
}

fn crc32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    }) ^ u32::MAX
}

/// In every capture of the collection each flow record has its packets, with the record at hand and without.
#[test]
fn every_flow_has_its_packets() {
    for name in testdata_names() {
        if name.starts_with("unsupported") || name.contains("link-types") {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let (input, store, flows) = (testdata(&name), path("st/"), path("flows.jsonl"));
        let words = [
            "replay",
            input.to_str().unwrap(),
            "-w",
            &store,
            "--flows",
            &flows,
        ];
        let words = words.iter().chain(flags_for(&name)).copied();
        let done = vxtap(words.chain(["--rotate-packets", "20"]));
        if done.code != Some(0) || !Path::new(&store).exists() {
            continue;
        }
        let records = json_lines(&fs::read_to_string(&flows).unwrap());
        for flow in records.iter().step_by(records.len() / 6 + 1) {
            let id = flow["flow_id"].as_str().unwrap();
            let told = flow["pkts_o"].as_u64().unwrap() + flow["pkts_r"].as_u64().unwrap();
            let store = Path::new(&store);
            let out = dir.path().join("out.pcapng");
            let found = extract(&[store], &out, &["--flow", id, "--flows", &flows]);
            assert_eq!(found.frames.len() as u64, told, "{name}: {flow}");
            let without = extract(&[store], &out, &["--flow", id]);
            assert!(found.frames == without.frames, "{name}: {flow}");
        }
    }
}

/// Foreign files: both formats and byte orders, packed, in one go.
#[test]
fn plain_files_are_read_too() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.pcapng");
    let names = [
        "pcapng-be.pcapng",
        "ns-big-endian.pcap",
        "compressed.pcap.gz",
        "plain-sll.pcap",
        "demo.pcap",
    ];
    let paths = names.map(testdata);
    let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
    let found = extract(&paths, &out, &[]);
    assert!(found.frames.is_sorted_by_key(|frame| frame.ts_ns));
    if tool("tshark") {
        let count = |path: &Path| {
            let mut command = Command::new("tshark");
            // Not custom blocks, which it shows as packets.
            let done = command.args(["-Y", "eth || sll", "-r"]).arg(path).args([
                "-T",
                "fields",
                "-e",
                "frame.time_epoch",
            ]);
            let text = done.output().unwrap().stdout;
            let mut lines: Vec<String> = String::from_utf8(text)
                .unwrap()
                .lines()
                .map(str::to_owned)
                .collect();
            lines.sort();
            lines
        };
        let mut expected: Vec<String> = paths.iter().flat_map(|path| count(path)).collect();
        expected.sort();
        // A simple packet block has no time of its own: it gets that of the packet before it.
        let found = count(&out);
        assert_eq!(found.len(), expected.len());
        let mut left = found.into_iter();
        for time in expected.iter().filter(|time| !time.is_empty()) {
            assert!(left.any(|found| found == *time), "{time}");
        }
    }
    // A store's file, packed: it has no index that fits, and is read whole.
    let stored = Stored::of(&testdata("demo.pcap"), &["--rotate-packets", "100"]);
    let expected = stored.extract(&["--vni", "101"]).frames;
    let file = &stored.files(".pcapng")[0];
    let packed = zstd::encode_all(&fs::read(file).unwrap()[..], 1).unwrap();
    fs::write(file.with_extension("pcapng.zst"), packed).unwrap();
    fs::remove_file(file).unwrap();
    let found = stored.extract(&["--vni", "101"]);
    assert!(found.frames == expected);
    assert!(found.said.contains("it has no index"), "{}", found.said);
}

/// What a killed run left is finished with an index.
#[test]
fn recovered_files_have_an_index() {
    for format in ["pcapng", "pcap"] {
        let demo = testdata("demo.pcap");
        let flags = ["--rotate-packets", "60", "--format", format];
        let stored = Stored::of(&demo, &flags);
        let ending = format!(".{format}");
        let file = stored.files(&ending)[0].clone();
        let name = file.file_name().unwrap().to_str().unwrap();
        let good = fs::read(file.with_extension(format!("{format}.idx"))).unwrap();
        let left = stored.path("left");
        fs::create_dir(&left).unwrap();
        let bytes = fs::read(&file).unwrap();
        let cut = if format == "pcapng" {
            bytes.len() - 900
        } else {
            bytes.len()
        };
        fs::write(left.join(format!(".{name}.part")), &bytes[..cut]).unwrap();
        fs::write(left.join(format!(".{name}.idx.part")), b"VXTAP").unwrap();
        let words = ["replay", demo.to_str().unwrap(), "--format", format, "-w"];
        let done = vxtap(words.into_iter().chain([left.to_str().unwrap()]));
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        assert!(!left.join(format!(".{name}.idx.part")).exists());
        let index = fs::read(left.join(format!("{name}.idx"))).unwrap();
        if format == "pcap" {
            assert_eq!(
                index, good,
                "scanned or noted while it was written: the same"
            );
        }
        let flow = &stored.flows[0];
        let out = stored.path("out.pcapng");
        let ask = ["--host", flow["src_ip"].as_str().unwrap()];
        let path = left.join(name);
        let found = extract(&[&path], &out, &ask);
        assert_eq!(found.summary["files_by_index"], 1, "{}", found.said);
        fs::remove_file(left.join(format!("{name}.idx"))).unwrap();
        assert!(found.frames == extract(&[&path], &out, &ask).frames);
        assert!(!found.frames.is_empty());
    }
}

#[test]
fn what_is_not_there_is_said() {
    let stored = Stored::of(&testdata("demo.pcap"), &[]);
    let found = stored.extract(&["--host", "203.0.113.77"]);
    assert!(found.frames.is_empty());
    assert!(found.said.contains("no packet fits"), "{}", found.said);
    let found = stored.extract(&["--flow", "0123456789abcdef"]);
    assert!(found.frames.is_empty());
    let (store, out) = (stored.store(), stored.path("x.pcapng"));
    let (store, out) = (store.to_str().unwrap(), out.to_str().unwrap());
    for (flags, said) in [
        (&["--flow", "xyz"][..], "16 hexadecimal digits"),
        (&["--community-id", "1:abc"], "a community id is needed"),
        (&["--since", "yesterday"], "a time is needed"),
        (
            &["--since", "2026-01-02", "--until", "2026-01-01"],
            "--since is not before --until",
        ),
        (&["--flows", "/x"], "--flows is for --flow"),
        (&["--vni", "16777216"], "a number from 0"),
    ] {
        let done = vxtap(["extract", store, "-w", out].iter().chain(flags));
        assert_eq!(done.code, Some(2), "{}", done.stderr);
        assert!(done.stderr.contains(said), "{}", done.stderr);
    }
    let empty = stored.path("empty");
    fs::create_dir(&empty).unwrap();
    let done = vxtap(["extract", empty.to_str().unwrap(), "-w", out]);
    assert_eq!(done.code, Some(1));
    assert!(
        done.stderr.contains("holds no capture file of a store"),
        "{}",
        done.stderr
    );
    // A file that ends in the middle: what is before is there, and the exit code tells.
    let file = &stored.files(".pcapng")[0];
    let bytes = fs::read(file).unwrap();
    let cut = stored.path("cut.pcapng");
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let done = vxtap(["extract", cut.to_str().unwrap(), "-w", out]);
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    assert!(
        done.stderr.contains("the file ends inside"),
        "{}",
        done.stderr
    );
    assert!(frames(&fs::read(out).unwrap()).len() > 50);
}
