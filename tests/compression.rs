//! `--compress`: files that Wireshark's tools and vxtap open as they are, whole after any end, within every limit.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::extract::extract;
use common::{
    Running, assert_closes, frames, json_lines, run, testdata, tool, vxtap, vxtap_command,
};
use flate2::read::MultiGzDecoder;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

#[track_caller]
#[allow(
    clippy::disallowed_methods,
    reason = "the limit turns a hang into a failure"
)]
fn wait_until(mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "it never came");
        thread::sleep(Duration::from_millis(5));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The ways of compressing, and what names end in.
const CODECS: [(&str, &str); 2] = [("gzip", "gz"), ("zstd", "zst")];

/// The content of all frames, and whether the file ends behind one.
fn content(name: &str, file: &[u8]) -> (Vec<u8>, bool) {
    let mut content = Vec::new();
    let mut decoder: Box<dyn Read> = match name.contains(".gz") {
        true => Box::new(MultiGzDecoder::new(file)),
        false => Box::new(zstd::Decoder::new(file).unwrap()),
    };
    let mut piece = [0; 4096];
    loop {
        match decoder.read(&mut piece) {
            Ok(0) => return (content, true),
            Ok(len) => content.extend_from_slice(&piece[..len]),
            Err(_) => return (content, false),
        }
    }
}

/// The files of a store that its manifest lists, each as it says.
fn assert_sound(store: &Path) -> BTreeMap<String, Value> {
    let manifest = fs::read_to_string(store.join("MANIFEST.jsonl")).unwrap();
    let mut files = BTreeMap::new();
    for line in json_lines(&manifest) {
        let name = line["name"].as_str().unwrap().to_owned();
        match line["kind"].as_str().unwrap() {
            "file" => assert!(files.insert(name, line).is_none()),
            "deleted" => assert!(files.remove(&name).is_some()),
            other => panic!("{other}: {line}"),
        }
    }
    let there = fs::read_dir(store).unwrap();
    let there = there.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut there: Vec<String> = there.filter(|name| name.starts_with("vxtap")).collect();
    there.sort();
    let indexes: Vec<String> = there
        .extract_if(.., |name| name.ends_with(".idx"))
        .collect();
    assert_eq!(there, files.keys().cloned().collect::<Vec<_>>());
    // One that failed in its middle has none, nor one for whose index a full disk had no room.
    let listed = files.values().filter_map(|line| {
        let name = line["index"]["name"].as_str()?;
        let bytes = fs::read(store.join(name)).unwrap();
        assert_eq!(line["index"]["bytes"], bytes.len(), "{name}");
        let most = line["bytes"].as_u64().unwrap() / 50 + 1024;
        assert!(bytes.len() as u64 <= most, "{name}: {}", bytes.len());
        Some(name.to_owned())
    });
    assert_eq!(indexes, listed.collect::<Vec<_>>());
    for (name, line) in &files {
        let bytes = fs::read(store.join(name)).unwrap();
        assert_eq!(line["bytes"], bytes.len(), "{name}");
        assert_eq!(line["sha256"], hex(&Sha256::digest(&bytes)), "{name}");
        let (content, is_whole) = content(name, &bytes);
        assert!(is_whole, "{name}");
        assert_eq!(line["packets"], frames(&content).len(), "{name}");
        // Of zstd it reads the first 128 KiB.
        if !name.ends_with(".zst") && tool("capinfos") {
            let said = run(Command::new("capinfos").arg("-c").arg(store.join(name)));
            assert_eq!(said.code, Some(0), "{name}: {}", said.stderr);
        }
    }
    files
}

fn packets(files: &BTreeMap<String, Value>) -> u64 {
    let packets = files.values().map(|line| line["packets"].as_u64().unwrap());
    packets.sum()
}

