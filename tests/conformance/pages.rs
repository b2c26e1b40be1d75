//! Pages that are generated from the names of tests: which test shows which line of a numbered list. A page cannot promise what
//! nothing shows. It knows names and files, and nothing of what the lines are about.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// Where tests are.
const ROOTS: [&str; 6] = [
    "agent/src",
    "common/src",
    "hub/src",
    "proto",
    "tests",
    "benches",
];
/// The tests of these pages have names of tests in their texts.
const NOT_HERE: &str = "tests/conformance";

/// One line of a list.
pub(crate) struct Line {
    pub(crate) number: usize,
    pub(crate) what: &'static str,
    /// What the list says of it besides: its source, or the answer that is due.
    pub(crate) besides: &'static str,
}

pub(crate) const fn line(number: usize, what: &'static str, besides: &'static str) -> Line {
    Line {
        number,
        what,
        besides,
    }
}

/// One page.
pub(crate) struct Page {
    /// Where it is, from the root.
    pub(crate) path: &'static str,
    /// What the names of its tests begin with.
    pub(crate) prefix: &'static str,
    /// What stands above its rows.
    pub(crate) head: &'static str,
    pub(crate) lines: &'static [Line],
}

impl Page {
    /// Its text, as the tests' names make it.
    pub(crate) fn text(&self) -> io::Result<String> {
        let mut shown = self.shown()?;
        let mut page = self.head.to_owned();
        for line in self.lines {
            let tests = shown.remove(&line.number).unwrap_or_default();
            let tests = if tests.is_empty() {
                "nothing yet".to_owned()
            } else {
                tests.join("<br>")
            };
            page += &format!(
                "| {} | {} | {} | {tests} |\n",
                line.number, line.what, line.besides
            );
        }
        assert!(
            shown.is_empty(),
            "tests of lines that there are not: {shown:?}"
        );
        Ok(page)
    }

    /// The tests of each line, as links.
    fn shown(&self) -> io::Result<BTreeMap<usize, Vec<String>>> {
        let mut shown: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        let mut files = Vec::new();
        for folder in ROOTS {
            sources(&root().join(folder), &mut files)?;
        }
        for file in &files {
            let place = file.strip_prefix(root()).unwrap_or(file);
            if place.starts_with(NOT_HERE) {
                continue;
            }
            for (number, name) in tests_in(self.prefix, &fs::read_to_string(file)?) {
                let link = format!("[{name}](../{})", place.display());
                shown.entry(number).or_default().push(link);
            }
        }
        Ok(shown)
    }

    /// Where its file is.
    pub(crate) fn file(&self) -> PathBuf {
        root().join(self.path)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let mut entries = entries.collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// The tests of each line in a file's text: functions called `point_07_…`. One that covers several lines names them one after the
/// other (`point_12_and_13_…`, `hostile_06_07_…`), or the first and the last (`hostile_20_to_22_…`).
pub(crate) fn tests_in(prefix: &str, text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.trim_start();
        let line = line.strip_prefix("async ").unwrap_or(line);
        let Some(name) = line.strip_prefix("fn ").and_then(|rest| {
            let end = rest.find(['(', '<'])?;
            Some(&rest[..end])
        }) else {
            continue;
        };
        let Some(rest) = name.strip_prefix(prefix) else {
            continue;
        };
        let mut last = None;
        let mut through = false;
        for part in rest.split('_') {
            match (part, part.parse::<usize>()) {
                ("and", _) => {}
                ("to", _) if last.is_some() => through = true,
                (_, Ok(number)) => {
                    let first = last.filter(|_| through).map_or(number, |last| last + 1);
                    found.extend((first..=number).map(|number| (number, name.to_owned())));
                    (last, through) = (Some(number), false);
                }
                _ => break,
            }
        }
    }
    found
}
