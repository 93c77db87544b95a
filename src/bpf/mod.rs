//! Programs that run in the kernel, built as values: one assembler, the ring's filter, the steering of
//! flows to workers, and the drop behind the ring. Pure: loading them is `sys`.

pub mod assembler;
pub mod drop;
pub mod ebpf;
pub mod filter;
pub mod refuse;
pub mod steer;
