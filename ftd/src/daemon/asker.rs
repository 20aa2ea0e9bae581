//! The arbiter in a thread of its own: its storage may hang, and the daemon must not.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use replay::protocol::{ArbiterAnswer, StandAnswer};

use super::journal::chain;
use crate::arbiter::sign::SIGN_EVERY;
use crate::arbiter::vacancy::wait_until_vacant;
use crate::arbiter::{Arbiter, ArbiterError, Sign, Verdict};
use crate::host::clock::monotonic_ns;
use crate::outside::outbox::{Outbox, Outgoing};

/// What the thread is told.
enum Task {
    /// Bid for a generation.
    Ask(u64),
    /// Write that this host would take a generation, and has acknowledged the log up to an epoch, and read who else would.
    Stand(u64, u64),
    /// This host has the guest: say so from now on, at once and every [`SIGN_EVERY`]. (Or, of a
    /// sign that says that it has ended, once.)
    Sign(Sign),
    /// Look who has won a generation.
    Find(u64),
    /// Find out whether anybody has the guest.
    Look,
}

/// Asks the arbiter, and signs; what comes of it comes through the outbox. Answers come in order,
/// one for each question.
pub struct Asker {
    tasks: Option<Sender<Task>>,
    thread: Option<JoinHandle<()>>,
}

impl Asker {
    /// Starts the thread. It ends with the asker, or with the process if the storage hangs.
    ///
    /// # Errors
    /// The host has no thread left.
    pub fn start(arbiter: Box<dyn Arbiter>, outbox: Arc<Outbox>) -> std::io::Result<Asker> {
        let (tasks, received) = channel();
        let mut worker = Worker {
            arbiter,
            outbox,
            sign: None,
            due: Instant::now(),
            failing: false,
        };
        let thread = std::thread::Builder::new()
            .name("arbiter".to_owned())
            .spawn(move || worker.run(&received))?;
        Ok(Asker {
            tasks: Some(tasks),
            thread: Some(thread),
        })
    }

    fn tell(&self, task: Task) {
        if let Some(tasks) = &self.tasks {
            // The thread lives as long as this sender does.
            let _ = tasks.send(task);
        }
    }

    /// Bids for `generation`; the answer comes as [`Outgoing::Arbiter`].
    pub fn ask(&self, generation: u64) {
        self.tell(Task::Ask(generation));
    }

    /// Stands for `generation` having acknowledged the log up to the epoch `through`; what is known of the candidates comes as
    /// [`Outgoing::Standing`].
    pub fn stand(&self, generation: u64, through: u64) {
        self.tell(Task::Stand(generation, through));
    }

    /// Signs with this from now on ([`Outgoing::Signed`] follows each time), and looks whether the
    /// generation is superseded ([`Outgoing::Superseded`]).
    pub fn sign(&self, sign: Sign) {
        self.tell(Task::Sign(sign));
    }

    /// Looks for a sign of `generation`'s winner; it comes as [`Outgoing::Holder`].
    pub fn find(&self, generation: u64) {
        self.tell(Task::Find(generation));
    }

    /// Finds out, in some seconds, whether anybody has the guest; it comes as [`Outgoing::Looked`]. For a host
    /// that does not have it: other questions wait so long.
    pub fn look(&self) {
        self.tell(Task::Look);
    }

