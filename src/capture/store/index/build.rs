//! The index of a file that is there already: what a killed run left. Pure: a reader in, an index on its way out.
//!
//! The file was written here, and only its whole blocks are read.

use std::io::{self, BufRead, ErrorKind, Read};

use super::Builder;
use crate::capture::store::frames::{Frame, WholeFrames};
use crate::flow::key::FlowKey;
use crate::flow::lookup::{self, Tag};
use crate::mirror::session::SessionId;
use crate::outfile::packed::Codec;
use crate::pcap::blocks::{INTERFACE_STATISTICS, Section};
use crate::pcap::classic::{FILE_HEADER_LEN, FileHeader};
use crate::pcap::options::number32;
use crate::pcap::record::{Format, Keys};
use crate::wire::inner::Inner;

/// What an index will note of a frame, as far as it is found out ahead of [`keys_of`].
pub struct Ahead(Option<(FlowKey, Tag)>);

impl Ahead {
    /// Has the processor fetch what is needed.
    #[inline]
    pub fn of(keys: &lookup::Keys, inner: &Inner) -> Self {
        let flow = FlowKey::of(SessionId(0), None, inner);
        Self(flow.map(|(key, _)| (key, keys.expect(&key))))
    }
}

/// What an index notes of a frame.
#[inline]
pub fn keys_of(keys: &mut lookup::Keys, ahead: &Ahead, inner: &Inner, is_cut: bool) -> Keys {
    match (&ahead.0, &inner.ip) {
        (Some((key, tag)), Some(ip)) => Keys {
            flow: keys.of(key, *tag),
            hosts: [
                lookup::of_words(&ip.header.src),
                lookup::of_words(&ip.header.dst),
            ],
            is_ip: true,
            is_cut,
        },
        _ => Keys {
            is_cut,
            ..Keys::default()
        },
    }
}

fn keys_at_once(keys: &mut lookup::Keys, frame: &[u8], is_cut: bool) -> Keys {
    let inner = Inner::read(frame);
    let ahead = Ahead::of(keys, &inner);
    keys_of(keys, &ahead, &inner, is_cut)
}

/// Reads a file up to its end.
///
/// # Errors
///
/// When it cannot be read, or is not what was written here.
pub fn scan(format: Format, file: impl Read) -> io::Result<Builder> {
    scan_content(format, Builder::default(), Plain(file))
}

/// Reads a compressed file up to its end.
///
/// # Errors
///
/// As [`scan`].
pub fn scan_packed(format: Format, codec: Codec, file: impl BufRead) -> io::Result<Builder> {
    let packed = Packed {
        frames: WholeFrames::noted(codec, file),
        last: None,
    };
    scan_content(format, Builder::of_packed(), packed)
}

fn scan_content(format: Format, builder: Builder, content: impl Content) -> io::Result<Builder> {
    match format {
        Format::PcapNg => scan_blocks(builder, content),
        Format::Pcap => scan_records(builder, content),
    }
}

/// The content of a file.
trait Content: Read {
    /// Tells of the frames that were read since, up to that of the byte read last; its records are noted afterwards.
    fn tell(&mut self, builder: &mut Builder);

    /// Tells of the last frame.
    fn end(&mut self, builder: &mut Builder);
}

/// That of a file that is not compressed.
struct Plain<R>(R);

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl<R: Read> Content for Plain<R> {
    fn tell(&mut self, _: &mut Builder) {}

    fn end(&mut self, _: &mut Builder) {}
}

/// That of a compressed file.
struct Packed<R> {
    frames: WholeFrames<R>,
    /// Its records are being noted.
    last: Option<Frame>,
}

impl<R: BufRead> Read for Packed<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.frames.read(buf)
    }
}

impl<R: BufRead> Content for Packed<R> {
    fn tell(&mut self, builder: &mut Builder) {
        for frame in self.frames.take_frames() {
            if let Some(before) = self.last.replace(frame) {
                builder.wrote_frame(before.len, before.packed_len);
            }
            builder.begin_frame(frame.at);
        }
    }

    fn end(&mut self, builder: &mut Builder) {
        self.tell(builder);
        if let Some(last) = self.last.take() {
            builder.wrote_frame(last.len, last.packed_len);
        }
    }
}

fn scan_blocks(mut builder: Builder, mut file: impl Content) -> io::Result<Builder> {
    let mut flows = lookup::Keys::default();
    let mut section = Section::default();
    let (mut at, mut block) = (0, Vec::new());
    while read_more(&mut file, 12, &mut block)? {
        let len = section.block_len(&block).map_err(io::Error::other)?;
        if !read_more(&mut file, len - 12, &mut block)? {
            break;
        }
        file.tell(&mut builder);
        let kind = number32(&block, 0, false);
        match section.read(&block).map_err(io::Error::other)? {
            Some(packet) => {
                let end = packet.at + packet.captured_len;
                let frame = block.get(packet.at..end).unwrap_or_default();
                let is_cut =
                    packet.has_comment && section.cut_comment(&block, packet.options_at).is_some();
                let keys = keys_at_once(&mut flows, frame, is_cut);
                let vni = section.origin(packet.interface).map(|origin| origin.vni);
                let (ts_ns, vni) = (
                    packet.ts_ns.unwrap_or_default(),
                    vni.map(|vni| vni.as_u32()),
                );
                builder.add(at, len as u32, ts_ns, &keys, vni);
            }
            None if kind == INTERFACE_STATISTICS => {}
            None => builder.add_other(at, len as u64),
        }
        at += len as u64;
        block.clear();
    }
    file.end(&mut builder);
    Ok(builder)
}

fn scan_records(mut builder: Builder, mut file: impl Content) -> io::Result<Builder> {
    let mut flows = lookup::Keys::default();
    let mut bytes = Vec::new();
    if !read_more(&mut file, FILE_HEADER_LEN, &mut bytes)? {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let header = FileHeader::read(&bytes).map_err(io::Error::other)?;
    builder.add_other(0, FILE_HEADER_LEN as u64);
    let mut at = FILE_HEADER_LEN as u64;
    loop {
        bytes.clear();
        let is_whole = read_more(&mut file, header.record_header_len, &mut bytes)?;
        file.tell(&mut builder);
        let record = header.record(&bytes);
        if !is_whole || !read_more(&mut file, record.captured_len as usize, &mut bytes)? {
            file.end(&mut builder);
            return Ok(builder);
        }
        let frame = bytes.get(header.record_header_len..).unwrap_or_default();
        let is_cut = record.orig_len > record.captured_len;
        let keys = keys_at_once(&mut flows, frame, is_cut);
        builder.add(at, bytes.len() as u32, record.ts_ns, &keys, None);
        at += bytes.len() as u64;
    }
}

/// Appends the next `len` bytes; `false` when there are fewer.
fn read_more(file: &mut impl Read, len: usize, to: &mut Vec<u8>) -> io::Result<bool> {
    let before = to.len();
    file.take(len as u64).read_to_end(to)?;
    Ok(to.len() == before + len)
}
