//! Facts about this machine: its interfaces, who holds a port, the kernel's own counters with their remedies, the room on
//! its disks and in its memory, what this process takes, its groups, and the nftables table that a run may own.

pub mod counters;
pub mod groups;
#[cfg(target_os = "linux")]
pub mod interfaces;
#[cfg(target_os = "linux")]
pub mod netlink;
#[cfg(target_os = "linux")]
pub mod nft;
#[cfg(target_os = "linux")]
pub mod ports;
pub mod process;
pub mod room;
pub mod space;
