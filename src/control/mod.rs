//! What is asked of a run that goes on, and who asks: signals.

#[cfg(target_os = "linux")]
pub mod inquire;
