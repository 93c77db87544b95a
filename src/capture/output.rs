//! Where the records of a run go: into one file, or into the files of a store, and to those who look at it live.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::first_places::{FirstPlaces, Teller};
use super::store::captures::Store;
use super::store::holdings::Told;
use super::terms::Terms;
use super::view::Views;
use super::view::tee::Tees;
use super::writer::CaptureWriter;
use crate::outfile::{OutError, Standing};
use crate::pcap::record::Batch;

/// What an output that keeps nothing is called in messages.
const NOWHERE: &str = "the live views";

/// The capture of a run: where it is kept, and who looks at it live.
pub struct Output {
    kept: Kept,
    views: Option<Views>,
    /// Tells workers where first packets of flows lie, where they ask.
    teller: Option<Teller>,
}

/// Where records are kept.
enum Kept {
    /// Nowhere: they are only looked at.
    Nowhere,
    /// One file, pipe or device.
    File(Box<CaptureWriter>),
    /// Files that follow each other in a directory.
    Store(Box<Store>),
}

impl From<Kept> for Output {
    fn from(kept: Kept) -> Self {
        Self {
            kept,
            views: None,
            teller: None,
        }
    }
}

impl From<CaptureWriter> for Output {
    fn from(file: CaptureWriter) -> Self {
        Kept::File(Box::new(file)).into()
    }
}

impl From<Store> for Output {
    fn from(store: Store) -> Self {
        Kept::Store(Box::new(store)).into()
    }
}

impl Output {
    /// Keeps what `kept` keeps, or nothing, and shows it to `views`.
    pub fn viewed(kept: Option<Self>, views: Views) -> Self {
        Self {
            kept: kept.map_or(Kept::Nowhere, |output| output.kept),
            views: Some(views),
            teller: None,
        }
    }

    /// Whether records are kept at all.
    pub const fn is_kept(&self) -> bool {
        !matches!(self.kept, Kept::Nowhere)
    }

    /// Tells `workers` workers from now on, with nothing written yet, where first packets of flows lie. `None` where
    /// they lie in no file: records are not kept, or go to a pipe or a device.
    pub fn tell_firsts(&mut self, workers: usize) -> Option<Arc<FirstPlaces>> {
        let teller = match &mut self.kept {
            Kept::Nowhere => None,
            Kept::File(file) if file.file().is_direct() => None,
            Kept::File(file) => {
                let teller = Teller::new(workers, true);
                file.tell_firsts(teller.begin(file.file().path()));
                Some(teller)
            }
            Kept::Store(store) => {
                let teller = Teller::new(workers, false);
                store.tell_firsts(teller.clone());
                Some(teller)
            }
        };
        self.teller = teller;
        self.teller.as_ref().map(Teller::places)
    }

    /// The tees of the views.
    pub fn tees(&self) -> Option<&Arc<Tees>> {
        self.views.as_ref().map(Views::tees)
    }

    /// Writes records of `worker` in the order of `records`, which are places in the batch.
    pub fn append(&mut self, worker: usize, batch: &mut Batch, records: Range<usize>) {
        if let Some(views) = &mut self.views {
            views.append(worker, batch, records.clone());
        }
        match &mut self.kept {
            Kept::Nowhere => {
                batch.new_sessions.clear();
                batch.no_room.clear();
            }
            Kept::File(file) => file.append(worker, batch, records),
            Kept::Store(store) => store.append(worker, batch, records),
        }
    }

    /// Writes a block that is neither a packet nor describes an interface.
    pub fn put_block(&mut self, block: &[u8]) {
        if let Some(views) = &mut self.views {
            views.put_block(block);
        }
        match &mut self.kept {
            Kept::Nowhere => {}
            Kept::File(file) => file.put_block(block),
            Kept::Store(store) => store.put_block(block),
        }
    }

    /// Takes what a batch tells of frames that found no room in the queue.
    pub fn tell_no_room(&mut self, worker: usize, batch: &mut Batch) {
        if let Some(views) = &mut self.views {
            views.tell_no_room(worker, batch);
        }
        match &mut self.kept {
            Kept::Nowhere => {
                batch.new_sessions.clear();
                batch.no_room.clear();
            }
            Kept::File(file) => file.tell_no_room(worker, batch),
            Kept::Store(store) => store.tell_no_room(worker, batch),
        }
    }

