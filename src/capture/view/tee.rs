//! The sockets of live views: a thread for each tee takes connections in, a thread for each viewer writes to it.
//!
//! Nobody else waits for a viewer. How many there are is bounded; when all places are taken, one whose peer will
//! send no more (it may have left, or only closed its half) makes room.

use std::convert::Infallible;
use std::io::{self, ErrorKind, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use nix::libc::{MSG_DONTWAIT, MSG_PEEK};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::SockRef;

use super::WhenSlow;
use super::stream::Chunk;
use crate::pcap::record::Format;
use crate::pcap::section::whole_prefix;
use crate::say::say;
use crate::stop::Stop;
use crate::threads::{self, NoThread};

/// Most viewers at a time, of all tees together.
pub const MOST_VIEWERS: usize = 16;

/// Chunks that wait for a viewer where it may miss some; their bytes are bounded beside that.
const PLACES: usize = 1024;
/// Chunks that wait for a viewer that is waited for.
const PLACES_WAITED_FOR: usize = 32;
/// How often it is looked whether a first viewer is there.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Looks without a viewer until that is told: about a second.
const TELL_AFTER: u32 = 50;
/// How often it is looked at the end whether viewers take anything.
const PROGRESS_EVERY: Duration = Duration::from_millis(50);
/// Looks for the end of viewers that were given up: a second.
const LOOKS_AT_LAST: u32 = 20;
/// Looks for the place of a viewer that made room: half a second.
const LOOKS_FOR_ROOM: u32 = 25;
/// How long a tee pauses that cannot take connections.
const PAUSE_MS: u16 = 1000;

/// Why there is no tee.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum TeeError {
    #[error("cannot bind --tee tcp://{address}: the port is in use; 'ss -ltnp' shows by whom")]
    InUse { address: SocketAddr },
    #[error(
        "cannot bind --tee tcp://{address}: this machine has no such address; 'ip address' lists them"
    )]
    NotHere { address: SocketAddr },
    #[error("cannot bind --tee tcp://{address}: {source}")]
    Bind {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("nobody connected to {name} before the run was told to end")]
    NoViewer { name: String },
    #[error(transparent)]
    NoThread(#[from] NoThread),
}

impl TeeError {
    fn of(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            ErrorKind::AddrInUse => Self::InUse { address },
            ErrorKind::AddrNotAvailable => Self::NotHere { address },
            _ => Self::Bind { address, source },
        }
    }
}

/// What became of the packets that viewers of one tee were there for: offered = written + the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Viewers that came.
    pub viewers: u64,
    /// Packets, once for each viewer that was there.
    pub offered: u64,
    /// Packets that its socket took.
    pub written: u64,
    /// Bytes that sockets took.
    pub bytes: u64,
    /// Packets that found no room before a viewer that was too slow.
    pub no_room: u64,
    /// Packets that waited for a viewer when it left.
    pub reader_left: u64,
    /// Packets that waited for a viewer that took nothing when the run ended.
    pub stuck: u64,
}

/// The same, being counted.
#[derive(Debug, Default)]
struct Counts {
    viewers: AtomicU64,
    offered: AtomicU64,
    written: AtomicU64,
    bytes: AtomicU64,
    no_room: AtomicU64,
    reader_left: AtomicU64,
    stuck: AtomicU64,
}

impl Counts {
    fn seen(&self) -> Seen {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Seen {
            viewers: of(&self.viewers),
            written: of(&self.written),
            bytes: of(&self.bytes),
            no_room: of(&self.no_room),
            reader_left: of(&self.reader_left),
            stuck: of(&self.stuck),
            // Last: it counts each packet first.
            offered: of(&self.offered),
        }
    }
}

/// What a viewer is to be sent.
pub struct Piece {
    /// What it has to know before.
    pub described: Box<[u8]>,
    /// Packets.
    pub chunk: Arc<Chunk>,
}

