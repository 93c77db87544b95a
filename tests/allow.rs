//! `--allow` and `--vni`: what is not listed is counted and goes no further, in replay and live, whole packets,
//! fragments and trains.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test ends where something is not as expected"
)]

mod common;

use std::path::{Path, PathBuf};

use common::{assert_closes, expected, reasons, vxtap};
use serde_json::{Value, json};

/// A capture of `count` packets from this outer source, of two VNIs from `vni` on.
fn capture(dir: &Path, name: &str, source: &str, vni: u32, count: u32) -> PathBuf {
    let path = dir.join(name);
    let to = if source.contains(':') {
        "[fd00::9]"
    } else {
        "10.9.9.9"
    };
    let words = format!(
        "send --generate --frame-size 200 --vnis 2 --flows 64 --source {source} --to {to} --vni {vni} --count {count}"
    );
    let mut args: Vec<&str> = words.split(' ').collect();
    args.extend(["--write", path.to_str().unwrap()]);
    let made = vxtap(args);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    path
}

/// Replays these captures; the summary, and what was said.
fn replayed(files: &[PathBuf], flags: &[&str]) -> (Value, String) {
    let files = files.iter().map(|file| file.to_str().unwrap());
    let mut args = vec!["replay", "--summary", "-"];
    args.extend(files);
    args.extend(flags);
    let done = vxtap(args);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let summary: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_closes(&summary);
    (summary, done.stderr)
}

#[test]
fn who_is_not_listed_is_counted_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        capture(dir.path(), "a", "10.1.2.3", 5, 100),
        capture(dir.path(), "b", "10.2.0.1", 5, 30),
        capture(dir.path(), "c", "fd00:5::1", 20, 40),
        capture(dir.path(), "d", "fd00:6::1", 20, 20),
    ];
    let (summary, said) = replayed(&files, &[]);
    assert_eq!(summary["delivered"], 190);
    assert_eq!(summary.get("not_allowed_sources"), None);
    assert!(!said.contains("--allow"), "{said}");

    for workers in ["1", "3"] {
        let flags = [
            "--allow",
            "10.1.0.0/16",
            "--allow",
            "fd00:5::1",
            "--workers",
            workers,
        ];
        let (summary, said) = replayed(&files, &flags);
        assert_eq!(summary["delivered"], 140);
        assert_eq!(
            reasons(&summary, "filtered"),
            expected([("not_allowed", 50)])
        );
        let sources = json!([
            { "source": "10.2.0.1", "packets": 30 },
            { "source": "fd00:6::1", "packets": 20 },
        ]);
        assert_eq!(summary["not_allowed_sources"], sources);
        assert!(said.contains("50 filtered: not_allowed"), "{said}");
        assert!(said.contains("10.2.0.1 (30), fd00:6::1 (20)"), "{said}");
        assert_eq!(summary["sessions"].as_array().unwrap().len(), 4);
    }

    // Each capture has two VNIs, its own and the next.
    let (summary, _) = replayed(&files, &["--vni", "6,21-30"]);
    let delivered = summary["delivered"].as_u64().unwrap();
    assert!((60..130).contains(&delivered), "{delivered}");
    assert_eq!(
        reasons(&summary, "filtered"),
        expected([("vni", 190 - delivered)])
    );
    for session in summary["sessions"].as_array().unwrap() {
        assert!(
            [6, 21].contains(&session["vni"].as_u64().unwrap()),
            "{session}"
        );
    }

    // A source that is not allowed is not asked for its VNI; other ports are nobody's.
    let (summary, _) = replayed(&files, &["--vni", "1000", "--allow", "10.2.0.1/32"]);
    let counts = [("not_allowed", 160), ("vni", 30)];
    assert_eq!(reasons(&summary, "filtered"), expected(counts));
    let (summary, _) = replayed(&files, &["--port", "9", "--allow", "10.2.0.1/32"]);
    assert_eq!(
        reasons(&summary, "filtered"),
        expected([("other_port", 190)])
    );
}

