//! What a capture file says beside its packets: losses before it was written.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests end with a panic"
)]

mod common;

use std::fs;
use std::net::IpAddr;

use common::files::{block, interface, option, packet, packets_of, replay_bytes, section};
use common::{Replayed, assert_closes, replay, testdata};
use serde_json::Value;
use vxtap::mirror::session::SessionKey;
use vxtap::pcap::record::Format;
use vxtap::pcap::section::{About, Section};
use vxtap::wire::Vni;

#[track_caller]
fn assert_sound(replayed: &Replayed) {
    assert_eq!(replayed.run.code, Some(0), "{}", replayed.run.stderr);
    assert_closes(&replayed.summary);
}

// ---------------------------------------------------------------------------------------------
// Losses

/// An interface statistics block.
fn statistics(interface: u32, counts: &[(u16, u64)]) -> Vec<u8> {
    let mut body = interface.to_le_bytes().to_vec();
    body.extend([0; 8]);
    for (code, count) in counts {
        body.extend(option(*code, &count.to_le_bytes()));
    }
    block(5, &body)
}

fn input_dropped(file: &[u8]) -> Value {
    let mut said = Vec::new();
    for workers in ["1", "3"] {
        let replayed = replay_bytes("in.pcapng", file, &["--workers", workers, "--fail-on-loss"]);
        assert_sound(&replayed);
        said.push(replayed.summary["input_dropped"].clone());
        let line = "lost before the input was written";
        let is_loss = replayed.summary["input_dropped"].as_u64() > Some(0);
        assert_eq!(
            replayed.run.stderr.contains(line),
            is_loss,
            "{}",
            replayed.run.stderr
        );
    }
    assert_eq!(said[0], said[1]);
    said.swap_remove(0)
}

/// Interfaces and sections add up, the last statistics of an interface count.
#[test]
fn losses_of_the_input_are_told() {
    let vxlan = &packets_of("session-96.pcap")[1];
    let begin = || [section(&[]), interface(1, &[]), interface(1, &[])].concat();
    let lost_before = |packets: u64| packet(0, 1, vxlan, &option(4, &packets.to_le_bytes()));
    let whole = packet(1, 1, vxlan, &[]);

    assert_eq!(
        input_dropped(&[begin(), whole.clone()].concat()),
        Value::Null
    );
    let none = [begin(), whole.clone(), statistics(1, &[(4, 9), (5, 0)])];
    assert_eq!(
        input_dropped(&none.concat()),
        0,
        "it says that nothing was lost"
    );
    let cumulative = [
        begin(),
        statistics(0, &[(5, 3)]),
        whole.clone(),
        statistics(0, &[(4, 100), (5, 8), (7, 2)]),
        statistics(1, &[(7, 30)]),
        statistics(2, &[(5, 1000)]),
    ];
    assert_eq!(input_dropped(&cumulative.concat()), 40);
    let two_sections = [
        cumulative.concat(),
        begin(),
        whole.clone(),
        statistics(0, &[(5, 2)]),
    ];
    assert_eq!(input_dropped(&two_sections.concat()), 42);
    let between = [begin(), lost_before(5), whole.clone(), lost_before(6)].concat();
    assert_eq!(input_dropped(&between), 11);
    // A drop count of a packet is in the statistics too.
    let both = [between, statistics(0, &[(5, 12)])].concat();
    assert_eq!(input_dropped(&both), 12);
    // An obsolete packet block has its count beside the interface, all bits set where it is not known.
    let obsolete = |count: u16| {
        let len = vxlan.len() as u32;
        let words = [u32::from(count) << 16, 0, 1, len, len];
        let mut body: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        body.extend_from_slice(vxlan);
        block(2, &body)
    };
    let old = [begin(), obsolete(7), obsolete(u16::MAX), obsolete(1)].concat();
    assert_eq!(input_dropped(&old), 8);
}

/// Each of our interfaces repeats what the kernel lost; what found no room is each one's own.
#[test]
fn our_own_statistics_count_the_kernel_once() {
    let about = About {
        comment: String::new(),
        mtu: 1500,
    };
    let mut file = Vec::new();
    let mut ours = Section::begin(Format::PcapNg, &about, &mut file);
    for (vni, no_room) in [(1, 10), (2, 20)] {
        let key = SessionKey::Mirror {
            source: IpAddr::from([10, 0, 1, 11]),
            vni: Vni::new(vni).unwrap(),
        };
        ours.count_no_room(key, None, no_room, &mut file);
    }
    ours.count_no_room(SessionKey::Plain, None, 0, &mut file);
    ours.end(500, &mut file);
    assert_eq!(input_dropped(&file), 530);
    let twice = [&file[..], &file].concat();
    assert_eq!(input_dropped(&twice), 1060);
    // Whoever rewrote the file left the names of the interfaces.
    let text = b"vxtap ";
    let at = file.windows(text.len()).position(|bytes| bytes == text);
    file[at.unwrap()] = b'V';
    assert_eq!(
        input_dropped(&file),
        530 + 500,
        "the third has no name of a session"
    );
}

#[test]
fn losses_of_several_inputs_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let head = [section(&[]), interface(1, &[])].concat();
    fs::write(
        path("a.pcapng"),
        [&head[..], &statistics(0, &[(5, 3)])].concat(),
    )
    .unwrap();
    fs::write(
        path("b.pcapng"),
        [&head[..], &statistics(0, &[(7, 4)])].concat(),
    )
    .unwrap();
    fs::write(path("c.pcapng"), head).unwrap();
    let inputs = ["a.pcapng", "b.pcapng", "c.pcapng"].map(path);
    let replayed = replay(inputs.iter().chain([&testdata("demo.pcap")]));
    assert_sound(&replayed);
    assert_eq!(replayed.summary["input_dropped"], 7);
    let words = "7 lost before the input was written";
    assert!(
        replayed.run.stderr.contains(words),
        "{}",
        replayed.run.stderr
    );
}
