//! Which packets of an interface were meant for us: a ring sees what a socket never would, other
//! machines' packets and those that are only forwarded here. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::wire::be16;
use crate::wire::numbers::{ether_type, protocol::UDP};

/// The addresses we receive for.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    wanted: Vec<SocketAddr>,
    /// Addresses of this machine: what `0.0.0.0` and `[::]` stand for.
    local: Vec<IpAddr>,
    /// The last destination that was ours; the next one is mostly the same.
    last: Option<(IpAddr, Option<u16>)>,
    /// The same as [`Plain`] tells it, if it does.
    last_plain: Option<Plain>,
}

/// Destination address and UDP port of the most common kind of packet: IPv4 without tags, options and pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plain([u8; 4], [u8; 2]);

impl Plain {
    #[inline]
    fn of(frame: &[u8], ethernet: bool) -> Option<Self> {
        let packet = if ethernet {
            let (link, packet) = frame.split_first_chunk::<14>()?;
            if link.last_chunk() != Some(&[0x08, 0x00]) {
                return None;
            }
            packet
        } else {
            frame
        };
        let [
            0x45,
            _,
            _,
            _,
            _,
            _,
            flags,
            offset,
            _,
            UDP,
            _,
            _,
            _,
            _,
            _,
            _,
            a,
            b,
            c,
            d,
            _,
            _,
            p,
            q,
        ] = *packet.first_chunk::<24>()?
        else {
            return None;
        };
        (flags & 0x3f == 0 && offset == 0).then_some(Self([a, b, c, d], [p, q]))
    }
}

impl Targets {
    /// For the addresses `wanted`, on a machine with the addresses `local`.
    pub const fn new(wanted: Vec<SocketAddr>, local: Vec<IpAddr>) -> Self {
        Self {
            wanted,
            local,
            last: None,
            last_plain: None,
        }
    }

    /// The addresses of this machine are now these.
    pub fn set_local(&mut self, local: Vec<IpAddr>) {
        (self.local, self.last, self.last_plain) = (local, None, None);
    }

    /// This address is one of this machine too.
    pub fn add_local(&mut self, ip: IpAddr) {
        self.local.push(ip);
    }

    /// Where a packet that is not ours would go to, if that were an address of this machine that we receive
    /// for. `None` when nothing could make it ours.
    pub fn in_question(&self, frame: &[u8], ethernet: bool) -> Option<IpAddr> {
        let (ip, port) = destination(frame, ethernet)?;
        let is_for = |wanted: &&SocketAddr| {
            wanted.ip().is_unspecified()
                && wanted.is_ipv4() == ip.is_ipv4()
                && port.is_none_or(|port| port == wanted.port())
        };
        let is_in_question = self.wanted.iter().any(|wanted| is_for(&wanted));
        (is_in_question && !self.local.contains(&ip)).then_some(ip)
    }

    /// Whether a packet is ours. One that shows no destination is: what is wrong with it is told later.
    #[inline]
    pub fn accept_frame(&mut self, frame: &[u8], ethernet: bool) -> bool {
        let plain = Plain::of(frame, ethernet);
        if plain.is_some() && plain == self.last_plain {
            return true;
        }
        let ours = destination(frame, ethernet).is_none_or(|(ip, port)| self.accept(ip, port));
        if ours {
            self.last_plain = plain;
        }
        ours
    }

    /// Whether a packet to `ip` is ours; `port` is `None` where the packet does not show it.
    fn accept(&mut self, ip: IpAddr, port: Option<u16>) -> bool {
        if self.last == Some((ip, port)) {
            return true;
        }
        let ours = self.wanted.iter().any(|wanted| {
            let address = match wanted.ip().is_unspecified() {
                true => wanted.is_ipv4() == ip.is_ipv4() && self.local.contains(&ip),
                false => wanted.ip() == ip,
            };
            address && port.is_none_or(|port| port == wanted.port())
        });
        if ours {
            self.last = Some((ip, port));
        }
        ours
    }
}

