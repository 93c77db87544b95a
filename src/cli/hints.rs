//! What to say when nothing arrives, and when an address cannot be bound: facts about this machine in, words
//! for people out.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::host::counters::{Counters, Counts};
use crate::host::interfaces::{self, Interface};
use crate::host::ports::{self, Holder};
use crate::mirror::networks::Networks;
use crate::say::say;
use crate::source::live::sockets::UdpError;
use crate::source::{Arrival, Progress, Source};
use crate::threads;
use crate::wire::refusal::{Filtered, Refusal};

/// How long nothing arrives before that is told.
const SILENCE: Duration = Duration::from_secs(10);

/// What all sources of a run have heard.
#[derive(Debug, Default)]
pub struct Heard {
    /// A packet for an address bound.
    ours: AtomicBool,
    /// Packets for other addresses, before the first that was ours.
    elsewhere: AtomicU64,
    /// The run is over.
    over: AtomicBool,
}

/// A source that notes the first packet for us. From then on it costs one look a batch.
pub struct Attentive<'a, S> {
    source: &'a mut S,
    heard: Arc<Heard>,
}

impl<'a, S: Source> Attentive<'a, S> {
    /// Listens along at `source`.
    pub fn new(source: &'a mut S, heard: &Arc<Heard>) -> Self {
        let heard = Arc::clone(heard);
        Self { source, heard }
    }
}

impl<S: Source> Source for Attentive<'_, S> {
    type Error = S::Error;

    fn next_batch(
        &mut self,
        most: usize,
        mut each: impl FnMut(Arrival<'_>),
    ) -> Result<Progress, Self::Error> {
        if self.heard.ours.load(Ordering::Relaxed) {
            return self.source.next_batch(most, each);
        }
        let (mut ours, mut elsewhere) = (false, 0);
        let outcome = self.source.next_batch(most, |arrival| {
            match arrival {
                Arrival::Refused(_, Refusal::Filtered(Filtered::OtherAddress)) => elsewhere += 1,
                _ => ours = true,
            }
            each(arrival);
        });
        self.heard.elsewhere.fetch_add(elsewhere, Ordering::Relaxed);
        if ours {
            self.heard.ours.store(true, Ordering::Relaxed);
        }
        outcome
    }

    fn lag_ns(&self) -> u64 {
        self.source.lag_ns()
    }

    fn doze(&mut self, alarm: BorrowedFd<'_>, most: Duration) {
        self.source.doze(alarm, most);
    }

    fn is_quiet(&mut self) -> bool {
        self.source.is_quiet()
    }

    fn end_at(&mut self, at_ns: u64) {
        self.source.end_at(at_ns);
    }

    fn settled_ns(&mut self, looked_ns: u64) -> u64 {
        self.source.settled_ns(looked_ns)
    }

    fn let_in(&mut self, networks: &Networks) -> bool {
        self.source.let_in(networks)
    }

    fn lost_so_far(&mut self) -> u64 {
        self.source.lost_so_far()
    }

    fn refused_so_far(&mut self) -> u64 {
        self.source.refused_so_far()
    }
}

/// Whoever waits for packets, and where.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The addresses bound.
    pub addresses: Vec<SocketAddr>,
    /// The interface of the packet ring, if there is one.
    pub ring: Option<String>,
    /// The kernel's counters as the run began.
    pub counters_before: Counters,
    /// What has been heard.
    pub heard: Arc<Heard>,
}

impl Waiting {
    /// Tells, once, when nothing has arrived for [`SILENCE`].
    pub fn tell_of_silence(&self) {
        let waiting = self.clone();
        // It ends with the process, if not before.
        let teller = threads::start("vxtap-hints", move || {
            std::thread::sleep(SILENCE);
            let begin = format!("Nothing has arrived for {} s", SILENCE.as_secs());
            if waiting.heard.over.load(Ordering::Relaxed) {
                return;
            }
            if let Some(text) = waiting.nothing_arrived(&begin) {
                say(format!("vxtap: {text}\n"));
            }
        });
        if let Err(error) = teller {
            tracing::debug!(%error, "no thread to tell of silence");
        }
    }

