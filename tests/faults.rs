//! What goes wrong around a running `vxtap listen`: too much traffic, readers and disks that do not keep
//! up, interfaces that go away, ports that are taken, sudden death. Whatever it is, every packet is
//! accounted for and what was written can be read.
//!
//! In network namespaces of their own; skipped where those cannot be made.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use common::lab::{
    BACKENDS, Ended, Lab, Listener, Sent, Side, TO_V4, TO_V6, datagram, long_tests, wait_stopped,
    wait_until,
};
use common::{Run, Running, assert_closes, expected, reasons, run};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;

/// Takes away what receiving beyond net.core.rmem_max needs.
const UNPRIVILEGED: [&str; 3] = [
    "setpriv",
    "--bounding-set=-net_admin,-net_raw",
    "--inh-caps=-net_admin,-net_raw",
];

/// Numbers of datagrams from the sender's namespace.
fn send(lab: &Lab, numbers: std::ops::Range<u64>) {
    let socket = lab.udp(Side::Sender, "10.77.0.1:0");
    for number in numbers {
        let sent = datagram(7, number, 60);
        socket.send_to(&sent, TO_V4).unwrap();
    }
}

/// A receiver that gets more than it can take, and stands still at times: what was sent is what it
/// received, what its kernel dropped, and what its interface had no room for.
#[test]
fn too_much_traffic_is_counted_to_the_last_packet() {
    for backend in BACKENDS {
        let Some(lab) = Lab::new() else { return };
        let (before, reason, first) = match backend {
            // A buffer of net.core.rmem_max, 64 MiB at most; each of these packets takes more than 512 bytes.
            "udp" => {
                let limit = fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap();
                let limit = limit.trim().parse::<u64>().unwrap().min(64 << 20);
                let first = format!("--frame-size 64 --count {}", 2 * limit / 512 + 1000);
                (&UNPRIVILEGED[..], "socket_overflow", first)
            }
            // A ring of 64 MiB.
            _ => (
                &[][..],
                "ring_full",
                "--frame-size 1400 --count 60000".to_owned(),
            ),
        };
        if !before.is_empty() && !common::tool(before[0]) {
            continue;
        }
        let args = ["--backend", backend, "--workers", "1"];
        let mut listener = lab.listen_with(before, &args, "");
        let dropped_before = lab.rx_dropped();

        listener.halt();
        let Sent { tried: first, .. } = lab.generate(TO_V4, &first);
        listener.go_on();
        let count = if long_tests() { 3_000_000 } else { 150_000 };
        let mut command = lab.generator(TO_V4, &format!("--frame-size imix --count {count}"));
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut generator = Running::start(&mut command);
        // It works half of the time at the most.
        while generator.try_wait().unwrap().is_none() {
            listener.halt();
            sleep(Duration::from_millis(40));
            listener.go_on();
            sleep(Duration::from_millis(20));
        }
        let output = generator.wait_with_output();
        let Sent { tried, .. } = Sent::of(&Run {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: String::new(),
        });
        let tried = first + tried;
        let outside = lab.rx_dropped() - dropped_before;
        listener.wait_for(tried - outside);
        let ended = listener.end();
        ended.assert_well();
        let lost = ended.reason("kernel_dropped", reason);
        assert!(lost > 0, "{backend}: nothing was lost of {tried}");
        assert_eq!(lost, ended.kernel_dropped());
        let received = ended.count("received");
        assert_eq!(
            received + lost + outside,
            tried,
            "{backend}: {outside} outside"
        );
        ended.assert_capture(&ended.capture);
        let queue = ended.missing("capture", "queue");
        assert_eq!(received, ended.count("delivered"));
        assert_eq!(received, ended.packets() + queue);
        assert_eq!(ended.packets_in_flows(), received);
    }
}

/// A `cat` into a file that can be made to stand still.
struct Reader {
    cat: Running,
    file: PathBuf,
}

impl Reader {
    /// The reader of a listener's standard output, and the listener.
    fn of_listener(lab: &Lab, backend: &str, words: &str) -> (Self, Listener) {
        let args = ["--backend", backend, "--workers", "1", "-w", "-"];
        let (mut command, dir) = lab.listen_command(&[], &args, words);
        let file = dir.path().join("cat.pcapng");
        let mut reader = Command::new("cat");
        reader.stdin(Stdio::piped());
        let mut cat = Running::start(reader.stdout(fs::File::create(&file).unwrap()));
        command.stdout(cat.stdin.take().unwrap());
        let mut listener = Listener::start(command, dir);
        listener.wait_said("listening on ");
        (Self { cat, file }, listener)
    }

