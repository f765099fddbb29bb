//! Plots as PNG, drawn with an embedded font: servers often have none installed.

use std::io::Cursor;
use std::sync::OnceLock;

use image::{ImageFormat, RgbImage};
use plotters::chart::MeshStyle;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::register_font;

use super::report::Report;
use super::step::{Paired, dimension_names};
use super::{EvalError, Metrics};

/// A palette for colour-blind readers (Okabe and Ito).
const RECORDED: RGBColor = RGBColor(0, 114, 178);
const PREDICTED: RGBColor = RGBColor(213, 94, 0);
const ACCENT: RGBColor = RGBColor(0, 158, 115);
const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(225, 225, 225);

/// Width of every plot, pixels.
const WIDTH: u32 = 1000;
/// Height of one dimension's curve, pixels.
const CURVE: u32 = 130;
/// Most points of a curve; there are fewer pixels.
const POINTS: usize = 2000;
/// Upper bounds of the histogram of bin distances.
const DISTANCES: [u32; 9] = [0, 1, 2, 4, 8, 16, 32, 64, 254];

/// A drawn plot.
#[derive(Debug, Clone)]
pub struct Plot {
    /// File name in the output folder.
    pub file: String,
    /// What it shows.
    pub caption: String,
    /// A PNG file.
    pub png: Vec<u8>,
}

type DrawError = Box<dyn std::error::Error + Send + Sync>;
type Drawn = Result<(), DrawError>;
type Area<'a> = DrawingArea<BitMapBackend<'a>, plotters::coord::Shift>;

/// Draws onto a white canvas and encodes it as PNG. The plotting library's own encoder would add a
/// second image library.
fn draw(
    file: &str,
    caption: &str,
    height: u32,
    paint: impl FnOnce(&Area<'_>) -> Drawn,
) -> Result<Plot, EvalError> {
    let failed = |what: String| EvalError::Plot { plot: file.to_owned(), what };
    static FONT: OnceLock<bool> = OnceLock::new();
    let registered = FONT.get_or_init(|| {
        register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT).is_ok()
    });
    if !registered {
        return Err(failed("the embedded font does not load".to_owned()));
    }
    let mut pixels = vec![0; (WIDTH * height * 3) as usize];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, (WIDTH, height)).into_drawing_area();
        let painted = area.fill(&WHITE).map_err(Into::into).and_then(|()| paint(&area));
        painted
            .and_then(|()| area.present().map_err(Into::into))
            .map_err(|error| failed(error.to_string()))?;
    }
    let mut png = Cursor::new(Vec::new());
    let image = RgbImage::from_raw(WIDTH, height, pixels)
        .ok_or_else(|| failed("its size does not fit".to_owned()))?;
    image.write_to(&mut png, ImageFormat::Png).map_err(|error| failed(error.to_string()))?;
    Ok(Plot { file: file.to_owned(), caption: caption.to_owned(), png: png.into_inner() })
}

/// All plots of a report: overall plots first, then the curves of at most `episodes` episodes.
pub fn all(report: &Report, pairs: &[Paired], episodes: usize) -> Result<Vec<Plot>, EvalError> {
    let mut plots = Vec::new();
    if report.overall.frames > 0 {
        plots.push(errors(&report.overall)?);
        if report.overall.bin_distance.is_some() {
            plots.push(distances(report, pairs)?);
        }
    }
    if let Some(plot) = latency(report, pairs)? {
        plots.push(plot);
    }
    for (index, episode) in report.episodes.iter().enumerate().take(episodes) {
        let own: Vec<&Paired> = pairs
            .iter()
            .filter(|pair| pair.step.bag == index && pair.prediction().is_some())
            .collect();
        if !own.is_empty() {
            let caption =
                format!("{}: predicted against recorded, by frame", episode.bag.display());
            plots.push(curves(
                &format!("curves_{index}.png"),
                &caption,
                &own,
                report.settings.policy.action_dim,
            )?);
        }
    }
    Ok(plots)
}

