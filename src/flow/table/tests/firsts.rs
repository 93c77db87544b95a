//! Where the first packets of records lie.

use super::*;

/// A table that keeps where first packets lie, and one packet after the other: time, frame, number of its record.
fn feed_numbered(table: &mut FlowTable, ts_ns: u64, frame: &[u8], number: u64) -> Option<First> {
    let inner = Inner::read(frame);
    let (key, way) = FlowKey::of(SessionId(0), None, &inner).unwrap();
    let lengths = FrameLen {
        captured: 54,
        orig: 60,
    };
    let packet = FlowPacket::of(ts_ns, lengths, Verdict::Truncated, inner.ip_len, &inner);
    let packet = FlowPacket {
        first: First::record(number),
        ..packet.unwrap()
    };
    let ended = table.update(table.hash(&key), u32::MAX, &key, way, &packet);
    ended.map(|ended| ended.flow.first)
}

#[test]
fn the_earliest_packet_is_the_first() {
    let mut table = FlowTable::new(9, Lifetimes::default());
    table.keep_firsts();
    let feed = feed_numbered;
    assert_eq!(feed(&mut table, 5, &tcp(1, 9, 0x10), 0), None);
    assert_eq!(table.take_begun(), Some(0));
    feed(&mut table, 5, &tcp(9, 1, 0x10), 1);
    assert_eq!(table.take_begun(), None, "of one time the first to come");
    feed(&mut table, 3, &tcp(9, 1, 0x10), 2);
    assert_eq!(table.take_begun(), Some(0));
    // The answer for the first one comes too late.
    table.found(0, 0, First::place(100));
    table.found(0, 2, First::place(300));
    feed(&mut table, 6, &tcp(1, 9, 0x10), 3);
    assert_eq!(table.take_begun(), None);
    assert_eq!(drain(&mut table)[0].first, First::place(300));
}

/// Whoever stands in a flow's place later gets its own answer only, in whichever order they come.
#[test]
fn a_place_in_the_table_is_not_a_place_in_the_file() {
    let mut table = FlowTable::new(1, Lifetimes::default());
    table.keep_firsts();
    let feed = feed_numbered;
    feed(&mut table, 1, &tcp(1, 9, 0x10), 0);
    assert_eq!(table.take_begun(), Some(0));
    assert_eq!(
        feed(&mut table, 2, &tcp(2, 9, 0x10), 1),
        Some(First::record(0))
    );
    assert_eq!(table.take_begun(), Some(0));
    table.found(0, 0, First::place(100));
    assert_eq!(
        feed(&mut table, 3, &tcp(3, 9, 0x02), 2),
        Some(First::record(1))
    );
    table.found(0, 2, First::place(300));
    table.found(0, 1, First::place(200));
    feed(&mut table, 4, &tcp(9, 3, 0x14), 3);
    // The port is used again: another flow of the same name.
    let mut syn = tcp(3, 9, 0x02);
    syn[41] = 9;
    table.take_begun();
    assert_eq!(feed(&mut table, 5, &syn, 4), Some(First::place(300)));
    assert_eq!(table.take_begun(), Some(0));
    table.found(7, 4, First::place(400));
    assert_eq!(table.places.flow(0).unwrap().first, First::record(4));
}

/// Each record of a flow that goes on has the place of its own first packet; what ended while it waited has none of
/// another's.
#[test]
fn later_records_have_places_of_their_own() {
    let second = 1_000_000_000;
    let lifetimes = Lifetimes {
        active_ns: 10 * second,
        ..Lifetimes::default()
    };
    let mut table = FlowTable::new(9, lifetimes);
    table.keep_firsts();
    feed_numbered(&mut table, second, &tcp(1, 9, 0x10), 0);
    table.found(0, 0, First::place(100));
    feed_numbered(&mut table, 9 * second, &tcp(9, 1, 0x10), 1);
    table.take_begun();
    let first = feed_numbered(&mut table, 11 * second, &tcp(1, 9, 0x10), 2);
    assert_eq!(first, Some(First::place(100)));
    assert_eq!(table.take_begun(), Some(0));
    // It is silent for too long, and another stands in its place.
    let mut ended = Vec::new();
    let step = crate::flow::lifetime::step(400 * second);
    table.expire(step, 9, |flow| ended.push(flow.flow.first));
    assert_eq!(ended, [First::record(2)]);
    feed_numbered(&mut table, 401 * second, &tcp(3, 9, 0x10), 3);
    assert_eq!(table.take_begun(), Some(0));
    table.found(0, 2, First::place(200));
    assert_eq!(drain(&mut table)[0].first, First::record(3));
}

/// What no capture has is nowhere, also where a packet is found to be earlier.
#[test]
fn what_is_not_kept_has_no_place() {
    let mut table = FlowTable::new(9, Lifetimes::default());
    table.keep_firsts();
    feed_numbered(&mut table, 5, &tcp(1, 9, 0x10), 0);
    table.found(0, 0, First::place(100));
    feed(&mut table, 4, &tcp(1, 9, 0x10));
    assert_eq!(drain(&mut table)[0].first, First::NOWHERE);
    // Without a capture nothing is kept at all.
    feed_numbered(&mut table, 5, &tcp(1, 9, 0x10), 0);
    assert_eq!(table.take_begun(), None);
    assert!(table.places.first_mut(0).is_none());
}
