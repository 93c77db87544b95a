//! Metrics: docs/METRICS.md has the table in the code, and Prometheus takes what is scraped.
#![cfg(target_os = "linux")]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use vxtap::report::metrics::METRICS;

const BEGIN: &str = "<!-- metrics: begin, made by tests/metrics.rs -->\n";
const END: &str = "<!-- metrics: end -->\n";

fn table() -> String {
    let mut table = "| metric | kind | labels | what it says |\n|---|---|---|---|\n".to_owned();
    for metric in METRICS {
        let labels: Vec<String> = metric
            .labels
            .iter()
            .map(|label| format!("`{label}`"))
            .collect();
        let (name, kind) = (metric.name, metric.kind.name());
        let _ = writeln!(
            table,
            "| `{name}` | {kind} | {} | {} |",
            labels.join(", "),
            metric.help
        );
    }
    table
}

/// `UPDATE_DOCS=1` rewrites the page.
#[test]
fn the_page_has_the_metrics_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/METRICS.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, behind) = rest.split_once(END).unwrap();
    let should = format!("{before}{BEGIN}{}{END}{behind}", table());
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        fs::write(&path, &should).unwrap();
    } else {
        assert!(
            page == should,
            "docs/METRICS.md is not what the table gives: UPDATE_DOCS=1 rewrites it"
        );
    }
}
