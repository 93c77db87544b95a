//! What a store holds, as a value: its files in the order of time, what is missing between them, and their sums. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::page::bytes;
use crate::capture::store::contents::Contents;
use crate::capture::store::manifest::{FileFacts, Lost};
use crate::capture::store::names::StoreName;
use crate::capture::store::recover::parse_rfc3339;
use crate::export::FlowFormat;
use crate::mirror::words::{counted, ending};

/// Shortest time without a packet, between two files, that is told.
const GAP_NS: u64 = 60_000_000_000;

/// A store.
#[derive(Debug, Default, Serialize)]
pub struct Listing {
    /// Its directory.
    pub directory: String,
    /// Its files: by prefix, and those of a prefix in the order of time.
    pub files: Vec<File>,
    /// What is missing between two files of one prefix.
    pub gaps: Vec<Gap>,
    /// Files without a name yet.
    pub open: Vec<Open>,
    /// Files that could not be finished, and were moved aside.
    pub quarantined: Vec<Quarantined>,
    /// Files with names as a store gives them that no line of the manifest lists.
    pub unlisted: Vec<String>,
    /// Sums.
    pub total: Total,
    /// Files deleted so far.
    pub deleted: Deleted,
    /// Lines of the manifests that are not as they should be; `verify` tells which.
    pub broken_lines: u64,
}

/// A finished file.
#[derive(Debug, Serialize)]
pub struct File {
    /// What stands before its number.
    pub prefix: String,
    /// Its number.
    pub number: u64,
    /// What the manifest says of it.
    #[serde(flatten)]
    pub facts: FileFacts,
    /// `pcapng`, `pcap`, `jsonl`, `csv`, `parquet` or `ipfix`.
    pub format: String,
    /// `zst`, or `none`.
    pub compression: String,
    /// `there`; `unnamed`: complete, under its hidden name; `missing`.
    pub state: &'static str,
    #[serde(skip)]
    span: Option<(u64, u64)>,
}

/// What is missing between two files.
#[derive(Debug, PartialEq, Serialize)]
pub struct Gap {
    /// The prefix of both.
    pub prefix: String,
    /// The file before.
    pub after: String,
    /// The file behind.
    pub before: String,
    /// Seconds between the last packet before and the first behind, where it is more than a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// The first and the last number that no file has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numbers: Option<(u64, u64)>,
    /// How many of them were deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleted: Option<u64>,
}

/// A file without a name yet.
#[derive(Debug, Serialize)]
pub struct Open {
    /// The name it will get.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// A process writes it; otherwise a killed run left it.
    pub is_written: bool,
}

/// A file that was moved aside.
#[derive(Debug, Serialize)]
pub struct Quarantined {
    /// The name it would have had.
    pub name: String,
    /// Where it was moved to.
    pub moved_to: String,
    /// Why.
    pub reason: String,
}

/// Sums over the finished files.
#[derive(Debug, Default, Serialize)]
pub struct Total {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their packets.
    pub packets: u64,
    /// Flow records, of files that hold those.
    pub records: u64,
    /// The earliest packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
    /// The latest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// What was lost, by the lines of the files that are kept.
    pub lost: Lost,
}