    fn signal(&self, signal: Signal) {
        let id = nix::unistd::Pid::from_raw(self.cat.id().try_into().unwrap());
        nix::sys::signal::kill(id, signal).unwrap();
    }

    fn halt(&self) {
        self.signal(Signal::SIGSTOP);
        wait_stopped(self.cat.id());
    }
}

/// Sends until the queue to the writer has overflowed; tells how many packets the system took.
fn overflow_queue(lab: &Lab, listener: &mut Listener) -> u64 {
    let mut tried = 0;
    for _ in 0..20 {
        let outside = lab.rx_dropped();
        tried += lab.generate(TO_V4, "--frame-size 1400 --count 60000").tried;
        tried -= lab.rx_dropped() - outside;
        if listener.wait_for(tried).capture_queue > 0 {
            return tried;
        }
    }
    panic!("the queue takes it all: {}", listener.said());
}

/// The reader of the pipe stands still: receiving and flows go on, the capture's losses are counted.
#[test]
fn a_reader_that_stands_still_stops_nothing() {
    for backend in BACKENDS {
        let Some(lab) = Lab::new() else { return };
        let (mut reader, mut listener) = Reader::of_listener(&lab, backend, "");
        reader.halt();
        let sent = overflow_queue(&lab, &mut listener);
        reader.signal(Signal::SIGCONT);
        let ended = listener.end();
        ended.assert_well();
        assert!(reader.cat.wait().unwrap().success());
        let dropped = ended.missing("capture", "queue");
        assert!(dropped > 0);
        assert_eq!(ended.count("received") + ended.kernel_dropped(), sent);
        assert_eq!(ended.count("delivered"), ended.count("received"));
        assert_eq!(ended.packets_in_flows(), ended.count("received"));
        assert_eq!(ended.packets() + dropped, ended.count("delivered"));
        ended.assert_capture(&reader.file);
    }
}

/// The run is told to end while the reader still stands still: it ends, and counts what it could not get rid
/// of.
#[test]
fn a_reader_that_stands_still_does_not_keep_a_run_from_ending() {
    let Some(lab) = Lab::new() else { return };
    let (mut reader, mut listener) = Reader::of_listener(&lab, "udp", "");
    reader.halt();
    let sent = overflow_queue(&lab, &mut listener);
    let ended = listener.end();
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    let message = "standard output takes nothing any more";
    assert!(ended.said.contains(message), "{}", ended.said);
    assert_closes(&ended.summary);
    assert_eq!(ended.count("received") + ended.kernel_dropped(), sent);
    assert!(ended.missing("capture", "stuck") > 0);
    assert!(ended.missing("capture", "queue") > 0);
    assert_eq!(ended.packets_in_flows(), ended.count("received"));
    // What counts as written is what the pipe took; the reader finds it there.
    reader.signal(Signal::SIGCONT);
    assert!(reader.cat.wait().unwrap().success());
    let piped = fs::metadata(&reader.file).unwrap().len();
    assert!(piped >= ended.sink("capture")["bytes"].as_u64().unwrap());
}

/// The same for flow records, which come at the end, and for a capture that only has its statistics left.
#[test]
fn no_output_keeps_a_run_from_ending() {
    let Some(lab) = Lab::new() else { return };
    for (output, count) in [("-w", 100), ("--flows", 1000)] {
        let args = ["--backend", "udp", "--workers", "1", output, "-"];
        let (mut command, dir) = lab.listen_command(&[], &args, "");
        // Nobody reads it, and it is full.
        let (mut unread, mut pipe) = std::io::pipe().unwrap();
        command.stdout(pipe.try_clone().unwrap());
        let mut listener = Listener::start(command, dir);
        listener.wait_said("listening on ");
        if output == "-w" {
            send(&lab, 0..count);
            // The last packet is behind the pipe, and the writer idle.
            let mut seen = Vec::new();
            fcntl(&unread, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
            wait_until("the last packet", || {
                let mut buffer = [0; 4096];
                while let Ok(len @ 1..) = unread.read(&mut buffer) {
                    seen.extend_from_slice(&buffer[..len]);
                }
                let last = [count as u8 - 1; 10];
                seen.windows(10).any(|window| window == last).then_some(())
            });
        } else {
            let words = format!("--count {count} --flows {count} --frame-size 64");
            lab.generate(TO_V4, &words);
            listener.wait_for(count);
        }
        fill(&mut pipe);
        let ended = listener.end();
        assert_eq!(ended.code, Some(1), "{}", ended.said);
        assert!(
            ended.said.contains("takes nothing any more"),
            "{}",
            ended.said
        );
        assert_closes(&ended.summary);
        if output == "--flows" {
            assert_eq!(ended.count("flows"), count);
            assert!(ended.missing("flows", "stuck") > 0);
            ended.assert_capture(&ended.capture);
        }
        drop(unread);
    }
}

/// Fills a pipe to its last byte. Nobody may write to it meanwhile: for a moment it makes nobody wait.
fn fill(pipe: &mut std::io::PipeWriter) {
    fcntl(&*pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    for len in [4096, 1] {
        while pipe.write(&[0; 4096][..len]).is_ok() {}
    }
    fcntl(&*pipe, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
}

/// A small file system in memory.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    fn new(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let option = format!("size={size}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &option, "tmpfs"]);
        let mounted = run(mount.arg(dir.path()));
        if mounted.code != Some(0) {
            eprintln!("skipped: no tmpfs: {}", mounted.stderr.trim());
            return None;
        }
        Some(Self { dir })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg("-l").arg(self.dir.path()));
    }
}

