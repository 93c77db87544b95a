//! What came of taking packets out, for people and as JSON.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use super::output::Taken;
use super::time;

/// What was found, and what it took.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Version of this program.
    pub version: &'static str,
    /// Where the packets are.
    pub file: String,
    /// Packets found.
    pub packets: u64,
    /// Time of the earliest, RFC 3339, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
    /// Time of the latest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// The file that holds the earliest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_file: Option<String>,
    /// Where in that file it begins, in bytes; of the unpacked file where that is packed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_off: Option<u64>,
    /// Packets that the flow record counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow_packets: Option<u64>,
    /// Packets that come behind a later one, because their file has them so, far behind.
    pub out_of_order: u64,
    /// Files there are.
    pub files: u64,
    /// Files of which the index said what to read.
    #[serde(rename = "files_by_index", serialize_with = "count")]
    pub by_index: BTreeSet<usize>,
    /// Files that are from another time, by the manifest.
    #[serde(rename = "files_of_other_times", serialize_with = "count")]
    pub by_time: BTreeSet<usize>,
    /// Files that were read whole, and why.
    #[serde(rename = "files_read_whole")]
    pub scanned: Vec<Scanned>,
    /// Files of classic pcap, which keeps no mirror sessions, where one was asked for and that matters.
    #[serde(rename = "files_without_sessions", serialize_with = "count")]
    pub classic: BTreeSet<usize>,
    /// Files of a store that are still being written: they are not read.
    pub files_open: u64,
    /// Bytes of all files.
    pub bytes_total: u64,
    /// Bytes that were read, indexes included.
    pub bytes_read: u64,
    /// Packets that were looked at.
    pub packets_read: u64,
    /// How long it took.
    pub seconds: f64,
    /// What went wrong.
    pub errors: Vec<String>,
    #[serde(skip)]
    pub(super) faulty: BTreeSet<usize>,
    /// Files and where in them pieces are damaged.
    #[serde(skip)]
    pub(super) damaged: BTreeSet<(usize, u64)>,
    #[serde(skip)]
    last_ns: u64,
}

/// A file that was read whole.
#[derive(Debug, Serialize)]
pub struct Scanned {
    /// The file.
    pub file: String,
    /// Why; empty where everything was asked for.
    pub why: String,
}

fn count<S: serde::Serializer>(set: &BTreeSet<usize>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(set.len() as u64)
}

impl Report {
    pub(super) fn new(files_open: u64) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            files_open,
            ..Self::default()
        }
    }

    /// Counts a packet that goes out.
    pub(super) fn add(&mut self, packet: &Taken, file: &Path) {
        if self.packets == 0 {
            self.first_file = Some(file.display().to_string());
            self.first_off = Some(packet.place.1);
            self.first = Some(time(packet.ts_ns));
        }
        self.packets += 1;
        self.out_of_order += u64::from(packet.ts_ns < self.last_ns);
        self.last_ns = self.last_ns.max(packet.ts_ns);
    }

    /// The report as people read it, each line with its end.
    pub fn page(&self) -> String {
        let Self {
            file,
            files,
            packets,
            bytes_read,
            bytes_total,
            seconds,
            ..
        } = self;
        let mut page = match packets {
            0 => format!("vxtap: no packet fits; {file} has none\n"),
            1 => format!("vxtap: 1 packet in {file}\n"),
            _ => format!("vxtap: {packets} packets in {file}\n"),
        };
        if let (of, 1..) = (self.files, self.classic.len()) {
            let (are, them) = match self.classic.len() {
                1 => ("is", "it"),
                _ => ("are", "them"),
            };
            page.push_str(&format!(
                "vxtap: {} of {} {are} classic pcap, which keeps no mirror session: --vni and --flow find nothing in \
                 {them}; --host, --community-id, --since and --until do\n",
                self.classic.len(),
                numbered(of, "file"),
            ));
        }
        if let Some(of_flow) = self.flow_packets.filter(|of_flow| of_flow != packets) {
            page.push_str(&format!(
                "vxtap: the flow record counts {of_flow}: the others are in files that are not here, were lost on \
                 their way to the disk, or do not fit what else is asked for\n"
            ));
        }
        if self.out_of_order > 0 {
            page.push_str(&format!(
                "vxtap: {} of them come behind a later one, as in their files\n",
                self.out_of_order
            ));
        }
        if self.files_open > 0 {
            page.push_str(&format!(
                "vxtap: not read, since still being written: {}\n",
                numbered(self.files_open, "file")
            ));
        }
        let share = match bytes_total {
            0 => 0.0,
            total => *bytes_read as f64 * 100.0 / *total as f64,
        };
        page.push_str(&format!(
            "vxtap: {}: {} by index, {} read whole, {} of other times; {bytes_read} of {bytes_total} bytes read \
             ({share:.2} %), {} looked at, {seconds:.3} s\n",
            numbered(*files, "file"),
            self.by_index.len(),
            self.scanned.len(),
            self.by_time.len(),
            numbered(self.packets_read, "packet"),
        ));
        page
    }

    /// Completes it with the time it took.
    pub fn took(&mut self, seconds: f64) {
        self.seconds = seconds;
        if self.packets > 0 {
            self.last = Some(time(self.last_ns));
        }
    }
}

fn numbered(number: u64, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}
