//! A flow while it lives, as others see it, and a packet as it counts in one.

use std::sync::Arc;

use super::app::App;
use super::first::First;
use super::key::{FlowKey, Way};
use super::tcp::{Connection, Payload};
use crate::wire::inner::{Inner, InnerIp, Mac, TcpHead, Transport};
use crate::wire::length::{FrameLen, Verdict};

/// Counts of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets.
    pub packets: u64,
    /// Bytes of IP packet by its own declaration; what is known of the frame where it declares none.
    pub ip_bytes: u64,
    /// Bytes of frame at the mirror source.
    pub l2_bytes: u64,
    /// Bytes of frame present.
    pub captured_bytes: u64,
    /// Packets that were cut, by the mirror or by our buffer.
    pub truncated: u64,
    /// Bytes cut off them.
    pub missing_bytes: u64,
    /// Largest IP packet, in bytes.
    pub max_ip_len: u32,
    /// Every TCP flag seen.
    pub tcp_flags: u16,
}

/// A flow while it lives.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Its name.
    pub key: FlowKey,
    /// Time of the earliest packet of this record, nanoseconds since 1970.
    pub first_ns: u64,
    /// Time of the latest packet, nanoseconds since 1970.
    pub last_ns: u64,
    /// From the first end of the key to the second, and back.
    pub counts: [Counts; 2],
    /// The way the originator's packets go.
    pub originator: Way,
    /// A SYN without ACK named the originator: it stays.
    pub(super) originator_sure: bool,
    /// Hardware addresses of the originator's first packet: source, destination.
    pub macs: Option<(Mac, Mac)>,
    /// Type of service of the first packet.
    pub tos: u8,
    /// Smallest time to live.
    pub ttl_min: u8,
    /// Largest time to live.
    pub ttl_max: u8,
    /// ICMP type and code of the first packet.
    pub icmp: Option<(u8, u8)>,
    /// Packets that were fragments.
    pub fragments: u64,
    /// Packets that are copies of others, or of which there are copies in other mirror sessions.
    pub duplicates: u64,
    /// Flows of the same name that began at the same time before this one, where the clock is too coarse to
    /// tell them apart.
    pub namesakes: u8,
    /// Time of the first packet of the flow: the records before this one included.
    pub begun_ns: u64,
    /// Records of it before this one.
    pub records: u16,
    /// What its first packets name.
    pub app: Option<Arc<App>>,
    /// Where the earliest packet lies in the capture.
    pub first: First,
    /// What its segments tell, if there were any whose flags arrived.
    pub tcp: Option<Connection>,
}

impl Flow {
    /// Whether the record has any packet. That of a flow that was not heard of again behind the end of an interval has
    /// none, and is nobody's.
    pub fn is_empty(&self) -> bool {
        self.counts.iter().all(|counts| counts.packets == 0)
    }

    /// Counts of packets that go `way`.
    pub const fn counts(&self, way: Way) -> &Counts {
        let [a_to_b, b_to_a] = &self.counts;
        match way {
            Way::AToB => a_to_b,
            Way::BToA => b_to_a,
        }
    }
}

impl Counts {
    pub(super) fn absorb(&mut self, other: &Self) {
        self.packets += other.packets;
        self.ip_bytes += other.ip_bytes;
        self.l2_bytes += other.l2_bytes;
        self.captured_bytes += other.captured_bytes;
        self.truncated += other.truncated;
        self.missing_bytes += other.missing_bytes;
        self.max_ip_len = self.max_ip_len.max(other.max_ip_len);
        self.tcp_flags |= other.tcp_flags;
    }
}

