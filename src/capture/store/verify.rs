//! Whether a store is what its manifest says. Pure: lines of manifests, and what stands in the directory, in; faults
//! out, the first one first.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use serde::Serialize;

use super::contents::{Contents, Odd, Place};
use super::manifest::{Break, Chain, Event, FileFacts, Verified};

/// Something that is not as it should be, or worth knowing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file in the directory; for a line the manifest it is in.
    pub file: String,
    /// The line in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The last of several lines of which the same is to be said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_line: Option<u64>,
    /// What it is, in a word.
    pub why: &'static str,
    /// The same in a sentence.
    pub text: String,
}

impl Finding {
    /// Of a file.
    pub fn of_file(name: &str, why: &'static str, text: impl Into<String>) -> Self {
        Self {
            file: name.to_owned(),
            line: None,
            last_line: None,
            why,
            text: text.into(),
        }
    }

    fn of_line(place: &Place, why: &'static str, text: impl Into<String>) -> Self {
        Self {
            line: Some(place.line),
            ..Self::of_file(&place.manifest, why, text)
        }
    }
}

/// Lines that a gap in the numbers says are missing; they may still come.
struct Gap {
    /// Its place in the faults.
    fault: usize,
    /// The first and the last number that is missing.
    first: u64,
    last: u64,
    came: BTreeSet<u64>,
    /// The number behind the gap.
    behind: u64,
}

/// What is known of a store so far.
pub struct Ledger<'a> {
    /// What the manifests say that it holds.
    pub contents: Contents,
    /// What is wrong, in the order of the manifests and then of the files.
    pub faults: Vec<Finding>,
    /// What is worth knowing and not wrong.
    pub notes: Vec<Finding>,
    /// The manifests, in their order.
    pub manifests: Vec<Arc<str>>,
    /// Lines in them.
    pub lines: u64,
    /// Lines with a signature.
    pub signed: u64,
    chain: Chain,
    verified: Option<Verified<'a>>,
    line: u64,
    gaps: Vec<Gap>,
}

impl<'a> Ledger<'a> {
    /// Nothing is known. `verified` tells whether a signature is one of the right key.
    pub fn new(verified: Option<Verified<'a>>) -> Self {
        Self {
            contents: Contents::default(),
            faults: Vec::new(),
            notes: Vec::new(),
            manifests: Vec::new(),
            lines: 0,
            signed: 0,
            chain: Chain::default(),
            verified,
            line: 0,
            gaps: Vec::new(),
        }
    }

    /// The lines that follow are those of this manifest.
    pub fn begin(&mut self, manifest: &str) {
        self.manifests.push(manifest.into());
        self.line = 0;
    }

    /// The manifest of the lines so far was closed, and has this name now.
    pub fn closed_as(&mut self, manifest: &str) {
        if let Some(last) = self.manifests.last_mut() {
            *last = manifest.into();
        }
    }

    fn place(&self) -> Place {
        let manifest = self.manifests.last().cloned();
        Place {
            manifest: manifest.unwrap_or_else(|| "".into()),
            line: self.line,
        }
    }

    /// Takes the next line, without its end.
    pub fn take(&mut self, bytes: &[u8]) {
        self.lines += 1;
        self.line += 1;
        let place = self.place();
        let (line, outcome) = self.chain.check(bytes, self.verified);
        let Some(line) = line else {
            if let Err(error) = &outcome {
                self.broken(&place, "no_line", format!("it {error}"));
            }
            return;
        };
        self.signed += u64::from(line.sig.is_some());
        let mut is_late = false;
        match outcome {
            Ok(()) => {}
            // What it says is not what was written.
            Err(error @ Break::Changed) => {
                return self.broken(&place, "changed", format!("it {error}"));
            }
            Err(Break::LeftOut { found, expected }) => self.begin_gap(&place, expected, found),
            Err(error @ Break::Behind { found, .. }) => {
                let gap = |gap: &&mut Gap| (gap.first..=gap.last).contains(&found);
                let gap = self.gaps.iter_mut().find(gap);
                let is_first = gap.is_some_and(|gap| gap.came.insert(found));
                if !is_first {
                    return self.broken(&place, "repeated", format!("it {error}"));
                }
                let text =
                    format!("line number {found} was moved here: it stands behind later ones");
                self.faults.push(Finding::of_line(&place, "swapped", text));
                is_late = true;
            }
            Err(error @ Break::Prev) => {
                self.broken(&place, "does_not_follow", format!("it {error}"))
            }
            Err(error @ Break::NotSigned) => {
                self.broken(&place, "no_signature", format!("it {error}"))
            }
            Err(error @ (Break::Signature | Break::NotALine(_))) => {
                self.broken(&place, "wrong_signature", format!("it {error}"));
            }
        }
        if let Event::Continued { after } = &line.what {
            self.check_continued(&place, after);
        }
        match self.contents.take(&place, line.what, is_late) {
            Some(Odd::ListedTwice(name, before)) => self.faults.push(Finding::of_file(
                &name,
                "missing",
                format!(
                    "the file that {before} lists is not there: {place} lists another one of that name"
                ),
            )),
            Some(Odd::NeverListed(name)) => self.faults.push(Finding::of_line(
                &place,
                "never_listed",
                format!("it deletes {name}, which no line before it lists"),
            )),
            None => {}
        }
    }

