//! A flow as auditors read it: names and units of each field, absent rather than null.

use std::net::IpAddr;
use std::sync::Arc;

use sha1::{Digest, Sha1};

use super::app::App;
use super::community_id::{CommunityId, Tuple, community_id};
use super::counts::{Counts, Flow};
use super::ended::EndReason;
use super::first::{First, Place};
use super::key::{FlowKey, Ports, Way};
use super::tcp::history::Letters;
use super::text;
use crate::mirror::direction::{By, Direction};
use crate::mirror::session::Session;
use crate::mirror::session_key::SessionKey;
use crate::wire::Vni;
use crate::wire::inner::Mac;
use crate::wire::numbers::protocol;

/// Nanoseconds since 1970; in text RFC 3339 with nine decimals, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub u64);

/// What names one flow; in text 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowId(pub u64);

/// A place among the flow records of all workers: the same however many these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order {
    /// Place among all packets: of the one that ended the flow, or of the one whose time showed that it was over.
    pub place: u64,
    /// What the packet there had to do with it: its time showed that the flow was over, or that the interval was, or it
    /// is of the flow, or one that this had to make room for.
    rank: u8,
    /// What tells records apart that one packet's time brings out.
    begun_ns: u64,
    key: FlowKey,
    flow_id: FlowId,
}

/// What brought a flow record out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// The time of the packet at this place.
    Time(u64),
    /// The packet at this place is the first of another interval.
    Interval(u64),
    /// The packet at this place.
    Packet(u64),
    /// The end of the run.
    End,
}

/// One flow record. Suffix `_o` counts packets of the originator, `_r` of the responder.
#[derive(Clone, Debug)]
pub struct FlowRecord {
    /// Records are handed out in this order. Not a field of what is written.
    pub order: Order,
    /// First packet.
    pub ts_start: Time,
    /// Last packet.
    pub ts_end: Time,
    /// Nanoseconds between the two.
    pub dur_ns: u64,
    /// Hash of session, VLANs, 5-tuple and start; the same in every run.
    pub flow_id: FlowId,
    /// Community id version 1; absent for later fragments and packets cut before their ports.
    pub community_id: Option<CommunityId>,
    /// VXLAN network identifier; absent when the input was not encapsulated.
    pub vni: Option<u32>,
    /// Outer source addresses (VTEPs).
    pub outer_src: Option<[IpAddr; 1]>,
    /// Outer destination addresses.
    pub outer_dst: Option<[IpAddr; 1]>,
    /// `vxlan`, `vxlan-gpe` or `geneve`.
    pub tunnel: Option<&'static str>,
    /// Which way the originator's packets went at the mirror source.
    pub dir: Direction,
    /// What tells that.
    pub dir_by: Option<By>,
    /// Originator's address.
    pub src_ip: IpAddr,
    /// Originator's port.
    pub src_port: Option<u16>,
    /// Responder's address.
    pub dst_ip: IpAddr,
    /// Responder's port.
    pub dst_port: Option<u16>,
    /// IANA protocol number; absent where packets were cut inside their extension headers.
    pub proto: Option<u8>,
    /// IP version, 4 or 6.
    pub ip_v: u8,
    /// ICMP type of the first packet.
    pub icmp_type: Option<u8>,
    /// ICMP code of the first packet.
    pub icmp_code: Option<u8>,
    /// VLAN of the inner frame's outer tag.
    pub vlan: Option<u16>,
    /// VLAN of the tag behind it.
    pub vlan_inner: Option<u16>,
    /// Originator's hardware address.
    pub src_mac: Option<Mac>,
    /// Responder's hardware address.
    pub dst_mac: Option<Mac>,
    /// Packets.
    pub pkts_o: u64,
    /// Packets.
    pub pkts_r: u64,
    /// Bytes of IP packets as they declare them.
    pub ip_bytes_o: u64,
    /// Bytes of IP packets as they declare them.
    pub ip_bytes_r: u64,
    /// Bytes of frames at the mirror source.
    pub l2_bytes_o: u64,
    /// Bytes of frames at the mirror source.
    pub l2_bytes_r: u64,
    /// Bytes of frames that arrived.
    pub cap_bytes_o: u64,
    /// Bytes of frames that arrived.
    pub cap_bytes_r: u64,
    /// Packets that arrived cut.
    pub trunc_pkts_o: u64,
    /// Packets that arrived cut.
    pub trunc_pkts_r: u64,
    /// Bytes that were cut off.
    pub trunc_missing_o: u64,
    /// Bytes that were cut off.
    pub trunc_missing_r: u64,
    /// Largest IP packet in bytes.
    pub max_ip_len_o: u32,
    /// Largest IP packet in bytes.
    pub max_ip_len_r: u32,
    /// Packets that were IP fragments.
    pub frag_pkts: u64,
    /// Packets that are copies of others, or of which there are copies in other mirror sessions.
    pub dup_pkts: u64,
    /// Every TCP flag the originator sent, as a number (FIN 1, SYN 2, RST 4, PSH 8, ACK 16, … AE 256).
    pub tcp_flags_o: Option<u16>,
    /// Every TCP flag the responder sent.
    pub tcp_flags_r: Option<u16>,
    /// What happened on a TCP connection, a letter an event; upper case for the originator.
    pub history: Option<Letters>,
    /// What became of a TCP connection, as Zeek names it.
    pub conn_state: Option<&'static str>,
    /// `o` or `r` where segments of this side only were seen, though they show that there is another.
    pub half: Option<&'static str>,
    /// Nanoseconds from SYN to the ACK that ends the handshake.
    pub rtt_syn_ns: Option<u64>,
    /// TCP segments that were sent again.
    pub retrans_o: Option<u64>,
    /// TCP segments that were sent again.
    pub retrans_r: Option<u64>,
    /// Bytes that the other side acknowledged and that were never seen.
    pub gap_bytes_o: Option<u64>,
    /// Bytes that the other side acknowledged and that were never seen.
    pub gap_bytes_r: Option<u64>,
    /// Largest payload of a TCP segment in bytes.
    pub max_seg_o: Option<u16>,
    /// Largest payload of a TCP segment in bytes.
    pub max_seg_r: Option<u16>,
    /// Most payload bytes of a segment that the originator's SYN says it takes.
    pub mss_o: Option<u16>,
    /// Most payload bytes of a segment that the responder's SYN says it takes.
    pub mss_r: Option<u16>,
    /// Type of service of the first packet.
    pub tos: u8,
    /// Smallest time to live.
    pub ttl_min: u8,
    /// Largest time to live.
    pub ttl_max: u8,
    /// IPFIX flowEndReason, see [`EndReason`].
    pub end_reason: u8,
    /// Records of the same flow before this one; absent in the first.
    pub cont: Option<u16>,
    /// What the first packets of the flow name: fields of their own where it is written.
    pub app: Option<Arc<App>>,
    /// Where the first packet lies in the capture. Not a field of what is written.
    pub first: First,
    /// The same as a file and an offset: fields of their own where it is written.
    pub place: Option<Place>,
}

