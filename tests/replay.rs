//! `vxtap replay`: every capture in `testdata/` against its golden and against numbers worked out by hand
//! from `testdata/README.md`. `peers.rs` has what other programs see in the same files.
//!
//! `UPDATE_GOLDEN=1` writes the goldens again; look at the difference before keeping it.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use common::{
    Replayed, Running, assert_closes, expected, flags_for, flow_packets, json_lines, missing,
    opens_with, readable_names, replay, replay_testdata, run, testdata, tool, vxtap, vxtap_command,
    vxtap_fed,
};
use serde_json::Value;

// ---------------------------------------------------------------------------------------------
// Goldens

/// `tcpdump -i any` on a bridge has every packet twice: nothing is lost of a datagram whose last piece comes
/// again behind the whole.
#[test]
fn pieces_that_a_capture_has_twice() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("twice.pcap");
    let once = std::fs::read(testdata("outer-fragments.pcap")).unwrap();
    let (header, mut rest) = once.split_at(24);
    let mut twice = header.to_vec();
    let mut records = 0;
    while let Some(len) = rest.get(8..12) {
        let len = u32::from_le_bytes(len.try_into().unwrap()) as usize;
        let (record, behind) = rest.split_at(16 + len);
        // A piece without its first one is lost, however often it comes.
        records += 1;
        twice.extend_from_slice(record);
        twice.extend_from_slice(record);
        rest = behind;
    }
    std::fs::write(&path, twice).unwrap();
    assert_eq!(records, 12);
    let replayed = replay([path]);
    assert_closes(&replayed.summary);
    // 3 whole ones come twice, 4 in pieces once; the piece that is left over counts twice.
    assert_eq!(replayed.count("delivered"), 2 * 3 + 4);
    assert_eq!(
        replayed.reasons("dropped"),
        expected([("fragment_incomplete", 2)])
    );
    assert_eq!(
        replayed.reasons("filtered"),
        expected([("fragment_joined", 12)])
    );
}

#[test]
fn every_capture_gives_its_golden() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1");
    let golden = testdata("golden");
    let mut wanted = BTreeSet::new();
    let mut differences = Vec::new();
    for name in readable_names() {
        let replayed = replay_testdata(&name, flags_for(&name));
        let flows = replayed.flow_lines();
        let bytes = fs::metadata(replayed.dir.path().join("out.jsonl"));
        assert_eq!(replayed.summary["sinks"][1]["bytes"], bytes.unwrap().len());
        let summary = without_place(&replayed.summary, &flows);
        let summary = serde_json::to_string_pretty(&summary).unwrap();
        for (end, is) in [("jsonl", flows), ("json", summary + "\n")] {
            let file = format!("{name}.{end}");
            let path = golden.join(&file);
            if update {
                fs::create_dir_all(&golden).unwrap();
                fs::write(&path, &is).unwrap();
            }
            match fs::read_to_string(&path) {
                Ok(should) if should == is => {}
                Ok(should) => {
                    differences.push(format!("{file}: {}", first_difference(&should, &is)))
                }
                Err(error) => differences.push(format!("{file}: {error}")),
            }
            wanted.insert(file);
        }
    }
    for entry in fs::read_dir(&golden).into_iter().flatten() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        if !wanted.contains(&file) {
            differences.push(format!("{file}: there is no such capture"));
        }
    }
    assert!(
        differences.is_empty(),
        "UPDATE_GOLDEN=1 accepts these differences:\n{}",
        differences.join("\n")
    );
}

/// The summary without what names this build or this machine. So the flow records are counted without their places in
/// the capture.
fn without_place(summary: &Value, flows: &str) -> Value {
    let mut summary = summary.clone();
    for of_the_machine in ["version", "workers", "flows_joined"] {
        summary.as_object_mut().unwrap().remove(of_the_machine);
    }
    for sink in summary["sinks"].as_array_mut().unwrap() {
        // The size of the capture depends on the architecture and version named in it.
        let sink = sink.as_object_mut().unwrap();
        sink.remove("path");
        if sink["kind"] == "capture" {
            sink.remove("bytes");
        } else {
            sink["bytes"] = flows.len().into();
        }
    }
    summary
}

fn first_difference(should: &str, is: &str) -> String {
    let mut lines = should.lines().zip(is.lines()).enumerate();
    match lines.find(|(_, (should, is))| should != is) {
        Some((at, (should, is))) => {
            format!("line {}\n  should be {should}\n  but is    {is}", at + 1)
        }
        None => format!(
            "{} lines instead of {}",
            is.lines().count(),
            should.lines().count()
        ),
    }
}

// ---------------------------------------------------------------------------------------------
// Single captures

#[test]
fn demo() {
    let demo = replay_testdata("demo.pcap", &[]);
    assert_eq!(
        (demo.count("received"), demo.count("delivered")),
        (200, 198)
    );
    assert_eq!(demo.reasons("malformed"), expected([]));
    assert_eq!(
        demo.reasons("filtered"),
        expected([("probe", 1), ("not_udp", 1)])
    );
    assert_eq!(demo.reasons("noted"), expected([("inner_not_ip", 4)]));
    let expected_sessions = [
        // VNI, source, packets, truncated, missing bytes, oversize, unknown
        (101, "10.0.1.11", [90, 0, 0, 0, 2]),
        (101, "10.0.1.12", [55, 18, 8542, 0, 2]),
        (202, "10.0.2.21", [53, 21, 1050, 0, 0]),
    ];
    assert_eq!(demo.sessions().len(), expected_sessions.len());
    for (vni, source, counts) in expected_sessions {
        let session = demo.session(vni, source);
        assert_eq!(counts_of(session), counts, "{session}");
        assert_eq!(session["target"], "10.0.9.9");
        assert_eq!(session["tunnel"], "vxlan");
    }
    let cut_to_96 = demo.session(101, "10.0.1.12");
    assert_eq!(cut_to_96["cut_size"], 96);
    assert_eq!(cut_to_96["cut_by"], "session_packet_length");
    let cut_to_1500 = demo.session(202, "10.0.2.21");
    assert_eq!(cut_to_1500["cut_size"], 1464);
    assert_eq!(cut_to_1500["cut_by"], "mtu");
    assert_eq!(cut_to_1500["largest_inner_ip"], 1500);
    assert!(demo.session(101, "10.0.1.11")["advice"].is_null());
    // ARP is in the capture and in no flow.
    assert_eq!(demo.packets_in_flows(), 198 - 4);
    assert_eq!(demo.frames().len(), 198);
    assert!(
        demo.run.stderr.contains(
            "200 received = 198 delivered + 0 malformed + 2 filtered + 0 duplicate + 0 dropped"
        ),
        "{}",
        demo.run.stderr
    );
}

