//! Verdicts and causes, from lengths written by hand.

use super::*;
use crate::wire::length::judge;

const ROUTE: Route = Route {
    mtu: 1500,
    recommended_overhead: 64,
    largest_outer: 0,
};

/// A frame of which `captured` bytes came, with an IP packet of `ip_len` behind 14 bytes, in an outer IPv4
/// packet without options.
fn evidence(captured: u32, ip_len: u32) -> Evidence {
    Evidence {
        captured_len: captured,
        carried_len: captured,
        ip_offset: 14,
        ip_len,
        outer_ip_len: captured + 36,
        ..Evidence::default()
    }
}

fn add(counts: &mut Truncation, evidence: &Evidence) {
    let (lengths, verdict) = judge(evidence, ROUTE.mtu);
    counts.add(evidence, lengths.without(evidence.added_len), verdict);
}

/// Whole, or cut where fewer than `14 + ip_len` bytes came.
fn ip(counts: &mut Truncation, captured: u32, ip_len: u32) {
    add(counts, &evidence(captured, ip_len));
}

fn unknown(counts: &mut Truncation, captured: u32) {
    let evidence = Evidence {
        ip_offset: 0,
        ..evidence(captured, 0)
    };
    add(counts, &evidence);
}

fn advice(counts: &Truncation, packets: u64) -> String {
    counts.advice(packets, &ROUTE).unwrap_or_default()
}

#[test]
fn a_session_of_96_bytes() {
    let mut counts = Truncation::default();
    unknown(&mut counts, 96);
    unknown(&mut counts, 42);
    ip(&mut counts, 96, 1500);
    ip(&mut counts, 96, 186);
    assert_eq!(counts.cause(&ROUTE), Some(Cause::SessionPacketLength(96)));
    assert_eq!(
        (
            counts.suspect(&ROUTE),
            counts.unknown(),
            counts.missing_bytes
        ),
        (1, 2, 1522)
    );
    let advice = advice(&counts, 10);
    for said in [
        "2 of 10 packets (20.0 %) arrived cut, 1522 bytes missing",
        "packet length is set to 96",
        "the largest seen needs 1514",
        "1 packet without a declared length is exactly as long",
    ] {
        assert!(advice.contains(said), "{said}: {advice}");
    }
}

/// What every cut is judged by: the outer packet's own length, whatever stands between.
#[test]
fn an_mtu_cuts_through_any_headers() {
    // Bytes of outer headers, inner header bytes before the IP packet, MTU.
    for (around, ip_offset, mtu) in [
        (36, 14, 1500),
        (56, 14, 1500),
        (36, 18, 1500),
        (36 + 12, 14, 9001),
        (36 + 58, 14, 8500),
        (36 + 50, 14, 1500),
        (56, 22, 1280),
    ] {
        let mut counts = Truncation::default();
        let captured = mtu - around;
        for ip_len in [mtu, mtu - 20] {
            let evidence = Evidence {
                ip_offset,
                outer_ip_len: mtu,
                ..evidence(captured, ip_len)
            };
            add(&mut counts, &evidence);
        }
        assert_eq!(counts.cause(&ROUTE), Some(Cause::Mtu(mtu)), "{around}");
        let overhead = around + ip_offset;
        let advice = advice(&counts, 2);
        for said in [
            format!("exactly {mtu} bytes long, so an MTU of {mtu} cuts them"),
            format!("target to {},", mtu + overhead),
            format!("interface's MTU to {}", mtu - overhead),
        ] {
            assert!(advice.contains(&said), "{said}: {advice}");
        }
    }
}

/// The header in front of a bare IP packet is ours and counts nowhere.
#[test]
fn an_mtu_cuts_bare_ip_packets() {
    let mut counts = Truncation::default();
    let evidence = Evidence {
        added_len: 14,
        outer_ip_len: 1500,
        ..evidence(1478, 1600)
    };
    add(&mut counts, &evidence);
    add(&mut counts, &evidence);
    assert_eq!(counts.cause(&ROUTE), Some(Cause::Mtu(1500)));
    assert_eq!(
        (counts.cut_size(), counts.overhead()),
        (Some(1464), Some(36))
    );
    let advice = advice(&counts, 2);
    assert!(advice.contains("target to 1636, or lower"), "{advice}");
}

