//! UDP sockets: datagrams in batches, with the kernel's time of arrival and count of drops.
//!
//! Needs no privilege. Several addresses, IPv4 and IPv6, are served by one thread.
//!
//! With UDP_GRO the kernel may hand over a train: datagrams of one sender and port and of equal size,
//! put together on arrival. All of them are recovered, but they share one time of arrival, and the kernel
//! counts a train it drops as one. Datagrams with a zero checksum are never put together.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use socket2::{Domain, Protocol, Socket, Type};

use crate::bpf::assembler::{Instruction, ProgramError};
use crate::bpf::filter;
use crate::source::live::beginning::Beginning;
use crate::source::{Arrival, DISORDER_NS, Datagram, Progress, Source, usual_headers_len};
use crate::sys::message_batch::{MAX_PAYLOAD, MessageBatch};
use crate::sys::{self, Flag};
use crate::wire::outer::Pieces;

/// Datagrams taken with one system call; more gained nothing when measured.
const BATCH: usize = 64;
/// Trains taken with one system call; each has room for the longest.
const TRAINS: usize = 32;
/// How long to wait for a datagram before the source is called idle.
const WAIT_MS: i32 = 10;
/// The same once the run ends.
const WAIT_AT_END_MS: i32 = 5;
/// Packets that several cores take in may be so far from the order of their times of arrival, where the
/// kernel has to wait for a core.
pub const END_DISORDER_NS: u64 = 20_000_000;
/// Receive buffer asked for, in bytes.
pub const RECEIVE_BUFFER: usize = 64 << 20;

/// Why a socket cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum UdpError {
    #[error("cannot listen on {address}: {source}")]
    Bind {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("receiving: {0}")]
    Receive(io::Error),
    #[error(transparent)]
    Program(#[from] ProgramError),
}

impl UdpError {
    /// The address somebody else holds, if that is the fault.
    pub fn held_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Bind { address, source } if source.kind() == io::ErrorKind::AddrInUse => {
                Some(*address)
            }
            _ => None,
        }
    }
}

/// Whether a socket asks for trains of datagrams (UDP_GRO).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gro {
    /// One datagram at a time, each with its own time.
    Off,
    /// Trains where the kernel makes them.
    On,
}

struct Bound {
    socket: Socket,
    address: SocketAddr,
    last_drops: u32,
    dropped: u64,
    /// A datagram came that arrived behind the end of the run: drops are those until then.
    end_seen: bool,
    /// One came so late that none from before the end can follow.
    done: bool,
    /// When the run began, where there are several workers.
    beginning: Beginning,
    /// Largest time of arrival handed over.
    last_ns: u64,
    /// It was seen empty since the last promise.
    was_empty: bool,
    /// What was promised last: nothing earlier will follow.
    settled_ns: u64,
}

impl Bound {
    /// A promise; see [`Source::settled_ns`].
    fn settle(&mut self, looked_ns: u64) -> u64 {
        let empty_at = if std::mem::take(&mut self.was_empty) {
            looked_ns
        } else {
            0
        };
        let seen = self.last_ns.max(empty_at);
        self.settled_ns = self.settled_ns.max(seen.saturating_sub(DISORDER_NS));
        self.settled_ns
    }

    /// Takes the filter away that let nothing in. What it turned away came before the run began: the
    /// kernel's count of drops begins here.
    fn let_in(&mut self) -> io::Result<()> {
        self.socket.detach_filter()?;
        self.last_drops = sys::drops(self.socket.as_fd()).unwrap_or_default();
        Ok(())
    }

    /// Takes note of the socket's count, which wraps. A datagram brings the count of the time it was queued:
    /// that may be behind what the socket itself has told since.
    fn note_drops(&mut self, drops: u32) {
        let more = drops.wrapping_sub(self.last_drops);
        if more <= u32::MAX / 2 {
            self.dropped += u64::from(more);
            self.last_drops = drops;
        }
    }
}

/// The sockets of one worker.
pub struct UdpSource {
    sockets: Vec<Bound>,
    batch: MessageBatch,
    next: usize,
    /// Where handing over goes on in what was received last.
    cursor: Option<Cursor>,
    /// What arrived later than this, nanoseconds since 1970, belongs to the run no more.
    end_ns: Option<u64>,
}

/// A place in a received batch.
#[derive(Clone, Copy)]
struct Cursor {
    socket: usize,
    message: usize,
    /// Datagrams of a train that were handed over.
    segment: usize,
}

