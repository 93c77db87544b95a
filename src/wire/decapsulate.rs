//! From a UDP datagram to the mirrored frame: which tunnel it is, by destination port, and how many
//! layers to remove.

use super::ip::Address;
use super::numbers::ether_type;
use super::outer::{self, LinkType, Outer, OuterUdp, Pieces};
use super::refusal::{Filtered, Malformed, Refusal};
use super::vxlan::Payload;
use super::{Vni, geneve, layers, vxlan};

/// The encapsulation a frame was taken out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tunnel {
    /// VXLAN, RFC 7348.
    Vxlan,
    /// VXLAN with the generic protocol extension.
    Gpe,
    /// Geneve, RFC 8926.
    Geneve,
}

impl Tunnel {
    /// Its name in flow records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::Gpe => "vxlan-gpe",
            Self::Geneve => "geneve",
        }
    }
}

/// Which destination ports are tunnels, and how deep to dig.
#[derive(Clone, Debug)]
pub struct Tunnels {
    /// Ports of VXLAN.
    pub vxlan_ports: Vec<u16>,
    /// Ports of VXLAN-GPE.
    pub gpe_ports: Vec<u16>,
    /// Ports of Geneve.
    pub geneve_ports: Vec<u16>,
    /// VXLAN layers to remove, at least 1.
    pub depth: u8,
}

impl Default for Tunnels {
    fn default() -> Self {
        Self {
            vxlan_ports: vec![vxlan::PORT],
            gpe_ports: vec![vxlan::GPE_PORT],
            geneve_ports: vec![geneve::PORT],
            depth: 1,
        }
    }
}

impl Tunnels {
    /// The tunnel behind a destination port. The source port says nothing: it is a hash of the inner
    /// packet (RFC 7348 §5) and may be 4789 by chance.
    #[inline]
    #[allow(
        clippy::manual_contains,
        reason = "one or two ports each: a search made for many costs more"
    )]
    pub fn at_port(&self, port: u16) -> Option<Tunnel> {
        let is_among = |ports: &[u16]| ports.iter().any(|known| *known == port);
        if is_among(&self.vxlan_ports) {
            Some(Tunnel::Vxlan)
        } else if is_among(&self.gpe_ports) {
            Some(Tunnel::Gpe)
        } else if is_among(&self.geneve_ports) {
            Some(Tunnel::Geneve)
        } else {
            None
        }
    }
}

/// A mirrored frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mirrored<'a> {
    /// The VTEP: source address of the packet directly around the tunnel header.
    pub source: Address,
    /// Destination address of that packet.
    pub target: Address,
    /// The network identifier.
    pub vni: Vni,
    /// The tunnel it came out of.
    pub tunnel: Tunnel,
    /// What `bytes` are.
    pub payload: Payload,
    /// The frame, or the IP packet where the tunnel carried no frame.
    pub bytes: &'a [u8],
    /// Bytes the tunnel carried; more than `bytes` holds when the record that held it was cut.
    pub carried_len: usize,
    /// Bytes of the outermost IP packet.
    pub outer_ip_len: u32,
    /// Bytes of the outermost datagram that the record which held it lacks.
    pub not_recorded: usize,
    /// How the outermost datagram came.
    pub pieces: Pieces,
    /// Reserved bits of the tunnel header were set.
    pub reserved_set: bool,
    /// Outer lengths contradicted each other.
    pub length_mismatch: bool,
}

/// Takes the tunnel headers off a datagram.
///
/// One VXLAN layer is removed, or up to `tunnels.depth` where VXLAN is nested; source and VNI are those
/// of the innermost layer removed. A Geneve header in front of VXLAN comes off first and is no layer of
/// its own.
///
/// # Errors
///
/// The [`Refusal`] of the outermost layer. An inner layer that cannot be removed stays in the frame.
#[inline]
pub fn decapsulate<'a>(tunnels: &Tunnels, udp: &OuterUdp<'a>) -> Result<Mirrored<'a>, Refusal> {
    let tunnel = tunnels.at_port(udp.dst_port).ok_or(Filtered::OtherPort)?;
    if tunnels.depth > 1 {
        return innermost(tunnels, tunnel, udp);
    }
    match layer(tunnels, tunnel, udp) {
        Ok(mirrored) if mirrored.bytes.is_empty() => Err(Malformed::InnerEmpty.into()),
        read => read,
    }
}

/// Takes off as many layers as there are, up to `tunnels.depth`.
#[inline(never)]
fn innermost<'a>(
    tunnels: &Tunnels,
    tunnel: Tunnel,
    udp: &OuterUdp<'a>,
) -> Result<Mirrored<'a>, Refusal> {
    let mut mirrored = layer(tunnels, tunnel, udp)?;
    for _ in 1..tunnels.depth {
        let Some(deeper) = nested(tunnels, &mirrored) else {
            break;
        };
        mirrored = deeper;
    }
    if mirrored.bytes.is_empty() {
        return Err(Malformed::InnerEmpty.into());
    }
    Ok(mirrored)
}

