//! IPv4 and IPv6 headers, read leniently: what arrived is told, what is missing is not an error.
//!
//! The same reader serves the outer packet and the inner one. The fixed headers are read by offset,
//! because this runs once or twice for every packet; IPv6 extension headers go to etherparse, and a
//! test in `inner` holds the two readers equal.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{IpAuthHeaderSlice, Ipv6FragmentHeaderSlice, Ipv6RawExtHeaderSlice};

use super::numbers::protocol::{
    AUTHENTICATION, DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, ROUTING,
};

/// Where a fragment belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification; 16 bits in IPv4, 32 in IPv6.
    pub id: u32,
    /// Offset of the payload in units of 8 bytes.
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
    /// Bytes from the start of the IP header to the piece of payload that is here.
    pub payload_at: usize,
    /// Protocol number of the whole payload's first header; may be an IPv6 extension header.
    pub protocol: u8,
}

/// An IP address as two words, which compare and hash at a fraction of what an [`IpAddr`] costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Its bytes, most significant first; an IPv4 address fills the upper half of the first word.
    pub words: [u64; 2],
    /// Whether it is IPv6.
    pub ipv6: bool,
}

impl Address {
    pub(super) const fn v4(bytes: [u8; 4]) -> Self {
        Self {
            words: [(u32::from_be_bytes(bytes) as u64) << 32, 0],
            ipv6: false,
        }
    }

    const fn v6(bytes: [u8; 16]) -> Self {
        let bits = u128::from_be_bytes(bytes);
        Self {
            words: [(bits >> 64) as u64, bits as u64],
            ipv6: true,
        }
    }

    /// Whether it is IPv4.
    pub const fn is_ipv4(self) -> bool {
        !self.ipv6
    }

    /// The same address in the standard library's form.
    #[inline]
    pub const fn ip(self) -> IpAddr {
        let [high, low] = self.words;
        if self.ipv6 {
            IpAddr::V6(Ipv6Addr::from_bits(((high as u128) << 64) | low as u128))
        } else {
            IpAddr::V4(Ipv4Addr::from_bits((high >> 32) as u32))
        }
    }
}

impl From<IpAddr> for Address {
    #[inline]
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

/// An IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpHeader {
    /// Source address; it tells the version.
    pub src: Address,
    /// Destination address.
    pub dst: Address,
    /// Protocol number of the payload, behind extension headers; the number of one of them where it cannot be
    /// told, see [`Self::transport`].
    pub protocol: u8,
    /// Bytes from the start of the IP header to its payload, extension headers included, as far as
    /// they are present.
    pub header_len: usize,
    /// Header plus payload in bytes as the header declares it; 0 when it declares none (segmentation
    /// offload, BIG TCP, jumbogram).
    pub declared_len: u32,
    /// Type of service, or traffic class.
    pub tos: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Set when the packet is a fragment; an atomic fragment (RFC 6946) is none.
    pub fragment: Option<Fragment>,
    /// IPv4 options or extension headers are cut before the packet's payload begins: nothing behind them can
    /// be read.
    pub options_cut: bool,
}

/// Why there is no IP header to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpError {
    /// Fewer bytes than the fixed header (20, or 40 for IPv6).
    Cut,
    /// Neither version 4 nor 6, or an IPv4 header length below 20.
    Invalid,
}

impl IpHeader {
    /// Reads the header at the start of `bytes`.
    ///
    /// # Errors
    ///
    /// See [`IpError`].
    #[inline(always)]
    pub fn read(bytes: &[u8]) -> Result<Self, IpError> {
        // Apart from the start, so that other headers need not be in memory.
        if bytes.get(9) == Some(&AUTHENTICATION)
            && bytes.first().is_some_and(|first| first >> 4 == 4)
        {
            return Self::read_authenticated(bytes);
        }
        Self::read_plain(bytes)
    }

    /// As [`Self::read`], but an authentication header behind IPv4 is not walked through.
    #[inline(always)]
    pub(super) fn read_plain(bytes: &[u8]) -> Result<Self, IpError> {
        match bytes.first().map(|first| first >> 4) {
            None => Err(IpError::Cut),
            Some(4) => Self::read_ipv4(bytes),
            Some(6) => Self::read_ipv6(bytes),
            Some(_) => Err(IpError::Invalid),
        }
    }

