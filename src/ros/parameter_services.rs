//! The parameter services, so that `ros2 param` works. r2r's own accept any name and value at any
//! time; ours keep to the table.
//!
//! Parameters take effect when the node is configured, so they may be set while it is unconfigured,
//! and only to a set that is valid as a whole.

use r2r::{
    ParameterValue, ServiceRequest,
    rcl_interfaces::{
        msg::{self, ListParametersResult, ParameterDescriptor, SetParametersResult},
        srv::{
            DescribeParameters, GetParameterTypes, GetParameters, ListParameters, SetParameters,
            SetParametersAtomically,
        },
    },
};

use super::{
    NodeError, Parameters, RawParameters, TABLE,
    inbox::{Inbox, answer, serve},
    messages::text,
};

/// Parameters that shape topics and threads, which exist already when a service can be called.
const FIXED: [&str; 12] = [
    "command_rate_hz",
    "record_directory",
    "policy_file",
    "robot_file",
    "image_transport",
    "frame_id",
    "use_sim_time",
    "control_priority",
    "inference_niceness",
    "workspace.min",
    "workspace.max",
    "autostart",
];

pub(super) struct ParameterServices {
    get: Inbox<ServiceRequest<GetParameters::Service>>,
    types: Inbox<ServiceRequest<GetParameterTypes::Service>>,
    list: Inbox<ServiceRequest<ListParameters::Service>>,
    describe: Inbox<ServiceRequest<DescribeParameters::Service>>,
    set: Inbox<ServiceRequest<SetParameters::Service>>,
    set_atomically: Inbox<ServiceRequest<SetParametersAtomically::Service>>,
}

impl ParameterServices {
    pub fn create(node: &mut r2r::Node) -> Result<Self, NodeError> {
        Ok(Self {
            get: serve(node, "~/get_parameters")?,
            types: serve(node, "~/get_parameter_types")?,
            list: serve(node, "~/list_parameters")?,
            describe: serve(node, "~/describe_parameters")?,
            set: serve(node, "~/set_parameters")?,
            set_atomically: serve(node, "~/set_parameters_atomically")?,
        })
    }

    /// Answers what waits; returns the new parameters when they were changed.
    pub fn serve(
        &mut self,
        raw: &RawParameters,
        parameters: &Parameters,
        may_change: bool,
    ) -> Option<(RawParameters, Parameters)> {
        let mut changed: Option<(RawParameters, Parameters)> = None;
        let mut set = |wanted: &[msg::Parameter]| -> Result<(), String> {
            let newest = changed.as_ref().map_or(raw, |(raw, _)| raw);
            changed = Some(attempt(newest, wanted, may_change)?);
            Ok(())
        };
        while let Some(request) = self.set.next() {
            let each = request.message.parameters.iter();
            let results =
                each.map(|parameter| result(set(std::slice::from_ref(parameter)))).collect();
            answer(request, SetParameters::Response { results });
        }
        while let Some(request) = self.set_atomically.next() {
            let outcome = set(&request.message.parameters);
            answer(request, SetParametersAtomically::Response { result: result(outcome) });
        }
        // What holds is shown: what the files say included.
        let (raw, parameters) =
            changed.as_ref().map_or((raw, parameters), |(raw, parameters)| (raw, parameters));
        while let Some(request) = self.get.next() {
            let shown = raw.settled(parameters);
            let values =
                request.message.names.iter().map(|name| message(shown.get(name))).collect();
            answer(request, GetParameters::Response { values });
        }
        while let Some(request) = self.types.next() {
            let shown = raw.settled(parameters);
            let types =
                request.message.names.iter().map(|name| message(shown.get(name)).type_).collect();
            answer(request, GetParameterTypes::Response { types });
        }
        while let Some(request) = self.list.next() {
            let result = list(&request.message.prefixes, request.message.depth);
            answer(request, ListParameters::Response { result });
        }
        while let Some(request) = self.describe.next() {
            let shown = raw.settled(parameters);
            let descriptors =
                request.message.names.iter().map(|name| descriptor(name, &shown)).collect();
            answer(request, DescribeParameters::Response { descriptors });
        }
        changed
    }
}

/// The parameters with those wanted, when that is allowed and valid as a whole.
fn attempt(
    raw: &RawParameters,
    wanted: &[msg::Parameter],
    may_change: bool,
) -> Result<(RawParameters, Parameters), String> {
    if !may_change {
        return Err(
            "parameters can be changed only while the node is unconfigured; clean it up first"
                .into(),
        );
    }
    let (mut candidate, mut problems) = (raw.clone(), Vec::new());
    for parameter in wanted {
        if FIXED.contains(&parameter.name.as_str()) {
            return Err(format!("{}: can be given only when the node is started", parameter.name));
        }
        candidate.set(&parameter.name, &value(&parameter.value), &mut problems);
    }
    let parameters = candidate.validate(problems).map_err(|problems| problems.one_line())?;
    Ok((candidate, parameters))
}

