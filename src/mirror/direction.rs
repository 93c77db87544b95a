//! Which way a mirrored packet went at its mirror source.
//!
//! VXLAN does not say. Clouds send the copy from the mirror source's primary address, so an inner
//! packet from that address was outbound and one to it inbound. Secondary addresses, containers behind
//! the interface and NAT are told by hardware addresses ([`super::own_macs`]), or stay unknown.

use crate::wire::inner::Inner;
use crate::wire::ip::Address;

/// Direction at the mirror source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Received by the mirror source.
    Inbound,
    /// Sent by the mirror source.
    Outbound,
    /// Nothing tells.
    Unknown,
}

/// What tells a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// An inner IP address is that of the mirror source.
    Address,
    /// A hardware address was shown to be that of the mirror source's interface.
    Mac,
}

impl By {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Mac => "mac",
        }
    }
}

impl Direction {
    /// The word for it, where it is known.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::Inbound => Some("in"),
            Self::Outbound => Some("out"),
            Self::Unknown => None,
        }
    }

    /// From the outer source address and the inner packet.
    #[inline]
    pub fn of(source: Address, inner: &Inner) -> Self {
        let Some(ip) = inner.ip.as_ref().map(|ip| &ip.header) else {
            return Self::Unknown;
        };
        Self::by_ends(&source, &ip.src, &ip.dst)
    }

    /// Of packets from `src` to `dst`, one of which may be the mirror source's own.
    #[inline]
    pub fn by_ends<End: PartialEq>(own: &End, src: &End, dst: &End) -> Self {
        match (src == own, dst == own) {
            (true, false) => Self::Outbound,
            (false, true) => Self::Inbound,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    #[test]
    fn by_the_outer_source() {
        let mut frame = vec![0; 34];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        let inner = Inner::read(&frame);
        let from = |last| Direction::of(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)).into(), &inner);
        assert_eq!(
            (from(1), from(2), from(3)),
            (Direction::Outbound, Direction::Inbound, Direction::Unknown)
        );
        assert_eq!(
            Direction::of(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into(), &Inner::default()),
            Direction::Unknown
        );
    }
}
