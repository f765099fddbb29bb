//! Limits on what a folder states. A larger value is an error before memory is allocated for it.

/// Bytes of `meta/info.json`.
pub const MAX_INFO_BYTES: u64 = 16 << 20;
/// Bytes of a Parquet file below `meta/`.
pub const MAX_META_BYTES: u64 = 1 << 30;
/// Bytes of a column of one row group, decompressed.
pub const MAX_COLUMN_BYTES: i64 = 64 << 30;
/// Features of a dataset.
pub const MAX_FEATURES: usize = 1024;
/// Numbers of a vector.
pub const MAX_WIDTH: usize = 4096;
/// Characters of the name of a feature, and of a task.
pub const MAX_NAME: usize = 255;
/// Bytes of a task.
pub const MAX_TASK_BYTES: usize = 1 << 16;
/// Rows of a dataset: a year at 100 Hz.
pub const MAX_ROWS: u64 = 4_000_000_000;
/// Episodes of a dataset, and its tasks.
pub const MAX_EPISODES: u64 = 10_000_000;
/// Folders in `meta/episodes`, and files in one of them.
pub const MAX_FILES: usize = 16_384;
/// Largest picture, bytes as stored; as for a message of a bag.
pub const MAX_PICTURE_BYTES: usize = 64 << 20;
/// Rows per second.
pub const MAX_FPS: f64 = 10_000.0;
