//! Files out: under its own name a file appears only when it is complete, and on the disk.
//!
//! Bytes go to `.NAME.part` beside it, which is synced and renamed after the last write. A run that is
//! killed leaves the `.part`; the next one moves it aside rather than over it. Pipes, devices and standard
//! output are written directly.

mod fifo;
mod items;
mod names;
mod owner;
pub mod packed;
mod part;
mod place;

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub use items::{ItemFile, Standing};
pub use owner::make_directory;
use part::Part;
pub use place::{is_input, same_output};

use crate::patience::{NoResult, PATIENCE, within};
use crate::stop::Stop;

/// Why an output cannot be written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum OutError {
    #[error("cannot write {path}: {source}")]
    Write { path: String, source: io::Error },
    #[error("cannot write {path}: it is a directory; name a file in it")]
    Directory { path: String },
    #[error("cannot write {path}: it is a socket; name a file or a FIFO")]
    Socket { path: String },
    #[error("cannot write {path}: the directory {directory} does not exist")]
    NoDirectory { path: String, directory: String },
    #[error("cannot write {path}: {directory} is not a directory")]
    NotADirectory { path: String, directory: String },
    #[error(
        "cannot write {path}: nobody opened this FIFO for reading before the run was told to end"
    )]
    NoReader { path: String },
    #[error("cannot write {path}: another process is writing {part}")]
    Busy { path: String, part: String },
    #[error("cannot write {path}: {part} is {kind}, not the file of an earlier run; remove it")]
    NotOurs {
        path: String,
        part: String,
        kind: &'static str,
    },
    #[error("cannot finish {path}: {source}; what was written is in {part}")]
    Finish {
        path: String,
        part: String,
        source: io::Error,
    },
    #[error(
        "cannot finish {path}: {part} was deleted while it was written; {bytes} bytes are lost"
    )]
    Gone {
        path: String,
        part: String,
        bytes: u64,
    },
    #[error("cannot write {path}: {source}")]
    GaveUp { path: String, source: NoResult },
}

impl OutError {
    /// Whether there is no room on the disk.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Write { source, .. } if is_full(source))
    }

    /// Whether the reader of a pipe has left: the end of that output, not a fault.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Write { source, .. } if source.kind() == ErrorKind::BrokenPipe)
    }

    /// What making `path` came to; a directory that is missing is named.
    pub fn of_write(path: &Path, source: io::Error) -> Self {
        let folder = place::folder_of(path);
        let directory = folder.display().to_string();
        let path = path.display().to_string();
        match source.kind() {
            ErrorKind::NotFound if !folder.exists() => Self::NoDirectory { path, directory },
            ErrorKind::NotADirectory => Self::NotADirectory { path, directory },
            _ => Self::Write { path, source },
        }
    }
}

/// What becomes of a finished file that has the name already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// It is replaced when the new one is complete.
    #[default]
    Replace,
    /// It stays, unless it is empty: the new one gets the next free name, `mirror.1.pcapng`.
    Keep,
}

/// How an output is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Creation {
    /// Permission bits. `None`: those of the file that is replaced, else 0600.
    pub mode: Option<u32>,
    /// The group by its number. `None`: that of the file that is replaced, or the one the system gives.
    pub group: Option<u32>,
    /// What becomes of a finished file of that name.
    pub existing: Existing,
}

/// An output being written. One that is dropped leaves its `.part` where data was written to it, and
/// nothing otherwise.
pub struct OutFile {
    /// Before the file: it is removed while it is locked.
    part: Option<Part>,
    file: File,
    path: String,
    bytes: u64,
    header_len: u64,
    synced: Arc<AtomicU64>,
    digest: Option<Running>,
    rescue: Option<Rescue>,
}

/// Makes room where a disk is full; whether it did.
type Rescue = Box<dyn FnMut() -> bool + Send>;

/// SHA-256 of what is written, as it is written.
struct Running {
    sha256: Sha256,
    /// Bytes of the file that it stands for.
    bytes: u64,
}

