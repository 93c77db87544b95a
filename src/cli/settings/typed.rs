//! Settings as they were typed: text, all of it optional. One set of structs for the command line and for
//! files (a table for each group, keys as the long flags), and the one place where defaults stand.

use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::pcap::record::SNAPLEN;
use crate::pipeline::worker::WorkerSettings;
use crate::wire::vxlan;

/// The value of a setting as somebody wrote it; a file may write numbers without quotation marks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(from = "Scalar", into = "String")]
pub struct Text(pub String);

#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Text(String),
    Whole(i64),
    Fraction(f64),
}

impl From<Scalar> for Text {
    fn from(scalar: Scalar) -> Self {
        match scalar {
            Scalar::Text(text) => Self(text),
            Scalar::Whole(number) => Self(number.to_string()),
            Scalar::Fraction(number) => Self(number.to_string()),
        }
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.0
    }
}

/// `vxtap replay`.
#[derive(Clone, Debug, Default, Args, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Replay {
    /// What is read
    #[command(flatten)]
    pub input: Input,
    /// Where results go
    #[command(flatten)]
    pub output: Output,
    /// Files that follow each other
    #[command(flatten)]
    pub store: Store,
    /// What is decapsulated
    #[command(flatten)]
    pub tunnels: Tunnels,
    /// What is wanted
    #[command(flatten)]
    pub filters: Filters,
    /// What is known of mirror sessions
    #[command(flatten)]
    pub sessions: KnownSessions,
    /// What truncation is judged by
    #[command(flatten)]
    pub truncation: Truncation,
    /// How long flows live
    #[command(flatten)]
    pub flow_lifetimes: FlowLifetimes,
    /// What becomes of copies of a packet
    #[command(flatten)]
    pub duplicates: Duplicates,
    /// Threads and memory
    #[command(flatten)]
    pub limits: Limits,
}

/// `vxtap listen`.
#[derive(Clone, Debug, Default, Args, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Listen {
    /// What is received, and how
    #[command(flatten)]
    pub receive: Receive,
    /// Where results go
    #[command(flatten)]
    pub output: Output,
    /// Files that follow each other
    #[command(flatten)]
    pub store: Store,
    /// What is decapsulated
    #[command(flatten)]
    pub tunnels: Tunnels,
    /// What is wanted
    #[command(flatten)]
    pub filters: Filters,
    /// What is known of mirror sessions
    #[command(flatten)]
    pub sessions: KnownSessions,
    /// What truncation is judged by
    #[command(flatten)]
    pub truncation: Truncation,
    /// How long flows live
    #[command(flatten)]
    pub flow_lifetimes: FlowLifetimes,
    /// What becomes of copies of a packet
    #[command(flatten)]
    pub duplicates: Duplicates,
    /// Threads and memory
    #[command(flatten)]
    pub limits: Limits,
    /// Who may ask the run how it is, and where
    #[command(flatten)]
    pub watching: Watching,
    /// What is logged
    #[command(flatten)]
    pub logging: Logging,
}

/// What replay reads.
#[derive(Clone, Debug, Default, Args, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Input {
    /// Capture files; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Option<Vec<PathBuf>>,
    /// UDP destination port of VXLAN. Repeatable
    #[arg(long, value_name = "PORT", help_heading = "Tunnels")]
    pub port: Option<Vec<Text>>,
    /// The files hold packets that are not encapsulated: read them as they are
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub plain: Option<bool>,
}

