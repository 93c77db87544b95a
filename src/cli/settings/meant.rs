//! What the settings mean, checked together before a file or socket is opened for writing. All mistakes are
//! told at once.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::layers::{Layers, Origin};
use super::lifetimes;
use super::mistakes::Mistakes;
use super::outputs::{Outputs, group};
use super::places::check_no_typed_input;
use super::sessions;
use super::storing;
use super::typed;
use crate::bpf::steer::Steering;
use crate::capture::store::hooks::{self};
use crate::capture::view::{self, WhenSlow};
use crate::cli::values;
use crate::export::collector::{self};
use crate::failure::Failure;
use crate::filter::Filter;
use crate::flow::lifetime::Lifetimes;
use crate::mirror::allowed::{Allowed, VniList};
use crate::mirror::duplicates::{Dedup, MAX_WINDOW_NS};
use crate::mirror::inventory::Inventory;
use crate::mirror::networks::{self, Network};
use crate::outfile::Existing;
use crate::pipeline::memory;
use crate::pipeline::queues::WhenFull;
use crate::pipeline::sharing::Sharing;
use crate::pipeline::worker::WorkerSettings;
use crate::threads::Needed;
use crate::wire::decapsulate::Tunnels;

/// A run of the pipeline as it was meant.
#[derive(Debug)]
pub struct Settings {
    /// For the worker.
    pub worker: WorkerSettings,
    /// How work is shared out.
    pub sharing: Sharing,
    /// Where results go.
    pub outputs: Outputs,
}

/// `vxtap replay` as it was meant.
#[derive(Debug)]
pub struct Replay {
    /// The run.
    pub run: Settings,
    /// The files, in their order; `-` is standard input.
    pub files: Vec<PathBuf>,
}

impl Replay {
    /// What the settings of `vxtap replay` mean.
    ///
    /// # Errors
    ///
    /// [`Failure::Usage`] when values are wrong or contradict each other.
    pub fn meant(typed: &Layers<typed::Replay>) -> Result<Self, Failure> {
        let mut mistakes = Mistakes::default();
        let meant = Self::read(typed, &mut mistakes);
        mistakes.end(meant)
    }

    fn read(typed: &Layers<typed::Replay>, mistakes: &mut Mistakes) -> Option<Self> {
        let input = typed.group(|typed| &typed.input);
        let files = input.find(|input| input.files.as_ref());
        let files = files.map(|(_, files)| files.clone()).unwrap_or_default();
        let vxlan = mistakes.many(&input, "--port", |input| &input.port, values::port);
        let tunnels = tunnels(Some(vxlan), &typed.group(|typed| &typed.tunnels), mistakes);
        let plain = input.find(|input| input.plain.as_ref());
        let plain = plain.is_some_and(|(_, plain)| *plain);
        let output = typed.group(|typed| &typed.output);
        let store = typed.group(|typed| &typed.store);
        let mut outputs = Outputs::read(&output, &store, &files, Existing::Replace, mistakes);
        let group = group(&output, mistakes);
        if let Some(outputs) = &mut outputs {
            outputs.configuration = typed.fingerprint();
            outputs.give_to(group);
        }
        let filters = typed.group(|typed| &typed.filters);
        let allowed = allowed(&filters, mistakes);
        let filter = filter(&filters, mistakes);
        let limits = Limits::read(&typed.group(|typed| &typed.limits), mistakes);
        let truncation = truncation(&typed.group(|typed| &typed.truncation), mistakes);
        let inventory = sessions::read(&typed.group(|typed| &typed.sessions), mistakes);
        let lifetimes = lifetimes::read(&typed.group(|typed| &typed.flow_lifetimes), mistakes);
        let dedup = dedup(&typed.group(|typed| &typed.duplicates), mistakes);
        let stdin = files.iter().filter(|path| path.as_path() == Path::new("-"));
        if stdin.count() > 1 {
            mistakes.note("standard input can be read only once: give '-' one time");
        }
        check_no_typed_input(&files, mistakes);
        if plain && !allowed.is_everything() {
            mistakes.note(
                "--allow, --vni and --vni-deny are for encapsulated packets; --plain takes packets as they are",
            );
        }
        let run = Settings::of(Parts {
            tunnels: tunnels?,
            allowed,
            filter,
            inventory,
            truncation: truncation?,
            lifetimes: lifetimes?,
            dedup: dedup?,
            limits: limits?,
            outputs: outputs?,
            plain,
            multiplier: REPLAY_MULTIPLIER,
            when_full: WhenFull::Wait,
        });
        Some(Self { run, files })
    }
}

