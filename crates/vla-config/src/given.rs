//! The parameters that a user gave, and where: `--ros-args`, parameter files, `set_parameters`.
//!
//! rcl has accepted the arguments before they are read here. Files are combined as rcl and rclcpp
//! do: sections of one name are one section at the place of its first appearance, and of the
//! sections that apply to the node the later one wins. A value given by `-p` wins over every file.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use vla_control::ConfigErrors;

use super::{
    Value, nearest, parameter,
    parameter_file::{Section, applies, is_shared, parse_value, read_parameter_file},
    parse_remap_rule,
    qos_overrides::{self, QosOverride, QosProblem},
};

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `-p` on the command line.
    CommandLine,
    /// A section of a parameter file.
    File {
        /// Which file.
        path: PathBuf,
        /// Node name or pattern of the section.
        section: String,
    },
    /// `set_parameters`.
    Service,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => write!(f, "on the command line"),
            Self::File { path, section } => write!(f, "in {}, section {section}", path.display()),
            Self::Service => write!(f, "by set_parameters"),
        }
    }
}

/// A value, and where it was given.
#[derive(Debug, Clone, PartialEq)]
pub struct GivenValue {
    /// The value.
    pub value: Value,
    /// Where.
    pub origin: Origin,
}

/// Every parameter that was given, and whether a command topic was remapped.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Given {
    values: BTreeMap<&'static str, GivenValue>,
    /// `-r ~/command/twist:=...` was given.
    pub twist_remapped: bool,
    /// `-r ~/command/gripper:=...` was given.
    pub gripper_remapped: bool,
    /// Overridden QoS; of two for one policy of a topic the later one wins.
    pub qos: Vec<QosOverride>,
}

/// Longest remark, characters.
const LONGEST_REMARK: usize = 4000;

/// A remark for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remark {
    /// What was taken.
    Info(String),
    /// What has no effect.
    Warning(String),
}

/// What the arguments of the process say.
#[derive(Debug, Default)]
pub struct Arguments {
    /// The parameters.
    pub given: Given,
    /// Remarks for the log: one line per file, and names without effect.
    pub remarks: Vec<Remark>,
}

impl Given {
    /// The value of a name, if it was given.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&GivenValue> {
        self.values.get(name)
    }

    /// Remembers a value.
    pub fn insert(&mut self, name: &'static str, value: Value, origin: Origin) {
        self.values.insert(name, GivenValue { value, origin });
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &GivenValue)> {
        self.values.iter().map(|(name, given)| (*name, given))
    }
}

