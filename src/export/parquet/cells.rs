//! One column of some flow records: its values as the encoder of Parquet takes them, and the room they may need. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use parquet::column::writer::{ColumnWriter, get_column_writer};
use parquet::data_type::ByteArray;
use parquet::errors::{ParquetError, Result as Encoded};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::properties::WriterPropertiesPtr;
use parquet::file::writer::{SerializedPageWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

use crate::flow::columns::{COLUMNS, Column, Kind, Value};
use crate::flow::record::FlowRecord;

/// Bytes that a value takes beside its own, at the most: levels, and its number in a dictionary.
const VALUE_ROOM: u64 = 3;
/// Bytes in front of a text: its length.
const LEN_ROOM: u64 = 4;

/// The values of one column of some records, as the encoder takes them.
#[derive(Default)]
struct Cells {
    numbers: Vec<u64>,
    /// Texts behind each other, and the end of each.
    texts: Vec<u8>,
    ends: Vec<usize>,
    /// For each value whether it is there, and whether it goes on a list.
    definition: Vec<i16>,
    repetition: Vec<i16>,
}

impl Cells {
    /// `defined`: the level of a value that is there.
    fn of(column: &Column, rows: &[FlowRecord], defined: i16) -> Self {
        let mut cells = Self::default();
        for record in rows {
            match column.value(record) {
                None => cells.level(0, 0),
                Some(Value::Number(number) | Value::Time(number)) => {
                    cells.level(defined, 0);
                    cells.numbers.push(number);
                }
                Some(Value::Addresses(addresses)) => {
                    for (at, address) in addresses.iter().enumerate() {
                        cells.level(defined, i16::from(at > 0));
                        cells.text(&Value::Address(*address));
                    }
                }
                Some(value) => {
                    cells.level(defined, 0);
                    cells.text(&value);
                }
            }
        }
        cells
    }

    fn level(&mut self, definition: i16, repetition: i16) {
        self.definition.push(definition);
        self.repetition.push(repetition);
    }

    fn text(&mut self, value: &Value<'_>) {
        value.write_text(&mut self.texts);
        self.ends.push(self.texts.len());
    }

    fn byte_arrays(&mut self) -> Vec<ByteArray> {
        let texts = Bytes::from(std::mem::take(&mut self.texts));
        let mut begin = 0;
        let array = |end: &usize| {
            let text = texts.slice(begin..*end);
            begin = *end;
            ByteArray::from(text)
        };
        self.ends.iter().map(array).collect()
    }
}

/// Encodes one column of `rows` to the end of `to`, and tells what is there.
pub fn encode(
    column: &Column,
    described: &ColumnDescPtr,
    properties: WriterPropertiesPtr,
    rows: &[FlowRecord],
    to: &mut TrackedWrite<Vec<u8>>,
) -> Encoded<ColumnChunkMetaData> {
    let mut cells = Cells::of(column, rows, described.max_def_level());
    let pages = Box::new(SerializedPageWriter::new(to));
    let mut writer = get_column_writer(Arc::clone(described), properties, pages);
    let texts = cells.byte_arrays();
    let is_optional = described.max_def_level() > 0;
    let is_list = described.max_rep_level() > 0;
    let levels = is_optional.then_some(cells.definition.as_slice());
    let repetition = is_list.then_some(cells.repetition.as_slice());
    // Unsigned numbers have the bits of signed ones.
    match &mut writer {
        ColumnWriter::Int32ColumnWriter(writer) => {
            let numbers = cells.numbers.iter().map(|number| *number as u32 as i32);
            writer.write_batch(&numbers.collect::<Vec<_>>(), levels, repetition)?
        }
        ColumnWriter::Int64ColumnWriter(writer) => {
            let numbers = cells.numbers.iter().map(|number| *number as i64);
            writer.write_batch(&numbers.collect::<Vec<_>>(), levels, repetition)?
        }
        ColumnWriter::ByteArrayColumnWriter(writer) => {
            writer.write_batch(&texts, levels, repetition)?
        }
        _ => {
            let error = format!("{} has a type that no field has", column.name);
            return Err(ParquetError::General(error));
        }
    };
    Ok(writer.close()?.metadata)
}

/// Most bytes that a record takes in a row group, and those of its texts.
pub fn room(record: &FlowRecord) -> (u64, u64) {
    let of_text = |len: usize| len as u64 + LEN_ROOM + VALUE_ROOM;
    let (mut room, mut texts) = (0, 0);
    for column in COLUMNS {
        room += match column.kind {
            Kind::U8 | Kind::U16 | Kind::U32 | Kind::Port => 4 + VALUE_ROOM,
            Kind::U64 | Kind::Time | Kind::Duration => 8 + VALUE_ROOM,
            Kind::Id => of_text(16),
            Kind::Mac => of_text(17),
            Kind::Direction => of_text(3),
            Kind::Address | Kind::Addresses | Kind::Text => match column.value(record) {
                Some(Value::Text(text)) => {
                    texts += text.len() as u64;
                    of_text(text.len())
                }
                Some(Value::Address(address)) => of_text(address_len(address)),
                Some(Value::Addresses(addresses)) => {
                    let lens = addresses.iter().map(|address| address_len(*address));
                    lens.map(of_text).sum()
                }
                _ => VALUE_ROOM,
            },
        };
    }
    (room, texts)
}

/// Most bytes of an address as text.
const fn address_len(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(_) => 15,
        // One that holds an address of IPv4 ends in it.
        IpAddr::V6(_) => 45,
    }
}
