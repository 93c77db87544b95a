//! Flow records out: one file a format, the way to collectors, and the largest of them counted.

pub mod collector;
pub mod csv;
pub mod flow_file;
pub mod ipfix;
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
    /// IPFIX messages, one behind the other.
    Ipfix,
}

impl FlowFormat {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::JsonLines, Self::Csv, Self::Parquet, Self::Ipfix];

    /// Its name in flags; with a dot in front, the ending of its files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::JsonLines => "jsonl",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
            Self::Ipfix => "ipfix",
        }
    }

    /// The ending of its files in a store.
    pub const fn ending(self) -> &'static str {
        match self {
            Self::JsonLines => ".jsonl",
            Self::Csv => ".csv",
            Self::Parquet => ".parquet",
            Self::Ipfix => ".ipfix",
        }
    }

    /// Its name in messages.
    pub const fn words(self) -> &'static str {
        match self {
            Self::JsonLines => "JSON lines",
            Self::Csv => "CSV",
            Self::Parquet => "Parquet",
            Self::Ipfix => "IPFIX",
        }
    }

    /// Whether it is bytes that a terminal cannot show.
    pub const fn is_binary(self) -> bool {
        matches!(self, Self::Parquet | Self::Ipfix)
    }

    /// By its name in flags, or the ending of a file without the dot.
    pub fn by_name(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|format| format.name() == name)
    }
}
