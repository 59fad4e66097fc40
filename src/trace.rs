//! Traces: what became of a request and its event, part by part, for a collector that takes OTLP.
//!
//! Whoever sends a `traceparent` decides whether the trace is exported; where nobody did, one of many is. The
//! context goes with the event: into the journal as a header, from there to the update, so that the parts of all
//! processes are of one trace. Where no collector is configured, what was sent is passed on and nothing is recorded.
//!
//! A trace never holds anybody up: parts that the collector does not take in time are left out, and counted.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use opentelemetry::trace::{SpanContext, SpanId, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_otlp::{Protocol, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::core::error_chain;
use crate::core::trace::TraceContext;
use crate::metrics::Metrics;

pub use opentelemetry::trace::SpanKind;

/// Parts that wait to be exported; more are left out.
const WAITING_MAX: usize = 4_096;
/// Parts that are taken at a time.
const BATCH_MAX: usize = 512;
/// How long a part waits for others to go with.
const GATHER: Duration = Duration::from_secs(1);
/// How long the collector may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Where traces go.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Config {
    /// Collector that takes traces as OTLP over plain HTTP, such as `http://127.0.0.1:4318`. Without it no traces are exported.
    #[arg(long, env = "EZOUT_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,

    /// Part of the requests whose trace is exported, of those that bring no `traceparent`: from 0 to 1. Who brings one decides.
    #[arg(long, env = "EZOUT_TRACE_RATIO", default_value_t = 0.01, value_parser = ratio)]
    pub trace_ratio: f64,
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

/// Makes the parts of traces; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Export>>);

#[derive(Debug)]
struct Export {
    spans: mpsc::Sender<SpanData>,
    ratio: f64,
    scope: InstrumentationScope,
    metrics: Arc<Metrics>,
}

impl Tracer {
    /// Passes on what it is given, and exports nothing.
    pub fn off() -> Self {
        Self::default()
    }

    /// Exports to the collector, where one is configured, until `stop`; what waits by then is still sent. `service` is
    /// the role of the process.
    ///
    /// # Errors
    /// An endpoint that cannot be one.
    pub fn start(
        config: &Config,
        service: &str,
        metrics: &Arc<Metrics>,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let Some(endpoint) = &config.otlp_endpoint else {
            return Ok(Self::off());
        };
        let endpoint = endpoint.trim_end_matches('/');
        if !endpoint.starts_with("http://") {
            bail!(
                "must be an http:// address, such as http://127.0.0.1:4318; put a collector beside the service where TLS is needed"
            );
        }
        let client = reqwest::Client::builder()
            .no_proxy()
            .build()
            .context("no client can be made")?;
        let mut exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{endpoint}/v1/traces"))
            .with_timeout(ANSWER_TIMEOUT)
            .build()?;
        let resource = Resource::builder_empty().with_attributes([
            KeyValue::new("service.name", "ezout"),
            KeyValue::new("service.instance.role", service.to_owned()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new(
                "host.name",
                rustix::system::uname().nodename().to_string_lossy().into_owned(),
            ),
        ]);
        exporter.set_resource(&resource.build());
        let (spans, waiting) = mpsc::channel(WAITING_MAX);
        tasks.spawn(export(exporter, waiting, Arc::clone(metrics), stop));
        Ok(Self(Some(Arc::new(Export {
            spans,
            ratio: config.trace_ratio,
            scope: InstrumentationScope::builder("ezout").build(),
            metrics: Arc::clone(metrics),
        }))))
    }

    /// Begins the part of a request, whose sender may have begun the trace.
    pub fn begin(&self, sent: Option<TraceContext>) -> Span {
        let mut context = TraceContext::below(sent);
        if let (None, Some(export)) = (sent, &self.0) {
            context.sampled = fastrand::f64() < export.ratio;
        }
        self.part("request".into(), SpanKind::Server, sent, context)
    }

    /// Begins a part below another, where that is recorded.
    pub fn below(&self, name: &'static str, kind: SpanKind, parent: Option<TraceContext>) -> Option<Span> {
        let parent = parent.filter(|parent| parent.sampled && self.0.is_some())?;
        Some(self.part(name.into(), kind, Some(parent), TraceContext::below(Some(parent))))
    }

    fn part(
        &self,
        name: Cow<'static, str>,
        kind: SpanKind,
        parent: Option<TraceContext>,
        context: TraceContext,
    ) -> Span {
        let recording = self.0.clone().filter(|_| context.sampled).map(|export| Recording {
            export,
            start: SystemTime::now(),
            attributes: Vec::new(),
        });
        Span {
            name,
            kind,
            parent,
            context,
            recording,
        }
    }
}

/// A part of a trace that is under way. One that is dropped without an end is not exported.
#[derive(Debug)]
pub struct Span {
    name: Cow<'static, str>,
    kind: SpanKind,
    parent: Option<TraceContext>,
    context: TraceContext,
    recording: Option<Recording>,
}

#[derive(Debug)]
struct Recording {
    export: Arc<Export>,
    start: SystemTime,
    attributes: Vec<KeyValue>,
}

impl Span {
    /// Which part it is.
    pub fn context(&self) -> TraceContext {
        self.context
    }

