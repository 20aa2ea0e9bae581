//! Only the system calls that ftd makes (seccomp(2)): any other ends the process, which says in its last line
//! which one it was. The other host takes over, as after any other death.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};

use super::calls::{ANY, FAMILIES, IOCTL_KINDS, IOCTLS};

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The rules make no program: a defect of ftd.
    #[error("cannot make the list of system calls")]
    Rules(#[from] BackendError),
    /// The kernel does not take it.
    #[error(
        "the kernel does not take the list of system calls (seccomp); --no-seccomp does without it"
    )]
    Kernel(#[source] seccompiler::Error),
    /// No handler.
    #[error("cannot handle SIGSYS")]
    Handler(#[source] std::io::Error),
}

/// Limits all threads of this process, those that it starts later included. For good.
///
/// # Errors
/// [`SeccompError`].
pub fn install() -> Result<(), SeccompError> {
    handle_traps().map_err(SeccompError::Handler)?;
    // The first one: with clone3 the kind of child could not be looked at, and where there is none, the C
    // library takes clone.
    let without_clone3 = SeccompFilter::new(
        [(libc::SYS_clone3, Vec::new())].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS as u32),
        TargetArch::x86_64,
    )?;
    for filter in [without_clone3, listed()?] {
        let program: BpfProgram = filter.try_into()?;
        apply_filter_all_threads(&program).map_err(SeccompError::Kernel)?;
    }
    Ok(())
}

fn listed() -> Result<SeccompFilter, BackendError> {
    let one =
        |condition: Result<SeccompCondition, BackendError>| -> Result<SeccompRule, BackendError> {
            SeccompRule::new(vec![condition?])
        };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ANY.iter().map(|call| (*call, Vec::new())).collect();
    // It is refused by the first filter, and must not be ended by this one.
    rules.insert(libc::SYS_clone3, Vec::new());
    let threads = libc::CLONE_THREAD as u64;
    let clone = one(SeccompCondition::new(0, Qword, MaskedEq(threads), threads))?;
    rules.insert(libc::SYS_clone, vec![clone]);
    // No memory becomes code.
    let exec = libc::PROT_EXEC as u64;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let data = one(SeccompCondition::new(2, Dword, MaskedEq(exec), 0))?;
        rules.insert(call, vec![data]);
    }
    let name = one(SeccompCondition::new(
        0,
        Dword,
        Eq,
        libc::PR_SET_NAME as u64,
    ))?;
    rules.insert(libc::SYS_prctl, vec![name]);
    // Signals to its own threads only.
    let pid = u64::from(std::process::id());
    let own = one(SeccompCondition::new(0, Dword, Eq, pid))?;
    rules.insert(libc::SYS_tgkill, vec![own]);
    let sockets = FAMILIES
        .iter()
        .map(|family| one(SeccompCondition::new(0, Dword, Eq, *family as u64)))
        .collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_socket, sockets);
    let kinds = IOCTL_KINDS
        .iter()
        .map(|kind| one(SeccompCondition::new(1, Dword, MaskedEq(0xff00), kind << 8)));
    let single = IOCTLS
        .iter()
        .map(|request| one(SeccompCondition::new(1, Dword, Eq, *request)));
    let ioctls = kinds.chain(single).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_ioctl, ioctls);
    SeccompFilter::new(
        rules,
        SeccompAction::Trap,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )
}

/// A test hook: makes a call that is not listed, and harmless (it asks for the execution domain).
#[allow(unsafe_code)]
pub fn break_the_rules() {
    // SAFETY: this argument only asks; no memory is touched.
    unsafe { libc::syscall(libc::SYS_personality, 0xffff_ffff_u64) };
}

/// Says which call it was, and lets the signal end the process.
#[allow(unsafe_code)]
extern "C" fn trapped(
    _signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Ordering::Relaxed) {
        // SAFETY: the kernel gives a valid siginfo_t to a handler that was set with SA_SIGINFO. For SIGSYS
        // si_syscall is an int behind si_call_addr, a pointer, at the union's start (sigaction(2)).
        let number = unsafe {
            let fields = info.cast::<u8>().add(SIGINFO_FIELDS + size_of::<usize>());
            fields.cast::<libc::c_int>().read_unaligned()
        };
        let mut line = Line::default();
        line.push(b"ERROR event=forbidden_syscall number=");
        line.push_number(number.unsigned_abs());
        line.push(
            b": ftd never makes this system call, so something else does in its name: ending at once. \
              (If it is a mistake, please report it; --no-seccomp goes without.)\n",
        );
        // SAFETY: the buffer is as long as it says.
        unsafe { libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.length) };
    }
    // SAFETY: both may be called in a signal handler (signal-safety(7)). The signal is blocked until this
    // handler returns, and then has its default action: the process' end.
    unsafe {
        libc::signal(libc::SIGSYS, libc::SIG_DFL);
        libc::raise(libc::SIGSYS);
    }
}

/// Where a siginfo_t's union begins, on 64 bits: behind three ints and their padding.
const SIGINFO_FIELDS: usize = 16;

#[allow(unsafe_code)]
fn handle_traps() -> std::io::Result<()> {
    // SAFETY: all zeros is a valid sigaction; the handler has the signature that SA_SIGINFO asks for, and
    // calls nothing that a handler must not. The pointers are valid for the call.
    let done = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = trapped as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut())
    };
    match done {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// A line made without an allocation, as a signal handler must.
struct Line {
    bytes: [u8; 300],
    length: usize,
}

impl Default for Line {
    fn default() -> Line {
        Line {
            bytes: [0; 300],
            length: 0,
        }
    }
}

impl Line {
    fn push(&mut self, text: &[u8]) {
        for byte in text {
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = *byte;
                self.length += 1;
            }
        }
    }

    fn push_number(&mut self, number: u32) {
        let mut power = 1_000_000_000;
        while power > 1 && number < power {
            power /= 10;
        }
        while power > 0 {
            self.push(&[b'0' + (number / power % 10) as u8]);
            power /= 10;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_makes_a_program() {
        let program: BpfProgram = listed().unwrap().try_into().unwrap();
        assert!(program.len() < 4096, "{}", program.len());
    }

    #[test]
    fn numbers_are_written_as_they_are() {
        for number in [0, 7, 10, 135, 4_294_967_295] {
            let mut line = Line::default();
            line.push_number(number);
            assert_eq!(line.bytes[..line.length], *number.to_string().as_bytes());
        }
        let mut line = Line::default();
        line.push(&[b'x'; 400]);
        assert_eq!(line.length, 300);
    }
}