/// Threads and memory.
pub struct Limits {
    /// None: as many as the machine has cores, less one.
    workers: Option<u32>,
    max_reorder: Duration,
    max_flows: u32,
}

impl Limits {
    /// Reads them.
    pub fn read(typed: &Layers<&typed::Limits>, mistakes: &mut Mistakes) -> Option<Self> {
        let workers = mistakes.one(typed, "--workers", |t| &t.workers, values::workers);
        let max_reorder = mistakes.one(typed, "--max-reorder", |t| &t.max_reorder, values::time);
        let flows = |text: &str| values::number(text, 1..=268_435_456);
        let max_flows = mistakes.one(typed, "--max-flows", |t| &t.max_flows, flows);
        Some(Self {
            workers: workers?,
            max_reorder: max_reorder?,
            max_flows: max_flows?,
        })
    }

    /// The number of workers; `auto` depends on the machine.
    pub fn workers(&self) -> u32 {
        self.workers.unwrap_or_else(|| {
            let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
            // A small flow table is not worth cutting up: its oldest flow would leave too early.
            let most = (self.max_flows / FLOWS_WORTH_A_WORKER).clamp(1, 256);
            u32::try_from(cores.saturating_sub(1))
                .unwrap_or(1)
                .clamp(1, most)
        })
    }
}

/// MTU and overhead, in bytes.
pub fn truncation(
    typed: &Layers<&typed::Truncation>,
    mistakes: &mut Mistakes,
) -> Option<(u32, u32)> {
    let bytes = |text: &str| values::number(text, 68..=65_535);
    let mtu = mistakes.one(typed, "--mtu", |t| &t.mtu, bytes);
    let bytes = |text: &str| values::number(text, 0..=1000);
    let overhead = mistakes.one(typed, "--mtu-overhead", |t| &t.mtu_overhead, bytes);
    let (mtu, overhead) = (mtu?, overhead?);
    if overhead >= mtu {
        mistakes.note(format!(
            "--mtu-overhead {overhead} leaves nothing of --mtu {mtu}"
        ));
    }
    Some((mtu, overhead))
}

/// How copies of packets are looked for; `Some(None)` for not at all.
pub fn dedup(typed: &Layers<&typed::Duplicates>, mistakes: &mut Mistakes) -> Option<Option<Dedup>> {
    let words = [("mark", Some(false)), ("drop", Some(true)), ("off", None)];
    let drop = |text: &str| values::one_of(text, &words);
    let drop = mistakes.one(typed, "--dedup", |t| &t.dedup, drop);
    let window = |text: &str| values::time_up_to(Duration::from_nanos(MAX_WINDOW_NS), text);
    let window = mistakes.one(typed, "--dedup-window", |t| &t.dedup_window, window);
    let (drop, window) = (drop?, window?);
    let window_ns = u64::try_from(window.as_nanos()).unwrap_or(MAX_WINDOW_NS);
    Some(drop.map(|drop| Dedup { window_ns, drop }))
}

/// Sources and VNIs that are wanted.
pub fn allowed(typed: &Layers<&typed::Filters>, mistakes: &mut Mistakes) -> Allowed {
    let network = |text: &str| Network::from_str(text).map_err(|error| error.to_string());
    let (_, mut networks) = mistakes.many(typed, "--allow", |t| &t.allow, network);
    let files = typed.find(|typed| typed.allow_file.as_ref());
    for path in files.into_iter().flat_map(|(_, files)| files) {
        networks.extend(networks_of(path, mistakes));
    }
    let vnis = |text: &str| VniList::from_str(text).map_err(|error| error.to_string());
    let (_, wanted) = mistakes.many(typed, "--vni", |t| &t.vni, vnis);
    let (_, denied) = mistakes.many(typed, "--vni-deny", |t| &t.vni_deny, vnis);
    Allowed {
        networks: networks.into_iter().collect(),
        vnis: VniList::joined(&wanted),
        denied_vnis: VniList::joined(&denied),
    }
}

