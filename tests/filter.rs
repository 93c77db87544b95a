//! `--filter`: what it keeps is what tcpdump's filter keeps of the same frames, of the bundled captures and of real ones.
//!
//! tcpdump reads a copy of the decapsulated frames in which three things are other, because the two differ there on
//! purpose (docs/FORMATS.md): VLAN tags are taken out, so that it finds IP behind them; frames are filled up with bytes
//! that no term asks for, because it drops a packet that ends before what is asked; frames whose IP packet it would not
//! find, or read from fewer bytes than vxtap needs, are left out on both sides.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{assert_closes, corpus, expected, reasons, run, tool, vxtap};
use serde_json::Value;

/// A packet of a classic pcap file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Packet {
    seconds: u32,
    nanos: u32,
    orig_len: u32,
    bytes: Vec<u8>,
}

fn read(file: &[u8]) -> Vec<Packet> {
    let number = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    let mut packets = Vec::new();
    let mut at = 24;
    while at < file.len() {
        let len = number(at + 8) as usize;
        packets.push(Packet {
            seconds: number(at),
            nanos: number(at + 4),
            orig_len: number(at + 12),
            bytes: file[at + 16..][..len].to_vec(),
        });
        at += 16 + len;
    }
    packets
}

/// Frames for tcpdump, each with its number as its time.
fn write(path: &Path, frames: &[(usize, u32, Vec<u8>)]) {
    let mut file = Vec::new();
    for word in [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 262_144, 1] {
        file.extend(word.to_le_bytes());
    }
    for (number, orig_len, bytes) in frames {
        for word in [*number as u32, 0, bytes.len() as u32, *orig_len] {
            file.extend(word.to_le_bytes());
        }
        file.extend(bytes);
    }
    fs::write(path, file).unwrap();
}

const TAGS: [u16; 5] = [0x8100, 0x88a8, 0x9100, 0x9200, 0x8200];

/// The frame without its tags, for tcpdump; `None` where the two see other packets.
fn without_tags(frame: &[u8]) -> Option<Vec<u8>> {
    let mut frame = frame.to_vec();
    let type_of = |frame: &[u8]| Some(u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]));
    while TAGS.contains(&type_of(&frame)?) {
        frame.get(..18)?;
        frame.drain(12..16);
    }
    let l4 = match type_of(&frame)? {
        0x0800 => {
            let header_len = usize::from(frame.get(14)? & 15) * 4;
            let is_ip = frame[14] >> 4 == 4 && header_len >= 20 && frame.len() >= 34;
            // Behind an authentication header vxtap reads on.
            (is_ip && frame[23] != 51).then_some(14 + header_len)?
        }
        0x86dd => {
            // Behind extension headers too.
            let is_plain =
                frame.len() >= 54 && ![0, 43, 44, 51, 60, 135, 139, 140].contains(&frame[20]);
            (is_plain && frame[14] >> 4 == 6).then_some(54)?
        }
        0x0806 | 0x8035 => (frame.len() >= 42).then_some(42)?,
        0x88cc | 0x888e | 0x9000 | 0x8809 => 14,
        // IP may be behind it.
        _ => return None,
    };
    // Half a port is no port here.
    if (1..14).contains(&frame.len().saturating_sub(l4)) {
        return None;
    }
    frame.resize(frame.len().max(160), 0xa5);
    Some(frame)
}

/// Frames that vxtap made of some captures, and how.
struct Case {
    dir: tempfile::TempDir,
    flags: Vec<String>,
    all: Vec<Packet>,
}

impl Case {
    /// The captures among `files` that can be read to their end.
    fn of(files: Vec<PathBuf>, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut case = Self {
            dir,
            flags: flags.iter().map(ToString::to_string).collect(),
            all: Vec::new(),
        };
        let mut sound = Vec::new();
        for file in files {
            let flags = case.flags.iter().map(String::as_str);
            let mut args = vec!["replay", file.to_str().unwrap()];
            args.extend(flags);
            if vxtap(args).code == Some(0) {
                sound.push(file.to_str().unwrap().to_owned());
            }
        }
        assert!(!sound.is_empty());
        case.flags.extend(sound);
        case.all = case.replay(&[]).0;
        case
    }

