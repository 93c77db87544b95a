//! Synthetic mirrored traffic: many flows, both directions, every inner packet a valid one.
//!
//! In goes a description; out come UDP payloads, VXLAN header and inner frame, one after the other and
//! the same in every run. No clock, no socket, no randomness but the seed's. All headers are prepared in
//! [`Generator::new`]; afterwards nothing is allocated, a datagram costs a copy and a few sums.
//!
//! A flow is TCP or UDP, half of each, between a client and port 9 of a server (discard, RFC 863: no
//! dissector looks for meaning in its payload). The traffic goes in rounds: in each, every flow sends once, in
//! an order that changes from round to round; even rounds go from client to server, odd ones back. So
//! [`Traffic::flows`] datagrams show every flow, and twice as many both of its directions.

use crate::send::encapsulate::{FIRST_SOURCE_PORT, encapsulate, source_port};
use crate::wire::Vni;
use crate::wire::numbers::protocol::{TCP, UDP};
use crate::wire::vxlan::HEADER_LEN;

/// Shortest frame that can be asked for: Ethernet's least, without FCS.
pub const MIN_FRAME_LEN: u16 = 60;
/// Longest frame that can be asked for: what one UDP datagram over IPv4 holds behind a VXLAN header.
pub const MAX_FRAME_LEN: u16 = 65_507 - HEADER_LEN as u16;

/// IMIX frame lengths in bytes, at 7:4:1.
const IMIX: [u16; 12] = [64, 64, 64, 64, 64, 64, 64, 570, 570, 570, 570, 1400];
/// Bytes of the number each inner payload starts with.
const NUMBER_LEN: usize = 8;
/// The longest headers with the number behind them (VXLAN, Ethernet, 802.1Q, IPv6, TCP: 94 bytes), rounded up.
const HEAD_LEN: usize = 96;
const SERVER_PORT: u16 = 9;
const FIRST_CLIENT_PORT: u16 = 49_152;
const TTL: u8 = 64;

/// What to generate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Inner flows, at least 1.
    pub flows: u32,
    /// How many of a hundred flows are IPv6.
    pub ipv6_percent: u8,
    /// How many of a hundred flows carry an 802.1Q tag.
    pub vlan_percent: u8,
    /// Lengths of inner frames.
    pub frame_size: FrameSize,
    /// The first network identifier.
    pub vni: Vni,
    /// Consecutive network identifiers, at least 1; each flow belongs to one.
    pub vnis: u32,
    /// Outer source ports to choose from, at least 1.
    pub source_ports: u16,
    /// Another seed gives other addresses, ports, lengths and another order.
    pub seed: u64,
}

/// Lengths of inner frames, from the destination MAC on and without FCS. A frame too short for its
/// headers and its number gets just the room they need, 82 bytes at most, with an 802.1Q tag 86.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameSize {
    /// 64, 570 and 1400 bytes at 7:4:1.
    Imix,
    /// Any length from the first to the second, all equally likely.
    Between(u16, u16),
}

/// One datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generated<'a> {
    /// VXLAN header and inner frame.
    pub payload: &'a [u8],
    /// Which of [`Traffic::source_ports`] it leaves from, counted from 0: a hash of the inner addresses and
    /// ports of this direction, so that the two directions of a flow may differ, as in clouds.
    pub source_port: u16,
}

/// Makes datagrams.
pub struct Generator {
    flows: Vec<Flow>,
    frame_size: FrameSize,
    random: Random,
    /// The datagram being made: a head, and behind it the filler that stays for all.
    buffer: Vec<u8>,
    /// For each length, the sum of the 16-bit words that long a piece of filler has.
    filler_sums: Vec<u32>,
    /// Datagrams made so far, which is the next one's number.
    made: u64,
    round: Round,
}

/// A way through all flows.
struct Round {
    /// The next flow.
    at: u32,
    /// Distance to the one after it; has no divisor in common with the number of flows.
    step: u32,
    /// Flows still to come in this round.
    left: u32,
    /// 0: from clients, 1: from servers.
    direction: usize,
}

