//! Formats of flow records: whatever the format, other programs read the same values.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests end with a panic"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::store::{Place, assert_sound, packets};
use common::{
    Run, VXTAP, assert_closes, flags_for, json_lines, readable_names, run, testdata, tool, vxtap,
};
use serde_json::Value;
use tempfile::TempDir;

/// A row of CSV as a record: fields that are not empty.
type Row = BTreeMap<String, String>;

/// What Python's csv module reads of files, the rows of each.
fn python_rows(paths: &[PathBuf]) -> Vec<Vec<Row>> {
    const READER: &str = "
import csv, json, sys
files = []
for path in sys.argv[1:]:
    with open(path, newline='', encoding='utf-8') as file:
        files.append(list(csv.DictReader(file, strict=True)))
json.dump(files, sys.stdout)
";
    let read = run(Command::new("python3").args(["-c", READER]).args(paths));
    assert_eq!(read.code, Some(0), "{}", read.stderr);
    let files: Vec<Vec<Row>> = serde_json::from_slice(&read.stdout).unwrap();
    let without_empty = |mut row: Row| {
        row.retain(|_, value| !value.is_empty());
        row
    };
    let rows = |rows: Vec<Row>| rows.into_iter().map(without_empty).collect();
    files.into_iter().map(rows).collect()
}

/// A JSON record as CSV has it.
fn as_row(record: &Value) -> Row {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            let list: Vec<&str> = list.iter().map(|part| part.as_str().unwrap()).collect();
            list.join(" ")
        }
        number => number.to_string(),
    };
    let fields = record.as_object().unwrap();
    fields
        .iter()
        .map(|(name, value)| (name.clone(), text(value)))
        .collect()
}

/// Replays `captures` with flow records to each of `flows`, which are names in a directory of their own.
fn replay(captures: &[PathBuf], flows: &[&str], flags: &[&str]) -> (TempDir, Run, Value) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(VXTAP);
    command.current_dir(dir.path()).arg("replay").args(captures);
    for name in flows {
        command.args(["--flows", name]);
    }
    let run = run(command.args(flags).args(["--summary", "s.json"]));
    let summary = fs::read(dir.path().join("s.json"));
    let summary = summary.map_or(Value::Null, |json| serde_json::from_slice(&json).unwrap());
    (dir, run, summary)
}

/// Every golden capture, with one worker and with three: the rows that Python reads are the JSON lines.
#[test]
fn csv_says_what_json_lines_say() {
    if !tool("python3") {
        return;
    }
    let mut expected = Vec::new();
    let mut paths = Vec::new();
    let mut kept = Vec::new();
    for name in readable_names() {
        let both = ["1", "3"].map(|workers| {
            let flags = [flags_for(&name), &["--workers", workers]].concat();
            let (dir, run, summary) =
                replay(&[testdata(&name)], &["f.jsonl", "f.csv", "csv:g"], &flags);
            assert_eq!(run.code, Some(0), "{name}: {}", run.stderr);
            assert_closes(&summary);
            let [lines, csv, prefixed] =
                ["f.jsonl", "f.csv", "g"].map(|file| fs::read(dir.path().join(file)).unwrap());
            assert_eq!(csv, prefixed, "{name}");
            for sink in summary["sinks"].as_array().unwrap() {
                let path = dir.path().join(sink["path"].as_str().unwrap());
                assert_eq!(sink["bytes"], fs::metadata(path).unwrap().len(), "{name}");
                assert_eq!(sink["written"], summary["flows"], "{name}");
            }
            paths.push(dir.path().join("f.csv"));
            expected.push(json_lines(str::from_utf8(&lines).unwrap()));
            kept.push(dir);
            csv
        });
        assert_eq!(both[0], both[1], "{name}");
    }
    let mut records = 0;
    for ((rows, expected), path) in python_rows(&paths).iter().zip(&expected).zip(&paths) {
        let expected: Vec<Row> = expected.iter().map(as_row).collect();
        assert_eq!(rows, &expected, "{}", path.display());
        records += expected.len();
    }
    assert!(records > 100, "{records}");
}

