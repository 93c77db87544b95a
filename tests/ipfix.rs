//! IPFIX: what collectors that nobody here wrote read of it, and what becomes of records when they are away.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::collectors::{
    Elements, Nfacctd, Nfcapd, UdpCollector, capture, flow_of, free_port, ipfix_dump, messages,
    one_connection, read_some,
};
use common::store::{Place, assert_sound};
use common::{
    Run, Running, assert_closes, complaints, flags_for, json_lines, readable_names, run, testdata,
    tool, vxtap_command,
};
use serde_json::Value;
use tempfile::TempDir;
use vxtap::flow::columns::{COLUMNS, Column, Element, Ipfix, Kind};

/// A replay with flow records to `to` and as JSON lines.
struct Exported {
    dir: TempDir,
    run: Run,
    summary: Value,
    records: Vec<Value>,
}

impl Exported {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The account of the collector.
    fn sink(&self) -> &Value {
        let sinks = self.summary["sinks"].as_array().unwrap();
        let is_it = |sink: &&Value| sink["path"].as_str().unwrap().contains("://");
        sinks.iter().find(is_it).unwrap()
    }
}

fn export(captures: &[PathBuf], to: &str, flags: &[&str]) -> Exported {
    let dir = tempfile::tempdir().unwrap();
    let mut command = vxtap_command(["replay"]);
    command.current_dir(dir.path()).args(captures).args(flags);
    let outputs = ["--flows", to, "--flows", "f.jsonl", "--summary", "s.json"];
    let run = run(command.args(outputs));
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap_or_default();
    let summary = serde_json::from_str(&read("s.json")).unwrap_or_default();
    let records = json_lines(&read("f.jsonl"));
    Exported {
        run,
        summary,
        records,
        dir,
    }
}

/// A capture of so many flows, made for a test.
struct Generated(TempDir);

impl Generated {
    fn new(flows: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (flows, packets) = (flows.to_string(), (2 * flows).to_string());
        let mut command = vxtap_command(["send", "--generate", "--to", "10.0.0.1"]);
        command.args(["--flows", &flows, "--count", &packets, "--write"]);
        let made = run(command.arg(dir.path().join("g.pcap")));
        assert_eq!(made.code, Some(0), "{}", made.stderr);
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("g.pcap")
    }
}

/// What a collector over TCP gets of a capture of `testdata/`.
fn over_tcp(name: &str, flags: &[&str]) -> (Exported, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = format!("ipfix+tcp://{}", listener.local_addr().unwrap());
    let stream = one_connection(listener);
    let flags = [flags_for(name), flags].concat();
    let exported = export(&[testdata(name)], &to, &flags);
    assert_eq!(
        exported.run.code,
        Some(0),
        "{name}: {}",
        exported.run.stderr
    );
    assert_closes(&exported.summary);
    assert_eq!(exported.sink()["written"], exported.records.len());
    let stream = stream.join().unwrap();
    assert_eq!(exported.sink()["bytes"], stream.len());
    (exported, stream)
}

/// libfixbuf reads every field of every record, names those of our enterprise by the types that were sent, and has what the
/// JSON lines have; what these lack is not there.
#[test]
fn libfixbuf_reads_what_json_lines_say() {
    if !tool("ipfixDump") {
        return;
    }
    let mut records = 0;
    for name in readable_names() {
        let (exported, stream) = over_tcp(&name, &["-w", "c.pcapng"]);
        let file = exported.path("stream");
        fs::write(&file, stream).unwrap();
        let (flows, options) = ipfix_dump(&file);
        assert_eq!(flows.len(), exported.records.len(), "{name}");
        for (flow, record) in flows.iter().zip(&exported.records) {
            assert_says(flow, record);
        }
        // Totals come last: what was sent before them, and nothing lost.
        let totals = options.last().unwrap();
        let total = |number: u16| totals[&(None, number)].1.parse::<usize>().unwrap();
        assert_eq!(total(42), flows.len(), "{name}");
        assert_eq!(total(166), 0, "{name}");
        let summary = &exported.summary;
        let not_ip = summary["noted"]["inner_not_ip"]
            .as_u64()
            .unwrap_or_default();
        let ignored =
            summary["received"].as_u64().unwrap() - summary["delivered"].as_u64().unwrap();
        assert_eq!(total(164) as u64, ignored + not_ip, "{name}");
        records += flows.len();
    }
    assert!(records > 100, "{records}");
}

