//! An input that may keep its reader waiting: a pipe, a FIFO, a terminal. The wait ends when the run does.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::say::say;
use crate::stop::Stop;

/// How late the end of the run may be noticed.
#[cfg(target_os = "linux")]
const LOOK_EVERY_MS: i32 = 20;
/// Looks without a byte until that is told of a named pipe: about a second.
#[cfg(target_os = "linux")]
const TELL_AFTER: u32 = 50;

/// Bytes of a file, as they come.
pub struct Input {
    file: File,
    stop: Arc<Stop>,
    waits: bool,
    pauses: Arc<AtomicBool>,
    /// A named pipe that nothing has come from yet, and the looks in vain.
    silent: Option<(String, u32)>,
}

impl Input {
    /// Reads `file` until `stop` is set.
    pub fn new(file: File, stop: &Arc<Stop>) -> Self {
        let waits = !file.metadata().is_ok_and(|meta| meta.is_file());
        Self {
            file,
            stop: Arc::clone(stop),
            waits,
            pauses: Arc::default(),
            silent: None,
        }
    }

    /// The same, of the file called `name`: where that is a named pipe, a long wait for its first byte is told.
    pub fn named(mut self, name: &str) -> Self {
        self.silent = self.waits.then(|| (name.to_owned(), 0));
        self
    }

    /// While this is set, a wait in vain ends with [`io::ErrorKind::WouldBlock`] after a moment, so that the
    /// reader can do something else. `None` where nothing has to be waited for.
    pub fn pauses(&self) -> Option<Arc<AtomicBool>> {
        self.waits.then(|| Arc::clone(&self.pauses))
    }

    /// Waits until something can be read.
    #[cfg(target_os = "linux")]
    fn wait(&mut self) -> io::Result<()> {
        use std::os::fd::AsFd;

        while crate::sys::wait_readable([self.file.as_fd()], LOOK_EVERY_MS)? == 0 {
            self.check()?;
            self.tell_of_silence();
            if self.pauses.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        Ok(())
    }

    #[cfg(target_os = "linux")]
    fn tell_of_silence(&mut self) {
        if let Some((name, looks)) = &mut self.silent {
            *looks += 1;
            if *looks == TELL_AFTER {
                say(format!(
                    "vxtap: nothing comes from {name} yet: waiting for somebody to write to it\n"
                ));
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn wait(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn check(&self) -> io::Result<()> {
        match self.stop.is_set() {
            // Not `Interrupted`, which readers take for "try again".
            true => Err(io::Error::other("the run was ended")),
            false => Ok(()),
        }
    }
}

impl Read for Input {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            self.check()?;
            if self.waits {
                self.wait()?;
            }
            match self.file.read(buf) {
                // Whoever gave us the descriptor made it non-blocking, and somebody else took what was there.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.waits => {}
                outcome => {
                    self.silent = None;
                    return outcome;
                }
            }
        }
    }
}

/// Standard input, read without a buffer in between: what is in one cannot be waited for.
pub fn standard_input(stop: &Arc<Stop>) -> io::Result<Input> {
    #[cfg(unix)]
    let file = {
        use std::os::fd::AsFd;

        File::from(io::stdin().as_fd().try_clone_to_owned()?)
    };
    #[cfg(not(unix))]
    let file = {
        use std::os::windows::io::AsHandle;

        File::from(io::stdin().as_handle().try_clone_to_owned()?)
    };
    Ok(Input::new(file, stop))
}

/// Opens `path` for reading. A FIFO without a writer is open at once; [`Input`] waits for the writer.
#[cfg(target_os = "linux")]
pub fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

    let mut options = File::options();
    options.read(true);
    let kind = path.metadata()?.file_type();
    if kind.is_socket() {
        return Err(io::Error::other("it is a socket: name a file or a FIFO"));
    }
    if kind.is_fifo() {
        options.custom_flags(libc::O_NONBLOCK);
    }
    options.open(path)
}

/// Opens `path` for reading.
#[cfg(not(target_os = "linux"))]
pub fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}
