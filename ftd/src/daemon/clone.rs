//! Pre-copy of a live clone (the paper's FT VMotion): RAM goes out while the guest runs, again and
//! again the pages it wrote meanwhile, until few are left; those travel in the snapshot for which
//! it is stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use devices::layout::PAGE_BYTES;
use replay::codec::PAGES_PER_EVENT;
use replay::{Epoch, Page};
use vmm::kvm::DirtyRam;
use vmm::memory::{PageSet, ram_bytes, read_page};

use crate::outside::outbox::{Outbox, Outgoing};
use crate::run::inbox::{Inbox, Order};

/// So few pages are left to the snapshot: 2 MiB.
const FEW_PAGES: u64 = 512;
/// Rounds after which the rest is sent whatever it is.
const ROUNDS_MAX: u32 = 8;

/// A clone under way.
pub struct Cloning {
    given_up: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Cloning {
    /// Starts to send the guest's RAM; its log begins with epoch `first`.
    pub fn start(
        ram: DirtyRam,
        first: Epoch,
        inbox: Arc<Inbox>,
        outbox: Arc<Outbox>,
    ) -> std::io::Result<Cloning> {
        let given_up = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&given_up);
        let thread = std::thread::Builder::new()
            .name("clone".to_owned())
            .spawn(move || match precopy(&ram, &flag, &outbox) {
                Ok(Some(pages)) => inbox.order(Order::BeginLog { first, pages }),
                Ok(None) => {}
                Err(error) => {
                    outbox.push(Outgoing::CloneFailed {
                        why: error.to_string(),
                    });
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

    /// Waits for the thread, which must have been given up or be done.
    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends RAM; what is left at the end is the answer (`None` if given up).
fn precopy(
    ram: &DirtyRam,
    given_up: &AtomicBool,
    outbox: &Outbox,
) -> Result<Option<PageSet>, vmm::VmmError> {
    let bytes = ram_bytes(ram.memory());
    let mut dirty = PageSet::empty(bytes);
    ram.log(true)?;
    // What was written up to here goes with the first round.
    ram.take_dirty(&mut dirty)?;
    dirty.clear();
    let first_round = send(ram, 0..bytes / PAGE_BYTES, true, given_up, outbox);
    if !first_round {
        return Ok(None);
    }
    for _ in 0..ROUNDS_MAX {
        ram.take_dirty(&mut dirty)?;
        if dirty.len() <= FEW_PAGES {
            break;
        }
        if !send(ram, dirty.iter(), false, given_up, outbox) {
            return Ok(None);
        }
        dirty.clear();
    }
    Ok(Some(dirty))
}

/// Sends these pages. The other side's RAM starts as zeros, so `skip_zeros` leaves such out.
fn send(
    ram: &DirtyRam,
    pages: impl Iterator<Item = u64>,
    skip_zeros: bool,
    given_up: &AtomicBool,
    outbox: &Outbox,
) -> bool {
    let mut page = [0u8; PAGE_BYTES as usize];
    let mut chunk = Vec::with_capacity(PAGES_PER_EVENT);
    for gfn in pages {
        read_page(ram.memory(), gfn, &mut page);
        let page = Page::of(gfn, &page);
        if skip_zeros && page.data.is_empty() {
            continue;
        }
        chunk.push(page);
        if chunk.len() == PAGES_PER_EVENT {
            let full = std::mem::replace(&mut chunk, Vec::with_capacity(PAGES_PER_EVENT));
            if given_up.load(Ordering::Acquire)
                || !outbox.push_when_released(Outgoing::ClonePages(full))
            {
                return false;
            }
        }
    }
    chunk.is_empty() || outbox.push_when_released(Outgoing::ClonePages(chunk))
}
