//! Bytes to meaning, pure: every module takes bytes and returns values that borrow from them.
//!
//! Nothing here knows of sockets, files, clocks, counters or logs. [`decapsulate`] strings the other
//! modules together: outer packet, tunnel header, inner frame.

pub mod decapsulate;
pub mod geneve;
pub mod headers;
pub mod inner;
pub mod ip;
mod layers;
pub mod length;
pub mod numbers;
pub mod outer;
pub mod reassembly;
pub mod refusal;
pub mod train;
pub mod vxlan;

use std::fmt;

/// Reads two bytes, most significant first, at `at`; `None` past the end.
pub(crate) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*pair))
}

/// The 24-bit VXLAN network identifier (RFC 7348 §5); Geneve's has the same size (RFC 8926 §3.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(u32);

impl Vni {
    /// The largest identifier, 16,777,215.
    pub const MAX: Self = Self(0x00ff_ffff);

    /// `None` when `value` needs more than 24 bits.
    pub const fn new(value: u32) -> Option<Self> {
        if value <= Self::MAX.0 {
            Some(Self(value))
        } else {
            None
        }
    }

    /// From the three bytes on the wire.
    pub const fn from_be_bytes(bytes: [u8; 3]) -> Self {
        let [a, b, c] = bytes;
        Self(u32::from_be_bytes([0, a, b, c]))
    }

    /// The three bytes on the wire.
    pub const fn to_be_bytes(self) -> [u8; 3] {
        let [_, a, b, c] = self.0.to_be_bytes();
        [a, b, c]
    }

    /// The number itself.
    pub const fn as_u32(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
