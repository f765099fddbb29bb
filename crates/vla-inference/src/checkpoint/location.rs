//! Where a checkpoint is: a given path to the folder with `config.json`. What is no such folder is
//! named, with the way to one. Every command and the node take their folder from [`locate`].

use std::path::{Component, Path, PathBuf};

use super::error::{CheckpointError, broken_link, quoted};
use super::other_folder::{describe, entries};
use super::read::{is_listed, read_bounded};

/// The file that makes a folder a checkpoint's.
pub(super) const CONFIG: &str = "config.json";
/// What to give, for paths that are no folder.
const GIVE: &str = "give the folder that holds config.json and the *.safetensors files";
/// Longest name of a revision in Hugging Face's cache, bytes.
const MAX_REVISION_BYTES: u64 = 256;

/// The checkpoint folder that `given` means: itself, or the snapshot of a folder of Hugging Face's
/// cache (`models--OWNER--NAME`).
///
/// # Errors
/// When there is none, in one line that names what is there and what to give instead.
pub fn locate(given: &Path) -> Result<PathBuf, CheckpointError> {
    if !given.is_dir() {
        return Err(no_folder(given));
    }
    if is_listed(&given.join(CONFIG)) {
        return Ok(given.to_owned());
    }
    let Some(snapshot) = snapshot(given)? else { return Err(not_a_checkpoint(given)) };
    if is_listed(&snapshot.join(CONFIG)) { Ok(snapshot) } else { Err(not_a_checkpoint(&snapshot)) }
}

/// The error for a folder without `config.json`.
pub(super) fn not_a_checkpoint(folder: &Path) -> CheckpointError {
    let (what, remedy) = describe(folder);
    CheckpointError::is(folder, what, remedy)
}

/// The error for a path that is no folder.
pub(super) fn no_folder(path: &Path) -> CheckpointError {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => file(path),
        Ok(_) => CheckpointError::is(path, "not a folder", GIVE),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => absent(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => absent(path),
        Err(error) => CheckpointError::io(path, "open", &error, GIVE),
    }
}

/// The error for a path at which there is nothing: the first part of it that is missing.
fn absent(path: &Path) -> CheckpointError {
    let mut missing = path;
    while let Some(parent) = missing.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        if let Some(error) = broken_link(missing) {
            return error;
        }
        if parent.is_dir() {
            break;
        }
        if parent.is_file() {
            let what = format!("not a folder: {} is a file", quoted(&parent.to_string_lossy()));
            return CheckpointError::is(path, what, GIVE);
        }
        missing = parent;
    }
    if let Some(error) = broken_link(missing) {
        return error;
    }
    let what = if missing == path {
        "not a folder: nothing has this name".to_owned()
    } else {
        format!("not a folder: there is no {}", quoted(&missing.to_string_lossy()))
    };
    CheckpointError::is(path, what, format!("check the spelling, or {GIVE}"))
}

/// The error for a file: what it is, by its first bytes and its name.
fn file(path: &Path) -> CheckpointError {
    let mut head = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        // A file that cannot be read is named by its name alone.
        let _ = std::io::Read::read_to_end(&mut std::io::Read::take(file, 512), &mut head);
    }
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase());
    let name = name.unwrap_or_default();
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    if let Some(parent) = path.parent().filter(|parent| is_listed(&parent.join(CONFIG))) {
        let folder = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let what = "not a folder: it is one file of a checkpoint";
        let remedy = format!("give its folder, {}", quoted(&folder.to_string_lossy()));
        return CheckpointError::is(path, what, remedy);
    }
    let bag = "give it to --bag of openvla eval run or openvla replay, and here the folder of a \
        checkpoint";
    let (what, remedy) = if head.starts_with(b"\x89MCAP") || head.starts_with(b"SQLite format 3") {
        ("not a folder: it is a ROS 2 bag", bag)
    } else if head.starts_with(b"#ROSBAG") {
        ("not a folder: it is a ROS 1 bag", "give the folder of a checkpoint")
    } else if ends(&[".zip", ".tar", ".tar.gz", ".tgz", ".tar.zst", ".7z", ".tar.xz"]) {
        ("not a folder: it is an archive", "unpack it and give the folder")
    } else if ends(&[".yaml", ".yml"]) {
        ("not a folder: it is a YAML file", "a policy file goes to --policy-file (policy_file)")
    } else if let Some(found) = super::foreign::recognise(&head) {
        return CheckpointError::is(path, format!("not a folder: it {}", found.what), GIVE);
    } else {
        ("not a folder: it is a file", GIVE)
    };
    CheckpointError::is(path, what, remedy)
}

/// The snapshot that a folder of Hugging Face's cache stands for; `None` for any other folder.
/// `refs/main` names it; without that the only snapshot is taken.
fn snapshot(folder: &Path) -> Result<Option<PathBuf>, CheckpointError> {
    let folder = match folder.file_name() {
        Some(name) if name == "snapshots" => folder.parent().unwrap_or(folder),
        _ => folder,
    };
    let snapshots = folder.join("snapshots");
    if !snapshots.is_dir() {
        return Ok(None);
    }
    let fail = |what: String, remedy: &str| Err(CheckpointError::is(folder, what, remedy));
    if folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("datasets--")) {
        let remedy = "give the folder of a checkpoint that was trained with it";
        return fail("is a data set in Hugging Face's cache".into(), remedy);
    }
    let again = "the download did not finish; run hf download again";
    let main = folder.join("refs").join("main");
    if is_listed(&main) {
        let bytes = read_bounded(&main, MAX_REVISION_BYTES, again)?;
        let text = String::from_utf8_lossy(&bytes);
        let revision = text.trim();
        let mut parts = Path::new(revision).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        let snapshot = snapshots.join(revision);
        if plain && snapshot.is_dir() {
            return Ok(Some(snapshot));
        }
        let what = format!(
            "is a folder of Hugging Face's cache, whose refs/main names the snapshot {}, which is \
            not there",
            quoted(revision)
        );
        return fail(what, again);
    }
    let names: Vec<String> =
        entries(&snapshots).into_iter().filter(|name| snapshots.join(name).is_dir()).collect();
    match names.as_slice() {
        [only] => Ok(Some(snapshots.join(only))),
        [] => fail("is a folder of Hugging Face's cache without a snapshot".into(), again),
        [first, ..] => fail(
            format!(
                "is a folder of Hugging Face's cache with {} snapshots and without refs/main",
                names.len()
            ),
            &format!(
                "give one of them, {} for instance",
                quoted(&snapshots.join(first).to_string_lossy())
            ),
        ),
    }
}
