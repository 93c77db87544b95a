//! vxtap receives mirrored traffic: it decapsulates VXLAN, finds out which packets were truncated on the way,
//! and writes capture files and flow records.
//!
//! ```text
//!            source                     pipeline (workers share nothing)               sinks, each with an account
//!  ┌ sockets recvmmsg          ┐   ┌─────────────────────────────────────────┐   ┌ capture: merge by time → file or pipe
//!  ├ ring    TPACKET_V3        ├──►│ decapsulate → observe → admit →         │──►│
//!  └ file    pcap, pcapng      ┘   │ account → follow (flow) → keep (record) │   └ flows: JSON lines
//!                                  └───────────────────▲─────────────────────┘
//!  control: signals, timers, orders between batches ───┘       ledger: each packet once
//! ```
//!
//! Live traffic and replayed files differ only in the source. `docs/ARCHITECTURE.md` describes the rooms, and
//! which may use which.

#![cfg_attr(not(test), deny(clippy::disallowed_macros))]
// No panic is reachable from the network, a file or a flag. Tests end with one.
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

pub mod bpf;
pub mod capture;
pub mod cli;
pub mod control;
pub mod export;
pub mod extract;
pub mod failure;
pub mod filter;
pub mod flow;
pub mod host;
pub mod mirror;
pub mod outfile;
pub mod patience;
pub mod pcap;
pub mod pipeline;
pub mod report;
#[cfg(target_os = "linux")]
pub mod sandbox;
pub mod say;
pub mod send;
pub mod source;
pub mod stop;
#[cfg(target_os = "linux")]
pub mod sys;
pub mod threads;
pub mod wire;
