//! The pcapng that packets are taken into.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::rc::Rc;

use sha2::{Digest, Sha256};

use super::walk::{Interface, Packet};
use crate::outfile::{Creation, OutError, OutFile};
use crate::pcap::blocks::ENHANCED_PACKET;
use crate::pcap::options::{block, number32, put};
use crate::pcap::record::{EPB_INTERFACE_AT, Format};
use crate::pcap::section::{self, About, Section};
use crate::stop::Stop;
use crate::wire::outer::LinkType;

/// Bytes gathered before they are written.
const GATHERED: usize = 1 << 20;

/// Interfaces of files that are remembered.
const MOST_KNOWN: usize = 1 << 16;

/// A packet on its way out.
pub struct Taken {
    /// Nanoseconds since 1970.
    pub ts_ns: u64,
    /// Its file among those that are read, and its place there.
    pub place: (usize, u64),
    /// It fits what else is asked for beside its flow.
    pub fits: bool,
    /// An enhanced packet block, the interface still to be filled in.
    pub block: Vec<u8>,
    /// Its interface.
    pub interface: Rc<Interface>,
    /// What its bytes start with.
    pub link: LinkType,
    /// Times are in nanoseconds, not in the interface's own unit.
    in_ns: bool,
    /// Secrets and names that come before it.
    pub others: Vec<Vec<u8>>,
}

impl Taken {
    /// Copies a packet of the file numbered `file` at the place `at` there.
    pub fn of(packet: &Packet<'_>, file: usize, at: u64) -> Self {
        let (mut block, mut in_ns) = (Vec::new(), false);
        match packet
            .whole
            .filter(|_| packet.interface.described.is_some())
        {
            Some(whole) => block.extend_from_slice(whole),
            None => {
                in_ns = true;
                encode(packet, &mut block);
            }
        }
        Self {
            ts_ns: packet.outside.ts_ns,
            place: (file, at),
            fits: true,
            block,
            interface: Rc::clone(packet.interface),
            link: packet.link,
            in_ns,
            others: Vec::new(),
        }
    }

    /// Its bytes, and their number on the wire.
    pub fn bytes(&self) -> (&[u8], u32) {
        let captured_len = number32(&self.block, 20, false) as usize;
        let bytes = self.block.get(28..28 + captured_len).unwrap_or_default();
        (bytes, number32(&self.block, 24, false))
    }

    const fn order(&self) -> (u64, (usize, u64)) {
        (self.ts_ns, self.place)
    }
}

impl PartialEq for Taken {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Taken {}

impl PartialOrd for Taken {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Taken {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

fn encode(packet: &Packet<'_>, out: &mut Vec<u8>) {
    let ts_ns = packet.outside.ts_ns;
    let len = u32::try_from(packet.bytes.len()).unwrap_or(u32::MAX);
    block(ENHANCED_PACKET, out, |out| {
        let words = [
            0,
            (ts_ns >> 32) as u32,
            ts_ns as u32,
            len,
            packet.orig_len.max(len),
        ];
        out.extend_from_slice(words.map(u32::to_le_bytes).as_flattened());
        out.extend_from_slice(packet.bytes);
        let padding = packet.bytes.len().wrapping_neg() % 4;
        out.extend_from_slice([0; 3].get(..padding).unwrap_or_default());
        if !packet.comments.is_empty() {
            out.extend_from_slice(&packet.comments);
            put(0, &[], out);
        }
    });
}

/// The file being written.
pub struct Output {
    out: OutFile,
    section: Section,
    buffer: Vec<u8>,
    /// Numbers of interfaces, by their description.
    numbers: HashMap<Vec<u8>, u32>,
    /// The same by the place in memory of the description of a file being read, which is held so that nothing else
    /// gets that place.
    known: HashMap<(*const Interface, bool), (u32, Rc<Interface>)>,
    /// Packets, earliest, latest of each interface.
    counts: Vec<(u64, u64, u64)>,
    /// Secrets and names that are in the file.
    others: HashSet<[u8; 32]>,
}

impl Output {
    /// Begins the file with its comment.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn create(
        path: &Path,
        creation: Creation,
        comment: String,
        stop: &Stop,
    ) -> Result<Self, OutError> {
        let mut out = OutFile::create_until(path, creation, stop)?;
        let about = About {
            comments: vec![comment],
            mtu: 0,
            inventory: std::sync::Arc::default(),
        };
        let mut buffer = Vec::with_capacity(2 * GATHERED);
        let section = Section::begin(Format::PcapNg, &about, &mut buffer);
        if let Err(error) = out.write(&buffer) {
            out.discard();
            return Err(error);
        }
        out.end_header();
        buffer.clear();
        Ok(Self {
            out,
            section,
            buffer,
            numbers: HashMap::new(),
            known: HashMap::new(),
            counts: Vec::new(),
            others: HashSet::new(),
        })
    }

    /// Writes a packet.
    ///
    /// # Errors
    ///
    /// As the system says.
    pub fn put(&mut self, mut packet: Taken) -> Result<(), OutError> {
        for block in &packet.others {
            if self.others.insert(Sha256::digest(block).into()) {
                self.buffer.extend_from_slice(block);
            }
        }
        let number = self.number(&packet);
        if let Some(field) = packet.block.get_mut(EPB_INTERFACE_AT..EPB_INTERFACE_AT + 4) {
            field.copy_from_slice(&number.to_le_bytes());
        }
        if let Some((packets, first, last)) = self.counts.get_mut(number as usize) {
            *packets += 1;
            *first = packet.ts_ns.min(*first);
            *last = packet.ts_ns.max(*last);
        }
        self.buffer.extend_from_slice(&packet.block);
        if self.buffer.len() >= GATHERED {
            self.out.write(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    fn number(&mut self, packet: &Taken) -> u32 {
        let interface = &packet.interface;
        let place = (Rc::as_ptr(interface), packet.in_ns);
        if let Some((number, _)) = self.known.get(&place) {
            return *number;
        }
        let description = match &interface.described {
            Some(described) if !packet.in_ns => described,
            _ => &interface.in_ns,
        };
        let next = u32::try_from(self.counts.len()).unwrap_or(u32::MAX);
        let number = match self.numbers.get(description) {
            Some(number) => *number,
            None => next,
        };
        if number == next {
            self.numbers.insert(description.clone(), number);
            self.buffer.extend_from_slice(description);
            self.counts.push((0, u64::MAX, 0));
        }
        if self.known.len() >= MOST_KNOWN {
            self.known.clear();
        }
        self.known.insert(place, (number, Rc::clone(interface)));
        number
    }

    /// Ends the file with its statistics and gives it its name.
    ///
    /// # Errors
    ///
    /// As the system says.
    pub fn finish(mut self) -> Result<String, OutError> {
        for (number, (packets, first, last)) in (0..).zip(&self.counts) {
            section::recovered(number, *packets, *first, *last, &mut self.buffer);
        }
        if self.counts.is_empty() {
            self.section.end(0, &mut self.buffer);
        }
        self.out.write(&self.buffer)?;
        self.out.finish()
    }
}
