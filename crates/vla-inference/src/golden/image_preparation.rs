//! Golden kits of image preparation: pictures after every step of the official evaluation code.
//!
//! Layout of a kit: `cases.json` (`sources`, and `cases` with pipeline, steps and hashes),
//! `images/` (the sources) and, not needed, `steps/` (the picture after each step); see
//! `tests/data/image_preparation/README.md`. Every byte must be equal.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::kit::{KitError, json};
use crate::observation::{self, Operation, Preparation, Preparer, RgbImage, Size, Step};

/// Largest number of sources and of cases.
const MAX_ENTRIES: usize = 100_000;

#[derive(Deserialize)]
struct Cases {
    sources: Vec<Source>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Source {
    id: usize,
    file: PathBuf,
    sha256: String,
}

#[derive(Deserialize)]
struct Case {
    source: usize,
    pipeline: String,
    steps: Vec<Expected>,
    sha256: String,
    width: usize,
    height: usize,
}

/// The picture after a step.
#[derive(Deserialize)]
struct Expected {
    step: String,
    image: Option<PathBuf>,
    width: usize,
    height: usize,
    sha256: String,
}

/// One case: a source through a pipeline.
#[derive(Clone, Debug)]
pub struct CaseReport {
    /// Source and pipeline.
    pub name: String,
    /// Names of the steps that were carried out.
    pub steps: Vec<String>,
    /// One line for each difference.
    pub missed: Vec<String>,
}

/// Everything that was compared.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The cases in the kit's order.
    pub cases: Vec<CaseReport>,
    /// Steps compared, over all cases.
    pub steps: usize,
    /// One line for each difference, with its case.
    pub missed: Vec<String>,
}

/// The preparation of a pipeline of the official evaluation code, by the name that kits use.
#[must_use]
pub fn pipeline(name: &str, side: usize) -> Option<Preparation> {
    use Operation::{Area, Bicubic, CenterCrop, Jpeg, Lanczos3, Rotate180};
    let size = Size::square(side);
    let always = |operations: &[Operation]| operations.iter().map(|o| Step::from(*o)).collect();
    let unless = |operation| Step { operation, unless_size: Some(size) };
    let crop = CenterCrop(0.9);
    let steps: Vec<Step> = match name {
        "libero" | "oft_libero" => always(&[Rotate180, Jpeg, Lanczos3(size), crop]),
        "bridge" => always(&[Jpeg, Lanczos3(size)]),
        "oft_server" => vec![unless(Jpeg), unless(Lanczos3(size)), crop.into()],
        "oft_server_no_crop" => vec![unless(Jpeg), unless(Lanczos3(size))],
        "oft_aloha" => always(&[Bicubic(Size::square(256)), Jpeg, Lanczos3(size), crop]),
        "simpler" => always(&[Area(size)]),
        _ => return None,
    };
    Preparation::new(steps).ok()
}

/// The name that kits give to a step.
fn step_name(operation: Operation) -> String {
    match operation {
        Operation::Bicubic(size) => format!("bicubic_{}", size.width),
        operation => operation.name().to_owned(),
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Prepares every source of the kit in `folder` and compares every step.
///
/// # Errors
/// When the kit is incomplete or damaged; differences are in the report.
pub fn check(folder: &Path) -> Result<Report, KitError> {
    let path = folder.join("cases.json");
    let kit: Cases = json(&path)?;
    let unfit = |reason: String| KitError { path: path.clone(), reason };
    if kit.cases.is_empty() {
        return Err(unfit("holds no case".into()));
    }
    if kit.cases.len().max(kit.sources.len()) > MAX_ENTRIES {
        return Err(unfit(format!("holds more than {MAX_ENTRIES} sources or cases")));
    }
    let mut report = Report::default();
    let mut opened: Option<(usize, RgbImage)> = None;
    for case in &kit.cases {
        let Some(source) = kit.sources.iter().find(|source| source.id == case.source) else {
            return Err(unfit(format!("case with source {}, which is not listed", case.source)));
        };
        if opened.as_ref().is_none_or(|(id, _)| *id != case.source) {
            opened = Some((case.source, open(folder, source)?));
        }
        let Some((_, image)) = &opened else { continue };
        let Some(preparation) = pipeline(&case.pipeline, case.width) else {
            return Err(unfit(format!("pipeline '{}', which is not known", case.pipeline)));
        };
        let case = compare(folder, case, source, image, preparation)?;
        report.steps += case.steps.len();
        let missed = case.missed.iter().map(|line| format!("{}: {line}", case.name));
        report.missed.extend(missed);
        report.cases.push(case);
    }
    Ok(report)
}

fn open(folder: &Path, source: &Source) -> Result<RgbImage, KitError> {
    let path = folder.join(&source.file);
    let image = observation::open(&path)
        .map_err(|error| KitError { path: path.clone(), reason: error.to_string() })?;
    if sha256(image.pixels()) == source.sha256 {
        return Ok(image);
    }
    Err(KitError { path, reason: "its pixels are not those of cases.json".into() })
}

fn compare(
    folder: &Path,
    case: &Case,
    source: &Source,
    image: &RgbImage,
    preparation: Preparation,
) -> Result<CaseReport, KitError> {
    let stem = source.file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let name = format!("{stem} {}", case.pipeline);
    let failed = |reason: String| KitError {
        path: folder.join("cases.json"),
        reason: format!("{name}: {reason}"),
    };
    let mut preparer = Preparer::new(preparation).map_err(|error| failed(error.to_string()))?;
    let (mut steps, mut missed) = (Vec::new(), Vec::new());
    let mut expected = case.steps.iter();
    let result = preparer.rgb_in_steps(image, |operation, size, pixels| {
        let done = step_name(operation);
        match expected.next() {
            Some(step) if step.step == done => {
                missed.extend(difference(folder, step, size, pixels))
            }
            Some(step) => missed.push(format!("step {done} where the kit has {}", step.step)),
            None => missed.push(format!("step {done} where the kit has none")),
        }
        steps.push(done);
    });
    let result = result.map_err(|error| failed(error.to_string()))?;
    missed.extend(expected.map(|step| format!("step {} was left out", step.step)));
    let size = Size { width: case.width, height: case.height };
    if result.size() != size {
        missed.push(format!("the result has {} pixels, not {size}", result.size()));
    } else if sha256(result.pixels()) != case.sha256 {
        missed.push("the result differs".into());
    }
    Ok(CaseReport { name, steps, missed })
}

/// What is wrong with the picture after a step, if anything is; with figures where the kit has the
/// picture.
fn difference(folder: &Path, step: &Expected, size: Size, pixels: &[u8]) -> Option<String> {
    let wanted = Size { width: step.width, height: step.height };
    if size != wanted {
        return Some(format!("step {} gives {size} pixels, not {wanted}", step.step));
    }
    if sha256(pixels) == step.sha256 {
        return None;
    }
    let path = step.image.as_ref();
    let picture = path.and_then(|path| observation::open(&folder.join(path)).ok());
    let figures = picture.filter(|picture| picture.size() == size).map(|picture| {
        let distances = pixels.iter().zip(picture.pixels()).map(|(a, b)| a.abs_diff(*b));
        let (mut count, mut largest) = (0, 0);
        for distance in distances.filter(|distance| *distance > 0) {
            count += 1;
            largest = largest.max(distance);
        }
        format!(": {count} of {} bytes, by at most {largest}", pixels.len())
    });
    Some(format!("step {} differs{}", step.step, figures.unwrap_or_default()))
}
