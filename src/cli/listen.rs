//! `vxtap listen`: mirrored traffic as it arrives.

use super::args::ListenArgs;
use super::settings::layers::Layers;
use super::settings::typed;
use crate::failure::Failure;

/// Runs the command with its flags, over the environment, a file and what holds by default.
///
/// # Errors
///
/// When settings do not fit, and when the run fails.
#[cfg(target_os = "linux")]
pub fn run(args: ListenArgs) -> Result<(), Failure> {
    use super::logging;
    use super::settings::given::Given;
    use super::settings::listening::Listen;

    let ListenArgs { config, settings } = args;
    let flags = settings.clone();
    let mut given = Given::gather(settings, config.as_deref(), std::env::vars_os());
    let listen = Listen::of(&mut given);
    let listen = given.mistakes.end(listen)?;
    logging::set_json(listen.log_json);
    logging::set(&listen.log).map_err(Failure::usage)?;
    for warning in &given.warnings {
        tracing::warn!("{warning}");
    }
    let given = linux::Sources {
        flags,
        config,
        file: given.file,
        layers: given.layers,
    };
    linux::run(listen, Some(given))
}

/// Runs the command with what was typed, over what holds by default.
///
/// # Errors
///
/// When settings do not fit, and when the run fails.
#[cfg(target_os = "linux")]
pub fn command(typed: Layers<typed::Listen>) -> Result<(), Failure> {
    let listen = super::settings::listening::Listen::meant(&typed)?;
    linux::run(listen, None)
}

/// Says that this system cannot.
///
/// # Errors
///
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn run(args: ListenArgs) -> Result<(), Failure> {
    command(Layers::new(args.settings, typed::Listen::defaults()))
}

/// Says that this system cannot.
///
/// # Errors
///
/// Always.
#[cfg(not(target_os = "linux"))]
pub fn command(_: Layers<typed::Listen>) -> Result<(), Failure> {
    Err(Failure::running(
        "listen needs Linux (recvmmsg, kernel timestamps); replay and send --write work here",
    ))
}

