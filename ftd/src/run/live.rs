//! The loop of a live guest.
//!
//! At every synchronous exit: carry the access out, hand on its effects, apply the inputs that
//! wait, end the epoch if an output waits. While a log is kept, inputs land only at exits, or right
//! behind a snapshot when the guest makes none for too long (the `exit` clock).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use devices::{Effect, Input};
use replay::protocol::PeerId;
use replay::{EncodedEpoch, Epoch, EpochPolicy, Position, Recorder};
use vmm::guest::{Access, Flip, Guest, Stop};
use vmm::kvm::{Kick, KickTimer, Reader, kick};

use super::RunError;
use super::gauges::Gauges;
use super::inbox::{FRAMES_MAX, Inbox, Order};
use super::late::Stuck;
use super::open_tsc::OpenTsc;
use super::ram_check::RamCheck;
use crate::host::clock::{VirtualClock, monotonic_ns};

/// Where log, outputs and requests of a live guest go. Called on the vCPU thread.
pub trait Sink {
    /// A disk read or a wish for entropy: nobody outside sees it, so it is carried out at once.
    fn request(&mut self, effect: Effect) -> Result<(), RunError>;
    /// The next epoch of the log. May block: that is the back-pressure of a full log buffer.
    fn epoch(&mut self, epoch: EncodedEpoch) -> Result<(), RunError>;
    /// What comes may be taken later, until this is taken back: the guest stands meanwhile.
    fn quiet(&mut self, quiet: bool);
    /// The pages of `to`'s live clone have all been sent; the epochs from `first` on follow.
    fn clone_ready(&mut self, to: PeerId, first: Epoch) -> Result<(), RunError>;
    /// The guest goes on; it stood for `stop_ns` nanoseconds for the end of a live clone.
    fn clone_stopped(&mut self, stop_ns: u64) -> Result<(), RunError>;
    /// The guest stands still at the end of an epoch, by the order of this number; these frames wait for
    /// room in its ring.
    fn paused(&mut self, number: u64, frames: Vec<Vec<u8>>) -> Result<(), RunError>;
    /// An output, to be released once `after` is acknowledged (0: at once, nobody logs).
    fn output(&mut self, after: Epoch, effect: Effect) -> Result<(), RunError>;
}

/// Choices for [`Live`].
#[derive(Debug, Clone, Copy)]
pub struct LiveOptions {
    /// How long an input waits for a synchronous exit before the guest is stopped for a snapshot.
    pub patience: Duration,
    /// When epochs end.
    pub policy: EpochPolicy,
    /// Within this time the digests have covered all of RAM once; zero: they cover none.
    pub ram_check: Duration,
    /// Enter the guest only once somebody logs it.
    pub wait_for_log: bool,
}

/// Why a live guest stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It powered itself off.
    PoweredOff,
    /// It asked for a reset.
    Reset,
    /// It was ordered to stop.
    Stopped,
}

/// Counters of a live guest, for status and benchmarks.
#[derive(Debug, Clone, Copy, Default)]
pub struct LiveCounters {
    /// Epochs closed.
    pub epochs: u64,
    /// Snapshots taken because an input had waited too long.
    pub snapshots: u64,
    /// Pages in all snapshots.
    pub snapshot_pages: u64,
    /// How long the guest stood still for them.
    pub snapshot_time: Duration,
    /// Points between exits at which inputs landed.
    pub landings: u64,
    /// Points at which nothing could land, so that the guest ran on for a little.
    pub landings_put_off: u64,
    /// Kicks that found nothing to do.
    pub idle_kicks: u64,
    /// RDTSC sites that were closed in code that the guest's kernel loaded.
    pub later_rdtsc_closed: u64,
}

/// A live guest and what feeds it.
pub struct Live<S> {
    pub(super) guest: Guest,
    pub(super) sink: S,
    pub(super) recorder: Option<Recorder>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) gauges: Arc<Gauges>,
    clock: VirtualClock,
    pub(super) options: LiveOptions,
    ram_check: RamCheck,
    open_tsc: OpenTsc,
    /// How long an input waits for an exit now: at least as long as the option says.
    pub(super) patience: Duration,
    pub(super) deadline_timer: KickTimer,
    armed_for: Option<u64>,
    pub(super) stuck: Option<Stuck>,
    /// How often in a row the guest was at no point where it could land.
    pub(super) landing_tries: u32,
    /// Virtual time since when an interrupt has waited that has no window to land in.
    pub(super) stranded_since: Option<u64>,
    inputs: VecDeque<Input>,
    pub(super) frames: VecDeque<Input>,
    outputs: Vec<Effect>,
    pub(super) ended: Option<Ended>,
    /// It stands still as soon as the inputs that wait are applied, by the order of this number.
    pub(super) pausing: Option<u64>,
    /// What was written is to be forgotten at the next position.
    pub(super) marking: bool,
    /// To be done where this epoch ends.
    flip: Option<Flip>,
    pub(super) counters: LiveCounters,
}

