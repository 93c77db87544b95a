//! The truncation ledger of one mirror session, and the advice that follows from it.
//!
//! Two things cut mirrored packets: a packet length set in the mirror session (Huawei Cloud's default
//! is 96 bytes), which leaves every cut packet with the same size, and an MTU on the way, which makes
//! the outer IP packet exactly as long as that MTU. They need different remedies. A third one cuts nothing
//! but costs as much: outer packets that are fragmented on the way.
//!
//! A cause is told only where no packet contradicts it, and a remedy names the number that lets the largest
//! packet seen through, with the headers that really stood around it.

use super::series::Stretch;
use super::sizes::{SIZES_KEPT, Size, SizeCounts};
use super::words::{counted, percent};
use crate::wire::length::{Evidence, FrameLen, Verdict};
use crate::wire::outer::Pieces;

/// Most bytes of memory that a session's sizes take, in two lists.
pub const MEMORY_BYTES: usize = 2 * SIZES_KEPT * size_of::<(Size, u64)>();

/// Interface MTUs of clouds and tunnels, to tell an MTU cut from a session's packet length.
const COMMON_MTUS: [u32; 12] = [
    1280, 1400, 1420, 1450, 1460, 1480, 1500, 8500, 8896, 8950, 9000, 9001,
];

/// Longest IP packet without the jumbo payload option.
const MAX_IP_LEN: u32 = 65_535;

/// What cut a session's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The session's packet length, in bytes of inner frame.
    SessionPacketLength(u32),
    /// An MTU, in bytes of outer IP packet.
    Mtu(u32),
    /// The snap length of the capture that was replayed: not the mirror.
    SnapLength,
    /// Later fragments of the outer packets never came, or were not captured: not the mirror.
    MissingFragments,
    /// All have one size of inner frame, in bytes, but larger frames came too: nothing cuts there.
    Contradicted(u32),
    /// Cut at varying sizes.
    Unclear,
}

impl Cause {
    /// Its name in the summary and the status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SessionPacketLength(_) => "session_packet_length",
            Self::Mtu(_) => "mtu",
            Self::SnapLength => "snap_length",
            Self::MissingFragments => "missing_fragments",
            Self::Contradicted(_) | Self::Unclear => "unclear",
        }
    }

    /// The MTU, in bytes of outer IP packet, where one cuts.
    pub const fn mtu(self) -> Option<u32> {
        match self {
            Self::Mtu(mtu) => Some(mtu),
            _ => None,
        }
    }
}

/// What is known of the way from a mirror source to its target, beside the packets of one session.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Its MTU as it was told to us (`--mtu`), in bytes.
    pub mtu: u32,
    /// Bytes of it that the cloud recommends to keep free.
    pub recommended_overhead: u32,
    /// Largest outer IP packet that came along it in any session, in bytes.
    pub largest_outer: u32,
}

/// Counts of one mirror session. Order of arrival does not matter, so counts of several workers add up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Truncation {
    /// Packets cut before they reached us.
    pub truncated: u64,
    /// Whole packets that are larger than one outer packet of the path's MTU carries.
    pub oversize: u64,
    /// Those of them that came in fragments, and those where that is not to be seen.
    oversize_fragmented: u64,
    oversize_unseen: u64,
    /// Packets whose outer packets came in fragments.
    pub fragmented: u64,
    /// Bytes cut off in all truncated packets.
    pub missing_bytes: u64,
    /// Truncated packets of which the tunnel carried more than the replayed capture holds.
    pub cut_in_capture: u64,
    /// Bytes cut off those.
    missing_in_capture: u64,
    /// Truncated packets of which only the first outer fragments came, and the bytes they lack.
    without_fragments: u64,
    missing_in_fragments: u64,
    unknown: SizeCounts,
    /// Sizes that truncated packets were left with, those cut in the capture or by lost fragments apart.
    cut: SizeCounts,
    /// Of packets that arrived with all their bytes, recorded or not.
    came: Largest,
    /// Of packets that arrived cut, as they declare themselves.
    declared: Largest,
    /// Inner frame that arrived, in bytes.
    largest_frame: u32,
    /// Outer IP packet, in bytes.
    largest_outer: u32,
    /// Outer IP packet that surely came in one piece, in bytes.
    largest_one_piece: u32,
    /// Fragment of an outer IP packet, in bytes.
    largest_fragment: u32,
    /// Most bytes of outer packet around an inner IP packet.
    overhead: u32,
    /// The least of the largest sizes above that whole packets have: one in an outer packet up to this, in
    /// bytes, is the largest of nothing.
    ordinary: u32,
}

