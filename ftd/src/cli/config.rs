//! A configuration file beside the flags: TOML, each key the long name of a flag of the command. What the
//! command line gives goes before what the file says.

use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{ArgAction, Command};
use toml::de::{DeTable, DeValue};

/// The flag that names the file, which is also what a command that takes one has.
const FLAG: &str = "config";

/// A file that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It can't be read.
    #[error("cannot read the configuration {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// Something is wrong in it.
    #[error("{}:{line}: {what}", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// What, for people.
        what: String,
    },
}

/// The command line with what its configuration file says in front of the subcommand's own flags. One that
/// names no file, or whose subcommand takes none, is left as it is.
///
/// # Errors
/// [`ConfigError`].
pub fn expand(command: &Command, args: Vec<OsString>) -> Result<Vec<OsString>, ConfigError> {
    let is_flag = |arg: &OsString| arg.as_encoded_bytes().starts_with(b"-");
    let Some(at) = (1..args.len()).find(|&index| !is_flag(&args[index])) else {
        return Ok(args);
    };
    let takes_file = |command: &&Command| command.get_arguments().any(|arg| arg.get_id() == FLAG);
    let Some(command) = command.find_subcommand(&args[at]).filter(takes_file) else {
        return Ok(args);
    };
    let (before, own) = args.split_at(at + 1);
    let Some(path) = file_of(own) else {
        return Ok(args);
    };
    let mut all = before.to_vec();
    for setting in read(command, &path)? {
        if !is_given(own, &setting.key) {
            all.extend(setting.arguments);
        }
    }
    all.extend_from_slice(own);
    Ok(all)
}

/// What `--config` says, if it is there.
fn file_of(own: &[OsString]) -> Option<PathBuf> {
    let at = own.iter().position(|arg| names(arg, FLAG))?;
    match own[at]
        .as_encoded_bytes()
        .iter()
        .position(|byte| *byte == b'=')
    {
        Some(_) => own[at]
            .to_str()?
            .split_once('=')
            .map(|(_, path)| path.into()),
        None => own.get(at + 1).map(PathBuf::from),
    }
}

fn is_given(own: &[OsString], key: &str) -> bool {
    own.iter().any(|arg| names(arg, key))
}

/// Whether an argument is `--KEY` or `--KEY=...`.
fn names(arg: &OsStr, key: &str) -> bool {
    let rest = arg.as_encoded_bytes().strip_prefix(b"--");
    let rest = rest.and_then(|rest| rest.strip_prefix(key.as_bytes()));
    rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'=')
}

/// A line of the file as arguments.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    key: String,
    arguments: Vec<OsString>,
}

fn read(command: &Command, path: &Path) -> Result<Vec<Setting>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    settings(command, &text).map_err(|(at, what)| ConfigError::Line {
        path: path.to_owned(),
        line: 1 + text[..at.min(text.len())].matches('\n').count(),
        what,
    })
}

/// What a file with this text says, as arguments of the command.
///
/// # Errors
/// What is wrong with it, for people.
pub fn arguments(command: &Command, text: &str) -> Result<Vec<OsString>, String> {
    let settings = settings(command, text).map_err(|(_, what)| what)?;
    Ok(settings
        .into_iter()
        .flat_map(|setting| setting.arguments)
        .collect())
}

/// Where in the text something is wrong, and what.
type Wrong = (usize, String);

fn settings(command: &Command, text: &str) -> Result<Vec<Setting>, Wrong> {
    let start = |span: Option<Range<usize>>| span.map_or(0, |span| span.start);
    let table =
        DeTable::parse(text).map_err(|error| (start(error.span()), error.message().to_owned()))?;
    let mut found = Vec::new();
    for (key, value) in table.get_ref().iter() {
        let at = key.span().start;
        let key = key.get_ref().as_ref();
        let wrong = |what: String| (at, format!("'{key}' {what}"));
        let argument = command
            .get_arguments()
            .find(|arg| arg.get_long() == Some(key) && !["help", FLAG].contains(&key));
        let Some(argument) = argument else {
            let name = command.get_name();
            return Err(wrong(format!(
                "is no key: they are the long flags of ftd {name}, without their dashes (ftd {name} --help)"
            )));
        };
        let takes_values = argument.get_action().takes_values();
        let mut arguments: Vec<OsString> = Vec::new();
        match value.get_ref() {
            DeValue::Boolean(true) if !takes_values => arguments.push(format!("--{key}").into()),
            DeValue::Boolean(false) if !takes_values => {}
            _ if !takes_values => return Err(wrong("is either true or false".to_owned())),
            DeValue::Array(list) if matches!(argument.get_action(), ArgAction::Append) => {
                for item in list.iter() {
                    let text = scalar(item.get_ref())
                        .ok_or_else(|| wrong("is a list of texts".to_owned()))?;
                    arguments.push(format!("--{key}={text}").into());
                }
            }
            one => {
                let text = scalar(one).ok_or_else(|| {
                    wrong(format!("is a text or a number, not a {}", one.type_str()))
                })?;
                arguments.push(format!("--{key}={text}").into());
            }
        }
        for argument in &arguments {
            check(command, argument).map_err(wrong)?;
        }
        found.push((
            at,
            Setting {
                key: key.to_owned(),
                arguments,
            },
        ));
    }
    found.sort_by_key(|(at, _)| *at);
    Ok(found.into_iter().map(|(_, setting)| setting).collect())
}

/// A value as it would be written behind a flag.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.to_string()),
        DeValue::Integer(number) => {
            let number = i64::from_str_radix(number.as_str(), number.radix()).ok()?;
            Some(number.to_string())
        }
        _ => None,
    }
}

/// Whether the command takes this value; if not, why.
fn check(command: &Command, argument: &OsStr) -> Result<(), String> {
    let lenient = command.clone().no_binary_name(true);
    match lenient
        .mut_args(|arg| arg.required(false))
        .try_get_matches_from([argument])
    {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::InvalidValue | ErrorKind::ValueValidation
            ) =>
        {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            Err(format!("has an {}", line.trim_start_matches("error: ")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
