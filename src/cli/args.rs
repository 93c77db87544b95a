//! The command line as it was typed. [`super::settings`] turns it into what was meant.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::mirror::allowed::{Network, VniList};
use crate::send::options::HostPort;
use crate::send::traffic::{FrameSize, MAX_FRAME_LEN, MIN_FRAME_LEN};
use crate::wire::vxlan;

/// VXLAN mirror target: receives mirrored traffic, removes VXLAN, judges truncation, writes pcapng and
/// flow records.
#[derive(Debug, Parser)]
#[command(
    name = "vxtap",
    version,
    about,
    max_term_width = 110,
    arg_required_else_help = true
)]
#[command(after_help = "Exit codes: 0 done, 1 fault while running, 2 bad usage.")]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Decapsulate capture files: pcap or pcapng, plain or packed with gzip, zstd, lz4, bzip2 or xz
    Replay(ReplayArgs),
    /// Receive mirrored traffic (Linux)
    Listen(ListenArgs),
    /// Act as a mirror source: encapsulate plain captures and send them, or write them to a file
    Send(SendArgs),
}

/// What replay and listen share.
#[derive(Debug, Args)]
pub struct PipelineArgs {
    /// Write the mirrored frames to this capture file; `-` is standard output
    #[arg(
        short = 'w',
        long = "write",
        value_name = "FILE",
        help_heading = "Output"
    )]
    pub write: Option<PathBuf>,
    /// Kind of capture file
    #[arg(long, value_enum, default_value_t = FormatArg::Pcapng, help_heading = "Output")]
    pub format: FormatArg,
    /// Write flow records as JSON lines to this file; `-` is standard output. Repeatable
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub flows: Vec<PathBuf>,
    /// Write the summary as one JSON object to this file, in place of an older one; `-` is standard output
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub summary: Option<PathBuf>,
    /// Permissions of the files written, octal: 640 lets the group read [default: 600, or those of the file
    /// that is replaced]
    #[arg(long, value_name = "OCTAL", value_parser = file_mode, help_heading = "Output")]
    pub mode: Option<u32>,
    /// UDP destination port of VXLAN-GPE; 0 for none. Repeatable [default: 4790]
    #[arg(long, value_name = "PORT", help_heading = "Tunnels")]
    pub gpe_port: Vec<u16>,
    /// UDP destination port of Geneve, as gateway load balancers put it around VXLAN; 0 for none.
    /// Repeatable [default: 6081]
    #[arg(long, value_name = "PORT", help_heading = "Tunnels")]
    pub geneve_port: Vec<u16>,
    /// VXLAN layers to remove where VXLAN is nested. With more than 1, listen gives all packets to one worker
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16), help_heading = "Tunnels")]
    pub depth: u8,
    /// Take only packets whose outer source address belongs to this network, such as 10.0.0.0/8,
    /// 2001:db8::/32, or an address alone. Repeatable
    #[arg(long, value_name = "CIDR", help_heading = "Filters")]
    pub allow: Vec<Network>,
    /// Take only these VNIs: 5, 5,7 or 10-20. Repeatable
    #[arg(long, value_name = "LIST", help_heading = "Filters")]
    pub vni: Vec<VniList>,
    /// MTU of the path from mirror source to target, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1500, value_parser = clap::value_parser!(u32).range(68..=65535), help_heading = "Truncation")]
    pub mtu: u32,
    /// Bytes of the MTU that the cloud recommends to keep free for the mirror's headers; told as its advice
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=1000), help_heading = "Truncation")]
    pub mtu_overhead: u32,
    /// Threads that work on packets, or `auto`: one core is left to the writer, the rest work
    #[arg(long, value_name = "N|auto", default_value = "auto", value_parser = workers, help_heading = "Limits")]
    pub workers: Workers,
    /// Longest wait for a worker that keeps silent, so that captures are in time order: 100ms, 1s. Replay
    /// waits as long as it takes
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = duration, help_heading = "Limits")]
    pub max_reorder: Duration,
    /// Most flows kept at a time, shared out among the workers; the one seen longest ago makes room for a
    /// new one
    #[arg(long, value_name = "N", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1..=268_435_456), help_heading = "Limits")]
    pub max_flows: u32,
}

/// `vxtap replay`.
#[derive(Debug, Args)]
#[command(
    after_help = "Files are read one after the other in the order given. Several VXLAN ports: repeat --port.\n\n\
                  Ctrl-C (SIGINT), SIGTERM and SIGHUP stop the replay: what was read is written, every file is \
                  finished, and the exit code is 1 because the input was not read to its end. A second signal ends \
                  at once. SIGUSR1 prints the summary so far on standard error; the replay goes on."
)]
pub struct ReplayArgs {
    /// Capture files; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// UDP destination port of VXLAN. Repeatable [default: 4789]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..), help_heading = "Tunnels")]
    pub port: Vec<u16>,
    /// The files hold packets that are not encapsulated: take them as they are
    #[arg(long)]
    pub plain: bool,
    /// What replay and listen share
    #[command(flatten)]
    pub pipeline: PipelineArgs,
}

