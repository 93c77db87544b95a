//! The sockets datagrams are sent from, and what the system says to it.

use std::collections::btree_map::{BTreeMap, Entry};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

#[cfg(target_os = "linux")]
use libc::{EMSGSIZE, ENOBUFS};

use super::options::Options;
use crate::failure::Failure;
use crate::stop::Stop;

/// Ports that share a socket with --source-port-hash: 256 sockets for 16384 ports.
const PORTS_PER_SOCKET: u16 = 64;
/// While the system has no room for a datagram it is tried again, for ten seconds.
const SEND_TRIES: u32 = 10_000;
const BETWEEN_TRIES: Duration = Duration::from_millis(1);

/// "Message too long" and "no buffer space" of macOS and the BSDs; `ErrorKind` has no words for them.
#[cfg(not(target_os = "linux"))]
const EMSGSIZE: i32 = 40;
#[cfg(not(target_os = "linux"))]
const ENOBUFS: i32 = 55;

/// What the system said instead of taking a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It is too large.
    TooLarge,
    /// The answer to an earlier datagram; this one has not been sent.
    Refused,
    /// No room for it now.
    Full,
    /// A signal came.
    Interrupted,
    /// A fault.
    Fault,
}

impl Trouble {
    /// What `error` means.
    pub fn of(error: &io::Error) -> Self {
        match (error.kind(), error.raw_os_error()) {
            (_, Some(EMSGSIZE)) => Self::TooLarge,
            // What routers and firewalls on the way answer, too.
            (
                ErrorKind::ConnectionRefused
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable
                | ErrorKind::PermissionDenied,
                _,
            ) => Self::Refused,
            (ErrorKind::WouldBlock, _) | (_, Some(ENOBUFS)) => Self::Full,
            (ErrorKind::Interrupted, _) => Self::Interrupted,
            _ => Self::Fault,
        }
    }
}

/// The fault of a system that refuses to send.
pub fn cannot_send(target: SocketAddr, error: &io::Error) -> Failure {
    let link_local = match target {
        SocketAddr::V4(_) => false,
        SocketAddr::V6(target) => target.ip().is_unicast_link_local() && target.scope_id() == 0,
    };
    let (ip, port) = (target.ip(), target.port());
    let hint = match error.kind() {
        _ if link_local => format!(
            ": each interface has link-local addresses of its own, so name it: --to '[{ip}%INTERFACE]:{port}'"
        ),
        io::ErrorKind::PermissionDenied if ip == Ipv4Addr::BROADCAST => {
            ": a broadcast address is no mirror target; give the address of one machine".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            ": a firewall rule of this machine may refuse it ('nft list ruleset'), or it is a broadcast address"
                .to_owned()
        }
        _ => String::new(),
    };
    Failure::running(format!("cannot send to {target}: {error}{hint}"))
}

/// The fault of an address or a port that cannot be sent from.
pub fn cannot_send_from(end: SocketAddr, error: &io::Error) -> Failure {
    let hint = match error.kind() {
        io::ErrorKind::AddrNotAvailable => {
            ": no interface of this machine has that address ('ip address' shows those there are); --write can \
             have any source address"
        }
        io::ErrorKind::PermissionDenied if end.port() < 1024 => {
            ": ports below 1024 need root or CAP_NET_BIND_SERVICE"
        }
        io::ErrorKind::AddrInUse => {
            ": another program holds that port; choose another --source-port"
        }
        _ => "",
    };
    Failure::running(format!("cannot send from {end}: {error}{hint}"))
}

/// Where datagrams leave from: `source`, or any address of the target's IP version.
pub fn source_or_any(source: Option<IpAddr>, target: SocketAddr) -> IpAddr {
    source.unwrap_or(match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    })
}

/// Connects a socket to the target and gives it the options asked for.
pub fn prepare(socket: &UdpSocket, target: SocketAddr, no_checksum: bool) -> Result<(), Failure> {
    set_options(socket, target, no_checksum)?;
    socket
        .connect(target)
        .map_err(|error| cannot_send(target, &error))
}

