//! Copies among packets written by hand and drawn ones.

use proptest::prelude::*;

use super::*;
use crate::wire::inner::Inner;

const MS: u64 = 1_000_000;
const US: u64 = 1_000;
/// The default window.
const WINDOW: u64 = 500 * MS;
const TCP: u8 = protocol::TCP;
const UDP: u8 = protocol::UDP;

/// An IPv4 packet in a frame, from 10.0.0.1 to 10.0.0.2.
fn v4(id: u16, ttl: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0, 0x45, 0];
    frame.extend((20 + payload.len() as u16).to_be_bytes());
    frame.extend(id.to_be_bytes());
    frame.extend([0x40, 0, ttl, protocol, 0xaa, 0xbb, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend(payload);
    frame
}

/// An IPv6 packet in a frame, from 2001:db8::1 to 2001:db8::2.
fn v6(hops: u8, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd];
    frame.extend([0x60, 0, 0x12, 0x34]);
    frame.extend((payload.len() as u16).to_be_bytes());
    frame.extend([next_header, hops]);
    for last in [1, 2] {
        frame.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    frame.extend(payload);
    frame
}

/// A TCP segment with ACK set, these options and 40 bytes of payload.
fn tcp(seq: u32, options: &[u8]) -> Vec<u8> {
    let mut segment = vec![0x9c, 0x40, 0, 80];
    segment.extend(seq.to_be_bytes());
    segment.extend([0, 0, 0, 9, ((20 + options.len() as u8) / 4) << 4, 0x10]);
    segment.extend([1, 0, 0xcc, 0xdd, 0, 0]);
    segment.extend(options);
    segment.extend([0x55; 40]);
    segment
}

fn named(frame: &[u8]) -> Option<Fingerprint> {
    Fingerprint::of(Inner::read(frame).ip.as_ref()?, frame)
}

/// The id that a packet gets, and what it is a copy of.
struct Seen {
    id: u64,
    copy: Option<CopyOf>,
}

fn see(table: &mut Duplicates, frame: &[u8], session: u32, ts_ns: u64) -> Seen {
    let inner = Inner::read(frame);
    let sighting = Sighting {
        session: SessionId(session),
        ts_ns: 1_700_000_000_000_000_000 + ts_ns,
        ttl: inner.ip.unwrap().header.ttl,
        vlan: inner.vlan,
    };
    let fingerprint = named(frame).unwrap();
    table.prefetch(fingerprint);
    let copy = table.see(fingerprint, &sighting);
    let first_ns = copy.map_or(sighting.ts_ns, |copy| copy.first.ts_ns);
    Seen {
        id: fingerprint.id(first_ns),
        copy,
    }
}

/// Sessions and how much later they saw a copy than the first session.
fn copy(seen: &Seen) -> Option<(u32, i64)> {
    seen.copy.map(|copy| (copy.first.session.0, copy.after_ns))
}

#[test]
fn what_routers_and_network_cards_change_does_not_count() {
    let there = v4(7, 64, TCP, &tcp(1, &[]));
    let mut here = v4(7, 61, TCP, &tcp(1, &[]));
    // MAC addresses, DSCP and ECN, don't fragment, header checksum, TCP checksum.
    here[..12].fill(0x77);
    (here[15], here[20]) = (0xb8 | 3, 0);
    here[24..26].fill(0x99);
    here[50..52].fill(0);
    assert_eq!(named(&here), named(&there));
    here.splice(12..12, [0x81, 0, 0x20, 5]);
    assert_eq!(named(&here), named(&there), "a VLAN tag");

    for (protocol, checksum) in [(UDP, 6..8), (protocol::ICMP, 2..4), (protocol::SCTP, 8..12)] {
        let payload: Vec<u8> = (1..60).collect();
        let mut offloaded = payload.clone();
        offloaded[checksum].fill(0);
        let [one, other] = [payload, offloaded].map(|payload| v4(7, 64, protocol, &payload));
        assert_eq!(named(&one), named(&other), "{protocol}");
        // Another protocol has something else there.
        let of_other = |frame: &[u8]| {
            let mut frame = frame.to_vec();
            frame[23] = 89;
            named(&frame)
        };
        assert_ne!(of_other(&one), of_other(&other), "{protocol}");
    }
    let mut other = v6(64, protocol::ICMPV6, &[128, 0, 1, 2, 3, 4, 5, 6]);
    let one = named(&other);
    // The lower half of the first byte belongs to the flow label.
    (other[15], other[21], other[56]) = (0xf0, 60, 9);
    assert_eq!(named(&other), one, "traffic class and hop limit");
}

/// Every other bit up to the 32nd byte behind the IP header counts.
#[test]
fn every_bit_that_stays_counts() {
    for (frame, ip_len, checksum, ignored) in [
        (
            v4(7, 64, TCP, &tcp(1, &[])),
            20,
            16,
            // Header length, service, don't fragment, TTL, checksum.
            &[0, 1, 8, 10, 11][..],
        ),
        (v6(64, UDP, &[3; 50]), 40, 6, &[0, 7][..]),
    ] {
        let whole = named(&frame);
        for bit in 8 * 14..8 * (14 + ip_len + HEAD_LEN) {
            let at = bit / 8 - 14;
            let mut changed = frame.clone();
            changed[bit / 8] ^= 0x80 >> (bit % 8);
            let in_checksum = (ip_len + checksum..ip_len + checksum + 2).contains(&at);
            let in_flags = ip_len == 20 && at == 6;
            let in_class = ip_len == 40 && at == 1;
            let expected = match () {
                () if ignored.contains(&at) || in_checksum => continue,
                () if in_flags && bit % 8 < 2 => true,
                () if in_class && bit % 8 < 4 => true,
                () => false,
            };
            assert_eq!(
                named(&changed) == whole,
                expected,
                "byte {at} bit {}",
                bit % 8
            );
        }
        let mut longer = frame.clone();
        longer.push(0);
        assert_eq!(named(&longer), whole, "padding of the frame");
    }
    let [one, other] = [0, 1].map(|byte| {
        let mut segment = tcp(1, &[]);
        segment[32] = byte;
        named(&v4(7, 64, TCP, &segment))
    });
    assert_eq!(
        one, other,
        "what stands behind does not: sessions may cut it off"
    );
}

#[test]
fn both_ends_and_the_window() {
    for frame in [v4(7, 64, TCP, &tcp(1, &[])), v6(64, UDP, &[3; 50])] {
        let mut table = Duplicates::new(WINDOW);
        let first = see(&mut table, &frame, 3, 0);
        assert_eq!(first.copy, None);
        let second = see(&mut table, &frame, 5, 240 * US);
        assert_eq!((second.id, copy(&second)), (first.id, Some((3, 240_000))));
        assert!(second.copy.unwrap().is_second);
        let third = see(&mut table, &frame, 6, 300 * US);
        assert_eq!((third.id, copy(&third)), (first.id, Some((3, 300_000))));
        assert!(!third.copy.unwrap().is_second);
        // A clock that went back, or two cores that deliver to one socket.
        let mut table = Duplicates::new(WINDOW);
        see(&mut table, &frame, 3, 50 * US);
        assert_eq!(
            copy(&see(&mut table, &frame, 5, 10 * US)),
            Some((3, -40_000))
        );
        for (later, is_copy) in [(WINDOW, true), (WINDOW + 1, false), (20 * WINDOW, false)] {
            for [early, late] in [[0, later], [later, 0]] {
                let mut table = Duplicates::new(WINDOW);
                let first = see(&mut table, &frame, 3, early);
                let second = see(&mut table, &frame, 5, late);
                assert_eq!(second.copy.is_some(), is_copy, "{early} {late}");
                assert_eq!(second.id == first.id, is_copy);
            }
        }
    }
}

/// Without a number a segment that is sent again is the same packet, but for its time.
#[test]
fn what_is_sent_again_is_no_copy() {
    for frame in [v4(0, 64, TCP, &tcp(1, &[])), v6(64, TCP, &tcp(1, &[]))] {
        let mut table = Duplicates::new(WINDOW);
        let mut ids = Vec::new();
        for sent in [0, 200 * MS, 401 * MS] {
            let first = see(&mut table, &frame, 3, sent);
            let second = see(&mut table, &frame, 5, sent + 240 * US);
            assert_eq!((first.copy, copy(&second)), (None, Some((3, 240_000))));
            assert_eq!(first.id, second.id);
            ids.push(first.id);
        }
        ids.dedup();
        assert_eq!(ids.len(), 3, "packets of their own");
        // Seen at the other end alone.
        assert_eq!(see(&mut table, &frame, 5, 450 * MS).copy, None);
        assert_eq!(
            copy(&see(&mut table, &frame, 3, 451 * MS)),
            Some((5, 1_000_000))
        );
    }
    // With a number it would be another one.
    let mut table = Duplicates::new(WINDOW);
    see(&mut table, &v4(7, 64, TCP, &tcp(1, &[])), 3, 0);
    let again = v4(8, 64, TCP, &tcp(1, &[]));
    assert_eq!(see(&mut table, &again, 3, 200 * MS).copy, None);
}

#[test]
fn twice_by_one_source() {
    let mut table = Duplicates::new(WINDOW);
    let numbered = v4(7, 64, UDP, &[3; 50]);
    see(&mut table, &numbered, 3, 0);
    assert_eq!(
        copy(&see(&mut table, &numbered, 3, 40 * MS)),
        Some((3, 40_000_000))
    );
    let plain = v6(64, UDP, &[3; 50]);
    see(&mut table, &plain, 3, 0);
    let at_once = see(&mut table, &plain, 3, MS);
    assert_eq!(copy(&at_once), Some((3, 1_000_000)));
    assert!(at_once.copy.unwrap().is_second);
    // Into a router and out of it, mirrored on both sides by one source.
    let routed = v6(63, UDP, &[3; 50]);
    assert_eq!(
        copy(&see(&mut table, &routed, 3, 5 * MS)),
        Some((3, 5_000_000))
    );
    assert_eq!(see(&mut table, &plain, 3, 6 * MS).copy, None, "sent again");
}

/// A host answers each segment to a closed port with the same reset, as fast as they come.
#[test]
fn resets_are_packets_of_their_own() {
    let mut segment = tcp(1, &[]);
    segment[13] = 4;
    segment.truncate(20);
    for frame in [v4(0, 64, TCP, &segment), v6(64, TCP, &segment)] {
        let mut table = Duplicates::new(WINDOW);
        for at in [0, 20, 40] {
            assert_eq!(see(&mut table, &frame, 3, at * US).copy, None);
        }
        for at in [240, 260, 280] {
            let seen = see(&mut table, &frame, 5, at * US);
            assert_eq!(seen.copy.map(|copy| copy.first.session.0), Some(3), "{at}");
        }
        assert_eq!(see(&mut table, &frame, 5, 300 * US).copy, None, "one more");
    }
}

/// The first comes from the other end when the sender has sent the second.
#[test]
fn sent_again_before_its_copy_came() {
    let frame = v6(64, TCP, &tcp(1, &[]));
    let mut table = Duplicates::new(WINDOW);
    let sightings = [(3, 0), (3, 5), (5, 20), (5, 25), (3, 40), (5, 60)];
    let copies = sightings.map(|(session, at)| {
        let seen = see(&mut table, &frame, session, at * MS);
        seen.copy.is_some()
    });
    assert_eq!(copies, [false, false, true, true, false, true]);
}

/// Lines of a log, announcements: the first bytes are those of the one before.
#[test]
fn datagrams_without_a_number_are_told_by_more_bytes() {
    let line = |at: usize, byte: u8| {
        let mut payload = vec![0x20; 200];
        payload[at] = byte;
        payload
    };
    for at in [33, 60, MORE_LEN - 1] {
        let [one, other] = [1, 2].map(|byte| v6(64, UDP, &line(at, byte)));
        assert_ne!(named(&one), named(&other), "{at}");
        let [one, other] = [1, 2].map(|byte| v4(7, 64, UDP, &line(at, byte)));
        assert_eq!(named(&one), named(&other), "numbered, {at}");
    }
    let whole = v6(64, UDP, &line(0, 1));
    assert_eq!(named(&whole[..54 + MORE_LEN]), named(&whole));
    assert_ne!(named(&whole[..96]), named(&whole));
    let other = v6(60, UDP, &line(0, 1));
    assert_eq!(named(&whole[..96]), named(&other[..96]), "cut alike");
}

/// Acknowledgements that follow each other at once differ in what they acknowledge selectively.
#[test]
fn options_of_unnumbered_segments_count() {
    let mut options = [1; 24];
    options[14..16].copy_from_slice(&[5, 10]);
    let one = named(&v6(64, TCP, &tcp(1, &options))).unwrap();
    for at in 12..24 {
        let mut others = options;
        others[at] ^= 1;
        assert_ne!(named(&v6(64, TCP, &tcp(1, &others))), Some(one), "{at}");
        let [one, other] = [options, others].map(|options| {
            let frame = v4(7, 64, TCP, &tcp(1, &options));
            named(&frame)
        });
        assert_eq!(one, other, "numbered");
    }
}

#[test]
fn of_cut_packets() {
    let numbered = v4(7, 64, TCP, &tcp(1, &[]));
    let plain = v6(64, TCP, &tcp(1, &[]));
    for cut in 34 + HEAD_LEN..numbered.len() {
        assert_eq!(named(&numbered[..cut]), named(&numbered));
    }
    for cut in 54 + HEAD_LEN..plain.len() {
        assert_eq!(named(&plain[..cut]), named(&plain));
    }
    // Cut sooner, all packets of a connection look alike; but for their number.
    for cut in 54..54 + HEAD_LEN {
        assert_eq!(named(&plain[..cut]), None);
    }
    for cut in 34..34 + HEAD_LEN {
        let named = named(&numbered[..cut]);
        assert!(named.is_some_and(|named| named.kind == Kind::Numbered));
    }
    let short = v6(64, UDP, &[1, 2, 3, 4, 0, 9, 0, 0, 77]);
    assert!(named(&short).is_some(), "short, and all of it is here");
    assert_eq!(named(&short[..short.len() - 1]), None);
    let mut no_length = short;
    no_length[18..20].fill(0);
    assert_eq!(named(&no_length), None, "nobody knows whether it is");
}

#[test]
fn fragments_are_packets_of_their_own() {
    let fragment = |offset: u16, more: u16| {
        let mut frame = v4(7, 64, UDP, &[3; 48]);
        frame[20..22].copy_from_slice(&(more << 13 | offset).to_be_bytes());
        named(&frame).unwrap()
    };
    let all = [
        fragment(0, 1),
        fragment(6, 1),
        fragment(12, 1),
        fragment(12, 0),
    ];
    for (at, one) in all.iter().enumerate() {
        assert!(!all[..at].contains(one), "{at}");
    }
    // Behind an IPv6 header the number is in the fragment header.
    let fragment = |id: u8| {
        let payload = [&[17, 0, 0, 1, 0, 0, 0, id][..], &[3; 48]].concat();
        named(&v6(64, 44, &payload)).unwrap()
    };
    assert_ne!(fragment(1), fragment(2));
    assert_eq!(fragment(1).kind, Kind::Numbered);
}

/// The ninth packet of a bucket takes the place of the first.
#[test]
fn the_oldest_makes_room() {
    let mut table = Duplicates::new(WINDOW);
    let of = |number: u64| Fingerprint {
        hash: (number + 1) << 32 | 77,
        kind: Kind::Numbered,
    };
    let sighting = |session, ts_ns| Sighting {
        session: SessionId(session),
        ts_ns,
        ttl: 64,
        vlan: None,
    };
    for number in 0..9 {
        table.see(of(number), &sighting(0, number * MS));
    }
    assert_eq!(table.made_room(), 1);
    assert_eq!(
        table.see(of(1), &sighting(1, 9 * MS)).unwrap().after_ns,
        8_000_000
    );
    assert_eq!(table.see(of(0), &sighting(1, 9 * MS)), None);
    assert_eq!(table.made_room(), 2);
    // Once the window is over it costs nothing.
    table.see(of(20), &sighting(0, 9 * MS + WINDOW + MS));
    assert_eq!(table.made_room(), 2);
}

#[test]
fn a_bucket_is_two_cache_lines() {
    let table = Duplicates::new(WINDOW);
    let at = table.words.as_ptr().addr() + table.begin * size_of::<u64>();
    assert_eq!((at % ALIGNMENT, ALIGNMENT), (0, 128));
    assert!(table.words.len() >= table.begin + (BUCKET_WORDS << BUCKET_BITS));
    let words = table.words.len() + table.hints.len();
    assert_eq!(words * size_of::<u64>(), MEMORY_BYTES);
}

/// Time, session and the rest of a copy come back as they were put in.
#[test]
fn what_is_kept_comes_back() {
    for (session, vlan, ttl, ts_ns) in [
        (0, None, 0, 0),
        (12_288, Some(4095), 255, u64::MAX - WINDOW),
        (7, Some(0), 64, 1_700_000_000_123_456_789),
    ] {
        let mut table = Duplicates::new(WINDOW);
        let first = Sighting {
            session: SessionId(session),
            ts_ns,
            ttl,
            vlan,
        };
        let fingerprint = Fingerprint {
            hash: u64::MAX,
            kind: Kind::Numbered,
        };
        table.see(fingerprint, &first);
        let here = Sighting {
            session: SessionId(1),
            ts_ns: first.ts_ns + WINDOW,
            ..first
        };
        assert_eq!(table.see(fingerprint, &here).unwrap().first, first);
    }
}

proptest! {
    /// Whether hints tell new packets from others or each is looked for in its bucket: the answers are the same. Hashes
    /// of two buckets, some with the same hint, and more of them than there are places.
    #[test]
    fn hints_change_no_answer(
        packets in proptest::collection::vec(
            (0u64..24, 0u64..3, 0u64..2, 0u32..3, 60u8..64, 0u64..40 * MS, 0u8..3),
            1..200,
        ),
    ) {
        let mut table = Duplicates::new(WINDOW);
        let mut looked_for = Duplicates::new(WINDOW);
        let mut now = 1_700_000_000_000_000_000;
        for (high, low, bucket, session, ttl, pause, kind) in packets {
            let kind = [Kind::Numbered, Kind::Unnumbered, Kind::Reset][usize::from(kind)];
            let hash = high << 40 | low << 32 | bucket;
            let fingerprint = Fingerprint { hash, kind };
            now += pause;
            let sighting = Sighting { session: SessionId(session), ts_ns: now, ttl, vlan: None };
            looked_for.settle();
            let tag = ((hash >> 32) as u32).max(1);
            looked_for.hints[bucket_of(fingerprint)] = u64::MAX / 255 * hint_of(tag);
            let seen = table.see(fingerprint, &sighting);
            prop_assert_eq!(seen, looked_for.see(fingerprint, &sighting));
            prop_assert_eq!(table.made_room(), looked_for.made_room());
        }
    }

    /// Random packets are no copies of each other, and of copies to another session each is found, as often
    /// as there is one.
    #[test]
    fn as_many_copies_as_were_made(
        packets in proptest::collection::vec(
            (
                any::<bool>(), 0u16..3, prop_oneof![Just(TCP), Just(UDP), Just(1u8)],
                proptest::collection::vec(any::<u8>(), 12..40), 0u64..5 * MS, 0u64..3, 1u64..100 * MS,
            ),
            1..300,
        ),
    ) {
        let mut arrivals = Vec::new();
        let mut now = 0;
        for (number, packet) in packets.iter().enumerate() {
            let (is_v6, id, protocol, payload, pause, copies, delay) = packet;
            let mut payload = payload.clone();
            // No two alike.
            payload[8..12].copy_from_slice(&(number as u32).to_be_bytes());
            payload[4] = 0;
            let frame = |ttl| if *is_v6 {
                v6(ttl, *protocol, &payload)
            } else {
                v4(*id, ttl, *protocol, &payload)
            };
            now += pause;
            arrivals.push((now, number, 0, frame(64)));
            for copy in 1..=*copies {
                let session = copy as u32;
                arrivals.push((now + copy * delay, number, session, frame(64 - copy as u8)));
            }
        }
        arrivals.sort_by_key(|(ts_ns, number, session, _)| (*ts_ns, *number, *session));
        let mut table = Duplicates::new(WINDOW);
        let mut ids = std::collections::HashMap::new();
        for (ts_ns, number, session, frame) in arrivals {
            let seen = see(&mut table, &frame, session, ts_ns);
            prop_assert_eq!(seen.copy.is_some(), session > 0, "packet {}", number);
            prop_assert_eq!(*ids.entry(number).or_insert(seen.id), seen.id);
        }
        let mut different: Vec<_> = ids.values().collect();
        different.sort_unstable();
        different.dedup();
        prop_assert_eq!(different.len(), packets.len());
    }
}
