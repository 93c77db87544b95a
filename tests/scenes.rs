//! Mirror sessions of one TCP connection as `vxtap send` makes them: at both ends, with a segment that was sent again,
//! and of one direction only.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Replayed, assert_closes, replay, testdata, vxtap};
use serde_json::json;
use tempfile::TempDir;

/// The two ends.
const CLIENT: &str = "10.0.1.11";
const SERVER: &str = "10.0.2.21";

/// The client's connection of `both-ends.pcap` as plain frames: 8 packets, one of them the server's payload sent again.
fn connection(dir: &TempDir) -> PathBuf {
    let path = dir.path().join("plain.pcap");
    let capture = testdata("both-ends.pcap");
    let words = ["replay", "--allow", CLIENT, "--format", "pcap", "-w"];
    let files = [path.to_str().unwrap(), capture.to_str().unwrap()];
    let run = vxtap([&words[..], &files].concat());
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    path
}

/// The records of a pcap file, changed or left out.
fn change(from: &Path, to: &Path, keep: impl Fn(&mut [u8]) -> bool) {
    let mut bytes = fs::read(from).unwrap();
    let mut changed = bytes[..24].to_vec();
    let mut at = 24;
    while at < bytes.len() {
        let len = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
        if keep(&mut bytes[at + 16..at + 16 + len]) {
            changed.extend_from_slice(&bytes[at..at + 16 + len]);
        }
        at += 16 + len;
    }
    fs::write(to, changed).unwrap();
}

/// What `source` mirrors of these plain frames.
fn mirrored(plain: &Path, source: &str, vni: &str) -> String {
    let to = plain.with_file_name(format!("mirrored-{vni}.pcap"));
    let to = to.to_str().unwrap().to_owned();
    let words = ["send", "--plain", "--source", source, "--vni", vni];
    let run = vxtap([&words[..], &["--write", &to, plain.to_str().unwrap()]].concat());
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    to
}

fn replayed(files: &[String]) -> Replayed {
    let replayed = replay(files);
    assert_eq!(replayed.run.code, Some(0), "{}", replayed.run.stderr);
    assert_closes(&replayed.summary);
    replayed
}

/// Each packet once at each end, whatever routers did to it; what was sent again is counted at each end, and no copy.
#[test]
fn both_ends_with_a_segment_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let plain = connection(&dir);
    for routers in [0, 1, 12] {
        let far = dir.path().join("far.pcap");
        change(&plain, &far, |frame| {
            // What the client sends has passed them, what the server sends has not.
            let passed = frame[26..30] == [10, 0, 1, 11];
            frame[22] = if passed {
                frame[22] - routers
            } else {
                frame[22] + routers
            };
            true
        });
        let files = [mirrored(&plain, CLIENT, "1"), mirrored(&far, SERVER, "2")];
        let alone = replayed(&files[..1]);
        assert_eq!(alone.summary["duplicates"], json!([]), "{routers}");
        let both = replayed(&files);
        assert_eq!(
            both.reasons("noted").get("duplicate"),
            Some(&8),
            "{routers}"
        );
        let pairs = both.summary["duplicates"].as_array().unwrap();
        let of_pairs: u64 = pairs
            .iter()
            .map(|pair| pair["packets"].as_u64().unwrap())
            .sum();
        assert_eq!(of_pairs, 8, "{routers}: {pairs:?}");
        let page = both.run.stderr.replace('\n', " ");
        for sentence in [
            "4 packets passed vni1@10.0.1.11, then vni2@10.0.2.21",
            "4 packets passed vni2@10.0.2.21, then vni1@10.0.1.11",
        ] {
            assert!(page.contains(sentence), "{routers}: {page}");
        }
        assert_eq!(both.flows.len(), 2);
        for flow in &both.flows {
            let told = ["retrans_o", "retrans_r", "dup_pkts"].map(|name| flow[name].as_u64());
            assert_eq!(told, [Some(0), Some(1), Some(8)], "{routers}: {flow}");
        }
    }
}

/// The mirror copies what the client sends only: nothing is missing of it, and it is said.
#[test]
fn one_direction_only() {
    let dir = tempfile::tempdir().unwrap();
    let plain = connection(&dir);
    let one = dir.path().join("one.pcap");
    change(&plain, &one, |frame| frame[26..30] == [10, 0, 1, 11]);
    let replayed = replayed(&[mirrored(&one, CLIENT, "1")]);
    let flow = &replayed.flows[0];
    assert_eq!(
        (
            &flow["half"],
            &flow["pkts_o"],
            &flow["pkts_r"],
            &flow["gap_bytes_o"]
        ),
        (&json!("o"), &json!(4), &json!(0), &json!(0))
    );
    let loss = &replayed.session(1, CLIENT)["mirror_loss"];
    assert_eq!(
        (&loss["one_sided"], &loss["gap_bytes"]),
        (&json!(1), &json!(0))
    );
    let sentence = "1 of 1 TCP connection came in one direction only";
    assert!(
        loss["advice"].as_str().unwrap().contains(sentence),
        "{loss}"
    );
}
