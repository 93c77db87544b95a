//! `vxtap send --generate`: what it makes goes through replay, tshark and, over loopback, `vxtap listen`.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use common::{
    Run, assert_closes, expected, flow_packets, json_lines, replay, tool, tshark, vxtap,
    vxtap_command,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pcap_file::pcap::PcapReader;
use serde_json::Value;

/// Bytes in front of the inner frame, over IPv4.
const OUTER_LEN: usize = 14 + 20 + 8 + 8;

fn generate(args: &[&str]) -> Run {
    vxtap([&["send", "--generate"], args].concat())
}

/// Runs with --write and expects nothing to go wrong.
#[track_caller]
fn written(args: &[&str]) -> (tempfile::TempDir, PathBuf, Run) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("generated.pcap");
    let run = generate(&[args, &["--write", path.to_str().unwrap()]].concat());
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stdout.is_empty());
    (dir, path, run)
}

/// Time and bytes of each packet.
fn packets(path: &Path) -> Vec<(Duration, Vec<u8>)> {
    let mut reader = PcapReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let mut packets = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.unwrap();
        assert_eq!(packet.orig_len() as usize, packet.data().len());
        packets.push((packet.timestamp(), packet.data().to_vec()));
    }
    packets
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn replay_finds_every_packet_and_every_flow() {
    let args = [
        "--flows",
        "1000",
        "--vnis",
        "4",
        "--vni",
        "50",
        "--vlan-percent",
        "20",
    ];
    let (_dir, path, run) = written(&[&args[..], &["--count", "5000"]].concat());
    assert!(
        run.stderr
            .contains("5000 generated, 5000 written, 0 of them cut"),
        "{}",
        run.stderr
    );
    let replayed = replay([&path]);
    assert_closes(&replayed.summary);
    assert_eq!(
        (replayed.count("received"), replayed.count("delivered")),
        (5000, 5000)
    );
    assert_eq!(replayed.reasons("noted"), expected([("inner_vlan", 1000)]));
    let vnis: Vec<_> = replayed
        .sessions()
        .iter()
        .map(|session| session["vni"].as_u64().unwrap())
        .collect();
    assert_eq!(vnis, [50, 51, 52, 53]);
    assert!(
        replayed
            .sessions()
            .iter()
            .all(|session| session["packets"] == 1250)
    );
    let clean =
        |session: &Value| ["truncated", "suspect", "unknown_length"].map(|name| session[name] == 0);
    assert!(
        replayed
            .sessions()
            .iter()
            .all(|session| clean(session) == [true; 3])
    );
    assert_eq!(replayed.flows.len(), 1000);
    // Five rounds: three from the client, two from the server.
    for flow in &replayed.flows {
        assert_eq!(
            (&flow["pkts_o"], &flow["pkts_r"]),
            (&3.into(), &2.into()),
            "{flow}"
        );
    }
    assert_eq!(replayed.packets_in_flows(), 5000);
    let ipv6 = |flow: &&Value| flow["ip_v"] == 6;
    assert_eq!(replayed.flows.iter().filter(ipv6).count(), 300);
}

#[test]
fn tshark_finds_nothing_wrong() {
    if !tool("tshark") {
        return;
    }
    let args = ["--count", "5000", "--flows", "500", "--vlan-percent", "30"];
    for size in ["imix", "60-200", "1400"] {
        let (_dir, path, _) = written(&[&args[..], &["--frame-size", size]].concat());
        let inner = path.with_file_name("inner.pcapng");
        let run = vxtap([Path::new("replay"), &path, Path::new("-w"), &inner]);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        let checks = [
            "ip.check_checksum",
            "udp.check_checksum",
            "tcp.check_checksum",
        ];
        let checks = checks.map(|name| format!("{name}:TRUE"));
        let options: Vec<&str> = checks.iter().flat_map(|check| ["-o", check]).collect();
        let fields = [
            "ip.version",
            "ip.checksum.status",
            "udp.checksum.status",
            "tcp.checksum.status",
        ];
        let fields = [
            &fields[..],
            &["_ws.expert.message", "ip.proto", "frame.protocols"],
        ]
        .concat();
        let rows = tshark(&inner, &fields, &options);
        assert_eq!(rows.len(), 5000);
        for row in rows {
            let [version, ip, udp, tcp, complaint, _, protocols] = row.as_slice() else {
                panic!("{row:?}");
            };
            assert_eq!(complaint, "", "{size}: {row:?}");
            // 1: good. A TCP and a UDP packet have one of the two.
            assert!(ip == "1" || version == "6", "{size}: {row:?}");
            let transport = if protocols.contains(":tcp") { tcp } else { udp };
            assert_eq!(transport, "1", "{size}: {row:?}");
        }
        let outer = tshark(&path, &["_ws.expert.message", "_ws.malformed"], &options);
        assert!(outer.iter().flatten().all(String::is_empty));
    }
}

