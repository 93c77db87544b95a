//! bpf(2): programs loaded into the kernel and the maps that they share with us (linux/bpf.h `union bpf_attr`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::bpf::ebpf::Instruction;

pub(super) const BPF_TCX_INGRESS: u32 = 46;
const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const MAP_DELETE_ELEM: libc::c_long = 3;
const PROG_LOAD: libc::c_long = 5;

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Judges what a socket gets.
    SocketFilter,
    /// Judges what comes in on an interface, on a TCX link.
    TcxIngress,
}

/// What a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Map {
    /// Finds the longest prefix: keys are the number of its bits (4 bytes) and so many bytes of it as given here;
    /// values have a byte.
    Prefixes(u32),
    /// So many words of 64 bits for each core.
    WordsPerCore(u32),
}

/// What BPF_PROG_LOAD is told, up to the last word needed here.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// What BPF_MAP_CREATE is told.
#[repr(C)]
#[derive(Default)]
struct Create {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// What BPF_MAP_UPDATE_ELEM and BPF_MAP_LOOKUP_ELEM are told.
#[repr(C)]
#[derive(Default)]
struct Element {
    map_fd: u32,
    _padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Has the kernel take a program.
///
/// # Errors
///
/// As bpf(2): `PermissionDenied` without CAP_BPF, and CAP_NET_ADMIN for TCX; `InvalidInput` where the kernel does not
/// know what is asked for, or its verifier refuses the program.
pub fn load(kind: Kind, name: &[u8; 16], program: &[Instruction]) -> io::Result<OwnedFd> {
    const SOCKET_FILTER: u32 = 1;
    const SCHED_CLS: u32 = 3;
    let (prog_type, expected_attach_type) = match kind {
        Kind::SocketFilter => (SOCKET_FILTER, 0),
        Kind::TcxIngress => (SCHED_CLS, BPF_TCX_INGRESS),
    };
    let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let load = Load {
        prog_type,
        insn_cnt: u32::try_from(program.len()).map_err(too_long)?,
        insns: program.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        prog_name: *name,
        expected_attach_type,
        ..Load::default()
    };
    make(PROG_LOAD, &load)
}

/// Makes a map with room for so many entries.
///
/// # Errors
///
/// As bpf(2).
pub fn map(map: Map, entries: u32) -> io::Result<OwnedFd> {
    const PERCPU_ARRAY: u32 = 6;
    const LPM_TRIE: u32 = 11;
    const F_NO_PREALLOC: u32 = 1;
    let create = match map {
        Map::Prefixes(len) => Create {
            map_type: LPM_TRIE,
            key_size: 4 + len,
            value_size: 1,
            max_entries: entries.max(1),
            map_flags: F_NO_PREALLOC,
        },
        Map::WordsPerCore(words) => Create {
            map_type: PERCPU_ARRAY,
            key_size: 4,
            value_size: 8 * words,
            max_entries: 1,
            map_flags: 0,
        },
    };
    make(MAP_CREATE, &create)
}

/// Puts a prefix of `bits` bits into a map of prefixes of so many bytes as `address` has.
///
/// # Errors
///
/// As bpf(2); `InvalidInput` for a longer prefix.
pub fn add_prefix(map: BorrowedFd<'_>, bits: u32, address: &[u8]) -> io::Result<()> {
    let key = [&bits.to_ne_bytes(), address].concat();
    let element = Element {
        map_fd: map.as_raw_fd().unsigned_abs(),
        key: key.as_ptr() as u64,
        value: [1u8].as_ptr() as u64,
        ..Element::default()
    };
    call(MAP_UPDATE_ELEM, &element).map(|_| ())
}

/// Takes such a prefix out of the map.
///
/// # Errors
///
/// As bpf(2).
pub fn remove_prefix(map: BorrowedFd<'_>, bits: u32, address: &[u8]) -> io::Result<()> {
    let key = [&bits.to_ne_bytes(), address].concat();
    let element = Element {
        map_fd: map.as_raw_fd().unsigned_abs(),
        key: key.as_ptr() as u64,
        ..Element::default()
    };
    call(MAP_DELETE_ELEM, &element).map(|_| ())
}

/// The words of each core that the map, of `words` words, has.
///
/// # Errors
///
/// As bpf(2), and where nothing tells how many cores there may be.
pub fn words_of_cores(map: BorrowedFd<'_>, words: u32) -> io::Result<Vec<u64>> {
    let mut values = vec![0u64; words as usize * possible_cores()?];
    let key = 0u32;
    let element = Element {
        map_fd: map.as_raw_fd().unsigned_abs(),
        key: std::ptr::from_ref(&key) as u64,
        value: values.as_mut_ptr() as u64,
        ..Element::default()
    };
    call(MAP_LOOKUP_ELEM, &element)?;
    Ok(values)
}

/// How many cores the kernel keeps values for: `/sys/devices/system/cpu/possible` says `0-3` or `0`.
fn possible_cores() -> io::Result<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit([',', '-']).next();
    let last = last.and_then(|last| last.parse::<usize>().ok());
    let last = last.filter(|last| *last < 1 << 20);
    last.map(|last| last + 1)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// One bpf(2) call that makes a descriptor.
pub(super) fn make<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    let fd = call(command, attributes)?;
    // SAFETY: a new descriptor that belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// One bpf(2) call.
fn call<T>(command: libc::c_long, attributes: &T) -> io::Result<i32> {
    // SAFETY: the attributes are live for the call and their size is passed along. They lead to memory that is live as
    // long, with the lengths they state: programs, keys and values, which the kernel reads, and where it looks an
    // element up, room for all of its value.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    let outcome = i32::try_from(outcome).unwrap_or(-1);
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(outcome)
}
