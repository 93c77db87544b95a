//! TLS: server name and protocols that a ClientHello offers (RFC 8446 §4.1.2, RFC 6066 §3, RFC 7301 §3.1).
//!
//! A ClientHello that is cut tells what came of it, which the crates for TLS do not offer; so it is read here, by the
//! lengths in front of each part. Of the first record only: a ClientHello that a client spreads over several is read as if
//! it were cut.

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
}

impl Tls {
    /// Reads the handshake record that `bytes` begin with; `None` where it is none that opens a connection.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let ([kind, major, minor, l0, l1], record) = bytes.split_first_chunk::<5>()?;
        let len = u16::from_be_bytes([*l0, *l1]);
        let is_handshake =
            [*kind, *major] == HANDSHAKE && *minor <= 4 && (4..=RECORD_LEN).contains(&len);
        if !is_handshake {
            return None;
        }
        match first(record, len.into()).split_first()? {
            (&CLIENT_HELLO, rest) => Some(Self::read_client_hello(rest)),
            (&SERVER_HELLO, _) => Some(Self::default()),
            _ => None,
        }
    }

    /// Reads a ClientHello from its length on.
    fn read_client_hello(bytes: &[u8]) -> Self {
        let mut tls = Self::default();
        let Some(mut rest) = extensions(bytes) else {
            return tls;
        };
        while let Some((kind, content, behind)) = extension(rest) {
            match kind {
                SERVER_NAME if tls.sni.is_none() => tls.sni = server_name(content),
                ALPN if tls.alpn.is_none() => tls.alpn = protocols(content),
                _ => {}
            }
            rest = behind;
        }
        tls
    }

    /// Adds what a later packet tells.
    pub fn learn(&mut self, later: Self) {
        self.sni = self.sni.take().or(later.sni);
        self.alpn = self.alpn.take().or(later.alpn);
    }
}

/// The extensions of a ClientHello that begins with its length, as far as they came.
fn extensions(bytes: &[u8]) -> Option<&[u8]> {
    let ([a, b, c], body) = bytes.split_first_chunk::<3>()?;
    let body = first(body, u32::from_be_bytes([0, *a, *b, *c]) as usize);
    // Behind version and random number: session, cipher suites, compression methods.
    let (_, rest) = short_list(body.get(34..)?)?;
    let (_, rest) = long_list(rest)?;
    let (_, rest) = short_list(rest)?;
    let len = be16(rest, 0)?;
    Some(first(rest.get(2..)?, len.into()))
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

/// The first `len` of `bytes`, or all where there are fewer.
fn first(bytes: &[u8], len: usize) -> &[u8] {
    bytes.get(..len).unwrap_or(bytes)
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

    fn names(tls: &Tls) -> [Option<&str>; 2] {
        [&tls.sni, &tls.alpn].map(|name| name.as_ref().map(Name::as_str))
    }

    #[test]
    fn a_client_hello() {
        let tls = Tls::read(&hello()).unwrap();
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
            let read = Tls::read(&hello[..len]);
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
        assert_eq!(Tls::read(&with(5, 2)), Some(Tls::default()));
        for (why, record) in [
            ("application data", with(0, 0x17)),
            ("another version", with(1, 2)),
            ("a version that is not given out", with(2, 5)),
            ("longer than a record can be", with(3, 0x50)),
            ("no message of the opening", with(5, 11)),
        ] {
            assert_eq!(Tls::read(&record), None, "{why}");
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
        assert_eq!(
            names(&Tls::read(&record).unwrap()),
            [None, Some("h2 http/1.1")]
        );
        let mut record = hello();
        record[8] = 60;
        assert_eq!(
            names(&Tls::read(&record).unwrap()),
            [None, None],
            "behind the message"
        );
    }
}
