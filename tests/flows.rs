//! What a flow is: which packets share a record, where one record ends and the next begins.

mod common;

use std::path::Path;

use common::{assert_closes, replay, tool, tshark};
use serde_json::Value;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// An inner TCP segment on its way.
#[derive(Clone, Copy, Debug)]
struct Segment {
    /// Milliseconds since the capture began.
    at_ms: u64,
    /// From the client (port 40000) to the server (port 443), or back.
    back: bool,
    flags: u8,
    seq: u32,
    /// Inner VLAN tags; 0xffff for none.
    vlans: [u16; 2],
}

/// A segment without tags.
const fn tcp(at_ms: u64, back: bool, flags: u8, seq: u32) -> Segment {
    Segment {
        at_ms,
        back,
        flags,
        seq,
        vlans: [0xffff; 2],
    }
}

/// An IPv4 header without a checksum, which nobody looks at here.
fn ipv4(protocol: u8, src: [u8; 4], dst: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
    packet.extend([src, dst].concat());
    packet.extend(payload);
    packet
}

fn inner(segment: &Segment) -> Vec<u8> {
    let (client, server) = (([10, 0, 0, 1], 40000u16), ([10, 0, 0, 2], 443u16));
    let ((src, src_port), (dst, dst_port)) = if segment.back {
        (server, client)
    } else {
        (client, server)
    };
    let mut header = [src_port.to_be_bytes(), dst_port.to_be_bytes()].concat();
    header.extend(segment.seq.to_be_bytes());
    header.extend([0, 0, 0, 0, 0x50, segment.flags, 1, 0, 0, 0, 0, 0]);
    let mut frame = vec![2, 0, 0, 0, 0, dst[3], 2, 0, 0, 0, 0, src[3]];
    for vlan in segment.vlans.iter().filter(|vlan| **vlan != 0xffff) {
        frame.extend([0x81, 0]);
        frame.extend(vlan.to_be_bytes());
    }
    frame.extend([0x08, 0]);
    frame.extend(ipv4(6, src, dst, &header));
    frame
}

/// Writes a pcap file of outer packets.
fn write_pcap(path: &Path, packets: impl Iterator<Item = (u64, Vec<u8>)>) {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65535, 1] {
        file.extend(word.to_le_bytes());
    }
    for (at_ms, frame) in packets {
        let seconds = (1_700_000_000 + at_ms / 1000) as u32;
        let len = frame.len() as u32;
        for word in [seconds, (at_ms % 1000) as u32 * 1000, len, len] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    std::fs::write(path, file).unwrap();
}

/// The outer packet of a VXLAN datagram (VNI 7) that carries `inner`.
fn vxlan(inner: &[u8]) -> Vec<u8> {
    let mut udp = [50000u16.to_be_bytes(), 4789u16.to_be_bytes()].concat();
    udp.extend((16 + inner.len() as u16).to_be_bytes());
    udp.extend([0, 0, 8, 0, 0, 0, 0, 0, 7, 0]);
    udp.extend(inner);
    let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x08, 0];
    frame.extend(ipv4(17, [192, 0, 2, 1], [192, 0, 2, 2], &udp));
    frame
}

/// Writes these segments in VXLAN to a pcap file.
fn write_segments(path: &Path, segments: &[Segment]) {
    let packets = segments
        .iter()
        .map(|segment| (segment.at_ms, vxlan(&inner(segment))));
    write_pcap(path, packets);
}

/// The flow records of these segments, the same with one worker and with three.
fn records(segments: &[Segment]) -> Vec<Value> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.pcap");
    write_segments(&path, segments);
    let path = path.to_str().unwrap();
    let [one, three] = ["1", "3"].map(|workers| {
        let replayed = replay([path, "--workers", workers]);
        assert_eq!(replayed.run.code, Some(0), "{}", replayed.run.stderr);
        assert_closes(&replayed.summary);
        assert_eq!(replayed.packets_in_flows(), segments.len() as u64);
        assert_eq!(replayed.summary["flows"], replayed.flows.len());
        replayed.flows
    });
    assert_eq!(one, three);
    let mut ids: Vec<_> = one
        .iter()
        .map(|flow| flow["flow_id"].as_str().unwrap())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), one.len(), "each record has an id of its own");
    one
}

