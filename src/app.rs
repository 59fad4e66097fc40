//! Putting the service together, running it, and ending it in order.

mod figures;
mod signals;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::access::Access;
use crate::admit;
use crate::config::ServiceOptions;
use crate::correct;
use crate::http::serve::Room;
use crate::http::{self, Api, health};
use crate::journal::Journal;
use crate::keys::{Keys, Mode};
use crate::live::Hub;
use crate::metrics::Metrics;
use crate::nats::{self, Address, Callout, Issuer, Tried, User};
use crate::present;
use crate::project::{self, Parts, Status};
use crate::resgate::Gateway;
use crate::trace::Tracer;
use crate::updates::{Feed, Updates};
use crate::views::{self, Views};

pub use signals::StopSignals;

/// The users of NATS of which one is for each part.
const PART_USERS: &str = "api, project, correct or serve";
/// What is said where callers are asked who they are, and whoever reaches NATS may pass them by.
const OPEN_NATS: &str = "EZOUT_AUTH asks callers who they are, and NATS asks nobody: whoever reaches it may do everything there; \
                         start nats-server with nats/users.conf, and name the user in EZOUT_NATS_URL";
/// How long background tasks may take to end after they were told to.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Serve,
    /// The HTTP API.
    Api,
    /// Projecting.
    Project,
    /// Taking corrections.
    Correct,
}

impl Role {
    /// Its command.
    const fn word(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Api => "api",
            Self::Project => "project",
            Self::Correct => "correct",
        }
    }

    const fn serves_http(self) -> bool {
        matches!(self, Self::Serve | Self::Api)
    }

    const fn projects(self) -> bool {
        matches!(self, Self::Serve | Self::Project)
    }

    const fn corrects(self) -> bool {
        matches!(self, Self::Serve | Self::Correct)
    }

    /// The user of NATS that is for it.
    const fn user(self) -> User {
        match self {
            Self::Serve => User::Serve,
            Self::Api => User::Api,
            Self::Project => User::Project,
            Self::Correct => User::Correct,
        }
    }
}

