//! What the peers (tshark, tcpdump, capinfos) see in the captures and flow records that `vxtap replay` writes.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use common::{
    assert_time_order, flags_for, missing, opens_with, readable_names, replay_testdata, run,
    testdata, tool, tshark,
};
use serde_json::Value;

#[test]
fn tcpdump_and_capinfos_open_every_capture() {
    let programs: Vec<&str> = ["tcpdump", "capinfos"]
        .into_iter()
        .filter(|name| tool(name))
        .collect();
    for name in readable_names() {
        let replayed = replay_testdata(&name, flags_for(&name));
        let is_sorted = assert_time_order(&replayed.frames(), &replayed.summary);
        for program in &programs {
            opens_with(program, &replayed.capture());
            if *program == "capinfos" {
                let mut command = Command::new(program);
                let done = run(command.args(["-o", "-T", "-r"]).arg(replayed.capture()));
                let row = String::from_utf8_lossy(&done.stdout).into_owned();
                let strict = if is_sorted { "True" } else { "False" };
                assert!(row.trim_end().ends_with(strict), "{name}: {row}");
            }
        }
    }
    if programs.contains(&"capinfos") {
        let demo = replay_testdata("demo.pcap", &[]);
        let said = run(Command::new("capinfos").arg("-M").arg(demo.capture())).stdout;
        let said = String::from_utf8_lossy(&said);
        for line in [
            "Number of packets:   198",
            "Number of interfaces in file: 3",
            "Number of stat entries = 1",
            "Number of packets = 55",
        ] {
            assert!(said.contains(line), "no \"{line}\" in {said}");
        }
    }
}

/// The inner frames, as tshark finds them in the input, are the frames written: every byte, every time.
#[test]
fn tshark_finds_the_same_inner_frames() {
    // These carry other things than VXLAN; their own tests look at the bytes. tshark takes nothing of first
    // fragments alone, joins those that overlap, takes no train apart, and in the last one, where a UDP
    // length goes beyond its IP packet, it takes nothing.
    let others = [
        "gpe.pcap",
        "geneve.pcap",
        "inner-bare.pcap",
        "plain.pcap",
        "plain-sll.pcap",
        "outer-first-fragments.pcap",
        "outer-fragments.pcap",
        "outer-trains.pcap",
        "udp-length-mismatch.pcap",
    ];
    if !tool("tshark") || !tool("mergecap") {
        return;
    }
    let names: Vec<String> = readable_names()
        .filter(|name| !others.contains(&&**name))
        .collect();
    // tshark is slow to start, so it gets one file with all packets. Only mergecap cuts the times of a
    // pcapng file with several units to the coarsest of them: those files stay by themselves.
    let (alone, together): (Vec<_>, Vec<_>) =
        names.iter().partition(|name| name.ends_with(".pcapng"));
    let dir = tempfile::tempdir().unwrap();
    let merged = dir.path().join("merged.pcapng");
    let mut command = Command::new("mergecap");
    command.args(["-a", "-w"]).arg(&merged);
    command.args(together.iter().map(|name| testdata(name)));
    let run = run(&mut command);
    assert_eq!(run.code, Some(0), "mergecap: {}", run.stderr);
    let mut inputs = vec![(merged, together)];
    inputs.extend(alone.into_iter().map(|name| (testdata(name), vec![name])));
    for (input, names) in inputs {
        let mut ours = Vec::new();
        for name in names {
            let frames = replay_testdata(name, &[]).frames().into_iter();
            ours.extend(frames.map(|frame| (name, frame)));
        }
        let theirs = mirrored_frames(&input);
        for ((name, frame), (bytes, time)) in ours.iter().zip(&theirs) {
            assert_eq!(frame.bytes, *bytes, "{name}");
            // A simple packet block has no time: tshark shows none, we repeat the one before.
            if !time.is_empty() {
                assert_eq!(epoch(frame.ts_ns), *time, "{name}");
            }
        }
        assert_eq!(ours.len(), theirs.len(), "{}", input.display());
    }
}

