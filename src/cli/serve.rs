//! `openvla serve`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use vla_config::{Action, ImageOperation, PolicyFile};
use vla_inference::policy::ContinuationMode;
use vla_serve::{ApiKey, Bound, Ending, Gripper, Limits, Names, Options, ServeError};

use super::options::{CheckpointArgs, DecodeArgs, DeviceArgs, PolicyFileArgs};
use super::{CliError, print, print_json};

/// Environment variable with the API key.
const KEY_VARIABLE: &str = "OPENVLA_API_KEY";

/// Serve a policy to clients of OpenVLA's server (POST /act), openpi (websocket /) and vla-eval
/// (websocket /vla-eval); see docs/serving.md.
#[derive(Args)]
pub(super) struct Serve {
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    #[command(flatten)]
    policy_file: PolicyFileArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    decode: DecodeArgs,
    /// Where to listen; port 0 takes a free one and prints it. Another address than this machine's
    /// own (127.0.0.1, ::1) needs an API key
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// File with the API key that clients send as `Authorization: Api-Key KEY`; only its owner may
    /// read it. Without the option the key is OPENVLA_API_KEY, if that is set
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// A leading step of the policy file's image preparation that the clients do themselves, such
    /// as rotate_180 for a LIBERO harness that turns its pictures; several in their order, with
    /// commas
    #[arg(long, value_name = "STEP,STEP", value_delimiter = ',', requires = "policy_file")]
    done_by_client: Vec<String>,
    #[command(flatten)]
    limits: LimitArgs,
    /// Print one JSON object on stdout when clients can connect, and nothing else there
    #[arg(long)]
    json: bool,
}

/// Bounds on clients.
#[derive(Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Bytes of a request, MiB
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = number(1..=1024))]
    max_body_mib: u16,
    /// Pixels of a picture, millions
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = number(1..=67))]
    max_megapixels: u16,
    /// Connections at a time
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = number(1..=4096))]
    max_connections: u16,
    /// Requests that wait for the policy at a time; more are answered with 503
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = number(1..=4096))]
    max_waiting: u16,
    /// Seconds for the headers of a request, and between two requests of a connection
    #[arg(long, default_value_t = 10, value_name = "S", value_parser = number(1..=3600))]
    header_timeout_s: u16,
    /// Seconds for the body of a request, and for a client to take its answer
    #[arg(long, default_value_t = 30, value_name = "S", value_parser = number(1..=3600))]
    body_timeout_s: u16,
    /// Seconds after which a websocket is closed that does not even answer a ping
    #[arg(long, default_value_t = 60, value_name = "S", value_parser = number(2..=3600))]
    silence_timeout_s: u16,
    /// Seconds that open requests have to end after SIGTERM or SIGINT
    #[arg(long, default_value_t = 30, value_name = "S", value_parser = number(1..=3600))]
    drain_timeout_s: u16,
}

impl From<&LimitArgs> for Limits {
    fn from(args: &LimitArgs) -> Self {
        let seconds = |seconds: u16| Duration::from_secs(seconds.into());
        Self {
            body_bytes: usize::from(args.max_body_mib) << 20,
            picture_pixels: usize::from(args.max_megapixels) * 1_000_000,
            connections: args.max_connections.into(),
            waiting: args.max_waiting.into(),
            header_time: seconds(args.header_timeout_s),
            body_time: seconds(args.body_timeout_s),
            silence: seconds(args.silence_timeout_s),
            drain: seconds(args.drain_timeout_s),
        }
    }
}

/// A whole number in `range`.
fn number(range: std::ops::RangeInclusive<i64>) -> clap::builder::RangedI64ValueParser<u16> {
    clap::builder::RangedI64ValueParser::new().range(range)
}

