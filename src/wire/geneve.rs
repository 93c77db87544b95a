//! The Geneve header (RFC 8926 §3.4), as gateway load balancers put it around mirrored traffic.
//!
//! In goes one UDP payload; out come the VNI, the protocol type and the bytes behind the options.

use super::Vni;
use super::refusal::{Filtered, Malformed, Refusal};

/// The port IANA gave Geneve.
pub const PORT: u16 = 6081;
/// Bytes of the header before its options.
pub const HEADER_LEN: usize = 8;
/// Protocol type of an Ethernet frame (Transparent Ethernet Bridging).
pub const PROTOCOL_ETHERNET: u16 = 0x6558;

/// A Geneve header, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The network identifier.
    pub vni: Vni,
    /// EtherType of what follows; [`PROTOCOL_ETHERNET`] for a frame.
    pub protocol: u16,
    /// The bytes behind header and options.
    pub inner: &'a [u8],
}

/// Splits a UDP payload that came to the Geneve port. Options are skipped, critical ones too: they
/// speak to the tunnel's endpoint, not to who looks at a copy.
///
/// # Errors
///
/// [`Malformed::GeneveShort`] when header or options are cut, [`Malformed::GeneveVersion`] for a
/// version other than 0, [`Filtered::GeneveControl`] when the O bit is set, and [`Filtered::Probe`]
/// for a whole datagram shorter than a header.
pub fn parse(udp_payload: &[u8], cut: bool) -> Result<Header<'_>, Refusal> {
    let Some((header, rest)) = udp_payload.split_first_chunk::<HEADER_LEN>() else {
        return Err(if cut {
            Malformed::GeneveShort.into()
        } else {
            Filtered::Probe.into()
        });
    };
    let [version_and_len, flags, protocol @ .., v0, v1, v2, _] = *header;
    if version_and_len >> 6 != 0 {
        return Err(Malformed::GeneveVersion.into());
    }
    if flags & 0x80 != 0 {
        return Err(Filtered::GeneveControl.into());
    }
    let options_len = usize::from(version_and_len & 0x3f) * 4;
    let inner = rest.get(options_len..).ok_or(Malformed::GeneveShort)?;
    Ok(Header {
        vni: Vni::from_be_bytes([v0, v1, v2]),
        protocol: u16::from_be_bytes(protocol),
        inner,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8926 §3.4 by hand: one option word, Ethernet inside, VNI 0xabcdef.
    const WITH_OPTION: [u8; 14] = [
        0x01, 0, 0x65, 0x58, 0xab, 0xcd, 0xef, 0, 1, 2, 3, 4, 0xaa, 0xbb,
    ];

    #[test]
    fn options_are_skipped() {
        let header = parse(&WITH_OPTION, false).unwrap();
        assert_eq!(header.vni.as_u32(), 0xab_cdef);
        assert_eq!(header.protocol, PROTOCOL_ETHERNET);
        assert_eq!(header.inner, &[0xaa, 0xbb]);
    }

    #[test]
    fn refusals() {
        assert_eq!(
            parse(&WITH_OPTION[..11], false),
            Err(Malformed::GeneveShort.into())
        );
        assert_eq!(
            parse(&WITH_OPTION[..7], true),
            Err(Malformed::GeneveShort.into())
        );
        assert_eq!(parse(&WITH_OPTION[..7], false), Err(Filtered::Probe.into()));
        let mut other = WITH_OPTION;
        other[0] |= 0x40;
        assert_eq!(parse(&other, false), Err(Malformed::GeneveVersion.into()));
        let mut control = WITH_OPTION;
        control[1] = 0x80;
        assert_eq!(parse(&control, false), Err(Filtered::GeneveControl.into()));
    }
}
