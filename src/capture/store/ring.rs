//! The store's directory: the one place that touches it. Under a lock that processes share it gives out names,
//! finishes files, deletes the oldest, and keeps the manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::statvfs::fstatvfs;
use nix::unistd::geteuid;

use super::frames::WholeFrames;
use super::holdings::{Holdings, Told};
use super::index;
use super::keys::Signer;
use super::manifest::{self, Chain, Event, FileFacts, hex};
use super::marks;
use super::names::StoreName;
use super::place::Place;
use super::recover::{self, Holds, Whole, parse_rfc3339};
use super::retention::{Around, Because, Limits, Member, Space};
use super::rotation::Reason;
use crate::export::FlowFormat;
use crate::flow::text::rfc3339;
use crate::outfile::packed::{Codec, LEVEL, frame_of};
use crate::outfile::{self, Creation, OutError, OutFile, is_full};
use crate::pcap::record::Format;
use crate::pcap::section;

/// The file whose lock says who works on the directory.
pub const LOCK: &str = ".vxtap.lock";
/// Where what cannot be finished is moved.
const QUARANTINE: &str = "quarantine";
/// How often the lock is tried; others hold it for the time of a rename.
const LOCK_TRIES: u32 = 1000;
/// Waited between two tries.
const BETWEEN_TRIES: Duration = Duration::from_millis(5);
/// Bytes that one process writes before it looks at the budget again, so that many are counted on top of what
/// the open files of others have.
pub const ALLOWANCE: u64 = 4 << 20;
/// Mode of the lock and the manifest until they have the one asked for.
const MODE: u32 = 0o600;

/// When what is written is brought to the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fsync {
    /// When the system likes; a power cut may take what was finished last.
    Never,
    /// Each file before it gets its name.
    #[default]
    Rotate,
    /// That, and open files each time so much time is over.
    Every(Duration),
}

/// How files are kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keeping {
    /// What has to go when.
    pub limits: Limits,
    /// When the disk has to have what is written.
    pub fsync: Fsync,
    /// How files are made.
    pub creation: Creation,
    /// Whether each has an index beside it.
    pub index: bool,
}

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

struct ManifestFile {
    file: File,
    /// Bytes of it that are known.
    known: u64,
    chain: Chain,
    /// The number of the last closed manifest.
    closed: u32,
    /// It was told that the chain is broken.
    told: bool,
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

    /// Does something with the directory while no other process does. What others have written to the manifest is known
    /// first: lines go behind theirs.
    fn locked<R>(&mut self, work: impl FnOnce(&mut Self) -> io::Result<R>) -> io::Result<R> {
        self.lock()?;
        let outcome = self.catch_up().and_then(|()| work(self));
        self.unlock();
        outcome
    }

