//! Properties of the header parser over generated files, with shrinking and a fixed seed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../../fuzz/checkpoint_entries.rs"]
#[allow(dead_code)]
mod entries;

mod checkpoint_support;

use checkpoint_support::{folder, raw_file};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};
use serde_json::{Map, Value, json};
use vla_inference::checkpoint::{SafetensorsFile, parse_header};

fn config() -> Config {
    Config {
        cases: 512,
        rng_seed: RngSeed::Fixed(0x0b5e55ed),
        failure_persistence: None,
        ..Config::default()
    }
}

/// Name, dtype, shape, data.
type Tensor = (String, &'static str, Vec<usize>, Vec<u8>);

/// A few tensors with distinct names in file order, and their file. The header lists them by name,
/// so in another order.
fn tensors() -> impl Strategy<Value = (Vec<Tensor>, Vec<u8>)> {
    let dtypes =
        [("BF16", 2), ("F32", 4), ("F16", 2), ("I64", 8), ("U8", 1), ("BOOL", 1), ("F64", 8)];
    let dtype = prop::sample::select(dtypes.to_vec());
    let shape = prop::collection::vec(0_usize..5, 0..4);
    let content = (dtype, shape).prop_flat_map(|((dtype, element), shape)| {
        let bytes = shape.iter().product::<usize>() * element;
        prop::collection::vec(any::<u8>(), bytes).prop_map(move |data| (dtype, shape.clone(), data))
    });
    let named = prop::collection::btree_map("[a-z]{1,8}(\\.[a-z]{1,8})?", content, 0..6);
    let listed = named.prop_map(|map| {
        map.into_iter().map(|(name, (dtype, shape, data))| (name, dtype, shape, data))
    });
    listed.prop_map(Iterator::collect::<Vec<Tensor>>).prop_shuffle().prop_map(|tensors| {
        let mut header = Map::new();
        let mut data = Vec::new();
        for (name, dtype, shape, bytes) in &tensors {
            let begin = data.len();
            data.extend_from_slice(bytes);
            header.insert(
                name.clone(),
                json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, data.len()]}),
            );
        }
        let mut file = raw_file(&Value::Object(header).to_string(), 0);
        file.extend(data);
        (tensors, file)
    })
}

proptest! {
    #![proptest_config(config())]

    /// What was written is read back, byte for byte, through the map.
    #[test]
    fn good_files_read_back((tensors, file) in tensors()) {
        prop_assert!(entries::fuzz_safetensors_header(&file));
        let folder = folder(&[("model.safetensors", file)]);
        let read = SafetensorsFile::open(&folder.path().join("model.safetensors")).unwrap();
        prop_assert_eq!(read.names().count(), tensors.len());
        for (name, dtype, shape, data) in &tensors {
            let tensor = read.tensor(name).unwrap();
            prop_assert_eq!(tensor.dtype().to_string(), *dtype);
            prop_assert_eq!(tensor.shape(), shape.as_slice());
            prop_assert_eq!(tensor.bytes(), data.as_slice());
        }
    }

    /// Any shorter or longer file is refused.
    #[test]
    fn every_truncation_is_refused(
        (_, file) in tensors(),
        cut in any::<prop::sample::Index>(),
        more in 1_usize..40,
    ) {
        let cut = cut.index(file.len());
        prop_assert!(!entries::fuzz_safetensors_header(&file[..cut]));
        let mut longer = file.clone();
        longer.resize(file.len() + more, 0);
        prop_assert!(!entries::fuzz_safetensors_header(&longer));
    }

    /// One wrong offset is refused, by however much.
    #[test]
    fn every_wrong_offset_is_refused(
        (tensors, file) in tensors(),
        which in any::<prop::sample::Index>(),
        end in any::<bool>(),
        value in any::<u64>(),
    ) {
        prop_assume!(!tensors.is_empty());
        let (name, ..) = which.get(&tensors);
        let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let mut header: Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
        let offset = &mut header[name]["data_offsets"][usize::from(end)];
        prop_assume!(offset.as_u64() != Some(value));
        *offset = json!(value);
        let wrong = raw_file(&header.to_string(), file.len() - 8 - length);
        let problem = parse_header(&wrong).unwrap_err().to_string();
        prop_assert!(problem.contains("tensor"), "{}", problem);
        prop_assert!(!entries::fuzz_safetensors_header(&wrong));
    }

    /// Bytes of the header changed at will: refused in one line, or accepted with every
    /// invariant kept.
    #[test]
    fn changed_headers_keep_the_invariants(
        (_, mut file) in tensors(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let end = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        for (place, byte) in changes {
            file[place.index(end)] = byte;
        }
        entries::fuzz_safetensors_header(&file);
    }
}
