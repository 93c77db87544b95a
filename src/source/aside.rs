//! The way of annotations past the workers: who reads a file hands them over here before the packets behind
//! them, and who writes the capture takes them from the other end at their place.

use crossbeam_channel::Sender;

use crate::pcap::annotation::{Annotation, What};

/// Most bytes of blocks, and of comments, that a run takes over: they wait in memory for their place. Each counts
/// with what it takes there beside its bytes.
const MOST_BYTES: usize = 64 << 20;
/// Bytes that one takes beside its own: its place in the queue and the head of its allocation.
const BESIDE: usize = size_of::<Annotation>() + 16;

/// Where annotations go.
#[derive(Debug)]
pub struct Aside {
    to: Sender<Annotation>,
    room_for_blocks: usize,
    room_for_comments: usize,
}

impl Aside {
    /// To whoever has the other end of `to`.
    pub const fn new(to: Sender<Annotation>) -> Self {
        Self {
            to,
            room_for_blocks: MOST_BYTES,
            room_for_comments: MOST_BYTES,
        }
    }

    /// Hands over what belongs to `place`, as long as there is room. What is not handed over is not written.
    pub fn hand_over(&mut self, place: u64, what: What) {
        let (room, len) = match &what {
            What::Secrets(block) | What::Names(block) => (&mut self.room_for_blocks, block.len()),
            What::Comments { options, .. } => (&mut self.room_for_comments, options.len()),
        };
        let Some(left) = room.checked_sub(BESIDE + len) else {
            return;
        };
        *room = left;
        // Where the writer is gone nothing is written.
        let _ = self.to.send(Annotation { place, what });
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::unbounded;

    use super::*;

    #[test]
    fn what_finds_no_room_is_left_out() {
        let (to, from) = unbounded();
        let mut aside = Aside::new(to);
        let block = |len| What::Names(vec![0; len]);
        aside.hand_over(1, block(MOST_BYTES - 2 * BESIDE - 1));
        aside.hand_over(2, block(2));
        aside.hand_over(3, block(1));
        let comments = |len| What::Comments {
            ts_ns: 0,
            options: vec![0; len],
            count: 1,
        };
        aside.hand_over(4, comments(MOST_BYTES - BESIDE));
        aside.hand_over(5, comments(0));
        let places: Vec<u64> = from.try_iter().map(|annotation| annotation.place).collect();
        assert_eq!(places, [1, 3, 4]);
    }
}