/// Packets of originator and responder, and why it ended.
fn counts(flow: &Value) -> (u64, u64, u64) {
    let number = |name: &str| flow[name].as_u64().unwrap();
    (number("pkts_o"), number("pkts_r"), number("end_reason"))
}

/// One pair of addresses and ports on several VLANs: as many conversations, whatever tags are around them.
#[test]
fn vlans_are_conversations_of_their_own() {
    let mut segments = Vec::new();
    let stacks = [[10, 0xffff], [20, 0xffff], [10, 20], [20, 10], [0xffff; 2]];
    for (at, vlans) in (0u64..).zip(stacks) {
        for (step, back, flags) in [(0, false, SYN), (1, true, SYN | ACK), (2, false, ACK)] {
            let at_ms = step * 10 + at;
            segments.push(Segment {
                vlans,
                ..tcp(at_ms, back, flags, 1000 * (at as u32 + 1))
            });
        }
    }
    segments.sort_by_key(|segment| segment.at_ms);
    let flows = records(&segments);
    assert_eq!(flows.len(), stacks.len());
    for (flow, stack) in flows.iter().zip(stacks) {
        assert_eq!(counts(flow), (2, 1, 4), "{stack:?}");
        let [outer, inner] = stack.map(|vlan| match vlan {
            0xffff => Value::Null,
            vlan => vlan.into(),
        });
        assert_eq!((&flow["vlan"], &flow["vlan_inner"]), (&outer, &inner));
        assert_eq!(
            flow["community_id"], flows[0]["community_id"],
            "knows of no VLAN"
        );
    }
}

/// A connection from its SYN to both FINs: 4 segments forth, 3 back.
fn connection(at_ms: u64, seq: u32) -> Vec<Segment> {
    vec![
        tcp(at_ms, false, SYN, seq),
        tcp(at_ms + 1, true, SYN | ACK, seq + 5000),
        tcp(at_ms + 2, false, ACK, seq + 1),
        tcp(at_ms + 3, false, ACK | FIN, seq + 1),
        tcp(at_ms + 4, true, ACK, seq + 5001),
        tcp(at_ms + 4, true, ACK | FIN, seq + 5001),
        tcp(at_ms + 5, false, ACK, seq + 2),
    ]
}

