//! Where the first packets of flow records lie: the capture's writer tells their workers.
//!
//! A worker numbers its records, and says which of them begin flows. The writer notes where such a record goes and
//! answers once it is in the file or lost: once for each, through a mailbox of the worker. So nobody waits for anybody, no
//! packet takes a lock, and who comes later to a flow's place in the table gets no answer that is for another.
//!
//! A place is a number below 2⁶³. Each file of a store has 2⁴⁰ of them; one file that is the whole capture has all.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::flow::first::{First, Place};

/// Places of a file in a store.
const A_FILE: u64 = 1 << 40;
/// Places of all files.
const ALL_FILES: u64 = 1 << 63;
/// Files whose names are remembered: in a store that has more, flows that began before these have no place any more.
const NAMES: usize = 1 << 15;

/// Files that a worker has at hand.
const LATELY: usize = 64;

/// Most bytes of memory that the names take, as long as they usually are.
pub const MEMORY_BYTES: u64 = NAMES as u64 * 128;

/// What the writer of a capture shares with the workers.
pub struct FirstPlaces {
    /// One file is the whole capture.
    is_one: bool,
    files: Mutex<Files>,
    mailboxes: Vec<Mailbox>,
    /// Somebody has many records that wait for an answer.
    is_urged: AtomicBool,
}

/// Files that are remembered.
struct Files {
    /// Number of the first; that of the first file of all is 1.
    base: u64,
    list: VecDeque<Arc<File>>,
}

struct File {
    name: Arc<str>,
    /// Nothing from this offset on is in it.
    lost_from: AtomicU64,
}

/// The answers for one worker.
#[derive(Default)]
struct Mailbox {
    letters: Mutex<Letters>,
    /// There are some, or none will come any more.
    has_news: AtomicBool,
    came: Condvar,
}

#[derive(Default)]
struct Letters {
    answers: Vec<Answer>,
    /// The writer has ended.
    is_closed: bool,
}

/// Where the first packet of a flow lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Place of the flow in its worker's table; it may have ended.
    pub flow: u32,
    /// Number of the record among all of the worker.
    pub record: u64,
    /// Where it lies; nowhere where it was lost.
    pub first: First,
}

impl FirstPlaces {
    /// Takes the answers for `worker` in exchange for `emptied`, an empty list, and tells whether more can come.
    pub fn take(&self, worker: usize, emptied: &mut Vec<Answer>) -> bool {
        let Some(mailbox) = self.mailboxes.get(worker) else {
            return false;
        };
        if !mailbox.has_news.load(Ordering::Relaxed) {
            return true;
        }
        let mut letters = hold(&mailbox.letters);
        std::mem::swap(&mut letters.answers, emptied);
        let is_closed = letters.is_closed;
        mailbox.has_news.store(is_closed, Ordering::Relaxed);
        !is_closed
    }

    /// Waits until there are answers for `worker` or none will come any more, but not longer than `time`.
    pub fn wait(&self, worker: usize, time: Duration) {
        if let Some(Mailbox { letters, came, .. }) = self.mailboxes.get(worker) {
            let has_none = |letters: &mut Letters| letters.answers.is_empty() && !letters.is_closed;
            drop(came.wait_timeout_while(hold(letters), time, has_none));
        }
    }

    /// Asks for answers that do not wait until records are in the file.
    pub fn urge(&self) {
        self.is_urged.store(true, Ordering::Relaxed);
    }

    /// The place of `offset` in file `number`, if it has one.
    fn place(&self, number: u64, offset: u64) -> Option<u64> {
        let first = number.checked_mul(A_FILE)?;
        let place = first.checked_add(offset)?;
        (place < ALL_FILES && (self.is_one || offset < A_FILE)).then_some(place)
    }

    /// The number of the file that `place` is in, and the offset.
    const fn split(&self, place: u64) -> (u64, u64) {
        match self.is_one {
            true => (1, place.saturating_sub(A_FILE)),
            false => (place / A_FILE, place % A_FILE),
        }
    }

    fn file(&self, number: u64) -> Option<Arc<File>> {
        let files = hold(&self.files);
        let at = usize::try_from(number.checked_sub(files.base)?).ok()?;
        files.list.get(at).map(Arc::clone)
    }
}

/// Tells what places mean, to one worker: files that it has asked for lately are at hand.
pub struct Namer {
    places: Arc<FirstPlaces>,
    /// By the last digits of their numbers.
    lately: [Option<(u64, Arc<File>)>; LATELY],
}

impl Namer {
    /// For the places of one capture.
    pub fn new(places: Arc<FirstPlaces>) -> Self {
        Self {
            places,
            lately: [const { None }; LATELY],
        }
    }

    /// The file and the offset in it. `None` where that is not known, not known any more, or lost.
    pub fn place(&mut self, first: First) -> Option<Place> {
        let (number, offset) = self.places.split(first.as_place()?);
        let lately = self.lately.get_mut(number as usize % LATELY)?;
        if lately.as_ref().is_none_or(|(last, _)| *last != number) {
            *lately = Some((number, self.places.file(number)?));
        }
        let (_, file) = lately.as_ref()?;
        let is_kept = offset < file.lost_from.load(Ordering::Relaxed);
        is_kept.then(|| Place::new(Arc::clone(&file.name), offset))
    }
}

