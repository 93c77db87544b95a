//! The first frames of a file, read before it is known what to do with them.

use crate::source::Record;
use crate::source::file::{CaptureError, CaptureFile};
use crate::wire::outer::LinkType;

/// Frames of a file that are searched for VXLAN before the first one is sent.
const AHEAD_FRAMES: usize = 1000;

/// The first frames of a file, held because standard input can be read only once.
#[derive(Default)]
pub struct Ahead {
    pub records: Vec<Held>,
    /// The last of them is VXLAN.
    pub has_vxlan: bool,
    /// What stands behind them instead of more frames.
    pub fault: Option<CaptureError>,
}

pub struct Held {
    ts_ns: u64,
    link: LinkType,
    bytes: Vec<u8>,
    orig_len: u32,
}

impl Ahead {
    /// Reads up to the first frame that `is_vxlan`, [`AHEAD_FRAMES`] at the most.
    pub fn read(file: &mut CaptureFile, is_vxlan: impl Fn(&Record) -> bool) -> Self {
        let mut ahead = Self::default();
        while ahead.records.len() < AHEAD_FRAMES && !ahead.has_vxlan {
            let record = match file.next_record() {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(fault) => {
                    ahead.fault = Some(fault);
                    break;
                }
            };
            ahead.has_vxlan = is_vxlan(&record);
            ahead.records.push(Held {
                ts_ns: record.ts_ns,
                link: record.link,
                bytes: record.bytes.to_vec(),
                orig_len: record.orig_len,
            });
        }
        ahead
    }
}

impl Held {
    pub fn record(&self) -> Record<'_> {
        Record {
            ts_ns: self.ts_ns,
            link: self.link,
            bytes: &self.bytes,
            orig_len: self.orig_len,
            order: 0,
            told: None,
        }
    }
}
