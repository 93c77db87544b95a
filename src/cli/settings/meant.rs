//! What the settings mean, checked together before a file or socket is opened for writing. All mistakes are
//! told at once.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::flows::{FlowsTo, PACKED};
use super::layers::{Layers, Origin};
use super::lifetimes;
pub use super::mistakes::Mistakes;
use super::sessions;
use super::storing;
use super::typed;
use crate::bpf::steer::Steering;
use crate::capture::output::Output;
use crate::capture::store::captures::Store;
use crate::capture::store::flows::FlowStore;
use crate::capture::store::hooks::{self, Hooks};
use crate::capture::store::rolling::{Plan, configuration};
use crate::capture::view::tee::Tees;
use crate::capture::view::{self, Views, WhenSlow};
use crate::capture::writer::CaptureWriter;
use crate::cli::values;
use crate::export::collector::target::Target;
use crate::export::collector::{self, Collector};
use crate::export::flow_file::FlowFile;
use crate::failure::Failure;
use crate::filter::Filter;
use crate::flow::lifetime::Lifetimes;
use crate::host::groups;
use crate::mirror::allowed::{Allowed, VniList};
use crate::mirror::duplicates::{Dedup, MAX_WINDOW_NS};
use crate::mirror::inventory::Inventory;
use crate::mirror::networks::{self, Network};
use crate::outfile::packed::{Codec, Compression, LEVEL, Pool};
use crate::outfile::{Creation, Existing, OutFile, is_input, same_output};
use crate::pcap::record::{Format, SNAPLEN};
use crate::pcap::section::About;
use crate::pcap::slice::Slice;
use crate::pipeline::memory;
use crate::pipeline::run::{Sharing, Sinks, WhenFull};
use crate::pipeline::sink::OnReaderGone;
use crate::pipeline::worker::WorkerSettings;
use crate::report::summary::Telling;
use crate::say::say;
use crate::stop::{Stop, wall_clock_ns};
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