/// The networks in a file of --allow-file.
fn networks_of(path: &Path, mistakes: &mut Mistakes) -> Vec<Network> {
    let name = path.display();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            mistakes.note(format!("cannot read --allow-file {name}: {error}"));
            return Vec::new();
        }
    };
    let read = networks::read_lines(&text);
    read.unwrap_or_else(|wrong| {
        for line in wrong.iter().take(MOST_WRONG_LINES) {
            mistakes.note(format!("--allow-file {name}: {line}"));
        }
        if let more @ 1.. = wrong.len().saturating_sub(MOST_WRONG_LINES) {
            mistakes.note(format!("--allow-file {name}: {more} more lines are wrong"));
        }
        Vec::new()
    })
}

/// Which mirrored packets are wanted; `None` for all.
pub fn filter(typed: &Layers<&typed::Filters>, mistakes: &mut Mistakes) -> Option<Filter> {
    mistakes.one(typed, "--filter", |t| &t.filter, values::filter)
}

/// What was read, to be put together.
pub struct Parts {
    /// Tunnels.
    pub tunnels: Tunnels,
    /// Sources and VNIs.
    pub allowed: Allowed,
    /// Which mirrored packets are wanted.
    pub filter: Option<Filter>,
    /// What is known of mirror sessions.
    pub inventory: Inventory,
    /// MTU and overhead, in bytes.
    pub truncation: (u32, u32),
    /// How long flows live.
    pub lifetimes: Lifetimes,
    /// How copies of packets are looked for; `None` for not at all.
    pub dedup: Option<Dedup>,
    /// Threads and memory.
    pub limits: Limits,
    /// Where results go.
    pub outputs: Outputs,
    /// Packets are not encapsulated.
    pub plain: bool,
    /// How packets find their worker.
    pub multiplier: u32,
    /// What happens when a queue is full.
    pub when_full: WhenFull,
}

impl Settings {
    /// Puts together what was read.
    pub fn of(parts: Parts) -> Self {
        let Parts {
            limits,
            mut outputs,
            multiplier,
            when_full,
            ..
        } = parts;
        let (mtu, mtu_overhead) = parts.truncation;
        if let Some(plan) = &mut outputs.store {
            plan.by_packet_time = when_full == WhenFull::Wait;
        }
        outputs.when_slow = match when_full {
            WhenFull::Drop => WhenSlow::Miss,
            WhenFull::Wait => WhenSlow::Wait,
        };
        let store = outputs.store.as_mut();
        let of_store = store.and_then(|plan| plan.compression.as_mut());
        for compression in outputs.compression.iter_mut().chain(of_store) {
            compression.live = when_full == WhenFull::Drop;
        }
        // A store of flow records alone needs none.
        let of_packets = outputs.write.as_deref().is_some_and(storing::is_store);
        let index = outputs.store.as_ref().filter(|_| of_packets);
        let index = index.is_some_and(|plan| plan.keeping.index);
        // Whether that is a file shows when it is opened.
        let has_place = outputs
            .write
            .as_deref()
            .is_some_and(|path| path != Path::new("-"));
        let lifetimes = Lifetimes {
            interval_ns: outputs.flow_interval_ns(),
            ..parts.lifetimes
        };
        let worker = WorkerSettings {
            index,
            tunnels: parts.tunnels,
            plain: parts.plain,
            live: when_full == WhenFull::Drop,
            mtu,
            mtu_overhead,
            max_flows: limits.max_flows,
            lifetimes,
            capture: outputs.has_capture().then_some(outputs.format),
            slice: outputs.slice,
            flows: outputs.has_flows(),
            app: outputs.app,
            first_places: has_place && outputs.has_flows(),
            allowed: Arc::new(parts.allowed),
            filter: parts.filter.map(Arc::new),
            inventory: Arc::new(parts.inventory),
            dedup: parts.dedup,
        };
        let steering = Steering {
            workers: limits.workers(),
            multiplier,
        };
        let sharing = Sharing {
            steering,
            max_reorder: limits.max_reorder,
            when_full,
        };
        Self {
            worker,
            sharing,
            outputs,
        }
    }

