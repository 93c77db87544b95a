//! Bidirectional flows: which packets belong together, what was counted, and the record it becomes.
//!
//! Pure: time comes with the packets.

pub mod app;
pub mod columns;
pub mod community_id;
pub mod counts;
pub mod ended;
pub mod first;
mod growth;
mod index;
pub mod intervals;
pub mod key;
pub mod lifetime;
pub mod lookup;
mod loss;
pub mod names;
mod recent;
pub mod record;
pub mod remaining;
pub mod table;
pub mod tcp;
pub mod text;
pub mod updates;
mod wheel;
