//! Flow records that end with the interval of their file: what a file of a store says is what happened in its time, the
//! same with any number of workers, as tshark counts it.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use common::store::{Place, assert_sound};
use common::{flow_packets, json_lines, replay, tool, tshark, vxtap};
use serde_json::Value;

/// Seconds of an interval, and of all packets.
const INTERVAL: u64 = 10;
const SECONDS: u64 = 47;
const BEGIN: u64 = 1_700_000_003;

/// Packets of many flows: some in every interval, some in one, some with intervals in between, a TCP connection from one
/// end to the other. The first of an interval comes at its very beginning.
fn capture() -> Vec<u8> {
    let mut pcap = Vec::new();
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1] {
        pcap.extend_from_slice(&u32::to_le_bytes(word));
    }
    for tenth in 0..SECONDS * 10 {
        let (seconds, micros) = (BEGIN + tenth / 10, tenth % 10 * 100_000);
        let mut add = |frame: &[u8]| {
            let vxlan = [&[8, 0, 0, 0, 0, 0, 77, 0], frame].concat();
            let outer = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
                .ipv4([10, 0, 0, 1], [10, 0, 9, 9], 64)
                .udp(50_000, 4789);
            let mut packet = Vec::new();
            outer.write(&mut packet, &vxlan).unwrap();
            let len = packet.len() as u64;
            for word in [seconds, micros, len, len] {
                pcap.extend_from_slice(&(word as u32).to_le_bytes());
            }
            pcap.extend_from_slice(&packet);
        };
        let ends = |back: bool| {
            if back {
                ([10, 0, 1, 2], [10, 0, 1, 1])
            } else {
                ([10, 0, 1, 1], [10, 0, 1, 2])
            }
        };
        let builder = |back| {
            let (src, dst) = ends(back);
            etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(src, dst, 64)
        };
        for flow in 0..20 {
            // Each with a rhythm of its own.
            if tenth % (flow * 7 + 3) == flow % 3 {
                let back = tenth % 2 == 1;
                let ports = [1000 + flow as u16, 53];
                let [src, dst] = if back { [ports[1], ports[0]] } else { ports };
                let mut frame = Vec::new();
                let payload = tenth.to_be_bytes();
                builder(back)
                    .udp(src, dst)
                    .write(&mut frame, &payload)
                    .unwrap();
                add(&frame);
            }
        }
        let mut segment = |back: bool,
                           flags: fn(
            etherparse::PacketBuilderStep<etherparse::TcpHeader>,
        )
            -> etherparse::PacketBuilderStep<etherparse::TcpHeader>| {
            let ports = if back { [443, 2000] } else { [2000, 443] };
            let mut frame = Vec::new();
            let tcp = builder(back).tcp(ports[0], ports[1], tenth as u32, 65_000);
            flags(tcp).write(&mut frame, &[]).unwrap();
            add(&frame);
        };
        match tenth {
            0 => segment(false, |tcp| tcp.syn()),
            1 => segment(true, |tcp| tcp.syn().ack(1)),
            460 => segment(false, |tcp| tcp.fin().ack(2)),
            461 => segment(true, |tcp| tcp.fin().ack(461)),
            _ if tenth % 11 == 0 => segment(false, |tcp| tcp.ack(2)),
            _ => {}
        }
    }
    pcap
}

/// The records of each file of a store, by its name, and its bytes.
type Files = BTreeMap<String, (Vec<Value>, Vec<u8>)>;

fn files(store: &Path) -> Files {
    assert_sound(store)
        .into_keys()
        .filter(|name| name.ends_with(".jsonl"))
        .map(|name| {
            let bytes = fs::read(store.join(&name)).unwrap();
            let records = json_lines(str::from_utf8(&bytes).unwrap());
            (name, (records, bytes))
        })
        .collect()
}

fn replayed(flags: &[&str]) -> (Place, Files) {
    let place = Place::new();
    let input = place.0.path().join("in.pcap");
    fs::write(&input, capture()).unwrap();
    let dir = format!("{}/", place.store().display());
    let words = ["replay", input.to_str().unwrap(), "--flows", &dir];
    let done = vxtap([&words[..], flags].concat());
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let files = files(&place.store());
    (place, files)
}

/// Seconds since 1970 of a time of a record.
fn seconds(record: &Value, name: &str) -> u64 {
    let text = record[name].as_str().unwrap();
    // All are of one day.
    let [hours, minutes, seconds] = [11, 14, 17].map(|at| text[at..at + 2].parse::<u64>().unwrap());
    1_699_920_000 + hours * 3600 + minutes * 60 + seconds
}

const BY_INTERVAL: [&str; 2] = ["--rotate-interval", "10s"];

