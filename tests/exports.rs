//! Formats of flow records: whatever the format, other programs read the same values.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::readers::python;
use common::store::{Place, assert_sound, packets, wait_until};
use common::{
    Run, VXTAP, assert_closes, flags_for, json_lines, readable_names, run, testdata, tool, vxtap,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use vxtap::flow::columns::{COLUMNS, Column, Kind, OWN_ENTERPRISE};

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
    let done = vxtap(
        words
            .into_iter()
            .chain(["--rotate-interval", "3s", "--whole-flows"]),
    );
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
fn limited(dir: &Path, blocks: u64, flags: &str, captures: &[PathBuf]) -> (Run, Value) {
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\" {flags} --summary -");
    let mut command = Command::new("sh");
    command.current_dir(dir);
    command.args(["-c", &script, "sh", VXTAP, "replay"]);
    command.args(captures);
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
    let (run, summary) = limited(
        dir.path(),
        10,
        "--flows f.csv --flows jsonl:/dev/null",
        &vec![testdata("demo.pcap"); 20],
    );
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

/// What pyarrow reads of Parquet files: the type of each field, what the file says of itself, and the rows, as CSV
/// would have them. The first argument names the fields of the rows; with none there are no rows.
const PYARROW: &str = "
import json, sys
from datetime import datetime, timezone
import pyarrow as pa
import pyarrow.parquet as pq

def moment(ns):
    seconds, part = divmod(ns, 10**9)
    return datetime.fromtimestamp(seconds, timezone.utc).strftime('%Y-%m-%dT%H:%M:%S') + f'.{part:09d}Z'

def text(value):
    return ' '.join(value) if isinstance(value, list) else str(value)

files = []
names = sys.argv[1].split(',')
for path in sys.argv[2:]:
    file = pq.ParquetFile(path)
    schema = file.schema_arrow
    table = file.read([n for n in schema.names if n in names or names == ['all']])
    columns = {}
    for field in table.schema:
        column = table.column(field.name)
        is_time = pa.types.is_timestamp(field.type)
        values = (column.cast(pa.int64()) if is_time else column).to_pylist()
        as_text = moment if is_time else text
        columns[field.name] = [None if value is None else as_text(value) for value in values]
    rows = [{n: v for n, v in zip(columns, row) if v is not None} for row in zip(*columns.values())]
    said = {k.decode(): v.decode() for k, v in (file.metadata.metadata or {}).items()}
    files.append({
        'types': {f.name: str(f.type) + ('' if f.nullable else ' not null') for f in schema},
        'said': said,
        'groups': [file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)],
        'codecs': sorted({file.metadata.row_group(n).column(c).compression
                          for n in range(file.metadata.num_row_groups) for c in range(file.metadata.num_columns)}),
        'rows': rows,
    })
json.dump(files, sys.stdout)
";

/// What pyarrow and DuckDB make of a Parquet file.
#[derive(serde::Deserialize)]
struct Read {
    types: BTreeMap<String, String>,
    said: BTreeMap<String, String>,
    groups: Vec<usize>,
    codecs: Vec<String>,
    rows: Vec<Row>,
}

/// `fields`: of the rows, or `all`.
fn pyarrow(python: &Path, fields: &str, paths: &[PathBuf]) -> Vec<Read> {
    let read = run(Command::new(python)
        .args(["-c", PYARROW, fields])
        .args(paths));
    assert_eq!(read.code, Some(0), "{}", read.stderr);
    serde_json::from_slice(&read.stdout).unwrap()
}

/// The first row that DuckDB has for a query of `{}`, a Parquet file.
fn duckdb(python: &Path, path: &Path, query: &str) -> Vec<Value> {
    const QUERY: &str = "
import duckdb, json, sys
json.dump(duckdb.connect().execute(sys.argv[1]).fetchone(), sys.stdout, default=str)
";
    let query = query.replace("{}", &format!("read_parquet('{}')", path.display()));
    let read = run(Command::new(python).args(["-c", QUERY, &query]));
    assert_eq!(read.code, Some(0), "{query}: {}", read.stderr);
    serde_json::from_slice(&read.stdout).unwrap()
}

