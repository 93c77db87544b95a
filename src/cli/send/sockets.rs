//! The sockets datagrams are sent from, and what the system says to it.

use std::collections::btree_map::{BTreeMap, Entry};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread::sleep;
use std::time::Duration;

#[cfg(target_os = "linux")]
use libc::{EMSGSIZE, ENOBUFS};

use crate::cli::Failure;
use crate::cli::args::SendArgs;

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

/// One socket, or with --source-port-hash one for each group of ports, opened when it is needed.
pub struct Sockets {
    target: SocketAddr,
    source: IpAddr,
    /// Source port without a hash; 0 lets the system choose.
    port: u16,
    by_port: BTreeMap<u16, UdpSocket>,
    refusal_told: bool,
}

impl Sockets {
    pub fn new(target: SocketAddr, args: &SendArgs) -> Self {
        let any: IpAddr = match target {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        Self {
            target,
            source: args.source.unwrap_or(any),
            port: args.source_port.unwrap_or(0),
            by_port: BTreeMap::new(),
            refusal_told: false,
        }
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
            match (error.kind(), error.raw_os_error()) {
                (_, Some(EMSGSIZE)) => return Ok(false),
                // The answer to an earlier datagram; this one has not been sent.
                (ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable, _)
                    if tries_left > 0 =>
                {
                    if !self.refusal_told {
                        tracing::warn!("{target} does not take datagrams ({error}); sending on");
                    }
                    self.refusal_told = true;
                }
                (ErrorKind::WouldBlock, _) | (_, Some(ENOBUFS)) if tries_left > 0 => {
                    sleep(BETWEEN_TRIES);
                }
                (ErrorKind::Interrupted, _) if tries_left > 0 => {}
                _ => {
                    return Err(Failure::running(format!(
                        "cannot send to {target}: {error}"
                    )));
                }
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
            Failure::running(format!("cannot send from {end}: {error}"))
        })?;
        socket
            .connect(target)
            .map_err(|error| Failure::running(format!("cannot send to {target}: {error}")))?;
        Ok(vacant.insert(socket))
    }
}
