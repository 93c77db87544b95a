//! An input that a thread of its own reads, and unpacks, a few pieces ahead of whoever uses the bytes.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::threads;

/// Bytes of a piece at most.
const PIECE_LEN: usize = 256 << 10;
/// Bytes in front of a piece, for what is left of the one before.
pub const ROOM_BEFORE: usize = 64 << 10;
/// Pieces: one that is used, and those that are read or wait.
const PIECES: usize = 5;
/// The thread goes on when so many are empty: it is woken once for all of them.
const WORTH_WAKING: usize = 2;

/// Pieces of an input, in their order. When it goes, the thread ends with the piece that it reads.
pub struct Ahead(Arc<Shared>);

/// A part of the input.
pub struct Piece {
    /// [`ROOM_BEFORE`] bytes that mean nothing, and the part.
    pub bytes: Vec<u8>,
    /// Where the part ends.
    pub end: usize,
}

#[derive(Default)]
struct Shared {
    pieces: Mutex<Pieces>,
    /// A piece came, or no more will.
    came: Condvar,
    /// There are empty ones, or nobody wants any.
    emptied: Condvar,
}

#[derive(Default)]
struct Pieces {
    full: VecDeque<Piece>,
    empty: Vec<Vec<u8>>,
    /// How the input ended.
    end: Option<io::Result<()>>,
    /// Nobody wants any more.
    is_left: bool,
}

impl Ahead {
    /// Begins to read `input`; gives it back where the system has no thread for that.
    ///
    /// # Errors
    ///
    /// The input.
    pub fn start<R: Read + Send + 'static>(input: R) -> Result<Self, R> {
        let shared = Arc::<Shared>::default();
        // One more comes with what was read before.
        shared.hold().empty = (1..PIECES).map(|_| empty_piece()).collect();
        let (input_tx, input_rx) = std::sync::mpsc::channel();
        let theirs = Arc::clone(&shared);
        let started = threads::start("vxtap-read", move || {
            let theirs = Reader(theirs);
            if let Ok(input) = input_rx.recv() {
                let end = theirs.0.read(input);
                theirs.0.hold().end = Some(end);
            }
        });
        match started {
            Ok(_) => {
                // The thread is there and takes it.
                let _ = input_tx.send(input);
                Ok(Self(shared))
            }
            Err(_) => Err(input),
        }
    }

    /// The next piece; without a byte at the end of the input.
    ///
    /// # Errors
    ///
    /// The input's, once. It ends there.
    pub fn next(&mut self) -> io::Result<Piece> {
        let mut pieces = self.0.hold();
        loop {
            if let Some(piece) = pieces.full.pop_front() {
                return Ok(piece);
            }
            if let Some(end) = &mut pieces.end {
                std::mem::replace(end, Ok(()))?;
                let bytes = empty_piece();
                return Ok(Piece {
                    bytes,
                    end: ROOM_BEFORE,
                });
            }
            let woken = self.0.came.wait(pieces);
            pieces = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes back what is used of a piece, or whatever was used in its place.
    pub fn give_back(&mut self, used: Vec<u8>) {
        let used = match used.len() == ROOM_BEFORE + PIECE_LEN {
            true => used,
            false => empty_piece(),
        };
        let mut pieces = self.0.hold();
        pieces.empty.push(used);
        if pieces.empty.len() == WORTH_WAKING {
            self.0.emptied.notify_one();
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.hold().is_left = true;
        self.0.emptied.notify_one();
    }
}

/// The thread's end: however it ends, nobody waits for more.
struct Reader(Arc<Shared>);

impl Drop for Reader {
    fn drop(&mut self) {
        let panicked = || Err(io::Error::other("the thread that reads it panicked"));
        self.0.hold().end.get_or_insert_with(panicked);
        self.0.came.notify_one();
    }
}

impl Shared {
    fn hold(&self) -> MutexGuard<'_, Pieces> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty piece, once there are enough; `None` when nobody wants any more.
    fn next_empty(&self) -> Option<Vec<u8>> {
        let mut pieces = self.hold();
        if pieces.empty.is_empty() {
            let is_waited =
                |pieces: &mut Pieces| pieces.empty.len() < WORTH_WAKING && !pieces.is_left;
            let woken = self.emptied.wait_while(pieces, is_waited);
            pieces = woken.unwrap_or_else(PoisonError::into_inner);
        }
        pieces.empty.pop().filter(|_| !pieces.is_left)
    }

    /// Reads pieces until the input ends, fails, or nobody wants more.
    fn read(&self, mut input: impl Read) -> io::Result<()> {
        while let Some(mut bytes) = self.next_empty() {
            let mut end = ROOM_BEFORE;
            let outcome = fill(&mut input, &mut bytes, &mut end);
            // What came before an error is used all the same.
            if end > ROOM_BEFORE {
                self.hold().full.push_back(Piece { bytes, end });
                self.came.notify_one();
            }
            if outcome? {
                break;
            }
        }
        Ok(())
    }
}

/// Reads into `bytes` from `end` on until they are full, or the input ends; tells whether it did.
fn fill(input: &mut impl Read, bytes: &mut [u8], end: &mut usize) -> io::Result<bool> {
    while let Some(room) = bytes.get_mut(*end..).filter(|room| !room.is_empty()) {
        match input.read(room) {
            Ok(0) => return Ok(true),
            Ok(len) => *end += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

fn empty_piece() -> Vec<u8> {
    vec![0; ROOM_BEFORE + PIECE_LEN]
}
