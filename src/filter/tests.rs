//! Filter expressions: what they say of packets written by hand, how they are printed, which mistakes they tell.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::wire::numbers::tcp_flag;

fn filter(text: &str) -> Filter {
    text.parse()
        .unwrap_or_else(|mistake| panic!("{text}: {mistake}"))
}

fn mistake(text: &str) -> String {
    text.parse::<Filter>().unwrap_err().to_string()
}

/// Ethernet with these VLAN tags and this EtherType.
fn ethernet(tags: &[u16], ether_type: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1];
    for tag in tags {
        frame.extend([&[0x81, 0][..], &tag.to_be_bytes()].concat());
    }
    frame.extend(ether_type.to_be_bytes());
    frame
}

/// IPv4 from 10.1.2.3 to 192.0.2.7.
fn v4(tags: &[u16], protocol: u8, fragment: u16, l4: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(tags, 0x0800);
    frame.extend([0x45, 0, 0, 20 + l4.len() as u8, 0, 1]);
    frame.extend(fragment.to_be_bytes());
    frame.extend([64, protocol, 0, 0, 10, 1, 2, 3, 192, 0, 2, 7]);
    frame.extend(l4);
    frame
}

/// IPv6 from 2001:db8::1 to ff02::fb.
fn v6(next: u8, l4: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(&[], 0x86dd);
    frame.extend([0x60, 0, 0, 0, 0, l4.len() as u8, next, 64]);
    for address in ["2001:db8::1", "ff02::fb"] {
        let address: std::net::Ipv6Addr = address.parse().unwrap();
        frame.extend(address.octets());
    }
    frame.extend(l4);
    frame
}

fn tcp(src: u16, dst: u16, flags: u16) -> Vec<u8> {
    let mut header = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    header.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags as u8, 0, 9, 0, 0, 0, 0]);
    header
}

fn udp(src: u16, dst: u16) -> Vec<u8> {
    [&src.to_be_bytes()[..], &dst.to_be_bytes(), &[0, 8, 0, 0]].concat()
}

fn arp(tags: &[u16]) -> Vec<u8> {
    let mut frame = ethernet(tags, 0x0806);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 1, 2, 3]);
    frame.extend([0, 0, 0, 0, 0, 0, 10, 1, 2, 4]);
    frame
}

/// Asks about a frame that the mirror source 10.9.9.9 sent with VNI 5.
fn asked(text: &str, frame: &[u8]) -> bool {
    let inner = Inner::read(frame);
    let packet = Packet {
        frame,
        inner: &inner,
        orig_len: 100,
        is_truncated: frame.len() < 40,
        mirror: Some((
            "10.9.9.9".parse::<IpAddr>().unwrap().into(),
            Vni::new(5).unwrap(),
        )),
        direction: Direction::Inbound,
    };
    let matches = filter(text).matches(&packet);
    assert_eq!(filter(&format!("not ({text})")).matches(&packet), !matches);
    assert_eq!(
        filter(&format!("not not ({text})")).matches(&packet),
        matches
    );
    matches
}

#[track_caller]
fn check(frame: &[u8], yes: &[&str], no: &[&str]) {
    for text in yes {
        assert!(asked(text, frame), "{text}");
    }
    for text in no {
        assert!(!asked(text, frame), "{text}");
    }
}

