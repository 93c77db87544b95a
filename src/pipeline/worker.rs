//! What happens to each packet: one arrival in; a ledger entry, a flow update and a capture record out.
//!
//! A worker shares nothing that changes. It is handed packets with their time and an [`Outlet`] for
//! what it produces, so the same code runs behind a socket, behind a file and in tests.

use std::net::IpAddr;
use std::sync::Arc;

use crate::capture::store::index;
use crate::filter::{Filter, Packet};
use crate::flow::app::{Awaited, Opening};
use crate::flow::counts::{Copies, FlowPacket};
use crate::flow::ended::{EndReason, Ended};
use crate::flow::first::First;
use crate::flow::intervals::Intervals;
use crate::flow::key::{FlowKey, Way};
use crate::flow::lifetime::{Lifetimes, step};
use crate::flow::lookup;
use crate::flow::record::{FlowRecord, Occasion};
use crate::flow::remaining::Remaining;
use crate::flow::updates::{Change, Updates};
use crate::mirror::allowed::Allowed;
use crate::mirror::direction::Direction;
use crate::mirror::duplicates::{CopyOf, Dedup, Duplicates, Fingerprint, Sighting};
use crate::mirror::inventory::Inventory;
use crate::mirror::own_macs::Fact;
use crate::mirror::pairs::{self, Pairs};
use crate::mirror::refused::Refused;
use crate::mirror::session::{Session, SessionId, SessionKey, Sessions};
use crate::pcap::origin::Origin;
use crate::pcap::record::{
    Batch, CaptureRecord, CutBy, Format, NewSession, PCAP_LATEST_NS, SNAPLEN, room_for,
};
use crate::pcap::slice::{LeftOut, Slice};
use crate::pipeline::change;
use crate::pipeline::ledger::{Dropped, Ledger, Noted};
use crate::pipeline::measure::Distribution;
use crate::pipeline::observe::{Frame, Observed};
use crate::pipeline::watched::{self, Watched};
use crate::source::{Arrival, Datagram, Record, Told};
use crate::wire::decapsulate::{Mirrored, Tunnel, Tunnels, decapsulate};
use crate::wire::inner::Inner;
use crate::wire::ip::Address;
use crate::wire::length::Verdict;
use crate::wire::numbers::{ether_type, protocol};
use crate::wire::outer::{self, LinkType, Outer, OuterFragment, OuterUdp, Pieces};
use crate::wire::reassembly::{Joined, Missing, Piece, Reassembly, Remains};
use crate::wire::refusal::{Filtered, Malformed, Refusal};
use crate::wire::vxlan::Payload;

/// What a worker needs to know.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// Ports and depth of tunnels.
    pub tunnels: Tunnels,
    /// Packets are not encapsulated: take them as they are.
    pub plain: bool,
    /// Packets come as time goes by.
    pub live: bool,
    /// MTU of the path from mirror source to target, in bytes.
    pub mtu: u32,
    /// Bytes of the MTU that the cloud recommends to keep free for the mirror's headers.
    pub mtu_overhead: u32,
    /// Most flows kept at a time.
    pub max_flows: u32,
    /// How long flows live.
    pub lifetimes: Lifetimes,
    /// Kind of capture to encode; `None` for no capture.
    pub capture: Option<Format>,
    /// How much of each frame the capture keeps, where that is not all.
    pub slice: Option<Slice>,
    /// Whether somebody writes an index of the capture.
    pub index: bool,
    /// Whether somebody takes flow records. Else no more flows are kept than tell what the mirror lost.
    pub flows: bool,
    /// Whether the first packets of flows are looked into, for what they name.
    pub app: bool,
    /// Whether flow records tell where in the capture their first packets lie: only where there are both.
    pub first_places: bool,
    /// Sources and VNIs that are wanted.
    pub allowed: Arc<Allowed>,
    /// Which mirrored packets are wanted; `None` for all.
    pub filter: Option<Arc<Filter>>,
    /// What is known of mirror sessions beforehand, for the summary.
    pub inventory: Arc<Inventory>,
    /// How copies of packets are looked for; `None` for not at all.
    pub dedup: Option<Dedup>,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            tunnels: Tunnels::default(),
            plain: false,
            live: false,
            mtu: 1500,
            mtu_overhead: 64,
            max_flows: 1 << 20,
            lifetimes: Lifetimes::default(),
            capture: None,
            slice: None,
            index: false,
            flows: false,
            app: true,
            first_places: false,
            allowed: Arc::default(),
            filter: None,
            inventory: Arc::default(),
            dedup: Some(Dedup::default()),
        }
    }
}

