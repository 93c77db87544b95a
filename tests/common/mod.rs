//! What the integration tests share: the program, what it leaves behind, the corpus and the peers.
#![allow(
    dead_code,
    clippy::disallowed_methods,
    reason = "every test file uses a part of it; what is awaited has a limit"
)]

#[cfg(target_os = "linux")]
pub mod collectors;
#[cfg(target_os = "linux")]
pub mod extract;
pub mod files;
#[cfg(target_os = "linux")]
pub mod lab;
#[cfg(target_os = "linux")]
pub mod listening;
#[cfg(target_os = "linux")]
pub mod prometheus;
pub mod readers;
#[cfg(target_os = "linux")]
pub mod shim;
#[cfg(target_os = "linux")]
pub mod store;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use serde_json::Value;
use tempfile::TempDir;

/// The program under test.
pub const VXTAP: &str = env!("CARGO_BIN_EXE_vxtap");

/// Longest wait for something that is sure to come.
const LIMIT: Duration = Duration::from_secs(60);

/// Asks again and again until there is an answer.
#[track_caller]
pub fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < LIMIT, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a program said when it ended.
#[derive(Debug)]
pub struct Run {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

/// Runs `command` to its end with nothing on standard input.
pub fn run(command: &mut Command) -> Run {
    let output = command.stdin(Stdio::null()).output().unwrap();
    Run {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A program that runs. A test that fails before its end leaves none behind: it is killed when this is dropped.
#[derive(Debug)]
pub struct Running(pub Child);

impl Running {
    /// Starts `command`.
    #[track_caller]
    #[allow(clippy::disallowed_methods, reason = "this is what kills it")]
    pub fn start(command: &mut Command) -> Self {
        let child = command.spawn();
        Self(child.unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program())))
    }

    /// Reads what it still says and waits for its end.
    pub fn wait_with_output(mut self) -> Output {
        drop(self.stdin.take());
        let stdout = self.stdout.take().map(drain);
        let stderr = self.stderr.take().map(drain);
        let status = self.wait().unwrap();
        let all = |reader: Option<JoinHandle<_>>| {
            reader.map_or_else(Vec::new, |reader| reader.join().unwrap())
        };
        Output {
            status,
            stdout: all(stdout),
            stderr: all(stderr),
        }
    }
}

/// Reads all there is to read of a stream on a thread of its own.
pub fn drain(mut stream: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

impl Drop for Running {
    fn drop(&mut self) {
        // Of one that has ended this does nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl std::ops::Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl std::ops::DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

/// The program with `args`, not yet started. What the surroundings say about logging is left out.
pub fn vxtap_command<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new("env");
    // Whoever runs the tests under nohup has SIGHUP ignored, and would hand that on.
    command.args(["--default-signal=HUP", VXTAP]);
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("VXTAP_LOG")
        .env_remove("RUST_BACKTRACE")
        // Control sockets stand where nobody else's do.
        .env(
            "RUNTIME_DIRECTORY",
            concat!(env!("CARGO_TARGET_TMPDIR"), "/run"),
        )
        .args(args);
    command
}

/// Runs the program with `args`.
pub fn vxtap<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Run {
    run(&mut vxtap_command(args))
}

/// Runs the program with `args` and `input` on standard input.
pub fn vxtap_fed<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>, input: &[u8]) -> Run {
    let mut command = vxtap_command(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Running::start(command.stderr(Stdio::piped()));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A program that gives up early closes the pipe; the test looks at what it said.
    let writer = std::thread::spawn(move || _ = stdin.write_all(&input));
    let output = child.wait_with_output();
    writer.join().unwrap();
    Run {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A replay with all its outputs.
#[derive(Debug)]
pub struct Replayed {
    /// Holds `out.pcapng`, `out.jsonl` and `out.json`.
    pub dir: TempDir,
    /// What it said.
    pub run: Run,
    /// The JSON summary; null when none was written.
    pub summary: Value,
    /// The flow records, without where in the capture their first packets lie.
    pub flows: Vec<Value>,
}

/// Runs `vxtap replay` with `args`, a capture, flow records and a summary.
pub fn replay<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Replayed {
    let dir = tempfile::tempdir().unwrap();
    let mut command = vxtap_command(["replay"]);
    let outputs = [
        ("-w", "out.pcapng"),
        ("--flows", "out.jsonl"),
        ("--summary", "out.json"),
    ];
    for (flag, name) in outputs {
        command.arg(flag).arg(dir.path().join(name));
    }
    let run = run(command.args(args));
    let summary = std::fs::read(dir.path().join("out.json"))
        .map_or(Value::Null, |json| serde_json::from_slice(&json).unwrap());
    let flows = std::fs::read_to_string(dir.path().join("out.jsonl"))
        .map_or_else(|_| Vec::new(), |lines| json_lines(&without_firsts(&lines)));
    Replayed {
        dir,
        run,
        summary,
        flows,
    }
}

/// Replays a capture of `testdata/` and expects nothing to go wrong.
pub fn replay_testdata(name: &str, args: &[&str]) -> Replayed {
    let mut all = vec![testdata(name).into_os_string()];
    all.extend(args.iter().map(Into::into));
    let replayed = replay(all);
    assert_eq!(
        replayed.run.code,
        Some(0),
        "{name}: {}",
        replayed.run.stderr
    );
    assert_closes(&replayed.summary);
    replayed
}

impl Replayed {
    /// The file of flow records, as it would be without a capture.
    pub fn flow_lines(&self) -> String {
        without_firsts(&std::fs::read_to_string(self.dir.path().join("out.jsonl")).unwrap())
    }

    /// Path of the capture written.
    pub fn capture(&self) -> PathBuf {
        self.dir.path().join("out.pcapng")
    }

    /// The frames in it.
    pub fn frames(&self) -> Vec<Frame> {
        frames(&std::fs::read(self.capture()).unwrap())
    }

    /// A number of the summary.
    pub fn count(&self, name: &str) -> u64 {
        self.summary[name].as_u64().unwrap()
    }

    /// Counters by reason of the summary.
    pub fn reasons(&self, name: &str) -> BTreeMap<String, u64> {
        reasons(&self.summary, name)
    }

    /// The mirror sessions of the summary.
    pub fn sessions(&self) -> &[Value] {
        self.summary["sessions"].as_array().unwrap()
    }

    /// The mirror session of `source` and `vni`.
    pub fn session(&self, vni: u64, source: &str) -> &Value {
        let mut of_name = self
            .sessions()
            .iter()
            .filter(|session| session["vni"] == vni && session["source"] == source);
        let session = of_name.next().unwrap_or_else(|| {
            panic!("no session of VNI {vni} and {source}: {}", self.summary);
        });
        assert!(of_name.next().is_none(), "two sessions of one name");
        session
    }

    /// Packets in all flow records.
    pub fn packets_in_flows(&self) -> u64 {
        self.flows.iter().map(flow_packets).sum()
    }
}

/// Packets of a flow record, both ways.
pub fn flow_packets(flow: &Value) -> u64 {
    flow["pkts_o"].as_u64().unwrap() + flow["pkts_r"].as_u64().unwrap()
}

/// Counters by reason of a summary.
pub fn reasons(summary: &Value, name: &str) -> BTreeMap<String, u64> {
    let counters = summary[name].as_object();
    let counters = counters.unwrap_or_else(|| panic!("no {name} in {summary}"));
    counters
        .iter()
        .map(|(reason, packets)| (reason.clone(), packets.as_u64().unwrap()))
        .collect()
}

/// `[("probe", 1)]` as the map [`reasons`] returns.
pub fn expected<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts.map(|(name, n)| (name.to_owned(), n)).into()
}

/// received = delivered + malformed + filtered + duplicate + dropped.
#[track_caller]
pub fn assert_closes(summary: &Value) {
    let number = |name: &str| summary[name].as_u64().unwrap();
    let sum = |name: &str| reasons(summary, name).values().sum::<u64>();
    let ended = number("delivered")
        + number("duplicate")
        + sum("malformed")
        + sum("filtered")
        + sum("dropped");
    assert_eq!(number("received"), ended, "the ledger is open: {summary}");
    for sink in summary["sinks"].as_array().unwrap() {
        let dropped: u64 = reasons(sink, "dropped").values().sum();
        let written = sink["written"].as_u64().unwrap();
        assert_eq!(
            sink["offered"],
            written + dropped,
            "an account is open: {sink}"
        );
        if sink["kind"] == "capture" {
            assert_eq!(sink["offered"], number("delivered"), "{summary}");
        }
    }
}

/// Flow records without where their first packets lie: that is a matter of the capture beside them, whose header names
/// version and machine.
pub fn without_firsts(flows: &str) -> String {
    let lines = flows
        .lines()
        .map(|line| match line.split_once(",\"first_file\":") {
            Some((before, _)) => format!("{before}}}\n"),
            None => format!("{line}\n"),
        });
    lines.collect()
}

/// The objects of a JSON lines text.
pub fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A packet of a pcapng file, as the pcap-file crate reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Name of its interface.
    pub interface: String,
    /// Nanoseconds since 1970.
    pub ts_ns: u128,
    /// Length on the wire.
    pub orig_len: u32,
    /// The bytes stored.
    pub bytes: Vec<u8>,
    /// Its comment.
    pub comment: Option<String>,
    /// `epb_flags`, 0 without.
    pub flags: u32,
    /// `epb_packetid`.
    pub packet_id: Option<u64>,
}

/// The packets of a capture are in strict time order, unless its summary counts those that are not. Tells which.
#[track_caller]
pub fn assert_time_order(frames: &[Frame], summary: &Value) -> bool {
    let noted = reasons(summary, "noted");
    let is_told = ["late", "out_of_order"].map(|reason| noted.contains_key(reason));
    let is_sorted = frames.is_sorted_by_key(|frame| frame.ts_ns);
    assert!(is_sorted || is_told.contains(&true), "{summary}");
    is_sorted
}

/// The packets of a pcapng file.
pub fn frames(pcapng: &[u8]) -> Vec<Frame> {
    let mut reader = PcapNgReader::new(pcapng).unwrap();
    let mut frames = Vec::new();
    while let Some(block) = reader.next_block() {
        let (block, state) = block.unwrap();
        let Block::EnhancedPacket(packet) = block else {
            continue;
        };
        let interface = &state.interfaces()[packet.interface_id as usize];
        let name = interface.options.iter().find_map(|option| match option {
            InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
            _ => None,
        });
        let mut comment = None;
        let mut flags = 0;
        let mut packet_id = None;
        for option in &packet.options {
            match option {
                EnhancedPacketOption::Common(CommonOption::Comment(text)) => {
                    comment = Some(text.to_string());
                }
                EnhancedPacketOption::Flags(value) => flags = *value,
                EnhancedPacketOption::Common(CommonOption::Unknown(option)) if option.code == 5 => {
                    let id = option.value.as_ref().try_into().unwrap();
                    packet_id = Some(u64::from_le_bytes(id));
                }
                _ => {}
            }
        }
        frames.push(Frame {
            interface: name.unwrap_or_default(),
            ts_ns: packet.timestamp.as_nanos(),
            orig_len: packet.original_len,
            bytes: packet.data.to_vec(),
            comment,
            flags,
            packet_id,
        });
    }
    frames
}

/// A capture of `testdata/`.
pub fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata")
        .join(name)
}

/// The names of the captures in `testdata/`, without its folders.
pub fn testdata_names() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(testdata(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| {
            [".pcap", ".pcapng", ".gz"]
                .iter()
                .any(|end| name.ends_with(end))
        })
        .collect();
    names.sort();
    assert!(names.len() > 40, "testdata is not complete: {names:?}");
    names
}

/// The flags a capture of `testdata/` wants.
pub fn flags_for(name: &str) -> &'static [&'static str] {
    if name.starts_with("plain") {
        &["--plain"]
    } else {
        &[]
    }
}

/// The folder with real captures; says so when it is not there.
pub fn corpus() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus");
    let dir = std::env::var_os("VXTAP_CORPUS").map_or_else(beside, PathBuf::from);
    if dir.join("expected").is_dir() {
        return Some(dir);
    }
    eprintln!("skipped: no corpus (set VXTAP_CORPUS)");
    None
}

