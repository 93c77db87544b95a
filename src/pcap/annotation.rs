//! What a pcapng file says about its packets beside them, pure: comments, and the blocks of decryption secrets
//! and of names of addresses. Read from a section in either byte order, made ready for a file of ours.

use super::options::{COMMENT, Options, block, number16, number32, put};
use super::origin::CutComment;

/// Type of a name resolution block.
pub const NAME_RESOLUTION: u32 = 4;
/// Type of a decryption secrets block.
pub const DECRYPTION_SECRETS: u32 = 10;

const END_OF_RECORDS: u16 = 0;
const RECORD_IPV4: u16 = 1;
const RECORD_IPV6: u16 = 2;

/// A thing to be written at its place among the packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotation {
    /// Its place: that of the packet that follows a block, that of its own packet for comments.
    pub place: u64,
    /// What it is.
    pub what: What,
}

/// The kinds of things, ready to be written, little-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A block of decryption secrets.
    Secrets(Vec<u8>),
    /// A block of names.
    Names(Vec<u8>),
    /// The comments of a packet.
    Comments {
        /// Time of the packet, nanoseconds since 1970.
        ts_ns: u64,
        /// As options, without their end.
        options: Vec<u8>,
        /// How many they are.
        count: u64,
    },
}

/// How many there are of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Blocks of decryption secrets.
    pub secrets: u64,
    /// Blocks of names.
    pub names: u64,
    /// Comments of packets.
    pub packet_comments: u64,
    /// Comments of sections, interfaces and their statistics.
    pub other_comments: u64,
}

impl Tally {
    /// Tally what was written.
    pub const fn note(&mut self, what: &What) {
        match what {
            What::Secrets(_) => self.secrets += 1,
            What::Names(_) => self.names += 1,
            What::Comments { count, .. } => self.packet_comments += *count,
        }
    }

    /// Those of both.
    pub const fn plus(self, other: Self) -> Self {
        Self {
            secrets: self.secrets + other.secrets,
            names: self.names + other.names,
            packet_comments: self.packet_comments + other.packet_comments,
            other_comments: self.other_comments + other.other_comments,
        }
    }

    /// Those that are not among `written`.
    pub const fn without(self, written: Self) -> Self {
        Self {
            secrets: self.secrets.saturating_sub(written.secrets),
            names: self.names.saturating_sub(written.names),
            packet_comments: self.packet_comments.saturating_sub(written.packet_comments),
            other_comments: self.other_comments.saturating_sub(written.other_comments),
        }
    }

    /// Name in the summary and count of each kind.
    pub const fn by_name(self) -> [(&'static str, u64); 4] {
        [
            ("secrets", self.secrets),
            ("names", self.names),
            ("packet_comments", self.packet_comments),
            ("comments", self.other_comments),
        ]
    }
}

/// Makes a block of secrets or names ready to be written: `body` is what stands between its lengths. `None` where
/// it does not hold together: readers refuse a whole file for that.
pub fn ready(kind: u32, body: &[u8], big_endian: bool) -> Option<What> {
    let mut out = Vec::with_capacity(body.len() + 12);
    let mut is_sound = false;
    block(kind, &mut out, |out| {
        let rest = match kind {
            DECRYPTION_SECRETS => secrets(body, big_endian, out),
            NAME_RESOLUTION => names(body, big_endian, out),
            _ => None,
        };
        if let Some(rest) = rest {
            is_sound = true;
            options(rest, big_endian, out);
        }
    });
    is_sound.then_some(match kind {
        DECRYPTION_SECRETS => What::Secrets(out),
        _ => What::Names(out),
    })
}

/// Copies kind, length and secrets, and returns what follows them.
fn secrets<'b>(body: &'b [u8], big_endian: bool, out: &mut Vec<u8>) -> Option<&'b [u8]> {
    let (fixed, rest) = body.split_at_checked(8)?;
    for at in [0, 4] {
        out.extend_from_slice(&number32(fixed, at, big_endian).to_le_bytes());
    }
    let len = number32(fixed, 4, big_endian) as usize;
    let (secrets, rest) = rest.split_at_checked(len.checked_next_multiple_of(4)?)?;
    out.extend_from_slice(secrets);
    Some(rest)
}

/// Copies records up to their end, and returns what follows it.
fn names<'b>(body: &'b [u8], big_endian: bool, out: &mut Vec<u8>) -> Option<&'b [u8]> {
    let mut rest = body;
    loop {
        let (head, behind) = rest.split_at_checked(4)?;
        let (kind, len) = (number16(head, 0, big_endian), number16(head, 2, big_endian));
        let value = behind.get(..len.into())?;
        let address_len = match kind {
            RECORD_IPV4 => 4,
            RECORD_IPV6 => 16,
            _ => 0,
        };
        // Behind the address stands at least one name, each with a zero behind it.
        if address_len > 0 && (value.len() <= address_len || value.last() != Some(&0)) {
            return None;
        }
        put(kind, value, out);
        rest = behind.get(usize::from(len).next_multiple_of(4)..)?;
        if kind == END_OF_RECORDS {
            return Some(rest);
        }
    }
}

