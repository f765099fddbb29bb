//! `.pt` files: those of the golden kits, and hostile ones that must be refused in one line.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "checkpoint_support/torch_files.rs"]
mod torch_files;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use torch_files::{Pickle, archive, state_dict, stored};
use vla_inference::checkpoint::{StoredType, TorchFile, parse_torch};

fn kit(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(file)
}

/// The refusal of these bytes, one line with every part.
fn refused(bytes: &[u8], parts: &[&str]) -> String {
    let line = parse_torch(bytes).expect_err("accepted").to_string();
    assert!(!line.contains(['\n', '\r']) && line.len() < 2000, "{line:?}");
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in {line:?}");
    }
    line
}

fn good() -> Pickle {
    state_dict(&[("fc.weight", "FloatStorage", "0", 6, 0, &[2, 3], &[3, 1])])
}

fn with_storage(pickle: &Pickle) -> Vec<u8> {
    archive(&[("f/data.pkl", &pickle.0), ("f/data/0", &[0; 24])])
}

#[test]
fn the_kits_files_are_read() {
    let file = TorchFile::open(&kit("oft_tiny/ckpt/action_head--150000_checkpoint.pt")).unwrap();
    assert_eq!(file.names().count(), 16);
    let fc2 = file.tensor("module.model.fc2.weight").unwrap();
    assert_eq!((fc2.shape(), fc2.dtype()), (&[7, 48][..], StoredType::BF16));
    // In place and aligned, without a copy.
    assert_eq!(fc2.as_bf16().unwrap().len(), 7 * 48);
    let film = kit("oft_tiny_aloha/ckpt/vision_backbone--latest_checkpoint.pt");
    let film = TorchFile::open(&film).unwrap();
    assert_eq!(film.names().count(), 189);
    let lora = "vision_backbone.featurizer.patch_embed.proj.lora_A.default.weight";
    assert_eq!(film.tensor(lora).unwrap().shape(), [32, 3, 14, 14]);
}

#[test]
fn a_good_file_is_read() {
    let tensors = parse_torch(&with_storage(&good())).unwrap();
    let [tensor] = tensors.as_slice() else { panic!("{tensors:?}") };
    assert_eq!((tensor.name.as_str(), tensor.shape.as_slice()), ("fc.weight", &[2, 3][..]));
    assert_eq!(tensor.range.len(), 24);
    // Part of a storage, scalars, empty tensors, strides of dimensions of one element.
    let odd = state_dict(&[
        ("part", "FloatStorage", "0", 6, 2, &[2, 1, 2], &[2, 99, 1]),
        ("scalar", "FloatStorage", "0", 6, 5, &[], &[]),
        ("empty", "FloatStorage", "0", 6, 0, &[0, 7], &[7, 1]),
    ]);
    let tensors = parse_torch(&with_storage(&odd)).unwrap();
    let lengths: Vec<usize> = tensors.iter().map(|tensor| tensor.range.len()).collect();
    assert_eq!(lengths, [0, 16, 4]);
}

#[test]
fn code_is_refused_by_name() {
    for (module, name) in [("os", "system"), ("builtins", "eval"), ("torch", "load")] {
        let pickle = Pickle::new().global(module, name).text("true").tuple1().reduce().stop();
        refused(&with_storage(&pickle), &["calls", &format!("{module}.{name}"), "do not use"]);
    }
    // Hidden among honest tensors.
    let hidden = Pickle::new()
        .ordered_dict()
        .text("fc.weight")
        .global("posix", "system")
        .text("true")
        .tuple1()
        .reduce()
        .byte(b's')
        .stop();
    refused(&with_storage(&hidden), &["posix.system"]);
    // A new line in a name cannot forge a log line.
    let forged = Pickle::new().global("os\r", "x\u{2028}y").stop();
    refused(&with_storage(&forged), &["os"]);
    // STACK_GLOBAL, NEWOBJ, INST: other ways to a class.
    for opcode in [0x93, 0x81, b'i'] {
        let pickle = Pickle::new().text("os").text("system").byte(opcode).stop();
        refused(&with_storage(&pickle), &["calls"]);
    }
    // A known function in another role.
    let pickle = Pickle::new().global("collections", "OrderedDict").text("x").tuple1().reduce();
    refused(&with_storage(&pickle.stop()), &["unexpected arguments"]);
}

#[test]
fn lying_sizes_are_refused() {
    let tensor = |elements, offset, shape: &[i32], strides: &[i32]| {
        let dict = [("t", "FloatStorage", "0", elements, offset, shape, strides)];
        with_storage(&state_dict(&dict))
    };
    refused(&tensor(7, 0, &[2, 3], &[3, 1]), &["\"t\"", "7 elements", "24 bytes"]);
    refused(&tensor(5, 0, &[5], &[1]), &["5 elements", "24 bytes"]);
    refused(&tensor(6, 1, &[2, 3], &[3, 1]), &["needs 7 elements", "has 6"]);
    refused(&tensor(6, 0, &[3, 3], &[3, 1]), &["needs 9 elements"]);
    // A view by strides can show more elements than there are: 2^60 from six numbers.
    refused(&tensor(6, 0, &[1 << 30, 1 << 30], &[0, 0]), &["needs"]);
    refused(&tensor(6, 0, &[1 << 30, 1 << 30, 1 << 30], &[0, 0, 0]), &["can be counted"]);
    refused(&tensor(6, 0, &[6], &[0]), &["contiguous"]);
    refused(&tensor(6, 0, &[3, 2], &[1, 3]), &["contiguous"]);
    refused(&tensor(6, 0, &[2, 2], &[1 << 30, 1]), &["contiguous"]);
    refused(&tensor(-6, 0, &[2, 3], &[3, 1]), &["negative"]);
    refused(&tensor(6, -1, &[2, 3], &[3, 1]), &["-1"]);
    refused(&tensor(6, 0, &[-2, -3], &[3, 1]), &["negative"]);
    refused(&tensor(6, 0, &[2, 3], &[1]), &["strides"]);
    refused(&tensor(6, 0, &[1; 9], &[1; 9]), &["9 dimensions"]);
    let missing = state_dict(&[("t", "FloatStorage", "../0", 6, 0, &[6], &[1])]);
    refused(&with_storage(&missing), &["data/../0 is not in the archive"]);
    let twice = state_dict(&[
        ("t", "FloatStorage", "0", 6, 0, &[6], &[1]),
        ("t", "FloatStorage", "0", 6, 0, &[6], &[1]),
    ]);
    refused(&with_storage(&twice), &["\"t\"", "twice"]);
}