/// Runs a role until `stop`, whether or not NATS and MongoDB are there; `ready` is called once, when
/// everything that the role needs is there for the first time.
///
/// On `stop` it ends from left to right: no more requests are taken and those under way are answered,
/// then the projector ends its steps and gives its leases back, then the journal is closed.
///
/// # Errors
/// Where an address cannot be bound or a URL is malformed, before anything was started.
pub async fn run(
    options: ServiceOptions,
    role: Role,
    ready: impl FnOnce() + Send,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    check_open(&options, role)?;
    let admin = listen(options.http.admin_addr)?;
    let api = role.serves_http().then(|| listen(options.http.http_addr)).transpose()?;
    let metrics = Arc::new(Metrics::new());
    let tasks = TaskTracker::new();
    let (stop_journal, stop_admin) = (CancellationToken::new(), CancellationToken::new());
    let journal = Journal::start(
        options.journal.clone(),
        Arc::clone(&metrics),
        &tasks,
        stop_journal.clone(),
    )
    .await
    .context("EZOUT_NATS_URL")?;
    let views = Views::start(&options.views, &tasks, stop_journal.clone())
        .await
        .context("EZOUT_MONGODB_URI")?;
    let status = Status::default();
    let tracer = Tracer::start(&options.trace, role.word(), &metrics, &tasks, stop_journal.clone())
        .context("EZOUT_OTLP_ENDPOINT")?;

    let mut checks = vec![health::Check::journal(journal.state(), journal.storing())];
    if role.projects() || role.corrects() {
        // An API without MongoDB still takes every event, so it does not ask to be left alone.
        checks.push(health::Check::views(views.state()));
    }
    if role.projects() {
        checks.push(projector_check(status.clone()));
    }
    let access = start_access(&options, &views, &metrics, &tasks, &stop_journal)?;
    let callout = connect_door(&options, role, &access).await?;
    checks.push(rights_check(
        &options,
        role,
        &access,
        (&journal, callout.as_ref()),
        &tasks,
        &stop_journal,
    )?);
    checks.push(access_check(&access, &views));
    let admin_router = health::router(Arc::clone(&metrics), checks, admin_token(&options)?);
    tasks.spawn(http::serve::serve(
        admin,
        admin_router,
        Room::for_operators(&options.http, &metrics),
        stop_admin.clone(),
    ));

    keep_handlings(&views, role, &tasks, &stop_journal);
    keep_figures(&options, &views, role, &metrics, &tasks, &stop_journal)?;
    let presenter = start_presenting(&options, role, &journal, &views, &access, &status, &metrics).await?;
    let projector = role
        .projects()
        .then(|| start_projecting(&options, &journal, &views, status, (&metrics, &tracer)));

    let corrector = role
        .corrects()
        .then(|| start_correcting(&options, &journal, &views, &metrics));

    let door = callout.map(|callout| open_door(&options, callout, &access, &metrics));

    let becoming_ready = announce(&journal, &views, ready);
    if let Some(listener) = api {
        let state = api_state(&options, &journal, &views, access, (&metrics, &tracer), &tasks, &stop).await?;
        let router = http::router(state);
        let room = Room::for_clients(&options.http, &metrics);
        let serving = http::serve::serve(listener, router, room, stop.clone());
        tokio::join!(serving, stop.run_until_cancelled(becoming_ready));
    } else {
        stop.run_until_cancelled(becoming_ready).await;
        stop.cancelled().await;
    }

    tracing::info!("stopping");
    if let Some((door, stop_door)) = door {
        stop_door.cancel();
        door.await.context("the door of NATS ended in disorder")?;
    }
    if let Some((corrector, stop_corrector)) = corrector {
        stop_corrector.cancel();
        corrector.await.context("the corrector ended in disorder")?;
    }
    let (presenter, stop_presenter) = presenter;
    stop_presenter.cancel();
    presenter.await.context("the presenter ended in disorder")?;
    if let Some((projector, stop_projector)) = projector {
        stop_projector.cancel();
        projector.await.context("the projector ended in disorder")?;
    }
    stop_journal.cancel();
    stop_admin.cancel();
    tasks.close();
    if tokio::time::timeout(STOP_GRACE, tasks.wait()).await.is_err() {
        tracing::warn!("some tasks did not end within {} s", STOP_GRACE.as_secs());
    }
    Ok(())
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    http::serve::listen(address).with_context(|| format!("cannot listen on {address}; is another process there?"))
}

/// Refuses to let everybody do everything who can reach this machine.
fn check_open(options: &ServiceOptions, role: Role) -> anyhow::Result<()> {
    let address = options.http.http_addr;
    if role.serves_http() && options.keys.mode() == Mode::Off && !address.ip().is_loopback() {
        bail!(
            "EZOUT_AUTH=off lets everybody do everything, and {address} can be reached from elsewhere; \
             set EZOUT_AUTH to firebase, oidc or dev, or EZOUT_HTTP_ADDR to an address of this machine such as 127.0.0.1:8000"
        );
    }
    Ok(())
}

/// What those have to send who want to know everything of the second address.
fn admin_token(options: &ServiceOptions) -> anyhow::Result<Option<String>> {
    let token = options
        .http
        .admin_token
        .as_deref()
        .map(str::trim)
        .filter(|token| !token.is_empty());
    let address = options.http.admin_addr;
    if token.is_none() && !address.ip().is_loopback() {
        bail!(
            "{address} can be reached from elsewhere, and metrics and the reasons of readiness are not for everybody; \
             set EZOUT_ADMIN_TOKEN to a long random text, or EZOUT_ADMIN_ADDR to an address of this machine such as 127.0.0.1:8001"
        );
    }
    Ok(token.map(str::to_owned))
}

