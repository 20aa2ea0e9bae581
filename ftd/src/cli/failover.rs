//! `ftd failover`: a planned hand-over.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::arbiter::vacancy::dialable;
use crate::control::{HandedOver, client};

/// Options of `ftd failover`.
#[derive(Debug, Args)]
pub struct Options {
    /// The control socket of the primary.
    #[arg(long, value_name = "PATH")]
    control: PathBuf,
    /// Print the answer as JSON, in a line.
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(options: &Options) -> Result<()> {
    let (answer, done) = client::failover(&options.control)?;
    let mut out = std::io::stdout().lock();
    match options.json {
        true => writeln!(out, "{answer}")?,
        false => write!(out, "{}", text(&done))?,
    }
    Ok(())
}

fn text(done: &HandedOver) -> String {
    let HandedOver {
        host,
        generation,
        listen,
        took_ms,
        stood_ms,
        frames_passed_on,
        frames_lost,
    } = done;
    let join = match listen {
        Some(listen) => format!("ftd backup --log-from {}", dialable(listen, host)),
        None => format!("ftd backup (on {host}, ftd has no --listen address to join at)"),
    };
    format!(
        "the guest is live on {host}, generation {generation}\n\
         it took {took_ms:.1} ms, and the guest stood for {stood_ms:.1} ms of that\n\
         frames that came meanwhile: {frames_passed_on} passed on, {frames_lost} lost\n\
         the ftd here has ended; a service starts it again, as the backup. Else start it by hand to protect the \
         guest: {join}, with its --image, --shared, --keys and the rest as they were\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_where_the_guest_is_and_what_to_do_next() {
        let mut done = HandedOver {
            host: "west".to_owned(),
            generation: 2,
            listen: Some("192.0.2.2:7777".to_owned()),
            took_ms: 80.25,
            stood_ms: 61.5,
            frames_passed_on: 3,
            frames_lost: 0,
        };
        let said = text(&done);
        for words in [
            "live on west",
            "61.5 ms",
            "3 passed on",
            "--log-from 192.0.2.2:7777",
        ] {
            assert!(said.contains(words), "{said}");
        }
        done.listen = None;
        assert!(text(&done).contains("no --listen"));
    }
}
