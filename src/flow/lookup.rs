//! By what a flow or an address is found again in an index: numbers of 32 bits that are the same in every run.
//!
//! That of a flow is the beginning of its community id's digest, so that it can be looked up by that name too. Flows
//! that have no such id, because their packets show no ports, get one as a protocol without ports has it.

use std::hash::BuildHasher;
use std::net::IpAddr;

use super::community_id::{Tuple, digest};
use super::key::{FlowKey, Ports, Way};
use crate::wire::ip::Address;
use crate::wire::numbers::protocol;

/// Flows whose key is remembered, as a power of two.
const SLOTS_BITS: u32 = 14;
/// Bytes of memory that [`Keys`] takes.
pub const MEMORY_BYTES: usize = (1 << SLOTS_BITS) * size_of::<Slot>();

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
    slots: Box<[Slot]>,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    /// Hash of the whole flow key, seeded: nobody outside can make two that are equal.
    tag: u64,
    key: u32,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            hasher: foldhash::fast::RandomState::default(),
            slots: vec![Slot::default(); 1 << SLOTS_BITS].into_boxed_slice(),
        }
    }
}

impl Keys {
    /// By what the flow is found.
    #[inline]
    pub fn of(&mut self, key: &FlowKey) -> u32 {
        // An empty slot has no tag.
        let tag = self.hasher.hash_one(key) | 1;
        match self.slots.get_mut((tag >> (64 - SLOTS_BITS)) as usize) {
            Some(slot) if slot.tag == tag => slot.key,
            Some(slot) => {
                let key = of_digest(&flow_digest(key));
                *slot = Slot { tag, key };
                key
            }
            None => of_digest(&flow_digest(key)),
        }
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
            prop_assert_eq!(keys.of(&key), of_digest(&digest));
            prop_assert_eq!(keys.of(&key), of_digest(&digest));
        }
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
