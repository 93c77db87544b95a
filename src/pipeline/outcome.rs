//! What a run came to.

use super::account::{Account, SinkError};
use super::ledger::{Ledger, Noted};
use super::measure::Measured;
use super::sinks::Closed;
use super::total::Total;
use super::worker::OtherPort;
use crate::capture::store::hooks::Tally as HookTally;
use crate::host::counters::Counts;
use crate::mirror::pairs::Pairs;
use crate::mirror::refused::RefusedSource;
use crate::mirror::session::Session;
use crate::mirror::session_key::SessionKey;
use crate::pcap::annotation::Tally;

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
    pub refused_sources: Vec<RefusedSource>,
    /// Packets of sources that are not allowed that the kernel left out before they were received.
    pub kernel_refused: u64,
    /// Sessions that saw the same packets.
    pub pairs: Pairs<SessionKey>,
    /// One TCP connection in so many was looked at for what the mirror lost; 0 where nothing was received.
    pub one_in: u32,
    /// The account of each sink, the capture first.
    pub sinks: Vec<Account>,
    /// Flow records made.
    pub flow_records: u64,
    /// Packets each worker received.
    pub received: Vec<u64>,
    /// Flows that several workers had a part of.
    pub flows_joined: u64,
    /// What was measured.
    pub measured: Measured,
    /// The kernel's own counters that moved during the run, where it was live.
    pub kernel_counters: Option<Counts>,
    /// Packets that the capture files read say were lost before they were written, where one says something.
    pub input_dropped: Option<u64>,
    /// Comments, secrets and names of the capture files read that are not in the capture written.
    pub not_carried: Tally,
    /// What became of the programs that were run for finished files, where there is one.
    pub hooks: Option<HookTally>,
    /// A worker's thread could not be started.
    pub thread_fault: Option<SinkError>,
}

impl Outcome {
    /// What went wrong with threads and sinks.
    pub fn errors(&self) -> impl Iterator<Item = &SinkError> {
        let sinks = self.sinks.iter().flat_map(|sink| &sink.errors);
        self.thread_fault.iter().chain(sinks)
    }

    /// Packets and records that were offered to a sink and are not in it.
    pub fn lost_in_sinks(&self) -> u64 {
        self.sinks.iter().map(Account::lost).sum()
    }
}

impl Outcome {
    /// What workers and sinks came to.
    pub(super) fn of(total: Total, closed: Closed, mut measured: Measured) -> Self {
        let mut ledger = total.ledger;
        ledger.note_many(Noted::Late, closed.behind.late);
        ledger.note_many(Noted::OutOfOrder, closed.behind.out_of_order);
        measured.arrival_to_written = closed.arrival_to_written;
        Self {
            ledger,
            sessions: total.sessions,
            other_ports: total.other_ports,
            refused_sources: total.refused.most(),
            pairs: total.pairs,
            one_in: total.one_in,
            sinks: closed.accounts,
            flow_records: closed.flow_records,
            received: total.received,
            flows_joined: total.flows_joined,
            measured,
            ..Self::default()
        }
    }
}
