//! Packed input: one or more streams of gzip, zstd, lz4, bzip2 or xz, one behind the other, as one input.
//!
//! Zeros behind a stream are padding, as tapes and fixed-size volumes leave it and as `gzip` and `xz` ignore
//! it. Anything else behind a stream has to be the next one. Memory is bounded whatever a header claims.

use std::io::{self, BufRead, Read};

use bzip2::bufread::BzDecoder;
use flate2::bufread::GzDecoder;
use liblzma::bufread::XzDecoder;
use lz4_flex::frame::FrameDecoder;

/// Bytes asked for at a time.
const READ_LEN: usize = 64 << 10;
/// Bytes that tell how a stream is packed.
pub const MAGIC_LEN: usize = 6;
/// Memory an xz stream may ask for; `xz -9` makes streams that need 65 MiB.
const XZ_MEMORY: u64 = 128 << 20;

/// The ways of packing that are undone here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Gzip,
    Zstd,
    Lz4,
    Bzip2,
    Xz,
}

impl Packing {
    /// By the first bytes of a stream, [`MAGIC_LEN`] of them unless the input is shorter.
    const fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            [0x04, 0x22, 0x4d, 0x18, ..] => Some(Self::Lz4),
            // The first bytes of a block, or of the end where there is no block.
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31 | 0x17, ..] => Some(Self::Bzip2),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
        }
    }
}

/// Whether bytes are a frame of zstd or lz4 that decoders step over (RFC 8878 §3.1.2).
const fn is_skippable(bytes: &[u8]) -> bool {
    matches!(bytes, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// Whether an input that starts with `bytes` is packed in a way that is undone here.
pub const fn is_packed(bytes: &[u8]) -> bool {
    Packing::of(bytes).is_some() || is_skippable(bytes)
}

/// A packed input, unpacked.
pub struct Unpacked {
    now: Now,
    /// How the first stream is packed.
    first: Option<Packing>,
}

/// Where in the input it is.
enum Now {
    Between(Input),
    Gzip(GzDecoder<Input>),
    Zstd(zstd::Decoder<'static, Input>),
    Lz4(Box<FrameDecoder<Lz4Frame<Input>>>),
    Bzip2(BzDecoder<Input>),
    Xz(XzDecoder<Input>),
}

impl Unpacked {
    /// Over `input`, which starts with the bytes `ahead` followed by those it will give.
    pub fn new(ahead: Vec<u8>, input: Box<dyn Read + Send>) -> Self {
        let end = ahead.len();
        Self {
            now: Now::Between(Input {
                inner: input,
                bytes: ahead,
                start: 0,
                end,
            }),
            first: None,
        }
    }

    /// How it is packed, once something was read.
    pub fn packing(&self) -> &'static str {
        self.first.map_or("zstd", Packing::name)
    }

    /// Steps over padding and begins the next stream; `false` at the end of the input.
    fn begin(&mut self) -> io::Result<bool> {
        let Now::Between(mut input) = std::mem::replace(&mut self.now, Now::nothing()) else {
            return Ok(true);
        };
        let packing = loop {
            let magic = input.peek(MAGIC_LEN)?;
            match Packing::of(magic) {
                Some(packing) => break packing,
                None if magic.is_empty() => return Ok(false),
                None if is_skippable(magic) => input.skip_frame()?,
                None if magic.first() == Some(&0) => input.consume(1),
                None => {
                    let text = format!("behind the {} stream are other bytes", self.packing());
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
            }
        };
        self.first.get_or_insert(packing);
        self.now = match packing {
            Packing::Gzip => Now::Gzip(GzDecoder::new(input)),
            Packing::Zstd => Now::Zstd(zstd::Decoder::with_buffer(input)?.single_frame()),
            Packing::Lz4 => Now::Lz4(Box::new(FrameDecoder::new(Lz4Frame::new(input)))),
            Packing::Bzip2 => Now::Bzip2(BzDecoder::new(input)),
            Packing::Xz => {
                let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, 0)?;
                Now::Xz(XzDecoder::new_stream(input, stream))
            }
        };
        Ok(true)
    }

    /// Leaves a stream that has ended.
    fn end(&mut self) -> io::Result<()> {
        let input = match std::mem::replace(&mut self.now, Now::nothing()) {
            Now::Between(input) => input,
            Now::Gzip(decoder) => decoder.into_inner(),
            Now::Zstd(decoder) => decoder.finish(),
            Now::Lz4(decoder) => decoder.into_inner().end()?,
            Now::Bzip2(decoder) => decoder.into_inner(),
            Now::Xz(decoder) => decoder.into_inner(),
        };
        self.now = Now::Between(input);
        Ok(())
    }
}

impl Now {
    /// In place of what is being moved, and behind the end.
    fn nothing() -> Self {
        Self::Between(Input {
            inner: Box::new(io::empty()),
            bytes: Vec::new(),
            start: 0,
            end: 0,
        })
    }
}

impl Read for Unpacked {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = match &mut self.now {
                Now::Between(_) => {
                    if self.begin()? {
                        continue;
                    }
                    return Ok(0);
                }
                Now::Gzip(decoder) => decoder.read(buf),
                Now::Zstd(decoder) => decoder.read(buf),
                Now::Lz4(decoder) => decoder.read(buf),
                Now::Bzip2(decoder) => decoder.read(buf),
                Now::Xz(decoder) => decoder.read(buf),
            }?;
            if read > 0 || buf.is_empty() {
                return Ok(read);
            }
            self.end()?;
        }
    }
}

