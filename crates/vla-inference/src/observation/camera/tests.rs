#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

fn raw(encoding: &str, step: u32, data: &'static [u8]) -> EncodedImage {
    sized(2, 2, encoding, step, data)
}

fn sized(width: u32, height: u32, encoding: &str, step: u32, data: &[u8]) -> EncodedImage {
    let data = Bytes::copy_from_slice(data);
    EncodedImage::Raw { width, height, encoding: encoding.into(), step, data }
}

#[test]
fn encodings_and_padding() {
    let rgb = raw("rgb8", 6, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]).decode().unwrap();
    let bgr = raw("bgr8", 7, &[3, 2, 1, 6, 5, 4, 0, 9, 8, 7, 12, 11, 10, 0]).decode().unwrap();
    let bgra =
        raw("bgra8", 8, &[3, 2, 1, 99, 6, 5, 4, 99, 9, 8, 7, 99, 12, 11, 10, 99]).decode().unwrap();
    assert_eq!(rgb, bgr);
    assert_eq!(rgb, bgra);
    // the last row's padding is missing
    let grey = raw("mono8", 3, &[1, 2, 0, 3, 4]).decode().unwrap();
    assert_eq!(grey.pixels(), [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]);
}

#[test]
fn rgb8_shares_the_message() {
    let message = Bytes::from_static(&[9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 9]);
    let data = message.slice(1..13);
    let image = EncodedImage::Raw { width: 2, height: 2, encoding: "rgb8".into(), step: 6, data };
    let rgb = image.decode().unwrap();
    assert_eq!(rgb.pixels(), &message[1..13]);
    assert_eq!(rgb.pixels().as_ptr(), message[1..].as_ptr());
}

#[test]
fn disagreements_are_named() {
    let text = |image: EncodedImage| image.decode().unwrap_err().to_string();
    assert!(text(raw("bayer_rggb16", 2, &[0; 4])).contains("'bayer_rggb16'"));
    assert!(text(raw("rgb8", 5, &[0; 10])).contains("step 5"));
    assert!(text(raw("rgb8", 6, &[0; 11])).contains("11 bytes"));
    assert!(text(raw("rgb8", 6, &[0; 13])).contains("13 bytes"));
    assert!(text(sized(0, 2, "rgb8", 6, &[])).contains("0 x 2"));
    assert!(text(sized(2, u32::MAX, "rgb8", u32::MAX, &[])).contains("pixels"));
}

/// OpenCV's values: a grey, and a saturated colour with limited-range luma.
#[test]
fn yuv_layouts() {
    let grey = [235, 235, 235, 235, 128, 128];
    assert_eq!(sized(2, 2, "nv12", 2, &grey).decode().unwrap().pixels(), [255; 12]);
    let red = [255, 0, 0].repeat(4);
    for (encoding, step, data) in [
        ("uyvy", 4, &[90_u8, 82, 240, 82, 90, 82, 240, 82][..]),
        ("yuv422", 5, &[90, 82, 240, 82, 9, 90, 82, 240, 82]),
        ("yuyv", 4, &[82, 90, 82, 240, 82, 90, 82, 240]),
        ("yuv422_yuy2", 6, &[82, 90, 82, 240, 9, 9, 82, 90, 82, 240, 9, 9]),
        ("nv12", 2, &[82, 82, 82, 82, 90, 240]),
        ("nv21", 3, &[82, 82, 9, 82, 82, 9, 240, 90]),
        ("nv24", 2, &[82, 82, 82, 82, 90, 240, 90, 240, 90, 240, 90, 240]),
        ("nv24", 3, &[82, 82, 9, 82, 82, 9, 90, 240, 90, 240, 9, 9, 90, 240, 90, 240, 9]),
    ] {
        let pixels = sized(2, 2, encoding, step, data).decode().unwrap();
        let distance = pixels.pixels().iter().zip(&red).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(distance <= Some(2), "{encoding} {step}: {:?}", pixels.pixels());
    }
    // An odd width ends within a pair, an odd height within a row of chroma.
    let odd = sized(3, 1, "uyvy", 8, &[128, 16, 128, 235, 128, 125, 128, 0]).decode().unwrap();
    assert_eq!(odd.pixels(), [0, 0, 0, 255, 255, 255, 127, 127, 127]);
    let odd = sized(1, 3, "nv12", 2, &[16, 0, 235, 0, 125, 0, 128, 128, 128, 128]);
    assert_eq!(odd.decode().unwrap().pixels(), [0, 0, 0, 255, 255, 255, 127, 127, 127]);
}

