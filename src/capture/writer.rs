//! One capture file on its way to the disk: records of all workers in, in their final order; sections, bytes
//! and what could not be written out.
//!
//! Only this half of the room touches the disk.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::first_places::FileFirsts;
use super::store::index::{self, Builder};
use super::store::rolling::Ended;
use crate::mirror::inventory::Inventory;
use crate::mirror::session::SessionId;
use crate::mirror::session_key::SessionKey;
use crate::outfile::packed::Packing;
use crate::outfile::{Creation, ItemFile, OutError, OutFile};
use crate::pcap::record::{
    BATCH_LEN, Batch, EPB_INTERFACE_AT, Format, Keys, NewSession, RecordFacts,
};
use crate::pcap::section::{About, Section, whole_prefix};
use crate::stop::Stop;
use crate::wire::decapsulate::Tunnel;

/// Pieces from this size on are written at once, smaller ones are put together first.
const WRITE_AT_ONCE: usize = 32 << 10;

/// A session of a worker.
#[derive(Clone, Copy)]
pub(in crate::capture) struct Known {
    pub(in crate::capture) key: SessionKey,
    pub(in crate::capture) to: Option<(IpAddr, Tunnel)>,
    /// The file's number for it, once it is described there.
    pub(in crate::capture) number: Option<u32>,
}

impl Known {
    /// One that nobody told of.
    const OTHER: Self = Self {
        key: SessionKey::Other,
        to: None,
        number: None,
    };
}

/// For each worker, its sessions by its own numbers.
#[derive(Clone, Default)]
pub struct Sessions {
    workers: Vec<Vec<Known>>,
}

impl Sessions {
    /// The sessions, of which no file has described one yet.
    pub fn anew(&self) -> Self {
        let mut anew = self.clone();
        for known in anew.workers.iter_mut().flatten() {
            known.number = None;
        }
        anew
    }

    /// The name of a session.
    pub fn key(&self, worker: usize, id: SessionId) -> SessionKey {
        self.get(worker, id).key
    }

    /// What is known of a session.
    #[inline]
    pub(in crate::capture) fn get(&self, worker: usize, id: SessionId) -> Known {
        let known = self.workers.get(worker);
        let known = known.and_then(|known| known.get(id.0 as usize));
        known.copied().unwrap_or(Known::OTHER)
    }

    /// Takes over what a batch tells.
    #[cold]
    pub fn introduce(&mut self, worker: usize, new_sessions: &[NewSession]) {
        while self.workers.len() <= worker {
            self.workers.push(Vec::new());
        }
        let Some(known) = self.workers.get_mut(worker) else {
            return;
        };
        for new in new_sessions {
            let len = known.len().max(new.id.0 as usize + 1);
            known.resize(len, Known::OTHER);
            if let Some(known) = known.get_mut(new.id.0 as usize) {
                *known = Known {
                    key: new.key,
                    to: new.to,
                    number: None,
                };
            }
        }
    }

    /// The file has described a session as interface `number`.
    pub(in crate::capture) fn describe(&mut self, worker: usize, id: SessionId, number: u32) {
        let known = self.workers.get_mut(worker);
        if let Some(known) = known.and_then(|known| known.get_mut(id.0 as usize)) {
            known.number = Some(number);
        }
    }
}

/// What a batch tells of its records beside their facts.
#[derive(Clone, Copy)]
struct Beside<'a> {
    keys: &'a [Keys],
    begun: &'a [u32],
    base: u64,
}

/// A capture file being written.
pub struct CaptureWriter {
    file: ItemFile,
    format: Format,
    section: Section,
    sessions: Sessions,
    /// Small pieces on their way to the file.
    buffer: Vec<u8>,
    /// Packets in the buffer.
    buffered: u64,
    /// What lies where in the file, where that is noted.
    index: Option<Builder>,
    /// Flows' first packets, where their workers are told.
    firsts: Option<FileFirsts>,
}

