//! What the settings of `vxtap listen` mean beyond those it shares with replay.

use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::time::Duration;

use super::given::Given;
use super::layers::{Layers, Origin};
use super::lifetimes;
use super::meant::{Limits, Parts, Settings, allowed, dedup, filter, truncation, tunnels};
use super::mistakes::Mistakes;
use super::outputs::{Outputs, group};
use super::sessions;
use super::typed;
use super::watching;
use crate::cli::{logging, values};
use crate::control::station::Places;
use crate::failure::Failure;
use crate::outfile::Existing;
use crate::pipeline::budget::Budget;
use crate::pipeline::queues::WhenFull;
use crate::sandbox::Mode;
use crate::source::live::Backend;
use crate::source::live::sockets::{self, Gro};
use crate::sys;
use crate::threads;

/// `vxtap listen` as it was meant.
#[derive(Debug)]
pub struct Listen {
    /// The run.
    pub run: Settings,
    /// What is received, and how.
    pub receive: Receive,
    /// Where others may ask how it is.
    pub watching: Places,
    /// What is logged: a level, or levels of modules.
    pub log: String,
    /// Each line of the log is a JSON object.
    pub log_json: bool,
}

/// What is received, and how.
#[derive(Debug)]
pub struct Receive {
    /// Addresses to bind, each once; port 0 lets the system choose.
    pub addresses: Vec<SocketAddr>,
    /// Nobody asked for these addresses: where the machine has no IPv6, those of IPv4 are enough.
    pub by_default: bool,
    /// The way packets are taken from the kernel.
    pub backend: Backend,
    /// The interface of the packet ring.
    pub interface: Option<String>,
    /// Whether trains are taken.
    pub gro: Gro,
    /// When to stop.
    pub duration: Option<Duration>,
    /// After how many frames to stop.
    pub count: Option<u64>,
    /// Cores of the workers, as asked for; empty where nobody asked.
    pub cores: Vec<usize>,
    /// What the process gives up once it is set up.
    pub sandbox: Mode,
    /// The most it may take.
    pub budget: Budget,
}

impl Listen {
    /// What the settings of `vxtap listen` mean: every port bound that is not one of the other tunnels' is
    /// VXLAN.
    ///
    /// # Errors
    ///
    /// [`Failure::Usage`] when values are wrong or contradict each other.
    pub fn meant(typed: &Layers<typed::Listen>) -> Result<Self, Failure> {
        let mut mistakes = Mistakes::default();
        let meant = Self::read_at_start(typed, &mut mistakes);
        mistakes.end(meant)
    }

    /// What was given to `vxtap listen` means; every mistake is noted.
    pub fn of(given: &mut Given) -> Option<Self> {
        // What a broken file says otherwise would be missed, and missing it told as a mistake.
        given
            .is_whole
            .then(|| Self::read_at_start(&given.layers, &mut given.mistakes))
            .flatten()
    }

    /// What was given means to a run that goes on; every mistake is noted.
    pub fn again(given: &mut Given) -> Option<Self> {
        given
            .is_whole
            .then(|| Self::read(&given.layers, &mut given.mistakes))
            .flatten()
    }

    fn read_at_start(typed: &Layers<typed::Listen>, mistakes: &mut Mistakes) -> Option<Self> {
        let listen = Self::read(typed, mistakes);
        let group = group(&typed.group(|typed| &typed.output), mistakes);
        let mut listen = listen?;
        listen.run.outputs.give_to(group);
        Some(listen)
    }

