//! What is known of one connection: a cache line that every segment writes to.
//!
//! The usual segment begins where the last one of its direction ended, acknowledges nothing that was not
//! seen, and is not the first of its kind: [`Connection::take_usual`] has a dozen comparisons for it. All
//! others go to [`Connection::take`].

use super::history::{History, Letter, Letters};
use super::holes::{Holes, PLACE_BITS, Pool, ticks};
use super::state::{ConnState, End, follow};
use crate::flow::key::Way;
use crate::wire::inner::TcpHead;
use crate::wire::numbers::tcp_flag::{ACK, FIN, RST, SYN};

/// A late segment is out of order, not sent again, if it comes so soon after the last new one; in
/// nanoseconds. The round trip is used where it is known, as in Wireshark's `tcp_analyze_sequence_number`.
const OUT_OF_ORDER_NS: u64 = 3_000_000;
/// Numbers further from the expected ones are not believed at once: 64 MiB. Windows are smaller (Linux has 6 MiB by
/// default), and whoever changes numbers on the way, or makes them up, is mostly further off.
const FURTHEST: u32 = 1 << 26;
/// An acknowledgement number of zero that is further than this is one that was not filled in, as in Zeek.
const FURTHEST_ZERO: u32 = 1 << 20;

/// Payload of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Bytes, by the lengths that headers declare; at least so many where it is not exact.
    pub len: u32,
    /// Whether that is known: not where the IP header declares no length (segmentation offload), of the first
    /// fragment of a packet, nor behind a TCP header that declares an impossible length of its own.
    pub exact: bool,
}

impl Payload {
    /// No payload.
    pub const NONE: Self = Self {
        len: 0,
        exact: true,
    };

    /// Whether there is any. Segments whose length nobody declares come from segmentation offload: there is.
    const fn is_data(self) -> bool {
        self.len > 0 || !self.exact
    }
}

/// A segment of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Its direction.
    pub way: Way,
    /// Its header.
    pub head: &'a TcpHead,
    /// Its payload.
    pub payload: Payload,
    /// Arrival, nanoseconds since 1970.
    pub ts_ns: u64,
}

/// What one end has sent.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    /// Sequence number behind the last byte that is known to have been sent: it was seen, or acknowledged.
    next: u32,
    /// Sequence number of its first SYN.
    syn: u32,
    /// Bytes that were acknowledged and not seen, and segments sent again, since the record began.
    counts: Counts,
    /// Largest payload of a segment, at most 65,535 bytes.
    largest: u16,
    /// What its SYN announced; 0 for nothing.
    mss: u16,
    /// Zero windows and gaps, for the history; no further than 255.
    zero_windows: u8,
    gaps: u8,
    /// [`flag`]s, and its [`End`].
    flags: u16,
}

/// Forty bits for bytes of gaps, 24 for segments sent again. Neither goes beyond what fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts(u64);

impl Counts {
    const GAP_BITS: u32 = 40;
    const GAP_MASK: u64 = (1 << Self::GAP_BITS) - 1;

    const fn gap_bytes(self) -> u64 {
        self.0 & Self::GAP_MASK
    }

    const fn retransmitted(self) -> u64 {
        self.0 >> Self::GAP_BITS
    }

    const fn set_gap_bytes(&mut self, bytes: u64) {
        let bytes = if bytes > Self::GAP_MASK {
            Self::GAP_MASK
        } else {
            bytes
        };
        self.0 = (self.0 & !Self::GAP_MASK) | bytes;
    }

    const fn add_retransmitted(&mut self, segments: u64) {
        let most = u64::MAX >> Self::GAP_BITS;
        let sum = self.retransmitted() + segments;
        let sum = if sum > most { most } else { sum };
        self.0 = self.gap_bytes() | (sum << Self::GAP_BITS);
    }
}

/// Bits of [`Sent::flags`]; the lowest three are its [`End`].
mod flag {
    /// Three bits.
    pub(super) const END: u16 = 0x0007;
    /// An ACK and nothing else was noted.
    pub(super) const ACKED: u16 = 0x0008;
    /// Payload was noted.
    pub(super) const DATA: u16 = 0x0010;
    /// A FIN was noted.
    pub(super) const FIN: u16 = 0x0020;
    /// An RST was noted.
    pub(super) const RST: u16 = 0x0040;
    /// A SYN was noted.
    pub(super) const SYN: u16 = 0x0080;
    /// Its last segment was too far off to be believed.
    pub(super) const FAR: u16 = 0x0100;
    /// The last ACK of its bytes was.
    pub(super) const FAR_ACK: u16 = 0x0200;
    /// A packet came from this end.
    pub(super) const SEEN: u16 = 0x0400;
    /// [`super::Sent::next`] is known.
    pub(super) const KNOWN: u16 = 0x0800;
    /// The last segment may have been longer than is known.
    pub(super) const OPEN_END: u16 = 0x1000;
    /// It acknowledged more and more, so there is another end whether it was seen or not.
    pub(super) const PROGRESS: u16 = 0x2000;
    /// It is the originator.
    pub(super) const ORIGINATOR: u16 = 0x4000;
    /// Its SYN without ACK said so.
    pub(super) const OPENED: u16 = 0x8000;
}

impl Sent {
    #[inline]
    const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Sets the flag; whether it was not set before.
    const fn first(&mut self, flag: u16) -> bool {
        let is_first = !self.has(flag);
        self.flags |= flag;
        is_first
    }

    const fn end(&self) -> End {
        End::of_bits(self.flags & flag::END)
    }

    const fn set_end(&mut self, end: End) {
        self.flags = (self.flags & !flag::END) | end as u16;
    }

    #[inline]
    fn note_largest(&mut self, len: u32) {
        self.largest = self.largest.max(u16::try_from(len).unwrap_or(u16::MAX));
    }

    /// What this half tells and `other` does too: the state is that of the half that was seen.
    fn absorb(&mut self, other: &Self) {
        let roles = flag::ORIGINATOR | flag::OPENED;
        if !self.has(flag::SEEN) {
            let kept = self.flags & roles;
            *self = Self {
                counts: self.counts,
                ..*other
            };
            self.flags = (self.flags & !roles) | kept;
        }
        let counts = other.counts;
        self.counts.add_retransmitted(counts.retransmitted());
        self.counts
            .set_gap_bytes(self.counts.gap_bytes() + counts.gap_bytes());
        self.largest = self.largest.max(other.largest);
        if self.mss == 0 {
            self.mss = other.mss;
        }
    }
}

/// A time, whether it is that of the originator's SYN, which waits for its ACK, and the place in the pool of holes.
///
/// 44 bits of nanoseconds (four hours and 53 minutes), two bits, and 18 bits.
#[derive(Clone, Copy, Debug, Default)]
struct Clock(u64);

