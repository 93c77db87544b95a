//! Mirror sessions as they are seen from the target: who mirrors, in which direction, cut or whole.
//!
//! Pure: handed addresses, lengths and time, it keeps counts and gives advice.

pub mod allowed;
pub mod direction;
pub mod duplicates;
pub mod ether_types;
pub mod inventory;
pub mod lengths;
pub mod loss;
pub mod networks;
pub mod others;
pub mod own_macs;
pub mod pairs;
pub mod prefixes;
pub mod refused;
pub mod routes;
pub mod series;
pub mod session;
pub mod session_key;
pub mod sizes;
pub mod truncation;
pub mod words;
