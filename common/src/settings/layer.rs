//! One layer of settings: what the defaults or the flags say (`file` and `environment` make the other two), checked
//! against the table and labelled with its origin; and what all layers share, reading text and showing values. Pure.

use std::collections::BTreeMap;

use config::{ConfigError, Map, Source, Value, ValueKind};

use super::{
    error::SettingsError,
    table::{Kind, Setting},
};

/// The values of one layer by key. The `config` crate merges layers, and keeps each value's origin.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer(pub(super) BTreeMap<&'static str, Value>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let values = self.0.iter();
        Ok(values
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect())
    }
}

/// What the table itself says.
pub(super) fn defaults(table: &'static [Setting]) -> Result<Layer, SettingsError> {
    let mut layer = Layer::default();
    for setting in table {
        if let Some(text) = setting.default {
            let value = from_text(setting, text, "default")?;
            layer.0.insert(setting.key, value);
        }
    }
    Ok(layer)
}

/// What the flags say: texts by key.
pub(super) fn flags(
    table: &'static [Setting],
    given: &BTreeMap<&'static str, String>,
) -> Result<Layer, SettingsError> {
    let mut layer = Layer::default();
    for setting in table {
        if let Some(text) = given.get(setting.key) {
            let value = from_text(setting, text, &format!("flag --{}", setting.flag()))?;
            layer.0.insert(setting.key, value);
        }
    }
    Ok(layer)
}

/// A value as flags, variables and defaults write it.
pub(super) fn from_text(
    setting: &Setting,
    text: &str,
    origin: &str,
) -> Result<Value, SettingsError> {
    let kind = match setting.kind {
        Kind::Text | Kind::Number => ValueKind::String(text.to_owned()),
        Kind::Bool => match text {
            "true" => ValueKind::Boolean(true),
            "false" => ValueKind::Boolean(false),
            _ => {
                let value = format!("{text:?}");
                return Err(bad(setting, value, origin, "expected true or false"));
            }
        },
        Kind::List if text.trim().is_empty() => ValueKind::Array(Vec::new()),
        Kind::List => ValueKind::Array(text.split(',').map(|it| it.trim().into()).collect()),
    };
    Ok(Value::new(Some(&origin.to_owned()), kind))
}

/// The error of a value that its setting cannot take.
pub(super) fn bad(setting: &Setting, value: String, origin: &str, reason: &str) -> SettingsError {
    SettingsError::BadValue {
        key: setting.key.to_owned(),
        value,
        source_name: origin.to_owned(),
        reason: reason.to_owned(),
    }
}

/// A value for an error message: texts in quotes and escaped, so that a message stays one line.
pub(super) fn show(value: &Value) -> String {
    match &value.kind {
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Array(items) => {
            let items: Vec<String> = items.iter().map(show).collect();
            format!("[{}]", items.join(", "))
        }
        ValueKind::Table(_) => "a mapping".to_owned(),
        ValueKind::Nil => "nothing".to_owned(),
        other => other.to_string(),
    }
}
