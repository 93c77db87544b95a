//! A window of bounded size over an input that is read once, unpacked on the way where it is packed.

use std::io::{self, BufRead, BufReader, Read};

use lz4_flex::frame::FrameDecoder;

/// Bytes asked for at a time.
const READ_LEN: usize = 256 << 10;

/// The input, with the bytes that were read and not used yet.
pub struct Window {
    input: Box<dyn Read + Send>,
    /// Room for what was read; bytes from `start` to `end` are not used yet.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Offset of the first byte of `bytes` in the unpacked input.
    at: u64,
    at_end: bool,
    error: Option<io::Error>,
    packed: Option<&'static str>,
}

impl Window {
    /// A window over `input`. If its first bytes are those of gzip, zstd or lz4, a decoder is put in
    /// between.
    ///
    /// # Errors
    ///
    /// When a decoder cannot be set up.
    pub fn new(input: impl Read + Send + 'static) -> io::Result<Self> {
        let mut window = Self {
            input: Box::new(input),
            bytes: Vec::new(),
            start: 0,
            end: 0,
            at: 0,
            at_end: false,
            error: None,
            packed: None,
        };
        window.fill(4);
        window.unpack()?;
        Ok(window)
    }

    fn unpack(&mut self) -> io::Result<()> {
        let packed = match self.ahead() {
            [0x1f, 0x8b, ..] => "gzip",
            [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
            [0x04, 0x22, 0x4d, 0x18, ..] => "lz4",
            // A skippable frame in front, as some packers leave one.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => "zstd",
            _ => return Ok(()),
        };
        let rest = std::mem::replace(&mut self.input, Box::new(io::empty()));
        let whole = io::Cursor::new(self.ahead().to_vec()).chain(rest);
        self.input = match packed {
            "gzip" => Box::new(flate2::read::MultiGzDecoder::new(whole)),
            "zstd" => Box::new(zstd::Decoder::new(whole)?),
            _ => Box::new(Lz4Frames(FrameDecoder::new(Tail {
                inner: BufReader::new(whole),
                last: [0xff; 8],
            }))),
        };
        self.packed = Some(packed);
        (self.start, self.end, self.at_end) = (0, 0, false);
        self.fill(4);
        Ok(())
    }

    /// How the input is packed, if it is.
    pub const fn packed(&self) -> Option<&'static str> {
        self.packed
    }

    /// The bytes read and not used yet.
    #[inline]
    pub fn ahead(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Offset in the unpacked input of the next byte to use.
    pub const fn offset(&self) -> u64 {
        self.at + self.start as u64
    }

    /// Makes at least `len` bytes available ahead, unless the input ends before; tells whether it did.
    #[inline]
    pub fn fill(&mut self, len: usize) -> bool {
        self.end - self.start >= len || self.read_on(len)
    }

    /// Moves what is ahead to the front and reads until `len` bytes are there.
    #[cold]
    fn read_on(&mut self, len: usize) -> bool {
        while self.end - self.start < len && !self.at_end {
            self.bytes.copy_within(self.start..self.end, 0);
            self.at += self.start as u64;
            (self.start, self.end) = (0, self.end - self.start);
            // Grown step by step: a length that lies costs no more memory than the input has bytes.
            if self.bytes.len() < self.end + READ_LEN {
                self.bytes.resize(self.end + READ_LEN, 0);
            }
            let room = self.bytes.get_mut(self.end..).unwrap_or_default();
            match self.input.read(room) {
                Ok(read) => {
                    self.end += read;
                    self.at_end = read == 0;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.error = Some(error);
                    self.at_end = true;
                }
            }
        }
        self.end - self.start >= len
    }

    /// Marks `len` bytes as used and returns them.
    #[inline]
    pub fn take(&mut self, len: usize) -> &[u8] {
        let from = self.start;
        self.start = self.end.min(from + len);
        self.bytes.get(from..self.start).unwrap_or_default()
    }

    /// Whether the input has ended, in good order, with all of it used.
    pub fn is_done(&mut self) -> bool {
        !self.fill(1) && self.error.is_none()
    }

    /// Whether an error ended the input.
    pub const fn has_error(&self) -> bool {
        self.error.is_some()
    }

    /// The error that ended the input, if one did.
    pub fn take_error(&mut self) -> Option<io::Error> {
        self.error.take()
    }
}

/// Several lz4 frames, one behind the other, as one input.
struct Lz4Frames<R: BufRead>(FrameDecoder<Tail<R>>);

impl<R: BufRead> Read for Lz4Frames<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.0.read(buf)?;
            if read > 0 || buf.is_empty() {
                return Ok(read);
            }
            // The decoder pauses behind each frame; asked again, it begins the next if there is one.
            let input = self.0.get_mut();
            if input.inner.fill_buf()?.is_empty() {
                // It also takes an input that ends between two blocks for a good end. A frame ends with
                // four zeros, and perhaps a checksum of four bytes.
                let [a, b, c, d, rest @ ..] = input.last;
                return if rest == [0; 4] || [a, b, c, d] == [0; 4] {
                    Ok(0)
                } else {
                    Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the lz4 frame has no end mark",
                    ))
                };
            }
        }
    }
}