    /// Waits until everything that was told is done, for `timeout` at most.
    pub fn finish(&mut self, timeout: Duration) -> bool {
        self.tasks = None;
        let start = Instant::now();
        while let Some(thread) = &self.thread {
            if thread.is_finished() {
                break;
            }
            if start.elapsed() >= timeout {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }
}

struct Worker {
    arbiter: Box<dyn Arbiter>,
    outbox: Arc<Outbox>,
    sign: Option<Sign>,
    /// When to sign.
    due: Instant,
    /// The last attempt to sign failed, which was told.
    failing: bool,
}

impl Worker {
    fn run(&mut self, tasks: &Receiver<Task>) {
        loop {
            let task = match &self.sign {
                None => tasks.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(_) => tasks.recv_timeout(self.due.saturating_duration_since(Instant::now())),
            };
            match task {
                Ok(Task::Ask(generation)) => {
                    let answer = answer(self.arbiter.as_mut(), generation);
                    // At its end nobody takes it; what else was told is done nevertheless.
                    self.outbox.push(Outgoing::Arbiter {
                        asked: generation,
                        answer,
                    });
                }
                Ok(Task::Stand(asked, through)) => {
                    let answer = match self.arbiter.stand(asked, through) {
                        Ok(standing) => StandAnswer::Heard {
                            decided: standing.decided,
                            through: standing.through,
                        },
                        Err(error) => StandAnswer::Unreachable { why: chain(&error) },
                    };
                    self.outbox.push(Outgoing::Standing { asked, answer });
                }
                Ok(Task::Sign(mut sign)) => {
                    sign.beat = self.sign.as_ref().map_or(0, |last| last.beat);
                    self.sign = Some(sign);
                    self.due = Instant::now();
                }
                Ok(Task::Find(generation)) => {
                    let sign = self.arbiter.sign_of(generation).unwrap_or_default();
                    let sign = sign.filter(|sign| sign.generation == generation);
                    self.outbox.push(Outgoing::Holder { sign });
                }
                Ok(Task::Look) => {
                    let vacant = is_vacant(self.arbiter.as_mut());
                    self.outbox.push(Outgoing::Looked { vacant });
                }
                Err(RecvTimeoutError::Timeout) => self.sign(),
                Err(RecvTimeoutError::Disconnected) => {
                    // The last one told has not been written yet if it is due.
                    if self.due <= Instant::now() {
                        self.sign();
                    }
                    return;
                }
            }
        }
    }

    fn sign(&mut self) {
        let Some(sign) = &mut self.sign else { return };
        self.due = Instant::now() + SIGN_EVERY;
        sign.beat += 1;
        let begun_ns = monotonic_ns();
        let arbiter = self.arbiter.as_mut();
        let done = arbiter.is_superseded(sign.generation).and_then(|over| {
            // Who has lost the guest has nothing to say.
            if !over {
                arbiter.sign(sign)?;
            }
            Ok(over)
        });
        let (generation, may_pass) = (sign.generation, sign.may_pass);
        if sign.ended {
            self.sign = None;
        }
        match done {
            Ok(over) => {
                self.failing = false;
                self.outbox.push(match over {
                    true => Outgoing::Superseded {
                        generation: generation + 1,
                    },
                    false => Outgoing::Signed { begun_ns, may_pass },
                });
            }
            Err(error) if !std::mem::replace(&mut self.failing, true) => {
                tracing::warn!("the shared storage fails: {}", chain(&error));
            }
            Err(_) => {}
        }
    }
}

/// What can't be found out is not vacant.
fn is_vacant(arbiter: &mut dyn Arbiter) -> bool {
    let start = Instant::now();
    let found = wait_until_vacant(arbiter, |step, _| {
        std::thread::sleep(step);
        start.elapsed()
    });
    match found {
        Ok(_) => true,
        Err(occupied) => {
            tracing::info!("{}", chain(&occupied));
            false
        }
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
    use crate::arbiter::Standing;
    use std::collections::VecDeque;
    use std::sync::Mutex;

    /// Answers each question with what comes next, and keeps the signs.
    struct Scripted {
        answers: VecDeque<Result<Verdict, ArbiterError>>,
        signs: Arc<Mutex<Vec<Sign>>>,
        /// From this generation on all are superseded.
        superseded: u64,
    }

    impl Arbiter for Scripted {
        fn test_and_set(&mut self, _generation: u64) -> Result<Verdict, ArbiterError> {
            self.answers.pop_front().unwrap()
        }

        fn stand(&mut self, generation: u64, through: u64) -> Result<Standing, ArbiterError> {
            match generation {
                4 => Err(superseded()),
                _ => Ok(Standing {
                    decided: false,
                    through: vec![through, 5],
                }),
            }
        }

        fn is_superseded(&mut self, generation: u64) -> Result<bool, ArbiterError> {
            Ok(generation >= self.superseded)
        }

        fn sign(&mut self, sign: &Sign) -> Result<(), ArbiterError> {
            self.signs.lock().unwrap().push(sign.clone());
            Ok(())
        }

        fn sign_of(&mut self, _generation: u64) -> Result<Option<Sign>, ArbiterError> {
            Ok(None)
        }

        fn current_generation(&mut self) -> Result<u64, ArbiterError> {
            Ok(9)
        }
    }

    fn scripted<const N: usize>(answers: [Result<Verdict, ArbiterError>; N]) -> Scripted {
        Scripted {
            answers: answers.into(),
            signs: Arc::default(),
            superseded: u64::MAX,
        }
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

    fn outbox() -> (mio::Poll, Arc<Outbox>) {
        let poll = mio::Poll::new().unwrap();
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).unwrap();
        (poll, Arc::new(Outbox::new(waker)))
    }

    /// The first `count` things that come.
    fn take(outbox: &Outbox, count: usize) -> Vec<Outgoing> {
        let (mut items, start) = (VecDeque::new(), Instant::now());
        while items.len() < count && start.elapsed() < Duration::from_secs(20) {
            outbox.take(&mut items);
            std::thread::sleep(Duration::from_millis(1));
        }
        items.into()
    }

    #[test]
    fn each_question_is_answered_in_order() {
        let (_poll, outbox) = outbox();
        let arbiter = scripted([Err(superseded()), Ok(Verdict::Won)]);
        let asker = Asker::start(Box::new(arbiter), Arc::clone(&outbox)).unwrap();
        asker.ask(4);
        asker.ask(8);
        let asked: Vec<u64> = take(&outbox, 2)
            .iter()
            .map(|item| match item {
                Outgoing::Arbiter { asked, .. } => *asked,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(asked, [4, 8]);
    }

    #[test]
    fn a_candidate_hears_of_the_others() {
        let (_poll, outbox) = outbox();
        let asker = Asker::start(Box::new(scripted([])), Arc::clone(&outbox)).unwrap();
        asker.stand(4, 9);
        asker.stand(6, 9);
        let told = take(&outbox, 2);
        let away = |answer: &StandAnswer| matches!(answer, StandAnswer::Unreachable { .. });
        assert!(matches!(&told[0], Outgoing::Standing { asked: 4, answer } if away(answer)));
        let heard = StandAnswer::Heard {
            decided: false,
            through: vec![9, 5],
        };
        assert!(matches!(&told[1], Outgoing::Standing { asked: 6, answer } if *answer == heard));
    }

    fn signing() -> Sign {
        Sign {
            generation: 5,
            ..Sign::new("west", None, 300)
        }
    }

    #[test]
    fn signs_go_on_until_the_last_one() {
        let (_poll, outbox) = outbox();
        let arbiter = scripted([]);
        let signs = Arc::clone(&arbiter.signs);
        let mut asker = Asker::start(Box::new(arbiter), Arc::clone(&outbox)).unwrap();
        asker.sign(signing());
        let told = take(&outbox, 2);
        assert!(
            told.iter()
                .all(|told| matches!(told, Outgoing::Signed { .. }))
        );
        asker.sign(Sign {
            ended: true,
            ..signing()
        });
        assert!(asker.finish(Duration::from_secs(20)));
        let signs = signs.lock().unwrap();
        let beats: Vec<u64> = signs.iter().map(|sign| sign.beat).collect();
        assert!(beats.len() >= 3 && beats.iter().copied().eq(1..=beats.len() as u64));
        let ended: Vec<bool> = signs.iter().map(|sign| sign.ended).collect();
        assert_eq!(ended.iter().filter(|ended| **ended).count(), 1);
        assert_eq!(ended.last(), Some(&true));
    }

    #[test]
    fn who_is_superseded_is_told_and_signs_no_more() {
        let (_poll, outbox) = outbox();
        let mut arbiter = scripted([]);
        arbiter.superseded = 5;
        let signs = Arc::clone(&arbiter.signs);
        let asker = Asker::start(Box::new(arbiter), Arc::clone(&outbox)).unwrap();
        asker.sign(signing());
        let told = take(&outbox, 1);
        assert!(matches!(told[..], [Outgoing::Superseded { generation: 6 }]));
        assert!(signs.lock().unwrap().is_empty());
    }
}
