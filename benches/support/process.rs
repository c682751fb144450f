//! A server as a process of its own, and what `/proc` says about it.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Clock ticks per second in `/proc/PID/stat`; the kernel's interface fixes it for user space.
const TICKS_PER_S: f64 = 100.0;

/// Killed when dropped.
pub struct Server(Child);

impl Server {
    /// Starts `iothub-gateway` with `arguments`; what it says goes to `log`.
    pub fn start(arguments: &[&str], log: &Path) -> Self {
        let log = File::create(log).expect("a log file");
        let errors = log.try_clone().expect("a second handle");
        let child = Command::new(env!("CARGO_BIN_EXE_iothub-gateway"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn();
        Self(child.expect("the binary starts"))
    }

    /// Processor time so far, user and system.
    pub fn cpu(&self) -> Duration {
        cpu(&self.0.id().to_string())
    }

    /// Resident memory, bytes.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()));
        let kib = status.ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        });
        kib.expect("a running process") * 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Processor time of this process so far.
pub fn own_cpu() -> Duration {
    cpu("self")
}

fn cpu(process: &str) -> Duration {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).expect("a running process");
    // The name may hold blanks; the fields after its bracket are numbered from 3.
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = |number: usize| -> f64 {
        let field = fields.split_whitespace().nth(number - 3);
        field.and_then(|text| text.parse().ok()).unwrap_or(0.0)
    };
    Duration::from_secs_f64((ticks(14) + ticks(15)) / TICKS_PER_S)
}

/// A loopback port nobody listens on now.
pub fn free_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("bound").port()
}

/// The status of `GET path`; 0 when nobody answers.
pub fn status(port: u16, path: &str) -> u16 {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let answer = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(String::from_utf8_lossy(&head).into_owned())
    };
    let head = answer().unwrap_or_default();
    head.get(9..)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0)
}

/// Waits until `GET path` answers 200.
pub fn wait_for(port: u16, path: &str, log: &Path) {
    let patience = Duration::from_secs(30);
    let start = iothub_gateway::runtime::clock::mono();
    while status(port, path) != 200 {
        let waited = iothub_gateway::runtime::clock::mono().since(start);
        assert!(
            waited < patience,
            "{path} is not 200; see {}",
            log.display()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}
