//! What is told of a mirror session that is cut, whatever carries it: the cause, the number and the sentence.
//!
//! `vxtap send` cuts, over IPv4 and IPv6, frames with a VLAN tag and without. The counts are worked out from the
//! lengths of the same frames uncut. Geneve is VXLAN with another header, as long.

mod common;

use std::fs;
use std::path::Path;

use common::{Replayed, assert_closes, replay, vxtap};
use serde_json::json;

/// What cuts.
#[derive(Clone, Copy, Debug)]
enum Cut {
    PacketLength(u32),
    Mtu(u32),
}

/// What carries the frames, and whether they have VLAN tags.
#[derive(Clone, Copy, Debug)]
struct Way {
    ipv6: bool,
    geneve: bool,
    vlan: bool,
}

impl Way {
    /// Bytes of outer IP, UDP and tunnel header.
    const fn overhead(self) -> u32 {
        if self.ipv6 { 40 + 8 + 8 } else { 20 + 8 + 8 }
    }

    /// The scene as it arrives, 2,000 packets of 86 to 9,000 bytes, cut as told.
    fn replay(self, cut: Option<Cut>) -> Replayed {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mirrored.pcap");
        let [from, to] = if self.ipv6 {
            ["2001:db8::1", "2001:db8::9"]
        } else {
            ["192.0.2.1", "192.0.2.9"]
        };
        let vlan = if self.vlan { "100" } else { "0" };
        let mut words: Vec<String> = [
            "send --generate --count 2000 --flows 40 --frame-size 86-9000 --source",
            &format!("{from} --to {to} --vlan-percent {vlan} --write"),
        ]
        .join(" ")
        .split(' ')
        .map(str::to_owned)
        .collect();
        words.push(file.to_str().unwrap().to_owned());
        let mut mtu = "9100".to_owned();
        match cut {
            Some(Cut::PacketLength(bytes)) => {
                words.extend(["--packet-length".to_owned(), bytes.to_string()]);
            }
            Some(Cut::Mtu(bytes)) => {
                mtu = bytes.to_string();
                words.extend(["--mtu".to_owned(), mtu.clone()]);
            }
            None => {}
        }
        let sent = vxtap(&words);
        assert_eq!(sent.code, Some(0), "{}", sent.stderr);
        if self.geneve {
            make_geneve(&file);
        }
        let replayed = replay([file.to_str().unwrap(), "--mtu", &mtu]);
        assert_eq!(replayed.run.code, Some(0), "{}", replayed.run.stderr);
        assert_closes(&replayed.summary);
        assert_eq!(replayed.count("delivered"), 2000);
        let tunnel = if self.geneve { "geneve" } else { "vxlan" };
        assert!(replayed.flows.iter().all(|flow| flow["tunnel"] == tunnel));
        replayed
    }
}

/// Turns the VXLAN of a pcap file into Geneve without options: RFC 8926, section 3.4.
fn make_geneve(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let mut at = 24;
    while at < bytes.len() {
        let len = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
        let packet = &mut bytes[at + 16..at + 16 + len];
        let udp = if packet[12..14] == [0x86, 0xdd] {
            54
        } else {
            34
        };
        packet[udp + 2..udp + 4].copy_from_slice(&6081_u16.to_be_bytes());
        // Version, no options; Ethernet. The VNI stays where it is.
        packet[udp + 8..udp + 12].copy_from_slice(&[0, 0, 0x65, 0x58]);
        at += 16 + len;
    }
    fs::write(file, bytes).unwrap();
}

fn assert_told(way: Way, cut: Cut, lens: &[u32]) {
    let keeps = match cut {
        Cut::PacketLength(bytes) => bytes,
        Cut::Mtu(bytes) => bytes - way.overhead(),
    };
    let missing: Vec<u32> = lens
        .iter()
        .filter_map(|len| len.checked_sub(keeps))
        .filter(|missing| *missing > 0)
        .collect();
    assert!(missing.len() > 50, "{way:?} {cut:?}: {}", missing.len());
    let replayed = way.replay(Some(cut));
    let session = &replayed.sessions()[0];
    let (cut_by, cut_mtu) = match cut {
        Cut::PacketLength(_) => ("session_packet_length", json!(null)),
        Cut::Mtu(bytes) => ("mtu", json!(bytes)),
    };
    let told = [
        "cut_by",
        "cut_mtu",
        "cut_size",
        "truncated",
        "missing_bytes",
    ];
    let told = told.map(|name| session[name].clone());
    let should = [
        json!(cut_by),
        cut_mtu,
        json!(keeps),
        json!(missing.len()),
        json!(missing.iter().sum::<u32>()),
    ];
    assert_eq!(told, should, "{way:?} {cut:?}");
    let largest = lens.iter().max().unwrap();
    let ethernet = if way.vlan { 18 } else { 14 };
    let sentences = match cut {
        Cut::PacketLength(bytes) => [
            format!(
                "keep exactly {bytes} bytes, so the mirror session's packet length is set to {bytes}. Raise it in the cloud console"
            ),
            format!("the largest seen needs {largest}."),
        ],
        Cut::Mtu(bytes) => [
            format!("are exactly {bytes} bytes long, so an MTU of {bytes} cuts them."),
            format!(
                "Raise the MTU between mirror source and target to {}, or lower the mirrored interface's MTU to {}",
                largest + way.overhead(),
                keeps - ethernet
            ),
        ],
    };
    let advice = session["advice"].as_str().unwrap();
    let page = replayed.run.stderr.split_whitespace().collect::<Vec<_>>();
    let page = page.join(" ");
    for sentence in sentences {
        assert!(advice.contains(&sentence), "{way:?}: {sentence}: {advice}");
        assert!(page.contains(&sentence), "{way:?}: {sentence}: {page}");
    }
}

#[test]
fn a_cut_has_its_cause_whatever_carries_it() {
    for number in 0..8 {
        let [ipv6, geneve, vlan] = [1, 2, 4].map(|bit| number & bit > 0);
        let way = Way { ipv6, geneve, vlan };
        let whole = way.replay(None);
        assert!(whole.sessions()[0]["advice"].is_null(), "{way:?}");
        let lens: Vec<u32> = whole.frames().iter().map(|frame| frame.orig_len).collect();
        for cut in [Cut::PacketLength(96), Cut::Mtu(1500), Cut::Mtu(8500)] {
            assert_told(way, cut, &lens);
        }
    }
}