/// A directory with a store, `st` in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Mirrored traffic in a capture.
    fn generate(&self, packets: u32) -> PathBuf {
        let to = self.path("generated.pcap");
        let (count, path) = (packets.to_string(), to.to_str().unwrap());
        let words = ["send", "--generate", "--count", &count, "--to", "10.0.0.1"];
        let said = vxtap(words.into_iter().chain(["--write", path]));
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        to
    }

    fn replay(&self, input: &Path, to: &str, flags: &[&str]) -> Value {
        let (to, summary) = (self.path(to), self.path("s.json"));
        let to = match to.extension() {
            None => format!("{}/", to.display()),
            Some(_) => to.display().to_string(),
        };
        let words = ["replay", input.to_str().unwrap(), "-w", &to, "--summary"];
        let words = words.into_iter().chain([summary.to_str().unwrap()]);
        let said = vxtap(words.chain(flags.iter().copied()));
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        self.summary()
    }

    fn summary(&self) -> Value {
        let summary = fs::read(self.path("s.json")).unwrap();
        let summary = serde_json::from_slice(&summary).unwrap();
        assert_closes(&summary);
        summary
    }

    fn said(&self) -> String {
        fs::read_to_string(self.path("said")).unwrap_or_default()
    }

    /// `vxtap listen` on a port of its own, into the store.
    fn listen(&self, codec: &str, flags: &[&str]) -> Listening {
        let _ = fs::create_dir(self.path("st"));
        let port = UdpSocket::bind("127.0.0.1:0").unwrap();
        let bind = port.local_addr().unwrap().to_string();
        drop(port);
        let mut command = vxtap_command(["listen", "--backend", "udp", "--bind", &bind]);
        command
            .args(["--compress", codec, "-w"])
            .arg(self.path("st"));
        command
            .args(flags)
            .arg("--summary")
            .arg(self.path("s.json"));
        command.stderr(fs::File::create(self.path("said")).unwrap());
        let child = Running::start(command.stdout(Stdio::null()));
        wait_until(|| self.said().contains("listening on"));
        Listening { child, bind }
    }
}

struct Listening {
    child: Running,
    bind: String,
}

impl Listening {
    fn feed(&self, packets: u64, pps: u64) {
        let (packets, pps) = (packets.to_string(), pps.to_string());
        let to = [
            "send",
            "--to",
            &self.bind,
            "--generate",
            "--count",
            &packets,
        ];
        let said = vxtap(to.into_iter().chain(["--pps", &pps]));
        assert_eq!(said.code, Some(0), "{}", said.stderr);
    }