    fn replay(&self, filter: &[&str]) -> (Vec<Packet>, Value) {
        let out = self.dir.path().join("out.pcap");
        let mut args = vec![
            "replay",
            "--dedup",
            "off",
            "--format",
            "pcap",
            "--summary",
            "-",
        ];
        args.extend(["-w", out.to_str().unwrap()]);
        args.extend(filter);
        args.extend(self.flags.iter().map(String::as_str));
        let done = vxtap(args);
        assert_eq!(done.code, Some(0), "{filter:?}: {}", done.stderr);
        let summary: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_closes(&summary);
        (read(&fs::read(&out).unwrap()), summary)
    }

    /// Numbers of the packets that vxtap keeps.
    fn kept(&self, filter: &str) -> BTreeSet<usize> {
        let (kept, summary) = self.replay(&["--filter", filter]);
        let left_out = self.all.len() - kept.len();
        let filtered = summary["filtered"]["filter"].as_u64().unwrap_or(0);
        assert_eq!(filtered, left_out as u64, "{filter}");
        let mut numbers = BTreeSet::new();
        let mut all = self.all.iter().enumerate();
        for packet in kept {
            // In their order.
            let found = all.find(|(_, one)| **one == packet);
            numbers.insert(found.unwrap_or_else(|| panic!("{filter}: {packet:?}")).0);
        }
        numbers
    }

    /// Numbers of the frames that tcpdump keeps.
    fn tcpdump(&self, frames: &[(usize, u32, Vec<u8>)], filter: &str) -> BTreeSet<usize> {
        let path = self.dir.path().join("frames.pcap");
        write(&path, frames);
        let mut command = Command::new("tcpdump");
        command.arg("-r").arg(&path).args(["-w", "-", filter]);
        let done = run(&mut command);
        assert_eq!(done.code, Some(0), "{filter}: {}", done.stderr);
        let kept = read(&done.stdout);
        kept.iter().map(|packet| packet.seconds as usize).collect()
    }

    /// Holds vxtap against tcpdump for each of these expressions; each keeps some of the frames of one case at least
    /// and not all, which the caller sees.
    fn agree(&self, frames: &[(usize, u32, Vec<u8>)], filters: &[&str]) -> BTreeSet<String> {
        let comparable: BTreeSet<usize> = frames.iter().map(|(number, ..)| *number).collect();
        let mut telling = BTreeSet::new();
        for filter in filters {
            let ours: BTreeSet<usize> = self.kept(filter);
            let ours: BTreeSet<usize> = ours.intersection(&comparable).copied().collect();
            let theirs = self.tcpdump(frames, filter);
            if let Some(number) = ours.symmetric_difference(&theirs).next() {
                panic!(
                    "{filter}: vxtap {}, tcpdump {} of {:02x?}",
                    ours.contains(number),
                    theirs.contains(number),
                    self.all[*number]
                );
            }
            if !ours.is_empty() && ours.len() < comparable.len() {
                telling.insert((*filter).to_owned());
            }
        }
        telling
    }

    fn without_tags(&self) -> Vec<(usize, u32, Vec<u8>)> {
        let all = self.all.iter().enumerate();
        let frames = all.filter_map(|(number, packet)| {
            Some((number, packet.orig_len, without_tags(&packet.bytes)?))
        });
        frames.collect()
    }