    /// What the settings mean, but for the group of files; every mistake is noted.
    pub fn read(typed: &Layers<typed::Listen>, mistakes: &mut Mistakes) -> Option<Self> {
        let typed_tunnels = typed.group(|typed| &typed.tunnels);
        let tunnels = tunnels(None, &typed_tunnels, mistakes);
        let limits = Limits::read(&typed.group(|typed| &typed.limits), mistakes);
        let workers = limits.as_ref().map(Limits::workers);
        let receive = Receive::read(&typed.group(|typed| &typed.receive), workers, mistakes);
        let overwrite = typed.group(|typed| &typed.receive);
        let overwrite = overwrite.find(|receive| receive.overwrite.as_ref());
        // A supervisor starts it again and again: what the run before has finished stays.
        let existing = match overwrite {
            Some((_, true)) => Existing::Replace,
            _ => Existing::Keep,
        };
        let output = typed.group(|typed| &typed.output);
        let store = typed.group(|typed| &typed.store);
        let mut outputs = Outputs::read(&output, &store, &[], existing, mistakes);
        if let Some(outputs) = &mut outputs {
            outputs.configuration = typed.fingerprint();
        }
        let filters = typed.group(|typed| &typed.filters);
        let allowed = allowed(&filters, mistakes);
        let filter = filter(&filters, mistakes);
        let truncation = truncation(&typed.group(|typed| &typed.truncation), mistakes);
        let inventory = sessions::read(&typed.group(|typed| &typed.sessions), mistakes);
        let lifetimes = lifetimes::read(&typed.group(|typed| &typed.flow_lifetimes), mistakes);
        let dedup = dedup(&typed.group(|typed| &typed.duplicates), mistakes);
        let watching = watching::read(&typed.group(|typed| &typed.watching), mistakes);
        let logging = typed.group(|typed| &typed.logging);
        let log = mistakes.one(
            &logging,
            "--log",
            |t| &t.log,
            |text| logging::read(text).map(|_| text.to_owned()),
        );
        let words = [("text", false), ("json", true)];
        let format = |text: &str| values::one_of(text, &words);
        let log_json = mistakes.one(&logging, "--log-format", |t| &t.log_format, format);
        let (mut tunnels, mut receive) = (tunnels?, receive?);
        let asked = |origin| origin != Origin::Default;
        let gpe = typed_tunnels.find(|tunnels| tunnels.gpe_port.as_ref());
        if gpe.is_some_and(|(origin, _)| asked(origin)) {
            add_ports(&mut receive.addresses, &tunnels.gpe_ports);
        }
        let geneve = typed_tunnels.find(|tunnels| tunnels.geneve_port.as_ref());
        if geneve.is_some_and(|(origin, _)| asked(origin)) {
            add_ports(&mut receive.addresses, &tunnels.geneve_ports);
        }
        for port in receive.addresses.iter().map(SocketAddr::port) {
            if port != 0 && tunnels.at_port(port).is_none() {
                tunnels.vxlan_ports.push(port);
            }
        }
        // New at every start: nobody outside can aim at one worker. The keys of std's hasher come from the
        // system's random numbers.
        let multiplier = std::hash::RandomState::new().hash_one(0) as u32 | 1;
        let run = Settings::of(Parts {
            tunnels,
            allowed,
            filter,
            inventory,
            truncation: truncation?,
            lifetimes: lifetimes?,
            dedup: dedup?,
            limits: limits?,
            outputs: outputs?,
            plain: false,
            multiplier,
            when_full: WhenFull::Drop,
        });
        Some(Self {
            run,
            receive,
            watching,
            log: log?,
            log_json: log_json?,
        })
    }
}

