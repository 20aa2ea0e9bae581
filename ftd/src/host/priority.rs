//! Scheduling priority of threads that work beside the guest.

use std::io;

/// Makes the calling thread nicer (`nice(2)`: 0 is usual, 19 the nicest). On Linux a nice value
/// belongs to a thread, and those it starts inherit it.
///
/// # Errors
/// What setpriority(2) says; becoming nicer is always allowed.
#[allow(unsafe_code)]
pub fn be_nice(nice: i32) -> io::Result<()> {
    // SAFETY: takes and returns plain numbers, and touches no memory of ours. 0 is the caller.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nice_of_this_thread() -> String {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        // Field 19; the second one, in parentheses, may hold blanks (proc_pid_stat(5)).
        let behind_name = stat.rsplit(')').next().unwrap();
        behind_name.split_whitespace().nth(16).unwrap().to_owned()
    }

    #[test]
    fn only_the_calling_thread_changes() {
        let before = nice_of_this_thread();
        let other = std::thread::spawn(|| {
            be_nice(19).unwrap();
            nice_of_this_thread()
        });
        assert_eq!(other.join().unwrap(), "19");
        assert_eq!(nice_of_this_thread(), before);
    }
}
