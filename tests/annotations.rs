//! What a pcapng input says about its packets, carried into the capture: comments, TLS keys, names.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::files::{block, interface, option, packet, packets_of, replay_bytes, section};
use common::{Replayed, Running, assert_closes, replay, run, tool, vxtap, vxtap_fed};
use pcap_file::pcapng::PcapNgReader;
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::blocks::section_header::SectionHeaderOption;
use serde_json::{Value, json};

const TLS_KEYS: u32 = 0x544c_534b;

/// A block of decryption secrets.
fn secrets(kind: u32, secrets: &[u8]) -> Vec<u8> {
    let mut body = kind.to_le_bytes().to_vec();
    body.extend((secrets.len() as u32).to_le_bytes());
    body.extend_from_slice(secrets);
    block(10, &body)
}

/// A block of one name.
fn name(address: [u8; 4], name: &str) -> Vec<u8> {
    let record = option(1, &[&address[..], name.as_bytes(), &[0]].concat());
    block(4, &[record, option(0, &[])].concat())
}

/// The blocks of a file that are no section headers, interfaces or statistics: their type, and of packets the last
/// byte of the frame.
fn order(file: &[u8]) -> Vec<(u32, u8)> {
    let number = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    let (mut at, mut blocks) = (0, Vec::new());
    while at < file.len() {
        match number(at) {
            0x0a0d_0d0a | 1 | 5 => {}
            6 => blocks.push((6, file[at + 28 + number(at + 20) as usize - 1])),
            kind => blocks.push((kind, file[at + 16])),
        }
        at += number(at + 4) as usize;
    }
    blocks
}

/// Replays with several numbers of workers, which write the same.
fn replay_any(file: &[u8], args: &[&str]) -> Replayed {
    let with = |workers: &str| {
        let args = [args, &["--workers", workers]].concat();
        let replayed = replay_bytes("in.pcapng", file, &args);
        assert_eq!(replayed.run.code, Some(0), "{}", replayed.run.stderr);
        assert_closes(&replayed.summary);
        replayed
    };
    let one = with("1");
    for workers in ["2", "4"] {
        let other = with(workers);
        let written = |replayed: &Replayed| fs::read(replayed.capture()).unwrap();
        assert!(
            written(&one) == written(&other),
            "{workers} workers write another file"
        );
        let (said, says) = (&one.summary["not_carried"], &other.summary["not_carried"]);
        assert_eq!(said, says, "{workers} workers");
    }
    one
}

fn comments(replayed: &Replayed) -> Vec<Option<String>> {
    let frames = replayed.frames().into_iter();
    frames.map(|frame| frame.comment).collect()
}

fn written_order(replayed: &Replayed) -> Vec<(u32, u8)> {
    order(&fs::read(replayed.capture()).unwrap())
}

fn mirrored(count: u8) -> Vec<Vec<u8>> {
    let vxlan = &packets_of("session-96.pcap")[1];
    let numbered = |number| {
        let mut packet = vxlan.clone();
        *packet.last_mut().unwrap() = number;
        packet
    };
    (0..count).map(numbered).collect()
}

/// Blocks keep their places between packets, and comments their packets, as frames and as mirrored ones.
#[test]
fn everything_keeps_its_place() {
    let many = 3000u32;
    for (packets, flag) in [
        (mirrored(4), None),
        (packets_of("plain.pcap")[..4].to_vec(), Some("--plain")),
    ] {
        let comment = |text: &str| option(1, text.as_bytes());
        let mut file = [section(&[]), interface(1, &[]), secrets(TLS_KEYS, b"1\n")].concat();
        file.extend(packet(0, 1, &packets[0], &comment("the first")));
        file.extend(name([10, 0, 1, 11], "host"));
        file.extend(secrets(7, b"2"));
        file.extend(packet(
            0,
            2,
            &packets[1],
            &[option(2, &[1, 0, 0, 0]), option(4, &[0; 8])].concat(),
        ));
        // Enough for several batches and chunks.
        for number in 0..many {
            let text = if number % 500 == 0 {
                format!("number {number}")
            } else {
                String::new()
            };
            let options = if text.is_empty() {
                Vec::new()
            } else {
                comment(&text)
            };
            if number % 700 == 0 {
                file.extend(secrets(number, b"x"));
            }
            file.extend(packet(0, 3, &packets[2 + number as usize % 2], &options));
        }
        file.extend(secrets(9, b"last"));
        let replayed = replay_any(&file, &flag.into_iter().collect::<Vec<_>>());
        assert_eq!(replayed.summary.get("not_carried"), None);
        assert!(!replayed.run.stderr.contains("Not carried"));
        let kinds = |order: Vec<(u32, u8)>| -> Vec<u32> {
            order.into_iter().map(|(kind, _)| kind).collect()
        };
        assert_eq!(kinds(written_order(&replayed)), kinds(order(&file)));
        let comments = comments(&replayed);
        assert_eq!(comments[0].as_deref(), Some("the first"));
        assert_eq!(comments[1], None);
        for (number, comment) in (0..many).zip(&comments[2..]) {
            let expected = (number % 500 == 0).then(|| format!("number {number}"));
            assert_eq!(*comment, expected);
        }
        if tool("capinfos") {
            let capture = replayed.capture();
            let read = run(Command::new("capinfos").arg("-c").arg(capture));
            assert_eq!(read.code, Some(0), "{}", read.stderr);
        }
    }
}

