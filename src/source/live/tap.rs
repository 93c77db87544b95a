//! A packet ring on an interface: mirrored traffic before it reaches the UDP stack (CAP_NET_RAW).
//!
//! The kernel copies each packet once, into memory that is read in place. What a socket would have done
//! is done here or by the worker: the destination is checked, packets that are several in one are taken
//! apart; outer VLAN tags, IP options and fragments go the way they go in replay. Outer UDP checksums
//! are not looked at.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::bpf::assembler::{Instruction, ProgramError};
use crate::bpf::filter;
use crate::host::interfaces;
use crate::host::netlink::{LinkWatch, Routes};
use crate::mirror::networks::Networks;
use crate::source::live::beginning::Beginning;
use crate::source::live::ring_filter::RingFilter;
use crate::source::live::sockets::{END_DISORDER_NS, UdpError, UdpSource};
use crate::source::live::targets::Targets;
use crate::source::{Arrival, DISORDER_NS, Datagram, Progress, Record, Source};
use crate::stop::wall_clock_ns;
use crate::sys;
use crate::sys::ring::{Frame, Walk};
use crate::sys::ring_memory::{Geometry, RingMemory};
use crate::wire::outer::{self, LinkType, Outer, Pieces};
use crate::wire::refusal::{Filtered, Malformed};

/// Packets handed over at a time, at most.
const BATCH: usize = 1024;
/// How long to wait for a block before the source is called idle.
const WAIT_MS: i32 = 10;
/// Bytes of a block. Sizes from 128 KiB to 1 MiB cost the same; small blocks make many, and on a link that
/// is not busy each block holds a few milliseconds however large it is.
const BLOCK_LEN: u32 = 256 << 10;
/// The kernel hands over a block that is not full after this time.
const HAND_OVER_AFTER_MS: u32 = 8;
/// A packet may wait this long in a block: the kernel's timer sees a block begun, and hands it over the
/// next time.
const LAG_NS: u64 = 3 * HAND_OVER_AFTER_MS as u64 * 1_000_000;
/// Waits after which the last block of an interface that is gone has been handed over. Some may be short:
/// sockets beside the ring end them.
const WAITS_FOR_LAST_BLOCK: u32 = 8;
/// Fewest blocks worth a ring.
const MIN_BLOCKS: u32 = 16;
/// Bytes that a ring leaves to this process: threads have to start, and buffers to be had.
const LEFT_TO_PROCESS: usize = 32 << 20;
/// Blocks after which the kernel's counters, which wrap, are read.
const COUNT_EVERY_BLOCKS: u32 = 1024;
/// Batches after which a busy ring lets sockets have their turn.
const ASIDE_EVERY: u32 = 16;
/// This machine's addresses are read again for a stranger, but not more often than this.
const ADDRESSES_EVERY_NS: u64 = 1_000_000_000;
/// Strangers for which the kernel is asked in that time: each costs some microseconds.
const STRANGERS: usize = 64;
/// Waits in vain, of 10 ms mostly, after which it is looked whether the interface is there.
const LOOK_EVERY_WAITS: u32 = 32;

/// Why there is no ring, or no longer one.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum PacketError {
    #[error("there is no interface {interface}; 'ip link' lists them")]
    NoInterface { interface: String },
    #[error("no packet ring on {interface}: {source}")]
    Open {
        interface: String,
        source: io::Error,
    },
    #[error("the interface {interface} is gone")]
    Gone { interface: String },
    #[error(transparent)]
    Aside(#[from] UdpError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("receiving on {interface}: {source}")]
    Receive {
        interface: String,
        source: io::Error,
    },
}

