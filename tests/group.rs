//! `--group`: all that a run writes belongs to the group and lets it read, whoever runs it and whatever kind of output it
//! is.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::listening::{Listening, directory_of};
use common::store::{assert_sound, wait_until};
use common::{VXTAP, program_in, run, script, testdata, tool, vxtap, vxtap_command};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Group, Pid, getegid, geteuid};

/// A group that this machine has no name for, and the one of whoever is no member of it.
const GROUP: u32 = 54_322;
const USER: u32 = 54_321;

fn is_root() -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        eprintln!("skipped: only root may be a member of any group");
    }
    is_root
}

/// Group and mode of all below a directory, by their paths in it.
fn below(dir: &Path) -> BTreeMap<PathBuf, (u32, u32)> {
    let mut all = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            // A file that has got its name meanwhile.
            let Ok(meta) = path.symlink_metadata() else {
                continue;
            };
            if meta.is_dir() {
                left.push(path.clone());
            }
            let name = path.strip_prefix(dir).unwrap().to_owned();
            all.insert(name, (meta.gid(), meta.mode()));
        }
    }
    all
}

/// Everything below a directory belongs to the group, files with `mode` and directories with `directory`.
#[track_caller]
fn assert_given(dir: &Path, mode: u32, directory: u32) -> Vec<PathBuf> {
    let all = below(dir);
    for (name, (gid, full)) in &all {
        let of_kind = match full & libc::S_IFMT {
            libc::S_IFDIR => directory,
            _ => mode,
        };
        let name = name.display();
        assert_eq!((*gid, full & 0o7777), (GROUP, of_kind), "{name} {full:o}");
    }
    all.into_keys().collect()
}

#[track_caller]
fn assert_has(names: &[PathBuf], endings: &[&str]) {
    for ending in endings {
        let of_ending = |name: &PathBuf| name.to_str().unwrap().ends_with(ending);
        assert!(names.iter().any(of_ending), "no {ending} in {names:?}");
    }
}

/// A program for finished files that writes group and mode of marks into `marks`.
fn hook(dir: &Path) {
    let path = dir.join("hook.sh");
    let dir = dir.display();
    script(
        &path,
        &format!("stat -c '%g %a %n' {dir}/made/st/.*.hook >>{dir}/marks\n"),
    );
}

/// A listener in a sandbox that writes all kinds of files below `DIR/made`, which it makes itself: while it writes them,
/// and once they are finished. As root, as a user who is a member of the group, with any umask.
#[test]
fn all_that_a_listener_writes() {
    if !is_root() || !tool("setpriv") {
        return;
    }
    for (compress, is_user) in [("none", false), ("zstd", true), ("gzip", false)] {
        let group = GROUP.to_string();
        let flags = format!(
            "--sandbox require --group {group} -w DIR/made/st/ --flows DIR/made/st/ --flows DIR/made/deep/flows/ \
             --flows parquet:DIR/f.parquet --rotate-packets 50 --split vni --compress {compress} \
             --on-rotate DIR/hook.sh"
        );
        let listening = Listening::start_with(&flags, |command| {
            let dir = directory_of(command);
            hook(&dir);
            if is_user {
                chown(&dir, Some(USER), Some(USER)).unwrap();
                *command = as_user(command, &dir, &group);
            }
        });
        let dir = listening.dir.path().to_owned();
        let made = dir.join("made");
        listening.send("--generate --count 500 --pps 5000 --vnis 3");
        listening.wait(|status| status["received"] == 500);
        // Those that are written now have no name yet, and the group already; others that come and go have it soon.
        let written = |all: &BTreeMap<PathBuf, (u32, u32)>| {
            let is_given = |(gid, mode): &(u32, u32)| *gid == GROUP && mode & 0o77 != 0;
            let hidden = |name: &Path| name.to_str().unwrap().ends_with(".part");
            let named = all.iter().filter(|(name, _)| !hidden(name));
            for (name, of) in named {
                assert!(is_given(of), "{}: {of:?}", name.display());
            }
            let mut parts = all.iter().filter(|(name, _)| hidden(name)).peekable();
            parts.peek().is_some() && parts.all(|(_, of)| is_given(of))
        };
        wait_until(|| written(&below(&made)));
        let names: Vec<PathBuf> = below(&made).into_keys().collect();
        assert_has(
            &names,
            &["st/MANIFEST.jsonl", "st/.vxtap.lock", "deep/flows"],
        );
        let (code, said, _) = listening.end_with(|dir| {
            let names = assert_given(&made, 0o640, 0o750);
            let packed = match compress {
                "none" => ".pcapng",
                "zstd" => ".pcapng.zst",
                _ => ".pcapng.gz",
            };
            assert_has(&names, &[packed, ".idx", ".jsonl", "MANIFEST.jsonl"]);
            assert!(names.iter().all(|name| !name.ends_with(".part")));
            for file in ["f.parquet", "summary.json"] {
                let meta = dir.join(file).metadata().unwrap();
                let given = (meta.gid(), meta.mode() & 0o7777);
                assert_eq!(given, (GROUP, 0o640), "{file}");
                assert_eq!(meta.uid(), if is_user { USER } else { 0 });
            }
            if compress == "none" {
                assert_sound(&made.join("st"));
            }
            let marks = fs::read_to_string(dir.join("marks")).unwrap();
            assert!(!marks.is_empty());
            let given = format!("{GROUP} 640 ");
            assert!(
                marks.lines().all(|line| line.starts_with(&given)),
                "{marks}"
            );
        });
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("no capabilities; "), "{said}");
    }
}

