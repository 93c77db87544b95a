//! Outer fragments, put together within a bounded memory.
//!
//! RFC 7348 forbids the encapsulator to fragment, but a router on the way may. A socket gets whole
//! datagrams from the kernel; a capture file and a packet ring hold the pieces. This module keeps the open
//! datagrams, gives up the oldest when memory or time runs out, and accounts for every piece. Of a datagram
//! that is given up the beginning is handed over, where it is there.
//!
//! Pieces that overlap are treated as Linux treats them (net/ipv4/inet_fragment.c,
//! inet_frag_queue_insert): a copy of bytes that are here already is passed over, any other overlap refuses
//! the whole datagram (RFC 8200 §4.5 demands it). A copy with other bytes refuses it too. A capture of all
//! interfaces (`tcpdump -i any`) has every packet of a bridge twice, so copies also come right behind the
//! datagram that they belong to.

use std::collections::VecDeque;
use std::net::IpAddr;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::be16;
use super::ip::IpHeader;
use super::numbers::protocol;
use super::outer::OuterFragment;
use super::refusal::Malformed;

/// Most bytes held for datagrams that are not complete.
pub const MAX_BYTES: usize = 8 << 20;
/// What an open datagram costs beside its bytes, generously.
const OPEN_BYTES: usize = 512;
/// A datagram whose pieces are further apart than this is given up, in nanoseconds of packet time
/// (RFC 791 suggests 15 s, RFC 8200 demands 60 s; Linux uses 30 s).
pub const TIMEOUT_NS: u64 = 30_000_000_000;
/// A piece that contradicts others which are older than this begins another datagram: the sender has used
/// its number again.
const NUMBER_USED_AGAIN_NS: u64 = 1_000_000_000;
/// Most pieces of a datagram. The longest datagram on the smallest usual MTU, 576, has 119.
const MAX_PIECES: usize = 128;
/// Longest IP payload, in bytes.
const MAX_PAYLOAD: usize = 65_535;
/// Datagrams remembered when they are complete. A copy of the last piece comes right behind it.
const RECENT: usize = 16;
/// How long after the whole a copy of a piece may come.
const COPY_WITHIN_NS: u64 = 100_000_000;
/// Buffers kept for the next datagram.
const SPARE_BUFFERS: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    src: IpAddr,
    dst: IpAddr,
    id: u32,
    protocol: u8,
}

/// The bytes of pieces, in the order they came.
#[derive(Default)]
struct Buffers {
    data: Vec<u8>,
    /// Where each belongs, lowest first; they do not overlap.
    places: Vec<Place>,
}

/// The place of a piece in its datagram.
#[derive(Clone, Copy)]
struct Place {
    /// First byte of the IP payload, and the one behind its last.
    start: u32,
    end: u32,
    /// First byte in `data`.
    at: u32,
    /// Bytes there; fewer than from start to end where the capture cut them.
    len: u32,
}

impl Place {
    fn bytes<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        let at = self.at as usize;
        data.get(at..at + self.len as usize).unwrap_or_default()
    }
}

impl Buffers {
    /// Bytes of memory.
    const fn cost(&self) -> usize {
        self.data.capacity() + self.places.capacity() * size_of::<Place>()
    }
}

struct Open {
    buffers: Buffers,
    /// Bytes of IP header in front of the first piece.
    ip_header_len: usize,
    pieces: u64,
    /// Bytes of the largest piece, its IP header included.
    largest_piece: usize,
    /// Bytes under pieces.
    covered: u32,
    /// Bytes of the whole, once the last piece is there.
    total: Option<u32>,
    first_ns: u64,
    last_ns: u64,
    serial: u64,
    /// Why its pieces are not wanted.
    refused: Option<Malformed>,
}

/// A datagram that was completed a moment ago.
#[derive(Clone, Copy)]
struct Done {
    key: Key,
    /// Bytes of its IP payload.
    total: u32,
    at_ns: u64,
}

/// A datagram put together, or its beginning.
#[derive(Debug)]
pub struct Joined {
    /// Header for the whole; `declared_len` covers it.
    pub ip: IpHeader,
    /// The IP payload, as far as it is here.
    pub payload: Vec<u8>,
    /// Pieces it came in, the last one included.
    pub pieces: u64,
    /// Bytes of the largest one, its IP header included.
    pub largest_piece: u32,
    /// What is missing at the end, if anything is.
    pub missing: Missing,
}

