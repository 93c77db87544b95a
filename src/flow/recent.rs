//! The order in which flows were last seen: a list through their places.
//!
//! It stands apart from the flows. Moving one to the end writes to two others, and these links are eight
//! to a cache line.

use prefetch_index::prefetch_index;

/// Ends the list.
const NONE: u32 = u32::MAX;

/// Neighbours of a place.
#[derive(Clone, Copy)]
pub struct Link {
    older: u32,
    newer: u32,
}

/// Places 0, 1, 2, … by the time they were last seen.
pub struct Recent {
    links: Vec<Link>,
    oldest: u32,
    newest: u32,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            links: Vec::new(),
            oldest: NONE,
            newest: NONE,
        }
    }
}

impl Recent {
    /// Adds `at`, a place that was removed or the number of places so far, as the newest.
    pub fn add(&mut self, at: u32) {
        if at as usize == self.links.len() {
            self.links.push(Link {
                older: NONE,
                newer: NONE,
            });
        }
        self.link_newest(at);
    }

    /// Removes `at`.
    pub fn remove(&mut self, at: u32) {
        self.unlink(at);
    }

    /// Makes `at` the newest.
    #[inline]
    pub fn touch(&mut self, at: u32) {
        if at != self.newest {
            self.unlink(at);
            self.link_newest(at);
        }
    }

    /// Has the processor fetch the neighbours' names, which [`Self::prefetch_neighbours`] needs.
    #[inline]
    pub fn prefetch(&self, at: u32) {
        prefetch_index(&self.links, at as usize);
    }

    /// Has the processor fetch all that [`Self::touch`] writes to.
    #[inline]
    pub fn prefetch_neighbours(&self, at: u32) {
        if let Some(Link { older, newer }) = self.links.get(at as usize) {
            self.prefetch(*older);
            self.prefetch(*newer);
        }
    }

    /// The place seen longest ago.
    pub fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    fn unlink(&mut self, at: u32) {
        let Some(Link { older, newer }) = self.links.get(at as usize).copied() else {
            return;
        };
        match self.links.get_mut(older as usize) {
            Some(link) => link.newer = newer,
            None => self.oldest = newer,
        }
        match self.links.get_mut(newer as usize) {
            Some(link) => link.older = older,
            None => self.newest = older,
        }
    }

    fn link_newest(&mut self, at: u32) {
        let older = self.newest;
        if let Some(link) = self.links.get_mut(at as usize) {
            *link = Link { older, newer: NONE };
        }
        match self.links.get_mut(older as usize) {
            Some(link) => link.newer = at,
            None => self.oldest = at,
        }
        self.newest = at;
    }
}
