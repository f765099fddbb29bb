//! The parameters' values, one field each.

use std::path::Path;

use vla_control::{RawControlConfig, RawWorkspace};

/// Longest path that a message repeats, characters; the longest that Linux opens.
const LONGEST_SHOWN: usize = 4096;

/// A value for every parameter. The default is what holds when neither a file nor a user gives one.
#[derive(Debug, Clone, PartialEq)]
pub struct Values {
    /// Checkpoint folder.
    pub checkpoint: String,
    /// Policy file, empty for none.
    pub policy_file: String,
    /// Robot file, empty for none.
    pub robot_file: String,
    /// Statistics key, empty when there is exactly one.
    pub unnorm_key: String,
    /// Device name.
    pub device: String,
    /// Precision name or file, empty for the device's default.
    pub precision: String,
    /// Threads of the CPU backend, 0 for one per core.
    pub threads: i64,
    /// `full` or `actions`.
    pub decode: String,
    /// Speculative decoding with the last action's tokens.
    pub draft: bool,
    /// Seed of the first chunk's noise; 0 draws one.
    pub seed: i64,
    /// Time added to every inference, seconds.
    pub added_latency_s: f64,
    /// Folder of packed weights, empty for none.
    pub weight_cache: String,
    /// Configure and activate without a lifecycle manager.
    pub autostart: bool,
    /// `raw` or `compressed`.
    pub image_transport: String,
    /// Steps of the policy per second, Hz; 0 takes the policy file's.
    pub policy_hz: f64,
    /// Inferences per second at most, Hz; 0 takes `policy_hz`.
    pub inference_rate_hz: f64,
    /// Frame of the actions.
    pub frame_id: String,
    /// `SCHED_FIFO` priority of the control thread.
    pub control_priority: i64,
    /// Niceness of the inference threads.
    pub inference_niceness: i64,
    /// Folder of flight records, empty for none.
    pub record_directory: String,
    /// Pictures per second on `~/debug_image`, Hz; 0 for none.
    pub debug_image_hz: f64,
    /// Whether ROS time comes from `/clock`.
    pub use_sim_time: bool,
    /// Lower corner of the workspace, metres; both corners or none.
    pub workspace_min: Option<[f64; 3]>,
    /// Upper corner of the workspace, metres.
    pub workspace_max: Option<[f64; 3]>,
    /// Kept free inside each face, metres.
    pub workspace_margin: f64,
    /// Longest loading of a checkpoint, seconds.
    pub load_timeout_s: f64,
    /// Address of a policy server, empty for a checkpoint.
    pub remote: String,
    /// File with the server's API key, empty for none.
    pub remote_key_file: String,
    /// Longest connecting, the websocket's handshake and first frame included, seconds.
    pub remote_connect_timeout_s: f64,
    /// Longest silence within an answer, seconds.
    pub remote_read_timeout_s: f64,
    /// Longest time from a request to its whole answer, seconds.
    pub remote_timeout_s: f64,
    /// Control's parameters; `workspace`, `envelope` and `expected_inference_s` are filled in
    /// later.
    pub control: RawControlConfig,
}

impl Default for Values {
    fn default() -> Self {
        Self {
            checkpoint: std::env::var("OPENVLA_WEIGHTS").unwrap_or_default(),
            policy_file: String::new(),
            robot_file: String::new(),
            unnorm_key: String::new(),
            device: "cpu".into(),
            precision: String::new(),
            threads: 0,
            decode: "full".into(),
            draft: false,
            seed: 0,
            added_latency_s: 0.0,
            weight_cache: String::new(),
            autostart: false,
            image_transport: "raw".into(),
            policy_hz: 0.0,
            inference_rate_hz: 0.0,
            frame_id: "base_link".into(),
            control_priority: 40,
            inference_niceness: 10,
            record_directory: String::new(),
            debug_image_hz: 0.0,
            use_sim_time: false,
            workspace_min: None,
            workspace_max: None,
            workspace_margin: 0.02,
            load_timeout_s: 600.0,
            remote: String::new(),
            remote_key_file: String::new(),
            remote_connect_timeout_s: 1.0,
            remote_read_timeout_s: 0.25,
            remote_timeout_s: 1.0,
            control: RawControlConfig { command_rate_hz: 0.0, ..RawControlConfig::default() },
        }
    }
}

