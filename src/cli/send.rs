//! `vxtap send`: the flags become what the room `send` is asked for.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::args::{GenerateArgs, SendArgs};
use super::settings::mistakes::Mistakes;
use super::settings::outputs::misleading_capture_name;
use super::settings::places::{check_no_terminal, check_no_typed_input, check_places};
use crate::control::Control;
use crate::failure::Failure;
use crate::outfile::{Creation, Existing};
use crate::pcap::record::Format;
use crate::send;
use crate::send::encapsulate::{Cut, FIRST_SOURCE_PORT};
use crate::send::options::{Frames, Generate, Options, Tempo};
use crate::send::traffic::Traffic;
use crate::threads::Needed;
use crate::wire::Vni;

/// How long is generated where neither --count nor --duration says so.
const DEFAULT_DURATION: Duration = Duration::from_secs(10);

/// Runs the command.
///
/// # Errors
///
/// When flags do not fit, and as [`send::run`].
pub fn run(args: &SendArgs) -> Result<(), Failure> {
    let options = options(args)?;
    let control = Control::start()?;
    let name = options.write.as_ref();
    if let Some(told) = name.and_then(|path| misleading_capture_name(path, Format::Pcap, false)) {
        tracing::info!("{told}");
    }
    let needed = Needed {
        others: options.summary.iter().map(|_| "the summary").collect(),
        ..Needed::default()
    };
    needed.check()?;
    send::run(&options, control.stop())
}

/// What the flags mean, checked together.
fn options(args: &SendArgs) -> Result<Options, Failure> {
    let mut mistakes = Mistakes::default();
    check(args, &mut mistakes);
    let frames = match args.generate.generate {
        true => Frames::Generated(generate(args, &mut mistakes)),
        false => Frames::Files {
            paths: args.files.clone(),
            plain: args.plain,
            loops: args.loops,
        },
    };
    let factor = args.speed.or(args.as_recorded.then_some(1.0));
    let options = Options {
        frames,
        to: args.to.clone(),
        write: args.write.clone(),
        summary: args.summary.clone(),
        creation: Creation::asked(args.mode, args.group, Existing::Replace),
        vni: args.vni,
        cut: Cut {
            packet_length: args.packet_length,
            mtu: args.mtu,
        },
        source: args.source,
        source_port: args.source_port,
        source_port_hash: args.source_port_hash,
        no_udp_checksum: args.no_udp_checksum,
        tempo: match (args.pps, factor) {
            (Some(pps), _) => Tempo::Pps(pps),
            (None, Some(factor)) => Tempo::Recorded(factor),
            (None, None) => Tempo::FullSpeed,
        },
    };
    mistakes.end(Some(options))
}

fn generate(args: &SendArgs, mistakes: &mut Mistakes) -> Generate {
    let vni = args.vni;
    let GenerateArgs {
        count,
        duration,
        flows,
        frame_size,
        ipv6_percent,
        vlan_percent,
        vnis,
        source_ports,
        seed,
        no_retry,
        cpu,
        generate: _,
    } = args.generate;
    let last = vni.as_u32() + (vnis - 1);
    if Vni::new(last).is_none() {
        let most = Vni::MAX;
        mistakes.note(format!(
            "--vni {vni} and --vnis {vnis}: the last would be {last}, above {most}"
        ));
    }
    let first_port = args.source_port.unwrap_or(FIRST_SOURCE_PORT);
    if first_port.checked_add(source_ports - 1).is_none() {
        mistakes.note(format!(
            "--source-port {first_port} leaves no room for --source-ports {source_ports}"
        ));
    }
    let unbounded = count.is_none() && duration.is_none();
    Generate {
        traffic: Traffic {
            flows,
            ipv6_percent,
            vlan_percent,
            frame_size,
            vni,
            vnis,
            source_ports,
            seed,
        },
        count,
        duration: duration.or(unbounded.then_some(DEFAULT_DURATION)),
        retry: !no_retry,
        cpu,
    }
}

fn check(args: &SendArgs, mistakes: &mut Mistakes) {
    let excluded = [
        (!args.files.is_empty(), "a FILE"),
        (args.plain, "--plain"),
        (args.source_port_hash, "--source-port-hash"),
        (args.speed.is_some(), "--speed"),
        (args.as_recorded, "--as-recorded"),
        (args.loops > 1, "--loop"),
    ];
    // Told here and not by clap, which would take each of these for leave to go without --generate.
    for (_, other) in excluded.iter().filter(|(given, _)| *given) {
        if args.generate.generate {
            mistakes.note(format!("--generate cannot be used with {other}"));
        }
    }
    if args.to.is_none() && args.write.is_none() {
        mistakes.note(
            "--to or --write is needed: --to HOST sends the packets, --write FILE writes them to a capture file",
        );
    }
    let stdin = Path::new("-");
    let stdins = args.files.iter().filter(|path| *path == stdin).count();
    if stdins > 1 || (stdins == 1 && args.loops > 1) {
        mistakes.note("standard input can be read only once: give '-' one time, without --loop");
    }
    check_no_typed_input(&args.files, mistakes);
    if args.write.is_some() && args.pps.is_some() && !args.generate.generate {
        mistakes.note("--write keeps the times of the files: --pps has no meaning");
    }
    let outputs = [("--write", &args.write), ("--summary", &args.summary)];
    let outputs = outputs
        .into_iter()
        .filter_map(|(flag, path)| Some((flag, path.as_deref()?)));
    check_places(&outputs.collect::<Vec<_>>(), &args.files, mistakes);
    if let Some(path) = &args.write {
        check_no_terminal("--write", path, mistakes);
    }
    if let (Some(source), Some(to)) = (args.source, &args.to)
        && let Ok(target) = to.host.parse::<IpAddr>()
        && source.is_ipv4() != target.is_ipv4()
    {
        mistakes.note("--source and --to differ in their IP version");
    }
    #[cfg(target_os = "linux")]
    if let Some(core) = args.generate.cpu {
        mistakes.check(super::settings::listening::check_cores("--cpu", &[core]));
    }
}
