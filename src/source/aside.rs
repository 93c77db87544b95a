//! The way of annotations past the workers: who reads a file hands them over here before the packets behind
//! them, and who writes the capture takes them from the other end at their place.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::pcap::annotation::{Annotation, What};

/// Most bytes of blocks that a run takes over, whatever the number of workers and the speed of the disk, so that the
/// same input gives the same file.
const MOST_BLOCK_BYTES: usize = 64 << 20;
/// Most bytes of comments on their way at a time. There are no more than of the packets on their way, unless these
/// are not written.
const MOST_COMMENT_BYTES: usize = 64 << 20;
/// Bytes that one takes beside its own: its place in the queue and the head of its allocation.
const BESIDE: usize = size_of::<Annotation>() + 16;

/// Where annotations go.
#[derive(Debug)]
pub struct Aside {
    to: Sender<Annotation>,
    room_for_blocks: usize,
    comments: Arc<AtomicUsize>,
}

/// Where they come from, in the order of their places.
#[derive(Debug)]
pub struct FromAside {
    from: Receiver<Annotation>,
    /// Bytes of comments on their way.
    comments: Arc<AtomicUsize>,
}

/// A way for annotations.
pub fn aside() -> (Aside, FromAside) {
    // What it takes is bounded in bytes.
    let (to, from) = unbounded();
    let comments = Arc::default();
    let aside = Aside {
        to,
        room_for_blocks: MOST_BLOCK_BYTES,
        comments: Arc::clone(&comments),
    };
    (aside, FromAside { from, comments })
}

impl Aside {
    /// Hands over what belongs to `place`, as long as there is room. What is not handed over is not written.
    pub fn hand_over(&mut self, place: u64, what: What) {
        let has_room = match &what {
            What::Secrets(block) | What::Names(block) => {
                let left = self.room_for_blocks.checked_sub(BESIDE + block.len());
                self.room_for_blocks = left.unwrap_or(self.room_for_blocks);
                left.is_some()
            }
            What::Comments { options, .. } => {
                let len = BESIDE + options.len();
                // Nobody else adds to them.
                let has_room = self.comments.load(Ordering::Relaxed) + len <= MOST_COMMENT_BYTES;
                if has_room {
                    self.comments.fetch_add(len, Ordering::Relaxed);
                }
                has_room
            }
        };
        if has_room {
            // Where the writer is gone nothing is written.
            let _ = self.to.send(Annotation { place, what });
        }
    }
}

impl FromAside {
    /// The next one, if it is here. Those in front of a packet are here when the packet is.
    #[inline]
    pub fn next(&self) -> Option<Annotation> {
        // Hardly ever is there one: looking costs two loads.
        if self.from.is_empty() {
            return None;
        }
        let next = self.from.try_recv().ok()?;
        if let What::Comments { options, .. } = &next.what {
            self.comments
                .fetch_sub(BESIDE + options.len(), Ordering::Relaxed);
        }
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comments(len: usize) -> What {
        What::Comments {
            ts_ns: 0,
            options: vec![0; len],
            count: 1,
        }
    }

    fn places(from: &FromAside) -> Vec<u64> {
        let next = || Some(from.next()?.place);
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn blocks_are_bounded_over_the_whole_run() {
        let (mut aside, from) = aside();
        let block = |len| What::Names(vec![0; len]);
        aside.hand_over(1, block(MOST_BLOCK_BYTES - 2 * BESIDE - 1));
        assert_eq!(places(&from), [1]);
        aside.hand_over(2, block(2));
        aside.hand_over(3, block(1));
        aside.hand_over(4, comments(1));
        assert_eq!(places(&from), [3, 4]);
    }

    #[test]
    fn comments_are_bounded_on_their_way() {
        let (mut aside, from) = aside();
        for place in 0..3 {
            aside.hand_over(place, comments(MOST_COMMENT_BYTES - BESIDE));
            aside.hand_over(place, comments(0));
            assert_eq!(places(&from), [place]);
        }
    }
}
