//! Whoever means harm to the HTTP listener: slow, huge, malformed, too many. Receiving goes on, nothing grows, and who
//! means well is answered again.
#![cfg(target_os = "linux")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use common::listening::{Listening, SOON, request};
use common::{assert_closes, wait_until};

/// Requests of each kind.
const EACH: usize = 250;

/// Sends `request` and reads what comes, for a moment; `None` where the connection was closed at once.
fn ask(address: SocketAddr, request: &[u8]) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(SOON)).unwrap();
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    // A connection that is closed with something unread is reset.
    let _ = stream.read_to_end(&mut answer);
    (!answer.is_empty()).then(|| String::from_utf8_lossy(&answer).into_owned())
}

fn codes(address: SocketAddr, request: &[u8]) -> Vec<u16> {
    let answers = (0..EACH).map(|_| ask(address, request));
    let code = |answer: Option<String>| {
        let answer = answer?;
        answer.split_whitespace().nth(1)?.parse().ok()
    };
    let mut codes: Vec<u16> = answers.filter_map(code).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

/// Descriptors, threads and resident memory of a process.
fn takes(pid: u32) -> (usize, usize, u64) {
    let count = |what: &str| {
        std::fs::read_dir(format!("/proc/{pid}/{what}"))
            .unwrap()
            .count()
    };
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kilobytes = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    (count("fd"), count("task"), kilobytes)
}

#[test]
fn hostile_requests_harm_nothing() {
    let listening = Listening::start_with_token("-w DIR/c.pcapng");
    let (address, pid) = (listening.http.unwrap(), listening.child.id());
    listening.wait(|status| status["health"]["receiving"] == true);
    let before = takes(pid);
    // Traffic all the while.
    let mut sender = listening.sender("--generate --pps 2000 --count 20000");
    let head = |what: &str, lines: &str| request(what, lines).into_bytes();
    let with =
        |what: &str, lines: &str, body: &str| [&head(what, lines)[..], body.as_bytes()].concat();
    let bad = [400, 408, 414, 431];
    for (what, request, allowed) in [
        (
            "no HTTP",
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\r\n\r\n".to_vec(),
            &bad[..],
        ),
        ("traversal", head("GET /../../etc/passwd", ""), &[400, 404]),
        (
            "coded traversal",
            head("GET /%2e%2e/%2e%2e/etc/passwd", ""),
            &[400, 404],
        ),
        (
            "wrong token",
            head("GET /status", "Authorization: Bearer 0123456789abcdee\r\n"),
            &[401],
        ),
        (
            "a long path",
            format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000)).into_bytes(),
            &bad[..],
        ),
        (
            "many headers",
            head("GET /metrics", &"A: b\r\n".repeat(2000)),
            &bad[..],
        ),
        (
            "a body",
            with(
                "POST /metrics",
                "Content-Length: 1000000\r\n",
                &"x".repeat(1_000_000),
            ),
            &[405],
        ),
        (
            "two lengths",
            with(
                "POST /status",
                "Content-Length: 1\r\nContent-Length: 2\r\n",
                "ab",
            ),
            &bad[..],
        ),
    ] {
        for code in codes(address, &request) {
            assert!(allowed.contains(&code), "{what}: {code}");
        }
    }
    // Half a request, and then nothing: closed in the end, and others are answered meanwhile or soon after.
    let slow: Vec<TcpStream> = (0..200)
        .filter_map(|_| {
            let mut stream = TcpStream::connect(address).ok()?;
            let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHo");
            Some(stream)
        })
        .collect();
    // Who asks and never reads.
    let deaf: Vec<TcpStream> = (0..200)
        .filter_map(|_| {
            let mut stream = TcpStream::connect(address).ok()?;
            let _ = stream.write_all(&head("GET /metrics", ""));
            Some(stream)
        })
        .collect();
    // 10,000 connections, 500 at a time.
    for _ in 0..20 {
        let many: Vec<_> = (0..500)
            .filter_map(|_| TcpStream::connect(address).ok())
            .collect();
        drop(many);
    }
    wait_until("an answer", || {
        let answer = ask(address, &head("GET /readyz", ""));
        answer.filter(|answer| answer.starts_with("HTTP/1.1 200"))
    });
    drop((slow, deaf));
    // Datagrams of any content, on the port for mirrored traffic.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut random: u64 = 1;
    for at in 0..100_000_usize {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let mut bytes = [0; 64];
        for (place, byte) in bytes.iter_mut().enumerate() {
            *byte = (random >> (place % 7 * 8)) as u8;
        }
        // Half of them say that they are VXLAN.
        if at % 2 == 0 {
            bytes[..8].copy_from_slice(&[8, 0, 0, 0, 0, (at >> 8) as u8, at as u8, 0]);
        }
        let _ = socket.send_to(&bytes[..at % 65], listening.target);
    }
    assert!(sender.wait().unwrap().success());
    let status = listening.wait(|status| {
        let kernel = status["kernel_dropped"]["socket_overflow"]
            .as_u64()
            .unwrap_or_default();
        status["received"].as_u64().unwrap() + kernel == 120_000
    });
    assert_eq!(status["ending"], false);
    // Connections end within their time.
    let after = wait_until("descriptors to be closed", || {
        Some(takes(pid)).filter(|after| after.0 <= before.0 + 2)
    });
    assert!(after.1 <= before.1 + 1, "threads: {before:?} {after:?}");
    // Workers remember packets, sessions and copies; 64 connections of 16 KiB each take next to nothing.
    assert!(
        after.2 < before.2 + (200 << 10),
        "memory: {before:?} {after:?}"
    );
    let refused = listening.get("/metrics").1;
    let line = refused
        .lines()
        .find(|line| line.starts_with("vxtap_http_refused_connections_total "));
    assert!(!line.unwrap().ends_with(" 0"), "{line:?}");
    let (code, said, summary) = listening.end();
    assert_eq!(code, Some(0), "{said}");
    assert_closes(&summary);
}
