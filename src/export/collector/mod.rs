//! Flow records to an IPFIX collector, over UDP or TCP: owns the socket, counts what did not go out, and never keeps anybody
//! waiting who receives packets.
//!
//! Where a collector is slow or away, messages wait in bounded memory; what finds no room is counted. A name is looked up
//! at the start and, over TCP, for each new connection.

pub mod reach;
pub mod target;
mod tcp;
mod udp;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use self::reach::{LastError, Told};
use self::target::{Target, Transport};
use self::tcp::{News, Tcp};
use self::udp::Udp;
use super::ipfix::{
    Encoder, MESSAGE_LEN, Message, TEMPLATES_EVERY, TOTALS_EVERY, Totals, UDP_MESSAGE_LEN, encoder,
};
use crate::flow::record::FlowRecord;
use crate::outfile::{OutError, Standing};
use crate::patience::PATIENCE;
use crate::stop::wall_clock_ns;

/// Most bytes of memory.
pub const MEMORY_BYTES: usize = tcp::MOST_KEPT + encoder::MEMORY_BYTES;

/// Threads of one: its own, and one that looks its name up.
pub const THREADS: usize = 2;

/// How often a collector that takes nothing is tried while somebody waits for room.
const LOOK: Duration = Duration::from_millis(50);
/// How often it is looked for what the socket takes and says while messages wait, and while none do.
const SLEEPS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));
/// How long a collector that takes nothing is waited for at the end: shorter than [`PATIENCE`], so that the account says why.
const LAST_PATIENCE: Duration = Duration::from_secs(4);
/// How often templates are sent again to a collector over UDP that refused messages: it has begun anew perhaps.
const DESCRIBE_AGAIN: Duration = Duration::from_secs(1);
/// How often it is said that messages are refused.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// What became of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Messages that went out.
    pub messages: u64,
    /// Flow records in them.
    pub flows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Flow records that did not go out, or that were refused.
    pub lost: u64,
}

/// What others count that a collector is told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Flow records that never came here.
    pub no_room: u64,
    /// Packets that belong to no flow.
    pub ignored: u64,
    /// Packets that were lost before they could be looked at.
    pub dropped: u64,
}

/// Flow records' way to a collector.
pub struct Collector {
    name: String,
    encoder: Encoder,
    way: Way,
    /// Nobody receives packets meanwhile: a collector that is away is waited for a while.
    waits: bool,
    beside: Box<dyn Fn() -> Beside + Send>,
    begun: Instant,
    described_at: Option<Duration>,
    totals_at: Duration,
    said_at: Option<Duration>,
    /// Since then there is no connection.
    down_since: Option<Duration>,
    /// It was said that there is no room.
    is_full_said: bool,
    /// Grows with all that goes out.
    progress: Arc<AtomicU64>,
    /// Why the last of it did not go out.
    fault: Option<io::Error>,
    /// How it is reached, for those who look on.
    told: Told,
}

enum Way {
    Udp(Udp),
    Tcp(Box<Tcp>),
}

impl Way {
    /// What is known of it.
    fn told(&mut self) -> reach::Way {
        match self {
            Self::Udp(udp) => reach::Way::Udp {
                refused: udp.refused(),
            },
            Self::Tcp(tcp) => reach::Way::Tcp(tcp.connection(wall_clock_ns())),
        }
    }
}

impl Collector {
    /// To `target`, which need not be there yet. `waits`: nobody receives packets meanwhile.
    ///
    /// # Errors
    ///
    /// When its name has no address, or there is no way to it.
    #[allow(clippy::disallowed_methods, reason = "once a run")]
    pub fn open(target: &Target, waits: bool) -> Result<Self, OutError> {
        let name = target.to_string();
        let failed = |source| OutError::Write {
            path: name.clone(),
            source,
        };
        let addresses = target.addresses().map_err(failed)?;
        let (mut way, most) = match target.transport {
            Transport::Udp => {
                let udp = Udp::open(&addresses, target.domain).map_err(failed)?;
                (Way::Udp(udp), UDP_MESSAGE_LEN)
            }
            Transport::Tcp => {
                let tcp = Tcp::new(target.clone(), addresses);
                (Way::Tcp(Box::new(tcp)), MESSAGE_LEN)
            }
        };
        let told = Told::new(way.told());
        Ok(Self {
            name,
            encoder: Encoder::new(target.domain, most),
            way,
            waits,
            beside: Box::new(Beside::default),
            begun: Instant::now(),
            described_at: None,
            totals_at: TOTALS_EVERY,
            said_at: None,
            down_since: Some(Duration::ZERO),
            is_full_said: false,
            progress: Arc::default(),
            fault: None,
            told,
        })
    }

