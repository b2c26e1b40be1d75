//! The hub's binary: everything is in the library, starting with `cli`.

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    berth_hub::cli::main(env::args_os())
}
