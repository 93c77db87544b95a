//! What a store holds, what it may hold and what it has deleted, for those who look on while it is written. The ring
//! tells it behind each look at its directory.

use std::sync::{Arc, Mutex, PoisonError};

use super::retention::{Because, Limits};

/// What a store holds, and what this run did to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Finished files in it, whoever wrote them.
    pub files: u64,
    /// Their bytes, with those of their indexes.
    pub bytes: u64,
    /// Time of the earliest packet or record in them, nanoseconds since 1970; `None` where there is none.
    pub oldest_ns: Option<u64>,
    /// Files that were finished.
    pub finished: u64,
    deleted: [Deleted; Because::ALL.len()],
    /// Deleted for another limit while they were younger than `--keep-age`.
    pub deleted_early: u64,
    /// What it may hold.
    pub limits: Limits,
    /// Bytes that `--min-free` leaves free: where it is a share of the file system too, once that has told its size.
    pub min_free_bytes: Option<u64>,
}

/// Files that were deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// How many.
    pub files: u64,
    /// Their bytes, with those of their indexes.
    pub bytes: u64,
}

impl Holdings {
    /// Files that were deleted, by reason; zeros too.
    pub fn deleted(&self) -> impl Iterator<Item = (Because, Deleted)> {
        Because::ALL.iter().copied().zip(self.deleted)
    }

    /// A file of so many bytes was deleted; `is_early`: it was younger than `--keep-age`.
    pub fn note_deleted(&mut self, because: Because, bytes: u64, is_early: bool) {
        if let Some(deleted) = self.deleted.get_mut(because as usize) {
            deleted.files += 1;
            deleted.bytes += bytes;
        }
        self.deleted_early += u64::from(is_early);
    }
}

/// Where it is told.
#[derive(Clone, Debug, Default)]
pub struct Told(Arc<Mutex<Holdings>>);

impl Told {
    /// What was told last.
    pub fn now(&self) -> Holdings {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This is so now.
    pub fn set(&self, holdings: Holdings) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = holdings;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::keeping::{Fsync, Keeping};
    use super::super::manifest::FileFacts;
    use super::super::ring::Ring;
    use super::*;
    use crate::flow::text::rfc3339;

    const SECOND: u64 = 1_000_000_000;

    /// What is deleted for its age is not early; for another limit it is, where an age is asked for that it has not reached.
    #[test]
    fn what_is_deleted_is_told_by_its_limit() {
        for age in [Some(10), None] {
            let dir = tempfile::tempdir().unwrap();
            let limits = Limits {
                files: Some(2),
                age: age.map(Duration::from_secs),
                ..Limits::default()
            };
            let keeping = Keeping {
                limits,
                fsync: Fsync::Never,
                ..Keeping::default()
            };
            let mut ring = Ring::open(dir.path(), keeping, None, false, 0).unwrap();
            let told = ring.told();
            assert_eq!((told.now().files, told.now().oldest_ns), (0, None));
            let mut finish = |second: u64| {
                let mut begun = ring.begin("vxtap", second * SECOND, "pcapng").unwrap();
                begun.out.write(b"12345").unwrap();
                let time = |ns| Some(rfc3339(ns).to_owned());
                let facts = FileFacts {
                    name: begun.name.to_string(),
                    bytes: 5,
                    first: time(second * SECOND),
                    last: time(second * SECOND + 7),
                    packets: 1,
                    ..FileFacts::default()
                };
                let now_ns = (second + 1) * SECOND;
                ring.finish(begun.out, facts, false, now_ns).unwrap();
                let told = told.now();
                let deleted = |why| {
                    let mut deleted = told.deleted();
                    let (_, deleted) = deleted.find(|(because, _)| *because == why).unwrap();
                    (deleted.files, deleted.bytes)
                };
                let deleted = [Because::Files, Because::Age].map(deleted);
                assert_eq!(told.bytes, 5 * told.files);
                (
                    (told.files, told.oldest_ns.unwrap() / SECOND),
                    told.finished,
                    deleted,
                    told.deleted_early,
                )
            };
            let none = [(0, 0), (0, 0)];
            assert_eq!(finish(100), ((1, 100), 1, none, 0));
            assert_eq!(finish(101), ((2, 100), 2, none, 0));
            let early = u64::from(age.is_some());
            let third = ((2, 101), 3, [(1, 5), (0, 0)], early);
            assert_eq!(finish(102), third, "{age:?}");
            let fourth = match age {
                Some(_) => ((1, 200), 4, [(1, 5), (2, 10)], 1),
                None => ((2, 102), 4, [(2, 10), (0, 0)], 0),
            };
            assert_eq!(finish(200), fourth, "{age:?}");
        }
    }
}
