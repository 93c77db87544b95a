//! `--snaplen` and `--slice`: what is stored of each frame, and that nothing else changes.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{
    Replayed, corpus, flags_for, frames, opens_with, readable_names, replay, replay_testdata, run,
    testdata, tool, vxtap,
};
use serde_json::Value;

/// A protocol as tshark sees it in a frame: name, first byte, bytes.
type Layer = (String, usize, usize);

/// The protocols of each frame.
fn layers(capture: &Path) -> Vec<Vec<Layer>> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(capture).args(["-n", "-T", "pdml"]);
    for preference in ["ip.defragment:FALSE", "ipv6.defragment:FALSE"] {
        command.args(["-o", preference]);
    }
    let said = run(&mut command);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let mut frames = Vec::new();
    for line in String::from_utf8(said.stdout).unwrap().lines() {
        if line.starts_with("<packet>") {
            frames.push(Vec::new());
        }
        let value = |name: &str| {
            let at = line.split_once(&format!(" {name}=\""))?.1;
            Some(at.split_once('"')?.0.to_owned())
        };
        if line.trim_start().starts_with("<proto ")
            && let (Some(name), Some(at), Some(len)) = (value("name"), value("pos"), value("size"))
            && !["geninfo", "frame"].contains(&name.as_str())
        {
            let layer = (name, at.parse().unwrap(), len.parse().unwrap());
            frames.last_mut().unwrap().push(layer);
        }
    }
    frames
}

/// Where the headers of a frame end; `None` where tshark does not say.
fn end_of_headers(layers: &[Layer]) -> Option<usize> {
    // What it takes for IP behind MPLS may be none.
    if layers.iter().any(|(name, ..)| name == "_ws.malformed") {
        return None;
    }
    let is_ip = |(name, ..): &&Layer| name == "ip" || name == "ipv6";
    let Some(ip) = layers.iter().position(|layer| is_ip(&layer)) else {
        let tags = layers.iter().skip(1);
        let tags = tags.take_while(|(name, ..)| name == "vlan" || name == "ieee8021ad");
        let tags = tags.count();
        // What vxtap finds behind others tshark may not know.
        let is_known = layers
            .get(1 + tags)
            .is_some_and(|(name, ..)| name == "arp" || name == "lldp");
        return is_known.then_some(14 + 4 * tags);
    };
    let is_extension = |(name, ..): &&Layer| name == "ah" || name.starts_with("ipv6.");
    let behind_ip = layers.iter().skip(ip + 1);
    let extensions = behind_ip.clone().take_while(is_extension).count();
    let behind = behind_ip.clone().nth(extensions);
    let behind = behind.map(|(name, at, len)| (name.as_str(), *at, *len));
    match behind {
        Some(("tcp", at, len)) => Some(at + len.max(20)),
        Some(("udp" | "icmp" | "icmpv6", at, _)) => Some(at + 8),
        Some(("sctp", at, _)) => Some(at + 12),
        _ => {
            let (_, at, len) = &layers[ip + extensions];
            (layers[ip].0 == "ip").then_some(at + len)
        }
    }
}

/// The captures and the flags that they want.
fn captures() -> Vec<(PathBuf, &'static [&'static str])> {
    let of_testdata = readable_names().map(|name| (testdata(&name), flags_for(&name)));
    let mut captures: Vec<_> = of_testdata.collect();
    if let Some(corpus) = corpus() {
        let entries = fs::read_dir(corpus.join("vxlan")).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        captures.extend(paths.map(|path| (path, &[][..])));
    }
    captures
}

fn replay_with(capture: &Path, flags: &[&str], more: &[&str]) -> Replayed {
    let words = [capture.to_str().unwrap()];
    replay(words.iter().chain(flags).chain(more))
}

#[test]
fn slices_end_where_tshark_sees_the_headers_end() {
    if !tool("tshark") {
        return;
    }
    let (mut compared, mut untold, mut others) = (0, 0, Vec::new());
    for (capture, flags) in captures() {
        // Frames that begin like an IP packet: tshark takes them for one.
        if capture.ends_with("inner-pseudowire.pcap") {
            continue;
        }
        let name = capture.display();
        let whole = replay_with(&capture, flags, &[]);
        let sliced = replay_with(&capture, flags, &["--slice", "headers"]);
        let layers = layers(&whole.capture());
        let (whole, sliced) = (whole.frames(), sliced.frames());
        assert_eq!(whole.len(), sliced.len(), "{name}");
        assert_eq!(whole.len(), layers.len(), "{name}");
        for (number, ((whole, sliced), layers)) in (1..).zip(whole.iter().zip(&sliced).zip(&layers))
        {
            let Some(end) = end_of_headers(layers) else {
                untold += 1;
                continue;
            };
            compared += 1;
            let (is, expected) = (sliced.bytes.len(), end.min(whole.bytes.len()));
            if is != expected {
                others.push(format!(
                    "{name} frame {number}: {is}, not {expected}: {layers:?}"
                ));
            }
        }
    }
    assert!(others.is_empty(), "{others:#?}");
    assert!(
        compared > 600 && untold < compared / 10,
        "{compared}, {untold}"
    );
}

