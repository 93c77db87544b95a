//! Files that follow each other: which are open, when each ends, what becomes of items while the disk takes none.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::custody::Custody;
use super::finisher::{Finished, Finisher, hold};
use super::holdings::Told;
use super::index::{self, Builder};
use super::keeping::{Fsync, Keeping};
use super::manifest::{FileFacts, Lost, hex};
use super::names::StoreName;
use super::ring::{Begun, Ring};
use super::rotation::{Open, Reason, Triggers};
use crate::capture::terms::Terms;
use crate::flow::text::rfc3339;
use crate::mirror::session_key::SessionKey;
use crate::outfile::packed::{Compression, Pool};
use crate::outfile::{ItemFile, OutError, OutFile, Standing};
use crate::pcap::section::About;
use crate::stop::wall_clock_ns;
use crate::threads::NoThread;

/// How long the disk is left alone after it took nothing.
const RETRY: Duration = Duration::from_secs(5);
/// How often limits that depend on time are looked at.
const LOOK: Duration = Duration::from_secs(15);
/// Bytes of the manifest, and of its index whatever its size, that a file costs until the limits are looked at again, at
/// the most.
const LINES: u64 = 2048 + index::LEAST_ROOM;
/// The part of a file's size limit that content on its way to it has to be so that it is worth to find out its size, and
/// the least of it.
const WORTH_SETTLING: (u64, u64) = (64, 4096);
/// Bytes that may be written until the limits are looked at, whatever is on its way to compressed files.
const LEAST_ALLOWANCE: u64 = 512 << 10;
/// How long behind its end by the clock a file of packets stays open for those on their way, live.
pub const GRACE: Duration = Duration::from_secs(1);

/// What happens when the disk is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFull {
    /// The oldest file goes.
    #[default]
    DeleteOldest,
    /// Packets are counted as lost until there is room again.
    Drop,
    /// The run ends.
    Exit,
}

/// What decides which file a packet goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Split {
    /// All go to one.
    #[default]
    None,
    /// One for each mirror session.
    Session,
    /// One for each VNI.
    Vni,
    /// One for each mirror source.
    Source,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What names begin with.
    pub prefix: String,
    /// What they end in.
    pub ending: &'static str,
    /// When a file ends.
    pub triggers: Triggers,
    /// Which file a packet goes to.
    pub split: Split,
    /// Most files open at a time.
    pub most_open: usize,
    /// What happens when the disk is full.
    pub on_full: OnFull,
    /// How files are compressed, if they are.
    pub compression: Option<Compression>,
    /// How files are kept.
    pub keeping: Keeping,
    /// A file is finished for an interval without packets too.
    pub keep_empty: bool,
    /// Flow records do not end with the interval of a file.
    pub whole_flows: bool,
    /// How long behind its end by the clock a file stays open for items on their way, live.
    pub grace: Duration,
    /// Packets tell the time, not the clock: a replay.
    pub by_packet_time: bool,
    /// What each file tells of itself.
    pub about: About,
    /// Who signs the manifest, and who is told of finished files.
    pub custody: Custody,
}

impl Plan {
    /// The interval that flow records end with.
    pub fn flow_interval(&self) -> Option<Duration> {
        self.triggers.interval.filter(|_| !self.whole_flows)
    }
}

/// What one file of a store holds.
pub trait Content: Sized {
    /// The file, with what became of its items.
    fn file(&self) -> &ItemFile;

    /// What went wrong, once.
    fn take_error(&mut self) -> Option<OutError>;

    /// Writes what is gathered, so that it can be read.
    fn flush(&mut self);

    /// Writes what is on its way to a compressed file, if that is at least so many bytes; else `false`.
    fn settle(&mut self, least: u64) -> bool;

    /// Does what is due at `now`, since any fixed moment.
    fn tick(&mut self, now: Duration);

    /// Brings what was written to the disk.
    ///
    /// # Errors
    ///
    /// As the system says.
    fn sync(&mut self) -> Result<(), OutError>;

    /// Bytes that the file would have if it ended now, at the most.
    fn bytes_at_end(&self) -> u64;

    /// Bytes of what is written beside the file when it ends, at the most.
    fn bytes_beside(&self) -> u64 {
        0
    }

