//! The commands and what can be typed behind them. The settings of `replay` and `listen` are in
//! [`super::settings`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use serde::Serialize;

use super::settings::typed;
use super::values;
use crate::filter::Filter;
use crate::flow::record::FlowId;
use crate::host::groups;
use crate::send::options::HostPort;
use crate::send::traffic::FrameSize;
use crate::wire::Vni;

/// VXLAN mirror target: receives mirrored traffic, decapsulates it, finds truncated packets, and writes
/// pcapng and flow records.
#[derive(Debug, Parser)]
#[command(
    name = "vxtap",
    version,
    about,
    max_term_width = 110,
    arg_required_else_help = true
)]
#[command(
    after_help = "Exit codes: 0 done, 1 fault while running, 2 bad usage, 3 something was lost (with --fail-on-loss). The environment variable VXTAP_LOG sets how \
                        much is logged on standard error: error, warn, info (the default), debug, trace or off."
)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Decapsulate capture files: pcap or pcapng, plain or packed with gzip, zstd, lz4, bzip2 or xz
    #[command(
        after_help = "Files are read one after the other in the order given. Several VXLAN ports: repeat --port.\n\n\
                      Ctrl-C (SIGINT), SIGTERM and SIGHUP stop the replay: what was read is written, every file is \
                      finished, and the exit code is 1 because the input was not read to its end. A second signal \
                      ends at once. SIGUSR1 prints the summary so far on standard error; the replay goes on. SIGUSR2 \
                      ends the open files of a store, and the replay goes on in new ones.\n\n\
                      A file without a mirrored packet is no fault: the exit code is 0, the last lines say what to try, \
                      and `delivered` in --summary is 0."
    )]
    Replay(Box<typed::Replay>),
    /// Receive mirrored traffic (Linux)
    #[command(
        after_help = "Stop with Ctrl-C (SIGINT), SIGTERM or SIGHUP: what has arrived by then is written, every file \
                      is finished, and the exit code is 0. A second signal ends at once (a SIGHUP not within half a \
                      second of the first: closing a session sends both). With nohup SIGHUP stays ignored. SIGUSR1 \
                      prints the summary so far on standard error; the run goes on. SIGUSR2 ends the open \
                      files of a store, and the run goes on in new ones. In a run without a terminal, such as a \
                      service, SIGHUP does not end it where it has a store, whose files it ends, or a --config file, which it \
                      reads anew (vxtap reload)."
    )]
    Listen(Box<ListenArgs>),
    /// Check the settings of listen: what holds and where it came from, memory and disk, ports, and every mistake at once
    #[cfg(target_os = "linux")]
    #[command(
        after_help = "check takes every flag of vxtap listen too, and the same environment variables: what it tells is what \
                      'vxtap listen --config FILE' with these flags would take. It opens no port and writes no file.\n\n\
                      Exit codes: 0 nothing is wrong, 2 there are mistakes."
    )]
    Check(Box<CheckArgs>),
    /// Act as a mirror source: encapsulate plain captures and send them, or write them to a file
    Send(SendArgs),
    /// List what a store holds: files, time spans, gaps and losses
    Ls(LsArgs),
    /// Prove that a store is what its manifest says
    Verify(VerifyArgs),
    /// Put vxtap into the list of interfaces of Wireshark and tshark, or take it out
    #[command(
        after_help = "A link to this program is put into Wireshark's personal extcap directory. From its next start on \
                      Wireshark lists the interface 'VXLAN mirror receiver: vxtap'; the gear beside it has port, address, \
                      VNIs, networks that may send, MTU, backend and workers. tshark takes them as preferences: \
                      'tshark -i vxtap -o extcap.vxtap.port:4790'."
    )]
    Extcap(ExtcapArgs),
    /// Take packets out of a store or of capture files: by flow, address, VNI, time, filter expression
    Extract(ExtractArgs),
    /// Report what was truncated, why and what to set: in captures, a store or an earlier summary
    Report(ReportArgs),
    /// Have a running vxtap listen read its settings anew
    #[cfg(target_os = "linux")]
    Reload(ReloadArgs),
    /// Tell how a running vxtap listen is: sessions, rates, losses with remedies, outputs
    Status(StatusArgs),
    /// Print the completions of a shell: bash, zsh, fish, elvish or powershell
    #[command(
        after_help = "For this shell only: 'source <(vxtap completions bash)'. For good: bash reads \
                      ~/.local/share/bash-completion/completions/vxtap, zsh a file _vxtap in a directory of fpath, fish \
                      ~/.config/fish/completions/vxtap.fish. The Debian package installs all three."
    )]
    Completions(CompletionsArgs),
    /// Write the man pages into a directory
    #[command(hide = true)]
    Man(ManArgs),
}

