//! Evaluations of a scripted policy, which checks its inputs: replay, resuming, shards,
//! comparison, bad bags.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rosbag2_reader::align::ActionMatch;
use support::{BagWriter, Scripted, root, settings};
use vla_eval::{
    EvalError, Evaluated, Report, RunOptions, Settings, Shard, compare, evaluate, merge,
    read_table, write_all,
};

const QUIET: RunOptions = RunOptions { overwrite: false, quiet: true };

fn run(policy: &mut Scripted, settings: &Settings, out: &Path) -> Result<Evaluated, EvalError> {
    let stop = policy
        .stop
        .as_ref()
        .map_or_else(|| Arc::new(AtomicBool::new(false)), |(_, flag)| Arc::clone(flag));
    let evaluated = evaluate(policy, settings, out, QUIET, &stop)?;
    write_all(out, &evaluated.report, &evaluated.pairs)?;
    Ok(evaluated)
}

fn fixture(name: &str) -> PathBuf {
    root("tests/data/bags").join(name)
}

fn fail(settings: &Settings) -> String {
    let folder = tempfile::tempdir().unwrap();
    let error = run(&mut Scripted::new(), settings, folder.path())
        .map(drop)
        .expect_err("it was accepted")
        .to_string();
    assert!(!error.contains('\n'), "more than one line: {error}");
    error
}

#[test]
fn repeating_the_recording_scores_one() {
    for name in ["mcap_chunk_zstd", "sqlite_message_zstd", "split_sqlite", "lz4.mcap"] {
        for image_topic in ["/camera/image", "/camera/image/compressed"] {
            let folder = tempfile::tempdir().unwrap();
            let settings = Settings { image_topic: image_topic.into(), ..settings(&fixture(name)) };
            let Evaluated { report, .. } =
                run(&mut Scripted::new(), &settings, folder.path()).unwrap();
            assert_eq!(
                (report.frames.images, report.frames.evaluated, report.frames.matched),
                (6, 6, 6),
                "{name}"
            );
            assert_eq!(
                (report.overall.token_accuracy, report.overall.action_accuracy),
                (Some(1.0), Some(1.0)),
                "{name}"
            );
            assert!(
                report
                    .overall
                    .dimensions
                    .iter()
                    .all(|d| d.mae == Some(0.0) && d.bin_distance_max == Some(0)),
                "{name}"
            );
            assert_eq!(report.overall.gripper.as_ref().unwrap().f1, Some(1.0));
            assert_eq!((&report.incomplete, &report.warnings), (&vec![], &vec![]), "{name}");
        }
    }
}

#[test]
fn output_folder_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let evaluated =
        run(&mut Scripted::new(), &settings(&fixture("mcap_plain")), folder.path()).unwrap();
    for plot in ["errors.png", "bins.png", "latency.png", "curves_0.png"] {
        let image = image::open(folder.path().join(plot)).unwrap().into_rgb8();
        let ink = image.pixels().filter(|pixel| pixel.0 != [255; 3]).count();
        assert!(ink > 3000, "{plot} is nearly empty: {ink} pixels");
    }
    let page = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    for part in [
        "pick up the café cup ☕",
        "data:image/png;base64,",
        "data:image/jpeg;base64,",
        "droll",
        "Worst frames",
    ] {
        assert!(page.contains(part), "{part}");
    }
    for outside in ["http://", "https://", "<script", "src=\"/"] {
        assert!(!page.contains(outside), "the page is not self-contained: {outside}");
    }
    assert_eq!(std::fs::read_dir(folder.path().join("frames")).unwrap().count(), 6);
    assert_eq!(Report::read(folder.path()).unwrap(), evaluated.report);
    assert_eq!(read_table(folder.path(), 7).unwrap(), evaluated.pairs);
}

#[test]
fn arrays_and_twists_are_matched() {
    for (topic, gripper, dimensions) in
        [("/action_array", None, 7), ("/twist", None, 6), ("/twist", Some("/gripper"), 7)]
    {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            action_topic: Some(topic.into()),
            gripper_topic: gripper.map(Into::into),
            action_match: (topic == "/twist").then_some(ActionMatch::Exact),
            ..settings(&fixture("mcap_plain"))
        };
        let Evaluated { report, .. } = run(&mut Scripted::new(), &settings, folder.path()).unwrap();
        assert_eq!(report.frames.matched, 6, "{topic}");
        let known: Vec<_> = report.overall.dimensions.iter().filter(|d| d.n > 0).collect();
        assert_eq!(known.len(), dimensions, "{topic}");
        for d in known {
            assert!(d.n == 6 && d.mae.unwrap() < 1e-15, "{topic} {}: {:?}", d.name, d.mae);
        }
        assert_eq!(report.overall.gripper.is_some(), dimensions == 7);
    }
}