/// What listen receives, and how.
#[derive(Clone, Debug, Default, Args, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Receive {
    /// Address and port to receive on, IPv6 in brackets: `0.0.0.0:4789` or `[::]:4789`. Repeatable. With
    /// port 0 the system chooses a port, and the first line names it. vxtap also binds a given --gpe-port and
    /// --geneve-port on the same addresses, unless a --bind names them. Every other port is VXLAN
    #[arg(long, value_name = "ADDR:PORT")]
    pub bind: Option<Vec<Text>>,
    /// How vxtap takes packets from the kernel. `udp`: sockets; they need no privilege, and the host's firewall
    /// decides what comes in. `packet`: a ring (CAP_NET_RAW); it loses fewer packets, but passes the host's
    /// firewall, whose rules have no effect on it. `auto`: the ring if this process may open one and the
    /// interface is clear, else sockets. The first line says which it took
    #[arg(long, value_name = "auto|udp|packet")]
    pub backend: Option<Text>,
    /// Interface of the packet ring. Without it vxtap takes the one that has the addresses
    #[arg(long, value_name = "IF")]
    pub interface: Option<Text>,
    /// Receive trains of datagrams (UDP_GRO; udp backend, one worker). This is much faster if senders fill in the
    /// outer UDP checksum, but a train has one time, and counts as one if the kernel drops it. `auto` is
    /// `off`: exact times and counts come first
    #[arg(long, value_name = "auto|on|off")]
    pub gro: Option<Text>,
    /// Stop after this time: 90, 30s, 5m, 2h
    #[arg(long, value_name = "TIME")]
    pub duration: Option<Text>,
    /// Cores to pin the workers to, in this order: 2, 0,2 or 4-7. Without it several workers take one core each
    /// of those that this process may use
    #[arg(long, value_name = "LIST")]
    pub cpus: Option<Text>,
    /// Stop after this many mirrored frames
    #[arg(long, value_name = "N")]
    pub count: Option<Text>,
    /// What this process gives up once its sockets are open: capabilities, other programs, files elsewhere than in the
    /// output directories, connections but those to the given collectors. `auto`: what this kernel offers. `require`:
    /// all of it (Landlock, seccomp), or the run does not begin. Programs of --on-rotate are not limited
    #[arg(long, value_name = "off|auto|require", help_heading = "Limits")]
    pub sandbox: Option<Text>,
    /// Most CPU time to take, as a share of all cores that this process may use. Beyond it a part of the conversations is
    /// left out of the capture and counted (`limit`); flow records go on
    #[arg(long, value_name = "PERCENT", help_heading = "Limits")]
    pub cpu_limit: Option<Text>,
    /// Most bytes a second to write into the capture, on average; what is more is left out in the same way: 20MB
    #[arg(long, value_name = "BYTES", help_heading = "Limits")]
    pub disk_rate: Option<Text>,
    /// Replace finished files that -w and --flows name. Without it vxtap keeps them and writes under the next
    /// free name: out.1.pcapng
    #[arg(
        long,
        num_args = 0,
        default_missing_value = "true",
        help_heading = "Output"
    )]
    pub overwrite: Option<bool>,
}

