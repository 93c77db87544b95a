//! A store on disks that fail: power cuts, a file system that turns read-only, one that is slow, one that is deleted.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use common::store::{Place, assert_sound, packets, wait_until};
use common::{json_lines, tool};
use sha2::{Digest, Sha256};

/// A file system of its own in a file, whose content is what the disk has: not what the system has yet to write.
struct Disk {
    dir: tempfile::TempDir,
    mounted: PathBuf,
}

impl Disk {
    /// `None` where this user cannot have one.
    fn new(megabytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir_in("/dev/shm").ok()?;
        let disk = Self {
            mounted: dir.path().join("mounted"),
            dir,
        };
        let image = disk.image();
        fs::File::create(&image)
            .unwrap()
            .set_len(megabytes << 20)
            .unwrap();
        fs::create_dir(&disk.mounted).unwrap();
        let made = tool("mkfs.ext4")
            && quiet(
                Command::new("mkfs.ext4")
                    .args(["-q", "-O", "^metadata_csum"])
                    .arg(&image),
            );
        // The system's own moment to write, five seconds by default, is not to help.
        if made && disk.mount(&image, "loop,commit=300,errors=remount-ro") {
            return Some(disk);
        }
        eprintln!("skipped: no right to mount a file system from a file, or no mkfs.ext4");
        None
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn mount(&self, image: &Path, options: &str) -> bool {
        quiet(
            Command::new("mount")
                .args(["-o", options])
                .arg(image)
                .arg(&self.mounted),
        )
    }

    fn unmount(&self) {
        quiet(Command::new("umount").arg(&self.mounted));
    }

    /// What a power cut now would leave, as the next start finds it.
    fn cut_power(&self) {
        let left = self.dir.path().join("left");
        fs::copy(self.image(), &left).unwrap();
        self.unmount();
        fs::rename(left, self.image()).unwrap();
        assert!(self.mount(&self.image(), "loop,commit=300,errors=remount-ro"));
    }

    /// The loop device it is on.
    fn device(&self) -> String {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mounted = self.mounted.to_str().unwrap();
        let line = mounts.lines().find(|line| line.contains(mounted)).unwrap();
        let device = line.split(' ').next().unwrap();
        device.strip_prefix("/dev/").unwrap().to_owned()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        quiet(Command::new("umount").arg("-l").arg(&self.mounted));
    }
}

fn quiet(command: &mut Command) -> bool {
    let done = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    done.is_ok_and(|status| status.success())
}

/// A place whose store is on this disk.
fn place_on(disk: &Disk) -> Place {
    let place = Place::new();
    let store = disk.mounted.join("st");
    fs::create_dir_all(&store).unwrap();
    std::os::unix::fs::symlink(&store, place.store()).unwrap();
    place
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Of what was finished before the power went everything is there, whole, and the next run goes on behind it.
#[test]
fn a_power_cut_takes_only_what_was_not_finished() {
    let cuts = std::env::var("VXTAP_KILLS").map_or(6, |kills| kills.parse().unwrap());
    let Some(disk) = Disk::new(64) else {
        return;
    };
    let place = place_on(&disk);
    for round in 0..cuts {
        let flags = ["--rotate-packets", "300", "--keep-bytes", "30MB"];
        let mut listening = place.listen(&flags);
        let sender = common::Running::start(
            common::vxtap_command([
                "send",
                "--to",
                &listening.bind,
                "--generate",
                "--pps",
                "30000",
                "--duration",
                "10s",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
        );
        // Some are finished, and one is in the middle.
        let manifest = place.store().join("MANIFEST.jsonl");
        let known = |text: &str| json_lines(text).len();
        let before = fs::read_to_string(&manifest).map_or(0, |text| known(&text));
        wait_until(|| known(&fs::read_to_string(&manifest).unwrap()) > before + 3);
        thread::sleep(Duration::from_millis(round * 7 % 40));
        listening.child.kill().unwrap();
        listening.child.wait().unwrap();
        let promised = json_lines(&fs::read_to_string(&manifest).unwrap());
        disk.cut_power();
        drop(sender);
        let left = fs::read_to_string(&manifest).unwrap();
        let left = left.rsplit_once('\n').map_or("", |(whole, _)| whole);
        // The last line may have been on its way.
        let lines = json_lines(left);
        assert!(
            lines.len() + 1 >= promised.len(),
            "{} of {}",
            lines.len(),
            promised.len()
        );
        for line in lines.iter().filter(|line| line["kind"] == "file") {
            let name = line["name"].as_str().unwrap();
            let is_deleted =
                |other: &serde_json::Value| other["kind"] == "deleted" && other["name"] == name;
            if lines.iter().any(is_deleted) {
                continue;
            }
            let hidden = place.store().join(format!(".{name}.part"));
            let bytes = fs::read(place.store().join(name))
                .or_else(|_| fs::read(hidden))
                .unwrap();
            assert_eq!(line["sha256"], hex(&Sha256::digest(&bytes)), "{name}");
        }
    }
    place.listen(&["--keep-bytes", "30MB"]).end();
    assert_sound(&place.store());
}

/// A file system that the system has made read-only, as ext4 does where it finds itself damaged.
#[test]
fn a_disk_that_turns_read_only_loses_packets_with_their_count() {
    for at_rotation in [false, true] {
        let Some(disk) = Disk::new(64) else {
            return;
        };
        let fault = PathBuf::from(format!("/sys/fs/ext4/{}/trigger_fs_error", disk.device()));
        if !fault.exists() {
            return eprintln!("skipped: this kernel cannot be made to find a fault in ext4");
        }
        let place = place_on(&disk);
        let packets = if at_rotation { "50" } else { "100000" };
        let listening = place.listen(&["--rotate-packets", packets, "--on-full", "drop"]);
        listening.feed(500, 20_000);
        fs::write(&fault, "a fault").unwrap();
        wait_until(|| {
            listening.feed(500, 20_000);
            place.said().contains("counted as lost")
        });
        listening.feed(500, 20_000);
        listening.end();
        let summary = place.summary();
        let sink = &summary["sinks"][0];
        assert!(
            sink["dropped"]["disk"].as_u64().unwrap() >= 500,
            "{summary}"
        );
    }
}

/// What a library loaded in front of the C library does: syncing and writing take this long.
const SLOW: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
#include <sys/stat.h>
static void wait_for(int fd) {
    struct stat st;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) usleep(30000);
}
ssize_t write(int fd, const void *buf, size_t len) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    wait_for(fd);
    return real(fd, buf, len);
}
int fsync(int fd) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fsync");
    wait_for(fd); wait_for(fd); wait_for(fd);
    return real(fd);
}
"#;

/// A slow disk holds nobody up who receives: what the queue has no room for is counted, and files stay whole.
#[test]
fn a_slow_disk_costs_packets_with_their_count_at_the_most() {
    let dir = tempfile::tempdir().unwrap();
    let (source, library) = (dir.path().join("slow.c"), dir.path().join("slow.so"));
    fs::write(&source, SLOW).unwrap();
    let mut compiler = Command::new("cc");
    compiler
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source);
    if !quiet(&mut compiler) {
        return eprintln!("skipped: no C compiler");
    }
    let place = Place::new();
    let flags = ["--rotate-packets", "2000"];
    let listening = place.listen_as(&flags, |command| {
        command.env("LD_PRELOAD", &library);
    });
    listening.feed(100_000, 100_000);
    listening.end();
    let files = assert_sound(&place.store());
    let summary = place.summary();
    let sink = &summary["sinks"][0];
    let queue = sink["dropped"]["queue"].as_u64().unwrap_or_default();
    let written = packets(&files).iter().sum::<u64>();
    assert_eq!(sink["written"], written);
    assert_eq!(sink["offered"], written + queue, "{summary}");
    assert!(files.len() > 3, "{files:?}");
}

/// The directory goes in the middle of many rotations.
#[test]
fn a_directory_that_is_deleted_between_two_files_is_made_again() {
    let place = Place::new();
    let listening = place.listen(&["--rotate-packets", "20", "--fsync", "never"]);
    for _ in 0..3 {
        thread::scope(|scope| {
            scope.spawn(|| listening.feed(5000, 20_000));
            thread::sleep(Duration::from_millis(100));
            let _ = fs::remove_dir_all(place.store());
        });
    }
    wait_until(|| {
        listening.feed(50, 10_000);
        let manifest = fs::read_to_string(place.store().join("MANIFEST.jsonl"));
        manifest.is_ok_and(|manifest| manifest.contains("\"file\""))
    });
    listening.end();
    place.summary();
}
