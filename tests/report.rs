//! `vxtap report`: its figures are those of the summary of the same input, in text, JSON and HTML alike; of captures,
//! stores and summaries.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use common::files::shift;
use common::{Replayed, Run, Running, replay, run, testdata, tool, vxtap};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A name that a browser would run.
const SCRIPT: &str = "<script>alert(\"1\")</script> & 'co'";

/// Captures of mirror sessions that are cut, and what to call them.
struct Scene {
    dir: TempDir,
    files: Vec<String>,
}

impl Scene {
    /// A session of 96 bytes, MTUs of 1500 and 8500, and a session whose cut changes midway.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut scene = Self {
            dir,
            files: Vec::new(),
        };
        scene.mirror(101, 0, "--packet-length 96 --flows 50");
        scene.mirror(102, 0, "--mtu 1500 --frame-size 60-1514 --flows 80");
        scene.mirror(103, 0, "--mtu 8500 --frame-size 64-8900 --flows 20");
        for (begin_s, flags) in [
            (0, "--packet-length 96"),
            (10, "--packet-length 200"),
            (20, ""),
        ] {
            scene.mirror(104, begin_s, &format!("{flags} --frame-size 600"));
        }
        let labels = format!(
            "vni,name,account\n101,\"{}\",\"a,b\"\n",
            SCRIPT.replace('"', "\"\"")
        );
        fs::write(scene.path("labels.csv"), labels).unwrap();
        scene
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// 4,000 packets in ten seconds.
    fn mirror(&mut self, vni: u32, begin_s: u32, flags: &str) {
        let [made, shifted] =
            ["made", "at"].map(|name| self.path(&format!("{name}-{vni}-{begin_s}.pcap")));
        let (vni, source) = (vni.to_string(), format!("10.0.1.{vni}"));
        let mut args = vec!["send", "--generate", "--count", "4000", "--pps", "400"];
        args.extend([
            "--to", "10.0.0.9", "--write", &made, "--vni", &vni, "--source", &source,
        ]);
        args.extend(flags.split_whitespace());
        assert_eq!(vxtap(&args).code, Some(0));
        shift(&made, &shifted, begin_s);
        self.files.push(shifted);
    }

    fn with(&self, command: &str, flags: &[&str]) -> Vec<String> {
        let mut args: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        args.extend(self.files.iter().cloned());
        args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        args.extend(["--labels".to_owned(), self.path("labels.csv")]);
        args
    }

    fn report(&self, flags: &[&str]) -> Run {
        report(&self.with("report", flags))
    }

    fn replay(&self, flags: &[&str]) -> Replayed {
        replay(self.with("", flags))
    }
}

fn report<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Run {
    let done = vxtap(args);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    done
}

fn json_of(run: &Run) -> Value {
    serde_json::from_slice(&run.stdout).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value}"))
}

/// Without what a replay and a report of it tell differently: a report writes no capture, which would be out of order.
fn figures(told: &Value) -> Value {
    let mut told = told.clone();
    told["noted"]
        .as_object_mut()
        .unwrap()
        .remove("out_of_order");
    for only in ["input", "top", "remarks"] {
        told.as_object_mut().unwrap().remove(only);
    }
    told
}