/// Every golden capture: what pyarrow reads are the JSON lines in the order of their beginnings, for any number of
/// workers.
#[test]
fn parquet_says_what_json_lines_say() {
    let Some(python) = python() else {
        return;
    };
    let mut expected = Vec::new();
    let mut paths = Vec::new();
    let mut kept = Vec::new();
    for name in readable_names() {
        let both = ["1", "3"].map(|workers| {
            let flags = [flags_for(&name), &["--workers", workers]].concat();
            let (dir, run, summary) = replay(&[testdata(&name)], &["f.jsonl", "f.parquet"], &flags);
            assert_eq!(run.code, Some(0), "{name}: {}", run.stderr);
            assert_closes(&summary);
            for sink in summary["sinks"].as_array().unwrap() {
                let path = dir.path().join(sink["path"].as_str().unwrap());
                assert_eq!(sink["bytes"], fs::metadata(path).unwrap().len(), "{name}");
                assert_eq!(sink["written"], summary["flows"], "{name}");
            }
            let bytes = fs::read(dir.path().join("f.parquet")).unwrap();
            let lines = fs::read_to_string(dir.path().join("f.jsonl")).unwrap();
            paths.push(dir.path().join("f.parquet"));
            expected.push(json_lines(&lines));
            kept.push(dir);
            bytes
        });
        assert!(both[0] == both[1], "{name}");
    }
    let mut records = 0;
    for ((read, expected), path) in pyarrow(python, "all", &paths)
        .iter()
        .zip(&expected)
        .zip(&paths)
    {
        let mut expected: Vec<Row> = expected.iter().map(as_row).collect();
        expected.sort_by(|a, b| a["ts_start"].cmp(&b["ts_start"]));
        assert_eq!(read.rows, expected, "{}", path.display());
        records += expected.len();
        for column in COLUMNS {
            assert_eq!(
                read.types[column.name],
                arrow_type(column),
                "{}",
                column.name
            );
            let said = &read.said[&format!("vxtap.field.{}", column.name)];
            assert!(said.starts_with(column.sentence), "{said}");
        }
        assert_eq!(read.types.len(), COLUMNS.len());
        assert_eq!(read.said["vxtap.version"], env!("CARGO_PKG_VERSION"));
        assert!(read.codecs.iter().all(|codec| codec == "ZSTD"));
    }
    assert!(records > 100, "{records}");
}

/// The type that Arrow has for a field.
fn arrow_type(column: &Column) -> String {
    let kind = match column.kind {
        Kind::Time => "timestamp[ns, tz=UTC]",
        Kind::Duration | Kind::U64 => "uint64",
        Kind::U32 => "uint32",
        Kind::U16 | Kind::Port => "uint16",
        Kind::U8 => "uint8",
        Kind::Id | Kind::Text | Kind::Address | Kind::Mac | Kind::Direction => "string",
        Kind::Addresses => "list<element: string not null>",
    };
    let required = if column.always { " not null" } else { "" };
    format!("{kind}{required}")
}

