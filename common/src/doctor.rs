//! What `doctor` commands print: one line a finding, ok, warn or fail, and beneath whatever is not ok, what to do. It knows
//! how findings read, not how they are found.

use std::fmt;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, but somebody should look at it.
    Warn,
    /// Does not work.
    Fail,
}

/// One line of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at, in a few words.
    pub subject: String,
    /// What was found.
    pub found: String,
    /// What to do about it; empty where it is ok.
    pub remedy: String,
}

impl Finding {
    /// As it should be.
    pub fn ok(subject: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            subject: subject.into(),
            found: found.into(),
            remedy: String::new(),
        }
    }

    /// Works, but somebody should look at it.
    pub fn warn(
        subject: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Warn,
            remedy: remedy.into(),
            ..Self::ok(subject, found)
        }
    }

    /// Does not work.
    pub fn fail(
        subject: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Fail,
            remedy: remedy.into(),
            ..Self::ok(subject, found)
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "fail",
        };
        write!(f, "{level}  {}: {}", self.subject, self.found)?;
        if !self.remedy.is_empty() {
            write!(f, "\n      → {}", self.remedy)?;
        }
        Ok(())
    }
}

/// All findings of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report(pub Vec<Finding>);

impl Report {
    /// Adds what is as it should be.
    pub fn ok(&mut self, subject: impl Into<String>, found: impl Into<String>) {
        self.0.push(Finding::ok(subject, found));
    }

    /// Adds what works and should be looked at; `found` says what to do.
    pub fn warn(&mut self, subject: impl Into<String>, found: impl Into<String>) {
        self.0.push(Finding::warn(subject, found, ""));
    }

    /// Adds what does not work; `found` says what to do.
    pub fn fail(&mut self, subject: impl Into<String>, found: impl Into<String>) {
        self.0.push(Finding::fail(subject, found, ""));
    }

    /// Whether nothing failed.
    pub fn is_healthy(&self) -> bool {
        self.worst() != Level::Fail
    }

    /// The worst level in it.
    pub fn worst(&self) -> Level {
        self.0.iter().map(|f| f.level).max().unwrap_or(Level::Ok)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.0 {
            writeln!(f, "{finding}")?;
        }
        let count = |level| self.0.iter().filter(|f| f.level == level).count();
        match self.worst() {
            Level::Ok => write!(f, "\nAll {} checks are ok.", self.0.len()),
            _ => write!(
                f,
                "\n{} ok, {} to look at, {} failed.",
                count(Level::Ok),
                count(Level::Warn),
                count(Level::Fail)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_to_do_beneath_whatever_is_not_ok() {
        let report = Report(vec![
            Finding::ok("CRDs", "present"),
            Finding::fail("pool", "no pool", "create an IPAddressPool"),
        ]);
        assert_eq!(report.worst(), Level::Fail);
        assert_eq!(
            report.to_string(),
            "ok    CRDs: present\nfail  pool: no pool\n      → create an IPAddressPool\n\n\
             1 ok, 0 to look at, 1 failed."
        );
    }
}
