//! What a server's requests and answers mean: the policy file, as far as the wire needs it.

use std::sync::Arc;

use vla_inference::observation::{
    ImageError, Observation, ObservationError, Preparation, Preparer,
};
use vla_inference::policy::PolicyError;
use vla_wire::array::Kind;
use vla_wire::{Dtype, NdArray, Value};

use crate::trouble::Trouble;

/// What the numbers of an answer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answers {
    /// The data set's units.
    Physical,
    /// -1 stands for the lower bound, 1 for the upper one, except in these columns.
    Normalized {
        /// Columns in the data set's units.
        unchanged: Vec<usize>,
    },
}

/// A run of the state's numbers under one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRun {
    /// The key.
    pub key: String,
    /// How many numbers.
    pub values: usize,
}

/// What requests and answers mean.
#[derive(Clone, Debug, PartialEq)]
pub struct Contract {
    /// Name of each camera, and the key of its image.
    pub images: Vec<(Arc<str>, String)>,
    /// From a camera image to the pixels that are sent.
    pub preparation: Preparation,
    /// The state's numbers in their order.
    pub state: Vec<StateRun>,
    /// Key of the instruction.
    pub instruction: String,
    /// Further text that is sent with every request.
    pub texts: Vec<(String, String)>,
    /// Steps of a chunk.
    pub horizon: usize,
    /// Names of a step's numbers; empty when they have none.
    pub names: Vec<String>,
    /// Lower and upper bound of each number of a step, in the data set's units.
    pub bounds: Vec<[f64; 2]>,
    /// By how much of their range numbers may exceed the bounds.
    pub tolerance: f64,
    /// What the numbers of an answer are.
    pub answers: Answers,
}

/// Steps as the server sent them, and in the data set's units.
#[derive(Debug, PartialEq)]
pub(crate) struct Steps {
    pub sent: Vec<Vec<f64>>,
    pub physical: Vec<Vec<f64>>,
}

impl Contract {
    /// Numbers of the state.
    #[must_use]
    pub fn state_dim(&self) -> usize {
        self.state.iter().map(|run| run.values).sum()
    }

    /// A preparer for each camera.
    pub(crate) fn preparers(&self) -> Result<Vec<Preparer>, ImageError> {
        self.images.iter().map(|_| Preparer::new(self.preparation.clone())).collect()
    }

    /// A request of this observation.
    pub(crate) fn request(
        &self,
        observation: &Observation,
        preparers: &mut [Preparer],
    ) -> Result<Value, PolicyError> {
        let state = observation.state(self.state_dim())?;
        let mut fields = Vec::new();
        for ((camera, key), preparer) in self.images.iter().zip(preparers) {
            let image = preparer.rgb(observation.image(camera)?)?;
            let shape = vec![image.height(), image.width(), 3];
            // Cannot fail: an RgbImage has three bytes for each pixel.
            let array = NdArray::new(Dtype::U8, shape, image.pixels().to_vec());
            let missing =
                |_| ObservationError::Camera { wanted: camera.to_string(), given: vec![] };
            fields.push((key.clone(), Value::Array(array.map_err(missing)?)));
        }
        let mut rest = state;
        for run in &self.state {
            let (values, further) = rest.split_at(run.values.min(rest.len()));
            rest = further;
            fields.push((run.key.clone(), Value::Array(NdArray::vector(values))));
        }
        let instruction = Value::Text(observation.instruction.text().to_owned());
        fields.push((self.instruction.clone(), instruction));
        fields
            .extend(self.texts.iter().map(|(key, text)| (key.clone(), Value::Text(text.clone()))));
        Ok(Value::Object(fields))
    }

    /// The steps of an answer, if they are what the policy file states.
    pub(crate) fn steps(&self, actions: &Value) -> Result<Steps, Trouble> {
        if let Value::Array(array) = actions
            && !(array.dtype().kind == Kind::Float && matches!(array.dtype().size, 4 | 8))
        {
            let what = format!("its actions are {}; floats are expected", actions.described());
            return Err(Trouble::malformed(what));
        }
        let sent = actions.rows("actions")?;
        let (steps, width) = (sent.len(), sent.first().map_or(0, Vec::len));
        if (steps, width) != (self.horizon, self.bounds.len()) {
            return Err(Trouble::malformed(format!(
                "its answer has {steps} steps of {width} numbers; the policy file states {} \
                (horizon) of {} (action)",
                self.horizon,
                self.bounds.len()
            )));
        }
        let mut physical = sent.clone();
        for (step, numbers) in physical.iter_mut().enumerate() {
            for (column, number) in numbers.iter_mut().enumerate() {
                self.check(step, column, number)?;
            }
        }
        Ok(Steps { sent, physical })
    }

