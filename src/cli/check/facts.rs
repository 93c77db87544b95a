//! What the settings of `listen` come to: each value with its origin, what to be warned of, the ports and connections
//! they need, and the memory and disk they may take. A value, which [`super::page`] puts into words.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::names::{self, Found};
use crate::cli::listen::plan;
use crate::cli::ls;
use crate::cli::settings::given::Given;
use crate::cli::settings::keys;
use crate::cli::settings::layers::Origin;
use crate::cli::settings::listening::{Listen, Receive};
use crate::cli::settings::mistakes::Mistake;
use crate::export::collector::target::{Target, Transport};
use crate::host::{room, space};
use crate::report::page::bytes;
use crate::source::live::{Backend, sockets};
use crate::wire::decapsulate::Tunnel;

/// All of it.
#[derive(Debug, Serialize)]
pub struct Checked {
    /// The file of settings.
    pub file: Option<String>,
    /// No mistakes.
    pub ok: bool,
    /// Every mistake.
    pub mistakes: Vec<MistakeAt>,
    /// What to look at all the same.
    pub warnings: Vec<String>,
    /// Each setting that has a value.
    pub settings: Vec<Setting>,
    /// Ports of this machine that others reach.
    pub inbound: Vec<Inbound>,
    /// Connections that this machine makes: all of them.
    pub outbound: Vec<Outbound>,
    /// Memory, by the way packets are received.
    pub memory: Vec<Memory>,
    /// Disk.
    pub disk: Vec<Disk>,
}

/// A mistake and its place.
#[derive(Debug, Serialize)]
pub struct MistakeAt {
    /// The file, if it is in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Its line, from 1 on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Its column, from 1 on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// What is wrong and what is needed.
    pub text: String,
}

impl From<Mistake> for MistakeAt {
    fn from(mistake: Mistake) -> Self {
        let place = mistake.place.as_ref();
        Self {
            file: place.map(|place| place.file.to_string()),
            line: place.map(|place| place.line),
            column: place.map(|place| place.column),
            text: mistake.text,
        }
    }
}

/// A setting as it holds.
#[derive(Debug, Serialize)]
pub struct Setting {
    /// The table of the file.
    pub table: String,
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: Value,
    /// `default`, `file`, `environment` or `flag`.
    pub origin: &'static str,
    /// The place in the file, the variable or the flag.
    pub from: String,
}

/// A port that others reach.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Inbound {
    /// `udp` or `tcp`.
    pub protocol: &'static str,
    /// The address bound.
    pub address: IpAddr,
    /// The port; 0 where the system chooses.
    pub port: u16,
    /// What comes in there.
    pub what: String,
    /// Networks whose packets are taken; null for all.
    pub sources: Option<Vec<String>>,
}

/// A connection that is made.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Outbound {
    /// `udp`, `tcp`, or `unix` for a socket of this machine.
    pub protocol: &'static str,
    /// Where to, as it was named.
    pub host: String,
    /// The addresses that the host has now; none where it has none, and where it is no collector.
    pub addresses: Vec<IpAddr>,
    /// The port there; null for a socket of this machine.
    pub port: Option<u16>,
    /// What for.
    pub what: String,
}

/// Memory that may be taken.
#[derive(Debug, Serialize)]
pub struct Memory {
    /// `udp` or `packet`.
    pub backend: &'static str,
    /// At most, in bytes.
    pub most_bytes: u64,
    /// Receive buffers in the kernel that are asked for, in bytes.
    pub kernel_bytes: u64,
}

/// Disk that may be taken.
#[derive(Debug, Serialize)]
pub struct Disk {
    /// The directory of a store, or a file.
    pub path: String,
    /// At most, in bytes; absent where there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub most_bytes: Option<u64>,
    /// Bytes of the store that are there already.
    pub used_bytes: u64,
    /// Bytes that the file system has free, and all of it.
    pub free_bytes: Option<u64>,
    /// All bytes of the file system.
    pub total_bytes: Option<u64>,
}

