//! Replay on several workers: the thread that reads a file frames its records and tells by a hash which
//! worker each is for; the workers do the rest.
//!
//! Every worker sees every chunk and takes its own records out of it, so the bytes are copied once. The
//! hash is of the flow's key: unlike [`crate::bpf::steer`], which steers live traffic, it sees ports behind
//! extension headers and whatever else the reader of inner frames understands.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use hashbrown::HashMap;

use crate::bpf::steer::Steering;
use crate::flow::intervals::Intervals;
use crate::flow::key::FlowKey;
use crate::flow::lifetime::step;
use crate::mirror::session::SessionId;
use crate::source::{Arrival, Progress, Record, Source, Told};
use crate::wire::decapsulate::{Tunnels, decapsulate};
use crate::wire::inner::Inner;
use crate::wire::ip::Fragment;
use crate::wire::numbers::ether_type;
use crate::wire::outer::{self, LinkType, Outer, OuterFragment, OuterUdp, Pieces};
use crate::wire::vxlan::Payload;

/// Bytes of a chunk.
const CHUNK_LEN: usize = 256 << 10;
/// Records of a chunk, at most.
const CHUNK_RECORDS: usize = 4096;

/// Datagrams in fragments whose worker is remembered.
const FRAGMENTED: usize = 4096;

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
    fragments: Fragments,
}

/// Which worker has the outer fragments of a datagram: that of its flow, where the first of them came first.
#[derive(Default)]
struct Fragments {
    /// By source, destination, identification and protocol: the worker, and whether a first fragment named it.
    workers: HashMap<FragmentKey, (u32, bool), foldhash::fast::RandomState>,
    order: VecDeque<FragmentKey>,
}

type FragmentKey = (IpAddr, IpAddr, u32, u8);

impl Fragments {
    /// The worker for a fragment; `by_flow` tells that of a datagram's flow from its first fragment.
    fn worker_for(&mut self, piece: &OuterFragment<'_>, by_flow: impl FnOnce() -> u32) -> u32 {
        let Fragment { id, protocol, .. } = piece.fragment;
        let key = (piece.src, piece.dst, id, protocol);
        let is_first = piece.fragment.offset == 0;
        let known = self.workers.get(&key).copied();
        let worker = match known {
            // The same number again, of another datagram.
            Some((_, true)) if is_first => by_flow(),
            Some((worker, _)) => return worker,
            None if is_first => by_flow(),
            None => 0,
        };
        self.workers.insert(key, (worker, is_first));
        if known.is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > FRAGMENTED
            && let Some(oldest) = self.order.pop_front()
        {
            self.workers.remove(&oldest);
        }
        worker
    }
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
            fragments: Fragments::default(),
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
        match outer::read(record.link, record.bytes, cut) {
            Ok(Outer::Udp(udp)) => self.by_udp(&udp),
            // The pieces of a datagram meet at one worker.
            Ok(Outer::Fragment(piece)) => {
                let mut fragments = std::mem::take(&mut self.fragments);
                let worker = fragments.worker_for(&piece, || self.by_first_fragment(&piece));
                self.fragments = fragments;
                worker
            }
            // What is refused can be counted anywhere.
            Err(_) => 0,
        }
    }

    /// By the flow that the first fragment of a datagram shows.
    fn by_first_fragment(&mut self, piece: &OuterFragment<'_>) -> u32 {
        let Some((header, payload)) = piece.payload.split_first_chunk::<8>() else {
            return 0;
        };
        let [s0, s1, d0, d1, ..] = *header;
        self.by_udp(&OuterUdp {
            src: piece.src.into(),
            dst: piece.dst.into(),
            src_port: u16::from_be_bytes([s0, s1]),
            dst_port: u16::from_be_bytes([d0, d1]),
            payload,
            carried_len: payload.len(),
            ip_len: 0,
            pieces: Pieces::Unseen,
            length_mismatch: false,
        })
    }

    fn by_udp(&mut self, udp: &OuterUdp<'_>) -> u32 {
        match decapsulate(&self.tunnels, udp) {
            Ok(mirrored) => match mirrored.payload {
                Payload::Ethernet => self.by_flow(mirrored.bytes),
                Payload::Ipv4 => self.by_flow_of_packet(ether_type::IPV4, mirrored.bytes),
                Payload::Ipv6 => self.by_flow_of_packet(ether_type::IPV6, mirrored.bytes),
            },
            Err(_) => 0,
        }
    }

    /// Session and VLANs are left out: copies of a packet from two mirror sources meet.
    fn by_flow(&self, frame: &[u8]) -> u32 {
        let mut inner = Inner::default();
        inner.fill_in(frame);
        (inner.vlan, inner.vlan_inner) = (None, None);
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
    /// The step of time of the packet before.
    step: u64,
    intervals: Intervals,
}

impl ChunkSource {
    /// For worker number `worker`, whose flow records end with these intervals.
    pub const fn new(
        worker: u32,
        chunks: Receiver<Arc<Chunk>>,
        empty: Sender<Chunk>,
        intervals: Intervals,
    ) -> Self {
        Self {
            worker,
            chunks,
            empty,
            step: 0,
            intervals,
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
        for piece in &chunk.pieces {
            let Piece { ts_ns, order, .. } = *piece;
            let is_own = piece.worker == self.worker;
            // Time goes on for all workers at the same packets.
            let is_reached = self.intervals.reached(ts_ns).is_some();
            if is_reached || step(ts_ns) != self.step {
                self.step = step(ts_ns);
                if !is_own {
                    each(Arrival::Passed { ts_ns, order });
                }
            }
            if !is_own {
                continue;
            }
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
