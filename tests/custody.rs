//! Whether a store can be trusted: `verify` names what was done to it, `ls` what it holds; signatures.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::Duration;

use common::shim::{Point, Shim};
use common::{Run, Running, json_lines, testdata, tool, vxtap, vxtap_command};
use serde_json::Value;
use vxtap::capture::store::inspect::audit;
use vxtap::capture::store::manifest::{Chain, Event, FileFacts, MOST_BYTES};

const MANIFEST: &str = "MANIFEST.jsonl";

/// A store with deleted files, in a directory of its own.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with_store(flags: &[&str]) -> Self {
        let place = Self::new();
        let done = place.replay(flags);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn store(&self) -> PathBuf {
        self.path("st")
    }

    /// Replays the demo, 198 mirrored packets, into the store.
    fn replay(&self, flags: &[&str]) -> Run {
        let mut command = vxtap_command(["replay"]);
        command.arg(testdata("demo.pcap"));
        command
            .arg("-w")
            .arg(format!("{}/", self.store().display()));
        common::run(command.args(flags))
    }

    fn in_store(&self, name: &str) -> PathBuf {
        self.store().join(name)
    }

    fn lines(&self) -> Vec<Value> {
        json_lines(&fs::read_to_string(self.in_store(MANIFEST)).unwrap())
    }

    /// The names of the files that are there.
    fn files(&self) -> Vec<String> {
        let mut names = self.files_and_indexes();
        names.retain(|name| !name.ends_with(".idx"));
        names
    }

    fn files_and_indexes(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.store())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("vxtap"))
            .collect();
        names.sort();
        names
    }

    fn verify(&self) -> Verdict {
        verify(&self.store(), &[])
    }
}

#[derive(Debug)]
struct Verdict {
    code: i32,
    json: Value,
}

impl Verdict {
    fn of(&self, name: &str) -> Vec<(String, String)> {
        let told = self.json[name].as_array().unwrap().iter();
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        told.map(|one| (word(&one["file"]), word(&one["why"])))
            .collect()
    }

    #[track_caller]
    fn assert_proven(&self) {
        assert_eq!(
            (self.code, self.json["proven"].as_bool()),
            (0, Some(true)),
            "{self:?}"
        );
    }

    /// Exactly these faults.
    #[track_caller]
    fn assert_faults(&self, expected: &[(&str, &str)]) {
        let expected: Vec<(String, String)> = expected
            .iter()
            .map(|(file, why)| ((*file).to_owned(), (*why).to_owned()))
            .collect();
        assert_eq!(self.of("faults"), expected, "{self:?}");
        assert_eq!((self.code, self.json["proven"].as_bool()), (1, Some(false)));
    }

    #[track_caller]
    fn assert_notes(&self, expected: &[(&str, &str)]) {
        self.assert_proven();
        let notes = self.of("notes");
        let notes: Vec<(&str, &str)> = notes
            .iter()
            .map(|(file, why)| (file.as_str(), why.as_str()))
            .collect();
        assert_eq!(notes, expected, "{self:?}");
    }
}

fn verify(store: &Path, flags: &[&str]) -> Verdict {
    let words = ["verify", "--json", store.to_str().unwrap()];
    let done = vxtap(words.iter().chain(flags));
    let json = serde_json::from_slice(&done.stdout).unwrap_or_default();
    let code = done.code.unwrap_or_else(|| panic!("{}", done.stderr));
    Verdict { code, json }
}

/// What is wrong, found out in this process: the file, the line, and what.
fn faults(store: &Path) -> Vec<(String, Option<u64>, &'static str)> {
    let audit = audit(store, None, &AtomicU64::new(0)).unwrap();
    let faults = audit.ledger.faults.into_iter();
    faults
        .map(|fault| (fault.file, fault.line, fault.why))
        .collect()
}

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

const WITH_DELETED: [&str; 4] = ["--rotate-packets", "20", "--keep-files", "6"];

