//! Three mongod as one replica set, and three nats-server as one cluster whose connections to each other go through proxies.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ezout::tools::servers::{ClusterMember, Mongod, NatsOptions, NatsServer, free_port};
use futures::{StreamExt as _, TryStreamExt as _};
use mongodb::bson::{Document, doc};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::history::Copied;
use crate::support::proxy::{Proxy, Weather};
use crate::support::{binaries, wait_for};

const SET: &str = "rs3";
/// The journal, where it lies in one stream.
const STREAM: &str = "CHECKOUT";

/// One mongod of a set of three.
struct Member {
    port: u16,
    data: PathBuf,
    child: Child,
    /// Asks this one alone, whatever the set believes.
    client: mongodb::Client,
}

/// A replica set of three, with MongoDB's own times for its elections.
pub struct Trio {
    members: Vec<Member>,
}

impl Trio {
    /// Starts three below this folder, and waits until there is a primary and each of them is as far as it.
    pub async fn start(folder: &Path) -> Self {
        let mut members = Vec::new();
        for number in 1..=3 {
            let data = folder.join(format!("trio-{number}"));
            std::fs::create_dir_all(&data).unwrap();
            let port = free_port().unwrap();
            let child = spawn(&data, port);
            let client = Mongod::client_at(port).unwrap();
            members.push(Member {
                port,
                data,
                child,
                client,
            });
        }
        let trio = Self { members };
        let hosts = (0_i32..).zip(&trio.members);
        let hosts: Vec<Document> = hosts
            .map(|(id, member)| doc! { "_id": id, "host": format!("127.0.0.1:{}", member.port) })
            .collect();
        let first = &trio.members[0].client;
        let config = doc! { "replSetInitiate": { "_id": SET, "members": hosts } };
        wait_for("the set of three", async || {
            first.database("admin").run_command(config.clone()).await.ok()
        })
        .await;
        trio.whole().await;
        trio
    }

    /// The address for drivers.
    pub fn uri(&self) -> String {
        let hosts = self.members.iter().map(|member| format!("127.0.0.1:{}", member.port));
        let hosts: Vec<String> = hosts.collect();
        format!("mongodb://{}/?replicaSet={SET}", hosts.join(","))
    }

    /// The place of the primary.
    pub async fn primary(&self) -> usize {
        wait_for("a primary", async || {
            for (place, member) in self.members.iter().enumerate() {
                let admin = member.client.database("admin");
                let hello = admin.run_command(doc! { "hello": 1 });
                if let Ok(Ok(hello)) = tokio::time::timeout(Duration::from_secs(1), async { hello.await }).await
                    && hello.get_bool("isWritablePrimary").unwrap_or(false)
                {
                    return Some(place);
                }
            }
            None
        })
        .await
    }

    /// Waits until there is a primary, and two that follow it.
    pub async fn whole(&self) {
        wait_for("a primary and two that follow it", async || {
            let primary = &self.members[self.primary().await].client;
            let admin = primary.database("admin");
            let status = admin.run_command(doc! { "replSetGetStatus": 1 }).await.ok()?;
            let members = status.get_array("members").ok()?;
            let states = members
                .iter()
                .filter_map(|member| member.as_document()?.get_i32("state").ok());
            let mut states: Vec<i32> = states.collect();
            states.sort_unstable();
            (states == [1, 2, 2]).then_some(())
        })
        .await;
    }

    /// Has the primary step down for as long as it takes to elect another one.
    pub async fn step_down(&self, primary: usize) {
        let client = &self.members[primary].client;
        // It ends the connection by which it was told so.
        let _ = client
            .database("admin")
            .run_command(doc! { "replSetStepDown": 20, "secondaryCatchUpPeriodSecs": 5 })
            .await;
    }

    pub async fn kill(&mut self, place: usize) {
        self.members[place].child.kill().await.unwrap();
    }

    pub fn restart(&mut self, place: usize) {
        let member = &mut self.members[place];
        member.child = spawn(&member.data, member.port);
    }

