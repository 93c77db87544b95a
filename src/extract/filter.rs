//! Which packets are asked for. Pure.

use std::net::IpAddr;

use super::walk::{Outside, read_frame};
use crate::capture::store::index::query::Query;
use crate::filter::Packet;
use crate::flow::key::{FlowKey, Way};
use crate::flow::lookup;
use crate::mirror::direction::Direction;
use crate::mirror::session::SessionId;
use crate::mirror::session_key::SessionKey;
use crate::wire::Vni;
use crate::wire::ip::Address;
use crate::wire::outer::LinkType;

/// What a packet has to be; all of it at once.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// From that time on, nanoseconds since 1970.
    pub since_ns: Option<u64>,
    /// Before that time.
    pub until_ns: Option<u64>,
    /// Of a mirror session of this VNI.
    pub vni: Option<Vni>,
    /// From or to each of these addresses.
    pub hosts: Vec<IpAddr>,
    /// Of the flows that have this community id, by its digest.
    pub community_id: Option<[u8; 20]>,
    /// Arrived cut.
    pub is_cut: bool,
    /// Of this flow key, in this mirror session.
    pub flow: Option<(SessionKey, FlowKey)>,
    /// Such that this expression fits.
    pub expression: Option<crate::filter::Filter>,
}

impl Filter {
    /// Whether a packet is asked for. Its bytes are read only where that is needed; `scratch` is room for it.
    pub fn fits(
        &self,
        outside: &Outside,
        link: LinkType,
        bytes: &[u8],
        scratch: &mut Vec<u8>,
    ) -> bool {
        let vni = outside.session.mirror().map(|(_, vni)| vni);
        if self.since_ns.is_some_and(|since| outside.ts_ns < since)
            || self.until_ns.is_some_and(|until| outside.ts_ns >= until)
            || (self.is_cut && !outside.is_cut)
            || self.vni.is_some_and(|wanted| vni != Some(wanted))
        {
            return false;
        }
        if !self.needs_frame() {
            return true;
        }
        let (inner, frame) = read_frame(link, bytes, scratch);
        if let Some(expression) = &self.expression {
            let mirror = outside.session.mirror();
            let mirror = mirror.map(|(source, vni)| (Address::from(source), vni));
            let packet = Packet {
                frame,
                inner: &inner,
                orig_len: outside.orig_len,
                is_truncated: outside.is_cut,
                mirror,
                direction: mirror.map_or(Direction::Unknown, |(source, _)| {
                    Direction::of(source, &inner)
                }),
            };
            if !expression.matches(&packet) {
                return false;
            }
        }
        if !self.needs_ip() {
            return true;
        }
        let Some(ip) = &inner.ip else {
            return false;
        };
        let ends = [ip.header.src, ip.header.dst];
        let has = |host: &IpAddr| ends.contains(&Address::from(*host));
        if !self.hosts.iter().all(has) {
            return false;
        }
        let Some((key, _)) = FlowKey::of(SessionId(0), vni, &inner) else {
            return false;
        };
        if self
            .flow
            .is_some_and(|(session, wanted)| session != outside.session || wanted != key)
        {
            return false;
        }
        self.community_id.is_none_or(|wanted| {
            lookup::has_community_id(&key) && lookup::flow_digest(&key) == wanted
        })
    }

    const fn needs_frame(&self) -> bool {
        self.needs_ip() || self.expression.is_some()
    }

    const fn needs_ip(&self) -> bool {
        !self.hosts.is_empty() || self.community_id.is_some() || self.flow.is_some()
    }

    /// What an index is asked.
    pub fn query(&self) -> Query {
        let flow = self.flow.map(|(_, key)| lookup::flow_digest(&key));
        let flow = flow.or(self.community_id);
        let vni = self.flow.and_then(|(session, _)| session.mirror());
        let vni = vni.map(|(_, vni)| vni).or(self.vni);
        // Where an index has few bits for each, a flow and its addresses name less than one of them.
        let ends = self.flow.map(|(_, key)| key.ends(Way::AToB));
        let ends = ends.into_iter().flatten().map(|(host, _)| host);
        let hosts = self.hosts.iter().copied().chain(ends);
        Query {
            flow: flow.map(|digest| lookup::of_digest(&digest)),
            hosts: hosts.map(lookup::of_address).collect(),
            vni: vni.map(|vni| vni.as_u32()),
            since_ns: self.since_ns,
            until_ns: self.until_ns,
            is_cut: self.is_cut,
        }
    }
}
