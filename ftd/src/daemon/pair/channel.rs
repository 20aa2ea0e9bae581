//! The logging channel's connections: accepted, dialled, and what comes in on them.

use anyhow::Result;
use devices::Input;
use devices::virtio::{FRAME_BYTES_MAX, FRAME_BYTES_MIN};
use mio::Token;
use replay::protocol::{Event, Message};

use super::{Pair, REDIAL};
use crate::daemon::links::Served;
use crate::host::clock::monotonic_ns;

impl Pair {
    pub(super) fn accept(&mut self) -> Result<()> {
        let Some(listener) = &self.listener else {
            return Ok(());
        };
        for peer in self.links.accept(self.poll.registry(), listener) {
            self.tell(Event::PeerConnected {
                peer,
                dialled: false,
            })?;
        }
        Ok(())
    }

    pub(super) fn serve(&mut self, token: Token) -> Result<()> {
        let Some(peer) = self.links.peer_of(token) else {
            return Ok(());
        };
        loop {
            match self.links.serve(self.poll.registry(), peer) {
                Served::Idle => return Ok(()),
                Served::Connected => {
                    self.dial_at = None;
                    self.tell(Event::PeerConnected {
                        peer,
                        dialled: true,
                    })?;
                }
                Served::Read => {
                    self.tell(Event::PeerHeard { peer })?;
                    loop {
                        match self.links.next_message(peer) {
                            Ok(Some(Message::Frame { bytes })) if self.left == Some(peer) => {
                                self.take_late_frame(bytes);
                            }
                            Ok(Some(message)) => self.tell(Event::Message { peer, message })?,
                            Ok(None) => break,
                            Err(why) => {
                                self.links.close(self.poll.registry(), peer);
                                return self.tell(Event::PeerDisconnected { peer, why });
                            }
                        }
                    }
                }
                Served::Lost(_) if self.left == Some(peer) => {
                    self.left = None;
                    return Ok(());
                }
                Served::Lost(why) => {
                    if self.dial_at.is_some() {
                        // Still dialling: the core knows of no connection yet.
                        self.dial_at = Some(monotonic_ns() + REDIAL.as_nanos() as u64);
                        return Ok(());
                    }
                    return self.tell(Event::PeerDisconnected { peer, why });
                }
            }
        }
    }

    /// One that came for the guest to the host that it was handed over by.
    fn take_late_frame(&mut self, frame: Vec<u8>) {
        // The device would take another length for the TAP's failure.
        let fits = (FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&frame.len());
        if !fits || !self.inbox.push(Input::NetRx { frame }) {
            tracing::debug!("a frame for the guest is dropped: no frame, or too many at once");
        }
    }

    pub(super) fn redial(&mut self) {
        let Some(at) = self.dial_at else { return };
        if at > monotonic_ns() || self.log_from.is_empty() {
            return;
        }
        let address = self.log_from[self.dial_next % self.log_from.len()];
        self.dial_next += 1;
        // Whatever comes of it, do not dial again before it is known or long overdue.
        self.dial_at = Some(monotonic_ns() + 2_000_000_000);
        if let Err(error) = self.links.dial(self.poll.registry(), address) {
            tracing::debug!("cannot dial {address}: {error}");
            self.dial_at = Some(monotonic_ns() + REDIAL.as_nanos() as u64);
        }
    }
}
