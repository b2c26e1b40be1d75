//! `crds`: the CustomResourceDefinitions of this release.

use std::{fs, path::PathBuf, process::ExitCode};

use clap::Args;

use super::{CliError, Console};
use crate::api;

/// Where they go.
#[derive(Clone, Debug, Args)]
pub struct CrdsArgs {
    /// Write one file each into this directory instead of printing them
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &CrdsArgs, console: &mut Console<'_>) -> Result<ExitCode, CliError> {
    match &args.dir {
        None => console.out.write_all(api::crds()?.as_bytes())?,
        Some(dir) => {
            fs::create_dir_all(dir)?;
            for (file, yaml) in api::crd_files()? {
                fs::write(dir.join(file), yaml)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
