//! What a worker needs to know.

use std::sync::Arc;

use crate::filter::Filter;
use crate::flow::lifetime::Lifetimes;
use crate::mirror::allowed::Allowed;
use crate::mirror::duplicates::Dedup;
use crate::mirror::inventory::Inventory;
use crate::mirror::truncation::Route;
use crate::pcap::record::Format;
use crate::pcap::slice::Slice;
use crate::wire::decapsulate::Tunnels;

/// What a worker needs to know.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// Ports and depth of tunnels.
    pub tunnels: Tunnels,
    /// Packets are not encapsulated: take them as they are.
    pub plain: bool,
    /// Packets come as time goes by.
    pub live: bool,
    /// MTU of the path from mirror source to target, in bytes.
    pub mtu: u32,
    /// Bytes of the MTU that the cloud recommends to keep free for the mirror's headers.
    pub mtu_overhead: u32,
    /// Most flows kept at a time.
    pub max_flows: u32,
    /// How long flows live.
    pub lifetimes: Lifetimes,
    /// Kind of capture to encode; `None` for no capture.
    pub capture: Option<Format>,
    /// How much of each frame the capture keeps, where that is not all.
    pub slice: Option<Slice>,
    /// Whether somebody writes an index of the capture.
    pub index: bool,
    /// Whether somebody takes flow records. Else no more flows are kept than tell what the mirror lost.
    pub flows: bool,
    /// Whether the first packets of flows are looked into, for what they name.
    pub app: bool,
    /// Whether flow records tell where in the capture their first packets lie: only where there are both.
    pub first_places: bool,
    /// Sources and VNIs that are wanted.
    pub allowed: Arc<Allowed>,
    /// Which mirrored packets are wanted; `None` for all.
    pub filter: Option<Arc<Filter>>,
    /// What is known of mirror sessions beforehand, for the summary.
    pub inventory: Arc<Inventory>,
    /// How copies of packets are looked for; `None` for not at all.
    pub dedup: Option<Dedup>,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            tunnels: Tunnels::default(),
            plain: false,
            live: false,
            mtu: 1500,
            mtu_overhead: 64,
            max_flows: 1 << 20,
            lifetimes: Lifetimes::default(),
            capture: None,
            slice: None,
            index: false,
            flows: false,
            app: true,
            first_places: false,
            allowed: Arc::default(),
            filter: None,
            inventory: Arc::default(),
            dedup: Some(Dedup::default()),
        }
    }
}

impl WorkerSettings {
    /// What is known of any way from a mirror source before a packet came.
    pub const fn route(&self) -> Route {
        Route {
            mtu: self.mtu,
            recommended_overhead: self.mtu_overhead,
            largest_outer: 0,
        }
    }
}
