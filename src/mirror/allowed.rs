//! Who may feed the run: networks that outer packets may come from, and VNIs that are wanted. Pure.
//!
//! Port 4789 has no authentication, and a packet ring passes the host's firewall: these lists say whom to
//! listen to. An empty list allows everything.

use std::fmt;
use std::str::FromStr;

use super::networks::Networks;
use crate::wire::Vni;
use crate::wire::ip::Address;

/// A list of VNIs and ranges of them: `5`, `5,10-20`. Ranges are in their order, none of which touches another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VniList(Vec<(u32, u32)>);

impl VniList {
    /// All VNIs of these lists.
    pub fn joined(lists: &[Self]) -> Self {
        let ranges = lists.iter().flat_map(|list| list.0.iter().copied());
        Self::of(ranges.collect())
    }

    fn of(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<(u32, u32)> = Vec::new();
        for (first, last) in ranges {
            match joined.last_mut() {
                Some(known) if first <= known.1.saturating_add(1) => known.1 = known.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }

    /// Whether there is none in it.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this VNI is in it.
    #[inline]
    pub fn contains(&self, vni: Vni) -> bool {
        let vni = vni.as_u32();
        let behind = self.0.partition_point(|(first, _)| *first <= vni);
        let range = behind.checked_sub(1).and_then(|at| self.0.get(at));
        range.is_some_and(|(_, last)| vni <= *last)
    }
}

/// As it can be typed.
impl fmt::Display for VniList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// Why a text is no list of VNIs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum VniListError {
    #[error("'{0}' is no VNI; use for example 5, 5,7 or 10-20, each from 0 to 16777215")]
    Number(String),
    #[error("the range {first}-{last} ends before it begins; write {last}-{first}")]
    Backwards { first: u32, last: u32 },
}

impl FromStr for VniList {
    type Err = VniListError;

    fn from_str(text: &str) -> Result<Self, VniListError> {
        let number = |text: &str| {
            let digits = text.trim();
            let number = digits.parse().ok().and_then(Vni::new);
            let number = number.filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()));
            number
                .map(Vni::as_u32)
                .ok_or_else(|| VniListError::Number(text.to_owned()))
        };
        let ranges = text.split(',').map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(VniListError::Backwards { first, last });
            }
            Ok((first, last))
        });
        Ok(Self::of(ranges.collect::<Result<_, _>>()?))
    }
}

/// What is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Networks that outer packets may come from; none allow every source.
    pub networks: Networks,
    /// VNIs that are wanted; none for all.
    pub vnis: VniList,
    /// VNIs that are not, even where the list above names them.
    pub denied_vnis: VniList,
}

impl Allowed {
    /// Whether everything is allowed.
    pub const fn is_everything(&self) -> bool {
        self.networks.is_empty() && self.vnis.is_empty() && self.denied_vnis.is_empty()
    }

    /// Whether packets from this address are.
    #[inline]
    pub fn source(&self, address: Address) -> bool {
        self.networks.is_empty() || self.networks.contains(address)
    }

    /// Whether this VNI is.
    #[inline]
    pub fn vni(&self, vni: Vni) -> bool {
        (self.vnis.is_empty() || self.vnis.contains(vni))
            && (self.denied_vnis.is_empty() || !self.denied_vnis.contains(vni))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vnis_are_listed_and_ranged() {
        let list = |text: &str| text.parse::<VniList>();
        let lists = [list("20-30,5, 7").unwrap(), list("6,25-40").unwrap()];
        let allowed = Allowed {
            vnis: VniList::joined(&lists),
            ..Allowed::default()
        };
        assert_eq!(allowed.vnis.to_string(), "5-7,20-40");
        for (vni, is_allowed) in [
            (0, false),
            (4, false),
            (5, true),
            (7, true),
            (8, false),
            (19, false),
            (20, true),
            (40, true),
            (41, false),
            (0xff_ffff, false),
        ] {
            assert_eq!(allowed.vni(Vni::new(vni).unwrap()), is_allowed, "{vni}");
        }
        let source = std::net::IpAddr::from([10, 0, 0, 1]);
        assert!(allowed.source(source.into()), "no list of sources");
        let denied = Allowed {
            denied_vnis: list("6,30-50").unwrap(),
            ..allowed
        };
        for (vni, is_allowed) in [(5, true), (6, false), (29, true), (30, false), (60, false)] {
            assert_eq!(denied.vni(Vni::new(vni).unwrap()), is_allowed, "{vni}");
        }
        let all_but = Allowed {
            vnis: VniList::default(),
            ..denied
        };
        assert!(all_but.vni(Vni::MAX) && !all_but.vni(Vni::new(40).unwrap()));
        assert!(!all_but.is_everything());
        let all = Allowed {
            vnis: list("0-16777215").unwrap(),
            ..Allowed::default()
        };
        assert!(all.vni(Vni::MAX) && all.vni(Vni::new(0).unwrap()));
        assert!(Allowed::default().vni(Vni::MAX));
        for bad in [
            "", ",", "5,", "a", "-5", "5-", "16777216", "+5", "1-2-3", "5;6", "0x10",
        ] {
            assert!(matches!(list(bad), Err(VniListError::Number(_))), "{bad}");
        }
        let error = list("9-3").unwrap_err();
        assert!(error.to_string().contains("write 3-9"), "{error}");
    }
}
