//! `docs/conformance.md`: which test shows which point. It is generated from the names of the tests (`point_07_…`), so that it
//! cannot promise what nothing shows; this test fails where it is out of date. `make generate` writes it.

mod points;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use points::POINTS;

/// Where tests are.
const ROOTS: [&str; 6] = [
    "agent/src",
    "common/src",
    "hub/src",
    "proto",
    "tests",
    "benches",
];

const HEAD: &str = "\
# Conformance

What a Service of `type: LoadBalancer` must honour, and the tests that show it. Generated from the tests' names by
`make generate`; a test fails when this page is out of date. SC: upstream's service controller; H: its helpers; API: the core/v1
types; E2E: upstream's test/e2e/network/loadbalancer.go; ML: MetalLB.

| | point | source | shown by |
|---|---|---|---|
";

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

/// The tests of each point in a file's text: functions called `point_07_…`. One that covers several points names them one
/// after the other (`point_12_and_13_…`).
fn tests_in(text: &str) -> Vec<(usize, String)> {
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
        let Some(rest) = name.strip_prefix("point_") else {
            continue;
        };
        let numbers = rest
            .split('_')
            .take_while(|part| *part == "and" || part.parse::<usize>().is_ok())
            .filter_map(|part| part.parse().ok());
        found.extend(numbers.map(|number| (number, name.to_owned())));
    }
    found
}

fn page() -> io::Result<String> {
    let mut shown: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    let mut files = Vec::new();
    for folder in ROOTS {
        sources(&root().join(folder), &mut files)?;
    }
    for file in &files {
        let place = file.strip_prefix(root()).unwrap_or(file).display();
        for (number, name) in tests_in(&fs::read_to_string(file)?) {
            let link = format!("[{name}](../{place})");
            shown.entry(number).or_default().push(link);
        }
    }
    let mut page = HEAD.to_owned();
    for point in &POINTS {
        let tests = shown.remove(&point.number).unwrap_or_default();
        let tests = if tests.is_empty() {
            "nothing yet".to_owned()
        } else {
            tests.join("<br>")
        };
        page += &format!(
            "| {} | {} | {} | {tests} |\n",
            point.number, point.what, point.source
        );
    }
    assert!(
        shown.is_empty(),
        "tests of points that there are not: {shown:?}"
    );
    Ok(page)
}

#[test]
fn the_page_tells_what_the_tests_show() {
    let path = root().join("docs/conformance.md");
    let page = page().unwrap();
    if std::env::var_os("BERTH_GENERATE").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/conformance.md is not what the tests say: run `make generate`, and commit it"
    );
}

#[test]
fn names_are_read_with_all_their_points() {
    let text = "
        #[test]
        fn point_07_delete_is_idempotent() {}
        async fn point_12_and_13_both(lab: &Lab) {}
        fn other_07() {}
        // fn point_99_in_a_comment() {}
    ";
    let found = tests_in(text);
    let expected = [
        (7, "point_07_delete_is_idempotent"),
        (12, "point_12_and_13_both"),
        (13, "point_12_and_13_both"),
    ];
    assert_eq!(found, expected.map(|(n, name)| (n, name.to_owned())));
}

#[test]
fn points_are_numbered_without_a_gap() {
    for (index, point) in POINTS.iter().enumerate() {
        assert_eq!(point.number, index + 1);
    }
}
