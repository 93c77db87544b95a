//! Capabilities (capabilities(7)): all go, but for those without which files could not be written where this run
//! writes them.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use caps::{CapSet, Capability, CapsHashSet};
use nix::unistd::{getegid, geteuid, getgroups};

use super::Needs;

/// Capabilities that a run keeps.
pub struct Kept(CapsHashSet);

impl Kept {
    /// Those that `needs` cannot do without: as root, to write into a directory that belongs to somebody else.
    pub fn needed(needs: &Needs) -> Self {
        let right = Capability::CAP_DAC_OVERRIDE;
        let has = caps::has_cap(None, CapSet::Effective, right).unwrap_or(false);
        let is_needed = has && needs.write.iter().any(|dir| !is_writable(dir));
        Self(is_needed.then_some(right).into_iter().collect())
    }

    /// Gives up all others, for this thread and those that it starts.
    ///
    /// # Errors
    ///
    /// In words.
    pub fn drop_others(&self) -> Result<(), String> {
        let in_words = |error: caps::errors::CapsError| format!("capabilities are kept: {error}");
        // Only who may change the bounding set can make it smaller; without new privileges it gives nobody any.
        if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).unwrap_or(false) {
            for right in caps::all() {
                if !self.0.contains(&right) {
                    let _ = caps::drop(None, CapSet::Bounding, right);
                }
            }
        }
        // A kernel without the ambient set (before 4.3) has none to give up.
        let _ = caps::clear(None, CapSet::Ambient);
        caps::clear(None, CapSet::Inheritable).map_err(in_words)?;
        caps::set(None, CapSet::Effective, &self.0).map_err(in_words)?;
        caps::set(None, CapSet::Permitted, &self.0).map_err(in_words)
    }

    /// What is left, in words.
    pub fn in_words(&self) -> String {
        match self.0.is_empty() {
            true => "no capabilities".to_owned(),
            false => {
                let names: Vec<String> = self.0.iter().map(ToString::to_string).collect();
                format!(
                    "no capabilities but {}, since an output directory belongs to another user",
                    names.join(", ")
                )
            }
        }
    }
}

/// Whether this user could write into `dir` without any capability. Access lists (acl(5)) are not looked at.
fn is_writable(dir: &Path) -> bool {
    let Ok(meta) = dir.metadata() else {
        return false;
    };
    may_write(&meta)
}

fn may_write(meta: &Metadata) -> bool {
    const WRITE_AND_SEARCH: u32 = 0o3;
    let groups = getgroups().unwrap_or_default();
    let is_in_group =
        meta.gid() == getegid().as_raw() || groups.iter().any(|group| group.as_raw() == meta.gid());
    let bits = match () {
        () if meta.uid() == geteuid().as_raw() => meta.mode() >> 6,
        () if is_in_group => meta.mode() >> 3,
        () => meta.mode(),
    };
    bits & WRITE_AND_SEARCH == WRITE_AND_SEARCH
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn who_may_write_without_a_capability() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_writable(dir.path()));
        for (mode, writable) in [(0o700, true), (0o300, true), (0o500, false), (0o077, false)] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_writable(dir.path()), writable, "{mode:o}");
        }
        assert!(!is_writable(Path::new("/there/is/no/such/place")));
    }
}
