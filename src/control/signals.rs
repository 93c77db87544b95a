//! The signals that a run takes.

use std::io;
use std::os::unix::net::UnixStream;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use super::{Came, Outside};
use crate::stop::Signal;

/// Pairs of descriptors that the runtime needs, and one more.
const PAIRS: usize = 4;

/// The signals taken.
pub(super) struct Signals {
    interrupt: Stream,
    terminate: Stream,
    /// None where whoever started us wants it ignored (nohup).
    hangup: Option<Stream>,
    asked: Stream,
    rotate: Stream,
    /// Taken, so that a file that is too large (ulimit -f) is a write that fails; nobody needs to be told.
    _too_large: Option<Stream>,
}

/// Whether the runtime will find the descriptors it needs: it ends in a panic where it does not.
pub(super) fn enough_descriptors() -> io::Result<()> {
    let pairs = (0..PAIRS).map(|_| UnixStream::pair());
    pairs.collect::<io::Result<Vec<_>>>().map(drop)
}

impl Signals {
    /// Takes them from now on; in the context of the runtime.
    pub(super) fn take() -> io::Result<Self> {
        let hangup = !is_ignored_hangup();
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: hangup.then(|| signal(SignalKind::hangup())).transpose()?,
            asked: signal(SignalKind::user_defined1())?,
            rotate: signal(SignalKind::user_defined2())?,
            _too_large: too_large()?,
        })
    }
}

impl Outside for Signals {
    async fn next(&mut self) -> Came {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        // A stream of signals has no end.
        tokio::select! {
            _ = self.interrupt.recv() => Came::End(Signal::Interrupt),
            _ = self.terminate.recv() => Came::End(Signal::Terminate),
            _ = hangup => Came::End(Signal::Hangup),
            _ = self.asked.recv() => Came::Asked,
            _ = self.rotate.recv() => Came::Rotate,
        }
    }
}

#[cfg(target_os = "linux")]
fn is_ignored_hangup() -> bool {
    crate::sys::is_ignored(libc::SIGHUP)
}

#[cfg(target_os = "linux")]
fn too_large() -> io::Result<Option<Stream>> {
    signal(SignalKind::from_raw(libc::SIGXFSZ)).map(Some)
}

#[cfg(not(target_os = "linux"))]
fn is_ignored_hangup() -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
fn too_large() -> io::Result<Option<Stream>> {
    Ok(None)
}
