//! A new process takes the listening sockets over from the one it replaces, over a Unix socket.
//!
//! ```text
//!  successor ──connect──▶ predecessor          (same user, or it is refused)
//!            ◀──names and descriptors──
//!            …reads its configuration, puts its token, accepts…
//!            ──"ready"──▶                      predecessor stops accepting and drains
//! ```
//!
//! Until "ready" the predecessor serves as before: a successor that fails costs nothing. Both hold
//! the same kernel queue meanwhile, so no connect is refused.

use super::sockets::Inherited;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// Sockets handed over at most: listeners (64) and the admin server's.
const SOCKETS_MAX: usize = 65;
/// Bytes of all names together at most.
const NAMES_BYTES_MAX: usize = 8192;
/// Time the other side has for one message.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time a successor may take from its start to serving.
const SUCCESSOR_MAX: Duration = Duration::from_secs(120);
/// The successor's word.
const READY: &[u8] = b"ready\n";

/// The successor's end: held until it serves.
#[derive(Debug)]
pub struct Predecessor(UnixStream);

/// Asks the process that listens at `path` for its sockets; `None` when nobody does.
///
/// # Errors
/// When somebody answers and the sockets do not arrive whole.
pub fn take_over(path: &Path) -> io::Result<Option<(Predecessor, Inherited)>> {
    let mut stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let sockets = receive(&mut stream)?;
    Ok(Some((Predecessor(stream), Inherited::new(sockets))))
}

impl Predecessor {
    /// Tells it that this process serves now: it stops accepting and drains.
    ///
    /// # Errors
    /// When it is gone; its devices are on their way here then.
    pub fn release(mut self) -> io::Result<()> {
        self.0.write_all(READY)
    }
}

fn receive(stream: &mut UnixStream) -> io::Result<Vec<(String, TcpListener)>> {
    let mut text = vec![0; NAMES_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut text)];
    let got = recvmsg(&*stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            descriptors.extend(fds.map(TcpListener::from));
        }
    }
    let names = String::from_utf8_lossy(&text[..got.bytes]).into_owned();
    let names: Vec<_> = names.lines().map(str::to_owned).collect();
    if names.is_empty() || names.len() != descriptors.len() {
        let text = format!("{} names, {} sockets", names.len(), descriptors.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(names.into_iter().zip(descriptors).collect())
}

/// Opens `path` for a successor. A file that is there already belongs to a process that is gone,
/// or to the one this one replaced; only a socket of this user is replaced.
///
/// # Errors
/// When the path cannot be used; the text says which and why.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Ok(found) = std::fs::symlink_metadata(path) {
        use std::os::unix::fs::FileTypeExt;
        let own = found.uid() == rustix::process::geteuid().as_raw();
        if !found.file_type().is_socket() || !own {
            let text = format!("{}: is there and is no socket of this user", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves one successor: sends `sockets`, waits for its word. `true`: it serves now. `false`: it
/// went away, or was another user's. Blocks; at most `patience` for the word.
///
/// # Errors
/// When the sockets could not be sent.
pub fn serve(
    mut stream: UnixStream,
    sockets: &[(String, TcpListener)],
    patience: Duration,
) -> io::Result<bool> {
    stream.set_nonblocking(false)?;
    let peer = rustix::net::sockopt::socket_peercred(&stream)?;
    if peer.uid != rustix::process::geteuid() {
        return Ok(false);
    }
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(patience))?;
    let names: String = sockets
        .iter()
        .map(|(name, _)| format!("{name}\n"))
        .collect();
    let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(|(_, s)| s.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many sockets",
        ));
    }
    let parts = [IoSlice::new(names.as_bytes())];
    let sent = sendmsg(&stream, &parts, &mut control, SendFlags::empty())?;
    if sent != names.len() {
        return Err(io::Error::new(
            io::ErrorKind::WriteZero,
            "the names were cut",
        ));
    }
    let mut word = [0; READY.len()];
    Ok(stream.read_exact(&mut word).is_ok() && word == *READY)
}

/// Listens at `path` and serves one successor after the other, until one says that it serves; each
/// gets the `sockets` there are when it asks.
///
/// # Errors
/// As [`bind`].
pub async fn succeeded(
    path: &Path,
    sockets: impl Fn() -> io::Result<Vec<(String, TcpListener)>>,
) -> io::Result<()> {
    let listener = bind(path)?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(
                    name: "successor_not_let_in",
                    %error,
                    "a successor could not be let in"
                );
                tokio::time::sleep(PATIENCE).await;
                continue;
            }
        };
        let (stream, sockets) = (stream.into_std()?, sockets()?);
        tracing::info!(
            name: "successor_asked",
            "a successor asked for the sockets; this process serves until it does"
        );
        let served = tokio::task::spawn_blocking(move || serve(stream, &sockets, SUCCESSOR_MAX));
        match served.await {
            Ok(Ok(true)) => return Ok(()),
            Ok(Ok(false)) => tracing::warn!(
                name: "successor_gone",
                "the successor went away; this process goes on"
            ),
            Ok(Err(error)) => tracing::warn!(
                name: "handover_failed",
                %error,
                "no sockets for the successor"
            ),
            Err(_panic) => tracing::error!(
                name: "handover_panicked",
                "handing the sockets over failed; this process goes on"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{bind, serve, take_over};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    fn scratch(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("handover-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir.join("socket")
    }

    #[test]
    fn a_successor_gets_the_sockets_and_is_waited_for() {
        let path = scratch("whole");
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let listener = bind(&path).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let old = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            serve(
                stream,
                &[("devices".to_owned(), socket)],
                Duration::from_secs(5),
            )
            .unwrap()
        });
        let (predecessor, mut sockets) = take_over(&path).unwrap().unwrap();
        let taken = sockets.take("devices", address).unwrap();
        predecessor.release().unwrap();
        assert!(old.join().unwrap(), "told that the other serves");
        let _client = TcpStream::connect(address).unwrap();
        assert!(taken.accept().is_ok(), "the queue lives on");
    }

    #[test]
    fn a_successor_that_dies_changes_nothing() {
        let path = scratch("dies");
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let listener = bind(&path).unwrap();
        let old = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            serve(
                stream,
                &[("devices".to_owned(), socket)],
                Duration::from_secs(5),
            )
            .unwrap()
        });
        drop(take_over(&path).unwrap().unwrap());
        assert!(!old.join().unwrap());
    }

    #[test]
    fn nobody_there_is_no_error_and_a_foreign_file_is_left_alone() {
        let path = scratch("none");
        let _ = std::fs::remove_file(&path);
        assert!(take_over(&path).unwrap().is_none());
        drop(bind(&path).unwrap());
        assert!(take_over(&path).unwrap().is_none(), "its owner is gone");
        drop(bind(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "text").unwrap();
        assert!(bind(&path).is_err());
    }
}
