//! From what was typed to what was meant: [`typed`] holds text, [`given`] gathers flags, the environment and a file,
//! [`layers`] lays them over the defaults and keeps where each value came from, [`meant`] reads and checks everything
//! and tells all [`mistakes`] at once.

mod environment;
mod file;
pub mod flows;
pub mod given;
pub mod keys;
pub mod layers;
mod lifetimes;
#[cfg(target_os = "linux")]
pub mod listening;
pub mod meant;
pub mod mistakes;
pub mod outputs;
pub mod places;
pub mod printed;
#[cfg(target_os = "linux")]
pub mod sandbox;
mod sessions;
pub mod storing;
mod syntax;
pub mod typed;
#[cfg(target_os = "linux")]
mod watching;
