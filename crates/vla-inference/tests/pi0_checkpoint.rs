//! Folders of pi0 and pi0.5 as people have them: both layouts, shards, number formats; and those
//! that must be refused, each with a message that names the cause.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod pi0_support;

use std::path::Path;

use pi0_support::openpi::converted;
use pi0_support::{KITS, copied, edit, folder, read_tensors, step, write_tensors};
use serde_json::{Value, json};
use vla_inference::checkpoint::CheckpointKind;
use vla_inference::checkpoint::pi0::{
    ActionMapping, NormMode, Pi0Checkpoint, Pi0Kind, Pi0Source, Resize, StateTokens,
};

fn source(folder: &Path) -> Pi0Source {
    Pi0Source { folder: folder.to_owned(), ..Default::default() }
}

#[test]
fn both_kits_are_complete() {
    for (name, kind, mode) in
        [(KITS[0], Pi0Kind::Pi0, NormMode::MeanStd), (KITS[1], Pi0Kind::Pi05, NormMode::Quantiles)]
    {
        let checkpoint = Pi0Checkpoint::open(&source(&folder(name).join("ckpt"))).unwrap();
        let inventory = checkpoint.inventory();
        assert!(inventory.missing.is_empty() && inventory.unexpected.is_empty(), "{inventory:?}");
        assert!(inventory.misshapen.is_empty());
        assert_eq!(checkpoint.config.kind, kind);
        assert_eq!(checkpoint.processors.modes, [mode; 2]);
        assert_eq!(checkpoint.processors.mapping, ActionMapping::Absolute);
        assert_eq!(checkpoint.config.real_cameras().count(), 2);
        assert!(checkpoint.config.cameras[2].empty && checkpoint.config.unknown.is_empty());
    }
    let checkpoint = Pi0Checkpoint::open(&source(&folder(KITS[1]).join("ckpt"))).unwrap();
    assert_eq!(
        checkpoint.processors.outer_name("observation.images.image2"),
        "observation.images.wrist_image"
    );
}

type Spoil = fn(&Path);

fn config(folder: &Path, change: impl FnOnce(&mut Value)) {
    edit(&folder.join("config.json"), change);
}

fn pre(folder: &Path, change: impl FnOnce(&mut Value)) {
    edit(&folder.join("policy_preprocessor.json"), change);
}

fn post(folder: &Path, change: impl FnOnce(&mut Value)) {
    edit(&folder.join("policy_postprocessor.json"), change);
}

const STATE_FILE: &str = "policy_preprocessor_step_6_normalizer_processor.safetensors";

fn rename(folder: &Path, from: &str, to: Option<&str>) {
    let path = folder.join(STATE_FILE);
    let mut tensors = read_tensors(&path);
    match to {
        Some(to) => {
            let tensor = tensors.iter_mut().find(|tensor| tensor.0 == from).unwrap();
            tensor.0 = to.to_owned();
        }
        None => tensors.retain(|tensor| tensor.0 != from),
    }
    write_tensors(&path, &tensors);
}

