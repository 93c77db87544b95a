//! The hand-off from workers to writers under pressure: full queues, a reader that is slow or goes
//! away, counts, stops and questions. Whatever happens, every packet is accounted for once.
//!
//! Written for ThreadSanitizer as well (scripts/sanitize.sh tsan): many hand-overs, few bytes of check.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "what is awaited has a limit")]

use std::convert::Infallible;
use std::io::{Cursor, PipeReader, Read};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use vxtap::bpf::steer::Steering;
use vxtap::capture::writer::CaptureWriter;
use vxtap::export::FlowFormat;
use vxtap::export::flow_file::FlowFile;
use vxtap::outfile::Creation;
use vxtap::pcap::record::Format;
use vxtap::pcap::section::About;
use vxtap::pipeline::account::{Account, Missing, SinkError};
use vxtap::pipeline::answers::Answer;
use vxtap::pipeline::inquiry::Interim;
use vxtap::pipeline::orders::Orders;
use vxtap::pipeline::outcome::Outcome;
use vxtap::pipeline::queues::WhenFull;
use vxtap::pipeline::run::Pipeline;
use vxtap::pipeline::sharing::Sharing;
use vxtap::pipeline::sinks::Sinks;
use vxtap::pipeline::watch::Watch;
use vxtap::pipeline::worker::WorkerSettings;
use vxtap::send::encapsulate::{OuterHeaders, OuterIps, encapsulate};
use vxtap::source::file::CaptureFile;
use vxtap::source::{Arrival, Datagram, Progress, Source};
use vxtap::stop::{Stop, Why};
use vxtap::wire::Vni;
use vxtap::wire::outer::Pieces;

/// Where the serial number is in an inner frame: behind Ethernet, IPv4 and UDP.
const SERIAL_AT: usize = 42;

/// An inner frame of `len` bytes with a number of its own; every seventh starts another flow.
fn frame(serial: u64, len: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0, 0x45, 0];
    frame.extend((len as u16 - 14).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend((1024 + (serial / 7 % 5000) as u16).to_be_bytes());
    frame.extend(53u16.to_be_bytes());
    frame.extend((len as u16 - 34).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(serial.to_be_bytes());
    frame.resize(len, 0);
    frame
}

/// Such a frame behind a VXLAN header.
fn payload(serial: u64, frame_len: usize) -> Vec<u8> {
    encapsulate(Vni::new(7).unwrap(), &frame(serial, frame_len))
}

fn arrival(ts_ns: u64, payload: &[u8]) -> Arrival<'_> {
    Arrival::Datagram(Datagram {
        ts_ns,
        src: ([192, 0, 2, 1], 50_000).into(),
        dst: ([192, 0, 2, 2], 4789).into(),
        payload,
        headers_len: 28,
        pieces: Pieces::One,
    })
}

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_nanos() as u64
}

/// A source with batches of the test's own making.
struct By<F>(F);

impl<F> Source for By<F>
where
    F: FnMut(usize, &mut dyn FnMut(Arrival<'_>)) -> Progress,
{
    type Error = Infallible;

    fn next_batch(
        &mut self,
        most: usize,
        mut each: impl FnMut(Arrival<'_>),
    ) -> Result<Progress, Infallible> {
        Ok((self.0)(most, &mut each))
    }
}

/// Hands over so many frames as fast as they are taken, then keeps quiet.
struct Burst<'a> {
    worker: u64,
    next: u64,
    end: u64,
    frame_len: usize,
    /// What all sources have handed over.
    handed: &'a AtomicU64,
}

impl Source for Burst<'_> {
    type Error = Infallible;

    fn next_batch(
        &mut self,
        most: usize,
        mut each: impl FnMut(Arrival<'_>),
    ) -> Result<Progress, Infallible> {
        if self.next == self.end {
            thread::sleep(Duration::from_millis(1));
            return Ok(Progress::Idle);
        }
        // Batches of all sizes.
        let most = (most as u64).min(1 + self.next % 97);
        let end = self.end.min(self.next + most);
        for number in self.next..end {
            let payload = payload(self.worker << 32 | number, self.frame_len);
            self.handed.fetch_add(1, Ordering::Relaxed);
            each(arrival(now_ns(), &payload));
        }
        self.next = end;
        Ok(Progress::Batch)
    }

    fn end_at(&mut self, _at_ns: u64) {
        // Whatever is next comes later than that.
        self.end = self.next;
    }
}

fn bursts<'a>(counts: &[u64], frame_len: usize, handed: &'a AtomicU64) -> Vec<Burst<'a>> {
    let counts = (0..).zip(counts);
    let bursts = counts.map(|(worker, count)| Burst {
        worker,
        next: 0,
        end: *count,
        frame_len,
        handed,
    });
    bursts.collect()
}

