//! What a conversation is about: names that DNS, TLS and HTTP/1 carry in the clear, told by its first packets.
//!
//! In goes a mirrored frame with what was read of its headers; out comes what it names. Each protocol has a file of its
//! own. What a packet is, it tells itself; only DNS, which has no mark, is looked for by
//! port. A name out of a packet that is cut is whole or absent. QUIC encrypts what would be read here. Pure.

mod dns;
mod http;
mod name;
mod tls;

pub use dns::Dns;
pub use http::Http;
pub use name::{MOST_BYTES as NAME_BYTES, Name};
pub use tls::Tls;

use crate::wire::inner::{Inner, InnerIp, Transport};
use crate::wire::numbers::protocol;

/// Most bytes of a payload that are read.
pub const MOST_READ: usize = 4096;

/// Port of DNS (RFC 1035 §4.2), and of multicast DNS (RFC 6762 §5).
const DNS_PORT: u16 = 53;
const MDNS_PORT: u16 = 5353;

/// What a payload may turn out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guess {
    /// A DNS message.
    Dns,
    /// A message of multicast DNS.
    MulticastDns,
    /// A DNS message with its length in front.
    DnsOverTcp,
    /// TLS or HTTP.
    Stream,
    /// A ClientHello that goes on.
    Continued,
}

/// The payload of a packet that may open a conversation, not read yet; at most [`MOST_READ`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening<'a> {
    /// What it may be.
    pub guess: Guess,
    /// Its bytes, as far as they came.
    pub payload: &'a [u8],
    /// Bytes that did not come, or are more than are read.
    pub missing: u32,
    /// Sequence number of the first byte; 0 without TCP.
    pub seq: u32,
}

/// Places for sequence numbers at which something goes on.
const AWAITED: usize = 256;

/// Where ClientHellos go on that began in segments before. A browser's is hardly ever in one: its key for the time of
/// quantum computers has 1.2 KB. By sequence number alone, so that a packet pays for one comparison; whether it is the right
/// flow is known later. Of two that want one place the later one gets it.
pub struct Awaited(Box<[Segments; AWAITED]>);

/// Where the next segment begins, and where the message ends; both alike for none.
type Segments = (u32, u32);

impl Default for Awaited {
    fn default() -> Self {
        Self(Box::new([(0, 0); AWAITED]))
    }
}

impl Awaited {
    /// Where the message ends that goes on at `seq`.
    #[inline]
    fn end(&self, seq: u32) -> Option<u32> {
        let (next, end) = *self.0.get(seq as usize % AWAITED)?;
        (next == seq && next != end).then_some(end)
    }

    /// A message goes on at `next` and ends at `end`, if that is behind it.
    fn expect(&mut self, next: u32, end: u32) {
        if let Some(place) = self.0.get_mut(next as usize % AWAITED)
            && end.wrapping_sub(next).cast_signed() > 0
        {
            *place = (next, end);
        }
    }
}

impl<'a> Opening<'a> {
    /// Of the frame `frame`, whose headers are `inner`; `None` where it surely opens nothing. Most packets pay for a
    /// look at one byte and for a sequence number, or for two ports. What goes on in another packet is noted in `awaited`.
    #[inline]
    pub fn of(inner: &Inner, frame: &'a [u8], awaited: &mut Awaited) -> Option<Self> {
        let ip = inner.ip.as_ref()?;
        let Transport::Ports { src, dst, tcp } = ip.transport else {
            return None;
        };
        if let Some(tcp) = tcp {
            let payload_at =
                ip.offset as usize + ip.header.header_len + usize::from(tcp.header_len);
            let first = first_byte(*frame.get(payload_at)?);
            if let Some(end) = awaited.end(tcp.seq) {
                return Self::going_on(tcp.seq, end, ip, frame, awaited);
            }
            return match first {
                FirstByte::Other => None,
                FirstByte::Stream => Self::of_stream(tcp.seq, ip, frame, awaited),
                FirstByte::Length if src == DNS_PORT || dst == DNS_PORT => {
                    Self::of_payload(Guess::DnsOverTcp, ip, frame)
                }
                FirstByte::Length => None,
            };
        }
        if src == DNS_PORT || dst == DNS_PORT {
            Self::of_payload(Guess::Dns, ip, frame)
        } else if src == MDNS_PORT || dst == MDNS_PORT {
            Self::of_payload(Guess::MulticastDns, ip, frame)
        } else {
            None
        }
    }

    #[cold]
    fn going_on(
        seq: u32,
        end: u32,
        ip: &InnerIp,
        frame: &'a [u8],
        awaited: &mut Awaited,
    ) -> Option<Self> {
        let opening = Self::of_payload(Guess::Continued, ip, frame)?;
        let opening = Self { seq, ..opening };
        awaited.expect(opening.end(), end);
        Some(opening)
    }

    #[inline(never)]
    fn of_stream(seq: u32, ip: &InnerIp, frame: &'a [u8], awaited: &mut Awaited) -> Option<Self> {
        let opening = Self::of_payload(Guess::Stream, ip, frame)?;
        let opening = Self { seq, ..opening };
        if let Some(len) = tls::client_hello_len(opening.payload) {
            awaited.expect(opening.end(), seq.wrapping_add(len));
        }
        Some(opening)
    }

    /// Bytes of the payload at the mirror source.
    const fn len(&self) -> usize {
        self.payload.len() + self.missing as usize
    }

    /// Sequence number behind the payload.
    const fn end(&self) -> u32 {
        self.seq.wrapping_add(self.len() as u32)
    }

