//! TLS: server name and protocols that a ClientHello offers (RFC 8446 §4.1.2, RFC 6066 §3, RFC 7301 §3.1).
//!
//! A ClientHello that is cut tells what came of it, which the crates for TLS do not offer; so it is read here, by the
//! lengths in front of each part. Where a segment ends before the message does, it is remembered how far the next extension
//! is, and the next segment is read from there: no bytes are kept, and a name that is cut in two is left out. Of the
//! first record only: a ClientHello that a client spreads over several is read as if it were cut.

use super::Opening;
use super::name::{HOST_LEN, Name};
use crate::wire::be16;

/// Type of a record that holds handshake messages, and their major version (RFC 8446 §5.1).
const HANDSHAKE: [u8; 2] = [22, 3];
/// Most bytes of a record, with the room that TLS 1.2 leaves for what encryption adds (RFC 5246 §6.2.3).
const RECORD_LEN: u16 = (1 << 14) + 2048;
/// Handshake messages that open a connection (RFC 8446 §4).
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
/// Extensions (RFC 6066 §1.1, RFC 7301 §3.1).
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
/// Type of a server name that is a host name (RFC 6066 §3).
const HOST_NAME: u8 = 0;

/// What the opening of a TLS connection tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The server's name that the client asks for; with encrypted ClientHello that of the server in front.
    pub sni: Option<Name>,
    /// Application protocols that the client offers.
    pub alpn: Option<Name>,
    rest: Option<Rest>,
}

/// Where a ClientHello goes on whose segment has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rest {
    /// Sequence number of the segment that has it.
    seq: u32,
    /// Bytes in front of the next extension.
    skip: usize,
    /// Bytes of extensions behind these.
    left: usize,
}

impl Tls {
    /// Reads the handshake record that a payload begins with; `None` where it is none that opens a connection.
    pub fn read(opening: &Opening<'_>) -> Option<Self> {
        let ([kind, major, minor, l0, l1], record) = opening.payload.split_first_chunk::<5>()?;
        let len = u16::from_be_bytes([*l0, *l1]);
        let is_handshake =
            [*kind, *major] == HANDSHAKE && *minor <= 4 && (4..=RECORD_LEN).contains(&len);
        if !is_handshake {
            return None;
        }
        match record.split_first()? {
            (&CLIENT_HELLO, rest) => {
                let mut tls = Self::default();
                if let Some((extensions, declared)) = extensions(rest, len.into()) {
                    tls.read_extensions(extensions, declared, opening);
                }
                Some(tls)
            }
            (&SERVER_HELLO, _) => Some(Self::default()),
            _ => None,
        }
    }

    /// Reads on in another segment, if the message goes on there.
    pub fn go_on(&mut self, opening: &Opening<'_>) {
        let Some(rest) = self.rest.filter(|rest| rest.seq == opening.seq) else {
            return;
        };
        self.rest = match opening.payload.get(rest.skip..) {
            Some(extensions) => return self.read_extensions(extensions, rest.left, opening),
            None => rest.skip.checked_sub(opening.len()).map(|skip| Rest {
                seq: opening.end(),
                skip,
                ..rest
            }),
        };
    }

    /// Reads extensions, of which there are `declared` bytes, from `bytes`, the end of the payload of `opening`: it may
    /// end before they do.
    fn read_extensions(&mut self, bytes: &[u8], declared: usize, opening: &Opening<'_>) {
        let mut bytes = bytes.get(..declared).unwrap_or(bytes);
        let is_cut = bytes.len() < declared;
        let mut left = declared;
        while let Some((kind, content, behind)) = extension(bytes) {
            match kind {
                SERVER_NAME if self.sni.is_none() => self.sni = server_name(content),
                ALPN if self.alpn.is_none() => self.alpn = protocols(content),
                _ => {}
            }
            left -= bytes.len() - behind.len();
            bytes = behind;
        }
        self.rest = rest_of(bytes, left, opening).filter(|_| is_cut);
    }

    /// Adds what a later packet tells.
    pub fn learn(&mut self, later: Self) {
        self.sni = self.sni.take().or(later.sni);
        self.alpn = self.alpn.take().or(later.alpn);
        self.rest = self.rest.or(later.rest);
    }
}

/// How many bytes the record has that `payload` begins with, if it begins a ClientHello.
pub fn client_hello_len(payload: &[u8]) -> Option<u32> {
    match payload {
        [kind, major, _, l0, l1, CLIENT_HELLO, ..] if [*kind, *major] == HANDSHAKE => {
            Some(5 + u32::from(u16::from_be_bytes([*l0, *l1])))
        }
        _ => None,
    }
}

