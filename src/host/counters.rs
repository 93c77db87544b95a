//! The kernel's own counters of packets it lost or refused: read before and after a run, compared and
//! explained.
//!
//! In goes the text of `/proc/self/net` and `/sys/class/net`, out come counts by name. They belong to the
//! whole network namespace (softnet's to the whole machine), so they stand beside what vxtap counts and are
//! never added to it. A counter this kernel lacks is absent, not an error.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Rows of `/proc/self/net/snmp` and what is read from them; the name shown is row and column together, as
/// nstat(8) has it.
const SNMP: [(&str, &[&str]); 2] = [
    ("Ip", &["ReasmReqds", "ReasmOKs", "ReasmFails"]),
    (
        "Udp",
        &[
            "NoPorts",
            "InErrors",
            "RcvbufErrors",
            "InCsumErrors",
            "MemErrors",
        ],
    ),
];
/// Names in `/proc/self/net/snmp6`.
const SNMP6: [&str; 8] = [
    "Ip6ReasmReqds",
    "Ip6ReasmOKs",
    "Ip6ReasmFails",
    "Udp6NoPorts",
    "Udp6InErrors",
    "Udp6RcvbufErrors",
    "Udp6InCsumErrors",
    "Udp6MemErrors",
];
/// Files in `/sys/class/net/IF/statistics`.
const INTERFACE: [&str; 4] = [
    "rx_dropped",
    "rx_missed_errors",
    "rx_fifo_errors",
    "rx_over_errors",
];

/// Counts by name.
pub type Counts = BTreeMap<String, u64>;

/// The counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(Counts);

impl Counters {
    /// Reads them now.
    pub fn read() -> Self {
        let net = Path::new("/proc/self/net");
        let text = |name: &str| fs::read_to_string(net.join(name)).unwrap_or_default();
        let mut counts = snmp(&text("snmp"));
        counts.extend(snmp6(&text("snmp6")));
        counts.extend(softnet(&text("softnet_stat")));
        counts.extend(interfaces(&interface_names(&text("dev"))));
        Self(counts)
    }

    /// Leaves out the datagrams that filters of our own sockets turn away: beside a packet ring that is
    /// all of them. What keeps their first fragments from the UDP stack leaves it the others.
    pub fn leave_out_filtered(&mut self) {
        for name in [
            "UdpInErrors",
            "Udp6InErrors",
            "IpReasmReqds",
            "Ip6ReasmReqds",
        ] {
            self.0.remove(name);
        }
    }

    /// What was counted since `earlier`, counters that moved only. A counter that went back (a driver was
    /// loaded anew) or that was not there before tells nothing.
    pub fn since(&self, earlier: &Self) -> Counts {
        let moved = |(name, now): (&String, &u64)| {
            let more = now.saturating_sub(*earlier.0.get(name)?);
            (more > 0).then(|| (name.clone(), more))
        };
        self.0.iter().filter_map(moved).collect()
    }
}

/// `/proc/net/snmp`: for each protocol a line of names and a line of numbers.
fn snmp(text: &str) -> Counts {
    let mut counts = Counts::new();
    let mut lines = text.lines();
    while let (Some(names), Some(numbers)) = (lines.next(), lines.next()) {
        let (Some((row, names)), Some((_, numbers))) =
            (names.split_once(':'), numbers.split_once(':'))
        else {
            continue;
        };
        let Some((_, wanted)) = SNMP.iter().find(|(known, _)| *known == row) else {
            continue;
        };
        let columns = names.split_whitespace().zip(numbers.split_whitespace());
        for (name, number) in columns.filter(|(name, _)| wanted.contains(name)) {
            if let Ok(number) = number.parse() {
                counts.insert(format!("{row}{name}"), number);
            }
        }
    }
    counts
}

/// `/proc/net/snmp6`: a name and a number a line.
fn snmp6(text: &str) -> Counts {
    let counter = |line: &str| {
        let (name, number) = line.split_once(char::is_whitespace)?;
        let wanted = SNMP6.contains(&name);
        wanted.then_some((name.to_owned(), number.trim().parse().ok()?))
    };
    text.lines().filter_map(counter).collect()
}

