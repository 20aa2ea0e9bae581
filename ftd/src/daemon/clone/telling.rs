//! A joiner that kept the RAM of its last copy tells the primary what is in it.
//!
//! By a thread of its own: to hash RAM takes a second or so, and the loop has heartbeats to send. The
//! primary sends pages meanwhile, but none of which nothing was said yet.

use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use devices::layout::PAGE_BYTES;
use replay::protocol::{HashKey, Message, PageHash, PageHashes};
use siphasher::sip128::{Hasher128, SipHasher24};

use super::copied::Left;
use super::{SendFrame, Sender};
use crate::host::entropy;
use crate::host::priority::be_nice;

/// Most pages of one message: so few that the primary has soon something to compare.
const PAGES: usize = 512;
/// So many pages of zeros are cheaper to name than a further message is.
const GAP: usize = 16;

/// So many pages further something is said, were it of zeros: whoever says nothing for long is given up.
const SILENCE: u64 = 16384;

/// Size of a page in bytes.
pub const PAGE: usize = PAGE_BYTES as usize;
pub(super) static ZEROS: [u8; PAGE] = [0; PAGE];

/// The hash by which pages are compared.
pub(super) fn hash_of(page: &[u8; PAGE], key: &HashKey) -> PageHash {
    if *page == ZEROS {
        return PageHash::ZEROS;
    }
    let mut hasher = SipHasher24::new_with_key(key);
    hasher.write(page);
    PageHash(hasher.finish128().as_bytes())
}

/// Telling, until it is done or this is dropped.
pub struct Telling {
    given_up: Arc<AtomicBool>,
}

impl Telling {
    /// Tells through `send` what is `left`.
    ///
    /// # Errors
    /// The host has no thread left, or no random bytes.
    pub fn start(left: Left, send: SendFrame) -> std::io::Result<Telling> {
        let mut key = HashKey::default();
        entropy::fill(&mut key)?;
        let given_up = Arc::new(AtomicBool::new(false));
        let mut sender = Sender {
            given_up: Arc::clone(&given_up),
            send,
        };
        std::thread::Builder::new()
            .name("hashes".to_owned())
            .spawn(move || {
                if let Err(error) = be_nice(5) {
                    tracing::debug!("cannot become nicer: {error}");
                }
                // The primary gives up a joiner that says nothing more.
                if let Err(error) = tell(&left, key, |said| sender.send(&Message::PageHashes(said)))
                {
                    tracing::error!(
                        "this host's disk can't be compared with the primary's: {error}"
                    );
                }
            })?;
        Ok(Telling { given_up })
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.given_up.store(true, Ordering::Release);
    }
}

