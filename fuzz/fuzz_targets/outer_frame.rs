//! Outer packets and their reassembly.
//!
//! The input is read as one record of every link type, complete and cut; then it is cut into pieces
//! that must join again, and read as a list of pieces that need not. What is held true:
//!
//! - a payload is borrowed from the record, fits the lengths told with it, and both addresses have one
//!   IP version;
//! - a record that a capture cut short tells the same datagram: same ports, the first bytes of the same
//!   payload, and as many bytes carried where the IP header declares them;
//! - pieces of a datagram join in any order to the bytes they were cut from;
//! - of arbitrary pieces each is accounted for once: joined, lost, contradicting, cut, or still held;
//!   and what is joined holds the bytes of its own pieces, those that came last on top.

#![no_main]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use vxtap::wire::ip::Fragment;
use vxtap::wire::outer::{self, LinkType, Outer, OuterFragment, OuterUdp};
use vxtap::wire::reassembly::{Missing, Piece, Reassembly};
use vxtap_fuzz::{Input, LINKS, lies_within};

fuzz_target!(|data: &[u8]| {
    for link in LINKS {
        for cut in [false, true] {
            read(link, data, cut);
        }
    }
    cut_and_join(data);
    arbitrary_pieces(data);
});

fn read(link: LinkType, record: &[u8], record_cut: bool) {
    let answer = outer::read(link, record, record_cut);
    match &answer {
        Ok(Outer::Udp(udp)) => plausible_datagram(udp, record),
        Ok(Outer::Fragment(piece)) => plausible_piece(piece, record),
        Err(_) => {}
    }
    let Some(last) = record.last() else {
        return;
    };
    for kept in [usize::from(*last) % record.len(), record.len() - 1] {
        let Ok(Outer::Udp(short)) = outer::read(link, &record[..kept], true) else {
            continue;
        };
        let Ok(Outer::Udp(long)) = &answer else {
            panic!("a datagram when cut to {kept}, none when longer: {answer:?}");
        };
        assert_eq!(
            (short.src, short.dst, short.src_port, short.dst_port),
            (long.src, long.dst, long.src_port, long.dst_port)
        );
        assert!(long.payload.starts_with(short.payload));
        // Where the IP header declares no length, `ip_len` is what is there and differs.
        if short.ip_len == long.ip_len {
            assert_eq!(short.carried_len, long.carried_len, "cut to {kept}");
        }
    }
}

fn plausible_datagram(udp: &OuterUdp<'_>, record: &[u8]) {
    assert!(lies_within(udp.payload, record));
    assert_eq!(udp.src.is_ipv4(), udp.dst.is_ipv4());
    assert!(udp.carried_len >= udp.payload.len());
    let headers = if udp.src.is_ipv4() { 28 } else { 48 };
    assert!(udp.ip_len as usize >= headers + udp.payload.len());
}

fn plausible_piece(piece: &OuterFragment<'_>, record: &[u8]) {
    assert!(lies_within(piece.payload, record));
    assert_eq!(piece.src.is_ipv4(), piece.dst.is_ipv4());
    let fragment = piece.fragment;
    assert!(fragment.offset < 1 << 13);
    assert!(fragment.more || fragment.offset != 0);
    let mut reassembly = Reassembly::default();
    let given = reassembly.add(0, piece);
    let lost = given_up_at_end(&mut reassembly);
    let ended = match given {
        Piece::Held => 0,
        Piece::Refused(_) => 1,
        Piece::Completed(_) | Piece::Again => panic!("one piece is no datagram"),
    };
    assert_eq!(lost + ended, 1);
}

/// Pieces that were given up.
fn given_up(reassembly: &mut Reassembly) -> u64 {
    let given_up = std::iter::from_fn(|| reassembly.next_given_up());
    given_up.map(|given_up| given_up.pieces).sum()
}

fn given_up_at_end(reassembly: &mut Reassembly) -> u64 {
    while reassembly.give_up_oldest() {}
    given_up(reassembly)
}

fn address(ipv6: bool, last: u8) -> IpAddr {
    if ipv6 {
        IpAddr::V6(Ipv6Addr::new(0xfd, 0, 0, 0, 0, 0, 0, last.into()))
    } else {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
    }
}

