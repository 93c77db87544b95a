//! `vxtap replay`: capture files in, decapsulated capture and flow records out.

use std::collections::BTreeMap;
use std::iter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::progress::Progress;
use super::settings::meant::{Replay, Settings};
use crate::control::Control;
use crate::control::inquire::Teller;
use crate::failure::Failure;
use crate::mirror::words::counted;
use crate::pcap::link_type::LinkTypeName;
use crate::pcap::record::Format;
use crate::pipeline::flow_sink::TopSink;
use crate::pipeline::ledger::{Ledger, Noted};
use crate::pipeline::outcome::Outcome;
use crate::pipeline::run::Pipeline;
use crate::pipeline::worker::{OtherPort, WorkerSettings};
use crate::report::summary::conclude;
use crate::source::file::{CaptureError, CaptureFile};
use crate::stop::{Signal, Stop};
use crate::wire::decapsulate::Tunnels;
use crate::wire::refusal::Filtered;
use crate::wire::{geneve, vxlan};

/// Most bytes of comments that the capture's header takes from the inputs.
const MOST_COMMENT_BYTES: usize = 1 << 20;

/// Link types that a remark names.
const LINK_TYPES_NAMED: usize = 8;

/// Runs the command.
///
/// # Errors
///
/// When a file cannot be read or written; what was read before is kept.
pub fn run(replay: &Replay) -> Result<(), Failure> {
    let settings = &replay.run;
    let mut replayed = read(replay, None)?;
    if settings.outputs.is_empty() {
        let text = "Nothing was written. -w FILE.pcapng keeps the frames, --flows FILE.jsonl the flow records.";
        replayed.remarks.insert(0, text.to_owned());
    }
    conclude(
        &replayed.outcome,
        BTreeMap::new(),
        &settings.worker,
        settings.outputs.telling(),
        replayed.errors,
        replayed.remarks,
    )
}

/// What a replay came to.
pub struct Replayed {
    /// What was counted and written.
    pub outcome: Outcome,
    /// What went wrong with the files read.
    pub errors: Vec<String>,
    /// What there is to say about them.
    pub remarks: Vec<String>,
}

/// Reads the files into the outputs asked for, and into `top` beside them.
///
/// # Errors
///
/// When no file can be read, or an output not be opened.
pub fn read(replay: &Replay, top: Option<TopSink>) -> Result<Replayed, Failure> {
    let Replay {
        run: settings,
        files,
    } = replay;
    let control = Control::start()?;
    let stop = control.stop();
    let mut comments = check_inputs(files, stop)?;
    keep_comments(&mut comments, settings.worker.capture);
    let total = Progress::total(files);
    let others = total.map(|_| "the progress bar").into_iter();
    let others = others.chain(top.as_ref().map(|_| "the largest flows"));
    settings.threads(others.collect()).check()?;
    let about = format!("replay of {}", names(files));
    let carried: Vec<bool> = comments.iter().map(|said| !said.is_empty()).collect();
    let comments = iter::once(about).chain(comments.into_iter().flatten());
    let outputs = &settings.outputs;
    let mut sinks = outputs.open(comments.collect(), &settings.worker, stop)?;
    sinks.flows.extend(top.map(Into::into));
    let mut pipeline = Pipeline::start(settings.worker.clone(), sinks, settings.sharing)?;
    control.tell_on_request(Teller::new(&pipeline, &settings.worker, None, ""));
    if settings.outputs.has_store() {
        control.rotate_on_request(pipeline.rotation());
    }
    let bytes_read = Arc::new(AtomicU64::new(0));
    let progress = Progress::start(total, &bytes_read);
    let read = Read::all((files, &carried), &mut pipeline, &bytes_read, stop);
    progress.finish();
    let outcome = pipeline.finish(0);
    let remarks = remarks(settings, &outcome, read.told, read.without);
    Ok(Replayed {
        outcome,
        errors: read.errors,
        remarks,
    })
}

/// What reading the files came to, beside what the pipeline counted.
#[derive(Default)]
struct Read {
    errors: Vec<String>,
    /// What single files have to say.
    told: Vec<String>,
    /// Files without a mirrored packet.
    without: Vec<Without>,
}

/// A file that was read whole and held no mirrored packet.
struct Without {
    path: PathBuf,
    packets: u64,
    /// Some of them are malformed.
    has_malformed: bool,
    /// VXLAN that was not asked for: from sources that --allow, of VNIs that --vni does not name; packets that do not
    /// fit --filter.
    unwanted: Unwanted,
}

/// Packets that --allow, --vni and --filter have kept out.
#[derive(Clone, Copy, Default)]
struct Unwanted {
    not_allowed: u64,
    vni: u64,
    filter: u64,
}

impl Unwanted {
    fn of(ledger: &Ledger) -> Self {
        let filtered = ledger.filtered();
        let count = |reason: Filtered| filtered.get(reason.reason()).copied().unwrap_or_default();
        Self {
            not_allowed: count(Filtered::NotAllowed),
            vni: count(Filtered::Vni),
            filter: count(Filtered::Filter),
        }
    }