/// Writes a program for sh, which may be started at once.
pub fn script(path: &Path, lines: &str) {
    // By another process: a file that is open for writing, in a child of another test, cannot be executed.
    let mut shell = Command::new("sh");
    shell.args(["-c", "printf %s \"$2\" > \"$1\"; chmod 755 \"$1\"", "sh"]);
    shell.arg(path).arg(format!("#!/bin/sh\n{lines}"));
    assert!(shell.status().unwrap().success());
}

/// A copy of the program in `dir`, for users who may not go where the tests are.
pub fn program_in(dir: &Path) -> PathBuf {
    let program = dir.join("vxtap");
    // By another process, likewise.
    let copied = run(Command::new("cp").arg(VXTAP).arg(&program));
    assert_eq!(copied.code, Some(0), "{}", copied.stderr);
    program
}

/// `setpriv` with other capabilities, as its --bounding-set names them; `None` where that does not work.
pub fn with_capabilities(set: &str) -> Option<[String; 3]> {
    if !tool("setpriv") {
        return None;
    }
    let words = [
        "setpriv".to_owned(),
        format!("--bounding-set={set}"),
        format!("--inh-caps={set}"),
    ];
    let tried = run(Command::new(&words[0]).args(&words[1..]).arg("true"));
    if tried.code != Some(0) {
        eprintln!("skipped: setpriv: {}", tried.stderr.trim());
        return None;
    }
    Some(words)
}

