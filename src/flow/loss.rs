//! What a flow tells of bytes that its mirror session lost.

use super::counts::Flow;
use super::key::FlowKey;
use crate::mirror::loss::Connection;

/// IP and TCP headers without options, in bytes: what a segment of the announced size has in front of it
/// (RFC 9293 §3.7.1).
const fn headers_len(key: &FlowKey) -> u32 {
    if key.is_ipv6() { 60 } else { 40 }
}

impl Flow {
    /// What it tells; `None` where it is no TCP connection, or no header of it arrived.
    pub fn lost(&self) -> Option<Connection> {
        let facts = self.tcp.as_ref()?.facts(self.originator);
        let ways = [self.originator, self.originator.reverse()];
        // A segment is as large as its receiver takes, and as the sender's own interface lets it be.
        let full = facts.mss.iter().flatten().min().copied();
        let full_ip = full.map(|mss| u32::from(mss) + headers_len(&self.key));
        Some(Connection {
            gap_bytes: facts.gap_bytes,
            ip_bytes: ways.map(|way| self.counts(way).ip_bytes),
            retransmitted: facts.retransmitted.iter().flatten().sum(),
            full_ip,
            one_sided: facts.half.is_some(),
        })
    }
}
