//! The report in a real browser: it renders, and the plots and images are seen. Needs Chromium
//! (`CHROMIUM`, or one of the usual names on the path; `tools/test/browser` gets one). Without it
//! the test says `SKIPPED` past the runner's capture, and why; `tools/test/run` repeats that at the
//! end. A `CHROMIUM` that does not run is a failure.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;

use support::{Scripted, root, settings};
use vla_eval::limits::{LimitsSettings, replay};
use vla_eval::{RunOptions, evaluate, write_all};

/// Colours of the plots: recorded, predicted, latency.
const COLOURS: [[u8; 3]; 3] = [[0, 114, 178], [213, 94, 0], [0, 158, 115]];

fn browser() -> Option<PathBuf> {
    let runs = |program: &PathBuf| {
        let version = Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        version.is_ok_and(|status| status.success())
    };
    if let Some(named) =
        std::env::var_os("CHROMIUM").filter(|name| !name.is_empty()).map(PathBuf::from)
    {
        assert!(runs(&named), "CHROMIUM is {}, which does not run", named.display());
        return Some(named);
    }
    ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"]
        .map(PathBuf::from)
        .into_iter()
        .find(runs)
}

/// A line that the test runner does not capture.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Opens a page and takes its picture. Returns what the browser said.
fn open(browser: &Path, page: &Path, picture: &Path, profile: &Path) -> String {
    let output = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--window-size=1100,5200",
            "--enable-logging=stderr",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("--screenshot={}", picture.display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "the browser failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_report_renders_in_a_browser() {
    let Some(browser) = browser() else {
        say("SKIPPED the_report_renders_in_a_browser: no Chromium (tools/test/browser gets one, \
            or set CHROMIUM)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&root("tests/data/bags/mcap_plain"));
    let mut policy = Scripted { shift: 9, fails: 5, ..Scripted::new() };
    let options = RunOptions { overwrite: false, quiet: true };
    let evaluated =
        evaluate(&mut policy, &settings, folder.path(), options, &AtomicBool::new(false)).unwrap();
    // The recorded actions within a robot's limits stand in the same report.
    let limits = LimitsSettings {
        bags: settings.bags.clone(),
        action_topic: "/vla/action".into(),
        gripper_topic: None,
        pose_topic: None,
        robot_file: root("config/robots/widowx_250.yaml"),
        policy_file: root("config/policies/openvla-7b.yaml"),
        checkpoint: None,
        unnorm_key: None,
    };
    let limited = replay(&limits, folder.path()).unwrap();
    write_all(folder.path(), &evaluated.report, &evaluated.pairs).unwrap();
    let text = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(text.contains(&format!("within the limits of {}", limited.robot)));

    // Kept, for a person to look at.
    let picture = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report.png");
    let said = open(
        &browser,
        &folder.path().join("report.html"),
        &picture,
        &folder.path().join("profile"),
    );
    for line in said.lines() {
        assert!(
            !line.contains("CONSOLE") && !line.contains("ERR_FILE_NOT_FOUND"),
            "the page has errors: {line}"
        );
    }
    let seen = image::open(&picture).unwrap().into_rgb8();
    for colour in COLOURS {
        let pixels = seen.pixels().filter(|pixel| pixel.0 == colour).count();
        assert!(
            pixels > 300,
            "colour {colour:?} of the plots fills only {pixels} pixels: are they shown?"
        );
    }
    // The frames are noise, so their pictures are the only places with many different colours.
    let colours: std::collections::BTreeSet<[u8; 3]> = seen.pixels().map(|pixel| pixel.0).collect();
    assert!(colours.len() > 1000, "only {} colours: the frames are not shown", colours.len());
    say(&format!("screenshot of the report: {}", picture.display()));

    let other = Path::new(env!("CARGO_TARGET_TMPDIR")).join("limits.png");
    let said =
        open(&browser, &folder.path().join("limits.html"), &other, &folder.path().join("profile"));
    assert!(!said.contains("CONSOLE"), "the page has errors: {said}");
    let seen = image::open(&other).unwrap().into_rgb8();
    for colour in &COLOURS[..2] {
        let pixels = seen.pixels().filter(|pixel| pixel.0 == *colour).count();
        assert!(
            pixels > 300,
            "colour {colour:?} fills only {pixels} pixels: are the curves shown?"
        );
    }

    // The same page without its pictures must not pass.
    let broken = folder.path().join("broken.html");
    std::fs::write(&broken, text.replace(";base64,", ";base64,AAAA")).unwrap();
    let other = folder.path().join("broken.png");
    open(&browser, &broken, &other, &folder.path().join("profile"));
    let seen = image::open(&other).unwrap().into_rgb8();
    assert!(
        COLOURS
            .iter()
            .any(|colour| seen.pixels().filter(|pixel| pixel.0 == *colour).count() <= 300)
    );
}
