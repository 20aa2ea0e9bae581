//! A scenario, by its script.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::outcome;
use super::stage::{ClientStart, Stage};
use super::{Setting, now_unix_ns};
use crate::drill::ledger::client::Progress;
use crate::drill::plan::{Kill, Role};
use crate::drill::process;
use crate::drill::report::scenarios::Run;
use crate::drill::scenario::fault::Fault;
use crate::drill::scenario::step::{Await, Step};
use crate::drill::scenario::{JoinWhen, Scenario};
use crate::drill::site::Site;

/// A host's own socket, on which its daemon answers.
const CONTROL: &str = "/run/ftd-drill.control";
/// How long answers that were under way may still come when there must be none.
const UNDER_WAY: Duration = Duration::from_secs(1);
/// How long the guest may say nothing while it must be steady.
const STEADY_GAP: Duration = Duration::from_secs(5);

/// Where the files of a scenario's `number`th run are.
pub fn folder(setting: &Setting, scenario: &Scenario, number: u32) -> PathBuf {
    setting.folder.join(format!("{}-{number}", scenario.name))
}

/// Conducts a scenario once, its files in its [`folder`]; whatever goes wrong is in what comes back.
///
/// # Errors
/// When its folder can't be made.
pub fn play(
    site: &mut dyn Site,
    setting: &Setting,
    scenario: &Scenario,
    (number, count): (u32, u32),
) -> Result<Run> {
    let name = &scenario.name;
    let folder = folder(setting, scenario, number);
    let mut stage = Stage::new(site, setting, folder, format!("{name} {number}/{count}"))?;
    let mut player = Player {
        scenario,
        home: Role::Primary,
        answers_before: 0,
    };
    if let Err(error) = player.all(&mut stage) {
        stage.tell(&format!("failed: {error:#}"));
        stage.evidence.failure = Some(format!("{error:#}"));
    }
    let relieved = stage.site.relieve();
    stage.end();
    if let Err(error) = relieved {
        let failure = &mut stage.evidence.failure;
        failure.get_or_insert(format!("what was done could not be undone: {error:#}"));
    }
    if !stage.captures.is_empty() {
        stage.tell("judging the captures");
    }
    let (alone_from, backup_won) = outcome::wins(&stage.evidence);
    let judged = stage
        .captures
        .iter()
        .map(|captures| captures.judge(setting.guest.ip(), alone_from.clone(), backup_won));
    let verdicts = judged.collect();
    let run = outcome::conclude(scenario, number, &stage.evidence, verdicts);
    if run.ok {
        stage.captures.iter().for_each(|captures| captures.remove());
    }
    stage.tell(if run.ok { "passed" } else { "did not pass" });
    Ok(run)
}

/// What `ftd failover --json` says, as far as it is needed.
#[derive(Deserialize)]
struct HandedOver {
    ok: bool,
    frames_lost: Option<u64>,
}

struct Player<'a> {
    scenario: &'a Scenario,
    /// Where the guest is live.
    home: Role,
    /// Answers that the client had before the last wait for one.
    answers_before: u64,
}

/// Answers that a client had, of any kind.
fn answers(progress: Option<Progress>) -> u64 {
    progress.map_or(0, |progress| progress.acked + progress.refused)
}

