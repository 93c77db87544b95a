//! `vxtap report`: the truncation audit of captures, a store or an earlier summary, as text, JSON or an HTML page.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args::ReportArgs;
use super::replay;
use super::settings::layers::Layers;
use super::settings::meant::Replay;
use super::settings::mistakes::Mistakes;
use super::settings::places::check_places;
use super::settings::typed;
use crate::extract::places;
use crate::failure::Failure;
use crate::outfile::{Creation, Existing, write_whole};
use crate::pipeline::flow_sink::TopSink;
use crate::report::audit::{Audit, Input, Kind};
use crate::report::page::bytes;
use crate::report::summary::Summary;
use crate::report::{html, sections, text};
use crate::say::say;
use crate::source::file::CaptureFile;
use crate::stop::Stop;

/// Bytes at which a file shows whether it begins as JSON does.
const LOOKED_AT: u64 = 4096;

/// Largest summary believed: one of 4,096 sessions has 60 MB.
const LARGEST_SUMMARY: u64 = 256 << 20;

/// Runs the command.
///
/// # Errors
///
/// When flags do not fit, when the input is nothing that can be told, and when it could not be read to its end: what
/// was read is told all the same.
pub fn run(args: &ReportArgs) -> Result<(), Failure> {
    check(args)?;
    let found = Found::at(&args.paths)?;
    let (audit, errors) = match &found {
        Found::Summary(path) => (of_summary(path, args)?, Vec::new()),
        Found::Captures(kind, files) => of_captures(files, *kind, args)?,
    };
    print(&audit, args)?;
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Failure::running(errors.join("\nvxtap: error: "))),
    }
}

/// What the arguments name.
enum Found {
    /// A summary.
    Summary(PathBuf),
    /// Capture files, by themselves or of a store.
    Captures(Kind, Vec<PathBuf>),
}

impl Found {
    fn at(paths: &[PathBuf]) -> Result<Self, Failure> {
        if let [dir] = paths
            && dir.is_dir()
        {
            let mut found = places::find(paths)?.files;
            found.sort_by(|a, b| (a.span, &a.path).cmp(&(b.span, &b.path)));
            let files: Vec<PathBuf> = found.into_iter().map(|place| place.path).collect();
            if files.is_empty() {
                let dir = dir.display();
                let text = format!("{dir}: no file of this store is finished yet");
                return Err(Failure::running(text));
            }
            return Ok(Self::Captures(Kind::Store, files));
        }
        let mut summaries = paths.iter().filter(|path| begins_as_json(path));
        match (summaries.next(), paths) {
            (Some(path), [_]) => Ok(Self::Summary(path.clone())),
            (Some(path), _) => Err(Failure::usage(format!(
                "{} is no capture: give a summary alone, without other inputs",
                path.display()
            ))),
            (None, _) => Ok(Self::Captures(Kind::Capture, paths.to_vec())),
        }
    }
}

/// Whether a file begins with a brace, as no capture does.
fn begins_as_json(path: &Path) -> bool {
    let mut begin = Vec::new();
    let is_read = path.is_file()
        && File::open(path).is_ok_and(|file| file.take(LOOKED_AT).read_to_end(&mut begin).is_ok());
    is_read && begin.trim_ascii_start().starts_with(b"{")
}

/// Refuses what cannot be read or written so.
fn check(args: &ReportArgs) -> Result<(), Failure> {
    let mut mistakes = Mistakes::default();
    if args.paths.iter().any(|path| path == Path::new("-")) {
        mistakes.note("standard input cannot be looked into: name a file or a store");
    }
    if args.paths.len() > 1
        && let Some(dir) = args.paths.iter().find(|path| path.is_dir())
    {
        let dir = dir.display();
        mistakes.note(format!(
            "{dir} is a directory: give a store alone, without other inputs"
        ));
    }
    if args.json && args.html.as_deref() == Some(Path::new("-")) {
        mistakes.note("--json and --html - both write to standard output");
    }
    let outputs = args.html.iter().map(|path| ("--html", path.as_path()));
    check_places(&outputs.collect::<Vec<_>>(), &args.paths, &mut mistakes);
    mistakes.end(Some(()))
}

