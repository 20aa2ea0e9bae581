//! A primary and a backup on this machine, with the arbiter in a directory if nothing else is said.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::Value;

use crate::control;
use crate::guests::text;
use crate::program::{Running, ftd, start_saying, wait_for};

/// One side, with the files it writes.
#[derive(Debug)]
pub struct Side {
    /// The process.
    pub running: Running,
    /// What the guest printed while it was live here.
    pub console: PathBuf,
    /// Events, one a line.
    pub events: PathBuf,
    /// Where it can be asked.
    pub control: PathBuf,
}

impl Side {
    /// The event of that name, once it is there.
    #[track_caller]
    pub fn wait_for_event(&mut self, name: &str) -> Value {
        let Side {
            running, events, ..
        } = self;
        wait_for(name, || {
            assert!(running.is_running(), "{}", running.stderr());
            event(events, name)
        })
    }

    /// The event of that name, if it is there.
    pub fn event(&self, name: &str) -> Option<Value> {
        event(&self.events, name)
    }

    /// All events of that name.
    pub fn all_events(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.events).unwrap_or_default();
        let events = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        events
            .filter(|event: &Value| event["event"] == name)
            .collect()
    }

    /// The status, once it is like that.
    #[track_caller]
    pub fn wait_for_status(&mut self, what: &str, like: impl Fn(&Value) -> bool) -> Value {
        let Side {
            running, control, ..
        } = self;
        wait_for(what, || {
            assert!(running.is_running(), "{}", running.stderr());
            control::status(control).filter(|status| like(status))
        })
    }

    /// What the guest has printed here.
    pub fn printed(&self) -> String {
        std::fs::read_to_string(&self.console).unwrap_or_default()
    }
}

fn event(events: &Path, name: &str) -> Option<Value> {
    let text = std::fs::read_to_string(events).ok()?;
    text.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|event| event["event"] == name)
}

/// Where nobody else listens: this process' own part of 127.0.0.0/8, and below the ports that the kernel hands out.
pub fn free_address() -> String {
    static PORT: AtomicU16 = AtomicU16::new(20_000);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let port = PORT.fetch_add(1, Ordering::Relaxed);
    format!("127.{}.{middle}.{low}:{port}", 1 + high % 100)
}

/// What the two sides of a pair share.
#[derive(Debug)]
pub struct Pair {
    directory: tempfile::TempDir,
    address: String,
    /// Options of the logging channel: the primary's, and a backup's.
    channel: [Vec<String>; 2],
    shared: String,
}

impl Pair {
    /// A new pair, of which nothing runs yet.
    pub fn new() -> Pair {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(directory.path().join("shared")).expect("a directory for the arbiter");
        let shared = text(&directory.path().join("shared"));
        let address = free_address();
        let channel = [Vec::new(), Vec::new()];
        Pair {
            directory,
            address,
            channel,
            shared,
        }
    }

    /// A new pair whose logging channel is encrypted.
    pub fn with_keys() -> Pair {
        let mut pair = Pair::new();
        pair.use_keys("keys", ["west", "east"]);
        pair
    }

    /// Has keys made in `out`, a directory of this pair's, for these hosts, and gives them to the sides that
    /// are started from here on.
    pub fn use_keys(&mut self, out: &str, hosts: [&str; 2]) {
        let out = self.directory.path().join(out);
        let out = text(&out);
        ftd([
            "keys", "--out", &out, "--host", hosts[0], "--host", hosts[1],
        ])
        .succeeded();
        self.channel = hosts.map(|host| vec!["--keys".to_owned(), format!("{out}/{host}.pem")]);
    }

    /// A new pair whose arbiter is somewhere else.
    pub fn sharing(shared: String) -> Pair {
        Pair {
            shared,
            ..Pair::new()
        }
    }

    /// The directory of everything that belongs to this pair.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts a primary that runs the tiny guest `kernel`.
    pub fn primary(&self, kernel: &str, more: &[&str]) -> Side {
        self.primary_saying("warn", kernel, more)
    }

    /// The same; `level` is that of [`start_saying`].
    pub fn primary_saying(&self, level: &str, kernel: &str, more: &[&str]) -> Side {
        self.primary_named("primary", level, kernel, more)
    }

    /// The same, with files of its own: for a second start.
    pub fn primary_named(&self, name: &str, level: &str, kernel: &str, more: &[&str]) -> Side {
        let mut arguments = vec!["primary", "--kernel", kernel, "--listen", &self.address];
        arguments.extend(self.channel[0].iter().map(String::as_str));
        arguments.extend(more);
        self.side(level, name, &arguments)
    }

    /// Starts a backup.
    pub fn backup(&self, name: &str, more: &[&str]) -> Side {
        self.backup_saying("warn", name, more)
    }

    /// A backup that was given no keys, whatever the pair has.
    pub fn backup_without_keys(&self, name: &str, more: &[&str]) -> Side {
        let mut arguments = vec!["backup", "--log-from", &self.address];
        arguments.extend(more);
        self.side("warn", name, &arguments)
    }

    /// Where the primary listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The same; `level` is that of [`start_saying`].
    pub fn backup_saying(&self, level: &str, name: &str, more: &[&str]) -> Side {
        let mut arguments = vec!["backup", "--log-from", &self.address];
        arguments.extend(self.channel[1].iter().map(String::as_str));
        arguments.extend(more);
        self.side(level, name, &arguments)
    }

    /// The same, of a primary elsewhere.
    pub fn backup_of(&self, name: &str, address: &str, more: &[&str]) -> Side {
        let mut arguments = vec!["backup", "--log-from", address];
        arguments.extend(more);
        self.side("warn", name, &arguments)
    }

    fn side(&self, level: &str, name: &str, arguments: &[&str]) -> Side {
        let at = |name: &str| self.directory.path().join(name);
        let (console, events) = (
            at(&format!("{name}.console")),
            at(&format!("{name}.events")),
        );
        let control = at(&format!("{name}.control"));
        let console_option = format!("file:{}", text(&console));
        let (events_option, control_option) = (text(&events), text(&control));
        let mut all = arguments.to_vec();
        all.extend(["--shared", &self.shared, "--events", &events_option]);
        all.extend(["--control", &control_option]);
        for (option, default) in [("--memory", "16"), ("--console", console_option.as_str())] {
            if !arguments.contains(&option) {
                all.extend([option, default]);
            }
        }
        Side {
            running: start_saying(level, all),
            console,
            events,
            control,
        }
    }
}

impl Default for Pair {
    fn default() -> Pair {
        Pair::new()
    }
}
