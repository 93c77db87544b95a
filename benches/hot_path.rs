//! What a packet costs a worker: decapsulation, inner headers, length, session, flow table and encoding,
//! without a socket, a file or another thread. Ends with 1 when the steady state asks for memory.
//!
//!     cargo bench --bench hot_path -- [PACKETS] [FLOWS...]        default 4000000 10000 1000000
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark reads the clock and prints"
)]

#[path = "../tests/common/hot_path.rs"]
mod hot_path;

use std::process::ExitCode;
use std::time::Instant;

use hot_path::{Counting, Load, allocations};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Measured in so many pieces, of which the fastest and the one in the middle are told.
const PIECES: u32 = 10;

fn main() -> ExitCode {
    // Cargo adds `--bench` of its own.
    let mut numbers = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.parse().ok());
    let packets: u32 = numbers.next().unwrap_or(4_000_000);
    let mut flows: Vec<u32> = numbers.collect();
    if flows.is_empty() {
        flows = vec![10_000, 1_000_000];
    }
    println!("{packets} packets, {PIECES} pieces");
    println!("    flows   ns/packet (fastest)   allocations/packet");
    let mut asked = 0;
    for flows in flows {
        let mut load = Load::new(flows, flows);
        load.open_all();
        load.feed(packets / PIECES);
        let mut pieces: Vec<f64> = Vec::with_capacity(PIECES as usize);
        let before = allocations();
        let mut of_ours = 0;
        for _ in 0..PIECES {
            let begin = Instant::now();
            load.feed(packets / PIECES);
            let each = begin.elapsed().as_secs_f64() * 1e9 / f64::from(packets / PIECES);
            of_ours = allocations() - before;
            pieces.push(each);
        }
        pieces.sort_by(f64::total_cmp);
        let fastest = pieces.first().copied().unwrap_or_default();
        let middle = pieces.get(pieces.len() / 2).copied().unwrap_or_default();
        println!(
            "{flows:9}   {middle:9.1} ({fastest:7.1})   {:18.6}",
            of_ours as f64 / f64::from(packets)
        );
        asked += of_ours;
    }
    if asked == 0 {
        ExitCode::SUCCESS
    } else {
        println!("the steady state asked for memory {asked} times");
        ExitCode::FAILURE
    }
}
