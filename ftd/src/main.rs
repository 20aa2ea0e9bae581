//! `ftd`: runs a virtual machine on two hosts at once, so that losing one loses nothing.

use std::process::ExitCode;

fn main() -> ExitCode {
    ftd::cli::main()
}
