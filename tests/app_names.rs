//! Names in flow records, held against what tshark finds: in real captures, and in a conversation of programs that is
//! made on the spot.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use common::{Replayed, assert_closes, corpus, reasons, replay, run, tool};
use serde_json::Value;

/// Protocol, and both ends in order: one conversation.
type Talk = (String, BTreeSet<(String, String)>);
/// By conversation and field: what was found.
type Names = BTreeMap<(Talk, &'static str), BTreeSet<String>>;

/// Fields of flow records, and what tshark calls them.
const FIELDS: [(&str, &str); 5] = [
    ("dns_query", "dns.qry.name"),
    ("tls_sni", "tls.handshake.extensions_server_name"),
    ("tls_alpn", "tls.handshake.extensions_alpn_str"),
    ("http_host", "http.host"),
    ("http_method", "http.request.method"),
];

/// A name of tshark as flow records have it.
fn normal(field: &str, name: &str) -> String {
    match (field, name) {
        ("http_method", method) => method.to_owned(),
        (_, "<Root>") => ".".to_owned(),
        (_, name) => name
            .bytes()
            .map(|byte| match byte {
                b'"' | b'\\' | b'%' | b',' => format!("%{byte:02x}"),
                0x21..=0x7e => char::from(byte).to_ascii_lowercase().to_string(),
                _ => format!("%{byte:02x}"),
            })
            .collect(),
    }
}

/// What tshark finds, packet by packet; of QUIC and UDP's HTTP nothing, which are not read here.
fn of_tshark(capture: &Path) -> Names {
    let ends = [
        "ip.src",
        "ip.dst",
        "ipv6.src",
        "ipv6.dst",
        "udp.srcport",
        "udp.dstport",
        "tcp.srcport",
        "tcp.dstport",
    ];
    let mut command = Command::new("tshark");
    command.arg("-nr").arg(capture);
    for preference in [
        "tcp.desegment_tcp_streams:FALSE",
        "ip.defragment:FALSE",
        "ipv6.defragment:FALSE",
    ] {
        command.args(["-o", preference]);
    }
    command.args([
        "-T",
        "fields",
        "-E",
        "separator=/t",
        "-E",
        "aggregator=|",
        "-e",
        "frame.protocols",
    ]);
    for field in ends.into_iter().chain(FIELDS.map(|(_, field)| field)) {
        command.args(["-e", field]);
    }
    let text = String::from_utf8(run(&mut command).stdout).unwrap();
    let mut names = Names::new();
    for line in text.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        let protocols: Vec<&str> = columns[0].split(':').collect();
        let innermost = |these: [&str; 2]| {
            let found = protocols.iter().rev().find(|name| these.contains(name));
            found.copied().unwrap_or_default()
        };
        // Of packets in packets the last.
        let last = |at: usize| columns[at].rsplit('|').next().unwrap().to_owned();
        let (ip, transport) = (innermost(["ip", "ipv6"]), innermost(["tcp", "udp"]));
        let (ip_at, port_at) = (
            if ip == "ip" { 1 } else { 3 },
            if transport == "udp" { 5 } else { 7 },
        );
        let end = |side: usize| (last(ip_at + side), last(port_at + side));
        let talk = (transport.to_owned(), BTreeSet::from([end(0), end(1)]));
        if protocols.iter().any(|name| ["quic", "ssdp"].contains(name)) {
            continue;
        }
        for ((field, _), found) in FIELDS.into_iter().zip(&columns[9..]) {
            let mut found = found.split('|').filter(|name| !name.is_empty());
            let name = match field {
                "tls_alpn" => found
                    .map(|name| normal(field, name))
                    .collect::<Vec<_>>()
                    .join(" "),
                _ => found
                    .next()
                    .map_or_else(String::new, |name| normal(field, name)),
            };
            if !name.is_empty() {
                names.entry((talk.clone(), field)).or_default().insert(name);
            }
        }
    }
    names
}

