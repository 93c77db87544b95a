//! Input that is damaged, outputs that cannot be written, flags that make no sense: the exit code, what
//! is said, and that nothing is lost that was there before.

mod common;

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use common::{
    Run, assert_closes, expected, replay, replay_testdata, testdata, tool, vxtap, vxtap_fed,
};
use serde_json::Value;
use tempfile::TempDir;

/// The flags as one list, from text and paths alike.
fn args(args: &[&dyn AsRef<std::ffi::OsStr>]) -> Vec<OsString> {
    args.iter().map(|arg| arg.as_ref().to_owned()).collect()
}

#[track_caller]
fn assert_says(run: &Run, code: i32, words: &[&str]) {
    assert_eq!(run.code, Some(code), "{}", run.stderr);
    for word in words {
        assert!(
            run.stderr.contains(word),
            "no \"{word}\" in: {}",
            run.stderr
        );
    }
    assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
}

fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

// ---------------------------------------------------------------------------------------------
// Damaged captures

/// Packets before the damage, and what is said of it: byte and reason.
const DAMAGED: [(&str, u64, &str); 11] = [
    (
        "cut-record.pcap",
        3,
        "byte 474: the file ends inside a record: 122 of 152 bytes are there; 3 packets before it were read",
    ),
    (
        "cut-header.pcap",
        2,
        "byte 323: the file ends inside a record header: 7 of 16 bytes are there; 2 packets",
    ),
    (
        "huge-caplen.pcap",
        2,
        "byte 323: a record of 2147483647 bytes, more than 262144; 2 packets",
    ),
    (
        "cut-block.pcapng",
        2,
        "byte 408: the file ends inside a block: 138 of 168 bytes are there; 2 packets",
    ),
    (
        "bad-trailer.pcapng",
        2,
        "byte 408: a block of 168 bytes whose trailing length says 44; 2 packets",
    ),
    (
        "huge-block.pcapng",
        2,
        "byte 408: a block of 2147483632 bytes, more than 16777216; 2 packets",
    ),
    (
        "zero-block.pcapng",
        2,
        "byte 408: a block of 0 bytes; blocks have at least 12 and a multiple of 4; 2 packets",
    ),
    (
        "epb-caplen-over.pcapng",
        2,
        "byte 408: a packet of 5000 bytes in a block with room for 136; 2 packets",
    ),
    (
        "epb-no-interface.pcapng",
        2,
        "byte 408: a packet of interface 3, but 1 are described; 2 packets",
    ),
    (
        "cut.pcap.gz",
        2,
        "byte 323 of the unpacked file (gzip): cannot read on: incomplete deflate stream; 2 packets",
    ),
    (
        "../unsupported-link.pcap",
        0,
        "byte 20: link type 195 (IEEE802_15_4_WITHFCS) cannot be read; these can: ETHERNET (1)",
    ),
];

#[test]
fn damage_ends_a_file_and_keeps_what_came_before() {
    for (name, packets, reason) in DAMAGED {
        let path = testdata("malformed").join(name);
        let replayed = replay([&path]);
        let told = format!("{}: {reason}", path.display());
        assert_says(&replayed.run, 1, &[&told]);
        if packets == 0 {
            assert_eq!(names_in(replayed.dir.path()), [""; 0], "{name}");
            continue;
        }
        assert_closes(&replayed.summary);
        assert_eq!(replayed.count("received"), packets, "{name}");
        assert_eq!(replayed.count("delivered"), packets, "{name}");
        assert_eq!(replayed.frames().len() as u64, packets, "{name}");
        assert_eq!(replayed.packets_in_flows(), packets, "{name}");
        let errors = replayed.summary["errors"].as_array().unwrap();
        assert_eq!(errors.len(), 1, "{name}");
        assert!(errors[0].as_str().unwrap().starts_with(&told), "{errors:?}");
        assert_eq!(
            names_in(replayed.dir.path()),
            ["out.json", "out.jsonl", "out.pcapng"],
            "{name}"
        );
    }
}

