//! What the operator and the journal are told.

use replay::protocol::Note;
use serde_json::json;

use super::{Pair, since_ms};
use crate::host::clock::monotonic_ns;

impl Pair {
    pub(super) fn note(&mut self, note: &Note) {
        match note {
            Note::PeerLost {
                host,
                why,
                silent_ns,
            } => {
                self.peer_lost_at = Some(monotonic_ns());
                self.kept.lost(*silent_ns);
                self.journal.event(
                    "peer_lost",
                    json!({"host": host, "why": why,
                           "detected_after_ms": *silent_ns as f64 / 1e6}),
                );
            }
            Note::ArbiterWon { generation } => {
                let ms = self.peer_lost_at.map(since_ms);
                self.journal
                    .event("arbiter_won", json!({"generation": generation, "ms": ms}));
            }
            Note::FewVoices { heard, voices } => self
                .journal
                .event("few_voices", json!({"heard": heard, "voices": voices})),
            Note::Protected { host } => {
                let clone_ms = self.join_started_at.take().map(since_ms);
                let held_ms = self.held_since.take().map(since_ms);
                self.journal.event(
                    "protected",
                    json!({"with": host, "clone_ms": clone_ms, "outputs_held_ms": held_ms}),
                );
            }
            Note::Joining { host } => {
                self.journal.event("joined", json!({"with": host}));
            }
            Note::Diverged { epoch } => {
                self.kept.diverged();
                self.journal.event("peer_diverged", json!({"epoch": epoch}));
            }
            Note::Role {
                from,
                to,
                generation,
            } => {
                self.journal.event(
                    "role",
                    json!({"from": from.to_string(), "to": to.to_string(),
                           "generation": generation}),
                );
            }
            _ => {}
        }
        self.managed.changed();
        tracing::info!("{note}");
    }
}
