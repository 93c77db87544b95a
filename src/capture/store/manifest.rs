//! The manifest of a store: a line of JSON for each file that was finished or deleted, chained by SHA-256, so that
//! no line can be changed, left out, swapped or repeated without a break. Pure.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Its name in the store's directory.
pub const NAME: &str = "MANIFEST.jsonl";

/// From this size on a manifest is closed, and another one is chained to it.
pub const MOST_BYTES: u64 = 64 << 20;

/// The name that the manifest gets when it is closed, by its number.
pub fn closed_name(number: u32) -> String {
    format!("MANIFEST_{number:05}.jsonl")
}

/// The number in the name of a closed manifest.
pub fn closed_number(name: &str) -> Option<u32> {
    let number = name.strip_prefix("MANIFEST_")?.strip_suffix(".jsonl")?;
    let number = number.parse().ok()?;
    (closed_name(number) == name).then_some(number)
}

/// A line of the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Its number, from 1 on, over all manifests of the directory.
    pub line: u64,
    /// SHA-256 of the line before, without its line end; zeros for the first.
    pub prev: String,
    /// When it was written, RFC 3339, UTC.
    pub at: String,
    /// What happened.
    #[serde(flatten)]
    pub what: Event,
    /// Ed25519 signature of the line without this field and the next, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sig: Option<String>,
    /// The first 16 hexadecimal digits of the SHA-256 of the line without this field: damage shows in the line that
    /// has it, the last one too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sum: Option<String>,
}

/// What a line tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// A manifest of that name was closed, and this one goes on behind it.
    Continued {
        /// The closed manifest.
        after: String,
    },
    /// A file was finished.
    File(FileFacts),
    /// A file is deleted: the line is written first.
    Deleted {
        /// The file.
        name: String,
        /// Bytes of it.
        bytes: u64,
        /// Which limit asked for it.
        because: String,
    },
    /// A file of the line before could not get its name: it is lost, or where somebody moved it to.
    Unfinished {
        /// The file.
        name: String,
        /// Why.
        reason: String,
    },
    /// What a killed run left could not be finished, and was moved aside.
    Quarantined {
        /// The name it would have had.
        name: String,
        /// Where it is now, in the directory.
        moved_to: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// What is known of a finished file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// Its name in the directory.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of it, in hexadecimal.
    pub sha256: String,
    /// Time of the earliest packet, RFC 3339, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
    /// Time of the latest packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// Packets, or flow records, in it.
    pub packets: u64,
    /// Mirror sessions in it.
    pub sessions: u64,
    /// Bytes of the frames in it, as they were on the wire.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub wire_bytes: u64,
    /// Packets that belong here and were lost since the file before: in the kernel, on the way, on the disk.
    #[serde(default, skip_serializing_if = "Lost::is_none")]
    pub lost: Lost,
    /// Why it ended.
    pub reason: String,
    /// Its index, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<IndexFacts>,
}

/// What was lost before or while a file was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lost {
    /// Datagrams the kernel dropped, of all sessions.
    #[serde(skip_serializing_if = "is_zero")]
    pub kernel: u64,
    /// Packets that found no room in the queue to the writer.
    #[serde(skip_serializing_if = "is_zero")]
    pub queue: u64,
    /// Packets that the disk did not take.
    #[serde(skip_serializing_if = "is_zero")]
    pub disk: u64,
}

impl Lost {
    /// Whether nothing was.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What is known of an index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexFacts {
    /// Its name in the directory.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of it, in hexadecimal.
    pub sha256: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Where a line breaks the chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Break {
    #[error("is no line of a manifest: {0}")]
    NotALine(String),
    #[error("was changed: its sum does not fit")]
    Changed,
    #[error("is numbered {found} where {expected} is due: lines before it were left out")]
    LeftOut { found: u64, expected: u64 },
    #[error("is numbered {found} where {expected} is due: it is repeated or was moved")]
    Behind { found: u64, expected: u64 },
    #[error("does not follow the line before it: one of them is another one")]
    Prev,
    #[error("has no signature")]
    NotSigned,
    #[error("was not signed with this key, or was changed")]
    Signature,
}

/// Signs bytes, in hexadecimal.
pub type Sign<'a> = &'a dyn Fn(&[u8]) -> String;

/// Whether a signature, in hexadecimal, is that of the bytes.
pub type Verified<'a> = &'a dyn Fn(&[u8], &str) -> bool;

/// The chain as far as it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The number of the next line.
    next: u64,
    /// SHA-256 of the last.
    prev: [u8; 32],
    /// The number of the last line that is one.
    good: u64,
    /// The line before cannot be read or was changed, and perhaps was more than one: the next one is taken as it is.
    is_doubtful: bool,
}

impl Default for Chain {
    fn default() -> Self {
        Self {
            next: 1,
            prev: [0; 32],
            good: 0,
            is_doubtful: false,
        }
    }
}