/// Several comments of a packet, beside a direction and the comment on its cut.
#[test]
fn a_packet_keeps_all_its_comments() {
    let vxlan = packets_of("session-96.pcap");
    let two = [
        option(1, b"one"),
        option(2, &[2, 0, 0, 0]),
        option(1, "zwei ü".as_bytes()),
        option(0, &[]),
    ];
    let mut file = [section(&[]), interface(1, &[])].concat();
    for (time, packet_of) in vxlan.iter().enumerate() {
        file.extend(packet(0, time as u64, packet_of, &two.concat()));
    }
    let replayed = replay_any(&file, &[]);
    assert_eq!(replayed.summary.get("not_carried"), None);
    if tool("tshark") {
        let lines = all_comments(&replayed.capture());
        for (frame, line) in replayed.frames().iter().zip(lines) {
            let cut = frame.orig_len as usize > frame.bytes.len();
            assert_eq!(line.contains("truncated: "), cut, "{line}");
            assert!(line.ends_with("one|zwei ü"), "{line}");
        }
    }
    // Replayed once more: each comment once.
    let capture = fs::read(replayed.capture()).unwrap();
    let again = replay_any(&capture, &["--plain"]);
    assert_eq!(fs::read(again.capture()).unwrap().len(), capture.len());
    assert_eq!(again.frames(), replayed.frames());
}

/// A comment on a cut is made anew, in sessions of every kind.
#[test]
fn comments_on_cuts_are_not_doubled() {
    for (name, flag) in [("session-96.pcap", None), ("plain.pcap", Some("--plain"))] {
        let mut file = [section(&[]), interface(1, &[])].concat();
        for (time, mut bytes) in packets_of(name).into_iter().enumerate() {
            // Cut here where it was whole.
            bytes.truncate(bytes.len() - 1);
            let comment = option(1, b"mine");
            file.extend(packet(0, time as u64, &bytes, &comment));
        }
        let first = replay_any(&file, &flag.into_iter().collect::<Vec<_>>());
        let again = replay_any(&fs::read(first.capture()).unwrap(), &["--plain"]);
        // The cause is not known again where no mirror session was.
        let [was, is] = [&first, &again].map(|replayed| {
            let comments = all_comments(&replayed.capture()).into_iter();
            let without_cause =
                |text: String| text.replace(" (snap length of the replayed capture)", "");
            comments.map(without_cause).collect::<Vec<_>>()
        });
        assert!(
            was.iter()
                .any(|comments| comments.starts_with("truncated: ")),
            "{name}"
        );
        assert_eq!(was, is, "{name}");
        assert!(was.iter().all(|comments| comments.ends_with("mine")));
    }
}

/// The comments of each packet, as tshark reads them.
fn all_comments(capture: &Path) -> Vec<String> {
    if !tool("tshark") {
        return vec!["truncated: mine".to_owned()];
    }
    let fields = ["-T", "fields", "-e", "frame.comment", "-E", "aggregator=|"];
    let read = run(Command::new("tshark").arg("-r").arg(capture).args(fields));
    assert_eq!(read.code, Some(0), "{}", read.stderr);
    let lines = String::from_utf8(read.stdout).unwrap();
    lines.lines().map(str::to_owned).collect()
}

