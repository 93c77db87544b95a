//! What a live run may take of the machine (`--cpu-limit`, `--disk-rate`), and how much of the capture is given up so that it
//! takes no more. Flow records are never given up.
//!
//! A thread of its own looks ten times a second. Workers read one number for each frame they would store, and leave out
//! whole conversations, so that what is stored stays readable. [`Governor`] decides and is pure.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::account::Kind;
use super::watch::Watch;
use crate::threads::{self, NoThread};

/// How often it is looked what the run takes.
const LOOK: Duration = Duration::from_millis(100);
/// All of the capture is given up.
pub const ALL: u32 = 1024;
/// So much of the limit is used before anything comes back: or the run would swing about it.
const COMFORT: f64 = 0.9;
/// What comes back of the capture with each look: all of it in ten seconds.
const BACK: f64 = ALL as f64 / 100.0;
/// The share by which one look counts for the average: a second's memory.
const WEIGHT: f64 = 0.1;

/// The most a run may take.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Budget {
    /// Cores it may keep busy: 1.2 for 60 % of two.
    pub cores: Option<f64>,
    /// Bytes a second that the capture may write.
    pub disk_rate: Option<u64>,
}

impl Budget {
    /// Whether there is a limit.
    pub const fn is_some(&self) -> bool {
        self.cores.is_some() || self.disk_rate.is_some()
    }
}

/// How much of the capture is given up, of [`ALL`]; read by workers.
#[derive(Debug, Default)]
pub struct Shed(AtomicU32);

impl Shed {
    /// Whether a frame is left out, by a number that frames of a conversation share.
    #[inline]
    pub fn leaves_out(&self, mix: impl FnOnce() -> u32) -> bool {
        match self.0.load(Ordering::Relaxed) {
            0 => false,
            share => mix() % ALL < share,
        }
    }
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `--cpu-limit`.
    Cpu,
    /// `--disk-rate`.
    Disk,
}

impl Limit {
    /// The flag that sets it.
    pub const fn flag(self) -> &'static str {
        match self {
            Self::Cpu => "--cpu-limit",
            Self::Disk => "--disk-rate",
        }
    }
}

/// Decides how much is given up, from what was taken.
#[derive(Debug)]
pub struct Governor {
    budget: Budget,
    cpu: Load,
    disk: Load,
}

/// One thing that a run takes.
#[derive(Debug, Default)]
struct Load {
    /// So far.
    taken: f64,
    /// Used of the limit, on average over a second.
    used: f64,
    /// Given up for it.
    share: f64,
}

impl Load {
    /// `taken` so far, `allowed` since the last look.
    fn look(&mut self, taken: f64, allowed: f64) {
        let used = (taken - self.taken).max(0.0) / allowed;
        self.taken = taken;
        self.used += (used - self.used) * WEIGHT;
        let all = f64::from(ALL);
        // A burst is let pass; what goes on is answered in proportion.
        if self.used > 1.0 {
            self.share += all * (self.used - 1.0).clamp(0.01, 0.25);
        } else if self.used < COMFORT {
            self.share -= BACK;
        }
        self.share = self.share.clamp(0.0, all);
    }
}

impl Governor {
    /// Nothing was taken so far.
    pub fn new(budget: Budget) -> Self {
        Self {
            budget,
            cpu: Load::default(),
            disk: Load::default(),
        }
    }

    /// How much is to be given up, of [`ALL`], and for which limit. `passed` since the last look, in which the process has
    /// come to so much CPU time and the capture to so many bytes, both since the beginning.
    pub fn look(&mut self, passed: Duration, cpu: Duration, bytes: u64) -> (u32, Option<Limit>) {
        let passed = passed.as_secs_f64().max(0.001);
        if let Some(cores) = self.budget.cores {
            self.cpu.look(cpu.as_secs_f64(), cores * passed);
        }
        if let Some(rate) = self.budget.disk_rate {
            self.disk.look(bytes as f64, rate as f64 * passed);
        }
        let (share, limit) = match self.cpu.share >= self.disk.share {
            true => (self.cpu.share, Limit::Cpu),
            false => (self.disk.share, Limit::Disk),
        };
        let share = share.round() as u32;
        (share, (share > 0).then_some(limit))
    }
}