#[test]
fn yuv_and_bayer_sizes_are_checked() {
    let text = |image: EncodedImage| image.decode().unwrap_err().to_string();
    assert!(text(sized(3, 2, "uyvy", 6, &[0; 12])).contains("3 pixels of uyvy take 8"));
    assert!(text(sized(3, 2, "nv21", 3, &[0; 9])).contains("3 pixels of nv21 take 4"));
    assert!(text(sized(2, 2, "nv12", 2, &[0; 5])).contains("5 bytes but 3 rows of step 2"));
    assert!(text(sized(2, 2, "nv24", 2, &[0; 11])).contains("11 bytes but 6 rows of step 2"));
    assert!(text(sized(4, 4, "bayer_rggb8", 3, &[0; 12])).contains("step 3"));
    assert!(text(sized(2, 9, "bayer_rggb8", 2, &[0; 18])).contains("2 x 9"));
}

#[test]
fn bayer_patterns_give_flat_colours_back() {
    for (encoding, pattern) in [
        ("bayer_rggb8", [[0, 1], [1, 2]]),
        ("bayer_bggr8", [[2, 1], [1, 0]]),
        ("bayer_gbrg8", [[1, 2], [0, 1]]),
        ("bayer_grbg8", [[1, 0], [2, 1]]),
    ] {
        let colour = [200_u8, 90, 10];
        for (width, height) in [(3, 3), (4, 5), (7, 4)] {
            let step = width + 2;
            let places = (0..height).flat_map(|y| (0..step).map(move |x| (y, x)));
            let data: Vec<u8> = places
                .map(|(y, x)| if x < width { colour[pattern[y % 2][x % 2]] } else { 77 })
                .collect();
            let image = sized(width as u32, height as u32, encoding, step as u32, &data);
            let flat = colour.repeat(width * height);
            assert_eq!(image.decode().unwrap().pixels(), flat, "{encoding} {width} x {height}");
        }
    }
}

/// A pixel by itself, from the definitions; coordinates are those of the image's interior for Bayer
/// patterns.
fn pixel_alone(
    form: &Form,
    data: &[u8],
    step: usize,
    height: usize,
    at: (usize, usize),
) -> [u8; 3] {
    let (x, y) = at;
    let byte = |y: usize, x: usize| data[y * step + x];
    let yuv = |luma: u8, u: u8, v: u8| {
        let [u, v] = [u, v].map(|x| i32::from(x) - 128);
        [1_673_527 * v, -852_492 * v - 409_993 * u, 2_116_026 * u].map(|chroma| {
            let luma = 1_220_542 * (i32::from(luma) - 16).max(0);
            ((luma + chroma + (1 << 19)) >> 20).clamp(0, 255) as u8
        })
    };
    let pair = x / 2 * 2;
    match form {
        Form::Channels(order) => {
            let places = match order {
                Order::Rgb | Order::Rgba => [0, 1, 2],
                Order::Bgr | Order::Bgra => [2, 1, 0],
                Order::Grey => [0, 0, 0],
            };
            places.map(|place| byte(y, x * order.bytes() + place))
        }
        Form::Yuv(YuvLayout::Uyvy) => {
            yuv(byte(y, 2 * x + 1), byte(y, 2 * pair), byte(y, 2 * pair + 2))
        }
        Form::Yuv(YuvLayout::Yuyv) => {
            yuv(byte(y, 2 * x), byte(y, 2 * pair + 1), byte(y, 2 * pair + 3))
        }
        Form::Yuv(YuvLayout::Nv12) => {
            yuv(byte(y, x), byte(height + y / 2, pair), byte(height + y / 2, pair + 1))
        }
        Form::Yuv(YuvLayout::Nv21) => {
            yuv(byte(y, x), byte(height + y / 2, pair + 1), byte(height + y / 2, pair))
        }
        Form::Yuv(YuvLayout::Nv24) => {
            let chroma = (height + 2 * y) * step + 2 * x;
            yuv(byte(y, x), data[chroma], data[chroma + 1])
        }
        Form::Bayer(pattern) => {
            // The mean of the nearest samples of each colour: the own one, beside, above, diagonal.
            let mut out = [0; 3];
            for (colour, out) in out.iter_mut().enumerate() {
                let near = |(dy, dx): (usize, usize)| {
                    let (y, x) = (y + dy - 1, x + dx - 1);
                    (pattern[y % 2][x % 2] == colour).then(|| u32::from(byte(y, x)))
                };
                let rings: [&[(usize, usize)]; 3] = [
                    &[(1, 1)],
                    &[(0, 1), (1, 0), (1, 2), (2, 1)],
                    &[(0, 0), (0, 2), (2, 0), (2, 2)],
                ];
                let found = rings
                    .iter()
                    .map(|ring| ring.iter().filter_map(|at| near(*at)).collect::<Vec<_>>())
                    .find(|samples| !samples.is_empty())
                    .unwrap();
                let count = found.len() as u32;
                *out = ((found.iter().sum::<u32>() + count / 2) / count) as u8;
            }
            out
        }
    }
}

