//! The system calls that have no safe face elsewhere: here socket options that socket2 does not know, cores
//! and waiting; messages, rings and programs in modules of their own. Nowhere else is `unsafe`.

#![allow(
    unsafe_code,
    reason = "system calls without a safe face; see each SAFETY note"
)]

pub mod blocks;
pub mod message_batch;
pub mod ring;
pub mod ring_memory;
pub mod send_batch;
pub mod status;
pub mod tcx;

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd};

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
    let (level, name) = match flag {
        Flag::Timestamps => (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS),
        Flag::DropCounter => (libc::SOL_SOCKET, libc::SO_RXQ_OVFL),
        Flag::DestinationV4 => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        Flag::DestinationV6 => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        Flag::NoChecksumV6 => (libc::IPPROTO_UDP, UDP_NO_CHECK6_RX),
        Flag::Trains => (libc::SOL_UDP, UDP_GRO),
        Flag::SendNoChecksumV4 => (libc::SOL_SOCKET, libc::SO_NO_CHECK),
        Flag::SendNoChecksumV6 => (libc::IPPROTO_UDP, UDP_NO_CHECK6_TX),
        Flag::TellErrorsV4 => (libc::IPPROTO_IP, libc::IP_RECVERR),
        Flag::TellErrorsV6 => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    };
    set_number(socket, level, name, 1)
}

/// Sets the receive buffer beyond the system's limit; needs CAP_NET_ADMIN.
///
/// # Errors
///
/// As setsockopt(2).
pub fn force_receive_buffer(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    set_number(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
}

fn set_number(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    set_option(socket, level, name, &value)
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
    // SAFETY: an all-zero set is valid, and the kernel writes at most the size that is passed along.
    let (outcome, set) = unsafe {
        let mut set: libc::cpu_set_t = zeroed();
        (
            libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set),
            set,
        )
    };
    if outcome != 0 {
        return Vec::new();
    }
    let most = libc::CPU_SETSIZE as usize;
    // SAFETY: only numbers below the set's size are asked for.
    (0..most)
        .filter(|core| unsafe { libc::CPU_ISSET(*core, &set) })
        .collect()
}

/// Keeps the calling thread on one core.
///
/// # Errors
///
/// As sched_setaffinity(2); `InvalidInput` for a core number that no machine has.
pub fn pin_to_core(core: usize) -> io::Result<()> {
    if core >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: an all-zero set is valid, the number is below the set's size, and the size is passed along.
    let outcome = unsafe {
        let mut set: libc::cpu_set_t = zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    done(outcome)
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
    let none = libc::pollfd {
        fd: -1,
        events: libc::POLLIN,
        revents: 0,
    };
    let mut polls = [none; MAX_WAITED_AT];
    let mut used = 0;
    let mut more = 0;
    for socket in sockets {
        match polls.get_mut(used) {
            Some(poll) => {
                poll.fd = socket.as_raw_fd();
                used += 1;
            }
            None => more = u128::MAX << MAX_WAITED_AT,
        }
    }
    // SAFETY: the array is live for the call and has at least as many entries as are passed along.
    let outcome = unsafe { libc::poll(polls.as_mut_ptr(), used as libc::nfds_t, timeout_ms) };
    if outcome < 0 {
        let error = io::Error::last_os_error();
        return match error.kind() {
            io::ErrorKind::Interrupted => Ok(more),
            _ => Err(error),
        };
    }
    let ready = polls.iter().enumerate();
    let ready = ready.filter(|(_, poll)| poll.revents != 0);
    Ok(ready.fold(more, |ready, (at, _)| ready | 1 << at))
}