impl Flow {
    /// Adds what another worker saw of the same flow. What only a first packet tells is that of the
    /// earlier one.
    pub fn absorb(&mut self, mut other: Self) {
        let earlier =
            (other.first_ns, other.originator_sure) < (self.first_ns, self.originator_sure);
        if earlier {
            std::mem::swap(self, &mut other);
        }
        for (counts, others) in self.counts.iter_mut().zip(&other.counts) {
            counts.absorb(others);
        }
        if other.originator_sure && !self.originator_sure {
            if self.originator != other.originator {
                self.macs = self.macs.map(|(src, dst)| (dst, src));
            }
            (self.originator, self.originator_sure) = (other.originator, true);
        }
        if other.first_ns == self.first_ns {
            self.first = self.first.or_before(other.first);
        }
        self.last_ns = self.last_ns.max(other.last_ns);
        self.begun_ns = self.begun_ns.min(other.begun_ns);
        self.records = self.records.max(other.records);
        self.ttl_min = self.ttl_min.min(other.ttl_min);
        self.ttl_max = self.ttl_max.max(other.ttl_max);
        self.fragments += other.fragments;
        self.duplicates += other.duplicates;
        match (&mut self.app, other.app) {
            (Some(app), Some(other)) => {
                Arc::make_mut(app).learn(Arc::unwrap_or_clone(other));
            }
            (app, other) => *app = app.take().or(other),
        }
        match (&mut self.tcp, other.tcp) {
            (Some(connection), Some(others)) => connection.absorb(&others),
            (connection, others) => *connection = connection.or(others),
        }
    }
}

/// A packet as the table sees it.
#[derive(Clone, Copy, Debug)]
pub struct FlowPacket {
    /// Arrival, nanoseconds since 1970.
    pub ts_ns: u64,
    /// Its two lengths.
    pub lengths: FrameLen,
    /// What is known of them.
    pub verdict: Verdict,
    /// Bytes of IP packet by its own declaration; what is known of the frame where it declares none.
    pub ip_len: u32,
    /// Type of service.
    pub tos: u8,
    /// Time to live.
    pub ttl: u8,
    /// Whether it is a fragment.
    pub is_fragment: bool,
    /// The TCP header behind its ports, where it arrived.
    pub tcp: Option<TcpHead>,
    /// TCP payload; nothing of other protocols.
    pub payload: Payload,
    /// ICMP type and code.
    pub icmp: Option<(u8, u8)>,
    /// Hardware addresses: source, destination.
    pub macs: Option<(Mac, Mac)>,
    /// Where it lies in the capture.
    pub first: First,
    /// What is known of copies of it.
    pub copies: Copies,
}

/// What a packet tells of copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Copies {
    /// Nothing.
    #[default]
    None,
    /// It is a copy of one that another flow has.
    There,
    /// It is a copy of one of this flow: a segment of it was not sent again.
    Here,
    /// It is no packet of the flow: one that was counted has a copy in another mirror session now.
    OfAnother,
}

impl FlowPacket {
    /// What counts of a packet whose headers are `inner`; `None` when it is not IP. `lengths` are those of
    /// the frame as it was on the wire, `ip_len` the bytes of its IP packet. It lies in no capture.
    #[inline]
    pub fn of(
        ts_ns: u64,
        lengths: FrameLen,
        verdict: Verdict,
        ip_len: u32,
        inner: &Inner,
    ) -> Option<Self> {
        let ip = inner.ip.as_ref()?;
        let (tcp, icmp) = match ip.transport {
            Transport::Ports { tcp, .. } => (tcp, None),
            Transport::Icmp { kind, code } => (None, Some((kind, code))),
            Transport::None => (None, None),
        };
        let payload = match &tcp {
            Some(head) => tcp_payload(ip, head, ip_len, verdict),
            None => Payload::NONE,
        };
        Some(Self {
            ts_ns,
            lengths,
            verdict,
            ip_len,
            tos: ip.header.tos,
            ttl: ip.header.ttl,
            is_fragment: ip.header.fragment.is_some(),
            tcp,
            payload,
            icmp,
            macs: inner.src_mac.zip(inner.dst_mac),
            first: First::NOWHERE,
            copies: Copies::None,
        })
    }
}

/// Payload of a segment in an IP packet of `ip_len` bytes, which is what it declares, or all that is known of it
/// where nothing declares its length.
#[inline]
fn tcp_payload(ip: &InnerIp, head: &TcpHead, ip_len: u32, verdict: Verdict) -> Payload {
    let headers = ip.header.header_len + usize::from(head.header_len);
    let behind = u32::try_from(headers).ok();
    let len = behind.and_then(|headers| ip_len.checked_sub(headers));
    Payload {
        len: len.unwrap_or_default(),
        exact: len.is_some()
            && verdict != Verdict::Unknown
            && head.header_len >= 20
            && ip.header.fragment.is_none(),
    }
}