    /// What goes on with the event: this part where it is recorded, and else what was sent.
    pub fn passed_on(&self) -> Option<TraceContext> {
        if self.recording.is_some() {
            Some(self.context)
        } else {
            self.parent
        }
    }

    /// Whether it is exported at its end.
    pub fn is_recorded(&self) -> bool {
        self.recording.is_some()
    }

    /// Calls it by a name that says more.
    #[must_use]
    pub fn named(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Adds what is known about it. Never anything personal.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        if let Some(recording) = &mut self.recording {
            recording.attributes.push(KeyValue::new(key, value));
        }
        self
    }

    /// Says that it began earlier.
    #[must_use]
    pub fn since(mut self, start: SystemTime) -> Self {
        if let Some(recording) = &mut self.recording {
            recording.start = start;
        }
        self
    }

    /// Ends it; `failure` is why it was not done.
    pub fn end(self, failure: Option<&'static str>) {
        let Some(Recording {
            export,
            start,
            attributes,
        }) = self.recording
        else {
            return;
        };
        let span = SpanData {
            span_context: SpanContext::new(
                TraceId::from(self.context.trace),
                SpanId::from(self.context.span),
                TraceFlags::SAMPLED,
                false,
                TraceState::NONE,
            ),
            parent_span_id: self.parent.map_or(SpanId::INVALID, |parent| SpanId::from(parent.span)),
            parent_span_is_remote: matches!(self.kind, SpanKind::Server | SpanKind::Consumer),
            span_kind: self.kind,
            name: self.name,
            start_time: start,
            end_time: SystemTime::now(),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: failure.map_or(Status::Unset, Status::error),
            instrumentation_scope: export.scope.clone(),
        };
        if export.spans.try_send(span).is_err() {
            export.metrics.trace_spans.with_label_values(&["left_out"]).inc();
        }
    }
}

/// A place in a stream, as what is known about a part.
pub fn place(place: u64) -> i64 {
    i64::try_from(place).unwrap_or(i64::MAX)
}

/// Sends parts together until nobody makes any, or `stop`.
async fn export(
    exporter: opentelemetry_otlp::SpanExporter,
    mut waiting: mpsc::Receiver<SpanData>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut failing = false;
    loop {
        let mut batch = Vec::new();
        let first = stop.run_until_cancelled(waiting.recv_many(&mut batch, BATCH_MAX)).await;
        if first == Some(0) {
            return;
        }
        // More come within moments: a request has several parts.
        if first.is_some() {
            stop.run_until_cancelled(tokio::time::sleep(GATHER)).await;
        }
        while let Ok(span) = waiting.try_recv() {
            batch.push(span);
        }
        let number = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        if number > 0 {
            let sent = tokio::time::timeout(ANSWER_TIMEOUT, exporter.export(batch)).await;
            let failure = match sent {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error_chain(&error)),
                Err(_) => Some("it does not answer".to_owned()),
            };
            let outcome = if failure.is_some() { "failed" } else { "exported" };
            metrics.trace_spans.with_label_values(&[outcome]).inc_by(number);
            match &failure {
                Some(reason) if !failing => {
                    tracing::warn!("the collector takes no traces, which are left out: {reason}");
                }
                None if failing => tracing::info!("the collector takes traces again"),
                _ => {}
            }
            failing = failure.is_some();
        }
        if stop.is_cancelled() {
            return;
        }
    }
}

/// The part of a trace in which a request is answered.
#[derive(Debug, Clone, Copy)]
struct Current {
    context: TraceContext,
    passed_on: Option<TraceContext>,
}

tokio::task_local! {
    static CURRENT: Current;
}

/// Runs what answers a request as part of its trace.
pub async fn within<F: Future>(span: &Span, answering: F) -> F::Output {
    let current = Current {
        context: span.context(),
        passed_on: span.passed_on(),
    };
    CURRENT.scope(current, answering).await
}

/// The name of the request that is being answered, by which its log lines and its trace are found: the id of the trace
/// and that of its part.
pub fn request_id() -> Option<String> {
    CURRENT.try_with(|current| request_id_of(current.context)).ok()
}

/// The same of a part.
pub fn request_id_of(context: TraceContext) -> String {
    format!("{:032x}-{:016x}", context.trace, context.span)
}

/// What goes on with an event of the request that is being answered.
pub fn passed_on() -> Option<TraceContext> {
    CURRENT.try_with(|current| current.passed_on).ok().flatten()
}
