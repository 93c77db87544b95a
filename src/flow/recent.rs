//! The order in which flows were last seen: a list through their places.
//!
//! It stands apart from the flows. Moving one to the end writes to two others, and these links are eight
//! to a cache line. Places that flows have left are a list through the same links, and are given to the next ones.

use prefetch_index::prefetch_index;

use super::growth;

/// Ends the list.
const NONE: u32 = u32::MAX;

/// Neighbours of a place.
#[derive(Clone, Copy)]
struct Link {
    older: u32,
    /// Of a place that was left: the one left before it.
    newer: u32,
}

/// Most bytes of a list of `most` places.
pub const fn memory_bytes(most: u64) -> u64 {
    most * size_of::<Link>() as u64
}

/// Places 0, 1, 2, … by the time they were last seen.
pub struct Recent {
    links: Vec<Link>,
    oldest: u32,
    newest: u32,
    /// The place that was left last.
    left: u32,
    /// How many places there may be.
    most: u32,
}

impl Recent {
    /// For at most `most` places, none yet.
    pub const fn new(most: u32) -> Self {
        Self {
            links: Vec::new(),
            oldest: NONE,
            newest: NONE,
            left: NONE,
            most,
        }
    }

    /// Adds a place as the newest: one that was left, or else the number of places so far.
    pub fn add(&mut self) -> u32 {
        let at = match self.links.get(self.left as usize) {
            Some(link) => std::mem::replace(&mut self.left, link.newer),
            None => {
                let alone = Link {
                    older: NONE,
                    newer: NONE,
                };
                growth::push(&mut self.links, alone, self.most as usize);
                (self.links.len() - 1) as u32
            }
        };
        self.link_newest(at);
        at
    }

    /// Removes `at`: its flow has left it.
    pub fn leave(&mut self, at: u32) {
        self.unlink(at);
        if let Some(link) = self.links.get_mut(at as usize) {
            link.newer = std::mem::replace(&mut self.left, at);
        }
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
