//! The fuzz targets' functions, driven briefly with the stored seeds and with seeded mutations of
//! good files. Long runs: `fuzz/run`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../fuzz/bag_entries.rs"]
mod bag_entries;
#[path = "../fuzz/checkpoint_entries.rs"]
mod checkpoint_entries;
#[path = "../crates/vla-inference/tests/checkpoint_support/mod.rs"]
mod checkpoint_support;
#[path = "../fuzz/config_entries.rs"]
mod config_entries;
#[path = "../fuzz/dataset_entries.rs"]
mod dataset_entries;
#[path = "../fuzz/entries.rs"]
mod entries;
#[path = "../fuzz/folder_entries.rs"]
mod folder_entries;
#[path = "../fuzz/picture_entries.rs"]
mod picture_entries;
#[path = "../crates/vla-inference/tests/checkpoint_support/torch_files.rs"]
mod torch_files;
#[path = "../fuzz/wire_entries.rs"]
mod wire_entries;

use checkpoint_support::{file_of, kit, raw_file};

/// SplitMix64: small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// Values that break parsers: extreme numbers, other types, hostile text.
const TOKENS: [&str; 24] = [
    "0",
    "-1",
    "1",
    "255",
    "65536",
    "4294967296",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e999",
    "-0.0",
    "1e-400",
    "0.5",
    "null",
    "true",
    "[]",
    "{}",
    "[[[[]]]]",
    "\"\"",
    "\"..\"",
    "\"../x\"",
    "\"\\u2028\\n\"",
    "\"\\ud800\"",
    "NaN",
];

/// Changes `seed` in one to four places; half of the changes keep JSON well-formed by replacing
/// whole scalars.
fn mutate(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(10) {
            0 => bytes.truncate(at),
            1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            2 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            3 => drop(bytes.drain(at..(at + 1 + random.below(40)).min(bytes.len()))),
            4 => {
                let piece = bytes[at..(at + 1 + random.below(80)).min(bytes.len())].to_vec();
                let to = random.below(bytes.len() + 1);
                bytes.splice(to..to, piece);
            }
            _ => replace_scalar(&mut bytes, at, TOKENS[random.below(TOKENS.len())]),
        }
    }
    bytes
}

/// Replaces the JSON scalar at or after `at`.
fn replace_scalar(bytes: &mut Vec<u8>, at: usize, token: &str) {
    let breaks = |byte: &u8| b" \n,:[]{}".contains(byte);
    let Some(begin) = bytes[at..].iter().position(|byte| !breaks(byte)).map(|skip| at + skip)
    else {
        return;
    };
    let end = bytes[begin..].iter().position(breaks).map_or(bytes.len(), |length| begin + length);
    bytes.splice(begin..end, token.bytes());
}

/// The entry accepts every seed, and both accepts and refuses some of the seed's mutations;
/// otherwise they test nothing.
fn drive(entry: fn(&[u8]) -> bool, seeds: &[Vec<u8>], rounds: usize) {
    let mut random = Random(0x5eed);
    for seed in seeds {
        assert!(entry(seed), "the unchanged seed was refused");
        let accepted = (0..rounds).filter(|_| entry(&mutate(seed, &mut random))).count();
        assert!(accepted > 0 && accepted < rounds, "{accepted} of {rounds} accepted");
    }
    for length in 0..200 {
        let noise: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        assert!(!entry(&noise), "noise was accepted");
    }
}

/// Rounds of a test, times `OPENVLA_FUZZ_FACTOR` for long runs by hand.
fn rounds(usual: usize) -> usize {
    let factor = std::env::var("OPENVLA_FUZZ_FACTOR").ok().and_then(|text| text.parse().ok());
    usual * factor.unwrap_or(1)
}

fn kit_file(name: &str) -> Vec<u8> {
    // Without white space every mutation changes the meaning.
    let value: serde_json::Value =
        serde_json::from_slice(&std::fs::read(kit().join(name)).unwrap()).unwrap();
    serde_json::to_vec(&value).unwrap()
}

#[test]
fn safetensors_header() {
    let seeds = [
        file_of(&[("a", &[2, 3]), ("b", &[4]), ("c", &[])]),
        raw_file("{\"__metadata__\":{\"format\":\"pt\"}}  ", 0),
        raw_file(
            concat!(
                r#"{"x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"#,
                r#""y":{"dtype":"I64","shape":[1,1],"data_offsets":[0,8]}}"#
            ),
            8,
        ),
    ];
    drive(checkpoint_entries::fuzz_safetensors_header, &seeds, 6000);
    // The same with a correct length field, so that mutations get past it to the JSON and the
    // offsets.
    let mut random = Random(7);
    for seed in &seeds {
        let length = u64::from_le_bytes(seed[..8].try_into().unwrap()) as usize;
        let (json, data) = seed[8..].split_at(length);
        let mut accepted = 0;
        for _ in 0..6000 {
            let json = String::from_utf8_lossy(&mutate(json, &mut random)).into_owned();
            let data = data.len() + random.below(2);
            accepted +=
                usize::from(checkpoint_entries::fuzz_safetensors_header(&raw_file(&json, data)));
        }
        assert!((10..5990).contains(&accepted), "{accepted} of 6000 accepted");
    }
}

