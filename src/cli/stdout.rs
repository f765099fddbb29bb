//! Standard output belongs to the program's own answers: a library in this process that writes
//! there, as TT-NN's logger does, would end up inside `--json`. The program keeps a duplicate of
//! file descriptor 1 for itself and lets descriptor 1 lead to standard error.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;

/// Standard output as it was at the start; `None` when it could not be kept apart.
static KEPT: OnceLock<Option<File>> = OnceLock::new();

/// Keeps standard output for [`write_line`]. Where a descriptor is closed, nothing is changed.
pub(super) fn keep() {
    KEPT.get_or_init(|| {
        let kept = io::stdout().as_fd().try_clone_to_owned().ok()?;
        // SAFETY: two descriptors of this process, with no owner but the process itself; Rust's
        // own `stdout` has written nothing yet and goes on to work, to standard error.
        let moved = unsafe { libc::dup2(libc::STDERR_FILENO, libc::STDOUT_FILENO) };
        (moved != -1).then(|| File::from(kept))
    });
}

/// Writes one line to standard output; a closed pipe is an error, not a panic.
///
/// # Errors
/// Of the write.
pub(crate) fn write_line(text: &str) -> io::Result<()> {
    let line = format!("{text}\n");
    match KEPT.get() {
        Some(Some(kept)) => (&mut &*kept).write_all(line.as_bytes()),
        _ => io::stdout().lock().write_all(line.as_bytes()),
    }
}
