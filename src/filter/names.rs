//! Words of filter expressions: keywords, and names that stand for numbers.

use crate::wire::numbers::{ether_type, protocol, tcp_flag};

/// Words that begin a term or are a part of one.
const KEYWORDS: &[&str] = &[
    "ether",
    "ip",
    "ip6",
    "arp",
    "rarp",
    "tcp",
    "udp",
    "sctp",
    "icmp",
    "icmp6",
    "igmp",
    "pim",
    "vrrp",
    "ah",
    "esp",
    "src",
    "dst",
    "host",
    "net",
    "mask",
    "port",
    "portrange",
    "proto",
    "broadcast",
    "multicast",
    "less",
    "greater",
    "len",
    "vlan",
    "vni",
    "source",
    "truncated",
    "inbound",
    "outbound",
    "and",
    "or",
    "not",
];

/// Words of tcpdump that are not understood here, and what to do instead.
const LEFT_OUT: &[(&str, &str)] = &[
    ("gateway", "write 'ether host MAC and not host ADDRESS'"),
    ("protochain", "'proto' looks behind extension headers"),
    (
        "mpls",
        "write 'ether proto 0x8847'; IP behind labels is found without it",
    ),
    (
        "pppoes",
        "write 'ether proto 0x8864'; IP behind PPPoE is found without it",
    ),
    ("pppoed", "write 'ether proto 0x8863'"),
    ("geneve", "--geneve-port removes the tunnel"),
    ("vxlan", "for the mirror's own tunnel write 'vni N'"),
    ("ifname", "for the mirror source write 'source ADDRESS'"),
];

/// Names of ports that are the same for TCP and UDP (<https://www.iana.org/assignments/service-names-port-numbers>).
const PORTS: &[(&str, u16)] = &[
    ("ftp-data", 20),
    ("ftp", 21),
    ("ssh", 22),
    ("telnet", 23),
    ("smtp", 25),
    ("domain", 53),
    ("bootps", 67),
    ("bootpc", 68),
    ("tftp", 69),
    ("http", 80),
    ("kerberos", 88),
    ("pop3", 110),
    ("sunrpc", 111),
    ("ntp", 123),
    ("imap2", 143),
    ("imap", 143),
    ("snmp", 161),
    ("snmp-trap", 162),
    ("bgp", 179),
    ("ldap", 389),
    ("https", 443),
    ("microsoft-ds", 445),
    ("isakmp", 500),
    ("syslog", 514),
    ("submission", 587),
    ("ldaps", 636),
    ("domain-s", 853),
    ("imaps", 993),
    ("pop3s", 995),
    ("nfs", 2049),
    ("mysql", 3306),
    ("ms-wbt-server", 3389),
    ("ipsec-nat-t", 4500),
    ("sip", 5060),
    ("sips", 5061),
    ("mdns", 5353),
    ("postgresql", 5432),
    ("amqp", 5672),
    ("redis", 6379),
    ("http-alt", 8080),
];

const PROTOCOLS: &[(&str, u8)] = &[
    ("icmp", protocol::ICMP),
    ("igmp", 2),
    ("ipencap", protocol::IPV4),
    ("tcp", protocol::TCP),
    ("igrp", 9),
    ("udp", protocol::UDP),
    ("ipv6", protocol::IPV6),
    ("gre", protocol::GRE),
    ("esp", protocol::ESP),
    ("ah", protocol::AUTHENTICATION),
    ("icmp6", protocol::ICMPV6),
    ("ipv6-icmp", protocol::ICMPV6),
    ("ospf", protocol::OSPF),
    ("pim", protocol::PIM),
    ("vrrp", protocol::VRRP),
    ("l2tp", protocol::L2TP),
    ("sctp", protocol::SCTP),
];

const ETHER_TYPES: &[(&str, u16)] = &[
    ("ip", ether_type::IPV4),
    ("ip6", ether_type::IPV6),
    ("arp", ether_type::ARP),
    ("rarp", ether_type::RARP),
    ("atalk", ether_type::APPLETALK),
    ("aarp", ether_type::AARP),
    ("lldp", ether_type::LLDP),
];