    pub fn signal(&self, place: usize, signal: Signal) {
        let pid = self.members[place].child.id().and_then(|pid| i32::try_from(pid).ok());
        kill_process(pid.and_then(Pid::from_raw).unwrap(), signal).unwrap();
    }
}

fn spawn(data: &Path, port: u16) -> Child {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(data.with_extension("mongod-log"));
    // It dies with the thread that started it, as the service's processes do.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(&binaries().mongod)
        .arg("--dbpath")
        .arg(data)
        .args(["--bind_ip", "127.0.0.1", "--port", &port.to_string(), "--nounixsocket"])
        .args([
            "--replSet",
            SET,
            "--oplogSize",
            "128",
            "--wiredTigerCacheSizeGB",
            "0.25",
            "--quiet",
        ])
        .args(["--setParameter", "diagnosticDataCollectionEnabled=false"])
        .stdin(Stdio::null())
        .stdout(log.unwrap())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("mongod starts")
}

/// Three nats-server, each of which reaches each other one by a proxy of its own.
pub struct Cluster {
    pub servers: Vec<NatsServer>,
    /// From the first to the second; all six.
    routes: Vec<(usize, usize, Proxy)>,
}

impl Cluster {
    /// Starts three below this folder, and waits until they have elected a leader.
    pub async fn start(folder: &Path) -> Self {
        let ports = [free_port().unwrap(), free_port().unwrap(), free_port().unwrap()];
        let mut routes = Vec::new();
        for (from, to) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
            routes.push((from, to, Proxy::before(([127, 0, 0, 1], ports[to]).into()).await));
        }
        let program = hermit(folder);
        let mut servers = Vec::new();
        for (place, port) in ports.into_iter().enumerate() {
            let others: Vec<u16> = routes
                .iter()
                .filter(|(from, ..)| *from == place)
                .map(|(.., proxy)| proxy.address().port())
                .collect();
            let options = NatsOptions {
                cluster: Some(ClusterMember {
                    name: name(place),
                    port,
                    others: [others[0], others[1]],
                }),
                ..NatsOptions::in_folder(&folder.join(name(place)))
            };
            servers.push(NatsServer::start(&program, options));
        }
        // None of them is ready before another one runs.
        let servers = futures::future::try_join_all(servers)
            .await
            .expect("three servers start");
        Self { servers, routes }
    }

    pub fn urls(&self) -> String {
        let urls: Vec<String> = self.servers.iter().map(NatsServer::url).collect();
        urls.join(",")
    }

    pub fn monitors(&self) -> String {
        let urls: Vec<String> = self.servers.iter().map(NatsServer::monitor_url).collect();
        urls.join(",")
    }

    /// The place of the server that leads the journal.
    pub async fn leader(&self) -> usize {
        self.leader_of(STREAM).await
    }

    /// The place of the server that leads a stream.
    pub async fn leader_of(&self, stream: &str) -> usize {
        wait_for(&format!("a leader of {stream}"), async || {
            for (place, server) in self.servers.iter().enumerate() {
                if self.state(server, stream).await?["leader"] == true {
                    return Some(place);
                }
            }
            None
        })
        .await
    }

    /// Whether a client of that name is connected to a server.
    pub async fn connected(&self, place: usize, name: &str) -> bool {
        let url = format!("{}/connz", self.servers[place].monitor_url());
        let told: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        let connections = told["connections"].as_array().unwrap();
        connections.iter().any(|connection| connection["name"] == name)
    }

    /// What a server says of its copy of a stream: whether it leads, how many messages, the first and the last.
    async fn state(&self, server: &NatsServer, stream: &str) -> Option<Value> {
        let url = format!("{}/jsz?streams=true&accounts=true", server.monitor_url());
        let answer = reqwest::Client::new().get(url).timeout(Duration::from_secs(1)).send();
        let told: Value = match answer.await {
            Ok(answer) => answer.json().await.ok()?,
            // One that is away leads nothing.
            Err(_) => return Some(json!({ "leader": false })),
        };
        let accounts = told["account_details"].as_array()?;
        let mut streams = accounts
            .iter()
            .filter_map(|account| account["stream_detail"].as_array())
            .flatten();
        let journal = streams.find(|found| found["name"] == stream)?;
        let here = self.servers.iter().position(|other| std::ptr::eq(other, server))?;
        let state = &journal["state"];
        Some(json!({
            "leader": journal["cluster"]["leader"] == name(here),
            "messages": state["messages"], "first": state["first_seq"], "last": state["last_seq"],
        }))
    }

    /// Waits until each server has as many messages of a stream, from the same to the same; answers the last.
    pub async fn level(&self, stream: &str) -> u64 {
        wait_for("three copies that are equally long", async || {
            let mut copies = Vec::new();
            for server in &self.servers {
                let mut copy = self.state(server, stream).await?;
                copy.as_object_mut()?.remove("leader");
                copies.push(copy);
            }
            let last = copies[0].get("last")?.as_u64()?;
            copies.windows(2).all(|pair| pair[0] == pair[1]).then_some(last)
        })
        .await
    }

    /// Has this server lead the journal.
    pub async fn lead(&self, client: &async_nats::Client, place: usize) {
        let name = name(place);
        wait_for(&format!("{name} to lead the journal"), async || {
            if self.leader().await == place {
                return Some(());
            }
            let wish = json!({ "placement": { "preferred": &name } }).to_string();
            let _ = client
                .request("$JS.API.STREAM.LEADER.STEPDOWN.CHECKOUT", wish.into())
                .await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            None
        })
        .await;
    }

    /// What each server has of a journal to which nothing is appended any more, in its own words: one after the other leads, and a leader
    /// answers a request of this kind from its own copy.
    pub async fn copies(&self, client: &async_nats::Client) -> BTreeMap<String, Vec<Option<Copied>>> {
        let mut copies = BTreeMap::new();
        for place in 0..self.servers.len() {
            let copy = wait_for(&format!("the copy of {}", name(place)), async || {
                let last = self.level(STREAM).await;
                self.lead(client, place).await;
                let reading = futures::stream::iter(1..=last).map(|sequence| copied(client, sequence));
                let copy: Vec<_> = reading.buffered(ASKED_AT_ONCE).try_collect().await.ok()?;
                (self.leader().await == place).then_some(copy)
            })
            .await;
            copies.insert(name(place), copy);
        }
        copies
    }

    /// Has the weather change on all ways between one server and the two others.
    pub fn around(&self, place: usize, weather: Weather) {
        for (from, to, proxy) in &self.routes {
            if *from == place || *to == place {
                proxy.set(weather);
            }
        }
    }
}

