//! Bags, and the actions recorded in them.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rosbag2_reader::{Bag, Selection};
use vla_eval::{Evaluated, RunOptions, Settings, evaluate};
use vla_inference::observation::{Observation, SINGLE_CAMERA};
use vla_inference::policy::{Decision, Policy, PolicyError, PolicyInfo};

use super::eval_support::{BagWriter, Scripted, root, settings};
use super::media::{Verdicts, eval, keep};

const S: i64 = 1_000_000_000;
/// Log time of the first image.
const BEGIN: i64 = 1_760_000_000 * S;

/// What should come of a path given as a bag.
enum Should {
    /// So many messages, and this warning; none where it is empty.
    Read(usize, &'static str),
    /// One line that holds each of these.
    Refuse(&'static [&'static str]),
}
use Should::{Read, Refuse};

/// All messages of a bag and the warnings, or the error.
fn read(path: &Path) -> Result<(usize, String), String> {
    let bag = Bag::open(path).map_err(|error| error.to_string())?;
    let mut stream =
        bag.messages(&Selection::topics(0..bag.topics().len())).map_err(|e| e.to_string())?;
    let mut count = 0;
    for message in stream.by_ref() {
        message.map_err(|error| error.to_string())?;
        count += 1;
    }
    let warnings: Vec<String> = stream.warnings().iter().map(ToString::to_string).collect();
    Ok((count, warnings.join("\n")))
}

fn check(rows: Vec<(&'static str, PathBuf, Should)>) {
    let mut verdicts = Verdicts::default();
    for (name, path, should) in rows {
        keep(&format!("bags/{name}/{}", path.file_name().unwrap().display()), &path);
        let found = read(&path);
        let good = match (&should, &found) {
            (Read(count, ""), Ok((read, warnings))) => read == count && warnings.is_empty(),
            (Read(count, part), Ok((read, warnings))) => read == count && warnings.contains(part),
            (Refuse(parts), Err(error)) => {
                parts.iter().all(|part| error.contains(part)) && !error.contains('\n')
            }
            _ => false,
        };
        verdicts.add(name, (!good).then(|| format!("{found:?}")));
    }
    verdicts.check();
}

fn data(name: &str) -> PathBuf {
    root("tests/field/data").join(name)
}

/// A pixel that tells which frame it is.
fn image(writer: &mut BagWriter, topic: &str, at: i64, stamp: i64, frame: u8) {
    writer.image_stamped(topic, at, stamp, (1, 1), "rgb8", vec![frame, 0, 0]);
}

fn small_mcap(path: &Path, images: u8) {
    let mut writer = BagWriter::new(path);
    for i in 0..images {
        let at = BEGIN + i64::from(i) * S / 5;
        image(&mut writer, "/camera", at, at, i);
    }
    writer.finish();
}

fn metadata(identifier: &str, files: &[&str], messages: usize) -> String {
    format!(
        "rosbag2_bagfile_information:\n  version: 5\n  storage_identifier: \"{identifier}\"\n  \
        relative_file_paths: [{}]\n  message_count: {messages}\n  topics_with_message_count: []\n",
        files.join(", ")
    )
}

/// The files of a folder with their sizes and contents.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    files.sort();
    files
}