/// The largest of some packets, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Largest {
    /// Inner IP packet.
    ip: u32,
    /// Inner frame.
    frame: u32,
    /// Outer IP packet that carries all of it.
    outer: u32,
}

impl Largest {
    fn add(&mut self, other: Self) {
        self.ip = self.ip.max(other.ip);
        self.frame = self.frame.max(other.frame);
        self.outer = self.outer.max(other.outer);
    }
}

impl Truncation {
    /// Counts one frame: what was known of it and what came of that. `lengths` are those it had on the wire.
    #[inline]
    pub fn add(&mut self, evidence: &Evidence, lengths: FrameLen, verdict: Verdict) {
        if verdict != Verdict::Whole || !self.is_ordinary(evidence, lengths) {
            self.add_any(evidence, lengths, verdict);
        }
    }

    /// Whether a whole frame changes nothing here: it came as it was, in an outer packet that is larger than it,
    /// and larger ones and more headers around them are known.
    #[inline]
    const fn is_ordinary(&self, evidence: &Evidence, lengths: FrameLen) -> bool {
        let Evidence {
            captured_len,
            outer_ip_len,
            ip_offset,
            ..
        } = *evidence;
        let seen = match evidence.pieces {
            Pieces::One => outer_ip_len <= self.largest_one_piece,
            Pieces::Unseen => true,
            Pieces::Fragments { .. } | Pieces::FirstFragments { .. } => false,
        };
        seen && outer_ip_len <= self.ordinary
            && captured_len <= outer_ip_len
            && lengths.orig == captured_len
            && (evidence.not_recorded | evidence.added_len) == 0
            && outer_ip_len - captured_len + ip_offset <= self.overhead
    }

    #[inline(never)]
    fn add_any(&mut self, evidence: &Evidence, lengths: FrameLen, verdict: Verdict) {
        let arrived = evidence.arrived_len();
        let outer = evidence.outer_ip_len;
        let size = Size {
            frame: arrived,
            outer,
        };
        let this = Largest {
            ip: evidence.ip_bytes(lengths),
            frame: lengths.orig,
            outer: evidence.needed_outer_len().unwrap_or(outer),
        };
        self.largest_frame = self.largest_frame.max(arrived);
        self.largest_outer = self.largest_outer.max(outer);
        self.overhead = self.overhead.max(evidence.overhead().unwrap_or_default());
        match evidence.pieces {
            Pieces::One => self.largest_one_piece = self.largest_one_piece.max(outer),
            Pieces::Fragments { largest } => {
                self.fragmented += 1;
                self.oversize_fragmented += u64::from(verdict == Verdict::Oversize);
                self.largest_fragment = self.largest_fragment.max(largest);
            }
            Pieces::FirstFragments { largest } => {
                self.fragmented += 1;
                self.largest_fragment = self.largest_fragment.max(largest);
            }
            Pieces::Unseen => self.oversize_unseen += u64::from(verdict == Verdict::Oversize),
        }
        if lengths.orig <= arrived {
            self.came.add(this);
        } else {
            self.declared.add(this);
        }
        match verdict {
            Verdict::Whole => {}
            Verdict::Oversize => self.oversize += 1,
            Verdict::Truncated => {
                self.truncated += 1;
                self.missing_bytes += u64::from(lengths.missing());
                if matches!(evidence.pieces, Pieces::FirstFragments { .. }) {
                    self.without_fragments += 1;
                    self.missing_in_fragments += u64::from(lengths.missing());
                } else if evidence.not_recorded > 0 {
                    self.cut_in_capture += 1;
                    self.missing_in_capture += u64::from(lengths.missing());
                } else {
                    self.cut.add(size, 1);
                }
            }
            Verdict::Unknown => self.unknown.add(size, 1),
        }
        self.ordinary = self.least_of_largest();
    }

    fn least_of_largest(&self) -> u32 {
        let Largest { ip, frame, outer } = self.came;
        let sizes = [ip, frame, outer, self.largest_frame, self.largest_outer];
        sizes.into_iter().min().unwrap_or_default()
    }

