//! The frame in its flow, and what becomes of flows as time goes by.

use super::{Outlet, Worker};
use crate::flow::app::Opening;
use crate::flow::counts::{Copies, FlowPacket};
use crate::flow::ended::{EndReason, Ended};
use crate::flow::first::First;
use crate::flow::key::{FlowKey, Way};
use crate::flow::lifetime::step;
use crate::flow::record::{FlowRecord, Occasion};
use crate::flow::updates::Change;
use crate::mirror::duplicates::CopyOf;
use crate::mirror::session::{SessionId, Sessions};
use crate::mirror::session_key::SessionKey;
use crate::pipeline::ledger::Noted;
use crate::pipeline::observe::Observed;
use crate::pipeline::watched::Watched;
use crate::wire::inner::Inner;

/// Flows that end with a batch, live, at most: the rest has to wait for the next, so that receiving goes on.
pub(super) const MOST_ENDED: usize = 1024;

/// Where the sinks have no room for many, so many records that end with an interval are handed out with a batch all the
/// same: a sink that is stuck holds nothing up.
pub(super) const FEWEST_ENDED: usize = 16;

/// Places that are looked at for such records with a batch, live.
pub(super) const MOST_LOOKS: usize = 4096;

/// A packet as it counts in a flow.
pub(super) struct Counted<'a> {
    pub(super) key: FlowKey,
    pub(super) way: Way,
    pub(super) packet: FlowPacket,
    pub(super) opening: Option<Opening<'a>>,
}

impl Worker {
    /// Ends flows that are over at `now_ns`, at most `most`.
    #[cold]
    pub(super) fn end_flows(&mut self, now_ns: u64, most: usize, outlet: &mut impl Outlet) {
        let Self {
            flows,
            sessions,
            place,
            records,
            watched,
            ..
        } = self;
        let is_more = flows.expire(step(now_ns), most, |order, change| {
            let occasion = order.map_or(Occasion::Time(*place), Occasion::Packet);
            tell(change, occasion, sessions, watched, *records, outlet);
        });
        if !is_more {
            self.step = step(now_ns);
        }
    }

    /// Ends the records of the interval before: in replay all at once, so that none comes behind one of the next; live
    /// with this and the following batches, so that receiving goes on.
    #[cold]
    pub(super) fn begin_interval(&mut self, began_ns: u64, outlet: &mut impl Outlet) {
        let Self {
            flows,
            sessions,
            records,
            watched,
            ..
        } = self;
        flows.begin_interval(began_ns, |order, change| {
            let occasion = Occasion::Packet(order);
            tell(change, occasion, sessions, watched, *records, outlet);
        });
        self.records_from = Some(0);
        if !self.settings.live {
            self.end_records((usize::MAX, usize::MAX), outlet);
        }
    }

    /// Ends records of the interval before, from where that was left.
    pub(super) fn end_records(&mut self, most: (usize, usize), outlet: &mut impl Outlet) {
        let Self {
            flows,
            sessions,
            place,
            records,
            watched,
            records_from,
            ..
        } = self;
        let Some(from) = *records_from else {
            return;
        };
        *records_from = flows.end_records(from, most, |order, change| {
            let occasion = order.map_or(Occasion::Interval(*place), Occasion::Packet);
            tell(change, occasion, sessions, watched, *records, outlet);
        });
    }

    /// Does flow updates that were put off.
    pub(super) fn settle(&mut self, outlet: &mut impl Outlet) {
        let Self {
            flows,
            sessions,
            records,
            watched,
            ..
        } = self;
        flows.settle(|order, change| {
            let occasion = Occasion::Packet(order);
            tell(change, occasion, sessions, watched, *records, outlet);
        });
        let left_out = flows.take_names_left_out();
        self.ledger.note_many(Noted::AppNamesFull, left_out);
    }

    /// The first packet of the record at the place `flow` of the table is number `record` of the capture's, and lies at
    /// `first`. The flow may have ended.
    pub fn found(&mut self, flow: u32, record: u64, first: First) {
        self.flows.found(flow, record, first);
    }

