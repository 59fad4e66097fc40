//! What an acknowledgement of the running servers means.
//!
//! The stream's configuration says how many copies there are; only the servers themselves know
//! whether they sync their disks before they acknowledge, and they say so on their monitoring port.
//! What cannot be read counts as the weakest.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use async_nats::jetstream::stream::{
    Config as StreamConfig, DiscardPolicy, Info, PersistenceMode, RetentionPolicy, StorageType,
};
use serde::Deserialize;
use time::OffsetDateTime;

use super::Config;
use crate::core::address::without_password;

/// Longest wait for a monitoring port.
const MONITOR_TIMEOUT: Duration = Duration::from_secs(2);
/// Oldest server with atomic batches that refuse duplicates.
const OLDEST_SERVER: (u32, u32) = (2, 12);
/// Shortest time for which a retry must be known as one by the server.
const DUPLICATE_WINDOW_MIN: Duration = Duration::from_mins(5);

/// What has happened to an event when its append is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// One server has it in memory: it survives the end of the server process, not of the machine.
    Memory,
    /// Most of the replicas have it in memory: it survives the loss of a minority of the machines.
    Quorum,
    /// One server has it on disk.
    Disk,
    /// Most of the replicas have it on disk.
    DiskQuorum,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Quorum => "quorum",
            Self::Disk => "disk",
            Self::DiskQuorum => "disk-quorum",
        })
    }
}

/// What one server says of itself on its monitoring port, `/varz`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct Server {
    /// Its name.
    #[serde(rename = "server_name")]
    pub name: String,
    /// Its version.
    pub version: String,
    /// The address that it listens on for clients.
    #[serde(default)]
    pub host: String,
    /// The port for clients.
    #[serde(default)]
    pub port: u16,
    /// The port for monitoring.
    #[serde(default)]
    pub http_port: u16,
    /// Its place among others; all empty where it is alone.
    #[serde(default)]
    pub cluster: ServerCluster,
    /// Bytes of its memory.
    #[serde(default)]
    pub mem: u64,
    /// Connections of clients.
    #[serde(default)]
    pub connections: u64,
    /// Clients that it has cut off since they were too slow.
    #[serde(default)]
    pub slow_consumers: u64,
    /// Whether it asks whoever connects who they are.
    #[serde(default)]
    pub auth_required: bool,
    /// What its settings say of it.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Its clock.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub now: Option<OffsetDateTime>,
    /// What it does with streams; all empty where it keeps none.
    #[serde(default)]
    pub jetstream: ServerJetStream,
}

/// A server's place among others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct ServerCluster {
    /// The address that it listens on for the others.
    #[serde(default)]
    pub addr: String,
    /// The port for the others.
    #[serde(default)]
    pub cluster_port: u16,
    /// Where the others listen.
    #[serde(default)]
    pub urls: Vec<String>,
}

/// What a server does with streams.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct ServerJetStream {
    /// How it keeps them.
    #[serde(default)]
    pub config: ServerStorage,
    /// How much it keeps.
    #[serde(default)]
    pub stats: ServerUse,
}

/// How a server keeps streams.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct ServerStorage {
    /// Whether its disk is synced before it acknowledges. Absent where it is not.
    #[serde(default)]
    pub sync_always: bool,
    /// Bytes that all streams in memory may have.
    #[serde(default)]
    pub max_memory: u64,
    /// Bytes that all streams on disk may have.
    #[serde(default)]
    pub max_storage: u64,
    /// The folder of the streams.
    #[serde(default)]
    pub store_dir: String,
}

/// How much a server keeps.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct ServerUse {
    /// Bytes of all streams in memory.
    #[serde(default)]
    pub memory: u64,
    /// Bytes of all streams on disk.
    #[serde(default)]
    pub storage: u64,
}

impl Server {
    /// Whether it is old enough to lack something that the journal needs.
    pub fn is_too_old(&self) -> bool {
        version(&self.version).is_none_or(|version| version < OLDEST_SERVER)
    }
}