/// The disk is full in the middle: the file ends with its last whole record, the rest is counted.
#[test]
fn a_full_disk_ends_the_run_with_a_whole_file() {
    for (backend, format) in [("udp", "pcapng"), ("packet", "pcapng"), ("udp", "pcap")] {
        let Some(lab) = Lab::new() else { return };
        let Some(disk) = SmallDisk::new("3m") else {
            return;
        };
        let capture = disk.dir.path().join("full.pcapng");
        let args = ["--backend", backend, "--format", format];
        let args = [&args[..], &["-w", capture.to_str().unwrap()]].concat();
        let mut listener = lab.listen_with(&[], &args, "--workers 1");
        lab.generate(TO_V4, "--frame-size 1200 --count 6000");
        // The flow records have a place of their own: receiving goes on.
        listener.wait_for(6000);
        let ended = listener.end();
        assert_eq!(ended.code, Some(1), "{}", ended.said);
        assert!(
            ended.said.contains("No space left on device"),
            "{}",
            ended.said
        );
        assert_closes(&ended.summary);
        let delivered = ended.packets();
        assert!(delivered > 0 && ended.missing("capture", "write") > 0);
        assert_eq!(ended.count("received") + ended.kernel_dropped(), 6000);
        let size = fs::metadata(&capture).unwrap().len();
        assert_eq!(ended.sink("capture")["bytes"], size);
        // What fits stays.
        assert!((3 << 20) - 4096 - 2000 < size && size <= 3 << 20, "{size}");
        if format == "pcapng" {
            ended.assert_capture(&capture);
        } else if common::tool("tshark") {
            let rows = common::tshark(&capture, &["frame.number"], &[]);
            assert_eq!(rows.len() as u64, delivered);
        }
        assert_eq!(ended.packets_in_flows(), ended.count("received"));
    }
}

/// Sends until something arrives, and from then on everything has to.
fn send_once_it_works(lab: &Lab, listener: &mut Listener) {
    let before = listener.page().received;
    let socket = lab.udp(Side::Sender, "10.77.0.1:0");
    let mut now = wait_until("the first packet", || {
        // While the link is down this may be refused.
        let _ = socket.send_to(&datagram(7, 0, 60), TO_V4);
        let received = listener.page().received;
        (received > before).then_some(received)
    });
    // What was sent before and is still on its way.
    wait_until("quiet", || {
        let last = std::mem::replace(&mut now, listener.page().received);
        (last == now).then_some(())
    });
    send(lab, 0..100);
    listener.wait_for(now + 100);
}

