//! Settings of `vxtap listen` from a file, the environment and flags: what counts before what, that every mistake is told
//! with its place, that a printed file gives the same settings, and what `vxtap check` tells.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::lab::{Lab, Side, TO_V4};
use common::store::Over;
use common::{Run, run, vxtap_command};
use proptest::prelude::*;
use proptest::sample::subsequence;
use serde_json::{Value, json};
use vxtap::cli::settings::given::Given;
use vxtap::cli::settings::keys::{self, Kind};
use vxtap::cli::settings::layers::Origin;
use vxtap::cli::settings::listening::Listen;
use vxtap::cli::settings::printed;

/// Files with one mistake each: the text, where the mistake is, and what is said of it.
const BROKEN: [(&str, &str, &str); 58] = [
    // No TOML.
    (
        "[receive]\nbind = 0.0.0.0:4789\n",
        "2:11",
        "a text needs quotation marks: bind = \"0.0.0.0:4789\"",
    ),
    (
        "[receive]\nbind = \"0.0.0.0:4789\n",
        "2:21",
        "its second quotation mark is missing",
    ),
    (
        "[output]\nwrite = '/tmp/x\n",
        "2:16",
        "its second quotation mark is missing",
    ),
    (
        "[receive\nbind = \"0.0.0.0:4789\"\n",
        "1:9",
        "the name of a table is not closed: ] is missing",
    ),
    (
        "[receive]\nbind \"0.0.0.0:4789\"\n",
        "2:6",
        "'bind' has no value: '=' is missing",
    ),
    (
        "[receive]\nbind =\n",
        "2:7",
        "'bind' has no value behind its =",
    ),
    (
        "[receive]\nbind = [\"0.0.0.0:4789\"\n",
        "2:23",
        "the list is not closed: ] is missing",
    ),
    (
        "[filters]\nvni = [5, 7\n[truncation]\nmtu = 1500\n",
        "3:1",
        "the list is not closed",
    ),
    (
        "[filters]\nvni = [5 7]\n",
        "2:8",
        "a comma stands between two values",
    ),
    (
        "[filters]\nallow = [10.0.0.0/8]\n",
        "2:14",
        "a text in a list needs quotation marks",
    ),
    (
        "[receive]\nduration = 5m\n",
        "2:12",
        "a text needs quotation marks: duration = \"5m\"",
    ),
    (
        "[output]\nwrite = /var/lib/vxtap/ # here\n",
        "2:9",
        "write = \"/var/lib/vxtap/\"",
    ),
    ("[truncation]\nmtu = 1_500x\n", "2:7", "mtu = \"1_500x\""),
    (
        "[truncation]\nmtu = 01500\n",
        "2:7",
        "a number has no 0 in front",
    ),
    (
        "[output]\nno-app = True\n",
        "2:10",
        "'True' begins with a small letter",
    ),
    (
        "[output]\nwrite = \"a\"; flows = \"b\"\n",
        "2:12",
        "a line has one key and its value",
    ),
    (
        "[output]\nwrite = \"C:\\new\\x\"\n",
        "2:18",
        "a backslash in \"…\" begins an escape",
    ),
    ("; a comment\n", "1:1", "a comment begins with #"),
    ("receive:\n", "1:8", "a key is needed here"),
    ("{\"receive\": {}}\n", "1:1", "a key is needed here"),
    // Tables and keys.
    (
        "[recieve]\nbind = \"10.0.0.5:4789\"\n",
        "1:2",
        "there is no table [recieve]; is [receive] meant?",
    ),
    (
        "[network]\n",
        "1:2",
        "there is no table [network]; there are receive, output,",
    ),
    (
        "[receive]\ngro = \"on\"\n[receive]\ncount = 7\n",
        "3:2",
        "[receive] is there already",
    ),
    (
        "[receive]\ngro = \"on\"\ngro = \"off\"\n",
        "3:1",
        "'gro' is there already",
    ),
    (
        "[[receive]]\ngro = \"on\"\n[[receive]]\ngro = \"off\"\n",
        "1:3",
        "vxtap@NAME.service",
    ),
    ("receive = 5\n", "1:1", "'receive' is a table"),
    (
        "mtu = 9000\n",
        "1:1",
        "'mtu' stands outside of its table: it belongs below [truncation]",
    ),
    ("colour = \"red\"\n", "1:1", "there is no key 'colour'"),
    (
        "[receive]\nmtu = 9000\n",
        "2:1",
        "'mtu' stands in [receive] and belongs below [truncation]",
    ),
    (
        "[receive]\nbinds = \"10.0.0.5:4789\"\n",
        "2:1",
        "no key 'binds' in [receive]; is 'bind' meant?",
    ),
    (
        "[limits]\nrotate_size = \"64MiB\"\n",
        "2:1",
        "is 'rotate-size' in [store] meant?",
    ),
    (
        "[limits]\ncolour = 1\n",
        "2:1",
        "there is no key 'colour' in [limits]; there are workers, max-reorder, max-flows",
    ),
    (
        "[receive]\nconfig = \"x.toml\"\n",
        "2:1",
        "there is no key 'config' in [receive]",
    ),
    // Kinds of values.
    (
        "[limits]\nworkers = [1]\n",
        "2:11",
        "'workers' has one value; this is a list",
    ),
    (
        "[limits]\nmax-flows = true\n",
        "2:13",
        "'max-flows' needs a text in quotation marks or a number (N); this is true",
    ),
    (
        "[output]\nno-app = \"yes\"\n",
        "2:10",
        "'no-app' is true or false, without quotation marks; this is a text",
    ),
    (
        "[output]\nno-app = 1\n",
        "2:10",
        "'no-app' is true or false",
    ),
    (
        "[truncation]\nmtu = 2026-01-01\n",
        "2:7",
        "this is a date or time",
    ),
    (
        "[receive.bind]\n",
        "1:1",
        "'bind' needs a text in quotation marks or a number (ADDR:PORT); this is a table",
    ),
    (
        "[filters]\nallow = [\"10.0.0.0/8\", false]\n",
        "2:24",
        "'allow' needs a text in quotation marks",
    ),
    // Units.
    (
        "[limits]\nmax-reorder = 100\n",
        "2:15",
        "'max-reorder' lacks its unit: write \"100s\"",
    ),
    (
        "[flow-lifetimes]\nactive-timeout = \"5\"\n",
        "2:18",
        "'active-timeout' lacks its unit",
    ),
    (
        "[output]\nwrite = \"/tmp/\"\n[store]\nkeep-bytes = 10\n",
        "4:14",
        "'keep-bytes' lacks its unit: write \"10B\"",
    ),
    (
        "[duplicates]\ndedup-window = \"5y\"\n",
        "2:16",
        "invalid value '5y' for dedup-window: unknown unit 'y'",
    ),
    // What is meant.
    (
        "[receive]\nbind = \"4789\"\n",
        "2:8",
        "invalid value '4789' for bind: the address is missing",
    ),
    (
        "[receive]\nbind = [\n  \"10.0.0.5:4789\",\n  \"10.0.0.6\",\n]\n",
        "4:3",
        "invalid value '10.0.0.6' for bind: the port is missing",
    ),
    (
        "[filters]\nallow = [\"10.0.0.0/8\", \"10.0.0.1/8\"]\n",
        "2:24",
        "write 10.0.0.0/8 for the network",
    ),
    ("[filters]\nvni = \"9-5\"\n", "2:7", "write 5-9"),
    (
        "[truncation]\nmtu = 60\n",
        "2:7",
        "invalid value '60' for mtu: a number from 68",
    ),
    (
        "[limits]\nworkers = 300\n",
        "2:11",
        "a number from 1 to 256, or 'auto', is needed",
    ),
    (
        "[receive]\ngro = \"on\"\nbackend = \"packet\"\n",
        "2:7",
        "gro on is for backend udp (backend is in line 3)",
    ),
    (
        "[store]\nkeep-files = 5\n",
        "2:14",
        "keep-files is for a store: -w or --flows needs a directory",
    ),
    (
        "[output]\nflows = \"xml:f\"\n",
        "2:9",
        "'xml' is no format of flow records",
    ),
    (
        "[output]\nwrite = \"f\"\nflows = \"f\"\n",
        "2:9",
        "write and flows both write to f: choose different names (flows is in line 3)",
    ),
    (
        "[sessions]\nlabels = \"/nonexistent/labels.csv\"\n",
        "2:10",
        "cannot read labels /nonexistent/labels.csv",
    ),
    (
        "[output]\nwrite = \"/tmp/\"\n[store]\non-rotate = \"/nonexistent/hook\"\n",
        "4:13",
        "on-rotate: ",
    ),
    (
        "[output]\ngroup = \"no-such-group\"\n",
        "2:9",
        "invalid value 'no-such-group' for group: this machine has no such group: 'getent group'",
    ),
    (
        "[output]\nmode = 640\ngroup = 4294967296\n",
        "3:9",
        "invalid value '4294967296' for group: the number of a group is at most 4294967294",
    ),
];