#[test]
fn a_file_says_what_happened_in_its_interval() {
    let (place, files) = replayed(&BY_INTERVAL);
    // The first begins three seconds into an interval, and the last ends with one.
    assert_eq!(files.len(), 5);
    let mut total = 0;
    let mut by_interval = BTreeMap::<u64, u64>::new();
    let mut before: BTreeMap<String, u64> = BTreeMap::new();
    for (name, (records, _)) in &files {
        let mut intervals = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for record in records {
            let ends = ["ts_start", "ts_end"].map(|end| seconds(record, end) / INTERVAL);
            assert_eq!(ends[0], ends[1], "{record}");
            intervals.insert(ends[0]);
            let id = record["flow_id"].as_str().unwrap();
            assert!(ids.insert(id), "{name}: two records of {id}");
            // They follow each other without a gap.
            let count = before.entry(id.to_owned()).or_default();
            assert_eq!(record["cont"].as_u64().unwrap_or_default(), *count);
            *count += 1;
            total += flow_packets(record);
            *by_interval.entry(ends[0]).or_default() += flow_packets(record);
        }
        assert_eq!(intervals.len(), 1, "{name}: {intervals:?}");
    }
    let connection: Vec<&Value> = files
        .values()
        .flat_map(|(records, _)| records)
        .filter(|record| record["proto"] == 6)
        .collect();
    assert_eq!(connection.len(), files.len());
    let reasons = |reason: u64| {
        connection
            .iter()
            .filter(|of| of["end_reason"] == reason)
            .count()
    };
    assert_eq!(reasons(4), connection.len());
    assert_eq!(connection[0]["conn_state"], "S1");
    assert_eq!(connection.last().unwrap()["conn_state"], "SF");

    let input = place.0.path().join("in.pcap");
    let whole = replay([input.to_str().unwrap(), "--idle-timeout", "udp=1h"]);
    assert_eq!(total, whole.packets_in_flows());
    if !tool("tshark") {
        return;
    }
    let mut seen = BTreeMap::<u64, u64>::new();
    for row in tshark(&input, &["frame.time_epoch"], &[]) {
        let (seconds, _) = row[0].split_once('.').unwrap();
        *seen
            .entry(seconds.parse::<u64>().unwrap() / INTERVAL)
            .or_default() += 1;
    }
    assert_eq!(by_interval, seen);
}

#[test]
fn files_are_the_same_with_any_number_of_workers() {
    for flags in [&[][..], &["--whole-flows"]] {
        let all = |workers| {
            let flags = [&BY_INTERVAL[..], flags, &["--workers", workers]].concat();
            replayed(&flags).1
        };
        let one = all("1");
        for workers in ["2", "3"] {
            let several = all(workers);
            assert!(one.keys().eq(several.keys()), "{flags:?} {workers}");
            for (name, (_, bytes)) in &one {
                assert!(*bytes == several[name].1, "{flags:?} {workers} {name}");
            }
        }
    }
}

/// A flow that makes room between two intervals has nothing more to tell, and no packet is in two records.
#[test]
fn full_tables_tell_each_packet_once() {
    let (place, files) = replayed(&[&BY_INTERVAL[..], &["--max-flows", "4"]].concat());
    let records = files.values().flat_map(|(records, _)| records);
    assert!(records.clone().all(|record| flow_packets(record) > 0));
    let input = place.0.path().join("in.pcap");
    let whole = replay([input.to_str().unwrap()]);
    let packets: u64 = records.map(flow_packets).sum();
    assert_eq!(packets, whole.packets_in_flows());
}

/// Without it a record is out when its flow ends, as in a file that is no store.
#[test]
fn flows_stay_whole_where_that_is_asked_for() {
    let (place, files) = replayed(&[&BY_INTERVAL[..], &["--whole-flows"]].concat());
    let input = place.0.path().join("in.pcap");
    let plain = replay([input.to_str().unwrap()]);
    let records: Vec<Value> = files
        .into_values()
        .flat_map(|(records, _)| records)
        .collect();
    assert_eq!(records, plain.flows);
    let done = vxtap(["replay", input.to_str().unwrap(), "--whole-flows"]);
    assert_eq!(done.code, Some(2));
    assert!(
        done.stderr.contains("--whole-flows is for a store"),
        "{}",
        done.stderr
    );
}

/// Live: flows go on over the end of an interval, and their records are in the file of their time, with nothing lost.
#[test]
#[allow(clippy::disallowed_methods, reason = "an interval is one of the clock")]
fn live_files_say_what_happened_in_their_intervals() {
    for workers in ["1", "2"] {
        let place = Place::new();
        let dir = format!("{}/", place.store().display());
        let flags = [
            "--flows",
            &dir,
            "--rotate-interval",
            "2s",
            "--workers",
            workers,
        ];
        let listening = place.listen_only(&flags, |_| ());
        // Half a second into an interval: two ends come while packets do.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let wait = 2500 - since.as_millis() as u64 % 2000;
        std::thread::sleep(std::time::Duration::from_millis(wait));
        listening.feed(2000, 500);
        listening.end();
        let summary = place.summary();
        let files = files(&place.store());
        let of_file = |(records, _): &(Vec<Value>, Vec<u8>)| -> u64 {
            records.iter().map(flow_packets).sum()
        };
        let packets: Vec<u64> = files.values().map(of_file).collect();
        assert_eq!(
            packets.iter().sum::<u64>(),
            summary["delivered"].as_u64().unwrap()
        );
        assert!(files.len() >= 3, "{:?}", files.keys());
        for (name, (records, _)) in &files {
            let intervals: BTreeSet<u64> = records
                .iter()
                .flat_map(|record| ["ts_start", "ts_end"].map(|end| seconds(record, end) / 2))
                .collect();
            assert_eq!(
                intervals.len(),
                1,
                "{workers} workers, {name}: {intervals:?}"
            );
        }
    }
}
