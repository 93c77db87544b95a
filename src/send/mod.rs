//! `vxtap send`: acts as a mirror source. Frames of capture files go into VXLAN and out of a UDP
//! socket, or into a pcap file as the packets that would have been sent. Instead of files, a generator
//! may make the frames.

mod ahead;
#[cfg(target_os = "linux")]
mod burst;
pub mod encapsulate;
mod generate;
pub mod options;
mod pace;
mod pcap_out;
mod sockets;
pub mod traffic;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use ahead::Ahead;
use options::{Frames, HostPort, Options};
use pace::{Pace, now};
use pcap_out::PcapOut;
use serde::Serialize;
use sockets::Sockets;

use self::encapsulate::{Cut, FIRST_SOURCE_PORT, OuterHeaders, OuterIps};
use crate::failure::Failure;
use crate::outfile::{Creation, OutError, write_whole};
use crate::say::say;
use crate::source::Record;
use crate::source::file::CaptureFile;
use crate::stop::Stop;
use crate::wire::outer::{LinkType, OuterUdp};
use crate::wire::{Vni, vxlan};

/// Sends or writes what `options` say, until `stop` is set, and tells on standard error what came of it.
///
/// # Errors
///
/// When a file cannot be read or written, a name has no address, or the system refuses to send. What stood
/// before a damaged place is sent, or kept. Also when a signal ended the run before everything was sent.
pub fn run(options: &Options, stop: &Arc<Stop>) -> Result<(), Failure> {
    let mut run = Run::new(options, stop)?;
    let mut outcome = match &options.frames {
        Frames::Files {
            paths,
            plain,
            loops,
        } => run.every_file(paths, *plain, *loops),
        Frames::Generated(plan) => run.generate(plan),
    };
    if let Some(signal) = stop.signal()
        && write_fault(&outcome).is_none()
    {
        // Also in the place of the fault of an input that was waited for.
        let text = format!("stopped by {} before everything was sent", signal.name());
        outcome = Err(Failure::running(text));
    }
    let mut verb = "sent";
    if let Output::File(file) = run.output {
        outcome = file.close(outcome);
        verb = "written";
    }
    match write_fault(&outcome) {
        // The reader of a pipe went away: the end of the run, not a fault.
        Some(OutError::Write { source, .. }) if source.kind() == ErrorKind::BrokenPipe => {
            outcome = Ok(());
        }
        Some(_) => return outcome,
        None => {}
    }
    let seconds = run.started.elapsed().as_secs_f64();
    let mut counts = run.counts;
    counts.unsent = counts.read - counts.sent - counts.skipped - counts.too_large;
    let line = match &options.frames {
        Frames::Generated(_) => counts.generated_line(verb, seconds),
        Frames::Files { .. } => counts.files_line(verb, seconds),
    };
    say(format!("vxtap: frames: {line}\n"));
    let summary = options.summary.as_ref();
    match summary.map_or(Ok(()), |path| counts.write(seconds, path, options.creation)) {
        Ok(()) => outcome,
        Err(fault) if outcome.is_ok() => Err(fault),
        // What went wrong before is what matters; that the summary is missing is told too.
        Err(fault) if fault.is_closed_pipe() => outcome,
        Err(fault) => {
            say(format!("vxtap: error: {fault}\n"));
            outcome
        }
    }
}

/// The fault, if it is one of the file written.
fn write_fault(outcome: &Result<(), Failure>) -> Option<&OutError> {
    match outcome {
        Err(Failure::Running(error)) => error.downcast_ref(),
        _ => None,
    }
}

/// The first address of `--to`, if possible in the IP version of `--source`.
fn resolve(to: &HostPort, source: Option<IpAddr>) -> Result<SocketAddr, Failure> {
    let host = &to.host;
    let found: Vec<SocketAddr> = (host.as_str(), to.port)
        .to_socket_addrs()
        .map_err(|error| Failure::running(format!("--to {host}: {error}")))?
        .collect();
    let fits =
        |found: &&SocketAddr| source.is_none_or(|source| source.is_ipv6() == found.is_ipv6());
    let first = found.iter().find(fits).or(found.first()).copied();
    first.ok_or_else(|| Failure::running(format!("--to {host}: it has no address")))
}

