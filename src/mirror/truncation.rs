//! The truncation ledger of one mirror session, and the advice that follows from it.
//!
//! Two things cut mirrored packets: a packet length set in the mirror session (Huawei Cloud's default
//! is 96 bytes), which leaves every cut packet with the same size, and an MTU on the way, which makes
//! the outer IP packet exactly as long as that MTU. They need different remedies.

use crate::wire::length::{Evidence, FrameLen, Verdict, max_inner_frame};

/// Distinct sizes remembered; more are counted together. Sessions that are cut show one.
const SIZES_KEPT: usize = 64;

/// Interface MTUs of clouds and tunnels, to tell an MTU cut from a session's packet length.
const COMMON_MTUS: [u32; 12] = [
    1280, 1400, 1420, 1450, 1460, 1480, 1500, 8500, 8896, 8950, 9000, 9001,
];

/// How often each frame size was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SizeCounts {
    sizes: Vec<(u32, u64)>,
    others: u64,
}

impl SizeCounts {
    fn add(&mut self, size: u32, count: u64) {
        if let Some((_, seen)) = self.sizes.iter_mut().find(|(known, _)| *known == size) {
            *seen += count;
        } else if self.sizes.len() < SIZES_KEPT {
            self.sizes.push((size, count));
        } else {
            self.others += count;
        }
    }

    fn total(&self) -> u64 {
        self.others + self.sizes.iter().map(|(_, seen)| seen).sum::<u64>()
    }

    fn of(&self, size: u32) -> u64 {
        self.sizes
            .iter()
            .find(|(known, _)| *known == size)
            .map_or(0, |(_, seen)| *seen)
    }

    /// The size that at least nine in ten share.
    fn constant(&self) -> Option<u32> {
        let (size, seen) = self.sizes.iter().max_by_key(|(_, seen)| *seen)?;
        (seen.saturating_mul(10) >= self.total().saturating_mul(9)).then_some(*size)
    }

    fn merge(&mut self, other: &Self) {
        for (size, seen) in &other.sizes {
            self.add(*size, *seen);
        }
        self.others += other.others;
    }
}

/// What cut a session's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The session's packet length, in bytes of inner frame.
    SessionPacketLength(u32),
    /// An MTU, in bytes of outer IP packet.
    Mtu(u32),
    /// The snap length of the capture that was replayed: not the mirror.
    SnapLength,
    /// Cut at varying sizes.
    Unclear,
}

/// Counts of one mirror session. Order of arrival does not matter, so counts of several workers add up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Truncation {
    /// Packets cut before they reached us.
    pub truncated: u64,
    /// Whole packets larger than the mirror's rule allows.
    pub oversize: u64,
    /// Bytes cut off in all truncated packets.
    pub missing_bytes: u64,
    /// Largest inner IP packet, in bytes: by its own declaration, or what is known of the frame where it
    /// declares none.
    pub largest_inner_ip: u32,
    /// Truncated packets of which the tunnel carried more than the replayed capture holds.
    pub cut_in_capture: u64,
    /// Bytes cut off those.
    missing_in_capture: u64,
    unknown: SizeCounts,
    /// Sizes that truncated packets were left with, those cut in the capture apart.
    cut: SizeCounts,
    outer_ipv6: bool,
}

impl Truncation {
    /// Counts one frame: what was known of it and what came of that.
    pub fn add(
        &mut self,
        evidence: &Evidence,
        lengths: FrameLen,
        verdict: Verdict,
        outer_ipv6: bool,
    ) {
        self.outer_ipv6 |= outer_ipv6;
        self.largest_inner_ip = self.largest_inner_ip.max(evidence.ip_bytes(lengths));
        match verdict {
            Verdict::Whole => {}
            Verdict::Oversize => self.oversize += 1,
            Verdict::Truncated => {
                self.truncated += 1;
                self.missing_bytes += u64::from(lengths.missing());
                if evidence.carried_len > evidence.captured_len {
                    self.cut_in_capture += 1;
                    self.missing_in_capture += u64::from(lengths.missing());
                } else {
                    self.cut.add(lengths.captured, 1);
                }
            }
            Verdict::Unknown => self.unknown.add(lengths.captured, 1),
        }
    }