/// Where results go.
#[derive(Clone, Debug, Default, Args, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Output")]
pub struct Output {
    /// Write the mirrored frames to this capture file, or into this directory as a store of files that follow each
    /// other; a name that ends in `/` is made a directory. `-` is standard output, which must not be a terminal
    #[arg(short = 'w', long, value_name = "FILE|DIR")]
    pub write: Option<PathBuf>,
    /// Kind of capture file: pcapng (one interface a mirror session, comments on cut packets) or classic
    /// pcap with nanosecond times
    #[arg(long, value_name = "pcapng|pcap")]
    pub format: Option<Text>,
    /// Write flow records to this file, or into this directory as a store, as -w does; `-` is standard output. A FILE that
    /// ends in .csv is CSV, in .parquet Parquet, in .ipfix IPFIX, any other JSON lines; a format in front says it too: csv:DIR/,
    /// parquet:FILE, jsonl:-. ipfix://HOST:PORT sends IPFIX to a collector over UDP, ipfix+tcp://HOST:PORT over TCP (port
    /// 4739 unless given). Repeatable, and each goes its own way
    #[arg(long, value_name = "[FORMAT:]FILE|DIR|URL")]
    pub flows: Option<Vec<PathBuf>>,
    /// Show the mirrored frames live to whoever connects to this TCP port: pcapng, from the moment of connecting on, as
    /// 'wireshark -k -i TCP@127.0.0.1:57012' or Arkime read it. Without ADDR it is 127.0.0.1. There is no
    /// authentication: who reaches another address sees every frame. With port 0 the system chooses one. A viewer that is
    /// too slow misses packets and is told how many; 16 viewers at the most. replay waits for the first viewer, and
    /// for slow ones. Repeatable
    #[arg(long, value_name = "tcp://ADDR:PORT")]
    pub tee: Option<Vec<Text>>,
    /// When the reader of a pipe goes away (-w, --flows): `end` the run, or `detach` the output and go on, even if
    /// no output is left. Without it the run goes on as long as another output works
    #[arg(long, value_name = "end|detach")]
    pub on_reader_gone: Option<Text>,
    /// Write the summary as one JSON object to this file, in place of an older one; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub summary: Option<PathBuf>,
    /// Permissions of the files written, octal: 640 lets the group read. A directory that is made lets in whoever may
    /// read the files: 750 [default: 600, or those of the file that is replaced; 640 with --group]
    #[arg(long, value_name = "OCTAL")]
    pub mode: Option<Text>,
    /// Group of the files written and of directories that are made, by name or number. The user that runs vxtap has to be
    /// a member of it; root need not
    #[arg(long, value_name = "NAME|GID")]
    pub group: Option<Text>,
    /// Compress the capture, with a level from 1 (fastest, the default) to 9 for gzip, 19 for zstd. gzip: Wireshark and
    /// its tools open the files as they are. zstd: quicker and smaller, but Wireshark needs help ('zstd -dc FILE | tshark
    /// -r -'). A FILE that ends in .gz or .zst is compressed without being asked
    #[arg(long, value_name = "none|gzip|zstd[:LEVEL]")]
    pub compress: Option<Text>,
    /// Threads that compress
    #[arg(long, value_name = "N")]
    pub compress_threads: Option<Text>,
    /// Most bytes of each frame to store; longer frames keep their length on the wire (orig_len)
    #[arg(long, value_name = "BYTES")]
    pub snaplen: Option<Text>,
    /// What of each frame to store. `headers`: nothing behind the TCP, UDP, SCTP or ICMP header; behind the IP header of
    /// other protocols; behind Ethernet and VLAN tags of frames without IP. Flow records and lengths stay as they are
    #[arg(long, value_name = "none|headers")]
    pub slice: Option<Text>,
    /// Leave out of flow records what their first packets name: DNS query and answer code, TLS server name and ALPN, HTTP
    /// host and method
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub no_app: Option<bool>,
    /// Exit with code 3 when this run lost anything: in the kernel, or on the way to an output
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub fail_on_loss: Option<bool>,
}