/// Where results go.
#[derive(Debug)]
pub struct Outputs {
    write: Option<PathBuf>,
    /// Where `write` names a directory.
    store: Option<Plan>,
    format: Format,
    compression: Option<Compression>,
    /// How much of each frame is stored, where that is not all.
    slice: Option<Slice>,
    flows: Vec<FlowsTo>,
    /// Where flow records go over the network.
    collectors: Vec<Target>,
    /// Flow records have the names in the first packets.
    app: bool,
    /// Where viewers connect to.
    tees: Vec<SocketAddr>,
    when_slow: WhenSlow,
    on_reader_gone: OnReaderGone,
    summary: Option<PathBuf>,
    /// Of captures and flow files; a summary is the last state, and replaced.
    creation: Creation,
    /// The exit code tells whether anything was lost.
    fail_on_loss: bool,
    /// Names the settings of the run: the same settings, the same name.
    pub configuration: String,
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

/// The group that files are given to. It is looked up, which is for the start of a run: a sandbox leaves nothing to look
/// it up in.
pub fn group(typed: &Layers<&typed::Output>, mistakes: &mut Mistakes) -> Option<u32> {
    mistakes.one(typed, "--group", |t| &t.group, groups::to_give)
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

impl Outputs {
    /// Reads where results go, and refuses what would overwrite one of `inputs` or another result.
    pub fn read(
        typed: &Layers<&typed::Output>,
        store: &Layers<&typed::Store>,
        inputs: &[PathBuf],
        existing: Existing,
        mistakes: &mut Mistakes,
    ) -> Option<Self> {
        let words = [("pcapng", Format::PcapNg), ("pcap", Format::Pcap)];
        let format = |text: &str| values::one_of(text, &words);
        let format = mistakes.one(typed, "--format", |t| &t.format, format);
        let mode = mistakes.one(typed, "--mode", |t| &t.mode, values::file_mode);
        let creation = Creation::asked(mode, None, existing);
        let write = typed.find(|t| t.write.as_ref());
        let flows = typed.find(|t| t.flows.as_ref());
        let summary = typed.find(|t| t.summary.as_ref());
        let no_app = typed.find(|t| t.no_app.as_ref());
        let fail_on_loss = typed.find(|t| t.fail_on_loss.as_ref());
        let write = write.map(|(_, path)| path.clone());
        let tees = read_tees(typed, format, mistakes);
        let words = [("end", OnReaderGone::End), ("detach", OnReaderGone::Detach)];
        let gone = |text: &str| values::one_of(text, &words);
        let gone = mistakes.one(typed, "--on-reader-gone", |t| &t.on_reader_gone, gone);
        let format_meant = format.unwrap_or(Format::PcapNg);
        let flows = flows.into_iter().flat_map(|(_, typed)| typed);
        let (flows, collectors) = read_flows(flows, mistakes);
        let mut places = write.iter().chain(flows.iter().map(|flows| &flows.path));
        let is_asked = places.any(|path| storing::is_store(path));
        let compression = compression(typed, write.as_deref(), mistakes);
        let slice = slice(typed, mistakes);
        let store = storing::plan(
            store,
            is_asked,
            format_meant,
            creation,
            compression,
            mistakes,
        );
        let outputs = Self {
            write,
            store,
            format: format_meant,
            compression,
            slice,
            flows,
            collectors,
            app: !no_app.is_some_and(|(_, no_app)| *no_app),
            tees,
            when_slow: WhenSlow::Wait,
            on_reader_gone: gone.unwrap_or_default(),
            summary: summary.map(|(_, path)| path.clone()),
            creation,
            fail_on_loss: fail_on_loss.is_some_and(|(_, fails)| *fails),
            configuration: String::new(),
        };
        outputs.check(inputs, mistakes);
        format.map(|_| outputs)
    }

    /// Files are given to this group.
    pub fn give_to(&mut self, group: Option<u32>) {
        let given = |to: &Creation| Creation::asked(to.mode, group, to.existing);
        self.creation = given(&self.creation);
        if let Some(plan) = &mut self.store {
            plan.keeping.creation = given(&plan.keeping.creation);
        }
    }

    /// How captures and flow files are made.
    pub(super) const fn creation(&self) -> Creation {
        self.creation
    }

    /// How the capture is compressed, if it is.
    pub fn compression(&self) -> Option<Compression> {
        match &self.store {
            Some(plan) => plan.compression,
            None => self.compression,
        }
    }

    /// Whether files follow each other.
    pub const fn has_store(&self) -> bool {
        self.store.is_some()
    }

    /// The directories that are stores, each once, and what files of them are kept.
    pub fn stores(&self) -> (Vec<&Path>, Option<&Plan>) {
        let mut dirs: Vec<&Path> = Vec::new();
        let places = self.places().filter(|path| storing::is_store(path));
        for dir in places {
            if !dirs.iter().any(|known| same_output(known, dir)) {
                dirs.push(dir);
            }
        }
        (dirs, self.store.as_ref())
    }

    /// Files that grow for as long as the run goes on.
    pub fn growing(&self) -> impl Iterator<Item = &Path> {
        let is_file = |path: &&Path| !storing::is_store(path) && *path != Path::new("-");
        self.places().filter(is_file)
    }

    fn places(&self) -> impl Iterator<Item = &Path> {
        let flows = self.flows.iter().map(|flows| flows.path.as_path());
        self.write.as_deref().into_iter().chain(flows)
    }

    /// Where flow records go over the network.
    pub fn collectors(&self) -> &[Target] {
        &self.collectors
    }

    /// Where viewers connect to.
    pub fn tees(&self) -> &[SocketAddr] {
        &self.tees
    }

    /// Whether nothing but a summary is asked for.
    pub fn is_empty(&self) -> bool {
        !self.has_capture() && !self.has_flows()
    }

    /// Whether flow records go anywhere.
    const fn has_flows(&self) -> bool {
        !self.flows.is_empty() || !self.collectors.is_empty()
    }

    /// The interval that flow records end with, in nanoseconds: that of the files of a store for them; 0 for none.
    fn flow_interval_ns(&self) -> u64 {
        let mut flows = self.flows.iter();
        let has_store = flows.any(|flows| storing::is_store(&flows.path));
        let plan = self.store.as_ref().filter(|_| has_store);
        let interval = plan.and_then(Plan::flow_interval).unwrap_or_default();
        u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Whether frames are written or shown.
    fn has_capture(&self) -> bool {
        self.write.is_some() || !self.tees.is_empty()
    }

    pub(super) fn named(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let write = self.write.iter().map(|path| ("-w", path.as_path()));
        let flows = self.flows.iter();
        let flows = flows.map(|flows| ("--flows", flows.path.as_path()));
        let summary = self
            .summary
            .iter()
            .map(|path| ("--summary", path.as_path()));
        write.chain(flows).chain(summary)
    }

    /// The directories that results go to, each once.
    pub fn directories(&self) -> Vec<PathBuf> {
        let write = self.write.iter();
        let paths = write.chain(self.flows.iter().map(|flows| &flows.path));
        let mut directories: Vec<PathBuf> = Vec::new();
        for path in paths.filter(|path| path.as_path() != Path::new("-")) {
            let parent = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            let directory = match storing::is_store(path) {
                true => path,
                false => parent.unwrap_or(Path::new(".")),
            };
            if !directories.iter().any(|known| known == directory) {
                directories.push(directory.to_owned());
            }
        }
        directories
    }

    fn check(&self, inputs: &[PathBuf], mistakes: &mut Mistakes) {
        if let Some(path) = &self.write {
            check_no_terminal("-w", path, mistakes);
        }
        let binary = self.flows.iter();
        for flows in binary.filter(|flows| flows.format.is_binary()) {
            check_no_terminal("--flows", &flows.path, mistakes);
        }
        check_places(&self.named().collect::<Vec<_>>(), inputs, mistakes);
    }

    /// Whether viewers may connect.
    pub(super) const fn has_tees(&self) -> bool {
        !self.tees.is_empty()
    }

    /// Starts the threads that run the program of `--on-rotate`, where there is one and they do not run yet.
    ///
    /// # Errors
    ///
    /// When the system has no thread.
    pub fn start_hooks(&mut self) -> Result<(), Failure> {
        match &mut self.store {
            Some(plan) => start_hooks(plan),
            None => Ok(()),
        }
    }

    /// Opens what is asked for. `comments` are the capture's. A FIFO waits for its reader, until `stop` is set.
    ///
    /// # Errors
    ///
    /// When an output cannot be written; nothing is left behind in that case.
    pub fn open(
        &self,
        comments: Vec<String>,
        worker: &WorkerSettings,
        stop: &Stop,
    ) -> Result<Sinks, Failure> {
        let mut sinks = Sinks {
            on_reader_gone: self.on_reader_gone,
            ..Sinks::default()
        };
        let capture = self.write.as_ref();
        let capture = capture.and_then(|path| match self.compression {
            Some(how) if !storing::is_store(path) => misleading_packed_name(path, how.codec),
            _ => misleading_capture_name(path, self.format, true),
        });
        for told in capture
            .into_iter()
            .chain(self.flows.iter().filter_map(FlowsTo::misleading_name))
        {
            tracing::info!("{told}");
        }
        if let Some((path, creation)) = self.summary() {
            // Opened at the end; whether it can be is better known now.
            OutFile::probe(path, creation)?;
        }
        let store = self.begin_stores()?;
        let hooks = store.as_ref().and_then(|plan| plan.custody.hooks.clone());
        sinks.hooks = hooks;
        let tees = match self.tees.is_empty() {
            true => None,
            false => Some(self.open_tees()?),
        };
        for FlowsTo { format, path } in &self.flows {
            sinks.flows.push(match &store {
                Some(plan) if storing::is_store(path) => {
                    FlowStore::open(path, *format, plan, wall_clock_ns())?.into()
                }
                _ => FlowFile::create(*format, path, self.creation, stop)?.into(),
            });
        }
        for target in &self.collectors {
            let waits = self.when_slow == WhenSlow::Wait;
            sinks.flows.push(Collector::open(target, waits)?.into());
        }
        let about = About {
            comments,
            mtu: worker.mtu,
            inventory: Arc::clone(&worker.inventory),
        };
        if let Some(path) = &self.write {
            let file = self.open_capture(path, about.clone(), stop, store)?;
            sinks.capture = Some(file);
        }
        if let Some(tees) = tees {
            if self.when_slow == WhenSlow::Wait {
                tees.wait_for_viewers(stop)?;
            }
            let views = Views::new(tees, about, self.when_slow);
            sinks.capture = Some(Output::viewed(sinks.capture, views));
        }
        Ok(sinks)
    }

    fn open_tees(&self) -> Result<Tees, Failure> {
        let tees = Tees::open(&self.tees, self.when_slow)?;
        for (name, address) in tees.names().zip(&self.tees) {
            let at = name.trim_start_matches("tcp://");
            let at = match address.ip().is_unspecified() {
                true => format!("ADDRESS:{}", at.rsplit(':').next().unwrap_or_default()),
                false => at.to_owned(),
            };
            say(format!(
                "vxtap: live view on {name}: wireshark -k -i TCP@{at}\n"
            ));
            if !address.ip().is_loopback() {
                tracing::warn!(
                    "{name} has no authentication and no encryption: whoever reaches it sees every mirrored packet"
                );
            }
        }
        Ok(tees)
    }

    /// The plan of the stores of this run; the threads that run the hook are started.
    fn begin_stores(&self) -> Result<Option<Plan>, Failure> {
        let Some(mut plan) = self.store.clone() else {
            return Ok(None);
        };
        let custody = &mut plan.custody;
        if let Some(signer) = &custody.sign {
            tracing::info!(
                "the manifest is signed; the public key is {}",
                signer.public()
            );
        }
        start_hooks(&mut plan)?;
        Ok(Some(plan))
    }

    fn open_capture(
        &self,
        path: &Path,
        about: About,
        stop: &Stop,
        store: Option<Plan>,
    ) -> Result<Output, Failure> {
        let Some(plan) = store.filter(|_| storing::is_store(path)) else {
            let (creation, format) = (self.creation, self.format);
            let pool = self.compression.map(Pool::start).transpose()?;
            let packing = pool.map(|pool| pool.packing());
            let file = CaptureWriter::create(path, creation, packing, format, &about, stop)?;
            return Ok(file.into());
        };
        let mut about = about;
        if let Some(first) = about.comments.first_mut() {
            let (version, host) = (env!("CARGO_PKG_VERSION"), host_name());
            let configuration = configuration(&self.configuration);
            *first = format!("vxtap {version}; host {host}; {configuration}; {first}");
        }
        let plan = Plan { about, ..plan };
        Ok(Store::open(path, plan, self.format, wall_clock_ns())?.into())
    }

    /// How the end of the run is told.
    pub fn telling(&self) -> Telling<'_> {
        Telling {
            summary_file: self.summary(),
            fail_on_loss: self.fail_on_loss,
        }
    }

    /// Where the JSON summary goes, and how that file is made.
    fn summary(&self) -> Option<(&Path, Creation)> {
        let existing = Existing::Replace;
        let creation = Creation {
            existing,
            ..self.creation
        };
        Some((self.summary.as_deref()?, creation))
    }
}

/// Starts the threads that run the hook of a store, where they do not run yet.
fn start_hooks(plan: &mut Plan) -> Result<(), Failure> {
    let custody = &mut plan.custody;
    if let (Some(program), None) = (&custody.on_rotate, &custody.hooks) {
        // A replay has the time to wait.
        custody.hooks = Some(Hooks::start(program.clone(), plan.by_packet_time)?);
    }
    Ok(())
}

/// Where flow records go: files and directories, and collectors.
fn read_flows<'a>(
    typed: impl Iterator<Item = &'a PathBuf>,
    mistakes: &mut Mistakes,
) -> (Vec<FlowsTo>, Vec<Target>) {
    let (mut files, mut collectors) = (Vec::new(), Vec::<Target>::new());
    for typed in typed {
        match typed.to_str().and_then(Target::read) {
            None => match FlowsTo::read(typed) {
                Ok(file) => files.push(file),
                Err(mistake) => mistakes.note(mistake),
            },
            Some(Ok(target)) if collectors.contains(&target) => {
                mistakes.note(format!("--flows {target} is given twice"));
            }
            Some(Ok(target)) => collectors.push(target),
            Some(Err(mistake)) => {
                mistakes.note(format!("--flows {}: {mistake}", typed.display()));
            }
        }
    }
    (files, collectors)
}

/// Where viewers connect to.
fn read_tees(
    typed: &Layers<&typed::Output>,
    format: Option<Format>,
    mistakes: &mut Mistakes,
) -> Vec<SocketAddr> {
    let (_, tees) = mistakes.many(typed, "--tee", |t| &t.tee, values::tee);
    for (at, tee) in tees.iter().enumerate() {
        if tee.port() != 0 && tees.iter().skip(at + 1).any(|other| other == tee) {
            mistakes.note(format!("--tee tcp://{tee} is given twice"));
        }
    }
    if !tees.is_empty() && format == Some(Format::Pcap) {
        mistakes.note("--tee shows pcapng: leave out --format pcap");
    }
    tees
}

/// How the capture is compressed: as asked for, or as the name of the one file says.
fn compression(
    typed: &Layers<&typed::Output>,
    write: Option<&Path>,
    mistakes: &mut Mistakes,
) -> Option<Compression> {
    let (origin, text) = typed.find(|t| t.compress.as_ref())?;
    let asked = mistakes.read("--compress", text, values::compression)?;
    let threads = |text: &str| values::number(text, 1..=16);
    let threads = mistakes.one(
        typed,
        "--compress-threads",
        |t| &t.compress_threads,
        threads,
    )?;
    let path = write?;
    let extension = path.extension().filter(|_| !storing::is_store(path));
    let mut codecs = [Codec::Gzip, Codec::Zstd].into_iter();
    let named = codecs.find(|codec| extension.is_some_and(|is| is == codec.extension()));
    let (codec, level) = match origin {
        Origin::Default => named.map(|codec| (codec, LEVEL)),
        _ => asked,
    }?;
    Some(Compression {
        codec,
        level,
        threads,
        files: 1,
        live: false,
    })
}

/// How much of each frame is stored; `None` for all.
fn slice(typed: &Layers<&typed::Output>, mistakes: &mut Mistakes) -> Option<Slice> {
    // Less than an Ethernet header says nothing of a frame.
    let snaplen = |text: &str| values::number(text, 14..=SNAPLEN);
    let snaplen = mistakes.one(typed, "--snaplen", |t| &t.snaplen, snaplen)?;
    let words = [("none", false), ("headers", true)];
    let headers = |text: &str| values::one_of(text, &words);
    let headers = mistakes.one(typed, "--slice", |t| &t.slice, headers)?;
    let slice = Slice { snaplen, headers };
    (slice != Slice::ALL).then_some(slice)
}

/// What to say of a compressed capture whose name does not show it.
fn misleading_packed_name(path: &Path, codec: Codec) -> Option<String> {
    let (name, extension) = (codec.name(), codec.extension());
    let is = path.extension()?.to_str()?;
    let path = path.display();
    (is != extension)
        .then(|| format!("{path} is compressed with {name}; .{extension} would say so"))
}

/// What to say of a capture file whose name promises something else. `has_format`: the flag could change it.
pub fn misleading_capture_name(path: &Path, format: Format, has_format: bool) -> Option<String> {
    let (is, other, flag) = match format {
        Format::PcapNg => ("pcapng", "pcap", "; --format pcap writes classic pcap"),
        Format::Pcap => ("pcap", "pcapng", "; --format pcapng writes pcapng"),
    };
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    let path = path.display();
    if PACKED.contains(&extension.as_str()) {
        return Some(format!(
            "{path} is plain {is}: --compress gzip or zstd compresses captures"
        ));
    }
    let flag = if has_format { flag } else { "" };
    (extension == other).then(|| format!("{path} is written as {is}{flag}"))
}

/// Refuses to wait for a capture that somebody would have to type.
pub fn check_no_typed_input(inputs: &[PathBuf], mistakes: &mut Mistakes) {
    if inputs.iter().any(|path| path == Path::new("-")) && std::io::stdin().is_terminal() {
        mistakes.note(
            "standard input is a terminal, which holds no capture: name a file, or send a capture into standard \
             input ('tcpdump … -w - | vxtap …', or '< FILE')",
        );
    }
}

/// The name of this machine.
fn host_name() -> String {
    let name = nix::unistd::gethostname().ok();
    let name = name.and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| "unknown".to_owned())
}