/// Why a server is weaker than promised, or may be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerFault {
    /// Its monitoring address does not answer.
    #[error(
        "the monitoring address {url} cannot be read ({error}), so whether that server syncs its disk is not known"
    )]
    Unread {
        /// The address, without a password.
        url: String,
        /// What came instead of an answer.
        error: String,
    },
    /// Its disk is not synced.
    #[error("server {name} acknowledges before its disk is synced: set jetstream.sync_interval to always")]
    NotSynced {
        /// The server.
        name: String,
    },
    /// It lacks something that the journal needs.
    #[error("server {name} is version {version}, which is older than {}.{}", OLDEST_SERVER.0, OLDEST_SERVER.1)]
    TooOld {
        /// The server.
        name: String,
        /// Its version.
        version: String,
    },
    /// Nobody has told its address.
    #[error("server {name} holds the journal but has no address in EZOUT_NATS_MONITOR_URL")]
    NoAddress {
        /// The server.
        name: String,
    },
}

/// What the monitoring ports said, and what is wrong with those that said nothing.
#[derive(Debug, Clone, Default)]
pub struct Servers {
    /// Those that answered.
    pub known: Vec<Server>,
    /// Those that did not.
    pub unread: Vec<ServerFault>,
    /// For each address, in their order, which of those that answered it is.
    pub by_place: Vec<Option<usize>>,
}

impl Servers {
    /// Takes note of what one address has answered.
    pub fn note(&mut self, url: &str, answer: Result<Server, reqwest::Error>) {
        self.by_place.push(answer.is_ok().then_some(self.known.len()));
        match answer {
            Ok(server) => self.known.push(server),
            Err(error) => self.unread.push(ServerFault::Unread {
                url: without_password(url),
                error: error.without_url().to_string(),
            }),
        }
    }

    /// Everything by which the servers that keep these streams are weaker than promised, or may be.
    pub fn faults(&self, streams: &[&Info]) -> Vec<ServerFault> {
        let mut faults = self.unread.clone();
        for server in &self.known {
            let name = server.name.clone();
            if !server.jetstream.config.sync_always {
                faults.push(ServerFault::NotSynced { name: name.clone() });
            }
            if server.is_too_old() {
                let version = server.version.clone();
                faults.push(ServerFault::TooOld { name, version });
            }
        }
        let named: BTreeSet<&str> = self.known.iter().map(|server| server.name.as_str()).collect();
        let clusters = streams.iter().filter_map(|stream| stream.cluster.as_ref());
        let holders: BTreeSet<&String> = clusters
            .flat_map(|cluster| {
                cluster
                    .leader
                    .iter()
                    .chain(cluster.replicas.iter().map(|peer| &peer.name))
            })
            .collect();
        for holder in holders {
            // An unread address has been reported and may be this very server.
            if !named.contains(holder.as_str()) && self.unread.is_empty() {
                faults.push(ServerFault::NoAddress { name: holder.clone() });
            }
        }
        faults
    }
}

/// What an acknowledgement means, and every reason why that or anything else is weaker than promised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// What an acknowledgement means.
    pub durability: Durability,
    /// Reasons that lie with the servers.
    pub servers: Vec<ServerFault>,
    /// Reasons that lie with the stream, each with its setting.
    pub stream: Vec<(&'static str, String)>,
}

/// A client for monitoring ports, which are asked directly and never by way of a proxy.
pub fn monitor_client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client without TLS needs nothing of the system")
}

/// Asks every monitoring port, all at once.
pub(super) async fn ask(http: &reqwest::Client, urls: &[String]) -> Servers {
    let answers = futures::future::join_all(urls.iter().map(|url| monitor(http, url))).await;
    let mut servers = Servers::default();
    for (url, answer) in urls.iter().zip(answers) {
        servers.note(url, answer);
    }
    servers
}

/// Asks one monitoring port.
///
/// # Errors
/// Where it does not answer in time, or with something else.
pub async fn monitor(http: &reqwest::Client, url: &str) -> Result<Server, reqwest::Error> {
    let url = format!("{}/varz", url.trim().trim_end_matches('/'));
    http.get(url)
        .timeout(MONITOR_TIMEOUT)
        .send()
        .await?
        .error_for_status()?
        .json()
        .await
}