/// `vxtap reload`.
#[derive(Debug, Args)]
#[command(
    after_help = "reload asks a running 'vxtap listen' through its control socket, as vxtap status does, to read its file, its \
                  environment and the files of --allow-file, --labels and --expect anew. Without losing a packet it takes allow, \
                  allow-file, vni, vni-deny, filter, labels, expect, silent-after, keep-bytes, keep-files, keep-age, min-free, log, and another program of on-rotate, and \
                  tells which other settings need a restart. Where there is a mistake, nothing changes. SIGHUP does the same in a \
                  run that has a --config file and no terminal, and the answer is in its log.\n\n\
                  Exit codes: 0 taken, 1 no answer, 2 there are mistakes and nothing has changed, 3 no running instance."
)]
pub struct ReloadArgs {
    /// Control socket of the instance, as given to its --control, or the number of its process
    #[arg(long, value_name = "PATH|PID")]
    pub control: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// `vxtap status`.
#[derive(Debug, Args)]
#[command(
    after_help = "status asks a running 'vxtap listen' through its control socket; it needs no HTTP, and only the same user \
                  and root may ask. Rates and what is new are told over the last 10 s at the most.\n\n\
                  Without --control it looks in $RUNTIME_DIRECTORY, /run/vxtap (root) or $XDG_RUNTIME_DIR/vxtap. Where \
                  several instances run, it names their sockets.\n\n\
                  Exit codes: 0 healthy, 1 not healthy (something was lost in the last 10 s, an output failed, a thread does not \
                  answer) or no answer, 2 bad usage, 3 no running instance. No traffic is no fault."
)]
pub struct StatusArgs {
    /// Control socket of the instance, as given to its --control, or the number of its process
    #[arg(long, value_name = "PATH|PID")]
    pub control: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// `vxtap completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// `vxtap man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Directory, which exists
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// `vxtap listen`.
#[derive(Debug, Args)]
pub struct ListenArgs {
    /// Read settings from this TOML file, whose keys have the names of the flags: docs/CONFIGURATION.md, and an example in
    /// docs/vxtap.toml. An environment variable (VXTAP_MTU for --mtu; VXTAP_CONFIG names the file) counts before the
    /// file, and a flag before both. `vxtap check FILE` tells what holds, and every mistake
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Its settings
    #[command(flatten)]
    pub settings: typed::Listen,
}

/// `vxtap check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// File of settings (TOML). Without one it is that of VXTAP_CONFIG, or the defaults with the environment and flags
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long, group = "printed")]
    pub json: bool,
    /// Print a file that gives the same settings
    #[arg(long, group = "printed")]
    pub toml: bool,
    /// Print the least rules that let exactly the sources of --allow reach the ports: of a security group and a network
    /// ACL in that cloud, or of this machine's nftables
    #[arg(long, group = "printed", value_name = "huawei|aws|alibaba|nftables", value_parser = RuleKind::read)]
    pub rules: Option<RuleKind>,
    /// Flags of listen
    #[command(flatten)]
    pub settings: typed::Listen,
}

/// Whose rules `vxtap check --rules` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleKind {
    /// Terraform for Huawei Cloud.
    Huawei,
    /// Commands of the AWS command line.
    Aws,
    /// Terraform for Alibaba Cloud.
    Alibaba,
    /// An nftables table.
    Nftables,
}

