//! Compression of a file of items: frames of about 256 KiB, each complete in itself and of whole items, so that a file
//! that ends anywhere holds all of its whole frames, and each can be read alone. A frame is one of zstd (RFC 8878
//! §3.1.1) or a member of gzip (RFC 1952 §2.2).
//!
//! Content is gathered, compressed on threads that many files share, and comes back in its order. Only bytes go there:
//! whoever owns the file writes them, and counts.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use flate2::write::GzEncoder;
use zstd::bulk::Compressor;
use zstd::zstd_safe::{CParameter, compress_bound};

use crate::threads::{self, NoThread};

/// The level where none is asked for.
pub const LEVEL: u32 = 1;
/// Most content of a frame, which is what has to be read for one packet. Measured with zstd:1: at 1 MiB generated traffic
/// is 5 % smaller and text no smaller, at 128 KiB both are 3 to 5 % larger.
const FRAME_LEN: usize = 256 << 10;
/// Least of it where many files are open.
const LEAST_FRAME_LEN: usize = 32 << 10;
/// Most content of one file, and of all together, that is not written yet.
const A_FILE: usize = 3 << 20;
const ALL_FILES: usize = 32 << 20;
/// Live, content waits so long for its frame to become full.
pub const MOST_AGE: Duration = Duration::from_secs(2);
/// Bytes by which frames that are not written yet may be longer than their content: each has a header, a checksum and a
/// few bytes for each block that could not be compressed.
pub const MARGIN: u64 = 4 * MOST_LONGER as u64;
/// The same of one frame.
const MOST_LONGER: usize = 256;

/// A format of compressed files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// gzip: Wireshark reads any number of members.
    Gzip,
    /// zstd: quicker and smaller. Wireshark loses its way at the end of a frame behind the first 128 KiB: it looks for
    /// the next magic number at the start of its buffer (wiretap/file_wrappers.c).
    Zstd,
}

impl Codec {
    /// Its name, to ask for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// What names of files end in.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Gzip => "gz",
            Self::Zstd => "zst",
        }
    }

    /// The ending of a name without that of its format, and the format.
    pub fn of_ending(ending: &str) -> (&str, Option<Self>) {
        let formats = [Self::Gzip, Self::Zstd].into_iter();
        let mut formats = formats.filter_map(|codec| {
            let stem = ending.strip_suffix(codec.extension())?;
            Some((stem.strip_suffix('.')?, Some(codec)))
        });
        formats.next().unwrap_or((ending, None))
    }

    /// That of a frame, by its first bytes; `None` where it is none.
    pub const fn of_frame(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Levels that may be asked for: those that need no flag of their own to be read again.
    pub const fn levels(self) -> std::ops::RangeInclusive<u32> {
        match self {
            Self::Gzip => 1..=9,
            Self::Zstd => 1..=19,
        }
    }
}

/// Steps of priority that the threads give up.
#[cfg(target_os = "linux")]
const NICE: i32 = 5;

/// How files are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression {
    /// The format.
    pub codec: Codec,
    /// How hard it tries.
    pub level: u32,
    /// Threads that compress.
    pub threads: usize,
    /// Most files open at a time.
    pub files: usize,
    /// Content comes as time goes by, and has to be in the file soon. Else frames depend on the content alone.
    pub live: bool,
}

impl Compression {
    /// Most content of a file that is not written yet.
    fn file_len(self) -> usize {
        (ALL_FILES / self.files.max(1)).min(A_FILE)
    }

    /// Most content of a frame. Each thread may work on one while one is gathered and another waits.
    fn frame_len(self) -> usize {
        (self.file_len() / (self.threads + 2)).clamp(LEAST_FRAME_LEN, FRAME_LEN)
    }

    /// Frames of a file that may be on their way.
    fn frames(self) -> usize {
        let frames = self.file_len() / self.frame_len();
        frames.saturating_sub(1).max(self.threads + 1)
    }

    /// Most bytes of memory that all files and threads take.
    pub fn memory_bytes(self) -> u64 {
        let len = self.frame_len();
        // One is gathered while another is about to be waited for.
        let a_file = (self.frames() + 2) * (len + compress_bound(len));
        // What a level needs for a frame of this length; a test holds it.
        let a_thread = match self.level {
            _ if self.codec == Codec::Gzip => 1 << 20,
            ..=4 => 4 << 20,
            5..=12 => 12 << 20,
            _ => 20 << 20,
        };
        (self.files.max(1) * a_file + self.threads * a_thread) as u64
    }
}