fn of_records(flows: &[Value]) -> Names {
    let mut names = Names::new();
    for flow in flows {
        let transport = match flow["proto"].as_u64() {
            Some(6) => "tcp",
            Some(17) => "udp",
            _ => continue,
        };
        let end = |side: &str| {
            let ip = flow[format!("{side}_ip")].as_str().unwrap().to_owned();
            (ip, flow[format!("{side}_port")].to_string())
        };
        let talk = (
            transport.to_owned(),
            BTreeSet::from([end("src"), end("dst")]),
        );
        for (field, _) in FIELDS {
            if let Some(name) = flow[field].as_str() {
                names
                    .entry((talk.clone(), field))
                    .or_default()
                    .insert(name.to_owned());
            }
        }
    }
    names
}

/// Where the two differ: each name in a record is one that tshark finds in its conversation, and where tshark finds any
/// there is one.
fn differences(tshark: &Names, records: &Names) -> Vec<String> {
    let mut differences = Vec::new();
    for key in tshark.keys().chain(records.keys()).collect::<BTreeSet<_>>() {
        let nothing = BTreeSet::new();
        let (found, told) = (
            tshark.get(key).unwrap_or(&nothing),
            records.get(key).unwrap_or(&nothing),
        );
        if told.is_empty() || !told.is_subset(found) {
            differences.push(format!("{key:?}: {told:?} instead of one of {found:?}"));
        }
    }
    differences
}

/// Captures whose names differ, and why.
const EXCEPTIONS: [(&str, &str); 12] = [
    ("arkime--6-4-gre-ppp-udp-4-dns.pcap", "inside of GRE"),
    ("pcapplusplus--GrePackets.pcap", "inside of GRE"),
    ("mercury--ip_encapsulation.pcap", "inside of 6in4"),
    ("ndpi--4in6tunnel.pcap", "inside of 4in6"),
    ("zeek--vxlan-triple-v2.pcap", "in the third layer of VXLAN"),
    ("zeek--nflog-http.pcap", "a link type that is not read"),
    ("zeek--radiotap.pcap", "a link type that is not read"),
    (
        "pcapplusplus--null_loopback.pcap",
        "an address family that is not read",
    ),
    ("zeek--ipv6-http-atomic-frag.pcap", "HTTP/0.9"),
    ("zeek--mixed-vlan-mpls.pcap", "HTTP/0.9"),
    ("zeek--wikipedia.pcap", "LLMNR, on a port of its own"),
    ("mercury--capture2.pcap", "LLMNR, on a port of its own"),
];

