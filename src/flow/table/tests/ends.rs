//! When flows end, and what their records are then.

use proptest::prelude::*;

use super::*;

/// A segment, as the model below keeps it.
#[derive(Clone, Debug)]
struct Sent {
    ts_ns: u64,
    back: bool,
    flags: u8,
    seq: u32,
}

/// Why the flow of `history` is over before `packet`, if it is, told from all of its packets.
fn over(history: &[Sent], packet: &Sent) -> Option<EndReason> {
    let last = history.iter().map(|sent| sent.ts_ns).max()?;
    if packet.ts_ns < last {
        return None;
    }
    let of = |back| history.iter().filter(move |sent| sent.back == back);
    let any = |back, flag| of(back).any(|sent| sent.flags & flag != 0);
    let either = |flag| any(false, flag) || any(true, flag);
    let silent = |back| of(back).next().is_none();
    let finished = |back| silent(back) || any(back, 1);
    let (is_reset, is_closed) = (either(4), finished(false) && finished(true));
    let is_asked = either(2) && !either(16) && (silent(false) || silent(true));
    let (seconds, reason) = match () {
        () if is_reset => (5, EndReason::EndOfFlow),
        () if is_closed => (10, EndReason::EndOfFlow),
        () if is_asked => (30, EndReason::Idle),
        () => (300, EndReason::Idle),
    };
    if packet.ts_ns - last >= seconds * 1_000_000_000 {
        return Some(reason);
    }
    let first_syn = of(packet.back).find(|sent| sent.flags & 2 != 0);
    let is_new = packet.flags & 7 == 2 && first_syn.is_none_or(|syn| syn.seq != packet.seq);
    (is_new && (is_reset || is_closed)).then_some(EndReason::EndOfFlow)
}

const WHOLE: Lifetimes = Lifetimes {
    active_ns: 0,
    ..Lifetimes::USUAL
};

proptest! {
    /// Connections on few ports, in a table with room for all and for one, against a model that
    /// keeps every packet. No SYN has an ACK here: tcp.rs tells what answers belong to.
    #[test]
    fn connections_end_as_their_packets_tell(
        room in prop_oneof![Just(1u32), Just(100)],
        steps in proptest::collection::vec(
            (
                0u8..4,
                any::<bool>(),
                prop_oneof![Just(0x02u8), Just(0x10), Just(0x11), Just(0x04), Just(0x03), Just(0xc2)],
                0u32..3,
                prop_oneof![
                    Just(0i64), Just(1), Just(-2), Just(4_999_999_999), Just(5_000_000_000),
                    Just(9_999_999_999), Just(10_000_000_000), Just(29_999_999_999),
                    Just(30_000_000_000), Just(299_999_999_999), Just(300_000_000_000),
                ],
            ),
            1..60,
        ),
    ) {
        let mut table = FlowTable::new(room, WHOLE);
        // By the time they were last seen; nothing but the order matters.
        let mut model: Vec<(u8, Vec<Sent>)> = Vec::new();
        let mut now = 1_000_000_000_000i64;
        for (port, back, flags, seq, pause) in steps {
            now += pause;
            let packet = Sent { ts_ns: now as u64, back, flags, seq };
            let (client, server) = (10 + port, 100);
            let (src, dst) = if back { (server, client) } else { (client, server) };
            let mut frame = tcp(src, dst, flags);
            frame[38..42].copy_from_slice(&seq.to_be_bytes());
            let ended = feed_any(&mut table, packet.ts_ns, &frame);
            let known = model.iter().position(|(known, _)| *known == port);
            let mut expected = None;
            let mut history = match known {
                Some(at) => model.remove(at).1,
                None if model.len() == room as usize => {
                    let (_, history) = model.remove(0);
                    expected = Some((EndReason::LackOfResources, history));
                    Vec::new()
                }
                None => Vec::new(),
            };
            if let Some(reason) = over(&history, &packet) {
                expected = Some((reason, std::mem::take(&mut history)));
            }
            history.push(packet);
            model.push((port, history));
            let told = ended.map(|ended| (ended.reason, summed(&ended.flow)));
            let expected = expected.map(|(reason, history)| (reason, summed_up(&history)));
            prop_assert_eq!(told, expected);
        }
        let mut left: Vec<_> = drain(&mut table).iter().map(summed).collect();
        let mut expected: Vec<_> = model.iter().map(|(_, history)| summed_up(history)).collect();
        left.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(left, expected);
    }
}

proptest! {
    /// However often somebody looks whether flows are over: the same records come out.
    #[test]
    fn looking_changes_nothing(
        packets in proptest::collection::vec(
            (
                0u8..5,
                any::<bool>(),
                prop_oneof![Just(0x02u8), Just(0x12), Just(0x10), Just(0x11), Just(0x04)],
                prop_oneof![Just(0u64), 1u64..1_000_000, 1u64..3_000_000_000, 1u64..40_000_000_000, 1u64..400_000_000_000],
                0u64..3_000_000,
                any::<bool>(),
            ),
            1..80,
        ),
        lifetimes in prop_oneof![Just(Lifetimes::USUAL), Just(WHOLE)],
    ) {
        let mut tables = [true, false].map(|looks| (looks, FlowTable::new(100, lifetimes), Vec::new()));
        let mut now = 1_760_000_000_000_000_000u64;
        for (port, back, flags, pause, late, looks_now) in &packets {
            now += pause;
            let (src, dst) = if *back { (100, 10 + port) } else { (10 + port, 100) };
            let frame = tcp(src, dst, *flags);
            for (looks, table, out) in &mut tables {
                if *looks && *looks_now {
                    table.expire(crate::flow::lifetime::step(now), usize::MAX, |ended| out.push(ended));
                }
                out.extend(feed_any(table, now - late, &frame));
            }
        }
        let [looked, not] = tables.map(|(_, mut table, mut out)| {
            let is_all = !table.expire(u64::MAX >> 28, usize::MAX, |ended| out.push(ended));
            assert!(is_all && table.is_empty());
            let mut told: Vec<String> = out.iter().map(|ended| format!("{ended:?}")).collect();
            told.sort();
            told
        });
        prop_assert_eq!(looked, not);
    }
}

