//! Thins a failing world out: fewer faults and less time, while the same rule is still broken.

use crate::check::check;
use crate::model::kind::Kind;
use crate::model::plan::{MS, Plan};
use crate::model::sabotage::Sabotage;
use crate::model::violation::{Rule, Violation};

/// A plan that differs is tried in so many worlds: what is left out shifts everything after it, so the
/// same race may need other delays.
const SALTS: u64 = 6;
/// Most worlds tried in all.
const TRIES_MAX: u32 = 6000;

/// A small plan that breaks the same rule, and how.
pub(crate) fn shrink(plan: &Plan, sabotage: Option<Sabotage>) -> Option<(Plan, Violation)> {
    let violation = check(plan, sabotage, false).violation?;
    let mut shrinker = Shrinker {
        rule: violation.rule,
        sabotage,
        best: (plan.clone(), violation),
        tries: 0,
    };
    shrinker.run();
    Some(shrinker.best)
}

struct Shrinker {
    rule: Rule,
    sabotage: Option<Sabotage>,
    best: (Plan, Violation),
    tries: u32,
}

impl Shrinker {
    fn run(&mut self) {
        loop {
            let before = self.size();
            self.end_sooner();
            self.drop_faults();
            self.drop_chances();
            self.simplify();
            if self.size() >= before || self.tries >= TRIES_MAX {
                return;
            }
        }
    }

    fn size(&self) -> (usize, usize, usize, u64) {
        let plan = &self.best.0;
        let (faults, chances) = (plan.faults.len(), plan.chances.len());
        (faults, chances, plan.hosts, plan.faults_end)
    }

    /// Keeps a changed plan if the same rule is broken in one of its worlds.
    fn offer(&mut self, mut plan: Plan) -> bool {
        let first = self.best.0.salt;
        for salt in std::iter::once(first).chain((0..SALTS).filter(|salt| *salt != first)) {
            if self.tries >= TRIES_MAX {
                return false;
            }
            self.tries += 1;
            plan.salt = salt;
            let violation = check(&plan, self.sabotage, false).violation;
            if let Some(violation) = violation.filter(|found| found.rule == self.rule) {
                self.best = (plan, violation);
                return true;
            }
        }
        false
    }

    /// No faults after the violation, and no time that nothing happens in.
    fn end_sooner(&mut self) {
        let (plan, violation) = self.best.clone();
        let mut shorter = plan.clone();
        shorter
            .faults
            .retain(|fault| fault.at / MS <= violation.at_ms);
        let last = shorter
            .faults
            .last()
            .map_or(0, |fault| fault.at + fault.lasts);
        shorter.faults_end = plan.faults_end.min(last + 1000 * MS);
        if shorter.faults_end < plan.faults_end || shorter.faults.len() < plan.faults.len() {
            self.offer(shorter);
        }
    }

    /// Leaves halves out, then quarters, and so on down to single faults.
    fn drop_faults(&mut self) {
        let mut part = self.best.0.faults.len().div_ceil(2);
        while part > 0 {
            let mut from = 0;
            while from < self.best.0.faults.len() {
                let mut plan = self.best.0.clone();
                let to = (from + part).min(plan.faults.len());
                plan.faults.drain(from..to);
                if !self.offer(plan) {
                    from += part;
                }
            }
            part = if part == 1 { 0 } else { part.div_ceil(2) };
        }
    }

    fn drop_chances(&mut self) {
        let chances: Vec<Kind> = self.best.0.chances.iter().copied().collect();
        for kind in chances {
            let mut plan = self.best.0.clone();
            plan.chances.remove(&kind);
            self.offer(plan);
        }
    }

    /// Two hosts, clocks alike, large buffers, short delays.
    fn simplify(&mut self) {
        let changes: [fn(&mut Plan); 4] = [
            |plan| plan.hosts = 2,
            |plan| plan.clocks.iter_mut().for_each(|clock| clock.0 = 1000),
            |plan| plan.small_buffers = false,
            |plan| plan.delay_max = MS / 5,
        ];
        for change in changes {
            let mut plan = self.best.0.clone();
            change(&mut plan);
            let hosts = plan.hosts;
            plan.faults
                .retain(|fault| fault.host < hosts && fault.other < hosts);
            self.offer(plan);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shrunk_world_is_smaller_and_breaks_the_same_rule() {
        let sabotage = Some(Sabotage::NotReissued);
        let violated = |plan: &Plan| check(plan, sabotage, false).violation;
        let plan = (0..1000)
            .map(Plan::of)
            .find(|plan| plan.faults.len() > 4 && violated(plan).is_some())
            .unwrap();
        let (small, violation) = shrink(&plan, sabotage).unwrap();
        assert!(small.faults.len() <= 2, "{small:?}");
        assert_eq!(violated(&small).unwrap(), violation);
        assert_eq!(violated(&plan).unwrap().rule, violation.rule);
    }
}
