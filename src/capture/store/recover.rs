//! How much of a file that a killed run left is whole, and what it holds. Pure: a reader in, facts out.
//!
//! The file was written here, so it is little-endian and begins with a section or pcap header of ours.

use std::io::{self, BufRead, ErrorKind, Read};

use crate::export::{FlowFormat, csv, ipfix};
use crate::pcap::blocks::{ENHANCED_PACKET, INTERFACE_DESCRIPTION, SECTION_HEADER};
use crate::pcap::record::Format;

/// Longest block or record that is believed.
const MOST_LEN: usize = 16 << 20;

/// What is whole of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whole {
    /// Its first bytes, up to the end of the last whole block.
    pub bytes: u64,
    /// Packets, or flow records, in them.
    pub packets: u64,
    /// Bytes of those packets on the wire.
    pub wire_bytes: u64,
    /// Each interface, in its order.
    pub interfaces: Vec<Seen>,
    /// Statistics are there already: it was about to be finished.
    pub has_statistics: bool,
}

/// Packets of one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How many.
    pub packets: u64,
    /// Time of the earliest, nanoseconds since 1970.
    pub first_ns: u64,
    /// Time of the latest.
    pub last_ns: u64,
}

impl Seen {
    /// None yet.
    pub const NONE: Self = Self {
        packets: 0,
        first_ns: u64::MAX,
        last_ns: 0,
    };

    fn add(&mut self, ts_ns: u64) {
        self.packets += 1;
        self.first_ns = self.first_ns.min(ts_ns);
        self.last_ns = self.last_ns.max(ts_ns);
    }
}

impl Whole {
    /// Time of the earliest and the latest packet, where there is one.
    pub fn span(&self) -> Option<(u64, u64)> {
        let seen = self.interfaces.iter().filter(|seen| seen.packets > 0);
        let first = seen.clone().map(|seen| seen.first_ns).min()?;
        let last = seen.map(|seen| seen.last_ns).max()?;
        Some((first, last))
    }
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// A capture.
    Capture(Format),
    /// Flow records as text.
    Flows(FlowFormat),
}

impl Holds {
    /// By the ending of its name; `None` where it cannot be read again.
    pub fn by_ending(ending: &str) -> Option<Self> {
        match ending {
            ".pcapng" => Some(Self::Capture(Format::PcapNg)),
            ".pcap" => Some(Self::Capture(Format::Pcap)),
            _ => {
                let mut formats = FlowFormat::ALL.into_iter();
                let format = formats.find(|format| format.ending() == ending);
                format.map(Self::Flows)
            }
        }
    }
}

/// Reads a file up to the first block that is not whole. `None` where not even its header is: what it is nobody
/// knows.
///
/// # Errors
///
/// When it cannot be read.
pub fn scan(holds: Holds, file: impl BufRead) -> io::Result<Option<Whole>> {
    match holds {
        Holds::Capture(Format::PcapNg) => scan_blocks(file),
        Holds::Capture(Format::Pcap) => scan_records(file),
        Holds::Flows(FlowFormat::JsonLines) => scan_lines(file),
        Holds::Flows(FlowFormat::Csv) => scan_rows(file),
        // Its end, which was not written, says what is where.
        Holds::Flows(FlowFormat::Parquet) => Ok(None),
        Holds::Flows(FlowFormat::Ipfix) => scan_messages(file),
    }
}

/// Reads rows behind a header line, perhaps of another version.
fn scan_rows(mut file: impl BufRead) -> io::Result<Option<Whole>> {
    let mut row = Vec::new();
    if !read_row(&mut file, &mut row)? {
        return Ok(Some(Whole::default()));
    }
    let names = csv::fields(&row);
    let place = |wanted: &str| names.iter().position(|name| name == wanted.as_bytes());
    let times = ["ts_start", "ts_end"].map(place);
    if times.contains(&None) {
        return Ok(None);
    }
    let mut whole = Whole {
        bytes: row.len() as u64,
        ..Whole::default()
    };
    let mut seen = Seen::NONE;
    while read_row(&mut file, &mut row)? {
        let fields = csv::fields(&row);
        if fields.len() != names.len() {
            break;
        }
        for at in times.into_iter().flatten() {
            let text = fields
                .get(at)
                .and_then(|field| std::str::from_utf8(field).ok());
            if let Some(ns) = text.and_then(parse_rfc3339) {
                seen.first_ns = seen.first_ns.min(ns);
                seen.last_ns = seen.last_ns.max(ns);
            }
        }
        seen.packets += 1;
        whole.packets += 1;
        whole.bytes += row.len() as u64;
    }
    whole.interfaces.push(seen);
    Ok(Some(whole))
}

/// Reads the next row; `false` where it is not whole.
fn read_row(mut file: impl BufRead, row: &mut Vec<u8>) -> io::Result<bool> {
    row.clear();
    loop {
        let room = MOST_LEN.saturating_sub(row.len()) as u64;
        if file.by_ref().take(room).read_until(b'\n', row)? == 0 {
            return Ok(false);
        }
        match csv::whole_rows(row, row.len()) {
            (len, _) if len == row.len() => return Ok(true),
            // The end of a line in the middle of a text.
            _ if row.ends_with(b"\n") => {}
            _ => return Ok(false),
        }
    }
}

