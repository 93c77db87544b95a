//! Headers of classic pcap files (draft-ietf-opsawg-pcap), pure: bytes in, values out.
//!
//! Both byte orders, both units of time, Kuznetsov's modified kind with its longer record headers, and
//! files before version 2.4, in which the two lengths of a record stand in the other order.

use crate::pcap::fcs;
use crate::pcap::options::number32;

/// Bytes of the file header.
pub const FILE_HEADER_LEN: usize = 24;

/// Bytes of a record header.
const RECORD_HEADER_LEN: usize = 16;
/// Bytes of a record header of the modified kind: interface, protocol and packet type follow.
const MODIFIED_RECORD_HEADER_LEN: usize = 24;

/// `LINKTYPE_ETHERNET`.
const ETHERNET: u32 = 1;

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
const MODIFIED: u32 = 0xa1b2_cd34;

/// A pcap version that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pcap version {major}.{minor}; version 2 can be read")]
pub struct VersionError {
    /// The number before the dot.
    pub major: u16,
    /// The number behind it.
    pub minor: u16,
}

/// What the file header says of the records behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    big_endian: bool,
    /// Nanoseconds in a unit of a record's fraction of a second.
    unit_ns: u32,
    order: LengthOrder,
    /// Bytes of each record header.
    pub record_header_len: usize,
    /// The link type, without the bits above it that hold the length of a frame check sequence.
    pub link_type: u32,
    /// Bytes of frame check sequence behind each frame.
    pub fcs_len: u8,
}

/// The order of a record's two lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LengthOrder {
    /// Captured length, original length: since version 2.4.
    CapturedFirst,
    /// Either: version 2.3. A captured length is never the larger one.
    Either,
    /// Original length, captured length: before version 2.3.
    OriginalFirst,
}

/// A record header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Nanoseconds since 1970.
    pub ts_ns: u64,
    /// Bytes stored.
    pub captured_len: u32,
    /// Bytes on the wire.
    pub orig_len: u32,
}

impl FileHeader {
    /// Whether a file that starts with `bytes` is pcap.
    pub fn is_magic(bytes: &[u8]) -> bool {
        byte_order(bytes).is_some()
    }

    /// Reads the header at the start of a file that [`Self::is_magic`] takes for pcap. Fields that are
    /// missing are zero.
    ///
    /// # Errors
    ///
    /// [`VersionError`] when it is not version 2, whose minor versions differ in the order of lengths only.
    pub fn read(bytes: &[u8]) -> Result<Self, VersionError> {
        let (big_endian, magic) = byte_order(bytes).unwrap_or((false, MICROSECONDS));
        let versions = number32(bytes, 4, big_endian);
        let (first, second) = ((versions >> 16) as u16, versions as u16);
        let (major, minor) = if big_endian {
            (first, second)
        } else {
            (second, first)
        };
        if major != 2 {
            return Err(VersionError { major, minor });
        }
        let network = number32(bytes, 20, big_endian);
        let link_type = network & 0x03ff_ffff;
        Ok(Self {
            big_endian,
            unit_ns: if magic == NANOSECONDS { 1 } else { 1000 },
            order: match minor {
                0..3 => LengthOrder::OriginalFirst,
                3 => LengthOrder::Either,
                4.. => LengthOrder::CapturedFirst,
            },
            record_header_len: if magic == MODIFIED {
                MODIFIED_RECORD_HEADER_LEN
            } else {
                RECORD_HEADER_LEN
            },
            link_type,
            fcs_len: match link_type {
                ETHERNET => fcs::from_pcap(network),
                _ => 0,
            },
        })
    }

    /// Reads the record header at the start of `bytes`.
    #[inline]
    pub fn record(&self, bytes: &[u8]) -> RecordHeader {
        let [seconds, fraction, first, second] =
            [0, 4, 8, 12].map(|at| number32(bytes, at, self.big_endian));
        let (captured_len, orig_len) = match self.order {
            LengthOrder::CapturedFirst => (first, second),
            LengthOrder::Either => (first.min(second), first.max(second)),
            LengthOrder::OriginalFirst => (second, first),
        };
        RecordHeader {
            ts_ns: u64::from(seconds) * 1_000_000_000
                + u64::from(fraction) * u64::from(self.unit_ns),
            captured_len,
            orig_len,
        }
    }
}

