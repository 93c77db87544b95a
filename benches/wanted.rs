//! What it costs to ask whether a packet is wanted: `--allow` with 10,000 networks, `--filter`, and counting who is refused.
//!
//!     cargo bench --bench wanted
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark reads the clock and prints"
)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use vxtap::filter::{Filter, Packet};
use vxtap::mirror::direction::Direction;
use vxtap::mirror::networks::{Network, Networks};
use vxtap::mirror::refused::Refused;
use vxtap::wire::Vni;
use vxtap::wire::inner::Inner;
use vxtap::wire::ip::Address;

/// Measured so often; the fastest and the one in the middle are told.
const ROUNDS: usize = 21;
const NETWORKS: u32 = 10_000;
const ADDRESSES: u32 = 1 << 16;

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

fn measure<T>(name: &str, items: &[T], mut ask: impl FnMut(&T) -> bool) {
    let mut rounds = Vec::with_capacity(ROUNDS);
    let mut held = 0;
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        held = items.iter().filter(|item| ask(black_box(item))).count();
        rounds.push(begin.elapsed().as_secs_f64() * 1e9 / items.len() as f64);
    }
    rounds.sort_by(f64::total_cmp);
    let fastest = rounds.first().copied().unwrap_or_default();
    let middle = rounds.get(ROUNDS / 2).copied().unwrap_or_default();
    let all = items.len();
    println!("{middle:8.1} ({fastest:6.1})   {held:6} of {all:6}   {name}");
}

fn v4(random: &mut Random) -> Network {
    let prefix = 20 + random.below(13) as u8;
    let bits = (random.next() as u32) >> (32 - prefix) << (32 - prefix);
    Network::new(Ipv4Addr::from(bits).into(), prefix).unwrap()
}

fn v6(random: &mut Random) -> Network {
    let prefix = 32 + random.below(33) as u8;
    let bits = 0x2001 << 112 | u128::from(random.next()) << 48;
    let bits = bits >> (128 - prefix) << (128 - prefix);
    Network::new(Ipv6Addr::from(bits).into(), prefix).unwrap()
}

/// Ethernet, IPv4 from 10.0.0.0/16 to anywhere, TCP or UDP with ports below 2000.
fn frame(random: &mut Random) -> Vec<u8> {
    let number = random.next();
    let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0];
    let protocol = if number & 1 == 0 { 6 } else { 17 };
    frame.extend([0x45, 0, 0, 100, 0, 1, 0, 0, 64, protocol, 0, 0, 10, 0]);
    frame.extend((random.next() as u16).to_be_bytes());
    frame.extend((random.next() as u32).to_be_bytes());
    for _ in 0..2 {
        frame.extend((random.below(2000) as u16).to_be_bytes());
    }
    frame.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0, 9, 0, 0, 0, 0]);
    frame.resize(114, 0);
    frame
}

fn main() {
    let random = &mut Random(88_172_645_463_325_252);
    println!("ns each (fastest)    that hold");
    for (family, one) in [("IPv4", v4 as fn(&mut Random) -> Network), ("IPv6", v6)] {
        let given: Vec<Network> = (0..NETWORKS).map(|_| one(random)).collect();
        let networks: Networks = given.iter().copied().collect();
        let mut of_list = || {
            let at = random.below(NETWORKS.into()) as usize;
            given
                .get(at)
                .map(|network| Address::from(network.address()))
                .unwrap()
        };
        let sources: Vec<Address> = (0..ADDRESSES).map(|_| of_list()).collect();
        let name = format!("--allow, 10,000 networks of {family}, sources of them at random");
        measure(&name, &sources, |source| networks.contains(*source));
        let few: Vec<Address> = sources
            .iter()
            .take(20)
            .copied()
            .cycle()
            .take(sources.len())
            .collect();
        let name = format!("--allow, 10,000 networks of {family}, 20 sources in turn");
        measure(&name, &few, |source| networks.contains(*source));
        let strangers: Vec<Address> = (0..ADDRESSES)
            .map(|_| IpAddr::from((random.next() as u32).to_be_bytes()).into())
            .collect();
        let name = format!("--allow, 10,000 networks of {family}, made-up sources");
        measure(&name, &strangers, |source| networks.contains(*source));
    }
    let strangers: Vec<Address> = (0..ADDRESSES)
        .map(|_| IpAddr::from((random.next() as u32).to_be_bytes()).into())
        .collect();
    let mut refused = Refused::default();
    measure(
        "a refused packet counted, made-up sources",
        &strangers,
        |source| {
            refused.add(*source);
            true
        },
    );
    let frames: Vec<Vec<u8>> = (0..4096).map(|_| frame(random)).collect();
    let inners: Vec<Inner> = frames.iter().map(|frame| Inner::read(frame)).collect();
    let packets: Vec<Packet<'_>> = frames
        .iter()
        .zip(&inners)
        .map(|(frame, inner)| Packet {
            frame,
            inner,
            orig_len: 114,
            is_truncated: false,
            mirror: Vni::new(5).map(|vni| (IpAddr::from([10, 9, 9, 9]).into(), vni)),
            direction: Direction::Inbound,
        })
        .collect();
    for text in [
        "tcp",
        "tcp port 443",
        "host 10.0.1.1 or host 10.0.1.2 or net 192.168.0.0/16 or port 80 or port 443",
        "tcp and not port 22 and net 10.0.0.0/8 and vni 1-10 and greater 60",
        "not (host 10.0.0.1 and (tcp or icmp)) and source 10.9.0.0/16 and not truncated",
    ] {
        let filter: Filter = text.parse().unwrap();
        measure(text, &packets, |packet| filter.matches(packet));
    }
}