/// Where a packet goes: its destination address, and its UDP port where that stands at its usual place.
/// `None` when it is no IP packet or its header is cut.
fn destination(frame: &[u8], ethernet: bool) -> Option<(IpAddr, Option<u16>)> {
    let mut at = 0;
    if ethernet {
        at = 12;
        while ether_type::is_vlan(be16(frame, at)?) {
            at += 4;
        }
        at += 2;
    }
    let packet = frame.get(at..)?;
    let first = *packet.first()?;
    match first >> 4 {
        4 => {
            let octets = packet.get(16..)?.first_chunk::<4>()?;
            let later_piece = be16(packet, 6)? & 0x1fff != 0;
            let udp_at = usize::from(first & 0x0f) * 4;
            let port = be16(packet, udp_at + 2).filter(|_| !later_piece);
            Some((IpAddr::V4(Ipv4Addr::from(*octets)), port))
        }
        6 => {
            let octets = packet.get(24..)?.first_chunk::<16>()?;
            let udp = packet.get(6) == Some(&UDP);
            let port = be16(packet, 42).filter(|_| udp);
            Some((IpAddr::V6(Ipv6Addr::from(*octets)), port))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_and_ports() {
        let wanted = ["10.0.0.5:4789", "[::]:4790"].map(|one| one.parse().unwrap());
        let local = ["10.0.0.5", "10.0.0.6", "fd00::5"].map(|one| one.parse().unwrap());
        let mut targets = Targets::new(wanted.to_vec(), local.to_vec());
        let mut accept = |ip: &str, port| targets.accept(ip.parse().unwrap(), port);
        for _ in 0..2 {
            assert!(accept("10.0.0.5", Some(4789)));
            assert!(accept("10.0.0.5", None), "a piece without a port");
            assert!(!accept("10.0.0.6", Some(4789)), "ours, but not asked for");
            assert!(!accept("10.0.0.5", Some(4790)), "another address's port");
            assert!(accept("fd00::5", Some(4790)), "any of ours");
            assert!(!accept("fd00::6", Some(4790)), "another machine's");
        }
        targets.set_local(vec!["fd00::6".parse().unwrap()]);
        assert!(targets.accept("fd00::6".parse().unwrap(), Some(4790)));
        assert!(!targets.accept("fd00::5".parse().unwrap(), Some(4790)));
    }

    #[test]
    fn what_may_be_ours_is_asked_for() {
        let wanted = ["0.0.0.0:4789", "[fd00::5]:4789"].map(|one| one.parse().unwrap());
        let mut targets = Targets::new(wanted.to_vec(), vec!["10.0.0.5".parse().unwrap()]);
        let to = |ip: [u8; 4], port: u16| {
            let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 1, 1, 1, 1];
            packet.extend([&ip[..], &[0xc0, 0], &port.to_be_bytes()].concat());
            packet
        };
        let routed = to([10, 5, 0, 9], 4789);
        assert_eq!(
            targets.in_question(&routed, false),
            Some([10, 5, 0, 9].into())
        );
        assert!(!targets.accept_frame(&routed, false));
        targets.add_local([10, 5, 0, 9].into());
        assert!(targets.accept_frame(&routed, false));
        assert_eq!(targets.in_question(&routed, false), None, "it is ours");
        assert_eq!(
            targets.in_question(&to([10, 5, 0, 8], 4790), false),
            None,
            "another port"
        );
        let mut v6 = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
        v6.extend([[1; 16], [2; 16]].concat());
        v6.extend([0xc0, 0, 0x12, 0xb5]);
        assert_eq!(targets.in_question(&v6, false), None, "no wildcard of IPv6");
        assert_eq!(targets.in_question(&[], false), None);
    }

    #[test]
    fn destinations_of_frames() {
        let mut v4 = vec![0; 12];
        v4.extend([0x08, 0, 0x46, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0]);
        v4.extend([10, 0, 0, 1, 10, 0, 0, 2, 1, 1, 1, 1, 0xc0, 0, 0x12, 0xb5]);
        let to = (IpAddr::from([10, 0, 0, 2]), Some(4789));
        assert_eq!(destination(&v4, true), Some(to));
        assert_eq!(destination(&v4[14..], false), Some(to));
        let tagged = [&v4[..12], &[0x81, 0, 0, 5], &v4[12..]].concat();
        assert_eq!(destination(&tagged, true), Some(to));
        v4[21] = 1;
        assert_eq!(destination(&v4, true), Some((to.0, None)), "a later piece");
        for len in 0..v4.len() {
            assert_eq!(destination(&v4[..len], true).is_some(), len >= 34);
        }
        let mut v6 = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
        v6.extend([[1; 16], [2; 16]].concat());
        v6.extend([0xc0, 0, 0x12, 0xb5]);
        let to = IpAddr::from([2; 16]);
        assert_eq!(destination(&v6, false), Some((to, Some(4789))));
        v6[6] = 44;
        assert_eq!(destination(&v6, false), Some((to, None)));
    }

    proptest! {
        /// What was accepted before changes nothing for what comes next.
        #[test]
        fn memory_changes_no_answer(
            packets in proptest::collection::vec(
                (0usize..3, 0u8..2, 0u8..2, 0usize..6, 0usize..60), 1..100,
            ),
        ) {
            let wanted: Vec<SocketAddr> = vec!["10.0.0.2:4789".parse().unwrap()];
            let new = || Targets::new(wanted.clone(), Vec::new());
            let mut targets = new();
            for (link, host, port, edit, len) in packets {
                let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 1, 1, 1, 1];
                packet.extend([10, 0, 0, 2 + host, 0xc0, 0, 0x12, 0xb5 + port]);
                packet.extend([0; 30]);
                match edit {
                    0 => packet[0] = 0x46,
                    1 => packet[6] = 0x20,
                    2 => packet[7] = 1,
                    3 => packet[9] = 6,
                    _ => {}
                }
                packet.truncate(packet.len().saturating_sub(len / 2));
                let frame = match link {
                    0 => packet,
                    1 => [&[2; 12][..], &[8, 0], &packet].concat(),
                    _ => [&[2; 12][..], &[0x81, 0, 0, 5, 8, 0], &packet].concat(),
                };
                let ours = targets.accept_frame(&frame, link != 0);
                prop_assert_eq!(ours, new().accept_frame(&frame, link != 0), "{:?}", frame);
            }
        }
    }
}
