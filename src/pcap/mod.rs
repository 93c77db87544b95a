//! The capture formats, pure: blocks of pcapng read from bytes, records of pcapng and pcap written to
//! bytes.

pub mod annotation;
pub mod blocks;
pub mod classic;
pub mod cut_by;
pub mod fcs;
pub mod link_type;
pub mod losses;
pub mod options;
pub mod origin;
pub mod record;
pub mod section;
pub mod slice;
