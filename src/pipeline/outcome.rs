//! What a run came to, and what went wrong while writing.

use std::io;

use super::ledger::Ledger;
use super::measure::Measured;
use super::worker::OtherPort;
use crate::capture::set::{CaptureOutError, Written};
use crate::export::jsonl::FlowFile;
use crate::host::counters::Counts;
use crate::mirror::allowed::Stranger;
use crate::mirror::session::Session;
use crate::outfile::OutError;

/// What a run came to.
#[derive(Default)]
pub struct Outcome {
    /// The accounting, closed.
    pub ledger: Ledger,
    /// Every mirror session, by source and VNI.
    pub sessions: Vec<Session>,
    /// UDP traffic that went elsewhere.
    pub other_ports: Vec<OtherPort>,
    /// Sources that were not allowed, those with the most packets first.
    pub not_allowed: Vec<Stranger>,
    /// The capture file, if one was written.
    pub capture: Option<Written>,
    /// Flow files.
    pub flow_files: Vec<FlowFile>,
    /// Flow records written to every flow file.
    pub flow_records: u64,
    /// Flow records that found no room in their queue or could not be written.
    pub flow_records_dropped: u64,
    /// Packets each worker received.
    pub received: Vec<u64>,
    /// Flows that several workers had a part of.
    pub flows_joined: u64,
    /// What was measured.
    pub measured: Measured,
    /// The kernel's own counters that moved during the run, where it was live.
    pub kernel_counters: Option<Counts>,
    /// What went wrong while writing.
    pub errors: Vec<SinkError>,
}

/// An output that failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum SinkError {
    #[error("capture: {0}")]
    Capture(#[from] CaptureOutError),
    #[error("flow records: {0}")]
    Flows(#[from] OutError),
    #[error("cannot start a thread: {0}; 'ulimit -u' and pids.max of the cgroup limit them")]
    NoThread(io::Error),
    #[error("{path} takes nothing any more: what it did not take is lost")]
    Stuck { path: String },
}

impl SinkError {
    /// The reader of a pipe went away: the end of the run, not a fault.
    pub fn is_closed_pipe(&self) -> bool {
        let out = match self {
            Self::Capture(CaptureOutError::Out(out)) | Self::Flows(out) => out,
            Self::Capture(_) | Self::NoThread(_) | Self::Stuck { .. } => return false,
        };
        matches!(out, OutError::Write { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe)
    }
}