impl PacketError {
    /// Whether it is for want of CAP_NET_RAW.
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::Open { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// The ring of one worker.
pub struct PacketSource {
    interface: String,
    number: u32,
    ring: RingMemory,
    filter: RingFilter,
    /// Packets that the filter left out because of their source.
    refused: u64,
    /// The block being read or waited for.
    block: u32,
    /// The place in it; `None` while it is the kernel's.
    walk: Option<Walk>,
    /// Datagrams handed over of a packet that is several in one.
    segments: usize,
    targets: Targets,
    addresses: Addresses,
    dropped: u64,
    blocks_until_count: u32,
    down: bool,
    /// Waits without a block since there was one.
    waits_in_vain: u32,
    /// Waits in vain since the interface was found to be gone.
    waits_since_gone: u32,
    /// For the first worker: what comes in elsewhere than on the interface.
    aside: Option<Aside>,
    batches: u32,
    /// What arrived later than this, nanoseconds since 1970, belongs to the run no more.
    end_ns: Option<u64>,
    /// A packet came so late that none from before the end can follow.
    done: bool,
    /// When the run began, where there are several workers.
    beginning: Beginning,
    /// Largest time of arrival seen in the ring.
    last_ns: u64,
    /// The ring was seen empty since the last promise.
    was_empty: bool,
    /// What was promised of the ring: nothing earlier will follow.
    settled_ns: u64,
}

/// Sockets for what does not come in on the ring's interface.
struct Aside {
    sockets: UdpSource,
    /// The interfaces whose packets are the ring's: its own, and those stacked upon it.
    stacked: Vec<u32>,
    /// `None` where the kernel does not tell: the interfaces are those of the start then.
    links: Option<LinkWatch>,
}

impl Aside {
    /// Leaves to the ring what comes in on interfaces that were stacked upon its own, VLANs say, since this
    /// was last looked at.
    fn renew(&mut self, interface: u32) {
        if !self.links.as_mut().is_some_and(LinkWatch::has_changed) {
            return;
        }
        let Some(name) = interfaces::name(interface) else {
            return;
        };
        let stacked = interfaces::with_stacked(&name);
        if stacked == self.stacked {
            return;
        }
        let filter = filter::not_from(&stacked).map_err(io::Error::other);
        match filter.and_then(|filter| self.sockets.set_filter(&filter)) {
            Ok(()) => self.stacked = stacked,
            Err(error) => {
                tracing::warn!(%error, "packets of interfaces made after the start may be received twice");
            }
        }
    }

    fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let links = self.links.iter().map(LinkWatch::as_fd);
        self.sockets.fds().chain(links)
    }
}

/// What is known of this machine's addresses.
struct Addresses {
    /// Arrival of the packet for which they were last read.
    read_ns: u64,
    /// Asked for what none of the interfaces lists; `None` where that cannot be.
    routes: Option<Routes>,
    /// Answers since they were read that were no.
    strangers: Vec<IpAddr>,
    /// Packets to a loopback address that come in here are for this machine.
    loopback: bool,
}

impl Addresses {
    fn list(loopback: bool) -> Vec<IpAddr> {
        let mut addresses = interfaces::local_addresses();
        addresses.retain(|ip| loopback || !ip.is_loopback());
        addresses
    }

