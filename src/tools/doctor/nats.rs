//! The NATS servers: whether they answer, what they are, how much room there is, and what an acknowledgement of theirs means.

use std::time::Duration;

use async_nats::jetstream::account::Account;
use async_nats::jetstream::stream::Info;
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ServerAddr};
use indicatif::HumanBytes;
use time::OffsetDateTime;

use super::clocks::Clock;
use super::commands::{Commands, curl, quoted};
use super::report::Finding;
use super::{Args, LIMIT, bounded};
use crate::core::address::without_password;
use crate::core::error_chain;
use crate::journal::{self, Server, ServerFault, Servers};
use crate::nats::users_tag;
use crate::tools::operator;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The port for monitoring where none is named.
const MONITOR_PORT: u16 = 8222;
/// Parts of a room that are full, in percent.
const FULL_SOON: u64 = 80;
const FULL: u64 = 95;

/// What the monitoring ports said.
pub(super) struct Monitors {
    pub(super) servers: Servers,
    pub(super) clocks: Vec<Clock>,
}

/// Asks every monitoring port, all at once.
pub(super) async fn monitors(args: &Args, http: &reqwest::Client) -> Monitors {
    let ask = async |url: &String| {
        let asked = OffsetDateTime::now_utc();
        let answer = journal::monitor(http, url).await;
        (asked, answer, OffsetDateTime::now_utc())
    };
    let answers = futures::future::join_all(args.journal.monitor_urls.iter().map(ask)).await;
    let (mut servers, mut clocks) = (Servers::default(), Vec::new());
    for (url, (asked, answer, answered)) in args.journal.monitor_urls.iter().zip(answers) {
        if let Ok(server) = &answer
            && let Some(now) = server.now
        {
            clocks.push(Clock::read(format!("NATS {}", name(server)), asked, now, answered));
        }
        servers.note(url, answer);
    }
    Monitors { servers, clocks }
}

/// A server that nobody has named has a long name.
fn name(server: &Server) -> &str {
    server.name.get(..12).unwrap_or(&server.name)
}

/// Connects as the service does.
pub(super) async fn connect(args: &Args, servers: &Servers) -> (Finding, Option<Client>) {
    const CHECK: &str = "nats";
    let shown = without_password(&args.journal.nats_url);
    let address = match operator::address(&args.journal.nats_url) {
        Ok(address) => address,
        Err(error) => {
            let fact = format!("{shown}: {error:#}");
            return (Finding::fail(CHECK, fact, "ezout doctor --help".to_owned()), None);
        }
    };
    let start = match servers.known.first() {
        Some(server) => Commands::nats_server(server),
        None => Commands::nats_server(&unknown(args, &address.servers())),
    };
    let connecting = address
        .options()
        .name("ezout doctor")
        .connection_timeout(CONNECT_TIMEOUT)
        .connect(address.servers());
    let reason = match tokio::time::timeout(LIMIT, connecting).await {
        Ok(Ok(client)) => {
            let info = client.server_info();
            let fact = format!("{shown} answers: version {}", info.version);
            if info.jetstream {
                return (Finding::ok(CHECK, fact), Some(client));
            }
            let fact = format!("{fact}, but JetStream is off");
            return (Finding::fail(CHECK, fact, start).first("stop that server, then"), None);
        }
        Ok(Err(error)) if operator::is_not_let_in(&error) => {
            let fact = format!("{shown}: {}", operator::NOT_LET_IN);
            return (Finding::fail(CHECK, fact, "ezout doctor --help".to_owned()), None);
        }
        Ok(Err(error)) => error_chain(&error),
        Err(_) => format!("no answer within {} s", LIMIT.as_secs()),
    };
    let finding = Finding::fail(CHECK, format!("{shown} cannot be reached: {reason}"), start);
    (
        finding.first("where it should run, with the folder of its streams"),
        None,
    )
}

/// A server of which only the addresses are known.
fn unknown(args: &Args, addresses: &[ServerAddr]) -> Server {
    let monitor = args.journal.monitor_urls.first();
    let monitor = monitor.and_then(|url| reqwest::Url::parse(url.trim()).ok());
    let address = addresses.first();
    Server {
        host: address.map(|address| address.host().to_owned()).unwrap_or_default(),
        port: address.map(ServerAddr::port).unwrap_or_default(),
        http_port: monitor.and_then(|url| url.port()).unwrap_or(MONITOR_PORT),
        ..Server::default()
    }
}

/// What an acknowledgement of these servers means.
pub(super) fn sync(args: &Args, servers: &Servers, streams: &[&Info], commands: &Commands) -> Vec<Finding> {
    const CHECK: &str = "sync";
    let faults = servers.faults(streams);
    let start = |named: &str| {
        let server = servers.known.iter().find(|server| server.name == named);
        server.map_or_else(|| commands.doctor(), Commands::nats_server)
    };
    let tell = |fault: &ServerFault| {
        let fail = |next| Finding::fail(CHECK, fault.to_string(), next);
        match fault {
            ServerFault::Unread { url, .. } => {
                let varz = format!("{}/varz", url.trim_end_matches('/'));
                fail(curl(&varz)).first("the server's option -m opens it; then")
            }
            ServerFault::NotSynced { name } => fail(start(name)).first("stop that server, then"),
            ServerFault::TooOld { name, .. } => {
                let start = format!("servers/install && PATH=.servers/bin:$PATH {}", start(name));
                fail(start).first("stop that server, then")
            }
            ServerFault::NoAddress { .. } => {
                let routes = args.journal.monitor_urls.first().cloned().unwrap_or_default();
                let routes = format!("{}/routez", routes.trim_end_matches('/'));
                fail(curl(&routes)).first("its address is among these:")
            }
        }
    };
    if faults.is_empty() {
        let names: Vec<String> = servers
            .known
            .iter()
            .map(|server| format!("{} ({})", name(server), server.version))
            .collect();
        let fact = format!("acknowledged means synced to disk: {}", names.join(", "));
        return vec![Finding::ok(CHECK, fact)];
    }
    faults.iter().map(tell).collect()
}