    /// Frames with the tags that tcpdump knows too, as they are, but filled up.
    fn as_they_are(&self) -> Vec<(usize, u32, Vec<u8>)> {
        let all = self.all.iter().enumerate();
        let frames = all.filter(|(_, packet)| {
            let types = packet.bytes.get(12..).unwrap_or_default().chunks_exact(4);
            let mut types = types.map(|tag| u16::from_be_bytes([tag[0], tag[1]]));
            let behind = types.find(|number| ![0x8100, 0x88a8, 0x9100].contains(number));
            // Others, and layers behind which there may be tags, only vxtap looks into.
            behind.is_some_and(|number| [0x0800, 0x86dd, 0x0806].contains(&number))
        });
        let frames = frames.map(|(number, packet)| {
            let mut bytes = packet.bytes.clone();
            bytes.resize(bytes.len().max(160), 0xa5);
            (number, packet.orig_len, bytes)
        });
        frames.collect()
    }
}

/// Both programs understand these alike.
const EXPRESSIONS: &[&str] = &[
    "ip",
    "ip6",
    "arp",
    "tcp",
    "udp",
    "icmp",
    "icmp6",
    "sctp",
    "ip or arp",
    "not ip",
    "not (tcp or udp)",
    "ip proto 47",
    "proto \\tcp",
    "ip6 proto 17",
    "port 53",
    "tcp port 80",
    "src port 80 or 443",
    "tcp dst port 80",
    "udp and not port 53",
    "tcp and not port 80 and not port 443",
    "portrange 1-1024",
    "udp portrange 5000-6000",
    "host 10.0.0.1",
    "src host 10.0.0.1",
    "dst 10.0.0.2 or 10.0.0.1",
    "not host 10.0.0.1",
    "net 10.0.0.0/8",
    "net 192.168",
    "src net 172.16/12 or 10",
    "src and dst net 10.0.0.0/8",
    "net 192.168.0.0 mask 255.255.0.0 and tcp",
    "src or dst net 10.0.0.0/24",
    "ip host 10.0.0.1",
    "arp host 10.0.0.1",
    "ip6 net 2001:db8::/32",
    "net fe80::/10",
    "dst net ff00::/8",
    "ip multicast",
    "ip6 multicast",
    "ether multicast",
    "broadcast or multicast",
    "ether src host 02:00:00:00:00:01",
    "ether proto \\arp",
    "ether proto 0x86dd",
    "less 64",
    "greater 100",
    "len > 60 and len <= 200",
    "ip and tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn",
    "ip and tcp[13] & 0x10 != 0",
    "ip and tcp[tcpflags] & tcp-push != 0 or udp port 53",
    "icmp[icmptype] = icmp-echo",
    "icmp[icmptype] == icmp-echo or icmp[0] == icmp-echoreply",
    "tcp or udp and port 53",
    "tcp and port 80 or udp and port 53",
    "!tcp && (udp || icmp)",
    "not not udp",
    "not (host 10.0.0.1 and (tcp or icmp)) and greater 50",
    "ip and not (src net 10.0.0.0/8 and dst net 10.0.0.0/8)",
];

/// Asked of frames with their tags.
const OF_TAGS: &[&str] = &[
    "vlan",
    "not vlan",
    "vlan 5",
    "vlan and vlan",
    "vlan 5 and vlan 6",
    "ether proto 0x8100",
];

fn captures(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_capture = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        path.is_file()
            && [".pcap", ".pcapng", ".cap"]
                .iter()
                .any(|end| name.ends_with(end))
    };
    let mut files: Vec<PathBuf> = files.filter(is_capture).collect();
    files.sort();
    files
}

fn bundled() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    // Made by hand to be read as they are.
    captures(&dir)
        .into_iter()
        .filter(|path| {
            !path
                .file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("plain")
        })
        .collect()
}

#[test]
fn tcpdump_keeps_the_same_of_the_bundled_captures() {
    if !tool("tcpdump") {
        return;
    }
    let flags = [
        "--geneve-port",
        "6081",
        "--gpe-port",
        "4790",
        "--depth",
        "2",
    ];
    let case = Case::of(bundled(), &flags);
    let frames = case.without_tags();
    assert!(frames.len() > 100, "{} of {}", frames.len(), case.all.len());
    let mut telling = case.agree(&frames, EXPRESSIONS);
    telling.extend(case.agree(&case.as_they_are(), OF_TAGS));
    // An expression that keeps all frames or none proves little.
    assert!(telling.len() > 40, "{} tell: {telling:?}", telling.len());
}