    /// Adds the counts of another worker.
    pub fn merge(&mut self, other: &Self) {
        self.truncated += other.truncated;
        self.oversize += other.oversize;
        self.oversize_fragmented += other.oversize_fragmented;
        self.oversize_unseen += other.oversize_unseen;
        self.fragmented += other.fragmented;
        self.missing_bytes += other.missing_bytes;
        self.cut_in_capture += other.cut_in_capture;
        self.missing_in_capture += other.missing_in_capture;
        self.without_fragments += other.without_fragments;
        self.missing_in_fragments += other.missing_in_fragments;
        self.unknown.merge(&other.unknown);
        self.cut.merge(&other.cut);
        self.came.add(other.came);
        self.declared.add(other.declared);
        self.largest_frame = self.largest_frame.max(other.largest_frame);
        self.largest_outer = self.largest_outer.max(other.largest_outer);
        self.largest_one_piece = self.largest_one_piece.max(other.largest_one_piece);
        self.largest_fragment = self.largest_fragment.max(other.largest_fragment);
        self.overhead = self.overhead.max(other.overhead);
        self.ordinary = self.least_of_largest();
    }

    /// Frames of unknown length.
    pub const fn unknown(&self) -> u64 {
        self.unknown.total()
    }

    /// Largest outer IP packet, in bytes; 0 when there was none.
    pub const fn largest_outer(&self) -> u32 {
        self.largest_outer
    }

    /// Most bytes of outer packet that stood around an inner IP packet: outer IP, UDP, tunnel and inner
    /// Ethernet headers with what they carry. `None` when nothing stood around one.
    pub fn overhead(&self) -> Option<u32> {
        (self.overhead > 0).then_some(self.overhead)
    }

    /// The largest packets there are, those included that were cut, where nothing speaks against what they
    /// declare.
    fn largest(&self, route: &Route) -> Largest {
        let mut largest = self.came;
        if !matches!(self.cause(route), Some(Cause::Contradicted(_))) {
            largest.add(self.declared);
        }
        largest
    }

    /// Largest inner IP packet in bytes. What cut packets declare counts, unless larger ones came whole.
    pub fn largest_inner_ip(&self, route: &Route) -> u32 {
        self.largest(route).ip
    }

    /// Frames of unknown length that are exactly as long as this session's cut size, or as the longest
    /// frame an outer packet of the path's MTU can carry: probably cut, not provably.
    pub fn suspect(&self, route: &Route) -> u64 {
        let cause = self.cause(route);
        let cuts_at = |mtu: u32| self.largest_outer_on(route) <= mtu;
        self.unknown.of(|size| {
            let by_cause = match cause {
                Some(Cause::SessionPacketLength(frame)) => size.frame == frame,
                Some(Cause::Mtu(outer)) => size.outer == outer,
                _ => false,
            };
            by_cause || (size.outer == route.mtu && cuts_at(route.mtu))
        })
    }

    /// The size of inner frame every cut packet was left with, in bytes, when it is one.
    pub fn cut_size(&self) -> Option<u32> {
        self.cut.constant(|size| size.frame)
    }

    fn largest_outer_on(&self, route: &Route) -> u32 {
        self.largest_outer.max(route.largest_outer)
    }

    /// What cut the packets; `None` when none was.
    pub fn cause(&self, route: &Route) -> Option<Cause> {
        if self.truncated == 0 {
            return None;
        }
        if self.cut_in_capture == self.truncated {
            return Some(Cause::SnapLength);
        }
        if self.without_fragments == self.truncated {
            return Some(Cause::MissingFragments);
        }
        if self.cut_by_mirror_count() == 0 {
            return Some(Cause::Unclear);
        }
        let frame = self.cut_size();
        let outer = self.cut.constant(|size| size.outer).filter(|len| *len > 0);
        // Outer packets of one length around frames of several: whatever the number, it is an MTU.
        let is_mtu = |outer| outer == route.mtu || COMMON_MTUS.contains(&outer) || frame.is_none();
        if let Some(outer) = outer.filter(|outer| is_mtu(*outer))
            && self.largest_outer_on(route) <= outer
        {
            return Some(Cause::Mtu(outer));
        }
        Some(match frame {
            Some(frame) if self.largest_frame <= frame => Cause::SessionPacketLength(frame),
            Some(frame) => Cause::Contradicted(frame),
            None => Cause::Unclear,
        })
    }

    /// What cut the frames of one `spell` of the session, in which all were left with one length: as [`Self::cause`], by
    /// what came in that time. An MTU that larger packets of other sessions speak against may have been another then.
    pub fn cause_in(&self, spell: &Stretch, route: &Route) -> Option<Cause> {
        // One packet is no proof, and captures cut too.
        if spell.truncated < 2 || self.cut_by_mirror_count() < self.truncated {
            return None;
        }
        let frame = spell.cut_size()?;
        let (largest_frame, largest_outer) = spell.largest;
        let (outer, most) = spell.cut_outer;
        let is_mtu = outer == route.mtu || COMMON_MTUS.contains(&outer);
        if outer == most && is_mtu && largest_outer <= outer {
            return (route.largest_outer <= outer).then_some(Cause::Mtu(outer));
        }
        (largest_frame <= frame).then_some(Cause::SessionPacketLength(frame))
    }

