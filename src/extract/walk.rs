//! A capture file packet by packet, with all that its file says of each: what is taken out goes on as it stands.
//!
//! Reads pcapng and pcap, in both byte orders, packed or not. Packets of link types that cannot be read have no inner
//! frame, and are asked for by time and interface alone.

use std::io::Read;
use std::rc::Rc;

use super::frames::DamagedPiece;
use crate::mirror::session_key::SessionKey;
use crate::pcap::blocks::{
    ENHANCED_PACKET, INTERFACE_DESCRIPTION, INTERFACE_STATISTICS, SECTION_HEADER, Section,
};
use crate::pcap::classic::{FILE_HEADER_LEN, FileHeader};
use crate::pcap::options::block;
use crate::pcap::options::{Options, number16, number32, put};
use crate::pcap::record::SNAPLEN;
use crate::source::window::Window;
use crate::wire::inner::Inner;
use crate::wire::outer::LinkType;

const MOST_RECORD_LEN: usize = 262_144;
const OPTION_IF_NAME: u16 = 2;
const OPTION_IF_DESCRIPTION: u16 = 3;
const OPTION_TSRESOL: u16 = 9;

/// Why a file cannot be read on.
#[derive(Debug, thiserror::Error)]
#[error("byte {offset}: {reason}")]
pub struct Damage {
    /// Byte of what is read: of the file, of its ranges, of what is unpacked.
    pub offset: u64,
    /// What is wrong.
    pub reason: String,
    /// A piece of a compressed file is, and no more than that.
    pub piece: Option<DamagedPiece>,
}

/// An interface of a file.
#[derive(Debug)]
pub struct Interface {
    /// The mirror session it stands for.
    pub session: SessionKey,
    /// Its description as it stands in the file, where that is little-endian pcapng.
    pub described: Option<Vec<u8>>,
    /// A description of the same, with times in nanoseconds.
    pub in_ns: Vec<u8>,
}

/// What is known of a packet before its frame is read.
#[derive(Clone, Copy, Debug)]
pub struct Outside {
    /// Nanoseconds since 1970.
    pub ts_ns: u64,
    /// Its mirror session.
    pub session: SessionKey,
    /// It arrived cut.
    pub is_cut: bool,
    /// Its bytes on the wire.
    pub orig_len: u32,
}

/// A packet of a file.
pub struct Packet<'a> {
    /// What is known of it without its frame.
    pub outside: Outside,
    /// What its bytes start with.
    pub link: LinkType,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Its bytes on the wire.
    pub orig_len: u32,
    /// Where its record or block begins; see [`Damage::offset`].
    pub offset: u64,
    /// Its interface.
    pub interface: &'a Rc<Interface>,
    /// Its block as it stands in the file, where that can go on as it is.
    pub whole: Option<&'a [u8]>,
    /// Its comments, as options for a little-endian file, where `whole` is not there.
    pub comments: Vec<u8>,
}

enum Kind {
    Pcap(FileHeader, LinkType),
    PcapNg(Section),
}

/// A file that is read.
pub struct Walk {
    window: Window,
    kind: Kind,
    big_endian: bool,
    interfaces: Vec<Rc<Interface>>,
    last_ns: u64,
    /// Secrets and names that were read and not taken.
    others: Vec<Vec<u8>>,
    /// Packets read.
    packets: u64,
}

impl Walk {
    /// Begins to read.
    ///
    /// # Errors
    ///
    /// When it is no capture.
    pub fn open(input: impl Read + Send + 'static) -> Result<Self, Damage> {
        let mut walk = Self {
            window: Window::new(input),
            kind: Kind::PcapNg(Section::default()),
            big_endian: false,
            interfaces: Vec::new(),
            last_ns: 0,
            others: Vec::new(),
            packets: 0,
        };
        walk.window.fill(FILE_HEADER_LEN);
        let ahead = walk.window.ahead();
        if ahead.starts_with(&SECTION_HEADER.to_be_bytes()) {
            return Ok(walk);
        }
        if ahead.is_empty() && !walk.window.has_error() {
            return Err(walk.damage("it is empty"));
        }
        if !FileHeader::is_magic(ahead) || ahead.len() < FILE_HEADER_LEN {
            let reason = walk.ended("the header of a capture file");
            return Err(match FileHeader::is_magic(walk.window.ahead()) {
                true => reason,
                false => walk.damage("it is neither pcapng nor pcap"),
            });
        }
        let header = FileHeader::read(ahead).map_err(|error| walk.damage(error.to_string()))?;
        let number = u16::try_from(header.link_type).unwrap_or(u16::MAX);
        let link = LinkType::from_number(header.link_type);
        let link = link.unwrap_or(LinkType::Unreadable(number));
        walk.kind = Kind::Pcap(header, link);
        walk.window.take(FILE_HEADER_LEN);
        let mut in_ns = Vec::new();
        describe(number, None, None, &mut in_ns);
        walk.interfaces.push(Rc::new(Interface {
            session: SessionKey::Plain,
            described: None,
            in_ns,
        }));
        Ok(walk)
    }