impl UdpSource {
    /// Binds `addresses` for one worker. A port of 0 lets the system choose one. Datagrams above
    /// `datagram_len` bytes are received too, only slower.
    ///
    /// # Errors
    ///
    /// [`UdpError::Bind`] with the address at fault.
    pub fn bind(addresses: &[SocketAddr], datagram_len: usize, gro: Gro) -> Result<Self, UdpError> {
        let bound = addresses.iter().map(|address| {
            let bound = bind(*address, false, None).and_then(|bound| {
                if gro == Gro::On {
                    sys::enable(bound.socket.as_fd(), Flag::Trains)?;
                }
                Ok(bound)
            });
            bound.map_err(bind_error(*address))
        });
        let bound = bound.collect::<Result<Vec<_>, _>>()?;
        let (slots, slot_len) = slots(datagram_len, gro);
        Self::of(bound, slots, slot_len)
    }

    /// Binds `addresses` for what passes `filter`, to be taken with [`Self::take_waiting`].
    ///
    /// # Errors
    ///
    /// [`UdpError::Bind`] with the address at fault.
    pub fn bind_filtered(
        addresses: &[SocketAddr],
        datagram_len: usize,
        filter: &[Instruction],
    ) -> Result<Self, UdpError> {
        let bound = addresses
            .iter()
            .map(|address| bind(*address, false, Some(filter)).map_err(bind_error(*address)));
        let bound = bound.collect::<Result<Vec<_>, _>>()?;
        Self::of(bound, BATCH, datagram_len)
    }

    /// Binds `addresses` for several workers: one source each. The kernel gives every datagram to the
    /// worker that `program_of` the port chooses, the first one too: nothing is let in before all sockets are
    /// bound and have their program.
    ///
    /// # Errors
    ///
    /// [`UdpError::Bind`] with the address at fault; [`UdpError::Program`].
    pub fn bind_group(
        addresses: &[SocketAddr],
        workers: u32,
        datagram_len: usize,
        program_of: impl Fn(u16) -> Result<Vec<Instruction>, ProgramError>,
    ) -> Result<Vec<Self>, UdpError> {
        let nothing = filter::nothing();
        let mut groups: Vec<Vec<Bound>> = (0..workers).map(|_| Vec::new()).collect();
        for address in addresses {
            // Who shares a port cannot tell that somebody else holds it; a socket that does not share can.
            let mut address = bind(*address, false, None)
                .map_err(bind_error(*address))?
                .address;
            for group in &mut groups {
                let bound = bind(address, true, Some(&nothing)).map_err(bind_error(address))?;
                address = bound.address;
                group.push(bound);
            }
            // The program counts sockets in the order they were bound: all first, then the program.
            if let Some(bound) = groups.first().and_then(|group| group.last()) {
                let program = program_of(address.port())?;
                sys::attach_reuseport_program(bound.socket.as_fd(), &program)
                    .map_err(bind_error(address))?;
            }
        }
        for bound in groups.iter_mut().flatten() {
            bound.let_in().map_err(bind_error(bound.address))?;
        }
        let beginning = Beginning::at(now_ns());
        for bound in groups.iter_mut().flatten() {
            bound.beginning = beginning;
        }
        let groups = groups.into_iter();
        groups
            .map(|group| Self::of(group, BATCH, datagram_len))
            .collect()
    }

    fn of(sockets: Vec<Bound>, slots: usize, slot_len: usize) -> Result<Self, UdpError> {
        if let [alone] = sockets.as_slice() {
            // One call both waits and receives.
            let timeout = Duration::from_millis(WAIT_MS.unsigned_abs().into());
            let outcome = alone.socket.set_read_timeout(Some(timeout));
            outcome.map_err(bind_error(alone.address))?;
        }
        Ok(Self {
            sockets,
            batch: MessageBatch::new(slots, slot_len),
            next: 0,
            cursor: None,
            end_ns: None,
        })
    }

    /// The addresses bound, with the ports the system chose.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(|bound| bound.address).collect()
    }

    /// The smallest receive buffer among the sockets, in bytes, as the kernel granted it.
    pub fn receive_buffer(&self) -> usize {
        let sizes = self
            .sockets
            .iter()
            .filter_map(|bound| bound.socket.recv_buffer_size().ok());
        sizes.min().unwrap_or_default()
    }

    /// Most bytes that the kernel holds for all its sockets.
    pub fn kernel_bytes(&self) -> usize {
        let sizes = self.sockets.iter();
        let sizes = sizes.filter_map(|bound| bound.socket.recv_buffer_size().ok());
        sizes.sum()
    }

    /// Bytes of memory its slots may take.
    pub const fn memory_bytes(&self) -> usize {
        self.batch.memory_bytes()
    }
}

