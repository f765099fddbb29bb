//! An open Parquet file. Errors and panics of the library become errors of the file.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::schema::types::ColumnDescPtr;

use super::error::DatasetError;
use super::limits::{MAX_COLUMN_BYTES, MAX_ROWS};

/// An open file whose metadata have been checked.
pub struct ParquetFile {
    /// Where it lies.
    pub path: PathBuf,
    pub(crate) reader: SerializedFileReader<File>,
}

/// Runs code of the Parquet library on bytes from outside.
pub fn guarded<T>(
    path: &Path,
    work: impl FnOnce() -> parquet::errors::Result<T>,
) -> Result<T, DatasetError> {
    // The library checks what it reads, but not all of it without a panic.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            let line = foreign_text::one_line(&error.to_string(), 400);
            Err(DatasetError::damaged(path, format!("not a complete Parquet file: {line}")))
        }
        Err(_) => Err(DatasetError::damaged(path, "not a Parquet file that can be read")),
    }
}

impl ParquetFile {
    /// Opens a file of at most `limit` bytes.
    pub fn open(path: &Path, limit: u64) -> Result<ParquetFile, DatasetError> {
        let file = File::open(path).map_err(DatasetError::io("open", path))?;
        let about = file.metadata().map_err(DatasetError::io("open", path))?;
        if !about.is_file() {
            return Err(DatasetError::damaged(path, "it is no file"));
        }
        DatasetError::limit(path, "its size", about.len(), limit)?;
        pointer(path, about.len())?;
        let reader = guarded(path, || SerializedFileReader::new(file))?;
        let open = ParquetFile { path: path.to_owned(), reader };
        open.check(about.len())?;
        Ok(open)
    }

    /// Checks what the metadata state against the file and the limits.
    fn check(&self, bytes: u64) -> Result<(), DatasetError> {
        let metadata = self.reader.metadata();
        let mut rows = 0_u64;
        for group in metadata.row_groups() {
            let count = u64::try_from(group.num_rows())
                .map_err(|_| DatasetError::damaged(&self.path, "a negative number of rows"))?;
            rows = rows.saturating_add(count);
            for column in group.columns() {
                let size = column.uncompressed_size();
                if !(0..=MAX_COLUMN_BYTES).contains(&size) {
                    return Err(DatasetError::damaged(
                        &self.path,
                        format!("the size of a column is {size}"),
                    ));
                }
                let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
                if start < 0 || column.data_page_offset() < 0 || column.compressed_size() < 0 {
                    return Err(DatasetError::damaged(&self.path, "a negative place of a column"));
                }
                let (offset, size) = guarded(&self.path, || Ok(column.byte_range()))?;
                if offset.checked_add(size).is_none_or(|end| bytes < end) {
                    return Err(DatasetError::damaged(&self.path, "it ends within a column"));
                }
            }
        }
        DatasetError::limit(&self.path, "its number of rows", rows, MAX_ROWS)
    }

    /// Rows of each row group.
    pub fn groups(&self) -> Vec<u64> {
        let groups = self.reader.metadata().row_groups().iter();
        groups.map(|group| u64::try_from(group.num_rows()).unwrap_or(0)).collect()
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.groups().iter().sum()
    }

    /// The leaves of a column, by the column's name: place and type.
    pub fn leaves(&self, name: &str) -> Vec<(usize, ColumnDescPtr)> {
        let schema = self.reader.metadata().file_metadata().schema_descr();
        let leaves = schema.columns().iter().enumerate();
        leaves
            .filter(|(_, leaf)| leaf.path().parts().first().is_some_and(|part| part == name))
            .map(|(place, leaf)| (place, leaf.clone()))
            .collect()
    }
}

/// Names a file that Git LFS left in place of the data.
fn pointer(path: &Path, bytes: u64) -> Result<(), DatasetError> {
    if 1024 < bytes {
        return Ok(());
    }
    let text = std::fs::read(path).map_err(DatasetError::io("read", path))?;
    if text.starts_with(b"version https://git-lfs") {
        let remedy = "run `git lfs pull` in the dataset's folder";
        return Err(DatasetError::invalid(path, "it is a Git LFS pointer", remedy));
    }
    Ok(())
}
