//! What a report says of single mirror sessions: figures, cause, remedy, sizes and time. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::audit::Audit;
use super::document::{Block, Cell, Section, Table};
use super::over_time;
use super::plot;
use super::summary::{ChangeSummary, CutSummary, OthersSummary, SessionSummary, SizesSummary};
use crate::mirror::words::{counted, percent};

/// Sessions that have a section, those with something to tell first.
const SESSIONS_TOLD: usize = 24;
/// Changes told of a session.
const CHANGES_SHOWN: usize = 16;
/// Causes shown of a session whose cut size changed, behind the first.
const CUTS_SHOWN: usize = 3;

/// The sections of sessions, those with something to tell first.
pub fn one_by_one(audit: &Audit) -> Vec<Section> {
    let mut told: Vec<&SessionSummary> = audit.sessions.iter().collect();
    told.sort_by_key(|session| {
        let is_quiet = session.truncated == 0 && session.advices().next().is_none();
        (
            is_quiet && session.changes.is_empty(),
            Reverse(session.packets),
        )
    });
    let hidden = told.len().saturating_sub(SESSIONS_TOLD);
    told.truncate(SESSIONS_TOLD);
    let mut sections: Vec<Section> = told.into_iter().map(session).collect();
    if let (Some(last), 1..) = (sections.last_mut(), hidden) {
        let more = counted(hidden as u64, "more session");
        last.blocks
            .push(Block::Text(format!("{more} are in the table above.")));
    }
    sections
}

/// Its name in titles.
pub fn title_of(session: &SessionSummary) -> String {
    match (session.vni, session.source) {
        (Some(vni), Some(source)) => match &session.name {
            Some(name) => format!("VNI {vni} from {source} ({name})"),
            None => format!("VNI {vni} from {source}"),
        },
        _ if session.others.is_some() => "Other sessions".to_owned(),
        _ => "Packets without encapsulation".to_owned(),
    }
}

/// The section of one.
fn session(session: &SessionSummary) -> Section {
    let of_all = |part: u64| {
        let share = percent(part, session.packets);
        Cell::figure(format!("{part} ({share})"), part)
    };
    let one_way = |part: u64, by_mac: u64| match by_mac {
        0 => of_all(part),
        _ => {
            let share = percent(part, session.packets);
            let how = "by the interface's hardware address";
            Cell::figure(format!("{part} ({share}), {by_mac} of them {how}"), part)
        }
    };
    let mut facts = Vec::new();
    if let Some((cause, evidence)) = cause(session) {
        facts.push(("cause", Cell::text(cause)));
        facts.push(("evidence", Cell::text(evidence)));
    }
    let account = session.account.as_ref();
    facts.extend(account.map(|account| ("account", Cell::text(account))));
    let target = session.target.map(|target| target.to_string());
    facts.extend(target.map(|target| ("target", Cell::text(target))));
    let tunnel = session.tunnel.as_deref();
    facts.extend(tunnel.map(|tunnel| ("tunnel", Cell::text(tunnel))));
    facts.extend([
        ("packets", Cell::count(session.packets)),
        ("packets a second", a_second(session.packets_per_second)),
        ("bits a second", a_second(session.bits_per_second)),
        ("in", one_way(session.inbound, session.inbound_by_mac)),
        ("out", one_way(session.outbound, session.outbound_by_mac)),
        ("bytes arrived", Cell::bytes(session.bytes)),
        ("truncated", of_all(session.truncated)),
        ("bytes missing", Cell::count(session.missing_bytes)),
        ("suspect, not proven", of_all(session.suspect)),
        ("without a length", of_all(session.unknown_length)),
        ("oversize", of_all(session.oversize)),
        ("in outer fragments", of_all(session.fragmented)),
        (
            "largest inner IP packet",
            Cell::count(session.largest_inner_ip.into()),
        ),
        (
            "largest outer IP packet",
            Cell::maybe(session.largest_outer_ip),
        ),
        ("bytes around inner IP", Cell::maybe(session.overhead)),
        ("cut size, bytes of frame", Cell::maybe(session.cut_size)),
        (
            "private networks",
            Cell::text(session.inner_networks.join(", ")),
        ),
        ("first packet", Cell::text(&session.first_seen)),
        ("last packet", Cell::text(&session.last_seen)),
    ]);
    let others = session.others.as_ref().map(OthersSummary::sentence);
    let mut blocks: Vec<Block> = others.into_iter().map(Block::Text).collect();
    blocks.extend(session.advices().cloned().map(Block::Advice));
    let changes = session.changes.iter().take(CHANGES_SHOWN);
    blocks.extend(changes.map(ChangeSummary::sentence).map(Block::Text));
    blocks.push(Block::Facts(facts));
    blocks.extend(sizes_table(&session.sizes).map(Block::Table));
    let sizes = plot::sizes(&session.sizes, limit(session));
    let share = over_time::sum(std::iter::once(session)).filter(|_| session.truncated > 0);
    let plots = [sizes, share.as_ref().and_then(plot::cut_share)];
    let plots = plots.into_iter().flatten().map(Box::new);
    blocks.extend(plots.map(Block::Plot));
    Section::new(title_of(session), blocks)
}

