//! The store's directory: the one place that touches it. Under a lock that processes share it gives out names,
//! finishes files, deletes the oldest, and keeps the manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use nix::sys::statvfs::fstatvfs;

use super::holdings::{Holdings, Told};
use super::keeping::Keeping;
use super::keys::Signer;
use super::manifest::{self, Event, FileFacts};
use super::marks;
use super::names::StoreName;
use super::place::Place;
use super::retention::{Around, Because, Limits, Member, Space};
use crate::outfile::{self, Creation, OutError, OutFile, is_full};

mod lines;
mod locking;
mod recovery;

pub use locking::LOCK;

use lines::ManifestFile;
use locking::{Ours, is_ours, open_ours};

/// Bytes that one process writes before it looks at the budget again, so that many are counted on top of what
/// the open files of others have.
pub const ALLOWANCE: u64 = 4 << 20;
/// Mode of the lock and the manifest until they have the one asked for.
const MODE: u32 = 0o600;

/// A finished file.
#[derive(Clone, Debug)]
struct Kept {
    name: String,
    /// With its index.
    bytes: u64,
    first_ns: Option<u64>,
    last_ns: u64,
    facts: FileFacts,
}

/// The directory of a store.
pub struct Ring {
    dir: PathBuf,
    keeping: Keeping,
    sign: Option<Signer>,
    lock: File,
    manifest: ManifestFile,
    /// Oldest first.
    kept: Vec<Kept>,
    /// The highest number of a file that the manifest tells of, by its prefix: it is not given again when that file is
    /// gone.
    numbers: BTreeMap<String, u64>,
    /// Deleted by the manifest; the file itself may still be there when a run was killed. Noted until that is looked at.
    deleted: Option<Vec<(String, u64)>>,
    /// A file that is deleted, and the disk did not take the line that tells so.
    untold: Option<Event>,
    /// Files that could not get their name, or for which that was not certain.
    unfinished: Vec<FileFacts>,
    /// Files of this process that have no name yet, and the bytes of those that have ended.
    open: BTreeMap<String, u64>,
    /// A program is run for each file.
    has_hooks: bool,
    /// Files that a hook works on, with their marks.
    held: BTreeMap<String, Option<File>>,
    /// Files whose hook is due: what killed runs left and was finished here, and what they had finished before its
    /// hook ended.
    due: Vec<FileFacts>,
    /// What it holds, and what this run did to it.
    holdings: Holdings,
    /// The same, for those who look on.
    told: Told,
}

/// A file that was begun.
pub struct Begun {
    /// Its name in the directory.
    pub name: StoreName,
    /// The file, hidden until it is finished.
    pub out: OutFile,
}

impl Ring {
    /// Opens a directory, which is made where it is not there, finishes what killed runs left in it, and counts what
    /// it holds. `sign` signs what is written to the manifest; with `has_hooks` files are marked as long as their hook
    /// has not ended.
    ///
    /// # Errors
    ///
    /// When it cannot be written to.
    pub fn open(
        dir: &Path,
        keeping: Keeping,
        sign: Option<Signer>,
        has_hooks: bool,
        now_ns: u64,
    ) -> Result<Self, OutError> {
        let error = |source| OutError::of_write(dir, source);
        let creation = keeping.creation;
        make_directory(dir, creation).map_err(error)?;
        let lock = open_ours(&dir.join(LOCK), creation).map_err(error)?;
        let manifest = ManifestFile::open(dir, creation)
            .map_err(|source| OutError::of_write(&dir.join(manifest::NAME), source))?;
        let mut ring = Self {
            dir: dir.to_owned(),
            keeping,
            sign,
            lock,
            manifest,
            kept: Vec::new(),
            numbers: BTreeMap::new(),
            deleted: Some(Vec::new()),
            untold: None,
            unfinished: Vec::new(),
            open: BTreeMap::new(),
            has_hooks,
            held: BTreeMap::new(),
            due: Vec::new(),
            holdings: Holdings::default(),
            told: Told::default(),
        };
        // Manifests may be long, and what was left too: other processes are not to wait for that.
        ring.read_ahead().map_err(error)?;
        ring.recover(now_ns).map_err(error)?;
        Ok(ring)
    }

