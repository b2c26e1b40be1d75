//! Schedules that once broke an invariant, each for the reason that its file tells. `sim` prints what fails as such a file.

use std::{fs, path::Path};

use berth_sim::{Case, Saved, run};

#[test]
fn what_was_mended_stays_mended() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let mut broken = Vec::new();
    let mut count = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let saved = Saved::read(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(saved.text().unwrap(), text, "{}", path.display());
        if let Err(failure) = run(&saved.schedule, Case::default()) {
            broken.push(format!(
                "{}: again: {}\n  {}: {}",
                path.display(),
                saved.shows,
                failure.violation.rule,
                failure.violation.what
            ));
        }
        count += 1;
    }
    assert!(count >= 9, "only {count} schedules were found");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
