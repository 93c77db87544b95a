//! What names a flow: mirror session and inner 5-tuple, without direction.

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

/// Session and 5-tuple; the lower (address, port) pair stands first, so that both directions are equal.
/// One-way ICMP keeps its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowKey {
    session: u32,
    vni: u32,
    protocol: u8,
    ipv6: bool,
    ports: Ports,
    a: [u64; 2],
    b: [u64; 2],
    a_port: u16,
    b_port: u16,
}

/// Six words, which a hasher takes at a fraction of what the fields one by one cost.
impl Hash for FlowKey {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        for word in [self.a, self.b].as_flattened() {
            state.write_u64(*word);
        }
        state.write_u64((u64::from(self.session) << 32) | u64::from(self.vni));
        let ends = (u64::from(self.a_port) << 16) | u64::from(self.b_port);
        let kind = (u64::from(self.protocol) << 16)
            | (u64::from(self.ipv6) << 8)
            | u64::from(self.ports as u8);
        state.write_u64((ends << 32) | kind);
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
    #[inline]
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
        let key = Self {
            session: session.0,
            vni: vni.map_or(u32::MAX, Vni::as_u32),
            protocol: header.protocol,
            ipv6: header.version() == 6,
            ports,
            a,
            b,
            a_port,
            b_port,
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

    /// The network identifier; `None` for traffic that was never encapsulated.
    pub const fn vni(&self) -> Option<Vni> {
        Vni::new(self.vni)
    }

    /// IANA protocol number.
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// What the port fields mean.
    pub const fn ports(&self) -> Ports {
        self.ports
    }

    /// Source and destination, address and port field, of a packet that goes `way`.
    pub fn ends(&self, way: Way) -> [(IpAddr, u16); 2] {
        let address = |words| {
            let ipv6 = self.ipv6;
            Address { words, ipv6 }.ip()
        };
        let a = (address(self.a), self.a_port);
        let b = (address(self.b), self.b_port);
        if way == Way::AToB { [a, b] } else { [b, a] }
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
