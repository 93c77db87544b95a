//! What a run came to, as a value and as its faces: the page for people and the JSON object.

pub mod listing;
pub mod page;
pub mod summary;
