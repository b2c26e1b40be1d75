//! Layers into settings: the merge, and the reading of the merged values into a binary's struct. Pure.

use std::{collections::BTreeMap, ffi::OsString, marker::PhantomData, path::PathBuf};

use config::{Config, ConfigError, Value, ValueKind};

use super::{
    Settings, environment,
    error::{SettingsError, one_line},
    file,
    layer::{self, show},
    table::Setting,
};

/// All that settings are made of.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The file's path, which only names it in messages, and its text.
    pub file: Option<(PathBuf, String)>,
    /// The whole environment; only `BERTH_…` is looked at.
    pub environment: Vec<(OsString, OsString)>,
    /// The flags that were given, as text by the setting's key.
    pub flags: BTreeMap<&'static str, String>,
}

/// Merged settings with the source of each, not yet read into the struct. Displays as YAML (`--print-config`).
#[derive(Clone, Debug)]
pub struct Resolved<T> {
    config: Config,
    struct_type: PhantomData<fn() -> T>,
}

/// Merges the layers. Errors are those of form: unknown names, a file that is not YAML, a text where a list must be.
pub fn resolve<T: Settings>(inputs: &Inputs) -> Result<Resolved<T>, SettingsError> {
    let mut builder = Config::builder().add_source(layer::defaults(T::TABLE)?);
    if let Some((path, text)) = &inputs.file {
        builder = builder.add_source(file::layer(T::TABLE, path, text)?);
    }
    let config = builder
        .add_source(environment::layer(T::TABLE, &inputs.environment)?)
        .add_source(layer::flags(T::TABLE, &inputs.flags)?)
        .build()
        .map_err(|error| SettingsError::Table(one_line(&error.to_string())))?;
    Ok(Resolved {
        config,
        struct_type: PhantomData,
    })
}

impl<T: Settings> Resolved<T> {
    /// The settings, every value checked.
    pub fn parse(&self) -> Result<T, SettingsError> {
        let missing: Vec<Setting> = T::TABLE
            .iter()
            .filter(|setting| self.value(setting.key).is_none())
            .copied()
            .collect();
        if !missing.is_empty() {
            return Err(SettingsError::Missing(missing));
        }
        let settings: T = self
            .config
            .clone()
            .try_deserialize()
            .map_err(|error| self.explain(error))?;
        settings
            .check()
            .map_err(|conflict| SettingsError::Conflict {
                rule: conflict.rule,
                given: self.given(conflict.keys),
            })?;
        Ok(settings)
    }

    /// Where a setting's value came from: `default`, the file's path, `env BERTH_LISTEN`, `flag --listen`. `None`: it was
    /// not given, or there is no such setting.
    pub fn source(&self, key: &str) -> Option<&str> {
        self.value(key)?.origin()
    }

    /// The merged value of a setting.
    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        key.split('.').try_fold(&self.config.cache, |value, part| {
            let ValueKind::Table(mapping) = &value.kind else {
                return None;
            };
            mapping.get(part)
        })
    }

    /// Makes the error of `config` one that names value and source.
    fn explain(&self, error: ConfigError) -> SettingsError {
        let (key, reason) = match &error {
            ConfigError::At {
                error,
                key: Some(key),
                ..
            } => (key, error.to_string()),
            ConfigError::Type {
                expected,
                key: Some(key),
                ..
            } => (key, format!("expected {expected}")),
            _ => return SettingsError::Table(one_line(&error.to_string())),
        };
        // An item of a list is `nodeAddressType[1]`.
        let setting = key.split('[').next().unwrap_or(key);
        match self.value(setting) {
            Some(value) if T::TABLE.iter().any(|it| it.key == setting) => SettingsError::BadValue {
                key: key.clone(),
                value: show(value),
                source_name: value.origin().unwrap_or_default().to_owned(),
                reason: one_line(&reason),
            },
            _ => SettingsError::Table(one_line(&error.to_string())),
        }
    }

    /// `listen: "0.0.0.0:9090" (default), …`
    fn given(&self, keys: &[&str]) -> String {
        let each: Vec<String> = keys
            .iter()
            .filter_map(|key| {
                let value = self.value(key)?;
                let origin = value.origin().unwrap_or_default();
                Some(format!("{key}: {} from {origin}", show(value)))
            })
            .collect();
        each.join(", ")
    }
}