/// Content and the frame made of it.
#[derive(Default)]
struct Buffers {
    content: Vec<u8>,
    frame: Vec<u8>,
}

struct Job {
    buffers: Buffers,
    done: Sender<io::Result<Buffers>>,
}

/// The threads that compress.
pub struct Pool {
    compression: Compression,
    jobs: Option<Sender<Job>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    /// Starts them.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn start(compression: Compression) -> Result<Arc<Self>, NoThread> {
        let (jobs, queue) = bounded::<Job>(compression.frames());
        let mut pool = Self {
            compression,
            jobs: Some(jobs),
            threads: Mutex::default(),
        };
        for _ in 0..compression.threads {
            let (queue, codec, level) = (queue.clone(), compression.codec, compression.level);
            let thread = threads::start("vxtap-pack", move || work(codec, level, &queue))?;
            let threads = pool.threads.get_mut();
            threads.unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(Arc::new(pool))
    }

    /// For one file.
    pub fn packing(self: &Arc<Self>) -> Packing {
        Packing {
            frame_len: self.compression.frame_len(),
            pool: Arc::clone(self),
            content: Vec::new(),
            items: 0,
            since: None,
            under_way: VecDeque::new(),
            spare: Vec::new(),
            content_bytes: 0,
            noted: None,
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs = None;
        let threads = self.threads.get_mut();
        for thread in threads.unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = thread.join();
        }
    }
}

