//! What names a flow: mirror session, inner VLANs and inner 5-tuple, without direction.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use super::community_id::icmp_answer;
use crate::mirror::session::SessionId;
use crate::wire::Vni;
use crate::wire::inner::{Inner, InnerIp, Transport};
use crate::wire::ip::Address;
use crate::wire::numbers::protocol;

/// What the two port fields of a key mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Ports {
    /// Nothing: a protocol without ports, or a packet cut before them.
    None,
    /// TCP, UDP or SCTP ports.
    Transport,
    /// ICMP type and the type that answers it.
    IcmpPair,
    /// ICMP type and code of messages that nobody answers: such a flow has one direction.
    IcmpOneWay,
    /// Nothing, because these are later fragments: kept apart from flows that have no ports.
    LaterFragment,
}

/// Session, VLANs and 5-tuple; the lower (address, port) pair stands first, so that both directions are
/// equal. One-way ICMP keeps its direction. 48 bytes: with two times it fills a cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowKey {
    session: u32,
    /// VNI in the upper 24 bits, protocol in the lower 8.
    network: u32,
    /// [`Ports`] and the bits below in the upper byte, then the outer and the inner VLAN in 12 bits each.
    kind: u32,
    a: [u64; 2],
    b: [u64; 2],
    /// Port field of `a` in the upper half, of `b` in the lower.
    ports: u32,
}

/// In [`FlowKey::kind`]: addresses are of IPv6.
const IPV6: u32 = 1 << 31;
/// In [`FlowKey::kind`]: the protocol is not known.
const NO_PROTOCOL: u32 = 1 << 29;
/// In [`FlowKey::kind`]: the packet came in a tunnel, so there is a VNI.
const HAS_VNI: u32 = 1 << 30;
/// Where [`Ports`] stand in [`FlowKey::kind`].
const PORTS_AT: u32 = 24;

/// Six words, which a hasher takes at a fraction of what the fields one by one cost.
impl Hash for FlowKey {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        for word in [self.a, self.b].as_flattened() {
            state.write_u64(*word);
        }
        state.write_u64((u64::from(self.session) << 32) | u64::from(self.network));
        state.write_u64((u64::from(self.ports) << 32) | u64::from(self.kind));
    }
}

/// Which way a packet goes, seen from its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the first end of the key to the second.
    AToB,
    /// The other way.
    BToA,
}

impl Way {
    /// The other way.
    pub const fn reverse(self) -> Self {
        match self {
            Self::AToB => Self::BToA,
            Self::BToA => Self::AToB,
        }
    }
}

impl FlowKey {
    /// The key of a frame and the way it goes; `None` when the frame holds no IP header. `vni` keeps
    /// networks apart that share the session "other".
    #[inline(always)]
    pub fn of(session: SessionId, vni: Option<Vni>, inner: &Inner) -> Option<(Self, Way)> {
        let InnerIp {
            header, transport, ..
        } = inner.ip.as_ref()?;
        let (ports, src_port, dst_port) = match *transport {
            Transport::Ports { src, dst, .. } => (Ports::Transport, src, dst),
            Transport::Icmp { kind, code } => {
                match icmp_answer(kind, header.protocol == protocol::ICMPV6) {
                    Some(answer) => (Ports::IcmpPair, u16::from(kind), u16::from(answer)),
                    None => (Ports::IcmpOneWay, u16::from(kind), u16::from(code)),
                }
            }
            Transport::None if header.is_later_fragment() => (Ports::LaterFragment, 0, 0),
            Transport::None => (Ports::None, 0, 0),
        };
        let (src, dst) = (header.src.words, header.dst.words);
        let way = if (src, src_port) <= (dst, dst_port) || ports == Ports::IcmpOneWay {
            Way::AToB
        } else {
            Way::BToA
        };
        let (a, a_port, b, b_port) = match way {
            Way::AToB => (src, src_port, dst, dst_port),
            Way::BToA => (dst, dst_port, src, src_port),
        };
        let kind = (u32::from(ports as u8) << PORTS_AT)
            | if header.version() == 6 { IPV6 } else { 0 }
            | if vni.is_some() { HAS_VNI } else { 0 }
            | if header.transport().is_none() {
                NO_PROTOCOL
            } else {
                0
            };
        let key = Self {
            session: session.0,
            network: (vni.map_or(0, Vni::as_u32) << 8)
                | u32::from(header.transport().unwrap_or_default()),
            kind: kind | vlans(inner),
            a,
            b,
            ports: (u32::from(a_port) << 16) | u32::from(b_port),
        };
        Some((key, way))
    }

