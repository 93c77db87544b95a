//! What cut a packet, and the words for it in a capture.

/// What cut a packet, as far as the packet alone shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutBy {
    /// Its outer IP packet is exactly one MTU long.
    Mtu,
    /// The capture file that was replayed held only a part of it.
    SnapLength,
    /// Later fragments of its outer packet never came.
    MissingFragments,
    /// Not to be seen.
    Unclear,
}

/// What follows `truncated: 954 of 1454 bytes missing` for each cause.
pub const fn cause_text(cut_by: CutBy) -> &'static str {
    match cut_by {
        CutBy::Mtu => " (mirror MTU)",
        CutBy::SnapLength => " (snap length of the replayed capture)",
        CutBy::MissingFragments => " (later outer fragments)",
        CutBy::Unclear => "",
    }
}
