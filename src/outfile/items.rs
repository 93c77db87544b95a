//! A file of items, packets or records, in which each is whole or not at all, with the count of both.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::packed::{Frame, MARGIN, Noted, Packing};
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
    /// Items that a collector did not take.
    pub collector: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// A file of items being written.
pub struct ItemFile {
    out: OutFile,
    /// Where it is compressed: items on their way to the file.
    packing: Option<Packing>,
    /// Bytes of content that are in the file.
    arrived: u64,
    written: u64,
    lost: u64,
    error: Option<OutError>,
    has_failed: bool,
}

impl From<OutFile> for ItemFile {
    fn from(out: OutFile) -> Self {
        Self::new(out)
    }
}

impl ItemFile {
    /// With nothing but what `out` holds already, a header say.
    pub const fn new(out: OutFile) -> Self {
        let before = out.bytes();
        Self {
            out,
            packing: None,
            arrived: before,
            written: 0,
            lost: 0,
            error: None,
            has_failed: false,
        }
    }

    /// As [`Self::new`], and compressed. Items count as written once they are in the file.
    pub fn packed(out: OutFile, packing: Packing) -> Self {
        Self {
            packing: Some(packing),
            ..Self::new(out)
        }
    }

    /// Whether it is compressed.
    pub const fn is_packed(&self) -> bool {
        self.packing.is_some()
    }

    /// Writes the header of an empty file, alone not worth keeping.
    ///
    /// # Errors
    ///
    /// As [`OutFile::write`].
    pub fn write_header(&mut self, bytes: &[u8]) -> Result<(), OutError> {
        self.write_apart(bytes)?;
        self.out.end_header();
        Ok(())
    }

    /// Writes `bytes`, which hold so many items. Where the disk takes only the first bytes of them, the file is
    /// cut back to its last whole item: `whole` tells of `bytes` how many bytes and items are whole in the first
    /// so many. The failure is kept for [`Self::take_error`], and later items are lost.
    pub fn write(
        &mut self,
        bytes: &[u8],
        items: u64,
        whole: impl Fn(&[u8], usize) -> (usize, u64),
    ) {
        if self.has_failed {
            self.lost += items;
            return;
        }
        if self.packing.is_some() {
            return self.pack(bytes, items, whole);
        }
        let before = self.out.bytes();
        let (mut len, mut kept) = (bytes.len(), items);
        if let Err(error) = self.out.write(bytes) {
            let taken = usize::try_from(self.out.bytes() - before).unwrap_or(usize::MAX);
            (len, kept) = whole(bytes, taken);
            self.fail(error, before + len as u64);
        }
        self.arrived += len as u64;
        self.written += kept;
        self.lost += items - kept;
    }

    /// Nothing is written any more behind the first `len` bytes.
    fn fail(&mut self, error: OutError, len: u64) {
        self.has_failed = true;
        self.error = Some(error);
        if let Err(error) = self.out.cut_to(len) {
            tracing::warn!(%error, "a half-written record stays at the end");
        }
        if let Some(packing) = &mut self.packing {
            self.lost += packing.give_up();
        }
    }

    /// Gathers items for frames, which end where the next item has no room: they depend on the items alone, not on
    /// the pieces in which those come.
    fn pack(
        &mut self,
        mut bytes: &[u8],
        mut items: u64,
        whole: impl Fn(&[u8], usize) -> (usize, u64),
    ) {
        while let Some(packing) = &mut self.packing
            && !bytes.is_empty()
        {
            let (room, is_empty) = (packing.room(), packing.is_empty());
            let (len, whole_items) = match bytes.len() <= room {
                true => (bytes.len(), items),
                false => whole(bytes, room),
            };
            if len == 0 && !is_empty {
                packing.seal();
                self.write_frames(Packing::next_of_many);
                if self.has_failed {
                    break;
                }
                continue;
            }
            // What no frame has room for has one of its own, with what comes behind it here.
            let (len, whole_items) = match len {
                0 => (bytes.len(), items),
                len => (len, whole_items),
            };
            packing.add(bytes.get(..len).unwrap_or_default(), whole_items);
            bytes = bytes.get(len..).unwrap_or_default();
            items -= whole_items;
        }
        // None are left unless a frame could not be written.
        self.lost += items;
    }

    /// Writes frames as long as there is a `next` one.
    fn write_frames(&mut self, next: impl Fn(&mut Packing) -> Option<(io::Result<Frame>, u64)>) {
        while let Some(packing) = &mut self.packing
            && let Some((frame, items)) = next(packing)
        {
            let before = self.out.bytes();
            let frame = frame.map_err(|source| self.out.error(source));
            match frame.and_then(|frame| self.out.write(frame.bytes()).map(|()| frame)) {
                Ok(frame) => {
                    self.arrived += frame.content_len();
                    packing.wrote(frame);
                    self.written += items;
                }
                Err(error) => {
                    self.lost += items;
                    self.fail(error, before);
                }
            }
        }
    }