/// The offsets above are those of the first byte that cannot be used: up to there the file is sound for
/// a peer too, and holds as many packets.
#[test]
fn up_to_the_damage_a_file_is_sound() {
    if !tool("capinfos") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (name, packets, reason) in DAMAGED {
        if packets == 0 || name.ends_with(".gz") {
            continue;
        }
        let offset = reason.strip_prefix("byte ").unwrap();
        let offset: usize = offset.split(':').next().unwrap().parse().unwrap();
        let bytes = fs::read(testdata("malformed").join(name)).unwrap();
        let sound = dir.path().join(name);
        fs::write(&sound, &bytes[..offset]).unwrap();
        let mut command = std::process::Command::new("capinfos");
        let capinfos = common::run(command.arg("-Mc").arg(&sound));
        assert_says(&capinfos, 0, &[]);
        let said = String::from_utf8_lossy(&capinfos.stdout);
        let count = said
            .lines()
            .find_map(|line| line.strip_prefix("Number of packets:"));
        assert_eq!(count.unwrap().trim(), packets.to_string(), "{name}: {said}");
    }
}

#[test]
fn files_that_are_no_capture() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("three"), [0xd4, 0xc3, 0xb2]).unwrap();
    fs::write(
        path("gzip-of-nothing.gz"),
        [
            0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ],
    )
    .unwrap();
    fs::write(path("gzip-cut.gz"), [0x1f, 0x8b, 8]).unwrap();
    let malformed = testdata("malformed");
    for (file, words) in [
        (
            malformed.join("empty.pcap"),
            "is empty: there is no capture in it",
        ),
        (
            malformed.join("not-a-capture.pcap"),
            "is not a capture file: it starts with 54 68 69 73, neither pcap nor pcapng",
        ),
        (
            malformed.join("short-file.pcap"),
            "byte 0: the file ends inside the pcap file header: 10 of 24 bytes are there",
        ),
        (
            malformed.join("bad-version.pcap"),
            "byte 0: pcap version 9.9",
        ),
        (
            path("three"),
            "is not a capture file: it starts with d4 c3 b2",
        ),
        (path("gzip-of-nothing.gz"), "is empty"),
        (path("gzip-cut.gz"), "byte 0 of the unpacked file (gzip)"),
        (path("missing"), "No such file or directory"),
        (
            dir.path().to_owned(),
            "is a directory, not a capture file: name the files in it",
        ),
    ] {
        let replayed = replay([&file]);
        assert_says(&replayed.run, 1, &[words, file.to_str().unwrap()]);
        assert_eq!(names_in(replayed.dir.path()), [""; 0], "{}", file.display());
    }
}

/// The system's own words come once.
#[test]
fn messages_do_not_repeat_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = dir.path().join("no/where");
    let demo = testdata("demo.pcap");
    for flag in ["-w", "--flows", "--summary"] {
        let run = vxtap(args(&[&"replay", &demo, &flag, &nowhere]));
        assert_eq!(
            run.stderr.matches("does not exist").count(),
            1,
            "{}",
            run.stderr
        );
    }
}

/// Broken packets in a sound file are counted, and are no error.
#[test]
fn sound_files_with_odd_packets() {
    let header_only = replay([testdata("malformed/header-only.pcap")]);
    assert_says(
        &header_only.run,
        0,
        &["is a sound capture file without a single packet"],
    );
    assert_eq!(header_only.count("received"), 0);
    // libpcap refuses a pcapng file without an interface: there is one even without packets.
    assert_eq!(header_only.frames(), []);
    let stored = fs::read(header_only.capture()).unwrap();
    assert!(
        stored.windows(4).any(|bytes| bytes == b"none"),
        "no interface in {stored:?}"
    );

    let replayed = replay([testdata("malformed/caplen-over-len.pcap")]);
    assert_says(&replayed.run, 0, &[]);
    assert_eq!(replayed.count("delivered"), 3);
    for frame in replayed.frames() {
        assert!(frame.orig_len as usize >= frame.bytes.len());
    }

    let geneve = replay_testdata("malformed/geneve-cut.pcap", &[]);
    assert_eq!(
        (geneve.count("received"), geneve.count("delivered")),
        (11, 3)
    );
    assert_eq!(
        geneve.reasons("malformed"),
        expected([("geneve_short", 2), ("vxlan_short", 1)])
    );
    assert_eq!(
        geneve.reasons("filtered"),
        expected([("probe", 2), ("geneve_not_mirror", 3)])
    );
    let gpe = replay_testdata("malformed/gpe-cut.pcap", &[]);
    assert_eq!((gpe.count("received"), gpe.count("delivered")), (8, 3));
    assert_eq!(gpe.reasons("malformed"), expected([("inner_empty", 1)]));
    assert_eq!(
        gpe.reasons("filtered"),
        expected([("probe", 1), ("gpe_not_decoded", 3)])
    );
}

