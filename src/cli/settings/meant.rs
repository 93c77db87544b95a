//! What the flags mean, checked together before a file or socket is opened for writing.

use std::hash::BuildHasher;
use std::path::{Path, PathBuf};

use super::args::{BackendArg, FormatArg, GroArg, ListenArgs, PipelineArgs, ReplayArgs, Workers};
use crate::bpf::steer::Steering;
use crate::capture::writer::CaptureWriter;
use crate::export::jsonl::JsonLines;
use crate::failure::Failure;
use crate::mirror::allowed::Allowed;
use crate::outfile::{Creation, Existing, OutFile, is_input, same_output};
use crate::pcap::record::Format;
use crate::pcap::section::About;
use crate::pipeline::memory;
use crate::pipeline::run::{Sharing, Sinks, WhenFull};
use crate::pipeline::worker::WorkerSettings;
use crate::wire::decapsulate::Tunnels;
use crate::wire::{geneve, vxlan};

/// A run of the pipeline as it was meant.
pub struct Settings {
    /// For the worker.
    pub worker: WorkerSettings,
    /// How work is shared out.
    pub sharing: Sharing,
    /// Where results go.
    pub outputs: Outputs,
}

/// Where results go.
pub struct Outputs {
    write: Option<PathBuf>,
    format: Format,
    flows: Vec<PathBuf>,
    summary: Option<PathBuf>,
    /// Of captures and flow files; a summary is the last state, and replaced.
    creation: Creation,
}

impl Settings {
    /// From the flags of `vxtap replay`.
    ///
    /// # Errors
    ///
    /// [`Failure::Usage`] when flags contradict each other.
    pub fn of_replay(args: &ReplayArgs) -> Result<Self, Failure> {
        let tunnels = tunnels(&args.port, &args.pipeline)?;
        let sharing = sharing(&args.pipeline, REPLAY_MULTIPLIER, WhenFull::Wait);
        let settings = Self::of(&args.pipeline, tunnels, sharing, args.plain)?;
        settings.outputs.check(&args.files)?;
        Ok(settings)
    }

    /// From the flags of `vxtap listen`: every port bound that is not one of the others is VXLAN.
    ///
    /// # Errors
    ///
    /// [`Failure::Usage`] when flags contradict each other.
    pub fn of_listen(args: &ListenArgs) -> Result<Self, Failure> {
        let mut tunnels = tunnels(&[], &args.pipeline)?;
        tunnels.vxlan_ports.clear();
        for port in args.bind.iter().map(|address| address.port()) {
            if tunnels.at_port(port).is_none() {
                tunnels.vxlan_ports.push(port);
            }
        }
        // New at every start: nobody outside can aim at one worker. The keys of std's hasher come from the
        // system's random numbers.
        let multiplier = std::hash::RandomState::new().hash_one(0) as u32 | 1;
        let sharing = sharing(&args.pipeline, multiplier, WhenFull::Drop);
        let mut settings = Self::of(&args.pipeline, tunnels, sharing, false)?;
        // A supervisor starts it again and again: what the run before has finished stays.
        if !args.overwrite {
            settings.outputs.creation.existing = Existing::Keep;
        }
        settings.outputs.check(&[])?;
        check_backend(args, settings.sharing.steering.workers)?;
        Ok(settings)
    }

    fn of(
        args: &PipelineArgs,
        tunnels: Tunnels,
        sharing: Sharing,
        plain: bool,
    ) -> Result<Self, Failure> {
        if args.mtu_overhead >= args.mtu {
            return Err(Failure::usage(format!(
                "--mtu-overhead {} leaves nothing of --mtu {}",
                args.mtu_overhead, args.mtu
            )));
        }
        let allowed = Allowed::new(&args.allow, &args.vni);
        if plain && !allowed.is_everything() {
            return Err(Failure::usage(
                "--allow and --vni are for encapsulated packets; --plain takes packets as they are",
            ));
        }
        let format = match args.format {
            FormatArg::Pcapng => Format::PcapNg,
            FormatArg::Pcap => Format::Pcap,
        };
        let worker = WorkerSettings {
            tunnels,
            plain,
            mtu: args.mtu,
            mtu_overhead: args.mtu_overhead,
            max_flows: args.max_flows,
            capture: args.write.is_some().then_some(format),
            flows: !args.flows.is_empty(),
            allowed,
        };
        let outputs = Outputs {
            write: args.write.clone(),
            format,
            flows: args.flows.clone(),
            summary: args.summary.clone(),
            creation: Creation {
                mode: args.mode,
                existing: Existing::Replace,
            },
        };
        Ok(Self {
            worker,
            sharing,
            outputs,
        })
    }