#[test]
fn addresses_ports_and_protocols() {
    let frame = v4(&[], 6, 0, &tcp(51000, 443, tcp_flag::SYN));
    check(
        &frame,
        &[
            "host 10.1.2.3",
            "10.1.2.3",
            "src 10.1.2.3",
            "dst host 192.0.2.7",
            "ip host 192.0.2.7",
            "src or dst host 10.1.2.3",
            "net 10",
            "net 10.1",
            "net 10.1.0.0/16",
            "net 10.1/16",
            "net 192.0.2.0 mask 255.255.255.0",
            "src net 0/0",
            "ip",
            "tcp",
            "ip proto 6",
            "proto \\tcp",
            "proto tcp",
            "port 443",
            "port https",
            "tcp port 443",
            "dst port 443",
            "src portrange 51000-51010",
            "port 80 or 443",
            "port (80 or 443)",
            "tcp[tcpflags] & tcp-syn != 0",
            "tcp[13] == 2",
            "tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn",
            "tcp[tcpflags] == tcp-syn|0",
            "less 100",
            "greater 100",
            "len = 100",
            "ether host 02:00:00:00:00:01",
            "ether src 0200.0000.0001",
            "ether dst 2-0-0-0-0-9",
            "ether proto 0x0800",
            "ether proto \\ip",
            "vni 5",
            "vni 1,4-6",
            "vni 4 or 5",
            "source 10.9.0.0/16",
            "source 10.8.8.8 or 10.9.9.9",
            "inbound",
            // Equal precedence, from left to right.
            "port 443 or udp and tcp",
        ],
        &[
            "host 10.1.2.4",
            "dst 10.1.2.3",
            "src and dst net 10/8",
            "net 10.2",
            "ip6",
            "arp",
            "udp",
            "icmp",
            "ip6 proto 6",
            "udp port 443",
            "src port 443",
            "dst portrange 1-442",
            "tcp[tcpflags] & tcp-ack != 0",
            "icmp[icmptype] == 8",
            "less 99",
            "greater 101",
            "ether dst 02:00:00:00:00:01",
            "ether proto arp",
            "broadcast",
            "multicast",
            "ip multicast",
            "vlan",
            "vni 6",
            "source 10.1.2.3",
            "truncated",
            "outbound",
            "arp host 10.1.2.3",
            "tcp or port 443 and udp",
        ],
    );
    let frame = v6(17, &udp(5353, 5353));
    check(
        &frame,
        &[
            "ip6",
            "udp",
            "host 2001:db8::1",
            "net 2001:db8::/32",
            "dst net ff00::/8",
            "ip6 multicast",
            "udp port 5353 and ip6 host ff02::fb",
            "src and dst port 5353",
        ],
        &[
            "ip",
            "ip multicast",
            "net 0.0.0.0/0",
            "ip proto 17",
            "tcp",
            "host 2001:db8::2",
        ],
    );
    check(
        &v4(&[], 1, 0, &[8, 3, 0, 0]),
        &[
            "icmp",
            "icmp[icmptype] = icmp-echo",
            "icmp[1] > 2",
            "icmp[0] & 0x8 == 8",
        ],
        &["icmp6", "icmp6[0] == 8", "port 2051", "tcp[13] >= 0"],
    );
    check(
        &v6(58, &[135, 0, 0, 0]),
        &["icmp6", "icmp6[icmp6type] = icmp6-neighborsolicit"],
        &["icmp", "icmp[0] == 135"],
    );
}

#[test]
fn arp_has_addresses_too() {
    for tags in [&[][..], &[5], &[5, 6]] {
        check(
            &arp(tags),
            &[
                "arp",
                "host 10.1.2.3",
                "dst host 10.1.2.4",
                "arp src host 10.1.2.3",
                "arp net 10.1.2.0/24",
                "ether proto 0x0806",
            ],
            &[
                "ip host 10.1.2.3",
                "rarp host 10.1.2.3",
                "src 10.1.2.4",
                "ip",
                "host ::1",
                "rarp",
            ],
        );
    }
    check(&arp(&[])[..30], &["arp"], &["host 10.1.2.3"]);
}

/// IP is found behind tags; `vlan` asks for the next tag only behind `and`.
#[test]
fn vlan_tags() {
    let two = v4(&[5, 6], 17, 0, &udp(53, 1000));
    check(
        &two,
        &[
            "vlan",
            "vlan 5",
            "vlan 5 and vlan 6",
            "vlan and vlan",
            "vlan 5 or vlan 6",
            "host 10.1.2.3",
            "vlan 5 and host 10.1.2.3",
            "udp port 53 and vlan and vlan 6",
            "not vlan 7 and vlan 5",
            "(vlan 7 or vlan 5) and vlan 6",
            "vlan 5 and (vlan 7 or vlan 6)",
            "ether proto 0x8100",
            "ether proto ip",
        ],
        &["vlan 6", "vlan 5 and vlan 5", "vlan 7", "vlan 6 or vlan 6"],
    );
    check(
        &v4(&[5], 17, 0, &udp(53, 1000)),
        &["vlan 5", "port 53"],
        &["vlan and vlan"],
    );
    assert!(mistake("vlan 1 and vlan 2 and vlan 3").starts_with("column 23: two VLAN tags"));
    assert!(mistake("vlan 4096").contains("'4096' is no VLAN"));
}

