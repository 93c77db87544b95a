//! `--allow` and `--vni`: what is not listed is counted and goes no further, in replay and live, whole packets,
//! fragments and trains.

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
    assert_eq!(summary.get("refused_sources"), None);
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
            { "source": "10.2.0.1", "packets": 30, "at_least": false },
            { "source": "fd00:6::1", "packets": 20, "at_least": false },
        ]);
        assert_eq!(summary["refused_sources"], sources);
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

/// Many sources of one network are told as that network, which can be given to --allow as it is told.
#[test]
fn many_sources_are_told_by_network() {
    let dir = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = (1..=3)
        .flat_map(|host| [format!("10.2.0.{host}"), format!("fd00:6::{host}")])
        .map(|source| capture(dir.path(), &source, &source, 5, 10))
        .collect();
    let (summary, said) = replayed(&files, &["--allow", "192.0.2.1"]);
    let sources = json!([
        { "source": "10.2.0.0/24", "packets": 30, "at_least": false },
        { "source": "fd00:6::/64", "packets": 30, "at_least": false },
    ]);
    assert_eq!(summary["refused_sources"], sources);
    assert!(
        said.contains("10.2.0.0/24 (30), fd00:6::/64 (30)"),
        "{said}"
    );
    let (summary, _) = replayed(
        &files,
        &["--allow", "10.2.0.0/24", "--allow", "fd00:6::/64"],
    );
    assert_eq!(summary["delivered"], 60);
}

/// A list in a file, of ten thousand networks, is as exact as one typed.
#[test]
fn lists_in_files() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("allowed.txt");
    let mut text = "# every second /28 of 10.0.0.0/8\n".to_owned();
    for network in 0..10_000u32 {
        let first = std::net::Ipv4Addr::from(0x0a00_0000 + network * 32);
        text += &format!("{first}/28 # {network}\n");
    }
    std::fs::write(&list, text + "\nfd00:5::/32\n").unwrap();
    let list = list.to_str().unwrap();
    let files = [
        capture(dir.path(), "a", "10.2.0.15", 5, 10),
        capture(dir.path(), "b", "10.2.0.16", 5, 20),
        capture(dir.path(), "c", "192.0.2.1", 5, 40),
        capture(dir.path(), "d", "fd00:5::1", 5, 80),
    ];
    let (summary, _) = replayed(&files, &["--allow-file", list]);
    assert_eq!(summary["delivered"], 90);
    let (summary, _) = replayed(&files, &["--allow-file", list, "--allow", "192.0.2.0/24"]);
    assert_eq!(summary["delivered"], 130);
    assert_eq!(
        reasons(&summary, "filtered"),
        expected([("not_allowed", 20)])
    );

    let refused = |text: &str| {
        let path = dir.path().join("wrong.txt");
        std::fs::write(&path, text).unwrap();
        let refused = vxtap(["replay", "in.pcap", "--allow-file", path.to_str().unwrap()]);
        assert_eq!(refused.code, Some(2), "{}", refused.stderr);
        refused.stderr
    };
    let said = refused("10.0.0.0/8\n10.0.0.1/8\nx\n");
    assert!(
        said.contains("wrong.txt: line 2: 10.0.0.1/8 has bits set"),
        "{said}"
    );
    assert!(
        said.contains("wrong.txt: line 3: 'x' is no IP address"),
        "{said}"
    );
    let said = refused(&"x\n".repeat(50));
    assert!(said.contains("45 more lines are wrong"), "{said}");
    // It would allow everybody.
    assert!(refused("# nobody yet\n").contains("it names no network"));
    let missing = vxtap(["replay", "in.pcap", "--allow-file", "/nowhere"]);
    assert_eq!(missing.code, Some(2));
    assert!(
        missing.stderr.contains("cannot read --allow-file /nowhere"),
        "{}",
        missing.stderr
    );
}

#[test]
fn vnis_can_be_denied() {
    let dir = tempfile::tempdir().unwrap();
    let file = capture(dir.path(), "a", "10.1.2.3", 5, 100);
    let files = [file];
    let delivered = |flags: &[&str]| {
        let (summary, _) = replayed(&files, flags);
        let vnis = summary["sessions"].as_array().unwrap().iter();
        let vnis: Vec<u64> = vnis
            .map(|session| session["vni"].as_u64().unwrap())
            .collect();
        (
            vnis,
            summary["delivered"].as_u64().unwrap(),
            reasons(&summary, "filtered"),
        )
    };
    let (vnis, of_6, filtered) = delivered(&["--vni-deny", "5,7-100"]);
    assert_eq!(vnis, [6]);
    assert_eq!(filtered, expected([("vni", 100 - of_6)]));
    let (vnis, of_5, _) = delivered(&["--vni", "1-10", "--vni-deny", "6"]);
    assert_eq!((vnis, of_5), (vec![5], 100 - of_6));
    let (vnis, _, filtered) = delivered(&["--vni", "5", "--vni-deny", "5"]);
    assert_eq!((vnis.len(), filtered), (0, expected([("vni", 100)])));
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
        (&["--vni-deny", "x"], "'x' is no VNI"),
        (
            &["--vni-deny", "1", "--plain"],
            "--plain takes packets as they are",
        ),
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
            { "source": "10.77.0.3", "packets": strangers[0], "at_least": false },
            { "source": "fd00:77::3", "packets": strangers[1], "at_least": false },
        ]);
        assert_eq!(ended.summary["refused_sources"], sources, "{what}");
        assert_eq!(
            ended.summary["sessions"].as_array().unwrap().len(),
            2,
            "{what}"
        );
    }
}

