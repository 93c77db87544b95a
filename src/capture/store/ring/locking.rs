//! The lock that processes share, and what is known once it is held.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use super::lines::ManifestFile;
use super::{MODE, Ring, make_directory};
use crate::outfile::Creation;

/// The file whose lock says who works on the directory.
pub const LOCK: &str = ".vxtap.lock";

/// How often the lock is tried; others hold it for the time of a rename.
pub(super) const LOCK_TRIES: u32 = 1000;

/// Waited between two tries.
pub(super) const BETWEEN_TRIES: Duration = Duration::from_millis(5);

/// Whether a file is the one that was written here.
pub(super) enum Ours {
    Yes,
    No,
    /// Somebody reads it, and said so by a lock.
    InUse,
}

pub(super) fn is_ours(path: &Path, bytes: u64) -> io::Result<Ours> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() != bytes {
        return Ok(Ours::No);
    }
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Ok(Ours::InUse),
        _ => Ok(Ours::Yes),
    }
}

/// Opens a file of this store, which is made where it is not there; never through a link. It has the mode and the group
/// that are asked for, unless another user made it.
pub(super) fn open_ours(path: &Path, creation: Creation) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)?;
    let creation = Creation {
        // It is opened again and again, whatever the mode of the other files.
        mode: creation.mode.map(|mode| mode | MODE),
        ..creation
    };
    let meta = file.metadata()?;
    let has_mode = creation.mode.is_none_or(|mode| meta.mode() & 0o777 == mode);
    let has_group = creation.group.is_none_or(|group| meta.gid() == group);
    if !(has_mode && has_group) && meta.uid() == geteuid().as_raw() {
        creation.give(&file)?;
    }
    Ok(file)
}

impl Ring {
    /// Does something with the directory while no other process does. What others have written to the manifest is known
    /// first: lines go behind theirs.
    pub(super) fn locked<R>(
        &mut self,
        work: impl FnOnce(&mut Self) -> io::Result<R>,
    ) -> io::Result<R> {
        self.lock()?;
        let outcome = self.catch_up().and_then(|()| work(self));
        self.unlock();
        outcome
    }

    pub(super) fn lock(&mut self) -> io::Result<()> {
        for _ in 0..LOCK_TRIES {
            match self.lock.try_lock() {
                Ok(()) if self.is_there() => return Ok(()),
                Ok(()) => self.open_again()?,
                Err(TryLockError::WouldBlock) => std::thread::sleep(BETWEEN_TRIES),
                // A file system without locks: nobody else is expected there.
                Err(TryLockError::Error(_)) => return Ok(()),
            }
        }
        let held = format!("another process holds {LOCK} in it");
        Err(io::Error::new(ErrorKind::TimedOut, held))
    }

    /// Whether the directory is still the one that was opened.
    pub(super) fn is_there(&self) -> bool {
        let there = self.dir.join(LOCK).symlink_metadata();
        let same = |there: &fs::Metadata, open: &fs::Metadata| {
            (there.dev(), there.ino()) == (open.dev(), open.ino())
        };
        matches!((there, self.lock.metadata()), (Ok(there), Ok(open)) if same(&there, &open))
    }

    /// Begins anew: somebody has deleted the directory, or put another in its place.
    pub(super) fn open_again(&mut self) -> io::Result<()> {
        let creation = self.keeping.creation;
        make_directory(&self.dir, creation)?;
        self.lock = open_ours(&self.dir.join(LOCK), creation)?;
        self.manifest = ManifestFile::open(&self.dir, creation)?;
        self.kept.clear();
        self.numbers.clear();
        self.unfinished.clear();
        self.untold = None;
        self.read_ahead()?;
        tracing::warn!(
            "{} was deleted or replaced: it is begun anew",
            self.dir.display()
        );
        Ok(())
    }

    pub(super) fn unlock(&mut self) {
        let _ = self.lock.unlock();
        let holdings = &mut self.holdings;
        holdings.files = self.kept.len() as u64;
        holdings.bytes = self.kept.iter().map(|kept| kept.bytes).sum();
        holdings.oldest_ns = self.kept.iter().filter_map(|kept| kept.first_ns).min();
        holdings.limits = self.keeping.limits;
        self.told.set(*holdings);
    }
}
