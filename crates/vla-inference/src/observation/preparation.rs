//! Image preparation as an ordered list of steps: what a checkpoint saw in training.

use super::{ImageError, MAX_SIDE, RgbImage};

/// Width and height of an image, pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Size {
    /// Pixels from left to right.
    pub width: usize,
    /// Pixels from top to bottom.
    pub height: usize,
}

impl Size {
    /// A square.
    #[must_use]
    pub fn square(side: usize) -> Self {
        Self { width: side, height: side }
    }

    pub(super) fn check(self) -> Result<(), ImageError> {
        super::check_side(self.width, self.height)
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} x {}", self.width, self.height)
    }
}

/// Pixels of an image, borrowed.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) size: Size,
    /// `height * width * 3` bytes.
    pub(super) pixels: &'a [u8],
}

/// What is done with an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operation {
    /// Rotation by 180 degrees: `image[::-1, ::-1]`.
    Rotate180,
    /// TensorFlow's JPEG round trip: `encode_jpeg` with its defaults, then `decode_image`.
    Jpeg,
    /// Pillow's bicubic resize, aspect ratio ignored.
    Bicubic(Size),
    /// Pillow's bilinear resize, aspect ratio ignored.
    Bilinear(Size),
    /// openpi's `resize_with_pad`: Pillow's bilinear, aspect ratio kept, black margins.
    BilinearPad(Size),
    /// LeRobot's `resize_with_pad_torch`: bilinear without antialiasing on floats, aspect ratio
    /// kept, black margins. Gives floats, so it can only be the last step.
    TorchBilinearPad(Size),
    /// TensorFlow's antialiased lanczos3 resize, aspect ratio ignored.
    Lanczos3(Size),
    /// OpenCV's `INTER_AREA`, aspect ratio ignored; only to smaller sizes.
    Area(Size),
    /// TensorFlow's centre crop of this part of the area, resized back to the size before.
    CenterCrop(f32),
}

impl Operation {
    /// The size of the result; `None` when it is the input's.
    #[must_use]
    pub fn size(self) -> Option<Size> {
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

    /// Name, as in policy files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rotate180 => "rotate_180",
            Self::Jpeg => "jpeg",
            Self::Bicubic(_) => "bicubic",
            Self::Bilinear(_) => "bilinear",
            Self::BilinearPad(_) => "bilinear_pad",
            Self::TorchBilinearPad(_) => "torch_bilinear_pad",
            Self::Lanczos3(_) => "lanczos3",
            Self::Area(_) => "area",
            Self::CenterCrop(_) => "center_crop",
        }
    }
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.size(), self) {
            (Some(size), _) if size.width == size.height => {
                write!(f, "{} {}", self.name(), size.width)
            }
            (Some(size), _) => write!(f, "{} {size}", self.name()),
            (None, Self::CenterCrop(area)) => write!(f, "{} {area}", self.name()),
            (None, _) => f.write_str(self.name()),
        }
    }
}

/// An operation and when it is left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// What is done.
    pub operation: Operation,
    /// The operation is left out for an image that reaches it with this size, as OpenVLA-OFT's
    /// server leaves out JPEG and resize for an image of 224 x 224.
    pub unless_size: Option<Size>,
}

impl From<Operation> for Step {
    fn from(operation: Operation) -> Self {
        Self { operation, unless_size: None }
    }
}

/// Why steps are no preparation.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PreparationError {
    /// More steps than any pipeline has.
    #[error("{0} image steps; at most {MAX_STEPS} are accepted")]
    TooMany(usize),
    /// No step sets the size.
    #[error("no image step sets the size; add one, such as bicubic with the model's size")]
    NoSize,
    /// A side that is zero or too large.
    #[error("image step '{step}' has a size outside 1..{MAX_SIDE} pixels")]
    Side {
        /// The step.
        step: Operation,
    },
    /// A part of the area outside of the range.
    #[error("image step '{step}' keeps a part of the area outside 0.01..1")]
    Area {
        /// The step.
        step: Operation,
    },
    /// The size of the result would depend on the image.
    #[error(
        "image step '{step}' is left out for images of {unless}, so that the result would have \
        one of two sizes; use the size that it resizes to"
    )]
    TwoSizes {
        /// The step.
        step: Operation,
        /// The size for which it is left out.
        unless: Size,
    },
    /// A step after, or a condition on, one that gives floats.
    #[error(
        "image step '{step}' gives floating-point pixels; it must be the last, without condition"
    )]
    NotLast {
        /// The step that gives floats.
        step: Operation,
    },
    /// The result does not have the size that the model takes.
    #[error("the image steps give {given} pixels; this checkpoint takes {wanted}")]
    WrongSize {
        /// Size of the result.
        given: Size,
        /// Size that the model takes.
        wanted: Size,
    },
    /// The model takes bytes.
    #[error(
        "image step '{step}' gives floating-point pixels; this checkpoint takes 8-bit pixels, as \
        bicubic or lanczos3 give"
    )]
    Floats {
        /// The step that gives floats.
        step: Operation,
    },
}

