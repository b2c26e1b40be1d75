//! What can be wrong with settings. Every message is one line that names the place and what would be right there; a
//! binary prints it and exits with code 2.

use std::path::PathBuf;

use super::{Setting, table::CONFIG_ENV};

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path:?} ({named_by}): {reason}")]
    FileUnreadable {
        /// The file.
        path: PathBuf,
        /// `flag --config` or `env BERTH_CONFIG`.
        named_by: &'static str,
        /// What the system said.
        reason: String,
    },
    /// The file is not one YAML mapping.
    #[error("{path}: not a YAML file of settings: {reason}")]
    NotYaml {
        /// The file.
        path: String,
        /// What the parser said, on one line.
        reason: String,
    },
    /// The file has a key that is no setting.
    #[error("{path}: unknown key {key:?}; the nearest known key is `{nearest}`")]
    UnknownKey {
        /// The file.
        path: String,
        /// The key with the keys above it.
        key: String,
        /// The most similar known key.
        nearest: &'static str,
    },
    /// The file has one key with dots instead of nested ones.
    #[error(
        "{path}: write `{outer}:` and below it, indented, `{inner}:` instead of the one key {key:?}"
    )]
    DottedKey {
        /// The file.
        path: String,
        /// The key.
        key: String,
        /// Up to the first dot.
        outer: String,
        /// What follows it.
        inner: String,
    },
    /// The file has a value where further keys belong.
    #[error("{path}: `{key}` holds no value itself, but further keys: {keys}")]
    NotAValue {
        /// The file.
        path: String,
        /// The key.
        key: String,
        /// The keys below it.
        keys: String,
    },
    /// There is a variable `BERTH_…` that is no setting's.
    #[error("unknown environment variable {name:?}; the nearest known one is `{nearest}`")]
    UnknownEnv {
        /// The variable.
        name: String,
        /// The most similar known one.
        nearest: String,
    },
    /// A value is not what its setting needs.
    #[error("{key}: {value} ({source_name}): {reason}")]
    BadValue {
        /// The setting.
        key: String,
        /// The value as text.
        value: String,
        /// Where it came from.
        source_name: String,
        /// What was expected.
        reason: String,
    },
    /// Settings without a default that nobody gave.
    #[error("{}", missing(.0))]
    Missing(Vec<Setting>),
    /// Values that are good each by itself, and not together.
    #[error("{rule} ({given})")]
    Conflict {
        /// What must hold.
        rule: String,
        /// The settings concerned, with values and sources.
        given: String,
    },
    /// The binary's table and struct disagree: a defect, which the test of each table finds.
    #[error("the table of settings does not fit its struct: {0}")]
    Table(String),
}

fn missing(settings: &[Setting]) -> String {
    let each: Vec<String> = settings
        .iter()
        .map(|setting| {
            let Setting { key, help, .. } = setting;
            let (flag, env) = (setting.flag(), setting.env());
            format!("{key} is not set ({help}): give --{flag}, {env}, or {key} in the file of --config or {CONFIG_ENV}")
        })
        .collect();
    each.join("; ")
}

/// The same text on one line: line breaks and other control characters become spaces.
pub(super) fn one_line(text: &str) -> String {
    text.split(|c: char| c.is_control())
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}
