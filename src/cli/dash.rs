//! `openvla dash`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::CliError;

/// Operator page of a running node in the browser: camera, instruction, enable, stop and reset,
/// state with reason and remedy, motion, times; see docs/dash.md. It is no safety function.
#[derive(Args, Debug)]
#[cfg_attr(not(feature = "ros"), allow(dead_code))] // parsed and in --help without ROS, too
pub(super) struct Dash {
    /// Fully qualified name of the node
    #[arg(long, default_value = "/vla", value_name = "NAME", value_parser = node_name)]
    node: String,
    /// Topic of a camera to show, Image or CompressedImage; may be repeated, up to four. Without
    /// it the cameras of the node's policy file are shown
    #[arg(long, value_name = "TOPIC")]
    camera: Vec<String>,
    /// A remapping of the node, such as image:=/camera/color/image_raw; may be repeated
    #[arg(short = 'r', long = "remap", value_name = "FROM:=TO", value_parser = rule)]
    remaps: Vec<String>,
    /// Where to listen; port 0 takes a free one and prints it. Another address than this machine's
    /// own (127.0.0.1, ::1) needs an API key
    #[arg(long, default_value = "127.0.0.1:8010", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// File with the API key, which every request then needs; only its owner may read it. Without
    /// the option the key is OPENVLA_API_KEY, if that is set
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Name of this machine by which browsers may address it, besides its addresses and localhost;
    /// may be repeated
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
    /// Print one JSON object on stdout when browsers can connect, and nothing else there
    #[arg(long)]
    json: bool,
}

fn node_name(text: &str) -> Result<String, String> {
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with(|c: char| c.is_ascii_digit())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let name = format!("/{}", text.trim_start_matches('/'));
    match name.len() <= 200 && name[1..].split('/').all(is_part) {
        true => Ok(name),
        false => Err(format!("'{text}' is no name of a node, such as /vla or /robot1/vla")),
    }
}

fn rule(text: &str) -> Result<String, String> {
    match text.split_once(":=") {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => Ok(text.to_owned()),
        _ => Err(format!("'{text}' is not FROM:=TO")),
    }
}

impl Dash {
    #[cfg(not(feature = "ros"))]
    pub(super) fn run(self) -> Result<(), CliError> {
        Err(CliError::NoRos)
    }

    #[cfg(feature = "ros")]
    pub(super) fn run(self) -> Result<(), CliError> {
        use vla_serve::dash::{BoundDash, DashServer};

        let bound = BoundDash::new(DashServer {
            listen: self.listen,
            api_key: super::serve::api_key(self.api_key_file.as_deref())
                .map_err(CliError::DashServer)?,
            hosts: self.host,
        })
        .map_err(CliError::DashServer)?;
        let (address, json) = (bound.address(), self.json);
        let (remaps, cameras) = (self.remaps, self.camera);
        let options = crate::ros::DashOptions { node: self.node, cameras, remaps };
        let node = options.node.clone();
        let ready = move || {
            let url = format!("http://{address}/");
            // A closed standard output must not end the page.
            let _ = if json {
                super::print_json(&serde_json::json!({
                    "listening": address, "port": address.port(), "node": node, "url": url,
                }))
            } else {
                super::print(&format!(
                    "operator page of {node}: {url} (no safety function: keep the emergency stop \
                    within reach)"
                ))
            };
        };
        Ok(crate::ros::dash(&options, bound, ready)?)
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
        dash: Dash,
    }

    #[test]
    fn arguments_are_checked() {
        let parse = |arguments: &[&str]| {
            Line::try_parse_from(["dash"].iter().chain(arguments)).map(|line| line.dash)
        };
        let dash = parse(&[]).unwrap();
        assert!(dash.listen.ip().is_loopback() && dash.node == "/vla");
        assert_eq!(parse(&["--node", "robot1/vla"]).unwrap().node, "/robot1/vla");
        for wrong in [["--node", "/a//b"], ["--node", "1a"], ["-r", "image"], ["--listen", "80"]] {
            assert!(parse(&wrong).is_err(), "{wrong:?}");
        }
    }
}
