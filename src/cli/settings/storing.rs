//! What the settings of a store mean.

use std::path::Path;

use super::layers::{Layers, Origin};
use super::mistakes::Mistakes;
use super::typed;
use crate::capture::store::custody::Custody;
use crate::capture::store::hooks;
use crate::capture::store::keeping::{Fsync, Keeping};
use crate::capture::store::keys::Signer;
use crate::capture::store::retention::Limits;
use crate::capture::store::rolling::{GRACE, OnFull, Plan, Split};
use crate::capture::store::rotation::Triggers;
use crate::cli::values;
use crate::outfile::packed::{Codec, Compression};
use crate::outfile::{Creation, Existing};
use crate::pcap::record::Format;
use crate::pcap::section::About;

/// Size of a file where nothing else is asked for.
const ROTATE_SIZE: u64 = 64 << 20;
/// Files that fit the budget, at least: the one that is written cannot be deleted.
const FEWEST_FILES: u64 = 3;

/// Whether a path names a store: a directory, or a name that says so.
pub fn is_store(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/") || path.is_dir()
}

/// Reads the plan of the stores that `-w` and `--flows` name; refuses its flags where nobody asked for one.
pub fn plan(
    typed: &Layers<&typed::Store>,
    is_asked: bool,
    format: Format,
    creation: Creation,
    compression: Option<Compression>,
    mistakes: &mut Mistakes,
) -> Option<Plan> {
    if !is_asked {
        refuse(typed, mistakes);
        return None;
    }
    let read = values::bytes_or_none;
    let bytes = mistakes.one(typed, "--keep-bytes", |t| &t.keep_bytes, read)?;
    let triggers = triggers(typed, bytes, mistakes);
    let limits = Limits {
        bytes,
        files: mistakes.one(typed, "--keep-files", |t| &t.keep_files, values::count),
        age: mistakes.one(typed, "--keep-age", |t| &t.keep_age, values::time),
        min_free: mistakes.one(typed, "--min-free", |t| &t.min_free, values::min_free),
    };
    let words = [
        ("delete-oldest", OnFull::DeleteOldest),
        ("drop", OnFull::Drop),
        ("exit", OnFull::Exit),
    ];
    let on_full = |text: &str| values::one_of(text, &words);
    let words = [
        ("none", Split::None),
        ("session", Split::Session),
        ("vni", Split::Vni),
        ("source", Split::Source),
    ];
    let split = |text: &str| values::one_of(text, &words);
    let most_open = |text: &str| values::number(text, 1..=4096);
    let split = mistakes.one(typed, "--split", |t| &t.split, split)?;
    let most_open = mistakes.one(typed, "--max-open-files", |t| &t.max_open_files, most_open)?;
    let keep_empty = typed.find(|t| t.keep_empty.as_ref());
    let whole_flows = typed.find(|t| t.whole_flows.as_ref());
    let custody = custody(typed, mistakes);
    let no_index = typed.find(|t| t.no_index.as_ref());
    Some(Plan {
        prefix: mistakes.one(typed, "--prefix", |t| &t.prefix, values::file_prefix)?,
        ending: match (format, compression.map(|compression| compression.codec)) {
            (Format::PcapNg, None) => ".pcapng",
            (Format::PcapNg, Some(Codec::Gzip)) => ".pcapng.gz",
            (Format::PcapNg, Some(Codec::Zstd)) => ".pcapng.zst",
            (Format::Pcap, None) => ".pcap",
            (Format::Pcap, Some(Codec::Gzip)) => ".pcap.gz",
            (Format::Pcap, Some(Codec::Zstd)) => ".pcap.zst",
        },
        triggers,
        split,
        most_open,
        compression: compression.map(|compression| Compression {
            files: if split == Split::None { 1 } else { most_open },
            ..compression
        }),
        on_full: mistakes.one(typed, "--on-full", |t| &t.on_full, on_full)?,
        keeping: Keeping {
            limits,
            fsync: mistakes.one(typed, "--fsync", |t| &t.fsync, fsync)?,
            index: !no_index.is_some_and(|(_, no_index)| *no_index),
            creation: Creation {
                existing: Existing::Keep,
                ..creation
            },
        },
        keep_empty: keep_empty.is_some_and(|(_, keep)| *keep),
        whole_flows: whole_flows.is_some_and(|(_, whole)| *whole),
        grace: GRACE,
        by_packet_time: false,
        about: About {
            comments: Vec::new(),
            mtu: 0,
            inventory: std::sync::Arc::default(),
        },
        custody,
    })
}

