//! What happens to each packet: one arrival in; a ledger entry, a flow update and a capture record out. `take` begins
//! it, `deliver` has the stages of a frame in their order.
//!
//! A worker shares nothing that changes. It is handed packets with their time and an [`Outlet`] for
//! what it produces, so the same code runs behind a socket, behind a file and in tests.

use std::sync::Arc;

use crate::capture::store::index;
use crate::flow::app::Awaited;
use crate::flow::intervals::Intervals;
use crate::flow::lifetime::step;
use crate::flow::lookup;
use crate::flow::updates::Updates;
use crate::mirror::allowed::Allowed;
use crate::mirror::duplicates::Duplicates;
use crate::mirror::pairs::Pairs;
use crate::mirror::refused::Refused;
use crate::mirror::session::{SessionId, Sessions};
use crate::pipeline::change;
use crate::pipeline::ledger::{Ledger, Noted};
use crate::pipeline::measure::Distribution;
use crate::pipeline::observe::{Frame, Observed};
use crate::pipeline::watched::{self, Watched};
use crate::source::Arrival;
use crate::wire::inner::Inner;
use crate::wire::reassembly::Reassembly;

mod arrivals;
mod counts;
mod flows;
mod outlet;
pub mod settings;
mod stages;

pub use arrivals::OtherPort;
pub use counts::{Part, Snapshot};
pub use outlet::Outlet;
pub use settings::WorkerSettings;

use flows::{FEWEST_ENDED, MOST_ENDED, MOST_LOOKS};

/// The state of one core's share of the traffic.
pub struct Worker {
    settings: WorkerSettings,
    ledger: Ledger,
    sessions: Sessions,
    /// Sessions the writer has been told of.
    announced: usize,
    flows: Updates,
    /// What part of TCP connections is followed, where nobody takes flow records.
    watched: Option<Watched>,
    /// Records encoded, where flows are told where theirs lie.
    records: u64,
    /// Where openings go on.
    awaited: Awaited,
    /// By what flows are found in an index, where there is one.
    keys: Option<lookup::Keys>,
    reassembly: Reassembly,
    /// Packets seen lately, where copies are looked for.
    duplicates: Option<Duplicates>,
    pairs: Pairs<SessionId>,
    other_ports: Vec<OtherPort>,
    refused: Refused,
    /// Bytes of the frames delivered.
    frames: Distribution,
    /// Room to put an Ethernet header in front of a bare IP packet.
    scratch: Vec<u8>,
    /// Place of the packet being taken.
    place: u64,
    /// The step of time that flows were last looked at in; see [`crate::flow::lifetime`].
    step: u64,
    intervals: Intervals,
    /// The place in the flow table from which on records of the interval before have not been looked for.
    records_from: Option<u32>,
}

impl Worker {
    /// A worker with empty tables.
    pub fn new(settings: WorkerSettings) -> Self {
        let max_flows = if settings.flows {
            settings.max_flows
        } else {
            watched::PLACES
        };
        let mut flows = Updates::new(max_flows, settings.lifetimes);
        if settings.first_places {
            flows.keep_firsts();
        }
        let intervals = Intervals::new(settings.lifetimes.interval_ns);
        Self {
            flows,
            watched: (!settings.flows).then(Watched::default),
            records: 0,
            awaited: Awaited::default(),
            keys: settings.index.then(lookup::Keys::default),
            duplicates: settings.dedup.map(|dedup| Duplicates::new(dedup.window_ns)),
            pairs: Pairs::default(),
            settings,
            ledger: Ledger::default(),
            sessions: Sessions::default(),
            announced: 0,
            reassembly: Reassembly::default(),
            other_ports: Vec::new(),
            refused: Refused::default(),
            frames: Distribution::of_frames(),
            scratch: Vec::new(),
            place: 0,
            step: 0,
            intervals,
            records_from: None,
        }
    }

    /// Who may send.
    pub fn allowed(&self) -> &Allowed {
        &self.settings.allowed
    }

    /// From now on other sources and VNIs are wanted.
    #[cold]
    pub fn change(&mut self, change: &change::Change) {
        self.allow(Arc::clone(&change.allowed));
        self.settings.filter.clone_from(&change.filter);
        self.settings.inventory = Arc::clone(&change.terms.inventory);
    }