    /// Ends the file; it has no name yet. `kernel_dropped` datagrams were lost since it began.
    ///
    /// # Errors
    ///
    /// When it cannot be cut back to its last whole item.
    fn end(self, kernel_dropped: u64) -> Result<Ended, OutError>;
}

/// A file that was ended and has no name yet.
pub struct Ended {
    /// The file.
    pub out: OutFile,
    /// What became of the items.
    pub standing: Standing,
    /// Time of the earliest and the latest item, nanoseconds since 1970.
    pub span: Option<(u64, u64)>,
    /// Mirror sessions that have an item in it.
    pub sessions: u64,
    /// What lies where in it, where that was noted.
    pub index: Option<Builder>,
    /// What went wrong with the last items.
    pub error: Option<OutError>,
}

/// The files of one store being written.
pub struct Rolling<C> {
    /// What was asked for.
    pub plan: Plan,
    dir: String,
    ring: Arc<Mutex<Ring>>,
    finisher: Finisher,
    pool: Option<Arc<Pool>>,
    /// Those that are open, by what goes to them.
    pub open: BTreeMap<Class, OpenFile<C>>,
    /// What became of items in files that have ended.
    ended: Standing,
    /// Packets that were lost since a file told of it, by class where that is known.
    untold: Lost,
    /// All that were lost in this run.
    lost: Lost,
    /// Kernel drops that a file has told of.
    kernel_told: u64,
    /// Kernel drops so far.
    kernel_dropped: u64,
    /// Bytes that may be written until the limits are looked at.
    allowance: u64,
    /// The disk takes nothing until then.
    retry_at: Option<Duration>,
    /// When the limits are looked at next, and open files synced.
    look_at: Duration,
    sync_at: Duration,
    now: Duration,
    error: Option<OutError>,
    has_failed: bool,
    previous: Option<(String, String)>,
    uses: u64,
    synced: Arc<AtomicU64>,
}

/// How a file's comment names the configuration of its run.
pub fn configuration(name: &str) -> String {
    format!("configuration {name}")
}

/// Items that go to the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Everything.
    All,
    /// Those of a mirror session.
    Session(SessionKey),
    /// Those of a VNI.
    Vni(u32),
    /// Those of a mirror source.
    Source(std::net::IpAddr),
}

