//! Which flow makes room for another, and how much memory there is for all.

use super::super::parts::Line;
use super::*;

/// Against a model that keeps flows in a plain list.
#[test]
fn the_flow_seen_longest_ago_makes_room() {
    let mut table = FlowTable::new(3, Lifetimes::default());
    let mut model: Vec<u8> = Vec::new();
    for (ts, host) in [1u8, 2, 3, 1, 4, 2, 2, 5, 1, 6, 7, 7, 3, 4, 6]
        .into_iter()
        .enumerate()
    {
        let evicted = feed(&mut table, ts as u64, &tcp(host, 99, 0x10));
        let expected = match model.iter().position(|known| *known == host) {
            Some(at) => {
                model.remove(at);
                None
            }
            None if model.len() == 3 => Some(model.remove(0)),
            None => None,
        };
        model.push(host);
        let evicted = evicted.map(|flow| flow.key.ends(Way::AToB)[0].1 as u8);
        assert_eq!(evicted, expected, "at {ts}");
        assert_eq!(table.len(), model.len());
    }
    assert_eq!(drain(&mut table).len(), 3);
}

/// Before it is full, the table knows which flow that is to the period.
#[test]
fn order_is_coarse_until_it_matters() {
    let mut table = FlowTable::new(4, Lifetimes::default());
    let period = |number: u64| number << PERIOD;
    for (host, ts) in [
        (1u8, period(1)),
        (2, period(1) + 1),
        (3, period(1) + 2),
        (1, period(2)),
        (2, period(2) + 1),
        // Still the same period: 1 stays before 2.
        (1, period(2) + 2),
        (4, period(2) + 3),
    ] {
        assert!(feed(&mut table, ts, &tcp(host, 99, 0x10)).is_none());
    }
    let mut evicted = |host: u8, ts| {
        let flow = feed(&mut table, ts, &tcp(host, 99, 0x10));
        flow.map(|flow| flow.key.ends(Way::AToB)[0].1)
    };
    assert_eq!(evicted(5, period(2) + 4), Some(3));
    // Now every packet counts.
    assert_eq!(evicted(1, period(2) + 5), None);
    assert_eq!(evicted(6, period(2) + 6), Some(2));
    assert_eq!(evicted(7, period(2) + 7), Some(4));
}

#[test]
fn many_flows_stay_findable() {
    let mut table = FlowTable::new(2000, Lifetimes::default());
    for round in 0..3u64 {
        for (a, b) in (0..50).flat_map(|a| (100..140).map(move |b| (a, b))) {
            assert!(feed(&mut table, round, &tcp(a, b, 0x10)).is_none());
        }
    }
    assert_eq!(table.len(), 2000);
    let mut flows = drain(&mut table).into_iter();
    assert!(flows.all(|flow| flow.counts(flow.originator).packets == 3));
}

#[test]
fn a_live_flow_fits_the_memory_figure() {
    for most in [1 << 20, 1_000_000, 1_100_000] {
        for keeps_firsts in [false, true] {
            let figure = if keeps_firsts { 256 } else { 248 };
            let bytes = memory_bytes(std::iter::once(most), keeps_firsts);
            assert!(
                bytes <= figure * u64::from(most),
                "{bytes} for {most} flows"
            );
            // However the flows are shared out, and the end of the run included.
            let shares = memory_bytes(std::iter::repeat_n(most / 8, 8), keeps_firsts);
            assert!(
                shares <= figure * u64::from(most),
                "{shares} for {most} flows"
            );
        }
    }
    assert_eq!(size_of::<Hot>(), 128, "two cache lines");
    assert_eq!(size_of::<Line>(), 64, "one more for TCP");
    assert_eq!(size_of::<Cold>(), 24);
}