/// What a summary says of the packets, without what the capture came to.
fn of_packets(summary: &Value) -> Value {
    let mut summary = summary.clone();
    for noted in ["sliced", "snap_length"] {
        summary["noted"].as_object_mut().unwrap().remove(noted);
    }
    for sink in summary["sinks"].as_array_mut().unwrap() {
        for field in ["bytes", "path"] {
            sink.as_object_mut().unwrap().remove(field);
        }
    }
    summary
}

#[test]
fn nothing_else_changes() {
    for (capture, flags) in captures() {
        let name = capture.display();
        let whole = replay_with(&capture, flags, &[]);
        let cuts: [&[&str]; 3] = [
            &["--slice", "headers"],
            &["--snaplen", "60"],
            &["--snaplen", "40", "--slice", "headers"],
        ];
        for cut in cuts {
            let sliced = replay_with(&capture, flags, cut);
            let told = [&whole, &sliced].map(|replayed| of_packets(&replayed.summary));
            assert_eq!(told[0], told[1], "{name} {cut:?}");
            assert_eq!(whole.flow_lines(), sliced.flow_lines(), "{name} {cut:?}");
            let (before, after) = (whole.frames(), sliced.frames());
            let mut shorter = 0;
            for (before, after) in before.iter().zip(&after) {
                assert!(before.bytes.starts_with(&after.bytes), "{name} {cut:?}");
                assert_eq!(before.orig_len, after.orig_len, "{name} {cut:?}");
                assert_eq!(before.comment, after.comment, "{name} {cut:?}");
                assert_eq!(
                    (&before.interface, before.ts_ns, before.flags),
                    (&after.interface, after.ts_ns, after.flags)
                );
                shorter += u64::from(after.bytes.len() < before.bytes.len());
                if cut[0] == "--snaplen" {
                    assert!(after.bytes.len() <= cut[1].parse().unwrap());
                }
            }
            let noted = sliced.reasons("noted");
            let count = |reason: &str| noted.get(reason).copied().unwrap_or_default();
            assert_eq!(count("sliced") + count("snap_length"), shorter, "{name}");
            if tool("capinfos") && tool("tcpdump") && !before.is_empty() {
                opens_with("capinfos", &sliced.capture());
                opens_with("tcpdump", &sliced.capture());
            }
        }
    }
}

/// What we left out is never the mirror's doing, however often a capture is replayed.
#[test]
fn a_slice_is_told_as_a_snap_length() {
    let demo = replay_testdata("demo.pcap", &["--slice", "headers"]);
    let capture = demo.capture();
    let again = replay_with(&capture, &["--plain"], &[]);
    let cut = |replayed: &Replayed| {
        replayed
            .sessions()
            .iter()
            .map(|s| s["truncated"].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!(demo.sessions().len(), again.sessions().len());
    assert!(cut(&demo) > 0, "the mirror cut packets in the first place");
    assert!(cut(&again) > cut(&demo));
    for session in again.sessions() {
        assert_eq!(session["cut_by"], "snap_length", "{session}");
        let advice = session["advice"].as_str().unwrap();
        assert!(
            advice.contains("the capture that was replayed cut them itself"),
            "{advice}"
        );
    }
    let (first, second) = (demo.frames(), again.frames());
    for (first, second) in first.iter().zip(&second) {
        assert_eq!(first.orig_len, second.orig_len);
        assert_eq!(first.bytes, second.bytes);
        let told = |comment: &Option<String>| comment.clone().unwrap_or_default();
        assert!(!told(&first.comment).contains("snap length"));
        if !told(&second.comment).is_empty() {
            assert!(told(&second.comment).contains("snap length"), "{second:?}");
        }
    }
    let by_mirror = first.iter().filter(|frame| frame.comment.is_some());
    assert_eq!(by_mirror.count() as u64, cut(&demo));
}

#[test]
fn pcap_and_a_pipe_are_sliced_too() {
    let demo = testdata("demo.pcap");
    let demo = demo.to_str().unwrap();
    let pcapng = replay_testdata("demo.pcap", &["--snaplen", "64"]);
    let piped = vxtap(["replay", demo, "--snaplen", "64", "-w", "-"]);
    assert_eq!(fs::read(pcapng.capture()).unwrap(), piped.stdout);
    let piped = vxtap([
        "replay",
        demo,
        "--snaplen",
        "64",
        "--format",
        "pcap",
        "-w",
        "-",
    ]);
    // What readers allocate by stays as large as a frame can be.
    assert_eq!(piped.stdout[16..20], 262_144_u32.to_le_bytes());
    let mut at = 24;
    for frame in frames(&fs::read(pcapng.capture()).unwrap()) {
        let word = |at: usize| u32::from_le_bytes(piped.stdout[at..at + 4].try_into().unwrap());
        let len = word(at + 8) as usize;
        assert_eq!(word(at + 12), frame.orig_len);
        assert_eq!(piped.stdout[at + 16..at + 16 + len], frame.bytes);
        at += 16 + len;
    }
    assert_eq!(at, piped.stdout.len());
}

#[test]
fn what_cannot_be_sliced_is_refused() {
    let demo = testdata("demo.pcap");
    for (flag, value) in [
        ("--snaplen", "13"),
        ("--snaplen", "262145"),
        ("--snaplen", "1k"),
        ("--slice", "payload"),
    ] {
        let said = vxtap(["replay", demo.to_str().unwrap(), flag, value]);
        assert_eq!(said.code, Some(2), "{flag} {value}");
        assert!(said.stderr.contains(flag), "{}", said.stderr);
    }
}
