//! How much of each frame a capture keeps. Pure.

use crate::pcap::record::SNAPLEN;
use crate::wire::headers::headers_len;
use crate::wire::inner::Inner;

/// What is asked for beside the most that readers accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Most bytes of a frame.
    pub snaplen: u32,
    /// Nothing behind the headers.
    pub headers: bool,
}

/// What left bytes of a frame out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// It was longer than the snap length.
    SnapLength,
    /// They stood behind its headers.
    BehindHeaders,
}

impl Slice {
    /// Keeps all that readers accept.
    pub const ALL: Self = Self {
        snaplen: SNAPLEN,
        headers: false,
    };

    /// The bytes that are kept of `frame`, of which `inner` tells what was read, and what left out the others.
    pub fn of<'a>(&self, frame: &'a [u8], inner: &Inner) -> (&'a [u8], Option<LeftOut>) {
        let headers = match self.headers {
            true => headers_len(frame, inner),
            false => frame.len(),
        };
        let snaplen = self.snaplen as usize;
        let (len, left_out) = match headers < frame.len() && headers <= snaplen {
            true => (headers, Some(LeftOut::BehindHeaders)),
            false if snaplen < frame.len() => (snaplen, Some(LeftOut::SnapLength)),
            false => (frame.len(), None),
        };
        (frame.get(..len).unwrap_or(frame), left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tighter_one_counts() {
        // Not IP: 14 bytes of header.
        let frame = [0xee; 100];
        let inner = Inner::read(&frame);
        let kept = |snaplen, headers| {
            let (kept, left_out) = Slice { snaplen, headers }.of(&frame, &inner);
            (kept.len(), left_out)
        };
        assert_eq!(kept(200, false), (100, None));
        assert_eq!(kept(100, false), (100, None));
        assert_eq!(kept(99, false), (99, Some(LeftOut::SnapLength)));
        assert_eq!(kept(200, true), (14, Some(LeftOut::BehindHeaders)));
        assert_eq!(kept(14, true), (14, Some(LeftOut::BehindHeaders)));
        assert_eq!(kept(13, true), (13, Some(LeftOut::SnapLength)));
        let (kept, left_out) = Slice {
            snaplen: 14,
            headers: true,
        }
        .of(&frame[..14], &inner);
        assert_eq!((kept.len(), left_out), (14, None));
    }
}
