//! Values of one column in one row group, row by row: vectors of numbers, and byte strings.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType;
use parquet::file::reader::FileReader;

use super::error::DatasetError;
use super::parquet_file::{ParquetFile, guarded};

/// A leaf of the schema in one row group.
struct Leaf {
    path: PathBuf,
    /// Name of the column, for messages.
    name: String,
    /// Level of a value that is there.
    present: i16,
    /// 0 for one value per row, 1 for a list.
    depth: i16,
    reader: ColumnReader,
    /// Rows taken so far, of `rows`.
    taken: u64,
    rows: u64,
}

impl Leaf {
    /// Opens the leaf of a column whose path ends with `last`; of numbers and texts the only one.
    fn open(
        file: &ParquetFile,
        group: usize,
        name: &str,
        last: Option<&str>,
    ) -> Result<(Leaf, i64), DatasetError> {
        let leaves = file.leaves(name);
        let is_wanted = |parts: &[String]| match last {
            Some(last) => parts.len() == 2 && parts[1] == last,
            None => true,
        };
        let found: Vec<_> =
            leaves.iter().filter(|(_, leaf)| is_wanted(leaf.path().parts())).collect();
        let [(place, leaf)] = found.as_slice() else {
            let what = match (leaves.len(), last) {
                (0, _) => format!("the column {name} is missing"),
                (_, Some(last)) => format!("the column {name} has no field '{last}'"),
                (count, None) => format!("the column {name} has {count} parts instead of one"),
            };
            return Err(DatasetError::damaged(&file.path, what));
        };
        let (reader, values) = guarded(&file.path, || {
            let rows = file.reader.get_row_group(group)?;
            Ok((rows.get_column_reader(*place)?, rows.metadata().column(*place).num_values()))
        })?;
        let leaf = Leaf {
            path: file.path.clone(),
            name: name.to_owned(),
            present: leaf.max_def_level(),
            depth: leaf.max_rep_level(),
            reader,
            taken: 0,
            rows: file.groups().get(group).copied().unwrap_or(0),
        };
        Ok((leaf, values))
    }

    fn wrong(&self, what: &str) -> DatasetError {
        DatasetError::damaged(&self.path, format!("the column {} {what}", self.name))
    }

    fn skip(&mut self, count: u64) -> Result<(), DatasetError> {
        let wanted = usize::try_from(count).unwrap_or(usize::MAX);
        let reader = &mut self.reader;
        let skipped = guarded(&self.path, || match reader {
            ColumnReader::BoolColumnReader(r) => r.skip_records(wanted),
            ColumnReader::Int32ColumnReader(r) => r.skip_records(wanted),
            ColumnReader::Int64ColumnReader(r) => r.skip_records(wanted),
            ColumnReader::FloatColumnReader(r) => r.skip_records(wanted),
            ColumnReader::DoubleColumnReader(r) => r.skip_records(wanted),
            ColumnReader::ByteArrayColumnReader(r) => r.skip_records(wanted),
            _ => Ok(0),
        })?;
        if skipped != wanted {
            return Err(self.wrong("ends before its last row"));
        }
        self.taken += count;
        Ok(())
    }

    /// Checks the levels of rows that were read: every value there, `width` for each row.
    fn check(&self, levels: &Levels, rows: usize, width: usize) -> Result<(), DatasetError> {
        let count = rows * width;
        if levels.rows != rows {
            return Err(self.wrong("ends before its last row"));
        }
        let row = |place: usize| self.taken + (place / width) as u64;
        if let Some(place) = levels.definition.iter().position(|level| *level != self.present) {
            return Err(self.wrong(&format!("has no value in row {} of a group", row(place))));
        }
        // A list begins where its repetition level is 0.
        let starts = levels.repetition.iter().enumerate();
        let begins = starts.filter(|(_, level)| **level == 0).map(|(place, _)| place);
        let is_even = self.depth == 0
            || levels.repetition.len() == count
                && begins.enumerate().all(|(nth, place)| place == nth * width);
        if levels.values != count || !is_even {
            return Err(self.wrong(&format!("does not have {width} numbers in every row")));
        }
        Ok(())
    }
}

/// What was read beside the values.
struct Levels {
    rows: usize,
    values: usize,
    definition: Vec<i16>,
    repetition: Vec<i16>,
}

fn take<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    rows: usize,
) -> parquet::errors::Result<(Vec<T::T>, Levels)> {
    let (mut values, mut definition, mut repetition) = (Vec::new(), Vec::new(), Vec::new());
    let mut total = 0;
    // A call may end at the end of a page.
    while total < rows {
        let (read, _, levels) = reader.read_records(
            rows - total,
            Some(&mut definition),
            Some(&mut repetition),
            &mut values,
        )?;
        if read == 0 && levels == 0 {
            break;
        }
        total += read;
    }
    let count = values.len();
    Ok((values, Levels { rows: total, values: count, definition, repetition }))
}

/// A column of vectors, each of `width` numbers.
pub struct Vectors {
    leaf: Leaf,
    width: usize,
}

