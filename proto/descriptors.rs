//! Writes the descriptor set of `proto/` to standard output, for `make release-descriptor`.

use std::io::{self, Write as _};

fn main() -> io::Result<()> {
    io::stdout().lock().write_all(berth_wire::DESCRIPTORS)
}
