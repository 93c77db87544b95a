//! Where live traffic is taken from: sockets or packet rings, whichever is asked for or possible.

pub mod beginning;
pub mod ingress_drop;
pub mod ring_filter;
pub mod sockets;
pub mod stamps;
pub mod tap;
pub mod targets;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use self::ingress_drop::{At, IngressDrop};
use self::sockets::{UdpError, UdpSource};
use self::stamps::Stamps;
use self::tap::{PacketError, PacketSource};
use crate::bpf::assembler::ProgramError;
use crate::bpf::filter;
use crate::bpf::steer::{self, Start, Steering};
use crate::host::interfaces;
use crate::host::netlink::LinkWatch;
use crate::mirror::allowed::Allowed;
use crate::mirror::networks::Networks;
use crate::source::{Arrival, Progress, Source};

/// Which way packets are taken from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A packet ring where that is possible, else sockets.
    Auto,
    /// UDP sockets.
    Udp,
    /// A packet ring.
    Packet,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Addresses to receive on; port 0 lets the system choose.
    pub addresses: Vec<SocketAddr>,
    /// The way.
    pub backend: Backend,
    /// The interface of a packet ring; `None` for that which the addresses belong to.
    pub interface: Option<String>,
    /// How packets find their worker.
    pub steering: Steering,
    /// Ports of tunnels whose inner packet the steering program does not find.
    pub unsteered: Vec<u16>,
    /// Who may send. A ring leaves out what it can of the others.
    pub allowed: Arc<Allowed>,
    /// Whether sockets ask for trains of datagrams.
    pub gro: sockets::Gro,
    /// Bytes of the largest datagram expected.
    pub datagram_len: usize,
}

/// Why nothing can be received.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum LiveError {
    #[error(transparent)]
    Udp(#[from] UdpError),
    #[error(transparent)]
    Packet(#[from] PacketError),
    #[error("--backend packet needs an interface, and none can be told because {0}")]
    Interface(String),
    #[error(
        "--bind names {count} ports whose packets one worker has to take; with several workers {} is the limit",
        steer::MAX_UNSTEERED
    )]
    Unsteered { count: usize },
    #[error(transparent)]
    Program(#[from] ProgramError),
}

/// The sources of all workers, ready.
pub struct Live {
    /// One for each worker.
    pub sources: Vec<LiveSource>,
    /// The addresses received on, with the ports the system chose.
    pub addresses: Vec<SocketAddr>,
    /// The way taken and why, for people.
    pub about: String,
    /// The interface of the rings, where packets come from rings.
    pub ring: Option<String>,
    /// Keeps what the rings take from the rest of the host, as long as they live.
    ingress: Option<IngressDrop>,
}

/// A worker's source.
pub enum LiveSource {
    /// Sockets.
    Udp(Box<UdpSource>),
    /// A packet ring.
    Packet(Box<PacketSource>),
}

impl Live {
    /// Opens what `plan` asks for.
    ///
    /// # Errors
    ///
    /// [`LiveError`]; with [`Backend::Auto`] only when sockets are impossible too.
    pub fn open(plan: &Plan) -> Result<Self, LiveError> {
        let count = plan.unsteered.iter().collect::<BTreeSet<_>>().len();
        if plan.steering.workers > 1 && count > steer::MAX_UNSTEERED {
            return Err(LiveError::Unsteered { count });
        }
        let _until_opened = Stamps::begin();
        let why_not = match plan.backend {
            Backend::Udp => "asked for".to_owned(),
            Backend::Packet => return rings(plan),
            Backend::Auto => match rings(plan) {
                Ok(live) => return Ok(live),
                Err(LiveError::Interface(why)) => why,
                Err(LiveError::Packet(error)) if error.is_permission() => {
                    "a packet ring needs CAP_NET_RAW".to_owned()
                }
                // The port is taken: sockets would fail the same way.
                Err(error @ LiveError::Udp(_)) => return Err(error),
                // Somebody meant another one.
                Err(error @ LiveError::Packet(PacketError::NoInterface { .. })) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::warn!("{error}; falling back to sockets");
                    error.to_string()
                }
            },
        };
        let sources = sockets(plan)?;
        let addresses = sources
            .first()
            .map(UdpSource::addresses)
            .unwrap_or_default();
        Ok(Self {
            sources: sources
                .into_iter()
                .map(|source| LiveSource::Udp(Box::new(source)))
                .collect(),
            addresses,
            about: format!("UDP sockets ({why_not})"),
            ring: None,
            ingress: None,
        })
    }

    /// Lets the host have its packets again; the sources stay as they are.
    pub fn end(&mut self) {
        self.ingress = None;
    }
}