/// Byte order and magic number of a pcap file; `None` where it is none.
fn byte_order(bytes: &[u8]) -> Option<(bool, u32)> {
    let magic = *bytes.first_chunk::<4>()?;
    let known = |number: u32| matches!(number, MICROSECONDS | NANOSECONDS | MODIFIED);
    match (u32::from_be_bytes(magic), u32::from_le_bytes(magic)) {
        (number, _) if known(number) => Some((true, number)),
        (_, number) if known(number) => Some((false, number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Magic number, version, zone, accuracy, snap length, link type with an FCS of 4 bytes; one record
    /// header. Typed after the draft, big-endian.
    const BY_HAND: [u8; 48] = [
        0xa1, 0xb2, 0xc3, 0xd4, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0x24, 0, 0,
        1, //
        0, 0, 0, 7, 0, 0, 0, 9, 0, 0, 0, 60, 0, 0, 5, 0xdc, 0, 0, 0, 2, 8, 0, 1, 0,
    ];

    /// `BY_HAND` with another magic number and minor version, in the byte order wanted.
    fn file(magic: u32, minor: u8, big_endian: bool) -> Vec<u8> {
        let mut file = BY_HAND.to_vec();
        file[..4].copy_from_slice(&magic.to_be_bytes());
        file[7] = minor;
        if !big_endian {
            for field in [
                0..4,
                4..6,
                6..8,
                16..20,
                20..24,
                24..28,
                28..32,
                32..36,
                36..40,
            ] {
                file[field].reverse();
            }
        }
        file
    }

    #[test]
    fn every_kind_in_both_byte_orders() {
        for big_endian in [false, true] {
            for (magic, fraction_ns, record_header_len) in [
                (MICROSECONDS, 9_000, 16),
                (NANOSECONDS, 9, 16),
                (MODIFIED, 9_000, 24),
            ] {
                let file = file(magic, 4, big_endian);
                assert!(FileHeader::is_magic(&file));
                let header = FileHeader::read(&file).unwrap();
                assert_eq!(header.record_header_len, record_header_len);
                assert_eq!(header.link_type, 1, "without the length of the FCS");
                assert_eq!(header.fcs_len, 4);
                let expected = RecordHeader {
                    ts_ns: 7_000_000_000 + fraction_ns,
                    captured_len: 60,
                    orig_len: 1500,
                };
                assert_eq!(header.record(&file[24..]), expected);
            }
        }
        for other in [
            &b"\xa1\xb2\xc3"[..],
            b"\xa1\xb2\xcd\x35",
            b"\x0a\x0d\x0d\x0a",
        ] {
            assert!(!FileHeader::is_magic(other));
        }
    }

    #[test]
    fn lengths_before_version_2_4_stand_in_the_other_order() {
        let lengths = |minor, swapped: bool| {
            let mut file = file(MICROSECONDS, minor, true);
            if swapped {
                file[32..40].rotate_left(4);
            }
            let record = FileHeader::read(&file).unwrap().record(&file[24..]);
            (record.captured_len, record.orig_len)
        };
        for minor in 0..3 {
            assert_eq!(lengths(minor, true), (60, 1500));
            // As libpcap: what the version says counts, not which length is larger.
            assert_eq!(lengths(minor, false), (1500, 60));
        }
        assert_eq!(lengths(3, true), (60, 1500));
        assert_eq!(lengths(3, false), (60, 1500));
        assert_eq!(lengths(4, true), (1500, 60));
    }

    #[test]
    fn other_versions_are_refused() {
        let mut file = file(MICROSECONDS, 4, true);
        file[5] = 9;
        let error = FileHeader::read(&file).unwrap_err();
        assert_eq!(error, VersionError { major: 9, minor: 4 });
        assert_eq!(error.to_string(), "pcap version 9.4; version 2 can be read");
        for len in 4..24 {
            let _ = FileHeader::read(&file[..len]);
        }
    }
}
