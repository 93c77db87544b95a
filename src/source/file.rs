//! Capture files: pcap and pcapng in both byte orders, plain or packed with gzip, zstd or lz4.
//!
//! A file is read in one pass through a window of bounded size, so standard input and files of any
//! size work alike. Damage ends a file with an error that names the byte; packets before it are kept.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pcap_file::Endianness;
use pcap_file::pcap::{PcapHeader, PcapTsResolution};

use super::window::Window;
use super::{Arrival, Progress, Record, Source};
use crate::pcap::blocks::{BlockError, Section, number32};
use crate::wire::outer::LinkType;

/// Longest packet record believed; libpcap and Wireshark draw the same line.
const MAX_RECORD_LEN: usize = 262_144;
/// Packets handed over at a time.
const BATCH: usize = 256;

/// Why a capture file could not be read, or not to its end.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum CaptureError {
    #[error("{path}: {source}")]
    Open { path: String, source: io::Error },
    #[error("{path} is a directory, not a capture file: name the files in it")]
    Directory { path: String },
    #[error("{path} is empty: there is no capture in it")]
    Empty { path: String },
    #[error(
        "{path} is not a capture file: it starts with {magic}, neither pcap nor pcapng \
         (packed with gzip, zstd or lz4 would do too)"
    )]
    NotACapture { path: String, magic: String },
    #[error(
        "{path}: byte {offset}: link type {number} cannot be read; these can: Ethernet (1), null (0) and \
         loop (108), raw IP (101, 228, 229), Linux SLL (113) and SLL2 (276)"
    )]
    LinkType {
        path: String,
        offset: u64,
        number: u32,
    },
    #[error("{path}: byte {offset}{unpacked}: {reason}; {packets} packets before it were read")]
    Damaged {
        path: String,
        offset: u64,
        unpacked: String,
        reason: String,
        packets: u64,
    },
}

/// How the file is written.
enum Format {
    Pcap {
        big_endian: bool,
        nanoseconds: bool,
        link: LinkType,
    },
    PcapNg(Section),
}

/// An open capture file, at the start or in the middle.
pub struct CaptureFile {
    path: String,
    window: Window,
    format: Format,
    packets: u64,
    /// Records of files read before this one.
    before: u64,
    last_ts_ns: u64,
    /// Input that trickles: what is here is handed on before more is waited for.
    trickles: bool,
}

/// A packet in the bytes ahead.
struct Found {
    ts_ns: u64,
    link: LinkType,
    /// Offset of its bytes.
    at: usize,
    captured_len: usize,
    orig_len: u32,
    /// Bytes of its record or block.
    len: usize,
}

/// Counts the bytes that leave the disk, for a progress display.
struct Counted<R> {
    inner: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buf)?;
        self.bytes.fetch_add(len as u64, Ordering::Relaxed);
        Ok(len)
    }
}

impl CaptureFile {
    /// Opens `path`, or standard input for `-`. `bytes_read` counts what is taken off the disk.
    ///
    /// # Errors
    ///
    /// When it cannot be opened, is no capture, or starts with a link type that cannot be read.
    pub fn open(path: &Path, bytes_read: Arc<AtomicU64>) -> Result<Self, CaptureError> {
        let name = path.display().to_string();
        if path == Path::new("-") {
            let input = Counted {
                inner: io::stdin(),
                bytes: bytes_read,
            };
            let mut file = Self::from_reader("standard input".to_owned(), input)?;
            file.trickles = true;
            return Ok(file);
        }
        let open_error = |source| CaptureError::Open {
            path: name.clone(),
            source,
        };
        let file = File::open(path).map_err(open_error)?;
        if file.metadata().map_err(open_error)?.is_dir() {
            return Err(CaptureError::Directory { path: name });
        }
        Self::from_reader(
            name,
            Counted {
                inner: file,
                bytes: bytes_read,
            },
        )
    }

