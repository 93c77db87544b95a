//! What a run came to, as a value and as its faces: the page for people and the JSON object; what a run that goes on is
//! at: metrics, status and health; and reports.

pub mod audit;
pub mod document;
mod harmless;
pub mod health;
pub mod html;
pub mod listing;
mod loss_summary;
pub mod metrics;
mod mirror_loss;
pub mod moment;
mod over_time;
pub mod page;
mod plot;
pub mod sections;
mod session;
pub mod status;
pub mod status_page;
pub mod summary;
pub mod text;