/// One bad file among good ones: the good ones are read, the exit code tells.
#[test]
fn a_bad_file_among_good_ones() {
    let replayed = replay([
        testdata("demo.pcap"),
        testdata("malformed/cut-record.pcap"),
        testdata("malformed/missing.pcap"),
        testdata("session-96.pcap"),
    ]);
    assert_says(
        &replayed.run,
        1,
        &["cut-record.pcap: byte 474", "missing.pcap: No such file"],
    );
    assert_closes(&replayed.summary);
    assert_eq!(replayed.count("received"), 200 + 3 + 11);
    assert_eq!(replayed.frames().len(), 198 + 3 + 11);
    assert_eq!(replayed.summary["errors"].as_array().unwrap().len(), 2);
}

#[test]
fn damage_on_standard_input() {
    let whole = fs::read(testdata("demo.pcap")).unwrap();
    let run = vxtap_fed(["replay", "-", "--summary", "-"], &whole[..1000]);
    assert_says(
        &run,
        1,
        &["standard input: byte ", "the file ends inside a record"],
    );
    let summary: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_closes(&summary);
    assert!(summary["received"].as_u64().unwrap() > 2);
    let nothing = vxtap_fed(["replay", "-"], b"");
    assert_says(&nothing, 1, &["standard input is empty"]);
}

/// A file without mirrored traffic is no error, but it says what to try.
#[test]
fn nothing_mirrored_in_the_file() {
    let plain = replay([testdata("plain.pcap")]);
    assert_says(
        &plain.run,
        0,
        &[
            "none of its 32 packets is VXLAN on UDP port 4789",
            "UDP destination ports seen: 53 (1)",
            "--plain",
            "--port",
        ],
    );
    assert_closes(&plain.summary);
    assert_eq!((plain.count("received"), plain.count("delivered")), (32, 0));
    assert_eq!(plain.flows, [Value::Null; 0]);
    let clear = replay([
        testdata("malformed/gpe-cut.pcap"),
        testdata("plain-sll.pcap"),
    ]);
    assert_says(
        &clear.run,
        0,
        &["plain-sll.pcap: none of its 5 packets is VXLAN"],
    );
    // The malformed packets are another file's.
    assert_says(&clear.run, 0, &["use --plain"]);
    assert!(
        !clear.run.stderr.contains("gpe-cut.pcap: none"),
        "{}",
        clear.run.stderr
    );
}

/// Ports of the other tunnels have flags of their own.
#[test]
fn another_tunnel_in_the_file() {
    for (file, flags, told) in [
        (
            "gpe.pcap",
            "--gpe-port 0",
            "looks like VXLAN: try --gpe-port 4790.",
        ),
        (
            "geneve.pcap",
            "--geneve-port 0",
            "Port 6081 is that of Geneve: --geneve-port 6081 reads it.",
        ),
        (
            "session-96.pcap",
            "--geneve-port 4789",
            "none of its 11 packets is Geneve around Ethernet or VXLAN on UDP port 4789.",
        ),
        (
            "probes.pcap",
            "--port 9 --gpe-port 0",
            "packets is VXLAN on UDP port 9.",
        ),
    ] {
        let path = testdata(file);
        let words = ["replay", path.to_str().unwrap()];
        let said = vxtap(words.into_iter().chain(flags.split(' ')));
        assert_says(&said, 0, &[told]);
    }
}