#[test]
fn the_same_flags_give_the_same_file() {
    let bytes = |args: &[&str]| {
        let (_dir, path, _) = written(&[&["--count", "500"], args].concat());
        std::fs::read(path).unwrap()
    };
    let first = bytes(&[]);
    assert_eq!(first, bytes(&["--seed", "1"]));
    assert_ne!(first, bytes(&["--seed", "2"]));
}

#[test]
fn written_times_follow_the_rate() {
    for (args, count, gap_us) in [
        (&["--duration", "2s"][..], 2000, 1000),
        (&["--duration", "100ms", "--pps", "40000"], 4000, 25),
        (&["--duration", "1h", "--count", "7"], 7, 1000),
        (&[], 10_000, 1000),
    ] {
        let (_dir, path, _) = written(args);
        let packets = packets(&path);
        assert_eq!(packets.len(), count, "{args:?}");
        let first = packets[0].0;
        for (at, (time, _)) in (0..).zip(&packets) {
            assert_eq!(
                *time - first,
                Duration::from_micros(gap_us) * at,
                "{args:?}"
            );
        }
    }
}

#[test]
fn outer_ports_and_addresses() {
    let port = |packet: &[u8]| u16::from_be_bytes([packet[34], packet[35]]);
    let (_dir, path, _) = written(&["--count", "100"]);
    assert!(
        packets(&path)
            .iter()
            .all(|(_, packet)| port(packet) == 49_152)
    );
    let args = [
        "--count",
        "2000",
        "--flows",
        "100",
        "--source-ports",
        "8",
        "--source-port",
        "700",
    ];
    let (_dir, path, _) = written(&[&args[..], &["--to", "198.51.100.3"]].concat());
    let mut of_direction = BTreeMap::new();
    for (_, packet) in packets(&path) {
        assert_eq!(packet[30..34], [198, 51, 100, 3]);
        // Addresses and ports of the inner packet; without a tag they always stand there.
        let inner = &packet[OUTER_LEN..];
        let ends = if inner[12] == 0x86 {
            &inner[22..58]
        } else {
            &inner[26..38]
        };
        let before = of_direction.insert(ends.to_vec(), port(&packet));
        assert!(before.is_none_or(|before| before == port(&packet)));
    }
    assert_eq!(of_direction.len(), 200);
    let used: BTreeSet<u16> = of_direction.values().copied().collect();
    assert!(
        used.iter().eq(&[700, 701, 702, 703, 704, 705, 706, 707]),
        "{used:?}"
    );
}

#[test]
fn cut_as_a_mirror_session_cuts() {
    let (_dir, path, run) = written(&["--count", "1200", "--packet-length", "96"]);
    let replayed = replay([&path]);
    assert_eq!(replayed.count("delivered"), 1200);
    let longer = packets(&path)
        .iter()
        .filter(|(_, packet)| packet.len() == OUTER_LEN + 96)
        .count();
    assert!(
        (400..600).contains(&longer),
        "{longer} of 1200; five of twelve are longer than 96"
    );
    assert_eq!(replayed.sessions()[0]["truncated"], longer);
    assert!(
        run.stderr
            .contains(&format!("1200 written, {longer} of them cut")),
        "{}",
        run.stderr
    );

    let (_dir, path, _) = written(&["--count", "50", "--mtu", "1000", "--frame-size", "1400"]);
    assert!(
        packets(&path)
            .iter()
            .all(|(_, packet)| packet.len() == 14 + 1000)
    );
}

