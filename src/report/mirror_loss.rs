//! What a report says of what mirror sessions lost, as TCP tells it.

use super::audit::Audit;
use super::document::{Block, Cell, Section, Table};
use super::loss_summary::LossSummary;
use super::page::bytes;
use super::session::title_of;
use super::summary::SessionSummary;
use crate::mirror::words::{counted, percent};

/// Sessions in the table; the JSON object has all.
const SESSIONS_SHOWN: usize = 200;

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
