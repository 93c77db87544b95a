//! Why a command did not succeed, for every room that runs one.

/// Why a command did not succeed. The kind decides the exit code.
#[derive(Debug)]
pub enum Failure {
    /// The flags do not fit together or name something impossible: exit code 2.
    Usage(anyhow::Error),
    /// Something went wrong while running: exit code 1.
    Running(anyhow::Error),
    /// Something was lost, and the exit code has to tell: exit code 3.
    Loss(anyhow::Error),
    /// Whoever was asked is not there: exit code 3.
    NotThere(anyhow::Error),
}

impl Failure {
    /// A usage error in words.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::Usage(anyhow::Error::msg(text.into()))
    }

    /// Whether it is that the reader of a pipe went away: the end of the run, not a fault.
    pub fn is_closed_pipe(&self) -> bool {
        let Self::Running(error) = self else {
            return false;
        };
        let mut causes = error
            .chain()
            .filter_map(|cause| cause.downcast_ref::<std::io::Error>());
        causes.any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
    }

    /// A fault in words.
    pub fn running(text: impl Into<String>) -> Self {
        Self::Running(anyhow::Error::msg(text.into()))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Usage(error)
            | Self::Running(error)
            | Self::Loss(error)
            | Self::NotThere(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Running(error.into())
    }
}
