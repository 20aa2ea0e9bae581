//! The arbiter in a thread of its own: its storage may hang, and the daemon must not.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use replay::protocol::ArbiterAnswer;

use crate::arbiter::{Arbiter, ArbiterError, Verdict};
use crate::daemon::journal::chain;
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
                    let answer = answer(arbiter.as_mut(), generation);
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

    /// Bids for `generation`; the answer comes as [`Outgoing::Arbiter`].
    pub fn ask(&self, generation: u64) {
        // The thread lives as long as this sender does.
        let _ = self.questions.send(generation);
    }
}

fn answer(arbiter: &mut dyn Arbiter, generation: u64) -> ArbiterAnswer {
    match arbiter.test_and_set(generation) {
        Ok(Verdict::Won) => ArbiterAnswer::Won,
        Ok(Verdict::Lost { winner }) => {
            let newest = arbiter.current_generation().unwrap_or(generation);
            ArbiterAnswer::Lost {
                generation: newest.max(generation),
                by: winner,
            }
        }
        // Whoever won the newer generation had the guest then: it is not this host's, and asking
        // again would only get the same answer. (Asking for the newer one who has it could win it.)
        Err(ArbiterError::Superseded { newest, .. }) => ArbiterAnswer::Lost {
            generation: newest,
            by: "another host".to_owned(),
        },
        Err(error) => ArbiterAnswer::Unreachable { why: chain(&error) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::time::{Duration, Instant};

    /// Answers each question with what comes next.
    struct Scripted(VecDeque<Result<Verdict, ArbiterError>>);

    impl Arbiter for Scripted {
        fn test_and_set(&mut self, _generation: u64) -> Result<Verdict, ArbiterError> {
            self.0.pop_front().unwrap()
        }

        fn current_generation(&mut self) -> Result<u64, ArbiterError> {
            Ok(9)
        }
    }

    fn scripted<const N: usize>(answers: [Result<Verdict, ArbiterError>; N]) -> Scripted {
        Scripted(answers.into())
    }

    fn superseded() -> ArbiterError {
        ArbiterError::Superseded {
            generation: 4,
            newest: 7,
        }
    }

    #[test]
    fn a_superseded_generation_is_lost_and_not_merely_out_of_reach() {
        let mut arbiter = scripted([Err(superseded())]);
        let lost = ArbiterAnswer::Lost {
            generation: 7,
            by: "another host".to_owned(),
        };
        assert_eq!(answer(&mut arbiter, 4), lost);
    }

    #[test]
    fn no_answer_is_not_lost() {
        let mut arbiter = scripted([Err(ArbiterError::TimedOut {
            generation: 4,
            ms: 5000,
        })]);
        assert!(matches!(
            answer(&mut arbiter, 4),
            ArbiterAnswer::Unreachable { .. }
        ));
    }

    #[test]
    fn a_loser_learns_the_newest_generation() {
        let winner = "west".to_owned();
        let mut arbiter = scripted([Ok(Verdict::Lost { winner })]);
        let lost = ArbiterAnswer::Lost {
            generation: 9,
            by: "west".to_owned(),
        };
        assert_eq!(answer(&mut arbiter, 4), lost);
    }

    #[test]
    fn each_question_is_answered_in_order() {
        let poll = mio::Poll::new().unwrap();
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).unwrap();
        let outbox = Arc::new(Outbox::new(waker));
        let arbiter = scripted([Err(superseded()), Ok(Verdict::Won)]);
        let asker = Asker::start(Box::new(arbiter), Arc::clone(&outbox)).unwrap();
        asker.ask(4);
        asker.ask(8);
        let (mut items, start) = (VecDeque::new(), Instant::now());
        while items.len() < 2 && start.elapsed() < Duration::from_secs(20) {
            outbox.take(&mut items);
            std::thread::sleep(Duration::from_millis(1));
        }
        let asked: Vec<u64> = items
            .iter()
            .map(|item| match item {
                Outgoing::Arbiter { asked, .. } => *asked,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(asked, [4, 8]);
    }
}
