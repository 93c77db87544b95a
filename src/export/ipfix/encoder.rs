//! Flow records into messages.

use super::message::{Builder, Message, OPTIONS_TEMPLATE_SET, Record, TEMPLATE_SET};
use super::options::{self, TOTALS, TYPES, Totals};
use super::template::{self, Id, Templates};
use super::{MESSAGE_LEN, fields};
use crate::flow::record::FlowRecord;

/// Most bytes of memory: templates, and a message being put together.
pub const MEMORY_BYTES: usize = template::MEMORY_BYTES + 2 * MESSAGE_LEN;

/// There are no numbers left for another template: a record has a set of fields that none before it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are no template numbers left")]
pub struct NoTemplate;

/// Puts flow records and what describes them into messages. What it gathers goes on when it is full or
/// [`Self::flush`]ed; whoever takes a message has its [`super::Session`] number it.
#[derive(Debug)]
pub struct Encoder {
    domain: u32,
    templates: Templates,
    gathered: Builder,
    /// Values of one record.
    values: Vec<u8>,
}

impl Encoder {
    /// For the observation domain `domain`, with messages of `most` bytes.
    pub fn new(domain: u32, most: usize) -> Self {
        Self {
            domain,
            templates: Templates::default(),
            gathered: Builder::new(most),
            values: Vec::new(),
        }
    }

    /// Adds a record, behind its template where that is new. Messages that became full go to `out`.
    ///
    /// # Errors
    ///
    /// [`NoTemplate`]; nothing is added then.
    pub fn add(
        &mut self,
        record: &FlowRecord,
        out: &mut impl FnMut(Message),
    ) -> Result<(), NoTemplate> {
        self.values.clear();
        let present = fields::write(record, &mut self.values);
        let id = match self.templates.id(present).ok_or(NoTemplate)? {
            Id::Known(id) => id,
            Id::New(id) => {
                let template = template::record(id, present);
                let both = [(TEMPLATE_SET, template.len()), (id, self.values.len())];
                if !self.gathered.has_room(both) {
                    self.flush(out);
                }
                self.gathered.add(TEMPLATE_SET, &template, Record::Template);
                id
            }
        };
        if !self.gathered.has_room([(id, self.values.len())]) {
            self.flush(out);
        }
        self.gathered.add(id, &self.values, Record::Flow);
        Ok(())
    }

    /// Hands what is gathered to `out`.
    pub fn flush(&mut self, out: &mut impl FnMut(Message)) {
        if let Some(message) = self.gathered.take() {
            out(message);
        }
    }

    /// Bytes gathered.
    pub const fn gathered(&self) -> usize {
        self.gathered.bytes()
    }

    /// All templates so far but for the last `but`, and what the elements of our enterprise are, for a collector that knows
    /// nothing yet: in messages of their own, to be sent before anything else of a session.
    pub fn descriptions(&self, but: usize, out: &mut dyn FnMut(Message)) {
        let mut builder = Builder::new(self.gathered.most());
        let mut add = |set: u16, bytes: &[u8], is: Record| {
            if !builder.has_room([(set, bytes.len())])
                && let Some(message) = builder.take()
            {
                out(message.describing());
            }
            builder.add(set, bytes, is);
            if set == OPTIONS_TEMPLATE_SET {
                // A set for each: nfacctd (pmacct 1.7.7) takes a second one in the same set for malformed.
                builder.end_set();
            }
        };
        for record in options::templates() {
            add(OPTIONS_TEMPLATE_SET, &record, Record::Template);
        }
        for record in options::types() {
            add(TYPES, &record, Record::Option);
        }
        for record in self.templates.records(but + self.gathered.templates()) {
            add(TEMPLATE_SET, &record, Record::Template);
        }
        if let Some(message) = builder.take() {
            out(message.describing());
        }
    }

