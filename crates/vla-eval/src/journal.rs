//! The journal of an evaluation: one line per frame, written when the frame is done, so that an
//! interrupted run can be resumed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{EvalError, Report, Settings, Step, episode, gallery};
use rosbag2_reader::FileState;

/// File name in the output folder.
pub const FILE: &str = "journal.jsonl";
/// Longest accepted line, bytes.
const MAX_LINE: u64 = 1 << 20;
/// How long an evaluation waits for another one in its folder, and how often it looks.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(50);

/// The first line.
#[derive(Serialize, Deserialize)]
struct Head {
    settings: Settings,
    /// The files of each bag, in the order of the settings.
    files: Vec<Vec<FileState>>,
}

/// An open journal.
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Frames of earlier runs.
    pub steps: Vec<Step>,
}

impl Journal {
    /// Opens the journal in `out`, or creates one. Other settings than the journal's, or bags that
    /// were modified since (`files`: their current state), are an error.
    pub fn open(
        out: &Path,
        settings: &Settings,
        files: &[Vec<FileState>],
        overwrite: bool,
    ) -> Result<Journal, EvalError> {
        std::fs::create_dir_all(out).map_err(EvalError::io("create", out))?;
        let path = out.join(FILE);
        let options = OpenOptions::new().read(true).append(true).create(true).open(&path);
        let mut file = options.map_err(EvalError::io("open", &path))?;
        lock(&file, out, LOCK_WAIT)?;
        let old = if overwrite { None } else { read(&path)? };
        let Some((head, steps, bytes)) = old else {
            gallery::clear(out)?;
            file.set_len(0).map_err(EvalError::io("truncate", &path))?;
            write_line(
                &mut file,
                &path,
                &Head { settings: settings.clone(), files: files.to_vec() },
            )?;
            return Ok(Journal { path, file, steps: Vec::new() });
        };
        let differing = head.settings.differences(settings, false);
        if !differing.is_empty() {
            return Err(EvalError::OtherRun {
                path: out.to_owned(),
                differing: differing.join(", "),
            });
        }
        for ((bag, before), now) in settings.bags.iter().zip(&head.files).zip(files) {
            if let Some(what) = change(before, now) {
                return Err(EvalError::OtherBag { bag: bag.clone(), out: out.to_owned(), what });
            }
        }
        // Removes an incomplete last line; its frame is evaluated again.
        file.set_len(bytes).map_err(EvalError::io("truncate", &path))?;
        Ok(Journal { path, file, steps })
    }

    /// Adds a frame.
    pub fn push(&mut self, step: &Step) -> Result<(), EvalError> {
        write_line(&mut self.file, &self.path, step)
    }
}

/// Keeps a second evaluation out of the folder for as long as the file is open.
fn lock(file: &File, out: &Path, wait: Duration) -> Result<(), EvalError> {
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            // The process that had it may be ending at this moment.
            Err(TryLockError::WouldBlock) if begun.elapsed() < wait => {
                std::thread::sleep(LOCK_POLL);
            }
            Err(TryLockError::WouldBlock) => return Err(EvalError::InUse(out.to_owned())),
            // Not every file system has locks.
            Ok(()) | Err(TryLockError::Error(_)) => return Ok(()),
        }
    }
}

/// Whether `out` holds the complete result of an evaluation with these settings, by this version of
/// the program and of bags that have not changed since. It is `false`, too, where anything of it
/// cannot be read: evaluating says why.
#[must_use]
pub fn is_complete(out: &Path, settings: &Settings) -> bool {
    let Ok(report) = Report::read(out) else { return false };
    let matched = settings.action_topic.is_none() || 0 < report.frames.matched;
    if !matched
        || report.settings != *settings
        || report.version != env!("CARGO_PKG_VERSION")
        || !report.incomplete.is_empty()
    {
        return false;
    }
    let Ok(Some((head, steps, _))) = read(&out.join(FILE)) else { return false };
    let now = episode::file_states(&settings.bags).ok();
    now.is_some_and(|now| now == head.files) && steps.len() as u64 == report.frames.evaluated
}