impl Receive {
    fn read(
        typed: &Layers<&typed::Receive>,
        workers: Option<u32>,
        mistakes: &mut Mistakes,
    ) -> Option<Self> {
        let (origin, addresses) = mistakes.many(typed, "--bind", |t| &t.bind, values::bind);
        let words = [
            ("auto", Backend::Auto),
            ("udp", Backend::Udp),
            ("packet", Backend::Packet),
        ];
        let backend = |text: &str| values::one_of(text, &words);
        let backend = mistakes.one(typed, "--backend", |t| &t.backend, backend);
        let words = [("auto", Gro::Off), ("on", Gro::On), ("off", Gro::Off)];
        let gro = |text: &str| values::one_of(text, &words);
        let gro = mistakes.one(typed, "--gro", |t| &t.gro, gro);
        let name = mistakes.one(typed, "--interface", |t| &t.interface, values::interface);
        let duration = mistakes.one(typed, "--duration", |t| &t.duration, values::time);
        let count = mistakes.one(typed, "--count", |t| &t.count, values::count);
        let cores = mistakes.one(typed, "--cpus", |t| &t.cpus, values::cores);
        let cores = cores.unwrap_or_default();
        let words = [
            ("off", Mode::Off),
            ("auto", Mode::Auto),
            ("require", Mode::Require),
        ];
        let sandbox = |text: &str| values::one_of(text, &words);
        let sandbox = mistakes.one(typed, "--sandbox", |t| &t.sandbox, sandbox);
        let share = mistakes.one(typed, "--cpu-limit", |t| &t.cpu_limit, values::percent);
        let machine = std::thread::available_parallelism().map_or(1, usize::from);
        let budget = Budget {
            cores: share.map(|share| f64::from(share) / 100.0 * machine as f64),
            disk_rate: mistakes.one(typed, "--disk-rate", |t| &t.disk_rate, values::bytes),
        };
        mistakes.check(check_addresses(&addresses));
        mistakes.check(check_cores("--cpus", &cores));
        let mut receive = Self {
            addresses,
            by_default: origin == Origin::Default,
            backend: backend?,
            interface: name,
            gro: gro?,
            duration,
            count,
            cores,
            sandbox: sandbox?,
            budget,
        };
        mistakes.check(receive.check_way(workers));
        if receive.gro == Gro::On {
            receive.backend = Backend::Udp;
        }
        Some(receive)
    }

    /// Leaves out addresses of IPv6 that nobody asked for, where this machine has none; says whether it did.
    pub fn leave_out_ipv6(&mut self) -> bool {
        let leaves = self.by_default && !sockets::has_ipv6();
        if leaves {
            self.addresses.retain(SocketAddr::is_ipv4);
        }
        leaves
    }

    /// Refuses settings of one way to receive beside another.
    fn check_way(&self, workers: Option<u32>) -> Result<(), String> {
        let contradiction = match (self.gro, self.backend, &self.interface) {
            (Gro::On, Backend::Packet, _) => "--gro on is for --backend udp",
            (Gro::On, _, Some(_)) => "--gro on is for sockets, --interface for the packet ring",
            (Gro::On, ..) if workers.is_some_and(|workers| workers > 1) => {
                "--gro on needs --workers 1: a train holds packets of several workers"
            }
            (_, Backend::Udp, Some(_)) => {
                "--interface is for the packet ring; sockets receive on the addresses of --bind"
            }
            _ => return Ok(()),
        };
        Err(contradiction.to_owned())
    }
}

/// Refuses addresses that cannot be bound beside each other.
fn check_addresses(addresses: &[SocketAddr]) -> Result<(), String> {
    for (at, first) in addresses.iter().enumerate() {
        for second in addresses.iter().skip(at + 1) {
            if first.port() != second.port()
                || first.port() == 0
                || first.is_ipv4() != second.is_ipv4()
            {
                continue;
            }
            if first == second {
                return Err(format!("--bind {first} is given twice"));
            }
            let (any, one) = match (first.ip().is_unspecified(), second.ip().is_unspecified()) {
                (true, _) => (first, second),
                (_, true) => (second, first),
                _ => continue,
            };
            return Err(format!(
                "--bind {one} is covered by --bind {any}, which takes every address: leave one of them out"
            ));
        }
    }
    Ok(())
}

/// Refuses cores that a thread of this process cannot run on.
///
/// # Errors
///
/// Which, and those there are.
pub fn check_cores(flag: &str, cores: &[usize]) -> Result<(), String> {
    if cores.is_empty() {
        return Ok(());
    }
    let wanted = cores.to_vec();
    // The answer is the kernel's; a thread of its own is moved about for it.
    let asking = threads::start("vxtap-cores", move || {
        let mut wanted = wanted.into_iter();
        wanted.find(|core| sys::pin_to_core(*core).is_err())
    });
    let Ok(asking) = asking else {
        // No mistake of whoever typed them; the run itself will want a thread and say so.
        return Ok(());
    };
    match asking.join() {
        Ok(Some(core)) => Err(format!(
            "invalid value '{core}' for {flag}: this process can run on {}",
            named(&sys::allowed_cores())
        )),
        _ => Ok(()),
    }
}

