//! preprocessor_config.json: preparation of an image for the vision towers.
//!
//! The file holds the same values several times (`input_sizes`, `tvf_resize_params`,
//! `tvf_crop_params`; `means`, `tvf_normalize_params`). The official processor computes the `tvf_*`
//! fields from the others; here they must agree.
//!
//! transformers 5 saves the same object as `image_processor` of processor_config.json instead, and
//! reads it there first where both files are present; older versions read preprocessor_config.json.
//! A folder in which the two differ is refused.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::config::OpenVlaConfig;
use super::error::CheckpointError;
use super::fields::{Fields, shown, shown_list};
use super::read::{is_listed, parse_json, read_bounded};

/// Largest preprocessor_config.json read, bytes.
const MAX_BYTES: u64 = 1 << 20;

const RESTORE: &str = "restore the file from the original checkpoint";

/// Preparation of the image for one tower: resized to a square by Pillow's antialiased bicubic
/// filter, aspect ignored, then `(u8 / 255 - mean) / std` per channel in float32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TowerPixels {
    /// Side of the square, pixels.
    pub size: usize,
    /// Mean of the channels R, G, B, 0..1.
    pub mean: [f32; 3],
    /// Standard deviation of the channels, above 0.
    pub std: [f32; 3],
}

/// The preprocessing of a checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct PreprocessorConfig {
    /// One entry per tower, in the order of the pixel channels. All have the same size.
    pub towers: Vec<TowerPixels>,
}

impl PreprocessorConfig {
    /// Reads `preprocessor_config.json` of the folder, or `image_processor` of
    /// `processor_config.json`, and checks that it fits `config`'s towers.
    ///
    /// # Errors
    /// When the file is missing, needs what is not implemented, or contradicts itself, the other
    /// file or `config`.
    pub fn open(folder: &Path, config: &OpenVlaConfig) -> Result<Self, CheckpointError> {
        let (path, preprocessor) = read_either(folder)?;
        let sizes: Vec<usize> = preprocessor.towers.iter().map(|tower| tower.size).collect();
        let expected: Vec<usize> = config.towers.iter().map(|tower| tower.img_size).collect();
        if sizes != expected {
            let remedy = format!(
                "config.json has towers for images of {expected:?}; use both files of one \
                checkpoint"
            );
            return Err(CheckpointError::field(&path, "input_sizes", format!("{sizes:?}"), remedy));
        }
        Ok(preprocessor)
    }

    /// Parses the bytes of a preprocessor_config.json; `path` is only named in errors.
    ///
    /// # Errors
    /// When it needs what is not implemented, or contradicts itself.
    pub fn from_json(path: &Path, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let map: Map<String, Value> = parse_json(path, bytes)?;
        Self::from_fields(Fields::new(path, "", &map))
    }

    /// Parses the bytes of a processor_config.json; `None` when it has no `image_processor`.
    ///
    /// # Errors
    /// As [`PreprocessorConfig::from_json`].
    pub fn from_processor_json(path: &Path, bytes: &[u8]) -> Result<Option<Self>, CheckpointError> {
        let map: Map<String, Value> = parse_json(path, bytes)?;
        let image = Fields::new(path, "", &map).object("image_processor")?;
        image.map(|map| Self::from_fields(Fields::new(path, "image_processor.", map))).transpose()
    }

    fn from_fields(fields: Fields<'_>) -> Result<Self, CheckpointError> {
        let naive = "only \"resize-naive\" is implemented; use a checkpoint trained with it";
        fields.only("image_resize_strategy", &json!("resize-naive"), naive)?;
        fields.only(
            "tvf_do_letterbox",
            &json!(false),
            "letterboxing is not implemented; use a checkpoint with \"resize-naive\"",
        )?;

        let sizes = required(&fields, "input_sizes", None)?;
        let count = sizes.len();
        if count == 0 || count > 2 {
            return Err(fields.error(
                "input_sizes",
                format!("a list of {count}"),
                "must have one entry for each of one or two vision towers",
            ));
        }
        let means = required(&fields, "means", Some(count))?;
        let stds = required(&fields, "stds", Some(count))?;
        for (i, value) in required(&fields, "interpolations", Some(count))?.iter().enumerate() {
            bicubic(&fields, &format!("interpolations[{i}]"), value)?;
        }
        let mut towers = Vec::new();
        for (i, ((size, mean), std)) in sizes.iter().zip(means).zip(stds).enumerate() {
            let tower = TowerPixels {
                size: square(&fields, &format!("input_sizes[{i}]"), size, &[3])?,
                mean: triple(&fields, &format!("means[{i}]"), mean, -10.0)?,
                std: triple(&fields, &format!("stds[{i}]"), std, 1e-4)?,
            };
            check_derived(&fields, i, &tower)?;
            towers.push(tower);
        }
        if let [first, second] = towers.as_slice()
            && first.size != second.size
        {
            return Err(fields.error(
                "input_sizes",
                shown_list(sizes),
                format!("both towers must see the same size; {RESTORE}"),
            ));
        }
        Ok(Self { towers })
    }
}

/// The preprocessing of a folder, and the file that it is from.
fn read_either(folder: &Path) -> Result<(PathBuf, PreprocessorConfig), CheckpointError> {
    let (old, new) =
        (folder.join("preprocessor_config.json"), folder.join("processor_config.json"));
    let restore = "copy it from the original checkpoint";
    let newer = if is_listed(&new) {
        PreprocessorConfig::from_processor_json(&new, &read_bounded(&new, MAX_BYTES, restore)?)?
    } else {
        None
    };
    if let Some(newer) = newer.clone().filter(|_| !is_listed(&old)) {
        return Ok((new, newer));
    }
    let remedy = "copy it from the original checkpoint, means and sizes are nowhere else";
    let older = PreprocessorConfig::from_json(&old, &read_bounded(&old, MAX_BYTES, remedy)?)?;
    match newer.filter(|newer| *newer != older) {
        Some(_) => Err(CheckpointError::field(
            &new,
            "image_processor",
            "not what preprocessor_config.json says",
            "versions of transformers read one or the other; remove the one that the checkpoint \
            was not trained with",
        )),
        None => Ok((old, older)),
    }
}

