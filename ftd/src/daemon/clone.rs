//! Pre-copy of a live clone (the paper's FT VMotion): RAM goes out while the guest runs, again and
//! again the pages it wrote meanwhile, until few are left; those travel in the snapshot for which
//! it is stopped. A joiner that kept the RAM of an earlier copy says what it has, and is sent only what
//! differs.
//!
//! Disks that each host has for itself are copied in the same way, as pages behind those of RAM
//! ([`copied`]).
//!
//! * [`comparing`]: the first round, which compares.
//! * [`telling`]: the joiner's side of that.
//!
//! All of that is done by a thread of its own, sending included, at a low priority: on a host with a
//! single CPU a busy guest goes on at three quarters of its speed or more, and where there is a CPU
//! to spare nothing slows the clone.

mod comparing;
pub mod copied;
pub mod telling;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use devices::layout::PAGE_BYTES;
use replay::frame::encode;
use replay::protocol::{Message, PageHashes, PeerId};
use replay::{Epoch, Page};
use vmm::memory::PageSet;

use self::comparing::Comparing;
use self::copied::Copied;
use super::journal::chain;
use super::links::writer::Sent;
use crate::host::priority::be_nice;
use crate::outside::outbox::{Outbox, Outgoing};
use crate::run::inbox::{Inbox, Order};

/// Pages of one message: so few that the daemon's loop does not wait long for the connection.
const PAGES_A_MESSAGE: usize = 8;
/// How long to wait for a connection that takes nothing.
const PAUSE: Duration = Duration::from_millis(2);

/// Sends a frame to the joiner.
pub type SendFrame = Box<dyn FnMut(&[u8]) -> Sent + Send>;

/// Why a clone failed.
#[derive(Debug, thiserror::Error)]
enum CloneError {
    #[error(transparent)]
    Vmm(#[from] vmm::VmmError),
    #[error("cannot read the guest's disk")]
    Disk(#[from] std::io::Error),
    #[error("the joiner did not say within {} s what RAM it has", .0.as_secs())]
    SaysNothing(Duration),
}

/// A clone under way.
pub struct Cloning {
    given_up: Arc<AtomicBool>,
    thread: Option<JoinHandle<Option<Precopied>>>,
}

/// What a pre-copy did, for the journal.
#[derive(Debug, Clone, Copy, Default)]
pub struct Precopied {
    /// Rounds over the guest's RAM, the first one included.
    pub rounds: u32,
    /// Pages sent in them.
    pub pages_sent: u64,
    /// Pages that the joiner had already, without those of zeros.
    pub pages_equal: u64,
    /// Pages left to the snapshot.
    pub left: u64,
    /// How long it took.
    pub took: Duration,
}

impl Cloning {
    /// Starts to send the guest's RAM through `send`, but for what the joiner `to` has: it says so in
    /// `theirs`, page by page in rising order, the last message marked. A log that has not begun yet begins
    /// with epoch `first`.
    ///
    /// # Errors
    /// The host has no thread left.
    pub fn start(
        copied: Copied,
        to: PeerId,
        first: Epoch,
        theirs: Receiver<PageHashes>,
        send: SendFrame,
        inbox: Arc<Inbox>,
        outbox: Arc<Outbox>,
    ) -> std::io::Result<Cloning> {
        let given_up = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&given_up);
        let thread = std::thread::Builder::new()
            .name("clone".to_owned())
            .spawn(move || {
                let mut precopy = Precopy {
                    copied: &copied,
                    sender: Sender {
                        given_up: flag,
                        send,
                    },
                    done: Precopied::default(),
                };
                match precopy.run(&theirs) {
                    Ok(Some(pages)) => {
                        let done = precopy.done;
                        let disks = copied.disks;
                        inbox.order(Order::BeginLog {
                            to,
                            first,
                            pages,
                            disks,
                        });
                        Some(done)
                    }
                    Ok(None) => None,
                    Err(error) => {
                        let why = chain(&error);
                        outbox.push(Outgoing::CloneFailed { to, why });
                        None
                    }
                }
            })?;
        Ok(Cloning {
            given_up,
            thread: Some(thread),
        })
    }

    /// Stops sending.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
    }

