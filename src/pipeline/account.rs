//! The account of a sink: offered = written + dropped by reason. Pure.

use super::queues::Offers;
use crate::capture::view::tee::Seen;
use crate::outfile::{OutError, Standing};
use crate::threads::NoThread;
use crate::wire::refusal::reasons;

reasons! {
    /// Why a sink does not have what it was offered.
    Missing {
        /// Its queue was full: the disk or the reader of the pipe is too slow.
        Queue => "queue",
        /// The run is at a limit (--cpu-limit, --disk-rate), and this conversation was left out for it.
        Limit => "limit",
        /// It could not be written.
        Write => "write",
        /// The disk of a store did not take it.
        Disk => "disk",
        /// The collector refused it, or was not there.
        Collector => "collector",
        /// The reader of the pipe went away.
        ReaderLeft => "reader_left",
        /// The output took nothing any more when the run ended.
        Stuck => "stuck",
    }
}

/// What a sink takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Mirrored frames.
    Capture,
    /// Flow records.
    Flows,
    /// Mirrored frames, to whoever looks at them live.
    View,
}

impl Kind {
    /// Its name in the summary.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Capture => "capture",
            Self::Flows => "flows",
            Self::View => "view",
        }
    }
}

/// What went wrong with a sink.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum SinkError {
    #[error(transparent)]
    Out(#[from] OutError),
    #[error(transparent)]
    NoThread(#[from] NoThread),
    #[error("{path} takes nothing any more: what it did not take is lost")]
    Stuck { path: String },
    #[error("the writer of {path} failed, which is a defect: what it did not write is lost")]
    Panicked { path: String },
}

impl SinkError {
    /// The reader of a pipe went away: the end of that output, not a fault.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Out(error) if error.is_closed_pipe())
    }
}

/// The account of a sink: offered = written + dropped.
#[derive(Debug)]
pub struct Account {
    /// What it takes.
    pub kind: Kind,
    /// Where it went: a path or "standard output".
    pub path: String,
    /// Viewers that came, where it is a tee.
    pub viewers: Option<u64>,
    /// Packets or records offered to it; by a tee to each viewer.
    pub offered: u64,
    /// Packets or records that are in it.
    pub written: u64,
    /// Bytes of it.
    pub bytes: u64,
    pub(super) dropped: [u64; Missing::ALL.len()],
    /// Offered and still on its way; none once the run has ended.
    pub waiting: u64,
    /// What went wrong.
    pub errors: Vec<SinkError>,
}

impl Account {
    /// Of a sink that goes on: `delivered` frames were there for a capture, `offers` tells the rest; its queue had no place
    /// for `no_room`.
    pub fn so_far(
        (kind, path, standing): (Kind, &str, Standing),
        delivered: u64,
        offers: Offers,
        no_room: u64,
    ) -> Self {
        let (offered, left_out) = match kind {
            Kind::Capture => (delivered, offers.capture_left_out),
            Kind::Flows => (offers.flow_records, 0),
            Kind::View => (0, 0),
        };
        let mut account = Self {
            kind,
            path: path.to_owned(),
            viewers: None,
            offered,
            written: standing.written,
            bytes: standing.bytes,
            dropped: Default::default(),
            waiting: 0,
            errors: Vec::new(),
        };
        account.drop(Missing::Queue, no_room);
        account.drop(Missing::Limit, left_out);
        account.drop(Missing::Write, standing.lost);
        account.drop(Missing::Disk, standing.disk);
        account.drop(Missing::Collector, standing.collector);
        // The sink was looked at after the workers answered.
        account.offered = offered.max(account.written + account.lost());
        account.waiting = account.offered - account.written - account.lost();
        account
    }

    /// Of a tee, so far: it counts for itself.
    pub fn of_tee(name: &str, seen: Seen) -> Self {
        let mut account = Self {
            kind: Kind::View,
            path: name.to_owned(),
            viewers: Some(seen.viewers),
            offered: seen.offered,
            written: seen.written,
            bytes: seen.bytes,
            dropped: Default::default(),
            waiting: 0,
            errors: Vec::new(),
        };
        account.drop(Missing::Queue, seen.no_room);
        account.drop(Missing::ReaderLeft, seen.reader_left);
        account.drop(Missing::Stuck, seen.stuck);
        account.offered = seen.offered.max(account.written + account.lost());
        account.waiting = account.offered - account.written - account.lost();
        account
    }

    /// The same when the run has ended: nothing is on its way any more.
    pub fn of_ended_tee(name: &str, seen: Seen) -> Self {
        let mut account = Self::of_tee(name, seen);
        let rest = std::mem::take(&mut account.waiting);
        account.drop(Missing::Stuck, rest);
        account
    }

    /// Counts that did not arrive, by reason; zeros too.
    pub fn dropped(&self) -> impl Iterator<Item = (Missing, u64)> {
        Missing::ALL.iter().copied().zip(self.dropped)
    }

    /// All that did not arrive.
    pub fn lost(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// Whether everything offered is written or counted as dropped.
    pub fn closes(&self) -> bool {
        self.offered == self.written + self.lost() + self.waiting
    }

    pub(super) fn drop(&mut self, reason: Missing, n: u64) {
        if let Some(count) = self.dropped.get_mut(reason as usize) {
            *count += n;
        }
    }
}
