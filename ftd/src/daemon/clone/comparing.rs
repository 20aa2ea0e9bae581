//! The first round of a pre-copy: what the joiner has already is not sent.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use replay::Page;
use replay::protocol::{HashKey, PageHash, PageHashes};
use vmm::memory::PageSet;

use super::telling::{PAGE, ZEROS, hash_of};
use super::{CloneError, PAGES_A_MESSAGE, Precopy};

/// How long the joiner may take until it says more.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often to look whether the clone was given up meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// Goes through RAM once, in rising order, no further than the joiner has said what it has.
pub(super) struct Comparing<'a, 'b> {
    precopy: &'a mut Precopy<'b>,
    /// Pages that may hold something else than zeros.
    touched: &'a PageSet,
    /// The first page that is not compared yet.
    next: u64,
    /// Pages to be sent.
    message: Vec<Page>,
}

impl<'a, 'b> Comparing<'a, 'b> {
    pub(super) fn new(precopy: &'a mut Precopy<'b>, touched: &'a PageSet) -> Self {
        Comparing {
            precopy,
            touched,
            next: 0,
            message: Vec::new(),
        }
    }

    /// Sends what differs from `theirs`; `false` when given up.
    pub(super) fn run(mut self, theirs: &Receiver<PageHashes>) -> Result<bool, CloneError> {
        let pages = self.precopy.copied.count();
        loop {
            let Some(said) = self.hear(theirs)? else {
                return Ok(false);
            };
            let end = if said.last { pages } else { said.end() };
            if !self.compare(&said, end)? {
                return Ok(false);
            }
            if said.last {
                return Ok(self.precopy.send_pages(&mut self.message));
            }
        }
    }

    /// What the joiner says next; `None` when given up.
    fn hear(&self, theirs: &Receiver<PageHashes>) -> Result<Option<PageHashes>, CloneError> {
        let start = Instant::now();
        while !self.precopy.sender.is_given_up() {
            match theirs.recv_timeout(LOOK) {
                Ok(said) => return Ok(Some(said)),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if start.elapsed() > PATIENCE => {
                    return Err(CloneError::SaysNothing(PATIENCE));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        Ok(None)
    }

    /// Compares the pages up to `end` with what was said of them; those of which nothing was said are
    /// zeros. `false` when given up.
    fn compare(&mut self, said: &PageHashes, end: u64) -> Result<bool, CloneError> {
        let mut bytes = ZEROS;
        for gfn in self.next..end {
            let at = gfn.checked_sub(said.first_gfn);
            let theirs = at.and_then(|at| said.hashes.get(usize::try_from(at).ok()?));
            let theirs = theirs.copied().unwrap_or_default();
            if theirs == PageHash::ZEROS && !self.touched.contains(gfn) {
                continue;
            }
            self.precopy.copied.read(gfn, &mut bytes)?;
            if is_equal(&bytes, theirs, &said.key) {
                self.precopy.done.pages_equal += u64::from(theirs != PageHash::ZEROS);
            } else {
                self.message.push(Page::of(gfn, &bytes));
            }
            let full = self.message.len() == PAGES_A_MESSAGE;
            if full && !self.precopy.send_pages(&mut self.message)
                || self.precopy.sender.is_given_up()
            {
                return Ok(false);
            }
        }
        self.next = self.next.max(end);
        Ok(true)
    }
}

/// Whether the page is what the joiner has. Where that has zeros, as one that starts anew has
/// everywhere, no hash is needed.
fn is_equal(page: &[u8; PAGE], theirs: PageHash, key: &HashKey) -> bool {
    match theirs {
        PageHash::ZEROS => *page == ZEROS,
        theirs => hash_of(page, key) == theirs,
    }
}