fn work(codec: Codec, level: u32, queue: &Receiver<Job>) {
    // Receiving goes before: what waits here waits in memory, what is not received is lost.
    #[cfg(target_os = "linux")]
    let _ = crate::sys::be_nice(NICE);
    let mut packer = Packer::new(codec, level);
    while let Ok(Job { mut buffers, done }) = queue.recv() {
        let outcome = match &mut packer {
            Ok(packer) => packer.pack(&mut buffers).map(|()| buffers),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        // The file may be gone.
        let _ = done.send(outcome);
    }
}

/// Makes frames.
enum Packer {
    Gzip(flate2::Compression),
    Zstd(Compressor<'static>),
}

impl Packer {
    fn new(codec: Codec, level: u32) -> io::Result<Self> {
        Ok(match codec {
            Codec::Gzip => Self::Gzip(flate2::Compression::new(level)),
            Codec::Zstd => {
                let mut compressor = Compressor::new(i32::try_from(level).unwrap_or(i32::MAX))?;
                // So that what a crash left can be told from what was written; gzip has one anyway.
                compressor.set_parameter(CParameter::ChecksumFlag(true))?;
                Self::Zstd(compressor)
            }
        })
    }

    fn pack(&mut self, buffers: &mut Buffers) -> io::Result<()> {
        let Buffers { content, frame } = buffers;
        frame.clear();
        frame.reserve(compress_bound(content.len()));
        match self {
            Self::Gzip(level) => {
                gzip(*level, content, frame)?;
                if frame.len() > content.len() + MOST_LONGER {
                    // As it is, it takes five bytes a block.
                    frame.clear();
                    gzip(flate2::Compression::none(), content, frame)?;
                }
                Ok(())
            }
            Self::Zstd(compressor) => compressor.compress_to_buffer(content, frame).map(drop),
        }
    }
}

fn gzip(level: flate2::Compression, content: &[u8], frame: &mut Vec<u8>) -> io::Result<()> {
    let mut encoder = GzEncoder::new(frame, level);
    encoder.write_all(content)?;
    encoder.finish().map(drop)
}

/// `content` as one frame.
///
/// # Errors
///
/// When there is no memory for it.
pub fn frame_of(codec: Codec, level: u32, content: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut buffers = Buffers {
        content,
        frame: Vec::new(),
    };
    Packer::new(codec, level)?.pack(&mut buffers)?;
    Ok(buffers.frame)
}

/// Content of one file on its way.
pub struct Packing {
    pool: Arc<Pool>,
    frame_len: usize,
    /// What the next frame is made of.
    content: Vec<u8>,
    /// Items in it.
    items: u64,
    /// When the first of it was there, as far as that is known.
    since: Option<Duration>,
    /// Oldest first.
    under_way: VecDeque<UnderWay>,
    spare: Vec<Buffers>,
    /// Bytes of content that were gathered so far.
    content_bytes: u64,
    /// Where frames lie, where somebody wants to know.
    noted: Option<Noted>,
}

/// What was noted of the frames of a file and not taken yet.
#[derive(Debug, Default)]
pub struct Noted {
    /// Where in the content frames begin: each that was begun.
    pub begun: Vec<u64>,
    /// Bytes of the content and of the frame: each that was written.
    pub written: Vec<(u64, u64)>,
}

struct UnderWay {
    content_len: usize,
    items: u64,
    done: Receiver<io::Result<Buffers>>,
}

/// A frame that can be written.
pub struct Frame {
    buffers: Buffers,
    /// Items in it.
    pub items: u64,
}

impl Frame {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.buffers.frame
    }

    /// Bytes of what it was made of.
    pub const fn content_len(&self) -> u64 {
        self.buffers.content.len() as u64
    }
}

impl Packing {
    /// Bytes that the frame being gathered has room for.
    pub fn room(&self) -> usize {
        self.frame_len.saturating_sub(self.content.len())
    }

    /// Whether nothing is gathered.
    pub const fn is_empty(&self) -> bool {
        self.content.is_empty()
    }

    /// Content that is not in frames that were handed out.
    pub fn pending(&self) -> u64 {
        let under_way = self.under_way.iter().map(|frame| frame.content_len);
        (self.content.len() + under_way.sum::<usize>()) as u64
    }

    /// Bytes of content that were gathered so far.
    pub const fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    /// Notes from now on where frames lie.
    pub fn note_frames(&mut self) {
        self.noted.get_or_insert_default();
    }

    /// What was noted of frames.
    pub const fn noted(&mut self) -> Option<&mut Noted> {
        self.noted.as_mut()
    }

    /// Gathers whole items.
    pub fn add(&mut self, bytes: &[u8], items: u64) {
        if self.content.capacity() == 0 {
            self.content.reserve_exact(self.frame_len.max(bytes.len()));
        }
        if self.content.is_empty()
            && let Some(noted) = &mut self.noted
        {
            noted.begun.push(self.content_bytes);
        }
        self.content.extend_from_slice(bytes);
        self.content_bytes += bytes.len() as u64;
        self.items += items;
    }

    /// Makes a frame of what is gathered. Waits while the threads have enough to do.
    pub fn seal(&mut self) {
        if self.content.is_empty() {
            return;
        }
        self.since = None;
        let mut buffers = self.spare.pop().unwrap_or_default();
        std::mem::swap(&mut buffers.content, &mut self.content);
        let (told, done) = bounded(1);
        self.under_way.push_back(UnderWay {
            content_len: buffers.content.len(),
            items: std::mem::take(&mut self.items),
            done,
        });
        let job = Job {
            buffers,
            done: told,
        };
        // Where no thread is left, that shows when the frame is asked for.
        let _ = self.pool.jobs.as_ref().map(|jobs| jobs.send(job));
    }

    /// Live, content does not wait longer than [`MOST_AGE`] for more.
    pub fn seal_old(&mut self, now: Duration) {
        if !self.pool.compression.live || self.content.is_empty() {
            return;
        }
        let since = *self.since.get_or_insert(now);
        if now.saturating_sub(since) >= MOST_AGE {
            self.seal();
        }
    }

    /// The oldest frame, waited for where as many are on their way as may be.
    pub fn next_of_many(&mut self) -> Option<(io::Result<Frame>, u64)> {
        let many = self.under_way.len() > self.pool.compression.frames();
        many.then(|| self.take_next()).flatten()
    }

    /// The oldest frame, if it is done. What was to be packed at a time that does not depend on the content is live.
    pub fn next_done(&mut self) -> Option<(io::Result<Frame>, u64)> {
        let is_done = self
            .under_way
            .front()
            .is_some_and(|frame| !frame.done.is_empty());
        (is_done && self.pool.compression.live)
            .then(|| self.take_next())
            .flatten()
    }

    /// The oldest frame, and its items. Waits for it.
    pub fn take_next(&mut self) -> Option<(io::Result<Frame>, u64)> {
        let UnderWay { items, done, .. } = self.under_way.pop_front()?;
        let gone = || io::Error::other("the thread that compresses is gone");
        let outcome = done.recv().unwrap_or_else(|_| Err(gone()));
        Some((outcome.map(|buffers| Frame { buffers, items }), items))
    }

    /// Notes a frame that was written, and takes its memory.
    pub fn wrote(&mut self, frame: Frame) {
        let Frame { mut buffers, .. } = frame;
        if let Some(noted) = &mut self.noted {
            let lens = (buffers.content.len() as u64, buffers.frame.len() as u64);
            noted.written.push(lens);
        }
        buffers.content.clear();
        // One giant item must not keep its memory for ever.
        if buffers.content.capacity() <= 2 * self.frame_len && self.spare.len() < 2 {
            self.spare.push(buffers);
        }
    }

    /// Gives up what was not handed out, and tells its items.
    pub fn give_up(&mut self) -> u64 {
        let under_way = self.under_way.drain(..).map(|frame| frame.items);
        let items = under_way.sum::<u64>() + std::mem::take(&mut self.items);
        self.content.clear();
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compression(threads: usize, files: usize) -> Compression {
        Compression {
            codec: Codec::Zstd,
            level: LEVEL,
            threads,
            files,
            live: false,
        }
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (state >> 56) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn frames_come_in_their_order_and_read_back() {
        let pool = Pool::start(compression(3, 1)).unwrap();
        let mut packing = pool.packing();
        let content = noise(9 << 20);
        let (mut packed, mut items) = (Vec::new(), 0);
        let mut take = |packing: &mut Packing, frame: (io::Result<Frame>, u64)| {
            let frame = frame.0.unwrap();
            packed.extend_from_slice(frame.bytes());
            items += frame.items;
            packing.wrote(frame);
        };
        for piece in content.chunks(100_000) {
            if piece.len() > packing.room() {
                packing.seal();
            }
            while let Some(frame) = packing.next_of_many() {
                take(&mut packing, frame);
            }
            packing.add(piece, 1);
            assert!(packing.pending() <= 4 << 20);
        }
        packing.seal();
        while let Some(frame) = packing.take_next() {
            take(&mut packing, frame);
        }
        assert_eq!((packing.pending(), packing.give_up()), (0, 0));
        assert_eq!(items, content.chunks(100_000).count() as u64);
        assert!(zstd::decode_all(&packed[..]).unwrap() == content);
    }

    /// What is asked for room before it is compressed has it: noise is what compresses worst.
    #[test]
    fn no_frame_is_longer_than_told() {
        let content = noise(FRAME_LEN);
        for codec in [Codec::Gzip, Codec::Zstd] {
            for level in codec.levels() {
                for len in [0, 1, 1000, 131_072, 131_073, FRAME_LEN] {
                    let frame = frame_of(codec, level, content[..len].to_vec()).unwrap();
                    let most = len + MOST_LONGER;
                    assert!(
                        frame.len() <= most,
                        "{codec:?} {level} {len}: {}",
                        frame.len()
                    );
                }
            }
        }
    }

    #[test]
    fn memory_is_as_told() {
        for level in Codec::Zstd.levels() {
            let mut packer = Packer::new(Codec::Zstd, level).unwrap();
            let mut buffers = Buffers {
                content: noise(FRAME_LEN),
                frame: Vec::new(),
            };
            packer.pack(&mut buffers).unwrap();
            let one = Compression {
                level,
                ..compression(1, 1)
            };
            let without = Compression { threads: 0, ..one };
            let told = one.memory_bytes() - without.memory_bytes();
            let Packer::Zstd(compressor) = &mut packer else {
                panic!("not zstd")
            };
            let taken = compressor.context_mut().sizeof() as u64;
            assert!(taken <= told, "level {level}: {taken} of {told}");
        }
        let most = |threads, files| compression(threads, files).memory_bytes() >> 20;
        assert!((6..16).contains(&most(1, 1)), "{}", most(1, 1));
        assert!(most(1, 64) < 100, "{}", most(1, 64));
        assert!(most(8, 64) < 150, "{}", most(8, 64));
    }

    #[test]
    fn content_grows_old_live_only() {
        for live in [false, true] {
            let pool = Pool::start(Compression {
                live,
                ..compression(1, 1)
            });
            let pool = pool.unwrap();
            let mut packing = pool.packing();
            let second = Duration::from_secs;
            packing.seal_old(second(0));
            packing.add(b"item", 1);
            packing.seal_old(second(10));
            packing.seal_old(second(11));
            assert!(packing.under_way.is_empty());
            packing.seal_old(second(12));
            assert_eq!(packing.under_way.len(), usize::from(live));
            // The next content has its own age.
            if live {
                packing.add(b"item", 1);
                packing.seal_old(second(13));
                assert_eq!(packing.under_way.len(), 1);
            }
        }
    }
}