/// Files that follow each other in a directory.
#[derive(Clone, Debug, Default, Args, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Store (-w DIR, --flows DIR)")]
pub struct Store {
    /// What the names of files begin with: PREFIX_00001_20260131235959.pcapng
    #[arg(long, value_name = "PREFIX")]
    pub prefix: Option<Text>,
    /// End a file before it gets larger than this: 64MiB, 100MB. Without any --rotate it is 64MiB
    #[arg(long, value_name = "SIZE")]
    pub rotate_size: Option<Text>,
    /// End a file at each multiple of this time by the clock: 5m ends files at :00, :05, :10 (UTC)
    #[arg(long, value_name = "TIME")]
    pub rotate_interval: Option<Text>,
    /// End a file this long after its first packet
    #[arg(long, value_name = "TIME")]
    pub rotate_duration: Option<Text>,
    /// End a file after this many packets
    #[arg(long, value_name = "N")]
    pub rotate_packets: Option<Text>,
    /// Finish a file for a time without packets too
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub keep_empty: Option<bool>,
    /// Keep flows whole at the end of an interval. Without it their records end with each interval of --rotate-interval,
    /// where --flows names a DIR, and go on in others: what a file of flow records says is what happened in its interval
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub whole_flows: Option<bool>,
    /// Delete the oldest files so that all together, open ones and the manifest included, never have more bytes than
    /// this; `none` for no limit
    #[arg(long, value_name = "SIZE|none")]
    pub keep_bytes: Option<Text>,
    /// Delete the oldest files so that no more than this many finished ones are kept
    #[arg(long, value_name = "N")]
    pub keep_files: Option<Text>,
    /// Delete files whose last packet is older than this: 12h, 30d
    #[arg(long, value_name = "TIME")]
    pub keep_age: Option<Text>,
    /// Delete the oldest files so that this much of the file system stays free: 2GiB or 10%
    #[arg(long, value_name = "SIZE|PERCENT")]
    pub min_free: Option<Text>,
    /// What to do when the disk is full all the same: delete the oldest file, count packets as lost until there is room
    /// again, or end the run
    #[arg(long, value_name = "delete-oldest|drop|exit")]
    pub on_full: Option<Text>,
    /// When files are brought to the disk. `rotate`: each before it gets its name, so that a power cut takes only what
    /// was not finished. `never`: when the system likes; less work for the disk, but a power cut may damage finished
    /// files. `every-5s`: open files too, as often as this
    #[arg(long, value_name = "never|rotate|every-TIME")]
    pub fsync: Option<Text>,
    /// Write no index beside each file; `vxtap extract` reads all of such a file then
    #[arg(long, num_args = 0, default_missing_value = "true")]
    pub no_index: Option<bool>,
    /// Write the packets of each mirror session, VNI or mirror source to files of their own
    #[arg(long, value_name = "none|session|vni|source")]
    pub split: Option<Text>,
    /// Sign each line of the manifest with the Ed25519 key in this file (`openssl genpkey -algorithm ed25519`, or 64
    /// hexadecimal digits); `vxtap verify --public-key` proves the signatures
    #[arg(long, value_name = "FILE")]
    pub sign_key: Option<PathBuf>,
    /// Run this program for each finished file, with its path as the argument and VXTAP_FILE, VXTAP_FIRST_TS,
    /// VXTAP_LAST_TS, VXTAP_PACKETS, VXTAP_BYTES, VXTAP_SHA256 and VXTAP_REASON in its environment. No shell, nice 19,
    /// two at a time, each for 10 minutes at the most; its file is not deleted meanwhile
    #[arg(long, value_name = "PROGRAM")]
    pub on_rotate: Option<PathBuf>,
    /// Most files open at a time with --split; beyond it the one used longest ago is finished, and its packets go on
    /// in a new one
    #[arg(long, value_name = "N")]
    pub max_open_files: Option<Text>,
}

/// What is decapsulated.
#[derive(Clone, Debug, Default, Args, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Tunnels")]
pub struct Tunnels {
    /// UDP destination port of VXLAN-GPE; 0 for none. Repeatable. listen binds it if it is given
    #[arg(long, value_name = "PORT")]
    pub gpe_port: Option<Vec<Text>>,
    /// UDP destination port of Geneve, which gateway load balancers put around VXLAN; 0 for none.
    /// Repeatable. listen binds it if it is given
    #[arg(long, value_name = "PORT")]
    pub geneve_port: Option<Vec<Text>>,
    /// Layers of nested VXLAN to remove, 1 to 16. With more than 1, listen gives all packets to one worker
    #[arg(long, value_name = "N")]
    pub depth: Option<Text>,
}

/// What is wanted.
#[derive(Clone, Debug, Default, Args, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Filters")]
pub struct Filters {
    /// Take only packets whose outer source address belongs to this network, such as 10.0.0.0/8,
    /// 2001:db8::/32, or an address alone. Repeatable
    #[arg(long, value_name = "CIDR")]
    pub allow: Option<Vec<Text>>,
    /// Take packets from the networks in this file too: one a line, `#` begins a comment. Repeatable
    #[arg(long, value_name = "FILE")]
    pub allow_file: Option<Vec<PathBuf>>,
    /// Take only these VNIs: 5, 5,7 or 10-20. Repeatable
    #[arg(long, value_name = "LIST")]
    pub vni: Option<Vec<Text>>,
    /// Take no packets of these VNIs, even where --vni names them. Repeatable
    #[arg(long, value_name = "LIST")]
    pub vni_deny: Option<Vec<Text>>,
    /// Take only mirrored packets that this expression fits, in the words of tcpdump: 'host 10.0.0.1 and tcp port 443',
    /// 'not (net 10.0.0.0/8 or arp)'. Asked of the inner packet, for captures and flow records alike. IP is found behind
    /// VLAN tags too. Beside tcpdump's words there are `vni LIST`, `source CIDR` (the mirror source) and `truncated`;
    /// docs/FORMATS.md lists them all
    #[arg(long, value_name = "EXPRESSION")]
    pub filter: Option<Text>,
}