/// Remembers the last eight bytes that were read.
struct Tail<R> {
    inner: R,
    last: [u8; 8],
}

impl<R: Read> Read for Tail<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        for byte in buf.get(read.saturating_sub(8)..read).unwrap_or_default() {
            self.last.rotate_left(1);
            let [.., newest] = &mut self.last;
            *newest = *byte;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Hands out one byte at a time, and then an error.
    struct Trickle(Vec<u8>);

    impl Read for Trickle {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Err(io::Error::other("cable pulled"));
            }
            buf[0] = self.0.remove(0);
            Ok(1)
        }
    }

    #[test]
    fn offsets_and_errors() {
        let mut window = Window::new(Trickle(b"abcdefgh".to_vec())).unwrap();
        assert!(window.fill(5));
        assert_eq!(window.take(3), b"abc");
        assert_eq!(window.offset(), 3);
        assert!(!window.fill(6));
        assert_eq!(window.ahead(), b"defgh");
        assert_eq!(window.take(9), b"defgh");
        assert!(!window.is_done(), "it ended with an error");
        assert_eq!(window.take_error().unwrap().to_string(), "cable pulled");
    }

    /// An input that ends between two blocks is not whole, whatever the decoder says.
    #[test]
    fn an_lz4_frame_without_its_end_is_told() {
        let mut frame = lz4_flex::frame::FrameEncoder::new(Vec::new());
        frame.write_all(b"one block").unwrap();
        frame.flush().unwrap();
        frame.write_all(b"another").unwrap();
        let packed = frame.finish().unwrap();
        let mut cleanly_ended = Vec::new();
        for len in 4..=packed.len() {
            let mut window = Window::new(io::Cursor::new(packed[..len].to_vec())).unwrap();
            while window.fill(1) {
                let len = window.ahead().len();
                window.take(len);
            }
            if window.is_done() {
                cleanly_ended.push(len);
            }
        }
        assert_eq!(cleanly_ended, [packed.len()]);
    }

    #[test]
    fn packed_inputs_are_unpacked() {
        let text = b"the same text ".repeat(50_000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).unwrap();
        let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
        lz4.write_all(&text).unwrap();
        let packed = [
            (Some("gzip"), gzip.finish().unwrap()),
            (Some("zstd"), zstd::encode_all(&text[..], 1).unwrap()),
            (Some("lz4"), lz4.finish().unwrap()),
            (None, text.clone()),
        ];
        for (how, bytes) in packed {
            let mut window = Window::new(io::Cursor::new(bytes)).unwrap();
            assert_eq!(window.packed(), how);
            let mut unpacked = Vec::new();
            while window.fill(1) {
                let len = window.ahead().len();
                unpacked.extend_from_slice(window.take(len));
            }
            assert!(window.is_done());
            assert_eq!(unpacked, text, "{how:?}");
            assert_eq!(window.offset(), text.len() as u64);
        }
    }
}
