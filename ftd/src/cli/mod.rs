//! The command line: one module a command.
//!
//! * `channel`: how the logging channel is protected.
//! * `config`: a configuration file beside the flags.
//! * `options`, `pair_options`: flags that several commands share.
//! * `seat`: a host's place at the shared storage.
//!
//! Exit status: 0 when the command did what it was asked, 1 when it failed, 2 for a usage error, 3 when it
//! should be started again.

mod backup;
mod channel;
mod config;
mod control;
mod doctor;
mod failover;
mod format_shared;
mod keys;
mod options;
mod pair;
mod pair_options;
mod primary;
mod record;
mod replay_log;
mod run_alone;
mod sandbox;
mod seat;

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{CommandFactory, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

pub use options::GuestOptions;

use crate::drill::cli::{DrillArgs, LedgerClientArgs};

/// Fault tolerance for virtual machines: a guest runs on two hosts at once, and losing one of them
/// loses no acknowledged write, no packet a client has seen, and no TCP connection.
#[derive(Debug, Parser)]
#[command(name = "ftd", version, about)]
struct Cli {
    /// Say more (debug messages); FTD_LOG sets it finer.
    #[arg(short, long, global = true)]
    verbose: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a guest that backups can join.
    Primary(primary::Options),
    /// Join a primary, follow its guest, and take over when it is lost.
    Backup(backup::Options),
    /// Be a host of a pair: primary where nobody has the guest, else a backup of who has it.
    Pair(Box<pair::Options>),
    /// Examine this host: what ftd can do on it, and what is missing.
    Doctor(doctor::Options),
    /// Kill a side of a pair on purpose, and see what was lost: nothing.
    Drill(Box<DrillArgs>),
    /// The drill's client, which keeps a ledger of acknowledged writes.
    #[command(hide = true)]
    LedgerClient(LedgerClientArgs),
    /// Have a primary hand its guest to its backup, without a lost packet.
    Failover(failover::Options),
    /// Prepare a shared block device for the test-and-set.
    FormatShared(format_shared::Options),
    /// Make the keys by which the hosts of a pair know each other.
    Keys(keys::Options),
    /// Run a guest on this host alone, without a log.
    Run(run_alone::Options),
    /// Run a guest and write the log of its inputs to a file.
    Record(record::Options),
    /// Ask a running ftd how it stands.
    Status(control::Options),
    /// Run a guest again from its log, and check that it ends in the same state.
    Replay(replay_log::Options),
}

/// The command line can be parsed but makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// This process is done, and another should be started in its place (as systemd does by exit status
/// [`START_AGAIN`]).
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartAgain(pub String);

/// The report of a command says what failed already.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Reported(&'static str);

/// Exit status of [`StartAgain`].
const START_AGAIN: u8 = 3;

/// A failed drill has said so itself, but ftd must not end as if all were well.
fn verdict(passed: anyhow::Result<bool>) -> anyhow::Result<()> {
    if passed? {
        Ok(())
    } else {
        Err(Reported("the drill failed; its report says where").into())
    }
}

/// In the journal of systemd (systemd.exec(5), `JOURNAL_STREAM`) each line has its time already.
fn log_to_stderr(filter: EnvFilter) {
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false);
    match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => log.without_time().init(),
        None => log.init(),
    }
}

/// What a configuration file with this text says to `ftd pair`, as arguments of the command line.
///
/// # Errors
/// What is wrong with it, for people.
pub fn pair_arguments_of(text: &str) -> Result<Vec<OsString>, String> {
    static COMMAND: LazyLock<clap::Command> = LazyLock::new(Cli::command);
    let pair = COMMAND
        .find_subcommand("pair")
        .ok_or("there is no such command")?;
    config::arguments(pair, text)
}

/// Whether what a command with these arguments prints is for programs.
fn is_for_programs(arguments: &[OsString]) -> bool {
    arguments.iter().any(|argument| argument == "--json")
}

/// Says what failed, to people, and to a program that waits for JSON.
fn tell(error: &anyhow::Error, json: bool) {
    let _ = writeln!(std::io::stderr(), "ftd: {error:#}");
    if json && !error.is::<Reported>() {
        let answer = serde_json::json!({ "ok": false, "error": format!("{error:#}") });
        let _ = writeln!(std::io::stdout(), "{answer}");
    }
}

/// Parses the command line and carries it out.
pub fn main() -> ExitCode {
    crate::host::heap::give_freed_memory_back();
    let json = is_for_programs(&std::env::args_os().collect::<Vec<_>>());
    let cli = match config::expand(&Cli::command(), std::env::args_os().collect()) {
        Ok(arguments) => Cli::parse_from(arguments),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "ftd: {:#}", anyhow::Error::new(error));
            return ExitCode::from(2);
        }
    };
    let default = if cli.verbose {
        "ftd=debug,vmm=debug"
    } else {
        "ftd=info,vmm=info"
    };
    let filter = EnvFilter::try_from_env("FTD_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    log_to_stderr(filter);
    let done = match cli.command {
        Command::Primary(options) => primary::run(&options),
        Command::Backup(options) => backup::run(&options),
        Command::Pair(options) => pair::run(&options),
        Command::Doctor(options) => return doctor::run(&options),
        Command::Drill(options) => verdict(options.run()),
        Command::LedgerClient(options) => verdict(options.run()),
        Command::Failover(options) => failover::run(&options),
        Command::FormatShared(options) => format_shared::run(&options),
        Command::Keys(options) => keys::run(&options),
        Command::Run(options) => run_alone::run(&options),
        Command::Record(options) => record::run(&options),
        Command::Status(options) => control::run(&options),
        Command::Replay(options) => replay_log::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&error, json);
            if error.is::<UsageError>() {
                ExitCode::from(2)
            } else if error.is::<StartAgain>() {
                ExitCode::from(START_AGAIN)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}