fn file(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("vxtap.toml");
    fs::write(&path, text).unwrap();
    path
}

/// Runs `vxtap check` on a file with this text, in a directory of its own.
fn check(text: &str, args: &[&str]) -> Run {
    let dir = tempfile::tempdir().unwrap();
    file(dir.path(), text);
    let mut command = vxtap_command(["check", "vxtap.toml"]);
    run(command.args(args).current_dir(dir.path()))
}

fn errors(run: &Run) -> Vec<&str> {
    let lines = run.stderr.lines();
    lines
        .filter_map(|line| line.strip_prefix("vxtap: error: "))
        .collect()
}

#[test]
fn each_of_many_broken_files_gets_its_line_and_a_useful_sentence() {
    let mut wrong = Vec::new();
    for (text, at, words) in BROKEN {
        let done = check(text, &[]);
        assert_eq!(done.code, Some(2), "{text}{}", done.stderr);
        let errors = errors(&done);
        let place = format!("vxtap.toml:{at}: ");
        match errors.as_slice() {
            [error] if error.starts_with(&place) && error.contains(words) => {}
            _ => wrong.push(format!("{text}expected {at}: {words}\nbut {errors:#?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// What `check` says of a file, `listen` says too, and it opens nothing.
#[test]
fn all_mistakes_of_all_kinds_are_told_at_once_and_in_their_order() {
    let text = "[receive]\nbind = \"4789\"\nbinds = 1\n\n[limits]\nworkers = 0\nmax-flows = [1]\n\n[colour]\n";
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), text);
    let expected = [
        "vxtap.toml:2:8: invalid value '4789' for bind",
        "vxtap.toml:3:1: there is no key 'binds'",
        "vxtap.toml:6:11: invalid value '0' for workers",
        "vxtap.toml:7:13: 'max-flows' has one value",
        "vxtap.toml:9:2: there is no table [colour]",
        "invalid value 'x' for VXTAP_MTU: ",
        "invalid value 'maybe' for VXTAP_KEEP_EMPTY: true or false",
        "invalid value '7' for --dedup: one of mark, drop, off is needed",
    ];
    for command in [
        &["check", "vxtap.toml"][..],
        &["listen", "--config", "vxtap.toml"],
    ] {
        let mut command = vxtap_command(command);
        command.args(["--dedup", "7", "--duration", "1s"]);
        command
            .env("VXTAP_MTU", "x")
            .env("VXTAP_KEEP_EMPTY", "maybe");
        let done = run(command.current_dir(dir.path()));
        assert_eq!(done.code, Some(2), "{}", done.stderr);
        let errors = errors(&done);
        assert_eq!(errors.len(), expected.len(), "{errors:#?}");
        for words in expected {
            assert!(
                errors.iter().any(|error| error.starts_with(words)),
                "{words}: {errors:#?}"
            );
        }
        let places = errors.iter().take(5);
        let places: Vec<&str> = places.map(|error| &error[..12]).collect();
        assert!(places.is_sorted(), "{errors:#?}");
    }
    let done = check(text, &["--json"]);
    assert_eq!(done.code, Some(2));
    let told: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(told["ok"], false);
    let first = &told["mistakes"][0];
    assert_eq!((&first["line"], &first["column"]), (&json!(2), &json!(8)));
    assert_eq!(first["file"], "vxtap.toml");
    assert!(path.exists());
}

#[test]
fn files_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("long.toml");
    fs::write(&long, vec![b'#'; (1 << 20) + 1]).unwrap();
    let binary = dir.path().join("binary.toml");
    fs::write(&binary, b"[receive]\n\xff\n").unwrap();
    for (path, words) in [
        (dir.path().join("none.toml"), "No such file"),
        (dir.path().to_owned(), "Is a directory"),
        (long, "more than 1048576 bytes"),
        (binary, "the byte at offset 10 is the first that is none"),
    ] {
        let done = run(vxtap_command(["listen", "--config"]).arg(&path));
        assert_eq!(done.code, Some(2), "{}", done.stderr);
        assert!(done.stderr.contains(words), "{words}: {}", done.stderr);
        assert!(
            done.stderr.contains(path.to_str().unwrap()),
            "{}",
            done.stderr
        );
    }
}

/// The value of a key and where it came from.
fn setting(checked: &Value, key: &str) -> (Value, String, String) {
    let settings = checked["settings"].as_array().unwrap();
    let found = settings.iter().find(|one| one["key"] == key);
    let found = found.unwrap_or_else(|| panic!("no {key} in {checked}"));
    let text = |name: &str| found[name].as_str().unwrap().to_owned();
    (found["value"].clone(), text("origin"), text("from"))
}

#[test]
fn a_flag_counts_before_the_environment_and_that_before_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[truncation]\nmtu = 1400\nmtu-overhead = 50\n[receive]\nbind = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n\
                duration = \"9s\"\n[filters]\nvni = 5\n[output]\nno-app = true\n";
    let path = file(dir.path(), text);
    // The environment names the file; a flag would name another.
    let mut command = vxtap_command(["check", "--json", "--mtu", "9000"]);
    command
        .env("VXTAP_CONFIG", &path)
        .env("VXTAP_MTU", "1300")
        .env("VXTAP_MTU_OVERHEAD", "64");
    command
        .env("VXTAP_ALLOW", "10.0.0.0/8, fd00::/8")
        .env("VXTAP_NO_APP", "false");
    command.env("VXTAP_BACKEND", "");
    let done = run(&mut command);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let checked: Value = serde_json::from_slice(&done.stdout).unwrap();
    let at = |place: &str| format!("{}:{place}", path.display());
    let three =
        |value: Value, origin: &str, from: &str| (value, origin.to_owned(), from.to_owned());
    for (key, expected) in [
        ("mtu", three(json!("9000"), "flag", "--mtu")),
        (
            "mtu-overhead",
            three(json!("64"), "environment", "VXTAP_MTU_OVERHEAD"),
        ),
        (
            "bind",
            three(json!(["127.0.0.1:1", "127.0.0.1:2"]), "file", &at("5:8")),
        ),
        ("duration", three(json!("9s"), "file", &at("6:12"))),
        ("vni", three(json!(["5"]), "file", &at("8:7"))),
        ("no-app", three(json!(false), "environment", "VXTAP_NO_APP")),
        (
            "allow",
            three(
                json!(["10.0.0.0/8", "fd00::/8"]),
                "environment",
                "VXTAP_ALLOW",
            ),
        ),
        ("backend", three(json!("auto"), "default", "default")),
    ] {
        assert_eq!(setting(&checked, key), expected, "{key}");
    }
}

/// The run takes what `check` told, and the memory it names at start is what `check` named.
#[test]
fn a_run_takes_what_check_told() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[receive]\nbind = \"127.0.0.1:0\"\nbackend = \"udp\"\nduration = \"200ms\"\n[output]\n\
                write = \"out.pcapng\"\nflows = \"out.jsonl\"\nsummary = \"out.json\"\n[limits]\nmax-flows = 5000\n";
    file(dir.path(), text);
    for (workers, gro) in [("1", "off"), ("1", "on"), ("2", "off")] {
        let flags = ["--workers", workers, "--gro", gro, "--overwrite"];
        let mut command = vxtap_command(["listen", "--config", "vxtap.toml"]);
        let listened = run(command.args(flags).current_dir(dir.path()));
        assert_eq!(listened.code, Some(0), "{}", listened.stderr);
        let checked = run(vxtap_command(["check", "vxtap.toml"])
            .args(flags)
            .current_dir(dir.path()));
        assert_eq!(checked.code, Some(0), "{}", checked.stderr);
        let most = |text: &str| {
            let (_, behind) = text.split_once("at most ").unwrap();
            behind
                .split_whitespace()
                .take(2)
                .collect::<Vec<_>>()
                .join(" ")
        };
        let page = String::from_utf8(checked.stdout).unwrap();
        let page = page.split_once("\nMemory\n").unwrap().1;
        assert_eq!(
            most(page).trim_end_matches(','),
            most(&listened.stderr),
            "{page}{}",
            listened.stderr
        );
        assert!(dir.path().join("out.json").exists());
    }
}