fn sharing(workers: u32, when_full: WhenFull) -> Sharing {
    Sharing {
        steering: Steering {
            workers,
            multiplier: 0x9e37_79b1,
        },
        max_reorder: Duration::from_millis(20),
        when_full,
    }
}

/// A pipeline that writes flow records to `flows` and its capture to a pipe.
fn pipeline(workers: u32, when_full: WhenFull, flows: &Path) -> (Pipeline, PipeReader) {
    pipeline_of(sharing(workers, when_full), flows)
}

fn pipeline_of(sharing: Sharing, flows: &Path) -> (Pipeline, PipeReader) {
    let (reader, writer) = std::io::pipe().unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", writer.as_raw_fd()));
    let about = About {
        comments: Vec::new(),
        mtu: 1500,
        inventory: std::sync::Arc::default(),
    };
    let sinks = Sinks {
        capture: Some(
            CaptureWriter::create(
                &path,
                Creation::default(),
                None,
                Format::Pcap,
                &about,
                &Stop::new(),
            )
            .unwrap()
            .into(),
        ),
        flows: vec![
            FlowFile::create(
                FlowFormat::JsonLines,
                flows,
                Creation::default(),
                &Stop::new(),
            )
            .unwrap()
            .into(),
        ],
        ..Sinks::default()
    };
    drop(writer);
    let settings = WorkerSettings {
        capture: Some(Format::Pcap),
        flows: true,
        max_flows: 1000,
        ..WorkerSettings::default()
    };
    (Pipeline::start(settings, sinks, sharing).unwrap(), reader)
}

fn ask(orders: &Orders<Answer>, watch: &Watch) -> Interim {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(Interim::ask(orders, watch))
}

/// Time and serial number of each record in a classic pcap of this machine's byte order, in the order they stand in
/// it.
fn records(capture: &[u8]) -> Vec<(u64, u64)> {
    let mut records = Vec::new();
    let mut rest = &capture[24..];
    while let Some((header, behind)) = rest.split_first_chunk::<16>() {
        let word = |at: usize| u32::from_ne_bytes(*header[at..].first_chunk().unwrap());
        let serial = behind[SERIAL_AT..].first_chunk().unwrap();
        let ts_ns = u64::from(word(0)) * 1_000_000_000 + u64::from(word(4));
        records.push((ts_ns, u64::from_be_bytes(*serial)));
        rest = &behind[word(8) as usize..];
    }
    assert!(rest.is_empty(), "the capture ends with a whole record");
    records
}

fn serials(capture: &[u8]) -> Vec<u64> {
    let records = records(capture).into_iter();
    records.map(|(_, serial)| serial).collect()
}

/// Reads a capture to its end.
fn read_all(mut reader: PipeReader) -> Vec<u8> {
    let mut capture = Vec::new();
    reader.read_to_end(&mut capture).unwrap();
    capture
}