#[test]
fn storages_and_journals() {
    let keep = tempfile::tempdir().unwrap();
    let folder = |name: &str| {
        let path = keep.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let copied = |name: &str| {
        let path = folder(name);
        for entry in std::fs::read_dir(data(name)).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), path.join(entry.file_name())).unwrap();
        }
        path
    };
    let empty_identifier = folder("empty_identifier");
    small_mcap(&empty_identifier.join("a.mcap"), 3);
    std::fs::write(empty_identifier.join("metadata.yaml"), metadata("", &["a.mcap"], 3)).unwrap();
    let split = folder("split");
    small_mcap(&split.join("a_0.mcap"), 3);
    small_mcap(&split.join("a_1.mcap"), 2);
    std::fs::write(split.join("metadata.yaml"), metadata("", &["a_0.mcap", "a_1.mcap"], 5))
        .unwrap();
    let wrong_name = keep.path().join("mcap_named.db3");
    small_mcap(&wrong_name, 3);
    let no_name = keep.path().join("recording");
    small_mcap(&no_name, 3);
    let hot = copied("hot_journal");
    let log = copied("write_ahead_log");
    let finished = folder("finished_journal");
    let database = std::fs::read(data("finished/finished_0.db3")).unwrap();
    std::fs::write(finished.join("a.db3"), database).unwrap();
    std::fs::write(finished.join("a.db3-journal"), [0; 512]).unwrap();
    let before = [contents(&hot), contents(&log), contents(&finished)];
    check(vec![
        ("mcap_empty_identifier", empty_identifier, Read(3, "")),
        ("split_empty_identifier", split, Read(5, "")),
        ("mcap_named_db3", wrong_name, Read(3, "")),
        ("mcap_without_ending", no_name, Read(3, "")),
        (
            "hot_journal",
            hot.clone(),
            Read(5, "a rollback journal: its last transaction was undone"),
        ),
        ("hot_journal_file", hot.join("hot_journal_0.db3"), Read(5, "the files are unchanged")),
        ("write_ahead_log", log.clone(), Read(5, "a write-ahead log")),
        ("finished_journal", finished.join("a.db3"), Read(5, "")),
    ]);
    for folder in [&hot, &log] {
        let bag = Bag::open(folder).unwrap();
        let messages = bag.messages(&Selection::topics([0])).unwrap();
        let times: Vec<i64> = messages.map(|message| message.unwrap().log_time).collect();
        assert_eq!(times, (0..5).map(|i| BEGIN + i * S / 5).collect::<Vec<_>>(), "{folder:?}");
    }
    assert!(before == [contents(&hot), contents(&log), contents(&finished)], "a file was changed");
}

