//! How long this program waits for an output that takes nothing.
//!
//! A pipe may have no reader, a network disk may hang, a terminal may be stopped with Ctrl-S. A write to one
//! of these blocks for as long as that lasts. A run that was told to end must not block with it.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::threads::{self, NoThread};

/// How long an output without progress is waited for.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum NoResult {
    #[error("it took nothing for {} s", .0.as_secs())]
    TooLong(Duration),
    #[error(transparent)]
    NoThread(#[from] NoThread),
    #[error("its thread ended with a panic")]
    Panic,
}

/// Does `work` on a thread of its own and waits `patience` for its result. Work that takes longer is left to
/// itself and ends with the process.
///
/// # Errors
///
/// [`NoResult`].
pub fn within<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NoResult> {
    let (done, result) = channel();
    threads::start("vxtap-wait", move || done.send(work()))?;
    result.recv_timeout(patience).map_err(|error| match error {
        RecvTimeoutError::Timeout => NoResult::TooLong(patience),
        RecvTimeoutError::Disconnected => NoResult::Panic,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_takes_too_long_is_left() {
        assert_eq!(within(PATIENCE, || 7).unwrap(), 7);
        let (go_on, wait) = channel::<()>();
        let late = within(Duration::from_millis(1), move || wait.recv());
        assert!(matches!(late, Err(NoResult::TooLong(_))));
        drop(go_on);
    }
}
