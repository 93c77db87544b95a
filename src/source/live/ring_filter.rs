//! The filter of a packet ring: which packets of the interface get into it, and who may send them.
//!
//! Where this process may load eBPF programs (CAP_BPF) the kernel knows every network of `--allow`, and leaves a flood
//! of strangers out with a count. Elsewhere it knows as many as a classic program has room for, and keeps the headers of
//! what strangers send. The worker looks at each source once more.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Once;

use crate::bpf::filter::{self, Link};
use crate::bpf::refuse::{self, Maps};
use crate::mirror::networks::Networks;
use crate::sys::bpf::{self, Kind, Map};
use crate::sys::ring_memory::RingMemory;

/// It was told that the kernel takes no eBPF program.
static TOLD_CLASSIC: Once = Once::new();

/// Networks that a list which is renewed may have, at least.
const ROOM: u32 = 65_536;

/// The filter of one ring.
#[derive(Debug)]
pub struct RingFilter {
    ports: Vec<u16>,
    link: Link,
    /// `None` where the classic program is there.
    program: Option<Program>,
    /// Packets that earlier programs left out.
    before: u64,
    /// It was told that the count cannot be read.
    told: bool,
}

/// What an eBPF program looks at, and what it counts. The socket holds the program.
#[derive(Debug)]
struct Program {
    v4: OwnedFd,
    v6: OwnedFd,
    words: OwnedFd,
    /// What is in the maps.
    networks: BTreeSet<(IpAddr, u8)>,
}

impl RingFilter {
    /// Lets UDP to `ports` into the ring, from `allowed` networks, or from everywhere where there are none.
    ///
    /// # Errors
    ///
    /// As setsockopt(2).
    pub fn attach(
        ring: &RingMemory,
        ports: Vec<u16>,
        link: Link,
        allowed: &Networks,
    ) -> io::Result<Self> {
        let mut filter = Self {
            ports,
            link,
            program: None,
            before: 0,
            told: false,
        };
        filter.renew(ring, allowed)?;
        Ok(filter)
    }

    /// Allows other networks from now on. Maps that are there already take them without any right; a process that has
    /// given up CAP_BPF gets a classic program where there are none yet.
    ///
    /// # Errors
    ///
    /// As setsockopt(2); the filter stays as it was.
    pub fn renew(&mut self, ring: &RingMemory, allowed: &Networks) -> io::Result<()> {
        let networks = allowed.fewest().into_iter();
        let networks = networks.map(|one| (one.address(), one.prefix())).collect();
        if !allowed.is_empty() {
            let taken = match &mut self.program {
                Some(program) => program.renew(networks),
                None => self
                    .load(ring, networks)
                    .map(|program| self.program = Some(program)),
            };
            match taken {
                Ok(()) => return Ok(()),
                // Not again for each worker and each change.
                Err(error) => TOLD_CLASSIC.call_once(|| {
                    tracing::info!(
                        "packets of sources that --allow does not name take room in the ring, their headers alone: an \
                         eBPF program that leaves them out needs CAP_BPF ({error})"
                    );
                }),
            }
        }
        let classic = filter::udp_to(&self.ports, allowed, self.link);
        ring.set_filter(&classic.map_err(io::Error::other)?)?;
        // The program has ended by now.
        self.before = self.left_out();
        self.program = None;
        Ok(())
    }

    /// Has the kernel take the eBPF program.
    fn load(&self, ring: &RingMemory, networks: BTreeSet<(IpAddr, u8)>) -> io::Result<Program> {
        let room = u32::try_from(networks.len() * 2)
            .unwrap_or(u32::MAX)
            .max(ROOM);
        let mut program = Program {
            v4: bpf::map(Map::Prefixes(4), room)?,
            v6: bpf::map(Map::Prefixes(16), room)?,
            words: bpf::map(Map::WordsPerCore(refuse::WORDS), 1)?,
            networks: BTreeSet::new(),
        };
        program.renew(networks)?;
        let maps = Maps {
            v4: program.v4.as_raw_fd(),
            v6: program.v6.as_raw_fd(),
            words: program.words.as_raw_fd(),
        };
        let classic = filter::udp_noting_place(&self.ports, self.link).map_err(io::Error::other)?;
        let code = refuse::refusing(&classic, maps).ok_or(io::ErrorKind::Unsupported)?;
        let code = bpf::load(Kind::SocketFilter, b"vxtap_allow\0\0\0\0\0", &code)?;
        ring.set_program(code.as_fd())?;
        Ok(program)
    }

    /// Packets that were left out so far because of their source.
    pub fn left_out(&mut self) -> u64 {
        let Some(program) = &self.program else {
            return self.before;
        };
        match bpf::words_of_cores(program.words.as_fd(), refuse::WORDS) {
            Ok(cores) => {
                let left_out = cores.iter().step_by(refuse::WORDS as usize);
                self.before + left_out.sum::<u64>()
            }
            Err(error) => {
                if !std::mem::replace(&mut self.told, true) {
                    tracing::warn!(
                        "packets of sources that --allow does not name are left out in the kernel, and their count cannot be \
                         read: {error}. Before Linux 5.19 that needs --sandbox off"
                    );
                }
                self.before
            }
        }
    }
}

impl Program {
    /// Puts networks into the maps, new ones first: nobody who is allowed before and behind is left out meanwhile.
    fn renew(&mut self, networks: BTreeSet<(IpAddr, u8)>) -> io::Result<()> {
        for (address, prefix) in networks.difference(&self.networks) {
            let bits = u32::from(*prefix);
            match address {
                IpAddr::V4(ip) => bpf::add_prefix(self.v4.as_fd(), bits, &ip.octets())?,
                IpAddr::V6(ip) => bpf::add_prefix(self.v6.as_fd(), bits, &ip.octets())?,
            }
        }
        for (address, prefix) in self.networks.difference(&networks) {
            let bits = u32::from(*prefix);
            match address {
                IpAddr::V4(ip) => bpf::remove_prefix(self.v4.as_fd(), bits, &ip.octets())?,
                IpAddr::V6(ip) => bpf::remove_prefix(self.v6.as_fd(), bits, &ip.octets())?,
            }
        }
        self.networks = networks;
        Ok(())
    }
}