/// Everything is accounted for: what sources handed over, what the capture holds, what flow files hold.
fn assert_accounted(outcome: &Outcome, handed: u64, capture: &[u8], flows: &Path) {
    let ledger = &outcome.ledger;
    assert!(ledger.closes(), "{ledger:?}");
    assert_eq!(ledger.received, handed);
    assert_eq!(outcome.received.iter().sum::<u64>(), handed);
    let mut serials = serials(capture);
    let [kept, records] = &outcome.sinks[..] else {
        panic!("{:?}", outcome.sinks)
    };
    assert!(kept.closes() && records.closes(), "{:?}", outcome.sinks);
    assert_eq!(kept.offered, ledger.delivered);
    assert_eq!(serials.len() as u64, kept.written, "{kept:?}");
    assert_eq!((kept.waiting, records.waiting), (0, 0));
    for worker in 0..outcome.received.len() as u64 {
        let own = serials.iter().filter(|serial| **serial >> 32 == worker);
        assert!(own.is_sorted(), "worker {worker} keeps its order");
    }
    serials.sort_unstable();
    serials.dedup();
    assert_eq!(serials.len() as u64, kept.written, "nothing twice");
    let lines = std::fs::read_to_string(flows).unwrap().lines().count();
    assert_eq!(lines as u64, records.written);
    assert_eq!(outcome.flow_records, records.offered);
    assert_eq!(outcome.errors().count(), 0);
}

/// Nobody reads until all has been received: queues are full, packets are dropped and counted, and
/// receiving goes on.
#[test]
fn full_queues_drop_and_count() {
    let dir = tempfile::tempdir().unwrap();
    let flows = dir.path().join("flows");
    let (mut pipeline, reader) = pipeline(3, WhenFull::Drop, &flows);
    let handed = AtomicU64::new(0);
    let counts = [5000, 4000, 1000];
    let all: u64 = counts.iter().sum();
    let mut sources = bursts(&counts, 9000, &handed);
    let stop = Stop::new();
    let (outcome, capture) = thread::scope(|scope| {
        let reading = scope.spawn(|| {
            while handed.load(Ordering::Relaxed) < all {
                thread::sleep(Duration::from_millis(1));
            }
            stop.order(Why::TimeIsUp);
            read_all(reader)
        });
        pipeline.feed(&mut sources, &stop, None, |_| {}).unwrap();
        (pipeline.finish(0), reading.join().unwrap())
    });
    assert_accounted(&outcome, all, &capture, &flows);
    let capture = &outcome.sinks[0];
    assert!(capture.lost() > 0, "{capture:?}");
    assert!(
        capture
            .dropped()
            .all(|(why, count)| why == Missing::Queue || count == 0)
    );
    assert_eq!(outcome.ledger.delivered, all);
}

/// The reader takes a little at a time while somebody asks how things are; then all is stopped while
/// packets still come.
#[test]
fn a_stop_in_the_middle_with_questions() {
    let dir = tempfile::tempdir().unwrap();
    let flows = dir.path().join("flows");
    let (mut pipeline, mut reader) = pipeline(3, WhenFull::Drop, &flows);
    let orders = pipeline.orders();
    let watch = pipeline.watch();
    let handed = AtomicU64::new(0);
    let mut sources = bursts(&[u64::MAX, 3, u64::MAX], 300, &handed);
    let stop = Stop::new();
    let begun = Instant::now();
    let (outcome, capture) = thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut capture = Vec::new();
            let mut some = [0; 50_000];
            loop {
                match reader.read(&mut some).unwrap() {
                    0 => return capture,
                    len => capture.extend(&some[..len]),
                }
                if begun.elapsed() < Duration::from_millis(300) {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        scope.spawn(|| {
            let mut before = 0;
            while begun.elapsed() < Duration::from_millis(300) {
                let interim = ask(&orders, &watch);
                let received = interim.outcome.ledger.received;
                if interim.silent == 0 {
                    assert!(interim.outcome.ledger.closes());
                    assert!(interim.outcome.sinks.iter().all(Account::closes));
                    assert!(received >= before, "counts only grow");
                    before = received;
                }
            }
            stop.order(Why::TimeIsUp);
        });
        pipeline.feed(&mut sources, &stop, None, |_| {}).unwrap();
        (pipeline.finish(0), reading.join().unwrap())
    });
    let handed = handed.load(Ordering::Relaxed);
    assert_accounted(&outcome, handed, &capture, &flows);
}

