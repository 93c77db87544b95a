//! `first_file` and `first_off` of flow records: at the place they tell, a reader of our own finds the flow's first packet.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::files::{block, interface, packet, section};
use common::store::{Place, Small, bytes_in};
use common::{assert_closes, json_lines, tool, vxtap, vxtap_command};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use vxtap::flow::first::First;
use vxtap::flow::record::FlowRecord;
use vxtap::mirror::session::SessionId;
use vxtap::pcap::record::{Batch, Format};
use vxtap::pipeline::worker::{Outlet, Worker, WorkerSettings};
use vxtap::source::{self, Arrival};
use vxtap::wire::outer::LinkType;

/// Whose a packet is: VNI where the file tells it, VLANs, protocol, and both ends in their order.
type Key = (Option<u64>, Vec<u16>, u8, [(IpAddr, u16); 2]);

/// A packet record of a capture file.
#[derive(Clone, Debug)]
struct Record {
    offset: u64,
    ts_ns: u64,
    key: Option<Key>,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Whose an Ethernet frame is.
fn key_of(vni: Option<u64>, frame: &[u8]) -> Option<Key> {
    let short = |at: usize| {
        Some(u16::from_be_bytes(
            frame.get(at..at + 2)?.try_into().unwrap(),
        ))
    };
    let (mut at, mut vlans) = (12, Vec::new());
    while matches!(short(at)?, 0x8100 | 0x88a8) {
        vlans.extend(Some(short(at + 2)? & 0xfff).filter(|vlan| *vlan > 0));
        at += 4;
    }
    let (protocol, src, dst, ports_at): (u8, IpAddr, IpAddr, usize) = match short(at)? {
        0x0800 => {
            let ip = frame.get(at + 2..)?;
            let ends = [12, 16].map(|at| ip.get(at..at + 4));
            let [src, dst] = ends.map(|end| Some(<[u8; 4]>::try_from(end?).unwrap()));
            let header = usize::from(ip[0] & 15) * 4;
            (
                ip[9],
                Ipv4Addr::from(src?).into(),
                Ipv4Addr::from(dst?).into(),
                at + 2 + header,
            )
        }
        0x86dd => {
            let ip = frame.get(at + 2..)?;
            let ends = [8, 24].map(|at| ip.get(at..at + 16));
            let [src, dst] = ends.map(|end| Some(<[u8; 16]>::try_from(end?).unwrap()));
            (
                ip[6],
                Ipv6Addr::from(src?).into(),
                Ipv6Addr::from(dst?).into(),
                at + 42,
            )
        }
        _ => return None,
    };
    let mut ends = [(src, short(ports_at)?), (dst, short(ports_at + 2)?)];
    ends.sort_unstable();
    Some((vni, vlans, protocol, ends))
}

/// The packet records of a capture, read without any library.
fn records(file: &[u8]) -> Vec<Record> {
    match word(file, 0) {
        0x0a0d_0d0a => records_of_pcapng(file),
        0xa1b2_3c4d => records_of_pcap(file),
        other => panic!("{other:#x}"),
    }
}

fn records_of_pcapng(file: &[u8]) -> Vec<Record> {
    let (mut records, mut vnis) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < file.len() {
        let len = word(file, at + 4) as usize;
        let block = &file[at..at + len];
        match word(block, 0) {
            // vni42@192.0.2.1
            1 => {
                let mut name = "";
                let mut option = 16;
                while option + 4 < len {
                    let (code, value_len) = (word(block, option) as u16, word(block, option) >> 16);
                    let value = &block[option + 4..][..value_len as usize];
                    if code == 2 {
                        name = str::from_utf8(value).unwrap();
                    }
                    option += 4 + value.len().next_multiple_of(4);
                }
                let vni = name.strip_prefix("vni");
                let vni = vni.and_then(|rest| rest.split('@').next());
                vnis.push(vni.map(|vni| vni.parse().unwrap()));
            }
            6 => {
                let vni = vnis[word(block, 8) as usize];
                let frame = &block[28..28 + word(block, 20) as usize];
                records.push(Record {
                    offset: at as u64,
                    ts_ns: u64::from(word(block, 12)) << 32 | u64::from(word(block, 16)),
                    key: key_of(vni, frame),
                });
            }
            _ => {}
        }
        at += len;
    }
    records
}

fn records_of_pcap(file: &[u8]) -> Vec<Record> {
    let (mut records, mut at) = (Vec::new(), 24);
    while at < file.len() {
        let len = word(file, at + 8) as usize;
        records.push(Record {
            offset: at as u64,
            ts_ns: u64::from(word(file, at)) * 1_000_000_000 + u64::from(word(file, at + 4)),
            key: key_of(None, &file[at + 16..at + 16 + len]),
        });
        at += 16 + len;
    }
    records
}

/// The content of a file, unpacked.
fn content(path: &Path) -> Vec<u8> {
    let unpack = match path.extension().and_then(|ending| ending.to_str()).unwrap() {
        "zst" => ["zstd", "-dc"],
        "gz" => ["gzip", "-dc"],
        _ => return fs::read(path).unwrap(),
    };
    let unpacked = Command::new(unpack[0])
        .arg(unpack[1])
        .arg(path)
        .output()
        .unwrap();
    assert!(unpacked.status.success(), "{unpacked:?}");
    unpacked.stdout
}

/// What a capture holds: the records of each file by its name.
struct Capture(BTreeMap<String, Vec<Record>>);

impl Capture {
    /// A file, or the files of a store.
    fn read(path: &Path) -> Self {
        let mut paths: Vec<PathBuf> = match path.is_dir() {
            true => fs::read_dir(path)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect(),
            false => vec![path.to_owned()],
        };
        let is_capture = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.contains(".pcap") && !name.ends_with(".idx")
        };
        paths.retain(is_capture);
        let named = |path: PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, records(&content(&path)))
        };
        Self(paths.into_iter().map(named).collect())
    }

    /// Where the packet of this flow and time is.
    fn find(&self, key: &Key, ts_ns: u64) -> Option<(&str, u64)> {
        self.0.iter().find_map(|(name, records)| {
            let is_it =
                |record: &&Record| record.ts_ns == ts_ns && record.key.as_ref() == Some(key);
            records
                .iter()
                .find(is_it)
                .map(|record| (name.as_str(), record.offset))
        })
    }
}

