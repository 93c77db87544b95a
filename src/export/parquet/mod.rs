//! Flow records as Parquet: column by column, compressed, with statistics, for programs that ask for a few columns of
//! many records (DuckDB, pandas, Spark).
//!
//! Records gather to row groups, each sorted by `ts_start` and written whole. A file can be read once its end is
//! written, which says where everything is. While a row group is encoded, records gather for the next one: each few that
//! come pay for one column, so that none waits long.

mod cells;
mod schema;

use std::io::{self, Write as _};
use std::sync::Arc;

use parquet::errors::{ParquetError, Result as Encoded};
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use parquet::file::properties::WriterPropertiesPtr;
use parquet::file::writer::TrackedWrite;
use parquet::schema::types::SchemaDescPtr;

use cells::{encode, room};
use schema::{end_bytes, properties, schema};

use crate::flow::columns::COLUMNS;
use crate::flow::record::FlowRecord;
use crate::outfile::{ItemFile, OutError, OutFile};

/// What a file begins and ends with.
const MAGIC: &[u8] = b"PAR1";
/// Records of a row group.
const GROUP_ROWS: usize = 64 << 10;
/// The part of a row group that is worth one of its own where a file is about to become too large.
const FEW: usize = 32;
/// The part of a row group after which a column of the one in the works is encoded: less than one for each column, so
/// that it is done before the next is full.
const PART_A_COLUMN: usize = 128;
const _: () = assert!(COLUMNS.len() < PART_A_COLUMN);
/// Most bytes of a row group beside its values: headers of pages.
const PAGES_ROOM: u64 = 512 * COLUMNS.len() as u64;
/// Most bytes that the file's end has for each row group: where columns are, and the range of each.
const GROUP_ROOM: u64 = 512 * COLUMNS.len() as u64;
/// Most bytes of texts, from the network perhaps, that a row group waits for.
const TEXTS: u64 = 256 * GROUP_ROWS as u64;
/// Bytes of memory of what a record refers to, beside its texts.
const REFERRED: usize = 160;

/// Most bytes of memory: records for two row groups with their texts, and one of the two encoded.
pub const MEMORY_BYTES: usize =
    2 * (GROUP_ROWS * (size_of::<FlowRecord>() + REFERRED) + TEXTS as usize) + GROUP_ROWS * 1024;

/// A Parquet file being written.
pub struct Parquet {
    file: ItemFile,
    /// What is encoded and not in the file yet; it counts what was.
    encoded: TrackedWrite<Vec<u8>>,
    schema: SchemaDescPtr,
    properties: WriterPropertiesPtr,
    /// Records of a row group.
    group_rows: usize,
    /// Records for the next row group, and their bytes, at the most.
    rows: Vec<FlowRecord>,
    rows_room: u64,
    /// Bytes of their texts.
    texts: u64,
    /// The row group in the works, or the memory of the last one.
    group: Option<Group>,
    spare: Vec<FlowRecord>,
    /// Those in the file.
    groups: Vec<RowGroupMetaData>,
    /// Bytes of the file's end without row groups.
    end_room: u64,
    /// The end is written, or cannot be.
    is_ended: bool,
    /// Earliest beginning and latest end of a flow, nanoseconds since 1970.
    span: Option<(u64, u64)>,
}

/// A row group that is encoded, a column after the other.
struct Group {
    /// In the order of the file.
    rows: Vec<FlowRecord>,
    rows_room: u64,
    /// Where it begins.
    offset: u64,
    /// The columns that are done.
    columns: Vec<ColumnChunkMetaData>,
}

impl Parquet {
    /// Begins in `file`, which is empty.
    ///
    /// # Errors
    ///
    /// When nothing can be written to it.
    pub fn begin(mut file: ItemFile) -> Result<Self, OutError> {
        let mut encoded = TrackedWrite::new(Vec::new());
        let begun = encoded.write_all(MAGIC).and_then(|()| take(&mut encoded));
        let begun = begun.map_err(ParquetError::from);
        let made = begun.and_then(|magic| Ok((magic, schema()?, properties()?)));
        let (magic, schema, properties) = made.map_err(|error| file.error(other(error)))?;
        file.write_header(&magic)?;
        let end = end_bytes(&schema, &properties, &[]).map_err(|error| file.error(other(error)))?;
        Ok(Self {
            end_room: end.len() as u64,
            file,
            encoded,
            schema,
            properties,
            group_rows: GROUP_ROWS,
            rows: Vec::new(),
            rows_room: 0,
            texts: 0,
            group: None,
            spare: Vec::new(),
            groups: Vec::new(),
            is_ended: false,
            span: None,
        })
    }