#[test]
fn tcpdump_keeps_the_same_of_real_captures() {
    let Some(corpus) = corpus() else { return };
    if !tool("tcpdump") {
        return;
    }
    let mut files = captures(&corpus.join("vxlan"));
    files.extend(captures(&corpus.join("pcapng")));
    let mut telling = BTreeSet::new();
    for (files, flags) in [
        (files, &["--port", "4789", "--port", "8472"][..]),
        (captures(&corpus.join("plain")), &["--plain"]),
    ] {
        let case = Case::of(files, flags);
        let frames = case.without_tags();
        println!(
            "{flags:?}: {} of {} frames compared",
            frames.len(),
            case.all.len()
        );
        assert!(frames.len() > 100);
        // Each takes half a second on so many frames: every third, where nobody has the time.
        let long = common::lab::long_tests();
        let some = EXPRESSIONS.iter().enumerate();
        let some = some.filter(|(at, _)| long || at % 3 == 0);
        let some: Vec<_> = some.map(|(_, expression)| *expression).collect();
        telling.extend(case.agree(&frames, &some));
        telling.extend(case.agree(&case.as_they_are(), OF_TAGS));
    }
    assert!(telling.len() > 15, "{} tell: {telling:?}", telling.len());
}

/// What tcpdump cannot ask.
#[test]
fn sessions_and_truncation_are_asked_too() {
    let case = Case::of(bundled(), &[]);
    let (of_vni, _) = case.replay(&["--vni", "5,100-200"]);
    let (filtered, _) = case.replay(&["--filter", "vni 5,100-200"]);
    assert_eq!(filtered, of_vni);
    assert!(!of_vni.is_empty() && of_vni.len() < case.all.len());
    let (_, summary) = case.replay(&[]);
    let sessions = summary["sessions"].as_array().unwrap();
    let sum = |of: &dyn Fn(&Value) -> bool, what: &str| -> u64 {
        let sessions = sessions.iter().filter(|session| of(session));
        sessions
            .map(|session| session[what].as_u64().unwrap_or(0))
            .sum()
    };
    let source = sessions[0]["source"].as_str().unwrap();
    let of_source = sum(&|session| session["source"] == source, "packets");
    let (kept, _) = case.replay(&["--filter", &format!("source {source}")]);
    assert_eq!(kept.len() as u64, of_source);
    let (truncated, told) = case.replay(&["--filter", "truncated"]);
    assert_eq!(told["delivered"], sum(&|_| true, "truncated"));
    assert!(!truncated.is_empty());
    let (whole, _) = case.replay(&["--filter", "not truncated"]);
    assert_eq!(truncated.len() + whole.len(), case.all.len());
}

