//! Real-time chunking: a new chunk that begins where the executed one is going.
//!
//! Black et al., "Real-Time Execution of Action Chunking Flow Policies", 2025, as LeRobot computes
//! it (`policies/rtc/modeling_rtc.py`). There the input requires a gradient only after the velocity
//! was computed, so that the Jacobian is the identity and the correction is the weighted error
//! itself: no backward pass. The trained mode (arXiv 2512.05964) gives the first rows to a model
//! that was trained to continue them.

/// How fast the weight of the previous chunk falls between the delay and the horizon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Schedule {
    /// Linearly.
    #[default]
    Linear,
    /// `w expm1(w) / (e - 1)` of the linear weight.
    Exp,
    /// Not before the horizon.
    Ones,
    /// At once.
    Zeros,
}

impl std::str::FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_uppercase().as_str() {
            "LINEAR" => Ok(Self::Linear),
            "EXP" => Ok(Self::Exp),
            "ONES" => Ok(Self::Ones),
            "ZEROS" => Ok(Self::Zeros),
            other => Err(format!("schedule is '{other}'; use linear, exp, ones or zeros")),
        }
    }
}

/// Weight of the previous chunk in each of `total` rows: 1 before `start`, 0 from `end` on.
#[must_use]
pub fn prefix_weights(schedule: Schedule, start: usize, end: usize, total: usize) -> Vec<f32> {
    let start = start.min(end);
    let between = end.min(total).saturating_sub(start);
    let weight = |row: usize| -> f32 {
        if row < start {
            return 1.0;
        }
        if row >= end {
            return 0.0;
        }
        // `torch.linspace(1, 0, n + 2)[1:-1]`, from both ends as torch computes it.
        let (steps, at) = (between + 1, row - start + 1);
        let step = -1.0 / steps as f32;
        let linear = if at < steps.div_ceil(2) {
            step.mul_add(at as f32, 1.0)
        } else {
            -step * (steps - at) as f32
        };
        match schedule {
            Schedule::Linear => linear,
            Schedule::Exp => linear * linear.exp_m1() / (std::f64::consts::E - 1.0) as f32,
            Schedule::Ones => 1.0,
            Schedule::Zeros => 0.0,
        }
    };
    (0..total).map(weight).collect()
}

/// Weight of the correction at `time`, from 1 (noise) to 0.
#[must_use]
pub fn guidance_weight(time: f32, max: f32) -> f32 {
    let tau = 1.0 - time;
    let square = (1.0 - tau) * (1.0 - tau);
    let inverse = (square + tau * tau) / square;
    let ratio = (1.0 - tau) / tau;
    let ratio = if ratio == f32::INFINITY { max } else { ratio };
    let weight = ratio * inverse;
    if weight.is_nan() { 0.0 } else { weight.min(max) }
}

/// How a chunk is made to continue the previous one.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Continuation {
    /// Not at all.
    #[default]
    None,
    /// LeRobot's guided mode.
    Guided {
        /// The previous chunk from the row that is executed when the inference begins, normalised
        /// and padded: `[chunk, columns]` of the new one.
        previous: Vec<f32>,
        /// Weight of each row.
        weights: Vec<f32>,
        /// Largest weight of the correction.
        max_weight: f32,
    },
    /// The trained mode.
    Trained {
        /// As in the guided mode.
        previous: Vec<f32>,
        /// Rows that are executed while the inference runs.
        frozen: usize,
    },
}

/// A previous chunk that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContinuationError {
    /// A longer delay than the checkpoint was trained for.
    #[error(
        "the inference takes {delay} steps but the checkpoint was trained to continue after at \
        most {trained} (rtc_training_max_delay); use a faster device or a lower rate"
    )]
    Delay {
        /// Steps of this inference.
        delay: usize,
        /// Steps in training.
        trained: usize,
    },
    /// A delay beyond the end of the previous chunk.
    #[error(
        "the previous chunk has {rows} steps left but the inference takes {delay}; execute fewer \
        steps of a chunk before the next inference"
    )]
    Short {
        /// Steps left.
        rows: usize,
        /// Steps of this inference.
        delay: usize,
    },
    /// Not finite.
    #[error("the previous chunk holds a value that is not finite; start without a previous chunk")]
    NotFinite,
    /// Wider than the model's action.
    #[error("the previous chunk is {columns} wide, the model's action {model}")]
    Width {
        /// Columns of the previous chunk.
        columns: usize,
        /// Columns of the model.
        model: usize,
    },
    /// A checkpoint that was not trained for it.
    #[error(
        "the trained mode of real-time chunking needs a pi0.5 checkpoint with \
        rtc_training_max_delay above 0; use the guided mode"
    )]
    Untrained,
}

