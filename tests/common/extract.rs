//! Packets out of stores under test: a store to take them from, and what tshark finds in the same packets.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::{Frame, frames, json_lines, vxtap};

/// A store, and beside it everything in one file and flow records.
pub struct Stored {
    pub dir: TempDir,
    pub flows: Vec<Value>,
}

impl Stored {
    /// Replays `input` into a store with `flags`.
    pub fn of(input: &Path, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let input = input.to_str().unwrap();
        let whole = vxtap(["replay", input, "-w", &path("all.pcapng")]);
        assert!(matches!(whole.code, Some(0)), "{}", whole.stderr);
        let (store, flows) = (path("st/"), path("flows.jsonl"));
        let words = ["replay", input, "-w", &store, "--flows", &flows];
        let done = vxtap(words.iter().chain(flags));
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        let flows = json_lines(&fs::read_to_string(flows).unwrap());
        Self { dir, flows }
    }

    /// Generated traffic: IPv4 and IPv6, tags, three VNIs, some packets cut.
    pub fn generated(flags: &[&str]) -> Self {
        Self::generated_of(6000, 300, flags)
    }

    /// The same of so many packets and flows.
    pub fn generated_of(packets: u32, flows: u32, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pcap = dir.path().join("generated.pcap");
        generate(&pcap, packets, flows, "1");
        Self::of(&pcap, flags)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn all(&self) -> PathBuf {
        self.path("all.pcapng")
    }

    pub fn store(&self) -> PathBuf {
        self.path("st")
    }

    /// The store's files with this ending.
    pub fn files(&self, ending: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.store()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let mut files: Vec<PathBuf> = paths
            .filter(|path| path.to_str().unwrap().ends_with(ending))
            .collect();
        files.sort();
        files
    }

    /// What `flags` take out of the store.
    #[track_caller]
    pub fn extract(&self, flags: &[&str]) -> Found {
        extract(&[&self.store()], &self.path("out.pcapng"), flags)
    }
}

/// Writes a capture of generated traffic with inner sessions of three VNIs.
pub fn generate(to: &Path, packets: u32, flows: u32, seed: &str) {
    let (packets, flows) = (packets.to_string(), flows.to_string());
    let words = [
        "send",
        "--generate",
        "--count",
        &packets,
        "--flows",
        &flows,
        "--seed",
        seed,
        "--vnis",
        "3",
        "--vni",
        "41",
        "--vlan-percent",
        "20",
        "--mtu",
        "1400",
        "--to",
        "192.0.2.9",
        "--source",
        "192.0.2.1",
        "--write",
    ];
    let made = vxtap(words.into_iter().chain([to.to_str().unwrap()]));
    assert_eq!(made.code, Some(0), "{}", made.stderr);
}

pub struct Found {
    pub code: Option<i32>,
    pub frames: Vec<Frame>,
    pub summary: Value,
    pub said: String,
}

/// What `flags` take out of `paths`; nothing may go wrong.
#[track_caller]
pub fn extract(paths: &[&Path], out: &Path, flags: &[&str]) -> Found {
    let found = extract_some(paths, out, flags);
    assert_eq!(found.code, Some(0), "{}", found.said);
    found
}

/// The same, whatever happens.
#[track_caller]
pub fn extract_some(paths: &[&Path], out: &Path, flags: &[&str]) -> Found {
    let summary = out.with_extension("json");
    let mut words: Vec<&str> = vec!["extract"];
    words.extend(paths.iter().map(|path| path.to_str().unwrap()));
    words.extend(["-w", out.to_str().unwrap(), "--summary"]);
    words.push(summary.to_str().unwrap());
    words.extend(flags);
    let done = vxtap(words);
    let found = frames(&fs::read(out).expect(&done.stderr));
    let summary: Value = serde_json::from_slice(&fs::read(summary).unwrap()).unwrap();
    assert_eq!(summary["packets"], found.len());
    Found {
        code: done.code,
        frames: found,
        summary,
        said: done.stderr,
    }
}

/// A whole frame of a compressed file.
pub struct Part {
    /// Where it begins in the file.
    pub at: usize,
    /// Its bytes there.
    pub len: usize,
    pub content: Vec<u8>,
}

/// The frames of a compressed file, by its name's ending; a plain one is one.
pub fn parts_of(file: &Path) -> Vec<Part> {
    let bytes = fs::read(file).unwrap();
    let ending = file.extension().unwrap().to_str().unwrap();
    let (mut parts, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let rest = &bytes[at..];
        let mut content = Vec::new();
        let behind = match ending {
            "gz" => {
                let mut decoder = flate2::bufread::GzDecoder::new(rest);
                decoder.read_to_end(&mut content).unwrap();
                decoder.into_inner().len()
            }
            "zst" => {
                let decoder = zstd::Decoder::with_buffer(rest).unwrap();
                let mut decoder = decoder.single_frame();
                decoder.read_to_end(&mut content).unwrap();
                decoder.finish().len()
            }
            _ => {
                content.extend_from_slice(rest);
                0
            }
        };
        let len = rest.len() - behind;
        parts.push(Part { at, len, content });
        at += len;
    }
    parts
}

/// The content of a file, decompressed where it is compressed.
pub fn content_of(file: &Path) -> Vec<u8> {
    let parts = parts_of(file).into_iter();
    parts.flat_map(|part| part.content).collect()
}

/// What tshark finds in a file with a display filter.
pub fn tshark(file: &Path, filter: &str, flags: &[&str]) -> Vec<Frame> {
    let out = file.with_extension("tshark.pcapng");
    let mut command = Command::new("tshark");
    command.args(flags).arg("-r").arg(file);
    command.args(["-F", "pcapng", "-Y", filter, "-w"]).arg(&out);
    let done = command.output().unwrap();
    assert!(done.status.success(), "{filter}: {done:?}");
    frames(&fs::read(out).unwrap())
}

/// In the order of their times; packets of one time in any.
pub fn sorted(mut frames: Vec<Frame>) -> Vec<Frame> {
    frames
        .sort_by(|a, b| (a.ts_ns, &a.interface, &a.bytes).cmp(&(b.ts_ns, &b.interface, &b.bytes)));
    frames
}

#[track_caller]
pub fn assert_same(found: Vec<Frame>, expected: Vec<Frame>, what: &str) {
    assert!(found.is_sorted_by_key(|frame| frame.ts_ns), "{what}");
    assert!(!expected.is_empty(), "{what} asks for nothing");
    let (found, expected) = (sorted(found), sorted(expected));
    assert_eq!(found.len(), expected.len(), "{what}");
    assert!(found == expected, "{what}");
}

/// A filter of tshark for the packets of a flow record.
pub fn display_filter(flow: &Value) -> String {
    let text = |name: &str| flow[name].as_str().unwrap();
    let (ip, tcp) = (
        if flow["ip_v"] == 4 { "ip" } else { "ipv6" },
        if flow["proto"] == 6 { "tcp" } else { "udp" },
    );
    let mut filter = format!(
        "frame.interface_name == \"vni{}@192.0.2.1\" && {ip}.addr == {} && {ip}.addr == {} && {tcp}.port == {} && \
         {tcp}.port == {}",
        flow["vni"],
        text("src_ip"),
        text("dst_ip"),
        flow["src_port"],
        flow["dst_port"]
    );
    match flow["vlan"].as_u64() {
        Some(vlan) => filter.push_str(&format!(" && vlan.id == {vlan}")),
        None => filter.push_str(" && !vlan"),
    }
    filter
}
