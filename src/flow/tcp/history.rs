//! What happened on a connection, a letter an event, as Zeek writes it: upper case for the originator.
//!
//! Letters are kept by direction and get their case when they are read, because the originator may be known
//! later only. Eight bytes hold fourteen of them as digits of one number. What does not fit is left out; the last four
//! places are for letters that are written once a direction, so that a connection's end is not crowded out
//! by its troubles.

use crate::flow::key::Way;

/// An event of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Letter {
    /// A SYN without ACK.
    Syn,
    /// A SYN with ACK.
    SynAck,
    /// An ACK and nothing else.
    Ack,
    /// Payload.
    Data,
    /// A FIN.
    Fin,
    /// An RST.
    Rst,
    /// Bytes that were acknowledged and not seen.
    Gap,
    /// Payload that was sent again.
    Retransmission,
    /// A window of zero bytes.
    ZeroWindow,
    /// FIN and RST in one packet.
    Inconsistent,
    /// SYN with FIN or RST.
    MultiFlag,
}

/// Upper case of every letter, in the order of [`Letter`].
const LETTERS: [u8; 11] = *b"SHADFRGTWIQ";
/// Digits are 1 to this: each letter for two directions, and the one of a change of originator.
const BASE: u64 = 2 * LETTERS.len() as u64 + 1;
/// Most letters.
pub const MOST: usize = 14;
/// Letters that may repeat find room up to here.
const MOST_WITH_REPEATED: usize = 10;

/// The letters so far, the oldest as the highest digit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History(u64);

/// Letters as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Letters {
    bytes: [u8; MOST],
    len: usize,
}

impl Letters {
    /// The letters, ASCII.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// The same as a string.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.bytes()).unwrap_or_default()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl History {
    /// Adds a letter that is written once a direction.
    pub const fn add(&mut self, letter: Letter, way: Way) {
        self.push(digit(letter, way), MOST);
    }

    /// Adds a letter that is written once a direction, if it is not there.
    pub fn add_once(&mut self, letter: Letter, way: Way) {
        if self.count(letter, way) == 0 {
            self.add(letter, way);
        }
    }

    /// Adds a letter that may come again.
    pub const fn add_repeated(&mut self, letter: Letter, way: Way) {
        self.push(digit(letter, way), MOST_WITH_REPEATED);
    }

    /// Adds the letter of an event that was seen `count` times so far: the first, tenth, hundredth … are written.
    pub fn add_scaled(&mut self, letter: Letter, way: Way, count: u32) {
        let Some(power) = count.checked_ilog10() else {
            return;
        };
        if 10u32.pow(power) == count && self.count(letter, way) == power {
            self.add_repeated(letter, way);
        }
    }

    /// Adds the letter of payload that was sent again, if it is the first one or by the number of all segments
    /// that were.
    pub fn add_retransmission(&mut self, way: Way, count: u32) {
        let is_first = self.count(Letter::Retransmission, way) == 0;
        self.add_scaled(
            Letter::Retransmission,
            way,
            if is_first { 1 } else { count },
        );
    }

    /// Notes that the other side is the originator from here on.
    pub const fn flip(&mut self) {
        self.push(BASE, MOST);
    }

    /// Adds the letters of `other`, as far as there is room.
    pub fn append(&mut self, other: Self) {
        let (digits, len) = other.digits();
        for digit in digits.into_iter().take(len) {
            self.push(digit.into(), MOST);
        }
    }

    /// The letters where `originator` is the way the originator's packets go.
    pub fn letters(&self, originator: Way) -> Letters {
        let (digits, len) = self.digits();
        let bytes = digits.map(|digit| {
            let Some(of) = usize::from(digit).checked_sub(1) else {
                return 0;
            };
            match LETTERS.get(of / 2) {
                None => b'^',
                Some(letter) if of % 2 == originator as usize => *letter,
                Some(letter) => letter.to_ascii_lowercase(),
            }
        });
        Letters { bytes, len }
    }