/// Whose a flow record is, as the packets of a file tell it; its start.
fn of_flow(flow: &Value, has_vni: bool) -> (Key, u64) {
    let text = |name: &str| flow[name].as_str().unwrap();
    let end = |end: &str| {
        let port = flow[format!("{end}_port")].as_u64().unwrap() as u16;
        (text(&format!("{end}_ip")).parse::<IpAddr>().unwrap(), port)
    };
    let mut ends = [end("src"), end("dst")];
    ends.sort_unstable();
    let vlans = ["vlan", "vlan_inner"]
        .iter()
        .filter_map(|name| flow[*name].as_u64());
    let vlans = vlans.map(|vlan| vlan as u16).collect();
    let start: jiff::Timestamp = text("ts_start").parse().unwrap();
    let vni = flow["vni"].as_u64().filter(|_| has_vni);
    let key = (vni, vlans, flow["proto"].as_u64().unwrap() as u8, ends);
    (key, start.as_nanosecond() as u64)
}

/// Each flow record tells where its first packet is, if that is in the capture, and else nothing. Returns how many do.
#[track_caller]
fn assert_places(flows: &[Value], capture: &Capture, has_vni: bool) -> usize {
    assert!(!flows.is_empty());
    let mut kept = 0;
    for flow in flows {
        let (key, start_ns) = of_flow(flow, has_vni);
        let told = flow["first_file"]
            .as_str()
            .map(|file| (file, flow["first_off"].as_u64().unwrap()));
        assert_eq!(told, capture.find(&key, start_ns), "{flow}");
        assert_eq!(told.is_some(), flow.get("first_off").is_some(), "{flow}");
        kept += usize::from(told.is_some());
    }
    kept
}

