//! Live views: whoever connects to a tee sees the packets of the run from then on, as one pcapng stream
//! (pcap-over-IP, Wireshark's `TCP@host:port`).
//!
//! `stream` is what all viewers see, and what one of them missed (pure). [`Views`] stands in the thread of the
//! capture, behind the merge: it copies packets only while somebody looks, and puts them into the bounded queue of
//! each viewer. `tee` has the sockets: a thread for each tee and one for each viewer.

pub mod stream;
pub mod tee;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::Sender;

use stream::{Chunk, Given, Stream};
use tee::{Joined, Piece, Tees, Viewer};

use crate::mirror::inventory::Inventory;
use crate::pcap::record::{BATCH_LEN, Batch};
use crate::pcap::section::About;

/// Most bytes that wait for a viewer, and for all of them together.
pub const MOST_WAITING: usize = 8 << 20;
/// Most memory that views take.
pub const MEMORY_BYTES: usize = tee::MOST_VIEWERS * MOST_WAITING;

/// What a viewer that is too slow means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenSlow {
    /// It misses packets, which it is told: the network does not wait.
    Miss,
    /// It is waited for: a file can be read later.
    Wait,
}

/// The views of a run, as the capture feeds them.
pub struct Views {
    tees: Arc<Tees>,
    stream: Stream,
    seats: Vec<Seat>,
    when_slow: WhenSlow,
}

/// A viewer, as the capture sees it.
struct Seat {
    viewer: Arc<Viewer>,
    queue: Sender<Piece>,
    /// Bytes of what the stream has described that it has got.
    described: usize,
    given: Given,
}

impl Views {
    /// Interfaces that are described from now on are called so.
    pub fn know(&mut self, inventory: &Arc<Inventory>) {
        self.stream.know(inventory);
    }

    /// Behind these tees. `about` is told of the stream.
    pub fn new(tees: Tees, about: About, when_slow: WhenSlow) -> Self {
        Self {
            tees: Arc::new(tees),
            stream: Stream::new(about),
            seats: Vec::new(),
            when_slow,
        }
    }

    /// The tees, for those who count and end them.
    pub fn tees(&self) -> &Arc<Tees> {
        &self.tees
    }

    /// Shows records of `worker`, in the order of `records`, which are places in the batch.
    pub fn append(&mut self, worker: usize, batch: &Batch, records: Range<usize>) {
        self.stream.introduce(worker, &batch.new_sessions);
        self.tick();
        if self.seats.is_empty() {
            return;
        }
        if records.start == 0 {
            self.tell_no_room(worker, batch);
        }
        let records = batch.records.get(records).unwrap_or_default();
        self.stream.append(worker, &batch.bytes, records);
        if self.stream.waiting() >= BATCH_LEN {
            self.hand_out();
        }
    }

    /// Takes what a batch tells of frames that found no room in the queue of the capture.
    pub fn tell_no_room(&mut self, worker: usize, batch: &Batch) {
        self.stream.introduce(worker, &batch.new_sessions);
        if self.seats.is_empty() || batch.no_room.is_empty() {
            return;
        }
        // What was before them goes first.
        self.hand_out();
        for (id, frames) in &batch.no_room {
            let interface = self.stream.interface(worker, *id);
            for seat in &mut self.seats {
                seat.miss(interface, *frames);
            }
        }
    }

    /// Shows a block that is neither a packet nor describes an interface; who joins later gets it too.
    pub fn put_block(&mut self, block: &[u8]) {
        self.hand_out();
        self.stream.put_block(block);
    }

    /// Hands out what is gathered.
    pub fn flush(&mut self) {
        self.hand_out();
    }

    /// Takes in who has connected, and lets go who has left.
    pub fn tick(&mut self) {
        self.seats.retain(|seat| !seat.viewer.has_left());
        while let Some(joined) = self.tees.joined() {
            self.seat(joined);
        }
    }

    /// Nobody brings more: hands out the rest, and ends the stream of every viewer.
    pub fn close(&mut self) {
        self.tick();
        self.hand_out();
        self.stream.end();
        for seat in self.seats.drain(..) {
            seat.end(self.stream.described(), self.when_slow);
        }
    }

    fn seat(&mut self, joined: Joined) {
        let Joined { viewer, queue } = joined;
        if self.seats.is_empty() {
            // Nobody knows the interfaces that were there before.
            self.stream.begin();
        }
        // What came before it is not for it.
        self.hand_out();
        let mut seat = Seat {
            viewer,
            queue,
            described: 0,
            given: Given::default(),
        };
        let nothing = Arc::new(Chunk::default());
        if seat.offer(self.stream.described(), &nothing, self.when_slow) {
            self.seats.push(seat);
        }
    }

    fn hand_out(&mut self) {
        if self.stream.waiting() == 0 {
            return;
        }
        let chunk = Arc::new(self.stream.take());
        let (described, when_slow) = (self.stream.described(), self.when_slow);
        self.seats
            .retain_mut(|seat| seat.offer(described, &chunk, when_slow));
    }
}

