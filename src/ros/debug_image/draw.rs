//! Draws a picture: instruction, state and reason above, the cameras, times and motion below.

use embedded_graphics::{
    Drawable,
    geometry::{Point, Size},
    mono_font::{MonoFont, MonoTextStyle, iso_8859_1::FONT_6X13, iso_8859_1::FONT_9X15_BOLD},
    pixelcolor::{Rgb888, RgbColor},
    primitives::{Primitive, PrimitiveStyle, Rectangle},
    text::{Baseline, Text},
};
use vla_control::State;
use vla_inference::observation::RgbImage;

use super::canvas::Canvas;
use super::content::{CameraView, Content, Row};

/// Of the picture, pixels.
const WIDTH: usize = 480;
const MARGIN: usize = 4;
/// Of a line of text and of a row of the motion.
const LINE: usize = 14;
/// Of the largest image, and of the place of a missing one.
const CAMERA_HEIGHT: usize = 480;
const ABSENT_HEIGHT: usize = 60;
/// Left and right end of the bars; names stand before, numbers behind them.
const BAR: [usize; 2] = [96, 330];
/// Bars show the limits with so much of the distance between them on either side.
const BEYOND: f64 = 0.15;
/// Most lines of a text.
const LINES: usize = 3;

const BACKGROUND: Rgb888 = Rgb888::new(24, 26, 30);
const TROUGH: Rgb888 = Rgb888::new(52, 56, 62);
const LIMIT: Rgb888 = Rgb888::new(230, 70, 60);
const EXECUTED: Rgb888 = Rgb888::new(80, 190, 120);
const DESIRED: Rgb888 = Rgb888::new(250, 210, 80);
const QUIET: Rgb888 = Rgb888::new(170, 176, 184);

/// A camera's place and its image, or why there is none.
struct Tile {
    place: [usize; 4],
    name: String,
    image: Result<RgbImage, String>,
}

/// Draws the picture.
pub(super) fn draw(content: &Content) -> Canvas {
    let text_width = WIDTH - 2 * MARGIN;
    let instruction = match content.instruction.as_str() {
        "" => vec!["(no instruction)".to_owned()],
        text => wrap(text, text_width, &FONT_9X15_BOLD),
    };
    let name = content.state.map_or("?", |state| state.name());
    let state = wrap(&format!("{name}  {}", content.detail), text_width, &FONT_6X13);
    let mut times = wrap(&content.times, text_width, &FONT_6X13);
    let times_count = times.len();
    times.extend(match content.stages.as_str() {
        "" => Vec::new(),
        stages => wrap(&format!("stages, ms: {stages}"), text_width, &FONT_6X13),
    });
    let state_top = MARGIN + (LINE + 2) * instruction.len() + MARGIN;
    let cameras_top = state_top + LINE * state.len() + 2 * MARGIN;
    let (tiles, cameras_height) = tiles(&content.cameras, cameras_top);
    let times_top = cameras_top + cameras_height + MARGIN;
    let rows_top = times_top + LINE * times.len() + MARGIN;
    let legend = usize::from(!content.rows.is_empty());
    let height = rows_top + LINE * (content.rows.len() + legend) + MARGIN;

    let mut canvas = Canvas::new(WIDTH, height, BACKGROUND);
    let canvas = &mut canvas;
    for (index, line) in instruction.iter().enumerate() {
        let top = MARGIN + (LINE + 2) * index;
        write(canvas, line, [MARGIN, top], &FONT_9X15_BOLD, Rgb888::WHITE);
    }
    let (colour, ink) = colours(content.state);
    fill(canvas, [0, state_top, WIDTH, LINE * state.len() + MARGIN], colour);
    for (index, line) in state.iter().enumerate() {
        write(canvas, line, [MARGIN, state_top + 2 + LINE * index], &FONT_6X13, ink);
    }
    tiles.iter().for_each(|tile| draw_tile(canvas, tile));
    for (index, line) in times.iter().enumerate() {
        let ink = if index < times_count { Rgb888::WHITE } else { QUIET };
        write(canvas, line, [MARGIN, times_top + LINE * index], &FONT_6X13, ink);
    }
    for (index, row) in content.rows.iter().enumerate() {
        draw_row(canvas, row, rows_top + LINE * index);
    }
    if legend == 1 {
        let top = rows_top + LINE * content.rows.len();
        // The last two below their numbers.
        let numbers = BAR[1] + MARGIN;
        for (text, left, colour) in [
            ("limits", BAR[0], LIMIT),
            (" desired", numbers, DESIRED),
            ("executed", numbers + 9 * 6, EXECUTED),
        ] {
            write(canvas, text, [left, top], &FONT_6X13, colour);
        }
    }
    std::mem::replace(canvas, Canvas::new(0, 0, BACKGROUND))
}

/// Decodes the images and gives each its place; returns the height of all.
fn tiles(cameras: &[CameraView], top: usize) -> (Vec<Tile>, usize) {
    let columns = match cameras.len() {
        0 | 1 => 1,
        2..=4 => 2,
        _ => 3,
    };
    let most = [WIDTH / columns, CAMERA_HEIGHT / columns];
    let (mut tiles, mut height) = (Vec::new(), 0);
    for row in cameras.chunks(columns) {
        let mut tallest = 0;
        for (column, camera) in row.iter().enumerate() {
            let image = match camera.image.as_ref().map(|image| image.decode()) {
                Some(image) => image.map_err(|error| error.to_string()),
                None => Err("no image has arrived".into()),
            };
            let size = image.as_ref().map_or([most[0], ABSENT_HEIGHT], |image| fit(image, most));
            let place = [column * most[0], top + height, size[0], size[1]];
            tallest = tallest.max(size[1]);
            let name = if cameras.len() == 1 { String::new() } else { camera.name.to_string() };
            tiles.push(Tile { place, name, image });
        }
        height += tallest;
    }
    (tiles, height)
}

