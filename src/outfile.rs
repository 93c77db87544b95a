//! Files out: under its own name a file appears only when it is complete.
//!
//! Bytes go to `.NAME.part` beside it, which is renamed after the last write. A run that is killed
//! leaves the `.part`; the next one moves it aside rather than over it. Pipes, devices and standard
//! output are written directly.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::patience::{NoResult, PATIENCE, within};

/// Why an output cannot be written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum OutError {
    #[error("cannot write {path}: {source}")]
    Write { path: String, source: io::Error },
    #[error("cannot write {path}: it is a directory; name a file in it")]
    Directory { path: String },
    #[error("cannot write {path}: another process is writing {part}")]
    Busy { path: String, part: String },
    #[error("cannot write {path}: {source}")]
    GaveUp { path: String, source: NoResult },
}

enum Target {
    Direct,
    Renamed { part: PathBuf, name: PathBuf },
}

/// An output being written.
pub struct OutFile {
    writer: Box<dyn Write + Send>,
    file: Option<File>,
    target: Target,
    path: String,
    bytes: u64,
}

impl OutFile {
    /// Opens `path` for writing; `-` is standard output.
    ///
    /// # Errors
    ///
    /// When the place cannot be written to. Nothing that stands there is touched in that case.
    pub fn create(path: &Path) -> Result<Self, OutError> {
        let name = path.display().to_string();
        if path == Path::new("-") {
            return Ok(Self::direct(
                "standard output".to_owned(),
                Box::new(io::stdout()),
            ));
        }
        let error = |source| OutError::Write {
            path: name.clone(),
            source,
        };
        // A name for what this process has open already: its content is not ours to replace.
        if let Some(open) = open_descriptor(path) {
            let writer: Box<dyn Write + Send> = match open.as_str() {
                "1" => Box::new(io::stdout()),
                _ => Box::new(OpenOptions::new().append(true).open(path).map_err(error)?),
            };
            return Ok(Self::direct(name, writer));
        }
        match path.metadata() {
            Ok(meta) if meta.is_dir() => return Err(OutError::Directory { path: name }),
            // A device or a pipe: it has no content to keep whole.
            Ok(meta) if !meta.is_file() => {
                let file = OpenOptions::new().write(true).open(path).map_err(error)?;
                return Ok(Self::direct(name, Box::new(file)));
            }
            // Somebody may have protected it on purpose; a rename would not notice.
            Ok(_) => _ = OpenOptions::new().append(true).open(path).map_err(error)?,
            Err(_) => {}
        }
        let path = &end_of_links(path).map_err(error)?;
        let Some(file_name) = path.file_name() else {
            return Err(error(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a file name",
            )));
        };
        let part = path.with_file_name(format!(".{}.part", file_name.to_string_lossy()));
        let open = || OpenOptions::new().create(true).append(true).open(&part);
        let mut file = open().map_err(error)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OutError::Busy {
                    path: name,
                    part: part.display().to_string(),
                });
            }
            // Some network file systems have no locks; better to write than to refuse.
            Err(TryLockError::Error(source)) => tracing::debug!(%source, "no file lock"),
        }
        if file.metadata().map_err(error)?.len() > 0 {
            let aside = set_aside(&part).map_err(error)?;
            tracing::warn!(file = %aside.display(), "an earlier run was killed; what it wrote is kept");
            file = open().map_err(error)?;
        }
        let writer = Box::new(file.try_clone().map_err(error)?);
        let target = Target::Renamed {
            part,
            name: path.clone(),
        };
        Ok(Self {
            writer,
            file: Some(file),
            target,
            path: name,
            bytes: 0,
        })
    }

    fn direct(path: String, writer: Box<dyn Write + Send>) -> Self {
        Self {
            writer,
            file: None,
            target: Target::Direct,
            path,
            bytes: 0,
        }
    }

    /// Its name in messages.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Bytes written so far.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    ///
    /// As the system says; a part of `bytes` may have been written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), OutError> {
        self.writer
            .write_all(bytes)
            .map_err(|source| OutError::Write {
                path: self.path.clone(),
                source,
            })?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Cuts off what was written behind the first `len` bytes: a half-written record.
    ///
    /// # Errors
    ///
    /// As the system says; for a pipe there is nothing to cut and no error.
    pub fn cut_to(&mut self, len: u64) -> Result<(), OutError> {
        if let Some(file) = &self.file {
            file.set_len(len).map_err(|source| OutError::Write {
                path: self.path.clone(),
                source,
            })?;
        }
        self.bytes = len;
        Ok(())
    }

    /// Flushes, and gives the file its name.
    ///
    /// # Errors
    ///
    /// As the system says; the `.part` stays.
    pub fn finish(mut self) -> Result<(), OutError> {
        let error = |source| OutError::Write {
            path: self.path.clone(),
            source,
        };
        self.writer.flush().map_err(error)?;
        if let Target::Renamed { part, name } = &self.target {
            std::fs::rename(part, name).map_err(error)?;
        }
        self.target = Target::Direct;
        Ok(())
    }

    /// Gives the file up: nothing appears under its name.
    pub fn discard(self) {
        if let Target::Renamed { part, .. } = &self.target {
            let _ = std::fs::remove_file(part);
        }
    }
}