struct Flow {
    /// The first bytes of a datagram of each direction: headers with everything that stays, and filler.
    heads: [[u8; HEAD_LEN]; 2],
    source_ports: [u16; 2],
    /// TCP sequence numbers the two sides go on with.
    next_sequence: [u32; 2],
    /// Sums of all that stays in the IPv4 header; and in the pseudo header and the transport header. Both
    /// directions have the same: source and destination only change places.
    ip_sum: u32,
    transport_sum: u32,
    is_ipv6: bool,
    is_tcp: bool,
    /// Offsets from the VXLAN header on.
    ip_at: usize,
    transport_at: usize,
    number_at: usize,
}

impl Generator {
    /// Prepares the headers of every flow: about 250 bytes a flow.
    pub fn new(traffic: &Traffic) -> Self {
        let mut random = Random(traffic.seed);
        let (_, longest) = traffic.frame_size.bounds();
        let mut buffer = vec![0; HEAD_LEN.max(HEADER_LEN + usize::from(longest))];
        buffer.fill_with(|| random.next() as u8);
        let flows = traffic.flows.max(1);
        let is_ipv6 = random.choose(flows, traffic.ipv6_percent);
        let has_tag = random.choose(flows, traffic.vlan_percent);
        let is_tcp = random.choose(flows, 50);
        let kinds = is_ipv6.into_iter().zip(has_tag).zip(is_tcp);
        let flows = (0..flows)
            .zip(kinds)
            .map(|(number, ((is_ipv6, has_tag), is_tcp))| {
                let kind = Kind {
                    is_ipv6,
                    has_tag,
                    is_tcp,
                };
                Flow::new(number, kind, traffic, &buffer, &mut random)
            })
            .collect();
        Self {
            flows,
            frame_size: traffic.frame_size,
            random,
            filler_sums: running_sums(&buffer),
            buffer,
            made: 0,
            round: Round {
                at: 0,
                step: 0,
                left: 0,
                // The first round turns it.
                direction: 1,
            },
        }
    }

    /// Most bytes [`Generated::payload`] will have.
    pub fn longest_payload(&self) -> usize {
        self.buffer.len()
    }

    /// Makes the next datagram.
    pub fn next_datagram(&mut self) -> Generated<'_> {
        let number = self.made;
        self.made += 1;
        let (at, direction) = self.round.next(self.flows.len() as u32, &mut self.random);
        let wanted = HEADER_LEN + usize::from(self.frame_size.draw(&mut self.random));
        let flow = self.flows.get_mut(at as usize);
        let head = self.buffer.first_chunk_mut::<HEAD_LEN>();
        let (Some(flow), Some(head)) = (flow, head) else {
            // Neither happens: there is a flow at every number of a round, and room for a head.
            return Generated {
                payload: &[],
                source_port: 0,
            };
        };
        let filler_at = flow.number_at + NUMBER_LEN;
        let len = wanted.max(filler_at);
        let sum_to = |end: usize| self.filler_sums.get(end).copied().unwrap_or_default();
        let filler_sum = sum_to(len).wrapping_sub(sum_to(filler_at));
        let source_port = flow.fill(head, direction, len, number, filler_sum);
        Generated {
            payload: self.buffer.get(..len).unwrap_or_default(),
            source_port,
        }
    }
}

impl Round {
    /// Number and direction of the next flow of `flows`.
    fn next(&mut self, flows: u32, random: &mut Random) -> (u32, usize) {
        if self.left == 0 {
            self.left = flows;
            self.direction ^= 1;
            self.at = random.below(flows);
            loop {
                self.step = 1 + random.below(flows);
                if greatest_common_divisor(self.step, flows) == 1 {
                    break;
                }
            }
        }
        self.left -= 1;
        let at = self.at;
        // Below 2^33: no overflow on the way.
        self.at = ((u64::from(at) + u64::from(self.step)) % u64::from(flows)) as u32;
        (at, self.direction)
    }
}

impl FrameSize {
    /// Shortest and longest, before headers ask for more.
    const fn bounds(self) -> (u16, u16) {
        match self {
            Self::Imix => (64, 1400),
            Self::Between(shortest, longest) => (shortest, longest),
        }
    }