#[test]
fn a_whole_store_is_proven() {
    let place = Place::with_store(&WITH_DELETED);
    let verdict = place.verify();
    verdict.assert_notes(&[]);
    let json = &verdict.json;
    assert_eq!((&json["files"], &json["deleted"]), (&6.into(), &4.into()));
    assert_eq!(json["lines"], 14, "{json}");
    assert_eq!(json["manifests"], serde_json::json!([MANIFEST]));
    let done = vxtap(["verify", place.store().to_str().unwrap()]);
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(
        said.contains("14 lines in 1 manifest; 6 files with"),
        "{said}"
    );
    assert!(said.ends_with("all is proven\n"), "{said}");
    // Another run goes on.
    assert_eq!(place.replay(&WITH_DELETED).code, Some(0));
    place.verify().assert_notes(&[]);
}

#[test]
fn what_is_no_store_is_told() {
    let place = Place::new();
    fs::create_dir(place.path("empty")).unwrap();
    fs::write(place.path("file"), "").unwrap();
    for command in ["verify", "ls"] {
        for (name, part) in [
            ("empty", "it has no MANIFEST.jsonl"),
            ("file", "Not a directory"),
            ("nowhere", "No such file"),
        ] {
            let done = vxtap([command, place.path(name).to_str().unwrap()]);
            assert_eq!(done.code, Some(2), "{}", done.stderr);
            assert!(done.stderr.contains(part), "{}", done.stderr);
        }
    }
    assert_eq!(fs::read_dir(place.path("empty")).unwrap().count(), 0);
}

