//! The filter expression: which mirrored packets are wanted, in the words of tcpdump (pcap-filter(7)). Pure.
//!
//! In goes text; out comes a program that is asked about one packet at a time, or the mistake with its column. What
//! a packet is asked was read before ([`crate::wire::inner`]); nothing is read twice.
//!
//! What differs from tcpdump on purpose:
//!
//! - IP is found where it is: behind VLAN tags, MPLS, PPPoE, IPv6 extension headers. `vlan` moves nothing; it asks for
//!   the outer tag, and behind `vlan … and` for the one inside.
//! - A term whose bytes were cut does not match, and `not` of it does. tcpdump drops such a packet whatever else is
//!   asked.
//! - `tcp[tcpflags]` is asked of IPv6 too.

mod expression;
mod lexer;
mod mistake;
mod names;
mod parser;
mod program;

use std::fmt;
use std::str::FromStr;

use expression::Expression;
pub use mistake::Mistake;
use program::Program;

use crate::mirror::direction::Direction;
use crate::wire::Vni;
use crate::wire::inner::Inner;
use crate::wire::ip::Address;

/// What a filter is asked about: one packet, as far as it was read.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// The frame from its destination MAC on.
    pub frame: &'a [u8],
    /// The same, read.
    pub inner: &'a Inner,
    /// Bytes of the frame at the mirror source.
    pub orig_len: u32,
    /// It arrived cut.
    pub is_truncated: bool,
    /// Who mirrored it, and with which VNI; `None` for a packet that was not encapsulated.
    pub mirror: Option<(Address, Vni)>,
    /// Which way it went at the mirror source.
    pub direction: Direction,
}

/// A filter expression that was understood.
#[derive(Clone, Debug)]
pub struct Filter {
    expression: Expression,
    program: Program,
}

impl Filter {
    /// Whether the packet is wanted.
    #[inline]
    pub fn matches(&self, packet: &Packet<'_>) -> bool {
        self.program.matches(packet)
    }
}

impl FromStr for Filter {
    type Err = Mistake;

    fn from_str(text: &str) -> Result<Self, Mistake> {
        let expression = parser::parse(text)?;
        let program = Program::of(&expression);
        Ok(Self {
            expression,
            program,
        })
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.expression == other.expression
    }
}

/// As it can be typed, every qualifier spelled out.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expression.fmt(f)
    }
}

#[cfg(test)]
mod tests;