/// The JSON object.
#[derive(Serialize)]
struct Listening<'a> {
    /// `127.0.0.1:8000`.
    listening: SocketAddr,
    port: u16,
    device: &'a str,
    precision: &'a str,
    unnorm_key: &'a str,
    cameras: Vec<&'a str>,
    state_dim: usize,
    action_dim: usize,
    horizon: usize,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), CliError> {
        // Everything that can be wrong is known before the checkpoint is loaded, which takes
        // minutes.
        match self.decode.flow.rtc {
            ContinuationMode::None => {}
            ContinuationMode::Guided { .. } => return Err(CliError::Continuation("guided")),
            ContinuationMode::Trained => return Err(CliError::Continuation("trained")),
        }
        let folder = self.checkpoint.folder()?;
        let mut file = self.policy_file.load()?;
        if let Some(file) = &mut file {
            leave_out(file, &self.done_by_client)?;
        }
        let bound = Bound::new(Options {
            listen: self.listen,
            api_key: api_key(self.api_key_file.as_deref())?,
            limits: (&self.limits).into(),
            // A seed that is given is that of every answer, as of every run of `predict`.
            restart: self.decode.flow.seed.is_some(),
        })?;
        let listening = bound.address();
        let policy = self.device.load_with(&folder, self.decode, file.as_ref())?;
        let info = policy.info().clone();
        let mut printed = Ok(());
        let ready = |_| {
            printed = if self.json {
                print_json(&Listening {
                    listening,
                    port: listening.port(),
                    device: &info.device,
                    precision: &info.precision,
                    unnorm_key: &info.unnorm_key,
                    cameras: info.cameras.iter().map(|camera| &**camera).collect(),
                    state_dim: info.state_dim,
                    action_dim: info.action_dim,
                    horizon: info.horizon,
                })
            } else {
                print(&format!(
                    "listening on {listening}: POST /act (OpenVLA), websockets / (openpi) and \
                    /vla-eval, /healthz, /metrics; {}, unnorm_key {}",
                    info.device, info.unnorm_key
                ))
            };
        };
        let Ending { cut_off } =
            bound.run(policy, file.as_ref().map_or_else(Names::default, names), ready)?;
        if cut_off > 0 {
            eprintln!(
                "openvla serve: {cut_off} connections were still busy at the end of the time for \
                them (--drain-timeout-s)"
            );
        }
        printed
    }
}

/// The API key of the file, else of the environment.
pub(super) fn api_key(file: Option<&Path>) -> Result<Option<ApiKey>, ServeError> {
    if let Some(path) = file {
        return Ok(Some(ApiKey::from_file(path)?));
    }
    match std::env::var_os(KEY_VARIABLE).filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => Ok(Some(ApiKey::new(&text.to_string_lossy())?)),
    }
}

/// Takes the first steps off the image preparation, which must be the ones named.
fn leave_out(file: &mut PolicyFile, steps: &[String]) -> Result<(), CliError> {
    let stated: Vec<&str> = file.image.steps.iter().map(|step| name(step.operation)).collect();
    let same = stated.iter().zip(steps).all(|(stated, given)| *stated == given.as_str());
    if !same || steps.len() > stated.len() {
        return Err(CliError::ImageSteps {
            given: steps.join(", "),
            file: file.name.clone(),
            stated: stated.join(", "),
        });
    }
    file.image.steps.drain(..steps.len());
    Ok(())
}

/// A step's name in policy files.
fn name(operation: ImageOperation) -> &'static str {
    match operation {
        ImageOperation::Rotate180 => "rotate_180",
        ImageOperation::Jpeg => "jpeg",
        ImageOperation::Bicubic(_) => "bicubic",
        ImageOperation::Bilinear(_) => "bilinear",
        ImageOperation::BilinearPad(_) => "bilinear_pad",
        ImageOperation::TorchBilinearPad(_) => "torch_bilinear_pad",
        ImageOperation::Lanczos3(_) => "lanczos3",
        ImageOperation::Area(_) => "area",
        ImageOperation::CenterCrop(_) => "center_crop",
    }
}

/// What the policy file says about names on the wire.
fn names(file: &PolicyFile) -> Names {
    let cameras = file.cameras.iter();
    let topics = cameras.filter_map(|camera| {
        camera.topic.as_ref().map(|topic| (camera.name.clone(), vec![topic.clone()]))
    });
    let gripper = match &file.action {
        // Harnesses that take robosuite's gripper move the end effector.
        Action::EndEffector(_) => Some(file.gripper),
        Action::Joints(_) => None,
    };
    Names {
        policy: Some(file.name.clone()),
        cameras: topics.collect(),
        gripper: gripper.map(|gripper| Gripper { closed: gripper.closed, open: gripper.open }),
        execute: Some(file.execute),
    }
}