/// Flow records and the capture hold the same packets, whatever the number of workers; what was left out is counted.
#[test]
fn flows_hold_what_the_capture_holds() {
    let dir = tempfile::tempdir().unwrap();
    let (mut records, mut captures) = (Vec::new(), Vec::new());
    let done = vxtap([
        "replay",
        "testdata/demo.pcap",
        "--dedup",
        "off",
        "--summary",
        "-",
    ]);
    let all: Value = serde_json::from_slice(&done.stdout).unwrap();
    for workers in ["1", "3"] {
        let [flows, capture] = ["flows.jsonl", "out.pcap"].map(|name| dir.path().join(name));
        let done = vxtap([
            "replay",
            "testdata/demo.pcap",
            "--filter",
            "tcp port 443 or udp",
            "--workers",
            workers,
            "--format",
            "pcap",
            "--dedup",
            "off",
            "--summary",
            "-",
            "-w",
            capture.to_str().unwrap(),
            "--flows",
            flows.to_str().unwrap(),
        ]);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        let summary: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_closes(&summary);
        let left_out = all["delivered"].as_u64().unwrap() - summary["delivered"].as_u64().unwrap();
        let mut filtered = reasons(&all, "filtered");
        filtered.extend(expected([("filter", left_out)]));
        assert!(left_out > 0);
        assert_eq!(reasons(&summary, "filtered"), filtered);
        assert!(done.stderr.contains("filter"), "{}", done.stderr);
        let text = fs::read_to_string(&flows).unwrap();
        let mut packets = 0;
        for line in text.lines() {
            let record: Value = serde_json::from_str(line).unwrap();
            let ports = [&record["src_port"], &record["dst_port"]];
            assert!(
                record["proto"] == 17 || ports.contains(&&Value::from(443)),
                "{record}"
            );
            packets += record["pkts_o"].as_u64().unwrap() + record["pkts_r"].as_u64().unwrap();
        }
        assert_eq!(packets, summary["delivered"].as_u64().unwrap());
        let capture = fs::read(&capture).unwrap();
        assert_eq!(read(&capture).len() as u64, packets);
        records.push(text);
        captures.push(capture);
    }
    assert_eq!(records[0], records[1]);
    assert_eq!(captures[0], captures[1]);
}

/// `extract --filter` takes out of a capture what a replay with that filter would have written to it.
#[cfg(target_os = "linux")]
#[test]
fn extract_asks_the_same() {
    let case = Case::of(bundled(), &[]);
    let [all, replayed, extracted] = ["all.pcapng", "replayed.pcapng", "extracted.pcapng"]
        .map(|name| case.dir.path().join(name));
    let replay = |to: &Path, filter: &[&str]| {
        let mut args = vec!["replay", "--dedup", "off", "-w", to.to_str().unwrap()];
        args.extend(filter);
        args.extend(case.flags.iter().map(String::as_str));
        assert_eq!(vxtap(args).code, Some(0));
    };
    replay(&all, &[]);
    for filter in [
        "tcp and not port 443",
        "truncated",
        "not truncated and vlan",
        "source 10.0.0.0/8 and inbound",
        "vni 100-200 and host 10.0.1.11",
        "greater 1000",
        "arp",
    ] {
        replay(&replayed, &["--filter", filter]);
        let done = vxtap([
            "extract",
            all.to_str().unwrap(),
            "--filter",
            filter,
            "-w",
            extracted.to_str().unwrap(),
        ]);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        let [expected, found] = [&replayed, &extracted].map(|path| {
            let mut frames = common::frames(&fs::read(path).unwrap());
            frames.sort_by(|a, b| (a.ts_ns, &a.bytes).cmp(&(b.ts_ns, &b.bytes)));
            let frames = frames.into_iter();
            frames
                .map(|frame| (frame.ts_ns, frame.orig_len, frame.bytes))
                .collect::<Vec<_>>()
        });
        assert!(
            !found.is_empty() && found.len() < case.all.len(),
            "{filter}"
        );
        assert!(
            found == expected,
            "{filter}: {} and {}",
            found.len(),
            expected.len()
        );
    }
}

#[test]
fn a_mistake_is_shown_where_it_is() {
    let refused = vxtap(["replay", "in.pcap", "--filter", "tcp and prot 80"]);
    assert_eq!(refused.code, Some(2));
    let says = "--filter: column 9: 'prot' is no term of a filter; did you mean 'port'?\n    tcp and prot 80\n            ^^^^\n";
    assert!(refused.stderr.contains(says), "{}", refused.stderr);
    // Nothing is left: the last lines say why.
    let done = vxtap(["replay", "testdata/demo.pcap", "--filter", "vni 16777215"]);
    assert_eq!(done.code, Some(0));
    assert!(
        done.stderr.contains("did not fit --filter"),
        "{}",
        done.stderr
    );
}
