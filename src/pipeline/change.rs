//! What a run takes while it goes on, without losing a packet.

use std::sync::{Arc, Mutex, PoisonError};

use crate::capture::terms::Terms;
use crate::filter::Filter;
use crate::mirror::allowed::Allowed;
use crate::mirror::inventory::Inventory;

/// What holds from now on.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Sources and VNIs that are wanted.
    pub allowed: Arc<Allowed>,
    /// Which mirrored packets are wanted; `None` for all.
    pub filter: Option<Arc<Filter>>,
    /// What files go by.
    pub terms: Terms,
}

/// What is known of mirror sessions, for whoever tells of a run: it may change while that goes on.
#[derive(Clone, Debug, Default)]
pub struct Known(Arc<Mutex<Arc<Inventory>>>);

impl Known {
    /// This, until something else is said.
    pub fn new(inventory: Arc<Inventory>) -> Self {
        Self(Arc::new(Mutex::new(inventory)))
    }

    /// What is known now.
    pub fn now(&self) -> Arc<Inventory> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on this is known.
    pub fn set(&self, inventory: Arc<Inventory>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = inventory;
    }
}
