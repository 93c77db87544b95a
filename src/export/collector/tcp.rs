//! Messages to a collector over TCP (RFC 7011 §10.4), again and again where a connection breaks.
//!
//! A message is kept until the collector's machine has acknowledged its last byte. Those that a broken connection leaves
//! go out again on the next one, behind all templates that they need: so none is lost while there is room to keep them,
//! and one whose acknowledgement was lost may arrive twice. Its flow records have the same `flowId` and times then.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::Sent;
use super::reach::Connection;
use super::target::Target;
use crate::export::ipfix::{Message, Session};
use crate::sys::unacknowledged;
use crate::threads;

/// Bytes of messages that are kept: some 60,000 flow records.
pub const MOST_KEPT: usize = 16 << 20;

/// How long a connection may take to come about, for each address.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// How long a collector's machine may acknowledge nothing before the connection is given up.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// Until the first attempt to connect again, and the longest time between two.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// The way to a collector over TCP.
pub struct Tcp {
    target: Target,
    link: Link,
    /// Connections that came about, and attempts that failed.
    connections: u64,
    failed_attempts: u64,
    backoff: Duration,
    /// Messages that were not sent on this connection, in their order.
    waiting: VecDeque<Message>,
    /// Messages that were, and where each ends among the bytes of the connection.
    unconfirmed: VecDeque<(u64, Message)>,
    /// Bytes of both.
    kept: usize,
    sent: Sent,
    /// Tells what happened since it was last asked.
    news: Option<News>,
    /// What went wrong since.
    fault: Option<io::Error>,
    /// How the connection was when that was last asked.
    connection: Connection,
}

/// What happened to the connection.
#[derive(Debug)]
pub enum News {
    /// There is one.
    Up,
    /// There is none any more, or the first attempt failed.
    Down,
}

enum Link {
    /// The next attempt begins then.
    Down {
        at: Duration,
    },
    /// The name of the collector is looked up.
    Resolving(Receiver<io::Result<Vec<SocketAddr>>>),
    Connecting {
        socket: Socket,
        until: Duration,
        /// Addresses to try then.
        others: Vec<SocketAddr>,
    },
    Up(Up),
}

struct Up {
    stream: TcpStream,
    session: Session,
    /// Bytes written.
    written: u64,
    /// Descriptions have been handed over.
    is_described: bool,
    /// The message being sent, and how many bytes of it are.
    current: Option<(Message, usize)>,
}

impl Tcp {
    /// To `target`, without a connection yet; the first attempt goes to `addresses`.
    pub fn new(target: Target, addresses: Vec<SocketAddr>) -> Self {
        let mut tcp = Self {
            target,
            link: Link::Down { at: Duration::ZERO },
            connections: 0,
            failed_attempts: 0,
            backoff: BACKOFF.0,
            waiting: VecDeque::new(),
            unconfirmed: VecDeque::new(),
            kept: 0,
            sent: Sent::default(),
            news: None,
            fault: None,
            connection: Connection::default(),
        };
        tcp.connect(addresses, Duration::ZERO);
        tcp
    }

    /// Whether there is no room for another message.
    pub const fn is_full(&self) -> bool {
        self.kept >= MOST_KEPT
    }

    /// Whether a connection is there.
    pub const fn is_up(&self) -> bool {
        matches!(self.link, Link::Up(_))
    }

    /// Whether nothing waits to be sent or confirmed.
    pub const fn is_empty(&self) -> bool {
        self.kept == 0
    }

