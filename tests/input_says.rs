//! What a capture file says beside its packets: losses before it was written, and frame check sequences.

mod common;

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use common::files::{block, interface, option, packet, packets_of, replay_bytes, section};
use common::{Frame, Replayed, assert_closes, replay, testdata, tool};
use serde_json::Value;
use vxtap::mirror::session_key::SessionKey;
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
        comments: Vec::new(),
        mtu: 1500,
        inventory: std::sync::Arc::default(),
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

// ---------------------------------------------------------------------------------------------
// Frame check sequences

/// The FCS of a frame: CRC-32, sent with its lowest byte first.
fn with_fcs(frame: &[u8]) -> Vec<u8> {
    let mut crc = u32::MAX;
    for byte in frame {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    [frame, &(!crc).to_le_bytes()].concat()
}

/// A classic pcap of these packets, each cut by `cut` bytes.
fn pcap(network: u32, packets: &[Vec<u8>], cut: usize) -> Vec<u8> {
    let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend([262_144, network].map(u32::to_le_bytes).as_flattened());
    for (second, bytes) in packets.iter().enumerate() {
        let stored = &bytes[..bytes.len() - cut];
        let words = [second, 0, stored.len(), bytes.len()].map(|word| word as u32);
        file.extend(words.map(u32::to_le_bytes).as_flattened());
        file.extend_from_slice(stored);
    }
    file
}

/// The same packets in files that say in each way that an FCS of 4 bytes ends them.
fn files_with_fcs(frames: &[Vec<u8>]) -> Vec<(&'static str, Vec<u8>)> {
    let packets: Vec<Vec<u8>> = frames.iter().map(|frame| with_fcs(frame)).collect();
    let pcapng = |interface_options: &[u8], packet_options: &[u8]| {
        let mut file = [section(&[]), interface(1, interface_options)].concat();
        for (second, bytes) in packets.iter().enumerate() {
            let micros = second as u64 * 1_000_000;
            file.extend(packet(0, micros, bytes, packet_options));
        }
        file
    };
    let flags = |len: u32| option(2, &(len << 5 | 1).to_le_bytes());
    vec![
        ("f.pcap", pcap(0x2400_0001, &packets, 0)),
        ("bytes.pcapng", pcapng(&option(13, &[4]), &[])),
        ("bits.pcapng", pcapng(&option(13, &[32]), &[])),
        ("flags.pcapng", pcapng(&[], &flags(4))),
        ("overridden.pcapng", pcapng(&option(13, &[2]), &flags(4))),
        ("not-said.pcapng", pcapng(&option(13, &[4]), &flags(0))),
    ]
}

fn same(one: &Replayed, other: &Replayed, what: &str) {
    let frames = |replayed: &Replayed| -> Vec<(u32, Vec<u8>)> {
        let frames = replayed.frames().into_iter();
        frames
            .map(|frame: Frame| (frame.orig_len, frame.bytes))
            .collect()
    };
    assert_eq!(frames(one), frames(other), "{what}");
    assert_eq!(one.flows, other.flows, "{what}");
    assert_eq!(one.summary["sessions"], other.summary["sessions"], "{what}");
    assert_eq!(one.summary["noted"], other.summary["noted"], "{what}");
}

/// Frames, lengths and flows are those of the same capture without FCS: taken as frames and as packets around
/// mirrored ones.
#[test]
fn a_frame_check_sequence_is_no_part_of_a_frame() {
    for (name, flag) in [
        ("plain.pcap", Some("--plain")),
        ("inner-non-ip.pcap", Some("--plain")),
        ("session-96.pcap", None),
        ("session-mtu.pcap", None),
        ("outer-trailing-bytes.pcap", None),
    ] {
        let frames = packets_of(name);
        let flags: Vec<&str> = flag.into_iter().collect();
        let without = replay_bytes("without.pcap", &pcap(1, &frames, 0), &flags);
        assert_sound(&without);
        for (how, file) in files_with_fcs(&frames) {
            let what = format!("{name}, {how}");
            if tool("tshark") && how != "bits.pcapng" {
                assert_eq!(good_sequences(how, &file), frames.len(), "{what}");
            }
            for workers in ["1", "3"] {
                let flags = [&flags[..], &["--workers", workers]].concat();
                let replayed = replay_bytes(how, &file, &flags);
                assert_sound(&replayed);
                same(&replayed, &without, &what);
            }
        }
        // Not said to be there, it is a part of the packet. Behind a whole outer packet it is none of the frame.
        let packets: Vec<Vec<u8>> = frames.iter().map(|frame| with_fcs(frame)).collect();
        let unsaid = replay_bytes("unsaid.pcap", &pcap(1, &packets, 0), &flags);
        assert_sound(&unsaid);
        if flag.is_none() {
            same(&unsaid, &without, name);
        } else {
            let (longer, shorter) = (&unsaid.frames()[0], &without.frames()[0]);
            assert_eq!(longer.bytes.len(), shorter.bytes.len() + 4, "{name}");
        }
    }
}

/// Packets whose FCS is right in the eyes of tshark.
fn good_sequences(name: &str, file: &[u8]) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, file).unwrap();
    let mut tshark = Command::new("tshark");
    tshark
        .arg("-r")
        .arg(&path)
        .args(["-o", "eth.check_fcs:TRUE"]);
    let run =
        common::run(tshark.args(["-T", "fields", "-e", "eth.fcs.status", "-E", "occurrence=f"]));
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let lines = String::from_utf8(run.stdout).unwrap();
    lines.lines().filter(|status| *status == "1").count()
}

/// A snap length that cuts inside of the FCS leaves the frame whole; one that cuts deeper cuts what is missing.
#[test]
fn a_cut_inside_of_the_frame_check_sequence_cuts_no_frame() {
    let frames = packets_of("plain.pcap");
    let packets: Vec<Vec<u8>> = frames.iter().map(|frame| with_fcs(frame)).collect();
    for cut in 0..=6usize {
        let into_frame = cut.saturating_sub(4);
        let file = pcap(0x2400_0001, &packets, cut);
        let replayed = replay_bytes("cut.pcap", &file, &["--plain"]);
        assert_sound(&replayed);
        let expected = replay_bytes("frames.pcap", &pcap(1, &frames, into_frame), &["--plain"]);
        same(&replayed, &expected, &format!("{cut} bytes cut"));
    }
}

/// `send` mirrors frames, not their check sequences.
#[test]
fn send_takes_the_frame_check_sequence_off() {
    let frames = packets_of("plain.pcap");
    let dir = tempfile::tempdir().unwrap();
    let sent = |name: &str, file: &[u8]| {
        let (input, output) = (dir.path().join("in"), dir.path().join(name));
        fs::write(&input, file).unwrap();
        let paths: [&Path; 2] = [&input, &output];
        let [input, output] = paths.map(|path| path.to_str().unwrap());
        let run = common::vxtap(["send", input, "--plain", "--write", output]);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        fs::read(output).unwrap()
    };
    let without = sent("without.pcap", &pcap(1, &frames, 0));
    let packets: Vec<Vec<u8>> = frames.iter().map(|frame| with_fcs(frame)).collect();
    assert_eq!(sent("with.pcap", &pcap(0x2400_0001, &packets, 0)), without);
}