/// The interface goes down and comes back; then it goes for good.
#[test]
fn the_interface_comes_and_goes() {
    for backend in BACKENDS {
        let Some(lab) = Lab::new() else { return };
        let mut listener = lab.listen(backend, "--workers 1");
        send(&lab, 0..100);
        listener.wait_for(100);
        for _ in 0..3 {
            lab.ip(Side::Receiver, "link set dst0 down");
            if backend == "packet" {
                // It has noticed.
                listener.page();
                listener.page();
            }
            lab.ip(Side::Receiver, "link set dst0 up");
            lab.wait_up();
            send_once_it_works(&lab, &mut listener);
        }
        assert!(listener.is_running());
        // What is in the ring when the interface goes is not lost.
        let before = listener.page().received;
        listener.halt();
        send(&lab, 0..100);
        sleep(Duration::from_millis(50));
        lab.ip(Side::Receiver, "link del dst0");
        listener.go_on();
        let ended = if backend == "packet" {
            let ended = listener.wait();
            assert_eq!(ended.count("received"), before + 100, "{}", ended.said);
            assert_eq!(ended.code, Some(1), "{}", ended.said);
            assert!(
                ended.said.contains("the interface dst0 is gone"),
                "{}",
                ended.said
            );
            assert_closes(&ended.summary);
            ended
        } else {
            // The address moves to another interface, and with it the traffic.
            listener.wait_for(before + 100);
            lab.ip(Side::Receiver, "address add 10.77.0.2/32 dev lo");
            let socket = lab.udp(Side::Receiver, "10.77.0.2:0");
            for number in 0..50 {
                socket.send_to(&datagram(7, number, 60), TO_V4).unwrap();
            }
            listener.wait_for(before + 150);
            let ended = listener.end();
            ended.assert_well();
            ended
        };
        assert!(ended.count("delivered") >= 400);
        assert_eq!(ended.packets(), ended.count("delivered"));
        ended.assert_capture(&ended.capture);
    }
}

/// The interface is deleted while packets come: the run ends as it does when none come.
#[test]
fn an_interface_that_goes_under_traffic_ends_the_run() {
    for workers in ["--workers 1", "--workers 2"] {
        let Some(lab) = Lab::new() else { return };
        let mut listener = lab.listen("packet", workers);
        let words = "--frame-size 200 --count 10000000 --pps 40000";
        let mut command = lab.generator(TO_V4, words);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let generator = Running::start(&mut command);
        wait_until("traffic", || {
            (listener.page().received > 5000).then_some(())
        });
        lab.ip(Side::Receiver, "link del dst0");
        let ended = listener.wait();
        drop(generator);
        assert_eq!(ended.code, Some(1), "{workers}: {}", ended.said);
        let gone = "the interface dst0 is gone";
        assert!(ended.said.contains(gone), "{workers}: {}", ended.said);
        assert_closes(&ended.summary);
    }
}

/// Nothing had come before, and the reason is known: nobody is sent to look for another.
#[test]
fn an_interface_that_goes_is_the_only_reason_told() {
    let Some(lab) = Lab::new() else { return };
    let listener = lab.listen("packet", "--workers 2");
    lab.ip(Side::Receiver, "link del dst0");
    let ended = listener.wait();
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    let gone = "the interface dst0 is gone";
    assert!(ended.said.contains(gone), "{}", ended.said);
    assert!(!ended.said.contains("Nothing arrived"), "{}", ended.said);
}

/// The interface gets another name while it is down: it is the same interface.
#[test]
fn an_interface_may_be_renamed() {
    let Some(lab) = Lab::new() else { return };
    let mut listener = lab.listen("packet", "--workers 2");
    send(&lab, 0..100);
    listener.wait_for(100);
    lab.ip(Side::Receiver, "link set dst0 down");
    listener.wait_said("the interface is down");
    lab.ip(Side::Receiver, "link set dst0 name uplink9");
    sleep(Duration::from_millis(300));
    lab.ip(Side::Receiver, "link set uplink9 up");
    send_once_it_works(&lab, &mut listener);
    assert!(listener.is_running());
    // Gone, it is called by the name it had.
    lab.ip(Side::Receiver, "link del uplink9");
    let ended = listener.wait();
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    let gone = "the interface uplink9 is gone";
    assert!(ended.said.contains(gone), "{}", ended.said);
}

/// Somebody else has the port: the fault names who.
#[test]
fn a_taken_port_is_told_with_its_holder() {
    for backend in BACKENDS {
        for workers in ["--workers 1", "--workers 2"] {
            let Some(lab) = Lab::new() else { return };
            let refused = |holder: &str| {
                let ended = lab.start(&[], &["--backend", backend], workers).wait();
                assert_eq!(ended.code, Some(1), "{}", ended.said);
                assert!(ended.said.contains(TO_V4), "{}", ended.said);
                assert!(ended.said.contains(holder), "{}", ended.said);
                assert!(!ended.capture.exists());
            };
            let held = lab.udp(Side::Receiver, TO_V4);
            refused(&format!("process {} ", std::process::id()));
            drop(held);
            let device = "vx0 type vxlan id 5 dstport 4789 dev dst0";
            if !lab.add_device(Side::Receiver, device) {
                continue;
            }
            lab.ip(Side::Receiver, "link set vx0 up");
            refused("vxlan devices here: vx0");
            // Once it is gone the port is free.
            lab.ip(Side::Receiver, "link del vx0");
            let mut listener = lab.listen(backend, workers);
            send(&lab, 0..10);
            listener.wait_for(10);
            listener.end().assert_well();
        }
    }
}

