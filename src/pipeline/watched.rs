//! Which TCP connections are followed where nobody takes flow records, for what they tell of bytes that the mirror lost.
//!
//! As many as fit a small table, which costs little. Where there are more, half of them are passed over, and again:
//! by their addresses, so that both directions of a connection are followed or neither.

use crate::flow::key::FlowKey;

/// Connections followed at a time: a table of so few is updated at once and stays in the cache.
pub const PLACES: u32 = 1000;

/// One connection in so many is followed at the least.
const LEAST: u32 = 1024;

/// What part of all connections is followed.
#[derive(Debug, Default)]
pub struct Watched {
    /// Bits of a connection's number that are to be zero.
    mask: u32,
    /// Connections that had to make room since the part became smaller.
    made_room: u32,
}

impl Watched {
    /// Whether a connection is followed.
    #[inline]
    pub const fn takes(&self, key: &FlowKey) -> bool {
        key.part() & self.mask == 0
    }

    /// Notes that a connection had to make room for another. When the whole table did, the part is halved.
    pub const fn make_room(&mut self) {
        self.made_room += 1;
        if self.made_room >= PLACES {
            self.made_room = 0;
            self.mask = ((self.mask << 1) | 1) & (LEAST - 1);
        }
    }

    /// One connection in so many is followed.
    pub const fn one_in(&self) -> u32 {
        self.mask + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_is_halved_up_to_a_bound() {
        let mut watched = Watched::default();
        assert_eq!(watched.one_in(), 1);
        let mut halve = || {
            (0..PLACES).for_each(|_| watched.make_room());
            watched.one_in()
        };
        assert_eq!([halve(), halve(), halve()], [2, 4, 8]);
        let last = (0..20).map(|_| halve()).last();
        assert_eq!(last, Some(LEAST));
    }
}
