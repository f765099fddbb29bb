//! The table as text: `vla_node --help` and `docs/parameters.md`.

use super::{TABLE, Value, Values, table::Parameter};

/// Where the table of `docs/` is, from the root of the sources.
pub const PARAMETERS_MD: &str = "docs/parameters.md";

/// The default as the user may write it; the same on every machine.
fn default(parameter: &Parameter) -> String {
    let values = Values { checkpoint: String::new(), ..Values::default() };
    match parameter.get(&values) {
        Value::Bool(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Float(value) => format!("{value:?}"),
        Value::Text(text) if text.is_empty() => "\"\"".into(),
        Value::Text(text) => text,
        Value::Floats(list) => format!("{list:?}"),
        other => other.to_string(),
    }
}

/// The parameters for `--help`, one a line.
#[must_use]
pub fn help() -> String {
    TABLE
        .iter()
        .map(|row| format!("  {:<28} {:<9} {}\n", row.name, default(row), row.description()))
        .collect()
}

/// `docs/parameters.md`.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(
        "# Parameters of vla_node\n\nMade from `crates/vla-config/src/table.rs` by \
        `UPDATE=1 cargo test -p vla-config --test documents`; a test compares the two.\n\nA value \
        that is given (`-p`, a parameter file, `set_parameters`) holds: where the policy file or \
        the\nrobot file has a value too, it is applied when it is as strict or stricter, and \
        refused with both\nvalues when it is not. A lower acceleration or jerk lengthens a stop: \
        with a robot file, the stop\ntime of a group of limits, velocity / acceleration + \
        acceleration / jerk, must not exceed that of the\nfile's own values, so lower the \
        velocity too. A path may begin with `~/`.\n\nA parameter file (`--params-file`) must be \
        a regular file. An unknown name stops the node, except in\na section whose last level is \
        `*` or `**`, where it is a warning unless it resembles a parameter's\nname. A request of \
        `set_parameters_atomically` may have a name only once.\n\n\
        `qos_overrides.<topic>.subscription.<policy>` changes the `depth`, `reliability` or \
        `durability` of the\nsubscription to a camera or a source of the state (best effort, \
        volatile, depth 5 without it); the topic\nis its full name after remapping.\n\n\
        | parameter | type | default | range | changes | meaning |\n|---|---|---|---|---|---|\n",
    );
    for row in TABLE {
        let range = row
            .range
            .map_or(String::new(), |range| format!("{}..{} {}", range.min, range.max, range.unit));
        text += &format!(
            "| `{}` | {} | `{}` | {} | {} | {} |\n",
            row.name,
            row.kind().name(),
            default(row),
            range.trim_end(),
            row.change.text(),
            row.description().replace('|', "\\|")
        );
    }
    text
}
