//! What the packets of a TCP connection tell, in a fixed number of bytes.
//!
//! In go the headers of both directions, truncated or not; out come the letters of its history and its state
//! as Zeek has them, the round trip of the handshake, retransmitted segments, and bytes that were acknowledged
//! but never seen. Sequence space is what IP headers declare, never what was captured, so a mirror session that
//! cuts packets tells the same as one that does not. Pure, as the rest of the room.

pub mod connection;
mod ending;
pub mod history;
pub mod holes;
mod state;

pub use connection::{Connection, Facts, Payload, Segment};
pub use ending::{Side, is_another, is_syn};
pub use state::ConnState;