/// The command as the user, who is a member of `groups`, under a umask that leaves the group nothing.
fn as_user(command: &Command, dir: &Path, groups: &str) -> Command {
    let program = program_in(dir);
    let id = USER.to_string();
    let mut user = Command::new("setpriv");
    user.args(["--reuid", &id, "--regid", &id, "--groups", groups]);
    user.args(["sh", "-c", "umask 077; exec \"$@\"", "sh", "env"]);
    for arg in command.get_args() {
        match arg == VXTAP {
            true => user.arg(&program),
            false => user.arg(arg),
        };
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => user.env(name, value),
            None => user.env_remove(name),
        };
    }
    user.current_dir(dir);
    user
}

/// The other commands give their files too, in place of older ones of another group, and a mode that is asked for holds.
#[test]
fn files_of_the_other_commands() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (demo, group) = (testdata("demo.pcap"), GROUP.to_string());
    let demo = demo.to_str().unwrap();
    let (capture, flows, summary) = (path("c.pcapng"), path("f.csv"), path("s.json"));
    let of = |name: &str| {
        let meta = dir.path().join(name).metadata().unwrap();
        (meta.gid(), meta.mode() & 0o7777)
    };
    fs::write(&capture, "older").unwrap();
    let words = ["replay", demo, "-w", &capture, "--flows", &flows];
    let words = [&words[..], &["--summary", &summary, "--group", &group]].concat();
    for (more, mode) in [
        (&[][..], 0o640),
        (&["--mode", "660"], 0o660),
        (&["--mode", "600"], 0o600),
    ] {
        let done = vxtap(words.iter().chain(more));
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        for name in ["c.pcapng", "f.csv", "s.json"] {
            assert_eq!(of(name), (GROUP, mode), "{name}");
        }
    }
    let store = format!("{}/", path("new/st"));
    let done = vxtap([
        "replay", demo, "-w", &store, "--mode", "660", "--group", &group,
    ]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_given(&dir.path().join("new"), 0o660, 0o770);
    for (name, words) in [
        (
            "e.pcapng",
            vec!["extract", &capture, "--vni", "7", "--write"],
        ),
        ("r.html", vec!["report", &capture, "--html"]),
        ("sent.pcap", vec!["send", demo, "--write"]),
    ] {
        let to = path(name);
        let done = vxtap(words.into_iter().chain([&to, "--group", &group]));
        assert_eq!(done.code, Some(0), "{name}: {}", done.stderr);
        assert_eq!(of(name), (GROUP, 0o640), "{name}");
    }
}

/// What a killed run left gets the group with its name, or where it is moved to; what is finished stays as it is.
#[test]
fn what_a_killed_run_left() {
    if !is_root() {
        return;
    }
    let listening = Listening::start("-w DIR/st/ --rotate-packets 200");
    listening.send("--generate --count 500 --pps 20000");
    listening.wait(|status| status["received"] == 500);
    let store = listening.dir.path().join("st");
    let names = |store: &Path| below(store).into_keys().collect::<Vec<PathBuf>>();
    let has = |words: &str| {
        let names = names(&store);
        names
            .iter()
            .any(|name| name.to_str().unwrap().contains(words))
    };
    wait_until(|| has("vxtap_00003_"));
    let finished: BTreeMap<_, _> = below(&store)
        .into_iter()
        .filter(|(name, _)| name.to_str().unwrap().starts_with("vxtap_"))
        .collect();
    assert!(!finished.is_empty());
    let pid = Pid::from_raw(listening.child.id() as i32);
    kill(pid, Signal::SIGKILL).unwrap();
    // It cannot be finished.
    let left = ".vxtap-flows_00004_20260115093000.parquet.part";
    fs::write(store.join(left), "PAR1 and something").unwrap();
    let demo = testdata("demo.pcap");
    let store_word = format!("{}/", store.display());
    let mut again = vxtap_command(["replay", demo.to_str().unwrap(), "-w", &store_word]);
    let done = run(again.args(["--group", &GROUP.to_string()]));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(
        done.stderr.contains("an earlier run was killed"),
        "{}",
        done.stderr
    );
    let mut recovered = 0;
    for (name, given) in below(&store) {
        match finished.get(&name) {
            Some(before) => assert_eq!(given, *before, "{}", name.display()),
            None => {
                recovered += 1;
                let mode = if name == Path::new("quarantine") {
                    0o750
                } else {
                    0o640
                };
                assert_eq!(
                    (given.0, given.1 & 0o7777),
                    (GROUP, mode),
                    "{}",
                    name.display()
                );
            }
        }
    }
    assert!(
        recovered > 3 && has("quarantine/vxtap-flows"),
        "{:?}",
        names(&store)
    );
}

