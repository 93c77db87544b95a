//! What a Parquet file of flow records says of itself: the schema, how columns are encoded, what the fields mean, and
//! where everything is. A field's type follows from its kind. Pure.

use std::sync::Arc;

use parquet::basic::{
    Compression, Encoding, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel,
};
use parquet::errors::Result as Encoded;
use parquet::file::metadata::{
    FileMetaData, KeyValue, ParquetMetaData, ParquetMetaDataWriter, RowGroupMetaData, SortingColumn,
};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr};
use parquet::schema::types::{ColumnPath, SchemaDescPtr, SchemaDescriptor, Type};

use crate::flow::columns::{COLUMNS, Column, Kind};

/// Level of zstd. What is left to compress is random for the most part: level 9 makes files 0.7 % smaller, level 3 none.
const ZSTD: i32 = 1;
/// Version of the format that the file's end names: pages of version 1, which every reader knows.
const VERSION: i32 = 1;

/// The schema: a field for each column, in its order.
pub fn schema() -> Encoded<SchemaDescPtr> {
    let fields = COLUMNS.iter().map(|column| field(column).map(Arc::new));
    let schema = Type::group_type_builder("flow")
        .with_fields(fields.collect::<Encoded<Vec<_>>>()?)
        .build()?;
    Ok(Arc::new(SchemaDescriptor::new(Arc::new(schema))))
}

fn field(column: &Column) -> Encoded<Type> {
    let repetition = match column.always {
        true => Repetition::REQUIRED,
        false => Repetition::OPTIONAL,
    };
    let number = |bits| Some(LogicalType::integer(bits, false));
    let (physical, logical) = match column.kind {
        Kind::Time => (
            Physical::INT64,
            Some(LogicalType::timestamp(true, TimeUnit::NANOS)),
        ),
        Kind::Duration | Kind::U64 => (Physical::INT64, number(64)),
        Kind::U32 => (Physical::INT32, number(32)),
        Kind::U16 | Kind::Port => (Physical::INT32, number(16)),
        Kind::U8 => (Physical::INT32, number(8)),
        Kind::Id | Kind::Text | Kind::Address | Kind::Mac | Kind::Direction => {
            (Physical::BYTE_ARRAY, Some(LogicalType::String))
        }
        Kind::Addresses => return list(column, repetition),
    };
    Type::primitive_type_builder(column.name, physical)
        .with_repetition(repetition)
        .with_logical_type(logical)
        .build()
}

/// A list of texts, in the three levels of the specification (LogicalTypes.md, "Lists").
fn list(column: &Column, repetition: Repetition) -> Encoded<Type> {
    let element = Type::primitive_type_builder("element", Physical::BYTE_ARRAY)
        .with_repetition(Repetition::REQUIRED)
        .with_logical_type(Some(LogicalType::String))
        .build()?;
    let list = Type::group_type_builder("list")
        .with_repetition(Repetition::REPEATED)
        .with_fields(vec![Arc::new(element)])
        .build()?;
    Type::group_type_builder(column.name)
        .with_repetition(repetition)
        .with_logical_type(Some(LogicalType::List))
        .with_fields(vec![Arc::new(list)])
        .build()
}

/// How all columns are encoded: zstd, and dictionaries where values come again.
pub fn properties() -> Encoded<WriterPropertiesPtr> {
    let sorted = SortingColumn {
        column_idx: 0,
        descending: false,
        nulls_first: false,
    };
    let mut builder = WriterProperties::builder()
        .set_created_by(format!("vxtap version {}", env!("CARGO_PKG_VERSION")))
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD)?))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .set_sorting_columns(Some(vec![sorted]));
    for column in COLUMNS {
        let path = || ColumnPath::from(column.name);
        match column.kind {
            // Each value is another one, and times are close to the one before.
            Kind::Time | Kind::Duration => {
                builder = builder
                    .set_column_dictionary_enabled(path(), false)
                    .set_column_encoding(path(), Encoding::DELTA_BINARY_PACKED);
            }
            Kind::Id => {
                builder = builder
                    .set_column_dictionary_enabled(path(), false)
                    .set_column_encoding(path(), Encoding::DELTA_LENGTH_BYTE_ARRAY);
            }
            _ => {}
        }
    }
    Ok(Arc::new(builder.build()))
}

/// What the file says of itself: the version, and of each field what it is.
fn meanings() -> Vec<KeyValue> {
    let version = KeyValue::new(
        "vxtap.version".to_owned(),
        env!("CARGO_PKG_VERSION").to_owned(),
    );
    let meaning = |column: &Column| {
        let unit = column.unit.name();
        let unit = unit.map_or_else(String::new, |unit| format!(" Unit: {unit}."));
        KeyValue::new(
            format!("vxtap.field.{}", column.name),
            format!("{}{unit}", column.sentence),
        )
    };
    let meanings = COLUMNS.iter().map(meaning);
    std::iter::once(version).chain(meanings).collect()
}

/// The end of a file: schema, what the fields mean, where row groups and columns are, and the range of each.
pub fn end_bytes(
    schema: &SchemaDescPtr,
    properties: &WriterProperties,
    groups: &[RowGroupMetaData],
) -> Encoded<Vec<u8>> {
    let file = FileMetaData::new(
        VERSION,
        groups.iter().map(RowGroupMetaData::num_rows).sum(),
        Some(properties.created_by().to_owned()),
        Some(meanings()),
        Arc::clone(schema),
        None,
    );
    let described = ParquetMetaData::new(file, groups.to_vec());
    let mut end = Vec::new();
    ParquetMetaDataWriter::new(&mut end, &described).finish()?;
    Ok(end)
}
