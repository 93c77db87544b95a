//! Capture files that tests make themselves, little-endian.

use std::fs;

use super::{Replayed, replay, testdata};

/// A pcapng block around `body`.
pub fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let padded = body.len().next_multiple_of(4);
    let len = (12 + padded) as u32;
    let mut block = [kind.to_le_bytes(), len.to_le_bytes()].concat();
    block.extend_from_slice(body);
    block.resize(8 + padded, 0);
    block.extend(len.to_le_bytes());
    block
}

/// An option, padded.
pub fn option(code: u16, value: &[u8]) -> Vec<u8> {
    let mut option = [code.to_le_bytes(), (value.len() as u16).to_le_bytes()].concat();
    option.extend_from_slice(value);
    option.resize(option.len().next_multiple_of(4), 0);
    option
}

/// A section header block.
pub fn section(options: &[u8]) -> Vec<u8> {
    let mut body = 0x1a2b_3c4d_u32.to_le_bytes().to_vec();
    body.extend([1, 0, 0, 0]);
    body.extend([0xff; 8]);
    body.extend_from_slice(options);
    block(0x0a0d_0d0a, &body)
}

/// An interface description block.
pub fn interface(link: u16, options: &[u8]) -> Vec<u8> {
    let mut body = link.to_le_bytes().to_vec();
    body.extend([0; 6]);
    body.extend_from_slice(options);
    block(1, &body)
}

/// An enhanced packet block of a whole packet.
pub fn packet(interface: u32, ticks: u64, bytes: &[u8], options: &[u8]) -> Vec<u8> {
    let len = bytes.len() as u32;
    let words = [interface, (ticks >> 32) as u32, ticks as u32, len, len];
    let mut body: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    body.extend_from_slice(bytes);
    body.resize(body.len().next_multiple_of(4), 0);
    body.extend_from_slice(options);
    block(6, &body)
}

/// The packets of a capture in `testdata/`, pcap, microseconds, little-endian.
pub fn packets_of(name: &str) -> Vec<Vec<u8>> {
    let file = fs::read(testdata(name)).unwrap();
    assert_eq!(file[..4], [0xd4, 0xc3, 0xb2, 0xa1]);
    let mut packets = Vec::new();
    let mut at = 24;
    while at < file.len() {
        let len = u32::from_le_bytes(file[at + 8..at + 12].try_into().unwrap()) as usize;
        packets.push(file[at + 16..at + 16 + len].to_vec());
        at += 16 + len;
    }
    packets
}

/// Replays a file made here.
pub fn replay_bytes(name: &str, bytes: &[u8], args: &[&str]) -> Replayed {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    let mut all = vec![path.to_str().unwrap()];
    all.extend(args);
    replay(all)
}

/// Copies a pcap file with times `seconds` later.
pub fn shift(from: &str, to: &str, seconds: u32) {
    let mut bytes = fs::read(from).unwrap();
    let mut at = 24;
    while at < bytes.len() {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let (time, len) = (word(at), word(at + 8));
        bytes[at..at + 4].copy_from_slice(&(time + seconds).to_le_bytes());
        at += 16 + len as usize;
    }
    fs::write(to, bytes).unwrap();
}