#[test]
fn an_unusual_mtu_shows_where_headers_vary() {
    let mut counts = Truncation::default();
    for options in [0, 4, 8] {
        let evidence = Evidence {
            outer_ip_len: 1477,
            ..evidence(1477 - 36 - options, 1500)
        };
        add(&mut counts, &evidence);
    }
    assert_eq!(counts.cause(&ROUTE), Some(Cause::Mtu(1477)));
}

#[test]
fn one_larger_frame_refutes_a_packet_length() {
    let mut counts = Truncation::default();
    for _ in 0..1000 {
        ip(&mut counts, 96, 1500);
    }
    assert_eq!(counts.cause(&ROUTE), Some(Cause::SessionPacketLength(96)));
    ip(&mut counts, 96, 82);
    assert_eq!(
        counts.cause(&ROUTE),
        Some(Cause::SessionPacketLength(96)),
        "as long"
    );
    // Whole or of unknown length: it came.
    for has_ip in [true, false] {
        let mut counts = counts.clone();
        if has_ip {
            ip(&mut counts, 97, 83);
        } else {
            unknown(&mut counts, 97);
        }
        assert_eq!(counts.cause(&ROUTE), Some(Cause::Contradicted(96)));
        let advice = advice(&counts, 1002);
        assert!(advice.contains("packet length is not 96"), "{advice}");
        assert!(!advice.contains("set to 96"), "{advice}");
    }
    // What cut packets declare is then worth nothing.
    ip(&mut counts, 200, 186);
    assert_eq!(counts.largest_inner_ip(&ROUTE), 186);
}

#[test]
fn a_larger_outer_packet_refutes_an_mtu() {
    let mut counts = Truncation::default();
    ip(&mut counts, 1464, 1500);
    ip(&mut counts, 1464, 1500);
    assert_eq!(counts.cause(&ROUTE), Some(Cause::Mtu(1500)));
    // In another session of the same mirror source: a packet length is left.
    let other = Route {
        largest_outer: 1501,
        ..ROUTE
    };
    assert_eq!(counts.cause(&other), Some(Cause::SessionPacketLength(1464)));
    ip(&mut counts, 1514, 1500);
    assert_eq!(counts.cause(&ROUTE), Some(Cause::Contradicted(1464)));
}

#[test]
fn one_sample_is_called_one() {
    let mut counts = Truncation::default();
    ip(&mut counts, 96, 1500);
    let by_length = advice(&counts, 3);
    assert!(
        by_length.contains("1 of 3 packets") && by_length.contains("one sample"),
        "{by_length}"
    );
    assert!(!by_length.contains("is set to"), "{by_length}");
    let mut counts = Truncation::default();
    ip(&mut counts, 1464, 1451);
    let by_mtu = advice(&counts, 1);
    assert!(
        by_mtu.contains("1 of 1 packet (") && by_mtu.contains("(one sample)"),
        "{by_mtu}"
    );
    assert!(by_mtu.contains("1 byte missing"), "{by_mtu}");
}

/// The cloud's advice is told as that, and only where it helps.
#[test]
fn what_the_cloud_recommends() {
    let mut v4 = Truncation::default();
    (0..2).for_each(|_| ip(&mut v4, 1464, 1500));
    let said = advice(&v4, 2);
    assert!(
        said.contains("MTU to 1450 (the cloud recommends 1436)"),
        "{said}"
    );
    let mut v6 = Truncation::default();
    let evidence = Evidence {
        outer_ip_len: 1500,
        ..evidence(1444, 1500)
    };
    (0..2).for_each(|_| add(&mut v6, &evidence));
    let said = advice(&v6, 2);
    assert!(
        said.contains("target to 1570, or lower") && said.contains("MTU to 1430:"),
        "{said}"
    );
}

