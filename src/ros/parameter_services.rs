//! The parameter services, so that `ros2 param` works. r2r's own accept any name and value at any
//! time; these keep to the table of `vla-config`.
//!
//! Each parameter has its time: given at start, changed while unconfigured, or also while inactive.
//! A set of changes is taken only when the whole configuration is valid with it.

use r2r::{
    ServiceRequest,
    rcl_interfaces::{
        msg::{
            self, FloatingPointRange, IntegerRange, ListParametersResult, ParameterDescriptor,
            SetParametersResult,
        },
        srv::{
            DescribeParameters, GetParameterTypes, GetParameters, ListParameters, SetParameters,
            SetParametersAtomically,
        },
    },
};
use vla_config::{Change, LifecycleState, TABLE, Type, Value, parameter};

use super::{
    NodeError, ResolvedConfig,
    inbox::{Inbox, answer, serve},
    messages::text,
};

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

    /// Answers what waits; returns the new configuration when parameters were changed.
    pub fn serve(
        &mut self,
        config: &ResolvedConfig,
        state: LifecycleState,
    ) -> Option<ResolvedConfig> {
        let mut changed: Option<ResolvedConfig> = None;
        let mut set = |wanted: &[msg::Parameter]| -> Result<(), String> {
            let newest = changed.as_ref().unwrap_or(config);
            let wanted: Vec<(String, Value)> =
                wanted.iter().map(|p| (p.name.clone(), value(&p.value))).collect();
            changed = Some(newest.with(&wanted, state)?);
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
        // The values that hold, those of the files included.
        let shown = changed.as_ref().unwrap_or(config);
        while let Some(request) = self.get.next() {
            let values =
                request.message.names.iter().map(|name| message(shown.get(name))).collect();
            answer(request, GetParameters::Response { values });
        }
        while let Some(request) = self.types.next() {
            let types = request.message.names.iter().map(|name| type_code(name)).collect();
            answer(request, GetParameterTypes::Response { types });
        }
        while let Some(request) = self.list.next() {
            let result = list(&request.message.prefixes, request.message.depth);
            answer(request, ListParameters::Response { result });
        }
        while let Some(request) = self.describe.next() {
            let descriptors = request.message.names.iter().map(|name| descriptor(name)).collect();
            answer(request, DescribeParameters::Response { descriptors });
        }
        changed
    }
}

fn result(outcome: Result<(), String>) -> SetParametersResult {
    SetParametersResult {
        successful: outcome.is_ok(),
        reason: outcome.err().map_or_else(String::new, |reason| text(&reason)),
    }
}

pub(super) fn value(message: &msg::ParameterValue) -> Value {
    match message.type_ {
        1 => Value::Bool(message.bool_value),
        2 => Value::Integer(message.integer_value),
        3 => Value::Float(message.double_value),
        4 => Value::Text(message.string_value.clone()),
        5 => Value::Other(format!("{:?}", message.byte_array_value)),
        6 => Value::Other(format!("{:?}", message.bool_array_value)),
        7 => Value::Integers(message.integer_array_value.clone()),
        8 => Value::Floats(message.double_array_value.clone()),
        9 => Value::Other(format!("{:?}", message.string_array_value)),
        _ => Value::NotSet,
    }
}

/// The table holds five of ROS's nine types.
pub(super) fn message(value: Value) -> msg::ParameterValue {
    let mut message = msg::ParameterValue::default();
    match value {
        Value::Bool(value) => (message.type_, message.bool_value) = (1, value),
        Value::Integer(value) => (message.type_, message.integer_value) = (2, value),
        Value::Float(value) => (message.type_, message.double_value) = (3, value),
        Value::Text(value) => (message.type_, message.string_value) = (4, text(&value)),
        Value::Floats(value) => (message.type_, message.double_array_value) = (8, value),
        _ => {}
    }
    message
}

/// `rcl_interfaces/ParameterType` of a name; 0 for an unknown one.
fn type_code(name: &str) -> u8 {
    match parameter(name).map(vla_config::Parameter::kind) {
        Some(Type::Bool) => 1,
        Some(Type::Integer) => 2,
        Some(Type::Double) => 3,
        Some(Type::Text) => 4,
        Some(Type::Doubles) => 8,
        None => 0,
    }
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

#[allow(clippy::cast_possible_truncation)] // the table's integer ranges are whole numbers
fn descriptor(name: &str) -> ParameterDescriptor {
    let Some(row) = parameter(name) else {
        return ParameterDescriptor { name: text(name), ..ParameterDescriptor::default() };
    };
    let (mut floating_point_range, mut integer_range) = (Vec::new(), Vec::new());
    match (row.kind(), row.bounds()) {
        (Type::Integer, Some((from, to))) => integer_range.push(IntegerRange {
            from_value: from as i64,
            to_value: to as i64,
            step: 1,
        }),
        (Type::Double | Type::Doubles, Some((from_value, to_value))) => {
            floating_point_range.push(FloatingPointRange { from_value, to_value, step: 0.0 });
        }
        _ => {}
    }
    ParameterDescriptor {
        name: name.to_owned(),
        type_: type_code(name),
        description: row.description(),
        additional_constraints: format!("May change {}.", row.change.text()),
        read_only: row.change == Change::Start,
        floating_point_range,
        integer_range,
        ..ParameterDescriptor::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn descriptors_have_ranges_and_types() {
        let velocity = descriptor("limits.linear.velocity");
        let range = &velocity.floating_point_range[0];
        assert_eq!((range.from_value, range.to_value), (0.001, 3.0));
        assert!(velocity.description.contains("Unit: m/s; 0.001..3."));
        assert_eq!((descriptor("workspace.min").type_, velocity.read_only), (8, false));
        let priority = descriptor("control_priority");
        assert_eq!((priority.integer_range[0].to_value, priority.read_only), (99, true));
        for row in TABLE {
            let shown = descriptor(row.name);
            let ranges = shown.floating_point_range.len() + shown.integer_range.len();
            assert_eq!(ranges, usize::from(row.range.is_some()), "{}", row.name);
        }
    }

    #[test]
    fn values_pass_both_ways() {
        for row in TABLE {
            let shown = row.get(&vla_config::Values::default());
            assert_eq!(value(&message(shown.clone())), shown, "{}", row.name);
            assert_eq!(message(shown).type_, type_code(row.name), "{}", row.name);
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