/// The largest size of an image's shape within a width and a height.
fn fit(image: &RgbImage, [width, height]: [usize; 2]) -> [usize; 2] {
    let scaled = (image.height() * width / image.width().max(1)).max(1);
    if scaled <= height {
        [width, scaled]
    } else {
        [(image.width() * height / image.height().max(1)).max(1), height]
    }
}

fn draw_tile(canvas: &mut Canvas, Tile { place, name, image }: &Tile) {
    let [left, top, width, _] = *place;
    match image {
        Ok(image) => canvas.image(image, *place),
        Err(text) => {
            fill(canvas, *place, TROUGH);
            for (index, line) in wrap(text, width - 2 * MARGIN, &FONT_6X13).iter().enumerate() {
                let at = [left + MARGIN, top + LINE * (1 + index)];
                write(canvas, line, at, &FONT_6X13, Rgb888::WHITE);
            }
        }
    }
    write(canvas, name, [left + MARGIN, top + 1], &FONT_6X13, DESIRED);
}

fn draw_row(canvas: &mut Canvas, row: &Row, top: usize) {
    let name: String = row.name.chars().take(15).collect();
    write(canvas, &name, [MARGIN, top], &FONT_6X13, Rgb888::WHITE);
    let [left, right] = BAR;
    fill(canvas, [left, top + 2, right - left, LINE - 4], TROUGH);
    let x = |value: f64| bar_position(row, value);
    let zero =
        x(if row.low < 0.0 && 0.0 < row.high { 0.0 } else { f64::midpoint(row.low, row.high) });
    let executed = x(row.executed);
    let (begin, end) = (zero.min(executed), zero.max(executed));
    fill(canvas, [begin, top + 4, (end - begin).max(1), LINE - 8], EXECUTED);
    fill(canvas, [zero, top + 2, 1, LINE - 4], QUIET);
    for limit in [row.low, row.high] {
        fill(canvas, [x(limit), top + 1, 2, LINE - 2], LIMIT);
    }
    let desired = row.desired.map_or_else(
        || "-".into(),
        |desired| {
            fill(canvas, [x(desired), top + 1, 3, LINE - 2], DESIRED);
            format!("{desired:+.3}")
        },
    );
    let text = format!("{desired:>8} {:+8.3} {}", row.executed, row.unit);
    write(canvas, &text, [right + MARGIN, top], &FONT_6X13, Rgb888::WHITE);
}

/// Where a value is on its bar; one that is not finite or beyond it is at the end.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
fn bar_position(row: &Row, value: f64) -> usize {
    let [left, right] = BAR;
    let range = row.high - row.low;
    let share = (value - row.low + BEYOND * range) / (range * (1.0 + 2.0 * BEYOND));
    let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
    left + (share * (right - left - 3) as f64) as usize
}

/// Colours of a state: its ground, and its text.
fn colours(state: Option<State>) -> (Rgb888, Rgb888) {
    match state {
        Some(State::Running) => (Rgb888::new(30, 120, 60), Rgb888::WHITE),
        Some(State::Holding) => (Rgb888::new(240, 180, 40), Rgb888::BLACK),
        Some(State::Fault | State::Estopped) => (Rgb888::new(190, 30, 30), Rgb888::WHITE),
        _ => (Rgb888::new(70, 78, 90), Rgb888::WHITE),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)] // some hundred pixels
fn fill(canvas: &mut Canvas, [left, top, width, height]: [usize; 4], colour: Rgb888) {
    let corner = Point::new(left as i32, top as i32);
    let area = Rectangle::new(corner, Size::new(width as u32, height as u32));
    // Infallible.
    let _ = area.into_styled(PrimitiveStyle::with_fill(colour)).draw(canvas);
}

#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)] // some hundred pixels
fn write(canvas: &mut Canvas, text: &str, at: [usize; 2], font: &MonoFont<'_>, colour: Rgb888) {
    let at = Point::new(at[0] as i32, at[1] as i32);
    let style = MonoTextStyle::new(font, colour);
    let _ = Text::with_baseline(text, at, style, Baseline::Top).draw(canvas);
}

/// Lines of at most that many pixels, broken at spaces where possible; more than [`LINES`] are cut.
fn wrap(text: &str, width: usize, font: &MonoFont<'_>) -> Vec<String> {
    let most = (width / font.character_size.width as usize).max(1);
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut rest = word;
        loop {
            let used = lines.last().map_or(0, |line| line.chars().count());
            let space = usize::from(used != 0);
            let count = rest.chars().count();
            if let Some(line) = lines.last_mut()
                && used + space + count <= most
            {
                line.push_str(&" "[..space]);
                line.push_str(rest);
                break;
            }
            if used == 0 {
                // Longer than a line.
                let cut = rest.char_indices().nth(most).map_or(rest.len(), |(at, _)| at);
                if let Some(line) = lines.last_mut() {
                    line.push_str(&rest[..cut]);
                }
                rest = &rest[cut..];
            }
            lines.push(String::new());
        }
    }
    if LINES < lines.len() {
        lines.truncate(LINES);
        if let Some(last) = lines.last_mut() {
            *last = last.chars().take(most.saturating_sub(3)).collect();
            last.push_str("...");
        }
    }
    lines
}

#[cfg(test)]
mod tests;
