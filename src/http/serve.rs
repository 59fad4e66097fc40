//! The accept loop: limits for connections, headers and silence, and an orderly stop.
//!
//! Connections beyond the limit wait in the backlog of the socket, and so cost this process nothing. One
//! of an address that has as many as it may is closed at once, so that no address keeps all others waiting.
//! On a stop nobody is accepted any more, requests under way are answered, and what is not done
//! within the grace is cut off. Who takes nothing of its answer is cut off long before, and who asks nothing any more has
//! its connection ended.

mod idle;
mod write_timeout;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use prometheus::IntGauge;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use self::idle::Asked;
use self::write_timeout::{Limit, WriteTimeout};
use super::limit::Addresses;
use crate::metrics::Metrics;

/// How long the other end may keep us waiting.
const PATIENCE: Patience = Patience {
    head: Duration::from_secs(30),
    first_request: Duration::from_secs(5),
    idle: Duration::from_secs(30),
    taking: Duration::from_mins(2),
    grace: Duration::from_secs(10),
    write: Limit {
        running: Duration::from_secs(20),
        stopping: Duration::from_secs(2),
    },
};
/// Connections that may wait to be accepted. Beyond it the system turns them away, and each tries again a second later:
/// after an outage all phones come at once.
const BACKLOG: u32 = 4096;
/// Bytes of an answer that the system keeps until the other end takes them; it counts as many again for its own needs.
/// Without a limit it keeps megabytes for each who does not read, and when all memory for TCP is taken, nobody is served.
/// It bounds what is on its way too: to one who is 100 ms away some 1 MB goes a second.
const UNTAKEN_BYTES_MAX: u32 = 64 * 1024;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;
/// Most bytes of all headers of a request.
const HEAD_BYTES_MAX: u32 = 16 * 1024;
/// Bytes that a connection may have read and not yet understood.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// Streams of an HTTP/2 connection that its client has reset and that are still remembered. One that resets more is cut off.
const RESET_STREAMS_MAX: usize = 64;
/// Silence after which the other end of an HTTP/2 connection is asked whether it is there.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Longest wait for its answer.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// First pause after the system refused to accept, as when no file descriptor is left.
const ACCEPT_PAUSE_FIRST: Duration = Duration::from_millis(50);
/// Longest such pause.
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// From where a request comes: the other end of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// How many connections may be open at once, and how many are.
#[derive(Debug)]
pub struct Room {
    most: usize,
    addresses: Addresses,
    open: IntGauge,
}

impl Room {
    /// For those who use the API.
    pub fn for_clients(config: &super::Config, metrics: &Metrics) -> Self {
        let refused = metrics.limited_places.with_label_values(&["connection"]);
        let most = i64::try_from(config.http_connections).unwrap_or(i64::MAX);
        metrics.http_connections_limit.set(most);
        Self {
            most: config.http_connections,
            addresses: Addresses::new(config.limits.connections_per_address, false, refused),
            open: metrics.http_connections.clone(),
        }
    }