    /// Whether it is classic pcap, which keeps no mirror sessions.
    pub const fn is_classic(&self) -> bool {
        matches!(self.kind, Kind::Pcap(..))
    }

    /// Whether it is packed.
    pub fn packed(&self) -> Option<&'static str> {
        self.window.packed()
    }

    /// Packets read so far.
    pub const fn packets(&self) -> u64 {
        self.packets
    }

    /// Takes the blocks of secrets and names that came since.
    pub fn take_others(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.others)
    }

    fn damage(&self, reason: impl Into<String>) -> Damage {
        Damage {
            offset: self.window.offset(),
            reason: reason.into(),
            piece: None,
        }
    }

    /// Reads on behind a piece that is damaged; `false` where that is not possible.
    pub fn go_on(&mut self) -> bool {
        // Pieces hold whole blocks and records.
        self.window.ahead().is_empty() && self.window.go_on()
    }

    fn ended(&mut self, inside: &str) -> Damage {
        match self.window.take_error() {
            Some(error) => {
                let piece = error.get_ref();
                let piece = piece.and_then(|piece| piece.downcast_ref::<DamagedPiece>());
                Damage {
                    piece: piece.cloned(),
                    ..self.damage(format!("cannot read on: {error}"))
                }
            }
            None => self.damage(format!("the file ends inside {inside}")),
        }
    }

    /// The next packet, `None` at the end.
    ///
    /// # Errors
    ///
    /// Where the file is damaged; it cannot be read on.
    pub fn next_packet(&mut self) -> Result<Option<Packet<'_>>, Damage> {
        match self.kind {
            Kind::Pcap(header, link) => self.next_record(&header, link),
            Kind::PcapNg(_) => self.next_block(),
        }
    }

    fn next_record(
        &mut self,
        header: &FileHeader,
        link: LinkType,
    ) -> Result<Option<Packet<'_>>, Damage> {
        if self.window.is_done() {
            return Ok(None);
        }
        let offset = self.window.offset();
        if !self.window.fill(header.record_header_len) {
            return Err(self.ended("a record header"));
        }
        let record = header.record(self.window.ahead());
        let captured_len = record.captured_len as usize;
        if captured_len > MOST_RECORD_LEN {
            return Err(self.damage(format!("a record of {captured_len} bytes")));
        }
        let len = header.record_header_len + captured_len;
        if !self.window.fill(len) {
            return Err(self.ended("a record"));
        }
        self.packets += 1;
        let bytes = self.window.take(len);
        let bytes = bytes.get(header.record_header_len..).unwrap_or_default();
        let Some(interface) = self.interfaces.first() else {
            return Ok(None);
        };
        Ok(Some(Packet {
            outside: Outside {
                ts_ns: record.ts_ns,
                session: SessionKey::Plain,
                is_cut: record.orig_len > record.captured_len,
                orig_len: record.orig_len,
            },
            link,
            bytes,
            orig_len: record.orig_len.max(record.captured_len),
            offset,
            interface,
            whole: None,
            comments: Vec::new(),
        }))
    }

    fn next_block(&mut self) -> Result<Option<Packet<'_>>, Damage> {
        loop {
            if self.window.is_done() {
                return Ok(None);
            }
            if !self.window.fill(12) {
                return Err(self.ended("a block header"));
            }
            let Kind::PcapNg(section) = &mut self.kind else {
                return Ok(None);
            };
            let len = match section.block_len(self.window.ahead()) {
                Ok(len) => len,
                Err(error) => return Err(self.damage(error.to_string())),
            };
            if !self.window.fill(len) {
                return Err(self.ended("a block"));
            }
            let block = self.window.ahead().get(..len).unwrap_or_default();
            let packet = match section.read(block) {
                Ok(packet) => packet,
                Err(error) => return Err(self.damage(error.to_string())),
            };
            let offset = self.window.offset();
            let Some(packet) = packet else {
                self.note(len);
                self.window.take(len);
                continue;
            };
            let kind = number32(block, 0, self.big_endian);
            let whole = kind == ENHANCED_PACKET && !self.big_endian;
            let is_cut = (packet.has_comment
                && section.cut_comment(block, packet.options_at).is_some())
                || (!section.is_ours() && packet.orig_len as usize > packet.captured_len);
            let comments = match packet.has_comment && !whole {
                true => {
                    section
                        .comments(block, packet.interface, packet.options_at)
                        .0
                }
                false => Vec::new(),
            };
            let ts_ns = packet.ts_ns.unwrap_or(self.last_ns);
            self.last_ns = ts_ns;
            self.packets += 1;
            let block = self.window.take(len);
            let end = packet.at + packet.captured_len;
            // A packet of an interface that is not described was refused above.
            let Some(interface) = self.interfaces.get(packet.interface as usize) else {
                return Ok(None);
            };
            return Ok(Some(Packet {
                outside: Outside {
                    ts_ns,
                    session: interface.session,
                    is_cut,
                    orig_len: packet.orig_len,
                },
                link: packet.link,
                bytes: block.get(packet.at..end).unwrap_or_default(),
                orig_len: packet.orig_len,
                offset,
                interface,
                whole: whole.then_some(block),
                comments,
            }));
        }
    }

    /// Takes note of the block of `len` bytes ahead, which is no packet.
    #[cold]
    fn note(&mut self, len: usize) {
        let block = self.window.ahead().get(..len).unwrap_or_default();
        let Kind::PcapNg(section) = &self.kind else {
            return;
        };
        if block.starts_with(&SECTION_HEADER.to_be_bytes()) {
            self.big_endian = block.get(8..12) == Some(&[0x1a, 0x2b, 0x3c, 0x4d]);
            self.interfaces.clear();
            return;
        }
        match number32(block, 0, self.big_endian) {
            INTERFACE_DESCRIPTION => {
                let number = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
                let origin = section.origin(number);
                let origin = origin.map(|origin| (origin.source, origin.vni));
                let interface = interface_of(block, origin, self.big_endian);
                self.interfaces.push(Rc::new(interface));
            }
            INTERFACE_STATISTICS => {}
            _ => {
                let annotation = section.annotation(block);
                if annotation.is_some() && !self.big_endian {
                    self.others.push(block.to_vec());
                }
            }
        }
    }
}