impl CaptureWriter {
    /// Begins a capture at `path` (`-` for standard output), compressed where there is a `packing`. A FIFO waits for
    /// its reader, until `stop` is set.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn create(
        path: &Path,
        creation: Creation,
        packing: Option<Packing>,
        format: Format,
        about: &About,
        stop: &Stop,
    ) -> Result<Self, OutError> {
        let out = OutFile::create_until(path, creation, stop)?;
        let file = match packing {
            Some(packing) => ItemFile::packed(out, packing),
            None => ItemFile::new(out),
        };
        Self::begin(file, format, about, Sessions::default())
    }

    /// Begins a capture in `file`, which is empty. `sessions` are known already.
    ///
    /// # Errors
    ///
    /// When it cannot be written; nothing is left of it then.
    pub fn begin(
        mut file: ItemFile,
        format: Format,
        about: &About,
        sessions: Sessions,
    ) -> Result<Self, OutError> {
        let mut buffer = Vec::new();
        // What is compressed is gathered there.
        if !file.is_packed() {
            buffer.reserve_exact(2 * BATCH_LEN);
        }
        let section = Section::begin(format, about, &mut buffer);
        if let Err(error) = file.write_header(&buffer) {
            file.into_out().discard();
            return Err(error);
        }
        buffer.clear();
        Ok(Self {
            file,
            format,
            section,
            sessions,
            buffer,
            buffered: 0,
            index: None,
            firsts: None,
        })
    }

    /// Interfaces that are described from now on are called so.
    pub fn know(&mut self, inventory: &Arc<Inventory>) {
        self.section.know(inventory);
    }

    /// Notes from now on, with the file still empty, what lies where in it.
    pub fn keep_index(&mut self) {
        let header_len = self.offset();
        let mut index = match self.file.is_packed() {
            false => Builder::default(),
            true => {
                let mut index = Builder::of_packed();
                index.begin_frame(0);
                index.wrote_frame(header_len, self.file.standing().bytes);
                self.file.note_frames();
                index
            }
        };
        index.add_other(0, header_len);
        self.index = Some(index);
    }

    /// Tells from now on, with the file still empty, where first packets lie in it.
    pub fn tell_firsts(&mut self, firsts: FileFirsts) {
        self.firsts = Some(firsts);
    }

    /// Bytes of the file's content so far, with those that are gathered.
    const fn offset(&self) -> u64 {
        self.file.content_bytes() + self.buffer.len() as u64
    }

    /// Notes blocks that are no packets and were written from `start` on.
    fn note_others(&mut self, start: u64) {
        let len = self.offset().saturating_sub(start);
        if let Some(index) = &mut self.index
            && len > 0
        {
            index.add_other(start, len);
        }
    }

    /// Writes records of `worker` in the order of `records`, which are places in the batch. The interface
    /// numbers of this file are put into them.
    ///
    /// A failure is kept for [`Self::take_error`]; see [`ItemFile::write`].
    pub fn append(&mut self, worker: usize, batch: &mut Batch, records: std::ops::Range<usize>) {
        if records.start == 0 {
            self.tell_no_room(worker, batch);
        }
        let Batch {
            bytes,
            records: facts,
            new_sessions,
            keys,
            begun,
            base,
            ..
        } = batch;
        let beside = Beside {
            keys,
            begun,
            base: *base,
        };
        let chosen = facts.get(records).unwrap_or_default();
        // Whole neighbours are written in one piece: those from there on.
        let (mut from, mut end, mut first) = (0, 0, 0);
        for (place, record) in chosen.iter().enumerate() {
            let (at, len) = (record.at as usize, record.len as usize);
            if at != end {
                let run = chosen.get(first..place).unwrap_or_default();
                self.put_run(
                    worker,
                    bytes.get(from..end).unwrap_or_default(),
                    run,
                    beside,
                );
                (from, first) = (at, place);
            }
            let known = self.known(worker, record, new_sessions);
            let number = match known.number {
                Some(number) => number,
                None => {
                    // It is described right before its first packet, wherever that comes from.
                    let run = chosen.get(first..place).unwrap_or_default();
                    self.put_run(worker, bytes.get(from..at).unwrap_or_default(), run, beside);
                    (from, first) = (at, place);
                    self.describe(worker, record, known)
                }
            };
            if self.format == Format::PcapNg
                && let Some(field) = bytes
                    .get_mut(at + EPB_INTERFACE_AT..)
                    .and_then(<[u8]>::first_chunk_mut::<4>)
            {
                *field = number.to_le_bytes();
            }
            self.section.count(number, record.ts_ns);
            end = at + len;
        }
        let run = chosen.get(first..).unwrap_or_default();
        self.put_run(
            worker,
            bytes.get(from..end).unwrap_or_default(),
            run,
            beside,
        );
    }

    /// Writes records of `worker` that follow each other in `bytes`, and notes them.
    fn put_run(&mut self, worker: usize, bytes: &[u8], run: &[RecordFacts], beside: Beside<'_>) {
        let at = self.offset();
        if let Some(firsts) = &mut self.firsts {
            let mut at = at;
            for record in run {
                if record.begins > 0
                    && let Some(begun) = record.begun(beside.begun, beside.base)
                {
                    firsts.note(worker, begun, at);
                }
                at += u64::from(record.len);
            }
        }
        self.put(bytes, run.len() as u64);
        if self.index.is_some() && !run.is_empty() {
            self.note(worker, at, run, beside.keys);
        }
    }

    /// Notes records that were put at `at`. Afterwards, since the frames that a compressed file begins are known then.
    #[inline(never)]
    fn note(&mut self, worker: usize, mut at: u64, run: &[RecordFacts], keys: &[Keys]) {
        let Some(index) = &mut self.index else {
            return;
        };
        let mut noted = self.file.noted();
        for begun in noted.iter_mut().flat_map(|noted| noted.begun.drain(..)) {
            index.begin_frame(begun);
        }
        // Neighbours are often of one session.
        let mut lately = None;
        for record in run {
            let vni = match lately {
                Some((session, vni)) if session == record.session => vni,
                _ => {
                    // A pcap file has none for whoever looks at its packets.
                    let key = self.sessions.get(worker, record.session).key;
                    let vni = key.mirror().filter(|_| self.format == Format::PcapNg);
                    vni.map(|(_, vni)| vni.as_u32())
                }
            };
            lately = Some((record.session, vni));
            if let Some(keys) = keys.get(record.number as usize) {
                index.add(at, record.len, record.ts_ns, keys, vni);
            }
            at += u64::from(record.len);
        }
        let written = noted.iter_mut().flat_map(|noted| noted.written.drain(..));
        for (content, packed) in written {
            index.wrote_frame(content, packed);
        }
    }

    /// Tells the index of the last frames.
    fn note_end(&mut self) {
        if let Some((index, noted)) = self.index.as_mut().zip(self.file.noted()) {
            for begun in noted.begun.drain(..) {
                index.begin_frame(begun);
            }
            for (content, packed) in noted.written.drain(..) {
                index.wrote_frame(content, packed);
            }
        }
    }

    /// Tells of first packets that are in the file, and of those that will never be.
    fn settle_firsts(&mut self) {
        if let Some(firsts) = &mut self.firsts {
            let arrived = self.file.arrived();
            match self.file.has_failed() {
                true => firsts.end(arrived),
                false => firsts.settle(arrived),
            }
        }
    }

    /// Tells of first packets that are on their way to the file as if they were there.
    pub fn hurry_firsts(&mut self) {
        if let Some(firsts) = &mut self.firsts {
            firsts.hurry();
        }
    }

    /// What is known of a record's session; those that its batch tells of are taken over first.
    #[inline]
    fn known(
        &mut self,
        worker: usize,
        record: &RecordFacts,
        new_sessions: &mut Vec<NewSession>,
    ) -> Known {
        if !new_sessions.is_empty() {
            self.introduce(worker, new_sessions);
            new_sessions.clear();
        }
        self.sessions.get(worker, record.session)
    }

    /// Whether the file has an interface for a session.
    #[inline]
    pub fn has_described(&self, worker: usize, id: SessionId) -> bool {
        self.sessions.get(worker, id).number.is_some()
    }

    /// Takes over sessions that a batch tells of.
    pub fn introduce(&mut self, worker: usize, new_sessions: &[NewSession]) {
        self.sessions.introduce(worker, new_sessions);
    }

    #[cold]
    fn describe(&mut self, worker: usize, record: &RecordFacts, known: Known) -> u32 {
        let Known { key, to, .. } = known;
        let start = self.offset();
        let number = self.section.interface(key, to, &mut self.buffer);
        self.note_others(start);
        self.sessions.describe(worker, record.session, number);
        number
    }

    /// Takes what a batch tells of frames that found no room in the queue.
    pub fn tell_no_room(&mut self, worker: usize, batch: &mut Batch) {
        if batch.no_room.is_empty() {
            return;
        }
        self.introduce(worker, &batch.new_sessions);
        batch.new_sessions.clear();
        for (id, frames) in batch.no_room.drain(..) {
            self.count_no_room(worker, id, frames);
        }
    }

    /// Counts frames of a session that found no room in the queue.
    pub fn count_no_room(&mut self, worker: usize, id: SessionId, frames: u64) {
        let Known { key, to, .. } = self.sessions.get(worker, id);
        let start = self.offset();
        self.section
            .count_no_room(key, to, frames, &mut self.buffer);
        self.note_others(start);
    }

    /// Writes a block that is neither a packet nor describes an interface.
    pub fn put_block(&mut self, block: &[u8]) {
        let start = self.offset();
        self.put(block, 0);
        self.note_others(start);
    }

    /// Writes what is gathered, so that it can be read.
    pub fn flush(&mut self) {
        if !self.buffer.is_empty() {
            let (buffer, packets) = (
                std::mem::take(&mut self.buffer),
                std::mem::take(&mut self.buffered),
            );
            self.write(&buffer, packets);
            self.buffer = buffer;
            self.buffer.clear();
        }
    }

    /// See [`ItemFile::look_for_reader`].
    pub fn look_for_reader(&mut self) {
        self.file.look_for_reader();
    }

    /// Puts small pieces together and writes large ones at once.
    fn put(&mut self, bytes: &[u8], packets: u64) {
        if bytes.len() < WRITE_AT_ONCE && !self.file.is_packed() {
            self.buffer.extend_from_slice(bytes);
            self.buffered += packets;
            if self.buffer.len() >= BATCH_LEN {
                self.flush();
            }
        } else {
            self.flush();
            self.write(bytes, packets);
        }
    }

    /// Writes whole records and blocks.
    fn write(&mut self, bytes: &[u8], packets: u64) {
        let format = self.format;
        let whole = |bytes: &[u8], len| whole_prefix(format, bytes, len);
        self.file.write(bytes, packets, whole);
        self.settle_firsts();
    }

    /// Brings what was written to the disk.
    ///
    /// # Errors
    ///
    /// As the system says.
    pub fn sync(&mut self) -> Result<(), OutError> {
        let outcome = self.file.sync();
        self.settle_firsts();
        outcome
    }

    /// The file, with what became of the packets.
    pub const fn file(&self) -> &ItemFile {
        &self.file
    }

    /// What went wrong, once.
    pub const fn take_error(&mut self) -> Option<OutError> {
        self.file.take_error()
    }

    /// Ends the file with its statistics, gives it its final name, and tells that and its bytes. `kernel_dropped`
    /// datagrams were lost before they could be received.
    ///
    /// # Errors
    ///
    /// When it cannot be given its name; the message says where it is. When the last packets could not be written: the
    /// file has its name then.
    pub fn finish(self, kernel_dropped: u64) -> Result<(String, u64), OutError> {
        let Ended { out, error, .. } = self.end(kernel_dropped)?;
        let bytes = out.bytes();
        let path = out.finish()?;
        error.map_or(Ok((path, bytes)), Err)
    }

    /// Bytes that its index will have, at the most.
    pub fn bytes_beside(&self) -> u64 {
        match self.index {
            Some(_) => index::most_bytes(self.file.most_bytes() + self.buffer.len() as u64),
            None => 0,
        }
    }

    /// Bytes that the file would have if it ended now, at the most.
    pub fn bytes_at_end(&self) -> u64 {
        let gathered = self.buffer.len() as u64;
        self.file.most_bytes() + gathered + self.section.end_len()
    }

    /// Writes what is on its way to a compressed file, if that is at least so many bytes; else `false`.
    pub fn settle(&mut self, least: u64) -> bool {
        let is_enough = self.file.pending() >= least;
        if is_enough {
            self.flush();
            self.file.settle();
            self.settle_firsts();
        }
        is_enough
    }

    /// Does what is due at `now`, since any fixed moment.
    pub fn tick(&mut self, now: Duration) {
        self.file.tick(now);
        self.settle_firsts();
    }

    /// Ends the file with its statistics. It has no name yet.
    ///
    /// # Errors
    ///
    /// When it cannot be cut back to its last whole block, and when the reader of a pipe has left.
    pub fn end(mut self, kernel_dropped: u64) -> Result<Ended, OutError> {
        self.flush();
        self.file.settle();
        let has_failed = self.file.has_failed();
        if let Some(firsts) = &mut self.firsts {
            firsts.end(self.file.arrived());
        }
        // In a file that could not be written whole some interfaces may be described in what was cut off.
        if !has_failed {
            self.section.end(kernel_dropped, &mut self.buffer);
            let ended = self.file.write_end(&self.buffer);
            if let (Err(_), Some(firsts)) = (&ended, &mut self.firsts) {
                // It is given up.
                firsts.end(0);
            }
            ended?;
            self.note_end();
        }
        let standing = self.file.standing();
        Ok(Ended {
            error: self.file.take_error(),
            index: self.index.filter(|_| !has_failed),
            out: self.file.into_out(),
            standing,
            span: self.section.span(),
            sessions: self.section.sessions(),
        })
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::io::PipeReader;
    use std::os::fd::AsRawFd;

    use super::*;

    fn about() -> About {
        About {
            comments: Vec::new(),
            mtu: 1500,
            inventory: std::sync::Arc::default(),
        }
    }

    fn to_pipe(format: Format) -> (CaptureWriter, PipeReader) {
        let (reader, pipe) = std::io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", pipe.as_raw_fd());
        let (path, creation, about) = (Path::new(&path), Creation::default(), about());
        let writer = CaptureWriter::create(path, creation, None, format, &about, &Stop::new());
        (writer.unwrap(), reader)
    }

    /// No packet follows: what is written at the end finds nobody, and that is no fault of the statistics.
    #[test]
    fn the_end_tells_of_a_reader_that_has_left() {
        let (writer, reader) = to_pipe(Format::PcapNg);
        drop(reader);
        assert!(writer.finish(3).unwrap_err().is_closed_pipe());
        // With somebody who reads there is nothing to tell.
        let (writer, _reader) = to_pipe(Format::PcapNg);
        writer.finish(3).unwrap();
    }

    #[test]
    fn a_look_finds_that_the_reader_has_left() {
        for format in [Format::Pcap, Format::PcapNg] {
            let (mut writer, reader) = to_pipe(format);
            writer.look_for_reader();
            assert!(writer.take_error().is_none());
            assert!(!writer.file().has_failed());
            drop(reader);
            writer.look_for_reader();
            assert!(writer.take_error().unwrap().is_closed_pipe());
            // Once is enough.
            writer.look_for_reader();
            assert!(writer.take_error().is_none());
            assert!(writer.file().has_failed());
            writer.finish(0).unwrap();
        }
    }

    /// A file of our own and a device have no reader that could leave.
    #[test]
    fn what_has_no_reader_is_not_left() {
        let dir = tempfile::tempdir().unwrap();
        for path in [&dir.path().join("c.pcapng"), Path::new("/dev/null")] {
            let (creation, about) = (Creation::default(), about());
            let writer =
                CaptureWriter::create(path, creation, None, Format::PcapNg, &about, &Stop::new());
            let mut writer = writer.unwrap();
            writer.look_for_reader();
            assert!(!writer.file().has_failed());
            writer.finish(0).unwrap();
        }
    }
}
