//! The HTTP API: its routes, its limits, and what both addresses are.
//!
//! The table of routes is here, and each file below is one thing that a route does. Whatever goes
//! wrong is answered as a problem of [`problem`], also what no route is reached for.

mod append;
mod audit;
mod body;
pub mod contracts;
mod corrections;
mod day;
mod door;
mod handling;
pub mod health;
mod history;
mod limit;
mod list;
mod live;
mod me;
mod operations;
mod past;
pub mod problem;
mod read;
mod seen;
pub mod serve;
mod shop;
mod traced;
mod web;

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::{
    AUTHORIZATION, CONTENT_TYPE, ETAG, LOCATION, REFERRER_POLICY, RETRY_AFTER, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use prometheus::HistogramTimer;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{self, CorsLayer};

use self::body::BodyMemory;
use self::day::Days;
use self::door::Route;
use self::limit::Limits;
use self::problem::{Code, Problem};
use self::web::Web;
use crate::access::Access;
use crate::core::event::ActionIdMeaning;
use crate::core::id::{ShopId, partition_of};
use crate::core::policy::Verb;
use crate::journal::{self, Journal};
use crate::keys;
use crate::live::Hub;
use crate::metrics::Metrics;
use crate::trace::Tracer;
use crate::views::Views;

pub use self::append::{EVENT_BYTES_MAX, LINES_BYTES_MAX, LINES_MAX};
pub use self::door::Door;

/// How long a browser may remember which requests of other origins are let through.
const CORS_AGE: Duration = Duration::from_hours(1);

/// Where the process listens.
#[derive(Debug, Clone, clap::Args)]
// Named after the struct, the groups of all the `Config`s would have one name.
#[group(skip)]
pub struct Config {
    /// Address and port of the HTTP API. Without it: port 8000, for clients on this machine only.
    #[arg(long, env = "EZOUT_HTTP_ADDR", default_value = "127.0.0.1:8000")]
    pub http_addr: SocketAddr,

    /// Address and port of health and metrics, which no client of the API should reach. Without it: port 8001, for this machine only.
    #[arg(long, env = "EZOUT_ADMIN_ADDR", default_value = "127.0.0.1:8001")]
    pub admin_addr: SocketAddr,

    /// What those have to send as `Authorization: Bearer` who want more of the second address than to know whether the process is ready. Needed where it is no address of this machine.
    #[arg(long, env = "EZOUT_ADMIN_TOKEN", hide_env_values = true)]
    pub admin_token: Option<String>,

    /// Connections to the API that may be open at once; others wait until one ends. Each costs a file descriptor and some 10 KiB.
    /// Without it: 10000.
    #[arg(long, env = "EZOUT_HTTP_CONNECTIONS", default_value_t = 10_000)]
    pub http_connections: usize,

    /// Origins whose pages may use the API from a browser, such as `https://live.example`, separated by commas; `*` for any. Without it: none but its own.
    #[arg(long, env = "EZOUT_ALLOWED_ORIGINS", value_delimiter = ',')]
    pub allowed_origins: Vec<String>,

    /// How often somebody may ask.
    #[command(flatten)]
    pub limits: limit::Config,

    /// What the merchants' page is told.
    #[command(flatten)]
    pub web: web::Config,
}

/// What the routes work with; clones share it.
#[derive(Debug, Clone)]
pub struct Api(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    journal: Journal,
    views: Option<Views>,
    live: Option<Hub>,
    access: Access,
    limits: Limits,
    cors: Option<CorsLayer>,
    meaning: ActionIdMeaning,
    metrics: Arc<Metrics>,
    tracer: Tracer,
    /// Partitions of the journal when it was last seen; 0 before that.
    partitions: AtomicU16,
    bodies: BodyMemory,
    web: Web,
    days: Days,
    operations: operations::Found,
}

impl Api {
    /// What the routes work with. Without views, those that read answer that they are not available here.
    pub fn new(journal: Journal, views: Option<Views>, meaning: ActionIdMeaning, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Parts {
            journal,
            views,
            live: None,
            access: Access::off(None),
            limits: Limits::none(),
            cors: None,
            meaning,
            metrics,
            tracer: Tracer::off(),
            partitions: AtomicU16::new(0),
            bodies: BodyMemory::new(),
            web: Web::plain(),
            days: Days::default(),
            operations: operations::Found::default(),
        }))
    }

    /// Serves live updates, too. Called before the routes are made.
    #[must_use]
    pub fn with_live(mut self, live: Hub) -> Self {
        let parts = Arc::get_mut(&mut self.0).expect("nobody has a clone before the routes are made");
        parts.live = Some(live);
        self
    }

    /// Asks callers who they are. Called before the routes are made; without it everybody may do everything.
    #[must_use]
    pub fn with_access(mut self, access: Access) -> Self {
        let parts = Arc::get_mut(&mut self.0).expect("nobody has a clone before the routes are made");
        parts.access = access;
        self
    }

    /// Limits how often somebody may ask. Called before the routes are made; without it there is no limit. Who did not come
    /// lately is forgotten until `stop`.
    #[must_use]
    pub fn with_limits(mut self, config: &limit::Config, tasks: &TaskTracker, stop: CancellationToken) -> Self {
        let parts = Arc::get_mut(&mut self.0).expect("nobody has a clone before the routes are made");
        parts.limits = Limits::new(config, &parts.metrics);
        let forgetting = parts.limits.clone().forget();
        tasks.spawn(async move { stop.run_until_cancelled(forgetting).await });
        self
    }

    /// Exports the traces of requests. Called before the routes are made; without it none are.
    #[must_use]
    pub fn with_traces(mut self, tracer: Tracer) -> Self {
        let parts = Arc::get_mut(&mut self.0).expect("nobody has a clone before the routes are made");
        parts.tracer = tracer;
        self
    }

    /// Lets pages of other origins use the API. Called before the routes are made; without it none may.
    #[must_use]
    pub fn with_cors(mut self, cors: Option<CorsLayer>) -> Self {
        let parts = Arc::get_mut(&mut self.0).expect("nobody has a clone before the routes are made");
        parts.cors = cors;
        self
    }

    /// Tells the page what these options say. Called before the routes are made; without it nobody is asked who they are.
    ///
    /// # Errors
    /// The option that says what cannot be, and its rule.
    pub fn with_web(mut self, config: &Config, keys: &keys::Config) -> Result<Self, web::ConfigError> {
        let parts = Arc::get_mut(&mut self.0).expect("nobody has a clone before the routes are made");
        parts.web = Web::new(&config.web, keys, config.http_addr)?;
        Ok(self)
    }

    fn web(&self) -> &Web {
        &self.0.web
    }

    fn days(&self) -> &Days {
        &self.0.days
    }

    fn operations(&self) -> &operations::Found {
        &self.0.operations
    }

    fn tracer(&self) -> &Tracer {
        &self.0.tracer
    }

    fn limits(&self) -> &Limits {
        &self.0.limits
    }

    fn access(&self) -> &Access {
        &self.0.access
    }

    fn bodies(&self) -> &BodyMemory {
        &self.0.bodies
    }

    fn journal(&self) -> &Journal {
        &self.0.journal
    }

    fn views(&self) -> Option<&Views> {
        self.0.views.as_ref()
    }

    fn live(&self) -> Option<&Hub> {
        self.0.live.as_ref()
    }

    fn meaning(&self) -> ActionIdMeaning {
        self.0.meaning
    }

    /// Observes the time until it is dropped as that of a request to this route.
    fn timer(&self, route: &str) -> HistogramTimer {
        self.0
            .metrics
            .http_request_seconds
            .with_label_values(&[route])
            .start_timer()
    }

    fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Counts a caller who was not let in.
    fn count_refusal(&self, reason: &str) {
        self.0.metrics.refusals.with_label_values(&[reason]).inc();
    }

    /// Counts a viewer who may not be one any more, by the door that they came by.
    fn count_end(&self, reason: &str, door: &str) {
        self.0.metrics.refusals.with_label_values(&[reason]).inc();
        self.0.metrics.access_ends.with_label_values(&[door]).inc();
    }

    /// Counts an event by what became of it.
    fn count(&self, outcome: &str) {
        self.0.metrics.received_events.with_label_values(&[outcome]).inc();
    }

    /// The partition of a shop; none before the journal was seen. A journal never changes its partitions,
    /// so baskets can be read while it is away.
    fn partition_of(&self, shop: ShopId) -> Option<u16> {
        if let journal::State::Open(facts) = &*self.0.journal.state().borrow() {
            self.0.partitions.store(facts.partitions, Ordering::Relaxed);
        }
        let partitions = self.0.partitions.load(Ordering::Relaxed);
        (partitions > 0).then(|| partition_of(shop, partitions))
    }
}

