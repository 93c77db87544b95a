//! Capture files of any kind, packed or not.
//!
//! The input is a file, read to its end or to its first error. What is held true:
//!
//! - a record is no longer than the longest block believed, and its original length not below that;
//! - records are counted, in the reader and in its errors;
//! - a file that is not packed gives no more bytes than it has, and an error names a byte of it;
//! - the same file gives the same records, times and outcome when it trickles in, and when it is packed
//!   into two frames of zstd or lz4;
//! - reading on after the end or an error gives no panic.
//!
//! A packed file can hold more than there is time for: reading stops after 64 MiB or 65,536 records.

#![no_main]

use std::io::{Cursor, Read};

use libfuzzer_sys::fuzz_target;
use vxtap::source::file::{CaptureError, CaptureFile};
use vxtap::wire::outer::LinkType;

const MAX_BLOCK_LEN: usize = 16 << 20;
const MOST_BYTES: usize = 64 << 20;
const MOST_RECORDS: usize = 1 << 16;
/// Bytes around a packet in the tightest format: the header of a simple packet block, or of a pcap record.
const LEAST_OVERHEAD: usize = 16;

fuzz_target!(|data: &[u8]| {
    let packed = matches!(
        data,
        [0x1f, 0x8b, ..]
            | [0x28, 0xb5, 0x2f, 0xfd, ..]
            | [0x04, 0x22, 0x4d, 0x18, ..]
            | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]
            | [b'B', b'Z', b'h', b'1'..=b'9', 0x31 | 0x17, ..]
            | [0xfd, b'7', b'z', b'X', b'Z', 0, ..]
    );
    let whole = read_all(Cursor::new(data.to_vec()));
    if packed {
        return;
    }
    let told = whole.records.len() * LEAST_OVERHEAD + whole.bytes;
    assert!(told <= data.len(), "{told} bytes out of {}", data.len());
    if let Some(offset) = whole.error_at {
        assert!(offset <= data.len() as u64, "error at byte {offset}");
    }
    let piece = (data.len() / 5).max(1);
    let trickled = read_all(Trickle {
        bytes: Cursor::new(data.to_vec()),
        piece,
    });
    assert_eq!(whole, trickled);
    if checksum(data).is_multiple_of(4) {
        let (first, second) = data.split_at(data.len() / 2);
        // What is no capture is told together with its packing.
        let is_capture = !whole.records.is_empty() || whole.error_at.is_some();
        for frame in [zstd_frame, lz4_frame] {
            let packed = [frame(first), frame(second)].concat();
            let unpacked = read_all(Cursor::new(packed));
            if is_capture {
                assert_eq!(whole, unpacked);
            } else {
                assert_eq!(whole.outcome.is_some(), unpacked.outcome.is_some());
            }
        }
    }
});

/// What a file gave.
#[derive(Debug, Default, PartialEq)]
struct Told {
    records: Vec<(u64, LinkType, u32, u64)>,
    bytes: usize,
    outcome: Option<String>,
    error_at: Option<u64>,
}

fn read_all(input: impl Read + Send + 'static) -> Told {
    let mut told = Told::default();
    let mut file = match CaptureFile::from_reader("input".to_owned(), input) {
        Ok(file) => file,
        Err(error) => {
            told.error(&error);
            return told;
        }
    };
    while told.bytes < MOST_BYTES && told.records.len() < MOST_RECORDS {
        match file.next_record() {
            Ok(Some(record)) => {
                assert!(record.bytes.len() <= MAX_BLOCK_LEN);
                assert!(record.orig_len as usize >= record.bytes.len());
                told.bytes += record.bytes.len();
                told.records.push((
                    record.ts_ns,
                    record.link,
                    record.orig_len,
                    checksum(record.bytes),
                ));
            }
            Ok(None) => {
                assert!(matches!(file.next_record(), Ok(None)), "it goes on");
                break;
            }
            Err(error) => {
                told.error(&error);
                _ = file.next_record();
                return told;
            }
        }
        assert_eq!(file.packets(), told.records.len() as u64);
    }
    told
}

impl Told {
    fn error(&mut self, error: &CaptureError) {
        let mut outcome = error.to_string();
        match error {
            CaptureError::Damaged {
                offset,
                packets,
                unpacked,
                ..
            } => {
                outcome = outcome.replacen(unpacked.as_str(), "", 1);
                self.error_at = Some(*offset);
                assert_eq!(*packets, self.records.len() as u64);
            }
            CaptureError::LinkType { offset, .. } => self.error_at = Some(*offset),
            CaptureError::Open { .. }
            | CaptureError::Directory { .. }
            | CaptureError::Empty { .. }
            | CaptureError::NotACapture { .. } => assert!(self.records.is_empty()),
        }
        self.outcome = Some(outcome);
    }
}

/// A frame that stores `data`, below 64 KiB, as it is (RFC 8878 §3.1.1).
fn zstd_frame(data: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd];
    match data.len() {
        len @ 0..256 => frame.extend([0x20, len as u8]),
        len => {
            frame.push(0x60);
            frame.extend(u16::try_from(len - 256).unwrap().to_le_bytes());
        }
    }
    let last_block = 1 | u32::try_from(data.len()).unwrap() << 3;
    frame.extend(&last_block.to_le_bytes()[..3]);
    frame.extend_from_slice(data);
    frame
}

/// A frame with one block that stores `data`, up to 64 KiB, as it is, and an end mark.
fn lz4_frame(data: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82];
    let size = u32::try_from(data.len()).unwrap();
    frame.extend((1 << 31 | size).to_le_bytes());
    frame.extend_from_slice(data);
    frame.extend([0; 4]);
    frame
}

/// FNV-1a: enough to tell two records apart.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Gives a few bytes at a time.
struct Trickle {
    bytes: Cursor<Vec<u8>>,
    piece: usize,
}

impl Read for Trickle {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let room = buf.len().min(self.piece);
        self.bytes.read(&mut buf[..room])
    }
}