/// Mirrored traffic, in a file: IPv4 and IPv6, tags, packets cut; no two at one time.
fn generated(packets: &str, flows: &str, vnis: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let pcap = dir.path().join("generated.pcap");
    let words = [
        "send",
        "--generate",
        "--count",
        packets,
        "--flows",
        flows,
        "--vnis",
        vnis,
        "--vni",
        "41",
    ];
    let more = [
        "--vlan-percent",
        "20",
        "--mtu",
        "1400",
        "--to",
        "192.0.2.9",
        "--write",
    ];
    let made = vxtap(
        words
            .into_iter()
            .chain(more)
            .chain([pcap.to_str().unwrap()]),
    );
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    (dir, pcap)
}

/// A replay of `input` with these words, `DIR` in them replaced.
struct Replayed {
    dir: TempDir,
    flows: String,
    code: Option<i32>,
    said: String,
}

fn replay(input: &Path, words: &[&str]) -> Replayed {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_str().unwrap();
    let mut command = vxtap_command(["replay", input.to_str().unwrap()]);
    command.args(words.iter().map(|word| word.replace("DIR", place)));
    for (flag, name) in [("--flows", "f.jsonl"), ("--summary", "s.json")] {
        command.arg(flag).arg(dir.path().join(name));
    }
    let run = common::run(&mut command);
    assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
    let summary = fs::read(dir.path().join("s.json")).unwrap();
    assert_closes(&serde_json::from_slice(&summary).unwrap());
    let flows = fs::read_to_string(dir.path().join("f.jsonl")).unwrap();
    Replayed {
        dir,
        flows,
        code: run.code,
        said: run.stderr,
    }
}

impl Replayed {
    #[track_caller]
    fn flows(&self) -> Vec<Value> {
        assert_eq!(self.code, Some(0), "{}", self.said);
        json_lines(&self.flows)
    }

    fn capture(&self, name: &str) -> Capture {
        Capture::read(&self.dir.path().join(name))
    }
}

/// With any number of workers all flows have their places, and the same.
#[track_caller]
fn same_with_any_number_of_workers(input: &Path, output: &str, words: &[&str], has_vni: bool) {
    let write = format!("DIR/{output}");
    let words = [&["-w", &write], words].concat();
    let [one, two, three] = ["1", "2", "3"].map(|workers| {
        let replayed = replay(input, &[&words[..], &["--workers", workers]].concat());
        let flows = replayed.flows();
        let kept = assert_places(&flows, &replayed.capture(output), has_vni);
        assert_eq!(kept, flows.len(), "{words:?} {workers}");
        replayed.flows
    });
    assert_eq!(one, two, "{words:?}");
    assert_eq!(one, three, "{words:?}");
}

/// More flows than are updated at once: what begins a flow is known only some packets later.
#[test]
fn the_first_packet_is_at_its_place_in_one_file() {
    let (_dir, input) = generated("20000", "3000", "3");
    for words in [&[][..], &["--compress", "zstd"], &["--compress", "gzip"]] {
        let codec = words.last().copied().unwrap_or_default();
        if !codec.is_empty() && !tool(codec) {
            continue;
        }
        let name = match codec {
            "zstd" => "c.pcapng.zst",
            "gzip" => "c.pcapng.gz",
            _ => "c.pcapng",
        };
        same_with_any_number_of_workers(&input, name, words, true);
    }
}

