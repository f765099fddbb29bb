//! The report in a browser: plots and images are visible, and no table is cut. Needs Chromium
//! (`CHROMIUM`, or one of the usual names on the path; `tools/test/browser` installs one). Without
//! it the test prints a line `SKIPPED` with the reason, which `tools/test/run` repeats at the end.
//! A `CHROMIUM` that does not run is a failure.
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

/// Runs the browser on a page with a window 1100 px wide. Returns its stdout and stderr.
fn browse(browser: &Path, page: &Path, profile: &Path, action: &str) -> (String, String) {
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
        .arg(action)
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "the browser failed: {error}");
    (out, error)
}

/// Takes a screenshot of a page. Returns the browser's log.
fn open(browser: &Path, page: &Path, picture: &Path, profile: &Path) -> String {
    browse(browser, page, profile, &format!("--screenshot={}", picture.display())).1
}

/// Asserts that nothing of a page is wider than the window, and that no table is cut by the
/// scrolling element around it. A script in a copy of the page measures.
fn assert_not_cut(browser: &Path, page: &Path, profile: &Path) {
    let script = "<script>addEventListener('load', () => {
        const root = document.documentElement;
        const cut = [...document.querySelectorAll('table')].filter(table => {
            const box = table.parentElement.getBoundingClientRect();
            return table.getBoundingClientRect().right > Math.min(box.right, innerWidth) + 0.5;
        });
        const tables = document.querySelectorAll('table').length;
        document.title = `measured ${root.scrollWidth} ${innerWidth} ${cut.length} ${tables}`;
    })</script></head>";
    let measured = page.with_extension("measured.html");
    let text = std::fs::read_to_string(page).unwrap();
    std::fs::write(&measured, text.replace("</head>", script)).unwrap();
    let (dom, _) = browse(browser, &measured, profile, "--dump-dom");
    let title = dom.split("<title>measured ").nth(1).and_then(|rest| rest.split('<').next());
    let numbers: Vec<f64> = title
        .expect("the script did not run")
        .split(' ')
        .map(|number| number.parse().unwrap())
        .collect();
    let [content, window, cut, tables] = numbers[..] else { panic!("{title:?}") };
    assert!(content <= window, "{}: {content} px in a window of {window}", page.display());
    assert!(tables >= 5.0 && cut == 0.0, "{}: {cut} of {tables} tables are cut", page.display());
}

#[test]
fn report_renders_uncut() {
    let Some(browser) = browser() else {
        say("SKIPPED report_renders_uncut: no Chromium (run tools/test/browser, or set CHROMIUM)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    // A path as long as those of real recordings.
    let bag =
        folder.path().join("robot_recordings_of_the_second_floor_kitchen_2024_05_17-09_41_23");
    std::fs::create_dir(&bag).unwrap();
    for file in ["metadata.yaml", "mcap_plain.mcap"] {
        let source = root("tests/data/bags/mcap_plain").join(file);
        std::fs::copy(source, bag.join(file)).unwrap();
    }
    let settings = settings(&bag);
    let mut policy = Scripted { shift: 9, fails: 5, ..Scripted::new() };
    let options = RunOptions { overwrite: false, quiet: true };
    let evaluated =
        evaluate(&mut policy, &settings, folder.path(), options, &AtomicBool::new(false)).unwrap();
    // The report includes the result of `eval limits` on the same bags.
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

    // Kept for inspection.
    let picture = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report.png");
    let log = open(
        &browser,
        &folder.path().join("report.html"),
        &picture,
        &folder.path().join("profile"),
    );
    for line in log.lines() {
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
    // The frames are noise: only their images have many different colours.
    let colours: std::collections::BTreeSet<[u8; 3]> = seen.pixels().map(|pixel| pixel.0).collect();
    assert!(colours.len() > 1000, "only {} colours: the frames are not shown", colours.len());
    say(&format!("screenshot of the report: {}", picture.display()));

    let other = Path::new(env!("CARGO_TARGET_TMPDIR")).join("limits.png");
    let log =
        open(&browser, &folder.path().join("limits.html"), &other, &folder.path().join("profile"));
    assert!(!log.contains("CONSOLE"), "the page has errors: {log}");
    let seen = image::open(&other).unwrap().into_rgb8();
    for colour in &COLOURS[..2] {
        let pixels = seen.pixels().filter(|pixel| pixel.0 == *colour).count();
        assert!(
            pixels > 300,
            "colour {colour:?} fills only {pixels} pixels: are the curves shown?"
        );
    }

    for page in ["report.html", "limits.html"] {
        assert_not_cut(&browser, &folder.path().join(page), &folder.path().join("profile"));
    }

    // Counter-check: without its images the page fails.
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