    const fn since(self, before: Self) -> Self {
        Self {
            not_allowed: self.not_allowed - before.not_allowed,
            vni: self.vni - before.vni,
            filter: self.filter - before.filter,
        }
    }
}

impl Read {
    /// Feeds the pipeline from one file after the other. Where the comments of its first section are `carried`, the
    /// capture has them.
    fn all(
        (files, carried): (&[PathBuf], &[bool]),
        pipeline: &mut Pipeline,
        bytes_read: &Arc<AtomicU64>,
        stop: &Arc<Stop>,
    ) -> Self {
        let mut all = Self::default();
        for (path, is_carried) in files.iter().zip(carried) {
            let before = pipeline.ledger();
            let read =
                CaptureFile::open(path, Arc::clone(bytes_read), stop).and_then(|mut file| {
                    if *is_carried {
                        file.take_first_comments();
                    }
                    let outcome = pipeline.replay(&mut file, stop);
                    all.told.extend(passed_over(&file));
                    outcome
                });
            let now = pipeline.ledger();
            let packets = now.received - before.received;
            if let Some(signal) = stop.signal() {
                // What the file would have had to say for itself is not known.
                all.errors.push(stopped(signal, path, packets));
                break;
            }
            let failed = read.is_err();
            let error = read.err().map(|error: CaptureError| error.to_string());
            all.errors.extend(error);
            if pipeline.has_failed() {
                break;
            }
            if !failed && now.delivered == before.delivered {
                all.without.push(Without {
                    path: path.clone(),
                    packets,
                    has_malformed: now.malformed() != before.malformed(),
                    unwanted: Unwanted::of(&now).since(Unwanted::of(&before)),
                });
            }
        }
        all
    }
}

/// What follows the page.
fn remarks(
    settings: &Settings,
    outcome: &Outcome,
    told: Vec<String>,
    without: Vec<Without>,
) -> Vec<String> {
    let mut remarks = Vec::new();
    for other in outcome
        .other_ports
        .iter()
        .filter(|other| other.like_vxlan > 0)
    {
        let OtherPort {
            port, like_vxlan, ..
        } = other;
        let look = if *like_vxlan == 1 { "looks" } else { "look" };
        let (flag, _) = flag_of(*port);
        remarks.push(format!(
            "{} to port {port} {look} like VXLAN: try {flag} {port}.",
            counted(*like_vxlan, "datagram")
        ));
    }
    remarks.extend(missing_fragments(
        &outcome.ledger,
        &ports_asked_for(&settings.worker.tunnels).1,
    ));
    remarks.extend(told);
    for file in without {
        remarks.push(nothing_found(&file, &outcome.other_ports, &settings.worker));
    }
    remarks
}

/// The flag that takes `port`, by what it is registered for, and that.
const fn flag_of(port: u16) -> (&'static str, &'static str) {
    match port {
        vxlan::GPE_PORT => ("--gpe-port", "VXLAN-GPE"),
        geneve::PORT => ("--geneve-port", "Geneve"),
        _ => ("--port", "VXLAN"),
    }
}

/// What is looked for, and on which ports: VXLAN, unless its port was given to another tunnel.
fn ports_asked_for(tunnels: &Tunnels) -> (&'static str, Vec<u16>) {
    let has_its_port = |ports: &[u16]| ports.contains(&vxlan::PORT);
    let (what, ports) = match &tunnels.vxlan_ports {
        ports if !ports.is_empty() => ("VXLAN", ports),
        _ if has_its_port(&tunnels.gpe_ports) => ("VXLAN-GPE", &tunnels.gpe_ports),
        _ => ("Geneve around Ethernet or VXLAN", &tunnels.geneve_ports),
    };
    (what, ports.clone())
}

/// What to do where only first fragments are there.
fn missing_fragments(ledger: &Ledger, ports: &[u16]) -> Option<String> {
    let packets = *ledger.noted().get(Noted::FragmentsMissing.reason())?;
    let ports: Vec<_> = ports
        .iter()
        .map(|port| format!("udp port {port}"))
        .collect();
    let filter = ports.join(" or ");
    Some(format!(
        "Later fragments of {} are missing. A capture filter '{filter}' takes first fragments only: \
         record with '{filter} or (ip[6:2] & 0x1fff != 0)', over IPv6 with 'or ip6[6] = 44' behind it.",
        counted(packets, "outer packet")
    ))
}

/// Refuses before anything is written when no input can be read, and tells the comments of each one's first section.
/// Pipes are left alone: they can be opened only once.
fn check_inputs(files: &[PathBuf], stop: &Arc<Stop>) -> Result<Vec<Vec<String>>, Failure> {
    let (mut errors, mut comments) = (Vec::new(), Vec::new());
    for path in files {
        let mut said = Vec::new();
        if path.as_path() != Path::new("-") && (path.is_file() || path.is_dir() || !path.exists()) {
            match CaptureFile::open(path, Arc::default(), stop) {
                Ok(mut file) => said = file.take_first_comments(),
                Err(error) => errors.push(error.to_string()),
            }
        }
        comments.push(said);
    }
    if errors.len() == files.len() {
        Err(Failure::running(errors.join("\nvxtap: error: ")))
    } else {
        Ok(comments)
    }
}

