//! What a mirror session lost, as TCP tells: the shape of `mirror_loss` in the summary.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::mirror::loss::{LossCause, MirrorLoss, Surroundings};

/// Bytes that receivers acknowledged and that never arrived here, of one mirror session.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LossSummary {
    /// Records of TCP connections. One that is open for long has several.
    pub connections: u64,
    /// One connection in so many was looked at; absent where all were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_in: Option<u32>,
    /// Connections with bytes that were acknowledged and never arrived.
    pub with_gaps: u64,
    /// These bytes, of TCP payload.
    pub gap_bytes: u64,
    /// Bytes of IP packets that arrived in all these connections.
    pub ip_bytes: u64,
    /// `gap_bytes` of both together: 0 to 1.
    pub share: f64,
    /// Segments that were sent again: the ends lost them, not the mirror.
    pub retransmitted: u64,
    /// Connections of which one direction never arrived.
    pub one_sided: u64,
    /// Largest IP packet that ends with gaps agreed on, in bytes; absent where no handshake told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_ip: Option<u32>,
    /// `too_large`, `any_size` or `unknown`; absent where no bytes are missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cow<'static, str>>,
    /// MTU of the path from the mirror source that lets the largest packets through, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs_mtu: Option<u32>,
    /// What is missing and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl LossSummary {
    /// What is told of `loss`; `None` where no TCP connection was seen.
    pub fn new(loss: &MirrorLoss, around: &Surroundings) -> Option<Self> {
        if loss.connections == 0 {
            return None;
        }
        let cause = loss.cause(around);
        Some(Self {
            connections: loss.connections,
            one_in: Some(around.one_in).filter(|part| *part > 1),
            with_gaps: loss.with_gaps,
            gap_bytes: loss.gap_bytes,
            ip_bytes: loss.ip_bytes,
            share: loss.share(),
            retransmitted: loss.retransmitted,
            one_sided: loss.one_sided,
            full_ip: loss.full_ip(),
            cause: cause.map(|cause| cause.name().into()),
            needs_mtu: match cause {
                Some(LossCause::TooLarge { needs_mtu }) => Some(needs_mtu),
                _ => None,
            },
            advice: loss.advice(around),
        })
    }
}