/// Receives 800 packets of who is allowed and 40,000 of strangers, with a list of 20,002 networks; the run, how many
/// were refused by vxtap and how many by the kernel. `before` takes rights away.
#[cfg(target_os = "linux")]
fn flooded(before: &[&str]) -> Option<(common::lab::Ended, u64, u64)> {
    use common::lab::{Lab, SRC, Side, TO_V4, TO_V6, datagram};

    let lab = Lab::new()?;
    lab.ipv6();
    lab.ip(Side::Sender, &format!("address add 10.77.0.3/24 dev {SRC}"));
    lab.ip(
        Side::Sender,
        &format!("address add fd00:77::3/64 dev {SRC} nodad"),
    );
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("allowed.txt");
    let mut text = "10.77.0.1\nfd00:77::1\n".to_owned();
    for network in 0..10_000u32 {
        text += &format!(
            "{}/31\n",
            std::net::Ipv4Addr::from(0x0b00_0000 + network * 4)
        );
        text += &format!("fd01::{network:x}:0/112\n");
    }
    std::fs::write(&list, text).unwrap();
    let socket = dir.path().join("control.sock");
    let words = format!(
        "--workers 2 --bind 10.77.0.2:4789 --bind [fd00:77::2]:4789 --allow-file {} --control {}",
        list.to_str().unwrap(),
        socket.to_str().unwrap()
    );
    let mut listener = lab.listen_with(before, &["--backend", "packet"], &words);
    let (mut allowed, mut strangers) = (0, 0);
    for (to, from) in [
        (TO_V4, ["10.77.0.1:0", "10.77.0.3:0"]),
        (TO_V6, ["[fd00:77::1]:0", "[fd00:77::3]:0"]),
    ] {
        let [friend, stranger] = from.map(|from| lab.udp(Side::Sender, from));
        let flood = datagram(7, 1, 100);
        for number in 0..400 {
            friend.send_to(&datagram(7, number, 1000), to).unwrap();
            for _ in 0..50 {
                stranger.send_to(&flood, to).unwrap();
            }
        }
        allowed += 400;
        strangers += 400 * 50;
    }
    listener.wait_for(allowed + strangers);
    let told = status_behind(&socket, allowed + strangers);
    let ended = listener.end();
    ended.assert_well();
    let what = &ended.said;
    assert_eq!(told, ended.summary["kernel_refused"].as_u64().unwrap_or(0));
    assert_eq!(ended.count("delivered"), allowed, "{what}");
    let refused = ended.reason("filtered", "not_allowed");
    let left_out = ended.summary["kernel_refused"].as_u64().unwrap_or(0);
    assert_eq!(refused + left_out, strangers, "{what}");
    assert_eq!(ended.count("received"), allowed + refused, "{what}");
    Some((ended, refused, left_out))
}