impl Chain {
    /// The next line, with its line end, written at `at_ns`. `sign` signs what it is given.
    pub fn append(&mut self, at_ns: u64, what: Event, sign: Option<Sign<'_>>) -> Vec<u8> {
        let mut line = Line {
            line: self.next,
            prev: hex(&self.prev),
            at: crate::flow::text::rfc3339(at_ns).to_owned(),
            what,
            sig: None,
            sum: None,
        };
        line.sig = sign.map(|sign| sign(&line.bytes()));
        line.sum = Some(sum_of(&line.bytes()));
        let mut bytes = line.bytes();
        self.follow(line.line, &bytes);
        bytes.push(b'\n');
        bytes
    }

    /// Checks that `bytes`, a line without its end, is the next one. `verified` tells whether a signature is that of
    /// the bytes it stands for.
    ///
    /// # Errors
    ///
    /// [`Break`]. Behind one line that breaks it the chain goes on: behind a gap with the line after it, behind a
    /// line that is out of its place as if it were not there.
    pub fn check(
        &mut self,
        bytes: &[u8],
        verified: Option<Verified<'_>>,
    ) -> (Option<Line>, Result<(), Break>) {
        let parsed: Result<Line, _> = serde_json::from_slice(bytes);
        let outcome = match &parsed {
            // Written otherwise it is another line, whatever it means.
            Ok(line) if line.bytes() != bytes => {
                let other = "it is written in another way than vxtap does".to_owned();
                Err(Break::NotALine(other))
            }
            Ok(line) if !line.has_its_sum() => Err(Break::Changed),
            Ok(_) => Ok(()),
            Err(error) => Err(Break::NotALine(error.to_string())),
        };
        match (parsed.ok(), outcome) {
            (Some(line), Ok(())) => {
                let outcome = self.judge(&line, verified);
                if !matches!(outcome, Err(Break::Behind { .. })) {
                    self.follow(line.line, bytes);
                }
                (Some(line), outcome)
            }
            (line, outcome) => {
                self.is_doubtful = true;
                self.next = self.next.saturating_add(1);
                self.prev = Sha256::digest(bytes).into();
                let is_line = outcome == Err(Break::Changed);
                (line.filter(|_| is_line), outcome)
            }
        }
    }

    fn judge(&self, line: &Line, verified: Option<Verified<'_>>) -> Result<(), Break> {
        let (found, expected) = (line.line, self.next);
        let is_taken = self.is_doubtful && found > self.good;
        if found < expected && !is_taken {
            return Err(Break::Behind { found, expected });
        }
        if found > expected && !is_taken {
            return Err(Break::LeftOut { found, expected });
        }
        if line.prev != hex(&self.prev) && !is_taken {
            return Err(Break::Prev);
        }
        if let Some(verified) = verified {
            let sig = line.sig.as_deref().ok_or(Break::NotSigned)?;
            let unsigned = Line {
                sig: None,
                sum: None,
                ..line.clone()
            };
            if !verified(&unsigned.bytes(), sig) {
                return Err(Break::Signature);
            }
        }
        Ok(())
    }

    fn follow(&mut self, number: u64, bytes: &[u8]) {
        self.good = number;
        self.next = number.saturating_add(1);
        self.prev = Sha256::digest(bytes).into();
        self.is_doubtful = false;
    }
}

impl Line {
    fn bytes(&self) -> Vec<u8> {
        // Only maps with keys that are no text, and floats, can fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn has_its_sum(&self) -> bool {
        let without = Self {
            sum: None,
            ..self.clone()
        };
        self.sum.as_deref() == Some(&sum_of(&without.bytes()))
    }
}

