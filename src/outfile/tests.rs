//! Files as a test finds them: their names, modes, locks, and what is left after an error.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use super::*;

/// A write that fails may have brought more to the file than it tells of.
#[test]
fn what_a_failed_write_left_is_cut_off() {
    let dir = Folder::new();
    for whole in [5, 3] {
        let mut out = OutFile::create(&dir.path("out")).unwrap();
        out.write(b"whole").unwrap();
        out.file.write_all(b"torn").unwrap();
        out.cut_to(whole).unwrap();
        out.write(b", more").unwrap();
        assert_eq!(out.bytes(), whole + 6);
        out.finish().unwrap();
        let expected = &"whole"[..whole as usize];
        assert_eq!(dir.read("out"), format!("{expected}, more"));
    }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn mode(&self, name: &str) -> u32 {
        self.path(name).metadata().unwrap().mode() & 0o7777
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

const KEEP: Creation = Creation {
    mode: None,
    group: None,
    existing: Existing::Keep,
};

fn written(path: &Path, creation: Creation, text: &str) -> String {
    let mut out = OutFile::create_as(path, creation).unwrap();
    out.write(text.as_bytes()).unwrap();
    out.finish().unwrap()
}

#[test]
fn the_name_appears_with_the_last_byte() {
    let dir = Folder::new();
    let path = dir.path("out");
    let mut out = OutFile::create(&path).unwrap();
    out.write(b"hello world").unwrap();
    out.cut_to(5).unwrap();
    out.write(b"!").unwrap();
    assert!(!path.exists());
    assert!(matches!(OutFile::create(&path), Err(OutError::Busy { .. })));
    let synced = out.synced();
    assert_eq!(out.finish().unwrap(), path.to_str().unwrap());
    assert!(synced.load(Ordering::Relaxed) > 0);
    assert_eq!(dir.read("out"), "hello!");
    assert_eq!(dir.names(), ["out"]);
}

/// The lock is on what is written now, whatever stood there before.
#[test]
fn what_a_killed_run_left_is_kept_and_the_name_stays_locked() {
    for left in ["half", ""] {
        let dir = Folder::new();
        fs::write(dir.path(".out.part"), left).unwrap();
        let mut out = OutFile::create(&dir.path("out")).unwrap();
        for _ in 0..2 {
            let second = OutFile::create(&dir.path("out"));
            assert!(matches!(second, Err(OutError::Busy { .. })), "{left}");
        }
        out.write(b"whole").unwrap();
        out.finish().unwrap();
        assert_eq!(dir.read("out"), "whole");
        if left.is_empty() {
            assert_eq!(dir.names(), ["out"]);
        } else {
            assert_eq!(dir.names(), [".out.part.1", "out"]);
            assert_eq!(dir.read(".out.part.1"), "half");
        }
    }
}

/// However many begin at once, one has the name, and what was left is there once.
#[test]
fn one_of_many_gets_the_name() {
    let dir = Folder::new();
    fs::write(dir.path(".out.part"), "half").unwrap();
    let path = dir.path("out");
    let outs: Vec<_> = std::thread::scope(|scope| {
        let many: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| OutFile::create(&path)))
            .collect();
        many.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let busy = |out: &&Result<OutFile, OutError>| matches!(out, Err(OutError::Busy { .. }));
    assert_eq!(outs.iter().filter(busy).count(), 7);
    assert_eq!(dir.names(), [".out.part", ".out.part.1"]);
    drop(outs);
    assert_eq!(dir.names(), [".out.part.1"]);
}

#[test]
fn dropped_it_leaves_data_and_nothing_else() {
    let dir = Folder::new();
    let create = || OutFile::create(&dir.path("out")).unwrap();
    drop(create());
    assert_eq!(dir.names(), [""; 0]);
    let mut header = create();
    header.write(b"header").unwrap();
    header.end_header();
    drop(header);
    assert_eq!(dir.names(), [""; 0]);
    let mut data = create();
    data.write(b"header").unwrap();
    data.end_header();
    data.write(b"data").unwrap();
    drop(data);
    assert_eq!(dir.read(".out.part"), "headerdata");
    let mut given_up = create();
    given_up.write(b"data").unwrap();
    given_up.discard();
    assert_eq!(dir.names(), [".out.part.1"]);
}

#[test]
fn what_is_not_whole_stays_hidden() {
    let dir = Folder::new();
    let mut out = OutFile::create(&dir.path("out")).unwrap();
    out.write(b"some").unwrap();
    let place = out.keep_part().unwrap().unwrap();
    assert_eq!(place, dir.path(".out.part").to_str().unwrap());
    assert_eq!(dir.read(".out.part"), "some");
    let none = OutFile::create(&dir.path("other")).unwrap();
    assert_eq!(none.keep_part().unwrap(), None);
    assert_eq!(dir.names(), [".out.part"]);
}

#[test]
fn a_finished_file_is_kept_where_that_is_asked_for() {
    let dir = Folder::new();
    let out = dir.path("out.pcapng.zst");
    for (name, text) in [
        ("out.pcapng.zst", "one"),
        ("out.1.pcapng.zst", "two"),
        ("out.2.pcapng.zst", "three"),
    ] {
        let place = written(&out, KEEP, text);
        assert_eq!(place, dir.path(name).to_str().unwrap());
        assert_eq!(dir.read(name), text);
    }
    assert_eq!(dir.names().len(), 3);
    written(&out, Creation::default(), "four");
    assert_eq!(dir.read("out.pcapng.zst"), "four");
    assert_eq!(dir.names().len(), 3);
    // mktemp(1) makes an empty one.
    fs::write(dir.path("empty"), "").unwrap();
    written(&dir.path("empty"), KEEP, "filled");
    assert_eq!(dir.read("empty"), "filled");
}

/// The name is free at the start and taken at the end.
#[test]
fn a_name_taken_meanwhile_is_kept_too() {
    let dir = Folder::new();
    let mut out = OutFile::create_as(&dir.path("out"), KEEP).unwrap();
    out.write(b"ours").unwrap();
    fs::write(dir.path("out"), "theirs").unwrap();
    let place = out.finish().unwrap();
    assert_eq!(place, dir.path("out.1").to_str().unwrap());
    assert_eq!(
        (dir.read("out"), dir.read("out.1")),
        ("theirs".into(), "ours".into())
    );
    assert_eq!(dir.names(), ["out", "out.1"]);
}

#[test]
fn modes() {
    let dir = Folder::new();
    let with = |mode| Creation {
        mode,
        ..Creation::default()
    };
    let out = dir.path("out");
    written(&out, with(None), "");
    assert_eq!(dir.mode("out"), 0o600);
    // That of the file replaced, or what is asked for, whatever the umask.
    for mode in [0o644, 0o666, 0o400] {
        fs::set_permissions(&out, fs::Permissions::from_mode(mode)).unwrap();
        if OpenOptions::new().append(true).open(&out).is_ok() {
            written(&out, with(None), "");
            assert_eq!(dir.mode("out"), mode);
        }
        written(&dir.path("new"), with(Some(mode)), "");
        assert_eq!(dir.mode("new"), mode);
        fs::remove_file(dir.path("new")).unwrap();
    }
    fs::set_permissions(&out, fs::Permissions::from_mode(0o644)).unwrap();
    written(&out, with(Some(0o640)), "");
    assert_eq!(dir.mode("out"), 0o640);
    let hidden = OutFile::create_as(&dir.path("two"), with(Some(0o660))).unwrap();
    assert_eq!(dir.mode(".two.part"), 0o660);
    drop(hidden);
}

/// Whatever others put under the hidden name is neither written to nor waited for.
#[test]
fn planted_parts() {
    let dir = Folder::new();
    fs::write(dir.path("victim"), "").unwrap();
    let refused = |kind: &str| match OutFile::create(&dir.path("out")) {
        Err(OutError::NotOurs { kind: is, .. }) => assert_eq!(is, kind),
        _ => panic!("{kind} was taken"),
    };
    for target in ["victim", "nothing"] {
        symlink(dir.path(target), dir.path(".out.part")).unwrap();
        refused("a symbolic link");
        fs::remove_file(dir.path(".out.part")).unwrap();
    }
    let fifo = dir.path(".out.part");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused("a FIFO");
    fs::remove_file(&fifo).unwrap();
    fs::create_dir(&fifo).unwrap();
    refused("a directory");
    fs::remove_dir(&fifo).unwrap();
    assert_eq!(
        (dir.names(), dir.read("victim")),
        (vec!["victim".into()], String::new())
    );

    // A second name of another file, one of a wide mode: not what is written to.
    fs::write(dir.path("victim"), "theirs").unwrap();
    fs::hard_link(dir.path("victim"), dir.path(".out.part")).unwrap();
    fs::set_permissions(dir.path("victim"), fs::Permissions::from_mode(0o666)).unwrap();
    written(&dir.path("out"), Creation::default(), "ours");
    assert_eq!((dir.read("out"), dir.mode("out")), ("ours".into(), 0o600));
    assert_eq!(dir.read("victim"), "theirs");
    assert_ne!(
        dir.path("victim").metadata().unwrap().ino(),
        dir.path("out").metadata().unwrap().ino()
    );
}

/// The name goes to the file that was written, wherever it went, and never to another one.
#[cfg(target_os = "linux")]
#[test]
fn moved_replaced_and_deleted_while_written() {
    let dir = Folder::new();
    fs::create_dir(dir.path("folder")).unwrap();
    for target in ["folder/elsewhere", "out"] {
        let mut out = OutFile::create(&dir.path("out")).unwrap();
        out.write(b"one ").unwrap();
        fs::rename(dir.path(".out.part"), dir.path(target)).unwrap();
        fs::write(dir.path(".out.part"), "planted").unwrap();
        out.write(b"two").unwrap();
        assert_eq!(out.finish().unwrap(), dir.path(target).to_str().unwrap());
        assert_eq!(dir.read(target), "one two");
        assert_eq!(dir.read(".out.part"), "planted");
        fs::remove_file(dir.path(".out.part")).unwrap();
    }
    fs::remove_file(dir.path("out")).unwrap();
    for planted in [true, false] {
        let mut out = OutFile::create(&dir.path("out")).unwrap();
        out.write(b"lost").unwrap();
        fs::remove_file(dir.path(".out.part")).unwrap();
        if planted {
            fs::write(dir.path(".out.part"), "planted").unwrap();
        }
        let error = out.finish().unwrap_err().to_string();
        assert!(
            error.contains("was deleted while it was written; 4 bytes are lost"),
            "{error}"
        );
        assert!(!dir.path("out").exists());
        // Neither is another's file removed by one that is given up.
        let _ = fs::remove_file(dir.path(".out.part"));
        let given_up = OutFile::create(&dir.path("out")).unwrap();
        fs::remove_file(dir.path(".out.part")).unwrap();
        fs::write(dir.path(".out.part"), "planted").unwrap();
        given_up.discard();
        assert_eq!(dir.read(".out.part"), "planted");
        fs::remove_file(dir.path(".out.part")).unwrap();
    }
}

#[test]
fn names_are_bytes_of_any_length() {
    use std::ffi::OsStr;

    let dir = Folder::new();
    let long = "n".repeat(255);
    let mut other = long.clone().into_bytes();
    other[254] = b'm';
    let names: [&[u8]; 4] = [b"\xff", b"\xfe", long.as_bytes(), &other];
    let path = |name: &[u8]| dir.0.path().join(OsStr::from_bytes(name));
    let mut outs: Vec<_> = names
        .iter()
        .map(|name| OutFile::create(&path(name)).unwrap())
        .collect();
    for (out, name) in outs.iter_mut().zip(names) {
        out.write(name).unwrap();
        assert!(matches!(
            OutFile::create(&path(name)),
            Err(OutError::Busy { .. })
        ));
    }
    for out in outs {
        out.finish().unwrap();
    }
    for name in names {
        assert_eq!(fs::read(path(name)).unwrap(), name);
        // Left by a killed run, however long the name.
        let mut killed = OutFile::create(&path(name)).unwrap();
        killed.write(b"half").unwrap();
        drop(killed);
        written(&path(name), Creation::default(), "whole");
    }
    assert_eq!(fs::read_dir(dir.0.path()).unwrap().count(), 8);
}

#[test]
fn links_are_followed_even_to_nothing() {
    let dir = Folder::new();
    let link = dir.path("link");
    symlink("target", &link).unwrap();
    for text in ["one", "two"] {
        let place = written(&link, Creation::default(), text);
        assert_eq!(place, link.to_str().unwrap());
        assert_eq!(dir.read("target"), text);
        assert!(link.is_symlink());
    }
    written(&link, KEEP, "three");
    assert_eq!(
        (dir.read("target"), dir.read("target.1")),
        ("two".into(), "three".into())
    );
}

#[cfg(target_os = "linux")]
#[test]
fn what_is_open_already_is_added_to() {
    use std::os::fd::AsRawFd;

    let dir = Folder::new();
    let path = dir.path("log");
    fs::write(&path, b"before ").unwrap();
    let open = File::open(&path).unwrap();
    symlink(
        format!("/proc/self/fd/{}", open.as_raw_fd()),
        dir.path("link"),
    )
    .unwrap();
    let mut out = OutFile::create_as(&dir.path("link"), KEEP).unwrap();
    out.write(b"afterwards").unwrap();
    out.cut_to(5).unwrap();
    out.finish().unwrap();
    assert_eq!(dir.read("log"), "before after");
}

#[test]
fn a_pipe_that_is_not_waited_for_is_waited_for_here() {
    use std::io::Read;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    let (mut reader, writer) = io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let file = File::from(std::os::fd::OwnedFd::from(writer));
    let mut out = OutFile::of("pipe".to_owned(), file, None);
    let reading = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let mut all = Vec::new();
        reader.read_to_end(&mut all).map(|_| all)
    });
    let sent: Vec<u8> = (0..1_000_000u32).map(|number| number as u8).collect();
    out.write(&sent).unwrap();
    out.cut_to(0).unwrap();
    out.finish().unwrap();
    assert_eq!(reading.join().unwrap().unwrap(), sent);
}

