//! UDP sockets: datagrams in batches, with the kernel's time of arrival and count of drops.
//!
//! Needs no privilege. Several addresses, IPv4 and IPv6, are served by one thread.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use socket2::{Domain, Protocol, Socket, Type};

use super::steer::Instruction;
use super::sys::{self, Flag, MessageBatch};
use super::{Arrival, Datagram, Progress, Source};

/// Datagrams taken with one system call; more gained nothing when measured.
const BATCH: usize = 64;
/// Room for the largest UDP payload there is: a datagram is never cut by us.
const SLOT_LEN: usize = 65_536;
/// How long to wait for a datagram before the source is called idle.
const WAIT_MS: i32 = 10;
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

struct Bound {
    socket: Socket,
    address: SocketAddr,
    last_drops: u32,
    dropped: u64,
}

impl Bound {
    fn note_drops(&mut self, drops: u32) {
        self.dropped += u64::from(drops.wrapping_sub(self.last_drops));
        self.last_drops = drops;
    }
}

/// The sockets of one worker.
pub struct UdpSource {
    sockets: Vec<Bound>,
    batch: MessageBatch,
    ready: Vec<bool>,
    next: usize,
}

impl UdpSource {
    /// Binds `addresses` for one worker. A port of 0 lets the system choose one.
    ///
    /// # Errors
    ///
    /// [`UdpError::Bind`] with the address at fault.
    pub fn bind(addresses: &[SocketAddr]) -> Result<Self, UdpError> {
        let bound = addresses
            .iter()
            .map(|address| bind(*address, false).map_err(bind_error(*address)));
        bound.collect::<Result<Vec<_>, _>>().map(Self::of)
    }

    /// Binds `addresses` for several workers: one source each. The kernel gives every datagram to the
    /// worker that `program_of` the port chooses.
    ///
    /// # Errors
    ///
    /// [`UdpError::Bind`] with the address at fault.
    pub fn bind_group(
        addresses: &[SocketAddr],
        workers: u32,
        program_of: impl Fn(u16) -> Vec<Instruction>,
    ) -> Result<Vec<Self>, UdpError> {
        let mut groups: Vec<Vec<Bound>> = (0..workers).map(|_| Vec::new()).collect();
        for address in addresses {
            // Who shares a port cannot tell that somebody else holds it; a socket that does not share can.
            let mut address = bind(*address, false).map_err(bind_error(*address))?.address;
            for group in &mut groups {
                let bound = bind(address, true).map_err(bind_error(address))?;
                address = bound.address;
                group.push(bound);
            }
            // The program counts sockets in the order they were bound: all first, then the program.
            if let Some(bound) = groups.first().and_then(|group| group.last()) {
                let program = program_of(address.port());
                sys::attach_reuseport_program(bound.socket.as_fd(), &program)
                    .map_err(bind_error(address))?;
            }
        }
        Ok(groups.into_iter().map(Self::of).collect())
    }

