//! What a path stands for: which file, which open descriptor, or which name that is still free.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Links that are followed before it is given up, as many as Linux follows.
const MOST_LINKS: usize = 40;

/// A file, whatever its names: device and inode.
pub type FileId = (u64, u64);

/// The file that `meta` describes.
pub fn id_of(meta: &Metadata) -> FileId {
    (meta.dev(), meta.ino())
}

/// Whether what is written to `a` and to `b` (`-` is standard output) ends up in the same place: a file, a
/// pipe, an open descriptor. Terminals and /dev/null can be given twice by their names.
pub fn same_output(a: &Path, b: &Path) -> bool {
    let (a, b) = (Place::of_output(a), Place::of_output(b));
    (a.descriptor.is_some() && a.descriptor == b.descriptor) || a.is(&b)
}

/// Whether `output` (`-` is standard output) is the file or pipe that `input` (`-` is standard input) is
/// read from. A socket or a terminal can be both.
pub fn is_input(output: &Path, input: &Path) -> bool {
    let input = match input == Path::new("-") {
        true => Place::standard(io::stdin().as_fd().try_clone_to_owned(), "0"),
        false => Place::of_path(input),
    };
    let output = Place::of_output(output);
    !output.is_socket && output.is(&input)
}

/// What a path stands for.
#[derive(Default)]
struct Place {
    /// A descriptor of this process.
    descriptor: Option<String>,
    /// The file that is there; character devices are left out.
    file: Option<FileId>,
    is_socket: bool,
    /// Nothing is there: the directory, and the name in it.
    free: Option<(FileId, OsString)>,
}

impl Place {
    fn of_output(path: &Path) -> Self {
        match path == Path::new("-") {
            true => Self::standard(io::stdout().as_fd().try_clone_to_owned(), "1"),
            false => Self::of_path(path),
        }
    }

    fn standard(file: io::Result<impl Into<File>>, number: &str) -> Self {
        let mut place = Self::default();
        if let Ok(meta) = file.and_then(|file| file.into().metadata()) {
            place.is_there(&meta);
        }
        place.descriptor = Some(number.to_owned());
        place
    }

    fn of_path(path: &Path) -> Self {
        let mut place = Self {
            descriptor: open_descriptor(path),
            ..Self::default()
        };
        match path.metadata() {
            Ok(meta) => place.is_there(&meta),
            Err(_) => place.free = free_name(path),
        }
        place
    }

    fn is_there(&mut self, meta: &Metadata) {
        let kind = meta.file_type();
        self.file = (!kind.is_char_device()).then(|| id_of(meta));
        self.is_socket = kind.is_socket();
    }

    fn is(&self, other: &Self) -> bool {
        (self.file.is_some() && self.file == other.file)
            || (self.free.is_some() && self.free == other.free)
    }
}

/// The directory in which `path` would be made, and its name there.
fn free_name(path: &Path) -> Option<(FileId, OsString)> {
    let path = end_of_links(path).ok()?;
    let name = path.file_name()?.to_owned();
    let folder = folder_of(&path).metadata().ok()?;
    Some((id_of(&folder), name))
}

/// The directory that `path` is in.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Where a path leads through links; the last file need not be there.
pub fn end_of_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        match path.read_link() {
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("too many links"))
}

/// The number of a descriptor of this process that `path` is a name for: /dev/stdout, /dev/fd/3.
pub fn open_descriptor(path: &Path) -> Option<String> {
    let own = format!("/proc/{}/fd", std::process::id());
    let folders = ["/proc/self/fd", "/dev/fd", own.as_str()];
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        if folders.iter().any(|open| folder == Path::new(open)) {
            return path
                .file_name()
                .map(|number| number.to_string_lossy().into_owned());
        }
        match path.read_link() {
            Ok(target) => path = folder.join(target),
            Err(_) => return missing_link(&path).map(str::to_owned),
        }
    }
    None
}

/// What the names of the standard streams mean where `/dev` has been made without them: a file of that name would
/// be made in their place.
fn missing_link(path: &Path) -> Option<&'static str> {
    let links = [("stdin", "0"), ("stdout", "1"), ("stderr", "2")];
    let name = path.strip_prefix("/dev").ok()?;
    let mut meant = links.iter().filter(|(link, _)| name == Path::new(link));
    meant
        .next()
        .filter(|_| !path.exists())
        .map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_by_several_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir(path("folder")).unwrap();
        std::fs::write(path("there"), "").unwrap();
        std::fs::hard_link(path("there"), path("hard")).unwrap();
        std::os::unix::fs::symlink("there", path("soft")).unwrap();
        std::os::unix::fs::symlink("free", path("to-free")).unwrap();
        for (a, b, same) in [
            ("there", "hard", true),
            ("there", "soft", true),
            ("free", "folder/../free", true),
            ("free", "to-free", true),
            ("free", "other", false),
            ("there", "free", false),
            ("folder/free", "free", false),
        ] {
            assert_eq!(same_output(&path(a), &path(b)), same, "{a} {b}");
            assert_eq!(is_input(&path(a), &path(b)), same, "{a} {b}");
        }
    }

    #[test]
    fn descriptors_and_devices() {
        let same = |a: &str, b: &str| same_output(a.as_ref(), b.as_ref());
        for name in ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
            assert!(same(name, "-"), "{name}");
            assert!(same("/dev/stdout", name), "{name}");
        }
        assert!(same("/dev/fd/17", "/proc/self/fd/17"));
        assert!(!same("/dev/null", "/dev/null"));
        assert!(!same("/dev/fd/17", "/dev/fd/18"));
    }
}