#[test]
fn the_first_packet_is_at_its_place_in_a_store() {
    let (_dir, input) = generated("12000", "2000", "3");
    for words in [
        &["--rotate-packets", "700"][..],
        &["--rotate-packets", "400", "--split", "vni"],
        &["--rotate-size", "300kB", "--split", "session"],
        &["--rotate-size", "200kB", "--compress", "zstd"],
    ] {
        if words.contains(&"zstd") && !tool("zstd") {
            continue;
        }
        same_with_any_number_of_workers(&input, "st/", words, true);
    }
}

#[test]
fn the_first_packet_is_at_its_place_in_classic_pcap() {
    let (_dir, input) = generated("6000", "1500", "1");
    same_with_any_number_of_workers(&input, "c.pcap", &["--format", "pcap"], false);
    let words = ["--format", "pcap", "--rotate-packets", "500"];
    same_with_any_number_of_workers(&input, "st/", &words, false);
}

/// The record at the offset is that of the first frame tshark finds of the flow.
#[test]
fn tshark_finds_the_first_packet_there() {
    if !tool("tshark") {
        return;
    }
    let (_dir, input) = generated("3000", "200", "3");
    let replayed = replay(&input, &["-w", "DIR/c.pcapng"]);
    let path = replayed.dir.path().join("c.pcapng");
    let records = records(&fs::read(&path).unwrap());
    for flow in replayed.flows().iter().step_by(17) {
        let (ip, port) = (
            if flow["ip_v"] == 4 { "ip" } else { "ipv6" },
            if flow["proto"] == 6 { "tcp" } else { "udp" },
        );
        let vlan = flow["vlan"].as_u64();
        let vlan = vlan.map_or("!vlan".to_owned(), |vlan| format!("vlan.id == {vlan}"));
        let filter = format!(
            "frame.interface_name contains \"vni{}@\" && {ip}.addr == {} && {ip}.addr == {} && {port}.port == {} && \
             {port}.port == {} && {vlan}",
            flow["vni"],
            flow["src_ip"].as_str().unwrap(),
            flow["dst_ip"].as_str().unwrap(),
            flow["src_port"],
            flow["dst_port"]
        );
        let found = common::tshark(&path, &["frame.number"], &["-Y", &filter]);
        let number: usize = found[0][0].parse().unwrap();
        assert_eq!(flow["first_off"], records[number - 1].offset, "{filter}");
        assert_eq!(flow["first_file"], "c.pcapng");
    }
}

/// Flows that made room have ended before their packets were written.
#[test]
fn flows_that_end_early_have_their_places_too() {
    let (_dir, input) = generated("20000", "3000", "3");
    for (output, words) in [
        ("c.pcapng", &["--max-flows", "3"][..]),
        ("c.pcapng", &["--max-flows", "1500"]),
        ("st/", &["--max-flows", "40", "--rotate-packets", "300"]),
        (
            "st/",
            &[
                "--max-flows",
                "40",
                "--split",
                "vni",
                "--rotate-size",
                "300kB",
            ],
        ),
    ] {
        for workers in ["1", "2", "3"] {
            let write = format!("DIR/{output}");
            let words = [&["-w", &write, "--workers", workers], words].concat();
            let replayed = replay(&input, &words);
            let flows = replayed.flows();
            assert!(flows.len() > 5000, "{} records", flows.len());
            let kept = assert_places(&flows, &replayed.capture(output), true);
            assert_eq!(kept, flows.len(), "{words:?}");
        }
    }
}