/// Keeps a run within `budget` from now on, as long as somebody holds what is returned. `watch` sees its sinks.
///
/// # Errors
///
/// When the system has no thread.
pub fn keep(budget: Budget, watch: Watch) -> Result<Arc<Shed>, NoThread> {
    let shed = Arc::new(Shed::default());
    let told = Arc::downgrade(&shed);
    threads::start("vxtap-limits", move || {
        let mut governor = Governor::new(budget);
        #[allow(
            clippy::disallowed_methods,
            reason = "ten times a second, on a thread of its own"
        )]
        let now = std::time::Instant::now;
        let mut last = now();
        // What the process took before the run is not the run's.
        governor.cpu.taken = cpu_time().as_secs_f64();
        let mut given_up_for = None;
        loop {
            std::thread::sleep(LOOK);
            let Some(shed) = told.upgrade() else { return };
            let at = now();
            let captures = watch
                .standings()
                .filter(|(kind, ..)| *kind == Kind::Capture);
            let bytes = captures.map(|(.., standing)| standing.bytes).sum();
            let passed = at - last;
            last = at;
            let (share, limit) = governor.look(passed, cpu_time(), bytes);
            shed.0.store(share, Ordering::Relaxed);
            if limit.is_some() != given_up_for.is_some() {
                tell(limit, given_up_for);
                given_up_for = limit;
            }
        }
    })?;
    Ok(shed)
}

fn tell(limit: Option<Limit>, before: Option<Limit>) {
    match (limit, before) {
        (Some(limit), _) => tracing::warn!(
            "{} is reached: a part of the conversations is left out of the capture; flow records go on",
            limit.flag()
        ),
        (None, Some(before)) => {
            tracing::info!("within {} again: the capture is whole", before.flag())
        }
        (None, None) => {}
    }
}

/// CPU time of all threads of this process (CLOCK_PROCESS_CPUTIME_ID of clock_gettime(2)).
fn cpu_time() -> Duration {
    let clock = nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID;
    nix::time::clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run whose work falls as its capture is given up: `fixed` and `capture` are cores.
    fn settle(limit: f64, fixed: f64, capture: f64, looks: u32) -> (f64, u32) {
        let budget = Budget {
            cores: Some(limit),
            disk_rate: None,
        };
        let mut governor = Governor::new(budget);
        let (mut cpu, mut share, mut last_second) = (0.0, 0, Vec::new());
        for _ in 0..looks {
            let kept = 1.0 - f64::from(share) / f64::from(ALL);
            let used = fixed + capture * kept;
            cpu += used * LOOK.as_secs_f64();
            last_second.push(used);
            share = governor.look(LOOK, Duration::from_secs_f64(cpu), 0).0;
        }
        let last: Vec<f64> = last_second.into_iter().rev().take(100).collect();
        (last.iter().sum::<f64>() / 100.0, share)
    }

    #[test]
    fn a_run_within_its_budget_gives_nothing_up() {
        let (used, share) = settle(1.0, 0.3, 0.6, 1000);
        assert_eq!(share, 0);
        assert!((used - 0.9).abs() < 0.01, "{used}");
    }

    #[test]
    fn a_run_beyond_it_gives_up_what_it_must() {
        // 0.5 cores are asked for beside flow records; 0.3 are left for them.
        let (used, share) = settle(0.6, 0.3, 0.5, 1000);
        assert!((0.5..=0.62).contains(&used), "{used}");
        assert!((ALL / 4..ALL).contains(&share), "{share}");
    }

    #[test]
    fn flow_records_alone_may_be_too_much() {
        let (used, share) = settle(0.2, 0.3, 0.5, 1000);
        assert_eq!(share, ALL);
        assert!((used - 0.3).abs() < 0.01, "{used}");
    }

    #[test]
    fn a_burst_is_let_pass_and_the_capture_comes_back() {
        let budget = Budget {
            cores: None,
            disk_rate: Some(1_000_000),
        };
        let mut governor = Governor::new(budget);
        let mut bytes = 0;
        let mut step = |governor: &mut Governor, more: u64| {
            bytes += more;
            governor.look(LOOK, Duration::ZERO, bytes)
        };
        // 300 kB at once, in a second that allows for 1 MB.
        assert_eq!(step(&mut governor, 300_000), (0, None));
        for _ in 0..30 {
            assert_eq!(step(&mut governor, 80_000), (0, None));
        }
        let over = (0..30).map(|_| step(&mut governor, 200_000)).last();
        assert!(
            over.is_some_and(|(share, limit)| share > 0 && limit == Some(Limit::Disk)),
            "{over:?}"
        );
        for _ in 0..200 {
            step(&mut governor, 10_000);
        }
        assert_eq!(step(&mut governor, 10_000), (0, None));
    }

    #[test]
    fn whole_conversations_are_left_out() {
        let shed = Shed::default();
        assert!(!shed.leaves_out(|| unreachable!("nothing is given up")));
        shed.0.store(ALL / 2, Ordering::Relaxed);
        assert!(shed.leaves_out(|| ALL / 2 - 1) && !shed.leaves_out(|| ALL / 2));
        shed.0.store(ALL, Ordering::Relaxed);
        assert!(shed.leaves_out(|| u32::MAX));
    }
}