impl Values {
    /// The workspace, when both corners are set.
    #[must_use]
    pub fn workspace(&self) -> Option<RawWorkspace> {
        let (min, max) = self.workspace_min.zip(self.workspace_max)?;
        Some(RawWorkspace { min, max, margin: self.workspace_margin })
    }
}

/// A path with a leading `~`, `$HOME` or `${HOME}` replaced by the home folder. Parameters of the
/// node and the command line both take their paths through it: a shell expands neither in
/// `--option=~/x` nor in a YAML file.
///
/// # Errors
/// What the path contains that a shell or a downloader would resolve and this program does not.
pub fn expand_path(text: &str, home: Option<&str>) -> Result<String, String> {
    let exists = Path::new(text).exists();
    if text != text.trim() && !exists {
        return Err("begins or ends with white space; write the path alone".into());
    }
    let quoted = |quote| text.len() > 1 && text.starts_with(quote) && text.ends_with(quote);
    if (quoted('"') || quoted('\'')) && !exists {
        return Err("is in quotation marks, which are part of it; write the path alone".into());
    }
    if let Some((variable, rest)) = home_relative(text) {
        if !(rest.is_empty() || rest.starts_with('/')) {
            return Err(match variable {
                "~" => "only ~/ is expanded, not ~user; write the path in full".into(),
                _ => "$ is not expanded; start with ~/ or write the path in full".to_owned(),
            });
        }
        let home = home.filter(|home| !home.is_empty()).ok_or_else(|| {
            format!(
                "HOME is not set, so that {variable} cannot be expanded; write the path in full"
            )
        })?;
        return Ok(format!("{home}{rest}"));
    }
    if text.contains('$') && !exists {
        return Err("$ is not expanded; start with ~/ or write the path in full".into());
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        return Err(match scheme {
            "file" => {
                let path = foreign_text::one_line(rest, LONGEST_SHOWN);
                format!("is a URL; write the path alone: {path}")
            }
            _ => match hub_name_of_url(rest) {
                Some(name) => format!("is a URL; {}", download(name)),
                None => {
                    "is a URL; nothing is downloaded here: download it, and name the folder".into()
                }
            },
        });
    }
    Ok(text.to_owned())
}

/// The variable that stands for the home folder at the beginning of a path, and what follows it.
fn home_relative(text: &str) -> Option<(&'static str, &str)> {
    let variables = ["~", "${HOME}", "$HOME"].into_iter();
    variables.filter_map(|name| Some((name, text.strip_prefix(name)?))).next()
}

/// What to do about a model that is named instead of its folder.
fn download(name: &str) -> String {
    format!("nothing is downloaded here: run hf download {name} --local-dir DIR and give DIR")
}

/// `owner/model` of an address at Hugging Face, given without its scheme.
fn hub_name_of_url(rest: &str) -> Option<&str> {
    let path = ["huggingface.co/", "hf.co/", "www.huggingface.co/"]
        .into_iter()
        .find_map(|host| rest.strip_prefix(host))?;
    let end = path.match_indices('/').nth(1).map_or(path.len(), |(at, _)| at);
    path.get(..end).filter(|name| has_form_of_hub_name(name))
}

/// What to do about a path that does not exist and has the form of a name on the Hugging Face Hub:
/// `owner/model`, `owner/model@revision`, `hf:owner/model`.
#[must_use]
pub fn named_on_the_hub(text: &str) -> Option<String> {
    let prefixed = ["hf:", "huggingface:"].iter().find_map(|prefix| text.strip_prefix(prefix));
    let name = prefixed.unwrap_or(text);
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    let name = name.strip_suffix('/').unwrap_or(name);
    let path = Path::new(text);
    // A folder that is being made, or that is misspelt, lies in one that exists.
    let is_near = || path.exists() || path.parent().is_some_and(Path::exists);
    if !has_form_of_hub_name(name) || (prefixed.is_none() && is_near()) {
        return None;
    }
    let shown = foreign_text::one_line(text, LONGEST_SHOWN);
    Some(format!(
        "'{shown}' is no folder here and has the form of a name on the Hugging Face Hub; {}",
        download(name)
    ))
}

fn has_form_of_hub_name(text: &str) -> bool {
    let part = |text: &str| {
        !text.is_empty()
            && !text.starts_with('.')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    text.split_once('/').is_some_and(|(owner, model)| part(owner) && part(model))
}
