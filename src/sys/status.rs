//! Whose a block is: the word that this side and the kernel pass to and fro. Apart from the memory
//! around it, so that a model can look at every order of loads and stores.

use std::sync::atomic::Ordering;

use crate::sys::ring::STATUS_USER;

/// The word: std's, or loom's in a model.
pub trait Word {
    /// As `AtomicU32::load`.
    fn load(&self, order: Ordering) -> u32;
    /// As `AtomicU32::store`.
    fn store(&self, value: u32, order: Ordering);
}

impl Word for std::sync::atomic::AtomicU32 {
    fn load(&self, order: Ordering) -> u32 {
        self.load(order)
    }

    fn store(&self, value: u32, order: Ordering) {
        self.store(value, order);
    }
}

/// Whether the block is ours. What the kernel wrote before it said so can be read from here on.
pub fn is_ours(status: &impl Word) -> bool {
    status.load(Ordering::Acquire) & STATUS_USER != 0
}

/// The block is the kernel's. What was read before is read.
pub fn give_back(status: &impl Word) {
    status.store(0, Ordering::Release);
}

#[cfg(all(test, vxtap_loom))]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "clippy does not see that these are tests"
)]
mod loom_tests {
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU32;
    use loom::thread;

    use super::*;

    impl Word for AtomicU32 {
        fn load(&self, order: Ordering) -> u32 {
            self.load(order)
        }

        fn store(&self, value: u32, order: Ordering) {
            self.store(value, order);
        }
    }

    struct Block {
        status: AtomicU32,
        content: UnsafeCell<u32>,
    }

    /// `rounds` blocks handed over in a ring of `blocks`. loom's cell fails where a block is written
    /// while it is read, or read before what was written is there for this side.
    fn hand_over(blocks: usize, rounds: u32) {
        loom::model(move || {
            let block = |_| Block {
                status: AtomicU32::new(0),
                content: UnsafeCell::new(0),
            };
            let ring: Arc<Vec<Block>> = Arc::new((0..blocks).map(block).collect());
            let kernels = Arc::clone(&ring);
            let kernel = thread::spawn(move || {
                for round in 0..rounds {
                    let block = &kernels[round as usize % blocks];
                    // net/packet/af_packet.c: prb_curr_blk_in_use, then prb_flush_block behind a barrier.
                    while block.status.load(Ordering::Acquire) != 0 {
                        thread::yield_now();
                    }
                    // SAFETY: the pointer is used inside the closure alone; loom checks that nobody
                    // else uses the cell meanwhile.
                    block
                        .content
                        .with_mut(|content| unsafe { *content = round });
                    block.status.store(STATUS_USER, Ordering::Release);
                }
            });
            for round in 0..rounds {
                let block = &ring[round as usize % blocks];
                while !is_ours(&block.status) {
                    thread::yield_now();
                }
                // SAFETY: as above.
                block
                    .content
                    .with(|content| unsafe { assert_eq!(*content, round) });
                give_back(&block.status);
            }
            kernel.join().unwrap();
        });
    }

    #[test]
    fn loom_a_block_has_one_owner() {
        hand_over(1, 3);
        hand_over(2, 3);
    }
}