    /// The threads that the run will start, with those for `others`.
    pub fn threads(&self, others: Vec<&'static str>) -> Needed {
        let Outputs {
            write,
            store,
            flows,
            collectors,
            tees,
            summary,
            ..
        } = &self.outputs;
        // Without a file the capture's thread runs for the tees.
        let viewed = usize::from(write.is_none() && !tees.is_empty());
        let workers = self.sharing.steering.workers.max(1) as usize;
        let hooks = store
            .as_ref()
            .and_then(|plan| plan.custody.on_rotate.as_ref());
        let hooks = hooks.map(|_| hooks::AT_ONCE);
        Needed {
            workers,
            for_workers: match self.sharing.when_full {
                // The thread of the run is the first worker's.
                WhenFull::Drop => workers - 1,
                WhenFull::Wait if workers == 1 => 0,
                // It reads the file.
                WhenFull::Wait => workers,
            },
            for_outputs: write
                .iter()
                .chain(flows.iter().map(|flows| &flows.path))
                .map(|path| 1 + usize::from(storing::is_store(path)))
                .chain(hooks)
                .sum::<usize>()
                + self.outputs.compression().map_or(0, |how| how.threads)
                + viewed
                + tees.len()
                + collectors.len() * collector::THREADS,
            others: summary
                .iter()
                .map(|_| "the summary")
                .chain(others)
                .collect(),
        }
    }

    /// Most bytes of memory the run may take, its end included; `source` is what its inputs need.
    pub fn memory_bytes(&self, source: usize) -> u64 {
        let Outputs {
            flows, collectors, ..
        } = &self.outputs;
        let files = flows.iter().map(|flows| flows.format.memory_bytes());
        let collectors = collectors.iter().map(|_| collector::MEMORY_BYTES);
        let flows: Vec<usize> = files.chain(collectors).collect();
        let views = match self.outputs.tees.is_empty() {
            true => 0,
            false => view::MEMORY_BYTES,
        };
        let compression = self.outputs.compression();
        memory::most_bytes(&self.worker, &self.sharing, &flows, compression)
            + (source + views) as u64
    }
}

/// Multiplier of the hash in replay: the same in every run.
const REPLAY_MULTIPLIER: u32 = 0x85eb_ca6b;

/// Flows that `--workers auto` gives each worker room for, at least.
const FLOWS_WORTH_A_WORKER: u32 = 1 << 16;

/// Most wrong lines of a list of networks that are told.
const MOST_WRONG_LINES: usize = 5;