const CONSTANTS: &[(&str, u16)] = &[
    ("tcp-fin", tcp_flag::FIN),
    ("tcp-syn", tcp_flag::SYN),
    ("tcp-rst", tcp_flag::RST),
    ("tcp-push", tcp_flag::PSH),
    ("tcp-ack", tcp_flag::ACK),
    ("tcp-urg", tcp_flag::URG),
    ("tcp-ece", tcp_flag::ECE),
    ("tcp-cwr", tcp_flag::CWR),
    ("icmp-echoreply", 0),
    ("icmp-unreach", 3),
    ("icmp-sourcequench", 4),
    ("icmp-redirect", 5),
    ("icmp-echo", 8),
    ("icmp-routeradvert", 9),
    ("icmp-routersolicit", 10),
    ("icmp-timxceed", 11),
    ("icmp-paramprob", 12),
    ("icmp-tstamp", 13),
    ("icmp-tstampreply", 14),
    ("icmp-ireq", 15),
    ("icmp-ireqreply", 16),
    ("icmp-maskreq", 17),
    ("icmp-maskreply", 18),
    ("icmp6-destinationunreach", 1),
    ("icmp6-packettoobig", 2),
    ("icmp6-timeexceeded", 3),
    ("icmp6-parameterproblem", 4),
    ("icmp6-echo", 128),
    ("icmp6-echoreply", 129),
    ("icmp6-routersolicit", 133),
    ("icmp6-routeradvert", 134),
    ("icmp6-neighborsolicit", 135),
    ("icmp6-neighboradvert", 136),
    ("icmp6-redirect", 137),
];

fn find<N: Copy>(names: &[(&str, N)], name: &str) -> Option<N> {
    let found = names.iter().find(|(known, _)| *known == name);
    found.map(|(_, number)| *number)
}

pub(super) fn port(name: &str) -> Option<u16> {
    find(PORTS, name)
}

pub(super) fn protocol(name: &str) -> Option<u8> {
    find(PROTOCOLS, name)
}

pub(super) fn ether_type(name: &str) -> Option<u16> {
    find(ETHER_TYPES, name)
}

/// Flags of TCP, types of ICMP.
pub(super) fn constant(name: &str) -> Option<u32> {
    find(CONSTANTS, name).map(u32::from)
}

pub(super) fn is_keyword(word: &str) -> bool {
    KEYWORDS.contains(&word)
}

/// What to write in place of a word of tcpdump that is not understood.
pub(super) fn instead_of(word: &str) -> Option<&'static str> {
    find(LEFT_OUT, word)
}

/// The keyword that somebody may have meant: not more than two letters away, and one where the word is short.
pub(super) fn nearest_keyword(word: &str) -> Option<&'static str> {
    let most = if word.len() <= 3 { 1 } else { 2 };
    let near = KEYWORDS.iter().map(|known| (distance(word, known), *known));
    let nearest = near.min_by_key(|(distance, _)| *distance);
    nearest
        .filter(|(distance, _)| *distance <= most)
        .map(|(_, known)| known)
}

/// Letters to change, add, leave out or swap with the next one, to make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(32).collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (at, letter) in a.iter().enumerate() {
        let mut next = vec![at + 1];
        for (column, other) in b.iter().enumerate() {
            let cell = |row: &[usize], at: usize| row.get(at).copied().unwrap_or(usize::MAX / 2);
            let mut best = cell(&row, column) + usize::from(letter != other);
            best = best
                .min(cell(&row, column + 1) + 1)
                .min(cell(&next, column) + 1);
            let is_swapped = at > 0
                && column > 0
                && a.get(at - 1) == Some(other)
                && b.get(column - 1) == Some(letter);
            if is_swapped {
                best = best.min(cell(&before, column - 1) + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or_default()
}