impl<S: Sink> Live<S> {
    /// Takes over a guest where it stands, on the thread that will run it. Its clock is `clock`,
    /// paused, which starts to run with [`Live::run`].
    pub fn new(
        mut guest: Guest,
        sink: S,
        inbox: Arc<Inbox>,
        gauges: Arc<Gauges>,
        clock: VirtualClock,
        options: LiveOptions,
    ) -> Result<Live<S>, RunError> {
        inbox.attach(Kick::prepare(guest.vcpu_mut())?, KickTimer::new()?);
        inbox.set_patience(Duration::ZERO);
        guest.set_followed(false);
        guest.count_branches()?;
        let ram_check = RamCheck::new(
            vmm::memory::ram_bytes(guest.memory()),
            options.ram_check,
            monotonic_ns(),
        );
        Ok(Live {
            ram_check,
            open_tsc: OpenTsc::default(),
            guest,
            sink,
            recorder: None,
            inbox,
            gauges,
            clock,
            options,
            patience: options.patience,
            deadline_timer: KickTimer::new()?,
            armed_for: None,
            stranded_since: None,
            stuck: None,
            landing_tries: 0,
            inputs: VecDeque::new(),
            frames: VecDeque::new(),
            outputs: Vec::new(),
            ended: None,
            pausing: None,
            marking: false,
            flip: None,
            counters: LiveCounters::default(),
        })
    }

    /// Runs the guest until it ends or is stopped, and gives everything back.
    pub fn run(mut self) -> Result<(Ended, Guest, S, LiveCounters), RunError> {
        while self.options.wait_for_log && self.recorder.is_none() && self.ended.is_none() {
            self.inbox.wait(None);
            while let Some(order) = self.inbox.take_order() {
                self.carry_out_order(order)?;
            }
        }
        // Only now: while it waited, the guest had no time.
        self.clock.resume(monotonic_ns());
        self.gauges.set_clock(&self.clock);
        let mut at_boundary = true;
        while self.ended.is_none() {
            if at_boundary || self.recorder.is_none() {
                self.orders_and_inputs()?;
                if self.ended.is_some() {
                    break;
                }
                if self.guest.is_idle() {
                    self.close_epoch_if_due(true)?;
                    self.wait_for_input();
                    continue;
                }
                self.close_epoch_if_due(false)?;
                if at_boundary && self.marking {
                    self.mark()?;
                }
            }
            self.arm_deadline();
            at_boundary = match self.guest.enter()? {
                Stop::Exit(access) => {
                    self.landing_tries = 0;
                    self.at_exit(access)?;
                    true
                }
                Stop::Kicked => {
                    kick::acknowledge();
                    self.armed_for = None;
                    self.kicked()?
                }
                Stop::Crashed(why) => return Err(RunError::Crashed(why)),
            };
        }
        self.close_epoch_if_due(true)?;
        let ended = self.ended.unwrap_or(Ended::Stopped);
        Ok((ended, self.guest, self.sink, self.counters))
    }

    fn at(&self) -> Position {
        self.guest.position()
    }

    pub(super) fn virtual_now(&mut self) -> u64 {
        self.clock.now(monotonic_ns())
    }

    fn at_exit(&mut self, access: Access) -> Result<(), RunError> {
        if access.needs_clock() {
            let now = self.virtual_now();
            self.apply(Input::Clock { now })?;
        }
        self.guest.carry_out(access)?;
        self.hand_on_effects()
    }

    /// Records an input and applies it where the guest stands.
    pub(super) fn apply(&mut self, input: Input) -> Result<(), RunError> {
        let at = self.at();
        if let Some(recorder) = &mut self.recorder {
            recorder.input(at, input.clone())?;
        }
        self.guest.apply(input)?;
        Ok(())
    }

    pub(super) fn hand_on_effects(&mut self) -> Result<(), RunError> {
        let at = self.at();
        for effect in self.guest.effects() {
            match effect {
                Effect::PowerOff => self.ended = Some(Ended::PoweredOff),
                Effect::Reset => self.ended = Some(Ended::Reset),
                _ => {}
            }
            if !effect.is_output() {
                self.sink.request(effect)?;
                continue;
            }
            if let Some(recorder) = &mut self.recorder {
                recorder.output(at, &effect)?;
            }
            self.outputs.push(effect);
        }
        if self.outputs.is_empty() {
            return Ok(());
        }
        // An output waits: the epoch that holds the log before it ends here.
        let after = match self.recorder {
            Some(_) => self.close_epoch()?,
            None => 0,
        };
        for output in self.outputs.drain(..) {
            self.sink.output(after, output)?;
        }
        Ok(())
    }

