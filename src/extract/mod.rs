//! Packets out of stores and capture files: those that fit a filter, in the order of their times over all files, in
//! one pcapng.
//!
//! The index of a file says which of its bytes may hold such packets; no more are read. Each packet is then looked
//! at itself, so an index decides how much is read and never what is found. A file without one is read whole.
//!
//! Of a compressed file the index says too where its frames lie: those that are needed are decompressed, and one that is
//! damaged does not take the others with it.

pub mod filter;
pub mod flows;
pub mod frames;
pub mod output;
pub mod places;
pub mod ranges;
pub mod report;
pub mod walk;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use filter::Filter;
use flows::{Follow, is_named, key_of};
use frames::{DamagedPiece, Frames};
use output::{Output, Taken};
use places::{Place, Way};
use ranges::{Cursor, Ranges};
use report::{Report, Scanned};
use walk::{Damage, Walk, read_frame};

use crate::capture::store::index::query::{Piece, Query};
use crate::capture::store::recover::parse_rfc3339;
use crate::failure::Failure;
use crate::flow::community_id;
use crate::flow::key::FlowKey;
use crate::flow::record::FlowId;
use crate::flow::text::rfc3339;
use crate::mirror::session_key::SessionKey;
use crate::outfile::Creation;
use crate::say::say;
use crate::stop::Stop;
use crate::wire::length::FrameLen;

/// Packets that wait for an earlier one of their file, and their bytes.
const MOST_WAITING: usize = 4096;
const MOST_WAITING_BYTES: usize = 16 << 20;
/// Bytes of a flow's packets that are kept, so that they need not be read once more.
const MOST_KEPT: usize = 64 << 20;
/// Files read whole that are told one by one, and damaged pieces of files.
const MOST_TOLD: usize = 10;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Stores and capture files.
    pub paths: Vec<PathBuf>,
    /// What a packet has to be.
    pub filter: Filter,
    /// And this flow's.
    pub flow: Option<FlowId>,
    /// Flow records that may tell of it.
    pub flows: Vec<PathBuf>,
    /// Where packets go.
    pub write: PathBuf,
    /// Where the summary goes.
    pub summary: Option<PathBuf>,
    /// How outputs are made.
    pub creation: Creation,
    /// What was asked for, in words, for the file's comment.
    pub words: String,
}

/// Takes out what `options` ask for, until `stop` is set. The report is complete but for the time it took.
///
/// # Errors
///
/// When a file cannot be found or the output not be written. What is wrong with single files is in the report.
pub fn run(options: &Options, stop: &Stop) -> Result<Report, Failure> {
    let found = places::find(&options.paths)?;
    let mut run = Run {
        options,
        stop,
        files: Vec::new(),
        read: Arc::default(),
        report: Report::new(found.open),
        told: BTreeSet::new(),
    };
    run.take_files(found.files);
    let found = match options.flow {
        Some(id) => run.find_flow(id)?,
        None => Found {
            filter: options.filter.clone(),
            part: None,
            packets: None,
        },
    };
    let comment = format!("vxtap extract{}", options.words);
    let output = Output::create(&options.write, options.creation, comment, stop);
    let mut output = output.map_err(Failure::from)?;
    let mut number = 0;
    let mut put = |report: &mut Report, packet: Taken, place: &Path| {
        let is_part = found
            .part
            .is_none_or(|(from, to)| (from..to).contains(&number));
        number += 1;
        if is_part && packet.fits {
            report.add(&packet, place);
            output.put(packet).map_err(Failure::from)?;
        }
        Ok(found.part.is_none_or(|(_, to)| number < to))
    };
    match found.packets {
        Some(packets) => {
            for packet in packets {
                let place = run.files.get(packet.place.0);
                let path = place.map(|(_, place)| place.path.clone());
                put(&mut run.report, packet, &path.unwrap_or_default())?;
            }
        }
        None => run.pass(&found.filter, MOST_WAITING, &mut put)?,
    }
    let Report {
        by_time, by_index, ..
    } = &mut run.report;
    by_time.retain(|number| !by_index.contains(number));
    if run.report.packets > 0 && options.filter.vni.is_none() {
        // The flow was found elsewhere.
        run.report.classic.clear();
    }
    run.report.bytes_read = run.read.load(Ordering::Relaxed);
    run.report.file = output.finish().map_err(Failure::from)?;
    Ok(run.report)
}

