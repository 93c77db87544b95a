//! What killed runs left: finished where it can be, put aside where not.

use std::collections::BTreeSet;
use std::fs::{self};
use std::io::{self, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::locking::{Ours, is_ours};
use super::{Kept, Ring, hidden_name, is_there};
use crate::capture::store::frames::WholeFrames;
use crate::capture::store::index;
use crate::capture::store::keeping::Fsync;
use crate::capture::store::manifest::{Event, FileFacts, hex};
use crate::capture::store::names::StoreName;
use crate::capture::store::recover::{self, Holds, Whole};
use crate::capture::store::rotation::Reason;
use crate::export::FlowFormat;
use crate::flow::text::rfc3339;
use crate::outfile::packed::{Codec, LEVEL, frame_of};
use crate::outfile::{self, OutFile};
use crate::pcap::record::Format;
use crate::pcap::section;

/// Where what cannot be finished is moved.
pub(super) const QUARANTINE: &str = "quarantine";

impl Ring {
    /// Finishes or moves aside what killed runs left. The lock is held for moments only.
    pub(super) fn recover(&mut self, now_ns: u64) -> io::Result<()> {
        let left = self.locked(|ring| {
            ring.clear_up(now_ns)?;
            ring.names()
        })?;
        let mut left: Vec<&String> = left.iter().collect();
        left.sort();
        for hidden in left {
            let Some(name) = hidden_name(hidden).and_then(StoreName::parse) else {
                continue;
            };
            // From then on it is ours, and whether a line lists it is known.
            if let Some(out) = self.locked(|ring| ring.adopt(&name, hidden))? {
                self.recover_file(&name, out, now_ns)?;
            }
        }
        self.locked(|ring| {
            let dir = &ring.dir;
            ring.kept.retain(|kept| {
                let is_there = is_there(dir, &kept.name);
                if !is_there {
                    let path = dir.join(&kept.name);
                    tracing::warn!("{} is gone, and was not deleted by vxtap", path.display());
                }
                is_there
            });
            ring.take_marks()
        })
    }

    /// Does what runs were about to do when they were killed, or could not do.
    pub(super) fn clear_up(&mut self, now_ns: u64) -> io::Result<()> {
        let there = self.names()?;
        let is_there: BTreeSet<&String> = there.iter().collect();
        let mut deleted = self.deleted.take().unwrap_or_default();
        deleted.retain(|(name, _)| is_there.contains(name));
        for (name, bytes) in deleted {
            let path = self.dir.join(&name);
            let is_kept = self.kept.iter().any(|kept| kept.name == name);
            if !is_kept && matches!(is_ours(&path, bytes), Ok(Ours::Yes)) {
                tracing::info!("deleted {}: an earlier run was about to", path.display());
                fs::remove_file(path)?;
            }
        }
        for facts in std::mem::take(&mut self.unfinished) {
            // It got its name all the same; without its index, which was removed.
            let path = self.dir.join(&facts.name);
            let is_kept = self.kept.iter().any(|kept| kept.name == facts.name);
            if !is_kept && matches!(is_ours(&path, facts.bytes), Ok(Ours::Yes)) {
                tracing::info!("{} is listed again: it has its name", path.display());
                let index = None;
                self.append(now_ns, Event::File(FileFacts { index, ..facts }))?;
            }
        }
        // An index that was not complete is made anew with its file.
        let kept = &self.kept;
        let is_listed = |name: &str| kept.iter().any(|kept| kept.name == name);
        self.place().remove_left_indexes(&there, is_listed);
        Ok(())
    }

    /// Takes over a hidden file that a killed run left; `None` where another process has it, or it is finished already.
    pub(super) fn adopt(&mut self, name: &StoreName, hidden: &str) -> io::Result<Option<OutFile>> {
        let path = self.dir.join(name.to_string());
        if self.is_named(&path, hidden) {
            // The run was killed between its new name and the end of the old one.
            fs::remove_file(self.dir.join(hidden))?;
            return Ok(None);
        }
        Ok(OutFile::adopt(&path, self.keeping.creation)
            .inspect_err(|error| tracing::warn!("{error}"))
            .unwrap_or_default())
    }

    /// Whether a hidden file is listed and has its name already.
    pub(super) fn is_named(&self, path: &Path, hidden: &str) -> bool {
        let [named, hidden] = [path, &self.dir.join(hidden)].map(|path| {
            let meta = path.symlink_metadata().ok();
            meta.map(|meta| (meta.dev(), meta.ino()))
        });
        let is_listed = |kept: &Kept| Some(kept.name.as_ref()) == path.file_name();
        named.is_some() && named == hidden && self.kept.iter().any(is_listed)
    }

    pub(super) fn recover_file(
        &mut self,
        name: &StoreName,
        out: OutFile,
        now_ns: u64,
    ) -> io::Result<()> {
        let listed = self.kept.iter().find(|kept| kept.name == name.to_string());
        if let Some(listed) = listed {
            // It was complete, and about to get its name.
            let digest = out.digest().map_err(io::Error::other)?;
            if out.bytes() == listed.facts.bytes && hex(&digest) == listed.facts.sha256 {
                let facts = listed.facts.clone();
                self.locked(|ring| {
                    ring.mark(&facts.name);
                    Ok(())
                })?;
                self.due.push(facts);
                return out.settle().map(drop).map_err(io::Error::other);
            }
            let reason = "it is not what the manifest says: what was not synced was lost";
            return self.quarantine(name, out, reason, now_ns);
        }
        let (ending, codec) = Codec::of_ending(&name.ending);
        let Some(holds) = Holds::by_ending(ending) else {
            return self.quarantine(name, out, "its kind cannot be read again", now_ns);
        };
        let file = BufReader::with_capacity(1 << 20, out.reopen()?);
        // What was scanned, and how many bytes of the file that is.
        let (scanned, len) = match codec {
            None => {
                let scanned = recover::scan(holds, file)?;
                let len = scanned.as_ref().map_or(0, |whole| whole.bytes);
                (scanned, len)
            }
            Some(codec) => {
                let mut frames = WholeFrames::new(codec, file);
                let scanned = recover::scan(holds, BufReader::new(&mut frames))?;
                if scanned.as_ref().map_or(0, |whole| whole.bytes) != frames.content_bytes() {
                    let reason = "what its frames hold is not what was written";
                    return self.quarantine(name, out, reason, now_ns);
                }
                (scanned, frames.packed_bytes())
            }
        };
        match scanned {
            Some(whole) if whole.packets > 0 => {
                self.finish_left(name, out, (holds, codec, len), &whole, now_ns)
            }
            None if out.bytes() > 0 => {
                let reason = match holds {
                    Holds::Flows(FlowFormat::Parquet) => "Parquet cannot be read without its end",
                    _ => "it does not begin with the header of such a file",
                };
                self.quarantine(name, out, reason, now_ns)
            }
            _ => {
                out.discard();
                Ok(())
            }
        }
    }

    pub(super) fn finish_left(
        &mut self,
        name: &StoreName,
        mut out: OutFile,
        (holds, codec, len): (Holds, Option<Codec>, u64),
        whole: &Whole,
        now_ns: u64,
    ) -> io::Result<()> {
        let lost = out.bytes() - len;
        out.cut_to(len).map_err(io::Error::other)?;
        if holds == Holds::Capture(Format::PcapNg) && !whole.has_statistics {
            let mut statistics = Vec::new();
            for (number, seen) in (0..).zip(&whole.interfaces) {
                section::recovered(
                    number,
                    seen.packets,
                    seen.first_ns,
                    seen.last_ns,
                    &mut statistics,
                );
            }
            if let Some(codec) = codec {
                statistics = frame_of(codec, LEVEL, statistics)?;
            }
            out.write(&statistics).map_err(io::Error::other)?;
        }
        if self.keeping.fsync != Fsync::Never {
            out.sync().map_err(io::Error::other)?;
        }
        let span = whole.span();
        let mut facts = FileFacts {
            name: name.to_string(),
            bytes: out.bytes(),
            sha256: hex(&out.digest().map_err(io::Error::other)?),
            first: span.map(|(first, _)| rfc3339(first).to_owned()),
            last: span.map(|(_, last)| rfc3339(last).to_owned()),
            packets: whole.packets,
            sessions: match holds {
                Holds::Capture(_) => whole.interfaces.len() as u64,
                Holds::Flows(_) => 0,
            },
            wire_bytes: whole.wire_bytes,
            reason: Reason::Recovered.name().to_owned(),
            ..FileFacts::default()
        };
        tracing::warn!(
            "an earlier run was killed: {name} is finished with {} packets or records; {lost} bytes behind the last were not \
             whole",
            whole.packets
        );
        if let Holds::Capture(format) = holds
            && self.keeping.index
        {
            let file = BufReader::with_capacity(1 << 20, out.reopen()?);
            let index = match codec {
                None => index::build::scan(format, file),
                Some(codec) => index::build::scan_packed(format, codec, file),
            };
            let index = index.inspect_err(|error| tracing::warn!("{name} gets no index: {error}"));
            let place = self.place();
            facts.index = index
                .ok()
                .and_then(|index| place.write_index(index, &out, &facts));
        }
        self.locked(|ring| {
            ring.mark(&facts.name);
            ring.append(now_ns, Event::File(facts.clone()))
        })?;
        out.settle().map(drop).map_err(io::Error::other)?;
        self.due.push(facts);
        Ok(())
    }

    pub(super) fn quarantine(
        &mut self,
        name: &StoreName,
        out: OutFile,
        reason: &str,
        now_ns: u64,
    ) -> io::Result<()> {
        let aside = self.dir.join(QUARANTINE);
        outfile::make_directory(&aside, self.keeping.creation)?;
        let hidden = self.dir.join(format!(".{name}.part"));
        let moved_to = format!("{QUARANTINE}/{name}");
        fs::rename(hidden, self.dir.join(&moved_to))?;
        drop(out);
        tracing::warn!(
            "an earlier run was killed: {name} is moved to {}: {reason}",
            self.dir.join(&moved_to).display()
        );
        let event = Event::Quarantined {
            name: name.to_string(),
            moved_to,
            reason: reason.to_owned(),
        };
        self.locked(|ring| ring.append(now_ns, event))
    }
}