#[test]
fn names_in_the_corpus() {
    let Some(corpus) = corpus().filter(|_| tool("tshark")) else {
        return;
    };
    let (mut equal, mut wrong) = (0, Vec::new());
    for (dir, flags) in [("plain", &["--plain"][..]), ("vxlan", &[])] {
        for entry in std::fs::read_dir(corpus.join(dir)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let found = of_tshark(&path);
            let mut args: Vec<_> = flags.iter().map(Into::into).collect();
            args.push(path.into_os_string());
            let told = of_records(&replay(&args).flows);
            let differences = differences(&found, &told);
            let is_exception = EXCEPTIONS.iter().any(|(exception, _)| *exception == name);
            equal += told.len();
            if is_exception && !found.is_empty() {
                assert!(!differences.is_empty(), "{name} is no exception any more");
                // What is told is true all the same.
                let untrue = told.iter().filter(|(key, told)| {
                    found.get(*key).is_none_or(|found| !told.is_subset(found))
                });
                assert_eq!(untrue.count(), 0, "{name}: {differences:?}");
                continue;
            }
            wrong.extend(
                differences
                    .into_iter()
                    .map(|difference| format!("{name}: {difference}")),
            );
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(equal > 500, "only {equal} names");
}

/// DNS by the system's resolver, TLS by openssl, HTTP by curl and Python, over a loopback with the MTU of a wire; captured
/// by tcpdump.
const CONVERSATION: &str = r#"
set -eu
cd "$1"
ip link set lo up mtu 1500
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem \
    -days 1 -subj /CN=shop.example 2>openssl.log
printf 'nameserver 127.0.0.1\noptions timeout:1 attempts:5\n' >resolv.conf
printf 'hosts: dns\n' >nsswitch.conf
mount --bind resolv.conf /etc/resolv.conf
mount --bind nsswitch.conf /etc/nsswitch.conf
tcpdump -i lo -U --immediate-mode -w talk.pcap 2>tcpdump.log &
until grep -q listening tcpdump.log; do sleep 0.02; done
python3 -c '
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
while True:
    query, asker = server.recvfrom(512)
    server.sendto(query[:2] + b"\x81\x83" + query[4:], asker)
' &
openssl s_server -accept 127.0.0.1:4433 -cert cert.pem -key key.pem -alpn h2,http/1.1 -quiet >server.log 2>&1 </dev/null &
mkdir served
python3 -m http.server 8080 --bind 127.0.0.1 --directory served >http.log 2>&1 &
until grep -q '\bu53 ' names 2>/dev/null; do
    awk '$2 ~ /:0035$/ { print "u53 " }' /proc/net/udp >names; sleep 0.02
done
getent ahosts Nowhere.vxtap.example || true
until openssl s_client -connect 127.0.0.1:4433 -servername Shop.Example -alpn h2,http/1.1 \
    >client.log 2>&1 </dev/null; do sleep 0.02; done
until curl -s --noproxy '*' --resolve files.example.com:8080:127.0.0.1 -o page -X PUT \
    http://files.example.com:8080/; do sleep 0.02; done
# Whoever comes last is captured last.
curl -s --noproxy '*' -o page http://127.0.0.1:8080/the-end
until grep -aq the-end talk.pcap; do sleep 0.02; done
"#;

fn flow<'a>(replayed: &'a Replayed, app: &str) -> &'a Value {
    let mut found = replayed.flows.iter().filter(|flow| flow["app"] == app);
    found
        .next()
        .unwrap_or_else(|| panic!("no {app} in {:?}", replayed.flows))
}

#[test]
fn names_in_a_conversation() {
    let tools = [
        "unshare", "ip", "tcpdump", "openssl", "python3", "curl", "getent", "tshark", "editcap",
    ];
    if !tools.into_iter().all(tool) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // What it starts ends with it.
    let apart = [
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ];
    if run(Command::new("unshare").args(apart).arg("true")).code != Some(0) {
        eprintln!("skipped: no namespaces");
        return;
    }
    let mut command = Command::new("unshare");
    command
        .args(apart)
        .args(["sh", "-c", CONVERSATION, "sh"])
        .arg(dir.path());
    let done = run(&mut command);
    assert_eq!(done.code, Some(0), "{}", done.stderr);

    let capture = dir.path().join("talk.pcap");
    let plain = |capture: &Path, more: &[&str]| {
        let mut args = vec!["--plain".into(), capture.as_os_str().to_owned()];
        args.extend(more.iter().map(Into::into));
        replay(args)
    };
    let replayed = plain(&capture, &[]);
    assert_closes(&replayed.summary);
    // A server may ask for its own name too.
    let asked = |flow: &&Value| flow["dns_query"] == "nowhere.vxtap.example";
    let dns = replayed.flows.iter().find(asked);
    let dns = dns.unwrap_or_else(|| panic!("nobody asked in {:?}", replayed.flows));
    assert_eq!((&dns["app"], &dns["dns_rcode"]), (&"dns".into(), &3.into()));
    let tls = flow(&replayed, "tls");
    assert_eq!(
        (&tls["tls_sni"], &tls["tls_alpn"]),
        (&"shop.example".into(), &"h2 http/1.1".into())
    );
    let http = flow(&replayed, "http");
    assert_eq!(
        (&http["http_host"], &http["http_method"]),
        (&"files.example.com:8080".into(), &"PUT".into())
    );
    let whole = of_records(&replayed.flows);
    assert_eq!(differences(&of_tshark(&capture), &whole), [""; 0]);

    // Cut as a mirror cuts: the same names or none, and more the more there is.
    let cut = dir.path().join("cut.pcap");
    let mut before = 0;
    for snaplen in ["60", "90", "130", "200", "400", "1600"] {
        let made = run(Command::new("editcap")
            .args(["-s", snaplen])
            .arg(&capture)
            .arg(&cut));
        assert_eq!(made.code, Some(0), "{}", made.stderr);
        let names = of_records(&plain(&cut, &[]).flows);
        for (key, names) in &names {
            assert!(
                whole.get(key).is_some_and(|whole| names.is_subset(whole)),
                "{snaplen}: {names:?}"
            );
        }
        assert!(names.len() >= before, "{snaplen}");
        before = names.len();
    }
    assert_eq!(before, whole.len());

    let left_out = plain(&capture, &["--no-app"]).flows;
    assert_eq!(left_out.len(), replayed.flows.len());
    assert!(left_out.iter().all(|flow| flow.get("app").is_none()));
    assert!(of_records(&left_out).is_empty());
}