    /// Adds a record. What cannot be written is counted as lost.
    pub fn write(&mut self, record: &FlowRecord) {
        if self.file.has_failed() {
            self.give_up();
            return self.file.lose(1);
        }
        self.rows.push(record.clone());
        let (room, texts) = room(record);
        self.rows_room += room;
        self.texts += texts;
        let (begin, end) = (record.ts_start.0, record.ts_end.0);
        let (first, last) = self.span.unwrap_or((begin, end));
        self.span = Some((first.min(begin), last.max(end)));
        let a_column = (self.group_rows / PART_A_COLUMN).max(1);
        if self.rows.len() >= self.group_rows || self.texts >= TEXTS {
            self.end_group();
            self.begin_group();
        } else if self.group.is_some() && self.rows.len().is_multiple_of(a_column) {
            self.encode_column();
        }
    }

    /// Encodes a column of the row group in the works: no record waits just now, but more may come at any time.
    pub fn flush(&mut self) {
        self.encode_column();
    }

    /// Writes what is gathered as a row group, where there is enough of it; else `false`.
    pub fn settle(&mut self) -> bool {
        let is_worth_it = self.group.is_some() || self.rows.len() >= self.group_rows / FEW;
        if is_worth_it {
            self.write_all();
        }
        is_worth_it
    }

    /// Bytes that the file would have if it ended now, at the most.
    pub fn bytes_at_end(&self) -> u64 {
        let in_works = self.group.as_ref().map_or(0, |group| group.rows_room);
        let to_come = [in_works, self.rows_room].map(|room| match room {
            0 => 0,
            room => room + PAGES_ROOM + GROUP_ROOM,
        });
        let told = self.groups.len() as u64 * GROUP_ROOM;
        self.file.standing().bytes + to_come.iter().sum::<u64>() + told + self.end_room
    }

    /// Writes what is gathered, and the end of the file.
    pub fn end(&mut self) {
        if std::mem::replace(&mut self.is_ended, true) {
            return;
        }
        self.write_all();
        self.give_up();
        // Nobody reads the rest of a pipe that broke; a file is cut back to its last whole row group.
        while !(self.file.has_failed() && (self.file.is_direct() || self.groups.is_empty())) {
            let end = match end_bytes(&self.schema, &self.properties, &self.groups) {
                Ok(end) => end,
                Err(error) => return self.file.fail_with(other(error)),
            };
            if self.file.write_needed_end(&end) || self.file.is_direct() {
                return;
            }
            // Where there is no room for the end, the last row group makes it.
            if let Some(group) = self.groups.pop() {
                let at = group.file_offset().and_then(|at| u64::try_from(at).ok());
                let rows = u64::try_from(group.num_rows());
                self.file
                    .take_back(at.unwrap_or_default(), rows.unwrap_or_default());
            }
        }
    }

    fn write_all(&mut self) {
        self.end_group();
        self.begin_group();
        self.end_group();
    }

    /// Counts what is gathered as lost, where nothing is written any more.
    fn give_up(&mut self) {
        if self.file.has_failed() {
            let in_works = self.group.take().map_or(0, |group| group.rows.len());
            self.file.lose((in_works + self.rows.len()) as u64);
            self.rows = Vec::new();
            (self.rows_room, self.texts) = (0, 0);
        }
    }

    /// Makes a row group of what is gathered; none is in the works.
    fn begin_group(&mut self) {
        if self.rows.is_empty() || self.file.has_failed() {
            return;
        }
        let mut rows = std::mem::replace(&mut self.rows, std::mem::take(&mut self.spare));
        self.texts = 0;
        rows.sort_by_cached_key(|record| record.ts_start.0);
        self.group = Some(Group {
            rows,
            rows_room: std::mem::take(&mut self.rows_room),
            offset: self.encoded.bytes_written() as u64,
            columns: Vec::with_capacity(COLUMNS.len()),
        });
    }