    /// Where indexes go.
    pub fn place(&self) -> Place {
        Place {
            dir: self.dir.clone(),
            keeping: self.keeping,
        }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where is told what it holds.
    pub fn told(&self) -> Told {
        self.told.clone()
    }

    /// Name and SHA-256 of the file that was finished last.
    pub fn last_finished(&self) -> Option<(&str, &str)> {
        let last = self.kept.last()?;
        Some((&last.name, &last.facts.sha256))
    }

    /// Begins a file that is to be named after `prefix`, the next number and the time `start_ns`.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn begin(&mut self, prefix: &str, start_ns: u64, ending: &str) -> Result<Begun, OutError> {
        let dir = self.dir.clone();
        let error = |source| OutError::of_write(&dir, source);
        self.lock().map_err(error)?;
        let begun = self.catch_up().map_err(error);
        let begun = begun.and_then(|()| self.begin_locked(prefix, start_ns, ending));
        self.unlock();
        begun
    }

    fn begin_locked(
        &mut self,
        prefix: &str,
        start_ns: u64,
        ending: &str,
    ) -> Result<Begun, OutError> {
        let dir = self.dir.clone();
        let error = |source| OutError::of_write(&dir, source);
        let names = self.names().map_err(error)?;
        let parsed = names.iter().filter_map(|name| {
            let finished = hidden_name(name).unwrap_or(name);
            StoreName::parse(finished).filter(|parsed| parsed.prefix == prefix)
        });
        let known = self.numbers.get(prefix).copied();
        let last = parsed.map(|parsed| parsed.sequence).chain(known).max();
        let name = StoreName {
            prefix: prefix.to_owned(),
            sequence: last.unwrap_or_default() + 1,
            start_s: start_ns / 1_000_000_000,
            ending: ending.to_owned(),
        };
        let path = self.dir.join(name.to_string());
        let out = OutFile::create_as(&path, self.keeping.creation)?;
        self.open.insert(name.to_string(), 0);
        Ok(Begun { name, out })
    }

    /// Names a file that is complete, and writes that to the manifest. It is on the disk already where it has to be. On a
    /// full disk the oldest file goes where `makes_room` says so.
    ///
    /// # Errors
    ///
    /// When it cannot get its name; it stays hidden then, and the next run finishes it.
    pub fn finish(
        &mut self,
        out: OutFile,
        facts: FileFacts,
        makes_room: bool,
        now_ns: u64,
    ) -> Result<(), OutError> {
        let name = facts.name.clone();
        let dir = self.dir.clone();
        let error = |source| OutError::of_write(&dir, source);
        let outcome = self.locked(|ring| {
            if !out.is_in_place() {
                return Ok(());
            }
            ring.mark(&facts.name);
            // Before the name: a finished file is in the manifest, whatever happens.
            let event = Event::File(facts);
            match ring.append(now_ns, event.clone()) {
                Err(error) if makes_room && is_full(&error) && ring.delete_one(now_ns)? => {
                    ring.append(now_ns, event)
                }
                written => written,
            }
        });
        self.open.remove(&name);
        outcome.map_err(error)?;
        if let Err(error) = out.settle() {
            let reason = error.to_string();
            let noted = self.locked(
                |ring| match ring.kept.iter().any(|kept| kept.name == name) {
                    true => ring.append(now_ns, Event::Unfinished { name, reason }),
                    false => Ok(()),
                },
            );
            if let Err(error) = noted {
                tracing::warn!("{}: {error}", self.dir.display());
            }
            return Err(error);
        }
        self.holdings.finished += 1;
        let limits = self.keeping.limits.of_number_and_age();
        if let Err(error) = self.locked(|ring| ring.keep_within(limits, 0, 0, now_ns)) {
            tracing::warn!("{}: {error}", self.dir.display());
        }
        Ok(())
    }

