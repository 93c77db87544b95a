//! What a report says of an audit, section by section. Pure.
//!
//! A new section is a function here and a line in `SECTIONS`; how it is printed follows.

use std::cmp::Reverse;

use super::audit::{Audit, Counts, Kind, Total, sum};
use super::document::{Block, Cell, Document, Section, Table};
use super::mirror_loss;
use super::over_time;
use super::page::bytes;
use super::plot;
use super::session::{self, cause, title_of};
use super::summary::{ExpectedSummary, SessionSummary};
use crate::export::top::{Carried, Top, TopFlow, protocol_name};
use crate::mirror::words::{counted, percent};
use crate::pipeline::ledger;

/// Sessions in the table; the JSON object has all.
const SESSIONS_SHOWN: usize = 200;

/// The sections, in their order.
const SECTIONS: [fn(&Audit) -> Vec<Section>; 8] = [
    |audit| vec![result(audit)],
    sessions_table,
    mirror_loss::section,
    inventory,
    over_time,
    session::one_by_one,
    top,
    |audit| vec![ledger(audit)],
];

/// The report of an audit.
pub fn document(audit: &Audit) -> Document {
    let sections = SECTIONS.iter().flat_map(|section| section(audit));
    Document {
        title: format!("Mirror report of {}", audit.input.name),
        sections: sections.collect(),
    }
}

/// What it comes to, in sentences.
fn result(audit: &Audit) -> Section {
    let total = &audit.total;
    let mut sentences = vec![verdict(total)];
    if total.suspect > 0 {
        sentences.push(format!(
            "Suspect, not proven: {} without a declared length, exactly as long as the cut. The truncated do not include them.",
            counted(total.suspect, "packet")
        ));
    }
    if total.oversize > 0 {
        sentences.push(format!(
            "{} arrived whole, but larger than the path's MTU carries in one outer packet.",
            counted(total.oversize, "packet")
        ));
    }
    let lost = audit.dropped.values().chain(audit.kernel_dropped.values());
    let lost = sum(lost.copied().chain(audit.input_dropped));
    if lost > 0 {
        sentences.push(format!(
            "{} lost before they could be looked at: see the ledger. All figures are of the others.",
            counted(lost, "packet")
        ));
    }
    sentences.push(mirror_loss::verdict(&audit.sessions));
    let mut blocks: Vec<Block> = sentences.into_iter().map(Block::Text).collect();
    let wrong = audit.errors.iter().map(|error| format!("Fault: {error}"));
    let told = wrong.chain(audit.remarks.iter().cloned());
    blocks.extend(told.map(Block::Text));
    let time = |time: &Option<String>| Cell::text(time.as_deref().unwrap_or("–"));
    let kind = match audit.input.kind {
        Kind::Capture => "capture".to_owned(),
        Kind::Store => "store of captures".to_owned(),
        Kind::Summary => format!("summary of vxtap {}", audit.version),
    };
    blocks.push(Block::Facts(vec![
        (
            "input",
            Cell::text(format!("{} ({kind})", audit.input.name)),
        ),
        ("first packet", time(&total.first_seen)),
        ("last packet", time(&total.last_seen)),
        ("mirror sessions", Cell::count(total.sessions)),
        ("packets", Cell::count(total.packets)),
        ("bytes arrived", Cell::bytes(total.bytes)),
        ("bytes missing", Cell::bytes(total.missing_bytes)),
        (
            "largest inner IP packet",
            Cell::count(total.largest_inner_ip.into()),
        ),
    ]));
    Section::new("Result", blocks)
}

fn verdict(total: &Total) -> String {
    if total.packets == 0 {
        return "There is no mirrored packet.".to_owned();
    }
    if total.truncated == 0 {
        return format!(
            "None of {} arrived truncated.",
            counted(total.packets, "packet")
        );
    }
    format!(
        "{} of {} ({}) arrived truncated, in {} of {}: {} are missing.",
        total.truncated,
        counted(total.packets, "packet"),
        percent(total.truncated, total.packets),
        total.sessions_cut,
        counted(total.sessions, "mirror session"),
        bytes(total.missing_bytes)
    )
}