/// Images wide enough for whole vector registers, and a rest.
#[test]
fn wide_images_are_converted_pixel_by_pixel() {
    let mut rng = fastrand::Rng::with_seed(7);
    for (name, encoding) in NAMES {
        for (width, height) in [(257, 5), (130, 4), (67, 6)] {
            let form = encoding.form();
            let (row, rows) = match &form {
                Form::Channels(order) => (width * order.bytes(), height),
                Form::Yuv(yuv) => (yuv.row_bytes(width), yuv.rows(height)),
                Form::Bayer(_) => (width, height),
            };
            let step = row + 3;
            let data: Vec<u8> = (0..step * rows).map(|_| rng.u8(..)).collect();
            let image = sized(width as u32, height as u32, name, step as u32, &data);
            let decoded = image.decode().unwrap();
            for (i, pixel) in decoded.pixels().as_chunks::<3>().0.iter().enumerate() {
                let (mut x, mut y) = (i % width, i / width);
                if matches!(form, Form::Bayer(_)) {
                    (x, y) = (x.clamp(1, width - 2), y.clamp(1, height - 2));
                }
                let alone = pixel_alone(&form, &data, step, height, (x, y));
                assert_eq!(*pixel, alone, "{name} {width} x {height}: {x}, {y}");
            }
        }
    }
}

proptest! {
    #[test]
    fn small_images_of_every_encoding_do_not_panic(
        (width, height) in (1u32..9, 1u32..9),
        padding in 0u32..4,
        which in 0usize..NAMES.len(),
        missing in 0usize..3,
        seed in any::<u8>(),
    ) {
        let (name, encoding) = NAMES[which];
        let (row, rows) = match encoding.form() {
            Form::Channels(order) => (width as usize * order.bytes(), height as usize),
            Form::Yuv(yuv) => (yuv.row_bytes(width as usize), yuv.rows(height as usize)),
            Form::Bayer(_) => (width as usize, height as usize),
        };
        let step = row + padding as usize;
        let length = (step * rows).saturating_sub(missing);
        let data: Vec<u8> = (0..length).map(|i| (i as u8).wrapping_mul(seed)).collect();
        let decoded = sized(width, height, name, step as u32, &data).decode();
        let small = matches!(encoding.form(), Form::Bayer(_)) && width.min(height) < 3;
        prop_assert_eq!(decoded.is_ok(), missing <= padding as usize && !small);
    }
}

proptest! {
    #[test]
    fn nothing_panics(
        width in 0u32..9000,
        height in 0u32..9000,
        step in any::<u32>(),
        encoding in "(rgb8|bgr8|rgba8|bgra8|mono8|uyvy|yuyv|nv12|nv21|nv24|bayer_gbrg8|x|)",
        data in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        let _ = sized(width, height, &encoding, step, &data).decode();
    }
}
