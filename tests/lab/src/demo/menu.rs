//! What a person can do when the demo's steps are done and the lab still runs. Knows the terminal; must not change the lab.

use std::io::{IsTerminal, Write};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::unistd::{getpgrp, tcsetpgrp};
use tokio::process::Command;

use crate::error::{Context, Result};
use crate::lab::Lab;

/// Serves until the person, or somebody else, ends the lab.
pub(super) async fn serve(lab: &Lab) -> Result<()> {
    let grpcurl = grpcurl(lab).await?;
    println!("{}", text(lab, &grpcurl));
    if !std::io::stdin().is_terminal() {
        return lab.ended().await;
    }
    loop {
        print!("s, g or q> ");
        std::io::stdout()
            .flush()
            .context("cannot write to the terminal")?;
        let line = tokio::select! {
            line = tokio::task::spawn_blocking(line) => line.context("cannot read from the terminal")?,
            ended = lab.ended() => return ended,
        };
        match line.context("cannot read from the terminal")?.as_str() {
            "s\n" => shell(lab).await?,
            "g\n" => run(lab, &grpcurl).await,
            // Nothing, not even a newline, is the end of the input.
            "q\n" | "" => return Ok(()),
            _ => {}
        }
    }
}

/// The next line of the terminal, with its newline.
fn line() -> std::io::Result<String> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(line)
}

fn text(lab: &Lab, grpcurl: &[String]) -> String {
    let kubeconfig = |cluster: &crate::Cluster| cluster.kubeconfig().display().to_string();
    format!(
        "\nThe lab keeps running.\n\
         \x20 s   a shell inside it: `m` and `a` are kubectl for management and acme, `on client curl …` is the client\n\
         \x20 g   asks the hub what it serves, with an administrator's certificate:\n\
         \x20     {}\n\
         \x20 q   ends it and leaves nothing behind, as does Ctrl-C\n\
         With your own kubectl, in another terminal:\n\
         \x20     export KUBECONFIG={}:{}   # contexts management and acme\n\
         \x20     kubectl --context acme apply --server-side -f docs/tutorial/backend.yaml\n\
         Logs are in {}\n",
        grpcurl.join(" "),
        kubeconfig(lab.management()),
        kubeconfig(lab.acme()),
        lab.directory().join("log").display(),
    )
}

/// A command line, for another terminal too, that lists the hub's services.
async fn grpcurl(lab: &Lab) -> Result<Vec<String>> {
    let hub = lab.start_hub().await?;
    let certificate = hub.admin_certificate("demo").await?;
    let path = |path: std::path::PathBuf| path.display().to_string();
    let mut line = Vec::new();
    if lab.has_packets() {
        let me = std::env::current_exe().context("cannot find the running program")?;
        line.extend([
            path(me),
            "exec".into(),
            "--lab".into(),
            name(lab),
            "--".into(),
        ]);
    }
    line.extend([
        path(lab.parts().path("grpcurl")),
        "-cacert".into(),
        path(certificate.ca()),
        "-cert".into(),
        path(certificate.certificate()),
        "-key".into(),
        path(certificate.key()),
        hub.address().to_string(),
        "list".into(),
    ]);
    Ok(line)
}

/// What `lab shell` and `lab exec` call this lab.
fn name(lab: &Lab) -> String {
    let name = lab.directory().file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// A shell in the lab, with this terminal.
async fn shell(lab: &Lab) -> Result<()> {
    let me = std::env::current_exe().context("cannot find the running program")?;
    let status = Command::new(me)
        .args(["shell", "--lab"])
        .arg(name(lab))
        .status();
    // How the last command in the shell ended is nobody's business.
    status.await.map(drop).context("cannot open a shell")?;
    take_terminal_back().context("cannot use the terminal again")
}

/// An interactive shell makes itself the terminal's foreground, and gives that back when it ends; but this one ends in
/// another pid namespace, where whom to give it back to has no name.
fn take_terminal_back() -> nix::Result<()> {
    // Asking from the background would stop this process, unless the signal that does so is blocked.
    let mut background = SigSet::empty();
    background.add(Signal::SIGTTOU);
    let before = background.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let taken = tcsetpgrp(std::io::stdin(), getpgrp());
    before.thread_set_mask()?;
    taken
}

/// Runs a command line and shows what it prints; that it fails is worth seeing, and no reason to end the lab.
async fn run(lab: &Lab, line: &[String]) {
    let Some((program, arguments)) = line.split_first() else {
        return;
    };
    if let Err(error) = Command::new(program).args(arguments).status().await {
        println!(
            "cannot run {program} in {}: {error}",
            lab.directory().display()
        );
    }
}