/// The tunnel of each port. `vxlan` are the ports of VXLAN and where they came from; `None` where the bound
/// ports say it. A port that is asked for is taken from a tunnel that has it by default only; `--gpe-port 4789`
/// is VXLAN-GPE.
pub fn tunnels(
    vxlan: Option<(Origin, Vec<u16>)>,
    typed: &Layers<&typed::Tunnels>,
    mistakes: &mut Mistakes,
) -> Option<Tunnels> {
    let depth = |text: &str| values::number(text, 1..=16);
    let depth = mistakes.one(typed, "--depth", |t| &t.depth, depth);
    let gpe = mistakes.many(typed, "--gpe-port", |t| &t.gpe_port, values::port_or_none);
    let read = values::port_or_none;
    let geneve = mistakes.many(typed, "--geneve-port", |t| &t.geneve_port, read);
    let all = [
        ("--port", vxlan.unwrap_or((Origin::Default, Vec::new()))),
        ("--gpe-port", gpe),
        ("--geneve-port", geneve),
    ];
    let asked = |(flag, (origin, ports)): &(&'static str, (Origin, Vec<u16>))| {
        let ports = ports.iter().copied().filter(|port| *port != 0);
        (*origin != Origin::Default).then(|| (*flag, ports.collect::<Vec<u16>>()))
    };
    let asked: Vec<(&str, Vec<u16>)> = all.iter().filter_map(asked).collect();
    for (at, (flag, ports)) in asked.iter().enumerate() {
        for (other_flag, others) in asked.iter().skip(at + 1) {
            if let Some(port) = ports.iter().find(|port| others.contains(port)) {
                mistakes.note(format!(
                    "port {port} is given to both {flag} and {other_flag}"
                ));
            }
        }
    }
    for (flag, (_, ports)) in &all {
        if ports.len() > 1 && ports.contains(&0) {
            mistakes.note(format!(
                "{flag} 0 means none and cannot stand beside another {flag}"
            ));
        }
    }
    let is_asked = |port: &u16| asked.iter().any(|(_, ports)| ports.contains(port));
    let mut chosen = all.into_iter().map(|(_, (origin, ports))| {
        let mut ports = ports;
        ports.retain(|port| *port != 0 && (origin != Origin::Default || !is_asked(port)));
        ports
    });
    let mut next = || chosen.next().unwrap_or_default();
    Some(Tunnels {
        vxlan_ports: next(),
        gpe_ports: next(),
        geneve_ports: next(),
        depth: depth?,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, Command};
    use crate::wire::decapsulate::Tunnel;

    fn replay(flags: &[&str]) -> Result<Replay, String> {
        let words = [&["vxtap", "replay", "in.pcap"], flags].concat();
        let Command::Replay(typed) = Cli::try_parse_from(words).unwrap().command else {
            panic!("not replay")
        };
        let meant = Replay::meant(&Layers::new(*typed, typed::Replay::defaults()));
        meant.map_err(|failure| match failure {
            Failure::Usage(error) => error.to_string(),
            other => panic!("{other}"),
        })
    }

    #[test]
    fn a_port_that_is_asked_for_wins_over_a_default() {
        let at = |flags: &[&str], port| replay(flags).unwrap().run.worker.tunnels.at_port(port);
        assert_eq!(at(&[], 4789), Some(Tunnel::Vxlan));
        assert_eq!(at(&[], 4790), Some(Tunnel::Gpe));
        assert_eq!(at(&[], 6081), Some(Tunnel::Geneve));
        assert_eq!(at(&["--gpe-port", "4789"], 4789), Some(Tunnel::Gpe));
        assert_eq!(at(&["--port", "6081"], 6081), Some(Tunnel::Vxlan));
        assert_eq!(at(&["--port", "8472"], 4789), None);
        assert_eq!(at(&["--gpe-port", "0"], 4790), None);
        // The default, typed, is asked for as well.
        assert_eq!(at(&["--port", "4789"], 4789), Some(Tunnel::Vxlan));
        assert!(replay(&["--port", "4789", "--gpe-port", "4789"]).is_err());
        assert!(replay(&["--port", "9", "--gpe-port", "9"]).is_err());
    }

    #[test]
    fn nothing_said_is_the_default() {
        let meant = replay(&[]).unwrap();
        let worker = format!("{:?}", meant.run.worker);
        assert_eq!(worker, format!("{:?}", WorkerSettings::default()));
        assert_eq!(meant.run.sharing.max_reorder, Duration::from_millis(100));
        assert_eq!(meant.files, [PathBuf::from("in.pcap")]);
    }

    #[test]
    fn flags_that_contradict_each_other() {
        assert!(replay(&["--mtu", "100", "--mtu-overhead", "100"]).is_err());
        assert!(replay(&["-w", "x", "--flows", "x"]).is_err());
        assert!(replay(&["-w", "-", "--summary", "-"]).is_err());
        assert!(replay(&["--summary", "-", "--flows", "x"]).is_ok());
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let flags = "--mtu 0 --port 0 --depth 99 --max-reorder 5x --flows a --summary a --gpe-port 9 \
                     --geneve-port 9 --workers 257 --format zip";
        let words: Vec<&str> = flags.split_whitespace().collect();
        let said = replay(&words).unwrap_err();
        let lines: Vec<&str> = said.lines().collect();
        for part in [
            "invalid value '0' for --mtu: a number from 68 to 65535 is needed",
            "invalid value '0' for --port: a port from 1 to 65535 is needed",
            "invalid value '99' for --depth: a number from 1 to 16 is needed",
            "invalid value '5x' for --max-reorder: unknown unit 'x'",
            "invalid value '257' for --workers: a number from 1 to 256",
            "invalid value 'zip' for --format: one of pcapng, pcap is needed",
            "port 9 is given to both --gpe-port and --geneve-port",
        ] {
            let found = lines.iter().filter(|line| line.contains(part));
            assert_eq!(found.count(), 1, "{part}: {said}");
        }
    }
}