/// Bytes of a datagram that the record which held it lacks.
#[inline(always)]
const fn not_recorded(udp: &OuterUdp<'_>) -> usize {
    match udp.pieces {
        // What lacks was never there to be recorded.
        Pieces::FirstFragments { .. } => 0,
        _ => udp.carried_len.saturating_sub(udp.payload.len()),
    }
}

/// Takes one layer off.
#[inline(always)]
pub(super) fn layer<'a>(
    tunnels: &Tunnels,
    tunnel: Tunnel,
    udp: &OuterUdp<'a>,
) -> Result<Mirrored<'a>, Refusal> {
    match tunnel {
        Tunnel::Geneve => geneve_layer(tunnels, udp),
        Tunnel::Vxlan | Tunnel::Gpe => vxlan_layer(tunnel, udp),
    }
}

#[inline(always)]
fn vxlan_layer<'a>(tunnel: Tunnel, udp: &OuterUdp<'a>) -> Result<Mirrored<'a>, Refusal> {
    let cut = udp.carried_len > udp.payload.len();
    let header = if tunnel == Tunnel::Gpe {
        vxlan::parse_gpe(udp.payload, cut)?
    } else {
        vxlan::parse(udp.payload, cut)?
    };
    Ok(Mirrored {
        source: udp.src,
        target: udp.dst,
        vni: header.vni,
        tunnel,
        payload: match header.payload {
            Payload::Ethernet if tunnel == Tunnel::Vxlan => without_frame(header.inner),
            payload => payload,
        },
        bytes: header.inner,
        carried_len: udp.carried_len - (udp.payload.len() - header.inner.len()),
        outer_ip_len: udp.ip_len,
        not_recorded: not_recorded(udp),
        pieces: udp.pieces,
        reserved_set: header.reserved_set,
        length_mismatch: udp.length_mismatch,
    })
}

/// What plain VXLAN carries: an Ethernet frame (RFC 7348 §5), but some senders leave it out and send IP. That
/// is believed where the bytes prove it and cannot be a frame.
#[inline(always)]
fn without_frame(inner: &[u8]) -> Payload {
    match inner.first().map(|first| first >> 4) {
        Some(4 | 6) => proven(inner),
        _ => Payload::Ethernet,
    }
}

#[cold]
fn proven(inner: &[u8]) -> Payload {
    match layers::bare_ip(inner) {
        Some(4) => Payload::Ipv4,
        Some(_) => Payload::Ipv6,
        None => Payload::Ethernet,
    }
}

fn geneve_layer<'a>(tunnels: &Tunnels, udp: &OuterUdp<'a>) -> Result<Mirrored<'a>, Refusal> {
    let cut = udp.carried_len > udp.payload.len();
    let header = geneve::parse(udp.payload, cut)?;
    let within = match header.protocol {
        geneve::PROTOCOL_ETHERNET => outer::read(LinkType::Ethernet, header.inner, cut),
        ether_type::IPV4 | ether_type::IPV6 => outer::read_ip(header.inner, cut),
        _ => return Err(Filtered::GeneveNotMirror.into()),
    };
    if let Ok(Outer::Udp(inner)) = within
        && let Some(tunnel @ (Tunnel::Vxlan | Tunnel::Gpe)) = tunnels.at_port(inner.dst_port)
    {
        return Ok(Mirrored {
            outer_ip_len: udp.ip_len,
            not_recorded: not_recorded(udp),
            pieces: udp.pieces,
            ..vxlan_layer(tunnel, &inner)?
        });
    }
    if header.protocol != geneve::PROTOCOL_ETHERNET {
        return Err(Filtered::GeneveNotMirror.into());
    }
    Ok(Mirrored {
        source: udp.src,
        target: udp.dst,
        vni: header.vni,
        tunnel: Tunnel::Geneve,
        payload: Payload::Ethernet,
        bytes: header.inner,
        carried_len: udp.carried_len - (udp.payload.len() - header.inner.len()),
        outer_ip_len: udp.ip_len,
        not_recorded: not_recorded(udp),
        pieces: udp.pieces,
        reserved_set: false,
        length_mismatch: udp.length_mismatch,
    })
}

fn nested<'a>(tunnels: &Tunnels, outer: &Mirrored<'a>) -> Option<Mirrored<'a>> {
    let cut = outer.carried_len > outer.bytes.len();
    let read = match outer.payload {
        Payload::Ethernet => outer::read(LinkType::Ethernet, outer.bytes, cut),
        Payload::Ipv4 | Payload::Ipv6 => outer::read_ip(outer.bytes, cut),
    };
    let Ok(Outer::Udp(udp)) = read else {
        return None;
    };
    let tunnel = tunnels
        .at_port(udp.dst_port)
        .filter(|tunnel| *tunnel != Tunnel::Geneve)?;
    let inner = vxlan_layer(tunnel, &udp)
        .ok()
        .filter(|inner| !inner.bytes.is_empty())?;
    Some(Mirrored {
        reserved_set: inner.reserved_set | outer.reserved_set,
        length_mismatch: inner.length_mismatch | outer.length_mismatch,
        outer_ip_len: outer.outer_ip_len,
        not_recorded: outer.not_recorded,
        pieces: outer.pieces,
        ..inner
    })
}
