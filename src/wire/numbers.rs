//! Numbers that name what comes next: EtherTypes, IP protocols, TCP flags. Every room takes them from here.

/// EtherTypes (IEEE's registry; <https://www.iana.org/assignments/ieee-802-numbers>).
pub mod ether_type {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// MPLS, unicast (RFC 3032 §5).
    pub const MPLS: u16 = 0x8847;
    /// MPLS with an upstream-assigned label (RFC 5332).
    pub const MPLS_UPSTREAM: u16 = 0x8848;
    /// 802.1Q tag.
    pub const VLAN: u16 = 0x8100;
    /// 802.1ad tag.
    pub const VLAN_SERVICE: u16 = 0x88a8;
    /// Outer tag of switches older than 802.1ad.
    pub const VLAN_9100: u16 = 0x9100;
    /// Outer tag of other switches older than 802.1ad.
    pub const VLAN_9200: u16 = 0x9200;

    /// Every type of VLAN tag: two bytes with the identifier, then the next EtherType.
    pub const VLANS: [u16; 4] = [VLAN, VLAN_SERVICE, VLAN_9100, VLAN_9200];

    /// Whether a VLAN tag follows.
    pub const fn is_vlan(ether_type: u16) -> bool {
        matches!(ether_type, VLAN | VLAN_SERVICE | VLAN_9100 | VLAN_9200)
    }
}

/// IP protocol numbers and IPv6 extension headers (<https://www.iana.org/assignments/protocol-numbers>).
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Authentication header (RFC 4302).
    pub const AUTHENTICATION: u8 = 51;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// Mobility header (RFC 6275).
    pub const MOBILITY: u8 = 135;
    /// Host identity protocol (RFC 7401).
    pub const HIP: u8 = 139;
    /// Shim6 (RFC 5533).
    pub const SHIM6: u8 = 140;

    /// Protocols that begin with a source port and a destination port.
    pub const WITH_PORTS: [u8; 3] = [TCP, UDP, SCTP];
}

/// Bits of the TCP header's flags (RFC 9293 §3.1), of which there are nine with the first one of RFC 3540.
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u16 = 0x01;
    /// Opens a connection.
    pub const SYN: u16 = 0x02;
    /// Resets the connection.
    pub const RST: u16 = 0x04;
    /// Pushes data to the reader.
    pub const PSH: u16 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u16 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u16 = 0x20;
    /// ECN echo (RFC 3168).
    pub const ECE: u16 = 0x40;
    /// Congestion window reduced (RFC 3168).
    pub const CWR: u16 = 0x80;
    /// Accurate ECN (RFC 9768); a nonce sum in RFC 3540.
    pub const AE: u16 = 0x100;

    /// All of them.
    pub const ALL: u16 = 0x1ff;
}