    /// The last line of the manifest has no end.
    pub fn torn(&mut self) {
        self.line += 1;
        let text = "the last line is torn: whoever wrote it was stopped, or its end was cut off";
        let finding = Finding::of_line(&self.place(), "torn", text);
        self.faults.push(finding);
    }

    /// Notes a line; the same of neighbours is told once.
    fn broken(&mut self, place: &Place, why: &'static str, text: String) {
        let last = self.faults.last_mut().filter(|last| {
            let end = last.last_line.or(last.line);
            let is_next = end.and_then(|end| end.checked_add(1)) == Some(place.line);
            last.why == why && is_next && *last.file == *place.manifest
        });
        match last {
            Some(last) => last.last_line = Some(place.line),
            None => self.faults.push(Finding::of_line(place, why, text)),
        }
    }

    fn begin_gap(&mut self, place: &Place, expected: u64, found: u64) {
        self.gaps.push(Gap {
            fault: self.faults.len(),
            first: expected,
            last: found - 1,
            came: BTreeSet::new(),
            behind: found,
        });
        // How it is to be called shows at the end.
        self.faults.push(Finding::of_line(place, "left_out", ""));
    }

    fn check_continued(&mut self, place: &Place, after: &str) {
        let before = self.manifests.iter().rev().nth(1).map(|name| &**name);
        if before == Some(after) {
            return;
        }
        let finding = match before {
            None => Finding::of_file(
                after,
                "missing",
                format!("the manifest is not there, and {place} goes on behind it"),
            ),
            Some(before) => Finding::of_line(
                place,
                "does_not_follow",
                format!("it goes on behind {after}, and stands behind {before}"),
            ),
        };
        self.faults.push(finding);
    }

    /// Lines that are not as they should be.
    pub fn broken_lines(&self) -> u64 {
        let of_lines = self.faults.iter().filter_map(|fault| {
            let (first, last) = (fault.line?, fault.last_line);
            Some(last.map_or(1, |last| last.saturating_sub(first).saturating_add(1)))
        });
        of_lines.sum()
    }

    /// No more lines will come: what is missing was left out.
    pub fn end_lines(&mut self) {
        for gap in std::mem::take(&mut self.gaps) {
            let Some(fault) = self.faults.get_mut(gap.fault) else {
                continue;
            };
            let Gap {
                first,
                last,
                behind,
                came,
                ..
            } = gap;
            let missing = (last - first + 1).saturating_sub(came.len() as u64);
            if missing == 0 {
                fault.why = "swapped";
                fault.text =
                    format!("line number {behind} was moved here: it stands before {first}");
                continue;
            }
            fault.text = match (first == last, came.len()) {
                (true, _) => format!("line number {first} is left out before it"),
                (false, 0) => format!("line numbers {first} to {last} are left out before it"),
                (false, moved) => {
                    format!(
                        "of line numbers {first} to {last} {moved} were moved, and {missing} are left out"
                    )
                }
            };
        }
    }

    /// Whether `facts` are those of a file with `bytes` and `sha256`; a fault where not.
    pub fn judge(&mut self, facts: &FileFacts, place: &Place, bytes: u64, sha256: &str) -> bool {
        if facts.bytes == bytes && facts.sha256 == sha256 {
            return true;
        }
        let mut text = match facts.bytes == bytes {
            true => format!("its SHA-256 is {sha256}, in {place} it is {}", facts.sha256),
            false => format!("it has {bytes} bytes, in {place} {}", facts.bytes),
        };
        let other = self.contents.kept.values();
        let mut other = other.filter(|other| other.facts.sha256 == sha256);
        if let Some(other) = other.next() {
            let _ = write!(text, "; its content is that of {}", other.facts.name);
        }
        self.faults
            .push(Finding::of_file(&facts.name, "changed", text));
        false
    }

    /// Whether a file that no line lists could have been written here, and its line be gone.
    pub fn unlisted(&mut self, name: &str) {
        let text = "no line lists it: its line was removed, or it was not written here";
        self.faults.push(Finding::of_file(name, "unlisted", text));
    }

