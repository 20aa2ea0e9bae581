//! The steps of a drill in which one side is killed.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::stage::{ClientStart, Stage};
use super::{After, DrillOptions, Join, conclude, now_unix_ns};
use crate::drill::plan::Role;
use crate::drill::report::Report;
use crate::drill::site::Site;

/// Conducts one drill; whatever goes wrong is in its report.
///
/// # Errors
/// When its folder can't be made.
pub fn drill(site: &mut dyn Site, options: &DrillOptions, number: u32) -> Result<Report> {
    let setting = &options.setting;
    let folder = setting.folder.join(format!("drill-{number}"));
    let title = format!("drill {number}/{}", options.count);
    let mut stage = Stage::new(site, setting, folder, title)?;
    if let Err(error) = all(&mut stage, options) {
        stage.tell(&format!("failed: {error:#}"));
        stage.evidence.failure = Some(format!("{error:#}"));
    }
    stage.end();
    if !stage.captures.is_empty() {
        stage.tell("judging the captures");
    }
    let alone_from = conclude::alone_from(options.kill, &stage.evidence);
    let verdict = stage
        .captures
        .first()
        .map(|captures| captures.judge(setting.guest.ip(), alone_from, None));
    let report = conclude::conclude(options, stage.site, number, &stage.evidence, verdict);
    if report.ok {
        stage.captures.iter().for_each(|captures| captures.remove());
    }
    stage.tell(if report.ok { "passed" } else { "did not pass" });
    Ok(report)
}

fn all(stage: &mut Stage<'_>, options: &DrillOptions) -> Result<()> {
    let setting = &options.setting;
    stage.power_on()?;
    let mut more = Vec::new();
    if options.join == Join::PowerOn {
        more.push("--wait-backup".into());
    }
    stage.start_daemon(Role::Primary, &more)?;
    if options.join != Join::Writing {
        stage.start_daemon(Role::Backup, &[])?;
    }
    stage.start_client(&ClientStart {
        script: match options.after {
            After::Time(time) => time,
            After::Writes(_) => setting.boot_timeout,
        },
        ..ClientStart::default()
    })?;
    let boot = Instant::now();
    stage.until("the guest to answer", boot, setting.boot_timeout, |stage| {
        stage.progress().is_some_and(|progress| progress.acked > 0)
    })?;
    if options.join == Join::Writing {
        stage.start_daemon(Role::Backup, &[])?;
    }
    stage.until(
        "the backup to protect the guest",
        boot,
        setting.boot_timeout,
        |stage| {
            stage.read_events();
            stage.evidence.events[Role::Primary as usize].is_protected()
        },
    )?;
    stage.mark("the guest is protected and the client writes");
    wait_after(stage, options)?;
    kill(stage, options)?;
    let killed = Instant::now();
    let survivor = options.kill.other();
    let wanted = if survivor == Role::Backup {
        "live"
    } else {
        "alone"
    };
    let text = format!("the {survivor} to go on ({wanted})");
    stage.until(&text, killed, setting.takeover_timeout, |stage| {
        stage.read_events();
        stage.evidence.events[survivor as usize]
            .first(wanted)
            .is_some()
    })?;
    // Writes were acknowledged up to the kill, after the last look: only from here on do new
    // ones come from the survivor.
    let acked = stage.progress().map_or(0, |progress| progress.acked);
    stage.until(
        "an answer to the client",
        killed,
        setting.takeover_timeout,
        |stage| {
            stage
                .progress()
                .is_some_and(|progress| progress.acked > acked)
        },
    )?;
    stage.wait(setting.tail)?;
    stage.finish_client()?;
    let offset = stage.site.clock_offset(survivor)?;
    stage.evidence.clocks[survivor as usize].compared(offset);
    Ok(())
}

fn wait_after(stage: &mut Stage<'_>, options: &DrillOptions) -> Result<()> {
    match options.after {
        After::Time(time) => stage.wait(time),
        After::Writes(writes) => {
            let before = stage.progress().map_or(0, |progress| progress.acked);
            let text = format!("{writes} acknowledged writes");
            let timeout: Duration = options.setting.boot_timeout;
            stage.until(&text, Instant::now(), timeout, |stage| {
                stage
                    .progress()
                    .is_some_and(|progress| progress.acked >= before + writes)
            })
        }
    }
}

fn kill(stage: &mut Stage<'_>, options: &DrillOptions) -> Result<()> {
    let (role, how) = (options.kill, options.signal);
    let pid = stage.pid(role)?;
    // The clock of a host that loses its power can be compared only before.
    let offset = stage.site.clock_offset(role)?;
    stage.evidence.clocks[role as usize].compared(offset);
    stage.tell(&format!("{how} of the {role}"));
    stage.before_it();
    stage.may_end[role as usize] = true;
    let before = now_unix_ns();
    stage.site.kill(role, how, pid)?;
    let after = now_unix_ns();
    stage.evidence.killed_unix_ns = Some((before, after));
    stage.mark(&format!("{role} killed ({how})"));
    Ok(())
}