/// `rows` of a previous chunk, `[chunk, columns]` with zeros where it has no value.
fn padded(rows: &[Vec<f32>], [chunk, columns]: [usize; 2]) -> Result<Vec<f32>, ContinuationError> {
    let mut values = vec![0.0; chunk * columns];
    for (row, out) in rows.iter().zip(values.chunks_exact_mut(columns.max(1))) {
        if row.len() > columns {
            return Err(ContinuationError::Width { columns: row.len(), model: columns });
        }
        out[..row.len()].copy_from_slice(row);
    }
    Ok(values)
}

impl Continuation {
    /// Guided by `rows`, the rest of the previous chunk, for an inference of `delay` steps; rows
    /// from `horizon` on are free. A horizon beyond the rest is cut to it.
    ///
    /// # Errors
    /// When a row is wider than the model's action, or not finite.
    pub fn guided(
        rows: &[Vec<f32>],
        shape: [usize; 2],
        (delay, horizon): (usize, usize),
        (schedule, max_weight): (Schedule, f32),
    ) -> Result<Self, ContinuationError> {
        if rows.is_empty() {
            return Ok(Self::None);
        }
        if rows.iter().flatten().any(|value| !value.is_finite()) {
            return Err(ContinuationError::NotFinite);
        }
        let weights = prefix_weights(schedule, delay, horizon.min(rows.len()), shape[0]);
        Ok(Self::Guided { previous: padded(rows, shape)?, weights, max_weight })
    }

    /// Continues `rows`, of which `delay` are executed meanwhile, with a model that was trained for
    /// up to `trained` of them.
    ///
    /// # Errors
    /// When the model was not trained for it, or the rows do not fit; as LeRobot refuses them.
    pub fn trained(
        rows: &[Vec<f32>],
        shape: [usize; 2],
        delay: usize,
        trained: usize,
    ) -> Result<Self, ContinuationError> {
        if trained == 0 {
            return Err(ContinuationError::Untrained);
        }
        if rows.is_empty() || delay == 0 {
            return Ok(Self::None);
        }
        if delay > trained {
            return Err(ContinuationError::Delay { delay, trained });
        }
        if delay > rows.len() {
            return Err(ContinuationError::Short { rows: rows.len(), delay });
        }
        if rows.iter().flatten().any(|value| !value.is_finite()) {
            return Err(ContinuationError::NotFinite);
        }
        Ok(Self::Trained { previous: padded(rows, shape)?, frozen: delay })
    }

    /// Rows that count as actions at time 0.
    #[must_use]
    pub fn frozen(&self) -> usize {
        match self {
            Self::Trained { frozen, .. } => *frozen,
            _ => 0,
        }
    }

    /// Puts the frozen rows in their place.
    pub(super) fn freeze(&self, x: &mut [f32], columns: usize) {
        if let Self::Trained { previous, frozen } = self {
            let values = (frozen * columns).min(x.len()).min(previous.len());
            x[..values].copy_from_slice(&previous[..values]);
        }
    }

    /// The velocity `v` at `x` and `time`, drawn towards the previous chunk.
    #[must_use]
    pub fn guide(&self, x: &[f32], v: &[f32], time: f32) -> Vec<f32> {
        let Self::Guided { previous, weights, max_weight } = self else { return v.to_vec() };
        let weight = guidance_weight(time, *max_weight);
        let columns = v.len() / weights.len().max(1);
        let rows = weights.iter().flat_map(|weight| std::iter::repeat_n(weight, columns));
        x.iter()
            .zip(v)
            .zip(previous.iter().zip(rows))
            .map(|((x, v), (previous, row))| {
                let end = x - time * v;
                v - weight * ((previous - end) * row)
            })
            .collect()
    }
}