/// What --allow and --vni keep out was VXLAN, and on the right port.
#[test]
fn nothing_wanted_in_the_file() {
    for (flags, told) in [
        (
            &["--allow", "192.0.2.0/24"][..],
            "session-96.pcap: nothing is left of its 11 packets: 11 packets came from an address that --allow does not name.",
        ),
        (
            &["--vni", "7,9"],
            "session-96.pcap: nothing is left of its 11 packets: 11 packets had a VNI that --vni does not name, or --vni-deny does.",
        ),
    ] {
        let file = testdata("session-96.pcap");
        let words = ["replay", file.to_str().unwrap()];
        let said = vxtap([&words, flags].concat());
        assert_says(&said, 0, &[told]);
        assert!(!said.stderr.contains("is VXLAN"), "{}", said.stderr);
    }
    let other = testdata("other-port.pcap");
    let said = vxtap(["replay", other.to_str().unwrap(), "--port", "9"]);
    assert_says(
        &said,
        0,
        &[
            "1 datagram to port 40000 looks like VXLAN: try --port 40000.",
            "3 datagrams to port 8472 look like VXLAN: try --port 8472.",
            "none of its 5 packets is VXLAN on UDP port 9.\n",
        ],
    );
    assert!(!said.stderr.contains("--plain"), "{}", said.stderr);
}

// ---------------------------------------------------------------------------------------------
// Outputs

fn copy_of_demo(dir: &TempDir) -> std::path::PathBuf {
    let input = dir.path().join("in.pcap");
    fs::copy(testdata("demo.pcap"), &input).unwrap();
    input
}

fn assert_untouched(input: &Path) {
    assert!(
        fs::read(input).unwrap() == fs::read(testdata("demo.pcap")).unwrap(),
        "{} is not what it was",
        input.display()
    );
}

#[cfg(unix)]
#[test]
fn the_input_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let input = copy_of_demo(&dir);
    let path = |name: &str| dir.path().join(name);
    std::os::unix::fs::symlink("in.pcap", path("symlink")).unwrap();
    std::os::unix::fs::symlink(".", path("here")).unwrap();
    fs::hard_link(&input, path("hard-link")).unwrap();
    let before = names_in(dir.path());
    for name in [
        "in.pcap",
        "./in.pcap",
        "symlink",
        "hard-link",
        "here/in.pcap",
    ] {
        for flag in ["-w", "--flows", "--summary"] {
            for from in [&input, &path("symlink")] {
                let run = vxtap(args(&[&"replay", from, &flag, &path(name)]));
                assert_says(
                    &run,
                    2,
                    &[flag, "would overwrite the input", from.to_str().unwrap()],
                );
            }
        }
    }
    assert_untouched(&input);
    assert_eq!(names_in(dir.path()), before, "nothing is left behind");
}

/// The shell opens the file for standard input; its name is not told, but the file can be known.
#[cfg(unix)]
#[test]
fn the_file_on_standard_input_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let input = copy_of_demo(&dir);
    let output = common::vxtap_command(args(&[&"replay", &"-", &"-w", &input]))
        .stdin(fs::File::open(&input).unwrap())
        .output()
        .unwrap();
    assert_untouched(&input);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn two_outputs_in_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let demo = testdata("demo.pcap");
    let one = dir.path().join("one");
    for [first, second] in [
        ["-w", "--flows"],
        ["-w", "--summary"],
        ["--flows", "--summary"],
        ["--flows", "--flows"],
    ] {
        for place in [one.as_os_str(), "-".as_ref()] {
            let run = vxtap(args(&[&"replay", &demo, &first, &place, &second, &place]));
            assert_says(&run, 2, &[first, second, "both write to"]);
            assert_eq!(run.stdout, b"");
        }
    }
    assert_eq!(names_in(dir.path()), [""; 0]);
}

