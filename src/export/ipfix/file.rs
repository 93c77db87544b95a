//! A file of IPFIX messages, one behind the other (RFC 5655 calls it an IPFIX File; a collector reads the same over TCP).
//!
//! What describes templates and elements comes first, totals last. The time in the header of a message is the latest end
//! of a flow so far, not that of a clock: so a replay writes the same file every time.

use super::message::{Message, Session};
use super::{DOMAIN, Encoder, MESSAGE_LEN, Totals, encoder};
use crate::flow::record::FlowRecord;
use crate::outfile::{ItemFile, OutError, OutFile};

/// Bytes gathered before they are written.
const BUFFER_LEN: usize = 64 << 10;

/// Most bytes of memory.
pub const MEMORY_BYTES: usize = 2 * BUFFER_LEN + encoder::MEMORY_BYTES;

const NS: u64 = 1_000_000_000;

/// A file being written.
pub struct IpfixFile {
    file: ItemFile,
    encoder: Encoder,
    gathered: Gathered,
    is_begun: bool,
    has_totals: bool,
    /// Earliest beginning and latest end of the flows, nanoseconds since 1970.
    span: Option<(u64, u64)>,
}

/// Messages that are not in the file yet.
struct Gathered {
    session: Session,
    bytes: Vec<u8>,
    /// Bytes and flow records of each message.
    messages: Vec<(usize, u64)>,
    flows: u64,
    totals: Totals,
}

impl Gathered {
    fn add(&mut self, mut message: Message, at_ns: u64) {
        let export_s = u32::try_from(at_ns.div_ceil(NS)).unwrap_or(u32::MAX);
        self.session.stamp(&mut message, export_s);
        self.bytes.extend_from_slice(message.bytes());
        self.messages.push((message.bytes().len(), message.flows()));
        self.flows += message.flows();
        self.totals.messages += 1;
        self.totals.flows += message.flows();
        self.totals.bytes += message.bytes().len() as u64;
    }
}

impl IpfixFile {
    /// Begins in `file`, which is empty and stays so until there is a record.
    pub fn begin(file: ItemFile) -> Self {
        Self {
            file,
            encoder: Encoder::new(DOMAIN, MESSAGE_LEN),
            gathered: Gathered {
                session: Session::new(DOMAIN),
                bytes: Vec::with_capacity(BUFFER_LEN),
                messages: Vec::new(),
                flows: 0,
                totals: Totals::default(),
            },
            is_begun: false,
            has_totals: false,
            span: None,
        }
    }

    /// Adds a record. What cannot be written is counted as lost.
    pub fn write(&mut self, record: &FlowRecord) {
        if self.file.has_failed() {
            return self.file.lose(1);
        }
        let (begin, end) = (record.ts_start.0, record.ts_end.0);
        let (first, last) = self.span.unwrap_or((begin, end));
        self.span = Some((first.min(begin), last.max(end)));
        let Self {
            encoder, gathered, ..
        } = self;
        if !self.is_begun {
            self.is_begun = true;
            encoder.descriptions(0, &mut |message| gathered.add(message, end));
        }
        // What is full has only records before this one.
        let added = encoder.add(record, &mut |message| gathered.add(message, last));
        if added.is_err() {
            self.file.lose(1);
        }
        if self.gathered.bytes.len() >= BUFFER_LEN {
            self.write_gathered();
        }
    }

    /// Writes out what is gathered, so that it can be read. A failure is kept for [`Self::take_error`]; see
    /// [`ItemFile::write`].
    pub fn flush(&mut self) {
        let at_ns = self.span.map_or(0, |(_, last)| last);
        let Self {
            encoder, gathered, ..
        } = self;
        encoder.flush(&mut |message| gathered.add(message, at_ns));
        self.write_gathered();
    }

    /// Writes all that is gathered, and totals behind it. Nothing is added behind that.
    pub fn end(&mut self) {
        self.flush();
        let is_ended = std::mem::replace(&mut self.has_totals, true);
        if is_ended || !self.is_begun || self.file.has_failed() {
            return;
        }
        let at_ns = self.span.map_or(0, |(_, last)| last);
        let Self {
            encoder, gathered, ..
        } = self;
        let totals = Totals {
            not_sent: self.file.standing().lost,
            ..gathered.totals
        };
        encoder.totals(&totals, &mut |message| gathered.add(message, at_ns));
        self.write_gathered();
    }

    fn write_gathered(&mut self) {
        let Gathered {
            bytes,
            messages,
            flows,
            ..
        } = &mut self.gathered;
        if bytes.is_empty() {
            return;
        }
        self.file.write(bytes, std::mem::take(flows), |_, len| {
            whole_messages(messages, len)
        });
        bytes.clear();
        messages.clear();
    }

    /// Bytes that the file would have if it ended now, at the most.
    pub fn bytes_at_end(&self) -> u64 {
        const TOTALS_MESSAGE: usize = 16 + 4 + 52;
        let pending = self.gathered.bytes.len() + self.encoder.gathered() + TOTALS_MESSAGE;
        self.file.standing().bytes + pending as u64
    }

    /// See [`ItemFile::look_for_reader`].
    pub fn look_for_reader(&mut self) {
        self.file.look_for_reader();
    }

    /// The file, with what became of the records.
    pub const fn file(&self) -> &ItemFile {
        &self.file
    }

    /// Earliest beginning and latest end of the flows, nanoseconds since 1970.
    pub const fn span(&self) -> Option<(u64, u64)> {
        self.span
    }

    /// Brings what was written to the disk.
    ///
    /// # Errors
    ///
    /// As the system says.
    pub fn sync(&mut self) -> Result<(), OutError> {
        self.file.sync()
    }

    /// The file itself, to be ended.
    pub fn into_out(self) -> OutFile {
        self.file.into_out()
    }

    /// What went wrong, once.
    pub const fn take_error(&mut self) -> Option<OutError> {
        self.file.take_error()
    }
}

/// How much of the first `len` bytes of `messages` are whole ones: bytes, and flow records.
fn whole_messages(messages: &[(usize, u64)], len: usize) -> (usize, u64) {
    let mut whole = (0, 0);
    for (bytes, flows) in messages {
        if whole.0 + bytes > len {
            break;
        }
        whole = (whole.0 + bytes, whole.1 + flows);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_whole_or_not_there() {
        let messages = [(10, 1), (20, 0), (5, 3)];
        for (len, whole) in [
            (0, (0, 0)),
            (9, (0, 0)),
            (10, (10, 1)),
            (34, (30, 1)),
            (35, (35, 4)),
        ] {
            assert_eq!(whole_messages(&messages, len), whole, "{len}");
        }
    }
}