    fn orders_and_inputs(&mut self) -> Result<(), RunError> {
        if self.inbox.any() {
            while self.ended.is_none()
                && let Some(order) = self.inbox.take_order()
            {
                match order {
                    Order::Pause(number) => self.pausing = Some(number),
                    order => self.carry_out_order(order)?,
                }
            }
            if self.ended.is_some() {
                return Ok(());
            }
            self.inbox.take_inputs(&mut self.inputs);
        }
        while let Some(input) = self.inputs.pop_front() {
            match input {
                // A guest that takes no frames loses them, as one with a full ring does.
                Input::NetRx { .. } if self.frames.len() >= FRAMES_MAX => {}
                Input::NetRx { .. } => self.frames.push_back(input),
                input => {
                    self.apply(input)?;
                    self.hand_on_effects()?;
                    // Many reads may be complete at once.
                    self.close_epoch_if_due(false)?;
                }
            }
        }
        while !self.frames.is_empty() && self.guest.machine().can_accept_net_rx() {
            if let Some(frame) = self.frames.pop_front() {
                self.apply(frame)?;
                self.hand_on_effects()?;
            }
        }
        if self.timer_overdue_ns().is_some() {
            let now = self.virtual_now();
            self.apply(Input::Clock { now })?;
            self.hand_on_effects()?;
        }
        if let Some(number) = self.pausing.take() {
            self.pause(number)?;
        }
        Ok(())
    }

    /// By how much the machine's next timer is overdue, if it is.
    pub(super) fn timer_overdue_ns(&mut self) -> Option<u64> {
        let deadline = self.guest.machine().next_deadline()?;
        self.virtual_now().checked_sub(deadline)
    }

    pub(super) fn carry_out_order(&mut self, order: Order) -> Result<(), RunError> {
        match order {
            Order::BeginLog {
                to,
                first,
                pages,
                disks,
            } => {
                let stopped_at = monotonic_ns();
                self.sink.quiet(true);
                let begun = self.begin_log(to, first, pages, disks);
                let stopped = self.sink.clone_stopped(monotonic_ns() - stopped_at);
                self.sink.quiet(false);
                begun.and(stopped)?;
            }
            Order::Mark => self.marking = self.recorder.is_some(),
            Order::EndLog => {
                self.recorder = None;
                self.marking = false;
                self.guest.set_followed(false);
                self.guest.dirty_ram().log(Reader::Snapshots, false)?;
                self.inbox.set_patience(Duration::ZERO);
            }
            // The digest of the open epoch is that of a guest without it.
            Order::Flip(flip) if self.recorder.is_some() => self.flip = Some(flip),
            Order::Flip(flip) => self.guest.flip(flip)?,
            Order::Pause(number) => {
                self.snapshot()?;
                self.pausing = Some(number);
            }
            // It did not stand yet.
            Order::GoOn => self.pausing = None,
            Order::Stop => {
                if self.recorder.is_some() {
                    self.snapshot()?;
                }
                self.ended = Some(Ended::Stopped);
            }
        }
        Ok(())
    }

    /// Sets the timer that stops a running guest for a due timer of its machine, or for an interrupt
    /// that has no window to land in.
    fn arm_deadline(&mut self) {
        if self.is_stuck() {
            return; // The kick that decides is on its way.
        }
        let grace = match self.recorder {
            Some(_) => self.patience_ns(),
            None => 0,
        };
        if !self.guest.interrupt_stranded() {
            self.stranded_since = None;
        } else if self.stranded_since.is_none() {
            self.stranded_since = Some(self.virtual_now());
        }
        let due = [self.guest.machine().next_deadline(), self.stranded_since];
        let Some(due) = due.into_iter().flatten().min() else {
            return;
        };
        let target = due.saturating_add(grace);
        if self
            .armed_for
            .is_some_and(|armed| armed <= target && armed > self.guest.machine().now())
        {
            return; // An earlier kick is on its way; the next entry after it sets the rest.
        }
        let now = self.virtual_now();
        self.armed_for = Some(target);
        self.deadline_timer
            .set(Duration::from_nanos(target.saturating_sub(now)));
    }

    fn wait_for_input(&mut self) {
        let now = self.virtual_now();
        let timeout = self
            .guest
            .machine()
            .next_deadline()
            .map(|deadline| Duration::from_nanos(deadline.saturating_sub(now)));
        if timeout != Some(Duration::ZERO) {
            self.inbox.wait(timeout);
        }
    }

    fn close_epoch_if_due(&mut self, idle: bool) -> Result<(), RunError> {
        if let Some(recorder) = &mut self.recorder
            && !recorder.is_empty()
            && recorder.should_close(monotonic_ns(), idle)
        {
            self.close_epoch()?;
        }
        Ok(())
    }

    /// Ends the open epoch and sends it; its number.
    pub(super) fn close_epoch(&mut self) -> Result<Epoch, RunError> {
        if self.recorder.is_none() {
            return Ok(0);
        }
        let at = self.at();
        let (first, pages) = self.ram_check.share(monotonic_ns());
        let digest = self.guest.digest(first, pages)?;
        let Some(recorder) = &mut self.recorder else {
            return Ok(0);
        };
        let epoch = recorder.close(at, digest)?;
        self.open_tsc.look(&self.guest);
        self.counters.later_rdtsc_closed = self.guest.later_rdtsc().closed;
        let number = epoch.epoch;
        self.counters.epochs += 1;
        self.gauges.set_counters(self.counters);
        if let Some(flip) = self.flip.take() {
            self.guest.flip(flip)?;
        }
        self.sink.epoch(epoch)?;
        Ok(number)
    }
}