impl Clock {
    const TIME_BITS: u32 = 44;
    const TIME_MASK: u64 = (1 << Self::TIME_BITS) - 1;
    /// The time is that between SYN and ACK; 0 where it cannot be told: a part of the handshake came twice, or
    /// not at all.
    const MEASURED: u64 = 1 << Self::TIME_BITS;
    /// The time is that of the SYN.
    const PENDING: u64 = Self::MEASURED << 1;
    const PLACE_AT: u32 = Self::TIME_BITS + 2;
    const PLACE_MASK: u64 = u64::MAX << Self::PLACE_AT;

    const fn time(self) -> u64 {
        self.0 & Self::TIME_MASK
    }

    /// Whether neither a handshake is to be measured nor are there holes.
    #[inline]
    const fn is_calm(self) -> bool {
        self.0 & (Self::PENDING | Self::PLACE_MASK) == 0
    }

    const fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    const fn set(&mut self, flag: u64, time: u64) {
        self.0 = (self.0 & Self::PLACE_MASK) | flag | (time & Self::TIME_MASK);
    }

    const fn place(self) -> u32 {
        (self.0 >> Self::PLACE_AT) as u32
    }

    const fn set_place(&mut self, place: u32) {
        self.0 = (self.0 & !Self::PLACE_MASK) | ((place as u64) << Self::PLACE_AT);
    }

    /// The round trip.
    const fn rtt_ns(self) -> Option<u64> {
        if self.has(Self::MEASURED) && self.time() > 0 {
            Some(self.time())
        } else {
            None
        }
    }
}

const _: () = assert!(Clock::PLACE_AT + PLACE_BITS == u64::BITS);

/// One connection.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Connection {
    /// What the first end of the flow's key sent, and the second.
    sent: [Sent; 2],
    history: History,
    clock: Clock,
}

/// What a connection came to. Pairs are of originator and responder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The letters of its history.
    pub history: Letters,
    /// What became of it.
    pub state: ConnState,
    /// Nanoseconds from the SYN to the ACK that ends the handshake, where both were seen once.
    pub rtt_syn_ns: Option<u64>,
    /// Segments that each end sent again, since the record began; `None` for an end that was never seen.
    pub retransmitted: [Option<u64>; 2],
    /// Bytes of each end that the other one acknowledged and that were never seen, since the record began;
    /// likewise.
    pub gap_bytes: [Option<u64>; 2],
    /// The only end that was seen, though there was another: `o` for the originator, `r` for the responder.
    pub half: Option<&'static str>,
    /// Bytes of the largest payload of a segment whose length is exact, at most 65,535; `None` for an end that
    /// was never seen, and where no length is.
    pub largest: [Option<u16>; 2],
    /// Most bytes of payload that each end takes, as its SYN says.
    pub mss: [Option<u16>; 2],
}

impl Connection {
    /// Takes a segment if it is a usual one.
    #[inline]
    pub fn take_usual(&mut self, segment: &Segment<'_>) -> bool {
        let Segment {
            way,
            head,
            payload: Payload { len, exact },
            ..
        } = *segment;
        let [a, b] = &mut self.sent;
        let (own, peer) = match way {
            Way::AToB => (a, b),
            Way::BToA => (b, a),
        };
        let noted = if len == 0 { flag::ACKED } else { flag::DATA };
        let is_usual = head.flags & (SYN | FIN | RST | ACK) == ACK
            && head.seq == own.next
            && (peer.next.wrapping_sub(head.ack) as i32) >= 0
            && own.flags & (noted | flag::OPEN_END) == noted
            && self.clock.is_calm()
            && head.window != Some(0)
            && exact;
        if is_usual {
            own.next = own.next.wrapping_add(len);
            own.note_largest(len);
        }
        is_usual
    }

    /// Takes a segment. `pool` keeps holes, `owner` is the connection's name there.
    pub fn take(&mut self, segment: &Segment<'_>, pool: &mut Pool, owner: u32) {
        let Segment {
            way, head, payload, ..
        } = *segment;
        self.name_originator(way, head.flags);
        self.time_handshake(segment);
        let is_first_syn = head.flags & SYN != 0 && self.note_syn(way, head);
        self.note_flags(way, head, payload, is_first_syn);
        self.note_window(way, head);
        let now = ticks(segment.ts_ns);
        let place = self.clock.place();
        let mut holes = pool.of(place, owner);
        let (_, peer) = self.ends(way);
        holes.expire(now, !peer.has(flag::SEEN));
        if head.flags & RST == 0 {
            if head.flags & SYN != 0 {
                self.follow_syn(segment, is_first_syn);
            } else {
                self.follow_sequence(segment, &mut holes, now);
            }
            if head.flags & ACK != 0 {
                self.follow_ack(segment, &mut holes, now);
            }
        }
        let (own, peer) = self.ends(way);
        let is_originator = own.has(flag::ORIGINATOR);
        let (ends, has_data) = ((own.end(), peer.end()), payload.is_data());
        let (own_end, peer_end) = follow(ends.0, ends.1, head.flags, has_data, is_originator);
        own.set_end(own_end);
        peer.set_end(peer_end);
        own.flags |= flag::SEEN;
        if place != 0 || !holes.is_empty() {
            self.clock.set_place(pool.keep(place, owner, &holes));
        }
    }

    /// Gives free what `pool` keeps for this connection.
    pub fn release(&self, pool: &mut Pool, owner: u32) {
        pool.release(self.clock.place(), owner);
    }

    /// Sequence number of the first SYN that went `way`.
    pub const fn syn(&self, way: Way) -> u32 {
        let [a, b] = &self.sent;
        match way {
            Way::AToB => a.syn,
            Way::BToA => b.syn,
        }
    }

    /// What it came to; `originator` is the way the originator's packets go.
    pub fn facts(&self, originator: Way) -> Facts {
        let [a, b] = &self.sent;
        let ends = match originator {
            Way::AToB => [a, b],
            Way::BToA => [b, a],
        };
        let [o, r] = ends;
        let history = self.history.letters(originator);
        let is_one_sided =
            |own: &Sent, peer: &Sent| own.has(flag::PROGRESS) && !peer.has(flag::SEEN);
        let counts = |sent: &Sent| sent.has(flag::SEEN).then_some(sent.counts);
        Facts {
            history,
            state: ConnState::of(
                o.end(),
                r.end(),
                o.has(flag::DATA) || r.has(flag::DATA),
                history.bytes(),
            ),
            rtt_syn_ns: self.clock.rtt_ns(),
            retransmitted: ends.map(|sent| counts(sent).map(Counts::retransmitted)),
            gap_bytes: ends.map(|sent| counts(sent).map(Counts::gap_bytes)),
            half: match (is_one_sided(o, r), is_one_sided(r, o)) {
                (true, _) => Some("o"),
                (_, true) => Some("r"),
                _ => None,
            },
            largest: ends.map(|sent| {
                let is_known = sent.largest > 0 || !sent.has(flag::DATA);
                (sent.has(flag::SEEN) && is_known).then_some(sent.largest)
            }),
            mss: ends.map(|sent| Some(sent.mss).filter(|mss| *mss > 0)),
        }
    }

