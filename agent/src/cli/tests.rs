//! The command line, as far as it needs no cluster.

use clap::CommandFactory as _;

use super::*;

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_takes_the_settings() {
    for command in ["run", "doctor", "release"] {
        let flags = ["berth-agent", command, "--hub-address", "hub.example:8443"];
        assert!(Cli::try_parse_from(flags).is_ok(), "{command}");
    }
    assert!(Cli::try_parse_from(["berth-agent", "fly"]).is_err());
}

#[test]
fn an_error_is_one_line_with_its_causes() {
    let error = anyhow::anyhow!("refused\nby peer").context("cannot connect");
    let text = CliError::Failed(error).to_string();
    assert_eq!(one_line(&text), "cannot connect: refused by peer");
}

#[test]
fn a_mistake_on_the_command_line_is_one_line() {
    let error = Cli::try_parse_from(["berth-agent", "run", "--hub-adress", "x:1"]).unwrap_err();
    let text = usage(&error.to_string());
    assert!(
        text.starts_with("unexpected argument '--hub-adress'"),
        "{text}"
    );
    assert!(
        text.contains("--hub-address") && !text.contains('\n'),
        "{text}"
    );
}
