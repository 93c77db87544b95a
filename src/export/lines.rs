//! Flow records as lines of text: JSON lines or CSV.

use std::path::Path;

use super::{FlowFormat, csv, jsonl};
use crate::flow::record::FlowRecord;
use crate::outfile::{Creation, ItemFile, OutError, OutFile};
use crate::stop::Stop;

/// Bytes gathered before they are written.
const BUFFER_LEN: usize = 64 << 10;

/// Most bytes of memory for what is gathered: the line that fills it makes it twice as large.
pub const MEMORY_BYTES: usize = 2 * BUFFER_LEN;

/// Most bytes of a record, as a line.
pub const LINE_ROOM: u64 = 2048;

/// A file of flow records being written.
pub struct Lines {
    format: FlowFormat,
    file: ItemFile,
    buffer: Vec<u8>,
    /// Records in the buffer.
    buffered: u64,
    /// Earliest beginning and latest end of a flow, nanoseconds since 1970.
    span: Option<(u64, u64)>,
}

impl Lines {
    /// Begins a file at `path`; `-` is standard output. A FIFO waits for its reader, until `stop` is set.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn create(
        format: FlowFormat,
        path: &Path,
        creation: Creation,
        stop: &Stop,
    ) -> Result<Self, OutError> {
        let out = OutFile::create_until(path, creation, stop)?;
        Self::begin(format, ItemFile::new(out))
    }

    /// Begins in `file`, which is empty.
    ///
    /// # Errors
    ///
    /// When its header cannot be written.
    pub fn begin(format: FlowFormat, mut file: ItemFile) -> Result<Self, OutError> {
        if format == FlowFormat::Csv {
            file.write_header(&csv::header())?;
        }
        Ok(Self {
            format,
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
        match self.format {
            FlowFormat::JsonLines => jsonl::write_line(record, &mut self.buffer),
            FlowFormat::Csv => csv::write_row(record, &mut self.buffer),
        }
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
        let whole = match self.format {
            FlowFormat::JsonLines => jsonl::whole_lines,
            FlowFormat::Csv => csv::whole_rows,
        };
        self.file.write(&self.buffer, records, whole);
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

    /// Bytes gathered that are not written yet.
    pub const fn gathered(&self) -> usize {
        self.buffer.len()
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

    /// Ends the file and tells where it is and its bytes: under its name, or, when records are missing in it,
    /// under its hidden name, so that nobody takes it for whole.
    ///
    /// # Errors
    ///
    /// When the file cannot be given its name.
    pub fn finish(self) -> Result<(String, u64), OutError> {
        let has_failed = self.file.has_failed();
        let out = self.file.into_out();
        let bytes = out.bytes();
        if has_failed {
            let path = out.path().to_owned();
            return Ok((out.keep_part()?.unwrap_or(path), bytes));
        }
        Ok((out.finish()?, bytes))
    }
}