/// `vxtap listen`.
#[derive(Debug, Args)]
#[command(
    after_help = "Stop with Ctrl-C (SIGINT), SIGTERM or SIGHUP: what has arrived by then is written, every file is \
                  finished, and the exit code is 0. A second signal ends at once (a SIGHUP not within half a second \
                  of the first: closing a session sends both). With nohup SIGHUP stays ignored. SIGUSR1 prints the \
                  summary so far on standard error; the run goes on."
)]
pub struct ListenArgs {
    /// Address and port to receive on. Repeatable; IPv6 as `[::]:4789`. Ports given with --gpe-port and
    /// --geneve-port are taken for those tunnels, every other for VXLAN
    #[arg(long, value_name = "ADDR:PORT", default_values_t = [SocketAddr::from(([0, 0, 0, 0], 4789))])]
    pub bind: Vec<SocketAddr>,
    /// How packets are taken from the kernel: `udp` sockets need no privilege; a `packet` ring (CAP_NET_RAW)
    /// loses fewer packets; `auto` takes the ring where it may and the interface is clear
    #[arg(long, value_enum, default_value_t = BackendArg::Auto)]
    pub backend: BackendArg,
    /// Interface of the packet ring; without it that which the addresses belong to
    #[arg(long, value_name = "IF")]
    pub interface: Option<String>,
    /// Take trains of datagrams (UDP_GRO; udp backend, one worker): much faster where senders fill in the
    /// outer UDP checksum, but one time a train, and a train the kernel drops counts as one. `auto` is
    /// `off`: exact times and counts come first
    #[arg(long, value_enum, default_value_t = GroArg::Auto)]
    pub gro: GroArg,
    /// Stop after this time: 90, 30s, 5m, 2h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Cores to pin the workers to, in their order: 2, 0,2 or 4-7. Without it several workers take the
    /// cores this process may use, one each
    #[arg(long, value_name = "LIST", value_parser = cpus)]
    pub cpus: Option<CpuList>,
    /// Replace finished files of the names given to -w and --flows. Without it they are kept, and this run
    /// writes under the next free name: out.1.pcapng
    #[arg(long, help_heading = "Output")]
    pub overwrite: bool,
    /// Stop after this many mirrored frames
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// What replay and listen share
    #[command(flatten)]
    pub pipeline: PipelineArgs,
}

/// `vxtap send`.
#[derive(Debug, Args)]
#[command(
    after_help = "A file that holds VXLAN datagrams is taken to be encapsulated already: they are sent as they are, \
                  other packets are skipped. Frames are cut only where --packet-length or --mtu says so. Frames that \
                  --generate makes hold valid TCP and UDP packets to and from port 9; their payload starts with a \
                  number that counts from 0, 8 bytes, most significant first.\n\n\
                  Ctrl-C (SIGINT), SIGTERM and SIGHUP stop sending: the last line and --summary tell what was sent, \
                  and the exit code is 1. A second signal ends at once."
)]
pub struct SendArgs {
    /// Capture files with Ethernet frames; `-` is standard input
    #[arg(required_unless_present = "generate", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Where to send: host or address, with or without a port (default 4789)
    #[arg(long, value_name = "HOST[:PORT]", value_parser = host_port, required_unless_present = "write")]
    pub to: Option<HostPort>,
    /// Write the encapsulated packets to this pcap file (nanoseconds, original times) instead of
    /// sending; `-` is standard output
    #[arg(long, value_name = "FILE", conflicts_with_all = ["speed", "as_recorded"])]
    pub write: Option<PathBuf>,
    /// Write what was sent as one JSON object to this file, in place of an older one; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub summary: Option<PathBuf>,
    /// Permissions of the files written, octal: 640 lets the group read [default: 600, or those of the file
    /// that is replaced]
    #[arg(long, value_name = "OCTAL", value_parser = file_mode)]
    pub mode: Option<u32>,
    /// VXLAN network identifier, 0 to 16777215
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=0x00ff_ffff))]
    pub vni: u32,
    /// The files hold plain frames, even if some of them look like VXLAN: encapsulate every one
    #[arg(long)]
    pub plain: bool,
    /// Keep at most this many bytes of each frame behind the VXLAN header, as a mirror session's packet
    /// length does
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=65535))]
    pub packet_length: Option<u32>,
    /// Cut frames so that the outer IP packet is at most this long, as an MTU on the way does
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(68..=65535))]
    pub mtu: Option<u32>,
    /// Outer source address of written packets; when sending, the local address to send from
    #[arg(long, value_name = "ADDR")]
    pub source: Option<IpAddr>,
    /// Outer source port; without it the system chooses one (written packets: 49152)
    #[arg(long, value_name = "PORT", conflicts_with = "source_port_hash", value_parser = clap::value_parser!(u16).range(1..))]
    pub source_port: Option<u16>,
    /// Outer source port from a hash of the inner addresses and ports, as RFC 7348 recommends
    #[arg(long)]
    pub source_port_hash: bool,
    /// Send with a zero outer UDP checksum, as RFC 7348 asks for and most mirror sources do (Linux; written
    /// packets always have one)
    #[arg(long)]
    pub no_udp_checksum: bool,
    /// Packets a second; without it as fast as the system takes them (--generate --write: 1000)
    #[arg(long, value_name = "N", value_parser = positive, group = "pace")]
    pub pps: Option<f64>,
    /// Times the recorded speed
    #[arg(long, value_name = "FACTOR", value_parser = positive, group = "pace")]
    pub speed: Option<f64>,
    /// At the recorded speed
    #[arg(long, group = "pace")]
    pub as_recorded: bool,
    /// Send the files this many times
    #[arg(long = "loop", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub loops: u64,
    /// Instead of files
    #[command(flatten)]
    pub generate: GenerateArgs,
}

