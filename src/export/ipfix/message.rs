//! IPFIX messages: a header and sets (RFC 7011 §3.1, §3.3).

/// Bytes of a message's header.
pub const HEADER_LEN: usize = 16;

/// Bytes of a set's header.
pub const SET_HEADER_LEN: usize = 4;

/// The set that holds templates.
pub const TEMPLATE_SET: u16 = 2;

/// The set that holds templates of options.
pub const OPTIONS_TEMPLATE_SET: u16 = 3;

/// Sets end at multiples of this.
const ALIGNMENT: usize = 4;

/// Of the protocol.
pub const VERSION: u16 = 10;

/// A whole message, but for what its session puts into its header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    bytes: Vec<u8>,
    /// Records of data sets, of flows and of options.
    data_records: u32,
    /// Flow records.
    flows: u32,
    /// Templates of flows.
    templates: u32,
    is_description: bool,
}

impl Message {
    /// What is sent.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Flow records in it.
    pub fn flows(&self) -> u64 {
        self.flows.into()
    }

    /// Templates of flow records in it.
    pub const fn templates(&self) -> usize {
        self.templates as usize
    }

    /// Whether it repeats what a new session has to know. Another session has another one.
    pub const fn is_description(&self) -> bool {
        self.is_description
    }

    /// The same as a description.
    pub fn describing(mut self) -> Self {
        self.is_description = true;
        self
    }
}

/// The messages of one observation domain on one connection, from one UDP port, or in one file (RFC 7011 §2, "Transport
/// Session"): what numbers them.
#[derive(Clone, Debug)]
pub struct Session {
    domain: u32,
    /// Data records so far.
    sequence: u32,
}

impl Session {
    /// Of the observation domain `domain`, without a message yet.
    pub const fn new(domain: u32) -> Self {
        Self {
            domain,
            sequence: 0,
        }
    }

    /// Writes the header of the next message, which leaves at `export_s` seconds since 1970. A message that goes out once
    /// more, in another session, gets another header.
    pub fn stamp(&mut self, message: &mut Message, export_s: u32) {
        let len = u16::try_from(message.bytes.len()).unwrap_or(u16::MAX);
        let mut header = [0; HEADER_LEN];
        let mut at = 0;
        for part in [
            VERSION.to_be_bytes().as_slice(),
            &len.to_be_bytes(),
            &export_s.to_be_bytes(),
            &self.sequence.to_be_bytes(),
            &self.domain.to_be_bytes(),
        ] {
            let end = at + part.len();
            if let Some(place) = header.get_mut(at..end) {
                place.copy_from_slice(part);
            }
            at = end;
        }
        if let Some(place) = message.bytes.get_mut(..HEADER_LEN) {
            place.copy_from_slice(&header);
        }
        self.sequence = self.sequence.wrapping_add(message.data_records);
    }
}

/// What a record counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// It is a template.
    Template,
    /// It describes flows or this exporter.
    Option,
    /// It is a flow.
    Flow,
}

/// A message being put together.
#[derive(Debug)]
pub struct Builder {
    most: usize,
    message: Message,
    /// The set that is open: its number, and where it begins.
    set: Option<(u16, usize)>,
}