fn sum_of(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    hex(digest.get(..8).unwrap_or_default())
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(number: u64) -> Event {
        Event::File(FileFacts {
            name: format!("vxtap_{number:05}_20260101000000.pcapng"),
            bytes: 100 + number,
            sha256: hex(&[number as u8; 32]),
            packets: number,
            reason: "size".to_owned(),
            ..FileFacts::default()
        })
    }

    fn lines() -> Vec<Vec<u8>> {
        let mut chain = Chain::default();
        let mut lines: Vec<Vec<u8>> = (1..=4).map(|n| chain.append(n, file(n), None)).collect();
        let deleted = Event::Deleted {
            name: "vxtap_00001_20260101000000.pcapng".to_owned(),
            bytes: 101,
            because: "keep_bytes".to_owned(),
        };
        lines.push(chain.append(5, deleted, None));
        for line in &mut lines {
            assert_eq!(line.pop(), Some(b'\n'));
        }
        lines
    }

    /// The places, from 1 on, of the lines at which the chain breaks.
    fn breaks(lines: &[Vec<u8>]) -> Vec<(usize, Break)> {
        let mut chain = Chain::default();
        let each = lines.iter().zip(1..);
        each.filter_map(|(line, at)| Some((at, chain.check(line, None).1.err()?)))
            .collect()
    }

    #[test]
    fn a_whole_chain_has_no_break() {
        let lines = lines();
        assert_eq!(breaks(&lines), []);
        let first = str::from_utf8(&lines[0]).unwrap();
        let expected = concat!(
            r#"{"line":1,"prev":"0000000000000000000000000000000000000000000000000000000000000000","#,
            r#""at":"1970-01-01T00:00:00.000000001Z","kind":"file","name":"vxtap_00001_20260101000000.pcapng","#,
            r#""bytes":101,"sha256":"0101010101010101010101010101010101010101010101010101010101010101","#,
            r#""packets":1,"sessions":0,"reason":"size""#,
        );
        let (line, sum) = first.split_once(r#","sum":""#).unwrap();
        assert_eq!(line, expected);
        assert_eq!(
            sum,
            format!("{}\"}}", sum_of(format!("{line}}}").as_bytes()))
        );
    }

    #[test]
    fn a_byte_that_changes_is_found_in_its_line_and_nowhere_else() {
        let whole = lines();
        for at in 0..whole.len() {
            for byte in 0..whole[at].len() {
                let mut lines = whole.clone();
                lines[at][byte] ^= 1;
                let found: Vec<usize> = breaks(&lines).iter().map(|(at, _)| *at).collect();
                assert_eq!(found, [at + 1], "{at} {byte}");
            }
        }
    }

    #[test]
    fn lines_left_out_swapped_or_repeated() {
        let whole = lines();
        for (at, left_out) in [(0, (2, 1)), (1, (3, 2)), (3, (5, 4))] {
            let mut without = whole.clone();
            without.remove(at);
            let (found, expected) = left_out;
            assert_eq!(
                breaks(&without),
                [(at + 1, Break::LeftOut { found, expected })]
            );
        }
        let mut swapped = whole.clone();
        swapped.swap(1, 2);
        let (found, expected) = (3, 2);
        let early = (2, Break::LeftOut { found, expected });
        let (found, expected) = (2, 4);
        assert_eq!(
            breaks(&swapped),
            [early, (3, Break::Behind { found, expected })]
        );
        let mut repeated = whole.clone();
        repeated.insert(2, whole[1].clone());
        let (found, expected) = (2, 3);
        assert_eq!(breaks(&repeated), [(3, Break::Behind { found, expected })]);
        // Another line of the same number, with its sum.
        let mut chain = Chain::default();
        let mut other: Vec<Vec<u8>> = (7..=8).map(|n| chain.append(n, file(n), None)).collect();
        let mut replaced = whole.clone();
        replaced[1] = other.remove(1).trim_ascii_end().to_vec();
        assert_eq!(breaks(&replaced), [(2, Break::Prev), (3, Break::Prev)]);
        // Nothing in what is left tells of a last line that is gone: the file it named does.
        assert_eq!(breaks(&whole[..4]), []);
    }

    #[test]
    fn a_line_torn_in_two_and_two_that_became_one() {
        let whole = lines();
        let mut torn = whole.clone();
        let rest = torn[1].split_off(100);
        torn.insert(2, rest);
        let found: Vec<usize> = breaks(&torn).iter().map(|(at, _)| *at).collect();
        assert_eq!(found, [2, 3]);
        let mut joined = whole.clone();
        let second = joined.remove(2);
        joined[1].extend(second);
        let found: Vec<usize> = breaks(&joined).iter().map(|(at, _)| *at).collect();
        assert_eq!(found, [2]);
    }

    #[test]
    fn a_line_written_in_another_way_is_none() {
        let mut lines = lines();
        lines[4].insert(1, b' ');
        assert!(matches!(breaks(&lines)[..], [(5, Break::NotALine(_))]));
    }

    #[test]
    fn signatures_are_of_the_line_without_them() {
        let sign = |bytes: &[u8]| hex(&Sha256::digest(bytes));
        let verified = |bytes: &[u8], sig: &str| hex(&Sha256::digest(bytes)) == sig;
        let mut chain = Chain::default();
        let signed = chain.append(1, file(1), Some(&sign));
        let signed = signed.trim_ascii_end();
        let check = |bytes: &[u8]| Chain::default().check(bytes, Some(&verified)).1;
        assert_eq!(check(signed), Ok(()));
        assert_eq!(check(&lines()[0]), Err(Break::NotSigned));
        let other = String::from_utf8(signed.to_vec()).unwrap();
        let other = other.replace("\"packets\":1", "\"packets\":2");
        assert_eq!(check(other.as_bytes()), Err(Break::Changed));
        // Whoever changes it makes a new sum, and has no key.
        let mut other: Line = serde_json::from_str(&other).unwrap();
        other.sum = None;
        other.sum = Some(sum_of(&other.bytes()));
        assert_eq!(check(&other.bytes()), Err(Break::Signature));
    }

    #[test]
    fn names_of_closed_manifests() {
        assert_eq!(closed_name(7), "MANIFEST_00007.jsonl");
        assert_eq!(closed_number("MANIFEST_00007.jsonl"), Some(7));
        for foreign in ["MANIFEST.jsonl", "MANIFEST_7.jsonl", "MANIFEST_+0007.jsonl"] {
            assert_eq!(closed_number(foreign), None);
        }
    }
}