/// Where a worker's output goes.
pub trait Outlet {
    /// Whether the current batch has room for `len` more bytes, so that [`Self::room`] hands none over.
    fn has_room(&self, _len: usize) -> bool {
        true
    }

    /// A batch with room for `len` more bytes, or `None` when the queue to the writer is full.
    fn room(&mut self, len: usize) -> Option<&mut Batch>;

    /// The batch that [`Self::room`] handed out last.
    fn current(&mut self) -> Option<&mut Batch>;

    /// There was no room for a frame of this session: the capture will not have it.
    fn no_room(&mut self, session: SessionId);

    /// Whether the run has to leave a frame out of the capture to stay within its limits. `mix` gives a number that all
    /// frames of a conversation share.
    fn leaves_out(&self, _mix: impl FnOnce() -> u32) -> bool {
        false
    }

    /// A frame of a mirror session was left out for that.
    fn left_out(&mut self, _session: SessionId) {}

    /// The flow at the place `flow` of the table begins with one of the records that were encoded last, which is number
    /// `record` of all; `back` is 1 for the last one. It is in the current batch.
    fn flow_begins(&mut self, _flow: u32, _record: u64, _back: u64) {}

    /// A packet of a mirror session showed whose a hardware address is.
    fn learned(&mut self, _session: SessionKey, _fact: Fact) {}

    /// Whether many more flow records find room.
    fn has_flow_room(&self) -> bool {
        true
    }

    /// Takes a flow record.
    fn flow(&mut self, record: FlowRecord);
}

/// Flows that end with a batch, live, at most: the rest has to wait for the next, so that receiving goes on.
const MOST_ENDED: usize = 1024;
/// Where the sinks have no room for many, so many records that end with an interval are handed out with a batch all the
/// same: a sink that is stuck holds nothing up.
const FEWEST_ENDED: usize = 16;
/// Places that are looked at for such records with a batch, live.
const MOST_LOOKS: usize = 4096;
/// Ports remembered among UDP traffic that went to no tunnel port.
const OTHER_PORTS_KEPT: usize = 16;

/// A destination port that was not asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherPort {
    /// The port.
    pub port: u16,
    /// Datagrams to it.
    pub packets: u64,
    /// Those that would pass as VXLAN with every reserved bit zero.
    pub like_vxlan: u64,
}

/// A packet as it counts in a flow.
struct Counted<'a> {
    key: FlowKey,
    way: Way,
    packet: FlowPacket,
    opening: Option<Opening<'a>>,
}

/// What one worker counted.
pub struct Part {
    /// The accounting.
    pub ledger: Ledger,
    /// Mirror sessions.
    pub sessions: Sessions,
    /// Flows that live.
    pub flows: Remaining,
    /// Records of flows that had to make room for the last packets.
    pub evicted: Vec<FlowRecord>,
    /// UDP traffic that went to other ports.
    pub other_ports: Vec<OtherPort>,
    /// Who sent without being allowed to.
    pub refused: Refused,
    /// Sessions that saw the same packets.
    pub pairs: Pairs<SessionKey>,
    /// One TCP connection in so many was looked at for what the mirror lost.
    pub one_in: u32,
    /// Bytes of the frames delivered.
    pub frames: Distribution,
}