    /// Reads a capture from anything; `path` is its name in messages.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn from_reader(
        path: String,
        input: impl Read + Send + 'static,
    ) -> Result<Self, CaptureError> {
        let window = Window::new(input).map_err(|source| CaptureError::Open {
            path: path.clone(),
            source,
        })?;
        let mut file = Self {
            path,
            window,
            format: Format::PcapNg(Section::default()),
            packets: 0,
            before: 0,
            last_ts_ns: 0,
            trickles: false,
        };
        file.read_header()?;
        Ok(file)
    }

    /// Counts the places of its records from `before` on: so many were read from other files.
    pub const fn number_from(&mut self, before: u64) {
        self.before = before;
    }

    /// The file's name in messages.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Packets read so far.
    pub const fn packets(&self) -> u64 {
        self.packets
    }

    /// The next record, or `None` at the end of the file.
    ///
    /// # Errors
    ///
    /// [`CaptureError::Damaged`], and [`CaptureError::LinkType`] when an interface of a pcapng file has
    /// one that cannot be read. Nothing can be read after an error.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, CaptureError> {
        let found = match self.format {
            Format::Pcap {
                big_endian,
                nanoseconds,
                link,
            } => self.next_pcap(big_endian, nanoseconds, link)?,
            Format::PcapNg(_) => self.next_pcapng()?,
        };
        let Some(Found {
            ts_ns,
            link,
            at,
            captured_len,
            orig_len,
            len,
        }) = found
        else {
            return Ok(None);
        };
        let order = self.before + self.packets;
        self.packets += 1;
        self.last_ts_ns = ts_ns;
        let bytes = self
            .window
            .take(len)
            .get(at..at + captured_len)
            .unwrap_or_default();
        let orig_len = orig_len.max(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        Ok(Some(Record {
            ts_ns,
            link,
            bytes,
            orig_len,
            order,
        }))
    }

    /// Whether the next record is here already.
    fn has_record_ahead(&self) -> bool {
        let ahead = self.window.ahead();
        match &self.format {
            Format::Pcap { big_endian, .. } => {
                ahead.len() >= 16 && ahead.len() - 16 >= number32(ahead, 8, *big_endian) as usize
            }
            Format::PcapNg(section) => {
                ahead.len() >= 12 && ahead.len() >= section.len_of_next(ahead)
            }
        }
    }

    fn damaged(&self, reason: impl Into<String>) -> CaptureError {
        let packed = self.window.packed();
        CaptureError::Damaged {
            path: self.path.clone(),
            offset: self.window.offset(),
            unpacked: packed.map_or(String::new(), |how| {
                format!(" of the unpacked file ({how})")
            }),
            reason: reason.into(),
            packets: self.packets,
        }
    }

    fn bad_block(&self, error: BlockError) -> CaptureError {
        match error {
            BlockError::LinkType(number) => self.link_type(number),
            error => self.damaged(error.to_string()),
        }
    }

    fn link_type(&self, number: u32) -> CaptureError {
        CaptureError::LinkType {
            path: self.path.clone(),
            offset: self.window.offset(),
            number,
        }
    }

    /// The file ended where `wanted` bytes of `what` should be.
    fn ended(&mut self, what: &str, wanted: usize) -> CaptureError {
        let there = self.window.ahead().len();
        match self.window.take_error() {
            Some(error) => self.damaged(format!("cannot read on: {error}")),
            None => self.damaged(format!(
                "the file ends inside {what}: {there} of {wanted} bytes are there"
            )),
        }
    }

    fn read_header(&mut self) -> Result<(), CaptureError> {
        if self.window.is_done() {
            return Err(CaptureError::Empty {
                path: self.path.clone(),
            });
        }
        self.window.fill(4);
        match self.window.ahead() {
            [0x0a, 0x0d, 0x0d, 0x0a, ..] => {
                // The first section header is read like every other block, but now: whether this is
                // a capture should be known before anything is written.
                let len = self.whole_block()?;
                self.read_block(len)?;
                self.window.take(len);
                Ok(())
            }
            [0xa1, 0xb2, 0xc3, 0xd4, ..]
            | [0xd4, 0xc3, 0xb2, 0xa1, ..]
            | [0xa1, 0xb2, 0x3c, 0x4d, ..]
            | [0x4d, 0x3c, 0xb2, 0xa1, ..] => self.read_pcap_header(),
            ahead if ahead.len() < 4 && self.window.has_error() => {
                Err(self.ended("its header", 24))
            }
            ahead => {
                let magic: Vec<String> = ahead
                    .iter()
                    .take(4)
                    .map(|byte| format!("{byte:02x}"))
                    .collect();
                Err(CaptureError::NotACapture {
                    path: self.path.clone(),
                    magic: magic.join(" "),
                })
            }
        }
    }

    fn read_pcap_header(&mut self) -> Result<(), CaptureError> {
        if !self.window.fill(24) {
            return Err(self.ended("the pcap file header", 24));
        }
        let header = match PcapHeader::from_slice(self.window.ahead()) {
            Ok((_, header)) => header,
            Err(error) => return Err(self.damaged(format!("pcap file header: {error}"))),
        };
        // libpcap reads 2.x, and 543.0 of an old sniffer that nobody has seen since.
        if header.version_major != 2 {
            let (major, minor) = (header.version_major, header.version_minor);
            return Err(self.damaged(format!(
                "pcap version {major}.{minor}; version 2 can be read"
            )));
        }
        let number = u32::from(header.datalink);
        let Some(link) = LinkType::from_number(number) else {
            self.window.take(20);
            return Err(self.link_type(number & 0x03ff_ffff));
        };
        self.format = Format::Pcap {
            big_endian: header.endianness == Endianness::Big,
            nanoseconds: header.ts_resolution == PcapTsResolution::NanoSecond,
            link,
        };
        self.window.take(24);
        Ok(())
    }

    fn next_pcap(
        &mut self,
        big_endian: bool,
        nanoseconds: bool,
        link: LinkType,
    ) -> Result<Option<Found>, CaptureError> {
        if !self.window.fill(16) {
            return if self.window.is_done() {
                Ok(None)
            } else {
                Err(self.ended("a record header", 16))
            };
        }
        let ahead = self.window.ahead();
        let [seconds, fraction, captured_len, orig_len] =
            [0, 4, 8, 12].map(|at| number32(ahead, at, big_endian));
        let captured_len = captured_len as usize;
        if captured_len > MAX_RECORD_LEN {
            let reason = format!("a record of {captured_len} bytes, more than {MAX_RECORD_LEN}");
            return Err(self.damaged(reason));
        }
        let len = 16 + captured_len;
        if !self.window.fill(len) {
            return Err(self.ended("a record", len));
        }
        let unit = if nanoseconds { 1 } else { 1000 };
        let ts_ns = u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * unit;
        Ok(Some(Found {
            ts_ns,
            link,
            at: 16,
            captured_len,
            orig_len,
            len,
        }))
    }

    fn next_pcapng(&mut self) -> Result<Option<Found>, CaptureError> {
        while !self.window.is_done() {
            let len = self.whole_block()?;
            if let Some(found) = self.read_block(len)? {
                return Ok(Some(found));
            }
            self.window.take(len);
        }
        Ok(None)
    }

    /// Makes the next block available whole and tells its length.
    fn whole_block(&mut self) -> Result<usize, CaptureError> {
        if !self.window.fill(12) {
            return Err(self.ended("a block header", 12));
        }
        let Format::PcapNg(section) = &mut self.format else {
            return Err(self.damaged("a block in a pcap file"));
        };
        let len = section
            .block_len(self.window.ahead())
            .map_err(|error| self.bad_block(error))?;
        if self.window.fill(len) {
            Ok(len)
        } else {
            Err(self.ended("a block", len))
        }
    }

    /// Reads the block of `len` bytes ahead.
    fn read_block(&mut self, len: usize) -> Result<Option<Found>, CaptureError> {
        let block = self.window.ahead().get(..len).unwrap_or_default();
        let Format::PcapNg(section) = &mut self.format else {
            return Ok(None);
        };
        let packet = section.read(block).map_err(|error| self.bad_block(error))?;
        Ok(packet.map(|packet| Found {
            // A simple packet block has no time of its own; the packet before it is the best witness.
            ts_ns: packet.ts_ns.unwrap_or(self.last_ts_ns),
            link: packet.link,
            at: packet.at,
            captured_len: packet.captured_len,
            orig_len: packet.orig_len,
            len,
        }))
    }
}

impl Source for CaptureFile {
    type Error = CaptureError;

    fn next_batch(
        &mut self,
        most: usize,
        mut each: impl FnMut(Arrival<'_>),
    ) -> Result<Progress, CaptureError> {
        for handed in 0..most.min(BATCH) {
            if self.trickles && handed > 0 && !self.has_record_ahead() {
                return Ok(Progress::Idle);
            }
            match self.next_record()? {
                Some(record) => each(Arrival::Record(record)),
                None => return Ok(Progress::End),
            }
        }
        Ok(Progress::Batch)
    }
}

/// Whether two paths lead to the same file, through links too, and even where there is none yet.
pub fn same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        if let (Ok(a), Ok(b)) = (a.metadata(), b.metadata()) {
            return (a.dev(), a.ino()) == (b.dev(), b.ino());
        }
    }
    real_path(a).is_some_and(|a| real_path(b) == Some(a))
}

/// The path without links and detours; of a file that is not there, its folder's with the name.
fn real_path(path: &Path) -> Option<PathBuf> {
    if let Ok(real) = path.canonicalize() {
        return Some(real);
    }
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new(".")).canonicalize().ok()?;
    Some(folder.join(path.file_name()?))
}
