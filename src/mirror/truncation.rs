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
mod tests;
