//! What the upstream asks of the world around it; a simulation gives it another one.

use crate::runtime::clock::{self, Unix};
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// Bytes both ways.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug> Transport for T {}

/// A transport on its way.
pub type Dialled = Pin<Box<dyn Future<Output = io::Result<Box<dyn Transport>>> + Send>>;

/// A reader of the wall clock.
pub type Wall = Arc<dyn Fn() -> Unix + Send + Sync>;

/// See the module's header. The default is the world there is.
#[derive(Clone)]
pub struct Environment {
    /// Opens a transport to the hub; none: TCP and TLS to `hub.endpoint`.
    pub dial: Option<Arc<dyn Fn() -> Dialled + Send + Sync>>,
    /// The wall clock.
    pub wall: Wall,
    /// Decisions about the token have a thread of their own.
    pub control_thread: bool,
}

impl Default for Environment {
    fn default() -> Self {
        Self {
            dial: None,
            wall: Arc::new(clock::unix),
            control_thread: true,
        }
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").finish_non_exhaustive()
    }
}