    /// What the frame counts in a flow, as far as it is known before it is kept and looked for among those seen.
    #[inline]
    pub(super) fn follow<'a>(
        &mut self,
        session: SessionId,
        observed: &Observed<'a>,
    ) -> Option<Counted<'a>> {
        let inner = observed.inner;
        if self.watched.as_ref().is_some_and(|part| !part.takes(inner)) {
            return None;
        }
        let vni = observed.frame.mirrored.map(|mirrored| mirrored.vni);
        let (key, way) = FlowKey::of(session, vni, inner)?;
        let (ts_ns, lengths) = (observed.frame.ts_ns, observed.wire_lengths);
        let ip_len = observed.evidence.ip_bytes(lengths);
        let packet = FlowPacket::of(ts_ns, lengths, observed.verdict, ip_len, inner)?;
        let opening = if self.settings.app && self.settings.flows {
            Opening::of(inner, observed.frame.bytes, &mut self.awaited)
        } else {
            None
        };
        Some(Counted {
            key,
            way,
            packet,
            opening,
        })
    }

    #[inline]
    pub(super) fn count_in_flow(&mut self, counted: &Counted<'_>, outlet: &mut impl Outlet) {
        let Self {
            flows,
            sessions,
            records,
            watched,
            ..
        } = self;
        let Counted {
            key,
            way,
            packet,
            opening,
        } = counted;
        flows.add(key, *way, packet, *opening, self.place, |order, change| {
            let occasion = Occasion::Packet(order);
            tell(change, occasion, sessions, watched, *records, outlet);
        });
    }

    /// Counts in the flow of the packet's first copy that there is another one, where that flow is another.
    #[cold]
    pub(super) fn tell_first(
        &mut self,
        copy: &CopyOf,
        session: SessionId,
        observed: &Observed<'_>,
        outlet: &mut impl Outlet,
    ) {
        let there = copy.first.session;
        if !self.settings.flows || there == session || !copy.is_second {
            return;
        }
        let key = self.sessions.session(there).map(|session| session.key);
        let vni = key.and_then(SessionKey::mirror).map(|(_, vni)| vni);
        // The flow's key as it was there.
        let inner = Inner {
            vlan: copy.first.vlan,
            ..*observed.inner
        };
        let (ts_ns, lengths) = (observed.frame.ts_ns, observed.wire_lengths);
        let packet = FlowPacket::of(ts_ns, lengths, observed.verdict, 0, &inner);
        let Some(((key, way), packet)) = FlowKey::of(there, vni, &inner).zip(packet) else {
            return;
        };
        let counted = Counted {
            key,
            way,
            packet: FlowPacket {
                copies: Copies::OfAnother,
                ..packet
            },
            opening: None,
        };
        self.count_in_flow(&counted, outlet);
    }
}

/// Tells what `occasion` changed, when so many records were encoded.
pub(super) fn tell(
    change: Change<'_>,
    occasion: Occasion,
    sessions: &mut Sessions,
    watched: &mut Option<Watched>,
    records: u64,
    outlet: &mut impl Outlet,
) {
    match change {
        Change::Ended(ended) => hand_out(ended, occasion, sessions, watched, outlet),
        Change::Begun { flow, record } => {
            outlet.flow_begins(flow, record, records.saturating_sub(record));
        }
    }
}

/// Counts to its session what a flow that has ended tells of bytes that never came, and hands its record out where
/// somebody takes it.
pub(super) fn hand_out(
    ended: &Ended,
    occasion: Occasion,
    sessions: &mut Sessions,
    watched: &mut Option<Watched>,
    outlet: &mut impl Outlet,
) {
    let Ended { flow, reason } = ended;
    let id = flow.key.session();
    if let Some((session, lost)) = sessions.session_mut(id).zip(flow.lost()) {
        session.loss.add(&lost);
    }
    match watched {
        Some(watched) if *reason == EndReason::LackOfResources => watched.make_room(),
        Some(_) => {}
        None => {
            if let Some(session) = sessions.session(id) {
                outlet.flow(FlowRecord::new(flow, session, *reason, occasion));
            }
        }
    }
}
