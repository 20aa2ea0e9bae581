//! Checks inside the core, and how each is removed from its source.

/// One check's removal.
pub(super) struct Removal {
    pub(super) name: &'static str,
    /// What the core does without it.
    pub(super) what: &'static str,
    pub(super) edits: &'static [Edit],
}

/// A text that occurs once in a file of `replay/src/protocol`, and what takes its place.
pub(super) struct Edit {
    pub(super) file: &'static str,
    pub(super) from: &'static str,
    pub(super) to: &'static str,
}

const fn edit(file: &'static str, from: &'static str, to: &'static str) -> Edit {
    Edit { file, from, to }
}

pub(super) const REMOVALS: [Removal; 22] = [
    Removal {
        name: "core: output rule",
        what: "outputs go out when their epoch is closed, acknowledged or not",
        edits: &[edit(
            "primary.rs",
            "        self.closed = expected;\n",
            "        self.closed = expected;\n        \
             out.push(Action::ReleaseOutputs { through: expected });\n",
        )],
    },
    Removal {
        name: "core: commit level",
        what: "what is received counts as executed",
        edits: &[edit(
            "member.rs",
            "Commit::Executed => ack.executed",
            "Commit::Executed => ack.received",
        )],
    },
    Removal {
        name: "core: what is released",
        what: "a primary says that all outputs are out that it has ever made",
        edits: &[edit(
            "primary.rs",
            "        epoch.released = self.released;\n",
            "        epoch.released = self.closed - 1;\n",
        )],
    },
    Removal {
        name: "core: hold from the clone on",
        what: "outputs are not held when a joiner may become a backup",
        edits: &[edit(
            "primary.rs",
            "        out.push(Action::HoldOutputs { from: first });\n",
            "",
        )],
    },
    Removal {
        name: "core: lease",
        what: "an acknowledgement counts however old it is",
        edits: &[edit(
            "release.rs",
            ".is_some_and(|link| shared.now < link.lease_until(shared.detect_ns()))",
            ".is_some()",
        )],
    },
    Removal {
        name: "core: waiting the lease out",
        what: "a backup asks the arbiter as soon as its connection breaks",
        edits: &[edit(
            "backup.rs",
            "LinkLoss::Broken(_) => link.heard_at + shared.detect_ns()",
            "LinkLoss::Broken(_) => shared.now",
        )],
    },
    Removal {
        name: "core: lease of a question",
        what: "a generation beside other backups counts however long its winning was not known",
        edits: &[edit(
            "excluding.rs",
            "        let late = self.ask.take().is_some_and(|ask| ask.is_old(shared));\n",
            "        self.ask = None;\n        let late = false;\n",
        )],
    },
    Removal {
        name: "core: test-and-set of the backup",
        what: "a backup goes live without asking the arbiter",
        edits: &[
            edit(
                "backup.rs",
                "if !self.won || self.executed < self.received {",
                "if self.link.is_some() || self.executed < self.received {",
            ),
            edit(
                "backup.rs",
                "            ask.poll(shared, out);\n        }\n        State::Backup(self)",
                "            ask.poll(shared, out);\n        }\n        self.try_live(shared, out)",
            ),
        ],
    },
    Removal {
        name: "core: test-and-set of the primary",
        what: "a primary that has lost its backup goes on without asking the arbiter",
        edits: &[edit(
            "primary.rs",
            "        self.prepare(shared, out);\n        State::Primary(self)",
            "        if let Some(ask) = &self.ask {\n            let generation = ask.generation;\n            \
             return self.won(generation, shared, out);\n        }\n        State::Primary(self)",
        )],
    },
    Removal {
        name: "core: waiting for the arbiter",
        what: "an arbiter that can't be reached is taken for a yes",
        edits: &[edit(
            "ask.rs",
            "                Verdict::Pending\n            }\n        }\n",
            "                Verdict::Won\n            }\n        }\n",
        )],
    },
    Removal {
        name: "core: all backups",
        what: "outputs go out when one of the backups has acknowledged them, whoever may take over",
        edits: &[edit(
            "release.rs",
            "newer.filter(|through| is_safe(*through)).max()",
            "newer.max()",
        )],
    },
    Removal {
        name: "core: voices",
        what: "a backup that outputs did not wait for bids without asking around",
        edits: &[edit(
            "canvass.rs",
            "if behind.count() >= self.voices as usize {",
            "if behind.count() > 0 {",
        )],
    },
    Removal {
        name: "core: who has more of the log",
        what: "a backup bids though another one has more of the log",
        edits: &[edit(
            "canvass.rs",
            "|&&other| other <= self.through",
            "|_| true",
        )],
    },
    Removal {
        name: "core: voices that are known",
        what: "a backup that was told how many voices are enough counts as knowing it",
        edits: &[edit(
            "member.rs",
            "let least = quorums.map(|quorum| quorum.voices).min();",
            "let least = quorums.map(|quorum| quorum.voices).max();",
        )],
    },
    Removal {
        name: "core: voices of a generation to come",
        what: "a backup that was told how many voices are enough once it is kept counts as not knowing it",
        edits: &[edit(
            "member.rs",
            "let quorums = self.quorums.iter().chain(&self.kept_quorum);",
            "let quorums = self.quorums.iter();",
        )],
    },
    Removal {
        name: "core: who may take himself for kept",
        what: "a backup that is lost after it was told that it stays counts as ruled out",
        edits: &[edit(
            "excluding.rs",
            "member.link.is_some() || member.kept >= generation",
            "member.link.is_some()",
        )],
    },
    Removal {
        name: "core: who was ruled out",
        what: "a backup that finds its primary the winner goes on to the next generation though it was not kept",
        edits: &[edit(
            "backup.rs",
            "if by == self.bidder && asked <= self.kept",
            "if by == self.bidder",
        )],
    },
    Removal {
        name: "core: halt of the loser",
        what: "a primary that has lost at the arbiter goes on",
        edits: &[edit(
            "primary.rs",
            "                        return State::halt(HaltReason::Lost { generation, by }, out);",
            "                        let _ = by;\n                        \
             return self.alone(generation, shared, out);",
        )],
    },
    Removal {
        name: "core: halt of a second start",
        what: "a primary that is started beside a live copy goes on though it lost at the arbiter",
        edits: &[edit(
            "alone.rs",
            "                State::halt(HaltReason::Lost { generation, by }, out)",
            "                let _ = by;\n                go_alone(generation, 0, shared, out)",
        )],
    },
    Removal {
        name: "core: the loser's copy is dropped",
        what: "a backup that has lost at the arbiter keeps its copy",
        edits: &[edit(
            "backup.rs",
            "                        out.push(Action::DropGuest);\n                        \
             return Joining::again(shared);",
            "",
        )],
    },
    Removal {
        name: "core: all received is executed first",
        what: "a backup goes live before it has executed all that it acknowledged",
        edits: &[edit(
            "backup.rs",
            "if !self.won || self.executed < self.received {",
            "if !self.won {",
        )],
    },
    Removal {
        name: "core: order of epochs",
        what: "a backup takes epochs in any order",
        edits: &[edit(
            "backup.rs",
            "if found != expected {",
            "if found == 0 {",
        )],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Else `scripts/sim` would be the first to notice a change of the core.
    #[test]
    fn each_text_to_be_replaced_occurs_once() {
        for removal in &REMOVALS {
            for edit in removal.edits {
                let core = concat!(env!("CARGO_MANIFEST_DIR"), "/../replay/src/protocol");
                let source = std::fs::read_to_string(format!("{core}/{}", edit.file)).unwrap();
                assert_eq!(source.matches(edit.from).count(), 1, "{}", removal.name);
            }
        }
    }
}
