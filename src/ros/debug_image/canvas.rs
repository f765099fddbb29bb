//! An RGB picture that `embedded-graphics` draws into.

use std::{convert::Infallible, ops::Range};

use embedded_graphics::{
    Pixel,
    draw_target::DrawTarget,
    geometry::{OriginDimensions, Size},
    pixelcolor::{Rgb888, RgbColor},
    primitives::Rectangle,
};
use vla_inference::observation::RgbImage;

/// Rows of RGB bytes.
pub(super) struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Canvas {
    /// Of one colour.
    pub fn new(width: usize, height: usize, colour: Rgb888) -> Self {
        let pixel = [colour.r(), colour.g(), colour.b()];
        Self { width, height, pixels: pixel.repeat(width * height) }
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn height(&self) -> usize {
        self.height
    }

    pub fn into_pixels(self) -> Vec<u8> {
        self.pixels
    }

    /// Draws an image over a rectangle (left, top, width, height) within the picture: each pixel is
    /// the mean of those that it covers.
    #[allow(clippy::cast_possible_truncation)] // means of bytes
    pub fn image(&mut self, image: &RgbImage, [left, top, width, height]: [usize; 4]) {
        let span = |index: usize, count: usize, source: usize| {
            let begin = index * source / count;
            begin..((index + 1) * source / count).clamp(begin + 1, source)
        };
        let columns: Vec<_> = (0..width).map(|x| span(x, width, image.width())).collect();
        for y in 0..height {
            let rows = span(y, height, image.height());
            for (x, columns) in columns.iter().enumerate() {
                let mut sums = [0; 3];
                for row in rows.clone() {
                    let begin = 3 * (row * image.width() + columns.start);
                    let pixels = &image.pixels()[begin..begin + 3 * columns.len()];
                    for pixel in pixels.chunks_exact(3) {
                        sums.iter_mut().zip(pixel).for_each(|(sum, c)| *sum += usize::from(*c));
                    }
                }
                let count = rows.len() * columns.len();
                let at = 3 * ((top + y) * self.width + left + x);
                for (target, sum) in self.pixels[at..at + 3].iter_mut().zip(sums) {
                    *target = (sum / count) as u8;
                }
            }
        }
    }
}

impl OriginDimensions for Canvas {
    #[allow(clippy::cast_possible_truncation)] // a picture of some hundred pixels
    fn size(&self) -> Size {
        Size::new(self.width as u32, self.height as u32)
    }
}

impl Canvas {
    /// The part of a range of coordinates that is within the picture.
    fn within(begin: i32, length: u32, most: usize) -> Range<usize> {
        let bounded = |value: i64| usize::try_from(value).unwrap_or(0).min(most);
        let begin = i64::from(begin);
        bounded(begin)..bounded(begin + i64::from(length))
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    /// Pixels outside of the picture are left out.
    fn draw_iter<I>(&mut self, pixels: I) -> Result<(), Self::Error>
    where
        I: IntoIterator<Item = Pixel<Self::Color>>,
    {
        for Pixel(point, colour) in pixels {
            let (Ok(x), Ok(y)) = (usize::try_from(point.x), usize::try_from(point.y)) else {
                continue;
            };
            if x < self.width && y < self.height {
                let at = 3 * (y * self.width + x);
                self.pixels[at..at + 3].copy_from_slice(&[colour.r(), colour.g(), colour.b()]);
            }
        }
        Ok(())
    }

    /// Whole rows: most of a picture is bars and grounds.
    fn fill_solid(&mut self, area: &Rectangle, colour: Self::Color) -> Result<(), Self::Error> {
        let columns = Self::within(area.top_left.x, area.size.width, self.width);
        for row in Self::within(area.top_left.y, area.size.height, self.height) {
            let begin = 3 * row * self.width;
            let pixels = &mut self.pixels[begin + 3 * columns.start..begin + 3 * columns.end];
            for pixel in pixels.chunks_exact_mut(3) {
                pixel.copy_from_slice(&[colour.r(), colour.g(), colour.b()]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use embedded_graphics::geometry::Point;

    use super::*;

    #[test]
    fn images_are_reduced_by_means_and_enlarged_by_repetition() {
        let image = RgbImage::new(2, 2, vec![0, 0, 0, 10, 20, 30, 20, 40, 60, 30, 60, 90]).unwrap();
        let mut canvas = Canvas::new(3, 2, Rgb888::BLACK);
        canvas.image(&image, [2, 1, 1, 1]);
        assert_eq!(canvas.into_pixels(), [&[0; 15][..], &[15, 30, 45]].concat());
        let mut canvas = Canvas::new(4, 2, Rgb888::BLACK);
        canvas.image(&image, [0, 0, 4, 2]);
        assert_eq!(canvas.into_pixels()[..12], [0, 0, 0, 0, 0, 0, 10, 20, 30, 10, 20, 30]);
    }

    #[test]
    fn points_outside_are_left_out() {
        let mut canvas = Canvas::new(2, 1, Rgb888::BLACK);
        let points = [(-1, 0), (2, 0), (0, 1), (1, 0)];
        let points = points.map(|(x, y)| Pixel((x, y).into(), Rgb888::WHITE));
        canvas.draw_iter(points).unwrap();
        for (x, y, width, height) in [(-5, 0, 5, 9), (2, 0, 7, 1), (0, 1, 2, 2), (1, -3, 9, 4)] {
            let area = Rectangle::new(Point::new(x, y), Size::new(width, height));
            canvas.fill_solid(&area, Rgb888::RED).unwrap();
        }
        assert_eq!(canvas.into_pixels(), [0, 0, 0, 255, 0, 0]);
    }
}