    /// What others count, from now on.
    pub fn tell_beside(&mut self, beside: impl Fn() -> Beside + Send + 'static) {
        self.beside = Box::new(beside);
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Grows with all that goes out.
    pub fn progress(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.progress)
    }

    /// Where is told how it is reached.
    pub fn told(&self) -> Told {
        self.told.clone()
    }

    /// Adds a record. What cannot be sent is counted as lost.
    pub fn write(&mut self, record: &FlowRecord) {
        self.describe_first();
        if !self.has_room() {
            return self.lose();
        }
        let added = {
            let (encoder, mut way) = (&mut self.encoder, Out::of(&mut self.way));
            encoder.add(record, &mut |message| way.send(message))
        };
        if let Err(error) = added {
            self.fault = Some(io::Error::other(error));
            self.lose();
        }
    }

    const fn lose(&mut self) {
        match &mut self.way {
            Way::Udp(udp) => udp.lose(1),
            Way::Tcp(tcp) => tcp.lose(1),
        }
    }

    /// Whether a message has room; waits for it where that makes sense.
    fn has_room(&mut self) -> bool {
        loop {
            match &self.way {
                Way::Tcp(tcp) if tcp.is_full() => {}
                _ => return true,
            }
            self.pump();
            let Way::Tcp(tcp) = &self.way else {
                return true;
            };
            if !tcp.is_full() {
                return true;
            }
            let now = self.begun.elapsed();
            let is_away = |since: Duration| !self.waits || now.saturating_sub(since) > PATIENCE;
            if self.down_since.is_some_and(is_away) {
                self.say_full();
                return false;
            }
            tcp.wait(LOOK);
        }
    }

    fn say_full(&mut self) {
        if !std::mem::replace(&mut self.is_full_said, true) {
            let name = &self.name;
            tracing::warn!(
                "{name}: no more flow records have room until it is connected: the next ones are lost"
            );
        }
    }

    /// Sends what is gathered.
    pub fn flush(&mut self) {
        let (encoder, mut way) = (&mut self.encoder, Out::of(&mut self.way));
        encoder.flush(&mut |message| way.send(message));
        self.pump();
    }

    /// Does what is due: templates and totals in their time, connections.
    pub fn tick(&mut self) {
        self.tick_at(self.begun.elapsed());
    }

    /// The same, so long behind the beginning.
    fn tick_at(&mut self, now: Duration) {
        self.describe(now);
        if now >= self.totals_at {
            self.totals_at = now + TOTALS_EVERY;
            self.send_totals();
        }
        self.pump();
    }

    /// Sends templates over UDP before anything else.
    fn describe_first(&mut self) {
        if self.described_at.is_none() {
            self.describe(Duration::ZERO);
        }
    }

    /// Sends templates over UDP, where that is due.
    fn describe(&mut self, now: Duration) {
        let is_due = match (&self.way, self.described_at) {
            // Each connection is told of them when it begins.
            (Way::Tcp(_), _) => false,
            (Way::Udp(_), None) => true,
            (Way::Udp(udp), Some(at)) => {
                let every = match udp.was_refused() {
                    true => DESCRIBE_AGAIN,
                    false => TEMPLATES_EVERY,
                };
                now >= at + every
            }
        };
        if is_due {
            self.described_at = Some(now);
            let (encoder, mut way) = (&self.encoder, Out::of(&mut self.way));
            encoder.descriptions(0, &mut |message| way.send(message));
        }
    }

