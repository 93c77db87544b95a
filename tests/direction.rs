//! Which way packets went at their mirror source: by its IP address, and by the hardware address that this one's packets
//! show to be the interface's. What the capture, flow records and the summary say of it, with any number of workers, as
//! tshark reads it; and behind the kernel's own mirror, whose source forwards for others.

mod common;

use std::fs;

use common::lab::{BACKENDS, Lab, Side};
use common::{Replayed, assert_closes, replay, run, tool, tshark};
use etherparse::PacketBuilder;
use serde_json::Value;
use tempfile::TempDir;

type Mac = [u8; 6];
type Ip = [u8; 4];

const GATEWAY: Mac = [2, 0, 0, 0, 0, 0xfe];
const ALL: Mac = [0xff; 6];
const WORLD: Ip = [198, 51, 100, 7];

/// `epb_flags` of a packet that went in, out, or nobody knows.
const IN: u32 = 1;
const OUT: u32 = 2;
const UNKNOWN: u32 = 0;

/// A mirror source: its address, and that of its interface.
#[derive(Clone, Copy)]
struct Source {
    ip: Ip,
    mac: Mac,
}

const FIRST: Source = Source {
    ip: [10, 0, 0, 1],
    mac: [2, 0, 0, 0, 0, 1],
};
const SECOND: Source = Source {
    ip: [10, 0, 0, 2],
    mac: [2, 0, 0, 0, 0, 2],
};

/// A capture in the making: packets with the direction that each is to have.
#[derive(Default)]
struct Made {
    pcap: Vec<u8>,
    expected: Vec<u32>,
    seconds: u32,
}

impl Made {
    fn add(&mut self, source: Source, frame: &[u8], expected: u32) {
        if self.pcap.is_empty() {
            for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1] {
                self.pcap.extend_from_slice(&u32::to_le_bytes(word));
            }
        }
        let vxlan = [&[8, 0, 0, 0, 0, 0, 77, 0], frame].concat();
        let outer = PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4(source.ip, [10, 0, 9, 9], 64)
            .udp(50_000, 4789);
        let mut packet = Vec::new();
        outer.write(&mut packet, &vxlan).unwrap();
        let micros = self.expected.len() as u32 * 10;
        let len = packet.len() as u32;
        for word in [1_700_000_000 + self.seconds, micros, len, len] {
            self.pcap.extend_from_slice(&word.to_le_bytes());
        }
        self.pcap.extend_from_slice(&packet);
        self.expected.push(expected);
    }

    /// A datagram of flow `port`.
    fn udp(
        &mut self,
        source: Source,
        macs: (Mac, Mac),
        ips: (Ip, Ip),
        ttl: u8,
        port: u16,
        expected: u32,
    ) {
        let (src_mac, dst_mac) = macs;
        let (src, dst) = ips;
        let (src_port, dst_port) = if dst == WORLD { (port, 53) } else { (53, port) };
        let builder = PacketBuilder::ethernet2(src_mac, dst_mac).ipv4(src, dst, ttl);
        let mut frame = Vec::new();
        let text = self.expected.len().to_be_bytes();
        builder
            .udp(src_port, dst_port)
            .write(&mut frame, &text)
            .unwrap();
        self.add(source, &frame, expected);
    }

    /// Both ways of flows that containers behind `source` have with the world.
    fn containers(&mut self, source: Source, ports: std::ops::Range<u16>, [out, back]: [u32; 2]) {
        for port in ports {
            let container = [172, 17, 0, port as u8];
            let [away, home] = [(source.mac, GATEWAY), (GATEWAY, source.mac)];
            // Routed: a container's packet has passed the source.
            self.udp(source, away, (container, WORLD), 63, port, out);
            self.udp(source, home, (WORLD, container), 50, port, back);
        }
    }

    /// A packet of the source's own.
    fn own(&mut self, source: Source, port: u16) {
        self.udp(
            source,
            (source.mac, GATEWAY),
            (source.ip, WORLD),
            64,
            port,
            OUT,
        );
    }

    /// Who has this address? Asked of all.
    fn arp(&mut self, source: Source, src_mac: Mac, expected: u32) {
        let frame = [&ALL[..], &src_mac, &[8, 6], &[0; 28]].concat();
        self.add(source, &frame, expected);
    }

    fn replayed(&self, workers: &str) -> (Replayed, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let input = dir.path().join("made.pcap");
        fs::write(&input, &self.pcap).unwrap();
        let replayed = replay([input.to_str().unwrap(), "--workers", workers]);
        assert_eq!(replayed.run.code, Some(0), "{}", replayed.run.stderr);
        assert_closes(&replayed.summary);
        (replayed, dir)
    }
}

