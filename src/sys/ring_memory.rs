//! A TPACKET_V3 receive ring: the socket and the memory it shares with the kernel (packet(7),
//! Documentation/networking/packet_mmap.rst). Whose each block is stands in [`crate::sys::blocks`]; what a
//! block holds is read in [`crate::sys::ring`], which needs no `unsafe`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use libc::c_int;
use socket2::{Domain, Protocol, Socket, Type};

use crate::bpf::assembler::Instruction;
use crate::sys::blocks::Blocks;
use crate::sys::{attach_program, option, set_number, set_option};

/// How a ring is cut up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a block; a multiple of the page size.
    pub block_len: u32,
    /// Blocks.
    pub blocks: u32,
    /// The kernel hands over a block that is not full after this time.
    pub hand_over_after_ms: u32,
}

impl Geometry {
    /// Bytes of the whole ring.
    pub const fn bytes(self) -> usize {
        self.block_len as usize * self.blocks as usize
    }
}

/// What the kernel counted since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Packets that passed the filter, those dropped included.
    pub passed: u32,
    /// Packets that found no room in the ring.
    pub dropped: u32,
}

/// A receive ring on one interface.
pub struct RingMemory {
    socket: Socket,
    memory: NonNull<u8>,
    blocks: Blocks,
    geometry: Geometry,
}

// SAFETY: the mapping belongs to this value alone and is not tied to the thread that made it.
unsafe impl Send for RingMemory {}

impl RingMemory {
    /// A ring on the interface with this number. `filter` decides what gets in.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` without CAP_NET_RAW, `OutOfMemory` when the kernel or this process cannot have
    /// so much memory; else as socket(2), setsockopt(2), mmap(2) and bind(2).
    pub fn open(interface: u32, geometry: Geometry, filter: &[Instruction]) -> io::Result<Self> {
        // Protocol 0: nothing arrives before everything is set.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        let fd = socket.as_fd();
        let version = libc::tpacket_versions::TPACKET_V3 as c_int;
        set_number(fd, libc::SOL_PACKET, libc::PACKET_VERSION, version)?;
        // Without it nobody could tell that a packet is several in one.
        set_number(fd, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
        set_number(fd, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        attach_program(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, filter)?;
        let request = libc::tpacket_req3 {
            tp_block_size: geometry.block_len,
            tp_block_nr: geometry.blocks,
            // Frames of a third version ring have no fixed size; the kernel only checks the arithmetic.
            tp_frame_size: FRAME_LEN,
            tp_frame_nr: geometry.block_len / FRAME_LEN * geometry.blocks,
            tp_retire_blk_tov: geometry.hand_over_after_ms,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set_option(fd, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        // SAFETY: a new mapping at a place of the kernel's choice; the length is that of the ring just made.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                geometry.bytes(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: the mapping is `blocks` blocks of `block_len` bytes and page-aligned, as every block is,
        // and is there until this value is dropped; the kernel keeps to the rules (net/packet/af_packet.c,
        // prb_flush_block and prb_curr_blk_in_use).
        let blocks = unsafe { Blocks::new(memory, geometry.block_len as usize, geometry.blocks) };
        let ring = Self {
            socket,
            memory,
            blocks,
            geometry,
        };
        ring.bind(interface)?;
        Ok(ring)
    }

    fn bind(&self, interface: u32) -> io::Result<()> {
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
            sll_ifindex: c_int::try_from(interface).map_err(|_| io::ErrorKind::InvalidInput)?,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: the address is live for the call and its size is passed along.
        let outcome = unsafe {
            libc::bind(
                self.socket.as_raw_fd(),
                std::ptr::from_ref(&address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        crate::sys::done(outcome)
    }

    /// Puts an eBPF program in the place of the present filter.
    ///
    /// # Errors
    ///
    /// As setsockopt(2).
    pub fn set_program(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let fd = self.socket.as_fd();
        let number = program.as_raw_fd();
        set_number(fd, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, number)
    }

    /// Puts another filter in the place of the present one.
    ///
    /// # Errors
    ///
    /// As setsockopt(2).
    pub fn set_filter(&self, filter: &[Instruction]) -> io::Result<()> {
        let fd = self.socket.as_fd();
        attach_program(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, filter)
    }

    /// Joins the group of rings called `group`, or begins one; tells its name.
    ///
    /// # Errors
    ///
    /// As setsockopt(2).
    pub fn join_group(&self, group: Option<u16>) -> io::Result<u16> {
        /// A group has its own mind about outgoing packets (linux/if_packet.h, Linux 5.12).
        const IGNORE_OUTGOING: u32 = 0x4000;
        let new_name = if group.is_none() {
            libc::PACKET_FANOUT_FLAG_UNIQUEID
        } else {
            0
        };
        let fd = self.socket.as_fd();
        let join = |flags: u32| {
            let kind = (libc::PACKET_FANOUT_CBPF | new_name | flags) << 16;
            let argument = kind | u32::from(group.unwrap_or_default());
            set_option(fd, libc::SOL_PACKET, libc::PACKET_FANOUT, &argument)
        };
        join(IGNORE_OUTGOING).or_else(|_| join(0))?;
        let joined: u32 = option(fd, libc::SOL_PACKET, libc::PACKET_FANOUT)?;
        Ok((joined & 0xffff) as u16)
    }

    /// Gives the group of rings the program that chooses among them; its numbers are the order of joining.
    ///
    /// # Errors
    ///
    /// As setsockopt(2).
    pub fn set_group_program(&self, program: &[Instruction]) -> io::Result<()> {
        let fd = self.socket.as_fd();
        attach_program(fd, libc::SOL_PACKET, libc::PACKET_FANOUT_DATA, program)
    }

    /// How it is cut up.
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The block `at`, if the kernel has handed it over.
    pub fn block(&self, at: u32) -> Option<&[u8]> {
        self.blocks.block(at)
    }

    /// Gives the block `at` back to the kernel.
    pub fn release(&mut self, at: u32) {
        self.blocks.release(at);
    }

    /// What the kernel counted since this was last called.
    ///
    /// # Errors
    ///
    /// As getsockopt(2).
    pub fn counted(&self) -> io::Result<Counted> {
        let fd = self.socket.as_fd();
        let [passed, dropped, _]: [u32; 3] = option(fd, libc::SOL_PACKET, libc::PACKET_STATISTICS)?;
        Ok(Counted { passed, dropped })
    }

    /// The fault that waits at the socket, if there is one; asking takes it away.
    pub fn take_fault(&self) -> Option<io::Error> {
        self.socket.take_error().ok().flatten()
    }

    /// The socket, to wait at.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for RingMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length and nothing borrows it any more.
        unsafe {
            libc::munmap(self.memory.as_ptr().cast(), self.geometry.bytes());
        }
    }
}

/// A frame size that the kernel's check of the request accepts.
const FRAME_LEN: u32 = 2048;
