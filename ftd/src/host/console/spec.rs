//! What a person asks for.

use std::path::PathBuf;
use std::str::FromStr;

/// Where a console goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsoleSpec {
    /// Nowhere.
    Nothing,
    /// Standard output; typed on standard input, if that is a terminal, a pipe or a socket.
    Stdio {
        /// On a terminal, send every key to the guest, Ctrl-C too; Ctrl-A x ends ftd.
        raw: bool,
    },
    /// A file that is appended to; nothing is typed.
    File(PathBuf),
    /// A Unix socket that one client at a time can connect to.
    Unix(PathBuf),
}

impl FromStr for ConsoleSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "none" => Ok(ConsoleSpec::Nothing),
            None if text == "stdio" => Ok(ConsoleSpec::Stdio { raw: true }),
            Some(("stdio", "cooked")) => Ok(ConsoleSpec::Stdio { raw: false }),
            Some(("file", path)) if !path.is_empty() => Ok(ConsoleSpec::File(path.into())),
            Some(("unix", path)) if !path.is_empty() => Ok(ConsoleSpec::Unix(path.into())),
            _ => Err(format!(
                "'{text}' is no console: give stdio, stdio:cooked, none, file:PATH or unix:PATH"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_understood() {
        let unix = ConsoleSpec::Unix("/run/a:b".into());
        assert_eq!("unix:/run/a:b".parse(), Ok(unix));
        assert_eq!("none".parse(), Ok(ConsoleSpec::Nothing));
        assert_eq!("stdio".parse(), Ok(ConsoleSpec::Stdio { raw: true }));
        assert_eq!(
            "stdio:cooked".parse(),
            Ok(ConsoleSpec::Stdio { raw: false })
        );
        assert_eq!("file:x".parse(), Ok(ConsoleSpec::File("x".into())));
        for bad in ["", "file:", "unix:", "none:", "tcp:1", "stdio:raw", "Stdio"] {
            assert!(bad.parse::<ConsoleSpec>().is_err(), "{bad}");
        }
    }
}