#[test]
fn what_is_no_bag() {
    let keep = tempfile::tempdir().unwrap();
    let folder = |name: &str| {
        let path = keep.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    };
    let file = |name: &str, bytes: &[u8]| {
        let path = keep.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let several = folder("several");
    for name in ["episode_1", "episode_2"] {
        std::fs::create_dir(several.join(name)).unwrap();
        small_mcap(&several.join(name).join("a.mcap"), 1);
    }
    let one = folder("one");
    std::fs::create_dir(one.join("inner")).unwrap();
    small_mcap(&one.join("inner/a.mcap"), 1);
    let lerobot = folder("lerobot");
    std::fs::create_dir(lerobot.join("meta")).unwrap();
    std::fs::write(lerobot.join("meta/info.json"), "{}").unwrap();
    let ros1 = folder("ros1");
    std::fs::write(ros1.join("run.bag"), b"#ROSBAG V2.0\n").unwrap();
    let tfds = folder("tfds");
    std::fs::write(tfds.join("x.tfrecord"), b"x").unwrap();
    let described = folder("described");
    small_mcap(&described.join("a.mcap"), 1);
    std::fs::write(described.join("metadata.yaml"), metadata("mcap", &["a.mcap"], 1)).unwrap();
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    check(vec![
        ("folder_of_bags", several, Refuse(&["a folder of 2 bags (episode_1, episode_2)", "/*"])),
        ("folder_in_folder", one, Refuse(&["the bag is the folder inner in it"])),
        ("lerobot_folder", lerobot, Refuse(&["a LeRobot data set"])),
        ("rlds_folder", tfds, Refuse(&["a TensorFlow data set"])),
        ("ros1_folder", ros1, Refuse(&["ROS 1 bags (run.bag)", "rosbags-convert"])),
        ("ros1_bag", file("a.bag", b"#ROSBAG V2.0\n"), Refuse(&["a ROS 1 bag", "rosbags-convert"])),
        ("ros1_named_mcap", file("b.mcap", b"#ROSBAG V2.0\n"), Refuse(&["a ROS 1 bag"])),
        ("lfs_pointer_mcap", file("c.mcap", pointer), Refuse(&["Git LFS pointer", "git lfs pull"])),
        ("html_mcap", file("d.mcap", b"<!DOCTYPE html>"), Refuse(&["an HTML page"])),
        ("tar_gz", file("e.tar.gz", b"\x1f\x8b\x08\0"), Refuse(&["gzip", "tar xzf"])),
        ("hdf5", file("f.hdf5", b"\x89HDF\r\n\x1a\n"), Refuse(&["an HDF5 file"])),
        ("metadata_file", described.join("metadata.yaml"), Refuse(&["name its folder"])),
        ("empty_folder", folder("empty"), Refuse(&["the folder is empty"])),
    ]);
}

/// Answers by the pixel: a pattern within the training's quantiles.
struct Pattern(PolicyInfo);

fn pattern(frame: u64) -> Vec<f64> {
    let mut values: Vec<f64> = (0..6)
        .map(|i| {
            let mix = (frame * 7 + i * 13 + 5).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            ((mix >> 11) as f64 / (1_u64 << 53) as f64 - 0.5) * 0.1
        })
        .collect();
    values.push([1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0][frame as usize % 7]);
    values
}

impl Policy for Pattern {
    fn act(&mut self, observation: &Observation) -> Result<Decision, PolicyError> {
        let action = pattern(observation.image(SINGLE_CAMERA)?.pixels()[0].into());
        let normalized = vec![action.clone()];
        Ok(Decision { normalized, actions: vec![action], ..Decision::default() })
    }

    fn info(&self) -> &PolicyInfo {
        &self.0
    }
}

/// How a bag of ten frames is recorded.
struct Recording {
    /// Stamp of the image of a log time.
    stamp: fn(i64) -> i64,
    /// Stamp of a command, of its log time.
    command_stamp: fn(i64) -> i64,
    /// Log time of a command after its image's, nanoseconds.
    later: i64,
    /// Recorded value of a dimension of the policy's.
    value: fn(usize, f64) -> f64,
}

impl Default for Recording {
    fn default() -> Self {
        Self { stamp: |at| at, command_stamp: |at| at, later: S / 50, value: |_, v| v }
    }
}

const FRAMES: u8 = 10;

impl Recording {
    /// Actions as arrays on `/action`, and as stamped twists at 5 Hz with a gripper.
    fn write(&self, path: &Path) {
        let mut writer = BagWriter::new(path);
        for i in 0..FRAMES {
            let at = BEGIN + i64::from(i) * S / 5;
            image(&mut writer, "/camera", at, (self.stamp)(at), i);
            let values: Vec<f64> =
                pattern(i.into()).iter().enumerate().map(|(d, v)| (self.value)(d, *v)).collect();
            let then = at + self.later;
            writer.array("/action", then, &values);
            let speed = |d: usize| values[d] * 5.0;
            let (linear, angular) = ([0, 1, 2].map(speed), [3, 4, 5].map(speed));
            writer.twist_stamped("/cmd", then, (self.command_stamp)(then), linear, angular);
            writer.number("/gripper", then, values[6]);
        }
        writer.finish();
    }

    fn evaluated(&self, topic: &str) -> Evaluated {
        let folder = tempfile::tempdir().unwrap();
        let bag = folder.path().join("recording.mcap");
        self.write(&bag);
        let settings = Settings {
            image_topic: "/camera".into(),
            instruction: Some("go".into()),
            instruction_topic: None,
            action_topic: Some(topic.into()),
            gripper_topic: (topic == "/cmd").then(|| "/gripper".into()),
            ..settings(&bag)
        };
        let info = PolicyInfo { action_tokens: None, ..Scripted::new().info };
        let options = RunOptions { quiet: true, ..RunOptions::default() };
        let stop = AtomicBool::new(false);
        let out = folder.path().join("out");
        evaluate(&mut Pattern(info), &settings, &out, options, &stop).unwrap()
    }
}

#[test]
fn clocks() {
    let frames = u64::from(FRAMES);
    let mut verdicts = Verdicts::default();
    for (name, recording, matched, part) in [
        ("clocks_agree", Recording::default(), frames, ""),
        (
            "camera_constant_stamp",
            Recording { stamp: |_| BEGIN, ..Recording::default() },
            frames,
            "the stamps of /camera stand still",
        ),
        (
            "command_constant_stamp",
            Recording { command_stamp: |_| BEGIN, ..Recording::default() },
            frames,
            "the stamps of /cmd stand still",
        ),
        (
            "camera_clock_since_boot",
            Recording { stamp: |at| at - BEGIN + 40 * S, ..Recording::default() },
            frames,
            "55.8 years behind",
        ),
        (
            "camera_clock_a_minute_ahead",
            Recording { stamp: |at| at + 150 * S, ..Recording::default() },
            frames,
            "2.5 minutes ahead of",
        ),
        (
            "both_on_a_simulated_clock",
            Recording {
                stamp: |at| at - BEGIN + S,
                command_stamp: |at| at - BEGIN + S,
                ..Recording::default()
            },
            frames,
            "",
        ),
        (
            "command_without_stamp",
            Recording { command_stamp: |_| 0, ..Recording::default() },
            frames,
            "",
        ),
    ] {
        let evaluated = recording.evaluated("/cmd");
        let report = &evaluated.report;
        let warnings = report.warnings.join("\n");
        let right = report.frames.matched == matched
            && report.overall.dimensions.iter().all(|d| d.max.is_some_and(|max| max < 1e-12));
        let said = if part.is_empty() { warnings.is_empty() } else { warnings.contains(part) };
        verdicts.add(name, (!right || !said).then(|| format!("{:?} {warnings}", report.frames)));
    }
    let apart = Recording { stamp: |at| at - 3 * S, ..Recording::default() }.evaluated("/cmd");
    let warnings = apart.report.warnings.join("\n");
    let said = warnings.contains("3.0 s behind") && warnings.contains("all the same");
    verdicts.add("camera_clock_three_seconds_behind", (!said).then_some(warnings));
    verdicts.check();
}

#[test]
fn conventions() {
    type Change = fn(usize, f64) -> f64;
    let cases: [(&str, Change, &[&str]); 8] = [
        ("as_the_policy", |_, v| v, &[]),
        ("gripper_inverted", |d, v| if d == 6 { 1.0 - v } else { v }, &["wrong way round", "0 %"]),
        (
            "millimetres",
            |d, v| if d < 3 { v * 1000.0 } else { v },
            &[
                "dx, dy, dz",
                "% of the values lie outside q01..q99",
                "1000 times",
                "1.00",
                "millimetres",
            ],
        ),
        ("degrees", |d, v| if (3..6).contains(&d) { v.to_degrees() } else { v }, &["degrees"]),
        (
            "velocities_as_steps",
            |d, v| if d < 6 { v * 5.0 } else { v },
            &["5.00 times", "velocities"],
        ),
        ("axis_reversed", |d, v| if d == 1 { -v } else { v }, &["dy (-1.00)"]),
        ("gripper_0_to_255", |d, v| if d == 6 { v * 255.0 } else { v }, &["from 0 to 255"]),
        ("gripper_in_metres", |d, v| if d == 6 { v * 0.04 } else { v }, &["from 0 to 0.04"]),
    ];
    let mut verdicts = Verdicts::default();
    for (name, value, parts) in cases {
        let evaluated = Recording { value, ..Recording::default() }.evaluated("/action");
        let report = &evaluated.report;
        let warnings = &report.warnings;
        let good = report.frames.matched == u64::from(FRAMES)
            && evaluated.unmatched.is_none()
            && warnings.len() == usize::from(!parts.is_empty())
            && parts.iter().all(|part| warnings[0].contains(part));
        verdicts.add(name, (!good).then(|| format!("{:?} {warnings:?}", report.frames)));
    }
    verdicts.check();
}

/// Through the program: the report is written, the cause is the error, the exit status is 1.
#[test]
fn nothing_matched_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let bag = folder.path().join("apart.mcap");
    Recording { later: 7300 * S, ..Recording::default() }.write(&bag);
    let found = eval(&bag, &["--image-topic=/camera", "--action-topic=/action", "--limit=2"]);
    let good = found.status == Some(1)
        && found.error.contains("no frame has a recorded action")
        && found.error.contains("2.0 hours away")
        && found.answer["frames"]["evaluated"] == 2;
    let mut verdicts = Verdicts::default();
    verdicts.add("actions_hours_later", (!good).then(|| found.words()));

    let newline = folder.path().join("newline.mcap");
    let mut writer = BagWriter::new(&newline);
    writer.text("/instruction", BEGIN - 1, "pick up the block\n");
    image(&mut writer, "/camera", BEGIN, BEGIN, 3);
    writer.finish();
    let more = ["--image-topic=/camera", "--instruction-topic=/instruction"];
    let found = eval(&newline, &more);
    let good = found.status == Some(0) && found.answer["frames"]["evaluated"] == 1;
    verdicts.add("instruction_newline", (!good).then(|| found.words()));
    verdicts.check();
}
