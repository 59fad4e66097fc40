//! Load over HTTP/1.1: connections that each send their next request when the last one is answered.
//!
//! It shares the processors with what it measures, so it is one thread and does nothing that it need not.

use std::cell::Cell;
use std::io::Write as _;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::events::{Action, shop};
use crate::meter::{Meter, Window};
use crate::processors::{Processors, Used, Watched};

/// What the connections send.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Requests {
    /// One event each, counted up from here, by the route of the phones.
    Singles {
        /// Number of the first event.
        from: u64,
    },
    /// The same as [`Self::Singles`], over and over, with the events up to there.
    Again {
        /// Number of the first event.
        from: u64,
        /// Number after that of the last event.
        to: u64,
    },
    /// That many events each, on a line each.
    Lines {
        /// Session of the first event; each event is of another session.
        session: u64,
        /// Events in a request.
        lines: u64,
    },
}

impl Requests {
    /// Writes the request of that number, with these headers besides, and answers how many events it has.
    fn write(self, number: u64, headers: &str, request: &mut Vec<u8>, body: &mut Vec<u8>) -> u64 {
        request.clear();
        body.clear();
        let (path, kind, events) = match self {
            Self::Singles { from } => {
                let action = Action::of_load(from + number);
                action.write_json(body);
                (format!("/publish/{}", action.shop), "json", 1)
            }
            Self::Again { from, to } => {
                return Self::Singles { from }.write(number % (to - from), headers, request, body);
            }
            Self::Lines { session, lines } => {
                let place = shop(number % 8);
                for line in 0..lines {
                    let action = Action::of(session + number * lines + line, 0);
                    Action { shop: place, ..action }.write_json(body);
                    body.push(b'\n');
                }
                (format!("/v1/shops/{place}/events"), "x-ndjson", lines)
            }
        };
        write!(
            request,
            "POST {path} HTTP/1.1\r\nhost: localhost\r\n{headers}content-type: application/{kind}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .expect("memory takes it");
        request.extend_from_slice(body);
        events
    }
}

/// A load: connections that are kept busy for a while, from a thread of their own.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    pub(crate) connections: usize,
    pub(crate) requests: Requests,
    /// The connections send these, one each in turn; none for no token.
    pub(crate) tokens: Vec<String>,
    pub(crate) warm_up: Duration,
    pub(crate) time: Duration,
    /// Whose use of the processors is measured meanwhile.
    pub(crate) watched: Watched,
}

/// What a load came to.
#[derive(Debug)]
pub(crate) struct Done {
    /// What was measured.
    pub(crate) meter: Meter,
    /// Requests that were sent, in all.
    pub(crate) requests: u64,
    /// Who used the processors, warming up included.
    pub(crate) used: Used,
}

impl Load {
    /// Applies the load.
    pub(crate) async fn run(self) -> Done {
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime starts");
            tokio::task::LocalSet::new().block_on(&runtime, self.connect_and_send())
        };
        tokio::task::spawn_blocking(work).await.expect("the load ends")
    }

    async fn connect_and_send(self) -> Done {
        let mut connections = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            connections.push(Connection::open(self.address).await);
        }
        let processors = Processors::watch(self.watched);
        let window = Window::after(self.warm_up, self.time);
        let next = Rc::new(Cell::new(0_u64));
        let mut tasks = JoinSet::new();
        for (number, connection) in connections.into_iter().enumerate() {
            let token = self.tokens.get(number % self.tokens.len().max(1));
            let headers = token.map(|token| format!("authorization: Bearer {token}\r\n"));
            let asking = keep_asking(
                connection,
                self.requests,
                headers.unwrap_or_default(),
                Rc::clone(&next),
                window,
            );
            tasks.spawn_local(asking);
        }
        let mut meter = Meter::new(window);
        while let Some(done) = tasks.join_next().await {
            meter.add(&done.expect("a connection ends"));
        }
        Done {
            meter,
            requests: next.get(),
            used: processors.used(),
        }
    }
}

