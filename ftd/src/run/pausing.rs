//! Letting a live guest stand still, for another host to take it over in order.

use devices::Input;

use super::RunError;
use super::inbox::Order;
use super::live::{Ended, Live, Sink};

impl<S: Sink> Live<S> {
    /// Ends the epoch where the guest stands, at a position, and lets it stand until an order says how it
    /// goes on. Inputs that come meanwhile wait in the inbox.
    pub(super) fn pause(&mut self, number: u64) -> Result<(), RunError> {
        let open = self.recorder.as_ref().is_some_and(|log| !log.is_empty());
        if open {
            self.close_epoch()?;
        }
        let frames = self.frames.iter().filter_map(|input| match input {
            Input::NetRx { frame } => Some(frame.clone()),
            _ => None,
        });
        self.sink.paused(number, frames.collect())?;
        loop {
            match self.inbox.wait_for_order() {
                Order::GoOn => return Ok(()),
                Order::Stop => {
                    self.ended = Some(Ended::Stopped);
                    return Ok(());
                }
                Order::Pause(number) => self.sink.paused(number, Vec::new())?,
                order => self.carry_out_order(order)?,
            }
        }
    }
}
