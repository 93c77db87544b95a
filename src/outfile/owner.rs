//! Whose files are: mode and group, given through the open file before it gets its name.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use nix::fcntl::OFlag;

use super::{Creation, Existing};

/// Mode of files where nothing else is asked for: what was mirrored is nobody else's business.
pub const MODE: u32 = 0o600;
/// Mode of files that are given to a group, where no other is asked for.
const GROUP_MODE: u32 = 0o640;
/// Mode of directories until they have the one asked for.
const DIRECTORY_MODE: u32 = 0o700;

impl Creation {
    /// As was asked for: with a group and no mode, the group may read.
    pub fn asked(mode: Option<u32>, group: Option<u32>, existing: Existing) -> Self {
        Self {
            mode: mode.or(group.map(|_| GROUP_MODE)),
            group,
            existing,
        }
    }

    /// Mode of directories that are made: whoever may read a file there may list and enter it.
    pub const fn directory_mode(self) -> u32 {
        match self.mode {
            None => DIRECTORY_MODE,
            Some(mode) => DIRECTORY_MODE | (mode & 0o066) | ((mode & 0o044) >> 2),
        }
    }

    /// Gives `file` the group and then the mode that are asked for: no other group can read it in between.
    ///
    /// # Errors
    ///
    /// When it cannot have the group, or, where a group is asked for, the mode.
    pub fn give(self, file: &File) -> io::Result<()> {
        self.give_with(file, self.mode)
    }

    fn give_with(self, file: &File, mode: Option<u32>) -> io::Result<()> {
        if let Some(group) = self.group {
            fchown(file, None, Some(group)).map_err(|error| {
                let told = format!(
                    "it cannot be given to the group {group} (--group): {error}; some file systems have no groups"
                );
                io::Error::new(error.kind(), told)
            })?;
        }
        let Some(mode) = mode else {
            return Ok(());
        };
        match file.set_permissions(Permissions::from_mode(mode)) {
            Err(source) if self.group.is_none() => {
                tracing::debug!(%source, "no file mode");
                Ok(())
            }
            given => given,
        }
    }
}

/// Makes a directory, and those above it, where they are not there: with the group and the mode that fit those of the
/// files. One that is there stays as it is.
///
/// # Errors
///
/// As mkdir(2), also where a file has the name, and as [`Creation::give`].
pub fn make_directory(dir: &Path, creation: Creation) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    let mut make = || builder.mode(DIRECTORY_MODE).create(dir);
    let made = match make() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let above = dir.parent().filter(|above| *above != Path::new(""));
            make_directory(above.ok_or(error)?, creation)?;
            make()
        }
        made => made,
    };
    match made {
        // What is readable by nobody else needs nothing more.
        Ok(()) if creation.mode.is_none() && creation.group.is_none() => Ok(()),
        Ok(()) => creation.give_with(&open_directory(dir)?, Some(creation.directory_mode())),
        Err(_) if dir.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// The directory itself, never where a link leads that was put in its place.
fn open_directory(dir: &Path) -> io::Result<File> {
    let flags = (OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits();
    OpenOptions::new().read(true).custom_flags(flags).open(dir)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn of_mode(mode: Option<u32>) -> Creation {
        Creation::asked(mode, None, Existing::Replace)
    }

    #[test]
    fn a_group_may_read_what_it_is_given() {
        let mode = |mode, group| Creation::asked(mode, group, Existing::Replace).mode;
        assert_eq!(mode(None, None), None);
        assert_eq!(mode(None, Some(7)), Some(0o640));
        assert_eq!(mode(Some(0o600), Some(7)), Some(0o600));
    }

    #[test]
    fn who_reads_files_enters_directories() {
        for (files, directories) in [
            (None, 0o700),
            (Some(0o600), 0o700),
            (Some(0o640), 0o750),
            (Some(0o660), 0o770),
            (Some(0o644), 0o755),
            (Some(0o440), 0o750),
            (Some(0o620), 0o720),
            (Some(0o751), 0o750),
            (Some(0), 0o700),
        ] {
            let mode = of_mode(files).directory_mode();
            assert_eq!(mode, directories, "{files:?}: {mode:o}");
        }
    }

    #[test]
    fn directories_that_are_made_have_the_mode_and_others_keep_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let mode = |name: &str| path(name).metadata().unwrap().mode() & 0o7777;
        let above = mode("");
        make_directory(&path("a/b/c"), of_mode(Some(0o640))).unwrap();
        assert_eq!(
            (mode("a"), mode("a/b"), mode("a/b/c")),
            (0o750, 0o750, 0o750)
        );
        assert_eq!(mode(""), above, "it was there");
        make_directory(&path("a/b"), of_mode(Some(0o644))).unwrap();
        assert_eq!(mode("a/b"), 0o750, "it was there");
        make_directory(&path("private/"), of_mode(None)).unwrap();
        assert_eq!(mode("private"), 0o700);
        std::fs::write(path("file"), "").unwrap();
        let error = make_directory(&path("file"), of_mode(None)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        let error = make_directory(&path("file/below"), of_mode(None)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotADirectory);
        std::os::unix::fs::symlink(path("private"), path("link")).unwrap();
        make_directory(&path("link/below"), of_mode(Some(0o640))).unwrap();
        assert_eq!((mode("private"), mode("private/below")), (0o700, 0o750));
    }
}
