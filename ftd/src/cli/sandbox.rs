//! What a command that runs a guest may do once everything is open.

use clap::Args;
use nix::unistd::User;

use crate::sandbox::Sandbox;
use crate::sandbox::rights::user_named;

/// Options of the sandbox.
#[derive(Debug, Clone, Args)]
pub struct SandboxArgs {
    /// Once everything is open, be this user instead of root: disks, console and shared storage are
    /// all that it needs rights to.
    #[arg(long, value_name = "NAME", value_parser = user_named)]
    user: Option<User>,
    /// Leave the process all system calls. Usually any that ftd never makes ends it (seccomp).
    #[arg(long)]
    no_seccomp: bool,
}

impl SandboxArgs {
    /// What was asked for.
    pub fn sandbox(&self) -> Sandbox {
        Sandbox {
            seccomp: !self.no_seccomp,
            user: self.user.clone(),
            needed_later: Vec::new(),
            counts: false,
        }
    }
}
