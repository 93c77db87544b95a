//! What `vxtap listen` does with less than it asks for: address space, privileges.
#![cfg(target_os = "linux")]

mod common;

use common::lab::{Ended, Lab, Listener, Side, TO_V4, datagram};
use common::{program_in, run, tool, with_capabilities};

/// Sends a hundred packets and expects them to arrive, each once.
#[track_caller]
fn assert_works(lab: &Lab, mut listener: Listener) -> Ended {
    let socket = lab.udp(Side::Sender, "10.77.0.1:0");
    for number in 0..100 {
        socket.send_to(&datagram(7, number, 60), TO_V4).unwrap();
    }
    listener.wait_for(100);
    let ended = listener.end();
    ended.assert_well();
    assert_eq!(ended.count("received"), 100);
    assert_eq!(ended.count("delivered"), 100);
    assert_eq!(ended.kernel_dropped(), 0);
    ended.assert_capture(&ended.capture);
    ended
}

/// Address space for a small ring only, then for none at all.
#[test]
fn a_ring_leaves_room_for_the_rest() {
    if !tool("prlimit") {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    // With one arena malloc takes what it needs, not what it may need.
    let one_arena = ["env", "MALLOC_ARENA_MAX=1"];
    let sockets = ["--backend", "udp", "--workers", "1"];
    let mut listener = lab.listen_with(&one_arena, &sockets, "");
    let socket = lab.udp(Side::Sender, "10.77.0.1:0");
    socket.send_to(&datagram(7, 0, 60), TO_V4).unwrap();
    listener.wait_for(1);
    let status = std::fs::read_to_string(format!("/proc/{}/status", listener.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmPeak:"));
    let peak = line.unwrap().split_whitespace().nth(1).unwrap();
    let peak = peak.parse::<usize>().unwrap() << 10;
    listener.end().assert_well();

    let limited = |more: usize, backend: &str| {
        let limit = format!("--as={}", peak + more);
        let before = [&one_arena[..], &["prlimit", &limit]].concat();
        lab.start(&before, &["--backend", backend, "--workers", "1"], "")
    };
    for backend in ["packet", "auto"] {
        let mut listener = limited(40 << 20, backend);
        listener.wait_said("listening on ");
        let begin = listener.begin.clone();
        assert!(
            begin.contains("no memory for a larger packet ring"),
            "{begin}"
        );
        assert!(begin.contains("packet ring on dst0"), "{begin}");
        assert_works(&lab, listener);
    }
    let mut listener = limited(4 << 20, "auto");
    listener.wait_said("listening on ");
    let begin = listener.begin.clone();
    assert!(begin.contains("falling back to sockets"), "{begin}");
    assert!(
        begin.contains("UDP sockets (no packet ring on dst0: "),
        "{begin}"
    );
    assert_works(&lab, listener);

    let ended = limited(4 << 20, "packet").wait();
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    assert!(
        ended.said.contains("no packet ring on dst0: "),
        "{}",
        ended.said
    );
    assert!(
        ended.said.contains("--backend udp works without"),
        "{}",
        ended.said
    );
    assert!(!ended.said.contains("panicked"), "{}", ended.said);
    assert!(!ended.capture.exists());
}

#[test]
fn without_net_raw_there_are_sockets() {
    let Some(lab) = Lab::new() else { return };
    let Some(words) = with_capabilities("-net_raw,-net_admin") else {
        return;
    };
    let words = words.each_ref().map(String::as_str);
    let listener = lab.listen_with(&words, &["--workers", "2"], "");
    let why = "UDP sockets (a packet ring needs CAP_NET_RAW)";
    assert!(listener.begin.contains(why), "{}", listener.begin);
    assert_works(&lab, listener);

    let ended = lab.start(&words, &["--backend", "packet"], "").wait();
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    assert!(
        ended.said.contains("no packet ring on dst0: "),
        "{}",
        ended.said
    );
    let remedy = "run as root, or 'setcap cap_net_raw,cap_net_admin,cap_bpf+ep'";
    assert!(ended.said.contains(remedy), "{}", ended.said);
    assert!(!ended.capture.exists());
}

/// The ring works, and says that packets also go the long way; none is counted twice, no sender is told
/// that nobody listens.
#[test]
fn without_net_admin_packets_also_go_the_long_way() {
    let Some(lab) = Lab::new() else { return };
    let Some(words) = with_capabilities("-net_admin,-sys_admin") else {
        return;
    };
    let words = words.each_ref().map(String::as_str);
    for workers in ["1", "2"] {
        let args = ["--backend", "packet", "--workers", workers];
        let listener = lab.listen_with(&words, &args, "");
        assert!(
            listener.begin.contains("packet ring on dst0"),
            "{}",
            listener.begin
        );
        let cost = "packets not kept from the UDP stack";
        assert!(listener.begin.contains(cost), "{}", listener.begin);
        assert_works(&lab, listener);
    }
    assert_eq!(lab.snmp("Icmp:", "OutDestUnreachs"), 0);
}

/// With however few open files it works, or says what it lacks.
#[test]
fn without_open_files_it_ends_with_an_error() {
    if !tool("prlimit") {
        return;
    }
    let listen: &[&str] = &["listen", "--backend", "udp", "--bind", "127.0.0.1:0"];
    let demo = common::testdata("demo.pcap");
    let demo = demo.to_str().unwrap();
    let outputs: &[&str] = &[
        "-w",
        "c.pcapng",
        "--flows",
        "f.jsonl",
        "--summary",
        "s.json",
    ];
    let runs = [
        [listen, &["--workers", "2", "--duration", "50ms"], outputs].concat(),
        [&["replay", "--workers", "2", demo], outputs].concat(),
        vec!["send", demo, "--write", "c.pcapng"],
        vec!["send", "--generate", "--count", "10", "--to", "127.0.0.1:9"],
    ];
    for args in runs {
        let mut codes = std::collections::BTreeSet::new();
        // The loader needs one beside the three that are open.
        for files in 4..24 {
            let dir = tempfile::tempdir().unwrap();
            let mut command = std::process::Command::new("prlimit");
            command.arg(format!("--nofile={files}"));
            command.arg(common::VXTAP).args(&args);
            let done = run(command.current_dir(dir.path()));
            let about = format!("{files} files, {args:?}: {}", done.stderr);
            assert!(!done.stderr.contains("panicked"), "{about}");
            codes.insert(done.code);
            if done.code == Some(0) {
                continue;
            }
            assert_eq!(done.code, Some(1), "{about}");
            assert!(done.stderr.contains("vxtap: error: "), "{about}");
            assert!(done.stderr.contains("Too many open files"), "{about}");
        }
        assert_eq!(codes, [Some(0), Some(1)].into(), "{args:?}");
    }
}

/// A system that gives no thread is an error that says so, with cores to check and without.
#[test]
fn without_threads_it_ends_with_an_error() {
    use std::os::unix::fs::PermissionsExt;
    // The limit does not hold for root.
    if Lab::new().is_none() || !tool("setpriv") || !tool("prlimit") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = program_in(dir.path());
    for cores in [&[][..], &["--cpus", "0"]] {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid", "54321", "--regid", "54321", "--clear-groups"]);
        command.args(["prlimit", "--nproc=1"]).arg(&program);
        command.args(["listen", "--backend", "udp", "--bind", "127.0.0.1:0"]);
        let output = command.args(["--duration", "100ms"]).args(cores).output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{said}");
        assert!(said.contains("Resource temporarily unavailable"), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}
