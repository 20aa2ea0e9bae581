//! The options of `ftd drill` and of the hidden `ftd ledger-client`.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::conduct::{self, After, DrillOptions, Join, Setting};
use super::ledger::{self, ClientOptions, Seed};
use super::plan::{Kill, REDIS_PORT, Role};
use super::process;
use super::report::kept::Kept;
use super::report::scenarios::Scenarios;
use super::report::{Summary, booklet, page, table, text};
use super::scenario::{self, Scenario};
use super::site::Site;
use super::site::disks::Disks;
use super::site::local::LocalSite;
use super::site::testbed::TestbedSite;

/// Options of `ftd drill`: start a pair and a client, kill a side, and see what was lost.
#[derive(Debug, Args)]
pub struct DrillArgs {
    /// The guest's disk image; the drill works on a copy. The guest runs Redis.
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// Conduct these scenarios instead of one kill: names with commas between them, or all.
    #[arg(long, value_name = "NAME[,NAME...]|all", value_delimiter = ',',
          conflicts_with_all = ["kill", "signal", "after", "after_writes", "join", "local"])]
    scenario: Vec<String>,
    /// With --scenario: take a side for lost after so much silence (their --detect-ms). An emulated host with one
    /// CPU is now and then silent for 300 ms by itself: for so long a snapshot of a thousand pages may take it.
    #[arg(long, value_name = "MS", default_value_t = 600, requires = "scenario",
          value_parser = clap::value_parser!(u32).range(20..=60_000))]
    detect_ms: u32,
    /// Who is killed.
    #[arg(long, value_enum, default_value_t = Role::Primary)]
    kill: Role,
    /// How: a signal to the daemon, or the power of its host.
    #[arg(long, value_enum, default_value_t = Kill::PowerCut)]
    signal: Kill,
    /// When: seconds after the guest is protected and the client writes.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 3.0,
        conflicts_with = "after_writes"
    )]
    after: f64,
    /// When: after so many more acknowledged writes.
    #[arg(long, value_name = "N")]
    after_writes: Option<u64>,
    /// When the backup joins.
    #[arg(long, value_enum, default_value_t = Join::Boot)]
    join: Join,
    /// So many drills, one after the other.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,
    /// On two namespaces of this host, instead of two emulated hosts of the testbed.
    #[arg(long, conflicts_with = "testbed")]
    local: bool,
    /// The testbed's command [default: scripts/testbed/testbed, here or in a folder above].
    #[arg(long, value_name = "FILE")]
    testbed: Option<PathBuf>,
    /// CPUs of each emulated host.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// How the daemons make positions (their --clock). With pmu the emulated hosts have a performance
    /// counter and virtual time, about ten times as slow as real time.
    #[arg(long, value_name = "NAME")]
    clock: Option<String>,
    /// Guest RAM in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    memory: u64,
    /// The guest's address on the drill's network.
    #[arg(long, value_name = "IP", default_value = "10.77.2.100")]
    guest: IpAddr,
    /// Connections of the client.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=256))]
    connections: u32,
    /// Requests under way on each connection.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    depth: u32,
    /// How long the client goes on writing after the fail-over, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    tail: f64,
    /// Give up a guest that isn't protected and answering after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0)]
    boot_timeout: f64,
    /// Give up a survivor that doesn't answer after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0)]
    takeover_timeout: f64,
    /// Don't capture: the output rule is then not judged.
    #[arg(long)]
    no_capture: bool,
    /// The program for daemons and client [default: this one].
    #[arg(long, value_name = "FILE", hide = true)]
    ftd: Option<PathBuf>,
    /// Keep logs, events and captures in this folder [default: a temporary one, kept on failure].
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// With --scenario and --folder: conduct what is missing there, after drills that were broken off.
    #[arg(long, requires = "scenario", requires = "folder")]
    resume: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    /// Write the report as a page with a timeline.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Further arguments for both daemons, after --.
    #[arg(last = true, value_name = "DAEMON ARGUMENTS")]
    daemon_args: Vec<String>,
}

