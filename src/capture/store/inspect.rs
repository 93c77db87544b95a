//! A store as it lies on the disk, looked at without changing anything; a run may write to it meanwhile.
//!
//! Runs change the directory under the lock of one file. Where something seems to be missing it is looked at once
//! more under that lock, shared and for a moment: then nothing is half done.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use memchr::memchr;
use nix::fcntl::OFlag;
use sha2::{Digest, Sha256};

use super::contents::{Gone, Listed};
use super::manifest::{self, IndexFacts, Verified, hex};
use super::names::StoreName;
use super::ring::{LOCK, hidden_name};
use super::verify::{Finding, Ledger};

/// Longest line that is believed; what is longer is none.
const MOST_LINE: usize = 1 << 20;
/// How often the lock of a directory is tried; runs hold it for moments.
const LOCK_TRIES: u32 = 1000;
/// Waited between two tries.
const BETWEEN_TRIES: Duration = Duration::from_millis(5);
/// Bytes read at a time.
const PIECE_LEN: usize = 1 << 20;

/// What stands under a name.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its size.
    pub bytes: u64,
    /// It is a file, and not a link, a directory or a device.
    pub is_file: bool,
    id: (u64, u64),
}

/// What stands in a directory, by name. Names that are no text are none of a store.
///
/// # Errors
///
/// When it cannot be read.
pub fn entries(dir: &Path) -> io::Result<BTreeMap<String, Entry>> {
    let mut entries = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // What goes meanwhile is not there.
        if let (Ok(name), Ok(meta)) = (entry.file_name().into_string(), entry.metadata()) {
            let entry = Entry {
                bytes: meta.len(),
                is_file: meta.is_file(),
                id: (meta.dev(), meta.ino()),
            };
            entries.insert(name, entry);
        }
    }
    Ok(entries)
}

/// Whether a directory holds anything of a store.
pub fn is_store(entries: &BTreeMap<String, Entry>) -> bool {
    entries.keys().any(|name| {
        name == manifest::NAME
            || manifest::closed_number(name).is_some()
            || StoreName::parse(name).is_some()
    })
}

/// No run changes the directory as long as this lives; where it has no lock that could be taken, nobody is expected.
pub struct Quiet(#[allow(dead_code, reason = "closing it gives the lock back")] Option<File>);

impl Quiet {
    /// Waits for a moment at which nothing is half done.
    pub fn begin(dir: &Path) -> Self {
        let Ok(Some(lock)) = open(&dir.join(LOCK)) else {
            return Self(None);
        };
        for _ in 0..LOCK_TRIES {
            match lock.try_lock_shared() {
                Ok(()) => return Self(Some(lock)),
                Err(TryLockError::WouldBlock) => std::thread::sleep(BETWEEN_TRIES),
                Err(TryLockError::Error(_)) => break,
            }
        }
        Self(None)
    }

    /// Whether a process writes to a hidden file. Only while it is quiet: a run that starts could take our look at
    /// the lock for a process.
    pub fn is_written(&self, hidden: &Path) -> bool {
        let file = open(hidden).ok().flatten();
        file.is_some_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }
}

/// Opens a file to read it; `None` where there is none. A link is not followed, a FIFO not waited for.
fn open(path: &Path) -> io::Result<Option<File>> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = match opened {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(nix::libc::ELOOP) => return Err(no_file()),
        opened => opened?,
    };
    match file.metadata()?.is_file() {
        true => Ok(Some(file)),
        false => Err(no_file()),
    }
}

fn no_file() -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, "it is no regular file")
}

/// Reads the manifests of a directory, the closed ones first, and goes on where it stopped.
pub struct Manifests {
    dir: PathBuf,
    /// Those that were closed when reading began.
    closed: Vec<u32>,
    /// The number of the last one that is known to be closed.
    last_closed: u32,
    /// The one that is written to.
    current: Option<File>,
    is_begun: bool,
    /// Bytes of it up to the end of the last whole line.
    known: u64,
    /// There is more behind that line.
    has_rest: bool,
}