impl RuleKind {
    fn read(text: &str) -> Result<Self, String> {
        let words = [
            ("huawei", Self::Huawei),
            ("aws", Self::Aws),
            ("alibaba", Self::Alibaba),
            ("nftables", Self::Nftables),
        ];
        values::one_of(text, &words)
    }
}

/// `vxtap ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Directory of the store
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// `vxtap verify`.
#[derive(Debug, Args)]
#[command(
    after_help = "verify proves that the manifest's lines follow each other, and that every file that a line lists and \
                  none deletes is there with its size and SHA-256. It names what was changed, removed, swapped, repeated \
                  or added, the first one first. It changes nothing, and a run may write to the store meanwhile.\n\n\
                  Without a signature nobody can tell a store from one that was made anew as a whole, or whose last \
                  lines were removed together with their files.\n\n\
                  Exit codes: 0 all is proven, 1 something is not, 2 bad usage."
)]
pub struct VerifyArgs {
    /// Directory of the store
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Every line must be signed with the secret key that belongs to this public key (PEM or 64 hexadecimal digits).
    /// Repeatable: one of several
    #[arg(long, value_name = "FILE")]
    pub public_key: Vec<PathBuf>,
    /// Print one JSON object instead of lines
    #[arg(long)]
    pub json: bool,
}

/// `vxtap extcap`.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct ExtcapArgs {
    /// Put a link into this directory; without DIR into the personal extcap directory that tshark or wireshark names
    #[arg(long, value_name = "DIR", num_args = 0..=1)]
    pub install: Option<Option<PathBuf>>,
    /// Remove the link from this directory; without DIR from the personal extcap directory
    #[arg(long, value_name = "DIR", num_args = 0..=1)]
    pub uninstall: Option<Option<PathBuf>>,
}

/// `vxtap extract`.
#[derive(Debug, Args)]
#[command(
    after_help = "Filters combine: a packet has to fit all of them. Without any, all packets are merged by time. A file \
                  of a store has an index beside it (NAME.idx), and only the bytes that it names are read; a file \
                  without an index, or whose index does not fit it, is read whole, and a line says so. The packets found \
                  do not depend on it.\n\n\
                  Packets are taken as they stand in the files: of files with encapsulated packets make a capture with \
                  vxtap replay first. VNIs are those of the interfaces in pcapng files that vxtap wrote. A packet is \
                  truncated where vxtap noted so; in files of others, where fewer bytes are stored than were on the \
                  wire. A store's file that is still being written is not read.\n\n\
                  Where no packet fits, a line says so, the file written holds none, and the exit code is 0. It is 1 \
                  when a file cannot be read to its end: what was found is written all the same."
)]
pub struct ExtractArgs {
    /// Directories of stores, and capture files: pcapng or pcap, plain or packed
    #[arg(required = true, value_name = "DIR|FILE")]
    pub paths: Vec<PathBuf>,
    /// Write the packets to this pcapng file, in place of an older one; `-` is standard output
    #[arg(short = 'w', long, value_name = "FILE")]
    pub write: PathBuf,
    /// Packets of this flow: the `flow_id` of a flow record, 16 hexadecimal digits
    #[arg(long, value_name = "ID", value_parser = values::flow_id)]
    pub flow: Option<FlowId>,
    /// Flow records (JSON lines) that have the --flow: they tell where to look. Without them all packets are read
    /// to find its first one. Repeatable
    #[arg(long, value_name = "FILE")]
    pub flows: Vec<PathBuf>,
    /// Packets of flows with this community id, such as 1:LQU9qZlK+B5F3KDmev6m5PMibrg=, of every VNI (seed 0)
    #[arg(long, value_name = "ID", value_parser = values::community_id)]
    pub community_id: Option<[u8; 20]>,
    /// Packets of this VNI
    #[arg(long, value_name = "N", value_parser = values::vni)]
    pub vni: Option<Vni>,
    /// IP packets from or to this inner address. Given twice: between the two
    #[arg(long, value_name = "ADDR", value_parser = values::address)]
    pub host: Vec<IpAddr>,
    /// Packets from this time on: 2026-01-31T23:59:59Z, "2026-01-31 23:59:59.5" or 2026-01-31 (UTC), or -10m for ten
    /// minutes ago
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = values::moment)]
    pub since: Option<u64>,
    /// Packets before this time, which itself is not included
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = values::moment)]
    pub until: Option<u64>,
    /// Packets that were truncated before they arrived
    #[arg(long)]
    pub truncated: bool,
    /// Packets that this expression fits, as --filter of listen and replay: 'tcp port 443 and not net 10.0.0.0/8'. No
    /// index knows it: what the other filters leave is looked at packet by packet
    #[arg(long, value_name = "EXPRESSION", value_parser = values::filter)]
    pub filter: Option<Filter>,
    /// Write what was found and read as one JSON object to this file; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub summary: Option<PathBuf>,
    /// Permissions of the files written, octal: 640 lets the group read [default: 600, or those of the file
    /// that is replaced; 640 with --group]
    #[arg(long, value_name = "OCTAL", value_parser = values::file_mode)]
    pub mode: Option<u32>,
    /// Group of the files written, by name or number. The user that runs this has to be a member of it; root need not
    #[arg(long, value_name = "NAME|GID", value_parser = groups::to_give)]
    pub group: Option<u32>,
}