#[test]
fn frames_without_an_action_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        action_topic: Some("/action_array".into()),
        action_match: Some(ActionMatch::Exact),
        ..settings(&fixture("mcap_plain"))
    };
    let Evaluated { report, .. } = run(&mut Scripted::new(), &settings, folder.path()).unwrap();
    assert_eq!((report.frames.evaluated, report.frames.matched), (6, 0));
    assert!(
        report.warnings[0].contains("6 of 6 frames have no recorded action within 200 ms"),
        "{:?}",
        report.warnings
    );
}

#[test]
fn interrupted_run_is_resumed() {
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let settings = Settings {
        bags: vec![fixture("mcap_plain"), fixture("lz4.mcap")],
        ..settings(&fixture("mcap_plain"))
    };
    let complete = run(&mut Scripted::new(), &settings, whole.path()).unwrap();
    let mut acted = Vec::new();
    for at in [2, 5, 100] {
        let mut policy =
            Scripted { stop: Some((at, Arc::new(AtomicBool::new(false)))), ..Scripted::new() };
        let evaluated = run(&mut policy, &settings, parts.path()).unwrap();
        assert_eq!(evaluated.interrupted, at < 100);
        assert_eq!(
            evaluated.report.incomplete.is_empty(),
            at == 100,
            "{:?}",
            evaluated.report.incomplete
        );
        acted.push(policy.acted);
    }
    // No frame is inferred twice.
    assert_eq!(acted, [2, 5, 5]);
    for file in ["actions.csv", "report.json", "journal.jsonl", "curves_1.png"] {
        assert_eq!(
            std::fs::read(whole.path().join(file)).unwrap(),
            std::fs::read(parts.path().join(file)).unwrap(),
            "{file}"
        );
    }
    assert_eq!(complete.report.frames.evaluated, 12);
    // A finished evaluation is not done again.
    let mut policy = Scripted::new();
    assert_eq!(run(&mut policy, &settings, whole.path()).unwrap().pairs, complete.pairs);
    assert_eq!(policy.acted, 0);
}

#[test]
fn merged_shards_equal_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        bags: vec![fixture("mcap_plain"), fixture("sqlite_plain")],
        every: 2,
        ..settings(&fixture("mcap_plain"))
    };
    let whole = run(&mut Scripted::new(), &settings, &folder.path().join("whole")).unwrap();
    let parts: Vec<PathBuf> =
        (0..3).map(|index| folder.path().join(format!("part{index}"))).collect();
    for (index, part) in (0..).zip(&parts) {
        let shard = Shard { index, count: 3 };
        run(&mut Scripted::new(), &Settings { shard, ..settings.clone() }, part).unwrap();
    }
    let joined = merge(&parts, &folder.path().join("joined"), false).unwrap();
    assert_eq!(joined, whole.report);
    for file in ["actions.csv", "report.json", "report.html"] {
        let read = |name: &str| std::fs::read(folder.path().join(name).join(file)).unwrap();
        assert_eq!(read("whole"), read("joined"), "{file}");
    }

    let error = merge(&parts[..2], &folder.path().join("x"), false).err().unwrap().to_string();
    assert!(error.contains("shards 2/3 are missing") && error.contains("--partial"), "{error}");
    let partial = merge(&parts[..2], &folder.path().join("x"), true).unwrap();
    assert_eq!((partial.frames.evaluated, partial.incomplete.len()), (4, 1));
    let error = merge(&[parts[0].clone(), parts[0].clone()], &folder.path().join("x"), true)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("both are shard 0/3"), "{error}");
    let other = folder.path().join("other");
    run(
        &mut Scripted::new(),
        &Settings { shard: Shard { index: 1, count: 3 }, every: 1, ..settings },
        &other,
    )
    .unwrap();
    let error = merge(&[parts[0].clone(), other], &folder.path().join("x"), true)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("do not belong together") && error.contains("every (2 here, 1 there)"),
        "{error}"
    );
}