/// What stands behind the beginning of the extensions of a ClientHello, which `bytes` hold from its length on, and how many
/// bytes of extensions there are. The message is in a record of `record_len` bytes.
fn extensions(bytes: &[u8], record_len: usize) -> Option<(&[u8], usize)> {
    let ([a, b, c], body) = bytes.split_first_chunk::<3>()?;
    let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
    // Behind version and random number: session, cipher suites, compression methods.
    let (_, rest) = short_list(body.get(34..)?)?;
    let (_, rest) = long_list(rest)?;
    let (_, rest) = short_list(rest)?;
    let declared = usize::from(be16(rest, 0)?);
    let rest = rest.get(2..)?;
    let before = body.len() - rest.len();
    // Message and record have an end too.
    let room = len.min(record_len - 4).saturating_sub(before);
    Some((rest, declared.min(room)))
}

/// Where extensions go on of which `left` bytes follow and the first one is cut behind `bytes`, at the end of the
/// payload of `opening`.
fn rest_of(bytes: &[u8], left: usize, opening: &Opening<'_>) -> Option<Rest> {
    let len = match bytes {
        [] => 0,
        _ => 4 + usize::from(be16(bytes, 2)?),
    };
    let rest = Rest {
        seq: opening.end(),
        // What the mirror cut off has to be of the same extension.
        skip: len.checked_sub(bytes.len() + opening.missing as usize)?,
        left: left.checked_sub(len)?,
    };
    (rest.left > 0).then_some(rest)
}

/// The type and the content of the first extension, and what stands behind it; `None` where it is cut.
fn extension(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (content, behind) = long_list(bytes.get(2..)?)?;
    Some((be16(bytes, 0)?, content, behind))
}

fn server_name(content: &[u8]) -> Option<Name> {
    let (mut names, _) = long_list(content)?;
    loop {
        let (kind, rest) = names.split_first()?;
        let (name, behind) = long_list(rest)?;
        if *kind == HOST_NAME {
            return Name::of(name, HOST_LEN);
        }
        names = behind;
    }
}

fn protocols(content: &[u8]) -> Option<Name> {
    let (mut list, _) = long_list(content)?;
    Name::of_list(std::iter::from_fn(|| {
        let (protocol, behind) = short_list(list)?;
        list = behind;
        Some(protocol)
    }))
}

/// What stands behind a length of one byte, and the rest; `None` where it is cut.
fn short_list(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first()?;
    rest.split_at_checked((*len).into())
}

