//! Open files: each agent of a fleet has one, and a process usually may have a thousand.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Besides the agents' sockets: the runtime's own, standard streams, a file that is being read.
const SPARE: u64 = 64;

/// Makes room for so many sockets.
pub(super) fn make_room(sockets: usize) -> anyhow::Result<()> {
    let needed = sockets as u64 + SPARE;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= needed {
        return Ok(());
    }
    // Only a privileged process may raise the hard limit, and trying does no harm.
    setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed)).map_err(|_| {
        anyhow::anyhow!(
            "{sockets} agents need {needed} open files, and this process may have {hard}: \
             simulate fewer, or raise the limit (`ulimit -Hn {needed}` as root)"
        )
    })
}
