//! Some ranges of a compressed file's content read as if they were all of it: only the pieces that hold them are read
//! and decompressed, and every byte read is counted.
//!
//! A piece is whole frames, and each frame has a checksum: a piece is as it was written, or it is damaged. One that is
//! damaged is an error, once; what is read next is what follows it.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use zstd::bulk::Decompressor;

use crate::capture::store::index::query::Piece;
use crate::outfile::packed::Codec;

/// A piece of a file that cannot be decompressed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len} compressed bytes there are damaged ({why})")]
pub struct DamagedPiece {
    /// Where in the file it begins.
    pub at: u64,
    /// Bytes of the file.
    pub len: u64,
    /// What is wrong with it.
    pub why: String,
    /// Bytes of the ranges that are lost with it.
    pub lost: u64,
    /// It holds what is needed for packets behind it: nothing comes any more.
    pub is_needed: bool,
}

/// Ranges of a compressed file's content, one behind the other.
pub struct Frames {
    file: File,
    /// Those that hold the ranges, in their order.
    pieces: Vec<Piece>,
    /// Place and length in the content, in their order.
    ranges: Arc<[(u64, u64)]>,
    /// The range being read, and the bytes of it that were.
    at: usize,
    within: u64,
    /// The piece that is decompressed, and its content.
    piece: Option<Piece>,
    content: Vec<u8>,
    packed: Vec<u8>,
    zstd: Option<Decompressor<'static>>,
    read: Arc<AtomicU64>,
}

impl Frames {
    /// Reads `ranges` of the content of `file`, which lie in `pieces`, and counts what is read of it in `read`.
    pub const fn new(
        file: File,
        pieces: Vec<Piece>,
        ranges: Arc<[(u64, u64)]>,
        read: Arc<AtomicU64>,
    ) -> Self {
        Self {
            file,
            pieces,
            ranges,
            at: 0,
            within: 0,
            piece: None,
            content: Vec::new(),
            packed: Vec::new(),
            zstd: None,
            read,
        }
    }

    /// Steps over ranges that are read, and tells the place in the content that is next.
    fn next_at(&mut self) -> Option<(u64, u64)> {
        loop {
            let (at, len) = self.ranges.get(self.at).copied()?;
            if self.within < len {
                return Some((at + self.within, len - self.within));
            }
            (self.at, self.within) = (self.at + 1, 0);
        }
    }

    /// Decompresses the piece that holds the byte at `at` of the content.
    fn load(&mut self, at: u64) -> io::Result<Piece> {
        let behind = self.pieces.partition_point(|piece| piece.at <= at);
        let piece = self.pieces.get(behind.wrapping_sub(1)).copied();
        let piece = piece.filter(|piece| at < piece.at + piece.len);
        let no_piece = || io::Error::new(ErrorKind::InvalidData, "no frame has this place");
        let piece = piece.ok_or_else(no_piece)?;
        self.piece = None;
        match self.decompress(&piece) {
            Ok(()) => {
                self.piece = Some(piece);
                Ok(piece)
            }
            Err(error) => {
                let damaged = DamagedPiece {
                    at: piece.packed_at,
                    len: piece.packed_len,
                    why: error.to_string(),
                    lost: self.leave_out(&piece),
                    is_needed: piece.is_needed,
                };
                Err(io::Error::new(ErrorKind::InvalidData, damaged))
            }
        }
    }

    fn decompress(&mut self, piece: &Piece) -> io::Result<()> {
        let len = |bytes: u64| usize::try_from(bytes).map_err(io::Error::other);
        let (content_len, packed_len) = (len(piece.len)?, len(piece.packed_len)?);
        self.packed.resize(packed_len, 0);
        self.file.read_exact_at(&mut self.packed, piece.packed_at)?;
        self.read.fetch_add(piece.packed_len, Ordering::Relaxed);
        self.content.clear();
        self.content.reserve(content_len);
        match Codec::of_frame(&self.packed) {
            Some(Codec::Zstd) => {
                let zstd = match &mut self.zstd {
                    Some(zstd) => zstd,
                    none => none.insert(Decompressor::new()?),
                };
                zstd.decompress_to_buffer(&self.packed, &mut self.content)?;
            }
            Some(Codec::Gzip) => {
                let decoder = MultiGzDecoder::new(self.packed.as_slice());
                let most = piece.len.saturating_add(1);
                decoder.take(most).read_to_end(&mut self.content)?;
            }
            None => return Err(io::Error::other("no frame begins there")),
        }
        match self.content.len() == content_len {
            true => Ok(()),
            false => Err(io::Error::other(
                "it holds more or less than its index says",
            )),
        }
    }

    /// Steps over a piece, or to the end where what follows cannot be read without it; tells how many bytes of the
    /// ranges in it are left out.
    fn leave_out(&mut self, piece: &Piece) -> u64 {
        let end = piece.at + piece.len;
        let mut lost = 0;
        while let Some((at, left)) = self.next_at()
            && at < end
        {
            let len = left.min(end - at);
            self.within += len;
            lost += len;
        }
        if piece.is_needed {
            self.at = self.ranges.len();
        }
        lost
    }
}

impl Read for Frames {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((at, left)) = self.next_at() else {
            return Ok(0);
        };
        let holds = |piece: &Piece| (piece.at..piece.at + piece.len).contains(&at);
        let piece = match self.piece.filter(holds) {
            Some(piece) => piece,
            None => self.load(at)?,
        };
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let from = usize::try_from(at - piece.at).unwrap_or(usize::MAX);
        let rest = self.content.get(from..).unwrap_or_default();
        let len = rest.len().min(left).min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..len), rest.get(..len)) {
            to.copy_from_slice(from);
        }
        self.within += len as u64;
        Ok(len)
    }
}
