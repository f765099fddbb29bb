//! An OpenVLA-OFT folder: an OpenVLA folder whose weights were trained to answer a whole chunk of
//! actions in one pass, with the parts that OpenVLA does not have as `.pt` files beside it.
//!
//! Kim, Finn, Liang, "Fine-Tuning Vision-Language-Action Models: Optimizing Speed and Success",
//! 2025; files as `vla-scripts/finetune.py` of the official repository writes them:
//!
//! | file | holds |
//! |---|---|
//! | `action_head--*checkpoint.pt` | the regression head; absent for discrete tokens |
//! | `proprio_projector--*checkpoint.pt` | the projector of the robot's state, if used |
//! | `vision_backbone--*checkpoint.pt` | both towers with FiLM layers, LoRA not merged ("OFT+") |
//! | `noisy_action_projector--*checkpoint.pt` | marks a diffusion head, which is not implemented |
//! | `lora_adapter/` | the adapter before merging; its constants only are read |
//!
//! config.json is that of plain OpenVLA. Run as such, the weights give tokens that mean nothing,
//! and some of them are valid actions; therefore [`sign_of_oft`] decides before any folder is run
//! as plain OpenVLA.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::constant::refuse_constant;
use super::error::{CheckpointError, quoted};
use super::fields::Fields;
use super::folder::Checkpoint;
use super::location::no_folder;
use super::norm_stats::{MAX_ACTION_DIM, NormStats};
use super::read::{is_listed, parse_json, parse_python_json, read_bounded};
use super::shard::MappedTensor;
use super::siblings::refuse_unread;
use super::torch::TorchFile;
use crate::text::one_line;

/// Names of the components' files, as the official code looks for them: anywhere in the name.
const COMPONENTS: [&str; 4] =
    ["action_head", "proprio_projector", "noisy_action_projector", "vision_backbone"];
/// Fields that only code around OpenVLA-OFT writes into config.json.
const FIELDS: [&str; 5] =
    ["num_images_in_input", "use_l1_regression", "use_diffusion", "use_film", "use_proprio"];
/// The official model code, which its evaluation copies into the folder, and what only OFT's has.
const MODEL_CODE: (&str, &str) = ("modeling_prismatic.py", "num_images_in_input");
/// Longest model code searched, bytes; the official one has 60 kB.
const MAX_CODE_BYTES: u64 = 4 << 20;
/// Most entries of a folder looked at.
const MAX_FILES: usize = 100_000;
/// Prefix of the parameter names of a module that was trained on several processes.
const DISTRIBUTED: &str = "module.";
/// Most residual blocks of a regression head; the published ones have two.
const MAX_BLOCKS: usize = 64;

/// What marks the folder as OpenVLA-OFT's, in words; `None` for plain OpenVLA. Looks at names, at
/// config.json and the statistics, not at the weights.
///
/// # Errors
/// When the folder cannot be listed. Files that cannot be read are no sign: opening the checkpoint
/// reports them.
pub fn sign_of_oft(folder: &Path) -> Result<Option<String>, CheckpointError> {
    let names = file_names(folder)?;
    let component = |name: &&String| {
        COMPONENTS.iter().any(|component| name.contains(component)) && !name.ends_with(".py")
    };
    if let Some(name) = names.iter().find(component) {
        return Ok(Some(format!("the file {}", one_line(name))));
    }
    if names.iter().any(|name| name == "lora_adapter") {
        return Ok(Some("the folder lora_adapter".to_owned()));
    }
    let path = folder.join("config.json");
    let config = super::config::read_config(&path).unwrap_or_default();
    let fields: Map<String, Value> = parse_python_json(&path, &config).unwrap_or_default();
    if let Some(field) = FIELDS.iter().find(|field| fields.contains_key(**field)) {
        return Ok(Some(format!("the field {field} of config.json")));
    }
    let stats = NormStats::open_with_config(folder, &path, &config);
    if let Some(key) = stats.ok().as_ref().and_then(NormStats::with_states) {
        return Ok(Some(format!("statistics of the robot's state (data set {})", quoted(key))));
    }
    let (file, word) = MODEL_CODE;
    let code = folder.join(file);
    if is_listed(&code)
        && let Ok(code) = read_bounded(&code, MAX_CODE_BYTES, "")
        && code.windows(word.len()).any(|window| window == word.as_bytes())
    {
        return Ok(Some(format!("{word} in {file}")));
    }
    Ok(None)
}

