//! Datagrams that leave in batches, as a generator at full speed needs it (Linux).

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::send::Counts;
use crate::send::pace::now;
use crate::send::sockets::{Trouble, cannot_send, cannot_send_from, prepare, source_or_any};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::failure::Failure;
use crate::send::encapsulate::FIRST_SOURCE_PORT;
use crate::send::options::{Generate, Options};
use crate::stop::Stop;
use crate::sys::send_batch::SendBatch;

/// Datagrams one system call takes; more gained nothing.
pub const BATCH: usize = 64;
/// Asked for, so that sending waits less often; the system may grant less.
const SEND_BUFFER: usize = 4 << 20;
/// The system is asked again after this time, and so long at the most.
const BETWEEN_TRIES: Duration = Duration::from_micros(100);
const LONGEST_TRY: Duration = Duration::from_secs(10);

/// A batch and the sockets it leaves from, one a source port.
pub struct Burst {
    target: SocketAddr,
    sockets: Vec<UdpSocket>,
    batch: SendBatch,
    slots: Vec<Slot>,
    /// Numbers of slots, those of one source port together.
    order: Vec<usize>,
    /// Send again what the system has no room for.
    retry: bool,
    refusal_told: bool,
    stop: Arc<Stop>,
}

/// What is known of a datagram in the batch.
struct Slot {
    source_port: u16,
    was_cut: bool,
}

impl Burst {
    /// Opens the sockets, for datagrams of at most `longest` bytes.
    pub fn new(
        options: &Options,
        plan: &Generate,
        target: SocketAddr,
        longest: usize,
        stop: Arc<Stop>,
    ) -> Result<Self, Failure> {
        Ok(Self {
            stop,
            target,
            sockets: open(options, plan.traffic.source_ports, target)?,
            batch: SendBatch::new(BATCH, longest),
            slots: Vec::with_capacity(BATCH),
            order: Vec::with_capacity(BATCH),
            retry: plan.retry,
            refusal_told: false,
        })
    }

    /// Adds a datagram to the batch. `source_port` is the number of its socket.
    pub fn push(&mut self, payload: &[u8], source_port: u16, was_cut: bool) {
        let fits = self.batch.push(payload);
        debug_assert!(fits, "no more than BATCH, none longer than announced");
        self.order.push(self.slots.len());
        self.slots.push(Slot {
            source_port,
            was_cut,
        });
    }

    /// Sends the batch; counts each datagram as sent or too large, or as neither when the system has no room
    /// for it, with retries until `end` or the
    /// end of the run. From one socket they leave in their order.
    pub fn flush(&mut self, end: Option<Instant>, counts: &mut Counts) -> Result<(), Failure> {
        let port_of = |slot: usize| self.slots.get(slot).map_or(0, |slot| slot.source_port);
        let mut order = std::mem::take(&mut self.order);
        if self.sockets.len() > 1 {
            order.sort_unstable_by_key(|slot| (port_of(*slot), *slot));
        }
        let groups = order.chunk_by(|a, b| port_of(*a) == port_of(*b));
        let groups: Vec<(usize, &[usize])> = groups
            .filter_map(|group| Some((usize::from(port_of(*group.first()?)), group)))
            .collect();
        let outcome = groups
            .into_iter()
            .try_for_each(|(socket, group)| self.send(socket, group, end, counts));
        order.clear();
        self.order = order;
        self.slots.clear();
        self.batch.clear();
        outcome
    }

    fn send(
        &mut self,
        socket: usize,
        mut slots: &[usize],
        end: Option<Instant>,
        counts: &mut Counts,
    ) -> Result<(), Failure> {
        let mut refused_since = None;
        // "Too large" may be the answer to an earlier datagram: the second time it is meant.
        let mut too_large_once = false;
        while let Some((first, rest)) = slots.split_first() {
            let Some(from) = self.sockets.get(socket) else {
                return Err(Failure::running("a source port without a socket"));
            };
            let error = match self.batch.send(from.as_fd(), slots) {
                Ok(taken) => {
                    let (sent, left) = slots.split_at_checked(taken).unwrap_or((slots, &[]));
                    for slot in sent {
                        counts.sent += 1;
                        counts.payload_bytes += self.batch.payload_len(*slot) as u64;
                        let was_cut = self.slots.get(*slot).is_some_and(|slot| slot.was_cut);
                        counts.cut += u64::from(was_cut);
                    }
                    slots = left;
                    (refused_since, too_large_once) = (None, false);
                    continue;
                }
                Err(error) => error,
            };
            let trouble = Trouble::of(&error);
            let now = now();
            let refused_since = *refused_since.get_or_insert(now);
            if trouble == Trouble::TooLarge && too_large_once {
                counts.too_large += 1;
                slots = rest;
                too_large_once = false;
                let payload_len = self.batch.payload_len(*first);
                if counts.too_large == 1 {
                    tracing::warn!(payload_len, "too large for a UDP datagram: left out");
                }
                continue;
            }
            if trouble == Trouble::Full && !self.retry {
                slots = rest;
                continue;
            }
            if trouble == Trouble::Fault || now.duration_since(refused_since) > LONGEST_TRY {
                return Err(cannot_send(self.target, &error));
            }
            if end.is_some_and(|end| now >= end) || self.stop.is_set() {
                return Ok(());
            }
            counts.retries += 1;
            match trouble {
                Trouble::TooLarge => too_large_once = true,
                Trouble::Refused => {
                    let target = self.target;
                    if !self.refusal_told {
                        tracing::warn!("{target} does not take datagrams ({error}); sending on");
                    }
                    self.refusal_told = true;
                }
                Trouble::Full => sleep(BETWEEN_TRIES),
                Trouble::Interrupted | Trouble::Fault => {}
            }
        }
        Ok(())
    }
}

/// Lets this process have `sockets` open at once, as far as the system allows: the limit that most systems
/// begin with is 1024 files.
fn raise_open_files(sockets: usize) {
    let wanted = sockets as u64 + 64;
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < wanted
    {
        // What is not granted shows when the sockets are opened.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard);
    }
}

/// A socket for each source port. Ports that are taken make room for the next, unless they were asked for.
fn open(options: &Options, ports: u16, target: SocketAddr) -> Result<Vec<UdpSocket>, Failure> {
    let source = source_or_any(options.source, target);
    let wanted = usize::from(ports);
    let first = match (options.source_port, wanted) {
        (Some(port), _) => port,
        // The system chooses.
        (None, 1) => 0,
        (None, _) => FIRST_SOURCE_PORT,
    };
    raise_open_files(wanted);
    let mut sockets = Vec::with_capacity(wanted);
    for port in first..=u16::MAX {
        if sockets.len() == wanted {
            break;
        }
        let socket = match UdpSocket::bind((source, port)) {
            Ok(socket) => socket,
            Err(error) if error.kind() == ErrorKind::AddrInUse && options.source_port.is_none() => {
                continue;
            }
            Err(error) => {
                let end = SocketAddr::new(source, port);
                return Err(cannot_send_from(end, &error));
            }
        };
        // What is granted is enough, only slower.
        let _ = socket2::SockRef::from(&socket).set_send_buffer_size(SEND_BUFFER);
        // A link that takes nothing must not hold the run beyond its end.
        socket.set_write_timeout(Some(Duration::from_millis(100)))?;
        prepare(&socket, target, options.no_udp_checksum)?;
        sockets.push(socket);
    }
    if sockets.len() < wanted {
        return Err(Failure::running(format!(
            "only {} of {wanted} source ports from {first} up are free",
            sockets.len()
        )));
    }
    Ok(sockets)
}
