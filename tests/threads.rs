//! What the program does where the system gives it few threads or none: `ulimit -u`, `pids.max` of a cgroup.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Run, VXTAP, run, testdata, tool};
use tempfile::TempDir;

/// Every command with each kind of output. `listen` ends by itself.
const COMMANDS: [&str; 5] = [
    "replay demo.pcap --workers 3 -w c.pcapng --flows f.jsonl --flows g.jsonl --summary s.json",
    "replay demo.pcap --workers 1 -w c.pcapng --summary s.json",
    "listen --bind 127.0.0.1:0 --backend udp --workers 3 --duration 50ms --overwrite -w c.pcapng --flows f.jsonl",
    "listen --bind 127.0.0.1:0 --backend udp --workers 1 --cpus 0 --duration 50ms --overwrite -w c.pcapng",
    "send demo.pcap --write c.pcapng --summary s.json",
];
/// More than any of them needs.
const PLENTY: u32 = 12;

/// A folder that any user may write to, with the program, its input, and outputs of an earlier run.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let place = Self(dir);
        for (from, name, mode) in [
            (PathBuf::from(VXTAP), "vxtap", 0o755),
            (testdata("demo.pcap"), "demo.pcap", 0o644),
        ] {
            fs::copy(from, place.path(name)).unwrap();
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(place.path(name), mode).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Puts finished files of an earlier run there.
    fn prepare(&self) {
        for (name, _) in self.outputs() {
            fs::remove_file(self.path(&name)).unwrap();
        }
        for name in ["c.pcapng", "f.jsonl", "s.json"] {
            fs::write(self.path(name), "earlier").unwrap();
            let mode = fs::Permissions::from_mode(0o666);
            fs::set_permissions(self.path(name), mode).unwrap();
        }
    }

    /// All that is there but the program and its input.
    fn outputs(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let ours = ["vxtap", "demo.pcap"];
        let names = names.filter(|name| !ours.contains(&name.as_str()));
        names
            .map(|name| (name.clone(), fs::read(self.path(&name)).unwrap()))
            .collect()
    }

    /// Runs the words behind `before`.
    fn run(&self, before: &[&str], words: &str) -> Run {
        let words = words.split(' ');
        let program = self.path("vxtap");
        let all = before.iter().copied();
        let mut all = all.chain([program.to_str().unwrap()]).chain(words);
        let mut command = Command::new(all.next().unwrap());
        command.env_remove("VXTAP_LOG").env_remove("RUST_BACKTRACE");
        run(command.args(all).current_dir(self.0.path()))
    }

    /// Runs every command with 1, 2, 3, … threads. It works, or says that threads are missing and why (`limit`),
    /// and nothing has changed then. With enough it works.
    fn expect_all_or_nothing(&self, before: impl Fn(u32) -> Vec<String>, limit: &str) {
        for words in COMMANDS {
            let mut worked = Vec::new();
            for threads in 1..=PLENTY {
                self.prepare();
                let earlier = self.outputs();
                let before = before(threads);
                let before: Vec<&str> = before.iter().map(String::as_str).collect();
                let run = self.run(&before, words);
                let about = format!("{threads} threads: {words}: {}", run.stderr);
                assert!(!run.stderr.contains("panicked"), "{about}");
                worked.push(run.code == Some(0));
                if run.code == Some(0) {
                    let ended = self.outputs();
                    assert!(ended.keys().all(|name| !name.ends_with(".part")), "{about}");
                    assert_ne!(ended["c.pcapng"], b"earlier", "{about}");
                    continue;
                }
                assert_eq!(run.code, Some(1), "{about}");
                assert!(
                    run.stderr.contains("error: cannot start the thread"),
                    "{about}"
                );
                assert!(run.stderr.contains("(os error 11); "), "{about}");
                assert!(
                    run.stderr.contains(&format!("{threads} {limit}")),
                    "{about}"
                );
                let has_workers =
                    words.contains("--workers 3") && !run.stderr.contains("vxtap-control");
                let advice = run.stderr.contains("use fewer --workers");
                assert_eq!(advice, has_workers, "{about}");
                assert_eq!(self.outputs(), earlier, "{about}");
            }
            assert_eq!(worked.first(), Some(&false), "{words}");
            assert_eq!(worked.last(), Some(&true), "{words}");
            // What works with fewer works with more.
            assert!(worked.is_sorted(), "{words}: {worked:?}");
        }
    }
}

/// As a user of whom nobody else runs anything, so that the limit counts this program's threads only.
#[test]
fn a_user_with_few_threads() {
    if !["setpriv", "prlimit"].into_iter().all(tool) {
        return;
    }
    let place = Place::new();
    let user = |threads: u32| {
        let id = format!("{}", 61_000 + std::process::id() % 1000);
        let words = [
            "setpriv".to_owned(),
            format!("--reuid={id}"),
            format!("--regid={id}"),
            "--clear-groups".to_owned(),
            "prlimit".to_owned(),
            format!("--nproc={threads}"),
        ];
        words.to_vec()
    };
    let words = user(PLENTY);
    let tried = run(Command::new(&words[0]).args(&words[1..]).arg("true"));
    if tried.code != Some(0) {
        eprintln!("skipped: setpriv: {}", tried.stderr.trim());
        return;
    }
    place.expect_all_or_nothing(user, "threads of this user (ulimit -u)");
}

/// A cgroup of the test, removed at its end.
struct Group(PathBuf);

impl Group {
    /// `None` where there is none to be had.
    fn new() -> Option<Self> {
        let name = format!("vxtap-test-{}", std::process::id());
        for mount in ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"] {
            let group = Self(Path::new(mount).join(&name));
            if !Path::new(mount).join("cgroup.procs").exists() || fs::create_dir(&group.0).is_err()
            {
                continue;
            }
            if group.0.join("pids.max").exists() {
                return Some(group);
            }
        }
        eprintln!("skipped: no cgroup with the controller pids can be made here");
        None
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_cgroup_with_few_threads() {
    let Some(group) = Group::new() else { return };
    let place = Place::new();
    let max = group.0.join("pids.max");
    let inside = |threads: u32| {
        fs::write(&max, threads.to_string()).unwrap();
        let procs = group.0.join("cgroup.procs");
        let script = format!("echo $$ > {} && exec \"$@\"", procs.display());
        ["sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
    };
    place.expect_all_or_nothing(inside, &format!("in {}", max.display()));
}
