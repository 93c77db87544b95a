//! Frame check sequences that a capture stored behind its frames, pure: how long one is by each of the three
//! places that say so, and the lengths without it.
//!
//! Only Ethernet is looked at, as in Wireshark: of the link types read here no other has one.

/// Bytes of FCS by the `network` field of a classic pcap header: bit 26 says that it is known, bits 28 to 31
/// count 16-bit words (draft-ietf-opsawg-pcap §4).
pub const fn from_pcap(network: u32) -> u8 {
    if network & (1 << 26) == 0 {
        0
    } else {
        (network >> 28) as u8 * 2
    }
}

/// Bytes of FCS by `if_fcslen`. The specification counts bits, Wireshark and those who follow it bytes; no FCS
/// has less than 16 bits or more than 8 bytes.
pub const fn from_interface(if_fcslen: u8) -> u8 {
    if if_fcslen <= 8 {
        if_fcslen
    } else {
        if_fcslen / 8
    }
}

/// Bytes of FCS by `epb_flags`, bits 5 to 8; `None` where they do not say.
pub const fn from_packet(epb_flags: u32) -> Option<u8> {
    match (epb_flags >> 5) & 0xf {
        0 => None,
        len => Some(len as u8),
    }
}

/// Captured and original length of a frame without the last `fcs_len` bytes it had on the wire. A snap length
/// may have cut them off already, all or in part.
pub fn without(fcs_len: u8, captured_len: u32, orig_len: u32) -> (u32, u32) {
    let orig_len = orig_len.max(captured_len).saturating_sub(fcs_len.into());
    (captured_len.min(orig_len), orig_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_says_it_in_its_own_unit() {
        assert_eq!(from_pcap(0x2400_0001), 4);
        assert_eq!(from_pcap(0x2000_0001), 0, "not said to be known");
        assert_eq!(from_pcap(0x0400_0001), 0);
        assert_eq!(from_pcap(0xf400_0001), 30);
        assert_eq!([0, 4, 16, 32].map(from_interface), [0, 4, 2, 4]);
        assert_eq!(from_packet(0b0_1000_0001), Some(4));
        assert_eq!(from_packet(0b1), None);
    }

    #[test]
    fn what_a_snap_length_cut_off_is_not_taken_twice() {
        assert_eq!(without(4, 64, 64), (60, 60));
        assert_eq!(without(4, 62, 64), (60, 60), "cut inside of the FCS");
        assert_eq!(without(4, 60, 64), (60, 60));
        assert_eq!(without(4, 40, 64), (40, 60));
        assert_eq!(without(4, 64, 0), (60, 60), "an original length of 0");
        assert_eq!(without(4, 3, 3), (0, 0));
    }
}
