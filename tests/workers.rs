//! Several workers: the same results as one, whatever the input, and no flow on two of them.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{assert_closes, corpus, testdata, testdata_names, vxtap};
use serde_json::Value;

/// Capture, flow records, summary and exit code of a replay with so many workers.
fn outputs(
    dir: &Path,
    workers: &str,
    flags: &[&str],
    input: &Path,
) -> (Vec<u8>, String, Value, Option<i32>) {
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (capture, flows, summary) = (path("out.pcapng"), path("out.jsonl"), path("out.json"));
    for old in [&capture, &flows, &summary] {
        let _ = fs::remove_file(old);
    }
    let input = input.to_str().unwrap();
    let args = [
        "replay",
        input,
        "-w",
        &capture,
        "--flows",
        &flows,
        "--summary",
        &summary,
    ];
    let run = vxtap([&args[..], &["--workers", workers], flags].concat());
    assert!(!run.stderr.contains("panicked"), "{input}: {}", run.stderr);
    let read = |path: &str| fs::read(path).unwrap_or_default();
    let mut summary: Value = serde_json::from_slice(&read(&summary)).unwrap_or_default();
    if let Some(summary) = summary.as_object_mut() {
        // How the work was shared out, which is all that may differ.
        let shares = summary.remove("workers").unwrap();
        let shares = shares
            .as_array()
            .unwrap()
            .iter()
            .map(|share| share.as_u64().unwrap());
        assert_eq!(summary["received"], shares.sum::<u64>(), "{input}");
        summary.remove("flows_joined").unwrap();
    }
    if !summary.is_null() {
        assert_closes(&summary);
    }
    (
        read(&capture),
        String::from_utf8(read(&flows)).unwrap(),
        summary,
        run.code,
    )
}

fn same_with_any_number(input: &Path, flags: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let one = outputs(dir.path(), "1", flags, input);
    for workers in ["2", "3"] {
        let several = outputs(dir.path(), workers, flags, input);
        let input = input.display();
        assert!(
            one.0 == several.0,
            "{input} {flags:?}: another capture with {workers} workers"
        );
        assert_eq!(
            one.1, several.1,
            "{input} {flags:?}: other flow records with {workers} workers"
        );
        assert_eq!(
            one.2, several.2,
            "{input} {flags:?}: another summary with {workers} workers"
        );
        assert_eq!(
            one.3, several.3,
            "{input} {flags:?}: another exit code with {workers} workers"
        );
    }
}

#[test]
fn bundled_captures_give_the_same() {
    for name in testdata_names() {
        let path = testdata(&name);
        same_with_any_number(&path, &[]);
        same_with_any_number(&path, &["--plain"]);
        same_with_any_number(
            &path,
            &[
                "--depth", "3", "--format", "pcap", "--port", "4789", "--port", "8472",
            ],
        );
    }
}

#[test]
fn real_captures_give_the_same() {
    let Some(corpus) = corpus() else { return };
    for folder in ["vxlan", "plain", "malformed", "pcapng"] {
        let mut paths: Vec<PathBuf> = corpus
            .join(folder)
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        assert!(paths.len() > 20);
        for path in paths {
            same_with_any_number(&path, &["--plain"]);
            if folder == "vxlan" {
                same_with_any_number(
                    &path,
                    &["--port", "4789", "--port", "8472", "--port", "65530"],
                );
            }
        }
    }
}