/// What a joined datagram lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Nothing.
    Nothing,
    /// Bytes that the capture did not store of a piece.
    NotStored,
    /// Pieces that never came.
    Pieces,
}

/// What became of a piece.
#[derive(Debug)]
pub enum Piece {
    /// Kept until the others come, or a copy of one that is.
    Held,
    /// It was the last one missing.
    Completed(Box<Joined>),
    /// A later piece of a datagram that is complete already: it has come a second time.
    Again,
    /// It contradicts the pieces before it, which are given up too, or belongs to a datagram that is
    /// refused.
    Refused(Malformed),
}

/// Pieces of a datagram that never became whole.
#[derive(Debug)]
pub struct GivenUp {
    /// How many.
    pub pieces: u64,
    /// Arrival of the last one, nanoseconds since 1970.
    pub ts_ns: u64,
    /// What they were.
    pub what: Remains,
}

/// What there is of a datagram that is given up.
#[derive(Debug)]
pub enum Remains {
    /// Its beginning.
    Beginning(Box<Joined>),
    /// Later pieces only: nobody knows its port.
    NoBeginning,
    /// Pieces that contradict each other.
    Refused(Malformed),
}

/// The datagrams that are not whole yet.
#[derive(Default)]
pub struct Reassembly {
    open: HashMap<Key, Open, foldhash::fast::RandomState>,
    /// Oldest first; an entry whose serial is not that of the open datagram is stale.
    order: VecDeque<(Key, u64)>,
    bytes: usize,
    serial: u64,
    given_up: VecDeque<GivenUp>,
    /// Completed of late; the next takes the place of number `completed` of them.
    recent: [Option<Done>; RECENT],
    completed: usize,
    spare: Vec<Buffers>,
}

impl Reassembly {
    /// Takes a piece that arrived at `now_ns`. Pieces given up in the course of this wait in
    /// [`Self::next_given_up`].
    pub fn add(&mut self, now_ns: u64, piece: &OuterFragment<'_>) -> Piece {
        self.expire(now_ns);
        let fragment = piece.fragment;
        let key = Key {
            src: piece.src,
            dst: piece.dst,
            id: fragment.id,
            protocol: fragment.protocol,
        };
        let mut fate = self.put(now_ns, &key, piece);
        if let Put::Refused(_) = fate
            && self.is_older(&key, now_ns)
        {
            self.give_up(&key);
            fate = self.put(now_ns, &key, piece);
        }
        let piece = match fate {
            Put::Refused(reason) => {
                self.refuse(&key, reason);
                Piece::Refused(reason)
            }
            Put::Completed => match self.take(&key) {
                Some(open) => {
                    self.remember(key, open.covered, now_ns);
                    Piece::Completed(Box::new(self.join(&key, open)))
                }
                None => Piece::Held,
            },
            Put::Again => Piece::Again,
            Put::Held => Piece::Held,
        };
        while self.held_bytes() > MAX_BYTES && self.give_up_oldest() {}
        self.drop_stale();
        piece
    }