/// Every route, with what it takes to come through it.
fn routes() -> Vec<Route> {
    use Door::{Body, Known, Open, Shop, System};
    use Verb::{Append, Correct, Handle, Inspect, Look, Operate, Replay};
    vec![
        Route::post("/publish/{shop_id}", Shop(Append), append::publish),
        Route::post("/send", Body(Append), append::send),
        Route::post("/v1/shops/{shop}/events", Shop(Append), append::events),
        Route::get("/v1/shops/{shop}/baskets", Shop(Look), list::baskets),
        Route::get("/v1/shops/{shop}/summary", Shop(Look), list::summary),
        Route::get("/v1/shops/{shop}/sessions/{session}/basket", Shop(Look), read::basket),
        Route::get("/v1/shops/{shop}/updates", Shop(Look), live::updates),
        Route::get(
            "/v1/shops/{shop}/sessions/{session}/events",
            Shop(Replay),
            history::events,
        ),
        Route::get("/v1/shops/{shop}/sessions/{session}/explain", Shop(Look), past::explain),
        Route::post(
            "/v1/shops/{shop}/sessions/{session}/corrections",
            Shop(Correct),
            corrections::create,
        ),
        Route::get(
            "/v1/shops/{shop}/sessions/{session}/corrections",
            Shop(Look),
            corrections::list,
        ),
        Route::get(
            "/v1/shops/{shop}/sessions/{session}/corrections/{correction}",
            Shop(Look),
            corrections::show,
        ),
        Route::get("/v1/shops/{shop}/audit", Shop(Operate), audit::list),
        Route::get("/v1/shops/{shop}/day", Shop(Look), day::day),
        Route::get("/v1/shops/{shop}", Shop(Look), shop::show),
        Route::put("/v1/shops/{shop}", Shop(Operate), shop::set),
        Route::post("/v1/shops/{shop}/seen", Shop(Look), seen::note),
        Route::get("/v1/shops/{shop}/handlings", Shop(Look), handling::list),
        Route::put(
            "/v1/shops/{shop}/sessions/{session}/handling",
            Shop(Handle),
            handling::take,
        ),
        Route::delete(
            "/v1/shops/{shop}/sessions/{session}/handling",
            Shop(Handle),
            handling::release,
        ),
        Route::get("/v1/me", Known, me::me),
        Route::get("/v1/operations", System(Inspect), operations::show),
        Route::get("/v1/operations/parked", System(Inspect), operations::parked),
        Route::post("/v1/operations/parked/{id}", System(Operate), operations::decide),
        Route::get("/v1/operations/corrections", System(Inspect), operations::corrections),
        Route::get("/problems/{code}", Open, explain_problem),
        Route::get("/", Open, web::page),
        Route::get("/sign-in", Open, web::page),
        Route::get("/shops/{*rest}", Open, web::page),
        Route::get("/operations", Open, web::page),
        Route::get("/app.js", Open, web::file),
        Route::get("/app.css", Open, web::file),
        Route::get("/icon.svg", Open, web::file),
        Route::get("/assets/{file}", Open, web::asset),
        Route::get("/config.json", Open, web::config),
        Route::post("/dev/token", Open, web::dev_token),
        Route::get("/docs", Open, contracts::docs),
        Route::get("/docs/{file}", Open, contracts::docs_file),
        Route::get("/openapi.json", Open, contracts::openapi),
        Route::get("/asyncapi.json", Open, contracts::asyncapi),
    ]
}

