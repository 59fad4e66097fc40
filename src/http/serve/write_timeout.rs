//! A connection that is cut when the other end takes nothing for too long.
//!
//! There are two ways to take nothing. One who is there and does not read leaves our writes waiting,
//! which is timed here; one who is no longer there leaves what was written unacknowledged, which only
//! the system sees, and which it is told to time as well.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How long a write may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    /// As long as the process runs.
    pub(super) running: Duration,
    /// When it stops, from then on.
    pub(super) stopping: Duration,
}

/// A TCP connection whose writes fail if the other end takes nothing for longer than the limit.
#[derive(Debug)]
pub(super) struct WriteTimeout {
    stream: TcpStream,
    limit: Limit,
    stop: CancellationToken,
    // Most connections never wait.
    waiting: Option<Box<Waiting>>,
}

/// A write that waits.
#[derive(Debug)]
struct Waiting {
    until: Pin<Box<Sleep>>,
    /// Nothing once the process stops.
    stop: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl WriteTimeout {
    /// Times the writes to this connection.
    pub(super) fn new(stream: TcpStream, limit: Limit, stop: CancellationToken) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        {
            let milliseconds = u32::try_from(limit.running.as_millis()).unwrap_or(u32::MAX);
            rustix::net::sockopt::set_tcp_user_timeout(&stream, milliseconds)?;
        }
        Ok(Self {
            stream,
            limit,
            stop,
            waiting: None,
        })
    }

    /// Passes on what became of a write, and ends one that has waited too long.
    fn timed<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let waiting = self.waiting.get_or_insert_with(|| {
            Box::new(Waiting {
                until: Box::pin(tokio::time::sleep(self.limit.running)),
                stop: Some(Box::pin(self.stop.clone().cancelled_owned())),
            })
        });
        if let Some(stop) = &mut waiting.stop
            && stop.as_mut().poll(cx).is_ready()
        {
            waiting.stop = None;
            let until = waiting.until.deadline().min(Instant::now() + self.limit.stopping);
            waiting.until.as_mut().reset(until);
        }
        ready!(waiting.until.as_mut().poll(cx));
        // What was written and not taken goes with the connection, rather than keep the system busy with it.
        let _ = self.stream.set_zero_linger();
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the other end has taken nothing for too long",
        )))
    }
}

impl AsyncRead for WriteTimeout {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for WriteTimeout {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.timed(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.timed(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    /// More than the system keeps for a connection.
    const BYTES: usize = 16 * 1024 * 1024;
    /// Far longer than anything here takes.
    const LONG: Duration = Duration::from_mins(1);

    /// Our end of a connection, and the other end, which reads only when the test does.
    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let (other, accepted) = tokio::join!(socket.connect(listener.local_addr().unwrap()), listener.accept());
        (accepted.unwrap().0, other.unwrap())
    }

    /// Writes until that fails.
    async fn write_on(stream: &mut (impl AsyncWrite + Unpin)) -> io::ErrorKind {
        let bytes = vec![0; 65_536];
        let writing = async {
            loop {
                if let Err(error) = stream.write(&bytes).await {
                    return error.kind();
                }
            }
        };
        tokio::time::timeout(LONG, writing).await.expect("the writes end")
    }

    #[tokio::test]
    async fn one_who_does_not_read_is_cut_and_one_who_reads_at_last_is_not() {
        let limit = Limit {
            running: Duration::from_millis(300),
            stopping: LONG,
        };
        let (ours, mut other) = connection().await;
        let mut ours = WriteTimeout::new(ours, limit, CancellationToken::new()).unwrap();
        assert_eq!(write_on(&mut ours).await, io::ErrorKind::TimedOut);
        drop(ours);
        // What waited at the system is gone as well.
        let mut rest = Vec::new();
        let end = other.read_to_end(&mut rest).await;
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);

        let limit = Limit { running: LONG, ..limit };
        let (ours, mut other) = connection().await;
        let mut ours = WriteTimeout::new(ours, limit, CancellationToken::new()).unwrap();
        let write = async {
            ours.write_all(&vec![0; BYTES]).await.unwrap();
            drop(ours);
        };
        let read = async {
            let mut all = Vec::new();
            other.read_to_end(&mut all).await.unwrap();
            all.len()
        };
        assert_eq!(tokio::join!(write, read).1, BYTES);
    }

    #[tokio::test]
    async fn a_stop_waits_less_for_one_who_does_not_read() {
        let limit = Limit {
            running: LONG * 10,
            stopping: Duration::from_millis(100),
        };
        let (ours, _other) = connection().await;
        let stop = CancellationToken::new();
        let mut ours = WriteTimeout::new(ours, limit, stop.clone()).unwrap();
        let stopping = async {
            // The writes wait by then, or find that the process stops when they do.
            tokio::time::sleep(Duration::from_millis(100)).await;
            stop.cancel();
        };
        assert_eq!(tokio::join!(write_on(&mut ours), stopping).0, io::ErrorKind::TimedOut);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_system_ends_a_connection_whose_bytes_nobody_takes() {
        let limit = Limit {
            running: Duration::from_millis(300),
            stopping: LONG,
        };
        let (ours, _other) = connection().await;
        let mut timed = WriteTimeout::new(ours, limit, CancellationToken::new()).unwrap();
        // By the system alone.
        assert_eq!(write_on(&mut timed.stream).await, io::ErrorKind::TimedOut);
    }
}
