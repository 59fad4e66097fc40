//! Every series that the process exports; the doc comment of a field is its help text.
//!
//! All of them exist from the start with the value 0, so a rate over the first minute is right.
//! Labels are words from fixed lists or partition numbers, never ids.

use prometheus::core::Collector;
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// Buckets for times from 0.1 ms to 10 s.
const SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Buckets for numbers of events that travel together.
const EVENTS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];

/// Rules by which a correction is rejected: those of the API, then those of edits by hand.
const REJECTIONS: [&str; 25] = [
    "moved_on",
    "basket_parked",
    "basket_full",
    "nothing_to_change",
    "no_line",
    "no_price",
    "too_many_pieces",
    "negative_price",
    "negative_total",
    "no_status",
    "no_correction",
    "already_undone",
    "not_found",
    "conflict",
    "too_large",
    "malformed",
    "nothing",
    "inserted",
    "deleted",
    "field",
    "item_count",
    "status",
    "line",
    "price",
    "money",
];

/// The doors by which somebody stays who came in.
const DOORS: [&str; 4] = ["updates", "replay", "resgate", "nats"];

/// Why a token is not believed.
const TOKEN_REFUSALS: [&str; 13] = [
    "malformed",
    "too_large",
    "algorithm",
    "unknown_key",
    "signature",
    "expired",
    "not_yet_valid",
    "issuer",
    "audience",
    "tenant",
    "subject",
    "custom_token",
    "keys_unavailable",
];

macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $field:ident: $kind:ident($($argument:tt)*) $name:literal;)+) => {
        /// The process's series, made once and shared.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            $($(#[doc = $doc])+ pub $field: metrics!(@type $kind),)+
        }

        impl Metrics {
            /// Makes and registers every series.
            pub fn new() -> Self {
                let registry = Registry::new();
                $(let $field = register(&registry, metrics!(@make $kind, $name, concat!($($doc),+).trim(), $($argument)*));)+
                Self { registry, $($field,)+ }
            }
        }
    };
    (@type counter) => { IntCounter };
    (@type counter_by) => { IntCounterVec };
    (@type gauge) => { IntGauge };
    (@type gauge_by) => { IntGaugeVec };
    (@type amount_by) => { GaugeVec };
    (@type info) => { IntGaugeVec };
    (@type histogram) => { Histogram };
    (@type histogram_by) => { HistogramVec };
    (@make counter, $name:expr, $help:expr,) => { IntCounter::new($name, $help) };
    (@make counter_by, $name:expr, $help:expr, $label:literal = $values:expr) => {
        IntCounterVec::new(Opts::new($name, $help), &[$label]).inspect(|series| {
            for value in $values { series.with_label_values(&[value]); }
        })
    };
    (@make gauge, $name:expr, $help:expr,) => { IntGauge::new($name, $help) };
    (@make gauge_by, $name:expr, $help:expr, $($label:literal),+) => { IntGaugeVec::new(Opts::new($name, $help), &[$($label),+]) };
    (@make amount_by, $name:expr, $help:expr, $label:literal) => { GaugeVec::new(Opts::new($name, $help), &[$label]) };
    (@make info, $name:expr, $help:expr, $label:literal = $value:expr) => {
        IntGaugeVec::new(Opts::new($name, $help), &[$label]).inspect(|series| series.with_label_values(&[$value]).set(1))
    };
    (@make histogram, $name:expr, $help:expr, $buckets:expr) => {
        Histogram::with_opts(HistogramOpts::new($name, $help).buckets($buckets.to_vec()))
    };
    (@make histogram_by, $name:expr, $help:expr, $buckets:expr, $label:literal = $values:expr) => {
        HistogramVec::new(HistogramOpts::new($name, $help).buckets($buckets.to_vec()), &[$label]).inspect(|series| {
            for value in $values { series.with_label_values(&[value]); }
        })
    };
}