/// The packets of each TCP conversation that tshark finds in these segments, in the order of their beginnings;
/// `None` where there is no tshark.
fn conversations_of_tshark(segments: &[Segment]) -> Option<Vec<u64>> {
    if !tool("tshark") {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.pcap");
    write_segments(&path, segments);
    let mut packets = Vec::new();
    for row in tshark(&path, &["tcp.stream"], &["-Y", "tcp"]) {
        let stream: usize = row[0].parse().unwrap();
        packets.resize(packets.len().max(stream + 1), 0);
        packets[stream] += 1;
    }
    Some(packets)
}

#[test]
fn a_port_used_again_is_another_record() {
    let mut segments = connection(0, 1);
    segments.extend(connection(60_000, 70_000));
    // Roles change.
    let back = |segment: Segment| Segment {
        back: !segment.back,
        ..segment
    };
    segments.extend(connection(120_000, 900_000).into_iter().map(back));
    let flows = records(&segments);
    let ends: Vec<_> = flows.iter().map(counts).collect();
    assert_eq!(ends, [(4, 3, 3), (4, 3, 3), (4, 3, 4)]);
    if let Some(packets) = conversations_of_tshark(&segments) {
        assert_eq!(packets, [7, 7, 7]);
    }
    assert_eq!(flows[0]["ts_end"], "2023-11-14T22:13:20.005000000Z");
    assert_eq!(flows[1]["ts_start"], "2023-11-14T22:14:20.000000000Z");
    let clients: Vec<_> = flows
        .iter()
        .map(|flow| flow["src_port"].as_u64().unwrap())
        .collect();
    assert_eq!(clients, [40000, 40000, 443]);
    assert!(
        flows
            .iter()
            .all(|flow| flow["community_id"] == flows[0]["community_id"])
    );
}

#[test]
fn a_syn_sent_again_is_no_other_record() {
    let again = |at_ms| tcp(at_ms, false, SYN, 1);
    // Nobody answers for a while, and once the connection is over a copy comes late.
    let mut segments = vec![again(0), again(1000), again(3000), again(32_999)];
    segments.extend(connection(33_001, 1));
    segments.extend([again(33_100), tcp(33_101, true, SYN | ACK, 5001)]);
    let flows = records(&segments);
    assert_eq!(flows.iter().map(counts).collect::<Vec<_>>(), [(9, 4, 4)]);
}

/// A SYN in the middle of a living connection may come from anyone.
#[test]
fn a_living_connection_is_not_cut_in_two() {
    let mut segments = connection(0, 1)[..4].to_vec();
    let stranger = |at_ms, seq| tcp(at_ms, false, SYN, seq);
    segments.extend([stranger(10, 999), stranger(200_000, 12345)]);
    // One side has closed, the other goes on sending.
    segments.push(tcp(200_001, true, ACK, 5001));
    assert_eq!(records(&segments).len(), 1);
    // Both sides silent for 300 s: whatever comes then belongs to another flow.
    segments.extend([stranger(500_001, 77), stranger(500_002, 78)]);
    let flows = records(&segments);
    assert_eq!(flows.len(), 2);
    assert_eq!(counts(&flows[0]), (5, 2, 1));
    assert_eq!(counts(&flows[1]), (2, 0, 4));
}

#[test]
fn tries_that_are_refused_are_records_of_their_own() {
    let refused = |at_ms, seq| {
        [
            tcp(at_ms, false, SYN, seq),
            tcp(at_ms + 1, true, RST | ACK, 0),
        ]
    };
    let flows = records(
        &[
            refused(0, 1),
            refused(500, 2),
            refused(1000, 2),
            refused(1500, 3),
        ]
        .concat(),
    );
    let ends: Vec<_> = flows.iter().map(counts).collect();
    assert_eq!(ends, [(1, 1, 3), (2, 2, 3), (1, 1, 4)]);
}

/// A file out of order: the SYN of the connection stands behind its end.
#[test]
fn an_earlier_syn_belongs_to_what_came_before_it() {
    let mut segments = connection(1000, 1);
    let first = segments.remove(0);
    segments.push(first);
    let flows = records(&segments);
    assert_eq!(flows.iter().map(counts).collect::<Vec<_>>(), [(4, 3, 4)]);
    assert_eq!(flows[0]["src_port"], 40000);
}

/// What ends in the middle of the file is written then, in the order of the file, whoever worked on it.
#[test]
fn records_of_many_connections_come_in_one_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.pcap");
    let mut packets = Vec::new();
    for round in 0..40u32 {
        for client in 0..60u8 {
            for segment in connection(u64::from(round) * 1000, round * 100_000 + 1) {
                let mut inner = inner(&segment);
                let at = if segment.back { 30 } else { 26 };
                inner[at + 2] = client;
                packets.push((segment.at_ms, vxlan(&inner)));
            }
        }
    }
    write_pcap(&path, packets.into_iter());
    let [one, two, five] = ["1", "2", "5"].map(|workers| {
        let replayed = replay([path.to_str().unwrap(), "--workers", workers]);
        std::fs::read_to_string(replayed.dir.path().join("out.jsonl")).unwrap()
    });
    assert_eq!(one.lines().count(), 40 * 60);
    assert!(one == two && one == five);
}

/// What closes a connection may look otherwise than what opens it: a fragment, an MPLS label in front, three
/// VLAN tags. All of it reaches the worker that has the connection, else that could not tell that it is over.
#[test]
fn a_connection_ends_whatever_its_packets_are_wrapped_in() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.pcap");
    for kind in ["fragment", "label", "bare", "tags"] {
        let mut packets = Vec::new();
        for round in 0..3u32 {
            for client in 0..20u8 {
                for segment in connection(u64::from(round) * 1000, round * 100_000 + 1) {
                    let mut inner = inner(&segment);
                    let at = if segment.back { 30 } else { 26 };
                    inner[at + 2] = client;
                    // Other hardware addresses on the way back, as behind a router.
                    inner[5] ^= client.wrapping_mul(37) ^ u8::from(segment.back);
                    let odd = segment.flags & (FIN | SYN) == FIN;
                    match kind {
                        "fragment" if odd => inner[20] |= 0x20,
                        "label" if odd => {
                            inner.splice(12..14, [0x88, 0x47, 0, 1, 1, 64]);
                        }
                        "tags" => {
                            let tag = [0x81, 0, 0, 5];
                            let tags = if odd { 3 } else { 2 };
                            inner.splice(12..12, tag.repeat(tags));
                        }
                        _ => {}
                    }
                    let mut outer = vxlan(&inner);
                    if kind == "bare" && odd {
                        // VXLAN-GPE: next protocol IPv4, no frame around the packet.
                        outer.drain(50..64);
                        outer[42] = 0x0c;
                        outer[45] = 1;
                        outer[36..38].copy_from_slice(&4790u16.to_be_bytes());
                        let shorter = |bytes: &mut [u8]| {
                            let len = u16::from_be_bytes([bytes[0], bytes[1]]) - 14;
                            bytes.copy_from_slice(&len.to_be_bytes());
                        };
                        shorter(&mut outer[16..18]);
                        shorter(&mut outer[38..40]);
                    }
                    packets.push((segment.at_ms, outer));
                }
            }
        }
        write_pcap(&path, packets.into_iter());
        let [one, two, five] = ["1", "2", "5"].map(|workers| {
            let replayed = replay([path.to_str().unwrap(), "--workers", workers]);
            assert_closes(&replayed.summary);
            assert_eq!(replayed.summary["flows_joined"], 0, "{kind}");
            std::fs::read_to_string(replayed.dir.path().join("out.jsonl")).unwrap()
        });
        assert_eq!(one.lines().count(), 3 * 20, "{kind}");
        assert!(one == two && one == five, "{kind}");
    }
}