    /// What it came to since the last record, which ends here.
    pub fn take_record(&mut self, originator: Way) -> Facts {
        let facts = self.facts(originator);
        self.begin_record();
        facts
    }

    /// Has counts begin anew; the connection goes on.
    pub fn begin_record(&mut self) {
        for sent in &mut self.sent {
            sent.counts = Counts::default();
        }
    }

    /// Adds what another worker saw of the same connection, later: counts add up, an end's state is that of
    /// whoever saw it, letters follow each other.
    pub fn absorb(&mut self, other: &Self) {
        for (sent, others) in self.sent.iter_mut().zip(&other.sent) {
            sent.absorb(others);
        }
        self.history.append(other.history);
        if self.clock.rtt_ns().is_none()
            && let Some(rtt_ns) = other.clock.rtt_ns()
        {
            self.clock.set(Clock::MEASURED, rtt_ns);
        }
        // What opened on one worker was answered on the other.
        let [a, b] = &mut self.sent;
        for (one, two) in [(a.end(), b.end()), (b.end(), a.end())] {
            if (one, two) == (End::SynSent, End::Established) {
                a.set_end(End::Established);
                b.set_end(End::Established);
            }
        }
    }

    const fn ends(&mut self, way: Way) -> (&mut Sent, &mut Sent) {
        let [a, b] = &mut self.sent;
        match way {
            Way::AToB => (a, b),
            Way::BToA => (b, a),
        }
    }

    /// The originator sent the first SYN without ACK; else it is whose packet was seen first, or the other
    /// one if that was a SYN-ACK. The flow table goes by the same rule.
    const fn name_originator(&mut self, way: Way, flags: u16) {
        let is_first = self.is_empty();
        let (own, peer) = self.ends(way);
        if is_first && flags & (SYN | ACK) == SYN | ACK {
            peer.flags |= flag::ORIGINATOR;
            self.history.flip();
        } else if is_first {
            own.flags |= flag::ORIGINATOR;
            if flags & (SYN | ACK) == SYN {
                own.flags |= flag::OPENED;
            }
        } else if flags & (SYN | ACK) == SYN && !own.has(flag::OPENED) && !peer.has(flag::OPENED) {
            own.flags |= flag::OPENED;
            if peer.has(flag::ORIGINATOR) {
                peer.flags &= !flag::ORIGINATOR;
                own.flags |= flag::ORIGINATOR;
                self.history.flip();
            }
        }
    }

    /// Whether no segment was taken yet.
    pub const fn is_empty(&self) -> bool {
        let [a, b] = &self.sent;
        !a.has(flag::SEEN) && !b.has(flag::SEEN)
    }

    /// Letters of a segment's flags and payload, by Zeek's rules (`update_history`).
    fn note_flags(&mut self, way: Way, head: &TcpHead, payload: Payload, is_first_syn: bool) {
        let mut history = self.history;
        let (own, _) = self.ends(way);
        let flags = head.flags & (SYN | FIN | RST);
        match flags.count_ones() {
            0 if payload.is_data() => {
                if own.first(flag::DATA) {
                    history.add(Letter::Data, way);
                }
            }
            0 => {
                if head.flags & ACK != 0 && own.first(flag::ACKED) {
                    history.add(Letter::Ack, way);
                }
            }
            1 => {
                let end = head.seq.wrapping_add(payload.len).wrapping_add(1);
                let (letter, is_first, is_another) = match flags {
                    SYN if head.flags & ACK != 0 => {
                        (Letter::SynAck, is_first_syn, head.seq != own.syn)
                    }
                    SYN => (Letter::Syn, is_first_syn, head.seq != own.syn),
                    // Another FIN than the first, if it ends further on.
                    FIN => {
                        let is_further = end.wrapping_sub(own.next) as i32 > 0;
                        (Letter::Fin, own.first(flag::FIN), is_further)
                    }
                    _ => (Letter::Rst, own.first(flag::RST), false),
                };
                if is_first {
                    history.add(letter, way);
                } else if is_another {
                    history.add_repeated(letter, way);
                }
            }
            _ if flags & (FIN | RST) == FIN | RST => history.add_once(Letter::Inconsistent, way),
            _ => history.add_once(Letter::MultiFlag, way),
        }
        self.history = history;
    }

    /// A window of zero bytes is dull with or after a RST, and once the other side has sent its FIN.
    fn note_window(&mut self, way: Way, head: &TcpHead) {
        let mut history = self.history;
        let (own, peer) = self.ends(way);
        if head.window == Some(0)
            && head.flags & RST == 0
            && !own.end().is_reset()
            && peer.end() != End::Closed
        {
            own.zero_windows = own.zero_windows.saturating_add(1);
            if own.zero_windows < u8::MAX {
                history.add_scaled(Letter::ZeroWindow, way, own.zero_windows.into());
            }
        }
        self.history = history;
    }

    /// Keeps what a SYN announces; whether it is the first of its end.
    const fn note_syn(&mut self, way: Way, head: &TcpHead) -> bool {
        let (own, _) = self.ends(way);
        let is_first = own.first(flag::SYN);
        if is_first {
            own.syn = head.seq;
        }
        if own.mss == 0
            && let Some(mss) = head.mss
        {
            own.mss = mss;
        }
        is_first
    }

    /// Measures from the originator's SYN to its first ACK, if nothing in between came twice.
    fn time_handshake(&mut self, segment: &Segment<'_>) {
        let Segment {
            way, head, ts_ns, ..
        } = *segment;
        let clock = self.clock;
        let (own, peer) = self.ends(way);
        let (flag, time) = match head.flags & (SYN | ACK | RST) {
            SYN if !clock.has(Clock::PENDING | Clock::MEASURED) => (Clock::PENDING, ts_ns),
            SYN if clock.has(Clock::PENDING) => (Clock::MEASURED, 0),
            ACK if clock.has(Clock::PENDING) && own.has(flag::OPENED) => {
                let follows = head.seq.wrapping_sub(own.syn) == 1 || head.seq == own.next;
                let answers = !peer.has(flag::SYN) || head.ack.wrapping_sub(peer.syn) == 1;
                let took = ts_ns.wrapping_sub(clock.time()) & Clock::TIME_MASK;
                // A time that goes back looks like a very long one.
                let is_clear = follows && answers && took < Clock::TIME_MASK / 2;
                (Clock::MEASURED, if is_clear { took } else { 0 })
            }
            // A SYN-ACK for the second time.
            flags if flags == SYN | ACK && clock.has(Clock::PENDING) && own.has(flag::SYN) => {
                (Clock::MEASURED, 0)
            }
            _ => return,
        };
        self.clock.set(flag, time);
    }