    const fn push(&mut self, digit: u64, most: usize) {
        if self.0 <= largest_below(most) {
            self.0 = self.0 * BASE + digit;
        }
    }

    /// How often a letter of one direction was written.
    fn count(&self, letter: Letter, way: Way) -> u32 {
        let (digits, len) = self.digits();
        let is_it = |written: &&u8| u64::from(**written) == digit(letter, way);
        let count = digits.iter().take(len).filter(is_it).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// The digits from the highest on, and how many there are.
    fn digits(self) -> ([u8; MOST], usize) {
        let (mut digits, mut len, mut rest) = ([0; MOST], 0, self.0);
        while rest > 0 {
            // 1 to BASE, without a zero.
            let digit = (rest - 1) % BASE + 1;
            digits.rotate_right(1);
            if let Some(first) = digits.first_mut() {
                *first = digit as u8;
            }
            rest = (rest - digit) / BASE;
            len += 1;
        }
        (digits, len)
    }
}

const fn digit(letter: Letter, way: Way) -> u64 {
    letter as u64 * 2 + way as u64 + 1
}

/// The largest number with fewer than `most` digits.
const fn largest_below(most: usize) -> u64 {
    let (mut largest, mut at) = (0, 1);
    while at < most {
        largest = largest * BASE + BASE;
        at += 1;
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;
    use Letter::{Ack, Data, Fin, Gap, Retransmission, Rst, Syn, SynAck};
    use Way::{AToB, BToA};

    fn text(history: &History, originator: Way) -> String {
        history.letters(originator).as_str().to_owned()
    }

    #[test]
    fn case_tells_the_direction() {
        let mut history = History::default();
        assert!(history.letters(AToB).is_empty());
        for (letter, way) in [(Syn, BToA), (SynAck, AToB), (Ack, BToA), (Data, BToA)] {
            history.add(letter, way);
        }
        assert_eq!(text(&history, BToA), "ShAD");
        history.flip();
        history.add(Fin, AToB);
        assert_eq!(text(&history, AToB), "sHad^F");
    }

    #[test]
    fn events_that_repeat_are_written_by_powers_of_ten() {
        let mut history = History::default();
        for count in 0..5000 {
            history.add_scaled(Gap, AToB, count);
            history.add_scaled(Gap, BToA, count / 20);
        }
        assert_eq!(text(&history, AToB), "GGgGgGg");
    }

    /// Counts begin again with each record of a flow; letters do not.
    #[test]
    fn a_letter_stands_for_its_power_once() {
        let mut history = History::default();
        for count in (1..50).chain(1..200) {
            history.add_scaled(Retransmission, BToA, count);
        }
        assert_eq!(text(&history, BToA), "TTT");
    }

    #[test]
    fn the_end_finds_room() {
        let mut history = History::default();
        for _ in 0..3 {
            history.add(Syn, AToB);
        }
        for _ in 0..30 {
            history.add_repeated(Retransmission, BToA);
        }
        for letter in [Fin, Rst] {
            history.add(letter, AToB);
            history.add(letter, BToA);
        }
        assert_eq!(text(&history, AToB), "SSStttttttFfRr");
        history.add(Data, AToB);
        history.flip();
        assert_eq!(text(&history, AToB), "SSStttttttFfRr");
    }

    /// The longest histories there can be, of the smallest digits and of the largest.
    #[test]
    fn fourteen_letters_fit() {
        let mut history = History::default();
        for _ in 0..20 {
            history.flip();
        }
        assert_eq!(text(&history, AToB), "^".repeat(MOST));
        let mut history = History::default();
        for _ in 0..20 {
            history.add(Syn, AToB);
        }
        assert_eq!(text(&history, AToB), "S".repeat(MOST));
        let mut twice = history;
        twice.append(history);
        assert_eq!(twice, history);
    }
}
