//! Real frames go out as a mirror source sends them and come back unchanged, through a file and through
//! a socket. Runs over the corpus where it is there.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{corpus, frames, replay, run, tool, vxtap};

/// A frame of a mirror source: its bytes and the length it had on the wire.
type Sent = (Vec<u8>, u32);

/// The frames of an Ethernet capture as tcpdump reads them; `None` when it is another link type, or
/// nothing for the network: no frame at all, an empty one, or one too long for a datagram.
fn frames_by_tcpdump(path: &Path) -> Option<Vec<Sent>> {
    let copy = run(Command::new("tcpdump")
        .arg("-nr")
        .arg(path)
        .args(["-w", "-"]));
    let bytes = copy.stdout;
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    if copy.code != Some(0) || bytes.len() < 24 || number(20) != 1 {
        return None;
    }
    let mut frames = Vec::new();
    let mut at = 24;
    while at < bytes.len() {
        let captured = number(at + 8) as usize;
        frames.push((bytes[at + 16..at + 16 + captured].to_vec(), number(at + 12)));
        at += 16 + captured;
    }
    let fits = |(frame, _): &Sent| (1..=65_000).contains(&frame.len());
    (!frames.is_empty() && frames.iter().all(fits)).then_some(frames)
}

/// Captures of ordinary Ethernet traffic with their frames; at least twenty.
fn plain_captures() -> Option<Vec<(PathBuf, Vec<Sent>)>> {
    let plain = corpus()?.join("plain");
    if !tool("tcpdump") {
        return None;
    }
    let mut paths: Vec<PathBuf> = plain
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let captures: Vec<_> = paths
        .into_iter()
        .filter_map(|path| Some((path.clone(), frames_by_tcpdump(&path)?)))
        .collect();
    assert!(captures.len() >= 20, "{} captures", captures.len());
    Some(captures)
}

/// The bytes of each frame in a pcapng file.
fn bytes_in(pcapng: &Path) -> Vec<Vec<u8>> {
    frames(&std::fs::read(pcapng).unwrap())
        .into_iter()
        .map(|frame| frame.bytes)
        .collect()
}

#[test]
fn through_a_file() {
    let Some(captures) = plain_captures() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mirrored = dir.path().join("mirrored.pcap");
    for (path, sent) in captures {
        let name = path.display();
        let arguments = [
            "send".as_ref(),
            path.as_os_str(),
            "--plain".as_ref(),
            "--write".as_ref(),
        ];
        let wrote = vxtap([&arguments[..], &[mirrored.as_os_str()]].concat());
        assert_eq!(wrote.code, Some(0), "{name}: {}", wrote.stderr);
        let replayed = replay([&mirrored]);
        assert_eq!(replayed.count("delivered"), sent.len() as u64, "{name}");
        let sent: Vec<Vec<u8>> = sent.into_iter().map(|(frame, _)| frame).collect();
        assert!(
            bytes_in(&replayed.capture()) == sent,
            "{name}: a frame changed"
        );
    }
}

#[cfg(target_os = "linux")]
#[test]
fn through_a_socket() {
    use std::io::{BufRead, BufReader, Read};
    use std::process::Stdio;

    let Some(captures) = plain_captures() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let received = dir.path().join("received.pcapng");
    // A receive buffer that an ordinary user gets holds these without losing any.
    let small = captures.into_iter().filter(|(_, sent)| sent.len() <= 400);
    let mut done = 0;
    for (path, sent) in small.take(40) {
        let name = path.display();
        let count = sent.len().to_string();
        let mut command = Command::new(common::VXTAP);
        command
            .args([
                "listen",
                "--bind",
                "127.0.0.1:0",
                "--overwrite",
                "--duration",
                "20s",
                "--count",
                &count,
                "-w",
            ])
            .arg(&received)
            .stderr(Stdio::piped());
        let mut listener = common::Running::start(&mut command);
        let mut stderr = BufReader::new(listener.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        let (_, rest) = line.split_once("listening on ").unwrap();
        let (address, _) = rest.split_once(';').unwrap();
        let arguments = [
            "send".as_ref(),
            path.as_os_str(),
            "--plain".as_ref(),
            "--to".as_ref(),
        ];
        let pace = [address.as_ref(), "--pps".as_ref(), "5000".as_ref()];
        let wrote = vxtap([&arguments[..], &pace].concat());
        assert_eq!(wrote.code, Some(0), "{name}: {}", wrote.stderr);
        let mut said = String::new();
        stderr.read_to_string(&mut said).unwrap();
        assert!(listener.wait().unwrap().success(), "{name}: {said}");
        let sent: Vec<Vec<u8>> = sent.into_iter().map(|(frame, _)| frame).collect();
        assert!(
            bytes_in(&received) == sent,
            "{name}: a frame changed. {said}"
        );
        done += 1;
    }
    assert!(done >= 20, "{done} captures");
}

/// Cut to 96 bytes by the mirror, told whole again: the length is the original's, and tshark says that
/// the packet was limited instead of calling it malformed.
#[test]
fn a_session_of_96_bytes_in_tshark() {
    let Some(captures) = plain_captures() else {
        return;
    };
    if !tool("tshark") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mirrored = dir.path().join("mirrored.pcap");
    let mut limited = 0;
    for wanted in [
        "zeek--wikipedia.pcap",
        "mercury--smb.pcap",
        "zeek--tls13-ech.pcap",
    ] {
        let Some((path, sent)) = captures.iter().find(|(path, _)| path.ends_with(wanted)) else {
            continue;
        };
        let arguments = [
            "send".as_ref(),
            path.as_os_str(),
            "--packet-length".as_ref(),
            "96".as_ref(),
        ];
        let arguments = [&arguments[..], &["--write".as_ref(), mirrored.as_os_str()]].concat();
        assert_eq!(vxtap(arguments).code, Some(0));
        let replayed = replay([&mirrored]);
        let rows = common::tshark(
            &replayed.capture(),
            &["frame.len", "frame.cap_len", "ip.len"],
            &[],
        );
        assert_eq!(rows.len(), sent.len());
        for (row, (frame, orig_len)) in rows.iter().zip(sent) {
            let [len, captured, ip_len] = [0, 1, 2].map(|at| row[at].parse::<u32>().ok());
            assert_eq!(captured, Some(frame.len().min(96) as u32), "{wanted}");
            // Padding behind a short IP packet is not missing; everything else is as it was.
            if ip_len.is_some_and(|ip_len| ip_len + 14 == *orig_len) {
                assert_eq!(len, Some(*orig_len), "{wanted}");
                let tells = ip_len.unwrap() + 14 > 96;
                limited += u32::from(tells && len > captured);
            }
        }
        let text = run(Command::new("tshark")
            .args(["-n", "-V", "-r"])
            .arg(replayed.capture()))
        .stdout;
        let text = String::from_utf8_lossy(&text);
        assert!(
            text.contains("Packet size limited during capture"),
            "{wanted}"
        );
        assert!(!text.contains("exceeds packet length"), "{wanted}");
    }
    assert!(limited > 100, "{limited} packets were cut");
}
