//! `docs/messages.md` is made of the comments of `msg/`.

use super::{compare, markdown, read, wrap};

const FILES: &[(&str, &str)] = &[
    ("msg/msg/Status.msg", "Topic `~/status`."),
    ("msg/msg/Action.msg", "Topic `~/action`."),
    ("msg/action/RunPolicy.action", "Action `~/run_policy`, see [tasks.md](tasks.md)."),
];

const HEAD: &str = "\
# Messages

Made from the comments in `msg/` by `UPDATE=1 cargo test --test documents`; a test compares the two.
`ros2 interface show openvla_tt_msgs/msg/Status` prints the same. Names that begin with `~` are the
node's: `/vla/status` for a node `vla`.
";

/// Fields that share a comment.
#[derive(Default)]
struct Group {
    comment: Vec<String>,
    fields: Vec<String>,
    /// Name, value, meaning.
    constants: Vec<[String; 3]>,
}

impl Group {
    /// Writes the group, and begins the next one.
    fn flush(&mut self, page: &mut String) {
        let group = std::mem::take(self);
        let text = markdown(&group.comment.join(" "));
        if !group.fields.is_empty() {
            let fields = group.fields.join(", ");
            let text = if text.is_empty() { fields } else { format!("{fields}: {text}") };
            *page += &format!("{}\n", wrap(&format!("- {text}"), "  "));
        } else if !text.is_empty() {
            *page += &format!("\n{}\n\n", wrap(&text, ""));
        }
        if !group.constants.is_empty() {
            *page += "\n| constant | value | meaning |\n|---|---|---|\n";
            for [name, value, meaning] in &group.constants {
                *page += &format!("| `{name}` | {value} | {} |\n", markdown(meaning));
            }
            page.push('\n');
        }
    }
}

/// A line without comment: the field, or the constant with its value.
pub fn declaration(line: &str) -> Option<(String, Option<String>)> {
    let code = line.split('#').next()?.trim();
    let (kind, name) = code.split_once(' ')?;
    Some(match name.split_once('=') {
        Some((name, value)) => (name.trim().to_owned(), Some(value.trim().to_owned())),
        None => (format!("`{kind} {name}`"), None),
    })
}

fn section(file: &str, purpose: &str) -> String {
    let name = file.rsplit('/').next().unwrap();
    let mut page = format!("\n## {name}\n\n{purpose}\n");
    let mut parts = ["Goal", "Result", "Feedback"].iter();
    let mut heading = |page: &mut String| *page += &format!("\n### {}\n\n", parts.next().unwrap());
    let (mut group, mut begun) = (Group::default(), false);
    for line in read(file).lines() {
        let comment = line.strip_prefix('#').map(str::trim);
        let title = comment.filter(|text| text.starts_with("-- ") && text.ends_with("--"));
        if let Some(title) = title {
            group.flush(&mut page);
            page += &format!("\n### {}\n\n", title.trim_matches(['-', ' ']));
            begun = true;
        } else if line.starts_with("uint16 REASON_") || line.starts_with("#     ") {
            // docs/reasons.md
        } else if let Some(comment) = comment {
            let of_reasons = comment.starts_with("- ");
            if !group.fields.is_empty() || !group.constants.is_empty() {
                group.flush(&mut page);
            }
            if !of_reasons {
                group.comment.push(comment.to_owned());
            }
        } else if line == "---" {
            group.flush(&mut page);
            heading(&mut page);
        } else if let Some((name, value)) = declaration(line) {
            if file.ends_with(".action") && !begun {
                heading(&mut page);
            }
            begun = true;
            match value {
                Some(value) => {
                    let mut meaning = line.split_once('#').map_or("", |(_, text)| text).trim();
                    meaning = meaning.trim_end_matches(';');
                    group.constants.push([name, value, meaning.to_owned()]);
                }
                None if name.starts_with("`uint16 reason") && file.ends_with(".msg") => {
                    group = Group::default();
                    page += "- `uint16 reason`: one of the constants `REASON_...`, see\n  \
                        [reasons.md](reasons.md).\n";
                }
                None => group.fields.push(name),
            }
        } else if let (Some((_, _, meaning)), Some(more)) = (
            group.constants.last_mut().map(|[a, b, c]| (a, b, c)),
            line.trim_start().strip_prefix('#'),
        ) {
            // The next line of a constant's comment.
            *meaning = format!("{meaning} {}", more.trim());
        } else if line.trim().is_empty() {
            group.flush(&mut page);
        }
    }
    group.flush(&mut page);
    page
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for (file, purpose) in FILES {
        page += &section(file, purpose);
    }
    while page.contains("\n\n\n") {
        page = page.replace("\n\n\n", "\n\n");
    }
    page
}

#[test]
fn messages_are_the_comments() {
    compare("docs/messages.md", &page());
}

#[test]
fn every_field_is_on_the_page() {
    let page = page();
    let mut count = 0;
    for (file, _) in FILES {
        for line in read(file).lines().filter(|line| !line.starts_with("uint16 REASON_")) {
            let Some((name, value)) = declaration(line) else { continue };
            let name = value.map_or(name.clone(), |_| format!("`{name}`"));
            assert!(page.contains(&name), "{file}: {name}");
            count += 1;
        }
    }
    assert!(60 < count, "{count}");
}