/// A rate, in whole numbers, or a dash where there is none.
fn a_second(rate: Option<f64>) -> Cell {
    rate.map_or_else(|| Cell::text("–"), |rate| Cell::count(rate.round() as u64))
}

/// Lengths of frames at the mirror source, between powers of two.
fn sizes_table(sizes: &SizesSummary) -> Option<Table> {
    let mut rows: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    let steps = sizes.from.iter().zip(&sizes.packets).zip(&sizes.truncated);
    for ((from, packets), truncated) in steps {
        let row = rows
            .entry(from.checked_ilog2().unwrap_or_default())
            .or_default();
        row.0 = row.0.saturating_add(*packets);
        row.1 = row.1.saturating_add(*truncated);
    }
    let row = |(power, (packets, truncated)): (u32, (u64, u64))| {
        let from = 1_u64 << power;
        vec![
            Cell::text(format!("{from} to {}", from - 1 + from)),
            Cell::count(packets),
            Cell::count(truncated),
            Cell::share(truncated, packets),
        ]
    };
    (!rows.is_empty()).then(|| Table {
        caption: "Frame sizes at the mirror source".to_owned(),
        heads: vec!["bytes of frame", "packets", "truncated", "share"],
        rows: rows.into_iter().map(row).collect(),
    })
}

/// What cut the packets, and how that shows.
pub fn cause(session: &SessionSummary) -> Option<(String, String)> {
    let size = session.cut_size.map(|size| counted(size.into(), "byte"));
    let size = size.as_deref().unwrap_or("one length");
    let (cause, evidence) = match session.cut_by.as_deref()? {
        "session_packet_length" => (
            format!("session packet length of {size}"),
            format!(
                "at least nine in ten truncated packets keep {size} of frame, and no larger frame came"
            ),
        ),
        "mtu" => {
            let mtu = session
                .cut_mtu
                .map_or("?".to_owned(), |mtu| mtu.to_string());
            (
                format!("MTU of {mtu}"),
                format!(
                    "the outer packets of at least nine in ten truncated packets are {mtu} bytes long, and none on that path is longer"
                ),
            )
        }
        "snap_length" => (
            "snap length of the capture".to_owned(),
            "the tunnel carried more than the capture holds".to_owned(),
        ),
        "missing_fragments" => (
            "missing outer fragments".to_owned(),
            "only the first fragments of their outer packets are there".to_owned(),
        ),
        _ if !session.cuts.is_empty() => {
            let mut cuts = session.cuts.iter();
            let mut text = cuts.next().map_or_else(String::new, CutSummary::words);
            let told = cuts.take(CUTS_SHOWN);
            for cut in told {
                text.push_str(&format!("; from {} on {}", cut.from, cut.words()));
            }
            (
                text,
                "in each of these times cut packets keep one length, and no larger frame or outer packet came".to_owned(),
            )
        }
        _ if session
            .changes
            .iter()
            .any(|change| change.what == "cut_size") =>
        {
            (
                "unknown: the cut size changed".to_owned(),
                "each stretch of time has another one, as told above".to_owned(),
            )
        }
        _ => (
            "unknown".to_owned(),
            "truncated packets keep varying lengths, or larger frames came too".to_owned(),
        ),
    };
    Some((cause, evidence))
}

/// Bytes of frame that get through, and what says so.
fn limit(session: &SessionSummary) -> Option<(u32, String)> {
    let size = session.cut_size?;
    Some(match (session.cut_by.as_deref(), session.cut_mtu) {
        (Some("mtu"), Some(mtu)) => (size, format!("MTU {mtu}: {size} bytes arrive")),
        (Some("session_packet_length"), _) => (size, format!("packet length {size}")),
        _ => (size, format!("cut to {size}")),
    })
}