/// A file that is being written.
pub struct OpenFile<C> {
    /// What is written.
    pub writer: C,
    /// Items given to it.
    pub items: u64,
    name: StoreName,
    began_ns: u64,
    /// What was lost since the file before began.
    lost: Lost,
    /// For the least recently used.
    used: u64,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum StoreError {
    #[error(transparent)]
    Out(#[from] OutError),
    #[error(transparent)]
    NoThread(#[from] NoThread),
}

impl<C: Content> Rolling<C> {
    /// Opens the store in `dir`, which is made where it is not there, and finishes what killed runs left.
    ///
    /// # Errors
    ///
    /// When the directory cannot be written to, or the system has no thread.
    pub fn open(dir: &Path, plan: Plan, now_ns: u64) -> Result<Self, StoreError> {
        let Custody { sign, hooks, .. } = plan.custody.clone();
        let mut ring = Ring::open(dir, plan.keeping, sign, hooks.is_some(), now_ns)?;
        let due = ring.take_due();
        let last = ring.last_finished();
        let previous = last.map(|(name, sha256)| (name.to_owned(), sha256.to_owned()));
        let ring = Arc::new(Mutex::new(ring));
        let makes_room = plan.on_full == OnFull::DeleteOldest;
        let finisher = Finisher::start(Arc::clone(&ring), plan.keeping.fsync, hooks, makes_room)?;
        finisher.announce(due);
        let pool = plan.compression.map(Pool::start).transpose()?;
        let mut store = Self {
            plan,
            dir: dir.display().to_string(),
            ring,
            finisher,
            pool,
            open: BTreeMap::new(),
            ended: Standing::default(),
            untold: Lost::default(),
            lost: Lost::default(),
            kernel_told: 0,
            kernel_dropped: 0,
            allowance: 0,
            retry_at: None,
            look_at: LOOK,
            sync_at: Duration::ZERO,
            now: Duration::ZERO,
            error: None,
            has_failed: false,
            previous,
            uses: 0,
            synced: Arc::default(),
        };
        // What is too much already goes before anything is written.
        store.ask_for_room(0, now_ns)?;
        Ok(store)
    }

    /// From now on the files go by other terms. What is too much already goes before more is written.
    pub fn change(&mut self, terms: &Terms) {
        let about = &mut self.plan.about;
        about.inventory = Arc::clone(&terms.inventory);
        let (old, new) = &terms.configuration;
        if let Some(first) = about.comments.first_mut() {
            *first = first.replace(&configuration(old), &configuration(new));
        }
        if let Some((limits, triggers)) = terms.keeping {
            self.plan.triggers = triggers;
            self.plan.keeping.limits = limits;
            hold(&self.ring).keep(limits);
            self.allowance = 0;
            self.look_at = self.now;
        }
    }

    /// Its directory, in messages.
    pub fn path(&self) -> &str {
        &self.dir
    }

    /// Datagrams that the kernel has dropped so far.
    pub const fn note_kernel_dropped(&mut self, dropped: u64) {
        self.kernel_dropped = dropped;
    }

    /// Sees to it that a file for `class` is open and may take `first`.
    pub fn is_ready(
        &mut self,
        class: Class,
        ts_ns: u64,
        len: u64,
        begin: impl FnOnce(ItemFile, &About) -> Result<C, OutError>,
    ) -> bool {
        if self.retry_at.is_some_and(|at| self.now < at) || self.has_failed {
            return false;
        }
        if self.allowance < len {
            let now_ns = self.time(ts_ns);
            match self.ask_for_room(len, now_ns) {
                Ok(true) => {}
                Ok(false) => {
                    // Files that are open cannot go: finished they can.
                    self.end_all(Reason::Size);
                    self.finisher.wait();
                    match self.ask_for_room(len, now_ns) {
                        Ok(true) => {}
                        Ok(false) => {
                            let limits = "the limits of --keep-bytes or --min-free leave no room";
                            let full = io::Error::new(ErrorKind::StorageFull, limits);
                            self.take_fault(OutError::of_write(Path::new(&self.dir), full));
                            return false;
                        }
                        Err(error) => {
                            self.take_fault(error);
                            return false;
                        }
                    }
                }
                Err(error) => {
                    self.take_fault(error);
                    return false;
                }
            }
        }
        if self.open.contains_key(&class) {
            return true;
        }
        if self.open.len() >= self.plan.most_open {
            let oldest = self.open.iter().min_by_key(|(_, file)| file.used);
            if let Some(class) = oldest.map(|(class, _)| *class) {
                self.end_file(class, Reason::OpenFiles);
            }
        }
        let room = || self.plan.on_full == OnFull::DeleteOldest && deletes_oldest(&self.ring);
        let begun = match self.begin_named(class, ts_ns) {
            // No room for a name.
            Err(error) if error.is_full() && room() => self.begin_named(class, ts_ns),
            begun => begun,
        };
        match begun.and_then(|begun| self.begin(begun, ts_ns, begin)) {
            Ok(file) => {
                self.open.insert(class, file);
                if self.retry_at.take().is_some() {
                    tracing::warn!("{}: there is room again; packets are written", self.dir);
                }
                true
            }
            Err(error) => {
                self.take_fault(error);
                false
            }
        }
    }

    fn begin_named(&self, class: Class, ts_ns: u64) -> Result<Begun, OutError> {
        let prefix = match class.label() {
            Some(label) => format!("{}-{label}", self.plan.prefix),
            None => self.plan.prefix.clone(),
        };
        hold(&self.ring).begin(&prefix, ts_ns, self.plan.ending)
    }

    fn begin(
        &mut self,
        begun: Begun,
        ts_ns: u64,
        begin: impl FnOnce(ItemFile, &About) -> Result<C, OutError>,
    ) -> Result<OpenFile<C>, OutError> {
        let lost = Lost {
            kernel: self.kernel_dropped - self.kernel_told,
            ..self.untold
        };
        let Begun { name, mut out } = begun;
        out.keep_digest();
        out.count_synced_in(Arc::clone(&self.synced));
        if self.plan.on_full == OnFull::DeleteOldest {
            let ring = Arc::clone(&self.ring);
            out.rescue_with(move || deletes_oldest(&ring));
        }
        let about = About {
            comments: self.comments(&name, lost),
            ..self.plan.about.clone()
        };
        let file = match &self.pool {
            Some(pool) => ItemFile::packed(out, pool.packing()),
            None => ItemFile::new(out),
        };
        match begin(file, &about) {
            Ok(writer) => {
                self.kernel_told = self.kernel_dropped;
                self.untold = Lost::default();
                Ok(OpenFile {
                    writer,
                    name,
                    items: 0,
                    began_ns: ts_ns,
                    lost,
                    used: self.uses,
                })
            }
            Err(error) => {
                hold(&self.ring).give_up(&name);
                Err(error)
            }
        }
    }

    /// What a file says of itself, before what the input says.
    fn comments(&self, name: &StoreName, lost: Lost) -> Vec<String> {
        let Lost {
            kernel,
            queue,
            disk,
        } = lost;
        let previous = match &self.previous {
            Some((name, sha256)) => format!("previous file {name}, SHA-256 {sha256}"),
            None => "no file before it".to_owned(),
        };
        let kernel_so_far = self.kernel_dropped;
        let Lost {
            queue: queue_so_far,
            disk: disk_so_far,
            ..
        } = self.lost;
        let mut comments = self.plan.about.comments.clone();
        let run = comments.first().cloned().unwrap_or_default();
        let this = format!(
            "{run}; file {} of {}; {previous}; lost since the file before: {kernel} in the kernel, {queue} in the queue, \
             {disk} at the disk; lost so far: {kernel_so_far} in the kernel, {queue_so_far} in the queue, \
             {disk_so_far} at the disk",
            name.sequence, name.prefix
        );
        comments.splice(..comments.len().min(1), [this]);
        comments
    }

    /// Ends the file of `class`, if one is open.
    pub fn end_file(&mut self, class: Class, reason: Reason) {
        let Some(file) = self.open.remove(&class) else {
            return;
        };
        let OpenFile {
            writer,
            name,
            items,
            mut lost,
            ..
        } = file;
        let kernel = self.kernel_dropped - self.kernel_told;
        let beside = writer.bytes_beside();
        let ended = writer.end(lost.kernel + kernel);
        let outcome = ended.and_then(|ended| {
            let sha256 = hex(&ended.out.digest()?);
            Ok((ended, sha256))
        });
        let (ended, sha256) = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                hold(&self.ring).give_up(&name);
                // Those too that were gathered and not written yet.
                self.lose(items);
                return self.take_fault(error);
            }
        };
        let Ended {
            out,
            standing,
            span,
            sessions,
            index,
            error,
        } = ended;
        let reason = error.as_ref().map_or(reason, |_| Reason::Fault);
        if let Some(error) = error {
            self.take_fault(error);
        }
        self.kernel_told = self.kernel_dropped;
        self.ended.bytes += standing.bytes;
        self.ended.written += standing.written;
        self.ended.disk += standing.lost;
        self.lost.disk += standing.lost;
        self.untold.disk += standing.lost;
        lost.kernel += kernel;
        // A file that lost all it was given is none without items.
        if standing.written == 0 && (!self.plan.keep_empty || standing.lost > 0) {
            hold(&self.ring).give_up(&name);
            self.untold.queue += lost.queue;
            self.untold.disk += lost.disk;
            self.kernel_told -= lost.kernel;
            self.ended.bytes -= standing.bytes;
            return out.discard();
        }
        hold(&self.ring).note_ended(&name, standing.bytes + beside);
        let name = name.to_string();
        self.previous = Some((name.clone(), sha256.clone()));
        let facts = FileFacts {
            name,
            bytes: out.bytes(),
            sha256,
            first: span.map(|(first, _)| rfc3339(first).to_owned()),
            last: span.map(|(_, last)| rfc3339(last).to_owned()),
            packets: standing.written,
            sessions,
            lost,
            reason: reason.name().to_owned(),
            ..FileFacts::default()
        };
        self.allowance = self.allowance.saturating_sub(LINES);
        self.finisher.finish(Finished { out, facts, index });
    }

    /// Ends every file.
    pub fn end_all(&mut self, reason: Reason) {
        let classes: Vec<Class> = self.open.keys().copied().collect();
        for class in classes {
            self.end_file(class, reason);
        }
    }

    /// The file of `class` takes nothing any more.
    pub fn fail(&mut self, class: Class) {
        let error = self.open.get_mut(&class);
        let error = error.and_then(|file| file.writer.take_error());
        self.end_file(class, Reason::Fault);
        if let Some(error) = error {
            self.take_fault(error);
        }
    }

    /// The disk takes nothing: what now.
    fn take_fault(&mut self, error: OutError) {
        if self.plan.on_full == OnFull::Exit {
            if !std::mem::replace(&mut self.has_failed, true) {
                self.error = Some(error);
            }
            return;
        }
        if self.retry_at.is_none() {
            tracing::error!("{error}; packets are counted as lost until there is room");
        }
        self.allowance = 0;
        self.retry_at = Some(self.now + RETRY);
    }

    /// Counts items that the disk did not take.
    pub fn lose(&mut self, packets: u64) {
        self.ended.disk += packets;
        self.lost.disk += packets;
        self.untold.disk += packets;
    }

    /// Asks the ring for room; `false` where there is none.
    fn ask_for_room(&mut self, coming: u64, now_ns: u64) -> Result<bool, OutError> {
        let files = self.open.values();
        let bytes = |writer: &C| writer.bytes_at_end() + writer.bytes_beside();
        let open_bytes = files.map(|file| bytes(&file.writer)).sum();
        let room = hold(&self.ring).make_room(open_bytes, coming, now_ns)?;
        let files = self.open.values();
        let pending: u64 = files.map(|file| file.writer.file().pending()).sum();
        let most = room.unwrap_or_default();
        // What is on its way may be written before the limits are looked at again; other processes count with no more
        // than an allowance.
        self.allowance = most.saturating_sub(pending).max(most.min(LEAST_ALLOWANCE));
        Ok(room.is_some())
    }

    fn time(&self, ts_ns: u64) -> u64 {
        match self.plan.by_packet_time {
            true => ts_ns,
            false => wall_clock_ns(),
        }
    }

    /// Writes what is gathered, so that it can be read.
    pub fn flush(&mut self) {
        let classes: Vec<Class> = self.open.keys().copied().collect();
        for class in classes {
            let Some(file) = self.open.get_mut(&class) else {
                continue;
            };
            file.writer.flush();
            if file.writer.file().has_failed() {
                self.fail(class);
            }
        }
    }

    /// Does what is due at `now`, since any fixed moment, and `wall_ns`, nanoseconds since 1970.
    pub fn tick(&mut self, now: Duration, wall_ns: u64) {
        self.now = now;
        if self.pool.is_some() {
            self.tick_files(now);
        }
        if self.plan.by_packet_time {
            return;
        }
        // Packets from before the end are on their way for a while.
        let behind_ns = wall_ns.saturating_sub(self.plan.grace.as_nanos() as u64);
        let due = self.open.iter().filter_map(|(class, file)| {
            let why = self.plan.triggers.at(&file.as_open(), behind_ns)?;
            Some((*class, why))
        });
        let due: Vec<(Class, Reason)> = due.collect();
        for (class, why) in due {
            self.end_file(class, why);
        }
        if now >= self.look_at {
            self.look_at = now + LOOK;
            if let Err(error) = self.ask_for_room(0, wall_ns) {
                tracing::warn!("{error}");
            }
        }
        if let Fsync::Every(time) = self.plan.keeping.fsync
            && now >= self.sync_at
        {
            self.sync_at = now + time;
            self.flush();
            for file in self.open.values_mut() {
                if let Err(error) = file.writer.sync() {
                    tracing::warn!("{error}");
                }
            }
        }
    }

    fn tick_files(&mut self, now: Duration) {
        let mut failed = Vec::new();
        for (class, file) in &mut self.open {
            file.writer.tick(now);
            if file.writer.file().has_failed() {
                failed.push(*class);
            }
        }
        for class in failed {
            self.fail(class);
        }
    }

    /// Finds out how long the file of `class` is with what is on its way to it, which was counted as if it could not be
    /// compressed; `false` where that is too little to matter.
    pub fn settle(&mut self, class: Class) -> bool {
        let (part, least) = WORTH_SETTLING;
        let worth = (self.plan.triggers.size.unwrap_or_default() / part).max(least);
        let file = self.open.get_mut(&class);
        file.is_some_and(|file| file.writer.settle(worth))
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        let mut standing = self.ended;
        for file in self.open.values() {
            let of_file = file.writer.file().standing();
            standing.written += of_file.written;
            standing.disk += of_file.lost;
            standing.bytes += of_file.bytes;
        }
        let unfinished = self.finisher.lost().min(standing.written);
        standing.written -= unfinished;
        standing.disk += unfinished;
        standing
    }

    /// Counts bytes that are brought to the disk.
    pub fn synced(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.synced)
    }

