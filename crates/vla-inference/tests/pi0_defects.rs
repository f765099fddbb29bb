//! Defects that ports of pi0 have had, each put in: the bound of `selfcheck` on the noisy actions
//! must separate every one of them from rounding.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod pi0_support;

use std::collections::BTreeMap;

use pi0_support::defective::{Altered, Change, Defective, Wrong};
use pi0_support::{KITS, kit};
use vla_inference::checkpoint::SafetensorsFile;
use vla_inference::checkpoint::pi0::{
    NormMode, Normalizer, Pi0Checkpoint, Pi0Kind, Pi0Source, StateTokens,
};
use vla_inference::golden::pi0::{Pi0Bounds, Pi0Case, Pi0Kit, check};
use vla_inference::models::NoProbe;
use vla_inference::observation::RgbImage;
use vla_inference::policy::pi0::Prepared;
use vla_inference::policy::{Pi0Policy, PolicyOptions};

const LM_HEAD: &str = "model.paligemma_with_expert.paligemma.lm_head.weight";
const EMBED: &str =
    "model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight";

struct Bench<'a> {
    kit: &'a Pi0Kit,
    case: &'a Pi0Case,
    noise: Vec<f32>,
    /// x after the last step.
    wanted: Vec<f32>,
}

/// What is wrong.
#[derive(Default)]
struct Defect {
    wrong: Option<Wrong>,
    weights: Option<Change>,
    instead: Option<(&'static str, &'static str)>,
    checkpoint: Option<fn(&mut Pi0Checkpoint)>,
    image: Option<fn(&Pi0Kit, &str, RgbImage) -> RgbImage>,
    prepared: Option<fn(&mut Prepared)>,
    noise: Option<fn(&mut [f32], usize)>,
    time: Option<fn(f32) -> f32>,
}

impl Bench<'_> {
    fn policy(&self, defect: &Defect) -> Pi0Policy<Defective> {
        let source = Pi0Source { folder: self.kit.checkpoint(), ..Default::default() };
        let mut checkpoint = Pi0Checkpoint::open(&source).unwrap();
        if let Some(change) = defect.checkpoint {
            change(&mut checkpoint);
        }
        let nothing: Change = Box::new(|_, _, _| {});
        let files = checkpoint.weights.clone();
        let weights = Altered { files, instead: defect.instead, change: nothing };
        let backend = Defective::new(defect.wrong.unwrap_or(Wrong::Nothing));
        let options = PolicyOptions { precision: "f32".into(), ..Default::default() };
        match &defect.weights {
            Some(change) => {
                let altered = Borrowed { files: &checkpoint.weights.clone(), change };
                Pi0Policy::from_checkpoint(backend, checkpoint, &altered.owned(), &options).unwrap()
            }
            None => Pi0Policy::from_checkpoint(backend, checkpoint, &weights, &options).unwrap(),
        }
    }

    /// Largest error of the chunk.
    fn error(&self, defect: &Defect) -> f64 {
        let policy = self.policy(defect);
        let images: BTreeMap<String, RgbImage> = self
            .case
            .present
            .iter()
            .map(|(feature, path)| {
                let image = self.kit.image(path).unwrap();
                let name = path.file_stem().unwrap().to_str().unwrap();
                let image = match defect.image {
                    Some(change) => change(self.kit, name, image),
                    None => image,
                };
                (feature.clone(), image)
            })
            .collect();
        let images = images.iter().map(|(name, image)| (name.clone(), image)).collect();
        let state: Vec<f32> = self.case.state.iter().map(|&v| v as f32).collect();
        let mut prepared = policy.prepare(&images, &state, &self.case.instruction).unwrap();
        if let Some(change) = defect.prepared {
            change(&mut prepared);
        }
        let mut noise = self.noise.clone();
        if let Some(change) = defect.noise {
            change(&mut noise, policy.model().config().max_action_dim);
        }
        let mut schedule = policy.schedule(self.case.num_steps).unwrap();
        if let Some(change) = defect.time {
            let times = schedule.times.iter().map(|&time| change(time)).collect();
            schedule = policy.model().schedule_at(policy.backend(), times).unwrap();
        }
        let chunk = policy
            .sample(&prepared, &schedule, noise, &Default::default(), &mut NoProbe, |_| {})
            .unwrap();
        let pairs = chunk.iter().zip(&self.wanted);
        pairs.map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
    }
}

struct Borrowed<'a> {
    files: &'a vla_inference::checkpoint::WeightFiles,
    change: &'a Change,
}

