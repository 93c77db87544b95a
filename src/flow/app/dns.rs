//! DNS: the name of the first question, and the answer code (RFC 1035 §4.1).
//!
//! The crate `domain` reads the message where it lies, question by question: it asks for no memory, and a message that
//! is cut behind its question is as good as a whole one.

use domain::base::Message;
use domain::base::wire::ParseError;

use super::name::Name;

/// What a DNS message tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    /// Tells which answer belongs to which query.
    id: u16,
    /// The name of the first question.
    pub query: Option<Name>,
    /// Response code: 0 no error, 3 no such name (RFC 6895 §2.3); of answers only.
    pub rcode: Option<u8>,
}

impl Dns {
    /// Reads a message from its header on. One of multicast DNS has several questions at times, and its answer code
    /// says nothing (RFC 6762 §18.11). `None` where it is something else.
    pub fn read(message: &[u8], is_multicast: bool) -> Option<Self> {
        let message = Message::from_octets(message).ok()?;
        let (header, questions) = (message.header(), message.header_counts().qdcount());
        let is_answer = header.qr();
        let rcode = header.rcode().to_int();
        // Opcodes 3 and 7 to 15 are not given out; one question at most (RFC 9619); queries have no answer code.
        let may_be = !matches!(header.opcode().to_int(), 3 | 7..)
            && (is_answer || questions > 0)
            && (is_multicast || (questions <= 1 && (is_answer || rcode == 0)));
        if !may_be {
            return None;
        }
        let query = match message.question().next() {
            Some(Ok(question)) => {
                Name::of_labels(question.qname().iter().map(|label| label.as_slice()))
            }
            None | Some(Err(ParseError::ShortInput)) => None,
            Some(Err(ParseError::Form(_))) => return None,
        };
        Some(Self {
            id: header.id(),
            query,
            rcode: (is_answer && !is_multicast).then_some(rcode),
        })
    }

    /// Reads the first message of a TCP segment: its length stands in front of it (RFC 7766 §8).
    pub fn read_tcp(segment: &[u8]) -> Option<Self> {
        let (len, rest) = segment.split_first_chunk::<2>()?;
        let len = usize::from(u16::from_be_bytes(*len));
        Self::read(rest.get(..len).unwrap_or(rest), false)
    }

    /// Adds what a later message tells of the same query.
    pub fn learn(&mut self, later: Self) {
        if self.id == later.id {
            self.query = self.query.take().or(later.query);
            self.rcode = self.rcode.or(later.rcode);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand, RFC 1035 §4.1: id 0x1234, recursion desired, one question: `wWw.example.com`, A, IN.
    const QUERY: [u8; 33] = [
        0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0, // header
        3, b'w', b'W', b'w', 7, b'e', b'x', b'a', b'm', b'p', b'l', b'e', 3, b'c', b'o', b'm',
        0, // name
        0, 1, 0, 1, // type, class
    ];

    fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut message = QUERY.to_vec();
        message[at..at + bytes.len()].copy_from_slice(bytes);
        message
    }

    fn query(dns: &Dns) -> Option<&str> {
        dns.query.as_ref().map(Name::as_str)
    }

    #[test]
    fn a_query_and_its_answer() {
        let mut dns = Dns::read(&QUERY, false).unwrap();
        assert_eq!((query(&dns), dns.rcode), (Some("www.example.com"), None));
        // Of another query.
        dns.learn(Dns::read(&with(0, &[0x12, 0x35, 0x81, 0x82]), false).unwrap());
        assert_eq!(dns.rcode, None);
        let answer = Dns::read(&with(2, &[0x81, 0x83]), false).unwrap();
        assert_eq!(
            (query(&answer), answer.rcode),
            (Some("www.example.com"), Some(3))
        );
        dns.learn(answer);
        assert_eq!((query(&dns), dns.rcode), (Some("www.example.com"), Some(3)));
    }

    /// The name is whole or absent, and the answer code is there as soon as the header is.
    #[test]
    fn every_prefix() {
        let answer = with(2, &[0x81, 0x83]);
        for len in 0..=answer.len() {
            let read = Dns::read(&answer[..len], false);
            assert_eq!(read.is_some(), len >= 12, "prefix of {len} bytes");
            let Some(dns) = read else { continue };
            assert_eq!(dns.rcode, Some(3), "prefix of {len} bytes");
            let expected = (len >= QUERY.len()).then_some("www.example.com");
            assert_eq!(query(&dns), expected, "prefix of {len} bytes");
        }
    }

    #[test]
    fn what_is_no_dns() {
        for (why, message) in [
            ("opcode 3", with(2, &[0x19])),
            ("opcode 15", with(2, &[0x79])),
            ("two questions", with(5, &[2])),
            ("a query without a question", with(5, &[0])),
            ("a query with an answer code", with(3, &[0x03])),
            ("a label type that is not given out", with(12, &[0x83])),
            ("a name that points at itself", with(12, &[0xc0, 12])),
            ("a name that points ahead", with(12, &[0xc0, 16])),
            ("zeros", vec![0; 33]),
        ] {
            assert_eq!(Dns::read(&message, false), None, "{why}");
        }
        // Cut inside of a label that reaches behind the end.
        assert_eq!(query(&Dns::read(&with(12, &[0x3f]), false).unwrap()), None);
    }

    /// Multicast DNS: several questions, and nothing is said by an answer code.
    #[test]
    fn multicast() {
        let two = Dns::read(&with(0, &[0, 0, 0, 0, 0, 2]), true).unwrap();
        assert_eq!((query(&two), two.rcode), (Some("www.example.com"), None));
        let announcement = Dns::read(&with(0, &[0, 0, 0x84, 0, 0, 0, 0, 1]), true).unwrap();
        assert_eq!((query(&announcement), announcement.rcode), (None, None));
    }

    #[test]
    fn over_tcp() {
        let segment = [&[0, 33][..], &QUERY, &[0, 40, 1, 2, 3]].concat();
        let dns = Dns::read_tcp(&segment).unwrap();
        assert_eq!(query(&dns), Some("www.example.com"));
        // The name reaches behind what the length says.
        let short = [&[0, 20][..], &QUERY].concat();
        assert_eq!(query(&Dns::read_tcp(&short).unwrap()), None);
        assert_eq!(Dns::read_tcp(&segment[..13]), None);
    }
}
