//! The lines of the manifest: those of others are read, ours are appended.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::locking::open_ours;
use super::{Kept, Ring};
use crate::capture::store::keeping::Fsync;
use crate::capture::store::manifest::{self, Chain, Event};
use crate::capture::store::names::StoreName;
use crate::capture::store::recover::parse_rfc3339;
use crate::outfile::Creation;

pub(super) struct ManifestFile {
    pub(super) file: File,
    /// Bytes of it that are known.
    pub(super) known: u64,
    pub(super) chain: Chain,
    /// The number of the last closed manifest.
    pub(super) closed: u32,
    /// It was told that the chain is broken.
    pub(super) told: bool,
}

impl ManifestFile {
    pub(super) fn open(dir: &Path, creation: Creation) -> io::Result<Self> {
        Ok(Self {
            file: open_ours(&dir.join(manifest::NAME), creation)?,
            known: 0,
            chain: Chain::default(),
            closed: 0,
            told: false,
        })
    }
}

impl Ring {
    /// Reads what the manifests hold already, the closed ones first. Needs no lock: the rest follows in
    /// [`Self::catch_up`].
    pub(super) fn read_ahead(&mut self) -> io::Result<()> {
        let creation = self.keeping.creation;
        let closed = loop {
            let closed = self.closed_numbers()?;
            self.manifest.file = open_ours(&self.dir.join(manifest::NAME), creation)?;
            // Otherwise one was closed in between.
            if self.closed_numbers()? == closed {
                break closed;
            }
        };
        for number in closed {
            let mut bytes = Vec::new();
            File::open(self.dir.join(manifest::closed_name(number)))?.read_to_end(&mut bytes)?;
            self.take_lines(&bytes);
            self.manifest.closed = number;
        }
        self.read_lines().map(drop)
    }

    pub(super) fn closed_numbers(&self) -> io::Result<Vec<u32>> {
        let names = self.names()?;
        let numbers = names
            .iter()
            .filter_map(|name| manifest::closed_number(name));
        let mut numbers: Vec<u32> = numbers.collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Takes the lines of the manifest that are not known; `true` where something without a line end follows.
    pub(super) fn read_lines(&mut self) -> io::Result<bool> {
        let mut bytes = Vec::new();
        let mut file = &self.manifest.file;
        file.seek(SeekFrom::Start(self.manifest.known))?;
        file.read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n');
        let whole = whole.map_or(0, |at| at + 1);
        self.take_lines(bytes.get(..whole).unwrap_or_default());
        self.manifest.known += whole as u64;
        Ok(whole < bytes.len())
    }

    /// Takes note of what other processes have written to the manifest; the lock is held.
    pub(super) fn catch_up(&mut self) -> io::Result<()> {
        loop {
            if self.read_lines()? {
                // Whoever wrote it was killed before the end of the line.
                self.manifest.file.set_len(self.manifest.known)?;
            }
            let path = self.dir.join(manifest::NAME);
            let now = open_ours(&path, self.keeping.creation)?;
            let same =
                |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
            if same(&now.metadata()?, &self.manifest.file.metadata()?) {
                return Ok(());
            }
            // Another process has closed it, or it was removed.
            self.manifest.file = now;
            self.manifest.known = 0;
            self.manifest.closed += 1;
        }
    }

    pub(super) fn take_lines(&mut self, bytes: &[u8]) {
        for line in bytes.split(|byte| *byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            let (parsed, outcome) = self.manifest.chain.check(line, None);
            if let Err(error) = outcome
                && !std::mem::replace(&mut self.manifest.told, true)
            {
                tracing::warn!(
                    "the manifest of {} is broken, as 'vxtap verify' tells: a line {error}",
                    self.dir.display()
                );
            }
            if let Some(line) = parsed {
                let at_ns = parse_rfc3339(&line.at).unwrap_or_default();
                self.note(line.what, at_ns);
            }
        }
    }

    pub(super) fn note(&mut self, event: Event, at_ns: u64) {
        match event {
            Event::File(facts) => {
                self.note_number(&facts.name);
                let index = facts.index.as_ref().map_or(0, |index| index.bytes);
                let time = |time: &Option<String>| time.as_deref().and_then(parse_rfc3339);
                let (first, last) = (time(&facts.first), time(&facts.last));
                self.kept.push(Kept {
                    name: facts.name.clone(),
                    bytes: facts.bytes + index,
                    first_ns: first,
                    // One without packets is as old as its line.
                    last_ns: last.unwrap_or(at_ns),
                    facts,
                });
            }
            Event::Deleted { name, bytes, .. } => {
                self.kept.retain(|kept| kept.name != name);
                if let Some(deleted) = &mut self.deleted {
                    deleted.push((name, bytes));
                }
            }
            Event::Quarantined { name, .. } => {
                self.note_number(&name);
                self.kept.retain(|kept| kept.name != name);
            }
            Event::Unfinished { name, .. } => {
                let of_name = self.kept.extract_if(.., |kept| kept.name == name);
                self.unfinished.extend(of_name.map(|kept| kept.facts));
            }
            Event::Continued { .. } => {}
        }
    }

    pub(super) fn note_number(&mut self, name: &str) {
        if let Some(StoreName {
            prefix, sequence, ..
        }) = StoreName::parse(name)
        {
            let last = self.numbers.entry(prefix).or_default();
            *last = sequence.max(*last);
        }
    }

    pub(super) fn tell_untold(&mut self, now_ns: u64) -> io::Result<()> {
        let Some(event) = self.untold.clone() else {
            return Ok(());
        };
        self.append_line(now_ns, event)?;
        self.untold = None;
        Ok(())
    }

    /// Writes a line, behind one that is due; the lock is held.
    pub(super) fn append(&mut self, now_ns: u64, event: Event) -> io::Result<()> {
        self.tell_untold(now_ns)?;
        self.append_line(now_ns, event)
    }

    pub(super) fn append_line(&mut self, now_ns: u64, event: Event) -> io::Result<()> {
        if self.manifest.known >= manifest::MOST_BYTES {
            self.close_manifest(now_ns)?;
        }
        let before = self.manifest.chain.clone();
        let sign = self.sign.as_ref();
        let signed = |bytes: &[u8]| sign.map(|sign| sign.sign(bytes)).unwrap_or_default();
        let signed = sign.map(|_| &signed as manifest::Sign<'_>);
        let line = self.manifest.chain.append(now_ns, event.clone(), signed);
        let mut file = &self.manifest.file;
        let written = file.seek(SeekFrom::Start(self.manifest.known));
        let written = written.and_then(|_| file.write_all(&line));
        let written = written.and_then(|()| match self.keeping.fsync {
            Fsync::Never => Ok(()),
            _ => self.manifest.file.sync_data(),
        });
        if let Err(error) = written {
            self.manifest.chain = before;
            let _ = self.manifest.file.set_len(self.manifest.known);
            return Err(error);
        }
        self.manifest.known += line.len() as u64;
        self.note(event, now_ns);
        Ok(())
    }

    pub(super) fn close_manifest(&mut self, now_ns: u64) -> io::Result<()> {
        let number = self.manifest.closed + 1;
        let after = manifest::closed_name(number);
        let path = self.dir.join(manifest::NAME);
        fs::rename(&path, self.dir.join(&after))?;
        self.manifest.file = open_ours(&path, self.keeping.creation)?;
        self.manifest.known = 0;
        self.manifest.closed = number;
        self.append_line(now_ns, Event::Continued { after })
    }
}
