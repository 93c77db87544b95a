//! By what a flow or an address is found again in an index: numbers of 32 bits that are the same in every run.
//!
//! That of a flow is the beginning of its community id's digest, so that it can be looked up by that name too. Flows
//! that have no such id, because their packets show no ports, get one as a protocol without ports has it.

use std::hash::BuildHasher;
use std::net::IpAddr;

use prefetch_index::prefetch_index;

use super::community_id::{Tuple, digest};
use super::key::{FlowKey, Ports, Way};
use crate::wire::ip::Address;
use crate::wire::numbers::protocol;

/// Lines of memory in which keys are remembered, as a power of two.
const LINES_BITS: u32 = 12;
/// Flows that share a line. One each would have every fourth packet of 10,000 flows compute a digest, because two of
/// them drive each other out.
const WAYS: usize = 5;
/// Bytes of memory that [`Keys`] takes.
pub const MEMORY_BYTES: usize = (1 << LINES_BITS) * size_of::<Line>();

/// The community id's digest of a flow, as far as its packets show what it is made of.
pub fn flow_digest(key: &FlowKey) -> [u8; 20] {
    let [(src, src_field), (dst, dst_field)] = key.ends(Way::AToB);
    let ports = match key.ports() {
        Ports::Transport | Ports::IcmpPair | Ports::IcmpOneWay => Some((src_field, dst_field)),
        Ports::None | Ports::LaterFragment => None,
    };
    digest(
        0,
        &Tuple {
            src,
            dst,
            protocol: key.protocol().unwrap_or_default(),
            ports,
        },
    )
}

/// Whether others would compute the same community id: a packet that was cut before its ports does not tell it.
pub fn has_community_id(key: &FlowKey) -> bool {
    let wants_ports = matches!(
        key.protocol(),
        Some(protocol::ICMP | protocol::TCP | protocol::UDP | protocol::ICMPV6 | protocol::SCTP)
    );
    match key.ports() {
        Ports::LaterFragment => false,
        Ports::None => key.protocol().is_some() && !wants_ports,
        Ports::Transport | Ports::IcmpPair | Ports::IcmpOneWay => key.protocol().is_some(),
    }
}

/// By what a flow is found: the beginning of a digest.
pub const fn of_digest(digest: &[u8; 20]) -> u32 {
    let [a, b, c, d, ..] = *digest;
    u32::from_be_bytes([a, b, c, d])
}

/// By what an address is found.
pub fn of_address(address: IpAddr) -> u32 {
    of_words(&Address::from(address))
}

/// As [`of_address`].
#[inline]
pub fn of_words(address: &Address) -> u32 {
    let [high, low] = address.words;
    let mut mixed = high ^ low.rotate_left(29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (mixed >> 32) as u32
}

/// Keys of flows, of which those seen lately are remembered: a digest takes longer than all else that is done with a
/// packet.
pub struct Keys {
    hasher: foldhash::fast::RandomState,
    lines: Box<[Line]>,
}

/// Flows that are remembered in the same place: what is looked at for a packet is one line of the cache.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Line {
    /// Hashes of whole flow keys, seeded: nobody outside can make two that are equal. 0 where there is none.
    tags: [u64; WAYS],
    keys: [u32; WAYS],
    /// Which one makes room.
    oldest: u32,
}

/// Where the key of a flow is remembered, if it is.
#[derive(Clone, Copy, Debug)]
pub struct Tag(u64);

impl Tag {
    const fn line(self) -> usize {
        (self.0 >> (64 - LINES_BITS)) as usize
    }
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            hasher: foldhash::fast::RandomState::default(),
            lines: vec![Line::default(); 1 << LINES_BITS].into_boxed_slice(),
        }
    }
}

impl Keys {
    /// Has the processor fetch what [`Self::of`] will look at: between the packets of a flow, all others push it out of
    /// the nearer caches.
    #[inline]
    pub fn expect(&self, key: &FlowKey) -> Tag {
        // No tag is 0.
        let tag = Tag(self.hasher.hash_one(key) | 1);
        prefetch_index(&self.lines, tag.line());
        tag
    }

    /// By what the flow with this `tag` is found.
    #[inline]
    pub fn of(&mut self, key: &FlowKey, tag: Tag) -> u32 {
        let Some(line) = self.lines.get_mut(tag.line()) else {
            return of_digest(&flow_digest(key));
        };
        match line.find(tag) {
            Some(known) => known,
            None => line.learn(key, tag),
        }
    }
}

impl Line {
    #[inline]
    fn find(&self, tag: Tag) -> Option<u32> {
        let mut known = self.tags.iter().zip(self.keys);
        known.find_map(|(of, key)| (*of == tag.0).then_some(key))
    }

