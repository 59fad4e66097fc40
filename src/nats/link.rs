//! The connection to NATS: it stays up by itself, and tells at once when it is lost and when it is back.
//!
//! Nothing is promised about what was being sent when a connection was lost.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream::{self, context::ContextBuilder};
use async_nats::{Event, ReconnectToServer, Server, ServerAddr};
use tokio::sync::watch;

use super::Address;

/// Longest pause before the next attempt to connect.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_millis(500);
/// Longest wait for the answer to a request about the stream or a consumer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages that may wait for the connection's own task: several batches, so that a writer is not held up within one.
const CONNECTION_QUEUE: usize = 8192;

/// Why there can be no connection, ever.
#[derive(Debug, thiserror::Error)]
#[error("EZOUT_NATS_URL is not a list of NATS addresses")]
pub struct LinkError(#[source] pub(super) Box<dyn std::error::Error + Send + Sync>);

/// Whether there is a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// Connected now.
    pub up: bool,
    /// Connections so far: what was sent on an earlier one may never be answered.
    pub generation: u64,
}

/// A connection. Clones share it.
#[derive(Debug, Clone)]
pub struct Connection {
    client: async_nats::Client,
    status: watch::Receiver<Status>,
    /// By which its server is chosen.
    chosen: Arc<Mutex<Choice>>,
}

/// Which server to connect to: one that was not tried since there was a connection, and of these rather another one than
/// the one that was left, and one that refused least often.
#[derive(Debug, Default)]
struct Choice {
    tried: Vec<ServerAddr>,
    last: Option<ServerAddr>,
    left: Option<ServerAddr>,
}

impl Choice {
    fn next(&mut self, servers: &[Server]) -> Option<ReconnectToServer> {
        let key = |server: &&Server| {
            let tries = self.tried.iter().filter(|tried| **tried == server.addr).count();
            let is_left = self.left.as_ref() == Some(&server.addr);
            (tries, is_left, server.failed_attempts, fastrand::u32(..))
        };
        let addr = servers.iter().min_by_key(key)?.addr.clone();
        self.tried.push(addr.clone());
        // Each was tried as often as any other: it begins again.
        if self.tried.len() >= servers.len() && servers.iter().all(|server| self.tried.contains(&server.addr)) {
            self.tried.clear();
            self.left = None;
        }
        self.last = Some(addr.clone());
        Some(ReconnectToServer { addr, delay: None })
    }

    /// There is a connection, to the last one that was chosen.
    fn connected(&mut self) {
        self.tried.clear();
    }
}

fn locked(choice: &Mutex<Choice>) -> MutexGuard<'_, Choice> {
    choice.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    /// Begins to connect and returns at once; `name` is what the server lists it under.
    ///
    /// # Errors
    /// [`LinkError`] if `urls` is no list of addresses.
    pub async fn start(urls: &str, name: &str) -> Result<Self, LinkError> {
        let (sender, status) = watch::channel(Status::default());
        let address = Address::parse(urls)?;
        let chosen: Arc<Mutex<Choice>> = Arc::default();
        let (choice, connected) = (Arc::clone(&chosen), Arc::clone(&chosen));
        let client = address
            .options()
            .name(name)
            .retry_on_initial_connect()
            .connection_timeout(Duration::from_secs(2))
            .request_timeout(Some(REQUEST_TIMEOUT))
            .client_capacity(CONNECTION_QUEUE)
            .ping_interval(Duration::from_secs(5))
            .reconnect_delay_callback(|attempts| {
                let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
                Duration::from_millis(20)
                    .saturating_mul(attempts)
                    .min(RECONNECT_PAUSE_MAX)
            })
            .reconnect_to_server_callback(move |servers, _| {
                let next = locked(&choice).next(&servers);
                std::future::ready(next)
            })
            .event_callback(move |event| {
                match event {
                    Event::Connected => {
                        locked(&connected).connected();
                        sender.send_modify(|status| {
                            *status = Status {
                                up: true,
                                generation: status.generation + 1,
                            };
                        });
                    }
                    Event::Disconnected | Event::Closed => sender.send_modify(|status| status.up = false),
                    Event::SlowConsumer(_) => tracing::warn!("a NATS subscription fell behind and lost messages"),
                    Event::ServerError(error) => tracing::warn!(%error, "the NATS server complained"),
                    Event::ClientError(error) => tracing::debug!(%error, "no connection to NATS"),
                    Event::LameDuckMode | Event::Draining => {}
                }
                std::future::ready(())
            })
            .connect(address.servers())
            .await
            .map_err(|error| LinkError(error.into()))?;
        Ok(Self { client, status, chosen })
    }

    /// The client of this connection.
    pub fn client(&self) -> async_nats::Client {
        self.client.clone()
    }

    /// Every loss and return of the connection.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Leaves the server for another one, if it knows another one; else it comes back. What was on its way may never be answered.
    pub async fn leave(&self) {
        {
            let Choice { last, left, .. } = &mut *locked(&self.chosen);
            left.clone_from(last);
        }
        // Who was closed for good has no server to leave.
        let _ = self.client.force_reconnect().await;
    }

    /// Whether there is a connection now.
    pub fn is_up(&self) -> bool {
        self.status.borrow().up && self.client.connection_state() == async_nats::connection::State::Connected
    }
}

