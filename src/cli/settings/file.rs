//! A file of settings: TOML, a table for each group, and the names of the flags as keys. Pure: text in, values with
//! their places out, and every mistake, so far as it can be told before the values are read.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::keys::{self, Key, Kind};
use super::mistakes::{Mistakes, Place};
use super::syntax;

/// What a file says.
#[derive(Debug, Default)]
pub struct File {
    /// Group, key and value, as the typed structs take them.
    pub values: Vec<(String, String, Value)>,
    /// Of each key: where its value stands, and then where each element of a list does.
    pub places: BTreeMap<String, Vec<Place>>,
    /// It is TOML: what it says is all known.
    pub is_whole: bool,
}

/// Reads the text of the file `name`.
pub fn read(name: &str, text: &str, keys: &[Key], mistakes: &mut Mistakes) -> File {
    // An editor of Windows puts it there.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader {
        name: name.into(),
        text,
        keys,
        mistakes,
        file: File::default(),
        broken: Vec::new(),
    };
    let (tables, errors) = DeTable::parse_recoverable(text);
    reader.file.is_whole = errors.is_empty();
    let errors = errors.iter().map(|error| {
        let span = error.span().unwrap_or_default();
        (span, error.message())
    });
    let mut errors: Vec<(Range<usize>, &str)> = errors.collect();
    errors.sort_by_key(|(span, _)| span.start);
    for (span, message) in errors {
        if !reader.syntax(&span, message) {
            break;
        }
    }
    for (group, values) in tables.get_ref().iter() {
        reader.group(group, values);
    }
    reader.file
}

struct Reader<'a> {
    name: Arc<str>,
    text: &'a str,
    keys: &'a [Key],
    mistakes: &'a mut Mistakes,
    file: File,
    /// Lines that are no TOML.
    broken: Vec<usize>,
}

type Name<'a> = Spanned<std::borrow::Cow<'a, str>>;