/// Starts to hear who handles baskets, which both viewers and Resgate are told.
fn keep_handlings(views: &Views, role: Role, tasks: &TaskTracker, stop: &CancellationToken) {
    if !role.serves_http() && !role.projects() {
        return;
    }
    let (views, stop) = (views.clone(), stop.clone());
    tasks.spawn(async move { stop.run_until_cancelled(views.keep_handlings()).await });
}

/// Starts to note how MongoDB stands; the processes that write to it ask for its figures.
fn keep_figures(
    options: &ServiceOptions,
    views: &Views,
    role: Role,
    metrics: &Arc<Metrics>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let shops = figures::shown(&options.project.shop_figures)?;
    let (views, metrics, stop) = (views.clone(), Arc::clone(metrics), stop.clone());
    tasks.spawn(async move {
        let keeping = figures::keep(views, &shops, &metrics, role.projects());
        stop.run_until_cancelled(keeping).await;
    });
    Ok(())
}

/// Starts to know who callers are.
fn start_access(
    options: &ServiceOptions,
    views: &Views,
    metrics: &Arc<Metrics>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<Access> {
    let keys = Keys::start(&options.keys, metrics, tasks, stop.clone())?;
    if keys.mode() == Mode::Off {
        return Ok(Access::off(Some(views.clone())));
    }
    Ok(Access::start(
        &options.access,
        keys,
        views.clone(),
        Arc::clone(metrics),
        tasks,
        stop.clone(),
    ))
}

/// Connects to where servers ask who somebody is that they do not know, where that is asked for.
async fn connect_door(options: &ServiceOptions, role: Role, access: &Access) -> anyhow::Result<Option<Callout>> {
    let Some(url) = options.admit.door_url.as_ref().filter(|_| role.serves_http()) else {
        return Ok(None);
    };
    if !access.asks() {
        bail!("EZOUT_NATS_DOOR_URL lets watchers in by their token, and with EZOUT_AUTH=off nobody is asked for one");
    }
    let seed = options.admit.issuer_seed.as_deref();
    let seed = seed.context("EZOUT_NATS_DOOR_URL needs EZOUT_NATS_ISSUER_SEED")?;
    let callout = Callout::start(url, Issuer::read(seed)?).await;
    callout.context("EZOUT_NATS_DOOR_URL").map(Some)
}

/// Lets watchers in who connect to NATS themselves, and answers how to stop it.
fn open_door(
    options: &ServiceOptions,
    callout: Callout,
    access: &Access,
    metrics: &Arc<Metrics>,
) -> (JoinHandle<()>, CancellationToken) {
    let parts = admit::Parts {
        callout,
        access: access.clone(),
        per_caller: options.http.limits.viewers_per_caller,
        metrics: Arc::clone(metrics),
    };
    let stop = CancellationToken::new();
    let admitting = admit::run(parts, stop.clone()).instrument(tracing::error_span!("admit"));
    (tokio::spawn(admitting), stop)
}

/// A connection to NATS, and who may come by it.
struct Reached<'a> {
    variable: &'static str,
    url: &'a str,
    status: watch::Receiver<nats::Status>,
    is_meant: fn(User) -> bool,
    meant: &'static str,
    /// Whether the server has users, where it is reached as none of them.
    has_users: watch::Sender<Option<bool>>,
}

