//! From which host the guest speaks, and whether two copies of it are live: it may change hosts only when
//! the other one has won the arbiter since it was last heard there. Frames that go to and fro give two
//! live copies away, whatever their daemons say.

use serde::{Deserialize, Serialize};

use super::judge::GuestFrame;

/// Frames of the guest that came from one host, none from the other between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Speech {
    /// Whether that host was the primary's when the drill began.
    pub of_primary: bool,
    /// The first one left, in nanoseconds since 1970.
    pub from_unix_ns: u64,
    /// The last one left.
    pub to_unix_ns: u64,
    /// How many there are.
    pub frames: u64,
}

/// A generation that a side has won.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Win {
    /// Whether that side was the primary when the drill began.
    pub of_primary: bool,
    /// The earliest time when that can have been, in nanoseconds since 1970.
    pub at_unix_ns: u64,
    /// Which generation.
    pub generation: u64,
}

/// The speeches in frames that are sorted by time.
pub fn speeches(frames: &[GuestFrame]) -> Vec<Speech> {
    let mut speeches: Vec<Speech> = Vec::new();
    for frame in frames {
        match speeches.last_mut() {
            Some(last) if last.of_primary == frame.of_primary => {
                last.to_unix_ns = frame.at_unix_ns;
                last.frames += 1;
            }
            _ => speeches.push(Speech {
                of_primary: frame.of_primary,
                from_unix_ns: frame.at_unix_ns,
                to_unix_ns: frame.at_unix_ns,
                frames: 1,
            }),
        }
    }
    speeches
}

/// How often two copies were live: the guest was heard from another host, which had not won it since it was
/// last heard there; or two sides won the same generation. In words.
pub fn two_live(speeches: &[Speech], wins: &[Win]) -> Vec<String> {
    let mut found = Vec::new();
    for (index, speech) in speeches.iter().enumerate().skip(1) {
        let before = speeches[..index].iter().rev();
        let heard_here = before
            .filter(|earlier| earlier.of_primary == speech.of_primary)
            .map(|earlier| earlier.to_unix_ns)
            .next();
        let won = wins.iter().any(|win| {
            win.of_primary == speech.of_primary
                && win.at_unix_ns <= speech.from_unix_ns
                && heard_here.is_none_or(|heard| win.at_unix_ns > heard)
        });
        if speech.of_primary != speeches[index - 1].of_primary && !won {
            found.push(format!(
                "{}: the guest speaks from the {}'s host, which has not won it, {:.3} ms after the other",
                speech.from_unix_ns,
                side(speech.of_primary),
                (speech.from_unix_ns - speeches[index - 1].to_unix_ns) as f64 / 1e6
            ));
        }
    }
    for win in wins.iter().filter(|win| win.of_primary) {
        let twice = |other: &&Win| !other.of_primary && other.generation == win.generation;
        if wins.iter().any(|other| twice(&other)) {
            found.push(format!("both sides won generation {}", win.generation));
        }
    }
    found
}

fn side(of_primary: bool) -> &'static str {
    if of_primary { "primary" } else { "backup" }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: bool = true;
    const B: bool = false;

    fn heard(order: &[(u64, bool)]) -> Vec<Speech> {
        let frame = |&(at_unix_ns, of_primary): &(u64, bool)| GuestFrame {
            at_unix_ns,
            of_primary,
            bytes: Vec::new(),
        };
        speeches(&order.iter().map(frame).collect::<Vec<_>>())
    }

    fn won(at_unix_ns: u64, of_primary: bool, generation: u64) -> Win {
        Win {
            of_primary,
            at_unix_ns,
            generation,
        }
    }

    #[test]
    fn frames_of_one_host_are_one_speech() {
        let speeches = heard(&[(10, P), (11, P), (20, B), (21, B), (22, B)]);
        assert_eq!(speeches.len(), 2);
        assert_eq!((speeches[1].from_unix_ns, speeches[1].to_unix_ns), (20, 22));
        assert_eq!((speeches[0].frames, speeches[1].frames), (2, 3));
    }

    #[test]
    fn a_guest_that_moves_with_its_generation_is_one() {
        let speeches = heard(&[(10, P), (11, P), (20, B), (21, B)]);
        let wins = [won(5, P, 1), won(18, B, 2)];
        assert_eq!(two_live(&speeches, &wins), [""; 0]);
        // And back again.
        let speeches = heard(&[(10, P), (20, B), (30, P)]);
        let wins = [won(5, P, 1), won(18, B, 2), won(29, P, 3)];
        assert_eq!(two_live(&speeches, &wins), [""; 0]);
    }

    #[test]
    fn a_guest_that_speaks_from_both_hosts_is_two() {
        let wins = [won(5, P, 1), won(18, B, 2)];
        let to_and_fro = heard(&[(10, P), (20, B), (21, P), (22, B)]);
        assert_eq!(two_live(&to_and_fro, &wins).len(), 2);
        let one_late_frame = heard(&[(10, P), (20, B), (21, P)]);
        assert_eq!(two_live(&one_late_frame, &wins).len(), 1);
    }

    #[test]
    fn a_guest_that_speaks_before_its_host_has_won_is_two() {
        let wins = [won(5, P, 1), won(25, B, 2)];
        assert_eq!(two_live(&heard(&[(10, P), (20, B)]), &wins).len(), 1);
        assert_eq!(two_live(&heard(&[(10, P), (20, B)]), &wins[..1]).len(), 1);
    }

    #[test]
    fn a_generation_is_won_once() {
        let wins = [won(5, P, 1), won(18, P, 2), won(18, B, 2)];
        let found = two_live(&heard(&[(10, P), (20, P)]), &wins);
        assert_eq!(found, ["both sides won generation 2"]);
    }
}
