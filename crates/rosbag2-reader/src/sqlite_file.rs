//! Reads one sqlite3 file of rosbag2.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags, params_from_iter};

use super::mcap_file::{Channel, Found};
use super::{BagError, Limits};

/// Messages that the reading thread reads ahead.
const AHEAD: usize = 4;

/// A message of the file.
pub(super) struct Row {
    pub topic: i64,
    pub log_time: i64,
    pub payload: Vec<u8>,
}

/// Topics of the file; `count` also counts their messages, which scans the whole table.
pub(super) fn topics(
    path: &Path,
    shown: &Path,
    limits: &Limits,
    count: bool,
) -> Result<(Found, Vec<i64>), BagError> {
    let database = Database::open(path, shown, limits)?;
    database.topics(count)
}

/// A restricted connection.
struct Database {
    connection: Connection,
    /// Path for error messages, where the database is a temporary file.
    shown: PathBuf,
    limits: Limits,
}

impl Database {
    fn open(path: &Path, shown: &Path, limits: &Limits) -> Result<Database, BagError> {
        let size = std::fs::metadata(path).map_err(BagError::io("open", shown))?.len();
        if size == 0 {
            return Err(BagError::Empty { path: shown.to_owned(), what: "0 bytes" });
        }
        check_pages(path, shown, size)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_URI;
        // `immutable` allows read-only media and makes no file beside it. A journal or log, which
        // it would ignore, was dealt with in a copy (`recover`).
        let opened = Connection::open_with_flags(uri(path), flags);
        let database = Database {
            connection: opened.map_err(|error| damaged(shown, 0, &error, limits))?,
            shown: shown.to_owned(),
            limits: *limits,
        };
        database.restrict().map_err(|error| damaged(shown, 0, &error, limits))?;
        Ok(database)
    }

    /// Forbids writing and functions of the schema, and limits the size of values.
    fn restrict(&self) -> rusqlite::Result<()> {
        let bytes = i32::try_from(self.limits.message_bytes).unwrap_or(i32::MAX);
        self.connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, bytes)?;
        self.connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        self.connection.pragma_update(None, "trusted_schema", false)?;
        self.connection.pragma_update(None, "query_only", true)?;
        self.connection.pragma_update(None, "cell_size_check", true)
    }

    /// Refuses views and virtual tables in the place of rosbag2's tables.
    fn check_tables(&self) -> Result<(), BagError> {
        for table in ["topics", "messages"] {
            let sql = "SELECT count(*) FROM sqlite_master WHERE name = ?1 AND type = 'table' AND \
                sql LIKE 'CREATE TABLE%'";
            let tables: i64 = self
                .connection
                .query_row(sql, [table], |row| row.get(0))
                .map_err(|error| self.damaged(0, &error))?;
            if tables != 1 {
                return Err(BagError::Damaged {
                    path: self.shown.clone(),
                    messages: 0,
                    what: format!("it has no table `{table}`; it is not a rosbag2 file"),
                });
            }
        }
        Ok(())
    }

    fn topics(&self, count: bool) -> Result<(Found, Vec<i64>), BagError> {
        self.check_tables()?;
        self.read_topics(count).map_err(|error| self.damaged(0, &error)).and_then(|found| {
            if found.0.len() <= self.limits.topics {
                return Ok(found);
            }
            Err(BagError::TooLarge {
                path: self.shown.clone(),
                what: "the number of topics",
                value: found.0.len() as u64,
                limit: self.limits.topics as u64,
            })
        })
    }

    fn read_topics(&self, count: bool) -> rusqlite::Result<(Found, Vec<i64>)> {
        let mut statement = self.connection.prepare(
            "SELECT id, name, type, serialization_format FROM topics ORDER BY id LIMIT ?1",
        )?;
        let mut rows = statement.query([self.limits.topics as i64 + 1])?;
        let (mut found, mut ids) = (Found::new(), Vec::new());
        while let Some(row) = rows.next()? {
            let channel =
                Channel { topic: row.get(1)?, type_name: row.get(2)?, encoding: row.get(3)? };
            ids.push(row.get(0)?);
            found.push((channel, None));
        }
        // With a broken page among the messages, the topics and earlier messages are readable.
        if count && let Ok(counts) = self.count() {
            for (topic, id) in found.iter_mut().zip(&ids) {
                topic.1 = Some(counts.get(id).copied().unwrap_or(0));
            }
        }
        Ok((found, ids))
    }

    /// Messages by the row identifier of their topic.
    fn count(&self) -> rusqlite::Result<HashMap<i64, u64>> {
        let mut statement =
            self.connection.prepare("SELECT topic_id, count(*) FROM messages GROUP BY topic_id")?;
        let rows = statement
            .query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())))?;
        rows.collect()
    }

    /// Hands the messages of `topics` to `send` in the order of their time, until it returns false.
    fn messages(
        &self,
        topics: &[i64],
        from: i64,
        until: i64,
        sent: &mut u64,
        send: &mut dyn FnMut(Row) -> bool,
    ) -> rusqlite::Result<()> {
        let marks = vec!["?"; topics.len()].join(",");
        // rosbag2 indexes the time. Without an index, sqlite would sort all images in a temporary
        // file; the order of writing is nearly sorted, and the sorting window does the rest.
        let indexed: i64 = self.connection.query_row(
            "SELECT count(*) FROM pragma_index_list('messages') AS l, pragma_index_info(l.name) \
            AS i WHERE i.seqno = 0 AND i.name = 'timestamp'",
            [],
            |row| row.get(0),
        )?;
        let order = if indexed > 0 { "timestamp, id" } else { "id" };
        let sql = format!(
            "SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN ({marks}) AND \
            timestamp BETWEEN ? AND ? ORDER BY {order}"
        );
        let mut statement = self.connection.prepare(&sql)?;
        let values = topics.iter().copied().chain([from, until]);
        let mut rows = statement.query(params_from_iter(values))?;
        while let Some(row) = rows.next()? {
            let payload = match row.get_ref(2)? {
                rusqlite::types::ValueRef::Blob(bytes) => bytes.to_vec(),
                other => {
                    return Err(rusqlite::Error::InvalidColumnType(
                        2,
                        "data".to_owned(),
                        other.data_type(),
                    ));
                }
            };
            *sent += 1;
            if !send(Row { topic: row.get(0)?, log_time: row.get(1)?, payload }) {
                break;
            }
        }
        Ok(())
    }

    fn damaged(&self, messages: u64, error: &rusqlite::Error) -> BagError {
        damaged(&self.shown, messages, error, &self.limits)
    }
}

