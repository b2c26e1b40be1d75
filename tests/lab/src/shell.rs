//! The shell that `lab shell` opens: where it finds programs, and the words it knows. Knows paths inside the lab; entering it
//! is for the command line.

use crate::error::Result;
use crate::lab::{ACME, MANAGEMENT};
use crate::site::Site;

/// The file of a run directory that the shell reads first.
pub(crate) const RC: &str = "shell.rc";

/// Writes that file.
pub(crate) fn write_rc(site: &Site) -> Result<()> {
    site.sandbox.run_dir.write(RC, rc(site)).map(drop)
}

fn rc(site: &Site) -> String {
    let path = |name: &str| site.path(name).display().to_string();
    let kubectl = |name: &str, cluster: &str| {
        let file = path(&format!("{cluster}/kubeconfig"));
        format!("{name}() {{ kubectl --kubeconfig {file} \"$@\"; }}\n")
    };
    format!(
        "export HOME={} KUBECONFIG={}:{} PATH={}:{}:$PATH PS1='lab:\\W\\$ '\n{}{}\
         on() {{ local host=$1; shift; nsenter --net=/run/netns/$host \"$@\"; }}\n\
         echo 'm and a: kubectl for management and acme. on HOST CMD: on client, m1, m2, a1, a2.'\n\
         cd \"$HOME\"\n",
        path(""),
        path(&format!("{MANAGEMENT}/kubeconfig")),
        path(&format!("{ACME}/kubeconfig")),
        site.sandbox.inside(site.parts.bin()),
        site.sandbox.inside(&site.programs),
        kubectl("m", MANAGEMENT),
        kubectl("a", ACME),
    )
}
