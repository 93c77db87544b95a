//! Layers of settings: flags lie over the environment, that over a file, and that over what holds by default. Each
//! value keeps the layer it came from.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::capture::store::manifest::hex;

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A file of settings.
    File,
    /// An environment variable.
    Environment,
    /// A flag.
    Flag,
}

/// One kind of settings, or a group of them, in layers; the first that says something counts.
#[derive(Clone, Debug)]
pub struct Layers<T>(Vec<(Origin, T)>);

impl<T> Layers<T> {
    /// `flags` over `defaults`.
    pub fn new(flags: T, defaults: T) -> Self {
        Self(vec![(Origin::Flag, flags), (Origin::Default, defaults)])
    }

    /// These layers, the one that counts most first.
    pub fn of(layers: Vec<(Origin, T)>) -> Self {
        Self(layers)
    }

    /// A group of the settings.
    pub fn group<'a, U>(&'a self, group: impl Fn(&'a T) -> &'a U) -> Layers<&'a U> {
        let layers = self.0.iter();
        Layers(
            layers
                .map(|(origin, layer)| (*origin, group(layer)))
                .collect(),
        )
    }

    /// What holds: by the name of each setting, its value and where that came from. What nobody has said is left out.
    pub fn effective(&self) -> BTreeMap<String, (Origin, Value)>
    where
        T: Serialize,
    {
        let mut effective = BTreeMap::new();
        for (origin, layer) in self.iter() {
            let groups = serde_json::to_value(layer).unwrap_or_default();
            let groups = groups.as_object().into_iter().flatten();
            let values = groups.flat_map(|(_, group)| group.as_object().into_iter().flatten());
            for (name, value) in values.filter(|(_, value)| !value.is_null()) {
                let entry = effective.entry(name.clone());
                entry.or_insert_with(|| (origin, value.clone()));
            }
        }
        effective
    }

    /// A name for what holds: the same settings, the same name.
    pub fn fingerprint(&self) -> String
    where
        T: Serialize,
    {
        let effective = self.effective();
        let values: BTreeMap<&String, &Value> = effective
            .iter()
            .map(|(name, (_, value))| (name, value))
            .collect();
        let text = serde_json::to_vec(&values).unwrap_or_default();
        let digest = Sha256::digest(text);
        hex(digest.get(..8).unwrap_or_default())
    }

    /// All layers, the one that counts most first.
    pub fn iter(&self) -> impl Iterator<Item = (Origin, &T)> {
        self.0.iter().map(|(origin, layer)| (*origin, layer))
    }
}

impl<'a, T> Layers<&'a T> {
    /// The value of a setting and where it came from; `None` where no layer has one.
    pub fn find<U: ?Sized>(&self, of: impl Fn(&'a T) -> Option<&'a U>) -> Option<(Origin, &'a U)> {
        let mut layers = self.0.iter();
        layers.find_map(|(origin, layer)| Some((*origin, of(layer)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Typed {
        group: Group,
    }

    #[derive(Default)]
    struct Group {
        said: Option<u32>,
        silent: Option<u32>,
        neither: Option<u32>,
    }

    #[test]
    fn a_flag_counts_before_a_default() {
        let group = |said, silent| Typed {
            group: Group {
                said,
                silent,
                neither: None,
            },
        };
        // The same number as the default, and still typed.
        let layers = Layers::new(group(Some(1), None), group(Some(1), Some(2)));
        let layers = layers.group(|typed| &typed.group);
        let find = |of: fn(&Group) -> Option<&u32>| layers.find(of);
        assert_eq!(find(|typed| typed.said.as_ref()), Some((Origin::Flag, &1)));
        let silent = find(|typed| typed.silent.as_ref());
        assert_eq!(silent, Some((Origin::Default, &2)));
        assert_eq!(find(|typed| typed.neither.as_ref()), None);
    }
}