/// Method and path of every route, and what it takes to come through it.
pub fn doors() -> Vec<(Method, String, Door)> {
    // What may have several parts is a parameter like others to whoever reads it.
    let listed = |route: Route| (route.method, route.path.replace("{*", "{"), route.door);
    routes().into_iter().map(listed).collect()
}

/// The routes of the HTTP API.
pub fn router(api: Api) -> Router {
    web::prepare();
    let mut router = Router::new();
    for route in routes() {
        router = router.route(route.path, route.guarded(&api));
    }
    let mut router = router
        .fallback(nothing_here)
        .method_not_allowed_fallback(other_method)
        .layer(middleware::from_fn_with_state(api.clone(), door::count))
        .layer(CatchPanicLayer::custom(after_panic))
        .layer(middleware::from_fn_with_state(api.clone(), traced::answer));
    // It answers every OPTIONS, which nobody asks where no other page may use the API. What is counted within it can be
    // read by those pages, and what it answers itself is counted before it.
    if let Some(cors) = api.0.cors.clone() {
        router = router
            .layer(cors)
            .layer(middleware::from_fn_with_state(api.clone(), door::count_preflight));
    }
    router.layer(middleware::map_response(harden)).with_state(api)
}

/// What browsers are told about every answer: it is of the type that it says, is shown in no frame, and where it came
/// from is nobody's business.
async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// Which pages of other origins may use the API; nothing if none may.
///
/// # Errors
/// The origin that is none.
pub fn cors(origins: &[String]) -> Result<Option<CorsLayer>, String> {
    let origins: Vec<&str> = origins
        .iter()
        .map(|origin| origin.trim())
        .filter(|origin| !origin.is_empty())
        .collect();
    if origins.is_empty() {
        return Ok(None);
    }
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers([
            AUTHORIZATION,
            CONTENT_TYPE,
            HeaderName::from_static(live::LAST_EVENT_ID),
        ])
        .expose_headers([
            ETAG,
            LOCATION,
            RETRY_AFTER,
            WWW_AUTHENTICATE,
            HeaderName::from_static(append::SEQUENCE),
            HeaderName::from_static(append::DUPLICATE),
            HeaderName::from_static(append::DURABILITY),
        ])
        .max_age(CORS_AGE);
    if origins == ["*"] {
        return Ok(Some(layer.allow_origin(cors::Any)));
    }
    let parse = |origin: &&str| {
        let is_origin = origin.split_once("://").is_some_and(|(scheme, host)| {
            matches!(scheme, "http" | "https") && !host.is_empty() && !host.contains(['/', '*', '?', '#', '@'])
        });
        HeaderValue::from_str(origin)
            .ok()
            .filter(|_| is_origin)
            .ok_or_else(|| (*origin).to_owned())
    };
    let origins: Vec<HeaderValue> = origins.iter().map(parse).collect::<Result<_, _>>()?;
    Ok(Some(layer.allow_origin(origins)))
}

/// What the `type` of a problem leads to.
async fn explain_problem(State(api): State<Api>, word: Result<Path<String>, PathRejection>) -> Response {
    let _timer = api.timer("other");
    let word = word.map(|Path(word)| word).unwrap_or_default();
    match Code::ALL.iter().find(|code| code.word() == word) {
        Some(code) => format!(
            "{} {}\n\n{}\n",
            code.status().as_u16(),
            code.title(),
            code.explanation()
        )
        .into_response(),
        None => Problem::new(Code::NotFound, "no problem has this code").into_response(),
    }
}

async fn nothing_here(State(api): State<Api>) -> Problem {
    let _timer = api.timer("other");
    Problem::new(Code::NotFound, "no route has this path; GET /docs lists them")
}

async fn other_method(State(api): State<Api>) -> Problem {
    let _timer = api.timer("other");
    Problem::plain(Code::MethodNotAllowed)
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that tower-http asks for")]
fn after_panic(panic: Box<dyn Any + Send + 'static>) -> Response {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(message, "a request ended in a panic");
    Problem::plain(Code::Internal).into_response()
}

#[cfg(test)]
mod tests;