/// What is to be taken out.
struct Found {
    filter: Filter,
    /// From which to which of the packets that fit the filter.
    part: Option<(u64, u64)>,
    /// Those that fit the filter, where they are at hand already.
    packets: Option<Vec<Taken>>,
}

struct Run<'a> {
    options: &'a Options,
    stop: &'a Stop,
    /// In the order of their first packets, with the time of those.
    files: Vec<(u64, Place)>,
    /// Bytes read.
    read: Arc<AtomicU64>,
    report: Report,
    /// Files of which is told already how they are read.
    told: BTreeSet<usize>,
}

/// A file that is being read.
struct Active {
    number: usize,
    walk: Walk,
    cursor: Cursor,
    by_index: bool,
    /// Places are those of its content: pieces of it are decompressed.
    is_content: bool,
    taken: u64,
}

/// What is read of a file.
struct Parts {
    ranges: Vec<(u64, u64)>,
    /// Of a compressed file's content: the ranges are in these.
    pieces: Option<Vec<Piece>>,
    by_index: bool,
}

impl Parts {
    /// All of its bytes.
    fn whole(bytes: u64) -> Self {
        Self {
            ranges: vec![(0, bytes)],
            pieces: None,
            by_index: false,
        }
    }
}

impl Run<'_> {
    /// Puts the files into the order of their first packets.
    fn take_files(&mut self, files: Vec<Place>) {
        for place in files {
            self.report.bytes_total += place.path.metadata().map_or(0, |meta| meta.len());
            let first_ns = match place.span {
                Some((first_ns, _)) => first_ns,
                None => self.peek(&place).unwrap_or_default(),
            };
            self.files.push((first_ns, place));
        }
        self.report.files = self.files.len() as u64;
        self.files
            .sort_by(|(a_ns, a), (b_ns, b)| (a_ns, &a.path).cmp(&(b_ns, &b.path)));
    }

    /// The time of the first packet of a file.
    fn peek(&self, place: &Place) -> Option<u64> {
        let file = File::open(&place.path).ok()?;
        let ranges = Arc::from([(0, file.metadata().ok()?.len())]);
        let mut walk = Walk::open(Ranges::new(file, ranges, Arc::clone(&self.read))).ok()?;
        let first = walk.next_packet().ok()??;
        Some(first.outside.ts_ns)
    }

    /// Finds the packets of a flow.
    fn find_flow(&mut self, id: FlowId) -> Result<Found, Failure> {
        let mut record = None;
        for path in &self.options.flows {
            let found = flows::find_record(path, id);
            let found =
                found.map_err(|error| Failure::running(format!("{}: {error}", path.display())))?;
            record = found.or(record);
        }
        let (begins, ends) = match &record {
            Some(record) => {
                self.report.flow_packets = Some(record.pkts_o + record.pkts_r);
                let bad = || Failure::running("the flow record has no times");
                let time = |text: &str| parse_rfc3339(text).ok_or_else(bad);
                (Some(time(&record.ts_start)?), Some(time(&record.ts_end)?))
            }
            None if self.options.flows.is_empty() => {
                say(
                    "vxtap: all packets are looked at for the first of this flow; flow records (--flows FILE) tell it \
                     at once\n",
                );
                (None, None)
            }
            None => {
                say("vxtap: the flow records do not have this flow; all packets are looked at\n");
                (None, None)
            }
        };
        let until_ns = ends.map(|ends| ends.saturating_add(1));
        let asked = &self.options.filter;
        let first = match &record {
            Some(record) => Filter {
                since_ns: begins,
                until_ns,
                hosts: vec![record.src_ip, record.dst_ip],
                community_id: record.community_id.as_deref().and_then(community_id::parse),
                ..Filter::default()
            },
            // What holds for every packet of a flow.
            None => Filter {
                vni: asked.vni,
                hosts: asked.hosts.clone(),
                community_id: asked.community_id,
                ..Filter::default()
            },
        };
        let mut found: Option<(SessionKey, FlowKey, u64)> = None;
        let mut scratch = Vec::new();
        self.pass(&first, 0, |_, packet, _| {
            let session = packet.interface.session;
            let (inner, _) = read_frame(packet.link, packet.bytes().0, &mut scratch);
            let begins = begins.unwrap_or(packet.ts_ns);
            if let Some((key, _)) = key_of(session, &inner)
                && is_named(id, session, &key, begins)
            {
                found = Some((session, key, begins));
            }
            Ok(found.is_none())
        })?;
        let Some((session, key, since_ns)) = found else {
            return Ok(Found {
                filter: Filter::default(),
                part: Some((0, 0)),
                packets: Some(Vec::new()),
            });
        };
        let of_key = Filter {
            since_ns: Some(since_ns),
            until_ns,
            flow: Some((session, key)),
            ..Filter::default()
        };
        let mut follow = Follow::new(id, session);
        let (mut packets, mut bytes_kept) = (Some(Vec::new()), 0);
        self.pass(&of_key, MOST_WAITING, |_, packet, _| {
            let (bytes, orig) = packet.bytes();
            let captured = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let (inner, _) = read_frame(packet.link, bytes, &mut scratch);
            if let Some((key, way)) = key_of(session, &inner) {
                let lengths = FrameLen { captured, orig };
                follow.take(packet.ts_ns, &key, way, lengths, &inner);
            }
            bytes_kept += packet.block.len() + size_of::<Taken>();
            match &mut packets {
                Some(kept) if bytes_kept <= MOST_KEPT => kept.push(packet),
                // Too many to keep: they are read once more.
                _ => packets = None,
            }
            Ok(true)
        })?;
        Ok(Found {
            filter: of_key,
            part: Some(follow.end().unwrap_or_default()),
            packets,
        })
    }

    /// Hands every packet that fits `filter` to `each`, in the order of times, with its file, until that says that it
    /// has enough. Whether it fits what else is asked for is noted in it. `most_waiting` packets wait for earlier ones.
    fn pass(
        &mut self,
        filter: &Filter,
        most_waiting: usize,
        mut each: impl FnMut(&mut Report, Taken, &Path) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let query = filter.query();
        self.report.by_time.clear();
        let mut scratch = Vec::new();
        let mut active: Vec<Option<Active>> = Vec::new();
        // The next packet of each file that is read.
        let mut heads: BinaryHeap<Reverse<(Taken, usize)>> = BinaryHeap::new();
        let mut waiting = Waiting::default();
        let mut next = 0;
        loop {
            while let Some((first_ns, place)) = self.files.get(next)
                && heads
                    .peek()
                    .is_none_or(|Reverse((head, _))| *first_ns <= head.ts_ns)
            {
                let (number, place) = (next, place.clone());
                next += 1;
                if let Some(mut file) = self.open(number, &place, &query)
                    && let Some(head) = self.next_of(&mut file, filter, &place, &mut scratch)
                {
                    heads.push(Reverse((head, active.len())));
                    active.push(Some(file));
                }
            }
            let head = heads.pop().map(|Reverse(head)| head);
            let is_end = head.is_none();
            if let Some((packet, at)) = head {
                waiting.push(packet);
                let slot = active.get_mut(at);
                if let Some(mut file) = slot.and_then(Option::take)
                    && let Some((_, place)) = self.files.get(file.number)
                {
                    let place = place.clone();
                    if let Some(head) = self.next_of(&mut file, filter, &place, &mut scratch) {
                        heads.push(Reverse((head, at)));
                        if let Some(slot) = active.get_mut(at) {
                            *slot = Some(file);
                        }
                    }
                }
            }
            while let Some(packet) = waiting.next(is_end, most_waiting) {
                let number = packet.place.0;
                let path = self
                    .files
                    .get(number)
                    .map(|(_, place)| place.path.as_path());
                if !each(&mut self.report, packet, path.unwrap_or(Path::new("")))? {
                    return Ok(());
                }
            }
            if is_end {
                return Ok(());
            }
        }
    }

    /// Opens a file; `None` where it holds nothing that is asked for, or cannot be read.
    fn open(&mut self, number: usize, place: &Place, query: &Query) -> Option<Active> {
        if let Some((first_ns, last_ns)) = place.span
            && !query.is_within(first_ns, last_ns)
        {
            self.report.by_time.insert(number);
            return None;
        }
        let mut file = match File::open(&place.path) {
            Ok(file) => file,
            Err(error) => {
                match error.kind() {
                    ErrorKind::NotFound => self.note(number, place, "it was deleted meanwhile"),
                    _ => self.note(number, place, &error.to_string()),
                }
                return None;
            }
        };
        // Retention leaves a file alone that somebody reads.
        let _ = file.try_lock_shared();
        let bytes = file.metadata().map_or(0, |meta| meta.len());
        let asks_nothing = *query == Query::default();
        // All of a compressed file is read by its index as well: it knows the way round a frame that is damaged.
        let (way, read) = match asks_nothing && !place.is_packed() {
            true => (Way::Scan(String::new()), 0),
            false => places::way(place, &mut file, bytes, query),
        };
        self.read.fetch_add(read, Ordering::Relaxed);
        let (ranges, pieces) = match way {
            Way::Ranges(ranges) => (ranges, None),
            Way::Pieces(ranges, pieces) => (ranges, Some(pieces)),
            Way::Scan(why) => {
                let why = if asks_nothing { String::new() } else { why };
                self.tell_scan(number, place, why);
                return self.begin(number, place, file, Parts::whole(bytes));
            }
        };
        self.report.by_index.insert(number);
        if ranges.is_empty() {
            // An index of classic pcap knows of no VNI.
            self.note_format(number, places::is_classic(place, &file));
            return None;
        }
        let parts = Parts {
            ranges,
            pieces,
            by_index: true,
        };
        self.begin(number, place, file, parts)
    }

    fn begin(&mut self, number: usize, place: &Place, file: File, parts: Parts) -> Option<Active> {
        let Parts {
            ranges,
            pieces,
            by_index,
        } = parts;
        let ranges: Arc<[(u64, u64)]> = ranges.into();
        let (of_file, read) = (Arc::clone(&ranges), Arc::clone(&self.read));
        let is_content = pieces.is_some();
        let opened = match pieces {
            Some(pieces) => Walk::open(Frames::new(file, pieces, of_file, read)),
            None => Walk::open(Ranges::new(file, of_file, read)),
        };
        match opened {
            Ok(walk) => {
                self.note_format(number, walk.is_classic());
                Some(Active {
                    number,
                    walk,
                    cursor: Cursor::new(ranges),
                    by_index,
                    is_content,
                    taken: 0,
                })
            }
            Err(damage) => {
                match &damage.piece {
                    Some(piece) => self.note_piece(number, place, piece),
                    None => self.note(number, place, &damage.to_string()),
                }
                None
            }
        }
    }

    /// The next packet of a file that fits.
    fn next_of(
        &mut self,
        file: &mut Active,
        filter: &Filter,
        place: &Place,
        scratch: &mut Vec<u8>,
    ) -> Option<Taken> {
        let before = file.walk.packets();
        let rest = self.options.flow.map(|_| &self.options.filter);
        let mut outcome = file.next(filter, rest, scratch, self.stop);
        while let Err(Damage {
            piece: Some(piece), ..
        }) = &outcome
        {
            self.note_piece(file.number, place, piece);
            file.cursor.leave_out(piece.lost);
            outcome = match !piece.is_needed && file.walk.go_on() {
                true => file.next(filter, rest, scratch, self.stop),
                false => Ok(None),
            };
        }
        self.report.packets_read += file.walk.packets() - before;
        if outcome.is_err() && file.by_index && file.taken == 0 {
            // An index that holds together and leads to nothing that does.
            let why = format!("its index {} does not fit it", place.index.display());
            self.report.by_index.remove(&file.number);
            self.tell_scan(file.number, place, why);
            let opened = File::open(&place.path).ok()?;
            let _ = opened.try_lock_shared();
            let whole = Parts::whole(opened.metadata().ok()?.len());
            *file = self.begin(file.number, place, opened, whole)?;
            outcome = file.next(filter, rest, scratch, self.stop);
            self.report.packets_read += file.walk.packets();
        }
        match outcome {
            Ok(taken) => taken,
            Err(damage) => {
                let offset = file.cursor.place(damage.offset);
                let unpacked = match file.walk.packed() {
                    Some(how) => format!(" of the unpacked file ({how})"),
                    None if file.is_content => " of the unpacked file".to_owned(),
                    None => String::new(),
                };
                let reason = damage.reason;
                self.note(
                    file.number,
                    place,
                    &format!("byte {offset}{unpacked}: {reason}; packets before it were taken"),
                );
                None
            }
        }
    }

    /// Takes note of a file that cannot tell what is asked for.
    fn note_format(&mut self, number: usize, is_classic: bool) {
        let asks_session = self.options.flow.is_some() || self.options.filter.vni.is_some();
        if is_classic && asks_session {
            self.report.classic.insert(number);
        }
    }

    /// Tells once what is wrong with a file.
    fn note(&mut self, number: usize, place: &Place, what: &str) {
        let text = format!("{}: {what}", place.path.display());
        if self.report.faulty.insert(number) {
            self.report.errors.push(text);
        }
    }

    /// Tells once of a piece of a compressed file that is damaged.
    fn note_piece(&mut self, number: usize, place: &Place, piece: &DamagedPiece) {
        if !self.report.damaged.insert((number, piece.at)) {
            return;
        }
        let (file, at) = (place.path.display(), piece.at);
        let what = match piece.is_needed {
            false => "the packets in them are left out, the others were taken",
            true => "what follows cannot be read without them; packets before them were taken",
        };
        match self.report.damaged.len() {
            told if told <= MOST_TOLD => {
                let text = format!("{file}: byte {at}: {piece}; {what}");
                self.report.errors.push(text);
            }
            told if told == MOST_TOLD + 1 => {
                self.report
                    .errors
                    .push("more than that is damaged".to_owned());
            }
            _ => {}
        }
    }

    /// Tells once that all of a file is read, and why.
    fn tell_scan(&mut self, number: usize, place: &Place, why: String) {
        if !self.told.insert(number) {
            return;
        }
        let file = place.path.display().to_string();
        if !why.is_empty() {
            let told = self
                .report
                .scanned
                .iter()
                .filter(|file| !file.why.is_empty());
            match told.count() {
                told if told < MOST_TOLD => {
                    say(format!("vxtap: {file}: all of it is read: {why}\n"));
                }
                MOST_TOLD => say("vxtap: all of more files is read; --summary names them\n"),
                _ => {}
            }
        }
        self.report.scanned.push(Scanned { file, why });
    }
}

