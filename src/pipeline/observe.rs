//! The first stage of a frame: every fact about it, gathered once. Pure.

use crate::mirror::direction::Direction;
use crate::mirror::own_macs::{MacPair, Shown};
use crate::pcap::cut_by::CutBy;
use crate::pipeline::worker::settings::WorkerSettings;
use crate::wire::decapsulate::Mirrored;
use crate::wire::inner::Inner;
use crate::wire::length::{Evidence, FrameLen, Verdict, believed, judge};
use crate::wire::outer::Pieces;

/// An inner frame with what the outside of it told.
pub(super) struct Frame<'a> {
    /// Arrival, nanoseconds since 1970.
    pub ts_ns: u64,
    /// What the tunnel said; `None` for a frame that was not encapsulated.
    pub mirrored: Option<&'a Mirrored<'a>>,
    /// The frame from its destination MAC on.
    pub bytes: &'a [u8],
    /// Bytes of it that the headers around it declare.
    pub carried_len: u32,
    /// Bytes at its start that we put there.
    pub added_len: u32,
    /// Bytes that the record of a capture lacks of what arrived.
    pub not_recorded: u32,
}

/// A frame with what the inside of it tells, and the verdict on its length.
pub(super) struct Observed<'a> {
    pub frame: &'a Frame<'a>,
    pub inner: &'a Inner,
    pub evidence: Evidence,
    /// As it is stored, with an Ethernet header that was put in front.
    pub lengths: FrameLen,
    /// As it was on the wire.
    pub wire_lengths: FrameLen,
    pub verdict: Verdict,
    /// Which way it went at the mirror source.
    pub direction: Direction,
    /// What cut it, where it is truncated, as far as the packet alone shows.
    pub cut_by: CutBy,
}

impl<'a> Observed<'a> {
    /// Reads the frame into `inner`, which is still empty, and judges its length.
    #[inline(always)]
    pub fn of(frame: &'a Frame<'a>, inner: &'a mut Inner, settings: &WorkerSettings) -> Self {
        inner.fill_in(frame.bytes);
        let inner = &*inner;
        let captured_len = u32::try_from(frame.bytes.len()).unwrap_or(u32::MAX);
        let evidence = Evidence {
            captured_len,
            carried_len: frame.carried_len,
            added_len: frame.added_len,
            not_recorded: frame.not_recorded,
            ip_offset: inner.ip_offset,
            ip_len: believed(inner.ip_len, captured_len.saturating_sub(inner.ip_offset)),
            outer_ip_len: frame.mirrored.map_or(0, |mirrored| mirrored.outer_ip_len),
            pieces: frame
                .mirrored
                .map_or(Pieces::One, |mirrored| mirrored.pieces),
            frame_len: inner.frame_len,
        };
        let (lengths, verdict) = judge(&evidence, settings.mtu);
        let direction = frame.mirrored.map_or(Direction::Unknown, |mirrored| {
            Direction::of(mirrored.source, inner)
        });
        let cut_by = match verdict {
            Verdict::Truncated => cut_by(&evidence, settings.mtu),
            Verdict::Whole | Verdict::Oversize | Verdict::Unknown => CutBy::Unclear,
        };
        Self {
            frame,
            inner,
            evidence,
            lengths,
            wire_lengths: lengths.without(frame.added_len),
            verdict,
            direction,
            cut_by,
        }
    }
}

impl Observed<'_> {
    /// The frame's hardware addresses, where it was mirrored with them.
    #[inline]
    pub fn macs(&self) -> Option<&MacPair> {
        let is_mirrored = self.frame.mirrored.is_some() && self.frame.added_len == 0;
        self.frame.bytes.first_chunk().filter(|_| is_mirrored)
    }

    /// A number that all packets between two addresses share; 0 where there is no IP packet.
    pub fn conversation(&self) -> u32 {
        let Some(ip) = &self.inner.ip else {
            return 0;
        };
        let words = [ip.header.src.words, ip.header.dst.words];
        let sum = words
            .iter()
            .flatten()
            .fold(0_u64, |sum, word| sum.wrapping_add(*word));
        // The upper bits of a product depend on all bits of the sum (Fibonacci hashing).
        (sum.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32
    }

    /// What they show.
    #[inline]
    pub fn shown(&self) -> Option<Shown> {
        let ip = self.inner.ip.as_ref();
        Shown::of(self.direction, ip.map_or(0, |ip| ip.header.ttl))
    }
}

/// What cut a frame, as far as the packet alone shows.
const fn cut_by(evidence: &Evidence, mtu: u32) -> CutBy {
    if matches!(evidence.pieces, Pieces::FirstFragments { .. }) {
        CutBy::MissingFragments
    } else if evidence.not_recorded > 0 {
        CutBy::SnapLength
    } else if evidence.outer_ip_len == mtu {
        CutBy::Mtu
    } else {
        CutBy::Unclear
    }
}
