//! How long work is shown to the person who waits for it. Knows steps, times and lines of text; must not know what is being
//! built. On a terminal one line is rewritten; elsewhere (CI logs) whole lines appear now and then.

use std::io::{IsTerminal, Write};
use std::time::Duration;

/// How often a running step says so where lines cannot be rewritten.
const PLAIN_INTERVAL: Duration = Duration::from_secs(15);

/// One step of a longer work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step<'a> {
    /// Its place, from 1.
    pub number: usize,
    /// How many steps there are.
    pub total: usize,
    /// What it is about, such as the part's name.
    pub name: &'a str,
    /// What is done with it: "building".
    pub doing: &'a str,
    /// How long it took where this was measured (2 cores, nothing cached); `None` when it is instant.
    pub usual: Option<Duration>,
}

/// Where a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It begins.
    Started,
    /// It still runs; told about once a second.
    Running(Duration),
    /// It is done.
    Done(Duration),
    /// It failed; the error says why.
    Failed(Duration),
}

/// Receives what happens.
pub trait Progress: Send {
    /// A step changed its state.
    fn step(&mut self, step: &Step<'_>, state: State);
    /// One line worth reading that belongs to no step.
    fn note(&mut self, line: &str);
}

/// Shows nothing.
#[derive(Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn step(&mut self, _: &Step<'_>, _: State) {}
    fn note(&mut self, _: &str) {}
}

/// Shows progress as text.
#[derive(Debug)]
pub struct Console<W> {
    out: W,
    rewrite: bool,
    said: Duration,
}

impl Console<std::io::Stderr> {
    /// On standard error: a terminal gets one line rewritten, everything else gets plain lines.
    #[must_use]
    pub fn stderr() -> Self {
        let out = std::io::stderr();
        let rewrite = out.is_terminal();
        Self::new(out, rewrite)
    }
}

impl<W: Write> Console<W> {
    /// Onto `out`; `rewrite` says whether it understands a carriage return.
    pub fn new(out: W, rewrite: bool) -> Self {
        Self {
            out,
            rewrite,
            said: Duration::ZERO,
        }
    }

    /// A closed terminal is no reason to stop a build, so errors of writing are dropped here.
    fn write(&mut self, text: &str) {
        let _ = self.out.write_all(text.as_bytes());
        let _ = self.out.flush();
    }

    fn rewritten(&mut self, line: &str, end: &str) {
        self.write(&format!("\r\x1b[2K{line}{end}"));
    }
}

impl<W: Write + Send> Progress for Console<W> {
    fn step(&mut self, step: &Step<'_>, state: State) {
        let line = line(step, state);
        match (state, self.rewrite) {
            (State::Started | State::Running(_), true) => self.rewritten(&line, ""),
            (State::Done(_) | State::Failed(_), true) => self.rewritten(&line, "\n"),
            (State::Started, false) => {
                self.said = Duration::ZERO;
                // What is instant has one line in a log: its end.
                if step.usual.is_some() {
                    self.write(&format!("{line}\n"));
                }
            }
            (State::Running(elapsed), false) => {
                if elapsed >= self.said + PLAIN_INTERVAL {
                    self.said = elapsed;
                    self.write(&format!("{line}\n"));
                }
            }
            (State::Done(_) | State::Failed(_), false) => self.write(&format!("{line}\n")),
        }
    }

    fn note(&mut self, line: &str) {
        if self.rewrite {
            self.rewritten(line, "\n");
        } else {
            self.write(&format!("{line}\n"));
        }
    }
}

/// The one line that says where a step stands.
fn line(step: &Step<'_>, state: State) -> String {
    let Step {
        number,
        total,
        name,
        doing,
        ..
    } = step;
    let width = total.to_string().len();
    let head = format!("[{number:>width$}/{total}] {name} …");
    let usual = match step.usual {
        Some(usual) => format!(", usually {} s on 2 cores", usual.as_secs()),
        None => String::new(),
    };
    match state {
        State::Started => format!("{head} {doing}{usual}"),
        State::Running(t) => format!("{head} {doing}{usual}, {} s so far", t.as_secs()),
        State::Done(t) => format!("{head} done in {:.1} s", t.as_secs_f32()),
        State::Failed(t) => format!("{head} failed after {:.1} s", t.as_secs_f32()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Step<'_> = Step {
        number: 3,
        total: 16,
        name: "kube-apiserver",
        doing: "building",
        usual: Some(Duration::from_secs(200)),
    };

    fn shown(rewrite: bool, states: &[State]) -> String {
        let mut console = Console::new(Vec::new(), rewrite);
        for state in states {
            console.step(&STEP, *state);
        }
        String::from_utf8(console.out).unwrap()
    }

    #[test]
    fn a_terminal_sees_one_line_rewritten() {
        let text = shown(
            true,
            &[
                State::Started,
                State::Running(Duration::from_secs(41)),
                State::Done(Duration::from_millis(195_040)),
            ],
        );
        assert_eq!(text.matches('\n').count(), 1);
        assert!(
            text.contains(
                "[ 3/16] kube-apiserver … building, usually 200 s on 2 cores, 41 s so far"
            )
        );
        assert!(text.ends_with("[ 3/16] kube-apiserver … done in 195.0 s\n"));
    }

    #[test]
    fn a_log_sees_a_line_each_15_seconds() {
        let mut states = vec![State::Started];
        states.extend((1..=46).map(|s| State::Running(Duration::from_secs(s))));
        let text = shown(false, &states);
        assert!(!text.contains('\r'));
        let seen: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(seen.len(), 3);
        assert!(seen[0].ends_with("15 s so far") && seen[2].ends_with("45 s so far"));
    }

    #[test]
    fn the_next_step_starts_its_own_clock() {
        let mut console = Console::new(Vec::new(), false);
        console.step(&STEP, State::Started);
        console.step(&STEP, State::Running(Duration::from_secs(100)));
        console.step(&STEP, State::Started);
        console.step(&STEP, State::Running(Duration::from_secs(16)));
        let text = String::from_utf8(console.out).unwrap();
        assert!(text.ends_with("16 s so far\n"));
    }
}