/// Exactly so many are delivered, however the frames are spread over the sources, and the run ends by
/// itself.
#[test]
fn a_count_is_met_exactly() {
    let dir = tempfile::tempdir().unwrap();
    for count in [0, 1, 63, 65, 200, 1000] {
        for spread in [[1000, 1000, 1000], [0, 5, 995], [0, 0, 1000], [400, 0, 600]] {
            let flows = dir.path().join(format!("flows-{count}-{spread:?}"));
            let (mut pipeline, reader) = pipeline(3, WhenFull::Drop, &flows);
            let handed = AtomicU64::new(0);
            let mut sources = bursts(&spread, 100, &handed);
            let (outcome, capture) = thread::scope(|scope| {
                let reading = scope.spawn(|| read_all(reader));
                let never = Stop::new();
                let ended = pipeline.feed(&mut sources, &never, Some(count), |_| {});
                ended.unwrap();
                (pipeline.finish(0), reading.join().unwrap())
            });
            let handed = handed.load(Ordering::Relaxed);
            assert_accounted(&outcome, handed, &capture, &flows);
            assert_eq!(outcome.ledger.delivered, count, "{spread:?}");
        }
    }
}

/// The reader of the capture goes away: flow records go on, and what did not reach it is not called written.
#[test]
fn a_reader_that_goes_away_stops_no_other_sink() {
    let dir = tempfile::tempdir().unwrap();
    let flows = dir.path().join("flows");
    let (mut pipeline, mut reader) = pipeline(2, WhenFull::Drop, &flows);
    let watch = pipeline.watch();
    let handed = AtomicU64::new(0);
    let mut sources = bursts(&[u64::MAX, u64::MAX], 1400, &handed);
    let stop = Stop::new();
    let outcome = thread::scope(|scope| {
        scope.spawn(|| {
            let mut some = vec![0; 300_000];
            reader.read_exact(&mut some).unwrap();
            drop(reader);
            while watch.standings().all(|(.., standing)| standing.lost == 0) {
                thread::sleep(Duration::from_millis(1));
            }
            stop.order(Why::Fault);
        });
        pipeline.feed(&mut sources, &stop, None, |_| {}).unwrap();
        assert!(!pipeline.has_failed());
        pipeline.finish(0)
    });
    let ledger = &outcome.ledger;
    assert!(ledger.closes(), "{ledger:?}");
    assert_eq!(ledger.received, handed.load(Ordering::Relaxed));
    let [kept, records] = &outcome.sinks[..] else {
        panic!("{:?}", outcome.sinks)
    };
    assert!(kept.closes() && records.closes(), "{:?}", outcome.sinks);
    let left = kept.dropped().find(|(why, _)| *why == Missing::ReaderLeft);
    assert!(left.unwrap().1 > 0, "{kept:?}");
    assert!(kept.errors.iter().any(SinkError::is_closed_pipe));
    assert_eq!((records.lost(), records.errors.len()), (0, 0));
    assert!(records.written > 0);
}

/// With no sink left that works the run ends by itself.
#[test]
fn without_a_sink_that_works_the_run_ends() {
    let (reader, writer) = std::io::pipe().unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", writer.as_raw_fd()));
    let sinks = Sinks {
        capture: None,
        flows: vec![
            FlowFile::create(
                FlowFormat::JsonLines,
                &path,
                Creation::default(),
                &Stop::new(),
            )
            .unwrap()
            .into(),
        ],
        ..Sinks::default()
    };
    drop((reader, writer));
    let settings = WorkerSettings {
        flows: true,
        max_flows: 1,
        ..WorkerSettings::default()
    };
    let mut pipeline = Pipeline::start(settings, sinks, sharing(1, WhenFull::Drop)).unwrap();
    let handed = AtomicU64::new(0);
    let mut sources = bursts(&[u64::MAX], 100, &handed);
    let never = Stop::new();
    pipeline.feed(&mut sources, &never, None, |_| {}).unwrap();
    assert!(pipeline.has_failed());
    let outcome = pipeline.finish(0);
    assert!(outcome.sinks[0].closes(), "{:?}", outcome.sinks);
    assert_eq!(outcome.sinks[0].written, 0);
}

