//! What a run needs once it is set up, as its settings say: what `--sandbox` leaves it.

use std::path::{Path, PathBuf};

use super::outputs::Outputs;
use super::storing;
use crate::capture::store::ring::make_directory;
use crate::export::collector::target::Transport;
use crate::failure::Failure;
use crate::sandbox::Needs;

/// What the outputs of a run need. Directories of stores are made, since only what is there can be named.
///
/// # Errors
///
/// When a directory cannot be made.
pub fn needs(outputs: &Outputs) -> Result<Needs, Failure> {
    let mut needs = Needs {
        listens: outputs.has_tees(),
        ..Needs::default()
    };
    for (_, path) in outputs.named().filter(|(_, path)| *path != Path::new("-")) {
        needs.write.push(match storing::is_store(path) {
            true => {
                make_directory(path, outputs.creation())
                    .map_err(|error| Failure::running(format!("{}: {error}", path.display())))?;
                path.to_owned()
            }
            false => directory_of(path),
        });
    }
    for target in outputs.collectors() {
        match target.transport {
            Transport::Udp => needs.udp = true,
            Transport::Tcp => needs.tcp_ports.push(target.port()),
        }
        needs.names |= target.has_name();
    }
    // How systemd is told goes over a socket that is connected.
    needs.udp |= std::env::var_os("NOTIFY_SOCKET").is_some();
    Ok(needs)
}

/// Where the files of a path are: beside it stand its hidden name and those of its like.
pub fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