    /// A file that was begun has ended with so many bytes, and is on its way to [`Self::finish`].
    pub fn note_ended(&mut self, name: &StoreName, bytes: u64) {
        self.open.insert(name.to_string(), bytes);
    }

    /// A file that was begun will not be finished.
    pub fn give_up(&mut self, name: &StoreName) {
        self.open.remove(&name.to_string());
    }

    /// These limits count from now on.
    pub const fn keep(&mut self, limits: Limits) {
        self.keeping.limits = limits;
    }

    /// Deletes what has to go so that `coming` bytes can be written, and tells how many bytes may be written until
    /// it is asked again; `None` where the limits leave no room at all. `open_bytes` are in files of this process
    /// that are not finished.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read or its manifest not be written.
    pub fn make_room(
        &mut self,
        open_bytes: u64,
        coming: u64,
        now_ns: u64,
    ) -> Result<Option<u64>, OutError> {
        let dir = self.dir.clone();
        self.locked(|ring| ring.keep_within(ring.keeping.limits, open_bytes, coming, now_ns))
            .map_err(|source| OutError::of_write(&dir, source))
    }

    /// Deletes what `limits` have no room for, and tells what they allow then.
    fn keep_within(
        &mut self,
        limits: Limits,
        open_bytes: u64,
        coming: u64,
        now_ns: u64,
    ) -> io::Result<Option<u64>> {
        let mut in_use = BTreeSet::new();
        loop {
            let others = match limits.bytes {
                Some(_) => self.open_by_others()?,
                None => 0,
            };
            let ended: u64 = self.open.values().sum();
            let space = self.space();
            let min_free = self.keeping.limits.min_free.zip(space);
            self.holdings.min_free_bytes = min_free.map(|(min_free, space)| min_free.bytes(space));
            let around = Around {
                other_bytes: open_bytes + ended + self.manifest.known + others,
                space,
                coming,
                now_ns,
            };
            let members = self.members(&in_use);
            match limits.next_to_go(&members, &around) {
                Some((at, because)) => {
                    let name = self.kept.get(at).map(|kept| kept.name.clone());
                    if !self.delete(at, because, now_ns)? {
                        in_use.extend(name);
                    }
                }
                None => return Ok(allowance(&limits, &members, &around)),
            }
        }
    }

    /// Deletes the oldest file, since the disk is full. `false` where there is none that may go.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read.
    pub fn delete_oldest(&mut self, now_ns: u64) -> Result<bool, OutError> {
        let dir = self.dir.clone();
        self.locked(|ring| ring.delete_one(now_ns))
            .map_err(|source| OutError::of_write(&dir, source))
    }

    /// Deletes the oldest file that may go; `false` where there is none. The lock is held.
    fn delete_one(&mut self, now_ns: u64) -> io::Result<bool> {
        let mut in_use = BTreeSet::new();
        while let Some(at) = super::retention::oldest(&self.members(&in_use)) {
            let name = self.kept.get(at).map(|kept| kept.name.clone());
            if self.delete(at, Because::DiskFull, now_ns)? {
                return Ok(true);
            }
            in_use.extend(name);
        }
        Ok(false)
    }

    /// Files whose hook is due since this was opened. They are held.
    pub fn take_due(&mut self) -> Vec<FileFacts> {
        std::mem::take(&mut self.due)
    }

    /// A hook works on this file: it stays.
    pub fn hold(&mut self, name: &str) {
        self.held.entry(name.to_owned()).or_default();
    }

