//! ROS parameter files: sections of a node name or pattern, and the parameters below each.
//!
//! The text is read as `rcl_yaml_param_parser` reads it, and a section applies to a node by the
//! rule of rclcpp's `parameter_map_from`: a name without a leading slash is one of the root
//! namespace, `*` is one level of a name and `**` any number of levels.

use std::path::Path;

use granit_parser::{Event, Parser, ScalarStyle};

use super::{
    ConfigFileError, Value,
    yaml::{LONGEST_REASON, read_text},
};

/// The largest parameter file read, in bytes.
pub const PARAMETER_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Levels of nesting in a parameter file.
const DEPTH_MAX: usize = 64;
/// The key below which the parameters of a section are.
const PARAMETERS: &str = "ros__parameters";

/// One section of a parameter file.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    /// Node name or pattern, as written.
    pub node: String,
    /// Dotted names and values, in order of appearance.
    pub parameters: Vec<(String, Value)>,
}

/// A YAML node: enough of it for parameters.
enum Tree {
    Map(Vec<(String, Tree)>),
    Value(Value),
}

/// Reads a parameter file.
///
/// # Errors
/// [`ConfigFileError`]: unreadable, not a regular file, too large, or no parameter file.
pub fn read_parameter_file(path: &Path) -> Result<Vec<Section>, ConfigFileError> {
    let metadata = std::fs::metadata(path)
        .map_err(|source| ConfigFileError::Read { path: path.to_owned(), source })?;
    if !metadata.is_file() {
        return Err(ConfigFileError::NotRegular { path: path.to_owned() });
    }
    let text = read_text(path, PARAMETER_FILE_BYTES_MAX)?;
    parse_sections(&text)
        .map_err(|message| ConfigFileError::Parse { path: path.to_owned(), message })
}

/// The sections of a parameter file's text.
///
/// # Errors
/// Why it is no parameter file, in one line.
pub fn parse_sections(text: &str) -> Result<Vec<Section>, String> {
    let mut sections = Vec::new();
    if let Some(tree) = parse(text)? {
        collect_sections("", tree, &mut sections)
            .map_err(|message| foreign_text::one_line(&message, LONGEST_REASON))?;
    }
    Ok(sections)
}

/// The value of `-p name:=VALUE`.
///
/// # Errors
/// Why it is no value, in one line.
pub fn parse_value(text: &str) -> Result<Value, String> {
    match parse(text)? {
        Some(Tree::Value(value)) => Ok(value),
        Some(Tree::Map(_)) => Err("is a mapping; give one value".into()),
        None => Err("is empty; give a value".into()),
    }
}

fn collect_sections(prefix: &str, tree: Tree, sections: &mut Vec<Section>) -> Result<(), String> {
    let Tree::Map(entries) = tree else {
        return Err(format!("'{prefix}' has a value where {PARAMETERS} is expected"));
    };
    for (key, inner) in entries {
        if key == PARAMETERS {
            let mut parameters = Vec::new();
            flatten("", inner, &mut parameters);
            sections.push(Section { node: prefix.to_owned(), parameters });
        } else {
            let name = if prefix.is_empty() || prefix.ends_with('/') || key.starts_with('/') {
                format!("{prefix}{key}")
            } else {
                format!("{prefix}/{key}")
            };
            collect_sections(&name, inner, sections)?;
        }
    }
    Ok(())
}

fn flatten(prefix: &str, tree: Tree, into: &mut Vec<(String, Value)>) {
    match tree {
        Tree::Map(entries) => {
            for (key, inner) in entries {
                let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
                flatten(&name, inner, into);
            }
        }
        Tree::Value(value) if !prefix.is_empty() => into.push((prefix.to_owned(), value)),
        Tree::Value(_) => {} // `ros__parameters:` without any
    }
}

