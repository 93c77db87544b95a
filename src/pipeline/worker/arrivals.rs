//! What arrives, as far as the frame in it: datagrams, records of files, fragments; or why it is refused.

use std::net::IpAddr;

use super::{Outlet, Worker, WorkerSettings};
use crate::mirror::session_key::SessionKey;
use crate::pcap::cut_by::CutBy;
use crate::pcap::origin::Origin;
use crate::pipeline::ledger::{Dropped, Noted};
use crate::pipeline::observe::Frame;
use crate::source::{Arrival, Datagram, Record, Told};
use crate::wire::decapsulate::{Mirrored, Tunnel, decapsulate};
use crate::wire::ip::Address;
use crate::wire::numbers::{ether_type, protocol};
use crate::wire::outer::{self, LinkType, Outer, OuterFragment, OuterUdp, Pieces};
use crate::wire::reassembly::{Joined, Missing, Piece, Remains};
use crate::wire::refusal::{Filtered, Malformed, Refusal};
use crate::wire::vxlan::Payload;

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

/// Ports remembered among UDP traffic that went to no tunnel port.
const OTHER_PORTS_KEPT: usize = 16;

impl Worker {
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

    pub(super) fn record(&mut self, record: &Record<'_>, outlet: &mut impl Outlet) {
        let cut = record.orig_len as usize > record.bytes.len();
        match outer::read(record.link, record.bytes, cut) {
            Ok(Outer::Udp(udp)) => self.udp(record.ts_ns, &udp, outlet),
            Ok(Outer::Fragment(fragment)) => self.fragment(record.ts_ns, &fragment, outlet),
            Err(refusal) => self.ledger.refuse(refusal, 1),
        }
    }

    pub(super) fn datagram(&mut self, datagram: &Datagram<'_>, outlet: &mut impl Outlet) {
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

    pub(super) fn fragment(
        &mut self,
        ts_ns: u64,
        fragment: &OuterFragment<'_>,
        outlet: &mut impl Outlet,
    ) {
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

    /// Takes what the reassembly has given up.
    pub(super) fn take_given_up(&mut self, outlet: &mut impl Outlet) {
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
    pub(super) fn joined(&mut self, ts_ns: u64, joined: &Joined, outlet: &mut impl Outlet) {
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

    pub(super) fn udp(&mut self, ts_ns: u64, udp: &OuterUdp<'_>, outlet: &mut impl Outlet) {
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
    pub(super) fn refuse_stranger(&mut self, source: Address) {
        self.refused.add(source);
        self.ledger.refuse(Filtered::NotAllowed.into(), 1);
    }

    /// A frame of a capture of ours goes back into the mirror session it came from.
    pub(super) fn plain_of_session(
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

    pub(super) fn plain(&mut self, record: &Record<'_>, outlet: &mut impl Outlet) {
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
    pub(super) fn deliver_framed(
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

    pub(super) fn remember_other_port(&mut self, udp: &OuterUdp<'_>) {
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

pub(super) fn saturate(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