/// Packets, truncated, missing bytes, oversize, unknown.
fn counts_of(session: &Value) -> [u64; 5] {
    [
        "packets",
        "truncated",
        "missing_bytes",
        "oversize",
        "unknown_length",
    ]
    .map(|name| session[name].as_u64().unwrap())
}

#[test]
fn a_session_cut_to_96_bytes() {
    let replayed = replay_testdata("session-96.pcap", &[]);
    let session = replayed.session(1, "10.0.1.12");
    assert_eq!(counts_of(session), [11, 4, 386, 0, 2]);
    assert_eq!(session["suspect"], 1, "LLDP as long as the cut");
    assert_eq!(
        (&session["cut_size"], &session["cut_by"]),
        (&96.into(), &"session_packet_length".into())
    );
    let missing: Vec<(usize, u32)> = missing(&replayed.frames()).collect();
    assert_eq!(missing, [(5, 65), (7, 318), (9, 1), (10, 2)]);
}

#[test]
fn a_path_with_an_mtu_of_1500() {
    let replayed = replay_testdata("session-mtu.pcap", &[]);
    let session = replayed.session(7, "10.0.2.21");
    assert_eq!(
        counts_of(session),
        [8, 3, 150, 0, 1],
        "1450 bytes fit exactly"
    );
    assert_eq!(
        session["suspect"], 1,
        "not IP, and exactly as long as the MTU allows"
    );
    assert_eq!(
        (&session["cut_size"], &session["cut_by"]),
        (&1464.into(), &"mtu".into())
    );
    let missing: Vec<(usize, u32)> = missing(&replayed.frames()).collect();
    assert_eq!(missing, [(2, 50), (3, 50), (7, 50)]);

    // With jumbo frames allowed nothing is too large, and nothing is as long as that MTU.
    let jumbo = replay_testdata("session-mtu.pcap", &["--mtu", "9001"]);
    let session = jumbo.session(7, "10.0.2.21");
    assert_eq!(counts_of(session), [8, 3, 150, 0, 1]);
    // A path of 1499 would not have carried one of them.
    let smaller = replay_testdata("session-mtu.pcap", &["--mtu", "1499"]);
    assert_eq!(smaller.session(7, "10.0.2.21")["oversize"], 1);
}

#[test]
fn outer_fragments_are_put_together() {
    let replayed = replay_testdata("outer-fragments.pcap", &[]);
    assert_eq!(
        (replayed.count("received"), replayed.count("delivered")),
        (12, 7)
    );
    assert_eq!(
        replayed.reasons("filtered"),
        expected([("fragment_joined", 4)])
    );
    // A last piece without its first.
    assert_eq!(
        replayed.reasons("dropped"),
        expected([("fragment_incomplete", 1)])
    );
    assert_eq!(replayed.session(7, "10.0.1.11")["packets"], 6);
    assert_eq!(replayed.session(7, "2001:db8:1::11")["packets"], 1);
    // A first piece without its last: 160 bytes less UDP and VXLAN headers of a frame of 302.
    assert_eq!(missing(&replayed.frames()).collect::<Vec<_>>(), [(7, 158)]);
    assert_eq!(
        replayed.reasons("noted"),
        expected([("fragments_missing", 1), ("out_of_order", 1)])
    );
}

/// What the capture filter `udp port 4789` leaves of fragmented packets is not lost, and what is missing is
/// told with its cause: fragments that were not captured, or the snap length. Overlaps win nothing.
#[test]
fn first_fragments_alone() {
    let replayed = replay_testdata("outer-first-fragments.pcap", &[]);
    assert_eq!(
        (replayed.count("received"), replayed.count("delivered")),
        (23, 6)
    );
    assert_eq!(
        replayed.reasons("malformed"),
        expected([("outer_overlap", 3)])
    );
    assert_eq!(
        replayed.reasons("filtered"),
        expected([("fragment_joined", 7), ("not_udp", 1), ("other_port", 3)])
    );
    // Two pieces whose first is missing, and a first one that ends in the UDP header.
    assert_eq!(
        replayed.reasons("dropped"),
        expected([("fragment_incomplete", 3)])
    );
    assert_eq!(
        replayed.reasons("noted"),
        expected([("fragments_missing", 2), ("out_of_order", 3)])
    );
    let frames = replayed.frames();
    // Those that are waited for in vain come at the end.
    let of_packet = |number: u8| {
        let order = [6, 7, 9, 1, 2, 8];
        let at = order.iter().position(|other| *other == number).unwrap();
        let frame = &frames[at];
        let text = &format!("packet {number} ")[..frame.bytes.len().min(51) - 42];
        assert!(frame.bytes[42..].starts_with(text.as_bytes()), "{number}");
        let comment = frame.comment.clone().unwrap_or_default();
        (frame.bytes.len(), frame.orig_len, comment)
    };
    let cut = |kept: usize, missing: u32, why: &str| {
        let comment = format!("truncated: {missing} of 1442 bytes missing ({why})");
        (kept, 1442, comment)
    };
    let lost = "later outer fragments";
    assert_eq!(of_packet(1), cut(1448 - 16, 10, lost));
    assert_eq!(of_packet(2), cut(1208 - 16, 250, lost));
    assert_eq!(of_packet(6), (1442, 1442, String::new()));
    // 96 bytes less Ethernet, IP, UDP and VXLAN headers.
    let snap = "snap length of the replayed capture";
    assert_eq!(of_packet(7), cut(46, 1396, snap));
    assert_eq!(of_packet(8), cut(46, 1396, snap));
    assert_eq!(of_packet(9), (1442, 1442, String::new()));
    let session = replayed.session(7, "10.0.1.11");
    assert_eq!(counts_of(session), [6, 4, 10 + 250 + 2 * 1396, 0, 0]);
    let advice = session["advice"].as_str().unwrap();
    assert!(advice.contains("later fragments"), "{advice}");
    assert!(!advice.contains("an MTU of"), "{advice}");
    let said = &replayed.run.stderr;
    assert!(
        said.contains("'udp port 4789 or (ip[6:2] & 0x1fff != 0)'"),
        "{said}"
    );
}

