//! sqlite files whose recorder did not finish: with a rollback journal or a write-ahead log beside
//! them.
//!
//! sqlite restores such a file when it is opened for writing. Without the journal, half of an
//! interrupted transaction is read; with a read-only connection, a log leaves a file in the user's
//! folder. So file and journal are copied to a temporary file and restored there by sqlite itself;
//! the user's files are only read.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::{BagError, Limits};

/// First bytes of a rollback journal that is to be rolled back; sqlite zeroes them when a
/// transaction is over.
const JOURNAL: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

/// What is beside the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beside {
    Journal,
    Log,
}

impl Beside {
    fn suffix(self) -> &'static str {
        match self {
            Self::Journal => "-journal",
            Self::Log => "-wal",
        }
    }

    /// In words, with what sqlite does with it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Journal => "a rollback journal: its last transaction was undone",
            Self::Log => "a write-ahead log: the transactions in it were added",
        }
    }

    /// What belongs to the database at `path`, if it matters.
    pub fn of(path: &Path) -> Option<Self> {
        let mut start = [0; 8];
        let journal = std::fs::File::open(name(path, Self::Journal))
            .and_then(|mut file| file.read_exact(&mut start));
        if journal.is_ok() && start == JOURNAL {
            return Some(Self::Journal);
        }
        let log = std::fs::metadata(name(path, Self::Log));
        log.is_ok_and(|log| log.len() > 0).then_some(Self::Log)
    }
}

fn name(database: &Path, beside: Beside) -> PathBuf {
    let mut name: OsString = database.as_os_str().to_owned();
    name.push(beside.suffix());
    name.into()
}

/// A restored copy, which is removed when the returned value is dropped.
pub(super) fn to_temporary(
    path: &Path,
    beside: Beside,
    limits: &Limits,
) -> Result<tempfile::TempPath, BagError> {
    let copied = |from: &Path, to: &Path| -> Result<(), BagError> {
        let bytes = std::fs::metadata(from).map_err(BagError::io("open", from))?.len();
        if bytes > limits.temporary_bytes {
            return Err(BagError::TooLarge {
                path: from.to_owned(),
                what: "the size in bytes of a file that must be copied to be restored",
                value: bytes,
                limit: limits.temporary_bytes,
            });
        }
        // By reading: a copy of the permissions of a read-only file could not be restored.
        let mut source = std::fs::File::open(from).map_err(BagError::io("open", from))?;
        let mut target = std::fs::File::create(to).map_err(BagError::io("copy", from))?;
        std::io::copy(&mut source, &mut target).map_err(BagError::io("copy", from))?;
        Ok(())
    };
    let temporary = tempfile::Builder::new()
        .prefix("rosbag2-reader-")
        .suffix(".db3")
        .tempfile()
        .map_err(BagError::io("make a temporary file for", path))?
        .into_temp_path();
    let aside = name(&temporary, beside);
    let restored = copied(path, &temporary)
        .and_then(|()| copied(&name(path, beside), &aside))
        .and_then(|()| restore(&temporary, path));
    // sqlite has removed the journal; after an error it may be there.
    for left in [Beside::Journal.suffix(), Beside::Log.suffix(), "-shm"] {
        let mut file = temporary.as_os_str().to_owned();
        file.push(left);
        let _ = std::fs::remove_file(file);
    }
    restored.map(|()| temporary)
}

/// Opens the copy for writing, by which sqlite restores it.
fn restore(copy: &Path, shown: &Path) -> Result<(), BagError> {
    let restored = Connection::open(copy).and_then(|connection| {
        connection.pragma_update(None, "trusted_schema", false)?;
        connection
            .query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get::<_, i64>(0))?;
        // Moves the log's transactions into the file; without a log nothing happens.
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        connection.close().map_err(|(_, error)| error)
    });
    restored.map_err(|error| BagError::Damaged {
        path: shown.to_owned(),
        messages: 0,
        what: format!("sqlite cannot restore it from the journal beside it ({error})"),
    })
}
