//! How sinks stand while they work, for those who look at them from outside and those who wait for them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::account::SinkError;
use super::account::{Account, Kind};
use super::capture_notes::CaptureNotes;
use super::ledger::{Ledger, Noted};
use super::queues::Offers;
use crate::capture::store::holdings::{self, Holdings};
use crate::capture::view::tee::Tees;
use crate::export::collector::reach::{self, Reach};
use crate::outfile::Standing;

/// What went wrong with a sink of a run that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// In words.
    pub text: String,
    /// It is only that the reader of a pipe went away.
    pub reader_left: bool,
}

/// How a sink stands while the run goes on.
#[derive(Debug)]
pub struct State {
    /// Its account, so far.
    pub account: Account,
    /// Why nothing is written any more.
    pub fault: Option<Fault>,
    /// What it holds, where it is a store.
    pub store: Option<Holdings>,
    /// How it is reached, where it is a collector.
    pub collector: Option<Reach>,
}

/// Where an output tells what its sink does not: those who look on read it while it is written.
#[derive(Clone, Debug, Default)]
pub struct Tells {
    /// Bytes that the end of a file brings to the disk.
    pub synced: Arc<AtomicU64>,
    /// What a store holds.
    pub store: Option<holdings::Told>,
    /// How a collector is reached.
    pub collector: Option<reach::Told>,
}

/// How far a sink has come, for those who wait for it.
#[derive(Debug, Default)]
pub struct Progress {
    /// What went wrong with it first.
    pub(super) fault: OnceLock<Fault>,
    pub(super) written: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) disk: AtomicU64,
    pub(super) collector: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) tells: Tells,
}

impl Progress {
    pub(super) fn tell(&self, standing: Standing) {
        self.written.store(standing.written, Ordering::Relaxed);
        self.lost.store(standing.lost, Ordering::Relaxed);
        self.disk.store(standing.disk, Ordering::Relaxed);
        let collector = standing.collector;
        self.collector.store(collector, Ordering::Relaxed);
        self.bytes.store(standing.bytes, Ordering::Relaxed);
    }

    pub(super) fn standing(&self) -> Standing {
        Standing {
            written: self.written.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            disk: self.disk.load(Ordering::Relaxed),
            collector: self.collector.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    /// The first fault stands.
    pub(super) fn tell_fault(&self, first: Option<&SinkError>) {
        if let Some(first) = first {
            self.fault.get_or_init(|| Fault {
                text: first.to_string(),
                reader_left: first.is_closed_pipe(),
            });
        }
    }

    /// A number that changes as long as something is done.
    pub(super) fn steps(&self) -> u64 {
        let Standing {
            written,
            lost,
            disk,
            collector,
            bytes,
        } = self.standing();
        let synced = self.tells.synced.load(Ordering::Relaxed);
        written
            .wrapping_add(lost)
            .wrapping_add(disk)
            .wrapping_add(collector)
            .wrapping_add(bytes)
            .wrapping_add(synced)
    }
}

/// Looks at sinks from outside, while they work.
#[derive(Clone, Default)]
pub struct Watch {
    sinks: Vec<(Kind, String, Arc<Progress>)>,
    /// Flow records that each sink for them had no room for.
    flows_no_room: Vec<Arc<AtomicU64>>,
    tees: Option<Arc<Tees>>,
    /// What the capture tells of the order of its records.
    notes: Arc<CaptureNotes>,
}

impl Watch {
    /// Of these sinks, and of tees. `flows_no_room` counts what the queue of each sink for flow records had no place for.
    pub fn of(
        sinks: Vec<(Kind, String, Arc<Progress>)>,
        flows_no_room: &[Arc<AtomicU64>],
        tees: Option<Arc<Tees>>,
        notes: Arc<CaptureNotes>,
    ) -> Self {
        Self {
            sinks,
            flows_no_room: flows_no_room.to_vec(),
            tees,
            notes,
        }
    }

    /// Notes in `ledger` what the capture tells of the order of its records.
    pub fn note_behind(&self, ledger: &mut Ledger) {
        let behind = self.notes.behind();
        ledger.note_many(Noted::Late, behind.late);
        ledger.note_many(Noted::OutOfOrder, behind.out_of_order);
    }

    /// A number that changes as long as any of them does something.
    pub fn steps(&self) -> u64 {
        let steps = self.sinks.iter().map(|(.., progress)| progress.steps());
        let tees = self.tees.as_ref().map_or(0, |tees| tees.steps());
        steps.fold(tees, u64::wrapping_add)
    }

    /// How each stands.
    pub fn standings(&self) -> impl Iterator<Item = (Kind, &str, Standing)> {
        self.sinks.iter().map(move |watched| {
            let (kind, path, progress) = watched;
            (*kind, path.as_str(), progress.standing())
        })
    }

    /// The account of each, so far: `delivered` frames were there for a capture, `offers` tells the rest.
    pub fn accounts(&self, delivered: u64, offers: Offers) -> Vec<Account> {
        let states = self.states(delivered, offers).into_iter();
        states.map(|state| state.account).collect()
    }

    /// How each stands, as [`Self::accounts`].
    pub fn states(&self, delivered: u64, offers: Offers) -> Vec<State> {
        let mut no_room = self.flows_no_room.iter();
        let mut no_room = |kind| match kind {
            Kind::Capture => offers.capture_no_room,
            Kind::Flows => no_room
                .next()
                .map_or(0, |lost| lost.load(Ordering::Relaxed)),
            Kind::View => 0,
        };
        let state = |(kind, path, progress): &(Kind, String, Arc<Progress>)| {
            let standing = (*kind, path.as_str(), progress.standing());
            let no_room = no_room(*kind);
            State {
                account: Account::so_far(standing, delivered, offers, no_room),
                fault: progress.fault.get().cloned(),
                store: progress.tells.store.as_ref().map(holdings::Told::now),
                collector: progress.tells.collector.as_ref().map(reach::Told::now),
            }
        };
        // The thread that feeds nothing but tees has none.
        let sinks = self.sinks.iter().filter(|(kind, ..)| *kind != Kind::View);
        let tees = self.tees.iter().flat_map(|tees| tees.seen());
        let tees = tees.map(|(name, seen)| State {
            account: Account::of_tee(name, seen),
            fault: None,
            store: None,
            collector: None,
        });
        sinks.map(state).chain(tees).collect()
    }
}