impl DrillArgs {
    /// Conducts the drills and prints the report; whether all of them passed.
    ///
    /// # Errors
    /// When no drill can be conducted at all.
    pub fn run(&self) -> Result<bool> {
        process::catch_interrupts();
        let image = &self.image;
        if !image.is_file() {
            bail!("{}: no such image", image.display());
        }
        let seconds = |name: &str, value: f64| {
            Duration::try_from_secs_f64(value).with_context(|| format!("--{name} {value}"))
        };
        let temporary = self.folder.is_none();
        let folder = match &self.folder {
            Some(folder) => {
                std::fs::create_dir_all(folder)
                    .with_context(|| format!("cannot make {}", folder.display()))?;
                folder.clone()
            }
            // Not below /tmp: emulated hosts have one of their own.
            None => tempfile::Builder::new()
                .prefix("ftd-drill-")
                .tempdir_in("/var/tmp")
                .context("cannot make a folder in /var/tmp")?
                .keep(),
        };
        let folder = folder.canonicalize()?;
        if folder.join("drill-1").exists() {
            bail!("{} holds another drill", folder.display());
        }
        let ftd = match &self.ftd {
            Some(path) => path.canonicalize().context("--ftd")?,
            None => std::env::current_exe().context("where is ftd?")?,
        };
        let scenarios = scenario::find(&self.scenario)?;
        let setting = Setting {
            ftd: ftd.clone(),
            connections: self.connections,
            depth: self.depth,
            guest: SocketAddr::new(self.guest, REDIS_PORT),
            memory_mib: self.memory,
            daemon_args: self.daemon_args(),
            folder: folder.clone(),
            boot_timeout: seconds("boot-timeout", self.boot_timeout)?,
            takeover_timeout: seconds("takeover-timeout", self.takeover_timeout)?,
            tail: seconds("tail", self.tail)?,
            capture: !self.no_capture,
        };
        let options = DrillOptions {
            setting,
            kill: self.kill,
            signal: self.signal,
            after: match self.after_writes {
                Some(writes) => After::Writes(writes),
                None => After::Time(seconds("after", self.after)?),
            },
            join: self.join,
            count: self.count,
        };
        let disks = Disks::new(image, &folder, &ftd);
        let passed = {
            let mut site = self.site(disks.clone(), &folder)?;
            match scenarios.is_empty() {
                true => conduct::conduct(site.as_mut(), &options).and_then(|sums| self.show(&sums)),
                false => self.scenarios(site.as_mut(), &options.setting, &scenarios),
            }
        };
        for disk in [&disks.image, &disks.shared] {
            let _ = std::fs::remove_file(disk);
        }
        let passed = passed?;
        if temporary && passed {
            let _ = std::fs::remove_dir_all(&folder);
        } else {
            eprintln!("logs, events and captures are in {}", folder.display());
        }
        Ok(passed)
    }

    /// Conducts scenarios; each run is kept in the folder as soon as it is over.
    fn scenarios(
        &self,
        site: &mut dyn Site,
        setting: &Setting,
        scenarios: &[Scenario],
    ) -> Result<bool> {
        let mut kept = Kept::open(&setting.folder, self.resume)?;
        conduct::scenarios(site, setting, scenarios, self.count, &mut kept)?;
        let sums = Scenarios::of(kept.runs());
        self.page(|| booklet::render(kept.runs()))?;
        self.print(&table::render(&sums), &sums)?;
        Ok(sums.ok)
    }

    /// Whether the hosts are emulated with a performance counter.
    fn counts(&self) -> bool {
        !self.local && self.clock.as_deref() == Some("pmu")
    }

    fn daemon_args(&self) -> Vec<String> {
        let mut all = self.daemon_args.clone();
        if !self.scenario.is_empty() {
            all.extend(["--detect-ms".to_owned(), self.detect_ms.to_string()]);
        }
        if let Some(clock) = &self.clock {
            all.extend(["--clock".to_owned(), clock.clone()]);
        }
        // Each host's time goes by what it has to do: an idle one's runs ahead of a busy one's.
        if self.counts() && !all.iter().any(|arg| arg.starts_with("--detect-ms")) {
            all.extend(["--detect-ms", "5000"].map(str::to_owned));
        }
        all
    }