/// What was cut matches nothing, and what stands in front of the cut matches as ever.
#[test]
fn what_was_cut_does_not_match() {
    let frame = v4(&[], 6, 0, &tcp(51000, 443, tcp_flag::SYN));
    let has = |len: usize, text: &str| asked(text, &frame[..len]);
    for len in 0..frame.len() {
        assert_eq!(has(len, "ip"), len >= 14, "{len}");
        assert_eq!(has(len, "host 10.1.2.3"), len >= 34, "{len}");
        assert_eq!(has(len, "tcp"), len >= 34, "{len}");
        assert_eq!(has(len, "port 443"), len >= 38, "{len}");
        assert_eq!(has(len, "tcp[13] == 2"), len >= 48, "{len}");
        assert!(!has(len, "tcp[13] != 2"), "{len}");
        assert_eq!(has(len, "not port 443"), len < 38, "{len}");
        assert_eq!(has(len, "truncated"), len < 40, "{len}");
    }
    // Only the first fragment names its ports.
    let later = v4(&[], 6, 3, &tcp(51000, 443, tcp_flag::SYN));
    check(&later, &["tcp", "ip"], &["port 443", "tcp[13] == 2"]);
    let first = v4(&[], 6, 0x2000, &tcp(51000, 443, tcp_flag::SYN));
    check(&first, &["tcp port 443"], &[]);
}

#[test]
fn a_packet_of_no_session() {
    let frame = v4(&[], 6, 0, &tcp(1, 2, 0));
    let inner = Inner::read(&frame);
    let packet = Packet {
        frame: &frame,
        inner: &inner,
        orig_len: 54,
        is_truncated: false,
        mirror: None,
        direction: Direction::Unknown,
    };
    for text in ["vni 0-16777215", "source 0.0.0.0/0", "inbound", "outbound"] {
        assert!(!filter(text).matches(&packet), "{text}");
    }
}

#[test]
fn printed_as_it_can_be_typed() {
    for (text, printed) in [
        ("10.0.0.1", "host 10.0.0.1"),
        (
            "src host 10.0.0.1 and not port http",
            "src host 10.0.0.1 and not port 80",
        ),
        (
            "tcp dst port 80 or 443",
            "tcp dst port 80 or tcp dst port 443",
        ),
        (
            "not host 10.0.0.1 and 10.0.0.2",
            "not host 10.0.0.1 and host 10.0.0.2",
        ),
        ("udp or tcp and ip", "(proto 17 or proto 6) and ip"),
        ("udp || tcp && !ip", "(proto 17 or proto 6) and not ip"),
        ("a.b", ""),
        ("net 172.16/12 or vni 7,5-6", "net 172.16.0.0/12 or vni 5-7"),
        ("ip net 10 or 11", "ip net 10.0.0.0/8 or ip net 11.0.0.0/8"),
        ("(vlan)", "vlan"),
        ("less 60", "len <= 60"),
        ("tcp[13]&18=18", "tcp[tcpflags] & 0x12 == 18"),
        (
            "ether host 2:0:0:0:0:1 or arp",
            "ether host 02:00:00:00:00:01 or ether proto 0x0806",
        ),
    ] {
        match text.parse::<Filter>() {
            Ok(filter) => assert_eq!(filter.to_string(), printed),
            Err(mistake) => assert_eq!((printed, mistake.column), ("", 1), "{text}: {mistake}"),
        }
    }
}

