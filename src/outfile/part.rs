//! The hidden file that holds an output until it is complete: made new, locked, and known by its inode.
//!
//! Others may be able to write to the directory. So nothing that stands under the hidden name is ever
//! written to, and only the file that was made here gets the final name.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;

use super::names;
use super::owner::MODE;
use super::place::{FileId, folder_of, id_of};
use super::{Creation, Existing, OutError};

/// How often the file is tried to be made while others make and remove it too.
const TRIES: u32 = 200;
/// Waited between two tries.
const BETWEEN_TRIES: Duration = Duration::from_millis(5);
/// Tries after which a lock is another run's for good, and not that of one that looks for left-overs.
const TRIES_AT_LOCK: u32 = 10;
/// Left-overs told by their names.
const TOLD_BY_NAME: usize = 4;

/// The hidden file of an output. Dropped, it is removed unless `keep` is set.
pub struct Part {
    hidden: PathBuf,
    name: PathBuf,
    id: FileId,
    creation: Creation,
    /// Whether it holds something worth keeping.
    pub keep: bool,
}

/// Where a file is now.
enum Whereabouts {
    Hidden,
    Moved(PathBuf),
    Gone,
}

impl Part {
    /// Makes the hidden file for `name` and locks it. A left-over of a run that was killed is set aside,
    /// an empty one removed.
    pub fn create(name: PathBuf, creation: Creation) -> Result<(Self, File), OutError> {
        let path = || name.display().to_string();
        let error = |source| OutError::of_write(&name, source);
        let Some(file_name) = name.file_name() else {
            let source = io::Error::new(ErrorKind::InvalidInput, "not a file name");
            return Err(error(source));
        };
        let hidden = name.with_file_name(names::hidden(file_name, names::PART));
        let mut locked_by_others = 0;
        for _ in 0..TRIES {
            match new_file(&hidden) {
                // Between the two calls another run may have locked it, to remove an empty left-over.
                Ok(file) if lock(&file) && is_at(&hidden, &file) => {
                    if let Err(source) = creation.give(&file) {
                        // It is empty, and would look like a left-over.
                        let _ = fs::remove_file(&hidden);
                        return Err(error(source));
                    }
                    let part = Self {
                        id: id_of(&file.metadata().map_err(error)?),
                        hidden,
                        name,
                        creation,
                        keep: false,
                    };
                    return Ok((part, file));
                }
                Ok(_) => {}
                Err(source) if source.kind() == ErrorKind::AlreadyExists => {
                    match clear(&hidden, file_name) {
                        Ok(true) => continue,
                        Ok(false) => {
                            locked_by_others += 1;
                            if locked_by_others >= TRIES_AT_LOCK {
                                break;
                            }
                        }
                        Err(Obstacle::Kind(kind)) => {
                            return Err(OutError::NotOurs {
                                path: path(),
                                part: hidden.display().to_string(),
                                kind,
                            });
                        }
                        Err(Obstacle::Io(source)) => return Err(error(source)),
                    }
                }
                Err(source) => return Err(error(source)),
            }
            std::thread::sleep(BETWEEN_TRIES);
        }
        Err(OutError::Busy {
            path: path(),
            part: hidden.display().to_string(),
        })
    }

    /// Goes on with the hidden file for `name` that a killed run of this user left, with the mode and the group that
    /// are asked for now. `None` where there is none, or another process has it.
    pub fn adopt(name: PathBuf, creation: Creation) -> io::Result<Option<(Self, File)>> {
        let Some(file_name) = name.file_name() else {
            return Ok(None);
        };
        let hidden = name.with_file_name(names::hidden(file_name, names::PART));
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let mut options = OpenOptions::new();
        let file = match options.append(true).custom_flags(flags).open(&hidden) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let meta = file.metadata()?;
        let is_ours = meta.is_file() && meta.uid() == nix::unistd::geteuid().as_raw();
        if !is_ours || !lock(&file) || !is_at(&hidden, &file) {
            return Ok(None);
        }
        creation.give(&file)?;
        let part = Self {
            id: id_of(&meta),
            hidden,
            name,
            creation,
            keep: true,
        };
        Ok(Some((part, file)))
    }

    /// Opens the file once more, to be read from its beginning.
    pub fn reopen(&self, file: &File) -> io::Result<File> {
        let flags = OFlag::O_NOFOLLOW.bits();
        let again = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(&self.hidden)?;
        match id_of(&again.metadata()?) == id_of(&file.metadata()?) {
            true => Ok(again),
            false => Err(ErrorKind::NotFound.into()),
        }
    }

