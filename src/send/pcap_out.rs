//! The pcap file that `--write` makes.

use std::path::Path;

use crate::failure::Failure;
use crate::outfile::{Creation, OutError, OutFile};
use crate::pcap::record::{SNAPLEN, append_pcap};
use crate::pcap::section::pcap_header;
use crate::send::encapsulate::{OuterHeaders, TooLarge};
use crate::send::write_fault;
use crate::stop::Stop;

/// Time between the copies that --loop writes.
const BETWEEN_COPIES_NS: u64 = 1_000_000;
/// Bytes handed to a file at a time.
const WRITE_LEN: usize = 256 << 10;

/// The file of --write: pcap, nanoseconds, little-endian, Ethernet.
pub struct PcapOut {
    out: OutFile,
    /// Encoded and not handed to the file yet.
    bytes: Vec<u8>,
    /// The packet of a datagram, kept for its room.
    packet: Vec<u8>,
    packets: u64,
    /// Earliest and latest recorded time.
    times_ns: (u64, u64),
    /// Added to the times of this copy of the input.
    shift_ns: u64,
}

impl PcapOut {
    pub fn create(path: &Path, creation: Creation, stop: &Stop) -> Result<Self, Failure> {
        let mut bytes = Vec::new();
        pcap_header(&mut bytes);
        Ok(Self {
            out: OutFile::create_until(path, creation, stop)?,
            bytes,
            packet: Vec::new(),
            packets: 0,
            times_ns: (u64::MAX, 0),
            shift_ns: 0,
        })
    }

    /// Moves the times of the next copy of the input behind those of the last.
    pub fn begin_copy(&mut self) {
        let (first, last) = self.times_ns;
        let copy_ns = last.saturating_sub(first).saturating_add(BETWEEN_COPIES_NS);
        self.shift_ns = self.shift_ns.saturating_add(copy_ns);
    }

    /// Writes a datagram that had `carried_len` bytes, of which `payload` is here; `false` when it is
    /// too large.
    pub fn put_datagram(
        &mut self,
        ts_ns: u64,
        headers: OuterHeaders,
        payload: &[u8],
        carried_len: usize,
    ) -> Result<bool, OutError> {
        let mut packet = std::mem::take(&mut self.packet);
        packet.clear();
        let fits = match headers.append_to(carried_len, &mut packet) {
            Ok(()) => {
                // At most 65535 bytes and the headers.
                let orig_len = (packet.len() + carried_len) as u32;
                packet.extend_from_slice(payload);
                self.put(ts_ns, &packet, orig_len)
            }
            Err(TooLarge) => Ok(false),
        };
        self.packet = packet;
        fits
    }

    /// Writes a packet that had `orig_len` bytes; `false` when it is too large.
    pub fn put(&mut self, ts_ns: u64, packet: &[u8], orig_len: u32) -> Result<bool, OutError> {
        let captured_len = match u32::try_from(packet.len()) {
            Ok(len) if len <= SNAPLEN => len,
            _ => return Ok(false),
        };
        let (first, last) = self.times_ns;
        self.times_ns = (first.min(ts_ns), last.max(ts_ns));
        let ts_ns = ts_ns.saturating_add(self.shift_ns);
        append_pcap(ts_ns, packet, captured_len, orig_len, &mut self.bytes);
        self.packets += 1;
        if self.bytes.len() >= WRITE_LEN {
            self.out.write(&self.bytes)?;
            self.bytes.clear();
        }
        Ok(true)
    }

    /// Ends the file. Where `outcome` is a fault of the input, what was written before it is kept.
    pub fn close(mut self, outcome: Result<(), Failure>) -> Result<(), Failure> {
        let nothing = outcome.is_err() && self.packets == 0;
        if nothing || write_fault(&outcome).is_some() {
            self.out.discard();
            return outcome;
        }
        if let Err(error) = self.out.write(&self.bytes) {
            self.out.discard();
            return Err(error.into());
        }
        self.out.finish()?;
        outcome
    }
}