/// An argument that concerns parameters or names.
enum Argument<'a> {
    Value { node: Option<&'a str>, name: &'a str, value: &'a str },
    File(&'a str),
    Remap(&'a str),
}

/// Reads the arguments of the process (without its name) for the node of this fully qualified
/// name.
#[must_use]
pub fn read_arguments(arguments: &[String], node: &str, problems: &mut ConfigErrors) -> Arguments {
    let mut read = Arguments::default();
    let mut files: Vec<(PathBuf, Vec<Section>)> = Vec::new();
    let mut values = Vec::new();
    for argument in of_ros(arguments) {
        match argument {
            Argument::File(path) => match read_parameter_file(Path::new(path)) {
                Ok(sections) => files.push((path.into(), sections)),
                Err(error) => problems.add("--params-file", error.to_string()),
            },
            Argument::Value { node: Some(of), name, .. } if !applies(of, node) => {
                read.remarks.push(Remark::Warning(format!(
                    "-p {of}:{name}: '{of}' is not this node, {node}; it has no effect here"
                )));
            }
            Argument::Value { name, value, .. } => values.push((name, value)),
            Argument::Remap(rule) => {
                let node_name = node.rsplit('/').next().unwrap_or(node);
                let Some((from, _)) = parse_remap_rule(rule, node_name) else { continue };
                let from = full_name(from, node);
                read.given.twist_remapped |= from == format!("{node}/command/twist");
                read.given.gripper_remapped |= from == format!("{node}/command/gripper");
            }
        }
    }
    take_files(&files, node, &mut read, problems);
    for (name, value) in values {
        match parse_value(value) {
            Ok(value) => read.take(name, value, Origin::CommandLine, problems),
            Err(reason) => problems.add(name, format!("'{}' {reason}", value.escape_debug())),
        }
    }
    // Names in them are a user's.
    for Remark::Info(line) | Remark::Warning(line) in &mut read.remarks {
        *line = foreign_text::one_line(line, LONGEST_REMARK);
    }
    read
}

/// Arguments between `--ros-args` and `--`.
fn of_ros(arguments: &[String]) -> Vec<Argument<'_>> {
    let mut found = Vec::new();
    let (mut inside, mut rest) = (false, arguments.iter().map(String::as_str));
    while let Some(argument) = rest.next() {
        match argument {
            "--ros-args" => inside = true,
            "--" => inside = false,
            _ if !inside => {}
            "-p" | "--param" => {
                if let Some((name, value)) = rest.next().and_then(|rule| rule.split_once(":=")) {
                    let (node, name) = match name.split_once(':') {
                        Some((node, name)) => (Some(node), name),
                        None => (None, name),
                    };
                    found.push(Argument::Value { node, name, value });
                }
            }
            "--params-file" => found.extend(rest.next().map(Argument::File)),
            "-r" | "--remap" => found.extend(rest.next().map(Argument::Remap)),
            "-e" | "--enclave" | "--log-level" | "--log-config-file" | "--log-file-name" => {
                rest.next();
            }
            _ => {}
        }
    }
    found
}

/// The name that a remapping rule starts from, expanded for the node.
fn full_name(from: &str, node: &str) -> String {
    let namespace = node.rsplit_once('/').map_or("", |(namespace, _)| namespace);
    match from.strip_prefix("~/") {
        Some(rest) => format!("{node}/{rest}"),
        None if from.starts_with('/') => from.to_owned(),
        None => format!("{namespace}/{from}"),
    }
}

fn take_files(
    files: &[(PathBuf, Vec<Section>)],
    node: &str,
    read: &mut Arguments,
    problems: &mut ConfigErrors,
) {
    let mut order: Vec<&str> = Vec::new();
    let mut of_name: BTreeMap<&str, Vec<(&PathBuf, &Section)>> = BTreeMap::new();
    for (path, sections) in files {
        for section in sections {
            let known = of_name.entry(&section.node).or_default();
            if known.is_empty() {
                order.push(&section.node);
            }
            known.push((path, section));
        }
    }
    for name in order.into_iter().filter(|name| applies(name, node)) {
        for (path, section) in of_name.remove(name).unwrap_or_default() {
            for (parameter, value) in &section.parameters {
                let origin = Origin::File { path: path.clone(), section: section.node.clone() };
                read.take(parameter, value.clone(), origin, problems);
            }
        }
    }
    for (path, sections) in files {
        let (taken, left): (Vec<&Section>, Vec<&Section>) =
            sections.iter().partition(|section| applies(&section.node, node));
        let taken: Vec<String> = taken.into_iter().map(shown).collect();
        let left: Vec<&str> = left.iter().map(|section| section.node.as_str()).collect();
        let path = path.display();
        let other = if left.is_empty() {
            String::new()
        } else {
            format!("; sections of other nodes: {}", left.join(", "))
        };
        read.remarks.push(if sections.is_empty() {
            Remark::Info(format!("{path}: has no parameters"))
        } else if taken.is_empty() {
            Remark::Warning(format!("{path}: no section applies to {node}{other}"))
        } else {
            Remark::Info(format!("{path}: read {}{other}", taken.join(", ")))
        });
    }
}

fn shown(section: &Section) -> String {
    let names: Vec<&str> = section.parameters.iter().map(|(name, _)| name.as_str()).collect();
    format!("{} ({})", section.node, names.join(" "))
}

impl Arguments {
    /// Takes one value. An unknown name is a problem where it is meant for this node. In a section
    /// for nodes of several names it is a warning, unless it resembles a parameter of this node: a
    /// misspelt limit would leave a higher one in force.
    fn take(&mut self, name: &str, value: Value, origin: Origin, problems: &mut ConfigErrors) {
        if let Some(parameter) = parameter(name) {
            self.given.insert(parameter.name, value, origin);
            return;
        }
        if let Some(rest) = name.strip_prefix("qos_overrides.") {
            self.take_qos(
                name,
                qos_overrides::parse(rest, &value, origin.clone()),
                origin,
                problems,
            );
            return;
        }
        if has_no_effect(name) {
            if name != "start_type_description_service" {
                self.remarks.push(Remark::Warning(format!(
                    "{name} (given {origin}) has no effect on this node"
                )));
            }
            return;
        }
        let shared = matches!(&origin, Origin::File { section, .. } if is_shared(section));
        let unknown = unknown(name);
        match (shared, nearest(name)) {
            (false, _) => problems.add(name, unknown),
            // A dotted near miss is a limit of ours that would silently not hold; a plain name may
            // well be another node's.
            (true, Some(near)) if name.contains('.') && near.contains('.') => problems.add(
                name,
                format!(
                    "{unknown} It is given {origin}; a parameter of another node belongs in a \
                    section with that node's name"
                ),
            ),
            (true, _) => {
                self.remarks.push(Remark::Warning(format!("{name} (given {origin}): {unknown}")));
            }
        }
    }

    /// Takes an override of a topic's QoS. In a section for nodes of several names it may be meant
    /// for another one.
    fn take_qos(
        &mut self,
        name: &str,
        read: Result<QosOverride, QosProblem>,
        origin: Origin,
        problems: &mut ConfigErrors,
    ) {
        let shared = matches!(&origin, Origin::File { section, .. } if is_shared(section));
        match read {
            Ok(changed) => self.given.qos.push(changed),
            Err(QosProblem::Invalid(what)) if !shared => problems.add(name, what),
            Err(QosProblem::Invalid(what) | QosProblem::NoEffect(what)) => {
                self.remarks.push(Remark::Warning(format!(
                    "{name} (given {origin}) has no effect on this node: {what}"
                )));
            }
        }
    }
}

/// What to say about a name that is no parameter.
#[must_use]
pub fn unknown(name: &str) -> String {
    match nearest(name) {
        Some(nearest) => format!("there is no such parameter; did you mean '{nearest}'?"),
        None => "there is no such parameter; see vla_node --help".into(),
    }
}

/// Parameters that ROS nodes in general may be given and that this one does not use.
fn has_no_effect(name: &str) -> bool {
    matches!(name, "start_type_description_service" | "robot_description")
}