    /// Puts a piece to its datagram.
    fn put(&mut self, now_ns: u64, key: &Key, piece: &OuterFragment<'_>) -> Put {
        let Self {
            open,
            order,
            serial,
            spare,
            bytes,
            recent,
            ..
        } = self;
        let open = match open.entry(*key) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(_) if recent.iter().flatten().any(|d| d.has(now_ns, key, piece)) => {
                return Put::Again;
            }
            Entry::Vacant(place) => {
                *serial += 1;
                order.push_back((*key, *serial));
                let buffers = spare.pop().unwrap_or_default();
                *bytes += buffers.cost();
                place.insert(Open {
                    buffers,
                    ip_header_len: piece.fragment.payload_at,
                    pieces: 0,
                    largest_piece: 0,
                    covered: 0,
                    total: None,
                    first_ns: now_ns,
                    last_ns: now_ns,
                    serial: *serial,
                    refused: None,
                })
            }
        };
        let before = open.buffers.cost();
        let fate = open.add(now_ns, piece);
        *bytes = *bytes + open.buffers.cost() - before;
        fate
    }

    /// Remembers a datagram that is complete.
    fn remember(&mut self, key: Key, total: u32, at_ns: u64) {
        if let Some(place) = self.recent.get_mut(self.completed % RECENT) {
            *place = Some(Done { key, total, at_ns });
        }
        self.completed = self.completed.wrapping_add(1);
    }

    /// Whether what is there of a datagram is so old that a piece of now is of another one.
    fn is_older(&self, key: &Key, now_ns: u64) -> bool {
        let open = self
            .open
            .get(key)
            .filter(|open| open.pieces > 0 || open.refused.is_some());
        open.is_some_and(|open| now_ns.saturating_sub(open.last_ns) > NUMBER_USED_AGAIN_NS)
    }

    /// Gives up the pieces of a datagram for a reason of its own, and refuses those to come.
    fn refuse(&mut self, key: &Key, reason: Malformed) {
        if let Some(open) = self.open.get_mut(key) {
            self.bytes -= open.buffers.cost();
            open.buffers = Buffers::default();
            open.refused = Some(reason);
            let pieces = std::mem::take(&mut open.pieces);
            if pieces > 0 {
                self.given_up.push_back(GivenUp {
                    pieces,
                    ts_ns: open.last_ns,
                    what: Remains::Refused(reason),
                });
            }
        }
    }

    /// Gives up the datagram that is open the longest; `false` when there is none. At the end of the input
    /// this is called until then.
    pub fn give_up_oldest(&mut self) -> bool {
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

    /// A datagram that was given up, each once.
    pub fn next_given_up(&mut self) -> Option<GivenUp> {
        self.given_up.pop_front()
    }

    fn give_up(&mut self, key: &Key) {
        let Some(open) = self.take(key) else {
            return;
        };
        let (pieces, ts_ns) = (open.pieces, open.last_ns);
        if pieces == 0 {
            return self.put_back(open.buffers);
        }
        let what = match open.buffers.places.first() {
            Some(Place { start: 0, .. }) => Remains::Beginning(Box::new(self.join(key, open))),
            _ => {
                self.put_back(open.buffers);
                Remains::NoBeginning
            }
        };
        self.given_up.push_back(GivenUp {
            pieces,
            ts_ns,
            what,
        });
    }

    fn take(&mut self, key: &Key) -> Option<Open> {
        let open = self.open.remove(key)?;
        self.bytes -= open.buffers.cost();
        Some(open)
    }

    /// Keeps buffers for the next datagram, unless they are large.
    fn put_back(&mut self, mut buffers: Buffers) {
        if self.spare.len() < SPARE_BUFFERS && buffers.cost() <= 4096 {
            buffers.data.clear();
            buffers.places.clear();
            self.spare.push(buffers);
        }
    }

    /// Puts together what is there from the beginning on.
    fn join(&mut self, key: &Key, mut open: Open) -> Joined {
        let (mut missing, payload) = open.payload();
        if missing == Missing::Nothing && open.total.is_none_or(|total| open.covered < total) {
            missing = Missing::Pieces;
        }
        let mut ip = IpHeader {
            src: key.src.into(),
            dst: key.dst.into(),
            protocol: key.protocol,
            header_len: open.ip_header_len,
            declared_len: 0,
            tos: 0,
            ttl: 0,
            fragment: None,
            options_cut: false,
        };
        ip.read_extensions(&payload);
        let payload = match ip.header_len - open.ip_header_len {
            0 => payload,
            behind => payload.get(behind..).unwrap_or_default().to_vec(),
        };
        let end = match open.total {
            Some(total) => open.ip_header_len + total as usize,
            // The first piece has the UDP header, which tells how long the whole is.
            None if ip.protocol == protocol::UDP => {
                let udp_len = be16(&payload, 4).map_or(0, usize::from);
                ip.header_len + udp_len.max(payload.len())
            }
            None => ip.header_len + payload.len(),
        };
        ip.declared_len = u32::try_from(end).unwrap_or(u32::MAX);
        self.put_back(std::mem::take(&mut open.buffers));
        Joined {
            ip,
            payload,
            pieces: open.pieces,
            largest_piece: u32::try_from(open.largest_piece).unwrap_or(u32::MAX),
            missing,
        }
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
}

/// What adding a piece came to.
enum Put {
    Held,
    Completed,
    Again,
    Refused(Malformed),
}

impl Done {
    /// Whether `piece` is one of its later pieces. A first piece begins a datagram of its own.
    fn has(&self, now_ns: u64, key: &Key, piece: &OuterFragment<'_>) -> bool {
        let start = usize::from(piece.fragment.offset) * 8;
        let (end, total) = (start + piece.len, self.total as usize);
        self.key == *key
            && start > 0
            && piece.len > 0
            && match piece.fragment.more {
                true => end < total,
                false => end == total,
            }
            && now_ns.saturating_sub(self.at_ns) <= COPY_WITHIN_NS
    }
}

impl Open {
    fn add(&mut self, now_ns: u64, piece: &OuterFragment<'_>) -> Put {
        if let Some(reason) = self.refused {
            return Put::Refused(reason);
        }
        let start = usize::from(piece.fragment.offset) * 8;
        let end = start + piece.len;
        let more = piece.fragment.more;
        if piece.len == 0 || end > MAX_PAYLOAD || (more && !piece.len.is_multiple_of(8)) {
            return Put::Refused(Malformed::OuterFragment);
        }
        // Both are below 65,536 here.
        let (start, end) = (start as u32, end as u32);
        let highest = self.buffers.places.last().map_or(0, |place| place.end);
        let contradicts = match self.total {
            Some(total) => end > total || (!more && end != total),
            None => !more && end < highest,
        };
        if contradicts {
            return Put::Refused(Malformed::OuterFragment);
        }
        let places = &mut self.buffers.places;
        // Most come in order.
        let at = match places.last() {
            Some(last) if last.end > start => places.partition_point(|place| place.end <= start),
            _ => places.len(),
        };
        if places.get(at).is_some_and(|place| place.start < end) {
            return match self.is_copy(at, start, end, piece.payload) {
                true => {
                    self.pieces += 1;
                    self.last_ns = now_ns;
                    Put::Held
                }
                false => Put::Refused(Malformed::OuterOverlap),
            };
        }
        if places.len() >= MAX_PIECES {
            return Put::Refused(Malformed::OuterFragment);
        }
        let data = &mut self.buffers.data;
        places.insert(
            at,
            Place {
                start,
                end,
                at: data.len() as u32,
                len: piece.payload.len() as u32,
            },
        );
        data.extend_from_slice(piece.payload);
        self.pieces += 1;
        self.last_ns = now_ns;
        self.covered += end - start;
        self.largest_piece = self
            .largest_piece
            .max(piece.fragment.payload_at + piece.len);
        if start == 0 {
            self.ip_header_len = piece.fragment.payload_at;
        }
        if !more {
            self.total = Some(end);
        }
        match self.total == Some(self.covered) {
            true => Put::Completed,
            false => Put::Held,
        }
    }

    /// Whether the bytes from `start` to `end` are all under the pieces from number `at` on, and the same.
    fn is_copy(&self, at: usize, start: u32, end: u32, payload: &[u8]) -> bool {
        let mut from = start;
        for place in self.buffers.places.iter().skip(at) {
            if place.start > from {
                return false;
            }
            let to = place.end.min(end);
            let held = place.bytes(&self.buffers.data);
            let held = held
                .get((from - place.start) as usize..)
                .unwrap_or_default();
            let given = payload.get((from - start) as usize..).unwrap_or_default();
            let given = given.get(..(to - from) as usize).unwrap_or(given);
            if held.iter().zip(given).any(|(held, given)| held != given) {
                return false;
            }
            from = to;
            if from == end {
                return true;
            }
        }
        false
    }

    /// The bytes from the beginning up to the first that is missing, and why that is.
    fn payload(&mut self) -> (Missing, Vec<u8>) {
        let Buffers { data, places } = &mut self.buffers;
        if let [only] = places.as_slice()
            && only.start == 0
        {
            let missing = match only.len == only.end {
                true => Missing::Nothing,
                false => Missing::NotStored,
            };
            return (missing, std::mem::take(data));
        }
        let mut payload = Vec::with_capacity(data.len());
        for place in places.iter() {
            if place.start as usize != payload.len() {
                return (Missing::Pieces, payload);
            }
            payload.extend_from_slice(place.bytes(data));
            if place.len != place.end - place.start {
                return (Missing::NotStored, payload);
            }
        }
        (Missing::Nothing, payload)
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
            len: payload.len(),
        }
    }

    /// What was given up, in short: pieces, and what remains.
    fn given_up(reassembly: &mut Reassembly) -> Vec<(u64, String)> {
        std::iter::from_fn(|| reassembly.next_given_up())
            .map(|given_up| {
                let what = match given_up.what {
                    Remains::Beginning(joined) => {
                        format!("{} bytes, {:?}", joined.payload.len(), joined.missing)
                    }
                    Remains::NoBeginning => "no beginning".to_owned(),
                    Remains::Refused(reason) => reason.reason().to_owned(),
                };
                (given_up.pieces, what)
            })
            .collect()
    }

    fn end(reassembly: &mut Reassembly) -> Vec<(u64, String)> {
        while reassembly.give_up_oldest() {}
        assert_eq!((reassembly.bytes, reassembly.open.len()), (0, 0));
        given_up(reassembly)
    }

    fn held(reassembly: &mut Reassembly, now_ns: u64, piece: &OuterFragment<'_>) {
        let fate = reassembly.add(now_ns, piece);
        assert!(matches!(fate, Piece::Held), "{fate:?}");
    }

    fn refused(reassembly: &mut Reassembly, now_ns: u64, piece: &OuterFragment<'_>) -> Malformed {
        match reassembly.add(now_ns, piece) {
            Piece::Refused(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    fn joined(reassembly: &mut Reassembly, piece: &OuterFragment<'_>) -> Joined {
        match reassembly.add(0, piece) {
            Piece::Completed(joined) => *joined,
            other => panic!("not complete: {other:?}"),
        }
    }

    #[test]
    fn pieces_in_any_order_become_one_datagram() {
        let bytes: Vec<u8> = (0..20).collect();
        let mut reassembly = Reassembly::default();
        held(&mut reassembly, 0, &piece(1, 1, true, &bytes[8..16]));
        // Another datagram.
        held(&mut reassembly, 0, &piece(2, 0, true, &bytes[..8]));
        held(&mut reassembly, 0, &piece(1, 2, false, &bytes[16..]));
        let joined = joined(&mut reassembly, &piece(1, 0, true, &bytes[..8]));
        assert_eq!(
            (joined.payload, joined.pieces, joined.ip.declared_len),
            (bytes, 3, 40)
        );
        assert_eq!(joined.largest_piece, 28, "a header of 20 and 8 bytes");
        assert_eq!(joined.missing, Missing::Nothing);
        let beginning = "8 bytes, Pieces".to_owned();
        assert_eq!(end(&mut reassembly), [(1, beginning)]);
    }

    /// As a capture of all interfaces has them on a bridge: each piece a second time right behind it.
    #[test]
    fn a_piece_that_comes_again_behind_the_whole_is_told() {
        let bytes: Vec<u8> = (0..40).collect();
        let mut reassembly = Reassembly::default();
        for id in 0..3 * RECENT as u32 {
            let first = piece(id, 0, true, &bytes[..32]);
            held(&mut reassembly, 0, &first);
            held(&mut reassembly, 0, &first);
            let last = piece(id, 4, false, &bytes[32..]);
            assert_eq!(joined(&mut reassembly, &last).pieces, 3);
            for again in [&last, &piece(id, 2, true, &bytes[16..24])] {
                let fate = reassembly.add(5, again);
                assert!(matches!(fate, Piece::Again), "{fate:?}");
            }
        }
        assert_eq!(end(&mut reassembly), []);
        // Another datagram: a first piece, one that is not of the same length, one long after, one forgotten.
        let last_id = 3 * RECENT as u32 - 1;
        held(
            &mut reassembly,
            5,
            &piece(last_id - 1, 0, true, &bytes[..32]),
        );
        held(
            &mut reassembly,
            5,
            &piece(last_id, 4, false, &bytes[24..40]),
        );
        held(
            &mut reassembly,
            5,
            &piece(last_id - 2, 5, true, &bytes[..8]),
        );
        let late = COPY_WITHIN_NS + 1;
        held(
            &mut reassembly,
            late,
            &piece(last_id - 3, 4, false, &bytes[32..]),
        );
        held(&mut reassembly, late, &piece(0, 4, false, &bytes[32..]));
        assert_eq!(end(&mut reassembly).len(), 5);
    }

    /// The UDP header is in the first piece, and says how long the whole is.
    #[test]
    fn a_beginning_tells_the_length_of_the_whole() {
        let mut first = vec![0; 32];
        first[4..6].copy_from_slice(&1000u16.to_be_bytes());
        let mut reassembly = Reassembly::default();
        held(&mut reassembly, 5, &piece(1, 0, true, &first));
        // Behind a gap: no part of the beginning.
        held(&mut reassembly, 7, &piece(1, 8, true, &[1; 8]));
        assert!(reassembly.give_up_oldest());
        let given_up = reassembly.next_given_up().unwrap();
        assert_eq!((given_up.pieces, given_up.ts_ns), (2, 7));
        let Remains::Beginning(joined) = given_up.what else {
            panic!("{given_up:?}")
        };
        assert_eq!((joined.payload, joined.missing), (first, Missing::Pieces));
        assert_eq!(joined.ip.declared_len, 1020);
    }

    #[test]
    fn what_the_capture_cut_is_no_gap() {
        let bytes: Vec<u8> = (0..24).collect();
        let mut reassembly = Reassembly::default();
        let cut = |offset: u16, more, payload| OuterFragment {
            len: 8,
            ..piece(1, offset, more, payload)
        };
        held(&mut reassembly, 0, &cut(0, true, &bytes[..8]));
        held(&mut reassembly, 0, &cut(1, true, &bytes[8..11]));
        let whole = joined(&mut reassembly, &cut(2, false, &bytes[16..]));
        assert_eq!(whole.payload, bytes[..11]);
        assert_eq!(
            (whole.missing, whole.ip.declared_len),
            (Missing::NotStored, 44)
        );

        held(&mut reassembly, 0, &cut(0, true, &bytes[..6]));
        let beginning = "6 bytes, NotStored".to_owned();
        assert_eq!(end(&mut reassembly), [(1, beginning)]);
    }

    #[test]
    fn time_and_memory_are_bounded() {
        let mut reassembly = Reassembly::default();
        held(&mut reassembly, 0, &piece(1, 1, true, &[0; 8]));
        held(&mut reassembly, TIMEOUT_NS + 1, &piece(2, 1, true, &[0; 8]));
        let no_beginning = || "no beginning".to_owned();
        assert_eq!(given_up(&mut reassembly), [(1, no_beginning())]);
        let mut pieces = 0;
        for id in 0..30_000 {
            let bytes = vec![0; 8 * (1 + id as usize % 128)];
            held(
                &mut reassembly,
                TIMEOUT_NS + 1,
                &piece(100 + id, 7000, true, &bytes),
            );
            pieces += given_up(&mut reassembly).len();
            assert!(reassembly.held_bytes() <= MAX_BYTES);
        }
        pieces += end(&mut reassembly).len();
        assert_eq!(pieces, 30_001, "every piece is accounted for");
    }

    #[test]
    fn empty_pieces_and_joined_datagrams_leave_no_memory_behind() {
        let mut reassembly = Reassembly::default();
        for id in 0..100_000 {
            let why = refused(&mut reassembly, 0, &piece(id, 1, true, &[]));
            assert_eq!(why, Malformed::OuterFragment);
            let whole = 1 << 20 | id;
            held(&mut reassembly, 0, &piece(whole, 1, false, &[0; 8]));
            joined(&mut reassembly, &piece(whole, 0, true, &[0; 8]));
            assert!(reassembly.held_bytes() <= MAX_BYTES);
            assert!(reassembly.order.len() <= 65 + 2 * reassembly.open.len());
        }
    }

    #[test]
    fn contradictions_refuse_the_whole_datagram() {
        let eight = [0; 8];
        for (before, then) in [
            // Behind the end, another end, an end too early, a length that leaves a gap of bits.
            (piece(1, 2, false, &eight), piece(1, 4, true, &eight)),
            (piece(1, 2, false, &eight), piece(1, 3, false, &eight)),
            (piece(1, 2, true, &eight), piece(1, 0, false, &eight)),
            (piece(1, 2, true, &eight), piece(1, 0, true, &eight[..7])),
            (piece(1, 2, true, &eight), piece(1, 8191, false, &eight)),
        ] {
            let mut reassembly = Reassembly::default();
            held(&mut reassembly, 0, &before);
            assert_eq!(refused(&mut reassembly, 0, &then), Malformed::OuterFragment);
            let why = "outer_fragment".to_owned();
            assert_eq!(given_up(&mut reassembly), [(1, why)]);
            // The rest of it too.
            refused(&mut reassembly, 0, &piece(1, 1, true, &eight));
            assert_eq!(end(&mut reassembly), []);
        }
    }

    #[test]
    fn overlaps() {
        let bytes: Vec<u8> = (0..40).collect();
        let begin = || {
            let mut reassembly = Reassembly::default();
            held(&mut reassembly, 0, &piece(1, 0, true, &bytes[..16]));
            held(&mut reassembly, 0, &piece(1, 2, true, &bytes[16..32]));
            reassembly
        };
        // Copies of one piece, of a part of it, of parts of two.
        let mut reassembly = begin();
        held(&mut reassembly, 0, &piece(1, 0, true, &bytes[..16]));
        held(&mut reassembly, 0, &piece(1, 3, true, &bytes[24..32]));
        held(&mut reassembly, 0, &piece(1, 1, true, &bytes[8..24]));
        let whole = joined(&mut reassembly, &piece(1, 4, false, &bytes[32..]));
        assert_eq!((&whole.payload, whole.pieces), (&bytes, 6));

        let mut other = bytes.clone();
        other[20] ^= 1;
        for (start, last) in [
            // Other bytes under one piece, and under two; and bytes that go beyond what is there.
            (2, &other[16..32]),
            (1, &other[8..24]),
            (3, &bytes[24..40]),
        ] {
            let mut reassembly = begin();
            let piece_of = piece(1, start, true, last);
            assert_eq!(
                refused(&mut reassembly, 0, &piece_of),
                Malformed::OuterOverlap
            );
            assert_eq!(
                refused(&mut reassembly, 0, &piece(1, 4, false, &bytes[32..])),
                Malformed::OuterOverlap
            );
            let why = "outer_overlap".to_owned();
            assert_eq!(end(&mut reassembly), [(2, why)]);
        }
    }

    /// A sender has 65,536 numbers for its datagrams over IPv4.
    #[test]
    fn a_number_used_again_is_another_datagram() {
        let mut reassembly = Reassembly::default();
        held(&mut reassembly, 0, &piece(1, 0, true, &[1; 16]));
        let later = NUMBER_USED_AGAIN_NS + 1;
        held(&mut reassembly, later, &piece(1, 0, true, &[2; 16]));
        let beginning = "16 bytes, Pieces".to_owned();
        assert_eq!(given_up(&mut reassembly), [(1, beginning)]);
        refused(&mut reassembly, later, &piece(1, 0, true, &[3; 16]));
        assert_eq!(given_up(&mut reassembly).len(), 1);
        held(&mut reassembly, 2 * later, &piece(1, 0, true, &[4; 16]));
        assert_eq!(end(&mut reassembly).len(), 1);
    }

    #[test]
    fn pieces_are_bounded_in_number() {
        let mut reassembly = Reassembly::default();
        for number in 0..MAX_PIECES as u16 {
            held(&mut reassembly, 0, &piece(1, 2 * number, true, &[0; 8]));
        }
        let one_more = piece(1, 2 * MAX_PIECES as u16, true, &[0; 8]);
        refused(&mut reassembly, 0, &one_more);
        let why = "outer_fragment".to_owned();
        assert_eq!(end(&mut reassembly), [(MAX_PIECES as u64, why)]);
    }
}
