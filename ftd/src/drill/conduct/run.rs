//! The steps of a drill.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::captures::Captures;
use super::{After, DrillOptions, Join, conclude, now_unix_ns};
use crate::drill::events::Events;
use crate::drill::ledger::ClientReport;
use crate::drill::ledger::client::Progress;
use crate::drill::plan::{Daemon, Role};
use crate::drill::process::{Process, interrupted, tail, words};
use crate::drill::report::{Mark, Report};
use crate::drill::site::{ClockOffset, Site};

/// How long the client may take to drain and read everything back.
const CHECK_TIMEOUT: Duration = Duration::from_secs(180);
/// How often conditions are looked at.
const TICK: Duration = Duration::from_millis(20);
/// How often progress is told.
const TELL: Duration = Duration::from_secs(5);

/// All that a drill finds out; what is missing was not reached.
#[derive(Default)]
pub struct Evidence {
    /// When the drill began, in nanoseconds since 1970.
    pub started_unix_ns: u64,
    /// What the drill itself did, and when.
    pub marks: Vec<Mark>,
    /// Before and after the kill, in nanoseconds since 1970.
    pub killed_unix_ns: Option<(u64, u64)>,
    /// How many events each side had told before the kill.
    pub events_before_kill: [usize; 2],
    /// What the client reported.
    pub client: Option<ClientReport>,
    /// Event logs of primary and backup.
    pub events: [Events; 2],
    /// Their hosts' clocks.
    pub offsets: [ClockOffset; 2],
    /// Packets that the captures lack.
    pub capture_dropped: u64,
    /// Why the drill stopped before its end.
    pub failure: Option<String>,
}

impl Evidence {
    /// What a side told after the kill.
    pub fn after_kill(&self, role: Role) -> Events {
        let before = self.events_before_kill[role as usize];
        let none = self.killed_unix_ns.is_none();
        self.events[role as usize].from(if none { usize::MAX } else { before })
    }

    /// Whether the primary had a backup to the last: up to its own end, or that of the backup.
    pub fn protected_at_kill(&self, killed: Role) -> bool {
        let events = &self.events[Role::Primary as usize];
        match killed {
            Role::Primary => events.is_protected(),
            Role::Backup => {
                let before = self.events_before_kill[Role::Primary as usize];
                Events(events.0.get(..before).unwrap_or_default().to_vec()).is_protected()
            }
        }
    }
}

/// Conducts one drill; whatever goes wrong is in its report.
///
/// # Errors
/// When its folder can't be made.
pub fn drill(site: &mut dyn Site, options: &DrillOptions, number: u32) -> Result<Report> {
    let folder = options.folder.join(format!("drill-{number}"));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut steps = Steps {
        site,
        options,
        folder,
        number,
        start: Instant::now(),
        told: Instant::now(),
        evidence: Evidence {
            started_unix_ns: now_unix_ns(),
            ..Evidence::default()
        },
        daemons: [None, None],
        client: None,
        captures: None,
    };
    if let Err(error) = steps.all() {
        steps.tell(&format!("failed: {error:#}"));
        steps.evidence.failure = Some(format!("{error:#}"));
    }
    steps.end();
    if steps.captures.is_some() {
        steps.tell("judging the captures");
    }
    let alone_from = conclude::alone_from(options.kill, &steps.evidence);
    let captures = steps.captures.as_ref();
    let verdict = captures.map(|captures| captures.judge(options.guest.ip(), alone_from));
    let report = conclude::conclude(options, steps.site, number, &steps.evidence, verdict);
    if report.ok
        && let Some(captures) = &steps.captures
    {
        captures.remove();
    }
    steps.tell(if report.ok { "passed" } else { "did not pass" });
    Ok(report)
}

struct Steps<'a> {
    site: &'a mut dyn Site,
    options: &'a DrillOptions,
    folder: PathBuf,
    number: u32,
    start: Instant,
    told: Instant,
    evidence: Evidence,
    daemons: [Option<Process>; 2],
    client: Option<Process>,
    captures: Option<Captures>,
}

