//! Why a packet was not delivered, as far as its bytes tell.
//!
//! *Malformed* breaks a rule; *filtered* was not asked for. The words returned by `reason` are the
//! names of counters in the summary and in metrics; dashboards depend on them.

/// A list of reasons that can be counted in an array.
macro_rules! reasons {
    (
        $(#[$meta:meta])*
        $name:ident { $($(#[doc = $doc:literal])* $variant:ident => $word:literal,)+ }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[doc = $doc])* $variant,)+ }

        impl $name {
            /// Every reason, in the order of their counters.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The counter's name.
            pub const fn reason(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// What it means, in a sentence for people.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),*).trim(),)+ }
            }
        }
    };
}
pub(crate) use reasons;

reasons! {
    /// The packet breaks a rule of its format.
    Malformed {
        /// Shorter than its link layer's header.
        OuterLink => "outer_link",
        /// The outer IP header is cut, has another version than the link layer says, or a header
        /// length that cannot be.
        OuterIp => "outer_ip",
        /// The outer UDP header is cut or its length is below 8.
        OuterUdp => "outer_udp",
        /// Several datagrams in one packet, put together by the network card or the kernel, whose lengths
        /// do not tell how to take them apart.
        OuterSegments => "outer_segments",
        /// Pieces of one outer datagram contradict each other, or are too many.
        OuterFragment => "outer_fragment",
        /// Pieces of one outer datagram overlap: none says which bytes are the true ones (RFC 8200 §4.5).
        OuterOverlap => "outer_overlap",
        /// A VXLAN header cut inside its 8 bytes by the capture that recorded it.
        VxlanShort => "vxlan_short",
        /// The I flag is clear: the VNI is not valid (RFC 7348 §5).
        VniNotValid => "vni_not_valid",
        /// A VXLAN-GPE version other than 0.
        GpeVersion => "gpe_version",
        /// A Geneve header or its options are cut (RFC 8926 §3.4).
        GeneveShort => "geneve_short",
        /// A Geneve version other than 0.
        GeneveVersion => "geneve_version",
        /// A tunnel header with no inner byte behind it.
        InnerEmpty => "inner_empty",
    }
}

reasons! {
    /// The packet is sound, or may be, but is not mirrored traffic that was asked for.
    Filtered {
        /// Of an interface whose link type cannot be read.
        LinkType => "link_type",
        /// Not IPv4 or IPv6 (ARP, LLDP, …) on the outside.
        NotIp => "not_ip",
        /// IP, but not UDP.
        NotUdp => "not_udp",
        /// UDP to a port that no tunnel was configured for.
        OtherPort => "other_port",
        /// To a port that is received on, but to an address that is not.
        OtherAddress => "other_address",
        /// From an address that --allow does not name.
        NotAllowed => "not_allowed",
        /// Of a VNI that --vni does not name, or that --vni-deny does.
        Vni => "vni",
        /// Of a mirrored packet that --filter does not ask for.
        Filter => "filter",
        /// To the port, but no VXLAN header: a load balancer's probe.
        Probe => "probe",
        /// A piece of an outer datagram that is counted with another of its pieces.
        FragmentJoined => "fragment_joined",
        /// VXLAN-GPE that carries something other than Ethernet, IPv4 or IPv6 (NSH, MPLS, …), or OAM.
        GpeNotDecoded => "gpe_not_decoded",
        /// A Geneve control packet (O bit).
        GeneveControl => "geneve_control",
        /// Geneve that carries neither Ethernet nor VXLAN.
        GeneveNotMirror => "geneve_not_mirror",
    }
}

impl Malformed {
    /// There are too few bytes to tell what it is.
    pub const fn is_short(self) -> bool {
        matches!(
            self,
            Self::OuterUdp | Self::VxlanShort | Self::GeneveShort | Self::InnerEmpty
        )
    }
}

/// A packet that ends here, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Breaks a rule.
    Malformed(Malformed),
    /// Not asked for.
    Filtered(Filtered),
}

impl From<Malformed> for Refusal {
    fn from(reason: Malformed) -> Self {
        Self::Malformed(reason)
    }
}

impl From<Filtered> for Refusal {
    fn from(reason: Filtered) -> Self {
        Self::Filtered(reason)
    }
}
