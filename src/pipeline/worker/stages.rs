//! The stages of a frame, but for its flow: whether it is wanted, whether it came before, its session, its record.

use super::{Outlet, Worker};
use crate::capture::store::index;
use crate::filter::Packet;
use crate::flow::counts::Copies;
use crate::flow::first::First;
use crate::mirror::direction::Direction;
use crate::mirror::duplicates::{CopyOf, Fingerprint, Sighting};
use crate::mirror::pairs;
use crate::mirror::session::SessionId;
use crate::mirror::session_key::SessionKey;
use crate::pcap::record::{
    Batch, CaptureRecord, Format, NewSession, PCAP_LATEST_NS, SNAPLEN, room_for,
};
use crate::pcap::slice::LeftOut;
use crate::pipeline::ledger::Noted;
use crate::pipeline::observe::Observed;
use crate::wire::length::Verdict;
use crate::wire::refusal::{Filtered, Refusal};

impl Worker {
    /// Whether the frame is wanted.
    #[inline]
    pub(super) fn admit(&self, observed: &Observed<'_>) -> Result<(), Refusal> {
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
    pub(super) fn look_ahead(&self, observed: &Observed<'_>) -> Option<Fingerprint> {
        let duplicates = self.duplicates.as_ref()?;
        let ip = observed.inner.ip.as_ref()?;
        let fingerprint = Fingerprint::of(ip, observed.frame.bytes)?;
        duplicates.prefetch(fingerprint);
        Some(fingerprint)
    }

    /// Whether the packet came before, and from where.
    #[inline]
    pub(super) fn look_back(
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
    pub(super) fn came_before(
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
    pub(super) fn rename(&self, id: u64, outlet: &mut impl Outlet) {
        if self.settings.capture == Some(Format::PcapNg)
            && let Some(batch) = outlet.current()
        {
            batch.rename_last(id);
        }
    }

    /// Counts the frame as delivered.
    #[inline]
    pub(super) fn account(&mut self, observed: &Observed<'_>) {
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
    pub(super) fn meet(&mut self, observed: &Observed<'_>, outlet: &mut impl Outlet) -> SessionId {
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

    /// Offers the frame to the capture, as a record with this packet id, and tells where that lies, as far as it is
    /// known; `None` where there is no record.
    #[inline]
    pub(super) fn keep(
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
    pub(super) fn announce(&mut self, batch: &mut Batch) {
        let new = self.sessions.named_since(self.announced);
        let new = new.map(|(id, session)| NewSession {
            id,
            key: session.key,
            to: session.target.zip(session.tunnel),
        });
        batch.new_sessions.extend(new);
        self.announced = self.sessions.named();
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