impl FlowRecord {
    /// Describes `flow`, which belongs to `session`.
    pub fn new(flow: &Flow, session: &Session, reason: EndReason, occasion: Occasion) -> Self {
        let key = &flow.key;
        let flow_id = flow_id(session.key, key, flow.begun_ns, flow.namesakes);
        let (place, rank) = match occasion {
            Occasion::Time(place) => (place, 0),
            Occasion::Interval(place) => (place, 1),
            Occasion::Packet(place) => (place, 2),
            Occasion::End => (u64::MAX, 2),
        };
        let order = Order {
            place,
            rank,
            begun_ns: flow.begun_ns,
            key: key.without_session(),
            flow_id,
        };
        let [(src_ip, src_field), (dst_ip, dst_field)] = key.ends(flow.originator);
        let (outer_src, vni) = match session.key {
            SessionKey::Mirror { source, vni } => (Some([source]), Some(vni)),
            SessionKey::Plain | SessionKey::Other => (None, key.vni()),
        };
        let ports = (key.ports() == Ports::Transport).then_some((src_field, dst_field));
        let id_ports = ports.or(flow
            .icmp
            .map(|(kind, code)| (u16::from(kind), u16::from(code))));
        let tuple = Tuple {
            src: src_ip,
            dst: dst_ip,
            protocol: key.protocol().unwrap_or_default(),
            ports: id_ports,
        };
        // Where ports were cut off, or the protocol itself was, nobody else would compute the same id.
        let wants_ports = matches!(
            key.protocol(),
            Some(
                protocol::ICMP | protocol::TCP | protocol::UDP | protocol::ICMPV6 | protocol::SCTP
            )
        );
        let cut = key.ports() == Ports::LaterFragment
            || (id_ports.is_none() && wants_ports)
            || key.protocol().is_none();
        let (o, r) = (
            flow.counts(flow.originator),
            flow.counts(flow.originator.reverse()),
        );
        let [vlan, vlan_inner] = key.vlans();
        let dir = session.key.mirror().map_or(Direction::Unknown, |(own, _)| {
            Direction::by_ends(&own, &src_ip, &dst_ip)
        });
        let tcp =
            |counts: &Counts| (key.protocol() == Some(protocol::TCP)).then_some(counts.tcp_flags);
        let facts = flow.tcp.map(|connection| connection.facts(flow.originator));
        let [retrans_o, retrans_r] = facts.map_or([None; 2], |facts| facts.retransmitted);
        let [gap_bytes_o, gap_bytes_r] = facts.map_or([None; 2], |facts| facts.gap_bytes);
        let [max_seg_o, max_seg_r] = facts.map_or([None; 2], |facts| facts.largest);
        let [mss_o, mss_r] = facts.map_or([None; 2], |facts| facts.mss);
        Self {
            order,
            ts_start: Time(flow.first_ns),
            ts_end: Time(flow.last_ns),
            dur_ns: flow.last_ns - flow.first_ns,
            flow_id,
            community_id: (!cut).then(|| community_id(0, &tuple)),
            vni: vni.map(|vni| vni.as_u32()),
            outer_src,
            outer_dst: session.target.map(|target| [target]),
            tunnel: session.tunnel.map(|tunnel| tunnel.name()),
            dir,
            dir_by: (dir != Direction::Unknown).then_some(By::Address),
            src_ip,
            src_port: ports.map(|(src, _)| src),
            dst_ip,
            dst_port: ports.map(|(_, dst)| dst),
            proto: key.protocol(),
            ip_v: if src_ip.is_ipv4() { 4 } else { 6 },
            icmp_type: flow.icmp.map(|(kind, _)| kind),
            icmp_code: flow.icmp.map(|(_, code)| code),
            vlan,
            vlan_inner,
            src_mac: flow.macs.map(|(src, _)| src),
            dst_mac: flow.macs.map(|(_, dst)| dst),
            pkts_o: o.packets,
            pkts_r: r.packets,
            ip_bytes_o: o.ip_bytes,
            ip_bytes_r: r.ip_bytes,
            l2_bytes_o: o.l2_bytes,
            l2_bytes_r: r.l2_bytes,
            cap_bytes_o: o.captured_bytes,
            cap_bytes_r: r.captured_bytes,
            trunc_pkts_o: o.truncated,
            trunc_pkts_r: r.truncated,
            trunc_missing_o: o.missing_bytes,
            trunc_missing_r: r.missing_bytes,
            max_ip_len_o: o.max_ip_len,
            max_ip_len_r: r.max_ip_len,
            frag_pkts: flow.fragments,
            dup_pkts: flow.duplicates,
            tcp_flags_o: tcp(o),
            tcp_flags_r: tcp(r),
            history: facts.map(|facts| facts.history),
            conn_state: facts.map(|facts| facts.state.name()),
            half: facts.and_then(|facts| facts.half),
            rtt_syn_ns: facts.and_then(|facts| facts.rtt_syn_ns),
            retrans_o,
            retrans_r,
            gap_bytes_o,
            gap_bytes_r,
            max_seg_o,
            max_seg_r,
            mss_o,
            mss_r,
            tos: flow.tos,
            ttl_min: flow.ttl_min,
            ttl_max: flow.ttl_max,
            end_reason: reason as u8,
            cont: (flow.records > 0).then_some(flow.records),
            app: flow.app.clone(),
            first: flow.first,
            place: None,
        }
    }
}

