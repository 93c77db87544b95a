//! Packets of a capture that are several datagrams in one, taken apart before the workers see them.
//!
//! Each datagram becomes a packet of its own, as it would have been on the wire: the headers of the whole,
//! with its own lengths. So workers, and the choice among them, know nothing of trains.

use crate::pipeline::ledger::Noted;
use crate::source::file::{CaptureError, CaptureFile};
use crate::source::{Arrival, Progress, Record, Source};
use crate::wire::decapsulate::Tunnels;
use crate::wire::outer::{self, BehindUdp};
use crate::wire::train::{self, Found};

/// Takes trains apart and counts them.
#[derive(Default)]
pub struct Apart {
    tunnels: Tunnels,
    /// A datagram with its headers.
    scratch: Vec<u8>,
    /// Packets taken apart.
    trains: u64,
    /// Datagrams of them that the capture did not store.
    not_stored: u64,
    /// Packets that may be trains.
    unproven: u64,
}

impl Apart {
    /// For packets in these tunnels.
    pub fn new(tunnels: Tunnels) -> Self {
        Self {
            tunnels,
            ..Self::default()
        }
    }

    /// What was seen, for the ledger.
    pub const fn notes(&self) -> [(Noted, u64); 3] {
        [
            (Noted::OuterTrain, self.trains),
            (Noted::OuterTrainCut, self.not_stored),
            (Noted::OuterTrainUnproven, self.unproven),
        ]
    }

    /// Hands on the datagrams in `record`, each as a record of its own, at the places behind it; `false` when it
    /// holds one at the most, and nothing was handed on.
    #[inline]
    pub fn hand_on_pieces(
        &mut self,
        record: &Record<'_>,
        mut each: impl FnMut(Record<'_>),
    ) -> bool {
        !train::is_one_record(record.link, record.bytes, record.orig_len as usize)
            && self.take_apart(record, &mut each)
    }

    /// As [`Self::hand_on_pieces`], by all that is in the record.
    #[cold]
    fn take_apart(&mut self, record: &Record<'_>, each: &mut impl FnMut(Record<'_>)) -> bool {
        let mut unproven = false;
        // The IP header may say how much there is, or leave it at one datagram.
        for believe_ip in [true, false] {
            let orig_len = record.orig_len as usize;
            let behind = outer::behind_udp(record.link, record.bytes, orig_len, believe_ip);
            let Some(behind) = behind else {
                break;
            };
            let Some(tunnel) = self.tunnels.at_port(behind.dst_port) else {
                break;
            };
            let BehindUdp {
                bytes, whole_len, ..
            } = behind;
            match train::look(&self.tunnels, tunnel, bytes, whole_len) {
                Found::Train(segment) => {
                    self.hand_on_train(record, &behind, segment, each);
                    return true;
                }
                Found::Unproven => unproven = true,
                Found::One => {}
            }
        }
        self.unproven += u64::from(unproven);
        false
    }

    fn hand_on_train(
        &mut self,
        record: &Record<'_>,
        behind: &BehindUdp<'_>,
        segment: usize,
        each: &mut impl FnMut(Record<'_>),
    ) {
        self.trains += 1;
        let starts = (0..behind.whole_len).step_by(segment);
        for (number, at) in (0..).zip(starts) {
            let len = segment.min(behind.whole_len - at);
            let here = behind.bytes.get(at..).unwrap_or_default();
            if here.is_empty() {
                self.not_stored += 1;
                continue;
            }
            let here = here.get(..len).unwrap_or(here);
            let headers_len = behind.write_headers(record.bytes, len, &mut self.scratch);
            self.scratch.extend_from_slice(here);
            each(Record {
                bytes: &self.scratch,
                orig_len: u32::try_from(headers_len + len).unwrap_or(u32::MAX),
                order: record.order + number,
                ..*record
            });
        }
    }
}

/// A capture file whose trains are taken apart.
pub struct ApartFile<'a> {
    /// The file.
    pub file: &'a mut CaptureFile,
    /// Takes them apart.
    pub apart: &'a mut Apart,
}

impl Source for ApartFile<'_> {
    type Error = CaptureError;

    fn next_batch(
        &mut self,
        most: usize,
        mut each: impl FnMut(Arrival<'_>),
    ) -> Result<Progress, CaptureError> {
        let Self { file, apart } = self;
        file.next_batch(most, |arrival| {
            let in_pieces = match &arrival {
                Arrival::Record(record) => {
                    apart.hand_on_pieces(record, |piece| each(Arrival::Record(piece)))
                }
                _ => false,
            };
            if !in_pieces {
                each(arrival);
            }
        })
    }
}