/// Two sources of many flows: one whose claim is refuted in the end, and one whose is not.
fn made() -> Made {
    let mut made = Made::default();
    for source in [FIRST, SECOND] {
        // Nobody knows yet; the flows 10 to 20 end before anybody does.
        made.containers(source, 10..30, [UNKNOWN; 2]);
        made.arp(source, source.mac, UNKNOWN);
    }
    made.seconds = 100;
    // A far too small time to live teaches nothing.
    made.udp(FIRST, (FIRST.mac, GATEWAY), (FIRST.ip, WORLD), 3, 1, OUT);
    made.containers(FIRST, 20..22, [UNKNOWN; 2]);
    made.own(FIRST, 2);
    // The other session learns nothing of it.
    made.containers(SECOND, 20..22, [UNKNOWN; 2]);
    made.udp(SECOND, (GATEWAY, SECOND.mac), (WORLD, SECOND.ip), 50, 2, IN);
    for source in [FIRST, SECOND] {
        made.containers(source, 20..60, [OUT, IN]);
        made.arp(source, source.mac, OUT);
        // Others on the link, one of them the gateway.
        made.arp(source, GATEWAY, UNKNOWN);
        let stranger = [2, 0, 0, 0, 0, 0x77];
        made.udp(
            source,
            (stranger, GATEWAY),
            ([192, 0, 2, 1], WORLD),
            64,
            70,
            UNKNOWN,
        );
        made.udp(
            source,
            (GATEWAY, stranger),
            (WORLD, [192, 0, 2, 1]),
            64,
            70,
            UNKNOWN,
        );
        // Nobody sends to itself.
        made.udp(
            source,
            (source.mac, source.mac),
            ([192, 0, 2, 2], WORLD),
            64,
            71,
            UNKNOWN,
        );
    }
    made.seconds = 110;
    // It received a packet from the address that was its own: whose that is, nobody knows any more.
    let other = [2, 0, 0, 0, 0, 0x99];
    made.udp(FIRST, (FIRST.mac, other), (WORLD, FIRST.ip), 50, 3, IN);
    made.containers(FIRST, 40..80, [UNKNOWN; 2]);
    made.containers(SECOND, 40..80, [OUT, IN]);
    made
}

/// Direction and evidence of the flow of a port.
fn direction(flows: &[Value], source: Source, port: u16, start: &str) -> [Option<String>; 2] {
    let source = std::net::Ipv4Addr::from(source.ip).to_string();
    let mut of_port = flows.iter().filter(|flow| {
        let ports = [&flow["src_port"], &flow["dst_port"]];
        flow["outer_src"][0] == *source
            && ports.contains(&&port.into())
            && flow["ts_start"].as_str().unwrap().contains(start)
    });
    let flow = of_port.next().unwrap();
    assert!(of_port.next().is_none());
    ["dir", "dir_by"].map(|name| flow[name].as_str().map(str::to_owned))
}

#[test]
fn directions_are_told_by_what_was_learned_before() {
    let made = made();
    let (one, _input) = made.replayed("1");
    let flags: Vec<u32> = one.frames().iter().map(|frame| frame.flags).collect();
    assert_eq!(flags, made.expected);

    let known = |dir: &str, by: &str| [Some(dir.to_owned()), Some(by.to_owned())];
    let of = |source, port, start| direction(&one.flows, source, port, start);
    let (early, late) = (":13:20", ":15:00");
    for source in [FIRST, SECOND] {
        assert_eq!(of(source, 10, early), [None, None], "before anybody knew");
    }
    assert_eq!(of(FIRST, 2, late), known("out", "address"));
    assert_eq!(of(SECOND, 2, late), known("in", "address"));
    assert_eq!(of(FIRST, 1, late), known("out", "address"));
    assert_eq!(of(SECOND, 40, late), known("out", "mac"));
    assert_eq!(of(SECOND, 70, late), [None, None]);
    assert_eq!(of(SECOND, 71, late), [None, None]);
    // They end with the run, when it is not known any more.
    assert_eq!(of(FIRST, 40, late), [None, None]);

    let counts = |source: &str| {
        let session = one.session(77, source);
        ["inbound", "outbound", "inbound_by_mac", "outbound_by_mac"]
            .map(|name| session[name].as_u64().unwrap())
    };
    assert_eq!(counts("10.0.0.1"), [1, 2, 0, 0], "refuted");
    // Those of before it was known count too: 20 + 2 + 40 + 40 flows, and the two questions asked of all.
    assert_eq!(counts("10.0.0.2"), [103, 104, 102, 104]);
}

#[test]
fn directions_are_the_same_with_any_number_of_workers() {
    let made = made();
    let (one, _input) = made.replayed("1");
    for workers in ["2", "3"] {
        let (several, _input) = made.replayed(workers);
        let capture = |of: &Replayed| fs::read(of.capture()).unwrap();
        assert!(capture(&one) == capture(&several), "{workers} workers");
        assert_eq!(one.flow_lines(), several.flow_lines(), "{workers} workers");
        assert_eq!(one.sessions(), several.sessions(), "{workers} workers");
    }
}