#[test]
fn lists_that_are_none_are_refused() {
    for (flags, says) in [
        (
            &["--allow", "10.0.0.5/24"][..],
            "write 10.0.0.0/24 for the network",
        ),
        (&["--allow", "10.0.0.0/40"], "10.0.0.0 has 0 to 32"),
        (
            &["--allow", "mirror.example"],
            "'mirror.example' is no IP address",
        ),
        (&["--vni", "16777216"], "from 0 to 16777215"),
        (&["--vni", "20-10"], "write 10-20"),
        (&["--vni", "1,"], "'' is no VNI"),
        (
            &["--vni", "1", "--plain"],
            "--plain takes packets as they are",
        ),
        (
            &["--allow", "::/0", "--plain"],
            "--plain takes packets as they are",
        ),
    ] {
        let refused = vxtap([&["replay", "in.pcap"], flags].concat());
        assert_eq!(refused.code, Some(2), "{flags:?}: {}", refused.stderr);
        assert!(
            refused.stderr.contains(says),
            "{flags:?}: {}",
            refused.stderr
        );
    }
}

/// Whole packets, trains and fragments from sources that are not allowed, and sound ones between them: every
/// datagram is counted, and by its source, both ways to receive and both families.
#[cfg(target_os = "linux")]
#[test]
fn live_strangers_are_counted() {
    use common::lab::{BACKENDS, Lab, SRC, Side, TO_V4, TO_V6, datagram};
    use nix::sys::socket::{setsockopt, sockopt};

    for backend in BACKENDS {
        let Some(lab) = Lab::new() else { return };
        lab.ipv6();
        lab.ip(Side::Sender, &format!("address add 10.77.0.3/24 dev {SRC}"));
        lab.ip(
            Side::Sender,
            &format!("address add fd00:77::3/64 dev {SRC} nodad"),
        );
        let words = "--workers 2 --bind 10.77.0.2:4789 --bind [fd00:77::2]:4789 --vni 7 \
                     --allow 10.77.0.1 --allow fd00:77::1/128";
        let mut listener = lab.listen(backend, words);
        let (mut allowed, mut strangers, mut other_vni) = (0, [0; 2], 0);
        // One packet of a fragmented datagram is the ring's, not the socket's.
        let pieces = if backend == "packet" { 3 } else { 1 };
        for (family, (to, from)) in [
            (TO_V4, ["10.77.0.1:0", "10.77.0.3:0"]),
            (TO_V6, ["[fd00:77::1]:0", "[fd00:77::3]:0"]),
        ]
        .into_iter()
        .enumerate()
        {
            let [friend, stranger] = from.map(|from| lab.udp(Side::Sender, from));
            for number in 0..200 {
                stranger.send_to(&datagram(7, number, 1000), to).unwrap();
                friend.send_to(&datagram(7, number, 1000), to).unwrap();
            }
            friend.send_to(&datagram(8, 1, 100), to).unwrap();
            stranger.send_to(&datagram(7, 1, 3500), to).unwrap();
            friend.send_to(&datagram(7, 2, 3500), to).unwrap();
            let segment = 8 + 1000;
            setsockopt(&stranger, sockopt::UdpGsoSegment, &segment).unwrap();
            let train: Vec<u8> = (0..40)
                .flat_map(|number| datagram(7, number, 1000))
                .collect();
            stranger.send_to(&train, to).unwrap();
            allowed += 201;
            other_vni += 1;
            strangers[family] += 200 + pieces + 40;
        }
        let joined = if backend == "packet" { 2 * 2 } else { 0 };
        let refused = strangers[0] + strangers[1];
        let received = allowed + other_vni + joined + refused;
        listener.wait_for(received);
        let ended = listener.end();
        ended.assert_well();
        let what = format!("{backend}: {}", ended.said);
        assert_eq!(ended.count("delivered"), allowed, "{what}");
        assert_eq!(ended.reason("filtered", "not_allowed"), refused, "{what}");
        assert_eq!(ended.reason("filtered", "vni"), other_vni, "{what}");
        assert_eq!(
            ended.reason("filtered", "fragment_joined"),
            joined,
            "{what}"
        );
        assert_eq!(ended.count("received"), received, "{what}");
        let sources = json!([
            { "source": "10.77.0.3", "packets": strangers[0] },
            { "source": "fd00:77::3", "packets": strangers[1] },
        ]);
        assert_eq!(ended.summary["not_allowed_sources"], sources, "{what}");
        assert_eq!(
            ended.summary["sessions"].as_array().unwrap().len(),
            2,
            "{what}"
        );
    }
}