    /// Nobody holds this file any more: it goes, if the limits ask for that. Its mark goes where `is_done`; else its
    /// hook is due at the next start.
    pub fn release(&mut self, name: &str, is_done: bool, now_ns: u64) {
        let Some(mark) = self.held.remove(name) else {
            return;
        };
        // Bytes of open files are not known here, and looked at before the next are written.
        let limits = self.keeping.limits;
        let kept = self.locked(|ring| {
            if is_done && mark.is_some() {
                marks::remove(&ring.dir, name);
            }
            drop(mark);
            ring.keep_within(limits, 0, 0, now_ns)
        });
        if let Err(error) = kept {
            tracing::warn!("{}: {error}", self.dir.display());
        }
    }

    /// Marks a file whose hook is to be run; the lock of the directory is held.
    fn mark(&mut self, name: &str) {
        if !self.has_hooks {
            return;
        }
        let mark = marks::make(&self.dir, name, self.keeping.creation);
        let mark = mark.inspect_err(|error| {
            tracing::warn!(
                "{}: {name} gets no mark: a kill before its hook has ended leaves it without one: {error}",
                self.dir.display()
            );
        });
        self.held.insert(name.to_owned(), mark.ok());
    }

    /// Takes over what runs that ended before its hook had finished.
    fn take_marks(&mut self) -> io::Result<()> {
        if !self.has_hooks {
            return Ok(());
        }
        for mark in self.names()? {
            let Some(name) = marks::file_of(&mark) else {
                continue;
            };
            if self.held.contains_key(name) {
                continue;
            }
            let Some(mark) = marks::take(&self.dir, name) else {
                // Another run sees to it.
                continue;
            };
            match self.kept.iter().find(|kept| kept.name == name) {
                Some(kept) => {
                    self.due.push(kept.facts.clone());
                    self.held.insert(name.to_owned(), Some(mark));
                }
                // It was deleted, or never finished.
                None => marks::remove(&self.dir, name),
            }
        }
        self.due.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(())
    }

    fn members(&self, in_use: &BTreeSet<String>) -> Vec<Member> {
        let members = self.kept.iter().map(|kept| Member {
            bytes: kept.bytes,
            last_ns: kept.last_ns,
            is_held: self.held.contains_key(&kept.name) || in_use.contains(&kept.name),
        });
        members.collect()
    }

    /// Deletes a finished file; `false` when somebody reads it.
    fn delete(&mut self, at: usize, because: Because, now_ns: u64) -> io::Result<bool> {
        let Some(kept) = self.kept.get(at).cloned() else {
            return Ok(false);
        };
        let path = self.dir.join(&kept.name);
        match is_ours(&path, kept.facts.bytes) {
            Ok(Ours::InUse) => return Ok(false),
            Ok(Ours::Yes) => {}
            Ok(Ours::No) => {
                tracing::warn!(
                    "{} is not the file that was written here: it is left alone and counts no more",
                    path.display()
                );
                self.kept.remove(at);
                return Ok(true);
            }
            // Another process is about to give it its name.
            Err(error)
                if error.kind() == ErrorKind::NotFound && is_there(&self.dir, &kept.name) =>
            {
                return Ok(false);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                tracing::warn!("{} is gone, and was not deleted by vxtap", path.display());
                self.kept.remove(at);
                return Ok(true);
            }
            Err(error) => return Err(error),
        }
        let event = Event::Deleted {
            name: kept.name.clone(),
            bytes: kept.facts.bytes,
            because: because.reason().to_owned(),
        };
        let written = self.append(now_ns, event.clone());
        if written.is_err() && self.untold.is_some() {
            // One is enough.
            return written.map(|()| false);
        }
        self.remove(&kept)?;
        let is_too_old = self.keeping.limits.is_too_old(kept.last_ns, now_ns);
        let is_early = because != Because::Age && is_too_old == Some(false);
        self.holdings.note_deleted(because, kept.bytes, is_early);
        if written.is_err() {
            // There is room for the line now, unless somebody else has taken it.
            self.untold = Some(event);
            self.tell_untold(now_ns).inspect_err(|_| {
                tracing::warn!(
                    "deleted {}: its line in the manifest follows when there is room for it",
                    path.display()
                );
            })?;
        }
        tracing::info!(
            "deleted {} ({} bytes): {}",
            path.display(),
            kept.facts.bytes,
            because.reason()
        );
        Ok(true)
    }