    /// Tells in one line what runs that were killed have left beside the output.
    pub fn tell_left_overs(&self) {
        let Some(name) = self.name.file_name() else {
            return;
        };
        let Ok(entries) = fs::read_dir(folder_of(&self.name)) else {
            return;
        };
        let mut left: Vec<(PathBuf, u64)> = entries
            .filter_map(Result::ok)
            .filter(|entry| names::is_left_over(&entry.file_name(), name))
            .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
            .filter(|(path, meta)| meta.is_file() && id_of(meta) != self.id && !is_locked(path))
            .map(|(path, meta)| (path, meta.len()))
            .collect();
        left.sort();
        if left.is_empty() {
            return;
        }
        let told = left.iter().take(TOLD_BY_NAME).map(|(path, len)| {
            let path = path.strip_prefix("./").unwrap_or(path).display();
            format!("{path} ({len} bytes)")
        });
        let mut told = told.collect::<Vec<_>>().join(", ");
        if let Some(more) = left
            .len()
            .checked_sub(TOLD_BY_NAME)
            .filter(|more| *more > 0)
        {
            let all: u64 = left.iter().map(|(_, len)| len).sum();
            told += &format!(" and {more} more, {all} bytes in {} files", left.len());
        }
        let name = self.name.display();
        tracing::warn!(
            "an earlier run was killed before it could finish {name}; what it wrote is kept: {told}. \
             Read or delete it"
        );
    }

    /// The name in messages.
    pub fn hidden(&self) -> String {
        self.hidden.display().to_string()
    }

    /// Gives the file, which is complete and synced, its name, `path` in messages. Tells where it is then.
    pub fn settle(mut self, file: &File, path: String, bytes: u64) -> Result<String, OutError> {
        self.keep = true;
        let part = self.hidden();
        match self.whereabouts(file) {
            Whereabouts::Hidden => match self.rename(file) {
                Ok(name) if name == self.name => Ok(path),
                Ok(name) => Ok(name.display().to_string()),
                Err(source) => Err(OutError::Finish { path, part, source }),
            },
            Whereabouts::Moved(place) => {
                let place = place.display().to_string();
                tracing::warn!("{part} was moved while it was written: it is finished as {place}");
                Ok(place)
            }
            Whereabouts::Gone => Err(OutError::Gone { path, part, bytes }),
        }
    }

    /// Leaves the file under its hidden name, or where it was moved to; `None` when it was deleted.
    pub fn leave(mut self, file: &File) -> Option<String> {
        self.keep = true;
        match self.whereabouts(file) {
            Whereabouts::Hidden => Some(self.hidden()),
            Whereabouts::Moved(place) => Some(place.display().to_string()),
            Whereabouts::Gone => None,
        }
    }

    /// The file may have been moved or deleted, and another one put in its place.
    fn whereabouts(&self, file: &File) -> Whereabouts {
        if is_at(&self.hidden, file) {
            return Whereabouts::Hidden;
        }
        match now_at(file) {
            Some(place) if is_at(&place, file) => {
                // Its directory is another one, perhaps.
                if let Err(source) = sync_folder(&place) {
                    tracing::debug!(%source, "the directory is not synced");
                }
                Whereabouts::Moved(place)
            }
            _ => Whereabouts::Gone,
        }
    }

    /// Whether the file stands under its hidden name.
    pub fn is_hidden(&self) -> bool {
        self.hidden
            .symlink_metadata()
            .is_ok_and(|meta| id_of(&meta) == self.id)
    }

    fn rename(&self, file: &File) -> io::Result<PathBuf> {
        let name = match self.creation.existing {
            Existing::Replace => {
                self.take_after_replaced(file);
                fs::rename(&self.hidden, &self.name)?;
                self.name.clone()
            }
            Existing::Keep => self.rename_beside(file)?,
        };
        sync_folder(&name)?;
        Ok(name)
    }

    /// Takes mode and owner of the file that is replaced, as writing into it would keep them.
    fn take_after_replaced(&self, file: &File) {
        let Ok(old) = self.name.symlink_metadata() else {
            return;
        };
        let Creation { mode, group, .. } = self.creation;
        if mode.is_some() || group.is_some() || !old.is_file() {
            return;
        }
        let changed = match file.metadata() {
            Ok(new) if (new.uid(), new.gid()) != (old.uid(), old.gid()) => {
                fchown(file, Some(old.uid()), Some(old.gid()))
            }
            _ => Ok(()),
        };
        let mode = Permissions::from_mode(old.mode() & 0o777);
        if let Err(source) = changed.and(file.set_permissions(mode)) {
            tracing::debug!(%source, "mode or owner of the file that is replaced cannot be kept");
        }
    }

    /// Renames over nothing but an empty file; what came there in the meantime keeps its name.
    fn rename_beside(&self, file: &File) -> io::Result<PathBuf> {
        let mut name = self.name.clone();
        loop {
            if is_empty_file(&name) {
                self.take_after_replaced(file);
                fs::rename(&self.hidden, &name)?;
                return Ok(name);
            }
            match rename_to_free(&self.hidden, &name) {
                Ok(()) => return Ok(name),
                Err(source) if source.kind() == ErrorKind::AlreadyExists => {}
                // A file system without hard links.
                Err(_) if !is_there(&name) => {
                    fs::rename(&self.hidden, &name)?;
                    return Ok(name);
                }
                Err(_) => {}
            }
            name = free_name(&self.name);
            let (given, name) = (self.name.display(), name.display());
            tracing::warn!(
                "{given} was made by another program meanwhile: this one becomes {name}"
            );
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.keep && self.is_hidden() {
            let _ = fs::remove_file(&self.hidden);
        }
    }
}

/// Renames to a name that nobody has. On Linux at once; elsewhere, and on file systems that cannot, the file has both
/// names for a moment.
fn rename_to_free(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use nix::errno::Errno;
        use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
        match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::EPERM) => {}
            renamed => return renamed.map_err(io::Error::from),
        }
    }
    fs::hard_link(from, to)?;
    fs::remove_file(from)
}

