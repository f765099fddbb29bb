//! The topics of the configured cameras, state and robot, observed for some seconds.

use std::path::PathBuf;

use clap::Args;

use super::report::Check;

/// Which topics.
#[derive(Args, Debug)]
#[command(next_help_heading = "Topics (as the node's parameters; nothing is published)")]
#[cfg_attr(not(feature = "ros"), allow(dead_code))] // parsed and in --help without ROS, too
pub(super) struct TopicArgs {
    /// Policy file: its cameras and state are observed
    #[arg(long, value_name = "FILE")]
    policy_file: Option<PathBuf>,
    /// Robot file: its joints are observed, its command topics looked at
    #[arg(long, value_name = "FILE")]
    robot_file: Option<PathBuf>,
    /// ROS parameter file of the node; may be repeated
    #[arg(long, value_name = "FILE")]
    params_file: Vec<PathBuf>,
    /// A parameter of the node, such as image_transport:=compressed; may be repeated
    #[arg(short = 'p', long = "param", value_name = "NAME:=VALUE", value_parser = assignment)]
    parameters: Vec<String>,
    /// A remapping of the node, such as image:=/camera/color/image_raw; may be repeated
    #[arg(short = 'r', long = "remap", value_name = "FROM:=TO", value_parser = assignment)]
    remaps: Vec<String>,
    /// How long topics are observed, seconds
    #[arg(long, default_value = "5", value_name = "SECONDS", value_parser = seconds)]
    seconds: f64,
}

fn assignment(text: &str) -> Result<String, String> {
    match text.split_once(":=") {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok(text.to_owned()),
        _ => Err(format!("'{text}' is not NAME:=VALUE")),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let value: Option<f64> = text.parse().ok().filter(|value| (1.0..=600.0).contains(value));
    value.ok_or_else(|| format!("'{text}' is not a number from 1 to 600"))
}

impl TopicArgs {
    /// Nothing that names a topic was given.
    fn is_empty(&self) -> bool {
        let files = [&self.policy_file, &self.robot_file];
        files.iter().all(|file| file.is_none())
            && self.params_file.is_empty()
            && self.parameters.is_empty()
            && self.remaps.is_empty()
    }

    #[cfg(not(feature = "ros"))]
    pub(super) fn checks(&self) -> Vec<Check> {
        if self.is_empty() {
            return Vec::new();
        }
        vec![Check::error("topics", "not observed", crate::cli::CliError::NoRos.to_string())]
    }

    #[cfg(feature = "ros")]
    pub(super) fn checks(&self) -> Vec<Check> {
        use crate::ros::{Verdict, survey};

        if self.is_empty() {
            return Vec::new();
        }
        let period = std::time::Duration::from_secs_f64(self.seconds);
        match survey(&self.arguments(), period) {
            Ok(findings) => findings
                .into_iter()
                .map(|finding| match (finding.verdict, finding.remedy) {
                    (Verdict::Ok, _) => Check::ok(finding.purpose, finding.value),
                    (Verdict::Warning, remedy) => {
                        Check::warning(finding.purpose, finding.value, remedy)
                    }
                    (Verdict::Error, remedy) => {
                        Check::error(finding.purpose, finding.value, remedy)
                    }
                })
                .collect(),
            Err(error) => vec![Check::error(
                "topics",
                error.to_string(),
                "correct it; the node would refuse it, too",
            )],
        }
    }

    /// The command line of the node that these options stand for.
    #[cfg(feature = "ros")]
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["--ros-args".to_owned()];
        let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
        for file in &self.params_file {
            add("--params-file", file.display().to_string());
        }
        for (name, file) in [("policy_file", &self.policy_file), ("robot_file", &self.robot_file)] {
            if let Some(file) = file {
                // A quoted YAML string, whatever the path looks like.
                let path = file.display().to_string().replace('\'', "''");
                add("-p", format!("{name}:='{path}'"));
            }
        }
        self.parameters.iter().for_each(|parameter| add("-p", parameter.clone()));
        self.remaps.iter().for_each(|rule| add("-r", rule.clone()));
        arguments
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
        topics: TopicArgs,
    }

    fn parse(arguments: &[&str]) -> Result<TopicArgs, String> {
        let line = ["doctor"].iter().chain(arguments);
        Line::try_parse_from(line).map(|line| line.topics).map_err(|error| error.to_string())
    }

    #[test]
    fn options_become_the_arguments_of_the_node() {
        assert!(parse(&[]).unwrap().is_empty());
        let topics = parse(&["--policy-file", "it's.yaml", "-r", "image:=/cam", "-p", "a:=b"]);
        let topics = topics.unwrap();
        assert!(!topics.is_empty());
        #[cfg(feature = "ros")]
        assert_eq!(
            topics.arguments().join(" "),
            "--ros-args -p policy_file:='it''s.yaml' -p a:=b -r image:=/cam"
        );
        for wrong in [["--seconds", "0"], ["--seconds", "nan"], ["-r", "image"], ["-p", ":=x"]] {
            assert!(parse(&wrong).is_err(), "{wrong:?}");
        }
    }
}
