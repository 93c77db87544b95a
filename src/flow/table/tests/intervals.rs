//! Records that end with an interval, whoever ends them.

use proptest::prelude::*;

use super::*;
use crate::flow::intervals::Intervals;

const INTERVAL: u64 = 1000;

/// What a record says of its packets: flow, first and last time, packets of both sides, records before it.
type Said = (FlowKey, u64, u64, u64, u16);

fn said(flow: &Flow) -> Said {
    let packets = flow.counts.iter().map(|counts| counts.packets).sum();
    (flow.key, flow.first_ns, flow.last_ns, packets, flow.records)
}

/// The records of packets (time, flow, back) in the order of time, where the walk over the table looks at so many places
/// behind each of them.
fn records(packets: &[(u64, u8, bool)], looks: usize) -> Vec<Said> {
    let lifetimes = Lifetimes {
        interval_ns: INTERVAL,
        ..Lifetimes::default()
    };
    let (mut table, mut intervals) = (FlowTable::new(100, lifetimes), Intervals::new(INTERVAL));
    let mut ended = Vec::new();
    let mut from = None;
    for (ts_ns, flow, back) in packets {
        if let Some(began_ns) = intervals.reached(*ts_ns) {
            table.begin_interval(began_ns);
            from = Some(0);
        }
        if let Some(at) = from {
            from = table.end_records(at, (100, looks), |over| {
                assert_eq!(over.reason, EndReason::Forced);
                ended.push(said(&over.flow));
            });
        }
        let (a, b) = (10 + flow, 100);
        let frame = if *back { tcp(b, a, 16) } else { tcp(a, b, 16) };
        ended.extend(feed_any(&mut table, *ts_ns, &frame).map(|over| said(&over.flow)));
    }
    ended.extend(drain(&mut table).iter().map(said));
    ended.sort();
    ended
}

proptest! {
    /// Whether the walk over the table comes first or the next packet, or neither does before the end: each flow has a
    /// record for each interval in which it has packets, with these.
    #[test]
    fn each_interval_has_its_records(
        gaps in proptest::collection::vec((0u64..400, 0u8..5, any::<bool>()), 0..80),
        looks in 0usize..8,
    ) {
        let mut ts_ns = 5_000_000;
        let packets: Vec<_> = gaps
            .into_iter()
            .map(|(gap, flow, back)| {
                ts_ns += gap;
                (ts_ns, flow, back)
            })
            .collect();
        let all = records(&packets, usize::MAX);
        prop_assert_eq!(&records(&packets, looks), &all);
        let mut expected = 0;
        for flow in 0..5 {
            let of_flow = || packets.iter().filter(move |packet| packet.1 == flow);
            let mut intervals: Vec<u64> = of_flow().map(|packet| packet.0 / INTERVAL).collect();
            intervals.dedup();
            for (before, interval) in intervals.iter().enumerate() {
                let times: Vec<u64> = of_flow()
                    .map(|packet| packet.0)
                    .filter(|ts_ns| ts_ns / INTERVAL == *interval)
                    .collect();
                let (key, ..) = packet_of(0, &tcp(10 + flow, 100, 16));
                let one = (key, times[0], times[times.len() - 1], times.len() as u64, before as u16);
                prop_assert!(all.contains(&one), "{one:?} is not among {all:?}");
                expected += 1;
            }
        }
        prop_assert_eq!(all.len(), expected);
    }
}

/// A flow that ends in silence behind the end of its record, or makes room, tells nothing more.
#[test]
fn what_an_interval_has_told_is_told_once() {
    let mut table = FlowTable::new(1, Lifetimes::default());
    let over = |table: &mut FlowTable| {
        let mut ended = Vec::new();
        table.begin_interval(2000);
        table.end_records(0, (9, 9), |over| ended.push(over.reason));
        ended
    };
    feed(&mut table, 1000, &tcp(1, 2, 16));
    assert_eq!(over(&mut table), [EndReason::Forced]);
    assert_eq!(over(&mut table), []);
    assert!(
        feed(&mut table, 3000, &tcp(3, 4, 16)).is_none(),
        "makes room"
    );
    let mut silent = FlowTable::new(9, Lifetimes::default());
    feed(&mut silent, 1000, &tcp(1, 2, 16));
    over(&mut silent);
    silent.expire(u64::MAX >> 28, 9, |_| panic!("it has no packet"));
    assert!(silent.is_empty());
}

/// A packet with a time of the interval before comes behind the record of that: it is in the next one.
#[test]
fn late_packets_are_in_the_next_record() {
    let mut table = FlowTable::new(9, Lifetimes::default());
    feed(&mut table, 1000, &tcp(1, 2, 16));
    table.begin_interval(2000);
    table.end_records(0, (9, 9), |_| {});
    assert!(feed(&mut table, 1500, &tcp(1, 2, 16)).is_none());
    // As the next one is of this interval, it is in a record of its own.
    let late = feed(&mut table, 2100, &tcp(1, 2, 16)).unwrap();
    assert_eq!((late.first_ns, late.last_ns, late.records), (1500, 1500, 1));
    let rest = drain(&mut table);
    assert_eq!(
        (rest[0].first_ns, rest[0].last_ns, rest[0].records),
        (2100, 2100, 2)
    );
}