/// One byte that changes anywhere, the first and the last of each file included, is named by its file and, in the
/// manifest, by its line.
#[test]
fn one_byte_that_changes_anywhere_is_named() {
    let place = Place::with_store(&WITH_DELETED);
    assert_eq!(faults(&place.store()), []);
    let mut random = Random(0x5eed);
    let files = place.files_and_indexes();
    assert_eq!(files.len(), 12);
    for name in files.iter().map(String::as_str).chain([MANIFEST]) {
        let path = place.in_store(name);
        let whole = fs::read(&path).unwrap();
        let tries = if name == MANIFEST { 1500 } else { 40 };
        let places = (0..tries).map(|_| random.below(whole.len()));
        let places: Vec<usize> = places.chain([0, whole.len() - 1]).collect();
        for at in places {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << random.below(8);
            fs::write(&path, &bytes).unwrap();
            let found = faults(&place.store());
            let context = || format!("{name} byte {at}: {found:?}");
            if name == MANIFEST {
                let before = whole[..at].iter().filter(|byte| **byte == b'\n').count();
                let (file, line, _) = &found[0];
                let expected = (MANIFEST, Some(before as u64 + 1));
                assert_eq!((file.as_str(), *line), expected, "{}", context());
                // The line is not believed. What it was about is there without one, or not there without one.
                let others = found[1..].iter().filter(|fault| fault.0 == MANIFEST);
                for (_, line, why) in others {
                    let next = Some(before as u64 + 2);
                    assert!(*line == next || *why == "never_listed", "{}", context());
                }
            } else {
                assert_eq!(found, [(name.to_owned(), None, "changed")]);
            }
        }
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!(faults(&place.store()), []);
}

#[test]
fn lines_that_are_removed_swapped_or_repeated_are_named() {
    let place = Place::with_store(&WITH_DELETED);
    let path = place.in_store(MANIFEST);
    let whole = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    let told = |lines: &[&str]| {
        fs::write(&path, lines.concat()).unwrap();
        faults(&place.store())
    };
    let ended: Vec<String> = lines.iter().map(|line| format!("{line}\n")).collect();
    let ended: Vec<&str> = ended.iter().map(String::as_str).collect();
    let of_line = |at: usize, why| (MANIFEST.to_owned(), Some(at as u64 + 1), why);
    assert_eq!(told(&ended), []);
    let last = ended.len() - 1;
    for at in 0..=last {
        let mut removed = ended.clone();
        removed.remove(at);
        let found = told(&removed);
        if at == last {
            // The last line lists a file, or deletes one.
            let line: Value = serde_json::from_str(lines[at]).unwrap();
            assert_eq!(found[0].0, line["name"].as_str().unwrap(), "{found:?}");
            assert!(["unlisted", "missing"].contains(&found[0].2), "{found:?}");
        } else {
            assert_eq!(found[0], of_line(at, "left_out"), "{found:?}");
        }
        let mut repeated = ended.clone();
        repeated.insert(at, ended[at]);
        assert_eq!(told(&repeated), [of_line(at + 1, "repeated")]);
        repeated = ended.clone();
        repeated.push(ended[at]);
        assert_eq!(told(&repeated), [of_line(last + 1, "repeated")]);
        if at < last {
            let mut swapped = ended.clone();
            swapped.swap(at, at + 1);
            let found = told(&swapped);
            let both = [of_line(at, "swapped"), of_line(at + 1, "swapped")];
            assert_eq!(found[..2], both, "{found:?}");
        }
    }
    // The end of the last line is gone, with its line end or a part of it too.
    for len in 1..ended[last].len() {
        let cut = &ended[last][..ended[last].len() - len];
        let found = told(&[&ended[..last], &[cut][..]].concat());
        assert_eq!(found[0], of_line(last, "torn"), "{found:?}");
    }
    fs::remove_file(&path).unwrap();
    let found = faults(&place.store());
    assert!(
        found.contains(&(MANIFEST.to_owned(), None, "missing")),
        "{found:?}"
    );
    assert_eq!(found.len(), 7, "{found:?}");
}

#[test]
fn what_is_done_to_files_is_told() {
    let place = Place::with_store(&WITH_DELETED);
    let files = place.files();
    let [a, b, c, ..] = &files[..] else { panic!() };
    let whole = fs::read(place.in_store(a)).unwrap();
    let restore = || fs::write(place.in_store(a), &whole).unwrap();
    // Deleted by hand.
    fs::remove_file(place.in_store(a)).unwrap();
    place.verify().assert_faults(&[(a, "missing")]);
    // Renamed to what a store would call it, and to something else.
    for other in ["vxtap_00099_20260115093000.pcapng", "mine.pcapng"] {
        fs::write(place.in_store(other), &whole).unwrap();
        let verdict = place.verify();
        let text = verdict.json["faults"][0]["text"].as_str().unwrap();
        assert!(text.contains(&format!("{other} has its content")), "{text}");
        match other {
            "mine.pcapng" => verdict.assert_faults(&[(a, "missing")]),
            _ => verdict.assert_faults(&[(a, "missing"), (other, "unlisted")]),
        }
        fs::remove_file(place.in_store(other)).unwrap();
    }
    restore();
    place.verify().assert_notes(&[]);
    // Cut, lengthened, replaced by what is no file.
    fs::write(place.in_store(a), &whole[..whole.len() - 1]).unwrap();
    place.verify().assert_faults(&[(a, "changed")]);
    fs::write(place.in_store(a), [&whole[..], b"x"].concat()).unwrap();
    place.verify().assert_faults(&[(a, "changed")]);
    fs::remove_file(place.in_store(a)).unwrap();
    fs::write(place.path("elsewhere"), &whole).unwrap();
    symlink(place.path("elsewhere"), place.in_store(a)).unwrap();
    place.verify().assert_faults(&[(a, "unreadable")]);
    fs::remove_file(place.in_store(a)).unwrap();
    fs::create_dir(place.in_store(a)).unwrap();
    place.verify().assert_faults(&[(a, "unreadable")]);
    fs::remove_dir(place.in_store(a)).unwrap();
    let fifo = Command::new("mkfifo").arg(place.in_store(a)).status();
    assert!(fifo.unwrap().success());
    place.verify().assert_faults(&[(a, "unreadable")]);
    fs::remove_file(place.in_store(a)).unwrap();
    restore();
    // Two that changed places, of one size or not.
    let swap = || {
        fs::rename(place.in_store(b), place.path("x")).unwrap();
        fs::rename(place.in_store(c), place.in_store(b)).unwrap();
        fs::rename(place.path("x"), place.in_store(c)).unwrap();
    };
    swap();
    let verdict = place.verify();
    verdict.assert_faults(&[(b, "changed"), (c, "changed")]);
    let text = verdict.json["faults"][0]["text"].as_str().unwrap();
    assert!(
        text.contains(&format!("its content is that of {c}")),
        "{text}"
    );
    swap();
    // Added.
    let added = "vxtap_00098_20260115093000.pcapng.zst";
    fs::write(place.in_store(added), "x").unwrap();
    fs::write(place.in_store("notes.txt"), "x").unwrap();
    place.verify().assert_faults(&[(added, "unlisted")]);
}

/// What a run that was killed leaves is told as what it is, and the next run puts it in order.
#[test]
fn what_killed_runs_leave_is_no_fault() {
    let place = Place::with_store(&["--rotate-packets", "20"]);
    let gone = place.files().remove(0);
    let gone_content = fs::read(place.in_store(&gone)).unwrap();
    assert_eq!(place.replay(&WITH_DELETED).code, Some(0));
    let files = place.files();
    let [a, b, ..] = &files[..] else { panic!() };
    let hidden = |name: &str| place.in_store(&format!(".{name}.part"));
    // Listed and not named; named, and its hidden name still there; deleted and still there; not ended.
    fs::rename(place.in_store(a), hidden(a)).unwrap();
    fs::hard_link(place.in_store(b), hidden(b)).unwrap();
    fs::write(place.in_store(&gone), gone_content).unwrap();
    let begun = "vxtap_00021_20260115093000.pcapng";
    let whole = fs::read(place.in_store(&files[2])).unwrap();
    fs::write(hidden(begun), &whole[..whole.len() - 100]).unwrap();
    let part = |name: &str| format!(".{name}.part");
    let verdict = place.verify();
    let expected = [
        (part(b), "left_by_killed_run"),
        (part(begun), "left_by_killed_run"),
        (part(a), "pending"),
        (gone, "deleted_still_there"),
    ];
    let expected: Vec<(&str, &str)> = expected.iter().map(|(a, b)| (a.as_str(), *b)).collect();
    verdict.assert_notes(&expected);
    assert_eq!(verdict.json["files"], 6);
    // Pending, and not what is listed.
    let content = fs::read(hidden(a)).unwrap();
    fs::write(hidden(a), &content[1..]).unwrap();
    place.verify().assert_faults(&[(&part(a), "changed")]);
    fs::write(hidden(a), &content).unwrap();
    assert_eq!(place.replay(&["--keep-files", "20"]).code, Some(0));
    place.verify().assert_notes(&[]);
    let files = place.files();
    assert!(
        files.contains(a) && files.contains(&begun.to_owned()),
        "{files:?}"
    );
    let names: BTreeSet<&str> = files.iter().map(|name| &name[..11]).collect();
    assert_eq!(names.len(), files.len(), "one file a number: {files:?}");
    // One that cannot be finished is moved aside.
    fs::write(hidden("vxtap_00050_20260115093000.pcapng"), "nothing").unwrap();
    assert_eq!(place.replay(&["--keep-files", "20"]).code, Some(0));
    let aside = "quarantine/vxtap_00050_20260115093000.pcapng";
    place.verify().assert_notes(&[(aside, "quarantined")]);
}

/// A capture that takes a while to be replayed into many files.
fn long_capture(place: &Place) -> PathBuf {
    let path = place.path("long.pcap");
    let words = ["send", "--generate", "--count", "20000", "--write"];
    let done = vxtap(words.iter().copied().chain([path.to_str().unwrap()]));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    path
}

fn replaying(place: &Place, capture: &Path) -> Running {
    let mut command = vxtap_command(["replay"]);
    command
        .arg(capture)
        .arg("-w")
        .arg(format!("{}/", place.store().display()));
    let flags = "--rotate-packets 100 --keep-files 30 --fsync never";
    command.args(flags.split(' ')).stdout(Stdio::null());
    Running::start(command.stderr(Stdio::null()))
}

#[test]
fn after_a_kill_at_any_moment_nothing_false_is_said() {
    let place = Place::new();
    let capture = long_capture(&place);
    let kills = std::env::var("VXTAP_KILLS").map_or(25, |kills| kills.parse().unwrap());
    for round in 0..kills {
        let mut run = replaying(&place, &capture);
        thread::sleep(Duration::from_millis(3 + round * 7 % 60));
        let _ = run.kill();
        run.wait().unwrap();
        if place.in_store(MANIFEST).exists() {
            place.verify().assert_proven();
        }
    }
    assert_eq!(replaying(&place, &capture).wait().unwrap().code(), Some(0));
    place.verify().assert_notes(&[]);
}

/// A run writes, names and deletes files meanwhile.
#[test]
fn a_store_that_is_written_to_is_proven() {
    let place = Place::with_store(&WITH_DELETED);
    let capture = long_capture(&place);
    let mut looked = 0;
    for _ in 0..3 {
        let mut run = replaying(&place, &capture);
        loop {
            let has_ended = run.try_wait().unwrap().is_some();
            place.verify().assert_proven();
            looked += 1;
            if has_ended {
                break;
            }
        }
    }
    assert!(looked > 3);
    place.verify().assert_notes(&[]);
}

#[test]
fn the_manifest_is_signed_and_verified_with_keys_of_openssl() {
    if !tool("openssl") {
        return;
    }
    let place = Place::new();
    let openssl = |args: &[&str]| {
        let mut command = Command::new("openssl");
        let done = common::run(command.current_dir(place.0.path()).args(args));
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        done.stdout
    };
    for key in ["key.pem", "other.pem"] {
        openssl(&["genpkey", "-algorithm", "ed25519", "-out", key]);
        openssl(&[
            "pkey",
            "-in",
            key,
            "-pubout",
            "-out",
            &format!("public-{key}"),
        ]);
    }
    let key = place.path("key.pem");
    let signed = [
        "--rotate-packets",
        "50",
        "--sign-key",
        key.to_str().unwrap(),
    ];
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let done = place.replay(&signed);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(
        done.stderr.contains("others may read the secret key"),
        "{}",
        done.stderr
    );
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(place.lines().iter().all(|line| line["sig"].is_string()));
    let public = |name: &str| place.path(name).to_str().unwrap().to_owned();
    let with = |names: &[&str]| {
        let flags: Vec<String> = names
            .iter()
            .flat_map(|name| ["--public-key".to_owned(), public(name)])
            .collect();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        verify(&place.store(), &flags)
    };
    with(&["public-key.pem"]).assert_proven();
    // The last 32 bytes of what openssl writes are the key.
    let der = openssl(&["pkey", "-in", "key.pem", "-pubout", "-outform", "DER"]);
    let hex: String = der[der.len() - 32..]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    fs::write(place.path("hex"), format!("{hex}\n")).unwrap();
    with(&["hex"]).assert_proven();
    let wrong = with(&["public-other.pem"]);
    wrong.assert_faults(&[(MANIFEST, "wrong_signature")]);
    assert_eq!(wrong.json["faults"][0]["last_line"], place.lines().len());
    // A second run with another key, and then one without.
    let other = place.path("other.pem");
    let flags = [
        "--rotate-packets",
        "100",
        "--sign-key",
        other.to_str().unwrap(),
    ];
    let done = place.replay(&flags);
    assert_eq!(done.code, Some(0));
    assert!(!done.stderr.contains("others may read"), "{}", done.stderr);
    with(&["hex", "public-other.pem"]).assert_proven();
    with(&["hex"]).assert_faults(&[(MANIFEST, "wrong_signature")]);
    assert_eq!(place.replay(&[]).code, Some(0));
    with(&["hex", "public-other.pem"]).assert_faults(&[(MANIFEST, "no_signature")]);
    place.verify().assert_proven();
}

#[test]
fn keys_and_programs_that_cannot_be_used_are_told_before_anything_is_made() {
    let place = Place::new();
    fs::write(place.path("text"), "no key").unwrap();
    let text = place.path("text");
    let text = text.to_str().unwrap();
    for (flags, part) in [
        (["--sign-key", text], "it holds no key"),
        (
            ["--sign-key", "/nowhere/key"],
            "cannot be read: No such file",
        ),
        (["--on-rotate", text], "may not be executed"),
        (["--on-rotate", "/nowhere/hook"], "No such file"),
        (["--on-rotate", "no-such-program-here"], "in PATH"),
    ] {
        let done = place.replay(&flags);
        assert_eq!(done.code, Some(2), "{}", done.stderr);
        assert!(done.stderr.contains(part), "{}", done.stderr);
        assert!(done.stderr.contains(flags[0]), "{}", done.stderr);
        assert!(!place.store().exists());
    }
    let place = Place::with_store(&[]);
    let words = [
        "verify",
        place.0.path().to_str().unwrap(),
        "--public-key",
        text,
    ];
    assert_eq!(vxtap(words).code, Some(2));
}

/// `vxtap ls` as JSON.
fn ls(store: &Path) -> Value {
    let done = vxtap(["ls", "--json", store.to_str().unwrap()]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    serde_json::from_slice(&done.stdout).unwrap()
}

#[test]
fn ls_tells_what_a_store_holds() {
    let place = Place::with_store(&WITH_DELETED);
    let listed = ls(&place.store());
    let files = listed["files"].as_array().unwrap();
    let names: Vec<&str> = files
        .iter()
        .map(|file| file["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, place.files());
    assert_eq!(listed["total"]["files"], 6);
    assert_eq!(listed["deleted"]["files"], 4);
    assert_eq!(listed["total"]["packets"], 118, "{listed}");
    assert_eq!(
        (&files[0]["format"], &files[0]["compression"]),
        (&"pcapng".into(), &"none".into())
    );
    assert_eq!(listed["gaps"], serde_json::json!([]));
    let table = vxtap(["ls", place.store().to_str().unwrap()]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(
        table.lines().all(|line| line.chars().count() <= 100),
        "{table}"
    );
    assert!(table.contains("6 files, 118 packets"), "{table}");
    assert!(table.contains("deleted so far: 4 files"), "{table}");
    // Missing, not listed, not named.
    let [a, b, c, ..] = &place.files()[..] else {
        panic!()
    };
    fs::remove_file(place.in_store(a)).unwrap();
    fs::rename(place.in_store(b), place.in_store(&format!(".{b}.part"))).unwrap();
    fs::copy(
        place.in_store(c),
        place.in_store("vxtap_00077_20260115093000.pcapng"),
    )
    .unwrap();
    let listed = ls(&place.store());
    let states = listed["files"].as_array().unwrap().iter();
    let states: Vec<&str> = states.map(|file| file["state"].as_str().unwrap()).collect();
    assert_eq!(states[..3], ["missing", "unnamed", "there"]);
    assert_eq!(
        listed["unlisted"],
        serde_json::json!(["vxtap_00077_20260115093000.pcapng"])
    );
    let split = Place::with_store(&["--split", "session"]);
    let listed = ls(&split.store());
    let prefixes = listed["files"].as_array().unwrap().iter();
    let prefixes: BTreeSet<&str> = prefixes
        .map(|file| file["prefix"].as_str().unwrap())
        .collect();
    assert_eq!(prefixes.len(), 3, "{listed}");
}

/// A file that a run writes is told as that, and no fault.
#[test]
fn an_open_file_is_told_as_one() {
    let place = Place::with_store(&["--rotate-packets", "50"]);
    let said = place.path("said");
    let mut command = vxtap_command(["listen", "--backend", "udp", "--bind", "127.0.0.1:0", "-w"]);
    command.arg(place.store()).stdout(Stdio::null());
    let mut child = Running::start(command.stderr(fs::File::create(&said).unwrap()));
    let mut feeds = 0;
    let part = loop {
        assert!(feeds < 1000, "it never came");
        let text = fs::read_to_string(&said).unwrap();
        if let Some((_, rest)) = text.split_once("listening on ") {
            let to = rest.split_once(';').unwrap().0;
            let words = ["send", "--generate", "--count", "10", "--to", to];
            assert_eq!(vxtap(words).code, Some(0));
            feeds += 1;
        }
        let open = ls(&place.store())["open"].clone();
        if let Some(file) = open.get(0) {
            assert_eq!(file["is_written"], true, "{open}");
            break format!(".{}.part", file["name"].as_str().unwrap());
        }
        thread::sleep(Duration::from_millis(20));
    };
    place.verify().assert_notes(&[(&part, "being_written")]);
    child.kill().unwrap();
    child.wait().unwrap();
    let open = &ls(&place.store())["open"];
    assert_eq!(open[0]["is_written"], false, "{open}");
    place
        .verify()
        .assert_notes(&[(&part, "left_by_killed_run")]);
}

/// A store whose manifest is almost, or just, as long as one may be: lines of files that were deleted since.
fn store_with_long_manifest(room: u64) -> Place {
    let place = Place::with_store(&["--rotate-packets", "50"]);
    let path = place.in_store(MANIFEST);
    let mut bytes = fs::read(&path).unwrap();
    let mut chain = Chain::default();
    for line in bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        assert_eq!(chain.check(line, None).1, Ok(()));
    }
    let length = |number: u64| {
        let facts = FileFacts {
            name: format!("before_{number:05}_20260101000000.pcapng"),
            bytes: 7,
            sha256: "0".repeat(64),
            // Few lines are enough, since each has to be read again and again.
            reason: "long ".repeat(10_000),
            ..FileFacts::default()
        };
        let deleted = Event::Deleted {
            name: facts.name.clone(),
            bytes: facts.bytes,
            because: "keep_bytes".to_owned(),
        };
        (facts, deleted)
    };
    let until = MOST_BYTES - room;
    for number in 1.. {
        let left = until.saturating_sub(bytes.len() as u64) as usize;
        let (mut facts, deleted) = length(number);
        // The last one ends it within a few bytes.
        facts.reason.truncate(left.saturating_sub(700));
        bytes.extend(chain.append(number, Event::File(facts), None));
        bytes.extend(chain.append(number, deleted, None));
        if bytes.len() as u64 >= until {
            break;
        }
    }
    assert!(
        (until..until + 1000).contains(&(bytes.len() as u64)),
        "{}",
        bytes.len()
    );
    fs::write(&path, bytes).unwrap();
    place
}

fn copy_of(place: &Place) -> Place {
    let copy = Place::new();
    let mut cp = Command::new("cp");
    cp.arg("-a").arg(place.store()).arg(copy.store());
    assert!(cp.status().unwrap().success());
    copy
}

#[track_caller]
fn assert_closed_once(place: &Place) {
    let verdict = place.verify();
    verdict.assert_notes(&[]);
    let closed = "MANIFEST_00001.jsonl";
    assert_eq!(
        verdict.json["manifests"],
        serde_json::json!([closed, MANIFEST])
    );
    assert!(fs::metadata(place.in_store(closed)).unwrap().len() >= MOST_BYTES);
    let listed = ls(&place.store());
    assert_eq!(
        (&listed["unlisted"], &listed["open"]),
        (&serde_json::json!([]), &serde_json::json!([]))
    );
    assert_eq!(listed["total"]["files"], place.files().len());
    let numbers: BTreeSet<&str> = listed["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| {
            assert_eq!(file["state"], "there");
            &file["name"].as_str().unwrap()[..11]
        })
        .collect();
    assert_eq!(numbers.len(), place.files().len(), "a number twice");
}

/// Two runs write to it, and it is proven before, meanwhile and afterwards.
#[test]
fn a_manifest_that_is_long_enough_is_closed_and_another_follows() {
    let place = store_with_long_manifest(3000);
    place.verify().assert_notes(&[]);
    let start = || {
        let mut command = vxtap_command(["replay"]);
        command
            .arg(testdata("demo.pcap"))
            .arg("-w")
            .arg(place.store());
        command.args(["--rotate-packets", "5", "--keep-files", "30"]);
        Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()))
    };
    let mut runs = [start(), start()];
    loop {
        let is_over = runs.iter_mut().all(|run| run.try_wait().unwrap().is_some());
        place.verify().assert_proven();
        if is_over {
            break;
        }
    }
    for run in &mut runs {
        assert_eq!(run.wait().unwrap().code(), Some(0));
    }
    assert_closed_once(&place);
    assert_eq!(place.files().len(), 30);
    let first = &place.lines()[0];
    assert_eq!(
        (&first["kind"], &first["after"]),
        (&"continued".into(), &"MANIFEST_00001.jsonl".into())
    );
    // The next run goes on with the numbers and with what is to be deleted.
    assert_eq!(
        place
            .replay(&["--rotate-packets", "50", "--keep-files", "30"])
            .code,
        Some(0)
    );
    assert_closed_once(&place);
    assert_eq!(place.files().len(), 30);
    let last = place.files().pop().unwrap();
    assert!(last.starts_with("vxtap_00088_"), "{last}");
    // What its lines say is believed: files of other times are not read.
    let (out, told) = (place.path("out.pcapng"), place.path("told.json"));
    let mut command = vxtap_command(["extract"]);
    command
        .arg(place.store())
        .args(["--since", "2027-01-01", "-w"])
        .arg(out);
    assert_eq!(
        common::run(command.arg("--summary").arg(&told)).code,
        Some(0)
    );
    let told: Value = serde_json::from_slice(&fs::read(told).unwrap()).unwrap();
    assert_eq!(told["files_of_other_times"], 30);
}

/// At each step of closing it: another process looks, the run goes on or is killed, and the next one goes on.
#[test]
fn a_manifest_is_closed_whole_or_by_the_next_run() {
    if !common::lab::long_tests() {
        eprintln!("skipped: it takes a minute; VXTAP_LONG_TESTS=1 runs it");
        return;
    }
    let Some(shim) = Shim::new() else {
        return;
    };
    let long = store_with_long_manifest(0);
    // Before the new one is there, and before its first line is.
    for call in ["open", "write"] {
        let point = Point {
            call,
            file: "manifest",
            at: 1,
        };
        let place = copy_of(&long);
        let replaying = |place: &Place, does: &str| {
            let mut command = vxtap_command(["replay"]);
            command
                .arg(testdata("demo.pcap"))
                .arg("-w")
                .arg(place.store());
            shim.load(&mut command, &place.store(), point, does);
            Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()))
        };
        let mut killed = replaying(&place, "killed");
        assert_eq!(killed.wait().unwrap().code(), None, "{point:?}");
        assert_eq!(place.replay(&[]).code, Some(0), "{point:?}");
        assert_closed_once(&place);
        // One that looks while it is closed waits for the end of that.
        let place = copy_of(&long);
        let mut run = replaying(&place, "waits");
        common::store::wait_until(|| shim.mark().exists());
        thread::scope(|scope| {
            let looking = scope.spawn(|| place.verify());
            shim.go_on();
            looking.join().unwrap().assert_proven();
        });
        assert_eq!(run.wait().unwrap().code(), Some(0), "{point:?}");
    }
}