/// A flow of IPFIX says what a JSON line says, field by field.
fn assert_says(flow: &Elements, record: &Value) {
    let mut elements = flow.clone();
    for column in COLUMNS {
        let Some(value) = record.get(column.name) else {
            for Element {
                enterprise, number, ..
            } in column.ipfix.elements()
            {
                assert!(
                    !flow.contains_key(&(enterprise, number)),
                    "{}: {flow:?}",
                    column.name
                );
            }
            continue;
        };
        let Some(element) = element_of(column, value, record) else {
            continue;
        };
        let said = elements.remove(&(element.enterprise, element.number));
        let Some((name, said)) = said else {
            panic!("{} is missing: {flow:?}", column.name);
        };
        assert!(
            name.eq_ignore_ascii_case(element.name)
                || name.eq_ignore_ascii_case(&format!("reverse{}", element.name)),
            "{name}"
        );
        assert_eq!(
            as_json(column.kind, &said, value),
            *value,
            "{} of {flow:?}",
            column.name
        );
    }
    // What is left stands in no column: times in milliseconds, and the direction.
    let left: Vec<u16> = elements.keys().map(|(_, number)| *number).collect();
    assert_eq!(left, [152, 153, 239]);
    let cut = |time: &Value| time.as_str().unwrap()[..23].replace('T', " ");
    assert_eq!(elements[&(None, 152)].1, cut(&record["ts_start"]));
    assert_eq!(elements[&(None, 153)].1, cut(&record["ts_end"]));
    assert_eq!(elements[&(None, 239)].1, "1");
}

/// The element that says the value of a column.
fn element_of(column: &Column, value: &Value, record: &Value) -> Option<Element> {
    match column.ipfix {
        Ipfix::None => None,
        Ipfix::One(element) => Some(element),
        Ipfix::ByVersion { v4, v6 } => {
            let address = value[0].as_str().or(value.as_str());
            let is_v6 = match address {
                Some(address) => address.contains(':'),
                None => record["ip_v"] == 6,
            };
            Some(if is_v6 { v6 } else { v4 })
        }
    }
}

/// What libfixbuf prints as a value of JSON.
fn as_json(kind: Kind, said: &str, json: &Value) -> Value {
    let address = || said.parse::<IpAddr>().unwrap().to_string();
    match kind {
        // ipfixDump 2.4.1 prints no fraction of a second of these; tshark does.
        Kind::Time => {
            let seconds = said[..19].replace(' ', "T");
            let fraction = &json.as_str().unwrap()[19..];
            format!("{seconds}{fraction}").into()
        }
        Kind::Id => format!("{:016x}", said.parse::<u64>().unwrap()).into(),
        Kind::Text | Kind::Mac => said.into(),
        Kind::Direction => ["in", "out"][said.parse::<usize>().unwrap()].into(),
        Kind::Address => address().into(),
        Kind::Addresses => vec![address()].into(),
        // The upper byte says VXLAN.
        Kind::U32 if said.parse::<u64>().unwrap() >> 56 == 1 => {
            (said.parse::<u64>().unwrap() & 0x00ff_ffff).into()
        }
        _ => {
            assert!(json.is_u64());
            said.parse::<u64>()
                .unwrap_or_else(|_| panic!("{said}"))
                .into()
        }
    }
}