/// Tries what the users of this process must not do, where they are ours; their part in readiness. Where they are not,
/// nobody knows what they must not do.
fn rights_check(
    options: &ServiceOptions,
    role: Role,
    access: &Access,
    (journal, callout): (&Journal, Option<&Callout>),
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<health::Check> {
    let mut tried = Vec::new();
    let (mut strangers, mut warnings) = (Vec::new(), Vec::new());
    let try_on = |trying: BoxFuture<'static, ()>| {
        let stop = stop.clone();
        tasks.spawn(async move { stop.run_until_cancelled(trying).await });
    };
    let part = Reached {
        variable: "EZOUT_NATS_URL",
        url: &options.journal.nats_url,
        status: journal.link().status(),
        is_meant: User::is_part,
        meant: PART_USERS,
        has_users: watch::Sender::new(None),
    };
    let of_nobody = part.has_users.subscribe();
    let door = callout
        .zip(options.admit.door_url.as_deref())
        .map(|(callout, url)| Reached {
            variable: "EZOUT_NATS_DOOR_URL",
            url,
            status: callout.status(),
            is_meant: |user| user == User::Door,
            meant: "door",
            has_users: watch::Sender::new(None),
        });
    let mut nameless = Vec::new();
    for reached in [Some(part), door].into_iter().flatten() {
        let Reached {
            variable,
            meant,
            status,
            ..
        } = reached;
        let address = Address::parse(reached.url).context(variable)?;
        let Some(name) = address.user().map(str::to_owned) else {
            let trying = nats::keep_trying_as_nobody(address, status, reached.has_users.clone());
            try_on(trying.boxed());
            nameless.push((variable, meant, reached.has_users));
            continue;
        };
        let Some(user) = User::of(&name).filter(|user| (reached.is_meant)(*user)) else {
            strangers.push(format!(
                "NATS is reached as {name:?}, of whom nobody knows what must be refused; \
                 the user for it in nats/users.conf is {meant}, in {variable}"
            ));
            continue;
        };
        if user.is_part() && user != role.user() {
            let needed = role.user().name();
            match user.lacks(role.user()).first() {
                Some(lacking) => strangers.push(format!(
                    "NATS is reached as {name:?}, who may not {lacking}, as this process has to; the user for it is {needed}"
                )),
                None => warnings.push(format!(
                    "NATS is reached as {name:?}, who may do more than this process needs; the user for it is {needed}"
                )),
            }
        }
        let (tell, told) = watch::channel(Tried::default());
        try_on(nats::keep_trying(address, user, status, tell).boxed());
        tried.push((user.name(), told));
    }
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let is_open = access.asks().then_some(of_nobody);
    if let Some(mut is_open) = is_open.clone() {
        let telling = async move {
            if is_open.wait_for(|has_users| *has_users == Some(false)).await.is_ok() {
                tracing::warn!("{OPEN_NATS}");
            }
        };
        try_on(telling.boxed());
    }
    let warnings = move || {
        let is_open = is_open.as_ref().filter(|has_users| *has_users.borrow() == Some(false));
        let open = is_open.map(|_| OPEN_NATS.to_owned());
        warnings.iter().cloned().chain(open).collect()
    };
    let check = health::Check::new("rights", move || {
        let mut reasons = strangers.clone();
        for (variable, meant, has_users) in &nameless {
            if *has_users.borrow() == Some(true) {
                reasons.push(format!(
                    "NATS has users, and this process came as none of them; name {meant} in {variable}"
                ));
            }
        }
        reasons.extend(tried.iter().flat_map(|(name, tried)| tried.borrow().reasons(name)));
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    });
    Ok(check.warning(warnings))
}

/// Starts to project.
fn start_projecting(
    options: &ServiceOptions,
    journal: &Journal,
    views: &Views,
    status: Status,
    (metrics, tracer): (&Arc<Metrics>, &Tracer),
) -> (JoinHandle<()>, CancellationToken) {
    let parts = Parts {
        journal: journal.clone(),
        views: views.clone(),
        updates: Updates::new(journal.client(), options.journal.replicas, Arc::clone(metrics)),
        metrics: Arc::clone(metrics),
        tracer: tracer.clone(),
        action_id: options.action_id,
        cached_bytes: Arc::default(),
    };
    let stop = CancellationToken::new();
    let projecting = project::run(options.project.clone(), parts, status, stop.clone());
    (tokio::spawn(projecting), stop)
}