/// Whether a program is installed; says so when it is not.
pub fn tool(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|dir| dir.join(name).is_file()) {
        return true;
    }
    eprintln!("skipped: {name} is not installed");
    false
}

/// Whether tshark can capture: it and dumpcap are installed, and this user may run both. Says so when not.
pub fn tshark_captures() -> bool {
    if !tool("tshark") || !tool("dumpcap") {
        return false;
    }
    let version = Command::new("dumpcap").arg("--version").output();
    let runs = version.is_ok_and(|output| output.status.success());
    if !runs {
        eprintln!("skipped: this user may not run dumpcap");
    }
    runs
}

/// Expects that `program`, tcpdump or capinfos, opens a capture without a complaint.
#[track_caller]
pub fn opens_with(program: &str, capture: &Path) {
    let mut command = Command::new(program);
    match program {
        // Started by root, Debian's gives a file it writes to a user of its own, /dev/null too.
        "tcpdump" => command.args(["-n", "-w", "-", "-r"]),
        _ => &mut command,
    };
    let run = run(command.arg(capture));
    let name = capture.display();
    assert_eq!(run.code, Some(0), "{program} {name}: {}", run.stderr);
    assert_eq!(complaints(&run.stderr), "", "{program} {name}");
    if program == "tcpdump" {
        // Without -w it reads the packets too; what it finds odd in them is not the capture's fault.
        return;
    }
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(
        !said.contains("WARNING") && !said.contains("cut short"),
        "{name}: {said}"
    );
}