/// tshark decodes every message, over UDP and over TCP, and finds nothing to complain about; none over UDP is longer than
/// 1400 bytes.
#[test]
fn tshark_has_no_complaint() {
    if !tool("tshark") {
        return;
    }
    let mut exporters = Vec::new();
    let mut flows = 0;
    let mut starts = Vec::new();
    for name in readable_names() {
        let udp = UdpCollector::start();
        let to = format!("ipfix://127.0.0.1:{}", udp.port);
        let exported = export(&[testdata(&name)], &to, flags_for(&name));
        assert_eq!(
            exported.run.code,
            Some(0),
            "{name}: {}",
            exported.run.stderr
        );
        assert_closes(&exported.summary);
        assert_eq!(exported.sink()["written"], exported.records.len());
        flows += 2 * exported.records.len();
        let time = |record: &Value| record["ts_start"].as_str().unwrap()[11..29].to_owned();
        starts.extend((0..2).flat_map(|_| exported.records.iter().map(time)));
        let datagrams = udp.end();
        let longest = datagrams.iter().map(Vec::len).max().unwrap();
        assert!(longest <= 1400, "{name}: {longest}");
        let (_, stream) = over_tcp(&name, &[]);
        exporters.extend([datagrams, messages(&stream)]);
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.pcap");
    fs::write(&path, capture(&exporters)).unwrap();
    let read = |args: &[&str]| {
        let done = run(Command::new("tshark").arg("-r").arg(&path).args(args));
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        assert_eq!(complaints(&done.stderr), "");
        String::from_utf8(done.stdout).unwrap()
    };
    let expert = [
        "-Y",
        "_ws.expert or _ws.malformed",
        "-T",
        "fields",
        "-e",
        "_ws.expert.message",
        "-e",
        "frame.number",
    ];
    assert_eq!(read(&expert), "");
    // Each record is decoded: none lacks its template. tshark tells its times twice, to the nanosecond and to the millisecond.
    let values = |field: &str| {
        let fields = [
            "-T",
            "fields",
            "-E",
            "occurrence=a",
            "-E",
            "aggregator=|",
            "-e",
            field,
        ];
        let text = read(&fields);
        let values = text.lines().flat_map(|line| line.split('|'));
        let values = values.filter(|value| !value.is_empty());
        values.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(values("cflow.flow_id").len(), flows);
    let told = values("cflow.abstimestart");
    // "Jan 15, 2026 09:30:00.002002000 UTC", from which tshark may have lost a nanosecond.
    let clock = |time: &str| {
        let [hours, minutes, seconds] =
            [0..2, 3..5, 6..8].map(|at| time[at].parse::<u64>().unwrap());
        ((hours * 60 + minutes) * 60 + seconds) * 1_000_000_000 + time[9..].parse::<u64>().unwrap()
    };
    let told = told.iter().step_by(2);
    let told: Vec<&str> = told
        .map(|time| time.split(' ').rev().nth(1).unwrap())
        .collect();
    assert_eq!(told.len(), starts.len());
    for (told, start) in told.iter().zip(&starts) {
        assert!(clock(told).abs_diff(clock(start)) <= 1, "{told} {start}");
    }
}

/// The records of a capture, as far as collectors have them too.
fn flows_of(records: &[Value]) -> Vec<(common::collectors::Flow, u64, u64)> {
    let mut flows: Vec<_> = records.iter().map(flow_of).collect();
    flows.sort();
    flows
}

/// Captures for collectors: names of elements that they do not know are passed over.
const COLLECTED: [&str; 5] = [
    "demo.pcap",
    "app-names.pcap",
    "inner-vlan.pcap",
    "inner-sctp-gre.pcap",
    "both-ends.pcap",
];

#[test]
fn nfcapd_collects_the_flows() {
    if !tool("nfcapd") || !tool("nfdump") {
        return;
    }
    let collector = Nfcapd::start();
    let to = format!("ipfix://127.0.0.1:{}", collector.port);
    let exported = export(&COLLECTED.map(testdata), &to, &[]);
    assert_eq!(exported.run.code, Some(0), "{}", exported.run.stderr);
    let mut collected = collector.end();
    collected.sort();
    assert!(collected.len() > 40);
    assert_eq!(collected, flows_of(&exported.records));
}

/// It reads the direction of the originator alone.
#[test]
fn nfacctd_collects_the_flows() {
    if !tool("nfacctd") {
        return;
    }
    let collector = Nfacctd::start();
    let to = format!("ipfix://127.0.0.1:{}", collector.port);
    // Of the last one it makes one flow of two: they are the same under two VNIs.
    let captures: Vec<PathBuf> = COLLECTED[..4].iter().map(|name| testdata(name)).collect();
    let exported = export(&captures, &to, &[]);
    assert_eq!(exported.run.code, Some(0), "{}", exported.run.stderr);
    let (mut collected, complaints) = collector.end();
    assert_eq!(complaints, Vec::<String>::new());
    collected.sort();
    let expected: Vec<_> = flows_of(&exported.records)
        .into_iter()
        .map(|(flow, ..)| flow)
        .collect();
    assert_eq!(collected, expected);
}

/// Where nobody listens, records are counted and the exit code says so.
#[test]
fn a_collector_that_is_not_there() {
    let port = free_port();
    for (scheme, advice) in [
        ("ipfix", "is the collector running"),
        ("ipfix+tcp", "is the collector running"),
    ] {
        let to = format!("{scheme}://127.0.0.1:{port}");
        let exported = export(&[testdata("demo.pcap")], &to, &[]);
        assert_eq!(exported.run.code, Some(1), "{}", exported.run.stderr);
        assert_closes(&exported.summary);
        let sink = exported.sink();
        assert_eq!(
            sink["dropped"]["collector"],
            exported.records.len(),
            "{sink}"
        );
        assert_eq!(exported.records.len(), 17);
        let said = &exported.run.stderr;
        assert!(said.contains(&to) && said.contains(advice), "{said}");
    }
}

/// Over TCP a collector may come late, and may go away in the middle: every record arrives, those that were not
/// acknowledged once more, each connection begins with templates, and sequence numbers begin anew.
#[test]
fn connections_break_and_nothing_is_lost() {
    if !tool("ipfixDump") {
        return;
    }
    // Nobody listens at first.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let dir = tempfile::tempdir().unwrap();
    let generated = Generated::new(20_000);
    let collector = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(600));
        let listener = TcpListener::bind(address).unwrap();
        let leave_after = [0, 100_000, 1_000_000, usize::MAX];
        leave_after.map(|bytes| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut part = read_some(&mut stream, bytes);
            // What is on its way was acknowledged, so it is read.
            let _ = stream.shutdown(Shutdown::Write);
            part.extend(read_some(&mut stream, usize::MAX));
            part
        })
    });
    let to = format!("ipfix+tcp://{address}");
    let exported = export(&[generated.path()], &to, &[]);
    assert_eq!(exported.run.code, Some(0), "{}", exported.run.stderr);
    assert_closes(&exported.summary);
    let records = exported.records.len();
    assert_eq!(exported.sink()["written"], records);
    // Where it needed fewer connections, nobody else comes.
    while !collector.is_finished() {
        let _ = TcpStream::connect(address);
    }
    let mut ids = BTreeSet::new();
    let mut connections = 0;
    for (at, part) in collector.join().unwrap().into_iter().enumerate() {
        let messages = messages(&part);
        let file = dir.path().join(format!("{at}"));
        fs::write(&file, messages.concat()).unwrap();
        if messages.is_empty() {
            continue;
        }
        connections += 1;
        assert_eq!(messages[0][8..12], [0; 4]);
        let (flows, _) = ipfix_dump(&file);
        ids.extend(flows.iter().map(|flow| flow[&(None, 148)].1.clone()));
    }
    assert_eq!(ids.len(), records);
    assert!(connections >= 2, "{connections}");
}

