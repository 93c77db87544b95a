//! Flow records as JSON lines: one object a line.

use std::path::Path;

use crate::flow::record::FlowRecord;
use crate::outfile::{OutError, OutFile};

/// Bytes gathered before they are written.
const BUFFER_LEN: usize = 64 << 10;

/// A file of flow records that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowFile {
    /// Its path, or "standard output".
    pub path: String,
    /// Records in it.
    pub records: u64,
    /// Bytes of it.
    pub bytes: u64,
}

/// A file of flow records being written.
pub struct JsonLines {
    out: OutFile,
    buffer: Vec<u8>,
    /// Records in the buffer, and in the file.
    gathered: u64,
    records: u64,
    failed: bool,
}

impl JsonLines {
    /// Begins a file at `path`; `-` is standard output.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn create(path: &Path) -> Result<Self, OutError> {
        let out = OutFile::create(path)?;
        let buffer = Vec::with_capacity(BUFFER_LEN);
        Ok(Self {
            out,
            buffer,
            gathered: 0,
            records: 0,
            failed: false,
        })
    }

    /// Its name in messages.
    pub fn path(&self) -> &str {
        self.out.path()
    }

    /// Records that are in the file for good.
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// Adds a record.
    ///
    /// # Errors
    ///
    /// When the file cannot be written: once, and what comes later is left out.
    pub fn write(&mut self, record: &FlowRecord) -> Result<(), OutError> {
        if self.failed {
            return Ok(());
        }
        // Numbers, strings and lists only: encoding into memory has no way to fail.
        if serde_json::to_writer(&mut self.buffer, record).is_ok() {
            self.buffer.push(b'\n');
            self.gathered += 1;
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
    /// When the file cannot be written; it is cut back to its last whole record.
    pub fn flush(&mut self) -> Result<(), OutError> {
        let whole = self.out.bytes();
        let written = self.out.write(&self.buffer);
        self.buffer.clear();
        let gathered = std::mem::take(&mut self.gathered);
        match written {
            Ok(()) => self.records += gathered,
            Err(_) => {
                self.failed = true;
                self.out.cut_to(whole)?;
            }
        }
        written
    }

    /// Ends the file and tells path, records and bytes, and what went wrong with the last of them.
    ///
    /// # Errors
    ///
    /// When the file cannot be given its name.
    pub fn finish(mut self) -> Result<(FlowFile, Option<OutError>), OutError> {
        let error = if self.failed {
            None
        } else {
            self.flush().err()
        };
        let path = self.out.path().to_owned();
        let told = FlowFile {
            path,
            records: self.records,
            bytes: self.out.bytes(),
        };
        self.out.finish()?;
        Ok((told, error))
    }

    /// Gives the file up.
    pub fn discard(self) {
        self.out.discard();
    }
}
