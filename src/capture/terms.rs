//! What a run's files go by, where that changes while it goes on.

use std::sync::Arc;

use super::store::retention::Limits;
use super::store::rotation::Triggers;
use crate::mirror::inventory::Inventory;

/// What holds from now on.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// What is known of mirror sessions, for the descriptions of interfaces.
    pub inventory: Arc<Inventory>,
    /// What the stores keep, and when a file of theirs ends: a smaller budget may need smaller files.
    pub keeping: Option<(Limits, Triggers)>,
    /// The name of the configuration so far, and from now on, for the files of a store.
    pub configuration: (String, String),
}