    /// Where is told what the store holds.
    pub fn holdings(&self) -> Told {
        hold(&self.ring).told()
    }

    /// Whether nothing is written any more.
    pub const fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// What ends the run, once.
    pub const fn take_error(&mut self) -> Option<OutError> {
        self.error.take()
    }

    /// Ends every file and waits for it.
    pub fn close(&mut self) {
        self.end_all(Reason::End);
        self.finisher.wait();
        hold(&self.ring).end(wall_clock_ns());
    }

    /// Whether anything is due when items of `len` bytes have come, and how many may go to the file of `class`: asks
    /// for each, `next` tells its time and length while it belongs there.
    pub fn fitting(&self, class: Class, mut next: impl FnMut() -> Option<(u64, u64)>) -> Fitting {
        let mut fitting = Fitting::default();
        let Some(file) = self.open.get(&class) else {
            return fitting;
        };
        let mut open = file.as_open();
        while let Some((ts_ns, len)) = next() {
            let reason = self.plan.triggers.before(&open, ts_ns, len);
            if fitting.items == 0 {
                fitting.ends = reason;
            }
            if reason.is_some()
                || (fitting.items > 0 && self.with_index(fitting.bytes + len) > self.allowance)
            {
                break;
            }
            open.bytes += len;
            open.packets += 1;
            fitting.bytes += len;
            fitting.items += 1;
            // With the first one comes what describes its session.
            if file.items == 0 {
                break;
            }
        }
        fitting
    }

