//! Flow records as lines of text: JSON lines or CSV.

use crate::flow::record::FlowRecord;
use crate::outfile::{ItemFile, OutError, OutFile};

/// Bytes gathered before they are written.
const BUFFER_LEN: usize = 64 << 10;

/// Most bytes of memory for what is gathered: the line that fills it makes it twice as large.
pub const MEMORY_BYTES: usize = 2 * BUFFER_LEN;

/// Most bytes of a record, as a line.
pub const LINE_ROOM: u64 = 2048;

/// How records become lines.
pub struct Form {
    /// What stands in front of all records; nothing, perhaps.
    pub header: fn() -> Vec<u8>,
    /// Appends a record.
    pub write: fn(&FlowRecord, &mut Vec<u8>),
    /// How much of the first so many bytes are whole records: bytes, and records.
    pub whole: fn(&[u8], usize) -> (usize, u64),
}

/// A file of flow records being written.
pub struct Lines {
    form: &'static Form,
    file: ItemFile,
    buffer: Vec<u8>,
    /// Records in the buffer.
    buffered: u64,
    /// Earliest beginning and latest end of a flow, nanoseconds since 1970.
    span: Option<(u64, u64)>,
}

impl Lines {
    /// Begins in `file`, which is empty.
    ///
    /// # Errors
    ///
    /// When its header cannot be written.
    pub fn begin(form: &'static Form, mut file: ItemFile) -> Result<Self, OutError> {
        let header = (form.header)();
        if !header.is_empty() {
            file.write_header(&header)?;
        }
        Ok(Self {
            form,
            file,
            buffer: Vec::with_capacity(BUFFER_LEN),
            buffered: 0,
            span: None,
        })
    }

    /// Adds a record. What cannot be written is counted as lost.
    pub fn write(&mut self, record: &FlowRecord) {
        if self.file.has_failed() {
            return self.file.lose(1);
        }
        (self.form.write)(record, &mut self.buffer);
        self.buffered += 1;
        let (begin, end) = (record.ts_start.0, record.ts_end.0);
        let (first, last) = self.span.unwrap_or((begin, end));
        self.span = Some((first.min(begin), last.max(end)));
        if self.buffer.len() >= BUFFER_LEN {
            self.flush();
        }
    }

    /// Writes out what is gathered, so that it can be read. A failure is kept for [`Self::take_error`]; see
    /// [`ItemFile::write`].
    pub fn flush(&mut self) {
        let records = std::mem::take(&mut self.buffered);
        self.file.write(&self.buffer, records, self.form.whole);
        self.buffer.clear();
    }

    /// See [`ItemFile::look_for_reader`].
    pub fn look_for_reader(&mut self) {
        self.file.look_for_reader();
    }

    /// The file, with what became of the records.
    pub const fn file(&self) -> &ItemFile {
        &self.file
    }

    /// Earliest beginning and latest end of the flows, nanoseconds since 1970.
    pub const fn span(&self) -> Option<(u64, u64)> {
        self.span
    }

    /// Bytes that the file would have if it ended now.
    pub fn bytes_at_end(&self) -> u64 {
        self.file.standing().bytes + self.buffer.len() as u64
    }

    /// Brings what was written to the disk.
    ///
    /// # Errors
    ///
    /// As the system says.
    pub fn sync(&mut self) -> Result<(), OutError> {
        self.file.sync()
    }

    /// The file itself, to be ended.
    pub fn into_out(self) -> OutFile {
        self.file.into_out()
    }

    /// What went wrong, once.
    pub const fn take_error(&mut self) -> Option<OutError> {
        self.file.take_error()
    }
}
