//! Packets into the capture files of a store.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::holdings::Told;
use super::rolling::{Class, Content, Ended, OpenFile, Plan, Rolling, Split, StoreError};
use super::rotation::Reason;
use crate::capture::first_places::Teller;
use crate::capture::terms::Terms;
use crate::capture::writer::{CaptureWriter, Sessions};
use crate::mirror::session::SessionId;
use crate::outfile::{ItemFile, OutError, Standing};
use crate::pcap::record::{Batch, Format};

/// The capture files of one store being written.
pub struct Store {
    files: Rolling<CaptureWriter>,
    format: Format,
    sessions: Sessions,
    /// Secrets and names, which every file has to have before its packets.
    blocks: Vec<u8>,
    /// Tells workers where first packets of flows lie, where they ask.
    teller: Option<Teller>,
}

impl Store {
    /// Opens the store in `dir`, which is made where it is not there, and finishes what killed runs left.
    ///
    /// # Errors
    ///
    /// When the directory cannot be written to, or the system has no thread.
    pub fn open(dir: &Path, plan: Plan, format: Format, now_ns: u64) -> Result<Self, StoreError> {
        Ok(Self {
            files: Rolling::open(dir, plan, now_ns)?,
            format,
            sessions: Sessions::default(),
            blocks: Vec::new(),
            teller: None,
        })
    }

    /// Has workers told from now on where first packets of flows lie.
    pub fn tell_firsts(&mut self, teller: Teller) {
        self.teller = Some(teller);
    }

    /// See [`CaptureWriter::hurry_firsts`].
    pub fn hurry_firsts(&mut self) {
        for file in self.files.open.values_mut() {
            file.writer.hurry_firsts();
        }
    }

    /// Writes records of `worker` in the order of `records`, which are places in the batch.
    pub fn append(&mut self, worker: usize, batch: &mut Batch, records: Range<usize>) {
        self.tell_no_room(worker, batch);
        self.introduce(worker, batch);
        let (mut at, end) = (records.start, records.end);
        while at < end {
            // None when a file has ended first: the next one takes a record of any size.
            at += self.append_some(worker, batch, at..end);
        }
    }

    /// Writes as many of the records as go to one file, and tells how many.
    fn append_some(&mut self, worker: usize, batch: &mut Batch, records: Range<usize>) -> usize {
        let facts = batch.records.get(records.clone()).unwrap_or_default();
        let Some(first) = facts.first() else {
            return records.len();
        };
        let Self {
            files,
            format,
            sessions,
            blocks,
            teller,
        } = self;
        let split = files.plan.split;
        let class = class(split, sessions, worker, first.session);
        let same = facts.iter();
        let mut same = same.take_while(|record| {
            split == Split::None || class == self::class(split, sessions, worker, record.session)
        });
        let has_index = files.plan.keeping.index;
        let ready = files.is_ready(class, first.ts_ns, first.len.into(), |file, about| {
            let teller = teller.as_ref();
            let firsts = teller.map(|teller| teller.begin(file.path()));
            let mut writer = CaptureWriter::begin(file, *format, about, sessions.anew())?;
            if has_index {
                writer.keep_index();
            }
            if let Some(firsts) = firsts {
                writer.tell_firsts(firsts);
            }
            writer.put_block(blocks);
            Ok(writer)
        });
        if !ready {
            let lost = same.count();
            files.lose(lost as u64);
            if let Some(teller) = teller {
                let lost = facts.iter().take(lost);
                let begun = lost.filter_map(|record| record.begun(&batch.begun, batch.base));
                teller.lose(worker, begun);
            }
            return lost;
        }
        // There is room kept for one more interface: a record that needs another one waits for its turn.
        let open = files.open.get(&class);
        let mut new = 0;
        let next = || {
            let record = same.next()?;
            let is_known =
                |file: &OpenFile<CaptureWriter>| file.writer.has_described(worker, record.session);
            new += u32::from(!open.is_some_and(is_known));
            (new < 2).then_some((record.ts_ns, record.len.into()))
        };
        let fitting = files.fitting(class, next);
        if let Some(reason) = fitting.ends {
            if reason != Reason::Size || !files.settle(class) {
                files.end_file(class, reason);
            }
            return 0;
        }
        let Some(file) = files.take(class, &fitting) else {
            return 0;
        };
        let chosen = records.start..records.start + fitting.items;
        file.writer.append(worker, batch, chosen);
        if file.writer.file().has_failed() {
            files.fail(class);
        }
        fitting.items
    }