/// What became of the frames: each one read or generated was sent, skipped, too large or left.
#[derive(Default, Serialize)]
struct Counts {
    /// Read or generated.
    #[serde(rename = "frames")]
    read: u64,
    /// Sent or written.
    sent: u64,
    /// Of those: shortened by --packet-length or --mtu.
    cut: u64,
    /// Not VXLAN in a capture that holds VXLAN, or no frame can be made of them.
    skipped: u64,
    /// Packets without a frame that got an Ethernet header.
    ethernet_added: u64,
    too_large: u64,
    /// The system had no room for them (--no-retry), or the time was over or a fault came before it took them.
    unsent: u64,
    /// Bytes of UDP payload sent.
    payload_bytes: u64,
    /// System calls of --generate that sent nothing and were made again.
    retries: u64,
}

impl Counts {
    fn files_line(&self, verb: &str, seconds: f64) -> String {
        format!(
            "{} read, {} {verb}, {} of them cut, {} skipped (not VXLAN), {} too large{}; \
             {} bytes of UDP payload in {seconds:.3} s",
            self.read,
            self.sent,
            self.cut,
            self.skipped,
            self.too_large,
            match self.ethernet_added {
                0 => String::new(),
                added => format!(", {added} given an Ethernet header (they had none)"),
            },
            self.payload_bytes
        )
    }

    fn generated_line(&self, verb: &str, seconds: f64) -> String {
        format!(
            "{} generated, {} {verb}, {} of them cut, {} too large, {} left; \
             {} bytes of UDP payload in {seconds:.3} s, {:.0} packets a second, {} retries",
            self.read,
            self.sent,
            self.cut,
            self.too_large,
            self.unsent,
            self.payload_bytes,
            rate(self.sent, seconds),
            self.retries
        )
    }

    /// Writes the JSON summary.
    fn write(&self, seconds: f64, path: &Path, creation: Creation) -> Result<(), Failure> {
        #[derive(Serialize)]
        struct Summary<'a> {
            version: &'static str,
            #[serde(flatten)]
            counts: &'a Counts,
            seconds: f64,
            /// Packets sent a second.
            pps: f64,
        }

        let summary = Summary {
            version: env!("CARGO_PKG_VERSION"),
            counts: self,
            seconds,
            pps: rate(self.sent, seconds),
        };
        let mut json = serde_json::to_vec_pretty(&summary)?;
        json.push(b'\n');
        Ok(write_whole(path, creation, json)?)
    }
}

fn rate(number: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        number as f64 / seconds
    } else {
        0.0
    }
}

enum Output {
    Network(Sockets, Pace),
    File(Box<PcapOut>),
}

struct Run<'a> {
    options: &'a Options,
    stop: &'a Arc<Stop>,
    started: Instant,
    vni: Vni,
    cut: Cut,
    ips: OuterIps,
    dst_port: u16,
    output: Output,
    counts: Counts,
}

impl<'a> Run<'a> {
    fn new(options: &'a Options, stop: &'a Arc<Stop>) -> Result<Self, Failure> {
        let to = options.to.as_ref();
        let target = to.map(|to| resolve(to, options.source)).transpose()?;
        let ips = OuterIps::or_documentation(options.source, target.map(|target| target.ip()))
            .ok_or_else(|| Failure::usage("--source and --to differ in their IP version"))?;
        let output = match (&options.write, target) {
            (Some(path), _) => {
                Output::File(Box::new(PcapOut::create(path, options.creation, stop)?))
            }
            (None, Some(target)) => {
                let pace = Pace::new(options.tempo, Arc::clone(stop));
                Output::Network(Sockets::new(target, options, Arc::clone(stop)), pace)
            }
            (None, None) => return Err(Failure::usage("--to or --write is needed")),
        };
        Ok(Self {
            options,
            stop,
            started: now(),
            vni: options.vni,
            cut: options.cut,
            ips,
            dst_port: target.map_or(vxlan::PORT, |target| target.port()),
            output,
            counts: Counts::default(),
        })
    }