/// Writes a small file whole, `-` for standard output, and gives up what takes nothing for as long as there is
/// [`PATIENCE`]: a FIFO without a reader, a full pipe.
///
/// # Errors
///
/// As [`OutFile`], and [`OutError::GaveUp`].
pub fn write_whole(path: &Path, content: Vec<u8>) -> Result<(), OutError> {
    let owned = path.to_owned();
    let written = within(PATIENCE, move || {
        let mut out = OutFile::create(&owned)?;
        out.write(&content)?;
        out.finish()
    });
    written.unwrap_or_else(|source| {
        let path = match path == Path::new("-") {
            true => "standard output".to_owned(),
            false => path.display().to_string(),
        };
        Err(OutError::GaveUp { path, source })
    })
}

/// Where a path leads through links; the last file need not be there.
fn end_of_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    // As many as Linux follows.
    for _ in 0..40 {
        match path.read_link() {
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("too many links"))
}

/// The number of a descriptor of this process that `path` is a name for: /dev/stdout, /dev/fd/3.
fn open_descriptor(path: &Path) -> Option<String> {
    let mut path = path.to_owned();
    for _ in 0..40 {
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        if [Path::new("/proc/self/fd"), Path::new("/dev/fd")].contains(&folder.as_path()) {
            return path
                .file_name()
                .map(|number| number.to_string_lossy().into_owned());
        }
        path = folder.join(path.read_link().ok()?);
    }
    None
}

/// Renames a left-over `.part` to the first free number behind it.
fn set_aside(part: &Path) -> io::Result<PathBuf> {
    for number in 1..10_000 {
        let aside = PathBuf::from(format!("{}.{number}", part.display()));
        if !aside.exists() {
            std::fs::rename(part, &aside)?;
            return Ok(aside);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        format!("too many left-over {}.N", part.display()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_appears_with_the_last_byte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let mut out = OutFile::create(&path).unwrap();
        out.write(b"hello world").unwrap();
        out.cut_to(5).unwrap();
        out.write(b"!").unwrap();
        assert!(!path.exists());
        assert!(matches!(OutFile::create(&path), Err(OutError::Busy { .. })));
        out.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"hello!");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_killed_run_left_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".out.part"), b"half").unwrap();
        let mut out = OutFile::create(&dir.path().join("out")).unwrap();
        out.write(b"whole").unwrap();
        out.finish().unwrap();
        assert_eq!(
            std::fs::read(dir.path().join(".out.part.1")).unwrap(),
            b"half"
        );
        assert_eq!(std::fs::read(dir.path().join("out")).unwrap(), b"whole");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_even_to_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("target", &link).unwrap();
        for text in [b"one", b"two"] {
            let mut out = OutFile::create(&link).unwrap();
            out.write(text).unwrap();
            out.finish().unwrap();
            assert_eq!(std::fs::read(dir.path().join("target")).unwrap(), text);
            assert!(link.is_symlink());
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_open_already_is_added_to() {
        use std::os::fd::AsRawFd;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, b"before ").unwrap();
        let open = File::open(&path).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(format!("/proc/self/fd/{}", open.as_raw_fd()), &link).unwrap();
        let mut out = OutFile::create(&link).unwrap();
        out.write(b"after").unwrap();
        out.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"before after");
    }

    #[test]
    fn a_place_that_cannot_be_written() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            OutFile::create(dir.path()),
            Err(OutError::Directory { .. })
        ));
        assert!(matches!(
            OutFile::create(&dir.path().join("no/out")),
            Err(OutError::Write { .. })
        ));
        let mut null = OutFile::create(Path::new("/dev/null")).unwrap();
        null.write(b"x").unwrap();
        null.finish().unwrap();
    }
}
