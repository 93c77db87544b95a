//! Capture files: pcap and pcapng in both byte orders, plain or packed with gzip, zstd, lz4, bzip2 or xz.
//!
//! A file is read in one pass through a window of bounded size, so standard input and files of any
//! size work alike. Damage ends a file with an error that names the byte; packets before it are kept.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::aside::Aside;
use super::foreign;
use super::input::{self, Input};
use super::window::Window;
use super::{Arrival, Progress, Record, Source, Told};
use crate::pcap::annotation::{Tally, What};
use crate::pcap::blocks::Section;
use crate::pcap::classic::{FILE_HEADER_LEN, FileHeader};
use crate::pcap::fcs;
use crate::pcap::link_type::LinkTypeName;
use crate::stop::Stop;
use crate::wire::outer::LinkType;

/// Longest packet record believed; libpcap and Wireshark draw the same line.
const MAX_RECORD_LEN: usize = 262_144;
/// Link types that one message names.
const LINK_TYPES_NAMED: usize = 8;
/// Bits of the places between one record and the next: what a record holds may become packets of their own.
const PLACES: u32 = 16;
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
    #[error("{path} is {what}")]
    NotACapture { path: String, what: String },
    #[error(
        "{path}: byte {offset}: {link_types} cannot be read; these can: ETHERNET (1), NULL (0), LOOP (108), \
         RAW (101), IPV4 (228), IPV6 (229), LINUX_SLL (113), LINUX_SLL2 (276)"
    )]
    LinkType {
        path: String,
        offset: u64,
        link_types: String,
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
    Pcap(FileHeader, LinkType),
    PcapNg(Section),
}

/// An open capture file, at the start or in the middle.
pub struct CaptureFile {
    path: String,
    window: Window,
    format: Format,
    packets: u64,
    /// Packets of link types that cannot be read, by the number of the link type.
    unreadable: BTreeMap<u16, u64>,
    /// Offset of the first of them.
    unreadable_at: u64,
    /// Records of files read before this one.
    before: u64,
    last_ts_ns: u64,
    /// What is told of the packet handed out last.
    told: Told,
    /// Where comments, secrets and names go, where they go anywhere.
    aside: Option<Aside>,
    /// Comments of packets and blocks of secrets and names that were read.
    annotations: Tally,
    /// Input that may trickle, as a pipe: what is here is handed on before more is waited for.
    trickles: bool,
    /// Set while the reader wants to go on after a moment without input; where such an input is waited for.
    pauses: Option<Arc<AtomicBool>>,
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
    /// There is something in [`CaptureFile::told`].
    is_told: bool,
}

