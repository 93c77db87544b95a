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
mod tests;