    /// A message with `totals`. Its template is among [`Self::descriptions`].
    pub fn totals(&self, totals: &Totals, out: &mut impl FnMut(Message)) {
        let mut builder = Builder::new(self.gathered.most());
        builder.add(TOTALS, &totals.record(self.domain), Record::Option);
        if let Some(message) = builder.take() {
            out(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{HEADER_LEN, Session};
    use super::super::read::{Reader, message_len, span};
    use super::super::{UDP_MESSAGE_LEN, fields};
    use super::*;
    use crate::flow::first::Place;

    /// Messages of `records`, numbered.
    fn encoded(records: &[FlowRecord], most: usize) -> Vec<Message> {
        let mut encoder = Encoder::new(7, most);
        let mut messages = Vec::new();
        encoder.descriptions(0, &mut |message| messages.push(message));
        for record in records {
            encoder
                .add(record, &mut |message| messages.push(message))
                .unwrap();
        }
        encoder.flush(&mut |message| messages.push(message));
        let mut session = Session::new(7);
        messages
            .iter_mut()
            .for_each(|message| session.stamp(message, 1));
        messages
    }

    fn samples() -> Vec<FlowRecord> {
        let vary = |n: u64| FlowRecord {
            vlan: (!n.is_multiple_of(5)).then_some(4),
            src_mac: (!n.is_multiple_of(7)).then_some([2; 6]),
            place: None,
            ..FlowRecord::sample(n)
        };
        (0..500).map(vary).collect()
    }

    #[test]
    fn messages_are_short_and_their_records_come_back() {
        let records = samples();
        for most in [UDP_MESSAGE_LEN, MESSAGE_LEN] {
            let mut reader = Reader::default();
            let mut read = Vec::new();
            for message in encoded(&records, most) {
                let bytes = message.bytes();
                assert!(bytes.len() <= most && bytes.len() % 4 == 0);
                assert_eq!(message_len(bytes.first_chunk().unwrap()), Some(bytes.len()));
                let before = read.len();
                let found = |values: &[(_, &[u8])]| {
                    let bytes: Vec<&[u8]> = values.iter().map(|(_, value)| *value).collect();
                    read.push((span(values), bytes.concat()));
                };
                assert_eq!(reader.message(bytes, found), Ok(()));
                assert_eq!((read.len() - before) as u64, message.flows());
            }
            assert_eq!(read.len(), records.len());
            for (record, (span, _)) in records.iter().zip(&read) {
                assert_eq!(*span, Some((record.ts_start.0, record.ts_end.0)));
            }
            // Nothing but the lengths of texts is missing.
            let mut values = Vec::new();
            fields::write(&records[0], &mut values);
            let texts = crate::flow::columns::COLUMNS.iter().filter(|column| {
                matches!(
                    column.value(&records[0]),
                    Some(crate::flow::columns::Value::Text(_))
                )
            });
            assert_eq!(read[0].1.len(), values.len() - texts.count());
        }
    }

    /// RFC 7011 §3.1: data records before this message, those of options included, templates not.
    #[test]
    fn sequence_numbers_count_data_records() {
        let messages = encoded(&samples(), UDP_MESSAGE_LEN);
        let types = options::types().count() as u64;
        let mut before = 0;
        for message in &messages {
            let sequence = u32::from_be_bytes(message.bytes()[8..12].try_into().unwrap());
            if message.flows() > 0 {
                assert_eq!(u64::from(sequence), types + before);
            }
            before += message.flows();
            assert_eq!(message.bytes()[12..16], [0, 0, 0, 7]);
        }
        assert_eq!(before, 500);
    }

    /// A record that no message of the usual length holds has a longer one of its own.
    #[test]
    fn a_long_record_has_a_message_of_its_own() {
        let mut records = samples();
        let long = "n".repeat(600);
        records[1].place = Some(Place::new(long.as_str().into(), 1));
        let messages = encoded(&records[..3], 600);
        let longer = messages
            .iter()
            .filter(|message| message.bytes().len() > 600);
        assert_eq!(longer.map(Message::flows).collect::<Vec<_>>(), [1]);
        assert_eq!(messages.iter().map(Message::flows).sum::<u64>(), 3);
    }

    /// For a new session all templates come in front; they are those that the records behind were written with.
    #[test]
    fn descriptions_have_every_template() {
        let records = samples();
        let mut encoder = Encoder::new(7, UDP_MESSAGE_LEN);
        let mut data = Vec::new();
        for record in &records {
            encoder
                .add(record, &mut |message| data.push(message))
                .unwrap();
        }
        encoder.flush(&mut |message| data.push(message));
        let mut reader = Reader::default();
        encoder.descriptions(0, &mut |message| {
            assert!(message.bytes().len() <= UDP_MESSAGE_LEN && message.flows() == 0);
            reader.message(message.bytes(), |_| {}).unwrap();
        });
        let mut found = 0;
        // The last one has no new template.
        let last = data.last().unwrap();
        reader.message(last.bytes(), |_| found += 1).unwrap();
        assert_eq!(found, last.flows());
    }

    /// However a file is cut: never a panic, and no more records than there are.
    #[test]
    fn what_is_cut_is_not_a_message() {
        let messages = encoded(&samples()[..20], UDP_MESSAGE_LEN);
        for message in &messages {
            for len in 0..message.bytes().len() {
                let mut found = 0;
                let mut reader = Reader::default();
                let _ = reader.message(&message.bytes()[..len], |_| found += 1);
                assert!(found <= message.flows());
            }
        }
        assert_eq!(message_len(&[0; HEADER_LEN]), None);
    }
}