impl Builder {
    /// Of messages of `most` bytes. A record that is longer has a longer message of its own.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            message: Message::default(),
            set: None,
        }
    }

    /// Whether records of these sets and lengths have room.
    pub fn has_room(&self, records: impl IntoIterator<Item = (u16, usize)>) -> bool {
        let mut len = self.message.bytes.len().max(HEADER_LEN);
        let mut open = self.set.map(|(set, _)| set);
        for (set, record) in records {
            if open != Some(set) {
                len = len.next_multiple_of(ALIGNMENT) + SET_HEADER_LEN;
                open = Some(set);
            }
            len += record;
        }
        len.next_multiple_of(ALIGNMENT) <= self.most
    }

    /// Adds a record to the set `set`.
    pub fn add(&mut self, set: u16, bytes: &[u8], is: Record) {
        if self.message.bytes.is_empty() {
            self.message.bytes.reserve(self.most);
            self.message.bytes.resize(HEADER_LEN, 0);
        }
        if self.set.is_none_or(|(open, _)| open != set) {
            self.end_set();
            self.set = Some((set, self.message.bytes.len()));
            self.message.bytes.extend_from_slice(&set.to_be_bytes());
            self.message.bytes.extend_from_slice(&[0; 2]);
        }
        self.message.bytes.extend_from_slice(bytes);
        self.message.data_records += u32::from(is != Record::Template);
        self.message.flows += u32::from(is == Record::Flow);
        self.message.templates += u32::from(set == TEMPLATE_SET);
    }

    /// The message so far, if there is one; the next record begins another.
    pub fn take(&mut self) -> Option<Message> {
        if self.message.bytes.is_empty() {
            return None;
        }
        self.end_set();
        // Many may be kept, and short ones take the room of short ones then.
        self.message.bytes.shrink_to_fit();
        Some(std::mem::take(&mut self.message))
    }

    /// Most bytes of a message.
    pub const fn most(&self) -> usize {
        self.most
    }

    /// Templates of flow records so far.
    pub const fn templates(&self) -> usize {
        self.message.templates()
    }

    /// Bytes so far.
    pub const fn bytes(&self) -> usize {
        self.message.bytes.len()
    }

    /// Pads the open set and writes its length: the next record begins another.
    pub fn end_set(&mut self) {
        let Some((_, begin)) = self.set.take() else {
            return;
        };
        let bytes = &mut self.message.bytes;
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        let len = u16::try_from(bytes.len() - begin).unwrap_or(u16::MAX);
        if let Some(place) = bytes.get_mut(begin + 2..begin + SET_HEADER_LEN) {
            place.copy_from_slice(&len.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7011 §3.1, byte by byte: version 10, length, export time, sequence number, observation domain; §3.3: set id,
    /// length with header and padding.
    #[test]
    fn a_message_by_hand() {
        let mut builder = Builder::new(100);
        builder.add(TEMPLATE_SET, &[1, 2, 3, 4], Record::Template);
        builder.add(256, &[9; 5], Record::Flow);
        builder.add(256, &[8; 5], Record::Flow);
        let mut message = builder.take().unwrap();
        let mut session = Session::new(0x0102_0304);
        session.sequence = u32::MAX;
        session.stamp(&mut message, 0x6553_f100);
        let by_hand = [
            &[
                0, 10, 0, 40, 0x65, 0x53, 0xf1, 0, 255, 255, 255, 255, 1, 2, 3, 4,
            ][..],
            &[0, 2, 0, 8, 1, 2, 3, 4],
            &[1, 0, 0, 16, 9, 9, 9, 9, 9, 8, 8, 8, 8, 8, 0, 0],
        ];
        assert_eq!(message.bytes(), by_hand.concat());
        assert_eq!(message.flows(), 2);
        // Two data records, modulo 2^32.
        assert_eq!(session.sequence, 1);
        assert_eq!(builder.take(), None);
    }

    #[test]
    fn templates_are_not_in_the_sequence() {
        let mut builder = Builder::new(100);
        builder.add(OPTIONS_TEMPLATE_SET, &[0; 4], Record::Template);
        builder.add(256, &[0; 4], Record::Option);
        let mut message = builder.take().unwrap();
        let mut session = Session::new(0);
        session.stamp(&mut message, 0);
        assert_eq!((session.sequence, message.flows()), (1, 0));
    }

    /// What has room fits, and what has none would not.
    #[test]
    fn room_is_what_it_takes() {
        for len in 0..=20 {
            let mut builder = Builder::new(48);
            builder.add(256, &[0; 5], Record::Flow);
            let has_room = builder.has_room([(2, 4), (256, len)]);
            builder.add(2, &[0; 4], Record::Template);
            builder.add(256, &vec![0; len], Record::Flow);
            let message = builder.take().unwrap();
            assert_eq!(message.bytes().len() <= 48, has_room, "{len}");
            assert_eq!(has_room, len <= 8, "{len}");
        }
        // The same set goes on without a header.
        let mut builder = Builder::new(32);
        builder.add(256, &[0; 4], Record::Flow);
        assert!(builder.has_room([(256, 8)]));
        assert!(!builder.has_room([(257, 8)]));
    }
}