    fn remove(&mut self, kept: &Kept) -> io::Result<()> {
        self.kept.retain(|other| other.name != kept.name);
        if let Some(index) = &kept.facts.index {
            // It is worth nothing without its file.
            let _ = fs::remove_file(self.dir.join(&index.name));
        }
        marks::remove(&self.dir, &kept.name);
        fs::remove_file(self.dir.join(&kept.name))
    }

    /// Bytes that files of other processes have, and may get before those look at the budget again.
    fn open_by_others(&self) -> io::Result<u64> {
        let mut bytes = 0;
        for name in self.names()? {
            let Some(finished) = hidden_name(&name) else {
                continue;
            };
            if StoreName::parse(finished).is_some() && !self.open.contains_key(finished) {
                let len = self.dir.join(&name).symlink_metadata();
                bytes += len.map_or(0, |meta| meta.len() + ALLOWANCE);
            }
        }
        Ok(bytes)
    }

    #[allow(clippy::useless_conversion, reason = "32 bits on other systems")]
    fn space(&self) -> Option<Space> {
        self.keeping.limits.min_free?;
        let stat = fstatvfs(&self.lock).ok()?;
        let unit = u64::from(stat.fragment_size());
        Some(Space {
            free: stat.blocks_available() * unit,
            total: stat.blocks() * unit,
        })
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(&self.dir)?;
        let names = entries.map(|entry| entry.map(|entry| entry.file_name().into_string().ok()));
        let names: io::Result<Vec<Option<String>>> = names.collect();
        Ok(names?.into_iter().flatten().collect())
    }

    /// The run ends: what the disk has not taken yet is tried once more.
    pub fn end(&mut self, now_ns: u64) {
        if self.untold.is_none() {
            return;
        }
        let told = self.locked(|ring| ring.tell_untold(now_ns));
        if let Err(error) = told {
            tracing::error!(
                "{}: the manifest lacks the line of a file that was deleted: {error}",
                self.dir.display()
            );
        }
    }
}

/// Makes the directory of a store, and those above it, where it is not there, fit for files that are made as `creation`
/// says.
///
/// # Errors
///
/// As [`outfile::make_directory`].
pub fn make_directory(dir: &Path, creation: Creation) -> io::Result<()> {
    outfile::make_directory(dir, creation).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => io::Error::new(
            ErrorKind::InvalidInput,
            "a file has that name, and a store needs a directory; without the '/' it is replaced",
        ),
        _ => error,
    })
}

/// Bytes that may be written until the limits are looked at again.
fn allowance(limits: &Limits, members: &[Member], around: &Around) -> Option<u64> {
    let Some(most) = limits.bytes else {
        return Some(around.coming.max(ALLOWANCE));
    };
    let used: u64 = members.iter().map(|member| member.bytes).sum();
    let left = most.checked_sub(used + around.other_bytes)?;
    (left >= around.coming).then(|| left.min(around.coming.max(ALLOWANCE)))
}

/// Whether a file stands under its name, or under the hidden one that it has before.
fn is_there(dir: &Path, name: &str) -> bool {
    // It goes from the one to the other without the lock of the directory.
    let names = [format!(".{name}.part"), name.to_owned()];
    let mut names = names.iter();
    names.any(|name| dir.join(name).symlink_metadata().is_ok())
}

/// The name that a hidden file is to get.
pub fn hidden_name(name: &str) -> Option<&str> {
    name.strip_prefix('.')?.strip_suffix(".part")
}