/// A frame with `payload` from a client of this number to port `port`.
fn segment(client: u32, port: u16, seq: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((payload.len() as u16 + 40).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 1]);
    frame.extend((client as u16).to_be_bytes());
    frame.extend([0x30, 0x39]);
    frame.extend(port.to_be_bytes());
    frame.extend(seq.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0x50, 0x18, 2, 0, 0, 0, 0, 0]);
    frame.extend(payload);
    frame
}

/// A classic pcap of frames, 10 ms apart, all but the last `cut` bytes of each.
fn pcap(frames: &[Vec<u8>], cut: usize) -> Vec<u8> {
    let mut pcap = vec![
        0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0,
    ];
    for (number, frame) in frames.iter().enumerate() {
        let (number, len) = (number as u32, frame.len() as u32);
        let kept = &frame[..frame.len() - cut];
        let header = [number / 100, number % 100 * 10_000, kept.len() as u32, len];
        pcap.extend(header.map(u32::to_le_bytes).concat());
        pcap.extend(kept);
    }
    pcap
}

/// Requests, each of a flow of its own.
fn requests(count: u32, host: impl Fn(u32) -> String) -> Vec<u8> {
    let frame = |number| {
        let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", host(number));
        segment(number, 80, 1, request.as_bytes())
    };
    pcap(&(0..count).map(frame).collect::<Vec<_>>(), 0)
}