/// A quiet session in a compressed store: what it has is written at its end only, and no record of the others waits
/// that long.
#[test]
fn a_quiet_file_holds_no_record_back() {
    if !tool("zstd") {
        return;
    }
    let (dir, input) = generated("40000", "3000", "1");
    // One datagram of another VNI goes first.
    let bytes = fs::read(&input).unwrap();
    let len = 16 + word(&bytes, 24 + 8) as usize;
    let mut quiet = bytes[24..24 + len].to_vec();
    quiet[16 + 14 + 20 + 8 + 4..][..3].copy_from_slice(&[0, 0, 99]);
    let file = [&bytes[..24], &quiet, &bytes[24..]].concat();
    let with_quiet = dir.path().join("quiet.pcap");
    fs::write(&with_quiet, file).unwrap();
    let words = [
        "-w",
        "DIR/st/",
        "--split",
        "vni",
        "--compress",
        "zstd",
        "--max-flows",
        "5",
    ];
    let replayed = replay(&with_quiet, &words);
    let flows = replayed.flows();
    let quiet = flows.iter().position(|flow| flow["vni"] == 99).unwrap();
    assert!(quiet < 10, "it ended early: {quiet}");
    let kept = assert_places(&flows, &replayed.capture("st"), true);
    assert_eq!(kept, flows.len());
}