/// Copies options and ends them.
fn options(bytes: &[u8], big_endian: bool, out: &mut Vec<u8>) {
    let mut is_any = false;
    for (code, value) in Options::new(bytes, big_endian) {
        is_any = true;
        // Custom options begin with a number, that of who made them.
        match (code, value.split_first_chunk::<4>()) {
            (2988 | 2989 | 19372 | 19373, Some((number, rest))) => {
                let number = number32(number, 0, big_endian).to_le_bytes();
                put(code, &[&number[..], rest].concat(), out);
            }
            _ => put(code, value, out),
        }
    }
    if is_any {
        put(0, &[], out);
    }
}

/// The comments among the options of a packet, as options without their end, and how many they are. In a capture
/// of ours those are left out that say how a packet was cut: it will have one again.
pub fn comments(options: Options<'_>, is_ours: bool) -> (Vec<u8>, u64) {
    let (mut out, mut count) = (Vec::new(), 0);
    let comments = options.filter(|(code, _)| *code == COMMENT);
    for (_, comment) in comments {
        if is_ours && CutComment::read(comment).is_some() {
            continue;
        }
        // Readers refuse a text that is none.
        let text = String::from_utf8_lossy(comment);
        let end = text.floor_char_boundary(usize::from(u16::MAX));
        put(
            COMMENT,
            text.get(..end).unwrap_or_default().as_bytes(),
            &mut out,
        );
        count += 1;
    }
    (out, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(number: u16, big_endian: bool) -> [u8; 2] {
        if big_endian {
            number.to_be_bytes()
        } else {
            number.to_le_bytes()
        }
    }

    fn long(number: u32, big_endian: bool) -> [u8; 4] {
        if big_endian {
            number.to_be_bytes()
        } else {
            number.to_le_bytes()
        }
    }

    fn field(code: u16, value: &[u8], big_endian: bool) -> Vec<u8> {
        let len = short(value.len() as u16, big_endian);
        let mut field = [&short(code, big_endian)[..], &len, value].concat();
        field.resize(field.len().next_multiple_of(4), 0);
        field
    }

    /// Two kinds of block in each byte order become the same little-endian ones.
    #[test]
    fn blocks_of_either_byte_order_become_ours() {
        let bodies = |big_endian| {
            let secrets = [
                &long(0x544c_534b, big_endian)[..],
                &long(5, big_endian),
                b"keys\n\0\0\0",
                &field(1, b"a comment", big_endian),
                &field(
                    2989,
                    &[&long(7, big_endian)[..], b"own"].concat(),
                    big_endian,
                ),
                &field(0, &[], big_endian),
            ];
            let names = [
                field(1, b"\x0a\x00\x01\x0bhost\0alias\0", big_endian),
                field(2, b"0123456789abcdefsix\0", big_endian),
                field(3, b"another kind", big_endian),
                field(0, &[], big_endian),
            ];
            (secrets.concat(), names.concat())
        };
        let (secrets, names) = bodies(false);
        let whole = |kind: u32, body: &[u8]| {
            let len = (body.len() as u32 + 12).to_le_bytes();
            [&kind.to_le_bytes()[..], &len, body, &len].concat()
        };
        let expected = (
            Some(What::Secrets(whole(10, &secrets))),
            Some(What::Names(whole(4, &names))),
        );
        for big_endian in [false, true] {
            let (secrets, names) = bodies(big_endian);
            let made = (
                ready(10, &secrets, big_endian),
                ready(4, &names, big_endian),
            );
            assert_eq!(made, expected, "{big_endian}");
            for len in 0..secrets.len() {
                let made = ready(10, &secrets[..len], big_endian);
                assert_eq!(made.is_some(), len >= 16, "{len} bytes of secrets");
            }
            for len in 0..names.len() {
                assert_eq!(ready(4, &names[..len], big_endian), None, "{len} bytes");
            }
        }
    }

    #[test]
    fn blocks_that_readers_refuse_are_not_ready() {
        let end = field(0, &[], false);
        for record in [
            field(1, &[10, 0, 1], false),
            field(1, &[10, 0, 1, 11], false),
            field(1, b"\x0a\x00\x01\x0bno end", false),
            field(2, b"0123456789abcde\0", false),
        ] {
            assert_eq!(ready(4, &[&record[..], &end].concat(), false), None);
        }
        assert_eq!(ready(10, &[&[1; 4][..], &[0xff; 8]].concat(), false), None);
        assert_eq!(
            ready(10, &[&[1; 4][..], &[0xfe, 0xff, 0xff, 0xff]].concat(), true),
            None
        );
        assert_eq!(ready(5, &[0; 16], false), None);
    }

    #[test]
    fn comments_are_texts_and_not_our_own() {
        let cut = b"truncated: 9 of 99 bytes missing";
        let options = [
            field(2, &[1, 0, 0, 0], true),
            field(1, b"look", true),
            field(1, cut, true),
            field(1, b"\xff", true),
        ];
        let options = options.concat();
        let (out, count) = comments(Options::new(&options, true), true);
        assert_eq!(count, 2);
        let read: Vec<_> = Options::new(&out, false).collect();
        assert_eq!(read, [(1, &b"look"[..]), (1, "\u{fffd}".as_bytes())]);
        let (_, count) = comments(Options::new(&options, true), false);
        assert_eq!(count, 3);
        let long = field(1, &vec![0xff; 40_000], true);
        let (out, _) = comments(Options::new(&long, true), false);
        let (_, text) = Options::new(&out, false).next().unwrap();
        assert!(text.len() > 65_000 && std::str::from_utf8(text).is_ok());
    }
}
