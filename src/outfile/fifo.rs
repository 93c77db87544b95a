//! A FIFO that is written to: it is open once somebody reads it, and the wait for that ends with the run.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::say::say;
use crate::stop::Stop;

/// How often it is looked for a reader.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Looks without a reader until that is told: about a second.
const TELL_AFTER: u32 = 50;

/// Opens the FIFO at `path` for writing when it has a reader; `None` when `stop` was set before that.
pub fn open(path: &Path, stop: &Stop) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    // An open that waits cannot be ended from outside.
    options.write(true).custom_flags(OFlag::O_NONBLOCK.bits());
    let mut looks = 0;
    loop {
        match options.open(path) {
            Ok(file) => {
                let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
                let waiting = flags - OFlag::O_NONBLOCK;
                fcntl(&file, FcntlArg::F_SETFL(waiting))?;
                return Ok(Some(file));
            }
            Err(error) if error.raw_os_error() == Some(Errno::ENXIO as i32) => {}
            Err(error) => return Err(error),
        }
        if stop.is_set() {
            return Ok(None);
        }
        looks += 1;
        if looks == TELL_AFTER {
            say(format!(
                "vxtap: {0} is a FIFO that nobody reads yet: waiting for a reader, as 'tshark -r {0}' or 'cat {0}'\n",
                path.display()
            ));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;
    use crate::stop::Why;

    #[test]
    fn a_reader_opens_it_and_a_stop_ends_the_wait() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        let stop = Stop::new();
        let content = std::thread::scope(|scope| {
            let reader = scope.spawn(|| std::fs::read(&path).unwrap());
            let mut file = open(&path, &stop).unwrap().unwrap();
            // More than a pipe holds: a write waits for the reader.
            file.write_all(&vec![7; 1 << 20]).unwrap();
            drop(file);
            reader.join().unwrap()
        });
        assert_eq!(content, vec![7; 1 << 20]);
        stop.order(Why::TimeIsUp);
        assert!(open(&path, &stop).unwrap().is_none());
        // A reader that is there is served all the same.
        let mut reader = OpenOptions::new();
        let reader = reader.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
        let mut reader = reader.open(&path).unwrap();
        let mut file = open(&path, &stop).unwrap().unwrap();
        file.write_all(b"x").unwrap();
        assert_eq!(reader.read(&mut [0; 2]).unwrap(), 1);
    }
}
