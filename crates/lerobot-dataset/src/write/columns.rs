//! Columns to write: numbers, texts, lists of them to any depth, and pictures.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{Compression, ConvertedType, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int64Type};
use parquet::errors::Result;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{ColumnPath, Type, TypePtr};

use crate::error::DatasetError;

/// Values of a column.
pub enum Values {
    Int(Vec<i64>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Text(Vec<ByteArray>),
    /// The files of pictures and their names.
    Picture(Vec<ByteArray>, Vec<ByteArray>),
}

/// A column with the rows that are not written yet.
pub struct Column {
    name: String,
    /// 0 for one value per row, n for lists of lists.
    depth: usize,
    values: Values,
    /// At which list each value begins.
    repetition: Vec<i16>,
}

impl Column {
    pub fn new(name: impl Into<String>, depth: usize, values: Values) -> Column {
        Column { name: name.into(), depth, values, repetition: Vec::new() }
    }

    pub fn int(&mut self, value: u64) {
        self.ints(&[value]);
    }

    /// One row: of depth 0 one value, of depth 1 a list.
    pub fn ints(&mut self, row: &[u64]) {
        self.levels(&[row.len()]);
        if let Values::Int(values) = &mut self.values {
            values.extend(row.iter().map(|v| i64::try_from(*v).unwrap_or(i64::MAX)));
        }
    }

    /// One row of numbers in this shape, in the precision of the column.
    pub fn numbers(&mut self, row: &[f64], shape: &[usize]) {
        self.levels(shape);
        match &mut self.values {
            Values::Float(values) => values.extend(row.iter().map(|v| *v as f32)),
            Values::Double(values) => values.extend_from_slice(row),
            _ => {}
        }
    }

    /// One row: of depth 0 one text, of depth 1 a list.
    pub fn texts(&mut self, row: &[&str]) {
        self.levels(&[row.len()]);
        if let Values::Text(values) = &mut self.values {
            values.extend(row.iter().map(|text| ByteArray::from(*text)));
        }
    }

    /// One row: a picture's file and its name.
    pub fn picture(&mut self, bytes: bytes::Bytes, name: &str) {
        if let Values::Picture(files, names) = &mut self.values {
            files.push(bytes.into());
            names.push(name.into());
        }
    }

    /// Repetition levels of a row: the outermost list that goes on.
    fn levels(&mut self, shape: &[usize]) {
        if self.depth == 0 {
            return;
        }
        let count: usize = shape.iter().product();
        for element in 0..count {
            let mut rest = element;
            let mut level = 0;
            for place in (0..shape.len()).rev() {
                let side = shape[place].max(1);
                if !rest.is_multiple_of(side) {
                    level = place + 1;
                    break;
                }
                rest /= side;
            }
            // The depth of lists is small.
            self.repetition.push(level as i16);
        }
    }

    fn schema(&self) -> Result<TypePtr> {
        let physical = match &self.values {
            Values::Int(_) => Physical::INT64,
            Values::Float(_) => Physical::FLOAT,
            Values::Double(_) => Physical::DOUBLE,
            Values::Text(_) => return nested(&self.name, self.depth, Physical::BYTE_ARRAY, true),
            Values::Picture(..) => {
                let fields = vec![
                    nested("bytes", 0, Physical::BYTE_ARRAY, false)?,
                    nested("path", 0, Physical::BYTE_ARRAY, true)?,
                ];
                let group = Type::group_type_builder(&self.name).with_fields(fields);
                return Ok(Arc::new(group.with_repetition(Repetition::OPTIONAL).build()?));
            }
        };
        nested(&self.name, self.depth, physical, false)
    }

