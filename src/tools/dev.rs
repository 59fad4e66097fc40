//! `ezout dev`: the whole system on this machine with one command, for trying it and for working on it.
//!
//! Starts nats-server, mongod and, where there is one, Resgate as children with their data in one folder, runs the
//! service beside them in this process, restarts a server that dies, and stops everything on Ctrl-C. A second start
//! finds the data again.
//! It listens on loopback only and is not for production.

mod ports;

use std::{
    fs::{self, File, TryLockError},
    future::pending,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use ::time::OffsetDateTime;
use anyhow::{Context as _, bail};
use tokio::{
    select,
    sync::oneshot,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::servers::{
    Binaries, BinaryOptions, Mongod, MongodOptions, NatsOptions, NatsServer, NatsUsers, ResgateOptions, ResgateServer,
    ServersError, is_free,
};
use super::{complain, say, simulate, tail};
use crate::access::Anonymous;
use crate::app::{self, Role, StopSignals};
use crate::config::ServiceOptions;
use crate::core::policy;
use crate::core::shop::ShopDetails;
use crate::keys::dev::{DevError, Grant};
use crate::keys::{self, DEV_KEYS, Mode};
use crate::nats::User;
use crate::views::{self, Views};

/// A server that ran this long had started well; what ends it later is a new problem.
const RAN_WELL: Duration = Duration::from_mins(1);
const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How long the token counts that is printed: a day of trying.
const TOKEN_LASTS: Duration = Duration::from_hours(24);
/// How long the token counts of shoppers of whom one is asked: longer than they shop.
const SHOPPERS_TOKEN_LASTS: Duration = Duration::from_hours(24 * 365);

/// Options of `ezout dev`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Let simulated shoppers shop.
    #[arg(long)]
    pub demo: bool,
    /// Folder for the data and the logs of the servers; one `ezout dev` at a time uses it.
    #[arg(long, env = "EZOUT_DATA", value_name = "FOLDER", default_value = ".ezout")]
    pub data: PathBuf,
    /// Address and port of Resgate, which is started where there is one. Without it: port 8080, for this machine only.
    #[arg(
        long,
        env = "EZOUT_RESGATE_ADDR",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8080"
    )]
    pub resgate_addr: SocketAddr,
    /// Port for NATS clients that speak `WebSocket`, for this machine only. Without it: none is opened.
    #[arg(long, env = "EZOUT_NATS_WEBSOCKET_PORT", value_name = "PORT")]
    pub nats_websocket_port: Option<u16>,
    /// The servers' programs.
    #[command(flatten)]
    pub binaries: BinaryOptions,
}

/// Where everything is expected, taken from the service's own options so that service and servers agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// `EZOUT_NATS_URL`.
    pub nats_url: String,
    /// `EZOUT_NATS_MONITOR_URL`.
    pub nats_monitor_url: String,
    /// `EZOUT_MONGODB_URI`.
    pub mongodb_uri: String,
    /// `EZOUT_HTTP_ADDR`.
    pub http: SocketAddr,
    /// `EZOUT_ADMIN_ADDR`.
    pub admin: SocketAddr,
}

/// Whether callers are asked who they are, and where somebody who tries it has a token from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Nobody is asked.
    Nobody,
    /// For a token of an issuer elsewhere.
    ForToken {
        /// What shoppers do is taken without one.
        anonymous: bool,
    },
    /// For a token of this machine, which is made for whoever tries it.
    ForOurToken {
        /// `EZOUT_AUTH_DEV_KEYS`.
        keys: PathBuf,
        /// What shoppers do is taken without one.
        anonymous: bool,
    },
}

impl Asked {
    fn of(service: &ServiceOptions) -> Self {
        let anonymous = service.access.anonymous == Some(Anonymous::Append);
        match service.keys.mode() {
            Mode::Off => Self::Nobody,
            Mode::Dev => Self::ForOurToken {
                keys: service.keys.dev_keys().to_owned(),
                anonymous,
            },
            Mode::Firebase | Mode::Oidc => Self::ForToken { anonymous },
        }
    }

    /// The token of simulated shoppers, where they need one and it can be made.
    fn shoppers(&self) -> Result<Option<simulate::Token>, DevError> {
        let Self::ForOurToken { keys, anonymous: false } = self else {
            return Ok(None);
        };
        let grant = Grant {
            subject: "simulated shoppers".to_owned(),
            role: Some(policy::Role::Service.word().to_owned()),
            shops: vec!["*".to_owned()],
            shopper_id: None,
            lasts: SHOPPERS_TOKEN_LASTS,
        };
        let token = keys::dev::sign(keys, &grant, OffsetDateTime::now_utc())?;
        Ok(Some(token.into()))
    }
}

