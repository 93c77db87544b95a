//! Where a worker's output goes.

use crate::flow::record::FlowRecord;
use crate::mirror::own_macs::Fact;
use crate::mirror::session::SessionId;
use crate::mirror::session_key::SessionKey;
use crate::pcap::record::Batch;

/// Where a worker's output goes.
pub trait Outlet {
    /// Whether the current batch has room for `len` more bytes, so that [`Self::room`] hands none over.
    fn has_room(&self, _len: usize) -> bool {
        true
    }

    /// A batch with room for `len` more bytes, or `None` when the queue to the writer is full.
    fn room(&mut self, len: usize) -> Option<&mut Batch>;

    /// The batch that [`Self::room`] handed out last.
    fn current(&mut self) -> Option<&mut Batch>;

    /// There was no room for a frame of this session: the capture will not have it.
    fn no_room(&mut self, session: SessionId);

    /// Whether the run has to leave a frame out of the capture to stay within its limits. `mix` gives a number that all
    /// frames of a conversation share.
    fn leaves_out(&self, _mix: impl FnOnce() -> u32) -> bool {
        false
    }

    /// A frame of a mirror session was left out for that.
    fn left_out(&mut self, _session: SessionId) {}

    /// The flow at the place `flow` of the table begins with one of the records that were encoded last, which is number
    /// `record` of all; `back` is 1 for the last one. It is in the current batch.
    fn flow_begins(&mut self, _flow: u32, _record: u64, _back: u64) {}

    /// A packet of a mirror session showed whose a hardware address is.
    fn learned(&mut self, _session: SessionKey, _fact: Fact) {}

    /// Whether many more flow records find room.
    fn has_flow_room(&self) -> bool {
        true
    }

    /// Takes a flow record.
    fn flow(&mut self, record: FlowRecord);
}
