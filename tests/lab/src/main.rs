//! The lab's command line, and the programs that it runs inside itself. See [`berth_lab::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    berth_lab::cli::main()
}