impl Seat {
    /// Offers packets, behind what they need to be understood; `false` when the viewer has left.
    fn offer(&mut self, described: &[u8], chunk: &Arc<Chunk>, when_slow: WhenSlow) -> bool {
        if self.viewer.has_left() {
            return false;
        }
        let packets = chunk.packets();
        let lacks = described.get(self.described..).unwrap_or_default();
        let len = lacks.len() + chunk.bytes.len();
        self.viewer.offered(packets);
        if when_slow == WhenSlow::Miss && !self.has_room(len) {
            self.given.note_missed(chunk);
            self.viewer.missed(packets);
            return true;
        }
        self.given.note_got(chunk);
        let chunk = match self.given.is_to_tell() {
            false => Arc::clone(chunk),
            true => Arc::new(chunk.telling(&mut self.given)),
        };
        self.described = described.len();
        let is_there = self.put(lacks, chunk);
        if !is_there {
            self.viewer.left_behind(packets);
        }
        is_there
    }

    /// Puts a piece into the queue, in which there is a place: nobody else puts anything in. A viewer that does not
    /// take it has left.
    fn put(&self, before: &[u8], chunk: Arc<Chunk>) -> bool {
        let piece = Piece {
            described: before.into(),
            chunk,
        };
        let waiting = &self.viewer.waiting;
        waiting.fetch_add(piece.len(), Ordering::Relaxed);
        self.queue.send(piece).is_ok()
    }

    /// Ends its stream, with the statistics of each interface, if there is room for that.
    fn end(self, described: &[u8], when_slow: WhenSlow) {
        let lacks = described.get(self.described..).unwrap_or_default();
        let end = [lacks, &self.given.statistics()].concat();
        if when_slow == WhenSlow::Wait || self.has_room(end.len()) {
            self.put(&end, Arc::default());
        }
    }

    /// Whether so many bytes may wait too. What is larger than all there may be goes alone.
    fn has_room(&self, len: usize) -> bool {
        let waiting = self.viewer.waiting.load(Ordering::Relaxed);
        let fits = waiting == 0 || waiting + len <= MOST_WAITING;
        fits && !self.queue.is_full()
    }

    /// Packets of an interface found no room before they got here.
    fn miss(&mut self, interface: u32, packets: u64) {
        self.viewer.offered(packets);
        self.viewer.missed(packets);
        self.given.add_missed(interface, packets);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;
    use crate::mirror::direction::Direction;
    use crate::mirror::session::SessionId;
    use crate::pcap::cut_by::CutBy;
    use crate::pcap::record::{CaptureRecord, Format};
    use crate::wire::length::{FrameLen, Verdict};

    fn batch(frames: usize) -> Batch {
        let mut batch = Batch::default();
        for place in 0..frames {
            let lengths = FrameLen {
                captured: 1000,
                orig: 1000,
            };
            let record = CaptureRecord {
                session: SessionId(0),
                place: place as u64,
                ts_ns: place as u64,
                frame: &[7; 1000],
                lengths,
                verdict: Verdict::Whole,
                direction: Direction::Unknown,
                is_unsettled: false,
                cut_by: CutBy::Unclear,
                packet_id: None,
            };
            Format::PcapNg.encode(&record, &mut batch);
        }
        batch
    }

    fn views(when_slow: WhenSlow) -> (Views, TcpStream) {
        let address = ([127, 0, 0, 1], 0).into();
        let tees = Tees::open(&[address], when_slow).unwrap();
        let name = tees.names().next().unwrap().to_owned();
        let about = About {
            comments: Vec::new(),
            mtu: 1500,
            inventory: std::sync::Arc::default(),
        };
        let mut views = Views::new(tees, about, when_slow);
        let batch = batch(3);
        views.append(0, &batch, 0..3);
        // Nobody looks: nothing is copied.
        assert_eq!(views.stream.waiting(), 0);
        let viewer = TcpStream::connect(name.trim_start_matches("tcp://")).unwrap();
        while views.seats.is_empty() {
            views.tick();
            std::thread::yield_now();
        }
        (views, viewer)
    }

    /// However much comes, so much waits for a viewer that takes nothing; the rest is counted, the end too.
    #[test]
    fn what_waits_for_a_viewer_is_bounded() {
        let (mut views, viewer) = views(WhenSlow::Miss);
        let batch = batch(200);
        for _ in 0..200 {
            views.append(0, &batch, 0..200);
            views.flush();
        }
        let waiting = views.seats[0].viewer.waiting.load(Ordering::Relaxed);
        assert!(waiting <= MOST_WAITING + (256 << 10), "{waiting}");
        let seen = |views: &Views| views.tees.seen().next().unwrap().1;
        assert_eq!(seen(&views).offered, 40_000);
        assert!(seen(&views).no_room > 0);
        // The run ends and the viewer takes nothing: it is given up.
        views.close();
        views.tees.end(Some(Duration::from_millis(200)));
        let seen = seen(&views);
        assert!(seen.stuck > 0, "{seen:?}");
        assert_eq!(seen.offered, seen.written + seen.no_room + seen.stuck);
        drop(viewer);
    }

    /// Where viewers are waited for, one that is slow gets everything.
    #[test]
    fn a_viewer_is_waited_for() {
        let (mut views, mut viewer) = views(WhenSlow::Wait);
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            viewer.read_to_end(&mut bytes).unwrap();
            bytes.len() as u64
        });
        let batch = batch(200);
        for _ in 0..200 {
            views.append(0, &batch, 0..200);
        }
        views.close();
        views.tees.end(None);
        let seen = views.tees.seen().next().unwrap().1;
        assert_eq!((seen.offered, seen.written), (40_000, 40_000));
        assert_eq!(reader.join().unwrap(), seen.bytes);
    }
}
