//! `ftd keys`: makes the keys by which the hosts of a pair know each other.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::keys::make::{Made, make};

/// Options of `ftd keys`.
#[derive(Debug, Args)]
pub struct Options {
    /// Directory to write to: HOST.pem for each host, and pair.ca, which signs for further hosts later.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// A host of the pair; for each one [default: host1 and host2].
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
    /// Print what was made as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(options: &Options) -> Result<()> {
    let hosts = match options.host.is_empty() {
        true => ["host1", "host2"].map(str::to_owned).to_vec(),
        false => options.host.clone(),
    };
    let made = make(&options.out, &hosts)?;
    match options.json {
        true => println!("{}", json(&made)),
        false => print!("{}", text(&made)),
    }
    Ok(())
}

fn json(made: &Made) -> serde_json::Value {
    serde_json::json!({
        "ok": true,
        "authority": made.authority,
        "authority_was_there": made.authority_was_there,
        "hosts": made.hosts,
    })
}

fn text(made: &Made) -> String {
    let authority = made.authority.display();
    let mut text = match made.authority_was_there {
        true => format!("{authority} was there and has signed:\n"),
        false => format!("{authority} is new and has signed:\n"),
    };
    for host in &made.hosts {
        text += &format!("  {}\n", host.display());
    }
    text + "Bring each file to its host, by scp say, and name it there with --keys (in a configuration: keys).\n\
            Keep pair.ca off the hosts: whoever has it can make keys of this pair.\n"
}