    /// Writes what is gathered, so that it can be read.
    pub fn flush(&mut self) {
        if let Some(views) = &mut self.views {
            views.flush();
        }
        match &mut self.kept {
            Kept::Nowhere => {}
            Kept::File(file) => file.flush(),
            Kept::Store(store) => store.flush(),
        }
    }

    /// Looks whether the reader of a pipe has left.
    pub fn look_for_reader(&mut self) {
        if let Kept::File(file) = &mut self.kept {
            file.look_for_reader();
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
        if let Some(views) = &mut self.views {
            views.tick();
        }
        match &mut self.kept {
            Kept::Nowhere => {}
            Kept::File(file) => file.tick(now),
            Kept::Store(store) => store.tick(now, wall_ns(), kernel_dropped()),
        }
        if self.teller.as_ref().is_some_and(Teller::is_urged) {
            match &mut self.kept {
                Kept::Nowhere => {}
                Kept::File(file) => file.hurry_firsts(),
                Kept::Store(store) => store.hurry_firsts(),
            }
        }
    }

    /// Ends the files that are open, and goes on in others; one file goes on as it is.
    pub fn rotate(&mut self) {
        if let Kept::Store(store) = &mut self.kept {
            store.rotate();
        }
    }

    /// From now on it goes by other terms.
    pub fn change(&mut self, terms: &Terms) {
        if let Some(views) = &mut self.views {
            views.know(&terms.inventory);
        }
        match &mut self.kept {
            Kept::Nowhere => {}
            Kept::File(file) => file.know(&terms.inventory),
            Kept::Store(store) => store.change(terms),
        }
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        match &self.kept {
            Kept::Nowhere => Standing::default(),
            Kept::File(file) => file.file().standing(),
            Kept::Store(store) => store.standing(),
        }
    }

    /// Whether nothing is written, or not any more.
    pub const fn has_failed(&self) -> bool {
        match &self.kept {
            Kept::Nowhere => true,
            Kept::File(file) => file.file().has_failed(),
            Kept::Store(store) => store.has_failed(),
        }
    }

    /// What went wrong, once.
    pub const fn take_error(&mut self) -> Option<OutError> {
        match &mut self.kept {
            Kept::Nowhere => None,
            Kept::File(file) => file.take_error(),
            Kept::Store(store) => store.take_error(),
        }
    }

    /// Its name in messages.
    pub fn path(&self) -> &str {
        match &self.kept {
            Kept::Nowhere => NOWHERE,
            Kept::File(file) => file.file().path(),
            Kept::Store(store) => store.path(),
        }
    }

    /// Counts what is brought to the disk at the end.
    pub fn synced(&self) -> Arc<AtomicU64> {
        match &self.kept {
            Kept::Nowhere => Arc::default(),
            Kept::File(file) => file.file().synced(),
            Kept::Store(store) => store.synced(),
        }
    }

    /// Where a store tells what it holds.
    pub fn holdings(&self) -> Option<Told> {
        match &self.kept {
            Kept::Nowhere | Kept::File(_) => None,
            Kept::Store(store) => Some(store.holdings()),
        }
    }

    /// No more will come: what is on its way to a file is written, and a store ends its files. `kernel_dropped`
    /// datagrams were lost before they could be received.
    pub fn close(&mut self, kernel_dropped: u64) {
        self.flush();
        if let Some(views) = &mut self.views {
            views.close();
        }
        match &mut self.kept {
            Kept::Nowhere => {}
            Kept::File(file) => _ = file.settle(0),
            Kept::Store(store) => store.close(kernel_dropped),
        }
    }

    /// Ends it, and tells where it is and its bytes.
    ///
    /// # Errors
    ///
    /// When a file cannot be given its name; the message says where it is.
    pub fn finish(self, kernel_dropped: u64) -> Result<(String, u64), OutError> {
        match self.kept {
            Kept::Nowhere => Ok((NOWHERE.to_owned(), 0)),
            Kept::File(file) => file.finish(kernel_dropped),
            Kept::Store(store) => Ok((store.path().to_owned(), store.standing().bytes)),
        }
    }
}
