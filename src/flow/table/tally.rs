//! What one direction of a flow counts: [`Counts`] at half the size.

use crate::flow::counts::Counts;

/// [`Counts`] of one direction at half the size; what does not fit is moved to [`super::parts::Large`].
#[derive(Clone, Copy)]
pub(super) struct Tally {
    pub(super) packets: u32,
    pub(super) ip_bytes: u32,
    pub(super) l2_bytes: u32,
    pub(super) captured_bytes: u32,
    pub(super) truncated: u32,
    pub(super) missing_bytes: u32,
    pub(super) max_ip_len: u16,
    pub(super) tcp_flags: u16,
}

impl Tally {
    pub(super) const NOTHING: Self = Self {
        packets: 0,
        ip_bytes: 0,
        l2_bytes: 0,
        captured_bytes: 0,
        truncated: 0,
        missing_bytes: 0,
        max_ip_len: 0,
        tcp_flags: 0,
    };

    /// `counts` at half the size, if they fit.
    pub(super) fn of(counts: &Counts) -> Option<Self> {
        let narrow = |count| u32::try_from(count).ok();
        Some(Self {
            packets: narrow(counts.packets)?,
            ip_bytes: narrow(counts.ip_bytes)?,
            l2_bytes: narrow(counts.l2_bytes)?,
            captured_bytes: narrow(counts.captured_bytes)?,
            truncated: narrow(counts.truncated)?,
            missing_bytes: narrow(counts.missing_bytes)?,
            max_ip_len: u16::try_from(counts.max_ip_len).ok()?,
            tcp_flags: counts.tcp_flags,
        })
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            packets: self.packets.into(),
            ip_bytes: self.ip_bytes.into(),
            l2_bytes: self.l2_bytes.into(),
            captured_bytes: self.captured_bytes.into(),
            truncated: self.truncated.into(),
            missing_bytes: self.missing_bytes.into(),
            max_ip_len: self.max_ip_len.into(),
            tcp_flags: self.tcp_flags,
        }
    }

    /// Whether there were packets.
    pub(super) const fn is_used(&self) -> bool {
        self.packets > 0
    }

    /// The same without what adds up.
    pub(super) const fn emptied(self) -> Self {
        Self {
            max_ip_len: self.max_ip_len,
            tcp_flags: self.tcp_flags,
            ..Self::NOTHING
        }
    }
}
