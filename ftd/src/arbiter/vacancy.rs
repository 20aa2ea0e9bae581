//! Whether nobody has the guest: what a primary finds out before it starts one.
//!
//! The last winner may be live on another host, or a backup of it may be about to take over. Both
//! show themselves on the shared storage, the one by its [`Sign`]s, the other by winning the next
//! generation; a host that cannot reach the storage lets nothing out (see the daemon). So whoever
//! neither sees for long enough may bid.

use std::time::Duration;

use super::sign::{SIGN_EVERY, Sign};
use super::{Arbiter, ArbiterError};

/// How long a holder that signs every [`SIGN_EVERY`] may be held up by a slow host or storage.
pub const SILENCE: Duration = Duration::from_secs(6);
/// Without a sign for so long, a holder without a backup must let nothing out: it is nearly
/// [`SILENCE`], after which another host may start the guest.
pub const LEASE: Duration = Duration::from_secs(4);
/// How often to look.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Why a guest must not be started.
#[derive(Debug, thiserror::Error)]
pub enum Occupied {
    /// It runs.
    #[error(
        "the guest runs on {host} already (generation {generation}): join it with 'ftd backup \
         --log-from {listen}' instead of starting it a second time"
    )]
    Lives {
        /// Where.
        host: String,
        /// The generation that was won there.
        generation: u64,
        /// Where backups join it, or what to put there.
        listen: String,
    },
    /// Another host has just won a generation.
    #[error(
        "another host has just taken the guest over (generation {generation}): join it with 'ftd \
         backup --log-from ADDRESS:PORT' instead of starting it a second time"
    )]
    Passed {
        /// The generation.
        generation: u64,
    },
    /// The shared storage can't be asked.
    #[error("cannot find out whether the guest runs already")]
    Unknown(#[from] ArbiterError),
}

impl Occupied {
    fn lives(sign: Sign) -> Occupied {
        let Sign {
            host,
            generation,
            listen,
            ..
        } = sign;
        let listen = match listen {
            Some(listen) => dialable(&listen, &host),
            None => format!("ADDRESS:PORT (it has no --listen; {host} must get one first)"),
        };
        Occupied::Lives {
            host,
            generation,
            listen,
        }
    }
}

/// Where to connect to who listens at `listen` on `host`. An address to listen on everywhere is none to connect to.
pub fn dialable(listen: &str, host: &str) -> String {
    let everywhere = ["0.0.0.0:", "[::]:"];
    let port = everywhere.iter().find_map(|any| listen.strip_prefix(any));
    port.map_or_else(|| listen.to_owned(), |port| format!("{host}:{port}"))
}

/// Waits until it is certain that nobody has the guest; the generation that is over then, 0 if
/// there was none. `wait` sleeps for as long as it is told first, and answers how long it has slept
/// in all; second, it is told for how long that may go on.
///
/// # Errors
/// [`Occupied`].
pub fn wait_until_vacant(
    arbiter: &mut dyn Arbiter,
    mut wait: impl FnMut(Duration, Duration) -> Duration,
) -> Result<u64, Occupied> {
    let generation = arbiter.current_generation()?;
    if generation == 0 {
        return Ok(0);
    }
    let first = arbiter.sign_of(generation)?;
    let patience = match judge(first.as_ref()) {
        Judged::Vacant => return Ok(generation),
        Judged::Lives(sign) => return Err(Occupied::lives(sign)),
        Judged::After(patience) => patience,
    };
    loop {
        let waited = wait(LOOK_EVERY, patience);
        if arbiter.is_superseded(generation)? {
            let generation = generation + 1;
            return Err(match arbiter.sign_of(generation)? {
                Some(sign) if !sign.ended => Occupied::lives(sign),
                _ => Occupied::Passed { generation },
            });
        }
        let sign = arbiter.sign_of(generation)?;
        if sign.is_some() && sign != first {
            match judge(sign.as_ref()) {
                // It ended while it was looked at.
                Judged::Vacant => return Ok(generation),
                Judged::Lives(sign) => return Err(Occupied::lives(sign)),
                Judged::After(_) => {
                    if let Some(sign) = sign.filter(|sign| !sign.ended) {
                        return Err(Occupied::lives(sign));
                    }
                }
            }
        }
        if waited >= patience {
            return Ok(generation);
        }
    }
}

/// What one look at a sign tells.
enum Judged {
    Vacant,
    Lives(Sign),
    /// Vacant if nothing has stirred by then.
    After(Duration),
}

fn judge(sign: Option<&Sign>) -> Judged {
    let Some(sign) = sign else {
        // The winner died before its first sign, or is about to write it.
        return Judged::After(SILENCE);
    };
    // A backup notices its primary's end after `detect_ms`, and then asks the arbiter.
    let take_over = SILENCE + 2 * Duration::from_millis(u64::from(sign.detect_ms));
    let there = match sign.ended {
        true => Some(false),
        false => sign.process.is_there(),
    };
    match there {
        Some(true) => Judged::Lives(sign.clone()),
        Some(false) if !sign.may_pass => Judged::Vacant,
        None if !sign.may_pass => Judged::After(SILENCE),
        _ => Judged::After(take_over),
    }
}

const _: () = assert!(LEASE.as_millis() + 2 * SIGN_EVERY.as_millis() < SILENCE.as_millis());

#[cfg(test)]
mod tests;