    fn end(mut self) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn content_is_that_of_a_plain_file() {
    let place = Place::new();
    let demo = testdata("demo.pcap");
    for format in ["pcapng", "pcap"] {
        let plain = format!("a.{format}");
        place.replay(&demo, &plain, &["--format", format]);
        let plain = fs::read(place.path(&plain)).unwrap();
        for (name, flags) in [
            // The name alone asks for it.
            ("b.zst", &[][..]),
            ("b.gz", &[]),
            ("zst.any", &["--compress", "zstd:19"]),
            ("x.gz.any", &["--compress", "gzip:9"]),
            (
                "d.zst",
                &["--compress", "zstd:3", "--compress-threads", "4"],
            ),
        ] {
            let flags = [&["--format", format], flags].concat();
            place.replay(&demo, name, &flags);
            let packed = fs::read(place.path(name)).unwrap();
            assert!(packed.len() < plain.len() / 2, "{name}");
            assert!(content(name, &packed) == (plain.clone(), true), "{name}");
            let again = place.replay(&place.path(name), "again.pcapng", &["--plain"]);
            assert_eq!(again["delivered"], 198);
        }
    }
    // A name is no order where somebody says otherwise.
    place.replay(&demo, "e.zst", &["--compress", "none"]);
    assert_eq!(frames(&fs::read(place.path("e.zst")).unwrap()).len(), 198);
    for wrong in ["zstd:20", "gzip:10", "zstd:0", "zstd:", "lz4", "gzip:1:1"] {
        let words = ["replay", demo.to_str().unwrap(), "--compress", wrong];
        let said = vxtap(words);
        assert_eq!(said.code, Some(2), "{wrong}: {}", said.stderr);
    }
}

#[test]
fn every_tool_opens_gzip_files() {
    let place = Place::new();
    let input = place.generate(20_000);
    for format in ["pcapng", "pcap"] {
        // Several frames, each longer than what a reader reads at a time.
        let name = format!("a.{format}.gz");
        place.replay(&input, &name, &["--format", format]);
        let packed = place.path(&name);
        if ["tshark", "capinfos", "mergecap", "editcap"]
            .into_iter()
            .all(tool)
        {
            let count = |path: &Path| {
                let said = run(Command::new("tshark").arg("-r").arg(path));
                assert_eq!(said.code, Some(0), "{}", said.stderr);
                String::from_utf8(said.stdout).unwrap().lines().count()
            };
            assert_eq!(count(&packed), 20_000);
            let said = run(Command::new("capinfos").args(["-c", "-M"]).arg(&packed));
            assert!(
                String::from_utf8_lossy(&said.stdout).contains("20000"),
                "{said:?}"
            );
            let out = place.path("out.pcapng");
            let merged = run(Command::new("mergecap")
                .arg("-w")
                .arg(&out)
                .args([&packed, &packed]));
            assert_eq!(merged.code, Some(0), "{}", merged.stderr);
            assert_eq!(count(&out), 40_000);
            let edited = run(Command::new("editcap").arg(&packed).arg(&out));
            assert_eq!(edited.code, Some(0), "{}", edited.stderr);
            assert_eq!(count(&out), 20_000);
        }
        // What is told of zstd: another program has to decompress it.
        if tool("zstd") && tool("tshark") {
            let name = format!("a.{format}.zst");
            place.replay(&input, &name, &["--format", format]);
            let shell = format!("zstd -dc {} | tshark -r -", place.path(&name).display());
            let said = run(Command::new("sh").args(["-c", &shell]));
            assert_eq!(
                String::from_utf8(said.stdout).unwrap().lines().count(),
                20_000
            );
        }
    }
}

#[test]
fn files_of_a_store_are_as_long_as_they_may_be() {
    let place = Place::new();
    let input = place.generate(25_000);
    for (codec, extension) in CODECS {
        for (size, least) in [(300_000, 270_000), (60_000, 45_000)] {
            let name = format!("{codec}{size}");
            let limit = size.to_string();
            let flags = [
                "--compress",
                codec,
                "--rotate-size",
                &limit,
                "--keep-bytes",
                "none",
            ];
            let summary = place.replay(&input, &name, &flags);
            let files = assert_sound(&place.path(&name));
            assert!(files.len() > 2, "{size}: {}", files.len());
            assert_eq!(packets(&files), 25_000);
            let bytes = |line: &Value| line["bytes"].as_u64().unwrap();
            let sink = &summary["sinks"][0];
            assert_eq!(sink["written"], 25_000);
            assert_eq!(sink["bytes"], files.values().map(bytes).sum::<u64>());
            for (name, line) in &files {
                assert!(name.ends_with(&format!(".pcapng.{extension}")), "{name}");
                assert!(bytes(line) <= size, "{name}: {line}");
                let is_last = line["reason"] == "end";
                assert!(is_last || bytes(line) >= least, "{name}: {line}");
            }
            // A replay is the same every time. Its place is a part of the configuration that a file names.
            let before = format!("{codec}before{size}");
            fs::rename(place.path(&name), place.path(&before)).unwrap();
            place.replay(&input, &name, &flags);
            let sums = |store: &str| -> Vec<(String, Value)> {
                let files = assert_sound(&place.path(store));
                let sums = files.into_iter();
                let sums = sums.map(|(name, line)| (name, line["sha256"].clone()));
                sums.collect()
            };
            assert_eq!(sums(&name), sums(&before));
        }
    }
}

/// What a quiet link brings is in the file soon, while the file goes on.
#[test]
fn packets_of_a_quiet_link_can_be_read_while_the_file_is_open() {
    let place = Place::new();
    let listening = place.listen("gzip", &["--slice", "headers"]);
    listening.feed(20, 10_000);
    let part = || {
        let mut entries = fs::read_dir(place.path("st")).unwrap().flatten();
        entries.find(|entry| entry.file_name().to_str().unwrap().ends_with(".part"))
    };
    wait_until(|| {
        part().is_some_and(|part| {
            // Its header may be on its way.
            let (content, _) = content(".gz", &fs::read(part.path()).unwrap());
            !content.is_empty() && frames(&content).len() == 20
        })
    });
    if tool("tshark") {
        let said = run(Command::new("tshark").arg("-r").arg(part().unwrap().path()));
        assert_eq!(String::from_utf8(said.stdout).unwrap().lines().count(), 20);
    }
    listening.end();
    let files = assert_sound(&place.path("st"));
    assert_eq!(packets(&files), 20);
    let name = files.keys().next().unwrap();
    let (content, _) = content(name, &fs::read(place.path("st").join(name)).unwrap());
    assert!(frames(&content).iter().all(|frame| frame.bytes.len() <= 74));
}

/// A VXLAN datagram with a whole frame.
fn mirrored() -> Vec<u8> {
    let mut datagram = vec![8, 0, 0, 0, 0, 0, 7, 0];
    datagram.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    datagram.extend([
        0x45, 0, 0, 48, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ]);
    datagram.extend([0, 9, 0, 9, 0, 28, 0, 0]);
    datagram.extend([0; 20]);
    datagram
}

/// Tells other threads that it is over.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How often runs are killed where VXTAP_KILLS does not say.
const KILLS: u64 = 12;

#[test]
fn killed_runs_leave_files_that_the_next_run_finishes() {
    let kills = std::env::var("VXTAP_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let place = Place::new();
    let stop = AtomicBool::new(false);
    let target = AtomicU64::new(0);
    let flags = [
        "--rotate-packets",
        "500",
        "--keep-bytes",
        "none",
        "--fsync",
        "never",
    ];
    thread::scope(|scope| {
        scope.spawn(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let datagram = mirrored();
            while !stop.load(Ordering::Relaxed) {
                let port = target.load(Ordering::Relaxed) as u16;
                if port > 0 {
                    let _ = socket.send_to(&datagram, ("127.0.0.1", port));
                }
                thread::sleep(Duration::from_micros(20));
            }
        });
        let _over = Over(&stop);
        for round in 0..kills {
            // Some runs bring what they have to the file all the time, so that there is something to finish.
            let often = ["--fsync", "every-10ms"];
            let (codec, _) = CODECS[(round / 2 % 2) as usize];
            let mut listening = match round % 2 {
                0 => place.listen(codec, &flags),
                _ => place.listen(codec, &[&flags[..4], &often].concat()),
            };
            let port = listening.bind.rsplit_once(':').unwrap().1;
            target.store(port.parse().unwrap(), Ordering::Relaxed);
            thread::sleep(Duration::from_millis(round * 37 % 150));
            if round == 1 {
                // At least one is killed with packets in an open file.
                wait_until(|| has_open_packets(&place.path("st")));
            }
            listening.child.kill().unwrap();
            listening.child.wait().unwrap();
        }
    });
    place.listen("zstd", &["--keep-bytes", "none"]).end();
    let files = assert_sound(&place.path("st"));
    let sequence = |name: &String| name.split('_').nth(1).unwrap().parse::<u64>().unwrap();
    let sequences: Vec<u64> = files.keys().map(sequence).collect();
    assert_eq!(sequences, (1..=files.len() as u64).collect::<Vec<_>>());
    assert!(
        files.values().any(|line| line["reason"] == "recovered"),
        "{files:?}"
    );
    // By the indexes comes out what the files hold.
    let (store, out) = (place.path("st"), place.path("out.pcapng"));
    let found = extract(&[&store], &out, &["--host", "10.0.0.1"]);
    assert_eq!(found.summary["files_read_whole"], Value::Array(vec![]));
    assert_eq!(found.summary["files_by_index"], files.len());
    assert_eq!(found.frames.len() as u64, packets(&files));
    let verified = vxtap(["verify", store.to_str().unwrap()]);
    assert_eq!(verified.code, Some(0), "{}", verified.stderr);
}

fn has_open_packets(store: &Path) -> bool {
    let entries = fs::read_dir(store).unwrap().flatten();
    let mut parts = entries.filter(|entry| entry.file_name().to_str().unwrap().ends_with(".part"));
    parts.any(|part| {
        let bytes = fs::read(part.path()).unwrap_or_default();
        let name = part.path().display().to_string();
        let (content, _) = content(&name, &bytes);
        !content.is_empty() && !frames(&content).is_empty()
    })
}

/// A left file is cut back to its last whole frame wherever it ends; what is no capture is moved aside.
#[test]
fn every_cut_of_a_left_file_is_finished() {
    for (codec, _) in CODECS {
        let place = Place::new();
        let input = place.generate(1500);
        // Frames of 32 KiB, since so many files could be open.
        let flags = [
            "--compress",
            codec,
            "--split",
            "vni",
            "--max-open-files",
            "4096",
        ];
        place.replay(&input, "whole", &flags);
        let files = assert_sound(&place.path("whole"));
        let (name, line) = files.iter().next().unwrap();
        let all = line["packets"].as_u64().unwrap();
        let bytes = fs::read(place.path("whole").join(name)).unwrap();
        let mut seen = Vec::new();
        for part in 0..=11 {
            let store = format!("left{part}");
            let dir = place.path(&store);
            fs::create_dir(&dir).unwrap();
            let cut = bytes.len() * part / 11;
            fs::write(dir.join(format!(".{name}.part")), &bytes[..cut]).unwrap();
            // Opening the store is enough; there is not a packet in this file.
            place.replay(&testdata("i-flag-clear.pcap"), &store, &["--vni", "1"]);
            let manifest = fs::read_to_string(dir.join("MANIFEST.jsonl")).unwrap();
            let lines = json_lines(&manifest);
            let line = lines.iter().find(|line| line["reason"] == "recovered");
            let Some(line) = line else {
                assert!(seen.is_empty(), "{part}: {manifest}");
                continue;
            };
            seen.push(line["packets"].as_u64().unwrap());
            assert_sound(&dir);
        }
        assert!(seen.is_sorted() && seen[0] < all, "{seen:?}");
        assert!(seen.len() > 8 && seen.last() == Some(&all), "{seen:?}");
        let dir = place.path("odd");
        fs::create_dir(&dir).unwrap();
        let mut odd = Vec::new();
        match codec {
            "zstd" => zstd::stream::copy_encode(&b"no capture"[..], &mut odd, 1).unwrap(),
            _ => {
                let fast = flate2::Compression::fast();
                let mut encoder = flate2::write::GzEncoder::new(&mut odd, fast);
                encoder.write_all(b"no capture").unwrap();
                encoder.finish().unwrap();
            }
        }
        fs::write(dir.join(format!(".{name}.part")), odd).unwrap();
        place.replay(&testdata("i-flag-clear.pcap"), "odd", &["--vni", "1"]);
        assert!(dir.join("quarantine").join(name).is_file());
    }
}

/// A file system of its own, of so many bytes; `None` where this user cannot have one.
struct Small(tempfile::TempDir);

impl Small {
    fn new(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={bytes}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(dir));
        }
        eprintln!("skipped: no right to mount a small file system");
        None
    }

    /// Holds the store of `place`.
    fn hold(&self, place: &Place) -> PathBuf {
        let store = self.0.path().join("st");
        fs::create_dir(&store).unwrap();
        std::os::unix::fs::symlink(&store, place.path("st")).unwrap();
        store
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn bytes_in(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let bytes = entries.filter_map(|entry| Some(entry.metadata().ok()?.len()));
    bytes.sum()
}

#[test]
fn a_small_disk_turns_within_its_budget() {
    let Some(small) = Small::new(32 << 20) else {
        return;
    };
    let place = Place::new();
    let store = small.hold(&place);
    let listening = place.listen("zstd", &["--keep-bytes", "12MB", "--rotate-size", "1MB"]);
    let over = AtomicBool::new(false);
    let most = thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut most = 0;
            while !over.load(Ordering::Relaxed) {
                most = most.max(bytes_in(&store));
                thread::sleep(Duration::from_millis(5));
            }
            most
        });
        let done = Over(&over);
        // As much as it takes: on a busy machine not all of it arrives.
        let manifest = || fs::read_to_string(store.join("MANIFEST.jsonl")).unwrap();
        wait_until(|| {
            listening.feed(100_000, 50_000);
            manifest().contains("keep_bytes")
        });
        listening.feed(100_000, 50_000);
        drop(done);
        watching.join().unwrap()
    });
    listening.end();
    assert!(most <= 12_000_000, "{most}");
    let files = assert_sound(&store);
    let manifest = json_lines(&fs::read_to_string(store.join("MANIFEST.jsonl")).unwrap());
    assert!(manifest.iter().any(|line| line["because"] == "keep_bytes"));
    let finished = manifest.iter().filter(|line| line["kind"] == "file");
    let finished: u64 = finished.map(|line| line["packets"].as_u64().unwrap()).sum();
    let sink = &place.summary()["sinks"][0];
    assert_eq!(sink["written"], finished);
    let lost = sink["dropped"]["queue"].as_u64().unwrap_or_default();
    assert_eq!(sink["offered"], finished + lost, "{sink}");
    assert!(
        files
            .values()
            .all(|line| line["bytes"].as_u64().unwrap() <= 1_000_000)
    );
}

