//! Where the records of a run go: into one file, or into the files of a store.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::store::captures::Store;
use super::writer::CaptureWriter;
use crate::outfile::{OutError, Standing};
use crate::pcap::record::Batch;

/// The capture of a run.
pub enum Output {
    /// One file, pipe or device.
    File(Box<CaptureWriter>),
    /// Files that follow each other in a directory.
    Store(Box<Store>),
}

impl From<CaptureWriter> for Output {
    fn from(file: CaptureWriter) -> Self {
        Self::File(Box::new(file))
    }
}

impl From<Store> for Output {
    fn from(store: Store) -> Self {
        Self::Store(Box::new(store))
    }
}

impl Output {
    /// Writes records of `worker` in the order of `records`, which are places in the batch.
    pub fn append(&mut self, worker: usize, batch: &mut Batch, records: Range<usize>) {
        match self {
            Self::File(file) => file.append(worker, batch, records),
            Self::Store(store) => store.append(worker, batch, records),
        }
    }

    /// Writes a block that is neither a packet nor describes an interface.
    pub fn put_block(&mut self, block: &[u8]) {
        match self {
            Self::File(file) => file.put_block(block),
            Self::Store(store) => store.put_block(block),
        }
    }

    /// Takes what a batch tells of frames that found no room in the queue.
    pub fn tell_no_room(&mut self, worker: usize, batch: &mut Batch) {
        match self {
            Self::File(file) => file.tell_no_room(worker, batch),
            Self::Store(store) => store.tell_no_room(worker, batch),
        }
    }

    /// Writes what is gathered, so that it can be read.
    pub fn flush(&mut self) {
        match self {
            Self::File(file) => file.flush(),
            Self::Store(store) => store.flush(),
        }
    }

    /// Does what is due at `now`, since any fixed moment; `wall_ns` tells the nanoseconds since 1970, and
    /// `kernel_dropped` how many datagrams the kernel has dropped.
    pub fn tick(
        &mut self,
        now: Duration,
        wall_ns: impl FnOnce() -> u64,
        kernel_dropped: impl FnOnce() -> u64,
    ) {
        if let Self::Store(store) = self {
            store.tick(now, wall_ns(), kernel_dropped());
        }
    }

    /// Ends the files that are open, and goes on in others; one file goes on as it is.
    pub fn rotate(&mut self) {
        if let Self::Store(store) = self {
            store.rotate();
        }
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        match self {
            Self::File(file) => file.file().standing(),
            Self::Store(store) => store.standing(),
        }
    }

    /// Whether nothing is written any more.
    pub const fn has_failed(&self) -> bool {
        match self {
            Self::File(file) => file.file().has_failed(),
            Self::Store(store) => store.has_failed(),
        }
    }

    /// What went wrong, once.
    pub const fn take_error(&mut self) -> Option<OutError> {
        match self {
            Self::File(file) => file.take_error(),
            Self::Store(store) => store.take_error(),
        }
    }

    /// Its name in messages.
    pub fn path(&self) -> &str {
        match self {
            Self::File(file) => file.file().path(),
            Self::Store(store) => store.path(),
        }
    }

    /// Counts what is brought to the disk at the end.
    pub fn synced(&self) -> Arc<AtomicU64> {
        match self {
            Self::File(file) => file.file().synced(),
            Self::Store(store) => store.synced(),
        }
    }

    /// No more will come: a store ends its files. `kernel_dropped` datagrams were lost before they could be
    /// received.
    pub fn close(&mut self, kernel_dropped: u64) {
        self.flush();
        if let Self::Store(store) = self {
            store.close(kernel_dropped);
        }
    }

    /// Ends it, and tells where it is and its bytes.
    ///
    /// # Errors
    ///
    /// When a file cannot be given its name; the message says where it is.
    pub fn finish(self, kernel_dropped: u64) -> Result<(String, u64), OutError> {
        match self {
            Self::File(file) => file.finish(kernel_dropped),
            Self::Store(store) => Ok((store.path().to_owned(), store.standing().bytes)),
        }
    }
}
