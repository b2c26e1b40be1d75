//! The layer of the file: YAML into values by key, every key known. Pure: the text is a parameter.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use config::{File, FileFormat, Map, Source, Value, ValueKind};

use super::{
    error::{SettingsError, one_line},
    layer::{Layer, bad, from_text, show},
    nearest::nearest,
    table::{Kind, Setting},
};

/// What the file says. `path` only names it in messages.
pub(super) fn layer(
    table: &'static [Setting],
    path: &Path,
    text: &str,
) -> Result<Layer, SettingsError> {
    let reader = FileReader {
        table,
        path: one_line(&path.to_string_lossy()),
    };
    if is_blank(text) {
        return Ok(Layer::default());
    }
    let not_yaml = |reason: &str| SettingsError::NotYaml {
        path: reader.path.clone(),
        reason: one_line(reason),
    };
    // The parser takes it for the end of the file, and would leave out what follows without a word.
    if text.contains('\0') {
        return Err(not_yaml("it contains a NUL character"));
    }
    let root = File::from_str(text, FileFormat::Yaml)
        .collect()
        .map_err(|error| not_yaml(&error.to_string()))?;
    let mut layer = Layer::default();
    reader.read(root, "", &mut layer)?;
    Ok(layer)
}

/// Whether a file holds nothing, which YAML calls `null`: what a template renders when nothing is set.
fn is_blank(text: &str) -> bool {
    text.lines().map(str::trim).all(|line| {
        line.is_empty() || line.starts_with('#') || matches!(line, "---" | "null" | "~")
    })
}

struct FileReader {
    table: &'static [Setting],
    path: String,
}

impl FileReader {
    /// Reads one mapping; `above` is empty or the path to it with its dot.
    fn read(
        &self,
        mapping: Map<String, Value>,
        above: &str,
        layer: &mut Layer,
    ) -> Result<(), SettingsError> {
        // Sorted, so that of two errors it is always the same one that is shown.
        let mapping: BTreeMap<String, Value> = mapping.into_iter().collect();
        for (name, value) in mapping {
            let key = format!("{above}{name}");
            let below = format!("{key}.");
            let setting = self.table.iter().find(|it| it.key == key);
            let group: Vec<&Setting> = self
                .table
                .iter()
                .filter(|it| it.key.starts_with(&below))
                .collect();
            match setting {
                Some(setting) => self.insert(setting, &name, value, layer)?,
                None if group.is_empty() => return Err(self.unknown(key)),
                None => match value.kind {
                    ValueKind::Table(inner) => self.read(inner, &below, layer)?,
                    // `tls:` with every line below it commented out.
                    ValueKind::Nil => {}
                    _ => return Err(self.not_a_value(key, &group)),
                },
            }
        }
        Ok(())
    }

    fn insert(
        &self,
        setting: &'static Setting,
        name: &str,
        value: Value,
        layer: &mut Layer,
    ) -> Result<(), SettingsError> {
        if let Some((outer, inner)) = name.split_once('.') {
            return Err(SettingsError::DottedKey {
                path: self.path.clone(),
                key: name.to_owned(),
                outer: outer.to_owned(),
                inner: inner.to_owned(),
            });
        }
        if let Some(value) = from_yaml(setting, value, &self.path)? {
            layer.0.insert(setting.key, value);
        }
        Ok(())
    }

    fn unknown(&self, key: String) -> SettingsError {
        let keys = self.table.iter().map(|it| it.key);
        let groups: BTreeSet<&'static str> = keys
            .clone()
            .flat_map(|key| key.match_indices('.').map(|(dot, _)| &key[..dot]))
            .collect();
        SettingsError::UnknownKey {
            path: self.path.clone(),
            nearest: nearest(&key, keys.chain(groups)).unwrap_or_default(),
            key,
        }
    }

    fn not_a_value(&self, key: String, group: &[&Setting]) -> SettingsError {
        let keys: Vec<&str> = group.iter().map(|it| it.key).collect();
        SettingsError::NotAValue {
            path: self.path.clone(),
            key,
            keys: keys.join(", "),
        }
    }
}

/// A value as the file writes it. Nothing (`listen:`) is not given. Numbers are no texts: YAML has changed them already
/// (`010` is 10, `1.10` is 1.1).
fn from_yaml(
    setting: &Setting,
    value: Value,
    origin: &str,
) -> Result<Option<Value>, SettingsError> {
    let wrong = |value: &Value, reason: &str| Err(bad(setting, show(value), origin, reason));
    match (setting.kind, &value.kind) {
        (_, ValueKind::Nil) => return Ok(None),
        (_, ValueKind::String(text)) => return from_text(setting, text, origin).map(Some),
        (Kind::Bool, ValueKind::Boolean(_)) => {}
        (Kind::List, ValueKind::Array(items)) => {
            let is_text = |item: &&Value| matches!(item.kind, ValueKind::String(_));
            if let Some(item) = items.iter().find(|item| !is_text(item)) {
                return wrong(item, "expected a list of texts; put each in quotes");
            }
        }
        // Kept as text, so that it is printed and shown as it is written elsewhere.
        (Kind::Number, ValueKind::I64(number)) => {
            return from_text(setting, &number.to_string(), origin).map(Some);
        }
        (Kind::Number, _) => return wrong(&value, "expected a whole number"),
        (Kind::Text, _) => return wrong(&value, "expected a text; put it in quotes"),
        (Kind::Bool, _) => return wrong(&value, "expected true or false"),
        (Kind::List, _) => return wrong(&value, "expected a list of texts"),
    }
    Ok(Some(Value::new(Some(&origin.to_owned()), value.kind)))
}
