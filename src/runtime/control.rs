//! The control thread: a small runtime of its own, for decisions that may not wait.
//!
//! The token lives here. However busy the data path keeps its threads, a renewal is decided,
//! signed and timed on time. Nothing heavy runs here, and nothing here blocks.

use std::future::Future;
use std::io;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A running control thread; it ends when this is dropped, and its tasks with it.
#[derive(Debug)]
pub struct Control {
    runtime: Handle,
    _alive: oneshot::Sender<()>,
}

impl Control {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system's word, when there is no thread or no descriptor to be had.
    pub fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (alive, ended) = oneshot::channel::<()>();
        std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                // Resolves when the sender is dropped; the runtime ends on its own thread.
                let _ = runtime.block_on(ended);
            })?;
        Ok(Self {
            runtime: handle,
            _alive: alive,
        })
    }

    /// Runs `task` on the control thread.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.runtime.spawn(task)
    }
}

#[cfg(test)]
mod tests {
    use super::Control;
    use std::time::Duration;

    #[tokio::test]
    async fn it_runs_while_every_thread_of_the_caller_is_busy() {
        let control = Control::start().unwrap();
        let (done, is_done) = std::sync::mpsc::sync_channel(1);
        let task = control.spawn(async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            done.send(std::thread::current().name().map(str::to_owned))
                .unwrap();
        });
        // Blocks this runtime's only thread, as a busy data path would.
        let name = is_done.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(name.as_deref(), Some("control"));
        task.await.unwrap();
    }

    #[tokio::test]
    async fn dropping_it_ends_its_tasks() {
        let control = Control::start().unwrap();
        let task = control.spawn(std::future::pending::<()>());
        drop(control);
        assert!(task.await.unwrap_err().is_cancelled());
    }
}