    /// The mirror session.
    pub const fn session(&self) -> SessionId {
        SessionId(self.session)
    }

    /// The same flow in a session of another number: workers number theirs for themselves.
    pub const fn in_session(self, session: SessionId) -> Self {
        Self {
            session: session.0,
            ..self
        }
    }

    /// The key without its session, whose number is another in every worker: for an order that all share.
    pub const fn without_session(self) -> Self {
        self.in_session(SessionId(0))
    }

    /// The network identifier; `None` for traffic that was never encapsulated.
    pub const fn vni(&self) -> Option<Vni> {
        if self.kind & HAS_VNI == 0 {
            None
        } else {
            Vni::new(self.network >> 8)
        }
    }

    /// The VLAN of the outer tag, and that of the next one. A tag with identifier 0 names no VLAN
    /// (IEEE 802.1Q §9.6: a priority tag) and is passed over.
    pub const fn vlans(&self) -> [Option<u16>; 2] {
        [vlan(self.kind >> 12), vlan(self.kind)]
    }

    /// IANA protocol number; `None` where packets were cut inside their extension headers.
    pub const fn protocol(&self) -> Option<u8> {
        if self.kind & NO_PROTOCOL == 0 {
            Some(self.network as u8)
        } else {
            None
        }
    }

    /// Whether its addresses are of IPv6.
    pub const fn is_ipv6(&self) -> bool {
        self.kind & IPV6 != 0
    }

    /// What the port fields mean.
    pub const fn ports(&self) -> Ports {
        match (self.kind >> PORTS_AT) & 7 {
            1 => Ports::Transport,
            2 => Ports::IcmpPair,
            3 => Ports::IcmpOneWay,
            4 => Ports::LaterFragment,
            _ => Ports::None,
        }
    }

    /// Source and destination, address and port field, of a packet that goes `way`.
    pub fn ends(&self, way: Way) -> [(IpAddr, u16); 2] {
        let address = |words| {
            let ipv6 = self.is_ipv6();
            Address { words, ipv6 }.ip()
        };
        let a = (address(self.a), (self.ports >> 16) as u16);
        let b = (address(self.b), self.ports as u16);
        if way == Way::AToB { [a, b] } else { [b, a] }
    }
}

/// The VLANs of a frame as a key keeps them: 12 bits each, 0 where there is none.
#[inline]
fn vlans(inner: &Inner) -> u32 {
    let Some(outer) = inner.vlan else {
        return 0;
    };
    match (outer, inner.vlan_inner.unwrap_or_default()) {
        (0, only) | (only, 0) => u32::from(only & 0x0fff) << 12,
        (outer, inner) => (u32::from(outer & 0x0fff) << 12) | u32::from(inner & 0x0fff),
    }
}