#[test]
fn what_would_be_computed_wrongly_is_refused_by_name() {
    let cases: Vec<(&str, Spoil)> = vec![
        ("the weights are those of pi0", |f| config(f, |c| c["type"] = json!("pi05"))),
        ("this model is not implemented", |f| config(f, |c| c["type"] = json!("pi0_fast"))),
        ("before LeRobot 0.4", |f| {
            config(f, |c| c["resize_imgs_with_padding"] = json!([224, 224]))
        }),
        ("memory variant", |f| config(f, |c| c["use_visual_memory"] = json!(true))),
        ("it must be 1", |f| config(f, |c| c["n_obs_steps"] = json!(2))),
        ("variant is not implemented", |f| {
            config(f, |c| c["paligemma_variant"] = json!("gemma_9b"))
        }),
        ("expected [2304, 96]", |f| {
            config(f, |c| c["tiny_overrides"]["gemma_2b"]["width"] = json!(96))
        }),
        ("num_heads is 6", |f| {
            config(f, |c| c["tiny_overrides"]["gemma_300m"]["num_heads"] = json!(3));
        }),
        ("no camera is listed", |f| {
            config(f, |c| {
                let features = c["input_features"].as_object_mut().unwrap();
                features.retain(|name, _| !name.contains("rgb"));
            });
        }),
        ("this normalisation is not implemented", |f| {
            pre(f, |p| {
                step(p, "normalizer_processor")["config"]["norm_map"]["STATE"] = json!("ROBUST");
            });
        }),
        ("images are scaled to -1..1 only", |f| {
            pre(f, |p| {
                step(p, "normalizer_processor")["config"]["norm_map"]["VISUAL"] = json!("MEAN_STD");
            });
        }),
        ("this step is not implemented", |f| {
            pre(f, |p| {
                step(p, "device_processor")["registry_name"] = json!("crop_images_processor");
            });
        }),
        ("a class of its own", |f| {
            pre(f, |p| {
                *step(p, "device_processor") = json!({"class": "my.Step", "config": {}});
            });
        }),
        ("listed twice", |f| {
            pre(f, |p| {
                let again = step(p, "normalizer_processor").clone();
                p["steps"].as_array_mut().unwrap().push(again);
            });
        }),
        ("pi0_new_line_processor", |f| {
            pre(f, |p| {
                let steps = p["steps"].as_array_mut().unwrap();
                steps.retain(|step| step["registry_name"] != "pi0_new_line_processor");
            });
        }),
        ("one undoes the other", |f| {
            post(f, |p| step(p, "absolute_actions_processor")["config"]["enabled"] = json!(true));
        }),
        ("the pipelines must enable it", |f| {
            config(f, |c| c["use_relative_actions"] = json!(true));
        }),
        ("must name a file of the folder", |f| {
            pre(f, |p| step(p, "normalizer_processor")["state_file"] = json!("../secret"));
        }),
        ("missing file", |f| {
            pre(f, |p| step(p, "normalizer_processor")["state_file"] = json!("none.safetensors"));
        }),
        ("missing file", |f| std::fs::remove_file(f.join("policy_postprocessor.json")).unwrap()),
        ("qualified by a data set", |f| {
            rename(f, "observation.state.mean", Some("so100.observation.state.mean"));
        }),
        ("observation.state.std is missing", |f| rename(f, "observation.state.std", None)),
        ("other statistics of the action", |f| {
            let path = f.join(STATE_FILE);
            let mut tensors = read_tensors(&path);
            let mean = tensors.iter_mut().find(|tensor| tensor.0 == "action.mean").unwrap();
            mean.3[0..4].copy_from_slice(&7f32.to_le_bytes());
            write_tensors(&path, &tensors);
        }),
        ("7 values wide: config.json states 6", |f| {
            config(f, |c| c["output_features"]["action"]["shape"] = json!([6]));
        }),
        ("no part of the model reads", |f| {
            let path = f.join("model.safetensors");
            let mut tensors = read_tensors(&path);
            let extra = tensors[0].clone();
            tensors.push(("model.proprio_history_proj.weight".into(), extra.1, extra.2, extra.3));
            write_tensors(&path, &tensors);
        }),
        ("is missing", |f| {
            let path = f.join("model.safetensors");
            let mut tensors = read_tensors(&path);
            tensors
                .retain(|tensor| !tensor.0.ends_with("language_model.layers.3.mlp.up_proj.weight"));
            write_tensors(&path, &tensors);
        }),
        ("neither the embedding nor lm_head", |f| {
            let path = f.join("model.safetensors");
            let mut tensors = read_tensors(&path);
            tensors.retain(|tensor| {
                !tensor.0.ends_with("embed_tokens.weight")
                    && !tensor.0.ends_with("paligemma.lm_head.weight")
            });
            write_tensors(&path, &tensors);
        }),
        ("merge it into its base model", |f| {
            std::fs::remove_file(f.join("model.safetensors")).unwrap();
            std::fs::write(f.join("adapter_config.json"), "{}").unwrap();
        }),
        ("give --tokenizer", |f| {
            std::fs::remove_dir_all(f.parent().unwrap().join("tokenizer")).unwrap();
        }),
        ("token ids go up to 2302, the embedding has 2000 rows", |f| {
            config(f, |c| c["tiny_overrides"]["vocab_size"] = json!(2000));
            let path = f.join("model.safetensors");
            let mut tensors = read_tensors(&path);
            for tensor in &mut tensors {
                if tensor.2.first() == Some(&2304) {
                    let row = tensor.3.len() / 2304;
                    tensor.3.truncate(2000 * row);
                    tensor.2[0] = 2000;
                }
            }
            write_tensors(&path, &tensors);
        }),
    ];
    let mut wrong = Vec::new();
    for (message, spoil) in cases {
        let copy = copied(KITS[0]);
        let folder = copy.path().join("ckpt");
        Pi0Checkpoint::open(&source(&folder)).unwrap();
        spoil(&folder);
        let error = Pi0Checkpoint::open(&source(&folder)).err().map(|error| error.to_string());
        let error = error.unwrap_or_else(|| "accepted".into());
        if !error.contains(message) || error.contains('\n') {
            wrong.push(format!("{message}: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn known_aliases_shards_and_number_formats_are_read() {
    let copy = copied(KITS[0]);
    let folder = copy.path().join("ckpt");
    // LeRobot 0.5's name of the step, relative actions on.
    let names = ["a", "b", "c", "d", "e", "f", "Gripper.pos"];
    pre(&folder, |p| {
        let relative = step(p, "relative_actions_processor");
        relative["registry_name"] = json!("delta_actions_processor");
        relative["config"]["enabled"] = json!(true);
        relative["config"]["action_names"] = json!(names);
    });
    post(&folder, |p| step(p, "absolute_actions_processor")["config"]["enabled"] = json!(true));
    // Two shards, one in bf16 and one in f16; the embedding only under the head's name.
    let path = folder.join("model.safetensors");
    let mut tensors = read_tensors(&path);
    std::fs::remove_file(&path).unwrap();
    tensors.retain(|tensor| !tensor.0.ends_with("embed_tokens.weight"));
    let mut map = serde_json::Map::new();
    let half = tensors.len() / 2;
    for (shard, part) in [tensors[..half].to_vec(), tensors[half..].to_vec()].iter().enumerate() {
        let name = format!("model-0000{}-of-00002.safetensors", shard + 1);
        let narrow = part
            .iter()
            .map(|(tensor, _, shape, bytes)| {
                let values =
                    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
                map.insert(tensor.clone(), json!(name));
                if shard == 0 {
                    let bytes = values.flat_map(|v| half::bf16::from_f32(v).to_le_bytes());
                    (tensor.clone(), safetensors::Dtype::BF16, shape.clone(), bytes.collect())
                } else {
                    let bytes = values.flat_map(|v| half::f16::from_f32(v).to_le_bytes());
                    (tensor.clone(), safetensors::Dtype::F16, shape.clone(), bytes.collect())
                }
            })
            .collect();
        write_tensors(&folder.join(&name), &narrow);
    }
    let index = json!({"metadata": {}, "weight_map": map});
    std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
    let checkpoint = Pi0Checkpoint::open(&source(&folder)).unwrap();
    assert_eq!(
        checkpoint.processors.mapping,
        ActionMapping::Relative { mask: vec![true, true, true, true, true, true, false] }
    );
    assert!(checkpoint.embedding.0.ends_with("lm_head.weight"));
    assert_eq!(checkpoint.embedding.1, 2304);
}

#[test]
fn tokenizers_are_found_inside_beside_and_where_given() {
    let copy = copied(KITS[1]);
    let (folder, beside) = (copy.path().join("ckpt"), copy.path().join("tokenizer"));
    let elsewhere = copy.path().join("elsewhere");
    std::fs::rename(&beside, &elsewhere).unwrap();
    assert!(Pi0Checkpoint::open(&source(&folder)).is_err());
    for given in [elsewhere.clone(), elsewhere.join("tokenizer.json")] {
        let with = Pi0Source { tokenizer: Some(given), ..source(&folder) };
        Pi0Checkpoint::open(&with).unwrap();
    }
    std::fs::rename(&elsewhere, folder.join("tokenizer")).unwrap();
    Pi0Checkpoint::open(&source(&folder)).unwrap();
    // A name in the pipeline comes first.
    std::fs::rename(folder.join("tokenizer"), folder.join("saved")).unwrap();
    pre(&folder, |p| {
        step(p, "tokenizer_processor")["config"]["tokenizer_name"] = json!("saved");
    });
    Pi0Checkpoint::open(&source(&folder)).unwrap();
}

#[test]
fn openpis_converted_form_is_known_by_its_tensors() {
    for (name, kind) in [(KITS[0], Pi0Kind::Pi0), (KITS[1], Pi0Kind::Pi05)] {
        let copy = converted(name);
        let folder = copy.path().join("ckpt");
        let found = CheckpointKind::of(&folder).unwrap();
        let is_pi0 = kind == Pi0Kind::Pi0;
        assert_eq!(found, if is_pi0 { CheckpointKind::Pi0 } else { CheckpointKind::Pi05 });
        let mut given = source(&folder);
        if !is_pi0 {
            let error = Pi0Checkpoint::open(&given).unwrap_err().to_string();
            assert!(error.contains("whether the state is in the prompt"), "{error}");
            given.state_tokens = Some(StateTokens::None);
        }
        let error = Pi0Checkpoint::open(&given).unwrap_err().to_string();
        assert!(error.contains("differences from the state"), "{error}");
        given.actions = Some("relative:6,-1".parse().unwrap());
        let checkpoint = Pi0Checkpoint::open(&given).unwrap();
        assert_eq!((checkpoint.prefix, checkpoint.config.chunk_size), ("", 10));
        assert_eq!(checkpoint.resize, Resize::PilBilinearPad);
        assert_eq!((checkpoint.config.state.1, checkpoint.config.action.1), (8, 7));
        let mask = vec![true, true, true, true, true, true, false];
        assert_eq!(checkpoint.processors.mapping, ActionMapping::Relative { mask });
        let mode = if is_pi0 { NormMode::MeanStd } else { NormMode::Quantiles };
        assert_eq!(checkpoint.processors.modes, [mode; 2]);
        config(&folder, |c| drop(c.as_object_mut().unwrap().remove("action_horizon")));
        let error = Pi0Checkpoint::open(&given).unwrap_err().to_string();
        assert!(error.contains("give the horizon"), "{error}");
        given.horizon = Some(15);
        assert_eq!(Pi0Checkpoint::open(&given).unwrap().config.chunk_size, 15);
    }
}
