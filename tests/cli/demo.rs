//! The demo as somebody sits before it: keys in a terminal, lines in a pipe, its end.

use crate::process::{free_port, signal};
use iothub_gateway::runtime::clock;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
const LAST_OFFER: &str = "curl -sS -X POST";

struct Demo {
    process: Child,
    lines: Receiver<String>,
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Demo {
    fn start(name: &str, stdin: Stdio) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let mut process = Command::new(env!("CARGO_BIN_EXE_iothub-gateway"))
            .args(["demo", "--interval-ms=50"])
            .arg(format!("--dir={}", dir.display()))
            .arg(format!("--mqtt-port={}", free_port()))
            .arg(format!("--amqp-port={}", free_port()))
            .arg(format!("--control-port={}", free_port()))
            .arg(format!("--admin-port={}", free_port()))
            .stdin(stdin)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let out = process.stdout.take().expect("piped");
        let (sender, lines) = sync_channel(10_000);
        std::thread::spawn(move || {
            let lines = BufReader::new(out).lines();
            for line in lines.map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { process, lines }
    }

    fn until(&self, text: &str) {
        let mut seen = String::new();
        while !seen.contains(text) {
            let line = self.lines.recv_timeout(PATIENCE);
            seen += &line.unwrap_or_else(|_| panic!("no {text:?} after:\n{seen}"));
            seen.push('\n');
        }
    }

    /// Enough of nothing: ten messages would have come.
    fn is_silent(&self) {
        let line = self.lines.recv_timeout(Duration::from_millis(500));
        assert!(line.is_err(), "{line:?}");
    }

    /// Its exit code; it has to come within a second.
    fn ends(mut self) -> Option<i32> {
        let from = clock::mono();
        let code = self.process.wait().expect("reaped").code();
        let took = clock::mono().since(from);
        assert!(took < Duration::from_secs(1), "{took:?}");
        code
    }
}

/// Whatever the input is: commands, messages, commands again, silence, messages.
fn obeys(demo: &Demo, input: &mut impl Write, end_of_line: &str) {
    let mut say = |key: &str| {
        let text = format!("{key}{end_of_line}");
        input.write_all(text.as_bytes()).expect("heard");
        input.flush().expect("heard");
    };
    demo.until(LAST_OFFER);
    demo.until("sim-1 ");
    say("?");
    demo.until(LAST_OFFER);
    say("s");
    demo.until("sends no more");
    // what was on its way
    std::thread::sleep(Duration::from_millis(200));
    while demo.lines.try_recv().is_ok() {}
    demo.is_silent();
    say("s");
    demo.until("sim-1 sends again");
    demo.until("celsius");
}

#[test]
fn single_keys_in_a_terminal_show_the_commands_and_stop_the_stream() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&terminal).expect("granted");
    unlockpt(&terminal).expect("unlocked");
    let name = ptsname(&terminal, Vec::new()).expect("a name");
    let open = || {
        let mut options = File::options();
        options.read(true).write(true);
        options.open(name.to_str().expect("UTF-8")).expect("opens")
    };
    let held = open();
    let before = rustix::termios::tcgetattr(&held)
        .expect("modes")
        .local_modes;
    let demo = Demo::start("demo-terminal", Stdio::from(open()));
    let mut keys = File::from(terminal);
    obeys(&demo, &mut keys, "");
    demo.until("Enter: the commands again");
    keys.write_all(b"q").expect("heard");
    assert_eq!(demo.ends(), Some(0));
    let after = rustix::termios::tcgetattr(&held)
        .expect("modes")
        .local_modes;
    assert_eq!(before, after, "the terminal is as it was");
}

#[test]
fn lines_in_a_pipe_do_the_same_and_its_end_does_not_end_the_demo() {
    let mut demo = Demo::start("demo-pipe", Stdio::piped());
    let mut input = demo.process.stdin.take().expect("piped");
    obeys(&demo, &mut input, "\n");
    drop(input);
    demo.until("celsius");
    signal(&demo.process, "INT");
    assert_eq!(demo.ends(), Some(0));
}

#[test]
fn without_input_and_with_a_reader_that_leaves_it_ends_by_a_signal() {
    let mut demo = Demo::start("demo-null", Stdio::null());
    demo.until("celsius");
    let (_, nobody) = sync_channel(1);
    demo.lines = nobody;
    signal(&demo.process, "TERM");
    assert_eq!(demo.ends(), Some(0));
}