#[test]
fn index_json() {
    let small = br#"{"metadata":{"total_size":8},
        "weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#;
    drive(checkpoint_entries::fuzz_index_json, &[small.to_vec()], 8000);
    drive(checkpoint_entries::fuzz_index_json, &[kit_file("model.safetensors.index.json")], 500);
}

#[test]
fn config_json() {
    let whole = kit_file("config.json");
    let mut value: serde_json::Value = serde_json::from_slice(&whole).unwrap();
    // Without statistics nearly every mutation hits a field of the model.
    value["norm_stats"] = serde_json::json!({
        "one": {"action": {"q01": [0.0, -1.5], "q99": [1.0, 2.0], "mask": [true, false]}},
    });
    let small = serde_json::to_vec(&value).unwrap();
    drive(checkpoint_entries::fuzz_config_json, &[small], rounds(10_000));
    drive(checkpoint_entries::fuzz_config_json, &[whole], rounds(1000));
}

#[test]
fn statistics_json() {
    let plain = kit_file("dataset_statistics.json");
    let text = String::from_utf8(plain.clone()).unwrap();
    // As Python writes numbers that are not finite.
    let nan = text.replacen("[-", "[-Infinity,NaN,-", 1).into_bytes();
    drive(checkpoint_entries::fuzz_statistics_json, &[plain, nan], rounds(2000));
}

#[test]
fn processor_json() {
    let pixels: serde_json::Value =
        serde_json::from_slice(&kit_file("preprocessor_config.json")).unwrap();
    let whole = serde_json::json!({"image_processor": pixels});
    drive(
        checkpoint_entries::fuzz_processor_json,
        &[serde_json::to_vec(&whole).unwrap()],
        rounds(5000),
    );
}

#[test]
fn tokenizer_config_json() {
    drive(
        checkpoint_entries::fuzz_tokenizer_config_json,
        &[kit_file("tokenizer_config.json")],
        rounds(10_000),
    );
}

#[test]
fn instruction() {
    let seeds = [
        "In: What action should the robot take to pick up the block?\nOut:",
        "USER: what action should the robot take to pick up the block? ASSISTANT:",
        "pick up </s> the block.",
        "\u{628}\u{645}\u{6cc}\u{200c}\u{628} \u{1f469}\u{200d}\u{1f373} caf\u{e9}",
    ];
    let mut random = Random(3);
    let mut accepted = 0;
    let rounds = rounds(20_000);
    for seed in seeds {
        assert!(checkpoint_entries::fuzz_instruction(seed.as_bytes()), "{seed}");
        for _ in 0..rounds {
            let text = mutate(seed.as_bytes(), &mut random);
            accepted += usize::from(checkpoint_entries::fuzz_instruction(&text));
        }
    }
    assert!((rounds / 10..rounds * 4).contains(&accepted), "{accepted} accepted");
}

#[test]
fn preprocessor_json() {
    drive(
        checkpoint_entries::fuzz_preprocessor_json,
        &[kit_file("preprocessor_config.json")],
        rounds(10_000),
    );
}

#[test]
fn tokenizer_json() {
    let mut value: serde_json::Value = serde_json::from_slice(&kit_file("tokenizer.json")).unwrap();
    // The kit's structure with a vocabulary small enough to be parsed thousands of times.
    let vocabulary = value["model"]["vocab"].as_object().unwrap();
    let kept = |token: &str, id: &serde_json::Value| {
        id.as_u64() < Some(300) || (token.len() == 1 && token.is_ascii())
    };
    let small = vocabulary
        .iter()
        .filter(|(token, id)| kept(token, id))
        .map(|(token, id)| (token.clone(), id.clone()))
        .collect();
    value["model"]["vocab"] = serde_json::Value::Object(small);
    value["model"]["merges"] = serde_json::json!([]);
    drive(
        checkpoint_entries::fuzz_tokenizer_json,
        &[serde_json::to_vec(&value).unwrap()],
        rounds(5000),
    );
}

/// A state dict of two tensors, one of them a part of its storage.
fn state_dict() -> torch_files::Pickle {
    torch_files::state_dict(&[
        ("module.fc1.weight", "FloatStorage", "0", 6, 0, &[2, 3], &[3, 1]),
        ("module.fc1.bias", "BFloat16Storage", "1", 4, 1, &[3], &[1]),
    ])
}

#[test]
fn torch_file() {
    let pickle = state_dict().0;
    let whole = torch_files::archive(&[
        ("head/data.pkl", &pickle),
        ("head/byteorder", b"little"),
        ("head/data/0", &[1; 24]),
        ("head/data/1", &[2; 8]),
    ]);
    drive(checkpoint_entries::fuzz_torch_file, std::slice::from_ref(&whole), 8000);
    // Every byte once: the structure is small, and mutations at random miss most of it.
    let mut random = Random(5);
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << random.below(8);
        checkpoint_entries::fuzz_torch_file(&bytes);
        checkpoint_entries::fuzz_torch_file(&whole[..at]);
    }
}