/// What was deleted so far.
#[derive(Debug, Default, Serialize)]
pub struct Deleted {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Listing {
    /// Of the store in `directory` that holds `contents` by its manifest. `is_there` tells whether there is a file of
    /// a name, `open` what has none.
    pub fn new(
        directory: String,
        contents: &Contents,
        is_there: impl Fn(&str) -> bool,
        open: Vec<Open>,
    ) -> Self {
        let is_open = |name: &str| open.iter().any(|open| open.name == name);
        let mut files: Vec<File> = contents
            .in_order()
            .into_iter()
            .map(|listed| {
                let name = &listed.facts.name;
                let state = match is_there(name) {
                    true => "there",
                    false if is_open(name) => "unnamed",
                    false => "missing",
                };
                File::new(listed.facts.clone(), state)
            })
            .collect();
        files.sort_by(|a, b| {
            let key = |file: &File| (file.span.map(|(first, _)| first), file.number);
            (&a.prefix, key(a)).cmp(&(&b.prefix, key(b)))
        });
        let quarantined = contents
            .quarantined
            .iter()
            .map(|(name, aside)| Quarantined {
                name: name.clone(),
                moved_to: aside.moved_to.clone(),
                reason: aside.reason.clone(),
            });
        let quarantined = quarantined.collect();
        let is_listed = |open: &Open| contents.kept.contains_key(&open.name);
        Self {
            directory,
            gaps: gaps(&files, contents),
            total: Total::of(&files),
            files,
            open: open.into_iter().filter(|open| !is_listed(open)).collect(),
            quarantined,
            unlisted: Vec::new(),
            deleted: Deleted {
                files: contents.deleted_files,
                bytes: contents.deleted_bytes,
            },
            broken_lines: 0,
        }
    }
}

impl File {
    fn new(facts: FileFacts, state: &'static str) -> Self {
        let parsed = StoreName::parse(&facts.name);
        let ending = parsed.as_ref().map_or("", |name| name.ending.as_str());
        let mut endings = ending.split('.').skip(1);
        let mut next = |absent: &str| endings.next().unwrap_or(absent).to_owned();
        let (format, compression) = (next("unknown"), next("none"));
        let time = |text: &Option<String>| parse_rfc3339(text.as_deref()?);
        let span = time(&facts.first).zip(time(&facts.last));
        let (prefix, number) = match parsed {
            Some(name) => (name.prefix, name.sequence),
            None => (facts.name.clone(), 0),
        };
        Self {
            prefix,
            number,
            facts,
            format,
            compression,
            state,
            span,
        }
    }
}

impl Total {
    fn of(files: &[File]) -> Self {
        let mut total = Self::default();
        let (mut first, mut last) = (u64::MAX, 0);
        for file in files {
            let File { facts, span, .. } = file;
            let holds_records = file.holds_records();
            total.files += 1;
            total.bytes = total.bytes.saturating_add(facts.bytes);
            let items = match holds_records {
                true => &mut total.records,
                false => &mut total.packets,
            };
            *items = items.saturating_add(facts.packets);
            let Lost {
                kernel,
                queue,
                disk,
            } = facts.lost;
            let lost = &mut total.lost;
            lost.kernel = lost.kernel.saturating_add(kernel);
            lost.queue = lost.queue.saturating_add(queue);
            lost.disk = lost.disk.saturating_add(disk);
            let Some((from, to)) = *span else {
                continue;
            };
            if from < first {
                (first, total.first) = (from, facts.first.clone());
            }
            if to >= last {
                (last, total.last) = (to, facts.last.clone());
            }
        }
        total
    }
}

/// What is missing between the files of each prefix, which are in the order of time.
fn gaps(files: &[File], contents: &Contents) -> Vec<Gap> {
    let mut deleted: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for name in contents
        .deleted
        .keys()
        .filter_map(|name| StoreName::parse(name))
    {
        deleted.entry(name.prefix).or_default().push(name.sequence);
    }
    let mut gaps = Vec::new();
    for group in files.chunk_by(|a, b| a.prefix == b.prefix) {
        let mut numbered: Vec<&File> = group.iter().collect();
        numbered.sort_by_key(|file| file.number);
        let mut of_group: BTreeMap<&str, Gap> = BTreeMap::new();
        let gap = |before: &File, behind: &File| Gap {
            prefix: before.prefix.clone(),
            after: before.facts.name.clone(),
            before: behind.facts.name.clone(),
            seconds: None,
            numbers: None,
            deleted: None,
        };
        for (before, behind) in numbered.iter().zip(numbered.iter().skip(1)) {
            if behind.number.saturating_sub(before.number) < 2 {
                continue;
            }
            let (first, last) = (before.number + 1, behind.number - 1);
            let known = deleted.get(&before.prefix).into_iter().flatten();
            let known = known.filter(|number| (first..=last).contains(number));
            of_group.insert(
                &behind.facts.name,
                Gap {
                    numbers: Some((first, last)),
                    deleted: Some(known.count() as u64),
                    ..gap(before, behind)
                },
            );
        }
        let mut latest: Option<(&File, u64)> = None;
        for file in group {
            let Some((first, last)) = file.span else {
                continue;
            };
            if let Some((before, until)) = latest
                && first.saturating_sub(until) > GAP_NS
            {
                let entry = of_group.entry(&file.facts.name);
                let gap = entry.or_insert_with(|| gap(before, file));
                gap.seconds = Some((first - until) as f64 / 1e9);
            }
            if latest.is_none_or(|(_, until)| last >= until) {
                latest = Some((file, last));
            }
        }
        let named = group
            .iter()
            .filter_map(|file| of_group.remove(&*file.facts.name));
        gaps.extend(named);
    }
    gaps
}

/// A length of time for people.
fn time(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    match seconds {
        0..60 => format!("{:.1} s", ns as f64 / 1e9),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A time to the second: `2026-01-15 09:30:00`.
fn moment(rfc3339: &str) -> String {
    let text = rfc3339.get(..19).unwrap_or(rfc3339);
    text.replace('T', " ")
}

impl Listing {
    /// The table for people.
    pub fn table(&self) -> String {
        let mut page = String::new();
        let header = [
            "file", "time", "packets", "sessions", "bytes", "ended by", "lost",
        ];
        let rows: Vec<[String; 7]> = self.files.iter().map(File::row).collect();
        let mut widths = header.map(|title| title.chars().count());
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |page: &mut String, row: &[String; 7]| {
            let mut text = String::from(" ");
            for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
                // Numbers to the right, words to the left.
                let _ = match column {
                    0 | 5 => write!(text, " {cell:<width$} "),
                    _ => write!(text, " {cell:>width$} "),
                };
            }
            let _ = writeln!(page, "{}", text.trim_end());
        };
        let mut rows = rows.iter();
        for group in self.files.chunk_by(|a, b| a.prefix == b.prefix) {
            let prefix = group.first().map_or("", |file| &file.prefix);
            let _ = writeln!(page, "{prefix}_…");
            let holds_records = group.iter().all(File::holds_records);
            let titles = header.map(|title| match title {
                "packets" if holds_records => "records",
                title => title,
            });
            line(&mut page, &titles.map(str::to_owned));
            for (file, row) in group.iter().zip(&mut rows) {
                let name = &file.facts.name;
                for gap in self.gaps.iter().filter(|gap| gap.before == *name) {
                    let _ = writeln!(page, "      {}", gap.sentence());
                }
                line(&mut page, row);
                match file.state {
                    "missing" => page.push_str(
                        "      missing: no line of the manifest tells that it was deleted\n",
                    ),
                    "unnamed" => page.push_str("      complete, and not named yet\n"),
                    _ => {}
                }
            }
        }
        for open in &self.open {
            let state = match open.is_written {
                true => "being written",
                false => "left by a killed run; the next one finishes it",
            };
            let _ = writeln!(page, "{}: {state}, {}", open.name, bytes(open.bytes));
        }
        for aside in &self.quarantined {
            let _ = writeln!(page, "{}: moved aside: {}", aside.moved_to, aside.reason);
        }
        for name in &self.unlisted {
            let _ = writeln!(page, "{name}: not in the manifest");
        }
        page.push_str(&self.sums());
        page
    }

    fn sums(&self) -> String {
        let Total {
            files,
            packets,
            records,
            first,
            last,
            lost,
            ..
        } = &self.total;
        let records = match records {
            0 => String::new(),
            records => format!(", {}", counted(*records, "flow record")),
        };
        let mut text = format!(
            "{}, {}{records}, {}",
            counted(*files, "file"),
            counted(*packets, "packet"),
            bytes(self.total.bytes)
        );
        if let (Some(first), Some(last)) = (first, last) {
            let _ = write!(text, ", {} to {} UTC", moment(first), moment(last));
        }
        text.push('\n');
        if !lost.is_none() {
            let Lost {
                kernel,
                queue,
                disk,
            } = lost;
            let _ = writeln!(
                text,
                "lost: {kernel} in the kernel, {queue} in the queue, {disk} at the disk"
            );
        }
        let Deleted { files, bytes: size } = self.deleted;
        if files > 0 {
            let _ = writeln!(
                text,
                "deleted so far: {}, {}",
                counted(files, "file"),
                bytes(size)
            );
        }
        if self.broken_lines > 0 {
            let _ = writeln!(
                text,
                "{} of the manifest not as written: 'vxtap verify' tells which",
                match self.broken_lines {
                    1 => "1 line is".to_owned(),
                    lines => format!("{lines} lines are"),
                }
            );
        }
        text
    }
}

impl File {
    fn holds_records(&self) -> bool {
        FlowFormat::by_name(&self.format).is_some()
    }

    fn row(&self) -> [String; 7] {
        let Self { facts, span, .. } = self;
        let rest = facts.name.strip_prefix(&self.prefix);
        let rest = rest.map_or(&*facts.name, |rest| rest.trim_start_matches('_'));
        let Lost {
            kernel,
            queue,
            disk,
        } = facts.lost;
        let lost = kernel.saturating_add(queue).saturating_add(disk);
        [
            rest.to_owned(),
            span.map_or("-".to_owned(), |(first, last)| {
                time(last.saturating_sub(first))
            }),
            facts.packets.to_string(),
            facts.sessions.to_string(),
            bytes(facts.bytes),
            facts.reason.clone(),
            if lost == 0 {
                "-".to_owned()
            } else {
                lost.to_string()
            },
        ]
    }
}

impl Gap {
    fn sentence(&self) -> String {
        let mut parts = Vec::new();
        if let Some(seconds) = self.seconds {
            parts.push(format!("{} without a packet", time((seconds * 1e9) as u64)));
        }
        if let Some((first, last)) = self.numbers {
            let missing = last - first + 1;
            let which = match missing {
                1 => format!("number {first}"),
                _ => format!("numbers {first} to {last}"),
            };
            let deleted = self.deleted.unwrap_or_default();
            parts.push(match deleted {
                0 => format!("no file{} with {which}", ending(missing)),
                _ if deleted >= missing => format!("{which} deleted"),
                _ => format!(
                    "{which}: {deleted} deleted, {} not in the manifest",
                    missing - deleted
                ),
            });
        }
        parts.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::store::contents::Place;
    use crate::capture::store::manifest::Event;
    use crate::flow::text::rfc3339;

    const SECOND: u64 = 1_000_000_000;

    fn contents(files: &[(&str, u64, u64, u64)]) -> Contents {
        let mut contents = Contents::default();
        for (line, (prefix, number, first_s, last_s)) in (1..).zip(files) {
            let place = Place {
                manifest: "MANIFEST.jsonl".into(),
                line,
            };
            let facts = FileFacts {
                name: format!("{prefix}_{number:05}_20260101000000.pcapng.zst"),
                bytes: 1000,
                packets: 10,
                first: Some(rfc3339(first_s * SECOND).to_owned()),
                last: Some(rfc3339(last_s * SECOND).to_owned()),
                reason: "interval".to_owned(),
                ..FileFacts::default()
            };
            contents.take(&place, Event::File(facts), false);
        }
        contents
    }

    fn listing(files: &[(&str, u64, u64, u64)]) -> Listing {
        Listing::new("st".to_owned(), &contents(files), |_| true, Vec::new())
    }

    #[test]
    fn gaps_are_told_by_time_and_by_number() {
        let whole = listing(&[("a", 1, 0, 30), ("a", 2, 30, 60), ("b", 9, 500, 600)]);
        assert_eq!(whole.gaps, []);
        let gaps = listing(&[("a", 1, 0, 30), ("a", 2, 91, 95), ("a", 5, 96, 99)]).gaps;
        assert_eq!(gaps.len(), 2);
        assert_eq!((gaps[0].seconds, gaps[0].numbers), (Some(61.0), None));
        assert_eq!((gaps[1].seconds, gaps[1].numbers), (None, Some((3, 4))));
        assert_eq!(gaps[1].sentence(), "no files with numbers 3 to 4");
        // Two runs in one directory: while one was silent the other was not.
        let gaps = listing(&[("a", 1, 0, 300), ("a", 2, 0, 10), ("a", 3, 301, 302)]).gaps;
        assert_eq!(gaps, []);
    }

    #[test]
    fn deleted_files_are_no_riddle() {
        let mut contents = contents(&[("a", 1, 0, 1), ("a", 2, 1, 2), ("a", 3, 2, 3)]);
        let place = Place {
            manifest: "MANIFEST.jsonl".into(),
            line: 4,
        };
        let name = "a_00002_20260101000000.pcapng.zst".to_owned();
        let because = "keep_age".to_owned();
        let event = Event::Deleted {
            name,
            bytes: 1000,
            because,
        };
        contents.take(&place, event, false);
        let listing = Listing::new("st".to_owned(), &contents, |_| true, Vec::new());
        assert_eq!(listing.gaps[0].sentence(), "number 2 deleted");
        assert_eq!((listing.deleted.files, listing.total.files), (1, 2));
    }

    #[test]
    fn the_table_fits_a_terminal() {
        let prefix = "vxtap-vni16777215-2001.db8.1111.2222.3333.4444.5555.6666";
        let mut listing = listing(&[
            ("vxtap", 2, 86_400, 90_000),
            (prefix, 1, 0, 3),
            ("vxtap", 1, 0, 12_345),
        ]);
        for file in &mut listing.files {
            file.facts.packets = 123_456_789;
            file.facts.bytes = 999_999_999;
            file.facts.lost.kernel = 1_234_567;
            file.facts.reason = "open_files".to_owned();
        }
        let table = listing.table();
        for line in table.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
        let first = table.find("00001_20260101000000.pcapng.zst").unwrap();
        let second = table.find("00002_20260101000000.pcapng.zst").unwrap();
        assert!(first < second, "{table}");
        assert!(table.contains(&format!("{prefix}_…\n")), "{table}");
        assert!(table.contains("20 h 34 min without a packet"), "{table}");
        assert!(table.contains("3 files, 30 packets"), "{table}");
        assert_eq!(
            (&*listing.files[0].format, &*listing.files[0].compression),
            ("pcapng", "zst")
        );
    }

    #[test]
    fn an_empty_store_has_a_line() {
        let empty = Listing::new("st".to_owned(), &Contents::default(), |_| true, Vec::new());
        assert_eq!(empty.table(), "0 files, 0 packets, 0 B\n");
    }
}