/// Busy sessions first, where not all are shown.
fn sessions_table(audit: &Audit) -> Vec<Section> {
    let mut shown: Vec<&SessionSummary> = audit.sessions.iter().collect();
    if shown.is_empty() {
        return Vec::new();
    }
    if shown.len() > SESSIONS_SHOWN {
        shown.sort_by_key(|session| Reverse(session.packets));
        shown.truncate(SESSIONS_SHOWN);
    }
    let hidden = audit.sessions.len() - shown.len();
    let mut blocks = vec![Block::Table(Table {
        caption: "Mirror sessions by source and VNI: what arrived, and what of it truncated"
            .to_owned(),
        heads: vec![
            "VNI",
            "source",
            "packets",
            "bytes",
            "truncated",
            "share",
            "missing",
            "suspect",
            "oversize",
            "largest IP",
            "cut size",
            "cause",
        ],
        rows: shown.into_iter().map(session_row).collect(),
    })];
    if hidden > 0 {
        let more = counted(hidden as u64, "more session");
        blocks.push(Block::Text(format!(
            "And {more} with fewer packets: --json has all."
        )));
    }
    vec![Section::new("Mirror sessions", blocks)]
}

fn session_row(session: &SessionSummary) -> Vec<Cell> {
    let (vni, source) = match (session.vni, session.source) {
        (Some(vni), Some(source)) => match &session.name {
            Some(name) => (vni.to_string(), format!("{source} ({name})")),
            None => (vni.to_string(), source.to_string()),
        },
        _ if session.others.is_some() => ("other".to_owned(), "–".to_owned()),
        _ => ("–".to_owned(), "not encapsulated".to_owned()),
    };
    vec![
        Cell::text(vni),
        Cell::text(source),
        Cell::count(session.packets),
        Cell::bytes(session.bytes),
        Cell::count(session.truncated),
        Cell::share(session.truncated, session.packets),
        Cell::bytes(session.missing_bytes),
        Cell::count(session.suspect),
        Cell::count(session.oversize),
        Cell::count(session.largest_inner_ip.into()),
        Cell::maybe(session.cut_size),
        Cell::text(cause(session).map_or("–".to_owned(), |(cause, _)| cause)),
    ]
}

/// Sessions that should be there.
fn inventory(audit: &Audit) -> Vec<Section> {
    let Some(inventory) = &audit.inventory else {
        return Vec::new();
    };
    let lists = [
        ("nothing came", &inventory.missing),
        ("silent", &inventory.silent),
        ("not expected", &inventory.unexpected),
    ];
    let row = |what: &str, words: String| vec![Cell::text(what), Cell::text(words)];
    let rows = lists.into_iter().flat_map(|(what, sessions)| {
        let words = sessions.iter().map(ExpectedSummary::words);
        words.map(move |words| row(what, words))
    });
    let table = Table {
        caption: "Sessions that are not as expected".to_owned(),
        heads: vec!["what", "session"],
        rows: rows.take(SESSIONS_SHOWN).collect(),
    };
    let expected = inventory.expected as u64;
    let came = expected.saturating_sub(inventory.missing.len() as u64);
    let text = format!(
        "{came} of {} sent packets.",
        counted(expected, "expected session")
    );
    let mut blocks = vec![Block::Text(text)];
    blocks.extend((!table.rows.is_empty()).then_some(Block::Table(table)));
    vec![Section::new("Expected sessions", blocks)]
}