fn of_summary(path: &Path, args: &ReportArgs) -> Result<Audit, Failure> {
    let shown = path.display();
    if let Some((flag, _)) = typed::told(&typed_settings(args, None)).first() {
        return Err(Failure::usage(format!(
            "--{flag} is for captures: the figures of the summary {shown} are fixed"
        )));
    }
    let mut text = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(LARGEST_SUMMARY + 1).read_to_end(&mut text));
    read.map_err(|error| Failure::running(format!("{shown}: {error}")))?;
    if text.len() as u64 > LARGEST_SUMMARY {
        return Err(Failure::running(format!(
            "{shown} begins as a summary does, and is too large for one"
        )));
    }
    let audit = Audit::read(&text);
    let mut audit = audit.map_err(|error| {
        Failure::running(format!("{shown} is neither capture nor summary: {error}"))
    })?;
    audit.input = Input {
        name: name_of(path),
        kind: Kind::Summary,
    };
    Ok(audit)
}

/// The settings that were typed, for these files.
fn typed_settings(args: &ReportArgs, files: Option<Vec<PathBuf>>) -> typed::Replay {
    let ReportArgs {
        port,
        plain,
        tunnels,
        filters,
        sessions,
        truncation,
        limits,
        ..
    } = args;
    typed::Replay {
        input: typed::Input {
            files,
            port: port.clone(),
            plain: plain.then_some(true),
        },
        tunnels: tunnels.clone(),
        filters: filters.clone(),
        sessions: sessions.clone(),
        truncation: truncation.clone(),
        limits: limits.clone(),
        ..typed::Replay::default()
    }
}

/// Replays the files, without another output than what is told, and what went wrong.
fn of_captures(
    files: &[PathBuf],
    kind: Kind,
    args: &ReportArgs,
) -> Result<(Audit, Vec<String>), Failure> {
    let mut typed = typed_settings(args, Some(files.to_vec()));
    if kind == Kind::Store || are_ours(files)? {
        typed.input.plain = Some(true);
    }
    // A flow is one record, however long it is.
    typed.flow_lifetimes.active_timeout = Some("off".into());
    let mut replay = Replay::meant(&Layers::new(typed, typed::Replay::defaults()))?;
    replay.run.worker.flows = true;
    let top = TopSink::default();
    let told = top.told();
    let replayed = replay::read(&replay, Some(top))?;
    let (worker, errors) = (&replay.run.worker, replayed.errors);
    let summary = Summary::new(&replayed.outcome, BTreeMap::new(), worker, errors.clone());
    let mut audit = Audit::of(&summary)?;
    audit.remarks = replayed.remarks;
    audit.top = Arc::into_inner(told).and_then(std::sync::OnceLock::into_inner);
    let names: Vec<String> = args
        .paths
        .iter()
        .take(3)
        .map(|path| name_of(path))
        .collect();
    let more = args.paths.len() - names.len();
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    audit.input = Input {
        name: format!("{}{more}", names.join(", ")),
        kind,
    };
    Ok((audit, errors))
}

/// Whether vxtap wrote the captures: then they are decapsulated already.
fn are_ours(files: &[PathBuf]) -> Result<bool, Failure> {
    let mut ours = Vec::new();
    for path in files {
        // What cannot be opened is told when it is read.
        let file = CaptureFile::open(path, Arc::default(), &Arc::new(Stop::new()));
        ours.extend(file.ok().map(|file| (path, file.is_ours())));
    }
    let one = |is_ours| ours.iter().find(|(_, ours)| *ours == is_ours);
    match (one(true), one(false)) {
        (Some((ours, _)), Some((other, _))) => Err(Failure::usage(format!(
            "{} was written by vxtap and is decapsulated, {} is not by vxtap: report on each alone",
            ours.display(),
            other.display()
        ))),
        (ours, _) => Ok(ours.is_some()),
    }
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

fn print(audit: &Audit, args: &ReportArgs) -> Result<(), Failure> {
    let document = sections::document(audit);
    let stdout = Path::new("-");
    if args.json {
        write_whole(stdout, Creation::default(), audit.json()?)?;
    } else if args.html.is_none() {
        write_whole(
            stdout,
            Creation::default(),
            text::print(&document).into_bytes(),
        )?;
    }
    if let Some(path) = &args.html {
        let page = html::print(&document).into_bytes();
        let size = bytes(page.len() as u64);
        let creation = Creation::asked(args.mode, args.group, Existing::Replace);
        write_whole(path, creation, page)?;
        if path != stdout {
            say(format!("{}: the report, {size}\n", path.display()));
        }
    }
    Ok(())
}
