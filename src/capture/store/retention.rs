//! Which finished files of a store have to go. Pure: what is there, the limits and the time in, the next one to
//! delete out. One at a time: who deletes looks again before the next.

use std::time::Duration;

use crate::wire::refusal::reasons;

/// Limits of a store; any combination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of all its files together.
    pub bytes: Option<u64>,
    /// Most finished files.
    pub files: Option<u64>,
    /// Longest time that a file is kept behind its last packet.
    pub age: Option<Duration>,
    /// Space of the file system that is left free.
    pub min_free: Option<MinFree>,
}

/// Space left free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinFree {
    /// In bytes.
    Bytes(u64),
    /// In percent of the file system.
    Percent(u8),
}

/// Space of a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Free for this process.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

impl MinFree {
    /// Bytes that have to be free.
    pub fn bytes(self, space: Space) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => space.total / 100 * u64::from(percent),
        }
    }
}

/// A finished file, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Bytes of it and of what belongs to it.
    pub bytes: u64,
    /// Its last packet, nanoseconds since 1970.
    pub last_ns: u64,
    /// A hook or a reader has it: it stays for now.
    pub is_held: bool,
}

/// What else is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Around {
    /// Bytes that cannot be deleted: files being written with what is about to be written to them, manifests.
    pub other_bytes: u64,
    /// The file system, where it is known.
    pub space: Option<Space>,
    /// Bytes that are about to be written.
    pub coming: u64,
    /// Nanoseconds since 1970.
    pub now_ns: u64,
}

reasons! {
    /// Why a file is deleted; the words are those of the manifest.
    Because {
        /// All files together would be larger than --keep-bytes.
        Bytes => "keep_bytes",
        /// There are more than --keep-files.
        Files => "keep_files",
        /// It is older than --keep-age.
        Age => "keep_age",
        /// Less than --min-free would be free.
        MinFree => "min_free",
        /// The disk is full (--on-full delete-oldest).
        DiskFull => "disk_full",
    }
}

impl Limits {
    /// Those that do not ask how much is about to be written.
    pub fn of_number_and_age(self) -> Self {
        Self {
            bytes: None,
            min_free: None,
            ..self
        }
    }

    /// Whether a file with its last packet at `last_ns` is older than it may be at `now_ns`, both nanoseconds since 1970;
    /// `None` where it may be as old as it likes.
    pub fn is_too_old(&self, last_ns: u64, now_ns: u64) -> Option<bool> {
        let age_ns = now_ns.saturating_sub(last_ns);
        self.age.map(|most| u128::from(age_ns) > most.as_nanos())
    }

    /// Which of `members`, oldest first, is deleted next, and why.
    pub fn next_to_go(&self, members: &[Member], around: &Around) -> Option<(usize, Because)> {
        let oldest = |because| Some((oldest(members)?, because));
        let is_too_old = |member: &Member| {
            let is_too_old = self.is_too_old(member.last_ns, around.now_ns);
            !member.is_held && is_too_old == Some(true)
        };
        if let Some(at) = members.iter().position(is_too_old) {
            return Some((at, Because::Age));
        }
        if self.files.is_some_and(|most| members.len() as u64 > most) {
            return oldest(Because::Files);
        }
        let sizes = members.iter().map(|member| member.bytes);
        let sizes = sizes.chain([around.other_bytes, around.coming]);
        let then = sizes.fold(0, u64::saturating_add);
        if self.bytes.is_some_and(|most| then > most) {
            return oldest(Because::Bytes);
        }
        let (min_free, space) = self.min_free.zip(around.space)?;
        if space.free < min_free.bytes(space).saturating_add(around.coming) {
            return oldest(Because::MinFree);
        }
        None
    }
}

/// The oldest file that may go.
pub fn oldest(members: &[Member]) -> Option<usize> {
    members.iter().position(|member| !member.is_held)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn member(bytes: u64, last_s: u64) -> Member {
        Member {
            bytes,
            last_ns: last_s * SECOND,
            is_held: false,
        }
    }

    fn around(other_bytes: u64, now_s: u64) -> Around {
        Around {
            other_bytes,
            space: None,
            coming: 0,
            now_ns: now_s * SECOND,
        }
    }

    #[test]
    fn nothing_goes_without_a_limit() {
        let members = [member(u64::MAX, 0), member(1, 0)];
        let limits = Limits::default();
        assert_eq!(limits.next_to_go(&members, &around(u64::MAX, 9)), None);
    }

    #[test]
    fn the_oldest_goes_first_and_what_is_held_stays() {
        let limits = Limits {
            bytes: Some(100),
            ..Limits::default()
        };
        let mut members = [member(40, 1), member(40, 2), member(20, 3)];
        assert_eq!(limits.next_to_go(&members, &around(0, 9)), None);
        let full = around(1, 9);
        assert_eq!(
            limits.next_to_go(&members, &full),
            Some((0, Because::Bytes))
        );
        members[0].is_held = true;
        assert_eq!(
            limits.next_to_go(&members, &full),
            Some((1, Because::Bytes))
        );
        let members = members.map(|member| Member {
            is_held: true,
            ..member
        });
        assert_eq!(limits.next_to_go(&members, &full), None);
    }

    #[test]
    fn files_and_age() {
        let limits = Limits {
            files: Some(2),
            age: Some(Duration::from_secs(10)),
            ..Limits::default()
        };
        let members = [member(1, 5), member(1, 4), member(1, 6)];
        let next = |now_s| limits.next_to_go(&members, &around(0, now_s));
        assert_eq!(next(14), Some((0, Because::Files)));
        assert_eq!(
            next(15),
            Some((1, Because::Age)),
            "not the first in the list"
        );
        let few = &members[..2];
        assert_eq!(limits.next_to_go(few, &around(0, 14)), None);
    }

    #[test]
    fn space_is_left_free() {
        let space = Space {
            free: 150,
            total: 1000,
        };
        let go = |min_free, coming| {
            let limits = Limits {
                min_free: Some(min_free),
                ..Limits::default()
            };
            let around = Around {
                space: Some(space),
                coming,
                ..around(0, 0)
            };
            limits.next_to_go(&[member(1, 0)], &around).is_some()
        };
        assert!(!go(MinFree::Bytes(150), 0));
        assert!(go(MinFree::Bytes(150), 1));
        assert!(go(MinFree::Percent(16), 0));
        assert!(!go(MinFree::Percent(15), 0));
    }

    proptest! {
        /// Deleting one after the other ends, and what is left is within the limits or held.
        #[test]
        fn it_ends_within_the_limits(
            sizes in prop::collection::vec((1..100_u64, 0..50_u64, any::<bool>()), 0..20),
            bytes in prop::option::of(0..500_u64),
            files in prop::option::of(0..10_u64),
            age in prop::option::of(1..50_u64),
            other_bytes in 0..300_u64,
        ) {
            let limits = Limits { bytes, files, age: age.map(Duration::from_secs), min_free: None };
            let around = around(other_bytes, 50);
            let mut members: Vec<Member> = sizes
                .into_iter()
                .map(|(bytes, last_s, is_held)| Member { is_held, ..member(bytes, last_s) })
                .collect();
            while let Some((at, _)) = limits.next_to_go(&members, &around) {
                prop_assert!(!members.remove(at).is_held);
            }
            if members.iter().any(|member| !member.is_held) {
                let all: u64 = members.iter().map(|member| member.bytes).sum();
                prop_assert!(bytes.is_none_or(|most| all + other_bytes <= most));
                prop_assert!(files.is_none_or(|most| members.len() as u64 <= most));
            }
        }
    }
}
