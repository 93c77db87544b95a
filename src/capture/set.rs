//! The capture file on disk: takes batches from the workers, gives each mirror session its interface,
//! and ends with the statistics of each.
//!
//! Only this half of the room touches the disk. Every file is complete in itself: an interface is
//! described before its first packet.

use std::path::Path;
use std::time::Duration;

use hashbrown::HashMap;
use pcap_file::DataLink;
use pcap_file::Endianness;
use pcap_file::pcap::{PcapHeader, PcapTsResolution};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
};
use pcap_file::pcapng::blocks::interface_statistics::{
    InterfaceStatisticsBlock, InterfaceStatisticsOption,
};
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::{PcapNgBlock, PcapNgWriteError, PcapNgWriter};

use super::encode::{Batch, EPB, EPB_INTERFACE_AT, Format, SNAPLEN};
use crate::mirror::session::SessionKey;
use crate::outfile::{OutError, OutFile};

/// Why the capture cannot be written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum CaptureOutError {
    #[error(transparent)]
    Out(#[from] OutError),
    #[error("encoding a pcapng block: {0}")]
    Block(#[from] PcapNgWriteError),
    #[error("encoding the pcap header: {0}")]
    Header(#[from] pcap_file::pcap::PcapWriteError),
}

/// What the statistics block of an interface says, in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceStatistics {
    /// Frames of this mirror session received.
    pub received: u64,
    /// Datagrams the kernel dropped before anybody could tell their session: of the whole socket.
    pub kernel_dropped: u64,
    /// Frames that found no room in our queue.
    pub queue_dropped: u64,
    /// First and last packet, nanoseconds since 1970.
    pub first_ns: u64,
    /// Last packet.
    pub last_ns: u64,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Path of the file, or "standard output".
    pub path: String,
    /// Packets in it.
    pub packets: u64,
    /// Bytes of it.
    pub bytes: u64,
}

/// A capture file being written.
pub struct CaptureSet {
    out: OutFile,
    format: Format,
    /// Encodes the blocks that are not packets, and remembers the interfaces.
    blocks: Option<PcapNgWriter<Vec<u8>>>,
    interfaces: Vec<SessionKey>,
    by_key: HashMap<SessionKey, u32, foldhash::fast::RandomState>,
    /// For each worker, the file's number of each of its sessions.
    workers: Vec<Vec<u32>>,
    written: Vec<u64>,
    packets: u64,
    mtu: u32,
    /// A write failed: counts of interfaces are no longer those of the file.
    has_lost: bool,
}

impl CaptureSet {
    /// Begins a capture at `path` (`-` for standard output). `about` becomes the file's comment, `mtu`
    /// stands in the description of each interface.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn create(
        path: &Path,
        format: Format,
        about: &str,
        mtu: u32,
    ) -> Result<Self, CaptureOutError> {
        let mut set = Self {
            out: OutFile::create(path)?,
            format,
            blocks: None,
            interfaces: Vec::new(),
            by_key: HashMap::default(),
            workers: Vec::new(),
            written: Vec::new(),
            packets: 0,
            mtu,
            has_lost: false,
        };
        match set.write_header(about) {
            Ok(()) => Ok(set),
            Err(error) => {
                set.out.discard();
                Err(error)
            }
        }
    }

    fn write_header(&mut self, about: &str) -> Result<(), CaptureOutError> {
        match self.format {
            Format::PcapNg => {
                let section = SectionHeaderBlock {
                    endianness: Endianness::Little,
                    options: vec![
                        SectionHeaderOption::Hardware(std::env::consts::ARCH.into()),
                        SectionHeaderOption::OS(std::env::consts::OS.into()),
                        SectionHeaderOption::UserApplication(
                            concat!("vxtap ", env!("CARGO_PKG_VERSION")).into(),
                        ),
                        SectionHeaderOption::Common(CommonOption::Comment(about.into())),
                    ],
                    ..SectionHeaderBlock::default()
                };
                self.blocks = Some(PcapNgWriter::with_section_header(
                    Vec::new(),
                    section.into_owned(),
                )?);
                self.write_blocks()
            }
            Format::Pcap => {
                let header = PcapHeader {
                    snaplen: SNAPLEN,
                    datalink: DataLink::ETHERNET,
                    ts_resolution: PcapTsResolution::NanoSecond,
                    endianness: Endianness::Little,
                    ..PcapHeader::default()
                };
                let mut bytes = Vec::new();
                header.write_to(&mut bytes)?;
                Ok(self.out.write(&bytes)?)
            }
        }
    }

    /// Moves what the block encoder holds to the file.
    fn write_blocks(&mut self) -> Result<(), CaptureOutError> {
        if let Some(blocks) = &mut self.blocks {
            self.out.write(blocks.get_ref())?;
            blocks.get_mut().clear();
        }
        Ok(())
    }

    fn write_block<'a>(&mut self, block: impl PcapNgBlock<'a>) -> Result<(), CaptureOutError> {
        if let Some(blocks) = &mut self.blocks {
            blocks.write_pcapng_block(block)?;
        }
        self.write_blocks()
    }

    /// Writes the records of `batch`, which `worker` made. Interface numbers in it are replaced.
    ///
    /// # Errors
    ///
    /// When writing fails. The file is cut back to its last whole record where that is possible; the
    /// batch's records count as lost.
    pub fn write(&mut self, worker: usize, batch: &mut Batch) -> Result<(), CaptureOutError> {
        let whole = self.out.bytes();
        let outcome = self.try_write(worker, batch);
        if outcome.is_err() {
            // Interfaces described in what is cut off are gone with it, and so are their statistics.
            self.has_lost = true;
            let _ = self.out.cut_to(whole);
        }
        outcome
    }

    fn try_write(&mut self, worker: usize, batch: &mut Batch) -> Result<(), CaptureOutError> {
        if self.format == Format::Pcap {
            self.out.write(&batch.bytes)?;
            self.packets += batch.records;
            return Ok(());
        }
        while self.workers.len() <= worker {
            self.workers.push(Vec::new());
        }
        for new in std::mem::take(&mut batch.new_sessions) {
            let interface = self.interface(new.key)?;
            if let Some(numbers) = self.workers.get_mut(worker) {
                numbers.resize(numbers.len().max(new.id.0 as usize + 1), 0);
                if let Some(number) = numbers.get_mut(new.id.0 as usize) {
                    *number = interface;
                }
            }
        }
        let numbers = self
            .workers
            .get(worker)
            .map(Vec::as_slice)
            .unwrap_or_default();
        each_record(&mut batch.bytes, |record| {
            if let Some(field) = record
                .get_mut(EPB_INTERFACE_AT..)
                .and_then(<[u8]>::first_chunk_mut::<4>)
            {
                let number = numbers
                    .get(u32::from_le_bytes(*field) as usize)
                    .copied()
                    .unwrap_or_default();
                *field = number.to_le_bytes();
                if let Some(written) = self.written.get_mut(number as usize) {
                    *written += 1;
                }
            }
        });
        self.out.write(&batch.bytes)?;
        self.packets += batch.records;
        Ok(())
    }

    /// The file's number for a session, described in the file if it is new.
    fn interface(&mut self, key: SessionKey) -> Result<u32, CaptureOutError> {
        if let Some(number) = self.by_key.get(&key) {
            return Ok(*number);
        }
        let description = match key {
            SessionKey::Mirror { source, vni } => {
                format!("mirror vni={vni} src={source} mtu={}", self.mtu)
            }
            SessionKey::Plain => "packets that were not encapsulated".to_owned(),
            SessionKey::Other => "mirror sessions beyond the number kept apart".to_owned(),
        };
        self.describe(&key.interface_name(), &description)?;
        let number = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        self.interfaces.push(key);
        self.by_key.insert(key, number);
        self.written.push(0);
        Ok(number)
    }

    /// Writes an interface description. All have the same link type and snap length: libpcap refuses
    /// a file where they differ.
    fn describe(&mut self, name: &str, description: &str) -> Result<(), CaptureOutError> {
        let mut interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, SNAPLEN);
        interface.options = vec![
            InterfaceDescriptionOption::IfName(name.into()),
            InterfaceDescriptionOption::IfDescription(description.into()),
            InterfaceDescriptionOption::IfTsResol(InterfaceTsResolution::NANO),
        ];
        self.write_block(interface)
    }

    /// Ends the file: a statistics block for each interface, then its final name. `statistics` knows
    /// the counts of a session.
    ///
    /// # Errors
    ///
    /// When writing fails; the `.part` file stays.
    pub fn finish(
        mut self,
        statistics: impl Fn(SessionKey) -> Option<InterfaceStatistics>,
    ) -> Result<Written, CaptureOutError> {
        if self.format == Format::PcapNg && self.interfaces.is_empty() && !self.has_lost {
            // libpcap refuses a file that describes no interface, even one without packets.
            self.describe("none", "no mirrored packet arrived")?;
        }
        let whole = self.out.bytes();
        if self.has_lost {
            tracing::warn!("no interface statistics in a capture that could not be written whole");
        } else if let Err(error) = self.write_statistics(statistics) {
            // The packets are worth more than their statistics: a full disk takes the latter only.
            tracing::warn!(%error, "no interface statistics");
            self.out.cut_to(whole)?;
        }
        let written = Written {
            path: self.out.path().to_owned(),
            packets: self.packets,
            bytes: self.out.bytes(),
        };
        self.out.finish()?;
        Ok(written)
    }

    fn write_statistics(
        &mut self,
        statistics: impl Fn(SessionKey) -> Option<InterfaceStatistics>,
    ) -> Result<(), CaptureOutError> {
        let interfaces = std::mem::take(&mut self.interfaces);
        for (number, (key, written)) in interfaces
            .iter()
            .zip(std::mem::take(&mut self.written))
            .enumerate()
        {
            let Some(counts) = statistics(*key) else {
                continue;
            };
            let mut options = vec![
                InterfaceStatisticsOption::IsbStartTime(Duration::from_nanos(counts.first_ns)),
                InterfaceStatisticsOption::IsbEndTime(Duration::from_nanos(counts.last_ns)),
                InterfaceStatisticsOption::IsbIfRecv(counts.received),
                InterfaceStatisticsOption::IsbIfDrop(counts.kernel_dropped),
                InterfaceStatisticsOption::IsbFilterAccept(counts.received),
                InterfaceStatisticsOption::IsbOsDrop(counts.queue_dropped),
                InterfaceStatisticsOption::IsbUsrDeliv(written),
            ];
            if counts.kernel_dropped > 0 {
                let text = "ifdrop counts datagrams the kernel dropped for the whole socket, not this session alone";
                options.push(InterfaceStatisticsOption::Common(CommonOption::Comment(
                    text.into(),
                )));
            }
            self.write_block(InterfaceStatisticsBlock {
                interface_id: u32::try_from(number).unwrap_or(u32::MAX),
                timestamp: Duration::from_nanos(counts.last_ns),
                options,
            })?;
        }
        Ok(())
    }
}

/// Calls `each` with every block in `bytes`, which hold whole enhanced packet blocks.
fn each_record(mut bytes: &mut [u8], mut each: impl FnMut(&mut [u8])) {
    while let Some([kind @ .., l0, l1, l2, l3]) = bytes.first_chunk::<8>().copied() {
        let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if kind != EPB.to_le_bytes() || len < 12 {
            return;
        }
        let Some((record, rest)) = bytes.split_at_mut_checked(len) else {
            return;
        };
        each(record);
        bytes = rest;
    }
}
