//! A name as records show it: bounded, in lower case, and without a byte that any format has to quote.

/// Most bytes of a DNS name as text, before anything is escaped (RFC 1035 §2.3.4).
pub const DNS_NAME_LEN: usize = 253;
/// Most bytes of a host name from TLS or HTTP, before anything is escaped.
pub const HOST_LEN: usize = 255;
/// Most bytes of a name as it is kept: every byte of it is escaped.
pub const MOST_BYTES: usize = 3 * HOST_LEN;

/// A name: ASCII letters in lower case, digits and signs. Other bytes, and those that JSON or CSV would have to quote,
/// are percent and two hexadecimal digits (RFC 3986 §2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(Box<str>);

impl Name {
    /// The name in `bytes`; `None` where there is none or it has more than `most` bytes.
    pub fn of(bytes: &[u8], most: usize) -> Option<Self> {
        if bytes.is_empty() || bytes.len() > most {
            return None;
        }
        let mut text = String::with_capacity(bytes.len());
        for byte in bytes {
            push(&mut text, *byte);
        }
        Some(Self(text.into()))
    }

    /// The name of these DNS labels, without the root's; that of the root is a dot.
    pub fn of_labels<'a>(labels: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let mut text = String::new();
        let mut len = 0;
        for label in labels.filter(|label| !label.is_empty()) {
            if len > 0 {
                text.push('.');
                len += 1;
            }
            len += label.len();
            if len > DNS_NAME_LEN {
                return None;
            }
            for byte in label {
                // A dot inside a label is none between labels.
                if *byte == b'.' {
                    escape(&mut text, *byte);
                } else {
                    push(&mut text, *byte);
                }
            }
        }
        if len == 0 {
            text.push('.');
        }
        Some(Self(text.into()))
    }

    /// As many of `items` as fit into 255 bytes, with a space between them.
    pub fn of_list<'a>(items: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let mut list = String::new();
        for item in items {
            let end = list.len();
            if end > 0 {
                list.push(' ');
            }
            for byte in item {
                push(&mut list, *byte);
            }
            if list.len() > HOST_LEN {
                list.truncate(end);
                break;
            }
        }
        (!list.is_empty()).then(|| Self(list.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Bytes of memory behind it.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }
}

fn push(text: &mut String, byte: u8) {
    match byte {
        b'"' | b'\\' | b'%' | b',' => escape(text, byte),
        0x21..=0x7e => text.push(byte.to_ascii_lowercase().into()),
        _ => escape(text, byte),
    }
}

fn escape(text: &mut String, byte: u8) {
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or('0');
    text.extend(['%', digit(byte >> 4), digit(byte & 0xf)]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(bytes: &[u8]) -> String {
        Name::of(bytes, HOST_LEN).unwrap().as_str().to_owned()
    }

    #[test]
    fn lower_case_and_escaped() {
        assert_eq!(text(b"WWW.Example-1.COM:8080"), "www.example-1.com:8080");
        assert_eq!(text(b"_dmarc.a_b"), "_dmarc.a_b");
        assert_eq!(text(b"a\"b\\c,d%e f\n\x7f"), "a%22b%5cc%2cd%25e%20f%0a%7f");
        assert_eq!(text("ü".as_bytes()), "%c3%bc");
    }

    #[test]
    fn whole_or_none() {
        assert_eq!(Name::of(b"", HOST_LEN), None);
        assert!(Name::of(&[b'a'; 255], HOST_LEN).is_some());
        assert_eq!(Name::of(&[b'a'; 256], HOST_LEN), None);
        let labels =
            |len| Name::of_labels([&[b'a'; 63][..]; 3].into_iter().chain([&[b'b'; 63][..len]]));
        assert_eq!(labels(61).unwrap().as_str().len(), DNS_NAME_LEN);
        assert_eq!(labels(62), None);
    }

    #[test]
    fn labels() {
        let of = |labels: &[&[u8]]| {
            Name::of_labels(labels.iter().copied()).map(|name| name.as_str().to_owned())
        };
        assert_eq!(
            of(&[b"WWW", b"example", b"com", b""]).unwrap(),
            "www.example.com"
        );
        assert_eq!(of(&[b""]).unwrap(), ".");
        assert_eq!(of(&[b"a.b", b"c"]).unwrap(), "a%2eb.c");
    }

    /// Whole items as far as they fit.
    #[test]
    fn lists() {
        let of = |items: &[&[u8]]| {
            Name::of_list(items.iter().copied()).map(|name| name.as_str().to_owned())
        };
        assert_eq!(of(&[b"h2", b"http/1.1"]).unwrap(), "h2 http/1.1");
        assert_eq!(of(&[b"h 2"]).unwrap(), "h%202");
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[&[b'a'; 255]]).unwrap().len(), 255);
        assert_eq!(of(&[b"h2", &[b'a'; 253], b"h3"]).unwrap(), "h2");
        assert_eq!(of(&[&[b'a'; 256]]), None);
    }

    proptest! {
        /// Nothing that JSON, CSV or a terminal would trip over, no more than is promised, and two names that differ
        /// in more than case differ as texts.
        #[test]
        fn clean_and_unmistakable(
            a in proptest::collection::vec(any::<u8>(), 1..=HOST_LEN),
            b in proptest::collection::vec(any::<u8>(), 1..=HOST_LEN),
        ) {
            let (text_a, text_b) = (text(&a), text(&b));
            prop_assert!(text_a.len() <= MOST_BYTES);
            prop_assert!(text_a.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\,".contains(&byte)));
            prop_assert_eq!(a.eq_ignore_ascii_case(&b), text_a == text_b);
            prop_assert_eq!(unescaped(&text_a), a.to_ascii_lowercase());
        }
    }

    fn unescaped(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rest = text.as_bytes();
        while let [first, behind @ ..] = rest {
            if let (b'%', [high, low, behind @ ..]) = (first, behind) {
                let digits = [*high, *low];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                rest = behind;
            } else {
                bytes.push(*first);
                rest = behind;
            }
        }
        bytes
    }
}
