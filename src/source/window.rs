//! A window of bounded size over an input that is read once, unpacked on the way where it is packed.

use std::io::{self, Read};

use prefetch_index::prefetch_index;

use super::ahead::{Ahead, Piece, ROOM_BEFORE};
use super::unpack::{MAGIC_LEN, Unpacked, is_packed};

/// Bytes asked for at a time.
const READ_LEN: usize = 256 << 10;

/// Bytes of a cache line, and lines that headers take behind those of a record: VXLAN, TCP and what is around them.
const LINE_LEN: usize = 64;
const LINES_AHEAD: usize = 3;

/// The input, with the bytes that were read and not used yet.
pub struct Window {
    input: Input,
    /// Room for what was read; bytes from `start` to `end` are not used yet.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Offset of the byte at `start` in the unpacked input.
    offset: u64,
    at_end: bool,
    error: Option<io::Error>,
}

enum Input {
    Plain(Box<dyn Read + Send>),
    Packed(Box<Unpacked>),
    /// Read on a thread of its own, and how it is packed.
    Ahead(Ahead, Option<&'static str>),
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
            offset: 0,
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

    /// Has a thread of its own read, and unpack, from now on, if the system gives one.
    pub fn read_ahead(&mut self) {
        let packed = self.packed();
        let nothing = Input::Plain(Box::new(io::empty()));
        self.input = match std::mem::replace(&mut self.input, nothing) {
            Input::Plain(input) => match Ahead::start(input) {
                Ok(ahead) => Input::Ahead(ahead, packed),
                Err(input) => Input::Plain(input),
            },
            Input::Packed(input) => match Ahead::start(input) {
                Ok(ahead) => Input::Ahead(ahead, packed),
                Err(input) => Input::Packed(input),
            },
            ahead @ Input::Ahead(..) => ahead,
        };
    }

    /// How the input is packed, if it is.
    pub fn packed(&self) -> Option<&'static str> {
        match &self.input {
            Input::Plain(_) => None,
            Input::Packed(unpacked) => Some(unpacked.packing()),
            Input::Ahead(_, packed) => *packed,
        }
    }

    /// The bytes read and not used yet.
    #[inline]
    pub fn ahead(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Offset in the unpacked input of the next byte to use.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Makes at least `len` bytes available ahead, unless the input ends before; tells whether it did.
    #[inline]
    pub fn fill(&mut self, len: usize) -> bool {
        self.end - self.start >= len || self.read_on(len)
    }

    /// Reads until `len` bytes are ahead.
    #[cold]
    fn read_on(&mut self, len: usize) -> bool {
        while self.end - self.start < len && !self.at_end {
            match self.read_more() {
                Ok(read) => self.at_end = read == 0,
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

    /// Puts more of the input behind what is ahead, and tells how many bytes.
    fn read_more(&mut self) -> io::Result<usize> {
        let rest = self.end - self.start;
        let input: &mut dyn Read = match &mut self.input {
            Input::Plain(input) => input,
            Input::Packed(input) => input,
            Input::Ahead(ahead, _) => {
                let Piece { mut bytes, end } = ahead.next()?;
                let kept = self.bytes.get(self.start..self.end).unwrap_or_default();
                // What is ahead goes in front of the piece; where it is too much, a giant record, both go elsewhere.
                let room = ROOM_BEFORE.checked_sub(rest);
                if let Some(start) = room
                    && let Some(before) = bytes.get_mut(start..ROOM_BEFORE)
                {
                    before.copy_from_slice(kept);
                    (self.start, self.end) = (start, end);
                } else {
                    let more = bytes.get(ROOM_BEFORE..end).unwrap_or_default();
                    bytes = [kept, more].concat();
                    (self.start, self.end) = (0, bytes.len());
                }
                ahead.give_back(std::mem::replace(&mut self.bytes, bytes));
                return Ok(end - ROOM_BEFORE);
            }
        };
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, rest);
        // Grown step by step: a length that lies costs no more memory than the input has bytes.
        if self.bytes.len() < self.end + READ_LEN {
            self.bytes.resize(self.end + READ_LEN, 0);
        }
        let room = self.bytes.get_mut(self.end..).unwrap_or_default();
        let read = input.read(room)?;
        self.end += read;
        Ok(read)
    }

    /// Marks `len` bytes as used and returns them.
    #[inline]
    pub fn take(&mut self, len: usize) -> &[u8] {
        let from = self.start;
        self.start = self.end.min(from + len);
        self.offset += (self.start - from) as u64;
        // The headers that are looked at next: another core may have read them.
        for line in 0..LINES_AHEAD {
            prefetch_index(&self.bytes, self.start + line * LINE_LEN);
        }
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
    use std::sync::mpsc::{Sender, channel};

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

    /// Whether a thread reads ahead or not: the same bytes at the same offsets, whatever is taken at a time, and the same
    /// end.
    #[test]
    fn ahead_or_not_it_is_the_same() {
        let text: Vec<u8> = (0..1_500_000u32).map(|at| (at % 251) as u8).collect();
        for take in [1 << 10, 1500, 70_000, 300_000, 1_000_000] {
            for fails in [false, true] {
                let failing = fails.then(|| Trickle(Vec::new()));
                let input = io::Cursor::new(text.clone());
                let mut window = match failing {
                    Some(failing) => Window::new(input.chain(failing)),
                    None => Window::new(input),
                };
                window.fill(5);
                assert_eq!(window.take(5), &text[..5]);
                window.read_ahead();
                window.read_ahead();
                let mut at = 5;
                while window.fill(take) {
                    assert_eq!(window.offset(), at as u64);
                    assert!(window.take(take) == &text[at..at + take], "{take} at {at}");
                    at += take;
                }
                assert!(window.ahead() == &text[at..], "{take} at {at}");
                let rest = window.ahead().len();
                window.take(rest);
                assert_eq!(window.is_done(), !fails);
                let error = window.take_error().map(|error| error.to_string());
                assert_eq!(error.as_deref(), fails.then_some("cable pulled"));
            }
        }
    }

    /// A thread that reads ends when nobody wants more, and one that panics keeps nobody waiting.
    #[test]
    fn nobody_waits_for_who_has_gone() {
        struct Panics;
        impl Read for Panics {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                // Not `panic!`: what the hook prints would look like a failure.
                std::panic::resume_unwind(Box::new("broken on purpose"))
            }
        }
        let mut window = Window::new(io::Cursor::new(vec![7; 1000]).chain(Panics));
        window.read_ahead();
        assert!(window.fill(1000) && !window.fill(1001));
        let error = window.take_error().unwrap().to_string();
        assert_eq!(error, "the thread that reads it panicked");

        struct Endless(#[allow(dead_code, reason = "dropped with it")] Sender<()>);
        impl Read for Endless {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                Ok(buf.len())
            }
        }
        let (gone_tx, gone) = channel();
        let mut endless = Window::new(Endless(gone_tx));
        endless.read_ahead();
        assert!(endless.fill(1 << 20));
        drop(endless);
        assert!(gone.recv().is_err());
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