/// A pcapng file of UDP packets (port, nanoseconds), in the order given.
fn plain(packets: &[(u8, u64)]) -> Vec<u8> {
    let mut file = section(&[]);
    file.extend(interface(1, &common::files::option(9, &[9])));
    for (port, ts_ns) in packets {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
        frame.extend([
            0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        frame.extend([0, *port, 0, 53, 0, 8, 0, 0]);
        file.extend(packet(0, *ts_ns, &frame, &[]));
    }
    // A block that nobody knows does no harm.
    file.extend(block(0x0bad, &[1, 2, 3, 4]));
    file
}

/// Where packets stand behind later ones, the first is the earliest.
#[test]
fn of_packets_out_of_order_the_earliest_is_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.pcapng");
    let second = 1_000_000_000;
    let packets = [
        (1, 9 * second),
        (2, 10 * second),
        (1, 8 * second),
        (2, 11 * second),
        (1, 7 * second),
        (1, 12 * second),
    ];
    fs::write(&input, plain(&packets)).unwrap();
    same_with_any_number_of_workers(&input, "c.pcapng", &["--plain"], true);
    let replayed = replay(&input, &["--plain", "-w", "DIR/c.pcapng"]);
    let offsets = records(&content(&replayed.dir.path().join("c.pcapng")));
    let told: Vec<u64> = replayed
        .flows()
        .iter()
        .map(|flow| flow["first_off"].as_u64().unwrap())
        .collect();
    assert_eq!(told, [offsets[4].offset, offsets[1].offset]);
}

/// No file, no place: without a capture, to a pipe, to a FIFO.
#[test]
fn without_a_file_there_is_no_place() {
    let (_dir, input) = generated("500", "20", "1");
    let nothing = replay(&input, &[]);
    let to_pipe = replay(&input, &["-w", "-"]);
    let to_device = replay(&input, &["-w", "/dev/null"]);
    for replayed in [&nothing, &to_pipe, &to_device] {
        let flows = replayed.flows();
        assert_eq!(flows.len(), 20);
        for flow in flows {
            assert!(
                flow.get("first_file").is_none() && flow.get("first_off").is_none(),
                "{flow}"
            );
        }
    }
    // Everything else is the same as with one.
    let with_file = replay(&input, &["-w", "DIR/c.pcapng"]);
    assert_ne!(with_file.flows, nothing.flows);
    assert_eq!(common::without_firsts(&with_file.flows), nothing.flows);
    assert_eq!(to_pipe.flows, nothing.flows);
}

/// A name that JSON has to quote, and one that is moved out of the way of what is there.
#[test]
fn the_name_is_that_of_the_file() {
    let (_dir, input) = generated("100", "5", "1");
    for name in ["od\"d\\.pcapng", "ünïcode.pcapng"] {
        let replayed = replay(&input, &["-w", &format!("DIR/{name}")]);
        let capture = replayed.capture(name);
        assert_eq!(assert_places(&replayed.flows(), &capture, true), 5);
    }
}

/// What the disk did not take has no place; what is in the files has.
#[test]
fn what_the_disk_lost_has_no_place() {
    let (_dir, input) = generated("8000", "2500", "3");
    let store = ["--on-full", "drop", "--keep-bytes", "none"];
    for (output, words) in [
        ("st/", [&store[..], &["--rotate-size", "300kB"]].concat()),
        (
            "st/",
            [&store[..], &["--split", "vni", "--compress", "zstd"]].concat(),
        ),
        ("c.pcapng", Vec::new()),
        ("c.pcapng.zst", vec!["--compress", "zstd"]),
    ] {
        if words.contains(&"zstd") && !tool("zstd") {
            continue;
        }
        let enough = replay(
            &input,
            &[&["-w", &format!("DIR/{output}")], &words[..]].concat(),
        );
        let all = bytes_in(enough.dir.path()) - enough.flows.len() as u64;
        for (workers, most) in [("1", "1000"), ("1", "30"), ("2", "30"), ("3", "500")] {
            let Some(small) = Small::new(all / 2) else {
                return;
            };
            let output = format!("{}/{output}", small.0.path().display());
            let flags = ["-w", &output, "--workers", workers, "--max-flows", most];
            let words = [&words[..], &flags].concat();
            let replayed = replay(&input, &words);
            let flows = json_lines(&replayed.flows);
            let kept = assert_places(&flows, &Capture::read(Path::new(&output)), true);
            let records = flows.len();
            assert!(
                (50..records - 50).contains(&kept),
                "{words:?}: {kept} of {records}"
            );
        }
    }
}

/// Live into a store, with files that end in the middle of flows.
#[test]
fn live_flows_have_their_places() {
    for (store_flags, workers) in [
        (&["--rotate-packets", "300"][..], "1"),
        (&["--rotate-packets", "300", "--compress", "zstd"], "1"),
        (&["--rotate-size", "100kB", "--split", "session"], "2"),
    ] {
        if store_flags.contains(&"zstd") && !tool("zstd") {
            continue;
        }
        let place = Place::new();
        let flows = place.0.path().join("f.jsonl");
        let flags = [
            "--fsync",
            "never",
            "--workers",
            workers,
            "--flows",
            flows.to_str().unwrap(),
        ];
        let listening = place.listen(&[&flags[..], store_flags].concat());
        listening.feed(3000, 20_000);
        listening.signal(Signal::SIGUSR2);
        listening.feed(500, 20_000);
        listening.end();
        let flows = json_lines(&fs::read_to_string(flows).unwrap());
        let summary = place.summary();
        assert_eq!(
            summary["sinks"][0]["offered"], summary["sinks"][0]["written"],
            "{summary}"
        );
        let kept = assert_places(&flows, &Capture::read(&place.store()), true);
        assert_eq!(kept, flows.len());
    }
}

/// Loaded in front of the C library: a capture file takes nothing any more once it has 100 kB.
const STUCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <sys/types.h>
static long taken;
ssize_t write(int fd, const void *buf, size_t len) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    char link[64], name[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t named = readlink(link, name, sizeof name - 1);
    name[named > 0 ? named : 0] = 0;
    if (strstr(name, "c.pcapng")) {
        taken += len;
        while (taken > 100000) pause();
    }
    return real(fd, buf, len);
}
"#;

/// A disk that hangs holds no flow record back: those whose first packets it has not taken tell no place.
#[test]
fn a_disk_that_hangs_holds_no_record_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("stuck.c"), STUCK).unwrap();
    let compiled = Command::new("cc")
        .args([
            "-shared",
            "-fPIC",
            "-o",
            &path("stuck.so"),
            &path("stuck.c"),
        ])
        .stderr(Stdio::null())
        .status();
    if !compiled.is_ok_and(|status| status.success()) {
        return eprintln!("skipped: no C compiler");
    }
    let flows = path("f.jsonl");
    let port = std::net::UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let mut command = vxtap_command([
        "listen",
        "--backend",
        "udp",
        "--bind",
        &port,
        "--count",
        "3000",
    ]);
    command.args([
        "-w",
        &path("c.pcapng"),
        "--flows",
        &flows,
        "--summary",
        &path("s.json"),
    ]);
    command.args(["--duration", "60s", "--workers", "1", "--max-flows", "100"]);
    command.env("LD_PRELOAD", path("stuck.so"));
    command
        .stdout(Stdio::null())
        .stderr(fs::File::create(path("said")).unwrap());
    let mut listening = common::Running::start(&mut command);
    common::store::wait_until(|| {
        fs::read_to_string(path("said"))
            .unwrap()
            .contains("listening on")
    });
    let words = [
        "send",
        "--to",
        &port,
        "--generate",
        "--count",
        "3000",
        "--flows",
        "500",
        "--pps",
        "20000",
    ];
    assert_eq!(vxtap(words).code, Some(0));
    assert_eq!(
        listening.wait().unwrap().code(),
        Some(1),
        "the capture is stuck"
    );
    let summary: Value = serde_json::from_slice(&fs::read(path("s.json")).unwrap()).unwrap();
    assert_closes(&summary);
    let [capture, records] = &summary["sinks"].as_array().unwrap()[..] else {
        panic!("{summary}")
    };
    assert!(
        capture["dropped"]["stuck"].as_u64().unwrap() > 0,
        "{summary}"
    );
    assert_eq!(records["written"], records["offered"], "{summary}");
    let flows = json_lines(&fs::read_to_string(&flows).unwrap());
    assert_eq!(records["written"], flows.len());
    assert!(flows.iter().any(|flow| flow.get("first_off").is_none()));
}

