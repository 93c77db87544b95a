//! How long a mirrored packet was before somebody cut it.
//!
//! Mirroring cuts a packet in silence: VXLAN has no field for it. The only witness is the inner IP
//! header, which still declares the length it had at the mirror source, or a header in front of it that
//! does. This module weighs what is declared against the bytes that are there.

use super::outer::Pieces;

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

    /// The same without `added_len` bytes that were never on the wire.
    pub const fn without(self, added_len: u32) -> Self {
        Self {
            captured: self.captured.saturating_sub(added_len),
            orig: self.orig.saturating_sub(added_len),
        }
    }
}

/// What is known of a frame's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything the inner headers declare is here; bytes beyond it are Ethernet padding.
    Whole,
    /// Whole, but larger than one outer packet of the path's MTU carries.
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
    /// Bytes of inner frame the headers around it declare, where that is more than `captured_len`:
    /// otherwise equal to it.
    pub carried_len: u32,
    /// Bytes of `captured_len` and `carried_len` that we put in front: they were never on the wire.
    pub added_len: u32,
    /// Bytes that the record of a capture lacks of what arrived there (its snap length).
    pub not_recorded: u32,
    /// Bytes before the inner IP header; 0 when there is none.
    pub ip_offset: u32,
    /// Length the inner IP header declares, header and payload, as far as it is [`believed`];
    /// 0 when it declares none.
    pub ip_len: u32,
    /// Bytes of the frame as a layer in front of IP declares them (802.3, PPPoE); 0 when none does. Counts
    /// where IP declares nothing.
    pub frame_len: u32,
    /// Bytes of the outermost IP packet; 0 when there was none.
    pub outer_ip_len: u32,
    /// How that packet came.
    pub pieces: Pieces,
}

impl Evidence {
    /// Bytes of the inner frame that arrived, recorded or not, fragments that never came included.
    pub const fn arrived_len(&self) -> u32 {
        // What was lost on the way in fragments had been sent.
        if let Pieces::FirstFragments { .. } = self.pieces {
            return self.carried_len.saturating_sub(self.added_len);
        }
        self.captured_len
            .saturating_add(self.not_recorded)
            .saturating_sub(self.added_len)
    }

    /// Bytes of the outer packet that stand around the inner IP packet: all headers from the outermost IP
    /// header to the inner Ethernet header and its tags. `None` where one of the two packets is missing.
    pub const fn overhead(&self) -> Option<u32> {
        if self.outer_ip_len == 0 || self.ip_offset == 0 {
            return None;
        }
        let around_frame = self.outer_ip_len.saturating_sub(self.arrived_len());
        Some(around_frame.saturating_add(self.ip_offset.saturating_sub(self.added_len)))
    }

    /// Bytes of the inner IP packet, of a frame with these lengths on the wire: what its header declares, or
    /// all that is behind the frame's own headers where it declares none. 0 without an IP header.
    pub const fn ip_bytes(&self, on_the_wire: FrameLen) -> u32 {
        match (self.ip_len, self.ip_offset) {
            (_, 0) => 0,
            (0, offset) => on_the_wire
                .orig
                .saturating_sub(offset.saturating_sub(self.added_len)),
            (declared, _) => declared,
        }
    }

    /// Whether the outer packet of a whole frame may have to be longer than `mtu`, at a glance: what carries a
    /// whole IP packet is no longer than what came, the outer packet or the frame.
    #[inline]
    const fn may_need_more_than(&self, mtu: u32) -> bool {
        self.outer_ip_len > mtu || self.arrived_len() > mtu
    }

    /// Bytes of outer packet that it takes to carry the inner IP packet as it declares itself.
    pub const fn needed_outer_len(&self) -> Option<u32> {
        match self.overhead() {
            Some(overhead) if self.ip_len > 0 => Some(self.ip_len.saturating_add(overhead)),
            _ => None,
        }
    }
}

/// The length an inner IP header declares, if it can be true; 0 if not. `present` bytes of the packet are here.
///
/// All ones in the length field (IPv4 total length or IPv6 payload length 65,535) is what a sender writes who
/// does not know the length. It is taken for a length only where so many bytes did come.
pub const fn believed(declared: u32, present: u32) -> u32 {
    const ALL_ONES: u32 = 0xffff;
    if declared > present && (declared == ALL_ONES || declared == 40 + ALL_ONES) {
        0
    } else {
        declared
    }
}