impl Plan {
    /// Bytes of memory that sources of sockets will take, and those of rings: what [`LiveSource::memory_bytes`] tells of
    /// all together once they are open. The kernel may grant smaller rings.
    pub fn memory_bytes(&self) -> (usize, usize) {
        let workers = self.steering.workers.max(1);
        let slots = sockets::slots_bytes(self.datagram_len, self.gro);
        let aside = sockets::slots_bytes(self.datagram_len, sockets::Gro::Off);
        let rings = tap::ring_bytes(workers) * workers as usize;
        (slots * workers as usize, rings + aside)
    }
}

fn sockets(plan: &Plan) -> Result<Vec<UdpSource>, UdpError> {
    let steering = plan.steering;
    if steering.workers == 1 {
        let source = UdpSource::bind(&plan.addresses, plan.datagram_len, plan.gro)?;
        return Ok(vec![source]);
    }
    let program = |port| {
        // The inner packet is not where VXLAN has it: one worker takes them all.
        let workers = if plan.unsteered.contains(&port) {
            1
        } else {
            steering.workers
        };
        Steering {
            workers,
            ..steering
        }
        .program(Start::UdpPayload)
    };
    UdpSource::bind_group(
        &plan.addresses,
        steering.workers,
        plan.datagram_len,
        program,
    )
}

fn rings(plan: &Plan) -> Result<Live, LiveError> {
    let here = interfaces::list().unwrap_or_default();
    let (interface, why) = match &plan.interface {
        Some(name) => (name.clone(), "asked for"),
        None => {
            let chosen =
                interfaces::choose(&plan.addresses, &here).map_err(LiveError::Interface)?;
            (chosen.name.clone(), "the addresses are its")
        }
    };
    // Sockets first: binding tells whether somebody else holds a port, and which one the system chose.
    // Without them the host would tell every sender that nobody listens. They leave to the ring what is
    // the ring's, and take what comes in elsewhere, from this machine itself say.
    // Watched from before they are read: none is missed.
    let links = LinkWatch::start().ok();
    let stacked = interfaces::with_stacked(&interface);
    let aside = filter::not_from(&stacked)?;
    let aside = UdpSource::bind_filtered(&plan.addresses, plan.datagram_len, &aside)?;
    let addresses = aside.addresses();
    let steering = plan.steering;
    // One ring is alone and needs none.
    let program = match steering.workers {
        1 => Vec::new(),
        _ => steering.program(Start::OuterIp {
            unsteered: &plan.unsteered,
        })?,
    };
    let mut sources = PacketSource::open_group(
        &interface,
        &addresses,
        steering.workers,
        &program,
        &plan.allowed.networks,
    )?;
    if let Some(first) = sources.first_mut() {
        first.take_along(aside, links, stacked);
    }
    let local = interfaces::local_addresses();
    let at = At {
        interface: &interface,
        number: interfaces::number(&interface).unwrap_or_default(),
        link: interfaces::link_of(&interface),
    };
    let (ingress, cost) = match IngressDrop::start(at, &addresses, &local) {
        Ok(ingress) => {
            let cost = format!("kept from the UDP stack by {}", ingress.by());
            (Some(ingress), cost)
        }
        Err(reason) => {
            tracing::info!(
                "received packets also go through the UDP stack, which costs CPU: {reason}"
            );
            (None, "not kept from the UDP stack".to_owned())
        }
    };
    Ok(Live {
        sources: sources
            .into_iter()
            .map(|source| LiveSource::Packet(Box::new(source)))
            .collect(),
        addresses,
        about: format!("packet ring on {interface} ({why}; packets {cost})"),
        ring: Some(interface),
        ingress,
    })
}