    /// Most bytes of memory the run may take, its end included; `source` is what its inputs need.
    pub fn memory_bytes(&self, source: usize) -> u64 {
        let flow_files = self.outputs.flows.len();
        memory::most_bytes(&self.worker, &self.sharing, flow_files) + source as u64
    }
}

impl Outputs {
    /// Whether nothing but a summary is asked for.
    pub fn is_empty(&self) -> bool {
        self.write.is_none() && self.flows.is_empty()
    }

    fn named(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let write = self.write.iter().map(|path| ("-w", path.as_path()));
        let flows = self.flows.iter().map(|path| ("--flows", path.as_path()));
        let summary = self
            .summary
            .iter()
            .map(|path| ("--summary", path.as_path()));
        write.chain(flows).chain(summary)
    }

    fn check(&self, inputs: &[PathBuf]) -> Result<(), Failure> {
        check_places(&self.named().collect::<Vec<_>>(), inputs)
    }

    /// Opens what is asked for. `about` is the capture's comment.
    ///
    /// # Errors
    ///
    /// When an output cannot be written; nothing is left behind in that case.
    pub fn open(&self, about: &str, mtu: u32) -> Result<Sinks, Failure> {
        let mut sinks = Sinks::default();
        if let Some((path, creation)) = self.summary() {
            // Opened at the end; whether it can be is better known now.
            OutFile::probe(path, creation)?;
        }
        for path in &self.flows {
            sinks.flows.push(JsonLines::create(path, self.creation)?);
        }
        if let Some(path) = &self.write {
            let about = About {
                comment: about.to_owned(),
                mtu,
            };
            let capture = CaptureWriter::create(path, self.creation, self.format, &about)?;
            sinks.capture = Some(capture);
        }
        Ok(sinks)
    }

    /// Where the JSON summary goes, and how that file is made.
    pub fn summary(&self) -> Option<(&Path, Creation)> {
        let existing = Existing::Replace;
        let creation = Creation {
            existing,
            ..self.creation
        };
        Some((self.summary.as_deref()?, creation))
    }
}

/// Refuses outputs, each with its flag, that would be written into an input or into each other.
pub(super) fn check_places(outputs: &[(&str, &Path)], inputs: &[PathBuf]) -> Result<(), Failure> {
    for (at, (flag, path)) in outputs.iter().enumerate() {
        let shown = path.display();
        if let Some(input) = inputs.iter().find(|input| is_input(path, input)) {
            return Err(Failure::usage(format!(
                "{flag} {shown} would overwrite the input {}: choose another name",
                input.display()
            )));
        }
        let mut others = outputs.iter().skip(at + 1);
        if let Some((other_flag, other)) = others.find(|(_, other)| same_output(path, other)) {
            let as_other = match path == other {
                true => String::new(),
                false => format!(", which is {}", other.display()),
            };
            return Err(Failure::usage(format!(
                "{flag} and {other_flag} both write to {shown}{as_other}: choose different names"
            )));
        }
    }
    Ok(())
}

/// Refuses flags of one way to receive beside another.
fn check_backend(args: &ListenArgs, workers: u32) -> Result<(), Failure> {
    let contradiction = match (args.gro, args.backend, &args.interface) {
        (GroArg::On, BackendArg::Packet, _) => "--gro on is for --backend udp",
        (GroArg::On, _, Some(_)) => "--gro on is for sockets, --interface for the packet ring",
        (GroArg::On, ..) if workers > 1 => {
            "--gro on needs --workers 1: a train holds packets of several workers"
        }
        (_, BackendArg::Udp, Some(_)) => {
            "--interface is for the packet ring; sockets receive on the addresses of --bind"
        }
        _ => return Ok(()),
    };
    Err(Failure::usage(contradiction))
}

/// Multiplier of the hash in replay: the same in every run.
const REPLAY_MULTIPLIER: u32 = 0x85eb_ca6b;