/// The packed bytes, some of which can be looked at before they are taken.
struct Input {
    inner: Box<dyn Read + Send>,
    /// Room for what was read; bytes from `start` to `end` are not taken yet.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    /// The next `len` bytes, fewer at the end of the input only.
    fn peek(&mut self, len: usize) -> io::Result<&[u8]> {
        while self.end - self.start < len && self.read_more()? > 0 {}
        let end = self.end.min(self.start + len);
        Ok(self.bytes.get(self.start..end).unwrap_or_default())
    }

    /// Reads behind what is there; 0 at the end.
    fn read_more(&mut self) -> io::Result<usize> {
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        self.bytes.resize(self.end + READ_LEN, 0);
        loop {
            match self
                .inner
                .read(self.bytes.get_mut(self.end..).unwrap_or_default())
            {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(read) => {
                    self.end += read;
                    return Ok(read);
                }
            }
        }
    }

    /// Steps over a skippable frame: its magic number, a length, and so many bytes.
    fn skip_frame(&mut self) -> io::Result<()> {
        let [_, _, _, _, len @ ..] = *self.peek(8)?.first_chunk::<8>().ok_or_else(ended)?;
        self.consume(8);
        let mut left = u32::from_le_bytes(len) as usize;
        while left > 0 {
            let len = self.fill_buf()?.len().min(left);
            if len == 0 {
                return Err(ended());
            }
            self.consume(len);
            left -= len;
        }
        Ok(())
    }
}

fn ended() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the input ends inside a frame",
    )
}

impl Read for Input {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let ahead = self.fill_buf()?;
        let len = ahead.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..len), ahead.get(..len)) {
            to.copy_from_slice(from);
        }
        self.consume(len);
        Ok(len)
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            self.read_more()?;
        }
        Ok(self.bytes.get(self.start..self.end).unwrap_or_default())
    }

    fn consume(&mut self, amount: usize) {
        self.start = self.end.min(self.start + amount);
    }
}

/// Follows an lz4 frame on its way to the decoder, which takes an input that ends between two blocks for
/// a good end (lz4 frame format, "General Structure of LZ4 Frame format").
struct Lz4Frame<R> {
    inner: R,
    part: Part,
    /// Bytes of a header or a length, as far as they have come.
    known: Vec<u8>,
    /// Bytes behind each block and behind the end mark.
    block_checksum_len: u64,
    content_checksum_len: u64,
}

/// What the next byte of an lz4 frame belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The header of this many bytes, as far as that is known.
    Header(usize),
    /// The length of a block, or the end mark.
    BlockLen,
    /// So many bytes of a block.
    Block(u64),
    /// So many bytes of the last checksum; with none left the frame is whole.
    End(u64),
}