fn interface_of(
    block: &[u8],
    origin: Option<(std::net::IpAddr, crate::wire::Vni)>,
    big_endian: bool,
) -> Interface {
    let (mut name, mut description) = (None, None);
    let options = block.get(16..).unwrap_or_default();
    for (code, value) in Options::new(options, big_endian) {
        match code {
            OPTION_IF_NAME => name = Some(value),
            OPTION_IF_DESCRIPTION => description = Some(value),
            _ => {}
        }
    }
    let session = match origin {
        Some((source, vni)) => SessionKey::Mirror { source, vni },
        None if name == Some(SessionKey::Other.interface_name().as_bytes()) => SessionKey::Other,
        None => SessionKey::Plain,
    };
    let mut in_ns = Vec::new();
    describe(
        number16(block, 8, big_endian),
        name,
        description,
        &mut in_ns,
    );
    Interface {
        session,
        described: (!big_endian).then(|| block.to_vec()),
        in_ns,
    }
}

/// Appends the description of an interface with times in nanoseconds.
fn describe(link: u16, name: Option<&[u8]>, description: Option<&[u8]>, out: &mut Vec<u8>) {
    block(INTERFACE_DESCRIPTION, out, |out| {
        out.extend_from_slice(&link.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&SNAPLEN.to_le_bytes());
        let texts = [(OPTION_IF_NAME, name), (OPTION_IF_DESCRIPTION, description)];
        for (code, text) in texts {
            if let Some(text) = text {
                put(code, text, out);
            }
        }
        put(OPTION_TSRESOL, &[9], out);
        put(0, &[], out);
    });
}

/// Reads the frame of a packet, whatever stands in front of its IP header: what was read, and its bytes from the
/// Ethernet header on; `scratch` is room for them.
pub fn read_frame<'a>(
    link: LinkType,
    bytes: &'a [u8],
    scratch: &'a mut Vec<u8>,
) -> (Inner, &'a [u8]) {
    if link == LinkType::Ethernet {
        return (Inner::read(bytes), bytes);
    }
    let Ok(stripped) = link.strip(bytes) else {
        return (Inner::default(), &[]);
    };
    scratch.clear();
    scratch.extend_from_slice(&[0; 6]);
    scratch.extend_from_slice(&stripped.src_mac.unwrap_or_default());
    scratch.extend_from_slice(&stripped.ether_type.to_be_bytes());
    scratch.extend_from_slice(stripped.payload);
    (Inner::read(scratch), scratch)
}