type Events<'a> =
    std::iter::Peekable<Box<dyn Iterator<Item = Result<(Event<'a>, usize), String>> + 'a>>;

fn parse(text: &str) -> Result<Option<Tree>, String> {
    let parser = Parser::new_from_str(text).map(|item| match item {
        Ok((event, span)) => Ok((event, span.start.line())),
        Err(error) => {
            let reason = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
            Err(foreign_text::one_line(&reason, LONGEST_REASON))
        }
    });
    let parser: Box<dyn Iterator<Item = _>> = Box::new(parser);
    let mut events: Events<'_> = parser.peekable();
    let mut tree = None;
    while let Some(item) = events.next() {
        let (event, line) = item?;
        match event {
            Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            Event::DocumentStart(..) if tree.is_none() => {}
            Event::DocumentStart(..) => return Err(format!("line {line}: a second document")),
            other => tree = Some(node(other, line, &mut events, 0)?),
        }
    }
    // An empty document is one plain scalar without text.
    Ok(tree.filter(|tree| !matches!(tree, Tree::Value(Value::NotSet))))
}

fn node<'a>(
    event: Event<'a>,
    line: usize,
    events: &mut Events<'a>,
    depth: usize,
) -> Result<Tree, String> {
    if DEPTH_MAX < depth {
        return Err(format!("line {line}: nested more than {DEPTH_MAX} levels"));
    }
    match event {
        Event::Scalar(text, style, _, tag) => {
            let quoted = matches!(style, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted)
                || tag.is_some_and(|tag| tag.to_string().ends_with("str"));
            Ok(Tree::Value(if text.is_empty() && !quoted {
                Value::NotSet
            } else {
                Value::from_scalar(&text, quoted)
            }))
        }
        Event::SequenceStart(..) => sequence(events, depth).map(Tree::Value),
        Event::MappingStart(..) => {
            let mut entries = Vec::new();
            loop {
                match next(events)? {
                    (Event::MappingEnd, _) => return Ok(Tree::Map(entries)),
                    (Event::Scalar(key, ..), _) => {
                        let (event, line) = next(events)?;
                        entries.push((key.into_owned(), node(event, line, events, depth + 1)?));
                    }
                    (_, line) => return Err(format!("line {line}: a key must be a name")),
                }
            }
        }
        Event::Alias(..) => Err(format!("line {line}: aliases are not supported here")),
        _ => Err(format!("line {line}: a value is expected")),
    }
}

fn sequence<'a>(events: &mut Events<'a>, depth: usize) -> Result<Value, String> {
    let mut values = Vec::new();
    loop {
        match next(events)? {
            (Event::SequenceEnd, _) => return Ok(list(&values)),
            (event, line) => match node(event, line, events, depth + 1)? {
                Tree::Value(value) => values.push(value),
                Tree::Map(_) => return Err(format!("line {line}: a list holds single values")),
            },
        }
    }
}

fn next<'a>(events: &mut Events<'a>) -> Result<(Event<'a>, usize), String> {
    events.next().unwrap_or_else(|| Err("the text ends too early".into()))
}

/// A list of one type. rcl refuses lists of several, but for the numbers 1 and 1.0 side by side
/// the meaning is plain.
fn list(values: &[Value]) -> Value {
    let integers = values.iter().map(|value| match value {
        Value::Integer(integer) => Some(*integer),
        _ => None,
    });
    if let Some(integers) = integers.collect::<Option<Vec<i64>>>() {
        return Value::Integers(integers);
    }
    let numbers = values.iter().map(|value| match value {
        #[allow(clippy::cast_precision_loss)]
        Value::Integer(integer) => Some(*integer as f64),
        Value::Float(number) | Value::Number(number, _) => Some(*number),
        _ => None,
    });
    numbers.collect::<Option<Vec<f64>>>().map_or_else(
        || {
            let texts: Vec<String> = values.iter().map(ToString::to_string).collect();
            Value::Other(format!("[{}]", texts.join(", ")))
        },
        Value::Floats,
    )
}

/// Whether a section's name or pattern applies to the node of this fully qualified name.
#[must_use]
pub fn applies(pattern: &str, node: &str) -> bool {
    let pattern = pattern.strip_prefix('/').unwrap_or(pattern);
    let Some(node) = node.strip_prefix('/') else { return false };
    let levels: Vec<&str> = node.split('/').collect();
    let parts: Vec<&str> = pattern.split('/').collect();
    matches(&parts, &levels)
}

fn matches(parts: &[&str], levels: &[&str]) -> bool {
    match parts {
        [] => levels.is_empty(),
        // `/**` alone, twice or at the end matches nothing more as well as anything more.
        ["**", rest @ ..] => {
            // Several in a row match what one does; a file may have a hundred thousand.
            let more = rest.iter().take_while(|part| **part == "**").count();
            (0..=levels.len()).any(|skipped| matches(&rest[more..], &levels[skipped..]))
        }
        ["*", rest @ ..] => !levels.is_empty() && matches(rest, &levels[1..]),
        [name, rest @ ..] => levels.first() == Some(name) && matches(rest, &levels[1..]),
    }
}

