//! The capture file on disk: takes batches from the workers, gives each mirror session its interface,
//! and ends with the statistics of each.
//!
//! Only this half of the room touches the disk. Every file is complete in itself: an interface is
//! described before its first packet.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hashbrown::HashMap;
use pcap_file::DataLink;
use pcap_file::Endianness;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
};
use pcap_file::pcapng::blocks::interface_statistics::{
    InterfaceStatisticsBlock, InterfaceStatisticsOption,
};
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::{PcapNgBlock, PcapNgWriteError, PcapNgWriter};

use crate::mirror::session::SessionKey;
use crate::outfile::{Creation, OutError, OutFile};
use crate::pcap::origin::Origin;
use crate::pcap::record::{BATCH_LEN, EPB_INTERFACE_AT, Format, NewSession, SNAPLEN, pcap_header};
use crate::wire::decapsulate::Tunnel;

/// Pieces from this size on are written at once, smaller ones are put together first.
const WRITE_AT_ONCE: usize = 32 << 10;

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

/// A session of a worker.
#[derive(Clone, Copy)]
struct Known {
    key: SessionKey,
    to: Option<(IpAddr, Tunnel)>,
    /// The file's number for it, once it is described there.
    number: Option<u32>,
}

/// How far a capture has come, for those who do not write it.
#[derive(Debug, Default)]
pub struct Settled {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Settled {
    /// Packets that are in the file for good.
    pub fn packets(&self) -> u64 {
        self.packets.load(Ordering::Relaxed)
    }

    /// Bytes of the file up to there.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// A capture file being written.
pub struct CaptureSet {
    out: OutFile,
    format: Format,
    /// Encodes the blocks that are not packets, and remembers the interfaces.
    blocks: Option<PcapNgWriter<Vec<u8>>>,
    interfaces: Vec<SessionKey>,
    by_key: HashMap<SessionKey, u32, foldhash::fast::RandomState>,
    /// For each worker, its sessions by its own numbers.
    workers: Vec<Vec<Known>>,
    /// Packets of each interface.
    written: Vec<u64>,
    /// Small pieces on their way to the file.
    buffer: Vec<u8>,
    /// Bytes and packets that are in the file for good; packets given since.
    whole: u64,
    packets: u64,
    unwritten: u64,
    mtu: u32,
    error: Option<CaptureOutError>,
    /// There was an error, taken or not.
    has_failed: bool,
    lost: u64,
    settled: Arc<Settled>,
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
        creation: Creation,
        format: Format,
        about: &str,
        mtu: u32,
    ) -> Result<Self, CaptureOutError> {
        let mut set = Self {
            out: OutFile::create_as(path, creation)?,
            format,
            blocks: None,
            interfaces: Vec::new(),
            by_key: HashMap::default(),
            workers: Vec::new(),
            written: Vec::new(),
            buffer: Vec::with_capacity(2 * BATCH_LEN),
            whole: 0,
            packets: 0,
            unwritten: 0,
            mtu,
            error: None,
            has_failed: false,
            lost: 0,
            settled: Arc::default(),
        };
        match set.write_header(about) {
            Ok(()) => {
                set.out.end_header();
                set.whole = set.out.bytes();
                Ok(set)
            }
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
                self.write_blocks();
                self.write_buffer()
            }
            Format::Pcap => Ok(self.out.write(&pcap_header()?)?),
        }
    }

    /// Moves what the block encoder holds to the buffer.
    fn write_blocks(&mut self) {
        if let Some(blocks) = &mut self.blocks {
            self.buffer.extend_from_slice(blocks.get_ref());
            blocks.get_mut().clear();
        }
    }