    /// Whether a packet that none of the addresses known is for is ours all the same. They are read again if
    /// that was not done within the last second; what no interface lists, the kernel is asked for.
    #[cold]
    fn is_ours(&mut self, targets: &mut Targets, frame: &Frame<'_>) -> bool {
        if frame.ts_ns.abs_diff(self.read_ns) >= ADDRESSES_EVERY_NS {
            self.read_ns = frame.ts_ns;
            self.strangers.clear();
            targets.set_local(Self::list(self.loopback));
        }
        let Some(ip) = targets.in_question(frame.bytes, frame.ethernet) else {
            return targets.accept_frame(frame.bytes, frame.ethernet);
        };
        if self.strangers.len() >= STRANGERS
            || self.strangers.contains(&ip)
            || ip.is_loopback() && !self.loopback
        {
            return false;
        }
        if self
            .routes
            .as_mut()
            .is_some_and(|routes| routes.is_ours(ip))
        {
            targets.add_local(ip);
            return true;
        }
        self.strangers.push(ip);
        false
    }
}

/// Bytes of ring that each of `workers` asks for.
pub fn ring_bytes(workers: u32) -> usize {
    (BLOCK_LEN * blocks(workers)) as usize
}

/// 64 MiB for one or two workers; more workers share 128 MiB, down to 16 MiB each.
fn blocks(workers: u32) -> u32 {
    let all = (128 << 20) / BLOCK_LEN;
    let (most, least) = ((64 << 20) / BLOCK_LEN, (16 << 20) / BLOCK_LEN);
    (all / workers.max(1)).clamp(least, most)
}

impl PacketSource {
    /// Rings on `interface` for `workers` workers. The kernel gives every packet to the worker that
    /// `steering` chooses. `wanted` are the addresses received for; of packets that come from none of the
    /// `allowed` networks, if there are any, headers alone are handed over, or nothing.
    ///
    /// # Errors
    ///
    /// [`PacketError::NoInterface`] and [`PacketError::Open`]; the latter also when not even a small
    /// ring can be had.
    pub fn open_group(
        interface: &str,
        wanted: &[SocketAddr],
        workers: u32,
        steering: &[Instruction],
        allowed: &Networks,
    ) -> Result<Vec<Self>, PacketError> {
        let number = interfaces::number(interface).ok_or_else(|| PacketError::NoInterface {
            interface: interface.to_owned(),
        })?;
        let refused = |source| PacketError::Open {
            interface: interface.to_owned(),
            source,
        };
        let rings = open_rings(number, workers).map_err(refused)?;
        if let [first, others @ ..] = rings.as_slice()
            && !others.is_empty()
        {
            let group = first.join_group(None).map_err(refused)?;
            for ring in others {
                ring.join_group(Some(group)).map_err(refused)?;
            }
            first.set_group_program(steering).map_err(refused)?;
        }
        // Only now is anything let in: before it every ring would have got every packet.
        let mut ports: Vec<u16> = wanted.iter().map(SocketAddr::port).collect();
        ports.sort_unstable();
        ports.dedup();
        let link = interfaces::link_of(interface);
        let loopback = interfaces::list().unwrap_or_default();
        let loopback = loopback
            .iter()
            .any(|one| one.loopback && one.name == interface);
        let local = Addresses::list(loopback);
        let mut sources = Vec::new();
        for ring in rings {
            let filter = RingFilter::attach(&ring, ports.clone(), link, allowed);
            let filter = filter.map_err(refused)?;
            // What the first filter turned away was not counted, what came before is not ours.
            let _ = ring.counted();
            sources.push(Self {
                beginning: Beginning::default(),
                last_ns: 0,
                was_empty: false,
                settled_ns: 0,
                interface: interface.to_owned(),
                number,
                ring,
                filter,
                refused: 0,
                block: 0,
                walk: None,
                segments: 0,
                targets: Targets::new(wanted.to_vec(), local.clone()),
                addresses: Addresses {
                    read_ns: 0,
                    routes: Routes::open().ok(),
                    strangers: Vec::new(),
                    loopback,
                },
                dropped: 0,
                blocks_until_count: COUNT_EVERY_BLOCKS,
                down: false,
                waits_in_vain: 0,
                waits_since_gone: 0,
                aside: None,
                batches: 0,
                end_ns: None,
                done: false,
            });
        }
        if sources.len() > 1 {
            let beginning = Beginning::at(wall_clock_ns());
            for source in &mut sources {
                source.beginning = beginning;
            }
        }
        Ok(sources)
    }

    /// Lets in packets from other networks from now on.
    ///
    /// # Errors
    ///
    /// [`PacketError::Receive`] when the kernel does not take the new filter; the one before stays.
    pub fn allow(&mut self, allowed: &Networks) -> Result<(), PacketError> {
        let renewed = self.filter.renew(&self.ring, allowed);
        renewed.map_err(|source| self.failed(source))
    }

    /// Bytes of its ring.
    pub const fn ring_bytes(&self) -> usize {
        self.ring.geometry().bytes()
    }

    /// Bytes of memory its ring and the slots of the sockets beside it may take.
    pub fn memory_bytes(&self) -> usize {
        let aside = self.aside.as_ref();
        self.ring_bytes() + aside.map_or(0, |aside| aside.sockets.memory_bytes())
    }

    /// Most bytes that the kernel holds for the sockets beside the ring.
    pub fn kernel_bytes(&self) -> usize {
        let aside = self.aside.as_ref();
        aside.map_or(0, |aside| aside.sockets.kernel_bytes())
    }