impl Steps<'_> {
    fn all(&mut self) -> Result<()> {
        let options = self.options;
        self.tell(&format!("power on: {}", self.site.describe()));
        self.site.prepare()?;
        self.mark("hosts are on");
        if options.capture {
            self.captures = Some(Captures::start(self.site, &self.folder)?);
        }
        self.start_daemon(Role::Primary)?;
        if options.join != Join::Writing {
            self.start_daemon(Role::Backup)?;
        }
        self.start_client()?;
        let boot = Instant::now();
        self.until("the guest to answer", boot, options.boot_timeout, |steps| {
            steps.progress().is_some_and(|progress| progress.acked > 0)
        })?;
        if options.join == Join::Writing {
            self.start_daemon(Role::Backup)?;
        }
        self.until(
            "the backup to protect the guest",
            boot,
            options.boot_timeout,
            |steps| {
                steps.read_events();
                steps.evidence.events[Role::Primary as usize].is_protected()
            },
        )?;
        self.mark("the guest is protected and the client writes");
        self.wait_after()?;
        self.kill()?;
        let killed = Instant::now();
        let survivor = options.kill.other();
        let wanted = if survivor == Role::Backup {
            "live"
        } else {
            "alone"
        };
        let text = format!("the {survivor} to go on ({wanted})");
        self.until(&text, killed, options.takeover_timeout, |steps| {
            steps.read_events();
            steps.evidence.events[survivor as usize]
                .first(wanted)
                .is_some()
        })?;
        // Writes were acknowledged up to the kill, after the last look: only from here on do new
        // ones come from the survivor.
        let acked = self.progress().map_or(0, |progress| progress.acked);
        self.until(
            "an answer to the client",
            killed,
            options.takeover_timeout,
            |steps| {
                steps
                    .progress()
                    .is_some_and(|progress| progress.acked > acked)
            },
        )?;
        let tail = Instant::now();
        while tail.elapsed() < options.tail {
            self.pause()?;
        }
        self.finish_client()?;
        self.evidence.offsets[survivor as usize] = self.site.clock_offset(survivor)?;
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn events_path(&self, role: Role) -> PathBuf {
        self.path(&format!("{role}.events"))
    }

    fn pid_path(&self, role: Role) -> PathBuf {
        self.path(&format!("{role}.pid"))
    }

    fn start_daemon(&mut self, role: Role) -> Result<()> {
        let (image, shared) = self.site.disks();
        let mut extra = self.options.daemon_args.clone();
        if role == Role::Primary && self.options.join == Join::PowerOn {
            extra.push("--wait-backup".into());
        }
        let daemon = Daemon {
            ftd: self.options.ftd.clone(),
            role,
            image,
            shared,
            log_address: self.site.log_address(Role::Primary),
            bridge: self.site.bridge(),
            events: self.events_path(role),
            memory_mib: self.options.memory_mib,
            extra,
        };
        let command = self
            .site
            .on_host(role, &daemon.argv(), &self.pid_path(role));
        let log = self.path(&format!("{role}.log"));
        let process = Process::start(
            command,
            role.name(),
            &self.path(&format!("{role}.out")),
            &log,
        )?;
        self.daemons[role as usize] = Some(process);
        self.mark(&format!("{role} started"));
        Ok(())
    }

    fn start_client(&mut self) -> Result<()> {
        let options = self.options;
        let limit = options.boot_timeout * 2 + options.takeover_timeout * 2 + options.tail;
        let limit = limit
            + match options.after {
                After::Time(time) => time,
                After::Writes(_) => options.boot_timeout,
            };
        let path = |name| self.path(name).display().to_string();
        let argv = vec![
            options.ftd.display().to_string(),
            "ledger-client".into(),
            format!("--connect={}", options.guest),
            format!("--connections={}", options.connections),
            format!("--depth={}", options.depth),
            format!("--seconds={}", limit.as_secs() + 1),
            format!("--ready-seconds={}", options.boot_timeout.as_secs() + 1),
            format!(
                "--answer-seconds={}",
                options.takeover_timeout.as_secs_f64()
            ),
            format!("--ledger={}", path("ledger")),
            format!("--stop-file={}", path("client.stop")),
            "--progress".into(),
            "--json".into(),
        ];
        let command = self.site.outside(&argv);
        let process = Process::start(
            command,
            "client",
            &self.path("client.json"),
            &self.path("client.log"),
        )?;
        self.client = Some(process);
        Ok(())
    }

    /// The client's last line of progress.
    fn progress(&self) -> Option<Progress> {
        let text = tail_bytes(&self.path("client.log"), 4096);
        text.lines()
            .rev()
            .find_map(|line| serde_json::from_str(line).ok())
    }

    fn wait_after(&mut self) -> Result<()> {
        let start = Instant::now();
        match self.options.after {
            After::Time(time) => {
                while start.elapsed() < time {
                    self.pause()?;
                    self.nobody_ended()?;
                }
                Ok(())
            }
            After::Writes(writes) => {
                let before = self.progress().map_or(0, |progress| progress.acked);
                let text = format!("{writes} acknowledged writes");
                self.until(&text, start, self.options.boot_timeout, |steps| {
                    steps
                        .progress()
                        .is_some_and(|progress| progress.acked >= before + writes)
                })
            }
        }
    }

    fn kill(&mut self) -> Result<()> {
        let (role, how) = (self.options.kill, self.options.signal);
        let pid_file = self.pid_path(role);
        let pid = fs::read_to_string(&pid_file)
            .with_context(|| format!("no pid of the {role} in {}", pid_file.display()))?;
        let pid = pid
            .trim()
            .parse()
            .with_context(|| format!("{pid:?} is no pid"))?;
        // The clock of a host that loses its power can be compared only before.
        self.evidence.offsets[role as usize] = self.site.clock_offset(role)?;
        self.tell(&format!("{how} of the {role}"));
        self.read_events();
        self.evidence.events_before_kill = [0, 1].map(|side| self.evidence.events[side].0.len());
        let before = now_unix_ns();
        self.site.kill(role, how, pid)?;
        let after = now_unix_ns();
        self.evidence.killed_unix_ns = Some((before, after));
        self.mark(&format!("{role} killed ({how})"));
        Ok(())
    }

    fn finish_client(&mut self) -> Result<()> {
        self.tell("reading back every acknowledged write");
        fs::write(self.path("client.stop"), "")?;
        let start = Instant::now();
        self.until("the client's report", start, CHECK_TIMEOUT, |steps| {
            steps
                .client
                .as_mut()
                .is_none_or(|client| client.ended().is_some())
        })?;
        let text = fs::read_to_string(self.path("client.json"))?;
        let report = serde_json::from_str(text.trim()).with_context(|| {
            format!("the client's report: {}", tail(&self.path("client.log"), 3))
        })?;
        self.evidence.client = Some(report);
        Ok(())
    }

    fn read_events(&mut self) {
        for role in [Role::Primary, Role::Backup] {
            self.evidence.events[role as usize] = Events::read(&self.events_path(role));
        }
    }

    /// Waits for a condition, and fails when time is up, the drill is interrupted, or somebody
    /// ended who shouldn't have.
    fn until(
        &mut self,
        what: &str,
        since: Instant,
        timeout: Duration,
        mut condition: impl FnMut(&mut Self) -> bool,
    ) -> Result<()> {
        while !condition(self) {
            self.nobody_ended()?;
            if since.elapsed() > timeout {
                bail!(
                    "waited {:.0} s in vain for {what}{}",
                    timeout.as_secs_f64(),
                    self.said()
                );
            }
            if self.told.elapsed() > TELL {
                let acked = self.progress().map_or(0, |progress| progress.acked);
                self.tell(&format!("waiting for {what}; writes acknowledged: {acked}"));
            }
            self.pause()?;
        }
        Ok(())
    }

    fn pause(&self) -> Result<()> {
        if interrupted() {
            bail!("interrupted");
        }
        std::thread::sleep(TICK);
        Ok(())
    }

    fn nobody_ended(&mut self) -> Result<()> {
        let killed = self.evidence.killed_unix_ns.map(|_| self.options.kill);
        for role in [Role::Primary, Role::Backup] {
            let process = self.daemons[role as usize]
                .as_mut()
                .filter(|_| killed != Some(role));
            if let Some(status) = process.and_then(Process::ended) {
                bail!("the {role} {}{}", words(status), self.said());
            }
        }
        if let Some(status) = self.client.as_mut().and_then(Process::ended)
            && !self.path("client.stop").exists()
        {
            let said = last_words(&self.path("client.log"));
            bail!("the client {}: {said}", words(status));
        }
        Ok(())
    }

    /// The last words of both daemons, for a message.
    fn said(&self) -> String {
        let mut text = String::new();
        for role in [Role::Primary, Role::Backup] {
            let said = tail(&self.path(&format!("{role}.log")), 8);
            if !said.is_empty() {
                text.push_str(&format!("\n--- {role}'s last words\n{said}"));
            }
        }
        text
    }

    /// Ends everything, gently first, and reads what is left to read.
    fn end(&mut self) {
        // To drain and then to ask in vain takes it one takeover's time each.
        let patience = self.options.takeover_timeout * 2 + Duration::from_secs(10);
        if self.evidence.client.is_none()
            && let Some(client) = &mut self.client
        {
            // A drill that failed on its way may still tell what the client saw.
            let _ = fs::write(self.folder.join("client.stop"), "");
            let patience = if interrupted() {
                Duration::ZERO
            } else {
                patience
            };
            client.wait(patience);
            let text = fs::read_to_string(self.folder.join("client.json")).unwrap_or_default();
            self.evidence.client = serde_json::from_str(text.trim()).ok();
        }
        self.client = None;
        if let Some(captures) = &mut self.captures {
            self.evidence.capture_dropped = captures.stop();
        }
        self.daemons = [None, None];
        self.read_events();
    }

    fn mark(&mut self, what: &str) {
        self.evidence.marks.push(Mark {
            t_unix_ns: now_unix_ns(),
            who: "drill".into(),
            what: what.into(),
        });
        self.tell(what);
    }

    fn tell(&mut self, what: &str) {
        self.told = Instant::now();
        let (number, count) = (self.number, self.options.count);
        eprintln!(
            "drill {number}/{count} {:7.1} s  {what}",
            self.start.elapsed().as_secs_f64()
        );
    }
}

/// The last bytes of a file as text.
fn tail_bytes(path: &Path, bytes: u64) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        Ok(text)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// The last line that is no progress.
fn last_words(path: &Path) -> String {
    let text = tail_bytes(path, 16_384);
    let line = text.lines().rev().find(|line| !line.starts_with('{'));
    line.unwrap_or("it said nothing").to_owned()
}