/// Receives on loopback while `send` runs; the datagrams with their senders.
fn received(receiver: &UdpSocket, send: impl FnOnce(&str)) -> Vec<(SocketAddr, Vec<u8>)> {
    let to = receiver.local_addr().unwrap().to_string();
    send(&to);
    receiver.set_nonblocking(true).unwrap();
    let mut buffer = vec![0; 65_536];
    let mut datagrams = Vec::new();
    while let Ok((len, sender)) = receiver.recv_from(&mut buffer) {
        datagrams.push((sender, buffer[..len].to_vec()));
    }
    datagrams
}

/// The network gets what the file gets.
#[cfg(target_os = "linux")]
#[test]
fn sent_and_written_are_the_same() {
    let common = [
        "--count",
        "60",
        "--flows",
        "20",
        "--seed",
        "9",
        "--frame-size",
        "60-300",
    ];
    let (_dir, path, _) = written(&common);
    let expected: Vec<Vec<u8>> = packets(&path)
        .into_iter()
        .map(|(_, packet)| packet[OUTER_LEN - 8..].to_vec())
        .collect();
    for flags in [&[][..], &["--no-udp-checksum"], &["--pps", "2000"]] {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(receiver) = UdpSocket::bind(address) else {
                eprintln!("skipped: this machine has no IPv6");
                continue;
            };
            // Over IPv6 a socket takes zero checksums only when it says so, and ours does not.
            let lost = address.starts_with('[') && flags.contains(&"--no-udp-checksum");
            let datagrams = received(&receiver, |to| {
                let run = generate(&[&common[..], flags, &["--to", to]].concat());
                assert_eq!(run.code, Some(0), "{}", run.stderr);
                assert!(run.stdout.is_empty());
                assert!(
                    run.stderr.contains("60 generated, 60 sent"),
                    "{}",
                    run.stderr
                );
            });
            let payloads: Vec<_> = datagrams.into_iter().map(|(_, payload)| payload).collect();
            let expected = if lost { &[][..] } else { &expected };
            assert_eq!(payloads, expected, "{flags:?} {address}");
        }
    }
}

/// Every source port has its socket, and on each the numbers only grow.
#[cfg(target_os = "linux")]
#[test]
fn several_source_ports_on_the_network() {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let args = [
        "--count",
        "180",
        "--flows",
        "90",
        "--source-ports",
        "5",
        "--ipv6-percent",
        "0",
    ];
    let args = [&args[..], &["--frame-size", "64"]].concat();
    let datagrams = received(&receiver, |to| {
        let run = generate(&[&args[..], &["--to", to]].concat());
        assert_eq!(run.code, Some(0), "{}", run.stderr);
    });
    assert_eq!(datagrams.len(), 180);
    let mut numbers: BTreeMap<u16, Vec<u64>> = BTreeMap::new();
    for (sender, payload) in datagrams {
        // Behind Ethernet, IPv4 and UDP or TCP.
        let at = 8 + 34 + if payload[8 + 23] == 6 { 20 } else { 8 };
        let number = u64::from_be_bytes(payload[at..at + 8].try_into().unwrap());
        numbers.entry(sender.port()).or_default().push(number);
    }
    assert_eq!(numbers.len(), 5, "{numbers:?}");
    assert!(numbers.values().all(|numbers| numbers.is_sorted()));
    let mut all: Vec<u64> = numbers.into_values().flatten().collect();
    all.sort_unstable();
    assert!(all.into_iter().eq(0..180));
}