    /// The run is over; silence is told no more.
    pub fn end(&self) {
        self.heard.over.store(true, Ordering::Relaxed);
    }

    /// What to check, if nothing has arrived; `begin` is the begin of the sentence that says so.
    pub fn nothing_arrived(&self, begin: &str) -> Option<String> {
        if self.heard.ours.load(Ordering::Relaxed) {
            return None;
        }
        let facts = Facts {
            addresses: &self.addresses,
            ring: self.ring.as_deref(),
            interfaces: interfaces::list().unwrap_or_default(),
            counters: Counters::read().since(&self.counters_before),
            elsewhere: self.heard.elsewhere.load(Ordering::Relaxed),
        };
        Some(format!("{begin} on {}", facts.told()))
    }
}

/// What is known when nothing arrived.
struct Facts<'a> {
    addresses: &'a [SocketAddr],
    ring: Option<&'a str>,
    interfaces: Vec<Interface>,
    /// What the kernel counted during the run.
    counters: Counts,
    /// Packets a ring has seen for other addresses.
    elsewhere: u64,
}

impl Facts<'_> {
    /// The rest of the sentence, what is known to be in the way, and what else to check. Pure.
    fn told(&self) -> String {
        let bound: Vec<String> = self.addresses.iter().map(SocketAddr::to_string).collect();
        let mut text = format!("{}.", bound.join(", "));
        let causes = self.causes();
        for cause in &causes {
            let _ = write!(text, "\n  ! {cause}");
        }
        text.push(if causes.is_empty() { ' ' } else { '\n' });
        let mut ports: Vec<u16> = self.addresses.iter().map(SocketAddr::port).collect();
        ports.sort_unstable();
        ports.dedup();
        let listed = |before: &str, between: &str| {
            let ports: Vec<String> = ports.iter().map(|port| format!("{before}{port}")).collect();
            ports.join(between)
        };
        let (udp, filter) = (listed("UDP ", ", "), listed("udp port ", " or "));
        let firewall = match self.ring {
            None => "a host firewall lets it in: 'nft list ruleset' or 'iptables -S';",
            Some(_) => {
                "(a host firewall is not the reason: a packet ring takes packets before it);"
            }
        };
        let at = self.ring.unwrap_or("any");
        let _ = write!(
            text,
            "From the outside in, check that\n  \
             1. the mirror session is enabled, has a filter that accepts traffic, this machine's interface as target, \
             and sends to {udp};\n  \
             2. the target's security group AND network ACL allow inbound {udp} from the mirror source;\n  \
             3. {firewall}\n  \
             4. the packets reach the interface: tcpdump -ni {at} '{filter}' shows them even where a firewall drops \
             them."
        );
        text
    }

    /// What is in the way, as far as this machine can tell.
    fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let loopback = |address: &&SocketAddr| address.ip().is_loopback();
        let mut told: Vec<IpAddr> = Vec::new();
        for address in self.addresses.iter().filter(loopback) {
            let ip = address.ip();
            if told.contains(&ip) {
                continue;
            }
            told.push(ip);
            let any = if ip.is_ipv4() { "0.0.0.0" } else { "[::]" };
            let same = self.addresses.iter().filter(|other| other.ip() == ip);
            let instead: Vec<String> = same.map(|at| format!("{any}:{}", at.port())).collect();
            causes.push(format!(
                "{ip} is a loopback address, and nothing from outside can reach a loopback address: bind {}, or the \
                 address that the mirror session sends to.",
                instead.join(" and ")
            ));
        }
        causes.extend(self.down());
        causes.extend(self.other_family());
        let moved = |name: &str| self.counters.get(name).copied().unwrap_or_default();
        for (ipv4, family, counter) in
            [(true, "IPv4", "UdpNoPorts"), (false, "IPv6", "Udp6NoPorts")]
        {
            let is_bound = self
                .addresses
                .iter()
                .any(|address| address.is_ipv4() == ipv4);
            let packets = moved(counter);
            // What a ring has seen for other addresses is told below.
            let packets = packets.saturating_sub(self.elsewhere);
            if is_bound && packets > 0 {
                causes.push(format!(
                    "{} over {family} came to ports or addresses that nobody listens on here: does the mirror session \
                     send to another port, or to another address, than the ones bound?",
                    datagrams(packets)
                ));
            }
        }
        if self.elsewhere > 0 {
            let verb = if self.elsewhere == 1 { "was" } else { "were" };
            causes.push(format!(
                "{} to a port that is bound {verb} seen on {}, but for another address than those bound \
                 (filtered: other_address). Bind the address they are sent to, or 0.0.0.0 and [::] for every address \
                 of this machine.",
                datagrams(self.elsewhere),
                self.ring.unwrap_or("the interface")
            ));
        }
        causes
    }

    /// Interfaces that packets would have to come in on and that are down.
    fn down(&self) -> Vec<String> {
        let mut down: Vec<&str> = Vec::new();
        let any = self
            .addresses
            .iter()
            .any(|address| address.ip().is_unspecified());
        let others = self
            .interfaces
            .iter()
            .filter(|interface| !interface.loopback);
        let nothing_up = others.clone().all(|interface| !interface.up);
        for interface in others.filter(|interface| !interface.up) {
            let owns = |address: &SocketAddr| interface.addresses.contains(&address.ip());
            let meant = self.ring == Some(interface.name.as_str())
                || self.addresses.iter().any(owns)
                // One that has an address is meant to be up.
                || any && (nothing_up || !interface.addresses.is_empty());
            if meant {
                down.push(&interface.name);
            }
        }
        let told = down.iter().map(|name| {
            format!("the interface {name} is down: 'ip link set {name} up'; 'ip address' shows its addresses.")
        });
        told.collect()
    }

    /// Only one IP version is bound.
    fn other_family(&self) -> Option<String> {
        let has = |ipv4| {
            self.addresses
                .iter()
                .any(|address| address.is_ipv4() == ipv4)
        };
        let (bound, other, any, counters): (_, _, _, &[&str]) = match (has(true), has(false)) {
            (true, false) => ("IPv4", "IPv6", "[::]", &["Udp6NoPorts", "Udp6InCsumErrors"]),
            (false, true) => ("IPv6", "IPv4", "0.0.0.0", &["UdpNoPorts"]),
            _ => return None,
        };
        let port = self.addresses.first().map_or(0, SocketAddr::port);
        let packets: u64 = counters
            .iter()
            .filter_map(|name| self.counters.get(*name))
            .sum();
        let every = |address: &SocketAddr| address.ip().is_unspecified();
        let came = match packets {
            // One address was asked for: nobody expects the others.
            0 if !self.addresses.iter().any(every) => return None,
            0 => String::new(),
            packets => format!(
                " {} came over {other} and found nobody.",
                datagrams(packets)
            ),
        };
        Some(format!(
            "only {bound} is listened on.{came} --bind {any}:{port} takes {other} (both together take both)."
        ))
    }
}