/// Starts taking corrections, and answers how to stop it.
fn start_correcting(
    options: &ServiceOptions,
    journal: &Journal,
    views: &Views,
    metrics: &Arc<Metrics>,
) -> (JoinHandle<()>, CancellationToken) {
    let parts = correct::Parts {
        journal: journal.clone(),
        views: views.clone(),
        metrics: Arc::clone(metrics),
        action_id: options.action_id,
    };
    let stop = CancellationToken::new();
    let correcting = correct::run(options.correct.clone(), parts, stop.clone());
    (tokio::spawn(correcting), stop)
}

/// Starts presenting resources to Resgate, and answers how to stop it.
async fn start_presenting(
    options: &ServiceOptions,
    role: Role,
    journal: &Journal,
    views: &Views,
    access: &Access,
    status: &Status,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<(JoinHandle<()>, CancellationToken)> {
    let gateway = Gateway::start(&options.journal.nats_url).await;
    let parts = present::Parts {
        gateway: gateway.context("EZOUT_NATS_URL")?,
        views: views.clone(),
        access: access.clone(),
        // A part that was not told whom to believe must not believe everybody in the name of those that were.
        takes_requests: access.asks() || role.serves_http(),
        journal: journal.clone(),
        action_id: options.action_id,
        projects: status.owned(),
        metrics: Arc::clone(metrics),
    };
    let stop = CancellationToken::new();
    let presenting = present::run(parts, stop.clone());
    let presenting = presenting.instrument(tracing::error_span!("present"));
    Ok((tokio::spawn(presenting), stop))
}

/// What the routes work with.
async fn api_state(
    options: &ServiceOptions,
    journal: &Journal,
    views: &Views,
    access: Access,
    (metrics, tracer): (&Arc<Metrics>, &Tracer),
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<Api> {
    let cors = http::cors(&options.http.allowed_origins).map_err(|origin| {
        anyhow!("EZOUT_ALLOWED_ORIGINS: {origin:?} is no origin; one is such as https://live.example")
    })?;
    let live = Hub::new(
        Feed::new(journal.link(), metrics).await?,
        views.clone(),
        &options.live,
        (Arc::clone(metrics), tracer.clone()),
        tasks.clone(),
        stop.clone(),
    );
    let (journal, views, metrics) = (journal.clone(), views.clone(), Arc::clone(metrics));
    let api = Api::new(journal, Some(views), options.action_id, metrics).with_live(live);
    let api = api
        .with_access(access)
        .with_cors(cors)
        .with_traces(tracer.clone())
        .with_web(&options.http, &options.keys)?;
    Ok(api.with_limits(&options.http.limits, tasks, stop.clone()))
}

/// The part in readiness of who may do what. That MongoDB is away is no part of it: an API takes events all the same.
fn access_check(access: &Access, views: &Views) -> health::Check {
    let (access, state) = (access.clone(), views.state());
    health::Check::new("access", move || {
        let doubt = access.doubt(OffsetDateTime::now_utc());
        match doubt.filter(|_| *state.borrow() == views::State::Open) {
            Some(doubt) => Err(vec![doubt]),
            None => Ok(()),
        }
    })
}

/// The projector's part in readiness.
fn projector_check(status: Status) -> health::Check {
    health::Check::new("projector", move || {
        let halted = status.halted();
        if halted.is_empty() {
            return Ok(());
        }
        Err(halted
            .into_iter()
            .map(|(partition, reason)| format!("partition {partition} has halted: {reason}"))
            .collect())
    })
}

async fn announce(journal: &Journal, views: &Views, ready: impl FnOnce()) {
    let mut journal = journal.state();
    let mut views = views.state();
    let open = journal
        .wait_for(|state| matches!(state, crate::journal::State::Open(_)))
        .await
        .is_ok()
        && views.wait_for(|state| *state == views::State::Open).await.is_ok();
    if open {
        ready();
    }
}
