//! One drill: power on, start both sides and the client, kill one, see what the client lost.
//!
//! * [`stage`]: what every drill needs: daemons, client, captures, waiting.
//! * [`captures`]: `tcpdump` on the outer side, and the judge over what it wrote.
//! * [`evidence`]: what a drill finds out.
//! * [`run`]: a drill in which one side is killed; [`conclude`]: its report.
//! * [`play`]: a scenario, by its script; [`outcome`]: its report.

pub mod captures;
pub mod conclude;
pub mod evidence;
pub mod outcome;
pub mod play;
pub mod run;
pub mod stage;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::plan::{Kill, Role};
use super::process;
use super::report::kept::Kept;
use super::report::{Report, Summary, table};
use super::scenario::Scenario;
use super::site::Site;

/// When the kill comes, counted from the moment the guest is protected and the client writes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum After {
    /// After so much time.
    Time(Duration),
    /// After so many more acknowledged writes.
    Writes(u64),
}

/// When the backup joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Join {
    /// Before the guest's first instruction.
    PowerOn,
    /// While the guest boots, by live clone.
    Boot,
    /// Once the client writes, by live clone.
    Writing,
}

/// With what drills are conducted, whatever happens in them.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The `ftd` program, for both daemons and the client.
    pub ftd: PathBuf,
    /// The client's connections.
    pub connections: u32,
    /// Requests under way on each.
    pub depth: u32,
    /// The guest's Redis.
    pub guest: SocketAddr,
    /// Guest RAM in MiB.
    pub memory_mib: u64,
    /// Further arguments of both daemons.
    pub daemon_args: Vec<String>,
    /// Where a drill's files go: a folder for each.
    pub folder: PathBuf,
    /// Longest time from the start of the daemons to a protected guest that answers.
    pub boot_timeout: Duration,
    /// Longest time from the kill to an answer.
    pub takeover_timeout: Duration,
    /// How long the client goes on writing after that.
    pub tail: Duration,
    /// Whether the output rule is judged by captures.
    pub capture: bool,
}

/// What drill is wanted.
#[derive(Debug, Clone)]
pub struct DrillOptions {
    /// With what.
    pub setting: Setting,
    /// Who is killed.
    pub kill: Role,
    /// How.
    pub signal: Kill,
    /// When.
    pub after: After,
    /// When the backup joins.
    pub join: Join,
    /// How many drills, one after the other.
    pub count: u32,
}

/// Conducts `options.count` drills. A drill that fails is in the report and does not stop the ones
/// after it; an interrupt does.
///
/// # Errors
/// When a folder can't be made, or the drill is interrupted.
pub fn conduct(site: &mut dyn Site, options: &DrillOptions) -> Result<Summary> {
    let mut reports: Vec<Report> = Vec::new();
    for number in 1..=options.count {
        let report = run::drill(site, options, number)?;
        reports.push(report);
        if process::interrupted() {
            anyhow::bail!("interrupted");
        }
    }
    Ok(Summary::of(reports))
}

/// Conducts each scenario `count` times. A run that fails is among what comes back and does not stop the ones
/// after it; an interrupt does. Those that are in `kept` are not conducted again; the others are, and each is
/// there as soon as it is over.
///
/// # Errors
/// When a folder can't be made, a run can't be kept, or the drills are interrupted.
pub fn scenarios(
    site: &mut dyn Site,
    setting: &Setting,
    scenarios: &[Scenario],
    count: u32,
    kept: &mut Kept,
) -> Result<()> {
    let build = build(&setting.ftd)?;
    for number in 1..=count {
        for scenario in scenarios {
            if kept.has(&scenario.name, number) {
                continue;
            }
            if kept.goes_on() {
                // What is left of a run that was broken off.
                let _ = fs::remove_dir_all(play::folder(setting, scenario, number));
            }
            let mut run = play::play(site, setting, scenario, (number, count))?;
            if process::interrupted() {
                anyhow::bail!("interrupted");
            }
            run.build.clone_from(&build);
            eprint!("{}", table::run(&run));
            kept.add(run)?;
        }
    }
    Ok(())
}

/// What tells one build of the program from another.
fn build(program: &Path) -> Result<String> {
    let bytes = fs::read(program).with_context(|| program.display().to_string())?;
    Ok(blake3::hash(&bytes).to_hex()[..16].to_owned())
}

/// Now, in nanoseconds since 1970.
fn now_unix_ns() -> u64 {
    super::ledger::book::WallClock::start().start_unix_ns()
}