    /// Takes along what waits at `sockets`: traffic for the same addresses that does not come in on the
    /// interface, from this machine itself say. Their filter leaves out what comes in on the `stacked`
    /// interfaces, and is renewed when there are others.
    pub fn take_along(&mut self, sockets: UdpSource, links: Option<LinkWatch>, stacked: Vec<u32>) {
        self.aside = Some(Aside {
            sockets,
            stacked,
            links,
        });
    }

    /// Hands over what waits at the sockets beside the ring.
    fn take_aside(
        &mut self,
        left: &mut usize,
        each: &mut impl FnMut(Arrival<'_>),
    ) -> Result<(), PacketError> {
        if let Some(aside) = &mut self.aside {
            aside.renew(self.number);
            aside.sockets.take_waiting(left, each)?;
        }
        Ok(())
    }

    fn failed(&self, source: io::Error) -> PacketError {
        PacketError::Receive {
            interface: self.interface.clone(),
            source,
        }
    }

    /// Waits for the next block, or for what comes in elsewhere: whether there is one, and the other.
    fn wait(&mut self) -> Result<(bool, bool), PacketError> {
        let ready = match &self.aside {
            None => sys::wait_readable([self.ring.as_fd()], WAIT_MS),
            Some(aside) => sys::wait_readable(
                std::iter::once(self.ring.as_fd()).chain(aside.fds()),
                WAIT_MS,
            ),
        };
        let ready = ready.map_err(|source| self.failed(source))?;
        let (ready, elsewhere) = (ready & 1 != 0, ready & !1 != 0);
        if self.ring.block(self.block).is_some() {
            self.down = false;
            self.waits_in_vain = 0;
            return Ok((true, elsewhere));
        }
        self.waits_in_vain = self.waits_in_vain.wrapping_add(1);
        // An interface that is deleted is down first, and the socket tells of that alone; it may tell so while
        // blocks are yet to come. What came before is in a block that the kernel has yet to hand over. The
        // interface is known by its number: its name may change.
        let is_time_to_look = self.down
            || self.waits_since_gone > 0
            || self.waits_in_vain.is_multiple_of(LOOK_EVERY_WAITS);
        if is_time_to_look && self.is_gone() {
            self.waits_since_gone += 1;
            if self.waits_since_gone > WAITS_FOR_LAST_BLOCK {
                return Err(PacketError::Gone {
                    interface: self.interface.clone(),
                });
            }
        }
        if !ready {
            return Ok((false, elsewhere));
        }
        match self.ring.take_fault() {
            Some(fault) if fault.kind() == io::ErrorKind::NetworkDown => {
                if !self.down {
                    tracing::warn!(interface = %self.interface, "the interface is down; waiting for it");
                }
                self.down = true;
                Ok((false, elsewhere))
            }
            Some(fault) => Err(self.failed(fault)),
            None => Ok((false, elsewhere)),
        }
    }

    /// Whether there is no interface of this number any more; takes note of another name.
    fn is_gone(&mut self) -> bool {
        let Some(name) = interfaces::name(self.number) else {
            return true;
        };
        if name != self.interface {
            tracing::info!(interface = %self.interface, "the interface is called {name} now");
            self.interface = name;
        }
        false
    }

    /// Waits for a block; notes whether none came. What comes meanwhile to the sockets beside the ring is handed out.
    fn await_block(
        &mut self,
        left: &mut usize,
        each: &mut impl FnMut(Arrival<'_>),
    ) -> Result<(), PacketError> {
        let (came, elsewhere) = self.wait()?;
        if elsewhere {
            self.take_aside(left, each)?;
        } else if let Some(aside) = &mut self.aside {
            aside.sockets.note_empty();
        }
        self.was_empty = !came;
        Ok(())
    }

    /// Hands out packets of the block, `left` at the most. Whether it was all, and the kernel has the block back.
    fn hand_out(&mut self, left: &mut usize, each: &mut impl FnMut(Arrival<'_>)) -> bool {
        let Self {
            ring,
            targets,
            addresses,
            segments,
            end_ns,
            done,
            beginning,
            last_ns,
            ..
        } = self;
        let Some(block) = ring.block(self.block) else {
            return false;
        };
        let walk = self.walk.get_or_insert_with(|| Walk::start(block));
        while *left > 0 {
            let before = *walk;
            let Some(frame) = walk.next(block) else {
                break;
            };
            *last_ns = frame.ts_ns.max(*last_ns);
            if beginning.is_before(frame.ts_ns) {
                continue;
            }
            if let Some(end_ns) = *end_ns
                && frame.ts_ns > end_ns
            {
                *done |= frame.ts_ns > end_ns.saturating_add(END_DISORDER_NS);
                continue;
            }
            let ours = targets.accept_frame(frame.bytes, frame.ethernet)
                || addresses.is_ours(targets, &frame);
            if !ours {
                each(Arrival::Refused(frame.ts_ns, Filtered::OtherAddress.into()));
                *left -= 1;
            } else if let Some(len) = frame.udp_segment_len {
                if !take_apart(&frame, usize::from(len), segments, left, each) {
                    *walk = before;
                }
            } else {
                each(Arrival::Record(record(&frame)));
                *left -= 1;
            }
        }
        if *left == 0 && walk.left() > 0 {
            return false;
        }
        for _ in 0..walk.left() {
            // The kernel does not write such blocks; if it did, nothing would be lost without a word.
            each(Arrival::Refused(0, Malformed::OuterLink.into()));
        }
        self.next_block();
        true
    }

    fn next_block(&mut self) {
        self.ring.release(self.block);
        self.block = (self.block + 1) % self.ring.geometry().blocks;
        self.walk = None;
        self.blocks_until_count -= 1;
        if self.blocks_until_count == 0 {
            self.blocks_until_count = COUNT_EVERY_BLOCKS;
            self.lost_so_far();
        }
    }
}

/// Rings of the size wanted, or of the largest that can be had.
fn open_rings(interface: u32, workers: u32) -> io::Result<Vec<RingMemory>> {
    let mut geometry = Geometry {
        block_len: BLOCK_LEN,
        blocks: blocks(workers),
        hand_over_after_ms: HAND_OVER_AFTER_MS,
    };
    let nothing = filter::nothing();
    loop {
        let rings = (0..workers.max(1))
            .map(|_| RingMemory::open(interface, geometry, &nothing))
            .collect::<io::Result<Vec<_>>>();
        // Where address space is limited (ulimit -v), the rings must not take the last of it.
        let rings = rings.and_then(|rings| {
            let mut rest: Vec<u8> = Vec::new();
            let had = std::hint::black_box(&mut rest).try_reserve_exact(LEFT_TO_PROCESS);
            had.map_err(|_| io::ErrorKind::OutOfMemory)?;
            Ok(rings)
        });
        match rings {
            Err(error)
                if error.kind() == io::ErrorKind::OutOfMemory && geometry.blocks > MIN_BLOCKS =>
            {
                geometry.blocks = (geometry.blocks / 2).max(MIN_BLOCKS);
                tracing::warn!(
                    "no memory for a larger packet ring: trying {} MiB a worker; bursts may be lost",
                    geometry.bytes() >> 20
                );
            }
            outcome => return outcome,
        }
    }
}

impl Source for PacketSource {
    type Error = PacketError;

    fn next_batch(
        &mut self,
        most: usize,
        mut each: impl FnMut(Arrival<'_>),
    ) -> Result<Progress, PacketError> {
        let most = most.min(BATCH);
        let mut left = most;
        if self.done {
            return match &mut self.aside {
                Some(aside) => Ok(aside.sockets.next_batch(most, each)?),
                None => Ok(Progress::End),
            };
        }
        self.batches = self.batches.wrapping_add(1);
        if self.batches.is_multiple_of(ASIDE_EVERY) {
            self.take_aside(&mut left, &mut each)?;
        }
        loop {
            if self.walk.is_none() && self.ring.block(self.block).is_none() {
                if left < most {
                    return Ok(Progress::Batch);
                }
                self.await_block(&mut left, &mut each)?;
                if self.was_empty {
                    return Ok(if left < most {
                        Progress::Batch
                    } else {
                        Progress::Idle
                    });
                }
            }
            if !self.hand_out(&mut left, &mut each) || left == 0 || self.done {
                return Ok(Progress::Batch);
            }
        }
    }

    fn lag_ns(&self) -> u64 {
        LAG_NS
    }

    fn doze(&mut self, alarm: BorrowedFd<'_>, most: Duration) {
        // What goes on here is counted in waits of their usual length.
        let goes_on = self.walk.is_some() || self.down || self.waits_since_gone > 0;
        if goes_on || self.end_ns.is_some() || self.ring.block(self.block).is_some() {
            return;
        }
        let aside = self.aside.iter().flat_map(|aside| aside.fds());
        let all = [alarm, self.ring.as_fd()].into_iter().chain(aside);
        let most = i32::try_from(most.as_millis()).unwrap_or(i32::MAX);
        // What is wrong is told by the next wait.
        let _ = sys::wait_readable(all, most);
    }

    fn is_quiet(&mut self) -> bool {
        let elsewhere = self
            .aside
            .as_mut()
            .is_none_or(|aside| aside.sockets.is_quiet());
        elsewhere && self.walk.is_none() && self.ring.block(self.block).is_none()
    }

    fn end_at(&mut self, at_ns: u64) {
        // What finds no room from now on came later.
        self.lost_so_far();
        self.refused_so_far();
        self.end_ns = Some(at_ns);
        if let Some(aside) = &mut self.aside {
            aside.sockets.end_at(at_ns);
        }
    }

    fn settled_ns(&mut self, looked_ns: u64) -> u64 {
        // An empty ring may have packets that the kernel has yet to hand over.
        let empty_at = if std::mem::take(&mut self.was_empty) {
            looked_ns.saturating_sub(LAG_NS)
        } else {
            0
        };
        let seen = self.last_ns.max(empty_at);
        self.settled_ns = self.settled_ns.max(seen.saturating_sub(DISORDER_NS));
        let aside = self.aside.as_mut();
        let aside = aside.map(|aside| aside.sockets.settled_ns(looked_ns));
        aside.map_or(self.settled_ns, |aside| aside.min(self.settled_ns))
    }

    fn refused_so_far(&mut self) -> u64 {
        if self.end_ns.is_none() {
            self.refused = self.filter.left_out();
        }
        self.refused
    }

    fn let_in(&mut self, networks: &Networks) -> bool {
        if let Err(error) = self.allow(networks) {
            // The worker looks at each packet all the same.
            tracing::warn!("the filter in the kernel stays as it was: {error}");
        }
        true
    }

    fn lost_so_far(&mut self) -> u64 {
        if self.end_ns.is_none()
            && let Ok(counted) = self.ring.counted()
        {
            self.dropped += u64::from(counted.dropped);
        }
        self.dropped
    }
}

fn record<'a>(frame: &Frame<'a>) -> Record<'a> {
    let link = if frame.ethernet {
        LinkType::Ethernet
    } else {
        LinkType::RawIp
    };
    Record {
        ts_ns: frame.ts_ns,
        link,
        bytes: frame.bytes,
        orig_len: frame.wire_len,
        order: frame.ts_ns,
        told: None,
    }
}

/// Hands over the datagrams of a packet that is several in one, from number `done` on and `left` at most.
/// `true` when it is done with.
fn take_apart(
    frame: &Frame<'_>,
    segment_len: usize,
    done: &mut usize,
    left: &mut usize,
    each: &mut impl FnMut(Arrival<'_>),
) -> bool {
    let link = record(frame).link;
    // The filter keeps the headers alone of what comes from a source that is not allowed: the worker counts
    // its datagrams by that source and looks no further.
    let headers_only = (frame.wire_len as usize) > frame.bytes.len();
    let udp = match outer::read(link, frame.bytes, headers_only) {
        Ok(Outer::Udp(udp)) if !udp.length_mismatch && udp.carried_len > 0 => udp,
        // Nobody could tell where one datagram ends: none is better than a wrong one.
        _ => {
            each(Arrival::Refused(
                frame.ts_ns,
                Malformed::OuterSegments.into(),
            ));
            *left -= 1;
            return true;
        }
    };
    let segments = udp.carried_len.div_ceil(segment_len);
    for segment in *done..segments {
        let payload = udp.payload.get(segment * segment_len..).unwrap_or_default();
        let payload = payload.get(..segment_len).unwrap_or(payload);
        if *left == 0 {
            return false;
        }
        each(Arrival::Datagram(Datagram {
            ts_ns: frame.ts_ns,
            src: SocketAddr::new(udp.src.ip(), udp.src_port),
            dst: SocketAddr::new(udp.dst.ip(), udp.dst_port),
            payload,
            headers_len: udp.headers_len(),
            // Neither a network card nor the kernel puts fragments into one of these.
            pieces: Pieces::One,
        }));
        *done += 1;
        *left -= 1;
    }
    *done = 0;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ethernet, IPv4, UDP to 4789 around `payload`.
    fn packet(payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0, 0x45, 0];
        packet.extend((28 + payload.len() as u16).to_be_bytes());
        packet.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend([0xc3, 0x50, 0x12, 0xb5]);
        packet.extend((8 + payload.len() as u16).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(payload);
        packet
    }

    #[test]
    fn several_in_one_are_taken_apart_in_steps() {
        let payload: Vec<u8> = (0..25).collect();
        let bytes = packet(&payload);
        let frame = Frame {
            ts_ns: 7,
            bytes: &bytes,
            wire_len: bytes.len() as u32,
            ethernet: true,
            udp_segment_len: Some(10),
        };
        let mut seen: Vec<Vec<u8>> = Vec::new();
        let (mut done, mut calls) = (0, 0);
        loop {
            let mut left = 2;
            let ended = take_apart(&frame, 10, &mut done, &mut left, &mut |arrival| {
                let Arrival::Datagram(datagram) = arrival else {
                    panic!("{arrival:?}")
                };
                assert_eq!(datagram.dst, "10.0.0.2:4789".parse().unwrap());
                assert_eq!(datagram.ts_ns, 7);
                seen.push(datagram.payload.to_vec());
            });
            calls += 1;
            if ended {
                break;
            }
        }
        assert_eq!(seen, [&payload[..10], &payload[10..20], &payload[20..]]);
        assert_eq!((calls, done), (2, 0));
    }

    /// Each datagram of a packet whose headers alone were kept is handed over, to be counted.
    #[test]
    fn several_in_one_are_counted_by_their_headers() {
        let whole = packet(&[7; 4321]);
        for kept in [42, 43, 96, whole.len()] {
            let frame = Frame {
                ts_ns: 7,
                bytes: &whole[..kept],
                wire_len: whole.len() as u32,
                ethernet: true,
                udp_segment_len: Some(1000),
            };
            let (mut count, mut done) = (0, 0);
            while !take_apart(&frame, 1000, &mut done, &mut 2, &mut |arrival| {
                let Arrival::Datagram(datagram) = arrival else {
                    panic!("{arrival:?}")
                };
                assert_eq!(datagram.src, "10.0.0.1:50000".parse().unwrap());
                let rest = kept.saturating_sub(42 + 1000 * count);
                let len = [1000, 321][usize::from(count == 4)].min(rest);
                assert_eq!(datagram.payload.len(), len, "{kept}");
                count += 1;
            }) {}
            assert_eq!(count, 5, "{kept}");
        }
    }

    #[test]
    fn a_packet_that_cannot_be_taken_apart_is_refused() {
        let mut bytes = packet(&[1; 30]);
        bytes[39] += 1;
        let frame = Frame {
            ts_ns: 7,
            bytes: &bytes,
            wire_len: bytes.len() as u32,
            ethernet: true,
            udp_segment_len: Some(10),
        };
        let mut refused = 0;
        let mut each = |arrival: Arrival<'_>| {
            assert!(matches!(arrival, Arrival::Refused(7, _)), "{arrival:?}");
            refused += 1;
        };
        assert!(take_apart(&frame, 10, &mut 0, &mut 5, &mut each));
        assert_eq!(refused, 1);
    }

    #[test]
    fn memory_is_shared_out() {
        assert_eq!(ring_bytes(1), 64 << 20);
        assert_eq!(ring_bytes(2), 64 << 20);
        assert_eq!(ring_bytes(4), 32 << 20);
        assert_eq!(ring_bytes(64), 16 << 20);
    }
}