/// Says what is there, until `say` returns false.
fn tell(left: &Left, key: HashKey, mut say: impl FnMut(PageHashes) -> bool) -> std::io::Result<()> {
    let silence = || PageHashes {
        key,
        ..PageHashes::default()
    };
    let mut said = silence();
    let mut heard = true;
    let mut said_to = 0;
    left.each(|gfn, bytes| {
        let hash = hash_of(bytes, &key);
        let due = gfn >= said_to + SILENCE;
        if hash == PageHash::ZEROS && !due {
            return true;
        }
        let near = gfn <= said.end() + GAP as u64 && said.hashes.len() + GAP < PAGES;
        if !near && !said.hashes.is_empty() {
            said_to = gfn;
            heard = say(std::mem::replace(&mut said, silence()));
        }
        if said.hashes.is_empty() {
            said.first_gfn = gfn;
        }
        while said.end() < gfn {
            said.hashes.push(PageHash::ZEROS);
        }
        said.hashes.push(hash);
        if due && heard {
            said_to = gfn;
            heard = say(std::mem::replace(&mut said, silence()));
        }
        heard
    })?;
    if said.hashes.is_empty() {
        said.first_gfn = left.count();
    }
    said.last = true;
    if heard {
        say(said);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};
    use vmm::memory::{Ram, ram_bytes};

    use super::*;
    use crate::host::disk::{Disk, DiskOptions, DiskPages};

    const KEY: HashKey = [5; 16];

    fn left(ram: &Ram) -> Left {
        Left {
            ram: Some(ram.clone()),
            ram_bytes: ram_bytes(ram),
            disks: None,
        }
    }

    fn told(ram: &Ram) -> Vec<PageHashes> {
        let mut all = Vec::new();
        let said = tell(&left(ram), KEY, |said| {
            all.push(said);
            true
        });
        said.unwrap();
        all
    }

    #[test]
    fn pages_that_differ_in_a_bit_have_different_hashes() {
        let mut page = ZEROS;
        assert_eq!(hash_of(&page, &KEY), PageHash::ZEROS);
        page[4095] = 1;
        let one = hash_of(&page, &KEY);
        page[4095] = 2;
        let other = hash_of(&page, &KEY);
        assert!(one != other && one != PageHash::ZEROS && other != PageHash::ZEROS);
        assert_ne!(hash_of(&page, &[6; 16]), other, "the key counts");
    }

    #[test]
    fn all_that_is_not_zeros_is_told_once_in_rising_order() {
        let ram = Ram::allocate(32 << 20).unwrap();
        let mut written: Vec<u64> = [0, 1, 2, 10, 27, 28, 44, 4000].into();
        written.extend(5000..7000);
        written.push(8191);
        for gfn in &written {
            let at = GuestAddress(gfn * PAGE_BYTES);
            ram.write_obj(gfn + 1, at).unwrap();
        }
        // Touched, but zeros.
        ram.write_obj(0u64, GuestAddress(7500 * PAGE_BYTES))
            .unwrap();
        let all = told(&ram);
        let (last, others) = all.split_last().unwrap();
        assert!(last.last && others.iter().all(|said| !said.last));
        let mut next = 0;
        let mut found = Vec::new();
        for said in &all {
            assert_eq!(said.key, KEY);
            assert!(
                said.first_gfn >= next && said.hashes.len() <= PAGES,
                "{next}"
            );
            next = said.end();
            for (gfn, hash) in (said.first_gfn..).zip(&said.hashes) {
                if *hash != PageHash::ZEROS {
                    found.push(gfn);
                    let mut page = ZEROS;
                    page[..8].copy_from_slice(&(gfn + 1).to_le_bytes());
                    assert_eq!(*hash, hash_of(&page, &KEY), "{gfn}");
                }
            }
        }
        assert_eq!(found, written);
        assert_eq!(next, 8192);
        // 0 to 44 and the 2000 in a row, cut; two that stand alone.
        assert_eq!(all.len(), 1 + 1 + 5 + 1, "{all:?}");
    }

    #[test]
    fn ram_without_anything_is_told_in_one_word() {
        let ram = Ram::allocate(1 << 20).unwrap();
        ram.write_obj(0u64, GuestAddress(0)).unwrap();
        let nothing = PageHashes {
            key: KEY,
            first_gfn: 256,
            hashes: Vec::new(),
            last: true,
        };
        assert_eq!(told(&ram), [nothing]);
    }

    #[test]
    fn a_long_row_of_zeros_is_no_silence() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(3 * SILENCE * PAGE_BYTES).unwrap();
        let disk = Disk::open(&path, &DiskOptions::default()).unwrap();
        let left = Left {
            ram: None,
            ram_bytes: PAGE_BYTES,
            disks: Some(DiskPages::new(&[Arc::new(disk)])),
        };
        let mut words = Vec::new();
        let said = tell(&left, KEY, |said| {
            words.push((said.first_gfn, said.hashes, said.last));
            true
        });
        said.unwrap();
        let zeros = vec![PageHash::ZEROS];
        let end = 3 * SILENCE + 1;
        assert_eq!(
            words,
            [
                (SILENCE, zeros.clone(), false),
                (2 * SILENCE, zeros.clone(), false),
                (3 * SILENCE, zeros, false),
                (end, Vec::new(), true),
            ]
        );
    }

    #[test]
    fn nobody_is_told_more_than_he_hears() {
        let ram = Ram::allocate(16 << 20).unwrap();
        for gfn in 0..4096 {
            let at = GuestAddress(gfn * PAGE_BYTES);
            ram.write_obj(1u8, at).unwrap();
        }
        let mut count = 0;
        let said = tell(&left(&ram), KEY, |_| {
            count += 1;
            count < 2
        });
        said.unwrap();
        assert_eq!(count, 2);
    }
}