/// The largest number of steps.
pub const MAX_STEPS: usize = 16;

/// An ordered list of steps from a camera image to the model's pixels, validated: the size of the
/// result does not depend on the image.
#[derive(Clone, Debug, PartialEq)]
pub struct Preparation {
    steps: Vec<Step>,
    size: Size,
}

impl Preparation {
    /// Validates steps.
    ///
    /// # Errors
    /// [`PreparationError`] names the step.
    pub fn new(steps: Vec<Step>) -> Result<Self, PreparationError> {
        if steps.len() > MAX_STEPS {
            return Err(PreparationError::TooMany(steps.len()));
        }
        let mut size = None;
        for (index, step) in steps.iter().enumerate() {
            let operation = step.operation;
            let wrong = |size: Size| size.check().is_err();
            if operation.size().is_some_and(wrong) || step.unless_size.is_some_and(wrong) {
                return Err(PreparationError::Side { step: operation });
            }
            if matches!(operation, Operation::CenterCrop(area) if !(0.01..=1.0).contains(&area)) {
                return Err(PreparationError::Area { step: operation });
            }
            let last = index + 1 == steps.len();
            if gives_floats(operation) && !(last && step.unless_size.is_none()) {
                return Err(PreparationError::NotLast { step: operation });
            }
            if let Some(to) = operation.size() {
                match step.unless_size {
                    // Left out always, or only for images that have the size already.
                    Some(unless) if unless != to && (size.is_none() || size == Some(unless)) => {
                        return Err(PreparationError::TwoSizes { step: operation, unless });
                    }
                    _ => size = Some(to),
                }
            }
        }
        let size = size.ok_or(PreparationError::NoSize)?;
        Ok(Self { steps, size })
    }

    /// The ordinary preparation of OpenVLA's base model: Pillow's bicubic to a square.
    ///
    /// # Errors
    /// When the side is out of bounds.
    pub fn plain(side: usize) -> Result<Self, PreparationError> {
        Self::new(vec![Operation::Bicubic(Size::square(side)).into()])
    }

    /// The steps in order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Size of the result.
    #[must_use]
    pub fn size(&self) -> Size {
        self.size
    }

    /// Whether the result can only be floats: [`Operation::TorchBilinearPad`].
    #[must_use]
    pub fn gives_floats(&self) -> bool {
        self.steps.last().is_some_and(|step| gives_floats(step.operation))
    }

    /// Checks that the result is what a model takes: bytes, `size` pixels.
    ///
    /// # Errors
    /// [`PreparationError::WrongSize`], [`PreparationError::Floats`].
    pub fn require_bytes(&self, wanted: Size) -> Result<(), PreparationError> {
        if let Some(step) = self.steps.last().filter(|step| gives_floats(step.operation)) {
            return Err(PreparationError::Floats { step: step.operation });
        }
        self.require_size(wanted)
    }

    /// Checks that the result has the size that a model takes.
    ///
    /// # Errors
    /// [`PreparationError::WrongSize`].
    pub fn require_size(&self, wanted: Size) -> Result<(), PreparationError> {
        if self.size == wanted {
            Ok(())
        } else {
            Err(PreparationError::WrongSize { given: self.size, wanted })
        }
    }
}

impl std::fmt::Display for Preparation {
    /// The steps in one line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, step) in self.steps.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{}", step.operation)?;
            if let Some(size) = step.unless_size {
                write!(f, " unless {size}")?;
            }
        }
        Ok(())
    }
}

fn gives_floats(operation: Operation) -> bool {
    matches!(operation, Operation::TorchBilinearPad(_))
}

impl RgbImage {
    /// Width and height.
    #[must_use]
    pub fn size(&self) -> Size {
        Size { width: self.width(), height: self.height() }
    }

    pub(super) fn view(&self) -> View<'_> {
        View { size: self.size(), pixels: self.pixels() }
    }
}
