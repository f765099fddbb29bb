//! `docs/reasons.md` is made of the reasons in `Status.msg` and the interventions of the control
//! core.

use super::{compare, markdown, read};

const HEAD: &str = "\
# Reasons and remedies

Every value of `reason` and `causes` in `~/status`, and the names in `intervention_names`. Made from
`msg/msg/Status.msg` and `crates/vla-control/src/reason.rs` by
`UPDATE=1 cargo test --test documents`; a test compares them. Beginning with what is on the screen:
[troubleshooting.md](troubleshooting.md). How each hazard is treated: [SAFETY.md](../SAFETY.md).

`detail` has the measured value with its limit, `source` the camera, topic or joint.
";

struct Reason {
    name: String,
    code: u16,
    meaning: String,
    remedy: String,
}

/// The groups: title, reasons.
fn groups(text: &str) -> Vec<(String, Vec<Reason>)> {
    let mut groups: Vec<(String, Vec<Reason>)> = Vec::new();
    let mut title = String::new();
    let of_reasons = text.split("# -- Reason").nth(1).unwrap();
    for line in of_reasons.lines().skip(1) {
        if let Some(constant) = line.strip_prefix("uint16 REASON_") {
            let (name, rest) = constant.split_once('=').unwrap();
            let (code, meaning) = rest.split_once('#').unwrap();
            let reason = Reason {
                name: name.trim().to_owned(),
                code: code.trim().parse().unwrap(),
                meaning: meaning.trim().to_owned(),
                remedy: String::new(),
            };
            if groups.last().is_none_or(|(last, _)| *last != title) {
                groups.push((title.clone(), Vec::new()));
            }
            groups.last_mut().unwrap().1.push(reason);
        } else if let Some(more) = line.strip_prefix("#     ") {
            let remedy = &mut groups.last_mut().unwrap().1.last_mut().unwrap().remedy;
            let more = more.strip_prefix("Remedy: ").unwrap_or(more);
            *remedy = format!("{remedy} {more}").trim().to_owned();
        } else if let Some(text) = line.strip_prefix("# - ") {
            title = text.to_owned();
        } else if line.starts_with("# From 100:") {
            title = line.trim_start_matches("# ").to_owned();
        } else if line.starts_with("uint16 reason") {
            break;
        }
    }
    groups
}

/// Name and sentence of each intervention.
fn interventions(source: &str) -> Vec<(String, String)> {
    let block = source.split("\ninterventions! {").nth(1).unwrap().split("\n}").next().unwrap();
    let entries = block.split(';').filter(|entry| entry.contains('"'));
    let parts = entries.map(|entry| {
        let mut texts = entry.split('"').skip(1).step_by(2);
        let name = texts.next().unwrap().to_owned();
        let sentence = texts.next().unwrap().replace('\\', " ");
        (name, sentence.split_whitespace().collect::<Vec<_>>().join(" "))
    });
    parts.collect()
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for (title, reasons) in groups(&read("msg/msg/Status.msg")) {
        if !title.is_empty() {
            let mut letters = title.chars();
            let first = letters.next().unwrap().to_uppercase();
            page += &format!("\n## {first}{}\n", letters.as_str());
        }
        page += "\n| reason | | meaning | remedy |\n|---|---|---|---|\n";
        for reason in reasons {
            let Reason { name, code, meaning, remedy } = reason;
            let (meaning, remedy) = (markdown(&meaning), markdown(&remedy));
            page += &format!("| `{name}` | {code} | {meaning} | {remedy} |\n");
        }
    }
    page += "\n## Interventions\n\nHow often each limit changed a command or refused a result: \
        `interventions` of Status, in the order\nof `intervention_names`.\n\n\
        | name | meaning |\n|---|---|\n";
    for (name, sentence) in interventions(&read("crates/vla-control/src/reason.rs")) {
        page += &format!("| `{name}` | {} |\n", markdown(&sentence));
    }
    page
}

#[test]
fn reasons_are_those_of_the_message() {
    compare("docs/reasons.md", &page());
}

#[test]
fn every_reason_has_a_remedy() {
    let groups = groups(&read("msg/msg/Status.msg"));
    let reasons: Vec<_> = groups.iter().flat_map(|(_, reasons)| reasons).collect();
    assert!(50 < reasons.len(), "{}", reasons.len());
    for reason in reasons.into_iter().filter(|reason| reason.name != "NONE") {
        assert!(reason.remedy.ends_with('.'), "{}: '{}'", reason.name, reason.remedy);
    }
}

#[test]
fn interventions_are_those_of_control() {
    let names: Vec<String> = interventions(&read("crates/vla-control/src/reason.rs"))
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, vla_control::Intervention::NAMES);
}