impl Vectors {
    /// Opens a column of numbers or of lists of numbers in one row group.
    pub fn open(
        file: &ParquetFile,
        group: usize,
        name: &str,
        width: usize,
    ) -> Result<Vectors, DatasetError> {
        let (leaf, values) = Leaf::open(file, group, name, None)?;
        let is_number = matches!(
            leaf.reader,
            ColumnReader::BoolColumnReader(_)
                | ColumnReader::Int32ColumnReader(_)
                | ColumnReader::Int64ColumnReader(_)
                | ColumnReader::FloatColumnReader(_)
                | ColumnReader::DoubleColumnReader(_)
        );
        if !is_number || 1 < leaf.depth {
            return Err(leaf.wrong("has no vectors of numbers"));
        }
        // Before anything is reserved for values.
        let stated = u64::try_from(values).unwrap_or(u64::MAX);
        if leaf.rows.checked_mul(width as u64) != Some(stated) || width == 0 {
            let rows = leaf.rows;
            return Err(leaf.wrong(&format!(
                "has {values} numbers in {rows} rows, where info.json states {width} for each"
            )));
        }
        Ok(Vectors { leaf, width })
    }

    /// Passes over rows.
    pub fn skip(&mut self, rows: u64) -> Result<(), DatasetError> {
        self.leaf.skip(rows)
    }

    /// The next rows, `width` numbers each.
    pub fn read(&mut self, rows: usize) -> Result<Vec<f64>, DatasetError> {
        let leaf = &mut self.leaf;
        let reader = &mut leaf.reader;
        let (values, levels): (Vec<f64>, Levels) = guarded(&leaf.path, || {
            Ok(match reader {
                ColumnReader::BoolColumnReader(r) => {
                    let (values, levels) = take(r, rows)?;
                    (values.into_iter().map(|v| f64::from(u8::from(v))).collect(), levels)
                }
                ColumnReader::Int32ColumnReader(r) => {
                    let (values, levels) = take(r, rows)?;
                    (values.into_iter().map(f64::from).collect(), levels)
                }
                ColumnReader::Int64ColumnReader(r) => {
                    let (values, levels) = take(r, rows)?;
                    (values.into_iter().map(|v| v as f64).collect(), levels)
                }
                ColumnReader::FloatColumnReader(r) => {
                    let (values, levels) = take(r, rows)?;
                    (values.into_iter().map(f64::from).collect(), levels)
                }
                ColumnReader::DoubleColumnReader(r) => take(r, rows)?,
                _ => return Err(parquet::errors::ParquetError::General("no numbers".to_owned())),
            })
        })?;
        leaf.check(&levels, rows, self.width)?;
        leaf.taken += rows as u64;
        Ok(values)
    }

    /// The next rows of whole numbers that are not negative.
    pub fn counts(&mut self, rows: usize) -> Result<Vec<u64>, DatasetError> {
        let name = self.leaf.name.clone();
        let path = self.leaf.path.clone();
        let one = |value: f64| count(&path, &name, value);
        self.read(rows)?.into_iter().map(one).collect()
    }
}

fn count(path: &Path, name: &str, value: f64) -> Result<u64, DatasetError> {
    // Whole numbers up to 2^53 are exact in a double.
    if value.fract() == 0.0 && (0.0..9.0e15).contains(&value) {
        return Ok(value as u64);
    }
    Err(DatasetError::damaged(path, format!("the column {name} has {value}, which is no count")))
}

/// A column of byte strings: texts, or the bytes of pictures.
pub struct Strings {
    leaf: Leaf,
    limit: usize,
}

impl Strings {
    /// Opens a column of texts, or the field `last` of a column of structures, in one row group. A
    /// value of more than `limit` bytes is an error.
    pub fn open(
        file: &ParquetFile,
        group: usize,
        name: &str,
        last: Option<&str>,
        limit: usize,
    ) -> Result<Strings, DatasetError> {
        let (leaf, _) = Leaf::open(file, group, name, last)?;
        if !matches!(leaf.reader, ColumnReader::ByteArrayColumnReader(_)) || leaf.depth != 0 {
            return Err(leaf.wrong("has no byte strings"));
        }
        Ok(Strings { leaf, limit })
    }

    /// Passes over rows.
    pub fn skip(&mut self, rows: u64) -> Result<(), DatasetError> {
        self.leaf.skip(rows)
    }

    /// The next rows.
    pub fn read(&mut self, rows: usize) -> Result<Vec<Bytes>, DatasetError> {
        let leaf = &mut self.leaf;
        let ColumnReader::ByteArrayColumnReader(reader) = &mut leaf.reader else {
            return Err(leaf.wrong("has no byte strings"));
        };
        let (values, levels) = guarded(&leaf.path, || take(reader, rows))?;
        leaf.check(&levels, rows, 1)?;
        leaf.taken += rows as u64;
        if let Some(long) = values.iter().find(|value| self.limit < value.len()) {
            let what = format!("a value of the column {}", leaf.name);
            DatasetError::limit(&leaf.path, &what, long.len() as u64, self.limit as u64)?;
        }
        // Copied, so that no value keeps a whole page in memory. An empty value may have no memory.
        let bytes = |value: &parquet::data_type::ByteArray| {
            if value.is_empty() { Bytes::new() } else { Bytes::copy_from_slice(value.data()) }
        };
        Ok(values.iter().map(bytes).collect())
    }
}
