//! What the mirror lost without cutting it: bytes that were acknowledged and never arrived, as the summary, the page and
//! flow records tell them, and as tshark does. The mirror sources are the kernel's own vxlan device, behind `tc mirred`,
//! and Open vSwitch where it is installed.

#![allow(clippy::disallowed_methods, reason = "what is awaited has a limit")]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use common::files::{interface, option, packet, section};
use common::lab::{BACKENDS, Ended, Lab, SRC, Side, TO_V6};
use common::{Running, assert_closes, tool, tshark, vxtap};
use etherparse::{PacketBuilder, TcpHeader, TcpOptionElement};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Bytes of a download.
const DOWNLOAD: usize = 300_000;

/// A lab whose sender serves downloads on a link of their own, `app0`, from where they are mirrored.
struct Mirror {
    /// Ends before the lab that it runs in.
    switch: Option<Switch>,
    lab: Lab,
    /// The device that stands for the mirror.
    device: &'static str,
}

impl Mirror {
    /// Mirrors through the kernel's vxlan device, made with these words.
    fn kernel(lab: Lab, words: &str) -> Option<Self> {
        if !tool("tc") || !lab.add_device(Side::Sender, &format!("vx0 type vxlan id 77 {words}")) {
            return None;
        }
        // What is too large is for the tunnel to refuse, not for the device.
        lab.ip(Side::Sender, "link set vx0 mtu 9000");
        lab.ip(Side::Sender, "link set vx0 up");
        Self::on(lab, "vx0")
    }

    /// Copies what passes the link to `device`, both ways.
    fn on(lab: Lab, device: &'static str) -> Option<Self> {
        let receiver = lab.netns(Side::Receiver);
        let pair = format!("app0 type veth peer name app1 netns {receiver}");
        if !lab.add_device(Side::Sender, &pair) {
            return None;
        }
        for (side, name, last) in [(Side::Sender, "app0", 1), (Side::Receiver, "app1", 2)] {
            lab.ip(side, &format!("address add 10.88.0.{last}/24 dev {name}"));
            lab.ip(side, &format!("link set {name} up"));
            // Packets as they would be on a wire.
            let off = [
                "ethtool", "-K", name, "tso", "off", "gso", "off", "gro", "off",
            ];
            if tool("ethtool") {
                let done = common::run(&mut lab.command(side, &off));
                assert_eq!(done.code, Some(0), "{}", done.stderr);
            }
        }
        let tc = |words: &str| {
            let words: Vec<&str> = ["tc"].into_iter().chain(words.split(' ')).collect();
            common::run(&mut lab.command(Side::Sender, &words))
        };
        let mut all = vec!["qdisc add dev app0 clsact".to_owned()];
        all.extend(["ingress", "egress"].map(|way| {
            format!(
                "filter add dev app0 {way} protocol ip u32 match u32 0 0 action mirred egress mirror dev {device}"
            )
        }));
        for words in all {
            let done = tc(&words);
            if done.code != Some(0) {
                eprintln!("skipped: tc {words}: {}", done.stderr.trim());
                return None;
            }
        }
        Some(Self {
            switch: None,
            lab,
            device,
        })
    }

