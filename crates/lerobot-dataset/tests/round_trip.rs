//! What is written is read again, row by row.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use lerobot_dataset::{Dataset, DatasetWriter, Frame, Number, Picture, Wanted, is_dataset};
use proptest::prelude::*;
use support::{TestRow, feature, sample, write};

fn wanted() -> Wanted {
    Wanted {
        vectors: vec!["observation.state".into(), "action".into()],
        pictures: vec!["observation.images.front".into()],
    }
}

fn read(dataset: &Dataset) -> Vec<Vec<TestRow>> {
    let one = |number: usize| {
        let rows = dataset.rows(number, &wanted()).unwrap().enumerate();
        let row = |(place, row): (usize, Result<lerobot_dataset::Row, _>)| {
            let row = row.unwrap();
            assert_eq!(row.frame, place as u64);
            assert!((row.timestamp - place as f64 / dataset.info().fps).abs() < 1e-4);
            TestRow {
                task: dataset.tasks()[row.task].clone(),
                state: row.vectors[0].clone(),
                action: row.vectors[1].clone(),
                picture: row.pictures[0].to_vec(),
            }
        };
        rows.map(row).collect()
    };
    (0..dataset.episodes().len()).map(one).collect()
}

#[test]
fn rows_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/dataset");
    write(&out, &sample(), Number::F64);
    assert!(is_dataset(&out));
    let dataset = Dataset::open(&out).unwrap();
    assert_eq!(read(&dataset), sample());
    let info = dataset.info();
    assert_eq!((info.fps, info.total_episodes, info.total_frames), (10.0, 3, 15));
    assert_eq!(info.robot_type.as_deref(), Some("arm"));
    assert_eq!(dataset.tasks(), ["pick", "place"]);
    assert_eq!(info.feature("action").unwrap().names, ["action0", "action1", "action2"]);
    assert_eq!(info.feature("observation.images.front").unwrap().shape, [1, 2, 3]);
    let episodes: Vec<(u64, u64)> =
        dataset.episodes().iter().map(|e| (e.length, e.first_row)).collect();
    assert_eq!(episodes, [(4, 0), (5, 4), (6, 9)]);
}

#[test]
fn float32_rounds_once() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("d");
    write(&out, &sample(), Number::F32);
    let dataset = Dataset::open(&out).unwrap();
    let row = dataset.rows(2, &wanted()).unwrap().nth(3).unwrap().unwrap();
    assert_eq!(row.vectors[0], [3.0, f64::from(0.2_f32)]);
    assert_eq!(row.vectors[1][0], f64::from((0.1_f64 * 3.0) as f32));
}

#[test]
fn many_pictures_are_several_row_groups_and_files() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("d");
    let vectors = vec![feature("action", 1, Number::F32)];
    let mut writer =
        DatasetWriter::create(&out, 30, None, vectors, vec!["observation.image".into()]).unwrap();
    // 6 x 12 MB in the first episode: two row groups, and then another file.
    let large = bytes::Bytes::from(vec![7; 12 << 20]);
    for (episode, rows) in [(0, 10), (1, 2)] {
        for i in 0..rows {
            let picture = Picture {
                bytes: large.clone(),
                extension: "jpg",
                width: 1,
                height: 1,
                rgb: &[0, 0, 0],
            };
            let action = [f64::from(episode * 100 + i)];
            let frame = Frame { task: "t", vectors: vec![&action], pictures: vec![picture] };
            writer.add(&frame).unwrap();
        }
        writer.end_episode().unwrap();
    }
    writer.finish().unwrap();
    let dataset = Dataset::open(&out).unwrap();
    let files: Vec<_> = dataset.episodes().iter().map(|e| e.file.file_name().unwrap()).collect();
    assert_eq!(files, ["file-000.parquet", "file-001.parquet"]);
    let wanted =
        Wanted { vectors: vec!["action".into()], pictures: vec!["observation.image".into()] };
    for (episode, rows) in [(0, 10), (1, 2)] {
        let read: Vec<_> = dataset.rows(episode, &wanted).unwrap().map(Result::unwrap).collect();
        assert_eq!(read.len(), rows);
        for (i, row) in read.iter().enumerate() {
            assert_eq!(row.vectors, [vec![(episode * 100 + i) as f64]]);
            assert_eq!(row.pictures[0], large);
        }
    }
}

#[test]
fn unlike_rows_and_full_folders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let create = |name: &str, camera: &str| {
        let vectors = vec![feature("action", 2, Number::F32)];
        DatasetWriter::create(&folder.path().join(name), 5, None, vectors, vec![camera.into()])
    };
    let frame = |width: usize, action: &'static [f64]| Frame {
        task: "t",
        vectors: vec![action],
        pictures: vec![Picture {
            bytes: bytes::Bytes::from_static(b"x"),
            extension: "png",
            width,
            height: 1,
            rgb: &[0; 12],
        }],
    };
    let mut writer = create("a", "cam").unwrap();
    writer.add(&frame(2, &[1.0, 2.0])).unwrap();
    let error = writer.add(&frame(3, &[1.0, 2.0])).unwrap_err().to_string();
    assert!(error.contains("row 1: the picture of cam is 3x1, before 2x1"), "{error}");
    let error = writer.add(&frame(2, &[1.0])).unwrap_err().to_string();
    assert!(error.contains("row 1: action has 1 numbers, 2 in other rows"), "{error}");
    let error = create("b", "cam").unwrap().finish().unwrap_err().to_string();
    assert!(error.contains("no row was written"), "{error}");
    for (name, camera, says) in
        [("c", "action", "would be there twice"), ("c", "a/b", "cannot be the name")]
    {
        let error = create(name, camera).map(drop).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    std::fs::create_dir(folder.path().join("full")).unwrap();
    std::fs::write(folder.path().join("full/x"), "").unwrap();
    let error = create("full", "cam").map(drop).unwrap_err().to_string();
    assert!(error.contains("is not empty; choose another --out"), "{error}");
}

fn rows() -> impl Strategy<Value = Vec<Vec<TestRow>>> {
    let number = prop_oneof![any::<f64>().prop_filter("NaN", |v| !v.is_nan()), Just(0.0)];
    let row = (
        prop_oneof!["[ -~]{1,20}", Just("täsk ☕".to_owned())],
        prop::collection::vec(number.clone(), 2),
        prop::collection::vec(number, 3),
        prop::collection::vec(any::<u8>(), 0..300),
    );
    let row =
        row.prop_map(|(task, state, action, picture)| TestRow { task, state, action, picture });
    prop::collection::vec(prop::collection::vec(row, 1..40), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn any_rows_are_the_same(episodes in rows()) {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("d");
        write(&out, &episodes, Number::F64);
        prop_assert_eq!(read(&Dataset::open(&out).unwrap()), episodes);
    }
}