/// Whether a device is there, as it is not in every hand-made `/dev`; if not, says that a test is skipped.
pub fn device(path: &str) -> bool {
    let is_there = Path::new(path).exists();
    if !is_there {
        eprintln!("skipped: there is no {path}");
    }
    is_there
}

/// The one capture that cannot be read; `bad_input.rs` has it.
const UNREADABLE: &str = "unsupported-link.pcap";

/// The captures of `testdata/` but that one.
pub fn readable_names() -> impl Iterator<Item = String> {
    testdata_names()
        .into_iter()
        .filter(|name| name != UNREADABLE)
}

/// The frames that are shorter than they were, counted from 1, and by how much.
pub fn missing(frames: &[Frame]) -> impl Iterator<Item = (usize, u32)> {
    let missing = frames
        .iter()
        .map(|frame| frame.orig_len - frame.bytes.len() as u32);
    missing
        .enumerate()
        .filter(|(_, missing)| *missing > 0)
        .map(|(at, missing)| (at + 1, missing))
}

/// Standard error of a peer without the lines it always prints.
pub fn complaints(stderr: &str) -> String {
    let usual = |line: &str| {
        line.is_empty()
            || line.starts_with("reading from file ")
            || line.starts_with("Running as user ")
    };
    let lines: Vec<&str> = stderr.lines().filter(|line| !usual(line)).collect();
    lines.join("\n")
}

/// What tshark makes of a capture: the first value of each field, one row a frame. Reassembly is off,
/// so that each frame stands alone; complaints fail the test.
pub fn tshark(capture: &Path, fields: &[&str], options: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(capture).arg("-n");
    for preference in [
        "ip.defragment:FALSE",
        "ipv6.defragment:FALSE",
        "tcp.desegment_tcp_streams:FALSE",
    ] {
        command.args(["-o", preference]);
    }
    command.args(options);
    command.args(["-T", "fields", "-E", "separator=/t", "-E", "occurrence=f"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let run = run(&mut command);
    let name = capture.display();
    assert_eq!(run.code, Some(0), "tshark on {name}: {}", run.stderr);
    assert_eq!(complaints(&run.stderr), "", "tshark on {name}");
    let text = String::from_utf8(run.stdout).unwrap();
    text.lines()
        .map(|line| line.split('\t').map(str::to_owned).collect())
        .collect()
}
