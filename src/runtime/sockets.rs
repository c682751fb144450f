//! Listening sockets somebody else opened: systemd (socket activation) or the process this one
//! replaces (`handover`). A socket that stays open over a restart refuses nobody.

use listenfd::ListenFd;
use std::net::{SocketAddr, TcpListener};

/// The name under which the admin server's socket travels; no listener can have it, because its
/// first character is no part of a listener's name.
pub const ADMIN: &str = "@admin";

/// Sockets that are open already; what is not taken is closed when this is dropped.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(String, TcpListener)>);

impl Inherited {
    /// What systemd passed to this process (`sd_listen_fds(3)`): named by `FileDescriptorName=`,
    /// which is the listener's name in the configuration. Call it once, before anything is opened.
    #[must_use]
    pub fn from_systemd() -> Self {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut fds = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..fds.len() {
            let name = names.next().unwrap_or_default().to_owned();
            match fds.take_tcp_listener(index) {
                Ok(Some(socket)) => sockets.push((name, socket)),
                Ok(None) => {}
                Err(error) => tracing::warn!(
                    name: "socket_not_tcp",
                    socket = %name, %error,
                    "a socket passed by systemd is no TCP listener; it is left alone"
                ),
            }
        }
        Self(sockets)
    }

    /// Sockets by name.
    #[must_use]
    pub const fn new(sockets: Vec<(String, TcpListener)>) -> Self {
        Self(sockets)
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The socket of `name` if it has the address the configuration wants, else any that has it.
    pub fn take(&mut self, name: &str, wanted: SocketAddr) -> Option<TcpListener> {
        let fits = |socket: &TcpListener| {
            let address = socket.local_addr();
            address.is_ok_and(|address| wanted.port() == 0 || address == wanted)
        };
        let named = |(known, socket): &(String, TcpListener)| known == name && fits(socket);
        let place = self.0.iter().position(named).or_else(|| {
            let alike = |(_, socket): &(String, TcpListener)| wanted.port() != 0 && fits(socket);
            self.0.iter().position(alike)
        })?;
        Some(self.0.swap_remove(place).1)
    }

    /// What nobody took, for the log.
    #[must_use]
    pub fn left(&self) -> Vec<String> {
        let shown = |(name, socket): &(String, TcpListener)| match socket.local_addr() {
            Ok(address) => format!("{name} {address}"),
            Err(_) => name.clone(),
        };
        self.0.iter().map(shown).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Inherited;
    use std::net::{SocketAddr, TcpListener};

    fn socket() -> (TcpListener, SocketAddr) {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    #[test]
    fn a_socket_is_taken_by_name_or_by_address_and_once() {
        let ((one, at_one), (two, at_two)) = (socket(), socket());
        let mut sockets = Inherited::new(vec![("one".to_owned(), one), ("x".to_owned(), two)]);
        assert!(sockets.take("one", at_one).is_some());
        assert!(sockets.take("one", at_one).is_none());
        assert!(sockets.take("two", at_two).is_some(), "by its address");
        assert!(sockets.is_empty());
    }

    #[test]
    fn a_name_with_another_address_is_not_taken_and_is_told() {
        let ((one, at_one), (_two, at_two)) = (socket(), socket());
        let mut sockets = Inherited::new(vec![("one".to_owned(), one)]);
        assert!(sockets.take("one", at_two).is_none());
        assert_eq!(sockets.left(), [format!("one {at_one}")]);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        assert!(sockets.take("two", any).is_none(), "port 0 is anybody's");
        assert!(sockets.take("one", any).is_some());
    }
}
