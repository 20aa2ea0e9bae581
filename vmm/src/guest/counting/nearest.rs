//! How near a replica came to a point that it missed: for whoever is to find out why.

use std::fmt;

use kvm_bindings::kvm_regs;
use replay::RegisterDifference;

use crate::guest::hash;

/// A visit of a point's instruction.
#[derive(Debug, Clone)]
pub(super) struct Nearest {
    /// How its registers differed from the point's.
    pub difference: Option<RegisterDifference>,
    /// What they held.
    pub regs: kvm_regs,
    /// Branches before the point, where they were counted.
    pub left: Option<u64>,
    /// Whether it was between two instructions.
    pub between: bool,
}

impl Nearest {
    /// Whether fewer registers differed. (A difference that no mark shows counts for more than none.)
    pub(super) fn is_nearer_than(&self, other: &Nearest) -> bool {
        let unlike = |visit: &Nearest| visit.difference.map(RegisterDifference::count);
        unlike(self) < unlike(other)
    }
}

impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.difference {
            None => f.write_str("had the same registers")?,
            Some(difference) => {
                write!(f, "differed in {difference}")?;
                let words = hash::words(&self.regs);
                for word in difference.places().filter_map(|place| words.get(place)) {
                    write!(f, " {word:#x}")?;
                }
            }
        }
        if let Some(left) = self.left {
            write!(f, ", {left} branches before the point")?;
        }
        if !self.between {
            f.write_str(", in the middle of an event")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(regs: kvm_regs, left: Option<u64>) -> Nearest {
        let point = kvm_regs { rax: 1, ..regs };
        let point = kvm_regs { rdx: 2, ..point };
        Nearest {
            difference: hash::registers(&regs).difference(hash::registers(&point)),
            regs,
            left,
            between: true,
        }
    }

    fn with(rax: u64, rdx: u64) -> kvm_regs {
        kvm_regs {
            rax,
            rdx,
            ..Default::default()
        }
    }

    #[test]
    fn fewer_registers_are_nearer() {
        let (none, one, two) = (with(1, 2), with(0x101, 2), with(0x101, 3));
        let [none, one, two] = [none, one, two].map(|regs| visit(regs, None));
        assert!(none.is_nearer_than(&one) && one.is_nearer_than(&two));
        assert!(!none.is_nearer_than(&none) && !two.is_nearer_than(&one));
    }

    #[test]
    fn what_differs_is_told() {
        let told = |visit: &Nearest| visit.to_string();
        let one = visit(with(0x101, 2), Some(0));
        assert_eq!(
            told(&one),
            "differed in RAX 0x101, 0 branches before the point"
        );
        let two = visit(with(0, 3), None);
        assert_eq!(told(&two), "differed in RAX, RDX 0x0 0x3");
        let alike = visit(with(1, 2), Some(3));
        assert_eq!(
            told(&alike),
            "had the same registers, 3 branches before the point"
        );
        let busy = Nearest {
            between: false,
            ..alike
        };
        assert_eq!(
            told(&busy),
            "had the same registers, 3 branches before the point, in the middle of an event"
        );
    }
}