/// Lowest and highest value with some room, never empty.
fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
    if low > high {
        return (-1.0, 1.0);
    }
    let room = ((high - low) * 0.08).max(high.abs().max(low.abs()) * 1e-3).max(1e-9);
    (low - room, high + room)
}

type Panel<'a, 'b> = ChartBuilder<'a, 'b, BitMapBackend<'b>>;

/// A panel that shares its x axis with others; only the last one has labels.
fn panel_chart<'a, 'b>(panel: &'a Area<'b>, last: bool) -> Panel<'a, 'b> {
    let mut chart = ChartBuilder::on(panel);
    chart
        .margin_right(12)
        .margin_top(4)
        .set_label_area_size(LabelAreaPosition::Left, 70)
        .set_label_area_size(LabelAreaPosition::Bottom, if last { 24 } else { 6 });
    chart
}

fn draw_mesh(
    mut mesh: MeshStyle<'_, '_, RangedCoordf64, RangedCoordf64, BitMapBackend<'_>>,
    name: &str,
    last: bool,
) -> Drawn {
    mesh.y_desc(name).y_labels(4).x_labels(if last { 10 } else { 0 });
    mesh.bold_line_style(GRID).light_line_style(WHITE).axis_style(GRID);
    mesh.label_style(("sans-serif", 13).into_font().color(&INK))
        .axis_desc_style(("sans-serif", 15).into_font().color(&INK));
    mesh.draw()?;
    Ok(())
}

/// The legend of two curves; returns the area below it.
fn legend<'a>(area: &Area<'a>, names: [&str; 2]) -> Result<Area<'a>, DrawError> {
    let (legend, panels) = area.split_vertically(24);
    for (x, colour, name) in [(70, RECORDED, names[0]), (190, PREDICTED, names[1])] {
        legend.draw(&Rectangle::new([(x, 10), (x + 24, 14)], colour.filled()))?;
        let style = ("sans-serif", 16).into_font().color(&INK);
        legend.draw(&Text::new(name.to_owned(), (x + 30, 3), style))?;
    }
    Ok(panels)
}

/// Predicted and recorded values by frame, one panel per dimension.
fn curves(
    file: &str,
    caption: &str,
    own: &[&Paired],
    dimensions: usize,
) -> Result<Plot, EvalError> {
    let stride = own.len().div_ceil(POINTS).max(1);
    let own: Vec<&Paired> = own.iter().copied().step_by(stride).collect();
    let (first, last) = span(own.iter().map(|pair| pair.step.frame as f64));
    draw(file, caption, CURVE * dimensions as u32 + 40, |area| {
        let panels = legend(area, ["recorded", "predicted"])?;
        for (i, (panel, name)) in
            panels.split_evenly((dimensions, 1)).iter().zip(dimension_names(dimensions)).enumerate()
        {
            let predicted: Vec<_> = own
                .iter()
                .filter_map(|pair| {
                    Some((pair.step.frame as f64, *pair.prediction()?.action.get(i)?))
                })
                .collect();
            let recorded: Vec<_> = own
                .iter()
                .filter_map(|pair| {
                    let value = pair.recorded.as_ref()?.action.get(i).copied().flatten()?;
                    Some((pair.step.frame as f64, value))
                })
                .collect();
            let (low, high) = span(predicted.iter().chain(&recorded).map(|(_, value)| *value));
            let mut chart = panel_chart(panel, i + 1 == dimensions)
                .build_cartesian_2d(first..last, low..high)?;
            draw_mesh(chart.configure_mesh(), &name, i + 1 == dimensions)?;
            chart
                .draw_series(LineSeries::new(recorded.iter().copied(), RECORDED.stroke_width(2)))?;
            chart.draw_series(LineSeries::new(
                predicted.iter().copied(),
                PREDICTED.stroke_width(1),
            ))?;
            // A line of one point is invisible.
            if own.len() < 60 {
                chart.draw_series(
                    recorded.into_iter().map(|point| Circle::new(point, 3, RECORDED.filled())),
                )?;
                chart.draw_series(
                    predicted.into_iter().map(|point| Circle::new(point, 2, PREDICTED.filled())),
                )?;
            }
        }
        Ok(())
    })
}