#[test]
fn a_full_disk_loses_whole_frames_with_their_count_and_recovers() {
    let Some(small) = Small::new(8 << 20) else {
        return;
    };
    let place = Place::new();
    let store = small.hold(&place);
    let hog = small.0.path().join("hog");
    fs::write(&hog, vec![0; 7 << 20]).unwrap();
    let flags = [
        "--keep-bytes",
        "none",
        "--rotate-size",
        "300kB",
        "--on-full",
        "drop",
    ];
    let listening = place.listen("gzip", &flags);
    listening.feed(20_000, 40_000);
    wait_until(|| {
        listening.feed(1000, 10_000);
        place.said().contains("counted as lost")
    });
    fs::remove_file(&hog).unwrap();
    wait_until(|| {
        listening.feed(100, 10_000);
        place.said().contains("there is room again")
    });
    listening.end();
    let files = assert_sound(&store);
    let summary = place.summary();
    let sink = &summary["sinks"][0];
    let lost = sink["dropped"]["disk"].as_u64().unwrap();
    assert!(lost > 0, "{summary}");
    assert_eq!(sink["written"], packets(&files));
    let told = files
        .values()
        .map(|line| line["lost"]["disk"].as_u64().unwrap_or_default());
    assert_eq!(told.sum::<u64>(), lost, "{files:?}");
}