/// `vxtap report`.
#[derive(Debug, Args)]
#[command(
    after_help = "report reads captures as vxtap replay does, and writes no other file. It reads stores, and captures that \
                  vxtap wrote, as decapsulated. The report has, for each mirror session, what arrived truncated, the sizes \
                  of its frames, the cause with its evidence and what to do; what changed over time; the largest flows \
                  and protocols; and the ledger. A summary (--summary of listen and replay) holds no flow records, so its \
                  report has no flows. What report --json printed can be read again, flows included.\n\n\
                  The HTML page is one file without scripts that needs no network, light or dark as the browser asks.\n\n\
                  Exit codes: 0 done, whatever was truncated; 1 the input could not be read to its end, and the report is of what was read; 2 bad usage."
)]
pub struct ReportArgs {
    /// Capture files, the directory of a store, or a JSON summary
    #[arg(required = true, value_name = "FILE|DIR|SUMMARY")]
    pub paths: Vec<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// Write one HTML page to this file, in place of an older one, instead of text; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Permissions of the file written, octal: 640 lets the group read [default: 600, or those of the file
    /// that is replaced; 640 with --group]
    #[arg(long, value_name = "OCTAL", value_parser = values::file_mode)]
    pub mode: Option<u32>,
    /// Group of the file written, by name or number. The user that runs this has to be a member of it; root need not
    #[arg(long, value_name = "NAME|GID", value_parser = groups::to_give)]
    pub group: Option<u32>,
    /// The files hold packets that are not encapsulated: read them as they are
    #[arg(long)]
    pub plain: bool,
    /// UDP destination port of VXLAN. Repeatable
    #[arg(long, value_name = "PORT", help_heading = "Tunnels")]
    pub port: Option<Vec<typed::Text>>,
    /// What is decapsulated
    #[command(flatten)]
    pub tunnels: typed::Tunnels,
    /// What is wanted
    #[command(flatten)]
    pub filters: typed::Filters,
    /// What is known of mirror sessions
    #[command(flatten)]
    pub sessions: typed::KnownSessions,
    /// What truncation is judged by
    #[command(flatten)]
    pub truncation: typed::Truncation,
    /// Threads and memory
    #[command(flatten)]
    pub limits: typed::Limits,
}

