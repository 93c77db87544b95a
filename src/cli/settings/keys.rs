//! Every setting of `vxtap listen` by its name: the long flag, which is also the key in a file and, in capitals
//! behind `VXTAP_`, the environment variable. The table follows from the definitions of the flags.

use serde_json::Value;

use super::typed;
use crate::cli::args;

/// What environment variables of settings begin with.
pub const PREFIX: &str = "VXTAP_";

/// A setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The table of a file that it belongs to.
    pub group: String,
    /// Its flag without the dashes.
    pub name: String,
    /// How many values it has.
    pub kind: Kind,
    /// What a value is, as help shows it: `TIME`, `ADDR:PORT`. Empty for a switch.
    pub value_name: String,
    /// What it does, its default included.
    pub help: String,
}

/// How many values a setting has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is on or off.
    Switch,
    /// One.
    One,
    /// Any number.
    Many,
}

/// All of them, a group behind the other, in the order of the help.
pub fn all() -> Vec<Key> {
    // What nobody has said is null: every group and key is there.
    let empty = serde_json::to_value(typed::Listen::default()).unwrap_or_default();
    let groups = empty.as_object().into_iter().flatten();
    let group_of = |name: &str| {
        let mut groups = groups.clone();
        let found = groups.find(|(_, keys)| keys.get(name).is_some());
        found.map(|(group, _)| group.clone())
    };
    let command = args::command();
    let listen = command.find_subcommand("listen");
    let flags = listen.into_iter().flat_map(clap::Command::get_arguments);
    let keys = flags.filter_map(|flag| {
        let name = flag.get_long()?;
        let takes = flag.get_num_args().map_or(1, |values| values.max_values());
        let kind = match flag.get_action() {
            clap::ArgAction::Append => Kind::Many,
            _ if takes == 0 => Kind::Switch,
            _ => Kind::One,
        };
        let value_names = flag.get_value_names().unwrap_or_default();
        let value_name = value_names.first().map(ToString::to_string);
        Some(Key {
            group: group_of(name)?,
            name: name.to_owned(),
            kind,
            value_name: value_name
                .filter(|_| kind != Kind::Switch)
                .unwrap_or_default(),
            help: flag.get_help().map(ToString::to_string).unwrap_or_default(),
        })
    });
    let keys: Vec<Key> = keys.collect();
    // Flags of a group may stand elsewhere in the help.
    let mut order: Vec<&str> = Vec::new();
    for key in &keys {
        if !order.contains(&key.group.as_str()) {
            order.push(&key.group);
        }
    }
    let place = |key: &Key| order.iter().position(|group| *group == key.group);
    let mut sorted = keys.clone();
    sorted.sort_by_key(place);
    sorted
}

impl Key {
    /// Whether a value that is a number alone lacks its unit, and one with a unit that it takes for it.
    pub fn lacks_unit(&self, text: &str) -> Option<String> {
        let is_number = text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.');
        let mut words = self.value_name.split('|');
        let unit = words.find_map(|word| match word {
            "TIME" => Some("s"),
            "SIZE" => Some("B"),
            _ => None,
        })?;
        let has_digit = text.bytes().any(|byte| byte.is_ascii_digit());
        (is_number && has_digit).then(|| format!("{text}{unit}"))
    }
}

/// The key of a flag as messages name it.
pub fn of_flag(flag: &str) -> &str {
    match flag {
        "-w" => "write",
        _ => flag.trim_start_matches('-'),
    }
}

/// The environment variable of a key.
pub fn variable(name: &str) -> String {
    let name = name.to_ascii_uppercase().replace('-', "_");
    format!("{PREFIX}{name}")
}

/// The one of `known` that `name` was most likely meant to be, if it is like any.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('_', "-");
    let name = plain(name);
    let like = |known: &'a str| (strsim::damerau_levenshtein(&name, &plain(known)), known);
    let (far, best) = known.map(like).min()?;
    // A third of the letters may be wrong, and a word may have something in front or behind.
    let close = far <= (name.chars().count().max(best.len()) / 3).max(1);
    let contained = name.len() >= 3 && plain(best).contains(&name);
    (close || contained).then_some(best)
}

