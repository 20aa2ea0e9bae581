//! What is left to this process once everything is open: whoever breaks out of the guest finds nothing more.
//!
//! * [`rights`]: root's powers, but for the few that are needed later.
//! * `calls`: the system calls that ftd makes.
//! * [`seccomp`]: no others.

mod calls;
pub mod rights;
pub mod seccomp;

use std::path::{Path, PathBuf};

use nix::unistd::User;
use vmm::clock::Clock;

use self::rights::RightsError;
use self::seccomp::SeccompError;

/// What a command wants of it.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// Whether other system calls than ftd's own end the process.
    pub seccomp: bool,
    /// Who to be once everything is open, if not root.
    pub user: Option<User>,
    /// Files and directories that are opened later.
    pub needed_later: Vec<PathBuf>,
    /// Whether a copy's branches are counted later.
    pub counts: bool,
}

impl Sandbox {
    /// The same; this path is opened later, too.
    pub fn needs(mut self, path: &Path) -> Sandbox {
        self.needed_later.push(path.to_owned());
        self
    }

    /// The same; the guest's positions are made by this clock.
    pub fn for_clock(mut self, clock: Clock) -> Sandbox {
        self.counts = clock == Clock::Pmu;
        self
    }

    /// To be called when what needs rights is open, and before a thread is started.
    ///
    /// # Errors
    /// [`RightsError`].
    pub fn give_rights_up(&self) -> Result<(), RightsError> {
        rights::give_up(self.user.as_ref(), &self.needed_later, self.counts)
    }

    /// To be called when everything is open: from here on this process can do only what ftd does.
    ///
    /// # Errors
    /// The kernel has no seccomp.
    pub fn close(&self) -> Result<(), SeccompError> {
        match self.seccomp {
            true => seccomp::install(),
            false => Ok(()),
        }
    }
}
