//! What names a mirror session.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use crate::wire::Vni;

/// What names a mirror session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SessionKey {
    /// Mirrored traffic, by VTEP and network identifier.
    Mirror {
        /// Outer source address.
        source: IpAddr,
        /// Network identifier.
        vni: Vni,
    },
    /// A capture that was already decapsulated.
    Plain,
    /// Sessions beyond [`super::session::MAX_SESSIONS`].
    Other,
}

/// Three words, which a hasher takes at a fraction of what the fields one by one cost.
impl Hash for SessionKey {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        match *self {
            Self::Mirror { source, vni } => {
                let (kind, address) = match source {
                    IpAddr::V4(v4) => (4, u128::from(v4.to_bits())),
                    IpAddr::V6(v6) => (6, v6.to_bits()),
                };
                state.write_u64(address as u64);
                if kind == 6 {
                    state.write_u64((address >> 64) as u64);
                }
                state.write_u64((u64::from(vni.as_u32()) << 8) | kind);
            }
            Self::Plain => state.write_u64(0),
            Self::Other => state.write_u64(1),
        }
    }
}

impl SessionKey {
    /// Outer source address and VNI, where there are such.
    pub const fn mirror(self) -> Option<(IpAddr, Vni)> {
        match self {
            Self::Mirror { source, vni } => Some((source, vni)),
            Self::Plain | Self::Other => None,
        }
    }

    /// The interface name in capture files: `vni101@10.0.1.11`.
    pub fn interface_name(self) -> String {
        match self {
            Self::Mirror { source, vni } => format!("vni{vni}@{source}"),
            Self::Plain => "plain".to_owned(),
            Self::Other => "vni-other".to_owned(),
        }
    }
}