/// Values of layers: `(group, key, value)` as the typed structs take them.
pub fn to_typed(
    values: impl IntoIterator<Item = (String, String, Value)>,
) -> Result<typed::Listen, serde_json::Error> {
    let mut groups = serde_json::Map::new();
    for (group, name, value) in values {
        let group = groups
            .entry(group)
            .or_insert_with(|| Value::Object(serde_json::Map::new()));
        if let Some(keys) = group.as_object_mut() {
            keys.insert(name, value);
        }
    }
    serde_json::from_value(Value::Object(groups))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever adds a flag to `listen` has it in the file and the environment as well.
    #[test]
    fn every_flag_is_a_key() {
        let command = args::command();
        let listen = command.find_subcommand("listen").unwrap();
        let flags = listen.get_arguments().filter_map(|flag| flag.get_long());
        let keys = all();
        let mut found = 0;
        for flag in flags.filter(|flag| !["help", "config"].contains(flag)) {
            let of: Vec<&Key> = keys.iter().filter(|key| key.name == flag).collect();
            let [key] = of.as_slice() else {
                panic!("{flag}: {of:?}");
            };
            assert_eq!(
                key.kind == Kind::Switch,
                key.value_name.is_empty(),
                "{flag}"
            );
            assert!(!key.help.is_empty(), "{flag}");
            found += 1;
        }
        assert_eq!(found, keys.len());
        let empty = serde_json::to_value(typed::Listen::default()).unwrap();
        let groups = empty.as_object().unwrap();
        let fields: usize = groups
            .values()
            .map(|keys| keys.as_object().unwrap().len())
            .sum();
        assert_eq!(fields, keys.len(), "a field without a flag");
    }

    /// What a program behind --on-rotate gets says nothing to a vxtap that it starts.
    #[test]
    fn no_variable_means_something_else_too() {
        let keys = all();
        for name in super::super::environment::OTHERS {
            let variable = format!("{PREFIX}{name}");
            assert!(
                keys.iter()
                    .all(|key| super::variable(&key.name) != variable),
                "{variable}"
            );
        }
    }

    #[test]
    fn groups_stay_together() {
        let keys = all();
        let mut groups: Vec<&str> = keys.iter().map(|key| key.group.as_str()).collect();
        groups.dedup();
        let all_groups = groups.len();
        groups.sort_unstable();
        groups.dedup();
        assert_eq!(groups.len(), all_groups);
        let overwrite = keys.iter().find(|key| key.name == "overwrite").unwrap();
        assert_eq!(overwrite.group, "receive");
        assert_eq!(overwrite.kind, Kind::Switch);
    }

    #[test]
    fn the_nearest_name() {
        let known = ["mtu", "mtu-overhead", "bind", "rotate-interval", "keep-age"];
        let near = |name: &str| nearest(name, known.into_iter());
        for (name, meant) in [
            ("mut", Some("mtu")),
            ("binds", Some("bind")),
            ("rotate_interval", Some("rotate-interval")),
            ("Rotate-Intervall", Some("rotate-interval")),
            ("overhead", Some("mtu-overhead")),
            ("keepage", Some("keep-age")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(near(name), meant, "{name}");
        }
    }

    #[test]
    fn numbers_that_lack_a_unit() {
        let keys = all();
        let with = |name: &str, text: &str| {
            let key = keys.iter().find(|key| key.name == name).unwrap();
            key.lacks_unit(text)
        };
        assert_eq!(with("duration", "90").as_deref(), Some("90s"));
        assert_eq!(with("duration", "1.5").as_deref(), Some("1.5s"));
        assert_eq!(with("active-timeout", "5").as_deref(), Some("5s"));
        assert_eq!(with("keep-bytes", "1000").as_deref(), Some("1000B"));
        assert_eq!(with("min-free", "5").as_deref(), Some("5B"));
        for (name, text) in [
            ("duration", "90s"),
            ("duration", "."),
            ("active-timeout", "off"),
            ("mtu", "1500"),
            ("min-free", "10%"),
        ] {
            assert_eq!(with(name, text), None, "{name} {text}");
        }
    }
}
