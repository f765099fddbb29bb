//! Datasets for the tests.
#![allow(dead_code)] // each test binary uses its own part

use std::path::Path;

use lerobot_dataset::{DatasetWriter, FeatureSpec, Frame, Number, Picture};

/// A row of the test's datasets.
#[derive(Debug, Clone, PartialEq)]
pub struct TestRow {
    pub task: String,
    pub state: Vec<f64>,
    pub action: Vec<f64>,
    pub picture: Vec<u8>,
}

pub fn feature(name: &str, width: usize, number: Number) -> FeatureSpec {
    let names = (0..width).map(|i| format!("{name}{i}")).collect();
    FeatureSpec { name: name.to_owned(), names, number }
}

/// Writes episodes with one camera, a state and an action; the bytes of pictures are any.
pub fn write(folder: &Path, episodes: &[Vec<TestRow>], number: Number) {
    let state = episodes[0][0].state.len();
    let action = episodes[0][0].action.len();
    let vectors =
        vec![feature("observation.state", state, number), feature("action", action, number)];
    let cameras = vec!["observation.images.front".to_owned()];
    let mut writer =
        DatasetWriter::create(folder, 10, Some("arm".into()), vectors, cameras).unwrap();
    for episode in episodes {
        for row in episode {
            let picture = Picture {
                bytes: row.picture.clone().into(),
                extension: "png",
                width: 2,
                height: 1,
                rgb: &[1, 2, 3, 4, 5, 6],
            };
            let frame = Frame {
                task: &row.task,
                vectors: vec![&row.state, &row.action],
                pictures: vec![picture],
            };
            writer.add(&frame).unwrap();
        }
        writer.end_episode().unwrap();
    }
    writer.finish().unwrap();
}

/// Three episodes with two tasks.
pub fn sample() -> Vec<Vec<TestRow>> {
    let row = |episode: usize, i: usize| TestRow {
        task: if episode == 1 && i > 1 { "place" } else { "pick" }.to_owned(),
        state: vec![i as f64, 0.1 * episode as f64],
        action: vec![0.1 * i as f64, -1.5, episode as f64],
        picture: vec![episode as u8; 10 + 100 * i],
    };
    (0..3).map(|episode| (0..4 + episode).map(|i| row(episode, i)).collect()).collect()
}
