//! Every entry of the fuzz targets by its target's name: for `any`, and for the test that runs the
//! stored seeds.

use crate::{
    bag_entries, checkpoint_entries, config_entries, dataset_entries, folder_entries,
    picture_entries, wire_entries,
};

/// Whether the bytes were accepted; panics where an invariant does not hold.
pub type Entry = fn(&[u8]) -> bool;

pub const ENTRIES: [(&str, Entry); 31] = [
    ("bag_mcap", bag_entries::fuzz_bag_mcap),
    ("bag_metadata", bag_entries::fuzz_bag_metadata),
    ("bag_payload", bag_entries::fuzz_bag_payload),
    ("bag_storage", bag_entries::fuzz_bag_storage),
    ("checkpoint_kind", folder_entries::fuzz_checkpoint_kind),
    ("config_json", checkpoint_entries::fuzz_config_json),
    ("dataset_episodes", dataset_entries::fuzz_dataset_episodes),
    ("dataset_info", dataset_entries::fuzz_dataset_info),
    ("dataset_rows", dataset_entries::fuzz_dataset_rows),
    ("given_path", config_entries::fuzz_given_path),
    ("index_json", checkpoint_entries::fuzz_index_json),
    ("instruction", checkpoint_entries::fuzz_instruction),
    ("parameters", config_entries::fuzz_parameters),
    ("pi0_config", folder_entries::fuzz_pi0_config),
    ("pi0_processors", folder_entries::fuzz_pi0_processors),
    ("picture", picture_entries::fuzz_picture),
    ("policy_file", config_entries::fuzz_policy_file),
    ("preprocessor_json", checkpoint_entries::fuzz_preprocessor_json),
    ("processor_json", checkpoint_entries::fuzz_processor_json),
    ("raw_image", picture_entries::fuzz_raw_image),
    ("robot_file", config_entries::fuzz_robot_file),
    ("safetensors_header", checkpoint_entries::fuzz_safetensors_header),
    ("sentencepiece", folder_entries::fuzz_sentencepiece),
    ("statistics_json", checkpoint_entries::fuzz_statistics_json),
    ("tokenizer_config_json", checkpoint_entries::fuzz_tokenizer_config_json),
    ("tokenizer_json", checkpoint_entries::fuzz_tokenizer_json),
    ("torch_file", checkpoint_entries::fuzz_torch_file),
    ("torch_pickle", checkpoint_entries::fuzz_torch_pickle),
    ("urdf", config_entries::fuzz_urdf),
    ("wire_json_numpy", wire_entries::fuzz_json_numpy),
    ("wire_msgpack", wire_entries::fuzz_msgpack),
];
