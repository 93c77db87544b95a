//! Flow records out: one file a format, and the largest of them counted.

pub mod csv;
pub mod flow_file;
pub mod jsonl;
pub mod lines;
pub mod parquet;
pub mod top;

/// A format of files of flow records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowFormat {
    /// One JSON object a line.
    JsonLines,
    /// Comma-separated values (RFC 4180).
    Csv,
    /// Apache Parquet.
    Parquet,
}

impl FlowFormat {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::JsonLines, Self::Csv, Self::Parquet];

    /// Its name in flags; with a dot in front, the ending of its files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::JsonLines => "jsonl",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        }
    }

    /// The ending of its files in a store.
    pub const fn ending(self) -> &'static str {
        match self {
            Self::JsonLines => ".jsonl",
            Self::Csv => ".csv",
            Self::Parquet => ".parquet",
        }
    }

    /// Its name in messages.
    pub const fn words(self) -> &'static str {
        match self {
            Self::JsonLines => "JSON lines",
            Self::Csv => "CSV",
            Self::Parquet => "Parquet",
        }
    }

    /// By its name in flags, or the ending of a file without the dot.
    pub fn by_name(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|format| format.name() == name)
    }
}
