//! `tcpdump` where the hosts are attached, seen from the outer side.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::sys::signal::Signal;

use crate::drill::capture::judge::Verdict;
use crate::drill::capture::{self, Evidence, LanCapture};
use crate::drill::plan::LOG_PORT;
use crate::drill::process::{Process, tail, words};
use crate::drill::site::{Site, Taps};

const START_TIMEOUT: Duration = Duration::from_secs(20);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// The kernel's capture buffer, in KiB: a live clone must not overrun it.
const BUFFER_KIB: &str = "65536";

/// Captures under way.
pub struct Captures {
    running: Vec<(Process, PathBuf)>,
    folder: PathBuf,
}

const LOG: &str = "log";
const LAN_PRIMARY: &str = "lan-primary";
const LAN_BACKUP: &str = "lan-backup";

impl Captures {
    /// Starts them, their files in `folder`, and waits until they listen.
    ///
    /// # Errors
    /// When `tcpdump` can't be started or does not listen in time.
    pub fn start(site: &dyn Site, folder: &Path) -> Result<Self> {
        let Taps {
            log_of_primary,
            lan_of_primary,
            lan_of_backup,
        } = site.taps();
        let port = format!("tcp port {LOG_PORT}");
        let mut captures = Captures {
            running: Vec::new(),
            folder: folder.into(),
        };
        captures.add(site, LOG, &log_of_primary, "inout", &port)?;
        captures.add(site, LAN_PRIMARY, &lan_of_primary, "in", "")?;
        captures.add(site, LAN_BACKUP, &lan_of_backup, "in", "")?;
        let start = Instant::now();
        for (process, said) in &mut captures.running {
            while !tail(said, 50).contains("listening on") {
                if let Some(status) = process.ended() {
                    bail!("tcpdump {}: {}", words(status), tail(said, 5));
                }
                if start.elapsed() > START_TIMEOUT {
                    bail!("tcpdump did not begin to listen: {}", tail(said, 5));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(captures)
    }

    fn add(
        &mut self,
        site: &dyn Site,
        name: &str,
        interface: &str,
        direction: &str,
        filter: &str,
    ) -> Result<()> {
        let file = self.file(name).display().to_string();
        let mut argv: Vec<String> = Vec::new();
        let words = [
            "tcpdump", "-n", "-i", interface, "-Q", direction, "-B", BUFFER_KIB, "-w",
        ];
        argv.extend(words.map(String::from));
        argv.push(file);
        let options = [
            "-U",
            "--immediate-mode",
            "--time-stamp-precision=nano",
            "-Z",
            "root",
        ];
        argv.extend(options.map(String::from));
        argv.extend((!filter.is_empty()).then(|| filter.to_owned()));
        let (out, said) = (self.folder.join(format!("{name}.out")), self.said(name));
        let process = Process::start(site.outside(&argv), "tcpdump", &out, &said)?;
        self.running.push((process, said));
        Ok(())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.pcap"))
    }

    fn said(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.tcpdump"))
    }

    /// Ends them; how many packets the kernel had to drop.
    pub fn stop(&mut self) -> u64 {
        let mut dropped = 0;
        for (process, said) in &mut self.running {
            process.signal(Signal::SIGINT);
            process.wait(STOP_TIMEOUT);
            process.stop();
            dropped += packets_dropped(&tail(said, 10));
        }
        self.running.clear();
        dropped
    }

    /// Judges what was captured.
    ///
    /// # Errors
    /// When the captures can't be understood.
    pub fn judge(
        &self,
        guest: std::net::IpAddr,
        alone_from_unix_ns: Vec<u64>,
        backup_won_unix_ns: Option<u64>,
    ) -> Result<Verdict, capture::CaptureError> {
        capture::judge(&Evidence {
            log: vec![self.file(LOG)],
            log_port: LOG_PORT,
            lan: vec![
                LanCapture {
                    path: self.file(LAN_PRIMARY),
                    of_primary: true,
                },
                LanCapture {
                    path: self.file(LAN_BACKUP),
                    of_primary: false,
                },
            ],
            guest,
            alone_from_unix_ns,
            backup_won_unix_ns,
        })
    }

    /// Removes the captures' files, which hold all of the guest's memory.
    pub fn remove(&self) {
        for name in [LOG, LAN_PRIMARY, LAN_BACKUP] {
            let _ = fs::remove_file(self.file(name));
        }
    }
}

/// From tcpdump's last words: "12 packets dropped by kernel".
fn packets_dropped(said: &str) -> u64 {
    let line = said.lines().find(|line| line.contains("dropped by kernel"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tcpdump_says_of_drops_is_read() {
        let said = "9 packets captured\n12 packets received by filter\n3 packets dropped by kernel";
        assert_eq!(packets_dropped(said), 3);
        assert_eq!(packets_dropped("tcpdump: no such device"), 0);
    }
}
