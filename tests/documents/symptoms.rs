//! What `docs/troubleshooting.md` says is printed, is in the sources.

use super::{files, read};

/// The sources, with texts joined that go on in the next line.
fn sources() -> String {
    let of_program = |name: &String| {
        let of_crate = name.starts_with("crates/") && name.contains("/src/");
        ((of_crate || name.starts_with("src/")) && name.ends_with(".rs"))
            || name.ends_with(".msg")
            || name.starts_with("crates/tt-metal-sys/shim/")
            || ["tools/ros/setup", "Makefile", "tools/lib/setup.sh"].contains(&name.as_str())
    };
    let files = files();
    let texts = files.iter().filter(|name| of_program(name)).map(|name| read(name));
    let all: Vec<String> = texts.collect();
    let all = all.join("\n");
    let mut lines = all.split("\\\n");
    let mut joined = lines.next().unwrap_or_default().to_owned();
    lines.for_each(|line| joined += line.trim_start());
    joined
}

/// The messages in the first column of the page's tables.
fn messages(page: &str) -> Vec<String> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| "));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    let spans = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    spans.map(str::to_owned).collect()
}

#[test]
fn every_message_is_in_the_source() {
    let (sources, page) = (sources(), read("docs/troubleshooting.md"));
    let messages = messages(&page);
    assert!(40 < messages.len(), "{}", messages.len());
    let mut missing = Vec::new();
    for message in &messages {
        // `...` stands for values.
        for part in message.split("...").map(str::trim).filter(|part| !part.is_empty()) {
            if !sources.contains(part) {
                missing.push(format!("{message}: '{part}'"));
            }
        }
    }
    assert!(missing.is_empty(), "no source has:\n{}", missing.join("\n"));
}
