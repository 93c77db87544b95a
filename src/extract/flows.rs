//! Which packets a flow id stands for: its flow record tells, or all packets are looked at.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::net::IpAddr;
use std::path::Path;

use serde::Deserialize;

use crate::flow::counts::FlowPacket;
use crate::flow::key::{FlowKey, Way};
use crate::flow::lifetime::Lifetimes;
use crate::flow::record::{FlowId, flow_id};
use crate::flow::table::FlowTable;
use crate::mirror::session::SessionId;
use crate::mirror::session_key::SessionKey;
use crate::wire::inner::Inner;
use crate::wire::length::{FrameLen, Verdict};

/// A flow is followed through all of its records. Where none tells when it ended, it is the usual silence that does.
const LIFETIMES: Lifetimes = Lifetimes {
    active_ns: 0,
    ..Lifetimes::USUAL
};
/// Flows of one name that begin at the same time are told apart up to this many.
const MOST_NAMESAKES: u8 = 3;

/// The part of a flow record that is needed to find its packets.
#[derive(Clone, Debug, Deserialize)]
pub struct Record {
    /// Its name.
    pub flow_id: String,
    /// First packet, RFC 3339.
    pub ts_start: String,
    /// Last packet.
    pub ts_end: String,
    /// Community id, where it has one.
    #[serde(default)]
    pub community_id: Option<String>,
    /// One end.
    pub src_ip: IpAddr,
    /// The other.
    pub dst_ip: IpAddr,
    /// Packets of the one.
    pub pkts_o: u64,
    /// Packets of the other.
    pub pkts_r: u64,
}

impl Record {
    /// With another record of the same flow.
    fn joined(self, other: Self) -> Self {
        // RFC 3339 in UTC with nine decimals: the order of the text is that of time.
        let (first, last) = if other.ts_start <= self.ts_start {
            (other, self)
        } else {
            (self, other)
        };
        Self {
            ts_end: first.ts_end.max(last.ts_end),
            pkts_o: first.pkts_o + last.pkts_o,
            pkts_r: first.pkts_r + last.pkts_r,
            ..first
        }
    }
}

/// Looks for the records of a flow in a file of flow records: one, or as many as its time was cut into, put together.
///
/// # Errors
///
/// When the file cannot be read.
pub fn find_record(path: &Path, id: FlowId) -> io::Result<Option<Record>> {
    let wanted = text(id);
    let mut found = None;
    let mut lines = BufReader::with_capacity(1 << 20, File::open(path)?);
    if lines.fill_buf()?.first().is_some_and(|byte| *byte != b'{') {
        let other = "it holds no JSON lines; other flow records are not read";
        return Err(io::Error::new(ErrorKind::InvalidData, other));
    }
    for line in lines.split(b'\n') {
        let line = line?;
        if memchr::memmem::find(&line, wanted.as_bytes()).is_none() {
            continue;
        }
        let record = serde_json::from_slice::<Record>(&line).ok();
        let Some(record) = record.filter(|record| record.flow_id == wanted) else {
            continue;
        };
        found = Some(match found {
            Some(known) => record.joined(known),
            None => record,
        });
    }
    Ok(found)
}

/// An id as flow records have it.
pub fn text(id: FlowId) -> String {
    format!("{:016x}", id.0)
}

/// Whether a flow of this key that began at `first_ns` has the id; of flows that have all of this in common the first
/// few are tried.
pub fn is_named(id: FlowId, session: SessionKey, key: &FlowKey, first_ns: u64) -> bool {
    (0..=MOST_NAMESAKES).any(|namesakes| flow_id(session, key, first_ns, namesakes) == id)
}

/// The packets of one key in their order: which of them belong to the flow of an id.
pub struct Follow {
    id: FlowId,
    session: SessionKey,
    table: FlowTable,
    /// Packets so far, and how many there were when the flow began that is followed now.
    packets: u64,
    begun: u64,
    found: Option<(u64, u64)>,
}

impl Follow {
    /// For the packets of a session's key.
    pub fn new(id: FlowId, session: SessionKey) -> Self {
        Self {
            id,
            session,
            table: FlowTable::new(1, LIFETIMES),
            packets: 0,
            begun: 0,
            found: None,
        }
    }

    /// Takes the next packet.
    pub fn take(&mut self, ts_ns: u64, key: &FlowKey, way: Way, lengths: FrameLen, inner: &Inner) {
        let packet = FlowPacket::of(ts_ns, lengths, Verdict::Unknown, inner.ip_len, inner);
        if let Some(packet) = packet {
            let hash = self.table.hash(key);
            let ended = self.table.update(hash, u32::MAX, key, way, &packet);
            if let Some(ended) = ended {
                let flow = ended.flow;
                self.note(flow.begun_ns, flow.namesakes, key);
                self.begun = self.packets;
            }
        }
        self.packets += 1;
    }

    fn note(&mut self, first_ns: u64, namesakes: u8, key: &FlowKey) {
        if flow_id(self.session, key, first_ns, namesakes) == self.id {
            self.found = Some((self.begun, self.packets));
        }
    }

    /// From which packet to which the flow goes, counted from 0; `None` where none of them is its.
    pub fn end(mut self) -> Option<(u64, u64)> {
        let table = std::mem::replace(&mut self.table, FlowTable::new(1, LIFETIMES));
        for flow in table.end().iter() {
            self.note(flow.begun_ns, flow.namesakes, &flow.key);
        }
        self.found
    }
}

/// The key of a packet, without the number of its session.
pub fn key_of(session: SessionKey, inner: &Inner) -> Option<(FlowKey, Way)> {
    let vni = session.mirror().map(|(_, vni)| vni);
    FlowKey::of(SessionId(0), vni, inner)
}
