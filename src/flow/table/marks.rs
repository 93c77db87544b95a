//! What a flow has to remember beside its counts and times, in sixteen bits.

use crate::flow::key::Way;
use crate::wire::numbers::tcp_flag::{ACK, FIN, RST, SYN};

/// Who opened a flow and whether that is sure, whether its first packet had hardware addresses, and one of two things:
/// of TCP what each side sent in earlier records, of ICMP the code of the first message.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Marks(u16);

/// Bits of what one side sent in earlier records: FIN, SYN and RST stand where TCP has them, ACK one below, and [`SENT`].
const SIDE: u32 = 5;
const SIDE_BITS: u16 = (1 << SIDE) - 1;
/// There were packets.
const SENT: u16 = 0x10;
/// Bits of what both sent, or of the code.
const SHARED: u16 = (1 << (2 * SIDE)) - 1;
/// The originator's packets go from the second end of the key to the first.
const BACK: u16 = 1 << 13;
const SURE: u16 = 1 << 14;
const MACS: u16 = 1 << 15;

impl Marks {
    /// The way the originator's packets go.
    pub(super) const fn originator(self) -> Way {
        if self.0 & BACK == 0 {
            Way::AToB
        } else {
            Way::BToA
        }
    }

    /// Whether a SYN without ACK named the originator: it stays.
    pub(super) const fn is_originator_sure(self) -> bool {
        self.0 & SURE != 0
    }

    pub(super) fn set_originator(&mut self, way: Way, sure: bool) {
        self.set(BACK, way == Way::BToA);
        self.set(SURE, sure);
    }

    /// Whether there are hardware addresses.
    pub(super) const fn has_macs(self) -> bool {
        self.0 & MACS != 0
    }

    pub(super) fn set_has_macs(&mut self, has: bool) {
        self.set(MACS, has);
    }

    /// Of TCP: the flags that the first end of the key sent in earlier records, as far as they decide how a flow ends,
    /// and those of the second; `None` where it sent nothing.
    pub(super) fn before(self) -> [Option<u16>; 2] {
        [0, SIDE].map(|at| {
            let bits = (self.0 >> at) & SIDE_BITS;
            let flags = (bits & (FIN | SYN | RST)) | ((bits << 1) & ACK);
            (bits & SENT != 0).then_some(flags)
        })
    }

    pub(super) fn set_before(&mut self, sides: [Option<u16>; 2]) {
        let [a, b] = sides.map(|flags| {
            let bits = flags.map(|flags| (flags & (FIN | SYN | RST)) | ((flags & ACK) >> 1) | SENT);
            bits.unwrap_or_default()
        });
        self.0 = (self.0 & !SHARED) | a | (b << SIDE);
    }

    /// Of ICMP: the code of the first message.
    pub(super) const fn code(self) -> u8 {
        self.0 as u8
    }

    pub(super) fn set_code(&mut self, code: u8) {
        self.0 = (self.0 & !SHARED) | u16::from(code);
    }

    fn set(&mut self, bit: u16, is: bool) {
        self.0 = if is { self.0 | bit } else { self.0 & !bit };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Each is read as it was set last, whatever is set around it.
        #[test]
        fn each_stands_for_itself(
            steps in proptest::collection::vec((0u8..4, any::<u16>(), any::<[bool; 2]>()), 0..20),
        ) {
            let mut marks = Marks::default();
            let mut told = (Way::AToB, false, false, [None, None]);
            for (step, flags, [one, other]) in steps {
                match step {
                    0 => {
                        let way = if one { Way::BToA } else { Way::AToB };
                        marks.set_originator(way, other);
                        (told.0, told.1) = (way, other);
                    }
                    1 => {
                        marks.set_has_macs(one);
                        told.2 = one;
                    }
                    2 => {
                        let sides = [one.then_some(flags), other.then_some(flags >> 7)];
                        marks.set_before(sides);
                        told.3 = sides.map(|flags| flags.map(|flags| flags & (FIN | SYN | RST | ACK)));
                    }
                    _ => {
                        marks.set_code(flags as u8);
                        prop_assert_eq!(marks.code(), flags as u8);
                        marks.set_before(told.3);
                    }
                }
                let read = (marks.originator(), marks.is_originator_sure(), marks.has_macs(), marks.before());
                prop_assert_eq!(read, told);
            }
        }
    }
}