/// tcpdump on a machine with UDP GSO or GRO shows several datagrams as one packet.
#[test]
fn trains_of_datagrams() {
    let replayed = replay_testdata("outer-trains.pcap", &[]);
    // 4 of 4, 2, 3, 4; four single ones; two that prove nothing; 2 of 4.
    assert_eq!(
        (replayed.count("received"), replayed.count("delivered")),
        (33, 33)
    );
    assert_eq!(
        replayed.reasons("noted"),
        expected([
            ("inner_not_ip", 1),
            ("outer_train", 8),
            ("outer_train_cut", 2),
            ("outer_train_unproven", 2),
        ])
    );
    assert_eq!(replayed.session(7, "2001:db8:1::11")["packets"], 2);
    let frames = replayed.frames();
    let lens: Vec<_> = frames.iter().map(|frame| frame.bytes.len()).collect();
    let four = [442, 442, 442, 142];
    assert_eq!(lens[..16], [four, four, four, four].concat());
    assert_eq!(lens[16..21], [1042, 1042, 60, 60, 60]);
    assert_eq!(lens[21..25], [96; 4]);
    // One datagram each, whatever is in it: nested VXLAN, whole and cut, a file transfer, whole and cut.
    assert_eq!(lens[25..29], [122, 92, 458, 208]);
    // Left together.
    assert_eq!(lens[29..31], [96 + 8 + 96, 342 + 8 + 342]);
    assert_eq!(lens[31..], [442, 600 - 42 - 450 - 8]);
    for (at, frame) in frames[..16].iter().enumerate() {
        let text = format!("packet {} ", at % 4);
        assert!(frame.bytes[42..].starts_with(text.as_bytes()), "{at}");
    }
}

#[test]
fn another_port() {
    let replayed = replay_testdata("other-port.pcap", &[]);
    assert_eq!(replayed.count("delivered"), 1);
    assert_eq!(replayed.reasons("filtered"), expected([("other_port", 4)]));
    let both = replay_testdata("other-port.pcap", &["--port", "4789", "--port", "8472"]);
    assert_eq!(both.count("delivered"), 4);
    assert_eq!(both.reasons("filtered"), expected([("other_port", 1)]));
    let other = replay_testdata("other-port.pcap", &["--port", "8472"]);
    assert_eq!(other.count("delivered"), 3, "the flag replaces the default");
}

/// Whoever looks on the wrong port is told the right one.
#[test]
fn a_wrong_port_is_answered_with_the_right_one() {
    let replayed = replay_testdata("other-port.pcap", &["--port", "4000"]);
    assert_eq!(replayed.count("delivered"), 0);
    assert!(
        replayed
            .run
            .stderr
            .contains("3 datagrams to port 8472 look like VXLAN: try --port 8472."),
        "{}",
        replayed.run.stderr
    );
}

#[test]
fn vxlan_gpe() {
    let replayed = replay_testdata("gpe.pcap", &[]);
    // NSH twice, an unknown protocol, an OAM packet.
    assert_eq!(replayed.count("delivered"), 5);
    assert_eq!(
        replayed.reasons("filtered"),
        expected([("gpe_not_decoded", 4)])
    );
    assert_eq!(
        replayed.reasons("noted"),
        expected([("ethernet_added", 2), ("reserved_bits", 1)])
    );
    assert!(
        replayed
            .flows
            .iter()
            .all(|flow| flow["tunnel"] == "vxlan-gpe")
    );
    // IPv4 and IPv6 without a frame get an empty Ethernet header with the right type.
    let frames = replayed.frames();
    assert_eq!(
        frames[0].bytes[..15],
        *b"\0\0\0\0\0\0\0\0\0\0\0\0\x08\x00\x45"
    );
    assert_eq!(
        frames[1].bytes[..15],
        *b"\0\0\0\0\0\0\0\0\0\0\0\0\x86\xdd\x60"
    );
    assert_ne!(
        frames[2].bytes[..12],
        [0; 12],
        "an Ethernet frame keeps its own"
    );
    let off = replay_testdata("gpe.pcap", &["--gpe-port", "0"]);
    assert_eq!(off.reasons("filtered"), expected([("other_port", 9)]));
}

#[test]
fn geneve() {
    let replayed = replay_testdata("geneve.pcap", &[]);
    assert_eq!(replayed.count("delivered"), 5);
    assert_eq!(
        replayed.reasons("malformed"),
        expected([("geneve_version", 1)])
    );
    assert_eq!(
        replayed.reasons("filtered"),
        expected([("geneve_control", 1), ("geneve_not_mirror", 2)])
    );
    let sessions: BTreeMap<(u64, &str), (u64, &str)> = replayed
        .sessions()
        .iter()
        .map(|session| {
            let text = |name: &str| session[name].as_str().unwrap();
            let number = |name: &str| session[name].as_u64().unwrap();
            (
                (number("vni"), text("source")),
                (number("packets"), text("tunnel")),
            )
        })
        .collect();
    // VXLAN behind a gateway load balancer keeps the mirror session of the VXLAN header.
    let should = [
        ((7, "10.0.1.11"), (2, "vxlan")),
        ((7, "2001:db8:1::11"), (1, "vxlan")),
        ((5001, "10.0.1.11"), (2, "geneve")),
    ];
    assert_eq!(sessions, should.into());
    let off = replay_testdata("geneve.pcap", &["--geneve-port", "0"]);
    assert_eq!(off.reasons("filtered"), expected([("other_port", 9)]));
}

