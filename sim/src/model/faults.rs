//! What goes wrong at the moments that the plan names.

use replay::protocol::{Event, Role, Start};

use super::kind::Kind;
use super::net::Item;
use super::node::Node;
use super::plan::{Fault, MS, Mode};
use super::sabotage::Sabotage;
use super::violation::Checked;
use super::world::{Step, World};

/// How long a primary that is told to stop waits for its disks, as the daemon does.
const RETIRE: u64 = 500 * MS;

impl World {
    pub(super) fn fault(&mut self, number: usize) -> Checked {
        let protected =
            |node: &Node| node.core.role() == Role::Primary && node.core.status().protected;
        if self.plan.mode == Mode::Single && !self.nodes.iter().any(protected) {
            let at = self.now + 20 * MS;
            if at < self.plan.faults_end {
                self.at(at, Step::Fault(number));
            }
            return Ok(());
        }
        let fault = self.plan.faults[number].clone();
        if self.inject(&fault)? {
            self.stats.inject(fault.kind);
        }
        Ok(())
    }

    /// Gives whether it had something to happen to.
    fn inject(&mut self, fault: &Fault) -> Result<bool, super::violation::Violation> {
        let &Fault {
            kind,
            host,
            other,
            lasts,
            bits,
            ..
        } = fault;
        let until = self.now + lasts;
        if kind == Kind::HandOver {
            return Ok(self.begin_hand_over(lasts));
        }
        let node = &mut self.nodes[host];
        let (up, run) = (node.up, node.run);
        let name = kind.name();
        let needs_daemon = kind.kills() || kind == Kind::Pause;
        if (needs_daemon && !up) || (kind == Kind::Stop && node.leaving) {
            return Ok(false);
        }
        self.say(|| match kind {
            Kind::Partition => {
                format!(
                    "FAULT {name}: host{host} and host{other}, {} ms",
                    lasts / MS
                )
            }
            Kind::OneWayCut => {
                format!("FAULT {name}: host{host} to host{other}, {} ms", lasts / MS)
            }
            Kind::PowerCut | Kind::ProcessDeath | Kind::Stop | Kind::BrokenLink => {
                format!("FAULT {name}: host{host}")
            }
            Kind::ArbiterAway | Kind::ArbiterSlow | Kind::ArbiterStale | Kind::DiskErrors => {
                format!("FAULT {name}: {} ms", lasts / MS)
            }
            Kind::StorageCut => format!("FAULT {name}: host{host}, {} ms", 4 * lasts / MS),
            Kind::ClockStep => format!("FAULT {name}: host{host}"),
            _ => format!("FAULT {name}: host{host}, {} ms", lasts / MS),
        });
        let node = &mut self.nodes[host];
        match kind {
            Kind::PowerCut => self.cut_power(host)?,
            Kind::ProcessDeath => self.die(host),
            Kind::Pause => {
                node.paused.get_or_insert_default();
                self.at(until, Step::Resume(host, run));
            }
            Kind::Partition => self.cut(host, other, true, until),
            Kind::OneWayCut => self.cut(host, other, false, until),
            Kind::BrokenLink => return Ok(self.break_link(host, bits)),
            Kind::ArbiterAway => self.arbiter.away_until = until,
            Kind::ArbiterSlow => self.arbiter.slow_until = until,
            Kind::ArbiterStale => self.arbiter.stale_until = until,
            Kind::StorageCut => {
                let end = self.plan.faults_end + 500 * MS;
                node.storage_cut_until = end.min(self.now + 4 * lasts);
            }
            Kind::Stop => {
                node.leaving = true;
                let by = self.now + RETIRE;
                self.at(self.now, Step::Leave(host, run, by));
            }
            Kind::ClockStep => return self.step_clock(host, bits),
            Kind::SlowDisk => node.slow_disk_until = until,
            Kind::DiskErrors => self.disk.errors_until = until,
            Kind::SlowReplay => node.slow_replay_until = until,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn cut(&mut self, from: usize, to: usize, both: bool, until: u64) {
        self.net.cuts.insert((from, to), until);
        if both {
            self.net.cuts.insert((to, from), until);
        }
        self.at(until, Step::Heal);
    }

    fn break_link(&mut self, host: usize, bits: u64) -> bool {
        let run = self.nodes[host].run;
        let Some(&(conn, side)) = self.net.of((host, run)).first() else {
            return false;
        };
        if self.sabotage == Some(Sabotage::CloseBeforeGivingUp) {
            // The other side is told "closed", and this one goes on by what it has.
            let (side, item) = (1 - side, Item::Fin);
            self.at(self.now, Step::Deliver { conn, side, item });
            return true;
        }
        if let Some(conn) = self.net.conns.get_mut(&conn) {
            conn.dead = true;
        }
        for (bit, side) in [(1, side), (2, 1 - side)] {
            if bits & bit != 0 {
                self.after(0, 300 * MS, Step::Break { conn, side });
            }
        }
        true
    }

    /// No further than the margin of the lease allows for, and not soon again.
    fn step_clock(&mut self, host: usize, bits: u64) -> Result<bool, super::violation::Violation> {
        let now = self.now;
        let clock = &mut self.nodes[host].clock;
        if clock.stepped_at.is_some_and(|at| now < at + 1000 * MS) {
            return Ok(false);
        }
        clock.step(now, bits & 1 == 0, MS + (bits >> 1) % (19 * MS));
        self.clock_steps += 1;
        if self.nodes[host].up {
            self.feed(host, Event::Tick)?;
        }
        Ok(true)
    }

    pub(super) fn resume(&mut self, node: usize, run: u64) -> Checked {
        if !self.is(node, run) {
            return Ok(());
        }
        self.say(|| format!("host{node} goes on"));
        let waiting = self.nodes[node].paused.take().unwrap_or_default();
        self.check_lease(node)?;
        for event in waiting {
            if self.is(node, run) {
                self.feed(node, event)?;
            }
        }
        match self.is(node, run) {
            true => self.feed(node, Event::Tick),
            false => Ok(()),
        }
    }

    /// A primary has its hands off the disks before its backup hears that it leaves.
    pub(super) fn leave(&mut self, node: usize, run: u64, by: u64) -> Checked {
        if !self.is(node, run) {
            return Ok(());
        }
        let host = &self.nodes[node];
        let writes = host
            .guest
            .as_ref()
            .is_some_and(|guest| !guest.flying.is_empty());
        let waits = host.core.role() == Role::Primary && writes && self.now < by;
        if waits && self.sabotage != Some(Sabotage::DisksNotRetired) {
            self.at(self.now + MS, Step::Leave(node, run, by));
            return Ok(());
        }
        self.nodes[node].left = true;
        self.feed(node, Event::Stop)
    }

    /// A host comes back. Its operator starts a guest anew that is surely lost, or waits.
    pub(super) fn restart(&mut self, node: usize) {
        if self.nodes[node].up {
            return;
        }
        self.stats.restarts += 1;
        let start = if self.is_vacant() && self.one_in(2) {
            let generation = self.arbiter.held;
            Start::Primary { generation }
        } else if self.chance(Kind::WrongStart, 10) {
            Start::Primary { generation: 0 }
        } else {
            Start::Backup
        };
        self.say(|| format!("host{node} starts: {start:?}"));
        self.start(node, start);
    }
}