/// Keeps the comments that the capture's header takes, which is there before the inputs are read: none in classic
/// pcap, and of each input all or none.
fn keep_comments(comments: &mut [Vec<String>], capture: Option<Format>) {
    let mut room = match capture {
        Some(Format::PcapNg) => MOST_COMMENT_BYTES,
        _ => 0,
    };
    for said in comments {
        let len = said.iter().map(String::len).sum();
        match room.checked_sub(len) {
            Some(left) if room > 0 => room = left,
            _ => said.clear(),
        }
    }
}

/// Says how far a replay came that a signal ended.
fn stopped(signal: Signal, path: &Path, packets: u64) -> String {
    let name = match path == Path::new("-") {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    };
    let packets = match packets {
        1 => "1 packet".to_owned(),
        more => format!("{more} packets"),
    };
    format!("stopped by {} after {packets} of {name}", signal.name())
}

fn names(files: &[PathBuf]) -> String {
    let names: Vec<_> = files
        .iter()
        .map(|path| {
            path.file_name()
                .unwrap_or(path.as_os_str())
                .to_string_lossy()
        })
        .collect();
    match names.len() {
        0..=3 => names.join(", "),
        more => format!(
            "{} and {} more files",
            names.first().map_or("", |name| name),
            more - 1
        ),
    }
}

/// Names the link types of packets that were passed over, the most frequent first.
fn passed_over(file: &CaptureFile) -> Option<String> {
    let mut link_types: Vec<(u16, u64)> = file
        .unreadable()
        .iter()
        .map(|(number, packets)| (*number, *packets))
        .collect();
    let packets: u64 = link_types.iter().map(|(_, packets)| packets).sum();
    // Where no packet can be read that is an error, which says the same.
    if packets == 0 || packets == file.packets() {
        return None;
    }
    link_types.sort_by_key(|(number, packets)| (std::cmp::Reverse(*packets), *number));
    let named: Vec<String> = link_types
        .iter()
        .take(LINK_TYPES_NAMED)
        .map(|(number, packets)| {
            let noun = if *packets == 1 { "packet" } else { "packets" };
            format!("{packets} {noun} of {}", LinkTypeName(u32::from(*number)))
        })
        .collect();
    let more = link_types.len() - named.len();
    Some(format!(
        "{}: vxtap cannot read {}{}: passed over (filtered: link_type). The other packets were read.",
        file.path(),
        named.join(", "),
        if more > 0 {
            format!(", and packets of {more} more link types")
        } else {
            String::new()
        }
    ))
}

/// Says that a file held no mirrored packet, and what to try.
fn nothing_found(file: &Without, others: &[OtherPort], settings: &WorkerSettings) -> String {
    let (name, packets) = (file.path.display(), file.packets);
    if packets == 0 {
        return format!("{name} is a sound capture file without a single packet.");
    }
    let Unwanted {
        not_allowed,
        vni,
        filter,
    } = file.unwanted;
    if not_allowed + vni + filter > 0 {
        let kept_out = [
            (
                not_allowed,
                "came from an address that --allow does not name",
            ),
            (
                vni,
                "had a VNI that --vni does not name, or --vni-deny does",
            ),
            (filter, "did not fit --filter"),
        ];
        let told: Vec<String> = kept_out
            .into_iter()
            .filter(|(packets, _)| *packets > 0)
            .map(|(packets, why)| format!("{} {why}", counted(packets, "packet")))
            .collect();
        return format!(
            "{name}: nothing is left of its {packets} packets: {}.",
            told.join(", ")
        );
    }
    if settings.plain {
        return format!("{name}: none of its {packets} packets could be taken as a frame.");
    }
    let (what, ports) = ports_asked_for(&settings.tunnels);
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    let mut text = format!(
        "{name}: none of its {packets} packets is {what} on UDP port {}.",
        ports.join(", ")
    );
    let like_vxlan = others.iter().any(|other| other.like_vxlan > 0);
    if !like_vxlan && !others.is_empty() {
        let mut others = others.to_vec();
        others.sort_by_key(|other| std::cmp::Reverse(other.packets));
        let seen: Vec<_> = others
            .iter()
            .take(4)
            .map(|other| format!("{} ({})", other.port, other.packets))
            .collect();
        text.push_str(&format!(
            " UDP destination ports seen: {}.",
            seen.join(", ")
        ));
        // Where it is among those seen it was not asked for.
        let registered = others.iter().map(|other| (other.port, flag_of(other.port)));
        for (port, (flag, what)) in registered.filter(|(_, (flag, _))| *flag != "--port") {
            text.push_str(&format!(
                " Port {port} is that of {what}: {flag} {port} reads it."
            ));
        }
    }
    if like_vxlan {
        return text;
    }
    if !file.has_malformed {
        text.push_str(" If the capture holds the inner packets already, use --plain; if VXLAN has another port, --port N.");
    } else {
        text.push_str(" The malformed packets counted above say what was found instead.");
    }
    text
}
