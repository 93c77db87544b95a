//! The pieces of a compressed file: one or more whole frames each. Where they begin in its content, and how many bytes
//! of the file each has. Pure.
//!
//! A piece is what has to be read and decompressed for any packet in it, so it is also the block of its index. Frames are
//! told in their order, first where each begins, and later, when it was written, how long it is.

use std::collections::VecDeque;

use super::put_number;

/// Least content of a piece that others follow: small frames, as a quiet link makes them, are not worth an entry each.
const LEAST_LEN: u64 = 64 << 10;
/// Most bytes of the table: that of some 400 GB.
const MOST_BYTES: usize = 16 << 20;
/// Most bytes of an entry of the table, for content of a usual length.
pub const ENTRY_BYTES: usize = 6;

/// The pieces of a file being written.
#[derive(Debug, Default)]
pub struct Pieces {
    /// Where the last one begins in the content.
    last_at: Option<u64>,
    /// Where those begin that no record has reached.
    ahead: VecDeque<u64>,
    /// Where those begin that are not in the table.
    bounds: VecDeque<u64>,
    /// Bytes of content and of the file, of frames that were written.
    written: (u64, u64),
    /// The same of what is in the table.
    told: (u64, u64),
    table: Vec<u8>,
    count: u64,
}

impl Pieces {
    /// A frame begins at `at` in the content.
    pub fn begin_frame(&mut self, at: u64) {
        // The header stands alone: it is needed whatever is asked for.
        let begins = self
            .last_at
            .is_none_or(|last_at| last_at == 0 || at - last_at >= LEAST_LEN);
        if begins {
            self.last_at = Some(at);
            self.ahead.push_back(at);
            self.bounds.push_back(at);
        }
    }

    /// The next frame was written: so many bytes of content, and of the file.
    pub fn wrote(&mut self, content: u64, packed: u64) {
        if self.bounds.front() == Some(&self.written.0) {
            self.bounds.pop_front();
            self.end_piece();
        }
        self.written.0 += content;
        self.written.1 += packed;
    }

    fn end_piece(&mut self) {
        let (content, packed) = (self.written.0 - self.told.0, self.written.1 - self.told.1);
        if packed > 0 {
            put_number(content, &mut self.table);
            put_number(packed, &mut self.table);
            self.count += 1;
            self.told = self.written;
        }
    }

    /// Whether a record at `at` in the content, behind those before, is the first one of a piece.
    pub fn reaches(&mut self, at: u64) -> bool {
        let mut reached = false;
        while self.ahead.front().is_some_and(|begins| *begins <= at) {
            self.ahead.pop_front();
            reached = true;
        }
        reached
    }

    /// Bytes of content, and of the file, that were written.
    pub const fn written(&self) -> (u64, u64) {
        self.written
    }

    /// Bytes of the table so far.
    pub const fn table_len(&self) -> usize {
        self.table.len()
    }

    /// Whether there are more than an index may tell of.
    pub const fn are_too_many(&self) -> bool {
        self.table.len() > MOST_BYTES
    }

    /// Appends the table: how many pieces, and for each the bytes of its content and of the file.
    pub fn put(&mut self, out: &mut Vec<u8>) {
        self.end_piece();
        put_number(self.count, out);
        out.extend_from_slice(&self.table);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of these lengths, all written with a tenth of them; the entries of the table.
    fn entries(lens: &[u64]) -> Vec<u8> {
        let mut pieces = Pieces::default();
        let mut at = 0;
        for len in lens {
            pieces.begin_frame(at);
            at += len;
        }
        for len in lens {
            pieces.wrote(*len, len / 10);
        }
        let mut out = Vec::new();
        pieces.put(&mut out);
        assert_eq!(pieces.written(), (at, at / 10));
        out
    }

    #[test]
    fn small_frames_are_one_piece() {
        let mut expected = vec![3];
        // The header alone, then frames up to the first that begins behind 64 KiB, then the rest.
        for (content, packed) in [(500, 50), (65_540, 6554), (20, 2)] {
            put_number(content, &mut expected);
            put_number(packed, &mut expected);
        }
        assert_eq!(entries(&[500, 30_000, 35_530, 10, 20]), expected);
    }

    #[test]
    fn records_reach_pieces_in_their_order() {
        let mut pieces = Pieces::default();
        for at in [0, 500, 100_000, 200_000] {
            pieces.begin_frame(at);
        }
        assert!(pieces.reaches(600));
        assert!(!pieces.reaches(99_000));
        assert!(pieces.reaches(100_000));
        assert!(!pieces.reaches(100_050));
        assert!(pieces.reaches(210_000));
        assert!(!pieces.reaches(999_000));
    }
}
