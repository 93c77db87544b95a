//! Names around an output: the hidden one it is written under, the numbered one beside a finished file.
//!
//! Pure. Names are bytes, as they are to the system: two names that differ in one byte stay two names.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use sha1::{Digest, Sha1};

/// Longest name of a file on Linux, in bytes (`NAME_MAX` of linux/limits.h).
const NAME_MAX: usize = 255;
/// What a hidden name ends in.
pub const PART: &str = ".part";
/// Endings that say how a file is packed; the ending in front of them says what it holds.
const PACKED: [&[u8]; 7] = [b".gz", b".zst", b".lz4", b".bz2", b".xz", b".Z", b".br"];

/// The hidden name that stands for `name`: `.NAME` and `suffix`. Where that is longer than a name may be,
/// the end of NAME gives way to a hash of the whole.
pub fn hidden(name: &OsStr, suffix: &str) -> OsString {
    let bytes = name.as_bytes();
    let mut hidden = b".".to_vec();
    if 1 + bytes.len() + suffix.len() <= NAME_MAX {
        hidden.extend_from_slice(bytes);
    } else {
        let digest = Sha1::digest(bytes);
        let hash = digest
            .iter()
            .take(8)
            .fold(String::new(), |hash, byte| format!("{hash}{byte:02x}"));
        let room = whole_len(bytes, NAME_MAX - 1 - 1 - hash.len() - suffix.len());
        hidden.extend_from_slice(bytes.get(..room).unwrap_or_default());
        hidden.push(b'~');
        hidden.extend_from_slice(hash.as_bytes());
    }
    hidden.extend_from_slice(suffix.as_bytes());
    OsString::from_vec(hidden)
}

/// So many of the first `room` bytes that no character is torn apart: some file systems take valid UTF-8 only.
fn whole_len(name: &[u8], room: usize) -> usize {
    let mut len = room.min(name.len());
    while matches!(name.get(len), Some(0x80..0xc0)) && len > 0 {
        len -= 1;
    }
    len
}

/// `name` with `number` before its extension: `mirror.1.pcapng`, `flows.1.jsonl.gz`, `mirror.1`. Where that is
/// longer than a name may be, what stands in front of the number gives way.
pub fn numbered(name: &OsStr, number: u32) -> OsString {
    let (stem, extension) = split(name.as_bytes());
    let number = format!(".{number}");
    let room = NAME_MAX.saturating_sub(number.len() + extension.len());
    let stem = stem.get(..whole_len(stem, room)).unwrap_or(stem);
    OsString::from_vec([stem, number.as_bytes(), extension].concat())
}

/// Whether `entry` of the same directory is what a run left that wrote `name`, or `name` with a number.
pub fn is_left_over(entry: &OsStr, name: &OsStr) -> bool {
    let bytes = entry.as_bytes();
    let front = match without_number(bytes) {
        Some(front) if front.ends_with(PART.as_bytes()) => front,
        _ => bytes,
    };
    let Some(middle) = front.strip_suffix(PART.as_bytes()) else {
        return false;
    };
    let suffix = bytes.get(middle.len()..).unwrap_or_default();
    let Ok(suffix) = str::from_utf8(suffix) else {
        return false;
    };
    if entry == hidden(name, suffix) {
        return true;
    }
    let (stem, extension) = split(name.as_bytes());
    let number = middle
        .strip_prefix(b".")
        .and_then(|middle| middle.strip_prefix(stem))
        .and_then(|middle| middle.strip_suffix(extension));
    number.is_some_and(|number| without_number(number) == Some(b""))
}

/// What stands in front of a number at the end: `x` of `x.12`.
fn without_number(bytes: &[u8]) -> Option<&[u8]> {
    let digits = bytes.iter().rev().take_while(|byte| byte.is_ascii_digit());
    let digits = digits.count();
    let front = bytes.get(..bytes.len() - digits)?;
    front.strip_suffix(b".").filter(|_| digits > 0)
}

