//! A window of bounded size over an input that is read once, unpacked on the way where it is packed.

use std::io::{self, Read};

use super::unpack::{MAGIC_LEN, Unpacked, is_packed};

/// Bytes asked for at a time.
const READ_LEN: usize = 256 << 10;

/// The input, with the bytes that were read and not used yet.
pub struct Window {
    input: Input,
    /// Room for what was read; bytes from `start` to `end` are not used yet.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Offset of the first byte of `bytes` in the unpacked input.
    at: u64,
    at_end: bool,
    error: Option<io::Error>,
}

enum Input {
    Plain(Box<dyn Read + Send>),
    Packed(Box<Unpacked>),
}

impl Read for Input {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buf),
            Self::Packed(input) => input.read(buf),
        }
    }
}

impl Window {
    /// A window over `input`. If its first bytes are those of gzip, zstd, lz4, bzip2 or xz, it is unpacked
    /// on the way.
    pub fn new(input: impl Read + Send + 'static) -> Self {
        let mut window = Self {
            input: Input::Plain(Box::new(input)),
            bytes: Vec::new(),
            start: 0,
            end: 0,
            at: 0,
            at_end: false,
            error: None,
        };
        window.fill(MAGIC_LEN);
        if is_packed(window.ahead()) {
            window.unpack();
        }
        window
    }

    /// Puts a decoder between this and the input, and begins anew.
    fn unpack(&mut self) {
        let ahead = self.ahead().to_vec();
        let empty = Input::Plain(Box::new(io::empty()));
        if let Input::Plain(input) = std::mem::replace(&mut self.input, empty) {
            self.input = Input::Packed(Box::new(Unpacked::new(ahead, input)));
        }
        (self.start, self.end, self.at_end) = (0, 0, false);
        self.fill(MAGIC_LEN);
    }

    /// How the input is packed, if it is.
    pub fn packed(&self) -> Option<&'static str> {
        match &self.input {
            Input::Plain(_) => None,
            Input::Packed(unpacked) => Some(unpacked.packing()),
        }
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
                // Nothing yet, and the reader has something else to do.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
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

    /// Whether nothing more will come.
    pub const fn has_ended(&self) -> bool {
        self.at_end
    }

    /// Whether an error ended the input.
    pub const fn has_error(&self) -> bool {
        self.error.is_some()
    }

    /// Reads on behind an error that was taken; `false` where there was none.
    pub const fn go_on(&mut self) -> bool {
        std::mem::replace(&mut self.at_end, false)
    }

    /// The error that ended the input, if one did.
    pub fn take_error(&mut self) -> Option<io::Error> {
        self.error.take()
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
        let mut window = Window::new(Trickle(b"abcdefgh".to_vec()));
        assert!(window.fill(5));
        assert_eq!(window.take(3), b"abc");
        assert_eq!(window.offset(), 3);
        assert!(!window.fill(6));
        assert_eq!(window.ahead(), b"defgh");
        assert_eq!(window.take(9), b"defgh");
        assert!(!window.is_done(), "it ended with an error");
        assert_eq!(window.take_error().unwrap().to_string(), "cable pulled");
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
            let mut window = Window::new(io::Cursor::new(bytes));
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
