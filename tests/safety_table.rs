//! Documents name files and tests; they exist. In SAFETY.md every row has both.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

/// The texts in backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_file_and_test_in_the_hazard_table_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("SAFETY.md")).unwrap();
    let table = text.split("## Hazards").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(25 < rows.len(), "{}", rows.len());
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [_, _, file, tests] = cells[..] else { panic!("a row has four cells: {row}") };
        let files = quoted(file);
        assert!(!files.is_empty() && files.iter().all(|file| root.join(file).is_file()), "{row}");
        assert!(!quoted(tests).is_empty(), "{row}");
        quoted(tests).into_iter().for_each(|test| assert_is_test(root, test));
    }
}

/// `file::name` is a test.
fn assert_is_test(root: &Path, test: &str) {
    let (file, name) = test.split_once("::").unwrap();
    let source =
        std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let at = source.find(&format!("fn {name}(")).unwrap_or_else(|| panic!("{file} has no {name}"));
    // Attributes are right above; in a proptest! block within the macro.
    let above = source[..at].trim_end().lines().rev();
    let mut attributes = above.take_while(|line| line.trim_start().starts_with("#["));
    assert!(attributes.any(|line| line.trim() == "#[test]"), "{test} is no test");
}

#[test]
fn every_file_and_test_in_the_silicon_review_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/silicon_review.md")).unwrap();
    // Folders of tt-metal and SFPI are named too.
    let ours = ["crates/", "tests/", "tools/", "kernels/", "src/"];
    let own = |text: &&str| ours.iter().any(|folder| text.starts_with(folder));
    let (tests, files): (Vec<&str>, Vec<&str>) =
        quoted(&text).into_iter().filter(own).partition(|text| text.contains("::"));
    assert!(40 < tests.len(), "{}", tests.len());
    for file in files {
        assert!(root.join(file).is_file(), "{file} does not exist");
    }
    tests.into_iter().for_each(|test| assert_is_test(root, test));
}