/// Conversations over a socket group, from one outer port and from many, in frames and without (VXLAN-GPE):
/// each lives on one worker, and both have work. Where VXLAN is nested one worker takes all.
#[cfg(target_os = "linux")]
#[test]
fn live_conversations_stay_on_one_worker() {
    use std::io::{BufRead, BufReader, Read};
    use std::net::UdpSocket;
    use std::process::{Command, Stdio};

    /// A VXLAN datagram of flow `number`, forth or back: some IPv6, some tagged, TCP and UDP.
    fn datagram(number: u16, back: bool) -> Vec<u8> {
        let [high, low] = number.to_be_bytes();
        let (a, b) = ([10, 1, high, low], [10, 2, low, 9]);
        let ((src, src_port), (dst, dst_port)) = if back {
            ((b, 443u16), (a, number | 1024))
        } else {
            ((a, number | 1024), (b, 443))
        };
        let mut packet = vec![8, 0, 0, 0, 0, 0, 7, 0];
        packet.extend([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
        if number % 10 < 3 {
            packet.extend([0x81, 0, 0, 5]);
        }
        let protocol = if number.is_multiple_of(2) { 6 } else { 17 };
        if number % 7 < 2 {
            packet.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, protocol, 64]);
            packet.extend([[0xfd; 12].as_slice(), &src, &[0xfd; 12], &dst].concat());
        } else {
            packet.extend([0x08, 0, 0x45, 0, 0, 40, 0, 1, 0, 0, 64, protocol, 0, 0]);
            packet.extend([src, dst].concat());
        }
        packet.extend([src_port.to_be_bytes(), dst_port.to_be_bytes()].concat());
        packet.extend([0; 16]);
        packet
    }

    /// The same packet behind a VXLAN-GPE header, without a frame.
    fn bare(mut datagram: Vec<u8>) -> Vec<u8> {
        let at = datagram
            .windows(2)
            .skip(20)
            .position(|two| two == [0x08, 0] || two == [0x86, 0xdd]);
        let packet_at = 20 + at.unwrap() + 2;
        let next_protocol = if datagram[packet_at] >> 4 == 4 { 1 } else { 2 };
        // What changes from packet to packet: an IPv4 identification, an IPv6 hop limit.
        let changing = packet_at + if next_protocol == 1 { 5 } else { 7 };
        datagram[changing] = datagram[datagram.len() - 1];
        datagram.drain(8..packet_at);
        (datagram[0], datagram[3]) = (0x0c, next_protocol);
        datagram
    }

    /// The same datagram in a second VXLAN tunnel, whose source port changes with the direction.
    fn nested(datagram: &[u8], from: u16, to: u16) -> Vec<u8> {
        let mut outer = vec![8, 0, 0, 0, 0, 0, 9, 0];
        outer.extend([2, 0, 0, 0, 0, 4, 2, 0, 0, 0, 0, 3, 0x08, 0, 0x45, 0]);
        outer.extend((28 + datagram.len() as u16).to_be_bytes());
        outer.extend([0, 1, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        outer.extend([from.to_be_bytes(), to.to_be_bytes()].concat());
        outer.extend((8 + datagram.len() as u16).to_be_bytes());
        outer.extend([0, 0]);
        outer.extend(datagram);
        outer
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Kind {
        Framed,
        Bare,
        Nested,
    }
    use Kind::{Bare, Framed, Nested};

    for (kind, ports) in [(Framed, 1usize), (Framed, 64), (Bare, 64), (Nested, 64)] {
        let dir = tempfile::tempdir().unwrap();
        let summary = dir.path().join("out.json");
        let flows = dir.path().join("out.jsonl");
        let count = 4000;
        // A port that is free.
        let free = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to_port = free.local_addr().unwrap().port();
        let port = to_port.to_string();
        drop(free);
        let flags: &[&str] = match kind {
            Framed => &[],
            Bare => &["--gpe-port", &port],
            Nested => &["--depth", "2"],
        };
        let mut command = Command::new(common::VXTAP);
        command
            .args(["listen", "--bind", &format!("127.0.0.1:{port}")])
            .args(["--workers", "2", "--duration", "20s"])
            .args(flags)
            .args(["--count", &(2 * count).to_string(), "--summary"])
            .arg(&summary)
            .arg("--flows")
            .arg(&flows)
            .stderr(Stdio::piped());
        let mut listener = common::Running::start(&mut command);
        let mut stderr = BufReader::new(listener.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        let (_, rest) = line
            .split_once("listening on ")
            .unwrap_or_else(|| panic!("{line}"));
        let (address, _) = rest.split_once(';').unwrap();
        let sockets: Vec<UdpSocket> = (0..ports)
            .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
            .collect();
        for number in 0..count {
            for back in [false, true] {
                let from = &sockets[(usize::from(number) * 2 + usize::from(back)) % ports];
                let mut sent = datagram(number, back);
                let last = sent.len() - 1;
                sent[last] = number as u8 ^ u8::from(back);
                let sent = match kind {
                    Framed => sent,
                    Bare => bare(sent),
                    Nested => nested(&sent, 50_000 + 2 * number + u16::from(back), to_port),
                };
                from.send_to(&sent, address).unwrap();
            }
            // An ordinary user's receive buffer is small.
            if number % 50 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        }
        let mut said = String::new();
        stderr.read_to_string(&mut said).unwrap();
        assert!(listener.wait().unwrap().success(), "{said}");
        let summary: Value = serde_json::from_slice(&fs::read(&summary).unwrap()).unwrap();
        assert_closes(&summary);
        assert_eq!(summary["delivered"], 2 * count, "{said}");
        assert_eq!(summary["flows"], count);
        assert_eq!(summary["flows_joined"], 0, "no conversation on two workers");
        let shares: Vec<f64> = summary["workers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|share| share.as_f64().unwrap())
            .collect();
        let most = shares.iter().copied().fold(0.0, f64::max) / f64::from(2 * count);
        let both_work = most < 0.6;
        assert!(
            shares.len() == 2 && both_work == (kind != Nested),
            "{shares:?} from {ports} ports, {kind:?}"
        );
    }
}
