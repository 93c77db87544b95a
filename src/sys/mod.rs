//! System calls. Where nix has a safe face it is used: waiting, cores, most socket options. What has none is
//! here and in the modules below, which are the only ones with `unsafe`: options that nix does not know, messages
//! in batches, rings and programs.

#![allow(
    unsafe_code,
    reason = "system calls without a safe face; see each SAFETY note"
)]

pub mod blocks;
pub mod bpf;
pub mod message_batch;
pub mod ring;
pub mod ring_memory;
pub mod send_batch;
pub mod status;
pub mod tcx;

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{
    Ipv4PacketInfo, Ipv4RecvErr, Ipv6RecvErr, Ipv6RecvPacketInfo, RcvBufForce, ReceiveTimestampns,
    RxqOvfl,
};
use nix::unistd::Pid;

use crate::bpf::assembler::Instruction;

/// `UDP_GRO` of linux/udp.h, which libc does not have for every C library.
const UDP_GRO: libc::c_int = 104;

/// A socket option whose value is a number.
#[derive(Clone, Copy, Debug)]
pub enum Flag {
    /// Kernel arrival times with each datagram.
    Timestamps,
    /// The drop counter with each datagram.
    DropCounter,
    /// The destination address with each IPv4 datagram.
    DestinationV4,
    /// The destination address with each IPv6 datagram.
    DestinationV6,
    /// Accept IPv6 datagrams with a zero checksum (RFC 6935, RFC 7348 §4.3).
    NoChecksumV6,
    /// Datagrams that the kernel put together on arrival are handed over as one train.
    Trains,
    /// Send IPv4 datagrams with a zero checksum (RFC 7348 §5).
    SendNoChecksumV4,
    /// Send IPv6 datagrams with a zero checksum.
    SendNoChecksumV6,
    /// Tell when IPv4 datagrams find no room in the queue of an interface, instead of losing them.
    TellErrorsV4,
    /// The same for IPv6.
    TellErrorsV6,
}

/// Turns an option on.
///
/// # Errors
///
/// As setsockopt(2).
pub fn enable(socket: BorrowedFd<'_>, flag: Flag) -> io::Result<()> {
    /// `UDP_NO_CHECK6_RX` of linux/udp.h, which libc does not have.
    const UDP_NO_CHECK6_RX: libc::c_int = 102;
    /// `UDP_NO_CHECK6_TX` of the same.
    const UDP_NO_CHECK6_TX: libc::c_int = 101;
    match flag {
        Flag::Timestamps => setsockopt(&socket, ReceiveTimestampns, &true)?,
        Flag::DropCounter => setsockopt(&socket, RxqOvfl, &1)?,
        Flag::DestinationV4 => setsockopt(&socket, Ipv4PacketInfo, &true)?,
        Flag::DestinationV6 => setsockopt(&socket, Ipv6RecvPacketInfo, &true)?,
        Flag::TellErrorsV4 => setsockopt(&socket, Ipv4RecvErr, &true)?,
        Flag::TellErrorsV6 => setsockopt(&socket, Ipv6RecvErr, &true)?,
        Flag::NoChecksumV6 => set_number(socket, libc::IPPROTO_UDP, UDP_NO_CHECK6_RX, 1)?,
        Flag::SendNoChecksumV6 => set_number(socket, libc::IPPROTO_UDP, UDP_NO_CHECK6_TX, 1)?,
        Flag::SendNoChecksumV4 => set_number(socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)?,
        Flag::Trains => set_number(socket, libc::SOL_UDP, UDP_GRO, 1)?,
    }
    Ok(())
}

/// Sets the receive buffer beyond the system's limit; needs CAP_NET_ADMIN.
///
/// # Errors
///
/// As setsockopt(2).
pub fn force_receive_buffer(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    Ok(setsockopt(&socket, RcvBufForce, &bytes)?)
}

fn set_number(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    set_option(socket, level, name, &value)
}

/// Bytes that were written to a connected TCP socket and that the other side has not acknowledged.
///
/// # Errors
///
/// As ioctl(2).
pub fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ, which is TIOCOUTQ, writes one int to where the pointer leads, and `bytes` lives that long.
    let outcome = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    match outcome {
        0 => Ok(u64::try_from(bytes).unwrap_or_default()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets an option whose value is a plain C structure.
fn set_option<T: Copy>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the value is live and its size is passed along; the kernel only reads it.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    done(outcome)
}

/// Values of options that any bytes are valid for.
trait Plain: Copy + Default {}
impl Plain for u32 {}
impl<const N: usize> Plain for [u32; N] where Self: Default {}

/// An option's value; what the kernel left out is 0.
fn option<T: Plain>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
) -> io::Result<T> {
    let mut value = T::default();
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `value`, which has that many and takes any.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_mut(&mut value).cast(),
            &raw mut len,
        )
    };
    done(outcome).map(|()| value)
}

/// What a system call came to.
fn done(outcome: libc::c_int) -> io::Result<()> {
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Gives a group of SO_REUSEPORT sockets the program that chooses among them. One socket of the group
/// speaks for all; its numbers are the order of binding.
///
/// # Errors
///
/// As setsockopt(2).
pub fn attach_reuseport_program(socket: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    let name = libc::SO_ATTACH_REUSEPORT_CBPF;
    attach_program(socket, libc::SOL_SOCKET, name, program)
}

/// Gives a socket the filter that decides what is queued.
///
/// # Errors
///
/// As setsockopt(2).
pub fn attach_filter(socket: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    attach_program(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program)
}

fn attach_program(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    program: &[Instruction],
) -> io::Result<()> {
    let mut filter: Vec<libc::sock_filter> = program
        .iter()
        .map(|instruction| libc::sock_filter {
            code: instruction.code,
            jt: instruction.jump_true,
            jf: instruction.jump_false,
            k: instruction.operand,
        })
        .collect();
    let len = libc::c_ushort::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // The kernel copies the instructions behind the pointer during the call.
    let program = libc::sock_fprog {
        len,
        filter: filter.as_mut_ptr(),
    };
    set_option(socket, level, name, &program)
}

/// The cores this process may use.
pub fn allowed_cores() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    let is_allowed = |core: &usize| set.is_set(*core).unwrap_or_default();
    (0..CpuSet::count()).filter(is_allowed).collect()
}