    fn draw(self, random: &mut Random) -> u16 {
        match self {
            Self::Imix => {
                let at = random.below(IMIX.len() as u32) as usize;
                IMIX.get(at).copied().unwrap_or(64)
            }
            Self::Between(shortest, longest) => {
                let span = u32::from(longest.saturating_sub(shortest)) + 1;
                shortest + random.below(span) as u16
            }
        }
    }
}

/// What a flow is made of.
struct Kind {
    is_ipv6: bool,
    has_tag: bool,
    is_tcp: bool,
}

/// One end of a flow.
#[derive(Clone, Copy)]
struct End {
    mac: [u8; 6],
    /// As the header has it: 4 bytes of 16 for IPv4.
    ip: [u8; 16],
    ip_len: usize,
    port: u16,
}

impl End {
    fn ip(&self) -> &[u8] {
        self.ip.get(..self.ip_len).unwrap_or(&self.ip)
    }
}

impl Flow {
    /// `filler` stands behind the headers.
    fn new(number: u32, kind: Kind, traffic: &Traffic, filler: &[u8], random: &mut Random) -> Self {
        let [client, server] = ends(number, kind.is_ipv6, random);
        let ip_at = HEADER_LEN + 14 + if kind.has_tag { 4 } else { 0 };
        let transport_at = ip_at + if kind.is_ipv6 { 40 } else { 20 };
        let number_at = transport_at + if kind.is_tcp { 20 } else { 8 };
        let vni = traffic.vni.as_u32() + number % traffic.vnis.max(1);
        let vni = Vni::new(vni).unwrap_or(Vni::MAX);
        let vlan = kind.has_tag.then_some(1 + (number % 4094) as u16);
        let heads = [(client, server), (server, client)].map(|(from, to)| {
            let mut head = encapsulate(vni, &headers(&kind, vlan, &from, &to));
            head.extend_from_slice(filler.get(head.len()..).unwrap_or_default());
            head.resize(HEAD_LEN, 0);
            head
        });
        let source_ports = heads.each_ref().map(|head| {
            let hash = source_port(head.get(HEADER_LEN..).unwrap_or_default());
            (hash - FIRST_SOURCE_PORT) % traffic.source_ports.max(1)
        });
        // Everything that changes is still zero, so it has no part in the sums.
        let [head, _] = &heads;
        let sum = |range| sum_of_words(head.get(range).unwrap_or_default());
        let addresses_at = transport_at - 2 * client.ip_len;
        Self {
            ip_sum: sum(ip_at..transport_at),
            transport_sum: u32::from(kind.protocol())
                + sum(addresses_at..transport_at)
                + sum(transport_at..number_at),
            heads: heads.map(|head| head.first_chunk().copied().unwrap_or([0; HEAD_LEN])),
            source_ports,
            next_sequence: [random.next() as u32, random.next() as u32],
            is_ipv6: kind.is_ipv6,
            is_tcp: kind.is_tcp,
            ip_at,
            transport_at,
            number_at,
        }
    }