/// Cuts the input into pieces of one size, hands them over in one of three orders, and wants it back.
fn cut_and_join(data: &[u8]) {
    let Some([size, order, ..]) = data.first_chunk::<2>() else {
        return;
    };
    let data = &data[..data.len().min(65_000)];
    let size = 8 * (1 + usize::from(size % 64));
    let count = data.len().div_ceil(size);
    if !(2..=128).contains(&count) {
        return;
    }
    let mut places: Vec<usize> = (0..count).collect();
    match order % 3 {
        0 => {}
        1 => places.reverse(),
        _ => places.sort_by_key(|place| place % 2),
    }
    let mut reassembly = Reassembly::default();
    for (nth, place) in places.iter().enumerate() {
        let (start, end) = (place * size, data.len().min((place + 1) * size));
        let piece = OuterFragment {
            src: address(order & 0x80 != 0, 1),
            dst: address(order & 0x80 != 0, 2),
            fragment: Fragment {
                id: 7,
                offset: u16::try_from(start / 8).unwrap(),
                more: end < data.len(),
                payload_at: 20,
                protocol: 17,
            },
            payload: &data[start..end],
            len: end - start,
        };
        match reassembly.add(0, &piece) {
            Piece::Held => assert!(nth + 1 < count, "all {count} pieces are there"),
            Piece::Completed(joined) => {
                assert_eq!(nth + 1, count, "complete before its last piece");
                assert_eq!(joined.payload, data);
                assert_eq!(joined.pieces, count as u64);
                assert_eq!(joined.ip.declared_len as usize, 20 + data.len());
            }
            other => panic!("pieces of one datagram: {other:?}"),
        }
    }
    assert_eq!(given_up_at_end(&mut reassembly), 0);
}

/// A piece as it was handed over.
struct Given<'a> {
    start: usize,
    payload: &'a [u8],
    payload_at: usize,
}

/// Reads the input as pieces of up to 32 datagrams: flags, offset, time, length, then the bytes.
fn arbitrary_pieces(data: &[u8]) {
    let mut input = Input(data);
    let mut reassembly = Reassembly::default();
    let mut given: HashMap<(bool, u32, u8), Vec<Given<'_>>> = HashMap::new();
    let (mut now_ns, mut taken, mut ended) = (1_768_435_200_000_000_000_u64, 0, 0);
    while let Some([flags, offset, seconds, len]) = input.array() {
        let len = match len {
            0..0x80 => usize::from(len) * 8,
            _ => usize::from(len & 0x7f),
        };
        let payload = input.up_to(len);
        now_ns = now_ns.saturating_add_signed(i64::from(seconds as i8) * 1_000_000_000);
        let offset = u16::from(offset);
        let ipv6 = flags & 0x10 != 0;
        let fragment = Fragment {
            id: u32::from(flags >> 2 & 3),
            offset: if flags & 0x80 != 0 {
                8191 - offset
            } else {
                offset
            },
            more: flags & 1 != 0,
            payload_at: if ipv6 {
                48
            } else {
                20 + usize::from(flags & 4)
            },
            protocol: [17, 60, 44, 17][usize::from(flags >> 5 & 3)],
        };
        let piece = OuterFragment {
            src: address(ipv6, 1),
            dst: address(ipv6, 2),
            fragment,
            payload,
            len: payload.len() + if flags & 2 != 0 { 8 } else { 0 },
        };
        let of_datagram = given
            .entry((ipv6, fragment.id, fragment.protocol))
            .or_default();
        taken += 1;
        let answer = reassembly.add(now_ns, &piece);
        if matches!(answer, Piece::Held | Piece::Completed(_)) {
            of_datagram.push(Given {
                start: usize::from(fragment.offset) * 8,
                payload,
                payload_at: fragment.payload_at,
            });
        }
        match answer {
            Piece::Held => {}
            // A copy of a piece of the last ones that were whole.
            Piece::Again => {
                assert_ne!(fragment.offset, 0);
                ended += 1;
            }
            Piece::Refused(_) => {
                of_datagram.clear();
                ended += 1;
            }
            Piece::Completed(joined) if joined.missing != Missing::Nothing => {
                ended += joined.pieces;
                of_datagram.clear();
            }
            Piece::Completed(joined) => {
                ended += joined.pieces;
                let first = of_datagram
                    .len()
                    .checked_sub(joined.pieces as usize)
                    .expect("made of more pieces than there were");
                let made_of = &of_datagram[first..];
                let before = made_of
                    .iter()
                    .rfind(|piece| piece.start == 0)
                    .expect("its first piece")
                    .payload_at;
                let whole = overlaid(made_of, joined.ip.declared_len as usize - before);
                assert_eq!(joined.payload, whole[joined.ip.header_len - before..]);
                of_datagram.clear();
            }
        }
        ended += given_up(&mut reassembly);
        assert!(ended <= taken, "a piece is accounted for twice");
    }
    ended += given_up_at_end(&mut reassembly);
    assert_eq!(ended, taken, "a piece is not accounted for");
}

/// The first `len` bytes under all pieces, later ones on top.
fn overlaid(pieces: &[Given<'_>], len: usize) -> Vec<u8> {
    let mut bytes: Vec<Option<u8>> = vec![None; len];
    for piece in pieces {
        for (at, byte) in (piece.start..).zip(piece.payload) {
            if let Some(place) = bytes.get_mut(at) {
                *place = Some(*byte);
            }
        }
    }
    bytes
        .into_iter()
        .map(|byte| byte.expect("a byte that no piece held"))
        .collect()
}