    /// The length that a header declares which is cut behind its length field; 0 when it declares none, is
    /// cut before that field, is whole, or cannot be a header.
    pub fn declared_len_of_cut(bytes: &[u8]) -> u32 {
        match (bytes, bytes.first().map(|first| first >> 4)) {
            ([first, _, l0, l1, ..], Some(4)) if bytes.len() < 20 => {
                let total_len = u32::from(u16::from_be_bytes([*l0, *l1]));
                let header_len = u32::from(first & 0x0f) * 4;
                if header_len < 20 || total_len < header_len {
                    0
                } else {
                    total_len
                }
            }
            ([_, _, _, _, l0, l1, ..], Some(6)) if bytes.len() < 40 => {
                match u16::from_be_bytes([*l0, *l1]) {
                    0 => 0,
                    payload_len => 40 + u32::from(payload_len),
                }
            }
            _ => 0,
        }
    }

    #[inline(always)]
    fn read_ipv4(bytes: &[u8]) -> Result<Self, IpError> {
        let Some(header) = bytes.first_chunk::<20>() else {
            return Err(IpError::Cut);
        };
        let [
            first,
            tos,
            l0,
            l1,
            i0,
            i1,
            f0,
            f1,
            ttl,
            protocol,
            _,
            _,
            s0,
            s1,
            s2,
            s3,
            d0,
            d1,
            d2,
            d3,
        ] = *header;
        let header_len = usize::from(first & 0x0f) * 4;
        if header_len < 20 {
            return Err(IpError::Invalid);
        }
        let total_len = u16::from_be_bytes([l0, l1]);
        let frag = u16::from_be_bytes([f0, f1]);
        let (offset, more) = (frag & 0x1fff, frag & 0x2000 != 0);
        let fragment = (offset != 0 || more).then(|| Fragment {
            id: u32::from(u16::from_be_bytes([i0, i1])),
            offset,
            more,
            payload_at: header_len,
            protocol,
        });
        Ok(Self {
            src: Address::v4([s0, s1, s2, s3]),
            dst: Address::v4([d0, d1, d2, d3]),
            protocol,
            header_len: header_len.min(bytes.len()),
            // A total length below the header's own cannot be meant.
            declared_len: if usize::from(total_len) < header_len {
                0
            } else {
                u32::from(total_len)
            },
            tos,
            ttl,
            fragment,
            options_cut: header_len > bytes.len(),
        })
    }

    /// An IPv4 header with an authentication header behind it.
    #[cold]
    #[inline(never)]
    fn read_authenticated(bytes: &[u8]) -> Result<Self, IpError> {
        let mut ip = Self::read_ipv4(bytes)?;
        if !ip.options_cut && !ip.is_later_fragment() {
            ip.read_extensions(bytes.get(ip.header_len..).unwrap_or_default());
        }
        Ok(ip)
    }

    #[inline(always)]
    fn read_ipv6(bytes: &[u8]) -> Result<Self, IpError> {
        let Some((header, rest)) = bytes.split_first_chunk::<40>() else {
            return Err(IpError::Cut);
        };
        let [v, t, _, _, l0, l1, next_header, hop_limit, addresses @ ..] = header;
        let [src, dst] = addresses.as_chunks::<16>().0 else {
            return Err(IpError::Cut);
        };
        let payload_len = u16::from_be_bytes([*l0, *l1]);
        let ip = Self {
            src: Address::v6(*src),
            dst: Address::v6(*dst),
            protocol: *next_header,
            header_len: 40,
            declared_len: if payload_len == 0 {
                0
            } else {
                40 + u32::from(payload_len)
            },
            tos: (v << 4) | (t >> 4),
            ttl: *hop_limit,
            fragment: None,
            options_cut: false,
        };
        // By value, so that where there are none the header need not be in memory.
        Ok(if is_extension(*next_header, 6) {
            ip.behind_extensions(rest)
        } else {
            ip
        })
    }

    #[cold]
    fn behind_extensions(mut self, rest: &[u8]) -> Self {
        self.read_extensions(rest);
        self
    }

