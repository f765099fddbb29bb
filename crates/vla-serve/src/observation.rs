//! The fields of a request as an observation of the policy.

use vla_inference::observation::{self, CameraFrame, Instruction, Observation, Playback, RgbImage};
use vla_wire::array::Kind;
use vla_wire::picture::{self, PictureLimits};
use vla_wire::{NdArray, Value};

use crate::contract::{Contract, short};
use crate::error::RequestError;

/// What differs between the protocols' observations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// OpenVLA: pictures as Pillow takes them; those of the wrists may have any name with `wrist`
    /// in it and then count in their order.
    OpenVla,
    /// openpi: pictures with the channels first or last, of bytes or floats.
    OpenPi,
    /// vla-eval: a picture under `images`, as Pillow takes it, of any name; then in their order.
    VlaEval,
}

/// Reads an observation.
///
/// # Errors
/// When a field is missing, comes twice, is unknown or does not fit the policy.
pub(crate) fn read(
    fields: Vec<(String, Value)>,
    contract: &Contract,
    style: Style,
    limits: &PictureLimits,
) -> Result<Observation, RequestError> {
    let mut instruction = None;
    let mut pictures = Vec::new();
    let mut state = State::default();
    for (field, value) in flattened(fields) {
        let name = short(&field);
        match name {
            "instruction" | "prompt" | "task_description" => {
                if instruction.is_some() {
                    return Err(RequestError::unfit(format!(
                        "the field '{field}' is a second instruction; send one"
                    )));
                }
                instruction = Some(value.into_text(&field)?);
            }
            "unnorm_key" => check_key(value, contract)?,
            "state" | "states" => state.whole(&field, &value)?,
            "joint_position" => state.part(0, &field, &value)?,
            "gripper_position" => state.part(1, &field, &value)?,
            _ if is_picture(&value, name, &field, contract, style) => pictures.push((field, value)),
            _ if Contract::leaves_aside(name) => {}
            _ => return Err(unknown(&field, &value, contract)),
        }
    }
    let instruction = instruction.ok_or_else(|| {
        RequestError::unfit("no instruction; send its text as 'instruction' (openpi: 'prompt')")
    })?;
    let (instruction, remarks) =
        Instruction::read(&instruction).map_err(|error| RequestError::unfit(error.to_string()))?;
    for remark in remarks {
        tracing::info!("instruction '{}': {remark}", instruction.as_given());
    }
    Ok(Observation {
        instruction,
        images: cameras(pictures, contract, style, limits)?,
        state: state.finish(contract)?,
        playback: Playback::default(),
    })
}

/// The fields with those of objects in them, as `images/cam_high`.
fn flattened(fields: Vec<(String, Value)>) -> Vec<(String, Value)> {
    let mut flat = Vec::new();
    for (name, value) in fields {
        match value {
            Value::Object(inner) if matches!(name.as_str(), "observation" | "images") => {
                let inner = flattened(inner);
                flat.extend(
                    inner.into_iter().map(|(below, value)| (format!("{name}/{below}"), value)),
                );
            }
            value => flat.push((name, value)),
        }
    }
    flat
}

fn is_picture(value: &Value, name: &str, field: &str, contract: &Contract, style: Style) -> bool {
    let by_order = match style {
        Style::OpenVla => name.contains("wrist"),
        Style::OpenPi => false,
        Style::VlaEval => field.starts_with("images/"),
    };
    let array = matches!(value, Value::Array(_) | Value::File(..) | Value::Bytes(_));
    contract.camera(name).is_some() || (by_order && array)
}

/// The statistics are chosen when the policy is loaded, with the image preparation that belongs to
/// them.
fn check_key(value: Value, contract: &Contract) -> Result<(), RequestError> {
    if value == Value::Nil {
        return Ok(());
    }
    let given = value.into_text("unnorm_key")?;
    if given == contract.unnorm_key {
        return Ok(());
    }
    Err(RequestError::unfit(format!(
        "unnorm_key '{}': this server un-normalises by '{}'; start it with --unnorm-key for \
        another one",
        given.escape_debug(),
        contract.unnorm_key
    )))
}

fn unknown(field: &str, value: &Value, contract: &Contract) -> RequestError {
    let cameras = (0..contract.cameras.len()).map(|camera| contract.names_of(camera).join(" or "));
    let mut taken: Vec<String> = cameras.collect();
    if contract.state_dim > 0 {
        taken.push("state".into());
    }
    RequestError::unfit(format!(
        "the field '{}' ({}) is none that this policy takes; it takes {}, instruction (prompt) and \
        unnorm_key",
        field.escape_debug(),
        value.described(),
        taken.join(", ")
    ))
}

/// The state, whole or in openpi's two parts of DROID.
#[derive(Default)]
struct State {
    whole: Option<Vec<f64>>,
    parts: [Option<Vec<f64>>; 2],
}

impl State {
    fn whole(&mut self, field: &str, value: &Value) -> Result<(), RequestError> {
        if self.whole.replace(value.numbers(field)?).is_some() {
            return Err(RequestError::unfit(format!("the field '{field}' is a second state")));
        }
        Ok(())
    }

