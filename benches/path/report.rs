//! The table at the end: each figure beside its target, KubeLB's figure, and whether the target is met. Pure.

use std::fmt;

/// A line of the table.
#[derive(Debug, Clone)]
struct Row {
    figure: String,
    by_hand: Option<String>,
    berth: String,
    target: String,
    kubelb: String,
    met: Option<bool>,
}

/// The table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report(Vec<Row>);

impl Report {
    /// A figure with its target; `sides` is by hand, where that says something, and through Berth.
    pub(crate) fn row(
        &mut self,
        figure: &str,
        (by_hand, berth): (Option<String>, String),
        target: &str,
        kubelb: &str,
        met: bool,
    ) {
        self.0.push(Row {
            figure: figure.to_owned(),
            by_hand,
            berth,
            target: target.to_owned(),
            kubelb: format!("[{kubelb}]"),
            met: Some(met),
        });
    }

    /// A figure without a target.
    pub(crate) fn seen(&mut self, figure: &str, (by_hand, berth): (Option<String>, String)) {
        self.0.push(Row {
            figure: figure.to_owned(),
            by_hand,
            berth,
            target: String::new(),
            kubelb: String::new(),
            met: None,
        });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, cells: [&str; 6]| {
            let [figure, by_hand, berth, target, kubelb, met] = cells;
            let line =
                format!("{figure:<50} {by_hand:>9} {berth:>14} {target:>9} {kubelb:>14}  {met}");
            writeln!(f, "{}", line.trim_end())
        };
        line(f, ["", "by hand", "Berth", "target", "[KubeLB]", "met"])?;
        for row in &self.0 {
            let met = match row.met {
                None => "",
                Some(true) => "yes",
                Some(false) => "NO",
            };
            let by_hand = row.by_hand.as_deref().unwrap_or_default();
            line(
                f,
                [
                    &row.figure,
                    by_hand,
                    &row.berth,
                    &row.target,
                    &row.kubelb,
                    met,
                ],
            )?;
        }
        Ok(())
    }
}