fn required<'a>(
    fields: &Fields<'a>,
    name: &str,
    count: Option<usize>,
) -> Result<&'a Vec<Value>, CheckpointError> {
    let Some(values) = fields.list(name)? else {
        return Err(fields.error(name, "missing", RESTORE));
    };
    match count {
        Some(count) if values.len() != count => {
            let remedy = format!("input_sizes has {count} entries and both must agree; {RESTORE}");
            Err(fields.error(name, format!("a list of {}", values.len()), remedy))
        }
        _ => Ok(values),
    }
}

/// `"bicubic"`, or Pillow's number for it.
fn bicubic(fields: &Fields<'_>, name: &str, value: &Value) -> Result<(), CheckpointError> {
    if *value == json!("bicubic") || *value == json!(3) {
        return Ok(());
    }
    Err(fields.error(
        name,
        shown(value),
        "only \"bicubic\" (3) is implemented; use a checkpoint trained with it",
    ))
}

/// The side in `[leading.., side, side]`.
fn square(
    fields: &Fields<'_>,
    name: &str,
    value: &Value,
    leading: &[u64],
) -> Result<usize, CheckpointError> {
    let numbers: Option<Vec<u64>> =
        value.as_array().and_then(|list| list.iter().map(Value::as_u64).collect());
    if let Some([rest @ .., height, width]) = numbers.as_deref()
        && rest == leading
        && height == width
        && (1..=4096).contains(height)
        && let Ok(side) = usize::try_from(*height)
    {
        return Ok(side);
    }
    let wanted = if leading.is_empty() { "[side, side]" } else { "[3, side, side]" };
    Err(fields.error(
        name,
        shown(value),
        format!("must be {wanted} with a side from 1 to 4096; {RESTORE}"),
    ))
}

fn triple(
    fields: &Fields<'_>,
    name: &str,
    value: &Value,
    low: f64,
) -> Result<[f32; 3], CheckpointError> {
    let numbers: Option<Vec<f64>> =
        value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
    if let Some(&[r, g, b]) = numbers.as_deref()
        && [r, g, b].iter().all(|number| (low..=10.0).contains(number))
    {
        return Ok([r as f32, g as f32, b as f32]);
    }
    Err(fields.error(
        name,
        shown(value),
        format!("must be three numbers from {low} to 10; {RESTORE}"),
    ))
}

/// The `tvf_*` fields of tower `i`, where they are present, must equal the plain fields.
fn check_derived(
    fields: &Fields<'_>,
    i: usize,
    tower: &TowerPixels,
) -> Result<(), CheckpointError> {
    let TowerPixels { size, mean, std } = *tower;
    if let Some((prefix, resize)) = derived(fields, "tvf_resize_params", i)? {
        let resize = Fields::new(fields.path, &prefix, resize);
        if let Some(value) = resize.get("interpolation") {
            bicubic(&resize, "interpolation", value)?;
        }
        resize.only(
            "antialias",
            &json!(true),
            "only the antialiased resize is implemented; use a checkpoint trained with it",
        )?;
        resize.only(
            "max_size",
            &Value::Null,
            "a bound on the longer side is not implemented; use a checkpoint with null here",
        )?;
        same_size(&resize, "size", size)?;
    }
    if let Some((prefix, crop)) = derived(fields, "tvf_crop_params", i)? {
        same_size(&Fields::new(fields.path, &prefix, crop), "output_size", size)?;
    }
    if let Some((prefix, normalize)) = derived(fields, "tvf_normalize_params", i)? {
        let normalize = Fields::new(fields.path, &prefix, normalize);
        for (name, expected) in [("mean", mean), ("std", std)] {
            let Some(value) = normalize.get(name) else { continue };
            let found = triple(&normalize, name, value, -10.0)?;
            // Written from float32 and read as float64, hence not compared bit for bit.
            if found.iter().zip(expected).any(|(a, b)| (a - b).abs() > 1e-6) {
                let plain = if name == "mean" { "means" } else { "stds" };
                return Err(normalize.error(
                    name,
                    shown(value),
                    format!("{plain}[{i}] is {expected:?}; {RESTORE}"),
                ));
            }
        }
    }
    Ok(())
}

fn same_size(fields: &Fields<'_>, name: &str, size: usize) -> Result<(), CheckpointError> {
    let Some(value) = fields.get(name) else { return Ok(()) };
    let found = square(fields, name, value, &[])?;
    if found != size {
        return Err(fields.error(
            name,
            shown(value),
            format!(
                "input_sizes is {size}; resizing and cropping apart is not implemented, {RESTORE}"
            ),
        ));
    }
    Ok(())
}

/// An object with its name for errors.
type Named<'a> = (String, &'a Map<String, Value>);

/// Entry `i` of a list of objects.
fn derived<'a>(
    fields: &Fields<'a>,
    name: &str,
    i: usize,
) -> Result<Option<Named<'a>>, CheckpointError> {
    let Some(values) = fields.list(name)? else { return Ok(None) };
    let Some(map) = values.get(i).and_then(Value::as_object) else {
        return Err(fields.error(
            name,
            shown_list(values),
            format!("must have an object for each tower; {RESTORE}"),
        ));
    };
    Ok(Some((format!("{name}[{i}]."), map)))
}