    fn send_totals(&mut self) {
        let Sent {
            messages,
            flows,
            bytes,
            lost,
        } = self.sent();
        let Beside {
            no_room,
            ignored,
            dropped,
        } = (self.beside)();
        let totals = Totals {
            messages,
            flows,
            bytes,
            not_sent: lost + no_room,
            ignored,
            dropped,
        };
        let (encoder, mut way) = (&self.encoder, Out::of(&mut self.way));
        encoder.totals(&totals, &mut |message| way.send(message));
    }

    /// Lets the socket take what it can and hears what it says.
    fn pump(&mut self) {
        let now = self.begun.elapsed();
        let before = self.sent();
        match &mut self.way {
            Way::Udp(udp) => {
                udp.settle();
                if let Some(error) = udp.take_fault() {
                    self.say_refused(error, now);
                }
            }
            Way::Tcp(tcp) => {
                let encoder = &self.encoder;
                tcp.pump(now, export_s(), |but, out| encoder.descriptions(but, out));
                let (fault, news) = (tcp.take_fault(), tcp.take_news());
                if let Some(error) = fault {
                    self.note_fault(error);
                }
                if let Some(news) = news {
                    self.say_news(news, now);
                }
            }
        }
        self.told.set_way(self.way.told());
        let sent = self.sent().bytes - before.bytes;
        self.progress.fetch_add(sent, Ordering::Relaxed);
    }

    fn say_refused(&mut self, error: io::Error, now: Duration) {
        if self.said_at.is_none_or(|at| now >= at + SAY_EVERY) {
            self.said_at = Some(now);
            let (name, advice) = (&self.name, advice(&error));
            tracing::warn!("{name}: {error}: flow records are lost{advice}");
        }
        self.note_fault(error);
    }

    fn note_fault(&mut self, error: io::Error) {
        self.told.set_error(LastError {
            at_ns: wall_clock_ns(),
            what: error.to_string(),
            remedy: remedy(&error),
        });
        self.fault = Some(error);
    }

    fn say_news(&mut self, news: News, now: Duration) {
        let name = &self.name;
        match news {
            News::Up => {
                tracing::info!("{name}: connected");
                self.down_since = None;
                self.is_full_said = false;
            }
            News::Down => {
                if let Some(error) = &self.fault {
                    let advice = advice(error);
                    tracing::warn!(
                        "{name}: {error}: flow records wait, and it is tried again and again{advice}"
                    );
                }
                self.down_since.get_or_insert(now);
            }
        }
    }

    /// How long the thread may sleep.
    pub fn sleeps(&self) -> Duration {
        match &self.way {
            Way::Tcp(tcp) if tcp.is_up() && tcp.has_waiting() => SLEEPS.0,
            _ => SLEEPS.1,
        }
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        let sent = self.sent();
        Standing {
            written: sent.flows,
            collector: sent.lost,
            bytes: sent.bytes,
            ..Standing::default()
        }
    }

    const fn sent(&self) -> Sent {
        match &self.way {
            Way::Udp(udp) => udp.sent(),
            Way::Tcp(tcp) => tcp.sent(),
        }
    }

    /// Nobody will bring more: sends the rest, and totals behind it. A collector that takes nothing is given up.
    pub fn close(&mut self) {
        self.describe_first();
        self.flush();
        self.send_totals();
        let mut since = self.begun.elapsed();
        let mut seen = self.sent();
        loop {
            self.pump();
            let Way::Tcp(tcp) = &mut self.way else {
                break;
            };
            if tcp.is_empty() {
                break;
            }
            let now = self.begun.elapsed();
            if tcp.sent() != seen {
                (seen, since) = (tcp.sent(), now);
            }
            if now.saturating_sub(since) > LAST_PATIENCE && !(self.waits && tcp.is_up()) {
                tcp.give_up();
                break;
            }
            tcp.wait(SLEEPS.0);
        }
        if let Way::Udp(udp) = &mut self.way {
            // Whether the last message was refused the network tells a little later.
            std::thread::sleep(LOOK);
            udp.settle();
            if let Some(error) = udp.take_fault() {
                self.note_fault(error);
            }
        }
        self.told.set_way(self.way.told());
    }

