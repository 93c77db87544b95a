//! Outer fragments, put together within a bounded memory.
//!
//! RFC 7348 forbids the encapsulator to fragment, but a router on the way may. A socket gets whole
//! datagrams from the kernel; a capture file holds the pieces. Joining is etherparse's; this module
//! keeps the open datagrams, forgets the oldest when memory runs out, and accounts for every piece.

use std::collections::VecDeque;
use std::net::IpAddr;

use etherparse::{IpFragOffset, IpNumber, defrag::IpDefragBuf};
use hashbrown::HashMap;

use super::be16;
use super::ip::IpHeader;
use super::outer::OuterFragment;

/// Most bytes held for datagrams that are not complete.
pub const MAX_BYTES: usize = 8 << 20;
/// What an open datagram costs beside its bytes, generously.
const OPEN_BYTES: usize = 512;
/// A datagram whose pieces are further apart than this is given up, in nanoseconds of packet time
/// (RFC 791 suggests 15 s, RFC 8200 demands 60 s; Linux uses 30 s).
pub const TIMEOUT_NS: u64 = 30_000_000_000;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    src: IpAddr,
    dst: IpAddr,
    id: u32,
    protocol: u8,
}

struct Open {
    buf: IpDefragBuf,
    /// Bytes of IP header in front of the first piece.
    ip_header_len: usize,
    pieces: u64,
    /// Bytes of the largest piece, its IP header included.
    largest_piece: usize,
    first_ns: u64,
    serial: u64,
}

/// A datagram put together.
#[derive(Debug)]
pub struct Joined {
    /// Header for the whole; `declared_len` covers it.
    pub ip: IpHeader,
    /// The IP payload.
    pub payload: Vec<u8>,
    /// Pieces it came in, the last one included.
    pub pieces: u64,
    /// Bytes of the largest one, its IP header included.
    pub largest_piece: u32,
}

/// What became of a piece.
#[derive(Debug)]
pub enum Piece {
    /// Kept until the others come.
    Held,
    /// It was the last one missing.
    Completed(Box<Joined>),
    /// It contradicts the pieces before it, which are given up too.
    Contradiction,
    /// The capture holds only a part of it: it cannot be joined.
    Cut,
}

/// Pieces of a datagram that never became whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// How many.
    pub pieces: u64,
    /// UDP destination port, when the first piece was among them.
    pub dst_port: Option<u16>,
}

/// The datagrams that are not whole yet.
#[derive(Default)]
pub struct Reassembly {
    open: HashMap<Key, Open, foldhash::fast::RandomState>,
    /// Oldest first; an entry whose serial is not that of the open datagram is stale.
    order: VecDeque<(Key, u64)>,
    bytes: usize,
    serial: u64,
    lost: Vec<Lost>,
}

