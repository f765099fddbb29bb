//! What surrounds the model: prompts, token ids, state bins, resized images, relative actions.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{CaseReport, Pi0CheckError, PromptCase, Run, failed, narrow};
use crate::backend::Backend;
use crate::checkpoint::Tokenizer;
use crate::checkpoint::pi0::{ActionMapping, Processors};
use crate::observation::{ImageError, Operation, Preparation, Preparer, RgbImage, Size};
use crate::policy::PolicyError;
use crate::policy::pi0::{prompt, state_bin};

/// Largest difference of a resized pixel. The reference's form is known to the bit; a resize that
/// is another differs by more than 1e-5.
const PIXELS: f64 = 1e-6;

impl<B: Backend> Run<'_, B> {
    /// Prompts, ids and bins.
    pub(super) fn prompts(&self) -> Result<CaseReport, Pi0CheckError> {
        let mut report = CaseReport { name: "prompts".into(), ..Default::default() };
        for case in &self.kit.prompts {
            self.prompt(&mut report, case)?;
        }
        for case in &self.kit.bins {
            let ours = state_bin(case.x as f32);
            report.require(ours == case.bin, || {
                format!("bin of {}: {ours}, the reference {}", case.x, case.bin)
            });
        }
        for case in &self.kit.cases {
            let bins: Vec<i32> =
                case.state_normalised.iter().map(|&value| state_bin(value as f32)).collect();
            report.require(case.state_bins.is_empty() || bins == case.state_bins, || {
                format!("bins of case {}: {bins:?}, the reference {:?}", case.id, case.state_bins)
            });
        }
        let others = self.other_tokenizers(&mut report)?;
        report.detail = format!(
            "{} texts, {} bins, {} more tokenizer{}",
            self.kit.prompts.len(),
            self.kit.bins.len(),
            others,
            if others == 1 { "" } else { "s" }
        );
        Ok(report)
    }

    fn prompt(&self, report: &mut CaseReport, case: &PromptCase) -> Result<(), Pi0CheckError> {
        let checkpoint = self.policy.checkpoint();
        let config = &checkpoint.config;
        let state = bins_of(&case.prompt);
        let tokens = (checkpoint.state_tokens, config.max_state_dim);
        let form = (config.kind, checkpoint.lerobot);
        let ours = prompt(form, &case.instruction, &state, tokens);
        report.require(ours == case.prompt, || {
            format!("prompt of {:?}: {ours:?}, the reference {:?}", case.instruction, case.prompt)
        });
        let ids = self.policy.tokenize(&case.instruction, &state);
        let (_, own) = ids.map_err(failed("prompts"))?;
        let encode = Tokenizer::encode_as_official;
        let ids = self.policy.tokenize_by(&case.instruction, &state, encode);
        let (_, ids) = ids.map_err(failed("prompts"))?;
        report.require(ids == case.ids, || {
            format!("ids of {:?}: {ids:?}, the reference {:?}", case.prompt, case.ids)
        });
        // In the reference the name of a special token in an instruction is that token; in the
        // policy it is text.
        let text = checkpoint.tokenizer.names_special_token(&case.instruction);
        report.require(text != (own == ids), || {
            format!("ids of {:?}: the policy feeds {own:?}", case.prompt)
        });
        // The reference cuts a long prompt without a word; the policy refuses it.
        let limit = checkpoint.processors.max_length;
        let fed = &ids[..ids.len().min(limit)];
        report.require(fed == case.fed && case.truncated == (ids.len() > limit), || {
            format!("{:?}: fed {fed:?}, the reference {:?}", case.prompt, case.fed)
        });
        Ok(())
    }

    /// Tokenizers in further checkpoints of the kit, which may carry truncation and padding.
    fn other_tokenizers(&self, report: &mut CaseReport) -> Result<usize, Pi0CheckError> {
        let Some(file) = self.kit.part("ckpt_trained_rtc/tokenizer/tokenizer.json") else {
            return Ok(0);
        };
        let remedy = "the kit's second checkpoint has one";
        let tokenizer =
            Tokenizer::open_file(&file, remedy).map_err(|e| failed("prompts")(e.into()))?;
        for case in &self.kit.prompts {
            let ids = tokenizer
                .encode_as_official(&case.prompt)
                .map_err(|e| failed("prompts")(e.into()))?;
            report.require(ids == case.ids, || {
                format!("{}: ids of {:?}: {ids:?}", file.display(), case.prompt)
            });
        }
        Ok(1)
    }

    /// Every image of the cases at the model's size.
    pub(super) fn images(&self) -> Result<CaseReport, Pi0CheckError> {
        let mut report = CaseReport { name: "images".into(), ..Default::default() };
        let stored = self.kit.tensors(Path::new("tensors/resized.safetensors"))?;
        let paths: BTreeSet<&PathBuf> =
            self.kit.cases.iter().flat_map(|case| case.present.values()).collect();
        report.detail = format!("{} resized", paths.len());
        for path in paths {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let image = self.kit.image(path)?;
            let ours = self.policy.resize(&image).map_err(failed("images"))?;
            if let Some(reference) = stored.get(&name) {
                let bounds = (self.bounds, Some(PIXELS));
                report.compare(format!("resized.{name}"), &ours, &reference.to_f32(), bounds);
            } else if let Some(hash) =
                self.kit.resize.get(&name).and_then(|resized| resized.sha256_f32_chw.as_ref())
            {
                let bytes: Vec<u8> = ours.iter().flat_map(|value| value.to_le_bytes()).collect();
                let digest = Sha256::digest(&bytes);
                let ours: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                report.require(ours == *hash, || format!("resized.{name}: other values"));
            }
            let file = format!("resized_openpi/{name}.png");
            if self.kit.part(&file).is_some() {
                let wanted = self.kit.image(Path::new(&file))?;
                let size = Size { width: wanted.width(), height: wanted.height() };
                let ours = openpi(&image, size).map_err(failed("images"))?;
                report.require(ours == wanted, || format!("{file}: other pixels"));
            }
        }
        Ok(report)
    }

    /// Relative actions made absolute, and an absolute rest as seen from a newer state.
    pub(super) fn relative(&self) -> Result<CaseReport, Pi0CheckError> {
        let mut report = CaseReport {
            name: "relative actions".into(),
            detail: format!("{} cases", self.kit.relative.len()),
            ..Default::default()
        };
        let config = &self.policy.checkpoint().config;
        let single = |state: &[f64]| -> Vec<f32> { state.iter().map(|&v| v as f32).collect() };
        for (index, case) in self.kit.relative.iter().enumerate() {
            let mapping = ActionMapping::relative(
                case.action_names.as_deref(),
                &case.exclude_joints,
                config.action.1,
            );
            let wanted = ActionMapping::Relative { mask: case.mask.clone() };
            report.require(mapping == wanted, || {
                format!("relative {index}: {mapping:?}, the reference {wanted:?}")
            });
            let base = self.kit.cases.iter().find(|base| base.id == case.case);
            let chunk = base.map(|base| narrow(&base.actions_normalised)).unwrap_or_default();
            let actions = self.policy.actions(&chunk, &single(&case.state), &mapping);
            let bounds = (self.bounds, Some(1e-4));
            report.compare(
                format!("relative {index}.actions"),
                &actions.concat(),
                &narrow(&case.actions),
                bounds,
            );
            let first = case.rtc_left_over_absolute_rows_from.min(case.actions.len());
            let rest: Vec<Vec<f32>> = case.actions[first..].iter().map(|row| single(row)).collect();
            let state = single(&case.rtc_current_state);
            report.compare(
                format!("relative {index}.left_over"),
                &self.policy.reanchored(&rest, &state, &mapping).concat(),
                &narrow(&case.rtc_left_over_model_space),
                bounds,
            );
        }
        if let Some(folder) = self.kit.part("processors_relative") {
            let processors = Processors::open(&folder, config);
            let processors =
                processors.map_err(|error| failed("relative actions")(error.into()))?;
            let named = self.kit.relative.iter().find(|case| case.action_names.is_some());
            let wanted = named.map(|case| ActionMapping::Relative { mask: case.mask.clone() });
            report.require(Some(&processors.mapping) == wanted.as_ref(), || {
                format!("processors_relative: {:?}, the reference {wanted:?}", processors.mapping)
            });
        }
        Ok(report)
    }
}

/// An image resized as openpi's client does it.
fn openpi(image: &RgbImage, size: Size) -> Result<RgbImage, PolicyError> {
    let step = Operation::BilinearPad(size).into();
    let preparation = Preparation::new(vec![step])
        .map_err(|_| ImageError::Side { width: size.width, height: size.height })?;
    Ok(Preparer::new(preparation)?.rgb(image)?)
}

/// A state whose bins are those in a prompt.
fn bins_of(prompt: &str) -> Vec<f32> {
    let list = prompt.rsplit_once(", State: ").and_then(|(_, rest)| rest.split_once(';'));
    let Some((list, _)) = list else { return Vec::new() };
    let value = |bin: &str| bin.parse().map(|bin: f32| (bin + 0.5) / 128.0 - 1.0).ok();
    list.split(' ').filter_map(value).collect()
}