/// The same file by two names, before it exists: one output must not replace the other in silence.
#[test]
fn two_outputs_in_one_file_by_two_names() {
    let demo = fs::canonicalize(testdata("demo.pcap")).unwrap();
    for [first, second] in [
        ["-w", "--flows"],
        ["-w", "--summary"],
        ["--flows", "--summary"],
        ["--flows", "--flows"],
    ] {
        for other_name in ["./one", "folder/../one"] {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("folder")).unwrap();
            let flags = args(&[&"replay", &demo, &first, &"one", &second, &other_name]);
            let run = common::run(common::vxtap_command(flags).current_dir(dir.path()));
            assert_says(&run, 2, &[first, second, "both write to"]);
            assert_eq!(names_in(dir.path()), ["folder"], "{first} {second}");
        }
    }
}

/// What is asked for by a link is written where the link leads; the link stays.
#[cfg(unix)]
#[test]
fn an_output_behind_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("real"), "old").unwrap();
    std::os::unix::fs::symlink("real", path("link")).unwrap();
    let run = vxtap(args(&[
        &"replay",
        &testdata("demo.pcap"),
        &"--flows",
        &path("link"),
    ]));
    assert_says(&run, 0, &[]);
    assert!(path("link").is_symlink(), "the link was replaced");
    assert_eq!(
        fs::read_to_string(path("real")).unwrap().lines().count(),
        17
    );

    // As /dev/stdout is one: the data belong into what standard output is, here a file.
    std::os::unix::fs::symlink("/proc/self/fd/1", path("stdout")).unwrap();
    let output = fs::File::create(path("redirected")).unwrap();
    let status = common::vxtap_command(args(&[
        &"replay",
        &testdata("demo.pcap"),
        &"--flows",
        &path("stdout"),
    ]))
    .stdout(output)
    .stderr(std::process::Stdio::null())
    .status()
    .unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(path("stdout").is_symlink(), "the link was replaced");
    assert_eq!(
        fs::read_to_string(path("redirected"))
            .unwrap()
            .lines()
            .count(),
        17
    );
}

#[test]
fn outputs_that_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("folder")).unwrap();
    let demo = testdata("demo.pcap");
    for flag in ["-w", "--flows", "--summary"] {
        let missing = path("no/out");
        let run = vxtap(args(&[&"replay", &demo, &flag, &missing]));
        assert_says(
            &run,
            1,
            &[
                "cannot write",
                missing.to_str().unwrap(),
                "no does not exist",
            ],
        );
    }
    // The others write a store there.
    let run = vxtap(args(&[&"replay", &demo, &"--summary", &path("folder")]));
    assert_says(
        &run,
        1,
        &["cannot write", "it is a directory; name a file in it"],
    );
    // A file where the directory of a store belongs.
    fs::write(path("file"), "old").unwrap();
    for flag in ["-w", "--flows"] {
        let run = vxtap(args(&[&"replay", &demo, &flag, &path("file/")]));
        assert_says(&run, 1, &["cannot write", "a store needs a directory"]);
    }
    assert_eq!(fs::read(path("file")).unwrap(), b"old");
    fs::remove_file(path("file")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    for flag in ["-w", "--flows"] {
        let run = vxtap(args(&[&"replay", &demo, &flag, &path("socket")]));
        assert_says(&run, 1, &["socket: it is a socket; name a file or a FIFO"]);
    }
    let run = vxtap(args(&[&"replay", &path("socket")]));
    assert_says(&run, 1, &["socket: it is a socket: name a file or a FIFO"]);
    drop(socket);
    fs::remove_file(path("socket")).unwrap();
    // The good output beside a bad one is not begun.
    let run = vxtap(args(&[
        &"replay",
        &demo,
        &"--flows",
        &path("good"),
        &"-w",
        &path("no/out"),
    ]));
    assert_says(&run, 1, &["no/out"]);
    assert_eq!(names_in(dir.path()), ["folder"]);
}

