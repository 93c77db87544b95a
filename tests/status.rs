//! How a run that goes on is asked how it is: `vxtap status`, HTTP, health checks, systemd. What they say is what the
//! summary says in the end.
#![cfg(target_os = "linux")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::lab::Listener;
use common::listening::{Listening, SOON, TOKEN, assert_same, http, request, series};
use common::{assert_closes, frames, json_lines, reasons, run, vxtap, vxtap_command, wait_until};
use serde_json::Value;

/// Metrics, as scraped behind the last packet, and the status are what the summary says. The numbers of traffic that is
/// truncated, malformed and foreign are in it.
#[test]
fn metrics_and_status_say_what_the_summary_says() {
    let listening = Listening::start("-w DIR/c.pcapng --flows DIR/f.jsonl --http 0");
    listening.send("--generate --count 3000 --pps 20000 --vnis 7 --packet-length 200");
    let probe = UdpSocket::bind("127.0.0.1:0").unwrap();
    for bytes in [&b"ping"[..], &[0; 60], b"\x08\0\0\0\0\0\x05\0"] {
        probe.send_to(bytes, listening.target).unwrap();
    }
    let status =
        listening.wait(|status| status["received"] == 3003 && status["sinks"][0]["waiting"] == 0);
    assert_eq!(
        status["sessions"].as_array().unwrap().len(),
        7,
        "{status:#}"
    );
    assert!(status["lately"]["packets_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(status["health"]["healthy"], true, "{status:#}");
    let (code, prometheus) = listening.get("/metrics");
    assert_eq!(code, 200);
    let accept = "Accept: application/openmetrics-text;version=1.0.0\r\n";
    let (_, head, open) = listening.ask(&request("GET /metrics", accept));
    assert!(
        head.contains("application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    assert!(open.ends_with("# EOF\n"));
    let over_http: Value = serde_json::from_str(&listening.get("/status").1).unwrap();
    assert_eq!(over_http["received"], 3003);
    let page = listening.status(&[]);
    assert_eq!(page.code, Some(0), "{}", page.stderr);
    let page = String::from_utf8(page.stdout).unwrap();
    assert!(page.contains("\nHealthy\n"), "{page}");
    assert!(page.contains("3003 received = "), "{page}");
    let (code, said, summary) = listening.end();
    assert_eq!(code, Some(0), "{said}");
    assert_closes(&summary);
    let (prometheus, open) = (series(&prometheus), series(&open));
    assert_same(&prometheus, &summary);
    assert_same(&open, &summary);
    let truncated = prometheus
        .iter()
        .filter(|(name, _)| name.starts_with("vxtap_session_truncated"));
    assert!(truncated.map(|(_, packets)| packets).sum::<f64>() > 0.0);
    for kind in ["malformed", "filtered", "dropped", "kernel_dropped"] {
        let over_status = reasons(&status, kind);
        assert_eq!(over_status, reasons(&summary, kind));
    }
}

/// Beside health and metrics nothing is open beyond loopback addresses, and with a token only to who has it.
#[test]
fn the_status_over_http_needs_its_token() {
    let listening = Listening::start_with_token("");
    let with = |header: &str| {
        let (code, head, body) = listening.ask(&request("GET /status", header));
        assert_eq!(code == 200, body.contains("uptime_seconds"), "{body}");
        assert_eq!(
            code == 401,
            head.to_lowercase().contains("www-authenticate: bearer"),
            "{head}"
        );
        code
    };
    assert_eq!(with(&format!("Authorization: Bearer {TOKEN}\r\n")), 200);
    assert_eq!(with(""), 401);
    assert_eq!(with("Authorization: Bearer 0123456789abcdee\r\n"), 401);
    assert_eq!(with(&format!("Authorization: Basic {TOKEN}\r\n")), 401);
    for open in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(listening.get(open).0, 200, "{open}");
    }
    assert_eq!(listening.get("/").0, 404);
    assert_eq!(listening.get("/../../etc/passwd").0, 404);
    let (code, head, _) =
        listening.ask(&(request("POST /metrics", "Content-Length: 3\r\n") + "abc"));
    assert_eq!(code, 405);
    assert!(head.to_lowercase().contains("allow: get,head"), "{head}");
    let (code, _, body) = listening.ask(&request("HEAD /healthz", ""));
    assert_eq!((code, body.as_str()), (200, ""));
    listening.end();
    let outside = Listening::start("--http 0.0.0.0:0");
    let address = SocketAddr::from(([127, 0, 0, 1], outside.http.unwrap().port()));
    let ask = |path: &str| http(address, &request(&format!("GET {path}"), ""));
    let (code, _, body) = ask("/status");
    assert_eq!(code, 403);
    assert!(body.contains("--http-token-file"), "{body}");
    assert_eq!(ask("/metrics").0, 200);
    outside.end();
}

/// An output that fails: the run goes on, and says so everywhere.
#[test]
fn an_output_that_fails_is_told() {
    // A file of flow records that is full at once; the capture goes on.
    let listening = Listening::start(
        "-w DIR/c.pcapng --flows /dev/full --idle-timeout udp=1s,tcp-new=1s,tcp=1s --http 0",
    );
    assert_eq!(listening.get("/readyz").0, 200);
    listening.send("--generate --count 2000 --pps 20000 --flows 500");
    let status = listening.wait(|status| status["health"]["healthy"] == false);
    assert_eq!(status["health"]["writing"], false);
    let kinds: Vec<&str> = status["health"]["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| problem["kind"].as_str().unwrap())
        .collect();
    assert!(kinds.contains(&"output_failed"), "{kinds:?}");
    let (code, body) = listening.get("/readyz");
    assert_eq!(code, 503);
    assert!(body.contains("output_failed: 1"), "{body}");
    assert!(
        !body.contains("/dev/full"),
        "paths are not for everybody: {body}"
    );
    assert_eq!(listening.get("/healthz").0, 200, "it lives");
    let page = listening.status(&[]);
    assert_eq!(page.code, Some(1));
    assert!(page.stderr.contains("is not healthy"), "{}", page.stderr);
    let text = String::from_utf8(page.stdout).unwrap();
    assert!(
        text.contains("NOT HEALTHY") && text.contains("/dev/full failed"),
        "{text}"
    );
    let metrics = series(&listening.get("/metrics").1);
    assert_eq!(
        metrics["vxtap_sink_faults{kind=\"flows\",path=\"/dev/full\"}"],
        1.0
    );
    assert_eq!(metrics["vxtap_problems{kind=\"output_failed\"}"], 1.0);
    listening.end();
}

/// What is in the directory of a store, by looking, and what its manifest says was deleted.
#[derive(Debug, Default)]
struct Held {
    files: u64,
    /// With those of indexes, as of those that were deleted.
    bytes: u64,
    deleted: BTreeMap<String, (u64, u64)>,
    /// Earliest packet or beginning of a flow, in nanoseconds or as it stands there.
    oldest_ns: Option<u128>,
    oldest: Option<String>,
}

impl Held {
    fn of(dir: &Path) -> Self {
        let mut held = Self::default();
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            // Others are hidden, as those that are being written, or the manifest.
            if !name.starts_with("vxtap") {
                continue;
            }
            held.bytes += fs::metadata(&path).unwrap().len();
            if name.ends_with(".pcapng") {
                let times = frames(&fs::read(&path).unwrap());
                let first = times.iter().map(|frame| frame.ts_ns).min();
                held.oldest_ns = held.oldest_ns.into_iter().chain(first).min();
            }
            if name.ends_with(".jsonl") {
                let records = json_lines(&fs::read_to_string(&path).unwrap());
                let begun = records
                    .iter()
                    .map(|record| record["ts_start"].as_str().unwrap().to_owned());
                held.oldest = held.oldest.into_iter().chain(begun).min();
            }
            held.files += u64::from(!name.ends_with(".idx"));
        }
        let lines = json_lines(&fs::read_to_string(dir.join("MANIFEST.jsonl")).unwrap());
        let bytes_of = |name: &Value| {
            let file = |line: &&Value| line["kind"] == "file" && line["name"] == *name;
            let line = lines.iter().find(file).unwrap();
            line["bytes"].as_u64().unwrap() + line["index"]["bytes"].as_u64().unwrap_or_default()
        };
        for line in lines.iter().filter(|line| line["kind"] == "deleted") {
            let because = line["because"].as_str().unwrap().to_owned();
            let (files, bytes) = held.deleted.entry(because).or_default();
            *files += 1;
            *bytes += bytes_of(&line["name"]);
        }
        held
    }
}

/// What status and metrics say of a store is what is in its directory, and what its manifest says of deleted files.
#[test]
fn what_a_store_holds_is_told() {
    let listening = Listening::start(
        "-w DIR/c/ --flows DIR/f/ --rotate-packets 100 --keep-files 3 --keep-age 1h --keep-bytes 1GB --min-free 1% \
         --idle-timeout udp=1s,tcp-new=1s,tcp=1s --http 0",
    );
    let at_first = listening.json();
    for sink in at_first["sinks"].as_array().unwrap() {
        assert_eq!(sink["store"]["files"], 0, "{sink}");
        assert_eq!(sink["store"]["oldest"], Value::Null);
    }
    let page = String::from_utf8(listening.status(&[]).stdout).unwrap();
    assert!(
        page.contains("      no finished file with packets"),
        "{page}"
    );
    listening.send("--generate --count 1050 --pps 20000 --flows 450");
    let finished = |status: &Value, at: usize| {
        let sink = &status["sinks"][at];
        let written = sink["written"].as_u64().unwrap();
        sink["store"]["finished_files"] == written / 100 && written >= 400
    };
    let status = listening.wait(|status| {
        status["received"] == 1050
            && status["flows"]["live"] == 0
            && status["sinks"][0]["waiting"] == 0
            && status["sinks"][1]["waiting"] == 0
            && finished(status, 0)
            && finished(status, 1)
    });
    let metrics = series(&listening.get("/metrics").1);
    for (at, kind, dir) in [(0, "capture", "c"), (1, "flows", "f")] {
        let (sink, dir) = (&status["sinks"][at], listening.dir.path().join(dir));
        let (told, held) = (&sink["store"], Held::of(&dir));
        let metric = |name: &str, more: &str| {
            metrics[&format!("{name}{{kind=\"{kind}\",path={}{more}}}", sink["path"])]
        };
        assert_eq!(held.files, 3, "{held:?}");
        assert_eq!(told["files"], 3, "{told}");
        assert_eq!(metric("vxtap_store_files", ""), 3.0);
        assert_eq!(told["bytes"], held.bytes, "{told}");
        assert_eq!(metric("vxtap_store_size_bytes", ""), held.bytes as f64);
        let finished = told["finished_files"].as_u64().unwrap();
        assert_eq!(
            metric("vxtap_store_finished_files_total", ""),
            finished as f64
        );
        let gone = finished - 3;
        assert!(gone > 0, "{told}");
        assert_eq!(held.deleted.keys().collect::<Vec<_>>(), ["keep_files"]);
        let (files, bytes) = held.deleted["keep_files"];
        assert_eq!(files, gone);
        assert_eq!(told["deleted_files"]["keep_files"], files);
        assert_eq!(told["deleted_bytes"]["keep_files"], bytes);
        for reason in [
            "keep_files",
            "keep_bytes",
            "keep_age",
            "min_free",
            "disk_full",
        ] {
            let of_reason = held.deleted.get(reason).copied().unwrap_or_default();
            let label = format!(",reason=\"{reason}\"");
            let deleted = ["files", "bytes"]
                .map(|what| metric(&format!("vxtap_store_deleted_{what}_total"), &label));
            assert_eq!(
                deleted,
                [of_reason.0 as f64, of_reason.1 as f64],
                "{reason}"
            );
        }
        // Nothing here is an hour old.
        assert_eq!(told["deleted_early_files"], gone);
        assert_eq!(
            metric("vxtap_store_deleted_early_files_total", ""),
            gone as f64
        );
        let oldest = metric("vxtap_store_oldest_timestamp_seconds", "");
        if let Some(oldest_ns) = held.oldest_ns {
            assert!((oldest - oldest_ns as f64 / 1e9).abs() < 1e-6, "{oldest}");
        }
        if let Some(text) = held.oldest {
            assert_eq!(told["oldest"], text);
        }
        let space = nix::sys::statvfs::statvfs(&dir).unwrap();
        let min_free = space.blocks() * space.fragment_size() / 100;
        for (name, field, limit) in [
            ("vxtap_store_limit_files", "limit_files", 3.0),
            ("vxtap_store_limit_bytes", "limit_bytes", 1e9),
            ("vxtap_store_limit_age_seconds", "limit_age_seconds", 3600.0),
            (
                "vxtap_store_min_free_bytes",
                "min_free_bytes",
                min_free as f64,
            ),
        ] {
            assert_eq!(metric(name, ""), limit, "{name}");
            assert_eq!(told[field].as_f64(), Some(limit), "{field}");
        }
    }
    let page = String::from_utf8(listening.status(&[]).stdout).unwrap();
    let line = page.lines().find(|line| line.contains("finished file"));
    let line = line.unwrap_or_else(|| panic!("{page}"));
    assert!(line.starts_with("      3 finished files, "), "{line}");
    let all = page.replace("\n      ", " ");
    assert!(
        all.contains("(keep_files 7), 7 of them younger than --keep-age"),
        "{page}"
    );
    listening.end();
}

/// Reads what comes through a connection to its end; how many bytes did.
fn count(mut stream: TcpStream) -> Arc<AtomicU64> {
    let came = Arc::<AtomicU64>::default();
    let told = Arc::clone(&came);
    std::thread::spawn(move || {
        let mut buffer = [0; 65_536];
        while let Ok(len @ 1..) = stream.read(&mut buffer) {
            told.fetch_add(len as u64, Ordering::SeqCst);
        }
    });
    came
}

/// A listener that takes little before somebody reads.
fn narrow_listener(address: SocketAddr) -> TcpListener {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(1).unwrap();
    socket.into()
}

/// A collector that is not there, comes, leaves and comes back, and reads nothing at first.
#[test]
fn a_collector_is_told_as_it_comes_and_goes() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let listening = Listening::start(&format!(
        "--flows ipfix+tcp://{address} --idle-timeout udp=1s,tcp-new=1s,tcp=1s --http 0"
    ));
    let field =
        |status: &Value, name: &str| status["sinks"][0]["collector"]["connection"][name].clone();
    let number = |status: &Value, name: &str| field(status, name).as_u64().unwrap();
    let path = format!("ipfix+tcp://{address}");
    let metric = |name: &str| {
        let metrics = series(&listening.get("/metrics").1);
        let series = format!("vxtap_collector_{name}{{kind=\"flows\",path=\"{path}\"}}");
        metrics.get(&series).copied()
    };
    let page = || {
        let page = listening.status(&[]);
        assert_eq!(
            page.code,
            Some(0),
            "records wait, none is lost: {}",
            page.stderr
        );
        String::from_utf8(page.stdout)
            .unwrap()
            .replace("\n      ", " ")
    };
    // Nobody is there.
    let away = listening.wait(|status| number(status, "failed_attempts") >= 2);
    assert_eq!(field(&away, "connected"), false);
    assert_eq!(number(&away, "connections"), 0);
    let error = &away["sinks"][0]["collector"]["last_error"];
    assert!(
        error["what"].as_str().unwrap().contains("refused"),
        "{error}"
    );
    let remedy = error["remedy"].as_str().unwrap();
    assert!(remedy.contains("is the collector running"), "{error}");
    let said = page();
    assert!(said.contains("B NOT connected since 20"), "{said}");
    assert!(
        said.contains("refused (os error 111); is the collector"),
        "{said}"
    );
    assert_eq!(metric("connected"), Some(0.0));
    assert_eq!(metric("connections_total"), Some(0.0));
    assert!(metric("failed_attempts_total").unwrap() >= 2.0);
    assert_eq!(metric("last_connected_timestamp_seconds"), None);
    assert_eq!(metric("refused_messages_total"), None, "that is of UDP");
    // It comes.
    let listener = TcpListener::bind(address).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let came = count(stream.try_clone().unwrap());
    let up = listening.wait(|status| field(status, "connected") == true);
    assert_eq!(number(&up, "connections"), 1);
    assert!(field(&up, "since").as_str() > field(&away, "since").as_str());
    listening.send("--generate --count 2000 --pps 20000 --flows 1000");
    let sent = |status: &Value, records: u64| {
        let sink = &status["sinks"][0];
        status["flows"]["records"] == records
            && status["flows"]["live"] == 0
            && sink["written"] == records
            && number(status, "unsent_bytes") + number(status, "unacknowledged_bytes") == 0
            // What it has acknowledged is read, or will be.
            && sink["bytes"] == came.load(Ordering::SeqCst)
    };
    listening.wait(|status| sent(status, 1000));
    assert_eq!(metric("connected"), Some(1.0));
    assert_eq!(metric("unsent_bytes"), Some(0.0));
    let said = page();
    assert!(said.contains("B connected since 20"), "{said}");
    assert!(said.contains("(1 connection, "), "{said}");
    // It leaves.
    let failed = number(&up, "failed_attempts");
    drop(listener);
    stream.shutdown(Shutdown::Both).unwrap();
    let gone = listening.wait(|status| number(status, "failed_attempts") > failed);
    assert_eq!(field(&gone, "connected"), false);
    assert!(field(&gone, "since").as_str() > field(&up, "since").as_str());
    listening.send("--generate --count 4000 --pps 20000 --flows 2000");
    let kept = listening.wait(|status| {
        status["flows"]["records"] == 3000
            && status["flows"]["live"] == 0
            && number(status, "unsent_bytes") > 100_000
    });
    assert_eq!(number(&kept, "unacknowledged_bytes"), 0);
    assert_eq!(kept["sinks"][0]["written"], 1000);
    let unsent = metric("unsent_bytes").unwrap();
    assert!(unsent > 100_000.0, "{unsent}");
    assert_eq!(metric("connected"), Some(0.0));
    assert_eq!(metric("connections_total"), Some(1.0));
    let last = metric("last_connected_timestamp_seconds").unwrap();
    let heartbeat = series(&listening.get("/metrics").1);
    let began = heartbeat["vxtap_start_time_seconds"];
    assert!(began < last && last < heartbeat["vxtap_last_packet_timestamp_seconds"]);
    let said = page();
    assert!(said.contains(" wait for it"), "{said}");
    // It comes back, and reads nothing: then it has not acknowledged what was sent.
    let listener = narrow_listener(address);
    let (stream, _) = listener.accept().unwrap();
    let held = listening.wait(|status| {
        field(status, "connected") == true && number(status, "unacknowledged_bytes") > 0
    });
    assert_eq!(number(&held, "connections"), 2);
    let before = came.load(Ordering::SeqCst);
    let again = count(stream);
    listening.wait(|status| {
        let sink = &status["sinks"][0];
        sink["written"] == 3000
            && number(status, "unsent_bytes") + number(status, "unacknowledged_bytes") == 0
            && sink["bytes"] == before + again.load(Ordering::SeqCst)
    });
    assert!(again.load(Ordering::SeqCst) > unsent as u64);
    assert_eq!(metric("connections_total"), Some(2.0));
    let (code, said, _) = listening.end();
    assert_eq!(code, Some(0), "{said}");
}

/// Over UDP it is told what was refused, and nobody is called connected.
#[test]
fn over_udp_nobody_is_connected() {
    let there = UdpSocket::bind("127.0.0.1:0").unwrap();
    let absent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let ports = [&there, &absent].map(|socket| socket.local_addr().unwrap().port());
    drop(absent);
    let [path_there, path_absent] = ports.map(|port| format!("ipfix://127.0.0.1:{port}"));
    let listening = Listening::start(&format!(
        "--flows {path_there} --flows {path_absent} --idle-timeout udp=1s,tcp-new=1s,tcp=1s --http 0"
    ));
    listening.send("--generate --count 200 --pps 20000 --flows 100");
    let status = listening.wait(|status| {
        let absent = &status["sinks"][1];
        status["flows"]["records"] == 100 && absent["dropped"]["collector"].as_u64() > Some(0)
    });
    let [there, absent] = [0, 1].map(|at| &status["sinks"][at]["collector"]);
    for collector in [there, absent] {
        assert_eq!(collector.get("connection"), None, "{collector}");
    }
    assert_eq!(there["refused_messages"], 0);
    assert_eq!(there.get("last_error"), None);
    assert!(absent["refused_messages"].as_u64() > Some(0), "{absent}");
    let remedy = absent["last_error"]["remedy"].as_str().unwrap();
    assert!(remedy.contains("is the collector running"), "{absent}");
    let metrics = series(&listening.get("/metrics").1);
    let refused = |path: &str| {
        metrics
            [&format!("vxtap_collector_refused_messages_total{{kind=\"flows\",path=\"{path}\"}}")]
    };
    assert_eq!(refused(&path_there), 0.0);
    assert!(refused(&path_absent) > 0.0);
    let connected = |name: &String| name.starts_with("vxtap_collector_connected");
    assert!(!metrics.keys().any(connected));
    let page = String::from_utf8(listening.status(&[]).stdout).unwrap();
    assert_eq!(page.matches(" refused: ").count(), 1, "{page}");
    assert!(!page.contains("connected"), "{page}");
    listening.end();
}

/// What cuts packets is told while the run goes on as it is in the summary: where packets of another session on the same
/// way speak against a cause, it is none.
#[test]
fn causes_of_truncation_are_those_of_the_summary() {
    let listening = Listening::start("--mtu 1400");
    // What was known of nothing is no evidence later.
    assert_eq!(listening.json()["sessions"], Value::Array(Vec::new()));
    for flags in [
        "--vni 10 --packet-length 96",
        "--vni 20 --mtu 1400",
        "--vni 30 --frame-size 100-1000",
    ] {
        let frames = match flags.contains("frame-size") {
            true => "",
            false => "--frame-size 1200-1500",
        };
        listening.send(&format!(
            "--generate --count 300 --pps 20000 {frames} {flags}"
        ));
    }
    let told = |status: &Value| -> BTreeMap<u64, [Value; 4]> {
        let sessions = status["sessions"].as_array().unwrap().iter();
        let told = sessions.map(|session| {
            let told =
                ["cut_by", "cut_size", "cut_mtu", "advice"].map(|name| session[name].clone());
            (session["vni"].as_u64().unwrap(), told)
        });
        told.collect()
    };
    let status = listening.wait(|status| status["received"] == 900);
    let sessions = told(&status);
    let by = |vni: u64| sessions[&vni][0].as_str();
    assert_eq!(by(10), Some("session_packet_length"), "{status:#}");
    assert_eq!(sessions[&10][1], 96);
    assert_eq!(by(20), Some("mtu"), "{status:#}");
    assert_eq!(sessions[&20][2], 1400);
    assert_eq!(sessions[&30], [const { Value::Null }; 4]);
    let page = String::from_utf8(listening.status(&[]).stdout).unwrap();
    let lines: Vec<&str> = page.lines().collect();
    let row = lines
        .iter()
        .position(|line| line.trim_start().starts_with("10  "))
        .unwrap();
    assert!(
        lines[row + 1].starts_with("            300 of 300 packets"),
        "{page}"
    );
    // One outer packet is larger than that MTU: then it is the session that cuts there.
    listening.send("--generate --count 1 --pps 1000 --vni 40 --frame-size 1400");
    let status = listening.wait(|status| status["received"] == 901);
    assert_eq!(told(&status)[&20][0], "session_packet_length");
    let (code, said, summary) = listening.end();
    assert_eq!(code, Some(0), "{said}");
    let in_the_end = told(&summary);
    for (vni, told) in told(&status) {
        if vni == 10 || vni == 20 {
            assert_eq!(told, in_the_end[&vni], "{vni}");
        }
    }
}

#[test]
fn which_instance_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let ask = |flags: &[&str]| {
        let mut command = vxtap_command(["status"]);
        run(command.args(flags).env("RUNTIME_DIRECTORY", dir.path()))
    };
    let none = ask(&[]);
    assert_eq!(none.code, Some(3), "{}", none.stderr);
    assert!(none.stderr.contains("no running vxtap"), "{}", none.stderr);
    assert_eq!(ask(&["--control", "/no/such/socket"]).code, Some(3));
    let start = || {
        let mut command = vxtap_command(["listen", "--bind", "127.0.0.1:0", "--backend", "udp"]);
        command.env("RUNTIME_DIRECTORY", dir.path());
        let mut listener = Listener::start(command, tempfile::tempdir().unwrap());
        listener.wait_said("listening on");
        listener
    };
    let first = start();
    let one = ask(&["--json"]);
    assert_eq!(one.code, Some(0), "{}", one.stderr);
    let one: Value = serde_json::from_slice(&one.stdout).unwrap();
    assert_eq!(one["pid"], first.id());
    let second = start();
    let several = ask(&[]);
    assert_eq!(several.code, Some(2));
    assert!(
        several.stderr.contains("2 instances run"),
        "{}",
        several.stderr
    );
    let named = ask(&["--json", "--control", &second.id().to_string()]);
    let named: Value = serde_json::from_slice(&named.stdout).unwrap();
    assert_eq!(named["pid"], second.id());
    let socket = |id: u32| dir.path().join(format!("{id}.sock"));
    let mode = std::fs::metadata(socket(second.id()))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    // A killed one leaves its name; it is not asked, and the next one removes it.
    let killed = first.id();
    first.kill();
    assert!(socket(killed).exists());
    assert_eq!(ask(&[]).code, Some(0));
    let _third = start();
    assert!(!socket(killed).exists());
}

/// What stands at --control is not taken away, and the run does not begin.
#[test]
fn a_control_socket_that_cannot_be_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    std::fs::write(&path, "mine").unwrap();
    let at = path.display().to_string();
    let listen = |control: &str| {
        vxtap([
            "listen",
            "--bind",
            "127.0.0.1:0",
            "--duration",
            "100ms",
            "--backend",
            "udp",
            "--control",
            control,
        ])
    };
    let refused = listen(&at);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("--control"), "{}", refused.stderr);
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    assert_eq!(listen("none").code, Some(0));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let refused = vxtap([
        "listen",
        "--bind",
        "127.0.0.1:0",
        "--duration",
        "100ms",
        "--http",
        &at,
    ]);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(
        refused.stderr.contains(&format!("cannot bind --http {at}")),
        "{}",
        refused.stderr
    );
}