impl Manifests {
    /// Opens those of `dir`.
    ///
    /// # Errors
    ///
    /// When the directory or the manifest cannot be read.
    pub fn open(dir: &Path) -> io::Result<Self> {
        loop {
            let closed = closed_numbers(dir)?;
            let current = open(&dir.join(manifest::NAME))?;
            // Otherwise one was closed in between.
            if closed_numbers(dir)? == closed {
                return Ok(Self {
                    dir: dir.to_owned(),
                    last_closed: closed.last().copied().unwrap_or_default(),
                    closed,
                    current,
                    is_begun: false,
                    known: 0,
                    has_rest: false,
                });
            }
        }
    }

    /// Reads what is there and was not read before.
    ///
    /// # Errors
    ///
    /// When a manifest cannot be read.
    pub fn read(&mut self, ledger: &mut Ledger<'_>) -> io::Result<()> {
        for number in std::mem::take(&mut self.closed) {
            let name = manifest::closed_name(number);
            ledger.begin(&name);
            if let Some(mut file) = open(&self.dir.join(&name))? {
                let mut known = 0;
                if read_lines(&mut file, &mut known, ledger)? {
                    ledger.torn();
                }
            }
        }
        loop {
            if let Some(file) = &mut self.current {
                if !std::mem::replace(&mut self.is_begun, true) {
                    ledger.begin(manifest::NAME);
                }
                self.has_rest = read_lines(file, &mut self.known, ledger)?;
            }
            let Some(now) = open(&self.dir.join(manifest::NAME))? else {
                return Ok(());
            };
            if let Some(file) = &mut self.current {
                if id_of(&now)? == id_of(file)? {
                    return Ok(());
                }
                // It was closed, with what was written in between.
                if read_lines(file, &mut self.known, ledger)? {
                    ledger.torn();
                }
                self.last_closed = self.last_closed.saturating_add(1);
                ledger.closed_as(&manifest::closed_name(self.last_closed));
            }
            (self.current, self.known) = (Some(now), 0);
            (self.is_begun, self.has_rest) = (false, false);
        }
    }

    /// Whether there is one that runs write to.
    pub const fn has_current(&self) -> bool {
        self.current.is_some()
    }

    /// Whether its last line has no end.
    pub const fn is_torn(&self) -> bool {
        self.has_rest
    }
}

