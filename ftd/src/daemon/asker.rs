//! The arbiter in a thread of its own: its storage may hang, and the daemon must not.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use replay::protocol::ArbiterAnswer;

use crate::arbiter::{Arbiter, Verdict};
use crate::outside::outbox::{Outbox, Outgoing};

/// Asks the arbiter; answers come through the outbox, one for each question, in order.
pub struct Asker {
    questions: Sender<u64>,
}

impl Asker {
    /// Starts the thread. It ends with the asker, or with the process if the storage hangs.
    pub fn start(mut arbiter: Box<dyn Arbiter>, outbox: Arc<Outbox>) -> std::io::Result<Asker> {
        let (questions, asked) = channel::<u64>();
        std::thread::Builder::new()
            .name("arbiter".to_owned())
            .spawn(move || {
                for generation in asked {
                    let answer = match arbiter.test_and_set(generation) {
                        Ok(Verdict::Won) => ArbiterAnswer::Won,
                        Ok(Verdict::Lost { winner }) => {
                            let newest = arbiter.current_generation().unwrap_or(generation);
                            ArbiterAnswer::Lost {
                                generation: newest.max(generation),
                                by: winner,
                            }
                        }
                        Err(error) => ArbiterAnswer::Unreachable {
                            why: error.to_string(),
                        },
                    };
                    if !outbox.push(Outgoing::Arbiter {
                        asked: generation,
                        answer,
                    }) {
                        break;
                    }
                }
            })?;
        Ok(Asker { questions })
    }

    /// Bids for `generation`.
    pub fn ask(&self, generation: u64) {
        // The thread lives as long as this sender does.
        let _ = self.questions.send(generation);
    }
}