#[test]
fn torch_pickle() {
    drive(checkpoint_entries::fuzz_torch_pickle, &[state_dict().0], 20_000);
}

fn bag(name: &str) -> Vec<u8> {
    std::fs::read(
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bags").join(name),
    )
    .unwrap()
}

#[test]
fn bag_mcap() {
    let seeds = [
        "unchunked.mcap",
        "lz4.mcap",
        "zstd.mcap",
        "no_summary.mcap",
        "mcap_message_zstd/mcap_message_zstd.mcap",
    ];
    drive(bag_entries::fuzz_bag_mcap, &seeds.map(bag), 400);
    // An error may be in any byte of the first records, which the mutations above seldom hit.
    let (seed, mut random) = (bag("unchunked.mcap"), Random(11));
    for at in 0..seed.len().min(1500) {
        let mut bytes = seed.clone();
        bytes[at] ^= 1 << random.below(8);
        bag_entries::fuzz_bag_mcap(&bytes);
        bag_entries::fuzz_bag_mcap(&bytes[..at]);
    }
}

#[test]
fn bag_payload() {
    let payload = |fields: &[&[u8]]| [&[0u8, 1, 0, 0], fields.concat().as_slice()].concat();
    let text = payload(&[&3u32.to_le_bytes(), b"go\0"]);
    let array = payload(&[
        &0u32.to_le_bytes(),
        &0u32.to_le_bytes(),
        &2u32.to_le_bytes(),
        &[0; 4],
        &[7; 16],
    ]);
    let compressed = payload(&[
        &[1; 8],
        &1u32.to_le_bytes(),
        &[0; 4],
        &5u32.to_le_bytes(),
        b"jpeg\0\0\0\0",
        &4u32.to_le_bytes(),
        &[9; 4],
    ]);
    drive(bag_entries::fuzz_bag_payload, &[text, array, compressed], 4000);
}

#[test]
fn bag_metadata() {
    // Humble's `ros2 bag reindex` leaves the identifier empty.
    let text = String::from_utf8(bag("mcap_plain/metadata.yaml")).unwrap();
    let no_identifier = text.replace("storage_identifier: mcap", "storage_identifier: ''");
    assert_ne!(text, no_identifier);
    let no_identifier = no_identifier.into_bytes();
    drive(
        bag_entries::fuzz_bag_metadata,
        &[bag("mcap_plain/metadata.yaml"), bag("split_sqlite/metadata.yaml"), no_identifier],
        1500,
    );
}

#[test]
fn datasets() {
    use dataset_entries::{EPISODES, INFO, ROWS, good};
    drive(dataset_entries::fuzz_dataset_info, &[good(INFO)], 400);
    drive(dataset_entries::fuzz_dataset_episodes, &[good(EPISODES)], 200);
    // An error may be in any byte of the footer, which the mutations above seldom hit.
    let (seed, mut random) = (good(ROWS), Random(23));
    for at in (0..seed.len()).step_by(3) {
        let mut bytes = seed.clone();
        bytes[at] ^= 1 << random.below(8);
        dataset_entries::fuzz_dataset_rows(&bytes);
        assert!(!dataset_entries::fuzz_dataset_rows(&seed[..at]));
    }
}

#[test]
fn picture() {
    let seed = |name: &str| {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/field/data");
        std::fs::read(folder.join(name)).unwrap()
    };
    let names = [
        "plain.jpg",
        "progressive.jpg",
        "progressive_444.jpg",
        "restart.jpg",
        "sampling_422.jpg",
        "grey.jpg",
        "cmyk.jpg",
        "exif_6.jpg",
        "thumbnail.jpg",
        "two_pictures.mpo.jpg",
    ];
    drive(picture_entries::fuzz_picture, &names.map(seed), 400);
    // Checksums refuse nearly every change of a PNG.
    let mut random = Random(3);
    for png in ["palette_transparent.png", "rgb16.png"].map(seed) {
        assert!(picture_entries::fuzz_picture(&png));
        for _ in 0..200 {
            picture_entries::fuzz_picture(&mutate(&png, &mut random));
        }
    }
}

/// Names in a folder, sorted.
fn names(folder: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Every seed of the long runs, what these found included, and mutations of the small ones. Each
/// target accepts one of its seeds; otherwise they test nothing.
#[test]
fn stored_seeds() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let known: Vec<&str> = entries::ENTRIES.iter().map(|(name, _)| *name).collect();
    assert_eq!(names(&folder), known, "a folder of seeds for each target, in order");
    let mut random = Random(17);
    for (name, entry) in entries::ENTRIES {
        let seeds = folder.join(name);
        let mut accepted = 0;
        for seed in names(&seeds) {
            let bytes = std::fs::read(seeds.join(&seed)).unwrap();
            accepted += usize::from(entry(&bytes));
            let mutations = if bytes.len() < 4096 { 20 } else { 2 };
            for _ in 0..rounds(mutations) {
                entry(&mutate(&bytes, &mut random));
            }
        }
        assert!(accepted > 0, "no seed of {name} was accepted");
    }
}
