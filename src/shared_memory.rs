//! Shared-memory segments of Fast DDS.
//!
//! A process that is killed leaves its segments in /dev/shm, each of the configured size
//! (config/fastdds.xml: 64 MiB), and Fast DDS does not remove them later. Each segment has a lock
//! file `<segment>_el` that a living process holds locked; without such a process it is removed
//! here, as `fastdds shm clean` does.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

#[cfg(feature = "ros")]
const FOLDER: &str = "/dev/shm";
/// Younger segments are left alone: their process may not have locked them yet.
const YOUNG: Duration = Duration::from_secs(10);

/// Number of the segments of this user's processes that have ended, and their total size in bytes.
#[cfg(feature = "cli")]
pub(crate) fn count_abandoned(folder: &Path) -> (usize, u64) {
    let found = abandoned(folder, YOUNG);
    let sizes = found.iter().filter_map(|(_lock, paths)| fs::metadata(&paths[0]).ok());
    (found.len(), sizes.map(|metadata| metadata.len()).sum())
}

/// Removes the segments of this user's processes that have ended; returns their total size in
/// bytes, 0 if there were none.
#[cfg(feature = "ros")]
pub(crate) fn remove_abandoned_segments() -> u64 {
    abandoned(Path::new(FOLDER), YOUNG).into_iter().map(|(_lock, paths)| remove(&paths)).sum()
}

/// The lock, held while the files are removed, and the files of each abandoned segment.
fn abandoned(folder: &Path, young: Duration) -> Vec<(File, [PathBuf; 2])> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let user = own_user();
    entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let segment = name.strip_suffix("_el")?;
            is_segment(segment).then_some(())?;
            let paths = [folder.join(segment), folder.join(&name)];
            let metadata = fs::symlink_metadata(&paths[1]).ok()?;
            let age = SystemTime::now().duration_since(metadata.modified().ok()?).ok()?;
            if !metadata.is_file() || Some(metadata.uid()) != user || age < young {
                return None;
            }
            let lock = File::open(&paths[1]).ok()?;
            lock.try_lock().ok()?;
            Some((lock, paths))
        })
        .collect()
}

/// `fastrtps_` or `fastdds_` and sixteen hexadecimal digits.
fn is_segment(name: &str) -> bool {
    ["fastrtps_", "fastdds_"].iter().any(|prefix| {
        name.strip_prefix(prefix)
            .is_some_and(|id| id.len() == 16 && id.bytes().all(|c| c.is_ascii_hexdigit()))
    })
}

#[cfg(any(feature = "ros", test))]
fn remove(paths: &[PathBuf; 2]) -> u64 {
    let size = fs::metadata(&paths[0]).map_or(0, |metadata| metadata.len());
    // Another process may have removed them at the same time.
    let removed = paths.iter().filter(|path| fs::remove_file(path).is_ok()).count();
    if removed == 0 { 0 } else { size }
}

/// The effective user of this process.
fn own_user() -> Option<u32> {
    fs::metadata("/proc/self").ok().map(|metadata| metadata.uid())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_unlocked_segments_are_abandoned() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["fastrtps_0123456789abcdef", "fastrtps_aaaaaaaaaaaaaaaa"] {
            fs::write(path(name), [0; 64]).unwrap();
            fs::write(path(&format!("{name}_el")), []).unwrap();
        }
        fs::write(path("fastrtps_port7411_el"), []).unwrap();
        fs::write(path("other_el"), []).unwrap();
        let alive = File::open(path("fastrtps_aaaaaaaaaaaaaaaa_el")).unwrap();
        alive.try_lock().unwrap();
        assert!(abandoned(folder.path(), Duration::from_secs(60)).is_empty(), "young");
        let found = abandoned(folder.path(), Duration::ZERO);
        assert_eq!(found.len(), 1);
        assert_eq!(remove(&found[0].1), 64);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
    }
}
