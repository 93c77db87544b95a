//! A filter expression as a value, and as text that means the same.

use std::fmt;

use crate::mirror::allowed::VniList;
use crate::mirror::networks::Network;
use crate::wire::inner::Mac;

/// What is asked of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expression {
    /// One question.
    Term(Term),
    /// Not that.
    Not(Box<Self>),
    /// All of these, two at least, none of which is an `All`.
    All(Vec<Self>),
    /// One of these, two at least, none of which is an `Any`.
    Any(Vec<Self>),
}

/// Which of two ends a term is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    Src,
    Dst,
    /// One of the two.
    Either,
    Both,
}

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V4,
    V6,
}

/// Where an address is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// IP, ARP and RARP.
    Any,
    Ip,
    Arp,
    Rarp,
}

/// How two numbers compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    Equal,
    NotEqual,
    Below,
    AtMost,
    Above,
    AtLeast,
}

/// A number in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// The lower eight flags.
    TcpFlags,
    IcmpType,
    IcmpCode,
    Icmp6Type,
    Icmp6Code,
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Term {
    /// A hardware address.
    Mac(Ends, Mac),
    /// An EtherType, in front of VLAN tags or behind them.
    EtherType(u16),
    /// To all stations.
    Broadcast,
    /// To a group of stations.
    Multicast,
    /// To a group, by the IP address.
    IpMulticast(Version),
    /// IP of this version.
    Ip(Version),
    /// A protocol of IP.
    Protocol(Option<Version>, u8),
    /// An address in a network.
    Net(Over, Ends, Network),
    /// A port between these two, of TCP, UDP or SCTP, or of one of them.
    Port(Option<u8>, Ends, u16, u16),
    /// A VLAN tag: the outer one (0) or the one behind it (1), with this identifier or any.
    Vlan(u8, Option<u16>),
    /// Bytes of the frame at the mirror source.
    Length(Relation, u32),
    /// A number in the packet, with some of its bits.
    Field(Field, u32, Relation, u32),
    /// A VNI of the list.
    Vni(VniList),
    /// The mirror source's address in a network.
    Source(Network),
    /// It arrived cut.
    Truncated,
    /// Received by the mirror source.
    Inbound,
    /// Sent by the mirror source.
    Outbound,
}

impl Relation {
    pub const fn holds(self, left: u32, right: u32) -> bool {
        match self {
            Self::Equal => left == right,
            Self::NotEqual => left != right,
            Self::Below => left < right,
            Self::AtMost => left <= right,
            Self::Above => left > right,
            Self::AtLeast => left >= right,
        }
    }

    const fn sign(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Below => "<",
            Self::AtMost => "<=",
            Self::Above => ">",
            Self::AtLeast => ">=",
        }
    }
}

impl Ends {
    /// Whether the ends it is about hold, of which `src` and `dst` say whether they do.
    #[inline]
    pub fn hold(self, src: impl FnOnce() -> bool, dst: impl FnOnce() -> bool) -> bool {
        match self {
            Self::Src => src(),
            Self::Dst => dst(),
            Self::Either => src() || dst(),
            Self::Both => src() && dst(),
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Src => "src ",
            Self::Dst => "dst ",
            Self::Either => "",
            Self::Both => "src and dst ",
        }
    }
}

impl Field {
    const fn words(self) -> &'static str {
        match self {
            Self::TcpFlags => "tcp[tcpflags]",
            Self::IcmpType => "icmp[icmptype]",
            Self::IcmpCode => "icmp[icmpcode]",
            Self::Icmp6Type => "icmp6[icmp6type]",
            Self::Icmp6Code => "icmp6[icmp6code]",
        }
    }
}

const fn version_words(version: Version) -> &'static str {
    match version {
        Version::V4 => "ip",
        Version::V6 => "ip6",
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |f: &mut fmt::Formatter<'_>, part: &Self| match part {
            Self::All(_) | Self::Any(_) => write!(f, "({part})"),
            Self::Term(_) | Self::Not(_) => part.fmt(f),
        };
        let (parts, word) = match self {
            Self::Term(term) => return term.fmt(f),
            Self::Not(inner) => {
                f.write_str("not ")?;
                return part(f, inner);
            }
            Self::All(parts) => (parts, " and "),
            Self::Any(parts) => (parts, " or "),
        };
        for (at, one) in parts.iter().enumerate() {
            if at > 0 {
                f.write_str(word)?;
            }
            part(f, one)?;
        }
        Ok(())
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mac(ends, [a, b, c, d, e, g]) => {
                let ends = ends.words();
                write!(
                    f,
                    "ether {ends}host {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"
                )
            }
            Self::EtherType(number) => write!(f, "ether proto {number:#06x}"),
            Self::Broadcast => f.write_str("broadcast"),
            Self::Multicast => f.write_str("multicast"),
            Self::IpMulticast(version) => write!(f, "{} multicast", version_words(*version)),
            Self::Ip(version) => f.write_str(version_words(*version)),
            Self::Protocol(version, number) => {
                if let Some(version) = version {
                    write!(f, "{} ", version_words(*version))?;
                }
                write!(f, "proto {number}")
            }
            Self::Net(over, ends, network) => {
                let over = match (over, network.is_ipv6()) {
                    (Over::Any, _) => "",
                    (Over::Ip, false) => "ip ",
                    (Over::Ip, true) => "ip6 ",
                    (Over::Arp, _) => "arp ",
                    (Over::Rarp, _) => "rarp ",
                };
                let word = if network.is_one() { "host" } else { "net" };
                write!(f, "{over}{}{word} {network}", ends.words())
            }
            Self::Port(protocol, ends, first, last) => {
                match protocol {
                    Some(6) => f.write_str("tcp ")?,
                    Some(17) => f.write_str("udp ")?,
                    Some(_) => f.write_str("sctp ")?,
                    None => {}
                }
                f.write_str(ends.words())?;
                if first == last {
                    write!(f, "port {first}")
                } else {
                    write!(f, "portrange {first}-{last}")
                }
            }
            Self::Vlan(_, None) => f.write_str("vlan"),
            Self::Vlan(_, Some(id)) => write!(f, "vlan {id}"),
            Self::Length(relation, len) => write!(f, "len {} {len}", relation.sign()),
            Self::Field(field, mask, relation, value) => {
                let (words, sign) = (field.words(), relation.sign());
                if *mask == u32::MAX {
                    write!(f, "{words} {sign} {value}")
                } else {
                    write!(f, "{words} & {mask:#x} {sign} {value}")
                }
            }
            Self::Vni(list) => write!(f, "vni {list}"),
            Self::Source(network) => write!(f, "source {network}"),
            Self::Truncated => f.write_str("truncated"),
            Self::Inbound => f.write_str("inbound"),
            Self::Outbound => f.write_str("outbound"),
        }
    }
}
