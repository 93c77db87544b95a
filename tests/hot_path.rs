//! The hot path asks for no memory: what a packet needs is there before it comes.

#[path = "common/hot_path.rs"]
mod hot_path;

use std::sync::{Mutex, MutexGuard};

use hot_path::{Counting, Load, allocations};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The count is of all threads: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// How often memory is asked for while `packets` go through.
fn during(load: &mut Load, packets: u32) -> u64 {
    let before = allocations();
    load.feed(packets);
    allocations() - before
}

#[test]
fn packets_of_known_flows_ask_for_no_memory() {
    let _alone = alone();
    let mut load = Load::new(5_000, 10_000);
    load.open_all();
    load.feed(20_000);
    assert_eq!(during(&mut load, 100_000), 0);
}

/// A flow that makes room becomes a record, and records travel by the hundred.
#[test]
fn a_full_table_asks_for_memory_once_in_a_hundred_flows() {
    let _alone = alone();
    let mut load = Load::new(50_000, 1_000);
    load.open_all();
    let asked = during(&mut load, 100_000);
    assert!(asked <= 1_000, "asked {asked} times for 100,000 new flows");
}