impl OutFile {
    /// Opens `path` for writing; `-` is standard output. A file of that name is replaced, by one with its
    /// mode.
    ///
    /// # Errors
    ///
    /// When the place cannot be written to. Nothing that stands there is touched in that case.
    pub fn create(path: &Path) -> Result<Self, OutError> {
        Self::create_as(path, Creation::default())
    }

    /// Opens `path` for writing in the way that `creation` says.
    ///
    /// # Errors
    ///
    /// As [`Self::create`].
    pub fn create_as(path: &Path, creation: Creation) -> Result<Self, OutError> {
        Self::create_until(path, creation, &Stop::new())
    }

    /// Opens `path` for writing as [`Self::create_as`]. A FIFO waits for its reader, until `stop` is set.
    ///
    /// # Errors
    ///
    /// As [`Self::create`], and [`OutError::NoReader`].
    pub fn create_until(path: &Path, creation: Creation, stop: &Stop) -> Result<Self, OutError> {
        let out = Self::open(path, creation, stop)?;
        if let Some(part) = &out.part {
            part.tell_left_overs();
        }
        Ok(out)
    }

    /// Finds out whether `path` can be opened for writing later. A pipe is left alone: opened and closed
    /// again it would end for its reader.
    ///
    /// # Errors
    ///
    /// As [`Self::create`].
    pub fn probe(path: &Path, creation: Creation) -> Result<(), OutError> {
        let is_name = path != Path::new("-") && place::open_descriptor(path).is_none();
        if is_name
            && path
                .metadata()
                .map_or(true, |meta| meta.is_file() || meta.is_dir())
        {
            Self::open(path, creation, &Stop::new())?.discard();
        }
        Ok(())
    }

    fn open(path: &Path, creation: Creation, stop: &Stop) -> Result<Self, OutError> {
        let mut shown = path.display().to_string();
        let error = |source| OutError::of_write(path, source);
        if path == Path::new("-") {
            let file = standard(io::stdout()).map_err(error)?;
            return Ok(Self::of("standard output".to_owned(), file, None));
        }
        // A name for what this process has open already: its content is not ours to replace.
        if let Some(open) = place::open_descriptor(path) {
            let file = match open.as_str() {
                "1" => standard(io::stdout()),
                "2" => standard(io::stderr()),
                _ => OpenOptions::new().append(true).open(path),
            };
            return Ok(Self::of(shown, file.map_err(error)?, None));
        }
        if path.as_os_str().as_bytes().ends_with(b"/") {
            return Err(OutError::Directory { path: shown });
        }
        let meta = path.metadata();
        if let Ok(meta) = &meta {
            if meta.is_dir() {
                return Err(OutError::Directory { path: shown });
            }
            if meta.file_type().is_socket() {
                return Err(OutError::Socket { path: shown });
            }
            if meta.file_type().is_fifo() {
                let file = fifo::open(path, stop).map_err(error)?;
                let file = file.ok_or_else(|| OutError::NoReader {
                    path: shown.clone(),
                })?;
                return Ok(Self::of(shown, file, None));
            }
            // A device: it has no content to keep whole.
            if !meta.is_file() {
                let file = OpenOptions::new().write(true).open(path).map_err(error)?;
                return Ok(Self::of(shown, file, None));
            }
        }
        let mut name = place::end_of_links(path).map_err(error)?;
        if creation.existing == Existing::Keep {
            let free = part::free_name(&name);
            if free != name {
                let to = free.display().to_string();
                tracing::info!(
                    "{shown} exists and is kept; this run writes {to} (--overwrite replaces)"
                );
                shown = to;
            }
            name = free;
        }
        // The hidden name is short enough for every file system; whether this one is shows before the run.
        if let Err(source) = name.symlink_metadata()
            && source.raw_os_error() == Some(Errno::ENAMETOOLONG as i32)
        {
            return Err(error(source));
        }
        // Somebody may have protected it on purpose; a rename would not notice.
        if name.is_file() {
            OpenOptions::new().append(true).open(&name).map_err(error)?;
        }
        let (part, file) = Part::create(name, creation)?;
        Ok(Self::of(shown, file, Some(part)))
    }