/// The difference between the files of a bag when the evaluation began and now.
fn change(before: &[FileState], now: &[FileState]) -> Option<String> {
    if before.len() != now.len() {
        return Some(format!("it had {} files and now has {}", before.len(), now.len()));
    }
    let (old, new) = before.iter().zip(now).find(|(old, new)| old != new)?;
    let describe = |state: &FileState| {
        let seconds = state
            .modified_ns
            .map_or_else(|| "?".to_owned(), |ns| format!("{:.3}", ns as f64 * 1e-9));
        format!("{} of {} bytes written at {seconds} s", state.name, state.bytes)
    };
    Some(format!("{} is now {}", describe(old), describe(new)))
}

fn write_line(file: &mut File, path: &Path, value: &impl Serialize) -> Result<(), EvalError> {
    let mut line = serde_json::to_vec(value).map_err(EvalError::result(path))?;
    line.push(b'\n');
    // One write per line: only the last line can be incomplete, and then it has no line end.
    file.write_all(&line).map_err(EvalError::io("write", path))
}

/// First line, frames, and the number of bytes in complete lines; `None` when the first line is
/// incomplete.
fn read(path: &Path) -> Result<Option<(Head, Vec<Step>, u64)>, EvalError> {
    use std::io::Read;
    let mut reader = BufReader::new(File::open(path).map_err(EvalError::io("open", path))?);
    let (mut head, mut steps, mut bytes) = (None, Vec::new(), 0);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader
            .by_ref()
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .map_err(EvalError::io("read", path))?;
        if line.last() != Some(&b'\n') {
            if read as u64 == MAX_LINE {
                return Err(EvalError::result(path)(format!(
                    "line {} is longer than {MAX_LINE} bytes",
                    steps.len() + 2
                )));
            }
            return Ok(head.map(|head| (head, steps, bytes)));
        }
        let wrong = |error: serde_json::Error| {
            EvalError::result(path)(format!("line {}: {error}", steps.len() + 2))
        };
        if head.is_none() {
            head = Some(serde_json::from_slice(&line).map_err(EvalError::result(path))?);
        } else {
            steps.push(serde_json::from_slice(&line).map_err(wrong)?);
        }
        bytes += read as u64;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::settings::tests::settings;
    use crate::step::{Outcome, Prediction};

    fn step(frame: u64) -> Step {
        let prediction = Prediction {
            token_ids: vec![31_999],
            normalized: vec![0.1 + 0.2],
            action: vec![1.0 / 3.0],
            logit_margins: vec![0.1],
            stages: vec![("vision".into(), 1e-3 / 3.0)],
        };
        Step {
            bag: 0,
            frame,
            log_time: 5,
            stamp: None,
            size: (2, 3),
            instruction: "go".into(),
            outcome: Outcome::Action(prediction),
        }
    }

    #[test]
    fn incomplete_line_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), &settings(), &[], false).unwrap();
        (0..3).for_each(|frame| journal.push(&step(frame)).unwrap());
        let path = folder.path().join(FILE);
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 4]).unwrap();
        let mut journal = Journal::open(folder.path(), &settings(), &[], false).unwrap();
        assert_eq!(journal.steps, [step(0), step(1)]);
        journal.push(&step(2)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    }

    #[test]
    fn a_folder_has_one_evaluation_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = Journal::open(folder.path(), &settings(), &[], false).unwrap();
        let second = File::open(folder.path().join(FILE)).unwrap();
        let error = lock(&second, folder.path(), Duration::ZERO).unwrap_err();
        assert!(matches!(error, EvalError::InUse(_)), "{error}");
        drop(first);
        lock(&second, folder.path(), Duration::ZERO).unwrap();
    }

    #[test]
    fn other_settings_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        Journal::open(folder.path(), &settings(), &[], false).unwrap();
        let other = Settings { every: 9, ..settings() };
        let error = Journal::open(folder.path(), &other, &[], false).err().unwrap().to_string();
        assert!(
            error.contains("every (1 here, 9 there)") && error.contains("--overwrite"),
            "{error}"
        );
        assert!(Journal::open(folder.path(), &other, &[], true).unwrap().steps.is_empty());
        std::fs::write(folder.path().join(FILE), b"not json\n").unwrap();
        assert!(Journal::open(folder.path(), &other, &[], false).is_err());
    }
}
