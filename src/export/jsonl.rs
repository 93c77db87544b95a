//! Flow records as JSON lines: one object a line.

use std::path::Path;

use crate::flow::record::FlowRecord;
use crate::outfile::{OutError, OutFile};

/// Bytes gathered before they are written.
const BUFFER_LEN: usize = 64 << 10;

/// A file of flow records being written.
pub struct JsonLines {
    out: OutFile,
    buffer: Vec<u8>,
    records: u64,
}

impl JsonLines {
    /// Begins a file at `path`; `-` is standard output.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn create(path: &Path) -> Result<Self, OutError> {
        Ok(Self {
            out: OutFile::create(path)?,
            buffer: Vec::with_capacity(BUFFER_LEN),
            records: 0,
        })
    }

    /// Adds a record.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write(&mut self, record: &FlowRecord) -> Result<(), OutError> {
        // Numbers, strings and lists only: encoding into memory has no way to fail.
        if serde_json::to_writer(&mut self.buffer, record).is_ok() {
            self.buffer.push(b'\n');
            self.records += 1;
        }
        if self.buffer.len() >= BUFFER_LEN {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Writes out what is gathered, so that it can be read.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn flush(&mut self) -> Result<(), OutError> {
        self.out.write(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Ends the file and tells path, records and bytes.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn finish(mut self) -> Result<(String, u64, u64), OutError> {
        self.flush()?;
        let told = (self.out.path().to_owned(), self.records, self.out.bytes());
        self.out.finish()?;
        Ok(told)
    }

    /// Gives the file up.
    pub fn discard(self) {
        self.out.discard();
    }
}
