//! Where the first packet of a flow record lies in the capture, as far as its worker knows: eight bytes a flow.
//!
//! The worker that begins a flow does not know the place: it numbers the record, and the capture's writer answers once
//! it has written it. What a place means, which file and how far into it, is the capture's to know.

use std::sync::Arc;

/// Where the first packet of a flow record lies: a file of the capture and an offset in it.
#[derive(Clone, Debug)]
pub struct Place {
    file: Arc<str>,
    offset: u64,
}

impl Place {
    /// In a file of this name, `offset` bytes into its content.
    pub const fn new(file: Arc<str>, offset: u64) -> Self {
        Self { file, offset }
    }

    /// The file's name.
    pub fn file(&self) -> Option<&str> {
        Some(&self.file)
    }

    /// Where in its content the packet's record begins, in bytes.
    pub const fn offset(&self) -> Option<u64> {
        Some(self.offset)
    }
}

/// Where a first packet lies: nowhere, not known yet, or known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct First(u64);

/// Set where the rest is the number of a record.
const IS_RECORD: u64 = 1 << 63;

impl First {
    /// In no capture: there is none, or it does not have the packet.
    pub const NOWHERE: Self = Self(0);

    /// Not known yet: it is record `number` of its worker, whose records are numbered without end.
    pub const fn record(number: u64) -> Self {
        Self(number | IS_RECORD)
    }

    /// Known: `place` is not zero and below 2⁶³.
    pub const fn place(place: u64) -> Self {
        Self(place & !IS_RECORD)
    }

    /// The number of the record whose place is not known yet.
    #[inline]
    pub fn as_record(self) -> Option<u64> {
        (self.0 & IS_RECORD != 0).then_some(self.0 & !IS_RECORD)
    }

    /// The place, where it is known.
    pub fn as_place(self) -> Option<u64> {
        (self.0 & IS_RECORD == 0 && self.0 != 0).then_some(self.0)
    }

    /// Of two packets of one time the one that lies before the other.
    pub fn or_before(self, other: Self) -> Self {
        match (self.as_place(), other.as_place()) {
            (Some(place), Some(others)) if others < place => other,
            (None, Some(_)) => other,
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_told_from_a_record() {
        let (record, place) = (First::record(7), First::place(7));
        assert_eq!((record.as_record(), record.as_place()), (Some(7), None));
        assert_eq!((place.as_record(), place.as_place()), (None, Some(7)));
        // The first record of a worker is one too.
        assert_eq!(First::record(0).as_record(), Some(0));
        let nowhere = First::NOWHERE;
        assert_eq!((nowhere.as_record(), nowhere.as_place()), (None, None));
        assert_eq!(First::default(), nowhere);
    }

    #[test]
    fn of_two_places_the_earlier_counts() {
        let (early, late) = (First::place(5), First::place(9));
        for (one, other, first) in [
            (early, late, early),
            (late, early, early),
            (First::NOWHERE, late, late),
            (early, First::NOWHERE, early),
            (First::record(1), late, late),
        ] {
            assert_eq!(one.or_before(other), first);
        }
    }
}