/// The collector of `scripts/`, made from libfixbuf, in `dir`; says so when it cannot be made.
fn compiled_collector(dir: &Path) -> Option<PathBuf> {
    if !tool("cc") || !tool("pkg-config") {
        return None;
    }
    let flags = run(Command::new("pkg-config").args(["--cflags", "--libs", "libfixbuf"]));
    if flags.code != Some(0) {
        eprintln!("skipped: libfixbuf's headers are not installed");
        return None;
    }
    let flags = String::from_utf8(flags.stdout).unwrap();
    let program = dir.join("ipfix-collector");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/ipfix-collector.c");
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"]);
    let made = run(cc.arg(&program).arg(source).args(flags.split_whitespace()));
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    Some(program)
}

/// A collector over TCP that nobody here wrote has the sums of the JSON lines, and finds nothing to say of sequence numbers.
#[test]
fn libfixbuf_collects_over_tcp() {
    let dir = tempfile::tempdir().unwrap();
    let Some(program) = compiled_collector(dir.path()) else {
        return;
    };
    let generated = Generated::new(5000);
    let port = free_port().to_string();
    let mut command = Command::new(program);
    command
        .arg(&port)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let collector = Running::start(&mut command);
    let captures = [generated.path(), testdata("demo.pcap")];
    let exported = export(&captures, &format!("ipfix+tcp://127.0.0.1:{port}"), &[]);
    assert_eq!(exported.run.code, Some(0), "{}", exported.run.stderr);
    let said = collector.wait_with_output();
    assert_eq!(String::from_utf8_lossy(&said.stderr), "");
    let sums: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(sums["flows"], exported.records.len());
    for name in ["pkts_o", "pkts_r", "ip_bytes_o", "ip_bytes_r"] {
        let values = exported
            .records
            .iter()
            .map(|record| record[name].as_u64().unwrap());
        assert_eq!(sums[name], values.sum::<u64>(), "{name}");
    }
}

