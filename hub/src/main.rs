//! The hub's binary: everything is in the library, starting with `cli`.

use std::{env, process::ExitCode};

/// Thousands of sessions are as many small allocations that come and go. A bare stream of tonic over rustls took 43 KiB with glibc's
/// malloc and 34 KiB with this one; the hub itself was not compared.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    berth_hub::cli::main(env::args_os())
}