    /// What happened and what to do, in words a network engineer can act on; `None` when every packet
    /// came whole, in one piece and as large as the path's MTU lets it be.
    pub fn advice(&self, packets: u64, route: &Route) -> Option<String> {
        let mut sentences = Vec::new();
        sentences.extend(self.cut_by_mirror(packets, route));
        if self.cut_in_capture > 0 {
            let in_capture = arrived_cut(self.cut_in_capture, packets, self.missing_in_capture);
            sentences.push(format!(
                "{in_capture}: the tunnel carried more, so the capture that was replayed cut them itself. \
                 Record it with a larger snap length (tcpdump -s 0)."
            ));
        }
        if self.without_fragments > 0 {
            let lost = arrived_cut(self.without_fragments, packets, self.missing_in_fragments);
            sentences.push(format!(
                "{lost}: later fragments of their outer packets never came, or the capture's filter left them out."
            ));
        }
        sentences.extend(self.came_in_fragments(route));
        sentences.extend(self.too_large_for_the_mtu(route));
        match self.suspect(route) {
            0 => {}
            1 => sentences.push(
                "1 packet without a declared length is exactly as long as the cut: probably cut too."
                    .to_owned(),
            ),
            suspect => sentences.push(format!(
                "{suspect} packets without a declared length are exactly as long as the cut: probably cut too."
            )),
        }
        (!sentences.is_empty()).then(|| sentences.join(" "))
    }

    /// Truncated packets that arrived with all that was sent.
    const fn cut_by_mirror_count(&self) -> u64 {
        self.truncated - self.cut_in_capture - self.without_fragments
    }

    fn cut_by_mirror(&self, packets: u64, route: &Route) -> Option<String> {
        let samples = self.cut_by_mirror_count();
        if samples == 0 {
            return None;
        }
        let missing = self.missing_bytes - self.missing_in_capture - self.missing_in_fragments;
        let by_mirror = arrived_cut(samples, packets, missing);
        let largest = self.largest(route);
        Some(match self.cause(route)? {
            Cause::SnapLength | Cause::MissingFragments => return None,
            Cause::SessionPacketLength(size) if samples == 1 => format!(
                "{by_mirror}: it keeps {size} bytes. This is one sample: if more packets are cut to {size} bytes, \
                 that is the mirror session's packet length. Check it in the cloud console."
            ),
            Cause::SessionPacketLength(size) => format!(
                "{by_mirror}: cut packets keep exactly {size} bytes, so the mirror session's packet length is \
                 set to {size}. Raise it in the cloud console to get whole packets; the largest seen needs {}.",
                largest.frame
            ),
            Cause::Mtu(outer) => {
                let sample = if samples == 1 {
                    format!(
                        "its outer packet is exactly {outer} bytes long, so an MTU of {outer} probably cuts it \
                         (one sample)"
                    )
                } else {
                    format!(
                        "their outer packets are exactly {outer} bytes long, so an MTU of {outer} cuts them"
                    )
                };
                format!("{by_mirror}: {sample}. {}", self.remedy(outer, route))
            }
            Cause::Contradicted(size) => format!(
                "{by_mirror}. {} {size} bytes, but larger frames came too, up to {} bytes: the mirror session's \
                 packet length is not {size}, unless it was changed in the meantime. The sender may declare more \
                 than it sends.",
                if samples == 1 {
                    "It keeps"
                } else {
                    "They keep"
                },
                self.largest_frame
            ),
            Cause::Unclear => format!(
                "{by_mirror}, at varying sizes: several packet lengths or MTUs on the way, or a capture cut \
                 more than once."
            ),
        })
    }

    fn came_in_fragments(&self, route: &Route) -> Option<String> {
        if self.fragmented == 0 {
            return None;
        }
        let fragment = self.largest_fragment;
        // Fragments but the last are multiples of 8 bytes, so they may be up to 7 below the MTU.
        let mtu = if (fragment..fragment.saturating_add(8)).contains(&route.mtu) {
            route.mtu
        } else {
            fragment
        };
        let costs = if self.fragmented == 1 {
            "it cost two packets or more, and one lost fragment loses the whole"
        } else {
            "each costs two packets or more, and one lost fragment loses the whole"
        };
        let larger = if self.largest_one_piece > fragment {
            format!(
                " Other outer packets of up to {} bytes came in one piece: the path's MTU is not smaller, so look \
                 for a smaller one at the sender.",
                self.largest_one_piece
            )
        } else {
            String::new()
        };
        Some(format!(
            "{} arrived as fragments of up to {fragment} bytes: {costs}.{larger} {}",
            counted(self.fragmented, "packet"),
            self.remedy(mtu, route)
        ))
    }