/// `vxtap send --generate`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Generate")]
pub struct GenerateArgs {
    /// Send synthetic traffic instead of files: flows in both directions, the same in every run
    #[arg(long)]
    pub generate: bool,
    /// Stop after this many packets
    #[arg(long, value_name = "N", requires = "generate", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Stop after this time: 90, 30s, 5m, 2h [default: 10s, unless there is a --count]
    #[arg(long, value_name = "TIME", requires = "generate", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Inner flows, half of them TCP, half UDP
    #[arg(long, value_name = "N", requires = "generate", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub flows: u32,
    /// Length of inner frames in bytes: one, MIN-MAX, or imix (64, 570 and 1400 at 7:4:1). Frames too short
    /// for their headers and their number get up to 86
    #[arg(long, value_name = "N|MIN-MAX|imix", requires = "generate", default_value = "imix", value_parser = frame_size)]
    pub frame_size: FrameSize,
    /// Share of flows that are IPv6
    #[arg(long, value_name = "PERCENT", requires = "generate", default_value_t = 30, value_parser = clap::value_parser!(u8).range(..=100))]
    pub ipv6_percent: u8,
    /// Share of flows with an 802.1Q tag
    #[arg(long, value_name = "PERCENT", requires = "generate", default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=100))]
    pub vlan_percent: u8,
    /// Network identifiers, from --vni up; each flow belongs to one
    #[arg(long, value_name = "N", requires = "generate", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=0x0100_0000))]
    pub vnis: u32,
    /// Outer source ports, from --source-port (49152) up, chosen by a hash of the inner addresses and ports;
    /// the two directions of a flow may differ
    #[arg(long, value_name = "N", requires = "generate", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub source_ports: u16,
    /// Another number gives other addresses, lengths and another order
    #[arg(long, value_name = "N", requires = "generate", default_value_t = 1)]
    pub seed: u64,
    /// Count packets the system has no room for as unsent, instead of sending them again: a rate is offered
    /// whether it is taken or not
    #[arg(long, requires = "generate")]
    pub no_retry: bool,
    /// Core to send from (Linux)
    #[arg(long, value_name = "CORE", requires = "generate")]
    pub cpu: Option<usize>,
}

/// How many workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// As many as the machine has cores, less one.
    Auto,
    /// So many.
    Number(u32),
}

fn workers(text: &str) -> Result<Workers, String> {
    match (text, text.parse::<u32>()) {
        ("auto", _) => Ok(Workers::Auto),
        (_, Ok(number @ 1..=256)) => Ok(Workers::Number(number)),
        _ => Err("a number from 1 to 256, or 'auto', is needed".to_owned()),
    }
}

/// Permission bits: "640", "0640", "0o640".
fn file_mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let plain = digits.bytes().all(|digit| digit.is_ascii_digit());
    match u32::from_str_radix(digits, 8) {
        Ok(mode @ 0..=0o777) if plain => Ok(mode),
        _ => Err("an octal number up to 777 is needed, such as 640".to_owned()),
    }
}