/// All sessions together, when there is a course of time.
fn over_time(audit: &Audit) -> Vec<Section> {
    let Some(series) = over_time::sum(audit.sessions.iter()) else {
        return Vec::new();
    };
    let plots = [plot::throughput(&series), plot::cut_share(&series)];
    let plots = plots.into_iter().flatten().map(Box::new);
    let mut blocks: Vec<Block> = plots.map(Block::Plot).collect();
    if blocks.is_empty() {
        return Vec::new();
    }
    let changed = audit
        .sessions
        .iter()
        .filter(|session| !session.changes.is_empty());
    let changed: Vec<String> = changed.map(title_of).collect();
    blocks.push(Block::Text(match changed.len() {
        0 => "What is cut did not change over time in any session.".to_owned(),
        1..=8 => format!("What is cut changed over time in: {}.", changed.join("; ")),
        many => format!("What is cut changed over time in {many} sessions."),
    }));
    vec![Section::new("Over time, all sessions", blocks)]
}

fn top(audit: &Audit) -> Vec<Section> {
    let Some(Top { flows, protocols }) = &audit.top else {
        let text = "A summary holds no flow records. To list the largest flows and the protocols, run report on the \
                    capture or the store itself.";
        return vec![Section::new(
            "Flows and protocols",
            vec![Block::Text(text.to_owned())],
        )];
    };
    if flows.is_empty() {
        let text = "No packet belongs to a flow: none has an inner IP header.".to_owned();
        return vec![Section::new("Flows and protocols", vec![Block::Text(text)])];
    }
    let bytes = sum(protocols.iter().map(|carried| carried.ip_bytes));
    let flows = Table {
        caption: "The flows of most bytes, as their packets declare them".to_owned(),
        heads: vec![
            "originator",
            "responder",
            "protocol",
            "VNI",
            "name",
            "packets",
            "bytes",
            "truncated",
            "missing",
        ],
        rows: flows.iter().map(flow_row).collect(),
    };
    let protocols = Table {
        caption: "Protocols by the responder's port, as flows declare their bytes".to_owned(),
        heads: vec![
            "protocol",
            "flows",
            "packets",
            "bytes",
            "share",
            "truncated",
            "missing",
        ],
        rows: protocols
            .iter()
            .map(|carried| protocol_row(carried, bytes))
            .collect(),
    };
    vec![
        Section::new("Top flows", vec![Block::Table(flows)]),
        Section::new("Protocols", vec![Block::Table(protocols)]),
    ]
}

fn flow_row(flow: &TopFlow) -> Vec<Cell> {
    let end = |ip: std::net::IpAddr, port: Option<u16>| match port {
        Some(port) => std::net::SocketAddr::new(ip, port).to_string(),
        None => ip.to_string(),
    };
    vec![
        Cell::text(end(flow.src_ip, flow.src_port)),
        Cell::text(end(flow.dst_ip, flow.dst_port)),
        Cell::text(protocol_name(flow.proto)),
        Cell::text(flow.vni.map_or("–".to_owned(), |vni| vni.to_string())),
        Cell::text(flow.name.as_deref().unwrap_or("–")),
        Cell::count(flow.packets),
        Cell::bytes(flow.ip_bytes),
        Cell::count(flow.truncated),
        Cell::bytes(flow.missing_bytes),
    ]
}

fn protocol_row(carried: &Carried, bytes: u64) -> Vec<Cell> {
    let name = match (carried.others, carried.port) {
        (true, _) => "all others".to_owned(),
        (false, Some(port)) => format!("{} {port}", protocol_name(carried.proto)),
        (false, None) => protocol_name(carried.proto),
    };
    vec![
        Cell::text(name),
        Cell::count(carried.flows),
        Cell::count(carried.packets),
        Cell::bytes(carried.ip_bytes),
        Cell::share(carried.ip_bytes, bytes),
        Cell::count(carried.truncated),
        Cell::bytes(carried.missing_bytes),
    ]
}