    fn end_group(&mut self) {
        while self.group.is_some() {
            self.encode_column();
        }
    }

    /// Encodes the next column of the row group in the works; behind the last one it is written.
    fn encode_column(&mut self) {
        let Some(mut group) = self.group.take() else {
            return;
        };
        let at = group.columns.len();
        let next = COLUMNS.get(at).zip(self.schema.columns().get(at));
        let encoded = match next {
            Some((column, described)) => {
                let properties = Arc::clone(&self.properties);
                encode(
                    column,
                    described,
                    properties,
                    &group.rows,
                    &mut self.encoded,
                )
                .map(|column| group.columns.push(column))
            }
            None => Ok(()),
        };
        match encoded {
            Ok(()) if group.columns.len() < COLUMNS.len() => self.group = Some(group),
            Ok(()) => self.write_group(group),
            Err(error) => {
                self.group = Some(group);
                self.file.fail_with(other(error));
                self.give_up();
            }
        }
    }

    fn write_group(&mut self, group: Group) {
        let Group {
            mut rows,
            offset,
            columns,
            ..
        } = group;
        let count = rows.len() as u64;
        let described = self.describe(count, offset, columns);
        let bytes = take(&mut self.encoded).map_err(ParquetError::from);
        match described.and_then(|described| Ok((described, bytes?))) {
            Ok((described, bytes)) => {
                // It is whole or not there.
                self.file.write(&bytes, count, |_, _| (0, 0));
                if !self.file.has_failed() {
                    self.groups.push(described);
                }
            }
            Err(error) => {
                self.file.fail_with(other(error));
                self.file.lose(count);
            }
        }
        rows.clear();
        self.spare = rows;
        self.give_up();
    }

    fn describe(
        &self,
        rows: u64,
        offset: u64,
        columns: Vec<ColumnChunkMetaData>,
    ) -> Encoded<RowGroupMetaData> {
        let bytes = columns.iter().map(ColumnChunkMetaData::uncompressed_size);
        let bytes = bytes.sum();
        RowGroupMetaData::builder(Arc::clone(&self.schema))
            .set_column_metadata(columns)
            .set_total_byte_size(bytes)
            .set_num_rows(i64::try_from(rows)?)
            .set_sorting_columns(self.properties.sorting_columns().cloned())
            .set_file_offset(i64::try_from(offset)?)
            .build()
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
/// Nothing here fails but by a defect: what is encoded goes to memory.
fn other(error: ParquetError) -> io::Error {
    io::Error::other(error)
}

/// What was encoded since it was taken last.
fn take(encoded: &mut TrackedWrite<Vec<u8>>) -> io::Result<Vec<u8>> {
    encoded.flush()?;
    Ok(std::mem::take(encoded.inner_mut()))
}
#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::file::statistics::Statistics;
    use parquet::record::RowAccessor;
    use tempfile::TempDir;

    use super::*;

    /// A file of small row groups, in a directory of its own.
    fn begin(group_rows: usize) -> (TempDir, PathBuf, Parquet) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.parquet");
        let out = OutFile::create(&path).unwrap();
        let file = Parquet {
            group_rows,
            ..Parquet::begin(out.into()).unwrap()
        };
        (dir, path, file)
    }

    /// Records whose times go forth and back.
    fn records(count: u64) -> impl Iterator<Item = FlowRecord> {
        (0..count).map(|n| FlowRecord::sample(n ^ 0b1101))
    }

    fn read(path: &PathBuf) -> SerializedFileReader<fs::File> {
        SerializedFileReader::new(fs::File::open(path).unwrap()).unwrap()
    }

    fn column(name: &str) -> usize {
        COLUMNS
            .iter()
            .position(|column| column.name == name)
            .unwrap()
    }

