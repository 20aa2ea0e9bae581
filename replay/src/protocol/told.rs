//! What a joiner says of the RAM that it kept, as the primary takes it in.

use super::event::{Action, PeerId, ProtocolError};
use super::message::{FEATURE_PAGE_HASHES, PageHashes};

/// How much of it was said.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Told {
    /// Before the last word, the first page of which nothing was said; nothing is expected else.
    next: Option<u64>,
}

impl Told {
    /// A joiner was welcomed with these features. One that doesn't tell starts with zeros.
    pub(super) fn begin(features: u64, peer: PeerId, out: &mut Vec<Action>) -> Told {
        if features & FEATURE_PAGE_HASHES != 0 {
            return Told { next: Some(0) };
        }
        let hashes = PageHashes {
            last: true,
            ..PageHashes::default()
        };
        out.push(Action::TakeHashes { peer, hashes });
        Told::default()
    }

    /// More was said.
    pub(super) fn take(&mut self, said: &PageHashes, pages: u64) -> Result<(), ProtocolError> {
        let first_gfn = said.first_gfn;
        let count = said.hashes.len();
        let rising = self.next.is_some_and(|next| first_gfn >= next);
        let bounded = count <= PageHashes::MAX && said.end() <= pages;
        // Empty ones could go on for ever.
        let says_something = count > 0 || said.last;
        if !(rising && bounded && says_something) {
            return Err(ProtocolError::BadHashes { first_gfn });
        }
        self.next = (!said.last).then(|| said.end());
        Ok(())
    }
}