/// Tally the bytes that leave the disk, for a progress display.
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
    /// Opens `path`, or standard input for `-`. `bytes_read` counts what is taken off the disk. Once `stop` is
    /// set, nothing that has yet to come is waited for.
    ///
    /// # Errors
    ///
    /// When it cannot be opened, is no capture, or starts with a link type that cannot be read.
    pub fn open(
        path: &Path,
        bytes_read: Arc<AtomicU64>,
        stop: &Arc<Stop>,
    ) -> Result<Self, CaptureError> {
        let name = path.display().to_string();
        if path == Path::new("-") {
            let path = "standard input".to_owned();
            return match input::standard_input(stop) {
                Ok(input) => Self::from_input(path, input, bytes_read),
                Err(source) => Err(CaptureError::Open { path, source }),
            };
        }
        let open_error = |source| CaptureError::Open {
            path: name.clone(),
            source,
        };
        let file = input::open(path).map_err(open_error)?;
        let kind = file.metadata().map_err(open_error)?.file_type();
        if kind.is_dir() {
            return Err(CaptureError::Directory { path: name });
        }
        Self::from_input(
            name,
            Input::new(file, stop).named(&path.display().to_string()),
            bytes_read,
        )
    }

    fn from_input(path: String, input: Input, bytes: Arc<AtomicU64>) -> Result<Self, CaptureError> {
        let pauses = input.pauses();
        let input = Counted {
            inner: input,
            bytes,
        };
        let mut file = Self::from_reader(path, input)?;
        file.trickles = pauses.is_some();
        file.pauses = pauses;
        Ok(file)
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
            window: Window::new(input),
            format: Format::PcapNg(Section::default()),
            packets: 0,
            unreadable: BTreeMap::new(),
            unreadable_at: 0,
            before: 0,
            last_ts_ns: 0,
            told: Told::default(),
            aside: None,
            annotations: Tally::default(),
            trickles: false,
            pauses: None,
        };
        file.read_header()?;
        Ok(file)
    }

    /// Has the rest of the file read, and unpacked, on a thread of its own, if the system gives one: not where the
    /// reader may have to wait, as at a pipe, and do something else meanwhile.
    pub fn read_ahead(&mut self) {
        if !self.trickles {
            self.window.read_ahead();
        }
    }

    /// Tally the places of its records from `before` on: so many were read from other files.
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

    /// Packets read so far whose link type cannot be read, by its number.
    pub const fn unreadable(&self) -> &BTreeMap<u16, u64> {
        &self.unreadable
    }

    /// Hands comments, secrets and names over to `aside` from now on, each before the packets behind it.
    pub fn hand_aside(&mut self, aside: Option<Aside>) {
        self.aside = aside;
    }

    /// Takes back what [`Self::hand_aside`] gave.
    pub const fn take_aside(&mut self) -> Option<Aside> {
        self.aside.take()
    }

    /// Takes the comments of the first section out of those that [`Self::annotations`] counts.
    pub fn take_first_comments(&mut self) -> Vec<String> {
        match &mut self.format {
            Format::Pcap(..) => Vec::new(),
            Format::PcapNg(section) => section.take_first_comments(),
        }
    }

    /// Whether vxtap wrote it, as its first section says.
    pub const fn is_ours(&self) -> bool {
        match &self.format {
            Format::Pcap(..) => false,
            Format::PcapNg(section) => section.is_ours(),
        }
    }

    /// Comments, and blocks of secrets and names, that were read so far, whatever became of them.
    pub fn annotations(&self) -> Tally {
        let other_comments = match &self.format {
            Format::Pcap(..) => 0,
            Format::PcapNg(section) => section.comments_read(),
        };
        Tally {
            other_comments,
            ..self.annotations
        }
    }

    /// Packets that the file says were lost before it was written, as far as it was read; `None` where it says
    /// nothing.
    pub fn input_dropped(&self) -> Option<u64> {
        match &self.format {
            Format::Pcap(..) => None,
            Format::PcapNg(section) => section.lost(),
        }
    }

    /// The next record, or `None` at the end of the file. Packets of an interface whose link type cannot be
    /// read come as [`LinkType::Unreadable`].
    ///
    /// # Errors
    ///
    /// [`CaptureError::Damaged`]. At the end of a pcapng file [`CaptureError::LinkType`] when it has packets
    /// and none of them can be read. Nothing can be read after an error.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, CaptureError> {
        let found = match self.format {
            Format::Pcap(header, link) => self.next_pcap(&header, link)?,
            Format::PcapNg(_) => self.next_pcapng()?,
        };
        let Some(Found {
            ts_ns,
            link,
            at,
            captured_len,
            orig_len,
            len,
            is_told,
        }) = found
        else {
            return Ok(None);
        };
        if let LinkType::Unreadable(number) = link {
            self.note_unreadable(number);
        }
        let order = (self.before + self.packets) << PLACES;
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
            told: is_told.then_some(&self.told),
        }))
    }

    /// Whether the next record may have to be waited for: the input trickles, and not all of it is here.
    /// What was read before is worth handing on first.
    pub fn may_wait(&self) -> bool {
        self.trickles && !self.has_record_ahead()
    }

    /// Waits a moment for the next record, or the end of the input; `false` when neither came. Who reads in
    /// batches looks for orders then. A packed input is waited for as long as it takes.
    fn wait_a_moment(&mut self) -> bool {
        let Some(pauses) = self.pauses.clone() else {
            return true;
        };
        if self.window.packed().is_some() {
            return true;
        }
        pauses.store(true, Ordering::Relaxed);
        let mut came = self.has_record_ahead();
        while !came {
            let more = self.window.ahead().len() + 1;
            if !self.window.fill(more) {
                came = self.window.has_ended();
                break;
            }
            came = self.has_record_ahead();
        }
        pauses.store(false, Ordering::Relaxed);
        came
    }

    /// Whether the next record is here already.
    fn has_record_ahead(&self) -> bool {
        let ahead = self.window.ahead();
        match &self.format {
            Format::Pcap(header, _) => {
                let behind = ahead.len().checked_sub(header.record_header_len);
                behind.is_some_and(|len| len >= header.record(ahead).captured_len as usize)
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

    #[cold]
    fn note_unreadable(&mut self, number: u16) {
        if self.unreadable.is_empty() {
            self.unreadable_at = self.window.offset();
        }
        *self.unreadable.entry(number).or_default() += 1;
    }

    /// The end of a pcapng file. It is an error when there were packets and none could be read.
    fn end_of_pcapng(&self) -> Result<Option<Found>, CaptureError> {
        if self.unreadable.is_empty() || self.unreadable.values().sum::<u64>() < self.packets {
            return Ok(None);
        }
        let names = self.unreadable.keys().take(LINK_TYPES_NAMED);
        let mut names: Vec<String> = names
            .map(|number| LinkTypeName(u32::from(*number)).to_string())
            .collect();
        if self.unreadable.len() > names.len() {
            names.push(format!("{} more", self.unreadable.len() - names.len()));
        }
        Err(CaptureError::LinkType {
            path: self.path.clone(),
            offset: self.unreadable_at,
            link_types: names.join(", "),
        })
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
            ahead if FileHeader::is_magic(ahead) => self.read_pcap_header(),
            ahead if ahead.len() < 4 && self.window.has_error() => {
                Err(self.ended("its header", FILE_HEADER_LEN))
            }
            _ => {
                self.window.fill(foreign::NEEDED_LEN);
                Err(CaptureError::NotACapture {
                    path: self.path.clone(),
                    what: foreign::describe(self.window.ahead(), self.window.packed()),
                })
            }
        }
    }

    fn read_pcap_header(&mut self) -> Result<(), CaptureError> {
        if !self.window.fill(FILE_HEADER_LEN) {
            return Err(self.ended("the pcap file header", FILE_HEADER_LEN));
        }
        let header = match FileHeader::read(self.window.ahead()) {
            Ok(header) => header,
            Err(error) => return Err(self.damaged(error.to_string())),
        };
        let Some(link) = LinkType::from_number(header.link_type) else {
            return Err(CaptureError::LinkType {
                path: self.path.clone(),
                offset: 20,
                link_types: LinkTypeName(header.link_type).to_string(),
            });
        };
        self.format = Format::Pcap(header, link);
        self.window.take(FILE_HEADER_LEN);
        Ok(())
    }

    fn next_pcap(
        &mut self,
        header: &FileHeader,
        link: LinkType,
    ) -> Result<Option<Found>, CaptureError> {
        let header_len = header.record_header_len;
        if !self.window.fill(header_len) {
            return if self.window.is_done() {
                Ok(None)
            } else {
                Err(self.ended("a record header", header_len))
            };
        }
        let record = header.record(self.window.ahead());
        let captured_len = record.captured_len as usize;
        if captured_len > MAX_RECORD_LEN {
            let reason = format!("a record of {captured_len} bytes, more than {MAX_RECORD_LEN}");
            return Err(self.damaged(reason));
        }
        let len = header_len + captured_len;
        if !self.window.fill(len) {
            return Err(self.ended("a record", len));
        }
        let (captured_len, orig_len) = match header.fcs_len {
            0 => (record.captured_len, record.orig_len),
            fcs_len => fcs::without(fcs_len, record.captured_len, record.orig_len),
        };
        Ok(Some(Found {
            ts_ns: record.ts_ns,
            link,
            at: header_len,
            captured_len: captured_len as usize,
            orig_len,
            len,
            is_told: false,
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
        self.end_of_pcapng()
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
            .map_err(|error| self.damaged(error.to_string()))?;
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
        let packet = match section.read(block) {
            Ok(Some(packet)) => packet,
            Ok(None) => {
                self.annotate(len);
                return Ok(None);
            }
            Err(error) => return Err(self.damaged(error.to_string())),
        };
        let origin = section.origin(packet.interface);
        let is_told = packet.time_clamped || origin.is_some();
        if is_told {
            self.told = Told {
                origin: origin.copied(),
                cut: origin
                    .filter(|_| packet.has_comment)
                    .and_then(|_| section.cut_comment(block, packet.options_at)),
                time_clamped: packet.time_clamped,
            };
        }
        if packet.has_comment {
            self.comment(packet.interface, packet.options_at, packet.ts_ns, len);
        }
        Ok(Some(Found {
            // A simple packet block has no time of its own; the packet before it is the best witness.
            ts_ns: packet.ts_ns.unwrap_or(self.last_ts_ns),
            link: packet.link,
            at: packet.at,
            captured_len: packet.captured_len,
            orig_len: packet.orig_len,
            len,
            is_told,
        }))
    }

    /// Takes note of the block of `len` bytes ahead, if it holds secrets or names.
    #[cold]
    fn annotate(&mut self, len: usize) {
        let block = self.window.ahead().get(..len).unwrap_or_default();
        let Format::PcapNg(section) = &self.format else {
            return;
        };
        if let Some((counts, ready)) = section.annotation(block) {
            self.annotations = self.annotations.plus(counts);
            self.set_aside(ready);
        }
    }

    /// Takes note of the comments of a packet of that time, the block of `len` bytes ahead.
    #[cold]
    fn comment(&mut self, interface: u32, options_at: usize, ts_ns: Option<u64>, len: usize) {
        let block = self.window.ahead().get(..len).unwrap_or_default();
        let Format::PcapNg(section) = &self.format else {
            return;
        };
        let (options, count) = section.comments(block, interface, options_at);
        self.annotations.packet_comments += count;
        let comments = What::Comments {
            ts_ns: ts_ns.unwrap_or(self.last_ts_ns),
            options,
            count,
        };
        self.set_aside((count > 0).then_some(comments));
    }

    fn set_aside(&mut self, what: Option<What>) {
        if let Some((aside, what)) = self.aside.as_mut().zip(what) {
            aside.hand_over((self.before + self.packets) << PLACES, what);
        }
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
            if self.may_wait() && (handed > 0 || !self.wait_a_moment()) {
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