/// `/proc/net/softnet_stat`: a line for each core, hexadecimal; the second column counts packets dropped
/// because the core's backlog was full, the third how often it ran out of time with packets left.
fn softnet(text: &str) -> Counts {
    let mut counts = Counts::new();
    for line in text.lines() {
        let mut columns = line.split_whitespace().skip(1);
        for name in ["softnet_dropped", "softnet_time_squeeze"] {
            let number = columns
                .next()
                .and_then(|column| u64::from_str_radix(column, 16).ok());
            if let Some(number) = number {
                *counts.entry(name.to_owned()).or_default() += number;
            }
        }
    }
    counts
}

/// The names in `/proc/net/dev`.
fn interface_names(dev: &str) -> BTreeSet<String> {
    let name = |line: &str| line.split_once(':').map(|(name, _)| name.trim().to_owned());
    dev.lines().filter_map(name).collect()
}

/// Drops of each interface, as `rx_dropped@eth0`.
///
/// `/sys` may belong to another network namespace than this process does, and then shows other interfaces
/// than `/proc/self/net/dev`; nothing is taken from it in that case.
fn interfaces(here: &BTreeSet<String>) -> Counts {
    let all = Path::new("/sys/class/net");
    let listed = fs::read_dir(all).into_iter().flatten().flatten();
    // Beside the interfaces there may be plain files such as `bonding_masters`.
    let shown: BTreeSet<String> = listed
        .filter(|entry| entry.path().join("statistics").is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let mut counts = Counts::new();
    if shown != *here {
        return counts;
    }
    for interface in shown {
        for name in INTERFACE {
            let file = all.join(&interface).join("statistics").join(name);
            let number = fs::read_to_string(file)
                .ok()
                .and_then(|text| text.trim().parse().ok());
            if let Some(number) = number {
                counts.insert(format!("{name}@{interface}"), number);
            }
        }
    }
    counts
}

/// What counters say and what to do about it, those worth a line: `UdpInErrors` is the sum of the reasons
/// counted beside it, and is told only where it is more than that; fragments are told where nothing became of
/// them, which the kernel counts as a failure only after 30 s.
pub fn explained(counts: &Counts) -> Vec<(&str, u64, String)> {
    let count = |name: String| counts.get(&name).copied().unwrap_or_default();
    let told = counts.iter().filter_map(|(name, counted)| {
        if let Some(row) = name.strip_suffix("ReasmReqds")
            && ["ReasmOKs", "ReasmFails"]
                .iter()
                .any(|end| count(format!("{row}{end}")) > 0)
        {
            return None;
        }
        let counted = match name.strip_suffix("InErrors") {
            Some(row) => {
                let reasons = ["RcvbufErrors", "InCsumErrors", "MemErrors"];
                let known: u64 = reasons
                    .iter()
                    .map(|reason| count(format!("{row}{reason}")))
                    .sum();
                counted.saturating_sub(known)
            }
            None => *counted,
        };
        (counted > 0).then(|| Some((name.as_str(), counted, remedy(name)?)))?
    });
    told.collect()
}

/// What a counter means, and the remedy.
fn remedy(name: &str) -> Option<String> {
    if let Some((counter, interface)) = name.split_once('@') {
        return Some(match counter {
            "rx_dropped" => format!(
                "frames {interface} received that no protocol here took, or that the kernel had no memory for: \
                 harmless where 'tcpdump -ni {interface}' shows unknown protocols or VLANs"
            ),
            "rx_missed_errors" | "rx_fifo_errors" => format!(
                "the ring of {interface} overflowed: enlarge it (ethtool -G {interface} rx N; ethtool -g \
                 {interface} shows how far), spread the load over more queues (ethtool -L {interface} combined N)"
            ),
            "rx_over_errors" => format!(
                "frames larger than {interface} accepts: raise its MTU (ip link set {interface} mtu N)"
            ),
            _ => return None,
        });
    }
    let text = match name {
        "UdpRcvbufErrors" | "Udp6RcvbufErrors" => {
            "a UDP socket's receive buffer was full, of vxtap or of another program: the ledger has vxtap's own \
             (socket_overflow). For those raise net.core.rmem_max (sysctl -w net.core.rmem_max=67108864), add \
             workers, or use --backend packet"
        }
        "UdpInCsumErrors" => {
            "the UDP checksum was wrong and the kernel refused the datagram: the sender, or an encapsulation \
             offload of its card, computes it wrongly; it may leave it zero"
        }
        "Udp6InCsumErrors" => {
            "datagrams over IPv6 whose UDP checksum was zero where no socket accepts that, or was wrong. Mirror \
             sources send it as zero, and vxtap's sockets accept it: does a --bind name the IPv6 address and the \
             port that they send to ([::]:4789 is every IPv6 address, 0.0.0.0:4789 none)? If so, the sender, or an \
             encapsulation offload of its card, computes it wrongly"
        }
        "UdpNoPorts" => {
            "datagrams over IPv4 to a port or address that nobody listens on: does a --bind name the address and \
             the port that the mirror session sends to ([::]:4789 is no IPv4 address)?"
        }
        "Udp6NoPorts" => {
            "datagrams over IPv6 to a port or address that nobody listens on: does a --bind name the address and \
             the port that the mirror session sends to (0.0.0.0:4789 is no IPv6 address)?"
        }
        "UdpMemErrors" | "Udp6MemErrors" => {
            "all UDP sockets together held more than the kernel allows: raise net.ipv4.udp_mem"
        }
        "UdpInErrors" | "Udp6InErrors" => {
            "datagrams the kernel refused for other reasons, such as a socket's filter or an IPsec policy, of \
             vxtap or of another program"
        }
        "IpReasmReqds" | "Ip6ReasmReqds" => {
            "fragments of IP packets, none of which became whole: a filter on the way drops later fragments, which \
             name no port (a firewall, a security group; 'nft list ruleset' on this machine, 'frag-off'). Let \
             fragments pass, or raise the MTU of the path so that nothing is fragmented"
        }
        "IpReasmFails" | "Ip6ReasmFails" => {
            "IP packets whose fragments did not all come within 30 s, or for which there was no memory: one was \
             lost, a filter on the way drops later fragments, which name no port, or there were too many at a \
             time (net.ipv4.ipfrag_high_thresh, net.ipv6.ip6frag_high_thresh). Raise the MTU of the path so \
             that nothing is fragmented"
        }
        "softnet_dropped" => {
            "a core's backlog was full before the packets reached any socket: raise \
             net.core.netdev_max_backlog, or spread them over more cores (receive queues, RPS)"
        }
        "softnet_time_squeeze" => {
            "a core left packets for its next turn; nothing is lost by that alone. Where packets are, raise \
             net.core.netdev_budget and net.core.netdev_budget_usecs"
        }
        _ => return None,
    };
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux 6.8 prints it, rows that are not read left in.
    const SNMP_TEXT: &str = "\
Ip: Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos InDiscards InDelivers OutRequests OutDiscards OutNoRoutes ReasmTimeout ReasmReqds ReasmOKs ReasmFails FragOKs FragFails FragCreates OutTransmits
Ip: 2 64 3472 0 0 0 0 0 3472 1981 0 0 4 9 1 7 0 0 0 1981
Icmp: InMsgs InErrors InCsumErrors
Icmp: 1 2 3
Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors
Udp: 33 5 6 34 4 0 2 0 0
UdpLite: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors
UdpLite: 9 9 9 9 9 9 9 9 9
";

    fn counts(pairs: &[(&str, u64)]) -> Counts {
        pairs
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect()
    }

    #[test]
    fn snmp_is_read_by_name() {
        let read = snmp(SNMP_TEXT);
        let expected = counts(&[
            ("IpReasmFails", 7),
            ("IpReasmOKs", 1),
            ("IpReasmReqds", 9),
            ("UdpInCsumErrors", 2),
            ("UdpInErrors", 6),
            ("UdpMemErrors", 0),
            ("UdpNoPorts", 5),
            ("UdpRcvbufErrors", 4),
        ]);
        assert_eq!(read, expected);
        // An older kernel has fewer columns; a line that is no counter is passed over.
        let old = "Udp: InDatagrams NoPorts\nUdp: 1 2\nnonsense\nUdp: x\nUdp: NoPorts\n";
        assert_eq!(snmp(old), counts(&[("UdpNoPorts", 2)]));
        assert_eq!(snmp(""), Counts::new());
        assert_eq!(snmp("Udp: NoPorts\nUdp: many\n"), Counts::new());
    }

    #[test]
    fn snmp6_is_read_by_name() {
        let text = "Ip6InReceives                   \t1\nIp6ReasmFails                   \t3\n\
                    Udp6RcvbufErrors                \t12\nUdp6NoPorts\nUdpLite6RcvbufErrors \t9\n";
        let expected = counts(&[("Ip6ReasmFails", 3), ("Udp6RcvbufErrors", 12)]);
        assert_eq!(snmp6(text), expected);
    }

    #[test]
    fn softnet_is_the_sum_over_cores() {
        let text = "00000012 0000000a 00000001 00000000 00000000\n\
                    000dc944 00000002 0000000f 00000000 00000000\nzz\n";
        let expected = counts(&[("softnet_dropped", 12), ("softnet_time_squeeze", 16)]);
        assert_eq!(softnet(text), expected);
        assert_eq!(softnet(""), Counts::new());
    }

    #[test]
    fn interfaces_have_the_names_of_proc() {
        let dev = "Inter-|   Receive                    |  Transmit\n face |bytes    packets errs drop\n    \
                   lo:    3193      29    0    0\neth0.100: 89903684 3449 0 0\n";
        let names: Vec<String> = interface_names(dev).into_iter().collect();
        assert_eq!(names, ["eth0.100", "lo"]);
        // Another namespace's interfaces are not ours.
        let elsewhere = BTreeSet::from(["no-such-interface".to_owned()]);
        assert_eq!(interfaces(&elsewhere), Counts::new());
    }

    #[test]
    fn only_what_moved_is_told() {
        let before = Counters(counts(&[("a", 5), ("b", 7), ("c", 9)]));
        let after = Counters(counts(&[("a", 8), ("b", 7), ("c", 1), ("new", 4)]));
        assert_eq!(after.since(&before), counts(&[("a", 3)]));
    }

    #[test]
    fn every_counter_read_has_its_remedy() {
        let mut all: Vec<String> = SNMP6.map(str::to_owned).into();
        for (row, names) in SNMP {
            all.extend(names.iter().map(|name| format!("{row}{name}")));
        }
        // What became whole is nothing to mend.
        all.retain(|name| !name.ends_with("ReasmOKs"));
        all.extend(INTERFACE.map(|name| format!("{name}@eth0")));
        all.extend(["softnet_dropped", "softnet_time_squeeze"].map(str::to_owned));
        for name in all {
            assert!(remedy(&name).is_some(), "{name}");
        }
        assert!(remedy("rx_missed_errors@eth0").is_some_and(|text| text.contains("-G eth0 rx")));
        assert_eq!(remedy("unheard-of"), None);
    }

    /// What is advised for one IP version is true for that one.
    #[test]
    fn ip_versions_have_advice_of_their_own() {
        let of = |name: &str| remedy(name).unwrap_or_default();
        for name in ["Udp6NoPorts", "Udp6InCsumErrors"] {
            assert!(of(name).contains("over IPv6"), "{}", of(name));
            assert!(of(name).contains("--bind"), "{}", of(name));
            assert!(!of(name).contains("IPv4"), "{}", of(name));
        }
        assert!(of("UdpNoPorts").contains("over IPv4"));
        assert!(!of("UdpInCsumErrors").contains("--bind"));
    }

    /// A failure is counted after 30 s; before that fragments of which nothing became tell of it.
    #[test]
    fn fragments_in_vain_are_told() {
        let told = |pairs: &[(&str, u64)]| -> Vec<String> {
            let counts = counts(pairs);
            let names = explained(&counts)
                .into_iter()
                .map(|(name, ..)| name.to_owned());
            names.collect()
        };
        assert_eq!(told(&[("IpReasmReqds", 6)]), ["IpReasmReqds"]);
        let other = [("Ip6ReasmReqds", 6), ("IpReasmOKs", 3)];
        assert_eq!(told(&other), ["Ip6ReasmReqds"]);
        assert_eq!(told(&[("IpReasmReqds", 6), ("IpReasmOKs", 3)]), [""; 0]);
        let failed = [("IpReasmReqds", 6), ("IpReasmFails", 3)];
        assert_eq!(told(&failed), ["IpReasmFails"]);
    }

    #[test]
    fn errors_counted_by_reason_are_told_once() {
        let all_known = counts(&[
            ("UdpInErrors", 6),
            ("UdpRcvbufErrors", 4),
            ("UdpInCsumErrors", 2),
        ]);
        let names: Vec<_> = explained(&all_known)
            .iter()
            .map(|(name, count, _)| (*name, *count))
            .collect();
        assert_eq!(names, [("UdpInCsumErrors", 2), ("UdpRcvbufErrors", 4)]);
        let more = counts(&[("Udp6InErrors", 6), ("UdpRcvbufErrors", 4)]);
        let names: Vec<_> = explained(&more)
            .iter()
            .map(|(name, count, _)| (*name, *count))
            .collect();
        assert_eq!(names, [("Udp6InErrors", 6), ("UdpRcvbufErrors", 4)]);
    }
}