#[test]
fn figures_are_those_of_the_summary() {
    let scene = Scene::new();
    let replayed = scene.replay(&[]);
    let told = json_of(&scene.report(&["--json"]));
    for name in [
        "sessions",
        "received",
        "delivered",
        "malformed",
        "filtered",
        "dropped",
    ] {
        assert_eq!(told[name], replayed.summary[name], "{name}");
    }
    let three = json_of(&scene.report(&["--json", "--workers", "3"]));
    assert_eq!(told, three);
    let sessions = replayed.sessions();
    for name in [
        "packets",
        "bytes",
        "truncated",
        "missing_bytes",
        "suspect",
        "oversize",
    ] {
        let sum: u64 = sessions.iter().map(|session| number(&session[name])).sum();
        assert_eq!(told["total"][name], sum, "{name}");
    }
    assert_eq!(told["total"]["sessions_cut"], 4);

    // A summary tells the same, but for flows, which it does not have; and what the report printed tells all of it.
    let summary = replayed.dir.path().join("out.json");
    let of_summary = json_of(&report(&["report", summary.to_str().unwrap(), "--json"]));
    assert_eq!(figures(&of_summary), figures(&told));
    assert_eq!(of_summary.get("top"), None);
    let audit = scene.path("audit.json");
    fs::write(&audit, told.to_string()).unwrap();
    let of_audit = json_of(&report(&["report", &audit, "--json"]));
    assert_eq!(
        (&of_audit["top"], figures(&of_audit)),
        (&told["top"], figures(&told))
    );

    // A store of the same packets, and one file of them, keep the sessions.
    let (store, file) = (scene.path("store/"), replayed.capture());
    fs::create_dir(&store).unwrap();
    let stored = vxtap(scene.with("replay", &["-w", &store, "--rotate-packets", "3000"]));
    assert_eq!(stored.code, Some(0), "{}", stored.stderr);
    for input in [store.trim_end_matches('/'), file.to_str().unwrap()] {
        let of_ours = json_of(&report(&["report", input, "--json"]));
        for name in [
            "packets",
            "bytes",
            "truncated",
            "missing_bytes",
            "first_seen",
            "last_seen",
        ] {
            assert_eq!(
                of_ours["total"][name], told["total"][name],
                "{input} {name}"
            );
        }
        for (ours, session) in list(&of_ours["sessions"]).iter().zip(sessions) {
            for name in [
                "vni",
                "source",
                "packets",
                "truncated",
                "cut_size",
                "sizes",
                "over_time",
                "changes",
            ] {
                assert_eq!(ours[name], session[name], "{input} {name}");
            }
        }
    }
}

/// The cause, the number and the sentence of each session.
#[test]
fn text_says_cause_number_and_remedy() {
    let scene = Scene::new();
    let text = String::from_utf8(scene.report(&[]).stdout).unwrap();
    let words = text
        .replace("\n  > ", " ")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let told = json_of(&scene.report(&["--json"]));
    let total = &told["total"];
    for part in [
        format!("{} of {} packets", total["truncated"], total["packets"]),
        "in 4 of 4 mirror sessions".to_owned(),
        "cause session packet length of 96 bytes".to_owned(),
        "packet length is set to 96. Raise it in the cloud console".to_owned(),
        "cause MTU of 1500".to_owned(),
        "an MTU of 1500 cuts them. Raise the MTU between mirror source and target to 1550"
            .to_owned(),
        "cause MTU of 8500".to_owned(),
        "lower the mirrored interface's MTU to 8450".to_owned(),
        "What is cut changed over time in: VNI 104 from 10.0.1.104.".to_owned(),
        "cut packets keep 200 bytes; 96 before.".to_owned(),
        "0.0 % of the packets arrive cut; 100.0 % before.".to_owned(),
        "on session packet length of 200 bytes".to_owned(),
        format!("VNI 101 from 10.0.1.101 ({SCRIPT})"),
    ] {
        assert!(words.contains(&part), "{part}: {text}");
    }
    for session in list(&told["sessions"]) {
        let row = format!(
            "{} {} {}",
            session["truncated"],
            common_share(session),
            decimal_bytes(number(&session["missing_bytes"]))
        );
        assert!(words.contains(&row), "{row}: {text}");
        if let Some(advice) = session["advice"].as_str() {
            assert!(words.contains(advice), "{advice}: {text}");
        }
    }
    let mtu = list(&told["sessions"])
        .iter()
        .find(|session| session["vni"] == 103)
        .unwrap();
    assert_eq!(
        (&mtu["cut_by"], &mtu["cut_mtu"], &mtu["cut_size"]),
        (&json!("mtu"), &json!(8500), &json!(8464))
    );
}

fn common_share(session: &Value) -> String {
    let share =
        100.0 * session["truncated"].as_f64().unwrap() / session["packets"].as_f64().unwrap();
    format!("{share:.1} %")
}

fn decimal_bytes(bytes: u64) -> String {
    match bytes {
        0..1000 => format!("{bytes} B"),
        1000..1_000_000 => format!("{:.2} kB", bytes as f64 / 1e3),
        _ => format!("{:.2} MB", bytes as f64 / 1e6),
    }
}