    #[inline(never)]
    fn learn(&mut self, key: &FlowKey, tag: Tag) -> u32 {
        let key = of_digest(&flow_digest(key));
        let at = self.oldest as usize % WAYS;
        if let (Some(of), Some(known)) = (self.tags.get_mut(at), self.keys.get_mut(at)) {
            (*of, *known) = (tag.0, key);
        }
        self.oldest = (at as u32 + 1) % WAYS as u32;
        key
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::flow::community_id::community_id;
    use crate::mirror::session::SessionId;
    use crate::wire::Vni;
    use crate::wire::inner::Inner;

    fn frame(protocol: u8, src: [u8; 4], dst: [u8; 4], l4: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0, 0x45, 0, 0, 20 + l4.len() as u8]);
        frame.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
        frame.extend(src.into_iter().chain(dst));
        frame.extend(l4);
        frame
    }

    proptest! {
        /// Both directions, in whichever session: the digest is that of the community id.
        #[test]
        fn a_flow_is_found_by_its_community_id(
            src in any::<[u8; 4]>(),
            dst in any::<[u8; 4]>(),
            ports in any::<[u8; 4]>(),
            kind in prop::sample::select(&[1_u8, 6, 17, 132][..]),
            session in any::<u32>(),
        ) {
            let [a, b, c, d] = ports;
            let fields = match kind {
                1 => (u16::from(a), u16::from(b)),
                _ => (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
            };
            let inner = Inner::read(&frame(kind, src, dst, &ports));
            let (key, _) = FlowKey::of(SessionId(session), Vni::new(7), &inner).unwrap();
            let tuple = Tuple { src: src.into(), dst: dst.into(), protocol: kind, ports: Some(fields) };
            let id = community_id(0, &tuple).to_string();
            let digest = crate::flow::community_id::parse(&id).unwrap();
            prop_assert_eq!(flow_digest(&key), digest);
            prop_assert!(has_community_id(&key));
            let mut keys = Keys::default();
            for _ in 0..2 {
                let tag = keys.expect(&key);
                prop_assert_eq!(keys.of(&key, tag), of_digest(&digest));
            }
        }
    }

    /// More flows than are remembered, each twice in a row and again later: what a line forgot is computed anew.
    #[test]
    fn flows_that_drive_each_other_out_keep_their_keys() {
        assert_eq!(size_of::<Line>(), 64);
        let flows = (3 * WAYS) << LINES_BITS;
        let mut keys = Keys::default();
        let (mut remembered, mut asked) = (0, 0);
        for round in 0..2 {
            for n in (0..flows as u32).step_by(1 + 10 * round) {
                let [_, a, b, c] = n.to_be_bytes();
                let inner = Inner::read(&frame(6, [10, a, b, c], [10, 0, 0, 2], &[0, 9, 0, 7]));
                let (key, _) = FlowKey::of(SessionId(0), None, &inner).unwrap();
                let digest = of_digest(&flow_digest(&key));
                for _ in 0..2 {
                    let tag = keys.expect(&key);
                    remembered += usize::from(keys.lines[tag.line()].find(tag).is_some());
                    asked += 1;
                    assert_eq!(keys.of(&key, tag), digest);
                }
            }
        }
        // Every second time at least.
        assert!(remembered >= asked / 2, "{remembered} of {asked}");
    }

    #[test]
    fn ten_thousand_flows_are_remembered() {
        let mut keys = Keys::default();
        let key = |n: u32| {
            let [_, a, b, c] = n.to_be_bytes();
            let inner = Inner::read(&frame(6, [10, a, b, c], [10, 0, 0, 2], &[0, 9, 0, 7]));
            FlowKey::of(SessionId(0), None, &inner).unwrap().0
        };
        let mut forgotten = 0;
        for round in 0..3 {
            for n in 0..10_000 {
                let key = key(n);
                let tag = keys.expect(&key);
                if round > 0 && keys.lines[tag.line()].find(tag).is_none() {
                    forgotten += 1;
                }
                keys.of(&key, tag);
            }
        }
        // In turn is the worst order: all of a line that has too many are forgotten.
        assert!(forgotten < 20_000 / 6, "{forgotten} of 20000");
    }

    #[test]
    fn packets_without_ports_have_a_key_and_no_id() {
        let inner = Inner::read(&frame(6, [10, 0, 0, 1], [10, 0, 0, 2], &[0, 9]));
        let (key, _) = FlowKey::of(SessionId(0), None, &inner).unwrap();
        assert!(!has_community_id(&key));
        assert_ne!(flow_digest(&key), [0; 20]);
    }

    #[test]
    fn addresses_are_found_by_either_form() {
        for address in ["10.0.0.1", "255.255.255.255", "2001:db8::1", "::"] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(of_address(address), of_words(&Address::from(address)));
        }
        let keys: std::collections::BTreeSet<u32> = (0..10_000_u32)
            .map(|n| of_address(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into()))
            .collect();
        assert_eq!(keys.len(), 10_000);
    }
}