impl Borrowed<'_> {
    /// The changed tensors, computed once.
    fn owned(&self) -> Fixed {
        let tensors = self.files.tensors().map(|tensor| {
            let mut values = tensor.to_f32_vec().unwrap();
            (self.change)(tensor.name(), &mut values, tensor.shape());
            (tensor.name().to_owned(), (tensor.shape().to_vec(), values))
        });
        Fixed(tensors.collect())
    }
}

struct Fixed(BTreeMap<String, (Vec<usize>, Vec<f32>)>);

impl vla_inference::models::TensorSource for Fixed {
    fn tensor(
        &self,
        name: &str,
        shape: &[usize],
    ) -> Result<vla_inference::tensor::HostTensor, vla_inference::models::ModelError> {
        let (stored, values) = &self.0[name];
        assert_eq!(stored, shape, "{name}");
        Ok(vla_inference::tensor::HostTensor::from_f32(shape, values.clone()).unwrap())
    }
    fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

fn scaled(name: &'static str, factor: f32) -> Defect {
    weights(move |tensor, values, _| {
        if tensor.contains(name) {
            values.iter_mut().for_each(|v| *v *= factor);
        }
    })
}

fn weights(change: impl Fn(&str, &mut Vec<f32>, &[usize]) + Send + Sync + 'static) -> Defect {
    Defect { weights: Some(Box::new(change)), ..Default::default() }
}

fn operation(wrong: Wrong) -> Defect {
    Defect { wrong: Some(wrong), ..Default::default() }
}

fn prepared(change: fn(&mut Prepared)) -> Defect {
    Defect { prepared: Some(change), ..Default::default() }
}

fn checkpoint(change: fn(&mut Pi0Checkpoint)) -> Defect {
    Defect { checkpoint: Some(change), ..Default::default() }
}

/// Exchanges the halves of `columns` columns from `first` on.
fn exchange_halves(values: &mut [f32], width: usize, first: usize, columns: usize) {
    for row in values.chunks_exact_mut(width) {
        let (sin, cos) = row[first..first + columns].split_at_mut(columns / 2);
        sin.swap_with_slice(cos);
    }
}

fn common(head_dim: usize, width: f32, norms: usize) -> Vec<(&'static str, Defect)> {
    vec![
        ("suffix positions from 0", operation(Wrong::SuffixFromZero)),
        ("suffix does not see the prefix", operation(Wrong::SuffixBlind)),
        ("action rows causal", operation(Wrong::SuffixCausal)),
        ("prefix causal", operation(Wrong::PrefixCausal)),
        ("erf GELU in the Gemma MLPs", operation(Wrong::ErfInGemma)),
        ("SiLU in the Gemma MLPs", operation(Wrong::SiluInGemma)),
        ("erf GELU in vision", operation(Wrong::ErfInVision)),
        ("post_layernorm left out", operation(Wrong::NoPostLayernorm(norms))),
        (
            "time embedding cos first",
            weights(|name, values, shape| {
                if name.ends_with("action_time_mlp_in.weight") {
                    exchange_halves(values, shape[1], shape[0], shape[0]);
                } else if name.ends_with(".time_mlp_in.weight") {
                    exchange_halves(values, shape[1], 0, shape[1]);
                }
            }),
        ),
        (
            "time rounded to bfloat16",
            Defect { time: Some(|time| half::bf16::from_f32(time).to_f32()), ..Default::default() },
        ),
        (
            "RoPE interleaved instead of halves",
            weights(move |name, values, shape| {
                let turned = name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight");
                if !turned || name.contains("vision_tower") {
                    return;
                }
                let (old, columns) = (values.clone(), shape[1]);
                for row in 0..shape[0] {
                    let (head, at) = (row / head_dim * head_dim, row % head_dim);
                    let half = head_dim / 2;
                    let from = head + if at < half { 2 * at } else { 2 * (at - half) + 1 };
                    values[row * columns..(row + 1) * columns]
                        .copy_from_slice(&old[from * columns..(from + 1) * columns]);
                }
            }),
        ),
        (
            "RMS gain w instead of 1 + w",
            weights(|name, values, shape| {
                let gemma = name.contains("language_model") || name.contains("gemma_expert");
                if gemma && shape.len() == 1 && name.ends_with("norm.weight") {
                    values.iter_mut().for_each(|v| *v -= 1.0);
                }
            }),
        ),
        ("text embeddings not scaled", scaled("embed_tokens", 1.0 / width.sqrt())),
        ("text embeddings scaled twice", scaled("embed_tokens", width.sqrt())),
        (
            "image features divided by sqrt(width)",
            scaled("multi_modal_projector", 1.0 / width.sqrt()),
        ),
        (
            "BGR",
            weights(|name, values, shape| {
                if name.ends_with("patch_embedding.weight") {
                    let channel = shape[2] * shape[3];
                    for filter in values.chunks_exact_mut(3 * channel) {
                        let (red, rest) = filter.split_at_mut(channel);
                        red.swap_with_slice(&mut rest[channel..]);
                    }
                }
            }),
        ),
        (
            "openpi's resizer",
            Defect {
                image: Some(|kit, name, image| {
                    let file = format!("resized_openpi/{name}.png");
                    kit.part(&file).map_or(image, |_| kit.image(file.as_ref()).unwrap())
                }),
                ..Default::default()
            },
        ),
        (
            "stretched to the model's size",
            Defect {
                image: Some(|_, _, image| {
                    let pixel = |at: usize| {
                        let (y, x) =
                            (at / 224 * image.height() / 224, at % 224 * image.width() / 224);
                        let start = (y * image.width() + x) * 3;
                        image.pixels()[start..start + 3].to_vec()
                    };
                    RgbImage::new(224, 224, (0..224 * 224).flat_map(pixel).collect()).unwrap()
                }),
                ..Default::default()
            },
        ),
        (
            "padding -3",
            prepared(|prepared| {
                // The first image is 640 x 480: 28 rows above and below.
                for plane in prepared.images[0].1.chunks_exact_mut(224 * 224) {
                    plane[..28 * 224].fill(-3.0);
                    plane[196 * 224..].fill(-3.0);
                }
            }),
        ),
        (
            "no BOS",
            prepared(|prepared| {
                prepared.input_ids.remove(0);
            }),
        ),
        ("camera order reversed", prepared(|prepared| prepared.images.reverse())),
        ("pad tokens visible", prepared(|prepared| prepared.input_ids.extend([0; 5]))),
        (
            "empty cameras visible",
            prepared(|prepared| {
                prepared.images.push(("empty".into(), vec![-1.0; 3 * 224 * 224]));
            }),
        ),
        (
            "noise zero in the padded columns",
            Defect {
                noise: Some(|noise, columns| {
                    noise.chunks_exact_mut(columns).for_each(|row| row[7..].fill(0.0));
                }),
                ..Default::default()
            },
        ),
        (
            "state not normalised",
            checkpoint(|checkpoint| checkpoint.processors.state = Some(Normalizer::identity())),
        ),
        (
            "state normalised by the other family",
            checkpoint(|checkpoint| {
                let own = checkpoint.processors.state.as_mut().unwrap();
                let (mode, names) = match own.mode {
                    NormMode::MeanStd => (NormMode::Quantiles, ["q01", "q99"]),
                    _ => (NormMode::MeanStd, ["mean", "std"]),
                };
                let entries = std::fs::read_dir(&checkpoint.folder).unwrap();
                let file = entries
                    .map(|entry| entry.unwrap().path())
                    .find(|path| {
                        path.to_str().unwrap().ends_with("_normalizer_processor.safetensors")
                            && path.to_str().unwrap().contains("pre")
                    })
                    .unwrap();
                let file = SafetensorsFile::open(&file).unwrap();
                let [low, high] = names.map(|name| {
                    let tensor = file.tensor(&format!("observation.state.{name}")).unwrap();
                    tensor.to_f32_vec().unwrap()
                });
                (own.mode, own.low, own.high) = (mode, low, high);
            }),
        ),
    ]
}

fn of_pi0() -> Vec<(&'static str, Defect)> {
    vec![("state all zero", prepared(|prepared| prepared.normalized_state.fill(0.0)))]
}

/// Changes the three parts `[scale | shift | gate]` of every `dense` layer.
fn dense(change: fn(&mut [f32], bool)) -> Defect {
    weights(move |name, values, _| {
        if name.contains(".dense.") {
            change(values, name.ends_with("bias"));
        }
    })
}

/// pi0.5 without the second SiLU of the time's network, by weights alone: far above zero SiLU
/// changes nothing, so that its input is raised, and what `dense` makes of the rise taken off.
fn without_last_silu(kit: &Pi0Kit) -> Defect {
    const RISE: f32 = 64.0;
    let files = SafetensorsFile::open(&kit.checkpoint().join("model.safetensors")).unwrap();
    let rows: BTreeMap<String, Vec<f32>> = files
        .names()
        .filter(|name| name.ends_with(".dense.weight"))
        .map(|name| {
            let tensor = files.tensor(name).unwrap();
            let values = tensor.to_f32_vec().unwrap();
            let sums = values.chunks_exact(tensor.shape()[1]).map(|row| row.iter().sum());
            (name.replace(".weight", ".bias"), sums.collect())
        })
        .collect();
    weights(move |name, values, _| {
        if name.ends_with("time_mlp_out.bias") {
            values.iter_mut().for_each(|v| *v += RISE);
        }
        if let Some(sums) = rows.get(name) {
            values.iter_mut().zip(sums).for_each(|(v, sum)| *v -= RISE * sum);
        }
    })
}

fn of_pi05(kit: &Pi0Kit) -> Vec<(&'static str, Defect)> {
    vec![
        ("last SiLU of the time MLP missing", without_last_silu(kit)),
        (
            "scale instead of 1 + scale",
            dense(|values, bias| {
                let width = values.len() / 3;
                if bias {
                    values[..width].iter_mut().for_each(|v| *v -= 1.0);
                }
            }),
        ),
        (
            "scale and shift swapped",
            dense(|values, _| {
                let (scale, rest) = values.split_at_mut(values.len() / 3);
                let half = rest.len() / 2;
                scale.swap_with_slice(&mut rest[..half]);
            }),
        ),
        (
            "gates ignored",
            dense(|values, bias| {
                let first = values.len() / 3 * 2;
                values[first..].fill(if bias { 1.0 } else { 0.0 });
            }),
        ),
        (
            "lm_head used as embedding",
            Defect { instead: Some((EMBED, LM_HEAD)), ..Default::default() },
        ),
        (
            "state padded to 32 in the prompt",
            checkpoint(|checkpoint| checkpoint.state_tokens = StateTokens::Padded),
        ),
        (
            "no state in the prompt",
            checkpoint(|checkpoint| checkpoint.state_tokens = StateTokens::None),
        ),
    ]
}

#[test]
fn the_bound_on_x_separates_every_defect() {
    let bound = Pi0Bounds::F32.x.unwrap();
    for name in KITS {
        let kit = kit(name);
        let case = &kit.cases[0];
        let tensors = kit.case_tensors(case.id).unwrap();
        let x = &tensors["x"];
        let last = x.shape()[0] - 1;
        let bench = Bench {
            case,
            noise: tensors["noise"].to_f32(),
            wanted: x.rows(last..last + 1).unwrap().to_f32(),
            kit: &kit,
        };
        let sound = bench.error(&Defect::default());
        assert!(sound < bound, "{name} without a defect: {sound:e}");
        let policy = bench.policy(&Defect::default());
        let config = policy.model().config();
        let norms = 2 * config.vision.num_hidden_layers + 1;
        let mut defects = common(config.vlm.head_dim, config.vlm.width as f32, norms);
        defects.extend(match config.kind {
            Pi0Kind::Pi0 => of_pi0(),
            Pi0Kind::Pi05 => of_pi05(&kit),
        });
        for (what, defect) in &defects {
            let error = bench.error(defect);
            eprintln!("{name:<18} {what:<40} {error:.1e}");
            assert!(error > 4.0 * bound, "{name}, {what}: {error:e} is within the bound");
        }
    }
}

/// The report names the first stage that differs.
#[test]
fn the_first_different_stage_is_named() {
    let kit = kit(KITS[0]);
    let tensors = kit.case_tensors(kit.cases[0].id).unwrap();
    let bench =
        Bench { kit: &kit, case: &kit.cases[0], noise: tensors["noise"].to_f32(), wanted: vec![] };
    let norms = 2 * bench.policy(&Defect::default()).model().config().vision.num_hidden_layers + 1;
    for (wrong, stage) in [
        (Wrong::NoPostLayernorm(norms), "vision."),
        (Wrong::PrefixCausal, "prefix_k_last"),
        (Wrong::SuffixCausal, "expert_hidden_0.0"),
        (Wrong::SuffixFromZero, "expert_hidden_0.0"),
    ] {
        let policy = bench.policy(&operation(wrong));
        let reports = check(&kit, &policy, Pi0Bounds::F32, |_| {}).unwrap();
        let case = reports.iter().find(|report| report.name == "case 0").unwrap();
        let first = case.missed.first().unwrap();
        assert!(first.starts_with(stage), "{wrong:?}: {first}");
    }
}