    /// Writes the rows and forgets them.
    fn write<W: std::io::Write + Send>(
        &mut self,
        group: &mut SerializedRowGroupWriter<'_, W>,
    ) -> Result<()> {
        let repetition = std::mem::take(&mut self.repetition);
        // Every value is there.
        let level = 2 * self.depth as i16 + 1;
        match &mut self.values {
            Values::Int(values) => leaf::<Int64Type, W>(group, values, level, &repetition),
            Values::Float(values) => leaf::<FloatType, W>(group, values, level, &repetition),
            Values::Double(values) => leaf::<DoubleType, W>(group, values, level, &repetition),
            Values::Text(values) => leaf::<ByteArrayType, W>(group, values, level, &repetition),
            Values::Picture(files, names) => {
                let Some(mut column) = group.next_column()? else { return Ok(()) };
                for file in std::mem::take(files) {
                    // One by one, so that pages end when they are large enough.
                    column.typed::<ByteArrayType>().write_batch(&[file], Some(&[2]), None)?;
                }
                column.close()?;
                leaf::<ByteArrayType, W>(group, names, 2, &[])
            }
        }
    }
}

fn leaf<T: DataType, W: std::io::Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &mut Vec<T::T>,
    level: i16,
    repetition: &[i16],
) -> Result<()> {
    let values = std::mem::take(values);
    let Some(mut column) = group.next_column()? else { return Ok(()) };
    let definition = vec![level; values.len()];
    let repetition = (!repetition.is_empty()).then_some(repetition);
    column.typed::<T>().write_batch(&values, Some(&definition), repetition)?;
    column.close()
}

/// A list of lists of values, as pyarrow writes it.
fn nested(name: &str, depth: usize, physical: Physical, is_text: bool) -> Result<TypePtr> {
    if depth == 0 {
        let builder = Type::primitive_type_builder(name, physical);
        let builder = builder.with_repetition(Repetition::OPTIONAL);
        if !is_text {
            return Ok(Arc::new(builder.build()?));
        }
        let text = builder
            .with_converted_type(ConvertedType::UTF8)
            .with_logical_type(Some(LogicalType::String));
        return Ok(Arc::new(text.build()?));
    }
    let element = nested("element", depth - 1, physical, is_text)?;
    let list = Type::group_type_builder("list").with_repetition(Repetition::REPEATED);
    let list = Arc::new(list.with_fields(vec![element]).build()?);
    let outer = Type::group_type_builder(name).with_repetition(Repetition::OPTIONAL);
    let outer = outer
        .with_converted_type(ConvertedType::LIST)
        .with_logical_type(Some(LogicalType::List))
        .with_fields(vec![list]);
    Ok(Arc::new(outer.build()?))
}

/// A Parquet file that is being written.
pub struct TableFile {
    writer: SerializedFileWriter<File>,
}

/// Turns the library's errors into those of the file.
fn at<T>(path: &Path, result: Result<T>) -> std::result::Result<T, DatasetError> {
    result.map_err(|error| {
        let line = foreign_text::one_line(&error.to_string(), 400);
        DatasetError::invalid(
            path,
            format!("cannot be written: {line}"),
            "check the space on the disk",
        )
    })
}

impl TableFile {
    /// Creates a file for these columns.
    pub fn create(
        path: &Path,
        columns: &[Column],
        key_values: Option<Vec<KeyValue>>,
    ) -> std::result::Result<TableFile, DatasetError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(DatasetError::io("create", folder))?;
        }
        let file = File::create_new(path).map_err(DatasetError::io("create", path))?;
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(concat!("openvla_tt ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_key_value_metadata(key_values);
        for column in columns.iter().filter(|c| matches!(c.values, Values::Picture(..))) {
            // Pictures are compressed already, and no two are equal.
            let place = ColumnPath::new(vec![column.name.clone(), "bytes".to_owned()]);
            properties = properties
                .set_column_compression(place.clone(), Compression::UNCOMPRESSED)
                .set_column_dictionary_enabled(place.clone(), false)
                .set_column_statistics_enabled(place, EnabledStatistics::None);
        }
        let open = || {
            let fields = columns.iter().map(Column::schema).collect::<Result<Vec<_>>>()?;
            let schema = Type::group_type_builder("schema").with_fields(fields).build()?;
            SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties.build()))
        };
        Ok(TableFile { writer: at(path, open())? })
    }

    /// Writes all rows of the columns as a row group.
    pub fn write(
        &mut self,
        path: &Path,
        columns: &mut [Column],
    ) -> std::result::Result<(), DatasetError> {
        let write = || {
            let mut group = self.writer.next_row_group()?;
            for column in columns {
                column.write(&mut group)?;
            }
            group.close().map(drop)
        };
        at(path, write())
    }

    /// Bytes so far.
    pub fn bytes(&self) -> usize {
        self.writer.bytes_written()
    }

    /// Ends the file.
    pub fn close(self, path: &Path) -> std::result::Result<(), DatasetError> {
        at(path, self.writer.close().map(drop))
    }
}