/// Packets that the kernel left out as the status tells it, for programs and for people, once all `packets` are known.
#[cfg(target_os = "linux")]
fn status_behind(socket: &Path, packets: u64) -> u64 {
    let ask = |json: Option<&str>| {
        let words = ["status", "--control", socket.to_str().unwrap()];
        let asked = vxtap(words.into_iter().chain(json));
        assert_eq!(asked.code, Some(0), "{}", asked.stderr);
        String::from_utf8(asked.stdout).unwrap()
    };
    for _ in 0..200 {
        let status: Value = serde_json::from_str(&ask(Some("--json"))).unwrap();
        let left_out = status["kernel_refused"].as_u64().unwrap();
        if status["received"].as_u64().unwrap() + left_out == packets {
            let page = ask(None);
            let line = format!(" {left_out} left out in the kernel: from sources");
            assert_eq!(page.contains(&line), left_out > 0, "{page}");
            return left_out;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("the status never knew all {packets} packets: {}", ask(None));
}

/// A flood of strangers does not enter the ring, where the kernel takes an eBPF program: it is counted there, and every
/// packet of who is allowed comes.
#[cfg(target_os = "linux")]
#[test]
fn a_flood_of_strangers_stays_in_the_kernel() {
    let Some((ended, refused, left_out)) = flooded(&[]) else {
        return;
    };
    let what = &ended.said;
    if what.contains("needs CAP_BPF") {
        println!("skipped: this kernel takes no eBPF program");
        return;
    }
    assert!(
        refused > 0,
        "the first ones are counted by their source: {what}"
    );
    assert!(left_out > 0, "{what}");
    let sources = ended.summary["refused_sources"].as_array().unwrap();
    // The headers that pass may all be of the first one.
    assert_eq!(sources[0]["source"], "10.77.0.3", "{what}");
    assert!(
        sources.iter().all(|source| source["at_least"] == true),
        "{what}"
    );
    assert!(
        what.contains("left out in the kernel: from sources that --allow does not name"),
        "{what}"
    );
}

/// Without the right to load one the classic filter knows a part of the list; the worker knows all of it.
#[cfg(target_os = "linux")]
#[test]
fn a_flood_of_strangers_is_counted_without_ebpf() {
    if !common::tool("setpriv") {
        return;
    }
    let rights = "net_raw,+net_admin,+setpcap,+dac_override";
    let bounding = format!("--bounding-set=-all,+{rights}");
    let inherited = format!("--inh-caps=-all,+{rights}");
    let Some((ended, refused, left_out)) = flooded(&["setpriv", &bounding, &inherited]) else {
        return;
    };
    let what = &ended.said;
    assert!(what.contains("needs CAP_BPF"), "{what}");
    assert_eq!((refused, left_out), (40_000, 0), "{what}");
    assert_eq!(
        ended.summary["refused_sources"].as_array().unwrap().len(),
        2
    );
}

/// Who may send can be changed while a ring receives: the kernel's filter and the worker's list follow, and what was left
/// out before stays counted.
#[cfg(target_os = "linux")]
#[test]
fn the_list_can_be_renewed() {
    use common::lab::{Lab, SRC, Side, TO_V4, datagram, wait_until};
    use vxtap::bpf::steer::Steering;
    use vxtap::mirror::allowed::Allowed;
    use vxtap::source::live::{Backend, Live, Plan, sockets::Gro};
    use vxtap::source::{Arrival, Source};

    let Some(lab) = Lab::new() else { return };
    lab.ip(Side::Sender, &format!("address add 10.77.0.3/24 dev {SRC}"));
    let of = |network: &str| {
        let networks = [network.parse().unwrap()];
        std::sync::Arc::new(Allowed {
            networks: networks.into_iter().collect(),
            ..Allowed::default()
        })
    };
    let plan = Plan {
        addresses: vec![TO_V4.parse().unwrap()],
        backend: Backend::Packet,
        interface: None,
        steering: Steering {
            workers: 1,
            multiplier: 1,
        },
        unsteered: Vec::new(),
        allowed: of("10.77.0.1"),
        gro: Gro::Off,
        datagram_len: 2000,
    };
    let mut live = lab.inside(Side::Receiver, || Live::open(&plan).unwrap());
    let senders = ["10.77.0.1:0", "10.77.0.3:0"].map(|from| lab.udp(Side::Sender, from));
    let flood = datagram(7, 1, 1000);
    for (number, allowed) in ["10.77.0.1", "10.77.0.3", "0.0.0.0/0"]
        .into_iter()
        .enumerate()
    {
        if number > 0 {
            live.sources[0].allow(&of(allowed)).unwrap();
        }
        for sender in &senders {
            for _ in 0..5000 {
                sender.send_to(&flood, TO_V4).unwrap();
            }
        }
        // Whole packets are those of who is allowed now.
        let (mut whole, mut headers) = ([0; 2], 0);
        let before = live.sources[0].refused_so_far();
        wait_until("all packets", || {
            lab.inside(Side::Receiver, || {
                let source = &mut live.sources[0];
                let batch = source.next_batch(1024, |arrival| {
                    let Arrival::Record(record) = arrival else {
                        panic!("{arrival:?}")
                    };
                    match record.bytes.len() < record.orig_len as usize {
                        true => headers += 1,
                        false => whole[usize::from(record.bytes[29] == 3)] += 1,
                    }
                });
                batch.unwrap();
            });
            let all = match number {
                0 => [5000, 0],
                1 => [0, 5000],
                _ => [5000; 2],
            };
            let left_out = live.sources[0].refused_so_far();
            let done = whole == all && (number == 2 || headers + left_out as usize >= 5000);
            done.then_some(())
        });
        assert!(live.sources[0].refused_so_far() >= before);
        if number == 2 {
            assert_eq!(headers, 0, "nobody is a stranger any more");
        }
    }
}