/// How many slots a source has, and bytes of each.
const fn slots(datagram_len: usize, gro: Gro) -> (usize, usize) {
    match gro {
        Gro::On => (TRAINS, MAX_PAYLOAD),
        Gro::Off => (BATCH, datagram_len),
    }
}

/// Bytes of memory that the slots of a source will take; see [`UdpSource::memory_bytes`].
pub const fn slots_bytes(datagram_len: usize, gro: Gro) -> usize {
    let (slots, slot_len) = slots(datagram_len, gro);
    MessageBatch::bytes_of(slots, slot_len)
}

fn bind_error(address: SocketAddr) -> impl Fn(io::Error) -> UdpError {
    move |source| UdpError::Bind { address, source }
}

fn bind(address: SocketAddr, shared: bool, filter: Option<&[Instruction]>) -> io::Result<Bound> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        // IPv4 has sockets of its own, so that both families can be bound side by side.
        socket.set_only_v6(true)?;
        sys::enable(socket.as_fd(), Flag::NoChecksumV6)?;
    }
    if sys::force_receive_buffer(socket.as_fd(), RECEIVE_BUFFER).is_err() {
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    }
    sys::enable(socket.as_fd(), Flag::Timestamps)?;
    sys::enable(socket.as_fd(), Flag::DropCounter)?;
    if address.ip().is_unspecified() {
        sys::enable(
            socket.as_fd(),
            if address.is_ipv6() {
                Flag::DestinationV6
            } else {
                Flag::DestinationV4
            },
        )?;
    }
    if shared {
        socket.set_reuse_port(true)?;
    }
    if let Some(filter) = filter {
        sys::attach_filter(socket.as_fd(), filter)?;
    }
    socket.bind(&address.into())?;
    let address = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok(Bound {
        socket,
        address,
        last_drops: 0,
        dropped: 0,
        end_seen: false,
        done: false,
        beginning: Beginning::default(),
        last_ns: 0,
        was_empty: false,
        settled_ns: 0,
    })
}

