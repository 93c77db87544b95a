//! Names of a store's files: `{prefix}_{sequence:05}_{YYYYMMDDhhmmss}.pcapng`, in UTC.
//!
//! Wireshark shows files as one set (File, File Set) where their names end in `_NNNNN_YYYYMMDDhhmmss` and agree
//! in what stands before (`file_set.c`, `fileset_filename_match_pattern`). Pure.

use std::fmt::{self, Display};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Fewest digits of a sequence number.
const DIGITS: usize = 5;
/// Digits of a time, year to second.
const TIME_DIGITS: usize = 14;
const TIME: &str = "%Y%m%d%H%M%S";

/// The name of one file of a store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreName {
    /// What stands before the number.
    pub prefix: String,
    /// Its number; files of one directory and prefix have each their own.
    pub sequence: u64,
    /// When it began, seconds since 1970.
    pub start_s: u64,
    /// What stands behind the time: `.pcapng`, `.pcapng.gz`.
    pub ending: String,
}

impl Display for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            prefix,
            sequence,
            ending,
            ..
        } = self;
        let time = i64::try_from(self.start_s).ok();
        let time = time.and_then(|seconds| Timestamp::from_second(seconds).ok());
        let time = time.unwrap_or(Timestamp::MAX).strftime(TIME);
        write!(f, "{prefix}_{sequence:0DIGITS$}_{time}{ending}")
    }
}

impl StoreName {
    /// Takes a name apart; `None` for one that no store gives.
    pub fn parse(name: &str) -> Option<Self> {
        let ending = ENDINGS.into_iter().find(|ending| name.ends_with(ending))?;
        let stem = name.strip_suffix(ending)?;
        let (rest, time) = stem.rsplit_once('_')?;
        let (prefix, sequence) = rest.rsplit_once('_')?;
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if prefix.is_empty() || sequence.len() < DIGITS || !digits(sequence) {
            return None;
        }
        if time.len() != TIME_DIGITS || !digits(time) {
            return None;
        }
        let time = DateTime::strptime(TIME, time).ok()?;
        let start = time.to_zoned(TimeZone::UTC).ok()?.timestamp();
        let parsed = Self {
            prefix: prefix.to_owned(),
            sequence: sequence.parse().ok()?,
            start_s: u64::try_from(start.as_second()).ok()?,
            ending: ending.to_owned(),
        };
        // One name for each file: no thirteenth month, no sixth digit that is a zero.
        (parsed.to_string() == name).then_some(parsed)
    }
}

/// The endings that a store gives.
pub const ENDINGS: [&str; 12] = [
    ".pcapng.gz",
    ".pcapng.zst",
    ".pcapng",
    ".pcap.gz",
    ".pcap.zst",
    ".pcap",
    ".jsonl.gz",
    ".jsonl.zst",
    ".jsonl",
    ".csv",
    ".parquet",
    ".ipfix",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(sequence: u64, start_s: u64) -> StoreName {
        StoreName {
            prefix: "vxtap".to_owned(),
            sequence,
            start_s,
            ending: ".pcapng".to_owned(),
        }
    }

    #[test]
    fn names_are_those_wireshark_groups() {
        // date -u -d @1767225599
        let told = name(7, 1_767_225_599).to_string();
        assert_eq!(told, "vxtap_00007_20251231235959.pcapng");
        // date -u -d @951782400
        assert_eq!(
            name(123_456, 951_782_400).to_string(),
            "vxtap_123456_20000229000000.pcapng"
        );
    }

    #[test]
    fn foreign_names_are_none_of_ours() {
        for foreign in [
            "",
            ".pcapng",
            "vxtap.pcapng",
            "vxtap_0007_20251231235959.pcapng",
            "vxtap_00007_20251331235959.pcapng",
            "vxtap_00007_20250230000000.pcapng",
            "vxtap_000007_20251231235959.pcapng",
            "_00007_20251231235959.pcapng",
            "vxtap_00007_2025123123595.pcapng",
            "vxtap_00007_20251231235959",
            "vxtap_99999999999999999999999_20251231235959.pcapng",
        ] {
            assert_eq!(StoreName::parse(foreign), None, "{foreign}");
        }
    }

    proptest! {
        #[test]
        fn a_name_says_what_it_was_made_of(
            prefix in "[a-zA-Z0-9._@-]{1,20}",
            sequence in 0..10_000_000_u64,
            start_s in 0..250_000_000_000_u64,
            ending in prop::sample::select(&ENDINGS[..]),
        ) {
            let ending = ending.to_owned();
            let name = StoreName { prefix, sequence, start_s, ending };
            prop_assert_eq!(StoreName::parse(&name.to_string()), Some(name));
        }
    }
}
