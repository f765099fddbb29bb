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
    let texts = files.iter().filter(|name| of_program(name)).map(|name| {
        // Tests at the end of a file print nothing.
        let text = read(name);
        text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned()
    });
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

/// Characters of the source in which the parts of one message are.
const REACH: usize = 600;

/// Whether a message is in the sources; `...` stands for values, its parts follow one another.
fn printed(sources: &str, message: &str) -> bool {
    let mut parts = message.split("...").map(str::trim).filter(|part| !part.is_empty());
    let Some(first) = parts.next() else { return false };
    let rest: Vec<&str> = parts.collect();
    sources.match_indices(first).any(|(at, _)| {
        let mut here: String = sources[at + first.len()..].chars().take(REACH).collect();
        rest.iter().all(|part| {
            let found = here.find(part).map(|at| at + part.len());
            found.is_some_and(|end| {
                here.drain(..end);
                true
            })
        })
    })
}

#[test]
fn other_texts_are_not_found() {
    let source = "format!(\"{a} is {b} of {c}; correct it\")";
    assert!(printed(source, "... is ... of ...; correct it"));
    assert!(!printed(source, "... of ... is ...") && !printed(source, "... is wrong"));
    assert!(!printed(source, "..."));
}

#[test]
fn every_message_is_in_the_source() {
    if files().is_empty() {
        println!(
            "SKIPPED symptoms: the files of the sources are listed by git, this is no checkout"
        );
        return;
    }
    let (sources, page) = (sources(), read("docs/troubleshooting.md"));
    let messages = messages(&page);
    assert!(40 < messages.len(), "{}", messages.len());
    let mut missing = Vec::new();
    for message in &messages {
        if !printed(&sources, message) {
            missing.push(message.as_str());
        }
    }
    assert!(missing.is_empty(), "no source has:\n{}", missing.join("\n"));
}