    /// Tells its name and the bytes sent.
    ///
    /// # Errors
    ///
    /// When the last records could not be sent, or none at all.
    pub fn finish(self) -> Result<(String, u64), OutError> {
        let Sent {
            flows, bytes, lost, ..
        } = self.sent();
        let is_lost = match &self.way {
            Way::Udp(_) => lost > 0 && flows == 0,
            Way::Tcp(tcp) => tcp.is_given_up() && lost > 0,
        };
        if !is_lost {
            return Ok((self.name, bytes));
        }
        let why = match &self.fault {
            Some(error) => format!("{error}{}", advice(error)),
            None => "it takes nothing any more".to_owned(),
        };
        let records = if lost == 1 {
            "record is"
        } else {
            "records are"
        };
        let source = io::Error::other(format!("{why}; {lost} flow {records} lost"));
        Err(OutError::Write {
            path: self.name,
            source,
        })
    }
}

/// Where messages go, with the time they leave.
struct Out<'a> {
    way: &'a mut Way,
    export_s: u32,
}

impl<'a> Out<'a> {
    fn of(way: &'a mut Way) -> Self {
        let export_s = match way {
            Way::Udp(_) => export_s(),
            // Known when it is sent.
            Way::Tcp(_) => 0,
        };
        Self { way, export_s }
    }

    fn send(&mut self, message: Message) {
        match self.way {
            Way::Udp(udp) => udp.send(message, self.export_s),
            Way::Tcp(tcp) => tcp.add(message),
        }
    }
}

/// Seconds since 1970.
fn export_s() -> u32 {
    u32::try_from(wall_clock_ns() / 1_000_000_000).unwrap_or(u32::MAX)
}

/// What to do, behind what the system said.
fn advice(error: &io::Error) -> String {
    remedy(error).map_or_else(String::new, |remedy| format!("; {remedy}"))
}

/// What to do, where that is known.
fn remedy(error: &io::Error) -> Option<&'static str> {
    Some(match error.kind() {
        io::ErrorKind::ConnectionRefused => "is the collector running, and on this port?",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "is there a route to the collector?"
        }
        io::ErrorKind::TimedOut => "does a firewall drop what goes to the collector?",
        io::ErrorKind::PermissionDenied => "does a firewall of this machine refuse it?",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    /// Template sets (RFC 7011 §3.3.2: 2) in the messages that have come to `socket`.
    fn templates(socket: &UdpSocket) -> usize {
        let mut message = [0; 65_535];
        let mut found = 0;
        while let Ok(len) = socket.recv(&mut message) {
            let mut sets = &message[16..len];
            while let [id_high, id_low, len_high, len_low, ..] = *sets {
                found += usize::from([id_high, id_low] == [0, 2]);
                sets = &sets[usize::from(u16::from_be_bytes([len_high, len_low]))..];
            }
        }
        found
    }

    /// A collector over UDP that began anew can read what comes: templates are told again every ten minutes (RFC 7011
    /// §8.4), whether records come or not, and not more often.
    #[test]
    fn templates_are_sent_again_in_their_time() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let target = format!("ipfix://{}", socket.local_addr().unwrap());
        let target = Target::read(&target).unwrap().unwrap();
        let mut collector = Collector::open(&target, false).unwrap();
        assert_eq!(templates(&socket), 0);
        collector.write(&FlowRecord::sample(1));
        collector.flush();
        let first = templates(&socket);
        assert!(first > 0);
        for (seconds, is_due) in [
            (1, false),
            (599, false),
            (600, true),
            (601, false),
            (1199, false),
            (1200, true),
            (9000, true),
        ] {
            collector.tick_at(Duration::from_secs(seconds));
            assert_eq!(templates(&socket) > 0, is_due, "after {seconds} s");
        }
        // What is told again is all that was told.
        collector.tick_at(Duration::from_secs(20_000));
        assert!(templates(&socket) >= first);
    }
}