/// Steps of the histogram hold as many frames as the capture, read by another program, has of these lengths.
#[test]
fn sizes_are_those_of_the_frames() {
    let scene = Scene::new();
    let replayed = scene.replay(&[]);
    let frames = replayed.frames();
    for session in replayed.sessions() {
        let interface = format!(
            "vni{}@{}",
            session["vni"],
            session["source"].as_str().unwrap()
        );
        let of_session: Vec<_> = frames
            .iter()
            .filter(|frame| frame.interface == interface)
            .collect();
        let sizes = &session["sizes"];
        let steps = list(&sizes["from"]).iter().zip(list(&sizes["to"]));
        let counts = list(&sizes["packets"])
            .iter()
            .zip(list(&sizes["truncated"]));
        let mut counted = 0;
        for ((from, to), (packets, truncated)) in steps.zip(counts) {
            let step = number(from)..=number(to);
            let held = of_session
                .iter()
                .filter(|frame| step.contains(&frame.orig_len.into()));
            let cut = held
                .clone()
                .filter(|frame| frame.bytes.len() < frame.orig_len as usize);
            let expected = (held.count() as u64, cut.count() as u64);
            assert_eq!(
                (number(packets), number(truncated)),
                expected,
                "{interface} {step:?}"
            );
            counted += expected.0;
        }
        assert_eq!(counted, of_session.len() as u64, "{interface}");
    }
}

