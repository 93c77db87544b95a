//! How files of a store are kept.

use std::time::Duration;

use super::retention::Limits;
use crate::outfile::Creation;

/// When what is written is brought to the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fsync {
    /// When the system likes; a power cut may take what was finished last.
    Never,
    /// Each file before it gets its name.
    #[default]
    Rotate,
    /// That, and open files each time so much time is over.
    Every(Duration),
}

/// How files are kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keeping {
    /// What has to go when.
    pub limits: Limits,
    /// When the disk has to have what is written.
    pub fsync: Fsync,
    /// How files are made.
    pub creation: Creation,
    /// Whether each has an index beside it.
    pub index: bool,
}