/// A datagram that was put together has the comment of the piece that completed it; of a train the first has it.
#[test]
fn comments_of_packets_that_become_others() {
    for (name, expected) in [
        ("outer-fragments.pcap", None),
        ("outer-trains.pcap", Some(14)),
    ] {
        let mut file = [section(&[]), interface(1, &[])].concat();
        let packets = packets_of(name);
        for (number, bytes) in packets.iter().enumerate() {
            let text = format!("packet {number}");
            file.extend(packet(0, number as u64, bytes, &option(1, text.as_bytes())));
        }
        let replayed = replay_any(&file, &[]);
        let comments: Vec<String> = comments(&replayed)
            .into_iter()
            .flatten()
            .filter(|comment| comment.starts_with("packet "))
            .collect();
        let missing = replayed.summary["not_carried"]["packet_comments"].as_u64();
        assert_eq!(
            comments.len() as u64 + missing.unwrap_or(0),
            packets.len() as u64
        );
        if let Some(expected) = expected {
            assert_eq!(comments.len(), expected, "{comments:?}");
        } else {
            // Three whole ones, three put together; the rest are pieces.
            assert_eq!(comments.len(), 6, "{comments:?}");
        }
        let number = |comment: &String| comment[7..].parse::<u32>().unwrap();
        assert!(comments.iter().map(number).is_sorted());
    }
}

/// What cannot be carried is told: in pcap nothing can, and a comment needs its packet.
#[test]
fn what_is_not_carried_is_told() {
    let packets = mirrored(2);
    let file = [
        section(&option(1, b"of the section")),
        interface(1, &option(1, b"of the interface")),
        secrets(TLS_KEYS, b"1\n"),
        // A length that is not there, and a name that does not end.
        block(10, &[0, 0, 0, 0, 99, 0, 0, 0]),
        block(4, &[1, 0, 5, 0, 10, 0, 0, 1, b'x', 0, 0, 0, 0, 0, 0, 0]),
        name([10, 0, 0, 1], "host"),
        packet(0, 1, &packets[0], &option(1, b"stays")),
        packet(0, 2, &[0; 60], &option(1, b"of a packet that is filtered")),
        packet(0, 3, &packets[1], &[]),
    ]
    .concat();
    let replayed = replay_any(&file, &[]);
    let told = json!({"secrets": 1, "names": 1, "packet_comments": 1, "comments": 1});
    assert_eq!(replayed.summary["not_carried"], told);
    let kinds: Vec<u32> = written_order(&replayed)
        .into_iter()
        .map(|(kind, _)| kind)
        .collect();
    assert_eq!(kinds, [10, 4, 6, 6]);
    let words = "Not carried from the input into the capture: 1 block of decryption secrets, 1 block of names, 1 packet \
                 comment, 1 comment of sections and interfaces";
    let stderr = replayed
        .run
        .stderr
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    assert!(stderr.contains(words), "{stderr}");

    let pcap = replay_bytes("in.pcapng", &file, &["--format", "pcap"]);
    let told = json!({"secrets": 2, "names": 2, "packet_comments": 2, "comments": 2});
    assert_eq!(pcap.summary["not_carried"], told);
    let dir = tempfile::tempdir().unwrap();
    let (input, summary) = (dir.path().join("in.pcapng"), dir.path().join("s.json"));
    fs::write(&input, &file).unwrap();
    let none = vxtap([
        "replay".as_ref(),
        input.as_os_str(),
        "--summary".as_ref(),
        summary.as_os_str(),
    ]);
    assert_eq!(none.code, Some(0), "{}", none.stderr);
    assert!(!none.stderr.contains("Not carried"), "{}", none.stderr);
    let none: Value = serde_json::from_slice(&fs::read(summary).unwrap()).unwrap();
    assert_eq!(none.get("not_carried"), None);
}

/// The comments in the section header of a file.
fn header_comments(file: &[u8]) -> Vec<String> {
    let mut reader = PcapNgReader::new(file).unwrap();
    while reader.next_block().is_some() {}
    let options = reader.section().options.iter();
    let comments = options.filter_map(|option| match option {
        SectionHeaderOption::Common(CommonOption::Comment(text)) => Some(text.to_string()),
        _ => None,
    });
    comments.collect()
}