#[test]
fn nested_vxlan() {
    let vnis = |args: &[&str]| -> Vec<String> {
        let replayed = replay_testdata("nested.pcap", args);
        assert_eq!(replayed.count("delivered"), 4);
        let frames = replayed.frames().into_iter();
        frames
            .map(|frame| frame.interface.split('@').next().unwrap().to_owned())
            .collect()
    };
    assert_eq!(vnis(&[]), ["vni20", "vni10", "vni5", "vni10"]);
    assert_eq!(
        vnis(&["--depth", "2"]),
        ["vni20", "vni20", "vni10", "vni10"]
    );
    assert_eq!(
        vnis(&["--depth", "3"]),
        ["vni20", "vni20", "vni20", "vni10"]
    );
    assert_eq!(
        vnis(&["--depth", "16"]),
        ["vni20", "vni20", "vni20", "vni10"]
    );

    // The last one is cut inside its second VXLAN header: it stays where it is, 86 bytes short.
    let deep = replay_testdata("nested.pcap", &["--depth", "3"]);
    assert_eq!(missing(&deep.frames()).collect::<Vec<_>>(), [(4, 86)]);
    // The innermost packets of the first three are one conversation.
    let inner: Vec<u64> = deep
        .flows
        .iter()
        .filter(|flow| flow["vni"] == 20)
        .map(flow_packets)
        .collect();
    assert_eq!(inner.iter().sum::<u64>(), 3);
}

#[test]
fn lengths_of_zero() {
    let replayed = replay_testdata("inner-zero-length.pcap", &[]);
    assert_eq!(replayed.count("delivered"), 5);
    let session = replayed.session(7, "10.0.1.11");
    // An IP length of zero declares nothing, in a jumbogram (RFC 2675) as in BIG TCP and segmentation
    // offload: what is present is all that can be told.
    assert_eq!(missing(&replayed.frames()).count(), 0);
    assert_eq!(counts_of(session)[..3], [5, 0, 0]);
    assert_eq!(session["unknown_length"], 4);
    // A payload length of zero with a TCP header behind it: segmentation offload, not an empty packet.
    let ports = |flow: &&Value| flow["ip_v"] == 6 && flow["src_port"] == 40_001;
    assert_eq!(replayed.flows.iter().filter(ports).count(), 1);
}

/// The record that was cut is the fault of the capture, not of a mirror session that could be mended.
#[test]
fn a_snap_length_is_no_packet_length_of_the_session() {
    let replayed = replay_testdata("pcapng-le.pcapng", &[]);
    let session = replayed.session(7, "10.0.1.11");
    assert_eq!(counts_of(session)[..3], [9, 1, 39]);
    let frames = replayed.frames();
    assert_eq!(
        frames[7].comment.as_deref(),
        Some("truncated: 39 of 89 bytes missing (snap length of the replayed capture)")
    );
    assert_ne!(session["cut_by"], "session_packet_length", "{session}");
    let advice = session["advice"].as_str().unwrap_or_default();
    assert!(!advice.contains("cloud console"), "{advice}");
}

#[test]
fn ports_are_kept_where_they_arrived() {
    let replayed = replay_testdata("inner-cuts.pcap", &[]);
    let missing: Vec<(usize, u32)> = missing(&replayed.frames()).collect();
    let should = [
        (4, 230),
        (5, 236),
        (6, 220),
        (7, 214),
        (8, 203),
        (9, 154),
        (10, 162),
    ];
    assert_eq!(missing, should);
    assert_eq!(counts_of(&replayed.sessions()[0]), [12, 7, 1419, 0, 4]);
    // TCP cut to 40 bytes of frame and UDP cut to 39 still have theirs.
    let ports: BTreeSet<(u64, Option<u64>, Option<u64>)> = replayed
        .flows
        .iter()
        .map(|flow| {
            let number = |name: &str| flow[name].as_u64();
            (
                flow["proto"].as_u64().unwrap(),
                number("src_port"),
                number("dst_port"),
            )
        })
        .collect();
    assert!(ports.contains(&(6, Some(40_001), Some(9_998))), "{ports:?}");
    assert!(
        ports.contains(&(17, Some(40_000), Some(9_999))),
        "{ports:?}"
    );
    assert!(
        ports.contains(&(6, None, None)),
        "cut before its ports: {ports:?}"
    );
}

/// Nothing but the dead bytes of the outer packet is left out, and nothing beyond a record is read.
#[test]
fn outer_lengths_that_disagree() {
    let replayed = replay_testdata("udp-length-mismatch.pcap", &[]);
    assert_eq!(replayed.count("delivered"), 4);
    assert_eq!(replayed.reasons("malformed"), expected([("outer_udp", 2)]));
    let missing: Vec<(usize, u32)> = missing(&replayed.frames()).collect();
    // Frames 1 to 4 are packets 1, 2, 5 and 6.
    assert_eq!(missing, [(2, 20), (4, 50)]);
    // One is cut by its own UDP length, the other by the record: they do not share a size.
    let advice = replayed.sessions()[0]["advice"].as_str().unwrap();
    assert!(
        !advice.contains(
            "2 of 4 packets (50.0 %) arrived cut, 70 bytes missing: cut packets keep exactly"
        ),
        "{advice}"
    );

    let trailing = replay_testdata("outer-trailing-bytes.pcap", &[]);
    assert_eq!(trailing.count("delivered"), 6);
    assert_eq!(
        trailing.reasons("malformed"),
        expected([("inner_empty", 1)])
    );
    let lengths: Vec<usize> = trailing
        .frames()
        .iter()
        .map(|frame| frame.bytes.len())
        .collect();
    assert_eq!(lengths[1..5], [60, 60, 60, 70], "inner padding stays");
    assert_eq!(counts_of(&trailing.sessions()[0]), [6, 0, 0, 0, 1]);
}