/// Flows that `--workers auto` gives each worker room for, at least.
const FLOWS_WORTH_A_WORKER: u32 = 1 << 16;

fn sharing(args: &PipelineArgs, multiplier: u32, when_full: WhenFull) -> Sharing {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let workers = match args.workers {
        Workers::Auto => {
            // A small flow table is not worth cutting up: its oldest flow would leave too early.
            let most = (args.max_flows / FLOWS_WORTH_A_WORKER).clamp(1, 256);
            u32::try_from(cores.saturating_sub(1))
                .unwrap_or(1)
                .clamp(1, most)
        }
        Workers::Number(number) => number,
    };
    let steering = Steering {
        workers,
        multiplier,
    };
    Sharing {
        steering,
        max_reorder: args.max_reorder,
        when_full,
    }
}

/// The tunnel of each port. A port that is asked for is taken from a tunnel that has it by default only;
/// `--gpe-port 4789` is VXLAN-GPE.
fn tunnels(vxlan_ports: &[u16], args: &PipelineArgs) -> Result<Tunnels, Failure> {
    let asked = [
        ("--port", vxlan_ports),
        ("--gpe-port", &args.gpe_port),
        ("--geneve-port", &args.geneve_port),
    ];
    let defaults = [vxlan::PORT, vxlan::GPE_PORT, geneve::PORT];
    for (at, (flag, ports)) in asked.iter().enumerate() {
        for (other_flag, others) in asked.iter().skip(at + 1) {
            if let Some(port) = ports
                .iter()
                .find(|port| **port != 0 && others.contains(port))
            {
                let text = format!("port {port} is given to both {flag} and {other_flag}");
                return Err(Failure::usage(text));
            }
        }
    }
    let mut chosen = asked
        .iter()
        .zip(defaults)
        .map(|((_, ports), default)| -> Vec<u16> {
            let taken = asked.iter().any(|(_, others)| others.contains(&default));
            match ports.is_empty() {
                true if taken => Vec::new(),
                true => vec![default],
                false => ports.iter().copied().filter(|port| *port != 0).collect(),
            }
        });
    let mut next = || chosen.next().unwrap_or_default();
    Ok(Tunnels {
        vxlan_ports: next(),
        gpe_ports: next(),
        geneve_ports: next(),
        depth: args.depth,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, Command};
    use crate::wire::decapsulate::Tunnel;

    fn replay(flags: &[&str]) -> Result<Tunnels, Failure> {
        let words = [&["vxtap", "replay", "in.pcap"], flags].concat();
        match Cli::try_parse_from(words).unwrap().command {
            Command::Replay(args) => {
                Settings::of_replay(&args).map(|settings| settings.worker.tunnels)
            }
            _ => panic!("not replay"),
        }
    }

    #[test]
    fn a_port_that_is_asked_for_wins_over_a_default() {
        let at = |flags: &[&str], port| replay(flags).unwrap().at_port(port);
        assert_eq!(at(&[], 4789), Some(Tunnel::Vxlan));
        assert_eq!(at(&[], 4790), Some(Tunnel::Gpe));
        assert_eq!(at(&[], 6081), Some(Tunnel::Geneve));
        assert_eq!(at(&["--gpe-port", "4789"], 4789), Some(Tunnel::Gpe));
        assert_eq!(at(&["--port", "6081"], 6081), Some(Tunnel::Vxlan));
        assert_eq!(at(&["--port", "8472"], 4789), None);
        assert_eq!(at(&["--gpe-port", "0"], 4790), None);
        assert!(matches!(
            replay(&["--port", "9", "--gpe-port", "9"]),
            Err(Failure::Usage(_))
        ));
    }

    #[test]
    fn flags_that_contradict_each_other() {
        assert!(matches!(
            replay(&["--mtu", "100", "--mtu-overhead", "100"]),
            Err(Failure::Usage(_))
        ));
        assert!(matches!(
            replay(&["-w", "x", "--flows", "x"]),
            Err(Failure::Usage(_))
        ));
        assert!(matches!(
            replay(&["-w", "-", "--summary", "-"]),
            Err(Failure::Usage(_))
        ));
        assert!(replay(&["-w", "-", "--summary", "x"]).is_ok());
    }
}