/// The name of a server, and of its folder.
pub fn name(place: usize) -> String {
    format!("n{}", place + 1)
}

/// Messages of a copy that are asked for at once.
const ASKED_AT_ONCE: usize = 64;

/// What the leader has at a place of the journal.
async fn copied(client: &async_nats::Client, sequence: u64) -> Result<Option<Copied>, async_nats::Error> {
    let asked = json!({ "seq": sequence }).to_string();
    let answer = client.request("$JS.API.STREAM.MSG.GET.CHECKOUT", asked.into()).await?;
    let answer: Value = serde_json::from_slice(&answer.payload)?;
    let Some(message) = answer.get("message") else {
        // No message there. Any other error is none of the copy, and is asked again.
        let none = answer["error"]["err_code"] == 10_037;
        return if none { Ok(None) } else { Err(answer.to_string().into()) };
    };
    let text = |field: &str| message[field].as_str().unwrap_or_default();
    Ok(Some(Copied {
        subject: text("subject").to_owned(),
        recorded: text("time").to_owned(),
        headers: STANDARD.decode(text("hdrs"))?,
        body: STANDARD.decode(text("data"))?,
    }))
}

/// A nats-server that tells nobody where its port for the others is, so that all of them use the proxies.
fn hermit(folder: &Path) -> PathBuf {
    let program = folder.join("hermit/nats-server");
    std::fs::create_dir_all(program.parent().unwrap()).unwrap();
    let server = std::path::absolute(&binaries().nats_server).unwrap();
    let text = format!(
        "#!/bin/sh\nexec '{}' \"$@\" --cluster_advertise 127.0.0.1:1\n",
        server.display()
    );
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    program
}