/// A file waits for its reader: nothing is dropped, and the order is that of the file.
#[test]
fn a_replay_waits_for_a_slow_reader() {
    const RECORDS: u64 = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let flows = dir.path().join("flows");
    // pcap with nanosecond times: magic, version, snap length, Ethernet.
    let mut input = Vec::new();
    for word in [0xa1b2_3c4du32, 2 | 4 << 16, 0, 0, 65_535, 1] {
        input.extend(word.to_ne_bytes());
    }
    let headers = OuterHeaders {
        ips: OuterIps::new([192, 0, 2, 1].into(), [192, 0, 2, 2].into()).unwrap(),
        src_port: 50_000,
        dst_port: 4789,
    };
    for serial in 0..RECORDS {
        let payload = payload(serial, 300);
        let mut record = Vec::new();
        headers.append_to(payload.len(), &mut record).unwrap();
        record.extend(payload);
        let len = record.len() as u32;
        for word in [1, serial as u32, len, len] {
            input.extend(word.to_ne_bytes());
        }
        input.extend(record);
    }
    let (mut pipeline, mut reader) = pipeline(3, WhenFull::Wait, &flows);
    let orders = pipeline.orders();
    let watch = pipeline.watch();
    let mut file = CaptureFile::from_reader("in.pcap".to_owned(), Cursor::new(input)).unwrap();
    let done = AtomicBool::new(false);
    let (outcome, capture) = thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut capture = Vec::new();
            let mut some = [0; 100_000];
            loop {
                match reader.read(&mut some).unwrap() {
                    0 => return capture,
                    len => capture.extend(&some[..len]),
                }
                thread::sleep(Duration::from_micros(500));
            }
        });
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                ask(&orders, &watch);
                thread::sleep(Duration::from_millis(1));
            }
        });
        pipeline.replay(&mut file, &Stop::new()).unwrap();
        done.store(true, Ordering::Relaxed);
        (pipeline.finish(0), reading.join().unwrap())
    });
    assert!(
        outcome.received.iter().all(|share| *share > 0),
        "{:?}",
        outcome.received
    );
    assert_eq!(serials(&capture), (0..RECORDS).collect::<Vec<_>>());
    assert_eq!(outcome.ledger.delivered, RECORDS);
    // One number for all here: the workers are told apart by the hash.
    assert_accounted(&outcome, RECORDS, &capture, &flows);
}

/// Quiet at first, though its frames have come: as a ring is before its block is handed over.
struct Behind<'a> {
    quiet: u32,
    burst: Burst<'a>,
}

impl Source for Behind<'_> {
    type Error = Infallible;

    fn next_batch(
        &mut self,
        most: usize,
        each: impl FnMut(Arrival<'_>),
    ) -> Result<Progress, Infallible> {
        if self.quiet > 0 {
            self.quiet -= 1;
            return Ok(Progress::Idle);
        }
        self.burst.next_batch(most, each)
    }

    fn lag_ns(&self) -> u64 {
        500_000_000
    }
}

#[test]
fn a_stopped_run_takes_what_could_not_be_seen_yet() {
    let dir = tempfile::tempdir().unwrap();
    let (mut pipeline, reader) = pipeline(1, WhenFull::Drop, &dir.path().join("flows"));
    let reading = thread::spawn(move || read_all(reader));
    let handed = AtomicU64::new(0);
    let mut sources = bursts(&[200], 80, &handed)
        .into_iter()
        .map(|burst| Behind { quiet: 3, burst })
        .collect::<Vec<_>>();
    let stop = Stop::new();
    stop.order(Why::TimeIsUp);
    pipeline.feed(&mut sources, &stop, None, |_| {}).unwrap();
    let outcome = pipeline.finish(0);
    assert_eq!(outcome.ledger.received, 200);
    assert!(outcome.ledger.closes());
    reading.join().unwrap();
}

