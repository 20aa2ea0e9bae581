//! What is started with which arguments. **The one place that knows the daemon's flags.**

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where the logging channel listens on the primary.
pub const LOG_PORT: u16 = 7777;
/// The guest's Redis.
pub const REDIS_PORT: u16 = 6379;

/// One of the two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The side that runs the guest at first; on host 1.
    Primary,
    /// The side that replays; on host 2.
    Backup,
}

impl Role {
    /// The other one.
    pub fn other(self) -> Role {
        match self {
            Role::Primary => Role::Backup,
            Role::Backup => Role::Primary,
        }
    }

    /// Its name in messages and file names.
    pub fn name(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Backup => "backup",
        }
    }

    /// The number of its host, from 1.
    pub fn host(self) -> u8 {
        match self {
            Role::Primary => 1,
            Role::Backup => 2,
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// How a side is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kill {
    /// SIGKILL to the daemon; its host's kernel lives on.
    #[value(name = "KILL", alias = "kill")]
    Kill,
    /// SIGTERM to the daemon.
    #[value(name = "TERM", alias = "term")]
    Term,
    /// The whole host, at once.
    PowerCut,
}

impl std::fmt::Display for Kill {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Kill::Kill => "SIGKILL",
            Kill::Term => "SIGTERM",
            Kill::PowerCut => "power cut",
        })
    }
}

/// What a daemon is to use on its host.
#[derive(Debug, Clone)]
pub struct Daemon {
    /// The `ftd` program.
    pub ftd: PathBuf,
    /// Which side it is.
    pub role: Role,
    /// The guest's disk, as its host names it.
    pub image: PathBuf,
    /// The shared storage of the arbiter, as its host names it.
    pub shared: PathBuf,
    /// The primary's address on the log network.
    pub log_address: String,
    /// The bridge that leads to the guest's network.
    pub bridge: String,
    /// Where it writes its event log.
    pub events: PathBuf,
    /// Guest RAM in MiB.
    pub memory_mib: u64,
    /// Further arguments, as the person gave them.
    pub extra: Vec<String>,
}

impl Daemon {
    /// Its command line, the program first.
    pub fn argv(&self) -> Vec<String> {
        let path = |path: &PathBuf| path.display().to_string();
        let mut argv = vec![path(&self.ftd), self.role.name().into()];
        let log = format!("{}:{LOG_PORT}", self.log_address);
        match self.role {
            Role::Primary => argv.extend(["--listen".into(), log]),
            Role::Backup => argv.extend(["--log-from".into(), log]),
        }
        // The judges read the logging channel, so it must not be encrypted.
        argv.push("--insecure-channel".into());
        argv.extend(["--image".into(), path(&self.image)]);
        argv.extend(["--shared".into(), path(&self.shared)]);
        let slot = match self.role {
            Role::Primary => "0",
            Role::Backup => "1",
        };
        argv.extend(["--slot".into(), slot.into()]);
        argv.extend(["--bridge".into(), self.bridge.clone()]);
        argv.extend(["--memory".into(), self.memory_mib.to_string()]);
        argv.extend(["--events".into(), path(&self.events)]);
        argv.extend(["--console".into(), "none".into()]);
        argv.extend(self.extra.iter().cloned());
        argv
    }
}

/// Arguments with those of `by` in place of their own: a flag is given once.
pub fn overridden(arguments: &[String], by: &[String]) -> Vec<String> {
    let given = |word: &String| by.contains(word) && word.starts_with("--");
    let mut all = Vec::new();
    let mut words = arguments.iter().peekable();
    while let Some(word) = words.next() {
        let name = word.split_once('=').map(|(name, _)| name.to_owned());
        if name.is_some_and(|name| given(&name)) {
            continue;
        }
        if given(word) {
            words.next_if(|value| !value.starts_with("--"));
            continue;
        }
        all.push(word.clone());
    }
    all.extend_from_slice(by);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_that_is_given_again_is_given_once() {
        let words =
            |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
        let base = words("--detect-ms 200 --wait-backup --lag-ms=50 --clock exit");
        let by = words("--lag-ms 70 --detect-ms 1000");
        let expected = words("--wait-backup --clock exit --lag-ms 70 --detect-ms 1000");
        assert_eq!(overridden(&base, &by), expected);
        assert_eq!(overridden(&base, &[]), base);
    }

    #[test]
    fn a_backup_is_told_where_the_log_comes_from() {
        let daemon = Daemon {
            ftd: "/usr/bin/ftd".into(),
            role: Role::Backup,
            image: "/dev/vda".into(),
            shared: "/dev/vdb".into(),
            log_address: "10.77.1.1".into(),
            bridge: "br0".into(),
            events: "/srv/run/backup.events".into(),
            memory_mib: 512,
            extra: vec!["--detect-ms".into(), "200".into()],
        };
        let line = daemon.argv().join(" ");
        assert!(
            line.starts_with("/usr/bin/ftd backup --log-from 10.77.1.1:7777 "),
            "{line}"
        );
        assert!(line.ends_with("--detect-ms 200"), "{line}");
    }
}