/// Lets the service say once that it is ready; the banner is printed then.
#[derive(Debug)]
pub struct Ready(oneshot::Sender<()>);

impl Ready {
    /// Says that the service answers requests.
    pub fn report(self) {
        // Nobody listens any more when we are stopping.
        let _ = self.0.send(());
    }
}

/// Runs everything until Ctrl-C, SIGTERM or SIGHUP.
///
/// # Errors
/// When the data folder is in use, a port is taken, a server cannot be had or started, or the service fails.
/// The message says what to do.
pub async fn run(args: Args, mut service: ServiceOptions) -> anyhow::Result<()> {
    // Whoever tries it sees how it is with callers who are asked, and clients that know no tokens still send.
    service.keys.mode.get_or_insert(Mode::Dev);
    service.access.anonymous.get_or_insert(Anonymous::Append);
    // Whoever tries two of them with data of their own has two key pairs as well.
    service.keys.dev_keys.get_or_insert_with(|| args.data.join("keys"));
    let asked = Asked::of(&service);
    let addresses = Addresses {
        nats_url: service.journal.nats_url.clone(),
        nats_monitor_url: service.journal.monitor_urls.join(","),
        mongodb_uri: service.views.uri.clone(),
        http: service.http.http_addr,
        admin: service.http.admin_addr,
    };
    connect_as_users(&args, &mut service)?;
    // The one that somebody sees first who tries it.
    service.http.web.shop = Some(simulate::shop_of(0));
    if Binaries::find(&args.binaries)?.resgate.is_some() {
        let resgate = format!("ws://{}/", args.resgate_addr);
        service.http.web.resgate_url.get_or_insert(resgate);
    }
    let shoppers = if args.demo {
        let url = format!("http://{}", addresses.http);
        let demo = simulate::Args::demo(url, asked.shoppers()?);
        Some((demo, service.views.clone()))
    } else {
        None
    };
    supervise(
        &args,
        &addresses,
        &asked,
        async |ready: Ready, stop: CancellationToken| {
            let shopping = async {
                match shoppers {
                    Some((shoppers, views)) => {
                        stop.run_until_cancelled(name_shops(&shoppers, &views)).await;
                        simulate::shop(&shoppers, stop.clone(), |_| {}).await.map(|_| ())
                    }
                    None => Ok(()),
                }
            };
            let service = app::run(service, Role::Serve, || ready.report(), stop.clone());
            tokio::try_join!(service, shopping).map(|_| ())
        },
    )
    .await
}

/// What the shops of the demo are called.
const DEMO_SHOPS: [&str; 3] = ["Harbour Street", "Market Square", "Old Mill"];

/// Says what the shops of the demo are called, those of which nobody has said it. Nothing depends on it, so what fails
/// is only told.
async fn name_shops(shoppers: &simulate::Args, views: &views::Config) {
    for (number, name) in (0..shoppers.shops).zip(DEMO_SHOPS) {
        let shop = simulate::shop_of(number);
        let naming = async {
            let views = Views::to_look_at(views).await?;
            if views.shop_details(shop).await? == ShopDetails::default() {
                let details = ShopDetails::read(Some(name), Some("EUR"), Some("Europe/Berlin"))?;
                views.set_shop(shop, &details).await?;
            }
            anyhow::Ok(())
        };
        if let Err(error) = naming.await {
            tracing::warn!("the shops of the demo have no names: {error:#}");
            return;
        }
    }
}

/// Has the service come to NATS as its own users, as in production, and let watchers in where callers are asked.
fn connect_as_users(args: &Args, service: &mut ServiceOptions) -> anyhow::Result<()> {
    let users = NatsUsers::open(&args.data.join("nats"))?;
    let url = service.journal.nats_url.clone();
    service.journal.nats_url = users.url(&url, User::Serve);
    if service.keys.mode() != Mode::Off {
        service.admit.door_url.get_or_insert(users.url(&url, User::Door));
        service.admit.issuer_seed.get_or_insert(users.issuer_seed());
    }
    Ok(())
}