    /// Adds the counts of another worker.
    pub fn merge(&mut self, other: &Self) {
        self.truncated += other.truncated;
        self.oversize += other.oversize;
        self.missing_bytes += other.missing_bytes;
        self.cut_in_capture += other.cut_in_capture;
        self.missing_in_capture += other.missing_in_capture;
        self.largest_inner_ip = self.largest_inner_ip.max(other.largest_inner_ip);
        self.outer_ipv6 |= other.outer_ipv6;
        self.unknown.merge(&other.unknown);
        self.cut.merge(&other.cut);
    }

    /// Frames of unknown length.
    pub fn unknown(&self) -> u64 {
        self.unknown.total()
    }

    /// Frames of unknown length that are exactly as long as this session's cut size, or as the longest
    /// frame an outer packet of `mtu` bytes can carry: probably cut, not provably.
    pub fn suspect(&self, mtu: u32) -> u64 {
        let at_mtu = max_inner_frame(mtu, self.outer_ipv6);
        let at_cut = self.cut_size().filter(|size| *size != at_mtu);
        self.unknown.of(at_mtu) + at_cut.map_or(0, |size| self.unknown.of(size))
    }

    /// The size of inner frame every cut packet was left with, in bytes, when it is one.
    pub fn cut_size(&self) -> Option<u32> {
        self.cut.constant()
    }

    /// What cut the packets; `None` when none was.
    pub fn cause(&self, mtu: u32) -> Option<Cause> {
        if self.truncated == 0 {
            return None;
        }
        if self.cut_in_capture == self.truncated {
            return Some(Cause::SnapLength);
        }
        let Some(size) = self.cut_size() else {
            return Some(Cause::Unclear);
        };
        let outer_ip_len = size.saturating_add(if self.outer_ipv6 { 56 } else { 36 });
        if outer_ip_len == mtu || COMMON_MTUS.contains(&outer_ip_len) {
            Some(Cause::Mtu(outer_ip_len))
        } else {
            Some(Cause::SessionPacketLength(size))
        }
    }

    /// What happened and what to do, in words a network engineer can act on; `None` when every packet
    /// is whole and within the rule. `overhead` is what the cloud wants kept free below the MTU.
    pub fn advice(&self, packets: u64, mtu: u32, overhead: u32) -> Option<String> {
        let mut sentences = Vec::new();
        let arrived_cut = |truncated: u64, missing: u64| {
            let share = percent(truncated, packets);
            format!(
                "{truncated} of {packets} packets ({share}) arrived cut, {missing} bytes missing"
            )
        };
        let by_mirror = arrived_cut(
            self.truncated - self.cut_in_capture,
            self.missing_bytes - self.missing_in_capture,
        );
        match self.cause(mtu) {
            Some(Cause::SessionPacketLength(size)) => sentences.push(format!(
                "{by_mirror}: cut packets keep exactly {size} bytes, so the mirror session's packet length is \
                 set to {size}. Raise it in the cloud console to get whole packets."
            )),
            Some(Cause::Mtu(outer)) => sentences.push(format!(
                "{by_mirror}: their outer packets are exactly {outer} bytes long, so an MTU of {outer} cuts \
                 them. Raise the MTU between mirror source and target by {overhead}, or lower the mirrored \
                 interface's MTU to {}.",
                outer.saturating_sub(overhead)
            )),
            Some(Cause::Unclear) => sentences.push(format!(
                "{by_mirror}, at varying sizes: several packet lengths or MTUs on the way, or a capture cut \
                 more than once."
            )),
            Some(Cause::SnapLength) | None => {}
        }
        if self.cut_in_capture > 0 {
            let in_capture = arrived_cut(self.cut_in_capture, self.missing_in_capture);
            sentences.push(format!(
                "{in_capture}: the tunnel carried more, so the capture that was replayed cut them itself. \
                 Record it with a larger snap length (tcpdump -s 0)."
            ));
        }
        if self.oversize > 0 {
            let limit = mtu.saturating_sub(overhead);
            sentences.push(format!(
                "{} packets arrived whole but are larger than {limit} bytes (MTU {mtu} minus {overhead}), the \
                 largest {}: on a path with MTU {mtu} they would be cut. Lower the mirrored interface's MTU to \
                 {limit}, or tell the true one with --mtu.",
                self.oversize, self.largest_inner_ip
            ));
        }
        let suspect = self.suspect(mtu);
        if suspect > 0 {
            sentences.push(format!(
                "{suspect} packets without a declared length are exactly as long as the cut: probably cut too."
            ));
        }
        (!sentences.is_empty()).then(|| sentences.join(" "))
    }
}

