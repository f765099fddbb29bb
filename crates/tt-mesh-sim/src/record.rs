//! Recording: meshes that keep shapes and no elements, and write every call as a line of JSON.
//!
//! A model of any size runs on such a mesh with the simulated mesh's checks and memory, without
//! arithmetic. The lines are what `tools/silicon/replay.py` gives to TT-NN.
//!
//! A line is an object with `call`: `open`, `create`, `upload`, `write`, `read`, `free`, `run`,
//! `program`, `trace_begin`, `trace_end`, `trace_run`, `trace_free`. An operation (`run`) is the
//! simulated mesh's own, with its parameters as they are compared for the program cache, so that a
//! new operation is recorded without a change here.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tt_metal_sys as abi;

use crate::error::{Result, refusal};

/// Where lines go; clones write to the same file.
#[derive(Clone)]
pub struct Recorder(Arc<Mutex<File>>);

/// The recorder of meshes opened by [`api`].
static CURRENT: Mutex<Option<Recorder>> = Mutex::new(None);

/// A provider whose meshes record into a new file at `path` from here on. One recording a process:
/// meshes that are open keep theirs.
///
/// # Errors
/// When the file cannot be created.
pub fn api(path: &Path) -> std::io::Result<abi::Api> {
    let recorder = Recorder(Arc::new(Mutex::new(File::create(path)?)));
    *CURRENT.lock().unwrap_or_else(PoisonError::into_inner) = Some(recorder);
    Ok(crate::ffi::recording_api())
}

/// The recorder of a mesh that is being opened.
pub(crate) fn current() -> Result<Recorder> {
    let current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner).clone();
    current.ok_or_else(|| refusal(abi::TTP_INTERNAL, "no recording was begun"))
}

impl Recorder {
    /// Writes one line: `call` and the fields of `of`, which must be an object.
    pub(crate) fn line(&self, call: &str, of: Value) -> Result<()> {
        let mut line = json!({ "call": call });
        if let (Some(line), Value::Object(fields)) = (line.as_object_mut(), of) {
            line.extend(fields);
        }
        let mut text = line.to_string();
        text.push('\n');
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(text.as_bytes()).map_err(|error| {
            refusal(abi::TTP_INTERNAL, format!("the recording cannot be written: {error}"))
        })
    }
}