#[test]
fn load_balancers_are_answered() {
    let free = |socket: &UdpSocket| socket.local_addr().unwrap().port();
    let port = free(&UdpSocket::bind("127.0.0.1:0").unwrap());
    let listening = Listening::start(&format!("--health-tcp {port} --health-udp {port}"));
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "accepted and closed");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let answer = |question: &[u8]| {
        let mut answer = [0; 100];
        wait_until("an answer over UDP", || {
            socket.send_to(question, ("127.0.0.1", port)).unwrap();
            let len = socket.recv(&mut answer).ok()?;
            Some(String::from_utf8(answer[..len].to_vec()).unwrap())
        })
    };
    assert_eq!(answer(&[b'?'; 80]), "vxtap ready\n");
    assert_eq!(answer(b"abc"), "vxt", "never more than was sent");
    listening.end();
}

/// systemd hears that the run has begun, lives and ends.
#[test]
#[allow(clippy::disallowed_methods, reason = "a watchdog has a time")]
fn systemd_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let notify = UnixDatagram::bind(&path).unwrap();
    notify.set_read_timeout(Some(SOON)).unwrap();
    let listening = Listening::start_with("", |command| {
        command
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "400000");
    });
    let hear = |what: &str| {
        let mut message = [0; 1024];
        wait_until(what, || {
            let len = notify.recv(&mut message).unwrap();
            let message = String::from_utf8_lossy(&message[..len]).into_owned();
            Some(message).filter(|message| message.lines().any(|line| line == what))
        })
    };
    let ready = hear("READY=1");
    assert!(ready.contains("STATUS=alive, no traffic yet"), "{ready}");
    let begun = Instant::now();
    (0..5).for_each(|_| _ = hear("WATCHDOG=1"));
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "it is fed in time"
    );
    listening.end();
}

