//! A flow that has ended, and why.

use super::counts::Flow;

/// Why a flow ended, with the numbers of IPFIX `flowEndReason` (RFC 5102 §5.11.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EndReason {
    /// Nothing was heard for long.
    Idle = 1,
    /// The record became long; the flow goes on in another one.
    Active = 2,
    /// FIN or RST ended the connection, and nothing more was heard, or another one began with the same ports.
    EndOfFlow = 3,
    /// The run ended, or the interval that the record belongs to; then the flow goes on in another one.
    Forced = 4,
    /// The table was full and this flow was seen longest ago.
    LackOfResources = 5,
}

/// A flow that is no longer in the table.
#[derive(Debug)]
pub struct Ended {
    /// What was counted.
    pub flow: Flow,
    /// Why it ended.
    pub reason: EndReason,
}

impl Ended {
    /// Of a flow whose record has packets; others tell nothing.
    pub fn of(flow: Flow, reason: EndReason) -> Option<Self> {
        (!flow.is_empty()).then_some(Self { flow, reason })
    }
}
