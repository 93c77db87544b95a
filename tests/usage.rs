//! Wrong usage: what is said names the part that is wrong and what to write instead.

mod common;

use common::{Run, testdata, vxtap, vxtap_command};

fn listen(flags: &str) -> Run {
    // A run that begins in spite of a mistake ends by itself.
    let words = ["listen", "--duration", "100ms"].into_iter();
    vxtap(words.chain(flags.split_whitespace()))
}

fn assert_says(run: &Run, code: i32, parts: &[&str]) {
    assert_eq!(run.code, Some(code), "{}", run.stderr);
    for part in parts {
        assert!(run.stderr.contains(part), "{part}: {}", run.stderr);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn addresses_to_listen_on() {
    for (bind, part) in [
        (
            "4789",
            "the address is missing: for every address 0.0.0.0:4789 and [::]:4789",
        ),
        (":8472", "for every address 0.0.0.0:8472 and [::]:8472"),
        ("10.0.0.5", "the port is missing: write 10.0.0.5:4789"),
        ("::1", "in brackets before its port: write [::1]:4789"),
        (
            "::4790",
            "in brackets before its port: write [::]:4790 for every IPv6 address",
        ),
        (
            "target.example:4789",
            "'target.example' is a name: the address itself is needed",
        ),
        (
            "0.0.0.0:65536",
            "'65536' is no port: a number from 1 to 65535",
        ),
        ("[::]:x", "'x' is no port"),
    ] {
        let run = listen(&format!("--bind {bind}"));
        assert_says(
            &run,
            2,
            &[&format!("invalid value '{bind}' for --bind"), part],
        );
        assert!(
            !run.stderr.contains("invalid socket address"),
            "{}",
            run.stderr
        );
    }
    let run = vxtap(["listen", "--bind", ""]);
    assert_says(&run, 2, &["an address and a port are needed"]);
}

#[cfg(target_os = "linux")]
#[test]
fn addresses_that_cannot_stand_beside_each_other() {
    let run = listen("--bind 127.0.0.1:14789 --bind 127.0.0.1:14789");
    assert_says(&run, 2, &["--bind 127.0.0.1:14789 is given twice"]);
    let run = listen("--bind 127.0.0.1:14789 --bind 0.0.0.0:14789");
    assert_says(
        &run,
        2,
        &["--bind 127.0.0.1:14789 is covered by --bind 0.0.0.0:14789"],
    );
    assert!(!run.stderr.contains("held"), "{}", run.stderr);
}

#[cfg(target_os = "linux")]
#[test]
fn every_mistake_is_told_at_once() {
    let run =
        listen("--bind 4789 --mtu 60 --cpus 1000 --workers 300 --allow 10.0.0.1/8 --mode 999");
    let parts = [
        "for --bind",
        "for --mtu",
        "for --cpus",
        "for --workers",
        "for --allow",
        "for --mode",
    ];
    assert_says(&run, 2, &parts);
    let errors = run
        .stderr
        .lines()
        .filter(|line| line.starts_with("vxtap: error: "));
    assert_eq!(errors.count(), parts.len(), "{}", run.stderr);
    let run = vxtap([
        "replay", "x.pcap", "--port", "0", "--depth", "17", "-w", "x.pcap",
    ]);
    assert_says(&run, 2, &["for --port", "for --depth"]);
}

#[cfg(target_os = "linux")]
#[test]
fn times_numbers_and_cores() {
    assert_says(
        &vxtap(["listen", "--duration", "99999999999999999999"]),
        2,
        &["too long"],
    );
    assert_says(&vxtap(["listen", "--duration", "40000d"]), 2, &["too long"]);
    assert_says(
        &listen("--max-reorder 99999999999999999999"),
        2,
        &["too long"],
    );
    assert_says(
        &listen("--max-flows 4294967296"),
        2,
        &["from 1 to 268435456"],
    );
    let there = "this process can run on core";
    assert_says(
        &listen("--cpus 99"),
        2,
        &["invalid value '99' for --cpus", there],
    );
    assert_says(
        &listen("--cpus 0,500-501"),
        2,
        &["invalid value '500' for --cpus", there],
    );
    let send = ["send", "--generate", "--to", "127.0.0.1:9", "--cpu", "99"];
    assert_says(&vxtap(send), 2, &["invalid value '99' for --cpu", there]);
}

#[cfg(target_os = "linux")]
#[test]
fn interfaces_that_are_not_there() {
    assert_says(
        &listen("--interface a-name-that-is-too-long"),
        2,
        &["at most 15 characters"],
    );
    for backend in ["auto", "packet"] {
        let flags = format!("--interface nosuch0 --backend {backend}");
        let run = listen(&format!("--bind 127.0.0.1:0 {flags}"));
        // Who may not open a ring is told that first.
        if run.code == Some(2) {
            assert_says(
                &run,
                2,
                &["there is no interface nosuch0; 'ip link' lists them"],
            );
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn nothing_arrives_at_the_port_that_was_bound() {
    let run = listen("--bind 127.0.0.1:18471 --backend udp");
    assert_says(
        &run,
        0,
        &[
            "Nothing arrived on 127.0.0.1:18471.",
            "nothing from outside can reach a loopback address",
            "'udp port 18471'",
            "the host's firewall decides",
        ],
    );
    let (_, hint) = run.stderr.split_once("Nothing arrived").unwrap();
    assert!(!hint.contains("4789"), "{hint}");
    // A port of the system's choice is named as well.
    let run = listen("--bind 127.0.0.1:0 --backend udp");
    let (_, rest) = run.stderr.split_once("listening on 127.0.0.1:").unwrap();
    let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
    assert_says(&run, 0, &[&format!("'udp port {port}'")]);
}

/// Ten seconds without a packet are told while the run goes on, and only then.
#[cfg(target_os = "linux")]
#[test]
fn silence_is_told_during_the_run() {
    let flags = "listen --bind 127.0.0.1:0 --backend udp --duration 10500ms --summary /dev/null";
    let run = vxtap(flags.split(' '));
    assert_says(
        &run,
        0,
        &["vxtap: Nothing has arrived for 10 s on 127.0.0.1:"],
    );
    let at = |words: &str| run.stderr.find(words).unwrap();
    assert!(
        at("Nothing has arrived for 10 s") < at("0 received"),
        "{}",
        run.stderr
    );
}

#[cfg(target_os = "linux")]
#[test]
fn datagrams_over_the_other_ip_version() {
    let dir = tempfile::tempdir().unwrap();
    let summary = dir.path().join("s.json");
    let mut command = vxtap_command(["listen", "--bind", "0.0.0.0:18474", "--backend", "udp"]);
    command
        .args(["--duration", "700ms", "--summary"])
        .arg(&summary);
    let Ok(socket) = std::net::UdpSocket::bind("[::1]:0") else {
        eprintln!("skipped: this machine has no IPv6");
        return;
    };
    let sender = std::thread::spawn(move || {
        for _ in 0..12 {
            std::thread::sleep(std::time::Duration::from_millis(50));
            // Refusals of the ones before come back here.
            let _ = socket.send_to(&[8, 0, 0, 0, 0, 0, 7, 0, 1], "[::1]:18474");
        }
    });
    let run = common::run(&mut command);
    sender.join().unwrap();
    assert_says(
        &run,
        0,
        &[
            "only IPv4 is listened on.",
            "came over IPv6",
            "--bind [::]:18474",
        ],
    );
}

#[cfg(target_os = "linux")]
#[test]
fn geneve_is_received_where_it_is_asked_for() {
    let run = listen("--bind 127.0.0.1:18475 --geneve-port 18476 --backend udp");
    assert_says(&run, 0, &["listening on 127.0.0.1:18475, 127.0.0.1:18476;"]);
    let run = listen("--bind 127.0.0.1:18477 --backend udp");
    assert_says(&run, 0, &["listening on 127.0.0.1:18477;"]);
}

#[test]
fn a_wrong_log_filter_is_told() {
    let demo = testdata("demo.pcap");
    let log = |value: &str| {
        let mut command = vxtap_command(["replay", demo.to_str().unwrap()]);
        common::run(command.env("VXTAP_LOG", value))
    };
    assert_says(&log("verbose"), 0, &["VXTAP_LOG=verbose is no log filter"]);
    assert!(!log("warn").stderr.contains("VXTAP_LOG"));
    assert_says(&vxtap(["--help"]), 0, &[]);
    let help = String::from_utf8(vxtap(["--help"]).stdout).unwrap();
    assert!(help.contains("VXTAP_LOG"), "{help}");
}

/// One line, however wide the terminal was.
fn help(command: &str) -> String {
    let run = vxtap([command, "--help"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let text = String::from_utf8(run.stdout).unwrap();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What people asked about is said where they look for it.
#[cfg(target_os = "linux")]
#[test]
fn help_says_what_a_value_means() {
    for (command, parts) in [
        (
            "listen",
            &["With port 0 the system chooses a port, and the first line names it."][..],
        ),
        (
            "send",
            &[
                "host or address, with or without a port (default 4789)",
                "With --write it is the outer destination of the packets written, and nothing is sent",
            ],
        ),
    ] {
        let help = help(command);
        for part in parts {
            assert!(help.contains(part), "{part}: {help}");
        }
    }
    // And it is so.
    let run = listen("--backend udp --bind 127.0.0.1:0");
    let (_, rest) = run.stderr.split_once("listening on 127.0.0.1:").unwrap();
    let (port, rest) = rest.split_once(';').unwrap();
    assert_ne!(port.parse(), Ok(0u16), "{}", run.stderr);
    // What the run itself takes and what the kernel holds for it are told apart.
    let (first, _) = rest.split_once('\n').unwrap();
    let (_, memory) = first.split_once("at most ").unwrap();
    let words: Vec<&str> = memory.split_whitespace().collect();
    assert!(matches!(words[1], "MB" | "GB"), "{first}");
    assert_eq!(words[2..5], ["of", "memory", "and"], "{first}");
    assert!(
        memory.contains("of receive buffers in the kernel"),
        "{first}"
    );
}
