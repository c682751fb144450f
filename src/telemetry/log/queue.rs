//! Lines on their way out: a bounded queue and the one thread that writes.
//!
//! Whoever logs never waits. When nobody reads standard error, lines are dropped and counted;
//! how many is said as soon as somebody reads again.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tracing::Level;

/// Lines waiting to be written, bytes; a quarter of it is kept for warnings and errors.
pub const QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes handed to the system at once.
const BATCH_BYTES: usize = 64 * 1024;

/// Between two tries to write to a pipe that was made non-blocking by somebody else.
const RETRY: Duration = Duration::from_millis(20);

/// The queue; clones are the same one.
#[derive(Clone)]
pub struct Queue(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    filled: Condvar,
    emptied: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<String>,
    /// Of `lines`, and of what is being written.
    bytes: usize,
    dropped: u64,
    unsaid: u64,
}

impl Queue {
    /// Starts the thread that writes to `out`. `notice` makes the line that says how many lines
    /// were dropped.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start<W, N>(out: W, notice: N) -> io::Result<Self>
    where
        W: Write + Send + 'static,
        N: Fn(u64) -> String + Send + 'static,
    {
        let queue = Self(Arc::default());
        let writer = Writer {
            shared: queue.0.clone(),
            out,
            notice,
            torn: false,
        };
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writer.run())?;
        Ok(queue)
    }

    /// Takes a line, or drops and counts it. Never waits for the reader.
    pub fn push(&self, level: Level, line: String) {
        let room = if level <= Level::WARN {
            QUEUE_BYTES_MAX
        } else {
            QUEUE_BYTES_MAX / 4 * 3
        };
        let mut state = self.0.lock();
        if state.bytes + line.len() > room {
            state.dropped += 1;
            state.unsaid += 1;
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        drop(state);
        self.0.filled.notify_one();
    }

    /// Lines dropped since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }

    /// Bytes that wait or are being written.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.lock().bytes
    }

    /// Waits until all lines are written, at most `within`; whether they are.
    pub fn flush(&self, within: Duration) -> bool {
        let state = self.0.lock();
        let waiting = |state: &mut State| state.bytes > 0;
        let waited = self.0.emptied.wait_timeout_while(state, within, waiting);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread owns.
struct Writer<W, N> {
    shared: Arc<Shared>,
    out: W,
    notice: N,
    /// The last line written has no end.
    torn: bool,
}

impl<W: Write, N: Fn(u64) -> String> Writer<W, N> {
    fn run(mut self) {
        let mut batch = String::new();
        loop {
            let (lines, bytes, unsaid) = self.next(&mut batch);
            if unsaid > 0 {
                batch.push_str(&(self.notice)(unsaid));
            }
            let written = self.write(batch.as_bytes());
            let mut state = self.shared.lock();
            state.bytes -= bytes;
            if written.is_err() {
                state.dropped += lines;
                state.unsaid += lines + unsaid;
            }
            let empty = state.bytes == 0;
            drop(state);
            if empty {
                self.shared.emptied.notify_all();
            }
        }
    }

    /// Fills `batch` with what waits, or waits for it: lines, their bytes, drops to be told.
    fn next(&self, batch: &mut String) -> (u64, usize, u64) {
        batch.clear();
        let mut state = self.shared.lock();
        while state.lines.is_empty() {
            let waited = self.shared.filled.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        let mut lines = 0;
        while batch.len() < BATCH_BYTES
            && let Some(line) = state.lines.pop_front()
        {
            batch.push_str(&line);
            lines += 1;
        }
        // Told after the last line that was kept before lines were dropped.
        let unsaid = if state.lines.is_empty() {
            std::mem::take(&mut state.unsaid)
        } else {
            0
        };
        (lines, batch.len(), unsaid)
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if self.torn {
            self.out.write_all(b"\n")?;
            self.torn = false;
        }
        while !bytes.is_empty() {
            match self.out.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.torn = bytes[written - 1] != b'\n';
                    bytes = &bytes[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(RETRY);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