#[test]
fn what_fits_exactly_is_nothing_to_tell() {
    let mut counts = Truncation::default();
    ip(&mut counts, 1464, 1450);
    assert_eq!((counts.oversize, counts.advice(1, &ROUTE)), (0, None));
    ip(&mut counts, 1465, 1451);
    let said = advice(&counts, 2);
    assert!(
        said.starts_with("1 packet arrived whole and in one piece, in outer packets of up to 1501 bytes: the path's MTU is larger"),
        "{said}"
    );
}

fn in_pieces(captured: u32, ip_len: u32, pieces: Pieces) -> Evidence {
    Evidence {
        pieces,
        ..evidence(captured, ip_len)
    }
}

#[test]
fn fragments_are_told_with_their_price() {
    let mut counts = Truncation::default();
    let largest = 1500;
    for ip_len in [1500, 1460] {
        add(
            &mut counts,
            &in_pieces(ip_len + 14, ip_len, Pieces::Fragments { largest }),
        );
    }
    ip(&mut counts, 514, 500);
    assert_eq!((counts.fragmented, counts.oversize), (2, 2));
    let said = advice(&counts, 3);
    assert!(
        said.starts_with(
            "2 packets arrived as fragments of up to 1500 bytes: each costs two packets"
        ),
        "{said}"
    );
    assert!(
        said.contains("target to 1550, or lower the mirrored interface's MTU to 1450"),
        "{said}"
    );
    assert!(
        !said.contains("would be cut") && !said.contains("in one piece"),
        "{said}"
    );
    // The path has shown that it carries more.
    ip(&mut counts, 1564, 1550);
    let said = advice(&counts, 4);
    assert!(
        said.contains("up to 1600 bytes came in one piece"),
        "{said}"
    );
    // Fragments are multiples of 8 bytes: the MTU may be a little larger.
    let mut counts = Truncation::default();
    let largest = 1492;
    add(
        &mut counts,
        &in_pieces(1514, 1500, Pieces::Fragments { largest }),
    );
    let route = Route { mtu: 1498, ..ROUTE };
    let said = counts.advice(1, &route).unwrap();
    assert!(
        said.contains("1 packet arrived") && said.contains("MTU to 1448"),
        "{said}"
    );
}

/// A socket gets what the kernel joined: either way is told, neither is claimed.
#[test]
fn a_socket_cannot_tell_fragments() {
    let mut counts = Truncation::default();
    add(&mut counts, &in_pieces(1514, 1500, Pieces::Unseen));
    assert_eq!((counts.fragmented, counts.oversize), (0, 1));
    let said = advice(&counts, 1);
    assert!(said.contains("either the path's MTU is larger"), "{said}");
    assert!(said.contains("a UDP socket does not show"), "{said}");
    assert!(said.contains("target to 1550, or lower"), "{said}");
}

#[test]
fn a_snap_length_is_not_the_mirrors() {
    let mut counts = Truncation::default();
    let evidence = Evidence {
        carried_len: 110,
        not_recorded: 20,
        ..evidence(90, 96)
    };
    add(&mut counts, &evidence);
    assert_eq!(counts.cause(&ROUTE), Some(Cause::SnapLength));
    let said = advice(&counts, 9);
    assert!(
        said.contains("the capture that was replayed cut them"),
        "{said}"
    );
    ip(&mut counts, 120, 1500);
    assert_eq!(counts.cause(&ROUTE), Some(Cause::SessionPacketLength(120)));
}

#[test]
fn the_largest_packet_of_those_without_a_length() {
    let mut counts = Truncation::default();
    let offloaded = Evidence {
        carried_len: 2961,
        not_recorded: 2861,
        ..evidence(100, 0)
    };
    add(&mut counts, &offloaded);
    assert_eq!(counts.largest_inner_ip(&ROUTE), 2947);
    // The claim of a cut packet, where larger frames came.
    ip(&mut counts, 96, 3000);
    assert_eq!(counts.largest_inner_ip(&ROUTE), 2947);
}

