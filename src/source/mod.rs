//! Where packets come from: a capture file or a socket, behind one face.
//!
//! A source hands over [`Arrival`]s a batch at a time. Everything after it is the same code for live
//! traffic and replay.

mod ahead;
pub mod aside;
pub mod file;
mod foreign;
mod input;
#[cfg(target_os = "linux")]
pub mod live;
mod unpack;
pub mod window;

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::mirror::networks::Networks;
use crate::pcap::origin::{CutComment, Origin};
use crate::wire::outer::{LinkType, Pieces};
use crate::wire::refusal::Refusal;

/// One packet as a source delivers it.
#[derive(Clone, Copy, Debug)]
pub enum Arrival<'a> {
    /// A record of a capture file or a packet of a ring, with its link layer.
    Record(Record<'a>),
    /// What a UDP socket gave us.
    Datagram(Datagram<'a>),
    /// A packet that arrived at this time and that the source itself has no use for.
    Refused(u64, Refusal),
    /// A packet that another worker has: it tells what time it is.
    Passed {
        /// Nanoseconds since 1970, UTC.
        ts_ns: u64,
        /// Its place; see [`Record::order`].
        order: u64,
    },
}

impl Arrival<'_> {
    /// Its place among the packets of all workers: captures are written in this order. Records keep the
    /// order of their file, datagrams have that of their arrival.
    pub const fn order(&self) -> u64 {
        match self {
            Self::Record(record) => record.order,
            Self::Datagram(datagram) => datagram.ts_ns,
            Self::Refused(ts_ns, _) => *ts_ns,
            Self::Passed { order, .. } => *order,
        }
    }

    /// When it came, nanoseconds since 1970, UTC.
    pub const fn ts_ns(&self) -> u64 {
        match self {
            Self::Record(record) => record.ts_ns,
            Self::Datagram(datagram) => datagram.ts_ns,
            Self::Refused(ts_ns, _) | Self::Passed { ts_ns, .. } => *ts_ns,
        }
    }
}

/// A packet with its link layer: a record of a capture file, or what a packet ring holds.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Nanoseconds since 1970, UTC.
    pub ts_ns: u64,
    /// What the bytes start with.
    pub link: LinkType,
    /// The bytes that were stored.
    pub bytes: &'a [u8],
    /// Bytes the packet had on the wire; never below `bytes.len()`.
    pub orig_len: u32,
    /// Its place among all records that are read; there is room for those of its pieces behind it.
    pub order: u64,
    /// What its file says of it beside this, where it says something.
    pub told: Option<&'a Told>,
}

/// What a capture file says of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The mirror session, in a capture of ours.
    pub origin: Option<Origin>,
    /// What the comment of a packet that was cut says, in a capture of ours.
    pub cut: Option<CutComment>,
    /// Its time is outside of what nanoseconds since 1970 can tell: `ts_ns` is the nearest.
    pub time_clamped: bool,
}

/// A UDP datagram.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Kernel time of arrival, nanoseconds since 1970, UTC.
    pub ts_ns: u64,
    /// Who sent it.
    pub src: SocketAddr,
    /// The address and port it came to.
    pub dst: SocketAddr,
    /// Its payload, the whole of it: every receive buffer has room for the longest there is.
    pub payload: &'a [u8],
    /// Bytes of outer IP and UDP headers around it.
    pub headers_len: usize,
    /// How it came: a socket does not show it.
    pub pieces: Pieces,
}

/// Bytes of outer IP and UDP headers as far as a socket can tell: it does not show IPv4 options nor IPv6
/// extension headers.
pub const fn usual_headers_len(src: SocketAddr) -> usize {
    if src.ip().to_canonical().is_ipv4() {
        20 + 8
    } else {
        40 + 8
    }
}

/// Arrival times of one socket or ring go back by less than this, in nanoseconds: two cores may deliver to it,
/// and each packet gets its time before its place. Some microseconds were measured; a core that is busy with
/// something else in between may take longer.
pub const DISORDER_NS: u64 = 5_000_000;

/// What a source says after a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Packets were handed over; more may follow at once.
    Batch,
    /// Packets were handed over, or belong to others: none up to this place will follow.
    UpTo(u64),
    /// Nothing arrived for a while.
    Idle,
    /// There is nothing more.
    End,
}

/// A supplier of packets.
pub trait Source {
    /// Its way to fail.
    type Error: std::fmt::Display;

    /// Hands the next packets to `each`, `most` at the most. Waits a few milliseconds when there are
    /// none yet.
    ///
    /// # Errors
    ///
    /// When the source cannot go on. Packets handed over before stay good.
    fn next_batch(
        &mut self,
        most: usize,
        each: impl FnMut(Arrival<'_>),
    ) -> Result<Progress, Self::Error>;

    /// How long a packet may take from the stamping of its time to the moment this source can see it, in
    /// nanoseconds.
    fn lag_ns(&self) -> u64 {
        0
    }

    /// Sleeps until something may have come, `alarm` is readable or `most` is over; a source that does not wait for
    /// packets does not sleep.
    fn doze(&mut self, _alarm: BorrowedFd<'_>, _most: Duration) {}

    /// Whether nothing waits to be taken, as far as can be seen at this moment.
    fn is_quiet(&mut self) -> bool {
        true
    }

    /// The run ends with what arrived up to `at_ns`, nanoseconds since 1970. From now on the source leaves later
    /// packets alone, says [`Progress::End`] once it came to them, and counts no more losses than there were.
    fn end_at(&mut self, at_ns: u64) {
        let _ = at_ns;
    }

    /// A promise behind a batch: no packet that arrived before this time, in nanoseconds since 1970, will follow.
    /// `looked_ns` is the time just before the batch was asked for. A source that takes from several places
    /// knows how far each has come; 0 where it promises nothing.
    fn settled_ns(&mut self, _looked_ns: u64) -> u64 {
        0
    }

    /// Packets of sources that are not allowed that the kernel left out so far; nobody will hand them over.
    fn refused_so_far(&mut self) -> u64 {
        0
    }

    /// The kernel is to hand over whole packets from these networks, from everywhere where there are none; others it may
    /// leave out. Whether it sorts packets by their source at all: then those that came before may lack their payload.
    fn let_in(&mut self, networks: &Networks) -> bool {
        let _ = networks;
        false
    }

    /// Packets that were lost so far before they could be handed over.
    fn lost_so_far(&mut self) -> u64 {
        0
    }
}
