//! `vxtap listen`: mirrored traffic from UDP sockets.

use super::Failure;
use super::args::ListenArgs;

#[cfg(not(target_os = "linux"))]
/// Says that this system cannot.
///
/// # Errors
///
/// Always.
pub fn run(_args: &ListenArgs) -> Result<(), Failure> {
    Err(Failure::running(
        "listen needs Linux (recvmmsg, kernel timestamps); replay and send --write work here",
    ))
}

#[cfg(target_os = "linux")]
pub use linux::run;

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use tokio::signal::unix::{SignalKind, signal};

    use super::{Failure, ListenArgs};
    use crate::cli::report;
    use crate::cli::settings::Settings;
    use crate::cli::summary::{bytes, conclude};
    use crate::pipeline::threads::Pipeline;
    use crate::source::kernel::Counters;
    use crate::source::steer::{Start, Steering};
    use crate::source::sys;
    use crate::source::udp::{self, RECEIVE_BUFFER, UdpError, UdpSource};
    use crate::wire::decapsulate::Tunnel;

    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When flags do not fit, an address cannot be bound, or an output fails; what arrived before is
    /// kept.
    pub fn run(args: &ListenArgs) -> Result<(), Failure> {
        let mut settings = Settings::of_listen(args)?;
        let counters_before = Counters::read();
        let mut sources = bind(args, &settings).map_err(explain)?;
        let addresses = sources
            .first()
            .map(UdpSource::addresses)
            .unwrap_or_default();
        // Ports the system chose are VXLAN.
        let chosen = args
            .bind
            .iter()
            .zip(&addresses)
            .filter(|(asked, _)| asked.port() == 0);
        settings
            .worker
            .tunnels
            .vxlan_ports
            .extend(chosen.map(|(_, bound)| bound.port()));
        let addresses = addresses
            .iter()
            .map(SocketAddr::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        let about = format!("mirrored traffic received on {addresses}");
        let sinks = settings.outputs.open(&about, settings.worker.mtu)?;
        let mut pipeline = Pipeline::start(settings.worker.clone(), sinks, settings.sharing);
        let stop = Arc::new(AtomicBool::new(false));
        watch(Arc::clone(&stop), args.duration)?;
        report::on_request(&mut pipeline, &settings.worker, &counters_before)?;

        let granted = sources
            .iter()
            .map(UdpSource::receive_buffer)
            .min()
            .unwrap_or_default();
        let memory = settings.memory_bytes(UdpSource::memory_bytes());
        eprintln!(
            "vxtap {}: listening on {addresses}; receive buffer {}, at most {} of memory. Ctrl-C ends.",
            env!("CARGO_PKG_VERSION"),
            bytes(granted as u64),
            bytes(memory)
        );
        if granted < RECEIVE_BUFFER {
            tracing::warn!(
                "the kernel grants a receive buffer of {granted} bytes only; bursts may be lost. \
                 As root: sysctl -w net.core.rmem_max={RECEIVE_BUFFER}"
            );
        }
        let pin = pins(args, sources.len());
        let received = pipeline.feed(&mut sources, &stop, args.count, pin);
        let socket_overflow = sources.iter_mut().map(UdpSource::kernel_dropped).sum();
        let mut outcome = pipeline.finish(socket_overflow);
        outcome.kernel_counters = Some(Counters::read().since(&counters_before));
        let errors = received
            .err()
            .into_iter()
            .map(|error| error.to_string())
            .collect();
        let mut kernel_dropped = BTreeMap::from([("socket_overflow", socket_overflow)]);
        kernel_dropped.retain(|_, count| *count > 0);
        let nothing = outcome.ledger.received == 0;
        let remark = nothing.then(|| nothing_arrived(&addresses));
        conclude(&outcome, kernel_dropped, &settings, errors, remark)
    }

    /// The sockets: one group a worker.
    fn bind(args: &ListenArgs, settings: &Settings) -> Result<Vec<UdpSource>, UdpError> {
        let steering = settings.sharing.steering;
        if steering.workers == 1 {
            return UdpSource::bind(&args.bind).map(|source| vec![source]);
        }
        let program = |port| match settings.worker.tunnels.at_port(port) {
            // The inner packet is not where VXLAN has it: one worker takes them all.
            Some(Tunnel::Geneve) => Steering {
                workers: 1,
                ..steering
            }
            .program(Start::UdpPayload),
            _ => steering.program(Start::UdpPayload),
        };
        UdpSource::bind_group(&args.bind, steering.workers, program)
    }

    /// What keeps each worker on its core: those named by --cpus, or with several workers those this
    /// process may use.
    fn pins(args: &ListenArgs, workers: usize) -> impl Fn(usize) + Sync + use<> {
        let cores = match &args.cpus {
            Some(list) => list.0.clone(),
            None if workers > 1 => sys::allowed_cores(),
            None => Vec::new(),
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

    /// Sets `stop` at the first SIGINT or SIGTERM or when `duration` is over; a second signal ends the
    /// process.
    fn watch(stop: Arc<AtomicBool>, duration: Option<Duration>) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (mut interrupt, mut terminate) = {
            let _guard = runtime.enter();
            (
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
            )
        };
        std::thread::spawn(move || {
            runtime.block_on(async {
                let time_is_up = async {
                    match duration {
                        Some(duration) => tokio::time::sleep(duration).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    () = time_is_up => {}
                }
                stop.store(true, Ordering::Relaxed);
                let code = tokio::select! {
                    _ = interrupt.recv() => 130,
                    _ = terminate.recv() => 143,
                };
                std::process::exit(code);
            });
        });
        Ok(())
    }

    /// Adds to a bind error who holds the port and what to do.
    fn explain(error: UdpError) -> Failure {
        let Some(address) = error.held_address() else {
            let hint = match &error {
                UdpError::Bind { address, source }
                    if source.kind() == std::io::ErrorKind::AddrNotAvailable
                        && udp::is_specific(address.ip()) =>
                {
                    ": no interface of this machine has that address; 0.0.0.0 listens on all"
                }
                UdpError::Bind { source, .. }
                    if source.kind() == std::io::ErrorKind::PermissionDenied =>
                {
                    ": ports below 1024 need root or CAP_NET_BIND_SERVICE"
                }
                _ => "",
            };
            return Failure::running(format!("{error}{hint}"));
        };
        let port = address.port();
        let holder =
            udp::port_holder(address).map_or(String::new(), |holder| format!(" by {holder}"));
        Failure::running(format!(
            "cannot listen on {address}: the port is held{holder}.\n  \
             A kernel vxlan device or a container overlay (Docker Swarm, flannel, Cilium) owns the whole port: \
             'ip -d link show type vxlan' lists such devices, 'ip link del NAME' removes one.\n  \
             Another receiver: 'ss -ulpn sport = :{port}' names it; end it, or choose another port with --bind \
             and set the mirror session to it."
        ))
    }

    fn nothing_arrived(addresses: &str) -> String {
        format!(
            "Nothing arrived on {addresses}. From the outside in, check that\n  \
             1. the mirror session is enabled, has a filter that accepts traffic, and this machine's interface as target;\n  \
             2. the target's security group AND network ACL allow inbound UDP on this port from the mirror source;\n  \
             3. a host firewall lets it in: 'nft list ruleset' or 'iptables -S';\n  \
             4. the packets reach the interface: 'tcpdump -ni any udp port 4789' shows them even where a firewall drops them."
        )
    }
}