    fn too_large_for_the_mtu(&self, route: &Route) -> Option<String> {
        let Route { mtu, .. } = route;
        let rest = self.oversize - self.oversize_fragmented;
        if rest == 0 {
            return None;
        }
        if self.oversize_unseen == 0 || self.largest_one_piece > *mtu {
            return Some(format!(
                "{} arrived whole and in one piece, in outer packets of up to {} bytes: the path's MTU is larger \
                 than {mtu}. Tell it with --mtu.",
                counted(rest, "packet"),
                self.largest_one_piece
            ));
        }
        Some(format!(
            "{} arrived in outer packets of up to {} bytes, more than --mtu {mtu}: either the path's MTU is larger, \
             then tell it with --mtu; or they were fragmented on the way, which a UDP socket does not show: each \
             then costs two packets or more, and one lost fragment loses the whole. {}",
            counted(rest, "packet"),
            self.largest_outer,
            self.remedy(*mtu, route)
        ))
    }

    /// What lets every packet seen through where `mtu` is the limit of an outer packet.
    fn remedy(&self, mtu: u32, route: &Route) -> String {
        let largest = self.largest(route);
        let raise = (largest.outer > mtu && largest.outer <= MAX_IP_LEN).then(|| {
            format!(
                "raise the MTU between mirror source and target to {}",
                largest.outer
            )
        });
        let lower = self.overhead().and_then(|overhead| {
            let inner = mtu.checked_sub(overhead).filter(|inner| *inner > 0)?;
            let recommended = mtu.saturating_sub(route.recommended_overhead);
            let recommended = if recommended < inner {
                format!(" (the cloud recommends {recommended})")
            } else {
                String::new()
            };
            Some(format!(
                "lower the mirrored interface's MTU to {inner}{recommended}: {overhead} bytes stand around its packets"
            ))
        });
        let remedies: Vec<String> = [raise, lower].into_iter().flatten().collect();
        let mut remedy = remedies.join(", or ");
        if let Some(first) = remedy.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        if !remedy.is_empty() {
            remedy.push('.');
        }
        remedy
    }
}