/// What is wrong with the place of a collector is told before anything begins.
#[test]
fn places_that_are_none() {
    for (to, words) in [
        ("ipfix://", "the host is missing"),
        ("ipfix://127.0.0.1:0", "'0' is no port"),
        ("ipfix+tcp://::1:4739", "stands in brackets"),
        ("ipfix://127.0.0.1?transport=tcp", "ipfix+tcp://"),
        ("netflow://127.0.0.1", "leads to no collector"),
    ] {
        let exported = export(&[testdata("demo.pcap")], to, &[]);
        assert_eq!(exported.run.code, Some(2), "{}", exported.run.stderr);
        assert!(
            exported.run.stderr.contains(words),
            "{}",
            exported.run.stderr
        );
    }
    let unknown = export(
        &[testdata("demo.pcap")],
        "ipfix://no-such-host.invalid",
        &[],
    );
    assert_eq!(unknown.run.code, Some(1));
    assert!(
        unknown
            .run
            .stderr
            .contains("no-such-host.invalid has no address"),
        "{}",
        unknown.run.stderr
    );
}

/// A replay to files, with JSON lines beside.
fn to_files(captures: &[PathBuf], flows: &[&str], flags: &[&str]) -> (TempDir, Run, Vec<Value>) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = vxtap_command(["replay"]);
    command.current_dir(dir.path()).args(captures).args(flags);
    for name in flows.iter().chain(&["f.jsonl"]) {
        command.args(["--flows", name]);
    }
    let run = run(&mut command);
    let lines = fs::read_to_string(dir.path().join("f.jsonl")).unwrap_or_default();
    (dir, run, json_lines(&lines))
}