/// Velocities at one time: vx, vy, vz in m/s, then the angular rates in rad/s.
pub struct MotionPoint {
    /// Seconds since the beginning.
    pub time_s: f64,
    /// Velocities of the recorded action.
    pub desired: [f64; 6],
    /// Velocities of the command.
    pub commanded: [f64; 6],
}

/// Desired and commanded velocities over time, one panel per dimension.
pub fn motion(file: &str, caption: &str, points: &[MotionPoint]) -> Result<Plot, EvalError> {
    let (first, last) = span(points.iter().map(|point| point.time_s));
    draw(file, caption, CURVE * 6 + 40, |area| {
        let panels = legend(area, ["desired", "commanded"])?;
        for (i, (panel, name)) in
            panels.split_evenly((6, 1)).iter().zip(dimension_names(7)).enumerate()
        {
            let (low, high) =
                span(points.iter().flat_map(|point| [point.desired[i], point.commanded[i]]));
            let mut chart =
                panel_chart(panel, i + 1 == 6).build_cartesian_2d(first..last, low..high)?;
            draw_mesh(chart.configure_mesh(), &name, i + 1 == 6)?;
            let desired = points.iter().map(|point| (point.time_s, point.desired[i]));
            let commanded = points.iter().map(|point| (point.time_s, point.commanded[i]));
            chart.draw_series(LineSeries::new(desired, RECORDED.stroke_width(2)))?;
            chart.draw_series(LineSeries::new(commanded, PREDICTED.stroke_width(1)))?;
        }
        Ok(())
    })
}

/// A bar with label and value, in row `place` from the top.
fn bar(
    area: &Area<'_>,
    place: i32,
    label: &str,
    share: f64,
    value: &str,
    colour: RGBColor,
) -> Drawn {
    const ROW: i32 = 26;
    const LEFT: i32 = 110;
    let full = WIDTH as i32 - LEFT - 160;
    let (top, length) = (34 + place * ROW, (share.clamp(0.0, 1.0) * f64::from(full)) as i32);
    area.draw(&Text::new(
        label.to_owned(),
        (14, top + 2),
        ("sans-serif", 16).into_font().color(&INK),
    ))?;
    area.draw(&Rectangle::new([(LEFT, top), (LEFT + full, top + 18)], GRID.mix(0.5).filled()))?;
    area.draw(&Rectangle::new([(LEFT, top), (LEFT + length.max(1), top + 18)], colour.filled()))?;
    area.draw(&Text::new(
        value.to_owned(),
        (LEFT + full + 8, top + 2),
        ("sans-serif", 16).into_font().color(&INK),
    ))?;
    Ok(())
}

fn title(area: &Area<'_>, text: &str) -> Drawn {
    area.draw(&Text::new(text.to_owned(), (14, 8), ("sans-serif", 18).into_font().color(&INK)))?;
    Ok(())
}

/// Normalized error of each dimension.
fn errors(metrics: &Metrics) -> Result<Plot, EvalError> {
    let caption =
        "Mean absolute error by dimension, normalized to the training data's q01..q99 (-1..1)";
    draw("errors.png", caption, 44 + 26 * metrics.dimensions.len() as u32, |area| {
        title(area, "normalized mean absolute error, and token accuracy")?;
        let worst = metrics
            .dimensions
            .iter()
            .filter_map(|dimension| dimension.normalized_mae)
            .fold(1e-12, f64::max);
        for (place, dimension) in metrics.dimensions.iter().enumerate() {
            let error = dimension.normalized_mae.unwrap_or(0.0);
            let value = match (dimension.normalized_mae, dimension.token_accuracy) {
                (Some(error), Some(hits)) => format!("{error:.4}   {:.1} %", hits * 100.0),
                (Some(error), None) => format!("{error:.4}"),
                (None, _) => "not recorded".to_owned(),
            };
            bar(area, place as i32, &dimension.name, error / worst, &value, PREDICTED)?;
        }
        Ok(())
    })
}