    /// Brings a number into the data set's units and checks it.
    fn check(&self, step: usize, column: usize, number: &mut f64) -> Result<(), Trouble> {
        let name = match self.names.get(column) {
            Some(name) => format!("number {column} ({name}) of step {step}"),
            None => format!("number {column} of step {step}"),
        };
        if !number.is_finite() {
            return Err(Trouble::malformed(format!("{name} of its answer is {number}")));
        }
        let [low, high] = self.bounds[column]; // as many as a step has numbers
        if let Answers::Normalized { unchanged } = &self.answers
            && !unchanged.contains(&column)
        {
            *number = low + (*number + 1.0) * 0.5 * (high - low);
        }
        let slack = self.tolerance * (high - low);
        if (low - slack..=high + slack).contains(number) {
            return Ok(());
        }
        Err(Trouble::out_of_bounds(format!(
            "{name} of its answer is {number:.4}, outside {low}..{high} with a tolerance of \
            {slack:.4} (remote.bounds of the policy file)"
        )))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use vla_inference::policy::RemoteFault;

    fn contract(answers: Answers) -> Contract {
        Contract {
            images: vec![("image".into(), "observation/image".into())],
            preparation: Preparation::plain(8).unwrap(),
            state: vec![],
            instruction: "prompt".into(),
            texts: vec![],
            horizon: 2,
            names: vec!["dx".into(), "gripper".into()],
            bounds: vec![[-0.1, 0.3], [0.0, 1.0]],
            tolerance: 0.25,
            answers,
        }
    }

    fn refused(contract: &Contract, actions: &Value) -> String {
        let trouble = contract.steps(actions).unwrap_err();
        assert_eq!(trouble.fault, RemoteFault::Malformed);
        trouble.what
    }

    #[test]
    fn physical_steps_are_taken_as_they_are() {
        let rows = vec![vec![-0.2, 0.0], vec![0.4, 1.25]]; // the last ones inside the tolerance
        let actions = Value::Array(NdArray::matrix(&rows).unwrap());
        let steps = contract(Answers::Physical).steps(&actions).unwrap();
        assert_eq!((&steps.sent, &steps.physical), (&rows, &rows));
    }

    #[test]
    fn normalized_steps_are_scaled_except_unchanged_columns() {
        let contract = contract(Answers::Normalized { unchanged: vec![1] });
        let rows = vec![vec![-1.0, 0.0], vec![1.0, 1.0]];
        let actions = Value::Array(NdArray::matrix(&rows).unwrap());
        let steps = contract.steps(&actions).unwrap();
        assert_eq!(steps.sent, rows);
        let physical = [steps.physical[0][0] + 0.1, steps.physical[1][0] - 0.3];
        assert!(physical.iter().all(|error| error.abs() < 1e-15), "{physical:?}");
        let far = Value::Array(NdArray::matrix(&[vec![1.6, 0.0], vec![0.0, 0.0]]).unwrap());
        assert!(refused(&contract, &far).contains("number 0 (dx) of step 0"));
    }

    #[test]
    fn every_other_answer_is_refused_with_its_value() {
        let contract = contract(Answers::Physical);
        let matrix = |rows: &[Vec<f64>]| Value::Array(NdArray::matrix(rows).unwrap());
        let good = vec![0.0, 0.0];
        for (actions, reason) in [
            (matrix(std::slice::from_ref(&good)), "1 steps of 2 numbers"),
            (matrix(&[vec![0.0; 3], vec![0.0; 3]]), "2 steps of 3 numbers"),
            (matrix(&[]), "shape [0, 0]"),
            (matrix(&[good.clone(), vec![f64::NAN, 0.0]]), "number 0 (dx) of step 1"),
            (matrix(&[good.clone(), vec![0.0, f64::INFINITY]]), "is inf"),
            (matrix(&[good, vec![0.5, 0.0]]), "0.5000, outside -0.1..0.3"),
            (Value::Text("error".into()), "actions"),
            (Value::Nil, "actions"),
            (
                Value::Array(NdArray::new(Dtype::U8, vec![2, 2], vec![0; 4]).unwrap()),
                "floats are expected",
            ),
        ] {
            let what = refused(&contract, &actions);
            assert!(what.contains(reason), "{actions:?}: {what}");
        }
    }
}