    /// A file that should be there is not. Tells the place of the fault.
    pub fn missing(&mut self, name: &str, place: &Place) -> usize {
        let text = format!("{place} lists it, and none tells that it was deleted");
        self.faults.push(Finding::of_file(name, "missing", text));
        self.faults.len() - 1
    }

    /// `other` has the content of a file that is missing.
    pub fn is_elsewhere(&mut self, fault: usize, other: &str) {
        if let Some(fault) = self.faults.get_mut(fault) {
            let _ = write!(fault.text, "; {other} has its content");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(number: u64) -> Event {
        Event::File(FileFacts {
            name: format!("vxtap_{number:05}_20260101000000.pcapng"),
            bytes: number,
            sha256: number.to_string(),
            ..FileFacts::default()
        })
    }

    fn lines(number: u64) -> Vec<Vec<u8>> {
        let mut chain = Chain::default();
        let line = |number| {
            let line = chain.append(number, file(number), None);
            line.trim_ascii_end().to_vec()
        };
        (1..=number).map(line).collect()
    }

    fn found(lines: &[Vec<u8>]) -> Vec<(u64, &'static str)> {
        let mut ledger = Ledger::new(None);
        ledger.begin("MANIFEST.jsonl");
        for line in lines {
            ledger.take(line);
        }
        ledger.end_lines();
        let faults = ledger.faults.into_iter();
        faults
            .map(|fault| (fault.line.unwrap_or_default(), fault.why))
            .collect()
    }

    #[test]
    fn each_line_removed_swapped_or_repeated_is_named() {
        let whole = lines(5);
        assert_eq!(found(&whole), []);
        for at in 0..5 {
            let number = at as u64 + 1;
            let mut removed = whole.clone();
            removed.remove(at);
            let expected: &[_] = match at {
                // Its file tells.
                4 => &[],
                _ => &[(number, "left_out")],
            };
            assert_eq!(found(&removed), expected, "{at}");
            let mut repeated = whole.clone();
            repeated.insert(at, whole[at].clone());
            assert_eq!(found(&repeated), [(number + 1, "repeated")], "{at}");
            repeated = whole.clone();
            repeated.push(whole[at].clone());
            assert_eq!(found(&repeated), [(6, "repeated")], "{at}");
            if at < 4 {
                let mut swapped = whole.clone();
                swapped.swap(at, at + 1);
                let expected = [(number, "swapped"), (number + 1, "swapped")];
                assert_eq!(found(&swapped), expected, "{at}");
            }
            let mut changed = whole.clone();
            changed[at] = String::from_utf8(changed[at].clone())
                .unwrap()
                .replace("\"packets\":0", "\"packets\":1")
                .into_bytes();
            assert_eq!(found(&changed), [(number, "changed")], "{at}");
        }
    }

    #[test]
    fn neighbours_of_one_kind_are_told_once() {
        let never = |_: &[u8], _: &str| false;
        let mut ledger = Ledger::new(Some(&never));
        ledger.begin("MANIFEST.jsonl");
        lines(300).iter().for_each(|line| ledger.take(line));
        let [fault] = &ledger.faults[..] else {
            panic!("{:?}", ledger.faults)
        };
        assert_eq!(fault.why, "no_signature");
        assert_eq!((fault.line, fault.last_line), (Some(1), Some(300)));
    }

    #[test]
    fn manifests_follow_each_other() {
        let mut chain = Chain::default();
        let first = chain.append(1, file(1), None);
        let after = "MANIFEST_00001.jsonl".to_owned();
        let second = chain.append(2, Event::Continued { after }, None);
        let mut ledger = Ledger::new(None);
        ledger.begin("MANIFEST_00001.jsonl");
        ledger.take(first.trim_ascii_end());
        ledger.begin("MANIFEST.jsonl");
        ledger.take(second.trim_ascii_end());
        assert_eq!(ledger.faults, []);
        let mut ledger = Ledger::new(None);
        ledger.begin("MANIFEST.jsonl");
        ledger.take(second.trim_ascii_end());
        ledger.end_lines();
        let whys: Vec<_> = ledger.faults.iter().map(|fault| fault.why).collect();
        assert_eq!(whys, ["left_out", "missing"]);
    }

    #[test]
    fn contents_that_changed_places_are_told() {
        let mut ledger = Ledger::new(None);
        ledger.begin("MANIFEST.jsonl");
        lines(2).iter().for_each(|line| ledger.take(line));
        let files = ledger.contents.in_order();
        let first = files[0].clone();
        assert!(ledger.judge(&first.facts, &first.place, 1, "1"));
        assert!(!ledger.judge(&first.facts, &first.place, 1, "2"));
        let text = &ledger.faults[0].text;
        assert!(
            text.ends_with("that of vxtap_00002_20260101000000.pcapng"),
            "{text}"
        );
    }
}
