//! Chunks react to their inputs on every device as in float32, and a policy that ignores one of
//! them is found. (Tokens: `mesh_defects.rs`.)
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use vla_inference::golden::pi0::Pi0Kit;
use vla_inference::golden::{Inputs, OftKit, Reaction};
use vla_inference::observation::Observation;
use vla_inference::policy::{
    Decision, Device, FlowOptions, Instruction, Mesh, MeshChoices, Policy, PolicyError, PolicyInfo,
    PolicyOptions, PolicySource, Precision, load_oft_kit_policy, load_policy,
};

/// Inputs of a kit, and how a policy of its checkpoint is loaded.
struct Kit {
    name: &'static str,
    inputs: Inputs,
    checkpoint: PathBuf,
    options: PolicyOptions,
}

impl Kit {
    fn all() -> Vec<Kit> {
        let folder =
            |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(name);
        let flow = FlowOptions { seed: Some(0), steps: Some(4), ..Default::default() };
        let pi0 = |name| {
            let kit = Pi0Kit::open(&folder(name)).unwrap();
            let options = PolicyOptions { flow: flow.clone(), ..Default::default() };
            Kit { name, inputs: kit.inputs(2).unwrap(), checkpoint: kit.checkpoint(), options }
        };
        let oft = |name| {
            let kit = OftKit::open(&folder(name)).unwrap();
            let (inputs, options) = (kit.inputs(2).unwrap(), kit.options().unwrap());
            Kit { name, inputs, checkpoint: kit.checkpoint(), options }
        };
        let pi0 = ["pi0_lerobot_tiny", "pi05_lerobot_tiny"].map(pi0);
        pi0.into_iter().chain(["oft_tiny", "oft_tiny_aloha"].map(oft)).collect()
    }

    fn policy(&self, device: Device, precision: &str) -> Box<dyn Policy> {
        let precision: Precision = precision.parse().unwrap();
        let source = PolicySource {
            checkpoint: &self.checkpoint,
            device,
            precision: Some(&precision),
            threads: 2,
            mesh: MeshChoices::default(),
            options: self.options.clone(),
        };
        match self.options.oft {
            Some(_) => load_oft_kit_policy(source).unwrap(),
            None => load_policy(source).unwrap(),
        }
    }
}

/// What is put in between the observation and the policy.
type Defect = fn(&mut Observation);

/// A policy with a defect.
struct Defective(Box<dyn Policy>, Defect);

impl Policy for Defective {
    fn act(&mut self, observation: &Observation) -> Result<Decision, PolicyError> {
        let mut observation = observation.clone();
        self.1(&mut observation);
        self.0.act(&observation)
    }
    fn info(&self) -> &PolicyInfo {
        self.0.info()
    }
    fn restart(&mut self) {
        self.0.restart();
    }
}

fn unlike(reactions: &[Reaction]) -> Vec<String> {
    let unlike = reactions.iter().filter(|reaction| !reaction.like_reference());
    unlike.map(|reaction| reaction.change.input.clone()).collect()
}

#[test]
fn an_ignored_input_is_found() {
    for kit in Kit::all() {
        let name = kit.name;
        let mut policy = kit.policy(Device::Cpu, "f32");
        let reference = kit.inputs.answers(policy.as_mut()).unwrap();
        let itself = reference.compare(&kit.inputs.answers(policy.as_mut()).unwrap());
        // The noise of a chunk is the same each time, and every input has an effect.
        assert!(itself.iter().all(|r| r.error == 0.0 && r.reference > 0.0), "{name}: {itself:?}");
        let cameras: Vec<String> =
            policy.info().cameras.iter().map(|camera| format!("image {camera}")).collect();
        assert_eq!(itself.len(), cameras.len() + 2, "{name}");
        let defects: [(&str, Defect, Vec<String>); 5] = [
            (
                "the second camera has the first one's image",
                |seen| seen.images[1].image = seen.images[0].image.clone(),
                cameras[1..2].to_vec(),
            ),
            (
                "cameras exchanged",
                |seen| {
                    let first = seen.images[0].image.clone();
                    seen.images[0].image = seen.images[1].image.clone();
                    seen.images[1].image = first;
                },
                // One image model serves both, so that one of the two may still be alike.
                Vec::new(),
            ),
            ("state all zero", |seen| seen.state.fill(0.0), vec!["state".into()]),
            (
                "instruction dropped",
                |seen| seen.instruction = Instruction::new("x").unwrap(),
                vec!["instruction".into()],
            ),
            (
                "a tenth of the state",
                |seen| seen.state.iter_mut().for_each(|value| *value *= 0.1),
                vec!["state".into()],
            ),
        ];
        for (what, defect, wanted) in defects {
            let mut defective = Defective(policy, defect);
            let reactions = reference.compare(&kit.inputs.answers(&mut defective).unwrap());
            for reaction in &reactions {
                eprintln!("{name:<18} {what}: {reaction:?}");
            }
            let found = unlike(&reactions);
            assert!(!found.is_empty(), "{name}, {what}");
            assert!(wanted.iter().all(|input| found.contains(input)), "{name}, {what}: {found:?}");
            policy = defective.0;
        }
    }
}

#[test]
fn coarser_numbers_do_not_hide_an_input() {
    let mesh = Device::Simulated(Mesh::N300);
    for kit in Kit::all() {
        let reference = kit.inputs.answers(kit.policy(Device::Cpu, "f32").as_mut()).unwrap();
        for (device, precision) in [(Device::Cpu, "bf16"), (mesh, "bf16")] {
            let answers = kit.inputs.answers(kit.policy(device, precision).as_mut()).unwrap();
            let reactions = reference.compare(&answers);
            for reaction in &reactions {
                eprintln!("{:<18} {device} {precision}: {reaction:?}", kit.name);
            }
            let mut unlike = unlike(&reactions);
            // Its state moves the chunk by 0.007, an image by 0.2: less than the rounding of bf16.
            unlike.retain(|input| !(kit.name == "oft_tiny_aloha" && input == "state"));
            assert!(unlike.is_empty(), "{} {device} {precision}: {unlike:?}", kit.name);
        }
    }
}
