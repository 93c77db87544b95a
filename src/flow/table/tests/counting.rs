//! What packets count, and whose they are.

use super::*;

/// The ninth flag is the last bit of the byte before the other eight (RFC 9768 §3.1).
#[test]
fn tcp_flags_are_nine_bits() {
    let mut table = FlowTable::new(10, Lifetimes::default());
    let mut syn = tcp(1, 9, 0xc2);
    syn[46] |= 1;
    feed(&mut table, 1, &syn);
    feed(&mut table, 2, &tcp(1, 9, 0x10));
    let flow = drain(&mut table).pop().unwrap();
    assert_eq!(flow.counts(flow.originator).tcp_flags, 0x1d2);
}

#[test]
fn both_directions_count_in_one_flow() {
    let mut table = FlowTable::new(10, Lifetimes::default());
    feed(&mut table, 5, &tcp(9, 1, 0x12));
    feed(&mut table, 9, &tcp(1, 9, 0x02));
    feed(&mut table, 7, &tcp(1, 9, 0x18));
    assert_eq!(table.len(), 1);
    let flow = drain(&mut table).pop().unwrap();
    assert_eq!((flow.first_ns, flow.last_ns), (5, 9));
    let (forth, back) = (
        flow.counts(flow.originator),
        flow.counts(flow.originator.reverse()),
    );
    assert_eq!(
        (forth.packets, forth.tcp_flags, back.packets, back.tcp_flags),
        (2, 0x1a, 1, 0x12)
    );
    assert_eq!(
        (
            forth.ip_bytes,
            forth.l2_bytes,
            forth.captured_bytes,
            forth.truncated
        ),
        (80, 120, 108, 2)
    );
    assert_eq!((flow.ttl_min, flow.ttl_max), (61, 69));
    assert_eq!(
        flow.macs,
        Some(([0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 9])),
        "the originator's"
    );
    assert!(table.is_empty());
}

#[test]
fn the_originator_sent_the_syn() {
    for (first, second) in [(0x10, 0x02), (0x12, 0x10)] {
        let mut table = FlowTable::new(10, Lifetimes::default());
        feed(&mut table, 1, &tcp(9, 1, first));
        feed(&mut table, 2, &tcp(1, 9, second));
        let flow = drain(&mut table).pop().unwrap();
        assert_eq!(
            flow.key.ends(flow.originator)[0].1,
            1,
            "flags {first:#x} then {second:#x}"
        );
    }
    let mut table = FlowTable::new(10, Lifetimes::default());
    feed(&mut table, 1, &tcp(9, 1, 0x02));
    feed(&mut table, 2, &tcp(1, 9, 0x02));
    let flow = drain(&mut table).pop().unwrap();
    assert_eq!(
        flow.key.ends(flow.originator)[0].1,
        9,
        "simultaneous open: the first SYN stays"
    );
}

/// Sums that outgrow 32 bits go on as if they had 64.
#[test]
fn flows_count_beyond_four_gigabytes() {
    let mut table = FlowTable::new(1, Lifetimes::default());
    let frame = tcp(1, 9, 0x18);
    let inner = Inner::read(&frame);
    let (key, way) = FlowKey::of(SessionId(0), None, &inner).unwrap();
    let lengths = FrameLen {
        captured: 1,
        orig: u32::MAX,
    };
    let packet = FlowPacket::of(1, lengths, Verdict::Truncated, inner.ip_len, &inner).unwrap();
    for _ in 0..5 {
        table.update(table.hash(&key), u32::MAX, &key, way, &packet);
    }
    let answer = feed(&mut table, 2, &tcp(9, 1, 0x18));
    assert!(answer.is_none());
    let flow = feed(&mut table, 3, &tcp(7, 9, 0x02)).expect("it makes room");
    let (forth, back) = (flow.counts(way), flow.counts(way.reverse()));
    assert_eq!((forth.packets, forth.truncated), (5, 5));
    assert_eq!(forth.l2_bytes, 5 * u64::from(u32::MAX));
    assert_eq!(forth.missing_bytes, 5 * u64::from(u32::MAX - 1));
    assert_eq!((forth.captured_bytes, forth.ip_bytes), (5, 200));
    assert_eq!((forth.max_ip_len, forth.tcp_flags), (40, 0x18));
    assert_eq!((back.packets, back.l2_bytes), (1, 60));
    let flow = drain(&mut table).pop().unwrap();
    assert_eq!(
        flow.counts(flow.originator).l2_bytes,
        60,
        "nothing is left of the other"
    );
}