#[test]
fn old_results_survive_an_input_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["capture", "flows", "summary"] {
        fs::write(path(name), "old").unwrap();
    }
    for input in [
        "missing.pcap",
        "malformed/empty.pcap",
        "unsupported-link.pcap",
        "malformed",
    ] {
        let run = vxtap(args(&[
            &"replay",
            &testdata(input),
            &"-w",
            &path("capture"),
            &"--flows",
            &path("flows"),
            &"--summary",
            &path("summary"),
        ]));
        assert_says(&run, 1, &[input]);
    }
    assert_eq!(names_in(dir.path()), ["capture", "flows", "summary"]);
    for name in ["capture", "flows", "summary"] {
        assert_eq!(fs::read_to_string(path(name)).unwrap(), "old", "{name}");
    }
}

/// A disk that fills up: what is lost is counted, what stands under the file's name can be read.
#[cfg(target_os = "linux")]
mod full_disk {
    use super::*;
    use common::{VXTAP, frames, run};

    /// Runs the program in `dir` with a limit on the size of files, in units of 512 bytes.
    fn limited(dir: &Path, blocks: u32, flags: &str) -> Run {
        // The limit sends a signal first; ignored, writing fails as on a full disk.
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\" {flags} --summary -");
        let mut command = std::process::Command::new("sh");
        command
            .current_dir(dir)
            .args(["-c", &script, "sh", VXTAP, "replay"]);
        // 1.6 MB of capture: many batches.
        command.args(vec![testdata("demo.pcap"); 20]);
        run(&mut command)
    }

    /// What standard output has of it, which no limit cuts.
    fn summary(run: &Run) -> Value {
        serde_json::from_slice(&run.stdout).unwrap()
    }

    #[test]
    fn of_the_capture() {
        let dir = tempfile::tempdir().unwrap();
        let run = limited(dir.path(), 1200, "-w out.pcapng --flows out.jsonl");
        assert_says(&run, 1, &["cannot write out.pcapng: File too large"]);
        let summary = summary(&run);
        assert_closes(&summary);
        let capture = &summary["sinks"][0];
        let lost = capture["dropped"]["write"].as_u64().unwrap();
        let kept = capture["written"].as_u64().unwrap();
        assert!(lost > 0 && kept > 0, "{summary}");
        // The disk is full for the capture only: reading goes on.
        assert_eq!(summary["delivered"], 20 * 198);
        let written = frames(&fs::read(dir.path().join("out.pcapng")).unwrap());
        assert_eq!(written.len() as u64, kept);
        let size = fs::metadata(dir.path().join("out.pcapng")).unwrap().len();
        assert_eq!(capture["bytes"], size);
        // What fits stays: not a record more would have found room.
        assert!(size + 1600 > 1200 * 512, "{size}");
        assert!(!dir.path().join(".out.pcapng.part").exists());
        // Flows of packets that reached us are told, written or not.
        let flows = fs::read_to_string(dir.path().join("out.jsonl")).unwrap();
        let flows: u64 = common::json_lines(&flows)
            .iter()
            .map(common::flow_packets)
            .sum();
        let not_ip = summary["noted"]["inner_not_ip"].as_u64().unwrap();
        assert_eq!(flows + not_ip, kept + lost);
    }

    /// The input that was not read any more is not called empty.
    #[test]
    fn says_nothing_of_files_it_did_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let run = limited(dir.path(), 10, "-w out.pcapng");
        assert_says(&run, 1, &["cannot write out.pcapng: File too large"]);
        assert!(
            !run.stderr.contains("without a single packet"),
            "{}",
            run.stderr
        );
    }

    #[test]
    fn of_the_flow_records() {
        let dir = tempfile::tempdir().unwrap();
        let run = limited(dir.path(), 18, "--flows out.jsonl");
        assert_says(&run, 1, &["cannot write out.jsonl: File too large"]);
        let summary = summary(&run);
        assert_closes(&summary);
        // A file in which records are missing does not pass for a whole one.
        assert!(!dir.path().join("out.jsonl").exists());
        let text = fs::read_to_string(dir.path().join(".out.jsonl.part")).unwrap();
        let kept = common::json_lines(&text).len();
        assert!(kept > 0, "{summary}");
        let sink = &summary["sinks"][0];
        assert_eq!(sink["written"], kept, "{summary}");
        assert_eq!(sink["bytes"], text.len());
        assert_eq!(sink["path"], ".out.jsonl.part");
    }
}

