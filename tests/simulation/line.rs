//! The network between a device and the gateway, good or bad, and the device's end of it.

use crate::chance::Chance;
use crate::mqtt::{Packet, Version};
use bytes::BytesMut;
use std::cmp::min;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::time::sleep;

/// What a line does to the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// They arrive.
    Sound,
    /// So many of each direction come one by one.
    Drip(u64),
    /// The device takes a few at a time.
    SlowReader,
    /// Both directions break when so many have passed.
    Cut(u64),
    /// Both stand still for so many milliseconds once so many have passed, from the device or to
    /// it.
    Stall(u64, u64, bool),
}

impl Manner {
    pub fn of(chance: &mut Chance) -> Self {
        match chance.range(0, 4) {
            0 => Self::Drip(chance.range(50, 400)),
            1 => Self::SlowReader,
            2 => Self::Stall(
                chance.range(1, 1_500),
                chance.range(100, 60_000),
                chance.happens(500),
            ),
            _ => Self::Cut(chance.range(1, 1_500)),
        }
    }

    /// Whether the gateway may not be able to say its last word, or be right to give up.
    pub fn is_broken(self) -> bool {
        matches!(self, Self::Cut(_) | Self::Stall(..))
    }
}

/// One direction's part of a line.
struct Way {
    manner: Manner,
    up: bool,
    latency: Duration,
    passed: u64,
}

impl Way {
    /// Carries bytes until one end is closed, or the line breaks.
    async fn carry(
        mut self,
        mut from: ReadHalf<DuplexStream>,
        mut to: WriteHalf<DuplexStream>,
    ) -> io::Result<Ended> {
        let mut bytes = [0; 2048];
        loop {
            let most = match self.manner {
                Manner::Drip(first) if self.passed < first => 1,
                Manner::SlowReader if !self.up => 24,
                Manner::Cut(at) => min(bytes.len() as u64, at.saturating_sub(self.passed)).max(1),
                _ => bytes.len() as u64,
            };
            let count = from.read(&mut bytes[..most as usize]).await?;
            if count == 0 {
                to.shutdown().await?;
                return Ok(Ended::Closed);
            }
            let before = self.passed;
            self.passed += count as u64;
            let wait = match self.manner {
                Manner::Drip(first) if before < first => Duration::from_millis(3),
                Manner::SlowReader if !self.up => Duration::from_millis(50),
                Manner::Stall(at, time, up)
                    if up == self.up && before < at && self.passed >= at =>
                {
                    Duration::from_millis(time)
                }
                _ => self.latency,
            };
            if !wait.is_zero() {
                sleep(wait).await;
            }
            to.write_all(&bytes[..count]).await?;
            if matches!(self.manner, Manner::Cut(at) if self.passed >= at) {
                return Ok(Ended::Cut);
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Ended {
    Closed,
    Cut,
}

/// A line: the device's end, and the gateway's.
fn lay(manner: Manner, latency: Duration) -> (DuplexStream, DuplexStream) {
    let buffer = match manner {
        Manner::SlowReader => 64,
        _ => 4096,
    };
    let (device, near) = duplex(buffer);
    let (gateway, far) = duplex(buffer);
    let (from_device, to_device) = split(near);
    let (from_gateway, to_gateway) = split(far);
    let way = move |up| Way {
        manner,
        up,
        latency,
        passed: 0,
    };
    tokio::spawn(async move {
        let up = way(true).carry(from_device, to_gateway);
        let down = way(false).carry(from_gateway, to_device);
        tokio::pin!(up, down);
        // A direction that ends is a half-closed line, and what was said is still heard; one that
        // is cut takes the other with it.
        tokio::select! {
            biased;
            ended = &mut up => if !matches!(ended, Ok(Ended::Cut)) { let _ = down.await; },
            ended = &mut down => if !matches!(ended, Ok(Ended::Cut)) { let _ = up.await; },
        }
    });
    (device, gateway)
}

/// A device's end of one connection.
pub struct Client {
    pub version: Version,
    pub manner: Manner,
    pub out: BytesMut,
    input: BytesMut,
    read: ReadHalf<DuplexStream>,
    write: WriteHalf<DuplexStream>,
}

impl Client {
    /// A new one, and the end that the gateway gets.
    pub fn open(version: Version, manner: Manner, latency: Duration) -> (Self, DuplexStream) {
        let (device, gateway) = lay(manner, latency);
        let (read, write) = split(device);
        let client = Self {
            version,
            manner,
            out: BytesMut::new(),
            input: BytesMut::new(),
            read,
            write,
        };
        (client, gateway)
    }

    /// The next packet, while what is to be said is said; `None` at the end. May be dropped.
    pub async fn next(&mut self) -> Option<Result<Packet, String>> {
        let mut can_write = true;
        loop {
            if let Some(packet) = self.version.read(&mut self.input) {
                return Some(packet);
            }
            self.input.reserve(512);
            tokio::select! {
                biased;
                read = self.read.read_buf(&mut self.input) => {
                    if !matches!(read, Ok(1..)) {
                        return None;
                    }
                }
                written = self.write.write_buf(&mut self.out),
                    if can_write && !self.out.is_empty() =>
                {
                    // What the gateway said before it closed is still to be read.
                    can_write = matches!(written, Ok(1..));
                }
            }
        }
    }

    /// Says the rest, if the line takes it, and hangs up.
    pub async fn leave(mut self) {
        let say = async {
            while !self.out.is_empty() && self.write.write_buf(&mut self.out).await? > 0 {}
            self.write.shutdown().await
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), say).await;
    }
}