    fn every_file(&mut self, paths: &[PathBuf], plain: bool, loops: u64) -> Result<(), Failure> {
        for _ in 0..loops {
            for path in paths {
                if self.stop.is_set() {
                    return Ok(());
                }
                self.file(path, plain)?;
            }
            if let Output::File(file) = &mut self.output {
                file.begin_copy();
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, plain: bool) -> Result<(), Failure> {
        let mut file = CaptureFile::open(path, Arc::default(), self.stop)?;
        let name = file.path().to_owned();
        let ahead = if plain {
            Ahead::default()
        } else {
            Ahead::read(&mut file, |record| self.datagram_in(record).is_some())
        };
        if ahead.has_vxlan {
            tracing::info!("{name} holds VXLAN: its datagrams go on unchanged (not with --plain)");
        }
        if let Output::Network(_, pace) = &mut self.output {
            pace.last_ts_ns = None;
        }
        for held in ahead.records {
            if self.stop.is_set() {
                return Ok(());
            }
            self.frame(&held.record(), ahead.has_vxlan)?;
        }
        if let Some(fault) = ahead.fault {
            return Err(fault.into());
        }
        while let Some(record) = file.next_record()? {
            if self.stop.is_set() {
                return Ok(());
            }
            self.frame(&record, ahead.has_vxlan)?;
        }
        Ok(())
    }

    fn frame(&mut self, record: &Record, has_vxlan: bool) -> Result<(), Failure> {
        self.counts.read += 1;
        if !has_vxlan {
            return self.encapsulate(record);
        }
        match self.datagram_in(record) {
            Some((headers, udp)) => self.pass_on(record, headers, &udp),
            None => {
                self.counts.skipped += 1;
                Ok(())
            }
        }
    }

    /// Puts a plain frame into VXLAN. A packet that came without an Ethernet header gets one, as replay gives.
    fn encapsulate(&mut self, record: &Record) -> Result<(), Failure> {
        let mut room = Vec::new();
        let whole = match record.link {
            LinkType::Ethernet => record.bytes,
            _ if encapsulate::frame(record, &mut room) => {
                self.counts.ethernet_added += 1;
                &room
            }
            _ => {
                self.counts.skipped += 1;
                return Ok(());
            }
        };
        let frame = self.cut.apply(whole, self.ips.is_ipv6());
        let payload = encapsulate::encapsulate(self.vni, frame);
        let hashed = self.hashed_port(whole);
        let src_port = hashed.or(self.options.source_port);
        let headers = OuterHeaders {
            ips: self.ips,
            src_port: src_port.unwrap_or(FIRST_SOURCE_PORT),
            dst_port: self.dst_port,
        };
        let fits = match &mut self.output {
            Output::Network(sockets, pace) => {
                pace.wait(record.ts_ns);
                sockets.send(hashed, &payload)?
            }
            Output::File(file) => {
                file.put_datagram(record.ts_ns, headers, &payload, payload.len())?
            }
        };
        self.counts.cut += u64::from(fits && frame.len() < whole.len());
        self.count(fits, payload.len());
        Ok(())
    }

    /// Passes on a datagram that is VXLAN already.
    fn pass_on(
        &mut self,
        record: &Record,
        headers: OuterHeaders,
        udp: &OuterUdp,
    ) -> Result<(), Failure> {
        let frame = udp.payload.get(vxlan::HEADER_LEN..).unwrap_or_default();
        let hashed = self.hashed_port(frame);
        let fits = match &mut self.output {
            Output::Network(sockets, pace) => {
                pace.wait(record.ts_ns);
                sockets.send(hashed, udp.payload)?
            }
            Output::File(file) if record.link == LinkType::Ethernet => {
                file.put(record.ts_ns, record.bytes, record.orig_len)?
            }
            Output::File(file) => {
                file.put_datagram(record.ts_ns, headers, udp.payload, udp.carried_len)?
            }
        };
        self.count(fits, udp.payload.len());
        Ok(())
    }

    fn datagram_in<'r>(&self, record: &Record<'r>) -> Option<(OuterHeaders, OuterUdp<'r>)> {
        let cut = record.orig_len as usize > record.bytes.len();
        let ports = [vxlan::PORT, self.dst_port];
        encapsulate::encapsulated_already(record.link, record.bytes, cut, &ports)
    }

    fn hashed_port(&self, frame: &[u8]) -> Option<u16> {
        let wanted = self.options.source_port_hash;
        wanted.then(|| encapsulate::source_port(frame))
    }

    fn count(&mut self, fits: bool, payload_len: usize) {
        let counts = &mut self.counts;
        if fits {
            counts.sent += 1;
            counts.payload_bytes += payload_len as u64;
            return;
        }
        if counts.too_large == 0 {
            let frame = counts.read;
            tracing::warn!(frame, payload_len, "too large for a UDP datagram: left out");
        }
        counts.too_large += 1;
    }
}
