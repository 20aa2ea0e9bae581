//! Options of the control socket, and `ftd status`, which asks there.

use std::io::{IsTerminal, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::control::prometheus::prometheus;
use crate::control::table::table;
use crate::control::{Control, ControlOptions, client};
use crate::host::clock::realtime_ns;

/// How long --watch waits between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a command that runs a guest says of itself, and where.
#[derive(Debug, Clone, Args)]
pub struct ControlArgs {
    /// Make a Unix socket here that `ftd status` asks; it goes when ftd ends.
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Serve test hooks on the control socket.
    #[arg(long, hide = true, requires = "control")]
    pub debug_hooks: bool,
}

impl ControlArgs {
    /// Makes the socket, if one was asked for.
    pub fn open(&self) -> Result<Option<Control>> {
        let Some(path) = &self.control else {
            return Ok(None);
        };
        let debug_hooks = self.debug_hooks;
        Control::open(&ControlOptions { path, debug_hooks }).map(Some)
    }
}

/// Options of `ftd status`.
#[derive(Debug, Args)]
pub struct Options {
    /// The socket that the running ftd was told to make by the same option.
    #[arg(long, value_name = "PATH")]
    control: PathBuf,
    /// Print the answer as JSON, in a line; what is not known or does not apply is null.
    #[arg(long)]
    json: bool,
    /// Print the answer as Prometheus reads it; what is not known or does not apply is left out.
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    prometheus: bool,
    /// Look again each second, until that ftd ends.
    #[arg(long)]
    watch: bool,
}

/// Runs `ftd status`.
pub fn run(options: &Options) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let clear = options.watch && !options.json && out.is_terminal();
    loop {
        let (answer, report) = client::status(&options.control)?;
        if options.json {
            writeln!(out, "{answer}")?;
        } else if options.prometheus {
            write!(out, "{}", prometheus(&report))?;
        } else {
            let text = table(&report, realtime_ns() / 1_000_000);
            let (before, after) = match (clear, options.watch) {
                // To the corner, and nothing left of the last table.
                (true, _) => ("\x1b[H\x1b[J", ""),
                (false, true) => ("", "\n"),
                (false, false) => ("", ""),
            };
            write!(out, "{before}{text}{after}")?;
        }
        out.flush()?;
        if !options.watch {
            return Ok(());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