/// What is known of mirror sessions.
#[derive(Clone, Debug, Default, Args, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Mirror sessions")]
pub struct KnownSessions {
    /// Names of mirror sessions, for the summary: a CSV file whose first line names its columns, `vni` and any of
    /// `source`, `name`, `account`, `mtu`. A line without a source stands for every source of its VNI; `mtu` is that of
    /// the session's path, in place of --mtu in its advice
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
    /// The mirror sessions that there should be, in a file as for --labels: the summary tells which of them sent
    /// nothing, which fell silent, and which sessions nobody expected
    #[arg(long, value_name = "FILE")]
    pub expect: Option<PathBuf>,
    /// How long an expected session may send nothing: 30s, 5m
    #[arg(long, value_name = "TIME")]
    pub silent_after: Option<Text>,
}

/// What truncation is judged by.
#[derive(Clone, Debug, Default, Args, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Truncation")]
pub struct Truncation {
    /// MTU of the path from mirror source to target, in bytes
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<Text>,
    /// Bytes of the MTU that the cloud recommends to keep free for the mirror's headers; the summary tells it as
    /// the cloud's advice
    #[arg(long, value_name = "BYTES")]
    pub mtu_overhead: Option<Text>,
}

/// How long flows live.
#[derive(Clone, Debug, Default, Args, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Flow lifetimes")]
pub struct FlowLifetimes {
    /// Silence after which a flow ends and its record is written, for each kind of flow: tcp, tcp-new (a SYN without
    /// an answer), fin (TCP closed by both sides), rst (TCP reset), udp, icmp, other. Those that are not named keep
    /// tcp=5m,tcp-new=30s,fin=10s,rst=5s,udp=1m,icmp=30s,other=1m. Repeatable
    #[arg(long, value_name = "KIND=TIME,…")]
    pub idle_timeout: Option<Vec<Text>>,
    /// Longest time of one record: a flow that goes on is continued in another record with the same flow_id. `off`:
    /// one record, however long the flow is
    #[arg(long, value_name = "TIME|off")]
    pub active_timeout: Option<Text>,
}

/// What becomes of copies of a packet.
#[derive(Clone, Debug, Default, Args, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Duplicates")]
pub struct Duplicates {
    /// What to do with copies of an inner IP packet: mirrored at both ends, or twice by one source. `mark`: count them,
    /// and give all copies of a packet one packet id in a pcapng capture (12 bytes a packet). `drop`: keep the copy that
    /// arrives first. `off`: do not look for them. TCP retransmissions are no copies
    #[arg(long, value_name = "mark|drop|off")]
    pub dedup: Option<Text>,
    /// Longest time from a packet to its copy, by their times of arrival: 20ms, 500ms; 10s at the most
    #[arg(long, value_name = "TIME")]
    pub dedup_window: Option<Text>,
}

/// Threads and memory.
#[derive(Clone, Debug, Default, Args, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// Threads that work on packets. `auto`: one for each core but one, which is left to the writer
    #[arg(long, value_name = "N|auto")]
    pub workers: Option<Text>,
    /// Longest wait for a silent worker, to keep captures in time order: 100ms, 1s. Replay waits as long as
    /// it takes
    #[arg(long, value_name = "TIME")]
    pub max_reorder: Option<Text>,
    /// Most flows kept at a time, shared between the workers. A new flow replaces the one seen longest ago
    #[arg(long, value_name = "N")]
    pub max_flows: Option<Text>,
}

