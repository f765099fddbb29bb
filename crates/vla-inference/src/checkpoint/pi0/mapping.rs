//! What an action's numbers are: values, or differences from the state.

/// What an action's numbers are.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub enum ActionMapping {
    /// The values themselves.
    Absolute,
    /// Where the mask is true, differences from the state at the observation: not cumulative, each
    /// step is relative to the same state.
    Relative {
        /// One flag per dimension.
        mask: Vec<bool>,
    },
}

impl std::str::FromStr for ActionMapping {
    type Err = String;

    /// `absolute`, or `relative:` and the lengths of runs, negative for absolute ones, as openpi's
    /// `make_bool_mask` takes them: `relative:6,-1`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("actions is '{text}'; use absolute, or relative:6,-1 and the like");
        if text == "absolute" {
            return Ok(Self::Absolute);
        }
        let mut mask = Vec::new();
        for run in text.strip_prefix("relative:").ok_or_else(wrong)?.split(',') {
            let run: i16 = run.trim().parse().map_err(|_| wrong())?;
            mask.extend(std::iter::repeat_n(run > 0, run.unsigned_abs().into()));
        }
        if mask.is_empty() || mask.len() > 1024 {
            Err(wrong())
        } else {
            Ok(Self::Relative { mask })
        }
    }
}

impl ActionMapping {
    /// Relative in every dimension whose name contains none of the `excluded` words, in any case.
    /// As LeRobot does it: without names nothing can be excluded.
    #[must_use]
    pub fn relative(names: Option<&[String]>, excluded: &[String], dimensions: usize) -> Self {
        let is_relative = |at: usize| {
            let name = names.and_then(|names| names.get(at)).map(|name| name.to_lowercase());
            let hit = |word: &String| {
                !word.is_empty()
                    && name.as_ref().is_some_and(|name| name.contains(&word.to_lowercase()))
            };
            !excluded.iter().any(hit)
        };
        Self::Relative { mask: (0..dimensions).map(is_relative).collect() }
    }

    /// The first dimension that is relative to a state of only `state` dimensions.
    pub(super) fn beyond(&self, state: usize) -> Option<usize> {
        let Self::Relative { mask } = self else { return None };
        (state..mask.len()).find(|&at| mask[at])
    }

    /// `action + state` where relative.
    #[must_use]
    pub fn to_absolute(&self, action: &[f32], state: &[f32]) -> Vec<f32> {
        self.shifted(action, state, 1.0)
    }

    /// `action - state` where relative.
    #[must_use]
    pub fn to_relative(&self, action: &[f32], state: &[f32]) -> Vec<f32> {
        self.shifted(action, state, -1.0)
    }

    fn shifted(&self, action: &[f32], state: &[f32], sign: f32) -> Vec<f32> {
        let Self::Relative { mask } = self else { return action.to_vec() };
        let one = |(at, &value): (usize, &f32)| match (mask.get(at), state.get(at)) {
            (Some(true), Some(state)) => value + sign * state,
            _ => value,
        };
        action.iter().enumerate().map(one).collect()
    }
}