#[test]
fn policies_are_compared_by_frame() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b, out) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("c"));
    let first = settings(&fixture("mcap_plain"));
    run(&mut Scripted::new(), &first, &a).unwrap();
    let mut second = settings(&fixture("mcap_plain"));
    second.policy.device = "sim:n300".into();
    run(&mut Scripted { shift: 1, fails: 4, ..Scripted::new() }, &second, &b).unwrap();
    let comparison = compare(&a, &b, &out).unwrap();
    assert_eq!((comparison.frames, comparison.only_in), (5, (1, 0)));
    assert_eq!(comparison.dimensions[0].token_agreement, Some(0.0));
    assert_eq!(comparison.dimensions[1].token_agreement, Some(1.0));
    assert_eq!(
        (comparison.token_agreement, comparison.action_agreement),
        (Some(6.0 / 7.0), Some(0.0))
    );
    assert!((comparison.bin_distance.unwrap() - 1.0 / 7.0).abs() < 1e-12);
    let latency = comparison.latency_ms.unwrap();
    assert_eq!((latency.mean, latency.better), (0.0, (0, 0, 5)));
    assert!(std::fs::read_to_string(out.join("compare.html")).unwrap().contains("sim:n300"));

    let elsewhere = Settings { every: 5, ..settings(&fixture("unchunked.mcap")) };
    run(&mut Scripted::new(), &elsewhere, &folder.path().join("d")).unwrap();
    let error = compare(&a, &folder.path().join("d"), &out).err().unwrap().to_string();
    assert!(error.contains("no frame in common"), "{error}");
}

#[test]
fn overwriting_removes_old_images() {
    let folder = tempfile::tempdir().unwrap();
    run(&mut Scripted::new(), &settings(&fixture("mcap_plain")), folder.path()).unwrap();
    let stale = folder.path().join("frames/bag0_frame5.jpg");
    let own = folder.path().join("frames/notes.txt");
    std::fs::write(&own, "mine").unwrap();
    assert!(stale.exists());
    let other = Settings { limit: Some(2), ..settings(&fixture("mcap_plain")) };
    let options = RunOptions { overwrite: true, quiet: true };
    let evaluated =
        evaluate(&mut Scripted::new(), &other, folder.path(), options, &AtomicBool::new(false))
            .unwrap();
    write_all(folder.path(), &evaluated.report, &evaluated.pairs).unwrap();
    assert!(!stale.exists() && own.exists());
    assert_eq!(evaluated.report.frames.evaluated, 2);
}

#[test]
fn wrong_tokens_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut policy = Scripted { fails: 2, ..Scripted::new() };
    let Evaluated { report, pairs, .. } =
        run(&mut policy, &settings(&fixture("mcap_plain")), folder.path()).unwrap();
    assert_eq!((report.frames.evaluated, report.frames.failed, report.frames.matched), (6, 3, 3));
    assert_eq!(report.failures.len(), 1);
    assert!(report.failures.keys().all(|reason| reason.contains("29871")));
    assert_eq!(read_table(folder.path(), 7).unwrap(), pairs);
}

#[test]
fn unfit_topics_are_refused_first() {
    let good = settings(&fixture("mcap_plain"));
    let error = fail(&Settings { image_topic: "/camera/rgb".into(), ..good.clone() });
    assert!(
        error.contains("no topic `/camera/rgb`")
            && error.contains("/camera/image (sensor_msgs/msg/Image"),
        "{error}"
    );
    let error = fail(&Settings { image_topic: "/twist".into(), ..good.clone() });
    assert!(error.contains("`/twist` is geometry_msgs/msg/TwistStamped"), "{error}");
    let error = fail(&Settings { action_topic: Some("/instruction".into()), ..good.clone() });
    assert!(
        error.contains("`/instruction` is std_msgs/msg/String") && error.contains("/vla/action"),
        "{error}"
    );
    let error = fail(&Settings { instruction_topic: None, ..good.clone() });
    assert!(error.contains("--instruction TEXT or --instruction-topic"), "{error}");
    let error = fail(&Settings { instruction: Some(" ".into()), ..good.clone() });
    assert!(error.contains("instruction is empty"), "{error}");
    let mut narrow = good;
    narrow.policy.action_dim = 5;
    narrow.action_topic = Some("/twist".into());
    assert!(fail(&narrow).contains("the policy has 5"), "{}", fail(&narrow));
}

#[test]
fn damaged_bag_keeps_its_first_frames() {
    let folder = tempfile::tempdir().unwrap();
    let damaged = folder.path().join("damaged.mcap");
    let mut bytes = std::fs::read(fixture("unsorted.mcap")).unwrap();
    let at = bytes.len() / 3;
    bytes[at] ^= 0x55;
    std::fs::write(&damaged, bytes).unwrap();
    let settings =
        Settings { bags: vec![damaged, fixture("mcap_plain")], ..settings(&fixture("mcap_plain")) };
    // The instruction of the damaged bag may lie behind the damage; it is given instead.
    let settings = Settings {
        instruction_topic: None,
        instruction: Some("pick up the café cup ☕".into()),
        ..settings
    };
    let Evaluated { report, .. } =
        run(&mut Scripted::new(), &settings, &folder.path().join("out")).unwrap();
    assert!(
        report.incomplete[0].contains("damaged.mcap is damaged after"),
        "{:?}",
        report.incomplete
    );
    assert!(report.episodes[0].frames.evaluated < 6);
    assert_eq!(report.episodes[1].frames.evaluated, 6);
}

