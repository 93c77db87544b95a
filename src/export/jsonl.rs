//! Flow records as JSON lines: one object a line.

use std::net::IpAddr;

use super::lines::Form;
use crate::flow::app::App;
use crate::flow::columns::{app_name, with_columns};
use crate::flow::community_id::CommunityId;
use crate::flow::first::Place;
use crate::flow::record::{FlowId, FlowRecord, Time};
use crate::flow::tcp::history::Letters;
use crate::flow::text::{self, Text};
use crate::mirror::direction::{By, Direction};
use crate::wire::inner::Mac;

/// How records become lines.
pub static FORM: Form = Form {
    header: Vec::new,
    write: write_line,
    whole: whole_lines,
};

/// How much of the first `len` bytes are whole lines: bytes, and lines.
pub fn whole_lines(bytes: &[u8], len: usize) -> (usize, u64) {
    let taken = bytes.get(..len).unwrap_or_default();
    let last = taken.iter().rposition(|byte| *byte == b'\n');
    let lines = taken.iter().filter(|byte| **byte == b'\n').count();
    (last.map_or(0, |at| at + 1), lines as u64)
}

/// Appends `record` as one line: the fields by their names, in their order.
///
/// Each is written by its type: a loop over the table takes 1.5 times as many instructions.
pub fn write_line(record: &FlowRecord, out: &mut Vec<u8>) {
    macro_rules! fields {
        ($($name:ident $(of $of:ident by $get:path)?: $kind:ident, $unit:ident, $ipfix:expr, $sentence:expr;)+) => {
            $({
                let name = concat!(",\"", stringify!($name), "\":").as_bytes();
                write!(name, $name $(of $of by $get)?);
            })+
        };
    }
    macro_rules! write {
        ($key:expr, $name:ident) => {
            record.$name.write($key, out)
        };
        ($key:expr, $name:ident of $of:ident by $get:path) => {
            record.$of.as_ref().and_then(|of| $get(of)).write($key, out)
        };
    }
    let start = out.len();
    with_columns!(fields);
    // The first name came with a comma in front.
    if let Some(first) = out.get_mut(start) {
        *first = b'{';
    }
    out.extend_from_slice(b"}\n");
}

/// A value that can stand in a line.
trait Value {
    /// Appends it behind its name; nothing at all where there is no value.
    fn write(&self, name: &[u8], out: &mut Vec<u8>);
}

impl<V: Value> Value for Option<V> {
    fn write(&self, name: &[u8], out: &mut Vec<u8>) {
        if let Some(value) = self {
            value.write(name, out);
        }
    }
}

macro_rules! numbers {
    ($($kind:ty),+) => {
        $(impl Value for $kind {
            fn write(&self, name: &[u8], out: &mut Vec<u8>) {
                out.extend_from_slice(name);
                match *self {
                    // Most are.
                    digit @ 0..10 => out.push(b'0' + digit as u8),
                    number => out.extend_from_slice(text::decimal(number.into()).bytes()),
                }
            }
        })+
    };
}
numbers!(u8, u16, u32, u64);

/// Texts. Nothing in them needs escaping.
macro_rules! texts {
    ($($kind:ty: $bytes:expr),+ $(,)?) => {
        $(impl Value for $kind {
            fn write(&self, name: &[u8], out: &mut Vec<u8>) {
                out.extend_from_slice(name);
                out.push(b'"');
                out.extend_from_slice($bytes(self));
                out.push(b'"');
            }
        })+
    };
}
texts!(
    Text: Text::bytes,
    CommunityId: CommunityId::bytes,
    Letters: Letters::bytes,
);

impl Value for &str {
    fn write(&self, name: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(name);
        write_string(self, out);
    }
}

macro_rules! as_text {
    ($($kind:ty: $text:expr),+ $(,)?) => {
        $(impl Value for $kind {
            fn write(&self, name: &[u8], out: &mut Vec<u8>) {
                $text(*self).write(name, out);
            }
        })+
    };
}
as_text!(
    IpAddr: text::ip,
    Mac: text::mac,
    Time: |Time(ns)| text::rfc3339(ns),
    FlowId: |FlowId(id)| text::hex(id),
);

impl Value for By {
    fn write(&self, name: &[u8], out: &mut Vec<u8>) {
        self.name().write(name, out);
    }
}

impl Value for Direction {
    fn write(&self, name: &[u8], out: &mut Vec<u8>) {
        (*self).name().write(name, out);
    }
}

impl Value for [IpAddr; 1] {
    fn write(&self, name: &[u8], out: &mut Vec<u8>) {
        let [address] = self;
        out.extend_from_slice(name);
        address.write(b"[", out);
        out.push(b']');
    }
}

/// Appends `text` as a JSON string (RFC 8259 §7).
fn write_string(text: &str, out: &mut Vec<u8>) {
    let needs_escape = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(needs_escape) {
        let (plain, behind) = rest.split_at(at);
        out.extend_from_slice(plain);
        if let Some((byte, behind)) = behind.split_first() {
            match byte {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
                control => out.extend_from_slice(format!("\\u{control:04x}").as_bytes()),
            }
            rest = behind;
        }
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::columns::{self, COLUMNS};

    /// Every field, in the order of the table, as another JSON reader sees it.
    #[test]
    fn a_line_has_the_fields_of_the_table() {
        for record in [12, 13, 14].map(FlowRecord::sample) {
            let mut line = Vec::new();
            write_line(&record, &mut line);
            let line = String::from_utf8(line).unwrap();
            assert!(line.ends_with("}\n") && line.lines().count() == 1);
            let read: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(&line).unwrap();
            let (mut at, mut fields) = (0, 0);
            for column in COLUMNS {
                let Some(value) = column.value(&record) else {
                    assert!(!read.contains_key(column.name), "{}", column.name);
                    continue;
                };
                let mut text = Vec::new();
                value.write_text(&mut text);
                let is = as_text(&read[column.name]);
                assert_eq!(is.as_bytes(), text, "{}", column.name);
                let is_number = matches!(value, columns::Value::Number(_));
                assert_eq!(is_number, read[column.name].is_u64(), "{}", column.name);
                let place = line.find(&format!("\"{}\":", column.name)).unwrap();
                assert!(place > at || at == 0, "{} is not in its place", column.name);
                at = place;
                fields += 1;
            }
            assert_eq!(read.len(), fields);
        }
    }

    fn as_text(value: &serde_json::Value) -> String {
        match value {
            serde_json::Value::Array(list) => {
                let parts: Vec<String> = list.iter().map(as_text).collect();
                parts.join(" ")
            }
            serde_json::Value::String(text) => text.clone(),
            number => number.to_string(),
        }
    }

    /// Text of the network: whatever it is, another JSON reader reads the same.
    #[test]
    fn text_is_escaped() {
        for text in [
            "",
            "vxlan",
            "a \"name\"",
            "back\\slash",
            "line\nline\r\u{0}\u{1f}\u{7f}",
            "größe, 例え.jp",
            "\"",
            "\\\"\\",
        ] {
            let mut out = Vec::new();
            write_string(text, &mut out);
            let read: String = serde_json::from_slice(&out).unwrap();
            assert_eq!(read, text);
        }
    }
}
