//! A file of items, packets or records, in which each is whole or not at all, with the count of both.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::{OutError, OutFile};

/// How a file stands: what became of the items that were there for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Items in the file.
    pub written: u64,
    /// Items that could not be written.
    pub lost: u64,
    /// Items that the disk of a store did not take.
    pub disk: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// A file of items being written.
pub struct ItemFile {
    out: OutFile,
    written: u64,
    lost: u64,
    error: Option<OutError>,
    has_failed: bool,
}

impl ItemFile {
    /// With nothing but what `out` holds already, a header say.
    pub const fn new(out: OutFile) -> Self {
        Self {
            out,
            written: 0,
            lost: 0,
            error: None,
            has_failed: false,
        }
    }

    /// Writes `bytes`, which hold so many items. Where the disk takes only the first bytes of them, the file is
    /// cut back to its last whole item: `whole` tells of `bytes` how many bytes and items are whole in the first
    /// so many. The failure is kept for [`Self::take_error`], and later items are lost.
    pub fn write(
        &mut self,
        bytes: &[u8],
        items: u64,
        whole: impl FnOnce(&[u8], usize) -> (usize, u64),
    ) {
        if self.has_failed {
            self.lost += items;
            return;
        }
        let before = self.out.bytes();
        let mut kept = items;
        if let Err(error) = self.out.write(bytes) {
            let taken = usize::try_from(self.out.bytes() - before).unwrap_or(usize::MAX);
            let (len, whole_items) = whole(bytes, taken);
            kept = whole_items;
            self.has_failed = true;
            self.error = Some(error);
            if let Err(error) = self.out.cut_to(before + len as u64) {
                tracing::warn!(%error, "a half-written record stays at the end");
            }
        }
        self.written += kept;
        self.lost += items - kept;
    }

    /// Counts items that there was no point in writing any more.
    pub const fn lose(&mut self, items: u64) {
        self.lost += items;
    }

    /// Its name in messages.
    pub fn path(&self) -> &str {
        self.out.path()
    }

    /// Counts bytes brought to the disk at the end; see [`OutFile::synced`].
    pub fn synced(&self) -> Arc<AtomicU64> {
        self.out.synced()
    }

    /// How it stands.
    pub const fn standing(&self) -> Standing {
        Standing {
            written: self.written,
            lost: self.lost,
            disk: 0,
            bytes: self.out.bytes(),
        }
    }

    /// Whether something went wrong: nothing is written any more.
    pub const fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// What went wrong, once.
    pub const fn take_error(&mut self) -> Option<OutError> {
        self.error.take()
    }

    /// Brings what was written to the disk.
    ///
    /// # Errors
    ///
    /// As the system says.
    pub fn sync(&mut self) -> Result<(), OutError> {
        self.out.sync()
    }

    /// The file itself, to be ended.
    pub fn into_out(self) -> OutFile {
        self.out
    }
}