    #[inline(never)]
    fn of_payload(guess: Guess, ip: &InnerIp, frame: &'a [u8]) -> Option<Self> {
        let span = ip.payload(u32::try_from(frame.len()).unwrap_or(u32::MAX))?;
        let behind = frame.get(span.at as usize..)?;
        let payload = behind.get(..span.len as usize).unwrap_or(behind);
        let payload = payload.get(..MOST_READ).unwrap_or(payload);
        let may_open = match guess {
            Guess::Dns | Guess::MulticastDns => {
                ip.header.protocol == protocol::UDP && may_be_dns(payload)
            }
            Guess::DnsOverTcp => may_be_dns(payload.get(2..)?),
            Guess::Continued => !payload.is_empty(),
            Guess::Stream => matches!(
                payload,
                [0x16, 3, ..] | [b'A'..=b'Z', b'A'..=b'Z', b'A'..=b'Z' | b' ', ..]
            ),
        };
        may_open.then_some(Self {
            guess,
            payload,
            missing: span.len - payload.len() as u32,
            seq: 0,
        })
    }
}

/// What the first byte of TCP payload says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FirstByte {
    Other,
    /// A handshake record of TLS, or a letter that HTTP's methods or answers begin with.
    Stream,
    /// The upper byte of a DNS message's length, below 4096.
    Length,
}

#[inline]
const fn first_byte(byte: u8) -> FirstByte {
    match byte {
        0..=0x0f => FirstByte::Length,
        0x16 | b'C' | b'D' | b'G' | b'H' | b'L' | b'M' | b'N' | b'O' | b'P' | b'R' | b'S'
        | b'T' | b'U' => FirstByte::Stream,
        _ => FirstByte::Other,
    }
}

/// Whether `message` has a DNS header with so many questions as a message may have: hardly anything else has.
fn may_be_dns(message: &[u8]) -> bool {
    matches!(message, [_, _, _, _, 0, _, _, _, _, _, _, _, ..])
}

/// What a flow is, and what its first packets name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum App {
    /// Questions of DNS.
    Dns(Dns),
    /// A TLS connection.
    Tls(Tls),
    /// HTTP without TLS.
    Http(Http),
}

impl App {
    /// Reads an opening. `None` where it is nothing known, or goes on: see [`Self::go_on`].
    pub fn read(opening: &Opening<'_>) -> Option<Self> {
        let payload = opening.payload;
        match opening.guess {
            Guess::Dns => Dns::read(payload, false).map(Self::Dns),
            Guess::MulticastDns => Dns::read(payload, true).map(Self::Dns),
            Guess::DnsOverTcp => Dns::read_tcp(payload).map(Self::Dns),
            Guess::Stream => Tls::read(opening)
                .map(Self::Tls)
                .or_else(|| Http::read(payload).map(Self::Http)),
            Guess::Continued => None,
        }
    }

    /// Adds what a later packet of the same flow tells. What is known stays, and a flow stays what it began as.
    pub fn learn(&mut self, later: Self) {
        match (self, later) {
            (Self::Dns(dns), Self::Dns(later)) => dns.learn(later),
            (Self::Tls(tls), Self::Tls(later)) => tls.learn(later),
            (Self::Http(http), Self::Http(later)) => http.learn(later),
            _ => {}
        }
    }

    /// Reads a packet with which the opening of the same flow may go on.
    pub fn go_on(&mut self, opening: &Opening<'_>) {
        if let Self::Tls(tls) = self {
            tls.go_on(opening);
        }
    }

    /// Whether later packets can add nothing.
    pub const fn is_complete(&self) -> bool {
        match self {
            Self::Dns(Dns { query, rcode, .. }) => query.is_some() && rcode.is_some(),
            Self::Tls(Tls { sni, alpn, .. }) => sni.is_some() && alpn.is_some(),
            Self::Http(Http { method, host }) => method.is_some() && host.is_some(),
        }
    }

    /// `dns`, `tls` or `http`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Dns(_) => "dns",
            Self::Tls(_) => "tls",
            Self::Http(_) => "http",
        }
    }

    /// The name that DNS was asked for.
    pub fn dns_query(&self) -> Option<&str> {
        match self {
            Self::Dns(dns) => dns.query.as_ref().map(Name::as_str),
            _ => None,
        }
    }

    /// DNS's answer code.
    pub const fn dns_rcode(&self) -> Option<u8> {
        match self {
            Self::Dns(dns) => dns.rcode,
            _ => None,
        }
    }

    /// The server that TLS was asked for.
    pub fn tls_sni(&self) -> Option<&str> {
        match self {
            Self::Tls(tls) => tls.sni.as_ref().map(Name::as_str),
            _ => None,
        }
    }

    /// The protocols offered inside of TLS.
    pub fn tls_alpn(&self) -> Option<&str> {
        match self {
            Self::Tls(tls) => tls.alpn.as_ref().map(Name::as_str),
            _ => None,
        }
    }

    /// The host that HTTP was asked for.
    pub fn http_host(&self) -> Option<&str> {
        match self {
            Self::Http(http) => http.host.as_ref().map(Name::as_str),
            _ => None,
        }
    }

    /// The method of HTTP's request.
    pub const fn http_method(&self) -> Option<&'static str> {
        match self {
            Self::Http(http) => http.method,
            _ => None,
        }
    }

    /// Its names: at most two.
    fn names(&self) -> [Option<&Name>; 2] {
        match self {
            Self::Dns(Dns { query, .. }) => [query.as_ref(), None],
            Self::Tls(Tls { sni, alpn, .. }) => [sni.as_ref(), alpn.as_ref()],
            Self::Http(Http { host, .. }) => [host.as_ref(), None],
        }
    }

    /// Bytes of memory of its texts.
    pub fn text_bytes(&self) -> usize {
        self.names().into_iter().flatten().map(Name::bytes).sum()
    }
}

#[cfg(test)]
mod tests;