#[test]
fn mistakes_name_their_column() {
    for (text, column, says) in [
        ("", 1, "there is no term in it"),
        ("  ", 3, "there is no term in it"),
        ("host", 5, "an address or a number is missing"),
        (
            "hots 10.0.0.1",
            1,
            "'hots' is no term of a filter; did you mean 'host'?",
        ),
        ("port 80 or udpp", 12, "did you mean 'udp'?"),
        ("ip and prot 6", 8, "did you mean 'port'?"),
        ("host 10.0.0.1 port 80", 15, "'and' or 'or' is missing"),
        ("host 10.0.0.1 and", 18, "a term is missing at the end"),
        ("and host 10.0.0.1", 1, "a term is missing in front"),
        ("(host 10.0.0.1", 1, "not closed"),
        ("host 10.0.0.1)", 14, "no '(' belongs"),
        ("host 10.0.0.0/8", 6, "write 'net 10.0.0.0/8'"),
        ("host www.example.com", 6, "names are not looked up"),
        ("host 02:00:00:00:00:01", 6, "write 'ether host"),
        ("dst 443", 5, "write 'port 443'"),
        ("net 10.0.0.1/8", 5, "bits set behind its prefix"),
        ("net 10.0.0.0/33", 5, "no prefix length"),
        ("net 10.0.0.0 mask 255.0.255.0", 19, "this is no mask"),
        ("net 1.2.3.4.5", 5, "is no network"),
        ("port 65536", 6, "is no port"),
        ("port 80-90", 6, "write 'portrange 80-90'"),
        ("tcp port 80 and host 10.0.0.1 or 80", 34, "is no address"),
        ("80", 1, "nothing says what '80' is"),
        ("tcp host 10.0.0.1", 5, "have 'port' and 'portrange'"),
        ("ip port 80", 4, "'ip' and 'ip6' have"),
        ("ip host ::1", 9, "write 'ip6'"),
        ("ip6 host 10.0.0.1", 10, "write 'ip'"),
        ("ip broadcast", 4, "the mask of the network is not known"),
        ("ether", 1, "'ether' needs"),
        ("ether proto 1500", 13, "is no EtherType"),
        ("src vni 5", 5, "'src' and 'dst' are for"),
        ("vni 16777216", 5, "is no VNI"),
        ("ip[9] == 6", 3, "can be asked for"),
        ("tcp[0:2] == 80", 4, "can be asked for"),
        ("tcp[tcpflags] tcp-syn", 15, "is needed here"),
        ("tcp[tcpflags] & (tcp-syn", 25, "'|' or ')' is needed"),
        ("len 5", 5, "is needed here"),
        ("less many", 6, "a number from 0"),
        ("mpls", 1, "'mpls' is not understood here: write"),
        ("host 10.0.0.1 % 5", 15, "'%' means nothing"),
        ("hóst 10.0.0.1", 2, "'ó' means nothing"),
    ] {
        let found = text.parse::<Filter>().unwrap_err();
        assert_eq!(found.column, column, "{text}: {found}");
        assert!(found.reason.contains(says), "{text}: {found}");
    }
    assert_eq!(
        mistake("tcp and hots 10.0.0.1"),
        "column 9: 'hots' is no term of a filter; did you mean 'host'?\n    tcp and hots 10.0.0.1\n            ^^^^"
    );
    let long = "tcp or ".repeat(100) + "hots";
    let said = mistake(&long);
    assert!(said.starts_with("column 701: "), "{said}");
    assert!(said.lines().all(|line| line.len() < 120), "{said}");
    let last = said.lines().last().unwrap();
    let shown = said.lines().nth(1).unwrap();
    assert_eq!(last.find('^'), shown.find("hots"), "{said}");
}