/// What twelve bits name.
const fn vlan(bits: u32) -> Option<u16> {
    match (bits & 0x0fff) as u16 {
        0 => None,
        id => Some(id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn frame(protocol: u8, src: u8, dst: u8, l4: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([
            0x08,
            0,
            0x45,
            0,
            0,
            20 + l4.len() as u8,
            0,
            0,
            0,
            0,
            64,
            protocol,
            0,
            0,
        ]);
        frame.extend([10, 0, 0, src, 10, 0, 0, dst]);
        frame.extend(l4);
        frame
    }

    fn key(frame: &[u8]) -> (FlowKey, Way) {
        FlowKey::of(SessionId(3), Vni::new(9), &Inner::read(frame)).unwrap()
    }

    #[test]
    fn both_directions_share_a_key() {
        let (forth, way) = key(&frame(6, 1, 2, &[0, 9, 0, 8]));
        let (back, way_back) = key(&frame(6, 2, 1, &[0, 8, 0, 9]));
        assert_eq!(forth, back);
        assert_eq!(way.reverse(), way_back);
        assert_eq!(
            forth.ends(way),
            [
                ("10.0.0.1".parse().unwrap(), 9),
                ("10.0.0.2".parse().unwrap(), 8)
            ]
        );
        assert_ne!(forth, key(&frame(17, 1, 2, &[0, 9, 0, 8])).0);
        assert_ne!(forth, key(&frame(6, 1, 2, &[0, 8, 0, 9])).0);
    }

    #[test]
    fn icmp_by_type_and_code() {
        let (request, _) = key(&frame(1, 1, 2, &[8, 0, 0, 0]));
        let (reply, _) = key(&frame(1, 2, 1, &[0, 0, 0, 0]));
        assert_eq!(request, reply);
        let (unreachable, _) = key(&frame(1, 1, 2, &[3, 1, 0, 0]));
        assert_eq!(unreachable.ports(), Ports::IcmpOneWay);
        assert_ne!(unreachable, key(&frame(1, 2, 1, &[3, 1, 0, 0])).0);
        assert_ne!(unreachable, key(&frame(1, 1, 2, &[3, 3, 0, 0])).0);
    }

    /// A frame with tags of these identifiers, of the three usual types in turn.
    fn tagged(frame: &[u8], identifiers: &[u16]) -> Vec<u8> {
        let mut tagged = frame[..12].to_vec();
        for (id, kind) in identifiers.iter().zip([0x88a8u16, 0x8100, 0x9100]) {
            tagged.extend(kind.to_be_bytes());
            // Priority and drop bits belong to the packet, not to the VLAN.
            tagged.extend((id | (frame[29] as u16) << 13).to_be_bytes());
        }
        tagged.extend(&frame[12..]);
        tagged
    }

    #[test]
    fn vlans_are_flows_of_their_own() {
        let (forth, back) = (frame(6, 1, 2, &[0, 9, 0, 8]), frame(6, 2, 1, &[0, 8, 0, 9]));
        let stacks: [&[u16]; 8] = [
            &[],
            &[10],
            &[20],
            &[10, 20],
            &[20, 10],
            &[10, 10],
            &[4095],
            &[1, 4094],
        ];
        let mut keys = Vec::new();
        for stack in stacks {
            let (one, other) = (key(&tagged(&forth, stack)).0, key(&tagged(&back, stack)).0);
            assert_eq!(one, other, "both directions of {stack:?}");
            assert!(!keys.contains(&one), "{stack:?} is another flow");
            let mut named = one.vlans().into_iter().flatten();
            assert!(named.by_ref().eq(stack.iter().copied()), "{stack:?}");
            assert_eq!(
                (one.ends(Way::AToB), one.vni()),
                (keys.first().unwrap_or(&one).ends(Way::AToB), Vni::new(9))
            );
            keys.push(one);
        }
    }

    /// What one side of a link tags with a priority, the other may not tag at all.
    #[test]
    fn a_priority_tag_names_no_vlan() {
        let plain = frame(17, 1, 2, &[0, 9, 0, 8]);
        assert_eq!(key(&tagged(&plain, &[0])).0, key(&plain).0);
        assert_eq!(
            key(&tagged(&plain, &[0, 7])).0,
            key(&tagged(&plain, &[7])).0
        );
        assert_eq!(
            key(&tagged(&plain, &[7, 0])).0,
            key(&tagged(&plain, &[7])).0
        );
    }

    #[test]
    fn a_key_leaves_room_for_two_times_in_its_cache_line() {
        assert_eq!(size_of::<FlowKey>(), 48);
    }

    #[test]
    fn packets_without_ports() {
        assert_eq!(
            key(&frame(46, 1, 2, &[])).0,
            key(&frame(46, 2, 1, &[1, 2, 3, 4])).0
        );
        assert_eq!(
            key(&frame(6, 1, 2, &[0, 9])).0.ports(),
            Ports::None,
            "cut inside the ports"
        );
        let mut later = frame(17, 1, 2, &[0, 9, 0, 8]);
        later[21] = 4;
        assert_eq!(key(&later).0.ports(), Ports::LaterFragment);
        assert!(FlowKey::of(SessionId(0), None, &Inner::default()).is_none());
    }
}
