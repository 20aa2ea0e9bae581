//! What every drill needs: daemons, client and captures on their site, what they tell, and waiting for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::captures::Captures;
use super::evidence::Evidence;
use super::{Setting, now_unix_ns};
use crate::drill::events::Events;
use crate::drill::ledger::client::Progress;
use crate::drill::plan::{Daemon, Role, overridden};
use crate::drill::process::{Process, interrupted, tail, words};
use crate::drill::report::Mark;
use crate::drill::site::Site;

/// How long the client may take to drain and read everything back.
const CHECK_TIMEOUT: Duration = Duration::from_secs(180);
/// How often conditions are looked at.
const TICK: Duration = Duration::from_millis(20);
/// How often progress is told.
const TELL: Duration = Duration::from_secs(5);

/// How the client is to begin.
#[derive(Debug, Clone, Default)]
pub struct ClientStart {
    /// It writes only when it is told to.
    pub when_told: bool,
    /// Commands to Redis before the writing.
    pub redis: Vec<String>,
    /// How long it may have to go on, beyond the time-outs.
    pub script: Duration,
}

/// A drill under way.
pub struct Stage<'a> {
    /// Where.
    pub site: &'a mut dyn Site,
    /// With what.
    pub setting: &'a Setting,
    /// Its files.
    pub folder: PathBuf,
    /// What it is called in progress.
    pub title: String,
    start: Instant,
    told: Instant,
    /// What is known so far.
    pub evidence: Evidence,
    /// The daemons.
    pub daemons: [Option<Process>; 2],
    /// How often each was started.
    starts: [u32; 2],
    /// What each had told before it was started last.
    told_before: [usize; 2],
    /// Whose end is no surprise.
    pub may_end: [bool; 2],
    client: Option<Process>,
    /// Captures, one after the other; the last one may still run.
    pub captures: Vec<Captures>,
}

