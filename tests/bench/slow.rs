//! Slow clients, each of which holds a connection for as long as it may and then comes again.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::apart;
use crate::events::shop;

/// How many there are in all, as many of each kind.
pub(crate) const SLOW: u32 = 2_000;
/// Over how long they begin, so that they do not all come again at the same moment.
const SPREAD: Duration = Duration::from_secs(5);
/// Bytes that one who does not read lets the system keep for it.
const UNREAD_BYTES: u32 = 4 * 1024;

#[derive(Clone, Copy)]
enum Kind {
    /// A byte of its request's head a second.
    Head,
    /// A byte of its request's body a second.
    Body,
    /// Asks for much, and reads nothing of it.
    Reader,
    /// An HTTP/2 connection that asks nothing.
    Silent,
}

const KINDS: [Kind; 4] = [Kind::Head, Kind::Body, Kind::Reader, Kind::Silent];

/// What their process does until it is killed.
pub(crate) async fn be_slow(address: SocketAddr) -> ! {
    let mut clients = JoinSet::new();
    for (number, kind) in (0..SLOW).zip(KINDS.into_iter().cycle()) {
        clients.spawn(async move {
            tokio::time::sleep(SPREAD * number / SLOW).await;
            loop {
                // However it ends, it comes again.
                let _ = kind.hold(address).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    }
    tokio::time::sleep(SPREAD).await;
    apart::say_ready();
    clients.join_next().await;
    unreachable!("a client comes again for ever");
}

impl Kind {
    async fn hold(self, address: SocketAddr) -> io::Result<()> {
        let mut stream = match self {
            Self::Reader => {
                let socket = TcpSocket::new_v4()?;
                socket.set_recv_buffer_size(UNREAD_BYTES)?;
                socket.connect(address).await?
            }
            _ => TcpStream::connect(address).await?,
        };
        match self {
            Self::Head => {
                drip(
                    &mut stream,
                    b"POST /send HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n",
                )
                .await
            }
            Self::Body => {
                let head = format!(
                    "POST /publish/{} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 400\r\n\r\n",
                    shop(1)
                );
                stream.write_all(head.as_bytes()).await?;
                drip(&mut stream, b"{\"shop_id\": \"").await
            }
            Self::Reader => {
                let request = "GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(20);
                stream.write_all(request.as_bytes()).await?;
                // Nothing is read, and so nothing tells when it was cut off: it tries to ask more.
                drip(&mut stream, b"\r\n").await
            }
            Self::Silent => {
                // The preface of RFC 9113 section 3.4, and settings without any.
                stream
                    .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
                    .await?;
                let mut buffer = [0; 1024];
                while stream.read(&mut buffer).await? > 0 {}
                Ok(())
            }
        }
    }
}

/// Sends a byte a second, these over and over, until it is cut off or answered.
async fn drip(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    for byte in bytes.iter().cycle() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        stream.write_all(&[*byte]).await?;
    }
    Ok(())
}