fn closed_numbers(dir: &Path) -> io::Result<Vec<u32>> {
    let entries = entries(dir)?;
    let numbers = entries
        .keys()
        .filter_map(|name| manifest::closed_number(name));
    let mut numbers: Vec<u32> = numbers.collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn id_of(file: &File) -> io::Result<(u64, u64)> {
    let meta = file.metadata()?;
    Ok((meta.dev(), meta.ino()))
}

/// Reads the lines behind `known` bytes; `true` when bytes without a line end follow the last.
fn read_lines(file: &mut File, known: &mut u64, ledger: &mut Ledger<'_>) -> io::Result<bool> {
    file.seek(SeekFrom::Start(*known))?;
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let (mut line, mut len) = (Vec::new(), 0);
    loop {
        let piece = match reader.fill_buf() {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            piece => piece?,
        };
        if piece.is_empty() {
            return Ok(len > 0);
        }
        let end = memchr(b'\n', piece);
        let text = piece.get(..end.unwrap_or(piece.len())).unwrap_or_default();
        let room = MOST_LINE.saturating_sub(line.len()).min(text.len());
        line.extend_from_slice(text.get(..room).unwrap_or_default());
        let taken = text.len() + usize::from(end.is_some());
        reader.consume(taken);
        len += taken as u64;
        if end.is_some() {
            ledger.take(&line);
            *known += len;
            line.clear();
            len = 0;
        }
    }
}

/// What was found out about a store.
pub struct Audit<'a> {
    /// What the manifests say, and all that is wrong.
    pub ledger: Ledger<'a>,
    /// Files that are what the manifest says.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A file that was opened while it was quiet, to be read afterwards.
struct Later {
    name: String,
    file: File,
    what: What,
}

/// What the second look came to.
#[derive(Default)]
struct Second {
    later: Vec<Later>,
    /// Files that are missing, with the places of their faults.
    missing: Vec<(usize, Listed)>,
}

enum What {
    /// It is listed, and under its name now.
    Named(Listed),
    /// It is listed, and still hidden.
    Pending(Listed),
    /// It was deleted, and is there.
    Deleted(Gone),
}

/// Proves the chain of a store's manifests and every file that should be there. `verified` tells whether a signature
/// is one of the right key; `read` counts bytes on the way.
///
/// # Errors
///
/// When the directory or a manifest cannot be read.
pub fn audit<'a>(
    dir: &Path,
    verified: Option<Verified<'a>>,
    read: &AtomicU64,
) -> io::Result<Audit<'a>> {
    let mut audit = Audit {
        ledger: Ledger::new(verified),
        files: 0,
        bytes: 0,
    };
    let mut manifests = Manifests::open(dir)?;
    manifests.read(&mut audit.ledger)?;
    let contents = &audit.ledger.contents;
    // What is finished from here on is another time's business.
    let listed: Vec<Listed> = contents.in_order().into_iter().cloned().collect();
    let (mut absent, mut no_index) = (Vec::new(), Vec::new());
    for one in listed {
        match open(&dir.join(&one.facts.name)) {
            Ok(Some(file)) => {
                audit.judge(&one, file, read);
                let index = one.facts.index.as_ref();
                let is_good = index.is_none_or(|index| is_index(dir, index, read));
                if !is_good {
                    no_index.push(one);
                }
            }
            Ok(None) => absent.push(one),
            Err(error) => audit.unreadable(&one.facts.name, &error),
        }
    }
    let quiet = Quiet::begin(dir);
    manifests.read(&mut audit.ledger)?;
    audit.end_manifests(&manifests);
    let there = entries(dir)?;
    for one in &no_index {
        if audit.is_listed(one) {
            audit.look_at_index(dir, one, &there, read);
        }
    }
    let Second { later, missing } = audit.look_again(dir, &quiet, absent, &there);
    // Runs wait for that lock: nothing is read before it is given back.
    drop(quiet);
    for later in later {
        audit.settle(dir, later, read);
    }
    for (fault, listed) in missing {
        if let Some(other) = audit.elsewhere(dir, &listed, &there) {
            audit.ledger.is_elsewhere(fault, &other);
        }
    }
    // The manifest's before the files'.
    audit
        .ledger
        .faults
        .sort_by_key(|fault| fault.line.is_none());
    Ok(audit)
}

