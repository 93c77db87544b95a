//! `vxtap send`: the flags become what the room `send` is asked for.

use std::path::Path;
use std::time::Duration;

use super::args::{GenerateArgs, SendArgs};
use super::settings::check_places;
use crate::control::Control;
use crate::failure::Failure;
use crate::outfile::{Creation, Existing};
use crate::send;
use crate::send::encapsulate::{Cut, FIRST_SOURCE_PORT};
use crate::send::options::{Frames, Generate, Options, Tempo};
use crate::send::traffic::Traffic;
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
    send::run(&options, control.stop())
}

/// What the flags mean, checked together.
fn options(args: &SendArgs) -> Result<Options, Failure> {
    check(args)?;
    let vni = Vni::new(args.vni).ok_or_else(|| Failure::usage("--vni: at most 24 bits"))?;
    let frames = match args.generate.generate {
        true => Frames::Generated(generate(args, vni)?),
        false => Frames::Files {
            paths: args.files.clone(),
            plain: args.plain,
            loops: args.loops,
        },
    };
    let factor = args.speed.or(args.as_recorded.then_some(1.0));
    Ok(Options {
        frames,
        to: args.to.clone(),
        write: args.write.clone(),
        summary: args.summary.clone(),
        creation: Creation {
            mode: args.mode,
            existing: Existing::Replace,
        },
        vni,
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
    })
}

fn generate(args: &SendArgs, vni: Vni) -> Result<Generate, Failure> {
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
        return Err(Failure::usage(format!(
            "--vni {vni} and --vnis {vnis}: the last would be {last}, above {most}"
        )));
    }
    let first_port = args.source_port.unwrap_or(FIRST_SOURCE_PORT);
    if first_port.checked_add(source_ports - 1).is_none() {
        return Err(Failure::usage(format!(
            "--source-port {first_port} leaves no room for --source-ports {source_ports}"
        )));
    }
    let unbounded = count.is_none() && duration.is_none();
    Ok(Generate {
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
    })
}

fn check(args: &SendArgs) -> Result<(), Failure> {
    let excluded = [
        (!args.files.is_empty(), "a FILE"),
        (args.plain, "--plain"),
        (args.source_port_hash, "--source-port-hash"),
        (args.speed.is_some(), "--speed"),
        (args.as_recorded, "--as-recorded"),
        (args.loops > 1, "--loop"),
    ];
    // Told here and not by clap, which would take each of these for leave to go without --generate.
    if let Some((_, other)) = excluded.iter().find(|(given, _)| *given)
        && args.generate.generate
    {
        return Err(Failure::usage(format!(
            "--generate cannot be used with {other}"
        )));
    }
    let stdin = Path::new("-");
    let stdins = args.files.iter().filter(|path| *path == stdin).count();
    if stdins > 1 || (stdins == 1 && args.loops > 1) {
        let text = "standard input can be read only once: give '-' one time, without --loop";
        return Err(Failure::usage(text));
    }
    if args.write.is_some() && args.pps.is_some() && !args.generate.generate {
        let text = "--write keeps the times of the files: --pps has no meaning";
        return Err(Failure::usage(text));
    }
    let outputs = [("--write", &args.write), ("--summary", &args.summary)];
    let outputs = outputs
        .into_iter()
        .filter_map(|(flag, path)| Some((flag, path.as_deref()?)));
    check_places(&outputs.collect::<Vec<_>>(), &args.files)
}
