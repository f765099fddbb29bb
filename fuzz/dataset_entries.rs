//! Entry points of the fuzz targets for LeRobot datasets. `tests/fuzz_smoke.rs` includes this file
//! and drives the same functions with seeded mutations.

use std::path::Path;

use lerobot_dataset::{
    Dataset, DatasetError, DatasetWriter, FeatureSpec, Frame, Number, Picture, Wanted,
};

/// The file with the rows, and the one with the places of episodes.
pub const ROWS: &str = "data/chunk-000/file-000.parquet";
pub const EPISODES: &str = "meta/episodes/chunk-000/file-000.parquet";
pub const INFO: &str = "meta/info.json";

thread_local! {
    static FOLDER: tempfile::TempDir = dataset();
}

/// Two episodes of three rows with a camera and an action.
fn dataset() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let names = vec!["x".to_owned(), "y".to_owned()];
    let vectors = vec![FeatureSpec { name: "action".to_owned(), names, number: Number::F32 }];
    let cameras = vec!["observation.image".to_owned()];
    let path = folder.path().join("d");
    let mut writer =
        DatasetWriter::create(&path, 10, None, vectors, cameras).expect("an empty folder");
    for episode in 0..2_u8 {
        for row in 0..3_u8 {
            let action = [f64::from(row), f64::from(episode)];
            let bytes = vec![row; 40].into();
            let rgb = &[0, 1, 2];
            let picture = Picture { bytes, extension: "png", width: 1, height: 1, rgb };
            let frame = Frame { task: "go", vectors: vec![&action], pictures: vec![picture] };
            writer.add(&frame).expect("a row");
        }
        writer.end_episode().expect("an episode");
    }
    writer.finish().expect("a dataset");
    folder
}

fn read(path: &Path) -> Result<usize, DatasetError> {
    let dataset = Dataset::open(path)?;
    let wanted = Wanted {
        vectors: vec!["action".to_owned()],
        pictures: vec!["observation.image".to_owned()],
    };
    let mut rows = 0;
    for episode in 0..dataset.episodes().len().min(8) {
        for row in dataset.rows(episode, &wanted)?.take(100) {
            let row = row?;
            assert!(row.task < dataset.tasks().len() && row.vectors.len() == 1);
            rows += 1;
        }
    }
    Ok(rows)
}

/// The dataset with these bytes in place of one of its files.
fn with(name: &str, bytes: &[u8]) -> bool {
    FOLDER.with(|folder| {
        let path = folder.path().join("d");
        let file = path.join(name);
        let good = std::fs::read(&file).expect("a file of the dataset");
        std::fs::write(&file, bytes).expect("a file of the dataset");
        let result = read(&path);
        std::fs::write(&file, good).expect("a file of the dataset");
        match result {
            Ok(_) => true,
            Err(error) => {
                let line = error.to_string();
                assert!(line.lines().count() == 1 && line.len() < 8000, "{line:?}");
                false
            }
        }
    })
}

/// A file of the unchanged dataset.
pub fn good(name: &str) -> Vec<u8> {
    FOLDER.with(|folder| std::fs::read(folder.path().join("d").join(name)).expect("a file"))
}

/// The bytes as `meta/info.json`.
pub fn fuzz_dataset_info(bytes: &[u8]) -> bool {
    with(INFO, bytes)
}

/// The bytes as the file with the rows.
pub fn fuzz_dataset_rows(bytes: &[u8]) -> bool {
    with(ROWS, bytes)
}

/// The bytes as the table of episodes.
pub fn fuzz_dataset_episodes(bytes: &[u8]) -> bool {
    with(EPISODES, bytes)
}
