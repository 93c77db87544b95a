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
}

/// The payload of a packet that may open a conversation, not read yet; at most [`MOST_READ`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening<'a> {
    /// What it may be.
    pub guess: Guess,
    /// Its bytes, as far as they came.
    pub payload: &'a [u8],
}

impl<'a> Opening<'a> {
    /// Of the frame `frame`, whose headers are `inner`; `None` where it surely opens nothing. Most packets pay for a
    /// look at one byte, or at two ports.
    #[inline]
    pub fn of(inner: &Inner, frame: &'a [u8]) -> Option<Self> {
        let ip = inner.ip.as_ref()?;
        let Transport::Ports { src, dst, tcp } = ip.transport else {
            return None;
        };
        if let Some(tcp) = tcp {
            let payload_at =
                ip.offset as usize + ip.header.header_len + usize::from(tcp.header_len);
            return match first_byte(*frame.get(payload_at)?) {
                FirstByte::Other => None,
                FirstByte::Stream => Self::of_payload(Guess::Stream, ip, frame),
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
            Guess::Stream => matches!(
                payload,
                [0x16, 3, ..] | [b'A'..=b'Z', b'A'..=b'Z', b'A'..=b'Z' | b' ', ..]
            ),
        };
        may_open.then_some(Self { guess, payload })
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
    /// Reads an opening. `None` where it is nothing known.
    pub fn read(opening: &Opening<'_>) -> Option<Self> {
        let payload = opening.payload;
        match opening.guess {
            Guess::Dns => Dns::read(payload, false).map(Self::Dns),
            Guess::MulticastDns => Dns::read(payload, true).map(Self::Dns),
            Guess::DnsOverTcp => Dns::read_tcp(payload).map(Self::Dns),
            Guess::Stream => Tls::read(payload)
                .map(Self::Tls)
                .or_else(|| Http::read(payload).map(Self::Http)),
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

    /// Whether later packets can add nothing.
    pub const fn is_complete(&self) -> bool {
        match self {
            Self::Dns(Dns { query, rcode, .. }) => query.is_some() && rcode.is_some(),
            Self::Tls(Tls { sni, alpn }) => sni.is_some() && alpn.is_some(),
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
            Self::Tls(Tls { sni, alpn }) => [sni.as_ref(), alpn.as_ref()],
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