/// Places that flows have left are given to others: the table takes no more memory than flows live at a time.
#[test]
fn places_are_given_again() {
    let mut table = FlowTable::new(1 << 20, Lifetimes::default());
    let (mut ended, mut now) = (0, 1_760_000_000_000_000_000);
    for round in 0..50u64 {
        for host in 0..190 {
            feed(&mut table, now + host, &tcp(host as u8, 195, 0x02));
        }
        now += 31_000_000_000;
        let mut earlier = 0;
        table.expire(crate::flow::lifetime::step(now), usize::MAX, |flow| {
            assert_eq!(flow.reason, EndReason::Idle);
            assert!(flow.flow.first_ns >= earlier, "the earliest first");
            earlier = flow.flow.first_ns;
            ended += 1;
        });
        assert_eq!((ended, table.len()), ((round + 1) * 190, 0));
    }
    assert_eq!(table.places.room() as u64, places::room_for(190));
    // A few at a time.
    for host in 0..190 {
        feed(&mut table, now, &tcp(host, 195, 0x02));
    }
    let later = crate::flow::lifetime::step(now + 31_000_000_000);
    let mut parts = Vec::new();
    loop {
        let mut part = 0;
        let is_more = table.expire(later, 64, |_| part += 1);
        parts.push(part);
        if !is_more {
            break;
        }
    }
    assert_eq!(parts, [64, 64, 62]);
}

/// A record is never longer than the active timeout; what follows goes on under the same name, and what was seen
/// before still counts for how the flow ends.
#[test]
fn long_flows_are_told_in_parts() {
    let second = 1_000_000_000;
    let mut table = FlowTable::new(10, Lifetimes::default());
    let mut parts = Vec::new();
    let mut at = |table: &mut FlowTable, seconds: u64, back: bool, flags| {
        let (src, dst) = if back { (9, 1) } else { (1, 9) };
        parts.extend(feed_any(
            table,
            (1000 + seconds) * second,
            &tcp(src, dst, flags),
        ));
    };
    at(&mut table, 0, false, 0x02);
    at(&mut table, 1, true, 0x12);
    for seconds in (2..=700).step_by(7) {
        at(&mut table, seconds, false, 0x18);
    }
    at(&mut table, 701, false, 0x11);
    at(&mut table, 702, true, 0x11);
    // Closed: ten seconds of silence are enough.
    table.expire(crate::flow::lifetime::step(1714 * second), 9, |ended| {
        parts.push(ended)
    });
    let told: Vec<_> = parts
        .iter()
        .map(|Ended { flow, reason }| {
            let span = (flow.first_ns / second - 1000, flow.last_ns / second - 1000);
            let packets = flow.counts.iter().map(|counts| counts.packets).sum::<u64>();
            (*reason, flow.records, span, packets, flow.begun_ns / second)
        })
        .collect();
    assert_eq!(
        told,
        [
            (EndReason::Active, 0, (0, 296), 45, 1000),
            (EndReason::Active, 1, (303, 597), 43, 1000),
            (EndReason::EndOfFlow, 2, (604, 702), 16, 1000),
        ]
    );
}

type Summed = (u64, u64, [(u64, u16); 2]);

/// Times, and packets and flags to port 100 and back.
fn summed(flow: &Flow) -> Summed {
    let forth = if flow.key.ends(Way::AToB)[1].1 == 100 {
        Way::AToB
    } else {
        Way::BToA
    };
    let counts = [forth, forth.reverse()].map(|way| {
        let counts = flow.counts(way);
        (counts.packets, counts.tcp_flags)
    });
    (flow.first_ns, flow.last_ns, counts)
}

fn summed_up(history: &[Sent]) -> Summed {
    let times = || history.iter().map(|sent| sent.ts_ns);
    let counts = [false, true].map(|back| {
        let of = || history.iter().filter(|sent| sent.back == back);
        (
            of().count() as u64,
            of().fold(0, |flags, sent| flags | u16::from(sent.flags)),
        )
    });
    (times().min().unwrap(), times().max().unwrap(), counts)
}

/// Where the clock stands still, the records of a port used again still have names of their own.
#[test]
fn namesakes_are_numbered() {
    let mut table = FlowTable::new(9, Lifetimes::default());
    let mut syn = tcp(1, 9, 0x02);
    let mut numbers = Vec::new();
    for seq in 0..4 {
        syn[41] = seq;
        let ended = feed(&mut table, 5 + u64::from(seq / 3), &syn);
        numbers.extend(ended.map(|flow| flow.namesakes));
        feed(&mut table, 5 + u64::from(seq / 3), &tcp(9, 1, 0x14));
    }
    assert_eq!(numbers, [0, 1, 2]);
    assert_eq!(drain(&mut table)[0].namesakes, 0, "it began later");
}
