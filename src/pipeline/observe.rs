//! The first stage of a frame: every fact about it, gathered once. Pure.

use crate::mirror::direction::Direction;
use crate::pcap::record::CutBy;
use crate::pipeline::worker::WorkerSettings;
use crate::wire::decapsulate::Mirrored;
use crate::wire::inner::Inner;
use crate::wire::length::{Evidence, FrameLen, Verdict, judge};

/// An inner frame with what the outside of it told.
pub(super) struct Frame<'a> {
    /// Arrival, nanoseconds since 1970.
    pub ts_ns: u64,
    /// What the tunnel said; `None` for a frame that was not encapsulated.
    pub mirrored: Option<&'a Mirrored<'a>>,
    /// The frame from its destination MAC on.
    pub bytes: &'a [u8],
    /// Bytes of it that the tunnel carried.
    pub carried_len: u32,
    /// Length of the outer IP packet in bytes; 0 when there was none.
    pub outer_ip_len: u32,
}

/// A frame with what the inside of it tells, and the verdict on its length.
pub(super) struct Observed<'a> {
    pub frame: &'a Frame<'a>,
    pub inner: Inner,
    pub evidence: Evidence,
    pub lengths: FrameLen,
    pub verdict: Verdict,
    /// Which way it went at the mirror source.
    pub direction: Direction,
    /// What cut it, as far as the packet alone shows.
    pub cut_by: CutBy,
}

impl<'a> Observed<'a> {
    /// Reads the frame and judges its length.
    #[inline]
    pub fn of(frame: &'a Frame<'a>, settings: &WorkerSettings) -> Self {
        let mut inner = Inner::default();
        inner.fill_in(frame.bytes);
        let evidence = Evidence {
            captured_len: u32::try_from(frame.bytes.len()).unwrap_or(u32::MAX),
            carried_len: frame.carried_len,
            ip_offset: inner.ip_offset,
            ip_len: inner.ip_len,
            frame_len: inner.frame_len,
        };
        let (lengths, verdict) = judge(evidence, settings.max_inner_ip());
        let direction = frame.mirrored.map_or(Direction::Unknown, |mirrored| {
            Direction::of(mirrored.source, &inner)
        });
        let cut_by = if frame.carried_len > evidence.captured_len {
            CutBy::SnapLength
        } else if frame.outer_ip_len == settings.mtu {
            CutBy::Mtu
        } else {
            CutBy::Unclear
        };
        Self {
            frame,
            inner,
            evidence,
            lengths,
            verdict,
            direction,
            cut_by,
        }
    }
}