    /// Mirrors through Open vSwitch in user space: the link of the downloads and the way to the receiver are ports of
    /// two bridges.
    fn open_vswitch(lab: Lab) -> Option<Self> {
        if ![
            "ovs-vswitchd",
            "ovsdb-server",
            "ovs-vsctl",
            "ovsdb-tool",
            "ethtool",
        ]
        .into_iter()
        .all(tool)
        {
            return None;
        }
        let receiver = lab.netns(Side::Receiver);
        let pair = format!("app0 type veth peer name app1 netns {receiver}");
        if !lab.add_device(Side::Sender, &pair) {
            return None;
        }
        lab.ip(Side::Sender, "link set app0 up");
        lab.ip(Side::Receiver, "address add 10.88.0.2/24 dev app1");
        lab.ip(Side::Receiver, "link set app1 up");
        // The switch takes the address, and asks for the neighbour itself.
        lab.ip(Side::Sender, &format!("address flush dev {SRC}"));
        let switch = Switch::start(&lab)?;
        for words in [
            "add-br under -- set bridge under datapath_type=netdev -- add-port under src0",
            "add-br over -- set bridge over datapath_type=netdev -- add-port over app0 -- add-port over vx0 \
             -- set interface vx0 type=vxlan options:remote_ip=10.77.0.2 options:key=77 options:dst_port=4789",
            "-- --id=@to get port vx0 -- --id=@m create mirror name=m select_all=true output_port=@to \
             -- set bridge over mirrors=@m",
        ] {
            switch.vsctl(&lab, words);
        }
        for (bridge, address) in [("under", "10.77.0.1/24"), ("over", "10.88.0.1/24")] {
            lab.ip(Side::Sender, &format!("address add {address} dev {bridge}"));
            lab.ip(Side::Sender, &format!("link set {bridge} up"));
        }
        // A switch in user space does not fill checksums in that were left to the network card.
        for (side, device) in [
            (Side::Receiver, "app1"),
            (Side::Sender, "app0"),
            (Side::Sender, "over"),
        ] {
            let done = common::run(&mut lab.command(side, &["ethtool", "-K", device, "tx", "off"]));
            assert_eq!(done.code, Some(0), "{}", done.stderr);
        }
        Some(Self {
            switch: Some(switch),
            lab,
            device: SRC,
        })
    }

    /// Sets the MTU of the path to the receiver.
    fn path_mtu(&self, mtu: u32) {
        let Some(switch) = &self.switch else {
            return self.lab.mtu(mtu);
        };
        self.lab
            .ip(Side::Receiver, &format!("link set dst0 mtu {mtu}"));
        let words = format!(
            "set interface src0 mtu_request={mtu} -- set interface under mtu_request={mtu}"
        );
        switch.vsctl(&self.lab, &words);
        for device in [SRC, "under"] {
            common::lab::wait_until("the MTU", || {
                (self.lab.link(Side::Sender, device)["mtu"] == mtu).then_some(())
            });
        }
    }

    /// A download, as long as the mirror takes part in it; what vxtap tells of it.
    fn download(&self, backend: &str, words: &str) -> Ended {
        let before = self.mirrored();
        let mut listener = self.lab.listen(backend, words);
        let server = self
            .lab
            .inside(Side::Sender, || TcpListener::bind("10.88.0.1:80").unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut connection, _) = server.accept().unwrap();
                connection.write_all(&vec![7; DOWNLOAD]).unwrap();
            });
            let mut connection = self.lab.inside(Side::Receiver, || {
                TcpStream::connect("10.88.0.1:80").unwrap()
            });
            let mut bytes = Vec::new();
            connection.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len(), DOWNLOAD);
        });
        // The last ACK may follow behind the end.
        common::lab::wait_until("the connection to end", || {
            let before = self.mirrored();
            std::thread::sleep(std::time::Duration::from_millis(20));
            (self.mirrored() == before).then_some(())
        });
        // Where nobody but the mirror sends, what left is what arrives.
        if self.switch.is_none() {
            listener.wait_for(self.mirrored() - before);
        } else {
            common::lab::wait_until("packets to come to rest", || {
                let received = listener.page().received;
                std::thread::sleep(std::time::Duration::from_millis(50));
                (received > 0 && listener.page().received == received).then_some(())
            });
        }
        listener.end()
    }

    /// Packets that left for vxtap.
    fn mirrored(&self) -> u64 {
        let device = if self.device == "vx0" { "vx0" } else { SRC };
        let link = self.lab.link(Side::Sender, device);
        link["stats64"]["tx"]["packets"].as_u64().unwrap()
    }
}

/// Open vSwitch with a data base of its own, in the sender's namespace.
struct Switch {
    dir: TempDir,
    /// Its two processes.
    processes: [Running; 2],
}

