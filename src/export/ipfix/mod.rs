//! Flow records as IPFIX (RFC 7011): elements and their lengths come from [`crate::flow::columns`].
//!
//! A record says nothing of what it lacks: each set of fields that records have is a template of its own
//! (`template`), so no collector reads a zero that nobody meant. Both directions are in one record (RFC 5103), from
//! the side of its originator. Pure: records and time go in, messages come out, and whoever sends them owns the
//! socket ([`encoder`]).

pub mod encoder;
mod fields;
pub mod file;
pub mod message;
mod options;
pub mod read;
mod template;

pub use encoder::Encoder;
pub use message::{HEADER_LEN, Message, Session};
pub use options::Totals;

/// The port that IANA gives IPFIX over UDP and TCP (RFC 7011 §10.1).
pub const PORT: u16 = 4739;

/// The observation domain of flow records: all that this vxtap sees. 0 would be none in particular (RFC 7011 §3.1).
pub const DOMAIN: u32 = 1;

/// Most bytes of a message over UDP: what an Ethernet of 1500 bytes carries in one piece, tunnels on the way included.
pub const UDP_MESSAGE_LEN: usize = 1400;

/// Most bytes of a message elsewhere. Larger ones would save nothing.
pub const MESSAGE_LEN: usize = 16 << 10;

/// How often templates are sent again over UDP, which may lose them (RFC 7011 §8.4 and RFC 5655 say 600 s).
pub const TEMPLATES_EVERY: std::time::Duration = std::time::Duration::from_secs(600);

/// How often totals are sent.
pub const TOTALS_EVERY: std::time::Duration = std::time::Duration::from_secs(60);