/// Runs everything until Ctrl-C, SIGTERM or SIGHUP, or until the service ends by itself.
///
/// `serve` is started when the servers are ready. It reports that it is ready, returns soon after the token is
/// cancelled, and lives with servers that go away and come back. The servers are stopped after it has returned,
/// Resgate before mongod before nats-server, and none of them is left behind whatever happens.
///
/// # Errors
/// When the data folder is in use, a port is taken, a server cannot be had or started, or the service fails.
/// The message says what to do.
pub async fn supervise<S>(args: &Args, addresses: &Addresses, asked: &Asked, serve: S) -> anyhow::Result<()>
where
    S: AsyncFnOnce(Ready, CancellationToken) -> anyhow::Result<()>,
{
    let mut stop = StopSignals::listen()?;
    let binaries = Binaries::find(&args.binaries)?;
    let _lock = lock(&args.data)?;
    let resgate = binaries.resgate.is_some().then_some(args.resgate_addr);
    if let Some(addr) = resgate.filter(|addr| *asked == Asked::Nobody && !addr.ip().is_loopback()) {
        bail!(
            "EZOUT_AUTH=off lets everybody see everything, and Resgate at {addr} could be reached from elsewhere; \
             set EZOUT_AUTH to firebase, oidc or dev, or EZOUT_RESGATE_ADDR to an address of this machine such as 127.0.0.1:8080"
        );
    }
    let (nats, monitor, mongod) = ports::check(addresses, resgate)?;
    let logs = args.data.join("logs");
    let users = NatsUsers::open(&args.data.join("nats"))?;
    let nats_url_of_resgate = users.url(&addresses.nats_url, User::Resgate);
    let nats = NatsOptions {
        port: Some(nats),
        monitor_port: Some(monitor),
        users: Some(users),
        // The commands find it without a password, as everything else on this machine.
        operator_without_password: true,
        websocket_port: args.nats_websocket_port,
        log: logs.join("nats-server.log"),
        ..NatsOptions::in_folder(&args.data.join("nats"))
    };
    let mongod = MongodOptions {
        port: Some(mongod),
        log: logs.join("mongod.log"),
        ..MongodOptions::in_folder(&args.data.join("mongod"))
    };

    let resgate = ResgateOptions {
        addr: resgate,
        log: logs.join("resgate.log"),
        ..ResgateOptions::in_folder(&args.data.join("resgate"), nats_url_of_resgate)
    };

    let started = select! {
        started = start(&binaries, nats, mongod, resgate) => started?,
        // The servers that were started are killed by being dropped; what they acknowledged is on disk.
        () = stop.received() => return Ok(()),
    };
    let (mut nats, mut mongod, mut resgate) = started;

    let shown = Shown {
        args,
        addresses,
        asked,
        binaries: &binaries,
    };
    let outcome = select! {
        outcome = run_service(shown, &mut stop, serve) => outcome,
        () = watch("nats-server", &mut nats) => unreachable!("it is watched for ever"),
        () = watch("mongod", &mut mongod) => unreachable!("it is watched for ever"),
        () = watch_if_any("resgate", resgate.as_mut()) => unreachable!("it is watched for ever"),
    };
    if matches!(outcome, Ok(Ended::InHaste)) {
        say("stopped at once");
        return Ok(());
    }
    say("stopping the servers (Ctrl-C again to stop at once)");
    let in_order = async {
        if let Some(gateway) = resgate {
            gateway.resgate.stop().await;
        }
        mongod.stop().await;
        nats.stop().await;
    };
    select! {
        () = in_order => say("stopped"),
        () = stop.received() => say("stopped at once"),
    }
    outcome.map(|_| ())
}

/// Starts the servers, those at once that need no other, and says how long each took.
async fn start(
    binaries: &Binaries,
    nats: NatsOptions,
    mongod: MongodOptions,
    resgate: ResgateOptions,
) -> anyhow::Result<(NatsServer, Mongod, Option<Gateway>)> {
    say("waiting for nats-server and mongod");
    let nats_and_gateway = async {
        let nats = timed("nats-server", NatsServer::start(&binaries.nats_server, nats)).await?;
        let Some(program) = &binaries.resgate else {
            return Ok((nats, None));
        };
        let resgate = timed("resgate", ResgateServer::start(program, resgate)).await?;
        let nats_port = nats.port();
        Ok((nats, Some(Gateway { resgate, nats_port })))
    };
    let mongod = timed("mongod", Mongod::start(&binaries.mongod, mongod));
    let ((nats, gateway), mongod) = tokio::try_join!(nats_and_gateway, mongod)?;
    Ok((nats, mongod, gateway))
}

