//! SAFETY.md names files and tests; they exist, and every row has both.
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
        for test in quoted(tests) {
            let (file, name) = test.split_once("::").unwrap();
            let source = std::fs::read_to_string(root.join(file))
                .unwrap_or_else(|error| panic!("{file}: {error}"));
            let at = source
                .find(&format!("fn {name}("))
                .unwrap_or_else(|| panic!("{file} has no {name}"));
            // The attribute is right above; in a proptest! block within the macro.
            let above = source[..at].trim_end();
            assert!(above.ends_with("#[test]"), "{test} is no test");
        }
    }
}