    /// Writes a block that is neither a packet nor describes an interface, into every file from now on.
    pub fn put_block(&mut self, block: &[u8]) {
        for file in self.files.open.values_mut() {
            file.writer.put_block(block);
        }
        self.blocks.extend_from_slice(block);
    }

    /// Takes what a batch tells of frames that found no room in the queue.
    pub fn tell_no_room(&mut self, worker: usize, batch: &mut Batch) {
        if batch.no_room.is_empty() {
            return;
        }
        self.introduce(worker, batch);
        for (id, frames) in std::mem::take(&mut batch.no_room) {
            let class = class(self.files.plan.split, &self.sessions, worker, id);
            self.files.note_no_room(class, frames);
            if let Some(file) = self.files.open.get_mut(&class) {
                file.writer.count_no_room(worker, id, frames);
            }
        }
    }

    fn introduce(&mut self, worker: usize, batch: &mut Batch) {
        if batch.new_sessions.is_empty() {
            return;
        }
        self.sessions.introduce(worker, &batch.new_sessions);
        for file in self.files.open.values_mut() {
            file.writer.introduce(worker, &batch.new_sessions);
        }
        batch.new_sessions.clear();
    }

    /// Its directory, in messages.
    pub fn path(&self) -> &str {
        self.files.path()
    }

    /// Writes what is gathered, so that it can be read.
    pub fn flush(&mut self) {
        self.files.flush();
    }

    /// Does what is due at `now`, since any fixed moment, and `wall_ns`, nanoseconds since 1970. `kernel_dropped`
    /// datagrams were lost so far.
    pub fn tick(&mut self, now: Duration, wall_ns: u64, kernel_dropped: u64) {
        self.files.note_kernel_dropped(kernel_dropped);
        self.files.tick(now, wall_ns);
    }

    /// Ends the files that are open, and goes on in others.
    pub fn rotate(&mut self) {
        self.files.end_all(Reason::Asked);
    }

    /// From now on the files go by other terms.
    pub fn change(&mut self, terms: &Terms) {
        for file in self.files.open.values_mut() {
            file.writer.know(&terms.inventory);
        }
        self.files.change(terms);
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        self.files.standing()
    }

    /// Counts bytes that are brought to the disk.
    pub fn synced(&self) -> Arc<AtomicU64> {
        self.files.synced()
    }

    /// Where is told what it holds.
    pub fn holdings(&self) -> Told {
        self.files.holdings()
    }

    /// Whether nothing is written any more.
    pub const fn has_failed(&self) -> bool {
        self.files.has_failed()
    }

    /// What ends the run, once.
    pub const fn take_error(&mut self) -> Option<OutError> {
        self.files.take_error()
    }

    /// Ends every file and waits for it. `kernel_dropped` datagrams were lost in the whole run.
    pub fn close(&mut self, kernel_dropped: u64) {
        self.files.note_kernel_dropped(kernel_dropped);
        self.files.close();
    }
}

impl Content for CaptureWriter {
    fn file(&self) -> &ItemFile {
        self.file()
    }

    fn take_error(&mut self) -> Option<OutError> {
        self.take_error()
    }

    fn flush(&mut self) {
        self.flush();
    }

    fn settle(&mut self, least: u64) -> bool {
        self.settle(least)
    }

    fn tick(&mut self, now: Duration) {
        self.tick(now);
    }

    fn sync(&mut self) -> Result<(), OutError> {
        self.sync()
    }

    fn bytes_at_end(&self) -> u64 {
        self.bytes_at_end()
    }

    fn bytes_beside(&self) -> u64 {
        self.bytes_beside()
    }

    fn end(self, kernel_dropped: u64) -> Result<Ended, OutError> {
        self.end(kernel_dropped)
    }
}

/// Which file a packet goes to.
fn class(split: Split, sessions: &Sessions, worker: usize, id: SessionId) -> Class {
    if split == Split::None {
        return Class::All;
    }
    let key = sessions.key(worker, id);
    match (split, key.mirror()) {
        (Split::Vni, Some((_, vni))) => Class::Vni(vni.as_u32()),
        (Split::Source, Some((source, _))) => Class::Source(source),
        _ => Class::Session(key),
    }
}
