//! Which cameras a policy takes, and how their images are resized.

use std::sync::Arc;

use super::super::{PolicyError, PreparationRule};
use super::FlowError;
use crate::checkpoint::pi0::{Pi0Checkpoint, Resize};
use crate::observation::{Operation, Preparation, Preparer, Size};

/// The preparation of a checkpoint's images: a policy file's, or the resizing of the code that
/// wrote the folder. (Folders name no statistics, so that a policy file's keys are not compared.)
pub(super) fn preparer(
    checkpoint: &Pi0Checkpoint,
    rule: &PreparationRule,
) -> Result<Preparer, PolicyError> {
    let [height, width] = checkpoint.config.image_resolution;
    let size = Size { width, height };
    let preparation = match rule {
        PreparationRule::Stated { preparation, .. } => preparation.clone(),
        PreparationRule::Own { .. } => {
            let operation = match checkpoint.resize {
                Resize::TorchBilinearPad => Operation::TorchBilinearPad(size),
                Resize::PilBilinearPad => Operation::BilinearPad(size),
            };
            Preparation::new(vec![operation.into()])?
        }
    };
    preparation.require_size(size)?;
    Ok(Preparer::new(preparation)?)
}

/// Prefix of LeRobot's names of camera features.
const IMAGES: &str = "observation.images.";

/// Feature and name of each camera that must have an image; the name is the robot's, without
/// LeRobot's prefix.
pub(super) fn cameras(
    checkpoint: &Pi0Checkpoint,
    absent: &[String],
) -> Result<Vec<(String, Arc<str>)>, FlowError> {
    let name = |feature: &str| -> String {
        let outer = checkpoint.processors.outer_name(feature);
        outer.strip_prefix(IMAGES).unwrap_or(outer).to_owned()
    };
    let all: Vec<(String, String)> = checkpoint
        .config
        .real_cameras()
        .map(|camera| (camera.feature.clone(), name(&camera.feature)))
        .collect();
    let is = |(feature, name): &(String, String), given: &String| given == feature || given == name;
    if let Some(given) = absent.iter().find(|given| !all.iter().any(|camera| is(camera, given))) {
        let known = all.into_iter().map(|(_, name)| name).collect();
        return Err(FlowError::UnknownCamera { given: given.clone(), known });
    }
    let present: Vec<(String, Arc<str>)> = all
        .into_iter()
        .filter(|camera| !absent.iter().any(|given| is(camera, given)))
        .map(|(feature, name)| (feature, name.into()))
        .collect();
    if present.is_empty() { Err(FlowError::NoCamera) } else { Ok(present) }
}
