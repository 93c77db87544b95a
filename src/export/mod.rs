//! Flow records out.

pub mod jsonl;
