//! Indexes beside the files of a store: written before their file gets its name, and removed where a killed run left
//! one alone.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::index::{Builder, ENDING, Facts, MAGIC, MARK_LEN, mark};
use super::keeping::{Fsync, Keeping};
use super::manifest::{FileFacts, IndexFacts, hex};
use super::names::StoreName;
use crate::outfile::{Creation, Existing, OutError, OutFile};

/// The directory of a store, as far as indexes are written to it.
pub struct Place {
    /// The directory.
    pub dir: PathBuf,
    /// How files are kept.
    pub keeping: Keeping,
}

impl Place {
    /// Writes the index of `out`, which is complete and has no name yet. Without one a file is worth as much: what
    /// fails is told and goes no further.
    pub fn write_index(
        &self,
        index: Builder,
        out: &OutFile,
        facts: &FileFacts,
    ) -> Option<IndexFacts> {
        let name = format!("{}{ENDING}", facts.name);
        let told = |error: &dyn std::fmt::Display| tracing::warn!("no index {name}: {error}");
        let mut reopened = out.reopen().inspect_err(|error| told(error)).ok()?;
        let mark = mark_of(&mut reopened, facts.bytes).inspect_err(|error| told(error));
        let bytes = index.end(&Facts {
            name: &facts.name,
            bytes: facts.bytes,
            sha256: unhex(&facts.sha256).unwrap_or_default(),
            mark: mark.ok()?,
        });
        if bytes.is_none() {
            tracing::info!("no index {name}: it would be too large");
        }
        let bytes = bytes?;
        match self.write(&name, &bytes) {
            Ok(()) => Some(IndexFacts {
                name,
                bytes: bytes.len() as u64,
                sha256: hex(&Sha256::digest(&bytes)),
            }),
            Err(error) => {
                told(&error);
                None
            }
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), OutError> {
        let path = self.dir.join(name);
        // What a killed run left. Something else of that name stays.
        let existing = match is_index(&path) {
            true => Existing::Replace,
            false => Existing::Keep,
        };
        if existing == Existing::Keep && path.symlink_metadata().is_ok() {
            let taken = "something else has this name";
            return Err(OutError::of_write(&path, io::Error::other(taken)));
        }
        let mut out = OutFile::create_as(
            &path,
            Creation {
                existing,
                ..self.keeping.creation
            },
        )?;
        if let Err(error) = out.write(bytes) {
            out.discard();
            return Err(error);
        }
        if self.keeping.fsync != Fsync::Never
            && let Err(error) = out.sync()
        {
            out.discard();
            return Err(error);
        }
        // Without a line of the manifest it must not stay, under which name ever it is.
        out.settle().map(drop).inspect_err(|_| {
            let _ = fs::remove_file(&path);
            let _ = fs::remove_file(self.dir.join(format!(".{name}.part")));
        })
    }

    /// Removes an index whose file could not be finished.
    pub fn remove_index(&self, index: &IndexFacts) {
        let _ = fs::remove_file(self.dir.join(&index.name));
    }

    /// Removes indexes that were not complete, and those whose file never got its name or was deleted. `names` are
    /// all in the directory, `is_listed` tells of which files the manifest says that they are.
    pub fn remove_left_indexes(&self, names: &[String], is_listed: impl Fn(&str) -> bool) {
        let there: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        for name in names {
            let hidden = name
                .strip_prefix('.')
                .and_then(|name| name.strip_suffix(".part"));
            let Some(file) = hidden.unwrap_or(name).strip_suffix(ENDING) else {
                continue;
            };
            if StoreName::parse(file).is_none() {
                continue;
            }
            let path = self.dir.join(format!("{file}{ENDING}"));
            if hidden.is_some() {
                // Another process that writes it has it locked.
                if let Ok(Some(out)) = OutFile::adopt(&path, self.keeping.creation) {
                    out.discard();
                }
            } else if !is_listed(file)
                && !there.contains(file)
                && !there.contains(format!(".{file}.part").as_str())
                && is_index(&path)
            {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

/// Whether an index of vxtap is there.
fn is_index(path: &Path) -> bool {
    let is_file = path.symlink_metadata().is_ok_and(|meta| meta.is_file());
    let mut magic = [0; MAGIC.len()];
    is_file
        && File::open(path)
            .and_then(|mut file| file.read_exact(&mut magic))
            .is_ok()
        && magic == MAGIC
}

/// The mark of a file of so many bytes.
///
/// # Errors
///
/// When it cannot be read.
pub fn mark_of(file: &mut (impl Read + Seek), bytes: u64) -> io::Result<[u8; 32]> {
    let len = MARK_LEN as u64;
    let (mut first, mut last) = (Vec::with_capacity(MARK_LEN), Vec::with_capacity(MARK_LEN));
    file.seek(SeekFrom::Start(0))?;
    file.take(len).read_to_end(&mut first)?;
    file.seek(SeekFrom::Start(bytes.saturating_sub(len)))?;
    file.take(len).read_to_end(&mut last)?;
    Ok(mark(&first, &last))
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}