/// Reads IPFIX messages.
fn scan_messages(mut file: impl Read) -> io::Result<Option<Whole>> {
    let mut whole = Whole::default();
    let mut seen = Seen::NONE;
    let mut reader = ipfix::read::Reader::default();
    let mut message = Vec::new();
    while let Some(len) = read_message(&mut file, &mut message)? {
        let Some(len) = len else {
            if whole.bytes == 0 {
                return Ok(None);
            }
            break;
        };
        let mut of_message = seen;
        let mut flows = 0;
        let outcome = reader.message(&message, |record| {
            flows += 1;
            if let Some((first, last)) = ipfix::read::span(record) {
                of_message.first_ns = of_message.first_ns.min(first);
                of_message.last_ns = of_message.last_ns.max(last);
            }
        });
        if outcome.is_err() {
            break;
        }
        seen = of_message;
        seen.packets += flows;
        whole.packets += flows;
        whole.bytes += len as u64;
    }
    whole.interfaces.push(seen);
    Ok(Some(whole))
}

/// Reads the next message and tells its length, or that there is none of ours; `None` where it is not whole.
fn read_message(mut file: impl Read, message: &mut Vec<u8>) -> io::Result<Option<Option<usize>>> {
    message.clear();
    file.by_ref()
        .take(ipfix::HEADER_LEN as u64)
        .read_to_end(message)?;
    let Some(header) = message.first_chunk() else {
        return Ok(None);
    };
    let Some(len) = ipfix::read::message_len(header) else {
        return Ok(Some(None));
    };
    let rest = len - ipfix::HEADER_LEN;
    file.take(rest as u64).read_to_end(message)?;
    Ok((message.len() == len).then_some(Some(len)))
}

fn scan_lines(mut file: impl BufRead) -> io::Result<Option<Whole>> {
    let mut whole = Whole::default();
    let mut seen = Seen::NONE;
    let mut line = Vec::new();
    loop {
        line.clear();
        file.by_ref()
            .take(MOST_LEN as u64)
            .read_until(b'\n', &mut line)?;
        let record: Option<serde_json::Value> = match line.last() {
            Some(b'\n') => serde_json::from_slice(&line).ok(),
            _ => None,
        };
        let Some(record) = record else {
            break;
        };
        for time in ["ts_start", "ts_end"] {
            let time = record.get(time).and_then(serde_json::Value::as_str);
            if let Some(ns) = time.and_then(parse_rfc3339) {
                seen.first_ns = seen.first_ns.min(ns);
                seen.last_ns = seen.last_ns.max(ns);
            }
        }
        seen.packets += 1;
        whole.packets += 1;
        whole.bytes += line.len() as u64;
    }
    whole.interfaces.push(seen);
    Ok(Some(whole))
}

/// Nanoseconds since 1970.
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_nanosecond()).ok()
}

fn scan_blocks(mut file: impl Read) -> io::Result<Option<Whole>> {
    let mut whole = Whole::default();
    let mut block = Vec::new();
    loop {
        block.clear();
        if !read_more(&mut file, 8, &mut block)? {
            break;
        }
        let (kind, len) = (word(&block, 0), word(&block, 4) as usize);
        let believed = len.is_multiple_of(4) && (12..=MOST_LEN).contains(&len);
        if !believed || !read_more(&mut file, len - 8, &mut block)? {
            break;
        }
        if word(&block, len - 4) as usize != len || (whole.bytes == 0 && kind != SECTION_HEADER) {
            break;
        }
        match kind {
            INTERFACE_DESCRIPTION => whole.interfaces.push(Seen::NONE),
            ENHANCED_PACKET => {
                let ts_ns = u64::from(word(&block, 12)) << 32 | u64::from(word(&block, 16));
                let Some(seen) = whole.interfaces.get_mut(word(&block, 8) as usize) else {
                    break;
                };
                seen.add(ts_ns);
                whole.packets += 1;
                whole.wire_bytes += u64::from(word(&block, 24));
            }
            crate::pcap::blocks::INTERFACE_STATISTICS => whole.has_statistics = true,
            _ => {}
        }
        whole.bytes += len as u64;
    }
    Ok((whole.bytes > 0).then_some(whole))
}

fn scan_records(mut file: impl Read) -> io::Result<Option<Whole>> {
    const HEADER: usize = 24;
    let mut bytes = Vec::new();
    if !read_more(&mut file, HEADER, &mut bytes)? || word(&bytes, 0) != 0xa1b2_3c4d {
        return Ok(None);
    }
    let mut whole = Whole {
        bytes: HEADER as u64,
        interfaces: vec![Seen::NONE],
        ..Whole::default()
    };
    loop {
        bytes.clear();
        if !read_more(&mut file, 16, &mut bytes)? {
            break;
        }
        let (seconds, ns, len) = (word(&bytes, 0), word(&bytes, 4), word(&bytes, 8) as usize);
        let wire_len = word(&bytes, 12);
        if len > MOST_LEN || ns >= 1_000_000_000 || !read_more(&mut file, len, &mut bytes)? {
            break;
        }
        if let Some(seen) = whole.interfaces.first_mut() {
            seen.add(u64::from(seconds) * 1_000_000_000 + u64::from(ns));
        }
        whole.packets += 1;
        whole.wire_bytes += u64::from(wire_len);
        whole.bytes += 16 + len as u64;
    }
    Ok(Some(whole))
}

/// Appends the next `len` bytes; `false` when there are fewer.
fn read_more(file: &mut impl Read, len: usize, to: &mut Vec<u8>) -> io::Result<bool> {
    let before = to.len();
    match file.take(len as u64).read_to_end(to) {
        Ok(_) => Ok(to.len() == before + len),
        // What was cut off in the middle of a compressed stream.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>);
    word.map_or(0, |word| u32::from_le_bytes(*word))
}