    /// Whether messages wait that are not sent.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty() || matches!(&self.link, Link::Up(up) if up.current.is_some())
    }

    /// Puts a message behind the others.
    pub fn add(&mut self, message: Message) {
        self.kept += message.bytes().len();
        self.waiting.push_back(message);
    }

    /// Flow records that wait to be sent or confirmed.
    pub fn flows_kept(&self) -> u64 {
        let current = match &self.link {
            Link::Up(Up {
                current: Some((message, _)),
                ..
            }) => message.flows(),
            _ => 0,
        };
        let unconfirmed = self.unconfirmed.iter().map(|(_, message)| message);
        let kept = self.waiting.iter().chain(unconfirmed);
        kept.map(Message::flows).sum::<u64>() + current
    }

    /// Templates in the messages that are kept: those before them have to be described to a new connection.
    fn templates_kept(&self) -> usize {
        let unconfirmed = self.unconfirmed.iter().map(|(_, message)| message);
        let kept = self.waiting.iter().chain(unconfirmed);
        kept.map(Message::templates).sum()
    }

    /// Does what can be done at once: connects, sends, hears what was acknowledged. `describe` tells of the templates but
    /// for the last so many, to a connection that is new; it is `export_s` seconds since 1970.
    pub fn pump(
        &mut self,
        now: Duration,
        export_s: u32,
        describe: impl FnOnce(usize, &mut dyn FnMut(Message)),
    ) {
        self.go_on_connecting(now);
        let templates = self.templates_kept();
        let Link::Up(up) = &mut self.link else {
            return;
        };
        if !up.is_described {
            up.is_described = true;
            let mut descriptions = Vec::new();
            describe(templates, &mut |message| descriptions.push(message));
            for message in descriptions.into_iter().rev() {
                self.kept += message.bytes().len();
                self.waiting.push_front(message);
            }
        }
        let outcome = up
            .is_there()
            .and_then(|()| up.send(&mut self.waiting, &mut self.unconfirmed, export_s))
            .and_then(|()| up.confirmed());
        match outcome {
            Ok(confirmed) => self.confirm(confirmed),
            Err(error) => self.break_off(error, now),
        }
    }

    /// Drops messages that end within the first so many bytes of the connection: these were acknowledged.
    fn confirm(&mut self, confirmed: u64) {
        while let Some((_, message)) = self.unconfirmed.pop_front_if(|(end, _)| *end <= confirmed) {
            self.kept -= message.bytes().len();
            self.sent.messages += 1;
            self.sent.flows += message.flows();
            self.sent.bytes += message.bytes().len() as u64;
        }
    }

    /// The connection is lost: what was not acknowledged goes in front of what waits.
    fn break_off(&mut self, error: io::Error, now: Duration) {
        if let Link::Up(up) = &mut self.link
            && let Some((message, _)) = up.current.take()
        {
            self.waiting.push_front(message);
        }
        while let Some((_, message)) = self.unconfirmed.pop_back() {
            self.waiting.push_front(message);
        }
        // Descriptions are made anew, and totals were of their time.
        let mut gone = 0;
        self.waiting.retain(|message| {
            let stays = message.flows() > 0 || message.templates() > 0 && !message.is_description();
            gone += if stays { 0 } else { message.bytes().len() };
            stays
        });
        self.kept -= gone;
        self.fail(error, now);
    }

    /// There is no connection; the next attempt is made later.
    fn fail(&mut self, error: io::Error, now: Duration) {
        if self.is_up() || self.connections == 0 && self.backoff == BACKOFF.0 {
            self.news = Some(News::Down);
        }
        self.failed_attempts += u64::from(!self.is_up());
        self.fault = Some(error);
        self.link = Link::Down {
            at: now + self.backoff,
        };
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
    }

    fn go_on_connecting(&mut self, now: Duration) {
        match &mut self.link {
            Link::Down { at } if now < *at => {}
            Link::Down { .. } => self.resolve(now),
            Link::Resolving(found) => match found.try_recv() {
                Ok(Ok(addresses)) => self.connect(addresses, now),
                Ok(Err(error)) => self.fail(error, now),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => self.fail(ErrorKind::Other.into(), now),
            },
            Link::Connecting {
                socket,
                until,
                others,
            } => match is_connected(socket) {
                Ok(true) => self.connected(),
                Ok(false) if now < *until => {}
                outcome => {
                    let error = outcome.err().unwrap_or_else(|| ErrorKind::TimedOut.into());
                    match std::mem::take(others) {
                        none if none.is_empty() => self.fail(error, now),
                        others => self.connect(others, now),
                    }
                }
            },
            Link::Up(_) => {}
        }
    }

    /// Looks the collector's addresses up, on a thread of its own: a name server may take its time.
    fn resolve(&mut self, now: Duration) {
        let (done, found) = channel();
        let target = self.target.clone();
        match threads::start("vxtap-resolve", move || done.send(target.addresses())) {
            Ok(_) => self.link = Link::Resolving(found),
            Err(error) => self.fail(io::Error::other(error), now),
        }
    }

    /// Begins to connect to the first of `addresses`.
    fn connect(&mut self, mut addresses: Vec<SocketAddr>, now: Duration) {
        if addresses.is_empty() {
            return self.fail(ErrorKind::NotFound.into(), now);
        }
        let address = addresses.remove(0);
        match begin(address) {
            Ok(socket) => {
                self.link = Link::Connecting {
                    socket,
                    until: now + CONNECT_WITHIN,
                    others: addresses,
                };
            }
            Err(error) if addresses.is_empty() => self.fail(error, now),
            Err(_) => self.connect(addresses, now),
        }
    }

    fn connected(&mut self) {
        let link = std::mem::replace(&mut self.link, Link::Down { at: Duration::ZERO });
        if let Link::Connecting { socket, .. } = link {
            self.link = Link::Up(Up {
                stream: socket.into(),
                session: Session::new(self.target.domain),
                written: 0,
                is_described: false,
                current: None,
            });
            self.news = Some(News::Up);
            self.connections += 1;
            self.backoff = BACKOFF.0;
        }
    }

    /// Waits until more can be sent, for so long at most.
    pub fn wait(&self, most: Duration) {
        let file = match &self.link {
            Link::Up(up) => up.stream.as_fd(),
            Link::Connecting { socket, .. } => socket.as_fd(),
            _ => return std::thread::sleep(most),
        };
        // What waits for nothing but acknowledgements hears of none: it looks again soon.
        let wants = match self.is_up() && !self.has_waiting() {
            true => PollFlags::POLLIN,
            false => PollFlags::POLLOUT,
        };
        let most = PollTimeout::try_from(most).unwrap_or(PollTimeout::ZERO);
        let _ = poll(&mut [PollFd::new(file, wants)], most);
    }

    /// Whether [`Self::give_up`] was called.
    pub const fn is_given_up(&self) -> bool {
        matches!(self.link, Link::Down { at: Duration::MAX })
    }

    /// Counts all that is kept as lost: nobody takes it any more.
    pub fn give_up(&mut self) {
        self.sent.lost += self.flows_kept();
        self.waiting.clear();
        self.unconfirmed.clear();
        self.kept = 0;
        self.link = Link::Down { at: Duration::MAX };
    }

    /// Counts flow records that there was no room for.
    pub const fn lose(&mut self, flows: u64) {
        self.sent.lost += flows;
    }

    /// What happened to the connection, once.
    pub const fn take_news(&mut self) -> Option<News> {
        self.news.take()
    }

    /// What went wrong last, once.
    pub const fn take_fault(&mut self) -> Option<io::Error> {
        self.fault.take()
    }

    /// How the connection is, at `now_ns` nanoseconds since 1970.
    pub fn connection(&mut self, now_ns: u64) -> Connection {
        let unacknowledged = self.unconfirmed.iter();
        let unacknowledged = unacknowledged.map(|(_, message)| message.bytes().len());
        let unacknowledged: usize = unacknowledged.sum();
        let (is_up, before) = (self.is_up(), self.connection);
        let is_same = (is_up, self.connections) == (before.is_up, before.connections);
        self.connection = Connection {
            is_up,
            since_ns: if is_same && before.since_ns > 0 {
                before.since_ns
            } else {
                now_ns
            },
            connections: self.connections,
            failed_attempts: self.failed_attempts,
            unsent_bytes: (self.kept - unacknowledged) as u64,
            unacknowledged_bytes: unacknowledged as u64,
        };
        self.connection
    }

    /// What became of messages so far: those that were acknowledged count as sent.
    pub const fn sent(&self) -> Sent {
        self.sent
    }
}