/// What stands behind a length of two bytes, and the rest; `None` where it is cut.
fn long_list(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = be16(bytes, 0)?;
    bytes.get(2..)?.split_at_checked(len.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::app::Guess;

    /// By hand, RFC 8446 §4.1.2: a record with a ClientHello that has a GREASE extension, server name `a.Example`, ALPN
    /// h2 and http/1.1, and an extension behind them.
    fn hello() -> Vec<u8> {
        let grease = [0x1a, 0x1a, 0, 0];
        let mut server_name = vec![0, 0, 0, 14, 0, 12, 0, 0, 9];
        server_name.extend(b"a.Example");
        let mut alpn = vec![0, 16, 0, 14, 0, 12, 2];
        alpn.extend(b"h2\x08http/1.1");
        let versions = [0, 43, 0, 3, 2, 3, 4];
        let extensions = [&grease[..], &server_name, &alpn, &versions].concat();
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 4, 0x13, 0x01, 0x13, 0x02, 1, 0]);
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
        let mut record = vec![0x16, 3, 1];
        record.extend((body.len() as u16 + 4).to_be_bytes());
        record.extend([1, 0]);
        record.extend((body.len() as u16).to_be_bytes());
        record.extend(body);
        record
    }

    fn segment(payload: &[u8], missing: u32, seq: u32) -> Opening<'_> {
        Opening {
            guess: Guess::Stream,
            payload,
            missing,
            seq,
        }
    }

    fn read(payload: &[u8]) -> Option<Tls> {
        Tls::read(&segment(payload, 0, 0))
    }

    fn names(tls: &Tls) -> [Option<&str>; 2] {
        [&tls.sni, &tls.alpn].map(|name| name.as_ref().map(Name::as_str))
    }

    #[test]
    fn a_client_hello() {
        let tls = read(&hello()).unwrap();
        assert_eq!(names(&tls), [Some("a.example"), Some("h2 http/1.1")]);
    }

    /// Each name is there as soon as its extension is whole.
    #[test]
    fn every_prefix() {
        let hello = hello();
        let end = |what: &[u8]| {
            let at = hello.windows(what.len()).position(|window| window == what);
            at.unwrap() + what.len()
        };
        let (sni_end, alpn_end) = (end(b"a.Example"), end(b"http/1.1"));
        for len in 0..=hello.len() {
            let read = read(&hello[..len]);
            assert_eq!(read.is_some(), len >= 6, "prefix of {len} bytes");
            let Some(tls) = read else { continue };
            let [sni, alpn] = names(&tls);
            assert_eq!(
                sni,
                (len >= sni_end).then_some("a.example"),
                "prefix of {len} bytes"
            );
            assert_eq!(
                alpn,
                (len >= alpn_end).then_some("h2 http/1.1"),
                "prefix of {len} bytes"
            );
        }
    }

    #[test]
    fn an_answer_and_what_is_none() {
        let with = |at: usize, byte: u8| {
            let mut record = hello();
            record[at] = byte;
            record
        };
        assert_eq!(read(&with(5, 2)), Some(Tls::default()));
        for (why, record) in [
            ("application data", with(0, 0x17)),
            ("another version", with(1, 2)),
            ("a version that is not given out", with(2, 5)),
            ("longer than a record can be", with(3, 0x50)),
            ("no message of the opening", with(5, 11)),
        ] {
            assert_eq!(read(&record), None, "{why}");
        }
    }

    /// Lengths that lie leave out what they are of.
    #[test]
    fn lengths_that_lie() {
        let mut record = hello();
        let at = record
            .windows(9)
            .position(|window| window == b"a.Example")
            .unwrap();
        record[at - 1] = 200;
        assert_eq!(names(&read(&record).unwrap()), [None, Some("h2 http/1.1")]);
        let mut record = hello();
        record[8] = 60;
        assert_eq!(
            names(&read(&record).unwrap()),
            [None, None],
            "behind the message"
        );
    }

    /// Where the first of these bytes is in the ClientHello.
    fn find(hello: &[u8], what: &[u8]) -> usize {
        hello
            .windows(what.len())
            .position(|window| window == what)
            .unwrap()
    }

    /// In two segments, wherever they part: a name is found unless the cut goes through its own extension, or stands in
    /// front of all of them.
    #[test]
    fn two_segments() {
        let hello = hello();
        let (grease, sni, alpn) = (
            find(&hello, &[0x1a, 0x1a]),
            find(&hello, b"a.Example") - 9,
            find(&hello, b"http/1.1") - 10,
        );
        let versions = find(&hello, &[0, 43, 0, 3]);
        for len in 6..hello.len() {
            let (first, second) = hello.split_at(len);
            let mut tls = Tls::read(&segment(first, 0, u32::MAX - 20)).unwrap();
            let seq = (u32::MAX - 20).wrapping_add(len as u32);
            tls.go_on(&segment(second, 0, seq.wrapping_add(1)));
            tls.go_on(&segment(second, 0, seq));
            tls.go_on(&segment(second, 0, seq));
            // A header is whole or lost, with its extension and all behind it.
            let in_a_header = |at: usize| (at + 1..at + 4).contains(&len);
            let is_lost =
                len < grease || [grease, sni, alpn, versions].into_iter().any(in_a_header);
            let whole = |from: usize, to: usize| len >= to || (len <= from && !is_lost);
            let expected = [
                whole(sni, alpn).then_some("a.example"),
                whole(alpn, versions).then_some("h2 http/1.1"),
            ];
            assert_eq!(names(&tls), expected, "{len} bytes in the first segment");
        }
    }

    /// A long extension in front of the names, as in a browser's ClientHello: in as many segments as it takes, and with an
    /// end of the first ones that the mirror cut off.
    #[test]
    fn behind_a_long_extension() {
        let hello = hello();
        let at = find(&hello, &[0x1a, 0x1a]);
        let mut long = hello[..at].to_vec();
        long.extend([0, 51, 0x0c, 0]);
        long.extend(vec![9; 0x0c00]);
        long.extend(&hello[at..]);
        for at in [3, 7, at - 2] {
            let len = u16::from_be_bytes([long[at], long[at + 1]]) + 0x0c04;
            long[at..at + 2].copy_from_slice(&len.to_be_bytes());
        }
        let read = |pieces: &[usize], lost: usize| {
            let mut pieces = pieces.iter().map(|len| *len.min(&long.len()));
            let (mut from, mut tls): (usize, Option<Tls>) = (0, None);
            for to in pieces.by_ref().chain([long.len()]) {
                let came = if to < long.len() { to - lost } else { to };
                let piece = segment(&long[from..came], (to - came) as u32, from as u32);
                match &mut tls {
                    None => tls = Some(Tls::read(&piece).unwrap()),
                    Some(tls) => tls.go_on(&piece),
                }
                from = to;
            }
            names(&tls.unwrap())[0] == Some("a.example")
        };
        for pieces in [&[1400][..], &[1400, 2800], &[500, 600, 700, 2000, 3000]] {
            assert!(read(pieces, 0) && read(pieces, 50), "{pieces:?}");
        }
        let end = at + 4 + 0x0c00;
        assert!(read(&[end], 0), "between two extensions");
        assert!(read(&[end], 1), "its last byte was lost");
        assert!(!read(&[end + 2], 2), "nobody knows what was lost");
        assert!(!read(&[end + 30], 31), "nor here");
    }
}
