//! The simulator has teeth: for every bug of [`Mutation`] it finds a schedule that breaks an invariant, among those that are
//! kept in `regressions` or the first of a seed.

use std::{fs, path::Path};

use berth_sim::{Case, Mutation, Saved, Schedule, run, sweep};

/// The same seed gives the same schedules.
const SCHEDULES: u64 = 500;

fn kept() -> std::io::Result<Vec<Schedule>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    fs::read_dir(dir)?
        .map(|entry| {
            let text = fs::read_to_string(entry?.path())?;
            let saved = Saved::read(&text).map_err(std::io::Error::other)?;
            Ok(saved.schedule)
        })
        .collect()
}

#[test]
fn every_mutation_is_found() {
    let kept = kept().unwrap();
    let mut unfound = Vec::new();
    for mutation in Mutation::all() {
        let case = Case::with(*mutation);
        let by_chance = sweep(1, SCHEDULES, case, false, |_| ());
        let tried = by_chance.stats.schedules + kept.len() as u64;
        match by_chance.failures.first() {
            Some((index, failure)) => {
                let rule = failure.violation.rule;
                println!("{mutation:?} takes {} schedules: {rule}", index + 1);
                // By the rule that it is there for, and by none that it breaks besides.
                if *mutation == Mutation::LastComeFirstServed {
                    assert_eq!(rule, "who waits first is served first");
                }
            }
            None if kept.iter().any(|schedule| run(schedule, case).is_err()) => {
                println!("{mutation:?} is found by a schedule that is kept");
            }
            None => unfound.push(format!("{mutation:?} by {tried} schedules")),
        }
    }
    assert!(Mutation::all().len() >= 12);
    assert!(unfound.is_empty(), "not found: {}", unfound.join(", "));
}