/// "core 0", "cores 0 to 3", "cores 0 to 3, 8". Pure.
fn named(cores: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for core in cores {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *core => *last = *core,
            _ => runs.push((*core, *core)),
        }
    }
    let runs: Vec<String> = runs
        .into_iter()
        .map(|(first, last)| match first == last {
            true => first.to_string(),
            false => format!("{first} to {last}"),
        })
        .collect();
    let noun = if cores.len() == 1 { "core" } else { "cores" };
    format!("{noun} {}", runs.join(", "))
}

/// Adds `ports` on every address bound. A port that was given with an address is where it shall be already.
fn add_ports(addresses: &mut Vec<SocketAddr>, ports: &[u16]) {
    for port in ports {
        if addresses.iter().any(|address| address.port() == *port) {
            continue;
        }
        let mut more: Vec<SocketAddr> = Vec::new();
        for address in addresses.iter() {
            let mut address = *address;
            address.set_port(*port);
            if !more.contains(&address) {
                more.push(address);
            }
        }
        let any = |ipv4| {
            more.iter()
                .any(|address| address.is_ipv4() == ipv4 && address.ip().is_unspecified())
        };
        let (any_v4, any_v6) = (any(true), any(false));
        more.retain(|address| {
            let any = if address.is_ipv4() { any_v4 } else { any_v6 };
            !any || address.ip().is_unspecified()
        });
        addresses.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, Command};
    use crate::wire::decapsulate::Tunnel;

    fn listen(flags: &str) -> Result<Listen, String> {
        let words = ["vxtap", "listen"]
            .into_iter()
            .chain(flags.split_whitespace());
        let Command::Listen(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!("not listen")
        };
        let meant = Listen::meant(&Layers::new(args.settings, typed::Listen::defaults()));
        meant.map_err(|failure| match failure {
            Failure::Usage(error) => error.to_string(),
            other => panic!("{other}"),
        })
    }

    fn bound(flags: &str) -> String {
        let addresses = listen(flags).unwrap().receive.addresses;
        let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        addresses.join(" ")
    }

    #[test]
    fn every_address_of_both_families_is_bound_by_default() {
        assert_eq!(bound(""), "0.0.0.0:4789 [::]:4789");
        assert!(listen("").unwrap().receive.by_default);
        let typed = listen("--bind 0.0.0.0:4789 --bind [::]:4789").unwrap();
        assert!(!typed.receive.by_default, "typed, they have to be there");
        assert_eq!(bound("--bind 10.0.0.5:8472"), "10.0.0.5:8472");
    }

    #[test]
    fn ports_of_other_tunnels_are_bound_where_they_are_asked_for() {
        assert_eq!(
            bound("--geneve-port 6081"),
            "0.0.0.0:4789 [::]:4789 0.0.0.0:6081 [::]:6081"
        );
        assert_eq!(
            bound("--bind 10.0.0.5:4789 --gpe-port 4790 --geneve-port 7000"),
            "10.0.0.5:4789 10.0.0.5:4790 10.0.0.5:7000"
        );
        // Named by --bind: there and nowhere else.
        let flags = "--bind 0.0.0.0:4789 --bind 10.0.0.5:6081 --geneve-port 6081";
        assert_eq!(bound(flags), "0.0.0.0:4789 10.0.0.5:6081");
        assert_eq!(bound("--gpe-port 4789"), "0.0.0.0:4789 [::]:4789");
        assert_eq!(
            bound("--gpe-port 0 --geneve-port 0"),
            "0.0.0.0:4789 [::]:4789"
        );
        // One address with two ports gets the third once, and one that covers another alone.
        let flags = "--bind 10.0.0.5:1 --bind 10.0.0.5:2 --geneve-port 3";
        assert_eq!(bound(flags), "10.0.0.5:1 10.0.0.5:2 10.0.0.5:3");
        let flags = "--bind 10.0.0.5:1 --bind 0.0.0.0:2 --geneve-port 3";
        assert_eq!(bound(flags), "10.0.0.5:1 0.0.0.0:2 0.0.0.0:3");
        let at = |flags: &str, port| listen(flags).unwrap().run.worker.tunnels.at_port(port);
        assert_eq!(at("--geneve-port 6081", 6081), Some(Tunnel::Geneve));
        assert_eq!(at("--geneve-port 7000", 7000), Some(Tunnel::Geneve));
        assert_eq!(at("--geneve-port 7000", 4789), Some(Tunnel::Vxlan));
        assert_eq!(at("--gpe-port 4789", 4789), Some(Tunnel::Gpe));
        assert_eq!(at("--bind 0.0.0.0:6081", 6081), Some(Tunnel::Geneve));
        assert_eq!(
            at("--bind 0.0.0.0:6081 --geneve-port 0", 6081),
            Some(Tunnel::Vxlan)
        );
    }

    #[test]
    fn addresses_that_exclude_each_other() {
        let said = |flags: &str| listen(flags).unwrap_err();
        let twice = said("--bind 127.0.0.1:4789 --bind 127.0.0.1:4789");
        assert!(
            twice.contains("--bind 127.0.0.1:4789 is given twice"),
            "{twice}"
        );
        for (binds, one, any) in [
            (
                "--bind 0.0.0.0:4789 --bind 127.0.0.1:4789",
                "127.0.0.1:4789",
                "0.0.0.0:4789",
            ),
            (
                "--bind 127.0.0.1:9 --bind 0.0.0.0:9",
                "127.0.0.1:9",
                "0.0.0.0:9",
            ),
            (
                "--bind [::]:4789 --bind [::1]:4789",
                "[::1]:4789",
                "[::]:4789",
            ),
        ] {
            let text = said(binds);
            assert!(
                text.contains(&format!("--bind {one} is covered by --bind {any}")),
                "{text}"
            );
        }
        for fine in [
            "--bind 0.0.0.0:0 --bind 0.0.0.0:0",
            "--bind 0.0.0.0:4789 --bind [::1]:4789",
            "--bind 0.0.0.0:4789 --bind 127.0.0.1:4790",
        ] {
            assert!(listen(fine).is_ok(), "{fine}");
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let said = listen(
            "--bind 4789 --bind localhost:1 --backend pcap --gro maybe --duration 0 --count 0 --cpus x \
             --interface a/b --mtu 1 --geneve-port 70000",
        )
        .unwrap_err();
        for part in [
            "invalid value '4789' for --bind: the address is missing",
            "invalid value 'localhost:1' for --bind: 'localhost' is a name",
            "invalid value 'pcap' for --backend: one of auto, udp, packet is needed",
            "invalid value 'maybe' for --gro: one of auto, on, off is needed",
            "invalid value '0' for --duration: a time above zero",
            "invalid value '0' for --count: a whole number above zero",
            "invalid value 'x' for --cpus: cores by number",
            "invalid value 'a/b' for --interface: no interface can have that name",
            "invalid value '1' for --mtu: a number from 68",
            "invalid value '70000' for --geneve-port: a port from 1 to 65535",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }

    #[test]
    fn ways_that_exclude_each_other() {
        for (flags, part) in [
            ("--gro on --backend packet", "--gro on is for --backend udp"),
            (
                "--gro on --interface eth0",
                "--interface for the packet ring",
            ),
            ("--gro on --workers 2", "--gro on needs --workers 1"),
            (
                "--backend udp --interface eth0",
                "--interface is for the packet ring",
            ),
        ] {
            let said = listen(flags).unwrap_err();
            assert!(said.contains(part), "{flags}: {said}");
        }
        let trains = listen("--gro on --workers 1").unwrap();
        assert_eq!(trains.receive.backend, Backend::Udp);
    }

    #[test]
    fn cores_that_are_not_there() {
        let said = check_cores("--cpus", &[1023]).unwrap_err();
        assert!(
            said.starts_with("invalid value '1023' for --cpus: this process can run on core"),
            "{said}"
        );
        assert_eq!(check_cores("--cpus", &sys::allowed_cores()), Ok(()));
        assert_eq!(named(&[0]), "core 0");
        assert_eq!(named(&[0, 1]), "cores 0 to 1");
        assert_eq!(named(&[0, 1, 2, 8, 10, 11]), "cores 0 to 2, 8, 10 to 11");
    }
}