/// A policy for images that the scripted one does not know.
struct Constant(Scripted);

impl vla_inference::policy::Policy for Constant {
    fn act(
        &mut self,
        _: &vla_inference::observation::Observation,
    ) -> Result<vla_inference::policy::Decision, vla_inference::policy::PolicyError> {
        Ok(vla_inference::policy::Decision {
            token_ids: vec![31_872; 7],
            normalized: vec![vec![0.0; 7]],
            actions: vec![vec![0.0; 7]],
            logit_margins: vec![1.0; 7],
            ..Default::default()
        })
    }

    fn info(&self) -> &vla_inference::policy::PolicyInfo {
        self.0.info()
    }
}

#[test]
fn changing_sizes_and_invalid_images_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let bag = folder.path().join("a.mcap");
    let mut writer = BagWriter::new(&bag);
    writer.image("/camera/image", 1, 4, 2, "rgb8", 3, vec![1; 24]);
    writer.text("/instruction", 2, "go");
    writer.image("/camera/image", 3, 4, 2, "rgb8", 3, vec![1; 24]);
    writer.image("/camera/image", 4, 2, 2, "bgra8", 4, vec![2; 16]);
    writer.image("/camera/image", 5, 4, 2, "rgb8", 3, vec![1; 23]);
    writer.image("/camera/image", 6, 4, 2, "32FC1", 16, vec![1; 32]);
    writer.text("/instruction", 7, "two\nlines");
    writer.image("/camera/image", 8, 4, 2, "rgb8", 3, vec![1; 24]);
    writer.text("/instruction", 9, "stop");
    writer.image("/camera/image", 10, 4, 2, "mono8", 1, vec![1; 8]);
    writer.array("/actions", 11, &[0.0; 6]);
    writer.array("/actions", 12, &[f64::NAN, 0.5, 0.0, 0.0, 0.0, 0.0, 1.0]);
    writer.finish();
    let settings = Settings { action_topic: Some("/actions".into()), ..settings(&bag) };
    let out = folder.path().join("out");
    let stop = AtomicBool::new(false);
    let evaluated =
        evaluate(&mut Constant(Scripted::new()), &settings, &out, QUIET, &stop).unwrap();
    write_all(&out, &evaluated.report, &evaluated.pairs).unwrap();
    let report = evaluated.report;
    let frames: Vec<(u64, &str)> = evaluated
        .pairs
        .iter()
        .map(|pair| (pair.step.frame, pair.step.instruction.as_str()))
        .collect();
    assert_eq!(frames, [(1, "go"), (2, "go"), (6, "stop")]);
    let skipped: Vec<(&str, u64)> =
        report.frames.skipped.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
    assert_eq!(
        skipped,
        [("before the first instruction", 1), ("invalid image", 2), ("invalid instruction", 1)]
    );
    let warnings = report.warnings.join("\n");
    for part in [
        "image size changes 2 times, first from 4x2 to 2x2 at frame 2",
        "frame 3: image data has 23 bytes",
        "control character",
        "1 messages on /actions do not have 7 values (the first has 6)",
    ] {
        assert!(warnings.contains(part), "`{part}` is missing in:\n{warnings}");
    }
    // The recorded NaN is no value; the other six are compared.
    assert_eq!(
        (report.frames.matched, report.overall.dimensions[0].n, report.overall.dimensions[1].n),
        (3, 0, 3)
    );
}

#[test]
fn modified_bag_is_not_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let bag = folder.path().join("bag.mcap");
    std::fs::copy(fixture("lz4.mcap"), &bag).unwrap();
    let settings = settings(&bag);
    let out = folder.path().join("out");
    let mut policy =
        Scripted { stop: Some((2, Arc::new(AtomicBool::new(false)))), ..Scripted::new() };
    assert!(run(&mut policy, &settings, &out).unwrap().interrupted);
    // The same size, another time.
    let file = std::fs::OpenOptions::new().append(true).open(&bag).unwrap();
    let before = file.metadata().unwrap().modified().unwrap();
    file.set_modified(before + std::time::Duration::from_secs(5)).unwrap();
    let error = run(&mut Scripted::new(), &settings, &out).err().unwrap().to_string();
    assert!(
        error.contains("bag.mcap has changed since") && error.contains("--overwrite"),
        "{error}"
    );
    // Another size, the same time.
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    file.set_modified(before).unwrap();
    let error = run(&mut Scripted::new(), &settings, &out).err().unwrap().to_string();
    assert!(error.contains("bytes written at"), "{error}");
    std::fs::copy(fixture("lz4.mcap"), &bag).unwrap();
    file.set_modified(before).unwrap();
    assert_eq!(run(&mut Scripted::new(), &settings, &out).unwrap().report.frames.evaluated, 6);
}
