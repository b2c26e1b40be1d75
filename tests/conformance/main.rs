//! `docs/conformance.md` and `docs/hostile.md`: which test shows which point, and which hostile input. They are generated from the
//! names of the tests (`point_07_…`, `hostile_22_…`), so that they cannot promise what nothing shows; this test fails where one is
//! out of date. `make generate` writes them.

mod hostile;
mod pages;
mod points;

use std::fs;

use pages::{Page, tests_in};

const PAGES: [&Page; 2] = [&points::PAGE, &hostile::PAGE];

#[test]
fn the_pages_tell_what_the_tests_show() {
    for page in PAGES {
        let text = page.text().unwrap();
        if std::env::var_os("BERTH_GENERATE").is_some() {
            fs::write(page.file(), &text).unwrap();
        }
        let written = fs::read_to_string(page.file()).unwrap_or_default();
        assert!(
            written == text,
            "{} is not what the tests say: run `make generate`, and commit it",
            page.path
        );
    }
}

#[test]
fn names_are_read_with_all_their_numbers() {
    let text = "
        #[test]
        fn point_07_delete_is_idempotent() {}
        async fn point_12_and_13_both(lab: &Lab) {}
        fn other_07() {}
        // fn point_99_in_a_comment() {}
        fn hostile_20_to_22_three() {}
        fn hostile_06_07_to_two_and_9() {}
    ";
    let named = |prefix| {
        let found = tests_in(prefix, text).into_iter();
        found.map(|(number, _)| number).collect::<Vec<_>>()
    };
    assert_eq!(named("point_"), [7, 12, 13]);
    assert_eq!(named("hostile_"), [20, 21, 22, 6, 7]);
    assert_eq!(
        tests_in("point_", text)[0].1,
        "point_07_delete_is_idempotent"
    );
}

#[test]
fn lines_are_numbered_without_a_gap() {
    for page in PAGES {
        for (index, line) in page.lines.iter().enumerate() {
            assert_eq!(line.number, index + 1, "{}", page.path);
        }
    }
}
