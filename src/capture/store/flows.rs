//! Flow records into the files of a store.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::holdings::Told;
use super::rolling::{Class, Content, Ended, Plan, Rolling, StoreError};
use super::rotation::Reason;
use crate::capture::terms::Terms;
use crate::export::FlowFormat;
use crate::export::flow_file::FlowFile;
use crate::export::lines::LINE_ROOM;
use crate::flow::record::FlowRecord;
use crate::outfile::{ItemFile, OutError, Standing};

/// Behind the prefix in the names of flow files.
const SUFFIX: &str = "-flows";
/// How long behind its interval a file stays open, live, for records that end with that: a worker that hears nothing looks
/// at the clock after a second, and a large table takes a while. No flow that began in the next one ends earlier by
/// silence.
const GRACE: Duration = Duration::from_secs(5);

/// The flow files of one store being written.
pub struct FlowStore {
    format: FlowFormat,
    files: Rolling<FlowFile>,
}

impl FlowStore {
    /// Opens the store in `dir`, which is made where it is not there, and finishes what killed runs left. The plan is
    /// that of captures: packets of a file count for records.
    ///
    /// # Errors
    ///
    /// When the directory cannot be written to, or the system has no thread.
    pub fn open(
        dir: &Path,
        format: FlowFormat,
        plan: &Plan,
        now_ns: u64,
    ) -> Result<Self, StoreError> {
        let plan = Plan {
            prefix: format!("{}{SUFFIX}", plan.prefix),
            ending: format.ending(),
            compression: None,
            grace: match plan.flow_interval() {
                Some(_) => GRACE,
                None => plan.grace,
            },
            ..plan.clone()
        };
        let files = Rolling::open(dir, plan, now_ns)?;
        Ok(Self { format, files })
    }

    /// Adds a record. Its end decides which file it goes to.
    pub fn write(&mut self, record: &FlowRecord) {
        let ts_ns = record.ts_end.0;
        let Self { format, files } = self;
        loop {
            let begin = |file, _: &_| FlowFile::begin(*format, file);
            if !files.is_ready(Class::All, ts_ns, LINE_ROOM, begin) {
                return files.lose(1);
            }
            let mut one = Some((ts_ns, LINE_ROOM));
            let fitting = files.fitting(Class::All, || one.take());
            if let Some(reason) = fitting.ends {
                if reason == Reason::Size && files.settle(Class::All) {
                    continue;
                }
                // The next file takes a record of any size.
                files.end_file(Class::All, reason);
                continue;
            }
            if let Some(file) = files.take(Class::All, &fitting) {
                file.writer.write(record);
                if file.writer.file().has_failed() {
                    files.fail(Class::All);
                }
            }
            return;
        }
    }

    /// Its directory, in messages.
    pub fn path(&self) -> &str {
        self.files.path()
    }

    /// Writes what is gathered, so that it can be read.
    pub fn flush(&mut self) {
        self.files.flush();
    }

    /// Does what is due at `now`, since any fixed moment, and `wall_ns`, nanoseconds since 1970.
    pub fn tick(&mut self, now: Duration, wall_ns: u64) {
        self.files.tick(now, wall_ns);
    }

    /// Ends the file that is open, and goes on in another.
    pub fn rotate(&mut self) {
        self.files.end_all(Reason::Asked);
    }

    /// From now on the files go by other terms.
    pub fn change(&mut self, terms: &Terms) {
        self.files.change(terms);
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        self.files.standing()
    }

    /// Counts bytes that are brought to the disk.
    pub fn synced(&self) -> Arc<AtomicU64> {
        self.files.synced()
    }

    /// Where is told what it holds.
    pub fn holdings(&self) -> Told {
        self.files.holdings()
    }

    /// What ends the run, once.
    pub const fn take_error(&mut self) -> Option<OutError> {
        self.files.take_error()
    }

    /// Ends the file and waits for it.
    pub fn close(&mut self) {
        self.files.close();
    }
}

impl Content for FlowFile {
    fn file(&self) -> &ItemFile {
        self.file()
    }

    fn take_error(&mut self) -> Option<OutError> {
        self.take_error()
    }

    fn flush(&mut self) {
        self.flush();
    }

    fn settle(&mut self, _least: u64) -> bool {
        self.settle()
    }

    fn tick(&mut self, _now: Duration) {}

    fn sync(&mut self) -> Result<(), OutError> {
        self.sync()
    }

    fn bytes_at_end(&self) -> u64 {
        self.bytes_at_end()
    }

    fn end(mut self, _kernel_dropped: u64) -> Result<Ended, OutError> {
        FlowFile::end(&mut self);
        let span = self.span();
        let standing = self.file().standing();
        Ok(Ended {
            error: self.take_error(),
            out: self.into_out(),
            standing,
            span,
            sessions: 0,
            index: None,
        })
    }
}