impl Switch {
    /// Starts it; says so where that is not possible here.
    fn start(lab: &Lab) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let schema = "/usr/share/openvswitch/vswitch.ovsschema";
        let created =
            common::run(Command::new("ovsdb-tool").args(["create", &path("conf.db"), schema]));
        if created.code != Some(0) {
            eprintln!("skipped: ovsdb-tool: {}", created.stderr.trim());
            return None;
        }
        let start = |words: &[&str]| {
            let mut command = lab.command(Side::Sender, words);
            for place in ["OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR"] {
                command.env(place, dir.path());
            }
            let log = std::fs::File::create(path(words[0])).unwrap();
            Running::start(command.stderr(Stdio::from(log)).stdout(Stdio::null()))
        };
        let remote = format!("--remote=punix:{}", path("db.sock"));
        let data_base = start(&["ovsdb-server", &path("conf.db"), &remote]);
        let socket = format!("unix:{}", path("db.sock"));
        common::lab::wait_until("the data base", || {
            Path::new(&path("db.sock")).exists().then_some(())
        });
        let switch = start(&["ovs-vswitchd", &socket]);
        Some(Self {
            processes: [data_base, switch],
            dir,
        })
    }

    /// Tells it what to be, and waits until it is.
    #[track_caller]
    fn vsctl(&self, lab: &Lab, words: &str) {
        let socket = format!("--db=unix:{}", self.dir.path().join("db.sock").display());
        let mut all = vec!["ovs-vsctl", &socket, "--timeout=30"];
        all.extend(words.split_whitespace());
        let done = common::run(&mut lab.command(Side::Sender, &all));
        let is_running = self
            .processes
            .iter()
            .map(|process| process.id())
            .collect::<Vec<_>>();
        assert_eq!(
            done.code,
            Some(0),
            "{words} ({is_running:?}): {}",
            done.stderr
        );
    }
}

/// What is told of the session's losses.
fn loss(ended: &Ended) -> &Value {
    &ended.summary["sessions"][0]["mirror_loss"]
}

