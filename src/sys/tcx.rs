//! An eBPF program at an interface's ingress, behind the taps, that goes with its descriptor: a TCX link
//! (Linux 6.6; linux/bpf.h `union bpf_attr`, kernel/bpf/tcx.c).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::bpf::drop::Instruction;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_INGRESS: u32 = 46;

/// The link; the kernel takes the program away when it is dropped, or when this process ends.
pub struct TcxLink {
    _link: OwnedFd,
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

/// What BPF_LINK_CREATE is told of a TCX link.
#[repr(C)]
#[derive(Default)]
struct Create {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    _padding: u32,
    expected_revision: u64,
}

impl TcxLink {
    /// Lets `program` judge what comes in on the interface with this number, behind the programs that are
    /// there already.
    ///
    /// # Errors
    ///
    /// As bpf(2): `PermissionDenied` without CAP_BPF and CAP_NET_ADMIN, `InvalidInput` where the kernel does
    /// not know TCX links.
    pub fn attach(interface: u32, program: &[Instruction]) -> io::Result<Self> {
        let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let load = Load {
            prog_type: BPF_PROG_TYPE_SCHED_CLS,
            insn_cnt: u32::try_from(program.len()).map_err(too_long)?,
            insns: program.as_ptr() as u64,
            license: c"Dual MIT/GPL".as_ptr() as u64,
            prog_name: *b"vxtap_drop\0\0\0\0\0\0",
            expected_attach_type: BPF_TCX_INGRESS,
            ..Load::default()
        };
        let program = bpf(BPF_PROG_LOAD, &load)?;
        let create = Create {
            prog_fd: program.as_raw_fd().unsigned_abs(),
            target_ifindex: interface,
            attach_type: BPF_TCX_INGRESS,
            ..Create::default()
        };
        let link = bpf(BPF_LINK_CREATE, &create)?;
        Ok(Self { _link: link })
    }
}

/// One bpf(2) call that makes a descriptor.
fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the attributes are live for the call and their size is passed along. They lead to memory that
    // is live as long, with the lengths they state; the kernel only reads it.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
