//! Why a command did not succeed, for every room that runs one.

/// Why a command did not succeed. The kind decides the exit code.
#[derive(Debug)]
pub enum Failure {
    /// The flags do not fit together or name something impossible: exit code 2.
    Usage(anyhow::Error),
    /// Something went wrong while running: exit code 1.
    Running(anyhow::Error),
}

impl Failure {
    /// A usage error in words.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::Usage(anyhow::Error::msg(text.into()))
    }

    /// A fault in words.
    pub fn running(text: impl Into<String>) -> Self {
        Self::Running(anyhow::Error::msg(text.into()))
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Running(error.into())
    }
}