/// Names of collectors have their addresses beside them, one without is a warning, also where nobody answers; nothing
/// goes to the collectors themselves.
#[test]
fn names_of_collectors_are_looked_up() {
    // The mounts of `ip netns exec` are its own.
    const CHECK: &str = "set -e; cd \"$1\"; shift
        for file in hosts resolv.conf nsswitch.conf; do mount --bind $file /etc/$file; done
        exec \"$@\"";
    let Some(lab) = Lab::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        (
            "hosts",
            "127.0.0.9 collector.example\n2001:db8::7 collector.example\n",
        ),
        (
            "resolv.conf",
            "nameserver 127.0.0.1\noptions timeout:30 attempts:1\n",
        ),
        ("nsswitch.conf", "hosts: files dns\n"),
    ] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let dns = lab.udp(Side::Receiver, "127.0.0.1:53");
    let udp = lab.udp(Side::Receiver, "127.0.0.9:4739");
    let tcp = lab.inside(Side::Receiver, || {
        TcpListener::bind("127.0.0.9:4739").unwrap()
    });
    let check = |words: &[&str]| {
        let dir = dir.path().to_str().unwrap();
        let words = [
            &["sh", "-c", CHECK, "sh", dir, common::VXTAP, "check"],
            words,
        ]
        .concat();
        let mut command = lab.command(Side::Receiver, &words);
        let done = run(command.env("NOTIFY_SOCKET", "/run/systemd/notify"));
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        String::from_utf8(done.stdout).unwrap()
    };
    let over = AtomicBool::new(false);
    let (json, page) = std::thread::scope(|scope| {
        let _over = Over(&over);
        scope.spawn(|| {
            let mut query = [0; 512];
            dns.set_read_timeout(Some(Duration::from_millis(50)))
                .unwrap();
            while !over.load(Ordering::Relaxed) {
                let Ok((len, asker)) = dns.recv_from(&mut query) else {
                    continue;
                };
                // One name does not exist, and nobody answers for others.
                if query[..len].windows(7).any(|word| word == b"missing") {
                    let answer = [&query[..2], b"\x81\x83", &query[4..len]].concat();
                    dns.send_to(&answer, asker).unwrap();
                }
            }
        });
        let known = [
            "--flows",
            "ipfix://collector.example",
            "--flows",
            "ipfix://192.0.2.1",
        ];
        let both = ["--flows", "ipfix+tcp://collector.example:4739"];
        let without = [
            "--flows",
            "ipfix://silent.example",
            "--flows",
            "ipfix+tcp://missing.example",
        ];
        let json = check(&[&["--json"], &known[..], &both, &without].concat());
        (json, check(&known))
    });
    let checked: Value = serde_json::from_str(&json).unwrap();
    let outbound = checked["outbound"].as_array().unwrap();
    let of = |protocol: &str, host: &str| {
        let mut found = outbound.iter();
        let found = found.find(|one| one["protocol"] == protocol && one["host"] == host);
        found.unwrap_or_else(|| panic!("no {protocol} to {host} in {json}"))
    };
    for protocol in ["udp", "tcp"] {
        let one = of(protocol, "collector.example");
        assert_eq!(one["addresses"], json!(["127.0.0.9", "2001:db8::7"]));
    }
    assert_eq!(of("udp", "192.0.2.1")["addresses"], json!(["192.0.2.1"]));
    assert_eq!(of("udp", "silent.example")["addresses"], json!([]));
    assert_eq!(of("tcp", "missing.example")["addresses"], json!([]));
    assert_eq!(of("unix", "/run/systemd/notify")["port"], Value::Null);
    let warnings = checked["warnings"].to_string();
    for told in [
        "flows ipfix://silent.example:4739: nobody has told the address of silent.example within 3 s",
        "flows ipfix+tcp://missing.example:4739: the name missing.example has no address",
        "add it to the DNS or to /etc/hosts",
    ] {
        assert!(warnings.contains(told), "{warnings}");
    }
    assert!(!warnings.contains("collector.example"), "{warnings}");
    for line in [
        "  UDP to collector.example (127.0.0.9, 2001:db8::7) port 4739  flow records",
        "  UDP to 192.0.2.1 port 4739  flow records",
        "  UNIX to /run/systemd/notify  systemd: ready, status and watchdog (NOTIFY_SOCKET)",
    ] {
        assert!(page.contains(line), "{page}");
    }
    udp.set_nonblocking(true).unwrap();
    tcp.set_nonblocking(true).unwrap();
    let nothing = std::io::ErrorKind::WouldBlock;
    assert_eq!(udp.recv(&mut [0; 1]).unwrap_err().kind(), nothing);
    assert_eq!(tcp.accept().unwrap_err().kind(), nothing);
}

