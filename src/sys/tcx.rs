//! An eBPF program at an interface's ingress, behind the taps, that goes with its descriptor: a TCX link
//! (Linux 6.6; linux/bpf.h `union bpf_attr`, kernel/bpf/tcx.c).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::bpf::ebpf::Instruction;
use crate::sys::bpf;

const BPF_LINK_CREATE: libc::c_long = 28;

/// The link; the kernel takes the program away when it is dropped, or when this process ends.
pub struct TcxLink {
    _link: OwnedFd,
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
        let name = b"vxtap_drop\0\0\0\0\0\0";
        let program = bpf::load(bpf::Kind::TcxIngress, name, program)?;
        let create = Create {
            prog_fd: program.as_raw_fd().unsigned_abs(),
            target_ifindex: interface,
            attach_type: bpf::BPF_TCX_INGRESS,
            ..Create::default()
        };
        let link = bpf::make(BPF_LINK_CREATE, &create)?;
        Ok(Self { _link: link })
    }
}