    /// Makes `head` the first bytes of a datagram of `len`, and tells its source port. `filler_sum` is that
    /// of the bytes behind the number.
    fn fill(
        &mut self,
        head: &mut [u8; HEAD_LEN],
        direction: usize,
        len: usize,
        number: u64,
        filler_sum: u32,
    ) -> u16 {
        let (own, other) = (direction & 1, (direction & 1) ^ 1);
        let [ours, theirs] = [own, other].map(|side| self.next_sequence.get(side).copied());
        if let Some(prepared) = self.heads.get(own) {
            *head = *prepared;
        }
        put(head, self.number_at, &number.to_be_bytes());
        // At most 65535: a frame is no longer than MAX_FRAME_LEN.
        let ip_len = (len - self.ip_at) as u16;
        let segment_len = (len - self.transport_at) as u16;
        if self.is_ipv6 {
            put(head, self.ip_at + 4, &segment_len.to_be_bytes());
        } else {
            // An identification for each packet, so that no two are equal in their headers.
            let id = number as u16;
            put(head, self.ip_at + 2, &ip_len.to_be_bytes());
            put(head, self.ip_at + 4, &id.to_be_bytes());
            let sum = self.ip_sum + u32::from(ip_len) + u32::from(id);
            put(head, self.ip_at + 10, &(!fold(sum)).to_be_bytes());
        }
        let sum = u32::from(fold(filler_sum)) + self.transport_sum + u32::from(segment_len);
        let sum = sum + halves(number as u32) + halves((number >> 32) as u32);
        if self.is_tcp {
            let (sequence, acknowledged) = (ours.unwrap_or(0), theirs.unwrap_or(0));
            put(head, self.transport_at + 4, &sequence.to_be_bytes());
            put(head, self.transport_at + 8, &acknowledged.to_be_bytes());
            let sum = sum + halves(sequence) + halves(acknowledged);
            put(head, self.transport_at + 16, &(!fold(sum)).to_be_bytes());
            let carried = (len - self.number_at) as u32;
            if let Some(next) = self.next_sequence.get_mut(own) {
                *next = next.wrapping_add(carried);
            }
        } else {
            put(head, self.transport_at + 4, &segment_len.to_be_bytes());
            // The length stands in the pseudo header too. A sum of zero is sent as all ones (RFC 768).
            let checksum = match !fold(sum + u32::from(segment_len)) {
                0 => 0xffff,
                checksum => checksum,
            };
            put(head, self.transport_at + 6, &checksum.to_be_bytes());
        }
        self.source_ports.get(own).copied().unwrap_or(0)
    }
}

impl Kind {
    const fn protocol(&self) -> u8 {
        if self.is_tcp { TCP } else { UDP }
    }
}

/// Client and server of a flow. The client's address is the flow's number, so no two flows are alike.
fn ends(number: u32, is_ipv6: bool, random: &mut Random) -> [End; 2] {
    let client_ip = 0x0a00_0001 + number;
    let server_ip = 0xac10_0000 | random.below(1 << 20);
    let client_port = FIRST_CLIENT_PORT + random.below(1 << 14) as u16;
    let [_, n2, n1, n0] = number.to_be_bytes();
    [(client_ip, client_port, 0), (server_ip, SERVER_PORT, 1)].map(|(ip4, port, side)| {
        let mut ip = [0; 16];
        let ip_len = if is_ipv6 {
            // 2001:db8:0:SIDE::IPV4
            put(&mut ip, 0, &[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, side]);
            put(&mut ip, 12, &ip4.to_be_bytes());
            16
        } else {
            put(&mut ip, 0, &ip4.to_be_bytes());
            4
        };
        End {
            mac: [0x02, 0, side, n2, n1, n0],
            ip,
            ip_len,
            port,
        }
    })
}

/// Ethernet, IP and transport header, with zero for all that changes from packet to packet.
fn headers(kind: &Kind, vlan: Option<u16>, from: &End, to: &End) -> Vec<u8> {
    let mut bytes = [to.mac, from.mac].concat();
    if let Some(vlan) = vlan {
        bytes.extend([0x81, 0x00]);
        bytes.extend(vlan.to_be_bytes());
    }
    if kind.is_ipv6 {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, kind.protocol(), TTL]);
    } else {
        // DF set.
        bytes.extend([0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0x40, 0]);
        bytes.extend([TTL, kind.protocol(), 0, 0]);
    }
    bytes.extend(from.ip());
    bytes.extend(to.ip());
    bytes.extend(from.port.to_be_bytes());
    bytes.extend(to.port.to_be_bytes());
    if kind.is_tcp {
        // Sequence numbers; 20 bytes of header, ACK and PSH; window, checksum, no urgent data.
        bytes.extend([0; 8]);
        bytes.extend([0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
    } else {
        bytes.extend([0; 4]);
    }
    bytes
}

/// Overwrites the bytes at `at`.
fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    let place = bytes
        .get_mut(at..)
        .and_then(|rest| rest.get_mut(..value.len()));
    debug_assert!(place.is_some(), "{at} is outside");
    if let Some(place) = place {
        place.copy_from_slice(value);
    }
}