#[test]
fn what_is_open_to_the_world_and_what_goes_out_is_told() {
    let told = |text: &str| -> Value {
        let done = check(text, &["--json"]);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        serde_json::from_slice(&done.stdout).unwrap()
    };
    let warnings = |checked: &Value| checked["warnings"].to_string();
    let open = told("");
    assert!(warnings(&open).contains("open to the world"), "{open}");
    assert!(
        warnings(&open).contains("The default bind takes packets on every address"),
        "{open}"
    );
    assert!(warnings(&open).contains("nothing is written"), "{open}");
    assert_eq!(open["outbound"], json!([]));
    assert_eq!(open["inbound"][0]["sources"], Value::Null);
    let closed = told(
        "[receive]\nbind = [\"127.0.0.1:4789\", \"[::1]:4789\"]\n[filters]\nallow = \"10.0.0.0/8\"\n\
         [output]\nwrite = \"store/\"\nflows = [\"ipfix+tcp://collector.example\", \"ipfix://192.0.2.1:2055\"]\n\
         tee = \"tcp://0.0.0.0:57012\"\n[store]\nkeep-bytes = \"8192TiB\"\n",
    );
    assert!(!warnings(&closed).contains("open to the world"), "{closed}");
    assert!(
        warnings(&closed).contains("tcp://0.0.0.0:57012 has no authentication"),
        "{closed}"
    );
    assert!(
        warnings(&closed).contains("the disk will be full before"),
        "{closed}"
    );
    assert_eq!(closed["inbound"][0]["sources"], json!(["10.0.0.0/8"]));
    assert_eq!(
        closed["inbound"][1]["sources"],
        json!([]),
        "no network of IPv6"
    );
    let outbound = closed["outbound"].as_array().unwrap();
    let outbound: Vec<(&str, &str, u64)> = outbound
        .iter()
        .map(|one| {
            let text = |name: &str| one[name].as_str().unwrap();
            (
                text("protocol"),
                text("host"),
                one["port"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        outbound,
        [
            ("tcp", "collector.example", 4739),
            ("udp", "the resolvers of /etc/resolv.conf", 53),
            ("udp", "192.0.2.1", 2055),
        ]
    );
    assert_eq!(closed["disk"][0]["most_bytes"], 8_u64 << 50);
    assert!(closed["disk"][0]["free_bytes"].as_u64().unwrap() > 0);
}

fn rules(kind: &str, args: &[&str]) -> String {
    let done = run(vxtap_command(["check", "--rules", kind]).args(args));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn the_least_rules_name_each_source_and_the_target() {
    let flags = [
        "--bind",
        "10.0.9.9:4789",
        "--allow",
        "192.168.0.27",
        "--allow",
        "fd00::/64",
    ];
    for kind in ["huawei", "aws", "alibaba", "nftables"] {
        let text = rules(kind, &flags);
        assert!(
            text.contains("UDP       4789   192.168.0.27/32      10.0.9.9/32\n"),
            "{text}"
        );
        assert!(
            !text.contains("fd00"),
            "no address of IPv6 is bound: {text}"
        );
        assert!(!text.contains("0.0.0.0/0"), "{text}");
        let open = rules(kind, &flags[..2]);
        assert!(open.contains("--allow names no sources"), "{open}");
    }
    for (kind, words) in [
        (
            "huawei",
            &[
                "remote_ip_prefix  = \"192.168.0.27/32\"",
                "destination_ip_address = \"10.0.9.9/32\"",
                "destination_port       = \"4789\"",
            ][..],
        ),
        (
            "aws",
            &[
                "FromPort=4789,ToPort=4789,IpRanges=[{CidrIp=192.168.0.27/32}]",
                "--cidr-block 192.168.0.27/32 --rule-action allow",
            ],
        ),
        (
            "alibaba",
            &[
                "cidr_ip           = \"192.168.0.27/32\"",
                "port           = \"4789/4789\"",
            ],
        ),
        (
            "nftables",
            &[
                "ip daddr 10.0.9.9 ip saddr 192.168.0.27/32 udp dport 4789 accept",
                "udp dport 4789 drop",
            ],
        ),
    ] {
        let text = rules(kind, &flags);
        for words in words {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
    let done = run(&mut vxtap_command(["check", "--rules", "iptables"]));
    assert_eq!(done.code, Some(2));
    assert!(
        done.stderr
            .contains("one of huawei, aws, alibaba, nftables is needed"),
        "{}",
        done.stderr
    );
}

/// nftables itself takes the rules, and lets through the sources named and nobody else.
#[test]
fn nftables_lets_exactly_the_sources_through() {
    if !common::tool("nft") {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    lab.ip(Side::Sender, "address add 10.77.0.3/24 dev src0");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rules.nft");
    fs::write(
        &path,
        rules("nftables", &["--bind", TO_V4, "--allow", "10.77.0.3"]),
    )
    .unwrap();
    let loaded = run(&mut lab.command(Side::Receiver, &["nft", "-f", path.to_str().unwrap()]));
    assert_eq!(loaded.code, Some(0), "{}", loaded.stderr);
    let receiver = lab.udp(Side::Receiver, TO_V4);
    receiver
        .set_read_timeout(Some(std::time::Duration::from_secs(30)))
        .unwrap();
    let (stranger, source) = (
        lab.udp(Side::Sender, "10.77.0.1:0"),
        lab.udp(Side::Sender, "10.77.0.3:0"),
    );
    // Packets of one path stay in order: what is not there when the last one is has been dropped.
    for (socket, text) in [
        (&source, "first"),
        (&stranger, "stranger"),
        (&source, "last"),
    ] {
        socket.send_to(text.as_bytes(), TO_V4).unwrap();
    }
    let mut received = Vec::new();
    while received.last().is_none_or(|last| last != "last") {
        let mut bytes = [0; 64];
        let len = receiver.recv(&mut bytes).unwrap();
        received.push(String::from_utf8(bytes[..len].to_vec()).unwrap());
    }
    assert_eq!(received, ["first", "last"]);
}

/// The settings of these layers, as they are meant.
fn meant(given: &mut Given) -> String {
    let listen = Listen::of(given);
    let text = format!("{listen:?} {:?}", given.mistakes.all());
    // New in every run.
    let (before, behind) = text.split_once("multiplier: ").unwrap_or((&text, ""));
    format!(
        "{before}{}",
        behind.trim_start_matches(|letter: char| letter.is_ascii_digit())
    )
}

/// What was said, without what holds by default.
fn said(given: &Given) -> Vec<(String, Value)> {
    let effective = given.layers.effective().into_iter();
    let said = effective.filter(|(_, (origin, _))| *origin != Origin::Default);
    said.map(|(name, (_, value))| (name, value)).collect()
}

fn gather_flags(values: Vec<(String, String, Value)>) -> Given {
    Given::gather(
        keys::to_typed(values).unwrap(),
        None,
        Vec::<(OsString, OsString)>::new(),
    )
}

fn gather_file(text: &str) -> Given {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), text);
    let given = Given::gather(
        Default::default(),
        Some(&path),
        Vec::<(OsString, OsString)>::new(),
    );
    assert!(
        given.mistakes.all().is_empty(),
        "{:?} {text}",
        given.mistakes.all()
    );
    given
}

fn as_value(kind: Kind, text: &str) -> Value {
    match kind {
        Kind::Switch => json!(text.len().is_multiple_of(2)),
        Kind::One => json!(text),
        Kind::Many => json!([text, "second"]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any text in any key: the printed file says the same, letter by letter.
    #[test]
    fn a_printed_file_gives_the_same_texts(
        chosen in subsequence((0..keys::all().len()).collect::<Vec<_>>(), 0..12),
        text in r#"[a-z0-9"'\\#\[\]=\n\r\t\u{0}-\u{1f}\u{7f}-\u{9f}é€😀 :/.-]{1,12}"#,
    ) {
        let keys = keys::all();
        let values = chosen.iter().map(|at| {
            let key = &keys[*at];
            // A number alone gets its unit.
            let text = key.lacks_unit(&text).unwrap_or_else(|| text.clone());
            (key.group.clone(), key.name.clone(), as_value(key.kind, &text))
        });
        let given = gather_flags(values.collect());
        let text = printed::file_of(&given.layers).unwrap();
        let again = gather_file(&text);
        prop_assert_eq!(said(&again), said(&given));
        prop_assert_eq!(printed::file_of(&again.layers).unwrap(), text);
    }

    /// Good values and bad: flags, the file printed of them, and the file printed of that mean the same.
    #[test]
    fn a_printed_file_means_the_same(
        chosen in subsequence(VALUES.to_vec(), 0..VALUES.len()),
    ) {
        let keys = keys::all();
        let values = chosen.iter().map(|(name, text)| {
            let key = keys.iter().find(|key| key.name == *name).unwrap();
            let value = match key.kind {
                Kind::Switch => json!(*text == "true"),
                Kind::One => json!(text),
                Kind::Many => text.split(' ').collect(),
            };
            (key.group.clone(), key.name.clone(), value)
        });
        let mut given = gather_flags(values.collect());
        let text = printed::file_of(&given.layers).unwrap();
        let mut again = gather_file(&text);
        prop_assert_eq!(said(&again).len(), said(&given).len());
        prop_assert_eq!(again.layers.fingerprint(), given.layers.fingerprint());
        let (one, two) = (meant(&mut given), meant(&mut again));
        // Mistakes name other places.
        if given.mistakes.all().is_empty() {
            prop_assert_eq!(one, two);
        } else {
            prop_assert_eq!(given.mistakes.all().len(), again.mistakes.all().len());
        }
    }
}

/// Values of settings, some of which contradict each other.
const VALUES: [(&str, &str); 33] = [
    ("bind", "127.0.0.1:4789 [::1]:4790"),
    ("backend", "udp"),
    ("gro", "on"),
    ("duration", "90s"),
    ("cpus", "0"),
    ("count", "1000"),
    ("overwrite", "true"),
    ("write", "/tmp/"),
    ("format", "pcap"),
    ("flows", "/tmp/ csv:/nonexistent/f.csv ipfix://192.0.2.1"),
    ("tee", "tcp://127.0.0.1:57012"),
    ("on-reader-gone", "detach"),
    ("summary", "/nonexistent/\"summary\""),
    ("mode", "0640"),
    ("compress", "zstd:3"),
    ("snaplen", "128"),
    ("slice", "headers"),
    ("no-app", "true"),
    ("prefix", "mirror"),
    ("rotate-size", "64MiB"),
    ("rotate-interval", "5m"),
    ("keep-bytes", "none"),
    ("min-free", "10%"),
    ("gpe-port", "0"),
    ("geneve-port", "6081"),
    ("depth", "2"),
    ("allow", "10.0.0.0/8 2001:db8::/32"),
    ("vni", "5,7 10-20"),
    ("mtu", "9001"),
    ("idle-timeout", "tcp=10m,rst=1s udp=2m"),
    ("active-timeout", "off"),
    ("dedup-window", "20ms"),
    ("workers", "1"),
];

/// docs/vxtap.toml, which tests/columns.rs holds equal to this.
#[test]
fn the_example_has_every_key() {
    let example = printed::example();
    // As it is it says nothing.
    assert_eq!(said(&gather_file(&example)), []);
    // With every # taken away it is TOML, has every key once, and repeats the defaults.
    let keys: BTreeSet<String> = keys::all().into_iter().map(|key| key.name).collect();
    let mut found = BTreeSet::new();
    let lines = example.lines().map(|line| match line.strip_prefix('#') {
        Some(set) if !set.starts_with(' ') => {
            found.insert(set.split(" = ").next().unwrap().to_owned());
            set
        }
        _ => line,
    });
    let set: Vec<&str> = lines.collect();
    assert_eq!(found, keys);
    let set = gather_file(&set.join("\n"));
    let effective = set.layers.effective();
    let defaults = gather_flags(Vec::new()).layers.effective();
    for (name, (_, value)) in &defaults {
        assert_eq!(&effective[name].1, value, "{name}");
    }
}

#[test]
fn a_path_that_no_file_can_name_is_told() {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::OsStr::from_bytes(b"/nonexistent/\xff.pcapng");
    let done = run(vxtap_command(["check", "--toml", "-w"]).arg(name));
    assert_eq!(done.code, Some(2), "{}", done.stderr);
    assert!(
        done.stderr.contains("cannot stand in a file of settings"),
        "{}",
        done.stderr
    );
    let done = run(Command::new(common::VXTAP).args(["check", "--toml", "--duration", "90"]));
    assert!(
        String::from_utf8(done.stdout)
            .unwrap()
            .contains("\nduration = \"90s\"\n")
    );
}
