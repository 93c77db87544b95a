//! What this process takes of the machine, from the text of `/proc/self`.

use std::fs;

/// Ticks of a second in `/proc/self/stat`: USER_HZ, which is 100 on every architecture that Linux shows programs.
const TICKS: f64 = 100.0;

/// What this process takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Process {
    /// Time on cores, in seconds, of all threads together.
    pub cpu_seconds: f64,
    /// Memory that is resident, in bytes.
    pub resident_bytes: u64,
    /// Open descriptors.
    pub open_fds: u64,
    /// Threads.
    pub threads: u64,
}

impl Process {
    /// As it is now; `None` where the system does not tell.
    pub fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let open = fs::read_dir("/proc/self/fd").ok()?.count();
        // The directory that is being read is one of them.
        parse(&stat, &status, open.saturating_sub(1) as u64)
    }
}

/// Pure.
fn parse(stat: &str, status: &str, open_fds: u64) -> Option<Process> {
    // The name in parentheses may hold anything; behind it the state is the third field.
    let (_, behind) = stat.rsplit_once(')')?;
    let field = |number: usize| behind.split_whitespace().nth(number - 3)?.parse().ok();
    let (user, system): (f64, f64) = (field(14)?, field(15)?);
    let line = |name: &str| {
        let mut lines = status.lines();
        let value = lines.find_map(|line| line.strip_prefix(name))?;
        value.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(Process {
        cpu_seconds: (user + system) / TICKS,
        resident_bytes: line("VmRSS:")?.saturating_mul(1024),
        open_fds,
        threads: line("Threads:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read_by_its_fields() {
        let stat = "812 (a) b (c) S 1 812 812 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 9 0 1 2 3";
        let status = "Name:\tvxtap\nVmRSS:\t    2048 kB\nThreads:\t9\n";
        let process = parse(stat, status, 12).unwrap();
        let expected = Process {
            cpu_seconds: 2.0,
            resident_bytes: 2 << 20,
            open_fds: 12,
            threads: 9,
        };
        assert_eq!(process, expected);
        for (stat, status) in [("", status), ("1 (a) S 1", status), (stat, "Threads: 1")] {
            assert_eq!(parse(stat, status, 0), None);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_one() {
        let process = Process::read().unwrap();
        assert!(
            process.resident_bytes > 1 << 20 && process.threads > 0,
            "{process:?}"
        );
    }
}