/// Who may ask a run how it is, and where.
#[derive(Clone, Debug, Default, Args, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Status, metrics and health")]
pub struct Watching {
    /// Serve HTTP on this address: /metrics (Prometheus and OpenMetrics), /healthz (the process answers), /readyz (it
    /// receives and writes) and /status (JSON). A PORT alone is on 127.0.0.1. Beyond loopback addresses /status needs
    /// --http-token-file; the others are open to whoever reaches the address
    #[arg(long, value_name = "[ADDR:]PORT")]
    pub http: Option<Text>,
    /// /status is only for requests with `Authorization: Bearer TOKEN`, whose TOKEN is the first line of this file
    #[arg(long, value_name = "FILE")]
    pub http_token_file: Option<PathBuf>,
    /// Accept TCP connections here and close them, for load balancers that ask no more of a health check. It says that
    /// the process runs; ask /readyz for more
    #[arg(long, value_name = "[ADDR:]PORT")]
    pub health_tcp: Option<Text>,
    /// Answer UDP datagrams here with 'vxtap ready', cut to the length of the question, while vxtap receives and writes
    #[arg(long, value_name = "[ADDR:]PORT")]
    pub health_udp: Option<Text>,
    /// Unix socket through which `vxtap status` asks this run. `auto`: PID.sock in $RUNTIME_DIRECTORY, /run/vxtap (root) or
    /// $XDG_RUNTIME_DIR/vxtap, or none where there is no such directory
    #[arg(long, value_name = "PATH|auto|none")]
    pub control: Option<PathBuf>,
}

/// What is logged.
#[derive(Clone, Debug, Default, Args, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[command(next_help_heading = "Log")]
pub struct Logging {
    /// How much is logged on standard error: error, warn, info, debug, trace or off; or levels by module, such as
    /// warn,vxtap::source=debug
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<Text>,
    /// How lines of the log look: `text`, or `json`, an object a line. The first line and the summary are text in either
    #[arg(long, value_name = "text|json")]
    pub log_format: Option<Text>,
}

fn text(value: impl ToString) -> Option<Text> {
    Some(Text(value.to_string()))
}

fn list<T: ToString>(values: impl IntoIterator<Item = T>) -> Option<Vec<Text>> {
    Some(values.into_iter().filter_map(text).collect())
}

impl Replay {
    /// What holds where nobody says otherwise.
    pub fn defaults() -> Self {
        let tunnels = WorkerSettings::default().tunnels;
        Self {
            input: Input {
                port: list(tunnels.vxlan_ports),
                ..Input::default()
            },
            output: Output::defaults(),
            store: Store::defaults(),
            tunnels: Tunnels::defaults(),
            filters: Filters::default(),
            sessions: KnownSessions::defaults(),
            truncation: Truncation::defaults(),
            flow_lifetimes: FlowLifetimes::defaults(),
            duplicates: Duplicates::defaults(),
            limits: Limits::defaults(),
        }
    }
}

impl Listen {
    /// What holds where nobody says otherwise.
    pub fn defaults() -> Self {
        Self {
            receive: Receive {
                bind: list(["0.0.0.0", "[::]"].map(|any| format!("{any}:{}", vxlan::PORT))),
                backend: text("auto"),
                gro: text("auto"),
                sandbox: text("auto"),
                ..Receive::default()
            },
            output: Output::defaults(),
            store: Store::defaults(),
            tunnels: Tunnels::defaults(),
            filters: Filters::default(),
            sessions: KnownSessions::defaults(),
            truncation: Truncation::defaults(),
            flow_lifetimes: FlowLifetimes::defaults(),
            duplicates: Duplicates::defaults(),
            limits: Limits::defaults(),
            watching: Watching::defaults(),
            logging: Logging {
                log: text("info"),
                log_format: text("text"),
            },
        }
    }
}

impl Watching {
    fn defaults() -> Self {
        Self {
            control: Some(PathBuf::from("auto")),
            ..Self::default()
        }
    }
}