/// Comments of first sections stand in the header, through any number of replays; a pipe is read too late.
#[test]
fn comments_of_the_capture_are_carried() {
    let head = |comments: &[&str]| {
        let comments: Vec<Vec<u8>> = comments
            .iter()
            .map(|text| option(1, text.as_bytes()))
            .collect();
        [section(&comments.concat()), interface(1, &[])].concat()
    };
    let frame = packet(0, 1, &mirrored(1)[0], &[]);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let one = [
        head(&["what I did", "where"]),
        frame.clone(),
        head(&["a second section"]),
    ]
    .concat();
    fs::write(path("a.pcapng"), &one).unwrap();
    fs::write(path("b.pcapng"), [head(&["more"]), frame.clone()].concat()).unwrap();
    let large = "x".repeat(60_000);
    let most = [head(&[large.as_str(); 18]), frame].concat();
    fs::write(path("c.pcapng"), most).unwrap();
    let inputs = ["a.pcapng", "b.pcapng", "c.pcapng", "b.pcapng"].map(path);
    let replayed = replay(&inputs);
    assert_eq!(replayed.run.code, Some(0), "{}", replayed.run.stderr);
    let written = fs::read(replayed.capture()).unwrap();
    let comments = header_comments(&written);
    assert_eq!(comments[1..], ["what I did", "where", "more", "more"]);
    assert_eq!(replayed.summary["not_carried"], json!({"comments": 1 + 18}));
    let again = replay_any(&written, &["--plain"]);
    let comments_again = header_comments(&fs::read(again.capture()).unwrap());
    assert_eq!(comments_again[0], "replay of in.pcapng");
    assert_eq!(comments_again[1..], comments[1..]);
    assert_eq!(again.summary.get("not_carried"), None);

    let (piped, summary) = (path("piped.pcapng"), path("s.json"));
    let args = [
        "replay",
        "-",
        "-w",
        piped.to_str().unwrap(),
        "--summary",
        summary.to_str().unwrap(),
    ];
    let run = vxtap_fed(args, &one);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let summary: Value = serde_json::from_slice(&fs::read(summary).unwrap()).unwrap();
    assert_eq!(summary["not_carried"], json!({"comments": 3}));
    assert_eq!(header_comments(&fs::read(piped).unwrap()).len(), 1);
}

/// Replaying several files: each block comes before the packets that follow it.
#[test]
fn blocks_of_several_files() {
    let packets = mirrored(6);
    let dir = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for (number, pair) in packets.chunks(2).enumerate() {
        let path = dir.path().join(format!("{number}.pcapng"));
        let file = [
            section(&[]),
            interface(1, &[]),
            packet(0, 1, &pair[0], &[]),
            secrets(TLS_KEYS, &[b'a' + number as u8]),
            packet(0, 2, &pair[1], &[]),
        ];
        fs::write(&path, file.concat()).unwrap();
        paths.push(path);
    }
    for workers in ["1", "3"] {
        let args = paths
            .iter()
            .map(PathBuf::as_path)
            .chain(["--workers", workers].map(Path::new));
        let replayed = replay(args);
        assert_eq!(replayed.run.code, Some(0), "{}", replayed.run.stderr);
        let kinds: Vec<u32> = written_order(&replayed)
            .into_iter()
            .map(|(kind, _)| kind)
            .collect();
        assert_eq!(kinds, [6, 10, 6, 6, 10, 6, 6, 10, 6]);
    }
}

// ---------------------------------------------------------------------------------------------
// TLS, with openssl as both ends and tshark as judge

/// One direction of a TCP connection: a port and what it sent so far.
struct End {
    address: [u8; 4],
    port: u16,
    sequence: u32,
}

/// A TCP segment in an Ethernet frame; checksums are left out, as offload does.
fn segment(from: &mut End, to: &End, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![
        2,
        0,
        0,
        0,
        0,
        to.address[3],
        2,
        0,
        0,
        0,
        0,
        from.address[3],
        8,
        0,
    ];
    let len = (40 + payload.len()) as u16;
    frame.extend([0x45, 0]);
    frame.extend(len.to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    frame.extend(from.address);
    frame.extend(to.address);
    frame.extend(from.port.to_be_bytes());
    frame.extend(to.port.to_be_bytes());
    frame.extend(from.sequence.to_be_bytes());
    frame.extend(to.sequence.to_be_bytes());
    frame.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    frame.extend_from_slice(payload);
    let syn = u32::from(flags & 2 != 0);
    from.sequence = from.sequence.wrapping_add(payload.len() as u32 + syn);
    frame
}

/// Passes a connection on to `server` and keeps what each side sent, in pieces, the request before its answer.
fn pass_on(client: TcpStream, server: TcpStream) -> Vec<(bool, Vec<u8>)> {
    let (pieces, all) = std::sync::mpsc::channel();
    let copy = |mut from: TcpStream, mut to: TcpStream, is_client: bool| {
        let pieces = pieces.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 1200];
            while let Ok(len @ 1..) = from.read(&mut buffer) {
                // What is told before it is passed on stands before its answer.
                pieces.send((is_client, buffer[..len].to_vec())).unwrap();
                if to.write_all(&buffer[..len]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Write);
        })
    };
    let there = copy(
        client.try_clone().unwrap(),
        server.try_clone().unwrap(),
        true,
    );
    let back = copy(server, client, false);
    there.join().unwrap();
    back.join().unwrap();
    drop(pieces);
    all.into_iter().collect()
}

