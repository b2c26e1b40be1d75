//! Settings of a binary: defaults < YAML file < `BERTH_…` environment < flags, each value with where it came from. A
//! binary states a table of [`Setting`]s and a struct; the names of flag, variable and file key, `--help`,
//! `--print-config` and every error follow from them. It knows no single setting, and reads file and environment only in
//! [`SettingsArgs::resolve`]; all else is pure.

mod args;
mod environment;
mod error;
mod file;
mod layer;
mod nearest;
mod print;
mod resolve;
mod table;
#[cfg(test)]
mod tests;
mod values;

pub use args::SettingsArgs;
pub use error::SettingsError;
pub use resolve::{Inputs, Resolved, resolve};
pub use table::{Kind, Setting, check_table};
pub use values::{count, optional_path, path, socket_addr};

use serde::de::DeserializeOwned;

/// The settings of one binary. The struct's shape is the file's: `tls.clientCa` is the field `client_ca` of a struct in
/// the field `tls`, with `#[serde(deny_unknown_fields, rename_all = "camelCase")]` on both. Fields are of types that
/// check what they hold, and whose errors start with "expected …".
pub trait Settings: DeserializeOwned {
    /// Every setting, in the order in which people read them.
    const TABLE: &'static [Setting];

    /// What must hold between settings. Called once each value is good by itself.
    fn check(&self) -> Result<(), Conflict> {
        Ok(())
    }
}

/// Settings that are good each by itself, and not together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The keys concerned; the error shows their values and sources.
    pub keys: &'static [&'static str],
    /// What must hold, as a sentence without a full stop.
    pub rule: String,
}
