//! The table at the end: each figure beside its target, and whether it is met. Pure.

use std::fmt;

struct Row {
    figure: String,
    value: String,
    target: String,
    met: Option<bool>,
}

/// The table.
#[derive(Default)]
pub(crate) struct Report(Vec<Row>);

impl Report {
    /// A figure that has no target.
    pub(crate) fn figure(&mut self, figure: impl Into<String>, value: f64, unit: &str) {
        self.add(figure.into(), value, unit, None);
    }

    /// A figure that should not exceed a target.
    pub(crate) fn limit(&mut self, figure: impl Into<String>, value: f64, unit: &str, target: f64) {
        self.add(figure.into(), value, unit, Some(target));
    }

    fn add(&mut self, figure: String, value: f64, unit: &str, target: Option<f64>) {
        let row = Row {
            figure,
            value: format!("{} {unit}", number(value)),
            target: target.map_or_else(String::new, |most| format!("≤ {} {unit}", number(most))),
            met: target.map(|most| value <= most),
        };
        println!("{row}");
        self.0.push(row);
    }
}

/// With as many digits as mean something.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        _ => format!("{value:.1}"),
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            figure,
            value,
            target,
            ..
        } = self;
        let met = match self.met {
            None => "",
            Some(true) => "yes",
            Some(false) => "NO",
        };
        let line = format!("{figure:<62} {value:>14} {target:>14}  {met}");
        f.write_str(line.trim_end())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<62} {:>14} {:>14}  met", "", "measured", "target")?;
        self.0.iter().try_for_each(|row| writeln!(f, "{row}"))
    }
}
