//! What was given to `vxtap listen`: the file, the environment and the flags, laid over the defaults.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::environment::{self, Environment};
use super::file::{self, File};
use super::keys::{self, Key};
use super::layers::{Layers, Origin};
use super::mistakes::{Mistakes, Said};
use super::typed;

/// Longest file that is read, in bytes: far more than all keys with all their comments.
const LONGEST_FILE: u64 = 1 << 20;

/// The settings as they were given.
#[derive(Debug)]
pub struct Given {
    /// All layers.
    pub layers: Layers<typed::Listen>,
    /// What is wrong with them so far, and where each value came from.
    pub mistakes: Mistakes,
    /// What to say all the same.
    pub warnings: Vec<String>,
    /// The file, if one was named.
    pub file: Option<PathBuf>,
    /// The file was read to its end: what it says is all known.
    pub is_whole: bool,
}

impl Given {
    /// Gathers them. `config` is the file that was named by a flag; else the environment may name one.
    pub fn gather(
        flags: typed::Listen,
        config: Option<&Path>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Self {
        let keys = keys::all();
        let mut mistakes = Mistakes::default();
        let variables: Vec<(OsString, OsString)> = variables.into_iter().collect();
        let of_environment = variables
            .iter()
            .find(|(name, _)| name == environment::CONFIG);
        let of_environment = of_environment.map(|(_, path)| PathBuf::from(path));
        let of_environment = of_environment.filter(|path| !path.as_os_str().is_empty());
        let path = config.map(Path::to_owned).or(of_environment);
        let file = match &path {
            Some(path) => read_file(path, &keys, &mut mistakes),
            None => File {
                is_whole: true,
                ..File::default()
            },
        };
        let Environment { values, warnings } = environment::read(variables, &keys, &mut mistakes);
        let mut typed = |values| {
            let typed = keys::to_typed(values);
            // Each was looked at by its key.
            typed
                .map_err(|error| mistakes.note_at(None, error.to_string()))
                .unwrap_or_default()
        };
        let layers = Layers::of(vec![
            (Origin::Flag, flags),
            (Origin::Environment, typed(values)),
            (Origin::File, typed(file.values)),
            (Origin::Default, typed::Listen::defaults()),
        ]);
        let origins = layers.effective().into_iter();
        let origins: BTreeMap<String, Origin> =
            origins.map(|(name, (origin, _))| (name, origin)).collect();
        mistakes.locate_by(Said::new(origins, file.places));
        Self {
            layers,
            mistakes,
            warnings,
            file: path,
            is_whole: file.is_whole,
        }
    }
}

fn read_file(path: &Path, keys: &[Key], mistakes: &mut Mistakes) -> File {
    let shown = path.display();
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(LONGEST_FILE + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        let text = format!("cannot read the settings in {shown}: {error}");
        mistakes.note_at(None, text);
        return File::default();
    }
    if bytes.len() as u64 > LONGEST_FILE {
        let text = format!("{shown} is no file of settings: it has more than {LONGEST_FILE} bytes");
        mistakes.note_at(None, text);
        return File::default();
    }
    match String::from_utf8(bytes) {
        Ok(text) => file::read(&shown.to_string(), &text, keys, mistakes),
        Err(error) => {
            let before = error.utf8_error().valid_up_to();
            let text = format!(
                "{shown} is no text in UTF-8: the byte at offset {before} is the first that is none"
            );
            mistakes.note_at(None, text);
            File::default()
        }
    }
}