/// Weighs the evidence; `mtu` is that of the path from mirror source to target, in bytes.
#[inline]
pub fn judge(evidence: &Evidence, mtu: u32) -> (FrameLen, Verdict) {
    let Evidence {
        captured_len,
        carried_len,
        ip_offset,
        ip_len,
        frame_len,
        ..
    } = *evidence;
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
    } else if evidence.may_need_more_than(mtu)
        && evidence
            .needed_outer_len()
            .is_some_and(|needed| needed > mtu)
    {
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

    /// A frame in an outer IPv4 packet: 20 + 8 + 8 bytes around it.
    fn evidence(captured_len: u32, ip_offset: u32, ip_len: u32) -> Evidence {
        Evidence {
            captured_len,
            carried_len: captured_len,
            ip_offset,
            ip_len,
            outer_ip_len: captured_len + 36,
            ..Evidence::default()
        }
    }

    fn verdict(captured_len: u32, ip_offset: u32, ip_len: u32) -> (u32, Verdict) {
        let (lengths, verdict) = judge(&evidence(captured_len, ip_offset, ip_len), 1500);
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
        assert_eq!(
            verdict(1454, 18, 1437),
            (1, Verdict::Truncated),
            "one byte, VLAN-tagged"
        );
        assert_eq!(verdict(42, 0, 0), (0, Verdict::Unknown));
    }

    /// What fits exactly is whole; one byte more is oversize, whatever stands around the packet.
    #[test]
    fn oversize_is_what_the_path_does_not_carry() {
        assert_eq!(verdict(1464, 14, 1450), (0, Verdict::Whole));
        assert_eq!(verdict(1465, 14, 1451), (0, Verdict::Oversize));
        // A VLAN tag takes 4 bytes.
        assert_eq!(verdict(1464, 18, 1446), (0, Verdict::Whole));
        assert_eq!(verdict(1465, 18, 1447), (0, Verdict::Oversize));
        // Outer IPv6 takes 20 more, a Geneve header with 32 bytes of options 76 in front of outer IPv4.
        for (around, ip_len) in [(56, 1430), (112, 1374)] {
            for (more, verdict) in [(0, Verdict::Whole), (1, Verdict::Oversize)] {
                let captured_len = 14 + ip_len + more;
                let evidence = Evidence {
                    outer_ip_len: captured_len + around,
                    ..evidence(captured_len, 14, ip_len + more)
                };
                assert_eq!(evidence.overhead(), Some(around + 14));
                assert_eq!(judge(&evidence, 1500).1, verdict, "{around} {more}");
            }
        }
        // Padding belongs to the frame, not to what stands around the packet.
        let padded = evidence(60, 14, 40);
        assert_eq!(
            (padded.overhead(), padded.needed_outer_len()),
            (Some(50), Some(90))
        );
        // Without an outer packet there is no path to judge by.
        let plain = Evidence {
            outer_ip_len: 0,
            ..evidence(9000, 14, 8986)
        };
        assert_eq!(
            (plain.overhead(), judge(&plain, 1500).1),
            (None, Verdict::Whole)
        );
    }

    /// VXLAN-GPE with a bare IP packet: the Ethernet header in front is ours.
    #[test]
    fn a_header_that_was_added_was_never_on_the_wire() {
        let evidence = Evidence {
            added_len: 14,
            outer_ip_len: 1464 + 36,
            ..evidence(1478, 14, 1464)
        };
        assert_eq!(
            (evidence.arrived_len(), evidence.overhead()),
            (1464, Some(36))
        );
        let (lengths, verdict) = judge(&evidence, 1500);
        assert_eq!(
            (lengths.without(14).captured, verdict),
            (1464, Verdict::Whole)
        );
    }

    #[test]
    fn a_capture_cut_by_its_snap_length_is_truncated_even_without_ip() {
        let evidence = Evidence {
            captured_len: 30,
            carried_len: 42,
            not_recorded: 12,
            ..Evidence::default()
        };
        assert_eq!(evidence.arrived_len(), 42);
        assert_eq!(
            judge(&evidence, 1500),
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
                ..Evidence::default()
            };
            evidence.ip_bytes(judge(&evidence, 1500).0)
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
                ..Evidence::default()
            };
            let (lengths, verdict) = judge(&evidence, 1500);
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
            not_recorded: 6,
            outer_ip_len: 96,
            ..evidence(54, 14, 40)
        };
        let (lengths, verdict) = judge(&evidence, 1500);
        assert_eq!((lengths.orig, verdict), (60, Verdict::Whole));
        assert_eq!(evidence.overhead(), Some(50));
    }

    #[test]
    fn all_ones_are_no_length_unless_so_much_came() {
        assert_eq!(believed(65_535, 38), 0);
        assert_eq!(believed(65_575, 38), 0);
        assert_eq!(believed(65_535, 65_535), 65_535);
        assert_eq!(believed(65_534, 38), 65_534);
        assert_eq!(believed(1500, 82), 1500);
        assert_eq!(believed(0, 82), 0);
    }

    #[test]
    fn header_arithmetic() {
        assert_eq!(max_inner_frame(1500, false), 1464);
        assert_eq!(max_inner_frame(1500, true), 1444);
        assert_eq!(max_inner_frame(9001, false), 8965);
        assert_eq!(max_inner_frame(10, false), 0);
    }
}