#[test]
fn vxlan_headers() {
    let clear = replay_testdata("i-flag-clear.pcap", &[]);
    assert_eq!(clear.count("delivered"), 1);
    assert_eq!(clear.reasons("malformed"), expected([("vni_not_valid", 2)]));
    let probes = replay_testdata("probes.pcap", &[]);
    assert_eq!(probes.count("delivered"), 1);
    assert_eq!(probes.reasons("filtered"), expected([("probe", 6)]));
    let empty = replay_testdata("empty-inner.pcap", &[]);
    assert_eq!(empty.reasons("malformed"), expected([("inner_empty", 2)]));
    let cut = replay_testdata("vxlan-header-cut.pcap", &[]);
    assert_eq!(
        cut.reasons("malformed"),
        expected([("outer_udp", 1), ("vxlan_short", 3), ("inner_empty", 1)])
    );
    let missing: Vec<(usize, u32)> = missing(&cut.frames()).collect();
    assert_eq!(missing, [(1, 122), (2, 92)]);
    let reserved = replay_testdata("reserved-bits.pcap", &[]);
    assert_eq!(reserved.session(16_777_215, "10.0.1.11")["packets"], 1);
    assert_eq!(reserved.reasons("malformed"), expected([]));
}

/// Community ids other programs compute alike; the first two are test vectors of its specification.
#[test]
fn community_ids() {
    let replayed = replay_testdata("inner-sctp-gre.pcap", &[]);
    let id_of = |proto: u64| -> &str {
        let mut flows = replayed.flows.iter().filter(|flow| flow["proto"] == proto);
        flows.next().unwrap()["community_id"].as_str().unwrap()
    };
    assert_eq!(id_of(132), "1:MP2EtRCAUIZvTw6MxJHLV7N7JDs=");
    assert_eq!(id_of(46), "1:KHlLkgoJW7ifUTyTSgyVfkFHzKw=");

    // Cut inside an extension header: the protocol is unknown, and so is the id others compute.
    let extensions = replay_testdata("inner-ipv6-extensions.pcap", &[]);
    let mut unknown = extensions
        .flows
        .iter()
        .filter(|flow| flow.get("proto").is_none());
    let cut = unknown.next().unwrap();
    assert_eq!(
        (cut.get("community_id"), unknown.next()),
        (None, None),
        "{cut}"
    );

    let icmp = replay_testdata("inner-icmp.pcap", &[]);
    let types: Vec<(u64, u64, u64, u64)> = icmp
        .flows
        .iter()
        .map(|flow| {
            let number = |name: &str| flow[name].as_u64().unwrap();
            (
                number("icmp_type"),
                number("icmp_code"),
                number("pkts_o"),
                number("pkts_r"),
            )
        })
        .collect();
    // Echo request and reply are one flow; errors have one direction.
    for once in [
        (8, 0, 1, 1),
        (128, 0, 1, 1),
        (11, 0, 1, 0),
        (3, 3, 1, 0),
        (3, 0, 1, 0),
        (1, 4, 1, 0),
    ] {
        assert_eq!(
            types.iter().filter(|seen| **seen == once).count(),
            1,
            "{once:?} in {types:?}"
        );
    }
    assert_eq!(types.len(), 6);
}

#[test]
fn vlan_tags_inside() {
    let replayed = replay_testdata("inner-vlan.pcap", &[]);
    assert_eq!(
        replayed.reasons("noted"),
        expected([("inner_vlan", 7), ("inner_not_ip", 1)])
    );
    assert_eq!(counts_of(&replayed.sessions()[0]), [7, 1, 22, 0, 1]);
    let outer = replay_testdata("outer-vlan.pcap", &[]);
    assert_eq!(outer.count("delivered"), 4);
}

// ---------------------------------------------------------------------------------------------
// Formats of the input

fn times(name: &str) -> Vec<u32> {
    let replayed = replay_testdata(name, &[]);
    let seconds = 1_768_469_400; // 2026-01-15 09:30:00 UTC
    let times = replayed.frames().into_iter().map(|frame| {
        assert_eq!(frame.ts_ns / 1_000_000_000, seconds, "{name}");
        (frame.ts_ns % 1_000_000_000) as u32
    });
    times.collect()
}

#[test]
fn times_to_the_nanosecond() {
    // Interfaces that count in µs, ns, ms, 2^-20 s, and ns with an offset. The sixth packet has no
    // time: it takes that of the one before.
    let five_interfaces = [
        1_000,
        100_000_002,
        200_000_000,
        251_953_125,
        300_000_004,
        300_000_004,
        400_000_000,
        500_000_001,
        600_000_000,
    ];
    assert_eq!(times("pcapng-le.pcapng"), five_interfaces);
    assert_eq!(times("pcapng-be.pcapng"), five_interfaces);
    let two_sections = [0, 100_000_001, 200_000_002, 300_000_000, 400_000_003];
    assert_eq!(times("pcapng-mixed.pcapng"), two_sections);
    let nanoseconds = [123_456_789, 223_456_790, 323_456_791, 423_456_792];
    assert_eq!(times("ns-big-endian.pcap"), nanoseconds);
    assert_eq!(times("ns-little-endian.pcap"), nanoseconds);
    let microseconds = nanoseconds.map(|time| time / 1_000 * 1_000);
    assert_eq!(times("us-big-endian.pcap"), microseconds);
}

