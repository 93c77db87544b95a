//! The pcap file that `--write` makes.

use std::path::Path;

use crate::failure::Failure;
use crate::outfile::{Creation, ItemFile, OutError, OutFile};
use crate::pcap::record::{Format, SNAPLEN, append_pcap};
use crate::pcap::section::{pcap_header, whole_prefix};
use crate::say::say;
use crate::send::encapsulate::{OuterHeaders, TooLarge};
use crate::send::write_fault;
use crate::stop::Stop;

/// Time between the copies that --loop writes.
const BETWEEN_COPIES_NS: u64 = 1_000_000;
/// Bytes handed to a file at a time.
const WRITE_LEN: usize = 256 << 10;

/// The file of --write: pcap, nanoseconds, little-endian, Ethernet.
pub struct PcapOut {
    file: ItemFile,
    /// Not written yet; nothing stands in front of it.
    header: Vec<u8>,
    /// Encoded and not handed to the file yet, and how many.
    bytes: Vec<u8>,
    waiting: u64,
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
        let mut header = Vec::new();
        pcap_header(&mut header);
        Ok(Self {
            file: ItemFile::new(OutFile::create_until(path, creation, stop)?),
            header,
            bytes: Vec::new(),
            waiting: 0,
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
        self.waiting += 1;
        if self.bytes.len() >= WRITE_LEN {
            self.flush()?;
        }
        Ok(true)
    }

    /// Hands over what waits. Where the disk takes a part of it, the file ends with its last whole packet.
    fn flush(&mut self) -> Result<(), OutError> {
        let header = std::mem::take(&mut self.header);
        self.file.write(&header, 0, |_, _| (0, 0));
        self.file.write(&self.bytes, self.waiting, |bytes, len| {
            whole_prefix(Format::Pcap, bytes, len)
        });
        self.bytes.clear();
        self.waiting = 0;
        self.file.take_error().map_or(Ok(()), Err)
    }

    /// Ends the file. Where `outcome` is a fault, what was written before it is kept.
    pub fn close(mut self, mut outcome: Result<(), Failure>) -> Result<(), Failure> {
        if outcome.is_err() && self.packets == 0 {
            self.file.into_out().discard();
            return outcome;
        }
        if write_fault(&outcome).is_none()
            && let Err(error) = self.flush()
        {
            outcome = Err(error.into());
        }
        let Some(fault) = write_fault(&outcome) else {
            self.file.into_out().finish()?;
            return outcome;
        };
        let (written, path) = (self.file.standing().written, self.file.path().to_owned());
        let is_closed_pipe = fault.is_closed_pipe();
        if written == 0 || is_closed_pipe {
            self.file.into_out().discard();
            return outcome;
        }
        self.file.into_out().finish()?;
        say(format!(
            "vxtap: {} whole in {path}; the others are missing\n",
            match written {
                1 => "1 packet is".to_owned(),
                written => format!("{written} packets are"),
            }
        ));
        outcome
    }
}
