//! The PROXY protocol in front of a listener: who connects, told by a proxy that is trusted.
//!
//! A listener with `proxy_protocol` takes connections from those addresses alone, each with a
//! header, read before anything else within `limits.hello_timeout`. From then on the address it
//! names is the source: for the gate, for throttling, rules, logs and the admin port. As many
//! headers are awaited at once as `limits.handshakes` allows handshakes.

pub(super) mod header;

use super::{Arrived, Site};
use crate::config::values::show_duration;
use crate::telemetry::reason::Reason;
use header::{Refused, Step};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// What of a line is looked at before it is taken.
const PEEK_BYTES: usize = 128;

/// Headers a listener waits for.
#[derive(Clone, Default)]
pub(super) struct Awaited(Arc<AtomicUsize>);

/// One of them.
struct Place(Awaited);

impl Awaited {
    fn place(&self, most: usize) -> Option<Place> {
        let place = Place(self.clone()); // counted down again where there is no room
        (self.0.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reads the header of a connection from `proxy` and lets the gate decide about whom it names.
pub(super) fn receive(mut arrived: Arrived<TcpStream>, site: Arc<Site>) {
    let setup = site.shared.setup();
    let proxy = arrived.source;
    if !site.proxies.iter().any(|range| range.contains(proxy.ip())) {
        let text = "the address is none of proxy_protocol of this listener";
        return arrived.refused(&site, Reason::ProxyUntrusted, text);
    }
    let Some(place) = site.headers.place(setup.limits.handshakes) else {
        return arrived.refused(&site, Reason::LimitHandshakes, "limits.handshakes");
    };
    let tracker = site.shared.tracker.clone();
    tracker.spawn(async move {
        let stopped = site.shared.drain.clone();
        let within = setup.limits.hello_timeout;
        let read = tokio::select! {
            biased;
            () = stopped.cancelled() => Err((Reason::Drain, "the gateway is stopping".to_owned())),
            read = tokio::time::timeout(within, read(&mut arrived.carrier)) => match read {
                Ok(read) => read,
                Err(_) => {
                    let text = format!("no whole PROXY header in {}", show_duration(within));
                    Err((Reason::ProxyTimeout, text))
                }
            },
        };
        drop(place);
        match read {
            Ok(named) => {
                arrived.source = named.unwrap_or(proxy);
                site.admit(arrived.carried());
            }
            Err((reason, text)) => arrived.refused(&site, reason, &text),
        }
    });
}

/// Reads the header and nothing after it.
async fn read(tcp: &mut TcpStream) -> Result<Option<SocketAddr>, (Reason, String)> {
    let mut bytes = Vec::new();
    loop {
        let step = header::step(&bytes);
        let step = step.map_err(|Refused { reason, text }| (reason, text.to_owned()))?;
        let most = match step {
            Step::Done(named) => return Ok(named),
            Step::Read(most) => most,
            Step::Line(most) => line(tcp).await.min(most),
        };
        let mut room = (&mut *tcp).take(most as u64);
        match room.read_buf(&mut bytes).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => {
                let text = "the proxy closed before its PROXY header was whole";
                return Err((Reason::PeerClosed, text.to_owned()));
            }
        }
    }
}

/// How many bytes of what is there belong to the line; one where that cannot be told.
async fn line(tcp: &TcpStream) -> usize {
    let mut seen = [0; PEEK_BYTES];
    let count = tcp.peek(&mut seen).await.unwrap_or(1);
    let seen = seen.get(..count).unwrap_or_default();
    let end = seen.iter().position(|byte| *byte == b'\n');
    end.map_or(count, |at| at + 1).max(1)
}