/// Whether the servers have users, and those of this version.
pub(super) fn users(servers: &Servers, commands: &Commands) -> Vec<Finding> {
    const CHECK: &str = "users";
    if servers.known.is_empty() {
        return vec![Finding::skipped(CHECK, "no monitoring port answers")];
    }
    let is_open = |server: &&Server| !server.auth_required;
    let is_other = |server: &&Server| server.auth_required && !server.tags.iter().any(|tag| tag == users_tag());
    if servers.known.iter().all(|server| is_open(&server)) {
        return vec![Finding::ok(CHECK, "NATS asks nobody who they are")];
    }
    let open = servers.known.iter().filter(is_open).map(|server| {
        let fact = format!("{} asks nobody who they are, and others do", name(server));
        Finding::fail(CHECK, fact, Commands::nats_server(server)).first("stop that server, and with nats/users.conf")
    });
    let other = servers.known.iter().filter(is_other).map(|server| {
        let fact = format!(
            "{} has other users than the nats/users.conf of this version ({})",
            name(server),
            users_tag()
        );
        let finding = Finding::warn(CHECK, fact, commands.doctor());
        finding.first(
            "take the nats/users.conf of this version, with what was changed by hand, and reload that server; then",
        )
    });
    let findings: Vec<Finding> = open.chain(other).collect();
    if findings.is_empty() {
        return vec![Finding::ok(CHECK, "NATS has the users of this version")];
    }
    findings
}

/// How much room there is for streams.
pub(super) async fn room(client: &Client, servers: &Servers, commands: &Commands) -> Vec<Finding> {
    const CHECK: &str = "room";
    let context = jetstream::new(client.clone());
    bounded(CHECK, commands.doctor(), account_and_servers(CHECK, &context, servers)).await
}

async fn account_and_servers(check: &'static str, context: &Context, servers: &Servers) -> Vec<Finding> {
    let mut rooms = Vec::new();
    for server in &servers.known {
        let (limits, used) = (&server.jetstream.config, &server.jetstream.stats);
        let folder = limits.store_dir.as_str();
        rooms.push(Room::new(
            format!("on the disk of {}", name(server)),
            used.storage,
            limits.max_storage,
            folder,
        ));
        rooms.push(Room::new(
            format!("in the memory of {}", name(server)),
            used.memory,
            limits.max_memory,
            folder,
        ));
    }
    match context.query_account().await {
        Ok(account) => rooms.extend(of_account(&account)),
        Err(error) => {
            let fact = format!("JetStream does not tell how much it keeps: {error}");
            return vec![Finding::fail(check, fact, "nats account info".to_owned())];
        }
    }
    let findings: Vec<Finding> = rooms.iter().filter_map(|room| room.judged(check)).collect();
    if !findings.is_empty() {
        return findings;
    }
    let disks = rooms.iter().filter(|room| room.whose.starts_with("on the disk"));
    let told: Vec<String> = disks.map(Room::told).collect();
    let fact = if told.is_empty() {
        "the account has no limit, and no server told its own".to_owned()
    } else {
        told.join("; ")
    };
    vec![Finding::ok(check, fact)]
}

/// The limits of the account, where it has some.
fn of_account(account: &Account) -> Vec<Room> {
    let limits = [
        ("of this account on disk", account.storage, account.limits.max_storage),
        ("of this account in memory", account.memory, account.limits.max_memory),
    ];
    let room = |(whose, used, limit): (&str, u64, Option<i64>)| {
        let limit = u64::try_from(limit?).ok()?;
        Some(Room::new(whose.to_owned(), used, limit, ""))
    };
    limits.into_iter().filter_map(room).collect()
}

/// Room that a limit gives.
#[derive(Debug)]
struct Room {
    whose: String,
    used: u64,
    limit: u64,
    folder: String,
}

impl Room {
    fn new(whose: String, used: u64, limit: u64, folder: &str) -> Self {
        Self {
            whose,
            used,
            limit,
            folder: folder.to_owned(),
        }
    }

    fn told(&self) -> String {
        format!(
            "{} of {} are used {}",
            HumanBytes(self.used),
            HumanBytes(self.limit),
            self.whose
        )
    }

    /// What is to be said where there is little room. Without a limit, or with one that allows nothing, there is nothing to fill.
    fn judged(&self, check: &'static str) -> Option<Finding> {
        let percent = self.used.saturating_mul(100).checked_div(self.limit)?;
        let next = if self.folder.is_empty() {
            "nats account info".to_owned()
        } else {
            format!("df -h {}", quoted(&self.folder))
        };
        if percent >= FULL {
            let fact = format!("{}; when it is full no event is taken", self.told());
            return Some(Finding::fail(check, fact, next));
        }
        (percent >= FULL_SOON).then(|| Finding::warn(check, self.told(), next))
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Report;
    use super::*;

    #[test]
    fn room_is_told_before_it_is_gone() {
        let told = |used, limit| {
            let room = Room::new("on the disk of n1".to_owned(), used, limit, "/data/my js");
            room.judged("room").map(|finding| Report::new(vec![finding]).text())
        };
        assert_eq!(told(79, 100), None);
        assert_eq!(told(5, 0), None);
        assert!(told(80, 100).is_some_and(|text| text.starts_with("warn  room         80 B of 100 B")));
        let full = told(95, 100).unwrap();
        assert!(
            full.starts_with("FAIL") && full.contains("$ df -h '/data/my js'"),
            "{full}"
        );
    }
}
