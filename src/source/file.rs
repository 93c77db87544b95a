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
use pcap_file::pcapng::blocks::{
    ENHANCED_PACKET_BLOCK, INTERFACE_DESCRIPTION_BLOCK, PACKET_BLOCK, SECTION_HEADER_BLOCK,
    SIMPLE_PACKET_BLOCK,
};

use super::{Arrival, Progress, Record, Source};
use crate::wire::outer::LinkType;

/// Longest packet record believed; libpcap and Wireshark draw the same line.
const MAX_RECORD_LEN: usize = 262_144;
/// Longest pcapng block believed, as in Wireshark.
const MAX_BLOCK_LEN: usize = 16 << 20;
/// Interfaces remembered in one section of a pcapng file.
const MAX_INTERFACES: usize = 1 << 20;
const OPTION_TSRESOL: u16 = 9;
const OPTION_TSOFFSET: u16 = 14;
/// Bytes asked for at a time.
const READ_LEN: usize = 256 << 10;
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
        unpacked: &'static str,
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
    PcapNg {
        big_endian: bool,
        interfaces: Vec<Interface>,
    },
}

/// An open capture file, at the start or in the middle.
pub struct CaptureFile {
    path: String,
    input: Box<dyn Read + Send>,
    /// Said of offsets in packed files.
    unpacked: &'static str,
    window: Vec<u8>,
    start: usize,
    /// Offset of the window's first byte in the unpacked file.
    window_at: u64,
    at_end: bool,
    /// A read error, reported where the bytes end.
    read_error: Option<io::Error>,
    format: Format,
    packets: u64,
    last_ts_ns: u64,
    /// Input that trickles: what is here is handed on before more is waited for.
    trickles: bool,
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
        let mut file = Self {
            path,
            input: Box::new(input),
            unpacked: "",
            window: Vec::new(),
            start: 0,
            window_at: 0,
            at_end: false,
            read_error: None,
            format: Format::Pcap {
                big_endian: false,
                nanoseconds: false,
                link: LinkType::Ethernet,
            },
            packets: 0,
            last_ts_ns: 0,
            trickles: false,
        };
        file.fill(4);
        if file.ahead().is_empty() && file.read_error.is_none() {
            return Err(CaptureError::Empty { path: file.path });
        }
        file.unpack()?;
        file.read_header()?;
        Ok(file)
    }

    /// The file's name in messages.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Packets read so far.
    pub fn packets(&self) -> u64 {
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
            Format::PcapNg { .. } => self.next_pcapng()?,
        };
        let Some(Found {
            ts_ns,
            link,
            at,
            captured_len,
            orig_len,
        }) = found
        else {
            return Ok(None);
        };
        self.packets += 1;
        self.last_ts_ns = ts_ns;
        let bytes = self.window.get(at..at + captured_len).unwrap_or_default();
        let orig_len = orig_len.max(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        Ok(Some(Record {
            ts_ns,
            link,
            bytes,
            orig_len,
        }))
    }

    /// The bytes read and not used yet.
    fn ahead(&self) -> &[u8] {
        self.window.get(self.start..).unwrap_or_default()
    }

    /// Whether the next record is here already.
    fn has_record_ahead(&self) -> bool {
        let (header_len, len_at, rest) = match self.format {
            Format::Pcap { .. } => (16, 8, 16),
            Format::PcapNg { .. } => (8, 4, 0),
        };
        let big_endian = match self.format {
            Format::Pcap { big_endian, .. } | Format::PcapNg { big_endian, .. } => big_endian,
        };
        let ahead = self.ahead();
        ahead.len() >= header_len
            && ahead.len() >= number32(ahead, len_at, big_endian) as usize + rest
    }

    /// Offset in the unpacked file of the next byte to use.
    fn offset(&self) -> u64 {
        self.window_at + self.start as u64
    }

    /// Makes at least `len` bytes available ahead, unless the file ends before.
    fn fill(&mut self, len: usize) -> bool {
        while self.window.len() - self.start < len && !self.at_end {
            self.window.drain(..self.start);
            self.window_at += self.start as u64;
            self.start = 0;
            let held = self.window.len();
            // Grown step by step: a length that lies costs no more memory than the file has bytes.
            self.window.resize(held + READ_LEN, 0);
            let room = self.window.get_mut(held..).unwrap_or_default();
            let read = match self.input.read(room) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    self.window.truncate(held);
                    continue;
                }
                Err(error) => {
                    self.read_error = Some(error);
                    0
                }
            };
            self.window.truncate(held + read);
            self.at_end = read == 0;
        }
        self.window.len() - self.start >= len
    }

    /// Puts a decoder in front when the first bytes are those of a packed file.
    fn unpack(&mut self) -> Result<(), CaptureError> {
        let packed: &'static str = match self.ahead() {
            [0x1f, 0x8b, ..] => " of the unpacked file (gzip)",
            [0x28, 0xb5, 0x2f, 0xfd, ..] => " of the unpacked file (zstd)",
            [0x04, 0x22, 0x4d, 0x18, ..] => " of the unpacked file (lz4)",
            _ => return Ok(()),
        };
        let rest = std::mem::replace(&mut self.input, Box::new(io::empty()));
        let whole = io::Cursor::new(std::mem::take(&mut self.window)).chain(rest);
        self.input = match packed.contains("gzip") {
            true => Box::new(flate2::read::MultiGzDecoder::new(whole)),
            false if packed.contains("zstd") => Box::new(zstd::Decoder::new(whole).map_err(
                |source| CaptureError::Open {
                    path: self.path.clone(),
                    source,
                },
            )?),
            false => Box::new(lz4_flex::frame::FrameDecoder::new(whole)),
        };
        self.unpacked = packed;
        (self.start, self.at_end) = (0, false);
        self.fill(4);
        Ok(())
    }

    fn damaged(&mut self, reason: impl Into<String>) -> CaptureError {
        CaptureError::Damaged {
            path: self.path.clone(),
            offset: self.offset(),
            unpacked: self.unpacked,
            reason: reason.into(),
            packets: self.packets,
        }
    }

    /// The file ended where `wanted` bytes of `what` should be.
    fn ended(&mut self, what: &str, wanted: usize) -> CaptureError {
        let there = self.ahead().len();
        match self.read_error.take() {
            Some(error) => self.damaged(format!("cannot read on: {error}")),
            None => self.damaged(format!(
                "the file ends inside {what}: {there} of {wanted} bytes are there"
            )),
        }
    }

    fn read_header(&mut self) -> Result<(), CaptureError> {
        if !self.fill(4) {
            if self.read_error.is_some() {
                return Err(self.ended("the file header", 24));
            }
            return Err(self.not_a_capture());
        }
        if self
            .ahead()
            .starts_with(&SECTION_HEADER_BLOCK.to_be_bytes())
        {
            return self.read_first_section();
        }
        let is_pcap = matches!(
            self.ahead(),
            [0xa1, 0xb2, 0xc3, 0xd4, ..]
                | [0xd4, 0xc3, 0xb2, 0xa1, ..]
                | [0xa1, 0xb2, 0x3c, 0x4d, ..]
                | [0x4d, 0x3c, 0xb2, 0xa1, ..]
        );
        if !is_pcap {
            return Err(self.not_a_capture());
        }
        if !self.fill(24) {
            return Err(self.ended("the pcap file header", 24));
        }
        let header = match PcapHeader::from_slice(self.ahead()) {
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
            return Err(CaptureError::LinkType {
                path: self.path.clone(),
                offset: 20,
                number: number & 0x03ff_ffff,
            });
        };
        self.format = Format::Pcap {
            big_endian: header.endianness == Endianness::Big,
            nanoseconds: header.ts_resolution == PcapTsResolution::NanoSecond,
            link,
        };
        self.start += 24;
        Ok(())
    }

    fn not_a_capture(&self) -> CaptureError {
        let magic: Vec<String> = self
            .ahead()
            .iter()
            .take(4)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        CaptureError::NotACapture {
            path: self.path.clone(),
            magic: magic.join(" "),
        }
    }

    fn next_pcap(
        &mut self,
        big_endian: bool,
        nanoseconds: bool,
        link: LinkType,
    ) -> Result<Option<Found>, CaptureError> {
        if !self.fill(16) {
            if self.ahead().is_empty() && self.read_error.is_none() {
                return Ok(None);
            }
            return Err(self.ended("a record header", 16));
        }
        let ahead = self.ahead();
        let [seconds, fraction, captured_len, orig_len] =
            [0, 4, 8, 12].map(|at| number32(ahead, at, big_endian));
        let captured_len = captured_len as usize;
        if captured_len > MAX_RECORD_LEN {
            return Err(self.damaged(format!(
                "a record of {captured_len} bytes, more than {MAX_RECORD_LEN}"
            )));
        }
        if !self.fill(16 + captured_len) {
            return Err(self.ended("a record", 16 + captured_len));
        }
        let at = self.start + 16;
        self.start = at + captured_len;
        let unit = if nanoseconds { 1 } else { 1000 };
        let ts_ns = u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * unit;
        Ok(Some(Found {
            ts_ns,
            link,
            at,
            captured_len,
            orig_len,
        }))
    }

    fn read_first_section(&mut self) -> Result<(), CaptureError> {
        self.format = Format::PcapNg {
            big_endian: false,
            interfaces: Vec::new(),
        };
        let len = self.whole_block()?;
        self.read_section()?;
        self.start += len;
        Ok(())
    }

    /// Makes the next block available whole and tells its length.
    fn whole_block(&mut self) -> Result<usize, CaptureError> {
        if !self.fill(12) {
            return Err(self.ended("a block header", 12));
        }
        if self
            .ahead()
            .starts_with(&SECTION_HEADER_BLOCK.to_be_bytes())
        {
            // A section tells its own byte order.
            let order = match self.ahead().get(8..12) {
                Some([0x1a, 0x2b, 0x3c, 0x4d]) => true,
                Some([0x4d, 0x3c, 0x2b, 0x1a]) => false,
                _ => return Err(self.damaged("a section header without its byte-order magic")),
            };
            if let Format::PcapNg { big_endian, .. } = &mut self.format {
                *big_endian = order;
            }
        }
        let len = self.number(4) as usize;
        if len < 12 || !len.is_multiple_of(4) {
            return Err(self.damaged(format!(
                "a block of {len} bytes; blocks have at least 12 and a multiple of 4"
            )));
        }
        if len > MAX_BLOCK_LEN {
            return Err(self.damaged(format!("a block of {len} bytes, more than {MAX_BLOCK_LEN}")));
        }
        if !self.fill(len) {
            return Err(self.ended("a block", len));
        }
        let trailer = self.number(len - 4);
        if trailer as usize != len {
            return Err(self.damaged(format!(
                "a block of {len} bytes whose trailing length says {trailer}"
            )));
        }
        Ok(len)
    }

    /// The 32-bit number `at` bytes ahead, in the section's byte order.
    fn number(&self, at: usize) -> u32 {
        number32(
            self.ahead(),
            at,
            matches!(
                self.format,
                Format::PcapNg {
                    big_endian: true,
                    ..
                }
            ),
        )
    }

    fn next_pcapng(&mut self) -> Result<Option<Found>, CaptureError> {
        loop {
            if !self.fill(1) {
                if self.read_error.is_some() {
                    return Err(self.ended("a block header", 12));
                }
                return Ok(None);
            }
            let len = self.whole_block()?;
            match self.number(0) {
                SECTION_HEADER_BLOCK => self.read_section()?,
                INTERFACE_DESCRIPTION_BLOCK => self.read_interface(len)?,
                kind @ (ENHANCED_PACKET_BLOCK | PACKET_BLOCK | SIMPLE_PACKET_BLOCK) => {
                    let found = self.packet_block(kind, len - 12)?;
                    self.start += len;
                    return Ok(Some(found));
                }
                _ => {}
            }
            self.start += len;
        }
    }

    /// Begins the section whose header is ahead.
    fn read_section(&mut self) -> Result<(), CaptureError> {
        let Format::PcapNg {
            big_endian,
            interfaces,
        } = &mut self.format
        else {
            return Ok(());
        };
        interfaces.clear();
        let big_endian = *big_endian;
        let version = number32(self.ahead(), 12, big_endian);
        let (first, second) = (version >> 16, version & 0xffff);
        let (major, minor) = if big_endian {
            (first, second)
        } else {
            (second, first)
        };
        // The specification lets 1.2 be read as 1.0; other minor versions may hold anything.
        if major != 1 || !matches!(minor, 0 | 2) {
            return Err(self.damaged(format!(
                "pcapng version {major}.{minor}; version 1.0 can be read"
            )));
        }
        Ok(())
    }

    /// Notes the interface described ahead, in a block of `len` bytes. Of its options only those that
    /// change times are looked at.
    fn read_interface(&mut self, len: usize) -> Result<(), CaptureError> {
        let Format::PcapNg { big_endian, .. } = self.format else {
            return Ok(());
        };
        let body = self.ahead().get(8..len - 4).unwrap_or_default();
        if body.len() < 8 {
            let len = body.len();
            return Err(self.damaged(format!(
                "an interface description with {len} bytes of body, fewer than 8"
            )));
        }
        let link = number16(body, 0, big_endian);
        let mut interface = Interface {
            link: LinkType::from_number(u32::from(link)).ok_or(u32::from(link)),
            snaplen: number32(body, 4, big_endian),
            resolution: 6,
            offset_s: 0,
        };
        let mut options = body.get(8..).unwrap_or_default();
        while options.len() >= 4 {
            let (code, value_len) = (
                number16(options, 0, big_endian),
                usize::from(number16(options, 2, big_endian)),
            );
            let Some(value) = options.get(4..4 + value_len) else {
                return Err(
                    self.damaged(format!("interface option {code} is longer than its block"))
                );
            };
            match (code, value) {
                (0, _) => break,
                (OPTION_TSRESOL, [resolution]) => interface.resolution = *resolution,
                (OPTION_TSOFFSET, offset) if offset.len() == 8 => {
                    let (first, second) = (
                        number32(offset, 0, big_endian),
                        number32(offset, 4, big_endian),
                    );
                    let (high, low) = if big_endian {
                        (first, second)
                    } else {
                        (second, first)
                    };
                    interface.offset_s = (i64::from(high) << 32) | i64::from(low);
                }
                _ => {}
            }
            options = options
                .get(4 + value_len.next_multiple_of(4)..)
                .unwrap_or_default();
        }
        if let Format::PcapNg { interfaces, .. } = &mut self.format {
            if interfaces.len() >= MAX_INTERFACES {
                return Err(self.damaged(format!(
                    "more than {MAX_INTERFACES} interfaces in one section"
                )));
            }
            interfaces.push(interface);
        }
        Ok(())
    }

    /// Reads the fixed part of the packet block ahead, whose body has `len` bytes. Its options are not
    /// looked at.
    fn packet_block(&mut self, kind: u32, len: usize) -> Result<Found, CaptureError> {
        let at = self.start + 8;
        let fixed_len = if kind == SIMPLE_PACKET_BLOCK { 4 } else { 20 };
        if len < fixed_len {
            return Err(self.damaged(format!(
                "a packet block with {len} bytes of body, fewer than {fixed_len}"
            )));
        }
        let Format::PcapNg {
            big_endian,
            interfaces,
        } = &self.format
        else {
            return Err(self.damaged("a block outside pcapng"));
        };
        let number = |at: usize| self.number(8 + at);
        let (interface, captured_len, orig_len) = match kind {
            SIMPLE_PACKET_BLOCK => {
                let snaplen = interfaces.first().map_or(0, |interface| interface.snaplen);
                let orig_len = number(0);
                (
                    0,
                    if snaplen == 0 {
                        orig_len
                    } else {
                        orig_len.min(snaplen)
                    },
                    orig_len,
                )
            }
            // The obsolete packet block has a 16-bit interface number and a drop count after it.
            PACKET_BLOCK if *big_endian => (number(0) >> 16, number(12), number(16)),
            PACKET_BLOCK => (number(0) & 0xffff, number(12), number(16)),
            _ => (number(0), number(12), number(16)),
        };
        let Some(interface) = interfaces.get(interface as usize) else {
            let known = interfaces.len();
            return Err(self.damaged(format!(
                "a packet of interface {interface}, but {known} are described"
            )));
        };
        let link = match interface.link {
            Ok(link) => link,
            Err(number) => {
                return Err(CaptureError::LinkType {
                    path: self.path.clone(),
                    offset: self.offset(),
                    number,
                });
            }
        };
        // A simple packet block has no time of its own; the packet before it is the best witness.
        let ts_ns = match kind {
            SIMPLE_PACKET_BLOCK => self.last_ts_ns,
            _ => interface.time_ns((u64::from(number(4)) << 32) | u64::from(number(8))),
        };
        let captured_len = captured_len as usize;
        if captured_len > len - fixed_len {
            let room = len - fixed_len;
            return Err(self.damaged(format!(
                "a packet of {captured_len} bytes in a block with room for {room}"
            )));
        }
        Ok(Found {
            ts_ns,
            link,
            at: at + fixed_len,
            captured_len,
            orig_len,
        })
    }
}

