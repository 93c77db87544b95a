//! Mirrored datagrams made up on the spot, a worker with its real way out, and an allocator that counts:
//! shared by `tests/hot_path.rs` and `benches/hot_path.rs`.
#![allow(
    dead_code,
    unsafe_code,
    reason = "a global allocator is unsafe to write; each program uses a part of it"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Sender, bounded};
use vxtap::pcap::record::{Batch, Format};
use vxtap::pipeline::doorbell::{Sleeper, doorbell};
use vxtap::pipeline::flow_sink::FlowChunk;
use vxtap::pipeline::outlet::{FlowQueue, QueueOutlet};
use vxtap::pipeline::queues::{FromWorker, WhenFull, queue_places};
use vxtap::pipeline::worker::{Worker, WorkerSettings};
use vxtap::source::{Arrival, Datagram};
use vxtap::wire::outer::Pieces;

/// The system's allocator, with a count of how often memory was asked for.
pub struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// How often memory was asked for so far, by all threads.
pub fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::Relaxed)
}

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises about `layout` are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: `ptr` came from the system's allocator with this layout, as above.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as for `dealloc`, and the caller's promise about `new_size` is passed on.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

/// Sizes of the inner frames, IMIX: 64, 570 and 1400 bytes at 7:4:1.
const SIZES: [usize; 12] = [64, 570, 64, 64, 570, 64, 64, 1400, 64, 570, 64, 570];
/// Mirror sources, each with a VNI of its own.
const SESSIONS: u32 = 4;
const VXLAN_LEN: usize = 8;

/// A worker that is fed datagrams of so many flows, in an order that jumps about.
pub struct Load {
    worker: Worker,
    outlet: QueueOutlet,
    full: Sleeper<FromWorker>,
    empty: Sender<Batch>,
    records: Sleeper<Arc<FlowChunk>>,
    /// One datagram of each size; addresses and ports are put in.
    datagrams: Vec<Vec<u8>>,
    /// Sequence numbers that each flow has reached, forth and back.
    sequences: Vec<[u32; 2]>,
    flows: u32,
    packets: u32,
}

impl Load {
    /// A worker with room for `max_flows`, and datagrams of `flows`.
    pub fn new(flows: u32, max_flows: u32) -> Self {
        let settings = WorkerSettings {
            capture: Some(Format::PcapNg),
            flows: true,
            max_flows,
            ..WorkerSettings::default()
        };
        let most = 8;
        let (full_tx, full) = doorbell(queue_places(1, most));
        let (empty, empty_rx) = bounded(most);
        let (records_tx, records) = doorbell(64);
        Self {
            worker: Worker::new(settings),
            outlet: QueueOutlet::new(
                (0, 1),
                most,
                WhenFull::Drop,
                full_tx,
                empty_rx,
                vec![FlowQueue::new(records_tx)],
            ),
            full,
            empty,
            records,
            datagrams: SIZES.into_iter().map(datagram).collect(),
            sequences: vec![[1; 2]; flows as usize],
            flows,
            packets: 0,
        }
    }

    /// Feeds the worker a datagram of each flow.
    pub fn open_all(&mut self) {
        self.feed_of(self.flows, |number, _| number);
    }

    /// Feeds the worker `packets` datagrams of flows picked at random, the same in every run.
    pub fn feed(&mut self, packets: u32) {
        self.feed_of(packets, |_, random| random);
    }

    fn feed_of(&mut self, packets: u32, flow: impl Fn(u32, u32) -> u32) {
        for at in 0..packets {
            let number = self.packets;
            self.packets = number.wrapping_add(1);
            let random = mix(u64::from(number));
            let flow = flow(at, random as u32) % self.flows;
            let forth = random >> 63 == 0;
            let size = number as usize % SIZES.len();
            let datagram = &mut self.datagrams[size];
            address(datagram, flow, forth);
            sequence(datagram, &mut self.sequences[flow as usize], forth);
            let session = flow % SESSIONS;
            datagram[4..7].copy_from_slice(&(100 + session).to_be_bytes()[1..]);
            let source = Ipv4Addr::new(10, 0, 1, 11 + session as u8);
            let arrival = Arrival::Datagram(Datagram {
                ts_ns: 1_700_000_000_000_000_000 + u64::from(number) * 2000,
                src: SocketAddr::V4(SocketAddrV4::new(source, 50_000)),
                dst: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(10, 0, 9, 9), 4789)),
                payload: datagram,
                headers_len: 28,
                pieces: Pieces::One,
            });
            self.worker.take(&arrival, &mut self.outlet);
            if number.is_multiple_of(64) {
                self.write();
            }
        }
        self.write();
        let ledger = self.worker.ledger();
        assert_eq!(ledger.received, ledger.delivered, "nothing may be lost");
    }

    /// Does what the writers do, without a file.
    fn write(&mut self) {
        for (_, mut batch) in self.full.try_iter() {
            batch.clear();
            self.empty.try_send(batch).unwrap();
        }
        for records in self.records.try_iter() {
            assert!(!records.records.is_empty());
        }
    }
}

/// SplitMix64: numbers that look random, from numbers in a row.
const fn mix(number: u64) -> u64 {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A VXLAN header and a frame of `size` bytes: IPv4 and TCP with ACK set, addresses and ports zero.
fn datagram(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; VXLAN_LEN + size];
    bytes[0] = 0x08;
    let frame = &mut bytes[VXLAN_LEN..];
    frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0]);
    let ip_len = (size - 14) as u16;
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&ip_len.to_be_bytes());
    (frame[22], frame[23]) = (64, 6);
    (frame[46], frame[47], frame[48]) = (0x50, 0x10, 2);
    bytes
}

/// Puts the next sequence number into a datagram, and an ACK of all that came the other way.
fn sequence(datagram: &mut [u8], sequences: &mut [u32; 2], forth: bool) {
    let frame = &mut datagram[VXLAN_LEN..];
    let (own, peer) = if forth { (0, 1) } else { (1, 0) };
    frame[38..42].copy_from_slice(&sequences[own].to_be_bytes());
    frame[42..46].copy_from_slice(&sequences[peer].to_be_bytes());
    let payload_len = frame.len() as u32 - 54;
    sequences[own] = sequences[own].wrapping_add(payload_len);
}

/// Puts a flow's addresses and ports into a datagram.
fn address(datagram: &mut [u8], flow: u32, forth: bool) {
    let client = (0x0a01_0000 + (flow >> 4)).to_be_bytes();
    let server = [10, 200, 0, 1];
    let client_port = (1024 + (flow & 0xf) as u16).to_be_bytes();
    let server_port = 443u16.to_be_bytes();
    let frame = &mut datagram[VXLAN_LEN..];
    let (src, dst) = if forth {
        (client, server)
    } else {
        (server, client)
    };
    frame[26..30].copy_from_slice(&src);
    frame[30..34].copy_from_slice(&dst);
    let (src, dst) = if forth {
        (client_port, server_port)
    } else {
        (server_port, client_port)
    };
    frame[34..36].copy_from_slice(&src);
    frame[36..38].copy_from_slice(&dst);
}