    #[test]
    fn row_groups_are_sorted_and_say_what_they_hold() {
        const ROWS: u64 = 2345;
        let (_dir, path, mut file) = begin(1000);
        for record in records(ROWS) {
            file.write(&record);
        }
        file.end();
        assert_eq!(file.file().standing().written, ROWS);
        assert_eq!(file.span().unwrap().0, 1_700_000_000_123_456_789);
        file.into_out().finish().unwrap();
        let reader = read(&path);
        let described = reader.metadata();
        let said = described.file_metadata();
        assert_eq!(said.num_rows(), ROWS as i64);
        let meanings = said.key_value_metadata().unwrap();
        assert_eq!(meanings.len(), COLUMNS.len() + 1);
        let of = |key: &str| {
            let meaning = meanings.iter().find(|meaning| meaning.key == key).unwrap();
            meaning.value.clone().unwrap()
        };
        assert_eq!(of("vxtap.version"), env!("CARGO_PKG_VERSION"));
        assert_eq!(of("vxtap.field.dur_ns"), "Time between the two. Unit: ns.");
        let rows = described
            .row_groups()
            .iter()
            .map(RowGroupMetaData::num_rows);
        assert_eq!(rows.collect::<Vec<_>>(), [1000, 1000, 345]);
        for group in described.row_groups() {
            let sorted = group.sorting_columns().unwrap();
            assert_eq!((sorted[0].column_idx, sorted[0].descending), (0, false));
            for (described, column) in group.columns().iter().zip(COLUMNS) {
                assert!(described.statistics().is_some(), "{}", column.name);
            }
            let of_port = group.column(column("dst_port")).statistics();
            let Some(Statistics::Int32(range)) = of_port else {
                panic!("{of_port:?}")
            };
            assert_eq!((range.min_opt(), range.max_opt()), (Some(&443), Some(&443)));
        }
        let mut times = Vec::new();
        let mut counts = 0;
        for row in reader.get_row_iter(None).unwrap() {
            let row = row.unwrap();
            times.push(row.get_long(column("ts_start")).unwrap());
            counts += row.get_ulong(column("pkts_o")).unwrap();
        }
        assert!(times.chunks(1000).all(<[i64]>::is_sorted));
        times.sort_unstable();
        let mut all: Vec<i64> = records(ROWS)
            .map(|record| record.ts_start.0 as i64)
            .collect();
        all.sort_unstable();
        assert_eq!(times, all);
        let expected: u64 = records(ROWS).map(|record| record.pkts_o).sum();
        assert_eq!(counts, expected);
    }

    /// Whenever a file ends, it is no longer than was said before.
    #[test]
    fn a_file_is_no_longer_than_it_says() {
        for (group_rows, rows) in [(1000, 0), (1000, 1), (1000, 999), (1000, 3500), (128, 1000)] {
            let (_dir, path, mut file) = begin(group_rows);
            let mut settled = 0;
            for (at, record) in (0..).zip(records(rows)) {
                file.write(&FlowRecord {
                    // Nothing that can be compressed.
                    dur_ns: record.flow_id.0,
                    ip_bytes_r: record.flow_id.0.rotate_left(9),
                    ..record
                });
                if at % 700 == 699 {
                    settled += u64::from(file.settle());
                }
            }
            let most = file.bytes_at_end();
            file.end();
            file.into_out().finish().unwrap();
            let bytes = fs::metadata(&path).unwrap().len();
            assert!(bytes <= most, "{rows} rows: {bytes} of {most}");
            let reader = read(&path);
            assert_eq!(reader.metadata().file_metadata().num_rows(), rows as i64);
            assert_eq!(settled > 0, rows > 700, "{rows}");
        }
    }

    /// The row group in the works is done before the next one is full. Nothing takes longer than a column, also where
    /// records come slowly.
    #[test]
    fn columns_are_encoded_while_records_come() {
        let (_dir, _, mut file) = begin(PART_A_COLUMN * 4);
        let mut most_at_once = 0;
        let mut before = 0;
        for (at, record) in (0..).zip(records(PART_A_COLUMN as u64 * 16)) {
            if at % 32 == 31 {
                file.flush();
            } else {
                file.write(&record);
            }
            let now = file.group.as_ref().map_or(0, |group| group.columns.len());
            most_at_once = most_at_once.max(now.saturating_sub(before));
            before = now;
        }
        assert_eq!(most_at_once, 1);
        assert_eq!(file.groups.len(), 3);
    }
}
