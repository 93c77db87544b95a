//! How much memory this machine has left.

/// Bytes of memory that programs can still have (`MemAvailable` of /proc/meminfo).
pub fn memory() -> Option<u64> {
    available(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn available(meminfo: &str) -> Option<u64> {
    let mut lines = meminfo.lines();
    let line = lines.find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_of_memory() {
        let text = "MemTotal:       2048 kB\nMemAvailable:    1000 kB\nSwapFree: 1 kB\n";
        assert_eq!(available(text), Some(1_024_000));
        assert_eq!(available("MemAvailable: many kB\n"), None);
        assert_eq!(available(""), None);
    }
}
