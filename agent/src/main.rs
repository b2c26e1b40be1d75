//! The agent's binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    berth_agent::cli::main(std::env::args_os())
}
