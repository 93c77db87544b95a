//! What `vxtap check` tells people. Pure.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::facts::Checked;
use crate::mirror::words::counted;
use crate::report::page::{bytes, wrap};

/// Longest line of sentences.
const WIDTH: usize = 100;
/// Values up to this width have their origins in one column.
const VALUE_WIDTH: usize = 40;

/// The page.
pub fn text(checked: &Checked) -> String {
    let mut page = String::new();
    let file = checked.file.as_deref().unwrap_or("no file");
    let _ = writeln!(
        page,
        "Settings of vxtap listen ({file}; flags count before the environment, and that before the file)"
    );
    settings(checked, &mut page);
    if !checked.warnings.is_empty() {
        page.push_str("\nWarnings\n");
    }
    for warning in &checked.warnings {
        let mut bullet = "-";
        for line in wrap(warning, WIDTH - 4) {
            let _ = writeln!(page, "  {bullet} {line}");
            bullet = " ";
        }
    }
    if checked.ok {
        network(checked, &mut page);
        room(checked, &mut page);
    }
    match checked.mistakes.len() {
        0 => page.push_str("\nNothing is wrong with these settings.\n"),
        count => {
            let _ = writeln!(
                page,
                "\n{} below; nothing was started.",
                counted(count as u64, "mistake")
            );
        }
    }
    page
}

fn settings(checked: &Checked, page: &mut String) {
    let shown: Vec<String> = checked
        .settings
        .iter()
        .map(|one| shown(&one.value))
        .collect();
    let names = checked.settings.iter().map(|one| one.key.len());
    let names = names.max().unwrap_or_default();
    let widths = shown.iter().map(|value| value.chars().count());
    let values = widths
        .filter(|width| *width <= VALUE_WIDTH)
        .max()
        .unwrap_or_default();
    let mut table = "";
    for (one, value) in checked.settings.iter().zip(&shown) {
        if table != one.table {
            table = &one.table;
            let _ = writeln!(page, "\n[{table}]");
        }
        let _ = writeln!(page, "  {:names$}  {value:values$}  {}", one.key, one.from);
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => {
            let values: Vec<String> = values.iter().map(shown).collect();
            values.join(", ")
        }
        other => other.to_string(),
    }
}

fn network(checked: &Checked, page: &mut String) {
    page.push_str("\nPorts that others reach\n");
    for port in &checked.inbound {
        let address = SocketAddr::new(port.address, port.port);
        let from = match port.sources.as_deref() {
            None => "anywhere".to_owned(),
            Some([]) => "nobody: allow names no network of this family".to_owned(),
            Some(sources) => sources.join(", "),
        };
        let protocol = port.protocol.to_uppercase();
        let _ = writeln!(page, "  {protocol} {address}  {} from {from}", port.what);
    }
    page.push_str("\nConnections that vxtap makes\n");
    if checked.outbound.is_empty() {
        page.push_str("  none\n");
    }
    for one in &checked.outbound {
        let (protocol, host, what) = (one.protocol.to_uppercase(), &one.host, &one.what);
        let addresses: Vec<String> = one.addresses.iter().map(IpAddr::to_string).collect();
        let addresses = match addresses.join(", ") {
            // The host is an address, or no collector.
            all if all.is_empty() || all == *host => String::new(),
            all => format!(" ({all})"),
        };
        let port = one.port.map(|port| format!(" port {port}"));
        let port = port.unwrap_or_default();
        let _ = writeln!(page, "  {protocol} to {host}{addresses}{port}  {what}");
    }
}

fn room(checked: &Checked, page: &mut String) {
    page.push_str("\nMemory\n");
    for memory in &checked.memory {
        let way = match (checked.memory.len(), memory.backend) {
            (1, _) => String::new(),
            (_, "packet") => " with a packet ring".to_owned(),
            (_, other) => format!(" with {} sockets", other.to_uppercase()),
        };
        let _ = writeln!(
            page,
            "  at most {}{way}, and {} of receive buffers asked of the kernel",
            bytes(memory.most_bytes),
            bytes(memory.kernel_bytes)
        );
    }
    page.push_str("\nDisk\n");
    if checked.disk.is_empty() {
        page.push_str("  none\n");
    }
    for disk in &checked.disk {
        let most = match disk.most_bytes {
            Some(most) => format!("at most {}", bytes(most)),
            None => "without a limit".to_owned(),
        };
        let free = match (disk.free_bytes, disk.total_bytes) {
            (Some(free), Some(total)) => {
                format!(
                    "; the file system has {} of {} free",
                    bytes(free),
                    bytes(total)
                )
            }
            _ => String::new(),
        };
        let used = match disk.used_bytes {
            0 => String::new(),
            used => format!(", {} of them are there already", bytes(used)),
        };
        let _ = writeln!(page, "  {}  {most}{used}{free}", disk.path);
    }
}