impl FlowRecord {
    /// Its mirror session and the hardware addresses of originator and responder, where its direction is not known and
    /// these may tell it.
    pub fn unsettled(&self) -> Option<(SessionKey, Mac, Mac)> {
        let (Direction::Unknown, Some([source])) = (self.dir, self.outer_src) else {
            return None;
        };
        let vni = Vni::new(self.vni?)?;
        Some((
            SessionKey::Mirror { source, vni },
            self.src_mac?,
            self.dst_mac?,
        ))
    }

    /// The same record with its direction, as hardware addresses tell it.
    pub fn with_direction(&self, dir: Direction) -> Self {
        Self {
            dir,
            dir_by: Some(By::Mac),
            ..self.clone()
        }
    }
}

/// The name of the flow `key` of a session whose first packet of all came at `first_ns`, behind so many others that have all of
/// this in common.
pub fn flow_id(session: SessionKey, key: &FlowKey, first_ns: u64, namesakes: u8) -> FlowId {
    let mut hash = Sha1::new();
    hash.update(b"vxtap flow 1");
    // The session's interface name, in pieces.
    match session {
        SessionKey::Mirror { source, vni } => {
            hash.update(b"vni");
            hash.update(text::decimal(vni.as_u32().into()).bytes());
            hash.update(b"@");
            hash.update(text::ip(source).bytes());
        }
        SessionKey::Plain | SessionKey::Other => hash.update(session.interface_name()),
    }
    hash.update(key.vni().map_or(u32::MAX, |vni| vni.as_u32()).to_be_bytes());
    for (address, port) in key.ends(Way::AToB) {
        hash.update(text::ip(address).bytes());
        hash.update(port.to_be_bytes());
    }
    hash.update([key.protocol().unwrap_or(u8::MAX), key.ports() as u8]);
    for vlan in key.vlans().into_iter().flatten() {
        hash.update(b"vlan");
        hash.update(vlan.to_be_bytes());
    }
    hash.update(first_ns.to_be_bytes());
    if namesakes > 0 {
        hash.update([namesakes]);
    }
    let digest = hash.finalize();
    let first = digest.first_chunk::<8>();
    FlowId(first.map_or(0, |first| u64::from_be_bytes(*first)))
}

