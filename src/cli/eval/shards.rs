//! `openvla eval run --shards-on-stdin`: parts of an evaluation with a policy that is loaded
//! once, for programs that spread parts over machines.

use std::io::{BufRead, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use super::print;
use vla_eval::{EvalError, Shard};

/// Longest line that is read, bytes.
const LINE_MAX: u64 = 64;

/// The line that is printed for a part.
#[derive(Serialize)]
struct Line {
    /// `i/n`.
    shard: String,
    /// Frames in its report, those of earlier runs included.
    #[serde(skip_serializing_if = "Option::is_none")]
    frames: Option<u64>,
    /// Why it is not complete; its finished frames are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Evaluates each part that standard input names by a line `i/n`, until its end; `evaluate` returns
/// the number of frames. Prints a line for each on standard output.
///
/// # Errors
/// For a line that is no part, and at the end when parts are not complete.
pub(super) fn run(
    stop: &AtomicBool,
    mut evaluate: impl FnMut(Shard) -> Result<u64, EvalError>,
) -> Result<(), EvalError> {
    let usage = |line: String| EvalError::Usage(format!("--shards-on-stdin: {line}"));
    let mut input = std::io::stdin().lock();
    let (mut parts, mut failed) = (0_u64, 0_u64);
    while !stop.load(Ordering::Relaxed) {
        let mut line = Vec::new();
        let read = (&mut input).take(LINE_MAX).read_until(b'\n', &mut line);
        if read.map_err(EvalError::io("read", Path::new("stdin")))? == 0 {
            break;
        }
        let text = String::from_utf8_lossy(&line);
        let shard: Shard = text.trim().parse().map_err(usage)?;
        parts += 1;
        let (frames, error) = match evaluate(shard) {
            Ok(frames) => (Some(frames), None),
            Err(error) => (None, Some(error.to_string())),
        };
        failed += u64::from(error.is_some());
        let line = Line { shard: shard.to_string(), frames, error };
        print(&serde_json::to_string(&line).map_err(EvalError::result(Path::new("stdout")))?)?;
    }
    match failed {
        0 => Ok(()),
        _ => Err(usage(format!("{failed} of {parts} parts are not complete"))),
    }
}
