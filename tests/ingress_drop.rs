//! What a packet ring has taken goes no further into this machine, as long as the receiver lives and has
//! the rights for a rule: an eBPF program, an nftables chain, or none.
//!
//! In network namespaces of their own; skipped where those cannot be made.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test ends where something is not as expected"
)]

mod common;

use common::lab::{Lab, Side, TO_V4, TO_V6, datagram, wait_until};

/// Datagrams that got as far as the ports, IPv4 and IPv6: refused there, or nobody's.
fn at_the_ports(lab: &Lab, v4: &str, v6: &str) -> u64 {
    let text = lab.inside(Side::Receiver, || {
        std::fs::read_to_string("/proc/thread-self/net/snmp6").unwrap()
    });
    let line = text.lines().find(|line| line.starts_with(v6)).unwrap();
    let of_v6: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    lab.snmp("Udp:", v4) + of_v6
}

/// A hundred datagrams to each address.
fn send(lab: &Lab) {
    for (from, to) in [("10.77.0.1:0", TO_V4), ("[fd00:77::1]:0", TO_V6)] {
        let socket = lab.udp(Side::Sender, from);
        for number in 0..100 {
            let sent = datagram(7, number, 60);
            socket.send_to(&sent, to).unwrap();
        }
    }
}

/// TCX links are in Linux 6.6.
fn has_tcx() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|part| part.parse::<u32>());
    let (major, minor) = (numbers.next().unwrap(), numbers.next().unwrap());
    (major.unwrap(), minor.unwrap()) >= (6, 6)
}

#[test]
fn what_the_ring_has_goes_no_further() {
    let ebpf = "packets kept from the UDP stack by eBPF";
    let nftables = "packets kept from the UDP stack by nftables";
    let nothing = "packets not kept from the UDP stack";
    let rights = [
        ("", if has_tcx() { ebpf } else { nftables }),
        (
            "net_raw,+net_admin,+bpf",
            if has_tcx() { ebpf } else { nftables },
        ),
        ("net_raw,+net_admin", nftables),
        ("net_raw", nothing),
    ];
    for (rights, by) in rights {
        let Some(lab) = Lab::new() else { return };
        lab.ipv6();
        let needs_nft = by == nftables;
        if !common::tool("setpriv") || (needs_nft && !common::tool("nft")) {
            return;
        }
        let bounding = format!("--bounding-set=-all,+{rights}");
        let inherited = format!("--inh-caps=-all,+{rights}");
        let before = ["setpriv", &bounding, &inherited];
        let before = if rights.is_empty() { &[][..] } else { &before };
        let args = ["--backend", "packet", "--bind", TO_V4, "--bind", TO_V6];
        let mut listener = lab.listen_with(before, &args, "--workers 2");
        let said = listener.begin.clone();
        assert!(said.contains(by), "{rights}: {said}");
        let earlier = at_the_ports(&lab, "InErrors", "Udp6InErrors");
        send(&lab);
        listener.wait_for(200);
        let came = at_the_ports(&lab, "InErrors", "Udp6InErrors") - earlier;
        // Sockets refuse what is the ring's, so without a rule each of them is counted once.
        assert_eq!(came, if by == nothing { 200 } else { 0 }, "{rights}");
        drop(listener.kill());
        // The rule goes with the process: the next ones find that nobody listens.
        let earlier = at_the_ports(&lab, "NoPorts", "Udp6NoPorts");
        wait_until("packets to reach the ports again", || {
            send(&lab);
            let came = at_the_ports(&lab, "NoPorts", "Udp6NoPorts") - earlier;
            (came >= 200).then_some(())
        });
    }
}
