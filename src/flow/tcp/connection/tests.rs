//! Connections of segments written by hand, and drawn ones.

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
