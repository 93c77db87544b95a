//! What is wrong with the settings, in words: all mistakes are gathered and told at once, each with the place it
//! came from: a line of the file, an environment variable or a flag.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::keys;
use super::layers::{Layers, Origin};
use super::typed::Text;
use crate::failure::Failure;

/// A place in a file of settings.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file's name, as it was given.
    pub file: Arc<str>,
    /// Its line, from 1 on.
    pub line: usize,
    /// The character of the line, from 1 on.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column } = self;
        write!(out, "{file}:{line}:{column}")
    }
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Where it is, if that is in a file.
    pub place: Option<Place>,
    /// What is wrong and what is needed.
    pub text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(out, "{place}: {}", self.text),
            None => out.write_str(&self.text),
        }
    }
}

/// Where each setting has its value from. What is not here was a flag, or nobody said it.
#[derive(Clone, Debug, Default)]
pub struct Said {
    origins: BTreeMap<String, Origin>,
    /// Of each key of the file: its value, and then each element of a list.
    places: BTreeMap<String, Vec<Place>>,
}

impl Said {
    /// Of settings that come from these layers; `places` are those of the file's values.
    pub fn new(origins: BTreeMap<String, Origin>, places: BTreeMap<String, Vec<Place>>) -> Self {
        Self { origins, places }
    }

    /// Where the value of `key` stands, if it came from the file.
    pub fn place(&self, key: &str) -> Option<&Place> {
        self.place_of(key, None)
    }

    fn place_of(&self, key: &str, element: Option<usize>) -> Option<&Place> {
        if self.origins.get(key) != Some(&Origin::File) {
            return None;
        }
        let places = self.places.get(key)?;
        let of_element = element.and_then(|element| places.get(1 + element));
        of_element.or_else(|| places.first())
    }

    /// A text that names flags, with the names by which their values were given and the place of the first one that
    /// is in the file. `element` is which of several values of that one is meant.
    fn locate(&self, text: &str, element: Option<usize>) -> Mistake {
        let mut mistake = Mistake {
            place: None,
            text: String::new(),
        };
        let mut others = String::new();
        let mut rest = text;
        while let Some((before, flag, behind)) = next_flag(rest) {
            mistake.text.push_str(before);
            rest = behind;
            let key = keys::of_flag(flag);
            match self.origins.get(key) {
                Some(Origin::File) => mistake.text.push_str(key),
                Some(Origin::Environment) => mistake.text.push_str(&keys::variable(key)),
                _ => mistake.text.push_str(flag),
            }
            let Some(place) = self.place_of(key, element) else {
                continue;
            };
            match &mistake.place {
                None => mistake.place = Some(place.clone()),
                Some(first) if first.line == place.line => {}
                Some(_) => {
                    let elsewhere = format!(" ({key} is in line {})", place.line);
                    if !others.contains(&elsewhere) {
                        others.push_str(&elsewhere);
                    }
                }
            }
        }
        mistake.text.push_str(rest);
        mistake.text.push_str(&others);
        mistake
    }
}

/// The first flag in a text, with what stands before and behind it.
fn next_flag(text: &str) -> Option<(&str, &str, &str)> {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let rest = bytes.get(at..)?;
        let len = rest.iter().take_while(|byte| is_word(**byte)).count();
        let word = text.get(at..at + len).unwrap_or_default();
        let word = word.trim_end_matches('-');
        let begins = !bytes
            .get(..at)?
            .last()
            .is_some_and(|byte| byte.is_ascii_alphanumeric() || b"_/.".contains(byte));
        let is_flag = word.strip_prefix("--").is_some_and(|name| {
            name.bytes()
                .next()
                .is_some_and(|byte| byte.is_ascii_lowercase())
        });
        if begins && (is_flag || word == "-w") {
            return Some((text.get(..at)?, word, text.get(at + word.len()..)?));
        }
        at += len.max(1);
    }
    None
}

/// Mistakes gathered so far.
#[derive(Clone, Debug, Default)]
pub struct Mistakes {
    found: Vec<Mistake>,
    said: Said,
}

impl Mistakes {
    /// From now on mistakes name where a value came from.
    pub fn locate_by(&mut self, said: Said) {
        self.said = said;
    }

    /// Notes one, in words that name flags.
    pub fn note(&mut self, mistake: impl Into<String>) {
        let located = self.said.locate(&mistake.into(), None);
        self.found.push(located);
    }

    /// Notes one whose place is known.
    pub fn note_at(&mut self, place: Option<Place>, text: impl Into<String>) {
        let text = text.into();
        self.found.push(Mistake { place, text });
    }

    /// Notes it, if there is one.
    pub fn check(&mut self, outcome: Result<(), String>) {
        if let Err(mistake) = outcome {
            self.note(mistake);
        }
    }

    /// Reads the value of `flag`; `None` when it is wrong.
    pub fn read<V>(
        &mut self,
        flag: &str,
        text: &Text,
        read: impl Fn(&str) -> Result<V, String>,
    ) -> Option<V> {
        self.read_element(flag, None, text, read)
    }