/// Every packet once, and what was noted.
fn ledger(audit: &Audit) -> Section {
    let row = |name: String, packets: u64, meaning: &str| {
        let meaning = meaning.trim_end_matches('.');
        vec![Cell::text(name), Cell::count(packets), Cell::text(meaning)]
    };
    let one = |name: &str, packets, meaning| row(name.to_owned(), packets, meaning);
    let meaning = |reason: &str| ledger::meaning(reason).unwrap_or_default();
    let reasons = |name: &str, counts: &Counts| {
        let each = counts.iter();
        let each = each
            .map(|(reason, packets)| row(format!("{name}: {reason}"), *packets, meaning(reason)));
        each.collect::<Vec<_>>()
    };
    let all = |name: &str, counts: &Counts| {
        let sum = sum(counts.values().copied());
        [vec![one(name, sum, "")], reasons(name, counts)].concat()
    };
    let beside = "not among those received";
    let kernel = audit.kernel_dropped.iter();
    let kernel = kernel
        .map(|(reason, packets)| row(format!("lost in the kernel: {reason}"), *packets, beside));
    let refused = audit.kernel_refused;
    let refused =
        refused.map(|packets| one("left out in the kernel: not allowed", packets, beside));
    let input = audit.input_dropped.filter(|packets| *packets > 0);
    let input = input.map(|packets| one("lost before the input was written", packets, beside));
    let sum_of = "delivered + malformed + filtered + duplicate + dropped";
    let rows = [
        vec![
            one("received", audit.received, sum_of),
            one("delivered", audit.delivered, "decapsulated and judged"),
            one(
                "duplicate",
                audit.duplicate,
                "copies that --dedup drop kept out",
            ),
        ],
        all("malformed", &audit.malformed),
        all("filtered", &audit.filtered),
        all("dropped", &audit.dropped),
        kernel.chain(refused).chain(input).collect(),
        reasons("noted", &audit.noted),
    ];
    let table = Table {
        caption: "Every packet received is in one counter; notes are of delivered packets"
            .to_owned(),
        heads: vec!["counter", "packets", "meaning"],
        rows: rows.into_iter().flatten().collect(),
    };
    let mut blocks = vec![Block::Table(table)];
    if !audit.refused_sources.is_empty() {
        let sources = audit.refused_sources.iter();
        let sources: Vec<String> = sources.map(ToString::to_string).collect();
        blocks.push(Block::Text(format!(
            "Sources that --allow does not name, with their packets: {}",
            sources.join(", ")
        )));
    }
    Section::new("Ledger", blocks)
}

#[cfg(test)]
mod tests {
    use super::super::audit::tests::audit;
    use super::super::{html, text};
    use super::*;

    /// A summary is a file like any other: whatever numbers stand in it are printed.
    #[test]
    fn numbers_that_nobody_would_believe() {
        fn largest(value: &mut serde_json::Value) {
            match value {
                serde_json::Value::Number(number) if number.as_u64().is_some() => {
                    *value = u32::MAX.into();
                }
                serde_json::Value::Array(values) => {
                    values.extend([u64::MAX.into(), 0.into(), u64::MAX.into()]);
                }
                serde_json::Value::Object(values) => values.values_mut().for_each(largest),
                _ => {}
            }
        }
        let mut told = serde_json::to_value(audit()).unwrap();
        largest(&mut told["sessions"][0]);
        let session = told["sessions"][0].as_object_mut().unwrap();
        session.insert("cut_by".to_owned(), "mtu".into());
        session.remove("changes");
        session.remove("inner_networks");
        for count in ["packets", "truncated", "missing_bytes"] {
            session.insert(count.to_owned(), u64::MAX.into());
        }
        let twice = told["sessions"][0].clone();
        told["sessions"].as_array_mut().unwrap().push(twice);
        told["dropped"] = serde_json::json!({"a": u64::MAX, "b": u64::MAX});
        let audit = Audit::read(told.to_string().as_bytes()).unwrap();
        let document = document(&audit);
        let printed = [text::print(&document), html::print(&document)];
        for text in printed {
            assert!(!text.contains("NaN") && !text.contains("inf\""), "{text}");
            assert!(text.contains("100.0 %"), "{text}");
        }
    }
}