#[cfg(target_os = "linux")]
pub use linux::plan;

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
    use std::time::Duration;

    use super::{Failure, Layers, typed};
    use crate::cli::hints::{Attentive, Heard, Waiting, cannot_bind, no_interface};
    use crate::cli::reloading::{self, Reloader};
    use crate::cli::settings::listening::{Listen, Receive};
    use crate::cli::settings::meant::Settings;
    use crate::cli::settings::sandbox::{directory_of, needs};
    use crate::control::Control;
    use crate::control::inquire::Teller;
    use crate::control::look::{self, Looker};
    use crate::control::socket;
    use crate::control::station::Station;
    use crate::host::counters::Counters;
    use crate::host::interfaces;
    use crate::mirror::words::counted;
    use crate::pipeline::change::Known;
    use crate::pipeline::ledger::{Ledger, Noted};
    use crate::pipeline::run::Pipeline;
    use crate::report::moment::AboutRun;
    use crate::report::page::bytes;
    use crate::report::summary::conclude;
    use crate::sandbox::{Mode, Sandbox};
    use crate::say::{self, say};
    use crate::source::Source;
    use crate::source::live::tap::PacketError;
    use crate::source::live::{Backend, Live, LiveError, LiveSource, Plan};
    use crate::stop::wall_clock_ns;
    use crate::sys;
    use crate::wire::decapsulate::Tunnel;

    /// Shortest slot for a datagram, in bytes: what an Ethernet MTU lets through, and a little more.
    const SHORTEST_SLOT: usize = 2048;
    /// How long a thread that runs already may take to enter the sandbox.
    const TO_ENTER: Duration = Duration::from_secs(1);

    /// Where the settings of a run came from, to be read anew.
    pub struct Sources {
        /// What was typed.
        pub flags: typed::Listen,
        /// The file that was typed.
        pub config: Option<PathBuf>,
        /// The file that was read.
        pub file: Option<PathBuf>,
        /// All of it.
        pub layers: Layers<typed::Listen>,
    }

    impl Sources {
        /// Where the files are that are read anew. A file is mostly replaced by another of its name, so it takes the
        /// directory to read it.
        fn directories(&self) -> Vec<PathBuf> {
            let sessions = self.layers.group(|typed| &typed.sessions);
            let store = self.layers.group(|typed| &typed.store);
            let labels = sessions.find(|typed| typed.labels.as_ref());
            let expect = sessions.find(|typed| typed.expect.as_ref());
            let key = store.find(|typed| typed.sign_key.as_ref());
            let filters = self.layers.group(|typed| &typed.filters);
            let allowed = filters.find(|typed| typed.allow_file.as_ref());
            let said = [labels, expect, key].into_iter().flatten();
            let said = said.map(|(_, path)| path).chain(&self.file);
            let said = said.chain(allowed.into_iter().flat_map(|(_, paths)| paths));
            said.map(|path| directory_of(path)).collect()
        }
    }

    /// Runs the command. Settings that came from `given` are read anew when a hangup asks for that.
    ///
    /// # Errors
    ///
    /// When an address cannot be bound or an output fails; what arrived before is kept.
    pub fn run(listen: Listen, given: Option<Sources>) -> Result<(), Failure> {
        let Listen {
            run: mut settings,
            mut receive,
            watching,
            ..
        } = listen;
        let control = Control::start()?;
        let has_file = given.as_ref().is_some_and(|given| given.file.is_some());
        let reload = has_file.then_some("reading settings anew");
        let limits = receive.budget.is_some().then_some("the limits");
        let others = std::iter::once("hints").chain(reload).chain(limits);
        settings.threads(others.collect()).check()?;
        if receive.leave_out_ipv6() {
            tracing::info!("this machine has no IPv6: listening on IPv4 addresses only");
        }
        let mut live =
            Live::open(&plan(&receive, &settings)).map_err(|error| explain(error, &receive))?;
        // The socket's file is removed when the run has ended.
        let (mut station, socket) = Station::open(&watching)?;
        // What came while the sockets were opened is no part of the run.
        let mut counters_before = Counters::read();
        settings
            .worker
            .tunnels
            .vxlan_ports
            .extend(chosen_ports(&receive, &live));
        let addresses = &live.addresses;
        let addresses = addresses
            .iter()
            .map(SocketAddr::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        let about = format!("mirrored traffic received on {addresses}");
        let reads = given.as_ref().map(Sources::directories).unwrap_or_default();
        let sandbox = confine(&mut settings, &receive, socket.as_ref(), &control, reads)?;
        let sinks = settings
            .outputs
            .open(vec![about], &settings.worker, control.stop())?;
        station.open_doors()?;
        let mut pipeline = Pipeline::start(settings.worker.clone(), sinks, settings.sharing)?;
        pipeline.keep_within(receive.budget)?;
        if let Some(duration) = receive.duration {
            control.end_after(duration);
        }
        let reason = live
            .sources
            .first()
            .map_or("socket_overflow", LiveSource::drop_reason);
        if matches!(live.sources.first(), Some(LiveSource::Packet(_))) {
            counters_before.leave_out_filtered();
        }
        control.tell_on_request(Teller::new(
            &pipeline,
            &settings.worker,
            Some(&counters_before),
            reason,
        ));

        if let Some(given) = given {
            let hooks = pipeline.hooks().cloned();
            let Sources {
                flags,
                config,
                layers,
                ..
            } = given;
            let reloader = Reloader::new(flags, config, layers, pipeline.changes(), hooks);
            let reloader = Arc::new(reloader);
            station.verbs.add("reload", reloading::answer(&reloader));
            if has_file {
                control.reload_on_request(Arc::new(move || reloader.reload().in_words()));
            }
        }
        control.serve(
            station,
            Looker::new(look::Parts {
                about: about_run(&live, &settings, reason, pipeline.known()),
                observer: pipeline.observer(),
                counters_before: counters_before.clone(),
                directories: settings.outputs.directories(),
                stop: Arc::clone(control.stop()),
            }),
        );
        if settings.outputs.has_store() {
            control.rotate_on_request(pipeline.rotation());
        }
        say_begin(&live, &addresses, &receive, &settings);
        if let Some(sandbox) = sandbox {
            tracing::info!("sandbox: {}", sandbox.in_words());
            for missing in sandbox.missing() {
                tracing::warn!("the sandbox is not complete: {missing}");
            }
        }
        let pin = pins(&receive, live.sources.len());
        let waiting = Waiting {
            addresses: live.addresses.clone(),
            ring: live.ring.clone(),
            counters_before: counters_before.clone(),
            heard: Arc::new(Heard::default()),
        };
        waiting.tell_of_silence();
        let sources = live.sources.iter_mut();
        let mut sources: Vec<_> = sources
            .map(|source| Attentive::new(source, &waiting.heard))
            .collect();
        let received = pipeline.feed(&mut sources, control.stop(), receive.count, pin);
        waiting.end();
        let lost = live.sources.iter_mut().map(LiveSource::lost_so_far).sum();
        let refused = live
            .sources
            .iter_mut()
            .map(LiveSource::refused_so_far)
            .sum();
        live.end();
        settings.worker.inventory = pipeline.known().now();
        let mut outcome = pipeline.finish(lost);
        outcome.kernel_refused = refused;
        outcome.kernel_counters = Some(Counters::read().since(&counters_before));
        let errors: Vec<String> = received.err().iter().map(ToString::to_string).collect();
        let mut kernel_dropped = BTreeMap::from([(reason, lost)]);
        kernel_dropped.retain(|_, count| *count > 0);
        // Where a source failed it is known why.
        let silence = errors
            .is_empty()
            .then(|| waiting.nothing_arrived("Nothing arrived"));
        let remark = silence
            .flatten()
            .or_else(|| missing_fragments(&outcome.ledger));
        conclude(
            &outcome,
            kernel_dropped,
            &settings.worker,
            settings.outputs.telling(),
            errors,
            remark,
        )
    }

    /// Gives up what this process does not need any more, for all its threads but those that run programs for finished
    /// files.
    fn confine(
        settings: &mut Settings,
        receive: &Receive,
        socket: Option<&socket::Name>,
        control: &Control,
        reads: Vec<PathBuf>,
    ) -> Result<Option<Sandbox>, Failure> {
        let mode = receive.sandbox;
        if mode == Mode::Off {
            return Ok(None);
        }
        settings.outputs.start_hooks()?;
        let mut needs = needs(&settings.outputs)?;
        let directory = socket.and_then(|socket| socket.path().parent());
        needs.delete.extend(directory.map(Path::to_owned));
        needs.read.extend(reads);
        let Some(sandbox) = Sandbox::prepare(mode, &needs)? else {
            return Ok(None);
        };
        // Those that run already enter by themselves.
        let (done, entered) = channel();
        let enter = |done: Sender<Result<(), String>>| {
            let sandbox = sandbox.clone();
            move || _ = done.send(sandbox.enter())
        };
        control.have_done(enter(done.clone()));
        say::have_done(enter(done));
        let mut all = vec![sandbox.enter()];
        loop {
            match entered.recv_timeout(TO_ENTER) {
                Ok(entered) => all.push(entered),
                Err(RecvTimeoutError::Disconnected) => break,
                // Standard error may take nothing; who writes to it opens nothing either.
                Err(RecvTimeoutError::Timeout) => {
                    all.push(Err("a thread did not enter it in time".to_owned()));
                    break;
                }
            }
        }
        for entered in all {
            entered.or_else(|error| sandbox.fell_short(mode, error))?;
        }
        Ok(Some(sandbox))
    }

    /// What those who ask are told of the run.
    fn about_run(live: &Live, settings: &Settings, reason: &'static str, known: Known) -> AboutRun {
        let worker = &settings.worker;
        AboutRun {
            pid: std::process::id(),
            began_ns: wall_clock_ns(),
            addresses: live.addresses.iter().map(SocketAddr::to_string).collect(),
            backend: live.about.clone(),
            kernel_reason: reason,
            max_flows: worker.flows.then_some(worker.max_flows),
            route: worker.route(),
            known,
        }
    }

    /// Ports that the system chose: they are VXLAN.
    fn chosen_ports(receive: &Receive, live: &Live) -> Vec<u16> {
        let bound = receive.addresses.iter().zip(&live.addresses);
        let chosen = bound.filter(|(asked, _)| asked.port() == 0);
        chosen.map(|(_, bound)| bound.port()).collect()
    }

    /// Says what is received where and how, and the memory it takes.
    fn say_begin(live: &Live, addresses: &str, receive: &Receive, settings: &Settings) {
        let (granted, wanted) = live
            .sources
            .iter()
            .map(LiveSource::buffer_bytes)
            .min()
            .unwrap_or_default();
        let held = live.sources.iter().map(LiveSource::memory_bytes).sum();
        let chosen = match receive.backend {
            Backend::Auto => ", chosen by --backend auto",
            Backend::Udp | Backend::Packet => "",
        };
        let firewall = match live.ring {
            Some(_) => {
                "it takes packets before the host's firewall, whose rules have no effect on them"
            }
            None => "the host's firewall decides what comes in",
        };
        let in_kernel: usize = live.sources.iter().map(LiveSource::kernel_bytes).sum();
        say(format!(
            "vxtap {}: listening on {addresses}; {}{chosen}: {firewall}; at most {} of memory \
             and {} of receive buffers in the kernel. Ctrl-C ends.\n",
            env!("CARGO_PKG_VERSION"),
            live.about,
            bytes(settings.memory_bytes(held)),
            bytes(in_kernel as u64),
        ));
        if granted < wanted && matches!(live.sources.first(), Some(LiveSource::Udp(_))) {
            tracing::warn!(
                "the kernel grants a receive buffer of {granted} bytes only; bursts may be lost. \
                 As root: sysctl -w net.core.rmem_max={wanted}"
            );
        }
    }

    /// What is asked for, as the source room understands it.
    pub fn plan(receive: &Receive, settings: &Settings) -> Plan {
        let ports = receive.addresses.iter().map(SocketAddr::port);
        let tunnels = &settings.worker.tunnels;
        // The program reads one tunnel header: what lies deeper, one worker has to find.
        let is_unsteered =
            |port: &u16| tunnels.depth > 1 || tunnels.at_port(*port) == Some(Tunnel::Geneve);
        Plan {
            addresses: receive.addresses.clone(),
            backend: receive.backend,
            interface: receive.interface.clone(),
            steering: settings.sharing.steering,
            unsteered: ports.filter(is_unsteered).collect(),
            allowed: Arc::clone(&settings.worker.allowed),
            gro: receive.gro,
            datagram_len: (settings.worker.mtu as usize).max(SHORTEST_SLOT),
        }
    }

    /// What keeps each worker on its core: those named by --cpus, or with several workers those this
    /// process may use.
    fn pins(receive: &Receive, workers: usize) -> impl Fn(usize) + Sync + use<> {
        let cores = match receive.cores.as_slice() {
            [] if workers > 1 => sys::allowed_cores(),
            cores => cores.to_vec(),
        };
        move |worker| {
            let Some(core) = worker.checked_rem(cores.len()).and_then(|at| cores.get(at)) else {
                return;
            };
            if let Err(error) = sys::pin_to_core(*core) {
                tracing::warn!(worker, core, %error, "cannot pin a worker to its core");
            }
        }
    }

    /// Adds to a fault what to do about it.
    fn explain(error: LiveError, receive: &Receive) -> Failure {
        let error = match error {
            LiveError::Udp(error) => return Failure::running(cannot_bind(&error)),
            LiveError::Interface(_) => {
                let hint =
                    no_interface(&receive.addresses, &interfaces::list().unwrap_or_default());
                return Failure::usage(format!("{error}. {hint}"));
            }
            LiveError::Packet(error @ PacketError::NoInterface { .. }) => {
                return Failure::usage(error.to_string());
            }
            LiveError::Unsteered { .. } => return Failure::usage(error.to_string()),
            LiveError::Program(error) => return Failure::running(error.to_string()),
            LiveError::Packet(error) => error,
        };
        let hint = if error.is_permission() {
            ": run as root, or 'setcap cap_net_raw,cap_net_admin,cap_bpf+ep' the program; --backend udp needs no privilege"
        } else {
            ": --backend udp works without"
        };
        Failure::running(format!("{error}{hint}"))
    }

    /// What to do where only first fragments come: whoever drops the others does not see that they belong to
    /// the tunnel.
    fn missing_fragments(ledger: &Ledger) -> Option<String> {
        let packets = *ledger.noted().get(Noted::FragmentsMissing.reason())?;
        Some(format!(
            "Later fragments of {} never came. A firewall or a security group on the way may drop them, since \
             they show no ports: let fragments pass ('nft list ruleset' on this machine, 'frag-off'), or raise \
             the MTU of the path so that nothing is fragmented.",
            counted(packets, "outer packet")
        ))
    }
}
