//! The VXLAN header: eight bytes in front of every mirrored frame (RFC 7348 §5), and its generic
//! protocol extension VXLAN-GPE.
//!
//! In goes one UDP payload; out come the VNI and the inner bytes, borrowed. No state, no clock, no
//! allocation: a socket and a capture file look the same from here.

use super::Vni;
use super::refusal::{Filtered, Malformed, Refusal};

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;
/// The port IANA gave VXLAN.
pub const PORT: u16 = 4789;
/// The port IANA gave VXLAN-GPE.
pub const GPE_PORT: u16 = 4790;

/// The I flag: the VNI is valid.
pub const FLAG_I: u8 = 0x08;

/// VXLAN-GPE flags and next protocols (draft-ietf-nvo3-vxlan-gpe §3.1, §3.2).
const GPE_VERSION: u8 = 0x30;
const GPE_FLAG_P: u8 = 0x04;
const GPE_FLAG_O: u8 = 0x01;

/// What follows a tunnel header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// An Ethernet frame.
    Ethernet,
    /// An IPv4 packet with no frame around it.
    Ipv4,
    /// An IPv6 packet with no frame around it.
    Ipv6,
}

/// One tunnel header, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The network identifier.
    pub vni: Vni,
    /// Bits were set that RFC 7348 reserves. They are ignored on receipt, as it demands; VXLAN-GBP
    /// (group policy) sets some of them.
    pub reserved_set: bool,
    /// What `inner` is.
    pub payload: Payload,
    /// The bytes behind the header; may be empty.
    pub inner: &'a [u8],
}

/// Splits a UDP payload into its VNI and inner frame.
///
/// `udp_payload` follows the outer UDP header; `cut` says that the capture which recorded it held
/// fewer bytes than were sent. The inner frame starts at its destination MAC, carries no FCS and may
/// be empty. Reserved bits are ignored (RFC 7348 §5).
///
/// # Errors
///
/// - [`Filtered::Probe`] when the datagram cannot be VXLAN at all, see `is_probe`;
/// - [`Malformed::VxlanShort`] when the record was cut inside the header;
/// - [`Malformed::VniNotValid`] when the I flag is clear.
#[inline]
pub fn parse(udp_payload: &[u8], cut: bool) -> Result<Header<'_>, Refusal> {
    let Some((header, inner)) = udp_payload.split_first_chunk::<HEADER_LEN>() else {
        return Err(if cut {
            Malformed::VxlanShort.into()
        } else {
            Filtered::Probe.into()
        });
    };
    if is_probe(header, inner.len()) {
        return Err(Filtered::Probe.into());
    }
    let [flags, r0, r1, r2, vni @ .., r3] = *header;
    if flags & FLAG_I == 0 {
        return Err(Malformed::VniNotValid.into());
    }
    Ok(Header {
        vni: Vni::from_be_bytes(vni),
        reserved_set: flags != FLAG_I || (r0 | r1 | r2 | r3) != 0,
        payload: Payload::Ethernet,
        inner,
    })
}

/// Splits a UDP payload that came to the VXLAN-GPE port.
///
/// With the P bit clear the header is plain VXLAN and carries Ethernet.
///
/// # Errors
///
/// As [`parse`]; also [`Malformed::GpeVersion`], and [`Filtered::GpeNotDecoded`] for OAM packets and
/// for next protocols other than IPv4, IPv6 and Ethernet.
pub fn parse_gpe(udp_payload: &[u8], cut: bool) -> Result<Header<'_>, Refusal> {
    let mut header = parse(udp_payload, cut)?;
    let Some(&[flags, r0, r1, next_protocol]) = udp_payload.first_chunk::<4>() else {
        return Err(Malformed::VxlanShort.into());
    };
    if flags & GPE_VERSION != 0 {
        return Err(Malformed::GpeVersion.into());
    }
    if flags & GPE_FLAG_O != 0 {
        return Err(Filtered::GpeNotDecoded.into());
    }
    if flags & GPE_FLAG_P != 0 {
        header.payload = match next_protocol {
            1 => Payload::Ipv4,
            2 => Payload::Ipv6,
            3 => Payload::Ethernet,
            _ => return Err(Filtered::GpeNotDecoded.into()),
        };
        let last = udp_payload.get(7).copied().unwrap_or_default();
        header.reserved_set = flags & !(FLAG_I | GPE_FLAG_P) != 0 || (r0 | r1 | last) != 0;
    }
    Ok(header)
}