    fn site(&self, disks: Disks, folder: &Path) -> Result<Box<dyn Site>> {
        if self.local {
            return Ok(Box::new(LocalSite::new(disks)));
        }
        let testbed = match &self.testbed {
            Some(path) => path.clone(),
            None => TestbedSite::find(&std::env::current_dir()?).context(
                "no scripts/testbed/testbed here or above: name it with --testbed, or use --local",
            )?,
        };
        let mut site = TestbedSite::new(&testbed, self.cpus, disks, folder);
        site.counts(self.counts());
        Ok(Box::new(site))
    }

    fn show(&self, summary: &Summary) -> Result<bool> {
        self.page(|| page::render(summary))?;
        self.print(&text::render(summary), summary)?;
        Ok(summary.ok)
    }

    fn page(&self, render: impl FnOnce() -> String) -> Result<()> {
        match &self.report {
            Some(path) => std::fs::write(path, render())
                .with_context(|| format!("cannot write {}", path.display())),
            None => Ok(()),
        }
    }

    fn print(&self, text: &str, json: &impl serde::Serialize) -> Result<()> {
        if self.json {
            eprint!("{text}");
            println!("{}", serde_json::to_string(json)?);
        } else {
            print!("{text}");
        }
        Ok(())
    }
}

/// Options of `ftd ledger-client`: the client of a drill, by itself.
#[derive(Debug, Args)]
pub struct LedgerClientArgs {
    /// The Redis server.
    #[arg(long, value_name = "ADDR:PORT")]
    connect: SocketAddr,
    /// Write for so long at most.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    seconds: f64,
    /// So many writes at most.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    writes: u64,
    /// Connections, side by side.
    #[arg(long, value_name = "N", default_value_t = 1)]
    connections: u32,
    /// Requests under way on each connection.
    #[arg(long, value_name = "N", default_value_t = 1)]
    depth: u32,
    /// Least length of a value.
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    value_bytes: usize,
    /// Pause after each request.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pause_ms: u64,
    /// What values are derived from [default: from the time].
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// File of acknowledged writes; it must not exist.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// End the writing when this file appears.
    #[arg(long, value_name = "FILE")]
    stop_file: Option<PathBuf>,
    /// Begin the writing when this file appears.
    #[arg(long, value_name = "FILE")]
    start_file: Option<PathBuf>,
    /// Give this command before the writing, its words with blanks between them.
    #[arg(long, value_name = "COMMAND")]
    redis: Vec<String>,
    /// Wait so long for the first answer to PING.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    ready_seconds: f64,
    /// Take a connection for broken after so long without an answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0)]
    answer_seconds: f64,
    /// Tell the progress on standard error, a JSON object a line.
    #[arg(long)]
    progress: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

impl LedgerClientArgs {
    /// Writes, reads back and prints the report; whether nothing was wrong.
    ///
    /// # Errors
    /// When the server never answers or the ledger can't be kept.
    pub fn run(&self) -> Result<bool> {
        let seconds = |value: f64| Duration::try_from_secs_f64(value).context("a bad time");
        let mut options = ClientOptions {
            duration_max: seconds(self.seconds)?,
            writes_max: self.writes,
            connections: self.connections,
            depth: self.depth,
            value_bytes: self.value_bytes,
            pause: Duration::from_millis(self.pause_ms),
            ledger: self.ledger.clone(),
            stop_file: self.stop_file.clone(),
            start_file: self.start_file.clone(),
            redis: self.redis.clone(),
            ready_timeout: seconds(self.ready_seconds)?,
            answer_timeout: seconds(self.answer_seconds)?,
            progress: self.progress,
            ..ClientOptions::new(self.connect)
        };
        if let Some(seed) = self.seed {
            options.seed = Seed(seed);
        }
        let report = ledger::run_client(options)?;
        if self.json {
            println!("{}", serde_json::to_string(&report)?);
        } else {
            let (acked, lost) = (report.acked_writes, report.acked_lost);
            let (gap, broken) = (report.client_gap_ms, report.tcp_connections_broken);
            println!("acknowledged {acked}, lost {lost}, gap {gap:.0} ms, broken {broken}");
            report
                .findings
                .iter()
                .for_each(|finding| println!("{finding}"));
        }
        Ok(report.ok)
    }
}