/// A list of cores: "2", "0,2,4", "4-7".
fn cpus(text: &str) -> Result<CpuList, String> {
    let mut list = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
            (Ok(first), Ok(last)) if first <= last && last < 1024 => list.extend(first..=last),
            _ => {
                return Err(format!(
                    "'{part}' is no core; use for example 2, 0,2 or 4-7"
                ));
            }
        }
    }
    Ok(CpuList(list))
}

/// Cores by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(pub Vec<usize>);

/// Ways to take packets from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendArg {
    /// A packet ring where it is permitted and the interface is clear, else sockets
    Auto,
    /// UDP sockets
    Udp,
    /// A packet ring
    Packet,
}

/// Whether trains of datagrams are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GroArg {
    /// As `off`
    Auto,
    /// With one worker and the udp backend
    On,
    /// Never
    Off,
}

/// Kinds of capture file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// One interface a mirror session, comments on cut packets
    Pcapng,
    /// Classic pcap with nanosecond times
    Pcap,
}

/// A time with an optional unit: seconds without one.
fn duration(text: &str) -> Result<Duration, String> {
    let digits_end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits_end);
    let factor = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(format!("unknown unit '{unit}'; use ms, s, m, h or d")),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| "not a time; use for example 90, 30s, 5m or 2h".to_owned())?;
    Duration::try_from_secs_f64(number * factor)
        .ok()
        .filter(|time| !time.is_zero())
        .ok_or_else(|| "a time above zero is needed".to_owned())
}

/// "imix", "1400" or "64-1400".
fn frame_size(text: &str) -> Result<FrameSize, String> {
    if text == "imix" {
        return Ok(FrameSize::Imix);
    }
    let (shortest, longest) = text.split_once('-').unwrap_or((text, text));
    let len = |text: &str| text.parse::<u16>().ok();
    match (len(shortest), len(longest)) {
        (Some(shortest), Some(longest))
            if MIN_FRAME_LEN <= shortest && shortest <= longest && longest <= MAX_FRAME_LEN =>
        {
            Ok(FrameSize::Between(shortest, longest))
        }
        _ => Err(format!(
            "'imix', a length like 512 or a range like 64-1400 is needed, from {MIN_FRAME_LEN} to \
             {MAX_FRAME_LEN} bytes"
        )),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("a number above zero is needed".to_owned()),
    }
}

/// `HOST`, `HOST:PORT`, `[IPV6]:PORT` or an IPv6 address alone; VXLAN's port where none is given.
fn host_port(text: &str) -> Result<HostPort, String> {
    let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(None) => return Err("the ']' is missing".to_owned()),
        Some(Some((host, ""))) => (host, None),
        Some(Some((host, behind))) => (host, Some(behind.strip_prefix(':').unwrap_or(behind))),
        // More than one colon makes an IPv6 address.
        None => match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => (host, Some(port)),
            _ => (text, None),
        },
    };
    let port = match port.map(str::parse) {
        None => vxlan::PORT,
        Some(Ok(port @ 1..)) => port,
        Some(_) => return Err("the port is a number from 1 to 65535".to_owned()),
    };
    if host.is_empty() {
        return Err("the host is missing".to_owned());
    }
    let host = host.to_owned();
    Ok(HostPort { host, port })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in [
            "",
            "0",
            "-1",
            "5x",
            "m",
            "1e99d",
            "99999999999999999999999d",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn frame_sizes() {
        let between = |shortest, longest| Ok(FrameSize::Between(shortest, longest));
        assert_eq!(frame_size("imix"), Ok(FrameSize::Imix));
        assert_eq!(frame_size("512"), between(512, 512));
        assert_eq!(frame_size("60-65499"), between(60, 65_499));
        for bad in [
            "",
            "-",
            "59",
            "65500",
            "64-",
            "-64",
            "100-64",
            "64-1400-2",
            "IMIX",
            "6e1",
        ] {
            assert!(frame_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_and_ports() {
        let read = |text: &str| host_port(text).map(|to| (to.host, to.port)).ok();
        let some = |host: &str, port: u16| Some((host.to_owned(), port));
        assert_eq!(read("target.example"), some("target.example", 4789));
        assert_eq!(read("target.example:4790"), some("target.example", 4790));
        assert_eq!(read("10.0.0.1"), some("10.0.0.1", 4789));
        assert_eq!(read("10.0.0.1:1"), some("10.0.0.1", 1));
        assert_eq!(read("fd00::1"), some("fd00::1", 4789));
        assert_eq!(read("[fd00::1]"), some("fd00::1", 4789));
        assert_eq!(read("[fd00::1]:65535"), some("fd00::1", 65_535));
        for bad in [
            "", ":4789", "a:", "a:0", "a:65536", "a:x", "[]:1", "[::1", "[::1]:", "[::1]x",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