/// The 16-bit words of a number, added up.
const fn halves(number: u32) -> u32 {
    (number >> 16) + (number & 0xffff)
}

/// The 16-bit words of `bytes` added up, for the internet checksum (RFC 1071).
fn sum_of_words(bytes: &[u8]) -> u32 {
    running_sums(bytes).last().copied().unwrap_or_default()
}

/// For each length, the sum of the 16-bit words in that many first bytes; an odd last byte is the high half
/// of its word. Below 2^32 for 65535 bytes.
fn running_sums(bytes: &[u8]) -> Vec<u32> {
    let mut sum = 0u32;
    let mut sums = vec![0];
    sums.extend(bytes.iter().enumerate().map(|(at, byte)| {
        sum += u32::from(*byte) << if at % 2 == 0 { 8 } else { 0 };
        sum
    }));
    sums
}

/// The one's complement sum of both halves.
const fn fold(sum: u32) -> u16 {
    halves(halves(sum)) as u16
}

const fn greatest_common_divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// SplitMix64 (Steele, Lea and Flood 2014): small, and every seed is a good one.
struct Random(u64);

impl Random {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to below `bound`; the bias is beneath 2^-32 of `bound`.
    const fn below(&mut self, bound: u32) -> u32 {
        (((self.next() >> 32) * bound as u64) >> 32) as u32
    }