/// What was sent is what listen received and the kernel dropped.
#[cfg(target_os = "linux")]
#[test]
fn listen_accounts_for_all_that_was_sent() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (heard, sent, flows) = (path("heard.json"), path("sent.json"), path("flows.jsonl"));
    let mut command = vxtap_command(["listen", "--bind", "127.0.0.1:0", "--duration", "60s"]);
    command.args(["--summary", &heard, "--flows", &flows]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut listener = common::Running::start(&mut command);
    let mut stderr = BufReader::new(listener.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    let (_, rest) = line.split_once("listening on ").unwrap();
    let (to, _) = rest.split_once(';').unwrap();

    let args = [
        "--to",
        to,
        "--pps",
        "10000",
        "--duration",
        "1s",
        "--flows",
        "500",
    ];
    let run = generate(&[&args[..], &["--summary", &sent, "--source-ports", "4"]].concat());
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let id = Pid::from_raw(listener.id().cast_signed());
    kill(id, Signal::SIGINT).unwrap();
    let mut said = String::new();
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!(listener.wait().unwrap().code(), Some(0), "{said}");

    let (heard, sent) = (json(Path::new(&heard)), json(Path::new(&sent)));
    assert_closes(&heard);
    let number = |of: &Value, name: &str| of[name].as_u64().unwrap();
    let kernel_dropped = common::reasons(&heard, "kernel_dropped")
        .values()
        .sum::<u64>();
    assert_eq!(
        number(&sent, "sent"),
        number(&heard, "received") + kernel_dropped
    );
    assert_eq!(
        number(&sent, "frames"),
        number(&sent, "sent") + number(&sent, "unsent")
    );
    // A machine that stalls may send fewer, but never more.
    assert!((1000..=10_000).contains(&number(&sent, "sent")), "{sent}");
    assert_eq!(number(&heard, "received"), number(&heard, "delivered"));
    let records = json_lines(&std::fs::read_to_string(&flows).unwrap());
    let in_flows: u64 = records.iter().map(flow_packets).sum();
    assert_eq!(in_flows, number(&heard, "delivered"));
    if kernel_dropped == 0 && number(&sent, "sent") >= 500 {
        assert_eq!(number(&heard, "flows"), 500);
    }
    let seconds = sent["seconds"].as_f64().unwrap();
    assert!((0.9..10.0).contains(&seconds), "{sent}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_ends_when_its_time_is_over() {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = receiver.local_addr().unwrap().to_string();
    for (flags, fewest, seconds) in [
        (&["--duration", "300ms"][..], 1, 0.3),
        (&["--duration", "300ms", "--pps", "100"], 10, 0.2),
        (&["--count", "51", "--pps", "100"], 51, 0.5),
    ] {
        let run = generate(&[flags, &["--to", &to, "--summary", "-", "--flows", "10"]].concat());
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        let summary: Value = serde_json::from_slice(&run.stdout).unwrap();
        assert!(summary["sent"].as_u64().unwrap() >= fewest, "{summary}");
        let took = summary["seconds"].as_f64().unwrap();
        assert!(
            (seconds..seconds + 5.0).contains(&took),
            "{flags:?}: {summary}"
        );
    }
}

/// Where nobody listens the system answers, and all is sent nevertheless.
#[cfg(target_os = "linux")]
#[test]
fn nobody_listens() {
    // tcpmux: no system has it any more.
    let run = generate(&["--to", "127.0.0.1:1", "--count", "300"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(
        run.stderr.contains("300 generated, 300 sent"),
        "{}",
        run.stderr
    );
    assert_eq!(
        run.stderr.matches("does not take datagrams").count(),
        1,
        "{}",
        run.stderr
    );
}

/// An interface whose queue lets 8 Mbit/s through and holds 10 kB, in a network of its own. Says what `send` says,
/// and then what the interface has sent.
#[cfg(target_os = "linux")]
const SLOW_LINK: &str = "
    exec 3>&2 2>/dev/null
    [ ! -e /proc/sys/net/ipv6 ] || echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6 || exit 77
    ip link add name slow0 type veth peer name slow1 &&
    ip addr add 192.0.2.1/24 dev slow0 &&
    ip link set slow0 up && ip link set slow1 up &&
    ip neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev slow0 &&
    tc qdisc add dev slow0 root tbf rate 8mbit burst 3000 limit 10000 || exit 77
    \"$@\" 2>&3 || exit
    sleep 0.3
    cat /proc/net/dev";

/// What an interface has no room for is sent again, or counted; it is never lost in silence.
#[cfg(target_os = "linux")]
#[test]
fn a_full_queue_loses_nothing_that_was_counted() {
    if !tool("unshare") || !tool("ip") || !tool("tc") {
        return;
    }
    let plain = common::testdata("plain.pcap");
    let generate = ["--generate", "--count", "300", "--frame-size", "500"];
    for (args, frames, all) in [
        (generate.to_vec(), 300, true),
        ([&generate[..], &["--no-retry"]].concat(), 300, false),
        (
            vec![plain.to_str().unwrap(), "--loop", "10", "--mtu", "1500"],
            320,
            true,
        ),
    ] {
        let mut command = std::process::Command::new("unshare");
        command.args(["-rn", "sh", "-c", SLOW_LINK, "sh", common::VXTAP, "send"]);
        command.args(args).args(["--to", "192.0.2.2"]);
        let run = common::run(&mut command);
        if run.code == Some(77) || run.stderr.contains("unshare") {
            eprintln!("skipped: no network namespace with veth and tbf here");
            return;
        }
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        let (_, sent) = run.stderr.split_once(", ").unwrap();
        let sent: u64 = sent.split(' ').next().unwrap().parse().unwrap();
        let devices = String::from_utf8(run.stdout).unwrap();
        let line = devices
            .lines()
            .find_map(|line| line.trim().strip_prefix("slow0:"));
        // Eight columns of what was received, then bytes and packets sent.
        let transmitted: u64 = line
            .unwrap()
            .split_whitespace()
            .nth(9)
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(transmitted, sent, "{}", run.stderr);
        assert_eq!(sent == frames, all, "{}", run.stderr);
    }
}

#[test]
fn bad_usage_exits_with_2() {
    let to = ["--to", "127.0.0.1"];
    for (args, said) in [
        (&["--generate"][..], "--to"),
        (&["--generate", "plain.pcap"], "cannot be used with"),
        (&["--count", "5"], "<FILE>"),
        (&["plain.pcap", "--count", "5"], "--generate"),
        (&["plain.pcap", "--flows", "5"], "--generate"),
        (&["plain.pcap", "--cpu", "0"], "--generate"),
        (&["plain.pcap", "--no-retry"], "--generate"),
        (&["--generate", "--loop", "2"], "cannot be used with"),
        (&["--generate", "--speed", "2"], "cannot be used with"),
        (&["--generate", "--as-recorded"], "cannot be used with"),
        (&["--generate", "--plain"], "cannot be used with"),
        (&["--generate", "--source-port-hash"], "cannot be used with"),
        (&["--generate", "--flows", "0"], "from 1 to 1048576"),
        (&["--generate", "--count", "0"], "a whole number above zero"),
        (&["--generate", "--duration", "0"], "a time above zero"),
        (&["--generate", "--frame-size", "59"], "from 60 to 65499"),
        (
            &["--generate", "--frame-size", "200-100"],
            "from 60 to 65499",
        ),
        (&["--generate", "--ipv6-percent", "101"], "101"),
        (&["--generate", "--vlan-percent", "101"], "101"),
        (&["--generate", "--vnis", "0"], "from 1 to 16777216"),
        (
            &["--generate", "--vni", "16777215", "--vnis", "2"],
            "16777216",
        ),
        (&["--generate", "--source-ports", "4097"], "from 1 to 4096"),
        (
            &[
                "--generate",
                "--source-ports",
                "9",
                "--source-port",
                "65530",
            ],
            "no room",
        ),
        (&["--generate", "--source", "::1"], "IP version"),
        (&["--generate", "--cpu", "1023"], "can run on core"),
    ] {
        let to = if args == ["--generate"] { &[][..] } else { &to };
        let run = vxtap([&["send"], args, to].concat());
        assert_eq!(run.code, Some(2), "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains(said), "{args:?}: {}", run.stderr);
        assert!(run.stdout.is_empty());
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("both");
    let path = path.to_str().unwrap();
    let run = generate(&["--write", path, "--summary", path]);
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    assert!(
        run.stderr.contains("--write and --summary"),
        "{}",
        run.stderr
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn faults_exit_with_1() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (args, said) in [
        (
            &["--source-port", &port][..],
            format!("cannot send from 127.0.0.1:{port}"),
        ),
        (
            &["--summary", "/nowhere/sent.json"],
            "/nowhere/sent.json".to_owned(),
        ),
    ] {
        let to = [
            "--to",
            "127.0.0.1:1",
            "--source",
            "127.0.0.1",
            "--count",
            "1",
        ];
        let run = generate(&[args, &to].concat());
        assert_eq!(run.code, Some(1), "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains(&said), "{args:?}: {}", run.stderr);
    }
}
