//! Who is being sent a live clone, at the live side.

use super::event::{Action, DisconnectReason, PeerId, ProtocolError};
use super::link::Link;
use super::message::Message;
use super::told::Told;

/// Welcomed, and not a member yet.
#[derive(Debug, Clone)]
pub(super) struct Joiner {
    pub(super) link: Link,
    /// What it has said of its RAM.
    told: Told,
}

impl Joiner {
    /// A joiner was welcomed with these features.
    pub(super) fn begin(link: Link, features: u64, out: &mut Vec<Action>) -> Joiner {
        let told = Told::begin(features, link.peer, out);
        Joiner { link, told }
    }

    /// It said something.
    ///
    /// # Errors
    /// It is no joiner any more; nothing is done about that yet.
    pub(super) fn on_message(
        &mut self,
        message: Message,
        pages: u64,
        out: &mut Vec<Action>,
    ) -> Result<(), DisconnectReason> {
        let peer = self.link.peer;
        match message {
            Message::Heartbeat { seq, heard } => {
                self.link.on_beat(seq);
                self.link.on_echo(heard);
                Ok(())
            }
            Message::Bye { reason } => Err(DisconnectReason::Left(reason)),
            Message::PageHashes(hashes) => {
                self.told
                    .take(&hashes, pages)
                    .map_err(DisconnectReason::Protocol)?;
                out.push(Action::TakeHashes { peer, hashes });
                Ok(())
            }
            other => {
                let error = ProtocolError::Unexpected(other.name());
                Err(DisconnectReason::Protocol(error))
            }
        }
    }

    /// Gives the clone up, and closes the connection.
    pub(super) fn dismiss(peer: PeerId, why: DisconnectReason, out: &mut Vec<Action>) {
        out.push(Action::StopClone { peer });
        out.push(Action::Disconnect { peer, why });
    }
}
