//! A joiner that finds no primary: it never goes live itself, having no copy of the guest, but it can find out
//! that nobody has one, so that the guest can be started anew.

use std::time::Duration;

use anyhow::Result;
use replay::protocol::{Event, Role};

use super::Pair;
use crate::host::clock::monotonic_ns;

/// How long a joiner dials before it looks at the shared storage.
const LONELY: Duration = Duration::from_secs(5);

/// How long this side has been without a primary.
#[derive(Debug)]
pub(super) struct Looking {
    /// Whether it looks at all.
    wanted: bool,
    lonely_since: Option<u64>,
    /// The storage is being looked at.
    asked: bool,
    /// Nobody has the guest.
    found_vacant: bool,
}

impl Looking {
    pub(super) fn new(wanted: bool) -> Looking {
        Looking {
            wanted,
            lonely_since: None,
            asked: false,
            found_vacant: false,
        }
    }

    /// Why this side ends, if it is for another start.
    pub(super) fn start_again(&self) -> Option<String> {
        self.found_vacant.then(|| {
            "nobody has the guest any more, and no copy of it is here: started again, ftd starts it anew"
                .to_owned()
        })
    }
}

impl Pair {
    /// Has the storage looked at once no primary has answered for long.
    pub(super) fn look_for_a_primary(&mut self) {
        let lonely = self.looking.wanted
            && self.core.role() == Role::Joining
            && self.core.status().link.is_none();
        let looking = &mut self.looking;
        if !lonely {
            looking.lonely_since = None;
            return;
        }
        let now = monotonic_ns();
        let since = *looking.lonely_since.get_or_insert(now);
        let over = u128::from(now.saturating_sub(since)) >= LONELY.as_nanos();
        if over && !std::mem::replace(&mut looking.asked, true) {
            tracing::info!("no primary answers; looking whether anybody has the guest");
            self.asker.look();
        }
    }

    /// The storage was looked at.
    pub(super) fn looked(&mut self, vacant: bool) -> Result<()> {
        self.looking.asked = false;
        // If a primary has answered meanwhile, it knows better.
        let lonely = self.looking.lonely_since.take().is_some();
        if !(vacant && lonely && self.core.role() == Role::Joining) {
            return Ok(());
        }
        self.looking.found_vacant = true;
        self.leave(Event::Stop)
    }
}
