//! Numbers that name what comes next: EtherTypes, IP protocols, TCP flags. Every room takes them from here.

/// EtherTypes (IEEE's registry; <https://www.iana.org/assignments/ieee-802-numbers>).
pub mod ether_type {
    /// Numbers that are looked into or named to people.
    macro_rules! ether_types {
        ($($(#[doc = $doc:literal])* $constant:ident = $number:literal, $name:literal;)+) => {
            $($(#[doc = $doc])* pub const $constant: u16 = $number;)+

            /// Every one that is known here.
            pub const KNOWN: &[u16] = &[$($constant),+];

            /// What people call it; `None` for one that is not known here.
            pub const fn name(ether_type: u16) -> Option<&'static str> {
                match ether_type {
                    $($constant => Some($name),)+
                    _ => None,
                }
            }
        };
    }

    ether_types! {
        /// IPv4.
        IPV4 = 0x0800, "IPv4";
        /// Address resolution.
        ARP = 0x0806, "ARP";
        /// Wakes a machine.
        WAKE_ON_LAN = 0x0842, "Wake-on-LAN";
        /// Layer-2 routing (RFC 6325).
        TRILL = 0x22f3, "TRILL";
        /// IS-IS of TRILL (RFC 6325).
        L2_IS_IS = 0x22f4, "L2-IS-IS";
        /// An Ethernet frame, where EtherTypes name what follows (RFC 1701).
        BRIDGED = 0x6558, "Transparent Ethernet bridging";
        /// Reverse address resolution.
        RARP = 0x8035, "RARP";
        /// AppleTalk.
        APPLETALK = 0x809b, "AppleTalk";
        /// AppleTalk's address resolution.
        AARP = 0x80f3, "AARP";
        /// 802.1Q tag.
        VLAN = 0x8100, "802.1Q VLAN";
        /// IPX.
        IPX = 0x8137, "IPX";
        /// Outer tag of some switches.
        VLAN_8200 = 0x8200, "VLAN tag 0x8200";
        /// IPv6.
        IPV6 = 0x86dd, "IPv6";
        /// Flow control.
        MAC_CONTROL = 0x8808, "MAC control";
        /// LACP and others (IEEE 802.3 annex 57A).
        SLOW_PROTOCOLS = 0x8809, "Slow protocols (LACP)";
        /// MPLS, unicast (RFC 3032 §5).
        MPLS = 0x8847, "MPLS";
        /// MPLS with an upstream-assigned label (RFC 5332).
        MPLS_UPSTREAM = 0x8848, "MPLS multicast";
        /// PPPoE before there is a session (RFC 2516).
        PPPOE_DISCOVERY = 0x8863, "PPPoE discovery";
        /// PPPoE (RFC 2516).
        PPPOE_SESSION = 0x8864, "PPPoE session";
        /// LLC in frames above 1500 bytes, which have no room for their length.
        JUMBO_LLC = 0x8870, "Jumbo LLC";
        /// 802.1X.
        EAPOL = 0x888e, "EAPOL (802.1X)";
        /// PROFINET.
        PROFINET = 0x8892, "PROFINET";
        /// ATA over Ethernet.
        AOE = 0x88a2, "ATA over Ethernet";
        /// EtherCAT.
        ETHERCAT = 0x88a4, "EtherCAT";
        /// 802.1ad tag.
        VLAN_SERVICE = 0x88a8, "802.1ad VLAN";
        /// Of IEEE 802, for experiments.
        LOCAL_1 = 0x88b5, "Local experimental 1";
        /// Of IEEE 802, for experiments.
        LOCAL_2 = 0x88b6, "Local experimental 2";
        /// GOOSE of IEC 61850.
        GOOSE = 0x88b8, "GOOSE";
        /// Sampled values of IEC 61850.
        SAMPLED_VALUES = 0x88ba, "Sampled values";
        /// Link layer discovery.
        LLDP = 0x88cc, "LLDP";
        /// Encrypted Ethernet (IEEE 802.1AE).
        MACSEC = 0x88e5, "MACsec";
        /// The service tag of provider backbone bridges (IEEE 802.1ah).
        BACKBONE_SERVICE = 0x88e7, "802.1ah backbone service";
        /// Registration of VLANs (IEEE 802.1ak).
        MVRP = 0x88f5, "MVRP";
        /// Precision time.
        PTP = 0x88f7, "PTP";
        /// Parallel redundancy.
        PRP = 0x88fb, "PRP";
        /// Connectivity faults (IEEE 802.1ag).
        CFM = 0x8902, "CFM";
        /// Cisco FabricPath, with 16 bytes of header of which this is in the middle.
        FABRICPATH = 0x8903, "Cisco FabricPath";
        /// Fibre Channel.
        FCOE = 0x8906, "FCoE";
        /// Cisco's security group tag.
        CISCO_METADATA = 0x8909, "Cisco MetaData";
        /// Set-up of Fibre Channel.
        FIP = 0x8914, "FCoE initialization";
        /// RDMA.
        ROCE = 0x8915, "RoCE";
        /// Cisco's tag of a virtual interface.
        VN_TAG = 0x8926, "VN-tag";
        /// High-availability seamless redundancy.
        HSR = 0x892f, "HSR";
        /// The tag of port extenders (IEEE 802.1BR).
        E_TAG = 0x893f, "802.1BR E-tag";
        /// Network service header (RFC 8300).
        NSH = 0x894f, "NSH";
        /// Ethernet's loop test.
        LOOPBACK = 0x9000, "Loopback test";
        /// Outer tag of switches older than 802.1ad.
        VLAN_9100 = 0x9100, "VLAN tag 0x9100";
        /// Outer tag of other switches older than 802.1ad.
        VLAN_9200 = 0x9200, "VLAN tag 0x9200";
    }

    /// Every type of VLAN tag: two bytes with the identifier, then the next EtherType.
    pub const VLANS: [u16; 5] = [VLAN, VLAN_SERVICE, VLAN_9100, VLAN_9200, VLAN_8200];

    /// Whether an IP packet follows.
    #[inline]
    pub const fn is_ip(ether_type: u16) -> bool {
        matches!(ether_type, IPV4 | IPV6)
    }

    /// Whether a VLAN tag follows.
    #[inline]
    pub const fn is_vlan(ether_type: u16) -> bool {
        matches!(
            ether_type,
            VLAN | VLAN_SERVICE | VLAN_9100 | VLAN_9200 | VLAN_8200
        )
    }
}

/// IP protocol numbers and IPv6 extension headers (<https://www.iana.org/assignments/protocol-numbers>).
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP.
    pub const IPV4: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Generic routing encapsulation.
    pub const GRE: u8 = 47;
    /// Encrypted payload (RFC 4303).
    pub const ESP: u8 = 50;
    /// Authentication header (RFC 4302).
    pub const AUTHENTICATION: u8 = 51;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6: nothing follows.
    pub const NO_NEXT: u8 = 59;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// OSPF.
    pub const OSPF: u8 = 89;
    /// PIM.
    pub const PIM: u8 = 103;
    /// VRRP.
    pub const VRRP: u8 = 112;
    /// L2TP.
    pub const L2TP: u8 = 115;
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