/// What cannot be worked on within five seconds is counted all the same, packet by packet.
#[test]
fn a_stopped_run_counts_what_it_has_no_time_for() {
    let dir = tempfile::tempdir().unwrap();
    let flows = dir.path().join("flows");
    let (mut pipeline, reader) = pipeline(1, WhenFull::Drop, &flows);
    let reading = thread::spawn(move || read_all(reader));
    let handed = AtomicU64::new(0);
    let bursts = bursts(&[10_000], 80, &handed).into_iter();
    // So slow that the time for what arrived before the end runs out; then quick again.
    let slow = bursts.map(|mut burst| {
        let mut naps = 0..3;
        By(move |most, each: &mut dyn FnMut(Arrival<'_>)| {
            if naps.next().is_some() {
                thread::sleep(Duration::from_millis(2600));
            }
            burst.next_batch(most, each).unwrap()
        })
    });
    let mut sources: Vec<_> = slow.collect();
    let stop = Stop::new();
    stop.order(Why::TimeIsUp);
    pipeline.feed(&mut sources, &stop, None, |_| {}).unwrap();
    let outcome = pipeline.finish(0);
    assert_accounted(&outcome, 10_000, &reading.join().unwrap(), &flows);
    let unread = outcome.ledger.dropped()["stopped"];
    assert!(outcome.ledger.delivered > 0 && unread > 9_000, "{unread}");
}

/// Takes from several places: times of arrival go back within blocks of fifty, which batches cut apart. It
/// promises what it has, block by block.
struct Jittery {
    begun_ns: u64,
    /// Packets handed over.
    next: u64,
    end: u64,
}

const BLOCK: u64 = 50;
const APART_NS: u64 = 10_000;

impl Source for Jittery {
    type Error = Infallible;

    fn next_batch(
        &mut self,
        most: usize,
        mut each: impl FnMut(Arrival<'_>),
    ) -> Result<Progress, Infallible> {
        let end = self.end.min(self.next + 30.min(most as u64));
        if end == self.next {
            return Ok(Progress::End);
        }
        for number in self.next..end {
            let (block, place) = (number / BLOCK, number % BLOCK);
            let serial = block * BLOCK + (BLOCK - 1 - place);
            let payload = payload(serial, 300);
            each(arrival(self.begun_ns + serial * APART_NS, &payload));
        }
        self.next = end;
        Ok(Progress::Batch)
    }

    fn settled_ns(&mut self, _looked_ns: u64) -> u64 {
        self.begun_ns + self.next / BLOCK * BLOCK * APART_NS
    }
}

/// Files are in time order, whatever the order in which the kernel hands packets over.
#[test]
fn times_that_go_back_are_put_in_order() {
    let dir = tempfile::tempdir().unwrap();
    for workers in [1, 2] {
        let sharing = Sharing {
            // However slow this machine is: nobody is given up.
            max_reorder: Duration::from_secs(600),
            ..sharing(workers, WhenFull::Drop)
        };
        let (mut pipeline, reader) = pipeline_of(sharing, &dir.path().join("flows"));
        let mut sources: Vec<_> = (0..u64::from(workers))
            .map(|_| Jittery {
                begun_ns: now_ns() / APART_NS * APART_NS,
                next: 0,
                end: 3000,
            })
            .collect();
        let reading = thread::spawn(move || read_all(reader));
        let never = Stop::new();
        pipeline.feed(&mut sources, &never, None, |_| {}).unwrap();
        let outcome = pipeline.finish(0);
        let capture = reading.join().unwrap();
        let times: Vec<u64> = records(&capture)
            .into_iter()
            .map(|(ts_ns, _)| ts_ns)
            .collect();
        assert_eq!(times.len() as u64, 3000 * u64::from(workers));
        assert!(times.is_sorted(), "{workers} workers");
        assert!(outcome.ledger.noted().is_empty(), "{:?}", outcome.ledger);
    }
}

/// Neither do the others wait for what the broken one took on, nor does the run pass for a good one.
#[test]
fn a_worker_that_panics_ends_the_run() {
    for broken in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let (mut pipeline, _reader) = pipeline(3, WhenFull::Drop, &dir.path().join("flows"));
        // They keep quiet; one fails in a way that it should not.
        let mut sources = [0, 1, 2].map(|worker| {
            By(move |_, _: &mut dyn FnMut(Arrival<'_>)| {
                if worker == broken {
                    // Not `panic!`: what the hook prints would look like a failure.
                    std::panic::resume_unwind(Box::new("broken on purpose"));
                }
                thread::sleep(Duration::from_millis(1));
                Progress::Idle
            })
        });
        let stop = Stop::new();
        let (ended, end) = std::sync::mpsc::channel::<()>();
        thread::scope(|scope| {
            let stop = &stop;
            scope.spawn(move || {
                // Long after a run that ends by itself.
                let timed_out = end.recv_timeout(Duration::from_secs(20)).is_err();
                if timed_out {
                    stop.order(Why::TimeIsUp);
                }
            });
            let fed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                pipeline.feed(&mut sources, stop, Some(10), |_| {})
            }));
            ended.send(()).unwrap_or_default();
            assert!(fed.is_err(), "worker {broken}");
            assert!(
                stop.ordered().is_none_or(|order| order.why == Why::Fault),
                "worker {broken} kept the others"
            );
        });
    }
}

