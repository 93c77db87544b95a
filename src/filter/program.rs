//! An expression as a flat program: steps that each ask one question and say where to go on.

use super::Packet;
use super::expression::{Ends, Expression, Field, Over, Term, Version};
use crate::mirror::direction::Direction;
use crate::mirror::networks::Network;
use crate::wire::inner::{Inner, InnerIp, Transport};
use crate::wire::ip::Address;
use crate::wire::numbers::{ether_type, protocol};

/// The packet is wanted.
const ACCEPT: u16 = u16::MAX;
/// It is not.
const REJECT: u16 = u16::MAX - 1;
/// Where ARP has the addresses of sender and target (RFC 826), for IPv4 over Ethernet.
const ARP_ADDRESSES: [usize; 2] = [14, 24];

/// One question.
#[derive(Clone, Debug)]
struct Step {
    term: Term,
    /// The next step where it holds, and where it does not: one of lower number, or a verdict.
    yes: u16,
    no: u16,
}

/// The steps, the last one first: so each leads to those before it, and there is no loop.
#[derive(Clone, Debug, Default)]
pub(super) struct Program {
    steps: Vec<Step>,
    first: u16,
}

impl Program {
    pub fn of(expression: &Expression) -> Self {
        let mut program = Self::default();
        program.first = program.add(expression, ACCEPT, REJECT);
        program
    }

    /// Adds the steps of an expression that goes on at `yes` or `no`; the number of its first one.
    fn add(&mut self, expression: &Expression, yes: u16, no: u16) -> u16 {
        match expression {
            Expression::Term(term) => {
                let term = term.clone();
                self.steps.push(Step { term, yes, no });
                // The parser allows 1,024 terms.
                u16::try_from(self.steps.len() - 1).unwrap_or(REJECT)
            }
            Expression::Not(inner) => self.add(inner, no, yes),
            Expression::All(parts) => parts
                .iter()
                .rev()
                .fold(yes, |next, part| self.add(part, next, no)),
            Expression::Any(parts) => parts
                .iter()
                .rev()
                .fold(no, |next, part| self.add(part, yes, next)),
        }
    }

    #[inline]
    pub fn matches(&self, packet: &Packet<'_>) -> bool {
        let mut at = self.first;
        while let Some(step) = self.steps.get(usize::from(at)) {
            at = if step.term.holds(packet) {
                step.yes
            } else {
                step.no
            };
        }
        at == ACCEPT
    }
}

impl Term {
    /// Whether it holds for a packet. What was cut holds for nothing.
    #[inline]
    fn holds(&self, packet: &Packet<'_>) -> bool {
        let inner = packet.inner;
        let ip = inner.ip.as_ref();
        match self {
            Self::Net(over, ends, network) => match ip {
                Some(ip) => {
                    matches!(over, Over::Any | Over::Ip)
                        && either(*ends, *network, [ip.header.src, ip.header.dst])
                }
                None => *over != Over::Ip && is_in_arp(packet, *over, *ends, *network),
            },
            Self::Port(number, ends, first, last) => {
                let Some(ip) = ip else { return false };
                let Transport::Ports { src, dst, .. } = ip.transport else {
                    return false;
                };
                let range = *first..=*last;
                number.is_none_or(|number| number == ip.header.protocol)
                    && ends.hold(|| range.contains(&src), || range.contains(&dst))
            }
            Self::Protocol(version, number) => ip.is_some_and(|ip| {
                version.is_none_or(|version| is_version(ip, version))
                    && (ip.header.protocol == *number
                        || first_protocol(packet.frame, ip) == Some(*number))
            }),
            Self::Ip(version) => match ip {
                Some(ip) => is_version(ip, *version),
                // Its header is cut.
                None => match version {
                    Version::V4 => inner.ether_type == ether_type::IPV4,
                    Version::V6 => inner.ether_type == ether_type::IPV6,
                },
            },
            Self::Vni(list) => packet.mirror.is_some_and(|(_, vni)| list.contains(vni)),
            Self::Source(network) => packet
                .mirror
                .is_some_and(|(source, _)| network.contains(source)),
            Self::Truncated => packet.is_truncated,
            Self::Inbound => packet.direction == Direction::Inbound,
            Self::Outbound => packet.direction == Direction::Outbound,
            Self::Vlan(tag, id) => {
                let found = if *tag == 0 {
                    inner.vlan
                } else {
                    inner.vlan_inner
                };
                found.is_some_and(|found| id.is_none_or(|id| id == found))
            }
            Self::Mac(ends, mac) => ends.hold(
                || inner.src_mac == Some(*mac),
                || inner.dst_mac == Some(*mac),
            ),
            Self::Broadcast => inner.dst_mac == Some([0xff; 6]),
            Self::Multicast => inner.dst_mac.is_some_and(|[first, ..]| first & 1 != 0),
            Self::IpMulticast(version) => ip.is_some_and(|ip| {
                let [high, _] = ip.header.dst.words;
                is_version(ip, *version)
                    && match version {
                        Version::V4 => high >> 56 >= 224,
                        Version::V6 => high >> 56 == 0xff,
                    }
            }),
            Self::EtherType(number) => {
                inner.ether_type == *number || type_at(packet.frame, 12) == Some(*number)
            }
            Self::Length(relation, len) => relation.holds(packet.orig_len, *len),
            Self::Field(field, mask, relation, value) => ip
                .and_then(|ip| number_in(ip, *field))
                .is_some_and(|number| relation.holds(number & mask, *value)),
        }
    }
}