fn datagrams(number: u64) -> String {
    match number {
        1 => "1 datagram".to_owned(),
        number => format!("{number} datagrams"),
    }
}

/// Why an address cannot be bound, and what to do.
pub fn cannot_bind(error: &UdpError) -> String {
    let Some(address) = error.held_address() else {
        let hint = match error {
            UdpError::Bind { address, source } => match source.kind() {
                ErrorKind::AddrNotAvailable if !address.ip().is_unspecified() => not_here(*address),
                ErrorKind::PermissionDenied => {
                    ": ports below 1024 need root or CAP_NET_BIND_SERVICE".to_owned()
                }
                _ => String::new(),
            },
            _ => String::new(),
        };
        return format!("{error}{hint}");
    };
    held(address, ports::holder(address).as_ref())
}

/// Who holds the port of an address, and what to do.
fn held(address: SocketAddr, holder: Option<&Holder>) -> String {
    let port = address.port();
    let begin = format!("cannot listen on {address}: the port is held");
    let other_port = "choose another port with --bind and set the mirror session to it";
    let device = "a kernel vxlan device or a container overlay (Docker Swarm, flannel, Cilium) owns the whole port: \
                  'ip -d link show type vxlan' lists such devices, 'ip link del NAME' removes one";
    match holder {
        Some(holder @ Holder::Ourselves) => format!("{begin} by {holder}; leave one of them out."),
        Some(holder @ Holder::Process(..)) => {
            format!("{begin} by {holder}.\n  End it, or {other_port}.")
        }
        Some(holder @ Holder::Kernel(_)) => {
            format!("{begin} by {holder}.\n  Usually {device}. Or {other_port}.")
        }
        holder => {
            let holder = holder.map_or(String::new(), |holder| format!(" by {holder}"));
            format!(
                "{begin}{holder}.\n  Perhaps {device}.\n  \
                 Or another receiver: as root 'ss -ulpn sport = :{port}' names it; end it, or {other_port}."
            )
        }
    }
}

