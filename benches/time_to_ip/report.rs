//! The table at the end: each figure beside its target, and whether it is met. Pure.

use std::fmt;
use std::time::Duration;

use crate::numbers::{millis, text};

/// A line of the table.
#[derive(Debug, Clone, Default)]
struct Row {
    figure: String,
    direct: String,
    berth: String,
    compared: String,
    target: String,
    met: Option<bool>,
}

/// The table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report(Vec<Row>);

impl Report {
    /// Two times side by side; Berth's may exceed the other by `allowed`.
    pub(crate) fn difference(
        &mut self,
        figure: &str,
        direct: Duration,
        berth: Duration,
        allowed: Duration,
    ) {
        let more = millis(berth) - millis(direct);
        self.0.push(Row {
            figure: figure.to_owned(),
            direct: text(direct),
            berth: text(berth),
            compared: format!("{more:+.1} ms"),
            target: format!("≤ +{} ms", allowed.as_millis()),
            met: Some(more <= millis(allowed)),
        });
    }

    /// Two times side by side; Berth's may be the other times `allowed`, where there is a target.
    pub(crate) fn ratio(
        &mut self,
        figure: &str,
        direct: Duration,
        berth: Duration,
        allowed: Option<f64>,
    ) {
        let ratio = berth.as_secs_f64() / direct.as_secs_f64().max(f64::EPSILON);
        self.0.push(Row {
            figure: figure.to_owned(),
            direct: text(direct),
            berth: text(berth),
            compared: format!("× {ratio:.2}"),
            target: allowed.map_or_else(String::new, |allowed| format!("≤ × {allowed:.2}")),
            met: allowed.map(|allowed| ratio <= allowed),
        });
    }

    /// Two times side by side; Berth's has a limit of its own, where there is one.
    pub(crate) fn limit(
        &mut self,
        figure: &str,
        direct: Duration,
        berth: Duration,
        limit: Option<Duration>,
    ) {
        self.0.push(Row {
            figure: figure.to_owned(),
            direct: text(direct),
            berth: text(berth),
            compared: String::new(),
            target: limit.map_or_else(String::new, |limit| format!("≤ {}", text(limit))),
            met: limit.map(|limit| berth <= limit),
        });
    }

    /// Two counts side by side, for comparison only.
    pub(crate) fn counts(&mut self, figure: &str, direct: f64, berth: f64) {
        self.0.push(Row {
            figure: figure.to_owned(),
            direct: format!("{direct:.1}"),
            berth: format!("{berth:.1}"),
            ..Row::default()
        });
    }

    /// A number of Berth's own with its limit.
    pub(crate) fn number(&mut self, figure: &str, berth: f64, unit: &str, limit: f64) {
        self.0.push(Row {
            figure: figure.to_owned(),
            berth: format!("{berth:.1}{unit}"),
            target: format!("≤ {limit:.0}{unit}"),
            met: Some(berth <= limit),
            ..Row::default()
        });
    }

    /// How many Services something went wrong with.
    pub(crate) fn failed(&mut self, figure: &str, berth: usize) {
        self.0.push(Row {
            figure: figure.to_owned(),
            berth: berth.to_string(),
            target: "none".to_owned(),
            met: Some(false),
            ..Row::default()
        });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, cells: [&str; 6]| {
            let [figure, direct, berth, compared, target, met] = cells;
            let line =
                format!("{figure:<38} {direct:>10} {berth:>10} {compared:>11} {target:>11}  {met}");
            writeln!(f, "{}", line.trim_end())
        };
        line(f, ["", "direct", "Berth", "", "target", "met"])?;
        for row in &self.0 {
            let met = match row.met {
                None => "",
                Some(true) => "yes",
                Some(false) => "NO",
            };
            let Row {
                figure,
                direct,
                berth,
                compared,
                target,
                ..
            } = row;
            line(f, [figure, direct, berth, compared, target, met])?;
        }
        Ok(())
    }
}
