//! What a capture of ours says of where its packets came from, pure: written into the description of an
//! interface and the comments of cut packets, and read from there when the capture is replayed.

use std::net::IpAddr;

use crate::mirror::session_key::SessionKey;
use crate::pcap::cut_by::{CutBy, cause_text};
use crate::wire::Vni;
use crate::wire::decapsulate::Tunnel;

/// The mirror session that an interface of a capture stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Outer source address.
    pub source: IpAddr,
    /// Network identifier.
    pub vni: Vni,
    /// MTU of the path that the run assumed, in bytes.
    pub mtu: u32,
    /// Outer destination address and encapsulation of the session's first packet, where they are known.
    pub to: Option<(IpAddr, Tunnel)>,
}

/// What the comment of a cut packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutComment {
    /// Bytes of the frame that were cut off.
    pub missing: u32,
    /// Bytes it had at the mirror source.
    pub orig: u32,
    /// What cut it.
    pub cut_by: CutBy,
}

impl Origin {
    /// The interface's description: `mirror vni=101 src=10.0.1.11 mtu=1500 dst=10.0.9.9 tunnel=vxlan`.
    pub fn description(&self) -> String {
        let Self {
            source, vni, mtu, ..
        } = self;
        let mut text = format!("mirror vni={vni} src={source} mtu={mtu}");
        if let Some((target, tunnel)) = self.to {
            text.push_str(&format!(" dst={target} tunnel={}", tunnel.name()));
        }
        text
    }

    /// From the name and description of an interface. `None` unless both were written here and name the same
    /// session: interfaces of other programs stay what they are.
    pub fn read(name: &[u8], description: &[u8]) -> Option<Self> {
        let name = std::str::from_utf8(name).ok()?;
        let description = std::str::from_utf8(description).ok()?;
        let mut words = description.strip_prefix("mirror ")?.split(' ');
        let mut value = |key: &str| words.next()?.strip_prefix(key)?.strip_prefix('=');
        let vni = Vni::new(value("vni")?.parse().ok()?)?;
        let source = value("src")?.parse().ok()?;
        let mtu = value("mtu")?.parse().ok()?;
        let to = match (value("dst"), value("tunnel")) {
            (Some(target), Some(tunnel)) => {
                let tunnels = [Tunnel::Vxlan, Tunnel::Gpe, Tunnel::Geneve];
                let mut tunnels = tunnels.into_iter();
                Some((
                    target.parse().ok()?,
                    tunnels.find(|known| known.name() == tunnel)?,
                ))
            }
            _ => None,
        };
        let key = SessionKey::Mirror { source, vni };
        (key.interface_name() == name).then_some(Self {
            source,
            vni,
            mtu,
            to,
        })
    }
}

impl CutComment {
    /// From a comment of a packet; `None` when it is none of ours.
    pub fn read(comment: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(comment).ok()?;
        let (missing, rest) = text.strip_prefix("truncated: ")?.split_once(" of ")?;
        let (orig, cause) = rest.split_once(" bytes missing")?;
        let mut causes = [
            CutBy::Mtu,
            CutBy::SnapLength,
            CutBy::MissingFragments,
            CutBy::Unclear,
        ]
        .into_iter();
        Some(Self {
            missing: missing.parse().ok()?,
            orig: orig.parse().ok()?,
            cut_by: causes.find(|known| cause_text(*known) == cause)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_read_back() {
        let target = "2001:db8::9".parse().unwrap();
        for (source, to) in [
            ("10.0.1.11", None),
            (
                "10.0.1.11",
                Some(("10.0.9.9".parse().unwrap(), Tunnel::Vxlan)),
            ),
            ("2001:db8::1", Some((target, Tunnel::Geneve))),
            ("2001:db8::1", Some((target, Tunnel::Gpe))),
        ] {
            let origin = Origin {
                source: source.parse().unwrap(),
                vni: Vni::new(0x00ff_ffff).unwrap(),
                mtu: 9001,
                to,
            };
            let name = format!("vni16777215@{source}");
            let description = origin.description();
            let read = Origin::read(name.as_bytes(), description.as_bytes());
            assert_eq!(read, Some(origin), "{description}");
            let other = Origin::read(b"vni1@10.0.1.11", description.as_bytes());
            assert_eq!(other, None, "another session than the name's");
        }
        for (name, description) in [
            ("eth0", "mirror vni=7 src=10.0.1.11 mtu=1500"),
            ("vni7@10.0.1.11", "mirror vni=7 src=10.0.1.11"),
            ("vni7@10.0.1.11", "mirror of rack 7"),
            (
                "vni7@10.0.1.11",
                "mirror vni=16777216 src=10.0.1.11 mtu=1500",
            ),
            ("vni7@10.0.1.11", ""),
            ("plain", "packets that were not encapsulated"),
        ] {
            let read = Origin::read(name.as_bytes(), description.as_bytes());
            assert_eq!(read, None, "{name} {description}");
        }
        assert_eq!(Origin::read(&[0xff], &[0xff]), None);
    }

    #[test]
    fn comments_read_back() {
        for cut_by in [
            CutBy::Mtu,
            CutBy::SnapLength,
            CutBy::MissingFragments,
            CutBy::Unclear,
        ] {
            let text = format!("truncated: 954 of 1454 bytes missing{}", cause_text(cut_by));
            let expected = CutComment {
                missing: 954,
                orig: 1454,
                cut_by,
            };
            assert_eq!(CutComment::read(text.as_bytes()), Some(expected));
        }
        for other in [
            "truncated",
            "truncated: x of 9 bytes missing",
            "a remark",
            "",
        ] {
            assert_eq!(CutComment::read(other.as_bytes()), None);
        }
    }
}
