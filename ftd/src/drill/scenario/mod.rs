//! Scenarios: what can happen to two hosts, their link and their disks, one file each in `catalogue/`.
//!
//! A scenario is a script: it begins when the guest is protected and the client writes, and says what is
//! done to whom ([`Step::Fault`] and the like) and what must then come about ([`Step::Until`], ...). What
//! must always hold (nothing acknowledged is lost, never two live copies, no output before its
//! acknowledgement, no broken connection) stands in no script: it is judged behind each.
//!
//! * [`step`]: the words of a script.
//! * [`fault`]: what a site can do to hosts, links and disks.

pub mod fault;
pub mod step;

use serde::{Deserialize, Serialize};

use step::Step;

/// When the backup joins, by live clone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JoinWhen {
    /// While the guest has nothing to do.
    #[default]
    Idle,
    /// While the client writes.
    Load,
}

/// How the hosts have their disks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Storage {
    /// As block devices.
    #[default]
    Plain,
    /// Behind the hosts' device mapper, where they can hang or fail.
    Mapped,
    /// The guest's disk as a sparse file on a file system that both hosts have, and that can get full.
    Filling,
}

/// A scenario.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Scenario {
    /// The name of its file.
    #[serde(skip)]
    pub name: String,
    /// What happens, and what must hold, in a sentence.
    pub about: String,
    /// When the backup joins.
    #[serde(default)]
    pub join: JoinWhen,
    /// How the hosts have their disks.
    #[serde(default)]
    pub storage: Storage,
    /// Commands to the guest's Redis before the writing.
    #[serde(default)]
    pub redis: Vec<String>,
    /// Further arguments of both daemons.
    #[serde(default)]
    pub daemon_args: Vec<String>,
    /// The guest itself may refuse writes, since it is told of errors.
    #[serde(default)]
    pub guest_refuses: bool,
    /// The guest itself is lost and starts again from its disk: connections end with it.
    #[serde(default)]
    pub guest_restarts: bool,
    /// The client's gap is that of a lost primary and a healthy pair, and counts in the median of all.
    #[serde(default)]
    pub gap_counts: bool,
    /// What happens.
    pub script: Vec<Step>,
}

/// A scenario's name is not known, or its file is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// No such scenario.
    #[error("no scenario {name}; there are: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// All names.
        known: String,
    },
    /// A file of the catalogue can't be understood.
    #[error("scenario {name}")]
    File {
        /// Which.
        name: String,
        /// What is wrong.
        #[source]
        source: Box<toml::de::Error>,
    },
}

macro_rules! catalogue {
    ($($name:literal)*) => {
        &[$(($name, include_str!(concat!("catalogue/", $name, ".toml")))),*]
    };
}

/// All of them, in the order in which they are conducted.
const CATALOGUE: &[(&str, &str)] = catalogue!(
    "primary-killed" "host-power-cut" "backup-killed" "link-cut" "link-cut-in" "link-cut-out"
    "link-slow" "link-lossy" "arbiter-away" "disk-full" "disk-error" "backup-starved"
    "both-killed" "clock-stepped" "join-during-load" "hand-over"
);

/// The scenarios of a list of names, `all` being every one.
///
/// # Errors
/// [`ScenarioError`].
pub fn find<T: AsRef<str>>(names: &[T]) -> Result<Vec<Scenario>, ScenarioError> {
    let mut found = Vec::new();
    for name in names {
        let name = name.as_ref();
        let wanted = |entry: &&(&str, &str)| name == "all" || entry.0 == name;
        let before = found.len();
        for (name, text) in CATALOGUE.iter().filter(wanted) {
            found.push(parse(name, text)?);
        }
        if found.len() == before {
            let known: Vec<&str> = CATALOGUE.iter().map(|(name, _)| *name).collect();
            return Err(ScenarioError::Unknown {
                name: name.to_owned(),
                known: known.join(", "),
            });
        }
    }
    Ok(found)
}

fn parse(name: &str, text: &str) -> Result<Scenario, ScenarioError> {
    let parsed: Result<Scenario, _> = toml::from_str(text);
    match parsed {
        Ok(scenario) => Ok(Scenario {
            name: name.to_owned(),
            ..scenario
        }),
        Err(source) => Err(ScenarioError::File {
            name: name.to_owned(),
            source: Box::new(source),
        }),
    }
}

/// What a scenario's outcomes are read by, in reports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Title {
    /// Its name.
    pub name: String,
    /// What happens in it.
    pub about: String,
    /// Whether its gap counts in the median of all.
    pub gap_counts: bool,
}

impl From<&Scenario> for Title {
    fn from(scenario: &Scenario) -> Title {
        Title {
            name: scenario.name.clone(),
            about: scenario.about.clone(),
            gap_counts: scenario.gap_counts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::step::Await;
    use super::*;

    #[test]
    fn every_file_of_the_catalogue_is_understood() {
        let all = find(&["all"]).expect("the catalogue");
        assert_eq!(all.len(), CATALOGUE.len());
        for scenario in &all {
            let name = &scenario.name;
            assert!(scenario.about.len() > 20, "{name}");
            assert!(!scenario.script.is_empty(), "{name}");
            assert!(scenario.daemon_args.len() % 2 == 0, "{name}");
        }
        assert!(all.iter().any(|scenario| scenario.gap_counts));
    }

    #[test]
    fn every_scenario_waits_for_what_must_come_about() {
        for scenario in find(&["all"]).expect("the catalogue") {
            let answers = |step: &Step| matches!(step, Step::Until(Await::Answers));
            assert!(scenario.script.iter().any(answers), "{}", scenario.name);
        }
    }

    #[test]
    fn scenarios_are_found_by_name_and_in_the_order_asked_for() {
        let found = find(&["hand-over", "link-cut"]).expect("known");
        let names: Vec<&str> = found.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["hand-over", "link-cut"]);
        let error = find(&["link-cut", "meteor"]).expect_err("unknown");
        assert!(
            error
                .to_string()
                .contains("meteor; there are: primary-killed, ")
        );
    }

    #[test]
    fn a_file_with_a_word_too_many_is_refused() {
        for bad in [
            "about = 'x'\nscript = ['kill nobody']",
            "about = 'x'\nscript = []\ncolour = 'red'",
            "script = []",
        ] {
            assert!(parse("bad", bad).is_err(), "{bad}");
        }
    }
}