impl Reader<'_> {
    fn place(&self, span: &Range<usize>) -> Place {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_begin = before.rfind('\n').map_or(0, |at| at + 1);
        let in_line = before.get(line_begin..).unwrap_or_default();
        Place {
            file: Arc::clone(&self.name),
            line: 1 + before.bytes().filter(|byte| *byte == b'\n').count(),
            column: 1 + in_line.chars().count(),
        }
    }

    /// Tells of text that is no TOML, once a line. Whether the parser can be believed about what follows.
    fn syntax(&mut self, span: &Range<usize>, message: &str) -> bool {
        let place = self.place(span);
        let line = self
            .text
            .split('\n')
            .nth(place.line - 1)
            .unwrap_or_default();
        // A list that is not closed takes in the lines below it.
        let is_below = place.column == 1 && message.contains("missing comma");
        if !self.broken.contains(&place.line) {
            let message = if is_below { "unclosed array" } else { message };
            let text = syntax::told(message, line.trim_end(), place.column - 1);
            self.broken.push(place.line);
            self.mistakes.note_at(Some(place), text);
        }
        !is_below
    }

    fn refuse(&mut self, span: &Range<usize>, text: String) {
        let place = self.place(span);
        // What the parser has made of a broken line, or of one below it, was not meant.
        let is_broken = |line: &usize| *line == place.line || line + 1 == place.line;
        if self.broken.iter().any(is_broken) {
            return;
        }
        self.mistakes.note_at(Some(place), text);
    }

    /// One table of the file.
    fn group(&mut self, group: &Name<'_>, values: &Spanned<DeValue<'_>>) {
        let name = group.get_ref().as_ref();
        let is_group = self.keys.iter().any(|key| key.group == name);
        match values.get_ref() {
            DeValue::Table(table) if is_group => {
                for (key, value) in table.iter() {
                    self.value(name, key, value);
                }
            }
            DeValue::Array(tables)
                if is_group && tables.iter().all(|table| table.get_ref().is_table()) =>
            {
                let text = format!(
                    "[[{name}]] would be several receivers, and one file is one: write [{name}], and start a unit with a \
                     file of its own for each receiver (docs/DEPLOY.md, vxtap@NAME.service)"
                );
                self.refuse(&group.span(), text);
            }
            _ if is_group => {
                let text = format!(
                    "'{name}' is a table: write [{name}] in a line of its own, and its keys below"
                );
                self.refuse(&group.span(), text);
            }
            DeValue::Table(_) => {
                let groups = self.keys.iter().map(|key| key.group.as_str());
                let text = match keys::nearest(name, groups.clone()) {
                    Some(near) => format!("there is no table [{name}]; is [{near}] meant?"),
                    None => {
                        let mut groups: Vec<&str> = groups.collect();
                        groups.dedup();
                        format!(
                            "there is no table [{name}]; there are {}",
                            groups.join(", ")
                        )
                    }
                };
                self.refuse(&group.span(), text);
            }
            _ => {
                let text = match self.keys.iter().find(|key| key.name == name) {
                    Some(key) => format!(
                        "'{name}' stands outside of its table: it belongs below [{}]",
                        key.group
                    ),
                    None => self.unknown(name, None),
                };
                self.refuse(&group.span(), text);
            }
        }
    }

    /// What to say of a key that there is not; `group` is the table it stands in.
    fn unknown(&self, name: &str, group: Option<&str>) -> String {
        let of_group = |key: &&Key| group.is_some_and(|group| key.group == group);
        let here = self.keys.iter().filter(of_group);
        let here = here.map(|key| key.name.as_str());
        let inside = group.map_or(String::new(), |group| format!(" in [{group}]"));
        if let Some(near) = keys::nearest(name, here.clone()) {
            return format!("there is no key '{name}'{inside}; is '{near}' meant?");
        }
        let all = self.keys.iter().map(|key| key.name.as_str());
        let near = keys::nearest(name, all);
        match self.keys.iter().find(|key| near == Some(&key.name)) {
            Some(key) => format!(
                "there is no key '{name}'{inside}; is '{}' in [{}] meant?",
                key.name, key.group
            ),
            None if group.is_some() => {
                let here: Vec<&str> = here.collect();
                format!(
                    "there is no key '{name}'{inside}; there are {}",
                    here.join(", ")
                )
            }
            None => format!(
                "there is no key '{name}', and keys stand in tables: [receive], [output], …"
            ),
        }
    }

    /// One key of a table.
    fn value(&mut self, group: &str, name: &Name<'_>, value: &Spanned<DeValue<'_>>) {
        let known = self.keys.iter();
        let known = known
            .clone()
            .find(|key| key.group == group && key.name == name.get_ref().as_ref());
        let Some(key) = known else {
            let elsewhere = self
                .keys
                .iter()
                .find(|key| key.name == name.get_ref().as_ref());
            let text = match elsewhere {
                Some(key) => format!(
                    "'{}' stands in [{group}] and belongs below [{}]",
                    key.name, key.group
                ),
                None => self.unknown(name.get_ref(), Some(group)),
            };
            return self.refuse(&name.span(), text);
        };
        let mut places = vec![self.place(&value.span())];
        let read = match (key.kind, value.get_ref()) {
            (Kind::Switch, DeValue::Boolean(on)) => Some(Value::Bool(*on)),
            (Kind::Switch, found) => {
                let text = format!(
                    "'{}' is true or false, without quotation marks; this is {}",
                    key.name,
                    kind_of(found)
                );
                self.refuse(&value.span(), text);
                None
            }
            (Kind::One, DeValue::Array(_)) => {
                let text = format!("'{}' has one value; this is a list", key.name);
                self.refuse(&value.span(), text);
                None
            }
            (Kind::Many, DeValue::Array(values)) => {
                let values = self.values(key, values);
                places.extend(values.iter().map(|(place, _)| place.clone()));
                Some(values.into_iter().map(|(_, value)| value).collect())
            }
            (Kind::One, _) => self.text(key, value),
            (Kind::Many, _) => self.text(key, value).map(|one| Value::Array(vec![one])),
        };
        if let Some(value) = read {
            let (group, name) = (key.group.clone(), key.name.clone());
            self.file.places.insert(name.clone(), places);
            self.file.values.push((group, name, value));
        }
    }

    fn values(&mut self, key: &Key, values: &DeArray<'_>) -> Vec<(Place, Value)> {
        let mut read = Vec::new();
        for value in values.iter() {
            let place = self.place(&value.span());
            read.extend(self.text(key, value).map(|text| (place, text)));
        }
        read
    }

    /// One value, as text.
    fn text(&mut self, key: &Key, value: &Spanned<DeValue<'_>>) -> Option<Value> {
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number)
                if i128::from_str_radix(number.as_str(), number.radix()).is_ok() =>
            {
                number.to_string()
            }
            DeValue::Float(number) if number.as_str().parse::<f64>().is_ok() => number.to_string(),
            DeValue::Integer(_) | DeValue::Float(_) => {
                let written = self.text.get(value.span()).unwrap_or_default();
                let text = format!("a text needs quotation marks: {} = \"{written}\"", key.name);
                self.refuse(&value.span(), text);
                return None;
            }
            found => {
                let text = format!(
                    "'{}' needs a text in quotation marks or a number ({}); this is {}",
                    key.name,
                    key.value_name,
                    kind_of(found)
                );
                self.refuse(&value.span(), text);
                return None;
            }
        };
        if let Some(with) = key.lacks_unit(&text) {
            let text = format!(
                "'{}' lacks its unit: write \"{with}\" if that is meant",
                key.name
            );
            self.refuse(&value.span(), text);
            return None;
        }
        Some(Value::String(text))
    }
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(true) => "true",
        DeValue::Boolean(false) => "false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