/// Pieces of datagrams that never become whole must not fill the memory, however small they are.
#[cfg(target_os = "linux")]
#[test]
fn open_fragments_take_bounded_memory() {
    // Raw IPv4, first pieces without a byte of payload, each of another datagram.
    let pieces = 200_000u32;
    let mut capture = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0];
    capture.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 101, 0, 0, 0]);
    for number in 0..pieces {
        capture.extend([0, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0, 20, 0, 0, 0]);
        let [high, low, id @ ..] = number.to_be_bytes();
        capture.extend([0x45, 0, 0, 20, id[0], id[1], 0x20, 0, 64, 17, 0, 0]);
        capture.extend([10, 0, high, low, 10, 0, 9, 9]);
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pieces.pcap");
    fs::write(&path, capture).unwrap();
    // Eight MiB are meant for them, and twice as much for what stands around; the rest is the program, all of which is
    // mapped.
    let program = fs::metadata(common::VXTAP).unwrap().len() >> 10;
    let script = format!("ulimit -v {}; exec \"$@\"", program + (24 << 10));
    let mut command = std::process::Command::new("sh");
    command.args([
        "-c",
        &script,
        "sh",
        common::VXTAP,
        "replay",
        "--summary",
        "-",
    ]);
    let run = common::run(command.arg(&path));
    assert_says(&run, 0, &[]);
    let summary: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_closes(&summary);
    assert_eq!(summary["received"], pieces);
}

// ---------------------------------------------------------------------------------------------
// Flags

#[test]
fn flags_that_make_no_sense() {
    let demo = testdata("demo.pcap");
    let demo = demo.to_str().unwrap();
    for (flags, word) in [
        ("--mtu 0", "--mtu"),
        ("--mtu 67", "--mtu"),
        ("--mtu 65536", "--mtu"),
        ("--mtu -1", "-1"),
        ("--port 0", "--port"),
        ("--port 65536", "--port"),
        ("--port vxlan", "--port"),
        ("--gpe-port 65536", "--gpe-port"),
        ("--geneve-port x", "--geneve-port"),
        (
            "--gpe-port 6081 --geneve-port 6081",
            "both --gpe-port and --geneve-port",
        ),
        ("--port 9 --gpe-port 9", "both --port and --gpe-port"),
        (
            "--gpe-port 0 --gpe-port 4790",
            "--gpe-port 0 means none and cannot stand beside another --gpe-port",
        ),
        (
            "--geneve-port 7 --geneve-port 0",
            "--geneve-port 0 means none",
        ),
        ("--depth 0", "--depth"),
        ("--depth 17", "--depth"),
        ("--max-flows 0", "--max-flows"),
        ("--max-flows 4294967296", "--max-flows"),
        ("--format x", "pcapng, pcap"),
        ("--mtu-overhead 1001", "--mtu-overhead"),
        ("--mtu 68 --mtu-overhead 68", "leaves nothing of --mtu 68"),
        ("--no-such-flag", "--no-such-flag"),
        ("-w", "--write"),
    ] {
        let flags = flags.split(' ');
        let run = vxtap(["replay", demo].into_iter().chain(flags));
        assert_says(&run, 2, &[word]);
        assert_eq!(run.stdout, b"");
    }
    for no_sense in [&["replay"][..], &["replay", "-", "-"], &["record"], &[]] {
        let run = vxtap(no_sense);
        assert_says(&run, 2, &[]);
        assert!(!run.stderr.is_empty());
    }
    let plain = testdata("plain.pcap");
    let nowhere = vxtap(["send", plain.to_str().unwrap()]);
    assert_says(&nowhere, 2, &["--to or --write is needed"]);
    // Help and version are no errors, and go to standard output.
    for fine in ["--help", "--version", "replay --help"] {
        let run = vxtap(fine.split(' '));
        assert_says(&run, 0, &[]);
        assert!(run.stdout.starts_with(b"vxtap") || run.stdout.windows(5).any(|at| at == b"Usage"));
    }
}
