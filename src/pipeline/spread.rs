//! Replay on several workers: the thread that reads a file frames its records and tells by a hash which
//! worker each is for; the workers do the rest.
//!
//! Every worker sees every chunk and takes its own records out of it, so the bytes are copied once. The
//! hash is of the flow's key: unlike [`crate::bpf::steer`], which steers live traffic, it sees ports behind
//! extension headers and whatever else the reader of inner frames understands.

use std::convert::Infallible;
use std::hash::BuildHasher;
use std::sync::Arc;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::bpf::steer::Steering;
use crate::flow::key::FlowKey;
use crate::mirror::session::SessionId;
use crate::source::{Arrival, Progress, Record, Source, Told};
use crate::wire::decapsulate::{Tunnels, decapsulate};
use crate::wire::inner::Inner;
use crate::wire::numbers::ether_type;
use crate::wire::outer::{self, LinkType, Outer};
use crate::wire::vxlan::Payload;

/// Bytes of a chunk.
const CHUNK_LEN: usize = 256 << 10;
/// Records of a chunk, at most.
const CHUNK_RECORDS: usize = 4096;

/// Records on their way to the workers.
#[derive(Default)]
pub struct Chunk {
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
    told: Vec<Told>,
}

struct Piece {
    worker: u32,
    ts_ns: u64,
    link: LinkType,
    at: usize,
    len: usize,
    orig_len: u32,
    order: u64,
    /// What its file says of it: a place in `told`.
    told: Option<u32>,
}

impl Chunk {
    /// Whether it is time to pass it on.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= CHUNK_LEN || self.pieces.len() >= CHUNK_RECORDS
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Empties it for its next round.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.pieces.clear();
        self.told.clear();
    }

    /// Adds a record for `worker`.
    pub fn add(&mut self, worker: u32, record: &Record<'_>) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(record.bytes);
        let told = record.told.map(|told| {
            self.told.push(*told);
            // At most CHUNK_RECORDS.
            self.told.len() as u32 - 1
        });
        self.pieces.push(Piece {
            worker,
            ts_ns: record.ts_ns,
            link: record.link,
            at,
            len: record.bytes.len(),
            orig_len: record.orig_len,
            order: record.order,
            told,
        });
    }
}

/// Tells which worker a record is for: all packets of a flow go to one, whatever stands in front of their IP
/// headers. What a frame shows is read as the worker will read it.
pub struct Guide {
    steering: Steering,
    tunnels: Tunnels,
    plain: bool,
    hasher: foldhash::fast::FixedState,
    /// Room to put an Ethernet header in front of a bare IP packet.
    scratch: Vec<u8>,
}

impl Guide {
    /// For packets that are in these tunnels, or in none.
    pub fn new(steering: Steering, tunnels: Tunnels, plain: bool) -> Self {
        Self {
            steering,
            tunnels,
            plain,
            hasher: foldhash::fast::FixedState::default(),
            scratch: Vec::new(),
        }
    }

    /// The number of the worker for `record`.
    pub fn worker_for(&mut self, record: &Record<'_>) -> u32 {
        if self.plain {
            return match record.link {
                LinkType::Ethernet => self.by_flow(record.bytes),
                link => link.strip(record.bytes).map_or(0, |link| {
                    self.by_flow_of_packet(link.ether_type, link.payload)
                }),
            };
        }
        let cut = record.orig_len as usize > record.bytes.len();
        // Fragments go to one worker, where their pieces meet; what is refused can be counted anywhere.
        let Ok(Outer::Udp(udp)) = outer::read(record.link, record.bytes, cut) else {
            return 0;
        };
        match decapsulate(&self.tunnels, &udp) {
            Ok(mirrored) => match mirrored.payload {
                Payload::Ethernet => self.by_flow(mirrored.bytes),
                Payload::Ipv4 => self.by_flow_of_packet(ether_type::IPV4, mirrored.bytes),
                Payload::Ipv6 => self.by_flow_of_packet(ether_type::IPV6, mirrored.bytes),
            },
            Err(_) => 0,
        }
    }

    /// The session is left out: copies of a packet from two mirror sources meet.
    fn by_flow(&self, frame: &[u8]) -> u32 {
        let mut inner = Inner::default();
        inner.fill_in(frame);
        match FlowKey::of(SessionId(0), None, &inner) {
            Some((key, _)) => {
                let hash = self.hasher.hash_one(key);
                (hash >> 32) as u32 % self.steering.workers.max(1)
            }
            None => self.steering.worker_of_frame(frame),
        }
    }

    fn by_flow_of_packet(&mut self, ether_type: u16, packet: &[u8]) -> u32 {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.extend_from_slice(&[0; 12]);
        scratch.extend_from_slice(&ether_type.to_be_bytes());
        scratch.extend_from_slice(packet);
        let worker = self.by_flow(&scratch);
        self.scratch = scratch;
        worker
    }
}

/// One worker's view of the chunks.
pub struct ChunkSource {
    worker: u32,
    chunks: Receiver<Arc<Chunk>>,
    /// Takes back a chunk that every worker is done with.
    empty: Sender<Chunk>,
}

impl ChunkSource {
    /// For worker number `worker`.
    pub const fn new(worker: u32, chunks: Receiver<Arc<Chunk>>, empty: Sender<Chunk>) -> Self {
        Self {
            worker,
            chunks,
            empty,
        }
    }
}

impl Source for ChunkSource {
    type Error = Infallible;

    fn next_batch(
        &mut self,
        _most: usize,
        mut each: impl FnMut(Arrival<'_>),
    ) -> Result<Progress, Infallible> {
        let chunk = match self
            .chunks
            .recv_timeout(std::time::Duration::from_millis(10))
        {
            Ok(chunk) => chunk,
            Err(RecvTimeoutError::Timeout) => return Ok(Progress::Idle),
            Err(RecvTimeoutError::Disconnected) => return Ok(Progress::End),
        };
        for piece in chunk
            .pieces
            .iter()
            .filter(|piece| piece.worker == self.worker)
        {
            each(Arrival::Record(Record {
                ts_ns: piece.ts_ns,
                link: piece.link,
                bytes: chunk
                    .bytes
                    .get(piece.at..piece.at + piece.len)
                    .unwrap_or_default(),
                orig_len: piece.orig_len,
                order: piece.order,
                told: piece.told.and_then(|at| chunk.told.get(at as usize)),
            }));
        }
        let last = chunk.pieces.last().map_or(0, |piece| piece.order);
        if let Some(chunk) = Arc::into_inner(chunk) {
            let _ = self.empty.try_send(chunk);
        }
        Ok(Progress::UpTo(last))
    }
}