/// A TLS connection with a request for `/secret`, as frames, and its keys.
fn tls_connection(dir: &Path) -> Option<(Vec<Vec<u8>>, PathBuf)> {
    if !["openssl", "editcap", "tshark"]
        .map(tool)
        .iter()
        .all(|is_there| *is_there)
    {
        return None;
    }
    let openssl = || {
        let mut command = Command::new("openssl");
        command
            .current_dir(dir)
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        command
    };
    let made = openssl()
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=x",
        ])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .status();
    assert!(made.unwrap().success());
    let mut serve = openssl();
    serve.args([
        "s_server",
        "-accept",
        "127.0.0.1:0",
        "-www",
        "-cert",
        "cert.pem",
        "-key",
        "key.pem",
    ]);
    let mut server = Running::start(serve.stdout(Stdio::piped()));
    let mut said = BufReader::new(server.stdout.take().unwrap()).lines();
    let accepts = said.find_map(|line| Some(line.unwrap().strip_prefix("ACCEPT ")?.to_owned()));
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut ask = openssl();
    ask.args(["s_client", "-quiet", "-keylogfile", "keys.txt", "-connect"]);
    ask.arg(proxy.local_addr().unwrap().to_string());
    let mut client = Running::start(ask.stdin(Stdio::piped()).stdout(Stdio::null()));
    let mut stdin = client.stdin.take().unwrap();
    stdin.write_all(b"GET /secret HTTP/1.0\r\n\r\n").unwrap();
    let (from_client, _) = proxy.accept().unwrap();
    let pieces = pass_on(from_client, TcpStream::connect(accepts.unwrap()).unwrap());
    drop(stdin);

    let mut ends = [([10, 0, 1, 11], 50_000), ([10, 0, 3, 7], 443)].map(|(address, port)| End {
        address,
        port,
        sequence: 1000,
    });
    let [client, server] = &mut ends;
    let mut frames = vec![
        segment(client, server, 2, &[]),
        segment(server, client, 0x12, &[]),
        segment(client, server, 0x10, &[]),
    ];
    for (is_client, piece) in pieces {
        frames.push(match is_client {
            true => segment(client, server, 0x18, &piece),
            false => segment(server, client, 0x18, &piece),
        });
    }
    Some((frames, dir.join("keys.txt")))
}

/// What tshark can read of the requests in a capture.
fn decrypted(capture: &Path) -> String {
    let fields = [
        "-Y",
        "http",
        "-T",
        "fields",
        "-e",
        "frame.number",
        "-e",
        "http.request.uri",
    ];
    let read = run(Command::new("tshark").arg("-r").arg(capture).args(fields));
    assert_eq!(read.code, Some(0), "{}", read.stderr);
    String::from_utf8(read.stdout).unwrap()
}

/// What tshark decrypts in the input it decrypts in the capture, as frames and mirrored.
#[test]
fn tls_keys_decrypt_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let Some((frames, keys)) = tls_connection(dir.path()) else {
        return;
    };
    let mut plain = [section(&[]), interface(1, &[])].concat();
    for (time, frame) in frames.iter().enumerate() {
        plain.extend(packet(0, time as u64 * 1000, frame, &[]));
    }
    fs::write(path("plain.pcapng"), plain).unwrap();
    let send = [
        "send",
        "plain.pcapng",
        "--plain",
        "--write",
        "mirrored.pcap",
    ];
    let sent = run(common::vxtap_command(send).current_dir(dir.path()));
    assert_eq!(sent.code, Some(0), "{}", sent.stderr);
    for (input, flag) in [("plain.pcapng", Some("--plain")), ("mirrored.pcap", None)] {
        let with_keys = path("keys.pcapng");
        let mut editcap = Command::new("editcap");
        editcap
            .arg("--inject-secrets")
            .arg(format!("tls,{}", keys.display()));
        let edited = run(editcap.arg(path(input)).arg(&with_keys));
        assert_eq!(edited.code, Some(0), "{}", edited.stderr);
        let file = fs::read(&with_keys).unwrap();
        let replayed = replay_any(&file, &flag.into_iter().collect::<Vec<_>>());
        let read = decrypted(&replayed.capture());
        assert!(read.contains("/secret"), "{input}: {read:?}");
        if flag.is_some() {
            assert_eq!(read, decrypted(&with_keys));
            assert_eq!(decrypted(&path(input)), "", "without the keys");
        }
    }
}