/// The flows and protocols are those of the flow records.
#[test]
fn top_flows_are_those_of_the_records() {
    let input = testdata("demo.pcap");
    let told = json_of(&report(&["report", input.to_str().unwrap(), "--json"]));
    let replayed = replay([input.to_str().unwrap(), "--active-timeout", "off"]);
    let of = |flow: &Value, name: &str| {
        ["o", "r"]
            .iter()
            .map(|way| number(&flow[format!("{name}_{way}")]))
            .sum::<u64>()
    };
    let mut records: Vec<(u64, String)> = (replayed.flows.iter())
        .map(|flow| {
            (
                of(flow, "ip_bytes"),
                flow["flow_id"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    records.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
    let mut top: Vec<(u64, String)> = list(&told["top"]["flows"])
        .iter()
        .map(|flow| {
            (
                number(&flow["ip_bytes"]),
                flow["flow_id"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    assert!(top.is_sorted_by_key(|(bytes, _)| std::cmp::Reverse(*bytes)));
    records.truncate(20);
    records.sort();
    top.sort();
    assert_eq!(top, records);
    let mut protocols: BTreeMap<(u64, u64), [u64; 3]> = BTreeMap::new();
    for flow in &replayed.flows {
        let key =
            [&flow["proto"], &flow["dst_port"]].map(|value| value.as_u64().unwrap_or_default());
        let sums = protocols.entry(key.into()).or_default();
        let counts = ["pkts", "ip_bytes", "trunc_missing"].map(|name| of(flow, name));
        (0..3).for_each(|at| sums[at] += counts[at]);
    }
    for told in list(&told["top"]["protocols"]) {
        let key = [&told["proto"], &told["port"]].map(|value| value.as_u64().unwrap_or_default());
        let counts = ["packets", "ip_bytes", "missing_bytes"].map(|name| number(&told[name]));
        assert_eq!(protocols.remove(&key.into()), Some(counts), "{told}");
    }
    assert!(protocols.is_empty(), "{protocols:?}");
}

/// The page as Python's parser reads it; `None` where there is no Python.
fn read_page(html: &[u8]) -> Option<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/report.py");
    if !tool("python3") {
        eprintln!("skipped: python3 is not installed");
        return None;
    }
    let mut python = Command::new("python3");
    python
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut python = Running::start(&mut python);
    python.stdin.take().unwrap().write_all(html).unwrap();
    let done = python.wait_with_output();
    assert!(done.status.success(), "the page is not well-formed");
    Some(serde_json::from_slice(&done.stdout).unwrap())
}

/// The exact number of a cell: of its `data` element, or of its words.
fn exactly(cell: &Value) -> Value {
    let words = || cell[0].as_str().unwrap().parse::<u64>();
    cell[1]
        .as_u64()
        .map_or_else(|| words().map_or(cell[0].clone(), Value::from), Value::from)
}

/// The sections of a page by their titles.
type Sections<'a> = BTreeMap<&'a str, &'a Value>;

/// The rows of the first table of a section.
fn rows<'a>(sections: &Sections<'a>, title: &str) -> &'a [Value] {
    list(&sections[title]["tables"][0]["rows"])
}

/// Nothing in it needs a network, or runs.
fn assert_needs_nothing(page: &Value, text: &str) {
    assert_eq!(page["declared"], json!(["DOCTYPE html"]));
    for tag in ["script", "link", "img", "iframe", "object", "a"] {
        assert_eq!(page["tags"].get(tag), None, "<{tag}>");
    }
    for attribute in list(&page["attributes"]) {
        let name = attribute[1].as_str().unwrap();
        assert!(
            !name.starts_with("on") && !["src", "href"].contains(&name),
            "{attribute}"
        );
    }
    for words in ["http://", "https://", "url(", "@import", "<script"] {
        assert!(!text.contains(words), "{words}");
    }
}

/// Tables and plots are such that a screen reader can tell them.
fn assert_is_accessible(page: &Value) {
    for section in list(&page["sections"]) {
        for table in list(&section["tables"]) {
            let scopes = list(&table["scopes"]);
            assert!(
                scopes.iter().all(|scope| scope == "col" || scope == "row"),
                "{table}"
            );
        }
        for plot in list(&section["plots"]) {
            assert!(plot["title"] != "" && plot["description"] != "", "{plot}");
        }
    }
}

/// The table of sessions, and the section of each with its plots.
fn assert_sessions(sections: &Sections<'_>, told: &[Value]) {
    let columns = [
        (2, "packets"),
        (3, "bytes"),
        (4, "truncated"),
        (6, "missing_bytes"),
        (7, "suspect"),
        (8, "oversize"),
        (9, "largest_inner_ip"),
    ];
    let table = rows(sections, "Mirror sessions");
    for (row, session) in table.iter().skip(1).zip(told) {
        for (at, name) in columns {
            assert_eq!(exactly(&row[at]), session[name], "{name}");
        }
    }
    assert_eq!(table.len(), 1 + told.len());
    assert!(
        table[1][1][0].as_str().unwrap().contains(SCRIPT),
        "{}",
        table[1]
    );

    for session in told {
        let name = session["name"]
            .as_str()
            .map_or(String::new(), |name| format!(" ({name})"));
        let title = format!(
            "VNI {} from {}{name}",
            session["vni"],
            session["source"].as_str().unwrap()
        );
        let section = sections[title.as_str()];
        let texts = list(&section["texts"]);
        assert!(texts.contains(&session["advice"]), "{title}");
        let facts: BTreeMap<String, Value> = rows(sections, &title)
            .iter()
            .map(|row| (row[0][0].as_str().unwrap().to_owned(), row[1][0].clone()))
            .collect();
        assert_eq!(facts["bytes missing"], session["missing_bytes"].to_string());
        let share = format!("{} ({})", session["truncated"], common_share(session));
        assert_eq!(facts["truncated"], share);
        let sizes = &section["plots"][0];
        assert!(sizes["bars"]["cut"].as_u64() > Some(1), "{sizes}");
        let limit = match session["cut_by"].as_str() {
            Some("mtu") => format!(
                "MTU {}: {} bytes arrive",
                session["cut_mtu"], session["cut_size"]
            ),
            Some("session_packet_length") => format!("packet length {}", session["cut_size"]),
            _ => continue,
        };
        assert!(
            list(&sizes["texts"]).contains(&json!(limit)),
            "{limit}: {sizes}"
        );
    }
}

#[test]
fn the_page_is_well_formed_and_says_the_same_figures() {
    let scene = Scene::new();
    let file = scene.path("page.html");
    let list_of = scene.path("expect.csv");
    fs::write(&list_of, "vni,name\n101,\n102,\n103,\n999,gone\n").unwrap();
    let silent = ["--expect", &list_of, "--silent-after", "1h"];
    let made = scene.report(&[&["--html", &file, "--json"], &silent[..]].concat());
    let told = json_of(&made);
    let html = fs::read(&file).unwrap();
    let Some(page) = read_page(&html) else { return };

    assert_needs_nothing(&page, &String::from_utf8(html).unwrap());
    assert_is_accessible(&page);
    let sections: BTreeMap<&str, &Value> = list(&page["sections"])
        .iter()
        .map(|section| (section["title"].as_str().unwrap(), section))
        .collect();
    assert_sessions(&sections, list(&told["sessions"]));
    let over_time = list(&sections["Over time, all sessions"]["plots"]);
    assert_eq!(over_time.len(), 2);
    // 30 seconds, all with packets, of which 20 have cut ones.
    assert!(
        over_time[0]["bars"]["whole"] == 30 && over_time[1]["bars"]["cut"] == 20,
        "{over_time:?}"
    );

    // What was expected.
    let expected = rows(&sections, "Expected sessions");
    let words = |at: usize| [0, 1].map(|cell| expected[at][cell][0].as_str().unwrap().to_owned());
    assert_eq!(words(1), ["nothing came", "VNI 999 from anywhere (gone)"]);
    assert_eq!(words(2), ["not expected", "VNI 104 from 10.0.1.104"]);
    assert_eq!(expected.len(), 3);

    // Flows and the ledger.
    let flows = rows(&sections, "Top flows");
    for (row, flow) in flows.iter().skip(1).zip(list(&told["top"]["flows"])) {
        for (at, name) in [
            (5, "packets"),
            (6, "ip_bytes"),
            (7, "truncated"),
            (8, "missing_bytes"),
        ] {
            assert_eq!(exactly(&row[at]), flow[name], "{name}");
        }
    }
    assert_eq!(flows.len(), 21);
    assert_eq!(exactly(&rows(&sections, "Ledger")[1][1]), told["received"]);
}

#[test]
fn a_page_of_a_summary_says_what_it_does_not_hold() {
    let dir = tempfile::tempdir().unwrap();
    let summary = dir.path().join("s.json");
    let summary = summary.to_str().unwrap();
    let demo = testdata("demo.pcap");
    let replayed = vxtap(["replay", demo.to_str().unwrap(), "--summary", summary]);
    assert_eq!(replayed.code, Some(0));
    let html = report(&["report", summary, "--html", "-"]).stdout;
    let Some(page) = read_page(&html) else { return };
    let sections = list(&page["sections"]);
    let flows = sections
        .iter()
        .find(|section| section["title"] == "Flows and protocols")
        .unwrap();
    assert!(
        flows["texts"][0]
            .as_str()
            .unwrap()
            .contains("A summary holds no flow records")
    );
    assert_eq!(flows["tables"], json!([]));
}

#[test]
fn what_cannot_be_told_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (summary, other, half) = (path("s.json"), path("other.json"), path("half.json"));
    let demo = testdata("demo.pcap");
    let demo = demo.to_str().unwrap();
    let (ours, readme) = (path("ours.pcapng"), testdata("README.md"));
    assert_eq!(
        vxtap(["replay", demo, "--summary", &summary, "-w", &ours]).code,
        Some(0)
    );
    let text = fs::read_to_string(&summary).unwrap();
    let mut of_other: Value = serde_json::from_str(&text).unwrap();
    of_other["version"] = "7.1.0".into();
    of_other["sessions"][0]
        .as_object_mut()
        .unwrap()
        .remove("over_time");
    fs::write(&other, of_other.to_string()).unwrap();
    fs::write(&half, &text[..text.len() / 2]).unwrap();
    fs::create_dir(path("empty")).unwrap();
    let schema = "docs/flow-record.schema.json";
    for (args, code, words) in [
        (vec![readme.to_str().unwrap()], 1, "is not a capture file"),
        (
            vec![schema],
            1,
            "neither capture nor summary: it is JSON, but no summary",
        ),
        (vec![&half], 1, "not one JSON object (EOF"),
        (vec![&other], 1, "a summary of vxtap 7.1.0, which vxtap"),
        (
            vec![&path("empty")],
            1,
            "empty holds no capture file of a store",
        ),
        (vec![&path("none")], 1, "No such file"),
        (vec![&summary, demo], 2, "give a summary alone"),
        (vec![&path("empty"), demo], 2, "give a store alone"),
        (vec![&summary, "--mtu", "9000"], 2, "--mtu is for captures"),
        (vec![&ours, demo], 2, "report on each alone"),
        (vec!["-"], 2, "standard input cannot be looked into"),
        (
            vec![demo, "--json", "--html", "-"],
            2,
            "both write to standard output",
        ),
        (vec![demo, "--html", demo], 2, "would overwrite the input"),
        (vec![demo, "--mtu", "9"], 2, "for --mtu"),
    ] {
        let done = vxtap([vec!["report"], args.clone()].concat());
        assert_eq!(done.code, Some(code), "{args:?}: {}", done.stderr);
        assert!(done.stderr.contains(words), "{args:?}: {}", done.stderr);
        assert!(done.stdout.is_empty(), "{args:?}");
    }
}

/// What was read before the damage is told, and so is the damage.
#[test]
fn a_damaged_capture_is_told_as_far_as_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let cut = dir.path().join("cut.pcap");
    let bytes = fs::read(testdata("demo.pcap")).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let done = run(&mut common::vxtap_command([
        "report",
        cut.to_str().unwrap(),
    ]));
    assert_eq!(done.code, Some(1));
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(
        text.contains("Fault: ") && text.contains("packets before it were read"),
        "{text}"
    );
    assert!(
        done.stderr.contains("packets before it were read"),
        "{}",
        done.stderr
    );
    assert!(text.contains("VNI 101 from 10.0.1.12"), "{text}");
}