impl Active {
    /// The next packet that fits `filter`; whether it fits `rest` too is noted in it.
    fn next(
        &mut self,
        filter: &Filter,
        rest: Option<&Filter>,
        scratch: &mut Vec<u8>,
        stop: &Stop,
    ) -> Result<Option<Taken>, Damage> {
        loop {
            if stop.ordered().is_some() {
                return Ok(None);
            }
            let Some(packet) = self.walk.next_packet()? else {
                return Ok(None);
            };
            let (link, bytes, outside) = (packet.link, packet.bytes, packet.outside);
            if !filter.fits(&outside, link, bytes, scratch) {
                continue;
            }
            let at = self.cursor.place(packet.offset);
            let mut taken = Taken::of(&packet, self.number, at);
            if let Some(rest) = rest {
                taken.fits = rest.fits(&outside, link, bytes, scratch);
            }
            taken.others = self.walk.take_others();
            self.taken += 1;
            return Ok(Some(taken));
        }
    }
}

/// Packets that wait a little, because a file may have an earlier one behind them.
#[derive(Default)]
struct Waiting {
    packets: BinaryHeap<Reverse<Taken>>,
    bytes: usize,
}

impl Waiting {
    fn push(&mut self, packet: Taken) {
        self.bytes += packet.block.len();
        self.packets.push(Reverse(packet));
    }

    /// The earliest, where it has waited long enough.
    fn next(&mut self, is_end: bool, most: usize) -> Option<Taken> {
        let is_full = self.packets.len() > most || self.bytes > MOST_WAITING_BYTES;
        if !is_end && !is_full {
            return None;
        }
        let Reverse(packet) = self.packets.pop()?;
        self.bytes -= packet.block.len();
        Some(packet)
    }
}

/// Time as the report has it.
fn time(ns: u64) -> String {
    rfc3339(ns).to_owned()
}
