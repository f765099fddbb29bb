//! Every relative link in a Markdown file leads to a file, and every anchor to a heading.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::{files, read, root};

/// The text with code removed: fenced and indented blocks, and spans.
fn without_code(text: &str) -> String {
    let (mut kept, mut fenced, mut blank) = (String::new(), false, true);
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        let indented = line.starts_with("    ") && blank;
        // An indented block goes on until a line that is not indented.
        blank = line.trim().is_empty() || indented;
        if !fenced && !fence && !indented {
            kept += line;
        }
        kept.push('\n');
    }
    let spans = kept.split('`').enumerate();
    spans.map(|(i, part)| if i % 2 == 0 { part } else { "" }).collect()
}

/// Targets of the links and pictures in a text.
fn targets(text: &str) -> Vec<String> {
    let text = without_code(text);
    let inline = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    let defined = text.lines().filter_map(|line| {
        let (label, target) = line.strip_prefix('[')?.split_once("]: ")?;
        (!label.contains(']')).then_some(target)
    });
    inline.map(|(target, _)| target).chain(defined).map(|t| t.trim().to_owned()).collect()
}

/// Anchors of the headings, as GitHub and mdBook make them.
fn anchors(text: &str) -> Vec<String> {
    let mut seen = BTreeMap::new();
    let (mut anchors, mut fenced) = (Vec::new(), false);
    for line in text.lines() {
        fenced ^= line.trim_start().starts_with("```");
        let level = line.chars().take_while(|c| *c == '#').count();
        let Some(title) = line.get(level..).and_then(|rest| rest.strip_prefix(' ')) else {
            continue;
        };
        if fenced || !(1..=6).contains(&level) {
            continue;
        }
        let title = title.to_lowercase().replace(' ', "-");
        let anchor: String =
            title.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect();
        let count = seen.entry(anchor.clone()).or_insert(0);
        anchors.push(if *count == 0 { anchor.clone() } else { format!("{anchor}-{count}") });
        *count += 1;
    }
    anchors
}

/// A path without `.` and `..`, or `None` where it leaves the repository.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => parts.pop().then_some(())?,
            Component::CurDir => {}
            other => parts.push(other),
        }
    }
    Some(parts)
}

/// What is wrong with a link in `page`.
fn broken(page: &str, target: &str) -> Option<String> {
    if ["http://", "https://", "mailto:"].iter().any(|scheme| target.starts_with(scheme)) {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let folder = Path::new(page).parent().unwrap();
    let file = if path.is_empty() { Some(page.into()) } else { normal(&folder.join(path)) };
    let Some(file) = file else { return Some("leaves the repository".into()) };
    if !root().join(&file).exists() {
        return Some(format!("{} does not exist", file.display()));
    }
    if !anchor.is_empty() && !anchors(&read(file.to_str().unwrap())).iter().any(|a| a == anchor) {
        return Some(format!("{} has no heading #{anchor}", file.display()));
    }
    None
}

#[test]
fn every_link_leads_somewhere() {
    let (mut count, mut problems) = (0, Vec::new());
    let pages = files().into_iter().filter(|name| name.ends_with(".md"));
    for page in pages {
        for target in targets(&read(&page)) {
            count += 1;
            if let Some(what) = broken(&page, &target) {
                problems.push(format!("{page}: ({target}): {what}"));
            }
        }
    }
    assert!(files().is_empty() || 100 < count, "only {count} links were found");
    assert!(problems.is_empty(), "correct these links:\n{}", problems.join("\n"));
}

#[test]
fn the_summary_lists_every_page_once() {
    let mut listed = targets(&read("docs/SUMMARY.md"));
    listed.sort();
    let pages = std::fs::read_dir(root().join("docs")).unwrap();
    let names = pages.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> =
        names.filter(|name| name.ends_with(".md") && name != "SUMMARY.md").collect();
    names.sort();
    assert_eq!(listed, names);
}

#[test]
fn broken_links_are_found() {
    let text = "[a](x.md) `[b](y.md)` ![c](z.png#d)\n\n    [e](code.md)\n\ntext\n    [f](g.md)\n\n\
        ```\n[h](code.md)\n```\n[i]: j.md\n";
    assert_eq!(targets(text), ["x.md", "z.png#d", "g.md", "j.md"]);
    assert_eq!(
        anchors("# A `b`, c-d_e!\n```\n# no\n```\n## A b c-d_e\n#no"),
        ["a-b-c-d_e", "a-b-c-d_e-1"]
    );
    assert_eq!(broken("docs/x.md", "../README.md"), None);
    assert_eq!(broken("docs/x.md", "https://example.org/#a"), None);
    assert!(broken("docs/x.md", "../../x").is_some_and(|text| text.contains("leaves")));
    assert!(broken("docs/x.md", "no.md").is_some_and(|text| text.contains("docs/no.md does not")));
    assert!(broken("README.md", "#no").is_some_and(|text| text.contains("no heading #no")));
}