/// Packed or not, from a file or from standard input: the same frames and flow records.
#[test]
fn packed_captures() {
    let dir = tempfile::tempdir().unwrap();
    let whole = fs::read(testdata("demo.pcap")).unwrap();
    let should = replay_testdata("demo.pcap", &[]);
    let mut copies: Vec<(&str, PathBuf)> = Vec::new();
    let mut keep = |name: &'static str, bytes: Vec<u8>| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        copies.push((name, path));
    };
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&whole).unwrap();
    keep("library.gz", gzip.finish().unwrap());
    keep("library.zst", zstd::encode_all(&whole[..], 3).unwrap());
    // Frames of the same kind one behind the other are one file, as zstd and lz4 themselves read them;
    // an empty one among them is no end.
    let (first, second) = whole.split_at(whole.len() / 2);
    let parts = [first, &[], second];
    keep(
        "frames.zst",
        parts
            .map(|part| zstd::encode_all(part, 3).unwrap())
            .concat(),
    );
    keep("library.lz4", lz4(&whole));
    keep("two-frames.lz4", [lz4(first), lz4(second)].concat());
    keep("frames.lz4", parts.map(lz4).concat());
    for (program, name) in [
        ("gzip", "tool.gz"),
        ("zstd", "tool.zst"),
        ("lz4", "tool.lz4"),
    ] {
        if tool(program) {
            let run = run(Command::new(program).arg("-c").arg(testdata("demo.pcap")));
            assert_eq!(run.code, Some(0), "{program}: {}", run.stderr);
            keep(name, run.stdout);
        }
    }
    for (name, path) in copies {
        let replayed = replay([path]);
        assert_eq!(
            replayed.run.code,
            Some(0),
            "{name}: {}",
            replayed.run.stderr
        );
        assert_eq!(replayed.frames(), should.frames(), "{name}");
        assert_eq!(replayed.flows, should.flows, "{name}");
    }
}

fn lz4(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn standard_input() {
    let should = replay_testdata("demo.pcap", &[]);
    for name in ["demo.pcap", "compressed.pcap.gz", "pcapng-be.pcapng"] {
        let bytes = fs::read(testdata(name)).unwrap();
        let run = vxtap_fed(["replay", "-", "--flows", "-"], &bytes);
        assert_eq!(run.code, Some(0), "{name}: {}", run.stderr);
        let flows = json_lines(std::str::from_utf8(&run.stdout).unwrap());
        assert_eq!(flows, replay_testdata(name, &[]).flows, "{name}");
    }
    assert!(
        should.flows.len() > 1,
        "the comparison above has something to compare"
    );
}

#[test]
fn several_files_are_one_input() {
    let both = replay([testdata("demo.pcap"), testdata("session-96.pcap")]);
    assert_eq!(both.run.code, Some(0), "{}", both.run.stderr);
    assert_closes(&both.summary);
    assert_eq!(
        (both.count("received"), both.count("delivered")),
        (211, 209)
    );
    assert_eq!(both.sessions().len(), 4);
    let single = ["demo.pcap", "session-96.pcap"].map(|name| replay_testdata(name, &[]));
    let [demo, session_96] = &single;
    assert_eq!(both.frames(), [demo.frames(), session_96.frames()].concat());
    assert_eq!(
        both.packets_in_flows(),
        demo.packets_in_flows() + session_96.packets_in_flows()
    );

    // A flow goes on from one file to the next; link types may differ.
    let twice = replay(["raw-ip.pcap", "null.pcap", "sll2.pcap"].map(testdata));
    assert_eq!(twice.count("delivered"), 4 + 5 + 4);
    let keys: BTreeSet<String> = twice
        .flows
        .iter()
        .map(|flow| flow["flow_id"].to_string())
        .collect();
    assert_eq!(keys.len(), twice.flows.len());
    let largest = twice.flows.iter().map(flow_packets).max();
    assert!(
        largest > Some(5),
        "no flow spans the files: {:?}",
        twice.flows
    );
}

// ---------------------------------------------------------------------------------------------
// Outputs

/// Standard output carries data only.
#[test]
fn standard_output() {
    let file = replay_testdata("demo.pcap", &[]);
    let demo = testdata("demo.pcap");
    let demo = demo.to_str().unwrap();
    let capture = vxtap(["replay", demo, "-w", "-"]);
    assert_eq!(capture.code, Some(0), "{}", capture.stderr);
    assert_eq!(capture.stdout, fs::read(file.capture()).unwrap());
    let flows = vxtap(["replay", demo, "--flows", "-"]);
    assert_eq!(flows.stdout, file.flow_lines().as_bytes());
    let summary = vxtap(["replay", demo, "--summary", "-"]);
    let summary: Value = serde_json::from_slice(&summary.stdout).unwrap();
    assert_eq!(summary["delivered"], 198);
}

/// A reader of the pipe that has seen enough ends the run; that is no fault, however early it comes.
#[cfg(unix)]
#[test]
fn a_pipe_closed_early() {
    use std::io::Read;

    for read in [0, 64] {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut command = vxtap_command(["replay", "-w", "-"]);
        // More than the pipe holds, so that the writer notices.
        command.args(vec![testdata("demo.pcap"); 20]);
        command.stdout(writer).stderr(std::process::Stdio::piped());
        let child = if read == 0 {
            drop(reader);
            Running::start(&mut command)
        } else {
            let child = Running::start(&mut command);
            reader.read_exact(&mut vec![0; read]).unwrap();
            drop(reader);
            child
        };
        drop(command);
        let output = child.wait_with_output();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(0),
            "closed after {read} bytes: {stderr}"
        );
        assert!(
            !stderr.contains("error"),
            "closed after {read} bytes: {stderr}"
        );
    }
}