/// The connection, and one stream at it. Clones share the connection, and so do links to other streams.
#[derive(Debug, Clone)]
pub struct Link {
    connection: Connection,
    context: jetstream::Context,
    stream: jetstream::stream::Stream<()>,
}

impl Link {
    /// Begins to connect and returns at once; it is a link to this stream, whether or not it is there.
    ///
    /// # Errors
    /// [`LinkError`] if `urls` is no list of addresses.
    pub async fn start(urls: &str, stream: &str) -> Result<Self, LinkError> {
        let connection = Connection::start(urls, "ezout").await?;
        let context = ContextBuilder::new()
            .timeout(REQUEST_TIMEOUT)
            .build(connection.client());
        // Asks nothing of the server, so it does not wait for one.
        let stream = context
            .get_stream_no_info(stream)
            .await
            .map_err(|error| LinkError(error.into()))?;
        Ok(Self {
            connection,
            context,
            stream,
        })
    }

    /// The same connection as a link to another stream, whether or not it is there.
    ///
    /// # Errors
    /// [`LinkError`] if no stream can have this name.
    pub async fn to(&self, stream: &str) -> Result<Self, LinkError> {
        let stream = self.context.get_stream_no_info(stream).await;
        Ok(Self {
            stream: stream.map_err(|error| LinkError(error.into()))?,
            ..self.clone()
        })
    }

    /// The connection itself.
    pub fn client(&self) -> async_nats::Client {
        self.connection.client()
    }

    /// Requests about streams.
    pub fn context(&self) -> &jetstream::Context {
        &self.context
    }

    /// The stream, whether or not it is there.
    pub fn stream(&self) -> &jetstream::stream::Stream<()> {
        &self.stream
    }

    /// Every loss and return of the connection.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.connection.status()
    }

    /// The connection, without a stream.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Whether there is a connection now.
    pub fn is_up(&self) -> bool {
        self.connection.is_up()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(failures: [usize; 3]) -> Vec<Server> {
        let server = |(number, failed_attempts)| Server {
            addr: format!("nats://n{number}:4222").parse().unwrap(),
            failed_attempts,
            did_connect: true,
            is_discovered: false,
            last_error: None,
        };
        (1..).zip(failures).map(server).collect()
    }

    #[test]
    fn the_server_that_was_left_is_the_last_to_be_tried_again() {
        let mut choice = Choice::default();
        for _ in 0..50 {
            let servers = servers([0, 3, 7]);
            let first = choice.next(&servers).unwrap().addr;
            choice.connected();
            choice.left = Some(first.clone());
            let round: Vec<ServerAddr> = (0..3).map(|_| choice.next(&servers).unwrap().addr).collect();
            assert_eq!(round[2], first, "{round:?}");
            assert_ne!(round[0], round[1]);
            choice.connected();
        }
    }

    #[test]
    fn each_is_tried_though_one_fails_without_being_counted() {
        let mut choice = Choice::default();
        // As where its name is gone.
        let servers = servers([0, 1, 1]);
        let mut round: Vec<String> = (0..3)
            .map(|_| choice.next(&servers).unwrap().addr.host().to_owned())
            .collect();
        assert_eq!(round[0], "n1");
        round.sort();
        assert_eq!(round, ["n1", "n2", "n3"]);
    }
}
