use proptest::prelude::*;

use super::*;

/// A frame of IPv4 with this protocol, these ports and this payload; of TCP with a header of 24 bytes.
fn frame(protocol: u8, ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let mut transport: Vec<u8> = ports.into_iter().flat_map(u16::to_be_bytes).collect();
    if protocol == protocol::TCP {
        transport.extend([
            0, 0, 0, 1, 0, 0, 0, 1, 0x60, 0x18, 2, 0, 0, 0, 0, 0, 2, 4, 5, 0xb4,
        ]);
    } else {
        transport.extend((payload.len() as u16 + 8).to_be_bytes());
        transport.extend([0, 0]);
    }
    transport.extend(payload);
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((transport.len() as u16 + 20).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend(transport);
    frame
}

fn read(frame: &[u8]) -> Option<App> {
    App::read(&Opening::of(
        &Inner::read(frame),
        frame,
        &mut Awaited::default(),
    )?)
}

fn texts(app: &App) -> Vec<String> {
    let names = app.names().into_iter().flatten();
    names.map(|name| name.as_str().to_owned()).collect()
}

/// DNS query for `a.example`, with id 7.
const QUERY: &[u8] = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\x07example\0\0\x01\0\x01";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";

/// A record with a ClientHello whose server name is `a.example`, and ALPN h2.
fn hello() -> Vec<u8> {
    let mut hello = vec![0x16, 3, 1, 0, 78, 1, 0, 0, 74, 3, 3];
    hello.extend([9; 32]);
    hello.extend([0, 0, 2, 0x13, 1, 1, 0, 0, 31, 0, 0, 0, 14, 0, 12, 0, 0, 9]);
    hello.extend(b"a.example\0\x10\0\x05\0\x03\x02h2\xff\x01\0\0");
    hello
}

#[test]
fn each_by_what_it_is() {
    let over_tcp = [&[0, QUERY.len() as u8][..], QUERY].concat();
    let (udp, tcp) = (protocol::UDP, protocol::TCP);
    let hello = hello();
    assert_eq!(
        usize::from(hello[4]),
        hello.len() - 5,
        "the record is whole"
    );
    for (protocol, ports, payload, expected) in [
        (udp, [53, 9999], QUERY, Some("dns")),
        (udp, [9999, 53], QUERY, Some("dns")),
        (udp, [5353, 5353], QUERY, Some("dns")),
        (udp, [9999, 9998], QUERY, None),
        (protocol::SCTP, [9999, 53], QUERY, None),
        (tcp, [9999, 53], &over_tcp, Some("dns")),
        (tcp, [9999, 54], &over_tcp, None),
        (tcp, [9999, 53], QUERY, None),
        (tcp, [9999, 80], REQUEST, Some("http")),
        (tcp, [53, 8080], REQUEST, Some("http")),
        (tcp, [9999, 443], &hello, Some("tls")),
        (tcp, [9999, 53], &hello, Some("tls")),
        (udp, [9999, 443], &hello, None),
        (tcp, [9999, 80], &REQUEST[1..], None),
        (tcp, [9999, 80], b"", None),
    ] {
        let app = read(&frame(protocol, ports, payload));
        assert_eq!(
            app.as_ref().map(App::name),
            expected,
            "{protocol} {ports:?} {payload:?}"
        );
        let names = app.as_ref().map(texts);
        let first = names.as_ref().and_then(|names| names.first());
        assert_eq!(
            first.is_some_and(|name| name == "a.example"),
            expected.is_some()
        );
    }
}

/// What stands behind the IP packet is padding.
#[test]
fn padding_is_no_payload() {
    let mut padded = frame(protocol::TCP, [9999, 80], b"");
    padded.extend(REQUEST);
    assert_eq!(read(&padded), None);
}

/// A flow is what it began as; what is missing is added, what is there stays.
#[test]
fn later_packets() {
    let tcp = |payload: &[u8]| read(&frame(protocol::TCP, [9999, 80], payload)).unwrap();
    let mut app = tcp(b"HTTP/1.1 200 OK\r\n\r\n");
    app.learn(tcp(&hello()));
    assert_eq!((app.name(), texts(&app).len()), ("http", 0));
    app.learn(tcp(REQUEST));
    assert_eq!(texts(&app), ["a.example"]);
    app.learn(tcp(b"GET / HTTP/1.1\r\nHost: b\r\n\r\n"));
    assert_eq!(texts(&app), ["a.example"]);
    assert_eq!(app.text_bytes(), 9);
    let hello = hello();
    let cut = hello.len() - 10;
    let mut app = tcp(&hello[..cut]);
    assert_eq!(texts(&app), ["a.example"]);
    app.learn(tcp(&hello));
    assert_eq!(texts(&app), ["a.example", "h2"]);
}

fn seeds() -> impl Strategy<Value = (u8, [u16; 2], Vec<u8>)> {
    let over_tcp = [&[0, QUERY.len() as u8][..], QUERY].concat();
    prop_oneof![
        Just((protocol::UDP, [9999, 53], QUERY.to_vec())),
        Just((protocol::UDP, [5353, 5353], QUERY.to_vec())),
        Just((protocol::TCP, [9999, 53], over_tcp)),
        Just((protocol::TCP, [9999, 443], hello())),
        Just((protocol::TCP, [9999, 80], REQUEST.to_vec())),
    ]
}

/// Holds that every shorter copy of `frame` has the names of the whole one or fewer.
fn prefixes_have_no_other_names(frame: &[u8]) {
    let whole = read(frame).map(|app| texts(&app)).unwrap_or_default();
    for len in 0..frame.len() {
        let cut = read(&frame[..len])
            .map(|app| texts(&app))
            .unwrap_or_default();
        let rest = cut.iter().filter(|name| !whole.contains(name));
        assert_eq!(
            rest.count(),
            0,
            "prefix of {len} bytes: {cut:?} of {whole:?}"
        );
    }
}

proptest! {
    /// Any mutation of what is known, and any prefix of it: no panic, and a name is whole or absent.
    #[test]
    fn mutations_and_prefixes(
        (protocol, ports, mut payload) in seeds(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        inserted in proptest::collection::vec(any::<u8>(), 0..4),
    ) {
        for (at, byte) in &changes {
            let at = at.index(payload.len());
            payload[at] = *byte;
        }
        if let Some((at, _)) = changes.first() {
            let at = at.index(payload.len());
            payload.splice(at..at, inserted);
        }
        prefixes_have_no_other_names(&frame(protocol, ports, &payload));
    }

    /// Any bytes at all.
    #[test]
    fn any_payload(
        ports in prop_oneof![Just([9999, 53]), Just([5353, 5353]), Just([9999, 443])],
        is_tcp in any::<bool>(),
        payload in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        let protocol = if is_tcp { protocol::TCP } else { protocol::UDP };
        prefixes_have_no_other_names(&frame(protocol, ports, &payload));
    }
}

/// A segment is read on if it has the sequence number at which a ClientHello goes on, and as long as that goes on.
#[test]
fn segments_that_go_on() {
    let hello = hello();
    let (first, second) = hello.split_at(60);
    let segment = |seq: u32, payload: &[u8]| {
        let mut frame = frame(protocol::TCP, [9999, 443], payload);
        frame[38..42].copy_from_slice(&seq.to_be_bytes());
        frame
    };
    let mut awaited = Awaited::default();
    let mut guess = |frame: &[u8]| {
        let opening = Opening::of(&Inner::read(frame), frame, &mut awaited)?;
        Some((opening.guess, opening.seq, opening.payload.len()))
    };
    let begin = u32::MAX - 70;
    let next = begin.wrapping_add(60);
    assert_eq!(guess(&segment(next, second)), None, "nothing is awaited");
    assert_eq!(
        guess(&segment(begin, first)),
        Some((Guess::Stream, begin, 60))
    );
    assert_eq!(guess(&segment(next, b"")), None, "an acknowledgement");
    assert_eq!(guess(&segment(next.wrapping_add(1), second)), None);
    let (third, fourth) = second.split_at(5);
    for _ in 0..2 {
        assert_eq!(
            guess(&segment(next, third)),
            Some((Guess::Continued, next, 5))
        );
    }
    let next = next.wrapping_add(5);
    let len = fourth.len();
    assert_eq!(
        guess(&segment(next, fourth)),
        Some((Guess::Continued, next, len))
    );
    let end = next.wrapping_add(len as u32);
    assert_eq!(guess(&segment(end, b"data")), None, "the message has ended");
    // Whole, or of a record that does not begin a ClientHello: nothing goes on.
    assert!(guess(&segment(1000, &hello)).is_some());
    assert_eq!(guess(&segment(1000 + hello.len() as u32, b"data")), None);
    assert!(guess(&segment(5000, &[0x16, 3, 3, 9, 9, 2, 0, 0])).is_some());
    assert_eq!(guess(&segment(5008, b"data")), None);
}