/// Refuses to write binary data to a terminal, by whatever name.
pub fn check_no_terminal(flag: &str, path: &Path, mistakes: &mut Mistakes) {
    if is_terminal(path) {
        mistakes.note(format!(
            "{flag} {} would write binary data to a terminal: name a file, or send standard output to a file \
             or to a program ('| tshark -r -')",
            path.display()
        ));
    }
}

fn is_terminal(path: &Path) -> bool {
    if path == Path::new("-") {
        return std::io::stdout().is_terminal();
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
        // A terminal that is opened must not become that of this process.
        let no_terminal = nix::libc::O_NOCTTY | nix::libc::O_NONBLOCK;
        let is_device = path
            .metadata()
            .is_ok_and(|meta| meta.file_type().is_char_device());
        let mut options = std::fs::OpenOptions::new();
        let options = options.write(true).custom_flags(no_terminal);
        is_device && options.open(path).is_ok_and(|file| file.is_terminal())
    }
    #[cfg(not(unix))]
    false
}

/// Refuses outputs, each with its flag, that would be written into an input or into each other, and names
/// that are empty.
pub fn check_places(outputs: &[(&str, &Path)], inputs: &[PathBuf], mistakes: &mut Mistakes) {
    if inputs.iter().any(|path| path.as_os_str().is_empty()) {
        mistakes.note("the name of an input file is empty");
    }
    for (at, (flag, path)) in outputs.iter().enumerate() {
        let shown = path.display();
        if path.as_os_str().is_empty() {
            mistakes.note(format!("{flag} needs the name of a file, and it is empty"));
            continue;
        }
        if let Some(input) = inputs.iter().find(|input| is_input(path, input)) {
            mistakes.note(format!(
                "{flag} {shown} would overwrite the input {}: choose another name",
                input.display()
            ));
        }
        let mut others = outputs.iter().skip(at + 1);
        // A store of captures and one of flow records may share a directory: their names differ.
        let share = |other_flag: &str, other: &Path| {
            *flag != other_flag && storing::is_store(path) && storing::is_store(other)
        };
        let other = others.find(|(flag, other)| same_output(path, other) && !share(flag, other));
        if let Some((other_flag, other)) = other {
            let as_other = match path == other {
                true => String::new(),
                false => format!(", which is {}", other.display()),
            };
            mistakes.note(format!(
                "{flag} and {other_flag} both write to {shown}{as_other}: choose different names"
            ));
        }
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
    fn names_that_promise_something_else() {
        let told = |name: &str, format| {
            misleading_capture_name(name.as_ref(), format, true).unwrap_or_default()
        };
        for (name, format, words) in [
            (
                "a.pcap",
                Format::PcapNg,
                "a.pcap is written as pcapng; --format pcap",
            ),
            (
                "a.PCAPNG",
                Format::Pcap,
                "a.PCAPNG is written as pcap; --format pcapng",
            ),
            ("a.pcapng.gz", Format::PcapNg, "a.pcapng.gz is plain pcapng"),
            ("a.pcap.zst", Format::Pcap, "a.pcap.zst is plain pcap:"),
        ] {
            assert!(told(name, format).contains(words), "{}", told(name, format));
        }
        for name in [
            "a.pcapng",
            "a",
            "-",
            "/dev/null",
            "a.cap",
            ".pcap",
            "a.1.pcapng",
        ] {
            assert_eq!(told(name, Format::PcapNg), "", "{name}");
        }
        assert_eq!(told("a.pcap", Format::Pcap), "");
        let of_send = misleading_capture_name("a.pcapng".as_ref(), Format::Pcap, false);
        assert_eq!(of_send.as_deref(), Some("a.pcapng is written as pcap"));
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
