//! A proxy between a service and a server, by which a test has the network fail for one of them while everybody else stays connected.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::Instant;

/// What a pump takes at a time: little, so that a narrow line is one all the time.
const PIECE: usize = 4 * 1024;
/// Pieces on the way in one direction of a connection.
const PIECES: usize = 256;

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Weather {
    Clear,
    /// Connections are closed, and new ones at once.
    Cut,
    /// The same with a reset.
    Reset,
    /// Nothing comes through in either direction and nothing ends; what was sent comes later.
    Silent,
    /// The same for what the service sends.
    RequestsHeld,
    /// The same for what the server sends.
    AnswersHeld,
    /// Connections are open, also new ones, and whatever is sent is gone; they are reset when the weather changes.
    Swallowing,
    /// Everything takes so much longer.
    Late(Duration),
    /// So many bytes a second, of all connections together.
    Narrow(u32),
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Requests,
    Answers,
}

impl Weather {
    fn holds(self, direction: Direction) -> bool {
        match self {
            Self::Silent => true,
            Self::RequestsHeld => direction == Direction::Requests,
            Self::AnswersHeld => direction == Direction::Answers,
            _ => false,
        }
    }
}

/// The line in one direction, which all connections share.
struct Line {
    direction: Direction,
    free_at: Mutex<Instant>,
}

impl Line {
    fn new(direction: Direction) -> Arc<Self> {
        Arc::new(Self {
            direction,
            free_at: Mutex::new(Instant::now()),
        })
    }

    /// When a piece that is sent now arrives.
    async fn arrival(&self, bytes: usize, weather: Weather) -> Instant {
        let now = Instant::now();
        match weather {
            Weather::Late(delay) => now + delay,
            Weather::Narrow(rate) => {
                let mut free_at = self.free_at.lock().await;
                #[expect(clippy::cast_precision_loss, reason = "a few thousand bytes")]
                let takes = Duration::from_secs_f64(bytes as f64 / f64::from(rate));
                *free_at = (*free_at).max(now) + takes;
                *free_at
            }
            _ => now,
        }
    }
}

/// The proxy. Whoever is cut off cannot connect again until it is mended.
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
}

impl Proxy {
    /// Starts one before the server at `nats://address:port`.
    pub async fn start(url: &str) -> Self {
        let to = url.trim_start_matches("nats://").parse();
        Self::before(to.expect("an address and a port")).await
    }

    /// Starts one before a server.
    pub async fn before(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let (weather, changes) = watch::channel(Weather::Clear);
        let lines = [Line::new(Direction::Requests), Line::new(Direction::Answers)];
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(connection(near, to, lines.clone(), changes.clone()));
            }
        });
        Self { address, weather }
    }

    /// Where to connect to.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// The same as an address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has the weather change.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.set(Weather::Cut);
    }

    /// Lets through again.
    pub fn mend(&self) {
        self.set(Weather::Clear);
    }
}

async fn connection(mut near: TcpStream, to: SocketAddr, lines: [Arc<Line>; 2], weather: watch::Receiver<Weather>) {
    let mut changes = weather.clone();
    let ends = |weather: &Weather| matches!(weather, Weather::Cut | Weather::Reset);
    let now = *changes.borrow_and_update();
    let reset = |stream: &TcpStream| {
        // One that is gone already needs no reset.
        let _ = set_socket_linger(stream, Some(Duration::ZERO));
    };
    if ends(&now) {
        if now == Weather::Reset {
            reset(&near);
        }
        return;
    }
    let Ok(mut far) = TcpStream::connect(to).await else {
        return;
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let spoiled = AtomicBool::new(false);
    let (near_in, near_out) = near.split();
    let (far_in, far_out) = far.split();
    let [requests, answers] = &lines;
    tokio::select! {
        () = async {
            tokio::join!(
                pump(near_in, far_out, requests, weather.clone(), &spoiled),
                pump(far_in, near_out, answers, weather.clone(), &spoiled),
            );
        } => {}
        _ = changes.wait_for(ends) => {}
        () = mended(weather.clone(), &spoiled) => {}
    }
    if spoiled.load(Ordering::Relaxed) || *weather.borrow() == Weather::Reset {
        reset(&near);
        reset(&far);
    }
}

/// Waits until a connection of which something was swallowed has to end.
async fn mended(mut weather: watch::Receiver<Weather>, spoiled: &AtomicBool) {
    loop {
        let swallows = *weather.borrow_and_update() == Weather::Swallowing;
        if !swallows && spoiled.load(Ordering::Relaxed) {
            return;
        }
        if weather.changed().await.is_err() {
            return;
        }
    }
}

/// Carries one direction of a connection until it ends.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    line: &Line,
    mut weather: watch::Receiver<Weather>,
    spoiled: &AtomicBool,
) {
    let (pieces, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
    let taking = async move {
        let mut buffer = vec![0; PIECE];
        loop {
            if weather
                .wait_for(|weather| !weather.holds(line.direction))
                .await
                .is_err()
            {
                return;
            }
            let read = tokio::select! {
                read = from.read(&mut buffer) => read,
                _ = weather.changed() => continue,
            };
            let Ok(bytes @ 1..) = read else { return };
            let now = *weather.borrow();
            if now == Weather::Swallowing {
                spoiled.store(true, Ordering::Relaxed);
                continue;
            }
            let arrival = line.arrival(bytes, now).await;
            if pieces.send((arrival, buffer[..bytes].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let giving = async move {
        while let Some((arrival, piece)) = arriving.recv().await {
            tokio::time::sleep_until(arrival).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(taking, giving);
}