impl Output {
    fn defaults() -> Self {
        Self {
            format: text("pcapng"),
            compress: text("none"),
            compress_threads: text(1),
            snaplen: text(SNAPLEN),
            slice: text("none"),
            ..Self::default()
        }
    }
}

impl Store {
    fn defaults() -> Self {
        Self {
            prefix: text("vxtap"),
            keep_bytes: text("10GB"),
            on_full: text("delete-oldest"),
            fsync: text("rotate"),
            split: text("none"),
            max_open_files: text(64),
            ..Self::default()
        }
    }
}

impl Tunnels {
    fn defaults() -> Self {
        let tunnels = WorkerSettings::default().tunnels;
        Self {
            gpe_port: list(tunnels.gpe_ports),
            geneve_port: list(tunnels.geneve_ports),
            depth: text(tunnels.depth),
        }
    }
}

impl KnownSessions {
    fn defaults() -> Self {
        Self {
            silent_after: text("1m"),
            ..Self::default()
        }
    }
}

impl Truncation {
    fn defaults() -> Self {
        let worker = WorkerSettings::default();
        Self {
            mtu: text(worker.mtu),
            mtu_overhead: text(worker.mtu_overhead),
        }
    }
}

impl FlowLifetimes {
    fn defaults() -> Self {
        Self {
            active_timeout: text("5m"),
            ..Self::default()
        }
    }
}

impl Duplicates {
    fn defaults() -> Self {
        Self {
            dedup: text("mark"),
            dedup_window: text("500ms"),
        }
    }
}

impl Limits {
    fn defaults() -> Self {
        Self {
            workers: text("auto"),
            max_reorder: text("100ms"),
            max_flows: text(WorkerSettings::default().max_flows),
        }
    }
}

/// The settings that `typed` says, by the name of their flag, as text.
pub fn told(typed: &impl Serialize) -> Vec<(String, String)> {
    let groups = serde_json::to_value(typed).unwrap_or_default();
    let groups = groups.as_object().into_iter().flatten();
    let settings = groups.flat_map(|(_, group)| group.as_object().into_iter().flatten());
    let shown = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Array(texts) => {
            let texts: Vec<&str> = texts.iter().filter_map(|text| text.as_str()).collect();
            Some(texts.join(", "))
        }
        serde_json::Value::Bool(on) => Some(on.to_string()),
        _ => None,
    };
    settings
        .filter_map(|(name, value)| Some((name.clone(), shown(value)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_table_for_each_group_and_the_names_of_the_flags() {
        let file = r#"{"receive": {"bind": ["10.0.0.5:4789"], "count": 7},
                       "truncation": {"mtu": "9000", "mtu-overhead": 50}}"#;
        let typed: Listen = serde_json::from_str(file).unwrap();
        assert_eq!(typed.receive.bind, Some(vec!["10.0.0.5:4789".into()]));
        assert_eq!(typed.receive.count, Some("7".into()));
        assert_eq!(typed.truncation.mtu, Some("9000".into()));
        assert_eq!(typed.truncation.mtu_overhead, Some("50".into()));
        assert_eq!(typed.limits.workers, None, "not said");
        for unknown in [
            r#"{"trunkation": {}}"#,
            r#"{"truncation": {"mut": 1}}"#,
            r#"{"mtu": 1500}"#,
            r#"{"truncation": {"mtu": [1500]}}"#,
        ] {
            assert!(
                serde_json::from_str::<Listen>(unknown).is_err(),
                "{unknown}"
            );
        }
    }

    #[test]
    fn what_is_said_has_the_names_of_the_flags() {
        let told = told(&Listen::defaults());
        let of = |name: &str| {
            let mut found = told.iter().filter(|(known, _)| known == name);
            found.next().map(|(_, text)| text.as_str())
        };
        assert_eq!(of("bind"), Some("0.0.0.0:4789, [::]:4789"));
        assert_eq!(of("mtu-overhead"), Some("64"));
        assert_eq!(of("geneve-port"), Some("6081"));
        assert_eq!(of("duration"), None);
    }
}
