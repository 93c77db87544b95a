//! The largest flows, and what every protocol carried, counted from flow records as they pass. Bounded memory, pure.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::flow::app::App;
use crate::flow::record::FlowRecord;
use crate::flow::text;
use crate::wire::numbers::protocol;

/// Flows and protocols that are told one by one.
pub const SHOWN: usize = 20;

/// Protocols counted apart: those with ports by the responder's. What comes later goes without its port.
const MOST_APART: usize = 4096;

/// What flow records came to.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Top {
    /// The flows of most bytes, the largest first.
    pub flows: Vec<TopFlow>,
    /// The protocols of most bytes, and behind them, without a number, all others together.
    pub protocols: Vec<Carried>,
}

/// A flow.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct TopFlow {
    /// As in flow records.
    pub flow_id: String,
    /// Network identifier of its mirror session.
    pub vni: Option<u32>,
    /// Outer source address of its mirror session.
    pub outer_src: Option<IpAddr>,
    /// Originator's address.
    pub src_ip: IpAddr,
    /// Originator's port.
    pub src_port: Option<u16>,
    /// Responder's address.
    pub dst_ip: IpAddr,
    /// Responder's port.
    pub dst_port: Option<u16>,
    /// IANA protocol number.
    pub proto: Option<u8>,
    /// Server, host or domain that its first packets name.
    pub name: Option<String>,
    /// Packets of both directions.
    pub packets: u64,
    /// Bytes of IP packets as they declare them.
    pub ip_bytes: u64,
    /// Packets that arrived cut.
    pub truncated: u64,
    /// Bytes cut off.
    pub missing_bytes: u64,
}

/// What a protocol carried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Carried {
    /// IANA protocol number; null where packets were cut before it, and for all others together.
    pub proto: Option<u8>,
    /// Responder's port; null where there is none, or where it is not counted apart.
    pub port: Option<u16>,
    /// These are the others together.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub others: bool,
    /// Flow records.
    pub flows: u64,
    /// Packets.
    pub packets: u64,
    /// Bytes of IP packets as they declare them.
    pub ip_bytes: u64,
    /// Packets that arrived cut.
    pub truncated: u64,
    /// Bytes cut off.
    pub missing_bytes: u64,
}

impl Carried {
    fn add(&mut self, other: &Self) {
        self.flows += other.flows;
        self.packets += other.packets;
        self.ip_bytes += other.ip_bytes;
        self.truncated += other.truncated;
        self.missing_bytes += other.missing_bytes;
    }
}

/// Takes flow records.
#[derive(Default)]
pub struct Counting {
    /// The largest first; of equal ones the earlier.
    flows: Vec<TopFlow>,
    protocols: HashMap<(Option<u8>, Option<u16>), Carried>,
    /// Records taken.
    pub records: u64,
}

impl Counting {
    /// Counts a record.
    pub fn add(&mut self, record: &FlowRecord) {
        self.records += 1;
        let carried = Carried {
            flows: 1,
            packets: record.pkts_o + record.pkts_r,
            ip_bytes: record.ip_bytes_o + record.ip_bytes_r,
            truncated: record.trunc_pkts_o + record.trunc_pkts_r,
            missing_bytes: record.trunc_missing_o + record.trunc_missing_r,
            ..Carried::default()
        };
        let apart = (record.proto, record.dst_port);
        let is_full = self.protocols.len() >= MOST_APART && !self.protocols.contains_key(&apart);
        let (proto, port) = if is_full { (record.proto, None) } else { apart };
        let known = self.protocols.entry((proto, port));
        known
            .or_insert_with(|| Carried {
                proto,
                port,
                ..Carried::default()
            })
            .add(&carried);
        let at = self
            .flows
            .partition_point(|flow| flow.ip_bytes >= carried.ip_bytes);
        if at < SHOWN {
            self.flows.insert(at, TopFlow::new(record, &carried));
            self.flows.truncate(SHOWN);
        }
    }

