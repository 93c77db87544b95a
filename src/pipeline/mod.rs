//! The pipeline: what a worker does with a packet, how threads and queues hold together, and the
//! ledger in which every packet ends up once.

pub mod account;
mod alarm;
mod annotations;
pub mod answers;
pub mod apart;
mod awaited;
pub mod budget;
mod capture_notes;
mod capture_sink;
pub mod change;
pub mod clock;
pub mod doorbell;
pub mod ending;
pub mod evidence;
pub mod flow_sink;

pub mod glance;
mod in_order;
pub mod inquiry;
mod lane;
pub mod learned;
pub mod ledger;
pub mod measure;
pub mod memory;
mod observe;
pub mod orders;
pub mod outcome;
pub mod outlet;
pub mod queues;
pub mod run;
pub mod shares;
pub mod sharing;
pub mod sink;
pub mod sinks;
pub mod spread;
pub mod total;
pub mod watch;
mod watched;
pub mod worker;