impl Piece {
    /// Bytes of it.
    pub fn len(&self) -> usize {
        self.described.len() + self.chunk.bytes.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A viewer that has connected and has got nothing yet.
pub struct Joined {
    /// It.
    pub viewer: Arc<Viewer>,
    /// The way to it.
    pub queue: Sender<Piece>,
}

/// Somebody at the other end of a connection.
pub struct Viewer {
    stream: TcpStream,
    peer: SocketAddr,
    tee: Arc<str>,
    counts: Arc<Counts>,
    /// Bytes that wait for it.
    pub waiting: AtomicUsize,
    left: AtomicBool,
    given_up: AtomicBool,
    sent: AtomicU64,
    not_sent: AtomicU64,
}

impl Viewer {
    /// Whether it takes nothing any more.
    pub fn has_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// Packets were there for it.
    pub fn offered(&self, packets: u64) {
        self.counts.offered.fetch_add(packets, Ordering::Relaxed);
    }

    /// It is too slow for some of them.
    pub fn missed(&self, packets: u64) {
        self.counts.no_room.fetch_add(packets, Ordering::Relaxed);
        self.not_sent.fetch_add(packets, Ordering::Relaxed);
    }

    /// Some of them were on their way to it when it left.
    pub fn left_behind(&self, packets: u64) {
        let reason = match self.given_up.load(Ordering::Relaxed) {
            true => &self.counts.stuck,
            false => &self.counts.reader_left,
        };
        reason.fetch_add(packets, Ordering::Relaxed);
        self.not_sent.fetch_add(packets, Ordering::Relaxed);
    }

    fn close(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Whether its peer will send no more, or is gone.
    fn has_fallen_silent(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let flags = MSG_PEEK | MSG_DONTWAIT;
        match SockRef::from(&self.stream).recv_with_flags(&mut byte, flags) {
            Ok(len) => len == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }

    /// The work of its thread: sends what comes until nobody can send any more. What it does not take is counted.
    fn serve(&self, queue: &Receiver<Piece>) {
        for piece in queue {
            if self.has_left() {
                self.left_behind(piece.chunk.packets());
            } else if let Err(error) = self.send(&piece)
                && !self.left.swap(true, Ordering::Relaxed)
            {
                self.tell_left(&error);
            }
            self.waiting.fetch_sub(piece.len(), Ordering::Relaxed);
        }
        self.left.store(true, Ordering::Relaxed);
        self.close();
    }

    fn send(&self, piece: &Piece) -> io::Result<()> {
        self.write(&piece.described).map_err(|(error, _)| {
            self.left_behind(piece.chunk.packets());
            error
        })?;
        let packets = piece.chunk.packets();
        let outcome = self.write(&piece.chunk.bytes);
        let written = match &outcome {
            Ok(()) => packets,
            Err((_, len)) => whole_prefix(Format::PcapNg, &piece.chunk.bytes, *len).1,
        };
        self.counts.written.fetch_add(written, Ordering::Relaxed);
        self.sent.fetch_add(written, Ordering::Relaxed);
        self.left_behind(packets - written);
        outcome.map_err(|(error, _)| error)
    }

    /// Writes all of `bytes`, or tells how many of them.
    fn write(&self, bytes: &[u8]) -> Result<(), (io::Error, usize)> {
        let mut stream = &self.stream;
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            match stream.write(rest) {
                Ok(0) => return Err((ErrorKind::WriteZero.into(), done)),
                Ok(len) => {
                    self.counts.bytes.fetch_add(len as u64, Ordering::Relaxed);
                    done += len;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err((error, done)),
            }
        }
        Ok(())
    }

    fn tell_left(&self, error: &io::Error) {
        let (peer, tee) = (self.peer, &self.tee);
        let sent = self.sent.load(Ordering::Relaxed);
        let missed = self.not_sent.load(Ordering::Relaxed);
        let what = match self.given_up.load(Ordering::Relaxed) {
            true => "took nothing any more when the run ended".to_owned(),
            false => match error.kind() {
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => "left".to_owned(),
                _ => format!("cannot be reached any more ({error})"),
            },
        };
        tracing::info!(sent, missed, "the viewer {peer} of {tee} {what}");
    }
}

/// The viewers of all tees.
#[derive(Default)]
struct Roster {
    viewers: Mutex<Vec<Arc<Viewer>>>,
    /// Threads of viewers.
    threads: AtomicUsize,
}

impl Roster {
    /// Those that have not left.
    fn viewers(&self) -> MutexGuard<'_, Vec<Arc<Viewer>>> {
        let viewers = self.viewers.lock();
        let mut viewers = viewers.unwrap_or_else(PoisonError::into_inner);
        viewers.retain(|viewer| !viewer.has_left());
        viewers
    }

    fn is_full(&self) -> bool {
        self.threads.load(Ordering::Relaxed) >= MOST_VIEWERS
    }

    /// Closes the connection of a viewer that may have left; whether there is one.
    fn make_room(&self) -> bool {
        let viewers = self.viewers();
        let mut viewers = viewers.iter();
        let silent = viewers.find(|viewer| viewer.has_fallen_silent());
        silent
            .inspect(|viewer| {
                viewer.left.store(true, Ordering::Relaxed);
                viewer.close();
                viewer.tell_left(&ErrorKind::BrokenPipe.into());
            })
            .is_some()
    }
}

/// The tees of a run.
pub struct Tees {
    tees: Vec<(Arc<str>, Arc<Counts>)>,
    joining: Receiver<Joined>,
    roster: Arc<Roster>,
    /// Dropped, they end the threads that take connections.
    open: Mutex<Vec<UnixStream>>,
    /// Hears the end of all threads.
    ended: Receiver<Infallible>,
}

impl Tees {
    /// Opens a tee on each of `addresses`; port 0 lets the system choose.
    ///
    /// # Errors
    ///
    /// When an address cannot be bound, or the system has no thread.
    pub fn open(addresses: &[SocketAddr], when_slow: WhenSlow) -> Result<Self, TeeError> {
        let (to, joining) = unbounded();
        let (running, ended) = bounded(0);
        let mut all = Self {
            tees: Vec::new(),
            joining,
            roster: Arc::default(),
            open: Mutex::default(),
            ended,
        };
        for address in addresses {
            let error = |source| TeeError::of(*address, source);
            let listener = TcpListener::bind(address).map_err(error)?;
            listener.set_nonblocking(true).map_err(error)?;
            let bound = listener.local_addr().map_err(error)?;
            let (open, closed) = UnixStream::pair().map_err(error)?;
            let name: Arc<str> = format!("tcp://{bound}").into();
            let counts = Arc::new(Counts::default());
            all.tees.push((Arc::clone(&name), Arc::clone(&counts)));
            let door = Door {
                listener,
                closed,
                name,
                counts,
                places: match when_slow {
                    WhenSlow::Miss => PLACES,
                    WhenSlow::Wait => PLACES_WAITED_FOR,
                },
                roster: Arc::clone(&all.roster),
                to: to.clone(),
                running: running.clone(),
            };
            threads::start("vxtap-tee", move || door.run())?;
            all.wakers().push(open);
        }
        Ok(all)
    }

    fn wakers(&self) -> MutexGuard<'_, Vec<UnixStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names of the tees: `tcp://127.0.0.1:57012`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tees.iter().map(|(name, _)| &**name)
    }

    /// What became of the packets of each.
    pub fn seen(&self) -> impl Iterator<Item = (&str, Seen)> {
        let tees = self.tees.iter();
        tees.map(|(name, counts)| (&**name, counts.seen()))
    }

    /// A number that changes as long as any viewer takes something.
    pub fn steps(&self) -> u64 {
        self.seen().map(|(_, seen)| seen.bytes).sum()
    }

    /// Waits until each tee has had a viewer.
    ///
    /// # Errors
    ///
    /// When `stop` is set before that.
    pub fn wait_for_viewers(&self, stop: &Stop) -> Result<(), TeeError> {
        for (name, counts) in &self.tees {
            let mut looks = 0;
            while counts.viewers.load(Ordering::Relaxed) == 0 {
                if stop.is_set() {
                    let name = name.to_string();
                    return Err(TeeError::NoViewer { name });
                }
                looks += 1;
                if looks == TELL_AFTER {
                    let at = name.trim_start_matches("tcp://");
                    say(format!(
                        "vxtap: waiting for a viewer of {name}, as 'wireshark -k -i TCP@{at}'\n"
                    ));
                }
                std::thread::sleep(LOOK_EVERY);
            }
        }
        Ok(())
    }

    /// Who has connected and is not served yet.
    pub(super) fn joined(&self) -> Option<Joined> {
        // Most looks find nobody.
        (!self.joining.is_empty()).then(|| self.joining.try_recv().ok())?
    }

    /// Takes no more connections, and waits for viewers to take what is left: as long as one of them makes progress
    /// within `patience`, or without that for as long as it takes. The capture has let go of them.
    pub fn end(&self, patience: Option<Duration>) {
        self.wakers().clear();
        let (mut before, mut without) = (self.steps(), Duration::ZERO);
        while patience.is_none_or(|patience| without < patience) {
            if self.have_ended() {
                return;
            }
            let now = self.steps();
            without = match now == before {
                true => without + PROGRESS_EVERY,
                false => Duration::ZERO,
            };
            before = now;
        }
        for viewer in self.roster.viewers().iter() {
            viewer.given_up.store(true, Ordering::Relaxed);
            viewer.close();
        }
        let mut looks = 0..LOOKS_AT_LAST;
        let _ = looks.any(|_| self.have_ended());
    }

    /// Waits a moment for the end of all threads; whether it came.
    fn have_ended(&self) -> bool {
        // Whoever connected too late is let go.
        while self.joining.try_recv().is_ok() {}
        match self.ended.recv_timeout(PROGRESS_EVERY) {
            Ok(never) => match never {},
            Err(error) => error == RecvTimeoutError::Disconnected,
        }
    }
}

/// Takes connections to one tee.
struct Door {
    listener: TcpListener,
    /// Readable when the tee ends.
    closed: UnixStream,
    name: Arc<str>,
    counts: Arc<Counts>,
    /// Chunks that may wait for a viewer.
    places: usize,
    roster: Arc<Roster>,
    to: Sender<Joined>,
    running: Sender<Infallible>,
}

impl Door {
    fn run(self) {
        let (mut told_full, mut told_fault) = (false, false);
        while !self.is_closed_within(PollTimeout::NONE, true) {
            match self.listener.accept() {
                Ok((stream, peer)) => {
                    told_fault = false;
                    let is_in = self.has_room() && self.let_in(stream, peer);
                    if !is_in && !told_full {
                        tracing::warn!(
                            "{peer} cannot view {}: there are {MOST_VIEWERS} viewers, the most",
                            self.name
                        );
                    }
                    told_full = !is_in;
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    if !told_fault {
                        tracing::warn!(%error, "cannot take a viewer of {}", self.name);
                    }
                    told_fault = true;
                    if self.is_closed_within(PAUSE_MS.into(), false) {
                        return;
                    }
                }
            }
        }
    }

    /// Waits until the tee ends or, where asked for, somebody knocks; whether it ended.
    fn is_closed_within(&self, time: PollTimeout, or_knock: bool) -> bool {
        let ready = PollFlags::POLLIN;
        let mut both = [
            PollFd::new(self.closed.as_fd(), ready),
            PollFd::new(self.listener.as_fd(), ready),
        ];
        let polls = both.get_mut(..if or_knock { 2 } else { 1 });
        let _ = poll(polls.unwrap_or_default(), time);
        let [closed, _] = &both;
        closed.any().unwrap_or_default()
    }

    /// Whether there is a place for another viewer.
    fn has_room(&self) -> bool {
        if !self.roster.is_full() {
            return true;
        }
        if !self.roster.make_room() {
            return false;
        }
        for _ in 0..LOOKS_FOR_ROOM {
            if !self.roster.is_full() {
                return true;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        false
    }

    fn let_in(&self, stream: TcpStream, peer: SocketAddr) -> bool {
        let _ = stream.set_nonblocking(false);
        let _ = stream.set_nodelay(true);
        // A machine that vanished is found out in the end.
        let _ = SockRef::from(&stream).set_keepalive(true);
        let viewer = Arc::new(Viewer {
            stream,
            peer,
            tee: Arc::clone(&self.name),
            counts: Arc::clone(&self.counts),
            waiting: AtomicUsize::new(0),
            left: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            not_sent: AtomicU64::new(0),
        });
        let (queue, from) = bounded(self.places);
        let (served, running) = (Arc::clone(&viewer), self.running.clone());
        let roster = Arc::clone(&self.roster);
        roster.threads.fetch_add(1, Ordering::Relaxed);
        let started = threads::start("vxtap-view", move || {
            let _running = running;
            served.serve(&from);
            roster.threads.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(error) = started {
            self.roster.threads.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!("no view for {peer}: {error}");
            return true;
        }
        tracing::info!("{peer} views {}", self.name);
        self.roster.viewers().push(Arc::clone(&viewer));
        // Before who waits for a viewer sees that it is there.
        let _ = self.to.send(Joined { viewer, queue });
        self.counts.viewers.fetch_add(1, Ordering::Relaxed);
        true
    }
}

/// Whether accept may be called again at once.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted
    )
}
