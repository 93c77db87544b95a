//! Marks beside the files of a store whose hook has not ended: `.NAME.hook`, empty, made before the file gets its name
//! and removed when its hook has ended. The run that sees to the hook has the mark locked; one that nobody has locked
//! is of a run that ended before.
//!
//! Whoever makes or looks for marks holds the lock of the directory.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::names::StoreName;
use crate::outfile::Creation;

/// What the name of a mark ends in.
const ENDING: &str = ".hook";
/// Mode of marks until they have the one asked for.
const MODE: u32 = 0o600;

/// The file that a mark of this name is of; `None` for one that is no mark.
pub fn file_of(mark: &str) -> Option<&str> {
    let name = mark.strip_prefix('.')?.strip_suffix(ENDING)?;
    StoreName::parse(name).map(|_| name)
}

/// Makes the mark of file `name` in `dir`, or takes one that was left. It is locked as long as the answer lives.
///
/// # Errors
///
/// When it cannot be made.
pub fn make(dir: &Path, name: &str, creation: Creation) -> io::Result<File> {
    let mark = options().create(true).open(path(dir, name))?;
    mark.try_lock()?;
    creation.give(&mark)?;
    Ok(mark)
}

/// Takes the mark of file `name`, which a run that ended before its hook has left; `None` where another run has it, or
/// it is no file of ours.
pub fn take(dir: &Path, name: &str) -> Option<File> {
    let mark = options().open(path(dir, name)).ok()?;
    let is_mark = mark.metadata().is_ok_and(|meta| meta.is_file());
    (is_mark && mark.try_lock().is_ok()).then_some(mark)
}

/// Removes the mark of file `name`, if there is one.
pub fn remove(dir: &Path, name: &str) {
    let _ = fs::remove_file(path(dir, name));
}

fn path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!(".{name}{ENDING}"))
}

/// Never through a link, and no waiting for a FIFO.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    options.append(true).mode(MODE).custom_flags(flags);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "vxtap_00001_20260115093000.pcapng";

    #[test]
    fn a_mark_is_of_one_file_of_a_store() {
        let mark = format!(".{NAME}.hook");
        assert_eq!(file_of(&mark), Some(NAME));
        for foreign in ["", ".hook", NAME, ".notes.hook", &mark[1..]] {
            assert_eq!(file_of(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn one_run_has_it_until_that_ends() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert!(take(dir, NAME).is_none(), "nobody made it");
        let mark = make(dir, NAME, Creation::default()).unwrap();
        assert!(take(dir, NAME).is_none(), "it is locked");
        drop(mark);
        let taken = take(dir, NAME).unwrap();
        assert!(
            make(dir, NAME, Creation::default()).is_err(),
            "another run has it"
        );
        remove(dir, NAME);
        drop(taken);
        assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
    }
}