/// A ClientHello as browsers send it now: a key of 1.2 KB, and the server's name behind it.
fn long_hello(server: &str) -> Vec<u8> {
    let extension = |kind: u16, content: &[u8]| {
        let len = content.len() as u16;
        [&kind.to_be_bytes()[..], &len.to_be_bytes(), content].concat()
    };
    let len = server.len() as u16;
    let name = [
        &(len + 3).to_be_bytes()[..],
        &[0],
        &len.to_be_bytes(),
        server.as_bytes(),
    ]
    .concat();
    let key = extension(51, &[7; 1263]);
    let extensions = [key, extension(0, &name), extension(16, b"\0\x03\x02h2")].concat();
    let mut body = vec![3, 3];
    body.extend([5; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let len = body.len() as u16;
    let head = [
        &[0x16, 3, 1][..],
        &(len + 4).to_be_bytes(),
        &[1, 0],
        &len.to_be_bytes(),
    ]
    .concat();
    [head, body].concat()
}

/// A ClientHello in two segments, of many connections at the same time; whole, and with the end of each packet cut off by
/// a mirror. Where the second segment comes first nobody knows what it is.
#[test]
fn names_in_a_second_segment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hellos.pcap");
    let hellos: Vec<Vec<u8>> = (0..40)
        .map(|client| long_hello(&format!("s{client}.example")))
        .collect();
    let part = |client: usize, first: bool| {
        let (head, tail) = hellos[client].split_at(1200);
        let (seq, payload) = if first { (0, head) } else { (1200, tail) };
        // Behind the name there has to be something to be cut off.
        let payload = [payload, &[0; 60][..if first { 0 } else { 60 }]].concat();
        segment(client as u32, 443, seq + client as u32 * 7919, &payload)
    };
    let parts: Vec<_> = [true, false]
        .into_iter()
        .flat_map(|first| (0..40).map(move |client| (client, first)))
        .collect();
    let frames: Vec<_> = parts
        .iter()
        .map(|(client, first)| part(*client, *first))
        .collect();
    let backwards: Vec<_> = parts
        .iter()
        .rev()
        .map(|(client, first)| part(*client, *first))
        .collect();
    for (frames, cut, is_named) in [
        (&frames, 0, true),
        (&frames, 50, true),
        (&backwards, 0, false),
    ] {
        std::fs::write(&path, pcap(frames, cut)).unwrap();
        for workers in ["1", "2"] {
            let replayed = replay(["--plain", path.to_str().unwrap(), "--workers", workers]);
            assert_closes(&replayed.summary);
            assert_eq!(replayed.flows.len(), 40);
            for flow in &replayed.flows {
                let client = flow["dst_ip"].as_str().unwrap().rsplit('.').next().unwrap();
                let name = Value::from(format!("s{client}.example"));
                assert_eq!(flow["app"], "tls");
                assert_eq!(
                    flow.get("tls_sni"),
                    is_named.then_some(&name),
                    "{cut} {workers}"
                );
                assert_eq!(
                    flow.get("tls_alpn"),
                    is_named.then_some(&"h2".into()),
                    "{cut} {workers}"
                );
            }
        }
    }
}

/// Names have a bounded part of memory: the packets whose names find no room are counted, and all else is as ever.
#[test]
fn names_that_find_no_room_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("requests.pcap");
    std::fs::write(&path, requests(1000, |number| format!("{number:0200}"))).unwrap();
    let path = path.to_str().unwrap();
    let replayed = replay(["--plain", path, "--max-flows", "1000"]);
    assert_closes(&replayed.summary);
    assert_eq!(replayed.flows.len(), 1000);
    let named = replayed
        .flows
        .iter()
        .filter(|flow| flow.get("app").is_some())
        .count() as u64;
    let noted = reasons(&replayed.summary, "noted");
    assert_eq!(noted["app_names_full"] + named, 1000, "{noted:?}");
    assert!((100..600).contains(&named), "{named}");
    for flow in &replayed.flows {
        let host = flow
            .get("http_host")
            .map(|host| host.as_str().unwrap().len());
        assert_eq!(host, flow.get("app").map(|_| 200));
    }
    // Flows that end leave room for the names of others.
    let replayed = replay([
        "--plain",
        path,
        "--max-flows",
        "1000",
        "--idle-timeout",
        "tcp=1s",
    ]);
    let named = replayed
        .flows
        .iter()
        .filter(|flow| flow.get("app").is_some());
    assert_eq!((replayed.flows.len(), named.count() > 600), (1000, true));
}

/// By any number of workers the same records.
#[test]
fn names_do_not_depend_on_workers() {
    let replayed = ["1", "2", "3"].map(|workers| {
        let replayed = replay(["testdata/app-names.pcap", "--workers", workers]);
        std::fs::read_to_string(replayed.dir.path().join("out.jsonl")).unwrap()
    });
    assert!(replayed[0].contains("\"tls_sni\""));
    assert_eq!(replayed[0], replayed[1]);
    assert_eq!(replayed[0], replayed[2]);
}
