//! What a session did over time: the summary tells how much came when, and when truncation changed.

mod common;

use common::files::shift;
use common::{assert_closes, replay, vxtap};
use serde_json::Value;

fn sum(list: &Value) -> u64 {
    let numbers = list.as_array().unwrap().iter();
    numbers.map(|number| number.as_u64().unwrap()).sum()
}

/// A session whose packet length is changed while it runs, and then lifted.
#[test]
fn a_cut_that_changes_midway() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let mut parts = Vec::new();
    for (number, cut) in [Some("96"), Some("200"), None].into_iter().enumerate() {
        let part = path(&format!("{number}.pcap"));
        let mut args = vec!["send", "--generate", "--write", &part, "--to", "10.0.0.9"];
        args.extend(["--count", "4000", "--pps", "400", "--frame-size", "600"]);
        if let Some(cut) = cut {
            args.extend(["--packet-length", cut]);
        }
        assert_eq!(vxtap(&args).code, Some(0));
        parts.push(part);
    }
    // One after the other: each file begins at its own time.
    let shifted: Vec<String> = (parts.iter().enumerate())
        .map(|(number, part)| {
            let out = path(&format!("shifted-{number}.pcap"));
            shift(part, &out, number as u32 * 10);
            out
        })
        .collect();
    let mut summaries = Vec::new();
    for workers in ["1", "3"] {
        let files = shifted.iter().map(String::as_str);
        let args: Vec<&str> = files.chain(["--workers", workers]).collect();
        let replayed = replay(&args);
        assert_eq!(replayed.run.code, Some(0), "{}", replayed.run.stderr);
        assert_closes(&replayed.summary);
        let page = replayed.run.stderr.clone();
        assert!(
            page.contains("cut packets keep 200 bytes; 96 before"),
            "{page}"
        );
        assert!(
            page.contains("0.0 % of the packets arrive cut; 100.0 % before"),
            "{page}"
        );
        summaries.push(replayed.summary["sessions"][0].clone());
    }
    assert_eq!(summaries[0], summaries[1]);
    let session = &summaries[0];
    let over_time = &session["over_time"];
    for (list, total) in [
        ("packets", "packets"),
        ("bytes", "bytes"),
        ("truncated", "truncated"),
    ] {
        assert_eq!(
            sum(&over_time[list]),
            session[total].as_u64().unwrap(),
            "{list}"
        );
    }
    assert_eq!(
        (session["packets"].as_u64(), session["truncated"].as_u64()),
        (Some(12_000), Some(8000))
    );
    assert_eq!(over_time["seconds"], 1);
    let seconds = over_time["packets"].as_array().unwrap();
    assert!(seconds.iter().all(|packets| packets == 400), "{seconds:?}");
    let cuts: Vec<_> = (session["cuts"].as_array().unwrap().iter())
        .map(|cut| (cut["cut_size"].as_u64(), cut["cut_by"].as_str()))
        .collect();
    let by_session = Some("session_packet_length");
    assert_eq!(cuts, [(Some(96), by_session), (Some(200), by_session)]);
    let changes: Vec<_> = (session["changes"].as_array().unwrap().iter())
        .map(|change| {
            (
                change["what"].as_str().unwrap(),
                change["from"].as_f64(),
                change["to"].as_f64(),
            )
        })
        .collect();
    assert_eq!(
        changes,
        [
            ("cut_size", Some(96.0), Some(200.0)),
            ("truncated_share", Some(1.0), Some(0.0)),
        ]
    );
}
