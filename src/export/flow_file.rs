//! A file of flow records in any format.

use std::path::Path;

use super::ipfix::file::{self, IpfixFile};
use super::lines::{self, Lines};
use super::parquet::{self, Parquet};
use super::{FlowFormat, csv, jsonl};
use crate::flow::record::FlowRecord;
use crate::outfile::{Creation, ItemFile, OutError, OutFile};
use crate::stop::Stop;

/// A file of flow records being written.
pub enum FlowFile {
    /// Text.
    Lines(Box<Lines>),
    /// Parquet.
    Parquet(Box<Parquet>),
    /// IPFIX.
    Ipfix(Box<IpfixFile>),
}

impl FlowFormat {
    /// Most bytes of memory that a file takes while it is written.
    pub const fn memory_bytes(self) -> usize {
        match self {
            Self::JsonLines | Self::Csv => lines::MEMORY_BYTES,
            Self::Parquet => parquet::MEMORY_BYTES,
            Self::Ipfix => file::MEMORY_BYTES,
        }
    }
}

impl FlowFile {
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
    pub fn begin(format: FlowFormat, file: ItemFile) -> Result<Self, OutError> {
        Ok(match format {
            FlowFormat::JsonLines => Self::Lines(Box::new(Lines::begin(&jsonl::FORM, file)?)),
            FlowFormat::Csv => Self::Lines(Box::new(Lines::begin(&csv::FORM, file)?)),
            FlowFormat::Parquet => Self::Parquet(Box::new(Parquet::begin(file)?)),
            FlowFormat::Ipfix => Self::Ipfix(Box::new(IpfixFile::begin(file))),
        })
    }

    /// Adds a record. What cannot be written is counted as lost.
    pub fn write(&mut self, record: &FlowRecord) {
        match self {
            Self::Lines(file) => file.write(record),
            Self::Parquet(file) => file.write(record),
            Self::Ipfix(file) => file.write(record),
        }
    }

    /// Writes out what can be read then: lines, but no part of a row group. A failure is kept for
    /// [`Self::take_error`]; see [`ItemFile::write`].
    pub fn flush(&mut self) {
        match self {
            Self::Lines(file) => file.flush(),
            Self::Parquet(file) => file.flush(),
            Self::Ipfix(file) => file.flush(),
        }
    }

    /// Writes what was counted as if it could not be compressed; `false` where that is too little.
    pub fn settle(&mut self) -> bool {
        match self {
            Self::Lines(_) | Self::Ipfix(_) => false,
            Self::Parquet(file) => file.settle(),
        }
    }

    /// Writes all that is gathered, and what ends the file. Nothing is added behind that.
    pub fn end(&mut self) {
        match self {
            Self::Lines(file) => file.flush(),
            Self::Parquet(file) => file.end(),
            Self::Ipfix(file) => file.end(),
        }
    }

    /// Bytes that the file would have if it ended now, at the most.
    pub fn bytes_at_end(&self) -> u64 {
        match self {
            Self::Lines(file) => file.bytes_at_end(),
            Self::Parquet(file) => file.bytes_at_end(),
            Self::Ipfix(file) => file.bytes_at_end(),
        }
    }

    /// See [`ItemFile::look_for_reader`].
    pub fn look_for_reader(&mut self) {
        match self {
            Self::Lines(file) => file.look_for_reader(),
            Self::Parquet(file) => file.look_for_reader(),
            Self::Ipfix(file) => file.look_for_reader(),
        }
    }

    /// The file, with what became of the records.
    pub const fn file(&self) -> &ItemFile {
        match self {
            Self::Lines(file) => file.file(),
            Self::Parquet(file) => file.file(),
            Self::Ipfix(file) => file.file(),
        }
    }

    /// Earliest beginning and latest end of the flows, nanoseconds since 1970.
    pub const fn span(&self) -> Option<(u64, u64)> {
        match self {
            Self::Lines(file) => file.span(),
            Self::Parquet(file) => file.span(),
            Self::Ipfix(file) => file.span(),
        }
    }

    /// Brings what was written to the disk.
    ///
    /// # Errors
    ///
    /// As the system says.
    pub fn sync(&mut self) -> Result<(), OutError> {
        match self {
            Self::Lines(file) => file.sync(),
            Self::Parquet(file) => file.sync(),
            Self::Ipfix(file) => file.sync(),
        }
    }

    /// The file itself, to be ended.
    pub fn into_out(self) -> OutFile {
        match self {
            Self::Lines(file) => file.into_out(),
            Self::Parquet(file) => file.into_out(),
            Self::Ipfix(file) => file.into_out(),
        }
    }

    /// What went wrong, once.
    pub const fn take_error(&mut self) -> Option<OutError> {
        match self {
            Self::Lines(file) => file.take_error(),
            Self::Parquet(file) => file.take_error(),
            Self::Ipfix(file) => file.take_error(),
        }
    }

    /// Ends the file and tells where it is and its bytes: under its name, or, when records are missing in it,
    /// under its hidden name, so that nobody takes it for whole.
    ///
    /// # Errors
    ///
    /// When the file cannot be given its name.
    pub fn finish(mut self) -> Result<(String, u64), OutError> {
        self.end();
        let has_failed = self.file().has_failed();
        let out = self.into_out();
        let bytes = out.bytes();
        if has_failed {
            let path = out.path().to_owned();
            return Ok((out.keep_part()?.unwrap_or(path), bytes));
        }
        Ok((out.finish()?, bytes))
    }
}
