//! The command line: commands, and the options of each module put together.
//!
//! Every option is a flag and an environment variable; it is documented where it is used, and the
//! README's table is compared with it by a test.

use clap::{Args, Parser, Subcommand};

use crate::core::event::ActionIdMeaning;
use crate::{access, admit, correct, http, journal, keys, live, project, tools, trace, views};

/// Checkout events from shoppers' phones: kept for ever, folded into baskets, live to merchants.
#[derive(Debug, Parser)]
#[command(name = "ezout", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How to log.
    #[command(flatten)]
    pub log: LogOptions,
}

/// How the process logs.
#[derive(Debug, Clone, Args)]
pub struct LogOptions {
    /// What to log: a level, or levels by module such as `info,ezout::project=debug`. Without it HTTP/2 does not warn of each client that breaks its rules.
    #[arg(
        long = "log",
        env = "EZOUT_LOG",
        default_value = "info,async_nats=warn,h2=error",
        global = true
    )]
    pub filter: String,
    /// How log lines look: for people, or one JSON object a line.
    #[arg(long = "log-format", env = "EZOUT_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, global = true)]
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start NATS, MongoDB and the whole service on this machine, to try it and to work on it.
    Dev {
        /// What only this command knows.
        #[command(flatten)]
        dev: tools::dev::Args,
        /// The service's options.
        #[command(flatten)]
        service: ServiceOptions,
    },
    /// Run the whole service in one process, with servers that exist.
    Serve(ServiceOptions),
    /// Run the HTTP API only.
    Api(ServiceOptions),
    /// Run a projector only; any number of them share the partitions.
    Project(ServiceOptions),
    /// Take corrections only: edits of baskets by hand become events. One process at a time does it, the others wait.
    Correct(ServiceOptions),
    /// Apply migrations/ to MongoDB, which every role does at its start, and bring back what was dropped by hand.
    Migrate(tools::migrate::Args),
    /// Check a deployment from outside in, and print the next command for each finding.
    Doctor(tools::doctor::Args),
    /// Say what people may do beyond what their token says.
    Member(tools::member::Args),
    /// Say what shops are called, and what their money and their time zone are.
    Shop(tools::shop::Args),
    /// Let tokens count no more.
    Revoke(tools::revoke::Args),
    /// Look at events that could not be applied, and decide about them.
    Parked(tools::parked::Args),
    /// Look at shops whose edits by hand are held, and take them again.
    Corrections(tools::corrections::Args),
    /// Fold the journal into new baskets beside those that are read, compare them, and switch.
    Rebuild(tools::rebuild::Args),
    /// Give out the events of a shop again, in their order.
    Replay(tools::replay::Args),
    /// Copy the journal, and what it cannot give back, into a folder while everything runs; or check such a copy.
    Backup(tools::backup::Args),
    /// Put a backup in place where there is no journal.
    Restore(tools::restore::Args),
    /// Print a shop's updates as they come.
    Tail(tools::tail::Args),
    /// Tell the life of one event: when it was sent, received, recorded, projected and published.
    Trace(tools::trace::Args),
    /// Make a token with the key pair of this machine, for a service that runs with `EZOUT_AUTH=dev`.
    Token(tools::token::Args),
    /// Let simulated shoppers shop, and measure.
    Simulate(tools::simulate::Args),
}

/// The options of the service, whatever its role.
#[derive(Debug, Clone, Args)]
pub struct ServiceOptions {
    /// The HTTP API's.
    #[command(flatten)]
    pub http: http::Config,
    /// The journal's.
    #[command(flatten)]
    pub journal: journal::Config,
    /// Those of access.
    #[command(flatten)]
    pub keys: keys::Config,
    /// Those of access.
    #[command(flatten)]
    pub access: access::Config,
    /// Those of watchers who connect to NATS themselves.
    #[command(flatten)]
    pub admit: admit::Config,
    /// The viewers'.
    #[command(flatten)]
    pub live: live::Config,
    /// The views'.
    #[command(flatten)]
    pub views: views::Config,
    /// The projector's.
    #[command(flatten)]
    pub project: project::Config,
    /// That of corrections.
    #[command(flatten)]
    pub correct: correct::Config,
    /// That of traces.
    #[command(flatten)]
    pub trace: trace::Config,
    /// What the app's `action_id` is: `number` of the action, `code` of its kind, or `auto` where it is not known. Baskets folded with one value are not those of another: `ezout rebuild --switch` after a change.
    #[arg(long = "action-id", env = "EZOUT_ACTION_ID", value_enum, default_value_t = ActionIdMeaning::Auto)]
    pub action_id: ActionIdMeaning,
}