/// Compares the running stream and servers with what is promised.
pub fn judge(info: &Info, servers: &Servers, config: &Config) -> Judgement {
    let stream = &info.config;
    let faults = servers.faults(&[info]);
    let synced = !servers.known.is_empty() && faults.iter().all(|fault| matches!(fault, ServerFault::TooOld { .. }));
    let kept = stream.storage == StorageType::File && stream.persist_mode != Some(PersistenceMode::Async);
    let durability = match (stream.num_replicas > 1, synced && kept) {
        (true, true) => Durability::DiskQuorum,
        (true, false) => Durability::Quorum,
        (false, true) => Durability::Disk,
        (false, false) => Durability::Memory,
    };
    Judgement {
        durability,
        servers: faults,
        stream: weak_settings(stream, config.replicas),
    }
}

/// Every setting by which a stream is weaker than promised.
fn weak_settings(stream: &StreamConfig, replicas: usize) -> Vec<(&'static str, String)> {
    let mut weak = Vec::new();
    let mut expect = |holds: bool, setting: &'static str, reason: &str| {
        if !holds {
            weak.push((setting, reason.to_owned()));
        }
    };
    expect(
        stream.storage == StorageType::File,
        "storage",
        "the stream is kept in memory, not in files",
    );
    expect(
        stream.persist_mode != Some(PersistenceMode::Async),
        "persist_mode",
        "the stream acknowledges before it writes (persist_mode is async)",
    );
    expect(
        stream.num_replicas >= replicas,
        "num_replicas",
        &format!(
            "the stream has {} replicas, EZOUT_NATS_REPLICAS asks for {replicas}",
            stream.num_replicas
        ),
    );
    expect(
        stream.retention == RetentionPolicy::Limits,
        "retention",
        "the stream's retention is not limits, so reading may delete",
    );
    expect(
        stream.discard == DiscardPolicy::New,
        "discard",
        "the stream makes room by deleting old events (discard is not new)",
    );
    expect(
        stream.max_age.is_zero(),
        "max_age",
        "the stream deletes events by age (max_age is not 0)",
    );
    expect(
        stream.max_messages_per_subject <= 0,
        "max_msgs_per_subject",
        "the stream bounds the events of a shop (max_msgs_per_subject)",
    );
    expect(
        stream.deny_delete,
        "deny_delete",
        "the stream allows deletes (deny_delete is off)",
    );
    expect(
        stream.deny_purge,
        "deny_purge",
        "the stream allows purges (deny_purge is off)",
    );
    expect(
        !stream.allow_rollup,
        "allow_rollup_hdrs",
        "the stream allows rollups, which purge (allow_rollup_hdrs is on)",
    );
    expect(
        !stream.no_ack,
        "no_ack",
        "the stream does not acknowledge (no_ack is on)",
    );
    expect(
        stream.allow_direct,
        "allow_direct",
        "the stream allows no direct gets (allow_direct is off)",
    );
    expect(
        stream.allow_atomic_publish,
        "allow_atomic",
        "the stream allows no atomic batches, so appending is slow (allow_atomic is off)",
    );
    expect(
        stream.duplicate_window >= DUPLICATE_WINDOW_MIN,
        "duplicate_window",
        "the stream forgets retries too soon (duplicate_window is under 5 minutes)",
    );
    weak
}

/// Major and minor version.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim_start_matches('v').split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert_eq!(version("2.15.1"), Some((2, 15)));
        assert_eq!(version("v2.9.0-beta"), Some((2, 9)));
        assert!(version("2.9.0") < Some(OLDEST_SERVER));
        assert_eq!(version("dev"), None);
    }

    #[test]
    fn a_server_that_does_not_say_that_it_syncs_does_not() {
        let server: Server = serde_json::from_str(
            r#"{"server_name":"a","version":"2.15.1","jetstream":{"config":{"sync_interval":120000000000}}}"#,
        )
        .unwrap();
        assert!(!server.jetstream.config.sync_always);
    }
}
