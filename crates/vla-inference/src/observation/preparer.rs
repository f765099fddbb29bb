//! Carrying out a preparation.

use super::area::AreaResize;
use super::crop::CenterCrop;
use super::jpeg::JpegRoundTrip;
use super::lanczos::Lanczos3;
use super::pad::BilinearPad;
use super::preparation::{Operation, Preparation, Size, View};
use super::resize::{Filter, Resizer};
use super::rotate::rotate_180;
use super::torch_bilinear::{Layout, TorchBilinearPad, bytes_to_floats};
use super::{ImageError, RgbImage};

/// Carries out a [`Preparation`]; keeps weights and buffers between images, so that weights are
/// computed once for each size of input.
pub struct Preparer {
    preparation: Preparation,
    stages: Vec<(Option<Size>, Stage)>,
    floats: Option<TorchBilinearPad>,
    /// The result of the last step, and the one before.
    front: Vec<u8>,
    back: Vec<u8>,
}

/// A step with its buffers.
enum Stage {
    Rotate180,
    Jpeg(Box<JpegRoundTrip>),
    Pillow(Box<Resizer>),
    BilinearPad(Box<BilinearPad>),
    Lanczos3(Box<Lanczos3>),
    Area(Box<AreaResize>),
    CenterCrop(Box<CenterCrop>),
}

impl Stage {
    fn apply(&mut self, image: View<'_>, out: &mut Vec<u8>) -> Result<Size, ImageError> {
        match self {
            Self::Rotate180 => rotate_180(image, out),
            Self::Jpeg(jpeg) => jpeg.apply(image, out),
            Self::CenterCrop(crop) => crop.apply(image, out),
            Self::Pillow(resizer) => {
                resizer.apply(image, out);
                return Ok(resizer.size());
            }
            Self::BilinearPad(pad) => {
                pad.apply(image, out)?;
                return Ok(pad.size());
            }
            Self::Lanczos3(lanczos) => {
                lanczos.apply(image, out);
                return Ok(lanczos.size());
            }
            Self::Area(area) => {
                area.apply(image, out)?;
                return Ok(area.size());
            }
        }
        Ok(image.size)
    }
}

/// Where the image is: as given, or in the front buffer.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Given,
    Front(Size),
}

impl Preparer {
    /// A preparer without plan; the first image makes it.
    ///
    /// # Errors
    /// None for a validated preparation.
    pub fn new(preparation: Preparation) -> Result<Self, ImageError> {
        let pillow = |filter, size| {
            Resizer::with_filter(filter, size).map(|resizer| Stage::Pillow(Box::new(resizer)))
        };
        let mut stages = Vec::with_capacity(preparation.steps().len());
        let mut floats = None;
        for step in preparation.steps() {
            let stage = match step.operation {
                Operation::Rotate180 => Stage::Rotate180,
                Operation::Jpeg => Stage::Jpeg(Box::new(JpegRoundTrip::new())),
                Operation::Bicubic(size) => pillow(Filter::Bicubic, size)?,
                Operation::Bilinear(size) => pillow(Filter::Bilinear, size)?,
                Operation::BilinearPad(size) => {
                    Stage::BilinearPad(Box::new(BilinearPad::new(size)))
                }
                Operation::Lanczos3(size) => Stage::Lanczos3(Box::new(Lanczos3::new(size))),
                Operation::Area(size) => Stage::Area(Box::new(AreaResize::new(size))),
                Operation::CenterCrop(area) => Stage::CenterCrop(Box::new(CenterCrop::new(area))),
                Operation::TorchBilinearPad(size) => {
                    floats = Some(TorchBilinearPad::new(size));
                    continue;
                }
            };
            stages.push((step.unless_size, stage));
        }
        Ok(Self { preparation, stages, floats, front: Vec::new(), back: Vec::new() })
    }

    /// What is carried out.
    #[must_use]
    pub fn preparation(&self) -> &Preparation {
        &self.preparation
    }

    /// The image as the model's bytes. Shares the image's pixels when every step is left out.
    ///
    /// # Errors
    /// When a step cannot be done with this image, or the preparation
    /// [gives floats](Preparation::gives_floats).
    pub fn rgb(&mut self, image: &RgbImage) -> Result<RgbImage, ImageError> {
        self.rgb_in_steps(image, |_, _, _| {})
    }

    /// The bytes of [`Preparer::rgb`], without a copy: they are the preparer's own until the next
    /// image.
    ///
    /// # Errors
    /// As [`Preparer::rgb`].
    pub fn bytes<'a>(&'a mut self, image: &'a RgbImage) -> Result<&'a [u8], ImageError> {
        if self.floats.is_some() {
            return Err(ImageError::FloatPixels);
        }
        match self.run(image, &mut |_, _, _| {})? {
            Place::Given => Ok(image.pixels()),
            Place::Front(_) => Ok(&self.front),
        }
    }

    /// The image as floats from -1 to 1, `3 * height * width` values, into a buffer that is used
    /// again. Bytes become `v / 255 * 2 - 1`.
    ///
    /// # Errors
    /// When a step cannot be done with this image.
    pub fn floats(
        &mut self,
        image: &RgbImage,
        layout: Layout,
        out: &mut Vec<f32>,
    ) -> Result<(), ImageError> {
        let place = self.run(image, &mut |_, _, _| {})?;
        let view = match place {
            Place::Given => image.view(),
            Place::Front(size) => View { size, pixels: &self.front },
        };
        match &mut self.floats {
            Some(last) => last.apply(view, layout, out),
            None => {
                bytes_to_floats(view, layout, out);
                Ok(())
            }
        }
    }

    /// [`Preparer::rgb`] that shows the image after every step that was not left out: operation,
    /// size and bytes.
    ///
    /// # Errors
    /// As [`Preparer::rgb`].
    pub fn rgb_in_steps(
        &mut self,
        image: &RgbImage,
        mut see: impl FnMut(Operation, Size, &[u8]),
    ) -> Result<RgbImage, ImageError> {
        if self.floats.is_some() {
            return Err(ImageError::FloatPixels);
        }
        match self.run(image, &mut see)? {
            Place::Given => Ok(image.clone()),
            Place::Front(size) => RgbImage::new(size.width, size.height, self.front.clone()),
        }
    }

    fn run(
        &mut self,
        image: &RgbImage,
        see: &mut dyn FnMut(Operation, Size, &[u8]),
    ) -> Result<Place, ImageError> {
        let mut place = Place::Given;
        for ((unless, stage), step) in self.stages.iter_mut().zip(self.preparation.steps()) {
            let view = match place {
                Place::Given => image.view(),
                Place::Front(size) => View { size, pixels: &self.front },
            };
            if *unless == Some(view.size) {
                continue;
            }
            let size = stage.apply(view, &mut self.back)?;
            std::mem::swap(&mut self.front, &mut self.back);
            see(step.operation, size, &self.front);
            place = Place::Front(size);
        }
        Ok(place)
    }
}