/// Takes records while there is room, and hears of the flows that begin.
struct Heard {
    batch: Batch,
    has_room: bool,
    /// Flow, record, how many records before the end.
    begun: Vec<(u32, u64, u64)>,
}

impl Outlet for Heard {
    fn room(&mut self, _len: usize) -> Option<&mut Batch> {
        self.has_room.then_some(&mut self.batch)
    }

    fn current(&mut self) -> Option<&mut Batch> {
        Some(&mut self.batch)
    }

    fn no_room(&mut self, _session: SessionId) {}

    fn flow_begins(&mut self, flow: u32, record: u64, back: u64) {
        self.begun.push((flow, record, back));
    }

    fn flow(&mut self, _record: FlowRecord) {}
}

/// A flow whose first packet found no room in the queue has no place, whatever follows.
#[test]
fn what_found_no_room_has_no_place() {
    let settings = WorkerSettings {
        plain: true,
        capture: Some(Format::PcapNg),
        flows: true,
        first_places: true,
        ..WorkerSettings::default()
    };
    let mut worker = Worker::new(settings);
    let mut heard = Heard {
        batch: Batch::default(),
        has_room: false,
        begun: Vec::new(),
    };
    // Behind the file's headers and the block's; 48 bytes of block around each frame.
    let file = plain(&[(1, 1), (2, 2), (1, 3), (3, 4)]);
    let first = records(&file)[0].offset as usize;
    for (at, has_room) in [false, true, true, true].into_iter().enumerate() {
        let frame = first + at * (32 + 44) + 28;
        heard.has_room = has_room;
        let record = source::Record {
            order: at as u64,
            ts_ns: at as u64 + 1,
            link: LinkType::Ethernet,
            bytes: &file[frame..frame + 42],
            orig_len: 42,
            told: None,
        };
        worker.take(&Arrival::Record(record), &mut heard);
    }
    worker.end_input(&mut heard);
    assert_eq!(heard.begun, [(1, 0, 1), (2, 2, 1)]);
    worker.found(1, 0, First::place(500));
    worker.found(0, 1, First::place(600));
    let ended = worker.end();
    let firsts = ended.flows.by_first_packet().map(|flow| flow.first);
    let expected = [First::NOWHERE, First::place(500), First::record(2)];
    assert_eq!(firsts.collect::<Vec<_>>(), expected);
}