    /// Where the sequence numbers of an end begin.
    fn follow_syn(&mut self, segment: &Segment<'_>, is_first: bool) {
        let (head, payload) = (segment.head, segment.payload);
        let (own, _) = self.ends(segment.way);
        let end = head.seq.wrapping_add(1).wrapping_add(payload.len);
        let further = end.wrapping_sub(own.next) as i32;
        let begins = if is_first {
            // The other side's ACKs may have told already.
            !own.has(flag::KNOWN) || further > 0 || further.unsigned_abs() > FURTHEST
        } else if head.seq == own.syn {
            own.counts.add_retransmitted(1);
            false
        } else {
            // A new attempt.
            !own.has(flag::DATA | flag::ACKED)
        };
        if begins {
            own.next = end;
            own.flags |= flag::KNOWN;
            if payload.exact {
                own.note_largest(payload.len);
            }
        }
    }

    /// Where a segment lies among the bytes of its end.
    fn follow_sequence(&mut self, segment: &Segment<'_>, holes: &mut Holes, now: u32) {
        let Segment {
            way, head, payload, ..
        } = *segment;
        let Payload { len, exact } = payload;
        let out_of_order_ns = self.clock.rtt_ns().unwrap_or(OUT_OF_ORDER_NS);
        let mut history = self.history;
        let (own, peer) = self.ends(way);
        let fin = u32::from(head.flags & FIN != 0);
        let end = head.seq.wrapping_add(len).wrapping_add(fin);
        let taken = len.saturating_add(fin);
        // What ACKs told of bytes on their way when the capture began proves nothing.
        let is_known = own.has(flag::KNOWN) && (own.has(flag::SEEN) || peer.has(flag::SYN));
        let further = head.seq.wrapping_sub(own.next) as i32;
        if exact {
            own.note_largest(len);
        }
        let is_far = is_known && further.unsigned_abs() > FURTHEST;
        // Two in a row are believed.
        if is_far && own.first(flag::FAR) {
            return;
        }
        own.flags &= !flag::FAR;
        let is_known = is_known && !is_far;
        if is_known && further < 0 {
            let is_keep_alive = further == -1 && len <= 1 && fin == 0;
            if taken == 0 || is_keep_alive {
                return;
            }
            let filled = holes.fill(way, head.seq, taken);
            let is_again = if filled.bytes > 0 {
                let gap_bytes = own.counts.gap_bytes();
                own.counts
                    .set_gap_bytes(gap_bytes.saturating_sub(filled.of_gap.into()));
                filled.asked_for || holes.since_advance_ns(way, now) >= out_of_order_ns
            } else {
                // Real data may follow a probe of a closed window, whose byte was not taken.
                further != -1 || len <= 1
            };
            if is_again {
                own.counts.add_retransmitted(1);
                if len > 0 {
                    let count = u32::try_from(own.counts.retransmitted()).unwrap_or(u32::MAX);
                    history.add_retransmission(way, count);
                }
                self.history = history;
            }
            let (own, _) = self.ends(way);
            if end.wrapping_sub(own.next) as i32 > 0 {
                own.next = end;
                holes.advance(way, now);
            }
            return;
        }
        if is_known && further > 0 && !own.has(flag::OPEN_END) {
            holes.open(way, own.next, further.unsigned_abs(), now);
        }
        own.next = end;
        own.flags |= flag::KNOWN;
        own.flags = if exact {
            own.flags & !flag::OPEN_END
        } else {
            own.flags | flag::OPEN_END
        };
        holes.advance(way, now);
    }