    fn of(sockets: Vec<Bound>) -> Self {
        Self {
            sockets,
            batch: MessageBatch::new(BATCH, SLOT_LEN),
            ready: Vec::new(),
            next: 0,
        }
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

    /// Bytes of memory its slots may take.
    pub const fn memory_bytes() -> usize {
        BATCH * SLOT_LEN
    }

    /// Datagrams the kernel dropped because a socket's buffer was full.
    pub fn kernel_dropped(&mut self) -> u64 {
        for bound in &mut self.sockets {
            if let Some(drops) = sys::drops(bound.socket.as_fd()) {
                bound.note_drops(drops);
            }
        }
        self.sockets.iter().map(|bound| bound.dropped).sum()
    }
}

fn bind_error(address: SocketAddr) -> impl Fn(io::Error) -> UdpError {
    move |source| UdpError::Bind { address, source }
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<Bound> {
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
    socket.bind(&address.into())?;
    let address = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok(Bound {
        socket,
        address,
        last_drops: 0,
        dropped: 0,
    })
}

impl Source for UdpSource {
    type Error = UdpError;

    fn next_batch(
        &mut self,
        most: usize,
        mut each: impl FnMut(Arrival<'_>),
    ) -> Result<Progress, UdpError> {
        let fds: Vec<BorrowedFd<'_>> = self
            .sockets
            .iter()
            .map(|bound| bound.socket.as_fd())
            .collect();
        sys::wait_readable(&fds, WAIT_MS, &mut self.ready).map_err(UdpError::Receive)?;
        drop(fds);
        let mut left = most;
        let count = self.sockets.len();
        // Begin with another socket each time, so that none starves another when `most` runs out.
        self.next = (self.next + 1) % count.max(1);
        let mut progress = Progress::Idle;
        for step in 0..count {
            let at = (self.next + step) % count;
            if left == 0 || self.ready.get(at) != Some(&true) {
                continue;
            }
            let Some(bound) = self.sockets.get_mut(at) else {
                continue;
            };
            let received = match self.batch.receive(bound.socket.as_fd(), left) {
                Ok(received) => received,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) =>
                {
                    0
                }
                // An ICMP error that came back for this socket: nothing is lost by it.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => 0,
                Err(error) => return Err(UdpError::Receive(error)),
            };
            left -= received;
            for message in self.batch.messages() {
                progress = Progress::Batch;
                if let Some(drops) = message.drops {
                    bound.note_drops(drops);
                }
                let ip = message.dst.filter(|_| bound.address.ip().is_unspecified());
                each(Arrival::Datagram(Datagram {
                    ts_ns: message.ts_ns.unwrap_or_else(now_ns),
                    src: message.src.unwrap_or(bound.address),
                    dst: SocketAddr::new(
                        ip.unwrap_or_else(|| bound.address.ip()),
                        bound.address.port(),
                    ),
                    payload: message.payload,
                    sent_len: message.sent_len,
                }));
            }
        }
        Ok(progress)
    }

    fn lost_so_far(&mut self) -> u64 {
        self.kernel_dropped()
    }
}

/// For kernels that leave a timestamp out.
#[allow(
    clippy::disallowed_methods,
    reason = "only when the kernel gave no time of arrival"
)]
fn now_ns() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Who holds a UDP port, in words; `None` when it cannot be told.
pub fn port_holder(address: SocketAddr) -> Option<String> {
    let inode = ["/proc/net/udp", "/proc/net/udp6"]
        .iter()
        .find_map(|table| {
            let table = std::fs::read_to_string(table).ok()?;
            table.lines().skip(1).find_map(|line| {
                let columns: Vec<&str> = line.split_whitespace().collect();
                let (_, port) = columns.get(1)?.rsplit_once(':')?;
                let same = u16::from_str_radix(port, 16) == Ok(address.port());
                same.then(|| columns.get(9).and_then(|inode| inode.parse::<u64>().ok()))
                    .flatten()
            })
        })?;
    let link = format!("socket:[{inode}]");
    let mut all_seen = true;
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        let Some(id) = name
            .to_str()
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        else {
            continue;
        };
        let Ok(files) = std::fs::read_dir(process.path().join("fd")) else {
            all_seen = false;
            continue;
        };
        let mut targets = files
            .flatten()
            .filter_map(|file| std::fs::read_link(file.path()).ok());
        if targets.any(|target| target.as_os_str() == link.as_str()) {
            let command = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("process {id} ({})", command.trim()));
        }
    }
    let devices = vxlan_devices();
    let devices = match devices.as_slice() {
        [] => "no vxlan device in this network namespace".to_owned(),
        devices => format!("vxlan devices here: {}", devices.join(", ")),
    };
    // A socket that no process has open is the kernel's own, if all processes could be seen.
    let whom = if all_seen {
        "the kernel itself"
    } else {
        "the kernel or another user's process"
    };
    Some(format!("{whom} ({devices})"))
}

/// Names of the kernel's vxlan devices in this network namespace.
fn vxlan_devices() -> Vec<String> {
    let Ok(devices) = std::fs::read_dir("/sys/class/net") else {
        return Vec::new();
    };
    let is_vxlan = |device: &std::fs::DirEntry| {
        let about = std::fs::read_to_string(device.path().join("uevent")).unwrap_or_default();
        about.lines().any(|line| line == "DEVTYPE=vxlan")
    };
    let vxlan = devices.flatten().filter(is_vxlan);
    vxlan
        .map(|device| device.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Whether an address is one this machine would have to own.
pub const fn is_specific(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_loopback()
}
