//! The control socket: a Unix socket through which `vxtap status` and others ask a run. One line is a request, the answer
//! ends with the connection.
//!
//! Only who runs vxtap, and root, may ask: the socket has mode 0600, and who connects is looked at as well.

use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Uid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::verbs::Verbs;

/// Connections at a time; more are closed at once.
const MOST_CONNECTIONS: usize = 16;
/// Most bytes of a request.
const MOST_REQUEST: u64 = 4096;
/// How long a connection may take in all.
const ALL_TIME: Duration = Duration::from_secs(30);
/// How long no connection is taken after the system gave none.
const PAUSE: Duration = Duration::from_millis(100);
/// What names of sockets end in.
const ENDING: &str = "sock";

/// A socket, and its file.
pub struct ControlSocket {
    listener: UnixListener,
    name: Name,
}

/// The file of a socket, which is removed when this is dropped.
pub struct Name {
    path: PathBuf,
    /// Device and inode: what another run has put there since is not ours.
    id: (u64, u64),
}

impl Drop for Name {
    fn drop(&mut self) {
        if id_of(&self.path).is_ok_and(|id| id == self.id) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn id_of(path: &Path) -> io::Result<(u64, u64)> {
    let told = std::fs::symlink_metadata(path)?;
    Ok((told.dev(), told.ino()))
}

/// The directory of control sockets where nobody names one; `None` where this user has none.
pub fn usual_directory() -> Option<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|path| Path::new(path).is_absolute());
    // systemd names it where the service has a RuntimeDirectory=; of several the first counts.
    if let Some(directory) = from("RUNTIME_DIRECTORY") {
        let directory = directory.to_string_lossy();
        let first = directory.split(':').next().unwrap_or_default();
        return Some(PathBuf::from(first));
    }
    if Uid::effective().is_root() {
        return Some(PathBuf::from("/run/vxtap"));
    }
    from("XDG_RUNTIME_DIR").map(|directory| Path::new(&directory).join("vxtap"))
}

/// The sockets in `directory`, by name.
///
/// # Errors
///
/// When it cannot be read.
pub fn sockets_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut sockets = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
        if is_socket && path.extension().is_some_and(|ending| ending == ENDING) {
            sockets.push(path);
        }
    }
    sockets.sort();
    Ok(sockets)
}

/// Whether nobody listens on the socket any more.
fn is_left_behind(path: &Path) -> bool {
    match UnixStream::connect(path) {
        Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        Ok(_) => false,
    }
}

impl ControlSocket {
    /// A socket at `path`; one on which nobody listens any more makes room.
    ///
    /// # Errors
    ///
    /// When it cannot be made, or somebody listens there.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let is_socket = |told: std::fs::Metadata| told.file_type().is_socket();
        if std::fs::symlink_metadata(path).is_ok_and(is_socket) && is_left_behind(path) {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        let name = Name {
            path: path.to_owned(),
            id: id_of(path)?,
        };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, name })
    }

    /// A socket of this process in the usual directory; those that killed runs left there are removed.
    ///
    /// # Errors
    ///
    /// When there is no such directory, or none can be made.
    pub fn bind_usual() -> io::Result<Self> {
        let directory = usual_directory().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                "XDG_RUNTIME_DIR names no directory",
            )
        })?;
        let made = std::fs::DirBuilder::new().mode(0o700).create(&directory);
        made.or_else(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(error),
        })?;
        for socket in sockets_in(&directory)? {
            if is_left_behind(&socket) {
                let _ = std::fs::remove_file(socket);
            }
        }
        let name = format!("{}.{ENDING}", std::process::id());
        Self::bind(&directory.join(name))
    }

    /// The listener, and its file.
    pub fn into_parts(self) -> (UnixListener, Name) {
        (self.listener, self.name)
    }
}

impl Name {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Answers whoever connects, for as long as the process lives; in the context of the runtime.
pub(super) async fn serve(listener: UnixListener, verbs: Verbs) {
    let listener = match tokio::net::UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::warn!(%error, "the control socket cannot be used"),
    };
    let verbs = Arc::new(verbs);
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let may_ask = stream.peer_cred().is_ok_and(|peer| {
            let peer = Uid::from_raw(peer.uid());
            peer.is_root() || peer == Uid::effective()
        });
        let place = Arc::clone(&places).try_acquire_owned();
        if let (true, Ok(place)) = (may_ask, place) {
            let verbs = Arc::clone(&verbs);
            tokio::spawn(async move {
                let _place = place;
                let _ = timeout(ALL_TIME, converse(stream, &verbs)).await;
            });
        }
    }
}

/// Answers one request.
async fn converse(stream: tokio::net::UnixStream, verbs: &Verbs) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut request = Vec::new();
    let mut reader = BufReader::new(reader.take(MOST_REQUEST));
    reader.read_until(b'\n', &mut request).await?;
    let answer = verbs.answer(&String::from_utf8_lossy(&request)).await;
    writer.write_all(answer.as_bytes()).await?;
    writer.shutdown().await
}

/// Asks the run behind the socket at `path`; waits for `wait` at the most for each part of the answer.
///
/// # Errors
///
/// When nobody listens there or nobody answers in time.
pub fn ask(path: &Path, request: &str, wait: Duration) -> io::Result<String> {
    use std::io::{Read, Write};
    /// Most bytes of an answer.
    const MOST: u64 = 64 << 20;
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(wait))?;
    stream.set_write_timeout(Some(wait))?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(MOST).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_makes_room_only_when_nobody_listens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let socket = ControlSocket::bind(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(ControlSocket::bind(&path).is_err(), "somebody listens");
        assert_eq!(sockets_in(dir.path()).unwrap(), std::slice::from_ref(&path));
        // Killed, it leaves its name.
        let ControlSocket { listener, name } = socket;
        std::mem::forget(name);
        drop(listener);
        assert!(path.exists());
        let socket = ControlSocket::bind(&path).unwrap();
        drop(socket);
        assert!(!path.exists(), "it ends with its name");
        // What is no socket stays.
        std::fs::write(&path, "mine").unwrap();
        assert!(ControlSocket::bind(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
        assert!(sockets_in(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn what_another_run_put_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let first = ControlSocket::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let second = ControlSocket::bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }
}