    /// Waits for the thread, which must have been given up or be done; what it did.
    pub fn join(&mut self) -> Option<Precopied> {
        self.thread.take()?.join().ok().flatten()
    }
}

/// How a round goes about it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Round {
    /// Nice value of the thread. Under CFS and EEVDF, 5 beside a vCPU's 0 is a quarter of a CPU, 2
    /// is two fifths.
    nice: i32,
    /// So few pages are left to the snapshot.
    few: u64,
}

/// Most rounds come to few pages soon. A guest that writes as fast as the clone goes loses more of
/// its speed then, and in the end a longer stop is taken for the clone's sake.
fn round(number: u32) -> Option<Round> {
    let (nice, few) = match number {
        0..=4 => (5, 64),
        5..=8 => (2, 256),
        9..=11 => (0, 1024),
        _ => return None,
    };
    Some(Round { nice, few })
}

/// Sends frames in a clone's good time.
struct Sender {
    given_up: Arc<AtomicBool>,
    send: SendFrame,
}

impl Sender {
    fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }

    /// Sends a message; `false` when given up.
    fn send(&mut self, message: &Message) -> bool {
        let frame = match encode(message) {
            Ok(frame) => frame,
            Err(error) => {
                tracing::error!("a clone can't be sent; this is a defect of ftd: {error}");
                return false;
            }
        };
        while !self.is_given_up() {
            match (self.send)(&frame) {
                Sent::Yes => return true,
                Sent::Later => std::thread::sleep(PAUSE),
                Sent::Gone => return false,
            }
        }
        false
    }
}

struct Precopy<'a> {
    copied: &'a Copied,
    sender: Sender,
    done: Precopied,
}

impl Precopy<'_> {
    /// Sends RAM; what is left at the end is the answer (`None` if given up).
    fn run(&mut self, theirs: &Receiver<PageHashes>) -> Result<Option<PageSet>, CloneError> {
        let start = Instant::now();
        let mut pages = self.copied.no_pages();
        self.copied.watch()?;
        // What was written up to here is compared in the first round. What is written from here on goes
        // with a later one, whatever came of comparing: so the log is cleared before any page is read.
        self.copied.take_dirty(&mut pages)?;
        let touched = self.copied.touched();
        let mut number = 0;
        while let Some(round) = round(number) {
            if number > 0 && pages.len() <= round.few {
                break;
            }
            if let Err(error) = be_nice(round.nice) {
                // Becoming less nice takes a right that ftd may not have.
                tracing::debug!("nice {} is not to be had: {error}", round.nice);
            }
            let sent = match number {
                0 => Comparing::new(self, &touched).run(theirs)?,
                _ => self.send_all(pages.iter())?,
            };
            if !sent {
                return Ok(None);
            }
            number += 1;
            pages.clear();
            self.copied.take_dirty(&mut pages)?;
        }
        self.done.rounds = number;
        self.done.left = pages.len();
        self.done.took = start.elapsed();
        Ok((!self.sender.is_given_up()).then_some(pages))
    }

    /// Sends these pages; `false` when given up.
    fn send_all(&mut self, pages: impl Iterator<Item = u64>) -> Result<bool, CloneError> {
        let mut bytes = [0u8; PAGE_BYTES as usize];
        let mut message = Vec::with_capacity(PAGES_A_MESSAGE);
        for gfn in pages {
            self.copied.read(gfn, &mut bytes)?;
            message.push(Page::of(gfn, &bytes));
            if message.len() == PAGES_A_MESSAGE && !self.send_pages(&mut message) {
                return Ok(false);
            }
        }
        Ok(self.send_pages(&mut message))
    }

    /// Sends what is in `pages`, and empties it; `false` when given up.
    fn send_pages(&mut self, pages: &mut Vec<Page>) -> bool {
        let pages = std::mem::take(pages);
        self.done.pages_sent += pages.len() as u64;
        pages.is_empty() || self.sender.send(&Message::ClonePages { pages })
    }
}

#[cfg(test)]
mod tests;
