//! Settings as a file of settings: what holds, so that the file gives the same again, and the example with every key.
//! Pure.

use serde_json::Value;

use super::keys::{self, Key, Kind};
use super::layers::{Layers, Origin};
use super::typed;
use crate::report::page::wrap;

/// Longest line of comments.
const WIDTH: usize = 110;

/// A file that gives the settings of these layers again. What nobody has said stands there as a comment: said, some
/// defaults would mean more.
///
/// # Errors
///
/// The name of a setting whose value is no text.
pub fn file_of(layers: &Layers<typed::Listen>) -> Result<String, String> {
    for (_, layer) in layers.iter() {
        // A path need not be UTF-8.
        serde_json::to_value(layer)
            .map_err(|error| format!("a value cannot stand in a file of settings: {error}"))?;
    }
    let effective = layers.effective();
    let mut text = String::from("# Settings of vxtap listen. Lines behind a # hold by default.\n");
    let mut group = String::new();
    for key in keys::all() {
        begin_group(&mut text, &mut group, &key.group);
        let line = match effective.get(&key.name) {
            Some((Origin::Default, value)) => format!("#{} = {}", key.name, printed(&key, value)),
            Some((_, value)) => format!("{} = {}", key.name, printed(&key, value)),
            None => continue,
        };
        text.push_str(&line);
        text.push('\n');
    }
    Ok(text)
}

/// A file with every key, what it means, its unit and its default.
pub fn example() -> String {
    let mut text = String::from(EXAMPLE_BEGIN);
    let defaults = Layers::of(vec![(Origin::Default, typed::Listen::defaults())]).effective();
    let mut group = String::new();
    for key in keys::all() {
        begin_group(&mut text, &mut group, &key.group);
        let (help, _) = key
            .help
            .split_once(" [default: ")
            .unwrap_or((&key.help, ""));
        let comment: String = wrap(help, WIDTH - 2)
            .iter()
            .map(|line| format!("# {line}\n"))
            .collect();
        let value = match (defaults.get(&key.name), key.kind) {
            (Some((_, value)), _) => printed(&key, value),
            (None, Kind::Switch) => "false".to_owned(),
            (None, Kind::One) => quoted(&key.value_name),
            (None, Kind::Many) => format!("[{}]", quoted(&key.value_name)),
        };
        let unit = match (defaults.contains_key(&key.name), key.kind) {
            (_, Kind::Switch) => String::new(),
            (true, _) => format!(" # {}", key.value_name),
            (false, _) => format!(" # {}, not set", key.value_name),
        };
        let parted = if text.ends_with("]\n") { "" } else { "\n" };
        text.push_str(&format!("{parted}{comment}#{} = {value}{unit}\n", key.name));
    }
    text
}

const EXAMPLE_BEGIN: &str = "\
# Settings of `vxtap listen --config FILE`: every key, what it means, its unit, and its default. Each has the name of the
# flag; a flag counts before an environment variable (VXTAP_ and the name in capitals: VXTAP_MTU), and that before
# this file. `vxtap check FILE` tells what holds, and every mistake with its line. Take the # away in front of a key to
# set it, and leave out the rest. Times have a unit (ms, s, m, h, d), sizes too (kB, MB, GB, TB, KiB, MiB, GiB, TiB).
";

fn begin_group(text: &mut String, group: &mut String, next: &str) {
    if group != next {
        next.clone_into(group);
        text.push_str(&format!("\n[{group}]\n"));
    }
}

/// A value as TOML, with the unit that a number alone stands for.
fn printed(key: &Key, value: &Value) -> String {
    match value {
        Value::String(text) => {
            let with_unit = key.lacks_unit(text);
            let text = with_unit.as_deref().unwrap_or(text);
            let is_number = text
                .parse()
                .is_ok_and(|number: u32| number.to_string() == text);
            if is_number {
                text.to_owned()
            } else {
                quoted(text)
            }
        }
        Value::Array(values) => {
            let values: Vec<String> = values.iter().map(|value| printed(key, value)).collect();
            format!("[{}]", values.join(", "))
        }
        other => other.to_string(),
    }
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            letter if letter.is_control() => {
                quoted.push_str(&format!("\\u{:04X}", u32::from(letter)));
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}
