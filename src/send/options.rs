//! What is sent, where to, and how. Whoever composes a command makes this; nothing here is checked again.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::encapsulate::Cut;
use super::traffic::Traffic;
use crate::outfile::Creation;
use crate::wire::Vni;

/// A run of the sender.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the frames come from.
    pub frames: Frames,
    /// Where datagrams go; the outer destination of those that are written.
    pub to: Option<HostPort>,
    /// The pcap file that is written instead of sending; `-` is standard output.
    pub write: Option<PathBuf>,
    /// Where the JSON summary goes; `-` is standard output.
    pub summary: Option<PathBuf>,
    /// How both files are made.
    pub creation: Creation,
    /// The network identifier, of generated frames the first.
    pub vni: Vni,
    /// How frames are shortened.
    pub cut: Cut,
    /// Outer source address; `None` lets the system choose.
    pub source: Option<IpAddr>,
    /// Outer source port, never 0; `None` lets the system choose.
    pub source_port: Option<u16>,
    /// The outer source port comes from a hash of the inner addresses and ports.
    pub source_port_hash: bool,
    /// The outer UDP checksum is zero.
    pub no_udp_checksum: bool,
    /// How fast they follow each other.
    pub tempo: Tempo,
}

/// Where the frames come from.
#[derive(Clone, Debug)]
pub enum Frames {
    /// Capture files, one after the other.
    Files {
        /// Their paths; `-` is standard input.
        paths: Vec<PathBuf>,
        /// They are encapsulated even where they look like VXLAN.
        plain: bool,
        /// How often all of them are sent; at least once.
        loops: u64,
    },
    /// A generator.
    Generated(Generate),
}

/// What is generated, and how much of it.
#[derive(Clone, Copy, Debug)]
pub struct Generate {
    /// The frames.
    pub traffic: Traffic,
    /// Packets, at most.
    pub count: Option<u64>,
    /// Time, at most.
    pub duration: Option<Duration>,
    /// What the system has no room for is sent again.
    pub retry: bool,
    /// The core to send from.
    pub cpu: Option<usize>,
}

/// How fast datagrams follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tempo {
    /// As fast as the system takes them.
    FullSpeed,
    /// So many packets a second, above zero.
    Pps(f64),
    /// The recorded speed times this factor, above zero.
    Recorded(f64),
}

impl Tempo {
    /// Packets a second, where they are said.
    pub const fn pps(self) -> Option<f64> {
        match self {
            Self::Pps(pps) => Some(pps),
            Self::FullSpeed | Self::Recorded(_) => None,
        }
    }
}

/// A host, by name or address, and a UDP port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Its name or address, without brackets.
    pub host: String,
    /// Never 0.
    pub port: u16,
}
