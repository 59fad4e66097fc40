//! MongoDB: whether it answers, what it is, whether a majority takes writes, and whether it has what the migrations give it.

use mongodb::Database;
use mongodb::bson::{Document, doc};
use mongodb::options::{ClientOptions, ServerAddress};
use time::OffsetDateTime;

use super::clocks::Clock;
use super::commands::{Commands, quoted};
use super::report::Finding;
use super::{Args, LIMIT, bounded};
use crate::core::address::without_password;
use crate::core::error_chain;
use crate::views::{self, MigrateError, Views};

/// Oldest server with all that the views need.
const OLDEST: (u32, u32) = (6, 0);
/// Port of a member where the connection string names none.
const PORT: u16 = 27_017;
/// Name of the replica set where the connection string names none.
const DEFAULT_SET: &str = "rs0";

/// What MongoDB said.
pub(super) struct Mongodb {
    pub(super) findings: Vec<Finding>,
    pub(super) clock: Option<Clock>,
    /// The views, where they can be looked at.
    pub(super) views: Option<Views>,
}

pub(super) async fn check(args: &Args, commands: &Commands) -> Mongodb {
    let nobody = |finding| {
        let why = || "MongoDB does not answer";
        Mongodb {
            findings: vec![
                finding,
                Finding::skipped("majority", why()),
                Finding::skipped("migrations", why()),
                Finding::skipped("indexes", why()),
            ],
            clock: None,
            views: None,
        }
    };
    let views = match Views::to_look_at(&args.views).await {
        Ok(views) => views,
        Err(error) => {
            let fact = format!("EZOUT_MONGODB_URI cannot be used: {}", error_chain(&error));
            return nobody(Finding::fail("mongodb", fact, "ezout doctor --help".to_owned()));
        }
    };
    let (finding, clock) = match tokio::time::timeout(LIMIT, primary(args, views.database())).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return nobody(unreachable(args, &plain(&error), commands).await),
        Err(_) => {
            let reason = format!("no answer within {} s", LIMIT.as_secs());
            return nobody(unreachable(args, &reason, commands).await);
        }
    };
    let mut findings = vec![finding];
    findings.extend(bounded("majority", mongosh_status(commands), majority(&views, commands)).await);
    let migrations = bounded("migrations", commands.migrate(), migrations(views.database(), commands)).await;
    let all_applied = migrations.iter().all(Finding::is_ok);
    findings.extend(migrations);
    if all_applied {
        findings.extend(bounded("indexes", commands.migrate(), indexes(&views, commands)).await);
    } else {
        findings.push(Finding::skipped("indexes", "they come with the migrations"));
    }
    Mongodb {
        findings,
        clock: Some(clock),
        views: Some(views),
    }
}

/// The primary, its version, and its clock.
async fn primary(args: &Args, database: &Database) -> mongodb::error::Result<(Finding, Clock)> {
    const CHECK: &str = "mongodb";
    let built = database.run_command(doc! { "buildInfo": 1 }).await?;
    let asked = OffsetDateTime::now_utc();
    let hello = database.run_command(doc! { "hello": 1 }).await?;
    let answered = OffsetDateTime::now_utc();
    let now = hello
        .get_datetime("localTime")
        .map_or(asked, |now| (*now).to_time_0_3());
    let clock = Clock::read("MongoDB".to_owned(), asked, now, answered);
    let text = |of: &Document, name: &str| of.get_str(name).unwrap_or("?").to_owned();
    let version = text(&built, "version");
    let address = hello
        .get_str("me")
        .map_or_else(|_| without_password(&args.views.uri), str::to_owned);
    if major_minor(&version) < Some(OLDEST) {
        let fact = format!(
            "{address} is version {version}, which is older than {}.{}",
            OLDEST.0, OLDEST.1
        );
        let next = "servers/install && PATH=.servers/bin:$PATH mongod --version".to_owned();
        return Ok((Finding::fail(CHECK, fact, next), clock));
    }
    let Ok(set) = hello.get_str("setName") else {
        let fact = format!("{address} is no member of a replica set, so nothing is acknowledged by a majority");
        let restart = "restart it with --replSet rs0, then";
        return Ok((Finding::fail(CHECK, fact, initiate(&address)).first(restart), clock));
    };
    let members = hello.get_array("hosts").map_or(1, Vec::len);
    let fact = format!("{address} is the primary of {set} ({members} of it), version {version}");
    Ok((Finding::ok(CHECK, fact), clock))
}

