//! How a collector is reached, for those who look on while flow records go to it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// By what carries messages to it.
    pub way: Way,
    /// What went wrong last, however long ago.
    pub last_error: Option<LastError>,
}

/// What is known of the way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Over UDP nobody connects, and what arrives is not known.
    Udp {
        /// Messages that the kernel did not take, or that came back refused, as far as that is known.
        refused: u64,
    },
    /// Over TCP.
    Tcp(Connection),
}

/// The connection over TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// There is one.
    pub is_up: bool,
    /// Since then there is one, or none; nanoseconds since 1970.
    pub since_ns: u64,
    /// Those that came about.
    pub connections: u64,
    /// Attempts that failed, each over all addresses of the collector.
    pub failed_attempts: u64,
    /// Bytes of messages that wait to be sent, those included that a broken connection left.
    pub unsent_bytes: u64,
    /// Bytes of messages that were sent and not acknowledged; the next connection gets them again if this one breaks.
    pub unacknowledged_bytes: u64,
}

/// Something that went wrong on the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// When, nanoseconds since 1970.
    pub at_ns: u64,
    /// What.
    pub what: String,
    /// What to do about it, where that is known.
    pub remedy: Option<&'static str>,
}

/// Where it is told.
#[derive(Clone, Debug)]
pub struct Told(Arc<Mutex<Reach>>);

impl Told {
    /// Of a collector of which nothing is known yet.
    pub fn new(way: Way) -> Self {
        Self(Arc::new(Mutex::new(Reach {
            way,
            last_error: None,
        })))
    }

    /// What was told last.
    pub fn now(&self) -> Reach {
        self.reach().clone()
    }

    /// What is known of the way.
    pub(super) fn set_way(&self, way: Way) {
        self.reach().way = way;
    }

    /// Something went wrong.
    pub(super) fn set_error(&self, error: LastError) {
        self.reach().last_error = Some(error);
    }

    fn reach(&self) -> MutexGuard<'_, Reach> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