/// Datagrams of 0 and 1 bytes, and any bytes at all: each is counted by its reason, none is lost.
#[test]
fn anything_may_come_to_the_port() {
    for backend in BACKENDS {
        for to in [TO_V4, TO_V6] {
            let Some(lab) = Lab::new() else { return };
            lab.ipv6();
            let mut listener = lab.listen(backend, &format!("--workers 2 --bind {to}"));
            let from = if to == TO_V4 {
                "10.77.0.1:0"
            } else {
                "[fd00:77::1]:0"
            };
            let socket = lab.udp(Side::Sender, from);
            let mut random = Random(0x9e37_79b9_7f4a_7c15);
            let (mut probe, mut not_valid, mut empty, mut good) = (0u64, 0u64, 0u64, 0u64);
            let mut sent = 0;
            let mut send = |payload: &[u8]| {
                socket.send_to(payload, to).unwrap();
                sent += 1;
                // By hand from RFC 7348 §5, and from what a health check looks like.
                match payload {
                    [_, _, _, _, _, _, _, _, rest @ ..] => {
                        let valid = payload[0] & 0x08 != 0;
                        let text = payload[..8].iter().all(|byte| (0x20..0x7f).contains(byte));
                        let reserved = [payload[1], payload[2], payload[3], payload[7]];
                        match valid {
                            true if text => probe += 1,
                            true if rest.is_empty() => empty += 1,
                            true => good += 1,
                            false if rest.len() < 14 || reserved != [0; 4] => probe += 1,
                            false => not_valid += 1,
                        }
                    }
                    _ => probe += 1,
                }
            };
            for _ in 0..20 {
                send(&[]);
                send(&[8]);
                send(&[8, 0, 0, 0, 0, 0, 7, 0]);
                send(&[&[0; 8][..], &[0; 60]].concat());
                send(b"GET / HTTP/1.1\r\n\r\n");
            }
            for _ in 0..2000 {
                let len = (random.next() % 100) as usize;
                let bytes: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
                send(&bytes);
            }
            assert!(probe > 40 && not_valid >= 20 && empty >= 20 && good > 40);
            listener.wait_for(sent);
            let ended = listener.end();
            ended.assert_well();
            assert_eq!(ended.count("received"), sent);
            assert_eq!(ended.count("delivered"), good);
            assert_eq!(
                reasons(&ended.summary, "filtered"),
                expected([("probe", probe)])
            );
            let malformed = expected([("inner_empty", empty), ("vni_not_valid", not_valid)]);
            assert_eq!(reasons(&ended.summary, "malformed"), malformed);
            ended.assert_capture(&ended.capture);
        }
    }
}

/// Numbers that are the same in every run (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }
}