/// Magic number, two bytes of flags and a checksum.
const LZ4_HEADER_LEN: usize = 7;

impl<R> Lz4Frame<R> {
    const fn new(inner: R) -> Self {
        Self {
            inner,
            part: Part::Header(LZ4_HEADER_LEN),
            known: Vec::new(),
            block_checksum_len: 0,
            content_checksum_len: 0,
        }
    }

    /// The input behind the frame.
    fn end(self) -> io::Result<R> {
        if self.part == Part::End(0) {
            Ok(self.inner)
        } else {
            let text = "the lz4 frame has no end mark";
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))
        }
    }

    /// Notes bytes that went to the decoder.
    fn follow(&mut self, mut bytes: &[u8]) {
        while let [byte, rest @ ..] = bytes {
            match self.part {
                Part::Header(len) => {
                    self.known.push(*byte);
                    bytes = rest;
                    if self.known.len() < len {
                        continue;
                    }
                    let flags = self.known.get(4).copied().unwrap_or_default();
                    // An 8-byte content size and a 4-byte dictionary id may stand before the checksum.
                    let whole = LZ4_HEADER_LEN
                        + usize::from(flags & 8 != 0) * 8
                        + usize::from(flags & 1 != 0) * 4;
                    self.part = Part::Header(whole);
                    if self.known.len() == whole {
                        self.block_checksum_len = u64::from(flags & 0x10 != 0) * 4;
                        self.content_checksum_len = u64::from(flags & 4 != 0) * 4;
                        self.known.clear();
                        self.part = Part::BlockLen;
                    }
                }
                Part::BlockLen => {
                    self.known.push(*byte);
                    bytes = rest;
                    if let Some(len) = self.known.first_chunk::<4>() {
                        // The highest bit marks a block that is stored as it is.
                        self.part = match u32::from_le_bytes(*len) & 0x7fff_ffff {
                            0 => Part::End(self.content_checksum_len),
                            len => Part::Block(u64::from(len) + self.block_checksum_len),
                        };
                        self.known.clear();
                    }
                }
                Part::Block(left) => {
                    let here = left.min(bytes.len() as u64);
                    self.part = match left - here {
                        0 => Part::BlockLen,
                        left => Part::Block(left),
                    };
                    bytes = bytes.get(here as usize..).unwrap_or_default();
                }
                Part::End(left) => {
                    self.part = Part::End(left.saturating_sub(1));
                    bytes = rest;
                }
            }
        }
    }
}