/// The writer's end. When its last clone goes, no answers will come any more.
#[derive(Clone)]
pub struct Teller(Arc<End>);

struct End(Arc<FirstPlaces>);

impl Drop for End {
    fn drop(&mut self) {
        for mailbox in &self.0.mailboxes {
            hold(&mailbox.letters).is_closed = true;
            mailbox.has_news.store(true, Ordering::Relaxed);
            mailbox.came.notify_all();
        }
    }
}

impl Teller {
    /// For a capture of so many workers, which is one file or the files of a store.
    pub fn new(workers: usize, is_one: bool) -> Self {
        let places = FirstPlaces {
            is_one,
            files: Mutex::new(Files {
                base: 1,
                list: VecDeque::new(),
            }),
            mailboxes: (0..workers).map(|_| Mailbox::default()).collect(),
            is_urged: AtomicBool::new(false),
        };
        Self(Arc::new(End(Arc::new(places))))
    }

    /// What it shares with those it tells.
    pub fn places(&self) -> Arc<FirstPlaces> {
        Arc::clone(&self.0.0)
    }

    /// A file begins that will be at `path`.
    pub fn begin(&self, path: &str) -> FileFirsts {
        let name = path.rsplit('/').next().unwrap_or(path);
        let file = Arc::new(File {
            name: name.into(),
            lost_from: AtomicU64::new(u64::MAX),
        });
        let mut files = hold(&self.0.0.files);
        files.list.push_back(Arc::clone(&file));
        let number = files.base + files.list.len() as u64 - 1;
        if files.list.len() > NAMES {
            files.list.pop_front();
            files.base += 1;
        }
        drop(files);
        FileFirsts {
            teller: self.clone(),
            number,
            file,
            waiting: VecDeque::new(),
        }
    }

    /// Answers that first packets are in no file.
    pub fn lose(&self, worker: usize, begun: impl Iterator<Item = (u32, u64)>) {
        let first = First::NOWHERE;
        let lost = begun.map(|(flow, record)| {
            let answer = Answer {
                flow,
                record,
                first,
            };
            (worker, answer)
        });
        self.answer(lost);
    }

    /// Whether answers are wanted that do not wait; tells it once.
    pub fn is_urged(&self) -> bool {
        let is_urged = &self.0.0.is_urged;
        is_urged.load(Ordering::Relaxed) && is_urged.swap(false, Ordering::Relaxed)
    }

    fn answer(&self, answers: impl Iterator<Item = (usize, Answer)>) {
        let mut answers = answers.peekable();
        while let Some((worker, first)) = answers.next() {
            let Some(mailbox) = self.0.0.mailboxes.get(worker) else {
                continue;
            };
            let mut letters = hold(&mailbox.letters);
            letters.answers.push(first);
            while let Some((_, answer)) = answers.next_if(|(same, _)| *same == worker) {
                letters.answers.push(answer);
            }
            mailbox.has_news.store(true, Ordering::Relaxed);
            mailbox.came.notify_all();
        }
    }
}

/// The first packets of one file.
pub struct FileFirsts {
    teller: Teller,
    number: u64,
    file: Arc<File>,
    /// Those that were not answered for yet, in the order of the file.
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    worker: usize,
    flow: u32,
    record: u64,
    offset: u64,
}

impl FileFirsts {
    /// The record that will begin at `offset` is the first packet of a flow of `worker`, by its place in the table, and
    /// has a number among all of that worker.
    pub fn note(&mut self, worker: usize, (flow, record): (u32, u64), offset: u64) {
        self.waiting.push_back(Waiting {
            worker,
            flow,
            record,
            offset,
        });
    }

    /// The first `len` bytes are in the file.
    pub fn settle(&mut self, len: u64) {
        let is_in = |first: &Waiting| first.offset < len;
        if self.waiting.front().is_some_and(is_in) {
            self.answer(self.waiting.partition_point(is_in), true);
        }
    }

    /// The file has `len` bytes, and will not have more.
    pub fn end(&mut self, len: u64) {
        self.settle(len);
        self.file.lost_from.fetch_min(len, Ordering::Relaxed);
        self.answer(self.waiting.len(), false);
    }

    /// Answers for those that are not in the file yet as if they were.
    pub fn hurry(&mut self) {
        self.answer(self.waiting.len(), true);
    }

    /// Answers for the first `count`.
    fn answer(&mut self, count: usize, is_kept: bool) {
        let Self {
            teller,
            number,
            waiting,
            ..
        } = self;
        let answers = waiting.drain(..count).map(|first| {
            let place = teller.0.0.place(*number, first.offset);
            let place = place.filter(|_| is_kept);
            let answer = Answer {
                flow: first.flow,
                record: first.record,
                first: place.map_or(First::NOWHERE, First::place),
            };
            (first.worker, answer)
        });
        teller.answer(answers);
    }
}