/// A super-frame may be longer than an IP header can tell; packets around it count as ever.
#[test]
fn the_longest_packet_may_be_beyond_sixteen_bits() {
    let (key, way, packet) = packet_of(1, &tcp(1, 9, 0x18));
    let table_of = |lengths: &[u32]| {
        let mut table = FlowTable::new(9, Lifetimes::default());
        for ip_len in lengths {
            let packet = FlowPacket {
                ip_len: *ip_len,
                ..packet
            };
            table.update(table.hash(&key), u32::MAX, &key, way, &packet);
        }
        table
    };
    for lengths in [
        vec![40, 70_000, 65_535, 190_000, 60],
        vec![65_536],
        vec![65_535],
    ] {
        let joined = Remaining::join([table_of(&lengths).end(), table_of(&[50]).end()]).0;
        let flows: Vec<Flow> = joined.iter().collect();
        assert_eq!(flows.len(), 1, "{lengths:?}");
        let counts = flows[0].counts(way);
        let (most, sum) = (lengths.iter().max(), lengths.iter().sum::<u32>());
        assert_eq!(Some(&counts.max_ip_len), most);
        assert_eq!(counts.ip_bytes, u64::from(sum + 50));
        assert_eq!(counts.packets, lengths.len() as u64 + 1);
    }
}

/// Of requests and answers, and of messages that nobody answers; also in a later record.
#[test]
fn type_and_code_of_icmp_are_those_of_the_first_message() {
    for (kind, answer) in [(8, 0), (0, 8), (13, 14), (3, 3), (11, 11)] {
        for (src, dst) in [(1, 9), (9, 1)] {
            let message = |kind: u8, code: u8, src: u8, dst: u8| {
                let mut frame = tcp(src, dst, 0);
                (frame[23], frame[34], frame[35]) = (1, kind, code);
                frame
            };
            let mut table = FlowTable::new(9, Lifetimes::default());
            let second = 1_000_000_000;
            let mut ended = Vec::new();
            for time in 0..=400 {
                let frame = match time % 2 {
                    0 if answer != kind => message(kind, 255, src, dst),
                    0 => message(kind, 201, src, dst),
                    _ if answer != kind => message(answer, 3, dst, src),
                    _ => message(kind, 201, src, dst),
                };
                ended.extend(feed_any(&mut table, time * second, &frame));
            }
            let code = if answer == kind { 201 } else { 255 };
            let reasons: Vec<_> = ended.iter().map(|ended| ended.reason).collect();
            assert_eq!(reasons, [EndReason::Active]);
            let left = drain(&mut table).pop().unwrap();
            for flow in [&ended[0].flow, &left] {
                assert_eq!(flow.icmp, Some((kind, code)), "{kind} from {src}");
            }
            assert_eq!(left.records, 1);
        }
    }
}

/// Fragments beyond 16 bits, in the table and where two parts of a flow are put together.
#[test]
fn fragments_count_on() {
    let mut table = FlowTable::new(1, Lifetimes::default());
    let mut fragment = tcp(1, 9, 0x10);
    fragment[20] = 0x20;
    feed(&mut table, 1, &fragment);
    table.places.slot(0).unwrap().hot.fragments = u16::MAX;
    feed(&mut table, 2, &fragment);
    feed(&mut table, 3, &fragment);
    let mut flow = drain(&mut table).pop().unwrap();
    let beyond = u64::from(u16::MAX) + 2;
    assert_eq!(flow.fragments, beyond);
    flow.absorb(flow.clone());
    assert_eq!(flow.fragments, 2 * beyond);
}

/// A copy counts as a packet, the word of a copy elsewhere does not; nor does it make a flow.
#[test]
fn copies_count_on() {
    let mut table = FlowTable::new(9, Lifetimes::default());
    let frame = tcp(1, 9, 0x10);
    let with = |copies| {
        let (key, way, packet) = packet_of(1, &frame);
        (key, way, FlowPacket { copies, ..packet })
    };
    let mut update = |copies| {
        let (key, way, packet) = with(copies);
        let ended = table.update(table.hash(&key), u32::MAX, &key, way, &packet);
        assert!(ended.is_none());
        table.len()
    };
    assert_eq!(update(Copies::OfAnother), 0);
    let copies = [Copies::None, Copies::Here, Copies::OfAnother, Copies::There];
    assert_eq!(copies.map(&mut update), [1; 4]);
    table.places.slot(0).unwrap().hot.duplicates += u16::MAX - 3;
    let (key, way, packet) = with(Copies::OfAnother);
    table.update(table.hash(&key), u32::MAX, &key, way, &packet);
    let mut flow = drain(&mut table).pop().unwrap();
    let beyond = u64::from(u16::MAX) + 1;
    let packets = flow.counts.iter().map(|counts| counts.packets);
    assert_eq!((packets.sum::<u64>(), flow.duplicates), (3, beyond));
    flow.absorb(flow.clone());
    assert_eq!(flow.duplicates, 2 * beyond);
}