    /// Walks the extension headers at the start of `rest`, the bytes behind the header.
    ///
    /// Header by header, because the iterator over etherparse 0.21's lax slice reads past a header
    /// that is cut.
    pub(super) fn read_extensions(&mut self, mut rest: &[u8]) {
        for _ in 0..MAX_EXTENSIONS {
            if !is_extension(self.protocol, self.version()) {
                return;
            }
            let step = match self.protocol {
                FRAGMENT => Ipv6FragmentHeaderSlice::from_slice(rest)
                    .ok()
                    .map(|header| {
                        if header.is_fragmenting_payload() {
                            self.fragment = Some(Fragment {
                                id: header.identification(),
                                offset: header.fragment_offset().value(),
                                more: header.more_fragments(),
                                payload_at: self.header_len + header.slice().len(),
                                protocol: header.next_header().0,
                            });
                        }
                        (header.next_header(), header.slice().len())
                    }),
                AUTHENTICATION => IpAuthHeaderSlice::from_slice(rest)
                    .ok()
                    .map(|header| (header.next_header(), header.slice().len())),
                _ => Ipv6RawExtHeaderSlice::from_slice(rest)
                    .ok()
                    .map(|header| (header.next_header(), header.slice().len())),
            };
            let Some((next, len)) = step else {
                break;
            };
            self.protocol = next.0;
            self.header_len += len;
            rest = rest.get(len..).unwrap_or_default();
            if self.is_later_fragment() {
                // What follows is the middle of something, whatever its bytes look like.
                return;
            }
        }
        self.options_cut = true;
    }

    /// The IP payload in `bytes`, which start at this header: at most what the header declares.
    #[inline]
    pub fn payload<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let end = match self.declared_len {
            0 => bytes.len(),
            len => bytes.len().min(len as usize),
        };
        bytes.get(self.header_len..end).unwrap_or_default()
    }

    /// Protocol number of the transport; `None` where the packet is cut inside its extension headers, or is a
    /// later fragment of one that has such.
    #[inline]
    pub const fn transport(&self) -> Option<u8> {
        if is_extension(self.protocol, self.version()) {
            None
        } else {
            Some(self.protocol)
        }
    }

    /// IP version, 4 or 6.
    pub const fn version(&self) -> u8 {
        if self.src.ipv6 { 6 } else { 4 }
    }

    /// A fragment that does not hold the payload's first byte: no ports to read.
    #[inline]
    pub fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.offset != 0)
    }
}

/// More extension headers than this are an attack, not a packet.
const MAX_EXTENSIONS: usize = 64;