impl Drop for FileFirsts {
    fn drop(&mut self) {
        self.answer(self.waiting.len(), false);
    }
}

/// What is behind the lock, also behind somebody who ended in a panic: what it knows stays true.
fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers for `worker`: record and place in words.
    fn taken(places: &Arc<FirstPlaces>, worker: usize) -> Vec<(u64, Option<(String, u64)>)> {
        let mut answers = Vec::new();
        places.take(worker, &mut answers);
        let mut namer = Namer::new(Arc::clone(places));
        let named = answers.iter().map(|answer| {
            let place = namer.place(answer.first);
            let named =
                place.map(|place| (place.file().unwrap().to_owned(), place.offset().unwrap()));
            (answer.record, named)
        });
        named.collect()
    }

    fn at(name: &str, offset: u64) -> Option<(String, u64)> {
        Some((name.to_owned(), offset))
    }

    #[test]
    fn each_first_packet_is_answered_for_once() {
        let teller = Teller::new(2, false);
        let places = teller.places();
        let mut a = teller.begin("a");
        let mut b = teller.begin("b");
        a.note(0, (9, 1), 100);
        a.note(1, (9, 1), 200);
        a.note(0, (7, 2), 300);
        b.note(0, (5, 3), 100);
        assert_eq!(taken(&places, 0), []);
        a.settle(300);
        assert_eq!(taken(&places, 0), [(1, at("a", 100))]);
        assert_eq!(taken(&places, 1), [(1, at("a", 200))]);
        a.settle(301);
        b.settle(100);
        assert_eq!(taken(&places, 0), [(2, at("a", 300))]);
        // What was not in the file when it went is lost.
        drop(b);
        assert_eq!(taken(&places, 0), [(3, None)]);
        teller.lose(1, [(4, 8), (5, 9)].into_iter());
        assert_eq!(taken(&places, 1), [(8, None), (9, None)]);
    }

    #[test]
    fn what_a_file_lost_has_no_place() {
        let teller = Teller::new(1, false);
        let places = teller.places();
        let mut file = teller.begin("a");
        file.note(0, (1, 1), 10);
        file.note(0, (2, 2), 20);
        file.hurry();
        let mut answers = Vec::new();
        assert!(places.take(0, &mut answers));
        let mut namer = Namer::new(Arc::clone(&places));
        let mut names = || {
            answers
                .iter()
                .map(|answer| namer.place(answer.first).is_some())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(), [true, true]);
        file.note(0, (3, 3), 30);
        file.end(20);
        assert_eq!(names(), [true, false]);
        assert_eq!(taken(&places, 0), [(3, None)]);
    }

    #[test]
    fn who_waits_hears_of_the_end() {
        let teller = Teller::new(1, true);
        let places = teller.places();
        let file = teller.begin("a");
        drop(teller);
        assert!(places.take(0, &mut Vec::new()), "a file is still written");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| places.wait(0, Duration::from_secs(3600)));
            drop(file);
            waiting.join().unwrap();
        });
        assert!(!places.take(0, &mut Vec::new()));
        assert!(!places.take(0, &mut Vec::new()), "and that stays so");
    }

    /// One file may be as long as it likes; in a store, what lies too far has no place rather than a wrong one.
    #[test]
    fn places_reach_far() {
        let far = 5 * A_FILE + 3;
        for is_one in [true, false] {
            let teller = Teller::new(1, is_one);
            let places = teller.places();
            let mut file = teller.begin("dir/a\"b");
            file.note(0, (0, 0), A_FILE - 1);
            file.note(0, (0, 1), far);
            file.end(u64::MAX);
            let [(_, near), (_, at_far)] = &taken(&places, 0)[..] else {
                panic!("two answers")
            };
            assert_eq!(*near, at("a\"b", A_FILE - 1));
            assert_eq!(
                at_far.as_ref().map(|(_, offset)| *offset),
                is_one.then_some(far)
            );
        }
    }

    #[test]
    fn the_oldest_names_are_forgotten() {
        let teller = Teller::new(1, false);
        let places = teller.places();
        let mut files: VecDeque<FileFirsts> = VecDeque::new();
        for number in 0..NAMES as u64 + 2 {
            let mut file = teller.begin(&number.to_string());
            file.note(0, (0, number), number);
            file.end(u64::MAX);
            files.push_back(file);
        }
        let named = taken(&places, 0);
        assert_eq!(named[..2], [(0, None), (1, None)]);
        assert!(
            (2..)
                .zip(&named[2..])
                .all(|(number, named)| *named == (number, at(&number.to_string(), number)))
        );
        assert_eq!(named.len(), NAMES + 2);
    }

    #[test]
    fn it_is_urged_once() {
        let teller = Teller::new(1, true);
        assert!(!teller.is_urged());
        teller.places().urge();
        assert!(teller.is_urged());
        assert!(!teller.is_urged());
    }
}