    /// Writes what is on its way to the file.
    pub fn settle(&mut self) {
        if let Some(packing) = &mut self.packing {
            packing.seal();
            self.write_frames(Packing::take_next);
        }
    }

    /// Does what is due at `now`, since any fixed moment: what has waited long enough goes to the file.
    pub fn tick(&mut self, now: Duration) {
        if let Some(packing) = &mut self.packing {
            packing.seal_old(now);
            self.write_frames(Packing::next_done);
        }
    }

    /// Bytes of content so far, those included that are on their way to a compressed file.
    pub const fn content_bytes(&self) -> u64 {
        match &self.packing {
            Some(packing) => packing.content_bytes(),
            None => self.out.bytes(),
        }
    }

    /// How many bytes of content are in the file, whole items all of them.
    pub const fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Notes from now on where the frames of a compressed file lie.
    pub fn note_frames(&mut self) {
        if let Some(packing) = &mut self.packing {
            packing.note_frames();
        }
    }

    /// What was noted of frames and not taken yet, where they are noted.
    pub fn noted(&mut self) -> Option<&mut Noted> {
        self.packing.as_mut().and_then(Packing::noted)
    }

    /// Bytes of content on its way to the file.
    pub fn pending(&self) -> u64 {
        self.packing.as_ref().map_or(0, Packing::pending)
    }

    /// Bytes that the file would have with what is on its way to it, at the most.
    pub fn most_bytes(&self) -> u64 {
        let margin = if self.is_packed() { MARGIN } else { 0 };
        self.out.bytes() + self.pending() + margin
    }

    /// Writes the end of the file, behind all items; it goes without where there is no room for it.
    ///
    /// # Errors
    ///
    /// When what was written of it cannot be cut off again, and when the reader of a pipe has left.
    pub fn write_end(&mut self, bytes: &[u8]) -> Result<(), OutError> {
        self.settle();
        let whole = self.out.bytes();
        if !self.has_failed
            && let Err(error) = self.write_apart(bytes)
        {
            if error.is_closed_pipe() {
                return Err(error);
            }
            // The items are worth more than their statistics: a full disk takes the latter only.
            tracing::warn!(%error, "no interface statistics");
            self.out.cut_to(whole)?;
        }
        Ok(())
    }

    /// Writes what holds no item, in a frame of its own.
    fn write_apart(&mut self, bytes: &[u8]) -> Result<(), OutError> {
        match &mut self.packing {
            None => self.out.write(bytes)?,
            Some(packing) => {
                packing.add(bytes, 0);
                packing.seal();
                if let Some((frame, _)) = packing.take_next() {
                    let frame = frame.map_err(|source| self.out.error(source))?;
                    self.out.write(frame.bytes())?;
                    packing.wrote(frame);
                }
            }
        }
        self.arrived += bytes.len() as u64;
        Ok(())
    }

    /// Writes the end of a file that nothing can be read without; `false` where that failed, and nothing of it is there.
    pub fn write_needed_end(&mut self, bytes: &[u8]) -> bool {
        let whole = self.out.bytes();
        let written = self.out.write(bytes);
        let is_written = written.is_ok();
        if let Err(error) = written {
            self.note(error, whole);
        }
        is_written
    }

    /// Cuts off what stands behind the first `len` bytes: so many items, which are lost then.
    pub fn take_back(&mut self, len: u64, items: u64) {
        if let Err(error) = self.out.cut_to(len) {
            self.note(error, len);
        }
        self.written -= items.min(self.written);
        self.lost += items;
    }

    /// Nothing is written any more, for a reason that is not the system's.
    pub fn fail_with(&mut self, source: io::Error) {
        let error = self.out.error(source);
        self.note(error, self.out.bytes());
    }

    /// The error of this file for what the system says.
    pub fn error(&self, source: io::Error) -> OutError {
        self.out.error(source)
    }

    /// As [`Self::fail`]; of several failures the first is told.
    fn note(&mut self, error: OutError, len: u64) {
        let first = self.error.take();
        self.fail(error, len);
        if first.is_some() {
            self.error = first;
        }
    }

    /// Looks whether the reader of a pipe has left: a quiet run would not hear of it before the next item.
    pub fn look_for_reader(&mut self) {
        if !self.has_failed
            && let Some(error) = self.out.reader_left()
        {
            self.fail(error, self.out.bytes());
        }
    }

    /// Counts items that there was no point in writing any more.
    pub const fn lose(&mut self, items: u64) {
        self.lost += items;
    }

    /// Its name in messages.
    pub fn path(&self) -> &str {
        self.out.path()
    }

    /// Whether it has no hidden name: a pipe, a device or standard output.
    pub const fn is_direct(&self) -> bool {
        self.out.is_direct()
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
            collector: 0,
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

    /// Brings what was written to the disk, and what is on its way to the file.
    ///
    /// # Errors
    ///
    /// As the system says.
    pub fn sync(&mut self) -> Result<(), OutError> {
        self.settle();
        self.out.sync()
    }

    /// The file itself, to be ended.
    pub fn into_out(self) -> OutFile {
        self.out
    }
}