impl Reassembly {
    /// Takes a piece that arrived at `now_ns`. Pieces given up in the course of this wait in
    /// [`Self::take_lost`].
    pub fn add(&mut self, now_ns: u64, piece: &OuterFragment<'_>) -> Piece {
        self.expire(now_ns);
        if piece.cut {
            return Piece::Cut;
        }
        let fragment = piece.fragment;
        let key = Key {
            src: piece.src,
            dst: piece.dst,
            id: fragment.id,
            protocol: fragment.protocol,
        };
        let Ok(offset) = IpFragOffset::try_new(fragment.offset) else {
            return Piece::Contradiction;
        };
        let serial = &mut self.serial;
        let order = &mut self.order;
        let open = self.open.entry(key).or_insert_with(|| {
            *serial += 1;
            order.push_back((key, *serial));
            let buf = IpDefragBuf::new(IpNumber(fragment.protocol), Vec::new(), Vec::new());
            Open {
                buf,
                ip_header_len: fragment.payload_at,
                pieces: 0,
                largest_piece: 0,
                first_ns: now_ns,
                serial: *serial,
            }
        });
        let before = open.buf.data().len();
        let added = open.buf.add(offset, fragment.more, piece.payload);
        let after = open.buf.data().len();
        self.bytes = self.bytes + after - before;
        // A last piece that ends before bytes already held makes the data shorter.
        if added.is_err() || after < before {
            self.give_up(&key);
            return Piece::Contradiction;
        }
        open.pieces += 1;
        let piece_len = fragment.payload_at + piece.payload.len();
        open.largest_piece = open.largest_piece.max(piece_len);
        if fragment.offset == 0 {
            open.ip_header_len = fragment.payload_at;
        }
        if !open.buf.is_complete() {
            while self.held_bytes() > MAX_BYTES && self.give_up_oldest() {}
            self.drop_stale();
            return Piece::Held;
        }
        let Some(open) = self.open.remove(&key) else {
            return Piece::Held;
        };
        self.bytes -= open.buf.data().len();
        let (payload, _) = open.buf.take_bufs();
        let mut ip = IpHeader {
            src: piece.src.into(),
            dst: piece.dst.into(),
            protocol: fragment.protocol,
            header_len: open.ip_header_len,
            declared_len: u32::try_from(open.ip_header_len + payload.len()).unwrap_or(u32::MAX),
            tos: 0,
            ttl: 0,
            fragment: None,
            options_cut: false,
        };
        ip.read_extensions(&payload);
        let payload = payload
            .get(ip.header_len - open.ip_header_len..)
            .unwrap_or_default()
            .to_vec();
        Piece::Completed(Box::new(Joined {
            ip,
            payload,
            pieces: open.pieces,
            largest_piece: u32::try_from(open.largest_piece).unwrap_or(u32::MAX),
        }))
    }

    /// Gives up every datagram: the input has ended.
    pub fn finish(&mut self) {
        while self.give_up_oldest() {}
    }

    /// The datagrams given up since the last call.
    pub fn take_lost(&mut self) -> impl Iterator<Item = Lost> {
        self.lost.drain(..)
    }

    /// Gives up the datagrams whose first piece came too long before `now_ns`.
    pub fn expire(&mut self, now_ns: u64) {
        while let Some((key, serial)) = self.order.front() {
            match self.open.get(key).filter(|open| open.serial == *serial) {
                Some(open) if now_ns.saturating_sub(open.first_ns) <= TIMEOUT_NS => return,
                Some(_) => _ = self.give_up_oldest(),
                None => _ = self.order.pop_front(),
            }
        }
    }

    fn held_bytes(&self) -> usize {
        self.bytes + self.open.len() * OPEN_BYTES
    }

    /// Keeps the order list from outgrowing the datagrams it lists.
    fn drop_stale(&mut self) {
        if self.order.len() > 64 + 2 * self.open.len() {
            let open = &self.open;
            let lives =
                |(key, serial): &(Key, u64)| open.get(key).is_some_and(|o| o.serial == *serial);
            self.order.retain(lives);
        }
    }

    fn give_up_oldest(&mut self) -> bool {
        while let Some((key, serial)) = self.order.pop_front() {
            if self
                .open
                .get(&key)
                .is_some_and(|open| open.serial == serial)
            {
                self.give_up(&key);
                return true;
            }
        }
        false
    }

