//! What a run gives up once it is set up: judged from inside by what is refused, from outside by what the kernel says of
//! each thread, and by strace, which sees no refused call in a run that does all it can.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "what is awaited has a limit")]

mod common;

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::lab::{BACKENDS, Lab, Listener, Side, TO_V4, wait_until};
use common::{VXTAP, run, tool};
use nix::sys::signal::Signal;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use vxtap::sandbox::{Mode, Needs, Sandbox};

/// Tells the test below, run as a process of its own, where it may write.
const DIR: &str = "VXTAP_TEST_SANDBOX";

/// Runs one of the tests that are left out otherwise, in a process of its own.
#[track_caller]
fn in_a_process_of_its_own(test: &str, dir: &Path) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let done = run(command
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(DIR, dir));
    let said = String::from_utf8_lossy(&done.stdout);
    assert_eq!(done.code, Some(0), "{said}{}", done.stderr);
    assert!(said.contains("1 passed"), "{said}");
}

/// Opening files elsewhere, connecting, starting programs and gaining rights is refused; what the run needs is not.
#[test]
fn what_is_not_needed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("out")).unwrap();
    fs::write(dir.path().join("secret"), "of others").unwrap();
    in_a_process_of_its_own("inside", dir.path());
    assert_eq!(fs::read(dir.path().join("out/renamed")).unwrap(), b"ours");
    assert!(!dir.path().join("made").exists());
}

#[test]
#[ignore = "run by the test above in a process of its own, since nobody leaves a sandbox"]
fn inside() {
    let dir = PathBuf::from(std::env::var_os(DIR).unwrap());
    let out = dir.join("out");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let socket = dir.join("socket");
    let _unix = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let open = File::open(dir.join("secret")).unwrap();
    let needs = Needs {
        write: vec![out.clone()],
        ..Needs::default()
    };
    let sandbox = Sandbox::prepare(Mode::Require, &needs).unwrap().unwrap();
    sandbox.enter().unwrap();

    let tries = move || {
        // What a run does.
        fs::write(out.join("file"), "ours").unwrap();
        fs::rename(out.join("file"), out.join("renamed")).unwrap();
        fs::create_dir(out.join("folder")).unwrap();
        fs::remove_dir(out.join("folder")).unwrap();
        assert!(!fs::read("/proc/self/status").unwrap().is_empty());
        let here = UdpSocket::bind("127.0.0.1:0").unwrap();
        here.send_to(b"x", here.local_addr().unwrap()).unwrap();
        let mut text = String::new();
        (&open).read_to_string(&mut text).unwrap();
        assert_eq!(text, "of others", "what is open stays open");

        // What it does not.
        let refused = |what: &str, error: Option<std::io::Error>| {
            let kind = error.as_ref().map(std::io::Error::kind);
            assert_eq!(kind, Some(ErrorKind::PermissionDenied), "{what}: {error:?}");
        };
        refused("read", File::open(dir.join("secret")).err());
        refused("read", File::open("/etc/passwd").err());
        refused("list", fs::read_dir("/").err());
        refused("write", fs::write(dir.join("made"), "").err());
        refused("write", fs::write("/tmp/vxtap-sandbox-test", "").err());
        refused(
            "truncate",
            File::options()
                .write(true)
                .truncate(true)
                .open(dir.join("secret"))
                .err(),
        );
        refused("delete", fs::remove_file(dir.join("secret")).err());
        refused(
            "move away",
            fs::rename(out.join("renamed"), dir.join("made")).err(),
        );
        refused("start a program", Command::new("/bin/true").status().err());
        refused(
            "start a shell",
            Command::new("sh").arg("-c").arg("true").status().err(),
        );
        fs::write(out.join("program"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(out.join("program"), fs::Permissions::from_mode(0o755)).unwrap();
        refused(
            "start what it wrote",
            Command::new(out.join("program")).status().err(),
        );
        refused("connect", TcpStream::connect(address).err());
        refused("connect", UnixStream::connect(&socket).err());
        refused("connect", here.connect(address).err());
        let errno = |what: &str, error: nix::errno::Errno| {
            assert_eq!(error, nix::errno::Errno::EPERM, "{what}");
        };
        use nix::sched::{CloneFlags, unshare};
        errno(
            "a name space",
            unshare(CloneFlags::CLONE_NEWUSER).unwrap_err(),
        );
        errno("a root of its own", nix::unistd::chroot("/").unwrap_err());
        let raw = socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::RAW, None);
        refused("a packet socket", raw.err());
    };
    // Threads that begin later are in it too.
    let tries = std::thread::spawn(tries);
    tries.join().unwrap();
    let again = File::open("/etc/passwd");
    assert_eq!(again.unwrap_err().kind(), ErrorKind::PermissionDenied);
}

/// A field of /proc/PID/task/TID/status of each thread, by the thread's name.
fn of_threads(id: u32, field: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{id}/task")).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap_or_default();
        let of = |field: &str| {
            let mut lines = status.lines();
            let value = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            value.map(|value| value.trim().to_owned())
        };
        found.extend(of("Name").zip(of(field)));
    }
    assert!(found.len() > 3, "{found:?}");
    found
}

