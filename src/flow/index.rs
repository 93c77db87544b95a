//! Finds a flow's place by the hash of its key: open addressing, eight bytes an entry.
//!
//! An entry holds 32 bits of the hash beside the place. So a lookup touches one cache line here and then
//! the flow it is after, hardly ever another one, and growing looks at no flow at all. Entries stand in the order of
//! their hashes but for those that had to give way, so an index may have any length, and growing goes through both once.

use prefetch_index::prefetch_index;

use super::growth::next_len;

/// No flow has this place.
const EMPTY: u64 = u64::MAX;

/// Places by hash. Which key a place belongs to is the caller's to know.
pub struct Index {
    /// Hash in the upper half, place in the lower.
    entries: Vec<u64>,
    used: usize,
    /// How many entries there may be.
    most: usize,
}

/// Entries for `len` flows: at most three quarters are in use.
pub const fn entries_for(len: u64) -> u64 {
    len * 4 / 3 + 1
}

impl Index {
    /// An index for at most `most` places, none yet.
    pub fn new(most: u32) -> Self {
        let most = usize::try_from(entries_for(most.into())).unwrap_or(usize::MAX);
        Self {
            entries: Vec::new(),
            used: 0,
            most,
        }
    }

    /// An index with room for `len` places.
    pub fn with_room(len: usize) -> Self {
        let most = usize::try_from(entries_for(len as u64)).unwrap_or(usize::MAX);
        Self {
            entries: vec![EMPTY; most],
            used: 0,
            most,
        }
    }

    /// The place of the entry with this `hash` that `is_it` says yes to.
    #[inline]
    pub fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut at = self.home(hash);
        loop {
            let entry = *self.entries.get(at)?;
            if entry == EMPTY {
                return None;
            }
            if hash_of(entry) == hash && is_it(entry as u32) {
                return Some(entry as u32);
            }
            at = self.after(at);
        }
    }

    /// Has the processor fetch what [`Self::find`] will look at.
    #[inline]
    pub fn prefetch(&self, hash: u32) {
        prefetch_index(&self.entries, self.home(hash));
    }

    /// The place of the first entry with this `hash`, or `u32::MAX`: most likely what [`Self::find`] finds.
    #[inline]
    pub fn first_with(&self, hash: u32) -> u32 {
        self.find(hash, |_| true).unwrap_or(u32::MAX)
    }

    /// Adds a place, which must not be `u32::MAX`.
    pub fn insert(&mut self, hash: u32, place: u32) {
        if (self.used + 1) * 4 > self.entries.len() * 3 {
            self.grow();
        }
        self.used += 1;
        self.put((u64::from(hash) << 32) | u64::from(place));
    }

    /// Removes a place that was added with this `hash`.
    pub fn remove(&mut self, hash: u32, place: u32) {
        let wanted = (u64::from(hash) << 32) | u64::from(place);
        let mut hole = self.home(hash);
        loop {
            match self.entries.get(hole) {
                Some(entry) if *entry == wanted => break,
                Some(entry) if *entry != EMPTY => hole = self.after(hole),
                _ => return,
            }
        }
        self.used = self.used.saturating_sub(1);
        // Entries behind the hole move up, unless that would put them before where they are looked for.
        let mut next = hole;
        loop {
            next = self.after(next);
            let entry = self.entries.get(next).copied().unwrap_or(EMPTY);
            let home = self.home(hash_of(entry));
            let moves = self.steps(home, next) >= self.steps(hole, next);
            if entry == EMPTY || moves {
                if let Some(slot) = self.entries.get_mut(hole) {
                    *slot = entry;
                }
                hole = next;
            }
            if entry == EMPTY {
                return;
            }
        }
    }

    /// Where the entry with this `hash` stands if nothing is in its way.
    #[inline]
    fn home(&self, hash: u32) -> usize {
        // That fraction of the whole that `hash` is of 2³².
        (u64::from(hash).wrapping_mul(self.entries.len() as u64) >> 32) as usize
    }

    /// The entry behind `at`; the first one is behind the last.
    #[inline]
    fn after(&self, at: usize) -> usize {
        if at + 1 < self.entries.len() {
            at + 1
        } else {
            0
        }
    }

    /// How far it is from one entry to another.
    fn steps(&self, from: usize, to: usize) -> usize {
        let len = if to < from { self.entries.len() } else { 0 };
        (to + len).wrapping_sub(from)
    }

    fn put(&mut self, entry: u64) {
        let mut at = self.home(hash_of(entry));
        while let Some(slot) = self.entries.get_mut(at) {
            if *slot == EMPTY {
                *slot = entry;
                return;
            }
            at = self.after(at);
        }
    }

    fn grow(&mut self) {
        let len = next_len(self.entries.len(), self.most);
        let old = std::mem::replace(&mut self.entries, vec![EMPTY; len]);
        for entry in old.into_iter().filter(|entry| *entry != EMPTY) {
            self.put(entry);
        }
    }
}

const fn hash_of(entry: u64) -> u32 {
    (entry >> 32) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a model that keeps pairs in a plain list. Few different hashes, at both ends of the
        /// table, so that runs are long and wrap around.
        #[test]
        fn finds_what_was_added_and_not_what_was_removed(
            steps in proptest::collection::vec((0u32..12, 0u32..40, any::<bool>()), 1..200),
            most in 200u32..5000,
        ) {
            let mut index = Index::new(most);
            let mut model: Vec<(u32, u32)> = Vec::new();
            for (hash, place, add) in steps {
                let hash = hash.wrapping_sub(6);
                let known = model.iter().position(|pair| *pair == (hash, place));
                match known {
                    None if add => {
                        index.insert(hash, place);
                        model.push((hash, place));
                    }
                    Some(at) if !add => {
                        index.remove(hash, place);
                        model.swap_remove(at);
                    }
                    _ => {}
                }
                for hash in (0..12u32).map(|hash| hash.wrapping_sub(6)) {
                    for place in 0..40 {
                        let found = index.find(hash, |at| at == place).is_some();
                        prop_assert_eq!(found, model.contains(&(hash, place)));
                    }
                }
            }
        }
    }

    #[test]
    fn removing_what_is_not_there_changes_nothing() {
        let mut index = Index::new(2);
        index.remove(1, 1);
        index.insert(1, 1);
        index.remove(1, 2);
        index.remove(2, 1);
        assert_eq!(index.find(1, |_| true), Some(1));
    }

    #[test]
    fn a_full_one_has_as_many_entries_as_were_told() {
        for most in [1, 2, 3, 4, 1000, 70_001] {
            let mut index = Index::new(most);
            let hash = |place: u32| place.wrapping_mul(0x9e37_79b9);
            for place in 0..most {
                index.insert(hash(place), place);
            }
            let entries = entries_for(most.into());
            assert_eq!(index.entries.len() as u64, entries, "{most} places");
            assert!((0..most).all(|place| index.find(hash(place), |at| at == place).is_some()));
        }
    }
}