impl LiveSource {
    /// The word in the summary for packets the kernel had no room for.
    pub const fn drop_reason(&self) -> &'static str {
        match self {
            Self::Udp(_) => "socket_overflow",
            Self::Packet(_) => "ring_full",
        }
    }

    /// Has the kernel let in packets from other sources from now on, where it looks at that. The worker has to be told
    /// too ([`crate::pipeline::worker::Worker::allow`]).
    ///
    /// # Errors
    ///
    /// When the kernel does not take the new filter; the one before stays.
    pub fn allow(&mut self, allowed: &Allowed) -> Result<(), LiveError> {
        match self {
            Self::Udp(_) => Ok(()),
            Self::Packet(source) => Ok(source.allow(&allowed.networks)?),
        }
    }

    /// Bytes the kernel holds for it, as granted, and as asked for.
    pub fn buffer_bytes(&self) -> (usize, usize) {
        match self {
            Self::Udp(source) => (source.receive_buffer(), sockets::RECEIVE_BUFFER),
            Self::Packet(source) => (source.ring_bytes(), tap::ring_bytes(1)),
        }
    }

    /// Bytes of memory it may take here; a ring is shared with the kernel.
    pub fn memory_bytes(&self) -> usize {
        match self {
            Self::Udp(source) => source.memory_bytes(),
            Self::Packet(source) => source.memory_bytes(),
        }
    }

    /// Most bytes that the kernel holds for it beside that, in receive buffers of sockets.
    pub fn kernel_bytes(&self) -> usize {
        match self {
            Self::Udp(source) => source.kernel_bytes(),
            Self::Packet(source) => source.kernel_bytes(),
        }
    }
}

impl Source for LiveSource {
    type Error = LiveError;

    fn next_batch(
        &mut self,
        most: usize,
        each: impl FnMut(Arrival<'_>),
    ) -> Result<Progress, LiveError> {
        match self {
            Self::Udp(source) => Ok(source.next_batch(most, each)?),
            Self::Packet(source) => Ok(source.next_batch(most, each)?),
        }
    }

    fn lag_ns(&self) -> u64 {
        match self {
            Self::Udp(source) => source.lag_ns(),
            Self::Packet(source) => source.lag_ns(),
        }
    }

    fn doze(&mut self, alarm: BorrowedFd<'_>, most: Duration) {
        match self {
            Self::Udp(source) => source.doze(alarm, most),
            Self::Packet(source) => source.doze(alarm, most),
        }
    }

    fn is_quiet(&mut self) -> bool {
        match self {
            Self::Udp(source) => source.is_quiet(),
            Self::Packet(source) => source.is_quiet(),
        }
    }

    fn end_at(&mut self, at_ns: u64) {
        match self {
            Self::Udp(source) => source.end_at(at_ns),
            Self::Packet(source) => source.end_at(at_ns),
        }
    }

    fn settled_ns(&mut self, looked_ns: u64) -> u64 {
        match self {
            Self::Udp(source) => source.settled_ns(looked_ns),
            Self::Packet(source) => source.settled_ns(looked_ns),
        }
    }

    fn refused_so_far(&mut self) -> u64 {
        match self {
            Self::Udp(source) => source.refused_so_far(),
            Self::Packet(source) => source.refused_so_far(),
        }
    }

    fn let_in(&mut self, networks: &Networks) -> bool {
        match self {
            Self::Udp(source) => source.let_in(networks),
            Self::Packet(source) => source.let_in(networks),
        }
    }

    fn lost_so_far(&mut self) -> u64 {
        match self {
            Self::Udp(source) => source.lost_so_far(),
            Self::Packet(source) => source.lost_so_far(),
        }
    }
}
