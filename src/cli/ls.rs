//! `vxtap ls`: what a store holds.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use super::args::LsArgs;
use crate::capture::store::inspect::{self, Entry, Manifests, Quiet};
use crate::capture::store::names::StoreName;
use crate::capture::store::ring::hidden_name;
use crate::capture::store::verify::Ledger;
use crate::failure::Failure;
use crate::outfile::{Creation, write_whole};
use crate::report::listing::{Listing, Open};

/// Runs the command.
///
/// # Errors
///
/// When there is no store, or it cannot be read.
pub fn run(args: &LsArgs) -> Result<(), Failure> {
    let dir = &args.dir;
    check(dir)?;
    let fault = |error: std::io::Error| Failure::running(format!("{}: {error}", dir.display()));
    let mut ledger = Ledger::new(None);
    let mut manifests = Manifests::open(dir).map_err(fault)?;
    manifests.read(&mut ledger).map_err(fault)?;
    // Runs wait for that lock: only what came meanwhile is read.
    let quiet = Quiet::begin(dir);
    manifests.read(&mut ledger).map_err(fault)?;
    let there = inspect::entries(dir).map_err(fault)?;
    let open = open_files(dir, &there, &quiet);
    drop(quiet);
    ledger.end_lines();
    let shown = dir.display().to_string();
    let is_there = |name: &str| there.get(name).is_some_and(|entry| entry.is_file);
    let mut listing = Listing::new(shown, &ledger.contents, is_there, open);
    listing.broken_lines = ledger.broken_lines();
    let names = there.keys().filter(|name| StoreName::parse(name).is_some());
    let unlisted = names.filter(|name| !ledger.contents.is_known(name));
    listing.unlisted = unlisted.cloned().collect();
    let text = match args.json {
        true => {
            let mut json = serde_json::to_vec_pretty(&listing)?;
            json.push(b'\n');
            json
        }
        false => listing.table().into_bytes(),
    };
    Ok(write_whole(Path::new("-"), Creation::default(), text)?)
}

/// Files without a name yet.
fn open_files(dir: &Path, there: &BTreeMap<String, Entry>, quiet: &Quiet) -> Vec<Open> {
    let parts = there.iter().filter_map(|(hidden, entry)| {
        let name = hidden_name(hidden).filter(|name| StoreName::parse(name).is_some())?;
        (!there.contains_key(name)).then(|| Open {
            name: name.to_owned(),
            bytes: entry.bytes,
            is_written: quiet.is_written(&dir.join(hidden)),
        })
    });
    parts.collect()
}

/// Refuses a directory that is no store, and tells how many bytes its files have.
///
/// # Errors
///
/// [`Failure::Usage`] where there is none, [`Failure::Running`] where it cannot be read.
pub fn check(dir: &Path) -> Result<u64, Failure> {
    let shown = dir.display();
    match inspect::entries(dir) {
        Ok(entries) if inspect::is_store(&entries) => {
            let files = entries.iter();
            let files = files.filter(|(name, _)| StoreName::parse(name).is_some());
            let sizes = files.map(|(_, entry)| entry.bytes);
            Ok(sizes.fold(0, u64::saturating_add))
        }
        Ok(_) => Err(Failure::usage(format!(
            "{shown} is no store: it has no MANIFEST.jsonl; 'vxtap listen -w {shown}/' would make one"
        ))),
        Err(error) => {
            let said = format!("{shown} is no store: {error}");
            Err(match error.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => Failure::usage(said),
                _ => Failure::running(said),
            })
        }
    }
}