/// Keeps the calling thread on one core.
///
/// # Errors
///
/// As sched_setaffinity(2); `InvalidInput` for a core number that no machine has.
pub fn pin_to_core(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Gives the calling thread, and the programs that it starts, a priority that is so many steps lower than usual; 19 is the
/// lowest.
///
/// # Errors
///
/// As setpriority(2).
pub fn be_nice(steps: libc::c_int) -> io::Result<()> {
    // SAFETY: numbers alone; 0 is the calling thread.
    done(unsafe { libc::setpriority(libc::PRIO_PROCESS as _, 0, steps) })
}

/// Whether this process ignores a signal; whoever started it may have wanted that.
pub fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: an all-zero value is valid; without a new action the kernel only writes to the old one.
    let (outcome, action) = unsafe {
        let mut action: libc::sigaction = zeroed();
        (
            libc::sigaction(signal, std::ptr::null(), &raw mut action),
            action,
        )
    };
    outcome == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// The socket's count of drops so far; wraps. `None` on kernels before 4.12.
pub fn drops(socket: BorrowedFd<'_>) -> Option<u32> {
    // linux/sock_diag.h: SK_MEMINFO_DROPS is the ninth number.
    let numbers: [u32; 9] = option(socket, libc::SOL_SOCKET, libc::SO_MEMINFO).ok()?;
    numbers.last().copied()
}

/// Writes a range of a file to the disk and waits for it. Its metadata stays behind: fsync(2) has to follow.
///
/// # Errors
///
/// As sync_file_range(2).
pub fn sync_range(file: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    let (Ok(offset), Ok(len)) = (offset.try_into(), len.try_into()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: the descriptor is open for the call, and no memory is passed.
    done(unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, flags) })
}

/// Most sockets that are waited at together.
const MAX_WAITED_AT: usize = 64;

/// Waits until one of the sockets can be read, or has a fault to tell. Bit N of the answer is set when
/// that holds for number N; sockets beyond 64 are looked at as if it did.
///
/// # Errors
///
/// As poll(2); an interrupting signal is no error.
pub fn wait_readable<'a>(
    sockets: impl IntoIterator<Item = BorrowedFd<'a>>,
    timeout_ms: i32,
) -> io::Result<u128> {
    let timeout = PollTimeout::try_from(timeout_ms).unwrap_or(PollTimeout::MAX);
    let mut sockets = sockets
        .into_iter()
        .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    let Some(first) = sockets.next() else {
        poll(&mut [], timeout)?;
        return Ok(0);
    };
    let mut polls: [PollFd<'_>; MAX_WAITED_AT] = std::array::from_fn(|_| first.clone());
    let mut used = 1;
    let mut more = 0;
    for socket in sockets {
        match polls.get_mut(used) {
            Some(poll) => {
                *poll = socket;
                used += 1;
            }
            None => more = u128::MAX << MAX_WAITED_AT,
        }
    }
    let polls = polls.get_mut(..used).unwrap_or_default();
    match poll(polls, timeout) {
        Ok(_) => {}
        Err(nix::errno::Errno::EINTR) => return Ok(more),
        Err(error) => return Err(error.into()),
    }
    let ready = polls.iter().enumerate();
    // Events that nix does not know are events too.
    let ready = ready.filter(|(_, poll)| poll.any().unwrap_or(true));
    Ok(ready.fold(more, |ready, (at, _)| ready | 1 << at))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn sockets_that_can_be_read_are_told() {
        let sockets: Vec<UdpSocket> = (0..70)
            .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
            .collect();
        let wait = |count: usize| {
            let sockets = sockets.iter().take(count).map(UdpSocket::as_fd);
            wait_readable(sockets, 0).unwrap()
        };
        assert_eq!((wait(0), wait(1), wait(64)), (0, 0, 0));
        for at in [0, 3, 63] {
            sockets[5]
                .send_to(b"x", sockets[at].local_addr().unwrap())
                .unwrap();
        }
        assert_eq!(wait(3), 1);
        let all = 1 | 1 << 3 | 1 << 63;
        assert_eq!(wait(64), all);
        assert_eq!(
            wait(65),
            all | u128::MAX << 64,
            "those beyond are taken for ready"
        );
        assert_eq!(wait(70), all | u128::MAX << 64);
    }

    #[test]
    fn cores_are_those_of_this_process() {
        let cores = allowed_cores();
        assert!(!cores.is_empty());
        let pinned = std::thread::spawn(move || {
            pin_to_core(cores[0]).unwrap();
            allowed_cores() == [cores[0]]
        });
        assert!(pinned.join().unwrap());
        let kind = |core| pin_to_core(core).unwrap_err().kind();
        assert_eq!(kind(1023), io::ErrorKind::InvalidInput, "no such core here");
        assert_eq!(kind(1024), io::ErrorKind::InvalidInput, "no machine has it");
        assert_eq!(kind(usize::MAX), io::ErrorKind::InvalidInput);
    }
}
