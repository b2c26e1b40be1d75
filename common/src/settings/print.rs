//! `--print-config`: the merged settings as a YAML file that could be used as such, each value with its source behind
//! it. One line per setting, in the table's order.

use std::fmt::{self, Write as _};

use config::{Value, ValueKind};

use super::{Settings, resolve::Resolved};

impl<T: Settings> fmt::Display for Resolved<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut above: Vec<&str> = Vec::new();
        for setting in T::TABLE {
            let mut path: Vec<&str> = setting.key.split('.').collect();
            let name = path.pop().unwrap_or_default();
            let shared = above.iter().zip(&path).take_while(|(a, b)| a == b).count();
            for (depth, group) in path.iter().enumerate().skip(shared) {
                writeln!(f, "{:depth$}{group}:", "", depth = 2 * depth)?;
            }
            let indent = 2 * path.len();
            above = path;
            match self.value(setting.key) {
                Some(value) => {
                    let source = value.origin().unwrap_or_default();
                    writeln!(f, "{:indent$}{name}: {}  # {source}", "", yaml(value))?;
                }
                None => writeln!(f, "{:indent$}# {name}: not set, and has no default", "")?,
            }
        }
        Ok(())
    }
}

/// A value on one line.
fn yaml(value: &Value) -> String {
    match &value.kind {
        ValueKind::String(text) => scalar(text),
        ValueKind::Array(items) => {
            let items: Vec<String> = items.iter().map(yaml).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}

/// Plain where nobody could read it as anything but a text, else in double quotes.
fn scalar(text: &str) -> String {
    let is_plain_character = |c: char| c.is_ascii_alphanumeric() || "/._-:@".contains(c);
    let is_plain = text.chars().all(is_plain_character)
        && text.contains(|c: char| c.is_ascii_alphabetic() || c == ':')
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && !text.ends_with(':')
        && is_text_to_yaml(text);
    if is_plain {
        text.to_owned()
    } else {
        quoted(text)
    }
}

/// In double quotes, with everything escaped that some reader of YAML might take for a line's end or not take at all.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        // Writing to a String does not fail.
        let _ = match c {
            '"' | '\\' => write!(out, "\\{c}"),
            ' '..='~' => write!(out, "{c}"),
            c if c.is_alphanumeric() => write!(out, "{c}"),
            c if u32::from(c) <= 0xffff => write!(out, "\\u{:04x}", u32::from(c)),
            c => write!(out, "\\U{:08x}", u32::from(c)),
        };
    }
    out.push('"');
    out
}

/// Whether the plain word is read back as a text and not as a number, a truth value or nothing, by YAML 1.1 too.
fn is_text_to_yaml(word: &str) -> bool {
    const TRUTHS: [&str; 6] = ["y", "n", "yes", "no", "on", "off"];
    if TRUTHS.iter().any(|truth| word.eq_ignore_ascii_case(truth)) {
        return false;
    }
    serde_yaml::from_str::<serde_yaml::Value>(word).is_ok_and(|value| value.is_string())
        && word.parse::<f64>().is_err()
}