    /// For those who watch over the process.
    pub fn for_operators(config: &super::Config, metrics: &Metrics) -> Self {
        Self {
            most: config.http_connections,
            addresses: Addresses::any(),
            open: metrics.admin_connections.clone(),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Patience {
    /// For the head of a request. It also ends connections that were kept alive and are idle this long.
    head: Duration,
    /// For the first request of a connection, whatever it sends until then.
    first_request: Duration,
    /// For another request, when none is under way. The clients of HTTP/1 have only that for the head as well.
    idle: Duration,
    /// For a part of an answer to be taken whole, the largest by the slowest phone.
    taking: Duration,
    /// For requests under way when the process stops.
    grace: Duration,
    /// For taking anything at all of an answer, as a viewer does with every heartbeat.
    write: Limit,
}

/// Listens on an address, with room for a crowd that comes at once.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // A start right after a stop must not wait for the old connections to be forgotten.
    socket.set_reuseaddr(true)?;
    // Those that are accepted have it as well.
    socket.set_send_buffer_size(UNTAKEN_BYTES_MAX)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stop` is cancelled and the connections have ended, at most the grace of 10 s later.
pub async fn serve(listener: TcpListener, router: Router, room: Room, stop: CancellationToken) {
    serve_with(listener, router, room, stop, PATIENCE).await;
}

async fn serve_with(listener: TcpListener, router: Router, room: Room, stop: CancellationToken, patience: Patience) {
    let Room { most, addresses, open } = room;
    let builder = builder(patience);
    let mut connections = JoinSet::new();
    let mut pause = ACCEPT_PAUSE_FIRST;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => open.dec(),
            accepted = listener.accept(), if connections.len() < most.max(1) => match accepted {
                Ok((stream, peer)) => {
                    pause = ACCEPT_PAUSE_FIRST;
                    // Dropped and so closed: to say why would take as long as to serve.
                    let Ok(place) = addresses.take(peer) else { continue };
                    open.inc();
                    let attending = attend(stream, peer, builder.clone(), router.clone(), patience, stop.clone());
                    connections.spawn(async move {
                        attending.await;
                        drop(place);
                    });
                }
                // The client went away while it waited; the next one may be there already.
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot accept connections; trying again in {pause:?}");
                    stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                    pause = ACCEPT_PAUSE_MAX.min(pause * 2);
                }
            },
        }
    }
    drop(listener);
    let all_ended = async {
        while connections.join_next().await.is_some() {
            open.dec();
        }
    };
    if tokio::time::timeout(patience.grace, all_ended).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "connections were cut off, as they did not end within {:?}",
            patience.grace
        );
    }
    open.sub(i64::try_from(connections.len()).unwrap_or(i64::MAX));
    connections.shutdown().await;
}

fn builder(patience: Patience) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.head)
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_local_error_reset_streams(RESET_STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// Answers the requests of one connection until it ends.
async fn attend(
    stream: TcpStream,
    peer: SocketAddr,
    builder: Builder<TokioExecutor>,
    router: Router,
    patience: Patience,
    stop: CancellationToken,
) {
    // Answers are small and complete: to wait for more of them would only delay them.
    let stream = stream
        .set_nodelay(true)
        .and_then(|()| WriteTimeout::new(stream, patience.write, stop.clone()));
    let stream = match stream {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "a connection went away before its first request");
            return;
        }
    };
    let asked = Arc::new(Asked::default());
    let counted = Arc::clone(&asked);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let under_way = counted.begin();
        request.extensions_mut().insert(Peer(peer));
        let answering = router.clone().call(request);
        async move { answering.await.map(|answer| under_way.until_the_end_of(answer)) }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    // hyper's own timeout starts only when the version of the protocol is known, which takes some bytes.
    let mut first_request = pin!(asked.nothing(patience.first_request));
    // And it has none for a silence on HTTP/2, where whoever answers pings could stay for ever.
    let mut idle = pin!(asked.idle(patience.idle));
    let mut untaken = pin!(asked.untaken(patience.taking));
    let (mut is_new, mut is_ending) = (true, false);
    let ended = loop {
        tokio::select! {
            ended = connection.as_mut() => break ended,
            is_silent = &mut first_request, if is_new => {
                if is_silent {
                    return;
                }
                is_new = false;
            }
            () = &mut untaken => return,
            () = stop.cancelled(), if !is_ending => {
                is_ending = true;
                connection.as_mut().graceful_shutdown();
            }
            () = &mut idle => {
                // The other end was told, and keeps it open all the same.
                if is_ending {
                    return;
                }
                is_ending = true;
                connection.as_mut().graceful_shutdown();
                idle.set(asked.idle(patience.idle));
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = &*error, "a connection ended with an error");
    }
}

fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Notify;

    use super::*;

    struct Served {
        address: std::net::SocketAddr,
        open: IntGauge,
        stop: CancellationToken,
        server: tokio::task::JoinHandle<()>,
    }

    fn serving(router: Router, most: usize, patience: Patience) -> Served {
        serving_to(router, most, Addresses::any(), patience)
    }

    fn serving_to(router: Router, most: usize, addresses: Addresses, patience: Patience) -> Served {
        let listener = listen(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let open = IntGauge::new("open", "open").unwrap();
        let stop = CancellationToken::new();
        let room = Room {
            most,
            addresses,
            open: open.clone(),
        };
        let server = tokio::spawn(serve_with(listener, router, room, stop.clone(), patience));
        Served {
            address,
            open,
            stop,
            server,
        }
    }

    async fn ask(stream: &mut TcpStream) {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    }

    async fn hear(stream: &mut TcpStream) -> String {
        let mut buffer = vec![0; 4096];
        let length = stream.read(&mut buffer).await.unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[tokio::test]
    async fn the_system_keeps_little_for_who_does_not_read() {
        let listener = listen(([127, 0, 0, 1], 0).into()).unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4 * 1024).unwrap();
        let (reader, accepted) = tokio::join!(socket.connect(listener.local_addr().unwrap()), listener.accept());
        let (_reader, (mut stream, _)) = (reader.unwrap(), accepted.unwrap());
        let (bytes, mut kept) = (vec![0; 64 * 1024], 0);
        let silence = Duration::from_millis(500);
        while let Ok(written) = tokio::time::timeout(silence, stream.write(&bytes)).await {
            kept += written.unwrap();
        }
        assert!(kept > 0);
        assert!(kept <= 3 * UNTAKEN_BYTES_MAX as usize, "it keeps {kept} bytes");
    }

    #[tokio::test]
    async fn a_connection_beyond_the_limit_is_served_when_another_ends() {
        let served = serving(Router::new().route("/", get(async || "here")), 1, PATIENCE);
        let mut first = TcpStream::connect(served.address).await.unwrap();
        ask(&mut first).await;
        assert!(hear(&mut first).await.ends_with("here"));
        let mut second = TcpStream::connect(served.address).await.unwrap();
        ask(&mut second).await;
        let early = tokio::time::timeout(Duration::from_millis(100), second.readable()).await;
        assert!(early.is_err(), "two connections were served at once");
        assert_eq!(served.open.get(), 1);
        drop(first);
        assert!(hear(&mut second).await.ends_with("here"));
    }

    #[tokio::test]
    async fn an_address_that_has_as_many_connections_as_it_may_gets_no_more_and_the_others_do() {
        let refused = prometheus::IntCounter::new("refused", "refused").unwrap();
        let addresses = Addresses::new(2, true, refused.clone());
        let served = serving_to(Router::new().route("/", get(async || "here")), 10, addresses, PATIENCE);
        let from = async |address: [u8; 4]| {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((address, 0).into()).unwrap();
            let mut stream = socket.connect(served.address).await.unwrap();
            // Where it is closed already this may fail, and so may the reading.
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
            let mut buffer = vec![0; 4096];
            let length = stream.read(&mut buffer).await.unwrap_or_default();
            (stream, buffer[..length].ends_with(b"here"))
        };
        let one = [127, 0, 0, 1];
        let (first, second) = (from(one).await, from(one).await);
        assert!(first.1 && second.1);
        for _ in 0..20 {
            assert!(!from(one).await.1, "a third connection was served");
        }
        assert_eq!((refused.get(), served.open.get()), (20, 2));
        assert!(from([127, 0, 0, 2]).await.1, "another address is served");
        drop(first);
        // Its end is seen a moment later.
        while !from(one).await.1 {}
    }

    #[tokio::test]
    async fn a_request_under_way_is_answered_when_the_process_stops() {
        let (arrived, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (tell, wait) = (Arc::clone(&arrived), Arc::clone(&go_on));
        let handler = async move || {
            tell.notify_one();
            wait.notified().await;
            "done"
        };
        let served = serving(Router::new().route("/", get(handler)), 10, PATIENCE);
        let mut client = TcpStream::connect(served.address).await.unwrap();
        let _silent = TcpStream::connect(served.address).await.unwrap();
        ask(&mut client).await;
        arrived.notified().await;
        served.stop.cancel();
        go_on.notify_one();
        assert!(hear(&mut client).await.ends_with("done"));
        tokio::time::timeout(PATIENCE.grace, served.server)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(served.open.get(), 0);
    }

    /// An answer without an end.
    fn endless() -> Router {
        let body = || {
            axum::body::Body::from_stream(futures::stream::repeat(Ok::<_, std::convert::Infallible>(vec![
                0_u8;
                65_536
            ])))
        };
        Router::new().route("/", get(async move || body()))
    }

    async fn begin(served: &Served) -> TcpStream {
        let mut client = TcpStream::connect(served.address).await.unwrap();
        ask(&mut client).await;
        // The answer has begun.
        client.peek(&mut [0]).await.unwrap();
        client
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_cut_off() {
        let write = Limit {
            running: Duration::from_millis(300),
            ..PATIENCE.write
        };
        let served = serving(endless(), 10, Patience { write, ..PATIENCE });
        let mut silent = begin(&served).await;
        let mut all = Vec::new();
        // It reads on only when it is too late.
        while served.open.get() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let end = silent.read_to_end(&mut all).await;
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_does_not_hold_up_a_stop() {
        let patience = Patience {
            grace: Duration::from_hours(1),
            write: Limit {
                running: Duration::from_hours(1),
                stopping: Duration::from_millis(100),
            },
            ..PATIENCE
        };
        let served = serving(endless(), 10, patience);
        let _silent = begin(&served).await;
        served.stop.cancel();
        tokio::time::timeout(Duration::from_mins(1), served.server)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(served.open.get(), 0);
    }

    #[tokio::test]
    async fn viewers_who_stay_are_cut_off_after_the_grace() {
        let patience = Patience {
            grace: Duration::from_millis(100),
            ..PATIENCE
        };
        // They read, and there is nothing more to read.
        let silence = || {
            let begin = futures::stream::iter([Ok::<_, std::convert::Infallible>("begin")]);
            axum::body::Body::from_stream(futures::StreamExt::chain(begin, futures::stream::pending()))
        };
        let served = serving(Router::new().route("/", get(async move || silence())), 10, patience);
        let mut viewers = Vec::new();
        for _ in 0..5 {
            viewers.push(begin(&served).await);
        }
        assert_eq!(served.open.get(), 5);
        served.stop.cancel();
        served.server.await.unwrap();
        assert_eq!(served.open.get(), 0);
        for mut viewer in viewers {
            let mut all = Vec::new();
            // An end with a reset is an end, too.
            let _ = viewer.read_to_end(&mut all).await;
            assert!(String::from_utf8_lossy(&all).contains("begin"));
        }
    }

    #[tokio::test]
    async fn a_connection_that_asks_nothing_is_ended() {
        let patience = Patience {
            first_request: Duration::from_millis(50),
            ..PATIENCE
        };
        let served = serving(Router::new(), 10, patience);
        for beginning in ["", "PRI * HT", "GET / HTTP/1.1\r\nhost:"] {
            let mut client = TcpStream::connect(served.address).await.unwrap();
            client.write_all(beginning.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            // An end with a reset is an end, too.
            let _ = client.read_to_end(&mut answer).await;
            assert_eq!(answer, b"", "{beginning:?}");
        }
    }

    /// A frame of HTTP/2.
    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
    }

    /// Somebody who asks once by HTTP/2, and acknowledges nothing.
    async fn begin_h2(served: &Served) -> TcpStream {
        // GET, http, `/`: all of them in the static table.
        let head = frame(1, 5, 1, &[0x82, 0x86, 0x84]);
        let bytes = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[]), head].concat();
        let mut client = TcpStream::connect(served.address).await.unwrap();
        client.write_all(&bytes).await.unwrap();
        client
    }

    async fn hear_until(stream: &mut TcpStream, part: &str) -> Vec<u8> {
        let mut heard = Vec::new();
        while !heard.windows(part.len()).any(|window| window == part.as_bytes()) {
            assert!(stream.read_buf(&mut heard).await.unwrap() > 0, "it ended before {part}");
        }
        heard
    }

    #[tokio::test]
    async fn a_connection_of_http_2_that_opens_no_window_is_ended() {
        let patience = Patience {
            taking: Duration::from_millis(100),
            ..PATIENCE
        };
        let served = serving(Router::new().route("/", get(async || "here")), 10, patience);
        let mut client = TcpStream::connect(served.address).await.unwrap();
        // SETTINGS_INITIAL_WINDOW_SIZE is 0.
        let settings = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
        let head = frame(1, 5, 1, &[0x82, 0x86, 0x84]);
        let bytes = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), settings, head].concat();
        client.write_all(&bytes).await.unwrap();
        let mut heard = Vec::new();
        // An end with a reset is an end, too.
        let _ = client.read_to_end(&mut heard).await;
        assert!(!heard.windows(4).any(|window| window == b"here"), "{heard:?}");
    }

    #[tokio::test]
    async fn a_connection_of_http_2_that_asks_nothing_any_more_is_ended_and_one_with_an_open_stream_is_not() {
        let patience = Patience {
            idle: Duration::from_millis(100),
            ..PATIENCE
        };
        let go_on = Arc::new(tokio::sync::Semaphore::new(0));
        let wait = Arc::clone(&go_on);
        let handler = async move || {
            let begin = futures::stream::iter([Ok::<_, std::convert::Infallible>("begin")]);
            let rest = futures::stream::once(async move {
                wait.acquire().await.unwrap().forget();
                Ok("end")
            });
            axum::body::Body::from_stream(futures::StreamExt::chain(begin, rest))
        };
        let served = serving(Router::new().route("/", get(handler)), 10, patience);
        let mut idle = begin_h2(&served).await;
        hear_until(&mut idle, "begin").await;
        go_on.add_permits(1);
        hear_until(&mut idle, "end").await;
        let mut viewer = begin_h2(&served).await;
        hear_until(&mut viewer, "begin").await;
        let mut rest = Vec::new();
        // An end with a reset is an end, too.
        let _ = idle.read_to_end(&mut rest).await;
        // What it was told before: GOAWAY.
        assert!(rest.windows(4).any(|window| window == [8, 7, 0, 0]), "{rest:?}");
        while served.open.get() > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        go_on.add_permits(1);
        hear_until(&mut viewer, "end").await;
    }
}