/// `vxtap send`.
#[derive(Debug, Args)]
#[command(
    after_help = "If a file holds VXLAN datagrams, send takes it as encapsulated already: it sends them as they are and \
                  skips other packets. Only --packet-length and --mtu cut frames. --generate makes valid TCP and UDP \
                  packets to and from port 9; their payload starts with a number that counts from 0, 8 bytes, most \
                  significant first.\n\n\
                  Ctrl-C (SIGINT), SIGTERM and SIGHUP stop sending: the last line and --summary tell what was sent, \
                  and the exit code is 1. A second signal ends at once."
)]
pub struct SendArgs {
    /// Capture files of any link type that replay --plain takes; `-` is standard input
    #[arg(required_unless_present = "generate", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Where to send: host or address, with or without a port (default 4789). With --write it is the outer
    /// destination of the packets written, and nothing is sent
    #[arg(long, value_name = "HOST[:PORT]", value_parser = values::host_port)]
    pub to: Option<HostPort>,
    /// Write the encapsulated packets to this pcap file (nanoseconds, original times) instead of
    /// sending; `-` is standard output
    #[arg(long, value_name = "FILE", conflicts_with_all = ["speed", "as_recorded"])]
    pub write: Option<PathBuf>,
    /// Write what was sent as one JSON object to this file, in place of an older one; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub summary: Option<PathBuf>,
    /// Permissions of the files written, octal: 640 lets the group read [default: 600, or those of the file
    /// that is replaced; 640 with --group]
    #[arg(long, value_name = "OCTAL", value_parser = values::file_mode)]
    pub mode: Option<u32>,
    /// Group of the files written, by name or number. The user that runs this has to be a member of it; root need not
    #[arg(long, value_name = "NAME|GID", value_parser = groups::to_give)]
    pub group: Option<u32>,
    /// VXLAN network identifier, 0 to 16777215
    #[arg(long, value_name = "N", default_value = "1", value_parser = values::vni)]
    pub vni: Vni,
    /// The files hold plain frames, even if some of them look like VXLAN: encapsulate every one
    #[arg(long)]
    pub plain: bool,
    /// Keep at most this many bytes of each frame behind the VXLAN header, as a mirror session's packet
    /// length does
    #[arg(long, value_name = "BYTES", value_parser = |text: &str| values::number(text, 1..=65_535_u32))]
    pub packet_length: Option<u32>,
    /// Cut frames so that the outer IP packet is at most this long, as an MTU on the way does
    #[arg(long, value_name = "BYTES", value_parser = |text: &str| values::number(text, 68..=65_535_u32))]
    pub mtu: Option<u32>,
    /// Outer source address of written packets; when sending, the local address to send from
    #[arg(long, value_name = "ADDR", value_parser = values::address)]
    pub source: Option<IpAddr>,
    /// Outer source port; without it the system chooses one (written packets: 49152)
    #[arg(long, value_name = "PORT", conflicts_with = "source_port_hash", value_parser = values::port)]
    pub source_port: Option<u16>,
    /// Outer source port from a hash of the inner addresses and ports, as RFC 7348 recommends
    #[arg(long)]
    pub source_port_hash: bool,
    /// Send with a zero outer UDP checksum, as RFC 7348 asks for and most mirror sources do (Linux; written
    /// packets always have one)
    #[arg(long)]
    pub no_udp_checksum: bool,
    /// Packets a second; without it as fast as the system takes them (--generate --write: 1000)
    #[arg(long, value_name = "N", value_parser = values::positive, group = "pace")]
    pub pps: Option<f64>,
    /// Send at the recorded speed times FACTOR
    #[arg(long, value_name = "FACTOR", value_parser = values::positive, group = "pace")]
    pub speed: Option<f64>,
    /// Send at the recorded speed
    #[arg(long, group = "pace")]
    pub as_recorded: bool,
    /// Send the files this many times
    #[arg(long = "loop", value_name = "N", default_value_t = 1, value_parser = values::count)]
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
    #[arg(long, value_name = "N", requires = "generate", value_parser = values::count)]
    pub count: Option<u64>,
    /// Stop after this time: 90, 30s, 5m, 2h [default: 10s, unless there is a --count]
    #[arg(long, value_name = "TIME", requires = "generate", value_parser = values::time)]
    pub duration: Option<Duration>,
    /// Inner flows, half of them TCP, half UDP
    #[arg(long, value_name = "N", requires = "generate", default_value_t = 10_000, value_parser = |text: &str| values::number(text, 1..=1_u32 << 20))]
    pub flows: u32,
    /// Length of inner frames in bytes: one, MIN-MAX, or imix (64, 570 and 1400 at 7:4:1). Frames too short
    /// for their headers and their number get up to 86
    #[arg(long, value_name = "N|MIN-MAX|imix", requires = "generate", default_value = "imix", value_parser = values::frame_size)]
    pub frame_size: FrameSize,
    /// Share of flows that are IPv6
    #[arg(long, value_name = "PERCENT", requires = "generate", default_value_t = 30, value_parser = |text: &str| values::number(text, 0..=100_u8))]
    pub ipv6_percent: u8,
    /// Share of flows with an 802.1Q tag
    #[arg(long, value_name = "PERCENT", requires = "generate", default_value_t = 0, value_parser = |text: &str| values::number(text, 0..=100_u8))]
    pub vlan_percent: u8,
    /// Network identifiers, from --vni up; each flow belongs to one
    #[arg(long, value_name = "N", requires = "generate", default_value_t = 1, value_parser = |text: &str| values::number(text, 1..=0x0100_0000_u32))]
    pub vnis: u32,
    /// Outer source ports, from --source-port (49152) up, chosen by a hash of the inner addresses and ports;
    /// the two directions of a flow may differ
    #[arg(long, value_name = "N", requires = "generate", default_value_t = 1, value_parser = |text: &str| values::number(text, 1..=4096_u16))]
    pub source_ports: u16,
    /// Seed: another number gives other addresses, lengths and another order
    #[arg(long, value_name = "N", requires = "generate", default_value_t = 1, value_parser = |text: &str| values::number(text, 0..=u64::MAX))]
    pub seed: u64,
    /// Count packets the system has no room for as unsent, instead of sending them again: a rate is offered
    /// whether it is taken or not
    #[arg(long, requires = "generate")]
    pub no_retry: bool,
    /// Core to send from (Linux)
    #[arg(long, value_name = "CORE", requires = "generate", value_parser = |text: &str| values::number(text, 0..=1023_usize))]
    pub cpu: Option<usize>,
}