/// Refuses every flag of a store that was typed.
fn refuse(typed: &Layers<&typed::Store>, mistakes: &mut Mistakes) {
    for (_, group) in typed
        .iter()
        .filter(|(origin, _)| *origin != Origin::Default)
    {
        let named = serde_json::to_value(group).unwrap_or_default();
        let named = named.as_object().into_iter().flatten();
        for (flag, _) in named.filter(|(_, value)| !value.is_null()) {
            mistakes.note(format!(
                "--{flag} is for a store: -w or --flows needs a directory, or a name that ends in '/'"
            ));
        }
    }
}

/// When files end, of a store that may have `keep` bytes.
fn triggers(typed: &Layers<&typed::Store>, keep: Option<u64>, mistakes: &mut Mistakes) -> Triggers {
    let size = mistakes.one(typed, "--rotate-size", |t| &t.rotate_size, values::bytes);
    let read = values::time;
    let interval = mistakes.one(typed, "--rotate-interval", |t| &t.rotate_interval, read);
    let duration = mistakes.one(typed, "--rotate-duration", |t| &t.rotate_duration, read);
    let read = values::count;
    let packets = mistakes.one(typed, "--rotate-packets", |t| &t.rotate_packets, read);
    let most = keep.map(|bytes| bytes / FEWEST_FILES);
    if let (Some(size), Some(keep)) = (size, keep)
        && size > keep / FEWEST_FILES
    {
        let asked = typed.find(|t| t.keep_bytes.as_ref());
        let by_default = match asked {
            Some((Origin::Default, _)) => ", the default",
            _ => "",
        };
        mistakes.note(format!(
            "--rotate-size {size} is too much for --keep-bytes {keep}{by_default}: at least {FEWEST_FILES} files have \
             to fit, since the open one cannot be deleted"
        ));
    }
    let is_bounded = interval.or(duration).is_some() || packets.is_some();
    Triggers {
        size: size.or(match most {
            // Without a bound one file could outgrow the budget.
            Some(most) => Some(most.min(ROTATE_SIZE)),
            None if is_bounded => None,
            None => Some(ROTATE_SIZE),
        }),
        interval,
        duration,
        packets,
    }
}

/// The key and the program for the files: looked at before anything is opened.
fn custody(typed: &Layers<&typed::Store>, mistakes: &mut Mistakes) -> Custody {
    let mut take = |flag: &str, error: String| mistakes.note(format!("{flag}: {error}"));
    let sign = typed.find(|t| t.sign_key.as_ref());
    let sign = sign.and_then(|(_, path)| {
        let read = Signer::read(path);
        read.map_err(|error| take("--sign-key", error)).ok()
    });
    let program = typed.find(|t| t.on_rotate.as_ref());
    let on_rotate = program.and_then(|(_, program)| {
        let found = hooks::find(program);
        found.map_err(|error| take("--on-rotate", error)).ok()
    });
    Custody {
        sign,
        on_rotate,
        hooks: None,
    }
}

fn fsync(text: &str) -> Result<Fsync, String> {
    const NEEDED: &str = "never, rotate, or every- and a time, such as every-5s, is needed";
    match (text, text.strip_prefix("every-")) {
        ("never", _) => Ok(Fsync::Never),
        ("rotate", _) => Ok(Fsync::Rotate),
        (_, Some(time)) => values::time(time)
            .map(Fsync::Every)
            .map_err(|_| NEEDED.to_owned()),
        _ => Err(NEEDED.to_owned()),
    }
}