fn page(ended: &Ended) -> String {
    ended.said.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether tshark misses segments in the capture.
fn tshark_misses(capture: &Path) -> bool {
    let lost = "tcp.analysis.ack_lost_segment || tcp.analysis.lost_segment";
    !tshark(capture, &["frame.number"], &["-Y", lost]).is_empty()
}

/// The scene: packets of full size never arrive; with the MTU that is told they all do, and with one less they do not.
#[track_caller]
fn what_does_not_fit(mirror: &Mirror, backend: &str, words: &str, needs: u32) {
    let ended = mirror.download(backend, words);
    assert_closes(&ended.summary);
    let told = loss(&ended);
    assert_eq!(told["cause"], "too_large", "{}", ended.said);
    assert_eq!(told["needs_mtu"], needs);
    let largest = ended.summary["sessions"][0]["largest_inner_ip"].as_u64();
    assert!(
        largest.unwrap() <= u64::from(1500 - (needs - 1500)),
        "{told}"
    );
    // All but what came in smaller packets; the end of the stream counts as a byte, as in sequence numbers.
    let gap = told["gap_bytes"].as_u64().unwrap();
    let of_records = ended
        .flows
        .iter()
        .flat_map(|flow| [&flow["gap_bytes_o"], &flow["gap_bytes_r"]]);
    let of_records: u64 = of_records.filter_map(Value::as_u64).sum();
    assert_eq!(gap, of_records, "the records tell the same");
    let arrived = told["ip_bytes"].as_u64().unwrap();
    assert!(
        gap <= DOWNLOAD as u64 + 1 && gap + arrived >= DOWNLOAD as u64,
        "{told}"
    );
    let page = page(&ended);
    for part in [
        format!("{gap} bytes ("),
        format!("between the mirror source and here to {needs}"),
        "The mirror lost data".to_owned(),
    ] {
        assert!(page.contains(&part), "{part:?} in {page}");
    }
    if tool("tshark") {
        assert!(tshark_misses(&ended.capture));
    }
    mirror.path_mtu(needs - 1);
    let less = mirror.download(backend, words);
    assert_eq!(loss(&less)["cause"], "too_large", "{}", less.said);
    mirror.path_mtu(needs);
    let mended = mirror.download(backend, words);
    assert_eq!(loss(&mended)["gap_bytes"], 0, "{}", mended.said);
    assert_eq!(loss(&mended).get("cause"), None);
    assert!(
        !mended.said.contains("The mirror lost data"),
        "{}",
        mended.said
    );
}

#[test]
fn the_kernel_drops_what_does_not_fit_with_df() {
    let Some(lab) = Lab::new() else { return };
    let words = "remote 10.77.0.2 local 10.77.0.1 dstport 4789 df set";
    let Some(mirror) = Mirror::kernel(lab, words) else {
        return;
    };
    for backend in BACKENDS {
        mirror.lab.mtu(1500);
        what_does_not_fit(&mirror, backend, "", 1550);
    }
}

#[test]
fn the_kernel_drops_what_does_not_fit_over_ipv6() {
    let Some(lab) = Lab::new() else { return };
    lab.ipv6();
    let words = "remote fd00:77::2 local fd00:77::1 dstport 4789";
    let Some(mirror) = Mirror::kernel(lab, words) else {
        return;
    };
    what_does_not_fit(&mirror, "packet", &format!("--bind {TO_V6}"), 1570);
}

#[test]
fn open_vswitch_drops_what_does_not_fit() {
    let Some(lab) = Lab::new() else { return };
    let Some(mirror) = Mirror::open_vswitch(lab) else {
        return;
    };
    what_does_not_fit(&mirror, "packet", "", 1550);
}

/// A connection as it is at the mirror source, but for what was lost.
struct Connection {
    /// Tells it from others.
    number: u16,
    /// Payload of each segment of the download, in bytes.
    size: usize,
    segments: usize,
    /// Segments that never arrived.
    lost: Vec<usize>,
    /// Only what the client sends arrived.
    one_sided: bool,
}

impl Connection {
    fn new(
        number: u16,
        size: usize,
        segments: usize,
        lost: impl IntoIterator<Item = usize>,
    ) -> Self {
        Self {
            number,
            size,
            segments,
            lost: lost.into_iter().collect(),
            one_sided: false,
        }
    }

    /// Its frames.
    fn frames(&self) -> Vec<Vec<u8>> {
        let mut frames = vec![
            self.frame(true, 0x02, 0, 0, 0),
            self.frame(false, 0x12, 0, 1, 0),
            self.frame(true, 0x10, 1, 1, 0),
        ];
        for number in 0..self.segments {
            let seq = 1 + (number * self.size) as u32;
            if !self.lost.contains(&number) {
                frames.push(self.frame(false, 0x10, seq, 1, self.size));
            }
            frames.push(self.frame(true, 0x10, 1, seq + self.size as u32, 0));
        }
        let is_clients = |frame: &Vec<u8>| frame[29] == 2;
        frames.retain(|frame| !self.one_sided || is_clients(frame));
        frames
    }

    fn frame(&self, by_client: bool, flags: u8, seq: u32, ack: u32, len: usize) -> Vec<u8> {
        let (server, client) = ([10, 88, 0, 1], [10, 88, 0, 2]);
        let (src, dst) = if by_client {
            (client, server)
        } else {
            (server, client)
        };
        let (src_port, dst_port) = if by_client {
            (self.number, 80)
        } else {
            (80, self.number)
        };
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(src, dst, 64);
        let mut tcp = TcpHeader::new(src_port, dst_port, seq, 9000);
        tcp.acknowledgment_number = ack;
        (tcp.syn, tcp.ack) = (flags & 2 > 0, flags & 16 > 0);
        if tcp.syn {
            tcp.set_options(&[TcpOptionElement::MaximumSegmentSize(1460)])
                .unwrap();
        }
        let mut frame = Vec::new();
        builder
            .tcp_header(tcp)
            .write(&mut frame, &vec![7; len])
            .unwrap();
        frame
    }
}

/// A capture of these connections in VXLAN, a packet every 100 µs.
fn capture(connections: &[Connection]) -> Vec<u8> {
    let nanoseconds = option(9, &[9]);
    let mut bytes = [section(&[]), interface(1, &nanoseconds)].concat();
    for (at, frame) in connections.iter().flat_map(Connection::frames).enumerate() {
        let vxlan = [&[8, 0, 0, 0, 0, 0, 77, 0], &frame[..]].concat();
        let outer =
            PacketBuilder::ethernet2([6; 6], [8; 6]).ipv4([192, 0, 2, 11], [192, 0, 2, 9], 64);
        let mut outer_frame = Vec::new();
        outer
            .udp(50_000, 4789)
            .write(&mut outer_frame, &vxlan)
            .unwrap();
        let ts_ns = 1_768_469_400_000_000_000 + at as u64 * 100_000;
        bytes.extend(packet(0, ts_ns, &outer_frame, &[]));
    }
    bytes
}

/// What is told of the connections: with flow records and without, by one worker and by two, it is the same.
#[track_caller]
fn told(connections: &[Connection]) -> Value {
    let bytes = capture(connections);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.pcapng");
    std::fs::write(&path, &bytes).unwrap();
    let runs =
        [["1", "/dev/null"], ["2", "/dev/null"], ["1", ""], ["2", ""]].map(|[workers, flows]| {
            let mut args = vec![
                "replay",
                path.to_str().unwrap(),
                "--workers",
                workers,
                "--summary",
                "-",
            ];
            if !flows.is_empty() {
                args.extend(["--flows", flows]);
            }
            let run = vxtap(args);
            assert_eq!(run.code, Some(0), "{}", run.stderr);
            let summary: Value = serde_json::from_slice(&run.stdout).unwrap();
            assert_closes(&summary);
            summary["sessions"][0]["mirror_loss"].clone()
        });
    let [first, others @ ..] = runs;
    for other in others {
        assert_eq!(first, other);
    }
    first
}

#[test]
fn what_is_lost_by_chance() {
    let told_of = told(&[
        Connection::new(1000, 1460, 100, [7, 8, 50]),
        Connection::new(1001, 1460, 20, []),
    ]);
    assert_eq!(told_of["cause"], "any_size", "{told_of}");
    assert_eq!(
        (&told_of["gap_bytes"], &told_of["with_gaps"]),
        (&json!(3 * 1460), &json!(1))
    );
    assert_eq!(
        (&told_of["connections"], &told_of["full_ip"]),
        (&json!(2), &json!(1500))
    );
    assert_eq!(told_of.get("needs_mtu"), None);
    // 500 bytes of payload are no segment of full size, and most of them arrived: their size is not the cause.
    let told_of = told(&[Connection::new(1000, 500, 100, [7, 8, 50])]);
    assert_eq!(
        (&told_of["cause"], &told_of["gap_bytes"]),
        (&json!("unknown"), &json!(1500))
    );
}

#[test]
fn what_never_fits() {
    let all_lost = Connection::new(1000, 1460, 100, 0..100);
    let told_of = told(&[all_lost, Connection::new(1001, 200, 10, [])]);
    assert_eq!(
        (&told_of["cause"], &told_of["needs_mtu"]),
        (&json!("too_large"), &json!(1550))
    );
    let share = told_of["share"].as_f64().unwrap();
    assert!((0.9..1.0).contains(&share), "{share}");
}

#[test]
fn one_direction_only() {
    let half = |number| Connection {
        one_sided: true,
        ..Connection::new(number, 1000, 10, [])
    };
    let told_of = told(&[half(1000), half(1001), half(1002)]);
    assert_eq!(
        (&told_of["one_sided"], &told_of["gap_bytes"]),
        (&json!(3), &json!(0))
    );
    let advice = told_of["advice"].as_str().unwrap();
    assert!(
        advice.contains("3 of 3 TCP connections came in one direction only"),
        "{advice}"
    );
    // Nothing is missing of connections that are whole.
    assert_eq!(
        told(&[Connection::new(1000, 1000, 10, [])]).get("advice"),
        None
    );
}

/// Without flow records a part of so many connections is looked at; it tells the same share.
#[test]
fn many_connections_at_a_time() {
    let connections: Vec<_> = (0..8000)
        .map(|at| Connection::new(2000 + at, 1460, 4, [2]))
        .collect();
    let bytes = capture(&connections);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in.pcapng");
    std::fs::write(&path, &bytes).unwrap();
    let run = vxtap([
        "replay",
        path.to_str().unwrap(),
        "--workers",
        "1",
        "--summary",
        "-",
    ]);
    let summary: Value = serde_json::from_slice(&run.stdout).unwrap();
    let told = &summary["sessions"][0]["mirror_loss"];
    let one_in = told["one_in"].as_u64().unwrap();
    assert!((2..=8).contains(&one_in), "{told}");
    let looked_at = told["connections"].as_u64().unwrap();
    assert!((1000..8000).contains(&looked_at), "{told}");
    // But of those that made room at their beginning.
    let gaps = told["gap_bytes"].as_u64().unwrap() / 1460;
    assert!((looked_at - 20..=looked_at).contains(&gaps), "{told}");
    let said = run.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        said.contains(&format!("(one connection in {one_in} was looked at)")),
        "{said}"
    );
}