/// Refuses a file that ends inside a page. sqlite detects missing pages, but reads the
/// missing part of the last page as zeros: part of an image would silently become black.
fn check_pages(path: &Path, shown: &Path, size: u64) -> Result<(), BagError> {
    use std::io::Read;
    let mut header = [0; 18];
    let mut file = std::fs::File::open(path).map_err(BagError::io("open", shown))?;
    if file.read_exact(&mut header).is_err() || !header.starts_with(b"SQLite format 3") {
        // Not a database: sqlite reports it.
        return Ok(());
    }
    let page = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        bytes => u64::from(bytes.max(512)),
    };
    match size % page {
        0 => Ok(()),
        rest => Err(BagError::Damaged {
            path: shown.to_owned(),
            messages: 0,
            what: format!("it ends {rest} bytes into a page of {page}"),
        }),
    }
}

fn damaged(path: &Path, messages: u64, error: &rusqlite::Error, limits: &Limits) -> BagError {
    if error.sqlite_error_code() == Some(rusqlite::ErrorCode::TooBig) {
        let limit = limits.message_bytes as u64;
        return BagError::TooLarge {
            path: path.to_owned(),
            what: "a message's size in bytes",
            value: limit + 1,
            limit,
        };
    }
    BagError::Damaged { path: path.to_owned(), messages, what: error.to_string() }
}

/// SQLite's URI form of a path, with `immutable`.
fn uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => {
                uri.push(char::from(*byte))
            }
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    uri + "?immutable=1"
}

/// Reads a file on a thread of its own: a statement borrows its connection, so the two cannot be
/// returned together, and reading overlaps with decoding. The channel limits the read-ahead.
pub(super) struct SqliteFile {
    rows: Option<Receiver<Result<Row, BagError>>>,
    thread: Option<JoinHandle<()>>,
}

impl SqliteFile {
    /// Reads the topics with the identifiers `topics` in `from..=until`. `shown` is the path
    /// for error messages.
    pub fn open(
        path: &Path,
        shown: &Path,
        limits: &Limits,
        topics: Vec<i64>,
        from: i64,
        until: i64,
    ) -> Result<SqliteFile, BagError> {
        let database = Database::open(path, shown, limits)?;
        let (sender, rows) = sync_channel(AHEAD);
        let thread = std::thread::Builder::new()
            .name("bag".to_owned())
            .spawn(move || {
                let mut sent = 0;
                let read = database.messages(&topics, from, until, &mut sent, &mut |row| {
                    sender.send(Ok(row)).is_ok()
                });
                if let Err(error) = read {
                    // Sending fails when the receiver was dropped; the error is not needed then.
                    let _ = sender.send(Err(database.damaged(sent, &error)));
                }
            })
            .map_err(BagError::io("start a thread to read", shown))?;
        Ok(SqliteFile { rows: Some(rows), thread: Some(thread) })
    }

    /// The next message.
    pub fn next(&mut self) -> Option<Result<Row, BagError>> {
        self.rows.as_ref()?.recv().ok()
    }
}

impl Drop for SqliteFile {
    fn drop(&mut self) {
        // Dropping the receiver first ends the thread at its next message.
        self.rows = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