    /// Bytes of items with those of their index, at the most.
    const fn with_index(&self, bytes: u64) -> u64 {
        match self.plan.keeping.index {
            true => bytes + bytes.div_ceil(index::SHARE_OF_FILE),
            false => bytes,
        }
    }

    /// Takes note of items that are about to be written, and hands out their file.
    pub fn take(&mut self, class: Class, fitting: &Fitting) -> Option<&mut OpenFile<C>> {
        self.allowance = self
            .allowance
            .saturating_sub(self.with_index(fitting.bytes));
        self.uses += 1;
        let file = self.open.get_mut(&class)?;
        file.used = self.uses;
        file.items += fitting.items as u64;
        Some(file)
    }

    /// Counts packets that found no room in the queue to the writer.
    pub fn note_no_room(&mut self, class: Class, packets: u64) {
        self.lost.queue += packets;
        match self.open.get_mut(&class) {
            Some(file) => file.lost.queue += packets,
            None => self.untold.queue += packets,
        }
    }
}

/// How many items go to a file before it ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fitting {
    /// Items.
    pub items: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Why the file ends before the first.
    pub ends: Option<Reason>,
}

impl<C: Content> OpenFile<C> {
    fn as_open(&self) -> Open {
        Open {
            bytes: self.writer.bytes_at_end(),
            packets: self.items,
            began_ns: self.began_ns,
        }
    }
}

/// Deletes the oldest file of a full disk; `false` where none can go.
fn deletes_oldest(ring: &Mutex<Ring>) -> bool {
    let outcome = hold(ring).delete_oldest(wall_clock_ns());
    outcome
        .inspect_err(|error| tracing::warn!("{error}"))
        .unwrap_or(false)
}

impl Class {
    /// How it shows in names.
    fn label(self) -> Option<String> {
        let label = match self {
            Self::All => return None,
            Self::Session(key) => match key.mirror() {
                Some((source, vni)) => format!("vni{vni}-{source}"),
                None => key.interface_name(),
            },
            Self::Vni(vni) => format!("vni{vni}"),
            Self::Source(source) => source.to_string(),
        };
        // Colons of IPv6 are no part of names elsewhere.
        Some(label.replace(':', "."))
    }
}