#[test]
fn tshark_reads_the_same_directions() {
    if !tool("tshark") {
        return;
    }
    let made = made();
    let (replayed, _input) = made.replayed("3");
    let rows = tshark(&replayed.capture(), &["frame.packet_flags_direction"], &[]);
    let read: Vec<u32> = rows
        .iter()
        .map(|row| {
            let number = row[0].trim_start_matches("0x");
            u32::from_str_radix(number, 16).unwrap()
        })
        .collect();
    assert_eq!(read, made.expected);
}

/// A capture of ours, replayed, tells the same once more: what is learned stands in it.
#[test]
fn a_capture_of_ours_tells_the_same() {
    let made = made();
    let (first, _input) = made.replayed("1");
    let again = replay([first.capture().to_str().unwrap(), "--plain"]);
    let flags: Vec<u32> = again.frames().iter().map(|frame| frame.flags).collect();
    assert_eq!(flags, made.expected);
    assert_eq!(again.flow_lines(), first.flow_lines());
}

/// The mirror source is the kernel's own, `tc mirred` into a vxlan device. It forwards for an address that is not its own.
#[test]
fn a_source_that_forwards_for_others() {
    for backend in BACKENDS {
        let Some(lab) = Lab::new() else { return };
        if !tool("tc") {
            return;
        }
        let receiver = lab.netns(Side::Receiver);
        let vxlan = "vx0 type vxlan id 77 local 10.77.0.1 remote 10.77.0.2 dstport 4789";
        let pair = format!("app0 type veth peer name app1 netns {receiver}");
        let devices = [vxlan, pair.as_str()];
        if !devices
            .iter()
            .all(|words| lab.add_device(Side::Sender, words))
        {
            return;
        }
        lab.ip(Side::Sender, "link set vx0 up");
        lab.ip(Side::Sender, "address add 172.30.0.5/32 dev lo");
        for (side, name, last) in [(Side::Sender, "app0", 1), (Side::Receiver, "app1", 2)] {
            lab.ip(side, &format!("address add 10.88.0.{last}/24 dev {name}"));
            lab.ip(side, &format!("link set {name} up"));
        }
        for address in ["172.30.0.5", "10.77.0.1"] {
            lab.ip(
                Side::Receiver,
                &format!("route add {address}/32 via 10.88.0.1 dev app1"),
            );
        }
        let mut all = vec!["qdisc add dev app0 clsact".to_owned()];
        all.extend(["ingress", "egress"].map(|way| {
            format!("filter add dev app0 {way} protocol ip u32 match u32 0 0 action mirred egress mirror dev vx0")
        }));
        for words in all {
            let words: Vec<&str> = ["tc"].into_iter().chain(words.split(' ')).collect();
            let done = run(&mut lab.command(Side::Sender, &words));
            if done.code != Some(0) {
                eprintln!("skipped: {words:?}: {}", done.stderr.trim());
                return;
            }
        }
        let mut listener = lab.listen(backend, "");
        let far = lab.udp(Side::Receiver, "10.88.0.2:5000");
        let [own, pod] = ["10.77.0.1:6000", "172.30.0.5:6001"].map(|at| lab.udp(Side::Sender, at));
        let mut buffer = [0; 9];
        own.send_to(b"own", "10.88.0.2:5000").unwrap();
        far.recv_from(&mut buffer).unwrap();
        // Only what comes behind it can be told by it.
        listener.wait_for(1);
        pod.send_to(b"pod", "10.88.0.2:5000").unwrap();
        let (_, from) = far.recv_from(&mut buffer).unwrap();
        far.send_to(b"answer", from).unwrap();
        pod.recv_from(&mut buffer).unwrap();
        listener.wait_for(3);
        let ended = listener.end();
        let frames = common::frames(&fs::read(&ended.capture).unwrap());
        // Beside them both ends join groups: what the far one sends to a group, nobody may know.
        let is_udp = |frame: &&common::Frame| frame.bytes[23] == 17;
        let flags: Vec<u32> = frames
            .iter()
            .filter(is_udp)
            .map(|frame| frame.flags)
            .collect();
        assert_eq!(flags, [OUT, OUT, IN], "{backend}");
        let directions: Vec<[&str; 3]> = ended
            .flows
            .iter()
            .filter(|flow| flow["proto"] == 17)
            .map(|flow| ["src_ip", "dir", "dir_by"].map(|name| flow[name].as_str().unwrap()))
            .collect();
        let expected = [
            ["10.77.0.1", "out", "address"],
            ["172.30.0.5", "out", "mac"],
        ];
        assert_eq!(directions, expected, "{backend}");
    }
}
