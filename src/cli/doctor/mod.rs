//! `openvla doctor`: what would prevent a robot from moving, or make it move badly, found before it
//! is tried. Each check is one line with its remedy. No device is opened and nothing is published.

mod host;
mod machine;
mod provider;
mod report;
mod ros;
mod tenstorrent;
#[cfg(test)]
mod tests;
mod topics;

use std::path::PathBuf;

use clap::Args;

use super::CliError;
use super::options::CheckpointArgs;
use host::Host;
use machine::Use;
use report::{Check, Report};
use vla_inference::backend::tt::Provider;
use vla_inference::policy::Device;

/// Check this machine, its Tenstorrent devices, the ROS environment and the topics of a robot. One
/// line for each check: ok, warning or error, with value and remedy. Exit status 1 when there is an
/// error.
#[derive(Args, Debug)]
pub(super) struct Doctor {
    /// Device that the node is to use, as for `predict`; without it what is there is described
    #[arg(long)]
    device: Option<Device>,
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    /// Folder of packed weights that the node is to use
    #[arg(long, value_name = "DIR")]
    weight_cache: Option<PathBuf>,
    #[command(flatten)]
    topics: topics::TopicArgs,
    /// Print one JSON object on stdout and nothing else there
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) fn run(self) -> Result<(), CliError> {
        let host = Host::this();
        let mut report = Report::new(self.json);
        let (checkpoint, weights) = self.checkpoint();
        report.add(machine::checks(&host, self.use_(), weights))?;
        if matches!(self.use_(), Use::Silicon | Use::Any) {
            let name = self.device.map(|device| device.to_string());
            let board = name.as_deref().and_then(|name| name.strip_prefix("tt:"));
            report.add(tenstorrent::checks(&host, board))?;
        }
        match self.use_() {
            Use::Silicon => {
                report.add(provider::tt_nn(&host))?;
                report.add([provider::library(Provider::Silicon)])?;
            }
            Use::Simulated => report.add([provider::library(Provider::Simulated)])?,
            Use::Cpu | Use::Any => {}
        }
        report.add(checkpoint)?;
        if let Some(folder) = &self.weight_cache {
            report.add([provider::weight_cache(&host, folder, weights)])?;
        }
        report.add(ros::checks(&host))?;
        report.add(self.topics.checks())?;
        report.finish()
    }

    fn use_(&self) -> Use {
        match self.device {
            None => Use::Any,
            Some(Device::Cpu) => Use::Cpu,
            Some(Device::Simulated(_)) => Use::Simulated,
            Some(Device::Tenstorrent(_)) => Use::Silicon,
        }
    }

    /// The checkpoint's line, if one is named, and the bytes of its weights.
    fn checkpoint(&self) -> (Option<Check>, Option<u64>) {
        let named = self.checkpoint.checkpoint.as_ref();
        if named.is_none_or(|path| path.as_os_str().is_empty()) {
            return (None, None);
        }
        match self.checkpoint.folder() {
            Ok(folder) => {
                let (check, weights) = provider::checkpoint(&folder);
                (Some(check), weights)
            }
            Err(error) => {
                let remedy = "give the folder that holds config.json";
                (Some(Check::error("checkpoint", error.to_string(), remedy)), None)
            }
        }
    }
}