    /// Marks `percent` of a hundred among `number`, to the nearest whole one, in a random order.
    fn choose(&mut self, number: u32, percent: u8) -> Vec<bool> {
        let chosen = (u64::from(number) * u64::from(percent) + 50) / 100;
        let mut marks: Vec<bool> = (0..u64::from(number)).map(|at| at < chosen).collect();
        for last in (1..number).rev() {
            marks.swap(last as usize, self.below(last + 1) as usize);
        }
        marks
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::IpAddr;

    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::*;
    use crate::wire::inner::{Inner, Transport};
    use crate::wire::vxlan;

    const TRAFFIC: Traffic = Traffic {
        flows: 200,
        ipv6_percent: 30,
        vlan_percent: 10,
        frame_size: FrameSize::Imix,
        vni: Vni::from_be_bytes([0, 0, 7]),
        vnis: 3,
        source_ports: 1,
        seed: 1,
    };

    /// `count` datagrams: source port and payload.
    fn made(traffic: &Traffic, count: usize) -> Vec<(u16, Vec<u8>)> {
        let mut generator = Generator::new(traffic);
        let longest = generator.longest_payload();
        (0..count)
            .map(|_| {
                let datagram = generator.next_datagram();
                assert!(datagram.payload.len() <= longest);
                (datagram.source_port, datagram.payload.to_vec())
            })
            .collect()
    }

    /// Network, tag, addresses and ports, protocol.
    type Read = (u32, Option<u16>, [(IpAddr, u16); 2], u8);

    /// What a datagram is, by the program's own readers.
    fn read(payload: &[u8]) -> Read {
        let vni = vxlan::parse(payload, false).unwrap().vni.as_u32();
        let inner = Inner::read(&payload[8..]);
        let ip = inner.ip.unwrap();
        assert_eq!(ip.offset + ip.header.declared_len, payload.len() as u32 - 8);
        let Transport::Ports { src, dst, .. } = ip.transport else {
            panic!("no ports");
        };
        let ends = [(ip.header.src.ip(), src), (ip.header.dst.ip(), dst)];
        (vni, inner.vlan, ends, ip.header.protocol)
    }

    /// Holds a frame against etherparse's strict reader and its checksums; returns the transport payload.
    fn assert_valid(frame: &[u8]) -> Vec<u8> {
        let sliced = SlicedPacket::from_ethernet(frame).unwrap();
        let transport = sliced.transport.unwrap();
        let (payload, carried, computed) = match (sliced.net.unwrap(), &transport) {
            (NetSlice::Ipv4(ip), transport) => {
                let header = ip.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                assert_eq!(
                    usize::from(header.total_len),
                    ip.header().slice().len() + ip.payload().payload.len()
                );
                match transport {
                    TransportSlice::Udp(udp) => (
                        udp.payload().to_vec(),
                        udp.checksum(),
                        udp.to_header()
                            .calc_checksum_ipv4(&header, udp.payload())
                            .unwrap(),
                    ),
                    TransportSlice::Tcp(tcp) => (
                        tcp.payload().to_vec(),
                        tcp.checksum(),
                        tcp.to_header()
                            .calc_checksum_ipv4(&header, tcp.payload())
                            .unwrap(),
                    ),
                    other => panic!("{other:?}"),
                }
            }
            (NetSlice::Ipv6(ip), transport) => {
                let header = ip.header().to_header();
                match transport {
                    TransportSlice::Udp(udp) => (
                        udp.payload().to_vec(),
                        udp.checksum(),
                        udp.to_header()
                            .calc_checksum_ipv6(&header, udp.payload())
                            .unwrap(),
                    ),
                    TransportSlice::Tcp(tcp) => (
                        tcp.payload().to_vec(),
                        tcp.checksum(),
                        tcp.to_header()
                            .calc_checksum_ipv6(&header, tcp.payload())
                            .unwrap(),
                    ),
                    other => panic!("{other:?}"),
                }
            }
            (other, _) => panic!("{other:?}"),
        };
        assert_eq!(carried, computed, "transport checksum");
        if let TransportSlice::Udp(udp) = transport {
            assert_ne!(carried, 0, "UDP without a checksum");
            assert_eq!(usize::from(udp.length()), 8 + payload.len());
        }
        payload
    }

    proptest! {
        #[test]
        fn every_frame_is_valid_and_numbered(
            ipv6_percent in 0u8..=100,
            vlan_percent in 0u8..=100,
            shortest in MIN_FRAME_LEN..1500,
            span in 0u16..1500,
            seed in any::<u64>(),
        ) {
            let frame_size = FrameSize::Between(shortest, shortest + span);
            let traffic = Traffic { flows: 20, ipv6_percent, vlan_percent, frame_size, seed, ..TRAFFIC };
            for (number, (_, payload)) in made(&traffic, 90).iter().enumerate() {
                let content = assert_valid(&payload[8..]);
                prop_assert_eq!(&content[..8], &(number as u64).to_be_bytes());
                let (vni, ..) = read(payload);
                prop_assert!((7..10).contains(&vni));
                let frame_len = payload.len() - 8;
                prop_assert!(frame_len >= usize::from(shortest));
                prop_assert!(frame_len <= usize::from(shortest + span).max(86));
            }
        }
    }

    #[test]
    fn numbers_above_32_bits_are_in_the_checksum() {
        let mut generator = Generator::new(&TRAFFIC);
        generator.made = 0xfedc_ba98_7654_3210;
        for _ in 0..50 {
            let frame = generator.next_datagram().payload[8..].to_vec();
            assert_eq!(assert_valid(&frame)[..4], [0xfe, 0xdc, 0xba, 0x98]);
        }
    }

    /// Zero means "no checksum" to UDP (RFC 768).
    #[test]
    fn a_udp_checksum_of_zero_is_sent_as_ones() {
        let traffic = Traffic {
            flows: 2,
            vlan_percent: 0,
            ..TRAFFIC
        };
        let udp_checksum = |first: u64, at: usize| {
            let mut generator = Generator::new(&traffic);
            generator.made = first;
            let payloads = [(); 2].map(|()| generator.next_datagram().payload.to_vec());
            let frame = &payloads[at][8..];
            assert_valid(frame);
            let sliced = SlicedPacket::from_ethernet(frame).unwrap();
            match sliced.transport {
                Some(TransportSlice::Udp(udp)) => Some(udp.checksum()),
                _ => None,
            }
        };
        // One of the two flows is UDP.
        let at = usize::from(udp_checksum(0, 0).is_none());
        let checksum = udp_checksum(0, at).unwrap();
        // A number larger by the checksum makes the sum all ones.
        assert_eq!(udp_checksum(u64::from(checksum), at), Some(0xffff));
        assert_eq!(udp_checksum(u64::from(checksum) - 1, at), Some(1));
    }

    #[test]
    fn the_longest_frames_are_valid() {
        let frame_size = FrameSize::Between(MAX_FRAME_LEN, MAX_FRAME_LEN);
        for (_, payload) in made(
            &Traffic {
                frame_size,
                ..TRAFFIC
            },
            20,
        ) {
            assert_eq!(payload.len(), 65_507);
            assert_valid(&payload[8..]);
        }
    }

    /// Every flow once a round, first from its client, then from its server.
    #[test]
    fn rounds_show_every_flow_both_ways() {
        for flows in [1, 2, 97, 200] {
            let datagrams = made(&Traffic { flows, ..TRAFFIC }, 4 * flows as usize);
            let ends = |round: usize| -> BTreeSet<_> {
                let one = datagrams.iter().skip(round * flows as usize);
                one.take(flows as usize)
                    .map(|(_, payload)| read(payload))
                    .collect()
            };
            let [forward, back] = [ends(0), ends(1)];
            assert_eq!(forward.len(), flows as usize);
            let turned: BTreeSet<_> = back
                .iter()
                .map(|(vni, vlan, [from, to], protocol)| (*vni, *vlan, [*to, *from], *protocol))
                .collect();
            assert_eq!(forward, turned);
            assert!(forward.iter().all(|(_, _, [_, server], _)| server.1 == 9));
            assert_eq!((ends(2), ends(3)), (forward, back));
        }
        let order = |round: usize| -> Vec<_> {
            let datagrams = made(&TRAFFIC, 600);
            let round = datagrams.iter().skip(round * 200).take(200);
            round.map(|(_, payload)| read(payload)).collect()
        };
        assert_ne!(order(0), order(2), "in another order each time");
    }

    #[test]
    fn shares_are_exact() {
        let traffic = Traffic {
            flows: 1000,
            ..TRAFFIC
        };
        let flows: Vec<_> = made(&traffic, 1000)
            .iter()
            .map(|(_, payload)| read(payload))
            .collect();
        let count = |is: &dyn Fn(&Read) -> bool| flows.iter().filter(|flow| is(flow)).count();
        assert_eq!(count(&|(.., [(ip, _), _], _)| ip.is_ipv6()), 300);
        assert_eq!(count(&|(_, vlan, ..)| vlan.is_some()), 100);
        assert_eq!(count(&|(.., protocol)| *protocol == TCP), 500);
        assert_eq!(count(&|(.., protocol)| *protocol == UDP), 500);
        assert_eq!(
            [7, 8, 9].map(|vni| count(&|flow| flow.0 == vni)),
            [334, 333, 333]
        );
        // The shares do not hang together: each kind has its part of the others.
        let both = count(&|(_, vlan, [(ip, _), _], _)| vlan.is_some() && ip.is_ipv6());
        assert!(
            (15..=45).contains(&both),
            "{both} of 100 tagged flows are IPv6"
        );
        let none = Traffic {
            ipv6_percent: 0,
            vlan_percent: 0,
            ..TRAFFIC
        };
        let all = Traffic {
            ipv6_percent: 100,
            vlan_percent: 100,
            ..TRAFFIC
        };
        for (traffic, expected) in [(none, false), (all, true)] {
            for (_, payload) in made(&traffic, 200) {
                let (_, vlan, [(ip, _), _], _) = read(&payload);
                assert_eq!((vlan.is_some(), ip.is_ipv6()), (expected, expected));
            }
        }
    }

    #[test]
    fn frame_lengths_are_those_asked_for() {
        let lens = |frame_size| -> BTreeMap<usize, usize> {
            // IPv4 UDP and TCP have room for their number in 64 bytes.
            let traffic = Traffic {
                ipv6_percent: 0,
                vlan_percent: 0,
                frame_size,
                ..TRAFFIC
            };
            let mut lens = BTreeMap::new();
            for (_, payload) in made(&traffic, 12_000) {
                *lens.entry(payload.len() - 8).or_default() += 1;
            }
            lens
        };
        let imix = lens(FrameSize::Imix);
        assert!(imix.keys().eq(&[64, 570, 1400]), "{imix:?}");
        // Three standard deviations: 164, 155, 91.
        for (len, expected, within) in [(64, 7000, 164), (570, 4000, 155), (1400, 1000, 91)] {
            assert!(imix[&len].abs_diff(expected) < within, "{imix:?}");
        }
        assert_eq!(lens(FrameSize::Between(512, 512)), [(512, 12_000)].into());
        let even = lens(FrameSize::Between(100, 103));
        assert!(even.keys().eq(&[100, 101, 102, 103]), "{even:?}");
        assert!(
            even.values().all(|count| count.abs_diff(3000) < 143),
            "{even:?}"
        );
    }

    #[test]
    fn short_frames_get_the_room_they_need() {
        let frame_size = FrameSize::Between(MIN_FRAME_LEN, MIN_FRAME_LEN);
        let traffic = Traffic {
            vlan_percent: 50,
            frame_size,
            ..TRAFFIC
        };
        let lens: BTreeSet<_> = made(&traffic, 400)
            .iter()
            .map(|(_, payload)| {
                let (_, vlan, [(ip, _), _], protocol) = read(payload);
                (
                    ip.is_ipv6(),
                    vlan.is_some(),
                    protocol == TCP,
                    payload.len() - 8,
                )
            })
            .collect();
        let expected = [
            (false, false, false, 60),
            (false, false, true, 62),
            (false, true, false, 60),
            (false, true, true, 66),
            (true, false, false, 70),
            (true, false, true, 82),
            (true, true, false, 74),
            (true, true, true, 86),
        ];
        assert!(lens.iter().eq(&expected), "{lens:?}");
    }

    /// What one side acknowledges is what the other has sent.
    #[test]
    fn tcp_numbers_go_on_without_a_gap() {
        let mut next = BTreeMap::new();
        let mut segments = 0;
        for (_, payload) in made(&TRAFFIC, 2000) {
            let sliced = SlicedPacket::from_ethernet(&payload[8..]).unwrap();
            let (_, _, [from, to], _) = read(&payload);
            if let Some(TransportSlice::Tcp(tcp)) = sliced.transport {
                let carried = tcp.payload().len() as u32;
                let sequence = tcp.sequence_number();
                let before = next.insert((from, to), sequence.wrapping_add(carried));
                assert!(before.is_none_or(|expected| expected == sequence));
                if let Some(sent) = next.get(&(to, from)) {
                    assert_eq!(tcp.acknowledgment_number(), *sent);
                }
                segments += 1;
            }
        }
        assert_eq!(segments, 1000);
    }

    #[test]
    fn a_seed_always_gives_the_same() {
        let first = made(&TRAFFIC, 1000);
        assert_eq!(first, made(&TRAFFIC, 1000));
        assert_ne!(first, made(&Traffic { seed: 2, ..TRAFFIC }, 1000));
    }

    #[test]
    fn a_direction_keeps_its_source_port() {
        assert!(made(&TRAFFIC, 400).iter().all(|(port, _)| *port == 0));
        let traffic = Traffic {
            source_ports: 16,
            ..TRAFFIC
        };
        let mut ports = BTreeMap::new();
        for (port, payload) in made(&traffic, 2000) {
            let (_, _, [from, to], protocol) = read(&payload);
            assert_eq!(port, (source_port(&payload[8..]) - FIRST_SOURCE_PORT) % 16);
            assert_eq!(*ports.entry((from, to, protocol)).or_insert(port), port);
        }
        let used: BTreeSet<_> = ports.values().collect();
        assert_eq!(used.len(), 16);
        let differ = |((from, to, protocol), port): &(&(_, _, u8), &u16)| {
            ports[&(*to, *from, *protocol)] != **port
        };
        assert!(
            ports.iter().filter(differ).count() > 300,
            "of 400, 375 expected"
        );
    }
}
