//! What a run came to, as a value and as its faces: the page for people and the JSON object; and reports on it.

pub mod audit;
pub mod document;
pub mod html;
pub mod listing;
mod mirror_loss;
mod over_time;
pub mod page;
mod plot;
pub mod sections;
mod session;
pub mod summary;
pub mod text;