metrics! {
    /// The version of this program, in the label; always 1.
    build_info: info("version" = env!("CARGO_PKG_VERSION")) "ezout_build_info";
    /// Time from a request's arrival to its answer, by route.
    http_request_seconds: histogram_by(SECONDS, "route" = ["publish", "send", "events", "basket", "baskets", "summary", "history", "explain", "corrections", "updates", "audit", "day", "shop", "handling", "seen", "me", "operations", "page", "other"]) "ezout_http_request_seconds";
    /// Events that came by HTTP, by what became of them.
    received_events: counter_by("outcome" = ["recorded", "duplicate", "conflict", "refused", "overloaded", "unavailable", "unknown"]) "ezout_received_events_total";
    /// Connections to the second address that are open.
    admin_connections: gauge() "ezout_admin_connections";
    /// Connections to the API that are open.
    http_connections: gauge() "ezout_http_connections";
    /// Connections to the API that may be open at once.
    http_connections_limit: gauge() "ezout_http_connections_limit";
    /// Appends answered, by what became of them.
    journal_appends: counter_by("outcome" = ["recorded", "duplicate", "conflict", "overloaded", "unavailable", "unknown", "full", "too_large"]) "ezout_journal_appends_total";
    /// Messages sent to the journal's stream, by way: one by one, or in an atomic batch; a retry counts again.
    journal_publishes: counter_by("way" = ["single", "batch"]) "ezout_journal_publishes_total";
    /// Events committed together in one atomic batch.
    journal_batch_events: histogram(EVENTS) "ezout_journal_batch_events";
    /// Time from the call of an append to its answer, whatever the answer.
    journal_append_seconds: histogram(SECONDS) "ezout_journal_append_seconds";
    /// Events that were accepted for a stream of the journal and are not answered yet.
    journal_waiting_events: gauge_by("stream") "ezout_journal_waiting_events";
    /// Events that may wait to be appended to a stream of the journal; one more is refused.
    journal_queue_limit: gauge_by("stream") "ezout_journal_queue_limit";
    /// Ids of recorded events that the writer of a stream remembers, to know a retry when it sees one.
    journal_known_ids: gauge_by("stream") "ezout_journal_known_ids";
    /// Atomic batches that the server refused since they held an event that was recorded before.
    journal_refused_batches: counter() "ezout_journal_refused_batches_total";
    /// Times that a reader of the journal opened its consumer again after an interruption.
    journal_reader_reopens: counter() "ezout_journal_reader_reopens_total";
    /// Whether the journal is open (1) or not reachable (0).
    journal_open: gauge() "ezout_journal_open";
    /// Ways in which the running journal is weaker than promised; 0 when it is as promised.
    journal_weaknesses: gauge() "ezout_journal_weaknesses";
    /// Partitions of the journal; 0 while it was never seen.
    journal_partitions: gauge() "ezout_journal_partitions";
    /// The last event in a stream of the journal, as this process has seen it within 15 s.
    journal_last_sequence: gauge_by("stream") "ezout_journal_last_sequence";
    /// When that event was recorded, in seconds since 1970.
    journal_last_recorded: gauge_by("stream") "ezout_journal_last_recorded_timestamp_seconds";
    /// Bytes of the journal on one server.
    journal_bytes: gauge() "ezout_journal_bytes";
    /// Whether a NATS server's monitoring address answers (1) or not (0), by its place in `EZOUT_NATS_MONITOR_URL`.
    nats_answers: gauge_by("server") "ezout_nats_answers";
    /// Bytes of all streams on the disk of a NATS server.
    nats_storage: gauge_by("server") "ezout_nats_storage_bytes";
    /// Bytes that all streams may have on the disk of a NATS server.
    nats_storage_limit: gauge_by("server") "ezout_nats_storage_limit_bytes";
    /// Bytes of memory of a NATS server.
    nats_memory: gauge_by("server") "ezout_nats_memory_bytes";
    /// Connections of clients to a NATS server.
    nats_connections: gauge_by("server") "ezout_nats_connections";
    /// Clients that a NATS server has cut off since it started, since they took what they asked for too slowly.
    nats_slow_consumers: gauge_by("server") "ezout_nats_slow_consumers";
    /// Whether MongoDB answers and its migrations are applied (1) or not (0).
    views_open: gauge() "ezout_views_open";
    /// Whether MongoDB tells this process about itself (1) or not (0), which takes a right that only figures need.
    mongodb_told: gauge() "ezout_mongodb_told";
    /// Connections to MongoDB's primary.
    mongodb_connections: gauge() "ezout_mongodb_connections";
    /// Connections that MongoDB's primary has room for, with those that are open.
    mongodb_connections_limit: gauge() "ezout_mongodb_connections_limit";
    /// Bytes in the cache of MongoDB's primary.
    mongodb_cache: gauge() "ezout_mongodb_cache_bytes";
    /// Bytes that the cache of MongoDB's primary may have.
    mongodb_cache_limit: gauge() "ezout_mongodb_cache_limit_bytes";
    /// Operations that wait for a lock at MongoDB's primary.
    mongodb_queue: gauge() "ezout_mongodb_waiting_operations";
    /// Bytes of the database on disk, with its indexes.
    mongodb_storage: gauge() "ezout_mongodb_storage_bytes";
    /// Bytes that are used of the disk of MongoDB's primary, by whatever is on it.
    mongodb_disk: gauge() "ezout_mongodb_disk_bytes";
    /// Bytes that the disk of MongoDB's primary has.
    mongodb_disk_limit: gauge() "ezout_mongodb_disk_limit_bytes";
    /// Time from the oldest to the newest change in MongoDB's oplog: who follows changes may be away for so long.
    mongodb_oplog: gauge() "ezout_mongodb_oplog_seconds";
    /// Events taken from the journal by the projector, by what became of them.
    projected_events: counter_by("outcome" = ["counted", "duplicate", "conflicting", "parked", "dropped"]) "ezout_projected_events_total";
    /// Baskets that were found to be abandoned, and said so to the journal by this process.
    abandonments: counter() "ezout_abandonments_total";
    /// Whether this process takes corrections (1) or another one does (0).
    corrections_led: gauge() "ezout_corrections_led";
    /// Corrections that the projector has taken from the journal, by where they come from. Those from edits by hand are as many as
    /// edits that were noted as published: one edit makes one event, and more of them here would say that healing a basket is taken for an edit.
    projected_corrections: counter_by("source" = ["edit", "other"]) "ezout_projected_corrections_total";
    /// Corrections that were noted as published, by where they came from: asked for by the API, or edited in the database.
    corrections: counter_by("source" = ["api", "database"]) "ezout_corrections_total";
    /// Corrections that were rejected after they had been taken, by the rule.
    rejected_corrections: counter_by("code" = REJECTIONS) "ezout_rejected_corrections_total";
    /// Corrections that were given to the journal, by whether it had them before. As many are recorded as are published, since each is one event.
    correction_events: counter_by("outcome" = ["recorded", "duplicate"]) "ezout_correction_events_total";
    /// Corrections that wait to be taken, counted up to 256.
    waiting_corrections: gauge() "ezout_waiting_corrections";
    /// Times that the stream of changes was lost, so that all baskets were compared with the journal.
    edits_lost: counter() "ezout_edits_lost_total";
    /// Shops whose edits by hand are not taken, since there were too many.
    held_shops: gauge() "ezout_held_shops";
    /// Events that the projector took together.
    projection_step_events: histogram(EVENTS) "ezout_projection_step_events";
    /// Time of the parts of a projection step.
    projection_step_seconds: histogram_by(SECONDS, "part" = ["load", "fold", "write", "publish", "checkpoint"]) "ezout_projection_step_seconds";
    /// Projection steps that failed on a store and are tried again.
    projection_retries: counter() "ezout_projection_retries_total";
    /// Time from an event's record in the journal to its update.
    projection_lag_seconds: histogram(SECONDS) "ezout_projection_lag_seconds";
    /// Events in the journal that are not in the views yet, by partition owned here.
    projection_lag_events: gauge_by("partition") "ezout_projection_lag_events";
    /// The newest event in the views, by partition owned here.
    projected_sequence: gauge_by("partition", "stream") "ezout_projected_sequence";
    /// When that event was recorded, in seconds since 1970, by partition owned here; 0 while there is none.
    projected_recorded: gauge_by("partition", "stream") "ezout_projected_recorded_timestamp_seconds";
    /// Baskets that the projector holds in memory.
    cached_baskets: gauge() "ezout_cached_baskets";
    /// Writes to a view that its guard refused, since somebody else had written.
    guarded_writes: counter() "ezout_guarded_writes_total";
    /// Parts of traces by what became of them: the collector has them, it did not take them, or too many waited for it.
    trace_spans: counter_by("outcome" = ["exported", "failed", "left_out"]) "ezout_trace_spans_total";
    /// Updates that were published.
    published_updates: counter() "ezout_published_updates_total";
    /// Updates that had been published before, seen on a take-over or after a retry.
    repeated_updates: counter() "ezout_repeated_updates_total";
    /// Callers who were not let in, by reason: at a route, at a resource of Resgate, or while they were connected.
    refusals: counter_by("reason" = TOKEN_REFUSALS.into_iter().chain(["no_token", "revoked", "unavailable", "role", "shop", "shopper"])) "ezout_refusals_total";
    /// Time from a revocation, by MongoDB's clock, to the end of what it ended, by door; of watchers of NATS also from when this process knew that a right had ended.
    revocation_seconds: histogram_by(SECONDS, "door" = DOORS) "ezout_revocation_seconds";
    /// Requests that were refused since somebody asked more often than they may, by who it is; `connection` is one of Resgate that gave tokens.
    limited_requests: counter_by("who" = ["address", "caller", "connection", "shop"]) "ezout_limited_requests_total";
    /// Connections that were closed, and live streams and watchers of NATS that were refused, since their address or their caller had as many as it may.
    limited_places: counter_by("place" = ["connection", "viewer", "watcher"]) "ezout_limited_places_total";
    /// When members and revocations were last read, in seconds since 1970; 0 if never, or if nobody is asked.
    rights_read: gauge() "ezout_rights_read_timestamp_seconds";
    /// Refusals that are not in the audit, since too many came at once.
    audit_left_out: counter() "ezout_audit_left_out_total";
    /// Connections of callers that were ended since they may not any more, by door.
    access_ends: counter_by("door" = DOORS) "ezout_access_ends_total";
    /// Watchers that this process has let in, who are connected to NATS themselves.
    nats_watchers: gauge() "ezout_nats_watchers";
    /// Requests of Resgate, by kind.
    res_requests: counter_by("kind" = ["access", "get", "call", "auth"]) "ezout_res_requests_total";
    /// Requests of Resgate that were passed on to the process that owns the shop.
    res_passed_requests: counter() "ezout_res_passed_requests_total";
    /// Events of resources that were told to Resgate.
    res_events: counter_by("event" = ["change", "add", "remove", "delete", "query", "update"]) "ezout_res_events_total";
    /// Times that Resgate was asked to ask again.
    res_resets: counter() "ezout_res_resets_total";
    /// Shops of which this process presents resources.
    res_shops: gauge() "ezout_res_shops";
    /// Time from when an update was stored until a browser's word came back that it is on the screen, of some updates.
    seen_seconds: histogram(SECONDS) "ezout_seen_seconds";
    /// Open baskets of a shop; of the shops in `EZOUT_SHOP_FIGURES`.
    shop_open_baskets: gauge_by("shop") "ezout_shop_open_baskets";
    /// What is in the open baskets of a shop, in its currency; of the shops in `EZOUT_SHOP_FIGURES`.
    shop_open_amount: amount_by("shop") "ezout_shop_open_amount";
    /// Open baskets of a shop whose totals differ; of the shops in `EZOUT_SHOP_FIGURES`.
    shop_diverged_baskets: gauge_by("shop") "ezout_shop_diverged_baskets";
    /// Baskets of a shop that were paid today, since midnight in UTC; of the shops in `EZOUT_SHOP_FIGURES`.
    shop_paid_baskets: gauge_by("shop") "ezout_shop_paid_baskets_today";
    /// What was paid in a shop today, since midnight in UTC, in its currency; of the shops in `EZOUT_SHOP_FIGURES`.
    shop_paid_amount: amount_by("shop") "ezout_shop_paid_amount_today";
    /// Viewers of live updates that are connected.
    live_viewers: gauge() "ezout_live_viewers";
    /// Viewers of live updates that may be connected at once.
    live_viewers_limit: gauge() "ezout_live_viewers_limit";
    /// Shops whose updates are followed for at least one viewer, or were until a moment ago.
    live_shops: gauge() "ezout_live_shops";
    /// Viewers that began, by whether they could go on where they had been, or why they had to begin with a snapshot.
    live_joins: counter_by("outcome" = ["recovered", "new", "aged_out", "unknown_place"]) "ezout_live_joins_total";
    /// Viewers that were sent away to come back, by reason.
    live_goodbyes: counter_by("reason" = ["stopping", "expired", "revoked", "denied", "lagging", "lost"]) "ezout_live_goodbyes_total";
    /// Updates that were handed to the connections of viewers, each viewer counted.
    live_sent_updates: counter() "ezout_live_sent_updates_total";
    /// Updates that a slow viewer was not sent since a newer one of the same basket was there.
    live_coalesced_updates: counter() "ezout_live_coalesced_updates_total";
    /// Time from an update's being stored to its being handed to the connection of a viewer that is up to date.
    live_delay_seconds: histogram(SECONDS) "ezout_live_delay_seconds";
    /// Times that a reader of the updates opened its consumer again after an interruption.
    live_reader_reopens: counter() "ezout_live_reader_reopens_total";
    /// Tokens that were checked, by what became of it: `accepted`, `remembered` where the same token was accepted before, or the reason to refuse it.
    token_checks: counter_by("outcome" = TOKEN_REFUSALS.into_iter().chain(["accepted", "remembered"])) "ezout_token_checks_total";
    /// Times that the keys of tokens were fetched from their issuer, by what came of it.
    key_fetches: counter_by("outcome" = ["fetched", "unreachable", "timed_out", "status", "too_large", "unreadable", "issuer"]) "ezout_key_fetches_total";
    /// Keys with which tokens may be signed; while it is 0 no token can be checked.
    keys: gauge() "ezout_keys";
    /// When the keys were last fetched, in seconds since 1970; 0 if never, or if they are those of this machine.
    keys_fetched: gauge() "ezout_keys_fetched_timestamp_seconds";
    /// Partitions that this process owns.
    leases_held: gauge() "ezout_leases_held";
    /// Changes of partition leases seen by this process.
    lease_changes: counter_by("change" = ["acquired", "lost", "released"]) "ezout_lease_changes_total";
    /// Partitions owned here that do not advance: halted because the journal is not the one they were folded from, or failing for long.
    halted_partitions: gauge() "ezout_halted_partitions";
    /// Events that wait among the parked events, in all partitions, counted up to 100,000.
    parked_events: gauge() "ezout_parked_events";
    /// Baskets whose view or last update is not what the journal says, as found by folding some anew; 0 when all is well.
    drift_baskets: gauge() "ezout_drift_baskets";
    /// Baskets that were folded anew and compared with their view.
    scrubbed_baskets: counter() "ezout_scrubbed_baskets_total";
    /// Baskets that were folded anew because somebody asked for it.
    refolded_baskets: counter() "ezout_refolded_baskets_total";
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, series: prometheus::Result<C>) -> C {
    let series = series.expect("names and labels of series are legal");
    registry
        .register(Box::new(series.clone()))
        .expect("each series is registered once");
    series
}

impl Metrics {
    /// The series in Prometheus's text format, with those of the process itself.
    pub fn text(&self) -> String {
        let mut families = self.registry.gather();
        families.extend(prometheus::gather());
        TextEncoder::new().encode_to_string(&families).unwrap_or_default()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_there_from_the_start_with_its_help() {
        let text = Metrics::new().text();
        assert!(
            text.contains("# HELP ezout_received_events_total Events that came by HTTP, by what became of them.\n")
        );
        assert!(text.contains("ezout_received_events_total{outcome=\"conflict\"} 0\n"));
        assert!(text.contains(concat!(
            "ezout_build_info{version=\"",
            env!("CARGO_PKG_VERSION"),
            "\"} 1\n"
        )));
        assert!(text.contains("ezout_journal_append_seconds_count 0\n"));
        assert!(text.contains("process_resident_memory_bytes"));
    }
}
