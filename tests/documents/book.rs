//! The preprocessor of the book: where links of the pages lead.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::root;

/// A book of these pages after `tools/docs/repository.py`.
fn processed(pages: &[(&str, &str)]) -> Vec<Value> {
    let chapter = |page: &(&str, &str)| {
        let (path, content) = page;
        let chapter = json!({ "name": path, "content": content, "path": path, "sub_items": [] });
        json!({ "Chapter": chapter })
    };
    let items: Vec<Value> = pages.iter().map(chapter).collect();
    let config = json!({
        "book": { "src": "docs" },
        "output": { "html": { "git-repository-url": "https://example.org/repository" } },
    });
    let input = json!([{ "root": root(), "config": config }, { "items": items }]);
    let mut child = Command::new("python3")
        .arg(root().join("tools/docs/repository.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is needed");
    child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let book: Value = serde_json::from_slice(&output.stdout).unwrap();
    book["items"].as_array().unwrap().clone()
}

fn content(item: &Value) -> &str {
    item["Chapter"]["content"].as_str().unwrap()
}

#[test]
fn links_out_of_the_guide_lead_to_chapters_or_to_the_repository() {
    let page = "[a](../SAFETY.md#limitations) [b](tasks.md) [c](../config/fastdds.xml) \
        [d](https://example.org) `[e](../SAFETY.md)`\n```\n[f](../SAFETY.md)\n```\n";
    let items = processed(&[("index.md", page)]);
    assert_eq!(
        content(&items[0]),
        "[a](repository/SAFETY.md#limitations) [b](tasks.md) \
        [c](https://example.org/repository/blob/main/config/fastdds.xml) [d](https://example.org) \
        `[e](../SAFETY.md)`\n```\n[f](../SAFETY.md)\n```\n"
    );
    assert_eq!(items[1]["PartTitle"], "In the repository");
    // SAFETY.md, with its own links in its new place, and what it links to.
    assert_eq!(items[2]["Chapter"]["path"], "repository/SAFETY.md");
    assert_eq!(items[2]["Chapter"]["name"], "Safety");
    assert!(content(&items[2]).contains("](../tasks.md)"), "{}", content(&items[2]));
}

#[test]
fn a_book_without_links_out_has_no_further_chapter() {
    assert_eq!(processed(&[("index.md", "[b](tasks.md)")]).len(), 1);
}
