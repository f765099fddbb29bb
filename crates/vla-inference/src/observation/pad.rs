//! Resizing with the aspect ratio kept and black margins, as openpi's client and LeRobot do.

use super::ImageError;
use super::preparation::{Size, View};
use super::resize::{Filter, Resizer};

/// Where a resized image lies between its margins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    /// Size of the resized image.
    pub(super) inner: Size,
    /// Pixels left of it.
    pub(super) left: usize,
    /// Pixels above it.
    pub(super) top: usize,
}

/// The largest size with `from`'s aspect ratio in `to`, cut to whole pixels, in the middle; an odd
/// pixel of margin goes to the right or the bottom.
///
/// # Errors
/// When less than a pixel would be left of a side.
pub(super) fn placement(from: Size, to: Size) -> Result<Placement, ImageError> {
    let ratio = |from: usize, to: usize| from as f64 / to as f64;
    let ratio = ratio(from.width, to.width).max(ratio(from.height, to.height));
    let inner = Size {
        width: (from.width as f64 / ratio) as usize,
        height: (from.height as f64 / ratio) as usize,
    };
    if inner.width == 0 || inner.height == 0 {
        return Err(ImageError::TooNarrow { from, to });
    }
    let margin = |outer: usize, inner: usize| outer.saturating_sub(inner) / 2;
    let (left, top) = (margin(to.width, inner.width), margin(to.height, inner.height));
    Ok(Placement { inner, left, top })
}

/// openpi-client's `resize_with_pad`: Pillow's bilinear resize on 8 bits
/// (`packages/openpi-client/src/openpi_client/image_tools.py`). An image that has the size already
/// is passed on.
pub(super) struct BilinearPad {
    size: Size,
    plan: Option<(Size, Placement, Resizer)>,
}

impl BilinearPad {
    pub(super) fn new(size: Size) -> Self {
        Self { size, plan: None }
    }

    pub(super) fn size(&self) -> Size {
        self.size
    }

    pub(super) fn apply(&mut self, image: View<'_>, out: &mut Vec<u8>) -> Result<(), ImageError> {
        out.clear();
        if image.size == self.size {
            out.extend_from_slice(image.pixels);
            return Ok(());
        }
        let plan = match self.plan.take() {
            Some(plan) if plan.0 == image.size => plan,
            _ => {
                let placement = placement(image.size, self.size)?;
                let resizer = Resizer::with_filter(Filter::Bilinear, placement.inner)?;
                (image.size, placement, resizer)
            }
        };
        let (_, Placement { inner, left, top }, resizer) = self.plan.insert(plan);
        let row_bytes = self.size.width * 3;
        out.resize(row_bytes * self.size.height, 0);
        let rows = out.chunks_exact_mut(row_bytes).skip(*top).take(inner.height);
        resizer.apply_rows(image, rows.map(|row| &mut row[*left * 3..(*left + inner.width) * 3]));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sizes_are_cut_and_centred() {
        let size = |width, height| Size { width, height };
        let place = |width, height| placement(size(width, height), size(224, 224)).unwrap();
        let placed = |inner, left, top| Placement { inner, left, top };
        assert_eq!(place(640, 480), placed(size(224, 168), 0, 28));
        assert_eq!(place(300, 200), placed(size(224, 149), 0, 37));
        assert_eq!(place(96, 72), placed(size(224, 168), 0, 28));
        assert_eq!(place(480, 641), placed(size(167, 224), 28, 0));
        let error = placement(size(8192, 8), size(224, 224)).unwrap_err().to_string();
        assert!(error.contains("8192 x 8"), "{error}");
    }
}
