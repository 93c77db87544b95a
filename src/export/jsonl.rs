//! Flow records as JSON lines: one object a line.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::flow::community_id::CommunityId;
use crate::flow::record::{FlowId, FlowRecord, Time};
use crate::flow::text::{self, Text};
use crate::outfile::{Creation, OutError, OutFile};
use crate::wire::inner::Mac;

/// Bytes gathered before they are written.
const BUFFER_LEN: usize = 64 << 10;

/// Most bytes of memory for what is gathered: the line that fills it makes it twice as large.
pub const MEMORY_BYTES: usize = 2 * BUFFER_LEN;

/// A file of flow records being written.
pub struct JsonLines {
    out: OutFile,
    buffer: Vec<u8>,
    /// Records in the buffer.
    buffered: u64,
    written: u64,
    lost: u64,
    error: Option<OutError>,
    has_failed: bool,
}

impl JsonLines {
    /// Begins a file at `path`; `-` is standard output.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn create(path: &Path, creation: Creation) -> Result<Self, OutError> {
        Ok(Self {
            out: OutFile::create_as(path, creation)?,
            buffer: Vec::with_capacity(BUFFER_LEN),
            buffered: 0,
            written: 0,
            lost: 0,
            error: None,
            has_failed: false,
        })
    }

    /// Adds a record. What cannot be written is counted in [`Self::lost`].
    pub fn write(&mut self, record: &FlowRecord) {
        if self.has_failed {
            self.lost += 1;
            return;
        }
        write_line(record, &mut self.buffer);
        self.buffered += 1;
        if self.buffer.len() >= BUFFER_LEN {
            self.flush();
        }
    }

    /// Writes out what is gathered, so that it can be read. Where the disk takes only a part, the whole lines
    /// of it stay, and the failure is kept for [`Self::take_error`].
    pub fn flush(&mut self) {
        let records = std::mem::take(&mut self.buffered);
        let before = self.out.bytes();
        let mut kept = records;
        if let Err(error) = self.out.write(&self.buffer) {
            let len = usize::try_from(self.out.bytes() - before).unwrap_or(usize::MAX);
            let taken = self.buffer.get(..len).unwrap_or_default();
            let whole = taken.iter().rposition(|byte| *byte == b'\n');
            let whole = whole.map_or(0, |at| at + 1);
            kept = taken.iter().filter(|byte| **byte == b'\n').count() as u64;
            self.has_failed = true;
            self.error = Some(error);
            if let Err(error) = self.out.cut_to(before + whole as u64) {
                tracing::warn!(%error, "a half-written record stays at the end");
            }
        }
        self.buffer.clear();
        self.written += kept;
        self.lost += records - kept;
    }

    /// Its name in messages.
    pub fn path(&self) -> &str {
        self.out.path()
    }

    /// Counts bytes brought to the disk at the end; see [`OutFile::synced`].
    pub fn synced(&self) -> Arc<AtomicU64> {
        self.out.synced()
    }

    /// Records that are in the file.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Bytes of the file.
    pub const fn bytes(&self) -> u64 {
        self.out.bytes()
    }

    /// Records that could not be written.
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether something went wrong: nothing is written any more.
    pub const fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// What went wrong, once.
    pub const fn take_error(&mut self) -> Option<OutError> {
        self.error.take()
    }

    /// Ends the file and tells where it is and its bytes: under its name, or, when records are missing in it, under its hidden
    /// name, so that nobody takes it for whole.
    ///
    /// # Errors
    ///
    /// When the file cannot be given its name.
    pub fn finish(self) -> Result<(String, u64), OutError> {
        let bytes = self.out.bytes();
        if self.has_failed {
            let path = self.out.path().to_owned();
            return Ok((self.out.keep_part()?.unwrap_or(path), bytes));
        }
        Ok((self.out.finish()?, bytes))
    }
}

/// Appends `record` as one line: the fields by their names, in the order they are documented in.
pub fn write_line(record: &FlowRecord, out: &mut Vec<u8>) {
    macro_rules! fields {
        ($($name:ident),+ $(,)?) => {
            $(record.$name.write(concat!(",\"", stringify!($name), "\":").as_bytes(), out);)+
        };
    }
    let start = out.len();
    #[rustfmt::skip]
    fields!(
        ts_start, ts_end, dur_ns, flow_id, community_id, vni, outer_src, outer_dst, tunnel,
        src_ip, src_port, dst_ip, dst_port, proto, ip_v, icmp_type, icmp_code, vlan, vlan_inner,
        src_mac, dst_mac,
        pkts_o, pkts_r, ip_bytes_o, ip_bytes_r, l2_bytes_o, l2_bytes_r, cap_bytes_o, cap_bytes_r,
        trunc_pkts_o, trunc_pkts_r, trunc_missing_o, trunc_missing_r, max_ip_len_o, max_ip_len_r,
        frag_pkts, tcp_flags_o, tcp_flags_r, tos, ttl_min, ttl_max, end_reason,
    );
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
    &'static str: |text: &&'static str| text.as_bytes(),
);

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

impl Value for [IpAddr; 1] {
    fn write(&self, name: &[u8], out: &mut Vec<u8>) {
        let [address] = self;
        out.extend_from_slice(name);
        address.write(b"[", out);
        out.push(b']');
    }
}