/// The name itself, or with the lowest number that is free where a file with content has it.
pub fn free_name(name: &Path) -> PathBuf {
    if !is_there(name) || is_empty_file(name) {
        return name.to_owned();
    }
    let file_name = name.file_name().unwrap_or_default();
    let numbered = |number| name.with_file_name(names::numbered(file_name, number));
    (1..)
        .map(numbered)
        .find(|name| !is_there(name))
        .unwrap_or_else(|| name.to_owned())
}

/// Makes the names in the directory of `path` last.
fn sync_folder(path: &Path) -> io::Result<()> {
    match File::open(folder_of(path)) {
        Ok(folder) => super::unless_unsupported(folder.sync_all()),
        // One that may be written to and not be read.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error),
    }
}

/// What stands where the hidden file belongs.
enum Obstacle {
    Kind(&'static str),
    Io(io::Error),
}

/// Moves aside what a killed run left as `hidden`, or removes it if it is empty. `false` when it is locked.
fn clear(hidden: &Path, file_name: &std::ffi::OsStr) -> Result<bool, Obstacle> {
    let gone = |error: io::Error| match error.kind() {
        ErrorKind::NotFound => Ok(true),
        _ => Err(Obstacle::Io(error)),
    };
    let meta = match hidden.symlink_metadata() {
        Ok(meta) => meta,
        Err(error) => return gone(error),
    };
    let kind = meta.file_type();
    if !kind.is_file() {
        return Err(Obstacle::Kind(match () {
            () if kind.is_symlink() => "a symbolic link",
            () if kind.is_fifo() => "a FIFO",
            () if kind.is_dir() => "a directory",
            () => "no regular file",
        }));
    }
    let left = match open_left(hidden) {
        Ok(left) => left,
        Err(error) => return gone(error),
    };
    if !lock(&left) {
        return Ok(false);
    }
    if is_at(hidden, &left) {
        let empty = left.metadata().is_ok_and(|meta| meta.len() == 0);
        let cleared = match empty {
            true => fs::remove_file(hidden),
            false => set_aside(hidden, file_name),
        };
        cleared.map_err(Obstacle::Io)?;
    }
    Ok(true)
}

/// Renames a left-over to the first free number behind it.
fn set_aside(hidden: &Path, file_name: &std::ffi::OsStr) -> io::Result<()> {
    for number in 1..10_000 {
        let aside = names::hidden(file_name, &format!("{}.{number}", names::PART));
        let aside = hidden.with_file_name(aside);
        if !is_there(&aside) {
            return fs::rename(hidden, &aside);
        }
    }
    Err(io::Error::new(
        ErrorKind::AlreadyExists,
        format!("too many left-over {}.N", hidden.display()),
    ))
}

fn new_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // Exclusive: never through a link, never into what is there.
    options.append(true).create_new(true).mode(MODE).open(path)
}

/// Opens a left-over for its lock. What is there may change at any time: a link is not followed, a FIFO
/// not waited for.
fn open_left(path: &Path) -> io::Result<File> {
    let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
    let append = OpenOptions::new()
        .append(true)
        .custom_flags(flags)
        .open(path);
    match append {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            OpenOptions::new().read(true).custom_flags(flags).open(path)
        }
        other => other,
    }
}

/// Takes the lock; `false` when another process has it.
fn lock(file: &File) -> bool {
    match file.try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock) => false,
        // Some network file systems have no locks; better to write than to refuse.
        Err(TryLockError::Error(source)) => {
            tracing::debug!(%source, "no file lock");
            true
        }
    }
}

/// Whether a run is still writing to it.
fn is_locked(path: &Path) -> bool {
    open_left(path).is_ok_and(|file| !lock(&file))
}

/// Whether `path` is a name of the open `file`.
fn is_at(path: &Path, file: &File) -> bool {
    let same = match (path.symlink_metadata(), file.metadata()) {
        (Ok(there), Ok(open)) => id_of(&there) == id_of(&open),
        _ => false,
    };
    // Some file systems in user space give one file several inode numbers; the kernel knows its name.
    same || now_at(file).is_some_and(|now| Some(now) == absolute(path))
}

/// The name by which the kernel knows an open file now; `None` when it was deleted.
fn now_at(file: &File) -> Option<PathBuf> {
    if file.metadata().is_ok_and(|meta| meta.nlink() == 0) {
        return None;
    }
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    Path::new(&link).read_link().ok()
}

fn absolute(path: &Path) -> Option<PathBuf> {
    let folder = folder_of(path).canonicalize().ok()?;
    Some(folder.join(path.file_name()?))
}

fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn is_empty_file(path: &Path) -> bool {
    path.symlink_metadata()
        .is_ok_and(|meta| meta.is_file() && meta.len() == 0)
}