async fn timed<T>(name: &str, start: impl Future<Output = Result<T, ServersError>>) -> Result<T, ServersError> {
    let begin = Instant::now();
    let server = start.await?;
    say(&format!("{name} is ready after {:.2} s", begin.elapsed().as_secs_f64()));
    Ok(server)
}

/// How the service came to its end without failing.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    InOrder,
    InHaste,
}

async fn run_service<S>(shown: Shown<'_>, stop: &mut StopSignals, serve: S) -> anyhow::Result<Ended>
where
    S: AsyncFnOnce(Ready, CancellationToken) -> anyhow::Result<()>,
{
    say("waiting for the service");
    let (ready, mut is_ready) = oneshot::channel();
    let cancel = CancellationToken::new();
    let mut service = Box::pin(serve(Ready(ready), cancel.clone()));
    loop {
        select! {
            ended = &mut service => return ended.map(|()| Ended::InOrder).context("the service ended"),
            // Disabled for good once it has answered; a service that never reports is only not announced.
            Ok(()) = &mut is_ready, if !is_ready.is_terminated() => shown.say(),
            () = stop.received() => break,
        }
    }
    say("stopping the service (Ctrl-C again to stop at once)");
    cancel.cancel();
    select! {
        ended = &mut service => ended.map(|()| Ended::InOrder).context("the service did not stop in order"),
        () = stop.received() => Ok(Ended::InHaste),
    }
}

/// A server that can end by itself and be started again.
trait Restart {
    async fn exited(&mut self) -> ExitStatus;
    async fn restart(&mut self) -> Result<(), ServersError>;
}

impl Restart for NatsServer {
    async fn exited(&mut self) -> ExitStatus {
        self.exited().await
    }
    async fn restart(&mut self) -> Result<(), ServersError> {
        self.restart().await
    }
}

impl Restart for Mongod {
    async fn exited(&mut self) -> ExitStatus {
        self.exited().await
    }
    async fn restart(&mut self) -> Result<(), ServersError> {
        self.restart().await
    }
}

/// Resgate, which ends when nats-server does.
struct Gateway {
    resgate: ResgateServer,
    nats_port: u16,
}

impl Restart for Gateway {
    async fn exited(&mut self) -> ExitStatus {
        self.resgate.exited().await
    }
    async fn restart(&mut self) -> Result<(), ServersError> {
        // Without nats-server it would end again, and say so at length.
        while is_free(self.nats_port) {
            sleep(BACKOFF_MIN).await;
        }
        self.resgate.restart().await
    }
}

/// The same as `watch`, for a server that there may not be.
async fn watch_if_any(name: &str, server: Option<&mut impl Restart>) {
    match server {
        Some(server) => watch(name, server).await,
        None => pending().await,
    }
}

/// Starts the server again whenever it ends, for ever, and ever more slowly while that does not help.
async fn watch(name: &str, server: &mut impl Restart) {
    let mut backoff = BACKOFF_MIN;
    let mut started = Instant::now();
    loop {
        let status = server.exited().await;
        if started.elapsed() >= RAN_WELL {
            backoff = BACKOFF_MIN;
        }
        say(&format!(
            "{name} ended by itself ({status}); it is started again in {:.1} s",
            backoff.as_secs_f64()
        ));
        sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
        started = Instant::now();
        match server.restart().await {
            Ok(()) => say(&format!("{name} is ready again")),
            Err(error) => say(&format!("{:#}", anyhow::Error::new(error))),
        }
    }
}

/// Takes the data folder for this process. The system gives it back when we end, however that happens.
fn lock(data: &Path) -> anyhow::Result<File> {
    fs::create_dir_all(data).with_context(|| format!("cannot create the data folder {}", data.display()))?;
    let path = data.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another `ezout dev` uses the data in {}; stop it first, or name another folder with EZOUT_DATA",
            data.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// The shop of the example event.
const EXAMPLE_SHOP: &str = "123e4567-e89b-42d3-a456-426614174000";
const EXAMPLE_EVENT: &str = r#"{"session_id":"4e29b2d3-7c8a-446e-a4e1-d8e2a51c0e94","shop_id":"123e4567-e89b-42d3-a456-426614174000","shopper_id":"ab29b2d3-7c8a-446e-a4e1-d8e2a51c0e94","action_id":101,"create_time":"2023-12-18T10:30:00.000Z","action":"ADD","product_name":"FUJI Apples","product_id":500100,"product_price":3.50,"UPC":"042100005264","category_id":"fruit","basket_total":12.18}"#;

/// The visit of the example event.
const EXAMPLE_VISIT: &str = "4e29b2d3-7c8a-446e-a4e1-d8e2a51c0e94";

/// What somebody is shown who has never seen this.
#[derive(Debug, Clone, Copy)]
struct Shown<'a> {
    args: &'a Args,
    addresses: &'a Addresses,
    asked: &'a Asked,
    binaries: &'a Binaries,
}

impl Shown<'_> {
    /// Prints what to open and what to try. On stdout, where no log is: there is a token in it.
    fn say(self) {
        let token = match self.asked {
            Asked::ForOurToken { keys, .. } => match example_token(keys) {
                Ok(token) => Some(token),
                Err(error) => return complain(&format!("{:#}", anyhow::Error::new(error))),
            },
            Asked::Nobody | Asked::ForToken { .. } => None,
        };
        say(&self.banner(token.as_deref()));
    }

    /// What to open and what to try.
    fn banner(self, token: Option<&str>) -> String {
        let Addresses {
            http,
            admin,
            nats_url,
            mongodb_uri,
            ..
        } = self.addresses;
        let program = own_program();
        let shoppers = if self.args.demo {
            "Simulated shoppers are shopping in it, and in two others."
        } else {
            "`make demo` lets simulated shoppers shop."
        };
        let live = match &self.binaries.resgate {
            Some(_) => through_resgate(self.args.resgate_addr, self.bearer()),
            None => without_resgate(),
        };
        let data = self.args.data.display();
        let filled = token.map(|token| format!("#token={token}")).unwrap_or_default();
        let (sending, sends, bearer) = (self.sending(), self.sends(), self.bearer());
        let looking = self.looking(&program, token);
        let nats = match nats_url.as_str() {
            tail::NATS_URL => String::new(),
            url => format!(" --nats-url {}", quoted(url.as_ref())),
        };
        format!(
            r"
EzOut is running. Open this:

  http://{http}/shops/{EXAMPLE_SHOP}{filled}

{shoppers}

  to try each route  http://{http}/docs{filled}
  health             http://{admin}/readyz
  metrics            http://{admin}/metrics
  NATS, MongoDB      {nats_url}  {mongodb_uri}

Send an event, as a shopper's phone does{sending}:

  curl -i http://{http}/publish/{EXAMPLE_SHOP} \
    {sends}-H 'content-type: application/json' \
    -d '{EXAMPLE_EVENT}'

{looking}The basket, with what is not right about it, and the shop as it happens:

  curl {bearer}http://{http}/v1/shops/{EXAMPLE_SHOP}/sessions/{EXAMPLE_VISIT}/basket

  curl -N {bearer}http://{http}/v1/shops/{EXAMPLE_SHOP}/updates

That shop's updates, as any subscriber of NATS has them:

  {program} tail {EXAMPLE_SHOP}{nats}

{live}
The data is in {data}/ and is there again at the next start; logs are in {data}/logs/.
Not for production. Ctrl-C stops everything.
"
        )
    }

    /// What lines have that need the token.
    fn bearer(self) -> &'static str {
        match self.asked {
            Asked::Nobody => "",
            Asked::ForToken { .. } | Asked::ForOurToken { .. } => BEARER,
        }
    }

    /// What the line has that sends an event.
    fn sends(self) -> String {
        match self.asked {
            Asked::ForToken { anonymous: false } => BEARER.to_owned(),
            // Who looks after a shop does not send what its shoppers do.
            Asked::ForOurToken { keys, anonymous: false } => format!(
                "-H \"Authorization: Bearer $({})\" ",
                token_line(&own_program(), "service", keys)
            ),
            _ => String::new(),
        }
    }

    /// Whether sending needs a token, where others do.
    fn sending(self) -> &'static str {
        match self.asked {
            Asked::ForToken { anonymous: true } | Asked::ForOurToken { anonymous: true, .. } => {
                ", which needs no token"
            }
            _ => "",
        }
    }

    /// How to have a token.
    fn looking(self, program: &str, token: Option<&str>) -> String {
        match (self.asked, token) {
            (Asked::Nobody, _) => String::new(),
            (Asked::ForOurToken { keys, .. }, Some(token)) => format!(
                r"What follows needs a token. This one, which is in the links as well, is of somebody who looks after every shop (the role support), for a day:

  export TOKEN={token}

Another one (roles: shopper, merchant, support, service, admin):

  {}

",
                token_line(program, "merchant", keys)
            ),
            (Asked::ForOurToken { .. } | Asked::ForToken { .. }, _) => {
                "What follows needs a token of your issuer, in TOKEN.\n\n".to_owned()
            }
        }
    }
}