async fn keep_asking(
    mut connection: Connection,
    requests: Requests,
    headers: String,
    next: Rc<Cell<u64>>,
    window: Window,
) -> Meter {
    let mut meter = Meter::new(window);
    let (mut request, mut body) = (Vec::new(), Vec::new());
    while window.is_open() {
        let number = next.replace(next.get() + 1);
        let events = requests.write(number, &headers, &mut request, &mut body);
        let since = Instant::now();
        let answer = connection.ask(&request).await;
        assert_eq!(answer.status, 200, "the service refused: {}", answer.text);
        meter.count(events, since);
    }
    meter
}

/// A connection that is kept alive.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer, as far as the load looks at it.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Head and body where the status is no success.
    pub(crate) text: String,
}

impl Connection {
    /// Opens it.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the service listens");
        stream.set_nodelay(true).expect("a connection is open");
        Self {
            stream,
            buffer: Vec::with_capacity(1024),
        }
    }

    /// Sends one event by the route of the phones and waits for its answer.
    pub(crate) async fn post(&mut self, action: Action) {
        let (mut request, mut body) = (Vec::new(), Vec::new());
        action.write_json(&mut body);
        write!(
            request,
            "POST /publish/{} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            action.shop,
            body.len()
        )
        .expect("memory takes it");
        request.extend_from_slice(&body);
        let answer = self.ask(&request).await;
        assert_eq!(answer.status, 200, "the service refused: {}", answer.text);
    }

    /// Asks for a correction of the visit of an action, and waits until it is in the journal.
    pub(crate) async fn correct(&mut self, action: Action) {
        let body = "{\"author\":\"Ada\",\"reason\":\"for the trouble\",\"adjustment\":{\"by\":0.25}}";
        let request = format!(
            "POST /v1/shops/{}/sessions/{}/corrections HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            action.shop,
            action.session,
            body.len()
        );
        let answer = self.ask(request.as_bytes()).await;
        assert_eq!(answer.status, 202, "the service refused: {}", answer.text);
    }

    /// Asks for a path and answers the body.
    pub(crate) async fn get(&mut self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        let answer = self.ask(request.as_bytes()).await;
        assert_eq!(answer.status, 200, "the service refused: {}", answer.text);
        let text = String::from_utf8_lossy(&self.buffer);
        let (head, body) = text.split_once("\r\n\r\n").expect("an answer has a head");
        if is_in_chunks(head) {
            joined(body)
        } else {
            body.to_owned()
        }
    }

    async fn ask(&mut self, request: &[u8]) -> Answer {
        self.stream.write_all(request).await.expect("the service reads");
        self.buffer.clear();
        loop {
            let count = self
                .stream
                .read_buf(&mut self.buffer)
                .await
                .expect("the service answers");
            assert!(count > 0, "the service closed a connection");
            if let Some(answer) = complete(&self.buffer) {
                return answer;
            }
        }
    }
}

fn is_in_chunks(head: &str) -> bool {
    head.lines()
        .any(|line| line.eq_ignore_ascii_case("transfer-encoding: chunked"))
}

/// A body that came in chunks (RFC 9112, section 7.1).
fn joined(mut chunks: &str) -> String {
    let mut body = String::new();
    while let Some((length, rest)) = chunks.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("a chunk begins with its length");
        body.push_str(&rest[..length]);
        chunks = rest[length..].trim_start_matches("\r\n");
    }
    body
}

/// The answer, if all of it is there.
fn complete(read: &[u8]) -> Option<Answer> {
    let head_bytes = read.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&read[..head_bytes]).expect("a head is text");
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        if !name.eq_ignore_ascii_case("content-length") {
            return None;
        }
        value.parse::<usize>().ok()
    });
    let is_whole = match length {
        Some(length) => read.len() >= head_bytes + length,
        // No body of ours has a line of its own with a 0.
        None if is_in_chunks(head) => read.ends_with(b"0\r\n\r\n"),
        None => panic!("an answer tells not where it ends"),
    };
    if !is_whole {
        return None;
    }
    let status = head["HTTP/1.1 ".len()..][..3].parse().expect("a status is a number");
    let text = if status == 200 {
        String::new()
    } else {
        String::from_utf8_lossy(read).into_owned()
    };
    Some(Answer { status, text })
}
