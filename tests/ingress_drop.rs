//! What a packet ring has taken goes no further into this machine, as long as the receiver lives and has
//! the rights for a rule: an eBPF program, an nftables chain, or none.
//!
//! In network namespaces of their own; skipped where those cannot be made.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::lab::{Lab, Listener, Side, TO_V4, TO_V6, datagram, wait_until};
use common::run;

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

/// Copies a program to be run. Written by this process, it might be busy: a child that another test starts at
/// that moment has it open for writing.
fn copy(from: &Path, to: &Path) {
    let copied = run(Command::new("cp").args([from, to]));
    assert_eq!(copied.code, Some(0), "{}", copied.stderr);
}

/// A program that has its rights from its file, started by nobody in particular: nft, which is another
/// program, needs them too.
#[test]
fn rights_of_the_file_reach_nft() {
    if !common::tool("setpriv") || !common::tool("setcap") || !common::tool("nft") {
        return;
    }
    let programs = tempfile::tempdir().unwrap();
    let open = |path: &Path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    };
    open(programs.path());
    let capped = programs.path().join("vxtap");
    copy(common::VXTAP.as_ref(), &capped);
    let rights = "cap_net_raw,cap_net_admin+ep";
    let set = run(Command::new("setcap").arg(rights).arg(&capped));
    if set.code != Some(0) {
        eprintln!("skipped: setcap: {}", set.stderr.trim());
        return;
    }
    let Some(lab) = Lab::new() else { return };
    lab.ipv6();
    let script = format!("shift; exec {} \"$@\"", capped.display());
    let nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups";
    let mut before: Vec<&str> = nobody.split(' ').collect();
    before.extend(["sh", "-c", &script, "sh"]);
    let args = ["--backend", "packet", "--bind", TO_V4, "--bind", TO_V6];
    let (command, dir) = lab.listen_command(&before, &args, "--workers 1");
    open(dir.path());
    let mut listener = Listener::start(command, dir);
    listener.wait_said("listening on ");
    let said = listener.begin.clone() + &listener.said();
    assert!(
        said.contains("packets kept from the UDP stack by nftables"),
        "{said}"
    );
    let earlier = at_the_ports(&lab, "InErrors", "Udp6InErrors");
    send(&lab);
    listener.wait_for(200);
    let came = at_the_ports(&lab, "InErrors", "Udp6InErrors") - earlier;
    assert_eq!(came, 0);
    listener.end().assert_well();
    assert_eq!(lab.nft_tables(), "", "the rule is gone");
}

/// An nft that does nothing, and one that says no, cost a few seconds; what is said of them is true.
#[test]
#[allow(clippy::disallowed_methods, reason = "it is about time")]
fn an_nft_that_does_not_work_does_not_keep_the_start() {
    if !common::tool("setpriv") {
        return;
    }
    let programs = tempfile::tempdir().unwrap();
    let nft = programs.path().join("nft");
    for (does, says) in [
        ("exec sleep 300", "nft did not make the rule within 2 s"),
        (
            "echo 'Error: Could not process rule: Not today' >&2; exec sleep 300",
            "Could not process rule: Not today",
        ),
    ] {
        let Some(lab) = Lab::new() else { return };
        let draft = programs.path().join("draft");
        fs::write(&draft, format!("#!/bin/sh\n{does}\n")).unwrap();
        copy(&draft, &nft);
        fs::set_permissions(&nft, fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!(
            "PATH={}:{}",
            programs.path().display(),
            std::env::var("PATH").unwrap()
        );
        let rights = "-all,+net_raw,+net_admin";
        let bounding = format!("--bounding-set={rights}");
        let inherited = format!("--inh-caps={rights}");
        let before = ["setpriv", &bounding, &inherited, "env", &path];
        let begun = Instant::now();
        let mut listener = lab.listen_with(&before, &["--backend", "packet"], "--workers 1");
        assert!(begun.elapsed() < Duration::from_secs(8), "{does}");
        let said = listener.begin.clone() + &listener.said();
        assert!(said.contains(says), "{said}");
        assert!(!said.contains("needs CAP_NET_ADMIN)"), "{said}");
        let socket = lab.udp(Side::Sender, "10.77.0.1:0");
        socket.send_to(&datagram(7, 1, 60), TO_V4).unwrap();
        listener.wait_for(1);
        let ended = listener.end();
        ended.assert_well();
        assert_eq!(ended.count("delivered"), 1);
    }
}
