//! `openvla replay`.

use std::path::PathBuf;

use clap::Args;

use super::CliError;

/// Publish a bag's observations on ROS 2, to run the node on recorded data.
#[derive(Args, Debug)]
#[cfg_attr(not(feature = "ros"), allow(dead_code))] // parsed and in --help without ROS, too
pub(super) struct Replay {
    /// rosbag2 folder, or a .mcap or .db3 file (.zstd allowed)
    #[arg(long, value_name = "DIR|FILE")]
    bag: PathBuf,
    /// Playback rate: seconds of the recording per second
    #[arg(long, default_value = "1", value_name = "R", value_parser = positive)]
    rate: f64,
    /// Recorded topics to publish; default: images and other sensor data, texts and poses. A
    /// recorded command moves a robot!
    #[arg(long, num_args = 1.., value_name = "T")]
    topics: Vec<String>,
    /// Recorded topic to publish as `image` (`image/compressed` if it is a CompressedImage)
    #[arg(long, value_name = "T")]
    image_topic: Option<String>,
    /// Recorded topic to publish as `instruction`
    #[arg(long, value_name = "T")]
    instruction_topic: Option<String>,
    /// Publish a recorded topic under another name
    #[arg(long, value_name = "FROM:=TO", value_parser = remap)]
    remap: Vec<(String, String)>,
    /// Publish recorded time on /clock, HZ times a second of the machine; for nodes with
    /// use_sim_time
    #[arg(
        long,
        num_args = 0..=1,
        default_missing_value = "50",
        value_name = "HZ",
        value_parser = clock_rate
    )]
    clock: Option<f64>,
    /// Begin again at the end, until Ctrl-C; recorded time then jumps back
    #[arg(long = "loop")]
    repeat: bool,
    /// Longest wait for subscribers of images and texts before the first message, seconds
    #[arg(long, default_value = "5", value_name = "SECONDS", value_parser = patience)]
    wait: f64,
}

fn number(text: &str, low: f64, high: f64) -> Result<f64, String> {
    let value: Option<f64> = text.parse().ok().filter(|value| (low..=high).contains(value));
    value.ok_or_else(|| format!("'{text}' is not a number from {low} to {high}"))
}

fn positive(text: &str) -> Result<f64, String> {
    number(text, 1e-3, 1e3)
}

fn clock_rate(text: &str) -> Result<f64, String> {
    number(text, 1.0, 1e3)
}

fn patience(text: &str) -> Result<f64, String> {
    number(text, 0.0, 3600.0)
}

fn remap(text: &str) -> Result<(String, String), String> {
    match text.split_once(":=") {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => {
            Ok((from.to_owned(), to.to_owned()))
        }
        _ => Err(format!("'{text}' is not FROM:=TO")),
    }
}

impl Replay {
    #[cfg(not(feature = "ros"))]
    pub(super) fn run(self) -> Result<(), CliError> {
        Err(CliError::NoRos)
    }

    #[cfg(feature = "ros")]
    pub(super) fn run(self) -> Result<(), CliError> {
        let options = crate::ros::ReplayOptions {
            bag: self.bag,
            rate: self.rate,
            topics: self.topics,
            image_topic: self.image_topic,
            instruction_topic: self.instruction_topic,
            remaps: self.remap,
            clock_hz: self.clock,
            repeat: self.repeat,
            wait: std::time::Duration::from_secs_f64(self.wait),
        };
        let mut note = |line: &str| eprintln!("openvla: {line}");
        let replayed = crate::ros::replay(&options, &mut note)?;
        for (recorded, name, sent) in &replayed.topics {
            super::print(&format!("{recorded} -> {name}: {sent} messages"))?;
        }
        let ending = if replayed.interrupted { ", interrupted" } else { "" };
        super::print(&format!("{:.1} s{ending}", replayed.seconds))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        replay: Replay,
    }

    fn parse(arguments: &[&str]) -> Result<Replay, String> {
        let line = ["replay", "--bag", "b"].iter().chain(arguments);
        Line::try_parse_from(line).map(|line| line.replay).map_err(|error| error.to_string())
    }

    #[test]
    fn arguments_are_read_and_bounded() {
        let replay = parse(&[
            "--rate", "0.5", "--topics", "/a", "/b", "--clock", "--remap", "/a:=c", "--loop",
        ])
        .unwrap();
        assert_eq!((replay.rate, replay.clock, replay.repeat), (0.5, Some(50.0), true));
        assert_eq!(replay.topics, ["/a", "/b"]);
        assert_eq!(replay.remap, [("/a".to_owned(), "c".to_owned())]);
        assert_eq!(parse(&["--clock", "100"]).unwrap().clock, Some(100.0));
        for (wrong, part) in [
            (["--rate", "0"], "'0' is not a number from 0.001 to 1000"),
            (["--rate", "nan"], "'nan' is not"),
            (["--wait", "-1"], "-1"),
            (["--clock", "0"], "from 1 to 1000"),
            (["--remap", "/a:="], "is not FROM:=TO"),
        ] {
            let error = parse(&wrong).unwrap_err();
            assert!(error.contains(part), "{wrong:?}: {error}");
        }
    }
}