/// Flags of a run with all kinds of outputs.
fn much(dir: &Path, hook: &Path) -> String {
    let (dir, hook) = (dir.display(), hook.display());
    format!(
        "--sandbox require --workers 2 -w {dir}/store/ --flows {dir}/flows/ --flows parquet:{dir}/flows.parquet \
         --flows ipfix+tcp://127.0.0.1:9 --rotate-packets 50 --split vni --compress gzip --tee tcp://127.0.0.1:0 \
         --on-rotate {hook}"
    )
}

/// A program for finished files, which a sandbox would not let run.
fn hook(dir: &Path) -> PathBuf {
    let path = dir.join("hook");
    let script = format!("#!/bin/sh\ntouch {}/ran\n", dir.display());
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Every thread is in it, but those that run the programs of --on-rotate, and these do run.
#[test]
fn every_thread_is_inside() {
    let Some(lab) = Lab::new() else { return };
    for backend in BACKENDS {
        let dir = tempfile::tempdir().unwrap();
        let words = much(dir.path(), &hook(dir.path()));
        let listener = lab.listen(backend, &words);
        let sent = lab.generate(TO_V4, "--count 500 --pps 2000 --vnis 3").sent;
        let mut listener = listener;
        listener.wait_for(sent);
        let id = listener.id();
        for (field, expected) in [
            ("Seccomp", "2"),
            ("CapEff", "0000000000000000"),
            ("CapPrm", "0000000000000000"),
            ("NoNewPrivs", "1"),
        ] {
            for (name, value) in of_threads(id, field) {
                if name != "vxtap-hook" {
                    assert_eq!(value, expected, "{backend}: {field} of {name}");
                }
            }
        }
        wait_until("the hook", || dir.path().join("ran").exists().then_some(()));
        listener.signal(Signal::SIGUSR2);
        let ended = listener.end();
        // There is no collector.
        assert_eq!(ended.code, Some(1), "{}", ended.said);
        assert_eq!(ended.summary["received"], sent, "{}", ended.said);
        assert_eq!(ended.summary["hooks"]["failed"], 0, "{}", ended.summary);
    }
}

/// No call of a run is refused: strace would show it.
#[test]
fn no_call_of_a_run_is_refused() {
    if !tool("strace") {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    for backend in BACKENDS {
        let dir = tempfile::tempdir().unwrap();
        let trace = dir.path().join("trace");
        let before = ["strace", "-f", "-o", trace.to_str().unwrap()];
        let words = much(dir.path(), &hook(dir.path()));
        let listener = lab.listen_with(&before, &["--backend", backend], &words);
        let sent = lab.generate(TO_V4, "--count 500 --pps 1000 --vnis 3").sent;
        let child = child_of(listener.id());
        wait_until("the packets", || {
            signal(child, Signal::SIGUSR1);
            std::thread::sleep(std::time::Duration::from_millis(200));
            listener
                .said()
                .contains(&format!("{sent} received"))
                .then_some(())
        });
        // Interfaces that come and go have the ring's filter made anew; strangers' addresses are asked for.
        lab.ip(
            Side::Receiver,
            "link add link dst0 name more0 type macvlan mode bridge",
        );
        lab.ip(Side::Receiver, "link del more0");
        signal(child, Signal::SIGUSR2);
        let _viewer = viewer(&lab, &listener);
        lab.generate(TO_V4, "--count 200 --pps 1000");
        signal(child, Signal::SIGTERM);
        let ended = listener.wait();
        let trace = fs::read_to_string(trace).unwrap();
        // What it gives up is told by the first of these calls.
        let (_, inside) = trace.split_once("seccomp(SECCOMP_SET_MODE_FILTER").unwrap();
        let refused = |line: &&str| line.contains("EPERM") || line.contains("EACCES");
        let refused: Vec<&str> = inside.lines().filter(refused).collect();
        assert!(inside.lines().count() > 1000, "{inside}");
        assert!(
            refused.is_empty(),
            "{backend}: {refused:#?}\n{}",
            ended.said
        );
    }
}

fn child_of(id: u32) -> u32 {
    let path = format!("/proc/{id}/task/{id}/children");
    wait_until("the child of strace", || {
        fs::read_to_string(&path).unwrap().trim().parse().ok()
    })
}

fn signal(id: u32, signal: Signal) {
    let id = nix::unistd::Pid::from_raw(id.try_into().unwrap());
    nix::sys::signal::kill(id, signal).unwrap();
}

/// Somebody who looks at the tee, and has seen that it began.
fn viewer(lab: &Lab, listener: &Listener) -> TcpStream {
    let said = listener.said();
    let (_, at) = said.split_once("live view on tcp://").unwrap();
    let (at, _) = at.split_once(": ").unwrap();
    let mut viewer = lab.inside(Side::Receiver, || TcpStream::connect(at).unwrap());
    viewer.read_exact(&mut [0; 4]).unwrap();
    viewer
}

/// Root writes into the directory of somebody else: it keeps the one right for that, and says so.
#[test]
fn a_directory_of_another_user() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root may write into the directory of another user");
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(1234), Some(1234)).unwrap();
    let words = format!("--sandbox require -w {}/out.pcapng", dir.path().display());
    let listener = lab.listen("udp", &words);
    let rights = of_threads(listener.id(), "CapEff");
    // CAP_DAC_OVERRIDE is number 1 (linux/capability.h).
    assert!(
        rights.iter().all(|(_, caps)| caps == "0000000000000002"),
        "{rights:?}"
    );
    let ended = listener.end();
    assert!(ended.said.contains("CAP_DAC_OVERRIDE"), "{}", ended.said);
    assert!(dir.path().join("out.pcapng").exists(), "{}", ended.said);
}

