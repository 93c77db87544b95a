//! `vxtap extract`: the flags become what the room `extract` is asked for.

use std::path::Path;
use std::time::Instant;

use super::args::ExtractArgs;
use super::settings::mistakes::Mistakes;
use super::settings::places::{check_no_terminal, check_places};
use crate::control::Control;
use crate::extract::filter::Filter;
use crate::extract::report::Report;
use crate::extract::{self, Options};
use crate::failure::Failure;
use crate::flow::community_id::CommunityId;
use crate::outfile::{Creation, Existing, write_whole};
use crate::say::say;
use crate::threads::Needed;

/// Runs the command.
///
/// # Errors
///
/// When flags do not fit, and as [`extract::run`]. Also when a file could not be read to its end, or a signal ended
/// the run before everything was looked at.
#[allow(clippy::disallowed_methods, reason = "tells how long it took")]
pub fn run(args: &ExtractArgs) -> Result<(), Failure> {
    let begun = Instant::now();
    let options = options(args)?;
    let control = Control::start()?;
    let needed = Needed {
        others: options.summary.iter().map(|_| "the summary").collect(),
        ..Needed::default()
    };
    needed.check()?;
    let mut report = extract::run(&options, control.stop())?;
    report.took(begun.elapsed().as_secs_f64());
    say(report.page());
    if let Some(signal) = control.stop().signal() {
        let text = format!("stopped by {} before everything was read", signal.name());
        report.errors.push(text);
    }
    if let Some(path) = &options.summary {
        write(&report, path, options.creation)?;
    }
    match report.errors.is_empty() {
        true => Ok(()),
        false => Err(Failure::running(report.errors.join("\nvxtap: error: "))),
    }
}

fn write(report: &Report, path: &Path, creation: Creation) -> Result<(), Failure> {
    let mut json = serde_json::to_vec_pretty(report)?;
    json.push(b'\n');
    Ok(write_whole(path, creation, json)?)
}

fn options(args: &ExtractArgs) -> Result<Options, Failure> {
    let mut mistakes = Mistakes::default();
    let stdin = Path::new("-");
    if args.paths.iter().any(|path| path == stdin) {
        mistakes.note("standard input cannot be looked into: name a store or capture files");
    }
    if !args.flows.is_empty() && args.flow.is_none() {
        mistakes.note("--flows is for --flow: it tells which packets are the flow's");
    }
    if let (Some(since), Some(until)) = (args.since, args.until)
        && since >= until
    {
        mistakes.note("--since is not before --until: no packet fits");
    }
    let outputs = [
        ("--write", Some(&args.write)),
        ("--summary", args.summary.as_ref()),
    ];
    let outputs = outputs
        .into_iter()
        .filter_map(|(flag, path)| Some((flag, path?.as_path())));
    let mut inputs = args.paths.clone();
    inputs.extend_from_slice(&args.flows);
    check_places(&outputs.collect::<Vec<_>>(), &inputs, &mut mistakes);
    check_no_terminal("--write", &args.write, &mut mistakes);
    let options = Options {
        paths: args.paths.clone(),
        filter: Filter {
            since_ns: args.since,
            until_ns: args.until,
            vni: args.vni,
            hosts: args.host.clone(),
            community_id: args.community_id,
            is_cut: args.truncated,
            flow: None,
            expression: args.filter.clone(),
        },
        flow: args.flow,
        flows: args.flows.clone(),
        write: args.write.clone(),
        summary: args.summary.clone(),
        creation: Creation::asked(args.mode, args.group, Existing::Replace),
        words: words(args),
    };
    mistakes.end(Some(options))
}

/// What was asked for, as it could be typed.
fn words(args: &ExtractArgs) -> String {
    let mut words = String::new();
    let mut add = |flag: &str, value: Option<String>| {
        if let Some(value) = value {
            words.push_str(&format!(" {flag} {value}"));
        }
    };
    let time = |ns: u64| crate::flow::text::rfc3339(ns).to_owned();
    add("--flow", args.flow.map(extract::flows::text));
    let id = args.community_id;
    add(
        "--community-id",
        id.map(|id| CommunityId::of(id).to_string()),
    );
    add("--vni", args.vni.map(|vni| vni.to_string()));
    for host in &args.host {
        add("--host", Some(host.to_string()));
    }
    add("--since", args.since.map(time));
    add("--until", args.until.map(time));
    let quoted = |filter: &crate::filter::Filter| format!("'{filter}'");
    add("--filter", args.filter.as_ref().map(quoted));
    if args.truncated {
        words.push_str(" --truncated");
    }
    words
}
