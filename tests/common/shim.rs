//! A library in front of the C library (`shim.c`), so that a disk fails, a process is killed or waits at one system call
//! and no other.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/shim.c");

/// The library.
pub struct Shim {
    dir: TempDir,
}

/// A system call on a file of a store.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// `open` of a file that is made, `write`, `fsync`, `rename`.
    pub call: &'static str,
    /// `capture`, `index`, `manifest`, `directory`.
    pub file: &'static str,
    /// Its number, from 1 on.
    pub at: u32,
}

impl Shim {
    /// `None` where there is no C compiler.
    pub fn new() -> Option<Self> {
        let shim = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-w", "-o"]);
        compiler.arg(shim.library()).args([SOURCE, "-ldl"]);
        compiler.stdout(Stdio::null()).stderr(Stdio::null());
        if compiler.status().is_ok_and(|status| status.success()) {
            return Some(shim);
        }
        eprintln!("skipped: no C compiler");
        None
    }

    fn library(&self) -> PathBuf {
        self.dir.path().join("shim.so")
    }

    /// Lets something happen at a call of `command` on the files in `store`; `shim.c` says what.
    pub fn load(&self, command: &mut Command, store: &Path, point: Point, does: &str) {
        let dir = store.canonicalize().unwrap_or_else(|_| store.to_owned());
        command.env("LD_PRELOAD", self.library());
        command.env("SHIM_DIR", dir).env("SHIM_DOES", does);
        command
            .env("SHIM_CALL", point.call)
            .env("SHIM_FILE", point.file);
        command.env("SHIM_AT", point.at.to_string());
        command.env("SHIM_MARK", self.mark());
    }

    /// What is there as long as a process waits.
    pub fn mark(&self) -> PathBuf {
        self.dir.path().join("waits")
    }

    /// Lets the process that waits go on.
    pub fn go_on(&self) {
        std::fs::remove_file(self.mark()).unwrap();
    }
}
