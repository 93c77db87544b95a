//! How long a mirrored packet was before somebody cut it.
//!
//! Mirroring cuts a packet in silence: VXLAN has no field for it. The only witness is the inner IP
//! header, which still declares the length it had at the mirror source, or a header in front of it that
//! does. This module weighs what is declared against the bytes that are there.

/// The two lengths of a mirrored frame, which travel together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLen {
    /// Bytes of the inner frame that are here.
    pub captured: u32,
    /// Bytes it had at the mirror source, as far as that is known; never below `captured`.
    pub orig: u32,
}

impl FrameLen {
    /// Bytes cut off.
    pub const fn missing(self) -> u32 {
        self.orig - self.captured
    }
}

/// What is known of a frame's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything the inner headers declare is here; bytes beyond it are Ethernet padding.
    Whole,
    /// Whole, but the inner IP packet is larger than the mirror's rule allows (MTU minus overhead): on
    /// a path of that MTU it will be cut.
    Oversize,
    /// The inner headers declare more than is here: cut before it reached us.
    Truncated,
    /// Nothing declares a length: not IP and no 802.3 or PPPoE length either, an IP length of 0 (segmentation
    /// offload, BIG TCP, jumbogram), or the header itself is cut before its length field.
    Unknown,
}

/// What [`judge`] is told about a frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence {
    /// Bytes of the inner frame that are here.
    pub captured_len: u32,
    /// Bytes of inner frame the tunnel carried, where the outer headers show that the capture we read
    /// was itself cut (snap length); otherwise equal to `captured_len`.
    pub carried_len: u32,
    /// Bytes before the inner IP header; 0 when there is none.
    pub ip_offset: u32,
    /// Length the inner IP header declares, header and payload; 0 when it declares none.
    pub ip_len: u32,
    /// Bytes of the frame as a layer in front of IP declares them (802.3, PPPoE); 0 when none does. Counts
    /// where IP declares nothing.
    pub frame_len: u32,
}

impl Evidence {
    /// Bytes of the inner IP packet in a frame of these lengths: as it declares them, else the frame's as far
    /// as they are known; 0 when there is none.
    pub const fn ip_bytes(&self, lengths: FrameLen) -> u32 {
        match (self.ip_len, self.ip_offset) {
            (0, 0) => 0,
            (0, offset) => lengths.orig.saturating_sub(offset),
            (len, _) => len,
        }
    }
}

/// Weighs the evidence; `max_inner_ip` is MTU minus overhead in bytes.
pub fn judge(evidence: Evidence, max_inner_ip: u32) -> (FrameLen, Verdict) {
    let Evidence {
        captured_len,
        carried_len,
        ip_offset,
        ip_len,
        frame_len,
    } = evidence;
    let declared_len = if ip_len == 0 {
        frame_len
    } else {
        ip_offset.saturating_add(ip_len)
    };
    // Padding makes a short frame longer than what it declares; that must not make the frame shorter.
    let declared = captured_len.max(declared_len);
    let cut = if declared_len == 0 {
        carried_len > captured_len
    } else {
        declared > captured_len
    };
    // A record that was cut behind the IP packet, in its padding, is whole, and was longer all the same.
    let lengths = FrameLen {
        captured: captured_len,
        orig: declared.max(carried_len),
    };
    let verdict = if cut {
        Verdict::Truncated
    } else if declared_len == 0 {
        Verdict::Unknown
    } else if ip_len > max_inner_ip {
        Verdict::Oversize
    } else {
        Verdict::Whole
    };
    (lengths, verdict)
}

/// The longest inner frame an outer IP packet of `mtu` bytes can carry: less outer IP, UDP and VXLAN.
pub fn max_inner_frame(mtu: u32, outer_ipv6: bool) -> u32 {
    let outer_ip = if outer_ipv6 { 40 } else { 20 };
    mtu.saturating_sub(outer_ip + 8 + 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(captured_len: u32, ip_offset: u32, ip_len: u32) -> (u32, Verdict) {
        let evidence = Evidence {
            captured_len,
            carried_len: captured_len,
            ip_offset,
            ip_len,
            frame_len: 0,
        };
        let (lengths, verdict) = judge(evidence, 1436);
        (lengths.missing(), verdict)
    }

    #[test]
    fn declared_against_captured() {
        assert_eq!(verdict(500, 14, 1440), (954, Verdict::Truncated));
        assert_eq!(
            verdict(60, 14, 40),
            (0, Verdict::Whole),
            "padding is not truncation"
        );
        assert_eq!(verdict(1450, 14, 1436), (0, Verdict::Whole));
        assert_eq!(verdict(1451, 14, 1437), (0, Verdict::Oversize));
        assert_eq!(
            verdict(1454, 18, 1437),
            (1, Verdict::Truncated),
            "one byte, VLAN-tagged"
        );
        assert_eq!(verdict(42, 0, 0), (0, Verdict::Unknown));
    }

    #[test]
    fn a_capture_cut_by_its_snap_length_is_truncated_even_without_ip() {
        let evidence = Evidence {
            captured_len: 30,
            carried_len: 42,
            ..Evidence::default()
        };
        assert_eq!(
            judge(evidence, 1436),
            (
                FrameLen {
                    captured: 30,
                    orig: 42
                },
                Verdict::Truncated
            )
        );
    }

    /// What is largest and what a flow counts agree, snapped or not.
    #[test]
    fn an_ip_length_of_zero_is_what_the_frame_has() {
        let told = |captured_len: u32, ip_offset: u32, ip_len: u32| {
            let evidence = Evidence {
                captured_len,
                carried_len: 2961,
                ip_offset,
                ip_len,
                frame_len: 0,
            };
            evidence.ip_bytes(judge(evidence, 1436).0)
        };
        assert_eq!(told(2961, 14, 0), 2947);
        assert_eq!(told(100, 14, 0), 2947);
        assert_eq!(told(100, 14, 1000), 1000);
        assert_eq!(told(100, 0, 0), 0, "no IP");
    }

    /// An 802.3 length counts where IP declares none, and only there.
    #[test]
    fn a_length_in_front_of_ip() {
        let verdict = |captured_len: u32, ip_len: u32, frame_len: u32| {
            let evidence = Evidence {
                captured_len,
                carried_len: captured_len,
                ip_offset: 22,
                ip_len,
                frame_len,
            };
            let (lengths, verdict) = judge(evidence, 1436);
            (lengths.orig, verdict)
        };
        assert_eq!(verdict(96, 0, 1514), (1514, Verdict::Truncated));
        assert_eq!(verdict(60, 0, 52), (60, Verdict::Whole), "padded");
        assert_eq!(verdict(1514, 0, 1514), (1514, Verdict::Whole));
        assert_eq!(
            verdict(96, 1000, 1514),
            (1022, Verdict::Truncated),
            "IP knows better"
        );
        assert_eq!(verdict(96, 0, 0), (96, Verdict::Unknown));
    }

    #[test]
    fn padding_that_the_capture_cut_off_is_no_truncation() {
        let evidence = Evidence {
            captured_len: 54,
            carried_len: 60,
            ip_offset: 14,
            ip_len: 40,
            frame_len: 0,
        };
        let (lengths, verdict) = judge(evidence, 1436);
        assert_eq!((lengths.orig, verdict), (60, Verdict::Whole));
    }

    #[test]
    fn header_arithmetic() {
        assert_eq!(max_inner_frame(1500, false), 1464);
        assert_eq!(max_inner_frame(1500, true), 1444);
        assert_eq!(max_inner_frame(9001, false), 8965);
        assert_eq!(max_inner_frame(10, false), 0);
    }
}