fn arrived_cut(truncated: u64, packets: u64, missing: u64) -> String {
    let share = percent(truncated, packets);
    format!(
        "{truncated} of {} ({share}) arrived cut, {} missing",
        counted(packets, "packet"),
        counted(missing, "byte")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::length::judge;

    const ROUTE: Route = Route {
        mtu: 1500,
        recommended_overhead: 64,
        largest_outer: 0,
    };

    /// A frame of which `captured` bytes came, with an IP packet of `ip_len` behind 14 bytes, in an outer IPv4
    /// packet without options.
    fn evidence(captured: u32, ip_len: u32) -> Evidence {
        Evidence {
            captured_len: captured,
            carried_len: captured,
            ip_offset: 14,
            ip_len,
            outer_ip_len: captured + 36,
            ..Evidence::default()
        }
    }

    fn add(counts: &mut Truncation, evidence: &Evidence) {
        let (lengths, verdict) = judge(evidence, ROUTE.mtu);
        counts.add(evidence, lengths.without(evidence.added_len), verdict);
    }

    /// Whole, or cut where fewer than `14 + ip_len` bytes came.
    fn ip(counts: &mut Truncation, captured: u32, ip_len: u32) {
        add(counts, &evidence(captured, ip_len));
    }

    fn unknown(counts: &mut Truncation, captured: u32) {
        let evidence = Evidence {
            ip_offset: 0,
            ..evidence(captured, 0)
        };
        add(counts, &evidence);
    }

    fn advice(counts: &Truncation, packets: u64) -> String {
        counts.advice(packets, &ROUTE).unwrap_or_default()
    }

    #[test]
    fn a_session_of_96_bytes() {
        let mut counts = Truncation::default();
        unknown(&mut counts, 96);
        unknown(&mut counts, 42);
        ip(&mut counts, 96, 1500);
        ip(&mut counts, 96, 186);
        assert_eq!(counts.cause(&ROUTE), Some(Cause::SessionPacketLength(96)));
        assert_eq!(
            (
                counts.suspect(&ROUTE),
                counts.unknown(),
                counts.missing_bytes
            ),
            (1, 2, 1522)
        );
        let advice = advice(&counts, 10);
        for said in [
            "2 of 10 packets (20.0 %) arrived cut, 1522 bytes missing",
            "packet length is set to 96",
            "the largest seen needs 1514",
            "1 packet without a declared length is exactly as long",
        ] {
            assert!(advice.contains(said), "{said}: {advice}");
        }
    }

    /// What every cut is judged by: the outer packet's own length, whatever stands between.
    #[test]
    fn an_mtu_cuts_through_any_headers() {
        // Bytes of outer headers, inner header bytes before the IP packet, MTU.
        for (around, ip_offset, mtu) in [
            (36, 14, 1500),
            (56, 14, 1500),
            (36, 18, 1500),
            (36 + 12, 14, 9001),
            (36 + 58, 14, 8500),
            (36 + 50, 14, 1500),
            (56, 22, 1280),
        ] {
            let mut counts = Truncation::default();
            let captured = mtu - around;
            for ip_len in [mtu, mtu - 20] {
                let evidence = Evidence {
                    ip_offset,
                    outer_ip_len: mtu,
                    ..evidence(captured, ip_len)
                };
                add(&mut counts, &evidence);
            }
            assert_eq!(counts.cause(&ROUTE), Some(Cause::Mtu(mtu)), "{around}");
            let overhead = around + ip_offset;
            let advice = advice(&counts, 2);
            for said in [
                format!("exactly {mtu} bytes long, so an MTU of {mtu} cuts them"),
                format!("target to {},", mtu + overhead),
                format!("interface's MTU to {}", mtu - overhead),
            ] {
                assert!(advice.contains(&said), "{said}: {advice}");
            }
        }
    }

    /// The header in front of a bare IP packet is ours and counts nowhere.
    #[test]
    fn an_mtu_cuts_bare_ip_packets() {
        let mut counts = Truncation::default();
        let evidence = Evidence {
            added_len: 14,
            outer_ip_len: 1500,
            ..evidence(1478, 1600)
        };
        add(&mut counts, &evidence);
        add(&mut counts, &evidence);
        assert_eq!(counts.cause(&ROUTE), Some(Cause::Mtu(1500)));
        assert_eq!(
            (counts.cut_size(), counts.overhead()),
            (Some(1464), Some(36))
        );
        let advice = advice(&counts, 2);
        assert!(advice.contains("target to 1636, or lower"), "{advice}");
    }

    #[test]
    fn an_unusual_mtu_shows_where_headers_vary() {
        let mut counts = Truncation::default();
        for options in [0, 4, 8] {
            let evidence = Evidence {
                outer_ip_len: 1477,
                ..evidence(1477 - 36 - options, 1500)
            };
            add(&mut counts, &evidence);
        }
        assert_eq!(counts.cause(&ROUTE), Some(Cause::Mtu(1477)));
    }

    #[test]
    fn one_larger_frame_refutes_a_packet_length() {
        let mut counts = Truncation::default();
        for _ in 0..1000 {
            ip(&mut counts, 96, 1500);
        }
        assert_eq!(counts.cause(&ROUTE), Some(Cause::SessionPacketLength(96)));
        ip(&mut counts, 96, 82);
        assert_eq!(
            counts.cause(&ROUTE),
            Some(Cause::SessionPacketLength(96)),
            "as long"
        );
        // Whole or of unknown length: it came.
        for has_ip in [true, false] {
            let mut counts = counts.clone();
            if has_ip {
                ip(&mut counts, 97, 83);
            } else {
                unknown(&mut counts, 97);
            }
            assert_eq!(counts.cause(&ROUTE), Some(Cause::Contradicted(96)));
            let advice = advice(&counts, 1002);
            assert!(advice.contains("packet length is not 96"), "{advice}");
            assert!(!advice.contains("set to 96"), "{advice}");
        }
        // What cut packets declare is then worth nothing.
        ip(&mut counts, 200, 186);
        assert_eq!(counts.largest_inner_ip(&ROUTE), 186);
    }

    #[test]
    fn a_larger_outer_packet_refutes_an_mtu() {
        let mut counts = Truncation::default();
        ip(&mut counts, 1464, 1500);
        ip(&mut counts, 1464, 1500);
        assert_eq!(counts.cause(&ROUTE), Some(Cause::Mtu(1500)));
        // In another session of the same mirror source: a packet length is left.
        let other = Route {
            largest_outer: 1501,
            ..ROUTE
        };
        assert_eq!(counts.cause(&other), Some(Cause::SessionPacketLength(1464)));
        ip(&mut counts, 1514, 1500);
        assert_eq!(counts.cause(&ROUTE), Some(Cause::Contradicted(1464)));
    }

    #[test]
    fn one_sample_is_called_one() {
        let mut counts = Truncation::default();
        ip(&mut counts, 96, 1500);
        let by_length = advice(&counts, 3);
        assert!(
            by_length.contains("1 of 3 packets") && by_length.contains("one sample"),
            "{by_length}"
        );
        assert!(!by_length.contains("is set to"), "{by_length}");
        let mut counts = Truncation::default();
        ip(&mut counts, 1464, 1451);
        let by_mtu = advice(&counts, 1);
        assert!(
            by_mtu.contains("1 of 1 packet (") && by_mtu.contains("(one sample)"),
            "{by_mtu}"
        );
        assert!(by_mtu.contains("1 byte missing"), "{by_mtu}");
    }

    /// The cloud's advice is told as that, and only where it helps.
    #[test]
    fn what_the_cloud_recommends() {
        let mut v4 = Truncation::default();
        (0..2).for_each(|_| ip(&mut v4, 1464, 1500));
        let said = advice(&v4, 2);
        assert!(
            said.contains("MTU to 1450 (the cloud recommends 1436)"),
            "{said}"
        );
        let mut v6 = Truncation::default();
        let evidence = Evidence {
            outer_ip_len: 1500,
            ..evidence(1444, 1500)
        };
        (0..2).for_each(|_| add(&mut v6, &evidence));
        let said = advice(&v6, 2);
        assert!(
            said.contains("target to 1570, or lower") && said.contains("MTU to 1430:"),
            "{said}"
        );
    }

    #[test]
    fn what_fits_exactly_is_nothing_to_tell() {
        let mut counts = Truncation::default();
        ip(&mut counts, 1464, 1450);
        assert_eq!((counts.oversize, counts.advice(1, &ROUTE)), (0, None));
        ip(&mut counts, 1465, 1451);
        let said = advice(&counts, 2);
        assert!(
            said.starts_with("1 packet arrived whole and in one piece, in outer packets of up to 1501 bytes: the path's MTU is larger"),
            "{said}"
        );
    }

    fn in_pieces(captured: u32, ip_len: u32, pieces: Pieces) -> Evidence {
        Evidence {
            pieces,
            ..evidence(captured, ip_len)
        }
    }

    #[test]
    fn fragments_are_told_with_their_price() {
        let mut counts = Truncation::default();
        let largest = 1500;
        for ip_len in [1500, 1460] {
            add(
                &mut counts,
                &in_pieces(ip_len + 14, ip_len, Pieces::Fragments { largest }),
            );
        }
        ip(&mut counts, 514, 500);
        assert_eq!((counts.fragmented, counts.oversize), (2, 2));
        let said = advice(&counts, 3);
        assert!(
            said.starts_with(
                "2 packets arrived as fragments of up to 1500 bytes: each costs two packets"
            ),
            "{said}"
        );
        assert!(
            said.contains("target to 1550, or lower the mirrored interface's MTU to 1450"),
            "{said}"
        );
        assert!(
            !said.contains("would be cut") && !said.contains("in one piece"),
            "{said}"
        );
        // The path has shown that it carries more.
        ip(&mut counts, 1564, 1550);
        let said = advice(&counts, 4);
        assert!(
            said.contains("up to 1600 bytes came in one piece"),
            "{said}"
        );
        // Fragments are multiples of 8 bytes: the MTU may be a little larger.
        let mut counts = Truncation::default();
        let largest = 1492;
        add(
            &mut counts,
            &in_pieces(1514, 1500, Pieces::Fragments { largest }),
        );
        let route = Route { mtu: 1498, ..ROUTE };
        let said = counts.advice(1, &route).unwrap();
        assert!(
            said.contains("1 packet arrived") && said.contains("MTU to 1448"),
            "{said}"
        );
    }

    /// A socket gets what the kernel joined: either way is told, neither is claimed.
    #[test]
    fn a_socket_cannot_tell_fragments() {
        let mut counts = Truncation::default();
        add(&mut counts, &in_pieces(1514, 1500, Pieces::Unseen));
        assert_eq!((counts.fragmented, counts.oversize), (0, 1));
        let said = advice(&counts, 1);
        assert!(said.contains("either the path's MTU is larger"), "{said}");
        assert!(said.contains("a UDP socket does not show"), "{said}");
        assert!(said.contains("target to 1550, or lower"), "{said}");
    }

    #[test]
    fn a_snap_length_is_not_the_mirrors() {
        let mut counts = Truncation::default();
        let evidence = Evidence {
            carried_len: 110,
            not_recorded: 20,
            ..evidence(90, 96)
        };
        add(&mut counts, &evidence);
        assert_eq!(counts.cause(&ROUTE), Some(Cause::SnapLength));
        let said = advice(&counts, 9);
        assert!(
            said.contains("the capture that was replayed cut them"),
            "{said}"
        );
        ip(&mut counts, 120, 1500);
        assert_eq!(counts.cause(&ROUTE), Some(Cause::SessionPacketLength(120)));
    }

    #[test]
    fn the_largest_packet_of_those_without_a_length() {
        let mut counts = Truncation::default();
        let offloaded = Evidence {
            carried_len: 2961,
            not_recorded: 2861,
            ..evidence(100, 0)
        };
        add(&mut counts, &offloaded);
        assert_eq!(counts.largest_inner_ip(&ROUTE), 2947);
        // The claim of a cut packet, where larger frames came.
        ip(&mut counts, 96, 3000);
        assert_eq!(counts.largest_inner_ip(&ROUTE), 2947);
    }

    /// What the mirror sent is known from the outer UDP header: it cut nothing.
    #[test]
    fn lost_fragments_are_no_cut_of_the_mirror() {
        let largest = 1500;
        let mut counts = Truncation::default();
        for _ in 0..2 {
            let lost = Evidence {
                carried_len: 1514,
                ..in_pieces(1464, 1500, Pieces::FirstFragments { largest })
            };
            add(&mut counts, &lost);
        }
        assert_eq!((counts.truncated, counts.missing_bytes), (2, 100));
        assert_eq!(counts.cause(&ROUTE), Some(Cause::MissingFragments));
        let said = advice(&counts, 2);
        assert!(
            said.contains("later fragments of their outer packets"),
            "{said}"
        );
        assert!(said.contains("as fragments of up to 1500 bytes"), "{said}");
        assert!(!said.contains("an MTU of"), "{said}");
    }

    #[test]
    fn order_does_not_matter_and_workers_add_up() {
        let add_all = |counts: &mut Truncation, which: [bool; 4]| {
            let [unknown_len, cut, large, fragmented] = which;
            if unknown_len {
                unknown(counts, 96);
            }
            if cut {
                ip(counts, 96, 100);
            }
            if large {
                ip(counts, 1600, 1586);
            }
            if fragmented {
                let pieces = Pieces::Fragments { largest: 1500 };
                add(counts, &in_pieces(1514, 1500, pieces));
            }
        };
        let (mut one, mut two, mut all) = <(Truncation, Truncation, Truncation)>::default();
        add_all(&mut one, [true, false, false, true]);
        add_all(&mut two, [false, true, true, false]);
        add_all(&mut all, [true; 4]);
        let mut other_order = two.clone();
        other_order.merge(&one);
        one.merge(&two);
        assert_eq!(one, all);
        assert_eq!(other_order, all);
    }

    #[test]
    fn varying_sizes_have_no_single_cause() {
        let mut counts = Truncation::default();
        for size in 100..300 {
            ip(&mut counts, size, 1500);
        }
        assert_eq!(counts.cause(&ROUTE), Some(Cause::Unclear));
        assert_eq!(Truncation::default().advice(5, &ROUTE), None);
    }

    /// What cuts in one time is told by what came in it, and only where nothing speaks against it.
    #[test]
    fn causes_of_a_spell() {
        let mut all = Truncation {
            truncated: 9,
            ..Truncation::default()
        };
        let spell = |frame, outer, largest| Stretch {
            packets: 9,
            truncated: 9,
            cut: (frame, frame),
            cut_outer: (outer, outer),
            largest,
            ..Stretch::default()
        };
        let route = |largest_outer| Route {
            mtu: 1500,
            recommended_overhead: 64,
            largest_outer,
        };
        let cause = |of: &Truncation, spell: &Stretch, other| of.cause_in(spell, &route(other));
        let by_session = Some(Cause::SessionPacketLength(96));
        let short = spell(96, 132, (96, 132));
        assert_eq!(cause(&all, &short, 9000), by_session);
        assert_eq!(cause(&all, &spell(96, 132, (97, 133)), 0), None);
        let by_mtu = spell(1464, 1500, (1464, 1500));
        assert_eq!(cause(&all, &by_mtu, 1500), Some(Cause::Mtu(1500)));
        // Larger ones came on that path, at some time.
        assert_eq!(cause(&all, &by_mtu, 1501), None);
        let mixed = Stretch {
            cut: (96, 97),
            ..short
        };
        assert_eq!(cause(&all, &mixed, 0), None);
        let one = Stretch {
            truncated: 1,
            ..short
        };
        assert_eq!(cause(&all, &one, 0), None);
        all.cut_in_capture = 1;
        assert_eq!(cause(&all, &short, 0), None);
    }
}