#[test]
fn size_and_depth_are_bounded() {
    let many = |count: usize| vec!["port 80"; count].join(" or ");
    assert!(many(1024).parse::<Filter>().is_ok());
    assert!(mistake(&many(1025)).contains("more than 1024 terms"));
    let mixed = "ip and tcp or ".repeat(512) + "udp";
    assert!(mistake(&mixed).contains("more than 1024 terms"));
    assert!(
        ("ip and tcp or ".repeat(511) + "udp")
            .parse::<Filter>()
            .is_ok()
    );
    let mixed = "ip and tcp or ".repeat(30) + "udp";
    assert_eq!(filter(&filter(&mixed).to_string()), filter(&mixed));
    let nested = |count: usize| "(".repeat(count) + "ip" + &")".repeat(count);
    assert!(nested(64).parse::<Filter>().is_ok());
    assert!(mistake(&nested(65)).contains("inside each other"));
    assert!(mistake(&("not ".repeat(100_000) + "ip")).contains("inside each other"));
    assert!(mistake(&"(".repeat(100_000)).contains("inside each other"));
    assert!(mistake(&("tcp[13] & ".to_owned() + &"(".repeat(100_000))).contains("is needed"));
}

/// Terms, of which expressions are made.
const TERMS: &[&str] = &[
    "host 10.1.2.3",
    "src net 10/8",
    "dst host 2001:db8::1",
    "arp host 10.1.2.3",
    "tcp",
    "udp port 53",
    "port 443",
    "src portrange 1-1024",
    "icmp",
    "ip6",
    "ether host 2:0:0:0:0:1",
    "ether proto 0x88cc",
    "less 64",
    "len != 100",
    "tcp[tcpflags] & (tcp-syn|tcp-ack) != 0",
    "broadcast",
    "ip multicast",
    "vni 5,7-9",
    "source 10.9.9.9",
    "truncated",
    "inbound",
    "proto 47",
    "ip6 proto 58",
    "net ::ffff:0:0/96",
    "dst port 53 or 80",
];

fn expressions() -> impl Strategy<Value = String> {
    let term = proptest::sample::select(TERMS).prop_map(str::to_owned);
    let term = prop_oneof![9 => term, 1 => Just("vlan 5 and vlan".to_owned())];
    term.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a} and ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a} or {b}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) and {b}")),
            inner.clone().prop_map(|a| format!("not ({a})")),
            inner.prop_map(|a| format!("!{a}")),
        ]
    })
}

proptest! {
    /// What is printed means the same.
    #[test]
    fn printed_and_understood_again(text in expressions()) {
        // Some ask for a third tag.
        if let Ok(filter) = text.parse::<Filter>() {
            let printed = filter.to_string();
            let again = printed.parse::<Filter>();
            prop_assert_eq!(again.as_ref().map(|again| again.to_string()), Ok(printed));
            prop_assert_eq!(again, Ok(filter));
        }
    }

    /// Not not is nothing, whatever comes.
    #[test]
    fn not_not_is_nothing(
        text in expressions(),
        frame in proptest::collection::vec(any::<u8>(), 0..100),
        kind in 0..5usize,
    ) {
        prop_assume!(text.parse::<Filter>().is_ok());
        let frame = match kind {
            0 => v4(&[5, 6], 6, 0, &frame),
            1 => v6(17, &frame),
            2 => v4(&[], 17, 0, &udp(53, 80)),
            3 => arp(&[]),
            _ => frame,
        };
        // It asserts so.
        asked(&text, &frame);
    }

    /// No text makes it panic, and each mistake is in the text.
    #[test]
    fn any_text_has_an_answer(text in ".{0,60}") {
        if let Err(mistake) = text.parse::<Filter>() {
            prop_assert!((1..=text.chars().count() + 1).contains(&mistake.column), "{mistake}");
        }
    }

    /// Nor do words of it in any order.
    #[test]
    fn any_words_have_an_answer(
        words in proptest::collection::vec(
            proptest::sample::select(&[
                "host", "net", "port", "src", "dst", "or", "and", "not", "(", ")", "[", "]", "tcp", "ip", "ether", "vlan",
                "10.0.0.1", "80", "tcpflags", "&", "|", "=", "mask", "proto", "5-9", "vni", "len", "!", "::1/64", "0x",
            ][..]),
            0..12,
        ),
    ) {
        let text = words.join(" ");
        if let Ok(filter) = text.parse::<Filter>() {
            prop_assert_eq!(filter.to_string().parse::<Filter>(), Ok(filter));
        }
    }
}