    /// What they came to.
    pub fn end(self) -> Top {
        let mut protocols: Vec<Carried> = self.protocols.into_values().collect();
        protocols.sort_by_key(|carried| (Reverse(carried.ip_bytes), carried.proto, carried.port));
        if protocols.len() > SHOWN {
            let mut others = Carried {
                others: true,
                ..Carried::default()
            };
            let rest = protocols.split_off(SHOWN);
            rest.iter().for_each(|carried| others.add(carried));
            protocols.push(others);
        }
        Top {
            flows: self.flows,
            protocols,
        }
    }
}

impl TopFlow {
    fn new(record: &FlowRecord, carried: &Carried) -> Self {
        let app = record.app.as_deref();
        let names = [App::tls_sni, App::http_host, App::dns_query];
        let name = app.and_then(|app| names.iter().find_map(|name| name(app)));
        Self {
            flow_id: text::hex(record.flow_id.0).to_owned(),
            vni: record.vni,
            outer_src: record.outer_src.map(|[source]| source),
            src_ip: record.src_ip,
            src_port: record.src_port,
            dst_ip: record.dst_ip,
            dst_port: record.dst_port,
            proto: record.proto,
            name: name.map(str::to_owned),
            packets: carried.packets,
            ip_bytes: carried.ip_bytes,
            truncated: carried.truncated,
            missing_bytes: carried.missing_bytes,
        }
    }
}

/// What people call a protocol.
pub fn protocol_name(proto: Option<u8>) -> String {
    let name = match proto {
        None => "cut before its number",
        Some(protocol::ICMP) => "ICMP",
        Some(protocol::TCP) => "TCP",
        Some(protocol::UDP) => "UDP",
        Some(protocol::GRE) => "GRE",
        Some(protocol::ESP) => "ESP",
        Some(protocol::ICMPV6) => "ICMPv6",
        Some(protocol::OSPF) => "OSPF",
        Some(protocol::VRRP) => "VRRP",
        Some(protocol::SCTP) => "SCTP",
        Some(other) => return format!("IP protocol {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(bytes: u64, dst_port: u16) -> FlowRecord {
        FlowRecord {
            ip_bytes_o: bytes,
            ip_bytes_r: 1,
            pkts_o: 2,
            pkts_r: 1,
            trunc_pkts_r: 1,
            trunc_missing_o: 0,
            trunc_missing_r: 7,
            dst_port: Some(dst_port),
            proto: Some(protocol::TCP),
            ..FlowRecord::sample(1)
        }
    }

    #[test]
    fn the_largest_stay_and_the_sums_are_of_all() {
        let mut counting = Counting::default();
        for at in 0..100_000_u64 {
            let port = u16::try_from(at % 50_000).unwrap();
            counting.add(&record(at * 7919 % 100_003, port));
            assert!(counting.flows.len() <= SHOWN);
        }
        assert!(counting.protocols.len() <= MOST_APART + 1);
        let top = counting.end();
        assert_eq!((top.flows.len(), top.protocols.len()), (SHOWN, SHOWN + 1));
        assert!(top.flows.is_sorted_by_key(|flow| Reverse(flow.ip_bytes)));
        let mut all: Vec<u64> = (0..100_000).map(|at| at * 7919 % 100_003 + 1).collect();
        all.sort_by_key(|bytes| Reverse(*bytes));
        let largest: Vec<u64> = top.flows.iter().map(|flow| flow.ip_bytes).collect();
        assert_eq!(largest, all[..SHOWN]);
        let sum = |of: fn(&Carried) -> u64| top.protocols.iter().map(of).sum::<u64>();
        assert_eq!(sum(|carried| carried.flows), 100_000);
        assert_eq!(sum(|carried| carried.ip_bytes), all.iter().sum::<u64>());
        assert_eq!(sum(|carried| carried.missing_bytes), 700_000);
        assert!(top.protocols.last().is_some_and(|carried| carried.others));
    }
}
