//! `image:` of a policy file: the ordered steps from a camera image to the model's pixels.

use serde::Deserialize;
use vla_control::ConfigErrors;

use super::{Unknown, choice, need, refuse_unknown};

/// Largest side of an image, pixels.
const SIDE_MAX: u32 = 8192;
/// Largest number of steps.
const STEPS_MAX: usize = 16;

/// What is done with an image. Sizes are squares, in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ImageOperation {
    /// `rotate_180`: the image turned by 180 degrees.
    Rotate180,
    /// `jpeg`: TensorFlow's JPEG round trip at quality 95.
    Jpeg,
    /// `bicubic`: Pillow's bicubic, as OpenVLA's own processor.
    Bicubic(u32),
    /// `bilinear`: Pillow's bilinear.
    Bilinear(u32),
    /// `bilinear_pad`: Pillow's bilinear with black margins, as openpi.
    BilinearPad(u32),
    /// `torch_bilinear_pad`: torch's bilinear with black margins on floats, as LeRobot.
    TorchBilinearPad(u32),
    /// `lanczos3`: TensorFlow's antialiased Lanczos, as the official evaluations of OpenVLA.
    Lanczos3(u32),
    /// `area`: OpenCV's `INTER_AREA`, as SimplerEnv.
    Area(u32),
    /// `center_crop`: TensorFlow's crop of this part of the area, resized back.
    CenterCrop(f64),
}

/// A step, and when it is left out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ImageStep {
    /// What is done.
    pub operation: ImageOperation,
    /// The step is left out for an image that reaches it as a square of this side.
    pub unless_size: Option<u32>,
}

/// Everything between a camera image and the model's pixels, validated: at least one step sets the
/// size, and the result's size does not depend on the image.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageSection {
    /// The steps in order.
    pub steps: Vec<ImageStep>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct RawImageSection {
    steps: Option<Vec<RawStep>>,
    #[serde(flatten)]
    unknown: Unknown,
}

#[derive(Debug, Default, Deserialize)]
struct RawStep {
    step: Option<String>,
    size: Option<u32>,
    area: Option<f64>,
    unless_size: Option<u32>,
    #[serde(flatten)]
    unknown: Unknown,
}

/// What a step's name stands for, before its values.
#[derive(Clone, Copy)]
enum Form {
    Bare(ImageOperation),
    Sized(fn(u32) -> ImageOperation),
    Crop,
}

const STEPS: &[(&str, Form)] = &[
    ("rotate_180", Form::Bare(ImageOperation::Rotate180)),
    ("jpeg", Form::Bare(ImageOperation::Jpeg)),
    ("bicubic", Form::Sized(ImageOperation::Bicubic)),
    ("bilinear", Form::Sized(ImageOperation::Bilinear)),
    ("bilinear_pad", Form::Sized(ImageOperation::BilinearPad)),
    ("torch_bilinear_pad", Form::Sized(ImageOperation::TorchBilinearPad)),
    ("lanczos3", Form::Sized(ImageOperation::Lanczos3)),
    ("area", Form::Sized(ImageOperation::Area)),
    ("center_crop", Form::Crop),
];

impl ImageOperation {
    /// Side of the result, pixels; `None` when it is the input's.
    #[must_use]
    pub fn size(self) -> Option<u32> {
        match self {
            Self::Rotate180 | Self::Jpeg | Self::CenterCrop(_) => None,
            Self::Bicubic(size)
            | Self::Bilinear(size)
            | Self::BilinearPad(size)
            | Self::TorchBilinearPad(size)
            | Self::Lanczos3(size)
            | Self::Area(size) => Some(size),
        }
    }
}

impl RawImageSection {
    /// `None` only after something was noted.
    pub(crate) fn check(self, p: &mut ConfigErrors) -> Option<ImageSection> {
        for key in ["resize", "jpeg", "crop_area"] {
            if self.unknown.contains_key(key) {
                p.add(&format!("image.{key}"), "is a step: write image.steps, in their order");
            }
        }
        let mut unknown = self.unknown;
        unknown.retain(|key, _| !["resize", "jpeg", "crop_area"].contains(&key.as_str()));
        refuse_unknown(p, "image", &unknown);
        let raw = need(p, "image.steps", self.steps)?;
        if raw.len() > STEPS_MAX {
            p.add("image.steps", format!("{} steps, more than {STEPS_MAX}", raw.len()));
            return None;
        }
        let checked = raw.into_iter().enumerate();
        let steps: Vec<_> =
            checked.map(|(i, raw)| raw.check(p, &format!("image.steps[{i}]"))).collect();
        let steps: Vec<ImageStep> = steps.into_iter().collect::<Option<_>>()?;
        check_sizes(p, &steps).then_some(ImageSection { steps })
    }
}

impl RawStep {
    fn check(self, p: &mut ConfigErrors, place: &str) -> Option<ImageStep> {
        refuse_unknown(p, place, &self.unknown);
        let form = choice(p, &format!("{place}.step"), self.step.as_deref(), STEPS)?;
        let name = self.step.as_deref().unwrap_or_default();
        for side in [("size", self.size), ("unless_size", self.unless_size)] {
            if let (key, Some(side)) = side {
                let (low, high) = (1.0, f64::from(SIDE_MAX));
                p.range(&format!("{place}.{key}"), f64::from(side), low, high, "pixels");
            }
        }
        if self.size.is_some() && !matches!(form, Form::Sized(_)) {
            p.add(&format!("{place}.size"), format!("`{name}` keeps the size; remove it"));
        }
        if self.area.is_some() && !matches!(form, Form::Crop) {
            p.add(&format!("{place}.area"), format!("`{name}` has no area; remove it"));
        }
        let operation = match form {
            Form::Bare(operation) => operation,
            Form::Sized(of) => of(need(p, &format!("{place}.size"), self.size)?),
            Form::Crop => {
                let area = need(p, &format!("{place}.area"), self.area)?;
                p.range(&format!("{place}.area"), area, 0.01, 1.0, "of the area");
                ImageOperation::CenterCrop(area)
            }
        };
        Some(ImageStep { operation, unless_size: self.unless_size })
    }
}

/// Whether the result has one size, whatever the image's.
fn check_sizes(p: &mut ConfigErrors, steps: &[ImageStep]) -> bool {
    let mut size = None;
    let mut fit = true;
    for (i, step) in steps.iter().enumerate() {
        let last = i + 1 == steps.len() && step.unless_size.is_none();
        if matches!(step.operation, ImageOperation::TorchBilinearPad(_)) && !last {
            p.add(
                &format!("image.steps[{i}]"),
                "`torch_bilinear_pad` gives floats; it must be the last step, without condition",
            );
            fit = false;
        }
        let Some(to) = step.operation.size() else { continue };
        match step.unless_size {
            Some(unless) if unless != to && size.is_none_or(|size| size == unless) => {
                p.add(
                    &format!("image.steps[{i}].unless_size"),
                    format!("{unless} is not the step's size, {to}: the result could have either"),
                );
                fit = false;
            }
            _ => size = Some(to),
        }
    }
    if size.is_none() {
        p.add("image.steps", "no step sets the size; add one, such as bicubic");
    }
    fit && size.is_some()
}
