//! A progress bar on a terminal, for what takes a while.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::threads;

/// Smaller inputs are done before a progress bar could be read.
const PROGRESS_FROM_BYTES: u64 = 32 << 20;

/// A progress bar over the bytes taken off the disk.
pub struct Progress {
    bar: Option<(ProgressBar, Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Progress {
    /// Bytes of files to be read; `None` where no bar is worth while.
    pub fn total(files: &[PathBuf]) -> Option<u64> {
        let files = files.iter().filter_map(|path| path.metadata().ok());
        Self::worth_while(files.map(|meta| meta.len()).sum())
    }

    /// So many bytes, if they are worth a bar and there is a terminal to show it.
    pub fn worth_while(total: u64) -> Option<u64> {
        (total >= PROGRESS_FROM_BYTES && std::io::stderr().is_terminal()).then_some(total)
    }

    /// Shows a bar for `total` bytes, if there are so many, that moves as `bytes_read` does.
    pub fn start(total: Option<u64>, bytes_read: &Arc<AtomicU64>) -> Self {
        let Some(total) = total else {
            return Self { bar: None };
        };
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let template =
            "{wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let done = Arc::new(AtomicBool::new(false));
        let thread = {
            let (bar, done, bytes_read) = (bar.clone(), Arc::clone(&done), Arc::clone(bytes_read));
            threads::start("vxtap-progress", move || {
                while !done.load(Ordering::Relaxed) {
                    bar.set_position(bytes_read.load(Ordering::Relaxed));
                    std::thread::sleep(Duration::from_millis(100));
                }
            })
        };
        Self {
            // The run goes on without it.
            bar: thread.ok().map(|thread| (bar, done, thread)),
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Some((bar, done, thread)) = self.bar {
            done.store(true, Ordering::Relaxed);
            let _ = thread.join();
            bar.finish_and_clear();
        }
    }
}