/// A flood of mirror sessions nobody set up: their number is bounded, and so is memory.
#[test]
fn a_flood_of_sessions_is_bounded() {
    for backend in BACKENDS {
        let Some(lab) = Lab::new() else { return };
        let mut listener = lab.listen(backend, "--workers 1 --max-flows 40000");
        let outside = lab.rx_dropped();
        let words = "--vni 1000 --vnis 40000 --flows 40000 --frame-size 64 --count 80000";
        let tried = lab.generate(TO_V4, words).tried;
        let tried = tried - (lab.rx_dropped() - outside);
        listener.wait_for(tried);
        let status = fs::read_to_string(format!("/proc/{}/status", listener.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let peak: u64 = line
            .unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        // The ring and the queue to the writer are 64 MiB each.
        assert!(peak < 300 << 10, "{backend}: {peak} KiB");
        let ended = listener.end();
        ended.assert_well();
        assert_eq!(ended.count("received") + ended.kernel_dropped(), tried);
        let sessions = ended.summary["sessions"].as_array().unwrap();
        assert_eq!(sessions.len(), 4096 + 1, "{}", ended.said);
        let of = |session: &serde_json::Value| session["packets"].as_u64().unwrap();
        let others: Vec<_> = sessions.iter().filter(|one| one["vni"].is_null()).collect();
        assert_eq!(others.len(), 1);
        assert!(of(others[0]) > 0);
        let all: u64 = sessions.iter().map(of).sum();
        assert_eq!(all, ended.count("received"));
        assert_eq!(ended.packets_in_flows(), all);
        ended.assert_capture(&ended.capture);
    }
}

/// Killed and started again at once: the port and the packets are free, what was written is kept.
#[test]
fn sudden_death_leaves_nothing_in_the_way() {
    for backend in BACKENDS {
        let Some(lab) = Lab::new() else { return };
        let keep = tempfile::tempdir().unwrap();
        let capture = keep.path().join("out.pcapng");
        let args = ["--backend", backend, "-w", capture.to_str().unwrap()];
        let mut aside: Vec<u64> = Vec::new();
        for round in 0..3 {
            let mut listener = lab.listen_with(&[], &args, "--workers 2");
            let table = format!("vxtap_{}", listener.id());
            send(&lab, 0..200 + round);
            listener.wait_for(200 + round);
            // What arrived is handed to the file as soon as the link is quiet.
            let part = keep.path().join(".out.pcapng.part");
            wait_until("the last record", || {
                (count_frames(&part) == 200 + round).then_some(())
            });
            drop(listener.kill());
            assert!(part.exists() && !capture.exists());
            aside.push(200 + round);
            // Sockets of the next run would not see what a rule that is left still drops.
            wait_until("the end of the rule", || {
                (!lab.nft_tables().contains(&table)).then_some(())
            });
        }
        let mut listener = lab.listen_with(&[], &args, "--workers 2");
        assert!(
            listener.begin.contains("an earlier run was killed"),
            "{}",
            listener.begin
        );
        send(&lab, 0..50);
        listener.wait_for(50);
        let ended = listener.end();
        ended.assert_well();
        assert_eq!(ended.packets(), 50);
        ended.assert_capture(&capture);
        for (at, packets) in aside.iter().enumerate() {
            let kept = keep.path().join(format!(".out.pcapng.part.{}", at + 1));
            assert_eq!(count_frames(&kept), *packets, "{}", kept.display());
        }
        assert!(!lab.nft_tables().contains("vxtap"), "{}", lab.nft_tables());
    }
}

/// Whole packets of a file that may be written to at this moment.
fn count_frames(capture: &Path) -> u64 {
    let bytes = fs::read(capture).unwrap();
    let word = |at: usize| {
        let word = bytes.get(at..)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*word))
    };
    let (mut at, mut packets) = (0, 0);
    while let (Some(kind), Some(len)) = (word(at), word(at + 4)) {
        at += len as usize;
        if at > bytes.len() {
            break;
        }
        packets += u64::from(kind == 6);
    }
    packets
}

/// The packet backend is killed and starts again at once, while the rule of the first may still be there.
#[test]
fn a_ring_starts_again_at_once() {
    let Some(lab) = Lab::new() else { return };
    for _ in 0..5 {
        let mut listener = lab.listen("packet", "--workers 1");
        send(&lab, 0..100);
        listener.wait_for(100);
        drop(listener.kill());
    }
    let ended: Ended = {
        let mut listener = lab.listen("packet", "--workers 1");
        send(&lab, 0..100);
        listener.wait_for(100);
        listener.end()
    };
    ended.assert_well();
    assert_eq!(ended.count("received"), 100);
}

/// Packets over IPv6, which nobody listens on, with and without a checksum: what is said of the kernel's
/// counters names the family, and does not blame the sender alone.
#[test]
fn nobody_listens_on_ipv6() {
    let Some(lab) = Lab::new() else { return };
    lab.ipv6();
    for (flags, counter) in [
        ("", "Udp6NoPorts"),
        ("--no-udp-checksum", "Udp6InCsumErrors"),
    ] {
        let listener = lab.listen("udp", "--workers 1 --bind 10.77.0.2:4789");
        // Each may be answered by an error, which the next one then brings.
        let sent = lab.generate(
            TO_V6,
            &format!("--count 20 --frame-size 100 --pps 200 {flags}"),
        );
        let ended = listener.end();
        ended.assert_well();
        let counted = ended.summary["kernel_counters"][counter].as_u64();
        assert_eq!(counted, Some(sent.sent), "{flags}: {}", ended.said);
        let said: Vec<&str> = ended.said.split_whitespace().collect();
        let said = said.join(" ");
        let at = said.find(counter).unwrap();
        let advice = &said[at..];
        assert!(advice.contains("over IPv6"), "{advice}");
        assert!(advice.contains("does a --bind name"), "{advice}");
    }
}
