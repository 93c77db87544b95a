//! What the manifest says that a store holds: the state that its lines, one after the other, lead to. Pure.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::sync::Arc;

use super::manifest::{Event, FileFacts};

/// A line of a manifest, by the manifest's name and its number in that file, from 1 on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The manifest's name in the directory.
    pub manifest: Arc<str>,
    /// The line in it.
    pub line: u64,
}

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} of {}", self.line, self.manifest)
    }
}

/// A file that was finished.
#[derive(Clone, Debug)]
pub struct Listed {
    /// What its line says.
    pub facts: FileFacts,
    /// Where that line is.
    pub place: Place,
    /// Counts the files, in the order of the manifest.
    pub order: u64,
}

/// A file that was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, where a line before told.
    pub sha256: Option<String>,
}

/// What a killed run left and could not be finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aside {
    /// Where it is, in the directory.
    pub moved_to: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What a store holds by its manifest.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Files that should be there, by name.
    pub kept: BTreeMap<String, Listed>,
    /// Files that were deleted, by name.
    pub deleted: BTreeMap<String, Gone>,
    /// Files that were moved aside, by the name they would have had.
    pub quarantined: BTreeMap<String, Aside>,
    /// Files that could not get their name, and why not.
    pub unfinished: BTreeMap<String, (Option<Listed>, String)>,
    /// How many were deleted.
    pub deleted_files: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    files: u64,
}

/// A line that does not fit those before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Odd {
    /// A file was listed before, at that place, and nothing told that it went.
    ListedTwice(String, Place),
    /// A file is deleted that no line lists.
    NeverListed(String),
}

impl Contents {
    /// Takes what the line at `place` says. `is_late`: lines with higher numbers stand before it.
    pub fn take(&mut self, place: &Place, event: Event, is_late: bool) -> Option<Odd> {
        match event {
            Event::File(facts) => {
                let name = facts.name.clone();
                if is_late && self.is_known(&name) {
                    return None;
                }
                self.deleted.remove(&name);
                self.unfinished.remove(&name);
                self.files += 1;
                let listed = Listed {
                    facts,
                    place: place.clone(),
                    order: self.files,
                };
                let before = self.kept.insert(name.clone(), listed)?;
                Some(Odd::ListedTwice(name, before.place))
            }
            Event::Deleted { name, bytes, .. } => {
                self.deleted_files += 1;
                self.deleted_bytes = self.deleted_bytes.saturating_add(bytes);
                let listed = self.kept.remove(&name);
                let sha256 = listed.map(|listed| listed.facts.sha256);
                let odd = sha256.is_none().then(|| Odd::NeverListed(name.clone()));
                self.deleted.insert(name, Gone { bytes, sha256 });
                odd
            }
            Event::Unfinished { name, reason } => {
                let listed = self.kept.remove(&name);
                self.unfinished.insert(name, (listed, reason));
                None
            }
            Event::Quarantined {
                name,
                moved_to,
                reason,
            } => {
                self.kept.remove(&name);
                self.quarantined.insert(name, Aside { moved_to, reason });
                None
            }
            Event::Continued { .. } => None,
        }
    }

    /// Whether a line names this file.
    pub fn is_known(&self, name: &str) -> bool {
        self.kept.contains_key(name)
            || self.deleted.contains_key(name)
            || self.quarantined.contains_key(name)
            || self.unfinished.contains_key(name)
    }

    /// The files that should be there, in the order in which they were finished.
    pub fn in_order(&self) -> Vec<&Listed> {
        let mut files: Vec<&Listed> = self.kept.values().collect();
        files.sort_by_key(|listed| listed.order);
        files
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(line: u64) -> Place {
        Place {
            manifest: "MANIFEST.jsonl".into(),
            line,
        }
    }

    fn file(name: &str) -> Event {
        Event::File(FileFacts {
            name: name.to_owned(),
            sha256: format!("hash of {name}"),
            bytes: 7,
            ..FileFacts::default()
        })
    }

    fn deleted(name: &str) -> Event {
        Event::Deleted {
            name: name.to_owned(),
            bytes: 7,
            because: "keep_bytes".to_owned(),
        }
    }

    #[test]
    fn files_come_and_go() {
        let mut contents = Contents::default();
        assert_eq!(contents.take(&place(1), file("b"), false), None);
        assert_eq!(contents.take(&place(2), file("a"), false), None);
        let names = |contents: &Contents| -> Vec<String> {
            let files = contents.in_order();
            files.iter().map(|file| file.facts.name.clone()).collect()
        };
        assert_eq!(names(&contents), ["b", "a"]);
        assert_eq!(contents.take(&place(3), deleted("b"), false), None);
        assert_eq!(names(&contents), ["a"]);
        assert_eq!(contents.deleted["b"].sha256.as_deref(), Some("hash of b"));
        // A replay of the same file, when nothing of the first one is left.
        assert_eq!(contents.take(&place(4), file("b"), false), None);
        assert_eq!(names(&contents), ["a", "b"]);
        let odd = contents.take(&place(5), file("a"), false);
        assert_eq!(odd, Some(Odd::ListedTwice("a".to_owned(), place(2))));
        let odd = contents.take(&place(6), deleted("c"), false);
        assert_eq!(odd, Some(Odd::NeverListed("c".to_owned())));
        assert_eq!((contents.deleted_files, contents.deleted_bytes), (2, 14));
    }

    /// Of two lines that were swapped the one that lists a file may stand behind the one that deletes it.
    #[test]
    fn a_line_that_comes_late_brings_nothing_back() {
        let mut contents = Contents::default();
        contents.take(&place(1), deleted("a"), false);
        assert_eq!(contents.take(&place(2), file("a"), true), None);
        assert!(contents.kept.is_empty());
    }
}
