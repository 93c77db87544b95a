//! From what was typed to what was meant: [`typed`] holds text, [`layers`] lays the flags over the defaults
//! and keeps where each value came from, [`meant`] reads and checks everything and tells all mistakes at
//! once.

pub mod flows;
pub mod layers;
mod lifetimes;
#[cfg(target_os = "linux")]
pub mod listening;
pub mod meant;
#[cfg(target_os = "linux")]
pub mod sandbox;
mod sessions;
pub mod storing;
pub mod typed;
#[cfg(target_os = "linux")]
mod watching;