/// An interface of the current section.
struct Interface {
    /// Its link layer, or the number of one that cannot be read.
    link: Result<LinkType, u32>,
    snaplen: u32,
    /// `if_tsresol`: with the top bit set a negative power of 2, else of 10.
    resolution: u8,
    /// `if_tsoffset`, seconds.
    offset_s: i64,
}

impl Interface {
    /// Nanoseconds since 1970; times outside 1970 to 2554 move to those ends.
    fn time_ns(&self, ticks: u64) -> u64 {
        let exponent = u32::from(self.resolution & 0x7f);
        let ticks = u128::from(ticks);
        let ns = if self.resolution & 0x80 != 0 {
            (ticks * 1_000_000_000) >> exponent
        } else if exponent <= 9 {
            ticks * 10u128.pow(9 - exponent)
        } else {
            10u128
                .checked_pow(exponent - 9)
                .map_or(0, |divisor| ticks / divisor)
        };
        let ns = i128::try_from(ns).unwrap_or(i128::MAX);
        let ns = ns.saturating_add(i128::from(self.offset_s) * 1_000_000_000);
        u64::try_from(ns.max(0)).unwrap_or(u64::MAX)
    }
}

/// A packet in the window.
struct Found {
    ts_ns: u64,
    link: LinkType,
    at: usize,
    captured_len: usize,
    orig_len: u32,
}

/// A 32-bit number at `at`; 0 past the end.
fn number32(bytes: &[u8], at: usize, big_endian: bool) -> u32 {
    let bytes = bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk::<4>)
        .copied()
        .unwrap_or_default();
    if big_endian {
        u32::from_be_bytes(bytes)
    } else {
        u32::from_le_bytes(bytes)
    }
}

/// A 16-bit number at `at`; 0 past the end.
fn number16(bytes: &[u8], at: usize, big_endian: bool) -> u16 {
    let bytes = bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk::<2>)
        .copied()
        .unwrap_or_default();
    if big_endian {
        u16::from_be_bytes(bytes)
    } else {
        u16::from_le_bytes(bytes)
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

/// Whether two paths lead to the same file, through links too.
pub fn same_file(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| -> Option<PathBuf> { path.canonicalize().ok() };
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        if let (Ok(a), Ok(b)) = (a.metadata(), b.metadata()) {
            return (a.dev(), a.ino()) == (b.dev(), b.ino());
        }
    }
    real(a).is_some_and(|a| real(b) == Some(a))
}