/// Whether a section is for nodes of several names: its last level is a wildcard. `/**/vla` is
/// for nodes named `vla` alone, in any namespace.
#[must_use]
pub fn is_shared(section: &str) -> bool {
    matches!(section.rsplit('/').next(), Some("*" | "**"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sections_apply_as_in_rclcpp() {
        for (pattern, node, wanted) in [
            ("/vla", "/vla", true),
            ("vla", "/vla", true),
            ("vla", "/robot1/vla", false),
            ("/robot1/vla", "/robot1/vla", true),
            ("robot1/vla", "/robot1/vla", true),
            ("/robot1/vla", "/robot2/vla", false),
            ("/robot1/vla", "/robot1/vla2", false),
            ("/**", "/vla", true),
            ("/**", "/a/b/c/vla", true),
            ("**", "/robot1/vla", true),
            ("/*", "/vla", true),
            ("*", "/vla", true),
            ("/*", "/robot1/vla", false),
            ("/*/vla", "/robot1/vla", true),
            ("/*/vla", "/vla", false),
            ("/*/vla", "/a/b/vla", false),
            ("/**/vla", "/vla", true),
            ("/**/vla", "/a/b/vla", true),
            ("/**/vla", "/a/b/other", false),
            ("/robot1/*", "/robot1/vla", true),
            ("/robot1/*", "/robot1", false),
            ("/robot1/**", "/robot1", true),
            ("/robot1/**", "/robot1/a/vla", true),
            ("/robot1/**", "/robot2/vla", false),
            ("/**/a/*/vla", "/x/a/y/vla", true),
            ("/**/**", "/vla", true),
            ("/vl*", "/vla", false),
            ("", "/vla", false),
        ] {
            assert_eq!(applies(pattern, node), wanted, "{pattern} {node}");
        }
        // As long as a file may be.
        let many = "/**".repeat(PARAMETER_FILE_BYTES_MAX as usize / 3);
        assert!(applies(&many, "/vla") && applies(&format!("{many}/vla"), "/robot1/vla"));
        assert!(!applies(&format!("{many}/other"), "/robot1/vla"));
    }

    #[test]
    fn sections_are_read_in_order_and_by_dotted_names() {
        let text = "/**:\n  ros__parameters:\n    limits: {linear: {velocity: 0.15}}\n    \
                    workspace.min: [0.1, 0, -1e-2]\nrobot1:\n  vla:\n    ros__parameters: \
                    {device: 'cpu', threads: 2}\n/**/vla: {ros__parameters: {draft: yes, \
                    empty: []}}\n";
        let sections = parse_sections(text).unwrap();
        let names: Vec<&str> = sections.iter().map(|section| section.node.as_str()).collect();
        assert_eq!(names, ["/**", "robot1/vla", "/**/vla"]);
        assert_eq!(
            sections[0].parameters,
            [
                ("limits.linear.velocity".to_owned(), Value::Float(0.15)),
                ("workspace.min".to_owned(), Value::Floats(vec![0.1, 0.0, -0.01])),
            ]
        );
        assert_eq!(sections[1].parameters[1], ("threads".to_owned(), Value::Integer(2)));
        assert_eq!(sections[2].parameters[0], ("draft".to_owned(), Value::Bool(true)));
        assert_eq!(sections[2].parameters[1], ("empty".to_owned(), Value::Integers(vec![])));
        assert_eq!(parse_sections("").unwrap(), []);
        assert_eq!(parse_sections("/vla:\n  ros__parameters: {}\n").unwrap()[0].parameters, []);
    }

    #[test]
    fn what_is_no_parameter_file_is_one_line() {
        let deep = "[".repeat(1000);
        for text in [
            "/vla: 3",
            "a: [1",
            "- 1",
            "a: {? [1]: 2}",
            "/vla: {ros__parameters: {a: [{b: 1}]}}",
            "x: &a 1\ny: *a",
            &deep,
        ] {
            let error = parse_sections(text).unwrap_err();
            assert!(!error.contains('\n') && !error.is_empty(), "{text}: {error}");
        }
    }

    #[test]
    fn values_of_the_command_line_are_yaml() {
        let value = |text| parse_value(text).unwrap();
        assert_eq!(value("0.1"), Value::Float(0.1));
        assert_eq!(value("[0.1, 0.2]"), Value::Floats(vec![0.1, 0.2]));
        assert_eq!(value("'12'"), Value::Text("12".into()));
        assert_eq!(value("123e5"), Value::Number(12_300_000.0, "123e5".into()));
        assert_eq!(value("''"), Value::Text(String::new()));
        assert!(parse_value("{a: 1}").is_err());
    }
}
