//! One row of a binary's table of settings, and the names that follow from it. Plain constants: no parsing, no IO.

use std::collections::BTreeSet;

use super::Settings;

/// What a value is, as far as text must be read differently for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text; the struct's field says what it must be.
    Text,
    /// Text like any other, which the file may also write as a whole number.
    Number,
    /// `true` or `false`. The flag alone, without a value, is `true`.
    Bool,
    /// A YAML list in the file, comma-separated elsewhere (and in the file too, if it is a text there).
    List,
}

/// One setting: a row of [`Settings::TABLE`](super::Settings::TABLE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The path in the file: camelCase, dots between levels (`tls.clientCa`).
    pub key: &'static str,
    /// How text becomes its value.
    pub kind: Kind,
    /// What stands for the value in `--help`: `IP:PORT`, `FILE`.
    pub placeholder: &'static str,
    /// One line for `--help`, without a full stop.
    pub help: &'static str,
    /// As it would be written in the environment. `None`: must be given.
    pub default: Option<&'static str>,
}

impl Setting {
    /// A setting of [`Kind::Text`] that must be given.
    pub const fn text(key: &'static str, placeholder: &'static str, help: &'static str) -> Self {
        Self {
            key,
            kind: Kind::Text,
            placeholder,
            help,
            default: None,
        }
    }

    /// A setting of [`Kind::Number`] that must be given.
    pub const fn number(key: &'static str, placeholder: &'static str, help: &'static str) -> Self {
        Self {
            key,
            kind: Kind::Number,
            placeholder,
            help,
            default: None,
        }
    }

    /// A setting of [`Kind::Bool`], false by default.
    pub const fn bool(key: &'static str, help: &'static str) -> Self {
        Self {
            key,
            kind: Kind::Bool,
            placeholder: "true|false",
            help,
            default: Some("false"),
        }
    }

    /// A setting of [`Kind::List`] that must be given.
    pub const fn list(key: &'static str, placeholder: &'static str, help: &'static str) -> Self {
        Self {
            key,
            kind: Kind::List,
            placeholder,
            help,
            default: None,
        }
    }

    /// The same setting with a default.
    pub const fn default(mut self, default: &'static str) -> Self {
        self.default = Some(default);
        self
    }

    /// The flag without its dashes: `tls-client-ca`.
    pub fn flag(&self) -> String {
        spell(self.key, '-').to_ascii_lowercase()
    }

    /// The environment variable: `BERTH_TLS_CLIENT_CA`.
    pub fn env(&self) -> String {
        format!("{ENV_PREFIX}{}", spell(self.key, '_').to_ascii_uppercase())
    }
}

/// Whether a binary's table can work: names unlike each other and unlike Berth's own, and the rows of one group together
/// (else `--print-config` would print the group twice). For a test of each binary.
pub fn check_table<T: Settings>() -> Result<(), String> {
    let mut flags = BTreeSet::from([
        "config".to_owned(),
        "print-config".to_owned(),
        "help".to_owned(),
    ]);
    let mut groups = BTreeSet::new();
    let mut above = "";
    for setting in T::TABLE {
        let key = setting.key;
        if !flags.insert(setting.flag()) {
            return Err(format!("the flag of {key} is another's"));
        }
        let group = key.rsplit_once('.').map_or("", |(group, _)| group);
        if group != above && !groups.insert(group) {
            return Err(format!("{key} stands apart from its group"));
        }
        if T::TABLE
            .iter()
            .any(|it| it.key.starts_with(&format!("{key}.")))
        {
            return Err(format!("{key} is a setting and a group"));
        }
        above = group;
    }
    Ok(())
}

/// What every environment variable of Berth's starts with.
pub(super) const ENV_PREFIX: &str = "BERTH_";
/// The variable that names the file.
pub(super) const CONFIG_ENV: &str = "BERTH_CONFIG";

/// `tls.clientCa` with a separator for each dot, and before each capital.
fn spell(key: &str, separator: char) -> String {
    let mut name = String::with_capacity(key.len() + 4);
    for c in key.chars() {
        if c == '.' {
            name.push(separator);
        } else {
            if c.is_ascii_uppercase() {
                name.push(separator);
            }
            name.push(c);
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_the_key() {
        let names = |key| {
            let setting = Setting::text(key, "X", "help");
            (setting.flag(), setting.env())
        };
        assert_eq!(
            names("tls.clientCa"),
            ("tls-client-ca".to_owned(), "BERTH_TLS_CLIENT_CA".to_owned())
        );
        assert_eq!(
            names("useLoadBalancerClass"),
            (
                "use-load-balancer-class".to_owned(),
                "BERTH_USE_LOAD_BALANCER_CLASS".to_owned()
            )
        );
        assert_eq!(
            names("listen"),
            ("listen".to_owned(), "BERTH_LISTEN".to_owned())
        );
    }
}