impl Up {
    /// # Errors
    ///
    /// The collector has closed the connection. It has nothing to say (RFC 7011 §10.4.4), so what it says is passed over.
    fn is_there(&mut self) -> io::Result<()> {
        let mut said = [0; 256];
        loop {
            match self.stream.read(&mut said) {
                Ok(0) => {
                    return Err(io::Error::new(
                        ErrorKind::ConnectionAborted,
                        "the collector closed the connection",
                    ));
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Bytes that were acknowledged.
    ///
    /// # Errors
    ///
    /// The connection has failed: what it tells is not to be believed.
    fn confirmed(&self) -> io::Result<u64> {
        let outstanding = unacknowledged(self.stream.as_fd())?;
        match self.stream.take_error()? {
            Some(error) => Err(error),
            None => Ok(self.written.saturating_sub(outstanding)),
        }
    }

    /// Sends what the kernel takes.
    fn send(
        &mut self,
        waiting: &mut VecDeque<Message>,
        unconfirmed: &mut VecDeque<(u64, Message)>,
        export_s: u32,
    ) -> io::Result<()> {
        loop {
            let (message, done) = match self.current.take() {
                Some(current) => current,
                None => match waiting.pop_front() {
                    Some(mut message) => {
                        self.session.stamp(&mut message, export_s);
                        (message, 0)
                    }
                    None => return Ok(()),
                },
            };
            let rest = message.bytes().get(done..).unwrap_or_default();
            match self.stream.write(rest) {
                Ok(taken) => {
                    self.written += taken as u64;
                    match taken == rest.len() {
                        true => unconfirmed.push_back((self.written, message)),
                        false => self.current = Some((message, done + taken)),
                    }
                }
                Err(error) => {
                    self.current = Some((message, done));
                    match error.kind() {
                        ErrorKind::WouldBlock => return Ok(()),
                        ErrorKind::Interrupted => {}
                        _ => return Err(error),
                    }
                }
            }
        }
    }
}

/// A socket that connects to `address`.
fn begin(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(true)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

/// Whether a connection has come about.
fn is_connected(socket: &Socket) -> io::Result<bool> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    match socket.peer_addr() {
        // Where nobody listens on a port that connections begin from, a socket may find itself.
        Ok(peer) if socket.local_addr()? == peer => Err(ErrorKind::ConnectionRefused.into()),
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}
