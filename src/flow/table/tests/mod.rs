//! The table as its users see it, and the packets it is fed in its tests.

mod counting;
mod ends;
mod firsts;
mod intervals;
mod order;

use super::*;
use crate::mirror::session::SessionId;
use crate::wire::inner::Inner;
use crate::wire::length::{FrameLen, Verdict};

/// A segment between ports and hosts of these numbers.
fn tcp(src: u8, dst: u8, flags: u8) -> Vec<u8> {
    let mut frame = vec![0, 0, 0, 0, 0, dst, 0, 0, 0, 0, 0, src, 0x08, 0];
    frame.extend([
        0x45,
        0,
        0,
        40,
        0,
        0,
        0,
        0,
        60 + src,
        6,
        0,
        0,
        10,
        0,
        0,
        src,
        10,
        0,
        0,
        dst,
    ]);
    frame.extend([
        0, src, 0, dst, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0,
    ]);
    frame
}

pub(super) fn feed(table: &mut FlowTable, ts_ns: u64, frame: &[u8]) -> Option<Flow> {
    feed_any(table, ts_ns, frame).map(|ended| ended.flow)
}

pub(super) fn drain(table: &mut FlowTable) -> Vec<Flow> {
    let empty = FlowTable::new(table.max_flows, Lifetimes::default());
    std::mem::replace(table, empty).end().iter().collect()
}

pub(super) fn feed_any(table: &mut FlowTable, ts_ns: u64, frame: &[u8]) -> Option<Ended> {
    let (key, way, packet) = packet_of(ts_ns, frame);
    table.update(table.hash(&key), u32::MAX, &key, way, &packet)
}

pub(super) fn packet_of(ts_ns: u64, frame: &[u8]) -> (FlowKey, Way, FlowPacket) {
    let inner = Inner::read(frame);
    let (key, way) = FlowKey::of(SessionId(0), None, &inner).unwrap();
    let lengths = FrameLen {
        captured: 54,
        orig: 60,
    };
    let packet = FlowPacket::of(ts_ns, lengths, Verdict::Truncated, inner.ip_len, &inner).unwrap();
    (key, way, packet)
}
