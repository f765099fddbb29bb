//! Linear layers of the CPU backend in every number format, beside the best rates of the processor
//! measured in the same run.
//!
//!     cargo bench -p vla-inference --bench cpu_linear [-- WORD...]   lines that have all words
//!
//! Layers of many rows are bound by arithmetic: the share is of the instruction's rate. One row is
//! bound by memory: the share is of the read bandwidth. Layers follow each other as in a network,
//! so that weights and activations come from where they come from there.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Instant;

use vla_inference::backend::cpu::{Ceilings, CpuBackend, CpuFormat, CpuPrecision};
use vla_inference::backend::{Activation, Backend, LinearSource, TensorParallel, WeightRole};
use vla_inference::tensor::{DType, HostTensor};

/// (what, rows, inputs, outputs): one layer of each network.
const LAYERS: [(&str, usize, usize, usize); 17] = [
    ("SigLIP query, key, value", 256, 1152, 3456),
    ("SigLIP attention output", 256, 1152, 1152),
    ("SigLIP MLP in", 256, 1152, 4304),
    ("SigLIP MLP out", 256, 4304, 1152),
    ("DINOv2 MLP in", 261, 1024, 4096),
    ("DINOv2 MLP out", 261, 4096, 1024),
    ("Llama 7B query, key, value", 280, 4096, 12288),
    ("Llama 7B MLP in", 280, 4096, 22016),
    ("Llama 7B MLP out", 280, 11008, 4096),
    ("Llama 7B query, key, value", 1, 4096, 12288),
    ("Llama 7B MLP in", 1, 4096, 22016),
    ("Llama 7B MLP out", 1, 11008, 4096),
    ("Llama 7B head", 1, 4096, 32064),
    ("cut query, key, value", 1, 2048, 6144),
    ("cut attention output", 1, 2048, 2048),
    ("cut MLP in", 1, 2048, 11008),
    ("cut MLP out", 1, 5504, 2048),
];
/// Bytes of weights that pass between two uses of a layer: beyond the caches.
const BETWEEN: usize = 256 << 20;
const ROUNDS: usize = 20;

fn weight(outputs: usize, inputs: usize) -> HostTensor {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        half::bf16::from_f32((state >> 8) as f32 / (1 << 23) as f32 - 1.0).to_le_bytes()
    };
    let bytes: Vec<u8> = (0..outputs * inputs).flat_map(|_| next()).collect();
    HostTensor::from_bytes(DType::Bf16, &[outputs, inputs], bytes.into()).unwrap()
}

fn main() {
    let ceilings = Ceilings::measure(0).unwrap();
    println!("{ceilings}");
    println!(
        "{:<28} {:>5} {:>6} {:>6} {:>6} {:>9} {:>8} {:>7}",
        "layer", "rows", "in", "out", "format", "ms", "G/s", "share"
    );
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    for (name, rows, inputs, outputs) in LAYERS {
        let listed = |format: &str| {
            words.iter().all(|word| format!("{name} {rows} {format}").contains(word.as_str()))
        };
        if !["f32", "bf16", "int8"].into_iter().any(listed) {
            continue;
        }
        let weight = weight(outputs, inputs);
        for (format, rate, bytes) in [
            (CpuFormat::F32, Some(ceilings.f32_gflops), 2),
            (CpuFormat::Bf16, ceilings.bf16_dot_gflops, 2),
            (CpuFormat::Int8, ceilings.int8_dot_gops, 1),
        ] {
            if !listed(format.name()) {
                continue;
            }
            let backend = CpuBackend::new(0).unwrap();
            let backend = backend.with_precision(CpuPrecision::uniform(format));
            let copies = (BETWEEN / (bytes * inputs * outputs)).clamp(1, 16) + 1;
            let source = || LinearSource {
                role: WeightRole::Mlp,
                weights: vec![weight.clone()],
                bias: None,
                output_scale: None,
                parallelism: TensorParallel::Replicated,
                few_rows: false,
            };
            let layers: Vec<_> =
                (0..copies).map(|_| backend.load_linear(source()).unwrap()).collect();
            let values: Vec<f32> = (0..rows * inputs).map(|i| (i % 37) as f32 / 37.0).collect();
            let x = backend.upload(&HostTensor::from_f32(&[rows, inputs], values).unwrap());
            let x = x.unwrap();
            let best = (0..ROUNDS)
                .map(|_| {
                    let start = Instant::now();
                    backend.scope(|| {
                        for layer in &layers {
                            black_box(backend.linear(&x, layer, Activation::Identity).unwrap());
                        }
                    });
                    start.elapsed().as_secs_f64() / copies as f64
                })
                .fold(f64::INFINITY, f64::min);
            let (amount, ceiling) = if rows == 1 {
                // Measured again here: what other machines of the host leave of it changes.
                let read = Ceilings::measure(0).unwrap().read_gbytes;
                ((bytes * inputs * outputs) as f64, Some(read))
            } else {
                ((2 * rows * inputs * outputs) as f64, rate.or(Some(ceilings.f32_gflops)))
            };
            let speed = amount / best / 1e9;
            let share = ceiling.map_or(f64::NAN, |ceiling| 100.0 * speed / ceiling);
            println!(
                "{name:<28} {rows:>5} {inputs:>6} {outputs:>6} {:>6} {:>9.3} {speed:>8.1} \
                {share:>5.0} %",
                format.name(),
                best * 1e3
            );
        }
    }
}