fn result(outcome: Result<(), String>) -> SetParametersResult {
    SetParametersResult {
        successful: outcome.is_ok(),
        reason: outcome.err().map_or_else(String::new, |reason| text(&reason)),
    }
}

fn value(message: &msg::ParameterValue) -> ParameterValue {
    match message.type_ {
        1 => ParameterValue::Bool(message.bool_value),
        2 => ParameterValue::Integer(message.integer_value),
        3 => ParameterValue::Double(message.double_value),
        4 => ParameterValue::String(message.string_value.clone()),
        5 => ParameterValue::ByteArray(message.byte_array_value.clone()),
        6 => ParameterValue::BoolArray(message.bool_array_value.clone()),
        7 => ParameterValue::IntegerArray(message.integer_array_value.clone()),
        8 => ParameterValue::DoubleArray(message.double_array_value.clone()),
        9 => ParameterValue::StringArray(message.string_array_value.clone()),
        _ => ParameterValue::NotSet,
    }
}

/// The table holds five of ROS's nine types.
fn message(value: ParameterValue) -> msg::ParameterValue {
    let mut message = msg::ParameterValue::default();
    match value {
        ParameterValue::Bool(value) => (message.type_, message.bool_value) = (1, value),
        ParameterValue::Integer(value) => (message.type_, message.integer_value) = (2, value),
        ParameterValue::Double(value) => (message.type_, message.double_value) = (3, value),
        ParameterValue::String(value) => (message.type_, message.string_value) = (4, text(&value)),
        ParameterValue::DoubleArray(value) => {
            (message.type_, message.double_array_value) = (8, value)
        }
        _ => {}
    }
    message
}

fn list(prefixes: &[String], depth: u64) -> ListParametersResult {
    let deep_enough = |rest: &str| depth == 0 || (rest.matches('.').count() as u64) < depth;
    let wanted = |name: &&str| {
        (prefixes.is_empty() && deep_enough(name))
            || prefixes.iter().any(|prefix| {
                *name == prefix
                    || name
                        .strip_prefix(prefix.as_str())
                        .and_then(|rest| rest.strip_prefix('.'))
                        .is_some_and(deep_enough)
            })
    };
    let names: Vec<&str> = TABLE.iter().map(|spec| spec.name).filter(wanted).collect();
    let mut found: Vec<String> = names
        .iter()
        .filter_map(|name| name.rsplit_once('.'))
        .map(|(prefix, _)| prefix.to_owned())
        .collect();
    found.dedup();
    ListParametersResult { names: names.into_iter().map(str::to_owned).collect(), prefixes: found }
}

fn descriptor(name: &str, shown: &RawParameters) -> ParameterDescriptor {
    let Some(spec) = TABLE.iter().find(|spec| spec.name == name) else {
        return ParameterDescriptor { name: text(name), ..ParameterDescriptor::default() };
    };
    ParameterDescriptor {
        name: name.to_owned(),
        type_: message(shown.get(name)).type_,
        description: spec.about.to_owned(),
        additional_constraints: "Takes effect when the node is configured.".into(),
        read_only: FIXED.contains(&name),
        ..ParameterDescriptor::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parameter(name: &str, value: ParameterValue) -> msg::Parameter {
        msg::Parameter { name: name.into(), value: message(value) }
    }

    #[test]
    fn only_a_set_that_is_valid_as_a_whole_is_taken() {
        let raw = RawParameters::default();
        let pair = [
            parameter("pause_s", ParameterValue::Double(1.0)),
            parameter("overrun_s", ParameterValue::Double(0.001)),
        ];
        assert!(attempt(&raw, &pair, true).is_err_and(|reason| reason.contains("overrun_s")));
        assert!(
            attempt(&raw, &pair[..1], false).is_err_and(|reason| reason.contains("unconfigured"))
        );
        let (changed, _) = attempt(&raw, &pair[..1], true).unwrap();
        assert_eq!(changed.get("pause_s"), ParameterValue::Double(1.0));
        for (name, value) in [("frame_id", "tool0"), ("record_directory", "x"), ("robot_file", "x")]
        {
            let fixed = [parameter(name, ParameterValue::String(value.into()))];
            assert!(
                attempt(&raw, &fixed, true).is_err_and(|reason| reason.contains("started")),
                "{name}"
            );
        }
    }

    #[test]
    fn names_are_listed_by_prefix_and_depth() {
        assert_eq!(list(&[], 0).names.len(), TABLE.len());
        assert!(list(&[], 1).names.iter().all(|name| !name.contains('.')));
        let limits = list(&["limits".into()], 0);
        assert_eq!(
            (limits.names.len(), limits.prefixes),
            (6, vec!["limits.linear".to_owned(), "limits.angular".to_owned()])
        );
        assert!(list(&["limits".into()], 1).names.is_empty());
    }
}