impl Checked {
    /// What was given, and what it means, if it means anything.
    pub fn new(given: &Given, listen: Option<&Listen>) -> Self {
        let mistakes: Vec<MistakeAt> = given.mistakes.all().into_iter().map(Into::into).collect();
        let mut warnings = given.warnings.clone();
        let mut checked = Self {
            file: given.file.as_ref().map(|path| path.display().to_string()),
            ok: mistakes.is_empty() && listen.is_some(),
            mistakes,
            warnings: Vec::new(),
            settings: settings(given),
            inbound: Vec::new(),
            outbound: Vec::new(),
            memory: Vec::new(),
            disk: Vec::new(),
        };
        if let Some(listen) = listen {
            checked.inbound = inbound(listen);
            let collectors = listen.run.outputs.collectors();
            let found = names::addresses_of(collectors);
            checked.outbound = outbound(collectors, &found);
            checked.outbound.extend(to_systemd());
            warnings.extend(without_address(collectors, &found));
            checked.memory = memory(listen);
            checked.disk = disk(listen);
            warnings.extend(open_to_all(&listen.receive, &checked.inbound));
            warnings.extend(views(listen));
            warnings.extend(too_much(&checked));
            if listen.run.outputs.is_empty() {
                warnings.push(
                    "nothing is written: neither write, flows nor tee says where packets or flow records go".to_owned(),
                );
            }
        }
        checked.warnings = warnings;
        checked
    }
}

fn settings(given: &Given) -> Vec<Setting> {
    let effective = given.layers.effective();
    let said = given.mistakes.said();
    let of_key = |key: keys::Key| {
        let (origin, value) = effective.get(&key.name)?.clone();
        let (origin, from) = match origin {
            Origin::Default => ("default", "default".to_owned()),
            Origin::Flag => ("flag", format!("--{}", key.name)),
            Origin::Environment => ("environment", keys::variable(&key.name)),
            Origin::File => {
                let place = said.place(&key.name).map(ToString::to_string);
                ("file", place.unwrap_or_default())
            }
        };
        Some(Setting {
            table: key.group,
            key: key.name,
            value,
            origin,
            from,
        })
    };
    keys::all().into_iter().filter_map(of_key).collect()
}

fn inbound(listen: &Listen) -> Vec<Inbound> {
    let worker = &listen.run.worker;
    let networks = worker.allowed.networks.fewest();
    let mut inbound = Vec::new();
    for address in &listen.receive.addresses {
        let tunnel = match worker.tunnels.at_port(address.port()) {
            Some(Tunnel::Gpe) => "VXLAN-GPE",
            Some(Tunnel::Geneve) => "Geneve",
            Some(Tunnel::Vxlan) | None => "VXLAN",
        };
        let same_family = networks
            .iter()
            .filter(|network| network.is_ipv6() == address.is_ipv6());
        inbound.push(Inbound {
            protocol: "udp",
            address: address.ip(),
            port: address.port(),
            what: format!("mirrored traffic ({tunnel})"),
            sources: (!networks.is_empty()).then(|| same_family.map(ToString::to_string).collect()),
        });
    }
    let tees = listen.run.outputs.tees().iter();
    let tees = tees.map(|tee| ("tcp", *tee, "live view (--tee)"));
    let watching = &listen.watching;
    let watched = [
        ("tcp", watching.http, "metrics, health and status (--http)"),
        ("tcp", watching.health_tcp, "health checks (--health-tcp)"),
        ("udp", watching.health_udp, "health checks (--health-udp)"),
    ];
    let watched = watched.into_iter();
    let watched = watched.filter_map(|(protocol, address, what)| Some((protocol, address?, what)));
    for (protocol, address, what) in tees.chain(watched) {
        inbound.push(Inbound {
            protocol,
            address: address.ip(),
            port: address.port(),
            what: what.to_owned(),
            sources: None,
        });
    }
    inbound
}

fn outbound(collectors: &[Target], found: &[Found]) -> Vec<Outbound> {
    let mut outbound = Vec::new();
    for (target, found) in collectors.iter().zip(found) {
        let protocol = match target.transport {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        };
        outbound.push(Outbound {
            protocol,
            host: target.host(),
            addresses: found.clone().unwrap_or_default(),
            port: Some(target.port()),
            what: "flow records as IPFIX (--flows)".to_owned(),
        });
        if target.is_name() {
            outbound.push(Outbound {
                protocol: "udp",
                host: "the resolvers of /etc/resolv.conf".to_owned(),
                addresses: Vec::new(),
                port: Some(53),
                what: format!("DNS, to find {}", target.host()),
            });
        }
    }
    outbound
}

/// The socket of systemd, where this process has one.
fn to_systemd() -> Option<Outbound> {
    let socket = std::env::var_os("NOTIFY_SOCKET")?;
    Some(Outbound {
        protocol: "unix",
        host: socket.to_string_lossy().into_owned(),
        addresses: Vec::new(),
        port: None,
        what: "systemd: ready, status and watchdog (NOTIFY_SOCKET)".to_owned(),
    })
}

/// Collectors whose names have no address. Their names may be known where the run begins: no mistake of the settings.
fn without_address(collectors: &[Target], found: &[Found]) -> Vec<String> {
    let all = collectors.iter().zip(found);
    let without = all.filter_map(|(target, found)| Some((target, found.as_ref().err()?)));
    without
        .map(|(target, error)| {
            format!(
                "flows {target}: {error}. A run does not begin without it: correct the name, add it to the DNS or to \
                 /etc/hosts of this machine, or write the address"
            )
        })
        .collect()
}