/// What a worker that goes on has counted so far.
pub struct Snapshot {
    /// The accounting; fragments that wait for others are received and not yet anything else.
    pub ledger: Ledger,
    /// Mirror sessions, in the order they were first seen.
    pub sessions: Vec<Session>,
    /// UDP traffic that went to other ports.
    pub other_ports: Vec<OtherPort>,
    /// Who sent without being allowed to.
    pub refused: Refused,
    /// Sessions that saw the same packets.
    pub pairs: Pairs<SessionKey>,
    /// One TCP connection in so many was looked at for what the mirror lost.
    pub one_in: u32,
    /// Bytes of the frames delivered.
    pub frames: Distribution,
}

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

    /// Ends flows that are over at `now_ns`, at most `most`.
    #[cold]
    fn end_flows(&mut self, now_ns: u64, most: usize, outlet: &mut impl Outlet) {
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
    fn begin_interval(&mut self, began_ns: u64, outlet: &mut impl Outlet) {
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
    fn end_records(&mut self, most: (usize, usize), outlet: &mut impl Outlet) {
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

    /// Allows other sources and VNIs from now on.
    pub fn allow(&mut self, allowed: Arc<Allowed>) {
        self.settings.allowed = allowed;
    }

    /// Counts a packet that nobody has the time to work on any more. What the source refused itself is counted
    /// as ever.
    pub fn leave_unread(&mut self, arrival: &Arrival<'_>) {
        match arrival {
            Arrival::Passed { .. } => return,
            Arrival::Refused(_, refusal) => self.ledger.refuse(*refusal, 1),
            Arrival::Record(_) | Arrival::Datagram(_) => self.ledger.drop(Dropped::Stopped, 1),
        }
        self.ledger.received += 1;
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

    /// Does flow updates that were put off.
    fn settle(&mut self, outlet: &mut impl Outlet) {
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

    /// Ends the input: gives up what waits for more and hands out what was counted.
    pub fn end(mut self) -> Part {
        // Nothing is left after `end_input`, and without it nobody takes frames any more.
        while self.reassembly.give_up_oldest() {}
        while let Some(given_up) = self.reassembly.next_given_up() {
            self.ledger
                .drop(Dropped::FragmentIncomplete, given_up.pieces);
        }
        let mut evicted = Evicted(Vec::new());
        self.settle(&mut evicted);
        let ledger = self.ledger_of_now();
        let pairs = std::mem::take(&mut self.pairs);
        let pairs = pairs.named(|id| key_of(&self.sessions, id));
        let flows = self.flows.end();
        Part {
            one_in: one_in(self.watched.as_ref()),
            ledger,
            flows,
            evicted: evicted.0,
            pairs,
            sessions: self.sessions,
            other_ports: self.other_ports,
            refused: self.refused,
            frames: self.frames,
        }
    }

    /// What was counted so far. The worker goes on.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            one_in: one_in(self.watched.as_ref()),
            ledger: self.ledger_of_now(),
            pairs: self.pairs.clone().named(|id| key_of(&self.sessions, id)),
            sessions: self.sessions.list().to_vec(),
            other_ports: self.other_ports.clone(),
            refused: self.refused.clone(),
            frames: self.frames.clone(),
        }
    }

    /// The accounting so far, with what is noted elsewhere.
    pub fn ledger_of_now(&self) -> Ledger {
        let mut ledger = self.ledger.clone();
        let made_room = self.duplicates.as_ref().map_or(0, Duplicates::made_room);
        ledger.note_many(Noted::DuplicateWindow, made_room);
        ledger
    }

    /// The accounting so far.
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Bytes of the frames delivered.
    pub const fn frames(&self) -> &Distribution {
        &self.frames
    }

    /// Flows that live, where somebody takes their records.
    pub fn live_flows(&self) -> usize {
        if self.settings.flows {
            self.flows.len()
        } else {
            0
        }
    }

    /// The mirror sessions seen so far.
    pub const fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    fn record(&mut self, record: &Record<'_>, outlet: &mut impl Outlet) {
        let cut = record.orig_len as usize > record.bytes.len();
        match outer::read(record.link, record.bytes, cut) {
            Ok(Outer::Udp(udp)) => self.udp(record.ts_ns, &udp, outlet),
            Ok(Outer::Fragment(fragment)) => self.fragment(record.ts_ns, &fragment, outlet),
            Err(refusal) => self.ledger.refuse(refusal, 1),
        }
    }

    fn datagram(&mut self, datagram: &Datagram<'_>, outlet: &mut impl Outlet) {
        let udp = OuterUdp {
            src: datagram.src.ip().to_canonical().into(),
            dst: datagram.dst.ip().to_canonical().into(),
            src_port: datagram.src.port(),
            dst_port: datagram.dst.port(),
            payload: datagram.payload,
            carried_len: datagram.payload.len(),
            ip_len: saturate(datagram.headers_len + datagram.payload.len()),
            pieces: datagram.pieces,
            length_mismatch: false,
        };
        self.udp(datagram.ts_ns, &udp, outlet);
    }

    fn fragment(&mut self, ts_ns: u64, fragment: &OuterFragment<'_>, outlet: &mut impl Outlet) {
        // Later pieces do not name their port: those of strangers are refused whatever it is.
        if !self.settings.allowed.source(fragment.src.into()) {
            return self.refuse_stranger(fragment.src.into());
        }
        let piece = self.reassembly.add(ts_ns, fragment);
        self.take_given_up(outlet);
        match piece {
            Piece::Held => {}
            Piece::Again => self.ledger.refuse(Filtered::FragmentJoined.into(), 1),
            Piece::Refused(reason) => self.ledger.refuse(reason.into(), 1),
            Piece::Completed(joined) => self.joined(ts_ns, &joined, outlet),
        }
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

    /// Takes what the reassembly has given up.
    fn take_given_up(&mut self, outlet: &mut impl Outlet) {
        while let Some(given_up) = self.reassembly.next_given_up() {
            match given_up.what {
                Remains::Refused(reason) => self.ledger.refuse(reason.into(), given_up.pieces),
                Remains::NoBeginning => {
                    self.ledger
                        .drop(Dropped::FragmentIncomplete, given_up.pieces);
                }
                Remains::Beginning(joined) => self.joined(given_up.ts_ns, &joined, outlet),
            }
        }
    }

    /// Takes a datagram that came in pieces. One of them stands for it in the ledger.
    fn joined(&mut self, ts_ns: u64, joined: &Joined, outlet: &mut impl Outlet) {
        let Joined { ip, missing, .. } = joined;
        let cut = *missing != Missing::Nothing;
        let pieces_missing = *missing == Missing::Pieces;
        let largest = joined.largest_piece;
        let read = match outer::read_udp(ip, &joined.payload, cut) {
            // Pieces of pieces, or extension headers that do not end.
            _ if ip.fragment.is_some() => Err(Malformed::OuterFragment.into()),
            _ if ip.options_cut => Err(Malformed::OuterFragment.into()),
            _ if ip.protocol != protocol::UDP => Err(Filtered::NotUdp.into()),
            Ok(udp) if pieces_missing => {
                let pieces = Pieces::FirstFragments { largest };
                Ok(OuterUdp { pieces, ..udp })
            }
            Ok(udp) => {
                let pieces = Pieces::Fragments { largest };
                Ok(OuterUdp { pieces, ..udp })
            }
            Err(refusal) => Err(refusal),
        };
        // What came is too little to say anything of it.
        let too_short = pieces_missing
            && match &read {
                Ok(udp) => decapsulate(&self.settings.tunnels, udp).err(),
                Err(refusal) => Some(*refusal),
            }
            .is_some_and(|refusal| matches!(refusal, Refusal::Malformed(why) if why.is_short()));
        if too_short {
            return self.ledger.drop(Dropped::FragmentIncomplete, joined.pieces);
        }
        self.ledger
            .refuse(Filtered::FragmentJoined.into(), joined.pieces - 1);
        match read {
            Ok(udp) => {
                let before = self.ledger.delivered;
                self.udp(ts_ns, &udp, outlet);
                if pieces_missing && self.ledger.delivered > before {
                    self.ledger.note(Noted::FragmentsMissing);
                }
            }
            Err(refusal) => self.ledger.refuse(refusal, 1),
        }
    }

    fn udp(&mut self, ts_ns: u64, udp: &OuterUdp<'_>, outlet: &mut impl Outlet) {
        let WorkerSettings {
            allowed, tunnels, ..
        } = &self.settings;
        if !allowed.source(udp.src) && tunnels.at_port(udp.dst_port).is_some() {
            return self.refuse_stranger(udp.src);
        }
        let mirrored = match decapsulate(tunnels, udp) {
            Ok(mirrored) if allowed.vni(mirrored.vni) => mirrored,
            Ok(_) => return self.ledger.refuse(Filtered::Vni.into(), 1),
            Err(refusal) => {
                if refusal == Refusal::Filtered(Filtered::OtherPort) {
                    self.remember_other_port(udp);
                }
                return self.ledger.refuse(refusal, 1);
            }
        };
        if mirrored.reserved_set {
            self.ledger.note(Noted::ReservedBits);
        }
        if mirrored.length_mismatch {
            self.ledger.note(Noted::OuterLengthMismatch);
        }
        let frame = Frame {
            ts_ns,
            mirrored: Some(&mirrored),
            bytes: mirrored.bytes,
            carried_len: saturate(mirrored.carried_len),
            added_len: 0,
            not_recorded: saturate(mirrored.not_recorded),
        };
        match mirrored.payload {
            Payload::Ethernet => self.deliver(&frame, outlet),
            Payload::Ipv4 => self.deliver_framed([0; 6], ether_type::IPV4, &frame, outlet),
            Payload::Ipv6 => self.deliver_framed([0; 6], ether_type::IPV6, &frame, outlet),
        }
    }

    #[cold]
    fn refuse_stranger(&mut self, source: Address) {
        self.refused.add(source);
        self.ledger.refuse(Filtered::NotAllowed.into(), 1);
    }

    /// A frame of a capture of ours goes back into the mirror session it came from.
    fn plain_of_session(
        &mut self,
        record: &Record<'_>,
        origin: &Origin,
        told: &Told,
        outlet: &mut impl Outlet,
    ) {
        let captured_len = saturate(record.bytes.len());
        // What arrived in the first run, where less than that was on the wire at the mirror source. What this
        // record lacks of it was cut by a snap length.
        let arrived_len = match told.cut {
            Some(cut) if cut.cut_by != CutBy::SnapLength => cut.orig.saturating_sub(cut.missing),
            _ => record.orig_len,
        }
        .max(captured_len);
        // A header without addresses is the one that stands in front of a packet which came without a frame.
        let added = record.bytes.starts_with(&[0; 12])
            && matches!(record.bytes.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]));
        let added_len = if added { 14 } else { 0 };
        if added {
            self.ledger.note(Noted::EthernetAdded);
        }
        let outer_headers_len = match (origin.to, origin.source) {
            (Some((_, Tunnel::Geneve)), _) => None,
            (_, IpAddr::V4(_)) => Some(20 + 8 + 8),
            (_, IpAddr::V6(_)) => Some(40 + 8 + 8),
        };
        let outer_ip_len = match told.cut {
            Some(cut) if cut.cut_by == CutBy::Mtu => origin.mtu,
            _ => outer_headers_len.map_or(0, |len| (arrived_len - added_len).saturating_add(len)),
        };
        let (target, tunnel) = origin.to.unwrap_or((origin.source, Tunnel::Vxlan));
        if origin.to.is_none() {
            // Known before anything is said of its target, which nobody knows.
            let (source, vni) = (origin.source, origin.vni);
            self.sessions
                .find(SessionKey::Mirror { source, vni }, None, None, record.ts_ns);
        }
        let mirrored = Mirrored {
            source: origin.source.into(),
            target: target.into(),
            vni: origin.vni,
            tunnel,
            payload: Payload::Ethernet,
            bytes: record.bytes,
            carried_len: arrived_len as usize,
            outer_ip_len,
            not_recorded: (arrived_len - captured_len) as usize,
            pieces: Pieces::Unseen,
            reserved_set: false,
            length_mismatch: false,
        };
        let frame = Frame {
            ts_ns: record.ts_ns,
            mirrored: Some(&mirrored),
            bytes: record.bytes,
            carried_len: arrived_len,
            added_len,
            not_recorded: arrived_len - captured_len,
        };
        self.deliver(&frame, outlet);
    }

    fn plain(&mut self, record: &Record<'_>, outlet: &mut impl Outlet) {
        if let Some(told) = record.told
            && let Some(origin) = &told.origin
            && record.link == LinkType::Ethernet
        {
            return self.plain_of_session(record, origin, told, outlet);
        }
        let frame = Frame {
            ts_ns: record.ts_ns,
            mirrored: None,
            bytes: record.bytes,
            carried_len: record.orig_len,
            added_len: 0,
            not_recorded: record.orig_len.saturating_sub(saturate(record.bytes.len())),
        };
        if record.link == LinkType::Ethernet {
            return self.deliver(&frame, outlet);
        }
        let (header_len, link) = match record.link.strip(record.bytes) {
            Ok(link) => (record.bytes.len() - link.payload.len(), link),
            Err(refusal) => return self.ledger.refuse(refusal, 1),
        };
        let carried_len = record.orig_len.saturating_sub(saturate(header_len));
        // Linux gives frames with an 802.3 length a number of its own, below any EtherType; the frame
        // had the length there.
        let ether_type = match link.ether_type {
            0..0x0600 => u16::try_from(carried_len.min(1500)).unwrap_or_default(),
            ether_type => ether_type,
        };
        let frame = Frame {
            bytes: link.payload,
            carried_len,
            ..frame
        };
        self.deliver_framed(link.src_mac.unwrap_or_default(), ether_type, &frame, outlet);
    }

    /// Delivers a packet that came without a frame, behind an Ethernet header made for it: capture
    /// files of one link type hold nothing else.
    fn deliver_framed(
        &mut self,
        src_mac: [u8; 6],
        ether_type: u16,
        frame: &Frame<'_>,
        outlet: &mut impl Outlet,
    ) {
        self.ledger.note(Noted::EthernetAdded);
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.extend_from_slice(&[0; 6]);
        scratch.extend_from_slice(&src_mac);
        scratch.extend_from_slice(&ether_type.to_be_bytes());
        scratch.extend_from_slice(frame.bytes);
        let framed = Frame {
            bytes: &scratch,
            carried_len: frame.carried_len.saturating_add(14),
            added_len: 14,
            ..*frame
        };
        self.deliver(&framed, outlet);
        self.scratch = scratch;
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

    /// Whether the frame is wanted.
    #[inline]
    fn admit(&self, observed: &Observed<'_>) -> Result<(), Refusal> {
        let Some(filter) = &self.settings.filter else {
            return Ok(());
        };
        let mirrored = observed.frame.mirrored;
        let packet = Packet {
            frame: observed.frame.bytes,
            inner: observed.inner,
            orig_len: observed.lengths.orig,
            is_truncated: observed.verdict == Verdict::Truncated,
            mirror: mirrored.map(|mirrored| (mirrored.source, mirrored.vni)),
            direction: observed.direction,
        };
        match filter.matches(&packet) {
            true => Ok(()),
            false => Err(Filtered::Filter.into()),
        }
    }

    /// What tells the packet from others, where copies are looked for. The place where it may have been seen
    /// is on its way to the cache then.
    #[inline]
    fn look_ahead(&self, observed: &Observed<'_>) -> Option<Fingerprint> {
        let duplicates = self.duplicates.as_ref()?;
        let ip = observed.inner.ip.as_ref()?;
        let fingerprint = Fingerprint::of(ip, observed.frame.bytes)?;
        duplicates.prefetch(fingerprint);
        Some(fingerprint)
    }

    /// Whether the packet came before, and from where.
    #[inline]
    fn look_back(
        &mut self,
        session: SessionId,
        fingerprint: Option<Fingerprint>,
        observed: &Observed<'_>,
    ) -> Option<CopyOf> {
        let here = sighting(session, observed)?;
        self.duplicates.as_mut()?.see(fingerprint?, &here)
    }

    /// Counts a packet that is a copy to its session, to the pair of sessions, and to the flow of the first copy.
    #[inline(never)]
    fn came_before(
        &mut self,
        copy: &CopyOf,
        session: SessionId,
        observed: &Observed<'_>,
        outlet: &mut impl Outlet,
    ) -> Copies {
        if let Some(here) = sighting(session, observed) {
            let (sessions, after_ns) = pairs::in_order(copy, &here, observed.direction);
            self.pairs.count(sessions, after_ns);
        }
        if let Some(session) = self.sessions.session_mut(session) {
            session.duplicates += 1;
        }
        self.tell_first(copy, session, observed, outlet);
        let is_here = copy.first.session == session && copy.first.vlan == observed.inner.vlan;
        if is_here { Copies::Here } else { Copies::There }
    }

    /// Gives the record that was encoded last the id of the first copy.
    #[inline(never)]
    fn rename(&self, id: u64, outlet: &mut impl Outlet) {
        if self.settings.capture == Some(Format::PcapNg)
            && let Some(batch) = outlet.current()
        {
            batch.rename_last(id);
        }
    }

    /// Counts the frame as delivered.
    #[inline]
    fn account(&mut self, observed: &Observed<'_>) {
        self.ledger.delivered += 1;
        self.frames.record(observed.wire_lengths.captured.into());
        if observed.inner.vlan.is_some() {
            self.ledger.note(Noted::InnerVlan);
        }
        if observed.inner.ip.is_none() {
            self.ledger.note_not_ip(observed.inner.ether_type);
        }
    }

    /// Counts the frame to its mirror session.
    #[inline]
    fn meet(&mut self, observed: &Observed<'_>, outlet: &mut impl Outlet) -> SessionId {
        let id = match observed.frame.mirrored {
            Some(mirrored) => self.sessions.find_mirror(
                mirrored.source,
                mirrored.vni,
                mirrored.target,
                mirrored.tunnel,
                observed.frame.ts_ns,
            ),
            None => self
                .sessions
                .find(SessionKey::Plain, None, None, observed.frame.ts_ns),
        };
        if let Some(session) = self.sessions.session_mut(id) {
            session.add(
                observed.frame.ts_ns,
                &observed.evidence,
                observed.wire_lengths,
                observed.verdict,
                observed.direction,
            );
            if let Some(ip) = &observed.inner.ip {
                session.prefixes.add(ip.header.src);
                session.prefixes.add(ip.header.dst);
            }
            if let Some((macs, shown)) = observed.macs().zip(observed.shown()) {
                session.add_macs(macs, shown, self.place, |session, fact| {
                    outlet.learned(session, fact);
                });
            }
        }
        id
    }

    /// What the frame counts in a flow, as far as it is known before it is kept and looked for among those seen.
    #[inline]
    fn follow<'a>(&mut self, session: SessionId, observed: &Observed<'a>) -> Option<Counted<'a>> {
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
    fn count_in_flow(&mut self, counted: &Counted<'_>, outlet: &mut impl Outlet) {
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
    fn tell_first(
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

    /// Offers the frame to the capture, as a record with this packet id, and tells where that lies, as far as it is
    /// known; `None` where there is no record.
    #[inline]
    fn keep(
        &mut self,
        session: SessionId,
        packet_id: Option<u64>,
        observed: &Observed<'_>,
        ahead: Option<index::build::Ahead>,
        outlet: &mut impl Outlet,
    ) -> Option<First> {
        let format = self.settings.capture?;
        if outlet.leaves_out(|| observed.conversation()) {
            outlet.left_out(session);
            return None;
        }
        let frame = &observed.frame;
        let (bytes, left_out) = match &self.settings.slice {
            None => (frame.bytes, None),
            Some(slice) => slice.of(frame.bytes, observed.inner),
        };
        let room = room_for(bytes.len());
        if self.settings.first_places && !outlet.has_room(room) {
            // What begins flows in a batch is marked in it before it goes.
            self.settle(outlet);
        }
        let Some(batch) = outlet.room(room) else {
            outlet.no_room(session);
            return None;
        };
        if self.announced < self.sessions.named() {
            self.announce(batch);
        }
        match left_out {
            None if bytes.len() <= SNAPLEN as usize => {}
            Some(LeftOut::BehindHeaders) => self.ledger.note(Noted::Sliced),
            None | Some(LeftOut::SnapLength) => self.ledger.note(Noted::SnapLength),
        }
        // The latest time of all was noted when it was read.
        if format == Format::Pcap && frame.ts_ns > PCAP_LATEST_NS && frame.ts_ns != u64::MAX {
            self.ledger.note(Noted::TimeClamped);
        }
        let record = CaptureRecord {
            session,
            place: self.place,
            ts_ns: frame.ts_ns,
            frame: bytes,
            lengths: observed.lengths,
            verdict: observed.verdict,
            direction: observed.direction,
            is_unsettled: observed.direction == Direction::Unknown && observed.macs().is_some(),
            cut_by: observed.cut_by,
            packet_id,
        };
        format.encode(&record, batch);
        if let Some((keys, ahead)) = self.keys.as_mut().zip(ahead) {
            let is_cut = match format {
                Format::PcapNg => observed.verdict == Verdict::Truncated,
                Format::Pcap => observed.lengths.missing() > 0,
            };
            let keys = index::build::keys_of(keys, &ahead, observed.inner, is_cut);
            batch.keys.push(keys);
        }
        if !self.settings.first_places {
            return Some(First::NOWHERE);
        }
        let number = self.records;
        self.records += 1;
        Some(First::record(number))
    }

    /// Tells the writer, through `batch`, of sessions it has not heard of.
    #[cold]
    fn announce(&mut self, batch: &mut Batch) {
        let new = self.sessions.named_since(self.announced);
        let new = new.map(|(id, session)| NewSession {
            id,
            key: session.key,
            to: session.target.zip(session.tunnel),
        });
        batch.new_sessions.extend(new);
        self.announced = self.sessions.named();
    }

    fn remember_other_port(&mut self, udp: &OuterUdp<'_>) {
        let like_vxlan = u64::from(
            matches!(udp.payload, [8, 0, 0, 0, _, _, _, 0, rest @ ..] if rest.len() >= 14),
        );
        if let Some(known) = self
            .other_ports
            .iter_mut()
            .find(|known| known.port == udp.dst_port)
        {
            known.packets += 1;
            known.like_vxlan += like_vxlan;
        } else if self.other_ports.len() < OTHER_PORTS_KEPT {
            self.other_ports.push(OtherPort {
                port: udp.dst_port,
                packets: 1,
                like_vxlan,
            });
        }
    }
}

/// Where flow records go when there is no outlet any more.
struct Evicted(Vec<FlowRecord>);

impl Outlet for Evicted {
    fn room(&mut self, _len: usize) -> Option<&mut Batch> {
        None
    }

    fn current(&mut self) -> Option<&mut Batch> {
        None
    }

    fn no_room(&mut self, _session: SessionId) {}

    fn flow(&mut self, record: FlowRecord) {
        self.0.push(record);
    }
}

/// Where and when the packet was seen, if it is one of IP.
#[inline]
fn sighting(session: SessionId, observed: &Observed<'_>) -> Option<Sighting> {
    let ip = observed.inner.ip.as_ref()?;
    Some(Sighting {
        session,
        ts_ns: observed.frame.ts_ns,
        ttl: ip.header.ttl,
        vlan: observed.inner.vlan,
    })
}

fn key_of(sessions: &Sessions, id: SessionId) -> Option<SessionKey> {
    sessions.session(id).map(|session| session.key)
}

/// Tells what `occasion` changed, when so many records were encoded.
fn tell(
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
fn hand_out(
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

/// One TCP connection in so many is looked at for what the mirror lost.
fn one_in(watched: Option<&Watched>) -> u32 {
    watched.map_or(1, Watched::one_in)
}

fn saturate(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