impl Player<'_> {
    fn all(&mut self, stage: &mut Stage<'_>) -> Result<()> {
        let setting = stage.setting;
        stage.site.storage(self.scenario.storage)?;
        stage.power_on()?;
        self.start(stage, Role::Primary)?;
        stage.start_client(&ClientStart {
            when_told: true,
            redis: self.scenario.redis.clone(),
            script: Duration::from_secs(120),
        })?;
        let boot = Instant::now();
        stage.until("the guest to answer", boot, setting.boot_timeout, |stage| {
            stage
                .progress()
                .is_some_and(|progress| progress.phase == "ready")
        })?;
        stage.mark("the guest answers");
        if self.scenario.join == JoinWhen::Load {
            stage.begin_writing()?;
            self.answer(stage, setting.takeover_timeout)?;
        }
        self.start(stage, Role::Backup)?;
        self.protected(stage)?;
        stage.begin_writing()?;
        self.answer(stage, setting.takeover_timeout)?;
        stage.mark("the guest is protected and the client writes");
        stage.wait(Duration::from_secs(3))?;
        self.compare_clocks(stage)?;
        // A busy host may have been taken for lost meanwhile, and have joined again.
        self.protected(stage)?;
        for step in &self.scenario.script {
            self.step(stage, step)?;
        }
        stage.finish_client()?;
        self.compare_clocks(stage)
    }

    fn start(&self, stage: &mut Stage<'_>, role: Role) -> Result<()> {
        let mut more = self.scenario.daemon_args.clone();
        more.extend(["--control", CONTROL].map(str::to_owned));
        stage.start_daemon(role, &more)
    }

    /// Compares the clocks of all hosts that are on.
    fn compare_clocks(&self, stage: &mut Stage<'_>) -> Result<()> {
        for role in [Role::Primary, Role::Backup] {
            if !stage.site.is_on(role) {
                continue;
            }
            let offset = stage.site.clock_offset(role)?;
            stage.evidence.clocks[role as usize].compared(offset);
        }
        Ok(())
    }

    fn step(&mut self, stage: &mut Stage<'_>, step: &Step) -> Result<()> {
        let setting = stage.setting;
        match *step {
            Step::Kill(role, how) => {
                let pid = stage.pid(role)?;
                let offset = stage.site.clock_offset(role)?;
                stage.evidence.clocks[role as usize].compared(offset);
                stage.may_end[role as usize] = true;
                act(stage, &format!("{role} killed ({how})"), |site, _| {
                    site.kill(role, how, pid)
                })?;
                if how == Kill::Kill {
                    self.wait_for_end(stage, role)?;
                }
                Ok(())
            }
            Step::KillBoth => {
                let pids = [stage.pid(Role::Primary)?, stage.pid(Role::Backup)?];
                stage.may_end = [true, true];
                act(stage, "both daemons killed (SIGKILL)", |site, _| {
                    site.kill_both(pids)
                })?;
                self.wait_for_end(stage, Role::Primary)?;
                self.wait_for_end(stage, Role::Backup)?;
                // The guest begins anew, and so does what is known of it.
                stage.capture()
            }
            Step::Start(role) => self.start(stage, role),
            Step::HandOver(role) => self.hand_over(stage, role),
            Step::Fault(fault) => {
                if let Fault::Cut { .. } = fault {
                    // The side that loses ends.
                    stage.may_end = [true, true];
                }
                act(stage, &fault.to_string(), |site, pid| {
                    site.fault(&fault, pid)
                })?;
                if let Fault::StepClock { side, .. } = fault {
                    stage.read_events();
                    let events = stage.evidence.events[side as usize].0.len();
                    let offset = stage.site.clock_offset(side)?;
                    stage.evidence.clocks[side as usize].set(events, offset);
                }
                Ok(())
            }
            Step::Until(Await::Protected) => self.protected(stage),
            Step::Until(Await::Answers) => self.answer(stage, setting.takeover_timeout),
            Step::Until(what) => self.until(stage, what),
            Step::Silent(time) => self.silent(stage, time),
            Step::Steady(time) => self.steady(stage, time),
            Step::Write(time) => stage.wait(time),
        }
    }

    fn wait_for_end(&self, stage: &mut Stage<'_>, role: Role) -> Result<()> {
        let text = format!("the {role}'s daemon to be gone");
        let limit = stage.setting.takeover_timeout;
        stage.until(&text, Instant::now(), limit, |stage| {
            let daemon = &mut stage.daemons[role as usize];
            daemon
                .as_mut()
                .is_none_or(|daemon| daemon.ended().is_some())
        })
    }

    fn hand_over(&mut self, stage: &mut Stage<'_>, role: Role) -> Result<()> {
        stage.may_end[role as usize] = true;
        let ftd = stage.setting.ftd.display().to_string();
        let words = [ftd.as_str(), "failover", "--control", CONTROL, "--json"];
        let argv: Vec<String> = words.map(str::to_owned).into();
        let pid_file = stage.path("failover.pid");
        let mut said = String::new();
        act(stage, &format!("ftd failover at the {role}"), |site, _| {
            said = process::output(&mut site.on_host(role, &argv, &pid_file))?;
            Ok(())
        })?;
        fs::write(stage.path("failover.json"), &said)?;
        let done: HandedOver =
            serde_json::from_str(said.trim()).with_context(|| format!("ftd failover: {said}"))?;
        if !done.ok || done.frames_lost != Some(0) {
            bail!("the hand-over was not as promised: {}", said.trim());
        }
        Ok(())
    }

    fn until(&mut self, stage: &mut Stage<'_>, what: Await) -> Result<()> {
        let limit = stage.setting.takeover_timeout;
        let text = what.to_string();
        let mut home = None;
        let gone_on = |stage: &mut Stage<'_>, role: Role| {
            let name = match role {
                Role::Primary => "alone",
                Role::Backup => "live",
            };
            stage.evidence.after_kill(role).first(name).is_some()
        };
        stage.until(&text, Instant::now(), limit, |stage| {
            stage.read_events();
            home = match what {
                Await::Live(role) | Await::Alone(role) => gone_on(stage, role).then_some(role),
                Await::OneGoesOn => [Role::Primary, Role::Backup]
                    .into_iter()
                    .find(|role| gone_on(stage, *role)),
                Await::Refused => {
                    let refused = stage
                        .progress()
                        .is_some_and(|progress| progress.refused > 0);
                    return refused;
                }
                Await::Protected | Await::Answers => return true,
            };
            home.is_some()
        })?;
        if let Some(home) = home {
            self.home = home;
            // What was acknowledged up to now may have come from the other side.
            self.answers_before = answers(stage.progress());
            let how = match home {
                Role::Primary => "the primary goes on",
                Role::Backup => "the backup is live",
            };
            stage.tell(how);
        }
        Ok(())
    }

    /// Until the client gets an answer, of whatever kind.
    fn answer(&mut self, stage: &mut Stage<'_>, limit: Duration) -> Result<()> {
        let before = self.answers_before.max(answers(stage.progress()));
        let text = Await::Answers.to_string();
        stage.until(&text, Instant::now(), limit, |stage| {
            answers(stage.progress()) > before
        })
    }

    fn protected(&mut self, stage: &mut Stage<'_>) -> Result<()> {
        let (limit, home) = (stage.setting.boot_timeout, self.home);
        let text = Await::Protected.to_string();
        stage.until(&text, Instant::now(), limit, |stage| {
            stage.is_protected(home)
        })?;
        stage.tell("protected");
        Ok(())
    }

    fn silent(&mut self, stage: &mut Stage<'_>, time: Duration) -> Result<()> {
        stage.wait(UNDER_WAY)?;
        let before = answers(stage.progress());
        let start = Instant::now();
        while start.elapsed() < time {
            stage.pause()?;
            stage.nobody_ended()?;
            let more = answers(stage.progress()) - before;
            if more > 0 {
                bail!("the client got {more} answers while nothing may go out");
            }
        }
        stage.mark("nothing went out so far");
        Ok(())
    }

    fn steady(&mut self, stage: &mut Stage<'_>, time: Duration) -> Result<()> {
        let start = Instant::now();
        let (mut had, mut since) = (answers(stage.progress()), Instant::now());
        while start.elapsed() < time {
            stage.pause()?;
            stage.nobody_ended()?;
            if !stage.is_protected(self.home) {
                bail!("the guest lost its protection{}", stage.said());
            }
            let now = answers(stage.progress());
            if now > had {
                (had, since) = (now, Instant::now());
            }
            if since.elapsed() > STEADY_GAP {
                bail!("the client got no answer for {} s", STEADY_GAP.as_secs());
            }
        }
        Ok(())
    }
}

/// Does something that is told in the timeline; what follows it counts as coming of it.
fn act(
    stage: &mut Stage<'_>,
    what: &str,
    doing: impl FnOnce(&mut dyn Site, &dyn Fn(Role) -> Result<u32>) -> Result<()>,
) -> Result<()> {
    stage.before_it();
    let pids = [Role::Primary, Role::Backup].map(|role| stage.pid(role));
    let pid = |role: Role| match &pids[role as usize] {
        Ok(pid) => Ok(*pid),
        Err(error) => bail!("{error:#}"),
    };
    let before = now_unix_ns();
    doing(&mut *stage.site, &pid)?;
    stage.evidence.done(before, now_unix_ns());
    stage.mark_at(before, what);
    Ok(())
}