fn memory(listen: &Listen) -> Vec<Memory> {
    let plan = plan(&listen.receive, &listen.run);
    let (of_sockets, of_rings) = plan.memory_bytes();
    let addresses = plan.addresses.len() as u64;
    let workers = u64::from(plan.steering.workers.max(1));
    let buffers = addresses * sockets::RECEIVE_BUFFER as u64;
    let udp = Memory {
        backend: "udp",
        most_bytes: listen.run.memory_bytes(of_sockets),
        kernel_bytes: buffers * workers,
    };
    let packet = Memory {
        backend: "packet",
        most_bytes: listen.run.memory_bytes(of_rings),
        kernel_bytes: buffers,
    };
    match plan.backend {
        Backend::Udp => vec![udp],
        Backend::Packet => vec![packet],
        Backend::Auto => vec![packet, udp],
    }
}

fn disk(listen: &Listen) -> Vec<Disk> {
    let outputs = &listen.run.outputs;
    let (stores, plan) = outputs.stores();
    let limit = plan.and_then(|plan| plan.keeping.limits.bytes);
    let stores = stores
        .into_iter()
        .map(|dir| (dir, limit, ls::check(dir).unwrap_or(0)));
    let files = outputs.growing().map(|file| (file, None, 0));
    let disk = stores.chain(files).map(|(path, most_bytes, used_bytes)| {
        let disk = file_system_of(path);
        Disk {
            path: path.display().to_string(),
            most_bytes,
            used_bytes,
            free_bytes: disk.as_ref().map(|disk| disk.free),
            total_bytes: disk.as_ref().map(|disk| disk.size),
        }
    });
    disk.collect()
}

/// The file system that a path is on, or will be once it is made.
fn file_system_of(path: &Path) -> Option<space::Disk> {
    let absolute = std::path::absolute(path).ok()?;
    absolute.ancestors().find_map(space::Disk::of)
}

/// Who can write into the capture, where that is everybody.
fn open_to_all(receive: &Receive, inbound: &[Inbound]) -> Option<String> {
    let mirrored = inbound.iter().take(receive.addresses.len());
    let open = mirrored.filter(|port| port.sources.is_none() && !port.address.is_loopback());
    let everywhere = open.clone().any(|port| port.address.is_unspecified());
    let open: Vec<String> = open
        .map(|port| SocketAddr::new(port.address, port.port).to_string())
        .collect();
    if open.is_empty() {
        return None;
    }
    let bind = match (everywhere, receive.by_default) {
        (true, true) => {
            " The default bind takes packets on every address of this machine: name one with bind."
        }
        (true, false) => " This is every address of this machine: name one with bind.",
        _ => "",
    };
    Some(format!(
        "open to the world: without allow, whoever reaches UDP {} can write packets into captures and flow records, \
         because VXLAN has no authentication. Name the mirror sources with allow, and let only them through the \
         security group ('vxtap check --rules').{bind}",
        open.join(", ")
    ))
}

/// Live views that others than this machine can see.
fn views(listen: &Listen) -> Vec<String> {
    let tees = listen.run.outputs.tees().iter();
    let open = tees.filter(|tee| !tee.ip().is_loopback());
    open.map(|tee| {
        format!("tcp://{tee} has no authentication and no encryption: whoever reaches it sees every mirrored packet")
    })
    .collect()
}

/// What this machine does not have.
fn too_much(checked: &Checked) -> Vec<String> {
    let mut warnings = Vec::new();
    let least = checked.memory.iter().map(|memory| memory.most_bytes).min();
    if let (Some(most), Some(available)) = (least, room::memory())
        && most > available
    {
        warnings.push(format!(
            "the run may take {} of memory, and {} are available now: lower max-flows, workers or max-open-files",
            bytes(most),
            bytes(available)
        ));
    }
    for disk in &checked.disk {
        let path = &disk.path;
        match (disk.most_bytes, disk.free_bytes) {
            (None, _) => warnings.push(format!(
                "{path} grows until the disk is full: a directory with keep-bytes, keep-files or keep-age has an end"
            )),
            (Some(most), Some(free)) if most > free.saturating_add(disk.used_bytes) => {
                warnings.push(format!(
                    "{path} may take {} (keep-bytes), and the file system has {} free beside the {} that it holds: the \
                     disk will be full before",
                    bytes(most),
                    bytes(free),
                    bytes(disk.used_bytes)
                ));
            }
            _ => {}
        }
    }
    warnings
}