    /// Takes one packet all the way.
    pub fn take(&mut self, arrival: &Arrival<'_>, outlet: &mut impl Outlet) {
        self.place = arrival.order();
        // In replay packets alone tell the time, each as soon as it is read.
        if !self.settings.live && step(arrival.ts_ns()) != self.step {
            self.end_flows(arrival.ts_ns(), usize::MAX, outlet);
        }
        if let Some(began_ns) = self.intervals.reached(arrival.ts_ns()) {
            self.begin_interval(began_ns, outlet);
        }
        if let Arrival::Passed { .. } = arrival {
            return;
        }
        self.ledger.received += 1;
        if let Arrival::Record(record) = arrival
            && record.told.is_some_and(|told| told.time_clamped)
        {
            self.ledger.note(Noted::TimeClamped);
        }
        match arrival {
            Arrival::Record(record) if self.settings.plain => self.plain(record, outlet),
            Arrival::Record(record) => self.record(record, outlet),
            Arrival::Datagram(datagram) => self.datagram(datagram, outlet),
            Arrival::Refused(_, refusal) => self.ledger.refuse(*refusal, 1),
            Arrival::Passed { .. } => {}
        }
    }

    /// Allows other sources and VNIs from now on.
    pub fn allow(&mut self, allowed: Arc<Allowed>) {
        self.settings.allowed = allowed;
    }

    /// Ends a batch at `now_ns`, nanoseconds since 1970: outer fragments that waited too long for others are
    /// given up, and flow updates that were put off are done. Whoever feeds packets in batches calls it behind
    /// each, also where no packet came. In replay `now_ns` is the time of the last packet; live too, and after a
    /// second of silence the wall clock. Whatever is to happen at a time hangs on it; what becomes of a packet
    /// does not depend on it, only how soon that is known.
    pub fn tick(&mut self, now_ns: u64, outlet: &mut impl Outlet) {
        // In replay the fragments alone say when they are given up: the place of a frame in the capture must not
        // depend on how batches are cut.
        if self.settings.live {
            self.reassembly.expire(now_ns);
            self.take_given_up(outlet);
        }
        if self.settings.live && step(now_ns) != self.step {
            self.end_flows(now_ns, MOST_ENDED, outlet);
        }
        if self.settings.live {
            if let Some(began_ns) = self.intervals.reached(now_ns) {
                self.begin_interval(began_ns, outlet);
            }
            if self.records_from.is_some() {
                let most = match outlet.has_flow_room() {
                    true => MOST_ENDED,
                    false => FEWEST_ENDED,
                };
                self.end_records((most, MOST_LOOKS), outlet);
            }
        }
        self.settle(outlet);
    }

    /// Ends the input: what waits for more is given up, and delivered as far as it came.
    pub fn end_input(&mut self, outlet: &mut impl Outlet) {
        // Behind everything else, whichever worker has it.
        self.place = u64::MAX;
        while self.reassembly.give_up_oldest() {
            self.take_given_up(outlet);
        }
        self.settle(outlet);
    }

    /// The stages of a frame, one after the other.
    #[inline]
    fn deliver(&mut self, frame: &Frame<'_>, outlet: &mut impl Outlet) {
        let mut inner = Inner::default();
        let observed = Observed::of(frame, &mut inner, &self.settings);
        if let Err(refusal) = self.admit(&observed) {
            return self.ledger.refuse(refusal, 1);
        }
        // Looked up behind all the rest.
        let ahead = self.keys.as_ref();
        let ahead = ahead.map(|keys| index::build::Ahead::of(keys, observed.inner));
        let fingerprint = self.look_ahead(&observed);
        let session = self.meet(&observed, outlet);
        let drops_copies = self.settings.dedup.is_some_and(|dedup| dedup.drop);
        if drops_copies && let Some(copy) = self.look_back(session, fingerprint, &observed) {
            self.came_before(&copy, session, &observed, outlet);
            self.ledger.duplicate += 1;
            return;
        }
        self.account(&observed);
        let id = fingerprint.map(|fingerprint| fingerprint.id(frame.ts_ns));
        let mut counted = self.follow(session, &observed);
        let kept = self.keep(session, id, &observed, ahead, outlet);
        if let Some((counted, first)) = counted.as_mut().zip(kept) {
            counted.packet.first = first;
        }
        // As late as can be: memory has had the time to answer.
        if !drops_copies && let Some(copy) = self.look_back(session, fingerprint, &observed) {
            self.ledger.note(Noted::Duplicate);
            if let Some(fingerprint) = fingerprint.filter(|_| kept.is_some()) {
                self.rename(fingerprint.id(copy.first.ts_ns), outlet);
            }
            let copies = self.came_before(&copy, session, &observed, outlet);
            if let Some(counted) = &mut counted {
                counted.packet.copies = copies;
            }
        }
        if let Some(counted) = &counted {
            self.count_in_flow(counted, outlet);
        }
    }
}