impl UdpSource {
    /// Its sockets, to wait at.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().map(|bound| bound.socket.as_fd())
    }

    /// Gives its sockets another filter, for what comes from now on.
    ///
    /// # Errors
    ///
    /// As setsockopt(2).
    pub fn set_filter(&self, filter: &[Instruction]) -> io::Result<()> {
        let mut sockets = self.sockets.iter();
        sockets.try_for_each(|bound| sys::attach_filter(bound.socket.as_fd(), filter))
    }

    /// Its sockets were seen empty, by who waited for them.
    pub fn note_empty(&mut self) {
        for bound in &mut self.sockets {
            bound.was_empty = true;
        }
    }

    /// Hands over what waits at its sockets, `left` datagrams at the most, without waiting.
    ///
    /// # Errors
    ///
    /// [`UdpError::Receive`].
    pub fn take_waiting(
        &mut self,
        left: &mut usize,
        each: &mut impl FnMut(Arrival<'_>),
    ) -> Result<(), UdpError> {
        self.hand_over(left, each);
        for at in 0..self.sockets.len() {
            if *left == 0 || self.cursor.is_some() {
                break;
            }
            if self.sockets.get(at).is_some_and(|bound| bound.done) {
                continue;
            }
            self.receive(at, *left, false)?;
            self.hand_over(left, each);
        }
        Ok(())
    }

    /// Receives from the socket `at`; what comes waits for [`Self::hand_over`].
    fn receive(&mut self, at: usize, most: usize, wait: bool) -> Result<(), UdpError> {
        let Some(bound) = self.sockets.get_mut(at) else {
            return Ok(());
        };
        let received = match self.batch.receive(bound.socket.as_fd(), most, wait) {
            Ok(received) => received,
            Err(error)
                if matches!(
                    error.kind(),
                    // The last is an ICMP error that came back for this socket: nothing is lost by it.
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::Interrupted
                        | io::ErrorKind::ConnectionRefused
                ) =>
            {
                0
            }
            Err(error) => return Err(UdpError::Receive(error)),
        };
        bound.was_empty = received == 0;
        self.cursor = (received > 0).then_some(Cursor {
            socket: at,
            message: 0,
            segment: 0,
        });
        Ok(())
    }

    /// Hands over what was received, `left` datagrams at the most.
    fn hand_over(&mut self, left: &mut usize, each: &mut impl FnMut(Arrival<'_>)) {
        let Self {
            sockets,
            batch,
            cursor,
            end_ns,
            ..
        } = self;
        let Some(at) = cursor else { return };
        let Some(bound) = sockets.get_mut(at.socket) else {
            *cursor = None;
            return;
        };
        while let Some(message) = batch.message(at.message) {
            if let Some(drops) = message.drops.filter(|_| !bound.end_seen) {
                bound.note_drops(drops);
            }
            if let (Some(end_ns), Some(ts_ns)) = (*end_ns, message.ts_ns)
                && ts_ns > end_ns
            {
                bound.end_seen = true;
                bound.done |= ts_ns > end_ns.saturating_add(END_DISORDER_NS);
                (at.message, at.segment) = (at.message + 1, 0);
                continue;
            }
            let ip = message.dst.filter(|_| bound.address.ip().is_unspecified());
            let src = message.src.unwrap_or(bound.address);
            let ts_ns = message.ts_ns.unwrap_or_else(now_ns);
            if bound.beginning.is_before(ts_ns) {
                (at.message, at.segment) = (at.message + 1, 0);
                continue;
            }
            bound.last_ns = bound.last_ns.max(ts_ns);
            let mut datagram = Datagram {
                ts_ns,
                src,
                dst: SocketAddr::new(
                    ip.unwrap_or_else(|| bound.address.ip()),
                    bound.address.port(),
                ),
                payload: message.payload,
                headers_len: usual_headers_len(src),
                pieces: Pieces::Unseen,
            };
            match message.segment_len {
                Some(len) if len > 0 && len < message.payload.len() => {
                    for payload in message.payload.chunks(len).skip(at.segment) {
                        if *left == 0 {
                            return;
                        }
                        datagram.payload = payload;
                        each(Arrival::Datagram(datagram));
                        at.segment += 1;
                        *left -= 1;
                    }
                }
                _ if *left == 0 => return,
                _ => {
                    each(Arrival::Datagram(datagram));
                    *left -= 1;
                }
            }
            (at.message, at.segment) = (at.message + 1, 0);
        }
        *cursor = None;
    }
}

impl UdpSource {
    /// The next batch of a run that ends: what arrived before, socket by socket.
    fn next_batch_at_end(
        &mut self,
        most: usize,
        mut each: impl FnMut(Arrival<'_>),
    ) -> Result<Progress, UdpError> {
        let mut left = most;
        self.take_waiting(&mut left, &mut each)?;
        if left < most {
            return Ok(Progress::Batch);
        }
        if self.sockets.iter().all(|bound| bound.done) {
            return Ok(Progress::End);
        }
        let open = self.sockets.iter().filter(|bound| !bound.done);
        let open = open.map(|bound| bound.socket.as_fd());
        sys::wait_readable(open, WAIT_AT_END_MS).map_err(UdpError::Receive)?;
        Ok(Progress::Idle)
    }
}

impl Source for UdpSource {
    type Error = UdpError;

    fn next_batch(
        &mut self,
        most: usize,
        mut each: impl FnMut(Arrival<'_>),
    ) -> Result<Progress, UdpError> {
        if self.end_ns.is_some() {
            return self.next_batch_at_end(most, each);
        }
        let mut left = most;
        let count = self.sockets.len();
        if self.cursor.is_none() && count == 1 {
            self.receive(0, left, true)?;
        }
        self.hand_over(&mut left, &mut each);
        if left < most || count == 1 {
            return Ok(if left < most {
                Progress::Batch
            } else {
                Progress::Idle
            });
        }
        let ready = sys::wait_readable(self.fds(), WAIT_MS).map_err(UdpError::Receive)?;
        // Begin with another socket each time, so that none starves another when `most` runs out.
        self.next = (self.next + 1) % count.max(1);
        for step in 0..count {
            let at = (self.next + step) % count;
            if ready >> at.min(127) & 1 == 0 {
                if let Some(bound) = self.sockets.get_mut(at) {
                    bound.was_empty = true;
                }
            } else if left > 0 {
                self.receive(at, left, false)?;
                self.hand_over(&mut left, &mut each);
                if self.cursor.is_some() {
                    break;
                }
            }
        }
        Ok(if left < most {
            Progress::Batch
        } else {
            Progress::Idle
        })
    }

    fn doze(&mut self, alarm: BorrowedFd<'_>, most: Duration) {
        if self.cursor.is_none() && self.end_ns.is_none() {
            let most = i32::try_from(most.as_millis()).unwrap_or(i32::MAX);
            // What is wrong with a socket is told where it is read.
            let _ = sys::wait_readable(std::iter::once(alarm).chain(self.fds()), most);
        }
    }

    fn is_quiet(&mut self) -> bool {
        let waiting = sys::wait_readable(self.fds(), 0);
        self.cursor.is_none() && waiting.is_ok_and(|waiting| waiting == 0)
    }

    fn end_at(&mut self, at_ns: u64) {
        self.end_ns = Some(at_ns);
    }

    fn settled_ns(&mut self, looked_ns: u64) -> u64 {
        let promises = self.sockets.iter_mut();
        let promises = promises.map(|bound| bound.settle(looked_ns));
        promises.min().unwrap_or_default()
    }

    fn lost_so_far(&mut self) -> u64 {
        for bound in self.sockets.iter_mut().filter(|bound| !bound.end_seen) {
            if let Some(drops) = sys::drops(bound.socket.as_fd()) {
                bound.note_drops(drops);
            }
        }
        self.sockets.iter().map(|bound| bound.dropped).sum()
    }
}

/// For kernels that leave a timestamp out.
#[allow(
    clippy::disallowed_methods,
    reason = "once at the start, and when the kernel gave no time of arrival"
)]
fn now_ns() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Whether IPv6 addresses can be bound here: the kernel may be built or started without.
pub fn has_ipv6() -> bool {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    std::net::UdpSocket::bind(any).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever comes while the sockets are being opened: each datagram that is received is where the program
    /// sends it, and nothing from before counts as a loss.
    #[test]
    fn a_group_receives_nothing_before_its_program_is_there() {
        use std::net::UdpSocket;
        use std::sync::atomic::{AtomicBool, Ordering};

        let all_to = |worker: u32| {
            vec![Instruction {
                code: crate::bpf::assembler::RET_K,
                jump_true: 0,
                jump_false: 0,
                operand: worker,
            }]
        };
        for round in 0..20 {
            let senders: Vec<UdpSocket> = (0..16)
                .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
                .collect();
            // A port that is free, and stays the same while others send to it.
            let port = UdpSocket::bind("127.0.0.1:0").unwrap();
            let address = port.local_addr().unwrap();
            drop(port);
            let done = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        for sender in &senders {
                            // Refused as long as nobody listens.
                            let _ = sender.send_to(&[7; 30], address);
                        }
                    }
                });
                std::thread::sleep(Duration::from_millis(2));
                let opened = UdpSource::bind_group(&[address], 4, 2048, |_| Ok(all_to(2)));
                let Ok(mut sources) = opened else {
                    // Another test has got the port in the meantime.
                    return done.store(true, Ordering::Relaxed);
                };
                let mut received = [0; 4];
                while received[2] < 64 {
                    for (source, received) in sources.iter_mut().zip(&mut received) {
                        let mut left = 100;
                        source
                            .take_waiting(&mut left, &mut |_| *received += 1)
                            .unwrap();
                    }
                }
                done.store(true, Ordering::Relaxed);
                assert_eq!(received, [0, 0, received[2], 0], "round {round}");
                let lost: u64 = sources.iter_mut().map(UdpSource::lost_so_far).sum();
                assert_eq!(lost, 0, "round {round}");
            });
        }
    }

    #[test]
    fn a_count_that_is_behind_adds_nothing() {
        let mut bound = bind("127.0.0.1:0".parse().unwrap(), false, None).unwrap();
        for (drops, dropped) in [(3, 3), (2, 3), (3, 3), (5, 5), (0, 5), (7, 7)] {
            bound.note_drops(drops);
            assert_eq!(bound.dropped, dropped, "{drops}");
        }
        // The socket's count wraps.
        bound.last_drops = u32::MAX;
        for (drops, dropped) in [(u32::MAX, 7), (1, 9), (u32::MAX, 9)] {
            bound.note_drops(drops);
            assert_eq!(bound.dropped, dropped, "{drops}");
        }
    }
}
