//! Who vouches for the files of a store, and who is told of each: the key that signs its manifest, and the program that
//! is run for each file.

use std::path::PathBuf;

use super::hooks::Hooks;
use super::keys::Signer;

/// What becomes of the finished files of a store.
#[derive(Clone, Debug, Default)]
pub struct Custody {
    /// Signs each line of the manifest.
    pub sign: Option<Signer>,
    /// The program that is run for each file.
    pub on_rotate: Option<PathBuf>,
    /// What runs it, once the run has begun.
    pub hooks: Option<Hooks>,
}
