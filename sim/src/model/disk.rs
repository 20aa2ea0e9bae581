//! The disk that all hosts share. The guest writes to it, at most once to a block at a time, and is told
//! when a write is done.

use super::node::Guest;
use super::plan::MS;
use super::sabotage::Sabotage;
use super::violation::{Checked, Rule};
use super::world::{Step, World};

pub(super) const BLOCKS: u64 = 2;

/// What is on it.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// By block: the epoch's content whose write landed last.
    blocks: [Option<usize>; BLOCKS as usize],
    /// Until when it refuses writes.
    pub(super) errors_until: u64,
}

/// A write on its way to the disk.
#[derive(Debug)]
pub(super) struct Write {
    node: usize,
    run: u64,
    power_cuts: u64,
    serial: u64,
    request: usize,
    /// Longer than the margin of the lease allows for.
    slow: bool,
}

impl World {
    /// Gives a request of the live guest here to the disk.
    pub(super) fn submit(&mut self, node: usize, request: usize) -> Checked {
        let now = self.now;
        let slow = now < self.nodes[node].slow_disk_until;
        let least = if slow { 20 * MS } else { MS / 20 };
        let most = if slow { 400 * MS } else { 10 * MS };
        let at = now + self.random.between(least, most);
        let guest = self.live_guest(node)?;
        if !guest.flying.insert(request) {
            return Ok(());
        }
        let serial = guest.serial;
        if self.sabotage == Some(Sabotage::ToldBeforeLanded) {
            self.live_guest(node)?.done.push((request, true));
        }
        let host = &mut self.nodes[node];
        host.writes_until = host.writes_until.max(at);
        let write = Write {
            node,
            run: host.run,
            power_cuts: host.power_cuts,
            serial,
            request,
            slow,
        };
        self.stats.requests += 1;
        self.mention(|| format!("host{node} gives write {request} to the disk"));
        self.at(at, Step::Land(write));
        Ok(())
    }

    /// A write lands or fails; a copy that waits for it is told so.
    pub(super) fn land(&mut self, write: Write) -> Checked {
        let Write {
            node,
            power_cuts,
            serial,
            request,
            ..
        } = write;
        if self.nodes[node].power_cuts != power_cuts {
            return Ok(());
        }
        let well = self.now >= self.disk.errors_until || self.one_in(2);
        if well {
            self.put(&write)?;
        }
        self.mention(|| match well {
            true => format!("host{node}'s write {request} is on the disk"),
            false => format!("host{node}'s write {request} fails"),
        });
        let guest = self.nodes[node].guest.as_mut();
        if let Some(guest) = guest.filter(|guest| guest.serial == serial)
            && guest.flying.remove(&request)
            && self.sabotage != Some(Sabotage::ToldBeforeLanded)
        {
            guest.done.push((request, well));
        }
        Ok(())
    }

    /// Power is cut: each write in flight has reached the disk or never will.
    pub(super) fn scatter(&mut self, node: usize) -> Checked {
        let (run, power_cuts) = (self.nodes[node].run, self.nodes[node].power_cuts);
        let Some(guest) = self.nodes[node].guest.take() else {
            return Ok(());
        };
        for request in guest.flying {
            if self.one_in(2) {
                self.put(&Write {
                    node,
                    run,
                    power_cuts,
                    serial: guest.serial,
                    request,
                    slow: false,
                })?;
            }
        }
        Ok(())
    }

    /// Only a write that a slow disk has taken from a host which was then cut off may come too late: no
    /// protocol between the hosts can take it back (a disk with reservations could). A host that has left in
    /// order has waited for it.
    fn put(&mut self, write: &Write) -> Checked {
        let &Write {
            node,
            run,
            request,
            slow,
            ..
        } = write;
        let Some(block) = self.contents[request].writes else {
            return Rule::DaemonCantObey.broken(format!("content {request} writes nothing"));
        };
        let there = self.disk.blocks[block];
        if there.is_some_and(|there| there > request) {
            let left = self.nodes[node].left && self.nodes[node].run == run;
            if slow && !left {
                self.stats.late_writes += 1;
                self.say(|| format!("host{node}'s write {request} lands late, as it may"));
                return Ok(());
            }
            return Rule::WriteOrder.broken(format!(
                "host {node}'s write {request} to block {block} lands after write {there:?}"
            ));
        }
        self.disk.blocks[block] = Some(request);
        Ok(())
    }

    /// Whether all is well with the requests of a live copy: those that its guest waits for, and those
    /// that it is told of now.
    pub(super) fn check_requests(
        &self,
        node: usize,
        guest: &Guest,
        told: &[(usize, bool)],
    ) -> Checked {
        for &(request, well) in told {
            let block = self.contents[request].writes.unwrap_or_default();
            if well && self.disk.blocks[block].is_none_or(|there| there < request) {
                return Rule::ToldTooEarly.broken(format!(
                    "host {node}'s guest is told that write {request} is done, which is not on the disk"
                ));
            }
        }
        let waiting = guest.tip.map(|tip| self.contents[tip].waiting.as_slice());
        for &request in waiting.unwrap_or_default() {
            let held = guest.held.iter().any(|(_, content)| *content == request);
            let told = told.iter().any(|(done, _)| *done == request);
            if !held && !told && !guest.flying.contains(&request) {
                return Rule::RequestForgotten.broken(format!(
                    "host {node}'s guest waits for write {request}, which nobody works on"
                ));
            }
        }
        Ok(())
    }
}