/// What is written while packets go on, with any number of workers, and by which timeouts.
#[test]
fn flows_end_by_silence() {
    // Another conversation tells the time.
    let clock = |at_ms| Segment {
        vlans: [9, 0xffff],
        ..tcp(at_ms, false, ACK, 1)
    };
    let mut segments = connection(0, 1);
    segments.extend((1..=30).map(|second| clock(second * 1000)));
    let flows = records(&segments);
    assert_eq!(
        flows.iter().map(counts).collect::<Vec<_>>(),
        [(4, 3, 3), (30, 0, 4)]
    );
    // Nobody answers, and the same again half a minute later.
    let syn = |at_ms, seq| tcp(at_ms, false, SYN, seq);
    let flows = records(&[syn(0, 1), syn(29_999, 2), syn(60_000, 3), clock(60_001)]);
    let ends: Vec<_> = flows.iter().map(counts).collect();
    assert_eq!(ends, [(2, 0, 1), (1, 0, 4), (1, 0, 4)]);
}

/// A flow whose records are cut by time: together they are what one record would be.
#[test]
fn long_flows_have_several_records() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.pcap");
    let segments = (0..1000u64).map(|at| tcp(at * 777, at % 3 == 0, ACK, at as u32));
    write_pcap(
        &path,
        segments.map(|segment| (segment.at_ms, vxlan(&inner(&segment)))),
    );
    let path = path.to_str().unwrap();
    let run = |args: &[&str]| {
        let replayed = replay([&[path][..], args].concat());
        assert_eq!(replayed.run.code, Some(0), "{}", replayed.run.stderr);
        assert_closes(&replayed.summary);
        assert_eq!(replayed.packets_in_flows(), 1000);
        replayed.flows
    };
    let whole = run(&["--active-timeout", "off"]);
    assert_eq!(whole.len(), 1);
    assert!(whole[0].get("cont").is_none());
    let parts = run(&["--active-timeout", "100s", "--workers", "2"]);
    // 129 packets of 0.777 s are in a record before one comes 100 s after its first.
    assert_eq!(parts.len(), 8);
    for (number, part) in parts.iter().enumerate() {
        assert_eq!(part["flow_id"], whole[0]["flow_id"]);
        assert_eq!(part["src_port"], whole[0]["src_port"]);
        assert!(part["dur_ns"].as_u64().unwrap() < 100_000_000_000);
        let last = number == parts.len() - 1;
        assert_eq!(part["end_reason"], if last { 4 } else { 2 });
        let cont = (number > 0).then(|| Value::from(number));
        assert_eq!(part.get("cont"), cont.as_ref());
    }
    for field in ["pkts_o", "pkts_r", "ip_bytes_o", "l2_bytes_r"] {
        let sum = parts.iter().map(|part| part[field].as_u64().unwrap());
        assert_eq!(
            sum.sum::<u64>(),
            whole[0][field].as_u64().unwrap(),
            "{field}"
        );
    }
    assert_eq!(parts[0]["ts_start"], whole[0]["ts_start"]);
    assert_eq!(parts[7]["ts_end"], whole[0]["ts_end"]);
}
