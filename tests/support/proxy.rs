//! A TCP proxy between gateway and hub that can be a bad line: slow, narrow, silent, cut.

use iothub_gateway::runtime::clock::{self, Mono};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Pieces on their way in one direction.
const PIECES: usize = 256;

/// What the line does, in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Line {
    /// Every byte comes this much later.
    pub latency: Duration,
    /// And up to this much more.
    pub jitter: Duration,
    /// Bytes per second and direction; `None`: as they come.
    pub rate: Option<u32>,
    /// Nothing passes; it is kept, and new connections are accepted.
    pub silent: bool,
    /// Every byte is a segment of its own.
    pub byte_by_byte: bool,
    /// New connections are reset.
    pub refuse: bool,
}

/// How often each cut was ordered.
#[derive(Clone, Copy, Debug, Default)]
struct Cuts {
    resets: u64,
    half_closes: u64,
}

/// A proxy; it ends when dropped.
pub struct Proxy {
    address: SocketAddr,
    line: watch::Sender<Line>,
    cuts: watch::Sender<Cuts>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A good line to `target`.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let line = watch::Sender::new(Line::default());
        let cuts = watch::Sender::new(Cuts::default());
        let (lines, ordered) = (line.subscribe(), cuts.subscribe());
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if lines.borrow().refuse {
                    reset(&near);
                    continue;
                }
                tokio::spawn(serve(near, target, lines.clone(), ordered.clone()));
            }
        });
        Self {
            address,
            line,
            cuts,
            accepting,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the line at once, for open connections too.
    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }

    /// Resets every open connection, on both sides.
    pub fn reset(&self) {
        self.cuts.send_modify(|cuts| cuts.resets += 1);
    }

    /// Closes every open connection towards the gateway only; what it sends still passes.
    pub fn half_close(&self) {
        self.cuts.send_modify(|cuts| cuts.half_closes += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.reset();
    }
}

fn reset(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

async fn serve(
    mut near: TcpStream,
    target: SocketAddr,
    line: watch::Receiver<Line>,
    mut cuts: watch::Receiver<Cuts>,
) {
    let Ok(mut far) = TcpStream::connect(target).await else {
        return;
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    cuts.mark_unchanged();
    let before = *cuts.borrow();
    let mut half = cuts.clone();
    let was_reset = {
        let ((near_in, near_out), (far_in, far_out)) = (near.split(), far.split());
        let up = carry(near_in, far_out, line.clone(), std::future::pending());
        let closed = async move {
            let _ = half
                .wait_for(|now| now.half_closes > before.half_closes)
                .await;
        };
        let down = carry(far_in, near_out, line, closed);
        tokio::select! {
            _ = async { tokio::join!(up, down) } => false,
            _ = cuts.wait_for(|now| now.resets > before.resets) => true,
        }
    };
    if was_reset {
        reset(&near);
        reset(&far);
    }
}

/// Carries one direction until its end, or until `closed`; then the end is passed on.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    line: watch::Receiver<Line>,
    closed: impl Future<Output = ()>,
) {
    let (queue, mut pieces) = mpsc::channel(PIECES);
    let now = line.clone();
    let reading = async move {
        let mut buffer = [0; 16 * 1024];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            let Line {
                latency, jitter, ..
            } = *now.borrow();
            let due = clock::mono() + latency + jitter.mul_f64(roll());
            if queue.send((due, buffer[..n].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let writing = async {
        while let Some((due, piece)) = pieces.recv().await {
            if write(&mut to, due, &piece, line.clone()).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = async { tokio::join!(reading, writing) } => {}
        () = closed => {}
    }
    let _ = to.shutdown().await;
}

async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    due: Mono,
    piece: &[u8],
    mut line: watch::Receiver<Line>,
) -> io::Result<()> {
    tokio::time::sleep(due.since(clock::mono())).await;
    let mut rest = piece;
    while !rest.is_empty() {
        let passing = line.wait_for(|line| !line.silent).await;
        let now = passing.map(|line| *line).unwrap_or_default();
        let size = match (now.byte_by_byte, now.rate) {
            (true, _) => 1,
            (false, Some(rate)) => (rate as usize / 50).max(1),
            (false, None) => rest.len(),
        };
        let (part, later) = rest.split_at(size.min(rest.len()));
        to.write_all(part).await?;
        if let Some(rate) = now.rate {
            let seconds = part.len() as f64 / f64::from(rate);
            tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        } else if now.byte_by_byte {
            tokio::task::yield_now().await;
        }
        rest = later;
    }
    Ok(())
}

/// 0 to 1.
fn roll() -> f64 {
    f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX)
}