#[test]
fn a_place_that_cannot_be_written() {
    let dir = Folder::new();
    let error = |name: &str| OutFile::create(&dir.path(name)).err().unwrap().to_string();
    assert!(error(".").contains("it is a directory"));
    assert!(error("new/").contains("it is a directory"));
    assert!(
        error("no/out").ends_with("no does not exist"),
        "{}",
        error("no/out")
    );
    assert!(error("no/where/out").ends_with("no/where does not exist"));
    fs::write(dir.path("file"), "").unwrap();
    assert!(error("file/out").ends_with("file is not a directory"));
    assert_eq!(dir.names(), ["file"]);
    let mut null = OutFile::create(Path::new("/dev/null")).unwrap();
    null.write(b"x").unwrap();
    null.finish().unwrap();
}

#[test]
fn a_probe_leaves_nothing() {
    let dir = Folder::new();
    OutFile::probe(&dir.path("out"), KEEP).unwrap();
    assert_eq!(dir.names(), [""; 0]);
    OutFile::probe(&dir.path("no/out"), KEEP).unwrap_err();
    OutFile::probe(&dir.path("."), KEEP).unwrap_err();
    // Opening it would wait for a reader.
    let fifo = dir.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    OutFile::probe(&fifo, KEEP).unwrap();
}
