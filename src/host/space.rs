//! How much room file systems have.

use std::path::Path;

/// The room of a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// A directory on it.
    pub path: String,
    /// Bytes that this process may still use.
    pub free: u64,
    /// All its bytes.
    pub size: u64,
}

impl Disk {
    /// Of the file system that `directory` is on; `None` where the system does not tell. A file system of the network may
    /// keep whoever asks waiting.
    #[cfg(unix)]
    pub fn of(directory: &Path) -> Option<Self> {
        let told = nix::sys::statvfs::statvfs(directory).ok()?;
        let unit = u128::from(told.fragment_size());
        let bytes = |blocks: u128| u64::try_from(blocks * unit).unwrap_or(u64::MAX);
        Some(Self {
            path: directory.display().to_string(),
            free: bytes(told.blocks_available().into()),
            size: bytes(told.blocks().into()),
        })
    }

    /// Other systems do not tell.
    #[cfg(not(unix))]
    pub fn of(_: &Path) -> Option<Self> {
        None
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_has_room() {
        let disk = Disk::of(Path::new("/")).unwrap();
        assert_eq!(disk.path, "/");
        assert!(disk.size > 0 && disk.free <= disk.size, "{disk:?}");
        assert_eq!(Disk::of(Path::new("/no/such/directory")), None);
    }
}
