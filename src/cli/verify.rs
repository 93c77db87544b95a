//! `vxtap verify`: whether a store is what its manifest says.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde::Serialize;

use super::args::VerifyArgs;
use super::ls::check;
use super::progress::Progress;
use super::settings::mistakes::Mistakes;
use crate::capture::store::inspect::{Audit, audit};
use crate::capture::store::keys::PublicKey;
use crate::capture::store::verify::Finding;
use crate::failure::Failure;
use crate::mirror::words::counted;
use crate::outfile::{Creation, write_whole};
use crate::report::page::bytes;

/// What was found out, as one JSON object.
#[derive(Serialize)]
struct Verdict<'a> {
    directory: String,
    /// Nothing is wrong.
    proven: bool,
    manifests: Vec<&'a str>,
    /// Lines of the manifests, and how many are signed.
    lines: u64,
    signed: u64,
    /// The public keys that signatures were checked with.
    keys: Vec<String>,
    /// Files that are what the manifest says.
    files: u64,
    bytes: u64,
    /// Files that were deleted, by the manifest.
    deleted: u64,
    faults: &'a [Finding],
    notes: &'a [Finding],
}

/// Runs the command.
///
/// # Errors
///
/// When something is not proven, when there is no store, or it cannot be read.
pub fn run(args: &VerifyArgs) -> Result<(), Failure> {
    let dir = &args.dir;
    let keys = keys(&args.public_key)?;
    let total = check(dir)?;
    let verifies = |bytes: &[u8], sig: &str| keys.iter().any(|key| key.verifies(bytes, sig));
    let verified = (!keys.is_empty()).then_some(&verifies as _);
    let read = Arc::new(AtomicU64::new(0));
    let progress = Progress::start(Progress::worth_while(total), &read);
    let audited = audit(dir, verified, &read);
    progress.finish();
    let audit = audited.map_err(|error| Failure::running(format!("{}: {error}", dir.display())))?;
    let verdict = Verdict::new(dir, &keys, &audit);
    let text = match args.json {
        true => {
            let mut json = serde_json::to_vec_pretty(&verdict)?;
            json.push(b'\n');
            json
        }
        false => verdict.page().into_bytes(),
    };
    write_whole(Path::new("-"), Creation::default(), text)?;
    match verdict.faults.first() {
        None => Ok(()),
        Some(first) => Err(Failure::running(format!(
            "{} is not proven: {}, the first: {}",
            verdict.directory,
            counted(verdict.faults.len() as u64, "fault"),
            sentence(first)
        ))),
    }
}

fn keys(paths: &[std::path::PathBuf]) -> Result<Vec<PublicKey>, Failure> {
    let mut mistakes = Mistakes::default();
    let read = paths.iter().filter_map(|path| {
        let key = PublicKey::read(path).map_err(|error| format!("--public-key: {error}"));
        key.map_err(|mistake| mistakes.note(mistake)).ok()
    });
    let read = read.collect();
    mistakes.end(Some(read))
}

impl<'a> Verdict<'a> {
    fn new(dir: &Path, keys: &[PublicKey], audit: &'a Audit<'_>) -> Self {
        let ledger = &audit.ledger;
        Self {
            directory: dir.display().to_string(),
            proven: ledger.faults.is_empty(),
            manifests: ledger.manifests.iter().map(|name| &**name).collect(),
            lines: ledger.lines,
            signed: ledger.signed,
            keys: keys.iter().map(PublicKey::shown).collect(),
            files: audit.files,
            bytes: audit.bytes,
            deleted: ledger.contents.deleted_files,
            faults: &ledger.faults,
            notes: &ledger.notes,
        }
    }

    /// The same for people.
    fn page(&self) -> String {
        let mut page = String::new();
        for finding in self.faults {
            let _ = writeln!(page, "fault: {}", sentence(finding));
        }
        for finding in self.notes {
            let _ = writeln!(page, "note: {}", sentence(finding));
        }
        let signatures = match (self.keys.is_empty(), self.signed) {
            (false, _) => ", signatures checked".to_owned(),
            (true, 0) => String::new(),
            (true, signed) => format!(", {signed} of them signed (not checked: --public-key)"),
        };
        let _ = writeln!(
            page,
            "{}: {} in {}{signatures}; {} with {} proven; {} deleted by vxtap; {}",
            self.directory,
            counted(self.lines, "line"),
            counted(self.manifests.len() as u64, "manifest"),
            counted(self.files, "file"),
            bytes(self.bytes),
            counted(self.deleted, "file"),
            match self.faults.len() as u64 {
                0 => "all is proven".to_owned(),
                faults => counted(faults, "fault"),
            }
        );
        page
    }
}

fn sentence(finding: &Finding) -> String {
    let Finding {
        file,
        line,
        last_line,
        why,
        text,
    } = finding;
    let place = match (line, last_line) {
        (Some(first), Some(last)) => format!(", lines {first} to {last}"),
        (Some(line), None) => format!(", line {line}"),
        _ => String::new(),
    };
    format!("{file}{place}: {}: {text}", why.replace('_', " "))
}
