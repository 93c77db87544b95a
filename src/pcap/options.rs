//! Options of pcapng blocks (draft-ietf-opsawg-pcapng §3.5), read and written, and numbers in the byte order of
//! their section, pure.

/// Code of a comment, in every block.
pub const COMMENT: u16 = 1;

/// The options in some bytes, up to the end of options or the first that does not fit.
#[derive(Clone, Debug)]
pub struct Options<'b> {
    big_endian: bool,
    rest: &'b [u8],
}

impl<'b> Options<'b> {
    /// Those that `bytes` begin with.
    pub const fn new(bytes: &'b [u8], big_endian: bool) -> Self {
        Self {
            big_endian,
            rest: bytes,
        }
    }
}

impl<'b> Iterator for Options<'b> {
    type Item = (u16, &'b [u8]);

    #[inline]
    fn next(&mut self) -> Option<(u16, &'b [u8])> {
        let code = number16(self.rest, 0, self.big_endian);
        let len = usize::from(number16(self.rest, 2, self.big_endian));
        let value = self.rest.get(4..4 + len).filter(|_| code != 0)?;
        self.rest = self
            .rest
            .get(4 + len.next_multiple_of(4)..)
            .unwrap_or_default();
        Some((code, value))
    }
}

/// Appends an option, little-endian, padded to four bytes. What does not fit its 16-bit length is cut.
pub fn put(code: u16, value: &[u8], out: &mut Vec<u8>) {
    let value = value.get(..usize::from(u16::MAX)).unwrap_or(value);
    out.extend_from_slice(&code.to_le_bytes());
    let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(value);
    let padding = value.len().wrapping_neg() % 4;
    out.extend_from_slice([0; 3].get(..padding).unwrap_or_default());
}

/// A 16-bit number at `at`; 0 past the end.
pub fn number16(bytes: &[u8], at: usize, big_endian: bool) -> u16 {
    let bytes = bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk::<2>)
        .copied()
        .unwrap_or_default();
    if big_endian {
        u16::from_be_bytes(bytes)
    } else {
        u16::from_le_bytes(bytes)
    }
}

/// A 32-bit number at `at`; 0 past the end.
pub fn number32(bytes: &[u8], at: usize, big_endian: bool) -> u32 {
    let bytes = bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk::<4>)
        .copied()
        .unwrap_or_default();
    if big_endian {
        u32::from_be_bytes(bytes)
    } else {
        u32::from_le_bytes(bytes)
    }
}

/// A 64-bit number at `at`; 0 where a half of it is past the end.
pub fn number64(bytes: &[u8], at: usize, big_endian: bool) -> u64 {
    let halves = [at, at + 4].map(|at| u64::from(number32(bytes, at, big_endian)));
    let [high, low] = if big_endian {
        halves
    } else {
        [halves[1], halves[0]]
    };
    (high << 32) | low
}

/// A block around what `body` appends.
pub fn block(kind: u32, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    body(out);
    let total = u32::try_from(out.len() - start + 4).unwrap_or(u32::MAX);
    if let Some(len) = out.get_mut(start + 4..start + 8) {
        len.copy_from_slice(&total.to_le_bytes());
    }
    out.extend_from_slice(&total.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_end_at_the_end_or_where_one_does_not_fit() {
        let bytes = [
            0, 1, 0, 3, b'a', b'b', b'c', 0, // a comment of three bytes, padded
            0, 4, 0, 0, // an option without a value
            0, 0, 0, 0, // the end of options
            0, 1, 0, 0,
        ];
        let read: Vec<_> = Options::new(&bytes, true).collect();
        assert_eq!(read, [(1, &b"abc"[..]), (4, &[])]);
        for len in 0..bytes.len() {
            let read = Options::new(&bytes[..len], true).count();
            assert_eq!(read, usize::from(len >= 7) + usize::from(len >= 12));
        }
    }

    #[test]
    fn numbers_have_the_byte_order_of_their_section() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(number16(&bytes, 1, true), 0x0203);
        assert_eq!(number16(&bytes, 1, false), 0x0302);
        assert_eq!(number32(&bytes, 4, true), 0x0506_0708);
        assert_eq!(number64(&bytes, 0, true), 0x0102_0304_0506_0708);
        assert_eq!(number64(&bytes, 0, false), 0x0807_0605_0403_0201);
        assert_eq!(number16(&bytes, 7, false), 0);
    }
}