/// Histogram of the distances between predicted and recorded tokens, in bins.
fn distances(report: &Report, pairs: &[Paired]) -> Result<Plot, EvalError> {
    let mut counts = [0_u64; DISTANCES.len()];
    for (predicted, recorded) in pairs.iter().filter_map(Paired::both) {
        for (&a, b) in predicted.token_ids.iter().zip(&recorded.token_ids) {
            if let (Some(tokens), Some(b)) = (report.action_tokens, *b) {
                let distance = tokens.bin(a).abs_diff(tokens.bin(b));
                let place = DISTANCES
                    .iter()
                    .position(|&end| distance <= end)
                    .unwrap_or(DISTANCES.len() - 1);
                counts[place] += 1;
            }
        }
    }
    let total = counts.iter().sum::<u64>().max(1);
    let most = counts.iter().copied().max().unwrap_or(1).max(1);
    draw(
        "bins.png",
        "Distance of predicted from recorded tokens, in bins of 255",
        44 + 26 * DISTANCES.len() as u32,
        |area| {
            title(area, "tokens by distance in bins")?;
            let mut below = None;
            for (place, (&end, &count)) in DISTANCES.iter().zip(&counts).enumerate() {
                let label = match below {
                    Some(below) if below + 1 < end => format!("{} - {end}", below + 1),
                    _ => end.to_string(),
                };
                let value = format!("{count}   {:.1} %", count as f64 * 100.0 / total as f64);
                bar(area, place as i32, &label, count as f64 / most as f64, &value, RECORDED)?;
                below = Some(end);
            }
            Ok(())
        },
    )
}

/// Distribution of the total time.
fn latency(report: &Report, pairs: &[Paired]) -> Result<Option<Plot>, EvalError> {
    let Some(total) = report.latency_ms.get("total") else { return Ok(None) };
    let times: Vec<f64> = pairs
        .iter()
        .filter_map(Paired::prediction)
        .map(|prediction| prediction.stages.iter().map(|(_, milliseconds)| milliseconds).sum())
        .collect();
    const BARS: usize = 40;
    let low = times.iter().copied().fold(f64::INFINITY, f64::min);
    let width = ((total.max - low) / BARS as f64).max(1e-6);
    let mut counts = [0_u32; BARS];
    for time in &times {
        counts[(((time - low) / width) as usize).min(BARS - 1)] += 1;
    }
    let most = counts.iter().copied().max().unwrap_or(1).max(1);
    let plot = draw("latency.png", "Time per inference, all stages", 260, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .caption(
                format!(
                    "inference, ms: median {:.1}, p95 {:.1}, p99 {:.1}",
                    total.p50, total.p95, total.p99
                ),
                ("sans-serif", 18).into_font().color(&INK),
            )
            .set_label_area_size(LabelAreaPosition::Left, 50)
            .set_label_area_size(LabelAreaPosition::Bottom, 26)
            .build_cartesian_2d(low..low + width * BARS as f64, 0_f64..f64::from(most) * 1.05)?;
        chart
            .configure_mesh()
            .bold_line_style(GRID)
            .light_line_style(WHITE)
            .axis_style(GRID)
            .y_labels(5)
            .label_style(("sans-serif", 13).into_font().color(&INK))
            .draw()?;
        chart.draw_series(counts.iter().enumerate().map(|(i, &count)| {
            let left = low + width * i as f64;
            Rectangle::new([(left, 0.0), (left + width * 0.9, f64::from(count))], ACCENT.filled())
        }))?;
        for (value, colour) in [(total.p50, INK), (total.p95, PREDICTED), (total.p99, RECORDED)] {
            chart.draw_series(LineSeries::new(
                [(value, 0.0), (value, f64::from(most) * 1.05)],
                colour.stroke_width(1),
            ))?;
        }
        Ok(())
    })?;
    Ok(Some(plot))
}
