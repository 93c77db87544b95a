//! Which files are read: those of stores, in the order of their first packets, and others by name.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::capture::store::frames::MOST_LEN;
use crate::capture::store::index::query::{Index, Piece, Query, Useless};
use crate::capture::store::index::{ENDING, MARK_LEN, most_bytes};
use crate::capture::store::manifest::{self, Event, FileFacts, Line, hex};
use crate::capture::store::names::StoreName;
use crate::capture::store::place::mark_of;
use crate::capture::store::recover::parse_rfc3339;
use crate::outfile::OutError;
use crate::outfile::packed::Codec;
use crate::pcap::classic::FileHeader;

/// Times of files come in steps of up to two seconds (FAT), and some network file systems set them late.
const TIME_STEP: Duration = Duration::from_secs(2);

/// A file that may hold what is asked for.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where it is.
    pub path: PathBuf,
    /// Where its index is, where it has one.
    pub index: PathBuf,
    /// Times of its earliest and its latest packet, where they are known.
    pub span: Option<(u64, u64)>,
    /// Its SHA-256 by the manifest, in hexadecimal, where that speaks of it.
    pub sha256: Option<String>,
}

impl Place {
    /// Whether it is compressed as a store does it, by its name.
    pub fn is_packed(&self) -> bool {
        let name = self.path.to_str().unwrap_or_default();
        Codec::of_ending(name).1.is_some()
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Places {
    /// The files.
    pub files: Vec<Place>,
    /// Files of stores that are still being written.
    pub open: u64,
}

/// Why no files can be named.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum PlaceError {
    #[error("{path}: {source}")]
    Read { path: String, source: io::Error },
    #[error("{path} holds no capture file of a store: name the files in it")]
    NoStore { path: String },
    #[error("{path} is no file")]
    NoFile { path: String },
    #[error(transparent)]
    Out(#[from] OutError),
}

/// Finds the files that `paths`, directories and files, stand for.
///
/// # Errors
///
/// When one cannot be read, or a directory holds no store.
pub fn find(paths: &[PathBuf]) -> Result<Places, PlaceError> {
    let mut places = Places::default();
    for path in paths {
        let shown = || path.display().to_string();
        let error = |source| PlaceError::Read {
            path: shown(),
            source,
        };
        let meta = path.metadata().map_err(error)?;
        if meta.is_dir() {
            let before = (places.files.len(), places.open);
            find_in_store(path, &mut places).map_err(error)?;
            if before == (places.files.len(), places.open) {
                return Err(PlaceError::NoStore { path: shown() });
            }
        } else if meta.is_file() {
            let mut index = path.clone().into_os_string();
            index.push(ENDING);
            places.files.push(Place {
                path: path.clone(),
                index: index.into(),
                span: None,
                sha256: None,
            });
        } else {
            return Err(PlaceError::NoFile { path: shown() });
        }
    }
    Ok(places)
}

fn find_in_store(dir: &Path, places: &mut Places) -> io::Result<()> {
    let mut facts = facts_of(dir)?;
    for entry in fs::read_dir(dir)? {
        let Ok(name) = entry?.file_name().into_string() else {
            continue;
        };
        let hidden = name
            .strip_prefix('.')
            .and_then(|name| name.strip_suffix(".part"));
        let parsed = StoreName::parse(hidden.unwrap_or(&name));
        let is_capture = |parsed: &StoreName| parsed.ending.starts_with(".pcap");
        if !parsed.as_ref().is_some_and(is_capture) {
            continue;
        }
        if hidden.is_some() {
            places.open += 1;
            continue;
        }
        let known = facts.remove(&name);
        let listed = known.as_ref().and_then(|known| known.facts.index.as_ref());
        let index = match listed {
            Some(index) => dir.join(&index.name),
            None => dir.join(format!("{name}{ENDING}")),
        };
        let time = |text: &Option<String>| text.as_deref().and_then(parse_rfc3339);
        let path = dir.join(&name);
        let facts = known
            .filter(|known| known.is_of(&path))
            .map(|known| known.facts);
        let span = facts
            .as_ref()
            .and_then(|facts| time(&facts.first).zip(time(&facts.last)));
        places.files.push(Place {
            path,
            index,
            span,
            sha256: facts.map(|facts| facts.sha256),
        });
    }
    Ok(())
}

/// What a line of a manifest says of a file.
struct Known {
    facts: FileFacts,
    /// When it was written.
    at: Option<SystemTime>,
}

impl Known {
    /// Whether it speaks of the file at `path` as it is: what was changed since, or put in its place, is another one.
    fn is_of(&self, path: &Path) -> bool {
        path.metadata().is_ok_and(|meta| {
            let is_later = |at| {
                meta.modified()
                    .is_ok_and(|modified| is_behind(modified, at))
            };
            meta.len() == self.facts.bytes && !self.at.is_some_and(is_later)
        })
    }
}

/// Whether a file of that time was written later than at `at`.
fn is_behind(modified: SystemTime, at: SystemTime) -> bool {
    at.checked_add(TIME_STEP).is_some_and(|at| modified > at)
}

/// What the manifests of a store say of its files.
fn facts_of(dir: &Path) -> io::Result<BTreeMap<String, Known>> {
    let mut manifests = Vec::new();
    for entry in fs::read_dir(dir)? {
        let Ok(name) = entry?.file_name().into_string() else {
            continue;
        };
        // The one that is written to comes last: of two lines of one file the later one holds.
        match manifest::closed_number(&name) {
            Some(number) => manifests.push((number, name)),
            None if name == manifest::NAME => manifests.push((u32::MAX, name)),
            None => {}
        }
    }
    manifests.sort();
    let mut facts = BTreeMap::new();
    for (_, name) in manifests {
        let bytes = match fs::read(dir.join(name)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for line in bytes.split(|byte| *byte == b'\n') {
            // 'vxtap verify' tells what is wrong with it.
            if let Ok(Line {
                what: Event::File(file),
                at,
                ..
            }) = serde_json::from_slice(line)
            {
                let at = parse_rfc3339(&at).map(Duration::from_nanos);
                let at = at.and_then(|at| UNIX_EPOCH.checked_add(at));
                facts.insert(file.name.clone(), Known { facts: file, at });
            }
        }
    }
    Ok(facts)
}

/// How a file is read.
#[derive(Debug)]
pub enum Way {
    /// These ranges of it, and no more: its index says so.
    Ranges(Vec<(u64, u64)>),
    /// These ranges of its content, which lie in these pieces, and no more: its index says so.
    Pieces(Vec<(u64, u64)>, Vec<Piece>),
    /// All of it, because of this.
    Scan(String),
}

/// Whether a file is classic pcap, one that is packed by its name.
pub fn is_classic(place: &Place, file: &File) -> bool {
    if place.is_packed() {
        let name = place.path.to_str().unwrap_or_default();
        return Codec::of_ending(name).0.ends_with(".pcap");
    }
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, 0).is_ok() && FileHeader::is_magic(&magic)
}

/// Finds out how `file` is read for `query`; tells with it the bytes that were read for that.
pub fn way(place: &Place, file: &mut File, bytes: u64, query: &Query) -> (Way, u64) {
    match ranges(place, file, bytes, query) {
        Ok(found) => found,
        Err(why) => (Way::Scan(why), 0),
    }
}

fn ranges(place: &Place, file: &mut File, bytes: u64, query: &Query) -> Result<(Way, u64), String> {
    let shown = place.index.display();
    let unread = |error: io::Error| match error.kind() {
        ErrorKind::NotFound => "it has no index".to_owned(),
        _ => format!("{shown}: {error}"),
    };
    let meta = place.index.metadata().map_err(unread)?;
    if !meta.is_file() || meta.len() > 2 * most_bytes(bytes) + (1 << 20) {
        return Err(format!("{shown} {}", Useless::Damaged));
    }
    let mut index = Vec::new();
    File::open(&place.index)
        .and_then(|mut file| file.read_to_end(&mut index))
        .map_err(unread)?;
    let useless = |why: Useless| format!("{shown} {why}");
    let read = Index::read(&index).map_err(useless)?;
    let mark = mark_of(file, bytes).map_err(|error| error.to_string())?;
    read.belongs_to(bytes, &mark).map_err(useless)?;
    if place
        .sha256
        .as_ref()
        .is_some_and(|sha256| *sha256 != hex(&read.sha256))
    {
        return Err(format!(
            "{shown} is of a file with another SHA-256 than the manifest tells"
        ));
    }
    let modified = file.metadata().and_then(|meta| meta.modified());
    if let (Ok(modified), Ok(at)) = (modified, meta.modified())
        && is_behind(modified, at)
    {
        return Err(format!(
            "{shown} is older than the file, which may have been changed since"
        ));
    }
    let ranges = read.ranges(query).map_err(useless)?;
    let marked = 2 * MARK_LEN as u64;
    let bytes_read = index.len() as u64 + marked.min(bytes);
    if !read.is_packed() {
        return Ok((Way::Ranges(ranges), bytes_read));
    }
    let pieces = read.pieces(&ranges).map_err(useless)?;
    // Memory is asked for before a frame shows that it holds so much.
    let is_believed = |piece: &Piece| piece.len.max(piece.packed_len) <= 2 * MOST_LEN;
    match pieces.iter().all(is_believed) {
        true => Ok((Way::Pieces(ranges, pieces), bytes_read)),
        false => Err(useless(Useless::Damaged)),
    }
}