/// What is behind the VXLAN headers that tshark sees in `input`, with its time.
fn mirrored_frames(input: &Path) -> Vec<(Vec<u8>, String)> {
    let fields = ["udp.dstport", "udp.payload", "frame.time_epoch"];
    let options = ["-o", "ip.defragment:TRUE", "-o", "ipv6.defragment:TRUE"];
    let rows = tshark(input, &fields, &options).into_iter();
    let mirrored = rows.filter_map(|row| {
        let payload = unhex(&row[1]);
        let mirrored = row[0] == "4789"
            && payload.len() > 8
            && payload[0] & 8 != 0
            && payload != b"health-check";
        mirrored.then(|| (payload[8..].to_vec(), row[2].clone()))
    });
    mirrored.collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// Seconds since 1970 as tshark writes them.
fn epoch(ts_ns: u128) -> String {
    format!("{}.{:09}", ts_ns / 1_000_000_000, ts_ns % 1_000_000_000)
}

const FIELDS: [&str; 22] = [
    "frame.protocols",
    "frame.interface_name",
    "frame.time_epoch",
    "frame.len",
    "frame.cap_len",
    "frame.comment",
    "_ws.malformed",
    "ip.src",
    "ip.dst",
    "ip.len",
    "ip.frag_offset",
    "ipv6.src",
    "ipv6.dst",
    "ipv6.plen",
    "ipv6.fraghdr.offset",
    "tcp.srcport",
    "tcp.dstport",
    "udp.srcport",
    "udp.dstport",
    "sctp.srcport",
    "sctp.dstport",
    "communityid",
];

/// Addresses and ports, the lower pair first.
type Ends = [(String, String); 2];

/// Packets and bytes from the lower end, then from the other, of each conversation of each interface.
type Conversations = BTreeMap<(String, Ends), [u64; 4]>;

/// One frame as tshark dissects it.
struct Dissected(BTreeMap<&'static str, String>);

impl Dissected {
    fn text(&self, field: &str) -> &str {
        &self.0[field]
    }

    fn number(&self, field: &str) -> Option<u64> {
        self.text(field).parse().ok()
    }

    /// The protocols around the first IP header, and those in it.
    fn layers(&self) -> Option<(Vec<&str>, Vec<&str>)> {
        let layers: Vec<&str> = self.text("frame.protocols").split(':').collect();
        let at = layers
            .iter()
            .position(|layer| matches!(*layer, "ip" | "ipv6"))?;
        let inside = layers[at + 1..]
            .iter()
            .filter(|layer| !layer.starts_with("ipv6."));
        Some((layers[..=at].to_vec(), inside.copied().collect()))
    }

    /// Bytes before the first IP header, and the length it declares. Behind MPLS the number of labels
    /// is not to be seen here.
    fn declared(&self) -> Option<(u64, u64)> {
        let (around, _) = self.layers()?;
        if around.contains(&"mpls") {
            return None;
        }
        let tags = around
            .iter()
            .filter(|layer| matches!(**layer, "vlan" | "ieee8021ad"));
        let offset = 14 + 4 * tags.count() as u64;
        let len = match self.number("ip.len") {
            Some(len) => len,
            None => self.number("ipv6.plen").filter(|len| *len > 0)? + 40,
        };
        Some((offset, len))
    }

    /// Interface and both ends, the lower first; `None` without IP. The flag says that the source is
    /// the lower one.
    fn ends(&self) -> Option<(String, Ends, bool)> {
        let (_, inside) = self.layers()?;
        let pick = |v4: &str, v6: &str| {
            let v4 = self.text(v4);
            if v4.is_empty() {
                self.text(v6).to_owned()
            } else {
                v4.to_owned()
            }
        };
        let later = !matches!(
            pick("ip.frag_offset", "ipv6.fraghdr.offset").as_str(),
            "" | "0"
        );
        // Authentication headers are passed over.
        let mut behind = inside.iter().copied().skip_while(|layer| *layer == "ah");
        let transport = behind.next().unwrap_or_default();
        let port = |end: &str| match transport {
            "tcp" | "udp" | "sctp" if !later => {
                self.text(&format!("{transport}.{end}port")).to_owned()
            }
            _ => String::new(),
        };
        let (src, dst) = (pick("ip.src", "ipv6.src"), pick("ip.dst", "ipv6.dst"));
        if src.is_empty() {
            return None;
        }
        let mut ends = [(src, port("src")), (dst, port("dst"))];
        let ascending = ends[0] <= ends[1];
        if !ascending {
            ends.reverse();
        }
        Some((
            self.text("frame.interface_name").to_owned(),
            ends,
            ascending,
        ))
    }
}

fn check_with_tshark(name: &str) {
    let replayed = replay_testdata(name, flags_for(name));
    let options = ["--enable-protocol", "communityid"];
    let rows = tshark(&replayed.capture(), &FIELDS, &options);
    let rows: Vec<Dissected> = rows
        .into_iter()
        .map(|row| Dissected(FIELDS.into_iter().zip(row).collect()))
        .collect();
    let frames = replayed.frames();
    assert_eq!(
        rows.len() as u64,
        replayed.count("delivered"),
        "{name}: frames"
    );
    assert_eq!(rows.len(), frames.len(), "{name}: frames");
    let mut conversations = Conversations::new();
    for (at, (row, frame)) in rows.iter().zip(&frames).enumerate() {
        let what = format!("{name}, frame {}", at + 1);
        let captured = frame.bytes.len() as u64;
        assert_eq!(row.number("frame.cap_len"), Some(captured), "{what}");
        assert_eq!(
            row.number("frame.len"),
            Some(u64::from(frame.orig_len)),
            "{what}"
        );
        assert_eq!(row.text("frame.interface_name"), frame.interface, "{what}");
        assert_eq!(
            row.text("frame.comment"),
            frame.comment.as_deref().unwrap_or_default(),
            "{what}"
        );
        assert_eq!(row.text("frame.time_epoch"), epoch(frame.ts_ns), "{what}");
        // Others may have one that their packet had in the input.
        let comment = frame.comment.as_deref().unwrap_or_default();
        assert!(
            comment.starts_with("truncated: ") == (u64::from(frame.orig_len) > captured),
            "{what}: cut frames have a comment of ours, others none"
        );
        if let Some((offset, len)) = row.declared().filter(|(_, len)| *len > 0) {
            let orig = captured.max(offset + len);
            assert_eq!(
                u64::from(frame.orig_len),
                orig,
                "{what}: {len} bytes of IP at {offset}"
            );
        }
        if let Some((interface, ends, ascending)) = row.ends() {
            let counts = conversations.entry((interface, ends)).or_default();
            let at = if ascending { 0 } else { 2 };
            counts[at] += 1;
            // A frame to no address: its Ethernet header was never on the wire.
            let added = if frame.bytes.starts_with(&[0; 6]) {
                14
            } else {
                0
            };
            counts[at + 1] += u64::from(frame.orig_len) - added;
        }
    }
    let mut ours = Conversations::new();
    for flow in &replayed.flows {
        let interface = match flow.get("vni") {
            Some(vni) => format!("vni{vni}@{}", flow["outer_src"][0].as_str().unwrap()),
            None => "plain".to_owned(),
        };
        let end = |ip: &str, port: &str| {
            let port = flow.get(port).map_or_else(String::new, Value::to_string);
            (flow[ip].as_str().unwrap().to_owned(), port)
        };
        let mut ends = [end("src_ip", "src_port"), end("dst_ip", "dst_port")];
        let ascending = ends[0] <= ends[1];
        if !ascending {
            ends.reverse();
        }
        let counts = ours.entry((interface, ends)).or_default();
        let (o, r) = if ascending { (0, 2) } else { (2, 0) };
        for (at, way) in [(o, "o"), (r, "r")] {
            counts[at] += flow[format!("pkts_{way}")].as_u64().unwrap();
            counts[at + 1] += flow[format!("l2_bytes_{way}")].as_u64().unwrap();
        }
        check_community_id(name, flow, &rows);
    }
    if name == "inner-zero-length.pcap" {
        // An IPv6 payload length of zero says nothing (segmentation offload): we read the TCP header
        // behind it, tshark stops.
        let of = |table: &Conversations| table.values().map(|counts| counts[0]).sum::<u64>();
        assert_eq!((of(&ours), of(&conversations)), (5, 5));
        return;
    }
    if name == "inner-cuts.pcap" {
        // One conversation was cut before its ports. Of one IPv6 packet the source address arrived but
        // not the destination: tshark shows it, for us there is no IP header.
        let without_ports = |table: &mut Conversations| -> u64 {
            let all = table.len();
            table.retain(|(_, ends), _| !ends[0].1.is_empty());
            (all - table.len()) as u64
        };
        let cut = (without_ports(&mut ours), without_ports(&mut conversations));
        assert_eq!(cut, (1, 2));
    }
    assert_eq!(ours, conversations, "{name}: conversations");
}

/// A flow with ports has the community id tshark computes for its whole packets.
fn check_community_id(name: &str, flow: &Value, rows: &[Dissected]) {
    let Some(port) = flow.get("src_port") else {
        return;
    };
    let ours = flow["community_id"].as_str().unwrap();
    let of_flow = rows.iter().filter(|row| {
        let whole = row.text("frame.len") == row.text("frame.cap_len");
        let layers = row.layers().is_some_and(|(_, inside)| {
            // Where packets are nested tshark tells the id of the innermost.
            !inside.iter().any(|layer| matches!(*layer, "ip" | "ipv6"))
        });
        let source =
            [row.text("ip.src"), row.text("ipv6.src")].contains(&flow["src_ip"].as_str().unwrap());
        let ports = ["tcp.srcport", "udp.srcport", "sctp.srcport"].map(|field| row.text(field));
        whole && layers && source && ports.contains(&&*port.to_string())
    });
    let theirs: BTreeSet<&str> = of_flow.map(|row| row.text("communityid")).collect();
    assert!(
        theirs.is_empty() || theirs.contains(ours),
        "{name}: {ours} of {flow}, tshark: {theirs:?}"
    );
}

/// Half of the captures: tshark is slow to start, and two tests run side by side.
fn check_share(share: usize) {
    if tool("tshark") {
        // Judged by themselves: tshark's way of reading pseudowires and other layers is another.
        let apart = ["inner-layers.pcap", "inner-pseudowire.pcap"];
        for name in readable_names().skip(share).step_by(2) {
            if !apart.contains(&&*name) {
                check_with_tshark(&name);
            }
        }
    }
}

#[test]
fn tshark_agrees_with_captures_and_flow_records_1() {
    check_share(0);
}

#[test]
fn tshark_agrees_with_captures_and_flow_records_2() {
    check_share(1);
}

/// What stands between Ethernet and IP: tshark finds the same packets, and no length that it calls wrong.
#[test]
fn tshark_agrees_on_layers_in_front_of_ip() {
    if !tool("tshark") {
        return;
    }
    let replayed = replay_testdata("inner-layers.pcap", &[]);
    let frames = replayed.frames();
    let fields = [
        "ip.src",
        "ipv6.src",
        "udp.srcport",
        "ip.len",
        "ipv6.plen",
        "frame.len",
        "_ws.expert.message",
    ];
    let rows = tshark(&replayed.capture(), &fields, &[]);
    assert_eq!((rows.len(), frames.len()), (36, 36));
    // tshark knows no tag 0x8200 and no 802.3 length behind 802.1ah.
    let closed = [7, 17, 25, 35];
    let (whole, cut) = frames.split_at(18);
    for (at, row) in rows.iter().enumerate() {
        let [v4, v6, port, ip_len, payload_len, frame_len, expert] = row.as_slice() else {
            panic!("{row:?}")
        };
        let orig_len = whole[at % 18].orig_len;
        assert_eq!(frame_len.parse(), Ok(orig_len), "frame {}", at + 1);
        if !closed.contains(&at) {
            assert!(v4 == "10.0.1.11" || v6 == "2001:db8:1::11", "{row:?}");
            assert_eq!(port, "40000", "{row:?}");
            assert!(ip_len == "148" || payload_len == "128", "{row:?}");
            // It takes the last four bytes behind FabricPath for a checksum, which a mirror removes.
            assert!(at % 18 == 11 || !expert.contains("exceeds"), "{row:?}");
        }
    }
    assert!(cut.iter().all(|frame| frame.bytes.len() == 128));
    let sum = |name: &str| -> u64 {
        let of = |flow: &Value| flow[name].as_u64().unwrap();
        replayed.flows.iter().map(of).sum()
    };
    assert_eq!((sum("pkts_o"), sum("trunc_pkts_o")), (36, 18));
    assert_eq!(sum("trunc_missing_o"), 911);
}

/// The point of a true original length: cut frames are called cut, not malformed, and no segment is
/// invented as lost behind them.
#[test]
fn tshark_calls_cut_frames_cut() {
    if !tool("tshark") {
        return;
    }
    for (name, cut) in [("session-96.pcap", [5, 7].as_slice()), ("demo.pcap", &[])] {
        let replayed = replay_testdata(name, &[]);
        let fields = [
            "frame.number",
            "_ws.short",
            "_ws.malformed",
            "tcp.analysis.lost_segment",
        ];
        let rows = tshark(&replayed.capture(), &fields, &[]);
        let shorter: Vec<usize> = missing(&replayed.frames()).map(|(at, _)| at).collect();
        let mut limited = Vec::new();
        for row in &rows {
            let number: usize = row[0].parse().unwrap();
            if row[1].contains("Packet size limited during capture") {
                limited.push(number);
            }
            if shorter.contains(&number) {
                assert_eq!(row[2], "", "{name}, frame {number} is called malformed");
            }
            assert_eq!(
                row[3], "",
                "{name}, frame {number}: a segment is called lost"
            );
        }
        // In the other cut frames nothing that tshark wants to read is missing.
        assert!(
            limited.iter().all(|at| shorter.contains(at)),
            "{name}: {limited:?}"
        );
        assert!(!limited.is_empty(), "{name}");
        assert!(cut.is_empty() || limited == cut, "{name}: {limited:?}");
    }
}
