//! What a service manager is told: sd_notify(3), in as much of it as ftd needs. Without a manager
//! (`NOTIFY_SOCKET` is not set) nothing happens.

use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

/// The manager that has started this process.
#[derive(Debug, Default)]
pub struct Service {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// It restarts a process that says nothing for so long.
    watchdog: Option<Duration>,
    /// When it was told last that this process is well, by the monotonic clock.
    well_at: u64,
    ready: bool,
    status: String,
}

impl Service {
    /// The one that the environment names (sd_notify(3), sd_watchdog_enabled(3)).
    pub fn from_environment() -> Service {
        let var = |name| std::env::var_os(name);
        let number = |name| var(name)?.to_str()?.parse::<u64>().ok();
        let pid = u64::from(std::process::id());
        let mine = number("WATCHDOG_PID").is_none_or(|other| other == pid);
        let watchdog = number("WATCHDOG_USEC").filter(|_| mine);
        Service::new(var("NOTIFY_SOCKET"), watchdog.map(Duration::from_micros))
    }

    /// One that listens at `address` and wants a word within each `watchdog`.
    fn new(address: Option<OsString>, watchdog: Option<Duration>) -> Service {
        let socket = address.and_then(|address| match open(&address) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!("cannot tell the service manager anything: {error}");
                None
            }
        });
        Service {
            watchdog: watchdog.filter(|limit| socket.is_some() && !limit.is_zero()),
            socket,
            ..Service::default()
        }
    }

    /// Whether there is one.
    pub fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// This process does its work from here on, and watching it begins.
    pub fn ready(&mut self, now_ns: u64) {
        if !std::mem::replace(&mut self.ready, true) {
            self.well_at = now_ns;
            self.say("READY=1");
        }
    }

    /// How it stands, in a line for people.
    pub fn status(&mut self, status: String) {
        if self.is_there() && self.status != status {
            self.say(&format!("STATUS={}", status.replace('\n', " ")));
            self.status = status;
        }
    }

    /// It is about to end.
    pub fn stopping(&mut self) {
        self.say("STOPPING=1");
    }

    /// To be called again and again, twice within the watchdog's time at least ([`Service::due_ns`]).
    pub fn turn(&mut self, now_ns: u64) {
        if self.due_ns().is_some_and(|due| now_ns >= due) {
            self.well_at = now_ns;
            self.say("WATCHDOG=1");
        }
    }

    /// When the next word is due, by the monotonic clock.
    pub fn due_ns(&self) -> Option<u64> {
        let half = u64::try_from(self.watchdog?.as_nanos() / 2).unwrap_or(u64::MAX);
        self.ready.then(|| self.well_at.saturating_add(half))
    }

    fn say(&self, what: &str) {
        if let Some((socket, to)) = &self.socket
            && let Err(error) = socket.send_to_addr(what.as_bytes(), to)
        {
            tracing::debug!("the service manager does not take '{what}': {error}");
        }
    }
}

fn open(address: &OsStr) -> std::io::Result<(UnixDatagram, SocketAddr)> {
    let address = match address.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(Path::new(address))?,
    };
    let socket = UnixDatagram::unbound()?;
    // The loop must not wait for a manager that hangs.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn heard(manager: &UnixDatagram) -> Vec<String> {
        let mut bytes = [0; 200];
        let mut all = Vec::new();
        while let Ok(count) = manager.recv(&mut bytes) {
            all.push(String::from_utf8_lossy(&bytes[..count]).into_owned());
        }
        all
    }

    #[test]
    fn a_manager_hears_each_thing_when_it_is_due() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let watchdog = Some(Duration::from_millis(10));
        let mut service = Service::new(Some(path.into()), watchdog);
        service.turn(50 * MS);
        assert_eq!(service.due_ns(), None, "not watched before it is ready");
        service.ready(100 * MS);
        service.ready(101 * MS);
        service.status("alone".to_owned());
        service.status("alone".to_owned());
        assert_eq!(service.due_ns(), Some(105 * MS));
        service.turn(104 * MS);
        service.turn(105 * MS);
        service.turn(106 * MS);
        service.status("two\nlines".to_owned());
        service.stopping();
        let all = [
            "READY=1",
            "STATUS=alone",
            "WATCHDOG=1",
            "STATUS=two lines",
            "STOPPING=1",
        ];
        assert_eq!(heard(&manager), all);
    }

    #[test]
    fn an_abstract_socket_will_do() {
        let name = format!("ftd-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        manager.set_nonblocking(true).unwrap();
        let mut service = Service::new(Some(format!("@{name}").into()), None);
        service.ready(1);
        service.turn(u64::MAX);
        assert_eq!(heard(&manager), ["READY=1"]);
    }

    #[test]
    fn without_a_manager_nothing_happens() {
        let mut service = Service::new(None, Some(Duration::from_millis(1)));
        service.ready(0);
        service.turn(u64::MAX);
        assert!(!service.is_there() && service.due_ns().is_none());
        // Nor with one that is gone.
        let mut service = Service::new(Some("/no/such/socket".into()), None);
        service.ready(0);
    }
}