/// Hands over some frames and then fails, or keeps quiet.
struct MayFail<'a> {
    burst: Burst<'a>,
    fails: bool,
}

impl Source for MayFail<'_> {
    type Error = &'static str;

    fn next_batch(
        &mut self,
        most: usize,
        each: impl FnMut(Arrival<'_>),
    ) -> Result<Progress, Self::Error> {
        if self.fails && self.burst.next == self.burst.end {
            return Err("the interface is gone");
        }
        self.burst
            .next_batch(most, each)
            .map_err(|never| match never {})
    }
}

/// Nobody reads its share of the traffic any more: the others do not go on as if nothing had happened, and what
/// came before is kept.
#[test]
fn a_source_that_fails_ends_the_run() {
    for broken in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let flows = dir.path().join("flows");
        let (mut pipeline, reader) = pipeline(3, WhenFull::Drop, &flows);
        let reading = thread::spawn(move || read_all(reader));
        let handed = AtomicU64::new(0);
        let bursts = (0..).zip(bursts(&[20, 30, 40], 100, &handed));
        let mut sources: Vec<_> = bursts
            .map(|(worker, burst)| MayFail {
                burst,
                fails: worker == broken,
            })
            .collect();
        let stop = Stop::new();
        let (ended, end) = std::sync::mpsc::channel::<()>();
        let fed = thread::scope(|scope| {
            let stop = &stop;
            scope.spawn(move || {
                // Long after a run that ends by itself.
                if end.recv_timeout(Duration::from_secs(20)).is_err() {
                    stop.order(Why::TimeIsUp);
                }
            });
            let fed = pipeline.feed(&mut sources, stop, None, |_| {});
            ended.send(()).unwrap_or_default();
            fed
        });
        assert_eq!(fed, Err("the interface is gone"), "worker {broken}");
        let why = stop.ordered().map(|order| order.why);
        assert_eq!(why, Some(Why::Fault), "worker {broken} kept the others");
        let outcome = pipeline.finish(0);
        let handed = handed.load(Ordering::Relaxed);
        assert!(handed >= [20, 30, 40][broken as usize]);
        assert_accounted(&outcome, handed, &reading.join().unwrap(), &flows);
    }
}

/// Tells what end it was given.
struct Ends<'a> {
    /// Times of packets it has.
    times_ns: &'a [u64],
    end_ns: Option<u64>,
}

impl Source for Ends<'_> {
    type Error = Infallible;

    fn next_batch(
        &mut self,
        _most: usize,
        mut each: impl FnMut(Arrival<'_>),
    ) -> Result<Progress, Infallible> {
        for ts_ns in std::mem::take(&mut self.times_ns) {
            each(arrival(*ts_ns, &payload(*ts_ns, 100)));
        }
        Ok(match self.end_ns {
            Some(_) => Progress::End,
            None => Progress::Idle,
        })
    }

    fn end_at(&mut self, at_ns: u64) {
        self.end_ns = Some(at_ns);
    }
}