    fn lock(&mut self) -> io::Result<()> {
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
    fn is_there(&self) -> bool {
        let there = self.dir.join(LOCK).symlink_metadata();
        let same = |there: &fs::Metadata, open: &fs::Metadata| {
            (there.dev(), there.ino()) == (open.dev(), open.ino())
        };
        matches!((there, self.lock.metadata()), (Ok(there), Ok(open)) if same(&there, &open))
    }

    /// Begins anew: somebody has deleted the directory, or put another in its place.
    fn open_again(&mut self) -> io::Result<()> {
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

    fn unlock(&mut self) {
        let _ = self.lock.unlock();
        let holdings = &mut self.holdings;
        holdings.files = self.kept.len() as u64;
        holdings.bytes = self.kept.iter().map(|kept| kept.bytes).sum();
        holdings.oldest_ns = self.kept.iter().filter_map(|kept| kept.first_ns).min();
        holdings.limits = self.keeping.limits;
        self.told.set(*holdings);
    }

    /// Reads what the manifests hold already, the closed ones first. Needs no lock: the rest follows in
    /// [`Self::catch_up`].
    fn read_ahead(&mut self) -> io::Result<()> {
        let creation = self.keeping.creation;
        let closed = loop {
            let closed = self.closed_numbers()?;
            self.manifest.file = open_ours(&self.dir.join(manifest::NAME), creation)?;
            // Otherwise one was closed in between.
            if self.closed_numbers()? == closed {
                break closed;
            }
        };
        for number in closed {
            let mut bytes = Vec::new();
            File::open(self.dir.join(manifest::closed_name(number)))?.read_to_end(&mut bytes)?;
            self.take_lines(&bytes);
            self.manifest.closed = number;
        }
        self.read_lines().map(drop)
    }

    fn closed_numbers(&self) -> io::Result<Vec<u32>> {
        let names = self.names()?;
        let numbers = names
            .iter()
            .filter_map(|name| manifest::closed_number(name));
        let mut numbers: Vec<u32> = numbers.collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Takes the lines of the manifest that are not known; `true` where something without a line end follows.
    fn read_lines(&mut self) -> io::Result<bool> {
        let mut bytes = Vec::new();
        let mut file = &self.manifest.file;
        file.seek(SeekFrom::Start(self.manifest.known))?;
        file.read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n');
        let whole = whole.map_or(0, |at| at + 1);
        self.take_lines(bytes.get(..whole).unwrap_or_default());
        self.manifest.known += whole as u64;
        Ok(whole < bytes.len())
    }

    /// Takes note of what other processes have written to the manifest; the lock is held.
    fn catch_up(&mut self) -> io::Result<()> {
        loop {
            if self.read_lines()? {
                // Whoever wrote it was killed before the end of the line.
                self.manifest.file.set_len(self.manifest.known)?;
            }
            let path = self.dir.join(manifest::NAME);
            let now = open_ours(&path, self.keeping.creation)?;
            let same =
                |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
            if same(&now.metadata()?, &self.manifest.file.metadata()?) {
                return Ok(());
            }
            // Another process has closed it, or it was removed.
            self.manifest.file = now;
            self.manifest.known = 0;
            self.manifest.closed += 1;
        }
    }

    fn take_lines(&mut self, bytes: &[u8]) {
        for line in bytes.split(|byte| *byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            let (parsed, outcome) = self.manifest.chain.check(line, None);
            if let Err(error) = outcome
                && !std::mem::replace(&mut self.manifest.told, true)
            {
                tracing::warn!(
                    "the manifest of {} is broken, as 'vxtap verify' tells: a line {error}",
                    self.dir.display()
                );
            }
            if let Some(line) = parsed {
                let at_ns = parse_rfc3339(&line.at).unwrap_or_default();
                self.note(line.what, at_ns);
            }
        }
    }

    fn note(&mut self, event: Event, at_ns: u64) {
        match event {
            Event::File(facts) => {
                self.note_number(&facts.name);
                let index = facts.index.as_ref().map_or(0, |index| index.bytes);
                let time = |time: &Option<String>| time.as_deref().and_then(parse_rfc3339);
                let (first, last) = (time(&facts.first), time(&facts.last));
                self.kept.push(Kept {
                    name: facts.name.clone(),
                    bytes: facts.bytes + index,
                    first_ns: first,
                    // One without packets is as old as its line.
                    last_ns: last.unwrap_or(at_ns),
                    facts,
                });
            }
            Event::Deleted { name, bytes, .. } => {
                self.kept.retain(|kept| kept.name != name);
                if let Some(deleted) = &mut self.deleted {
                    deleted.push((name, bytes));
                }
            }
            Event::Quarantined { name, .. } => {
                self.note_number(&name);
                self.kept.retain(|kept| kept.name != name);
            }
            Event::Unfinished { name, .. } => {
                let of_name = self.kept.extract_if(.., |kept| kept.name == name);
                self.unfinished.extend(of_name.map(|kept| kept.facts));
            }
            Event::Continued { .. } => {}
        }
    }

    fn note_number(&mut self, name: &str) {
        if let Some(StoreName {
            prefix, sequence, ..
        }) = StoreName::parse(name)
        {
            let last = self.numbers.entry(prefix).or_default();
            *last = sequence.max(*last);
        }
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

    fn tell_untold(&mut self, now_ns: u64) -> io::Result<()> {
        let Some(event) = self.untold.clone() else {
            return Ok(());
        };
        self.append_line(now_ns, event)?;
        self.untold = None;
        Ok(())
    }

    /// Writes a line, behind one that is due; the lock is held.
    fn append(&mut self, now_ns: u64, event: Event) -> io::Result<()> {
        self.tell_untold(now_ns)?;
        self.append_line(now_ns, event)
    }

    fn append_line(&mut self, now_ns: u64, event: Event) -> io::Result<()> {
        if self.manifest.known >= manifest::MOST_BYTES {
            self.close_manifest(now_ns)?;
        }
        let before = self.manifest.chain.clone();
        let sign = self.sign.as_ref();
        let signed = |bytes: &[u8]| sign.map(|sign| sign.sign(bytes)).unwrap_or_default();
        let signed = sign.map(|_| &signed as manifest::Sign<'_>);
        let line = self.manifest.chain.append(now_ns, event.clone(), signed);
        let mut file = &self.manifest.file;
        let written = file.seek(SeekFrom::Start(self.manifest.known));
        let written = written.and_then(|_| file.write_all(&line));
        let written = written.and_then(|()| match self.keeping.fsync {
            Fsync::Never => Ok(()),
            _ => self.manifest.file.sync_data(),
        });
        if let Err(error) = written {
            self.manifest.chain = before;
            let _ = self.manifest.file.set_len(self.manifest.known);
            return Err(error);
        }
        self.manifest.known += line.len() as u64;
        self.note(event, now_ns);
        Ok(())
    }

    fn close_manifest(&mut self, now_ns: u64) -> io::Result<()> {
        let number = self.manifest.closed + 1;
        let after = manifest::closed_name(number);
        let path = self.dir.join(manifest::NAME);
        fs::rename(&path, self.dir.join(&after))?;
        self.manifest.file = open_ours(&path, self.keeping.creation)?;
        self.manifest.known = 0;
        self.manifest.closed = number;
        self.append_line(now_ns, Event::Continued { after })
    }

    /// Finishes or moves aside what killed runs left. The lock is held for moments only.
    fn recover(&mut self, now_ns: u64) -> io::Result<()> {
        let left = self.locked(|ring| {
            ring.clear_up(now_ns)?;
            ring.names()
        })?;
        let mut left: Vec<&String> = left.iter().collect();
        left.sort();
        for hidden in left {
            let Some(name) = hidden_name(hidden).and_then(StoreName::parse) else {
                continue;
            };
            // From then on it is ours, and whether a line lists it is known.
            if let Some(out) = self.locked(|ring| ring.adopt(&name, hidden))? {
                self.recover_file(&name, out, now_ns)?;
            }
        }
        self.locked(|ring| {
            let dir = &ring.dir;
            ring.kept.retain(|kept| {
                let is_there = is_there(dir, &kept.name);
                if !is_there {
                    let path = dir.join(&kept.name);
                    tracing::warn!("{} is gone, and was not deleted by vxtap", path.display());
                }
                is_there
            });
            ring.take_marks()
        })
    }

    /// Does what runs were about to do when they were killed, or could not do.
    fn clear_up(&mut self, now_ns: u64) -> io::Result<()> {
        let there = self.names()?;
        let is_there: BTreeSet<&String> = there.iter().collect();
        let mut deleted = self.deleted.take().unwrap_or_default();
        deleted.retain(|(name, _)| is_there.contains(name));
        for (name, bytes) in deleted {
            let path = self.dir.join(&name);
            let is_kept = self.kept.iter().any(|kept| kept.name == name);
            if !is_kept && matches!(is_ours(&path, bytes), Ok(Ours::Yes)) {
                tracing::info!("deleted {}: an earlier run was about to", path.display());
                fs::remove_file(path)?;
            }
        }
        for facts in std::mem::take(&mut self.unfinished) {
            // It got its name all the same; without its index, which was removed.
            let path = self.dir.join(&facts.name);
            let is_kept = self.kept.iter().any(|kept| kept.name == facts.name);
            if !is_kept && matches!(is_ours(&path, facts.bytes), Ok(Ours::Yes)) {
                tracing::info!("{} is listed again: it has its name", path.display());
                let index = None;
                self.append(now_ns, Event::File(FileFacts { index, ..facts }))?;
            }
        }
        // An index that was not complete is made anew with its file.
        let kept = &self.kept;
        let is_listed = |name: &str| kept.iter().any(|kept| kept.name == name);
        self.place().remove_left_indexes(&there, is_listed);
        Ok(())
    }

    /// Takes over a hidden file that a killed run left; `None` where another process has it, or it is finished already.
    fn adopt(&mut self, name: &StoreName, hidden: &str) -> io::Result<Option<OutFile>> {
        let path = self.dir.join(name.to_string());
        if self.is_named(&path, hidden) {
            // The run was killed between its new name and the end of the old one.
            fs::remove_file(self.dir.join(hidden))?;
            return Ok(None);
        }
        Ok(OutFile::adopt(&path, self.keeping.creation)
            .inspect_err(|error| tracing::warn!("{error}"))
            .unwrap_or_default())
    }

    /// Whether a hidden file is listed and has its name already.
    fn is_named(&self, path: &Path, hidden: &str) -> bool {
        let [named, hidden] = [path, &self.dir.join(hidden)].map(|path| {
            let meta = path.symlink_metadata().ok();
            meta.map(|meta| (meta.dev(), meta.ino()))
        });
        let is_listed = |kept: &Kept| Some(kept.name.as_ref()) == path.file_name();
        named.is_some() && named == hidden && self.kept.iter().any(is_listed)
    }

    fn recover_file(&mut self, name: &StoreName, out: OutFile, now_ns: u64) -> io::Result<()> {
        let listed = self.kept.iter().find(|kept| kept.name == name.to_string());
        if let Some(listed) = listed {
            // It was complete, and about to get its name.
            let digest = out.digest().map_err(io::Error::other)?;
            if out.bytes() == listed.facts.bytes && hex(&digest) == listed.facts.sha256 {
                let facts = listed.facts.clone();
                self.locked(|ring| {
                    ring.mark(&facts.name);
                    Ok(())
                })?;
                self.due.push(facts);
                return out.settle().map(drop).map_err(io::Error::other);
            }
            let reason = "it is not what the manifest says: what was not synced was lost";
            return self.quarantine(name, out, reason, now_ns);
        }
        let (ending, codec) = Codec::of_ending(&name.ending);
        let Some(holds) = Holds::by_ending(ending) else {
            return self.quarantine(name, out, "its kind cannot be read again", now_ns);
        };
        let file = BufReader::with_capacity(1 << 20, out.reopen()?);
        // What was scanned, and how many bytes of the file that is.
        let (scanned, len) = match codec {
            None => {
                let scanned = recover::scan(holds, file)?;
                let len = scanned.as_ref().map_or(0, |whole| whole.bytes);
                (scanned, len)
            }
            Some(codec) => {
                let mut frames = WholeFrames::new(codec, file);
                let scanned = recover::scan(holds, BufReader::new(&mut frames))?;
                if scanned.as_ref().map_or(0, |whole| whole.bytes) != frames.content_bytes() {
                    let reason = "what its frames hold is not what was written";
                    return self.quarantine(name, out, reason, now_ns);
                }
                (scanned, frames.packed_bytes())
            }
        };
        match scanned {
            Some(whole) if whole.packets > 0 => {
                self.finish_left(name, out, (holds, codec, len), &whole, now_ns)
            }
            None if out.bytes() > 0 => {
                let reason = match holds {
                    Holds::Flows(FlowFormat::Parquet) => "Parquet cannot be read without its end",
                    _ => "it does not begin with the header of such a file",
                };
                self.quarantine(name, out, reason, now_ns)
            }
            _ => {
                out.discard();
                Ok(())
            }
        }
    }

    fn finish_left(
        &mut self,
        name: &StoreName,
        mut out: OutFile,
        (holds, codec, len): (Holds, Option<Codec>, u64),
        whole: &Whole,
        now_ns: u64,
    ) -> io::Result<()> {
        let lost = out.bytes() - len;
        out.cut_to(len).map_err(io::Error::other)?;
        if holds == Holds::Capture(Format::PcapNg) && !whole.has_statistics {
            let mut statistics = Vec::new();
            for (number, seen) in (0..).zip(&whole.interfaces) {
                section::recovered(
                    number,
                    seen.packets,
                    seen.first_ns,
                    seen.last_ns,
                    &mut statistics,
                );
            }
            if let Some(codec) = codec {
                statistics = frame_of(codec, LEVEL, statistics)?;
            }
            out.write(&statistics).map_err(io::Error::other)?;
        }
        if self.keeping.fsync != Fsync::Never {
            out.sync().map_err(io::Error::other)?;
        }
        let span = whole.span();
        let mut facts = FileFacts {
            name: name.to_string(),
            bytes: out.bytes(),
            sha256: hex(&out.digest().map_err(io::Error::other)?),
            first: span.map(|(first, _)| rfc3339(first).to_owned()),
            last: span.map(|(_, last)| rfc3339(last).to_owned()),
            packets: whole.packets,
            sessions: match holds {
                Holds::Capture(_) => whole.interfaces.len() as u64,
                Holds::Flows(_) => 0,
            },
            wire_bytes: whole.wire_bytes,
            reason: Reason::Recovered.name().to_owned(),
            ..FileFacts::default()
        };
        tracing::warn!(
            "an earlier run was killed: {name} is finished with {} packets or records; {lost} bytes behind the last were not \
             whole",
            whole.packets
        );
        if let Holds::Capture(format) = holds
            && self.keeping.index
        {
            let file = BufReader::with_capacity(1 << 20, out.reopen()?);
            let index = match codec {
                None => index::build::scan(format, file),
                Some(codec) => index::build::scan_packed(format, codec, file),
            };
            let index = index.inspect_err(|error| tracing::warn!("{name} gets no index: {error}"));
            let place = self.place();
            facts.index = index
                .ok()
                .and_then(|index| place.write_index(index, &out, &facts));
        }
        self.locked(|ring| {
            ring.mark(&facts.name);
            ring.append(now_ns, Event::File(facts.clone()))
        })?;
        out.settle().map(drop).map_err(io::Error::other)?;
        self.due.push(facts);
        Ok(())
    }

    fn quarantine(
        &mut self,
        name: &StoreName,
        out: OutFile,
        reason: &str,
        now_ns: u64,
    ) -> io::Result<()> {
        let aside = self.dir.join(QUARANTINE);
        outfile::make_directory(&aside, self.keeping.creation)?;
        let hidden = self.dir.join(format!(".{name}.part"));
        let moved_to = format!("{QUARANTINE}/{name}");
        fs::rename(hidden, self.dir.join(&moved_to))?;
        drop(out);
        tracing::warn!(
            "an earlier run was killed: {name} is moved to {}: {reason}",
            self.dir.join(&moved_to).display()
        );
        let event = Event::Quarantined {
            name: name.to_string(),
            moved_to,
            reason: reason.to_owned(),
        };
        self.locked(|ring| ring.append(now_ns, event))
    }
}

impl ManifestFile {
    fn open(dir: &Path, creation: Creation) -> io::Result<Self> {
        Ok(Self {
            file: open_ours(&dir.join(manifest::NAME), creation)?,
            known: 0,
            chain: Chain::default(),
            closed: 0,
            told: false,
        })
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

/// Whether a file is the one that was written here.
enum Ours {
    Yes,
    No,
    /// Somebody reads it, and said so by a lock.
    InUse,
}

fn is_ours(path: &Path, bytes: u64) -> io::Result<Ours> {
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
fn open_ours(path: &Path, creation: Creation) -> io::Result<File> {
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

/// The name that a hidden file is to get.
pub fn hidden_name(name: &str) -> Option<&str> {
    name.strip_prefix('.')?.strip_suffix(".part")
}