/// Why no primary answers, as far as the members tell when each is asked by itself, and what to do.
async fn unreachable(args: &Args, reason: &str, commands: &Commands) -> Finding {
    const CHECK: &str = "mongodb";
    let shown = without_password(&args.views.uri);
    let Ok(options) = ClientOptions::parse(&args.views.uri).await else {
        return Finding::fail(CHECK, format!("{shown}: {reason}"), "ezout doctor --help".to_owned());
    };
    let set = options.repl_set_name.clone().unwrap_or_else(|| DEFAULT_SET.to_owned());
    let mut reason = reason.to_owned();
    for host in &options.hosts {
        if let Some(refusal) = refusal(host).await {
            reason = format!("{host}: {refusal}");
            continue;
        }
        let asked = tokio::time::timeout(LIMIT, alone(&options, host)).await;
        let Ok(Ok(hello)) = asked else { continue };
        match hello.get_str("setName") {
            Ok(name) if name != set => {
                let fact = format!("{host} belongs to the replica set {name}, and not to {set}");
                let first = format!("with replicaSet={name} in EZOUT_MONGODB_URI");
                return Finding::fail(CHECK, fact, commands.doctor()).first(first);
            }
            Ok(_) => {
                let fact = format!("{host} answers, but the replica set {set} has no primary: {reason}");
                return Finding::fail(CHECK, fact, direct(host, "rs.status()"));
            }
            Err(_) if hello.get_bool("isreplicaset").unwrap_or(false) => {
                let fact = format!("{host} answers, but its replica set was never initiated");
                return Finding::fail(CHECK, fact, initiate(&host.to_string()));
            }
            Err(_) => {
                let fact = format!("{host} answers, but is no member of a replica set");
                let first = format!("restart it with --replSet {set}, then");
                return Finding::fail(CHECK, fact, initiate(&host.to_string())).first(first);
            }
        }
    }
    let (host, port) = match options.hosts.first() {
        Some(ServerAddress::Tcp { host, port }) => (host.clone(), port.unwrap_or(PORT)),
        _ => ("127.0.0.1".to_owned(), PORT),
    };
    let start = format!(
        "mongod --replSet {} --bind_ip {} --port {port} --dbpath \"$MONGODB_DATA\"",
        quoted(&set),
        quoted(&host)
    );
    let finding = Finding::fail(CHECK, format!("{shown} cannot be reached: {reason}"), start);
    finding.first("where it should run, with the folder of its data")
}

/// An error in a few words; the driver tells all it knows of the set where no server of it will do.
fn plain(error: &mongodb::error::Error) -> String {
    match &*error.kind {
        mongodb::error::ErrorKind::ServerSelection { .. } => "no member takes writes".to_owned(),
        _ => error_chain(error),
    }
}

/// Why there is no connection to a member.
async fn refusal(host: &ServerAddress) -> Option<String> {
    let ServerAddress::Tcp { host, port } = host else {
        return None;
    };
    let connecting = tokio::net::TcpStream::connect((host.as_str(), port.unwrap_or(PORT)));
    match tokio::time::timeout(LIMIT, connecting).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {} s", LIMIT.as_secs())),
    }
}

/// Asks one member, whatever it is.
async fn alone(options: &ClientOptions, host: &ServerAddress) -> mongodb::error::Result<Document> {
    let mut options = options.clone();
    options.hosts = vec![host.clone()];
    options.repl_set_name = None;
    options.direct_connection = Some(true);
    options.server_selection_timeout = Some(std::time::Duration::from_secs(2));
    let admin = mongodb::Client::with_options(options)?.database("admin");
    admin.run_command(doc! { "hello": 1 }).await
}

fn direct(host: &ServerAddress, script: &str) -> String {
    format!(
        "mongosh 'mongodb://{host}/?directConnection=true' --quiet --eval {}",
        quoted(script)
    )
}

fn initiate(host: &str) -> String {
    format!("mongosh 'mongodb://{host}/?directConnection=true' --quiet --eval 'rs.initiate()'")
}

fn mongosh_status(commands: &Commands) -> String {
    commands.mongosh("printjson(rs.status().members)")
}

async fn majority(views: &Views, commands: &Commands) -> Vec<Finding> {
    const CHECK: &str = "majority";
    let begun = std::time::Instant::now();
    vec![match views.try_write().await {
        Ok(()) => {
            let took = begun.elapsed().as_millis();
            Finding::ok(CHECK, format!("a majority acknowledged a write in {took} ms"))
        }
        Err(error) => Finding::fail(CHECK, error_chain(&error), mongosh_status(commands)),
    }]
}

async fn migrations(database: &Database, commands: &Commands) -> Vec<Finding> {
    const CHECK: &str = "migrations";
    vec![match views::outstanding(database).await {
        Ok(outstanding) if outstanding.is_empty() => Finding::ok(CHECK, "all are applied"),
        Ok(outstanding) => {
            let fact = format!("not applied: {}", outstanding.join(", "));
            Finding::fail(CHECK, fact, commands.migrate())
        }
        Err(error @ MigrateError::Changed(_)) => {
            Finding::fail(CHECK, error.to_string(), "git status migrations".to_owned())
        }
        Err(error) => Finding::fail(CHECK, error_chain(&error), commands.doctor()),
    }]
}

async fn indexes(views: &Views, commands: &Commands) -> Vec<Finding> {
    const CHECK: &str = "indexes";
    let looked = async {
        let version = views.refresh_active().await?;
        views.at(version).lacks().await.map(|lacks| (version, lacks))
    };
    match looked.await {
        Ok((version, lacks)) if lacks.is_empty() => {
            let fact = format!("every collection has its indexes and its validator; baskets are in {version}");
            vec![Finding::ok(CHECK, fact)]
        }
        Ok((_, lacks)) => lacks
            .iter()
            .map(|lack| Finding::fail(CHECK, lack.to_string(), commands.migrate()))
            .collect(),
        Err(error) => vec![Finding::fail(CHECK, error_chain(&error), commands.doctor())],
    }
}

fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