fn either(ends: Ends, network: Network, [src, dst]: [Address; 2]) -> bool {
    ends.hold(|| network.contains(src), || network.contains(dst))
}

const fn is_version(ip: &InnerIp, version: Version) -> bool {
    ip.header.src.ipv6 == matches!(version, Version::V6)
}

/// The protocol that the fixed header names: where extension headers follow, the first of them.
fn first_protocol(frame: &[u8], ip: &InnerIp) -> Option<u8> {
    let at = if ip.header.src.ipv6 { 6 } else { 9 };
    let place = usize::try_from(ip.offset).ok()?.checked_add(at)?;
    frame.get(place).copied()
}

fn type_at(frame: &[u8], at: usize) -> Option<u16> {
    let bytes = frame.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*bytes))
}

/// Whether a frame is ARP or RARP with such addresses, behind up to two VLAN tags.
#[cold]
fn is_in_arp(packet: &Packet<'_>, over: Over, ends: Ends, network: Network) -> bool {
    let Inner {
        vlan,
        vlan_inner,
        ether_type,
        ..
    } = packet.inner;
    let is_meant = match over {
        Over::Any => matches!(*ether_type, ether_type::ARP | ether_type::RARP),
        Over::Arp => *ether_type == ether_type::ARP,
        Over::Rarp => *ether_type == ether_type::RARP,
        Over::Ip => false,
    };
    let at = 14 + 4 * (usize::from(vlan.is_some()) + usize::from(vlan_inner.is_some()));
    if !is_meant || type_at(packet.frame, at - 2) != Some(*ether_type) {
        return false;
    }
    let has = |place: usize| {
        let bytes = packet.frame.get(at + place..);
        let bytes = bytes.and_then(<[u8]>::first_chunk::<4>);
        let address = bytes.map(|bytes| Address::from(std::net::IpAddr::from(*bytes)));
        address.is_some_and(|address| network.contains(address))
    };
    let [sender, target] = ARP_ADDRESSES;
    ends.hold(|| has(sender), || has(target))
}

fn number_in(ip: &InnerIp, field: Field) -> Option<u32> {
    let wanted = match field {
        Field::TcpFlags => protocol::TCP,
        Field::IcmpType | Field::IcmpCode => protocol::ICMP,
        Field::Icmp6Type | Field::Icmp6Code => protocol::ICMPV6,
    };
    let is_other = match field {
        Field::TcpFlags => false,
        Field::IcmpType | Field::IcmpCode => ip.header.src.ipv6,
        Field::Icmp6Type | Field::Icmp6Code => !ip.header.src.ipv6,
    };
    if ip.header.protocol != wanted || is_other {
        return None;
    }
    match (field, ip.transport) {
        (Field::TcpFlags, Transport::Ports { tcp: Some(tcp), .. }) => {
            Some(u32::from(tcp.flags & 0xff))
        }
        (Field::IcmpType | Field::Icmp6Type, Transport::Icmp { kind, .. }) => Some(kind.into()),
        (Field::IcmpCode | Field::Icmp6Code, Transport::Icmp { code, .. }) => Some(code.into()),
        _ => None,
    }
}
