//! Cores one event at a time.

mod handing;
mod handshake;
mod hashes;
mod hostile;
mod live;
mod quorum;
mod replica;
mod several;

use super::link::MS;
use super::*;
use crate::codec::EncodedEpoch;
use crate::entry::{Epoch, Page};

const PEER: PeerId = PeerId(1);

fn facts() -> Facts {
    Facts {
        vm_id: "shop".to_owned(),
        cpu_model: "baseline-v1".to_owned(),
        clock: "exit".to_owned(),
        ram_bytes: 1 << 20,
        machine_digest: [7; 32],
        disks: vec![DiskFacts {
            capacity_bytes: 1 << 30,
            shared: true,
        }],
        image_id: vec![1, 2, 3],
    }
}

fn hello() -> Hello {
    Hello {
        protocol_version: PROTOCOL_VERSION,
        features: 0,
        host: "east".to_owned(),
        generation: 0,
        wants: Join::Clone,
        facts: facts(),
    }
}

fn welcome() -> Welcome {
    Welcome {
        protocol_version: PROTOCOL_VERSION,
        features: 0,
        host: "west".to_owned(),
        generation: 4,
        bidder: "west-1".to_owned(),
        commit: Commit::Received,
        detect_ms: 300,
        heartbeat_ms: 50,
    }
}

/// The first byte is the tag of a snapshot, or of a power button.
fn epoch(epoch: Epoch, snapshot: bool) -> EncodedEpoch {
    EncodedEpoch {
        epoch,
        bytes: vec![if snapshot { 8 } else { 6 }; 100],
        entries: 1,
        released: epoch.saturating_sub(1),
    }
}

fn ack(received: Epoch, executed: Epoch) -> Message {
    Message::Ack(Ack {
        received,
        executed,
        ..Ack::default()
    })
}

/// A core, its time, and what it wants done.
struct Side {
    core: Core,
    now_ms: u64,
}

impl Side {
    fn new(start: Start) -> Self {
        let core = Core::new(Config::new(start, "here", facts()), 0);
        Side { core, now_ms: 0 }
    }

    /// What an event leads to, but for heartbeats, the number of backups and notes.
    fn on(&mut self, event: Event) -> Vec<Action> {
        let mut actions = self.on_all(event);
        actions.retain(|action| {
            let aside = matches!(
                action,
                Action::Send {
                    message: Message::Heartbeat { .. } | Message::Backups { .. },
                    ..
                }
            );
            !aside && !matches!(action, Action::Note(_))
        });
        actions
    }

    fn on_all(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.core.handle(self.now_ms * MS, event, &mut actions);
        actions
    }

    /// A message from the one peer.
    fn says(&mut self, message: Message) -> Vec<Action> {
        self.on(Event::Message {
            peer: PEER,
            message,
        })
    }

    /// Lets time pass in steps of 10 ms.
    fn wait(&mut self, ms: u64) -> Vec<Action> {
        let mut all = Vec::new();
        for _ in 0..ms / 10 {
            self.now_ms += 10;
            all.append(&mut self.on(Event::Tick));
        }
        all
    }

    fn answer(&mut self, asked: Generation, answer: ArbiterAnswer) -> Vec<Action> {
        self.on(Event::Arbiter { asked, answer })
    }

    fn broken(&mut self) -> Vec<Action> {
        let why = LinkLoss::Broken("cable".to_owned());
        self.on(Event::PeerDisconnected { peer: PEER, why })
    }

    fn closed(&mut self) -> Vec<Action> {
        let why = LinkLoss::Closed;
        self.on(Event::PeerDisconnected { peer: PEER, why })
    }

    /// A live copy of generation 4 without a backup.
    fn alone() -> Self {
        let mut side = Side::new(Start::Primary { generation: 3 });
        assert_eq!(side.on(Event::Tick), [Action::AskArbiter { generation: 4 }]);
        let actions = side.answer(4, ArbiterAnswer::Won);
        assert_eq!(actions, [Action::GoAlone { generation: 4 }]);
        side
    }

    fn greeted(mut self, hello: Hello) -> (Self, Vec<Action>) {
        let peer = PEER;
        let dialled = false;
        assert_eq!(self.on(Event::PeerConnected { peer, dialled }), []);
        let actions = self.says(Message::Hello(Box::new(hello)));
        (self, actions)
    }

    /// A live copy that has sent epoch 1 to a joiner, unanswered.
    fn unacked() -> Self {
        let (mut side, actions) = Side::alone().greeted(hello());
        let peer = PEER;
        assert!(actions.contains(&Action::StartClone { peer }));
        let actions = side.on(Event::CloneReady { peer, first: 1 });
        assert_eq!(actions[0], Action::HoldOutputs { from: 1 });
        let epoch = epoch(1, true);
        let actions = side.on(Event::EpochClosed(epoch.clone()));
        assert_eq!(actions, [Action::SendEpoch { peer, epoch }]);
        side
    }

    /// A live copy with a backup that has acknowledged epoch 1.
    fn primary() -> Self {
        let mut side = Side::unacked();
        let actions = side.says(ack(1, 1));
        assert_eq!(actions, [Action::ReleaseOutputs { through: 1 }]);
        side
    }

    /// A joiner that was welcomed.
    fn cloning() -> Self {
        let mut side = Side::new(Start::Backup);
        assert_eq!(side.on(Event::Tick), [Action::Connect]);
        let peer = PEER;
        let dialled = true;
        let actions = side.on(Event::PeerConnected { peer, dialled });
        assert!(matches!(
            actions[..],
            [Action::Send {
                message: Message::Hello(_),
                ..
            }]
        ));
        let actions = side.says(Message::Welcome(welcome()));
        assert_eq!(actions, [Action::Established { peer }]);
        side
    }

    /// A joiner that was given the epoch that completes its clone.
    fn cloned() -> Self {
        let mut side = Side::cloning();
        let pages = vec![Page {
            gfn: 1,
            data: Vec::new(),
        }];
        let actions = side.says(Message::ClonePages {
            pages: pages.clone(),
        });
        assert_eq!(actions, [Action::ApplyPages(pages)]);
        assert_eq!(side.says(Message::CloneDone { first: 8 }), []);
        let actions = side.says(Message::Epoch(epoch(8, true)));
        assert_eq!(actions, [Action::DeliverEpoch(epoch(8, true))]);
        side
    }

    /// A backup of generation 4 that has executed epoch 8.
    fn backup() -> Self {
        let mut side = Side::cloned();
        let actions = side.on(Event::Executed {
            epoch: 8,
            virtual_now: 80,
        });
        assert!(matches!(
            actions[..],
            [Action::Send {
                message: Message::Ack(Ack {
                    received: 8,
                    executed: 8,
                    executed_at: 80,
                    ..
                }),
                ..
            }]
        ));
        assert_eq!(side.core.role(), Role::Backup);
        side
    }
}

fn lost() -> ArbiterAnswer {
    ArbiterAnswer::Lost {
        generation: 5,
        by: "other".to_owned(),
    }
}

fn unreachable() -> ArbiterAnswer {
    ArbiterAnswer::Unreachable {
        why: "disk".to_owned(),
    }
}