    fn write_block<'a>(&mut self, block: impl PcapNgBlock<'a>) -> Result<(), CaptureOutError> {
        if let Some(blocks) = &mut self.blocks {
            blocks.write_pcapng_block(block)?;
        }
        self.write_blocks();
        Ok(())
    }

    /// Takes the sessions that `worker` tells of.
    pub fn introduce(&mut self, worker: usize, new_sessions: &[NewSession]) {
        while self.workers.len() <= worker {
            self.workers.push(Vec::new());
        }
        if let Some(known) = self.workers.get_mut(worker) {
            for new in new_sessions {
                let session = |key, to| Known {
                    key,
                    to,
                    number: None,
                };
                let len = known.len().max(new.id.0 as usize + 1);
                known.resize(len, session(SessionKey::Other, None));
                if let Some(known) = known.get_mut(new.id.0 as usize) {
                    *known = session(new.key, new.to);
                }
            }
        }
    }

    /// Writes `records`, whole records that `worker` made, of the given lengths. Interface numbers in
    /// them are replaced.
    ///
    /// A failure is kept for [`Self::error`]; the file is cut back to its last whole record, and what
    /// is given from then on is counted in [`Self::lost`].
    pub fn append(
        &mut self,
        worker: usize,
        records: &mut [u8],
        lens: impl ExactSizeIterator<Item = u32>,
    ) {
        let count = lens.len() as u64;
        if self.has_failed {
            self.lost += count;
            return;
        }
        self.unwritten += count;
        let outcome = match self.format {
            Format::Pcap => self.gather(records),
            Format::PcapNg => self.append_blocks(worker, records, lens),
        };
        self.note(outcome);
    }

    /// Writes what is gathered, so that it can be read.
    pub fn flush(&mut self) {
        if !self.has_failed && !self.buffer.is_empty() {
            let outcome = self.write_buffer();
            self.note(outcome);
        }
    }

    /// Its name in messages.
    pub fn path(&self) -> &str {
        self.out.path()
    }

    /// Counts bytes brought to the disk at the end; see [`OutFile::synced`].
    pub fn synced(&self) -> Arc<AtomicU64> {
        self.out.synced()
    }

    /// How far it has come, kept up to date.
    pub fn settled(&self) -> Arc<Settled> {
        Arc::clone(&self.settled)
    }

    /// What went wrong, if something did.
    pub const fn error(&self) -> Option<&CaptureOutError> {
        self.error.as_ref()
    }

    /// What went wrong, if something did. The set still knows that it did.
    pub fn take_error(&mut self) -> Option<CaptureOutError> {
        self.has_failed |= self.error.is_some();
        self.error.take()
    }

    /// Packets that could not be written.
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// Settles what was written, or cuts the file back to what was settled before.
    fn note(&mut self, outcome: Result<(), CaptureOutError>) {
        match outcome {
            Ok(()) if self.buffer.is_empty() => {
                self.whole = self.out.bytes();
                self.packets += std::mem::take(&mut self.unwritten);
                self.settled.packets.store(self.packets, Ordering::Relaxed);
                self.settled.bytes.store(self.whole, Ordering::Relaxed);
            }
            Ok(()) => {}
            Err(error) => {
                self.lost += std::mem::take(&mut self.unwritten);
                self.buffer.clear();
                let _ = self.out.cut_to(self.whole);
                (self.error, self.has_failed) = (Some(error), true);
            }
        }
    }

    fn append_blocks(
        &mut self,
        worker: usize,
        records: &mut [u8],
        lens: impl Iterator<Item = u32>,
    ) -> Result<(), CaptureOutError> {
        let (mut from, mut at) = (0, 0);
        for len in lens {
            let session = records
                .get(at + EPB_INTERFACE_AT..)
                .and_then(<[u8]>::first_chunk::<4>);
            if let Some(session) = session {
                let session = u32::from_le_bytes(*session);
                let number = match self.known(worker, session).and_then(|known| known.number) {
                    Some(number) => number,
                    None => {
                        // It is described right before its first packet, wherever that comes from, so
                        // that the file does not depend on how batches were cut.
                        let before = records.get(from..at).unwrap_or_default();
                        let number = self.describe_session(worker, session, before)?;
                        from = at;
                        number
                    }
                };
                if number != session
                    && let Some(field) = records
                        .get_mut(at + EPB_INTERFACE_AT..)
                        .and_then(<[u8]>::first_chunk_mut::<4>)
                {
                    *field = number.to_le_bytes();
                }
                if let Some(written) = self.written.get_mut(number as usize) {
                    *written += 1;
                }
            }
            at += len as usize;
        }
        self.gather(records.get(from..).unwrap_or_default())
    }

    fn known(&mut self, worker: usize, session: u32) -> Option<&mut Known> {
        self.workers.get_mut(worker)?.get_mut(session as usize)
    }

    /// The file's number for a worker's session that comes up for the first time, with its description
    /// behind the records `before` if no other worker had it.
    fn describe_session(
        &mut self,
        worker: usize,
        session: u32,
        before: &[u8],
    ) -> Result<u32, CaptureOutError> {
        let known = self.known(worker, session).copied();
        let (key, to) = known.map_or((SessionKey::Other, None), |known| (known.key, known.to));
        self.gather(before)?;
        let number = self.interface(key, to)?;
        if let Some(known) = self.known(worker, session) {
            known.number = Some(number);
        }
        Ok(number)
    }

    /// Puts small pieces together and writes large ones at once.
    fn gather(&mut self, bytes: &[u8]) -> Result<(), CaptureOutError> {
        if bytes.len() < WRITE_AT_ONCE {
            self.buffer.extend_from_slice(bytes);
            return if self.buffer.len() >= BATCH_LEN {
                self.write_buffer()
            } else {
                Ok(())
            };
        }
        self.write_buffer()?;
        Ok(self.out.write(bytes)?)
    }

    fn write_buffer(&mut self) -> Result<(), CaptureOutError> {
        if !self.buffer.is_empty() {
            self.out.write(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// The file's number for a session, described in the file if it is new.
    fn interface(
        &mut self,
        key: SessionKey,
        to: Option<(IpAddr, Tunnel)>,
    ) -> Result<u32, CaptureOutError> {
        if let Some(number) = self.by_key.get(&key) {
            return Ok(*number);
        }
        let description = match key {
            SessionKey::Mirror { source, vni } => Origin {
                source,
                vni,
                mtu: self.mtu,
                to,
            }
            .description(),
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
        self.flush();
        // In a file that could not be written whole the interfaces' counts are wrong, and some may be
        // described in what was cut off.
        if !self.has_failed && self.format == Format::PcapNg {
            if self.interfaces.is_empty() {
                // libpcap refuses a file that describes no interface, even one without packets.
                self.describe("none", "no mirrored packet arrived")?;
            }
            let statistics = self
                .write_statistics(statistics)
                .and_then(|()| self.write_buffer());
            if let Err(error) = statistics {
                // The packets are worth more than their statistics: a full disk takes the latter only.
                tracing::warn!(%error, "no interface statistics");
                self.out.cut_to(self.whole)?;
            }
        }
        let (packets, bytes) = (self.packets, self.out.bytes());
        Ok(Written {
            path: self.out.finish()?,
            packets,
            bytes,
        })
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