impl Audit<'_> {
    fn judge(&mut self, listed: &Listed, file: File, read: &AtomicU64) {
        let Listed { facts, place, .. } = listed;
        match sha256_of(file, read) {
            Ok((bytes, sha256)) => {
                if self.ledger.judge(facts, place, bytes, &sha256) {
                    self.files += 1;
                    self.bytes += bytes;
                }
            }
            Err(error) => self.unreadable(&facts.name, &error),
        }
    }

    fn unreadable(&mut self, name: &str, error: &io::Error) {
        self.fault(name, "unreadable", format!("it cannot be read: {error}"));
    }

    fn fault(&mut self, name: &str, why: &'static str, text: impl Into<String>) {
        self.ledger.faults.push(Finding::of_file(name, why, text));
    }

    fn note(&mut self, name: &str, why: &'static str, text: impl Into<String>) {
        self.ledger.notes.push(Finding::of_file(name, why, text));
    }

    fn end_manifests(&mut self, manifests: &Manifests) {
        if manifests.is_torn() {
            self.ledger.torn();
        }
        self.ledger.end_lines();
        if !manifests.has_current() {
            let text =
                "the manifest is not there: it was removed, or a run was killed as it began it";
            self.fault(manifest::NAME, "missing", text);
        }
        let contents = &self.ledger.contents;
        let aside = contents.quarantined.iter().map(|(name, aside)| {
            let text = format!(
                "a killed run left it, and it could not be finished: {}",
                aside.reason
            );
            Finding::of_file(&aside.moved_to, "quarantined", format!("{text} ({name})"))
        });
        let unfinished = contents.unfinished.iter().map(|(name, (_, reason))| {
            let text = format!("it could not get its name: {reason}");
            Finding::of_file(name, "unfinished", text)
        });
        let notes: Vec<Finding> = aside.chain(unfinished).collect();
        self.ledger.notes.extend(notes);
    }

    /// Looks at what was not there, and at what is there and not listed, while nothing is half done.
    fn look_again(
        &mut self,
        dir: &Path,
        quiet: &Quiet,
        absent: Vec<Listed>,
        there: &BTreeMap<String, Entry>,
    ) -> Second {
        let Second {
            mut later,
            mut missing,
        } = Second::default();
        for listed in absent {
            let name = listed.facts.name.clone();
            if !self.is_listed(&listed) {
                // It was deleted meanwhile, and a line says so.
                continue;
            }
            let hidden = format!(".{name}.part");
            if !there.contains_key(&name) && quiet.is_written(&dir.join(&hidden)) {
                let text = "a run is about to give it its name";
                self.note(&hidden, "being_finished", text);
                continue;
            }
            // It gets its name without the lock of the directory.
            let opened = [&name, &hidden, &name].map(|name| open(&dir.join(name)));
            match opened {
                [Ok(Some(file)), ..] | [Ok(None), Ok(None), Ok(Some(file))] => later.push(Later {
                    name,
                    file,
                    what: What::Named(listed),
                }),
                [Ok(None), Ok(Some(file)), _] => later.push(Later {
                    name: hidden,
                    file,
                    what: What::Pending(listed),
                }),
                [Ok(None), Ok(None), Ok(None)] => {
                    missing.push((self.ledger.missing(&name, &listed.place), listed));
                }
                [Ok(None), Err(error), _] => self.unreadable(&hidden, &error),
                [Err(error), ..] | [_, _, Err(error)] => self.unreadable(&name, &error),
            }
        }
        for (name, entry) in there {
            self.look_at(dir, quiet, name, entry, there, &mut later);
        }
        Second { later, missing }
    }

    /// Whether a file should still be there.
    fn is_listed(&self, listed: &Listed) -> bool {
        let now = self.ledger.contents.kept.get(&listed.facts.name);
        now.is_some_and(|now| now.order == listed.order)
    }

    fn look_at_index(
        &mut self,
        dir: &Path,
        listed: &Listed,
        there: &BTreeMap<String, Entry>,
        read: &AtomicU64,
    ) {
        let Some(index) = &listed.facts.index else {
            return;
        };
        let place = &listed.place;
        match there.get(&index.name) {
            None => {
                let text = format!("{place} lists this index, and it is not there");
                self.fault(&index.name, "missing", text);
            }
            Some(entry) if entry.bytes != index.bytes => {
                let text = format!("it has {} bytes, in {place} {}", entry.bytes, index.bytes);
                self.fault(&index.name, "changed", text);
            }
            // It may have come to its place since it was looked at.
            Some(_) if is_index(dir, index, read) => {}
            Some(_) => {
                let text = format!("its SHA-256 is not that of {place}");
                self.fault(&index.name, "changed", text);
            }
        }
    }

    /// Looks at one name of the directory.
    fn look_at(
        &mut self,
        dir: &Path,
        quiet: &Quiet,
        name: &str,
        entry: &Entry,
        there: &BTreeMap<String, Entry>,
        later: &mut Vec<Later>,
    ) {
        let contents = &self.ledger.contents;
        if let Some(finished) = hidden_name(name).filter(|name| StoreName::parse(name).is_some()) {
            if let Some(named) = there.get(finished) {
                if named.id == entry.id {
                    let text = format!("it is {finished} itself: the run that named it was killed");
                    self.note(name, "left_by_killed_run", text);
                    return;
                }
            } else if contents.kept.contains_key(finished) {
                return;
            }
            match quiet.is_written(&dir.join(name)) {
                true => self.note(name, "being_written", "a run writes it"),
                false => self.note(
                    name,
                    "left_by_killed_run",
                    "the run that wrote it was killed: the next one in this directory finishes it",
                ),
            }
            return;
        }
        if StoreName::parse(name).is_none() || contents.kept.contains_key(name) {
            return;
        }
        let deleted = contents.deleted.get(name);
        let deleted = deleted.filter(|gone| entry.is_file && gone.bytes == entry.bytes);
        let what = match (deleted, contents.unfinished.get(name)) {
            (Some(gone), _) => Some(What::Deleted(gone.clone())),
            // It got its name, and only that was not certain.
            (None, Some((Some(listed), _))) => Some(What::Named(listed.clone())),
            _ => None,
        };
        match (what, open(&dir.join(name))) {
            (Some(what), Ok(Some(file))) => {
                let name = name.to_owned();
                later.push(Later { name, file, what });
            }
            _ => self.ledger.unlisted(name),
        }
    }

    /// A file that no line lists and that has the content of one that is missing.
    fn elsewhere(
        &self,
        dir: &Path,
        listed: &Listed,
        there: &BTreeMap<String, Entry>,
    ) -> Option<String> {
        let facts = &listed.facts;
        let others = there.iter().filter(|(name, entry)| {
            let is_listed = self.ledger.contents.kept.contains_key(*name);
            entry.is_file && entry.bytes == facts.bytes && !is_listed
        });
        let mut others = others.filter(|(name, _)| {
            let file = open(&dir.join(name)).ok().flatten();
            let hash = file.and_then(|file| sha256_of(file, &AtomicU64::new(0)).ok());
            hash.is_some_and(|(_, sha256)| sha256 == facts.sha256)
        });
        others.next().map(|(name, _)| name.clone())
    }

    /// Reads a file that was found on the second look.
    fn settle(&mut self, dir: &Path, later: Later, read: &AtomicU64) {
        let Later { name, file, what } = later;
        let listed = match what {
            What::Named(listed) => return self.judge(&listed, file, read),
            What::Deleted(gone) => {
                let is_it =
                    |sha256: &String| gone.sha256.as_ref().is_none_or(|gone| gone == sha256);
                match sha256_of(file, read) {
                    Ok((_, sha256)) if is_it(&sha256) => self.note(
                        &name,
                        "deleted_still_there",
                        "a run was killed before it could delete it: the next one does",
                    ),
                    Ok(_) => self.ledger.unlisted(&name),
                    Err(error) => self.unreadable(&name, &error),
                }
                return;
            }
            What::Pending(listed) => listed,
        };
        let Listed { facts, place, .. } = &listed;
        let id = id_of(&file).ok();
        match sha256_of(file, read) {
            Ok((bytes, sha256)) if facts.bytes == bytes && facts.sha256 == sha256 => {
                self.files += 1;
                self.bytes += bytes;
                let named = open(&dir.join(&facts.name)).ok().flatten();
                if named.and_then(|named| id_of(&named).ok()) != id {
                    let text = format!(
                        "it is what {place} says: the run was killed before it could name it {}",
                        facts.name
                    );
                    self.note(&name, "pending", text);
                }
            }
            Ok((bytes, _)) => {
                let text = format!(
                    "{place} lists it under the name {}, and it is not what that says ({bytes} bytes, {} listed)",
                    facts.name, facts.bytes
                );
                self.fault(&name, "changed", text);
            }
            Err(error) => self.unreadable(&name, &error),
        }
    }
}

/// Whether an index is what its line says.
fn is_index(dir: &Path, index: &IndexFacts, read: &AtomicU64) -> bool {
    let file = open(&dir.join(&index.name)).ok().flatten();
    let found = file.and_then(|file| sha256_of(file, read).ok());
    found.is_some_and(|(bytes, sha256)| bytes == index.bytes && sha256 == index.sha256)
}

/// Bytes and SHA-256 of a file. `read` counts them on the way.
fn sha256_of(mut file: File, read: &AtomicU64) -> io::Result<(u64, String)> {
    let mut sha256 = Sha256::new();
    let mut piece = vec![0; PIECE_LEN];
    let mut bytes = 0;
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok((bytes, hex(&sha256.finalize()))),
            Ok(len) => {
                sha256.update(piece.get(..len).unwrap_or_default());
                bytes += len as u64;
                read.fetch_add(len as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