/// A worker that has taken a packet from behind the order goes on up to that one, so that there is no hole before
/// it.
#[test]
fn the_end_is_not_before_a_packet_that_was_taken() {
    let second = 1_000_000_000;
    let ordered_ns = 500 * second;
    let cases: [(&[u64], u64); 3] = [
        (&[], ordered_ns),
        (&[499 * second], ordered_ns),
        (&[499 * second, 502 * second, 501 * second], 502 * second),
    ];
    for (times_ns, end_ns) in cases {
        let dir = tempfile::tempdir().unwrap();
        let (mut pipeline, reader) = pipeline(1, WhenFull::Drop, &dir.path().join("flows"));
        let reading = thread::spawn(move || read_all(reader));
        let mut sources = [Ends {
            times_ns,
            end_ns: None,
        }];
        let stop = Stop::new();
        stop.order_at(ordered_ns, Why::TimeIsUp);
        pipeline.feed(&mut sources, &stop, None, |_| {}).unwrap();
        let outcome = pipeline.finish(0);
        assert_eq!(sources[0].end_ns, Some(end_ns));
        assert_eq!(outcome.ledger.delivered, times_ns.len() as u64);
        reading.join().unwrap();
    }
}

/// Nothing comes. Tells whether the time given as that before the look at it was one.
struct Looked {
    looks: u32,
    asked_ns: u64,
    too_late: u32,
    none: u32,
}

impl Source for Looked {
    type Error = Infallible;

    fn next_batch(
        &mut self,
        _most: usize,
        _each: impl FnMut(Arrival<'_>),
    ) -> Result<Progress, Infallible> {
        self.asked_ns = now_ns();
        self.looks -= 1;
        if self.looks == 0 {
            return Ok(Progress::End);
        }
        // A packet may come now, and is not seen any more by this look.
        thread::sleep(Duration::from_millis(1));
        Ok(Progress::Idle)
    }

    fn settled_ns(&mut self, looked_ns: u64) -> u64 {
        self.too_late += u32::from(looked_ns > self.asked_ns);
        self.none += u32::from(looked_ns == 0);
        0
    }
}

/// What a worker promises rests on a time before it looked, also where it waits behind a look in vain because the
/// frames wanted are nearly all taken.
#[test]
fn the_clock_is_read_before_the_source() {
    for count in [None, Some(1), Some(1000)] {
        let dir = tempfile::tempdir().unwrap();
        let (mut pipeline, reader) = pipeline(2, WhenFull::Drop, &dir.path().join("flows"));
        let reading = thread::spawn(move || read_all(reader));
        let mut sources = [30, 30].map(|looks| Looked {
            looks,
            asked_ns: 0,
            too_late: 0,
            none: 0,
        });
        let never = Stop::new();
        pipeline.feed(&mut sources, &never, count, |_| {}).unwrap();
        pipeline.finish(0);
        reading.join().unwrap();
        for source in sources {
            assert_eq!((source.looks, source.too_late, source.none), (0, 0, 0));
        }
    }
}

/// Nobody reads before the run has ended, with queues that are full: what waits then is written all the same, for
/// every worker.
#[test]
fn a_reader_that_stood_still_until_the_end_gets_the_rest() {
    for workers in [1, 3] {
        let dir = tempfile::tempdir().unwrap();
        let flows = dir.path().join("flows");
        let (mut pipeline, reader) = pipeline(workers, WhenFull::Drop, &flows);
        let handed = AtomicU64::new(0);
        let counts = &[20_000, 15_000, 10_000][..workers as usize];
        let all = counts.iter().sum();
        let stop = Stop::new();
        let mut sources = bursts(counts, 9000, &handed);
        let (outcome, capture) = thread::scope(|scope| {
            scope.spawn(|| {
                while handed.load(Ordering::Relaxed) < all {
                    thread::sleep(Duration::from_millis(1));
                }
                stop.order(Why::TimeIsUp);
            });
            pipeline.feed(&mut sources, &stop, None, |_| {}).unwrap();
            let reading = scope.spawn(|| read_all(reader));
            (pipeline.finish(0), reading.join().unwrap())
        });
        assert_accounted(&outcome, all, &capture, &flows);
        let capture = &outcome.sinks[0];
        assert!(capture.lost() > 0, "{capture:?}");
        assert!(
            capture
                .dropped()
                .all(|(why, count)| why == Missing::Queue || count == 0),
            "{capture:?}"
        );
    }
}
