//! Where results go, as it was meant: captures, flow records, viewers, the summary; and opening all of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::flows::{FlowsTo, PACKED};
use super::layers::{Layers, Origin};
pub use super::mistakes::Mistakes;
use super::places::{check_no_terminal, check_places};
use super::storing;
use super::typed;
use crate::capture::output::Output;
use crate::capture::store::captures::Store;
use crate::capture::store::flows::FlowStore;
use crate::capture::store::hooks::Hooks;
use crate::capture::store::rolling::{Plan, configuration};
use crate::capture::view::tee::Tees;
use crate::capture::view::{Views, WhenSlow};
use crate::capture::writer::CaptureWriter;
use crate::cli::values;
use crate::export::collector::Collector;
use crate::export::collector::target::Target;
use crate::export::flow_file::FlowFile;
use crate::failure::Failure;
use crate::host::groups;
use crate::outfile::packed::{Codec, Compression, LEVEL, Pool};
use crate::outfile::{Creation, Existing, OutFile, same_output};
use crate::pcap::record::{Format, SNAPLEN};
use crate::pcap::section::About;
use crate::pcap::slice::Slice;
use crate::pipeline::sink::OnReaderGone;
use crate::pipeline::sinks::Sinks;
use crate::pipeline::worker::WorkerSettings;
use crate::report::summary::Telling;
use crate::say::say;
use crate::stop::{Stop, wall_clock_ns};

/// Where results go.
#[derive(Debug)]
pub struct Outputs {
    pub(super) write: Option<PathBuf>,
    /// Where `write` names a directory.
    pub(super) store: Option<Plan>,
    pub(super) format: Format,
    pub(super) compression: Option<Compression>,
    /// How much of each frame is stored, where that is not all.
    pub(super) slice: Option<Slice>,
    pub(super) flows: Vec<FlowsTo>,
    /// Where flow records go over the network.
    pub(super) collectors: Vec<Target>,
    /// Flow records have the names in the first packets.
    pub(super) app: bool,
    /// Where viewers connect to.
    pub(super) tees: Vec<SocketAddr>,
    pub(super) when_slow: WhenSlow,
    pub(super) on_reader_gone: OnReaderGone,
    pub(super) summary: Option<PathBuf>,
    /// Of captures and flow files; a summary is the last state, and replaced.
    pub(super) creation: Creation,
    /// The exit code tells whether anything was lost.
    pub(super) fail_on_loss: bool,
    /// Names the settings of the run: the same settings, the same name.
    pub configuration: String,
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
    pub(super) const fn has_flows(&self) -> bool {
        !self.flows.is_empty() || !self.collectors.is_empty()
    }

    /// The interval that flow records end with, in nanoseconds: that of the files of a store for them; 0 for none.
    pub(super) fn flow_interval_ns(&self) -> u64 {
        let mut flows = self.flows.iter();
        let has_store = flows.any(|flows| storing::is_store(&flows.path));
        let plan = self.store.as_ref().filter(|_| has_store);
        let interval = plan.and_then(Plan::flow_interval).unwrap_or_default();
        u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Whether frames are written or shown.
    pub(super) fn has_capture(&self) -> bool {
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

/// The group that files are given to. It is looked up, which is for the start of a run: a sandbox leaves nothing to look
/// it up in.
pub fn group(typed: &Layers<&typed::Output>, mistakes: &mut Mistakes) -> Option<u32> {
    mistakes.one(typed, "--group", |t| &t.group, groups::to_give)
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

/// The name of this machine.
fn host_name() -> String {
    let name = nix::unistd::gethostname().ok();
    let name = name.and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