/// A file holds what a collector over TCP gets, and is the same with one worker and with three.
#[test]
fn files_say_what_json_lines_say() {
    if !tool("ipfixDump") {
        return;
    }
    let mut records = 0;
    for name in readable_names() {
        let files = ["1", "3"].map(|workers| {
            let flags = [flags_for(&name), &["--workers", workers]].concat();
            let flows = ["f.ipfix", "ipfix:g"];
            let (dir, run, lines) = to_files(&[testdata(&name)], &flows, &flags);
            assert_eq!(run.code, Some(0), "{name}: {}", run.stderr);
            let file = fs::read(dir.path().join("f.ipfix")).unwrap();
            assert_eq!(file, fs::read(dir.path().join("g")).unwrap(), "{name}");
            // Where there are no records, there are no messages.
            assert_eq!(file.is_empty(), lines.is_empty(), "{name}");
            if !file.is_empty() {
                let (flows, options) = ipfix_dump(&dir.path().join("f.ipfix"));
                assert_eq!(flows.len(), lines.len(), "{name}");
                for (flow, record) in flows.iter().zip(&lines) {
                    assert_says(flow, record);
                }
                let totals = options.iter().filter_map(|option| option.get(&(None, 42)));
                let totals: Vec<&str> = totals.map(|(_, flows)| flows.as_str()).collect();
                assert_eq!(totals, [lines.len().to_string()], "{name}");
                records += flows.len();
            }
            file
        });
        assert_eq!(files[0], files[1], "{name}");
    }
    assert!(records > 100, "{records}");
}

/// The files of a store stand each for itself.
#[test]
fn a_store_of_ipfix_rotates() {
    if !tool("ipfixDump") {
        return;
    }
    let place = Place::new();
    let store = place.store();
    let dir = format!("ipfix:{}/", store.display());
    let flags = ["--rotate-interval", "3s", "--whole-flows"];
    let (_dir, run, lines) = to_files(&[testdata("demo.pcap")], &[&dir], &flags);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let files = assert_sound(&store);
    assert_eq!(files.len(), 3);
    let mut ids = BTreeSet::new();
    for (name, line) in &files {
        assert!(name.ends_with(".ipfix"), "{name}");
        let (flows, _) = ipfix_dump(&store.join(name));
        assert_eq!(line["packets"], flows.len(), "{name}");
        ids.extend(flows.iter().map(|flow| flow[&(None, 148)].1.clone()));
    }
    assert_eq!(ids.len(), lines.len());
    let path = store.to_str().unwrap();
    assert_eq!(common::vxtap(["verify", path]).code, Some(0));
    let listed = common::vxtap(["ls", "--json", path]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed["files"][0]["format"], "ipfix");
}