/// Where the kernel has no Landlock, `auto` says so and runs, `require` does not begin.
#[test]
fn a_kernel_without_landlock() {
    let dir = tempfile::tempdir().unwrap();
    in_a_process_of_its_own("without_landlock", dir.path());
}

#[test]
#[ignore = "run by the test above: what it takes away is gone for good"]
fn without_landlock() {
    let calls = [(libc::SYS_landlock_create_ruleset, vec![])];
    let refuse = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(calls.into(), SeccompAction::Allow, refuse, arch);
    let filter: BpfProgram = filter.unwrap().try_into().unwrap();
    apply_filter(&filter).unwrap();
    let dir = PathBuf::from(std::env::var_os(DIR).unwrap());
    let listen = |mode: &str| {
        let args = [
            "listen",
            "--bind",
            "127.0.0.1:0",
            "--duration",
            "0.2s",
            "--sandbox",
            mode,
        ];
        let mut command = Command::new(VXTAP);
        run(command
            .args(args)
            .arg("-w")
            .arg(dir.join(format!("{mode}.pcapng"))))
    };
    let done = listen("auto");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stderr.contains("no Landlock"), "{}", done.stderr);
    assert!(dir.join("auto.pcapng").exists());
    let done = listen("require");
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    assert!(
        done.stderr.contains("--sandbox require: ") && done.stderr.contains("Landlock"),
        "{}",
        done.stderr
    );
    assert!(!dir.join("require.pcapng").exists());
    let done = listen("off");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(!done.stderr.contains("Landlock"), "{}", done.stderr);
}
