//! What mirror sessions lost, as TCP tells: the shape of `mirror_loss` in the summary, and what a report says of it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::audit::Audit;
use super::document::{Block, Cell, Section, Table};
use super::page::bytes;
use super::session::title_of;
use super::summary::SessionSummary;
use crate::mirror::loss::{LossCause, MirrorLoss, Surroundings};
use crate::mirror::words::{counted, percent};

/// Sessions in the table; the JSON object has all.
const SESSIONS_SHOWN: usize = 200;

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

/// What it comes to, in a sentence.
pub fn verdict(sessions: &[SessionSummary]) -> String {
    let told = || {
        sessions
            .iter()
            .filter_map(|session| session.mirror_loss.as_ref())
    };
    let sum =
        |of: fn(&LossSummary) -> u64| told().fold(0, |sum: u64, lost| sum.saturating_add(of(lost)));
    let (missing, arrived) = (sum(|lost| lost.gap_bytes), sum(|lost| lost.ip_bytes));
    let connections = counted(sum(|lost| lost.connections), "TCP connection");
    match (missing, told().next()) {
        (_, None) => "Whether the mirror dropped packets is not known: that shows in TCP, and there was none. Compare with \
                      the mirror source's own counters."
            .to_owned(),
        (0, _) => format!("{connections} lack no byte that was acknowledged: no sign that the mirror dropped packets."),
        _ => format!(
            "Packets are missing: {} ({}) of {connections} were acknowledged by their receivers and never arrived.",
            bytes(missing),
            percent(missing, missing.saturating_add(arrived)),
        ),
    }
}

/// The sessions with TCP, those that lost most first.
pub fn section(audit: &Audit) -> Vec<Section> {
    let sessions = audit.sessions.iter();
    let told = sessions.filter_map(|session| Some((session, session.mirror_loss.as_ref()?)));
    let mut told: Vec<(&SessionSummary, &LossSummary)> = told.collect();
    told.sort_by_key(|(_, lost)| std::cmp::Reverse(lost.gap_bytes));
    let hidden = told.len().saturating_sub(SESSIONS_SHOWN);
    told.truncate(SESSIONS_SHOWN);
    if told.is_empty() {
        return Vec::new();
    }
    let mut blocks = vec![Block::Table(Table {
        caption: "What TCP connections tell of packets that never arrived".to_owned(),
        heads: vec![
            "session",
            "connections",
            "with gaps",
            "bytes missing",
            "share",
            "sent again",
            "one direction",
            "cause",
            "MTU it takes",
        ],
        rows: told.into_iter().map(row).collect(),
    })];
    if hidden > 0 {
        let more = counted(hidden as u64, "more session");
        blocks.push(Block::Text(format!("{more} lost less.")));
    }
    vec![Section::new("What the mirror lost", blocks)]
}

fn row((session, lost): (&SessionSummary, &LossSummary)) -> Vec<Cell> {
    let all = lost.gap_bytes.saturating_add(lost.ip_bytes);
    let cause = match lost.cause.as_deref() {
        Some("too_large") => "packets do not fit",
        Some("any_size") => "not their size",
        Some(_) => "unknown",
        None => "–",
    };
    vec![
        Cell::text(title_of(session)),
        Cell::count(lost.connections),
        Cell::count(lost.with_gaps),
        Cell::bytes(lost.gap_bytes),
        Cell::share(lost.gap_bytes, all),
        Cell::count(lost.retransmitted),
        Cell::count(lost.one_sided),
        Cell::text(cause),
        Cell::maybe(lost.needs_mtu),
    ]
}