/// What a killed run left is cut back to its last whole message.
#[test]
fn what_a_killed_run_left_is_finished() {
    let generated = Generated::new(300);
    let (dir, run, lines) = to_files(&[generated.path()], &["f.ipfix"], &[]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let bytes = fs::read(dir.path().join("f.ipfix")).unwrap();
    let ends: Vec<usize> = messages(&bytes)
        .iter()
        .scan(0, |end, message| {
            *end += message.len();
            Some(*end)
        })
        .collect();
    // What describes comes first, then records, then totals.
    assert!(ends.len() > 4, "{ends:?}");
    let of_all = lines.len() as u64;
    let (mut kept, mut wholes) = (Vec::new(), Vec::new());
    for cut in [
        bytes.len(),
        ends[ends.len() - 2] + 3,
        ends[2] + 1,
        ends[1],
        ends[0],
        10,
    ] {
        let place = Place::new();
        let store = place.store();
        fs::create_dir(&store).unwrap();
        let left = store.join(".vxtap-flows_00004_20260115093000.ipfix.part");
        fs::write(&left, &bytes[..cut]).unwrap();
        let to = format!("ipfix:{}", store.display());
        let (_dir, run, _) = to_files(&[testdata("demo.pcap")], &[&to], &[]);
        assert_eq!(run.code, Some(0), "{cut}: {}", run.stderr);
        let files = assert_sound(&store);
        let recovered = files.values().find(|line| line["reason"] == "recovered");
        kept.push(recovered.map(|line| line["packets"].as_u64().unwrap()));
        wholes.push(recovered.map(|line| line["bytes"].as_u64().unwrap() as usize));
        if let Some(line) = recovered {
            let begins = line["first"].as_str().unwrap();
            assert_eq!(begins, lines[0]["ts_start"]);
        }
    }
    let at = |end: usize| Some(ends[end]);
    assert_eq!(wholes[..3], [at(ends.len() - 1), at(ends.len() - 2), at(2)]);
    assert_eq!(kept[..2], [Some(of_all), Some(of_all)]);
    assert!(kept[2].is_some_and(|kept| kept > 0 && kept < of_all));
    // Without a record there is nothing to keep.
    assert_eq!(kept[4..], [None, None]);
}

/// A full disk keeps whole messages, and their records are those that count as written.
#[test]
fn a_full_disk_keeps_whole_messages() {
    if !tool("ipfixDump") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script =
        "trap '' XFSZ; ulimit -f 120; exec \"$@\" --flows f.ipfix --flows /dev/null --summary -";
    let mut command = Command::new("sh");
    command.current_dir(dir.path());
    command.args(["-c", script, "sh", common::VXTAP, "replay"]);
    let generated = Generated::new(1000);
    let run = run(command.arg(generated.path()));
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    let summary: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_closes(&summary);
    let part = dir.path().join(".f.ipfix.part");
    let bytes = fs::read(&part).unwrap();
    assert_eq!(messages(&bytes).concat(), bytes);
    let (flows, _) = ipfix_dump(&part);
    let sink = &summary["sinks"][0];
    assert_eq!(sink["written"], flows.len());
    assert!(
        !flows.is_empty() && sink["dropped"]["write"].as_u64().unwrap() > 0,
        "{sink}"
    );
}

/// Neither a collector that takes nothing nor one that is not there costs a run a packet, or keeps it from ending; what they
/// did not take is counted.
#[test]
fn slow_and_absent_collectors_do_not_hold_a_run_up() {
    // Nobody accepts: the kernel does, until its buffers are full.
    let stuck = TcpListener::bind("127.0.0.1:0").unwrap();
    let stuck = format!("ipfix+tcp://{}", stuck.local_addr().unwrap());
    let absent = TcpListener::bind("127.0.0.1:0").unwrap();
    let absent_address = absent.local_addr().unwrap();
    drop(absent);
    let udp = UdpCollector::start();
    let [absent, udp_to] = [
        format!("ipfix+tcp://{absent_address}"),
        format!("ipfix://127.0.0.1:{}", udp.port),
    ];
    let place = Place::new();
    let flags = [
        "--flows",
        &stuck,
        "--flows",
        &absent,
        "--flows",
        &udp_to,
        "--idle-timeout",
        "udp=1s",
    ];
    let mut listening = place.listen(&flags);
    listening.feed(60_000, 20_000);
    listening.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(listening.child.wait().unwrap().code(), Some(1));
    let summary = place.summary();
    let count = |value: &Value| value.as_u64().unwrap_or_default();
    let kernel_dropped = common::reasons(&summary, "kernel_dropped");
    let seen = count(&summary["delivered"]) + kernel_dropped.values().sum::<u64>();
    assert_eq!(seen, 60_000, "{summary}");
    assert_eq!(
        summary["sinks"][0]["written"], summary["delivered"],
        "{summary}"
    );
    let sink = |name: &str| {
        let sinks = summary["sinks"].as_array().unwrap();
        sinks.iter().find(|sink| sink["path"] == name).unwrap()
    };
    let flows = &summary["flows"];
    assert_eq!(sink(&absent)["dropped"]["collector"], *flows);
    let udp_sink = sink(&udp_to);
    assert_eq!(
        count(&udp_sink["written"]) + count(&udp_sink["dropped"]["queue"]),
        count(flows)
    );
    assert!(
        place.said().contains("is the collector running"),
        "{}",
        place.said()
    );
    let datagrams = udp.end();
    assert!(datagrams.len() > 100);
}
