//! Which TCP connections are followed where nobody takes flow records, for what they tell of bytes that the mirror lost.
//!
//! As many as fit a small table, which costs little. Where there are more, half of them are passed over, and again:
//! by their addresses, so that both directions of a connection are followed or neither.

use crate::wire::inner::{Inner, InnerIp, Transport};

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
    /// Whether a packet is a TCP segment with its flags, of a connection that is followed.
    #[inline]
    pub fn takes(&self, inner: &Inner) -> bool {
        match &inner.ip {
            Some(InnerIp {
                header,
                transport:
                    Transport::Ports {
                        src,
                        dst,
                        tcp: Some(_),
                    },
                ..
            }) => {
                // The same for both directions, and in every run.
                let ([a, more_a], [b, more_b]) = (header.src.words, header.dst.words);
                let mixed = a ^ b ^ (more_a ^ more_b).rotate_left(24) ^ u64::from(src ^ dst);
                let number = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
                number as u32 & self.mask == 0
            }
            _ => false,
        }
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

    /// An IPv4 packet of this protocol between two ports.
    fn packet(src: u8, src_port: u8, dst: u8, dst_port: u8, protocol: u8) -> Inner {
        let mut frame = vec![0; 54];
        frame[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol]);
        frame[26..34].copy_from_slice(&[10, 0, 0, src, 10, 0, 0, dst]);
        frame[34..38].copy_from_slice(&[0, src_port, 0, dst_port]);
        frame[46] = 0x50;
        Inner::read(&frame)
    }

    #[test]
    fn connections_are_followed_or_not() {
        let mut watched = Watched::default();
        assert!(watched.takes(&packet(1, 80, 2, 90, 6)));
        assert!(!watched.takes(&packet(1, 80, 2, 90, 17)), "no TCP");
        (0..2 * PLACES).for_each(|_| watched.make_room());
        let mut taken = 0;
        for port in 0..=255 {
            let forth = watched.takes(&packet(1, port, 2, 80, 6));
            let back = watched.takes(&packet(2, 80, 1, port, 6));
            assert_eq!(forth, back, "both directions of {port}");
            taken += u32::from(forth);
        }
        assert!((32..128).contains(&taken), "a quarter: {taken} of 256");
    }

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