#[cfg(target_os = "linux")]
fn set_options(socket: &UdpSocket, target: SocketAddr, no_checksum: bool) -> Result<(), Failure> {
    use std::os::fd::AsFd;

    use crate::sys::{Flag, enable};

    let (tell_errors, send_no_checksum) = match target {
        SocketAddr::V4(_) => (Flag::TellErrorsV4, Flag::SendNoChecksumV4),
        SocketAddr::V6(_) => (Flag::TellErrorsV6, Flag::SendNoChecksumV6),
    };
    enable(socket.as_fd(), tell_errors)?;
    if no_checksum {
        enable(socket.as_fd(), send_no_checksum)
            .map_err(|error| Failure::running(format!("--no-udp-checksum: {error}")))?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn set_options(_: &UdpSocket, _: SocketAddr, no_checksum: bool) -> Result<(), Failure> {
    match no_checksum {
        true => Err(Failure::running("--no-udp-checksum needs Linux")),
        false => Ok(()),
    }
}

/// One socket, or with --source-port-hash one for each group of ports, opened when it is needed.
pub struct Sockets {
    target: SocketAddr,
    source: IpAddr,
    /// Source port without a hash; 0 lets the system choose.
    port: u16,
    no_checksum: bool,
    by_port: BTreeMap<u16, UdpSocket>,
    refusal_told: bool,
    stop: Arc<Stop>,
}

impl Sockets {
    pub fn new(target: SocketAddr, options: &Options, stop: Arc<Stop>) -> Self {
        Self {
            stop,
            target,
            source: source_or_any(options.source, target),
            port: options.source_port.unwrap_or(0),
            no_checksum: options.no_udp_checksum,
            by_port: BTreeMap::new(),
            refusal_told: false,
        }
    }

    /// Where datagrams go.
    pub fn target(&self) -> SocketAddr {
        self.target
    }

    /// Sends a datagram, from near the port `hashed` if there is one; `false` when it is too large.
    pub fn send(&mut self, hashed: Option<u16>, payload: &[u8]) -> Result<bool, Failure> {
        let target = self.target;
        let mut tries_left = SEND_TRIES;
        loop {
            let error = match self.socket(hashed)?.send(payload) {
                Ok(_) => return Ok(true),
                Err(error) => error,
            };
            tries_left -= 1;
            match Trouble::of(&error) {
                Trouble::TooLarge => return Ok(false),
                Trouble::Refused if tries_left > 0 => {
                    if !self.refusal_told {
                        tracing::warn!("{target} does not take datagrams ({error}); sending on");
                    }
                    self.refusal_told = true;
                }
                Trouble::Full if tries_left > 0 && !self.stop.is_set() => sleep(BETWEEN_TRIES),
                Trouble::Interrupted if tries_left > 0 => {}
                _ => return Err(cannot_send(target, &error)),
            }
        }
    }

    fn socket(&mut self, hashed: Option<u16>) -> Result<&UdpSocket, Failure> {
        let (source, target) = (self.source, self.target);
        let (first, last) = match hashed {
            Some(port) => {
                let first = port - port % PORTS_PER_SOCKET;
                (first, first + (PORTS_PER_SOCKET - 1))
            }
            None => (self.port, self.port),
        };
        let vacant = match self.by_port.entry(first) {
            Entry::Occupied(socket) => return Ok(socket.into_mut()),
            Entry::Vacant(vacant) => vacant,
        };
        // `bind` takes the first of these that is free.
        let ends: Vec<SocketAddr> = (first..=last).map(|port| (source, port).into()).collect();
        let socket = UdpSocket::bind(ends.as_slice()).map_err(|error| {
            let end = SocketAddr::new(source, first);
            cannot_send_from(end, &error)
        })?;
        prepare(&socket, target, self.no_checksum)?;
        Ok(vacant.insert(socket))
    }
}