    fn of(path: String, file: File, part: Option<Part>) -> Self {
        Self {
            part,
            file,
            path,
            bytes: 0,
            header_len: 0,
            synced: Arc::default(),
            digest: None,
            rescue: None,
        }
    }

    /// Goes on with the hidden file of `path` that a killed run left, which is locked then. `None` where there is
    /// none of this user, or another process has it.
    ///
    /// # Errors
    ///
    /// As the system says.
    pub fn adopt(path: &Path, creation: Creation) -> Result<Option<Self>, OutError> {
        let error = |source| OutError::of_write(path, source);
        let adopted = Part::adopt(path.to_owned(), creation).map_err(error)?;
        let Some((part, file)) = adopted else {
            return Ok(None);
        };
        let bytes = file.metadata().map_err(error)?.len();
        let mut out = Self::of(path.display().to_string(), file, Some(part));
        out.bytes = bytes;
        out.decide_keep();
        Ok(Some(out))
    }

    /// From now on a SHA-256 of the file is kept; before the first byte.
    pub fn keep_digest(&mut self) {
        self.digest = Some(Running {
            sha256: Sha256::new(),
            bytes: 0,
        });
    }

    /// SHA-256 of the file as it is now. It is read once more where something was cut off it.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn digest(&self) -> Result<[u8; 32], OutError> {
        match &self.digest {
            Some(running) if running.bytes == self.bytes => {
                Ok(running.sha256.clone().finalize().into())
            }
            _ => self.read_digest().map_err(|source| self.error(source)),
        }
    }

    fn read_digest(&self) -> io::Result<[u8; 32]> {
        let mut file = self.reopen()?;
        let mut sha256 = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(sha256.finalize().into()),
                Ok(len) => sha256.update(buffer.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Opens the file once more, to be read from its beginning.
    ///
    /// # Errors
    ///
    /// When it is no file, was moved, or may not be read.
    pub fn reopen(&self) -> io::Result<File> {
        let part = self.part.as_ref().ok_or(ErrorKind::Unsupported)?;
        part.reopen(&self.file)
    }

    /// Another hand on the file: its lock lasts as long as this does, behind the end of the file too.
    pub fn keep_lock(&self) -> Option<File> {
        self.file.try_clone().ok()
    }

    /// Whether it stands where it will get its name; somebody may have moved or deleted it.
    pub fn is_in_place(&self) -> bool {
        self.part.as_ref().is_none_or(Part::is_hidden)
    }

    /// Its name in messages.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Bytes written so far.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What was written so far is a header: alone it is not worth keeping.
    pub const fn end_header(&mut self) {
        self.header_len = self.bytes;
        self.decide_keep();
    }

    /// Counts the bytes that [`Self::finish`] has brought to the disk. A large file may take long, and this
    /// says whether it goes on.
    pub fn synced(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.synced)
    }

    /// Where the disk is full `rescue` is asked to make room, and tells whether it is worth another try.
    pub fn rescue_with(&mut self, rescue: impl FnMut() -> bool + Send + 'static) {
        self.rescue = Some(Box::new(rescue));
    }

    /// Counts the bytes that are brought to the disk in `counter` too.
    pub fn count_synced_in(&mut self, counter: Arc<AtomicU64>) {
        self.synced = counter;
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    ///
    /// As the system says; a part of `bytes` may have been written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), OutError> {
        let outcome = self.write_all(bytes);
        self.decide_keep();
        outcome.map_err(|source| self.error(source))
    }

    fn write_all(&mut self, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(len) => {
                    self.bytes += len as u64;
                    if let Some(running) = &mut self.digest {
                        running.sha256.update(rest.get(..len).unwrap_or_default());
                        running.bytes += len as u64;
                    }
                    rest = rest.get(len..).unwrap_or_default();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A pipe that somebody made O_NONBLOCK, as an event loop does with its own.
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait_writable()?,
                Err(error)
                    if is_full(&error) && self.rescue.as_mut().is_some_and(|rescue| rescue()) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Where the run ends in the middle, data is kept and a header is not.
    const fn decide_keep(&mut self) {
        if let Some(part) = &mut self.part {
            part.keep = self.bytes > self.header_len;
        }
    }

    fn wait_writable(&self) -> io::Result<()> {
        let mut polls = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut polls, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it is written directly: a pipe, a device or standard output.
    pub const fn is_direct(&self) -> bool {
        self.part.is_none()
    }

    /// The error of a pipe whose reader has left, if this is one; nothing is written to find out.
    fn reader_left(&self) -> Option<OutError> {
        if !self.is_direct() {
            return None;
        }
        // Nothing is asked for: an error is told all the same.
        let mut polls = [PollFd::new(self.file.as_fd(), PollFlags::empty())];
        poll(&mut polls, PollTimeout::ZERO).ok()?;
        let [polled] = polls;
        let is_error = polled.revents()?.contains(PollFlags::POLLERR);
        // Terminals and devices tell other things so.
        let is_pipe = || {
            self.file
                .metadata()
                .is_ok_and(|meta| meta.file_type().is_fifo())
        };
        (is_error && is_pipe()).then(|| self.error(ErrorKind::BrokenPipe.into()))
    }

    pub(super) fn error(&self, source: io::Error) -> OutError {
        OutError::Write {
            path: self.path.clone(),
            source,
        }
    }

    /// Cuts off what was written behind the first `len` bytes: a half-written record.
    ///
    /// # Errors
    ///
    /// As the system says; for a pipe there is nothing to cut and no error.
    pub fn cut_to(&mut self, len: u64) -> Result<(), OutError> {
        let excess = self.bytes.saturating_sub(len);
        let cut = match self.part {
            Some(_) => self.cut_whole_to(self.bytes - excess),
            None => self.cut_off(excess),
        };
        cut.map_err(|source| self.error(source))?;
        self.bytes -= excess;
        self.decide_keep();
        Ok(())
    }

    /// Cuts a file of our own to `len` bytes. Where a write failed, more than it told may have got there.
    fn cut_whole_to(&mut self, len: u64) -> io::Result<()> {
        if self.file.metadata()?.len() > len {
            self.file.set_len(len)?;
        }
        self.file.seek(SeekFrom::Start(len)).map(drop)
    }

    /// Cuts the last `excess` bytes off, if they still are the end of a file.
    fn cut_off(&mut self, excess: u64) -> io::Result<()> {
        let meta = self.file.metadata()?;
        if excess == 0 || !meta.is_file() {
            return Ok(());
        }
        // Standard output may have stood in the middle of a file.
        let end = self.file.stream_position()?;
        if end == meta.len() && end >= excess {
            self.file.set_len(end - excess)?;
            self.file.seek(SeekFrom::Start(end - excess))?;
        }
        Ok(())
    }

    /// Brings the file to the disk and gives it its name. Tells where it is then: usually [`Self::path`].
    /// A file that was moved while it was written is finished where it is.
    ///
    /// # Errors
    ///
    /// As the system says; the `.part` stays.
    pub fn finish(mut self) -> Result<String, OutError> {
        self.sync()?;
        self.settle()
    }

    /// Brings the file to the disk.
    ///
    /// # Errors
    ///
    /// As the system says; the `.part` stays.
    pub fn sync(&mut self) -> Result<(), OutError> {
        let Some(part) = &mut self.part else {
            return Ok(());
        };
        part.keep = true;
        sync(&self.file, &self.synced).map_err(|source| OutError::Finish {
            path: self.path.clone(),
            part: part.hidden(),
            source,
        })
    }

    /// Gives the file its name, as [`Self::finish`] does, without waiting for the disk.
    ///
    /// # Errors
    ///
    /// As the system says; the `.part` stays.
    pub fn settle(self) -> Result<String, OutError> {
        let Self {
            part,
            file,
            path,
            bytes,
            ..
        } = self;
        let Some(mut part) = part else {
            return match close(file) {
                Ok(()) => Ok(path),
                Err(source) => Err(OutError::Write { path, source }),
            };
        };
        part.keep = true;
        // Some file systems tell their last faults here. The other descriptor keeps the lock.
        match file.try_clone().and_then(close) {
            Ok(()) => part.settle(&file, path, bytes),
            Err(source) => Err(OutError::Finish {
                path,
                part: part.hidden(),
                source,
            }),
        }
    }

    /// Leaves the file under its hidden name, since it is not whole, and tells that name. `None` where
    /// there is no such file: a pipe, or nothing was written but a header.
    ///
    /// # Errors
    ///
    /// When it cannot be brought to the disk.
    pub fn keep_part(mut self) -> Result<Option<String>, OutError> {
        if self.bytes <= self.header_len {
            return Ok(None);
        }
        let Some(part) = self.part.take() else {
            return Ok(None);
        };
        let synced = sync(&self.file, &self.synced);
        let place = part.leave(&self.file);
        synced.map_err(|source| self.error(source))?;
        Ok(place)
    }

    /// Gives the file up: nothing appears under its name, and what was written is removed.
    pub fn discard(mut self) {
        if let Some(part) = &mut self.part {
            part.keep = false;
        }
    }
}

/// Writes a small file whole, `-` for standard output, and gives up what takes nothing for as long as there is
/// [`PATIENCE`]: a FIFO without a reader, a full pipe.
///
/// # Errors
///
/// As [`OutFile`], and [`OutError::GaveUp`].
pub fn write_whole(path: &Path, creation: Creation, content: Vec<u8>) -> Result<(), OutError> {
    let owned = path.to_owned();
    let written = within(PATIENCE, move || {
        let mut out = OutFile::create_as(&owned, creation)?;
        out.write(&content)?;
        out.finish().map(drop)
    });
    written.unwrap_or_else(|source| {
        let path = match path == Path::new("-") {
            true => "standard output".to_owned(),
            false => path.display().to_string(),
        };
        Err(OutError::GaveUp { path, source })
    })
}

/// Whether there is no room: on the disk, or in what this user may have of it.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

/// A descriptor of our own: the standard library's handle would keep the end of what is written back until
/// the next end of a line.
fn standard(handle: impl AsFd) -> io::Result<File> {
    handle.as_fd().try_clone_to_owned().map(File::from)
}

/// Closes the file and hears what the system has to say.
fn close(file: File) -> io::Result<()> {
    match nix::unistd::close(file) {
        // Linux has closed it all the same.
        Ok(()) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Bytes brought to the disk at a time: even a slow disk takes them in less than a second or two.
#[cfg(target_os = "linux")]
const SYNC_LEN: u64 = 8 << 20;

/// Brings the file to the disk. `synced` counts on the way.
fn sync(file: &File, synced: &AtomicU64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        let len = file.metadata()?.len();
        let mut offset = 0;
        while offset < len {
            if crate::sys::sync_range(file.as_fd(), offset, SYNC_LEN).is_err() {
                // What went wrong is said again below, if it matters.
                break;
            }
            offset += SYNC_LEN;
            synced.fetch_add(SYNC_LEN, Ordering::Relaxed);
        }
    }
    unless_unsupported(file.sync_all())?;
    synced.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Some file systems cannot sync: what they have is as safe as it can be.
fn unless_unsupported(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::EROFS) => Ok(()),
            _ => Err(error),
        },
        done => done,
    }
}

#[cfg(test)]
mod tests;