/// What marks the tensors as OpenVLA-OFT's: its components among the weights.
pub(super) fn sign_in_tensors<'a>(mut names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names.find(|name| {
        let first = name.split('.').find(|part| *part != "module").unwrap_or_default();
        ["action_head", "proprio_projector", "noisy_action_projector"].contains(&first)
    })
}

/// Names of the entries of a folder, sorted.
fn file_names(folder: &Path) -> Result<Vec<String>, CheckpointError> {
    let fail = |error: &std::io::Error| {
        CheckpointError::io(folder, "list", error, "give the folder of a checkpoint")
    };
    if !folder.is_dir() {
        return Err(no_folder(folder));
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| fail(&error))?.take(MAX_FILES) {
        let entry = entry.map_err(|error| fail(&error))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// One component: a `.pt` file whose names are taken without a leading `module.`.
#[derive(Debug, Clone)]
pub struct OftComponent {
    file: TorchFile,
    /// Name without the prefix to the name as stored.
    names: BTreeMap<String, String>,
}

impl OftComponent {
    /// Opens a component's file.
    ///
    /// # Errors
    /// As [`TorchFile::open`], and when a name occurs with and without the prefix.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let file = TorchFile::open(path)?;
        let mut names = BTreeMap::new();
        for stored in file.names() {
            let name = stored.strip_prefix(DISTRIBUTED).unwrap_or(stored);
            if names.insert(name.to_owned(), stored.to_owned()).is_some() {
                return Err(CheckpointError::field(
                    path,
                    name,
                    "listed with and without \"module.\"",
                    "download the file again",
                ));
            }
        }
        Ok(Self { file, names })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Names of the tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// When the file does not hold it.
    pub fn tensor(&self, name: &str) -> Result<MappedTensor, CheckpointError> {
        self.file.tensor(self.names.get(name).map_or(name, String::as_str))
    }

    /// The weight of this name with exactly this shape, in BF16, F16 or F32.
    ///
    /// # Errors
    /// When it is missing, or its shape or format is another.
    pub fn expect(&self, name: &str, shape: &[usize]) -> Result<MappedTensor, CheckpointError> {
        self.tensor(name)?.with_shape(shape)?.with_weight_dtype()
    }

    /// Rows and columns of a matrix.
    fn matrix(&self, name: &str) -> Result<[usize; 2], CheckpointError> {
        let tensor = self.tensor(name)?;
        match *tensor.shape() {
            [rows, columns] if rows > 0 && columns > 0 => Ok([rows, columns]),
            _ => Err(CheckpointError::field(
                self.path(),
                name,
                format!("of shape {:?}", tensor.shape()),
                "must be a matrix; download the file again",
            )),
        }
    }
}

/// The regression head and its dimensions, all from its tensors.
#[derive(Debug, Clone)]
pub struct OftHead {
    /// Its tensors, `model.*`.
    pub component: OftComponent,
    /// Numbers per action: rows of `model.fc2`.
    pub action_dim: usize,
    /// Width between its layers (4096).
    pub hidden: usize,
    /// Residual blocks (2).
    pub blocks: usize,
}

impl OftHead {
    fn open(path: &Path, llama_hidden: usize) -> Result<Self, CheckpointError> {
        let component = OftComponent::open(path)?;
        if let Some(name) = component.names().find(|name| name.starts_with("noise_predictor.")) {
            return Err(diffusion(path, &format!("has {}", quoted(name))));
        }
        let [action_dim, hidden] = component.matrix("model.fc2.weight")?;
        if action_dim > MAX_ACTION_DIM {
            return Err(CheckpointError::field(
                path,
                "model.fc2.weight",
                format!("for {action_dim} numbers per action"),
                format!("at most {MAX_ACTION_DIM} are read"),
            ));
        }
        let block = |index: usize| format!("model.mlp_resnet_blocks.{index}.ffn.1.weight");
        let blocks = (0..MAX_BLOCKS).take_while(|&index| component.contains(&block(index))).count();
        let head = Self { component, action_dim, hidden, blocks };
        for (name, shape) in head.tensors(llama_hidden) {
            refuse_constant(&head.component.expect(&name, &shape)?)?;
        }
        let known = head.tensors(llama_hidden);
        let unknown =
            head.component.names().find(|name| known.iter().all(|(other, _)| other != name));
        match unknown {
            Some(name) => Err(CheckpointError::field(
                path,
                name,
                "not part of a regression head",
                "only the L1 regression head of the official code is implemented",
            )),
            None => Ok(head),
        }
    }

    /// Names and shapes of all its tensors, for a language model of width `llama_hidden`.
    fn tensors(&self, llama_hidden: usize) -> Vec<(String, Vec<usize>)> {
        let &Self { action_dim, hidden, blocks, .. } = self;
        let inputs = action_dim * llama_hidden;
        let mut list = Vec::new();
        let norm = |list: &mut Vec<_>, name: &str, width: usize| {
            list.push((format!("{name}.weight"), vec![width]));
            list.push((format!("{name}.bias"), vec![width]));
        };
        let linear = |list: &mut Vec<_>, name: &str, outputs: usize, inputs: usize| {
            list.push((format!("{name}.weight"), vec![outputs, inputs]));
            list.push((format!("{name}.bias"), vec![outputs]));
        };
        norm(&mut list, "model.layer_norm1", inputs);
        linear(&mut list, "model.fc1", hidden, inputs);
        for index in 0..blocks {
            norm(&mut list, &format!("model.mlp_resnet_blocks.{index}.ffn.0"), hidden);
            linear(&mut list, &format!("model.mlp_resnet_blocks.{index}.ffn.1"), hidden, hidden);
        }
        norm(&mut list, "model.layer_norm2", hidden);
        linear(&mut list, "model.fc2", action_dim, hidden);
        list
    }
}

/// The projector of the robot's state into one row of the language model's input.
#[derive(Debug, Clone)]
pub struct OftProprio {
    /// Its tensors, `fc1` and `fc2`.
    pub component: OftComponent,
    /// Numbers of the state: columns of `fc1`.
    pub state_dim: usize,
}

impl OftProprio {
    fn open(path: &Path, llama_hidden: usize) -> Result<Self, CheckpointError> {
        let component = OftComponent::open(path)?;
        let [_, state_dim] = component.matrix("fc1.weight")?;
        for (name, shape) in [
            ("fc1.weight", vec![llama_hidden, state_dim]),
            ("fc1.bias", vec![llama_hidden]),
            ("fc2.weight", vec![llama_hidden, llama_hidden]),
            ("fc2.bias", vec![llama_hidden]),
        ] {
            refuse_constant(&component.expect(name, &shape)?)?;
        }
        Ok(Self { component, state_dim })
    }
}

/// Both towers with FiLM, which replace those of the model's shards.
#[derive(Debug, Clone)]
pub struct OftVision {
    /// Its tensors, `vision_backbone.*`.
    pub component: OftComponent,
    /// Numerator of the factor of a LoRA update, when the folder says it.
    pub lora_alpha: Option<f64>,
}

/// An OpenVLA-OFT folder, opened and cross-checked.
#[derive(Debug, Clone)]
pub struct OftCheckpoint {
    /// The OpenVLA folder.
    pub base: Checkpoint,
    /// The regression head; `None` for a checkpoint that answers with discrete tokens, or one whose
    /// head was not downloaded.
    pub head: Option<OftHead>,
    /// The state's projector, if there is one.
    pub proprio: Option<OftProprio>,
    /// The towers with FiLM, if there are any.
    pub vision: Option<OftVision>,
}

impl OftCheckpoint {
    /// Opens the folder and checks its parts against each other.
    ///
    /// # Errors
    /// The first missing, broken or inconsistent part; a diffusion head.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let names = file_names(folder)?;
        if let Some(path) = component(folder, &names, "noisy_action_projector")? {
            return Err(diffusion(&path, "is there"));
        }
        let base = Checkpoint::open_unchecked(folder)?;
        if let Some(name) = sign_in_tensors(base.weights.names()) {
            return Err(CheckpointError::field(
                folder,
                name,
                "among the model's tensors",
                "components are read from their .pt files; use the folder that the training wrote",
            ));
        }
        let hidden = base.config.llama.hidden_size;
        let open = |name| component(folder, &names, name);
        let head = open("action_head")?.map(|path| OftHead::open(&path, hidden)).transpose()?;
        let proprio =
            open("proprio_projector")?.map(|path| OftProprio::open(&path, hidden)).transpose()?;
        let vision = match open("vision_backbone")? {
            None => None,
            Some(path) => Some(OftVision {
                component: OftComponent::open(&path)?,
                lora_alpha: lora_alpha(folder)?,
            }),
        };
        let mut expected = base.config.expected_tensors();
        refuse_unread(&base.weights, &expected)?;
        // With FiLM the towers come from their own file, which the model checks as it loads them.
        expected.retain(|tensor| vision.is_none() || !tensor.name.starts_with("vision_backbone."));
        base.weights.check(&expected)?;
        Ok(Self { base, head, proprio, vision })
    }
}

/// The one file of a component; more than one is ambiguous.
fn component(
    folder: &Path,
    names: &[String],
    component: &str,
) -> Result<Option<PathBuf>, CheckpointError> {
    let mut found = names.iter().filter(|name| name.contains(component) && !name.ends_with(".py"));
    match (found.next(), found.next()) {
        (None, _) => Ok(None),
        (Some(name), None) if name.ends_with(".pt") => Ok(Some(folder.join(name))),
        (Some(name), None) => Err(CheckpointError::field(
            folder,
            component,
            one_line(name),
            "only the .pt file of the official training is read",
        )),
        (Some(one), Some(other)) => Err(CheckpointError::field(
            folder,
            component,
            format!("in {} and {}", quoted(one), quoted(other)),
            "keep the file that belongs to the model's weights and remove the other",
        )),
    }
}

fn diffusion(path: &Path, what: &str) -> CheckpointError {
    CheckpointError::field(
        path,
        "the diffusion head",
        what,
        "only the L1 regression head and discrete tokens are implemented; use a checkpoint trained \
        with use_l1_regression",
    )
}

/// `lora_alpha` of `lora_adapter/adapter_config.json`, if the folder is there.
fn lora_alpha(folder: &Path) -> Result<Option<f64>, CheckpointError> {
    let path = folder.join("lora_adapter").join("adapter_config.json");
    if !is_listed(&path) {
        return Ok(None);
    }
    let bytes = read_bounded(&path, 1 << 20, "copy it from the original checkpoint")?;
    let map: Map<String, Value> = parse_json(&path, &bytes)?;
    let fields = Fields::new(&path, "", &map);
    let other = "this changes the factor of the update and is not implemented; merge the adapter \
        in Python";
    for name in ["use_rslora", "use_dora"] {
        fields.only(name, &Value::Bool(false), other)?;
    }
    let alpha = fields.number("lora_alpha", -1.0, -1.0, 1e6)?;
    Ok((alpha > 0.0).then_some(alpha))
}