/// Whether eight bytes, with `inner_len` behind them, cannot be a VXLAN header.
///
/// RFC 7348 has a receiver ignore every bit but I, so only what no encapsulator sends is refused:
/// - I clear, and either no room for an inner Ethernet header or reserved bytes that are not zero
///   (an encapsulator that merely forgot the flag leaves them zero: that is malformed);
/// - eight printable ASCII characters: the text of a health check ("health-check" has the I bit set).
fn is_probe(header: &[u8; HEADER_LEN], inner_len: usize) -> bool {
    let [flags, r0, r1, r2, _, _, _, r3] = *header;
    if flags & FLAG_I == 0 {
        return inner_len < 14 || (r0 | r1 | r2 | r3) != 0;
    }
    header.iter().all(|byte| (b' '..=b'~').contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7348 §5 by hand: I set, VNI 0x123456, then the first bytes of a broadcast ARP frame.
    const MIRRORED_ARP: [u8; 22] = [
        0x08, 0, 0, 0, 0x12, 0x34, 0x56, 0, // VXLAN
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0, 1, 0x08, 0x06, // Ethernet
    ];

    #[test]
    fn vni_and_frame_are_split() {
        let header = parse(&MIRRORED_ARP, false).unwrap();
        assert_eq!(header.vni.as_u32(), 0x12_3456);
        assert_eq!(header.inner, &MIRRORED_ARP[8..]);
        assert!(!header.reserved_set);
    }

    /// Every shorter copy of a good datagram gets an answer, never a panic.
    #[test]
    fn every_prefix_is_answered() {
        for len in 0..=MIRRORED_ARP.len() {
            assert_eq!(
                parse(&MIRRORED_ARP[..len], true).is_ok(),
                len >= HEADER_LEN,
                "prefix of {len} bytes"
            );
            let gpe = parse_gpe(&MIRRORED_ARP[..len], true);
            assert_eq!(gpe.is_ok(), len >= HEADER_LEN, "prefix of {len} bytes");
        }
        assert_eq!(
            parse(&MIRRORED_ARP[..7], true),
            Err(Malformed::VxlanShort.into())
        );
        assert_eq!(
            parse(&MIRRORED_ARP[..7], false),
            Err(Filtered::Probe.into())
        );
    }

    #[test]
    fn reserved_bits_are_ignored_and_told() {
        for (at, bits) in [(0, 0xf7), (1, 0xff), (2, 1), (3, 0x80), (7, 1)] {
            let mut datagram = MIRRORED_ARP;
            datagram[at] |= bits;
            let header = parse(&datagram, false).unwrap();
            assert_eq!(header.vni.as_u32(), 0x12_3456);
            assert!(header.reserved_set, "byte {at}");
        }
    }

    #[test]
    fn a_clear_i_flag_is_malformed_and_a_probe_is_not() {
        let mut datagram = MIRRORED_ARP;
        datagram[0] = 0;
        assert_eq!(parse(&datagram, false), Err(Malformed::VniNotValid.into()));
        datagram[2] = 7;
        assert_eq!(parse(&datagram, false), Err(Filtered::Probe.into()));
        assert_eq!(parse(&[0; 16], false), Err(Filtered::Probe.into()));
        assert_eq!(
            parse(b"health-check of a load balancer", false),
            Err(Filtered::Probe.into())
        );
        assert_eq!(parse(b"ping", false), Err(Filtered::Probe.into()));
    }

    #[test]
    fn gpe_next_protocols() {
        let with = |flags: u8, next: u8| {
            let mut datagram = MIRRORED_ARP;
            datagram[0] = flags;
            datagram[3] = next;
            parse_gpe(&datagram, false).map(|header| (header.payload, header.reserved_set))
        };
        assert_eq!(with(0x0c, 1), Ok((Payload::Ipv4, false)));
        assert_eq!(with(0x0c, 2), Ok((Payload::Ipv6, false)));
        assert_eq!(with(0x0c, 3), Ok((Payload::Ethernet, false)));
        assert_eq!(with(0x08, 0), Ok((Payload::Ethernet, false)));
        assert_eq!(with(0x0c, 4), Err(Filtered::GpeNotDecoded.into()), "NSH");
        assert_eq!(with(0x0d, 3), Err(Filtered::GpeNotDecoded.into()), "OAM");
        assert_eq!(with(0x1c, 3), Err(Malformed::GpeVersion.into()));
    }
}