    fn give_up(&mut self, key: &Key) {
        if let Some(open) = self.open.remove(key) {
            self.bytes -= open.buf.data().len();
            let has_start = open
                .buf
                .sections()
                .iter()
                .any(|section| section.start == 0 && section.end >= 4);
            let dst_port = if has_start {
                be16(open.buf.data(), 2)
            } else {
                None
            };
            if open.pieces > 0 {
                self.lost.push(Lost {
                    pieces: open.pieces,
                    dst_port,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::wire::ip::Fragment;

    fn piece(id: u32, offset: u16, more: bool, payload: &[u8]) -> OuterFragment<'_> {
        let address = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
        let fragment = Fragment {
            id,
            offset,
            more,
            payload_at: 20,
            protocol: 17,
        };
        OuterFragment {
            src: address(1),
            dst: address(2),
            fragment,
            payload,
            cut: false,
        }
    }

    #[test]
    fn pieces_in_any_order_become_one_datagram() {
        let bytes: Vec<u8> = (0..20).collect();
        let mut reassembly = Reassembly::default();
        assert!(matches!(
            reassembly.add(0, &piece(1, 1, true, &bytes[8..16])),
            Piece::Held
        ));
        assert!(
            matches!(
                reassembly.add(0, &piece(2, 0, true, &bytes[..8])),
                Piece::Held
            ),
            "another datagram"
        );
        assert!(matches!(
            reassembly.add(0, &piece(1, 2, false, &bytes[16..])),
            Piece::Held
        ));
        let Piece::Completed(joined) = reassembly.add(0, &piece(1, 0, true, &bytes[..8])) else {
            panic!("not complete")
        };
        assert_eq!(
            (joined.payload, joined.pieces, joined.ip.declared_len),
            (bytes, 3, 40)
        );
        assert_eq!(joined.largest_piece, 28, "a header of 20 and 8 bytes");
        reassembly.finish();
        let lost: Vec<_> = reassembly.take_lost().collect();
        assert_eq!(
            lost,
            [Lost {
                pieces: 1,
                dst_port: Some(0x0203)
            }]
        );
        assert_eq!(reassembly.bytes, 0);
    }

    #[test]
    fn time_and_memory_are_bounded() {
        let mut reassembly = Reassembly::default();
        reassembly.add(0, &piece(1, 1, true, &[0; 8]));
        reassembly.add(TIMEOUT_NS + 1, &piece(2, 1, true, &[0; 8]));
        assert_eq!(
            reassembly.take_lost().collect::<Vec<_>>(),
            [Lost {
                pieces: 1,
                dst_port: None
            }]
        );
        let mut given_up = 0;
        for id in 0..1000 {
            reassembly.add(TIMEOUT_NS + 1, &piece(100 + id, 8000, true, &[0; 8]));
            given_up += reassembly.take_lost().map(|lost| lost.pieces).sum::<u64>();
            assert!(reassembly.held_bytes() <= MAX_BYTES);
        }
        reassembly.finish();
        given_up += reassembly.take_lost().map(|lost| lost.pieces).sum::<u64>();
        assert_eq!(given_up, 1001, "every piece is accounted for");
    }

    #[test]
    fn tiny_pieces_and_joined_datagrams_leave_no_memory_behind() {
        let mut reassembly = Reassembly::default();
        for id in 0..100_000 {
            reassembly.add(0, &piece(id, 1, true, &[]));
            reassembly.add(0, &piece(1 << 20, 1, false, &[0; 8]));
            reassembly.add(0, &piece(1 << 20, 0, true, &[0; 8]));
            assert!(reassembly.held_bytes() <= MAX_BYTES);
            assert!(reassembly.order.len() <= 65 + 2 * reassembly.open.len());
        }
    }

    #[test]
    fn a_last_piece_that_ends_too_early_contradicts() {
        let mut reassembly = Reassembly::default();
        reassembly.add(0, &piece(1, 2, true, &[0; 8]));
        let early = reassembly.add(0, &piece(1, 0, false, &[0; 8]));
        assert!(matches!(early, Piece::Contradiction), "{early:?}");
        assert_eq!(reassembly.bytes, 0);
    }

    #[test]
    fn contradictions_are_told() {
        let mut reassembly = Reassembly::default();
        reassembly.add(0, &piece(1, 2, false, &[0; 8]));
        assert!(matches!(
            reassembly.add(0, &piece(1, 4, true, &[0; 8])),
            Piece::Contradiction
        ));
        assert_eq!(reassembly.take_lost().count(), 1);
        assert!(matches!(
            reassembly.add(0, &piece(3, 0, true, &[0; 7])),
            Piece::Contradiction
        ));
        assert_eq!(
            reassembly.take_lost().count(),
            0,
            "the piece itself is the caller's to count"
        );
    }
}