/// What to do where the interface of a ring cannot be told.
pub fn no_interface(addresses: &[SocketAddr], interfaces: &[Interface]) -> String {
    let has = |ip: IpAddr| interfaces.iter().any(|one| one.addresses.contains(&ip));
    let any_loopback = addresses.iter().any(|address| address.ip().is_loopback());
    let absent = addresses
        .iter()
        .find(|address| !address.ip().is_unspecified() && !has(address.ip()));
    let nothing_up = interfaces.iter().all(|one| one.loopback || !one.up);
    match absent {
        _ if any_loopback => "--backend udp receives there".to_owned(),
        Some(address) => {
            let any = if address.is_ipv4() { "0.0.0.0" } else { "[::]" };
            format!(
                "'ip address' shows the addresses there are; --bind {any}:{} takes all",
                address.port()
            )
        }
        None if nothing_up => {
            "'ip link set NAME up' brings one up; --interface NAME waits for it".to_owned()
        }
        None => "--interface names one".to_owned(),
    }
}

/// An address that no interface has.
fn not_here(address: SocketAddr) -> String {
    let any = if address.is_ipv4() { "0.0.0.0" } else { "[::]" };
    format!(
        ": no interface of this machine has that address ('ip address' shows those there are); {any}:{} listens on all",
        address.port()
    )
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    /// Says something else than a source by default, in every respect.
    #[derive(Default)]
    struct Peculiar {
        end_ns: u64,
        dozed: Duration,
    }

    impl Source for Peculiar {
        type Error = std::convert::Infallible;

        fn next_batch(
            &mut self,
            _most: usize,
            mut each: impl FnMut(Arrival<'_>),
        ) -> Result<Progress, Self::Error> {
            each(Arrival::Refused(1, Filtered::OtherAddress.into()));
            Ok(Progress::UpTo(7))
        }

        fn lag_ns(&self) -> u64 {
            2
        }

        fn doze(&mut self, _alarm: BorrowedFd<'_>, most: Duration) {
            self.dozed = most;
        }

        fn is_quiet(&mut self) -> bool {
            false
        }

        fn end_at(&mut self, at_ns: u64) {
            self.end_ns = at_ns;
        }

        fn settled_ns(&mut self, looked_ns: u64) -> u64 {
            looked_ns + 3
        }

        fn let_in(&mut self, networks: &Networks) -> bool {
            networks.is_empty()
        }

        fn lost_so_far(&mut self) -> u64 {
            4
        }

        fn refused_so_far(&mut self) -> u64 {
            5
        }
    }

    /// Who listens along changes nothing: what a source promises, loses and is told gets through.
    #[test]
    fn an_attentive_source_is_the_source() {
        let mut source = Peculiar::default();
        let heard = Arc::new(Heard::default());
        let mut attentive = Attentive::new(&mut source, &heard);
        assert_eq!(attentive.next_batch(1, |_| {}), Ok(Progress::UpTo(7)));
        assert_eq!(heard.elsewhere.load(Ordering::Relaxed), 1);
        assert_eq!(attentive.lag_ns(), 2);
        assert!(!attentive.is_quiet());
        assert_eq!(attentive.settled_ns(10), 13);
        assert_eq!(attentive.lost_so_far(), 4);
        assert_eq!(attentive.refused_so_far(), 5);
        attentive.doze(std::io::stderr().as_fd(), Duration::from_secs(6));
        assert!(attentive.let_in(&Networks::default()));
        attentive.end_at(9);
        assert_eq!(source.end_ns, 9);
        assert_eq!(source.dozed, Duration::from_secs(6));
    }

    fn interface(name: &str, up: bool, addresses: &[&str]) -> Interface {
        Interface {
            name: name.to_owned(),
            up,
            loopback: name == "lo",
            addresses: addresses.iter().map(|one| one.parse().unwrap()).collect(),
        }
    }

    struct Case<'a> {
        bound: &'a [&'a str],
        ring: Option<&'a str>,
        interfaces: &'a [Interface],
        counters: &'a [(&'a str, u64)],
        elsewhere: u64,
    }

    impl Default for Case<'_> {
        fn default() -> Self {
            Self {
                bound: &["0.0.0.0:4789", "[::]:4789"],
                ring: None,
                interfaces: &[],
                counters: &[],
                elsewhere: 0,
            }
        }
    }

    fn told(case: &Case<'_>) -> String {
        let addresses: Vec<SocketAddr> =
            case.bound.iter().map(|one| one.parse().unwrap()).collect();
        let counters = case.counters.iter();
        let facts = Facts {
            addresses: &addresses,
            ring: case.ring,
            interfaces: case.interfaces.to_vec(),
            counters: counters
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect(),
            elsewhere: case.elsewhere,
        };
        facts.told()
    }

    #[test]
    fn a_holder_is_told_with_what_to_do_about_it() {
        let address = "10.0.0.5:8472".parse().unwrap();
        let python = Holder::Process(7, "python3".to_owned());
        let said = held(address, Some(&python));
        assert!(said.contains("10.0.0.5:8472: the port is held by process 7 (python3)"));
        assert!(said.contains("End it, or choose another port"), "{said}");
        assert!(!said.contains("vxlan device"), "{said}");
        let devices = vec!["vx0".to_owned()];
        let said = held(address, Some(&Holder::Kernel(devices)));
        assert!(
            said.contains("vx0") && said.contains("'ip link del NAME'"),
            "{said}"
        );
        assert!(!said.contains("ss -ulpn"), "{said}");
        for unknown in [None, Some(&Holder::Hidden(Vec::new()))] {
            let said = held(address, unknown);
            assert!(said.contains("'ip link del NAME'"), "{said}");
            assert!(said.contains("ss -ulpn sport = :8472"), "{said}");
        }
    }

    #[test]
    fn where_no_interface_can_be_told() {
        let here = [
            interface("lo", true, &["127.0.0.1"]),
            interface("eth0", true, &["10.0.0.5"]),
            interface("eth1", true, &["10.0.1.5"]),
        ];
        let hint = |bound: &str, here: &[Interface]| no_interface(&[bound.parse().unwrap()], here);
        assert_eq!(hint("127.0.0.1:9", &here), "--backend udp receives there");
        assert_eq!(hint("0.0.0.0:9", &here), "--interface names one");
        let said = hint("10.0.0.7:8472", &here);
        assert!(said.contains("--bind 0.0.0.0:8472 takes all"), "{said}");
        let said = hint("[fd00::7]:8472", &here);
        assert!(said.contains("--bind [::]:8472 takes all"), "{said}");
        let down = [interface("eth0", false, &["10.0.0.5"])];
        assert!(hint("0.0.0.0:9", &down).contains("'ip link set NAME up'"));
    }

    #[test]
    fn the_ports_bound_are_the_ports_named() {
        let text = told(&Case {
            bound: &[
                "10.0.0.5:18472",
                "10.0.0.6:18472",
                "10.0.0.5:7000",
                "[fd00::5]:1",
            ],
            ..Case::default()
        });
        assert!(
            text.starts_with("10.0.0.5:18472, 10.0.0.6:18472, 10.0.0.5:7000, [fd00::5]:1."),
            "{text}"
        );
        let filter = "tcpdump -ni any 'udp port 1 or udp port 7000 or udp port 18472'";
        assert!(text.contains(filter), "{text}");
        assert!(
            text.contains("inbound UDP 1, UDP 7000, UDP 18472"),
            "{text}"
        );
        assert!(!text.contains("4789"), "{text}");
        assert!(
            !text.contains("  ! "),
            "nothing is known to be in the way: {text}"
        );
    }

    #[test]
    fn loopback_is_not_reached_from_outside() {
        for (bound, any) in [("127.0.0.2:4790", "0.0.0.0:4790"), ("[::1]:7", "[::]:7")] {
            let text = told(&Case {
                bound: &[bound],
                ..Case::default()
            });
            assert!(
                text.contains("nothing from outside can reach a loopback address"),
                "{text}"
            );
            assert!(text.contains(&format!("bind {any}")), "{text}");
        }
        assert!(!told(&Case::default()).contains("loopback"));
    }

    #[test]
    fn an_interface_that_is_down_is_named() {
        let here = [
            interface("lo", true, &["127.0.0.1"]),
            interface("eth0", true, &["10.0.0.5"]),
            interface("eth1", false, &["10.0.1.5"]),
            interface("eth2", false, &[]),
        ];
        let down = |bound: &[&str], ring, interfaces: &[Interface]| {
            let text = told(&Case {
                bound,
                ring,
                interfaces,
                ..Case::default()
            });
            let names = ["lo", "eth0", "eth1", "eth2"];
            let is_told = |name: &&str| text.contains(&format!("interface {name} is down"));
            names
                .into_iter()
                .filter(is_told)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(down(&["10.0.1.5:4789"], None, &here), "eth1");
        assert_eq!(down(&["10.0.0.5:4789"], None, &here), "");
        assert_eq!(
            down(&["0.0.0.0:4789"], None, &here),
            "eth1",
            "it has an address"
        );
        assert_eq!(down(&["10.9.9.9:1"], Some("eth2"), &here), "eth2");
        let all_down = [here[0].clone(), here[3].clone()];
        assert_eq!(down(&["0.0.0.0:4789"], None, &all_down), "eth2");
    }

    #[test]
    fn the_other_ip_version() {
        let v4 = told(&Case {
            bound: &["0.0.0.0:8472"],
            counters: &[("Udp6InCsumErrors", 10)],
            ..Case::default()
        });
        assert!(
            v4.contains("only IPv4 is listened on. 10 datagrams came over IPv6"),
            "{v4}"
        );
        assert!(v4.contains("--bind [::]:8472 takes IPv6"), "{v4}");
        let v6 = told(&Case {
            bound: &["[::]:4789"],
            counters: &[("UdpNoPorts", 1)],
            ..Case::default()
        });
        assert!(
            v6.contains("only IPv6 is listened on. 1 datagram came over IPv4"),
            "{v6}"
        );
        assert!(v6.contains("--bind 0.0.0.0:4789 takes IPv4"), "{v6}");
        assert!(
            !told(&Case::default()).contains("only IPv"),
            "both are bound"
        );
    }

    #[test]
    fn datagrams_that_went_elsewhere() {
        let other_port = told(&Case {
            counters: &[("UdpNoPorts", 3)],
            ..Case::default()
        });
        assert!(
            other_port.contains("3 datagrams over IPv4 came to ports or addresses that nobody"),
            "{other_port}"
        );
        // Beside the ring the UDP stack has seen them too.
        let twice = told(&Case {
            bound: &["10.0.0.5:4789"],
            ring: Some("eth0"),
            counters: &[("UdpNoPorts", 6)],
            elsewhere: 6,
            ..Case::default()
        });
        assert!(!twice.contains("ports or addresses that nobody"), "{twice}");
        let other_address = told(&Case {
            bound: &["10.0.0.5:4789"],
            ring: Some("eth0"),
            elsewhere: 1,
            ..Case::default()
        });
        let words = "1 datagram to a port that is bound was seen on eth0, but for another address";
        assert!(other_address.contains(words), "{other_address}");
        // The ring passes the firewall, which then is no reason.
        assert!(
            other_address.contains("a host firewall is not the reason"),
            "{other_address}"
        );
        assert!(
            other_address.contains("tcpdump -ni eth0 'udp port 4789'"),
            "{other_address}"
        );
        assert!(told(&Case::default()).contains("a host firewall lets it in"));
    }
}