    /// What an ACK tells of the bytes of the other end.
    fn follow_ack(&mut self, segment: &Segment<'_>, holes: &mut Holes, now: u32) {
        let Segment {
            way, head, payload, ..
        } = *segment;
        let is_pure = !payload.is_data() && head.flags & (SYN | FIN) == 0;
        let mut history = self.history;
        let (own, peer) = self.ends(way);
        if own.has(flag::SYN) && head.flags & SYN == 0 {
            own.flags |= flag::PROGRESS;
        }
        if !peer.has(flag::KNOWN) {
            peer.next = head.ack;
            peer.flags |= flag::KNOWN;
            return;
        }
        let beyond = head.ack.wrapping_sub(peer.next) as i32;
        let mut gap = 0;
        if beyond <= FURTHEST as i32 {
            peer.flags &= !flag::FAR_ACK;
        }
        if !holes.is_empty() {
            gap = holes.acknowledge(way.reverse(), head.ack, is_pure, now);
        }
        if beyond > 0 {
            let beyond = beyond.unsigned_abs();
            if head.ack == 0 && beyond > FURTHEST_ZERO {
                return;
            }
            if beyond > FURTHEST && peer.has(flag::SEEN) {
                // Two in a row are believed, but prove nothing.
                if !peer.first(flag::FAR_ACK) {
                    peer.flags &= !flag::FAR_ACK;
                    peer.next = head.ack;
                }
                return;
            }
            if !peer.has(flag::SEEN) {
                own.flags |= flag::PROGRESS;
            }
            // From the beginning on, or from the first packet that was seen; a FIN ends it.
            let counts = (peer.has(flag::SEEN) || own.has(flag::SYN))
                && !peer.has(flag::OPEN_END)
                && peer.end() != End::Closed
                && !peer.end().is_reset();
            if counts {
                holes.open_acknowledged(way.reverse(), peer.next, beyond, now);
                holes.advance(way.reverse(), now);
                gap = gap.saturating_add(beyond);
            }
            peer.next = head.ack;
        }
        if gap > 0 {
            peer.counts
                .set_gap_bytes(peer.counts.gap_bytes() + u64::from(gap));
            if peer.has(flag::SEEN) {
                peer.gaps = peer.gaps.saturating_add(1);
            }
            if peer.gaps < u8::MAX {
                history.add_scaled(Letter::Gap, way.reverse(), peer.gaps.into());
            }
            self.history = history;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use Way::{AToB, BToA};

    const PSH: u16 = 0x08;
    const MS: u64 = 1_000_000;

    /// A connection and what it is fed. The client is A; sequence numbers are counted from each SYN.
    struct Tape {
        connection: Connection,
        pool: Pool,
        now: u64,
        /// Initial sequence numbers.
        first: [u32; 2],
        window: u16,
        /// How many segments were usual ones.
        usual: u32,
    }

    impl Tape {
        fn new() -> Self {
            Self::at([1000, 5_000_000])
        }

        fn at(first: [u32; 2]) -> Self {
            Self {
                connection: Connection::default(),
                pool: Pool::new(8),
                now: 1_700_000_000_000_000_000,
                first,
                window: 512,
                usual: 0,
            }
        }

        /// A segment, a millisecond after the one before.
        fn send(&mut self, way: Way, flags: u16, seq: u32, ack: u32, len: u32) {
            let exact = true;
            self.send_of(way, flags, seq, ack, Payload { len, exact });
        }

        fn send_of(&mut self, way: Way, flags: u16, seq: u32, ack: u32, payload: Payload) {
            self.now += MS;
            let [a, b] = self.first;
            let (own, peer) = if way == AToB { (a, b) } else { (b, a) };
            let head = TcpHead {
                seq: own.wrapping_add(seq),
                ack: if flags & ACK == 0 {
                    0
                } else {
                    peer.wrapping_add(ack)
                },
                flags,
                window: Some(self.window),
                header_len: 20,
                mss: (flags & SYN != 0).then_some(if way == AToB { 1460 } else { 8960 }),
            };
            let ts_ns = self.now;
            let segment = Segment {
                way,
                head: &head,
                payload,
                ts_ns,
            };
            if self.connection.take_usual(&segment) {
                self.usual += 1;
            } else {
                self.connection.take(&segment, &mut self.pool, 3);
            }
        }

        fn open(&mut self) {
            self.send(AToB, SYN, 0, 0, 0);
            self.send(BToA, SYN | ACK, 0, 1, 0);
            self.send(AToB, ACK, 1, 1, 0);
        }

        fn opened() -> Self {
            let mut tape = Self::new();
            tape.open();
            tape
        }

        fn wait(&mut self, ms: u64) {
            self.now += ms * MS;
        }

        fn facts(&self) -> Facts {
            self.connection.facts(AToB)
        }

        fn history(&self) -> String {
            self.facts().history.as_str().to_owned()
        }

        /// Segments sent again, and bytes of gaps.
        fn counts(&self) -> ([u64; 2], [u64; 2]) {
            let facts = self.facts();
            (
                facts.retransmitted.map(Option::unwrap_or_default),
                facts.gap_bytes.map(Option::unwrap_or_default),
            )
        }
    }

    const NOTHING: ([u64; 2], [u64; 2]) = ([0; 2], [0; 2]);

    #[test]
    fn a_connection_fits_a_cache_line() {
        assert_eq!(size_of::<Connection>(), 64);
    }

    /// With sequence numbers that pass zero, and without.
    #[test]
    fn from_the_first_syn_to_the_last_ack() {
        for first in [[1000, 5_000_000], [u32::MAX - 50, u32::MAX - 1]] {
            let mut tape = Tape::at(first);
            tape.open();
            tape.send(AToB, ACK | PSH, 1, 1, 100);
            tape.send(BToA, ACK, 1, 101, 0);
            tape.send(BToA, ACK | PSH, 1, 101, 1400);
            tape.send(BToA, ACK | PSH, 1401, 101, 600);
            tape.send(AToB, ACK, 101, 2001, 0);
            tape.send(AToB, ACK | PSH, 101, 2001, 10);
            tape.send(BToA, ACK | PSH, 2001, 111, 10);
            assert_eq!(tape.usual, 4, "all but the first of a kind");
            tape.send(AToB, ACK | FIN, 111, 2011, 0);
            tape.send(BToA, ACK | FIN, 2011, 112, 0);
            tape.send(AToB, ACK, 112, 2012, 0);
            assert_eq!(tape.counts(), NOTHING);
            let facts = tape.facts();
            assert_eq!(facts.history.as_str(), "ShADadFf");
            assert_eq!(facts.state, ConnState::Sf);
            assert_eq!(facts.rtt_syn_ns, Some(2 * MS));
            assert_eq!(facts.largest, [Some(100), Some(1400)]);
            assert_eq!(facts.mss, [Some(1460), Some(8960)]);
            assert_eq!(facts.half, None);
            let other = tape.connection.facts(BToA);
            assert_eq!(other.history.as_str(), "sHadADfF");
        }
    }

    #[test]
    fn the_round_trip_is_told_where_it_is_clear() {
        let rtt = |packets: &[(Way, u16, u32, u32)]| {
            let mut tape = Tape::new();
            for (way, flags, seq, ack) in packets {
                tape.send(*way, *flags, *seq, *ack, 0);
            }
            tape.facts().rtt_syn_ns
        };
        let (syn, answer, ack) = (
            (AToB, SYN, 0, 0),
            (BToA, SYN | ACK, 0, 1),
            (AToB, ACK, 1, 1),
        );
        assert_eq!(rtt(&[syn, answer, ack, ack]), Some(2 * MS));
        assert_eq!(rtt(&[syn, answer, (BToA, ACK, 1, 1), ack]), Some(3 * MS));
        assert_eq!(
            rtt(&[answer, syn, ack]),
            Some(MS),
            "the mirror swapped them"
        );
        assert_eq!(rtt(&[syn, ack]), Some(MS), "one direction");
        assert_eq!(rtt(&[syn, answer]), None);
        assert_eq!(rtt(&[syn, (BToA, RST | ACK, 0, 1)]), None, "refused");
        assert_eq!(rtt(&[syn, syn, answer, ack]), None, "which SYN was it?");
        assert_eq!(
            rtt(&[syn, answer, answer, ack]),
            None,
            "which answer was it?"
        );
        assert_eq!(
            rtt(&[syn, answer, (AToB, ACK, 1, 900)]),
            None,
            "the ACK was missed"
        );
        assert_eq!(rtt(&[syn, answer, (AToB, ACK, 70, 1)]), None);
        assert_eq!(
            rtt(&[syn, answer, ack, syn, ack]),
            Some(2 * MS),
            "a late copy"
        );
        assert_eq!(rtt(&[answer, ack]), None);
        assert_eq!(rtt(&[(BToA, ACK, 7, 7), ack]), None);
    }

    #[test]
    fn a_time_that_goes_back_measures_nothing() {
        let mut tape = Tape::new();
        tape.send(AToB, SYN, 0, 0, 0);
        tape.send(BToA, SYN | ACK, 0, 1, 0);
        tape.now -= 50 * MS;
        tape.send(AToB, ACK, 1, 1, 0);
        assert_eq!(tape.facts().rtt_syn_ns, None);
        tape.wait(100);
        tape.send(AToB, ACK, 1, 1, 0);
        assert_eq!(tape.facts().rtt_syn_ns, None);
    }

    #[test]
    fn what_was_seen_and_comes_again() {
        let mut tape = Tape::opened();
        tape.send(AToB, ACK, 1, 1, 100);
        tape.send(AToB, ACK, 101, 1, 100);
        tape.send(AToB, ACK, 101, 1, 100);
        tape.send(BToA, ACK, 1, 201, 0);
        tape.send(AToB, ACK, 1, 1, 50);
        assert_eq!(tape.counts(), ([2, 0], [0, 0]));
        tape.send(AToB, ACK, 150, 1, 100);
        assert_eq!(tape.counts(), ([3, 0], [0, 0]), "half of it is new");
        tape.send(AToB, ACK | FIN, 250, 1, 0);
        tape.send(AToB, ACK | FIN, 250, 1, 0);
        assert_eq!(tape.counts(), ([4, 0], [0, 0]));
        assert_eq!(tape.history(), "ShADTaF");
        let mut tape = Tape::new();
        tape.send(AToB, SYN, 0, 0, 0);
        tape.send(AToB, SYN, 0, 0, 0);
        assert_eq!(tape.counts(), ([1, 0], [0, 0]));
        assert_eq!(tape.history(), "S");
        assert_eq!(tape.facts().state, ConnState::S0);
    }

    #[test]
    fn keep_alives_and_probes_are_not_sent_again() {
        let mut tape = Tape::opened();
        tape.send(AToB, ACK, 1, 1, 100);
        tape.send(BToA, ACK, 1, 101, 0);
        for len in [0, 1, 1] {
            tape.send(AToB, ACK, 100, 1, len);
            tape.send(BToA, ACK, 1, 101, 0);
        }
        tape.window = 0;
        tape.send(BToA, ACK, 1, 101, 0);
        tape.window = 512;
        // A probe of one new byte, twice, then the data it begins.
        tape.send(AToB, ACK, 101, 1, 1);
        tape.send(AToB, ACK, 101, 1, 1);
        tape.send(BToA, ACK, 1, 101, 0);
        tape.send(AToB, ACK, 101, 1, 100);
        tape.send(AToB, ACK, 201, 1, 100);
        assert_eq!(tape.counts(), NOTHING);
        assert_eq!(tape.history(), "ShADaw");
    }

    /// What the mirror lost, the other side has: told by later bytes and the ACK, or by the ACK alone.
    #[test]
    fn acknowledged_and_never_seen() {
        for also_later in [true, false] {
            let mut tape = Tape::opened();
            tape.send(BToA, ACK, 1, 1, 100);
            if also_later {
                tape.send(BToA, ACK, 1501, 1, 100);
            }
            assert_eq!(tape.counts(), NOTHING, "not acknowledged yet");
            tape.send(AToB, ACK, 1, 101, 0);
            assert_eq!(tape.counts(), NOTHING);
            tape.send(AToB, ACK, 1, 801, 0);
            assert_eq!(tape.counts(), ([0, 0], [0, 700]));
            tape.send(AToB, ACK, 1, 1501, 0);
            tape.send(AToB, ACK, 1, 1501, 0);
            assert_eq!(tape.counts(), ([0, 0], [0, 1400]));
            tape.send(BToA, ACK, 1601 - u32::from(!also_later) * 100, 1, 100);
            tape.send(AToB, ACK, 1, 1601, 0);
            assert_eq!(tape.counts(), ([0, 0], [0, 1400]));
            assert_eq!(tape.history(), "ShAdg");
        }
    }

    /// Every other segment is lost, more than can be told apart before the ACK comes.
    #[test]
    fn many_losses_add_up() {
        let mut tape = Tape::opened();
        for at in 0..20 {
            tape.send(BToA, ACK, 1 + 200 * at, 1, 100);
            if at % 10 == 9 {
                tape.send(AToB, ACK, 1, 1 + 200 * at, 0);
            }
        }
        assert_eq!(tape.counts(), ([0, 0], [0, 1900]));
    }

    #[test]
    fn out_of_order_is_neither_a_gap_nor_sent_again() {
        let mut tape = Tape::opened();
        tape.send(BToA, ACK, 101, 1, 100);
        tape.send(BToA, ACK, 1, 1, 100);
        // The ACK overtook the data.
        tape.send(AToB, ACK, 1, 401, 0);
        tape.send(BToA, ACK, 301, 1, 100);
        tape.send(BToA, ACK, 201, 1, 100);
        assert_eq!(tape.counts(), NOTHING);
        tape.wait(200);
        tape.send(BToA, ACK, 401, 1, 100);
        let usual = tape.usual;
        tape.send(BToA, ACK, 501, 1, 100);
        assert_eq!(tape.usual, usual + 1, "nothing is left of it");
    }

    /// Lost before the mirror saw it: it comes late, or is asked for.
    #[test]
    fn a_hole_that_was_filled_by_sending_again() {
        let mut tape = Tape::opened();
        tape.send(BToA, ACK, 101, 1, 100);
        tape.wait(2);
        tape.send(BToA, ACK, 1, 1, 100);
        assert_eq!(tape.counts(), ([0, 1], [0, 0]), "later than a round trip");
        let mut tape = Tape::opened();
        tape.send(BToA, ACK, 101, 1, 100);
        tape.now -= 2 * MS;
        tape.send(AToB, ACK, 1, 1, 0);
        tape.send(AToB, ACK, 1, 1, 0);
        tape.now -= 2 * MS;
        tape.send(BToA, ACK, 1, 1, 100);
        assert_eq!(tape.counts(), ([0, 1], [0, 0]), "asked for twice");
        assert_eq!(tape.history(), "ShAdt");
    }

    /// Numbers that somebody on the way made up, and a mirror that was silent for long.
    #[test]
    fn numbers_far_off() {
        let far = FURTHEST + 1000;
        let mut tape = Tape::opened();
        tape.send(BToA, ACK, 1, 1, 100);
        for far in [far, far.wrapping_neg(), 1 << 31] {
            tape.send(BToA, ACK, far, 1, 100);
            tape.send(AToB, ACK, 1, far, 0);
            tape.send(AToB, ACK, 1, 101, 0);
            tape.send(BToA, ACK, 101, 1, 0);
        }
        tape.send(BToA, ACK, 101, 1, 100);
        assert_eq!(tape.counts(), NOTHING);
        tape.send(BToA, ACK, far, 1, 100);
        tape.send(BToA, ACK, far + 100, 1, 100);
        tape.send(BToA, ACK, far + 300, 1, 100);
        tape.send(AToB, ACK, 1, far + 400, 0);
        assert_eq!(tape.counts(), ([0, 0], [0, 100]), "from there on");
        tape.send(AToB, ACK, 1, 2 * far, 0);
        tape.send(AToB, ACK, 1, 2 * far + 100, 0);
        tape.send(AToB, ACK, 1, 2 * far + 150, 0);
        assert_eq!(tape.counts(), ([0, 0], [0, 150]));
    }

    /// What was on its way when the capture began is no gap.
    #[test]
    fn a_start_in_the_middle() {
        let mut tape = Tape::new();
        tape.send(AToB, ACK, 5000, 9000, 100);
        tape.send(BToA, ACK, 12_000, 5100, 100);
        tape.send(BToA, ACK, 12_100, 5100, 100);
        tape.send(AToB, ACK, 5100, 12_200, 0);
        assert_eq!(tape.counts(), NOTHING);
        assert_eq!(tape.facts().state, ConnState::Oth);
        tape.send(AToB, ACK, 5100, 12_300, 0);
        assert_eq!(tape.counts(), ([0, 0], [0, 100]));
        assert_eq!(tape.history(), "DdAg");
    }

    #[test]
    fn the_answer_was_lost() {
        let mut tape = Tape::new();
        tape.send(AToB, SYN, 0, 0, 0);
        tape.send(AToB, ACK, 1, 1, 0);
        tape.send(AToB, ACK, 1, 1, 100);
        tape.send(AToB, ACK, 101, 501, 0);
        let facts = tape.facts();
        assert_eq!((facts.gap_bytes, facts.half), ([Some(0), None], Some("o")));
        tape.send(BToA, ACK, 501, 101, 100);
        let facts = tape.facts();
        assert_eq!((facts.gap_bytes, facts.half), ([Some(0), Some(500)], None));
    }

    #[test]
    fn one_direction_of_a_mirror() {
        let mut tape = Tape::new();
        tape.send(BToA, SYN | ACK, 0, 1, 0);
        assert_eq!(tape.facts().half, None, "nobody may have answered");
        tape.send(BToA, ACK, 1, 301, 0);
        tape.send(BToA, ACK, 1, 301, 1000);
        tape.send(BToA, ACK, 3001, 601, 1000);
        tape.send(BToA, ACK | FIN, 4001, 601, 0);
        let facts = tape.facts();
        assert_eq!(facts.half, Some("r"));
        assert_eq!(facts.gap_bytes, [None, Some(0)]);
        assert_eq!(facts.retransmitted, [None, Some(0)]);
        assert_eq!(facts.state, ConnState::Shr);
        assert_eq!(facts.history.as_str(), "^hadf");
        let mut tape = Tape::new();
        tape.send(AToB, ACK, 7, 7, 0);
        tape.send(AToB, ACK, 7, 7, 0);
        assert_eq!(tape.facts().half, None, "a probe");
        tape.send(AToB, ACK, 7, 99, 0);
        assert_eq!(tape.facts().half, Some("o"));
    }

    /// A segment whose IP header declares no length may end further on than is known.
    #[test]
    fn segments_of_unknown_length_leave_the_end_open() {
        let mut tape = Tape::opened();
        for at in 0..4 {
            let payload = Payload {
                len: 50,
                exact: false,
            };
            tape.send_of(BToA, ACK, 1 + at * 60_000, 1, payload);
        }
        tape.send(AToB, ACK, 1, 240_001, 0);
        tape.send(BToA, ACK, 240_001, 1, 100);
        assert_eq!(tape.counts(), NOTHING);
        tape.send(BToA, ACK, 241_001, 1, 100);
        tape.send(AToB, ACK, 1, 241_101, 0);
        assert_eq!(tape.counts(), ([0, 0], [0, 900]), "behind an exact one");
    }

    #[test]
    fn resets_tell_nothing_of_sequence_numbers() {
        let mut tape = Tape::opened();
        tape.send(AToB, ACK, 1, 1, 100);
        tape.send(BToA, RST | ACK, 4_000_000, 9_000_000, 0);
        tape.send(AToB, ACK, 101, 1, 100);
        tape.send(BToA, RST, 7, 0, 0);
        assert_eq!(tape.counts(), NOTHING);
        assert_eq!(tape.history(), "ShADr");
        assert_eq!(tape.facts().state, ConnState::Rstr);
    }

    #[test]
    fn windows_of_zero() {
        let mut tape = Tape::opened();
        tape.window = 0;
        for _ in 0..200 {
            tape.send(AToB, ACK, 1, 1, 0);
        }
        tape.send(AToB, RST, 1, 0, 0);
        tape.send(AToB, ACK, 1, 1, 0);
        assert_eq!(tape.history(), "ShAWWWR");
    }

    #[test]
    fn flags_that_contradict_each_other() {
        let mut tape = Tape::new();
        for flags in [
            SYN | FIN,
            SYN | FIN,
            SYN | RST,
            FIN | RST,
            FIN | RST,
            SYN | FIN | RST,
        ] {
            tape.send(AToB, flags, 0, 0, 0);
        }
        assert_eq!(tape.history(), "QI");
    }

    /// A FIN that ends further on is another one; so is a SYN of another number.
    #[test]
    fn letters_that_come_again() {
        let mut tape = Tape::new();
        tape.send(AToB, SYN, 0, 0, 0);
        tape.send(AToB, SYN, 77, 0, 0);
        tape.send(BToA, SYN | ACK, 0, 78, 0);
        tape.send(AToB, ACK | FIN, 78, 1, 0);
        tape.send(AToB, ACK | FIN, 78, 1, 0);
        tape.send(AToB, ACK | FIN, 79, 1, 10);
        assert_eq!(tape.history(), "SShFF");
        assert_eq!(tape.connection.syn(AToB), tape.first[0], "the first stays");
    }

    #[test]
    fn the_originator_may_be_known_late() {
        let mut tape = Tape::new();
        tape.send(BToA, ACK, 900, 900, 0);
        tape.send(AToB, SYN, 0, 0, 0);
        tape.send(BToA, SYN | ACK, 0, 1, 0);
        assert_eq!(tape.history(), "a^Sh");
        let mut tape = Tape::new();
        tape.send(BToA, SYN, 0, 0, 0);
        tape.send(AToB, SYN, 0, 0, 0);
        assert_eq!(tape.connection.facts(BToA).history.as_str(), "Ss");
        assert_eq!(tape.facts().state, ConnState::S1, "simultaneous open");
    }

    #[test]
    fn records_count_from_one_to_the_next() {
        let mut tape = Tape::opened();
        tape.send(AToB, ACK, 1, 1, 100);
        tape.send(AToB, ACK, 1, 1, 100);
        tape.send(AToB, ACK, 1, 501, 0);
        let record = tape.connection.take_record(AToB);
        assert_eq!(record.retransmitted, [Some(1), Some(0)]);
        assert_eq!(record.gap_bytes, [Some(0), Some(500)]);
        assert_eq!(tape.counts(), NOTHING);
        tape.send(AToB, ACK, 1, 1, 100);
        assert_eq!(tape.counts(), ([1, 0], [0, 0]));
        let facts = tape.facts();
        assert_eq!(facts.history.as_str(), "ShADTg");
        assert_eq!(facts.rtt_syn_ns, Some(2 * MS));
        // Bytes of a gap that the record before told come late.
        tape.send(BToA, ACK, 1, 101, 500);
        assert_eq!(tape.counts(), ([1, 0], [0, 0]));
    }

    #[test]
    fn counts_stop_where_they_end() {
        let mut counts = Counts::default();
        counts.set_gap_bytes(u64::MAX);
        counts.add_retransmitted(5);
        assert_eq!(counts.gap_bytes(), (1 << 40) - 1);
        counts.set_gap_bytes(7);
        counts.add_retransmitted(u64::from(u32::MAX));
        assert_eq!(counts.retransmitted(), (1 << 24) - 1);
        assert_eq!(counts.gap_bytes(), 7);
    }

    /// Parts of a connection that two workers saw, each a direction.
    #[test]
    fn parts_are_put_together() {
        let (mut one, mut two) = (Tape::new(), Tape::new());
        one.send(AToB, SYN, 0, 0, 0);
        two.now += 1;
        two.send(BToA, SYN | ACK, 0, 1, 0);
        one.send(AToB, ACK, 1, 1, 0);
        two.send(BToA, ACK, 1, 1, 100);
        two.send(BToA, ACK, 1, 1, 100);
        let mut all = one.connection;
        all.absorb(&two.connection);
        let facts = all.facts(AToB);
        assert_eq!(facts.history.as_str(), "SA^hdt");
        assert_eq!(facts.state, ConnState::S1);
        assert_eq!(facts.retransmitted, [Some(0), Some(1)]);
        assert_eq!((facts.half, facts.rtt_syn_ns), (None, Some(MS)));
        assert_eq!(facts.mss, [Some(1460), Some(8960)]);
    }

    /// A packet of a valid conversation.
    #[derive(Clone, Copy, Debug)]
    struct Sent {
        way: Way,
        flags: u16,
        seq: u32,
        ack: u32,
        len: u32,
    }

    /// A conversation: turns of either side, each of some segments and then an ACK of all of them.
    fn conversation(turns: &[(bool, Vec<u32>)]) -> Vec<Sent> {
        let sent = |way, flags, seq, ack, len| Sent {
            way,
            flags,
            seq,
            ack,
            len,
        };
        let mut all = vec![
            sent(AToB, SYN, 0, 0, 0),
            sent(BToA, SYN | ACK, 0, 1, 0),
            sent(AToB, ACK, 1, 1, 0),
        ];
        let mut next = [1, 1];
        for (back, segments) in turns {
            let (way, own) = if *back { (BToA, 1) } else { (AToB, 0) };
            for len in segments {
                all.push(sent(way, ACK, next[own], next[1 - own], *len));
                next[own] += len;
            }
            all.push(sent(way.reverse(), ACK, next[1 - own], next[own], 0));
        }
        all.push(sent(AToB, ACK | FIN, next[0], next[1], 0));
        all.push(sent(BToA, ACK | FIN, next[1], next[0] + 1, 0));
        all.push(sent(AToB, ACK, next[0] + 1, next[1] + 1, 0));
        all
    }

    fn turns() -> impl Strategy<Value = Vec<(bool, Vec<u32>)>> {
        let segments = proptest::collection::vec(2u32..1500, 1..12);
        proptest::collection::vec((any::<bool>(), segments), 1..8)
    }

    fn play(tape: &mut Tape, packets: &[Sent]) {
        for sent in packets {
            // Ten microseconds apart.
            tape.now -= MS - 10_000;
            tape.send(sent.way, sent.flags, sent.seq, sent.ack, sent.len);
        }
    }

    proptest! {
        /// A mirror that brings packets in another order, each up to three places late, makes no gap.
        #[test]
        fn another_order_makes_no_gap(
            turns in turns(),
            first in any::<[u32; 2]>(),
            late in proptest::collection::vec(0usize..=3, 200),
        ) {
            let packets = conversation(&turns);
            let mut order: Vec<(usize, usize)> = (0..packets.len()).map(|at| (at + late[at % 200], at)).collect();
            order.sort_unstable();
            let shuffled: Vec<Sent> = order.iter().map(|(_, at)| packets[*at]).collect();
            let mut tape = Tape::at(first);
            play(&mut tape, &shuffled);
            prop_assert_eq!(tape.counts().1, [0, 0], "{:?}", tape.history());
        }

        /// However a conversation is cut into segments, in order it tells the same and has no troubles.
        #[test]
        fn in_order_there_is_nothing_to_tell(turns in turns(), first in any::<[u32; 2]>()) {
            let mut tape = Tape::at(first);
            play(&mut tape, &conversation(&turns));
            prop_assert_eq!(tape.counts(), NOTHING);
            let facts = tape.facts();
            prop_assert_eq!(facts.state, ConnState::Sf);
            prop_assert!(facts.history.as_str().ends_with("Ff"));
            prop_assert_eq!(facts.rtt_syn_ns, Some(20_000));
        }

        /// What the mirror loses of either side is counted to the byte, however much it is.
        #[test]
        fn lost_segments_are_a_gap(
            turns in turns(),
            first in any::<[u32; 2]>(),
            lost in proptest::collection::vec(any::<bool>(), 100),
        ) {
            let packets = conversation(&turns);
            let mut tape = Tape::at(first);
            let mut expected = [0, 0];
            let is_lost = |at: usize, sent: &Sent| sent.len > 0 && lost[at % 100];
            let kept: Vec<Sent> = packets.iter().enumerate().filter(|(at, sent)| {
                if is_lost(*at, sent) {
                    expected[usize::from(sent.way == BToA)] += u64::from(sent.len);
                }
                !is_lost(*at, sent)
            }).map(|(_, sent)| *sent).collect();
            play(&mut tape, &kept);
            prop_assert_eq!(tape.counts(), ([0, 0], expected), "{:?}", tape.history());
        }

        /// Whatever comes: no panic, and history and counts can be read.
        #[test]
        fn any_segments(
            segments in proptest::collection::vec(
                (
                    any::<bool>(),
                    0u16..512,
                    prop_oneof![any::<u32>(), 0u32..3000],
                    prop_oneof![any::<u32>(), 0u32..3000],
                    prop_oneof![any::<u32>(), 0u32..3000, Just(0)],
                    any::<bool>(),
                    prop_oneof![Just(0u64), 0u64..1 << 30, any::<u64>()],
                    any::<u16>(),
                ),
                0..120,
            ),
        ) {
            let mut tape = Tape::at([0, 0]);
            for (back, flags, seq, ack, len, exact, pause, window) in segments {
                tape.now = tape.now.wrapping_add(pause) >> 1;
                tape.window = window;
                let way = if back { BToA } else { AToB };
                tape.send_of(way, flags, seq, ack, Payload { len, exact });
                let facts = tape.facts();
                prop_assert!(facts.history.bytes().is_ascii());
            }
            tape.connection.take_record(BToA);
            prop_assert_eq!(tape.counts(), NOTHING);
        }
    }
}