    fn read_element<V>(
        &mut self,
        flag: &str,
        element: Option<usize>,
        Text(text): &Text,
        read: impl Fn(&str) -> Result<V, String>,
    ) -> Option<V> {
        let needed = match read(text) {
            Ok(value) => return Some(value),
            Err(needed) => needed,
        };
        // The value may look like a flag; what is needed instead may name one.
        let mut mistake = self.said.locate(&format!("for {flag}: {needed}"), element);
        mistake.text = format!("invalid value '{text}' {}", mistake.text);
        self.found.push(mistake);
        None
    }

    /// The value of a setting, read; `None` when no layer has one, or when it is wrong.
    pub fn one<'a, T, V>(
        &mut self,
        layers: &Layers<&'a T>,
        flag: &str,
        of: impl Fn(&'a T) -> &'a Option<Text>,
        read: impl Fn(&str) -> Result<V, String>,
    ) -> Option<V> {
        let (_, text) = layers.find(|typed| of(typed).as_ref())?;
        self.read(flag, text, read)
    }

    /// The values of a setting that can be given several times, and where they came from. A wrong one is left
    /// out.
    pub fn many<'a, T, V>(
        &mut self,
        layers: &Layers<&'a T>,
        flag: &str,
        of: impl Fn(&'a T) -> &'a Option<Vec<Text>>,
        read: impl Fn(&str) -> Result<V, String>,
    ) -> (Origin, Vec<V>) {
        let found = layers.find(|typed| of(typed).as_ref());
        let (origin, texts) = found.map_or((Origin::Default, &[][..]), |(origin, texts)| {
            (origin, texts.as_slice())
        });
        let values = texts.iter().enumerate();
        let values = values.filter_map(|(at, text)| self.read_element(flag, Some(at), text, &read));
        (origin, values.collect())
    }

    /// Where settings have their values from.
    pub const fn said(&self) -> &Said {
        &self.said
    }

    /// All of them, each once: those of the file by their places, then the others as they were found.
    pub fn all(&self) -> Vec<Mistake> {
        let mut all: Vec<Mistake> = Vec::new();
        for mistake in &self.found {
            if !all.contains(mistake) {
                all.push(mistake.clone());
            }
        }
        all.sort_by_key(|mistake| match &mistake.place {
            Some(place) => (place.line, place.column),
            None => (usize::MAX, 0),
        });
        all
    }

    /// What was meant, if nothing is wrong.
    ///
    /// # Errors
    ///
    /// [`Failure::Usage`] with every mistake.
    pub fn end<V>(self, meant: Option<V>) -> Result<V, Failure> {
        match meant {
            Some(meant) if self.found.is_empty() => Ok(meant),
            _ => {
                let all: Vec<String> = self.all().iter().map(ToString::to_string).collect();
                Err(Failure::usage(all.join("\nvxtap: error: ")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> Said {
        let place = |line, column| Place {
            file: "f.toml".into(),
            line,
            column,
        };
        let places = [
            ("bind", vec![place(3, 8), place(3, 9), place(4, 9)]),
            ("gro", vec![place(7, 7)]),
            ("write", vec![place(9, 9)]),
        ];
        let places = places.map(|(key, places)| (key.to_owned(), places));
        let origins = [
            ("bind", Origin::File),
            ("gro", Origin::File),
            ("write", Origin::File),
            ("keep-bytes", Origin::Environment),
            ("backend", Origin::Flag),
        ];
        let origins = origins.map(|(key, origin)| (key.to_owned(), origin));
        Said::new(origins.into(), places.into())
    }

    #[test]
    fn a_mistake_names_where_its_values_came_from() {
        let told = |text: &str| said().locate(text, None).to_string();
        for (text, located) in [
            (
                "--gro on is for --backend udp",
                "f.toml:7:7: gro on is for --backend udp",
            ),
            (
                "--backend udp and --gro on",
                "f.toml:7:7: --backend udp and gro on",
            ),
            (
                "--bind a is covered by --bind b, not --gro",
                "f.toml:3:8: bind a is covered by bind b, not gro (gro is in line 7)",
            ),
            ("-w x is a-w", "f.toml:9:9: write x is a-w"),
            ("--keep-bytes 5 is less", "VXTAP_KEEP_BYTES 5 is less"),
            ("--mtu-overhead 9 --", "--mtu-overhead 9 --"),
            ("no flag: x--bind, /--bind", "no flag: x--bind, /--bind"),
        ] {
            assert_eq!(told(text), located);
        }
    }

    #[test]
    fn the_wrong_one_of_several_values_is_pointed_at() {
        let mut mistakes = Mistakes::default();
        mistakes.locate_by(said());
        let wrong = |_: &str| Err::<(), _>("no".to_owned());
        for element in [None, Some(1), Some(7)] {
            mistakes.read_element("--bind", element, &"--gro".into(), wrong);
        }
        let all: Vec<String> = mistakes.all().iter().map(ToString::to_string).collect();
        let told = "invalid value '--gro' for bind: no";
        assert_eq!(
            all,
            [format!("f.toml:3:8: {told}"), format!("f.toml:4:9: {told}")]
        );
    }
}
