//! Finds a flow's place by the hash of its key: open addressing, eight bytes an entry.
//!
//! An entry holds 32 bits of the hash beside the place. So a lookup touches one cache line here and then
//! the flow it is after, hardly ever another one, and growing looks at no flow at all.

use prefetch_index::prefetch_index;

/// No flow has this place.
const EMPTY: u64 = u64::MAX;

/// Places by hash. Which key a place belongs to is the caller's to know.
#[derive(Default)]
pub struct Index {
    /// Hash in the upper half, place in the lower; as many as a power of two, or none yet.
    entries: Vec<u64>,
    used: usize,
}

/// Entries for `len` flows: at most three quarters are in use.
pub const fn entries_for(len: u64) -> u64 {
    (len * 4 / 3 + 1).next_power_of_two()
}

impl Index {
    /// An index with room for `len` places.
    pub fn with_room(len: usize) -> Self {
        let entries = usize::try_from(entries_for(len as u64)).unwrap_or(usize::MAX);
        Self {
            entries: vec![EMPTY; entries.max(16)],
            used: 0,
        }
    }

    /// The place of the entry with this `hash` that `is_it` says yes to.
    #[inline]
    pub fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut at = hash as usize;
        loop {
            let entry = *self.entries.get(at & self.mask())?;
            if entry == EMPTY {
                return None;
            }
            if hash_of(entry) == hash && is_it(entry as u32) {
                return Some(entry as u32);
            }
            at = at.wrapping_add(1);
        }
    }

    /// Has the processor fetch what [`Self::find`] will look at.
    #[inline]
    pub fn prefetch(&self, hash: u32) {
        prefetch_index(&self.entries, hash as usize & self.mask());
    }

    /// The place of the first entry with this `hash`, or `u32::MAX`: most likely what [`Self::find`] finds.
    #[inline]
    pub fn first_with(&self, hash: u32) -> u32 {
        self.find(hash, |_| true).unwrap_or(u32::MAX)
    }

    /// Adds a place, which must not be `u32::MAX`.
    pub fn insert(&mut self, hash: u32, place: u32) {
        if entries_for(self.used as u64 + 1) > self.entries.len() as u64 {
            self.grow();
        }
        self.used += 1;
        self.put((u64::from(hash) << 32) | u64::from(place));
    }

    /// Removes a place that was added with this `hash`.
    pub fn remove(&mut self, hash: u32, place: u32) {
        let mask = self.mask();
        let wanted = (u64::from(hash) << 32) | u64::from(place);
        let mut hole = hash as usize & mask;
        while let Some(entry) = self.entries.get(hole).filter(|entry| **entry != wanted) {
            if *entry == EMPTY {
                return;
            }
            hole = (hole + 1) & mask;
        }
        self.used = self.used.saturating_sub(1);
        // Entries behind the hole move up, unless that would put them before where they are looked for.
        let mut next = hole;
        loop {
            next = (next + 1) & mask;
            let entry = self.entries.get(next).copied().unwrap_or(EMPTY);
            let home = hash_of(entry) as usize;
            let moves = next.wrapping_sub(home) & mask >= next.wrapping_sub(hole) & mask;
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

    fn mask(&self) -> usize {
        self.entries.len().wrapping_sub(1)
    }

    fn put(&mut self, entry: u64) {
        let mask = self.mask();
        let mut at = hash_of(entry) as usize & mask;
        while let Some(slot) = self.entries.get_mut(at) {
            if *slot == EMPTY {
                *slot = entry;
                return;
            }
            at = (at + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let len = (self.entries.len() * 2).max(16);
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
        ) {
            let mut index = Index::default();
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
        let mut index = Index::default();
        index.remove(1, 1);
        index.insert(1, 1);
        index.remove(1, 2);
        index.remove(2, 1);
        assert_eq!(index.find(1, |_| true), Some(1));
    }
}