#[cfg(test)]
impl FlowRecord {
    /// A record that has every field, those of [`App`] three records together; `n` tells it from others.
    pub fn sample(n: u64) -> Self {
        let tuple = Tuple {
            src: IpAddr::from([10, 0, 0, 1]),
            dst: IpAddr::from([10, 0, 0, 2]),
            protocol: protocol::TCP,
            ports: Some((n as u16, 443)),
        };
        let ts_start = 1_700_000_000_123_456_789 + n;
        let name = |name: &str| super::app::Name::of(name.as_bytes(), 255);
        let app = match n % 3 {
            0 => {
                let answer = b"\0\x01\x81\x80\0\x01\0\0\0\0\0\0\x01a\x07example\0\0\x01\0\x01";
                App::Dns(super::app::Dns::read(answer, false).unwrap())
            }
            1 => {
                let mut tls = super::app::Tls::default();
                (tls.sni, tls.alpn) = (name("b.example"), name("h2"));
                App::Tls(tls)
            }
            _ => App::Http(super::app::Http {
                method: Some("GET"),
                host: name("c.example:80"),
            }),
        };
        let mut history = super::tcp::history::History::default();
        history.add(super::tcp::history::Letter::Syn, Way::AToB);
        let mut frame = vec![0; 34];
        frame[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 20, 0, 0, 0, 0, 64, 6]);
        let inner = crate::wire::inner::Inner::read(&frame);
        let key = FlowKey::of(crate::mirror::session::SessionId(0), None, &inner);
        let order = Order {
            place: n,
            rank: 2,
            begun_ns: ts_start,
            key: key.unwrap().0,
            flow_id: FlowId(n),
        };
        Self {
            order,
            ts_start: Time(ts_start),
            ts_end: Time(ts_start + 5_000_000_001),
            dur_ns: 5_000_000_001,
            flow_id: FlowId(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            community_id: Some(community_id(0, &tuple)),
            vni: Some(0x00ff_ffff),
            outer_src: Some([IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 9])]),
            outer_dst: Some([IpAddr::from([192, 0, 2, 1])]),
            tunnel: Some("vxlan"),
            dir: Direction::Outbound,
            dir_by: Some(By::Mac),
            src_ip: tuple.src,
            src_port: Some(n as u16),
            dst_ip: tuple.dst,
            dst_port: Some(443),
            proto: Some(protocol::TCP),
            ip_v: 4,
            icmp_type: Some(8),
            icmp_code: Some(0),
            vlan: Some(4094),
            vlan_inner: Some(7),
            src_mac: Some([2, 0, 0, 0, 0, 0xab]),
            dst_mac: Some([2, 0, 0, 0, 0, 0xcd]),
            pkts_o: n,
            pkts_r: 1,
            ip_bytes_o: 1000 * n,
            ip_bytes_r: u64::MAX,
            l2_bytes_o: 1014 * n,
            l2_bytes_r: 2,
            cap_bytes_o: 100 * n,
            cap_bytes_r: 3,
            trunc_pkts_o: 4,
            trunc_pkts_r: 5,
            trunc_missing_o: 6,
            trunc_missing_r: 7,
            max_ip_len_o: u32::MAX,
            max_ip_len_r: 9,
            frag_pkts: 10,
            dup_pkts: 11,
            tcp_flags_o: Some(0x1ff),
            tcp_flags_r: Some(18),
            history: Some(history.letters(Way::AToB)),
            conn_state: Some("SF"),
            half: Some("r"),
            rtt_syn_ns: Some(n),
            retrans_o: Some(8),
            retrans_r: Some(u64::MAX),
            gap_bytes_o: Some(n),
            gap_bytes_r: Some(9),
            max_seg_o: Some(1448),
            max_seg_r: Some(u16::MAX),
            mss_o: Some(1460),
            mss_r: Some(0),
            tos: 255,
            ttl_min: 63,
            ttl_max: 64,
            end_reason: EndReason::EndOfFlow as u8,
            cont: Some(1),
            app: Some(Arc::new(app)),
            first: First::place(1),
            place: Some(Place::new("c.pcapng".into(), 340 + n)),
        }
    }
}
