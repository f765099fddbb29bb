//! Which image preparation a policy uses: the one of a policy file, or its checkpoint's own.

use std::collections::BTreeMap;

use crate::observation::Preparation;

/// Which image preparation a policy uses. A picture prepared otherwise than in training is a wrong
/// picture, so that a rule is checked against the statistics before a model is loaded.
#[derive(Clone, Debug, PartialEq)]
pub enum PreparationRule {
    /// What a policy file states.
    Stated {
        /// The steps.
        preparation: Preparation,
        /// The statistics keys that the policy file holds for.
        keys: Vec<String>,
    },
    /// The checkpoint's own processor.
    Own {
        /// Statistics keys that are known to need another preparation, and the policy file that
        /// states it.
        others: BTreeMap<String, String>,
    },
}

impl Default for PreparationRule {
    /// The checkpoint's own processor, whatever the statistics.
    fn default() -> Self {
        Self::Own { others: BTreeMap::new() }
    }
}

impl std::fmt::Display for PreparationRule {
    /// The steps of a policy file, or `own`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stated { preparation, .. } => preparation.fmt(f),
            Self::Own { .. } => f.write_str("own"),
        }
    }
}

/// A rule that does not fit the statistics.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreparationRuleError {
    /// The policy file is for other statistics.
    #[error(
        "the statistics '{key}' are none of the policy file's ({}); use the policy file of this \
        checkpoint", .keys.join(", ")
    )]
    OtherStatistics {
        /// Key of the statistics in use.
        key: String,
        /// Keys of the policy file.
        keys: Vec<String>,
    },
    /// The checkpoint's own processor is not what the checkpoint was trained with.
    #[error(
        "a checkpoint with the statistics '{key}' was trained on pictures that its own processor \
        does not prepare; give the policy file config/policies/{file}"
    )]
    NeedsPolicyFile {
        /// Key of the statistics in use.
        key: String,
        /// File name of the policy file.
        file: String,
    },
}

impl PreparationRule {
    /// The preparation for statistics, where `own` is that of the checkpoint's processor.
    ///
    /// # Errors
    /// [`PreparationRuleError`] names the policy file to use.
    pub fn for_statistics(
        &self,
        key: &str,
        own: Preparation,
    ) -> Result<Preparation, PreparationRuleError> {
        match self {
            Self::Stated { preparation, keys } if keys.iter().any(|known| known == key) => {
                Ok(preparation.clone())
            }
            Self::Stated { keys, .. } => Err(PreparationRuleError::OtherStatistics {
                key: key.to_owned(),
                keys: keys.clone(),
            }),
            Self::Own { others } => match others.get(key) {
                None => Ok(own),
                Some(file) => Err(PreparationRuleError::NeedsPolicyFile {
                    key: key.to_owned(),
                    file: file.clone(),
                }),
            },
        }
    }
}
