//! Schedules as files, so that what was once broken is tried again with every test: JSON with one op a line, which a
//! person can read, shorten and write.

use std::{fmt::Write as _, time::Duration};

use serde::{Deserialize, Serialize};

use crate::op::{Op, Schedule};

/// A schedule and what it is kept for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// What went wrong, for people.
    pub shows: String,
    /// What happens.
    pub schedule: Schedule,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    shows: String,
    seed: u64,
    tenants: u8,
    slow_deletion: bool,
    ops: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    /// Milliseconds after the op before.
    after: u64,
    #[serde(flatten)]
    op: Op,
}

impl Saved {
    /// Reads a file's text.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn read(text: &str) -> Result<Self, serde_json::Error> {
        let file: File = serde_json::from_str(text)?;
        let op = |line: Line| (Duration::from_millis(line.after), line.op);
        Ok(Self {
            shows: file.shows,
            schedule: Schedule {
                seed: file.seed,
                tenants: file.tenants,
                slow_deletion: file.slow_deletion,
                ops: file.ops.into_iter().map(op).collect(),
            },
        })
    }

    /// The text of its file.
    ///
    /// # Errors
    /// Not in practice: everything in it has a form in JSON.
    pub fn text(&self) -> Result<String, serde_json::Error> {
        let Schedule {
            seed,
            tenants,
            slow_deletion,
            ops,
        } = &self.schedule;
        let shows = serde_json::to_string(&self.shows)?;
        let mut text = format!(
            "{{\n  \"shows\": {shows},\n  \"seed\": {seed},\n  \"tenants\": {tenants},\n  \"slow_deletion\": {slow_deletion},\n  \"ops\": ["
        );
        for (index, (after, op)) in ops.iter().enumerate() {
            let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            let line = serde_json::to_string(&Line { after, op: *op })?;
            let comma = if index == 0 { "" } else { "," };
            // Writing into a String does not fail.
            let _ = write!(text, "{comma}\n    {line}");
        }
        text.push_str("\n  ]\n}\n");
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again() {
        for seed in 0..50 {
            let saved = Saved {
                shows: "a \"word\"".into(),
                schedule: Schedule::from_seed(seed),
            };
            assert_eq!(Saved::read(&saved.text().unwrap()).unwrap(), saved);
        }
    }
}
