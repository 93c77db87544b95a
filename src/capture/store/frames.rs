//! The whole frames of a compressed file that a killed run left. Pure: a reader in, content out.

use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;

use crate::outfile::packed::Codec;

/// Longest content of a frame that is believed.
pub const MOST_LEN: u64 = 64 << 20;

/// Where a frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where its content begins in that of the file.
    pub at: u64,
    /// Bytes of its content.
    pub len: u64,
    /// Bytes of the file.
    pub packed_len: u64,
}

/// Reads the content of whole frames and ends behind the last.
pub struct WholeFrames<R> {
    codec: Codec,
    file: Option<Counting<R>>,
    /// Content of a frame that is whole.
    content: Vec<u8>,
    /// Bytes of it that were handed out.
    taken: usize,
    content_bytes: u64,
    packed_bytes: u64,
    /// Frames that were read, where those are noted.
    frames: Option<Vec<Frame>>,
}

impl<R: BufRead> WholeFrames<R> {
    /// From the beginning of the file on.
    pub const fn new(codec: Codec, file: R) -> Self {
        Self {
            codec,
            file: Some(Counting { file, bytes: 0 }),
            content: Vec::new(),
            taken: 0,
            content_bytes: 0,
            packed_bytes: 0,
            frames: None,
        }
    }

    /// As [`Self::new`], and notes the frames that are read, for [`Self::take_frames`].
    pub fn noted(codec: Codec, file: R) -> Self {
        Self {
            frames: Some(Vec::new()),
            ..Self::new(codec, file)
        }
    }

    /// The frames that were read since, whether or not their content was handed out.
    pub fn take_frames(&mut self) -> impl Iterator<Item = Frame> {
        self.frames.iter_mut().flat_map(|frames| frames.drain(..))
    }

    /// Bytes of the file up to the end of the last whole frame that was read.
    pub const fn packed_bytes(&self) -> u64 {
        self.packed_bytes
    }

    /// Bytes of content up to there.
    pub const fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    /// Decodes the next frame; `false` where there is no whole one.
    fn next(&mut self) -> io::Result<bool> {
        self.content.clear();
        self.taken = 0;
        let Some(mut file) = self.file.take() else {
            return Ok(false);
        };
        if file.fill_buf()?.is_empty() {
            return Ok(false);
        }
        // Cut off in its middle, or not what was written: its checksum says so.
        let (file, read) = match self.codec {
            Codec::Gzip => {
                let mut decoder = GzDecoder::new(file).take(MOST_LEN + 1);
                let read = decoder.read_to_end(&mut self.content);
                (decoder.into_inner().into_inner(), read)
            }
            Codec::Zstd => {
                let decoder = zstd::Decoder::with_buffer(file)?.single_frame();
                let mut decoder = decoder.take(MOST_LEN + 1);
                let read = decoder.read_to_end(&mut self.content);
                (decoder.into_inner().finish(), read)
            }
        };
        if read.is_err() || self.content.len() as u64 > MOST_LEN {
            self.content.clear();
            return Ok(false);
        }
        let len = self.content.len() as u64;
        if let Some(frames) = &mut self.frames {
            frames.push(Frame {
                at: self.content_bytes,
                len,
                packed_len: file.bytes - self.packed_bytes,
            });
        }
        self.content_bytes += len;
        self.packed_bytes = file.bytes;
        self.file = Some(file);
        Ok(true)
    }
}

impl<R: BufRead> Read for WholeFrames<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.content.len() {
            if !self.next()? {
                return Ok(0);
            }
        }
        let rest = self.content.get(self.taken..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        if let (Some(to), Some(from)) = (buf.get_mut(..len), rest.get(..len)) {
            to.copy_from_slice(from);
        }
        self.taken += len;
        Ok(len)
    }
}

/// Counts what is taken of a file.
struct Counting<R> {
    file: R,
    bytes: u64,
}

impl<R: BufRead> Read for Counting<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read(buf)?;
        self.bytes += len as u64;
        Ok(len)
    }
}

impl<R: BufRead> BufRead for Counting<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.file.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.bytes += amount as u64;
        self.file.consume(amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outfile::packed::frame_of;

    const CODECS: [Codec; 2] = [Codec::Gzip, Codec::Zstd];

    fn read(codec: Codec, file: &[u8]) -> (Vec<u8>, u64, u64) {
        let mut frames = WholeFrames::new(codec, file);
        let mut content = Vec::new();
        frames.read_to_end(&mut content).unwrap();
        let (of_content, packed) = (frames.content_bytes(), frames.packed_bytes());
        (content, of_content, packed)
    }

    #[test]
    fn every_cut_leaves_the_whole_frames_before_it() {
        let parts = [b"one".repeat(50), b"two".repeat(3000), b"3".to_vec()];
        for codec in CODECS {
            let frames = parts.each_ref();
            let frames = frames.map(|part| frame_of(codec, 1, part.clone()).unwrap());
            let file = frames.concat();
            let mut ends = vec![0];
            for frame in &frames {
                ends.push(ends[ends.len() - 1] + frame.len());
            }
            for len in 0..=file.len() {
                let whole = ends.iter().rposition(|end| *end <= len).unwrap();
                let content = parts[..whole].concat();
                let told = (content.len() as u64, ends[whole] as u64);
                let (is, of_content, packed) = read(codec, &file[..len]);
                assert!(is == content, "{codec:?} {len}");
                assert_eq!((of_content, packed), told, "{codec:?} {len}");
            }
        }
    }

    #[test]
    fn a_frame_that_was_changed_is_none() {
        for codec in CODECS {
            let frames = [b"one", b"two"];
            let frames = frames.map(|part| frame_of(codec, 1, part.repeat(1000)).unwrap());
            let first = frames[0].len();
            // Behind the header, in which some bits mean nothing.
            for at in first + 10..first + frames[1].len() {
                let mut file = frames.concat();
                file[at] ^= 1;
                let (content, _, packed) = read(codec, &file);
                assert_eq!(
                    (content.len(), packed),
                    (3000, first as u64),
                    "{codec:?} {at}"
                );
            }
            assert_eq!(read(codec, b"no frame at all").0, b"");
        }
    }
}
