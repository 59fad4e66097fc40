//! A connection to NATS that keeps the order in which everything arrives, whatever it was subscribed with.
//!
//! The client library gives each subscription a queue of its own, and between two queues nobody can tell what came
//! first. A gateway has to: an event before the answer to a get is in the answer, one after it is not.

use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// What may wait here; after that it waits in the server.
const WAITING_MAX: usize = 10_000;

/// What came, in order.
#[derive(Debug)]
pub enum Arrival {
    Message(Arrived),
    /// The server wants to know whether we live; to be answered with `pong`.
    Ping,
    /// The server has taken all that was sent before our ping.
    Pong,
}

/// A message, and the subscription that it came for.
#[derive(Debug)]
pub struct Arrived {
    pub subscription: u64,
    pub subject: String,
    pub payload: Bytes,
    /// It is the server's word that nobody is there to answer.
    pub no_responders: bool,
}

/// A connection. Dropping it closes it.
pub struct Wire {
    write: OwnedWriteHalf,
    arrivals: mpsc::Receiver<Arrival>,
    subscriptions: u64,
    reader: JoinHandle<Option<()>>,
}

impl Wire {
    /// Connects to `nats://host:port`, or `nats://user:password@host:port`.
    pub async fn connect(url: &str) -> Self {
        let rest = url.strip_prefix("nats://").expect("an address of NATS");
        let (login, address) = rest
            .rsplit_once('@')
            .map_or((None, rest), |(login, address)| (Some(login), address));
        let stream = TcpStream::connect(address).await.expect("nats-server is there");
        stream.set_nodelay(true).expect("a socket");
        let (read, mut write) = stream.into_split();
        let (sender, arrivals) = mpsc::channel(WAITING_MAX);
        let reader = tokio::spawn(read_all(BufReader::new(read), sender));
        let mut options = json!({
            "verbose": false, "pedantic": false, "headers": true, "no_responders": true, "protocol": 1, "name": "gateway",
        });
        if let Some((user, password)) = login.and_then(|login| login.split_once(':')) {
            options["user"] = user.into();
            options["pass"] = password.into();
        }
        write
            .write_all(format!("CONNECT {options}\r\n").as_bytes())
            .await
            .expect("nats-server reads");
        Self {
            write,
            arrivals,
            subscriptions: 0,
            reader,
        }
    }

    /// What comes next; None when the connection has ended. Nothing is lost when it is dropped while it waits.
    pub async fn next(&mut self) -> Option<Arrival> {
        self.arrivals.recv().await
    }

    /// Subscribes, and answers the number of the subscription.
    pub async fn subscribe(&mut self, subject: &str) -> u64 {
        self.subscriptions += 1;
        let number = self.subscriptions;
        self.send(format!("SUB {subject} {number}\r\n").as_bytes()).await;
        number
    }

    /// Ends a subscription. What is on its way still comes.
    pub async fn unsubscribe(&mut self, number: u64) {
        self.send(format!("UNSUB {number}\r\n").as_bytes()).await;
    }

    /// Publishes a request.
    pub async fn publish(&mut self, subject: &str, reply: &str, payload: &[u8]) {
        let head = format!("PUB {subject} {reply} {}\r\n", payload.len());
        self.send(&[head.as_bytes(), payload, b"\r\n"].concat()).await;
    }

    /// Waits until the server knows the subscriptions so far. Messages that come meanwhile are lost.
    pub async fn settle(&mut self) {
        self.send(b"PING\r\n").await;
        loop {
            match self.next().await.expect("nats-server takes the connection") {
                Arrival::Pong => return,
                Arrival::Ping => self.pong().await,
                Arrival::Message(_) => {}
            }
        }
    }

    /// Answers a ping.
    pub async fn pong(&mut self) {
        self.send(b"PONG\r\n").await;
    }

    /// What cannot be sent is told by `next`, which ends.
    async fn send(&mut self, bytes: &[u8]) {
        let _ = self.write.write_all(bytes).await;
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Reads until the connection or its owner has gone.
async fn read_all(mut read: BufReader<OwnedReadHalf>, arrivals: mpsc::Sender<Arrival>) -> Option<()> {
    let mut line = String::new();
    loop {
        line.clear();
        if read.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let mut words = line.split_ascii_whitespace();
        let kind = words.next()?;
        let arrival = match kind {
            "PING" => Arrival::Ping,
            "PONG" => Arrival::Pong,
            "MSG" | "HMSG" => {
                let words: Vec<&str> = words.collect();
                let (subject, subscription) = (words[0].to_owned(), words[1].parse().ok()?);
                let size: usize = words.last()?.parse().ok()?;
                let head: usize = if kind == "HMSG" {
                    words[words.len() - 2].parse().ok()?
                } else {
                    0
                };
                let mut bytes = vec![0; size + b"\r\n".len()];
                read.read_exact(&mut bytes).await.ok()?;
                bytes.truncate(size);
                let payload = Bytes::from(bytes);
                Arrival::Message(Arrived {
                    subscription,
                    subject,
                    no_responders: payload[..head].starts_with(b"NATS/1.0 503"),
                    payload: payload.slice(head..),
                })
            }
            "-ERR" => panic!("nats-server refuses: {line}"),
            _ => continue,
        };
        arrivals.send(arrival).await.ok()?;
    }
}