#[test]
fn hostile_pickles_are_refused() {
    let lie = Pickle::new().byte(b'X').bytes(&u32::MAX.to_le_bytes()).stop();
    refused(&with_storage(&lie), &["a text of 4294967295 bytes"]);
    // Deeply nested tuples would overflow the stack when they are dropped.
    let deep = (0..100_000).fold(Pickle::new().text("x"), |pickle, _| pickle.tuple1());
    refused(&with_storage(&deep.stop()), &["nested"]);
    // A tuple of itself, doubled each time, is 2^40 values if it is ever written out.
    let mut doubled = Pickle::new().text("x").byte(0x85);
    for index in 0..40 {
        doubled = doubled.bytes(&[b'q', index, b'h', index, 0x86]);
    }
    refused(&with_storage(&doubled.stop()), &["nested"]);
    for bytes in [&b""[..], b"\x80", b"\x80\x02", b"\x80\x04}.", b"\x80\x02.", b"\x80\x02t."] {
        refused(&archive(&[("f/data.pkl", bytes)]), &["data.pkl"]);
    }
    refused(&archive(&[("f/data.pkl", b"\x80\x02X\x01\x00\x00\x00xR.")]), &["too few values"]);
    refused(&archive(&[("f/data.pkl", b"\x80\x02}.}")]), &["bytes follow"]);
    refused(&archive(&[("f/data.pkl", b"\x80\x02}}.")]), &["one state dict"]);
    refused(&archive(&[("f/data.pkl", b"\x80\x02}(X\x01\x00\x00\x00au.")]), &["without a value"]);
    refused(&archive(&[("f/data.pkl", b"\x80\x02}K\x01K\x01s.")]), &["no text"]);
    refused(&archive(&[("f/data.pkl", b"\x80\x02}X\x01\x00\x00\x00aK\x01s.")]), &["no tensor"]);
    refused(&archive(&[("f/data.pkl", b"\x80\x02}K\x01b.")]), &["attributes"]);
}

#[test]
fn hostile_archives_are_refused() {
    let pickle = good();
    refused(b"", &["ZIP"]);
    refused(b"version https://git-lfs.github.com/spec/v1\n", &["git lfs pull"]);
    refused(b"\x80\x02}.", &["ZIP"]);
    refused(&archive(&[("data.pkl", &pickle.0)]), &["FOLDER/data.pkl"]);
    refused(&archive(&[("a/data.pkl", &pickle.0), ("b/data.pkl", &pickle.0)]), &["FOLDER"]);
    let big = [("f/data.pkl", &pickle.0[..]), ("f/data/0", &[0; 24]), ("f/byteorder", b"big")];
    refused(&archive(&big), &["byte order"]);
    let twice = [("f/data.pkl", &pickle.0[..]), ("f/data/0", &[0; 24]), ("f/data/0", &[1; 24])];
    refused(&archive(&twice), &["twice"]);
    let whole = with_storage(&pickle);
    for keep in 0..whole.len() {
        refused(&whole[..keep], &[]);
    }
    refused(&[&whole[..], b"x"].concat(), &[]);
    // An entry that claims to be compressed, or of another size than it has: a bomb.
    let claims = [stored("f/data.pkl", &pickle.0), stored("f/data/0", &[0; 24]).deflated()];
    refused(&torch_files::join(&claims), &["compressed"]);
    let claims = [stored("f/data.pkl", &pickle.0), stored("f/data/0", &[0; 24]).claiming(1 << 31)];
    refused(&torch_files::join(&claims), &["compressed"]);
    // Two names for the same bytes.
    let claims = [stored("f/data.pkl", &pickle.0), stored("f/data/0", &[0; 24]).at(0)];
    refused(&torch_files::join(&claims), &[]);
    let long = vec![b'N'; (8 << 20) + 1];
    refused(&archive(&[("f/data.pkl", &long)]), &["8388609 bytes"]);
}

#[test]
fn wrong_bytes_are_found_by_their_checksum() {
    let mut bytes = with_storage(&good());
    let write = |bytes: &[u8]| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        TorchFile::open(file.path()).map_err(|error| error.to_string())
    };
    write(&bytes).unwrap();
    let data = bytes.windows(24).position(|window| window == [0; 24]).unwrap();
    bytes[data + 7] = 1;
    let line = write(&bytes).unwrap_err();
    assert!(line.contains("checksum of \"data/0\" is wrong"), "{line}");
}