/// The command line, with the defaults of the settings in its help.
pub fn command() -> clap::Command {
    Cli::command()
        .mut_subcommand("replay", |replay| {
            with_defaults(replay, &typed::Replay::defaults())
        })
        .mut_subcommand("report", |report| {
            with_defaults(report, &typed::Replay::defaults())
        })
        .mut_subcommand("listen", |listen| {
            with_defaults(listen, &typed::Listen::defaults())
        })
        .mut_subcommands(|command| match command.get_name() {
            "check" => command.mut_args(|flag| match flag.get_long() {
                // Those of listen are in its help.
                Some("json" | "toml" | "rules") | None => flag,
                Some(_) => flag.hide(true),
            }),
            _ => command,
        })
}

fn with_defaults(command: clap::Command, defaults: &impl Serialize) -> clap::Command {
    let defaults: BTreeMap<String, String> = typed::told(defaults).into_iter().collect();
    command.mut_args(|arg| {
        let Some(default) = arg.get_long().and_then(|long| defaults.get(long)) else {
            return arg;
        };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        arg.help(format!("{help} [default: {default}]"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn help_shows_the_defaults() {
        let help = |name: &str| {
            let mut command = command();
            let command = command.find_subcommand_mut(name).unwrap();
            let help = command.render_help().to_string();
            help.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        for part in [
            "[default: 0.0.0.0:4789, [::]:4789]",
            "in bytes [default: 1500]",
            "if it is given [default: 6081]",
            "[default: auto]",
            "[default: pcapng]",
            "[default: 100ms]",
            "[default: 1048576]",
        ] {
            let listen = help("listen").to_lowercase();
            assert!(listen.contains(&part.to_lowercase()), "{part}: {listen}");
        }
        assert!(help("replay").contains("[default: 4789]"));
    }
}