/// A file without a record has its header, and so has one of every record on standard output.
#[test]
fn csv_begins_with_the_names_of_all_fields() {
    let header = String::from_utf8(vxtap::export::csv::header()).unwrap();
    let names: Vec<&str> = header.trim_end().split(',').collect();
    let columns = vxtap::flow::columns::COLUMNS.iter();
    assert_eq!(names, columns.map(|column| column.name).collect::<Vec<_>>());
    let (dir, run, _) = replay(&[testdata("inner-non-ip.pcap")], &["f.csv"], &[]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(
        fs::read_to_string(dir.path().join("f.csv")).unwrap(),
        header
    );
    let (_, run, _) = replay(&[testdata("demo.pcap")], &["csv:-"], &[]);
    let text = String::from_utf8(run.stdout).unwrap();
    assert!(text.starts_with(&header) && text.ends_with("\r\n"));
    assert_eq!(
        text.matches("\r\n").count(),
        1 + json_lines(&golden("demo.pcap")).len()
    );
}

fn golden(name: &str) -> String {
    fs::read_to_string(testdata(&format!("golden/{name}.jsonl"))).unwrap()
}

/// Mistakes are told before anything is opened, all at once.
#[test]
fn formats_and_places_that_cannot_be() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("dir.csv")).unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    for (flags, words) in [
        (
            "--flows xml:f --flows f.csv/",
            &[
                "--flows xml:f: 'xml' is no format of flow records: jsonl",
                "--flows f.csv/ is a directory: csv:f.csv/ writes CSV into it, jsonl:f.csv/ JSON lines",
            ][..],
        ),
        (
            "--flows dir.csv",
            &["--flows dir.csv is a directory: csv:dir.csv writes CSV"],
        ),
        (
            "--flows csv:",
            &["--flows csv: needs the name of a file or directory"],
        ),
        (
            "--flows csv:f --flows jsonl:./f",
            &["--flows and --flows both write to f, which is ./f"],
        ),
        (
            "--flows f.csv --flows f.csv",
            &["--flows and --flows both write to f.csv"],
        ),
        (
            "--flows csv:d/ --flows jsonl:d/",
            &["--flows and --flows both write to d/"],
        ),
        (
            "--flows csv:- --flows -",
            &["--flows and --flows both write to -"],
        ),
        (
            "-w f.csv --flows f.csv",
            &["-w and --flows both write to f.csv"],
        ),
        (
            "--flows csv:f --rotate-size 1MB",
            &["--rotate-size is for a store"],
        ),
    ] {
        let mut command = Command::new(VXTAP);
        command.current_dir(dir.path()).arg("replay");
        command.arg(testdata("demo.pcap"));
        let run = run(command.args(flags.split(' ')));
        assert_eq!(run.code, Some(2), "{flags}: {}", run.stderr);
        for part in words {
            assert!(run.stderr.contains(part), "{flags}: {}", run.stderr);
        }
        let left = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 2, "{flags} left something");
    }
    let mut command = Command::new(VXTAP);
    command.current_dir(dir.path()).arg("replay");
    command.arg(testdata("demo.pcap"));
    let run = run(command.args(["--flows", "csv:file/"]));
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("file/"), "{}", run.stderr);
}

/// A name that promises another format is told, and the file is written all the same.
#[test]
fn a_misleading_name_is_told() {
    let flows = ["csv:f.jsonl", "jsonl:f.csv"];
    let (dir, run, _) = replay(&[testdata("demo.pcap")], &flows, &[]);
    assert_eq!(run.code, Some(0));
    for told in [
        "f.jsonl is written as CSV, not JSON lines",
        "f.csv is written as JSON lines, not CSV",
    ] {
        assert!(run.stderr.contains(told), "{}", run.stderr);
    }
    let lines = fs::read_to_string(dir.path().join("f.csv")).unwrap();
    assert_eq!(lines, golden("demo.pcap"));
}

/// Files of a store follow each other, each with a header; together they have every record once.
#[test]
fn a_store_of_csv_rotates() {
    if !tool("python3") {
        return;
    }
    let demo = testdata("demo.pcap");
    let place = Place::new();
    let store = place.store();
    let dir = format!("csv:{}/", store.display());
    let words = ["replay", demo.to_str().unwrap(), "--flows", &dir];
    let done = vxtap(words.into_iter().chain(["--rotate-interval", "3s"]));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let files = assert_sound(&store);
    assert_eq!(files.len(), 3);
    let names: Vec<&String> = files.keys().collect();
    assert_eq!(names[0], "vxtap-flows_00001_20260115093000.csv");
    let paths: Vec<PathBuf> = names.iter().map(|name| store.join(name)).collect();
    let rows = python_rows(&paths).concat();
    let mut expected: Vec<Row> = json_lines(&golden("demo.pcap"))
        .iter()
        .map(as_row)
        .collect();
    expected.sort();
    let mut sorted = rows;
    sorted.sort();
    assert_eq!(sorted, expected);
    let path = store.to_str().unwrap();
    assert_eq!(vxtap(["verify", path]).code, Some(0));
    let listed = vxtap(["ls", "--json", path]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed["files"][0]["format"], "csv");
    assert!(
        String::from_utf8_lossy(&vxtap(["ls", path]).stdout)
            .contains(&format!("{} flow records", expected.len()))
    );
}