#[test]
fn a_full_disk_deletes_the_oldest_and_loses_nothing() {
    let Some(small) = Small::new(2 << 20) else {
        return;
    };
    let place = Place::new();
    let store = small.hold(&place);
    let listening = place.listen("zstd", &["--keep-bytes", "none", "--rotate-size", "200kB"]);
    listening.feed(80_000, 40_000);
    listening.end();
    assert_sound(&store);
    let summary = place.summary();
    assert_eq!(
        summary["sinks"][0]["dropped"].get("disk"),
        None,
        "{summary}"
    );
    let manifest = json_lines(&fs::read_to_string(store.join("MANIFEST.jsonl")).unwrap());
    assert!(manifest.iter().any(|line| line["because"] == "disk_full"));
}

/// A file that is packed goes to the disk in large pieces. Where the last ones find no room, that is told with its
/// cause, and their packets are counted as not written.
#[test]
fn a_disk_that_is_full_at_the_very_end_is_told() {
    for (codec, extension) in CODECS {
        for name in [format!("out.pcapng.{extension}"), "st/".to_owned()] {
            let Some(small) = Small::new(32 << 10) else {
                return;
            };
            let place = Place::new();
            // Less than may be on its way.
            let input = place.generate(3000);
            let out = small.0.path().join(&name);
            let mut command = vxtap_command(["replay"]);
            command
                .arg(input)
                .args(["--compress", codec, "-w"])
                .arg(&out);
            command.arg("--summary").arg(place.path("s.json"));
            if name == "st/" {
                command.args(["--on-full", "exit", "--keep-bytes", "none"]);
            }
            let done = run(&mut command);
            let what = format!("{codec} {name}: {}", done.stderr);
            assert_eq!(done.code, Some(1), "{what}");
            assert!(done.stderr.contains("No space left on device"), "{what}");
            let sink = &place.summary()["sinks"][0];
            let reason = if name == "st/" { "disk" } else { "write" };
            let dropped = sink["dropped"].as_object().unwrap();
            assert_eq!(dropped.keys().collect::<Vec<_>>(), [reason], "{what}");
            if name != "st/" {
                let (content, is_whole) = content(&name, &fs::read(&out).unwrap());
                assert!(is_whole, "{what}");
                assert_eq!(sink["written"], frames(&content).len(), "{what}");
            }
        }
    }
}
