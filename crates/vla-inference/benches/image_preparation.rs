//! Duration of each step of image preparation, and of whole pipelines, on one core.
//!
//!     cargo bench -p vla-inference --bench image_preparation [-- --json]
//!
//! `tools/bench/image_preparation.py` runs this next to Pillow, OpenCV and TensorFlow, on the same
//! pictures.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use vla_inference::golden::image_preparation::pipeline;
use vla_inference::observation::{
    EncodedImage, Layout, Operation, Preparation, Preparer, RgbImage, Size, Step,
};

/// Time spent on each line, and the number of repetitions that are timed together.
const BUDGET: Duration = Duration::from_millis(400);

/// A smooth picture with texture, the same as in the script.
fn picture(width: usize, height: usize) -> RgbImage {
    let mut pixels = Vec::with_capacity(width * height * 3);
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        let values = [x * 255 / width, y * 255 / height, ((x * y) >> 5) & 255];
        for (channel, value) in values.into_iter().enumerate() {
            let hash = (x * 73_856_093) ^ (y * 19_349_663) ^ (channel * 83_492_791);
            pixels.push(((value + (hash >> 7 & 15)) & 255) as u8);
        }
    }
    RgbImage::new(width, height, pixels).unwrap()
}

/// Shortest and median microseconds of a call.
fn time(mut work: impl FnMut()) -> (f64, f64) {
    work();
    let mut samples = Vec::new();
    let start = Instant::now();
    while start.elapsed() < BUDGET || samples.len() < 5 {
        let before = Instant::now();
        work();
        samples.push(before.elapsed().as_secs_f64() * 1e6);
    }
    samples.sort_by(f64::total_cmp);
    (samples[0], samples[samples.len() / 2])
}

struct Line {
    name: String,
    size: (usize, usize),
    shortest: f64,
    median: f64,
}

fn preparation(operations: &[Operation]) -> Preparation {
    Preparation::new(operations.iter().map(|operation| (*operation).into()).collect()).unwrap()
}

/// A step that keeps the size, by itself: a preparation must set the size, which the second step
/// would do for images of another one.
fn alone(operation: Operation, size: Size) -> Preparation {
    let last = Step { operation: Operation::Bicubic(size), unless_size: Some(size) };
    Preparation::new(vec![operation.into(), last]).unwrap()
}

/// Every step alone.
fn steps(lines: &mut Vec<Line>, (width, height): (usize, usize)) {
    let image = picture(width, height);
    let size = Size::square(224);
    let keeping = [Operation::Rotate180, Operation::Jpeg, Operation::CenterCrop(0.9)];
    let sizing = [
        Operation::Bicubic(size),
        Operation::Bilinear(size),
        Operation::BilinearPad(size),
        Operation::Lanczos3(size),
        Operation::Area(size),
    ];
    for operation in keeping {
        let mut preparer = Preparer::new(alone(operation, image.size())).unwrap();
        let (shortest, median) = time(|| {
            black_box(preparer.bytes(black_box(&image)).unwrap());
        });
        let name = operation.name().to_owned();
        lines.push(Line { name, size: (width, height), shortest, median });
    }
    for operation in sizing {
        let mut preparer = Preparer::new(preparation(&[operation])).unwrap();
        let (shortest, median) = time(|| {
            black_box(preparer.bytes(black_box(&image)).unwrap());
        });
        let name = operation.name().to_owned();
        lines.push(Line { name, size: (width, height), shortest, median });
    }
    let mut preparer = Preparer::new(preparation(&[Operation::TorchBilinearPad(size)])).unwrap();
    let mut out = Vec::new();
    let (shortest, median) = time(|| {
        preparer.floats(black_box(&image), Layout::Chw, &mut out).unwrap();
        black_box(&out);
    });
    let name = "torch_bilinear_pad".to_owned();
    lines.push(Line { name, size: (width, height), shortest, median });
}

fn pipelines(lines: &mut Vec<Line>, (width, height): (usize, usize)) {
    let image = picture(width, height);
    for name in ["libero", "bridge", "oft_aloha"] {
        let mut preparer = Preparer::new(pipeline(name, 224).unwrap()).unwrap();
        let (shortest, median) = time(|| {
            black_box(preparer.bytes(black_box(&image)).unwrap());
        });
        lines.push(Line { name: name.to_owned(), size: (width, height), shortest, median });
    }
}

fn cameras(lines: &mut Vec<Line>, (width, height): (usize, usize)) {
    for (encoding, step, rows) in [
        ("bgr8", 3 * width, height),
        ("bgra8", 4 * width, height),
        ("yuyv", 2 * width, height),
        ("nv12", width, height * 3 / 2),
        ("bayer_rggb8", width, height),
    ] {
        let data: Vec<u8> = (0..step * rows).map(|i| ((i * 2_654_435_761) >> 12) as u8).collect();
        let message = EncodedImage::Raw {
            width: width as u32,
            height: height as u32,
            encoding: encoding.to_owned(),
            step: step as u32,
            data: data.into(),
        };
        let (shortest, median) = time(|| {
            black_box(black_box(&message).decode().unwrap());
        });
        lines.push(Line { name: encoding.to_owned(), size: (width, height), shortest, median });
    }
}

fn main() {
    let mut lines = Vec::new();
    for size in [(640, 480), (1280, 720)] {
        steps(&mut lines, size);
        pipelines(&mut lines, size);
        cameras(&mut lines, size);
    }
    steps_of_libero(&mut lines);
    let json = std::env::args().any(|argument| argument == "--json");
    for Line { name, size: (width, height), shortest, median } in lines {
        if json {
            println!(
                "{{\"name\": \"{name}\", \"width\": {width}, \"height\": {height}, \
                \"shortest_us\": {shortest:.1}, \"median_us\": {median:.1}}}"
            );
        } else {
            println!(
                "{name:<20} {width:>5} x {height:<5} {shortest:>9.1} us  median {median:>9.1}"
            );
        }
    }
}

/// LIBERO's own image size, and the crop at the model's.
fn steps_of_libero(lines: &mut Vec<Line>) {
    pipelines(lines, (256, 256));
    let image = picture(224, 224);
    let mut preparer = Preparer::new(alone(Operation::CenterCrop(0.9), image.size())).unwrap();
    let (shortest, median) = time(|| {
        black_box(preparer.bytes(black_box(&image)).unwrap());
    });
    lines.push(Line { name: "center_crop".to_owned(), size: (224, 224), shortest, median });
}