    fn part(&mut self, part: usize, field: &str, value: &Value) -> Result<(), RequestError> {
        if self.parts[part].replace(value.numbers(field)?).is_some() {
            return Err(RequestError::unfit(format!("the field '{field}' comes twice")));
        }
        Ok(())
    }

    fn finish(self, contract: &Contract) -> Result<Vec<f64>, RequestError> {
        let state = match (self.whole, self.parts) {
            // The official servers leave a state aside, too, that the policy does not take.
            _ if contract.state_dim == 0 => return Ok(Vec::new()),
            (Some(whole), [None, None]) => whole,
            (None, [Some(joints), Some(gripper)]) => [joints, gripper].concat(),
            (None, [None, None]) => {
                let wanted = contract.state_dim;
                return Err(RequestError::unfit(format!(
                    "no state; send the {wanted} numbers of the policy file's state as 'state'"
                )));
            }
            _ => {
                return Err(RequestError::unfit(
                    "a state is 'state' alone, or 'joint_position' and 'gripper_position' together",
                ));
            }
        };
        if state.len() != contract.state_dim {
            return Err(RequestError::unfit(format!(
                "the state has {} numbers; the policy's has {}",
                state.len(),
                contract.state_dim
            )));
        }
        match state.iter().position(|value| !value.is_finite()) {
            None => Ok(state),
            Some(index) => Err(RequestError::unfit(format!(
                "value {index} of the state is {}; send finite numbers",
                state[index]
            ))),
        }
    }
}

/// One picture for each camera.
fn cameras(
    pictures: Vec<(String, Value)>,
    contract: &Contract,
    style: Style,
    limits: &PictureLimits,
) -> Result<Vec<CameraFrame>, RequestError> {
    let mut found: Vec<Option<(String, Value)>> = vec![None; contract.cameras.len()];
    let named = pictures.iter().all(|(field, _)| contract.camera(short(field)).is_some());
    let mut next = 0;
    for (field, value) in pictures {
        let name = short(&field);
        let place = match style {
            // The primary camera first, then those with `wrist` in their order, as the official
            // server takes them.
            Style::OpenVla if !named && name.contains("wrist") => {
                next += 1;
                next
            }
            Style::VlaEval if !named => {
                next += 1;
                next - 1
            }
            _ => contract.camera(name).unwrap_or(usize::MAX),
        };
        let Some(slot) = found.get_mut(place) else { continue };
        if let Some((other, _)) = slot.replace((field.clone(), value)) {
            return Err(RequestError::unfit(format!(
                "'{}' and '{}' are both pictures of camera '{}'; send one",
                other.escape_debug(),
                field.escape_debug(),
                contract.cameras[place]
            )));
        }
    }
    let frames = found.into_iter().enumerate().map(|(place, picture)| {
        let camera = &contract.cameras[place];
        let (field, value) = picture.ok_or_else(|| {
            RequestError::unfit(format!(
                "no picture of camera '{camera}'; send it as {}",
                contract.names_of(place).join(" or ")
            ))
        })?;
        let image = decoded(value, style, limits).map_err(|error| {
            RequestError::new(error.outcome, format!("'{}': {error}", field.escape_debug()))
        })?;
        Ok(CameraFrame { camera: camera.clone(), image })
    });
    frames.collect()
}

/// The picture of a value: an array, or a JPEG or PNG file as bytes or as an array of bytes.
fn decoded(value: Value, style: Style, limits: &PictureLimits) -> Result<RgbImage, RequestError> {
    let array = match value {
        Value::Array(array) if is_file(&array) => return file(&array.into_data(), limits),
        Value::Bytes(bytes) | Value::File(_, bytes) => return file(&bytes, limits),
        Value::Array(array) => array,
        other => {
            return Err(RequestError::unfit(format!(
                "a picture is expected, not {}",
                other.described()
            )));
        }
    };
    let rgb = match style {
        Style::OpenPi => picture::from_openpi(array, limits)?,
        Style::OpenVla | Style::VlaEval => picture::from_pillow(array, limits)?,
    };
    RgbImage::new(rgb.width, rgb.height, rgb.pixels)
        .map_err(|error| RequestError::unfit(error.to_string()))
}

/// No picture has one axis.
fn is_file(array: &NdArray) -> bool {
    let dtype = array.dtype();
    array.shape().len() == 1 && (dtype.kind, dtype.size) == (Kind::Unsigned, 1)
}

fn file(bytes: &[u8], limits: &PictureLimits) -> Result<RgbImage, RequestError> {
    // A small file may hold a very large picture.
    let reader = image::ImageReader::new(std::io::Cursor::new(bytes)).with_guessed_format();
    let dimensions = reader.ok().and_then(|reader| reader.into_dimensions().ok());
    if let Some((width, height)) = dimensions
        && u64::from(width) * u64::from(height) > limits.pixels as u64
    {
        let most = limits.pixels;
        return Err(RequestError::unfit(format!(
            "a file of {width} x {height} pixels; at most {most} pixels are taken"
        )));
    }
    observation::decode(bytes).map_err(|error| RequestError::unfit(error.to_string()))
}