/// What a line has that needs the token.
const BEARER: &str = "-H \"Authorization: Bearer $TOKEN\" ";

/// How a token is made for the example shop.
fn token_line(program: &str, role: &str, keys: &Path) -> String {
    let keys = match keys.to_str() {
        Some(DEV_KEYS) => String::new(),
        _ => format!(" --auth-dev-keys {}", quoted(keys)),
    };
    format!("{program} token --role {role} --shop {EXAMPLE_SHOP} --for 1h{keys}")
}

/// A path as a shell takes it for one word.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// The token that is printed.
fn example_token(keys: &Path) -> Result<String, DevError> {
    let grant = Grant {
        subject: "dev".to_owned(),
        role: Some(policy::Role::Support.word().to_owned()),
        shops: vec!["*".to_owned()],
        shopper_id: None,
        lasts: TOKEN_LASTS,
    };
    keys::dev::sign(keys, &grant, OffsetDateTime::now_utc())
}

/// How to see a basket change as a browser does.
fn through_resgate(addr: SocketAddr, bearer: &str) -> String {
    // A client says first who it is, and asks for something when that was answered.
    let (says, answered) = if bearer.is_empty() {
        ("", 1)
    } else {
        (r#" ask(2, "auth.ezout.auth.jwt", {jwt: process.env.TOKEN});"#, 2)
    };
    format!(
        r#"Resgate is at ws://{addr}/ and http://{addr}/api. The shop's open baskets as it has them, now and live (Node 20.10 or later):

  curl {bearer}http://{addr}/api/ezout/shop/{EXAMPLE_SHOP}/baskets

  node --experimental-websocket -e 'const s = new WebSocket("ws://{addr}/"), ask = (id, method, params) => s.send(JSON.stringify({{id, method, params}}));
    s.onopen = () => {{ ask(1, "version", {{protocol: "1.2.3"}});{says} }};
    s.onmessage = message => {{ console.log(message.data); if (JSON.parse(message.data).id === {answered}) ask(3, "subscribe.ezout.shop.{EXAMPLE_SHOP}.baskets") }}'
"#
    )
}

/// That nothing is missing, and how to get it all the same.
fn without_resgate() -> String {
    r"There is no Resgate 1.8 on PATH, and EZOUT_RESGATE_BIN names none. Everything works without it; to have it beside the rest, one of:

  go install github.com/resgateio/resgate@v1.8.0    # and start this again
  docker compose up --build                         # everything in containers, with its image, instead of this
"
    .to_owned()
}

/// How to call this program from the working directory.
fn own_program() -> String {
    let Ok(program) = std::env::current_exe() else {
        return "ezout".to_owned();
    };
    let here = std::env::current_dir().unwrap_or_default();
    program.strip_prefix(here).unwrap_or(&program).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::{EXAMPLE_EVENT, EXAMPLE_SHOP, EXAMPLE_VISIT, lock, quoted};

    #[test]
    fn the_example_event_is_of_the_example_shop() {
        let event: serde_json::Value = serde_json::from_str(EXAMPLE_EVENT).unwrap();
        assert_eq!(event["shop_id"], EXAMPLE_SHOP);
        assert_eq!(event["session_id"], EXAMPLE_VISIT);
        assert!(!EXAMPLE_EVENT.contains('\''), "it is printed between single quotes");
    }

    #[test]
    fn a_folder_is_one_word_to_a_shell() {
        assert_eq!(quoted("my data/it's/keys".as_ref()), r"'my data/it'\''s/keys'");
    }

    #[test]
    fn one_process_at_a_time_has_the_data_folder() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock(folder.path()).unwrap();
        assert!(
            lock(folder.path())
                .unwrap_err()
                .to_string()
                .contains("another `ezout dev`")
        );
        drop(first);
        lock(folder.path()).unwrap();
    }
}
