//! The `ezout` command: parse, log, run, and turn an error with its causes into one line.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use ezout::app::{self, Role};
use ezout::config::{Cli, Command, LogFormat, LogOptions, ServiceOptions};
use ezout::tools;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = start_logging(&cli.log).and_then(|()| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        runtime.block_on(run(cli.command))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tools::complain(&format!("ezout: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn start_logging(options: &LogOptions) -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_new(&options.filter).with_context(|| format!("EZOUT_LOG={:?} is no filter", options.filter))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match options.format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Dev { dev, service } => tools::dev::run(dev, service).await,
        Command::Serve(options) => serve(options, Role::Serve).await,
        Command::Api(options) => serve(options, Role::Api).await,
        Command::Project(options) => serve(options, Role::Project).await,
        Command::Correct(options) => serve(options, Role::Correct).await,
        Command::Migrate(args) => tools::migrate::run(args).await,
        Command::Doctor(args) => tools::doctor::run(args).await,
        Command::Member(args) => tools::member::run(args).await,
        Command::Shop(args) => tools::shop::run(args).await,
        Command::Revoke(args) => tools::revoke::run(args).await,
        Command::Parked(args) => tools::parked::run(args).await,
        Command::Corrections(args) => tools::corrections::run(args).await,
        Command::Rebuild(args) => tools::rebuild::run(args).await,
        Command::Replay(args) => tools::replay::run(args).await,
        Command::Tail(args) => tools::tail::run(args).await,
        Command::Backup(args) => tools::backup::run(args).await,
        Command::Restore(args) => tools::restore::run(args).await,
        Command::Trace(args) => tools::trace::run(args).await,
        Command::Token(args) => tools::token::run(&args),
        Command::Simulate(args) => tools::simulate::run(args).await,
    }
}

async fn serve(options: ServiceOptions, role: Role) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut signals = app::StopSignals::listen()?;
    let running = app::run(options, role, || tracing::info!("ready"), stop.clone());
    tokio::pin!(running);
    tokio::select! {
        ended = &mut running => return ended,
        () = signals.received() => stop.cancel(),
    }
    tokio::select! {
        ended = &mut running => ended,
        () = signals.received() => Ok(()),
    }
}
