//! `meta/tasks.parquet`: the instructions by number. Pandas writes it with the text as index.

use std::path::Path;

use super::columns::{Strings, Vectors};
use super::error::DatasetError;
use super::info::Info;
use super::limits::{MAX_META_BYTES, MAX_TASK_BYTES};
use super::parquet_file::ParquetFile;

/// Where it lies in the folder.
pub const TASKS: &str = "meta/tasks.parquet";
/// Its column of texts; LeRobot before 0.5 left the index without a name.
const TEXT: [&str; 2] = ["task", "__index_level_0__"];

/// Reads the tasks; the place of each is its number.
pub fn read(folder: &Path, info: &Info) -> Result<Vec<String>, DatasetError> {
    if info.total_tasks == 0 {
        return Ok(Vec::new());
    }
    let path = folder.join(TASKS);
    let file = ParquetFile::open(&path, MAX_META_BYTES)?;
    let text = TEXT.iter().find(|name| !file.leaves(name).is_empty()).unwrap_or(&TEXT[0]);
    if file.rows() != info.total_tasks {
        let what = format!("it has {} tasks, info.json states {}", file.rows(), info.total_tasks);
        return Err(DatasetError::damaged(&path, what));
    }
    let mut tasks: Vec<Option<String>> = vec![None; info.total_tasks as usize];
    for (group, rows) in file.groups().into_iter().enumerate() {
        let rows = rows as usize;
        let numbers = Vectors::open(&file, group, "task_index", 1)?.counts(rows)?;
        let texts = Strings::open(&file, group, text, None, MAX_TASK_BYTES)?.read(rows)?;
        for (number, text) in numbers.into_iter().zip(texts) {
            let text = String::from_utf8(text.to_vec())
                .map_err(|_| DatasetError::damaged(&path, "a task is not UTF-8"))?;
            let place = usize::try_from(number).ok().and_then(|number| tasks.get_mut(number));
            match place {
                Some(place @ None) => *place = Some(text),
                Some(Some(_)) => {
                    return Err(DatasetError::damaged(&path, format!("two tasks {number}")));
                }
                None => {
                    let what = format!("the number {number} of a task is too large");
                    return Err(DatasetError::damaged(&path, what));
                }
            }
        }
    }
    // As many as places, and none twice.
    Ok(tasks.into_iter().flatten().collect())
}