/// A user gives files to groups of its own, and is told of others what to do; nothing is begun then.
#[test]
fn a_user_gives_files_to_its_own_groups_only() {
    if !is_root() || !tool("setpriv") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    chown(dir, Some(USER), Some(USER)).unwrap();
    fs::copy(testdata("demo.pcap"), dir.join("demo.pcap")).unwrap();
    fs::set_permissions(dir.join("demo.pcap"), fs::Permissions::from_mode(0o644)).unwrap();
    let as_user =
        |words: &[&str]| run(&mut as_user(&vxtap_command(words), dir, &GROUP.to_string()));
    let other = (GROUP + 1).to_string();
    for words in [
        &["replay", "demo.pcap", "-w", "st/", "--group", &other][..],
        &[
            "listen",
            "--bind",
            "127.0.0.1:0",
            "-w",
            "st/",
            "--group",
            &other,
        ],
        &["check", "-w", "st/", "--group", &other],
        &["send", "demo.pcap", "--write", "x.pcap", "--group", &other],
    ] {
        let done = as_user(words);
        assert_eq!(done.code, Some(2), "{words:?}: {}", done.stderr);
        let remedy = format!("'groupadd -g {other} NAME; usermod -aG NAME USER'");
        for told in [
            "--group",
            "uid 54321 is not a member of the group 54323",
            &remedy,
        ] {
            assert!(done.stderr.contains(told), "{words:?}: {}", done.stderr);
        }
        assert!(!dir.join("st").exists() && !dir.join("x.pcap").exists());
    }
    for group in [GROUP, USER] {
        let store = format!("{group}/");
        let done = as_user(&[
            "replay",
            "demo.pcap",
            "-w",
            &store,
            "--group",
            &group.to_string(),
        ]);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        for (name, (gid, _)) in below(&dir.join(&store)) {
            assert_eq!(gid, group, "{}", name.display());
        }
    }
}

/// A run reads its settings anew where nothing is left to look up the group in.
#[test]
fn a_reload_needs_no_group() {
    let Some(group) = Group::from_gid(getegid()).unwrap() else {
        eprintln!("skipped: this user's group has no name");
        return;
    };
    let listening = Listening::start(&format!("--group {} -w DIR/c.pcapng", group.name));
    let mut reload = vxtap_command(["reload", "--control"]);
    let done = run(reload.arg(listening.socket()));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    listening.end();
}

/// Names and numbers that are no group are told by the place they stand at, and `vxtap check` tells them too.
#[test]
fn what_is_no_group() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("vxtap.toml");
    fs::write(&file, "[output]\ngroup = \"no-such-group\"\n").unwrap();
    let file = file.to_str().unwrap();
    for words in [&["check", file][..], &["listen", "--config", file]] {
        let done = vxtap(words);
        assert_eq!(done.code, Some(2), "{}", done.stderr);
        let told = format!(
            "{file}:2:9: invalid value 'no-such-group' for group: this machine has no such group: 'getent group' lists"
        );
        assert!(done.stderr.contains(&told), "{}", done.stderr);
    }
    let done = run(vxtap_command(["check"]).env("VXTAP_GROUP", "4294967295"));
    assert_eq!(done.code, Some(2));
    let told =
        "invalid value '4294967295' for VXTAP_GROUP: the number of a group is at most 4294967294";
    assert!(done.stderr.contains(told), "{}", done.stderr);
    for words in [
        &["replay", "x.pcap"][..],
        &["send", "x.pcap", "--to", "127.0.0.1"],
        &["extract", "x.pcap", "--write", "y.pcap"],
        &["report", "x.pcap"],
    ] {
        for group in ["", "no-such-group", "99999999999"] {
            let done = vxtap(words.iter().chain(&["--group", group]));
            assert_eq!(done.code, Some(2), "{words:?}: {}", done.stderr);
            assert!(
                done.stderr.contains("--group"),
                "{words:?}: {}",
                done.stderr
            );
        }
    }
}
