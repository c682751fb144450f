//! A transport in memory: late, and broken when the plan says so.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::{Notify, watch};

/// Bytes a direction holds before it pushes back, like a socket's buffers.
const BUFFER: usize = 16 * 1024;

/// What can be done to every transport there is.
#[derive(Default)]
pub struct Wires {
    all: Mutex<Vec<Arc<Wire>>>,
}

struct Wire {
    cut: watch::Sender<bool>,
    stalled: watch::Sender<bool>,
    garbage: Notify,
}

impl Wires {
    /// A new one: the gateway's end, and the hub's.
    pub fn open(&self, latency: Duration) -> (DuplexStream, DuplexStream) {
        let wire = Arc::new(Wire {
            cut: watch::Sender::new(false),
            stalled: watch::Sender::new(false),
            garbage: Notify::new(),
        });
        let (gateway, far) = duplex(BUFFER);
        let (hub, near) = duplex(BUFFER);
        let (from_gateway, to_gateway) = split(far);
        let (from_hub, to_hub) = split(near);
        let up = carry(from_gateway, to_hub, Arc::clone(&wire), latency, false);
        let down = carry(from_hub, to_gateway, Arc::clone(&wire), latency, true);
        tokio::spawn(async move {
            // One direction that ends is a half-closed transport; the other goes on for a while.
            tokio::join!(up, down);
        });
        self.all.lock().expect("whole").push(wire);
        (gateway, hub)
    }

    fn each(&self, act: impl Fn(&Wire)) {
        self.all
            .lock()
            .expect("whole")
            .iter()
            .for_each(|wire| act(wire));
    }

    pub fn cut(&self) {
        self.each(|wire| {
            wire.cut.send_replace(true);
        });
        self.all.lock().expect("whole").clear();
    }

    pub fn stall(&self, on: bool) {
        self.each(|wire| {
            wire.stalled.send_replace(on);
        });
    }

    /// Those there are stand still for ever; later ones do not.
    pub fn freeze(&self) {
        self.stall(true);
        self.all.lock().expect("whole").clear();
    }

    pub fn garbage(&self) {
        self.each(|wire| wire.garbage.notify_one());
    }
}

/// Carries bytes until one end is closed or the wire is cut.
async fn carry(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    wire: Arc<Wire>,
    latency: Duration,
    spoilt: bool,
) {
    let (mut cut, mut stalled) = (wire.cut.subscribe(), wire.stalled.subscribe());
    let mut bytes = vec![0; BUFFER];
    let carried = async {
        loop {
            let count = tokio::select! {
                biased;
                count = from.read(&mut bytes) => count?,
                () = wire.garbage.notified(), if spoilt => {
                    // A frame shorter than its own header (2.3.1).
                    to.write_all(&[0, 0, 0, 7, 2, 0, 0, 0]).await?;
                    continue;
                }
            };
            if count == 0 {
                return to.shutdown().await;
            }
            if !latency.is_zero() {
                tokio::time::sleep(latency).await;
            }
            // An error means that the wire is gone, which the other branch sees.
            let _ = stalled.wait_for(|stalled| !stalled).await;
            to.write_all(&bytes[..count]).await?;
        }
    };
    let ended: io::Result<()> = tokio::select! {
        biased;
        _ = cut.wait_for(|cut| *cut) => Ok(()),
        ended = carried => ended,
    };
    drop(ended);
}