/// What a killed run left of CSV is cut back to its last whole row; a header alone is nothing.
#[test]
fn csv_of_a_killed_run_is_finished() {
    let (dir, run, _) = replay(&[testdata("demo.pcap")], &["f.csv"], &[]);
    assert_eq!(run.code, Some(0));
    let text = fs::read_to_string(dir.path().join("f.csv")).unwrap();
    let header = text.find('\n').unwrap() + 1;
    let records = text.matches("\r\n").count() as u64 - 1;
    for (cut, kept) in [
        (text.len(), Some(records)),
        (text.len() - 1, Some(records - 1)),
        (text.len() - 30, Some(records - 1)),
        (header + 10, None),
        (header, None),
        (10, None),
    ] {
        let place = Place::new();
        let store = place.store();
        fs::create_dir(&store).unwrap();
        let left = store.join(".vxtap-flows_00004_20260115093000.csv.part");
        fs::write(left, &text[..cut]).unwrap();
        let demo = testdata("demo.pcap");
        let flows = format!("csv:{}", store.display());
        let words = ["replay", demo.to_str().unwrap(), "--flows", &flows];
        let done = vxtap(words);
        assert_eq!(done.code, Some(0), "{cut}: {}", done.stderr);
        let files = assert_sound(&store);
        let expected: Vec<u64> = kept.into_iter().chain([records]).collect();
        assert_eq!(packets(&files), expected, "{cut}");
        if kept.is_some() {
            let first = files.values().next().unwrap();
            assert_eq!(first["reason"], "recovered");
            let begins = first["first"].as_str().unwrap();
            assert!(begins.starts_with("2026-01-15T09:30:00."), "{begins}");
        }
    }
}

/// Runs in `dir` with a limit on the size of files, in units of 512 bytes, which fails writes as a full disk does.
fn limited(dir: &Path, blocks: u32, flags: &str) -> (Run, Value) {
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\" {flags} --summary -");
    let mut command = Command::new("sh");
    command.current_dir(dir);
    command.args(["-c", &script, "sh", VXTAP, "replay"]);
    command.args(vec![testdata("demo.pcap"); 20]);
    let run = run(&mut command);
    let summary = serde_json::from_slice(&run.stdout).unwrap();
    (run, summary)
}

/// A full disk keeps whole rows, under the hidden name: the file is not complete.
#[test]
fn a_full_disk_keeps_whole_rows() {
    if !tool("python3") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (run, summary) = limited(dir.path(), 10, "--flows f.csv --flows jsonl:/dev/null");
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("cannot write f.csv: File too large"));
    assert_closes(&summary);
    assert!(!dir.path().join("f.csv").exists());
    let rows = python_rows(&[dir.path().join(".f.csv.part")]).concat();
    let [csv, other] = [&summary["sinks"][0], &summary["sinks"][1]];
    assert_eq!(csv["written"], rows.len());
    assert!(!rows.is_empty() && csv["dropped"]["write"].as_u64().unwrap() > 0);
    assert!(rows.iter().all(|row| row.contains_key("end_reason")));
    // The other one has all of them.
    assert_eq!(other["written"], summary["flows"]);
}

/// `vxtap extract` reads records as JSON lines, and says so of others.
#[test]
fn extract_refuses_other_records() {
    let (dir, run, _) = replay(&[testdata("demo.pcap")], &["f.csv"], &["-w", "c.pcapng"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let id = &json_lines(&golden("demo.pcap"))[0]["flow_id"];
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let [capture, flows, out] = ["c.pcapng", "f.csv", "o.pcapng"].map(path);
    let words = [
        "extract",
        &capture,
        "--flow",
        id.as_str().unwrap(),
        "--flows",
        &flows,
    ];
    let done = vxtap(words.into_iter().chain(["-w", &out]));
    assert_eq!(done.code, Some(1));
    assert!(
        done.stderr.contains("f.csv: it holds no JSON lines"),
        "{}",
        done.stderr
    );
}
