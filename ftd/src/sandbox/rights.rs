//! Giving rights up once everything is open: root's powers but for the few that are needed later, and root
//! itself for a user of its own.
//!
//! What is needed later: CAP_NET_ADMIN brings the TAP up at go-live, CAP_PERFMON counts the branches of a copy
//! that is made then, CAP_SYS_NICE lets a clone's thread become less nice again. Root keeps CAP_DAC_OVERRIDE, since
//! a backup opens its image by name when it goes live, and the shared directory's files all the time. A user
//! that was asked for must have the rights to those: that is looked at here, not found out at go-live.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::unistd::{AccessFlags, User, faccessat, initgroups, setresgid, setresuid};

/// Numbers of capabilities (capability.h).
const CAP_DAC_OVERRIDE: u32 = 1;
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_NICE: u32 = 23;
const CAP_PERFMON: u32 = 38;
/// More than the last one.
const CAPS: u32 = 64;
/// _LINUX_CAPABILITY_VERSION_3.
const VERSION: u32 = 0x2008_0522;

/// Rights that can't be given up as was asked.
#[derive(Debug, thiserror::Error)]
pub enum RightsError {
    /// Only root can become another user.
    #[error(
        "--user {user} needs root to begin with: start ftd as root, or as {user} without --user"
    )]
    NotRoot {
        /// The user.
        user: String,
    },
    /// The kernel refuses.
    #[error("cannot {what}")]
    Failed {
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The user lacks a right that is needed later.
    #[error(
        "{user} may not read and write {}, which ftd opens again later: give {user} the right to it, or leave \
         --user out", .path.display()
    )]
    NoAccess {
        /// The user.
        user: String,
        /// The file or directory.
        path: PathBuf,
    },
}

fn failed(what: &'static str) -> impl Fn(Errno) -> RightsError {
    move |errno| RightsError::Failed {
        what,
        source: errno.into(),
    }
}

/// Gives up what is not needed any more, for good. To be called while this process has one thread: rights
/// are a thread's own, and those started later have the same.
///
/// # Errors
/// [`RightsError`].
pub fn give_up(
    user: Option<&User>,
    needed_later: &[PathBuf],
    counts: bool,
) -> Result<(), RightsError> {
    nix::sys::prctl::set_no_new_privs().map_err(failed("rule out new privileges"))?;
    let mut keep = bit(CAP_NET_ADMIN) | bit(CAP_PERFMON) | bit(CAP_SYS_NICE);
    if counts && counters_are_for_admins() {
        tracing::info!(
            "this process keeps CAP_SYS_ADMIN, without which this kernel counts no branches; with 'sysctl \
             kernel.perf_event_paranoid=2' it need not"
        );
        keep |= bit(CAP_SYS_ADMIN);
    }
    match user {
        None => keep |= bit(CAP_DAC_OVERRIDE),
        Some(user) => become_user(user)?,
    }
    let held = held().map_err(failed("read this process' capabilities"))?;
    hold(held & keep).map_err(failed("give capabilities up"))?;
    if let Some(user) = user {
        for path in needed_later {
            check_access(user, path)?;
        }
    }
    Ok(())
}

/// Debian's kernels have a level of perf_event_paranoid, their default, at which CAP_PERFMON is not enough.
fn counters_are_for_admins() -> bool {
    let level = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid");
    let level = level.ok().and_then(|level| level.trim().parse().ok());
    level.is_some_and(|level: i32| level > 2)
}

fn bit(capability: u32) -> u64 {
    1 << capability
}

fn become_user(user: &User) -> Result<(), RightsError> {
    if !nix::unistd::geteuid().is_root() {
        return match nix::unistd::geteuid() == user.uid {
            true => Ok(()),
            false => Err(RightsError::NotRoot {
                user: user.name.clone(),
            }),
        };
    }
    keep_capabilities().map_err(failed("keep capabilities beside another user"))?;
    let name = std::ffi::CString::new(user.name.as_str()).unwrap_or_default();
    initgroups(&name, user.gid).map_err(failed("take the user's groups"))?;
    setresgid(user.gid, user.gid, user.gid).map_err(failed("take the user's group"))?;
    setresuid(user.uid, user.uid, user.uid).map_err(failed("become the user"))?;
    // What /proc/self holds (pagemap, which a clone reads) would belong to root else.
    nix::sys::prctl::set_dumpable(true).map_err(failed("keep /proc/self readable"))
}

fn check_access(user: &User, path: &Path) -> Result<(), RightsError> {
    let wanted = match path.is_dir() {
        true => AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK,
        false => AccessFlags::R_OK | AccessFlags::W_OK,
    };
    faccessat(nix::fcntl::AT_FDCWD, path, wanted, AtFlags::AT_EACCESS).map_err(|_| {
        RightsError::NoAccess {
            user: user.name.clone(),
            path: path.to_owned(),
        }
    })
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// The lower and the upper half of the sets (capget(2)).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The capabilities that this thread may use.
#[allow(unsafe_code)]
fn held() -> nix::Result<u64> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut halves = [Half::default(); 2];
    // SAFETY: version 3 reads a header and writes two halves, which live through the call.
    let done = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, halves.as_mut_ptr()) };
    Errno::result(done)?;
    let [low, high] = halves.map(|half| u64::from(half.permitted));
    Ok(low | high << 32)
}

/// Makes these the capabilities of this thread, and of none that it could start.
#[allow(unsafe_code)]
fn hold(set: u64) -> nix::Result<()> {
    for capability in 0..CAPS {
        // SAFETY: plain numbers. Of capabilities that the kernel does not know, and without CAP_SETPCAP, it
        // refuses; no_new_privs makes the bounding set count for nothing anyway.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability as libc::c_ulong, 0, 0, 0) };
    }
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let half = |bits: u64| Half {
        effective: bits as u32,
        permitted: bits as u32,
        inheritable: 0,
    };
    let halves = [half(set), half(set >> 32)];
    // SAFETY: version 3 reads a header and two halves, which live through the call.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, halves.as_ptr()) };
    Errno::result(done).map(drop)
}

#[allow(unsafe_code)]
fn keep_capabilities() -> nix::Result<()> {
    // SAFETY: plain numbers.
    let done = unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1 as libc::c_ulong, 0, 0, 0) };
    Errno::result(done).map(drop)
}

/// The user of that name.
///
/// # Errors
/// There is none, for people.
pub fn user_named(name: &str) -> Result<User, String> {
    match User::from_name(name) {
        Ok(Some(user)) => Ok(user),
        Ok(None) => Err(format!("there is no user '{name}' on this host")),
        Err(errno) => Err(format!("cannot look for the user '{name}': {errno}")),
    }
}
