//! Memory-mapped files. The only place that maps memory.

use std::fs::{File, Metadata};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::{Advice, Mmap};

use super::error::CheckpointError;

/// Weights larger than this are no checkpoint that this program can run, bytes (4 TiB).
const MAX_WEIGHT_BYTES: u64 = 1 << 42;
/// Bytes that divide into whole pages on every processor (64 KB on some ARM kernels).
#[cfg(target_os = "linux")]
const PAGE: usize = 64 << 10;

/// A read-only map of a whole regular file, with its length and modification time at mapping.
///
/// # Files that change under the map
/// A file that is *shortened* while mapped ends the process with SIGBUS at the next access past its
/// end; no check can prevent that. A file *rewritten* in place changes the weights under
/// the running model. Neither happens when a checkpoint is replaced by renaming (as
/// `huggingface_hub` does): the map keeps the old file alive. [`MappedFile::verify_unchanged`]
/// detects it afterwards, so that a long-running node can report it.
#[derive(Debug)]
pub(super) struct MappedFile {
    path: PathBuf,
    map: Mmap,
    modified: Option<SystemTime>,
    inode: Option<u64>,
}

impl MappedFile {
    /// Maps the regular file at `path`; `remedy` is part of the error when there is none.
    pub(super) fn open(path: &Path, remedy: &'static str) -> Result<Self, CheckpointError> {
        // Checked before opening: opening a FIFO waits for a writer without limit.
        let metadata = std::fs::metadata(path)
            .map_err(|error| CheckpointError::io(path, "open", &error, remedy))?;
        if !metadata.is_file() {
            let error = std::io::Error::other("not a regular file");
            return Err(CheckpointError::io(path, "open", &error, remedy));
        }
        let file =
            File::open(path).map_err(|error| CheckpointError::io(path, "open", &error, remedy))?;
        let metadata = file
            .metadata()
            .map_err(|error| CheckpointError::io(path, "read the size", &error, remedy))?;
        if metadata.len() > MAX_WEIGHT_BYTES {
            return Err(CheckpointError::TooLarge {
                path: path.to_owned(),
                bytes: metadata.len(),
                limit: MAX_WEIGHT_BYTES,
            });
        }
        // SAFETY: the map is read-only and its bytes are only read as integers and floats, for
        // which every bit pattern is valid, so a file that is rewritten meanwhile changes values
        // but breaks no invariant. Shortening it raises SIGBUS, which ends the process; see the
        // type's documentation.
        let map = unsafe { Mmap::map(&file) }
            .map_err(|error| CheckpointError::io(path, "map", &error, remedy))?;
        Ok(Self {
            path: path.to_owned(),
            map,
            modified: metadata.modified().ok(),
            inode: inode(&metadata),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Requests read-ahead of `range`. Advice only: a refusal costs time, not correctness.
    pub(super) fn prefetch(&self, range: Range<usize>) {
        let _ = self.map.advise_range(Advice::WillNeed, range.start, range.len());
    }

    /// Gives back the memory of the whole pages of `range`; another access reads them again, from
    /// the system's cache while it has them. Advice only.
    pub(super) fn release(&self, range: Range<usize>) {
        #[cfg(target_os = "linux")]
        {
            let start = range.start.next_multiple_of(PAGE);
            let end = if range.end == self.map.len() { range.end } else { range.end / PAGE * PAGE };
            if start < end {
                // SAFETY: the map is of a file and read-only, so that no content is lost: a reader
                // of these pages, now or later, gets the file's bytes.
                let advised = unsafe {
                    self.map.unchecked_advise_range(
                        memmap2::UncheckedAdvice::DontNeed,
                        start,
                        end - start,
                    )
                };
                let _ = advised;
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = range;
    }

    /// Whether the mapped file still has the length and modification time that it had.
    pub(super) fn verify_unchanged(&self) -> Result<(), CheckpointError> {
        let changed = |detail: String| CheckpointError::Changed { path: self.path.clone(), detail };
        let Ok(metadata) = std::fs::metadata(&self.path) else {
            return Ok(()); // unlinked: the map holds the old file, which no path leads to
        };
        if inode(&metadata) != self.inode {
            return Ok(()); // replaced by renaming: likewise
        }
        if metadata.len() != self.map.len() as u64 {
            return Err(changed(format!(
                "{} bytes when opened, {} now",
                self.map.len(),
                metadata.len()
            )));
        }
        if metadata.modified().ok() != self.modified {
            return Err(changed("a newer modification time".to_owned()));
        }
        Ok(())
    }
}

#[cfg(unix)]
fn inode(metadata: &Metadata) -> Option<u64> {
    Some(std::os::unix::fs::MetadataExt::ino(metadata))
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> Option<u64> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Resident kilobytes of the map that begins at `start`.
    fn resident(start: *const u8) -> u64 {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let from = format!("{:x}-", start as usize);
        let after = &maps[maps.find(&format!("\n{from}")).unwrap()..];
        let line = after.lines().find(|line| line.starts_with("Rss:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn released_pages_take_no_memory_and_keep_their_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        let content: Vec<u8> = (0..1u32 << 20).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = MappedFile::open(&path, "none").unwrap();
        assert_eq!(file.bytes(), content);
        assert_eq!(resident(file.bytes().as_ptr()), 1024);
        file.release(100..content.len());
        assert_eq!(resident(file.bytes().as_ptr()), 64, "the first page is not whole");
        // Ranges without a whole page.
        file.release(10..20);
        file.release(65_000..66_000);
        file.release(70_000..70_000);
        assert_eq!(file.bytes(), content);
    }
}