impl<'a> Stage<'a> {
    /// A drill with its files in `folder`.
    ///
    /// # Errors
    /// When the folder can't be made.
    pub fn new(
        site: &'a mut dyn Site,
        setting: &'a Setting,
        folder: PathBuf,
        title: String,
    ) -> Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Stage {
            site,
            setting,
            folder,
            title,
            start: Instant::now(),
            told: Instant::now(),
            evidence: Evidence {
                started_unix_ns: now_unix_ns(),
                ..Evidence::default()
            },
            daemons: [None, None],
            starts: [0, 0],
            told_before: [0, 0],
            may_end: [false, false],
            client: None,
            captures: Vec::new(),
        })
    }

    /// Hosts on, and captures, if they are wanted.
    ///
    /// # Errors
    /// When that can't be done.
    pub fn power_on(&mut self) -> Result<()> {
        self.tell(&format!("power on: {}", self.site.describe()));
        self.site.prepare()?;
        self.mark("hosts are on");
        self.capture()
    }

    /// Begins to capture, anew if it did already.
    ///
    /// # Errors
    /// When `tcpdump` can't be started.
    pub fn capture(&mut self) -> Result<()> {
        if !self.setting.capture {
            return Ok(());
        }
        if let Some(last) = self.captures.last_mut() {
            self.evidence.capture_dropped += last.stop();
        }
        let folder = self.path(&format!("captures-{}", self.captures.len() + 1));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let captures = Captures::start(self.site, &folder)?;
        self.captures.push(captures);
        Ok(())
    }

    /// A file of this drill.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn events_path(&self, role: Role) -> PathBuf {
        self.path(&format!("{role}.events"))
    }

    fn log_path(&self, role: Role) -> PathBuf {
        self.path(&format!("{role}-{}.log", self.starts[role as usize]))
    }

    fn pid_path(&self, role: Role) -> PathBuf {
        self.path(&format!("{role}-{}.pid", self.starts[role as usize]))
    }

    /// The pid of a side's daemon on its host.
    ///
    /// # Errors
    /// When it isn't known.
    pub fn pid(&self, role: Role) -> Result<u32> {
        let file = self.pid_path(role);
        let pid = fs::read_to_string(&file)
            .with_context(|| format!("no pid of the {role} in {}", file.display()))?;
        pid.trim()
            .parse()
            .with_context(|| format!("{pid:?} is no pid"))
    }

    /// Starts a side's daemon, with further arguments.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_daemon(&mut self, role: Role, more: &[String]) -> Result<()> {
        let (image, shared) = self.site.disks();
        let extra = overridden(&self.setting.daemon_args, more);
        let daemon = Daemon {
            ftd: self.setting.ftd.clone(),
            role,
            image,
            shared,
            log_address: self.site.log_address(Role::Primary),
            bridge: self.site.bridge(),
            events: self.events_path(role),
            memory_mib: self.setting.memory_mib,
            extra,
        };
        self.starts[role as usize] += 1;
        self.read_events();
        self.told_before[role as usize] = self.evidence.events[role as usize].0.len();
        let command = self
            .site
            .on_host(role, &daemon.argv(), &self.pid_path(role));
        let (log, out) = (self.log_path(role), self.path(&format!("{role}.out")));
        let process = Process::start(command, role.name(), &out, &log)?;
        self.daemons[role as usize] = Some(process);
        self.may_end[role as usize] = false;
        self.mark(&format!("{role} started"));
        Ok(())
    }

    /// Starts the client.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_client(&mut self, how: &ClientStart) -> Result<()> {
        let setting = self.setting;
        let limit = setting.boot_timeout * 2 + setting.takeover_timeout * 2 + setting.tail;
        let limit = limit + how.script;
        let path = |name| self.path(name).display().to_string();
        let mut argv = vec![
            setting.ftd.display().to_string(),
            "ledger-client".into(),
            format!("--connect={}", setting.guest),
            format!("--connections={}", setting.connections),
            format!("--depth={}", setting.depth),
            format!("--seconds={}", limit.as_secs() + 1),
            format!("--ready-seconds={}", setting.boot_timeout.as_secs() + 1),
            format!(
                "--answer-seconds={}",
                setting.takeover_timeout.as_secs_f64()
            ),
            format!("--ledger={}", path("ledger")),
            format!("--stop-file={}", path("client.stop")),
            "--progress".into(),
            "--json".into(),
        ];
        argv.extend(how.redis.iter().map(|command| format!("--redis={command}")));
        if how.when_told {
            argv.push(format!("--start-file={}", path("client.start")));
        }
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

    /// Tells a client that waits for it to begin.
    ///
    /// # Errors
    /// When its file can't be written.
    pub fn begin_writing(&self) -> Result<()> {
        Ok(fs::write(self.path("client.start"), "")?)
    }

    /// The client's last line of progress.
    pub fn progress(&self) -> Option<Progress> {
        let text = tail_bytes(&self.path("client.log"), 4096);
        text.lines()
            .rev()
            .find_map(|line| serde_json::from_str(line).ok())
    }

    /// Ends the writing, and waits for the client's report.
    ///
    /// # Errors
    /// When it gives none.
    pub fn finish_client(&mut self) -> Result<()> {
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

    /// Reads what the daemons have told so far.
    pub fn read_events(&mut self) {
        for role in [Role::Primary, Role::Backup] {
            self.evidence.events[role as usize] = Events::read(&self.events_path(role));
        }
    }

    /// Whether the guest that a side has is protected, by what its daemon has told.
    pub fn is_protected(&mut self, role: Role) -> bool {
        self.read_events();
        let told = &self.evidence.events[role as usize];
        told.from(self.told_before[role as usize]).is_protected()
    }

    /// Waits for a condition, and fails when time is up, the drill is interrupted, or somebody
    /// ended who shouldn't have.
    ///
    /// # Errors
    /// Just these.
    pub fn until(
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

    /// Time passes, and nobody ends who shouldn't.
    ///
    /// # Errors
    /// When somebody does, or the drill is interrupted.
    pub fn wait(&mut self, time: Duration) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < time {
            self.pause()?;
            self.nobody_ended()?;
        }
        Ok(())
    }

    /// What the daemons tell from here on comes after what is done next.
    pub fn before_it(&mut self) {
        self.read_events();
        self.evidence.events_before_kill = [0, 1].map(|side| self.evidence.events[side].0.len());
    }

    /// A moment, unless the drill is interrupted.
    ///
    /// # Errors
    /// When it is.
    pub fn pause(&self) -> Result<()> {
        if interrupted() {
            bail!("interrupted");
        }
        std::thread::sleep(TICK);
        Ok(())
    }

    /// Whether somebody ended who shouldn't have.
    ///
    /// # Errors
    /// If so.
    pub fn nobody_ended(&mut self) -> Result<()> {
        for role in [Role::Primary, Role::Backup] {
            let may_end = self.may_end[role as usize];
            let process = self.daemons[role as usize].as_mut().filter(|_| !may_end);
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
    pub fn said(&self) -> String {
        let mut text = String::new();
        for role in [Role::Primary, Role::Backup] {
            let said = tail(&self.log_path(role), 8);
            if !said.is_empty() {
                text.push_str(&format!("\n--- {role}'s last words\n{said}"));
            }
        }
        text
    }

    /// Ends everything, gently first, and reads what is left to read.
    pub fn end(&mut self) {
        // To drain and then to ask in vain takes it one takeover's time each.
        let patience = self.setting.takeover_timeout * 2 + Duration::from_secs(10);
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
        if let Some(last) = self.captures.last_mut() {
            self.evidence.capture_dropped += last.stop();
        }
        self.daemons = [None, None];
        self.read_events();
    }

    /// Notes what the drill did just now.
    pub fn mark(&mut self, what: &str) {
        self.mark_at(now_unix_ns(), what);
    }

    /// Notes what the drill did at that time, in nanoseconds since 1970.
    pub fn mark_at(&mut self, t_unix_ns: u64, what: &str) {
        self.evidence.marks.push(Mark {
            t_unix_ns,
            who: "drill".into(),
            what: what.into(),
        });
        self.tell(what);
    }

    /// Progress, for people.
    pub fn tell(&mut self, what: &str) {
        self.told = Instant::now();
        let (title, seconds) = (&self.title, self.start.elapsed().as_secs_f64());
        eprintln!("{title} {seconds:7.1} s  {what}");
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