#[test]
fn classic_pcap_output() {
    let pcapng = replay_testdata("session-96.pcap", &[]).frames();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.pcap");
    let input = testdata("session-96.pcap");
    let run = vxtap([
        "replay".as_ref(),
        input.as_os_str(),
        "--format".as_ref(),
        "pcap".as_ref(),
        "-w".as_ref(),
        path.as_os_str(),
    ]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let bytes = fs::read(&path).unwrap();
    assert_eq!(
        bytes[..4],
        [0x4d, 0x3c, 0xb2, 0xa1],
        "nanoseconds, little-endian"
    );
    let records = pcap_records(&bytes);
    assert_eq!(records.len(), pcapng.len());
    for (record, frame) in records.iter().zip(&pcapng) {
        assert_eq!(record.bytes, frame.bytes);
        assert_eq!(
            (u128::from(record.ts_ns), record.orig_len),
            (frame.ts_ns, frame.orig_len)
        );
    }
    for program in ["tcpdump", "capinfos"] {
        if tool(program) {
            opens_with(program, &path);
        }
    }
}

/// A record of a classic little-endian pcap file.
struct PcapRecord {
    ts_ns: u64,
    orig_len: u32,
    bytes: Vec<u8>,
}

fn pcap_records(file: &[u8]) -> Vec<PcapRecord> {
    let nanoseconds = file[0] == 0x4d;
    let mut rest = &file[24..];
    let mut records = Vec::new();
    while !rest.is_empty() {
        let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
        let len = word(8) as usize;
        let unit = if nanoseconds { 1 } else { 1_000 };
        records.push(PcapRecord {
            ts_ns: u64::from(word(0)) * 1_000_000_000 + u64::from(word(4)) * unit,
            orig_len: word(12),
            bytes: rest[16..16 + len].to_vec(),
        });
        rest = &rest[16 + len..];
    }
    records
}

/// Captures that were never encapsulated pass through byte for byte.
#[test]
fn plain_captures() {
    let plain = replay_testdata("plain.pcap", &["--plain"]);
    let records = pcap_records(&fs::read(testdata("plain.pcap")).unwrap());
    let frames = plain.frames();
    assert_eq!(frames.len(), records.len());
    for (frame, record) in frames.iter().zip(&records) {
        assert_eq!(frame.bytes, record.bytes);
        assert_eq!(
            (frame.ts_ns, frame.orig_len),
            (u128::from(record.ts_ns), record.orig_len)
        );
        assert_eq!(frame.interface, "plain");
    }
    let session = &plain.sessions()[0];
    assert!(session["vni"].is_null() && session["source"].is_null());
    assert!(session["advice"].is_null(), "nobody mirrors it: {session}");
    assert!(plain.flows.iter().all(|flow| flow.get("vni").is_none()));

    let cooked = replay_testdata("plain-sll.pcap", &["--plain"]);
    let records = pcap_records(&fs::read(testdata("plain-sll.pcap")).unwrap());
    assert_eq!(cooked.reasons("noted")["ethernet_added"], 5);
    for (frame, record) in cooked.frames().iter().zip(&records) {
        assert_eq!(frame.bytes[14..], record.bytes[16..]);
        assert_eq!(frame.bytes[12..14], record.bytes[14..16], "EtherType");
        assert_eq!(
            frame.bytes[6..12],
            record.bytes[6..12],
            "the sender's address"
        );
    }
    for name in ["plain.pcap", "plain-sll.pcap"] {
        let mirrored = replay_testdata(name, &[]);
        assert_eq!(mirrored.count("delivered"), 0, "{name}");
    }
}

/// A frame keeps the length the capture knows, even where the IP packet in it is shorter: padding and
/// checksum that were cut off were on the wire.
#[test]
fn a_cut_plain_record_keeps_its_length_on_the_wire() {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    frame.extend([
        0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ]);
    frame.extend([
        0x30, 0x39, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0,
    ]);
    let replayed = replay_record(1, &frame, 60, &["--plain"]);
    let frames = replayed.frames();
    assert_eq!((frames[0].bytes.len(), frames[0].orig_len), (54, 60));
    let session = &replayed.sessions()[0];
    assert_eq!(session["truncated"], 0, "the IP packet is whole");
}

/// Replays a little-endian pcap file with one record.
fn replay_record(link_type: u32, record: &[u8], orig_len: u32, flags: &[&str]) -> Replayed {
    let captured_len = record.len() as u32;
    // Magic number, version 2.4, zone and accuracy, snap length, link type; then seconds, microseconds
    // and both lengths.
    let words = [
        0xa1b2_c3d4,
        0x0004_0002,
        0,
        0,
        65_535,
        link_type,
        1_768_469_400,
        0,
        captured_len,
        orig_len,
    ];
    let mut file: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    file.extend(record);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("one.pcap");
    fs::write(&path, file).unwrap();
    let mut args = vec![path.into_os_string()];
    args.extend(flags.iter().map(Into::into));
    let replayed = replay(args);
    assert_eq!(replayed.run.code, Some(0), "{}", replayed.run.stderr);
    assert_closes(&replayed.summary);
    replayed
}

/// In cooked captures protocol 4 says "an 802.2 frame"; in an Ethernet header that place holds its
/// length, and 4 would hide all but four bytes of it.
#[test]
fn cooked_llc_frames_get_their_length() {
    let mut bpdu = vec![0x42, 0x42, 0x03];
    bpdu.extend([0; 35]);
    let mut record = vec![0, 4, 0, 0, 0, 0, 0, 2, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0];
    record.extend(&bpdu);
    let orig_len = record.len() as u32;
    let replayed = replay_record(276, &record, orig_len, &["--plain"]);
    let frames = replayed.frames();
    assert_eq!(frames[0].bytes[14..], bpdu);
    assert_eq!(frames[0].bytes[12..14], [0, 38], "802.3 length");
}

/// Lengths that contradict each other are noted, however many layers come off behind them.
#[test]
fn an_outer_mismatch_is_noted_at_any_depth() {
    let ethernet = |payload: Vec<u8>| {
        let header = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
        [header, payload].concat()
    };
    // IPv4 and UDP to port 4789; `more` is what the UDP length claims beyond the packet.
    let datagram = |payload: Vec<u8>, more: usize| {
        let [t0, t1] = (28 + payload.len() as u16).to_be_bytes();
        let [u0, u1] = ((8 + payload.len() + more) as u16).to_be_bytes();
        let mut packet = vec![0x45, 0, t0, t1, 0, 0, 0, 0, 64, 17, 0, 0];
        packet.extend([
            10, 0, 0, 1, 10, 0, 0, 2, 0xc3, 0x50, 0x12, 0xb5, u0, u1, 0, 0,
        ]);
        [packet, payload].concat()
    };
    let vxlan = |vni: u8, frame: Vec<u8>| [vec![8, 0, 0, 0, 0, 0, vni, 0], frame].concat();
    let innermost = ethernet(datagram(vec![0x55; 40], 0));
    let inner = ethernet(datagram(vxlan(20, innermost), 0));
    let outer = datagram(vxlan(10, inner), 30);
    let orig_len = outer.len() as u32;
    for (depth, vni) in [("1", 10), ("2", 20)] {
        let replayed = replay_record(101, &outer, orig_len, &["--depth", depth]);
        assert_eq!(replayed.session(vni, "10.0.0.1")["packets"], 1);
        let noted = replayed.reasons("noted");
        assert_eq!(
            noted,
            expected([("outer_length_mismatch", 1)]),
            "depth {depth}"
        );
    }
}

#[test]
fn a_full_flow_table_evicts() {
    let whole = replay_testdata("demo.pcap", &[]);
    let small = replay_testdata("demo.pcap", &["--max-flows", "2"]);
    assert!(small.flows.len() > whole.flows.len());
    let reason = |flow: &Value| flow["end_reason"].as_u64().unwrap();
    let forced = small.flows.iter().filter(|flow| reason(flow) == 4).count();
    let evicted = small.flows.iter().filter(|flow| reason(flow) == 5).count();
    assert_eq!((forced, forced + evicted), (2, small.flows.len()));
    assert!(whole.flows.iter().all(|flow| reason(flow) == 4));
    // No packet is lost or counted twice, whatever the table's size.
    for replayed in [&whole, &small] {
        assert_eq!(replayed.packets_in_flows(), 194);
        assert_eq!(replayed.count("flows"), replayed.flows.len() as u64);
    }
    let bytes = |replayed: &Replayed| -> u64 {
        let sum = |flow: &Value| {
            flow["ip_bytes_o"].as_u64().unwrap() + flow["ip_bytes_r"].as_u64().unwrap()
        };
        replayed.flows.iter().map(sum).sum()
    };
    assert_eq!(bytes(&whole), bytes(&small));
    assert_eq!(small.frames(), whole.frames());
}

#[test]
fn flow_records_in_two_files() {
    let dir = tempfile::tempdir().unwrap();
    let [first, second] = ["a.jsonl", "b.jsonl"].map(|name| dir.path().join(name));
    let demo = testdata("demo.pcap");
    let run = vxtap([
        "replay".as_ref(),
        demo.as_os_str(),
        "--flows".as_ref(),
        first.as_os_str(),
        "--flows".as_ref(),
        second.as_os_str(),
    ]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let text = fs::read_to_string(&first).unwrap();
    assert_eq!(text.lines().count(), 17);
    assert_eq!(text, fs::read_to_string(&second).unwrap());
}

/// One interface a mirror session, a comment on every cut frame, the direction in the flags.
#[test]
fn what_a_capture_says_of_its_frames() {
    let demo = replay_testdata("demo.pcap", &[]);
    let frames = demo.frames();
    let mut by_interface: BTreeMap<&str, u64> = BTreeMap::new();
    for frame in &frames {
        *by_interface.entry(&frame.interface).or_default() += 1;
    }
    assert_eq!(
        by_interface,
        [
            ("vni101@10.0.1.11", 90),
            ("vni101@10.0.1.12", 55),
            ("vni202@10.0.2.21", 53)
        ]
        .into()
    );
    for frame in &frames {
        let captured = frame.bytes.len() as u32;
        let missing = frame.orig_len - captured;
        let cause = if frame.interface == "vni202@10.0.2.21" {
            " (mirror MTU)"
        } else {
            ""
        };
        let comment = format!(
            "truncated: {missing} of {} bytes missing{cause}",
            frame.orig_len
        );
        assert_eq!(frame.comment, (missing > 0).then_some(comment));
    }
    for session in demo.sessions() {
        let name = format!(
            "vni{}@{}",
            session["vni"],
            session["source"].as_str().unwrap()
        );
        let with = |flags: u32| {
            let of_session = frames.iter().filter(|frame| frame.interface == name);
            of_session.filter(|frame| frame.flags & 3 == flags).count() as u64
        };
        for (flags, way) in [(1, "inbound"), (2, "outbound")] {
            // A record knows what came before it, the summary all.
            let all = session[way].as_u64().unwrap();
            let by_mac = session[format!("{way}_by_mac")].as_u64().unwrap();
            assert!((all - by_mac..=all).contains(&with(flags)), "{name}");
        }
    }
    let ipv6 = replay_testdata("outer-ipv6.pcap", &[]);
    assert_eq!(ipv6.frames()[0].interface, "vni7@2001:db8:1::11");
}

/// What frames without IP hold is told by name, the same with any number of workers.
#[test]
fn frames_without_ip_are_told_by_ether_type() {
    for workers in ["1", "2", "3"] {
        let replayed = replay_testdata("inner-non-ip.pcap", &["--workers", workers]);
        let held = |ethertype: &str, name: &str, packets: u64| serde_json::json!({"ethertype": ethertype, "name": name, "packets": packets});
        let expected = [
            held("0x0806", "ARP", 2),
            held("802.3", "LLC", 1),
            held("0x88b5", "Local experimental 1", 1),
            held("0x88cc", "LLDP", 1),
        ];
        let told = replayed.summary["inner_not_ip_ethertypes"]
            .as_array()
            .unwrap();
        assert_eq!(told[..], expected);
        let page = &replayed.run.stderr;
        assert!(page.contains("2 ARP (0x0806), 1 LLC (802.3)"), "{page}");
    }
    let all_ip = replay_testdata("inner-layers.pcap", &[]);
    assert_eq!(
        all_ip.summary["inner_not_ip_ethertypes"],
        serde_json::json!([])
    );
}