impl<R: Read> Read for Lz4Frame<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        self.follow(buf.get(..read).unwrap_or_default());
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use proptest::prelude::*;

    use super::*;

    fn unpack(packed: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut unpacked = Vec::new();
        Unpacked::new(Vec::new(), Box::new(Cursor::new(packed))).read_to_end(&mut unpacked)?;
        Ok(unpacked)
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(data).unwrap();
        packer.finish().unwrap()
    }

    fn zstd_frame(data: &[u8]) -> Vec<u8> {
        zstd::encode_all(data, 1).unwrap()
    }

    fn lz4(data: &[u8]) -> Vec<u8> {
        let mut packer = lz4_flex::frame::FrameEncoder::new(Vec::new());
        packer.write_all(data).unwrap();
        packer.finish().unwrap()
    }

    fn bzip2(data: &[u8]) -> Vec<u8> {
        let mut packer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        packer.write_all(data).unwrap();
        packer.finish().unwrap()
    }

    fn xz(data: &[u8]) -> Vec<u8> {
        let mut packer = liblzma::write::XzEncoder::new(Vec::new(), 1);
        packer.write_all(data).unwrap();
        packer.finish().unwrap()
    }

    type Packer = fn(&[u8]) -> Vec<u8>;
    const PACKERS: [(&str, Packer); 5] = [
        ("gzip", gzip),
        ("zstd", zstd_frame),
        ("lz4", lz4),
        ("bzip2", bzip2),
        ("xz", xz),
    ];

    /// What packers, tapes and `cat` make: several streams, zeros between and behind, frames to skip.
    #[test]
    fn streams_with_padding_are_one_input() {
        let (first, second) = (b"first ".repeat(10_000), b"second".to_vec());
        let whole = [&first[..], &second].concat();
        let skipped = [&[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], &[1, 2, 3]].concat();
        for (name, pack) in PACKERS {
            let (one, two) = (pack(&first), pack(&second));
            assert!(is_packed(&one), "{name}");
            for between in [0, 4, 512] {
                for behind in [0, 1, 4, 100_000] {
                    let zeros = |len| vec![0; len];
                    let packed = [&one[..], &zeros(between), &two, &zeros(behind)].concat();
                    assert_eq!(unpack(packed).unwrap(), whole, "{name}");
                }
            }
            let packed = [&skipped[..], &one, &skipped, &two, &skipped].concat();
            assert_eq!(unpack(packed).unwrap(), whole, "{name}");
            for other in [
                &b"x"[..],
                b"\0\0x",
                b"garbage",
                &[0x53, 0x2a, 0x4d, 0x18, 9],
            ] {
                let packed = [&one[..], other].concat();
                let mut read = Unpacked::new(Vec::new(), Box::new(Cursor::new(packed)));
                let mut unpacked = Vec::new();
                assert!(read.read_to_end(&mut unpacked).is_err(), "{name}");
                assert_eq!((unpacked.len(), read.packing()), (first.len(), name));
            }
        }
    }

    /// An input that ends before its stream does is not whole, wherever it was cut.
    #[test]
    fn every_cut_is_told() {
        for (name, pack) in PACKERS {
            let packed = pack(b"some text, and some more text");
            for len in 6..packed.len() {
                assert!(unpack(packed[..len].to_vec()).is_err(), "{name}: {len}");
            }
            assert!(unpack(packed).is_ok(), "{name}");
        }
    }

    /// The last bytes of a block may look like an end mark.
    #[test]
    fn an_lz4_input_cut_between_blocks_is_told() {
        for data in [
            vec![0; 12],
            b"text\0\0\0\0\0\0\0\0".to_vec(),
            vec![7; 70_000],
        ] {
            let mut packer = lz4_flex::frame::FrameEncoder::new(Vec::new());
            packer.write_all(&data).unwrap();
            packer.flush().unwrap();
            let between = packer.get_ref().len();
            packer.write_all(&data).unwrap();
            let packed = packer.finish().unwrap();
            let error = unpack(packed[..between].to_vec()).unwrap_err();
            assert_eq!(error.to_string(), "the lz4 frame has no end mark");
            assert_eq!(unpack(packed).unwrap(), data.repeat(2));
        }
    }

    /// By hand after the format: a stored block that ends with zeros, and then nothing.
    #[test]
    fn a_stored_lz4_block_of_zeros_is_no_end() {
        let header = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
        let block = [&[8, 0, 0, 0x80][..], &[0; 8]].concat();
        let cut = [&header[..], &block].concat();
        assert!(unpack(cut.clone()).is_err());
        let whole = [&cut[..], &[0; 4]].concat();
        assert_eq!(unpack(whole).unwrap(), [0; 8]);
    }

    #[test]
    fn a_stream_that_wants_too_much_memory_is_refused() {
        let options = liblzma::stream::LzmaOptions::new_preset(1).unwrap();
        let mut options = options;
        options.dict_size(1 << 30);
        let mut filters = liblzma::stream::Filters::new();
        filters.lzma2(&options);
        let check = liblzma::stream::Check::Crc32;
        let stream = liblzma::stream::Stream::new_stream_encoder(&filters, check);
        // Packing with so large a dictionary takes memory of its own; where that is missing there is
        // nothing to refuse.
        let Ok(stream) = stream else { return };
        let mut packer = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        packer.write_all(b"small").unwrap();
        let packed = packer.finish().unwrap();
        assert!(unpack(packed).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_get_an_answer(
            which in 0..PACKERS.len(),
            data in proptest::collection::vec(any::<u8>(), 0..300),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut packed = PACKERS[which].1(&data);
            let at = at.index(packed.len());
            packed[at] = byte;
            let _ = unpack(packed);
        }
    }
}
