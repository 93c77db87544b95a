//! vxtap receives mirrored traffic: it takes VXLAN off, knows which packets were cut on the way, and
//! writes capture files and flow records.
//!
//! ```text
//!            source                     pipeline (one worker a core, nothing shared)          sinks
//!  ┌ udp    recvmmsg           ┐   ┌─────────────────────────────────────────────┐   ┌ capture: merge → file
//!  │                           ├──►│ decapsulate → read inner → judge length →   │──►│
//!  └ file   pcap / pcapng      ┘   │ mirror session → flow table → encode record │   ├ export: flow records
//!                                  └─────────────────────────────────────────────┘   └ ledger: each packet once
//! ```
//!
//! Live traffic and replayed files differ only in the source. The rooms, and which may use which, are
//! described in `docs/ARCHITECTURE.md`.

#![cfg_attr(not(test), deny(clippy::disallowed_macros))]

pub mod bpf;
pub mod capture;
pub mod cli;
pub mod control;
pub mod export;
pub mod failure;
pub mod flow;
pub mod host;
pub mod mirror;
pub mod outfile;
pub mod patience;
pub mod pcap;
pub mod pipeline;
pub mod report;
pub mod say;
pub mod send;
pub mod source;
pub mod stop;
#[cfg(target_os = "linux")]
pub mod sys;
pub mod wire;