/// The name up to its extension, and that; a name that begins with its only dot has none.
fn split(name: &[u8]) -> (&[u8], &[u8]) {
    let dot_in = |name: &[u8]| {
        let at = name.iter().rposition(|byte| *byte == b'.');
        at.filter(|at| *at > 0)
    };
    let Some(mut at) = dot_in(name) else {
        return (name, b"");
    };
    if PACKED.contains(&name.get(at..).unwrap_or_default())
        && let Some(earlier) = dot_in(name.get(..at).unwrap_or_default())
    {
        at = earlier;
    }
    name.split_at(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(bytes: &[u8]) -> &OsStr {
        OsStr::from_bytes(bytes)
    }

    #[test]
    fn a_number_stands_before_the_extension() {
        for (given, is) in [
            ("mirror.pcapng", "mirror.3.pcapng"),
            ("f.jsonl", "f.3.jsonl"),
            ("mirror.pcapng.zst", "mirror.3.pcapng.zst"),
            ("2026-11-25.flows.jsonl.gz", "2026-11-25.flows.3.jsonl.gz"),
            ("x.gz", "x.3.gz"),
            ("mirror", "mirror.3"),
            (".mirror", ".mirror.3"),
            (".mirror.gz", ".mirror.3.gz"),
            ("mirror.", "mirror.3."),
        ] {
            assert_eq!(numbered(given.as_ref(), 3), is, "{given}");
        }
        for (stem, left) in [("x".repeat(248), 246), ("ß".repeat(124), 246)] {
            let name = numbered(format!("{stem}.pcapng").as_ref(), 12);
            let name = name.to_str().unwrap();
            let front = name.strip_suffix(".12.pcapng").unwrap();
            assert!(stem.starts_with(front), "{name}");
            assert!(name.len() <= 255 && front.len() + 2 > left - 1, "{name}");
        }
    }

    #[test]
    fn hidden_names_are_bytes_and_never_too_long() {
        assert_eq!(hidden(name(b"out"), PART), ".out.part");
        assert_eq!(
            hidden(name(b"\xff"), PART).as_encoded_bytes(),
            b".\xff.part"
        );
        assert_ne!(hidden(name(b"\xff"), PART), hidden(name(b"\xfe"), PART));
        for len in 240..=255 {
            for suffix in [PART, ".part.1", ".part.9999"] {
                let hidden_name = hidden(name(&vec![b'a'; len]), suffix);
                let fits = 1 + len + suffix.len() <= NAME_MAX;
                let is = hidden_name.as_encoded_bytes();
                assert_eq!(fits, is.len() == 1 + len + suffix.len(), "{len}");
                assert!(is.len() <= NAME_MAX && is.ends_with(suffix.as_bytes()));
                assert!(is_left_over(&hidden_name, name(&vec![b'a'; len])));
                // Names that differ far behind differ in their hash.
                let mut other = vec![b'a'; len];
                other[len - 1] = b'b';
                assert_ne!(hidden(name(&other), suffix), hidden_name);
            }
        }
        // 'ß' is two bytes, which are not torn apart.
        for shift in 0..2 {
            let long = "x".repeat(shift) + &"ß".repeat(127);
            assert!(hidden(long.as_ref(), PART).to_str().is_some());
        }
    }

    #[test]
    fn what_an_earlier_run_left_is_known_by_its_name() {
        let left = |entry: &str| is_left_over(entry.as_ref(), "out.pcapng".as_ref());
        for entry in [
            ".out.pcapng.part",
            ".out.pcapng.part.1",
            ".out.pcapng.part.17",
            ".out.2.pcapng.part",
            ".out.2.pcapng.part.1",
        ] {
            assert!(left(entry), "{entry}");
        }
        for entry in [
            "out.pcapng.part",
            ".out.pcapng",
            ".out.pcapng.1",
            ".out.pcapng.part.",
            ".out.pcapng.part.x",
            ".out.pcapng.part.1.2",
            ".out.x.pcapng.part",
            ".out.part",
            ".about.pcapng.part",
            ".part",
            "",
        ] {
            assert!(!left(entry), "{entry}");
        }
        assert!(is_left_over(".out.3.part".as_ref(), "out".as_ref()));
    }
}