/// What the mirror sent is known from the outer UDP header: it cut nothing.
#[test]
fn lost_fragments_are_no_cut_of_the_mirror() {
    let largest = 1500;
    let mut counts = Truncation::default();
    for _ in 0..2 {
        let lost = Evidence {
            carried_len: 1514,
            ..in_pieces(1464, 1500, Pieces::FirstFragments { largest })
        };
        add(&mut counts, &lost);
    }
    assert_eq!((counts.truncated, counts.missing_bytes), (2, 100));
    assert_eq!(counts.cause(&ROUTE), Some(Cause::MissingFragments));
    let said = advice(&counts, 2);
    assert!(
        said.contains("later fragments of their outer packets"),
        "{said}"
    );
    assert!(said.contains("as fragments of up to 1500 bytes"), "{said}");
    assert!(!said.contains("an MTU of"), "{said}");
}

#[test]
fn order_does_not_matter_and_workers_add_up() {
    let add_all = |counts: &mut Truncation, which: [bool; 4]| {
        let [unknown_len, cut, large, fragmented] = which;
        if unknown_len {
            unknown(counts, 96);
        }
        if cut {
            ip(counts, 96, 100);
        }
        if large {
            ip(counts, 1600, 1586);
        }
        if fragmented {
            let pieces = Pieces::Fragments { largest: 1500 };
            add(counts, &in_pieces(1514, 1500, pieces));
        }
    };
    let (mut one, mut two, mut all) = <(Truncation, Truncation, Truncation)>::default();
    add_all(&mut one, [true, false, false, true]);
    add_all(&mut two, [false, true, true, false]);
    add_all(&mut all, [true; 4]);
    let mut other_order = two.clone();
    other_order.merge(&one);
    one.merge(&two);
    assert_eq!(one, all);
    assert_eq!(other_order, all);
}

#[test]
fn varying_sizes_have_no_single_cause() {
    let mut counts = Truncation::default();
    for size in 100..300 {
        ip(&mut counts, size, 1500);
    }
    assert_eq!(counts.cause(&ROUTE), Some(Cause::Unclear));
    assert_eq!(Truncation::default().advice(5, &ROUTE), None);
}

/// What cuts in one time is told by what came in it, and only where nothing speaks against it.
#[test]
fn causes_of_a_spell() {
    let mut all = Truncation {
        truncated: 9,
        ..Truncation::default()
    };
    let spell = |frame, outer, largest| Stretch {
        packets: 9,
        truncated: 9,
        cut: (frame, frame),
        cut_outer: (outer, outer),
        largest,
        ..Stretch::default()
    };
    let route = |largest_outer| Route {
        mtu: 1500,
        recommended_overhead: 64,
        largest_outer,
    };
    let cause = |of: &Truncation, spell: &Stretch, other| of.cause_in(spell, &route(other));
    let by_session = Some(Cause::SessionPacketLength(96));
    let short = spell(96, 132, (96, 132));
    assert_eq!(cause(&all, &short, 9000), by_session);
    assert_eq!(cause(&all, &spell(96, 132, (97, 133)), 0), None);
    let by_mtu = spell(1464, 1500, (1464, 1500));
    assert_eq!(cause(&all, &by_mtu, 1500), Some(Cause::Mtu(1500)));
    // Larger ones came on that path, at some time.
    assert_eq!(cause(&all, &by_mtu, 1501), None);
    let mixed = Stretch {
        cut: (96, 97),
        ..short
    };
    assert_eq!(cause(&all, &mixed, 0), None);
    let one = Stretch {
        truncated: 1,
        ..short
    };
    assert_eq!(cause(&all, &one, 0), None);
    all.cut_in_capture = 1;
    assert_eq!(cause(&all, &short, 0), None);
}
