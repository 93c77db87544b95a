//! The memory of a packet ring, read: one block of TPACKET_V3 in, its frames out (linux/if_packet.h,
//! net/packet/af_packet.c).
//!
//! Pure: a block is a slice of bytes, every offset in it is checked, so a test can make blocks and no
//! kernel can make this panic. Numbers are in the machine's byte order, as the kernel writes them.

/// Where the kernel says whose a block is.
pub const STATUS_AT: usize = 8;
/// In that place: the block is ours.
pub const STATUS_USER: u32 = 1;
const COUNT_AT: usize = 12;
const FIRST_AT: usize = 16;

/// Bytes of `struct tpacket3_hdr`, which `struct sockaddr_ll` follows.
const FRAME_HEADER_LEN: usize = 48;
/// `struct virtio_net_hdr`, right before the link-layer header.
const VIRTIO_LEN: usize = 10;
/// VIRTIO_NET_HDR_GSO_UDP_L4 of linux/virtio_net.h.
const GSO_UDP: u8 = 5;
/// VIRTIO_NET_HDR_GSO_ECN, a flag beside the type.
const GSO_ECN: u8 = 0x80;

/// Ethernet and loopback, which has the same header (linux/if_arp.h).
const HARDWARE_WITH_ETHERNET: [u16; 2] = [1, 772];

/// One packet of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Kernel time of arrival, nanoseconds since 1970.
    pub ts_ns: u64,
    /// From the link-layer header on, without the first VLAN tag: the kernel keeps that apart.
    pub bytes: &'a [u8],
    /// Bytes it had.
    pub wire_len: u32,
    /// It starts with an Ethernet header, not with IP.
    pub ethernet: bool,
    /// Several UDP datagrams with payloads of so many bytes, the last may be shorter, behind one set of
    /// headers: the card or the kernel put them together (GRO), or the sender never took them apart (GSO).
    pub udp_segment_len: Option<u16>,
}

/// A place in a block; survives from one call to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    at: usize,
    left: u32,
}

impl Walk {
    /// At the first frame of `block`.
    pub fn start(block: &[u8]) -> Self {
        Self {
            at: number(block, FIRST_AT).unwrap_or_default() as usize,
            left: number(block, COUNT_AT).unwrap_or_default(),
        }
    }

    /// Frames not taken yet.
    pub const fn left(&self) -> u32 {
        self.left
    }

    /// The next frame; `None` at the end, and where the block contradicts itself: then [`Self::left`]
    /// says how many frames could not be found.
    pub fn next<'a>(&mut self, block: &'a [u8]) -> Option<Frame<'a>> {
        if self.left == 0 {
            return None;
        }
        let header = block.get(self.at..)?;
        let next = number(header, 0)? as usize;
        let seconds = u64::from(number(header, 4)?);
        let nanoseconds = u64::from(number(header, 8)?);
        let captured_len = number(header, 12)? as usize;
        let wire_len = number(header, 16)?;
        let link_at = usize::from(short(header, 24)?);
        let hardware = short(header, FRAME_HEADER_LEN + 8)?;
        let bytes = header.get(link_at..)?.get(..captured_len)?;
        let virtio = header.get(link_at.checked_sub(VIRTIO_LEN)?..)?;
        let kind = *virtio.get(1)? & !GSO_ECN;
        let segment_len = short(virtio, 4)?;
        self.left -= 1;
        self.at += next;
        Some(Frame {
            ts_ns: seconds * 1_000_000_000 + nanoseconds,
            bytes,
            wire_len,
            ethernet: HARDWARE_WITH_ETHERNET.contains(&hardware),
            udp_segment_len: (kind == GSO_UDP && segment_len > 0).then_some(segment_len),
        })
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_ne_bytes(*bytes))
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_ne_bytes(*bytes))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Offset of a frame's link-layer header in the blocks made here.
    const LINK_AT: usize = 96;

    /// A block as the kernel fills it, with frames of these payloads.
    pub(crate) fn block(frames: &[&[u8]]) -> Vec<u8> {
        let mut block = vec![0; 48];
        block[STATUS_AT..][..4].copy_from_slice(&STATUS_USER.to_ne_bytes());
        block[COUNT_AT..][..4].copy_from_slice(&(frames.len() as u32).to_ne_bytes());
        block[FIRST_AT..][..4].copy_from_slice(&48u32.to_ne_bytes());
        for (at, payload) in frames.iter().enumerate() {
            let last = at + 1 == frames.len();
            let len = (LINK_AT + payload.len()).next_multiple_of(8);
            let mut header = vec![0; len];
            let next = if last { 0 } else { len as u32 };
            let words = [next, 7, at as u32, payload.len() as u32, 1500];
            for (chunk, word) in header.chunks_exact_mut(4).zip(words) {
                chunk.copy_from_slice(&word.to_ne_bytes());
            }
            header[24..26].copy_from_slice(&(LINK_AT as u16).to_ne_bytes());
            header[FRAME_HEADER_LEN + 8..][..2].copy_from_slice(&1u16.to_ne_bytes());
            header[LINK_AT..][..payload.len()].copy_from_slice(payload);
            block.extend(header);
        }
        block
    }

    #[test]
    fn every_frame_once() {
        let mut block = block(&[b"first", b"", b"the third"]);
        block[48 + LINK_AT - VIRTIO_LEN + 1] = GSO_UDP | GSO_ECN;
        block[48 + LINK_AT - VIRTIO_LEN + 4..][..2].copy_from_slice(&800u16.to_ne_bytes());
        let mut walk = Walk::start(&block);
        let mut seen = Vec::new();
        while let Some(frame) = walk.next(&block) {
            assert_eq!((frame.wire_len, frame.ethernet), (1500, true));
            seen.push((frame.ts_ns, frame.bytes, frame.udp_segment_len));
        }
        let expected: [(u64, &[u8], Option<u16>); 3] = [
            (7_000_000_000, b"first", Some(800)),
            (7_000_000_001, b"", None),
            (7_000_000_002, b"the third", None),
        ];
        assert_eq!(seen, expected);
        assert_eq!(walk.left(), 0);
    }

    #[test]
    fn a_block_that_ends_early_tells_what_is_missing() {
        let whole = block(&[b"first", b"second"]);
        for len in 0..whole.len() - 8 {
            let mut walk = Walk::start(&whole[..len]);
            let before = walk.left();
            let mut seen = 0;
            while walk.next(&whole[..len]).is_some() {
                seen += 1;
            }
            assert_eq!(walk.left(), before - seen, "{len} bytes");
            assert!(seen < 2, "{len} bytes");
        }
    }

    proptest! {
        /// No block makes the walk panic or go on for ever.
        #[test]
        fn any_block_has_an_end(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
            count in 0u32..9,
            places in proptest::collection::vec((0..96usize, 0u32..200), 0..6),
        ) {
            for (at, value) in places {
                if let Some(word) = bytes.get_mut(at * 4..at * 4 + 4) {
                    word.copy_from_slice(&value.to_ne_bytes());
                }
            }
            if let Some(word) = bytes.get_mut(COUNT_AT..COUNT_AT + 4) {
                word.copy_from_slice(&count.to_ne_bytes());
            }
            let mut walk = Walk::start(&bytes);
            let mut seen = 0;
            while walk.next(&bytes).is_some() {
                seen += 1;
            }
            prop_assert!(seen <= count);
        }
    }
}
