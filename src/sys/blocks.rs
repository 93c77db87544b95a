//! The blocks of a ring and whose each is, over any memory: that of the kernel, or that of a test which
//! stands in for it. The one place where memory that somebody else writes becomes a slice.

use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use crate::sys::ring::STATUS_AT;
use crate::sys::status::{give_back, is_ours};

/// Blocks in memory that is shared with who fills them.
pub struct Blocks {
    memory: NonNull<u8>,
    block_len: usize,
    blocks: u32,
}

impl Blocks {
    /// `blocks` blocks of `block_len` bytes from `memory` on.
    ///
    /// # Safety
    ///
    /// The memory is there as long as this value, initialised, aligned to 8 bytes, and so is each
    /// block. The other side writes to a block only while its status word lacks `STATUS_USER`, touches
    /// that word only as one, sets `STATUS_USER` with Release after it wrote the rest, and reads the word
    /// with Acquire before it writes again. There is one such value for the memory.
    pub const unsafe fn new(memory: NonNull<u8>, block_len: usize, blocks: u32) -> Self {
        Self {
            memory,
            block_len,
            blocks,
        }
    }

    /// The block `at`, if it was handed over.
    pub fn block(&self, at: u32) -> Option<&[u8]> {
        if !is_ours(self.status(at)?) {
            return None;
        }
        // SAFETY: the block lies inside the memory, since `status` checked `at`. The other side wrote it
        // before it set the status that was just read with Acquire, and does not touch it again until
        // `release`, which needs `&mut self` and so no live slice.
        Some(unsafe {
            let block = self.memory.add(at as usize * self.block_len);
            std::slice::from_raw_parts(block.as_ptr(), self.block_len)
        })
    }

    /// Gives the block `at` back.
    pub fn release(&mut self, at: u32) {
        if let Some(status) = self.status(at) {
            give_back(status);
        }
    }

    fn status(&self, at: u32) -> Option<&AtomicU32> {
        if at >= self.blocks {
            return None;
        }
        let offset = at as usize * self.block_len + STATUS_AT;
        // SAFETY: inside the memory, aligned because blocks are, and both sides only ever touch this word
        // as one.
        Some(unsafe { AtomicU32::from_ptr(self.memory.add(offset).cast().as_ptr()) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::sys::ring::tests::block;
    use crate::sys::ring::{STATUS_USER, Walk};

    /// Bytes of a block.
    const LEN: usize = 1024;
    /// Blocks handed over, in all.
    const ROUNDS: u32 = if cfg!(miri) { 24 } else { 20_000 };

    /// The other side of the memory.
    struct Kernel {
        memory: NonNull<u8>,
        blocks: u32,
    }

    // SAFETY: it has a part in the memory by the rules of `Blocks::new`, from whichever thread.
    unsafe impl Send for Kernel {}

    impl Kernel {
        /// Fills block after block as soon as it is the kernel's.
        fn fill(&self) {
            for round in 0..ROUNDS {
                let at = self.memory.as_ptr();
                let at = at.wrapping_add((round % self.blocks) as usize * LEN);
                // SAFETY: a block of the memory; the word is only touched as one.
                let status = unsafe { AtomicU32::from_ptr(at.add(STATUS_AT).cast()) };
                while status.load(Ordering::Acquire) != 0 {
                    std::thread::yield_now();
                }
                let content = content(round);
                let parts = [0..STATUS_AT, STATUS_AT + 4..content.len()];
                for part in parts {
                    let bytes = &content[part.clone()];
                    // SAFETY: inside the block, which is the kernel's, and not its status.
                    unsafe { at.add(part.start).copy_from(bytes.as_ptr(), bytes.len()) };
                }
                status.store(STATUS_USER, Ordering::Release);
            }
        }
    }

    /// A block with the frames of this round.
    fn content(round: u32) -> Vec<u8> {
        let number = round.to_be_bytes();
        let filler = [round as u8; 100];
        let frames: [&[u8]; 4] = [&number, &filler, &[], &number];
        block(&frames[..=round as usize % 4])
    }

    fn hand_over(blocks: u32) {
        let memory = Box::into_raw(vec![0u64; blocks as usize * LEN / 8].into_boxed_slice());
        let first = NonNull::new(memory.cast::<u8>()).unwrap();
        let kernel = Kernel {
            memory: first,
            blocks,
        };
        // SAFETY: the memory is given up at the end of this function; `Kernel` is the other side.
        let mut ours = unsafe { Blocks::new(first, LEN, blocks) };
        assert!(ours.block(0).is_none(), "nothing was handed over");
        assert!(ours.block(blocks).is_none(), "there is no such block");
        ours.release(blocks);
        let kernel = std::thread::spawn(move || kernel.fill());
        for round in 0..ROUNDS {
            let at = round % blocks;
            let seen = loop {
                if let Some(block) = ours.block(at) {
                    let mut walk = Walk::start(block);
                    let mut seen = Vec::new();
                    while let Some(frame) = walk.next(block) {
                        // As the ring's source does between two batches.
                        assert!(ours.block(at).is_some());
                        seen.push(frame.bytes);
                    }
                    assert_eq!(walk.left(), 0);
                    break seen.concat();
                }
                std::thread::yield_now();
            };
            let expected = content(round);
            let mut walk = Walk::start(&expected);
            let mut frames = Vec::new();
            while let Some(frame) = walk.next(&expected) {
                frames.extend_from_slice(frame.bytes);
            }
            assert!(seen == frames, "round {round}");
            ours.release(at);
        }
        kernel.join().unwrap();
        // SAFETY: it came from `Box::into_raw`, and neither side uses it any more.
        drop(unsafe { Box::from_raw(memory) });
    }

    #[test]
    fn a_ring_of_one_block_is_handed_to_and_fro() {
        hand_over(1);
    }

    #[test]
    fn a_ring_of_three_blocks_is_handed_to_and_fro() {
        hand_over(3);
    }
}