/// `part` of `whole` for people: "12.5 %".
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "0 %".to_owned();
    }
    let share = part as f64 * 100.0 / whole as f64;
    if share > 0.0 && share < 0.1 {
        "<0.1 %".to_owned()
    } else {
        format!("{share:.1} %")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(counts: &mut Truncation, captured: u32, carried: u32, orig: u32, verdict: Verdict) {
        let evidence = Evidence {
            captured_len: captured,
            carried_len: carried,
            ip_len: if verdict == Verdict::Unknown {
                0
            } else {
                orig - 14
            },
            ..Evidence::default()
        };
        counts.add(&evidence, FrameLen { captured, orig }, verdict, false);
    }

    fn cut(counts: &mut Truncation, captured: u32, orig: u32) {
        add(counts, captured, captured, orig, Verdict::Truncated);
    }

    fn unknown(counts: &mut Truncation, captured: u32) {
        add(counts, captured, captured, captured, Verdict::Unknown);
    }

    #[test]
    fn a_session_of_96_bytes() {
        let mut counts = Truncation::default();
        unknown(&mut counts, 96);
        unknown(&mut counts, 42);
        cut(&mut counts, 96, 1514);
        cut(&mut counts, 96, 200);
        assert_eq!(counts.cause(1500), Some(Cause::SessionPacketLength(96)));
        assert_eq!(
            (counts.suspect(1500), counts.unknown(), counts.missing_bytes),
            (1, 2, 1522)
        );
        let advice = counts.advice(10, 1500, 64).unwrap();
        assert!(
            advice.contains("2 of 10 packets (20.0 %)")
                && advice.contains("packet length is set to 96"),
            "{advice}"
        );
    }

    #[test]
    fn an_mtu_cut() {
        let mut counts = Truncation::default();
        cut(&mut counts, 1464, 1514);
        unknown(&mut counts, 1464);
        assert_eq!(counts.cause(1500), Some(Cause::Mtu(1500)));
        assert_eq!(
            counts.suspect(1500),
            1,
            "cut size and MTU maximum are one size, counted once"
        );
        assert!(counts.advice(2, 1500, 64).unwrap().contains("MTU to 1436"));
        let mut jumbo = Truncation::default();
        cut(&mut jumbo, 8965, 9015);
        assert_eq!(jumbo.cause(1500), Some(Cause::Mtu(9001)));
    }

    #[test]
    fn a_snap_length_is_not_the_mirrors() {
        let mut counts = Truncation::default();
        add(&mut counts, 90, 110, 110, Verdict::Truncated);
        assert_eq!(counts.cause(1500), Some(Cause::SnapLength));
        cut(&mut counts, 96, 110);
        assert_eq!(counts.cause(1500), Some(Cause::SessionPacketLength(96)));
        assert!(counts.advice(9, 1500, 64).is_some());
    }

    #[test]
    fn order_does_not_matter_and_workers_add_up() {
        let (mut one, mut two, mut all) = (
            Truncation::default(),
            Truncation::default(),
            Truncation::default(),
        );
        unknown(&mut one, 96);
        cut(&mut two, 96, 100);
        cut(&mut all, 96, 100);
        unknown(&mut all, 96);
        one.merge(&two);
        assert_eq!(one, all);
        assert_eq!(one.suspect(1500), 1);
    }

    #[test]
    fn varying_sizes_have_no_single_cause_and_bounded_memory() {
        let mut counts = Truncation::default();
        for size in 100..300 {
            cut(&mut counts, size, 1514);
        }
        assert_eq!(counts.cause(1500), Some(Cause::Unclear));
        assert_eq!(
            (counts.cut.sizes.len(), counts.cut.total()),
            (SIZES_KEPT, 200)
        );
        assert_eq!(Truncation::default().advice(5, 1500, 64), None);
    }
}