/// How the collector is reached whose address begins so.
fn sink_of(status: &Value, scheme: &str) -> Value {
    let sinks = status["sinks"].as_array().unwrap().iter();
    let mut of_scheme = sinks.filter(|sink| sink["path"].as_str().unwrap().starts_with(scheme));
    of_scheme.next().unwrap()["collector"].clone()
}

#[test]
fn the_schema_of_the_status_holds() {
    let Some(python) = common::readers::python() else {
        return;
    };
    let listening = Listening::start(
        "-w DIR/store/ --rotate-packets 100 --keep-files 2 --flows DIR/f.jsonl --tee tcp://127.0.0.1:0 \
         --flows ipfix+tcp://127.0.0.1:9 --flows ipfix://127.0.0.1:9 --idle-timeout udp=1s,tcp-new=1s,tcp=1s",
    );
    listening.send("--generate --count 500 --pps 20000 --vnis 3 --packet-length 100");
    // All parts are there.
    listening.wait(|status| {
        let store = &status["sinks"][0]["store"];
        status["received"] == 500
            && status["sessions"][0]["cut_by"] == "session_packet_length"
            && store["deleted_files"]["keep_files"].as_u64() > Some(0)
            && sink_of(status, "ipfix+tcp")["last_error"]["remedy"].is_string()
            && sink_of(status, "ipfix:")["refused_messages"].as_u64() > Some(0)
    });
    let json = listening.status(&["--json"]).stdout;
    let file = listening.dir.path().join("status.json");
    std::fs::write(&file, json).unwrap();
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/status.schema.json");
    let script = "import json, sys, jsonschema\n\
                  schema, status = (json.load(open(path)) for path in sys.argv[1:])\n\
                  jsonschema.Draft202012Validator.check_schema(schema)\n\
                  jsonschema.validate(status, schema)";
    let checked = run(Command::new(python)
        .args(["-c", script])
        .arg(schema)
        .arg(file));
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    listening.end();
}
