//! Flow records as CSV (RFC 4180): a header line, then a row for each record, with the fields of
//! [`COLUMNS`].
//!
//! A field that does not apply is empty. A space stands between the parts of a list.

use super::lines::Form;
use crate::flow::columns::{COLUMNS, Value};
use crate::flow::record::FlowRecord;

/// How records become rows.
pub static FORM: Form = Form {
    header,
    write: write_row,
    whole: whole_rows,
};

/// What ends a row.
const END: &[u8] = b"\r\n";

/// The first line: the names of all fields.
pub fn header() -> Vec<u8> {
    let mut out = Vec::new();
    for (at, column) in COLUMNS.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(column.name.as_bytes());
    }
    out.extend_from_slice(END);
    out
}

/// Appends `record` as a row.
pub fn write_row(record: &FlowRecord, out: &mut Vec<u8>) {
    for (at, column) in COLUMNS.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        match column.value(record) {
            Some(Value::Text(text)) => write_text(text, out),
            // Nothing in them needs quotation marks.
            Some(value) => value.write_text(out),
            None => {}
        }
    }
    out.extend_from_slice(END);
}

/// Appends `text`, in quotation marks where it needs them.
fn write_text(text: &str, out: &mut Vec<u8>) {
    let needs_quotes = |byte| matches!(byte, b'"' | b',' | b'\r' | b'\n');
    if !text.bytes().any(needs_quotes) {
        return out.extend_from_slice(text.as_bytes());
    }
    out.push(b'"');
    for byte in text.bytes() {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}

/// How much of the first `len` bytes, which begin with a row, are whole rows: bytes, and rows.
pub fn whole_rows(bytes: &[u8], len: usize) -> (usize, u64) {
    let taken = bytes.get(..len).unwrap_or_default();
    let mut is_quoted = false;
    let (mut end, mut rows) = (0, 0);
    for (at, byte) in (1..).zip(taken) {
        match byte {
            // One that stands for itself is doubled.
            b'"' => is_quoted = !is_quoted,
            b'\n' if !is_quoted => (end, rows) = (at, rows + 1),
            _ => {}
        }
    }
    (end, rows)
}

/// The fields of a row, without its end.
pub fn fields(row: &[u8]) -> Vec<Vec<u8>> {
    let row = row.strip_suffix(END).unwrap_or(row);
    let mut fields = vec![Vec::new()];
    let (mut is_quoted, mut was_quote) = (false, false);
    for byte in row {
        let Some(field) = fields.last_mut() else {
            break;
        };
        match byte {
            b'"' => {
                is_quoted = !is_quoted;
                // The second of two stands for itself.
                if is_quoted && was_quote {
                    field.push(b'"');
                }
            }
            b',' if !is_quoted => fields.push(Vec::new()),
            byte => field.push(*byte),
        }
        was_quote = *byte == b'"';
    }
    fields
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_row_has_the_fields_of_the_header() {
        let record = FlowRecord::sample(12);
        let mut row = Vec::new();
        write_row(&record, &mut row);
        let names = fields(&header());
        let values = fields(&row);
        assert_eq!((names.len(), values.len()), (COLUMNS.len(), COLUMNS.len()));
        for (column, (name, value)) in COLUMNS.iter().zip(names.iter().zip(&values)) {
            assert_eq!(name, column.name.as_bytes());
            let mut text = Vec::new();
            if let Some(told) = column.value(&record) {
                told.write_text(&mut text);
            }
            assert_eq!(value, &text, "{}", column.name);
        }
        let poor = FlowRecord {
            vni: None,
            ..record
        };
        let mut row = Vec::new();
        write_row(&poor, &mut row);
        let at = COLUMNS.iter().position(|column| column.name == "vni");
        assert_eq!(fields(&row)[at.unwrap()], b"");
    }

    #[test]
    fn text_is_quoted_where_it_needs_it() {
        for (text, row) in [
            ("plain text", "plain text"),
            ("", ""),
            ("a,b", "\"a,b\""),
            ("\"", "\"\"\"\""),
            ("say \"no\"", "\"say \"\"no\"\"\""),
            ("two\nlines", "\"two\nlines\""),
        ] {
            let mut out = Vec::new();
            write_text(text, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), row);
        }
    }

    proptest! {
        /// However long the disk takes bytes: what is kept ends with a whole row.
        #[test]
        fn rows_are_whole_or_not_there(
            rows in proptest::collection::vec(proptest::collection::vec("[a,\"\r\n]{0,4}", 1..4), 1..5),
            cut in 0..100_usize,
        ) {
            let mut out = Vec::new();
            let mut ends = vec![0];
            for row in &rows {
                for (at, text) in row.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    write_text(text, &mut out);
                }
                let start = *ends.last().unwrap();
                let read = fields(&out[start..]);
                out.extend_from_slice(END);
                let texts: Vec<&[u8]> = row.iter().map(|text| text.as_bytes()).collect();
                prop_assert_eq!(read, texts);
                ends.push(out.len());
            }
            let whole = ends.iter().rposition(|end| *end <= cut).unwrap();
            let len = cut.min(out.len());
            prop_assert_eq!(whole_rows(&out, len), (ends[whole], whole as u64));
        }
    }
}