/// The extension headers that can be walked (RFC 8200 §4), of which IPv4 has the authentication header
/// (RFC 4302 §3.1); ESP hides what follows it.
#[inline]
pub(crate) const fn is_extension(next_header: u8, version: u8) -> bool {
    match next_header {
        AUTHENTICATION => true,
        HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS => version == 6,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 791 by hand: 20-byte header, total length 28, id 7, more fragments, TTL 64, UDP.
    const V4: [u8; 28] = [
        0x45, 0x10, 0, 28, 0, 7, 0x20, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 1, 2, 3, 4, 5, 6,
        7, 8,
    ];

    #[test]
    fn ipv4_by_hand() {
        let ip = IpHeader::read(&V4).unwrap();
        assert_eq!(ip.src.ip().to_string(), "10.0.0.1");
        assert_eq!(
            (ip.protocol, ip.declared_len, ip.header_len, ip.tos, ip.ttl),
            (17, 28, 20, 0x10, 64)
        );
        assert_eq!(
            ip.fragment,
            Some(Fragment {
                id: 7,
                offset: 0,
                more: true,
                payload_at: 20,
                protocol: 17
            })
        );
        assert_eq!(ip.payload(&V4), &V4[20..]);
        assert!(!ip.is_later_fragment());
    }

    #[test]
    fn ipv4_lengths_that_cannot_be() {
        let mut short = V4;
        short[3] = 19;
        assert_eq!(IpHeader::read(&short).unwrap().declared_len, 0);
        short[0] = 0x44;
        assert_eq!(IpHeader::read(&short), Err(IpError::Invalid));
        assert_eq!(IpHeader::read(&V4[..19]), Err(IpError::Cut));
        assert_eq!(IpHeader::read(&[]), Err(IpError::Cut));
        assert_eq!(IpHeader::read(&[0x50; 60]), Err(IpError::Invalid));
    }

    /// A header that is cut declares its length; one that is whole, cut before its length or cannot be one does not.
    #[test]
    fn only_a_header_that_is_cut_declares_so() {
        let declared = IpHeader::declared_len_of_cut;
        let mut packet = V4.to_vec();
        packet.resize(60, 0);
        packet[2..4].copy_from_slice(&[0x05, 0xdc]);
        for len in 0..=packet.len() {
            let expected = if (4..20).contains(&len) { 1500 } else { 0 };
            assert_eq!(declared(&packet[..len]), expected, "prefix of {len} bytes");
        }
        // Header lengths below 20 cannot be, and no header is longer than its packet.
        for first in 0x40..0x45 {
            packet[0] = first;
            for len in 0..=packet.len() {
                assert_eq!(declared(&packet[..len]), 0, "{first:#x}, {len} bytes");
            }
        }
        packet[0] = 0x4f;
        packet[2..4].copy_from_slice(&[0, 59]);
        assert_eq!(declared(&packet[..8]), 0);
        packet[3] = 60;
        assert_eq!(declared(&packet[..8]), 60);
        // RFC 8200: the length of the payload alone; 0 says nothing, and neither do other versions.
        let mut packet = [0x60, 0, 0, 0, 0x05, 0xb4, 17, 64].to_vec();
        packet.resize(60, 0);
        for len in 0..=packet.len() {
            let expected = if (6..40).contains(&len) { 1500 } else { 0 };
            assert_eq!(declared(&packet[..len]), expected, "prefix of {len} bytes");
        }
        packet[4..6].fill(0);
        assert_eq!(declared(&packet[..8]), 0);
        packet[0] = 0x50;
        packet[4..6].fill(0xff);
        assert_eq!(declared(&packet[..8]), 0);
    }

    #[test]
    fn ipv4_options_that_are_cut() {
        let mut options = V4;
        options[0] = 0x4f;
        options[3] = 80;
        let ip = IpHeader::read(&options).unwrap();
        assert!(ip.options_cut);
        assert_eq!(ip.declared_len, 80);
        assert_eq!(ip.payload(&options), &[] as &[u8]);
    }

    /// RFC 4302 by hand: an authentication header of 24 bytes between IPv4 and TCP.
    #[test]
    fn ipv4_authentication_header() {
        let mut packet = vec![0x45, 0, 0, 64, 0, 1, 0, 0, 64, 51, 0, 0];
        packet.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend([6, 4, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1]);
        packet.extend([0xaa; 12]);
        packet.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0, 0]);
        packet.resize(64, 0);
        let ip = IpHeader::read(&packet).unwrap();
        assert_eq!((ip.transport(), ip.header_len), (Some(6), 44));
        assert_eq!(ip.payload(&packet)[..4], [0x9c, 0x40, 0, 80]);
        for len in 20..44 {
            let ip = IpHeader::read(&packet[..len]).unwrap();
            assert_eq!((ip.transport(), ip.options_cut), (None, true), "{len}");
        }
        // Its first fragment has the ports, of a later one nothing is known.
        packet[6] = 0x20;
        let first = IpHeader::read(&packet).unwrap();
        assert_eq!(first.transport(), Some(6));
        let fragment = first.fragment.unwrap();
        assert_eq!((fragment.payload_at, fragment.protocol), (20, 51));
        packet[7] = 3;
        let later = IpHeader::read(&packet).unwrap();
        assert_eq!((later.transport(), later.header_len), (None, 20));
        // Hop-by-hop options are of IPv6 alone.
        packet[9] = 0;
        assert_eq!(IpHeader::read(&packet).unwrap().transport(), Some(0));
    }

    /// RFC 8200 by hand: hop-by-hop options, then a fragment header, then UDP.
    #[test]
    fn ipv6_extension_headers() {
        let mut packet = vec![0x60, 0, 0, 0, 0, 24, 0, 64];
        packet.extend([0xfd; 16]);
        packet.extend([0xfe; 16]);
        packet.extend([44, 0, 1, 4, 0, 0, 0, 0]); // hop-by-hop: next is fragment
        packet.extend([17, 0, 0, 0x11, 0, 0, 0, 9]); // fragment: offset 2 units, more, id 9
        packet.extend([0; 8]);
        let ip = IpHeader::read(&packet).unwrap();
        assert_eq!((ip.protocol, ip.header_len, ip.declared_len), (17, 56, 64));
        assert_eq!(
            ip.fragment,
            Some(Fragment {
                id: 9,
                offset: 2,
                more: true,
                payload_at: 56,
                protocol: 17
            })
        );
        assert!(ip.is_later_fragment());
        for len in 0..packet.len() {
            let read = IpHeader::read(&packet[..len]);
            assert_eq!(read.is_ok(), len >= 40, "prefix of {len} bytes");
            assert!(
                read.is_err() || len >= 56 || read.unwrap().options_cut,
                "prefix of {len} bytes"
            );
            let transport = read.ok().and_then(|ip| ip.transport());
            assert_eq!(transport.is_some(), len >= 56, "prefix of {len} bytes");
        }
    }
}
