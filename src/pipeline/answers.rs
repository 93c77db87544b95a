//! What the threads of a run answer when they are asked.

use std::time::Duration;

use super::evidence::Cut;
use super::measure::{Distribution, Measured};
use super::queues::Offers;
use super::worker::Snapshot;
use crate::mirror::session_key::SessionKey;
use std::net::IpAddr;

use super::ledger::Ledger;
use super::worker::Worker;
use crate::mirror::session::Session;

/// How long answers are waited for; an idle worker comes by every 10 ms, and an order wakes one that dozes.
pub(super) const WAIT: Duration = Duration::from_secs(1);

/// What one of them says.
pub enum Answer {
    /// A worker.
    Worker(Box<WorkerAnswer>),
    /// A worker that was asked for its counts only.
    Counts(Box<WorkerCounts>),
    /// A worker that was asked for what it knows of truncation in some mirror sessions.
    Cuts(Vec<(SessionKey, Cut)>),
    /// The capture's writer.
    Writer(WriterAnswer),
}

/// What a worker says.
pub struct WorkerAnswer {
    /// What it counted.
    pub snapshot: Snapshot,
    /// What it measured beside that.
    pub measured: Measured,
    /// Packets lost before its source could hand them over.
    pub lost_before: u64,
    /// Packets of sources that are not allowed that the kernel left out.
    pub kernel_refused: u64,
    /// What it had for the sinks.
    pub offers: Offers,
}

/// What the writer says.
pub struct WriterAnswer {
    /// Its latencies.
    pub arrival_to_written: Option<Distribution>,
}

/// What one mirror session counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionCounts {
    /// Its name.
    pub key: SessionKey,
    /// Frames that came.
    pub packets: u64,
    /// Bytes of inner frame that arrived.
    pub bytes: u64,
    /// Packets cut before they reached us.
    pub truncated: u64,
    /// Bytes cut off those.
    pub missing_bytes: u64,
    /// Outer destination of its first packet.
    pub target: Option<IpAddr>,
    /// Largest outer IP packet, in bytes.
    pub largest_outer: u32,
    /// Time of the earliest frame, nanoseconds since 1970.
    pub first_ns: u64,
    /// Time of the latest frame, nanoseconds since 1970.
    pub last_ns: u64,
}

impl From<&Session> for SessionCounts {
    fn from(session: &Session) -> Self {
        Self {
            key: session.key,
            packets: session.packets,
            bytes: session.bytes,
            truncated: session.truncation.truncated,
            missing_bytes: session.truncation.missing_bytes,
            target: session.target,
            largest_outer: session.truncation.largest_outer(),
            first_ns: session.first_ns,
            last_ns: session.last_ns,
        }
    }
}

impl SessionCounts {
    /// Nothing yet, of the session `key`.
    pub const fn none(key: SessionKey) -> Self {
        Self {
            key,
            packets: 0,
            bytes: 0,
            truncated: 0,
            missing_bytes: 0,
            target: None,
            largest_outer: 0,
            first_ns: u64::MAX,
            last_ns: 0,
        }
    }

    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &Self) {
        // As sessions themselves add up.
        if other.first_ns < self.first_ns && self.key != SessionKey::Other {
            self.target = other.target;
        }
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.truncated += other.truncated;
        self.missing_bytes += other.missing_bytes;
        self.largest_outer = self.largest_outer.max(other.largest_outer);
        self.first_ns = self.first_ns.min(other.first_ns);
        self.last_ns = self.last_ns.max(other.last_ns);
    }
}

/// What one worker has counted.
#[derive(Clone, Debug, Default)]
pub struct WorkerCounts {
    /// The accounting; fragments that wait for others are received and not yet anything else.
    pub ledger: Ledger,
    /// Its mirror sessions.
    pub sessions: Vec<SessionCounts>,
    /// Latencies, batches and frame sizes.
    pub measured: Measured,
    /// Packets lost before its source could hand them over.
    pub lost_before: u64,
    /// Packets of sources that are not allowed that the kernel left out.
    pub kernel_refused: u64,
    /// What it had for the sinks.
    pub offers: Offers,
    /// Flows that live.
    pub flows: u64,
    /// Time of its last packet, nanoseconds since 1970; 0 before the first.
    pub latest_ns: u64,
}

impl WorkerCounts {
    /// What `worker` itself knows of it.
    pub fn of(worker: &Worker) -> Self {
        Self {
            ledger: worker.ledger_of_now(),
            sessions: worker.sessions().list().iter().map(Into::into).collect(),
            measured: Measured {
                frame: Some(worker.frames().clone()),
                ..Measured::default()
            },
            flows: worker.live_flows() as u64,
            ..Self::default()
        }
    }
}
