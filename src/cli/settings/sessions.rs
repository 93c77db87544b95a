//! What is known of mirror sessions beforehand, as it was meant.

use std::path::Path;

use super::layers::Layers;
use super::mistakes::Mistakes;
use super::typed;
use crate::cli::values;
use crate::mirror::inventory::{Inventory, Labels};

/// Reads the files of `--labels` and `--expect`.
pub fn read(typed: &Layers<&typed::KnownSessions>, mistakes: &mut Mistakes) -> Inventory {
    let silent = mistakes.one(typed, "--silent-after", |t| &t.silent_after, values::time);
    let silent_ns = silent.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    let labels = typed.find(|typed| typed.labels.as_ref());
    let labels = labels.and_then(|(_, path)| table("--labels", path, mistakes));
    let expected = typed.find(|typed| typed.expect.as_ref());
    let expected = expected.and_then(|(_, path)| table("--expect", path, mistakes));
    Inventory {
        labels: labels.unwrap_or_default(),
        expected: expected.map(|expected| (expected, silent_ns)),
    }
}

fn table(flag: &str, path: &Path, mistakes: &mut Mistakes) -> Option<Labels> {
    let name = path.display();
    match std::fs::read_to_string(path) {
        Ok(text) => Labels::read(&text)
            .map_err(|error| mistakes.note(format!("{flag} {name}: {error}")))
            .ok(),
        Err(error) => {
            mistakes.note(format!("cannot read {flag} {name}: {error}"));
            None
        }
    }
}
