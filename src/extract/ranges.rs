//! Some ranges of a file read as if they were all of it, and every byte counted.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The ranges of a file, one behind the other.
pub struct Ranges {
    file: File,
    /// Place and length, in their order.
    ranges: Arc<[(u64, u64)]>,
    /// The one being read, and the bytes of it that were.
    at: usize,
    within: u64,
    read: Arc<AtomicU64>,
}

impl Ranges {
    /// Reads `ranges` of `file`, and counts what is read in `read`.
    pub const fn new(file: File, ranges: Arc<[(u64, u64)]>, read: Arc<AtomicU64>) -> Self {
        Self {
            file,
            ranges,
            at: 0,
            within: 0,
            read,
        }
    }
}

impl Read for Ranges {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some((at, len)) = self.ranges.get(self.at).copied() {
            let left = len - self.within;
            let most = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            if left == 0 {
                (self.at, self.within) = (self.at + 1, 0);
                continue;
            }
            let buffer = buffer.get_mut(..most).unwrap_or_default();
            let read = self.file.read_at(buffer, at + self.within)?;
            self.within += read as u64;
            self.read.fetch_add(read as u64, Ordering::Relaxed);
            if read == 0 && most > 0 {
                // The file is shorter than it was.
                self.at = self.ranges.len();
            }
            return Ok(read);
        }
        Ok(0)
    }
}

/// Where in the file something is that comes so many bytes into its ranges; asked for in order.
pub struct Cursor {
    ranges: Arc<[(u64, u64)]>,
    at: usize,
    before: u64,
    /// Bytes of the ranges that were not there.
    left_out: u64,
}

impl Cursor {
    /// At the first byte.
    pub const fn new(ranges: Arc<[(u64, u64)]>) -> Self {
        Self {
            ranges,
            at: 0,
            before: 0,
            left_out: 0,
        }
    }

    /// So many bytes of the ranges do not come: those behind what was asked for last.
    pub const fn leave_out(&mut self, bytes: u64) {
        self.left_out += bytes;
    }

    /// The place of what comes `offset` bytes into the ranges.
    pub fn place(&mut self, offset: u64) -> u64 {
        let offset = offset + self.left_out;
        while let Some((at, len)) = self.ranges.get(self.at) {
            let within = offset.saturating_sub(self.before);
            // Behind the last one is what was unpacked.
            if within < *len || self.at + 1 == self.ranges.len() {
                return at + within;
            }
            self.before += len;
            self.at += 1;
        }
        offset
    }
}