/// Several row groups: the sums that DuckDB makes are those of the summary and of JSON lines, and the file is less than
/// a tenth as large.
#[test]
fn sums_of_parquet_are_those_of_the_summary() {
    let Some(python) = python() else {
        return;
    };
    let place = Place::new();
    let input = place.0.path().join("in.pcap");
    generate(&input, "70000", "140000");
    let flows = ["f.jsonl", "f.parquet"];
    let (dir, run, summary) = replay(&[input], &flows, &[]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_closes(&summary);
    let [lines, parquet] = flows.map(|name| dir.path().join(name));
    let query = "select count(*), sum(pkts_o + pkts_r), sum(cap_bytes_o + cap_bytes_r), \
                 sum(trunc_pkts_o + trunc_pkts_r), count(distinct flow_id), \
                 count(*) filter (where epoch_ns(ts_end) - epoch_ns(ts_start) = dur_ns), \
                 count(*) filter (where contains(src_ip, ':') = (ip_v = 6)) from {}";
    let sums: Vec<u64> = duckdb(python, &parquet, query)
        .iter()
        .map(|sum| sum.as_u64().or_else(|| sum.as_str()?.parse().ok()).unwrap())
        .collect();
    let records = summary["flows"].as_u64().unwrap();
    let sessions = summary["sessions"].as_array().unwrap();
    let truncated: u64 = sessions
        .iter()
        .map(|session| session["truncated"].as_u64().unwrap())
        .sum();
    let text = fs::read_to_string(&lines).unwrap();
    let bytes = json_lines(&text).into_iter().map(|record| {
        record["cap_bytes_o"].as_u64().unwrap() + record["cap_bytes_r"].as_u64().unwrap()
    });
    let delivered = summary["delivered"].as_u64().unwrap();
    let expected = [
        records,
        delivered,
        bytes.sum(),
        truncated,
        records,
        records,
        records,
    ];
    assert_eq!(sums, expected);
    assert_eq!(records, 70_000);
    let read = pyarrow(python, "", std::slice::from_ref(&parquet)).remove(0);
    assert_eq!(read.groups, [65_536, 70_000 - 65_536]);
    let [lines, parquet] = [lines, parquet].map(|path| fs::metadata(path).unwrap().len());
    assert!(parquet * 10 < lines, "{parquet} of {lines}");
}

/// Writes a capture of generated packets.
fn generate(path: &Path, flows: &str, packets: &str) {
    let words = ["send", "--generate", "--to", "192.0.2.9", "--flows", flows];
    // Packets of a flow lie close together, so that no silence ends it.
    let more = ["--count", packets, "--pps", "1000000", "--write"];
    let words = words.into_iter().chain(more);
    let sent = vxtap(words.chain([path.to_str().unwrap()]));
    assert_eq!(sent.code, Some(0), "{}", sent.stderr);
}

/// A full disk keeps the row groups that fit, readable, under the hidden name; where none fits nothing is left. All
/// others are counted.
#[test]
fn a_full_disk_keeps_whole_row_groups() {
    let Some(python) = python() else {
        return;
    };
    let place = Place::new();
    let input = place.0.path().join("in.pcap");
    generate(&input, "70000", "70000");
    let (dir, run, _) = replay(std::slice::from_ref(&input), &["f.parquet"], &[]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let whole = fs::metadata(dir.path().join("f.parquet")).unwrap().len();
    let end = {
        let bytes = fs::read(dir.path().join("f.parquet")).unwrap();
        let [.., a, b, c, d, b'P', b'A', b'R', b'1'] = bytes[..] else {
            panic!("no Parquet")
        };
        u64::from(u32::from_le_bytes([a, b, c, d])) + 8
    };
    let blocks = |bytes: u64| bytes.div_ceil(512);
    for (limit, groups) in [
        (blocks(whole), Some(&[65_536, 70_000 - 65_536][..])),
        // There is room for all records, not for the end of the file.
        (blocks(whole - end + 600), Some(&[65_536][..])),
        // Of the second row group there is room for a part.
        (blocks(whole - end - 100_000), Some(&[65_536])),
        (blocks(whole / 4 * 3), Some(&[])),
        (1, None),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let flows = "--flows f.parquet --flows jsonl:/dev/null";
        let (run, summary) = limited(dir.path(), limit, flows, std::slice::from_ref(&input));
        assert_closes(&summary);
        let parquet = &summary["sinks"][0];
        let is_whole = groups.is_some_and(|groups| groups.len() == 2);
        assert_eq!(
            run.code,
            Some(if is_whole { 0 } else { 1 }),
            "{}",
            run.stderr
        );
        assert_eq!(dir.path().join("f.parquet").exists(), is_whole);
        let groups = groups.unwrap_or_default();
        let kept: usize = groups.iter().sum();
        assert_eq!(parquet["written"], kept, "{summary}");
        assert_eq!(summary["sinks"][1]["written"], 70_000);
        if is_whole {
            continue;
        }
        assert!(
            run.stderr
                .contains("cannot write f.parquet: File too large")
        );
        let part = dir.path().join(".f.parquet.part");
        assert_eq!(part.exists(), kept > 0, "{limit}");
        if kept > 0 {
            assert_eq!(
                pyarrow(python, "", std::slice::from_ref(&part))[0].groups,
                groups
            );
            assert_eq!(parquet["bytes"], fs::metadata(part).unwrap().len());
        }
    }
}

/// Files of a store are no larger than they may be, follow each other, and together have every record once.
#[test]
fn a_store_of_parquet_rotates() {
    let Some(python) = python() else {
        return;
    };
    let place = Place::new();
    let input = place.0.path().join("in.pcap");
    generate(&input, "30000", "60000");
    let store = place.store();
    let dir = format!("parquet:{}/", store.display());
    for (rotate, most) in [
        ("--rotate-size=3MB", 3_000_000),
        ("--rotate-packets=9000", u64::MAX),
    ] {
        let _ = fs::remove_dir_all(&store);
        let words = ["replay", input.to_str().unwrap(), "--flows", &dir, rotate];
        let done = vxtap(words);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        let files = assert_sound(&store);
        assert!((2..20).contains(&files.len()), "{}", files.len());
        let paths: Vec<PathBuf> = files.keys().map(|name| store.join(name)).collect();
        let mut ids = Vec::new();
        let mut row_groups = 0;
        for ((name, line), read) in files
            .iter()
            .zip(pyarrow(python, "ts_start,flow_id", &paths))
        {
            row_groups += read.groups.len();
            assert!(name.ends_with(".parquet"));
            assert!(line["bytes"].as_u64().unwrap() <= most, "{name}");
            assert_eq!(line["packets"], read.rows.len());
            let first = read.rows.iter().map(|row| &row["ts_start"]).min();
            assert_eq!(line["first"].as_str(), first.map(String::as_str));
            ids.extend(read.rows.into_iter().map(|row| row["flow_id"].clone()));
        }
        // What is on its way to a file is counted as if it could not be compressed, until it is written.
        assert_eq!(row_groups > files.len(), most < u64::MAX);
        assert_eq!(ids.len(), 30_000);
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 30_000);
        let path = store.to_str().unwrap();
        assert_eq!(vxtap(["verify", path]).code, Some(0));
        let listed = vxtap(["ls", "--json", path]);
        let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
        assert_eq!(listed["files"][0]["format"], "parquet");
    }
}

/// Without its end nobody can read what a killed run left: it is moved aside, and said so.
#[test]
fn parquet_of_a_killed_run_is_moved_aside() {
    let place = Place::new();
    let store = place.store();
    fs::create_dir(&store).unwrap();
    let name = "vxtap-flows_00004_20260115093000.parquet";
    fs::write(store.join(format!(".{name}.part")), "PAR1 and something").unwrap();
    let demo = testdata("demo.pcap");
    let flows = format!("parquet:{}", store.display());
    let done = vxtap(["replay", demo.to_str().unwrap(), "--flows", &flows]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(
        done.stderr
            .contains("Parquet cannot be read without its end"),
        "{}",
        done.stderr
    );
    assert!(store.join("quarantine").join(name).exists());
}

/// However a run ends, its file can be read and has what was counted.
#[test]
fn every_end_of_a_run_ends_the_file() {
    let Some(python) = python() else {
        return;
    };
    let signals = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
    for signal in signals.map(Some).into_iter().chain([None]) {
        let place = Place::new();
        let flows = place.0.path().join("f.parquet");
        let limit: &[&str] = match signal {
            Some(_) => &[],
            None => &["--count", "400"],
        };
        let flags = [&["--flows", flows.to_str().unwrap()], limit].concat();
        let mut listening = place.listen_only(&flags, |_| ());
        listening.feed(500, 10_000);
        if let Some(signal) = signal {
            listening.signal(signal);
        }
        wait_until(|| listening.child.try_wait().unwrap().is_some());
        assert_eq!(listening.child.wait().unwrap().code(), Some(0));
        let summary = place.summary();
        let read = pyarrow(python, "flow_id", &[flows]).remove(0);
        assert_eq!(summary["flows"], read.rows.len(), "{signal:?}");
        assert!(!read.rows.is_empty());
    }
}

/// Binary data goes through a pipe, and not to a terminal.
#[test]
fn parquet_goes_through_a_pipe() {
    let Some(python) = python() else {
        return;
    };
    let (dir, run, _) = replay(&[testdata("demo.pcap")], &["parquet:-", "f.parquet"], &[]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let piped = dir.path().join("piped");
    fs::write(&piped, &run.stdout).unwrap();
    assert_eq!(run.stdout, fs::read(dir.path().join("f.parquet")).unwrap());
    assert!(!pyarrow(python, "flow_id", &[piped])[0].rows.is_empty());
}

/// The JSON Schema is one, and every golden record fits it; the elements of IPFIX are those that IANA registers.
#[test]
fn the_schema_and_the_elements_are_what_others_say() {
    const JUDGE: &str = "
import importlib.util, json, os, re, sys
import jsonschema
schema = json.load(open('docs/flow-record.schema.json'))
validator = jsonschema.validators.validator_for(schema)
validator.check_schema(schema)
judge = validator(schema, format_checker=validator.FORMAT_CHECKER)
for path in sys.argv[1:]:
    for line in open(path):
        judge.validate(json.loads(line))
        record = json.loads(line)
        record['src_ip'] = '10.0.0.256'
        assert not judge.is_valid(record), 'formats are not looked at'
folder = os.path.dirname(importlib.util.find_spec('ipfix').origin)
elements = {}
for line in open(os.path.join(folder, 'iana.iespec')):
    found = re.match(r'(\\w+)\\((\\d+)\\)<\\w+>\\[(\\d+)\\]', line)
    if found:
        elements[found.group(2)] = [found.group(1), int(found.group(3))]
json.dump(elements, sys.stdout)
";
    let Some(python) = python() else {
        return;
    };
    let golden = readable_names().map(|name| testdata(&format!("golden/{name}.jsonl")));
    let mut command = Command::new(python);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    let judged = run(command.args(["-c", JUDGE]).args(golden));
    assert_eq!(judged.code, Some(0), "{}", judged.stderr);
    let registered: BTreeMap<u16, (String, u16)> = serde_json::from_slice(&judged.stdout).unwrap();
    let mut found = 0;
    for element in COLUMNS.iter().flat_map(|column| column.ipfix.elements()) {
        // What came behind 433 is not in that list.
        if element.enterprise != Some(OWN_ENTERPRISE) && element.number <= 433 {
            let (name, len) = &registered[&element.number];
            assert_eq!((element.name, element.len), (name.as_str(), *len));
            found += 1;
        }
    }
    assert!(found > 30, "{found}");
}
