//! What is typed into the demo: single keys in a terminal, lines where standard input is a pipe.

use rustix::process::getpgrp;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};
use std::io::{BufReader, IsTerminal, Read, stdin};
use tokio::sync::mpsc;

/// Keys typed and not yet looked at; more wait in the terminal.
const WAITING: usize = 16;

/// What the user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The commands to paste, again.
    Commands,
    /// Stop the simulated device's messages, or let them go on.
    Stream,
    /// End the demo.
    Quit,
}

/// Standard input; gives the terminal back as it was when dropped.
pub struct Keyboard {
    typed: mpsc::Receiver<Key>,
    before: Option<Termios>,
}

impl Keyboard {
    /// Starts to listen. A demo in the background leaves the terminal alone: reading from it would
    /// stop the process.
    #[must_use]
    pub fn open() -> Self {
        let (sender, typed) = mpsc::channel(WAITING);
        let terminal = stdin().is_terminal();
        let background = terminal && tcgetpgrp(stdin()).is_ok_and(|group| group != getpgrp());
        if background {
            return Self {
                typed,
                before: None,
            };
        }
        let before = terminal.then(single_keys).flatten();
        // Not a task: a read that waits for a key would hold the runtime's end.
        let started = std::thread::Builder::new()
            .name("keys".to_owned())
            .spawn(move || listen(stdin(), terminal, &sender));
        drop(started); // without the thread there are no keys, and signals still work
        Self { typed, before }
    }

    /// Whether single keys are read, from a terminal.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        self.before.is_some()
    }

    /// The next key; never, once the input has ended.
    pub async fn next(&mut self) -> Key {
        match self.typed.recv().await {
            Some(key) => key,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}

/// Keys come as they are typed and are not shown; Ctrl-C stays a signal. What was set before.
fn single_keys() -> Option<Termios> {
    let before = tcgetattr(stdin()).ok()?;
    let mut wanted = before.clone();
    wanted.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
    tcsetattr(stdin(), OptionalActions::Now, &wanted).ok()?;
    Some(before)
}

fn listen(input: impl Read, terminal: bool, sender: &mpsc::Sender<Key>) {
    let mut begun = false; // the line has a key already
    for byte in BufReader::new(input).bytes() {
        let Ok(byte) = byte else { return };
        let key = key(byte, begun && !terminal);
        begun = byte != b'\n' && (begun || key.is_some());
        if key.is_some_and(|key| sender.blocking_send(key).is_err()) {
            return;
        }
    }
}

/// The end of a line asks for the commands, unless the line has asked for something else.
const fn key(byte: u8, line_has_key: bool) -> Option<Key> {
    match byte {
        b'\n' | b'\r' if line_has_key => None,
        b'\n' | b'\r' | b'?' | b'h' => Some(Key::Commands),
        b's' | b' ' => Some(Key::Stream),
        b'q' | 0x04 => Some(Key::Quit), // Ctrl-D as well
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Key, WAITING, listen};
    use tokio::sync::mpsc;

    fn heard(input: &[u8], terminal: bool) -> Vec<Key> {
        let (sender, mut typed) = mpsc::channel(WAITING);
        listen(input, terminal, &sender);
        std::iter::from_fn(|| typed.try_recv().ok()).collect()
    }

    #[test]
    fn keys_of_a_terminal_and_lines_of_a_pipe_say_the_same() {
        use Key::{Commands, Quit, Stream};
        assert_eq!(
            heard(b"s?\nsq", true),
            [Stream, Commands, Commands, Stream, Quit]
        );
        assert_eq!(
            heard(b"s\n\n?\nq\n", false),
            [Stream, Commands, Commands, Quit]
        );
        assert_eq!(
            heard(b"what\n", false),
            [Key::Commands],
            "h, then the line's end"
        );
        assert_eq!(heard(b"", false), []);
    }
}
