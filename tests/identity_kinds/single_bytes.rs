//! A network that delivers what a device sends one byte at a time.

use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// An address that leads to `gateway`, for the life of the runtime.
pub async fn in_front_of(gateway: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((device, _)) = listener.accept().await {
            tokio::spawn(carry(device, gateway));
        }
    });
    address
}

async fn carry(device: TcpStream, gateway: SocketAddr) -> std::io::Result<()> {
    let gateway = TcpStream::connect(gateway).await?;
    // One write, one segment.
    gateway.set_nodelay(true)?;
    device.set_nodelay(true)?;
    let (from_device, mut to_device) = device.into_split();
    let (mut from_gateway, to_gateway) = gateway.into_split();
    let up = cut(from_device, to_gateway);
    let down = async {
        tokio::io::copy(&mut from_gateway, &mut to_device).await?;
        to_device.shutdown().await
    };
    tokio::try_join!(up, down).map(|_| ())
}

async fn cut(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> std::io::Result<()> {
    let mut chunk = [0; 2048];
    loop {
        let count = from.read(&mut chunk).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        for byte in &chunk[..count] {
            to.write_all(&[*byte]).await?;
            // The other side's turn to see a hello that is not whole.
            tokio::task::yield_now().await;
        }
    }
}
