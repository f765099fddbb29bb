//! Each simplification of the models equals the plain form: in float64 by itself, and the code
//! under test with all of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod pi0_support;

use pi0_support::plain::{Plain, Rows, Simplified};
use pi0_support::{KITS, kit, policy};
use vla_inference::checkpoint::SafetensorsFile;
use vla_inference::checkpoint::pi0::Pi0Kind;
use vla_inference::tensor::HostTensor;

fn rows(tensor: &HostTensor) -> Rows {
    let columns = *tensor.shape().last().unwrap();
    let values: Vec<f64> = tensor.to_f32().into_iter().map(f64::from).collect();
    values.chunks_exact(columns).map(<[f64]>::to_vec).collect()
}

fn largest(a: &Rows, b: &Rows) -> f64 {
    assert_eq!((a.len(), a[0].len()), (b.len(), b[0].len()));
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn simplifications_do_not_change_the_result() {
    for name in KITS {
        let kit = kit(name);
        let policy = policy(&kit);
        let case = &kit.cases[0];
        let tensors = kit.case_tensors(case.id).unwrap();
        let padded = kit.part("tensors/case00_padded.safetensors").unwrap();
        // The mask holds bytes, which are no floats.
        let file = SafetensorsFile::open(&padded).unwrap();
        let tensor = file.tensor("prefix_embs").unwrap();
        let values = tensor.to_f32_vec().unwrap();
        let embs = rows(&HostTensor::from_f32(tensor.shape(), values).unwrap());
        let mask: Vec<bool> =
            file.tensor("prefix_pad_mask").unwrap().bytes().iter().map(|&byte| byte != 0).collect();
        assert!(mask.iter().any(|visible| !visible) && mask.len() == embs.len());
        let noise = rows(&tensors["noise"]);
        let width = policy.model().config().max_state_dim;
        let mut state = case.state_normalised.clone();
        state.resize(width, 0.0);
        let model = Plain::load(&policy.checkpoint().weights, policy.model().config());
        // Fewer steps than published: enough for an error to show, and a tenth of the time.
        let steps = 2;
        let run = |simplified| model.sample((&embs, &mask), &state, (&noise, steps), simplified);
        let (_, plain) = run(Simplified::default());
        let none = Simplified::default();
        for (what, simplified) in [
            ("dropped rows", Simplified { dropped: true, ..none }),
            ("state once", Simplified { dropped: true, state_once: true, ..none }),
            ("tables", Simplified { dropped: true, tabulated: true, ..none }),
            ("keys only", Simplified { dropped: true, keys_only: true, ..none }),
        ] {
            let (_, x) = run(simplified);
            let error = largest(&x, &plain);
            assert!(error < 1e-11, "{name}, {what}: {error:e}");
        }
        // The code under test has all four.
        let prepared = {
            let images: std::collections::BTreeMap<_, _> = case
                .present
                .iter()
                .map(|(feature, path)| (feature.clone(), kit.image(path).unwrap()))
                .collect();
            let images = images.iter().map(|(name, image)| (name.clone(), image)).collect();
            let state: Vec<f32> = case.state.iter().map(|&v| v as f32).collect();
            policy.prepare(&images, &state, &case.instruction).unwrap()
        };
        let schedule = policy.schedule(steps).unwrap();
        let chunk = policy
            .sample(
                &prepared,
                &schedule,
                tensors["noise"].to_f32(),
                &Default::default(),
                &mut vla_inference::models::NoProbe,
                |_| {},
            )
            .unwrap();
        let columns = noise[0].len();
        let ours: Rows = chunk
            .chunks_exact(columns)
            .map(|row| row.iter().map(|&v| v.into()).collect())
            .collect();
        let error = largest(&ours, &plain);
        assert!(error < 2e-5, "{name}, our own: {error:e}");
        // Which it could not have if the state saw the actions.
        let (_, wrong) = run(Simplified { state_sees_actions: true, ..none });
        let error = largest(&ours, &wrong);
        eprintln!("{name}: {error:.1e} from a state row that sees the actions");
        let has_state = policy.model().config().kind == Pi0Kind::Pi0;
        assert!(error > 8e-5 || !has_state, "{name}: a state that sees the actions, {error:e}");
    }
}
